/*
 * Numbers for /metrics: histograms, and Prometheus' text format.
 *
 * A zeroed `struct histogram` is an empty one. All of them have the same buckets, in milliseconds,
 * so that those of many processes can be added up.
 */
#pragma once

#include "buf.h"
#include "json.h"

#include <stdint.h>

#define HISTOGRAM_BUCKETS 18 /* with an upper bound; one more takes what is above all of them */

struct histogram {
    uint64_t n[HISTOGRAM_BUCKETS + 1]; /* in this bucket alone, not cumulated */
    uint64_t count;
    double sum; /* milliseconds */
};

void histogram_add(struct histogram *h, double ms);

/* {"le":[0.5,...],"n":[...],"sum":X,"count":N}; `n` has one element more than `le`. */
int histogram_put_json(const struct histogram *h, struct buf *out);

/*
 * Prometheus' text. `labels` is what stands between the braces, such as route="x",method="GET",
 * or "". All return 0, or -1 when `out` is full.
 */
int metrics_put_help(struct buf *out, const char *name, const char *type, const char *help);
int metrics_put_value(struct buf *out, const char *name, const char *labels, double value);
int metrics_put_histogram(struct buf *out, const char *name, const char *labels,
                          const struct histogram *h);

/* One written by histogram_put_json(), in another process; nothing when it is not of that shape. */
int metrics_put_json_histogram(struct buf *out, const char *name, const char *labels,
                               const cJSON *histogram);

/* The value of a label, quoted and escaped. */
int metrics_put_quoted(struct buf *out, const char *text);
