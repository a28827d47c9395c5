#include "gate.h"

#include "clock.h"
#include "mem.h"

#include <assert.h>
#include <stdlib.h>

struct gate {
    uint64_t open_until_ms; /* clock_boot_ms() */
    struct list waiting;    /* struct gate_wait.node */
    uv_timer_t timer;       /* fires when the gate has opened and somebody waits */
};

bool gate_is_open(const struct gate *gate)
{
    return clock_boot_ms() < gate->open_until_ms;
}

/* One who is let through may shut out the others again by taking long: each is asked for. */
static void on_timer(uv_timer_t *timer)
{
    struct gate *gate = timer->data;
    struct list passing;

    list_init(&passing);
    list_splice(&passing, &gate->waiting);
    while (!list_is_empty(&passing) && gate_is_open(gate)) {
        struct gate_wait *wait = container_of(passing.next, struct gate_wait, node);

        gate_leave(wait);
        wait->on_open(wait->owner);
    }
    list_splice(&gate->waiting, &passing);
}

static void gate_look(struct gate *gate)
{
    if (!list_is_empty(&gate->waiting) && gate_is_open(gate))
        uv_timer_start(&gate->timer, on_timer, 0, 0);
}

void gate_open(struct gate *gate, uint64_t until_ms)
{
    gate->open_until_ms = until_ms;
    gate_look(gate);
}

void gate_shut(struct gate *gate)
{
    gate->open_until_ms = 0;
}

void gate_wait(struct gate *gate, struct gate_wait *wait, void (*on_open)(void *owner), void *owner)
{
    assert(!wait->waiting);
    *wait = (struct gate_wait){.waiting = true, .on_open = on_open, .owner = owner};
    list_append(&gate->waiting, &wait->node);
    gate_look(gate);
}

void gate_leave(struct gate_wait *wait)
{
    if (!wait->waiting)
        return;
    wait->waiting = false;
    list_remove(&wait->node);
}

struct gate *gate_new(uv_loop_t *loop)
{
    struct gate *gate = xcalloc(1, sizeof(*gate));

    list_init(&gate->waiting);
    uv_timer_init(loop, &gate->timer);
    gate->timer.data = gate;
    return gate;
}

static void on_closed(uv_handle_t *handle)
{
    free(handle->data);
}

void gate_close(struct gate *gate)
{
    if (!gate)
        return;
    assert(list_is_empty(&gate->waiting));
    uv_close((uv_handle_t *)&gate->timer, on_closed);
}
