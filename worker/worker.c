/*
 *   RUNNING ---> DRAINING ---> HANDING_BACK ---> LEAVING ---> CLOSED
 *
 * RUNNING       claims and runs turns
 * DRAINING      claims nothing; running turns may end until `grace` runs out
 * HANDING_BACK  every turn closes its calls and gives its lease back, uncharged
 * LEAVING       worker_leave is in flight
 * CLOSED        connections and timers are being closed
 *
 * Killed in any of them: the leases are rescued when this incarnation's time has run out.
 */
#include "worker.h"

#include "agents.h"
#include "claim.h"
#include "delay.h"
#include "flusher.h"
#include "gate.h"
#include "heartbeat.h"
#include "hook.h"
#include "http.h"
#include "json.h"
#include "log.h"
#include "mem.h"
#include "notify.h"
#include "presence.h"
#include "turn.h"
#include "worker_stats.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HAND_BACK_LIMIT_MS 5000
#define HAND_BACK_LOOK_MS  100
#define HINTS_LINGER_MS    20
#define HINTS_RETRY_MS     250 /* well below the grace of scheduler/vanish.c */
#define SILENCE_SPARE_MS   750 /* a beat may be late by so much, and nobody is declared dead */

enum worker_state {
    WORKER_RUNNING,      /* whatever its parts do */
    WORKER_DRAINING,     /* turns; the grace timer */
    WORKER_HANDING_BACK, /* turns, ending */
    WORKER_LEAVING,      /* store_worker_leave() */
    WORKER_CLOSED,       /* uv_close() */
};

struct worker {
    enum worker_state state;
    struct loop *loop;
    const struct worker_conf *conf;
    struct pg *pg;       /* claims, loads */
    struct pg *pg_flush; /* the flusher's own, so that a large load does not delay events */
    struct pg *pg_hints; /* LISTEN, NOTIFY and the heartbeat: nothing slow before it */
    struct notify *notify;
    struct http *http;
    struct delays *delays;
    struct agents *agents;
    struct gate *gate;
    struct governor *governor;
    struct flusher *flusher;
    struct heartbeat *heartbeat;
    struct presence *presence; /* NULL without hints */
    struct claim *claim;
    struct worker_stats stats;
    struct buf stats_text;
    struct turn_env turn_env;
    struct list turns;
    struct map by_task; /* those of them that hold their leases */
    int nturns;
    int64_t worker_id;
    struct pg_call control_call, reconcile_call, drain_call, leave_call;
    struct pg_array known;
    bool asking_controls, ask_again, reconciling;
    int64_t stranded; /* newest epoch among leases that may be unknown here; 0: none are */
    struct delay grace, limit;
};

static void worker_check(struct worker *w);

static void worker_enter(struct worker *w, enum worker_state state)
{
    w->state = state;
    hook_state("worker", (int)state);
}

/* ---- turns ---- */

static int room(void *owner)
{
    struct worker *w = owner;

    if (w->state != WORKER_RUNNING || !gate_is_open(w->gate))
        return 0;
    return (int)w->conf->slots - w->nturns;
}

static void on_turn(void *owner, const struct claim_row *claim, const struct load_row *load)
{
    struct worker *w = owner;
    struct turn *turn;

    if (heartbeat_is_fenced(w->heartbeat))
        return; /* fenced since it was claimed: reconcile() or the scheduler hands it back */
    w->nturns++;
    w->stats.turns_running = (uint64_t)w->nturns;
    turn = turn_start(&w->turn_env, claim, load, &w->turns);
    if (w->state == WORKER_HANDING_BACK)
        turn_hand_back(turn); /* it was being loaded when we were told to leave */
}

static void on_turn_end(void *owner, struct turn *turn)
{
    struct worker *w = owner;

    (void)turn;
    w->nturns--;
    w->stats.turns_running = (uint64_t)w->nturns;
    claim_look(w->claim);
    worker_check(w);
}

