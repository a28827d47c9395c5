#include "fields.h"

#include "clock.h"

#include <assert.h>
#include <ctype.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define MAX_EXACT       9007199254740992.0 /* 2^53: beyond it a double skips whole numbers */
#define MAX_URL_BYTES   2048
#define MAX_ENV_BYTES   128
#define MAX_SHOWN_BYTES 256 /* of a list of words */

/* One member on its way into the struct. */
struct reading {
    const struct field *field;
    const cJSON *value;
    const struct pointer *at;
    void *to;
    struct problem_list *problems;
};

bool fields_is_url(const char *text)
{
    const char *host;
    size_t host_len;

    if (strlen(text) > MAX_URL_BYTES)
        return false;
    if (!strncmp(text, "http://", 7))
        host = text + 7;
    else if (!strncmp(text, "https://", 8))
        host = text + 8;
    else
        return false;
    host_len = strcspn(host, "/?");
    if (host_len == 0 || *host == ':' || memchr(host, '@', host_len))
        return false;
    for (; *text; text++)
        if ((unsigned char)*text <= ' ' || *text == '#' || *text == '\\' || *text == 0x7f)
            return false;
    return true;
}

bool fields_is_env_name(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || len > MAX_ENV_BYTES || isdigit((unsigned char)*text))
        return false;
    for (; *text; text++)
        if (!isalnum((unsigned char)*text) && *text != '_')
            return false;
    return true;
}

static int read_str(const struct reading *r)
{
    int64_t len = cJSON_IsString(r->value) ? (int64_t)strlen(r->value->valuestring) : -1;
    int64_t min = r->field->min, max = r->field->max;

    if (len < 0)
        return problem_add(r->problems, r->at, "must be a string");
    if (len < min && min == 1)
        return problem_add(r->problems, r->at, "must not be empty");
    if (len < min)
        return problem_add(r->problems, r->at, "must have at least %" PRId64 " bytes", min);
    if (max && len > max)
        return problem_add(r->problems, r->at, "must have at most %" PRId64 " bytes", max);
    *(const char **)r->to = r->value->valuestring;
    return 0;
}

static int read_url(const struct reading *r)
{
    if (!cJSON_IsString(r->value) || !fields_is_url(r->value->valuestring))
        return problem_add(r->problems, r->at,
                           "must be an http:// or https:// URL without user and fragment");
    *(const char **)r->to = r->value->valuestring;
    return 0;
}

static int read_word(const struct reading *r)
{
    char shown[MAX_SHOWN_BYTES];
    size_t len = 0;

    shown[0] = '\0';
    for (int i = 0; r->field->words[i]; i++) {
        if (cJSON_IsString(r->value) && !strcmp(r->value->valuestring, r->field->words[i])) {
            *(int *)r->to = i;
            return 0;
        }
        if (len < sizeof(shown))
            len += (size_t)snprintf(shown + len, sizeof(shown) - len, "%s\"%s\"", i ? ", " : "",
                                    r->field->words[i]);
    }
    return problem_add(r->problems, r->at, r->field->words[1] ? "must be one of %s" : "must be %s",
                       shown);
}

static int read_int(const struct reading *r)
{
    bool any = r->field->min == 0 && r->field->max == 0;
    int64_t min = any ? -(int64_t)MAX_EXACT : r->field->min;
    int64_t max = any ? (int64_t)MAX_EXACT : r->field->max;
    double n = cJSON_IsNumber(r->value) ? r->value->valuedouble : 0.5;

    if (n >= -MAX_EXACT && n <= MAX_EXACT && n == (double)(int64_t)n && (int64_t)n >= min &&
        (int64_t)n <= max) {
        *(int64_t *)r->to = (int64_t)n;
        return 0;
    }
    if (any)
        return problem_add(r->problems, r->at, "must be a whole number");
    return problem_add(r->problems, r->at, "must be a whole number from %" PRId64 " to %" PRId64,
                       min, max);
}

static int read_bool(const struct reading *r)
{
    if (!cJSON_IsBool(r->value))
        return problem_add(r->problems, r->at, "must be true or false");
    *(bool *)r->to = cJSON_IsTrue(r->value);
    return 0;
}

/* The largest unit that shows `ms` exactly. */
static void show_duration(uint64_t ms, char *ret_text, size_t size)
{
    if (ms && ms % 86400000 == 0)
        snprintf(ret_text, size, "%" PRIu64 "d", ms / 86400000);
    else if (ms && ms % 3600000 == 0)
        snprintf(ret_text, size, "%" PRIu64 "h", ms / 3600000);
    else if (ms && ms % 60000 == 0)
        snprintf(ret_text, size, "%" PRIu64 "m", ms / 60000);
    else if (ms % 1000 == 0)
        snprintf(ret_text, size, "%" PRIu64 "s", ms / 1000);
    else
        snprintf(ret_text, size, "%" PRIu64 "ms", ms);
}

