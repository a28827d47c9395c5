/*
 * One event, one line, logfmt, on stderr:
 *   ts=2026-01-02T03:04:05.678Z level=info prog=worker task=... msg="claimed"
 * Only programs and flows log. Code in lib/ returns an error instead and may log at debug level
 * only. Values are escaped so that a peer cannot forge lines.
 */
#pragma once

#include <stdbool.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR };

/* `prog` is borrowed for ever. */
void log_init(const char *prog, enum log_level threshold);

/* "debug" | "info" | "warn" | "error". 0, or -1 when it is none of them. */
int log_parse_level(const char *text, enum log_level *ret_level);

/* Will a line of this level be written? For what is dear to put together. */
bool log_takes(enum log_level level);

/* `context` is a logfmt fragment such as "task=... epoch=2", or "". */
void log_line(enum log_level level, const char *context, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