/* ---- controls ---- */

static void take_controls(struct worker *w, const char *controls)
{
    struct err err;
    JSON_AUTO(root) = controls ? json_parse(controls, strlen(controls), &err) : NULL;
    const cJSON *row;

    cJSON_ArrayForEach (row, root) {
        const cJSON *age = json_get(row, "age_ms");
        struct turn_abort abort_now = {
            .status = json_str_or(row, "status", "aborted"),
            .reason = json_str_or(row, "reason", NULL),
            .actor = json_str_or(row, "actor", NULL),
            .age_ms = cJSON_IsNumber(age) ? (int64_t)age->valuedouble : 0,
        };

        struct turn *turn = turn_of_task(&w->turn_env, json_str_or(row, "task_id", ""));

        if (turn)
            turn_abort(turn, &abort_now);
    }
}

static void ask_controls(struct worker *w);

static void on_controls(void *owner, PGresult *res, const struct err *err)
{
    struct worker *w = owner;

    w->asking_controls = false;
    if (err->code == ERR_CANCELED)
        return;
    if (err->code == ERR_OK) /* a failure costs the time until the next heartbeat */
        take_controls(w, store_read_controls(res));
    if (w->ask_again)
        ask_controls(w);
}

static void ask_controls(struct worker *w)
{
    w->ask_again = w->asking_controls;
    if (w->asking_controls || w->worker_id == 0 || w->nturns == 0)
        return;
    w->asking_controls = true;
    store_worker_controls(w->pg, &w->control_call, w->worker_id, on_controls, w);
}

static void on_hint(void *owner, const char *payload)
{
    struct worker *w = owner;

    if (!strcmp(payload, "r"))
        claim_look(w->claim);
    else if (!strncmp(payload, "a:", 2) &&
             (payload[2] == '*' || strtoll(payload + 2, NULL, 10) == w->worker_id))
        ask_controls(w);
}

static void on_hints_up(void *owner)
{
    struct worker *w = owner;

    presence_renew(w->presence, w->worker_id);
    claim_look_everywhere(w->claim);
    ask_controls(w);
}

/* ---- incarnation ---- */

static void on_registered(void *owner, int64_t worker_id)
{
    struct worker *w = owner;

    w->worker_id = worker_id;
    w->stranded = 0;
    flusher_set_worker(w->flusher, worker_id, w->conf->name);
    claim_set_worker(w->claim, worker_id);
    if (w->presence)
        presence_renew(w->presence, worker_id);
}

static void on_fenced(void *owner)
{
    struct worker *w = owner;

    list_foreach_safe (node, &w->turns)
        turn_drop(turn_of_node(node));
    worker_check(w);
}

static void on_reconciled(void *owner, PGresult *res, const struct err *err)
{
    struct worker *w = owner;

    w->reconciling = false;
    if (err->code == ERR_OK && store_rows(res) > 0) {
        log_line(LOG_WARN, "", "%d leases nobody here knew of were handed back", store_rows(res));
        notify_put(w->notify, "r");
    }
}

/* Leases of ours that we do not know of: the answer to a claim was lost, or turns were dropped
 * when we fenced ourselves. Only while no claim is under way can they be told apart: then whatever
 * was claimed up to `stranded` is among our turns, or nobody's. A turn that has ended since the
 * count was taken costs a statement that finds nothing. */
static void reconcile(struct worker *w)
{
    struct pg *pg = pg_is_up(w->pg) ? w->pg : w->pg_hints;
    int64_t newest_epoch = w->stranded;

    if (newest_epoch == 0 || w->reconciling || claim_is_busy(w->claim))
        return;
    w->stranded = 0;
    w->reconciling = true;
    pg_array_reset(&w->known);
    list_foreach (node, &w->turns)
        pg_array_put_uuid(&w->known, turn_task_id(turn_of_node(node)));
    store_worker_reconcile(pg, &w->reconcile_call, w->worker_id, &w->known, newest_epoch,
                           on_reconciled, w);
}

