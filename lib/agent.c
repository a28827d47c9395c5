/*
 * Tables first: which members there are (fields), and which of them fit which kind (fits). What
 * remains in code is what a table cannot say. All of it is read even after a mistake, so that the
 * author of a definition sees every mistake at once; the first -1 makes the whole definition bad.
 */
#include "agent.h"

#include "fields.h"
#include "mem.h"
#include "schema.h"

#include <ctype.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

#define SECOND_MS     1000
#define MINUTE_MS     60000
#define HOUR_MS       3600000
#define MAX_MS        (7LL * 24 * HOUR_MS)
#define MAX_NAME      128
#define MAX_TOOL_NAME 64

#define DURATION(target, key, member) FIELD(target, key, FIELD_MS, member, .min = 1, .max = MAX_MS)

/* Members that only some kinds (or tool types) know: bit 1 << kind. */
struct fit {
    const char *name;
    unsigned allowed;
    unsigned required;
};

static const char *const kinds[] = {"llm", "process", "http", "echo", NULL};
static const char *const states[] = {"server", "client", NULL};
static const char *const disconnects[] = {"abort", "continue", NULL};
static const char *const tool_errors[] = {"tell", "fail", NULL};
static const char *const busies[] = {"enqueue", "reject", "interrupt", NULL};
static const char *const providers[] = {"openai", NULL};
static const char *const types[] = {"http", "process", "state", "artifact", "interrupt", NULL};
static const char *const unknowns[] = {"retry", "ask", "fail", NULL};

/* An agent with what is still to be read. */
struct raw_agent {
    struct agent agent;
    int kind; /* -1: not known, then nothing can be said about what fits */
    const cJSON *model;
    const cJSON *tools;
    const cJSON *limits;
    const cJSON *command;
    const cJSON *env;
    const cJSON *headers;
};

static const struct field agent_fields[] = {
    FIELD(struct raw_agent, "kind", FIELD_WORD, kind, .required = true, .words = kinds),
    FIELD(struct raw_agent, "state", FIELD_WORD, agent.state_at, .words = states),
    FIELD(struct raw_agent, "description", FIELD_STR, agent.description),
    FIELD(struct raw_agent, "instructions", FIELD_STR, agent.instructions),
    FIELD(struct raw_agent, "model", FIELD_OBJECT, model),
    FIELD(struct raw_agent, "tools", FIELD_ARRAY, tools, .max = AGENT_MAX_TOOLS),
    FIELD(struct raw_agent, "limits", FIELD_OBJECT, limits),
    FIELD(struct raw_agent, "command", FIELD_ARRAY, command, .min = 1, .max = AGENT_MAX_ARGS),
    FIELD(struct raw_agent, "env", FIELD_OBJECT, env),
    FIELD(struct raw_agent, "url", FIELD_URL, agent.url),
    FIELD(struct raw_agent, "headers", FIELD_OBJECT, headers),
    DURATION(struct raw_agent, "timeout", agent.timeout_ms),
    FIELD(struct raw_agent, "on_disconnect", FIELD_WORD, agent.on_disconnect, .words = disconnects),
    FIELD(struct raw_agent, "on_tool_error", FIELD_WORD, agent.on_tool_error, .words = tool_errors),
    FIELD(struct raw_agent, "on_busy", FIELD_WORD, agent.on_busy, .words = busies),
    FIELD(struct raw_agent, "max_attempts", FIELD_INT, agent.max_attempts, .min = 1, .max = 50),
    FIELD_END,
};

#define LLM     (1u << AGENT_LLM)
#define PROCESS (1u << AGENT_PROCESS)
#define HTTP    (1u << AGENT_HTTP)

static const struct fit agent_fits[] = {
    {"instructions",  LLM,            0      },
    {"model",         LLM,            LLM    },
    {"tools",         LLM,            0      },
    {"on_tool_error", LLM,            0      },
    {"command",       PROCESS,        PROCESS},
    {"env",           PROCESS,        0      },
    {"url",           HTTP,           HTTP   },
    {"headers",       HTTP,           0      },
    {"timeout",       PROCESS | HTTP, 0      },
    {NULL,            0,              0      },
};

