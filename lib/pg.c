/*
 * States of a connection
 *
 *   DOWN ---> CONNECTING ---> CHECKING ---> PREPARING ---> UP
 *    ^            |               |  +----------|----------^
 *    +------------+---------------+-------------+----------+     pg_drop()
 *
 * DOWN        no PGconn; `timer` runs until the next attempt, later each time
 * CONNECTING  PQconnectPoll() says what to wait for; `timer` is the limit
 * CHECKING    is the schema new enough, is there a pool between; `timer` is the limit
 * PREPARING   all statements and session_settings.sql are sent as one pipeline, if they are to be
 *             prepared; `timer` is the limit
 * CLOSED      pg_close(), from any state
 * UP          calls go out as they come, at most MAX_IN_FLIGHT unanswered; `timer` fires at once
 *             when there is something to send
 *
 * A failure in any state costs the calls in flight (their effect is unknown) and, while there is
 * no connection, those whose time runs out; the others wait for the next connection.
 * `tick` looks for calls that are past their deadline; one in flight takes the connection along,
 * because nothing can be said of what the server does with it. So does a server that has become
 * read only: libpq looks for one that is not then.
 *
 * When the next attempt is made, and by which connection of the process, is up to pg_peer.h.
 */
#include "pg.h"

#include "clock.h"
#include "hook.h"
#include "log.h"
#include "mem.h"
#include "migrations.h" /* generated */
#include "pg_fault.h"
#include "pg_peer.h"

#include <assert.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CONNECT_TIMEOUT_MS 5000
#define PREPARE_TIMEOUT_MS 10000
#define RELISTEN_MS        1000
#define TICK_MS            100
#define MAX_IN_FLIGHT      64

enum pg_state {
    PG_DOWN,       /* waiting to try again */
    PG_CONNECTING, /* PQconnectPoll() */
    PG_CHECKING,   /* schema_check.sql */
    PG_PREPARING,  /* PREPARE of every statement */
    PG_UP,         /* whatever is in `sent` */
    PG_CLOSED,     /* nothing; the handles are being closed */
};

/* libpq replaces its socket while connecting, and uv_close() is not immediate, so each watched
 * socket gets a handle of its own. */
struct pg_watch {
    uv_poll_t poll;
    struct pg *pg; /* NULL once dropped */
};

struct pg {
    enum pg_state state;
    struct pg_peer peer;
    char *conninfo, *name;
    PGconn *conn;
    struct pg_watch *watch;
    uv_timer_t timer, tick, relisten;
    int open_handles;
    struct list queue;  /* struct pg_call.node, not sent yet */
    struct list sent;   /* in flight, oldest first */
    size_t load;        /* length of both */
    int in_flight;      /* length of `sent` */
    struct pg_call *at; /* statement of the oldest call that the next result belongs to */
    bool got_result;    /* `at` has had one */
    bool prepare;       /* statements once a connection; off: each is parsed when it is sent */
    bool pooled;        /* as if that were off: the session is not ours alone */
    bool stale;         /* what was prepared is gone, or no longer what it was */
    bool read_only;     /* the server takes no writes any more */
    struct err err;     /* of the oldest call in flight */
    char trouble[200];
    bool listening, listen_pending;
    struct pg_call listen_call;
#ifdef TEST_HOOKS
    bool test_lose; /* the next answer */
#endif
    void (*on_notify)(void *owner, const char *payload);
    void (*on_up)(void *owner);
    void *listen_owner;
};

static void on_timer(uv_timer_t *timer);
static void on_socket(uv_poll_t *poll, int status, int events);
static void pg_drop(struct pg *pg, enum err_code code, const char *why);

/* Another connection of this process has found the way. */
static void on_hurry(struct pg_peer *peer, uint64_t ms)
{
    struct pg *pg = container_of(peer, struct pg, peer);

    if (pg->state == PG_DOWN && uv_timer_get_due_in(&pg->timer) > ms)
        uv_timer_start(&pg->timer, on_timer, ms, 0);
}

