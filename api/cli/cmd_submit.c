/* submit, resume and retry: make the body of a request for a turn, send it, stay with the turn
 * if asked. */
#include "clock.h"
#include "cmd_task.h"
#include "commands.h"
#include "id.h"
#include "json.h"
#include "mem.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

#define TEXT_MAX_BYTES ((size_t)64 << 20) /* the server has its own, lower limit */
#define READ_BYTES     65536

static int usage(const char *command, const char *why)
{
    fprintf(stderr, "nocturne %s: %s (see nocturne %s --help)\n", command, why, command);
    return -1;
}

/* All of stdin. 0, or -1 when it cannot be read or is too large. */
static int read_stdin(struct buf *text)
{
    char bytes[READ_BYTES];
    size_t n;

    while ((n = fread(bytes, 1, sizeof(bytes), stdin)) > 0)
        if (buf_append(text, bytes, n) < 0)
            return -1;
    return ferror(stdin) ? -1 : 0;
}

/* `text` as a JSON value; told when it is none. */
static int put_json(struct buf *body, const char *command, const char *key, const char *text)
{
    struct err err = {0};
    JSON_AUTO(value) = json_parse(text, strlen(text), &err);

    if (!value) {
        char *why = xasprintf("%s is not JSON: %s", key, err.msg);

        usage(command, why);
        free(why);
        return -1;
    }
    return json_put_raw(body, text, strlen(text));
}

/* An RFC 3339 time as it is, or a duration from now. */
static int put_time(struct buf *body, const char *key, const char *option, const char *text)
{
    char stamp[CLOCK_STAMP_BYTES], why[160];
    int64_t at_us;
    uint64_t ms;

    if (!text)
        return 0;
    if (clock_parse_stamp(text, &at_us) == 0)
        return json_put_member_str(body, key, text);
    if (clock_parse_duration(text, &ms) == 0)
        return json_put_member_str(body, key,
                                   clock_stamp(clock_wall_us() + (int64_t)ms * 1000, stamp));
    snprintf(
        why, sizeof(why),
        "%s: \"%.60s\" is neither a time such as 2026-01-02T03:04:05Z nor a duration such as 10m",
        option, text);
    return usage("submit", why);
}

static int put_input(struct buf *body, const struct args *args)
{
    BUF_AUTO(text, TEXT_MAX_BYTES);
    const char *word = args->n_words > 1 ? args->words[1] : NULL;

    if (args->input && word)
        return usage("submit", "give the input as TEXT or with --input, not both");
    (void)json_put_key(body, "input");
    if (args->input)
        return put_json(body, "submit", "--input", args->input);
    if (!word)
        return usage("submit",
                     "give the input as TEXT, - for standard input, or with --input JSON");
    if (strcmp(word, "-") != 0)
        (void)buf_puts(&text, word);
    else if (read_stdin(&text) < 0)
        return usage("submit", "standard input cannot be read or is larger than 64 MiB");
    if (!utf8_is_valid(text.data, text.len))
        return usage("submit", "the text is not UTF-8");
    return json_put_strn(body, text.data, text.len);
}

/* A turn that a program of a turn starts is its child. */
static const char *parent_of(const struct args *args)
{
    const char *parent = args->parent ? args->parent : getenv("NOCTURNE_TASK_ID");

    return parent && *parent && strcmp(parent, "none") != 0 ? parent : NULL;
}

static int make_submit(struct buf *body, const struct args *args)
{
    (void)json_open(body, '{');
    if (put_input(body, args) < 0)
        return -1;
    (void)json_put_member_str(body, "session_id", args->session);
    (void)json_put_member_str(body, "snapshot_id", args->snapshot);
    (void)json_put_member_str(body, "parent", parent_of(args));
    if (put_time(body, "run_at", "--run-at", args->run_at) < 0 ||
        put_time(body, "deadline", "--deadline", args->deadline) < 0)
        return -1;
    if (args->priority >= 0)
        (void)json_put_member_int(body, "priority", args->priority);
    if (args->max_attempts >= 0)
        (void)json_put_member_int(body, "max_attempts", args->max_attempts);
    if (args->metadata) {
        (void)json_put_key(body, "metadata");
        if (put_json(body, "submit", "--metadata", args->metadata) < 0)
            return -1;
    }
    return json_close(body, '}');
}

/* "TOOL=JSON" or "TOOL/CALL_ID=JSON" as {"name","call_id"?,"output"}; without `has_output` the part
 * before the '='. */
