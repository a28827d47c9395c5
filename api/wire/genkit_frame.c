#include "wire/genkit_frame.h"

#include "json.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>

struct genkit_answer {
    char *ref, *part; /* part: {"toolResponse": ...} */
    int64_t seq;
};

/* ---- text ---- */

/* The code point at `text`, which is valid UTF-8; `*ret_len` bytes long. */
static uint32_t decode(const unsigned char *text, size_t *ret_len)
{
    if (text[0] < 0xe0) {
        *ret_len = 2;
        return (text[0] & 0x1fU) << 6 | (text[1] & 0x3fU);
    }
    if (text[0] < 0xf0) {
        *ret_len = 3;
        return (text[0] & 0x0fU) << 12 | (text[1] & 0x3fU) << 6 | (text[2] & 0x3fU);
    }
    *ret_len = 4;
    return (text[0] & 0x07U) << 18 | (text[1] & 0x3fU) << 12 | (text[2] & 0x3fU) << 6 |
           (text[3] & 0x3fU);
}

static void put_escape(struct buf *out, uint32_t code)
{
    if (code >= 0x10000) {
        code -= 0x10000;
        (void)buf_printf(out, "\\u%04x\\u%04x", 0xd800 + (code >> 10), 0xdc00 + (code & 0x3ff));
    } else {
        (void)buf_printf(out, "\\u%04x", code);
    }
}

void genkit_put_ascii(struct buf *out, const char *json, size_t len)
{
    size_t run = 0, at = 0, width;

    while (at < len) {
        unsigned char c = (unsigned char)json[at];

        if (c >= ' ' && c < 0x7f) {
            at++;
            continue;
        }
        (void)buf_append(out, json + run, at - run);
        if (c < 0x80) { /* white space between tokens */
            (void)buf_putc(out, ' ');
            width = 1;
        } else {
            put_escape(out, decode((const unsigned char *)json + at, &width));
        }
        at += width;
        run = at;
    }
    (void)buf_append(out, json + run, at - run);
}

static void open_frame(struct buf *out, const char *kind)
{
    (void)buf_printf(out, "%s: {\"%s\":", !strcmp(kind, "error") ? "error" : "data", kind);
}

static void close_frame(struct buf *out)
{
    (void)buf_puts(out, "}\n\n");
}

void genkit_put_frame(struct buf *out, const char *kind, const char *json)
{
    open_frame(out, kind);
    genkit_put_ascii(out, json, strlen(json));
    close_frame(out);
}

/* ---- model chunks ---- */

/* Messages of a turn are counted from 0: a model's and a tool's a step. */
static int index_of(const struct genkit_chunks *g, bool tool)
{
    if (g->step == 0)
        return 0;
    return 2 * (g->step - 1) + (g->resumed ? 1 : 0) + (tool ? 1 : 0);
}

static void open_model_chunk(struct buf *out, const char *role, int index)
{
    open_frame(out, "message");
    (void)buf_printf(out, "{\"modelChunk\":{\"role\":\"%s\",", role);
    if (index >= 0)
        (void)buf_printf(out, "\"index\":%d,", index);
    (void)buf_puts(out, "\"content\":[");
}

static void put_void(struct genkit_chunks *g, struct buf *out)
{
    open_frame(out, "message");
    (void)buf_printf(out,
                     "{\"modelChunk\":{\"role\":\"model\",\"index\":%d,"
                     "\"content\":[],\"aggregated\":true}}",
                     index_of(g, false));
    close_frame(out);
}

static void close_model_chunk(struct buf *out)
{
    (void)buf_puts(out, "]}}");
    close_frame(out);
}

/* The tool requests of a model message in one chunk; nothing when it has none. */
static void put_requests(struct buf *out, const char *message, const char *role, int index)
{
    struct err err;
    JSON_AUTO(root) = json_parse(message, strlen(message), &err);
    const cJSON *part;
    int n = 0;

    cJSON_ArrayForEach (part, json_get(root, "content")) {
        char *text;

        if (!json_get(part, "toolRequest"))
            continue;
        if (n++ == 0)
            open_model_chunk(out, role, index);
        else
            (void)buf_putc(out, ',');
        text = json_print(part);
        genkit_put_ascii(out, text, strlen(text));
        free(text);
    }
    if (n > 0)
        close_model_chunk(out);
}

/* {"type":...,"text":"..."} as a part of that name. */
static void put_delta(struct genkit_chunks *g, struct buf *out, const char *part)
{
    const char *text;
    size_t len;

    if (!json_member_span(g->line.data, "text", &text, &len))
        return;
    g->told = true;
    open_model_chunk(out, "model", index_of(g, false));
    (void)buf_printf(out, "{\"%s\":", part);
    genkit_put_ascii(out, text, len);
    (void)buf_putc(out, '}');
    close_model_chunk(out);
}

