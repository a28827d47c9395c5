#include "client.h"

#include "backoff.h"
#include "clock.h"
#include "fields.h"
#include "id.h"
#include "json.h"
#include "mem.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>

#define DEFAULT_URL     "http://127.0.0.1:8700"
#define DEFAULT_WAIT_MS 60000
#define RETRY_TRIES     3
#define RETRY_BASE_MS   200
#define RETRY_CAP_MS    5000
#define CONNECT_MS      5000

static void on_signal(uv_signal_t *handle, int signum)
{
    struct client *client = handle->data;

    (void)signum;
    client->interrupted = true;
    if (client->on_interrupt)
        client->on_interrupt(client->owner);
    else if (!client->answered)
        http_cancel(&client->call);
    uv_stop(&client->loop);
}

int client_open(struct client *client, const struct args *args)
{
    const char *url = args->url ? args->url : getenv("NOCTURNE_URL");
    size_t len;

    *client = (struct client){.json = args->json, .answered = true};
    term_init(&client->term);
    if (!url || !*url)
        url = DEFAULT_URL;
    if (!fields_is_url(url) || strchr(url, '?')) {
        term_say(&client->term, "nocturne: \"%s\" is not a URL such as %s", url, DEFAULT_URL);
        return CLI_USAGE;
    }
    client->base = xstrdup(url);
    for (len = strlen(client->base); client->base[len - 1] == '/'; len--)
        client->base[len - 1] = '\0';
    if (uv_loop_init(&client->loop) < 0)
        abort();
    uv_timer_init(&client->loop, &client->pause);
    uv_signal_init(&client->loop, &client->sigint);
    uv_signal_init(&client->loop, &client->sigterm);
    client->pause.data = client->sigint.data = client->sigterm.data = client;
    client->http = http_new(&client->loop);
    return CLI_OK;
}

void client_close(struct client *client)
{
    http_call_release(&client->call);
    http_close(client->http);
    uv_close((uv_handle_t *)&client->pause, NULL);
    uv_close((uv_handle_t *)&client->sigint, NULL);
    uv_close((uv_handle_t *)&client->sigterm, NULL);
    uv_run(&client->loop, UV_RUN_DEFAULT);
    (void)uv_loop_close(&client->loop); /* the process ends next */
    free(client->base);
}

void client_catch(struct client *client, void (*on_interrupt)(void *owner), void *owner)
{
    client->on_interrupt = on_interrupt;
    client->owner = owner;
    if (client->listening)
        return;
    client->listening = true;
    uv_signal_start(&client->sigint, on_signal, SIGINT);
    uv_signal_start(&client->sigterm, on_signal, SIGTERM);
}

int client_put_segment(struct buf *out, const char *text)
{
    int rc = 0;

    for (; *text && rc == 0; text++) {
        if (isalnum((unsigned char)*text) || strchr("-._~", *text))
            rc = buf_putc(out, *text);
        else
            rc = buf_printf(out, "%%%02X", (unsigned char)*text);
    }
    return rc;
}

char *client_task_path(const char *id, const char *tail)
{
    struct buf path = BUF_INIT(CLIENT_PATH_BYTES);

    if (buf_puts(&path, "/v1/tasks/") < 0 || client_put_segment(&path, id) < 0 ||
        buf_puts(&path, tail) < 0) {
        buf_release(&path);
        return xstrdup("/v1/tasks/-"); /* no id is that long: let the server say so */
    }
    return buf_detach(&path);
}

static void on_answer(void *owner, const struct err *err)
{
    struct client *client = owner;

    client->err = *err;
    client->answered = true;
    uv_stop(&client->loop);
}

static void on_pause(uv_timer_t *timer)
{
    uv_stop(timer->loop);
}

/* Wait before trying again; Ctrl-C cuts it short. */
static void pause_ms(struct client *client, uint64_t ms)
{
    uv_timer_start(&client->pause, on_pause, ms, 0);
    while (uv_is_active((uv_handle_t *)&client->pause) && !client->interrupted)
        uv_run(&client->loop, UV_RUN_ONCE);
    uv_timer_stop(&client->pause);
}

