#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "schema.h"

#include <string.h>

#define DEEP_BYTES (1 << 16)

static cJSON *parse(const char *text)
{
    struct err err = {0};
    cJSON *root = json_parse(text, strlen(text), &err);

    if (!root)
        fail_msg("%s: %s", text, err.msg);
    return root;
}

/* All problems as "pointer: detail; pointer: detail". */
static void describe(const struct problem_list *problems, struct buf *out)
{
    for (size_t i = 0; i < problems->n; i++) {
        const struct problem *problem = &problems->items[i];

        buf_printf(out, "%s%s: %s", i ? "; " : "", problem->pointer, problem->detail);
    }
}

struct schema_case {
    const char *schema;
    const char *value;
    const char *expected; /* "" when the value is right */
};

static const struct schema_case check_cases[] = {
  /* type */
    {"{\"type\":\"string\"}",                                                    "\"x\"",                                           ""                                    },
    {"{\"type\":\"string\"}",                                                    "1",                                               ": must be a string"                  },
    {"{\"type\":\"number\"}",                                                    "1.5",                                             ""                                    },
    {"{\"type\":\"number\"}",                                                    "\"1\"",                                           ": must be a number"                  },
    {"{\"type\":\"integer\"}",                                                   "1",                                               ""                                    },
    {"{\"type\":\"integer\"}",                                                   "1.0",                                             ""                                    },
    {"{\"type\":\"integer\"}",                                                   "-3e2",                                            ""                                    },
    {"{\"type\":\"integer\"}",                                                   "1e300",                                           ""                                    },
    {"{\"type\":\"integer\"}",                                                   "1.5",                                             ": must be a whole number"            },
    {"{\"type\":\"integer\"}",                                                   "true",                                            ": must be a whole number"            },
    {"{\"type\":\"boolean\"}",                                                   "false",                                           ""                                    },
    {"{\"type\":\"boolean\"}",                                                   "0",                                               ": must be true or false"             },
    {"{\"type\":\"object\"}",                                                    "{}",                                              ""                                    },
    {"{\"type\":\"object\"}",                                                    "[]",                                              ": must be an object"                 },
    {"{\"type\":\"array\"}",                                                     "[]",                                              ""                                    },
    {"{\"type\":\"array\"}",                                                     "{}",                                              ": must be an array"                  },
    {"{\"type\":\"null\"}",                                                      "null",                                            ""                                    },
    {"{\"type\":\"null\"}",                                                      "0",                                               ": must be null"                      },
    {"{\"type\":[\"string\",\"null\"]}",                                         "null",                                            ""                                    },
    {"{\"type\":[\"string\",\"null\"]}",                                         "1",                                               ": must be a string or null"          },
    {"{\"type\":[\"string\",\"array\",\"null\"]}",                               "1",                                               ": must be a string, an array or null"},
 /* nothing else is said about a value of the wrong type */
    {"{\"minLength\":5,\"enum\":[\"a\"],\"type\":\"string\"}",                   "1",                                               ": must be a string"                  },
 /* properties, required, additionalProperties */
    {"{\"properties\":{\"a\":{\"type\":\"string\"}}}",                           "{\"a\":1,\"b\":2}",                               "/a: must be a string"                },
    {"{\"properties\":{\"a\":{\"type\":\"string\"}}}",                           "{\"a\":\"x\",\"a\":2}",
     "/a: must be a string"                                                                                                                                               },
    {"{\"properties\":{\"a\":{\"type\":\"string\"}}}",                           "[]",                                              ""                                    },
    {"{\"properties\":{\"A\":false}}",                                           "{\"a\":1}",                                       ""                                    },
    {"{\"properties\":{\"a/b\":{\"properties\":{\"~\":false}}}}",                "{\"a/b\":{\"~\":1}}",
     "/a~1b/~0: is not allowed"                                                                                                                                           },
    {"{\"required\":[\"a\",\"b\"]}",                                             "{\"b\":null}",                                    "/a: is required"                     },
    {"{\"required\":[\"a\",\"b\"]}",                                             "{}",                                              "/a: is required; /b: is required"    },
    {"{\"required\":[\"a\"]}",                                                   "\"x\"",                                           ""                                    },
    {"{\"properties\":{\"a\":{}},\"additionalProperties\":false}",               "{\"a\":1}",                                       ""                                    },
    {"{\"properties\":{\"a\":{}},\"additionalProperties\":false}",               "{\"b\":1}",
     "/b: is not allowed"                                                                                                                                                 },
    {"{\"additionalProperties\":true}",                                          "{\"b\":1}",                                       ""                                    },
    {"{\"additionalProperties\":{\"type\":\"number\"}}",                         "{\"b\":1,\"c\":\"x\"}",
     "/c: must be a number"                                                                                                                                               },
 /* enum, const */
    {"{\"enum\":[\"a\",1,null,[1],{\"x\":1}]}",                                  "\"a\"",                                           ""                                    },
    {"{\"enum\":[\"a\",1,null,[1],{\"x\":1}]}",                                  "1.0",                                             ""                                    },
    {"{\"enum\":[\"a\",1,null,[1],{\"x\":1}]}",                                  "null",                                            ""                                    },
    {"{\"enum\":[\"a\",1,null,[1],{\"x\":1}]}",                                  "[1]",                                             ""                                    },
    {"{\"enum\":[\"a\",1,null,[1],{\"x\":1}]}",                                  "{\"x\":1}",                                       ""                                    },
    {"{\"enum\":[\"a\",1]}",                                                     "\"A\"",                                           ": must be one of [\"a\",1]"          },
    {"{\"enum\":[\"1\"]}",                                                       "1",                                               ": must be one of [\"1\"]"            },
    {"{\"enum\":[false]}",                                                       "0",                                               ": must be one of [false]"            },
    {"{\"const\":\"a\"}",                                                        "\"a\"",                                           ""                                    },
    {"{\"const\":{\"a\":[1]}}",                                                  "{\"a\":[1]}",                                     ""                                    },
    {"{\"const\":{\"a\":[1]}}",                                                  "{\"a\":[2]}",                                     ": must be {\"a\":[1]}"               },
    {"{\"const\":null}",                                                         "null",                                            ""                                    },
    {"{\"const\":null}",                                                         "false",                                           ": must be null"                      },
 /* items */
    {"{\"items\":{\"type\":\"integer\"}}",                                       "[1,2.5,\"x\"]",
     "/1: must be a whole number; /2: must be a whole number"                                                                                                             },
    {"{\"items\":{\"items\":{\"type\":\"string\"}}}",                            "[[\"a\"],[\"b\",1]]",
     "/1/1: must be a string"                                                                                                                                             },
    {"{\"items\":false}",                                                        "[]",                                              ""                                    },
    {"{\"items\":false}",                                                        "[1]",                                             "/0: is not allowed"                  },
    {"{\"minItems\":2}",                                                         "[1]",                                             ": must have at least 2 elements"     },
    {"{\"minItems\":2}",                                                         "[1,2]",                                           ""                                    },
    {"{\"maxItems\":1}",                                                         "[1,2]",                                           ": must have at most 1 elements"      },
    {"{\"maxItems\":0}",                                                         "[]",                                              ""                                    },
 /* numbers */
    {"{\"minimum\":2}",                                                          "2",                                               ""                                    },
    {"{\"minimum\":2}",                                                          "1.9",                                             ": must be at least 2"                },
    {"{\"maximum\":-0.5}",                                                       "-0.5",                                            ""                                    },
    {"{\"maximum\":-0.5}",                                                       "0",                                               ": must be at most -0.5"              },
    {"{\"minimum\":2}",                                                          "\"1\"",                                           ""                                    },
    {"{\"minimum\":1,\"maximum\":3}",                                            "4",                                               ": must be at most 3"                 },
 /* texts: characters, not bytes */
    {"{\"minLength\":1}",                                                        "\"\"",                                            ": must have at least 1 characters"   },
    {"{\"maxLength\":2}",                                                        "\"\xc3\xa9\xf0\x9f\x90\xa7\"",                    ""                                    },
    {"{\"maxLength\":2}",                                                        "\"abc\"",                                         ": must have at most 2 characters"    },
    {"{\"minLength\":2}",                                                        "\"\xc3\xa9\"",                                    ": must have at least 2 characters"   },
    {"{\"minLength\":9}",                                                        "7",                                               ""                                    },
 /* anyOf */
    {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\",\"minimum\":1}]}", "\"x\"",                                           ""                                    },
    {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\",\"minimum\":1}]}", "1",                                               ""                                    },
    {"{\"anyOf\":[{\"type\":\"string\"},{\"type\":\"integer\",\"minimum\":1}]}", "0",
     ": must fit at least one of the schemas in anyOf"                                                                                                                    },
    {"{\"properties\":{\"a\":{\"anyOf\":[false]}}}",                             "{\"a\":1}",
     "/a: must fit at least one of the schemas in anyOf"                                                                                                                  },
 /* booleans, annotations, and what we do not know */
    {"true",                                                                     "[1]",                                             ""                                    },
    {"false",                                                                    "1",                                               ": is not allowed"                    },
    {"{}",                                                                       "{\"a\":1}",                                       ""                                    },
    {"{\"title\":\"t\",\"description\":1,\"default\":1,\"examples\":1,\"format\":\"date\","
     "\"$schema\":1,\"$comment\":1,\"pattern\":\"^x\",\"x-own\":{}}",       "\"y\"",                                           ""                                    },
 /* all of it together, at depth */
    {"{\"type\":\"object\",\"properties\":{\"list\":{\"type\":\"array\",\"items\":{\"type\":"
     "\"object\",\"properties\":{\"n\":{\"type\":\"integer\"}},\"required\":[\"n\"],"
     "\"additionalProperties\":false}}}}",                                  "{\"list\":[{\"n\":1},{},{\"n\":\"x\",\"m\":1}]}",
     "/list/1/n: is required; /list/2/n: must be a whole number; /list/2/m: is not allowed"                                                                               },
};

