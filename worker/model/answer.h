/* What a model says in one call, put together from its deltas. */
#pragma once

#include "buf.h"
#include "halves.h"
#include "shape.h"

#include <stdbool.h>
#include <stdint.h>

#define ANSWER_MAX_CALLS 128

struct answer_call {
    char *id; /* as the model named it; NULL when it did not */
    char *name;
    struct buf arguments; /* raw text, JSON if the model behaves */
    halves half;
};

struct answer {
    struct buf text, reasoning;
    halves text_half, reasoning_half;
    struct answer_call *calls; /* at most ANSWER_MAX_CALLS */
    int ncalls;
    struct shape shape; /* of its text events so far */
    char finish[32];    /* the model's word, "" while none has come */
    bool has_usage;
    int64_t input_tokens, output_tokens;
    size_t bytes;     /* of everything above */
    size_t max_bytes; /* of the same */
};

void answer_init(struct answer *a, size_t max_bytes);
struct answer_call *answer_add_call(struct answer *a);
void answer_release(struct answer *a);
void answer_reset(struct answer *a); /* forget all of it: the call is made again */