static void pg_enter(struct pg *pg, enum pg_state state)
{
    pg->state = state;
    hook_state("pg", (int)state);
    uv_timer_stop(&pg->timer);
    switch (state) {
    case PG_DOWN:
        uv_timer_start(&pg->timer, on_timer, pg_peer_lost(&pg->peer), 0);
        break;
    case PG_CONNECTING:
        pg_peer_trying(&pg->peer);
        uv_timer_start(&pg->timer, on_timer, CONNECT_TIMEOUT_MS, 0);
        break;
    case PG_CHECKING:
    case PG_PREPARING:
        uv_timer_start(&pg->timer, on_timer, PREPARE_TIMEOUT_MS, 0);
        break;
    case PG_UP:
        pg_peer_found(&pg->peer);
        pg->trouble[0] = '\0';
        uv_timer_start(&pg->timer, on_timer, 0, 0);
        break;
    case PG_CLOSED:
        uv_timer_stop(&pg->tick);
        break;
    }
}

static struct pg_call *first_of(struct list *calls)
{
    return list_is_empty(calls) ? NULL : container_of(calls->next, struct pg_call, node);
}

static void on_watch_closed(uv_handle_t *handle)
{
    free(handle->data);
}

static void pg_unwatch(struct pg *pg)
{
    if (!pg->watch)
        return;
    pg->watch->pg = NULL;
    uv_close((uv_handle_t *)&pg->watch->poll, on_watch_closed);
    pg->watch = NULL;
}

/* Wait for `events` on the socket libpq uses now. */
static int pg_watch(struct pg *pg, int events)
{
    if (!pg->watch) {
        struct pg_watch *watch = xcalloc(1, sizeof(*watch));

        if (uv_poll_init(pg->timer.loop, &watch->poll, PQsocket(pg->conn)) < 0) {
            free(watch);
            return -1;
        }
        watch->poll.data = watch;
        watch->pg = pg;
        pg->watch = watch;
    }
    return uv_poll_start(&pg->watch->poll, events, on_socket);
}

static void pg_clear_results(struct pg_call *call)
{
    for (; call; call = call->also) {
        PQclear(call->res);
        call->res = NULL;
    }
}

/* Take `call` off its list and answer it. Its statements are untouched by us afterwards. */
static void pg_answer(struct pg *pg, struct pg_call *call, const struct err *err)
{
    PGresult *results[16];
    int n = 0;

    list_remove(&call->node);
    pg->load--;
    if (pg->load == 0)
        uv_timer_stop(&pg->tick);
    if (err->code != ERR_OK)
        pg_clear_results(call);
    /* The owner may free the call in `done`; the results are ours until it returns. */
    for (struct pg_call *c = call; c && n < 16; c = c->also) {
        results[n++] = c->res;
        c->busy = false;
    }
    call->done(call->owner, call->res, err);
    for (int i = 0; i < n; i++)
        PQclear(results[i]);
}

/* Fail the calls on `calls` now; those queued meanwhile by a `done` stay. */
static void pg_fail_all(struct pg *pg, struct list *calls, const struct err *err)
{
    struct list doomed;

    list_init(&doomed);
    list_splice(&doomed, calls);
    while (!list_is_empty(&doomed))
        pg_answer(pg, first_of(&doomed), err);
}

static void pg_drop(struct pg *pg, enum err_code code, const char *why)
{
    struct err err;

    snprintf(pg->trouble, sizeof(pg->trouble), "%.*s", (int)strcspn(why, "\n"), why);
    err_set(&err, code, "postgres: %s", pg->trouble);
    log_line(LOG_DEBUG, "", "postgres: %s", pg->trouble);
    pg_unwatch(pg);
    for (struct list *n = pg->sent.next; n != &pg->sent; n = n->next)
        pg_clear_results(container_of(n, struct pg_call, node));
    PQfinish(pg->conn);
    pg->conn = NULL;
    pg->at = NULL;
    pg->in_flight = 0;
    pg->err = (struct err){0};
    pg_enter(pg, PG_DOWN);
    pg_fail_all(pg, &pg->sent, &err);
}

