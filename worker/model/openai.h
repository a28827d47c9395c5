/*
 * The wire of OpenAI-compatible servers: POST {base_url}/chat/completions, always streaming
 * (research/agents.md §3.1 and §3.5). Pure: text in, text out.
 */
#pragma once

#include "agent.h"
#include "answer.h"
#include "buf.h"
#include "err.h"

#include <stdint.h>

/* What of an answer was new in one event of the stream. */
struct openai_delta {
    void (*on_text)(void *owner, const char *text, size_t len);
    void (*on_reasoning)(void *owner, const char *text, size_t len);
    /* `id` and `name` are NULL but in the first piece; the call is number `index` of the answer */
    void (*on_call)(void *owner, int index, const char *id, const char *name, const char *arguments,
                    size_t len);
    void *owner;
};

/* Why a call failed, and what may be done about it. */
struct model_error {
    char code[32]; /* stable, UPPER_SNAKE */
    char message[240];
    bool retryable;
    int64_t retry_after_ms; /* -1: nothing was said */
    int http_status;        /* 0: none */
};

/* Append one canonical message (worker/history.h) in the wire's form; may become several. */
void openai_put_message(struct buf *messages, const cJSON *message);

/* The whole request. `messages` is the comma-separated list built with openai_put_message(). */
void openai_put_request(struct buf *out, const struct agent *agent, const struct buf *messages);

enum openai_event {
    OPENAI_MORE,  /* taken */
    OPENAI_END,   /* [DONE] */
    OPENAI_ERROR, /* an error inside the stream, or garbage: `error` */
};

/* Take one event of the stream into `answer` and tell `delta` what was new. A NUL stands behind
 * `data`. */
enum openai_event openai_take(struct answer *answer, const char *data, size_t len,
                              const struct openai_delta *delta, struct model_error *error);

/* What an answer with a status other than 200 means. `body` is what came of it. */
void openai_classify(int status, const char *body, size_t len, int64_t retry_after_ms,
                     struct model_error *ret_error);