static const struct field limits_fields[] = {
    FIELD(struct agent, "max_steps", FIELD_INT, max_steps, .min = 1, .max = 1000),
    FIELD(struct agent, "max_output_bytes", FIELD_INT, max_output_bytes, .min = 1, .max = 64 << 20),
    DURATION(struct agent, "timeout", turn_timeout_ms),
    DURATION(struct agent, "tool_timeout", tool_timeout_ms),
    FIELD_END,
};

static const struct fit limits_fits[] = {
    {"max_steps",    LLM, 0},
    {"tool_timeout", LLM, 0},
    {NULL,           0,   0},
};

struct raw_model {
    struct agent_model model;
    const cJSON *options;
    const cJSON *timeouts;
};

static const struct field model_fields[] = {
    FIELD(struct raw_model, "provider", FIELD_WORD, model.provider, .required = true,
          .words = providers),
    FIELD(struct raw_model, "base_url", FIELD_URL, model.base_url, .required = true),
    FIELD(struct raw_model, "name", FIELD_STR, model.name, .required = true, .min = 1, .max = 256),
    FIELD(struct raw_model, "api_key_env", FIELD_STR, model.api_key_env),
    FIELD(struct raw_model, "options", FIELD_OBJECT, options),
    FIELD(struct raw_model, "timeouts", FIELD_OBJECT, timeouts),
    FIELD(struct raw_model, "retries", FIELD_INT, model.retries, .min = 0, .max = 20),
    FIELD_END,
};

static const struct field timeouts_fields[] = {
    DURATION(struct agent_model, "connect", connect_ms),
    DURATION(struct agent_model, "first_byte", first_byte_ms),
    DURATION(struct agent_model, "idle", idle_ms),
    DURATION(struct agent_model, "total", total_ms),
    FIELD_END,
};

/* Members of the request to the model that the worker writes itself. */
static const char *const own_options[] = {"model",          "messages", "stream",
                                          "stream_options", "tools",    "n"};

struct raw_tool {
    struct agent_tool tool;
    int type;       /* -1: not known */
    int on_unknown; /* -1: not given */
    const cJSON *parameters;
    const cJSON *headers;
    const cJSON *command;
    const cJSON *env;
};

static const struct field tool_fields[] = {
    FIELD(struct raw_tool, "type", FIELD_WORD, type, .required = true, .words = types),
    FIELD(struct raw_tool, "name", FIELD_STR, tool.name, .required = true),
    FIELD(struct raw_tool, "description", FIELD_STR, tool.description),
    FIELD(struct raw_tool, "parameters", FIELD_OBJECT, parameters),
    FIELD(struct raw_tool, "url", FIELD_URL, tool.url),
    FIELD(struct raw_tool, "headers", FIELD_OBJECT, headers),
    FIELD(struct raw_tool, "command", FIELD_ARRAY, command, .min = 1, .max = AGENT_MAX_ARGS),
    FIELD(struct raw_tool, "env", FIELD_OBJECT, env),
    DURATION(struct raw_tool, "timeout", tool.timeout_ms),
    FIELD(struct raw_tool, "max_result_bytes", FIELD_INT, tool.max_result_bytes, .min = 1,
          .max = 16 << 20),
    FIELD(struct raw_tool, "idempotent", FIELD_BOOL, tool.idempotent),
    FIELD(struct raw_tool, "on_unknown", FIELD_WORD, on_unknown, .words = unknowns),
    FIELD(struct raw_tool, "confirm", FIELD_BOOL, tool.confirm),
    FIELD_END,
};

#define T_HTTP    (1u << TOOL_HTTP)
#define T_PROCESS (1u << TOOL_PROCESS)
#define T_OUTSIDE (T_HTTP | T_PROCESS)

static const struct fit tool_fits[] = {
    {"url",              T_HTTP,    T_HTTP   },
    {"headers",          T_HTTP,    0        },
    {"command",          T_PROCESS, T_PROCESS},
    {"env",              T_PROCESS, 0        },
    {"timeout",          T_OUTSIDE, 0        },
    {"max_result_bytes", T_OUTSIDE, 0        },
    {"idempotent",       T_OUTSIDE, 0        },
    {"on_unknown",       T_OUTSIDE, 0        },
    {"confirm",          T_OUTSIDE, 0        },
    {NULL,               0,         0        },
};

