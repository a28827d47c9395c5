#include "frame.h"

#include "clock.h"

#include <stdlib.h>
#include <string.h>

static const char head[] = "{\"type\":\"";

struct line {
    int64_t at_ms; /* since the chunk's */
    const char *type;
    size_t type_len;
    const char *rest; /* behind the type's closing quote, up to and with the last bracket */
    size_t rest_len;
};

/* `text` has `len` bytes without the line feed. */
static int read_line(const char *text, size_t len, struct line *ret_line)
{
    const char *end = text + len, *quote;
    char *json;

    ret_line->at_ms = strtoll(text, &json, 10);
    if (json == text || json >= end || *json++ != ' ')
        return -1;
    if ((size_t)(end - json) < sizeof(head) || memcmp(json, head, sizeof(head) - 1) != 0)
        return -1;
    ret_line->type = json + sizeof(head) - 1;
    quote = memchr(ret_line->type, '"', (size_t)(end - ret_line->type));
    if (!quote || end[-1] != '}')
        return -1;
    ret_line->type_len = (size_t)(quote - ret_line->type);
    ret_line->rest = quote + 1;
    ret_line->rest_len = (size_t)(end - ret_line->rest);
    return 0;
}

static int put_frame(struct buf *out, int64_t seq, int64_t at_ms, const struct line *line)
{
    char stamp[CLOCK_STAMP_BYTES];
    int rc = buf_puts(out, "id: ");

    rc |= buf_put_int(out, seq);
    rc |= buf_puts(out, "\nevent: ");
    rc |= buf_append(out, line->type, line->type_len);
    rc |= buf_puts(out, "\ndata: {\"seq\":");
    rc |= buf_put_int(out, seq);
    rc |= buf_puts(out, ",\"type\":\"");
    rc |= buf_append(out, line->type, line->type_len);
    rc |= buf_puts(out, "\",\"at\":\"");
    rc |= buf_puts(out, clock_stamp((at_ms + line->at_ms) * 1000, stamp));
    rc |= buf_putc(out, '"');
    rc |= buf_append(out, line->rest, line->rest_len);
    return rc | buf_puts(out, "\n\n");
}

static bool is_end(const struct line *line)
{
    static const char word[] = "turn.ended";

    return line->type_len == sizeof(word) - 1 && !memcmp(line->type, word, line->type_len);
}

int frame_put_chunk(struct buf *out, const struct sweep_row *chunk, int64_t after, bool *ret_ended)
{
    const char *text = chunk->events, *end = text + chunk->len;
    int64_t seq = chunk->seq_from;
    struct line line;

    for (; text < end; seq++) {
        const char *feed = memchr(text, '\n', (size_t)(end - text));

        if (!feed || read_line(text, (size_t)(feed - text), &line) < 0)
            return -1;
        if (seq > after && put_frame(out, seq, chunk->at_ms, &line) < 0)
            return -1;
        if (is_end(&line))
            *ret_ended = true;
        text = feed + 1;
    }
    return seq == chunk->seq_from + chunk->count ? 0 : -1;
}
