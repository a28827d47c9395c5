#include "openai.h"

#include "json.h"
#include "mem.h"
#include "utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define TOKENS_MAX 1000000000000 /* a million million */

/* ---- requests ---- */

/* A tool's output as the model reads it: text as it is, everything else as JSON. */
static void put_tool_output(struct buf *out, const cJSON *output)
{
    char *text;

    if (cJSON_IsString(output)) {
        (void)json_put_str(out, output->valuestring);
        return;
    }
    text = output ? json_print(output) : xstrdup("null");
    (void)json_put_str(out, text);
    free(text);
}

static void put_tool_responses(struct buf *messages, const cJSON *content)
{
    const cJSON *part;

    cJSON_ArrayForEach (part, content) {
        const cJSON *response = json_get(part, "toolResponse");

        if (!response)
            continue;
        (void)json_open(messages, '{');
        (void)json_put_member_str(messages, "role", "tool");
        (void)json_put_member_str(messages, "tool_call_id", json_str_or(response, "ref", ""));
        (void)json_put_key(messages, "content");
        put_tool_output(messages, cJSON_GetObjectItemCaseSensitive(response, "output"));
        (void)json_close(messages, '}');
    }
}

/* Arguments that were not JSON are kept as a string: it goes back as it came. */
static void put_tool_call(struct buf *messages, const cJSON *request)
{
    const cJSON *input = cJSON_GetObjectItemCaseSensitive(request, "input");

    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "id", json_str_or(request, "ref", ""));
    (void)json_put_member_str(messages, "type", "function");
    (void)json_put_key(messages, "function");
    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "name", json_str_or(request, "name", ""));
    (void)json_put_key(messages, "arguments");
    put_tool_output(messages, input);
    (void)json_close(messages, '}');
    (void)json_close(messages, '}');
}

static bool has_part(const cJSON *content, const char *key)
{
    const cJSON *part;

    cJSON_ArrayForEach (part, content)
        if (json_get(part, key))
            return true;
    return false;
}

/* The text of a part; data as its JSON, because a model has no other way to see it. */
static void take_part_text(const cJSON *part, struct buf *text)
{
    const cJSON *data = json_get(part, "data");
    char *json = data ? json_print(data) : NULL;

    (void)buf_puts(text, json_str_or(part, "text", json ? json : ""));
    free(json);
}

static void put_joined_text(struct buf *messages, const cJSON *content)
{
    BUF_AUTO(text, BUF_MAX);
    const cJSON *part;

    cJSON_ArrayForEach (part, content)
        take_part_text(part, &text);
    (void)json_put_strn(messages, text.data, text.len);
}

/* Text and media as an array of parts; images alone can be shown this way. */
static void put_media_parts(struct buf *messages, const cJSON *content)
{
    const cJSON *part;

    (void)json_open(messages, '[');
    cJSON_ArrayForEach (part, content) {
        const cJSON *media = json_get(part, "media");
        BUF_AUTO(text, BUF_MAX);

        take_part_text(part, &text);
        if (!media && text.len == 0)
            continue;
        (void)json_open(messages, '{');
        if (media) {
            (void)json_put_member_str(messages, "type", "image_url");
            (void)json_put_key(messages, "image_url");
            (void)json_open(messages, '{');
            (void)json_put_member_str(messages, "url", json_str_or(media, "url", ""));
            (void)json_close(messages, '}');
        } else {
            (void)json_put_member_str(messages, "type", "text");
            (void)json_put_key(messages, "text");
            (void)json_put_strn(messages, text.data, text.len);
        }
        (void)json_close(messages, '}');
    }
    (void)json_close(messages, ']');
}

static void put_assistant(struct buf *messages, const cJSON *content)
{
    bool calls = has_part(content, "toolRequest");
    const cJSON *part;

    (void)json_put_key(messages, "content");
    if (calls && !has_part(content, "text"))
        (void)json_put_str(messages, NULL);
    else
        put_joined_text(messages, content);
    if (!calls)
        return;
    (void)json_put_key(messages, "tool_calls");
    (void)json_open(messages, '[');
    cJSON_ArrayForEach (part, content) {
        const cJSON *request = json_get(part, "toolRequest");

        if (request)
            put_tool_call(messages, request);
    }
    (void)json_close(messages, ']');
}

