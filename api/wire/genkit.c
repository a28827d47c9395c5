/*
 * Snapshots: read, waited for, aborted; and how the wire begins and ends with the process.
 *
 * A database that is away for a moment must not end `task.wait()` of Genkit's client, which gives
 * up at the first answer that is not 200: reads are tried again for READ_PATIENCE_MS.
 */
#include "wire/genkit.h"

#include "clock.h"
#include "hook.h"
#include "hub.h"
#include "id.h"
#include "mem.h"
#include "park.h"
#include "reply.h"
#include "wire/genkit_frame.h"
#include "wire/genkit_input.h"
#include "wire/genkit_parts.h"
#include "wire/genkit_reply.h"

#include <stdlib.h>
#include <string.h>

#define READ_PATIENCE_MS 20000
#define READ_AGAIN_MS    250

enum look_state {
    LOOK_CHECKING,  /* genkit_agent.sql */
    LOOK_READING,   /* genkit_snapshot.sql or genkit_abort.sql */
    LOOK_RESTING,   /* the database did not answer: a delay */
    LOOK_FOLLOWING, /* the hub tells of the end, or `rest` runs out */
};

enum look_kind { LOOK_GET, LOOK_WAIT, LOOK_ABORT };

struct look {
    enum look_state state;
    enum look_kind kind;
    struct genkit *gk;
    struct request *r;
    const char *snapshot_id, *session_id; /* NULL: not given; in r->body */
    bool checked;                         /* the agent is there */
    bool waited;                          /* long enough: it is told as it stands */
    uint64_t until_ms;
    struct delay rest;
    struct genkit_chunks chunks;
    struct buf out;
};

static void look_check(struct look *look);
static void look_read(struct look *look);

static void look_enter(struct look *look, enum look_state state)
{
    look->state = state;
    hook_state("look", (int)state);
}

static struct request *look_free(struct look *look)
{
    struct request *r = look->r;

    genkit_chunks_release(&look->chunks);
    buf_release(&look->out);
    free(look);
    return r;
}

static void look_error(struct look *look, const char *status, const char *message)
{
    genkit_reply_error(look_free(look), status, message);
}

static void on_rested(void *owner)
{
    struct look *look = owner;

    if (look->checked)
        look_read(look);
    else
        look_check(look);
}

/* By the end of the drain, before another try has an answer. */
static bool will_be_cut(const struct api *api)
{
    return api->draining && clock_mono_ms() + 2 * READ_AGAIN_MS >= api->cut_ms;
}

/* True when it will be tried again. */
static bool look_rest(struct look *look, const struct err *err)
{
    if ((err->code != ERR_UNAVAILABLE && err->code != ERR_TIMEOUT) ||
        clock_mono_ms() >= look->until_ms || will_be_cut(look->gk->api))
        return false;
    look_enter(look, LOOK_RESTING);
    delay_start(look->gk->delays, &look->rest, READ_AGAIN_MS, on_rested, look);
    return true;
}

/* ---- abort ---- */

static void on_aborted(void *owner, PGresult *res, const struct err *err)
{
    struct look *look = owner;
    const char *found = NULL, *now, *worker_id;
    BUF_AUTO(out, BUF_MAX);

    if (err->code != ERR_OK) {
        genkit_reply_err(look_free(look), err);
        return;
    }
    (void)json_open(&out, '{');
    (void)json_put_member_str(&out, "snapshotId", look->snapshot_id);
    if (store_read_genkit_abort(res, &found, &now, &worker_id)) {
        notify_abort(look->gk->api->notify, look->snapshot_id, !strcmp(now, "aborting"), worker_id,
                     !strcmp(found, "pending"));
        (void)json_put_member_str(&out, "status", found);
    }
    (void)json_close(&out, '}');
    genkit_reply_result(look_free(look), out.data);
}

static void abort_unknown(struct look *look)
{
    BUF_AUTO(out, BUF_MAX);

    (void)json_open(&out, '{');
    (void)json_put_member_str(&out, "snapshotId", look->snapshot_id);
    (void)json_close(&out, '}');
    genkit_reply_result(look_free(look), out.data);
}