static const char any_parameters[] = "{\"type\":\"object\"}";
static const char artifact_parameters[] =
    "{\"type\":\"object\",\"properties\":{\"name\":{\"type\":\"string\"},"
    "\"text\":{\"type\":\"string\"}},\"required\":[\"name\",\"text\"],"
    "\"additionalProperties\":false}";

/* `what` is "kind" or "type", `word` the one that `bit` stands for. */
static int check_fits(const cJSON *obj, const struct pointer *at, const struct fit *fits,
                      unsigned bit, const char *what, const char *word,
                      struct problem_list *problems)
{
    int rc = 0;

    for (; fits->name; fits++) {
        bool given = json_get(obj, fits->name) != NULL;

        if (given && !(fits->allowed & bit))
            rc = problem_add(problems, POINTER_KEY(at, fits->name), "is not allowed with %s \"%s\"",
                             what, word);
        else if (!given && (fits->required & bit))
            rc = problem_add(problems, POINTER_KEY(at, fits->name), "is required with %s \"%s\"",
                             what, word);
    }
    return rc;
}

/* argv with NULL at its end. `array` NULL: leaves `ret_argv` as it is. */
static int read_command(const cJSON *array, const struct pointer *up, const char ***ret_argv,
                        struct problem_list *problems)
{
    const struct pointer *at = POINTER_KEY(up, "command");
    const cJSON *item;
    size_t n = 0;
    int rc = 0;

    if (!array)
        return 0;
    *ret_argv = xcalloc((size_t)cJSON_GetArraySize(array) + 1, sizeof(**ret_argv));
    cJSON_ArrayForEach (item, array) {
        if (!cJSON_IsString(item))
            rc = problem_add(problems, POINTER_INDEX(at, n), "must be a string");
        else if (n == 0 && !*item->valuestring)
            rc = problem_add(problems, POINTER_INDEX(at, n), "must not be empty");
        (*ret_argv)[n++] = item->valuestring;
    }
    return rc;
}

/* NULL, or what is wrong with an environment variable. */
static const char *env_fault(const char *name, const char *value)
{
    (void)value; /* text without NUL, which JSON of ours cannot hold */
    if (!fields_is_env_name(name))
        return "must be the name of an environment variable: letters, digits and _";
    return strncmp(name, "NOCTURNE_", 9) ? NULL
                                         : "must not start with NOCTURNE_, which is reserved";
}

static bool is_header_name(const char *name)
{
    static const char others[] = "!#$%&'*+-.^_`|~"; /* RFC 9110, 5.6.2 */

    if (!*name || strlen(name) > MAX_NAME)
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && !strchr(others, *name))
            return false;
    return true;
}

/* Is each ${...} in `text` the name of a variable? */
static bool has_good_references(const char *text)
{
    char name[MAX_NAME + 1];
    size_t len;

    while ((text = strstr(text, "${"))) {
        text += 2;
        len = strcspn(text, "}");
        if (!text[len] || len >= sizeof(name))
            return false;
        memcpy(name, text, len);
        name[len] = '\0';
        if (!fields_is_env_name(name))
            return false;
    }
    return true;
}

static const char *header_fault(const char *name, const char *value)
{
    static const char *const framing[] = {"content-length", "transfer-encoding", "connection"};

    if (!is_header_name(name))
        return "must be the name of an HTTP header";
    for (size_t i = 0; i < sizeof(framing) / sizeof(*framing); i++)
        if (!strcasecmp(name, framing[i]))
            return "is set by the worker itself";
    for (const char *p = value; *p; p++)
        if (((unsigned char)*p < ' ' && *p != '\t') || *p == 0x7f)
            return "must not have control characters such as line ends";
    return has_good_references(value) ? NULL : "must name environment variables as ${NAME}";
}

static bool has_name(const struct agent_pairs *pairs, const char *name,
                     int (*compare)(const char *, const char *))
{
    for (size_t i = 0; i < pairs->n; i++)
        if (!compare(pairs->items[i].name, name))
            return true;
    return false;
}

