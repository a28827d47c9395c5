/*
 * The corners of JavaScript that modelsim's script language rests on: what counts as white space,
 * how a number is read and written, JSON.stringify(). The other implementation of the language
 * (modelsim.mjs) runs on node, and both must answer a script with the same bytes.
 */
#pragma once

#include "json.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* A piece of someone else's text. */
struct span {
    const char *p;
    size_t len;
};

struct span span_of(const char *text);
struct span span_skip(struct span s, size_t len); /* without the first `len` bytes */
char *span_dup(struct span s);                    /* freed by the caller */
struct span span_trim_start(struct span s);
struct span span_trim(struct span s);
size_t span_spaces(struct span s); /* bytes of white space at the start */
size_t span_solid(struct span s);  /* bytes of anything else at the start */

/* Bytes of the white-space character (\s) at the start of `s`, 0 when there is none. */
size_t js_space(struct span s);

/* Bytes of the next token: a word with the space before it; the last one takes the space behind. */
size_t js_word(struct span s);

/* Words of a text that comes in pieces, counted as if it were one. White space counts as one. */
struct js_words {
    bool is_any, in_word;
    uint64_t words;
};
void js_count_words(struct js_words *count, struct span s);
uint64_t js_counted(const struct js_words *count);

/* Number(text): NaN when it is none. */
double js_number(struct span s);

/* String(value); JSON.stringify() writes null for what is no finite number. */
void js_put_number(struct buf *b, double value);
void js_put_json_number(struct buf *b, double value);

/* String(value): what a template or `join` makes of it. */
void js_put_text(struct buf *b, const cJSON *value);
bool js_is_truthy(const cJSON *value);

/*
 * JSON.parse(), as far as json_parse() goes: strict, and of a key that is written twice the last
 * value counts. A '\\0' or another character that ends a number must stand behind the text.
 * Objects of more than 1,000 members keep such keys, and in js_stringify() their order.
 */
cJSON *js_parse(const char *text, size_t len, struct err *err);

/* JSON.stringify(value) */
void js_stringify(struct buf *b, const cJSON *value);

/*
 * At most `units` UTF-16 units of `s`, which is valid UTF-8, as a JSON string. A pair that is cut
 * becomes two escapes of one half each: `*half` says that the second is due, and the sequence
 * counts as behind only then. Returns the bytes of `s` that are done.
 */
size_t js_put_units(struct buf *b, struct span s, size_t units, bool *half);
