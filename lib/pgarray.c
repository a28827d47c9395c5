#include "pgarray.h"

#include <assert.h>
#include <string.h>

/* ndim, has-nulls, element type, length, lower bound: int32 each (arrayfuncs.c, array_recv) */
#define HEADER_BYTES 20

static void put_be(struct pg_array *a, uint64_t value, int bytes)
{
    char be[8];

    for (int i = 0; i < bytes; i++)
        be[i] = (char)(value >> (8 * (bytes - 1 - i)));
    buf_append(&a->bytes, be, (size_t)bytes);
}

static void put_header(struct pg_array *a)
{
    put_be(a, 1, 4);
    put_be(a, 1, 4); /* may contain NULLs */
    put_be(a, (uint64_t)a->type, 4);
    put_be(a, 0, 4); /* length: pg_array_finish() */
    put_be(a, 1, 4);
}

void pg_array_init(struct pg_array *a, enum pg_type type)
{
    buf_init(&a->bytes, BUF_MAX);
    a->type = type;
    a->count = 0;
    put_header(a);
}

void pg_array_release(struct pg_array *a)
{
    buf_release(&a->bytes);
    a->count = 0;
}

void pg_array_reset(struct pg_array *a)
{
    buf_truncate(&a->bytes, HEADER_BYTES);
    a->count = 0;
}

void pg_array_put_null(struct pg_array *a)
{
    put_be(a, (uint32_t)-1, 4);
    a->count++;
}

void pg_array_put_bytes(struct pg_array *a, const void *bytes, size_t len)
{
    put_be(a, len, 4);
    buf_append(&a->bytes, bytes, len);
    a->count++;
}

void pg_array_put_text(struct pg_array *a, const char *text)
{
    assert(a->type == PG_TEXT || a->type == PG_JSON);
    if (text)
        pg_array_put_bytes(a, text, strlen(text));
    else
        pg_array_put_null(a);
}

/* Of a hexadecimal digit: bit 6 is set in letters of either case, whose low bits begin with 1. */
static int nibble(char c)
{
    return (c & 15) + (c >> 6) * 9;
}

void pg_array_put_uuid(struct pg_array *a, const char *uuid)
{
    unsigned char raw[16];
    int n = 0;

    assert(a->type == PG_UUID);
    if (!uuid || !*uuid) {
        pg_array_put_null(a);
        return;
    }
    for (const char *p = uuid; *p && n < 32; p++) {
        if (*p == '-')
            continue;
        raw[n / 2] = (unsigned char)(n % 2 ? raw[n / 2] | nibble(*p) : nibble(*p) << 4);
        n++;
    }
    assert(n == 32); /* ids are checked with id_is_uuid() where they come in */
    pg_array_put_bytes(a, raw, sizeof(raw));
}

void pg_array_put_int(struct pg_array *a, int64_t value)
{
    int bytes = a->type == PG_INT4 ? 4 : 8;

    put_be(a, (uint64_t)bytes, 4);
    put_be(a, (uint64_t)value, bytes);
    a->count++;
}

void pg_array_put_bool(struct pg_array *a, bool value)
{
    put_be(a, 1, 4);
    put_be(a, value, 1);
    a->count++;
}

void pg_array_finish(struct pg_array *a)
{
    uint32_t n = (uint32_t)a->count;

    for (int i = 0; i < 4; i++)
        a->bytes.data[12 + i] = (char)(n >> (24 - 8 * i));
}
