#include "log.h"

#include "buf.h"
#include "clock.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warn", "error"};
static const char *log_prog = "?";
static enum log_level log_threshold = LOG_INFO;

void log_init(const char *prog, enum log_level threshold)
{
    log_prog = prog;
    log_threshold = threshold;
}

int log_parse_level(const char *text, enum log_level *ret_level)
{
    for (int i = LOG_DEBUG; i <= LOG_ERROR; i++) {
        if (!strcmp(text, level_names[i])) {
            *ret_level = (enum log_level)i;
            return 0;
        }
    }
    return -1;
}

/* Quote `text` so that one event can never become two lines. */
static void put_quoted(struct buf *out, const char *text)
{
    buf_putc(out, '"');
    for (const char *p = text; *p; p++) {
        if (*p == '"' || *p == '\\')
            buf_printf(out, "\\%c", *p);
        else if ((unsigned char)*p < ' ' || *p == 0x7f)
            buf_printf(out, "\\x%02x", (unsigned char)*p);
        else
            buf_putc(out, *p);
    }
    buf_putc(out, '"');
}

bool log_takes(enum log_level level)
{
    return level >= log_threshold;
}

void log_line(enum log_level level, const char *context, const char *fmt, ...)
{
    char stamp[CLOCK_STAMP_BYTES], msg[512];
    BUF_AUTO(line, 8192);
    va_list ap;

    if (!log_takes(level))
        return;
    va_start(ap, fmt);
    vsnprintf(msg, sizeof(msg), fmt, ap);
    va_end(ap);
    buf_printf(&line, "ts=%s level=%s prog=%s%s%s msg=", clock_stamp_us(clock_wall_us(), stamp),
               level_names[level], log_prog, *context ? " " : "", context);
    put_quoted(&line, msg);
    buf_putc(&line, '\n');
    /* One write, so that lines of several processes on one terminal do not mix. */
    if (write(STDERR_FILENO, line.data, line.len) < 0)
        return; /* there is nobody left to tell */
}
