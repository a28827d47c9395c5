#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "patch.h"
#include "pointer.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static cJSON *parse(const char *text)
{
    struct err err = {0};
    cJSON *root = json_parse(text, strlen(text), &err);

    if (!root)
        fail_msg("%s: %s", text, err.msg);
    return root;
}

static void check_diff(const char *from_text, const char *to_text, const char *expected)
{
    JSON_AUTO(from) = from_text ? parse(from_text) : NULL;
    JSON_AUTO(to) = parse(to_text);
    BUF_AUTO(out, 4096);

    assert_int_equal(patch_diff(from, to, &out), 0);
    assert_string_equal(out.data, expected);
}

static void names_each_difference_once(void **state)
{
    (void)state;
    check_diff("{\"a\":1}", "{\"a\":1}", "[]");
    check_diff("{\"a\":1,\"b\":2}", "{\"b\":2,\"a\":1}", "[]");
    check_diff("{}", "{\"a\":1}", "[{\"op\":\"add\",\"path\":\"/a\",\"value\":1}]");
    check_diff("{\"a\":1}", "{}", "[{\"op\":\"remove\",\"path\":\"/a\"}]");
    check_diff("{\"a\":1}", "{\"a\":null}",
               "[{\"op\":\"replace\",\"path\":\"/a\",\"value\":null}]");
    check_diff("{\"a\":{\"b\":{\"c\":1,\"d\":2}}}", "{\"a\":{\"b\":{\"c\":1,\"d\":3}}}",
               "[{\"op\":\"replace\",\"path\":\"/a/b/d\",\"value\":3}]");
    check_diff("{\"a\":true}", "{\"a\":false}",
               "[{\"op\":\"replace\",\"path\":\"/a\",\"value\":false}]");
}

static void changes_arrays_by_index_and_at_the_end(void **state)
{
    (void)state;
    check_diff("[1,2]", "[1,3,4,5]",
               "[{\"op\":\"replace\",\"path\":\"/1\",\"value\":3},"
               "{\"op\":\"add\",\"path\":\"/-\",\"value\":4},"
               "{\"op\":\"add\",\"path\":\"/-\",\"value\":5}]");
    check_diff("{\"a\":[1,2,3]}", "{\"a\":[1]}",
               "[{\"op\":\"remove\",\"path\":\"/a/2\"},{\"op\":\"remove\",\"path\":\"/a/1\"}]");
    check_diff("[{\"a\":1}]", "[{\"a\":2}]",
               "[{\"op\":\"replace\",\"path\":\"/0/a\",\"value\":2}]");
    check_diff("[]", "[]", "[]");
}

static void replaces_the_whole_when_there_was_none_or_the_type_is_another(void **state)
{
    (void)state;
    check_diff(NULL, "{\"a\":1}", "[{\"op\":\"replace\",\"path\":\"\",\"value\":{\"a\":1}}]");
    check_diff("[]", "{}", "[{\"op\":\"replace\",\"path\":\"\",\"value\":{}}]");
    check_diff("1", "\"1\"", "[{\"op\":\"replace\",\"path\":\"\",\"value\":\"1\"}]");
    check_diff("{\"a\":[]}", "{\"a\":{}}", "[{\"op\":\"replace\",\"path\":\"/a\",\"value\":{}}]");
}

static void escapes_slash_and_tilde_in_paths(void **state)
{
    (void)state;
    check_diff("{}", "{\"a/b\":1}", "[{\"op\":\"add\",\"path\":\"/a~1b\",\"value\":1}]");
    check_diff("{}", "{\"~\":1}", "[{\"op\":\"add\",\"path\":\"/~0\",\"value\":1}]");
    check_diff("{\"~1\":1}", "{}", "[{\"op\":\"remove\",\"path\":\"/~01\"}]");
    check_diff("{\"\":{\"\":1}}", "{\"\":{\"\":2}}",
               "[{\"op\":\"replace\",\"path\":\"//\",\"value\":2}]");
    check_diff("{\"q\\\"\":1}", "{}", "[{\"op\":\"remove\",\"path\":\"/q\\\"\"}]");
}

static void takes_the_first_of_members_given_twice(void **state)
{
    (void)state;
    check_diff("{\"a\":1,\"a\":2}", "{\"a\":1}", "[]");
    check_diff("{}", "{\"a\":1,\"a\":2}", "[{\"op\":\"add\",\"path\":\"/a\",\"value\":1}]");
}

