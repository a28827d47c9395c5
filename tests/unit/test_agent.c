#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "agent.h"
#include "schema.h"

#include <stdio.h>
#include <string.h>

/* Definitions are written with ' for " so that they can be read. */
static void put_quoted(struct buf *out, const char *text)
{
    size_t from = out->len;

    assert_int_equal(buf_puts(out, text), 0);
    for (size_t i = from; i < out->len; i++)
        if (out->data[i] == '\'')
            out->data[i] = '"';
}

static struct agent *parse(const char *text, struct problem_list *problems)
{
    BUF_AUTO(json, 2 * AGENT_MAX_BYTES);

    put_quoted(&json, text);
    return agent_parse(json.data, json.len, problems);
}

static struct agent *parse_good(const char *text)
{
    PROBLEMS_AUTO(problems);
    struct agent *agent = parse(text, &problems);

    if (!agent)
        fail_msg("%s: %s: %s", text, problems.items[0].pointer, problems.items[0].detail);
    assert_int_equal(problems.n, 0);
    return agent;
}

#define MODEL "'model':{'provider':'openai','base_url':'http://h/v1','name':'m'}"
#define LLM   "{'kind':'llm'," MODEL

static void fills_in_the_defaults(void **state)
{
    struct agent *agent = parse_good(LLM "}");

    (void)state;
    assert_int_equal(agent->kind, AGENT_LLM);
    assert_int_equal(agent->state_at, AGENT_STATE_SERVER);
    assert_string_equal(agent->description, "");
    assert_null(agent->instructions);
    assert_int_equal(agent->model.provider, AGENT_PROVIDER_OPENAI);
    assert_string_equal(agent->model.base_url, "http://h/v1");
    assert_string_equal(agent->model.name, "m");
    assert_null(agent->model.api_key_env);
    assert_null(agent->model.options);
    assert_int_equal(agent->model.connect_ms, 10000);
    assert_int_equal(agent->model.first_byte_ms, 60000);
    assert_int_equal(agent->model.idle_ms, 120000);
    assert_int_equal(agent->model.total_ms, 1800000);
    assert_int_equal(agent->model.retries, 5);
    assert_int_equal(agent->n_tools, 0);
    assert_int_equal(agent->max_steps, 20);
    assert_int_equal(agent->max_output_bytes, 8388608);
    assert_int_equal(agent->turn_timeout_ms, 3600000);
    assert_int_equal(agent->tool_timeout_ms, 60000);
    assert_int_equal(agent->on_disconnect, AGENT_DISCONNECT_ABORT);
    assert_int_equal(agent->max_attempts, 3);
    assert_null(agent_find_tool(agent, "any"));
    agent_free(agent);
}

static void reads_each_member_of_an_llm_agent(void **state)
{
    struct agent *agent = parse_good(
        "{'kind':'llm','state':'client','description':'d','instructions':'i','model':{'provider':"
        "'openai','base_url':'https://h/v1//','name':'m','api_key_env':'KEY','options':"
        "{'temperature':0.2,'stop':['x']},'timeouts':{'connect':'1s','first_byte':'2s','idle':'3s',"
        "'total':'4m'},'retries':0},'limits':{'max_steps':1000,'max_output_bytes':1,'timeout':'7d',"
        "'tool_timeout':'1ms'},'on_disconnect':'continue','max_attempts':50,'tools':[]}");

    (void)state;
    assert_int_equal(agent->state_at, AGENT_STATE_CLIENT);
    assert_string_equal(agent->description, "d");
    assert_string_equal(agent->instructions, "i");
    assert_string_equal(agent->model.base_url, "https://h/v1");
    assert_string_equal(agent->model.api_key_env, "KEY");
    assert_string_equal(agent->model.options, "{\"temperature\":0.2,\"stop\":[\"x\"]}");
    assert_int_equal(agent->model.connect_ms, 1000);
    assert_int_equal(agent->model.first_byte_ms, 2000);
    assert_int_equal(agent->model.idle_ms, 3000);
    assert_int_equal(agent->model.total_ms, 240000);
    assert_int_equal(agent->model.retries, 0);
    assert_int_equal(agent->max_steps, 1000);
    assert_int_equal(agent->max_output_bytes, 1);
    assert_int_equal(agent->turn_timeout_ms, 604800000);
    assert_int_equal(agent->tool_timeout_ms, 1);
    assert_int_equal(agent->on_disconnect, AGENT_DISCONNECT_CONTINUE);
    assert_int_equal(agent->max_attempts, 50);
    agent_free(agent);
}

