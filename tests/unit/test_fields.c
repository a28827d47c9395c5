#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "fields.h"

#include <string.h>

static const char *const colours[] = {"red", "green", NULL};

struct body {
    const char *text;
    const char *url;
    int colour;
    int64_t n;
    int64_t any_n;
    bool yes;
    uint64_t ms;
    uint64_t any_ms;
    int64_t at;
    const cJSON *object;
    const cJSON *array;
    const cJSON *any;
};

static const struct field fields[] = {
    FIELD(struct body, "text", FIELD_STR, text, .min = 2, .max = 4),
    FIELD(struct body, "url", FIELD_URL, url),
    FIELD(struct body, "colour", FIELD_WORD, colour, .words = colours),
    FIELD(struct body, "n", FIELD_INT, n, .min = -1, .max = 5),
    FIELD(struct body, "any_n", FIELD_INT, any_n),
    FIELD(struct body, "yes", FIELD_BOOL, yes),
    FIELD(struct body, "ms", FIELD_MS, ms, .min = 500, .max = 5400000),
    FIELD(struct body, "any_ms", FIELD_MS, any_ms),
    FIELD(struct body, "at", FIELD_STAMP, at),
    FIELD(struct body, "object", FIELD_OBJECT, object),
    FIELD(struct body, "array", FIELD_ARRAY, array, .min = 1, .max = 2),
    FIELD(struct body, "any", FIELD_ANY, any, .required = true),
    FIELD_END,
};

static cJSON *parse(const char *text)
{
    struct err err = {0};
    cJSON *root = json_parse(text, strlen(text), &err);

    if (!root)
        fail_msg("%s: %s", text, err.msg);
    return root;
}

static void fills_the_struct(void **state)
{
    JSON_AUTO(root) =
        parse("{\"text\":\"abc\",\"url\":\"http://[::1]:80/x@y\",\"colour\":\"green\",\"n\":-1,"
              "\"any_n\":-9007199254740992,\"yes\":true,\"ms\":\"90m\",\"any_ms\":\"0s\","
              "\"at\":\"1970-01-01T00:00:01Z\",\"object\":{},\"array\":[1],\"any\":null}");
    struct body body = {0};
    PROBLEMS_AUTO(problems);

    (void)state;
    assert_int_equal(fields_read(root, NULL, fields, &body, &problems), 0);
    assert_string_equal(body.text, "abc");
    assert_string_equal(body.url, "http://[::1]:80/x@y");
    assert_int_equal(body.colour, 1);
    assert_int_equal(body.n, -1);
    assert_int_equal(body.any_n, -9007199254740992);
    assert_true(body.yes);
    assert_int_equal(body.ms, 5400000);
    assert_int_equal(body.any_ms, 0);
    assert_int_equal(body.at, 1000000);
    assert_true(cJSON_IsObject(body.object));
    assert_int_equal(cJSON_GetArraySize(body.array), 1);
    assert_true(cJSON_IsNull(body.any));
}

static void leaves_the_defaults_of_what_is_absent_or_null(void **state)
{
    JSON_AUTO(root) = parse("{\"any\":1,\"text\":null,\"n\":null,\"yes\":null}");
    struct body body = {.text = "default", .n = 3, .yes = true, .colour = 7};
    PROBLEMS_AUTO(problems);

    (void)state;
    assert_int_equal(fields_read(root, NULL, fields, &body, &problems), 0);
    assert_string_equal(body.text, "default");
    assert_int_equal(body.n, 3);
    assert_true(body.yes);
    assert_int_equal(body.colour, 7);
}

