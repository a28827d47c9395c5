/*
 * The shape of a stream's text events: servers write each of them alike but for the text. An event
 * that has the same bytes around a plain text as one that was parsed means the same with that text,
 * and needs no parsing.
 */
#pragma once

#include "buf.h"

#include <stdbool.h>

struct shape {
    struct buf around; /* what stands before the text and behind it; empty: none is known */
    size_t head;       /* bytes before it */
};

void shape_init(struct shape *shape);
void shape_release(struct shape *shape);

/* `text` with `len` bytes, inside of `data`, is the text of an event that told nothing else. */
void shape_learn(struct shape *shape, const char *data, size_t data_len, const char *text,
                 size_t len);

/* Is this such an event? Its text then stands in `data`, valid UTF-8 without anything escaped. */
bool shape_match(const struct shape *shape, const char *data, size_t data_len,
                 const char **ret_text, size_t *ret_len);
