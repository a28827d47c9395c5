/*
 *   IDLE ---> GOVERNED ---> CALLING ---> IDLE
 *                ^  |          |
 *                |  v          v
 *             SUSPENDED <--- PAUSING
 *
 * GOVERNED  its provider refuses, or did so a moment ago: waits its turn to ask (governor.h)
 * CALLING  one HTTP request streams; bytes become deltas as they come
 * PAUSING  `delay` runs to the next try: Retry-After, or backoff with jitter
 * SUSPENDED  this worker may start nothing now (gate.h)
 *
 * A failure of the model costs a try; deltas told before are void then (`on_void`). A time-out of
 * the provider longer than MAX_PAUSE_MS, or the last try, ends the call with the error: the turn
 * decides whether it is worth another attempt.
 *
 * A refusal of the provider (429, 503, 529) costs no try: many calls share one that asks, so it is
 * time that ends them, as much as their tries would have taken (patience_ms()).
 */
#include "model.h"

#include "backoff.h"
#include "clock.h"
#include "hook.h"
#include "id.h"
#include "mem.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define RETRY_BASE_MS        500
#define RETRY_CAP_MS         20000
#define MAX_PAUSE_MS         60000 /* a slot is not held for longer; the turn is let go instead */
#define ERROR_BODY_MAX_BYTES 16384
#define REPLY_OVERHEAD       512 /* bytes of JSON around one byte of text, at worst */
#define EVENT_OVERHEAD       65536
#define REPLY_MAX_BYTES      ((size_t)1 << 32)

enum model_state {
    MODEL_IDLE,      /* nothing */
    MODEL_GOVERNED,  /* governor_wait(), and delay_start() for its end */
    MODEL_CALLING,   /* http_start() */
    MODEL_PAUSING,   /* delay_start() */
    MODEL_SUSPENDED, /* gate_wait() */
};

static void model_try(struct model_call *m);
static void model_govern(struct model_call *m);

static void model_enter(struct model_call *m, enum model_state state)
{
    m->state = (int)state;
    hook_state("model", (int)state);
}

static void model_end(struct model_call *m)
{
    governor_release(&m->pass);
    model_enter(m, MODEL_IDLE);
    m->cbs.done(m->cbs.owner, m->failed ? &m->error : NULL);
}

static void model_fail(struct model_call *m, const char *code, bool retryable, const char *message)
{
    if (m->failed)
        return; /* the first reason is the reason */
    m->failed = true;
    m->error = (struct model_error){.retryable = retryable, .retry_after_ms = -1};
    snprintf(m->error.code, sizeof(m->error.code), "%s", code);
    snprintf(m->error.message, sizeof(m->error.message), "%s", message);
}

static int on_event(void *owner, const char *event, const char *id, const char *data, size_t len)
{
    struct model_call *m = owner;

    (void)event;
    (void)id;
    if (m->ended)
        return 0; /* what follows [DONE] is nobody's */
    m->told = true;
    switch (openai_take(&m->answer, data, len, &m->cbs.delta, &m->error)) {
    case OPENAI_MORE:
        governor_answered(&m->pass);
        return 0;
    case OPENAI_END:
        governor_answered(&m->pass);
        m->ended = true;
        return 0;
    case OPENAI_ERROR:
        m->failed = true;
        return -1;
    }
    return 0;
}

static int on_data(void *owner, const char *bytes, size_t len)
{
    struct model_call *m = owner;
    struct err err;

    if (m->canceled || m->failed)
        return -1;
    if (m->http.status != 200) {
        size_t room = ERROR_BODY_MAX_BYTES - m->error_body.len;

        (void)buf_append(&m->error_body, bytes, len < room ? len : room);
        return 0;
    }
    if (sse_feed(&m->sse, bytes, len, &err) == 0)
        return 0;
    model_fail(m, "MODEL_GARBAGE", true, err.msg);
    return -1;
}

/* The stream is over: is the answer whole? */
static void judge_stream(struct model_call *m)
{
    if (!m->failed && !m->ended)
        (void)sse_finish(&m->sse); /* llama.cpp may leave the last blank line out */
    if (!m->failed && !m->ended)
        model_fail(m, "MODEL_TRUNCATED", true, "the model's stream ended without [DONE]");
    for (int i = 0; i < m->answer.ncalls && !m->failed; i++)
        if (!m->answer.calls[i].name)
            model_fail(m, "MODEL_GARBAGE", true, "the model called a tool without a name");
}

static void judge_failure(struct model_call *m, const struct err *err)
{
    if (m->ended && !m->failed)
        return; /* it said [DONE]; how it then closes the socket is its affair */
    switch (err->code) {
    case ERR_TIMEOUT:
        model_fail(m, "MODEL_TIMEOUT", true, err->msg);
        break;
    case ERR_INVALID:
        model_fail(m, "MODEL_REJECTED", false, err->msg);
        break;
    default:
        model_fail(m, m->told ? "MODEL_TRUNCATED" : "MODEL_UNAVAILABLE", true, err->msg);
    }
}

