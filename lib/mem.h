/*
 * Memory that is always there: running out of it aborts the process, and a crash is a path that
 * is tested anyway. Therefore everything whose size a peer chooses must have a limit elsewhere.
 * Nothing outside lib/mem calls malloc and its kin. Released with free().
 */
#pragma once

#include <stddef.h>

/* Once a process: what is large goes back to the system when it is released. Otherwise the first
 * ones that are freed make glibc keep the next in the heap, with holes between them. */
void mem_init(void);

void *xcalloc(size_t n, size_t size); /* zeroed */
void *xrealloc(void *old, size_t size);
char *xstrdup(const char *text);              /* NULL gives NULL */
char *xmemdup(const void *bytes, size_t len); /* a copy with a '\0' behind it */
char *xasprintf(const char *fmt, ...) __attribute__((format(printf, 1, 2)));
