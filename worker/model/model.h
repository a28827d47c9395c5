/*
 * A flow: one call of a model, with its retries.
 */
#pragma once

#include "agent.h"
#include "answer.h"
#include "delay.h"
#include "gate.h"
#include "governor.h"
#include "http.h"
#include "openai.h"
#include "sse.h"
#include "worker_stats.h"

#include <stdbool.h>

struct model_env {
    struct http *http;
    struct delays *delays;
    struct gate *gate;
    struct governor *governor;
    struct worker_stats *stats;
};

struct model_call;

/* How the call ended. `error` is NULL when `answer` is whole; with an error it is what came. */
typedef void model_done_fn(void *owner, const struct model_error *error);

struct model_callbacks {
    struct openai_delta delta;
    /* What `delta` told of the answer is void: the call is made again. Not called when nothing
     * had been told. */
    void (*on_void)(void *owner, const char *why);
    model_done_fn *done;
    void *owner;
};

/*
 * Embedded in its owner, which calls model_call_init() before and model_call_release() after.
 * `answer` may be read at any time and belongs to the call.
 */
struct model_call {
    int state; /* enum model_state */
    const struct model_env *env;
    const struct agent *agent;
    struct model_callbacks cbs;
    struct answer answer;
    struct buf request;
    struct http_call http;
    bool http_used;
    struct sse sse;
    struct delay delay;
    struct gate_wait gate_wait;
    struct governor_pass pass;
    struct model_error error; /* of this try */
    struct buf error_body;
    bool ended, failed, told; /* [DONE] came; `error` is set; a delta was told */
    bool canceled, paused;
    bool cut;          /* canceled while the model was at work, as far as we know: it is paid for */
    unsigned tries;    /* requests, */
    unsigned refusals; /* of which the provider refused so many, as it refused others */
    bool refused;      /* the last one was one of these */
    uint64_t refused_ms; /* clock_mono_ms() since when it waits for the provider, 0: it does not */
    uint64_t started_us;
};

void model_call_init(struct model_call *m);
void model_call_release(struct model_call *m); /* nothing in flight; harmless on an unused one */

/* `messages`: see openai_put_request(). `key`: API key, NULL for none. `done` comes once, later. */
void model_call_start(struct model_call *m, const struct model_env *env, const struct agent *agent,
                      const struct buf *messages, const struct model_callbacks *cbs);

bool model_call_is_busy(const struct model_call *m); /* `done` is still to come */

/* Read no more of the answer, or read on; also between two tries. Harmless when over. */
void model_call_pause(struct model_call *m, bool paused);

/* Close the socket now; `done` comes later with the code CANCELED. Harmless when over. */
void model_call_cancel(struct model_call *m);