/* {name: text} into `pairs`; `obj` NULL: none. `compare` says which names are the same. */
static int read_pairs(const cJSON *obj, const struct pointer *at, struct agent_pairs *pairs,
                      const char *(*fault)(const char *name, const char *value),
                      int (*compare)(const char *, const char *), struct problem_list *problems)
{
    const char *why;
    const cJSON *item;
    int rc = 0;

    if (obj && cJSON_GetArraySize(obj) > AGENT_MAX_PAIRS)
        return problem_add(problems, at, "must have at most %d members", AGENT_MAX_PAIRS);
    if (obj)
        pairs->items = xcalloc(AGENT_MAX_PAIRS, sizeof(*pairs->items));
    cJSON_ArrayForEach (item, obj) {
        if (!cJSON_IsString(item))
            why = "must be a string";
        else if (has_name(pairs, item->string, compare))
            why = "is given twice";
        else
            why = fault(item->string, item->valuestring);
        if (why)
            rc = problem_add(problems, POINTER_KEY(at, item->string), "%s", why);
        else
            pairs->items[pairs->n++] = (struct agent_pair){item->string, item->valuestring};
    }
    return rc;
}

static int read_env(const cJSON *obj, const struct pointer *up, struct agent_pairs *env,
                    struct problem_list *problems)
{
    return read_pairs(obj, POINTER_KEY(up, "env"), env, env_fault, strcmp, problems);
}

static int read_headers(const cJSON *obj, const struct pointer *up, struct agent_pairs *headers,
                        struct problem_list *problems)
{
    return read_pairs(obj, POINTER_KEY(up, "headers"), headers, header_fault, strcasecmp, problems);
}

static int read_limits(const struct raw_agent *raw, struct agent *agent,
                       struct problem_list *problems)
{
    const struct pointer *at = POINTER_KEY(NULL, "limits");
    int rc;

    if (!raw->limits)
        return 0;
    rc = fields_read(raw->limits, at, limits_fields, agent, problems);
    if (raw->kind >= 0)
        rc |= check_fits(raw->limits, at, limits_fits, 1u << raw->kind, "kind", kinds[raw->kind],
                         problems);
    return rc;
}

static int read_options(const cJSON *options, const struct pointer *up, char **ret_text,
                        struct problem_list *problems)
{
    const struct pointer *at = POINTER_KEY(up, "options");
    int rc = 0;

    if (!options)
        return 0;
    for (size_t i = 0; i < sizeof(own_options) / sizeof(*own_options); i++)
        if (cJSON_GetObjectItemCaseSensitive(options, own_options[i]))
            rc = problem_add(problems, POINTER_KEY(at, own_options[i]),
                             "is set by the worker itself");
    *ret_text = json_print(options);
    return rc;
}

static int check_base_url(const cJSON *model, const struct pointer *up,
                          struct problem_list *problems)
{
    char *url = json_get(model, "base_url")->valuestring;
    size_t len = strlen(url);

    if (strchr(url, '?'))
        return problem_add(problems, POINTER_KEY(up, "base_url"), "must be without a query");
    while (url[len - 1] == '/')
        url[--len] = '\0';
    return 0;
}

static int read_model(const cJSON *model, struct agent_model *ret_model,
                      struct problem_list *problems)
{
    const struct pointer *at = POINTER_KEY(NULL, "model");
    struct raw_model raw = {
        .model = {.connect_ms = 10 * SECOND_MS,
                  .first_byte_ms = 60 * SECOND_MS,
                  .idle_ms = 120 * SECOND_MS,
                  .total_ms = 30 * MINUTE_MS,
                  .retries = 5}
    };
    int rc;

    if (!model)
        return 0;
    rc = fields_read(model, at, model_fields, &raw, problems);
    if (raw.model.base_url)
        rc |= check_base_url(model, at, problems);
    if (raw.model.api_key_env && !fields_is_env_name(raw.model.api_key_env))
        rc = problem_add(problems, POINTER_KEY(at, "api_key_env"),
                         "must be the name of an environment variable, never the key itself");
    rc |= read_options(raw.options, at, &raw.model.options, problems);
    if (raw.timeouts)
        rc |= fields_read(raw.timeouts, POINTER_KEY(at, "timeouts"), timeouts_fields, &raw.model,
                          problems);
    *ret_model = raw.model;
    return rc;
}

