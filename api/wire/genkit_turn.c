/*
 *   LOOKING ---> SUBMITTING ---> FOLLOWING ---> READING ---> over
 *     |  |           |              ^             |
 *     |  +-------> FINDING ---------+          BLOCKED
 *     +--------------+---> KEEPING ---> over
 *
 * LOOKING     genkit_agent.sql: how the body is to be read
 * SUBMITTING  genkit_submit.sql; then the head of the stream goes out, with the id of the stream
 * FINDING     genkit_find.sql: a stream is joined again
 * FOLLOWING   the hub gives us the turn's events; we write frames, or wait for the end
 * READING     genkit_output.sql: what the last frames say
 * BLOCKED     until the client has taken what is queued for it
 * KEEPING     genkit_keep.sql: the request never became a turn, but its stream can be replayed
 *
 * A stream ends with one terminal frame or with a reset of the connection, never in between:
 * Genkit's client spins for ever on a clean early end. If this process dies the turn goes on, and
 * its stream can be joined again through any other one.
 */
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

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define STREAM_TYPE  "text/event-stream"
#define QUEUED_BYTES (64 << 10) /* more than that: wait before the last frames */

enum run_state {
    RUN_LOOKING,
    RUN_SUBMITTING,
    RUN_FINDING,
    RUN_FOLLOWING,
    RUN_READING,
    RUN_BLOCKED,
    RUN_KEEPING,
};

struct run {
    enum run_state state;
    struct genkit *gk;
    struct request *r;
    bool stream, ends; /* ends: the turn ends when its readers leave */
    bool gone;         /* the client left while we were READING */
    struct genkit_input input;
    const char *stream_id; /* asked for; NULL: none */
    char id[ID_BYTES];     /* of the task and of the stream */
    struct genkit_live *live;
    struct genkit_chunks chunks;
    struct buf out;
    long queued;
};

static void run_enter(struct run *run, enum run_state state)
{
    run->state = state;
    hook_state("run", (int)state);
}

/* Forget it; its request is the caller's. */
static struct request *run_free(struct run *run)
{
    struct request *r = run->r;

    genkit_input_release(&run->input);
    genkit_chunks_release(&run->chunks);
    buf_release(&run->out);
    free(run);
    return r;
}

bool genkit_wants_stream(struct request *r)
{
    const char *accept = httpd_header(r->http, "accept"), *query = query_get(&r->query, "stream");

    return (accept && strcasestr(accept, "text/event-stream")) ||
           (query && strcmp(query, "true") == 0);
}

/* ---- streams ---- */

/* `tell_id`: the client has not named the stream itself. */
static void begin_stream(struct run *run, bool tell_id)
{
    if (tell_id)
        (void)httpd_set(run->r->http, "X-Genkit-Stream-Id", run->id);
    (void)httpd_set(run->r->http, "Cache-Control", "no-store");
    (void)httpd_set(run->r->http, "X-Accel-Buffering", "no");
    request_stream(run->r, 200, STREAM_TYPE);
}

/* Write what is in `out` as all of the stream's rest. */
static void finish_stream(struct run *run)
{
    struct request *r;

    (void)httpd_write(run->r->http, run->out.data, run->out.len);
    httpd_end(run->r->http);
    r = run_free(run);
    request_over(r);
}

/* ---- requests that become no turn ---- */

static void on_kept(void *owner, PGresult *res, const struct err *err)
{
    struct run *run = owner;

    (void)res;
    (void)err; /* without its row the stream cannot be replayed, no more */
    begin_stream(run, true);
    finish_stream(run);
}

static void keep_frames(struct run *run)
{
    run_enter(run, RUN_KEEPING);
    id_uuid7(run->id);
    store_genkit_keep(pgpool_pick(run->gk->api->pool), &run->r->call, run->id, run->out.data,
                      on_kept, run);
}

/* A mistake of the request: in-band for streams, where the client can see its status alone. */
static void run_refuse(struct run *run, const char *status, const char *message)
{
    BUF_AUTO(error, BUF_MAX);

    if (!run->stream) {
        genkit_reply_error(run_free(run), status, message);
        return;
    }
    genkit_put_error(&error, status, message);
    buf_reset(&run->out);
    genkit_put_frame(&run->out, "error", error.data);
    keep_frames(run);
}

static void run_refuse_json(struct run *run, const char *error)
{
    struct err err;
    JSON_AUTO(root) = json_parse(error, strlen(error), &err);

    run_refuse(run, json_str_or(root, "status", "INTERNAL"), json_str_or(root, "message", ""));
}

