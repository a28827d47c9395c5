#include "js.h"

#include "mem.h"

#include <inttypes.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_ORDERED_KEYS 1000 /* finding doubles among more would cost quadratic time */

struct span span_of(const char *text)
{
    return (struct span){text, strlen(text)};
}

struct span span_skip(struct span s, size_t len)
{
    return (struct span){s.p + len, s.len - len};
}

char *span_dup(struct span s)
{
    return xmemdup(s.p, s.len);
}

/* \u00a0 \u1680 \u2000-\u200a \u2028 \u2029 \u202f \u205f \u3000 \ufeff */
static size_t wide_space(struct span s)
{
    const unsigned char *c = (const unsigned char *)s.p;

    if (s.len >= 2 && c[0] == 0xc2 && c[1] == 0xa0)
        return 2;
    if (s.len < 3)
        return 0;
    if (c[0] == 0xe2 && c[1] == 0x80 &&
        ((c[2] >= 0x80 && c[2] <= 0x8a) || c[2] == 0xa8 || c[2] == 0xa9 || c[2] == 0xaf))
        return 3;
    if (!memcmp(c, "\xe1\x9a\x80", 3) || !memcmp(c, "\xe2\x81\x9f", 3) ||
        !memcmp(c, "\xe3\x80\x80", 3) || !memcmp(c, "\xef\xbb\xbf", 3))
        return 3;
    return 0;
}

size_t js_space(struct span s)
{
    if (s.len == 0)
        return 0;
    if (*s.p == ' ' || (*s.p >= '\t' && *s.p <= '\r'))
        return 1;
    return (unsigned char)*s.p < 0x80 ? 0 : wide_space(s);
}

size_t span_spaces(struct span s)
{
    size_t at = 0, n;

    while ((n = js_space(span_skip(s, at))) > 0)
        at += n;
    return at;
}

size_t span_solid(struct span s)
{
    size_t at = 0;

    while (at < s.len && js_space(span_skip(s, at)) == 0)
        at++;
    return at;
}

struct span span_trim_start(struct span s)
{
    return span_skip(s, span_spaces(s));
}

/* White space is one, two or three bytes long, and no part of it is the end of another sign. */
static size_t space_before_end(struct span s)
{
    for (size_t n = 1; n <= 3 && n <= s.len; n++)
        if (js_space((struct span){s.p + s.len - n, n}) == n)
            return n;
    return 0;
}

struct span span_trim(struct span s)
{
    size_t n;

    s = span_trim_start(s);
    while ((n = space_before_end(s)) > 0)
        s.len -= n;
    return s;
}

size_t js_word(struct span s)
{
    size_t at = span_spaces(s), tail;

    at += span_solid(span_skip(s, at));
    tail = at + span_spaces(span_skip(s, at));
    return tail == s.len ? tail : at;
}

void js_count_words(struct js_words *count, struct span s)
{
    count->is_any |= s.len > 0;
    while (s.len > 0) {
        size_t spaces = span_spaces(s), solid;

        if (spaces > 0)
            count->in_word = false;
        s = span_skip(s, spaces);
        solid = span_solid(s);
        count->words += solid > 0 && !count->in_word;
        count->in_word |= solid > 0;
        s = span_skip(s, solid);
    }
}

uint64_t js_counted(const struct js_words *count)
{
    return count->words > 0 ? count->words : count->is_any;
}

double js_number(struct span s)
{
    char text[64], *end;
    double value;

    s = span_trim(s);
    if (s.len == 0)
        return 0;
    if (s.len >= sizeof(text))
        return NAN;
    memcpy(text, s.p, s.len);
    text[s.len] = '\0';
    if (text[0] == '0' && (text[1] == 'x' || text[1] == 'X')) {
        value = (double)strtoull(text + 2, &end, 16);
        return end > text + 2 && !*end && strspn(text + 2, "0123456789abcdefABCDEF") == s.len - 2
                   ? value
                   : NAN;
    }
    if (!strcmp(text, "Infinity") || !strcmp(text, "+Infinity"))
        return INFINITY;
    if (!strcmp(text, "-Infinity"))
        return -INFINITY;
    if (strspn(text, "+-.0123456789eE") != s.len)
        return NAN;
    value = strtod(text, &end);
    return end > text && !*end ? value : NAN;
}

/* The digits of the shortest decimal that reads back as `value`, and where its point stands. */
static void shortest(double value, char *ret_digits, int *ret_point)
{
    char text[40], *e;
    size_t n = 0;

    for (int precision = 0; precision <= 16; precision++) {
        snprintf(text, sizeof(text), "%.*e", precision, value);
        if (strtod(text, NULL) == value)
            break;
    }
    e = strchr(text, 'e');
    *ret_point = (int)strtol(e + 1, NULL, 10) + 1;
    for (const char *p = text; p < e; p++)
        if (*p != '.')
            ret_digits[n++] = *p;
    while (n > 1 && ret_digits[n - 1] == '0')
        n--;
    ret_digits[n] = '\0';
}