/* "cached plan must not change result type", after a migration; "prepared statement does not
 * exist", after DISCARD ALL or behind a pool of connections. */
static bool is_stale(const char *sqlstate)
{
    return !strcmp(sqlstate, "0A000") || !strcmp(sqlstate, "26000");
}

/* Push out what libpq has buffered and wait for what comes next. */
static int pg_flush(struct pg *pg)
{
    int pending = PQflush(pg->conn);

    if (pending < 0)
        return -1;
    return pg_watch(pg, pending ? UV_READABLE | UV_WRITABLE : UV_READABLE);
}

static bool pg_prepares(const struct pg *pg)
{
    return pg->prepare && !pg->pooled;
}

static int pg_send_statement(struct pg *pg, const struct pg_call *c)
{
    const struct sql_text *sql = &sql_texts[c->stmt];

#ifdef TEST_HOOKS
    const char *instead = pg_fault_text(c->stmt, &pg->test_lose);

    if (instead)
        return PQsendQueryParams(pg->conn, instead, 0, NULL, NULL, NULL, NULL, 0);
#endif
    if (pg_prepares(pg))
        return PQsendQueryPrepared(pg->conn, sql->name, c->nparams, c->params, c->lengths,
                                   c->formats, 0);
    return PQsendQueryParams(pg->conn, sql->text, c->nparams, NULL, c->params, c->lengths,
                             c->formats, 0);
}

static int pg_send_call(struct pg *pg, const struct pg_call *call)
{
    for (const struct pg_call *c = call; c; c = c->also)
        if (!pg_send_statement(pg, c))
            return -1;
    return PQpipelineSync(pg->conn) ? 0 : -1;
}

/* When a client goes away between the answers to two transactions, PgBouncer (1.18) gives its
 * server to the next one, who takes the second answer for his own. So there is one at a time. */
static int pg_width(const struct pg *pg)
{
    return pg->pooled ? 1 : MAX_IN_FLIGHT;
}

/* Send what is queued, as far as the pipeline is wide. */
static void pg_send(struct pg *pg)
{
    struct pg_call *call;

    while (pg->in_flight < pg_width(pg) && (call = first_of(&pg->queue))) {
        list_remove(&call->node);
        list_append(&pg->sent, &call->node);
        if (pg->in_flight++ == 0) {
            pg->at = call;
            pg->got_result = false;
        }
        if (pg_send_call(pg, call) < 0) {
            pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
            return;
        }
    }
    if (pg_flush(pg) < 0)
        pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
}

/* The oldest transaction is over: answer it and turn to the next. */
static void pg_finish_oldest(struct pg *pg)
{
    struct pg_call *call = first_of(&pg->sent);
    struct err err = pg->err;

    assert(call);
    pg->err = (struct err){0};
    pg->in_flight--;
    list_remove(&call->node);
    pg->at = first_of(&pg->sent);
    pg->got_result = false;
    pg_answer(pg, call, &err);
}

static void pg_keep_result(struct pg *pg, PGresult *res)
{
    struct pg_call *call = first_of(&pg->sent);
    ExecStatusType status = PQresultStatus(res);

    assert(call && pg->at);
    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK) {
        PQclear(pg->at->res);
        pg->at->res = res;
    } else {
        if (status != PGRES_PIPELINE_ABORTED && pg->err.code == ERR_OK)
            pg_result_err(&pg->err, res, call->sqlstate);
        pg->stale = pg->stale || is_stale(call->sqlstate);
        pg->read_only = pg->read_only || !strcmp(call->sqlstate, "25006");
        PQclear(res);
    }
    pg->got_result = true;
}

