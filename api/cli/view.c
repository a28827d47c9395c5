#include "view.h"

#include "clock.h"
#include "mem.h"
#include "task.h"
#include "utf8.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define SHORT_BYTES       160 /* of arguments and results in a note */
#define BYTES_PER_TOKEN   4   /* a guess, for the status line alone */
#define STATUS_TEXT_BYTES 120

void view_init(struct view *view, struct term *term, bool json)
{
    *view = (struct view){.term = term, .json = json, .first_us = -1};
}

static int64_t int_or(const cJSON *obj, const char *key, int64_t fallback)
{
    const cJSON *item = json_get(obj, key);

    return cJSON_IsNumber(item) ? (int64_t)item->valuedouble : fallback;
}

/* A value in a note: strings bare, everything cut to one short line. */
static char *brief(const cJSON *value)
{
    char *text;
    size_t len;

    if (!value)
        return xstrdup("");
    text = cJSON_IsString(value) ? xstrdup(value->valuestring) : json_print(value);
    for (char *at = text; *at; at++)
        if (*at == '\n' || *at == '\r')
            *at = ' ';
    len = strlen(text);
    if (len > SHORT_BYTES) {
        char *cut = xasprintf("%.*s...", (int)utf8_prefix(text, SHORT_BYTES), text);

        free(text);
        text = cut;
    }
    return text;
}

static void note_value(struct view *view, const char *what, const char *name, const cJSON *value)
{
    char *text = brief(value);

    term_note(view->term, "%s %s%s%s", what, name, *text ? " " : "", text);
    free(text);
}

/* ---- one function per type ---- */

static void on_content(struct view *view, const cJSON *event)
{
    const char *text = json_str_or(event, "text", "");

    if (view->reasoning)
        term_break(view->term);
    view->reasoning = false;
    view->said = true;
    view->step_bytes += (int64_t)strlen(text);
    term_puts(view->term, text);
}

/* Not part of the answer: counted, and one note says that it happens. */
static void on_reasoning(struct view *view, const cJSON *event)
{
    if (!view->reasoning)
        term_note(view->term, "thinking");
    view->reasoning = true;
    view->step_bytes += (int64_t)strlen(json_str_or(event, "text", ""));
}

static void on_step_started(struct view *view, const cJSON *event)
{
    term_break(view->term);
    view->step = int_or(event, "step", view->step + 1);
    view->step_bytes = 0;
    view->reasoning = false;
}

static void on_step_ended(struct view *view, const cJSON *event)
{
    int64_t counted = int_or(json_get(event, "usage"), "output_tokens", -1);

    view->tokens += counted >= 0 ? counted : view->step_bytes / BYTES_PER_TOKEN;
    view->step_bytes = 0;
    term_break(view->term);
}

static void on_tool_started(struct view *view, const cJSON *event)
{
    note_value(view, "->", json_str_or(event, "name", "?"), json_get(event, "input"));
}

static void on_tool_result(struct view *view, const cJSON *event)
{
    note_value(view, "<-", json_str_or(event, "name", "?"), json_get(event, "output"));
}

static void on_tool_error(struct view *view, const cJSON *event)
{
    note_value(view, "<- error of", json_str_or(event, "name", "?"),
               json_get(json_get(event, "error"), "message"));
}

static void on_state(struct view *view, const cJSON *event)
{
    note_value(view, "state", "changed", json_get(event, "patch"));
}

static void on_artifact(struct view *view, const cJSON *event)
{
    term_note(view->term, "artifact %s", json_str_or(event, "name", "?"));
}

static void on_progress(struct view *view, const cJSON *event)
{
    note_value(view, "progress:", "", json_get(event, "data"));
}

static void on_interrupt(struct view *view, const cJSON *event)
{
    note_value(view, "?", json_str_or(event, "name", "?"), json_get(event, "input"));
}

static void on_reset(struct view *view, const cJSON *event)
{
    term_note(view->term, "taken back to event %" PRId64 " (%s): what came after it does not count",
              int_or(event, "to_seq", 0), json_str_or(event, "reason", "?"));
    view->step_bytes = 0;
}

static void on_ended(struct view *view, const cJSON *event)
{
    if (!view->said)
        task_print_output(view->term, json_get(event, "output"));
}

static const struct {
    const char *type;
    void (*show)(struct view *view, const cJSON *event);
} types[] = {
    {"content.delta",   on_content     },
    {"reasoning.delta", on_reasoning   },
    {"step.started",    on_step_started},
    {"step.ended",      on_step_ended  },
    {"tool.started",    on_tool_started},
    {"tool.result",     on_tool_result },
    {"tool.error",      on_tool_error  },
    {"state.patch",     on_state       },
    {"artifact",        on_artifact    },
    {"interrupt",       on_interrupt   },
    {"progress",        on_progress    },
    {"reset",           on_reset       },
    {"turn.ended",      on_ended       },
};

static void print_json_line(struct view *view, const char *data, size_t len)
{
    char *line = xmemdup(data, len);

    /* Line breaks can only stand between tokens of JSON. */
    for (size_t i = 0; i < len; i++)
        if (line[i] == '\n' || line[i] == '\r')
            line[i] = ' ';
    line[len] = '\n';
    term_text(view->term, line, len + 1);
    free(line);
}

void view_event(struct view *view, const char *type, const char *data, size_t len)
{
    struct err ignored;
    int64_t at_us;

    if (view->json) {
        print_json_line(view, data, len);
        return;
    }
    JSON_AUTO(event) = json_parse(data, len, &ignored);
    if (!event)
        return; /* not ours to judge: what follows may be fine */
    if (clock_parse_stamp(json_str_or(event, "at", ""), &at_us) == 0) {
        if (view->first_us < 0)
            view->first_us = at_us;
        view->last_us = at_us;
        view->last_ms = clock_mono_ms();
    }
    for (unsigned i = 0; i < sizeof(types) / sizeof(*types); i++)
        if (!strcmp(types[i].type, type))
            types[i].show(view, event);
}

void view_tick(struct view *view)
{
    int64_t guess = view->step_bytes / BYTES_PER_TOKEN;
    char text[STATUS_TEXT_BYTES];
    double seconds = 0;

    if (view->json)
        return;
    if (view->first_us >= 0)
        seconds = (double)(view->last_us - view->first_us) / 1e6 +
                  (double)(clock_mono_ms() - view->last_ms) / 1e3;
    if (view->first_us < 0)
        snprintf(text, sizeof(text), "waiting for a worker");
    else
        snprintf(text, sizeof(text), "%.1f s, step %" PRId64 ", %s%" PRId64 " tokens", seconds,
                 view->step, guess ? "about " : "", view->tokens + guess);
    term_status(view->term, text);
}

void view_end(struct view *view)
{
    term_status(view->term, "");
    term_break(view->term);
}