static void leaves_the_buffer_as_it_was_when_the_patch_does_not_fit(void **state)
{
    JSON_AUTO(from) = parse("{}");
    JSON_AUTO(to) = parse("{\"a\":\"0123456789\"}");
    BUF_AUTO(out, 40);

    (void)state;
    assert_int_equal(buf_puts(&out, "before:"), 0);
    assert_int_equal(patch_diff(from, to, &out), -1);
    assert_string_equal(out.data, "before:");
}

struct apply_case {
    const char *doc; /* NULL: none */
    const char *patch;
    const char *result; /* or a part of the message after '!' */
};

/* Most rows are the examples of RFC 6902, appendix A. */
static const struct apply_case apply_cases[] = {
    {"{\"foo\":\"bar\"}",                                                             "[{\"op\":\"add\",\"path\":\"/baz\",\"value\":\"qux\"}]",
     "{\"foo\":\"bar\",\"baz\":\"qux\"}"                                                                                                                                                                                                         },
    {"{\"foo\":[\"bar\",\"baz\"]}",                                                   "[{\"op\":\"add\",\"path\":\"/foo/1\",\"value\":\"qux\"}]",
     "{\"foo\":[\"bar\",\"qux\",\"baz\"]}"                                                                                                                                                                                                       },
    {"{\"foo\":[1]}",                                                                 "[{\"op\":\"add\",\"path\":\"/foo/-\",\"value\":[2]}]",                      "{\"foo\":[1,[2]]}"                                                           },
    {"{\"foo\":[1]}",                                                                 "[{\"op\":\"add\",\"path\":\"/foo/1\",\"value\":2}]",                        "{\"foo\":[1,2]}"                                                             },
    {"{\"foo\":[1]}",                                                                 "[{\"op\":\"add\",\"path\":\"/foo/0\",\"value\":0}]",                        "{\"foo\":[0,1]}"                                                             },
    {"{\"a\":1}",                                                                     "[{\"op\":\"add\",\"path\":\"/a\",\"value\":2}]",                            "{\"a\":2}"                                                                   },
    {"{\"a\":1}",                                                                     "[{\"op\":\"add\",\"path\":\"\",\"value\":[]}]",                             "[]"                                                                          },
    {NULL,                                                                            "[{\"op\":\"replace\",\"path\":\"\",\"value\":{\"a\":1}}]",                  "{\"a\":1}"                                                                   },
    {NULL,                                                                            "[{\"op\":\"add\",\"path\":\"\",\"value\":7}]",                              "7"                                                                           },
    {"{\"baz\":\"qux\",\"foo\":\"bar\"}",                                             "[{\"op\":\"remove\",\"path\":\"/baz\"}]",
     "{\"foo\":\"bar\"}"                                                                                                                                                                                                                         },
    {"{\"foo\":[1,2,3]}",                                                             "[{\"op\":\"remove\",\"path\":\"/foo/1\"}]",                                 "{\"foo\":[1,3]}"                                                             },
    {"{\"baz\":\"qux\",\"foo\":\"bar\"}",
     "[{\"op\":\"replace\",\"path\":\"/baz\",\"value\":\"boo\"}]",                                                                                                 "{\"baz\":\"boo\",\"foo\":\"bar\"}"                                           },
    {"[1,2,3]",                                                                       "[{\"op\":\"replace\",\"path\":\"/2\",\"value\":{\"x\":null}}]",
     "[1,2,{\"x\":null}]"                                                                                                                                                                                                                        },
    {"{\"a\":null}",                                                                  "[{\"op\":\"replace\",\"path\":\"/a\",\"value\":1}]",                        "{\"a\":1}"                                                                   },
    {"{\"foo\":{\"bar\":\"baz\",\"waldo\":\"fred\"},\"qux\":{\"corge\":\"grault\"}}",
     "[{\"op\":\"move\",\"from\":\"/foo/waldo\",\"path\":\"/qux/thud\"}]",                                                                                         "{\"foo\":{\"bar\":\"baz\"},\"qux\":{\"corge\":\"grault\",\"thud\":\"fred\"}}"},
    {"[\"all\",\"grass\",\"cows\",\"eat\"]",                                          "[{\"op\":\"move\",\"from\":\"/1\",\"path\":\"/3\"}]",
     "[\"all\",\"cows\",\"eat\",\"grass\"]"                                                                                                                                                                                                      },
    {"{\"a\":1}",                                                                     "[{\"op\":\"move\",\"from\":\"/a\",\"path\":\"/a\"}]",                       "{\"a\":1}"                                                                   },
    {"{\"a\":{\"b\":1}}",                                                             "[{\"op\":\"move\",\"from\":\"/a/b\",\"path\":\"/a\"}]",                     "{\"a\":1}"                                                                   },
    {"{\"a\":{\"b\":1}}",                                                             "[{\"op\":\"move\",\"from\":\"/a/b\",\"path\":\"\"}]",                       "1"                                                                           },
    {"{\"a\":[1]}",                                                                   "[{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/b\"}]",                       "{\"a\":[1],\"b\":[1]}"                                                       },
    {"{\"a\":1}",                                                                     "[{\"op\":\"copy\",\"from\":\"\",\"path\":\"/b\"}]",                         "{\"a\":1,\"b\":{\"a\":1}}"                                                   },
    {"{\"baz\":\"qux\",\"foo\":[\"a\",2,\"c\"]}",
     "[{\"op\":\"test\",\"path\":\"/baz\",\"value\":\"qux\"},"
     "{\"op\":\"test\",\"path\":\"/foo/1\",\"value\":2}]",                                                                                                         "{\"baz\":\"qux\",\"foo\":[\"a\",2,\"c\"]}"                                   },
    {"{\"a\":{\"x\":1,\"y\":2}}",                                                     "[{\"op\":\"test\",\"path\":\"/a\",\"value\":{\"y\":2,\"x\":1}}]",
     "{\"a\":{\"x\":1,\"y\":2}}"                                                                                                                                                                                                                 },
    {"{\"/\":9,\"~1\":10}",                                                           "[{\"op\":\"test\",\"path\":\"/~01\",\"value\":10}]",
     "{\"/\":9,\"~1\":10}"                                                                                                                                                                                                                       },
    {"{\"a/b\":1}",                                                                   "[{\"op\":\"replace\",\"path\":\"/a~1b\",\"value\":2}]",                     "{\"a/b\":2}"                                                                 },
    {"{\"foo\":\"bar\"}",                                                             "[{\"op\":\"add\",\"path\":\"/child\",\"value\":{},\"xyz\":1}]",
     "{\"foo\":\"bar\",\"child\":{}}"                                                                                                                                                                                                            },
    {"{}",                                                                            "[]",                                                                        "{}"                                                                          },
    {"[0]",                                                                           "[{\"op\":\"add\",\"path\":\"/2\",\"value\":1}]",                            "!operation 0: there is no place"                                             },
    {"[0]",                                                                           "[{\"op\":\"add\",\"path\":\"/01\",\"value\":1}]",                           "!no place \"/01\""                                                           },
    {"[0]",                                                                           "[{\"op\":\"add\",\"path\":\"/+0\",\"value\":1}]",                           "!no place"                                                                   },
    {"[0]",                                                                           "[{\"op\":\"add\",\"path\":\"/\",\"value\":1}]",                             "!no place"                                                                   },
    {"[0]",                                                                           "[{\"op\":\"remove\",\"path\":\"/-\"}]",                                     "!there is nothing at"                                                        },
    {"[0]",                                                                           "[{\"op\":\"replace\",\"path\":\"/1\",\"value\":1}]",                        "!there is nothing at"                                                        },
    {"{}",                                                                            "[{\"op\":\"add\",\"path\":\"/a/b\",\"value\":1}]",                          "!there is no place \"/a/b\""                                                 },
    {"{\"a\":1}",                                                                     "[{\"op\":\"add\",\"path\":\"/a/b\",\"value\":1}]",                          "!there is no place"                                                          },
    {"{}",                                                                            "[{\"op\":\"remove\",\"path\":\"/a\"}]",                                     "!there is nothing at \"/a\""                                                 },
    {"{}",                                                                            "[{\"op\":\"replace\",\"path\":\"/a\",\"value\":1}]",                        "!there is nothing at"                                                        },
    {"{}",                                                                            "[{\"op\":\"add\",\"path\":\"a\",\"value\":1}]",                             "!is not a JSON pointer"                                                      },
    {"{}",                                                                            "[{\"op\":\"add\",\"path\":\"/~2\",\"value\":1}]",                           "!is not a JSON pointer"                                                      },
    {"{}",                                                                            "[{\"op\":\"add\",\"path\":\"/~\",\"value\":1}]",                            "!is not a JSON pointer"                                                      },
    {"{}",                                                                            "[{\"op\":\"add\",\"path\":\"/a\"}]",                                        "!\"value\" is missing"                                                       },
    {"{}",                                                                            "[{\"op\":\"add\",\"value\":1}]",                                            "!\"path\" must be a string"                                                  },
    {"{}",                                                                            "[{\"path\":\"\",\"value\":1}]",                                             "!\"op\" must be a string"                                                    },
    {"{}",                                                                            "[{\"op\":\"twist\",\"path\":\"\",\"value\":1}]",                            "!is not an operation"                                                        },
    {"{}",                                                                            "[{\"op\":\"copy\",\"path\":\"/a\"}]",                                       "!\"from\" must be a string"                                                  },
    {"{}",                                                                            "[{\"op\":\"copy\",\"from\":\"/b\",\"path\":\"/a\"}]",                       "!nothing at \"/b\""                                                          },
    {"{\"a\":{}}",                                                                    "[{\"op\":\"move\",\"from\":\"/a\",\"path\":\"/a/b\"}]",
     "!cannot move into itself"                                                                                                                                                                                                                  },
    {"{\"a\":{}}",                                                                    "[{\"op\":\"move\",\"from\":\"\",\"path\":\"/a\"}]",                         "!cannot move into itself"                                                    },
    {"{\"a\":1}",                                                                     "[{\"op\":\"move\",\"from\":\"/a\",\"path\":\"/b/c\"}]",                     "!there is no place"                                                          },
    {"{\"a\":1}",                                                                     "[{\"op\":\"test\",\"path\":\"/a\",\"value\":2}]",                           "!is another"                                                                 },
    {"{\"a\":\"1\"}",                                                                 "[{\"op\":\"test\",\"path\":\"/a\",\"value\":1}]",                           "!is another"                                                                 },
    {"{\"a\":1}",                                                                     "[{\"op\":\"test\",\"path\":\"/b\",\"value\":null}]",                        "!there is nothing at"                                                        },
    {"{}",                                                                            "[{\"op\":\"remove\",\"path\":\"\"}]",                                       "!the patch leaves no document"                                               },
    {"{}",                                                                            "[1]",                                                                       "!\"op\" must be a string"                                                    },
    {"{}",                                                                            "{}",                                                                        "!a patch must be an array"                                                   },
    {"{\"a\":1}",                                                                     "[{\"op\":\"remove\",\"path\":\"/a\"},{\"op\":\"remove\",\"path\":\"/a\"}]",
     "!operation 1: there is nothing at"                                                                                                                                                                                                         },
};