void openai_put_message(struct buf *messages, const cJSON *message)
{
    const char *role = json_str_or(message, "role", "user");
    const cJSON *content = json_get(message, "content");

    if (!strcmp(role, "tool")) {
        put_tool_responses(messages, content);
        return;
    }
    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "role", !strcmp(role, "model") ? "assistant" : role);
    if (!strcmp(role, "model")) {
        put_assistant(messages, content);
    } else {
        (void)json_put_key(messages, "content");
        if (has_part(content, "media"))
            put_media_parts(messages, content);
        else
            put_joined_text(messages, content);
    }
    (void)json_close(messages, '}');
}

static void put_tools(struct buf *out, const struct agent *agent)
{
    if (agent->n_tools == 0)
        return;
    (void)json_put_key(out, "tools");
    (void)json_open(out, '[');
    for (size_t i = 0; i < agent->n_tools; i++) {
        const struct agent_tool *tool = &agent->tools[i];

        (void)json_open(out, '{');
        (void)json_put_member_str(out, "type", "function");
        (void)json_put_key(out, "function");
        (void)json_open(out, '{');
        (void)json_put_member_str(out, "name", tool->name);
        (void)json_put_member_str(out, "description", tool->description);
        (void)json_put_member_raw(out, "parameters", tool->parameters);
        (void)json_close(out, '}');
        (void)json_close(out, '}');
    }
    (void)json_close(out, ']');
}

void openai_put_request(struct buf *out, const struct agent *agent, const struct buf *messages)
{
    const char *options = agent->model.options;

    (void)json_open(out, '{');
    (void)json_put_member_str(out, "model", agent->model.name);
    if (options && strlen(options) > 2) /* its members, without the braces */
        (void)json_put_raw(out, options + 1, strlen(options) - 2);
    (void)json_put_member_raw(out, "stream", "true");
    (void)json_put_member_raw(out, "stream_options", "{\"include_usage\":true}");
    put_tools(out, agent);
    (void)json_put_key(out, "messages");
    (void)json_open(out, '[');
    if (agent->instructions) {
        (void)json_open(out, '{');
        (void)json_put_member_str(out, "role", "system");
        (void)json_put_member_str(out, "content", agent->instructions);
        (void)json_close(out, '}');
    }
    if (messages->len)
        (void)json_put_raw(out, messages->data, messages->len);
    (void)json_close(out, ']');
    (void)json_close(out, '}');
}

/* ---- answers ---- */

static void set_error(struct model_error *error, const char *code, bool retryable,
                      const char *message)
{
    snprintf(error->code, sizeof(error->code), "%s", code);
    snprintf(error->message, sizeof(error->message), "%.200s", message);
    /* cut at a character, not inside one */
    error->message[utf8_prefix(error->message, strlen(error->message))] = '\0';
    error->retryable = retryable;
}

static int take_string(struct answer *answer, struct buf *buf, const char *text, size_t len,
                       void (*tell)(void *owner, const char *text, size_t len), void *owner)
{
    if (len == 0)
        return 0;
    answer->bytes += len;
    if (answer->bytes > answer->max_bytes)
        return -1;
    (void)buf_append(buf, text, len);
    tell(owner, text, len);
    return 0;
}

static int take_text(struct answer *answer, struct buf *buf, halves half, const cJSON *value,
                     void (*tell)(void *owner, const char *text, size_t len), void *owner)
{
    BUF_AUTO(joined, BUF_MAX);
    const char *text;

    if (!cJSON_IsString(value))
        return 0;
    text = halves_join(half, value->valuestring, &joined);
    return take_string(answer, buf, text, strlen(text), tell, owner);
}

