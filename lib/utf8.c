#include "utf8.h"

#include <stdint.h>
#include <string.h>

/* Are there `n` continuation bytes behind `p`? */
static bool has_tail(const unsigned char *p, size_t left, size_t n)
{
    if (left <= n)
        return false;
    for (size_t i = 1; i <= n; i++)
        if ((p[i] & 0xC0) != 0x80)
            return false;
    return true;
}

/* Length of the valid sequence at `p`, or 0. NUL is not valid here. The second byte's range keeps
 * out overlong forms, surrogates and what lies above U+10FFFF (RFC 3629, section 4). */
static size_t sequence(const unsigned char *p, size_t left)
{
    if (p[0] < 0x80)
        return p[0] != 0;
    if (p[0] >= 0xC2 && p[0] <= 0xDF)
        return has_tail(p, left, 1) ? 2 : 0;
    if (p[0] >= 0xE0 && p[0] <= 0xEF && has_tail(p, left, 2))
        return (p[0] == 0xE0 && p[1] < 0xA0) || (p[0] == 0xED && p[1] > 0x9F) ? 0 : 3;
    if (p[0] >= 0xF0 && p[0] <= 0xF4 && has_tail(p, left, 3))
        return (p[0] == 0xF0 && p[1] < 0x90) || (p[0] == 0xF4 && p[1] > 0x8F) ? 0 : 4;
    return 0;
}

/* 8 when so many bytes are ASCII without a NUL, else 0: nearly all text is read by this. */
static size_t ascii(const unsigned char *p, size_t left)
{
    uint64_t word;

    if (left < sizeof(word))
        return 0;
    memcpy(&word, p, sizeof(word));
    return (word | (word - 0x0101010101010101ULL)) & 0x8080808080808080ULL ? 0 : sizeof(word);
}

bool utf8_is_valid(const char *bytes, size_t len)
{
    const unsigned char *p = (const unsigned char *)bytes;
    size_t n;

    for (size_t i = 0; i < len; i += n)
        if ((n = ascii(p + i, len - i)) == 0 && (n = sequence(p + i, len - i)) == 0)
            return false;
    return true;
}

int utf8_put_clean(struct buf *out, const char *bytes, size_t len)
{
    const unsigned char *p = (const unsigned char *)bytes;
    size_t i = 0;

    while (i < len) {
        size_t from = i, n = 0;

        while (i < len && (n = sequence(p + i, len - i)) > 0)
            i += n;
        if (buf_append(out, bytes + from, i - from) < 0)
            return -1;
        if (i < len) {
            if (buf_append(out, "\xEF\xBF\xBD", 3) < 0)
                return -1;
            i++;
        }
    }
    return 0;
}

size_t utf8_prefix(const char *bytes, size_t len)
{
    size_t cut = len;

    while (cut > 0 && len - cut < 4 && ((unsigned char)bytes[cut] & 0xC0) == 0x80)
        cut--;
    return cut;
}
