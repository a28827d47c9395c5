/*
 * Events of a turn as people see them: text as it comes on stdout, tool calls as notes on stderr,
 * and a status line with the time, the step and the tokens. With `json`, each event is one line.
 */
#pragma once

#include "json.h"
#include "term.h"

#include <stdbool.h>
#include <stdint.h>

struct view {
    struct term *term;
    bool json;
    bool reasoning; /* the last text was the model thinking */
    bool said;      /* text of the answer has been shown */
    int64_t step;
    int64_t tokens;     /* as the model counted, of steps that ended */
    int64_t step_bytes; /* of text since, for a guess */
    int64_t first_us;   /* `at` of the first event seen; -1: none yet */
    int64_t last_us;
    uint64_t last_ms; /* clock_mono_ms() when it came */
};

void view_init(struct view *view, struct term *term, bool json);

/* One event: `type`, and `data`, the JSON text of its object. */
void view_event(struct view *view, const char *type, const char *data, size_t len);

/* Bring the status line up to date; now and then. */
void view_tick(struct view *view);

/* The stream is over or left: no status line any more, the line of text is ended. */
void view_end(struct view *view);
