/*
 * Load: submits turns over HTTP, follows each by SSE, and prints what it saw as one JSON object.
 *
 *   load --url URL --agent NAME --turns N --tokens T --every MS [--open N]
 *
 * The model is the simulator's `stamp`: each token is the wall-clock microsecond at which the
 * model sent it, so the time from model to subscriber is measured token by token. All turns are
 * submitted as fast as they are answered, at most `--open` at a time (default: all).
 */
#include "buf.h"
#include "clock.h"
#include "http.h"
#include "json.h"
#include "mem.h"
#include "sse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every sample is kept: percentiles of a benchmark are exact. */
struct samples {
    double *ms;
    size_t n, cap;
};

struct load {
    struct http *http;
    const char *url, *agent;
    long turns, tokens, every_ms, open_max;
    long submitted, ended, completed, failed, open;
    uint64_t started_us, ended_us;
    uint64_t tokens_seen;
    struct samples submit, first_event, first_token, token;
};

/* One turn, as its client sees it. */
struct client {
    struct load *load;
    struct http_call call;
    struct sse sse;
    char *events_url;
    uint64_t submitted_us;
    bool saw_event, saw_token, done;
};

static void load_more(struct load *l);

/* The first failures say what is wrong; a thousand more say nothing new. */
#define COMPLAINTS 5

static void samples_add(struct samples *s, double ms)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        s->ms = xrealloc(s->ms, s->cap * sizeof(*s->ms));
    }
    s->ms[s->n++] = ms;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static void samples_print(const char *name, struct samples *s)
{
    if (s->n)
        qsort(s->ms, s->n, sizeof(*s->ms), compare);
    printf(",\"%s\":{\"n\":%zu", name, s->n);
    if (s->n)
        printf(",\"p50\":%.2f,\"p90\":%.2f,\"p99\":%.2f,\"max\":%.2f", s->ms[s->n / 2],
               s->ms[s->n * 9 / 10], s->ms[s->n * 99 / 100], s->ms[s->n - 1]);
    printf("}");
    free(s->ms);
}

static void client_end(struct client *c, bool completed)
{
    struct load *l = c->load;

    l->ended++;
    l->open--;
    l->completed += completed;
    l->failed += !completed;
    l->ended_us = clock_mono_us();
    sse_release(&c->sse);
    http_call_release(&c->call);
    free(c->events_url);
    free(c);
    load_more(l);
}

static int on_event(void *owner, const char *event, const char *id, const char *data, size_t len)
{
    struct client *c = owner;
    struct load *l = c->load;
    uint64_t now_us = clock_mono_us();
    struct err err;

    (void)id;
    if (!c->saw_event)
        samples_add(&l->first_event, (double)(now_us - c->submitted_us) / 1000);
    c->saw_event = true;
    if (!strcmp(event, "content.delta")) {
        JSON_AUTO(root) = json_parse(data, len, &err);
        long long sent_us = strtoll(json_str_or(root, "text", "0"), NULL, 10);

        samples_add(&l->token, (double)(clock_wall_us() - sent_us) / 1000);
        if (!c->saw_token)
            samples_add(&l->first_token, (double)(now_us - c->submitted_us) / 1000);
        c->saw_token = true;
        l->tokens_seen++;
    } else if (!strcmp(event, "turn.ended")) {
        c->done = strstr(data, "\"completed\"") != NULL;
    }
    return 0;
}

static int on_bytes(void *owner, const char *bytes, size_t len)
{
    struct client *c = owner;
    struct err err;

    return sse_feed(&c->sse, bytes, len, &err);
}

static void on_stream_end(void *owner, const struct err *err)
{
    struct client *c = owner;

    if ((err->code != ERR_OK || !c->done) && c->load->failed < COMPLAINTS)
        fprintf(stderr, "a stream ended early: %s (status %ld)\n", err->msg, c->call.status);
    client_end(c, err->code == ERR_OK && c->done);
}

static void client_follow(struct client *c)
{
    struct http_request request = {
        .url = c->events_url, .max_reply_bytes = BUF_MAX, .on_data = on_bytes};

    sse_init(&c->sse, 1 << 24, on_event, c);
    http_start(c->load->http, &c->call, &request, on_stream_end, c);
}

