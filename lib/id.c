#include "id.h"

#include "clock.h"

#include <ctype.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>

void id_random(void *ret_bytes, size_t len)
{
    char *p = ret_bytes;
    ssize_t n;

    while (len > 0) {
        n = getrandom(p, len, 0);
        if (n < 0)
            abort();
        p += n;
        len -= (size_t)n;
    }
}

uint32_t id_random32(void)
{
    uint32_t n;

    id_random(&n, sizeof(n));
    return n;
}

void id_uuid7(char *ret_text)
{
    uint64_t ms = (uint64_t)clock_wall_us() / 1000;
    unsigned char r[10];

    id_random(r, sizeof(r));
    snprintf(ret_text, ID_BYTES, "%08x-%04x-7%03x-%04x-%02x%02x%02x%02x%02x%02x",
             (unsigned)(ms >> 16), (unsigned)(ms & 0xffff), (r[0] << 8 | r[1]) & 0xfff,
             ((r[2] << 8 | r[3]) & 0x3fff) | 0x8000, r[4], r[5], r[6], r[7], r[8], r[9]);
}

bool id_is_uuid(const char *text)
{
    if (strlen(text) != ID_BYTES - 1)
        return false;
    for (int i = 0; i < ID_BYTES - 1; i++) {
        bool dash = i == 8 || i == 13 || i == 18 || i == 23;

        if (dash ? text[i] != '-' : !isxdigit((unsigned char)text[i]))
            return false;
    }
    return true;
}
