#include "metrics.h"

#include <inttypes.h>
#include <stdbool.h>

#define MAX_LISTED 64 /* buckets of another process's histogram */

static const double bounds[HISTOGRAM_BUCKETS] = {
    0.5, 1, 2.5, 5, 10, 25, 50, 100, 200, 350, 500, 1000, 2500, 5000, 10000, 30000, 60000, 300000};

void histogram_add(struct histogram *h, double ms)
{
    int i = 0;

    while (i < HISTOGRAM_BUCKETS && ms > bounds[i])
        i++;
    h->n[i]++;
    h->count++;
    h->sum += ms;
}

/* Whole numbers as such, so that counters do not become 1e+06. */
static int put_number(struct buf *out, double value)
{
    if (value == (double)(int64_t)value && value > -1e15 && value < 1e15)
        return buf_printf(out, "%" PRId64, (int64_t)value);
    return buf_printf(out, "%.9g", value);
}

int histogram_put_json(const struct histogram *h, struct buf *out)
{
    int rc = json_open(out, '{');

    rc |= json_put_key(out, "le");
    rc |= json_open(out, '[');
    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        rc |= i ? buf_putc(out, ',') : 0;
        rc |= put_number(out, bounds[i]);
    }
    rc |= json_close(out, ']');
    rc |= json_put_key(out, "n");
    rc |= json_open(out, '[');
    for (int i = 0; i <= HISTOGRAM_BUCKETS; i++)
        rc |= json_put_int(out, (int64_t)h->n[i]);
    rc |= json_close(out, ']');
    rc |= json_put_key(out, "sum");
    rc |= put_number(out, h->sum);
    rc |= json_put_member_int(out, "count", (int64_t)h->count);
    rc |= json_close(out, '}');
    return rc;
}

int metrics_put_help(struct buf *out, const char *name, const char *type, const char *help)
{
    return buf_printf(out, "# HELP %s %s\n# TYPE %s %s\n", name, help, name, type);
}

int metrics_put_value(struct buf *out, const char *name, const char *labels, double value)
{
    int rc = buf_puts(out, name);

    if (*labels)
        rc |= buf_printf(out, "{%s}", labels);
    rc |= buf_putc(out, ' ');
    rc |= put_number(out, value);
    return rc | buf_putc(out, '\n');
}

/* `le` NULL: the bucket of everything. */
static int put_bucket(struct buf *out, const char *name, const char *labels, const double *le,
                      uint64_t n)
{
    int rc = buf_printf(out, "%s_bucket{%s%sle=\"", name, labels, *labels ? "," : "");

    rc |= le ? put_number(out, *le) : buf_puts(out, "+Inf");
    return rc | buf_printf(out, "\"} %" PRIu64 "\n", n);
}

static int put_sums(struct buf *out, const char *name, const char *labels, double sum,
                    uint64_t count)
{
    bool bare = !*labels;
    int rc = buf_printf(out, "%s_sum%s%s%s ", name, bare ? "" : "{", labels, bare ? "" : "}");

    rc |= put_number(out, sum);
    return rc | buf_printf(out, "\n%s_count%s%s%s %" PRIu64 "\n", name, bare ? "" : "{", labels,
                           bare ? "" : "}", count);
}

int metrics_put_histogram(struct buf *out, const char *name, const char *labels,
                          const struct histogram *h)
{
    uint64_t below = 0;
    int rc = 0;

    for (int i = 0; i < HISTOGRAM_BUCKETS; i++) {
        below += h->n[i];
        rc |= put_bucket(out, name, labels, &bounds[i], below);
    }
    rc |= put_bucket(out, name, labels, NULL, h->count);
    return rc | put_sums(out, name, labels, h->sum, h->count);
}

int metrics_put_json_histogram(struct buf *out, const char *name, const char *labels,
                               const cJSON *histogram)
{
    const cJSON *le = json_get(histogram, "le"), *n = json_get(histogram, "n");
    const cJSON *sum = json_get(histogram, "sum"), *count = json_get(histogram, "count");
    uint64_t below = 0;
    int rc = 0, size = cJSON_GetArraySize(le);

    if (!cJSON_IsArray(le) || !cJSON_IsArray(n) || !cJSON_IsNumber(sum) || !cJSON_IsNumber(count) ||
        size > MAX_LISTED || cJSON_GetArraySize(n) != size + 1)
        return 0;
    le = le->child;
    n = n->child;
    for (; le; le = le->next, n = n->next) {
        below += (uint64_t)n->valuedouble;
        rc |= put_bucket(out, name, labels, &le->valuedouble, below);
    }
    rc |= put_bucket(out, name, labels, NULL, (uint64_t)count->valuedouble);
    return rc | put_sums(out, name, labels, sum->valuedouble, (uint64_t)count->valuedouble);
}

int metrics_put_quoted(struct buf *out, const char *text)
{
    int rc = buf_putc(out, '"');

    for (; *text; text++) {
        if (*text == '\n')
            rc |= buf_puts(out, "\\n");
        else if (*text == '"' || *text == '\\')
            rc |= buf_printf(out, "\\%c", *text);
        else
            rc |= buf_putc(out, *text);
    }
    return rc | buf_putc(out, '"');
}
