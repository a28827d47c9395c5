#include "id.h"

#include "clock.h"

#include <ctype.h>
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
    static const char digits[] = "0123456789abcdef";
    uint64_t ms = (uint64_t)clock_wall_us() / 1000;
    unsigned char raw[16];
    char *to = ret_text;

    id_random(raw, sizeof(raw));
    for (int i = 0; i < 6; i++)
        raw[i] = (unsigned char)(ms >> (8 * (5 - i)));
    raw[6] = (unsigned char)((raw[6] & 0x0f) | 0x70); /* version 7 */
    raw[8] = (unsigned char)((raw[8] & 0x3f) | 0x80); /* variant of RFC 9562 */
    for (size_t i = 0; i < sizeof(raw); i++) {
        if (i == 4 || i == 6 || i == 8 || i == 10)
            *to++ = '-';
        *to++ = digits[raw[i] >> 4];
        *to++ = digits[raw[i] & 15];
    }
    *to = '\0';
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
