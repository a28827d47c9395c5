#include "samples.h"

#include "mem.h"

#include <stdio.h>
#include <stdlib.h>

void samples_add(struct samples *s, double ms)
{
    if (s->n == s->cap) {
        s->cap = s->cap ? 2 * s->cap : 1024;
        s->ms = xrealloc(s->ms, s->cap * sizeof(*s->ms));
    }
    s->ms[s->n++] = ms;
}

static int compare(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;

    return x < y ? -1 : x > y;
}

void samples_print(const char *name, struct samples *s)
{
    if (s->n)
        qsort(s->ms, s->n, sizeof(*s->ms), compare);
    printf(",\"%s\":{\"n\":%zu", name, s->n);
    if (s->n)
        printf(",\"p50\":%.3f,\"p90\":%.3f,\"p99\":%.3f,\"max\":%.3f", s->ms[s->n / 2],
               s->ms[s->n * 9 / 10], s->ms[s->n * 99 / 100], s->ms[s->n - 1]);
    printf("}");
    free(s->ms);
}