/* ECMAScript's Number::toString for positive, finite, not whole-and-small numbers. */
static void put_digits(struct buf *b, const char *digits, int point)
{
    int n = (int)strlen(digits);

    if (point >= n && point <= 21)
        (void)buf_printf(b, "%s%.*s", digits, point - n, "000000000000000000000");
    else if (point > 0 && point <= 21)
        (void)buf_printf(b, "%.*s.%s", point, digits, digits + point);
    else if (point > -6 && point <= 0)
        (void)buf_printf(b, "0.%.*s%s", -point, "000000", digits);
    else
        (void)buf_printf(b, "%c%s%se%+d", digits[0], n > 1 ? "." : "", digits + 1, point - 1);
}

void js_put_number(struct buf *b, double value)
{
    char digits[40];
    int point;

    if (isnan(value) || isinf(value)) {
        (void)buf_puts(b, isnan(value) ? "NaN" : value > 0 ? "Infinity" : "-Infinity");
        return;
    }
    if (fabs(value) < 1e15 && value == (double)(int64_t)value) {
        (void)buf_printf(b, "%" PRId64, (int64_t)value);
        return;
    }
    if (value < 0)
        (void)buf_putc(b, '-');
    shortest(fabs(value), digits, &point);
    put_digits(b, digits, point);
}

void js_put_json_number(struct buf *b, double value)
{
    if (isnan(value) || isinf(value))
        (void)buf_puts(b, "null");
    else
        js_put_number(b, value);
}

static void put_joined(struct buf *b, const cJSON *array)
{
    for (const cJSON *item = array->child; item; item = item->next) {
        if (!cJSON_IsNull(item))
            js_put_text(b, item);
        if (item->next)
            (void)buf_putc(b, ',');
    }
}

void js_put_text(struct buf *b, const cJSON *value)
{
    if (!value)
        (void)buf_puts(b, "undefined");
    else if (cJSON_IsString(value))
        (void)buf_puts(b, value->valuestring);
    else if (cJSON_IsNumber(value))
        js_put_number(b, value->valuedouble);
    else if (cJSON_IsBool(value))
        (void)buf_puts(b, cJSON_IsTrue(value) ? "true" : "false");
    else if (cJSON_IsArray(value))
        put_joined(b, value);
    else
        (void)buf_puts(b, cJSON_IsNull(value) ? "null" : "[object Object]");
}

bool js_is_truthy(const cJSON *value)
{
    if (!value || cJSON_IsNull(value) || cJSON_IsFalse(value))
        return false;
    if (cJSON_IsString(value))
        return *value->valuestring != '\0';
    return !cJSON_IsNumber(value) || (value->valuedouble != 0 && !isnan(value->valuedouble));
}

static bool is_index(const char *key, uint32_t *ret_index)
{
    char *end;
    unsigned long long value;

    if (*key < '0' || *key > '9' || (*key == '0' && key[1]) || strlen(key) > 10)
        return false;
    value = strtoull(key, &end, 10);
    if (*end || value >= UINT32_MAX)
        return false;
    *ret_index = (uint32_t)value;
    return true;
}

/* A key written twice has its first place and its last value. */
static void drop_doubles(cJSON *object)
{
    for (cJSON *m = object->child; m; m = m->next) {
        cJSON *last;

        do {
            last = m->next;
            while (last && strcmp(last->string, m->string) != 0)
                last = last->next;
            if (last) {
                cJSON_ReplaceItemViaPointer(object, m, cJSON_DetachItemViaPointer(object, last));
                m = last;
            }
        } while (last);
    }
}

static void drop_all_doubles(cJSON *value)
{
    if (cJSON_IsObject(value) && cJSON_GetArraySize(value) <= MAX_ORDERED_KEYS)
        drop_doubles(value);
    for (cJSON *item = value->child; item; item = item->next)
        if (item->child)
            drop_all_doubles(item);
}

static size_t digits(const char *p)
{
    return strspn(p, "0123456789");
}

/* Length of the number at `p`, 0 when JSON does not write it so. */
static size_t number_length(const char *p)
{
    const char *start = p;

    p += *p == '-';
    if (digits(p) == 0 || (*p == '0' && digits(p) > 1))
        return 0;
    p += digits(p);
    if (*p == '.') {
        if (digits(p + 1) == 0)
            return 0;
        p += 1 + digits(p + 1);
    }
    if (*p == 'e' || *p == 'E') {
        p += 1 + (p[1] == '+' || p[1] == '-');
        if (digits(p) == 0)
            return 0;
        p += digits(p);
    }
    return (size_t)(p - start);
}