/* {"type":...,KEY: value} as a chunk of one member. */
static void put_member(struct genkit_chunks *g, struct buf *out, const char *key, const char *name)
{
    const char *value;
    size_t len;

    if (!json_member_span(g->line.data, key, &value, &len))
        return;
    open_frame(out, "message");
    if (name)
        (void)buf_printf(out, "{\"%s\":", name);
    genkit_put_ascii(out, value, len);
    if (name)
        (void)buf_putc(out, '}');
    close_frame(out);
}

/* ---- tools ---- */

static void answer_release(struct genkit_answer *answer)
{
    free(answer->ref);
    free(answer->part);
}

static void add_answer(struct genkit_chunks *g, int64_t seq, bool failed)
{
    struct err err;
    JSON_AUTO(event) = json_parse(g->line.data, g->line.len, &err);
    const cJSON *step = json_get(event, "step");
    bool pending = cJSON_IsTrue(json_get(event, "pending"));
    const char *value;
    size_t len;
    struct buf part = BUF_INIT(BUF_MAX);

    if (!json_member_span(g->line.data, failed ? "error" : "output", &value, &len))
        return;
    if (cJSON_IsNumber(step) && step->valuedouble < 1)
        g->resumed = true;
    (void)json_open(&part, '{');
    (void)json_put_key(&part, "toolResponse");
    (void)json_open(&part, '{');
    (void)json_put_member_str(&part, "name", json_str_or(event, "name", ""));
    (void)json_put_member_str(&part, "ref", json_str_or(event, "call_id", ""));
    (void)json_put_key(&part, "output");
    if (failed)
        (void)buf_puts(&part, "{\"error\":");
    (void)buf_append(&part, value, len);
    (void)buf_puts(&part, failed ? "}}" : "}");
    (void)buf_puts(&part, pending ? ",\"metadata\":{\"source\":\"pending\"}}" : "}");
    g->answers = xrealloc(g->answers, (size_t)(g->n + 1) * sizeof(*g->answers));
    g->answers[g->n++] =
        (struct genkit_answer){xstrdup(json_str_or(event, "call_id", "")), buf_detach(&part), seq};
}

/* Forget answers that a reset has made void. */
static void drop_answers(struct genkit_chunks *g, int64_t after)
{
    int kept = 0;

    for (int i = 0; i < g->n; i++) {
        if (g->answers[i].seq > after)
            answer_release(&g->answers[i]);
        else
            g->answers[kept++] = g->answers[i];
    }
    g->n = kept;
}

/* Put the answer to `ref` next in line, if it is there. */
static void bring_forward(struct genkit_chunks *g, int to, const char *ref)
{
    for (int i = to; i < g->n; i++) {
        struct genkit_answer found = g->answers[i];

        if (strcmp(found.ref, ref) != 0)
            continue;
        memmove(&g->answers[to + 1], &g->answers[to], (size_t)(i - to) * sizeof(found));
        g->answers[to] = found;
        return;
    }
}

/* In the order of the requests, not of their answers. */
static void sort_answers(struct genkit_chunks *g)
{
    struct err err;
    JSON_AUTO(message) = g->requests ? json_parse(g->requests, strlen(g->requests), &err) : NULL;
    const cJSON *part;
    int at = 0;

    cJSON_ArrayForEach (part, json_get(message, "content")) {
        const cJSON *request = json_get(part, "toolRequest");

        if (request && at < g->n)
            bring_forward(g, at++, json_str_or(request, "ref", ""));
    }
}

/* All answers of a step are one chunk. */
static void flush_answers(struct genkit_chunks *g, struct buf *out)
{
    if (g->n == 0)
        return;
    sort_answers(g);
    open_model_chunk(out, "tool", index_of(g, true));
    for (int i = 0; i < g->n; i++) {
        if (i > 0)
            (void)buf_putc(out, ',');
        genkit_put_ascii(out, g->answers[i].part, strlen(g->answers[i].part));
        answer_release(&g->answers[i]);
    }
    close_model_chunk(out);
    g->n = 0;
}

/* ---- events ---- */

static void begin_step(struct genkit_chunks *g, struct buf *out)
{
    struct err err;
    JSON_AUTO(event) = json_parse(g->line.data, g->line.len, &err);
    const cJSON *step = json_get(event, "step");

    flush_answers(g, out);
    free(g->requests);
    g->requests = NULL;
    g->told = false;
    g->step = cJSON_IsNumber(step) ? (int)step->valuedouble : g->step + 1;
}

