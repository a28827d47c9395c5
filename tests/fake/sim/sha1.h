/* SHA-1 (FIPS 180-4): the ids of tool calls are made from it. Not for anything secret. */
#pragma once

#include <stddef.h>

#define SHA1_HEX_BYTES 41 /* 40 digits and '\0' */

void sha1_hex(const void *bytes, size_t len, char *ret_hex);
