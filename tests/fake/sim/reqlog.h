/*
 * The requests modelsim was sent, for GET /__sim/requests: the newest 10,000, and of their texts
 * 256 MiB in all. The oldest lose their messages first, which shows as "messagesDropped".
 */
#pragma once

#include "buf.h"

#include <stdbool.h>
#include <stdint.h>

#define REQLOG_MAX 10000

/* Strings belong to the entry. JSON members are texts that are put as they are. */
struct reqlog_entry {
    uint64_t id;
    int64_t at_ms, ended_ms; /* wall clock; 0: not ended */
    uint64_t step, chunks;
    double http_status;
    const char *status;               /* a literal */
    char *path, *script, *gate;       /* gate: NULL when it waited for none */
    char *headers, *messages, *tools; /* JSON; messages and tools: NULL when not sent */
    bool is_stream, is_stripped;
};

struct reqlog {
    struct reqlog_entry *slots[REQLOG_MAX]; /* at id modulo REQLOG_MAX */
    uint64_t newest;                        /* id given last, 0 at the start */
    uint64_t first, first_whole;            /* oldest id that may be there, and with messages */
    size_t text_bytes, max_text_bytes;      /* of scripts, messages and names of tools */
};

void reqlog_init(struct reqlog *log);
void reqlog_reset(struct reqlog *log); /* forgets all entries; ids go on */

/* Takes over the strings of `entry` and gives it the next id, which it returns. */
uint64_t reqlog_add(struct reqlog *log, const struct reqlog_entry *entry);

/* NULL when it was forgotten meanwhile. */
struct reqlog_entry *reqlog_find(struct reqlog *log, uint64_t id);

void reqlog_print(struct reqlog *log, struct buf *b);