/* The stream is whole: halves that still wait have lost the other one. */
static void end_halves(struct answer *answer, const struct openai_delta *delta)
{
    BUF_AUTO(text, 16);
    BUF_AUTO(reasoning, 16);

    halves_end(answer->text_half, &text);
    halves_end(answer->reasoning_half, &reasoning);
    if (reasoning.len)
        (void)take_string(answer, &answer->reasoning, reasoning.data, reasoning.len,
                          delta->on_reasoning, delta->owner);
    if (text.len)
        (void)take_string(answer, &answer->text, text.data, text.len, delta->on_text, delta->owner);
    for (int i = 0; i < answer->ncalls; i++)
        halves_end(answer->calls[i].half, &answer->calls[i].arguments);
}

/* The call of that id, or the place of a new one. */
static int find_id(const struct answer *answer, const char *id)
{
    for (int i = 0; i < answer->ncalls; i++)
        if (answer->calls[i].id && !strcmp(answer->calls[i].id, id))
            return i;
    return answer->ncalls;
}

/*
 * Which call a piece belongs to: by its index; without one, by its id; without both, the last,
 * unless it has a name, with which a call begins. Servers that give every whole call index 0 are
 * told apart by a new id (ollama#7881).
 */
static int find_call(const struct answer *answer, const cJSON *piece)
{
    const cJSON *index = json_get(piece, "index");
    const char *id = json_str_or(piece, "id", "");
    const char *name = json_str_or(json_get(piece, "function"), "name", "");
    int at = answer->ncalls - 1;

    if (!cJSON_IsNumber(index)) {
        if (*id)
            return find_id(answer, id);
        return at < 0 || (*name && answer->calls[at].name) ? answer->ncalls : at;
    }
    at = index->valuedouble >= 0 && index->valuedouble < answer->ncalls ? (int)index->valuedouble
                                                                        : answer->ncalls;
    if (*id && at < answer->ncalls && answer->calls[at].id && strcmp(answer->calls[at].id, id) != 0)
        return find_id(answer, id);
    return at;
}

static int take_call(struct answer *answer, const cJSON *piece, const struct openai_delta *delta)
{
    const cJSON *function = json_get(piece, "function");
    const cJSON *value = json_get(function, "arguments");
    const char *id = json_str_or(piece, "id", NULL), *name = json_str_or(function, "name", NULL);
    char *object = cJSON_IsObject(value) ? json_print(value) : NULL;
    const char *arguments = object ? object : cJSON_IsString(value) ? value->valuestring : "";
    BUF_AUTO(joined, BUF_MAX);
    int at = find_call(answer, piece);
    struct answer_call *call;

    answer->bytes += strlen(arguments) + (name ? strlen(name) : 0) + (id ? strlen(id) : 0);
    if (at >= ANSWER_MAX_CALLS || answer->bytes > answer->max_bytes) {
        free(object);
        return -1;
    }
    call = at == answer->ncalls ? answer_add_call(answer) : &answer->calls[at];
    if (id && *id && !call->id)
        call->id = xstrdup(id);
    if (name && *name && !call->name)
        call->name = xstrdup(name);
    arguments = halves_join(call->half, arguments, &joined);
    (void)buf_puts(&call->arguments, arguments);
    delta->on_call(delta->owner, at, id, name, arguments, strlen(arguments));
    free(object);
    return 0;
}

/* A count that adds up whatever the server says. */
static int64_t tokens(const cJSON *value)
{
    if (!cJSON_IsNumber(value) || !(value->valuedouble > 0))
        return 0;
    return value->valuedouble < TOKENS_MAX ? (int64_t)value->valuedouble : TOKENS_MAX;
}

static void take_usage(struct answer *answer, const cJSON *usage)
{
    const cJSON *in = json_get(usage, "prompt_tokens"), *out = json_get(usage, "completion_tokens");

    if (!cJSON_IsNumber(in) && !cJSON_IsNumber(out))
        return;
    answer->has_usage = true;
    answer->input_tokens = tokens(in);
    answer->output_tokens = tokens(out);
}

