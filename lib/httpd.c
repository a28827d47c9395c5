/*
 * The listener: accepting, deadlines, draining. Connections are in httpd_conn.c.
 *
 * Accepting is done by hand and not by uv_listen(), whose loop never ends when the process is out
 * of file descriptors: here it pauses until the next tick, and clients wait in the backlog.
 */
#include "httpd_conn.h"

#include "mem.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <unistd.h>

#define TICK_MS         250
#define LINGER_MS       2000
#define PING_MS         30000
#define DRAIN_IDLE_MS   250 /* what is on its way when we begin to leave has come by then */
#define DRAIN_SILENT_MS 750 /* who asks more often than that is not cut while it asks */
#define ACCEPT_BURST    64  /* then others have their turn */
#define BACKLOG         1024
#define SURPLUS_CONNS   32 /* above max_conns: they get a readable 429, more are just closed */
#define KEEPALIVE_S     60
#define SILENT_MS       30000 /* unacknowledged that long: the peer is dead */
#define NOTSENT_BYTES   16384 /* the kernel holds no more than this unsent, the rest is ours */
#define RESERVED_FDS    64    /* for what is not a connection */

union address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

static void set_option(int fd, int level, int option, int value)
{
    (void)setsockopt(fd, level, option, &value, sizeof(value)); /* each is only a refinement */
}

/* Accepted sockets inherit them all, which saves six calls a connection. */
static void tune(int fd)
{
    set_option(fd, SOL_SOCKET, SO_REUSEADDR, 1);
    set_option(fd, SOL_SOCKET, SO_KEEPALIVE, 1);
    set_option(fd, IPPROTO_TCP, TCP_KEEPIDLE, KEEPALIVE_S);
    set_option(fd, IPPROTO_TCP, TCP_KEEPINTVL, 10);
    set_option(fd, IPPROTO_TCP, TCP_KEEPCNT, 3);
    set_option(fd, IPPROTO_TCP, TCP_USER_TIMEOUT, SILENT_MS);
    set_option(fd, IPPROTO_TCP, TCP_NODELAY, 1);
    set_option(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, NOTSENT_BYTES);
}

static int parse_address(const struct httpd_conf *conf, union address *ret_address)
{
    if (conf->port < 0 || conf->port > 65535 || !conf->host)
        return -1;
    if (uv_ip4_addr(conf->host, conf->port, &ret_address->v4) == 0)
        return 0;
    return uv_ip6_addr(conf->host, conf->port, &ret_address->v6);
}

static int local_port(int fd)
{
    union address address = {0};
    socklen_t len = sizeof(address);

    if (getsockname(fd, &address.any, &len) < 0)
        return -1;
    return ntohs(address.any.sa_family == AF_INET6 ? address.v6.sin6_port : address.v4.sin_port);
}

