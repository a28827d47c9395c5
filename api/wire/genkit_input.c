#include "wire/genkit_input.h"

#include "id.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_SESSION_BYTES 512
#define MAX_ANSWERS       128

bool genkit_session_is_valid(const char *text)
{
    size_t len = strlen(text);

    if (len == 0 || len > MAX_SESSION_BYTES)
        return false;
    for (; *text; text++)
        if ((unsigned char)*text < ' ' || *text == 0x7f)
            return false;
    return true;
}

static int refuse(struct genkit_input *in, const char *status)
{
    in->refused = status;
    return -1;
}

static int invalid(struct genkit_input *in, struct err *err, const char *what)
{
    err_set(err, ERR_INVALID, "%s", what);
    return refuse(in, "INVALID_ARGUMENT");
}

static int misused(struct genkit_input *in, struct err *err, const char *what)
{
    err_set(err, ERR_INVALID, "%s", what);
    return refuse(in, "FAILED_PRECONDITION");
}

/* A value as the client wrote it, so that its numbers survive. `text` holds `obj`. */
static char *raw_of(const char *text, const cJSON *obj, const char *key)
{
    const char *start;
    size_t len;

    if (json_member_span(text, key, &start, &len))
        return xmemdup(start, len);
    return json_print(json_get(obj, key)); /* its key was written with escapes */
}

/* ---- schemas ---- */

/* An object with a text `key`, or not there at all. */
static bool has_text_or_is_absent(const cJSON *part, const char *name, const char *key)
{
    const cJSON *value = cJSON_GetObjectItemCaseSensitive(part, name);

    return !value || cJSON_IsString(cJSON_GetObjectItemCaseSensitive(value, key));
}

/* What Genkit knows must have its type; what it does not know passes. */
static bool is_part(const cJSON *part)
{
    static const char *const texts[] = {"text", "reasoning"}, *const objects[] = {"custom",
                                                                                  "metadata"};

    for (size_t i = 0; i < 2; i++) {
        const cJSON *text = cJSON_GetObjectItemCaseSensitive(part, texts[i]);
        const cJSON *object = cJSON_GetObjectItemCaseSensitive(part, objects[i]);

        if ((text && !cJSON_IsString(text)) || (object && !cJSON_IsObject(object)))
            return false;
    }
    return cJSON_IsObject(part) && has_text_or_is_absent(part, "media", "url") &&
           has_text_or_is_absent(part, "resource", "uri") &&
           has_text_or_is_absent(part, "toolRequest", "name") &&
           has_text_or_is_absent(part, "toolResponse", "name");
}

static bool is_parts(const cJSON *content)
{
    const cJSON *part;

    if (!cJSON_IsArray(content))
        return false;
    cJSON_ArrayForEach (part, content)
        if (!is_part(part))
            return false;
    return true;
}

static bool is_message(const cJSON *message)
{
    static const char *const roles[] = {"user", "model", "tool", "system"};
    const char *role = json_str_or(message, "role", "");

    for (size_t i = 0; i < sizeof(roles) / sizeof(roles[0]); i++)
        if (!strcmp(role, roles[i]))
            return is_parts(json_get(message, "content"));
    return false;
}

static bool is_string_or_absent(const cJSON *obj, const char *key)
{
    const cJSON *value = json_get(obj, key);

    return !value || cJSON_IsString(value);
}

static bool is_state(const cJSON *state)
{
    const cJSON *messages = json_get(state, "messages"), *artifacts = json_get(state, "artifacts");
    const cJSON *item;

    if (!cJSON_IsObject(state) || !is_string_or_absent(state, "sessionId") ||
        (messages && !cJSON_IsArray(messages)) || (artifacts && !cJSON_IsArray(artifacts)))
        return false;
    cJSON_ArrayForEach (item, messages)
        if (!is_message(item))
            return false;
    cJSON_ArrayForEach (item, artifacts)
        if (!is_parts(json_get(item, "parts")))
            return false;
    return true;
}

static int check_schema(struct genkit_input *in, const cJSON *data, const cJSON *init,
                        struct err *err)
{
    const cJSON *message = cJSON_GetObjectItemCaseSensitive(data, "message");
    const cJSON *resume = cJSON_GetObjectItemCaseSensitive(data, "resume");
    const cJSON *detach = json_get(data, "detach"), *state = json_get(init, "state");

    if (!cJSON_IsObject(data))
        return invalid(in, err, "data must be an object");
    if (init && !cJSON_IsObject(init))
        return invalid(in, err, "init must be an object");
    if (message && !is_message(message))
        return invalid(in, err, "data.message must have a role and an array of content parts");
    if (resume && !cJSON_IsObject(resume))
        return invalid(in, err, "data.resume must be an object");
    if (detach && !cJSON_IsBool(detach))
        return invalid(in, err, "data.detach must be a boolean");
    if (!is_string_or_absent(init, "snapshotId") || !is_string_or_absent(init, "sessionId"))
        return invalid(in, err, "init.snapshotId and init.sessionId must be strings");
    if (state && !is_state(state))
        return invalid(in, err, "init.state must be a session's state");
    return 0;
}

/* ---- resume ---- */

static int put_answer(struct buf *out, const cJSON *part, const char *kind, const char *value,
                      bool restart)
{
    const cJSON *body = json_get(part, kind);
    const cJSON *resumed = json_get(json_get(part, "metadata"), "resumed");
    char *text;

    if (!cJSON_IsString(json_get(body, "name")) || !is_string_or_absent(body, "ref"))
        return -1;
    (void)json_open(out, '{');
    (void)json_put_member_str(out, "name", json_str_or(body, "name", ""));
    (void)json_put_member_str(out, "call_id", json_str_or(body, "ref", NULL));
    if (cJSON_GetObjectItemCaseSensitive(body, value)) {
        text = json_print(cJSON_GetObjectItemCaseSensitive(body, value));
        (void)json_put_member_raw(out, value, text);
        free(text);
    }
    if (restart && (!resumed || cJSON_IsFalse(resumed)))
        (void)json_put_member_raw(out, "resumed", "false");
    (void)json_close(out, '}');
    return 0;
}

