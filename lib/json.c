#include "json.h"

#include "mem.h"
#include "utf8.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_EXACT  9007199254740992.0 /* 2^53 */
#define MAX_LEVELS 900                /* cJSON reads 1,000 */

void json_release(cJSON **root)
{
    cJSON_Delete(*root);
    *root = NULL;
}

/* An escape \u0000 that is not itself escaped: an odd number of backslashes before the u. */
static bool has_nul_escape(const char *text, size_t len)
{
    const char *p = text, *end = text + len;

    while ((p = memmem(p, (size_t)(end - p), "\\u0000", 6))) {
        size_t backslashes = 1;

        while (p - backslashes >= text && p[-(ptrdiff_t)backslashes] == '\\')
            backslashes++;
        if (backslashes % 2 == 1)
            return true;
        p += 6;
    }
    return false;
}

static bool is_digit(char c)
{
    return c >= '0' && c <= '9';
}

static const char *skip_digits(const char *p, const char *end)
{
    while (p < end && is_digit(*p))
        p++;
    return p;
}

/* Behind the number at `p`, or NULL when RFC 8259 would not read it so: 01, 1., 1e */
static const char *skip_number(const char *p, const char *end)
{
    const char *digits;

    if (*p == '-')
        p++;
    if (p == end || !is_digit(*p))
        return NULL;
    p = *p == '0' ? p + 1 : skip_digits(p, end);
    if (p < end && *p == '.') {
        digits = p + 1;
        if ((p = skip_digits(digits, end)) == digits)
            return NULL;
    }
    if (p < end && (*p == 'e' || *p == 'E')) {
        p++;
        if (p < end && (*p == '+' || *p == '-'))
            p++;
        digits = p;
        if ((p = skip_digits(digits, end)) == digits)
            return NULL;
    }
    return p < end && (is_digit(*p) || strchr("+-.eE", *p)) ? NULL : p;
}

/* Do four hexadecimal digits stand at `p`? */
static bool has_hex(const char *p, const char *end)
{
    for (int i = 0; i < 4; i++)
        if (p + i >= end || !isxdigit((unsigned char)p[i]))
            return false;
    return true;
}

/*
 * Where `text` stops being words of JSON, NULL when nowhere. cJSON checks how they are put
 * together, but lets pass what PostgreSQL refuses: control characters, numbers such as 01 or
 * \u00zz.
 */
static const char *find_bad_word(const char *text, size_t len)
{
    const char *p = text, *end = text + len, *next;
    bool in_string = false;

    while (p < end) {
        if ((unsigned char)*p < ' ' && (in_string || !strchr("\t\r\n", *p)))
            return p;
        if (!in_string && (*p == '-' || is_digit(*p))) {
            if (!(next = skip_number(p, end)))
                return p;
            p = next;
            continue;
        }
        if (!in_string && (unsigned char)*p >= 0x80)
            return p; /* a byte order mark */
        if (*p == '"')
            in_string = !in_string;
        else if (in_string && *p == '\\' && *++p == 'u' && !has_hex(p + 1, end))
            return p;
        p++;
    }
    return NULL;
}

static cJSON *parse_value(const char *text, size_t len, struct err *err)
{
    const char *end = NULL;
    cJSON *root;

    root = cJSON_ParseWithLengthOpts(text, len, &end, 0);
    if (!root) {
        err_set(err, ERR_INVALID, "not JSON, at byte %td", end ? end - text : 0);
        return NULL;
    }
    for (; end < text + len; end++) {
        if (!strchr(" \t\r\n", *end)) {
            err_set(err, ERR_INVALID, "more than one JSON value, at byte %td", end - text);
            cJSON_Delete(root);
            return NULL;
        }
    }
    if ((end = find_bad_word(text, len))) {
        err_set(err, ERR_INVALID, "not JSON, at byte %td", end - text);
        cJSON_Delete(root);
        return NULL;
    }
    return root;
}

cJSON *json_parse(const char *text, size_t len, struct err *err)
{
    if (!utf8_is_valid(text, len)) {
        err_set(err, ERR_INVALID, "not UTF-8 text");
        return NULL;
    }
    if (has_nul_escape(text, len)) {
        err_set(err, ERR_INVALID, "the escape \\u0000 is not allowed");
        return NULL;
    }
    return parse_value(text, len, err);
}

