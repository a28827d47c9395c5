/*
 * feed (a task) ---> readers (a cursor each) ---> subscribers (who have that cursor)
 *
 *   IDLE ---> DUE ---> FETCHING ---> IDLE
 *               ^         +--------> DUE      a full page, or a hint meanwhile
 *   STALLED ----+
 *
 * IDLE      nothing; a hint or the poll makes it due
 * DUE       waits for the next query
 * FETCHING  chunk_sweep.sql, with many others
 * STALLED   what was written to its one subscriber has not been taken: until writable()
 *
 * `seq` is dense, so a chunk belongs to a reader exactly when it goes on where the reader stands:
 * several readers of one task may be in one query. A failure of the database costs time until the
 * next poll. Whoever is cut off comes again with its cursor.
 */
#include "hub.h"

#include "clock.h"
#include "frame.h"
#include "hook.h"
#include "id.h"
#include "list.h"
#include "log.h"
#include "mem.h"
#include "pace.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define QUEUE_BYTES (64 << 10) /* more than that queued: the subscriber is stalled */
#define STALL_MS    60000      /* then it is cut off */
#define TICK_MS     1000
#define PAGE_MAX    64   /* chunks a reader gets in one query */
#define ROUND_MAX   1000 /* readers in one query */
#define PAGE_LOW    (128 << 10)
#define PAGE_HIGH   (1 << 20)
#define ROUND_HIGH  (8 << 20)
#define LOOK_AT     16        /* readers compared with a newcomer's cursor */
#define KEEP_BYTES  (1 << 20) /* of the frame buffer between two queries */

enum reader_state {
    READER_IDLE,
    READER_DUE,
    READER_FETCHING,
    READER_STALLED,
};

struct feed {
    struct map_node node; /* hub->feeds */
    struct list readers;  /* struct reader.link, newest first */
    struct reader *live;  /* the one that is furthest; NULL: not known */
    char task_id[ID_BYTES];
};

struct reader {
    enum reader_state state;
    struct feed *feed;
    struct list link;  /* feed->readers */
    struct list queue; /* hub->idle, due, round or stalled, by its state */
    struct list subs;  /* struct sub.link */
    int64_t seq;       /* the last event that its subscribers have */
    bool at_end;       /* that ends a chunk: the next one begins behind it */
    int chunks;        /* of the query in hand */
    size_t bytes;      /* likewise */
    bool again;        /* a hint came while FETCHING */
};

/* Hangs on its request's http as `ud`. */
struct sub {
    struct hub *hub;
    struct list link;      /* reader->subs */
    struct list all;       /* hub->subs */
    struct reader *reader; /* NULL: dropped by httpd, gone() follows */
    struct request *request;
    const struct hub_watch *watch; /* NULL: native frames */
    uint64_t wrote_ms, stalled_ms;
};

struct hub {
    struct api *api;
    struct map feeds;
    struct list subs, queues[READER_STALLED + 1];
    uv_timer_t soon, poll, tick;
    int handles;
    struct pace pace;
    struct pg_call call; /* chunk_sweep.sql */
    struct sweep_cursors cursors;
    struct buf frames;
    bool fetching;
    int page, round; /* limits of the next query, adapted to what comes */
    size_t readers;
    struct hub_counts counts;
};

static void on_soon(uv_timer_t *timer);
static void on_poll(uv_timer_t *timer);
static void on_tick(uv_timer_t *timer);

/* ---- readers ---- */

static void reader_enter(struct hub *hub, struct reader *reader, enum reader_state state)
{
    reader->state = state;
    hook_state("reader", (int)state);
    list_remove(&reader->queue);
    list_append(&hub->queues[state], &reader->queue);
    if (state == READER_DUE && !hub->fetching)
        uv_timer_start(&hub->soon, on_soon, 0, 0); /* not now: more hints may be on their way */
    if (state == READER_FETCHING) {
        reader->again = false;
        reader->chunks = 0;
        reader->bytes = 0;
    }
}