static int put_answers(struct buf *out, const cJSON *resume, bool restart)
{
    const char *key = restart ? "restart" : "respond";
    const cJSON *parts = json_get(resume, key), *part;

    if (!parts)
        return 0;
    if (!cJSON_IsArray(parts) || cJSON_GetArraySize(parts) > MAX_ANSWERS)
        return -1;
    (void)json_put_key(out, key);
    (void)json_open(out, '[');
    cJSON_ArrayForEach (part, parts) {
        if (put_answer(out, part, restart ? "toolRequest" : "toolResponse",
                       restart ? "input" : "output", restart) < 0)
            return -1;
    }
    (void)json_close(out, ']');
    return 0;
}

static int put_resume(struct buf *options, const cJSON *resume)
{
    (void)json_put_key(options, "resume");
    (void)json_open(options, '{');
    if (put_answers(options, resume, false) < 0 || put_answers(options, resume, true) < 0)
        return -1;
    (void)json_close(options, '}');
    return 0;
}

/* ---- init ---- */

/* The client's state, with a session id in any case. */
static void put_state(struct buf *options, const char *init_text, const cJSON *init)
{
    const cJSON *state = json_get(init, "state");
    char id[ID_BYTES];
    char *raw;

    (void)json_put_key(options, "state");
    if (state && *json_str_or(state, "sessionId", "")) {
        raw = raw_of(init_text, init, "state");
        (void)json_put_raw(options, raw, strlen(raw));
        free(raw);
        return;
    }
    id_uuid7(id);
    (void)json_open(options, '{');
    (void)json_put_member_str(options, "sessionId", id);
    for (const cJSON *item = state ? state->child : NULL; item; item = item->next) {
        if (!strcmp(item->string, "sessionId") || cJSON_IsNull(item))
            continue;
        raw = json_print(item);
        (void)json_put_member_raw(options, item->string, raw);
        free(raw);
    }
    if (!json_get(state, "messages"))
        (void)json_put_member_raw(options, "messages", "[]");
    (void)json_close(options, '}');
}

static int read_init(struct genkit_input *in, const cJSON *init, bool client, struct err *err)
{
    const char *session = json_str_or(init, "sessionId", "");
    const char *snapshot = json_str_or(init, "snapshotId", "");

    if (client && (*session || *snapshot))
        return misused(in, err,
                       "Cannot send 'snapshotId' or 'sessionId' to this agent: its state is kept "
                       "by the client. Send 'state' instead.");
    if (client && in->detach)
        return misused(in, err, "Cannot detach: the state of this agent is kept by the client.");
    if (!client && json_get(init, "state"))
        return misused(in, err,
                       "Cannot send 'state' to this agent: it uses a server-managed store. Send "
                       "'snapshotId' or 'sessionId' instead.");
    if (*session && !genkit_session_is_valid(session))
        return invalid(in, err, "sessionId must be at most 512 bytes, without control characters");
    in->session_id = *session ? xstrdup(session) : NULL;
    in->snapshot_id = *snapshot ? xstrdup(snapshot) : NULL;
    return 0;
}

/* ---- the whole ---- */

static int read_agent(struct genkit_input *in, const char *text, const cJSON *body, bool client,
                      struct buf *options, struct err *err)
{
    const cJSON *data = json_get(body, "data"), *init = json_get(body, "init");
    char *data_text, *init_text, *message;

    if (check_schema(in, data, init, err) < 0)
        return -1;
    in->detach = cJSON_IsTrue(json_get(data, "detach"));
    if (read_init(in, init, client, err) < 0)
        return -1;
    if (json_get(data, "resume") && put_resume(options, json_get(data, "resume")) < 0)
        return invalid(in, err, "data.resume must have tool responses or tool requests");
    if (client) {
        init_text = init ? raw_of(text, body, "init") : xstrdup("{}");
        put_state(options, init_text, init);
        free(init_text);
    }
    if (!json_get(data, "message")) {
        in->input = xstrdup("{}");
        return 0;
    }
    data_text = raw_of(text, body, "data");
    message = raw_of(data_text, data, "message");
    in->input = xasprintf("{\"message\":%s}", message);
    free(message);
    free(data_text);
    return 0;
}

int genkit_input_read(struct genkit_input *ret, const char *text, const cJSON *body,
                      const struct genkit_agent_row *agent, struct err *err)
{
    BUF_AUTO(options, BUF_MAX);

    *ret = (struct genkit_input){0};
    (void)json_open(&options, '{');
    if (!agent->is_llm)
        ret->input = json_get(body, "data") ? raw_of(text, body, "data") : xstrdup("null");
    else if (read_agent(ret, text, body, agent->client, &options, err) < 0)
        return -1;
    if (agent->is_llm) /* the turn takes and gives what Genkit's own would */
        (void)json_put_member_str(&options, "as", "genkit");
    if (!ret->detach)
        (void)json_put_member_raw(&options, "foreground", "true");
    (void)json_close(&options, '}');
    ret->options = buf_detach(&options);
    return 0;
}

void genkit_input_release(struct genkit_input *input)
{
    free(input->input);
    free(input->options);
    free(input->session_id);
    free(input->snapshot_id);
    *input = (struct genkit_input){0};
}
