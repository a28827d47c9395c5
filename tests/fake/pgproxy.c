/*
 * pgproxy: a TCP proxy in front of PostgreSQL's Unix socket that misbehaves when it is told to.
 *
 *   pgproxy --target /folder/.s.PGSQL.5432      prints "proxy PORT control PORT"
 *
 * It knows the frames of the protocol, so a fault may be aimed at one statement of ours by the name
 * under which lib/pg prepares it ("turn_claim"). Control is HTTP on a port of its own:
 *
 *   POST /rules   {RULE: VALUE}: exactly these from now on; {} makes it behave
 *   POST /reset   every connection gets a RST, on both sides
 *   POST /close   every connection is closed
 *   GET  /stats   counters; times at which connections came, wall clock in milliseconds
 *
 *   to_server, to_client   "pass"; "hold": nothing is read until it passes again; "drop": read and
 *                          thrown away, and the connection is reset when it shall pass again
 *   delay_ms               added to every byte, each way
 *   refuse                 true: a new connection is reset at once
 *   eat_notify             true: notifications do not reach the client
 *   lose, lose_times, lose_then
 *                          the answers of so many executions of the statement ("*": any) are lost
 * after the server has committed them; then "cut" the connection, or "hang" fail, fail_times,
 * sqlstate so many executions of the statement fail in the server with that state
 *
 * A connection: the client's socket and the server's are closed together, and freed when both have
 * closed. What is read goes through `struct way`, one a direction.
 */
#include "buf.h"
#include "clock.h"
#include "httpd.h"
#include "json.h"
#include "list.h"
#include "log.h"
#include "loop.h"
#include "mem.h"

#include <arpa/inet.h>
#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_QUEUED     ((size_t)4 << 20) /* of one direction, before its source is not read */
#define MAX_STATEMENTS 256
#define MAX_ARRIVALS   20000
#define NAME_BYTES     64

#define SSL_REQUEST    80877103
#define GSSENC_REQUEST 80877104

enum flow { FLOW_PASS, FLOW_HOLD, FLOW_DROP };

struct aim {
    char statement[NAME_BYTES]; /* "": none, "*": any */
    int64_t times;
};

struct rules {
    enum flow to_server, to_client;
    int64_t delay_ms;
    bool refuse, eat_notify, then_hang;
    struct aim lose, fail;
    char sqlstate[6];
};

struct statement {
    char name[NAME_BYTES];
    uint64_t seen, lost, failed;
};

struct proxy {
    struct loop loop;
    struct httpd *httpd;
    uv_tcp_t listener;
    const char *target;
    struct list conns;
    struct rules rules;
    struct statement statements[MAX_STATEMENTS];
    size_t n_statements;
    int64_t arrivals[MAX_ARRIVALS]; /* clock_wall_us() / 1000; the first ones */
    uint64_t n_conns, n_open, bytes_up, bytes_down, notifies, eaten, lost, failed;
};

/* Bytes on their way; without any it is the end of the source. */
struct chunk {
    struct list node;
    uint64_t due_ms;
    size_t len;
    char *data;
    uv_write_t write;
};

struct way {
    struct conn *conn;
    uv_stream_t *from, *to;
    struct buf in;        /* a message that is not whole yet */
    struct list delayed;  /* struct chunk */
    size_t delayed_bytes; /* of them */
    uv_timer_t timer;     /* until the first of them is due */
    bool reading;
};

struct conn {
    struct list node;
    struct proxy *proxy;
    uv_tcp_t client;
    uv_pipe_t server;
    uv_connect_t connect;
    struct way up, down;
    int handles;      /* open ones */
    bool closing;     /* by conn_close() */
    bool connected;   /* to the server */
    bool started;     /* the startup packet has passed */
    bool poisoned;    /* bytes are missing: it cannot go on */
    uint64_t syncs;   /* sent by the client */
    uint64_t readies; /* ReadyForQuery of the server, that of the startup included */
    uint64_t doomed;  /* the answer to this sync is to be lost; 0: to none */
    bool hanging;     /* nothing reaches the client any more */
};

static void way_update(struct way *way);

static uint32_t be32(const char *p)
{
    uint32_t n;

    memcpy(&n, p, sizeof(n));
    return ntohl(n);
}

/* ---- the end of a connection ---- */