static void end_step(struct genkit_chunks *g, struct buf *out)
{
    const char *message;
    size_t len;

    free(g->requests);
    g->requests = NULL;
    g->told = false;
    if (!json_member_span(g->line.data, "message", &message, &len))
        return;
    g->requests = xmemdup(message, len);
    put_requests(out, g->requests, "model", index_of(g, false));
}

static void end_turn(struct genkit_chunks *g, struct buf *out)
{
    struct err err;
    JSON_AUTO(event) = json_parse(g->line.data, g->line.len, &err);
    const char *status = json_str_or(event, "status", "");

    g->ended = true;
    g->paused = !strcmp(json_str_or(event, "finish_reason", ""), "interrupted");
    if (!g->paused && !strcmp(status, "incomplete"))
        flush_answers(g, out);
}

static void reset(struct genkit_chunks *g, struct buf *out)
{
    struct err err;
    JSON_AUTO(event) = json_parse(g->line.data, g->line.len, &err);
    const cJSON *to = json_get(event, "to_seq");

    drop_answers(g, cJSON_IsNumber(to) ? (int64_t)to->valuedouble : 0);
    if (g->told)
        put_void(g, out);
    g->told = false;
}

static void take_event(struct genkit_chunks *g, const char *type, int64_t seq, struct buf *out)
{
    if (!strcmp(type, "turn.ended"))
        end_turn(g, out);
    else if (g->silent)
        return;
    else if (!strcmp(type, "content.delta"))
        put_delta(g, out, "text");
    else if (!strcmp(type, "reasoning.delta"))
        put_delta(g, out, "reasoning");
    else if (!strcmp(type, "step.started"))
        begin_step(g, out);
    else if (!strcmp(type, "step.ended"))
        end_step(g, out);
    else if (!strcmp(type, "tool.result"))
        add_answer(g, seq, false);
    else if (!strcmp(type, "tool.error"))
        add_answer(g, seq, true);
    else if (!strcmp(type, "state.patch"))
        put_member(g, out, "patch", "customPatch");
    else if (!strcmp(type, "artifact"))
        put_member(g, out, "artifact", "artifact");
    else if (!strcmp(type, "progress"))
        put_member(g, out, "data", NULL);
    else if (!strcmp(type, "reset"))
        reset(g, out);
}

/* `text` has `len` bytes: milliseconds, a blank, {"type":"TYPE",... */
static int take_line(struct genkit_chunks *g, const char *text, size_t len, int64_t seq,
                     struct buf *out)
{
    static const char head[] = "{\"type\":\"";
    const char *json = memchr(text, '{', len);
    char type[32];
    size_t n;

    if (!json || (size_t)(text + len - json) < sizeof(head) ||
        memcmp(json, head, sizeof(head) - 1) != 0)
        return -1;
    buf_reset(&g->line);
    (void)buf_append(&g->line, json, (size_t)(text + len - json));
    n = strcspn(g->line.data + sizeof(head) - 1, "\"");
    if (n >= sizeof(type))
        return -1;
    memcpy(type, g->line.data + sizeof(head) - 1, n);
    type[n] = '\0';
    take_event(g, type, seq, out);
    return 0;
}

int genkit_chunks_take(struct genkit_chunks *g, const struct sweep_row *chunk, int64_t after,
                       struct buf *out)
{
    const char *text = chunk->events, *end = text + chunk->len;
    int64_t seq = chunk->seq_from;

    for (; text < end; seq++) {
        const char *feed = memchr(text, '\n', (size_t)(end - text));

        if (!feed)
            return -1;
        if (seq > after && take_line(g, text, (size_t)(feed - text), seq, out) < 0)
            return -1;
        text = feed + 1;
    }
    return seq == chunk->seq_from + chunk->count ? 0 : -1;
}

void genkit_put_end(struct buf *out, const struct genkit_output_row *row)
{
    if (!row->is_flow) {
        if (row->paused)
            put_requests(out, row->paused, "tool", -1);
        genkit_put_frame(out, "message", row->turn_end);
    }
    if (row->error)
        genkit_put_frame(out, "error", row->error);
    else
        genkit_put_frame(out, "result", row->result);
}

void genkit_chunks_init(struct genkit_chunks *g, bool silent)
{
    *g = (struct genkit_chunks){.silent = silent};
    buf_init(&g->line, BUF_MAX);
}

void genkit_chunks_release(struct genkit_chunks *g)
{
    for (int i = 0; i < g->n; i++)
        answer_release(&g->answers[i]);
    free(g->answers);
    free(g->requests);
    buf_release(&g->line);
}
