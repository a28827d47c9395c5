/* UTF-8 (RFC 3629): what PostgreSQL will not store as text must be found before. */
#pragma once

#include "buf.h"

#include <stdbool.h>
#include <stddef.h>

/* Well-formed and without NUL. */
bool utf8_is_valid(const char *bytes, size_t len);

/* Append `bytes`, each byte that is not part of a valid sequence replaced by U+FFFD. */
int utf8_put_clean(struct buf *out, const char *bytes, size_t len);

/*
 * The longest prefix of at most `len` bytes that does not cut a sequence in two. Looks at
 * bytes[len], which must be there (a '\0' will do).
 */
size_t utf8_prefix(const char *bytes, size_t len);
