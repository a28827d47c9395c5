#include "chat.h"

#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define MAX_TEXT ((size_t)256 << 20)

static bool has_role(const cJSON *message, const char *role)
{
    return !strcmp(json_str_or(message, "role", ""), role);
}

static bool is_system(const cJSON *message)
{
    return has_role(message, "system") || has_role(message, "developer");
}

/* The text of a part of a message's content: `p.text ?? ''`. */
static void put_part(struct buf *b, const cJSON *part)
{
    const cJSON *text = cJSON_IsObject(part) ? json_get(part, "text") : NULL;

    if (cJSON_IsString(part))
        (void)buf_puts(b, part->valuestring);
    else if (text)
        js_put_text(b, text);
}

static void put_content(struct buf *b, const cJSON *message)
{
    const cJSON *content = json_get(message, "content");

    if (cJSON_IsArray(content))
        for (const cJSON *part = content->child; part; part = part->next)
            put_part(b, part);
    else if (content)
        js_put_text(b, content);
}

static char *content_text(const cJSON *message)
{
    BUF_AUTO(b, BUF_MAX);

    put_content(&b, message);
    return buf_detach(&b);
}

static size_t count_words(const char *text)
{
    struct span s = span_of(text);
    size_t n = 0;

    for (; s.len > 0; n++)
        s = span_skip(s, js_word(s));
    return n;
}

/* The name the last call with this id was made under, else the message's own. */
static char *tool_name(const cJSON *messages, const cJSON *result)
{
    const cJSON *id = json_get(result, "tool_call_id"), *name = NULL;
    BUF_AUTO(b, BUF_MAX);

    for (const cJSON *m = messages->child; m && cJSON_IsString(id); m = m->next) {
        const cJSON *calls = json_get(m, "tool_calls");

        for (const cJSON *call = cJSON_IsArray(calls) ? calls->child : NULL; call;
             call = call->next)
            if (!strcmp(json_str_or(call, "id", ""), id->valuestring))
                name = json_get(json_get(call, "function"), "name");
    }
    js_put_text(&b, name ? name : json_get(result, "name"));
    return buf_detach(&b);
}

static void read_after(struct chat *chat, const cJSON *messages, const cJSON *user)
{
    for (const cJSON *m = user->next; m; m = m->next) {
        if (has_role(m, "assistant"))
            chat->step++;
        if (!has_role(m, "tool"))
            continue;
        chat->tools = xrealloc(chat->tools, (chat->n_tools + 1) * sizeof(*chat->tools));
        chat->tools[chat->n_tools++] = (struct chat_tool){tool_name(messages, m), content_text(m)};
    }
}

/* Users' texts but the last, and the system's; counts on the way. */
static void read_texts(struct chat *chat, const cJSON *messages, const cJSON *last_user)
{
    BUF_AUTO(history, BUF_MAX);
    BUF_AUTO(sys, BUF_MAX);
    bool first = true;

    for (const cJSON *m = messages->child; m; m = m->next) {
        char *text = content_text(m);

        chat->words += count_words(text);
        chat->total += !is_system(m);
        if (is_system(m)) {
            if (!first)
                (void)buf_putc(&sys, '\n');
            first = false;
            (void)buf_puts(&sys, text);
        }
        if (has_role(m, "user")) {
            if (m != last_user && chat->users > 0)
                (void)buf_putc(&history, '|');
            if (m != last_user)
                (void)buf_puts(&history, text);
            chat->users++;
        }
        free(text);
    }
    chat->history = buf_detach(&history);
    chat->system = buf_detach(&sys);
}

static void make_key(struct chat *chat, const cJSON *messages)
{
    BUF_AUTO(b, BUF_MAX);

    (void)buf_putc(&b, '[');
    for (const cJSON *m = messages->child; m; m = m->next) {
        if (has_role(m, "system"))
            continue;
        if (b.len > 1)
            (void)buf_putc(&b, ',');
        js_stringify(&b, m);
    }
    (void)buf_putc(&b, ']');
    sha1_hex(b.data, b.len, chat->key);
}