static bool requires_string(const cJSON *schema, const char *name)
{
    const cJSON *property = json_get(json_get(schema, "properties"), name);
    const cJSON *required;

    if (strcmp(json_str_or(property, "type", ""), "string") != 0)
        return false;
    cJSON_ArrayForEach (required, json_get(schema, "required")) {
        if (cJSON_IsString(required) && !strcmp(required->valuestring, name))
            return true;
    }
    return false;
}

static int check_parameters(const struct raw_tool *raw, const struct pointer *up,
                            struct problem_list *problems)
{
    const struct pointer *at = POINTER_KEY(up, "parameters");

    if (schema_lint(raw->parameters, at, problems) < 0)
        return -1;
    if (strcmp(json_str_or(raw->parameters, "type", ""), "object") != 0)
        return problem_add(problems, POINTER_KEY(at, "type"),
                           "must be \"object\": arguments are an object");
    if (raw->type == TOOL_ARTIFACT &&
        (!requires_string(raw->parameters, "name") || !requires_string(raw->parameters, "text")))
        return problem_add(problems, at, "must require the strings \"name\" and \"text\"");
    return 0;
}

/* The schema the tool's arguments must satisfy; `item` is the tool in the document. */
static int read_parameters(struct raw_tool *raw, cJSON *item, const struct pointer *at,
                           struct problem_list *problems)
{
    const char *text = raw->type == TOOL_ARTIFACT ? artifact_parameters : any_parameters;
    struct err err;
    cJSON *schema;

    if (!raw->parameters) {
        schema = json_parse(text, strlen(text), &err);
        cJSON_AddItemToObject(item, "parameters", schema); /* so that it lives as long */
        raw->parameters = schema;
    } else if (check_parameters(raw, at, problems) < 0) {
        return -1;
    }
    raw->tool.schema = raw->parameters;
    raw->tool.parameters = json_print(raw->parameters);
    return 0;
}

static bool tool_name_is_valid(const char *name)
{
    size_t len = strlen(name);

    if (len == 0 || len > MAX_TOOL_NAME)
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && *name != '_' && *name != '-')
            return false;
    return true;
}

static int check_tool_name(const struct agent *agent, const char *name, const struct pointer *up,
                           struct problem_list *problems)
{
    if (!tool_name_is_valid(name))
        return problem_add(problems, POINTER_KEY(up, "name"),
                           "must be 1 to %d letters, digits, _ or -", MAX_TOOL_NAME);
    if (agent_find_tool(agent, name))
        return problem_add(problems, POINTER_KEY(up, "name"), "is the name of another tool");
    return 0;
}

static int read_tool(struct agent *agent, cJSON *item, const struct pointer *at,
                     struct problem_list *problems)
{
    struct raw_tool raw = {
        .type = -1,
        .on_unknown = -1,
        .tool = {
                 .description = "", .timeout_ms = agent->tool_timeout_ms, .max_result_bytes = 1 << 20}
    };
    struct agent_tool *tool = &raw.tool;
    int rc = fields_read(item, at, tool_fields, &raw, problems);

    if (!cJSON_IsObject(item)) {
        agent->n_tools++; /* the places of the others stay right */
        return -1;
    }
    if (raw.type >= 0) {
        tool->type = (enum tool_type)raw.type;
        rc |= check_fits(item, at, tool_fits, 1u << raw.type, "type", types[raw.type], problems);
    }
    if (tool->name)
        rc |= check_tool_name(agent, tool->name, at, problems);
    rc |= read_parameters(&raw, item, at, problems);
    rc |= read_headers(raw.headers, at, &tool->headers, problems);
    rc |= read_command(raw.command, at, &tool->command, problems);
    rc |= read_env(raw.env, at, &tool->env, problems);
    if (raw.on_unknown >= 0)
        tool->on_unknown = (enum tool_unknown)raw.on_unknown;
    else
        tool->on_unknown = tool->idempotent ? TOOL_UNKNOWN_RETRY : TOOL_UNKNOWN_FAIL;
    agent->tools[agent->n_tools++] = raw.tool;
    return rc;
}