/* cJSON takes any control character for a space or as a part of a string, and 01 for a number. */
static bool is_strict(const char *text, size_t len)
{
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c < ' ' && (in_string || !strchr("\t\n\r", c)))
            return false;
        if (in_string && c == '\\') {
            i++;
        } else if (c == '"') {
            in_string = !in_string;
        } else if (!in_string && (c == '-' || (c >= '0' && c <= '9'))) {
            size_t n = number_length(text + i);

            if (n == 0)
                return false;
            i += n - 1;
        }
    }
    return true;
}

cJSON *js_parse(const char *text, size_t len, struct err *err)
{
    cJSON *value = json_parse(text, len, err);

    if (value && !is_strict(text, len)) {
        cJSON_Delete(value);
        err_set(err, ERR_INVALID, "not JSON");
        return NULL;
    }
    if (value)
        drop_all_doubles(value);
    return value;
}

/* The member with the lowest index above `after`. */
static const cJSON *next_index(const cJSON *object, int64_t after, int64_t *ret_index)
{
    const cJSON *next = NULL;
    uint32_t index;

    *ret_index = INT64_MAX;
    for (const cJSON *m = object->child; m; m = m->next) {
        if (is_index(m->string, &index) && index > after && index < *ret_index) {
            *ret_index = index;
            next = m;
        }
    }
    return next;
}

static void put_member(struct buf *b, const cJSON *member)
{
    if (b->data[b->len - 1] != '{')
        (void)buf_putc(b, ',');
    (void)json_put_str(b, member->string);
    (void)buf_putc(b, ':');
    js_stringify(b, member);
}

/* Keys that are array indexes come first, by number; the others in the order they were written. */
static void put_object(struct buf *b, const cJSON *object)
{
    bool ordered = cJSON_GetArraySize(object) <= MAX_ORDERED_KEYS;
    const cJSON *m;
    int64_t at = -1;
    uint32_t index;

    (void)buf_putc(b, '{');
    while (ordered && (m = next_index(object, at, &at)))
        put_member(b, m);
    for (m = object->child; m; m = m->next)
        if (!ordered || !is_index(m->string, &index))
            put_member(b, m);
    (void)buf_putc(b, '}');
}

void js_stringify(struct buf *b, const cJSON *value)
{
    if (cJSON_IsString(value)) {
        (void)json_put_str(b, value->valuestring);
    } else if (cJSON_IsNumber(value)) {
        js_put_json_number(b, value->valuedouble);
    } else if (cJSON_IsObject(value)) {
        put_object(b, value);
    } else if (cJSON_IsArray(value)) {
        (void)buf_putc(b, '[');
        for (const cJSON *item = value->child; item; item = item->next) {
            js_stringify(b, item);
            if (item->next)
                (void)buf_putc(b, ',');
        }
        (void)buf_putc(b, ']');
    } else {
        (void)buf_puts(b, cJSON_IsTrue(value) ? "true" : cJSON_IsFalse(value) ? "false" : "null");
    }
}

static size_t sequence_bytes(unsigned char lead)
{
    return lead < 0x80 ? 1 : lead < 0xe0 ? 2 : lead < 0xf0 ? 3 : 4;
}

/* The two UTF-16 halves of the four-byte sequence at `p`. */
static void halves_of(const char *p, unsigned *ret_high, unsigned *ret_low)
{
    const unsigned char *c = (const unsigned char *)p;
    unsigned code =
        ((c[0] & 7u) << 18 | (c[1] & 63u) << 12 | (c[2] & 63u) << 6 | (c[3] & 63u)) - 0x10000;

    *ret_high = 0xd800 + (code >> 10);
    *ret_low = 0xdc00 + (code & 1023);
}

size_t js_put_units(struct buf *b, struct span s, size_t units, bool *half)
{
    BUF_AUTO(plain, BUF_MAX);
    unsigned high, low;
    size_t at = 0, whole;

    (void)buf_putc(b, '"');
    if (*half && units > 0) {
        halves_of(s.p, &high, &low);
        (void)buf_printf(b, "\\u%04x", low);
        *half = false;
        at = 4;
        units--;
    }
    whole = at;
    while (units > 0 && at < s.len) {
        size_t bytes = sequence_bytes((unsigned char)s.p[at]);

        if (bytes == 4 && units == 1)
            break;
        units -= bytes == 4 ? 2 : 1;
        at += bytes;
    }
    (void)json_put_strn(&plain, s.p + whole, at - whole);
    (void)buf_append(b, plain.data + 1, plain.len - 2);
    if (units == 1 && at < s.len) {
        halves_of(s.p + at, &high, &low);
        (void)buf_printf(b, "\\u%04x", high);
        *half = true;
    }
    (void)buf_putc(b, '"');
    return at;
}
