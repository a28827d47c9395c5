/*
 * What a script may ask about the conversation it stands in: how far the answer to the last user
 * message has come, what the tools said, and the values of the {{templates}}.
 */
#pragma once

#include "js.h"
#include "sha1.h"

struct chat_tool {
    char *name; /* "undefined" when the conversation does not tell */
    char *text;
};

struct chat {
    char *script;            /* text of the last user message, "" without one */
    size_t step;             /* assistant messages after it */
    struct chat_tool *tools; /* tool results after it */
    size_t n_tools;
    size_t users;             /* user messages in all */
    size_t total;             /* messages but system and developer */
    size_t words;             /* what the conversation costs, in tokens as words */
    char *history;            /* earlier user texts, joined with '|' */
    char *system;             /* system texts, joined with newlines */
    char key[SHA1_HEX_BYTES]; /* names the conversation, whatever its system messages */
};

/* -1: a message is null, which the other implementation cannot read either. */
int chat_read(struct chat *chat, const cJSON *messages, struct err *err);
void chat_release(struct chat *chat);

/* `text` with its templates filled in; freed by the caller. Cut at 256 MiB. */
char *chat_expand(const struct chat *chat, const char *text);

/* Does any tool result contain `needle`? */
bool chat_tools_say(const struct chat *chat, const char *needle);