/* One result of the pipeline while UP. */
static void pg_take(struct pg *pg, PGresult *res)
{
    if (PQresultStatus(res) == PGRES_PIPELINE_SYNC) {
        PQclear(res);
#ifdef TEST_HOOKS
        if (pg->test_lose) {
            pg->test_lose = false;
            pg_drop(pg, ERR_UNAVAILABLE, "the answer was lost");
            return;
        }
#endif
        pg_finish_oldest(pg);
        if (pg->stale && pg->state == PG_UP)
            pg_drop(pg, ERR_UNAVAILABLE, "the statements are to be prepared anew");
        else if (pg->read_only && pg->state == PG_UP)
            pg_drop(pg, ERR_UNAVAILABLE, "the server has become read only");
    } else if (pg->at) {
        pg_keep_result(pg, res);
    } else {
        PQclear(res);
    }
}

static void on_relisten(uv_timer_t *timer);

/* A failed LISTEN costs hints until the next one; polling covers for them. */
static void on_listening(void *owner, PGresult *res, const struct err *err)
{
    struct pg *pg = owner;

    (void)res;
    pg->listen_pending = false;
    if (err->code == ERR_OK && pg->on_up)
        pg->on_up(pg->listen_owner);
    else if (err->code != ERR_OK && pg->state == PG_UP)
        uv_timer_start(&pg->relisten, on_relisten, RELISTEN_MS, 0);
}

static void pg_send_listen(struct pg *pg)
{
    if (pg->listen_pending)
        return; /* still queued from before the connection was lost */
    pg->listen_pending = true;
    pg_call_init(&pg->listen_call, SQL_NOTIFY_LISTEN);
    pg_exec(pg, &pg->listen_call, 5000, on_listening, pg);
}

/* A newer schema is fine: it only adds, until the release after (CONTRIBUTING.md). With an older
 * one we wait; whoever calls meanwhile is told why. */
static void pg_check_schema(struct pg *pg, const PGresult *res)
{
    int wanted = schema_migrations[schema_migration_count - 1].version;
    int version = (int)strtol(PQgetvalue(res, 0, 0), NULL, 10);
    char why[160] = "";

    if (version < wanted)
        snprintf(why, sizeof(why),
                 "the database has schema %d, this program needs %d: run nocturne migrate", version,
                 wanted);
    else if (*PQgetvalue(res, 0, 2) != 't')
        snprintf(
            why, sizeof(why),
            "the database has the functions of version %.20s, this program is " NOCTURNE_VERSION
            ": run nocturne migrate",
            PQgetvalue(res, 0, 1));
    if (*why)
        pg_drop(pg, ERR_UNAVAILABLE, why);
}

/* Behind a pool the process id that the server tells is not the one we were given when the
 * connection opened, and the next transaction may have another session, without our statements or
 * with those of another version of this program. */
static void pg_check_pool(struct pg *pg, const PGresult *res)
{
    bool pooled = strtol(PQgetvalue(res, 0, 3), NULL, 10) != PQbackendPID(pg->conn);

    if (pooled && !pg->pooled && pg->prepare)
        log_line(LOG_INFO, "",
                 "connected through a pool: statements are not prepared, hints may not come");
    pg->pooled = pooled;
}

static void pg_cannot_check(struct pg *pg, const PGresult *res)
{
    struct err err = {0};
    char sqlstate[6];

    pg_result_err(&err, res, sqlstate);
    if (!strcmp(sqlstate, "42P01") || !strcmp(sqlstate, "3F000"))
        pg_drop(pg, ERR_UNAVAILABLE, "the database has no schema: run nocturne migrate");
    else
        pg_drop(pg, ERR_UNAVAILABLE, err.msg);
}