static void way_release(struct way *way)
{
    list_foreach_safe (n, &way->delayed) {
        struct chunk *chunk = container_of(n, struct chunk, node);

        free(chunk->data);
        free(chunk);
    }
    buf_release(&way->in);
}

static void on_closed(uv_handle_t *handle)
{
    struct conn *conn = handle->data;

    if (--conn->handles > 0)
        return;
    conn->proxy->n_open--;
    list_remove(&conn->node);
    way_release(&conn->up);
    way_release(&conn->down);
    free(conn);
}

static void conn_close(struct conn *conn, bool reset)
{
    if (conn->closing)
        return;
    conn->closing = true;
    uv_close((uv_handle_t *)&conn->up.timer, on_closed);
    uv_close((uv_handle_t *)&conn->down.timer, on_closed);
    uv_close((uv_handle_t *)&conn->server, on_closed);
    if (!reset || uv_tcp_close_reset(&conn->client, on_closed) < 0)
        uv_close((uv_handle_t *)&conn->client, on_closed);
}

/* ---- one direction ---- */

static void on_written(uv_write_t *write, int status)
{
    struct chunk *chunk = container_of(write, struct chunk, write);
    struct way *way = write->data;

    free(chunk->data);
    free(chunk);
    if (status < 0)
        conn_close(way->conn, true);
    else
        way_update(way);
}

static void way_send(struct way *way, struct chunk *chunk)
{
    uv_buf_t bytes = uv_buf_init(chunk->data, (unsigned)chunk->len);

    chunk->write.data = way;
    if (chunk->len && uv_write(&chunk->write, way->to, &bytes, 1, on_written) == 0)
        return;
    conn_close(way->conn, chunk->len != 0); /* the end of the source, or the target is gone */
    free(chunk->data);
    free(chunk);
}

static void way_pump(struct way *way);

static void on_due(uv_timer_t *timer)
{
    struct way *way = timer == &((struct conn *)timer->data)->up.timer
                          ? &((struct conn *)timer->data)->up
                          : &((struct conn *)timer->data)->down;

    way_pump(way);
}

/* Send what is due; wait for the rest. */
static void way_pump(struct way *way)
{
    uint64_t now_ms = clock_mono_ms();

    while (!list_is_empty(&way->delayed) && !way->conn->closing) {
        struct chunk *chunk = container_of(way->delayed.next, struct chunk, node);

        if (chunk->due_ms > now_ms) {
            uv_timer_start(&way->timer, on_due, chunk->due_ms - now_ms, 0);
            break;
        }
        list_remove(&chunk->node);
        way->delayed_bytes -= chunk->len;
        way_send(way, chunk);
    }
    way_update(way);
}

static void way_put(struct way *way, const char *bytes, size_t len)
{
    struct chunk *chunk = xcalloc(1, sizeof(*chunk));

    chunk->due_ms = clock_mono_ms() + (uint64_t)way->conn->proxy->rules.delay_ms;
    chunk->data = len ? xmemdup(bytes, len) : NULL;
    chunk->len = len;
    way->delayed_bytes += len;
    list_append(&way->delayed, &chunk->node);
    way_pump(way);
}

static enum flow way_flow(const struct way *way)
{
    const struct rules *rules = &way->conn->proxy->rules;

    return way == &way->conn->up ? rules->to_server : rules->to_client;
}

/* ---- what the client sends ---- */

static struct statement *statement_of(struct proxy *proxy, const char *name)
{
    for (size_t i = 0; i < proxy->n_statements; i++)
        if (!strcmp(proxy->statements[i].name, name))
            return &proxy->statements[i];
    if (proxy->n_statements == MAX_STATEMENTS)
        return &proxy->statements[0]; /* far more than we have */
    snprintf(proxy->statements[proxy->n_statements].name, NAME_BYTES, "%s", name);
    return &proxy->statements[proxy->n_statements++];
}

static bool aim_hits(struct aim *aim, const char *name)
{
    if (!*aim->statement || aim->times <= 0 || !*name ||
        (strcmp(aim->statement, "*") != 0 && strcmp(aim->statement, name) != 0))
        return false;
    aim->times--;
    return true;
}

