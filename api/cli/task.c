#include "task.h"

#include "clock.h"
#include "exit.h"
#include "mem.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define LINE_BYTES 400

int task_exit(const char *status, const char *finish_reason)
{
    static const struct {
        const char *status;
        int exit;
    } ends[] = {
        {"completed",  CLI_OK        },
        {"incomplete", CLI_INCOMPLETE},
        {"failed",     CLI_FAILED    },
        {"aborted",    CLI_ABORTED   },
        {"expired",    CLI_EXPIRED   },
    };

    if (!strcmp(finish_reason, "interrupted") && !strcmp(status, "completed"))
        return CLI_INTERRUPTED;
    for (unsigned i = 0; i < sizeof(ends) / sizeof(*ends); i++)
        if (!strcmp(ends[i].status, status))
            return ends[i].exit;
    return -1;
}

int task_exit_of(const cJSON *task)
{
    return task_exit(json_str_or(task, "status", ""), json_str_or(task, "finish_reason", ""));
}

void task_print_output(struct term *term, const cJSON *output)
{
    const char *text = json_str_or(output, "text", "");
    const cJSON *data = json_get(output, "data");

    if (*text) {
        term_puts(term, text);
    } else if (data) {
        char *json = json_print(data);

        term_puts(term, json);
        free(json);
    }
    term_break(term);
}

static void print_error(struct term *term, const cJSON *error)
{
    const char *code = json_str_or(error, "code", "");

    if (error)
        term_say(term, "error: %s%s%s", code, *code ? ": " : "", json_str_or(error, "message", ""));
}

/* Is there another question by the tool of this name? */
static bool is_repeated(const cJSON *interrupts, const char *name)
{
    const cJSON *i;
    int n = 0;

    cJSON_ArrayForEach (i, interrupts)
        n += !strcmp(json_str_or(i, "name", ""), name);
    return n > 1;
}

/* The option of `nocturne resume` that answers `interrupt`. */
static void put_answer(struct buf *command, const cJSON *interrupt, bool repeated)
{
    const char *id = json_str_or(interrupt, "call_id", "");
    bool confirm = cJSON_IsTrue(json_get(json_get(interrupt, "metadata"), "confirm"));

    (void)buf_printf(command, " --%s %s%s%s%s", confirm ? "restart" : "respond",
                     json_str_or(interrupt, "name", "?"), repeated ? "/" : "", repeated ? id : "",
                     confirm ? "" : "='\"...\"'");
}

/* Which questions are open, with the command that answers all of them. */
static void print_interrupts(struct term *term, const cJSON *task)
{
    const cJSON *interrupts = json_get(task, "interrupts"), *i;
    struct buf command = BUF_INIT(LINE_BYTES * 10);

    cJSON_ArrayForEach (i, interrupts) {
        const char *name = json_str_or(i, "name", "?");
        char *input = json_get(i, "input") ? json_print(json_get(i, "input")) : xstrdup("");

        term_say(term, "waits for an answer: %s %s", name, input);
        put_answer(&command, i, is_repeated(interrupts, name));
        free(input);
    }
    if (command.len > 0)
        term_say(term, "answer with: nocturne resume %s%s", json_str_or(task, "task_id", "ID"),
                 command.data);
    buf_release(&command);
}

void task_print_end(struct term *term, const cJSON *task)
{
    const cJSON *abort = json_get(task, "abort"), *latency = json_get(abort, "latency_ms");
    const char *status = json_str_or(task, "status", ""),
               *reason = json_str_or(task, "finish_reason", "");
    const char *why = json_str_or(abort, "reason", "");

    switch (task_exit(status, reason)) {
    case CLI_OK:
        break;
    case CLI_INTERRUPTED:
        print_interrupts(term, task);
        break;
    case CLI_ABORTED:
        if (cJSON_IsNumber(latency))
            term_say(term, "aborted after %.0f ms%s%s", latency->valuedouble, *why ? ": " : "",
                     why);
        else
            term_say(term, "aborted%s%s", *why ? ": " : "", why);
        break;
    default:
        term_say(term, "%s%s%s%s", status, *reason ? " (" : "", reason, *reason ? ")" : "");
        print_error(term, json_get(task, "error"));
        if (!json_get(task, "retried_by") && json_get(task, "task_id"))
            term_note(term, "try it again with: nocturne retry %s",
                      json_str_or(task, "task_id", ""));
    }
}

/* ---- show ---- */