static void on_claim_idle(void *owner)
{
    struct worker *w = owner;

    reconcile(w);
    worker_check(w);
}

static void on_claim_lost(void *owner)
{
    struct worker *w = owner;

    heartbeat_soon(w->heartbeat);
}

static void on_claim_left_out(void *owner)
{
    struct worker *w = owner;

    heartbeat_count(w->heartbeat);
}

static void on_beat(void *owner, const struct beat_row *row)
{
    struct worker *w = owner;

    take_controls(w, row->controls);
    if (w->presence)
        presence_check(w->presence);
    w->stranded = row->leases > w->nturns ? row->newest_epoch : 0;
    reconcile(w);
    claim_look_again(w->claim); /* we may have been suspended */
}

static const char *stats_text(void *owner)
{
    struct worker *w = owner;

    buf_reset(&w->stats_text);
    worker_stats_put(&w->stats, &w->stats_text);
    return w->stats_text.data;
}

/* ---- start and stop ---- */

static void set_turn_env(struct worker *w)
{
    w->turn_env = (struct turn_env){
        .loop = &w->loop->uv,
        .agents = w->agents,
        .gate = w->gate,
        .flusher = w->flusher,
        .delays = w->delays,
        .model = {.http = w->http,
                  .delays = w->delays,
                  .gate = w->gate,
                  .governor = w->governor,
                  .stats = &w->stats},
        .tool = {.loop = &w->loop->uv, .http = w->http, .delays = w->delays},
        .stats = &w->stats,
        .by_task = &w->by_task,
        .on_end = on_turn_end,
        .owner = w,
    };
}

struct worker *worker_start(struct loop *loop, const struct worker_conf *conf)
{
    struct worker *w = xcalloc(1, sizeof(*w));
    uint64_t silence_ms = conf->hints ? conf->beat_every + SILENCE_SPARE_MS : 0;
    struct heartbeat_conf beat = {.name = conf->name,
                                  .slots = conf->slots,
                                  .every_ms = conf->beat_every,
                                  .ttl_ms = conf->beat_ttl,
                                  .silence_ms = silence_ms};
    struct flusher_conf flush = {.max_bytes = conf->buffer, .max_turn_bytes = conf->buffer_turn};
    const struct heartbeat_callbacks beat_cbs = {.on_registered = on_registered,
                                                 .on_beat = on_beat,
                                                 .on_fenced = on_fenced,
                                                 .stats = stats_text,
                                                 .owner = w};
    const struct claim_callbacks claim_cbs = {.room = room,
                                              .on_turn = on_turn,
                                              .on_idle = on_claim_idle,
                                              .on_lost = on_claim_lost,
                                              .on_left_out = on_claim_left_out,
                                              .owner = w};

    w->loop = loop;
    w->conf = conf;
    list_init(&w->turns);
    map_init(&w->by_task);
    worker_stats_init(&w->stats);
    buf_init(&w->stats_text, 65536);
    pg_array_init(&w->known, PG_UUID);
    w->pg = pg_new(&loop->uv, conf->database, "nocturne-worker", conf->prepare);
    w->pg_flush = pg_new(&loop->uv, conf->database, "nocturne-worker-flush", conf->prepare);
    w->pg_hints = pg_new(&loop->uv, conf->database, "nocturne-worker-hints", conf->prepare);
    w->notify = conf->notify ? notify_new(&loop->uv, w->pg_hints) : NULL;
    w->http = http_new(&loop->uv);
    w->delays = delays_new(&loop->uv);
    w->agents = agents_new(&loop->uv, w->pg);
    w->gate = beat.gate = flush.gate = gate_new(&loop->uv);
    w->governor = governor_new(w->delays);
    flush.http = w->http;
    w->flusher = flusher_new(&loop->uv, w->pg_flush, w->notify, &w->stats, &flush);
    w->claim = claim_new(&loop->uv, w->pg, conf->poll, conf->hints, &w->stats, &claim_cbs);
    set_turn_env(w);
    w->heartbeat = heartbeat_new(&loop->uv, w->pg_hints, w->pg, &beat, &beat_cbs);
    pg_retry_within(w->pg_hints, HINTS_RETRY_MS);
    if (conf->hints) {
        w->presence = presence_new(w->pg_hints, silence_ms);
        pg_listen(w->pg_hints, on_hint, on_hints_up, w);
    }
    return w;
}