static void put_frame(struct buf *out, char type, const char *body, size_t len)
{
    uint32_t size = htonl((uint32_t)len + 4);

    (void)buf_putc(out, type);
    (void)buf_append(out, (const char *)&size, sizeof(size));
    (void)buf_append(out, body, len);
}

/* Instead of the Bind: parse and bind something that raises the error when it is executed. */
static void put_failure(struct buf *out, const char *sqlstate)
{
    BUF_AUTO(parse, 1024);

    (void)buf_putc(&parse, '\0'); /* the statement without a name */
    (void)buf_printf(&parse, "do $$ begin raise exception 'injected' using errcode = '%s'; end $$",
                     sqlstate);
    (void)buf_append(&parse, "\0\0\0", 3); /* the end of the text, and no types */
    put_frame(out, 'P', parse.data, parse.len);
    put_frame(out, 'B', "\0\0\0\0\0\0\0\0", 8); /* no names, formats, values, formats */
}

/* A Bind: portal, statement, ... Is it replaced? */
static bool on_bind(struct conn *conn, const char *body, size_t len, struct buf *out)
{
    struct proxy *proxy = conn->proxy;
    size_t portal = strnlen(body, len) + 1;
    const char *name = portal < len ? body + portal : "";
    struct statement *statement;

    if (!*name || portal + strnlen(name, len - portal) >= len)
        return false;
    statement = statement_of(proxy, name);
    statement->seen++;
    if (!conn->doomed && aim_hits(&proxy->rules.lose, name)) {
        conn->doomed = conn->syncs + 1;
        statement->lost++;
        proxy->lost++;
    }
    if (!aim_hits(&proxy->rules.fail, name))
        return false;
    statement->failed++;
    proxy->failed++;
    put_failure(out, proxy->rules.sqlstate);
    return true;
}

/* Bytes of the first message in `in`, 0 when it is not whole. */
static size_t frame_len(const char *in, size_t len, bool typed)
{
    size_t want;

    if (len < (typed ? 5u : 4u))
        return 0;
    want = be32(in + typed) + typed;
    return want <= len ? want : 0;
}

static void on_client_frame(struct conn *conn, const char *frame, size_t len, struct buf *out)
{
    if (!conn->started && len == 8 &&
        (be32(frame + 4) == SSL_REQUEST || be32(frame + 4) == GSSENC_REQUEST)) {
        way_put(&conn->down, "N", 1);
        return;
    }
    if (!conn->started) {
        conn->started = true;
    } else if (*frame == 'S' || *frame == 'Q') {
        conn->syncs++;
    } else if (*frame == 'B' && on_bind(conn, frame + 5, len - 5, out)) {
        return;
    }
    (void)buf_append(out, frame, len);
}

static void on_client_bytes(struct conn *conn)
{
    struct buf *in = &conn->up.in;
    size_t at = 0, len;
    BUF_AUTO(out, BUF_MAX);

    while ((len = frame_len(in->data + at, in->len - at, conn->started))) {
        on_client_frame(conn, in->data + at, len, &out);
        at += len;
    }
    buf_drop_front(in, at);
    if (out.len)
        way_put(&conn->up, out.data, out.len);
}

/* ---- what the server sends ---- */

/* Does the frame go on to the client? */
static bool on_server_frame(struct conn *conn, char type)
{
    struct proxy *proxy = conn->proxy;
    bool is_lost = conn->hanging || (conn->doomed && conn->readies == conn->doomed);

    if (type == 'A') {
        proxy->notifies++;
        proxy->eaten += proxy->rules.eat_notify;
        return !is_lost && !proxy->rules.eat_notify;
    }
    conn->readies += type == 'Z';
    if (is_lost && type == 'Z' && !conn->hanging) {
        conn->hanging = true; /* committed, and nobody will know */
        if (!proxy->rules.then_hang)
            conn->poisoned = true;
    }
    return !is_lost;
}

static void on_server_bytes(struct conn *conn)
{
    struct buf *in = &conn->down.in;
    size_t at = 0, len;
    BUF_AUTO(out, BUF_MAX);

    while ((len = frame_len(in->data + at, in->len - at, true))) {
        if (on_server_frame(conn, in->data[at]))
            (void)buf_append(&out, in->data + at, len);
        at += len;
    }
    buf_drop_front(in, at);
    if (out.len)
        way_put(&conn->down, out.data, out.len);
    if (conn->poisoned)
        conn_close(conn, true);
}

