/* What a turn begins with when it is not a snapshot of ours as it stands: the state that a client
 * keeps, or a history whose last question is answered now. */
#include "mem.h"
#include "turn_state.h"

#include <stdlib.h>
#include <string.h>

/* ---- state kept by the client ---- */

void turn_take_state(struct turn *turn)
{
    struct err err;
    JSON_AUTO(options) =
        turn->options ? json_parse(turn->options, strlen(turn->options), &err) : NULL;
    const cJSON *state = json_get(options, "state");
    const cJSON *messages = json_get(state, "messages");

    free(turn->parent);
    free(turn->history);
    cJSON_Delete(turn->custom);
    cJSON_Delete(turn->artifacts);
    turn->parent = NULL;
    turn->history = messages ? json_print(messages) : NULL;
    turn->custom = cJSON_Duplicate(json_get(state, "custom"), true);
    turn->artifacts = cJSON_Duplicate(json_get(state, "artifacts"), true);
}

void turn_keep_artifact(struct turn *turn, const char *name, const char *json)
{
    cJSON *artifact = cJSON_Parse(json), *old;
    int at = 0;

    if (!turn->artifacts)
        turn->artifacts = cJSON_CreateArray();
    cJSON_ArrayForEach (old, turn->artifacts) {
        if (strcmp(json_str_or(old, "name", ""), name) == 0) {
            cJSON_ReplaceItemInArray(turn->artifacts, at, artifact);
            return;
        }
        at++;
    }
    cJSON_AddItemToArray(turn->artifacts, artifact);
}

static const char *session_of(const struct turn *turn, const cJSON *options)
{
    return json_str_or(json_get(options, "state"), "sessionId", turn->session_id);
}

static void put_tree(struct buf *out, const char *key, const cJSON *tree)
{
    char *text = json_print(tree);

    (void)json_put_member_raw(out, key, text);
    free(text);
}

void turn_put_state(struct turn *turn, struct buf *output)
{
    struct err err;
    JSON_AUTO(options) =
        turn->options ? json_parse(turn->options, strlen(turn->options), &err) : NULL;
    size_t len = turn->history ? strlen(turn->history) : 0;

    (void)json_put_key(output, "state");
    (void)json_open(output, '{');
    (void)json_put_member_str(output, "sessionId", session_of(turn, options));
    (void)json_put_key(output, "messages");
    (void)json_open(output, '[');
    if (len > 2) /* the elements, without the brackets */
        (void)json_put_raw(output, turn->history + 1, len - 2);
    if (turn->messages.len)
        (void)json_put_raw(output, turn->messages.data, turn->messages.len);
    (void)json_close(output, ']');
    if (turn->custom)
        put_tree(output, "custom", turn->custom);
    if (turn->artifacts)
        put_tree(output, "artifacts", turn->artifacts);
    else
        (void)json_put_member_raw(output, "artifacts", "[]");
    (void)json_close(output, '}');
}

/* ---- questions ---- */

bool turn_is_same_input(const struct call *call, const cJSON *input)
{
    struct err err;
    JSON_AUTO(own) =
        call->arguments ? json_parse(call->arguments, strlen(call->arguments), &err) : NULL;

    return !input || (own && cJSON_Compare(own, input, true));
}

/* {"interrupt": x} -> {"resolvedInterrupt": x}; {"pendingOutput": x} -> nothing. */
static void resolve_part(cJSON *part)
{
    cJSON *metadata = cJSON_GetObjectItemCaseSensitive(part, "metadata");
    cJSON *why = cJSON_DetachItemFromObjectCaseSensitive(metadata, "interrupt");

    if (!json_get(part, "toolRequest") || !metadata) {
        cJSON_Delete(why);
        return;
    }
    cJSON_DeleteItemFromObjectCaseSensitive(metadata, "pendingOutput");
    if (why)
        cJSON_AddItemToObject(metadata, "resolvedInterrupt", why);
    if (!metadata->child)
        cJSON_DeleteItemFromObjectCaseSensitive(part, "metadata");
}

static cJSON *last_of(cJSON *messages)
{
    return cJSON_GetArrayItem(messages, cJSON_GetArraySize(messages) - 1);
}

void turn_resolve_question(struct turn *turn)
{
    struct err err;
    JSON_AUTO(messages) = json_parse(turn->history, strlen(turn->history), &err);
    cJSON *part;

    if (!messages)
        return;
    cJSON_ArrayForEach (part, cJSON_GetObjectItemCaseSensitive(last_of(messages), "content"))
        resolve_part(part);
    free(turn->history);
    turn->history = json_print(messages);
    turn->resuming = true;
}

void turn_drop_question(struct turn *turn)
{
    struct err err;
    JSON_AUTO(messages) = json_parse(turn->history, strlen(turn->history), &err);

    if (!messages)
        return;
    cJSON_DeleteItemFromArray(messages, cJSON_GetArraySize(messages) - 1);
    free(turn->history);
    turn->history = json_print(messages);
}
