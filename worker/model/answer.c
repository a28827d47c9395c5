#include "answer.h"

#include <stdlib.h>

void answer_init(struct answer *a, size_t max_bytes)
{
    *a = (struct answer){.max_bytes = max_bytes};
    buf_init(&a->text, BUF_MAX);
    buf_init(&a->reasoning, BUF_MAX);
}

void answer_release(struct answer *a)
{
    for (int i = 0; i < a->ncalls; i++) {
        free(a->calls[i].id);
        free(a->calls[i].name);
        buf_release(&a->calls[i].arguments);
    }
    a->ncalls = 0;
    buf_release(&a->text);
    buf_release(&a->reasoning);
}

void answer_reset(struct answer *a)
{
    size_t max_bytes = a->max_bytes;

    answer_release(a);
    answer_init(a, max_bytes);
}
