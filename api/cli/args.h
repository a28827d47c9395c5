/*
 * Command lines, by tables: which options a command takes, how many words, what --help says.
 *
 * All commands share one struct, so that a table row is a name and a field; strings point into
 * argv. Only long options: --name VALUE, --name=VALUE; `--` ends them, `-` is a word.
 */
#pragma once

#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>

#define ARGS_MAX_WORDS 4
#define ARGS_MAX_LIST  64

struct args_list {
    const char *items[ARGS_MAX_LIST];
    int n;
};

/* Numbers are -1 and strings NULL when not given. */
struct args {
    const char *words[ARGS_MAX_WORDS];
    int n_words;
    bool help;
    bool json;
    const char *url;
    /* submit, resume, retry */
    bool follow, wait, fresh;
    const char *session, *snapshot, *parent, *run_at, *deadline, *idempotency_key, *metadata,
        *input;
    int64_t priority, max_attempts;
    struct args_list respond, restart;
    /* tail, wait, list, abort */
    int64_t after, limit;
    uint64_t timeout_ms; /* 0: for ever */
    const char *status, *agent, *reason;
    /* migrate, doctor, dev */
    bool show_status;
    const char *database, *data, *listen, *agents;
    int64_t workers, schedulers;
};

enum arg_type { ARG_FLAG, ARG_STR, ARG_INT, ARG_MS, ARG_LIST };

struct arg_option {
    const char *name; /* without the dashes; NULL ends the table */
    enum arg_type type;
    size_t offset;
    const char *value; /* for --help, e.g. "ID"; NULL for a flag */
    const char *help;
};

/* clang-format off */
#define ARG(name, type, field, value, help) {(name), (type), offsetof(struct args, field), (value), (help)}
#define ARG_END {.name = NULL}
/* clang-format on */

struct command {
    const char *name;  /* one word or two, "agents apply" */
    const char *words; /* for --help, e.g. "ID" */
    int min_words, max_words;
    const char *summary;
    const char *details; /* NULL: none */
    const struct arg_option *options;
    int (*run)(const struct args *args); /* an enum cli_exit */
};

/* Fill `ret_args` from the arguments behind the command's name. --help stops the checks. */
int args_parse(const struct command *command, int argc, char **argv, struct args *ret_args,
               struct err *err);

/* What `nocturne COMMAND --help` prints. */
void args_help(FILE *out, const struct command *command);