static struct feed *feed_of(struct hub *hub, const char *task_id)
{
    struct map_node *node = map_find(&hub->feeds, task_id);
    struct feed *feed;

    if (node)
        return container_of(node, struct feed, node);
    feed = xcalloc(1, sizeof(*feed));
    list_init(&feed->readers);
    snprintf(feed->task_id, sizeof(feed->task_id), "%s", task_id);
    map_add(&hub->feeds, &feed->node, feed->task_id);
    return feed;
}

static struct reader *reader_new(struct hub *hub, struct feed *feed, int64_t seq,
                                 enum reader_state state)
{
    struct reader *reader = xcalloc(1, sizeof(*reader));

    reader->feed = feed;
    reader->seq = seq;
    reader->at_end = seq == 0;
    list_init(&reader->subs);
    list_init(&reader->queue);
    list_append(feed->readers.next, &reader->link);
    hub->readers++;
    reader_enter(hub, reader, state);
    return reader;
}

/* One in a query stays until that is answered. */
static void reader_try_free(struct hub *hub, struct reader *reader)
{
    struct feed *feed = reader->feed;

    if (reader->state == READER_FETCHING || !list_is_empty(&reader->subs))
        return;
    if (feed->live == reader)
        feed->live = NULL;
    list_remove(&reader->link);
    list_remove(&reader->queue);
    free(reader);
    hub->readers--;
    if (!list_is_empty(&feed->readers))
        return;
    map_remove(&hub->feeds, &feed->node);
    free(feed);
}

static void reader_add(struct reader *reader, struct sub *sub)
{
    list_remove(&sub->link);
    list_append(&reader->subs, &sub->link);
    sub->reader = reader;
}

/* A reader that stands at `seq` already, among those worth looking at. */
static struct reader *reader_at(struct feed *feed, int64_t seq)
{
    int looked = 0;

    if (feed->live && feed->live->seq == seq)
        return feed->live;
    list_foreach (node, &feed->readers) {
        struct reader *reader = container_of(node, struct reader, link);

        if (reader->state != READER_STALLED && reader->seq == seq)
            return reader;
        if (++looked == LOOK_AT)
            break;
    }
    return NULL;
}

/* Who has caught up goes on together with the one that is furthest. */
static void reader_join(struct hub *hub, struct reader *reader)
{
    struct reader *live = reader->feed->live;

    if (!live || reader->seq > live->seq) {
        reader->feed->live = reader;
    } else if (live != reader && live->seq == reader->seq) {
        while (!list_is_empty(&reader->subs))
            reader_add(live, container_of(reader->subs.next, struct sub, link));
        reader_try_free(hub, reader);
    }
}

/* ---- subscribers ---- */

static void sub_leave_reader(struct sub *sub)
{
    struct reader *reader = sub->reader;

    list_remove(&sub->link);
    sub->reader = NULL;
    if (reader)
        reader_try_free(sub->hub, reader);
}

/* Forget it; its request is the caller's. */
static struct request *sub_release(struct sub *sub)
{
    struct request *r = sub->request;

    sub_leave_reader(sub);
    list_remove(&sub->all);
    free(sub);
    return r;
}

static void sub_free(struct sub *sub, bool cut)
{
    const struct hub_watch *watch = sub->watch;
    struct request *r = sub_release(sub);

    if (watch)
        watch->left(r, cut);
    else
        request_over(r); /* r->http may be gone */
}

static void on_gone(struct httpd_req *http)
{
    sub_free(http->ud, false);
}

static void on_writable(struct httpd_req *http)
{
    struct sub *sub = http->ud;

    if (sub->reader && sub->reader->state == READER_STALLED)
        reader_enter(sub->hub, sub->reader, READER_DUE);
}

/* Cut it off without a proper end, so that the client knows there is more. */
static void sub_cut(struct sub *sub)
{
    sub->hub->counts.cuts++;
    httpd_abort(sub->request->http);
    sub_free(sub, true);
}

