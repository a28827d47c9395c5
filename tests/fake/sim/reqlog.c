#include "reqlog.h"

#include "js.h"
#include "mem.h"
#include "utf8.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TEXT_BYTES  ((size_t)256 << 20)
#define STRIPPED_SCRIPT 1024 /* bytes that are kept of a script whose messages are dropped */

void reqlog_init(struct reqlog *log)
{
    memset(log, 0, sizeof(*log));
    log->first = log->first_whole = 1;
    log->max_text_bytes = MAX_TEXT_BYTES;
}

static size_t length(const char *text)
{
    return text ? strlen(text) : 0;
}

static size_t text_bytes(const struct reqlog_entry *entry)
{
    return length(entry->script) + length(entry->messages) + length(entry->tools);
}

static void forget(struct reqlog *log, uint64_t id)
{
    struct reqlog_entry *entry = reqlog_find(log, id);

    if (!entry)
        return;
    log->text_bytes -= text_bytes(entry);
    log->slots[id % REQLOG_MAX] = NULL;
    free(entry->path);
    free(entry->script);
    free(entry->gate);
    free(entry->headers);
    free(entry->messages);
    free(entry->tools);
    free(entry);
}

static void strip(struct reqlog *log, uint64_t id)
{
    struct reqlog_entry *entry = reqlog_find(log, id);

    if (!entry)
        return;
    log->text_bytes -= text_bytes(entry);
    entry->script[utf8_prefix(entry->script, length(entry->script) < STRIPPED_SCRIPT
                                                 ? length(entry->script)
                                                 : STRIPPED_SCRIPT)] = '\0';
    free(entry->messages);
    free(entry->tools);
    entry->messages = entry->tools = NULL;
    entry->is_stripped = true;
    log->text_bytes += text_bytes(entry);
}

void reqlog_reset(struct reqlog *log)
{
    for (uint64_t id = log->first; id <= log->newest; id++)
        forget(log, id);
    log->first = log->first_whole = log->newest + 1;
}

uint64_t reqlog_add(struct reqlog *log, const struct reqlog_entry *entry)
{
    uint64_t id = ++log->newest;
    struct reqlog_entry *copy = xcalloc(1, sizeof(*copy));

    if (id >= REQLOG_MAX && log->first <= id - REQLOG_MAX) {
        forget(log, log->first);
        log->first = id - REQLOG_MAX + 1;
    }
    *copy = *entry;
    copy->id = id;
    log->slots[id % REQLOG_MAX] = copy;
    log->text_bytes += text_bytes(copy);
    for (; log->text_bytes > log->max_text_bytes && log->first_whole <= id; log->first_whole++)
        strip(log, log->first_whole);
    return id;
}

struct reqlog_entry *reqlog_find(struct reqlog *log, uint64_t id)
{
    struct reqlog_entry *entry = log->slots[id % REQLOG_MAX];

    return entry && entry->id == id ? entry : NULL;
}

static void put_number(struct buf *b, const char *key, double value)
{
    (void)json_put_key(b, key);
    js_put_json_number(b, value);
}

static void print_entry(struct buf *b, const struct reqlog_entry *entry)
{
    (void)json_open(b, '{');
    (void)json_put_member_int(b, "id", (int64_t)entry->id);
    (void)json_put_member_int(b, "at", entry->at_ms);
    (void)json_put_member_str(b, "path", entry->path);
    (void)json_put_member_raw(b, "headers", entry->headers);
    (void)json_put_member_str(b, "script", entry->script);
    (void)json_put_member_int(b, "step", (int64_t)entry->step);
    (void)json_put_member_str(b, "status", entry->status);
    put_number(b, "httpStatus", entry->http_status);
    (void)json_put_member_int(b, "chunks", (int64_t)entry->chunks);
    (void)json_put_member_str(b, "gate", entry->gate);
    if (entry->ended_ms)
        (void)json_put_member_int(b, "endedAt", entry->ended_ms);
    (void)json_put_member_raw(b, "messages", entry->is_stripped ? "[]" : entry->messages);
    (void)json_put_member_raw(b, "tools", entry->tools);
    (void)json_put_key(b, "stream");
    (void)json_put_bool(b, entry->is_stream);
    if (entry->is_stripped) {
        (void)json_put_key(b, "messagesDropped");
        (void)json_put_bool(b, true);
    }
    (void)json_close(b, '}');
}

void reqlog_print(struct reqlog *log, struct buf *b)
{
    (void)json_open(b, '[');
    for (uint64_t id = log->first; id <= log->newest; id++) {
        const struct reqlog_entry *entry = reqlog_find(log, id);

        if (entry)
            print_entry(b, entry);
    }
    (void)json_close(b, ']');
}