static int read_ms(const struct reading *r)
{
    uint64_t min = (uint64_t)r->field->min, max = (uint64_t)r->field->max, ms;
    char min_text[32], max_text[32];

    if (!cJSON_IsString(r->value) || clock_parse_duration(r->value->valuestring, &ms) < 0)
        return problem_add(r->problems, r->at,
                           "must be a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\"");
    if (max && (ms < min || ms > max)) {
        show_duration(min, min_text, sizeof(min_text));
        show_duration(max, max_text, sizeof(max_text));
        return problem_add(r->problems, r->at, "must be a duration from %s to %s", min_text,
                           max_text);
    }
    *(uint64_t *)r->to = ms;
    return 0;
}

static int read_stamp(const struct reading *r)
{
    if (!cJSON_IsString(r->value) || clock_parse_stamp(r->value->valuestring, r->to) < 0)
        return problem_add(r->problems, r->at,
                           "must be an RFC 3339 time such as \"2026-01-02T03:04:05Z\"");
    return 0;
}

static int read_object(const struct reading *r)
{
    if (!cJSON_IsObject(r->value))
        return problem_add(r->problems, r->at, "must be an object");
    *(const cJSON **)r->to = r->value;
    return 0;
}

static int read_array(const struct reading *r)
{
    int64_t n = cJSON_IsArray(r->value) ? cJSON_GetArraySize(r->value) : -1;

    if (n < 0)
        return problem_add(r->problems, r->at, "must be an array");
    if (n < r->field->min || (r->field->max && n > r->field->max))
        return problem_add(r->problems, r->at, "must have %" PRId64 " to %" PRId64 " elements",
                           r->field->min, r->field->max);
    *(const cJSON **)r->to = r->value;
    return 0;
}

static int read_any(const struct reading *r)
{
    *(const cJSON **)r->to = r->value;
    return 0;
}

static int read_value(const struct reading *r)
{
    static int (*const readers[])(const struct reading *) = {
        [FIELD_STR] = read_str,     [FIELD_URL] = read_url,       [FIELD_WORD] = read_word,
        [FIELD_INT] = read_int,     [FIELD_BOOL] = read_bool,     [FIELD_MS] = read_ms,
        [FIELD_STAMP] = read_stamp, [FIELD_OBJECT] = read_object, [FIELD_ARRAY] = read_array,
        [FIELD_ANY] = read_any,
    };

    if (cJSON_IsNull(r->value) && r->field->type != FIELD_ANY)
        return 0;
    return readers[r->field->type](r);
}

/* The index of the field called `name`, or -1. */
static int find(const struct field *fields, const char *name)
{
    for (int i = 0; fields[i].name; i++)
        if (!strcmp(fields[i].name, name))
            return i;
    return -1;
}

static int check_required(const cJSON *obj, const struct pointer *at, const struct field *fields,
                          struct problem_list *problems)
{
    int rc = 0;

    for (; fields->name; fields++) {
        const cJSON *value = cJSON_GetObjectItemCaseSensitive(obj, fields->name);
        bool absent = !value || (cJSON_IsNull(value) && fields->type != FIELD_ANY);

        if (fields->required && absent)
            rc = problem_add(problems, POINTER_KEY(at, fields->name), "is required");
    }
    return rc;
}

int fields_read(const cJSON *obj, const struct pointer *at, const struct field *fields, void *out,
                struct problem_list *problems)
{
    const cJSON *value;
    uint32_t seen = 0;
    int rc;

    if (!cJSON_IsObject(obj))
        return problem_add(problems, at, "must be an object");
    rc = check_required(obj, at, fields, problems);
    cJSON_ArrayForEach (value, obj) {
        const struct pointer *here = POINTER_KEY(at, value->string);
        int i = find(fields, value->string);

        if (problem_is_full(problems))
            return -1;
        if (i < 0) {
            rc = problem_add(problems, here, "is not a known member");
            continue;
        }
        assert(i < FIELD_MAX);
        if (seen & 1u << i)
            rc = problem_add(problems, here, "is given twice");
        else if (read_value(&(struct reading){&fields[i], value, here,
                                              (char *)out + fields[i].offset, problems}) < 0)
            rc = -1;
        seen |= 1u << i;
    }
    return rc;
}
