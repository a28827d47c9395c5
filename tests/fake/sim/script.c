#include "script.h"

#include "mem.h"

#include <ctype.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define MAX_NESTING 100 /* iftool within iftool; each level is a stack frame */
#define MAX_MS      INT32_MAX

static int parse_action(struct action *action, struct span text, int depth, struct err *err);

static bool is_word_char(char c)
{
    return isalnum((unsigned char)c) || c == '_';
}

/* Does `word` stand at the start of `s`, in any case and not as a part of a longer word? */
static bool starts_with(struct span s, const char *word)
{
    size_t len = strlen(word);

    return s.len >= len && !strncasecmp(s.p, word, len) &&
           (s.len == len || !is_word_char(s.p[len]));
}

/* ---- words ---- */

/* Word number `n` of `s`; `p` is NULL when there are not as many. */
static struct span word_at(struct span s, size_t n)
{
    for (s = span_trim_start(s); s.len > 0; n--) {
        size_t len = span_solid(s);

        if (n == 0)
            return (struct span){s.p, len};
        s = span_trim_start(span_skip(s, len));
    }
    return (struct span){NULL, 0};
}

static struct span behind_word(struct span s)
{
    return span_trim(span_skip(s, span_solid(s)));
}

static double number_at(struct span s, size_t n, double fallback)
{
    struct span word = word_at(s, n);

    return word.p ? js_number(word) : fallback;
}

/* ^\d+(ms|s)?$ */
static uint64_t ms_of(struct span word, uint64_t fallback)
{
    size_t digits = 0;
    double ms = 0;

    for (; digits < word.len && isdigit((unsigned char)word.p[digits]); digits++)
        ms = ms * 10 + (word.p[digits] - '0');
    if (digits == 0)
        return fallback;
    if (word.len - digits == 1 && word.p[digits] == 's')
        ms *= 1000;
    else if (word.len != digits &&
             (word.len - digits != 2 || memcmp(word.p + digits, "ms", 2) != 0))
        return fallback;
    return ms > MAX_MS ? 1 : (uint64_t)ms; /* node's timers do 1 ms above 2^31 */
}

/* ---- JSON within a script ---- */

/* Bytes of the value whose quote or bracket opens `s`, 0 when it is not closed. */
static size_t json_length(struct span s)
{
    int64_t depth = 0;
    bool in_string = false;

    for (size_t i = 0; i < s.len; i++) {
        char c = s.p[i];

        if (in_string && c == '\\')
            i++;
        else if (c == '"')
            in_string = !in_string;
        else if (!in_string && (c == '{' || c == '['))
            depth++;
        else if (!in_string && (c == '}' || c == ']'))
            depth--;
        if (depth == 0 && !in_string && (c == '"' || c == '}' || c == ']'))
            return i + 1;
    }
    return 0;
}

/* The JSON value at the start of `*s`, {} when nothing stands there; `*s` becomes the rest. */
static cJSON *take_json(struct span *s, struct err *err)
{
    struct span t = span_trim_start(*s);
    cJSON *value;
    size_t len;

    if (t.len == 0) {
        *s = t;
        return js_parse("{}", 2, err);
    }
    len = strchr("{[\"", *t.p) ? json_length(t) : span_solid(t);
    if (len == 0) {
        err_set(err, ERR_INVALID, "unterminated JSON in script: %.*s",
                (int)(t.len < 80 ? t.len : 80), t.p);
        return NULL;
    }
    value = js_parse(t.p, len, err);
    *s = span_skip(t, len);
    return value;
}

/* ---- splitting ---- */

/* Bytes of `<space> word <space>` at the start of `s` when one of `next` follows, else 0. */
static size_t separator(struct span s, const char *word, bool (*next)(struct span s))
{
    struct span t = span_trim_start(s);
    size_t gap;

    if (t.len < strlen(word) || strncasecmp(t.p, word, strlen(word)) != 0)
        return 0;
    t = span_skip(t, strlen(word));
    gap = span_spaces(t);
    t = span_skip(t, gap);
    return gap > 0 && next(t) ? s.len - t.len : 0;
}

