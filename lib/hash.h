/* Digests and base64, over libcrypto. Running out of memory inside it aborts, as in lib/mem. */
#pragma once

#include <stddef.h>

#define HASH_SHA1_BYTES       20
#define HASH_SHA256_HEX_BYTES 65

/* Room for the base64 text of `len` bytes and its '\0'. */
#define HASH_BASE64_BYTES(len) (((len) + 2) / 3 * 4 + 1)

void hash_sha1(const void *bytes, size_t len, unsigned char *ret_digest);

/* Lower-case hexadecimal with its '\0' into `ret_hex` (HASH_SHA256_HEX_BYTES). */
void hash_sha256_hex(const void *bytes, size_t len, char *ret_hex);

/* RFC 4648 with padding into `ret_text` (HASH_BASE64_BYTES(len)). */
void hash_base64(const void *bytes, size_t len, char *ret_text);