static bool is_deeper(const cJSON *value, int levels)
{
    const cJSON *child;

    cJSON_ArrayForEach (child, value) {
        if (levels == 0 || is_deeper(child, levels - 1))
            return true;
    }
    return false;
}

bool json_is_deep(const cJSON *value)
{
    return is_deeper(value, MAX_LEVELS);
}

/* The number of the escape \uXXXX at `p`, or -1 when there is none. */
static long read_escape(const char *p, const char *end)
{
    char digits[5] = "";

    if (end - p < 6 || p[0] != '\\' || p[1] != 'u')
        return -1;
    memcpy(digits, p + 2, 4);
    return strspn(digits, "0123456789abcdefABCDEF") == 4 ? strtol(digits, NULL, 16) : -1;
}

/* Append the escape at `p`, or what may stand for it; returns how long it is. */
static size_t put_escape(struct buf *out, const char *p, const char *end)
{
    long code = read_escape(p, end), next = read_escape(p + 6 < end ? p + 6 : end, end);
    bool pair = code >= 0xD800 && code <= 0xDBFF && next >= 0xDC00 && next <= 0xDFFF;
    const char half[] = {(char)0xED, (char)(0x80 | (code >> 6 & 0x3F)),
                         (char)(0x80 | (code & 0x3F))};
    size_t len = pair ? 12 : code >= 0 ? 6 : 2;

    if (code == 0)
        (void)buf_puts(out, "\xEF\xBF\xBD");
    else if (!pair && code >= 0xD800 && code <= 0xDFFF)
        (void)buf_append(out, half, sizeof(half));
    else
        (void)buf_append(out, p, len < (size_t)(end - p) ? len : (size_t)(end - p));
    return len;
}

cJSON *json_parse_loose(const char *text, size_t len, struct err *err)
{
    BUF_AUTO(clean, BUF_MAX);
    BUF_AUTO(loose, BUF_MAX);
    cJSON *root = json_parse(text, len, err);
    const char *p, *end, *escape;

    if (root)
        return root;
    (void)utf8_put_clean(&clean, text, len);
    for (p = clean.data, end = p + clean.len; p < end;) {
        escape = memchr(p, '\\', (size_t)(end - p));
        (void)buf_append(&loose, p, (size_t)((escape ? escape : end) - p));
        p = escape ? escape + put_escape(&loose, escape, end) : end;
    }
    return parse_value(loose.data, loose.len, err);
}

const cJSON *json_get(const cJSON *obj, const char *key)
{
    const cJSON *item = cJSON_GetObjectItemCaseSensitive(obj, key);

    return cJSON_IsNull(item) ? NULL : item;
}

int json_str(const cJSON *obj, const char *key, const char **ret_value, struct err *err)
{
    const cJSON *item = json_get(obj, key);

    if (!cJSON_IsString(item))
        return err_set(err, ERR_INVALID, "\"%s\" must be a string", key);
    *ret_value = item->valuestring;
    return 0;
}

const char *json_str_or(const cJSON *obj, const char *key, const char *fallback)
{
    const cJSON *item = json_get(obj, key);

    return cJSON_IsString(item) ? item->valuestring : fallback;
}

int json_int(const cJSON *obj, const char *key, int64_t min, int64_t max, int64_t *ret_value,
             struct err *err)
{
    const cJSON *item = json_get(obj, key);
    double value = cJSON_IsNumber(item) ? item->valuedouble : 0.5;

    if (value < -MAX_EXACT || value > MAX_EXACT || value != (double)(int64_t)value ||
        (int64_t)value < min || (int64_t)value > max)
        return err_set(err, ERR_INVALID, "\"%s\" must be an integer from %" PRId64 " to %" PRId64,
                       key, min, max);
    *ret_value = (int64_t)value;
    return 0;
}

static const char *skip_space(const char *p)
{
    return p + strspn(p, " \t\r\n");
}

/* `p` stands on the opening quote; returns what is behind the closing one. */
static const char *skip_string(const char *p)
{
    for (p++; *p && *p != '"'; p++)
        if (*p == '\\' && p[1])
            p++;
    return *p ? p + 1 : p;
}