static void names_each_mistake(void **state)
{
    static const struct {
        const char *text;
        const char *pointer;
        const char *detail;
    } cases[] = {
        {"[]",                                          "",        "must be an object"                   },
        {"{}",                                          "/any",    "is required"                         },
        {"{\"any\":1,\"more\":1}",                      "/more",   "is not a known member"               },
        {"{\"any\":1,\"any\":2}",                       "/any",    "is given twice"                      },
        {"{\"any\":1,\"n\":null,\"n\":2}",              "/n",      "is given twice"                      },
        {"{\"any\":1,\"text\":1}",                      "/text",   "must be a string"                    },
        {"{\"any\":1,\"text\":\"a\"}",                  "/text",   "must have at least 2 bytes"          },
        {"{\"any\":1,\"text\":\"abcde\"}",              "/text",   "must have at most 4 bytes"           },
        {"{\"any\":1,\"url\":\"x\"}",                   "/url",
         "must be an http:// or https:// URL without user and fragment"                                  },
        {"{\"any\":1,\"colour\":\"blue\"}",             "/colour", "must be one of \"red\", \"green\""   },
        {"{\"any\":1,\"n\":6}",                         "/n",      "must be a whole number from -1 to 5" },
        {"{\"any\":1,\"any_n\":0.5}",                   "/any_n",  "must be a whole number"              },
        {"{\"any\":1,\"any_n\":9007199254740994}",      "/any_n",  "must be a whole number"              },
        {"{\"any\":1,\"yes\":\"true\"}",                "/yes",    "must be true or false"               },
        {"{\"any\":1,\"ms\":\"499ms\"}",                "/ms",     "must be a duration from 500ms to 90m"},
        {"{\"any\":1,\"any_ms\":5}",                    "/any_ms",
         "must be a duration such as \"500ms\", \"30s\", \"5m\" or \"2h\""                               },
        {"{\"any\":1,\"at\":\"2026-02-30T00:00:00Z\"}", "/at",
         "must be an RFC 3339 time such as \"2026-01-02T03:04:05Z\""                                     },
        {"{\"any\":1,\"object\":[]}",                   "/object", "must be an object"                   },
        {"{\"any\":1,\"array\":{}}",                    "/array",  "must be an array"                    },
        {"{\"any\":1,\"array\":[]}",                    "/array",  "must have 1 to 2 elements"           },
        {"{\"any\":1,\"array\":[1,2,3]}",               "/array",  "must have 1 to 2 elements"           },
    };

    (void)state;
    for (size_t i = 0; i < sizeof(cases) / sizeof(*cases); i++) {
        JSON_AUTO(root) = parse(cases[i].text);
        struct body body = {0};
        PROBLEMS_AUTO(problems);

        assert_int_equal(fields_read(root, NULL, fields, &body, &problems), -1);
        assert_int_equal(problems.n, 1);
        assert_string_equal(problems.items[0].pointer, cases[i].pointer);
        assert_string_equal(problems.items[0].detail, cases[i].detail);
    }
}

static void reports_all_and_fills_in_the_rest(void **state)
{
    JSON_AUTO(root) = parse("{\"n\":\"x\",\"yes\":true,\"~\":1,\"any\":1}");
    struct body body = {.n = 3};
    PROBLEMS_AUTO(problems);
    BUF_AUTO(json, 1000);
    BUF_AUTO(line, 1000);

    (void)state;
    assert_int_equal(fields_read(root, POINTER_KEY(NULL, "body"), fields, &body, &problems), -1);
    assert_true(body.yes);
    assert_int_equal(body.n, 3);
    assert_int_equal(problem_put_json(&problems, &json), 0);
    assert_string_equal(json.data,
                        "[{\"pointer\":\"/body/n\",\"detail\":\"must be a whole number from -1 to "
                        "5\"},{\"pointer\":\"/body/~0\",\"detail\":\"is not a known member\"}]");
    assert_int_equal(problem_put_text(&problems.items[0], &line), 0);
    assert_string_equal(line.data, "/body/n: must be a whole number from -1 to 5");
    problem_release(&problems);
    problem_add(&problems, NULL, "must be JSON");
    buf_reset(&line);
    assert_int_equal(problem_put_text(&problems.items[0], &line), 0);
    assert_string_equal(line.data, "the document: must be JSON");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fills_the_struct),
        cmocka_unit_test(leaves_the_defaults_of_what_is_absent_or_null),
        cmocka_unit_test(names_each_mistake),
        cmocka_unit_test(reports_all_and_fills_in_the_rest),
    };

    return cmocka_run_group_tests_name("fields", tests, NULL, NULL);
}
