/*
 * A growing byte buffer.
 *
 * `data` is never NULL and always has a '\0' after `len` bytes, so it can be handed to any C
 * string function. Each buffer has a hard size limit, because what fills it usually comes from
 * the other side of a socket: an append that would pass the limit changes nothing and fails.
 * Running out of memory aborts.
 */
#pragma once

#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

struct buf {
    char *data;
    size_t len;
    size_t cap;       /* allocated bytes, 0 while nothing is */
    size_t max_bytes; /* largest `len` allowed */
};

extern char buf_empty[1];
/* clang-format off */
#define BUF_INIT(max) {.data = buf_empty, .max_bytes = (max)}
/* clang-format on */

/* For text whose parts are all bounded already: nothing legitimate comes near it. */
#define BUF_MAX ((size_t)1 << 30)

/* Use BUF_AUTO(b, 1024) for a local that releases itself at end of scope. */
#define BUF_AUTO(name, max) __attribute__((cleanup(buf_release))) struct buf name = BUF_INIT(max)

void buf_init(struct buf *b, size_t max_bytes);
int buf_append(struct buf *b, const void *bytes, size_t len); /* 0, or -1 when over the limit */
int buf_puts(struct buf *b, const char *text);
int buf_putc(struct buf *b, char c);
int buf_printf(struct buf *b, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
int buf_put_int(struct buf *b, int64_t value);  /* in decimal */
void buf_drop_front(struct buf *b, size_t len); /* remove the first `len` bytes */
void buf_truncate(struct buf *b, size_t len);   /* keep the first `len` bytes */
void buf_reset(struct buf *b);                  /* empty it, keep the memory */
void buf_release(struct buf *b);                /* empty it, free the memory; usable again */
char *buf_detach(struct buf *b); /* the text, to be freed by the caller; `b` is empty after */