/* Behind the value at `p`. The text is known to be valid, so counting brackets is enough. */
static const char *skip_value(const char *p)
{
    int depth = 0;

    if (*p == '"')
        return skip_string(p);
    if (*p != '{' && *p != '[')
        return p + strcspn(p, ",}] \t\r\n");
    do {
        if (*p == '"') {
            p = skip_string(p);
            continue;
        }
        if (*p == '{' || *p == '[')
            depth++;
        else if (*p == '}' || *p == ']')
            depth--;
        p++;
    } while (*p && depth > 0);
    return p;
}

bool json_member_span(const char *text, const char *key, const char **ret_start, size_t *ret_len)
{
    const char *p = skip_space(text), *name, *value;
    size_t key_len = strlen(key), name_len;

    if (*p != '{')
        return false;
    for (p = skip_space(p + 1); *p == '"'; p = skip_space(p + 1)) {
        name = p + 1;
        p = skip_string(p);
        name_len = (size_t)(p - name) - 1;
        value = skip_space(skip_space(p) + 1); /* over the colon */
        p = skip_value(value);
        if (name_len == key_len && !memcmp(name, key, key_len)) {
            *ret_start = value;
            *ret_len = (size_t)(p - value);
            return true;
        }
        p = skip_space(p);
        if (*p != ',')
            return false;
    }
    return false;
}

bool json_element_span(const char **at, const char **ret_start, size_t *ret_len)
{
    const char *p = skip_space(*at);

    if (*p != '[' && *p != ',')
        return false;
    p = skip_space(p + 1);
    if (*p == ']')
        return false;
    *ret_start = p;
    *at = skip_value(p);
    *ret_len = (size_t)(*at - p);
    return true;
}

/* Is what stands before the next item another item? */
static int put_comma(struct buf *b)
{
    char last = '\n';

    if (b->len)
        last = b->data[b->len - 1];
    switch (last) {
    case '{':
    case '[':
    case ':':
    case ',':
    case ' ':
    case '\n':
        return 0;
    default:
        return buf_putc(b, ',');
    }
}

int json_open(struct buf *b, char bracket)
{
    return put_comma(b) < 0 ? -1 : buf_putc(b, bracket);
}

int json_close(struct buf *b, char bracket)
{
    return buf_putc(b, bracket);
}

int json_put_key(struct buf *b, const char *key)
{
    return json_put_str(b, key) < 0 ? -1 : buf_putc(b, ':');
}

int json_put_str(struct buf *b, const char *text)
{
    return text ? json_put_strn(b, text, strlen(text)) : json_put_raw(b, "null", 4);
}

#define EACH(byte) (0x0101010101010101ULL * (byte))

/* The high bit of each byte that is less than `n` (at most 0x80); exact up to the first such. */
static uint64_t bytes_below(uint64_t word, unsigned char n)
{
    return (word - EACH(n)) & ~word & EACH(0x80);
}

/* How many bytes of `text` are ASCII that stands in a JSON string as it is; a few less in doubt. */
static size_t plain_ascii(const char *text, size_t len)
{
    size_t i = 0;
    uint64_t word;

    for (; i + 8 <= len; i += 8) {
        memcpy(&word, text + i, 8);
        if ((word & EACH(0x80)) || bytes_below(word, ' ') || bytes_below(word ^ EACH('"'), 1) ||
            bytes_below(word ^ EACH('\\'), 1))
            break;
    }
    while (i < len && (unsigned char)text[i] >= ' ' && (unsigned char)text[i] < 0x80 &&
           text[i] != '"' && text[i] != '\\')
        i++;
    return i;
}

bool json_is_plain(const char *text, size_t len)
{
    size_t i = plain_ascii(text, len);

    if (i == len)
        return true;
    for (size_t at = i; at < len; at++)
        if ((unsigned char)text[at] < ' ' || text[at] == '"' || text[at] == '\\')
            return false;
    return utf8_is_valid(text + i, len - i);
}

static int put_escaped(struct buf *b, const char *text, size_t len)
{
    static const char short_escapes[32] = {
        ['\b'] = 'b', ['\f'] = 'f', ['\n'] = 'n', ['\r'] = 'r', ['\t'] = 't'};
    size_t from = 0;
    int rc = 0;

    for (size_t i = 0; i < len && rc == 0; i++) {
        unsigned char c = (unsigned char)text[i];

        if (c >= ' ' && c != '"' && c != '\\')
            continue;
        rc = buf_append(b, text + from, i - from);
        from = i + 1;
        if (rc == 0 && c >= ' ')
            rc = buf_printf(b, "\\%c", c);
        else if (rc == 0 && short_escapes[c])
            rc = buf_printf(b, "\\%c", short_escapes[c]);
        else if (rc == 0)
            rc = buf_printf(b, "\\u%04x", c);
    }
    return rc < 0 ? -1 : buf_append(b, text + from, len - from);
}