static void field(struct term *term, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

static void field(struct term *term, const char *name, const char *fmt, ...)
{
    char text[LINE_BYTES], all[LINE_BYTES + 20];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    if (!*text)
        return;
    snprintf(all, sizeof(all), "%-10s %s\n", name, text);
    term_puts(term, all);
}

/* Microseconds since 1970, or -1. */
static int64_t stamp_of(const cJSON *obj, const char *key)
{
    int64_t at;

    return clock_parse_stamp(json_str_or(obj, key, ""), &at) < 0 ? -1 : at;
}

/* "1.23 s" between two stamps, "" when one is missing. */
static const char *span(int64_t from_us, int64_t to_us, char *ret_text, size_t size)
{
    double s = (double)(to_us - from_us) / 1e6;

    *ret_text = '\0';
    if (from_us < 0 || to_us < 0)
        return ret_text;
    if (s < 1)
        snprintf(ret_text, size, "%.0f ms", s * 1000);
    else if (s < 120)
        snprintf(ret_text, size, "%.1f s", s);
    else
        snprintf(ret_text, size, "%.0f min", s / 60);
    return ret_text;
}

static void print_times(struct term *term, const cJSON *task)
{
    int64_t created = stamp_of(task, "created_at"), started = stamp_of(task, "started_at");
    char waited[32], ran[32];

    field(term, "created", "%s", json_str_or(task, "created_at", ""));
    field(term, "due", "%s", json_str_or(task, "run_at", ""));
    field(term, "deadline", "%s", json_str_or(task, "deadline", ""));
    if (started >= 0)
        field(term, "started", "%s (after %s)", json_str_or(task, "started_at", ""),
              span(created, started, waited, sizeof(waited)));
    if (*json_str_or(task, "finished_at", ""))
        field(term, "finished", "%s%s%s%s", json_str_or(task, "finished_at", ""),
              started >= 0 ? " (ran " : "",
              span(started, stamp_of(task, "finished_at"), ran, sizeof(ran)),
              started >= 0 ? ")" : "");
}

static void print_attempts(struct term *term, const cJSON *task)
{
    const cJSON *attempts = json_get(task, "attempts"), *a;
    int n = 0;

    cJSON_ArrayForEach (a, attempts) {
        const cJSON *error = json_get(a, "error");
        const char *message = json_str_or(error, "message", "");
        char name[32], ran[32];

        snprintf(name, sizeof(name), "attempt %d", ++n);
        span(stamp_of(a, "started_at"), stamp_of(a, "ended_at"), ran, sizeof(ran));
        field(term, name, "%s on %s, %s%s%s%s%s", json_str_or(a, "outcome", "?"),
              *json_str_or(a, "worker", "") ? json_str_or(a, "worker", "") : "no worker",
              json_str_or(a, "started_at", ""), *ran ? ", " : "", ran, *message ? ": " : "",
              message);
    }
}

static void print_usage(struct term *term, const cJSON *usage)
{
    const cJSON *in = json_get(usage, "input_tokens"), *out = json_get(usage, "output_tokens");

    if (cJSON_IsNumber(in) && cJSON_IsNumber(out))
        field(term, "usage", "%.0f tokens in, %.0f out%s", in->valuedouble, out->valuedouble,
              cJSON_IsTrue(json_get(usage, "estimated")) ? " (estimated)" : "");
}

static void print_json_field(struct term *term, const char *name, const cJSON *value)
{
    char *json;

    if (!value || (cJSON_IsObject(value) && !value->child))
        return;
    json = json_print(value);
    if (cJSON_IsString(value))
        field(term, name, "%s", value->valuestring);
    else
        field(term, name, "%s", json);
    free(json);
}

void task_print_whole(struct term *term, const cJSON *task)
{
    const cJSON *revision = json_get(task, "revision"), *error = json_get(task, "error"),
                *abort = json_get(task, "abort"), *latency = json_get(abort, "latency_ms"),
                *output = json_get(task, "output"), *artifact;
    const char *reason = json_str_or(task, "finish_reason", "");

    field(term, "task", "%s", json_str_or(task, "task_id", ""));
    field(term, "agent", "%s, revision %.0f", json_str_or(task, "agent", ""),
          cJSON_IsNumber(revision) ? revision->valuedouble : 0);
    field(term, "session", "%s", json_str_or(task, "session_id", ""));
    field(term, "parent", "%s", json_str_or(task, "parent", ""));
    field(term, "retry of", "%s", json_str_or(task, "retry_of", ""));
    field(term, "retried by", "%s", json_str_or(task, "retried_by", ""));
    field(term, "status", "%s%s%s%s", json_str_or(task, "status", ""), *reason ? " (" : "", reason,
          *reason ? ")" : "");
    print_times(term, task);
    print_attempts(term, task);
    print_usage(term, json_get(task, "usage"));
    if (error)
        field(term, "error", "%s: %s", json_str_or(error, "code", ""),
              json_str_or(error, "message", ""));
    if (abort)
        field(term, "abort", "by %s, %.0f ms%s%s", json_str_or(abort, "actor", "?"),
              cJSON_IsNumber(latency) ? latency->valuedouble : 0,
              *json_str_or(abort, "reason", "") ? ": " : "", json_str_or(abort, "reason", ""));
    print_json_field(term, "metadata", json_get(task, "metadata"));
    print_json_field(term, "input", json_get(task, "input"));
    cJSON_ArrayForEach (artifact, json_get(output, "artifacts"))
        field(term, "artifact", "%s", json_str_or(artifact, "name", ""));
    if (*json_str_or(output, "text", "") || json_get(output, "data")) {
        term_puts(term, "\n");
        task_print_output(term, output);
    }
    if (task_exit_of(task) == CLI_INTERRUPTED)
        print_interrupts(term, task);
}

/* ---- list ---- */

void task_print_line(struct term *term, const cJSON *task)
{
    char text[LINE_BYTES], ran[32];
    const char *reason = json_str_or(task, "finish_reason", "");
    const char *created = json_str_or(task, "created_at", "");

    if (!task) {
        term_puts(term, "TASK                                  STATUS       CREATED (UTC)        "
                        "RAN      AGENT\n");
        return;
    }
    span(stamp_of(task, "started_at"), stamp_of(task, "finished_at"), ran, sizeof(ran));
    snprintf(text, sizeof(text), "%-36s  %-11s  %.10s %-8.8s  %-7s  %s\n",
             json_str_or(task, "task_id", ""),
             strcmp(reason, "interrupted") ? json_str_or(task, "status", "") : "interrupted",
             created, strlen(created) > 11 ? created + 11 : "", ran,
             json_str_or(task, "agent", ""));
    term_puts(term, text);
}