static void reads_process_http_and_echo_agents(void **state)
{
    struct agent *agent =
        parse_good("{'kind':'process','command':['./run','','-x'],'env':{'A':'1','B':''},"
                   "'timeout':'5s','limits':{'timeout':'10s'}}");

    (void)state;
    assert_int_equal(agent->kind, AGENT_PROCESS);
    assert_string_equal(agent->command[0], "./run");
    assert_string_equal(agent->command[1], "");
    assert_string_equal(agent->command[2], "-x");
    assert_null(agent->command[3]);
    assert_int_equal(agent->env.n, 2);
    assert_string_equal(agent->env.items[1].name, "B");
    assert_string_equal(agent->env.items[1].value, "");
    assert_int_equal(agent->timeout_ms, 5000);
    agent_free(agent);

    agent = parse_good("{'kind':'http','url':'https://h:8443/x?y=1','limits':{'timeout':'10s'},"
                       "'headers':{'Authorization':'Bearer ${TOKEN}','X-A':'$1 {x}'}}");
    assert_int_equal(agent->kind, AGENT_HTTP);
    assert_string_equal(agent->url, "https://h:8443/x?y=1");
    assert_int_equal(agent->headers.n, 2);
    assert_string_equal(agent->headers.items[0].value, "Bearer ${TOKEN}");
    assert_int_equal(agent->timeout_ms, 10000); /* that of the turn */
    agent_free(agent);

    agent = parse_good("{'kind':'echo','model':null,'description':null}");
    assert_int_equal(agent->kind, AGENT_ECHO);
    assert_string_equal(agent->description, "");
    agent_free(agent);
}

static void reads_each_member_of_outside_tools(void **state)
{
    struct agent *agent = parse_good(
        LLM ",'limits':{'tool_timeout':'7s'},'tools':["
            "{'type':'process','name':'a','description':'d','parameters':{'type':'object',"
            "'properties':{'n':{'type':'integer','maximum':12345678901234}}},'command':['x'],"
            "'env':{'A':'b'},'timeout':'2s','max_result_bytes':5,'idempotent':true,"
            "'confirm':true},"
            "{'type':'http','name':'b-B_9','url':'http://h/','headers':{'X':'y'}},"
            "{'type':'http','name':'c','url':'http://h/','idempotent':true,'on_unknown':'ask'}]}");
    const struct agent_tool *a = agent_find_tool(agent, "a"), *b = agent_find_tool(agent, "b-B_9"),
                            *c = agent_find_tool(agent, "c");

    (void)state;
    assert_int_equal(agent->n_tools, 3);
    assert_int_equal(a->type, TOOL_PROCESS);
    assert_string_equal(a->description, "d");
    assert_string_equal(a->parameters, "{\"type\":\"object\",\"properties\":{\"n\":{\"type\":"
                                       "\"integer\",\"maximum\":12345678901234}}}");
    assert_string_equal(a->command[0], "x");
    assert_null(a->command[1]);
    assert_string_equal(a->env.items[0].value, "b");
    assert_int_equal(a->timeout_ms, 2000);
    assert_int_equal(a->max_result_bytes, 5);
    assert_true(a->idempotent);
    assert_true(a->confirm);
    assert_int_equal(a->on_unknown, TOOL_UNKNOWN_RETRY);
    assert_int_equal(b->type, TOOL_HTTP);
    assert_string_equal(b->url, "http://h/");
    assert_string_equal(b->headers.items[0].name, "X");
    assert_int_equal(b->timeout_ms, 7000);
    assert_int_equal(b->max_result_bytes, 1048576);
    assert_false(b->idempotent);
    assert_false(b->confirm);
    assert_int_equal(b->on_unknown, TOOL_UNKNOWN_FAIL);
    assert_string_equal(b->parameters, "{\"type\":\"object\"}");
    assert_int_equal(c->on_unknown, TOOL_UNKNOWN_ASK);
    assert_null(agent_find_tool(agent, "A"));
    agent_free(agent);
}

