/* What the body of a turn asks for, read and checked. Pure. */
#pragma once

#include "err.h"
#include "json.h"
#include "store_genkit.h"

#include <stdbool.h>

struct genkit_input {
    char *input, *options; /* JSON, for the task */
    char *session_id;      /* NULL: none */
    char *snapshot_id;     /* NULL: none */
    bool detach;
    const char *refused; /* status name of a failure */
};

/*
 * `text` is the body, `body` the same, parsed; an object. `agent` says how it is read. 0, or -1
 * with `ret->refused` and a message. Release it in any case.
 */
int genkit_input_read(struct genkit_input *ret, const char *text, const cJSON *body,
                      const struct genkit_agent_row *agent, struct err *err);
void genkit_input_release(struct genkit_input *input);

/* A session's id on this wire: any text of 1 to 512 bytes without control characters. */
bool genkit_session_is_valid(const char *text);