static int listen_on(const struct httpd_conf *conf, struct err *err)
{
    union address address = {0};
    socklen_t len;
    int fd, cause;

    if (parse_address(conf, &address) < 0)
        return err_set(err, ERR_INVALID, "%s:%d is not a numeric address and port",
                       conf->host ? conf->host : "", conf->port);
    len = address.any.sa_family == AF_INET6 ? sizeof(address.v6) : sizeof(address.v4);
    fd = socket(address.any.sa_family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return err_set(err, ERR_UNAVAILABLE, "socket: %s", strerror(errno));
    tune(fd);
    if (bind(fd, &address.any, len) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    cause = errno;
    close(fd);
    return err_set(err, cause == EADDRINUSE ? ERR_CONFLICT : ERR_UNAVAILABLE, "%s:%d: %s",
                   conf->host, conf->port, strerror(cause));
}

/* What is left of the limit of file descriptors, so that a full house answers 429. */
static size_t conns_possible(size_t wanted)
{
    struct rlimit limit;
    size_t reserved = RESERVED_FDS, max;

    if (getrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur == RLIM_INFINITY)
        return wanted;
    if (reserved > limit.rlim_cur / 2)
        reserved = limit.rlim_cur / 2;
    max = limit.rlim_cur - reserved;
    return wanted < max ? wanted : max;
}

static void accept_one(struct httpd *httpd, int fd, const union address *address)
{
    char peer[INET6_ADDRSTRLEN] = "";
    uint64_t conns = httpd->counters.conns;

    if (conns >= httpd->conf.max_conns + SURPLUS_CONNS) {
        httpd->counters.refused++;
        close(fd);
        return;
    }
    if (address->any.sa_family == AF_INET6)
        uv_ip6_name(&address->v6, peer, sizeof(peer));
    else
        uv_ip4_name(&address->v4, peer, sizeof(peer));
    conn_open(httpd, fd, peer, conns >= httpd->conf.max_conns);
}

static void on_connection(uv_poll_t *listener, int status, int events)
{
    struct httpd *httpd = listener->data;
    union address address = {0};
    socklen_t len;
    int fd;

    (void)status, (void)events; /* accept4() tells the same and more */
    for (int i = 0; i < ACCEPT_BURST; i++) {
        len = sizeof(address);
        fd = accept4(httpd->fd, &address.any, &len, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (fd >= 0) {
            accept_one(httpd, fd, &address);
        } else if (errno == EMFILE || errno == ENFILE || errno == ENOBUFS || errno == ENOMEM) {
            uv_poll_stop(&httpd->listener);
            httpd->paused = true;
            return;
        } else if (errno != EINTR && errno != ECONNABORTED) {
            return;
        }
    }
}

static void drop_all(struct httpd *httpd)
{
    list_foreach (node, &httpd->conns) /* closing is later: the list does not change meanwhile */
        conn_drop(container_of(node, struct conn, all), true);
}

/* Idle for long enough, and nothing has come that was not read yet. */
static bool is_silent(const struct conn *c, uint64_t now)
{
    uint64_t idle_since = c->due_at - c->httpd->span_ms[DUE_IDLE];
    int unread = 0;
    uv_os_fd_t fd;

    return now >= idle_since + DRAIN_SILENT_MS &&
           (uv_fileno((const uv_handle_t *)&c->tcp, &fd) != 0 ||
            ioctl(fd, FIONREAD, &unread) != 0 || unread == 0);
}

static void end_idle(struct httpd *httpd, uint64_t now)
{
    void (*quiet)(void *owner) = httpd->quiet;
    bool idle = false;

    list_foreach (node, &httpd->conns) {
        struct conn *c = container_of(node, struct conn, all);

        if (c->state != CONN_IDLE)
            continue;
        if (is_silent(c, now))
            conn_drop(c, false);
        else
            idle = true;
    }
    if (idle && now < httpd->idle_at + DRAIN_SILENT_MS)
        return;
    httpd->quiet = NULL;
    if (quiet)
        quiet(httpd->drained_owner);
}

static void on_tick(uv_timer_t *tick)
{
    struct httpd *httpd = tick->data;
    uint64_t now = uv_now(httpd->loop);

    for (int due = 0; due < DUE_COUNT; due++) {
        while (!list_is_empty(&httpd->due[due])) {
            struct conn *c = container_of(httpd->due[due].next, struct conn, due);

            if (c->due_at > now)
                break;
            conn_expired(c);
        }
    }
    if (httpd->paused) {
        httpd->paused = false;
        uv_poll_start(&httpd->listener, UV_READABLE, on_connection);
    }
    if (httpd->draining && now >= httpd->drain_at)
        drop_all(httpd);
    else if (httpd->draining && now >= httpd->idle_at)
        end_idle(httpd, now);
}

/* One round; what is put on the list meanwhile waits for the next, so that reading goes on. */
static void on_later(uv_idle_t *later)
{
    struct httpd *httpd = later->data;
    struct list round;

    httpd->in_later = true; /* the round is not done: no end of a drain in here */
    list_init(&round);
    list_splice(&round, &httpd->soon);
    while (!list_is_empty(&round)) {
        struct conn *c = container_of(round.next, struct conn, soon);

        list_remove(&c->soon);
        conn_run_soon(c);
    }
    httpd->in_later = false;
    if (list_is_empty(&httpd->soon))
        uv_idle_stop(later);
    httpd_check_drained(httpd);
}

void httpd_later(struct httpd *httpd)
{
    if (!uv_is_active((uv_handle_t *)&httpd->later))
        uv_idle_start(&httpd->later, on_later);
}

static void httpd_init_handles(struct httpd *httpd)
{
    uv_poll_init(httpd->loop, &httpd->listener, httpd->fd);
    uv_timer_init(httpd->loop, &httpd->tick);
    uv_idle_init(httpd->loop, &httpd->later);
    httpd->listener.data = httpd->tick.data = httpd->later.data = httpd;
    httpd->handles = 3;
    uv_poll_start(&httpd->listener, UV_READABLE, on_connection);
    uv_timer_start(&httpd->tick, on_tick, TICK_MS, TICK_MS);
}

struct httpd *httpd_open(uv_loop_t *loop, const struct httpd_conf *conf, struct err *err)
{
    struct httpd *httpd;
    int fd = listen_on(conf, err);

    if (fd < 0)
        return NULL;
    httpd = xcalloc(1, sizeof(*httpd));
    httpd->loop = loop;
    httpd->conf = *conf;
    httpd->conf.host = NULL; /* was borrowed for the call */
    httpd->conf.max_conns = conns_possible(conf->max_conns);
    httpd->fd = fd;
    httpd->port = local_port(fd);
    list_init(&httpd->conns);
    list_init(&httpd->orphans);
    list_init(&httpd->soon);
    for (int due = 0; due < DUE_COUNT; due++)
        list_init(&httpd->due[due]);
    httpd->span_ms[DUE_IDLE] = httpd->span_ms[DUE_FLUSH] = conf->idle_ms;
    httpd->span_ms[DUE_HEAD] = conf->head_ms;
    httpd->span_ms[DUE_BODY] = conf->body_ms;
    httpd->span_ms[DUE_LINGER] = LINGER_MS;
    httpd->span_ms[DUE_PING] = PING_MS;
    buf_init(&httpd->scratch, BUF_MAX);
    httpd_init_handles(httpd);
    return httpd;
}

int httpd_port(const struct httpd *httpd)
{
    return httpd->port;
}

void httpd_count(const struct httpd *httpd, struct httpd_counters *ret_counters)
{
    *ret_counters = httpd->counters;
}

static void httpd_free(struct httpd *httpd)
{
    void (*drained)(void *owner) = httpd->drained;
    void *owner = httpd->drained_owner;

    while (!list_is_empty(&httpd->orphans)) {
        struct conn *c = container_of(httpd->orphans.next, struct conn, all);

        c->httpd = NULL; /* some handler will still answer it, to nobody */
        list_remove(&c->all);
    }
    buf_release(&httpd->scratch);
    free(httpd);
    if (drained)
        drained(owner);
}

static void on_handle_closed(uv_handle_t *handle)
{
    struct httpd *httpd = handle->data;

    if (--httpd->handles == 0)
        httpd_free(httpd);
}

void httpd_check_drained(struct httpd *httpd)
{
    if (!httpd->draining || httpd->closing || httpd->in_later || httpd->counters.conns > 0 ||
        !list_is_empty(&httpd->soon))
        return;
    httpd->closing = true;
    uv_close((uv_handle_t *)&httpd->tick, on_handle_closed);
    uv_close((uv_handle_t *)&httpd->later, on_handle_closed);
}

void httpd_drain(struct httpd *httpd, uint64_t grace_ms, void (*quiet)(void *owner),
                 void (*done)(void *owner), void *owner)
{
    assert(!httpd->draining);
    on_connection(&httpd->listener, 0, 0); /* they are connected, and would be reset */
    httpd->draining = true;
    httpd->paused = false;
    httpd->drain_at = uv_now(httpd->loop) + grace_ms;
    httpd->idle_at = uv_now(httpd->loop) + (grace_ms < DRAIN_IDLE_MS ? grace_ms : DRAIN_IDLE_MS);
    httpd->quiet = quiet;
    httpd->drained = done;
    httpd->drained_owner = owner;
    uv_close((uv_handle_t *)&httpd->listener, on_handle_closed);
    close(httpd->fd); /* at once: who is told of the drain must not get in again */
    list_foreach (node, &httpd->conns) {
        struct conn *c = container_of(node, struct conn, all);

        if (c->state == CONN_WS)
            httpd_ws_close(c->ws, 1001);
    }
    httpd_check_drained(httpd);
}