static void gives_inner_tools_their_schemas(void **state)
{
    struct agent *agent =
        parse_good(LLM ",'tools':[{'type':'artifact','name':'save'},{'type':'state','name':'set'},"
                       "{'type':'interrupt','name':'ask','parameters':{'type':'object',"
                       "'required':['question']}},{'type':'artifact','name':'save2',"
                       "'parameters':{'type':'object','properties':{'name':{'type':'string'},"
                       "'text':{'type':'string'},'kind':{}},'required':['text','name','kind']}}]}");
    const struct agent_tool *save = agent_find_tool(agent, "save");
    const struct agent_tool *ask = agent_find_tool(agent, "ask");
    PROBLEMS_AUTO(problems);
    struct err err;
    JSON_AUTO(good) = json_parse("{\"name\":\"a\",\"text\":\"\"}", 22, &err);
    JSON_AUTO(bad) = json_parse("{\"name\":\"a\"}", 12, &err);

    (void)state;
    assert_int_equal(schema_check(save->schema, good, NULL, &problems), 0);
    assert_int_equal(schema_check(save->schema, bad, NULL, &problems), -1);
    assert_string_equal(problems.items[0].pointer, "/text");
    assert_int_equal(schema_check(ask->schema, good, NULL, &problems), -1);
    assert_string_equal(problems.items[1].pointer, "/question");
    assert_string_equal(agent_find_tool(agent, "set")->parameters, "{\"type\":\"object\"}");
    agent_free(agent);
}

struct bad_case {
    const char *text;
    const char *pointer;
    const char *detail; /* a part of it */
};

#define TOOL(rest)   LLM ",'tools':[{'type':'process','name':'t','command':['x']," rest "}]}"
#define HTTP_T(rest) LLM ",'tools':[{'type':'http','name':'t','url':'http://h'," rest "}]}"
#define TOOLS(rest)  LLM ",'tools':[" rest "]}"
#define MODEL_W(rest)                                                                              \
    "{'kind':'llm','model':{'provider':'openai','base_url':'http://h','name':'m'," rest "}}"
#define HTTP_A(rest) "{'kind':'http','url':'http://h'," rest "}"
#define PROC_A(rest) "{'kind':'process','command':['x']," rest "}"

