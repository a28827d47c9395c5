/*
 * Streaming clients: each posts once and reads tokens to the end, either from the answer itself
 * or, with --events, from the stream of the task it has submitted, on the same connection. A token
 * is the wall-clock microsecond at which the model sent it (`stamp` of the simulator), found in the
 * bytes of whatever protocol carries it: a quote, 16 digits, a space, then a quote or the dots that
 * make it longer. What repeats a whole message at its end looks otherwise. So the age of every
 * token is known when it arrives, and every lost one is missed.
 *
 * `steady_per_s` counts from when every stream has begun to when the first one ends, so that
 * neither the ramp nor stragglers are in it; 0 when that never was.
 */
#include "load.h"
#include "samples.h"

#include "clock.h"
#include "mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STAMP_DIGITS 16
#define COMPLAINTS   3
#define BODY_MAX     4096

struct stream {
    struct conn conn;
    struct streams *all;
    struct request follow; /* with --events, once the id is known */
    uint64_t asked_us;
    long tokens;
    int digits;  /* read so far of what may be a stamp; counted from a quote on */
    char before; /* the last byte */
    int64_t value;
    bool over;
    size_t len;
    char body[BODY_MAX]; /* of the submit's answer */
};

struct streams {
    const struct options *o;
    struct request *requests;
    size_t n_requests;
    struct stream *each;
    long started, ended, incomplete, failed;
    uint64_t missing; /* tokens that streams which have ended lack */
    uint64_t started_us, first_us, last_us, tokens, bytes;
    uint64_t steady_from_us, steady_to_us, steady_tokens; /* all run: from, to, in between */
    struct samples age, first_token, submit;
};

static void token(struct stream *s, uint64_t now_us, int64_t now_wall_us)
{
    struct streams *all = s->all;

    samples_add(&all->age, (double)(now_wall_us - s->value) / 1000);
    if (!s->tokens++)
        samples_add(&all->first_token, (double)(now_us - s->asked_us) / 1000);
    if (!all->steady_from_us && all->first_token.n == (size_t)all->o->clients)
        all->steady_from_us = now_us;
    else if (all->steady_from_us && !all->steady_to_us)
        all->steady_tokens++;
    if (s->tokens == all->o->expect && !all->steady_to_us)
        all->steady_to_us = now_us;
    if (!all->tokens++)
        all->first_us = now_us;
    all->last_us = now_us;
}

static void scan(struct stream *s, const char *bytes, size_t len)
{
    uint64_t now_us = clock_mono_us();
    int64_t now_wall_us = clock_wall_us();

    for (size_t i = 0; i < len; i++) {
        char byte = bytes[i];

        if (byte >= '0' && byte <= '9' && (s->digits ? s->before != ' ' : s->before == '"')) {
            s->value = s->digits ? s->value * 10 + (byte - '0') : byte - '0';
            s->digits++;
        } else if (byte != ' ' || s->digits != STAMP_DIGITS || s->before == ' ') {
            if (s->digits == STAMP_DIGITS && s->before == ' ' && (byte == '"' || byte == '.'))
                token(s, now_us, now_wall_us);
            s->digits = 0;
        }
        s->before = byte;
    }
}

static bool is_submitting(const struct stream *s)
{
    return s->all->o->events && !s->follow.text;
}

static void on_body(void *owner, const char *bytes, size_t len)
{
    struct stream *s = owner;

    s->all->bytes += len;
    if (is_submitting(s) || s->conn.status / 100 != 2) {
        if (len > BODY_MAX - 1 - s->len)
            len = BODY_MAX - 1 - s->len;
        memcpy(s->body + s->len, bytes, len);
        s->len += len;
        s->body[s->len] = '\0';
    } else {
        scan(s, bytes, len);
    }
}