static void applies_or_refuses_each_operation(void **state)
{
    (void)state;
    for (size_t i = 0; i < sizeof(apply_cases) / sizeof(*apply_cases); i++) {
        const struct apply_case *c = &apply_cases[i];
        JSON_AUTO(doc) = c->doc ? parse(c->doc) : NULL;
        JSON_AUTO(patch) = parse(c->patch);
        struct err err = {0};
        JSON_AUTO(result) = patch_apply(doc, patch, &err);
        char *text = result ? json_print(result) : NULL;

        if (*c->result == '!') {
            assert_null(result);
            assert_int_equal(err.code, ERR_INVALID);
            if (!strstr(err.msg, c->result + 1))
                fail_msg("%s: \"%s\" is not in \"%s\"", c->patch, c->result + 1, err.msg);
        } else if (!text || strcmp(text, c->result) != 0) {
            fail_msg("%s on %s: %s (%s)", c->patch, c->doc, text, err.msg);
        }
        free(text);
    }
}

static void leaves_the_document_it_was_given_alone(void **state)
{
    JSON_AUTO(doc) = parse("{\"a\":[1,2]}");
    JSON_AUTO(patch) = parse("[{\"op\":\"remove\",\"path\":\"/a/0\"}]");
    struct err err;
    JSON_AUTO(result) = patch_apply(doc, patch, &err);
    char *text = json_print(doc);

    (void)state;
    assert_non_null(result);
    assert_string_equal(text, "{\"a\":[1,2]}");
    free(text);
}

