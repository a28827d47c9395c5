#include "answer.h"

#include "mem.h"

#include <assert.h>
#include <stdlib.h>

void answer_init(struct answer *a, size_t max_bytes)
{
    *a = (struct answer){.max_bytes = max_bytes};
    buf_init(&a->text, BUF_MAX);
    buf_init(&a->reasoning, BUF_MAX);
    shape_init(&a->shape);
}

struct answer_call *answer_add_call(struct answer *a)
{
    struct answer_call *call;

    assert(a->ncalls < ANSWER_MAX_CALLS);
    a->calls = xrealloc(a->calls, (size_t)(a->ncalls + 1) * sizeof(*a->calls));
    call = &a->calls[a->ncalls++];
    *call = (struct answer_call){0};
    buf_init(&call->arguments, BUF_MAX);
    return call;
}

void answer_release(struct answer *a)
{
    for (int i = 0; i < a->ncalls; i++) {
        free(a->calls[i].id);
        free(a->calls[i].name);
        buf_release(&a->calls[i].arguments);
    }
    free(a->calls);
    a->calls = NULL;
    a->ncalls = 0;
    buf_release(&a->text);
    buf_release(&a->reasoning);
    shape_release(&a->shape);
}

void answer_reset(struct answer *a)
{
    size_t max_bytes = a->max_bytes;

    answer_release(a);
    answer_init(a, max_bytes);
}