static void checks_values_against_schemas(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(check_cases) / sizeof(*check_cases); i++) {
        const struct schema_case *c = &check_cases[i];
        JSON_AUTO(schema) = parse(c->schema);
        JSON_AUTO(value) = parse(c->value);
        PROBLEMS_AUTO(problems);
        BUF_AUTO(found, 65536);
        int rc;

        assert_int_equal(schema_lint(schema, NULL, &problems), 0);
        rc = schema_check(schema, value, NULL, &problems);
        describe(&problems, &found);
        if (strcmp(found.data, c->expected) != 0 || rc != (*c->expected ? -1 : 0))
            fail_msg("%s, %s: %d \"%s\"", c->schema, c->value, rc, found.data);
    }
}

static const struct schema_case lint_cases[] = {
    {"1",                                                                  NULL, ": must be a schema: an object, true or false"        },
    {"[]",                                                                 NULL, ": must be a schema: an object, true or false"        },
    {"null",                                                               NULL, ": must be a schema: an object, true or false"        },
    {"{\"type\":\"text\"}",                                                NULL,
     "/type: must be string, number, integer, boolean, object, array or null"                                                          },
    {"{\"type\":1}",                                                       NULL,
     "/type: must be string, number, integer, boolean, object, array or null"                                                          },
    {"{\"type\":null}",                                                    NULL,
     "/type: must be string, number, integer, boolean, object, array or null"                                                          },
    {"{\"type\":[]}",                                                      NULL, "/type: must name at least one type"                  },
    {"{\"type\":[\"string\",\"int\"]}",                                    NULL,
     "/type/1: must be string, number, integer, boolean, object, array or null"                                                        },
    {"{\"properties\":[]}",                                                NULL, "/properties: must be an object of schemas"           },
    {"{\"properties\":{\"a\":\"string\"}}",                                NULL,
     "/properties/a: must be a schema: an object, true or false"                                                                       },
    {"{\"properties\":{\"a\":{\"properties\":{\"b\":{\"type\":\"x\"}}}}}", NULL,
     "/properties/a/properties/b/type: must be string, number, integer, boolean, object, array or "
     "null"                                                                                                                            },
    {"{\"required\":\"a\"}",                                               NULL, "/required: must be an array of strings"              },
    {"{\"required\":true}",                                                NULL, "/required: must be an array of strings"              },
    {"{\"required\":[\"a\",1]}",                                           NULL, "/required/1: must be a string"                       },
    {"{\"enum\":[]}",                                                      NULL, "/enum: must be an array of at least one value"       },
    {"{\"enum\":\"a\"}",                                                   NULL, "/enum: must be an array of at least one value"       },
    {"{\"items\":[{}]}",                                                   NULL, "/items: must be a schema: an object, true or false"  },
    {"{\"items\":{\"type\":\"x\"}}",                                       NULL,
     "/items/type: must be string, number, integer, boolean, object, array or null"                                                    },
    {"{\"additionalProperties\":\"no\"}",                                  NULL,
     "/additionalProperties: must be a schema: an object, true or false"                                                               },
    {"{\"minItems\":-1}",                                                  NULL, "/minItems: must be a whole number from 0"            },
    {"{\"maxItems\":1.5}",                                                 NULL, "/maxItems: must be a whole number from 0"            },
    {"{\"minLength\":\"1\"}",                                              NULL, "/minLength: must be a whole number from 0"           },
    {"{\"maxLength\":null}",                                               NULL, "/maxLength: must be a whole number from 0"           },
    {"{\"minimum\":\"1\"}",                                                NULL, "/minimum: must be a number"                          },
    {"{\"maximum\":true}",                                                 NULL, "/maximum: must be a number"                          },
    {"{\"anyOf\":{}}",                                                     NULL, "/anyOf: must be an array of at least one schema"     },
    {"{\"anyOf\":[]}",                                                     NULL, "/anyOf: must be an array of at least one schema"     },
    {"{\"anyOf\":[{},1]}",                                                 NULL, "/anyOf/1: must be a schema: an object, true or false"},
    {"{\"minimum\":\"1\",\"enum\":1}",                                     NULL,
     "/minimum: must be a number; /enum: must be an array of at least one value"                                                       },
};

