/*
 * Chunks of events -> server-sent events. Pure.
 *
 * A chunk holds one line per event: milliseconds since `at_ms`, a blank, the event as JSON whose
 * first member is "type". The n-th line, from 0, is event seq_from + n. It becomes
 *
 *   id: SEQ
 *   event: TYPE
 *   data: {"seq":SEQ,"type":"TYPE","at":"2026-01-02T03:04:05.678Z", ...its other members}
 */
#pragma once

#include "buf.h"
#include "store_task.h"

#include <stdbool.h>

/*
 * Append the events of `chunk` after `after` to `out`. 0, or -1 when a line has another shape or
 * their number is not as said. `*ret_ended`: turn.ended was among them.
 */
int frame_put_chunk(struct buf *out, const struct sweep_row *chunk, int64_t after, bool *ret_ended);