/* A word; whatever else comes is cut and made text that the database takes. */
static void take_finish(struct answer *answer, const char *finish)
{
    BUF_AUTO(clean, BUF_MAX);
    size_t max = sizeof(answer->finish) - 1;

    if (utf8_put_clean(&clean, finish, strlen(finish)) < 0 || clean.len == 0)
        return;
    snprintf(answer->finish, sizeof(answer->finish), "%.*s",
             (int)utf8_prefix(clean.data, clean.len < max ? clean.len : max), clean.data);
}

static int take_delta(struct answer *answer, const cJSON *choice, const struct openai_delta *delta)
{
    const cJSON *d = json_get(choice, "delta"), *piece;
    const cJSON *reasoning = json_get(d, "reasoning_content");
    const char *finish = json_str_or(choice, "finish_reason", NULL);

    if (!d)
        d = json_get(choice, "message"); /* a server that answers in one piece */
    if (!reasoning)
        reasoning = json_get(d, "reasoning");
    if (take_text(answer, &answer->reasoning, answer->reasoning_half, reasoning,
                  delta->on_reasoning, delta->owner) < 0 ||
        take_text(answer, &answer->text, answer->text_half, json_get(d, "content"), delta->on_text,
                  delta->owner) < 0 ||
        take_text(answer, &answer->text, answer->text_half, json_get(d, "refusal"), delta->on_text,
                  delta->owner) < 0)
        return -1;
    cJSON_ArrayForEach (piece, json_get(d, "tool_calls"))
        if (take_call(answer, piece, delta) < 0)
            return -1;
    if (finish)
        take_finish(answer, finish);
    return 0;
}

/* {"error": {...} | "text"}, {"detail": ...} or {"message": ...}: the message, code and type. */
static void read_error(const cJSON *root, const char **message, const char **code,
                       const char **type)
{
    const cJSON *error = json_get(root, "error");
    const cJSON *from = cJSON_IsObject(error) ? error : root;

    *message = cJSON_IsString(error) ? error->valuestring : json_str_or(from, "message", NULL);
    if (!*message)
        *message = json_str_or(root, "detail", NULL);
    *code = json_str_or(from, "code", "");
    *type = json_str_or(from, "type", "");
}

static bool is_one_of(const char *word, const char *const *words)
{
    for (; *words; words++)
        if (!strcasecmp(word, *words))
            return true;
    return false;
}

static void classify(int status, const char *message, const char *code, const char *type,
                     struct model_error *error)
{
    static const char *const quota[] = {"insufficient_quota", "billing_hard_limit_reached",
                                        "billing_not_active", "credit_limit_exceeded", NULL};
    static const char *const overflow[] = {"context_length_exceeded", "string_above_max_length",
                                           NULL};
    static const char *const auth[] = {"invalid_api_key", "authentication_error",
                                       "permission_error", NULL};

    if (is_one_of(code, quota) || is_one_of(type, quota) || status == 402)
        set_error(error, "QUOTA_EXCEEDED", false, message);
    else if (is_one_of(code, overflow))
        set_error(error, "CONTEXT_OVERFLOW", false, message);
    else if (status == 429 || !strcasecmp(code, "rate_limit_exceeded") ||
             !strcasecmp(type, "rate_limit_error"))
        set_error(error, "RATE_LIMITED", true, message);
    else if (status == 401 || status == 403 || is_one_of(code, auth) || is_one_of(type, auth))
        set_error(error, "MODEL_AUTH", false, message);
    else if (status == 408)
        set_error(error, "MODEL_TIMEOUT", true, message);
    else if ((status >= 400 && status < 500) || !strcasecmp(type, "invalid_request_error"))
        set_error(error, "MODEL_REJECTED", false, message);
    else
        set_error(error, "MODEL_UNAVAILABLE", true, message);
}