static void pg_prepare(struct pg *pg)
{
    pg_enter(pg, PG_PREPARING);
    for (int i = 0; i < SQL_COUNT; i++)
        if (!PQsendPrepare(pg->conn, sql_texts[i].name, sql_texts[i].text, 0, NULL))
            goto fail;
    if (PQsendQueryPrepared(pg->conn, sql_texts[SQL_SESSION_SETTINGS].name, 0, NULL, NULL, NULL,
                            0) &&
        PQpipelineSync(pg->conn) && pg_flush(pg) == 0)
        return;
fail:
    pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
}

static void on_relisten(uv_timer_t *timer)
{
    struct pg *pg = timer->data;

    if (pg->state == PG_UP)
        pg_send_listen(pg);
}

/* One result of the pipeline while CHECKING or PREPARING. */
static void pg_take_early(struct pg *pg, PGresult *res)
{
    ExecStatusType status = PQresultStatus(res);

    if (status == PGRES_PIPELINE_SYNC && pg->state == PG_CHECKING && pg_prepares(pg)) {
        pg_prepare(pg);
    } else if (status == PGRES_PIPELINE_SYNC) {
        pg_enter(pg, PG_UP);
        if (pg->listening)
            pg_send_listen(pg);
    } else if (status == PGRES_TUPLES_OK && pg->state == PG_CHECKING) {
        pg_check_pool(pg, res);
        pg_check_schema(pg, res);
    } else if (status != PGRES_COMMAND_OK && status != PGRES_TUPLES_OK) {
        pg_cannot_check(pg, res);
    }
    PQclear(res);
}

static void pg_hear(struct pg *pg)
{
    PGnotify *note;

    while (pg->state == PG_UP && (note = PQnotifies(pg->conn))) {
        if (pg->on_notify)
            pg->on_notify(pg->listen_owner, note->extra);
        PQfreemem(note);
    }
}

static bool pg_is_open(const struct pg *pg)
{
    return pg->state == PG_CHECKING || pg->state == PG_PREPARING || pg->state == PG_UP;
}

static void pg_receive(struct pg *pg)
{
    int nulls = 0;

    if (!PQconsumeInput(pg->conn) || pg_flush(pg) < 0) {
        pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
        return;
    }
    /* Each statement's results end with a NULL; two in a row mean that nothing is left. */
    while (pg_is_open(pg) && nulls < 2 && !PQisBusy(pg->conn)) {
        PGresult *res = PQgetResult(pg->conn);

        if (!res) {
            nulls++;
            if (pg->got_result && pg->at)
                pg->at = pg->at->also;
            pg->got_result = false;
            continue;
        }
        nulls = 0;
        if (pg->state == PG_UP)
            pg_take(pg, res);
        else
            pg_take_early(pg, res);
    }
    pg_hear(pg);
    if (pg->state == PG_UP && PQstatus(pg->conn) == CONNECTION_BAD)
        pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
    else if (pg->state == PG_UP && !list_is_empty(&pg->queue))
        pg_send(pg);
}

static void pg_check(struct pg *pg)
{
    const char *const params[] = {NOCTURNE_VERSION};

    PQsetnonblocking(pg->conn, 1);
    pg->stale = pg->read_only = false;
    pg_enter(pg, PG_CHECKING);
    if (!PQenterPipelineMode(pg->conn) ||
        !PQsendQueryParams(pg->conn, sql_texts[SQL_SCHEMA_CHECK].text, 1, NULL, params, NULL, NULL,
                           0) ||
        !PQpipelineSync(pg->conn) || pg_flush(pg) < 0)
        pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
}

static void pg_poll_connect(struct pg *pg)
{
    PostgresPollingStatusType polling;
    int events;

    /* libpq may close its socket here and open another one with the same number; libuv must
     * have let go of the old one by then. */
    pg_unwatch(pg);
    polling = PQconnectPoll(pg->conn);
    events = polling == PGRES_POLLING_WRITING ? UV_WRITABLE : UV_READABLE;
    if (polling == PGRES_POLLING_OK)
        pg_check(pg);
    else if (polling == PGRES_POLLING_FAILED || pg_watch(pg, events) < 0)
        pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
}