static int read_tools(struct agent *agent, const cJSON *tools, struct problem_list *problems)
{
    const struct pointer *at = POINTER_KEY(NULL, "tools");
    cJSON *item;
    int rc = 0;

    if (!tools)
        return 0;
    agent->tools = xcalloc((size_t)cJSON_GetArraySize(tools) + 1, sizeof(*agent->tools));
    cJSON_ArrayForEach (item, tools) {
        const struct pointer *here = POINTER_INDEX(at, agent->n_tools);

        rc |= read_tool(agent, item, here, problems);
    }
    return rc;
}

/* How long the one call of a process or http agent may take. */
static int read_timeout(const cJSON *doc, struct agent *agent, struct problem_list *problems)
{
    if (!json_get(doc, "timeout"))
        agent->timeout_ms = agent->turn_timeout_ms;
    if (agent->timeout_ms > agent->turn_timeout_ms)
        return problem_add(problems, POINTER_KEY(NULL, "timeout"),
                           "must not be above limits.timeout (1h when not given)");
    return 0;
}

static int read_agent(struct agent *agent, cJSON *doc, struct problem_list *problems)
{
    struct raw_agent raw = {
        .kind = -1,
        .agent = {.description = "",
                  .max_steps = 20,
                  .max_output_bytes = 8 << 20,
                  .turn_timeout_ms = HOUR_MS,
                  .tool_timeout_ms = 60 * SECOND_MS,
                  .max_attempts = 3,
                  .doc = doc}
    };
    int rc = fields_read(doc, NULL, agent_fields, &raw, problems);

    *agent = raw.agent;
    if (raw.kind >= 0) {
        agent->kind = (enum agent_kind)raw.kind;
        rc |= check_fits(doc, NULL, agent_fits, 1u << raw.kind, "kind", kinds[raw.kind], problems);
    }
    rc |= read_limits(&raw, agent, problems); /* before the tools, which take time-outs from it */
    rc |= read_timeout(doc, agent, problems);
    rc |= read_model(raw.model, &agent->model, problems);
    rc |= read_command(raw.command, NULL, &agent->command, problems);
    rc |= read_env(raw.env, NULL, &agent->env, problems);
    rc |= read_headers(raw.headers, NULL, &agent->headers, problems);
    rc |= read_tools(agent, raw.tools, problems);
    return rc;
}

struct agent *agent_parse(const char *text, size_t len, struct problem_list *problems)
{
    struct agent *agent;
    struct err err;
    cJSON *doc;

    if (len > AGENT_MAX_BYTES) {
        problem_add(problems, NULL, "must have at most %d bytes", AGENT_MAX_BYTES);
        return NULL;
    }
    doc = json_parse(text, len, &err);
    if (!doc) {
        problem_add(problems, NULL, "must be a JSON object: %s", err.msg);
        return NULL;
    }
    agent = xcalloc(1, sizeof(*agent));
    if (read_agent(agent, doc, problems) == 0)
        return agent;
    agent_free(agent);
    return NULL;
}

void agent_free(struct agent *agent)
{
    if (!agent)
        return;
    for (size_t i = 0; i < agent->n_tools; i++) {
        free(agent->tools[i].parameters);
        free(agent->tools[i].headers.items);
        free(agent->tools[i].command);
        free(agent->tools[i].env.items);
    }
    free(agent->tools);
    free(agent->model.options);
    free(agent->command);
    free(agent->env.items);
    free(agent->headers.items);
    cJSON_Delete(agent->doc);
    free(agent);
}

const struct agent_tool *agent_find_tool(const struct agent *agent, const char *name)
{
    for (size_t i = 0; i < agent->n_tools; i++)
        if (agent->tools[i].name && !strcmp(agent->tools[i].name, name))
            return &agent->tools[i];
    return NULL;
}

bool agent_name_is_valid(const char *name)
{
    size_t len = strlen(name);

    if (len > MAX_NAME || !isalnum((unsigned char)*name))
        return false;
    for (; *name; name++)
        if (!isalnum((unsigned char)*name) && !strchr("_.-", *name))
            return false;
    return true;
}

const char *agent_kind_name(enum agent_kind kind)
{
    return kinds[kind];
}

const char *tool_type_name(enum tool_type type)
{
    return types[type];
}