/*
 * The part of `*rest` before the next separator that stands outside of brackets; `*rest` becomes
 * what follows it. Quotes matter within brackets only: prose has apostrophes and lone quotes.
 */
static struct span take_part(struct span *rest, const char *word, bool (*next)(struct span s))
{
    struct span whole = *rest;
    size_t depth = 0, len;
    bool in_string = false;

    for (size_t i = 0; i < whole.len; i++) {
        char c = whole.p[i];

        if (in_string && c == '\\')
            i++;
        else if (depth > 0 && c == '"')
            in_string = !in_string;
        else if (in_string)
            continue;
        else if (c == '{' || c == '[')
            depth++;
        else if ((c == '}' || c == ']') && depth > 0)
            depth--;
        else if (depth == 0 && js_space(span_skip(whole, i)) > 0 &&
                 (len = separator(span_skip(whole, i), word, next)) > 0) {
            *rest = span_skip(whole, i + len);
            return (struct span){whole.p, i};
        }
    }
    *rest = (struct span){NULL, 0};
    return whole;
}

/* ---- verbs ---- */

static int parse_text(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->text = span_dup(rest);
    return 0;
}

/* <N> tokens [<D>ms] */
static int parse_tokens(struct action *action, struct span rest, struct err *err)
{
    struct span second = word_at(rest, 1);
    bool named = second.p && second.len == 6 && !memcmp(second.p, "tokens", 6);

    (void)err;
    action->count = number_at(rest, 0, 5);
    action->delay_ms = ms_of(word_at(rest, named ? 2 : 1), 0);
    return 0;
}

static int parse_stamp(struct action *action, struct span rest, struct err *err)
{
    action->width = number_at(rest, 3, 0);
    return parse_tokens(action, rest, err);
}

static int parse_repeat(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->count = number_at(rest, 0, 1);
    action->text = span_dup(behind_word(rest));
    return 0;
}

static int parse_slow(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->delay_ms = ms_of(word_at(rest, 0), 20);
    action->text = span_dup(behind_word(rest));
    return 0;
}

static int parse_big(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->count = number_at(rest, 0, 100000);
    return 0;
}

static int add_call(struct action *action, struct span text, bool is_raw, struct err *err)
{
    struct span name = {text.p, span_solid(text)}, rest = behind_word(text);
    BUF_AUTO(raw, BUF_MAX);

    if (name.len == 0)
        return err_set(
            err, ERR_INVALID,
            "object null is not iterable (cannot read property Symbol(Symbol.iterator))");
    if (is_raw) {
        (void)buf_append(&raw, rest.p, rest.len);
    } else {
        JSON_AUTO(value) = take_json(&rest, err);

        if (!value)
            return -1;
        js_stringify(&raw, value);
    }
    action->calls = xrealloc(action->calls, (action->n_calls + 1) * sizeof(*action->calls));
    action->calls[action->n_calls++] = (struct action_call){span_dup(name), buf_detach(&raw)};
    return 0;
}

static bool is_call(struct span s)
{
    return starts_with(s, "call") || starts_with(s, "badargs");
}

/* Without a leading `word` and the space behind it. */
static bool strip_word(struct span *s, const char *word)
{
    size_t len = strlen(word), gap;

    if (s->len < len || strncasecmp(s->p, word, len) != 0)
        return false;
    gap = span_spaces(span_skip(*s, len));
    if (gap == 0)
        return false;
    *s = span_skip(*s, len + gap);
    return true;
}

static int parse_call(struct action *action, struct span rest, struct err *err)
{
    do {
        struct span part = take_part(&rest, "and", is_call);
        bool is_raw;

        (void)strip_word(&part, "call");
        part = span_trim(part);
        is_raw = strip_word(&part, "badargs");
        if (add_call(action, part, is_raw, err) < 0)
            return -1;
    } while (rest.p);
    return 0;
}

static int parse_loop(struct action *action, struct span rest, struct err *err)
{
    action->is_loop = true;
    return add_call(action, rest, false, err);
}

static int parse_badargs(struct action *action, struct span rest, struct err *err)
{
    return add_call(action, rest, true, err);
}

static int parse_finish(struct action *action, struct span rest, struct err *err)
{
    struct span word = word_at(rest, 0);

    (void)err;
    action->text = word.p ? span_dup(word) : xstrdup("length");
    return 0;
}