/* Each has exactly one mistake. */
static const struct bad_case bad_cases[] = {
  /* the document */
    {"",                                                                                     "",                              "must be a JSON object: not JSON"                        },
    {"{'kind':'echo'",                                                                       "",                              "not JSON"                                               },
    {"{'kind':'echo'} {}",                                                                   "",                              "more than one JSON value"                               },
    {"{'kind':'echo','description':'\\u0000'}",                                              "",                              "\\u0000"                                                },
    {"{'kind':'echo','description':'\xff'}",                                                 "",                              "not UTF-8"                                              },
    {"[]",                                                                                   "",                              "must be an object"                                      },
    {"'llm'",                                                                                "",                              "must be an object"                                      },
    {"null",                                                                                 "",                              "must be an object"                                      },
 /* the agent */
    {"{}",                                                                                   "/kind",                         "is required"                                            },
    {"{'kind':null}",                                                                        "/kind",                         "is required"                                            },
    {"{'kind':'LLM'}",                                                                       "/kind",                         "must be one of \"llm\", \"process\", \"http\", \"echo\""},
    {"{'kind':1}",                                                                           "/kind",                         "must be one of"                                         },
    {"{'kind':'echo','kind':'echo'}",                                                        "/kind",                         "is given twice"                                         },
    {"{'kind':'echo','name':'x'}",                                                           "/name",                         "is not a known member"                                  },
    {"{'kind':'echo','Kind':'echo'}",                                                        "/Kind",                         "is not a known member"                                  },
    {"{'kind':'echo','a/b~c':1}",                                                            "/a~1b~0c",                      "is not a known member"                                  },
    {"{'kind':'echo','input_schema':{}}",                                                    "/input_schema",                 "is not a known member"                                  },
    {"{'kind':'echo','output_schema':{}}",                                                   "/output_schema",                "is not a known member"                                  },
    {"{'kind':'echo','state':'none'}",                                                       "/state",                        "must be one of \"server\", \"client\""                  },
    {"{'kind':'echo','description':1}",                                                      "/description",                  "must be a string"                                       },
    {LLM ",'instructions':['x']}",                                                           "/instructions",                 "must be a string"                                       },
    {"{'kind':'echo','on_disconnect':'stop'}",                                               "/on_disconnect",                "\"abort\", \"continue\""                                },
    {"{'kind':'echo','max_attempts':0}",                                                     "/max_attempts",                 "a whole number from 1 to 50"                            },
    {"{'kind':'echo','max_attempts':51}",                                                    "/max_attempts",                 "a whole number from 1 to 50"                            },
    {"{'kind':'echo','max_attempts':1.5}",                                                   "/max_attempts",                 "a whole number from 1 to 50"                            },
    {"{'kind':'echo','max_attempts':'3'}",                                                   "/max_attempts",                 "a whole number from 1 to 50"                            },
    {"{'kind':'echo','max_attempts':1e30}",                                                  "/max_attempts",                 "a whole number from 1 to 50"                            },
 /* what fits which kind */
    {"{'kind':'llm'}",                                                                       "/model",                        "is required with kind \"llm\""                          },
    {"{'kind':'process'}",                                                                   "/command",                      "is required with kind \"process\""                      },
    {"{'kind':'http'}",                                                                      "/url",                          "is required with kind \"http\""                         },
    {"{'kind':'echo'," MODEL "}",                                                            "/model",                        "is not allowed with kind \"echo\""                      },
    {PROC_A("'instructions':'x'"),                                                           "/instructions",                 "is not allowed with kind \"process\""                   },
    {PROC_A("'tools':[]"),                                                                   "/tools",                        "is not allowed with kind \"process\""                   },
    {PROC_A("'url':'http://h'"),                                                             "/url",                          "is not allowed with kind \"process\""                   },
    {PROC_A("'headers':{}"),                                                                 "/headers",                      "is not allowed with kind \"process\""                   },
    {HTTP_A("'command':['x']"),                                                              "/command",                      "is not allowed with kind \"http\""                      },
    {HTTP_A("'env':{}"),                                                                     "/env",                          "is not allowed with kind \"http\""                      },
    {LLM ",'timeout':'1s'}",                                                                 "/timeout",                      "is not allowed with kind \"llm\""                       },
    {HTTP_A("'limits':{'max_steps':2}"),                                                     "/limits/max_steps",             "is not allowed with kind \"http\""                      },
    {"{'kind':'echo','limits':{'tool_timeout':'1s'}}",                                       "/limits/tool_timeout",
     "is not allowed with kind \"echo\""                                                                                                                                               },
 /* command, env, url, headers, timeout */
    {"{'kind':'process','command':'x'}",                                                     "/command",                      "must be an array"                                       },
    {"{'kind':'process','command':[]}",                                                      "/command",                      "must have 1 to 64 elements"                             },
    {"{'kind':'process','command':['']}",                                                    "/command/0",                    "must not be empty"                                      },
    {"{'kind':'process','command':['x',1]}",                                                 "/command/1",                    "must be a string"                                       },
    {PROC_A("'env':[]"),                                                                     "/env",                          "must be an object"                                      },
    {PROC_A("'env':{'A':1}"),                                                                "/env/A",                        "must be a string"                                       },
    {PROC_A("'env':{'A=B':''}"),                                                             "/env/A=B",                      "must be the name of an environment variable"            },
    {PROC_A("'env':{'1A':''}"),                                                              "/env/1A",                       "must be the name of an environment variable"            },
    {PROC_A("'env':{'':''}"),                                                                "/env/",                         "must be the name of an environment variable"            },
    {PROC_A("'env':{'NOCTURNE_TASK_ID':''}"),                                                "/env/NOCTURNE_TASK_ID",         "reserved"                                               },
    {PROC_A("'env':{'A':'1','A':'2'}"),                                                      "/env/A",                        "is given twice"                                         },
    {"{'kind':'http','url':'ftp://h'}",                                                      "/url",                          "must be an http:// or https:// URL"                     },
    {"{'kind':'http','url':'http://'}",                                                      "/url",                          "must be an http:// or https:// URL"                     },
    {"{'kind':'http','url':'http:///x'}",                                                    "/url",                          "must be an http:// or https:// URL"                     },
    {"{'kind':'http','url':'http://:80'}",                                                   "/url",                          "must be an http:// or https:// URL"                     },
    {"{'kind':'http','url':'http://u:p@h/'}",                                                "/url",                          "without user"                                           },
    {"{'kind':'http','url':'http://h/#f'}",                                                  "/url",                          "without user and fragment"                              },
    {"{'kind':'http','url':'http://h/a b'}",                                                 "/url",                          "must be an http:// or https:// URL"                     },
    {"{'kind':'http','url':'http://h/\\r\\nX: y'}",                                          "/url",                          "must be an http:// or https:// URL"                     },
    {"{'kind':'http','url':7}",                                                              "/url",                          "must be an http:// or https:// URL"                     },
    {HTTP_A("'headers':['X: y']"),                                                           "/headers",                      "must be an object"                                      },
    {HTTP_A("'headers':{'X':1}"),                                                            "/headers/X",                    "must be a string"                                       },
    {HTTP_A("'headers':{'X Y':'1'}"),                                                        "/headers/X Y",                  "must be the name of an HTTP header"                     },
    {HTTP_A("'headers':{'X:':'1'}"),                                                         "/headers/X:",                   "must be the name of an HTTP header"                     },
    {HTTP_A("'headers':{'X':'a\\r\\nY: b'}"),                                                "/headers/X",                    "control characters"                                     },
    {HTTP_A("'headers':{'Content-Length':'1'}"),                                             "/headers/Content-Length",       "by the worker"                                          },
    {HTTP_A("'headers':{'X':'1','x':'2'}"),                                                  "/headers/x",                    "is given twice"                                         },
    {HTTP_A("'headers':{'X':'${KEY'}"),                                                      "/headers/X",                    "as ${NAME}"                                             },
    {HTTP_A("'headers':{'X':'${}'}"),                                                        "/headers/X",                    "as ${NAME}"                                             },
    {HTTP_A("'headers':{'X':'${A}${a b}'}"),                                                 "/headers/X",                    "as ${NAME}"                                             },
    {HTTP_A("'timeout':'2h'"),                                                               "/timeout",                      "must not be above limits.timeout"                       },
    {HTTP_A("'timeout':30"),                                                                 "/timeout",                      "must be a duration such as"                             },
    {HTTP_A("'timeout':'30'"),                                                               "/timeout",                      "must be a duration such as"                             },
    {HTTP_A("'timeout':'0s'"),                                                               "/timeout",                      "must be a duration from 1ms to 7d"                      },
 /* limits */
    {LLM ",'limits':[]}",                                                                    "/limits",                       "must be an object"                                      },
    {LLM ",'limits':{'steps':1}}",                                                           "/limits/steps",                 "is not a known member"                                  },
    {LLM ",'limits':{'max_steps':0}}",                                                       "/limits/max_steps",             "a whole number from 1 to 1000"                          },
    {LLM ",'limits':{'max_steps':1001}}",                                                    "/limits/max_steps",             "a whole number from 1 to 1000"                          },
    {LLM ",'limits':{'max_output_bytes':'8MiB'}}",                                           "/limits/max_output_bytes",
     "a whole number from 1 to 67108864"                                                                                                                                               },
    {LLM ",'limits':{'timeout':'8d'}}",                                                      "/limits/timeout",               "must be a duration from 1ms to 7d"                      },
    {LLM ",'limits':{'tool_timeout':'-1s'}}",                                                "/limits/tool_timeout",          "must be a duration"                                     },
 /* the model */
    {"{'kind':'llm','model':'gpt'}",                                                         "/model",                        "must be an object"                                      },
    {"{'kind':'llm','model':{'base_url':'http://h','name':'m'}}",                            "/model/provider",               "is required"                                            },
    {"{'kind':'llm','model':{'provider':'openai','name':'m'}}",                              "/model/base_url",               "is required"                                            },
    {"{'kind':'llm','model':{'provider':'openai','base_url':'http://h'}}",                   "/model/name",
     "is required"                                                                                                                                                                     },
    {"{'kind':'llm','model':{'provider':'other','base_url':'http://h','name':'m'}}",
     "/model/provider",                                                                                                       "must be \"openai\""                                     },
    {"{'kind':'llm','model':{'provider':'openai','base_url':'h/v1','name':'m'}}",            "/model/base_url",
     "must be an http:// or https:// URL"                                                                                                                                              },
    {"{'kind':'llm','model':{'provider':'openai','base_url':'http://h?k=v','name':'m'}}",
     "/model/base_url",                                                                                                       "must be without a query"                                },
    {"{'kind':'llm','model':{'provider':'openai','base_url':'http://h','name':''}}",         "/model/name",
     "must not be empty"                                                                                                                                                               },
    {MODEL_W("'api_key':'sk-1'"),                                                            "/model/api_key",                "is not a known member"                                  },
    {MODEL_W("'api_key_env':'sk-abc123'"),                                                   "/model/api_key_env",            "never the key itself"                                   },
    {MODEL_W("'api_key_env':''"),                                                            "/model/api_key_env",            "never the key itself"                                   },
    {MODEL_W("'options':[]"),                                                                "/model/options",                "must be an object"                                      },
    {MODEL_W("'options':{'model':'x'}"),                                                     "/model/options/model",          "is set by the worker itself"                            },
    {MODEL_W("'options':{'messages':[]}"),                                                   "/model/options/messages",       "is set by the worker"                                   },
    {MODEL_W("'options':{'stream':false}"),                                                  "/model/options/stream",         "is set by the worker"                                   },
    {MODEL_W("'options':{'stream_options':1}"),                                              "/model/options/stream_options", "by the worker"                                          },
    {MODEL_W("'options':{'tools':[]}"),                                                      "/model/options/tools",          "is set by the worker"                                   },
    {MODEL_W("'options':{'n':null}"),                                                        "/model/options/n",              "is set by the worker"                                   },
    {MODEL_W("'timeouts':'30s'"),                                                            "/model/timeouts",               "must be an object"                                      },
    {MODEL_W("'timeouts':{'read':'1s'}"),                                                    "/model/timeouts/read",          "is not a known member"                                  },
    {MODEL_W("'timeouts':{'idle':5}"),                                                       "/model/timeouts/idle",          "must be a duration"                                     },
    {MODEL_W("'retries':21"),                                                                "/model/retries",                "a whole number from 0 to 20"                            },
    {MODEL_W("'retries':-1"),                                                                "/model/retries",                "a whole number from 0 to 20"                            },
 /* tools */
    {LLM ",'tools':{}}",                                                                     "/tools",                        "must be an array"                                       },
    {TOOLS("'x'"),                                                                           "/tools/0",                      "must be an object"                                      },
    {TOOLS("{'type':'state','name':'a'},{'name':'b'}"),                                      "/tools/1/type",                 "is required"                                            },
    {TOOLS("{'type':'mcp','name':'a'}"),                                                     "/tools/0/type",                 "must be one of \"http\", \"process\""                   },
    {TOOLS("{'type':'state'}"),                                                              "/tools/0/name",                 "is required"                                            },
    {TOOLS("{'type':'state','name':''}"),                                                    "/tools/0/name",                 "must be 1 to 64 letters, digits"                        },
    {TOOLS("{'type':'state','name':'a.b'}"),                                                 "/tools/0/name",                 "must be 1 to 64 letters, digits"                        },
    {TOOLS("{'type':'state','name':'a'},{'type':'state','name':'a'}"),                       "/tools/1/name",
     "is the name of another tool"                                                                                                                                                     },
    {TOOLS("{'type':'process','name':'a'}"),                                                 "/tools/0/command",              "required with type \"process\""                         },
    {TOOLS("{'type':'http','name':'a'}"),                                                    "/tools/0/url",                  "is required with type \"http\""                         },
    {TOOL("'url':'http://h'"),                                                               "/tools/0/url",                  "is not allowed with type \"process\""                   },
    {TOOL("'headers':{}"),                                                                   "/tools/0/headers",              "is not allowed with type \"process\""                   },
    {HTTP_T("'command':['x']"),                                                              "/tools/0/command",              "is not allowed with type \"http\""                      },
    {HTTP_T("'env':{}"),                                                                     "/tools/0/env",                  "is not allowed with type \"http\""                      },
    {TOOLS("{'type':'state','name':'a','timeout':'1s'}"),                                    "/tools/0/timeout",
     "is not allowed with type \"state\""                                                                                                                                              },
    {TOOLS("{'type':'artifact','name':'a','confirm':true}"),                                 "/tools/0/confirm",
     "is not allowed with type \"artifact\""                                                                                                                                           },
    {TOOLS("{'type':'interrupt','name':'a','idempotent':true}"),                             "/tools/0/idempotent",
     "is not allowed with type \"interrupt\""                                                                                                                                          },
    {TOOLS("{'type':'state','name':'a','on_unknown':'fail'}"),                               "/tools/0/on_unknown",
     "is not allowed with type \"state\""                                                                                                                                              },
    {TOOLS("{'type':'state','name':'a','max_result_bytes':1}"),                              "/tools/0/max_result_bytes",
     "is not allowed with type \"state\""                                                                                                                                              },
    {TOOL("'args':[]"),                                                                      "/tools/0/args",                 "is not a known member"                                  },
    {TOOL("'description':{}"),                                                               "/tools/0/description",          "must be a string"                                       },
    {TOOL("'confirm':'yes'"),                                                                "/tools/0/confirm",              "must be true or false"                                  },
    {TOOL("'idempotent':1"),                                                                 "/tools/0/idempotent",           "must be true or false"                                  },
    {TOOL("'on_unknown':'skip'"),                                                            "/tools/0/on_unknown",           "\"retry\", \"ask\", \"fail\""                           },
    {TOOL("'timeout':'soon'"),                                                               "/tools/0/timeout",              "must be a duration"                                     },
    {TOOL("'max_result_bytes':0"),                                                           "/tools/0/max_result_bytes",     "from 1 to 16777216"                                     },
    {TOOL("'env':{'NOCTURNE_X':'1'}"),                                                       "/tools/0/env/NOCTURNE_X",       "reserved"                                               },
    {HTTP_T("'headers':{'a b':'1'}"),                                                        "/tools/0/headers/a b",          "the name of an HTTP header"                             },
    {TOOLS("{'type':'process','name':'a','command':[{}]}"),                                  "/tools/0/command/0",
     "must be a string"                                                                                                                                                                },
 /* parameters */
    {TOOL("'parameters':true"),                                                              "/tools/0/parameters",           "must be an object"                                      },
    {TOOL("'parameters':{}"),                                                                "/tools/0/parameters/type",      "must be \"object\""                                     },
    {TOOL("'parameters':{'type':'string'}"),                                                 "/tools/0/parameters/type",      "must be \"object\""                                     },
    {TOOL("'parameters':{'type':['object']}"),                                               "/tools/0/parameters/type",      "must be \"object\""                                     },
    {TOOL("'parameters':{'type':'object','properties':{'p/q':{'type':'text'}}}"),
     "/tools/0/parameters/properties/p~1q/type",                                                                              "must be string, number"                                 },
    {TOOL("'parameters':{'type':'object','required':'p'}"),                                  "/tools/0/parameters/required",
     "must be an array of strings"                                                                                                                                                     },
    {TOOL("'parameters':{'type':'object','properties':{'p':{'enum':[]}}}"),
     "/tools/0/parameters/properties/p/enum",                                                                                 "at least one value"                                     },
    {TOOLS("{'type':'artifact','name':'a','parameters':{'type':'object'}}"),                 "/tools/0/parameters",
     "must require the strings \"name\" and \"text\""                                                                                                                                  },
    {TOOLS("{'type':'artifact','name':'a','parameters':{'type':'object','properties':{'name':"
           "{'type':'string'},'text':{'type':'number'}},'required':['name','text']}}"),
     "/tools/0/parameters",                                                                                                   "must require the strings \"name\" and \"text\""         },
};