static void refuses_copies_of_copies_without_end(void **state)
{
    JSON_AUTO(doc) = parse("{\"a\":[1,2,3,4,5,6,7,8,9,10]}");
    BUF_AUTO(text, 1 << 16);
    JSON_AUTO(patch) = NULL;
    struct err err = {0};

    (void)state;
    json_open(&text, '[');
    for (int i = 0; i < 40; i++) /* each doubles the document */
        json_put_raw(&text, "{\"op\":\"copy\",\"from\":\"/a\",\"path\":\"/a/-\"}", 39);
    json_close(&text, ']');
    patch = parse(text.data);
    assert_null(patch_apply(doc, patch, &err));
    assert_non_null(strstr(err.msg, "too large"));
}

static void refuses_to_pile_a_document_up_by_moves(void **state)
{
    BUF_AUTO(chain, 1 << 16);
    BUF_AUTO(path, 1 << 16);
    BUF_AUTO(text, 1 << 17);
    JSON_AUTO(doc) = NULL;
    JSON_AUTO(patch) = NULL;
    struct err err = {0};

    (void)state;
    buf_puts(&path, "/p");
    for (int i = 0; i < 600; i++) {
        buf_puts(&chain, "[");
        buf_puts(&path, i ? "/0" : "");
    }
    for (int i = 0; i < 600; i++)
        buf_puts(&chain, "]");
    buf_printf(&text, "{\"p\":%s,\"q\":%s}", chain.data, chain.data);
    doc = parse(text.data);
    buf_reset(&text);
    buf_printf(&text, "[{\"op\":\"move\",\"from\":\"/q\",\"path\":\"%s/-\"}]", path.data);
    patch = parse(text.data);
    assert_null(patch_apply(doc, patch, &err));
    assert_non_null(strstr(err.msg, "too large"));
}