/* ---- sockets ---- */

static void on_alloc(uv_handle_t *handle, size_t size, uv_buf_t *ret_buf)
{
    static char space[65536]; /* one loop, and what was read is copied at once */

    (void)handle;
    (void)size;
    *ret_buf = uv_buf_init(space, sizeof(space));
}

static void on_read(uv_stream_t *stream, ssize_t n, const uv_buf_t *bytes)
{
    struct conn *conn = stream->data;
    struct way *way = stream == conn->up.from ? &conn->up : &conn->down;

    if (n == 0)
        return;
    if (n < 0) {
        way_put(way, NULL, 0);
        return;
    }
    *(way == &conn->up ? &conn->proxy->bytes_up : &conn->proxy->bytes_down) += (uint64_t)n;
    if (way_flow(way) == FLOW_DROP) {
        conn->poisoned = true;
        return;
    }
    (void)buf_append(&way->in, bytes->base, (size_t)n);
    if (way == &conn->up)
        on_client_bytes(conn);
    else
        on_server_bytes(conn);
}

/* Read from the source, or not, as things stand. */
static void way_update(struct way *way)
{
    struct conn *conn = way->conn;
    bool reads = conn->connected && way_flow(way) != FLOW_HOLD &&
                 way->delayed_bytes + uv_stream_get_write_queue_size(way->to) < MAX_QUEUED;

    if (conn->closing || reads == way->reading)
        return;
    way->reading = reads;
    if (!reads)
        uv_read_stop(way->from);
    else if (uv_read_start(way->from, on_alloc, on_read) < 0)
        conn_close(conn, true);
}

static void on_connected(uv_connect_t *connect, int status)
{
    struct conn *conn = connect->data;

    if (conn->closing)
        return;
    if (status < 0) {
        conn_close(conn, true); /* as the kernel says of a port that nobody listens at */
        return;
    }
    conn->connected = true;
    way_update(&conn->up);
    way_update(&conn->down);
}

static void way_init(struct way *way, struct conn *conn, void *from, void *to)
{
    way->conn = conn;
    way->from = from;
    way->to = to;
    buf_init(&way->in, BUF_MAX);
    list_init(&way->delayed);
    uv_timer_init(&conn->proxy->loop.uv, &way->timer);
    way->timer.data = conn;
}

static struct conn *conn_new(struct proxy *proxy)
{
    struct conn *conn = xcalloc(1, sizeof(*conn));

    conn->proxy = proxy;
    conn->handles = 4;
    uv_tcp_init(&proxy->loop.uv, &conn->client);
    uv_pipe_init(&proxy->loop.uv, &conn->server, 0);
    conn->client.data = conn->server.data = conn->connect.data = conn;
    way_init(&conn->up, conn, &conn->client, &conn->server);
    way_init(&conn->down, conn, &conn->server, &conn->client);
    list_append(&proxy->conns, &conn->node);
    if (proxy->n_conns < MAX_ARRIVALS)
        proxy->arrivals[proxy->n_conns] = clock_wall_us() / 1000;
    proxy->n_conns++;
    proxy->n_open++;
    return conn;
}

static void on_connection(uv_stream_t *listener, int status)
{
    struct proxy *proxy = listener->data;
    struct conn *conn;

    if (status < 0)
        return;
    conn = conn_new(proxy);
    if (uv_accept(listener, (uv_stream_t *)&conn->client) < 0 || proxy->rules.refuse) {
        conn_close(conn, true);
        return;
    }
    uv_tcp_nodelay(&conn->client, 1);
    uv_pipe_connect(&conn->connect, &conn->server, proxy->target, on_connected);
}

/* ---- control ---- */

static int read_flow(const cJSON *body, const char *key, enum flow *ret_flow, struct err *err)
{
    const char *text = json_str_or(body, key, "pass");

    *ret_flow = !strcmp(text, "hold") ? FLOW_HOLD : !strcmp(text, "drop") ? FLOW_DROP : FLOW_PASS;
    if (*ret_flow == FLOW_PASS && strcmp(text, "pass") != 0)
        return err_set(err, ERR_INVALID, "%s: pass, hold or drop", key);
    return 0;
}

