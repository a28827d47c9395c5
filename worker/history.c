#include "history.h"

#include <string.h>

int history_calls(const cJSON *message, struct history_call *ret_calls, int max)
{
    const cJSON *part;
    int n = 0;

    if (strcmp(json_str_or(message, "role", ""), "model") != 0)
        return 0;
    cJSON_ArrayForEach (part, json_get(message, "content")) {
        const cJSON *request = json_get(part, "toolRequest");
        const cJSON *metadata = json_get(part, "metadata");

        if (!request || n == max)
            continue;
        ret_calls[n++] = (struct history_call){
            .name = json_str_or(request, "name", ""),
            .ref = json_str_or(request, "ref", ""),
            .input = cJSON_GetObjectItemCaseSensitive(request, "input"),
            .pending = cJSON_GetObjectItemCaseSensitive(metadata, "pendingOutput"),
            .interrupt = json_get(metadata, "interrupt"),
        };
    }
    return n;
}

static int check_parts(const cJSON *content, struct err *err)
{
    const cJSON *part;

    cJSON_ArrayForEach (part, content) {
        const cJSON *media = json_get(part, "media");

        if (cJSON_IsString(json_get(part, "text")) ||
            (media && cJSON_IsString(json_get(media, "url"))))
            continue;
        return err_set(err, ERR_INVALID,
                       "a part of input.message.content must have a text or a media.url");
    }
    return 0;
}

static int put_user_message(struct buf *messages, const cJSON *message, struct err *err)
{
    const cJSON *content = json_get(message, "content");
    const char *role = json_str_or(message, "role", "user");
    char *text;

    if (strcmp(role, "user") != 0)
        return err_set(err, ERR_INVALID, "input.message.role must be \"user\"");
    if (!cJSON_IsString(content) && !(cJSON_IsArray(content) && content->child))
        return err_set(err, ERR_INVALID,
                       "input.message.content must be text or an array of parts, not empty");
    if (cJSON_IsArray(content) && check_parts(content, err) < 0)
        return -1;
    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "role", role);
    (void)json_put_key(messages, "content");
    if (cJSON_IsString(content)) {
        (void)json_open(messages, '[');
        (void)json_open(messages, '{');
        (void)json_put_member_str(messages, "text", content->valuestring);
        (void)json_close(messages, '}');
        (void)json_close(messages, ']');
    } else {
        text = json_print(content);
        (void)json_put_raw(messages, text, strlen(text));
        cJSON_free(text);
    }
    if (cJSON_IsObject(json_get(message, "metadata"))) {
        text = json_print(json_get(message, "metadata"));
        (void)json_put_member_raw(messages, "metadata", text);
        cJSON_free(text);
    }
    (void)json_close(messages, '}');
    return 0;
}

int history_put_user(struct buf *messages, const cJSON *input, struct err *err)
{
    const cJSON *message = json_get(input, "message");

    if (cJSON_IsObject(message))
        return put_user_message(messages, message, err);
    if (!cJSON_IsString(input))
        return err_set(err, ERR_INVALID,
                       "the input of an llm agent must be text or {\"message\": ...}");
    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "role", "user");
    (void)json_put_key(messages, "content");
    (void)json_open(messages, '[');
    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "text", input->valuestring);
    (void)json_close(messages, '}');
    (void)json_close(messages, ']');
    (void)json_close(messages, '}');
    return 0;
}

const char *history_resource(const cJSON *message)
{
    const cJSON *part;

    cJSON_ArrayForEach (part, json_get(message, "content"))
        if (json_get(part, "resource"))
            return json_str_or(json_get(part, "resource"), "uri", "");
    return NULL;
}

void history_open_tool(struct buf *messages)
{
    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "role", "tool");
    (void)json_put_key(messages, "content");
    (void)json_open(messages, '[');
}

void history_close_tool(struct buf *messages)
{
    (void)json_close(messages, ']');
    (void)json_close(messages, '}');
}

void history_close_resumed(struct buf *messages)
{
    (void)json_close(messages, ']');
    (void)json_put_member_raw(messages, "metadata", "{\"resumed\":true}");
    (void)json_close(messages, '}');
}

static void put_response(struct buf *messages, const char *name, const char *ref,
                         const char *output_json, const char *metadata)
{
    (void)json_open(messages, '{');
    (void)json_put_key(messages, "toolResponse");
    (void)json_open(messages, '{');
    (void)json_put_member_str(messages, "name", name);
    (void)json_put_member_str(messages, "ref", ref);
    (void)json_put_member_raw(messages, "output", output_json);
    (void)json_close(messages, '}');
    (void)json_put_member_raw(messages, "metadata", metadata);
    (void)json_close(messages, '}');
}

void history_put_response(struct buf *messages, const char *name, const char *ref,
                          const char *output_json)
{
    put_response(messages, name, ref, output_json, NULL);
}

void history_put_pending(struct buf *messages, const char *name, const char *ref,
                         const char *output_json)
{
    put_response(messages, name, ref, output_json, "{\"source\":\"pending\"}");
}

void history_put_error_value(struct buf *out, const char *code, const char *message)
{
    (void)json_open(out, '{');
    (void)json_put_key(out, "error");
    (void)json_open(out, '{');
    (void)json_put_member_str(out, "code", code);
    (void)json_put_member_str(out, "message", message);
    (void)json_close(out, '}');
    (void)json_close(out, '}');
}

void history_put_failure(struct buf *messages, const char *name, const char *ref, const char *code,
                         const char *message)
{
    BUF_AUTO(value, BUF_MAX);

    history_put_error_value(&value, code, message);
    history_put_response(messages, name, ref, value.data);
}
