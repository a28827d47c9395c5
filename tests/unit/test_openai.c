/* An event of the stream that is read by its shape alone means what it means when it is parsed. */
#include "model/openai.h"

#include "mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void on_text(void *owner, const char *text, size_t len)
{
    struct buf *told = owner;

    buf_puts(told, "[");
    buf_append(told, text, len);
    buf_puts(told, "]");
}

static void on_call(void *owner, int index, const char *id, const char *name, const char *arguments,
                    size_t len)
{
    (void)index;
    (void)id;
    (void)name;
    on_text(owner, arguments, len);
}

static void take(struct answer *answer, struct buf *told, const char *data, size_t len)
{
    const struct openai_delta delta = {on_text, on_text, on_call, told};
    struct model_error error;
    enum openai_event event = openai_take(answer, data, len, &delta, &error);

    buf_printf(told, "%d%s%s\n", (int)event, event == OPENAI_ERROR ? error.code : "",
               answer->finish);
}

static const char *const texts[] = {
    "word",
    " two words, more than eight bytes",
    "",
    "\\\"quoted\\\"",
    "\"",
    "\\n",
    "\\u00e9",
    "\\ud83d",
    "\\ude00",
    "\\u0000",
    "na\xc3\xafve \xe2\x82\xac \xf0\x9f\x98\x80",
    "cut \xc3",
    "\xed\xa0\xbd",
    "tab\there",
    "\x01",
    "\x7f",
    "x\",\"refusal\":\"no",
    "x\"},\"finish_reason\":\"stop\",\"y\":{\"z\":\"",
};

static const struct {
    const char *before, *behind;
} shapes[] = {
    {"{\"id\":\"c\",\"choices\":[{\"index\":0,\"delta\":{\"content\":\"",
     "\"},\"finish_reason\":null}]}"                                                                                 },
    {"{\"choices\":[{\"delta\":{\"content\":\"",                             "\"}}],\"usage\":null}"                 },
    {"{\"choices\":[{\"delta\":{\"content\":\"",
     "\"},\"finish_reason\":\"stop\"}],\"usage\":{\"prompt_tokens\":1,\"completion_tokens\":2}}"                     },
    {"{\"choices\":[{\"delta\":{\"reasoning_content\":\"",                   "\"}}]}"                                },
    {"{\"choices\":[{\"delta\":{\"reasoning\":\"r\",\"content\":\"",         "\"}}]}"                                },
    {"{\"choices\":[{\"delta\":{\"cont\\u0065nt\":\"first\",\"content\":\"", "\"}}]}"                                },
    {"{\"choices\":[{\"delta\":{\"content\":\"a\",\"content\":\"",           "\"}}]}"                                },
    {"{\"choices\":[{\"index\":1,\"delta\":{\"content\":\"",                 "\"}}]}"                                },
    {"{\"choices\":[{\"delta\":{\"content\":\"",                             "\"}},{\"delta\":{\"content\":\"b\"}}]}"},
    {"{\"choices\":[{\"message\":{\"content\":\"",                           "\"}}]}"                                },
    {" { \"choices\" : [ { \"delta\" : { \"content\" : \"",                  "\" } } ] } "                           },
    {"{\"error\":null,\"choices\":[{\"delta\":{\"content\":\"",
     "\",\"tool_calls\":[{\"index\":0,\"id\":\"i\",\"function\":{\"name\":\"n\",\"arguments\":\"{}"
     "\"}}]}}]}"                                                                                                     },
};

#define N(a) (sizeof(a) / sizeof(*(a)))

/* The same stream, once as it comes and once with the shape forgotten before each event. */
static void test_shape_is_parse(void **state)
{
    (void)state;
    srand(7);
    for (int round = 0; round < 400; round++) {
        struct answer fast, slow;
        BUF_AUTO(fast_told, BUF_MAX);
        BUF_AUTO(slow_told, BUF_MAX);
        size_t shape = (size_t)rand() % N(shapes);

        answer_init(&fast, 1 << 20);
        answer_init(&slow, 1 << 20);
        for (int i = 0; i < 12; i++) {
            char *data;

            if (rand() % 6 == 0)
                shape = (size_t)rand() % N(shapes);
            data = xasprintf("%s%s%s", shapes[shape].before, texts[(size_t)rand() % N(texts)],
                             shapes[shape].behind);
            take(&fast, &fast_told, data, strlen(data));
            shape_release(&slow.shape);
            take(&slow, &slow_told, data, strlen(data));
            free(data);
        }
        take(&fast, &fast_told, "[DONE]", 6);
        take(&slow, &slow_told, "[DONE]", 6);
        assert_string_equal(fast_told.data, slow_told.data);
        assert_string_equal(fast.text.data, slow.text.data);
        assert_int_equal(fast.bytes, slow.bytes);
        assert_int_equal(fast.ncalls, slow.ncalls);
        assert_int_equal(fast.output_tokens, slow.output_tokens);
        answer_release(&fast);
        answer_release(&slow);
    }
}

/* And it is read so, with the same limit. */
static void test_shape_is_used(void **state)
{
    static const char first[] = "{\"choices\":[{\"delta\":{\"content\":\"one\"}}]}";
    static const char second[] = "{\"choices\":[{\"delta\":{\"content\":\"two\"}}]}";
    struct answer answer;
    BUF_AUTO(told, BUF_MAX);
    const char *text;
    size_t len;

    (void)state;
    answer_init(&answer, 1 << 20);
    take(&answer, &told, first, strlen(first));
    assert_true(shape_match(&answer.shape, second, strlen(second), &text, &len));
    assert_int_equal(len, 3);
    assert_memory_equal(text, "two", 3);
    answer.max_bytes = 5;
    take(&answer, &told, second, strlen(second));
    assert_string_equal(told.data, "[one]0\n2OUTPUT_TOO_LARGE\n");
    answer_release(&answer);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_shape_is_parse),
        cmocka_unit_test(test_shape_is_used),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