static void stream_end(struct stream *s, bool ok)
{
    struct streams *all = s->all;

    s->over = true;
    all->ended++;
    all->incomplete += ok && s->tokens != all->o->expect;
    all->missing += s->tokens < all->o->expect ? (uint64_t)(all->o->expect - s->tokens) : 0;
    all->failed += !ok;
    if ((!ok || s->tokens != all->o->expect) && all->failed + all->incomplete <= COMPLAINTS)
        fprintf(stderr, "load: a stream ended with %ld tokens, status %d: %s\n", s->tokens,
                s->conn.status, s->body);
    conn_close(&s->conn);
}

static void on_end(void *owner, bool ok)
{
    struct stream *s = owner;
    struct streams *all = s->all;
    const char *id = is_submitting(s) ? strstr(s->body, "\"task_id\":\"") : NULL;
    char path[256];

    if (!ok || s->conn.status / 100 != 2 || (is_submitting(s) && !id)) {
        stream_end(s, false);
    } else if (id) {
        samples_add(&all->submit, (double)(clock_mono_us() - s->asked_us) / 1000);
        snprintf(path, sizeof(path), "/v1/tasks/%.36s/events", id + 11);
        s->follow = request_make("GET", path, NULL, true);
        conn_ask(&s->conn, s->follow.text, s->follow.len);
    } else {
        stream_end(s, true);
    }
}

static const struct conn_callbacks callbacks = {.on_body = on_body, .on_end = on_end};

static int tick(void *owner)
{
    struct streams *all = owner;
    const struct options *o = all->o;
    double elapsed_us = (double)(clock_mono_us() - all->started_us);

    while (all->started < o->clients &&
           elapsed_us * (double)o->clients >= (double)all->started * (double)o->ramp_ms * 1000) {
        struct stream *s = &all->each[all->started];
        struct request *r = &all->requests[(size_t)all->started++ % all->n_requests];

        s->asked_us = clock_mono_us();
        conn_ask(&s->conn, r->text, r->len);
    }
    if (all->ended == o->clients || (o->seconds > 0 && elapsed_us > o->seconds * 1e6))
        return -1;
    return all->started < o->clients ? 1 : 100;
}

static void report(struct streams *all)
{
    double seconds = (double)(all->last_us - all->first_us) / 1e6;
    uint64_t expected = (uint64_t)all->o->clients * (uint64_t)all->o->expect;
    bool steady = all->steady_from_us && all->steady_to_us > all->steady_from_us;

    printf("{\"streams\":%ld,\"ended\":%ld,\"incomplete\":%ld,\"failed\":%ld", all->o->clients,
           all->ended, all->incomplete, all->failed);
    printf(",\"tokens\":%" PRIu64 ",\"expected\":%" PRIu64
           ",\"seconds\":%.3f,\"tokens_per_s\":%.1f",
           all->tokens, expected, seconds, seconds > 0 ? (double)all->tokens / seconds : 0);
    printf(",\"missing\":%" PRIu64 ",\"unfinished\":%ld", all->missing,
           all->o->clients - all->ended);
    printf(",\"bytes_per_token\":%.1f", all->tokens ? (double)all->bytes / (double)all->tokens : 0);
    printf(",\"steady_per_s\":%.1f,\"steady_s\":%.3f",
           steady ? (double)all->steady_tokens * 1e6 /
                        (double)(all->steady_to_us - all->steady_from_us)
                  : 0,
           steady ? (double)(all->steady_to_us - all->steady_from_us) / 1e6 : 0);
    samples_print("age_ms", &all->age);
    samples_print("first_token_ms", &all->first_token);
    samples_print("submit_ms", &all->submit);
    printf("}\n");
}

int load_streams(const struct options *o)
{
    struct streams all = {.o = o, .started_us = clock_mono_us()};
    struct net *net = net_new(o->port);

    all.requests = requests_make(o, &all.n_requests);
    all.each = xcalloc((size_t)o->clients, sizeof(*all.each));
    for (long i = 0; i < o->clients; i++) {
        all.each[i].all = &all;
        conn_init(&all.each[i].conn, net, &callbacks, &all.each[i]);
    }
    net_run(net, tick, &all);
    report(&all);
    return all.failed || all.incomplete || all.ended < o->clients;
}