/* It has everything up to and with `seq`, but has not taken it from us yet. */
static void sub_stall(struct sub *sub, int64_t seq)
{
    struct reader *from = sub->reader;
    struct reader *own = reader_new(sub->hub, from->feed, seq, READER_STALLED);

    reader_add(own, sub);
    sub->stalled_ms = sub->wrote_ms;
}

static void sub_write(struct sub *sub, const struct buf *frames, int64_t seq, bool ended)
{
    long queued = httpd_write(sub->request->http, frames->data, frames->len);

    sub->wrote_ms = clock_mono_ms();
    if (queued < 0) { /* gone() follows; its reader is in hand and stays */
        list_remove(&sub->link);
        sub->reader = NULL;
    } else if (ended) {
        httpd_end(sub->request->http);
        sub_free(sub, false);
    } else if (queued > QUEUE_BYTES) {
        sub_stall(sub, seq);
    }
}

static void sub_give(struct sub *sub, const struct sweep_row *chunk, int64_t after)
{
    long queued = sub->watch->take(sub->request, chunk, after);

    sub->wrote_ms = clock_mono_ms();
    if (queued == HUB_LEFT) {
        list_remove(&sub->link);
        sub->reader = NULL;
    } else if (queued == HUB_TAKEN) {
        (void)sub_release(sub);
    } else if (queued == HUB_DAMAGED) {
        sub_cut(sub);
    } else if (queued > QUEUE_BYTES) {
        sub_stall(sub, chunk->seq_from + chunk->count - 1);
    }
}

void hub_follow(struct hub *hub, struct request *r, const char *task_id, int64_t after,
                const struct hub_watch *watch)
{
    struct sub *sub = xcalloc(1, sizeof(*sub));
    struct feed *feed = feed_of(hub, task_id);
    struct reader *reader = reader_at(feed, after);

    sub->hub = hub;
    sub->request = r;
    sub->watch = watch;
    sub->wrote_ms = clock_mono_ms();
    list_init(&sub->link);
    list_append(&hub->subs, &sub->all);
    if (!reader)
        reader = reader_new(hub, feed, after, READER_DUE);
    reader_add(reader, sub);
    r->http->ud = sub;
    httpd_watch(r->http, on_gone, on_writable);
    if (!uv_is_active((uv_handle_t *)&hub->poll)) {
        pace_reset(&hub->pace);
        uv_timer_start(&hub->poll, on_poll, PACE_MIN_MS, 0);
        uv_timer_start(&hub->tick, on_tick, TICK_MS, TICK_MS);
    }
}

void hub_leave(struct request *r)
{
    httpd_watch(r->http, NULL, NULL);
    (void)sub_release(r->http->ud);
}

void hub_subscribe(struct hub *hub, struct request *r, const char *task_id, int64_t after)
{
    hub_follow(hub, r, task_id, after, NULL);
}

/* ---- the query ---- */

/* `chunk` goes on where `reader` stands, at least in part. */
static void reader_take(struct hub *hub, struct reader *reader, const struct sweep_row *chunk)
{
    int64_t last = chunk->seq_from + chunk->count - 1;
    bool ended = false, damaged = false;

    buf_reset(&hub->frames);
    list_foreach_safe (node, &reader->subs) {
        struct sub *sub = container_of(node, struct sub, link);

        if (!sub->watch && hub->frames.len == 0 && !damaged) /* once for all of them */
            damaged = frame_put_chunk(&hub->frames, chunk, reader->seq, &ended) < 0;
        if (sub->watch)
            sub_give(sub, chunk, reader->seq);
        else if (damaged)
            sub_cut(sub);
        else
            sub_write(sub, &hub->frames, last, ended);
        hub->counts.bytes += hub->frames.len;
    }
    if (damaged)
        log_line(LOG_ERROR, "", "task %s has damaged events from %lld on", chunk->task_id,
                 (long long)chunk->seq_from);
    hub->counts.events += (uint64_t)(last - reader->seq);
    reader->seq = last;
    reader->at_end = true;
    reader->chunks++;
    reader->bytes += hub->frames.len ? hub->frames.len : chunk->len;
}