static int read_aim(const cJSON *body, const char *key, const char *times_key, struct aim *ret_aim,
                    struct err *err)
{
    snprintf(ret_aim->statement, sizeof(ret_aim->statement), "%s", json_str_or(body, key, ""));
    if (!*ret_aim->statement || !json_get(body, times_key)) {
        ret_aim->times = 1;
        return 0;
    }
    return json_int(body, times_key, 0, INT32_MAX, &ret_aim->times, err);
}

static bool is_sqlstate(const char *text)
{
    return strlen(text) == 5 && strspn(text, "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ") == 5;
}

static int read_rules(const cJSON *body, struct rules *ret_rules, struct err *err)
{
    static const char *const known[] = {"to_server",  "to_client",  "delay_ms",   "refuse",
                                        "eat_notify", "lose",       "lose_times", "lose_then",
                                        "fail",       "fail_times", "sqlstate"};
    const cJSON *member;
    struct rules rules = {.refuse = cJSON_IsTrue(json_get(body, "refuse")),
                          .eat_notify = cJSON_IsTrue(json_get(body, "eat_notify")),
                          .then_hang = !strcmp(json_str_or(body, "lose_then", "cut"), "hang")};

    cJSON_ArrayForEach (member, body) {
        size_t i = 0;

        while (i < sizeof(known) / sizeof(*known) && strcmp(known[i], member->string) != 0)
            i++;
        if (i == sizeof(known) / sizeof(*known))
            return err_set(err, ERR_INVALID, "there is no rule %.40s", member->string);
    }
    snprintf(rules.sqlstate, sizeof(rules.sqlstate), "%s", json_str_or(body, "sqlstate", "40001"));
    if (!is_sqlstate(rules.sqlstate))
        return err_set(err, ERR_INVALID, "sqlstate: five digits and capitals");
    if (json_get(body, "delay_ms") &&
        json_int(body, "delay_ms", 0, 600000, &rules.delay_ms, err) < 0)
        return -1;
    if (read_flow(body, "to_server", &rules.to_server, err) < 0 ||
        read_flow(body, "to_client", &rules.to_client, err) < 0 ||
        read_aim(body, "lose", "lose_times", &rules.lose, err) < 0 ||
        read_aim(body, "fail", "fail_times", &rules.fail, err) < 0)
        return -1;
    *ret_rules = rules;
    return 0;
}

static void proxy_apply(struct proxy *proxy)
{
    list_foreach_safe (n, &proxy->conns) {
        struct conn *conn = container_of(n, struct conn, node);

        if (conn->closing)
            continue;
        if (conn->poisoned && proxy->rules.to_server != FLOW_DROP &&
            proxy->rules.to_client != FLOW_DROP) {
            conn_close(conn, true);
            continue;
        }
        way_update(&conn->up);
        way_update(&conn->down);
    }
}

static void answer(struct httpd_req *req, int status, const char *json)
{
    httpd_reply(req, status, "application/json", json, strlen(json));
}

static void answer_rules(struct proxy *proxy, struct httpd_req *req)
{
    struct err err = {0};
    JSON_AUTO(body) = json_parse(req->body, req->body_len, &err);

    if (!body || read_rules(body, &proxy->rules, &err) < 0) {
        httpd_reply(req, 400, "text/plain", err.msg, strlen(err.msg));
        return;
    }
    proxy_apply(proxy);
    answer(req, 200, "{}");
}

static void answer_cut(struct proxy *proxy, struct httpd_req *req, bool reset)
{
    list_foreach_safe (n, &proxy->conns)
        conn_close(container_of(n, struct conn, node), reset);
    answer(req, 200, "{}");
}