static int parse_usage(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->count = number_at(rest, 0, 1);
    action->completion = number_at(rest, 1, 1);
    return 0;
}

static int parse_wait(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->delay_ms = ms_of(word_at(rest, 0), 100);
    return 0;
}

static int parse_gate(struct action *action, struct span rest, struct err *err)
{
    struct span word = word_at(rest, 0);

    (void)err;
    action->text = word.p ? span_dup(word) : xstrdup("default");
    return 0;
}

static int parse_fail(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->status = number_at(rest, 0, 500);
    return 0;
}

/* <N> [after <S>] */
static int parse_ratelimit(struct action *action, struct span rest, struct err *err)
{
    struct span second = word_at(rest, 1);

    (void)err;
    action->is_counted = true;
    action->count = number_at(rest, 0, 1);
    action->status = 429;
    if (second.p && second.len == 5 && !memcmp(second.p, "after", 5))
        action->retry_after = number_at(rest, 2, NAN);
    return 0;
}

static int parse_flaky(struct action *action, struct span rest, struct err *err)
{
    (void)err;
    action->is_counted = true;
    action->count = number_at(rest, 0, 1);
    action->status = number_at(rest, 1, 503);
    return 0;
}

static int parse_bare(struct action *action, struct span rest, struct err *err)
{
    (void)action;
    (void)rest;
    (void)err;
    return 0;
}

static const struct verb {
    const char *word;
    enum action_op op;
    int (*parse)(struct action *action, struct span rest, struct err *err); /* NULL: iftool */
} verbs[] = {
    {"say",       ACTION_SAY,     parse_text     },
    {"stream",    ACTION_STREAM,  parse_tokens   },
    {"stamp",     ACTION_STAMP,   parse_stamp    },
    {"call",      ACTION_CALL,    parse_call     },
    {"badargs",   ACTION_CALL,    parse_badargs  },
    {"reason",    ACTION_REASON,  parse_text     },
    {"fail",      ACTION_FAIL,    parse_fail     },
    {"ratelimit", ACTION_FAIL,    parse_ratelimit},
    {"flaky",     ACTION_FAIL,    parse_flaky    },
    {"hang",      ACTION_HANG,    parse_bare     },
    {"drop",      ACTION_DROP,    parse_bare     },
    {"garbage",   ACTION_GARBAGE, parse_bare     },
    {"wait",      ACTION_WAIT,    parse_wait     },
    {"gate",      ACTION_GATE,    parse_gate     },
    {"big",       ACTION_BIG,     parse_big      },
    {"finish",    ACTION_FINISH,  parse_finish   },
    {"usage",     ACTION_USAGE,   parse_usage    },
    {"iftool",    ACTION_IFTOOL,  NULL           },
    {"loop",      ACTION_CALL,    parse_loop     },
    {"nodone",    ACTION_NODONE,  parse_bare     },
    {"empty",     ACTION_EMPTY,   parse_bare     },
    {"repeat",    ACTION_REPEAT,  parse_repeat   },
    {"slow",      ACTION_SLOW,    parse_slow     },
};

/* Ours must not swallow prose that the other implementation echoes: a number has to follow. */
static bool is_stamp(struct span s)
{
    struct span word = word_at(s, 1);

    return word.p && isdigit((unsigned char)*word.p);
}

static const struct verb *find_verb(struct span s)
{
    for (size_t i = 0; i < sizeof(verbs) / sizeof(*verbs); i++)
        if (starts_with(s, verbs[i].word))
            return verbs[i].op != ACTION_STAMP || is_stamp(s) ? &verbs[i] : NULL;
    return NULL;
}

static bool is_action(struct span s)
{
    return find_verb(s) != NULL;
}

static bool is_anything(struct span s)
{
    (void)s;
    return true;
}

/* The part of `*rest` before the next " otherwise ", wherever it stands. */
static struct span take_branch(struct span *rest)
{
    struct span whole = *rest;

