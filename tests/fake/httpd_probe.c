/*
 * The probe of the HTTP conformance suite: httpd_probe [HOST] PORT
 *
 * Offers the routes of shared/conformance/http/README.md over lib/httpd with the limits that the
 * checks assume, so that traps.py and fuzz.py meet the server itself and no application; and some
 * more for the functions of httpd.h that those do not reach.
 */
#include "buf.h"
#include "clock.h"
#include "httpd.h"
#include "list.h"
#include "mem.h"

#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define MAX_FRAME_BYTES 1000000

/* A request that is answered later, in one of the lists below. */
struct waiter {
    struct list node;
    struct httpd_req *req;
    uv_timer_t timer; /* of /late and /ws-late */
    long blocks;      /* of /big: still to be written */
};

static struct list parked = {&parked, &parked};
static struct list streams = {&streams, &streams};
static struct httpd *httpd;
static uv_timer_t ticker;
static uv_signal_t sigterm;
static uint64_t hz, frame_bytes, next_us;
static char frame[MAX_FRAME_BYTES];
static struct {
    uint64_t wait, sse, ws, frames, wgone, sgone, wsgone, sdrop;
} counts;

static void reply_text(struct httpd_req *req, int status, const char *text)
{
    httpd_reply(req, status, "application/json", text, strlen(text));
}

static struct waiter *waiter_new(struct httpd_req *req)
{
    struct waiter *waiter = xcalloc(1, sizeof(*waiter));

    list_init(&waiter->node);
    waiter->req = req;
    req->ud = waiter;
    return waiter;
}

/* `text` without its '\0'. */
static void put(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
}

static void on_json(struct httpd_req *req)
{
    char body[200];

    memset(body, 'x', sizeof(body));
    put(body, "{\"pad\":\"");
    put(body + sizeof(body) - 2, "\"}");
    httpd_reply(req, 200, "application/json", body, sizeof(body));
}

static void on_echo(struct httpd_req *req)
{
    httpd_reply(req, 200, "application/json", req->body, req->body_len);
}

static void on_parked_gone(struct httpd_req *req)
{
    struct waiter *waiter = req->ud;

    counts.wait--;
    counts.wgone++;
    list_remove(&waiter->node);
    free(waiter);
}

static void on_wait(struct httpd_req *req)
{
    list_append(&parked, &waiter_new(req)->node);
    counts.wait++;
    httpd_watch(req, on_parked_gone, NULL);
}

static void on_wake(struct httpd_req *req)
{
    char text[64];
    int woken = 0;

    while (!list_is_empty(&parked)) {
        struct waiter *waiter = container_of(parked.next, struct waiter, node);

        list_remove(&waiter->node);
        counts.wait--;
        woken++;
        reply_text(waiter->req, 200, "{\"woken\":true}");
        free(waiter);
    }
    snprintf(text, sizeof(text), "{\"woken\":%d}", woken);
    reply_text(req, 200, text);
}

static void on_late_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_late_over(uv_timer_t *timer)
{
    struct waiter *waiter = timer->data;

    reply_text(waiter->req, 200, "{\"late\":true}");
    uv_close((uv_handle_t *)timer, on_late_closed);
}

static void on_late_gone(struct httpd_req *req)
{
    struct waiter *waiter = req->ud;

    counts.wgone++;
    uv_close((uv_handle_t *)&waiter->timer, on_late_closed);
}

static void on_late_nowatch(struct httpd_req *req)
{
    struct waiter *waiter = waiter_new(req);

    uv_timer_init(ticker.loop, &waiter->timer);
    waiter->timer.data = waiter;
    uv_timer_start(&waiter->timer, on_late_over, strtoull(req->query, NULL, 10), 0);
}

static void on_late(struct httpd_req *req)
{
    on_late_nowatch(req);
    httpd_watch(req, on_late_gone, NULL);
}

static void on_stream_gone(struct httpd_req *req)
{
    struct waiter *waiter = req->ud;

    counts.sse--;
    counts.sgone++;
    list_remove(&waiter->node);
    free(waiter);
}

static void on_sse(struct httpd_req *req)
{
    list_append(&streams, &waiter_new(req)->node);
    counts.sse++;
    (void)httpd_set(req, "Cache-Control", "no-store");
    httpd_stream(req, 200, "text/event-stream");
    httpd_watch(req, on_stream_gone, NULL);
}