int chat_read(struct chat *chat, const cJSON *messages, struct err *err)
{
    const cJSON *last_user = NULL;

    memset(chat, 0, sizeof(*chat));
    for (const cJSON *m = messages->child; m; m = m->next) {
        if (cJSON_IsNull(m))
            return err_set(err, ERR_INVALID, "Cannot read properties of null (reading 'role')");
        if (has_role(m, "user"))
            last_user = m;
    }
    chat->script = last_user ? content_text(last_user) : xstrdup("");
    if (last_user)
        read_after(chat, messages, last_user);
    read_texts(chat, messages, last_user);
    make_key(chat, messages);
    return 0;
}

void chat_release(struct chat *chat)
{
    for (size_t i = 0; i < chat->n_tools; i++) {
        free(chat->tools[i].name);
        free(chat->tools[i].text);
    }
    free(chat->tools);
    free(chat->script);
    free(chat->history);
    free(chat->system);
    memset(chat, 0, sizeof(*chat));
}

/* The last result of the tool `name`, or of any when `name` is empty. */
static const char *last_result(const struct chat *chat, struct span name)
{
    for (size_t i = chat->n_tools; i > 0; i--) {
        const struct chat_tool *tool = &chat->tools[i - 1];

        if (name.len == 0 ||
            (strlen(tool->name) == name.len && !memcmp(tool->name, name.p, name.len)))
            return tool->text;
    }
    return "(no tool result)";
}

static bool is_key(struct span key, const char *name)
{
    return key.len == strlen(name) && !memcmp(key.p, name, key.len);
}

/* False when there is no such template: it stays as it is. */
static bool put_value(struct buf *b, const struct chat *chat, struct span key, struct span arg)
{
    if (is_key(key, "tool")) {
        (void)buf_puts(b, last_result(chat, arg));
    } else if (is_key(key, "tools")) {
        for (size_t i = 0; i < chat->n_tools; i++)
            (void)buf_printf(b, "%s%s=%s", i ? ";" : "", chat->tools[i].name, chat->tools[i].text);
    } else if (is_key(key, "n")) {
        (void)buf_printf(b, "%zu", chat->total);
    } else if (is_key(key, "users")) {
        (void)buf_printf(b, "%zu", chat->users);
    } else if (is_key(key, "history")) {
        (void)buf_puts(b, chat->history);
    } else if (is_key(key, "system")) {
        (void)buf_puts(b, chat->system);
    } else {
        return false;
    }
    return true;
}

static size_t word_chars(const char *p)
{
    return strspn(p, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_");
}

/* Length of {{key}} or {{key:arg}} at `p`, 0 when none stands there. */
static size_t template_at(const char *p, struct span *ret_key, struct span *ret_arg)
{
    const char *q;

    if (p[0] != '{' || p[1] != '{')
        return 0;
    *ret_key = (struct span){p + 2, word_chars(p + 2)};
    *ret_arg = (struct span){p, 0};
    q = ret_key->p + ret_key->len;
    if (ret_key->len > 0 && *q == ':') {
        *ret_arg = (struct span){q + 1, strcspn(q + 1, "}")};
        if (ret_arg->len == 0)
            return 0;
        q = ret_arg->p + ret_arg->len;
    }
    return ret_key->len > 0 && q[0] == '}' && q[1] == '}' ? (size_t)(q + 2 - p) : 0;
}

char *chat_expand(const struct chat *chat, const char *text)
{
    struct buf out = BUF_INIT(MAX_TEXT);

    while (*text) {
        struct span key, arg;
        size_t plain = strcspn(text, "{"), len;

        (void)buf_append(&out, text, plain);
        text += plain;
        len = template_at(text, &key, &arg);
        if (len == 0 || !put_value(&out, chat, key, arg)) {
            len = len ? len : *text != '\0';
            (void)buf_append(&out, text, len);
        }
        text += len;
    }
    return buf_detach(&out);
}

bool chat_tools_say(const struct chat *chat, const char *needle)
{
    for (size_t i = 0; i < chat->n_tools; i++)
        if (strstr(chat->tools[i].text, needle))
            return true;
    return false;
}
