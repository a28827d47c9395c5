/*
 * The least an HTTP answer costs on libuv: reads, counts the ends of requests, writes one fixed
 * answer each. No parser, no routes. What GET /v1/tasks/{id} is compared with.
 *
 *   responder BYTES      of the answer's body; prints its port
 */
#include "mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <uv.h>

#define READ_BYTES 65536

struct client {
    uv_tcp_t tcp;
    int matched; /* bytes of "\r\n\r\n" seen */
};

static char *answer;
static size_t answer_len;
static char bytes[READ_BYTES];

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *ret)
{
    (void)handle, (void)size;
    *ret = uv_buf_init(bytes, sizeof(bytes));
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void on_written(uv_write_t *write, int status)
{
    (void)status;
    free(write);
}

static void reply(struct client *c)
{
    uv_buf_t buf = uv_buf_init(answer, (unsigned)answer_len);
    uv_write_t *write;

    if (uv_try_write((uv_stream_t *)&c->tcp, &buf, 1) == (int)answer_len)
        return;
    write = xcalloc(1, sizeof(*write)); /* the socket was full: never with one request at a time */
    uv_write(write, (uv_stream_t *)&c->tcp, &buf, 1, on_written);
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *buf)
{
    struct client *c = stream->data;

    if (n < 0) {
        uv_close((uv_handle_t *)stream, on_closed);
        return;
    }
    for (ssize_t i = 0; i < n; i++) {
        if (buf->base[i] == "\r\n\r\n"[c->matched])
            c->matched++;
        else
            c->matched = buf->base[i] == '\r';
        if (c->matched == 4) {
            c->matched = 0;
            reply(c);
        }
    }
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct client *c = xcalloc(1, sizeof(*c));

    uv_tcp_init(listener->loop, &c->tcp);
    c->tcp.data = c;
    if (status < 0 || uv_accept(listener, (uv_stream_t *)&c->tcp) < 0) {
        uv_close((uv_handle_t *)&c->tcp, on_closed);
        return;
    }
    uv_tcp_nodelay(&c->tcp, 1);
    uv_read_start((uv_stream_t *)&c->tcp, on_alloc, on_read);
}

int main(int argc, char **argv)
{
    long size = argc == 2 ? strtol(argv[1], NULL, 10) : -1;
    uv_loop_t loop;
    uv_tcp_t listener;
    struct sockaddr_in address;
    struct sockaddr_storage bound;
    int len = sizeof(bound);
    char *body;

    if (size < 0 || size > 1 << 20) {
        fprintf(stderr, "usage: responder BYTES\n");
        return 2;
    }
    body = xcalloc(1, (size_t)size + 1);
    memset(body, 'x', (size_t)size);
    answer = xasprintf("HTTP/1.1 200 OK\r\nContent-Type: application/json\r\n"
                       "Content-Length: %ld\r\n\r\n%s",
                       size, body);
    answer_len = strlen(answer);
    uv_loop_init(&loop);
    uv_tcp_init(&loop, &listener);
    uv_ip4_addr("127.0.0.1", 0, &address);
    if (uv_tcp_bind(&listener, (struct sockaddr *)&address, 0) < 0 ||
        uv_listen((uv_stream_t *)&listener, 511, on_connection) < 0)
        return 1;
    uv_tcp_getsockname(&listener, (struct sockaddr *)&bound, &len);
    printf("%d\n", ntohs(((struct sockaddr_in *)&bound)->sin_port));
    fflush(stdout);
    return uv_run(&loop, UV_RUN_DEFAULT);
}