static unsigned failures(const struct model_call *m)
{
    return m->tries - m->refusals;
}

static uint64_t pause_ms(const struct model_call *m)
{
    if (m->error.retry_after_ms >= 0)
        return (uint64_t)m->error.retry_after_ms;
    return backoff_ms(failures(m), RETRY_BASE_MS, RETRY_CAP_MS, id_random32());
}

/* As soon as this worker may act, and its provider may be asked. */
static void model_ask(void *owner)
{
    struct model_call *m = owner;

    if (!gate_is_open(m->env->gate)) {
        governor_leave(&m->pass);
        m->refused_ms = 0; /* nobody asks its provider meanwhile */
        model_enter(m, MODEL_SUSPENDED);
        gate_wait(m->env->gate, &m->gate_wait, model_ask, m);
    } else if (governor_admits(&m->pass)) {
        model_try(m);
    } else {
        model_govern(m);
    }
}

/* ---- while the provider refuses ---- */

static int64_t told_ms(const struct model_error *refusal)
{
    if (!refusal || refusal->retry_after_ms < 0 || refusal->retry_after_ms > MAX_PAUSE_MS)
        return 0;
    return refusal->retry_after_ms;
}

/* How long a call waits for a provider that refuses everybody: what its retries would have waited,
 * had they been refused one after the other. */
static uint64_t patience_ms(const struct model_call *m, const struct model_error *refusal)
{
    uint64_t told = (uint64_t)(m->agent->model.retries * told_ms(refusal));
    uint64_t sum = 0, step = RETRY_BASE_MS;

    for (int64_t i = 0; i < m->agent->model.retries; i++) {
        sum += step;
        step = step * 2 < RETRY_CAP_MS ? step * 2 : RETRY_CAP_MS;
    }
    return told > sum ? told : sum;
}

static uint64_t waited_ms(const struct model_call *m)
{
    return m->refused_ms ? clock_mono_ms() - m->refused_ms : 0;
}

static void on_go(void *owner)
{
    struct model_call *m = owner;

    delay_cancel(&m->delay);
    model_ask(m);
}

static void on_patience_over(void *owner);

/* One who is refused at the end of its patience gives up there; who only waits stays a little
 * longer, so that one who is alone has asked when it gives up. */
static void patience_start(struct model_call *m)
{
    const struct model_error *refusal = governor_refusal(&m->pass);
    uint64_t waited = waited_ms(m), most = patience_ms(m, refusal) + 2 * GOVERNOR_SHUT_MAX_MS;

    delay_start(m->env->delays, &m->delay, most > waited ? most - waited : 0, on_patience_over, m);
}

static void on_patience_over(void *owner)
{
    struct model_call *m = owner;
    const struct model_error *refusal = governor_refusal(&m->pass);

    if (!gate_is_open(m->env->gate)) {
        model_ask(m);
        return;
    }
    if (!refusal) { /* it answers: only many are before us */
        m->refused_ms = clock_mono_ms();
        patience_start(m);
        return;
    }
    m->failed = true;
    m->error = *refusal;
    model_end(m);
}

static void model_govern(struct model_call *m)
{
    m->env->stats->model_governed++;
    if (!m->refused_ms)
        m->refused_ms = clock_mono_ms();
    model_enter(m, MODEL_GOVERNED);
    governor_wait(&m->pass, on_go, m);
    patience_start(m);
}

/* ---- after a try ---- */

static bool is_over(const struct model_call *m)
{
    if (!m->failed || !m->error.retryable || m->error.retry_after_ms > MAX_PAUSE_MS)
        return true;
    if (m->refused)
        return waited_ms(m) >= patience_ms(m, &m->error);
    return failures(m) > (unsigned)m->agent->model.retries;
}

static void model_decide(struct model_call *m)
{
    if (m->canceled) {
        m->failed = false;
        model_fail(m, "CANCELED", false, "the call was canceled");
        model_end(m);
        return;
    }
    if (is_over(m)) {
        model_end(m);
        return;
    }
    m->env->stats->model_retries++;
    if (m->answer.bytes > 0) {
        m->cbs.on_void(m->cbs.owner, m->error.code);
        answer_reset(&m->answer);
    }
    if (m->refused && m->error.retry_after_ms <= GOVERNOR_SHUT_MAX_MS) {
        model_govern(m);
        return;
    }
    model_enter(m, MODEL_PAUSING);
    delay_start(m->env->delays, &m->delay, pause_ms(m), model_ask, m);
}

static bool is_refusal(const struct model_error *error)
{
    return error->retryable && (!strcmp(error->code, "RATE_LIMITED") || error->http_status == 503 ||
                                error->http_status == 529);
}