static PGconn *start_connecting(const char *conninfo, const char *name)
{
    /* Half-open connections are found by the kernel within 5 s, not hours. */
    const char *const keys[] = {"dbname",
                                "fallback_application_name",
                                "target_session_attrs",
                                "keepalives_idle",
                                "keepalives_interval",
                                "keepalives_count",
                                "tcp_user_timeout",
                                NULL};
    const char *const values[] = {conninfo, name, "read-write", "3", "1", "2", "5000", NULL};
    PGconn *conn = PQconnectStartParams(keys, values, 1);

    if (!conn)
        abort();
    return conn;
}

static void pg_connect(struct pg *pg)
{
    pg->conn = start_connecting(pg->conninfo, pg->name);
    pg_enter(pg, PG_CONNECTING);
    if (PQstatus(pg->conn) == CONNECTION_BAD || pg_watch(pg, UV_WRITABLE) < 0)
        pg_drop(pg, ERR_UNAVAILABLE, PQerrorMessage(pg->conn));
}

static void on_socket(uv_poll_t *poll, int status, int events)
{
    struct pg *pg = ((struct pg_watch *)poll->data)->pg;

    (void)status; /* libpq finds out for itself when it touches the socket */
    (void)events;
    switch (pg->state) {
    case PG_CONNECTING:
        pg_poll_connect(pg);
        break;
    case PG_CHECKING:
    case PG_PREPARING:
    case PG_UP:
        pg_receive(pg);
        break;
    case PG_DOWN:
    case PG_CLOSED:
        assert(!"without a connection there is no socket");
    }
}

static void on_timer(uv_timer_t *timer)
{
    struct pg *pg = timer->data;
    uint64_t wait_ms;

    switch (pg->state) {
    case PG_DOWN:
        wait_ms = pg_peer_wait_ms(&pg->peer);
        if (wait_ms > 0)
            uv_timer_start(timer, on_timer, wait_ms, 0);
        else
            pg_connect(pg);
        break;
    case PG_CONNECTING:
    case PG_CHECKING:
    case PG_PREPARING:
        pg_drop(pg, ERR_TIMEOUT, "no connection in time");
        break;
    case PG_UP:
        pg_send(pg);
        break;
    case PG_CLOSED:
        assert(!"the timer is stopped");
    }
}

/* Calls have different time-outs, so each is looked at; there are never many. */
static struct pg_call *first_overdue(struct list *calls, uint64_t now_ms)
{
    list_foreach (n, calls) {
        struct pg_call *call = container_of(n, struct pg_call, node);

        if (call->deadline_ms <= now_ms)
            return call;
    }
    return NULL;
}

static void on_tick(uv_timer_t *tick)
{
    struct pg *pg = tick->data;
    uint64_t now_ms = clock_mono_ms();
    struct pg_call *call;
    struct err err;

    if (first_overdue(&pg->sent, now_ms))
        pg_drop(pg, ERR_TIMEOUT, "no answer in time");
    err_set(&err, ERR_UNAVAILABLE, "postgres: no connection in time%s%s", *pg->trouble ? ": " : "",
            pg->trouble);
    while ((call = first_overdue(&pg->queue, now_ms))) /* an answer may change the list */
        pg_answer(pg, call, &err);
}

struct pg *pg_new(uv_loop_t *loop, const char *conninfo, const char *name, bool prepare)
{
    struct pg *pg = xcalloc(1, sizeof(*pg));

    pg->conninfo = xstrdup(conninfo);
    pg->name = xstrdup(name);
    pg_peer_init(&pg->peer, on_hurry);
    pg->prepare = prepare;
    list_init(&pg->queue);
    list_init(&pg->sent);
    list_init(&pg->listen_call.node);
    uv_timer_init(loop, &pg->timer);
    uv_timer_init(loop, &pg->tick);
    uv_timer_init(loop, &pg->relisten);
    pg->timer.data = pg->tick.data = pg->relisten.data = pg;
    pg->open_handles = 3;
    uv_timer_start(&pg->timer, on_timer, 0, 0); /* DOWN, first attempt at once */
    return pg;
}

