/* tail, wait, show, list, abort. */
#include "cmd_task.h"

#include "clock.h"
#include "commands.h"
#include "follow.h"
#include "json.h"
#include "mem.h"
#include "task.h"

#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define POLL_MS     30000 /* of one ?wait= */
#define POLL_MORE   15000 /* for the answer on top of it */
#define LIST_LIMIT  20
#define PAGE_LIMIT  200 /* what the server gives at once */
#define LIST_MAX    100000
#define QUERY_BYTES 4096

/* GET `path`; on CLI_OK its answer is in `client->call.reply`. `path` is freed. */
static int get(struct client *client, char *path)
{
    int rc = client_call(client, &(struct client_ask){.path = path});

    free(path);
    return rc;
}

static void print_reply(struct client *client)
{
    term_text(&client->term, client->call.reply.data, client->call.reply.len);
    term_break(&client->term);
}

static cJSON *parse_reply(struct client *client)
{
    struct err err = {0};
    cJSON *root = json_parse(client->call.reply.data, client->call.reply.len, &err);

    if (!root)
        term_say(&client->term, "nocturne: the answer of %s is not JSON: %s", client->base,
                 err.msg);
    return root;
}

/* ---- tail ---- */

int task_follow(struct client *client, const char *task_id, int64_t after)
{
    int exit = follow_turn(client, task_id, after);
    bool over = exit == CLI_FAILED || (exit >= CLI_INCOMPLETE && exit <= CLI_INTERRUPTED);

    if (client->json || !over || !client->reached)
        return exit;
    if (get(client, client_task_path(task_id, "")) != CLI_OK)
        return exit;
    JSON_AUTO(task) = parse_reply(client);
    if (task)
        task_print_end(&client->term, task);
    return exit;
}

int cmd_tail(const struct args *args)
{
    struct client client;
    int rc = client_open(&client, args);

    if (rc != CLI_OK)
        return rc;
    rc = task_follow(&client, args->words[0], args->after < 0 ? 0 : args->after);
    client_close(&client);
    return rc;
}

/* ---- wait ---- */

static int wait_once(struct client *client, const char *task_id, uint64_t ms)
{
    char tail[48], *path;
    struct client_ask ask = {.patient = true, .timeout_ms = ms + POLL_MORE};
    int rc;

    snprintf(tail, sizeof(tail), "?wait=%" PRIu64 "ms", ms);
    path = client_task_path(task_id, tail);
    ask.path = path;
    rc = client_call(client, &ask);
    free(path);
    return rc;
}

static int print_waited(struct client *client, const cJSON *task)
{
    if (client->json) {
        print_reply(client);
    } else {
        task_print_output(&client->term, json_get(task, "output"));
        task_print_end(&client->term, task);
    }
    return task_exit_of(task);
}

static int detach(struct client *client, const char *task_id)
{
    term_say(&client->term, "detached, the turn goes on; come back with:\n  nocturne wait %s",
             task_id);
    return CLI_DETACHED;
}

int task_wait(struct client *client, const char *task_id, uint64_t timeout_ms)
{
    uint64_t end_ms = clock_mono_ms() + timeout_ms, left_ms = POLL_MS;
    int rc;

    client_catch(client, NULL, NULL);
    for (;;) {
        if (timeout_ms) {
            uint64_t now_ms = clock_mono_ms();

            left_ms = end_ms > now_ms ? end_ms - now_ms : 0;
            left_ms = left_ms < POLL_MS ? left_ms : POLL_MS;
        }
        rc = wait_once(client, task_id, left_ms);
        if (rc == CLI_DETACHED)
            return detach(client, task_id);
        if (rc != CLI_OK)
            return rc;
        JSON_AUTO(task) = parse_reply(client);
        if (!task)
            return CLI_FAILED;
        if (task_exit_of(task) >= 0)
            return print_waited(client, task);
        if (timeout_ms && clock_mono_ms() >= end_ms) {
            if (client->json)
                print_reply(client);
            term_say(&client->term, "nocturne: not over in time: %s",
                     json_str_or(task, "status", ""));
            return CLI_TIMEOUT;
        }
    }
}

int cmd_wait(const struct args *args)
{
    struct client client;
    int rc = client_open(&client, args);

    if (rc != CLI_OK)
        return rc;
    rc = task_wait(&client, args->words[0], args->timeout_ms);
    client_close(&client);
    return rc;
}

/* ---- show ---- */