/* A small generator with a fixed seed, so that a failure can be repeated. */
static uint32_t seed;

static unsigned below(unsigned n)
{
    seed = seed * 1664525 + 1013904223;
    return (seed >> 16) % n;
}

static cJSON *generate(int depth)
{
    static const char *const keys[] = {"a", "b", "c", "~", "a/b", "", "~1", "\xc3\xa9", "long key"};
    static const char *const texts[] = {"", "x", "/", "\xf0\x9f\x90\xa7", "\"quoted\"\n"};
    cJSON *item;

    switch (below(depth > 0 ? 8 : 5)) {
    case 0:
        return cJSON_CreateNull();
    case 1:
        return cJSON_CreateBool((cJSON_bool)below(2));
    case 2:
        return cJSON_CreateNumber((double)below(5) - 2);
    case 3:
        return cJSON_CreateNumber((double)below(1000) / 7);
    case 4:
        return cJSON_CreateString(texts[below(5)]);
    case 5:
        item = cJSON_CreateArray();
        for (unsigned n = below(5); n > 0; n--)
            cJSON_AddItemToArray(item, generate(depth - 1));
        return item;
    default:
        item = cJSON_CreateObject();
        for (unsigned n = below(6); n > 0; n--) {
            const char *key = keys[below(9)];

            if (!cJSON_GetObjectItemCaseSensitive(item, key))
                cJSON_AddItemToObject(item, key, generate(depth - 1));
        }
        return item;
    }
}

static void check_round_trip(const cJSON *from, const cJSON *to)
{
    BUF_AUTO(out, 1 << 20);
    BUF_AUTO(rest, 1 << 20);
    JSON_AUTO(patch) = NULL;
    JSON_AUTO(result) = NULL;
    struct err err = {0};

    assert_int_equal(patch_diff(from, to, &out), 0);
    patch = parse(out.data);
    result = patch_apply(from, patch, &err);
    if (!result)
        fail_msg("%s: %s", out.data, err.msg);
    assert_true(cJSON_Compare(result, to, true));
    assert_int_equal(patch_diff(result, to, &rest), 0);
    assert_string_equal(rest.data, "[]");
}