/* ---- reading and waiting ---- */

static long on_events(struct request *r, const struct sweep_row *chunk, int64_t after)
{
    struct look *look = r->ud;

    if (genkit_chunks_take(&look->chunks, chunk, after, &look->out) < 0)
        return HUB_DAMAGED;
    if (!look->chunks.ended)
        return 0;
    httpd_watch(r->http, NULL, NULL);
    delay_cancel(&look->rest);
    look->until_ms = clock_mono_ms() + READ_PATIENCE_MS;
    look_read(look);
    return HUB_TAKEN;
}

static void on_left(struct request *r, bool cut)
{
    struct look *look = r->ud;

    (void)cut;
    delay_cancel(&look->rest);
    (void)look_free(look);
    request_over(r);
}

static void on_waited(void *owner)
{
    struct look *look = owner;

    hub_leave(look->r);
    look->waited = true;
    look->until_ms = clock_mono_ms() + READ_PATIENCE_MS;
    look_read(look);
}

static void look_follow(struct look *look)
{
    static const struct hub_watch watch = {on_events, on_left, NULL};
    struct request *r = look->r;

    if (park_enter(r, PARK_WAITER) < 0) {
        (void)look_free(look);
        return;
    }
    look_enter(look, LOOK_FOLLOWING);
    r->ud = look;
    delay_start(look->gk->delays, &look->rest, look->gk->api->conf.genkit_wait, on_waited, look);
    hub_follow(look->gk->api->hub, r, look->snapshot_id, 0, &watch);
}

static void on_snapshot(void *owner, PGresult *res, const struct err *err)
{
    struct look *look = owner;
    const char *json;
    bool settled;

    if (err->code != ERR_OK) {
        if (!look_rest(look, err))
            genkit_reply_err(look_free(look), err);
        return;
    }
    json = store_read_genkit_snapshot(res, &settled);
    if (!json)
        look_error(look, "NOT_FOUND",
                   look->snapshot_id ? "Snapshot not found" : "Session not found");
    else if (look->kind == LOOK_WAIT && !settled && !look->chunks.ended && !look->waited)
        look_follow(look);
    else
        genkit_reply_result(look_free(look), json);
}

static void look_read(struct look *look)
{
    struct pg *pg = pgpool_pick(look->gk->api->pool);
    struct request *r = look->r;

    look_enter(look, LOOK_READING);
    if (look->kind == LOOK_ABORT)
        store_genkit_abort(pg, &r->call, r->params[0], look->snapshot_id, "requested", on_aborted,
                           look);
    else
        store_genkit_snapshot(pg, &r->call, r->params[0], look->snapshot_id, look->session_id,
                              on_snapshot, look);
}

/* ---- begin ---- */

/* -1: answered, `look` is gone. */
static int read_ids(struct look *look)
{
    struct request *r = look->r;
    struct err err = {0};
    int rc = genkit_read_body(r, &err);
    const cJSON *data = rc == 0 ? json_get(r->body, "data") : NULL;
    const cJSON *snapshot = json_get(data, "snapshotId"), *session = json_get(data, "sessionId");

    if (rc < 0) {
        (void)look_free(look);
        return -1;
    }
    look->snapshot_id = snapshot && cJSON_IsString(snapshot) && *snapshot->valuestring
                            ? snapshot->valuestring
                            : NULL;
    look->session_id =
        session && cJSON_IsString(session) && *session->valuestring ? session->valuestring : NULL;
    if (rc > 0)
        look_error(look, "INVALID_ARGUMENT", err.msg);
    else if (!cJSON_IsObject(data) || (snapshot && !cJSON_IsString(snapshot)) ||
             (session && !cJSON_IsString(session)))
        look_error(look, "INVALID_ARGUMENT", "data must have a snapshotId, a string");
    else if (look->kind != LOOK_GET && !look->snapshot_id)
        look_error(look, "INVALID_ARGUMENT", "data.snapshotId is missing");
    else if (!look->snapshot_id == !look->session_id)
        look_error(look, "INVALID_ARGUMENT",
                   "data must have either a snapshotId or a sessionId, not both");
    else if (look->session_id && !genkit_session_is_valid(look->session_id))
        look_error(look, "NOT_FOUND", "Session not found");
    else
        return 0;
    return -1;
}