/* A turn that could not begin: an outcome, not an error. */
static void run_fail(struct run *run, const char *error, const char *session_id)
{
    BUF_AUTO(result, BUF_MAX);

    (void)json_open(&result, '{');
    (void)json_put_member_str(&result, "sessionId", session_id);
    (void)json_put_member_str(&result, "finishReason", "failed");
    (void)json_put_member_raw(&result, "error", error);
    (void)json_close(&result, '}');
    if (!run->stream) {
        genkit_reply_result(run_free(run), result.data);
        return;
    }
    buf_reset(&run->out);
    genkit_put_frame(&run->out, "result", result.data);
    keep_frames(run);
}

/* ---- the end ---- */

/* After the last event, before its frames: nothing but a cut is left to say. */
static void run_cut(struct run *run)
{
    httpd_abort(run->r->http);
    request_over(run_free(run));
}

static void on_gone(struct httpd_req *http)
{
    struct run *run = http->ud;

    if (run->state == RUN_READING)
        run->gone = true;
    else
        request_over(run_free(run));
}

/* The client has taken what was queued for it. */
static void on_writable(struct httpd_req *http)
{
    struct run *run = http->ud;

    run->queued = 0;
    if (run->state != RUN_BLOCKED)
        return;
    httpd_watch(http, NULL, NULL);
    finish_stream(run);
}

static void write_end(struct run *run, const struct genkit_output_row *row)
{
    if (!run->stream && row->error) {
        run_refuse_json(run, row->error);
        return;
    }
    if (!run->stream) {
        genkit_reply_result(run_free(run), row->result);
        return;
    }
    buf_reset(&run->out);
    genkit_put_end(&run->out, row);
    if (run->queued <= QUEUED_BYTES)
        finish_stream(run);
    else
        run_enter(run, RUN_BLOCKED);
}

static void on_output(void *owner, PGresult *res, const struct err *err)
{
    struct run *run = owner;
    struct genkit_output_row row;
    struct err bad = *err;

    if (run->gone) {
        request_over(run_free(run));
    } else if (bad.code == ERR_OK && store_read_genkit_output(res, &row, &bad) == 0) {
        write_end(run, &row);
    } else if (run->stream) {
        run_cut(run);
    } else {
        struct request *r = run_free(run);

        genkit_reply_err(r, &bad);
    }
}

static void read_output(struct run *run)
{
    run_enter(run, RUN_READING);
    genkit_live_leave(run->live, false);
    run->live = NULL;
    /* The turn has ended: who leaves now changes nothing. But what is queued must go first. */
    run->r->http->ud = run;
    if (run->queued > QUEUED_BYTES)
        httpd_watch(run->r->http, on_gone, on_writable);
    else
        httpd_watch(run->r->http, NULL, NULL);
    store_genkit_output(pgpool_pick(run->gk->api->pool), &run->r->call, run->id, on_output, run);
}

/* ---- following ---- */

static long on_events(struct request *r, const struct sweep_row *chunk, int64_t after)
{
    struct run *run = r->ud;

    buf_reset(&run->out);
    if (genkit_chunks_take(&run->chunks, chunk, after, &run->out) < 0)
        return HUB_DAMAGED;
    if (run->stream) { /* also without frames: what was queued may have gone since */
        run->queued = httpd_write(r->http, run->out.data, run->out.len);
        if (run->queued < 0)
            return HUB_LEFT;
    }
    if (!run->chunks.ended)
        return run->queued;
    read_output(run);
    return HUB_TAKEN;
}

static void on_left(struct request *r, bool cut)
{
    struct run *run = r->ud;

    genkit_live_leave(run->live, !cut);
    (void)run_free(run);
    request_over(r);
}

static void follow(struct run *run)
{
    static const struct hub_watch streamed = {on_events, on_left, GENKIT_KEEP_ALIVE};
    static const struct hub_watch waiting = {on_events, on_left, NULL};

    run_enter(run, RUN_FOLLOWING);
    run->r->ud = run;
    run->live = genkit_live_enter(run->gk->lives, run->id, run->ends);
    genkit_chunks_release(&run->chunks);
    genkit_chunks_init(&run->chunks, !run->stream);
    hub_follow(run->gk->api->hub, run->r, run->id, 0, run->stream ? &streamed : &waiting);
}

/* ---- submitting ---- */

static void reply_detached(struct run *run, const char *session_id)
{
    BUF_AUTO(result, BUF_MAX);

    (void)json_open(&result, '{');
    (void)json_put_member_str(&result, "sessionId", session_id);
    (void)json_put_member_str(&result, "snapshotId", run->id);
    (void)json_put_member_str(&result, "finishReason", "detached");
    (void)json_close(&result, '}');
    if (!run->stream) {
        genkit_reply_result(run_free(run), result.data);
        return;
    }
    buf_reset(&run->out);
    genkit_put_frame(&run->out, "result", result.data);
    begin_stream(run, true);
    finish_stream(run);
}

