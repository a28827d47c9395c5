/*
 * Hammer: one request again and again over keep-alive connections, a closed loop each; prints
 * what it saw as one JSON object.
 *
 *   hammer --port P --conns N --requests M --path /v1/... [--body TEXT] [--paths FILE]
 *   hammer --serve P --size BYTES     the yardstick: a bare libuv responder with a fixed answer
 *
 * With --body it POSTs, else it GETs. `%d` in the body is the number of the request. With --paths
 * each request takes the next line of the file behind --path. Any status but 2xx counts as failed.
 */
#include "buf.h"
#include "clock.h"
#include "mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

struct hammer {
    uv_loop_t loop;
    int port, conns, serve, size;
    long requests, sent, answered, failed;
    const char *path, *body;
    char **paths;
    long npaths;
    double *ms;
    uint64_t started_us, ended_us;
};

/* One connection of either side. */
struct conn {
    struct hammer *hammer;
    uv_tcp_t tcp;
    uv_connect_t connect;
    uv_write_t write;
    struct buf in, out;
    uint64_t sent_us;
};

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *buf)
{
    static char space[65536];

    (void)handle;
    (void)size;
    *buf = uv_buf_init(space, sizeof(space));
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *c = handle->data;

    buf_release(&c->in);
    buf_release(&c->out);
    free(c);
}

static void conn_write(struct conn *c)
{
    uv_buf_t out = uv_buf_init(c->out.data, (unsigned)c->out.len);

    if (uv_write(&c->write, (uv_stream_t *)&c->tcp, &out, 1, NULL) < 0)
        abort();
}

static struct conn *conn_new(struct hammer *h)
{
    struct conn *c = xcalloc(1, sizeof(*c));

    c->hammer = h;
    buf_init(&c->in, BUF_MAX);
    buf_init(&c->out, BUF_MAX);
    uv_tcp_init(&h->loop, &c->tcp);
    uv_tcp_nodelay(&c->tcp, 1);
    c->tcp.data = c;
    return c;
}

/* ---- asking ---- */

static void conn_ask(struct conn *c)
{
    struct hammer *h = c->hammer;
    char body[4096];
    const char *more = h->npaths ? h->paths[h->sent % h->npaths] : "";

    if (h->sent == h->requests) {
        uv_close((uv_handle_t *)&c->tcp, on_closed);
        return;
    }
    buf_reset(&c->out);
    if (h->body) {
        const char *at = strstr(h->body, "%d");

        if (at)
            snprintf(body, sizeof(body), "%.*s%ld%s", (int)(at - h->body), h->body, h->sent,
                     at + 2);
        (void)buf_printf(&c->out,
                         "POST %s%s HTTP/1.1\r\nHost: x\r\nContent-Type: application/json\r\n"
                         "Content-Length: %zu\r\n\r\n%s",
                         h->path, more, strlen(at ? body : h->body), at ? body : h->body);
    } else {
        (void)buf_printf(&c->out, "GET %s%s HTTP/1.1\r\nHost: x\r\n\r\n", h->path, more);
    }
    h->sent++;
    c->sent_us = clock_mono_us();
    conn_write(c);
}

/* The length of the whole message in `in`, or 0 while it is not all there. */
static size_t message_len(const struct buf *in)
{
    const char *head_end = in->len ? strstr(in->data, "\r\n\r\n") : NULL;
    const char *length = head_end ? strcasestr(in->data, "\r\ncontent-length:") : NULL;
    size_t len;

    if (!head_end)
        return 0;
    len = (size_t)(head_end + 4 - in->data);
    if (length && length < head_end)
        len += strtoul(length + 17, NULL, 10);
    return in->len >= len ? len : 0;
}

static void on_answer(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = stream->data;
    struct hammer *h = c->hammer;

    if (n < 0) {
        fprintf(stderr, "hammer: connection lost: %s\n", uv_strerror((int)n));
        exit(1);
    }
    (void)buf_append(&c->in, buf->base, (size_t)n);
    if (message_len(&c->in) == 0)
        return;
    h->ms[h->answered++] = (double)(clock_mono_us() - c->sent_us) / 1000;
    if (strncmp(c->in.data + 9, "20", 2) != 0 && h->failed++ < 3)
        fprintf(stderr, "hammer: %s\n", c->in.data);
    h->ended_us = clock_mono_us();
    buf_reset(&c->in);
    conn_ask(c);
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct conn *c = connect->data;

    if (status < 0) {
        fprintf(stderr, "hammer: cannot connect: %s\n", uv_strerror(status));
        exit(1);
    }
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_answer);
    conn_ask(c);
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

