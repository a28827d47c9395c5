/*
 * Canonical messages: how Nocturne keeps a conversation, whatever the provider. Pure.
 *
 *   message  {"role": "user" | "model" | "tool" | "system", "content": [part, ...]}
 *   part     {"text"} | {"reasoning"} | {"media": {"url", "contentType"?}} | {"data": any}
 *          | {"toolRequest": {"name", "ref", "input"}, "metadata"?}
 *          | {"toolResponse": {"name", "ref", "output"}, "metadata"?}
 *
 * These are Genkit's messages, because they hold all that the other wires need. `ref` is the call
 * id. `input` that was no JSON is kept as a string. A turn that ended with a question leaves a
 * model message as the last one, whose toolRequest parts say in `metadata` what is open:
 * {"interrupt": true | {...}}, or {"pendingOutput": value} for calls that were answered; their
 * responses, which come with the others' answers, say {"source": "pending"}.
 */
#pragma once

#include "buf.h"
#include "err.h"
#include "json.h"

#include <stdbool.h>

/* One toolRequest part of a message; strings point into it. */
struct history_call {
    const char *name, *ref;
    const cJSON *input;
    const cJSON *pending;   /* {"metadata": {"pendingOutput"}}, or NULL */
    const cJSON *interrupt; /* {"metadata": {"interrupt"}}, or NULL */
};

/* The tool requests of `message` in order, at most `max`; returns how many there are. */
int history_calls(const cJSON *message, struct history_call *ret_calls, int max);

/* Append a user message made of a task's `input`. ERR_INVALID says what an llm agent takes. */
int history_put_user(struct buf *messages, const cJSON *input, struct err *err);

/* The resource that a part of `message` refers to; NULL: none. */
const char *history_resource(const cJSON *message);

/* Begin, fill and end a tool message. `output` and `message` are JSON or text as said. */
void history_open_tool(struct buf *messages);
void history_put_response(struct buf *messages, const char *name, const char *ref,
                          const char *output_json);
void history_put_pending(struct buf *messages, const char *name, const char *ref,
                         const char *output_json);
void history_put_failure(struct buf *messages, const char *name, const char *ref, const char *code,
                         const char *message);
void history_close_tool(struct buf *messages);
void history_close_resumed(struct buf *messages); /* of answers that came with a resume */

/* {"error":{"code","message"}}: what the model is told of a failed call. */
void history_put_error_value(struct buf *out, const char *code, const char *message);