static void run_accepted(struct run *run, const struct genkit_accepted_row *row)
{
    struct api *api = run->gk->api;

    snprintf(run->id, sizeof(run->id), "%s", row->task_id);
    api->submitted++;
    if (strcmp(row->status, "queued") == 0)
        notify_put(api->notify, "r");
    if (run->input.detach) {
        reply_detached(run, row->session_id);
        return;
    }
    if (run->stream)
        begin_stream(run, true);
    follow(run);
}

static void on_submitted(void *owner, PGresult *res, const struct err *err)
{
    struct run *run = owner;
    struct genkit_accepted_row row;
    struct err bad = *err;
    const char *status, *message;

    if (bad.code == ERR_OK && store_read_genkit_accepted(res, &row, &bad) == 0) {
        if (row.task_id)
            run_accepted(run, &row);
        else if (row.misuse)
            run_refuse_json(run, row.refused);
        else
            run_fail(run, row.refused, row.session_id);
        return;
    }
    status = genkit_status_of(run->r, &bad, &message);
    run_refuse(run, status, message);
}

static void submit(struct run *run, const struct genkit_agent_row *agent)
{
    struct genkit_submit_row row = {
        .agent = run->r->params[0],
        .input = run->input.input,
        .options = run->input.options,
        .session_id = run->input.session_id,
        .snapshot_id = run->input.snapshot_id,
        .busy = request_own(run->r, xstrdup(agent->busy)),
    };

    if (row.snapshot_id && !id_is_uuid(row.snapshot_id)) { /* ours all are */
        run_fail(run, "{\"status\":\"NOT_FOUND\",\"message\":\"NOT_FOUND: Snapshot not found\"}",
                 NULL);
        return;
    }
    if (request_read_key(run->r, &row.key) < 0) {
        (void)run_free(run);
        return;
    }
    run_enter(run, RUN_SUBMITTING);
    store_genkit_submit(pgpool_pick(run->gk->api->pool), &run->r->call, &row, on_submitted, run);
}

/* ---- a stream joined again ---- */

static void on_found(void *owner, PGresult *res, const struct err *err)
{
    struct run *run = owner;
    const char *frames;
    bool foreground;
    struct request *r;

    if (err->code != ERR_OK) {
        r = run_free(run);
        genkit_reply_err(r, err);
    } else if (!store_read_genkit_find(res, &frames, &foreground)) {
        r = run_free(run);
        reply_empty(r, 204);
    } else if (frames) {
        buf_reset(&run->out);
        (void)buf_puts(&run->out, frames);
        begin_stream(run, false);
        finish_stream(run);
    } else {
        snprintf(run->id, sizeof(run->id), "%s", run->stream_id);
        run->ends = run->ends && foreground;
        begin_stream(run, false);
        follow(run);
    }
}

static void find_stream(struct run *run)
{
    char *id = request_own(run->r, xstrdup(run->stream_id));

    if (!path_take_uuid(id)) {
        struct request *r = run_free(run);

        reply_empty(r, 204);
        return;
    }
    run->stream_id = id;
    run_enter(run, RUN_FINDING);
    store_genkit_find(pgpool_pick(run->gk->api->pool), &run->r->call, run->r->params[0], id,
                      on_found, run);
}

/* ---- begin ---- */

static void read_input(struct run *run, const struct genkit_agent_row *agent)
{
    struct err err;
    int rc = genkit_read_body(run->r, &err);

    if (rc < 0) {
        (void)run_free(run);
    } else if (rc > 0) {
        run_refuse(run, "INVALID_ARGUMENT", err.msg);
    } else if (genkit_input_read(&run->input, run->r->http->body, run->r->body, agent, &err) < 0) {
        run_refuse(run, run->input.refused, err.msg);
    } else {
        json_release(&run->r->body);
        submit(run, agent);
    }
}

static void on_agent(void *owner, PGresult *res, const struct err *err)
{
    struct run *run = owner;
    struct genkit_agent_row agent;
    struct err bad = *err;
    struct request *r;

    if (bad.code == ERR_OK && store_read_genkit_agent(res, &agent, &bad) == 0) {
        run->ends = agent.abort_on_gone;
        if (run->stream && run->stream_id)
            find_stream(run);
        else
            read_input(run, &agent);
        return;
    }
    r = run_free(run);
    genkit_reply_err(r, &bad);
}

void genkit_turn(struct request *r)
{
    bool stream = genkit_wants_stream(r);
    struct run *run;

    if (park_enter(r, stream ? PARK_SUBSCRIBER : PARK_WAITER) < 0)
        return;
    run = xcalloc(1, sizeof(*run));
    run->gk = r->api->genkit;
    run->r = r;
    run->stream = stream;
    run->stream_id = httpd_header(r->http, "x-genkit-stream-id");
    genkit_chunks_init(&run->chunks, !stream);
    buf_init(&run->out, BUF_MAX);
    run_enter(run, RUN_LOOKING);
    store_genkit_agent(pgpool_pick(r->api->pool), &r->call, r->params[0], on_agent, run);
}