static int ask(struct hammer *h)
{
    struct sockaddr_in at;
    double seconds;

    uv_ip4_addr("127.0.0.1", h->port, &at);
    h->ms = xcalloc((size_t)h->requests, sizeof(*h->ms));
    h->started_us = clock_mono_us();
    for (int i = 0; i < h->conns; i++) {
        struct conn *c = conn_new(h);

        c->connect.data = c;
        uv_tcp_connect(&c->connect, &c->tcp, (const struct sockaddr *)&at, on_connected);
    }
    uv_run(&h->loop, UV_RUN_DEFAULT);
    seconds = (double)(h->ended_us - h->started_us) / 1e6;
    qsort(h->ms, (size_t)h->answered, sizeof(*h->ms), compare);
    printf("{\"requests\":%ld,\"failed\":%ld,\"per_s\":%.1f,\"p50_ms\":%.3f,\"p99_ms\":%.3f}\n",
           h->answered, h->failed, (double)h->answered / seconds, h->ms[h->answered / 2],
           h->ms[h->answered * 99 / 100]);
    free(h->ms);
    return h->failed || h->answered < h->requests;
}

/* ---- the yardstick ---- */

static void on_request(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct conn *c = stream->data;

    if (n < 0) {
        uv_close((uv_handle_t *)&c->tcp, on_closed);
        return;
    }
    (void)buf_append(&c->in, buf->base, (size_t)n);
    if (message_len(&c->in) == 0)
        return;
    buf_reset(&c->in);
    conn_write(c);
}

static void on_peer(uv_stream_t *server, int status)
{
    struct hammer *h = server->data;
    struct conn *c = conn_new(h);

    if (status < 0 || uv_accept(server, (uv_stream_t *)&c->tcp) < 0)
        abort();
    (void)buf_printf(&c->out,
                     "HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: "
                     "%d\r\n\r\n%*s",
                     h->size, h->size, "x");
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_request);
}

static int serve(struct hammer *h)
{
    struct sockaddr_in at;
    uv_tcp_t server;

    uv_ip4_addr("127.0.0.1", h->serve, &at);
    uv_tcp_init(&h->loop, &server);
    server.data = h;
    if (uv_tcp_bind(&server, (const struct sockaddr *)&at, 0) < 0 ||
        uv_listen((uv_stream_t *)&server, 128, on_peer) < 0)
        return 1;
    return uv_run(&h->loop, UV_RUN_DEFAULT);
}

/* ---- start ---- */

static void read_paths(struct hammer *h, const char *file)
{
    FILE *f = fopen(file, "r");
    char line[512];

    if (!f)
        return;
    while (fgets(line, sizeof(line), f)) {
        h->paths = xrealloc(h->paths, (size_t)(h->npaths + 1) * sizeof(*h->paths));
        h->paths[h->npaths++] = xmemdup(line, strcspn(line, "\n"));
    }
    (void)fclose(f);
}

static int parse_args(struct hammer *h, int argc, char **argv)
{
    for (int i = 1; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];

        if (!strcmp(name, "--port"))
            h->port = (int)strtol(value, NULL, 10);
        else if (!strcmp(name, "--conns"))
            h->conns = (int)strtol(value, NULL, 10);
        else if (!strcmp(name, "--requests"))
            h->requests = strtol(value, NULL, 10);
        else if (!strcmp(name, "--path"))
            h->path = value;
        else if (!strcmp(name, "--paths"))
            read_paths(h, value);
        else if (!strcmp(name, "--body"))
            h->body = value;
        else if (!strcmp(name, "--serve"))
            h->serve = (int)strtol(value, NULL, 10);
        else if (!strcmp(name, "--size"))
            h->size = (int)strtol(value, NULL, 10);
        else
            return -1;
    }
    return argc % 2 == 1 && (h->serve > 0 || (h->port > 0 && h->requests > 0)) ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct hammer h = {.conns = 16, .path = "/", .size = 500};
    int rc;

    if (parse_args(&h, argc, argv) < 0) {
        fprintf(stderr, "usage: see the top of tests/bench/hammer.c\n");
        return 2;
    }
    uv_loop_init(&h.loop);
    rc = h.serve ? serve(&h) : ask(&h);
    for (long i = 0; i < h.npaths; i++)
        free(h.paths[i]);
    free(h.paths);
    return rc;
}