static void feed_take(struct hub *hub, struct feed *feed, const struct sweep_row *chunk)
{
    list_foreach_safe (node, &feed->readers) {
        struct reader *reader = container_of(node, struct reader, link);

        if (reader->state == READER_FETCHING && chunk->seq_from <= reader->seq + 1 &&
            chunk->seq_from + chunk->count - 1 > reader->seq)
            reader_take(hub, reader, chunk);
    }
}

/* One big page must not fill the memory, nor small ones cost a query each. */
static void adapt(struct hub *hub, size_t largest, size_t total)
{
    if (largest > PAGE_HIGH)
        hub->page = hub->page > 1 ? hub->page / 2 : 1;
    else if (largest < PAGE_LOW)
        hub->page = 2 * hub->page < PAGE_MAX ? 2 * hub->page : PAGE_MAX;
    if (total > ROUND_HIGH)
        hub->round = hub->round > 1 ? hub->round / 2 : 1;
    else
        hub->round = 2 * hub->round < ROUND_MAX ? 2 * hub->round : ROUND_MAX;
}

/* The query is answered, for all of its readers. */
static void settle(struct hub *hub, int page)
{
    size_t largest = 0, total = 0;
    struct list round;

    list_init(&round);
    list_splice(&round, &hub->queues[READER_FETCHING]);
    while (!list_is_empty(&round)) {
        struct reader *reader = container_of(round.next, struct reader, queue);

        largest = reader->bytes > largest ? reader->bytes : largest;
        total += reader->bytes;
        reader_enter(hub, reader,
                     reader->again || reader->chunks >= page ? READER_DUE : READER_IDLE);
        if (list_is_empty(&reader->subs))
            reader_try_free(hub, reader);
        else
            reader_join(hub, reader);
    }
    adapt(hub, largest, total);
    if (!list_is_empty(&hub->queues[READER_DUE]))
        uv_timer_start(&hub->soon, on_soon, 0, 0); /* those that did not fit, too */
    if (hub->frames.cap > KEEP_BYTES)
        buf_release(&hub->frames);
}

static void on_swept(void *owner, PGresult *res, const struct err *err)
{
    struct hub *hub = owner;
    struct sweep_row chunk;
    struct map_node *node;
    int page = hub->page;

    for (int i = 0; err->code == ERR_OK && i < store_rows(res); i++) {
        store_read_chunk(res, i, &chunk);
        node = map_find(&hub->feeds, chunk.task_id);
        if (node)
            feed_take(hub, container_of(node, struct feed, node), &chunk);
        hub->counts.chunks++;
    }
    if (err->code != ERR_OK)
        pace_reset(&hub->pace);
    else if (store_rows(res) > 0)
        pace_found(&hub->pace, hub->api->hints_heard);
    hub->fetching = false;
    settle(hub, page);
}

static void on_soon(uv_timer_t *timer)
{
    struct hub *hub = timer->data;
    struct list *due = &hub->queues[READER_DUE];

    if (hub->fetching || list_is_empty(due))
        return;
    store_cursors_reset(&hub->cursors);
    for (int n = 0; n < hub->round && !list_is_empty(due); n++) {
        struct reader *reader = container_of(due->next, struct reader, queue);

        store_cursors_put(&hub->cursors, reader->feed->task_id, reader->seq, reader->at_end);
        reader_enter(hub, reader, READER_FETCHING);
    }
    hub->fetching = true;
    hub->counts.queries++;
    store_chunk_sweep(pgpool_pick(hub->api->pool), &hub->call, &hub->cursors, hub->page, on_swept,
                      hub);
}

/* ---- hints, polls, keep-alives ---- */

static void reader_hint(struct hub *hub, struct reader *reader)
{
    if (reader->state == READER_IDLE)
        reader_enter(hub, reader, READER_DUE);
    else if (reader->state == READER_FETCHING)
        reader->again = true;
}

