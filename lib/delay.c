/*
 * A wheel of SLOTS lists, one a tick. A wait stands in the slot of its due time and is passed
 * over while its round has not come. The timer runs only while something waits.
 */
#include "delay.h"

#include "clock.h"
#include "mem.h"

#include <assert.h>
#include <stdlib.h>

#define TICK_MS 10
#define SLOTS   1024

struct delays {
    uv_timer_t timer, round; /* of the slots, of `soon` */
    int open_handles;
    struct list soon; /* waits of 0 */
    struct list slots[SLOTS];
    uint64_t tick; /* the last one that was looked at */
    size_t waiting;
};

struct delays *delays_new(uv_loop_t *loop)
{
    struct delays *delays = xcalloc(1, sizeof(*delays));

    uv_timer_init(loop, &delays->timer);
    uv_timer_init(loop, &delays->round);
    delays->timer.data = delays->round.data = delays;
    delays->open_handles = 2;
    list_init(&delays->soon);
    for (int i = 0; i < SLOTS; i++)
        list_init(&delays->slots[i]);
    return delays;
}

static void on_closed(uv_handle_t *handle)
{
    struct delays *delays = handle->data;

    if (--delays->open_handles == 0)
        free(delays);
}

void delays_close(struct delays *delays)
{
    if (!delays)
        return;
    uv_close((uv_handle_t *)&delays->timer, on_closed);
    uv_close((uv_handle_t *)&delays->round, on_closed);
}

static void delay_stop(struct delay *delay)
{
    struct delays *delays = delay->delays;

    list_remove(&delay->node);
    delay->delays = NULL;
    if (delay->due_ms > 0 && --delays->waiting == 0)
        uv_timer_stop(&delays->timer);
}

static void run_all(struct list *due)
{
    while (!list_is_empty(due)) {
        struct delay *delay = container_of(due->next, struct delay, node);

        delay_stop(delay);
        delay->on_due(delay->owner);
    }
}

/* Run what is due in one slot. A callback may start and cancel others, in this slot too, so the
 * due ones are moved aside first. */
static void run_slot(struct list *slot, uint64_t now_ms)
{
    struct list due;

    list_init(&due);
    list_foreach_safe (n, slot) {
        struct delay *delay = container_of(n, struct delay, node);

        if (delay->due_ms <= now_ms) {
            list_remove(n);
            list_append(&due, n);
        }
    }
    run_all(&due);
}

/* Those that are started meanwhile have the next round. */
static void on_round(uv_timer_t *timer)
{
    struct delays *delays = timer->data;
    struct list soon;

    list_init(&soon);
    list_splice(&soon, &delays->soon);
    run_all(&soon);
}

static void on_tick(uv_timer_t *timer)
{
    struct delays *delays = timer->data;
    uint64_t now_ms = clock_mono_ms(), last = now_ms / TICK_MS;

    if (last - delays->tick > SLOTS)
        delays->tick = last - SLOTS; /* we slept long; one round sees every slot */
    while (delays->tick < last) {
        delays->tick++;
        run_slot(&delays->slots[delays->tick % SLOTS], now_ms);
    }
}

void delay_start(struct delays *delays, struct delay *delay, uint64_t ms,
                 void (*on_due)(void *owner), void *owner)
{
    uint64_t now_ms = clock_mono_ms();

    assert(!delay->delays); /* on two lists at once it would lead the wheel astray */
    delay->due_ms = ms > 0 ? now_ms + ms : 0;
    delay->on_due = on_due;
    delay->owner = owner;
    delay->delays = delays;
    if (ms == 0) {
        list_append(&delays->soon, &delay->node);
        if (!uv_is_active((uv_handle_t *)&delays->round))
            uv_timer_start(&delays->round, on_round, 0, 0);
        return;
    }
    if (delays->waiting++ == 0) {
        delays->tick = now_ms / TICK_MS;
        uv_timer_start(&delays->timer, on_tick, TICK_MS, TICK_MS);
    }
    /* The slot behind the due time, so that it is due when the slot is looked at. */
    list_append(&delays->slots[(delay->due_ms / TICK_MS + 1) % SLOTS], &delay->node);
}

void delay_cancel(struct delay *delay)
{
    if (delay->delays)
        delay_stop(delay);
}
