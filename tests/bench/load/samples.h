/* Every sample is kept: percentiles of a benchmark are exact. */
#pragma once

#include <stddef.h>

struct samples {
    double *ms;
    size_t n, cap;
};

void samples_add(struct samples *s, double ms);
void samples_print(const char *name, struct samples *s); /* ,"name":{"n":..,"p50":..} and frees */
