/*
 * Agent definitions: JSON text -> struct agent, with every mistake reported by its place.
 *
 * Unknown members are refused at every level (but inside model.options and parameters, which go
 * to the model), and so are members that the kind or type would ignore. null counts as absent.
 * Durations are strings such as "30s", from 1ms to 7d; sizes are whole numbers of bytes.
 *
 *   agent         kinds         value (default)
 *   kind          all           llm | process | http | echo, required
 *   state         all           server | client (server): who keeps the session's state
 *   description   all           text
 *   instructions  llm           text: the system message
 *   model         llm, required see below
 *   tools         llm           array of up to 128 tools, names unique
 *   command       process, req. argv, 1..64 strings, the first not empty; a relative path is
 *                               resolved against the worker's working directory
 *   env           process       {NAME: text}, up to 64; NOCTURNE_* is ours and refused
 *   url           http, req.    http or https, without user or fragment
 *   headers       http          {name: text}, up to 64; ${NAME} in a value is replaced from the
 *                               worker's environment at call time
 *   timeout       process, http duration of the one call (limits.timeout), not above it
 *   limits        all           see below
 *   on_disconnect all           abort | continue (abort): what a client that leaves its stream
 * means max_attempts  all           1..50 (3)
 *   on_tool_error llm           tell | fail (tell): what a tool call that failed means. tell: the
 *                               model reads about it and goes on; fail: the turn fails, as it does
 *                               beyond limits.max_steps then
 *   on_busy       all           enqueue | reject | interrupt (enqueue): what becomes of a turn by
 *                               session id on the Genkit wire while another one is running
 *
 *   model: provider  "openai", required
 *     base_url       required; http or https, without query; slashes at its end are dropped
 *     name           required, 1..256 bytes
 *     api_key_env    name of the environment variable that holds the key; never a key
 *     options        object merged into each request; model, messages, stream, stream_options,
 *                    tools and n are ours and refused
 *     timeouts       {connect (10s), first_byte (60s), idle (120s), total (30m)}
 *     retries        0..20 (5): of one model call
 *
 *   limits: max_steps    llm  1..1000 (20)
 *     tool_timeout       llm  duration (60s): of a tool call, where the tool has none
 *     max_output_bytes   all  1..67108864 (8388608): of the answer of a turn
 *     timeout            all  duration (1h): of a whole turn
 *
 *   tool: type      http | process | state | artifact | interrupt, required
 *     name          required, [A-Za-z0-9_-]{1,64}
 *     description   text
 *     parameters    JSON Schema of lib/schema.h, at the top {"type": "object"} (which is the
 *                   default); of an artifact it must require the strings `name` and `text`
 *                   (default: these two and no other)
 *     url, headers  http; as above, url required
 *     command, env  process; as above, command required
 *   and for http and process alone, as the others have no outside effect:
 *     timeout           duration (limits.tool_timeout)
 *     max_result_bytes  1..16777216 (1048576)
 *     idempotent        boolean (false): calling it twice with the same key does no harm
 *     on_unknown        retry | ask | fail (retry when idempotent, else fail): what to do with a
 *                       call whose outcome was lost
 *     confirm           boolean (false): a person is asked before it runs
 *
 * What the types do: `state` merges its arguments shallowly into the session's custom state
 * (patch_merge_shallow()), `artifact` saves {name, text}, `interrupt` ends the turn with a
 * question.
 */
#pragma once

#include "json.h"
#include "problem.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_MAX_BYTES (1 << 20) /* of the JSON text */
#define AGENT_MAX_TOOLS 128
#define AGENT_MAX_PAIRS 64
#define AGENT_MAX_ARGS  64

enum agent_kind { AGENT_LLM, AGENT_PROCESS, AGENT_HTTP, AGENT_ECHO };
enum agent_state { AGENT_STATE_SERVER, AGENT_STATE_CLIENT };
enum agent_disconnect { AGENT_DISCONNECT_ABORT, AGENT_DISCONNECT_CONTINUE };
enum agent_tool_error { AGENT_TOOL_ERROR_TELL, AGENT_TOOL_ERROR_FAIL };
enum agent_busy { AGENT_BUSY_ENQUEUE, AGENT_BUSY_REJECT, AGENT_BUSY_INTERRUPT };
enum agent_provider { AGENT_PROVIDER_OPENAI };
enum tool_type { TOOL_HTTP, TOOL_PROCESS, TOOL_STATE, TOOL_ARTIFACT, TOOL_INTERRUPT };
enum tool_unknown { TOOL_UNKNOWN_RETRY, TOOL_UNKNOWN_ASK, TOOL_UNKNOWN_FAIL };

struct agent_pair {
    const char *name;
    const char *value;
};

/* A list of headers or of environment variables. */
struct agent_pairs {
    struct agent_pair *items;
    size_t n;
};

struct agent_model {
    enum agent_provider provider;
    const char *base_url; /* no '/' at its end */
    const char *name;
    const char *api_key_env; /* NULL: no key is sent */
    char *options;           /* JSON text of an object, or NULL */
    uint64_t connect_ms;
    uint64_t first_byte_ms;
    uint64_t idle_ms;
    uint64_t total_ms;
    int64_t retries;
};

struct agent_tool {
    enum tool_type type;
    const char *name;
    const char *description; /* "" when not given */
    char *parameters;        /* JSON text, for the model */
    const cJSON *schema;     /* the same, for schema_check() */
    const char *url;         /* http */
    struct agent_pairs headers;
    const char **command; /* process: argv, ends with NULL */
    struct agent_pairs env;
    uint64_t timeout_ms;
    int64_t max_result_bytes;
    bool idempotent;
    bool confirm;
    enum tool_unknown on_unknown;
};

struct agent {
    enum agent_kind kind;
    enum agent_state state_at;
    const char *description;  /* "" when not given */
    const char *instructions; /* NULL when not given */
    struct agent_model model; /* llm */
    struct agent_tool *tools;
    size_t n_tools;
    const char **command; /* process: argv, ends with NULL */
    struct agent_pairs env;
    const char *url; /* http */
    struct agent_pairs headers;
    uint64_t timeout_ms; /* process, http: of the one call */
    int64_t max_steps;
    int64_t max_output_bytes;
    uint64_t turn_timeout_ms;
    uint64_t tool_timeout_ms;
    enum agent_disconnect on_disconnect;
    enum agent_tool_error on_tool_error;
    enum agent_busy on_busy;
    int64_t max_attempts;
    cJSON *doc; /* private: holds the strings and schemas that the fields point to */
};

/* NULL with at least one problem, or the agent, all defaults filled in; agent_free() it. */
struct agent *agent_parse(const char *text, size_t len, struct problem_list *problems);
void agent_free(struct agent *agent); /* NULL is fine */

/* The tool called `name`, or NULL. */
const struct agent_tool *agent_find_tool(const struct agent *agent, const char *name);

bool agent_name_is_valid(const char *name); /* [A-Za-z0-9][A-Za-z0-9_.-]{0,127} */
const char *agent_kind_name(enum agent_kind kind);
const char *tool_type_name(enum tool_type type);
