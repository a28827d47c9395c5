#include "query.h"

#include "clock.h"
#include "id.h"
#include "mem.h"
#include "utf8.h"

#include <ctype.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

static int hex_of(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

/* NULL when an escape is bad or what comes out is no text. */
static char *decode(const char *text, size_t len, bool plus_is_blank)
{
    char *out = xmemdup(text, len);
    size_t n = 0;

    for (size_t i = 0; i < len; i++) {
        int high = -1, low = -1;

        if (text[i] != '%') {
            out[n++] = (char)(plus_is_blank && text[i] == '+' ? ' ' : text[i]);
            continue;
        }
        if (i + 2 < len) {
            high = hex_of(text[i + 1]);
            low = hex_of(text[i + 2]);
        }
        if (high < 0 || low < 0 || high + low == 0)
            goto bad;
        out[n++] = (char)(high << 4 | low);
        i += 2;
    }
    out[n] = '\0';
    if (utf8_is_valid(out, n))
        return out;
bad:
    free(out);
    return NULL;
}

/* Is `name` one of the words of `allowed`? */
static bool is_allowed(const char *name, const char *allowed)
{
    size_t len = strlen(name);

    for (; *allowed; allowed += strcspn(allowed, " "), allowed += strspn(allowed, " "))
        if (len && strcspn(allowed, " ") == len && !strncmp(allowed, name, len))
            return true;
    return false;
}

static int query_add(struct query *query, char *name, char *value, const char *allowed,
                     struct err *err)
{
    int rc = 0;

    if (!name || !value)
        rc = err_set(err, ERR_INVALID, "a bad escape in the query");
    else if (!is_allowed(name, allowed))
        rc = err_set(err, ERR_INVALID, "unknown query parameter \"%.60s\"", name);
    else if (query_get(query, name))
        rc = err_set(err, ERR_INVALID, "query parameter \"%s\" is given twice", name);
    else if (query->n == QUERY_MAX)
        rc = err_set(err, ERR_INVALID, "too many query parameters");
    if (rc < 0) {
        free(name);
        free(value);
        return -1;
    }
    query->names[query->n] = name;
    query->values[query->n++] = value;
    return 0;
}

int query_read(struct query *query, const char *text, const char *allowed, struct err *err)
{
    query->n = 0;
    while (*text) {
        size_t len = strcspn(text, "&");
        const char *equals = memchr(text, '=', len);
        size_t name_len = equals ? (size_t)(equals - text) : len;
        const char *value = text + name_len + (equals ? 1 : 0);

        if (len > 0 &&
            query_add(query, decode(text, name_len, true),
                      decode(value, (size_t)(text + len - value), true), allowed, err) < 0)
            return -1;
        text += len;
        text += *text == '&';
    }
    return 0;
}

void query_release(struct query *query)
{
    for (int i = 0; i < query->n; i++) {
        free(query->names[i]);
        free(query->values[i]);
    }
    query->n = 0;
}

const char *query_get(const struct query *query, const char *name)
{
    for (int i = 0; i < query->n; i++)
        if (!strcmp(query->names[i], name))
            return query->values[i];
    return NULL;
}

bool query_parse_seq(const char *text, int64_t *ret_value)
{
    int64_t n = 0;

    if (!*text)
        return false;
    for (; isdigit((unsigned char)*text); text++)
        if (__builtin_mul_overflow(n, 10, &n) || __builtin_add_overflow(n, *text - '0', &n))
            return false;
    if (*text)
        return false;
    *ret_value = n;
    return true;
}

int query_int(const struct query *query, const char *name, int64_t min, int64_t max,
              int64_t *ret_value, struct err *err)
{
    const char *text = query_get(query, name);
    int64_t value;

    if (!text)
        return 0;
    if (!query_parse_seq(text, &value) || value < min || value > max)
        return err_set(err, ERR_INVALID, "%s must be a whole number from %" PRId64 " to %" PRId64,
                       name, min, max);
    *ret_value = value;
    return 0;
}

int query_ms(const struct query *query, const char *name, uint64_t max_ms, uint64_t *ret_ms,
             struct err *err)
{
    const char *text = query_get(query, name);
    uint64_t ms;

    if (!text)
        return 0;
    if (clock_parse_duration(text, &ms) < 0 || ms > max_ms)
        return err_set(err, ERR_INVALID, "%s must be a duration up to %" PRIu64 "s, such as 30s",
                       name, max_ms / 1000);
    *ret_ms = ms;
    return 0;
}

int path_split(const char *path, char **ret_segments)
{
    int n = 0;

    while (*path == '/' && n < SEGMENTS_MAX) {
        size_t len = strcspn(path + 1, "/");

        ret_segments[n] = decode(path + 1, len, false);
        if (!ret_segments[n])
            goto bad;
        n++;
        path += len + 1;
    }
    if (!*path)
        return n;
    while (n > 0)
        free(ret_segments[--n]);
    return 0;
bad:
    while (n > 0)
        free(ret_segments[--n]);
    return -1;
}

bool path_take_uuid(char *text)
{
    if (!id_is_uuid(text))
        return false;
    for (; *text; text++)
        *text = (char)tolower((unsigned char)*text);
    return true;
}

bool session_id_is_valid(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || len > 128)
        return false;
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && !strchr("._:-", *text))
            return false;
    return true;
}
