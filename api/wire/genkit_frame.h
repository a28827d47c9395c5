/*
 * Native events -> the frames of Genkit's streams. Pure.
 *
 *   data: {"message":CHUNK}\n\n     any number
 *   data: {"result":OUTPUT}\n\n     or error: {"error":{"status","message"}}\n\n, exactly one, last
 *
 * Genkit's client cuts at the first empty line, drops six characters and parses the rest, decoding
 * every network read on its own: so there is nothing else in a stream (no comments, no CR), no
 * JSON with line feeds, and everything outside ASCII is escaped. The frames of a task are a
 * function of its events, so that every replay is equal to the last byte.
 *
 * Frames cannot be taken back. When half a step becomes void, because its model call broke off and
 * is made again or its worker died, a modelChunk of that index says so, {"content":[],
 * "aggregated":true}: all of that message up to here is nothing. Genkit's schema means that by
 * `aggregated`; its client's accumulatedText does not look, its result is right in any case.
 */
#pragma once

#include "buf.h"
#include "store_genkit.h"
#include "store_task.h"

#include <stdbool.h>
#include <stdint.h>

#define GENKIT_KEEP_ALIVE "data: {\"message\":{}}\n\n"

struct genkit_answer; /* a tool's, not sent yet */

/* How far a stream has been translated. */
struct genkit_chunks {
    bool silent;  /* only look for the end */
    bool ended;   /* turn.ended was there */
    bool paused;  /* it ended with a question */
    bool resumed; /* the turn began with answers: they are its first message */
    bool told;    /* deltas of the step at hand were written */
    int step;
    char *requests; /* the model message whose tools run, JSON; NULL: none */
    struct genkit_answer *answers;
    int n;
    struct buf line;
};

void genkit_chunks_init(struct genkit_chunks *g, bool silent);
void genkit_chunks_release(struct genkit_chunks *g);

/* Append the frames of the events of `chunk` after `after`. -1: these are no events. */
int genkit_chunks_take(struct genkit_chunks *g, const struct sweep_row *chunk, int64_t after,
                       struct buf *out);

/* The last frames of a stream. */
void genkit_put_end(struct buf *out, const struct genkit_output_row *row);

/* One frame: `kind` is "message", "result" or "error". */
void genkit_put_frame(struct buf *out, const char *kind, const char *json);

/* JSON in one line of ASCII. */
void genkit_put_ascii(struct buf *out, const char *json, size_t len);