static void call_once(struct client *client, const struct client_ask *ask)
{
    char *url = xasprintf("%s%s", client->base, ask->path), *key = NULL;
    const char *headers[4] = {"Accept: application/json", NULL};
    int n = 1;

    if (ask->body)
        headers[n++] = "Content-Type: application/json";
    if (ask->idempotency_key)
        headers[n++] = key = xasprintf("Idempotency-Key: %s", ask->idempotency_key);
    http_call_release(&client->call);
    client->answered = false;
    http_start(
        client->http, &client->call,
        &(struct http_request){
            .method = ask->method,
            .url = url,
            .headers = headers,
            .body = ask->body,
            .body_len = ask->body_len,
            .max_reply_bytes = CLIENT_MAX_REPLY,
            .timeouts = {.connect_ms = CONNECT_MS,
                         .first_byte_ms = ask->timeout_ms ? ask->timeout_ms : DEFAULT_WAIT_MS,
                         .idle_ms = DEFAULT_WAIT_MS},
    },
        on_answer, client);
    while (!client->answered)
        uv_run(&client->loop, UV_RUN_DEFAULT);
    free(key);
    free(url);
}

static bool is_transient(const struct client *client)
{
    long status = client->call.status;

    if (client->err.code != ERR_OK)
        return client->err.code == ERR_UNAVAILABLE;
    return status == 502 || status == 503 || status == 504;
}

static void print_problem(struct client *client, const cJSON *problem, long status)
{
    const cJSON *errors = json_get(problem, "errors"), *e;
    const char *title = json_str_or(problem, "title", ""),
               *detail = json_str_or(problem, "detail", ""),
               *id = json_str_or(problem, "request_id", "");

    if (!*title && !*detail)
        title = "the server refused it";
    term_say(&client->term, "nocturne: %s%s%s (%ld%s%s%s%s)", *detail ? detail : title, "", "",
             status, *json_str_or(problem, "code", "") ? " " : "", json_str_or(problem, "code", ""),
             *id ? ", request " : "", id);
    cJSON_ArrayForEach (e, errors)
        term_say(&client->term, "  %s: %s", json_str_or(e, "pointer", ""),
                 json_str_or(e, "detail", ""));
}

static int exit_of(long status)
{
    switch (status) {
    case 400:
    case 413:
    case 415:
    case 422:
        return CLI_USAGE;
    case 404:
    case 410:
        return CLI_NOT_FOUND;
    case 408:
        return CLI_TIMEOUT;
    case 429:
    case 502:
    case 503:
    case 504:
        return CLI_UNREACHABLE;
    default:
        return CLI_FAILED;
    }
}

int client_explain(struct client *client, const struct http_call *call, const char *body,
                   size_t len, const struct err *err)
{
    struct err ignored;

    if (err->code == ERR_TIMEOUT) {
        term_say(&client->term, "nocturne: %s: %s", client->base, err->msg);
        return CLI_TIMEOUT;
    }
    if (err->code != ERR_OK) {
        term_say(&client->term, "nocturne: no answer from %s: %s", client->base, err->msg);
        return CLI_UNREACHABLE;
    }
    JSON_AUTO(problem) = json_parse(body, len, &ignored);
    print_problem(client, problem, call->status);
    if (client->json && problem) {
        term_text(&client->term, body, len);
        term_break(&client->term);
    }
    return exit_of(call->status);
}

int client_call(struct client *client, const struct client_ask *ask)
{
    bool told = false;

    for (unsigned attempt = 1;; attempt++) {
        call_once(client, ask);
        if (client->interrupted)
            return CLI_DETACHED;
        if (!is_transient(client))
            break;
        if (ask->once || (attempt >= RETRY_TRIES && !(ask->patient && client->reached)))
            break;
        if (attempt >= RETRY_TRIES && !told) {
            term_note(&client->term, "%s does not answer, trying on", client->base);
            told = true;
        }
        pause_ms(client, backoff_ms(attempt, RETRY_BASE_MS, RETRY_CAP_MS, id_random32()));
        if (client->interrupted)
            return CLI_DETACHED;
    }
    if (client->err.code == ERR_OK && client->call.status / 100 == 2) {
        client->reached = true;
        return CLI_OK;
    }
    return client_explain(client, &client->call, client->call.reply.data, client->call.reply.len,
                          &client->err);
}