static void a_diff_applied_to_the_first_gives_the_second(void **state)
{
    (void)state;
    for (unsigned i = 0; i < 4000; i++) {
        JSON_AUTO(from) = NULL;
        JSON_AUTO(to) = NULL;

        seed = i;
        from = generate(5);
        to = generate(5);
        check_round_trip(from, to);
        check_round_trip(NULL, to);
        check_round_trip(from, from);
    }
}

static void a_large_object_in_reverse_order_is_no_trouble(void **state)
{
    JSON_AUTO(from) = cJSON_CreateObject();
    JSON_AUTO(to) = cJSON_CreateObject();
    BUF_AUTO(out, 1 << 20);
    char key[16];

    (void)state;
    for (int i = 0; i < 50000; i++) {
        snprintf(key, sizeof(key), "k%d", i);
        cJSON_AddItemToObject(from, key, cJSON_CreateNumber(i));
        snprintf(key, sizeof(key), "k%d", 49999 - i);
        cJSON_AddItemToObject(to, key, cJSON_CreateNumber(49999 - i));
    }
    assert_int_equal(patch_diff(from, to, &out), 0);
    assert_string_equal(out.data, "[]");
}

static void check_merge(const char *base_text, const char *changes_text, const char *expected)
{
    JSON_AUTO(base) = base_text ? parse(base_text) : NULL;
    JSON_AUTO(changes) = parse(changes_text);
    JSON_AUTO(merged) = patch_merge_shallow(base, changes);
    char *text = json_print(merged);

    assert_string_equal(text, expected);
    free(text);
}

static void merges_members_whole_and_forgets_those_set_to_null(void **state)
{
    (void)state;
    check_merge(NULL, "{\"a\":1}", "{\"a\":1}");
    check_merge("null", "{\"a\":1}", "{\"a\":1}");
    check_merge("[1]", "{\"a\":1}", "{\"a\":1}");
    check_merge("{\"a\":1,\"b\":2}", "{\"b\":3,\"c\":4}", "{\"a\":1,\"b\":3,\"c\":4}");
    check_merge("{\"a\":{\"x\":1}}", "{\"a\":{\"y\":2}}", "{\"a\":{\"y\":2}}");
    check_merge("{\"a\":1,\"b\":2}", "{\"a\":null,\"z\":null}", "{\"b\":2}");
    check_merge("{\"a\":1}", "{}", "{\"a\":1}");
    check_merge("{}", "{}", "{}");
    check_merge("{\"a\":1}", "{\"a\":2,\"a\":3}", "{\"a\":2}");
}

static void reads_pointer_tokens_and_refuses_bad_escapes(void **state)
{
    const char *p = "/a~1b/~0/";
    char *token;

    (void)state;
    token = pointer_token(&p);
    assert_string_equal(token, "a/b");
    free(token);
    token = pointer_token(&p);
    assert_string_equal(token, "~");
    free(token);
    token = pointer_token(&p);
    assert_string_equal(token, "");
    free(token);
    assert_string_equal(p, "");
    assert_null(pointer_token(&p));
    p = "/~2";
    assert_null(pointer_token(&p));
    assert_string_equal(p, "/~2");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names_each_difference_once),
        cmocka_unit_test(changes_arrays_by_index_and_at_the_end),
        cmocka_unit_test(replaces_the_whole_when_there_was_none_or_the_type_is_another),
        cmocka_unit_test(escapes_slash_and_tilde_in_paths),
        cmocka_unit_test(takes_the_first_of_members_given_twice),
        cmocka_unit_test(leaves_the_buffer_as_it_was_when_the_patch_does_not_fit),
        cmocka_unit_test(applies_or_refuses_each_operation),
        cmocka_unit_test(leaves_the_document_it_was_given_alone),
        cmocka_unit_test(refuses_copies_of_copies_without_end),
        cmocka_unit_test(refuses_to_pile_a_document_up_by_moves),
        cmocka_unit_test(a_diff_applied_to_the_first_gives_the_second),
        cmocka_unit_test(a_large_object_in_reverse_order_is_no_trouble),
        cmocka_unit_test(merges_members_whole_and_forgets_those_set_to_null),
        cmocka_unit_test(reads_pointer_tokens_and_refuses_bad_escapes),
    };

    return cmocka_run_group_tests_name("patch", tests, NULL, NULL);
}