static void worker_close(struct worker *w)
{
    worker_enter(w, WORKER_CLOSED);
    delay_cancel(&w->grace);
    delay_cancel(&w->limit);
    heartbeat_stop(w->heartbeat);
    pg_close(w->pg);
    pg_close(w->pg_flush);
    heartbeat_close(w->heartbeat);
    claim_close(w->claim);
    agents_close(w->agents);
    flusher_close(w->flusher);
    gate_close(w->gate);
    governor_close(w->governor);
    http_close(w->http);
    delays_close(w->delays);
    notify_close(w->notify);
    pg_close(w->pg_hints);
    presence_close(w->presence);
    pg_array_release(&w->known);
    map_release(&w->by_task);
    buf_release(&w->stats_text);
    loop_finish(w->loop);
    free(w);
}

static void on_hints_sent(void *owner)
{
    worker_close(owner);
}

static void on_left(void *owner, PGresult *res, const struct err *err)
{
    struct worker *w = owner;

    (void)res; /* if it failed, the row expires by itself */
    if (err->code == ERR_CANCELED)
        return;
    /* Let the last hints out: others may wait for what was handed back or has just ended. */
    delay_start(w->delays, &w->grace, HINTS_LINGER_MS, on_hints_sent, w);
}

/* Anything still to wait for before leaving? May free `w`. */
static void worker_check(struct worker *w)
{
    if ((w->state != WORKER_DRAINING && w->state != WORKER_HANDING_BACK) || w->nturns > 0 ||
        claim_is_busy(w->claim))
        return;
    if (w->worker_id == 0) {
        worker_close(w);
        return;
    }
    worker_enter(w, WORKER_LEAVING);
    delay_cancel(&w->grace);
    delay_cancel(&w->limit);
    heartbeat_stop(w->heartbeat);
    store_worker_leave(w->pg, &w->leave_call, w->worker_id, on_left, w);
}

/* The database is away and turns cannot be written: what is durable is durable, and leases of a
 * dead worker are rescued. */
static void on_limit(void *owner)
{
    (void)owner;
    log_line(LOG_WARN, "", "cannot hand back in time; the scheduler will rescue the rest");
    _Exit(1);
}

/* Runs again and again while a claim may be on its way still. */
static void on_grace(void *owner)
{
    struct worker *w = owner;

    if (w->state == WORKER_DRAINING)
        delay_start(w->delays, &w->limit, HAND_BACK_LIMIT_MS, on_limit, w);
    worker_enter(w, WORKER_HANDING_BACK);
    list_foreach_safe (node, &w->turns)
        turn_hand_back(turn_of_node(node));
    delay_start(w->delays, &w->grace, HAND_BACK_LOOK_MS, on_grace, w);
    worker_check(w);
}

static void on_drain_sent(void *owner, PGresult *res, const struct err *err)
{
    (void)owner; /* claims are gated here too; the row only says so to others */
    (void)res;
    (void)err;
}

void worker_stop(struct worker *w)
{
    worker_enter(w, WORKER_DRAINING);
    if (w->worker_id)
        store_worker_drain(w->pg, &w->drain_call, w->worker_id, on_drain_sent, w);
    delay_start(w->delays, &w->grace, w->nturns || claim_is_busy(w->claim) ? w->conf->drain : 0,
                on_grace, w);
}
