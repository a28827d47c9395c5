/*
 * HTTP/1.1 clients for load: thousands of connections on one epoll, with as little CPU as can be,
 * because the load runs on the cores of what it measures. One request at a time on a connection,
 * which is kept. Answers are taken apart (length, chunks, end), not checked: tests do that.
 */
#pragma once

#include "buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct net;
struct conn;

enum conn_part {
    CONN_IDLE,       /* nothing is asked for */
    CONN_CONNECTING, /* the request waits for the socket */
    CONN_HEAD,       /* of the answer, collected in `head` */
    CONN_LENGTH,     /* `left` bytes of body are to come */
    CONN_UNTIL_EOF,
    CONN_CHUNK_SIZE,
    CONN_CHUNK_DATA, /* `left` bytes of it are to come */
    CONN_CHUNK_END,  /* the line end behind its data */
    CONN_TRAILER,
};

/* `on_end` may ask again on the same connection; `ok`: the answer came whole. */
struct conn_callbacks {
    void (*on_head)(void *owner, int status); /* may be NULL */
    void (*on_body)(void *owner, const char *bytes, size_t len);
    void (*on_end)(void *owner, bool ok);
};

struct conn {
    struct net *net;
    const struct conn_callbacks *cbs;
    void *owner;
    int fd; /* -1: none; it is made when something is asked */
    enum conn_part part;
    int status;
    bool has_line; /* something stands on the line of the trailer */
    uint64_t left;
    const char *out; /* what is left of the request */
    size_t out_len;
    struct buf head;
};

struct net *net_new(int port); /* on 127.0.0.1 */
void net_free(struct net *net);

void conn_init(struct conn *c, struct net *net, const struct conn_callbacks *cbs, void *owner);
void conn_ask(struct conn *c, const char *request, size_t len); /* borrowed until on_end */
void conn_close(struct conn *c);                                /* without on_end */

/*
 * Serve until `tick` returns a negative number. It is called before every wait and returns the
 * milliseconds to wait at most.
 */
void net_run(struct net *net, int (*tick)(void *owner), void *owner);