static void names_the_place_of_each_mistake_and_what_was_expected(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(bad_cases) / sizeof(*bad_cases); i++) {
        const struct bad_case *c = &bad_cases[i];
        PROBLEMS_AUTO(problems);
        struct agent *agent = parse(c->text, &problems);

        if (agent || problems.n != 1)
            fail_msg("%s: %zu problems, the last one %s: %s", c->text, problems.n,
                     problems.n ? problems.items[problems.n - 1].pointer : "",
                     problems.n ? problems.items[problems.n - 1].detail : "");
        if (strcmp(problems.items[0].pointer, c->pointer) != 0 ||
            !strstr(problems.items[0].detail, c->detail))
            fail_msg("%s: %s: %s", c->text, problems.items[0].pointer, problems.items[0].detail);
    }
    print_message("%zu malformed definitions\n", sizeof(bad_cases) / sizeof(*bad_cases));
}

static void reports_all_mistakes_at_once(void **state)
{
    PROBLEMS_AUTO(problems);
    BUF_AUTO(all, 65536);
    struct agent *agent =
        parse("{'kind':'llm','url':'http://h','model':{'provider':'openai','base_url':'x'},'limits'"
              ":{'max_steps':0},'tools':['x',{'type':'process','name':'a b','parameters':1}],"
              "'bogus':1}",
              &problems);

    (void)state;
    assert_null(agent);
    for (size_t i = 0; i < problems.n; i++)
        buf_printf(&all, "%s ", problems.items[i].pointer);
    assert_string_equal(all.data, "/bogus /url /limits/max_steps /model/name /model/base_url "
                                  "/tools/0 /tools/1/parameters /tools/1/command /tools/1/name ");
}