static void finds_mistakes_in_schemas(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(lint_cases) / sizeof(*lint_cases); i++) {
        JSON_AUTO(schema) = parse(lint_cases[i].schema);
        PROBLEMS_AUTO(problems);
        BUF_AUTO(found, 65536);

        assert_int_equal(schema_lint(schema, NULL, &problems), -1);
        describe(&problems, &found);
        assert_string_equal(found.data, lint_cases[i].expected);
    }
}

static void pointers_start_where_the_schema_stands(void **state)
{
    JSON_AUTO(schema) = parse("{\"type\":\"x\"}");
    PROBLEMS_AUTO(problems);
    const struct pointer tools = {NULL, "tools", 0}, first = {&tools, NULL, 0},
                         parameters = {&first, "parameters", 0};

    (void)state;
    assert_int_equal(schema_lint(schema, &parameters, &problems), -1);
    assert_string_equal(problems.items[0].pointer, "/tools/0/parameters/type");
}

/* {"items": {"items": ... {} ...}}, `depth` schemas in all. */
static void put_deep_schema(struct buf *out, int depth)
{
    for (int i = 1; i < depth; i++)
        buf_puts(out, "{\"items\":");
    buf_puts(out, "{}");
    for (int i = 1; i < depth; i++)
        buf_puts(out, "}");
}