static int put_answer(struct buf *body, const char *item, bool has_output)
{
    const char *equals = has_output ? strchr(item, '=') : item + strlen(item);
    const char *slash = equals ? memchr(item, '/', (size_t)(equals - item)) : NULL;
    const char *name_end = slash ? slash : equals;

    if (!equals || name_end == item)
        return usage("resume", has_output ? "--respond needs TOOL=JSON" : "--restart needs TOOL");
    (void)json_open(body, '{');
    (void)json_put_key(body, "name");
    (void)json_put_strn(body, item, (size_t)(name_end - item));
    if (slash) {
        (void)json_put_key(body, "call_id");
        (void)json_put_strn(body, slash + 1, (size_t)(equals - slash - 1));
    }
    if (has_output) {
        (void)json_put_key(body, "output");
        if (put_json(body, "resume", "the answer in --respond", equals + 1) < 0)
            return -1;
    }
    return json_close(body, '}');
}

static int put_answers(struct buf *body, const char *key, const struct args_list *list,
                       bool has_output)
{
    if (list->n == 0)
        return 0;
    (void)json_put_key(body, key);
    (void)json_open(body, '[');
    for (int i = 0; i < list->n; i++)
        if (put_answer(body, list->items[i], has_output) < 0)
            return -1;
    return json_close(body, ']');
}

static int make_resume(struct buf *body, const struct args *args)
{
    if (args->respond.n + args->restart.n == 0)
        return usage("resume", "give the answers with --respond TOOL=JSON or --restart TOOL");
    (void)json_open(body, '{');
    if (put_answers(body, "respond", &args->respond, true) < 0 ||
        put_answers(body, "restart", &args->restart, false) < 0)
        return -1;
    return json_close(body, '}');
}

/* The turn is accepted: say so, and stay with it if asked. */
static int stay(struct client *client, const struct args *args)
{
    struct err err = {0};
    JSON_AUTO(task) = json_parse(client->call.reply.data, client->call.reply.len, &err);
    const char *id = json_str_or(task, "task_id", "");
    char *task_id;
    int rc = CLI_OK;

    if (!*id) {
        term_say(&client->term, "nocturne: the server's answer has no task_id");
        return CLI_FAILED;
    }
    task_id = xstrdup(id);
    if (args->json && !args->wait) {
        term_text(&client->term, client->call.reply.data, client->call.reply.len);
        term_break(&client->term);
    } else if (args->follow || args->wait) {
        term_note(&client->term, "task %s", task_id);
    } else {
        term_puts(&client->term, task_id);
        term_break(&client->term);
        if (client->term.out_tty)
            term_note(&client->term, "watch it with: nocturne tail %s", task_id);
    }
    if (args->follow)
        rc = task_follow(client, task_id, 0);
    else if (args->wait)
        rc = task_wait(client, task_id, args->timeout_ms);
    free(task_id);
    return rc;
}

/*
 * A key of our own makes it safe to send the request again when the connection dies before the
 * answer is here.
 */
static int post(const struct args *args, const char *path, const struct buf *body)
{
    struct client client;
    char key[ID_BYTES];
    int rc = client_open(&client, args);

    if (rc != CLI_OK)
        return rc;
    id_uuid7(key);
    rc = client_call(&client,
                     &(struct client_ask){
                         .method = "POST",
                         .path = path,
                         .body = body->data,
                         .body_len = body->len,
                         .idempotency_key = args->idempotency_key ? args->idempotency_key : key,
                     });
    if (rc == CLI_OK)
        rc = stay(&client, args);
    client_close(&client);
    return rc;
}

static bool is_torn(const struct args *args, const char *command)
{
    if (args->follow && args->wait)
        usage(command, "--follow or --wait, not both");
    return args->follow && args->wait;
}

int cmd_submit(const struct args *args)
{
    BUF_AUTO(body, BUF_MAX);
    BUF_AUTO(path, CLIENT_PATH_BYTES);

    if (is_torn(args, "submit") || make_submit(&body, args) < 0)
        return CLI_USAGE;
    if (buf_puts(&path, "/v1/agents/") < 0 || client_put_segment(&path, args->words[0]) < 0 ||
        buf_puts(&path, "/tasks") < 0) {
        usage("submit", "no agent has a name that long");
        return CLI_USAGE;
    }
    return post(args, path.data, &body);
}

int cmd_resume(const struct args *args)
{
    BUF_AUTO(body, BUF_MAX);
    char *path;
    int rc;

    if (is_torn(args, "resume") || make_resume(&body, args) < 0)
        return CLI_USAGE;
    path = client_task_path(args->words[0], "/resume");
    rc = post(args, path, &body);
    free(path);
    return rc;
}

int cmd_retry(const struct args *args)
{
    BUF_AUTO(body, BUF_MAX);
    char *path;
    int rc;

    if (is_torn(args, "retry"))
        return CLI_USAGE;
    (void)buf_puts(&body, args->fresh ? "{\"fresh\":true}" : "{}");
    path = client_task_path(args->words[0], "/retry");
    rc = post(args, path, &body);
    free(path);
    return rc;
}