static void on_submitted(void *owner, const struct err *err)
{
    struct client *c = owner;
    struct load *l = c->load;
    struct err parse_err;
    JSON_AUTO(root) = NULL;

    samples_add(&l->submit, (double)(clock_mono_us() - c->submitted_us) / 1000);
    if (err->code == ERR_OK && c->call.status == 202)
        root = json_parse(c->call.reply.data, c->call.reply.len, &parse_err);
    if (!root) {
        if (l->failed < COMPLAINTS)
            fprintf(stderr, "submit: %s, status %ld: %s\n", err->msg, c->call.status,
                    c->call.reply.data);
        client_end(c, false);
        return;
    }
    c->events_url = xasprintf("%s/v1/tasks/%s/events", l->url, json_str_or(root, "task_id", ""));
    http_call_release(&c->call);
    client_follow(c);
}

static void client_start(struct load *l)
{
    struct client *c = xcalloc(1, sizeof(*c));
    static const char *const headers[] = {"Content-Type: application/json", NULL};
    char *url = xasprintf("%s/v1/agents/%s/tasks", l->url, l->agent);
    /* kept until the call is over: http_start() borrows the body */
    static char body[160];
    struct http_request request = {
        .url = url, .headers = headers, .body = body, .max_reply_bytes = 65536};

    snprintf(body, sizeof(body), "{\"input\":\"stamp %ld tokens %ldms\"}", l->tokens, l->every_ms);
    request.body_len = strlen(body);
    c->load = l;
    c->submitted_us = clock_mono_us();
    l->submitted++;
    l->open++;
    http_start(l->http, &c->call, &request, on_submitted, c);
    free(url);
}

static void load_more(struct load *l)
{
    /* Not all at once: connections are opened as the earlier ones are answered. */
    while (l->submitted < l->turns && l->open < l->open_max &&
           l->submitted - (long)l->submit.n < 64)
        client_start(l);
}

static void on_kick(uv_timer_t *timer)
{
    struct load *l = timer->data;

    if (l->ended < l->turns) {
        load_more(l);
        return;
    }
    http_close(l->http);
    uv_close((uv_handle_t *)timer, NULL);
}

static void report(struct load *l)
{
    double seconds = (double)(l->ended_us - l->started_us) / 1e6;

    printf("{\"turns\":%ld,\"tokens_each\":%ld,\"every_ms\":%ld,\"open_max\":%ld", l->turns,
           l->tokens, l->every_ms, l->open_max);
    printf(",\"completed\":%ld,\"failed\":%ld,\"tokens_seen\":%llu,\"seconds\":%.3f", l->completed,
           l->failed, (unsigned long long)l->tokens_seen, seconds);
    printf(",\"turns_per_s\":%.1f,\"tokens_per_s\":%.1f", (double)l->completed / seconds,
           (double)l->tokens_seen / seconds);
    samples_print("submit_ms", &l->submit);
    samples_print("submit_to_first_event_ms", &l->first_event);
    samples_print("submit_to_first_token_ms", &l->first_token);
    samples_print("model_to_subscriber_ms", &l->token);
    printf("}\n");
}

static int parse_args(struct load *l, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];

        if (!strcmp(name, "--url"))
            l->url = value;
        else if (!strcmp(name, "--agent"))
            l->agent = value;
        else if (!strcmp(name, "--turns"))
            l->turns = strtol(value, NULL, 10);
        else if (!strcmp(name, "--tokens"))
            l->tokens = strtol(value, NULL, 10);
        else if (!strcmp(name, "--every"))
            l->every_ms = strtol(value, NULL, 10);
        else if (!strcmp(name, "--open"))
            l->open_max = strtol(value, NULL, 10);
        else
            return -1;
    }
    if (l->open_max <= 0)
        l->open_max = l->turns;
    return l->url && l->agent && l->turns > 0 && l->tokens >= 0 && argc % 2 == 1 ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct load load = {.tokens = 20, .every_ms = 50};
    uv_loop_t loop;
    uv_timer_t kick;

    if (parse_args(&load, argc, argv) < 0) {
        fprintf(stderr,
                "usage: load --url URL --agent NAME --turns N --tokens T --every MS [--open N]\n");
        return 2;
    }
    uv_loop_init(&loop);
    load.http = http_new(&loop);
    load.started_us = clock_mono_us();
    uv_timer_init(&loop, &kick);
    kick.data = &load;
    uv_timer_start(&kick, on_kick, 0, 2);
    uv_run(&loop, UV_RUN_DEFAULT);
    report(&load);
    return load.failed ? 1 : 0;
}