static void on_pg_closed(uv_handle_t *handle)
{
    struct pg *pg = handle->data;

    if (--pg->open_handles > 0)
        return;
    free(pg->conninfo);
    free(pg->name);
    free(pg);
}

void pg_close(struct pg *pg)
{
    struct err err;

    if (!pg)
        return;
    err_set(&err, ERR_CANCELED, "postgres: connection closed");
    pg_peer_release(&pg->peer);
    pg_unwatch(pg);
    PQfinish(pg->conn);
    pg->conn = NULL;
    pg_enter(pg, PG_CLOSED);
    pg_fail_all(pg, &pg->sent, &err);
    pg_fail_all(pg, &pg->queue, &err);
    uv_close((uv_handle_t *)&pg->timer, on_pg_closed);
    uv_close((uv_handle_t *)&pg->tick, on_pg_closed);
    uv_close((uv_handle_t *)&pg->relisten, on_pg_closed);
}

void pg_call_init(struct pg_call *call, enum sql_stmt stmt)
{
    assert(!call->busy);
    list_init(&call->node);
    call->stmt = stmt;
    call->nparams = 0;
    call->also = NULL;
    call->res = NULL;
    call->sqlstate[0] = '\0';
}

static void pg_param(struct pg_call *call, const char *value, size_t len, int format)
{
    assert(call->nparams < PG_MAX_PARAMS);
    call->params[call->nparams] = value;
    call->lengths[call->nparams] = (int)len;
    call->formats[call->nparams++] = format;
}

void pg_param_int(struct pg_call *call, int64_t value)
{
    char *text = call->text[call->nparams];

    snprintf(text, sizeof(call->text[0]), "%" PRId64, value);
    pg_param(call, text, 0, 0);
}

void pg_param_text(struct pg_call *call, const char *value)
{
    pg_param(call, value, 0, 0);
}

void pg_param_array(struct pg_call *call, struct pg_array *array)
{
    pg_array_finish(array);
    pg_param(call, array->bytes.data, array->bytes.len, 1);
}

void pg_call_also(struct pg_call *call, struct pg_call *next)
{
    while (call->also)
        call = call->also;
    call->also = next;
}

void pg_exec(struct pg *pg, struct pg_call *call, uint64_t timeout_ms, pg_done_fn *done,
             void *owner)
{
    call->deadline_ms = clock_mono_ms() + timeout_ms;
    call->done = done;
    call->owner = owner;
    for (struct pg_call *c = call; c; c = c->also)
        c->busy = true;
    list_append(&pg->queue, &call->node);
    if (pg->load++ == 0 && pg->state != PG_CLOSED)
        uv_timer_start(&pg->tick, on_tick, TICK_MS, TICK_MS);
    if (pg->state == PG_UP) /* by the timer, so nothing happens before we return */
        uv_timer_start(&pg->timer, on_timer, 0, 0);
}

void pg_retry_within(struct pg *pg, uint64_t ms)
{
    pg->peer.retry_cap_ms = ms;
}

bool pg_is_up(const struct pg *pg)
{
    return pg->state == PG_UP;
}

int pg_backend_id(const struct pg *pg)
{
    return pg->state == PG_UP ? PQbackendPID(pg->conn) : 0;
}

size_t pg_load(const struct pg *pg)
{
    return pg->load;
}

const char *pg_trouble(const struct pg *pg)
{
    return pg->trouble;
}

void pg_listen(struct pg *pg, void (*on_notify)(void *owner, const char *payload),
               void (*on_up)(void *owner), void *owner)
{
    pg->listening = true;
    pg->on_notify = on_notify;
    pg->on_up = on_up;
    pg->listen_owner = owner;
    if (pg->state == PG_UP)
        pg_send_listen(pg);
}