static void stops_at_a_full_list(void **state)
{
    PROBLEMS_AUTO(problems);
    BUF_AUTO(text, AGENT_MAX_BYTES);

    (void)state;
    buf_puts(&text, "{'kind':'echo'");
    for (int i = 0; i < 5000; i++)
        buf_printf(&text, ",'x%d':1", i);
    buf_puts(&text, "}");
    assert_null(parse(text.data, &problems));
    assert_int_equal(problems.n, PROBLEM_MAX);
    /* A list that is full already does not make the next definition good. */
    assert_null(parse("{'kind':'echo','x':1}", &problems));
    assert_int_equal(problems.n, PROBLEM_MAX);
}

static void refuses_what_is_too_much(void **state)
{
    PROBLEMS_AUTO(problems);
    BUF_AUTO(text, 2 * AGENT_MAX_BYTES);
    static char blank[AGENT_MAX_BYTES + 1];

    (void)state;
    memset(blank, ' ', sizeof(blank));
    assert_null(agent_parse(blank, sizeof(blank), &problems));
    assert_string_equal(problems.items[0].detail, "must have at most 1048576 bytes");
    problem_release(&problems);

    buf_puts(&text, LLM ",'tools':[");
    for (int i = 0; i < AGENT_MAX_TOOLS + 1; i++)
        buf_printf(&text, "%s{'type':'state','name':'t%d'}", i ? "," : "", i);
    buf_puts(&text, "]}");
    assert_null(parse(text.data, &problems));
    assert_string_equal(problems.items[0].pointer, "/tools");
    problem_release(&problems);

    buf_reset(&text);
    buf_puts(&text, "{'kind':'process','command':['x'],'env':{");
    for (int i = 0; i < AGENT_MAX_PAIRS + 1; i++)
        buf_printf(&text, "%s'V%d':''", i ? "," : "", i);
    buf_puts(&text, "}}");
    assert_null(parse(text.data, &problems));
    assert_string_equal(problems.items[0].pointer, "/env");
    assert_string_equal(problems.items[0].detail, "must have at most 64 members");
}

