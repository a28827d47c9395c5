/*
 * The script language: text to actions, grouped into the responses of one turn. Pure. The words
 * are documented in conformance/genkit/README.md (section modelsim); `stamp` is ours.
 */
#pragma once

#include "js.h"

#include <stdint.h>

enum action_op {
    ACTION_SAY,
    ACTION_STREAM,
    ACTION_STAMP,
    ACTION_REPEAT,
    ACTION_SLOW,
    ACTION_BIG,
    ACTION_REASON,
    ACTION_CALL,
    ACTION_IFTOOL,
    ACTION_FINISH,
    ACTION_USAGE,
    ACTION_EMPTY,
    ACTION_WAIT,
    ACTION_GATE,
    ACTION_HANG,
    ACTION_FAIL,
    ACTION_DROP,
    ACTION_GARBAGE,
    ACTION_NODONE,
};

struct action_call {
    char *name;
    char *raw; /* the arguments, templates not yet filled in */
};

/* Numbers are what JavaScript read, NaN included. */
struct action {
    enum action_op op;
    bool is_loop;      /* a call made again on every step */
    bool is_counted;   /* a failure of the first `count` tries only */
    char *text;        /* what to say; the name of a gate, the reason of a finish, the needle */
    double width;      /* of a stamp's token, at most 80 bytes; 0: the stamp's own */
    double count;      /* tokens, bytes, tries, prompt tokens */
    double completion; /* usage: completion tokens */
    double status;
    double retry_after;
    uint64_t delay_ms; /* after each token, or of a wait */
    struct action_call *calls;
    size_t n_calls;
    struct action *yes, *no; /* of an iftool */
};

struct script {
    struct action *actions;
    size_t n_actions;
};

/* -1 with the message the client is to see. Whatever happens, `script` is to be released. */
int script_parse(struct script *script, const char *text, struct err *err);
void script_release(struct script *script);

/* The actions that answer step `step` of the turn; at least one response always exists. */
const struct action *script_step(const struct script *script, size_t step, size_t *ret_n);
