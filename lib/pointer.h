/*
 * JSON pointers (RFC 6901).
 *
 * While a document is walked, where we are is a chain of structs on the stack that costs nothing
 * until it is written down. NULL is the document itself, written as "".
 */
#pragma once

#include "buf.h"

#include <stddef.h>

struct pointer {
    const struct pointer *up;
    const char *key; /* NULL: an element of an array */
    size_t index;
};

/* For arguments and for locals that do not outlive their block. */
#define POINTER_KEY(up, key)     (&(const struct pointer){(up), (key), 0})
#define POINTER_INDEX(up, index) (&(const struct pointer){(up), NULL, (index)})

/* Append `at` as text, `~` as ~0 and `/` as ~1. 0, or -1 when the buffer's limit is hit. */
int pointer_put(struct buf *out, const struct pointer *at);

/*
 * The first token of `*text`, which stands on a '/', unescaped; `*text` moves behind it. NULL when
 * it does not start with '/' or has a '~' that is neither ~0 nor ~1. To be freed by the caller.
 */
char *pointer_token(const char **text);