static void knows_names_of_agents_and_kinds(void **state)
{
    static const char *const good[] = {"a", "9", "A.b-c_d", "librarian"};
    static const char *const bad[] = {"", ".a", "-a", "_a", "a/b", "a b", "\xc3\xa9", "a\n"};
    char name[130];

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(*good); i++)
        assert_true(agent_name_is_valid(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(*bad); i++)
        assert_false(agent_name_is_valid(bad[i]));
    memset(name, 'a', sizeof(name));
    name[128] = '\0';
    assert_true(agent_name_is_valid(name));
    name[128] = 'a';
    name[129] = '\0';
    assert_false(agent_name_is_valid(name));
    assert_string_equal(agent_kind_name(AGENT_ECHO), "echo");
    assert_string_equal(tool_type_name(TOOL_INTERRUPT), "interrupt");
    agent_free(NULL);
}

/* Run from the top of the project, as `make unit` does. */
static void the_example_is_right(void **state)
{
    static char text[65536];
    FILE *file = fopen("examples/agents/librarian.json", "re");
    PROBLEMS_AUTO(problems);
    struct agent *agent;
    size_t len;

    (void)state;
    if (!file)
        skip();
    len = fread(text, 1, sizeof(text), file);
    fclose(file);
    agent = agent_parse(text, len, &problems);
    if (!agent) {
        fail_msg("%s: %s", problems.items[0].pointer, problems.items[0].detail);
        return; /* for the analyzer */
    }
    assert_int_equal(agent->n_tools, 2);
    assert_non_null(agent_find_tool(agent, "list_files"));
    assert_string_equal(agent_find_tool(agent, "read_file")->command[0],
                        "examples/tools/read_file");
    agent_free(agent);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_in_the_defaults),
        cmocka_unit_test(reads_each_member_of_an_llm_agent),
        cmocka_unit_test(reads_process_http_and_echo_agents),
        cmocka_unit_test(reads_each_member_of_outside_tools),
        cmocka_unit_test(gives_inner_tools_their_schemas),
        cmocka_unit_test(names_the_place_of_each_mistake_and_what_was_expected),
        cmocka_unit_test(reports_all_mistakes_at_once),
        cmocka_unit_test(stops_at_a_full_list),
        cmocka_unit_test(refuses_what_is_too_much),
        cmocka_unit_test(knows_names_of_agents_and_kinds),
        cmocka_unit_test(the_example_is_right),
    };

    return cmocka_run_group_tests_name("agent", tests, NULL, NULL);
}
