#include "clock.h"
#include "turn_state.h"

struct buf *turn_event(struct turn *turn, const char *type)
{
    struct record *r = &turn->out.now;
    int64_t now_ms = clock_wall_us() / 1000;

    if (r->count == 0) {
        r->at_ms = now_ms;
        r->seq_from = turn->seq + 1;
    }
    /* A clock that was set back must not make an offset negative. */
    (void)buf_put_int(&r->events, now_ms > r->at_ms ? now_ms - r->at_ms : 0);
    (void)buf_puts(&r->events, " {\"type\":\"");
    (void)buf_puts(&r->events, type);
    (void)buf_putc(&r->events, '"');
    return &r->events;
}

void turn_event_end(struct turn *turn)
{
    struct record *r = &turn->out.now;

    (void)json_close(&r->events, '}');
    (void)buf_putc(&r->events, '\n');
    r->count++;
    turn->seq++;
    flush_put(turn->env->flusher, &turn->out, false);
    if (turn->out.full)
        turn_pause(turn, true);
}