static void refuses_schemas_nested_too_deep(void **state)
{
    PROBLEMS_AUTO(problems);
    BUF_AUTO(text, DEEP_BYTES);
    JSON_AUTO(good) = NULL;
    JSON_AUTO(bad) = NULL;

    (void)state;
    put_deep_schema(&text, SCHEMA_MAX_DEPTH);
    good = parse(text.data);
    assert_int_equal(schema_lint(good, NULL, &problems), 0);
    buf_reset(&text);
    put_deep_schema(&text, SCHEMA_MAX_DEPTH + 1);
    bad = parse(text.data);
    assert_int_equal(schema_lint(bad, NULL, &problems), -1);
    assert_non_null(strstr(problems.items[0].detail, "nested more than 64 deep"));
    /* The check itself stops too, even if nobody looked at the schema before. */
    buf_reset(&text);
    for (int i = 0; i < 900; i++)
        buf_puts(&text, "[");
    for (int i = 0; i < 900; i++)
        buf_puts(&text, "]");
    problem_release(&problems);
    {
        JSON_AUTO(value) = parse(text.data);

        assert_int_equal(schema_check(bad, value, NULL, &problems), -1);
        assert_int_equal(schema_check(good, value, NULL, &problems), 0);
    }
}

static void reports_no_more_than_the_list_holds(void **state)
{
    JSON_AUTO(schema) = parse("{\"items\":false,\"additionalProperties\":false}");
    PROBLEMS_AUTO(problems);
    BUF_AUTO(text, DEEP_BYTES);

    (void)state;
    json_open(&text, '[');
    for (int i = 0; i < 1000; i++)
        json_put_int(&text, i);
    json_close(&text, ']');
    {
        JSON_AUTO(value) = parse(text.data);

        assert_int_equal(schema_check(schema, value, NULL, &problems), -1);
    }
    assert_int_equal(problems.n, PROBLEM_MAX);
}

static void cuts_long_details_between_characters(void **state)
{
    PROBLEMS_AUTO(problems);
    BUF_AUTO(text, DEEP_BYTES);
    BUF_AUTO(json, DEEP_BYTES);

    (void)state;
    for (int i = 0; i < 1000; i++)
        buf_puts(&text, "\xc3\xa9");
    assert_int_equal(problem_add(&problems, POINTER_KEY(NULL, text.data), "must be %s", text.data),
                     -1);
    assert_in_range(strlen(problems.items[0].pointer), 500, PROBLEM_MAX_BYTES);
    assert_in_range(strlen(problems.items[0].detail), 500, PROBLEM_MAX_BYTES);
    assert_int_equal(problem_put_json(&problems, &json), 0);
    assert_null(strstr(json.data, "\xef\xbf\xbd"));
    {
        JSON_AUTO(list) = parse(json.data);

        assert_int_equal(cJSON_GetArraySize(list), 1);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checks_values_against_schemas),
        cmocka_unit_test(finds_mistakes_in_schemas),
        cmocka_unit_test(pointers_start_where_the_schema_stands),
        cmocka_unit_test(refuses_schemas_nested_too_deep),
        cmocka_unit_test(reports_no_more_than_the_list_holds),
        cmocka_unit_test(cuts_long_details_between_characters),
    };

    return cmocka_run_group_tests_name("schema", tests, NULL, NULL);
}