/* A failure that is no refusal says nothing: another one may ask in a second. */
static void tell_governor(struct model_call *m)
{
    m->refused = m->failed && is_refusal(&m->error) && governor_refused(&m->pass, &m->error);
    if (m->refused) {
        m->refusals++;
        if (!m->refused_ms)
            m->refused_ms = clock_mono_ms();
    } else {
        m->refused_ms = 0;
        if (m->http.status >= 400 && m->http.status < 500 && m->http.status != 429)
            governor_answered(&m->pass); /* no to this request, but an answer */
    }
    governor_leave(&m->pass);
}

static void on_http_done(void *owner, const struct err *err)
{
    struct model_call *m = owner;

    histogram_add(&m->env->stats->model_ms, (double)(clock_mono_us() - m->started_us) / 1000);
    if (!m->failed && m->http.status && m->http.status != 200) {
        m->failed = true;
        openai_classify((int)m->http.status, m->error_body.data, m->error_body.len,
                        m->http.retry_after_ms, &m->error);
    } else if (err->code != ERR_OK) {
        judge_failure(m, err);
    } else {
        judge_stream(m);
    }
    m->cut = m->canceled && (m->http.status == 0 || m->http.status == 200);
    tell_governor(m);
    http_call_release(&m->http);
    model_decide(m);
}

/* NULL: none */
static const char *api_key(const struct model_call *m)
{
    const char *name = m->agent->model.api_key_env;
    const char *key = name ? getenv(name) : NULL;

    return key && *key ? key : NULL;
}

static void model_try(struct model_call *m)
{
    const struct agent_model *model = &m->agent->model;
    const char *key = api_key(m);
    BUF_AUTO(url, 4096);
    BUF_AUTO(auth, 4096);
    const char *headers[4] = {"Content-Type: application/json", "Accept: text/event-stream"};

    if (m->answer.bytes > 0 || m->tries > 0)
        answer_reset(&m->answer);
    sse_release(&m->sse);
    sse_init(&m->sse, m->answer.max_bytes + EVENT_OVERHEAD, on_event, m);
    buf_reset(&m->error_body);
    m->ended = m->failed = m->told = false;
    m->tries++;
    m->started_us = clock_mono_us();
    m->env->stats->model_calls++;
    (void)buf_printf(&url, "%s/chat/completions", model->base_url);
    if (key && buf_printf(&auth, "Authorization: Bearer %s", key) == 0)
        headers[2] = auth.data;

    struct http_request request = {
        .url = url.data,
        .headers = headers,
        .body = m->request.data,
        .body_len = m->request.len,
        .timeouts = {.connect_ms = model->connect_ms,
                     .first_byte_ms = model->first_byte_ms,
                     .idle_ms = model->idle_ms,
                     .total_ms = model->total_ms},
        .max_reply_bytes = REPLY_MAX_BYTES / REPLY_OVERHEAD > m->answer.max_bytes
                               ? m->answer.max_bytes * REPLY_OVERHEAD
                               : REPLY_MAX_BYTES,
        .on_data = on_data,
    };
    model_enter(m, MODEL_CALLING);
    http_start(m->env->http, &m->http, &request, on_http_done, m);
    if (m->paused)
        http_pause(&m->http);
}

void model_call_init(struct model_call *m)
{
    *m = (struct model_call){.state = MODEL_IDLE};
    answer_init(&m->answer, 0);
    buf_init(&m->request, BUF_MAX);
    buf_init(&m->error_body, ERROR_BODY_MAX_BYTES);
}

void model_call_release(struct model_call *m)
{
    assert(m->state == MODEL_IDLE);
    answer_release(&m->answer);
    buf_release(&m->request);
    buf_release(&m->error_body);
    sse_release(&m->sse);
}

void model_call_start(struct model_call *m, const struct model_env *env, const struct agent *agent,
                      const struct buf *messages, const struct model_callbacks *cbs)
{
    assert(m->state == MODEL_IDLE);
    model_call_release(m);
    model_call_init(m);
    m->env = env;
    m->agent = agent;
    m->cbs = *cbs;
    m->answer.max_bytes = (size_t)agent->max_output_bytes;
    openai_put_request(&m->request, agent, messages);
    governor_hold(env->governor, &m->pass, agent->model.base_url, api_key(m), agent->model.name);
    model_ask(m);
}

static void on_canceled_pause(void *owner)
{
    model_decide(owner);
}

void model_call_cancel(struct model_call *m)
{
    if (m->state == MODEL_IDLE || m->canceled)
        return;
    m->canceled = true;
    if (m->state == MODEL_CALLING) {
        http_cancel(&m->http);
    } else {
        delay_cancel(&m->delay);
        gate_leave(&m->gate_wait);
        governor_leave(&m->pass);
        delay_start(m->env->delays, &m->delay, 0, on_canceled_pause, m);
    }
}

void model_call_pause(struct model_call *m, bool paused)
{
    m->paused = paused;
    if (m->state != MODEL_CALLING)
        return;
    if (paused)
        http_pause(&m->http);
    else
        http_resume(&m->http);
}

bool model_call_is_busy(const struct model_call *m)
{
    return m->state != MODEL_IDLE;
}
