#include "net.h"

#include "mem.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/epoll.h>
#include <sys/socket.h>
#include <unistd.h>

#define HEAD_MAX   (64 << 10)
#define READ_BYTES (256 << 10)
#define EVENTS     512

struct net {
    int epoll;
    struct sockaddr_in address;
    char bytes[READ_BYTES];
};

struct net *net_new(int port)
{
    struct net *net = xcalloc(1, sizeof(*net));

    net->epoll = epoll_create1(EPOLL_CLOEXEC);
    net->address.sin_family = AF_INET;
    net->address.sin_port = htons((uint16_t)port);
    net->address.sin_addr.s_addr = htonl(INADDR_LOOPBACK);
    return net;
}

void net_free(struct net *net)
{
    close(net->epoll);
    free(net);
}

void conn_init(struct conn *c, struct net *net, const struct conn_callbacks *cbs, void *owner)
{
    *c = (struct conn){.net = net, .cbs = cbs, .owner = owner, .fd = -1};
    buf_init(&c->head, HEAD_MAX);
}

void conn_close(struct conn *c)
{
    if (c->fd >= 0)
        close(c->fd);
    c->fd = -1;
    c->part = CONN_IDLE;
    buf_release(&c->head);
}

static void conn_end(struct conn *c, bool ok)
{
    if (!ok)
        conn_close(c);
    c->part = CONN_IDLE;
    c->cbs->on_end(c->owner, ok);
}

static void conn_watch(struct conn *c, int op, uint32_t events)
{
    struct epoll_event event = {.events = events, .data.ptr = c};

    if (epoll_ctl(c->net->epoll, op, c->fd, &event) < 0)
        perror("epoll_ctl");
}

static void conn_write(struct conn *c)
{
    ssize_t n = send(c->fd, c->out, c->out_len, MSG_NOSIGNAL);

    if (n < 0 && errno != EAGAIN && errno != EINTR) {
        conn_end(c, false);
        return;
    }
    if (n > 0) {
        c->out += n;
        c->out_len -= (size_t)n;
    }
    conn_watch(c, EPOLL_CTL_MOD, c->out_len ? EPOLLIN | EPOLLOUT : EPOLLIN);
}