void hub_hint(struct hub *hub, const char *task_id)
{
    struct map_node *node = map_find(&hub->feeds, task_id);
    struct feed *feed = node ? container_of(node, struct feed, node) : NULL;

    if (!feed)
        return;
    list_foreach (link, &feed->readers)
        reader_hint(hub, container_of(link, struct reader, link));
}

static void recheck(struct hub *hub)
{
    list_foreach_safe (node, &hub->queues[READER_IDLE])
        reader_enter(hub, container_of(node, struct reader, queue), READER_DUE);
}

void hub_recheck(struct hub *hub)
{
    pace_reset(&hub->pace);
    recheck(hub);
}

static void on_poll(uv_timer_t *timer)
{
    struct hub *hub = timer->data;
    uint64_t wait_ms = pace_next(&hub->pace, api_hears(hub->api), hub->api->hints_heard);

    recheck(hub);
    if (list_is_empty(&hub->subs))
        uv_timer_stop(&hub->tick);
    else
        uv_timer_start(&hub->poll, on_poll, wait_ms, 0);
}

static void sub_tick(struct sub *sub, uint64_t now_ms)
{
    const char *comment = sub->watch ? sub->watch->keep_alive : ": keep-alive\n\n";

    if (!sub->reader)
        return;
    if (sub->reader->state == READER_STALLED) {
        if (now_ms - sub->stalled_ms > STALL_MS)
            sub_cut(sub);
    } else if (comment && now_ms - sub->wrote_ms >= sub->hub->api->conf.keep_alive) {
        sub->wrote_ms = now_ms;
        if (httpd_write(sub->request->http, comment, strlen(comment)) < 0)
            sub_leave_reader(sub);
    }
}

static void on_tick(uv_timer_t *timer)
{
    struct hub *hub = timer->data;
    uint64_t now_ms = clock_mono_ms();

    list_foreach_safe (node, &hub->subs)
        sub_tick(container_of(node, struct sub, all), now_ms);
}

/* ---- begin and end ---- */

struct hub *hub_new(struct api *api)
{
    struct hub *hub = xcalloc(1, sizeof(*hub));

    hub->api = api;
    hub->page = PAGE_MAX / 4;
    hub->round = ROUND_MAX;
    map_init(&hub->feeds);
    list_init(&hub->subs);
    for (int i = 0; i <= READER_STALLED; i++)
        list_init(&hub->queues[i]);
    store_cursors_init(&hub->cursors);
    buf_init(&hub->frames, BUF_MAX);
    uv_timer_init(&api->loop.uv, &hub->soon);
    uv_timer_init(&api->loop.uv, &hub->poll);
    uv_timer_init(&api->loop.uv, &hub->tick);
    hub->soon.data = hub->poll.data = hub->tick.data = hub;
    hub->handles = 3;
    return hub;
}

void hub_drain(struct hub *hub)
{
    list_foreach_safe (node, &hub->subs) {
        struct sub *sub = container_of(node, struct sub, all);

        if (sub->watch)
            continue; /* its client cannot come again with a cursor: it has until httpd cuts it */
        httpd_abort(sub->request->http);
        sub_free(sub, true);
    }
    if (!list_is_empty(&hub->subs))
        return;
    uv_timer_stop(&hub->poll);
    uv_timer_stop(&hub->tick);
}

void hub_count(const struct hub *hub, struct hub_counts *ret_counts)
{
    *ret_counts = hub->counts;
    ret_counts->subscribers = hub->api->parked[1];
    ret_counts->readers = hub->readers;
    ret_counts->tasks = hub->feeds.count;
}

static void on_closed(uv_handle_t *handle)
{
    struct hub *hub = handle->data;

    if (--hub->handles > 0)
        return;
    store_cursors_release(&hub->cursors);
    buf_release(&hub->frames);
    map_release(&hub->feeds);
    free(hub);
}

void hub_close(struct hub *hub)
{
    uv_close((uv_handle_t *)&hub->soon, on_closed);
    uv_close((uv_handle_t *)&hub->poll, on_closed);
    uv_close((uv_handle_t *)&hub->tick, on_closed);
}
