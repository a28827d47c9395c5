#include "record.h"

#include "mem.h"

#include <assert.h>
#include <stdlib.h>
#include <string.h>

/* Of an empty record: a turn that once told much need not keep it. */
#define EVENTS_KEPT_BYTES 65536

void record_init(struct record *r)
{
    *r = (struct record){0};
    buf_init(&r->events, BUF_MAX);
}

static void record_clear(struct record *r)
{
    free(r->step_message);
    free(r->step_finish);
    free(r->step_usage);
    for (int i = 0; i < r->ncalls; i++) {
        free(r->calls[i].call_id);
        free(r->calls[i].name);
        free(r->calls[i].status);
        free(r->calls[i].result);
    }
    free(r->calls);
    for (int i = 0; i < r->nartifacts; i++) {
        free(r->artifacts[i].name);
        free(r->artifacts[i].content);
    }
    free(r->artifacts);
    free(r->retry_error);
}

void record_release(struct record *r)
{
    record_clear(r);
    buf_release(&r->events);
    record_init(r);
}

void record_reset(struct record *r)
{
    struct buf events = r->events;

    record_clear(r);
    *r = (struct record){.events = events};
    if (r->events.cap > EVENTS_KEPT_BYTES)
        buf_release(&r->events);
    else
        buf_reset(&r->events);
}

bool record_is_empty(const struct record *r)
{
    return r->count == 0 && r->step == 0 && r->ncalls == 0 && r->nartifacts == 0 &&
           r->how == RECORD_OPEN && !r->barrier;
}

size_t record_bytes(const struct record *r)
{
    return r->events.len + r->row_bytes;
}

static size_t text_bytes(const char *text)
{
    return text ? strlen(text) : 0;
}

void record_set_step(struct record *r, int step, const char *message, const char *finish,
                     const char *usage, int64_t last_seq)
{
    assert(r->step == 0 && step > 0); /* a turn waits for each step to be durable */
    r->step = step;
    r->step_message = xstrdup(message);
    r->step_finish = xstrdup(finish);
    r->step_usage = xstrdup(usage);
    r->step_last_seq = last_seq;
    r->row_bytes += text_bytes(message);
}

static struct record_call *add_call(struct record *r)
{
    r->calls = xrealloc(r->calls, (size_t)(r->ncalls + 1) * sizeof(*r->calls));
    return &r->calls[r->ncalls++];
}

void record_claim(struct record *r, int step, int idx, const char *call_id, const char *name)
{
    *add_call(r) = (struct record_call){
        .step = step, .idx = idx, .call_id = xstrdup(call_id), .name = xstrdup(name)};
}

void record_settle(struct record *r, int step, int idx, const char *status, const char *result,
                   int64_t seq)
{
    *add_call(r) = (struct record_call){.settle = true,
                                        .step = step,
                                        .idx = idx,
                                        .status = xstrdup(status),
                                        .result = xstrdup(result),
                                        .seq = seq};
    r->row_bytes += text_bytes(result);
}

void record_artifact(struct record *r, const char *name, const char *content)
{
    r->row_bytes += text_bytes(content);
    for (int i = 0; i < r->nartifacts; i++) {
        if (strcmp(r->artifacts[i].name, name) != 0)
            continue;
        free(r->artifacts[i].content); /* one statement cannot write a row twice */
        r->artifacts[i].content = xstrdup(content);
        return;
    }
    r->artifacts = xrealloc(r->artifacts, (size_t)(r->nartifacts + 1) * sizeof(*r->artifacts));
    r->artifacts[r->nartifacts++] =
        (struct record_artifact){.name = xstrdup(name), .content = xstrdup(content)};
}

void record_put(const struct record *r, const char *task_id, int64_t epoch,
                struct store_batch *batch)
{
    struct chunk_row chunk = {.seq_from = r->seq_from,
                              .count = r->count,
                              .at_ms = r->at_ms,
                              .events = r->events.data,
                              .len = r->events.len};

    if (r->count > 0 && r->how != RECORD_COMPLETE)
        store_batch_chunk(batch, task_id, epoch, &chunk);
    if (r->step)
        store_batch_step(batch, task_id, epoch, r->step, r->step_message, r->step_finish,
                         r->step_usage, r->step_last_seq);
    for (int i = 0; i < r->ncalls; i++) {
        const struct record_call *c = &r->calls[i];

        if (c->settle)
            store_batch_settle(batch, task_id, epoch, c->step, c->idx, c->status, c->result,
                               c->seq);
        else
            store_batch_claim(batch, task_id, epoch, c->step, c->idx, c->call_id, c->name);
    }
    for (int i = 0; i < r->nartifacts; i++)
        store_batch_artifact(batch, task_id, epoch, r->artifacts[i].name, r->artifacts[i].content);
    if (r->how == RECORD_COMPLETE)
        store_batch_complete(batch, task_id, epoch, r->end, &chunk);
    else if (r->how == RECORD_RETRY)
        store_batch_retry(batch, task_id, epoch, r->retry_ms, r->retry_error);
    else if (r->how == RECORD_RELEASE)
        store_batch_release_turn(batch, task_id, epoch);
}