static void answer_stats(const struct proxy *proxy, struct httpd_req *req)
{
    BUF_AUTO(b, BUF_MAX);

    (void)buf_printf(&b,
                     "{\"open\":%" PRIu64 ",\"connections\":%" PRIu64 ",\"bytes_up\":%" PRIu64
                     ",\"bytes_down\":%" PRIu64 ",\"notifies\":%" PRIu64 ",\"eaten\":%" PRIu64
                     ",\"lost\":%" PRIu64 ",\"failed\":%" PRIu64 ",\"statements\":{",
                     proxy->n_open, proxy->n_conns, proxy->bytes_up, proxy->bytes_down,
                     proxy->notifies, proxy->eaten, proxy->lost, proxy->failed);
    for (size_t i = 0; i < proxy->n_statements; i++) {
        const struct statement *s = &proxy->statements[i];

        (void)buf_printf(
            &b, "%s\"%s\":{\"seen\":%" PRIu64 ",\"lost\":%" PRIu64 ",\"failed\":%" PRIu64 "}",
            i ? "," : "", s->name, s->seen, s->lost, s->failed);
    }
    (void)buf_puts(&b, "},\"arrivals\":[");
    for (size_t i = 0; i < proxy->n_conns && i < MAX_ARRIVALS; i++)
        (void)buf_printf(&b, "%s%" PRId64, i ? "," : "", proxy->arrivals[i]);
    (void)buf_puts(&b, "]}");
    answer(req, 200, b.data);
}

static void on_request(struct httpd_req *req, void *owner)
{
    struct proxy *proxy = owner;

    if (!strcmp(req->path, "/stats"))
        answer_stats(proxy, req);
    else if (!strcmp(req->path, "/rules") && !strcmp(req->method, "POST"))
        answer_rules(proxy, req);
    else if (!strcmp(req->path, "/reset") && !strcmp(req->method, "POST"))
        answer_cut(proxy, req, true);
    else if (!strcmp(req->path, "/close") && !strcmp(req->method, "POST"))
        answer_cut(proxy, req, false);
    else
        answer(req, 404, "{}");
}

/* ---- the program ---- */

static void on_drained(void *owner)
{
    struct proxy *proxy = owner;

    list_foreach_safe (n, &proxy->conns)
        conn_close(container_of(n, struct conn, node), false);
    uv_close((uv_handle_t *)&proxy->listener, NULL);
    loop_finish(&proxy->loop);
}

static void on_stop(void *owner)
{
    httpd_drain(((struct proxy *)owner)->httpd, 100, NULL, on_drained, owner);
}

/* The port it listens at, or a negative errno of libuv. */
static int proxy_listen(struct proxy *proxy)
{
    struct sockaddr_in address;
    int size = sizeof(address), rc;

    uv_tcp_init(&proxy->loop.uv, &proxy->listener);
    proxy->listener.data = proxy;
    uv_ip4_addr("127.0.0.1", 0, &address);
    rc = uv_tcp_bind(&proxy->listener, (struct sockaddr *)&address, 0);
    if (rc == 0)
        rc = uv_listen((uv_stream_t *)&proxy->listener, 1024, on_connection);
    if (rc == 0)
        rc = uv_tcp_getsockname(&proxy->listener, (struct sockaddr *)&address, &size);
    return rc < 0 ? rc : ntohs(address.sin_port);
}

static int serve(struct proxy *proxy)
{
    const struct httpd_conf conf = {.host = "127.0.0.1",
                                    .max_head_bytes = 16384,
                                    .max_body_bytes = 65536,
                                    .max_out_bytes = BUF_MAX,
                                    .max_conns = 1000,
                                    .head_ms = 60000,
                                    .body_ms = 60000,
                                    .idle_ms = 600000,
                                    .on_request = on_request,
                                    .owner = proxy};
    struct err err = {0};
    int port;

    loop_init(&proxy->loop, on_stop, proxy);
    list_init(&proxy->conns);
    port = proxy_listen(proxy);
    proxy->httpd = httpd_open(&proxy->loop.uv, &conf, &err);
    if (port < 0 || !proxy->httpd) {
        fprintf(stderr, "pgproxy: %s\n", port < 0 ? uv_strerror(port) : err.msg);
        return 1;
    }
    printf("proxy %d control %d\n", port, httpd_port(proxy->httpd));
    fflush(stdout);
    return loop_run(&proxy->loop);
}

int main(int argc, char **argv)
{
    struct proxy *proxy;
    int rc;

    if (argc != 3 || strcmp(argv[1], "--target") != 0) {
        fputs("usage: pgproxy --target /folder/.s.PGSQL.5432\n", stderr);
        return 2;
    }
    log_init("pgproxy", LOG_WARN);
    proxy = xcalloc(1, sizeof(*proxy));
    proxy->target = argv[2];
    rc = serve(proxy);
    free(proxy);
    return rc;
}