void openai_classify(int status, const char *body, size_t len, int64_t retry_after_ms,
                     struct model_error *ret_error)
{
    struct err err;
    JSON_AUTO(root) = json_parse(body, len, &err);
    const char *message = NULL, *code = "", *type = "";
    char plain[120];

    *ret_error = (struct model_error){.retry_after_ms = retry_after_ms, .http_status = status};
    if (cJSON_IsArray(root))
        read_error(root->child, &message, &code, &type);
    else if (cJSON_IsObject(root))
        read_error(root, &message, &code, &type);
    if (!message) {
        snprintf(plain, sizeof(plain), "the model answered with status %d", status);
        message = plain;
    }
    classify(status, message, code, type, ret_error);
    if (status >= 200 && status < 400) /* a redirect, or 204: no model lives there */
        set_error(ret_error, "MODEL_REJECTED", false, message);
}

static enum openai_event too_large(struct model_error *error)
{
    set_error(error, "OUTPUT_TOO_LARGE", false,
              "the answer is larger than limits.max_output_bytes");
    return OPENAI_ERROR;
}

/* The text of an event that told nothing but plain text, as it stands in `data`. */
static bool find_only_text(const cJSON *root, const char *data, const char **ret_text,
                           size_t *ret_len)
{
    static const char *const others[] = {"reasoning_content", "reasoning", "refusal", "tool_calls"};
    const cJSON *choices = json_get(root, "choices"), *choice = choices ? choices->child : NULL;
    const cJSON *delta = json_get(choice, "delta"), *index = json_get(choice, "index");
    const char *content = json_str_or(delta, "content", ""), *at, *element;
    size_t len;

    if (!*content || choice->next || (cJSON_IsNumber(index) && index->valuedouble > 0) ||
        json_get(choice, "finish_reason") || json_get(root, "usage"))
        return false;
    for (size_t i = 0; i < sizeof(others) / sizeof(*others); i++)
        if (json_get(delta, others[i]))
            return false;
    if (!json_member_span(data, "choices", &at, &len) || !json_element_span(&at, &element, &len) ||
        !json_member_span(element, "delta", &at, &len) ||
        !json_member_span(at, "content", &at, &len))
        return false;
    *ret_text = at + 1;
    *ret_len = strlen(content);
    return len == *ret_len + 2 && !memcmp(*ret_text, content, *ret_len);
}

enum openai_event openai_take(struct answer *answer, const char *data, size_t len,
                              const struct openai_delta *delta, struct model_error *error)
{
    struct err err;
    const cJSON *choice;
    const char *text;
    size_t text_len;

    *error = (struct model_error){.retry_after_ms = -1, .http_status = 200};
    if (len == 6 && !memcmp(data, "[DONE]", 6)) {
        end_halves(answer, delta);
        return OPENAI_END;
    }
    if (!*answer->text_half && shape_match(&answer->shape, data, len, &text, &text_len))
        return take_string(answer, &answer->text, text, text_len, delta->on_text, delta->owner) < 0
                   ? too_large(error)
                   : OPENAI_MORE;

    JSON_AUTO(root) = json_parse_loose(data, len, &err);

    if (!cJSON_IsObject(root)) {
        set_error(error, "MODEL_GARBAGE", true, root ? "the model sent no object" : err.msg);
        return OPENAI_ERROR;
    }
    if (json_get(root, "error")) {
        const char *message, *code, *type;

        read_error(root, &message, &code, &type);
        classify(0, message ? message : "the model sent an error", code, type, error);
        return OPENAI_ERROR;
    }
    cJSON_ArrayForEach (choice, json_get(root, "choices")) {
        const cJSON *index = json_get(choice, "index");

        if (cJSON_IsNumber(index) && index->valuedouble > 0)
            continue; /* we asked for one */
        if (take_delta(answer, choice, delta) < 0)
            return too_large(error);
    }
    take_usage(answer, json_get(root, "usage"));
    if (find_only_text(root, data, &text, &text_len))
        shape_learn(&answer->shape, data, len, text, text_len);
    return OPENAI_MORE;
}