static void send_frame(void)
{
    list_foreach (node, &streams) {
        struct waiter *waiter = container_of(node, struct waiter, node);

        if (httpd_write(waiter->req, frame, frame_bytes) < 0)
            counts.sdrop++;
        else
            counts.frames++;
    }
}

/* Against an absolute time: a repeating timer would drift by the time that sending takes. */
static void on_ticker(uv_timer_t *timer)
{
    uint64_t now_us = clock_mono_us();

    if (hz == 0)
        return;
    while (next_us <= now_us) {
        send_frame();
        next_us += 1000000 / hz;
    }
    uv_timer_start(timer, on_ticker, (next_us - now_us) / 1000 + 1, 0);
}

static void on_hz(struct httpd_req *req)
{
    const char *comma = strchr(req->query, ',');

    hz = strtoull(req->query, NULL, 10);
    frame_bytes = comma ? strtoull(comma + 1, NULL, 10) : 60;
    if (hz > 10000 || frame_bytes < 10 || frame_bytes > MAX_FRAME_BYTES) {
        hz = 0;
        reply_text(req, 400, "{}");
        return;
    }
    memset(frame, 'x', frame_bytes);
    put(frame, "data: ");
    put(frame + frame_bytes - 2, "\n\n");
    next_us = clock_mono_us();
    uv_timer_start(&ticker, on_ticker, 0, 0);
    reply_text(req, 200, "{}");
}

static void on_ws_text(struct httpd_ws *ws, const char *text, size_t len)
{
    (void)httpd_ws_send(ws, text, len);
}

static void on_ws_close(struct httpd_ws *ws)
{
    (void)ws;
    counts.ws--;
    counts.wsgone++;
}

static void on_ws(struct httpd_req *req)
{
    static const struct httpd_ws_cbs cbs = {.on_text = on_ws_text, .on_close = on_ws_close};

    if (httpd_upgrade(req, &cbs, NULL))
        counts.ws++;
}

/* Upgrades after a moment, as behind a look-up of who is asking. */
static void on_ws_late_over(uv_timer_t *timer)
{
    struct waiter *waiter = timer->data;

    on_ws(waiter->req);
    uv_close((uv_handle_t *)timer, on_late_closed);
}

static void on_ws_late(struct httpd_req *req)
{
    struct waiter *waiter = waiter_new(req);

    uv_timer_init(ticker.loop, &waiter->timer);
    waiter->timer.data = waiter;
    uv_timer_start(&waiter->timer, on_ws_late_over, 50, 0);
}

static void on_chunks(struct httpd_req *req)
{
    httpd_stream(req, 200, "text/plain");
    for (int i = 0; i < 3; i++)
        (void)httpd_write(req, "abc", 3);
    httpd_end(req);
}

static void on_cut(struct httpd_req *req)
{
    httpd_stream(req, 200, "text/plain");
    (void)httpd_write(req, "abc", 3);
    httpd_abort(req);
}

/* Megabytes at the pace of the reader: the next block is written when the last has been taken. */
static void on_big_writable(struct httpd_req *req)
{
    struct waiter *waiter = req->ud;

    while (waiter->blocks-- > 0) {
        long queued = httpd_write(req, frame, sizeof(frame));

        if (queued != 0)
            return; /* gone() or writable() follows */
    }
    free(waiter);
    httpd_end(req);
}

static void on_big_gone(struct httpd_req *req)
{
    counts.sgone++;
    free(req->ud);
}

static void on_big(struct httpd_req *req)
{
    struct waiter *waiter = waiter_new(req);

    waiter->blocks = strtol(req->query, NULL, 10);
    httpd_stream(req, 200, "application/octet-stream");
    httpd_watch(req, on_big_gone, on_big_writable);
    on_big_writable(req);
}

static size_t on_error_body(int status, const char *reason, char *ret_body, size_t size,
                            const char **ret_type)
{
    *ret_type = "application/problem+json";
    return (size_t)snprintf(ret_body, size, "{\"status\":%d,\"detail\":\"%s\"}", status, reason);
}