void conn_ask(struct conn *c, const char *request, size_t len)
{
    int on = 1;
    ssize_t n;

    c->out = request;
    c->out_len = len;
    buf_reset(&c->head);
    if (c->fd < 0) {
        c->fd = socket(AF_INET, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
        if (c->fd < 0) {
            perror("socket");
            exit(1);
        }
        (void)setsockopt(c->fd, IPPROTO_TCP, TCP_NODELAY, &on, sizeof(on));
        (void)connect(c->fd, (struct sockaddr *)&c->net->address, sizeof(c->net->address));
        c->part = CONN_CONNECTING;
        conn_watch(c, EPOLL_CTL_ADD, EPOLLIN | EPOLLOUT);
        return;
    }
    c->part = CONN_HEAD;
    n = send(c->fd, request, len, MSG_NOSIGNAL);
    if (n == (ssize_t)len)
        return;
    /* the rest, or the error, when the socket says so */
    c->out += n > 0 ? n : 0;
    c->out_len -= n > 0 ? (size_t)n : 0;
    conn_watch(c, EPOLL_CTL_MOD, EPOLLIN | EPOLLOUT);
}

/* ---- the answer ---- */

static const char *header(const char *head, const char *name)
{
    size_t len = strlen(name);

    for (const char *line = strchr(head, '\n'); line; line = strchr(line + 1, '\n'))
        if (!strncasecmp(line + 1, name, len) && line[1 + len] == ':')
            return line + 2 + len + strspn(line + 2 + len, " ");
    return NULL;
}

static void head_done(struct conn *c)
{
    const char *coding = header(c->head.data, "transfer-encoding");
    const char *length = header(c->head.data, "content-length");

    c->status = (int)strtol(c->head.data + strcspn(c->head.data, " "), NULL, 10);
    if (coding && !strncasecmp(coding, "chunked", 7))
        c->part = CONN_CHUNK_SIZE;
    else
        c->part = length ? CONN_LENGTH : CONN_UNTIL_EOF;
    c->left = c->part == CONN_LENGTH ? strtoull(length, NULL, 10) : 0;
    if (c->cbs->on_head)
        c->cbs->on_head(c->owner, c->status);
}

/* Bytes of the head that belong to this piece; the head ends with an empty line. */
static size_t feed_head(struct conn *c, const char *p, size_t n)
{
    size_t before = c->head.len, room = HEAD_MAX - before;
    char *end;

    if (n > room && room > 0)
        n = room; /* a large answer comes with its head in one piece */
    if (buf_append(&c->head, p, n) < 0) {
        fprintf(stderr, "load: a head is too large\n");
        exit(1);
    }
    end = strstr(c->head.data + (before > 3 ? before - 3 : 0), "\r\n\r\n");
    if (!end)
        return n;
    n = (size_t)(end + 4 - c->head.data) - before;
    buf_truncate(&c->head, before + n);
    head_done(c);
    return n;
}

static size_t feed_body(struct conn *c, const char *p, size_t n)
{
    if (c->part != CONN_UNTIL_EOF && n > c->left)
        n = c->left;
    c->cbs->on_body(c->owner, p, n);
    c->left -= c->part == CONN_UNTIL_EOF ? 0 : n;
    if (c->part == CONN_CHUNK_DATA && !c->left)
        c->part = CONN_CHUNK_END;
    return n;
}

/* One byte between the data of two chunks. True at the end of the answer. */
static bool feed_frame(struct conn *c, char byte)
{
    bool digit = (byte >= '0' && byte <= '9') || ((byte | 32) >= 'a' && (byte | 32) <= 'f');

    if (c->part == CONN_CHUNK_SIZE && digit) {
        c->left = c->left * 16 + (uint64_t)(byte <= '9' ? byte - '0' : (byte | 32) - 'a' + 10);
    } else if (byte == '\n') {
        if (c->part == CONN_TRAILER && !c->has_line)
            return true;
        c->has_line = false;
        if (c->part == CONN_CHUNK_SIZE)
            c->part = c->left ? CONN_CHUNK_DATA : CONN_TRAILER;
        else if (c->part == CONN_CHUNK_END)
            c->part = CONN_CHUNK_SIZE;
    } else if (byte != '\r') {
        c->has_line = true;
    }
    return false;
}

static void conn_feed(struct conn *c, const char *p, size_t n)
{
    while (c->part != CONN_IDLE) {
        size_t used = 1;

        if (c->part == CONN_LENGTH && !c->left) {
            conn_end(c, true);
            return;
        }
        if (!n)
            return;
        if (c->part == CONN_HEAD) {
            used = feed_head(c, p, n);
        } else if (c->part == CONN_LENGTH || c->part == CONN_CHUNK_DATA ||
                   c->part == CONN_UNTIL_EOF) {
            used = feed_body(c, p, n);
        } else if (feed_frame(c, *p)) {
            conn_end(c, true);
            return;
        }
        p += used;
        n -= used;
    }
}

static void conn_read(struct conn *c)
{
    ssize_t n = recv(c->fd, c->net->bytes, READ_BYTES, 0);

    if (n > 0)
        conn_feed(c, c->net->bytes, (size_t)n);
    else if (n == 0 || (errno != EAGAIN && errno != EINTR)) {
        bool was_idle = c->part == CONN_IDLE, whole = n == 0 && c->part == CONN_UNTIL_EOF;

        conn_close(c);
        if (!was_idle)
            c->cbs->on_end(c->owner, whole);
    }
}

void net_run(struct net *net, int (*tick)(void *owner), void *owner)
{
    struct epoll_event events[EVENTS];
    int wait;

    while ((wait = tick(owner)) >= 0) {
        int n = epoll_wait(net->epoll, events, EVENTS, wait);

        for (int i = 0; i < n; i++) {
            struct conn *c = events[i].data.ptr;

            if (c->fd >= 0 && (events[i].events & EPOLLOUT) && c->out_len) {
                if (c->part == CONN_CONNECTING)
                    c->part = CONN_HEAD;
                conn_write(c);
            }
            if (c->fd >= 0 && (events[i].events & ~(uint32_t)EPOLLOUT))
                conn_read(c);
        }
    }
}