    for (size_t i = 0; i < whole.len; i++) {
        struct span here = span_skip(whole, i);
        size_t len = js_space(here) ? separator(here, "otherwise", is_anything) : 0;

        if (len > 0) {
            *rest = span_skip(here, len);
            return (struct span){whole.p, i};
        }
    }
    *rest = (struct span){NULL, 0};
    return whole;
}

/* "<needle>" <action> otherwise <action> */
static int parse_iftool(struct action *action, struct span rest, int depth, struct err *err)
{
    JSON_AUTO(needle) = take_json(&rest, err);
    struct span yes, no;
    BUF_AUTO(text, BUF_MAX);

    if (!needle)
        return -1;
    js_put_text(&text, needle);
    action->text = buf_detach(&text);
    rest = span_trim(rest);
    yes = take_branch(&rest);
    no = rest.p ? take_branch(&rest) : span_of("say no");
    action->yes = xcalloc(1, sizeof(*action->yes));
    if (parse_action(action->yes, span_trim(yes), depth + 1, err) < 0)
        return -1;
    action->no = xcalloc(1, sizeof(*action->no));
    return parse_action(action->no, span_trim(no), depth + 1, err);
}

static int parse_action(struct action *action, struct span text, int depth, struct err *err)
{
    const struct verb *verb = find_verb(text);
    struct span rest;

    if (!verb)
        return err_set(err, ERR_INVALID, "Cannot read properties of null (reading '1')");
    if (depth > MAX_NESTING)
        return err_set(err, ERR_INVALID, "more than %d iftool within each other", MAX_NESTING);
    action->op = verb->op;
    rest = span_trim(span_skip(text, strlen(verb->word)));
    return verb->parse ? verb->parse(action, rest, err) : parse_iftool(action, rest, depth, err);
}

/* ---- scripts ---- */

static struct action *add_action(struct script *script)
{
    size_t n = script->n_actions;

    if ((n & (n - 1)) == 0) /* full at each power of two */
        script->actions = xrealloc(script->actions, (n ? 2 * n : 1) * sizeof(*script->actions));
    memset(&script->actions[n], 0, sizeof(*script->actions));
    script->n_actions = n + 1;
    return &script->actions[n];
}

static void add_say(struct script *script, const char *prefix, struct span text)
{
    struct action *say = add_action(script);

    say->op = ACTION_SAY;
    say->text = xasprintf("%s%.*s", prefix, (int)text.len, text.p);
}

int script_parse(struct script *script, const char *text, struct err *err)
{
    struct span rest = span_trim(span_of(text));

    memset(script, 0, sizeof(*script));
    if (!is_action(rest)) {
        add_say(script, "echo: ", rest);
        return 0;
    }
    do {
        struct span part = take_part(&rest, "then", is_action);

        if (parse_action(add_action(script), span_trim(part), 0, err) < 0)
            return -1;
    } while (rest.p);
    /* A script that ends in a call answers the tool result with a summary. */
    if (script->actions[script->n_actions - 1].op == ACTION_CALL)
        add_say(script, "tool said {{tool}}", span_of(""));
    return 0;
}

static void action_release(struct action *action)
{
    struct action *branches[] = {action->yes, action->no};

    for (size_t i = 0; i < action->n_calls; i++) {
        free(action->calls[i].name);
        free(action->calls[i].raw);
    }
    free(action->calls);
    free(action->text);
    for (size_t i = 0; i < 2; i++) {
        if (branches[i])
            action_release(branches[i]);
        free(branches[i]);
    }
}

void script_release(struct script *script)
{
    for (size_t i = 0; i < script->n_actions; i++)
        action_release(&script->actions[i]);
    free(script->actions);
    memset(script, 0, sizeof(*script));
}

const struct action *script_step(const struct script *script, size_t step, size_t *ret_n)
{
    size_t first = 0, response = 0;

    for (size_t i = 0; i < script->n_actions; i++) {
        const struct action *action = &script->actions[i];

        if (action->op != ACTION_CALL)
            continue;
        if (action->is_loop) {
            *ret_n = 1;
            return action;
        }
        if (response == step) {
            *ret_n = i + 1 - first;
            return &script->actions[first];
        }
        response++;
        first = i + 1;
    }
    *ret_n = script->n_actions - first;
    return &script->actions[first];
}