static void on_stats(struct httpd_req *req)
{
    struct httpd_counters c;
    struct rusage usage;
    BUF_AUTO(body, 4096);
    size_t rss = 0;

    if (strcmp(req->query, "trim") == 0)
        malloc_trim(0);
    uv_resident_set_memory(&rss);
    getrusage(RUSAGE_SELF, &usage);
    httpd_count(httpd, &c);
    buf_printf(&body,
               "{\"wait\":%lu,\"sse\":%lu,\"ws\":%lu,\"frames\":%lu,\"wgone\":%lu,\"sgone\":%lu,"
               "\"wsgone\":%lu,\"sdrop\":%lu,",
               counts.wait, counts.sse, counts.ws, counts.frames, counts.wgone, counts.sgone,
               counts.wsgone, counts.sdrop);
    buf_printf(&body,
               "\"conns\":%lu,\"accepted\":%lu,\"requests\":%lu,\"gone\":%lu,\"slow\":%lu,"
               "\"bad\":%lu,\"rss_kb\":%zu,\"cpu_us\":%ld,\"sys_us\":%ld}",
               c.conns, c.accepted, c.requests, c.gone, c.slow, c.refused, rss / 1024,
               usage.ru_utime.tv_sec * 1000000 + usage.ru_utime.tv_usec,
               usage.ru_stime.tv_sec * 1000000 + usage.ru_stime.tv_usec);
    httpd_reply(req, 200, "application/json", body.data, body.len);
}

static void on_drained(void *owner)
{
    (void)owner;
    uv_close((uv_handle_t *)&ticker, NULL);
    uv_close((uv_handle_t *)&sigterm, NULL);
}

static void on_drain(struct httpd_req *req)
{
    reply_text(req, 200, "{}");
    if (!uv_is_active((uv_handle_t *)&sigterm))
        return; /* asked before */
    uv_signal_stop(&sigterm);
    httpd_drain(httpd, 2000, NULL, on_drained, NULL);
}

static const struct {
    const char *method; /* NULL: any */
    const char *path;
    void (*handler)(struct httpd_req *req);
} routes[] = {
    {"GET",  "/json",         on_json        },
    {"HEAD", "/json",         on_json        },
    {"POST", "/echo",         on_echo        },
    {"GET",  "/wait",         on_wait        },
    {NULL,   "/wake",         on_wake        },
    {"GET",  "/late",         on_late        },
    {"GET",  "/late-nowatch", on_late_nowatch},
    {"GET",  "/sse",          on_sse         },
    {NULL,   "/hz",           on_hz          },
    {"GET",  "/ws",           on_ws          },
    {"GET",  "/stats",        on_stats       },
    {NULL,   "/drain",        on_drain       },
 /* For tests/wire/test_httpd.py: */
    {"GET",  "/ws-late",      on_ws_late     },
    {NULL,   "/chunks",       on_chunks      },
    {"GET",  "/cut",          on_cut         },
    {"GET",  "/big",          on_big         },
};

static void on_request(struct httpd_req *req, void *owner)
{
    (void)owner;
    for (size_t i = 0; i < sizeof(routes) / sizeof(routes[0]); i++) {
        if (strcmp(req->path, routes[i].path) == 0 &&
            (!routes[i].method || strcmp(req->method, routes[i].method) == 0)) {
            routes[i].handler(req);
            return;
        }
    }
    reply_text(req, 404, "{\"error\":\"not found\"}");
}

/* The suite ends the probe with SIGTERM: leave nothing behind, so that leaks are seen. */
static void on_sigterm(uv_signal_t *handle, int signum)
{
    (void)signum;
    uv_signal_stop(handle);
    hz = 0;
    httpd_drain(httpd, 0, NULL, on_drained, NULL);
}

int main(int argc, char **argv)
{
    struct httpd_conf conf = {
        .host = argc > 2 ? argv[1] : "127.0.0.1",
        .port = argc > 1 ? (int)strtol(argv[argc - 1], NULL, 10) : 0,
        .max_head_bytes = 16 << 10,
        .max_body_bytes = 1 << 20,
        .max_out_bytes = 256 << 10,
        .max_conns = 12000,
        .head_ms = 5000,
        .body_ms = 10000,
        .idle_ms = 60000,
        .on_request = on_request,
        .error_body = on_error_body,
    };
    struct rlimit files;
    struct err err = {0};
    uv_loop_t loop;

    signal(SIGPIPE, SIG_IGN);
    if (getrlimit(RLIMIT_NOFILE, &files) == 0 && !getenv("KEEP_LIMITS")) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    uv_loop_init(&loop);
    httpd = httpd_open(&loop, &conf, &err);
    if (!httpd) {
        fprintf(stderr, "httpd_probe: %s\n", err.msg);
        return 1;
    }
    uv_timer_init(&loop, &ticker);
    uv_signal_init(&loop, &sigterm);
    uv_signal_start(&sigterm, on_sigterm, SIGTERM);
    uv_run(&loop, UV_RUN_DEFAULT);
    return uv_loop_close(&loop) == 0 ? 0 : 2;
}