int cmd_show(const struct args *args)
{
    struct client client;
    int rc = client_open(&client, args);

    if (rc != CLI_OK)
        return rc;
    rc = get(&client, client_task_path(args->words[0], ""));
    if (rc == CLI_OK && args->json) {
        print_reply(&client);
    } else if (rc == CLI_OK) {
        JSON_AUTO(task) = parse_reply(&client);

        if (task)
            task_print_whole(&client.term, task);
        else
            rc = CLI_FAILED;
    }
    client_close(&client);
    return rc;
}

/* ---- list ---- */

static void put_filter(struct buf *path, const char *name, const char *value)
{
    if (!value)
        return;
    (void)buf_printf(path, "&%s=", name);
    (void)client_put_segment(path, value);
}

/* Print up to `max` tasks of one page, or collect them; how many, or -1 when it is no page. */
static int take_page(struct client *client, const cJSON *page, int64_t max, struct buf *json)
{
    const cJSON *tasks = json_get(page, "tasks"), *task;
    int n = 0;

    if (!cJSON_IsArray(tasks))
        return -1;
    cJSON_ArrayForEach (task, tasks) {
        if (n++ == max)
            break;
        if (client->json) {
            char *text = json_print(task);

            (void)json_put_raw(json, text, strlen(text));
            free(text);
        } else {
            task_print_line(&client->term, task);
        }
    }
    return n;
}

/* A page may be empty and followed by another: few tasks match, and it had looked at many. */
static int list_pages(struct client *client, struct buf *path, int64_t limit, struct buf *json)
{
    int64_t got = 0;
    bool first = true;
    int rc, n;

    while (got < limit) {
        if ((rc = get(client, xstrdup(path->data))) != CLI_OK)
            return rc;
        JSON_AUTO(page) = parse_reply(client);
        const char *next = json_str_or(page, "next", "");

        if (!client->json && first)
            task_print_line(&client->term, NULL);
        first = false;
        if (!page || (n = take_page(client, page, limit - got, json)) < 0)
            return CLI_FAILED;
        got += n;
        if (*next != '/' || !strcmp(next, path->data))
            break;
        buf_reset(path);
        if (buf_puts(path, next) < 0)
            return CLI_FAILED;
    }
    return CLI_OK;
}

int cmd_list(const struct args *args)
{
    int64_t limit = args->limit > 0 ? args->limit : LIST_LIMIT;
    BUF_AUTO(path, QUERY_BYTES);
    BUF_AUTO(json, BUF_MAX);
    struct client client;
    int rc = client_open(&client, args);

    if (rc != CLI_OK)
        return rc;
    limit = limit < LIST_MAX ? limit : LIST_MAX;
    (void)buf_printf(&path, "/v1/tasks?limit=%" PRId64, limit < PAGE_LIMIT ? limit : PAGE_LIMIT);
    put_filter(&path, "status", args->status);
    put_filter(&path, "agent", args->agent);
    put_filter(&path, "session_id", args->session);
    (void)json_open(&json, '{');
    (void)json_put_key(&json, "tasks");
    (void)json_open(&json, '[');
    rc = list_pages(&client, &path, limit, &json);
    (void)json_close(&json, ']');
    (void)json_close(&json, '}');
    if (args->json && rc == CLI_OK) {
        term_text(&client.term, json.data, json.len);
        term_break(&client.term);
    }
    client_close(&client);
    return rc;
}

/* ---- abort ---- */

static void print_aborted(struct client *client)
{
    JSON_AUTO(task) = parse_reply(client);
    const char *status = json_str_or(task, "status", "");

    if (client->json)
        print_reply(client);
    else if (!strcmp(status, "aborted") || !strcmp(status, "aborting"))
        term_say(&client->term, "%s", status);
    else
        term_say(&client->term, "was over already: %s", status);
}

int cmd_abort(const struct args *args)
{
    BUF_AUTO(body, BUF_MAX);
    struct client client;
    int rc = client_open(&client, args);
    char *path;

    if (rc != CLI_OK)
        return rc;
    (void)json_open(&body, '{');
    (void)json_put_member_str(&body, "reason", args->reason);
    (void)json_close(&body, '}');
    path = client_task_path(args->words[0], "/abort");
    rc = client_call(&client, &(struct client_ask){
                                  .method = "POST",
                                  .path = path,
                                  .body = body.data,
                                  .body_len = body.len,
                              });
    if (rc == CLI_OK)
        print_aborted(&client);
    free(path);
    client_close(&client);
    return rc;
}
