#include "halves.h"

#include "utf8.h"

#include <stdbool.h>
#include <string.h>

static bool is_half(const char *p)
{
    return (unsigned char)p[0] == 0xED && (unsigned char)p[1] >= 0xA0;
}

static bool is_first_half(const char *p)
{
    return is_half(p) && (unsigned char)p[1] < 0xB0;
}

static void put_joined(struct buf *out, const char *high, const char *low)
{
    unsigned code = 0x10000 +
                    ((unsigned)(high[1] & 0x0F) << 16 | (unsigned)(high[2] & 0x3F) << 10) +
                    ((unsigned)(low[1] & 0x0F) << 6 | (unsigned)(low[2] & 0x3F));

    (void)buf_putc(out, (char)(0xF0 | code >> 18));
    (void)buf_putc(out, (char)(0x80 | (code >> 12 & 0x3F)));
    (void)buf_putc(out, (char)(0x80 | (code >> 6 & 0x3F)));
    (void)buf_putc(out, (char)(0x80 | (code & 0x3F)));
}

void halves_end(halves half, struct buf *out)
{
    if (*half)
        (void)buf_puts(out, "\xEF\xBF\xBD");
    *half = '\0';
}

const char *halves_join(halves half, const char *text, struct buf *joined)
{
    if (!*text || (!*half && utf8_is_valid(text, strlen(text))))
        return text;
    while (*text) {
        if (*half && is_half(text) && !is_first_half(text)) {
            put_joined(joined, half, text);
            *half = '\0';
            text += 3;
            continue;
        }
        halves_end(half, joined);
        if (!is_half(text)) {
            (void)buf_putc(joined, *text++);
            continue;
        }
        memcpy(half, text, 3);
        if (!is_first_half(text))
            halves_end(half, joined); /* a second half without its first */
        text += 3;
    }
    return joined->len ? joined->data : "";
}
