/* What a worker counts for /metrics; travels with the heartbeat as JSON. */
#pragma once

#include "buf.h"
#include "metrics.h"

#include <stdint.h>

struct worker_stats {
    uint64_t claims, turns_claimed, turns_running, turns_completed, turns_incomplete, turns_failed,
        turns_aborted, turns_expired, turns_retried, turns_released, turns_lost;
    uint64_t steps, model_calls, model_retries, model_governed, tool_calls, tool_errors, events,
        flushes;
    uint64_t input_tokens, output_tokens;
    struct histogram start_ms; /* submit -> turn.started */
    struct histogram flush_ms; /* one group commit */
    struct histogram model_ms; /* one model call */
    struct histogram tool_ms;  /* one tool call */
    struct histogram turn_ms;  /* claim -> terminal */
    struct histogram abort_ms; /* request -> sockets closed */
};

void worker_stats_init(struct worker_stats *s);

/* The object that api/ renders: numbers, and histograms under "hist". */
void worker_stats_put(const struct worker_stats *s, struct buf *out);
