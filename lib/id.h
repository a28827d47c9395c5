/* Identifiers: UUIDs as text (RFC 9562) and random bytes. */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define ID_BYTES 37 /* 36 characters and '\0' */

void id_random(void *ret_bytes, size_t len); /* from the kernel; aborts when it has none */
uint32_t id_random32(void);
void id_uuid7(char *ret_text);     /* ID_BYTES; time-ordered, by this machine's clock */
bool id_is_uuid(const char *text); /* 8-4-4-4-12 hexadecimal digits, any case */