static void on_agent(void *owner, PGresult *res, const struct err *err)
{
    struct look *look = owner;
    struct genkit_agent_row agent = {0};
    struct err bad = *err;

    if (bad.code == ERR_OK)
        (void)store_read_genkit_agent(res, &agent, &bad);
    look->checked = bad.code == ERR_OK;
    if (bad.code != ERR_OK && look->kind != LOOK_ABORT && look_rest(look, &bad)) {
        /* once more */
    } else if (bad.code != ERR_OK) {
        genkit_reply_err(look_free(look), &bad);
    } else if (agent.client || !agent.is_llm) {
        look_error(look, "FAILED_PRECONDITION", "this agent has no store of snapshots");
    } else if (look->snapshot_id && !id_is_uuid(look->snapshot_id)) { /* ours all are */
        if (look->kind == LOOK_ABORT)
            abort_unknown(look);
        else
            look_error(look, "NOT_FOUND", "Snapshot not found");
    } else {
        look_read(look);
    }
}

static void look_check(struct look *look)
{
    struct request *r = look->r;

    look_enter(look, LOOK_CHECKING);
    store_genkit_agent(pgpool_pick(r->api->pool), &r->call, r->params[0], on_agent, look);
}

static void look_start(struct request *r, enum look_kind kind)
{
    struct look *look = xcalloc(1, sizeof(*look));

    look->kind = kind;
    look->gk = r->api->genkit;
    look->r = r;
    look->until_ms = clock_mono_ms() + READ_PATIENCE_MS;
    genkit_chunks_init(&look->chunks, true);
    buf_init(&look->out, BUF_MAX);
    if (read_ids(look) == 0)
        look_check(look);
}

void genkit_get_snapshot(struct request *r)
{
    look_start(r, LOOK_GET);
}

void genkit_wait_for_snapshot(struct request *r)
{
    look_start(r, LOOK_WAIT);
}

void genkit_abort(struct request *r)
{
    look_start(r, LOOK_ABORT);
}

/* ---- the process ---- */

int genkit_map_path(const char *prefix, char **segments, int n)
{
    static char genkit[] = "genkit";
    bool plain = n > 0 && strcmp(segments[0], genkit) == 0;
    int at = 0;

    for (prefix += strspn(prefix, "/"); *prefix; prefix += strspn(prefix, "/")) {
        size_t len = strcspn(prefix, "/");

        if (at >= n || strlen(segments[at]) != len || strncmp(segments[at], prefix, len) != 0)
            return plain ? 0 : n;
        prefix += len;
        at++;
    }
    if (at == 0 || at >= n)
        return plain && at == 0 ? 0 : n;
    memmove(segments + 1, segments + at, (size_t)(n - at) * sizeof(*segments));
    segments[0] = genkit;
    return n - at + 1;
}

struct genkit *genkit_new(struct api *api)
{
    struct genkit *gk = xcalloc(1, sizeof(*gk));

    gk->api = api;
    gk->lives = genkit_lives_new(api);
    gk->delays = delays_new(&api->loop.uv);
    return gk;
}

void genkit_hint(struct genkit *gk, const char *payload)
{
    genkit_lives_hint(gk->lives, payload);
}

static void on_idle(void *owner)
{
    struct genkit *gk = owner;

    if (!genkit_lives_are_idle(gk->lives)) /* for as long as a statement may take, no longer */
        delay_start(gk->delays, &gk->idle, READ_AGAIN_MS / 10, on_idle, gk);
    else
        gk->on_idle(gk->idle_owner);
}

void genkit_when_idle(struct genkit *gk, void (*done)(void *owner), void *owner)
{
    gk->on_idle = done;
    gk->idle_owner = owner;
    on_idle(gk);
}

void genkit_close(struct genkit *gk)
{
    genkit_lives_close(gk->lives);
    delays_close(gk->delays);
    free(gk);
}