int json_put_strn(struct buf *b, const char *text, size_t len)
{
    BUF_AUTO(clean, BUF_MAX);

    if (plain_ascii(text, len) == len)
        return put_comma(b) < 0 || buf_putc(b, '"') < 0 || buf_append(b, text, len) < 0
                   ? -1
                   : buf_putc(b, '"');
    if (!utf8_is_valid(text, len)) {
        if (utf8_put_clean(&clean, text, len) < 0)
            return -1;
        text = clean.data;
        len = clean.len;
    }
    if (put_comma(b) < 0 || buf_putc(b, '"') < 0 || put_escaped(b, text, len) < 0)
        return -1;
    return buf_putc(b, '"');
}

int json_put_int(struct buf *b, int64_t value)
{
    return put_comma(b) < 0 ? -1 : buf_put_int(b, value);
}

int json_put_bool(struct buf *b, bool value)
{
    return json_put_raw(b, value ? "true" : "false", value ? 4 : 5);
}

int json_put_raw(struct buf *b, const char *json, size_t len)
{
    while (len > 0 && strchr(" \t\r\n", json[len - 1]))
        len--; /* white space at the end would hide that a comma is due */
    if (put_comma(b) < 0 || buf_append(b, json, len) < 0)
        return -1;
    for (char *p = b->data + b->len - len; len > 0 && p < b->data + b->len; p++)
        if (*p == '\n' || *p == '\r')
            *p = ' '; /* they can only stand between values */
    return 0;
}

int json_put_member_str(struct buf *b, const char *key, const char *text)
{
    if (!text)
        return 0;
    return json_put_key(b, key) < 0 ? -1 : json_put_str(b, text);
}

int json_put_member_int(struct buf *b, const char *key, int64_t value)
{
    return json_put_key(b, key) < 0 ? -1 : json_put_int(b, value);
}

int json_put_member_raw(struct buf *b, const char *key, const char *json)
{
    if (!json)
        return 0;
    return json_put_key(b, key) < 0 ? -1 : json_put_raw(b, json, strlen(json));
}

/*
 * The shortest text that reads back as the same double: cJSON's own loses the last digit. Whole
 * numbers have no exponent, which would make them fractions in other languages.
 */
static int put_number(struct buf *b, double value)
{
    char text[32] = "null"; /* JSON has no word for infinity, which 1e999 becomes */

    if (value >= -MAX_EXACT && value <= MAX_EXACT && value == (double)(int64_t)value)
        return json_put_int(b, (int64_t)value);
    for (int digits = 15; digits <= 17 && value - value == 0; digits++) {
        snprintf(text, sizeof(text), "%.*g", digits, value);
        if (strtod(text, NULL) == value)
            break;
    }
    return json_put_raw(b, text, strlen(text));
}

static int put_value(struct buf *b, const cJSON *value);

static int put_children(struct buf *b, const cJSON *parent)
{
    bool is_object = cJSON_IsObject(parent);
    int rc = json_open(b, is_object ? '{' : '[');

    for (const cJSON *item = parent->child; item && rc == 0; item = item->next) {
        if (is_object)
            rc = json_put_key(b, item->string);
        if (rc == 0)
            rc = put_value(b, item);
    }
    return rc < 0 ? -1 : json_close(b, is_object ? '}' : ']');
}

static int put_value(struct buf *b, const cJSON *value)
{
    if (cJSON_IsString(value))
        return json_put_str(b, value->valuestring);
    if (cJSON_IsNumber(value))
        return put_number(b, value->valuedouble);
    if (cJSON_IsBool(value))
        return json_put_bool(b, cJSON_IsTrue(value));
    if (cJSON_IsNull(value))
        return json_put_raw(b, "null", 4);
    return put_children(b, value);
}

char *json_print(const cJSON *value)
{
    BUF_AUTO(out, BUF_MAX);

    if (put_value(&out, value) < 0)
        abort();
    return buf_detach(&out);
}
