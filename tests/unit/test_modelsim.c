/* The pure parts of the simulated model: reading scripts, conversations, JavaScript's ways. */
#include "sim/board.h"
#include "sim/chat.h"
#include "sim/reqlog.h"
#include "sim/script.h"

#include "mem.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

static void assert_stringified(const char *json, const char *expected)
{
    BUF_AUTO(b, BUF_MAX);
    struct err err;
    JSON_AUTO(value) = js_parse(json, strlen(json), &err);

    assert_non_null(value);
    js_stringify(&b, value);
    assert_string_equal(b.data, expected);
}

static void stringifies_as_javascript_does(void **state)
{
    (void)state;
    assert_stringified("{ \"b\" : 1, \"a\" : [true, null, \"\\u00e9\\n\\u001f\\/\\u007f\"] }",
                       "{\"b\":1,\"a\":[true,null,\"\u00e9\\n\\u001f/\x7f\"]}");
    assert_stringified("{\"b\":1,\"10\":2,\"2\":3,\"01\":4}",
                       "{\"2\":3,\"10\":2,\"b\":1,\"01\":4}");
    assert_stringified("{\"a\":1,\"b\":2,\"a\":3}", "{\"a\":3,\"b\":2}");
    assert_stringified("{\"a\":1,\"7\":2,\"7\":{}}", "{\"7\":{},\"a\":1}");
    assert_stringified("[]", "[]");
}

static void refuses_json_that_only_cjson_takes(void **state)
{
    static const char *const texts[] = {"01",       "1.",         "-",        ".5",         "1e",
                                        "\x01null", "[1,\x0b 2]", "\"a\nb\"", "{\"a\":-01}"};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct err err = {0};

        assert_null(js_parse(texts[i], strlen(texts[i]), &err));
        assert_int_equal(err.code, ERR_INVALID);
    }
    assert_stringified("[-0.5e+3,0,\"01 \\\" 01\"]", "[-500,0,\"01 \\\" 01\"]");
}

static void writes_numbers_as_javascript_does(void **state)
{
    (void)state;
    assert_stringified("[0, -0, 1.0, 1.50, 100, 1e3, -17]", "[0,0,1,1.5,100,1000,-17]");
    assert_stringified("[0.1, 1e21, 1e20, 1.5e-7, 0.000001, 123456789012345680000]",
                       "[0.1,1e+21,100000000000000000000,1.5e-7,0.000001,123456789012345680000]");
    assert_stringified("[1.7976931348623157e308, 5e-324, 0.30000000000000004]",
                       "[1.7976931348623157e+308,5e-324,0.30000000000000004]");
}

static void assert_words(const char *text, const char *expected)
{
    BUF_AUTO(b, BUF_MAX);

    for (struct span s = span_of(text); s.len > 0;) {
        size_t len = js_word(s);

        (void)buf_append(&b, s.p, len);
        (void)buf_putc(&b, '|');
        s = span_skip(s, len);
    }
    assert_string_equal(b.data, expected);
}

static void splits_text_into_words_with_their_space(void **state)
{
    (void)state;
    assert_words("", "");
    assert_words("  ", "  |");
    assert_words("one two\n three \t", "one| two|\n three \t|");
    assert_words("a\u00a0b\u3000c", "a|\u00a0b|\u3000c|");
}

static void cuts_arguments_by_utf16_units(void **state)
{
    BUF_AUTO(b, BUF_MAX);
    struct span s = span_of("1234567\U0001F600\u00e9");
    bool half = false;
    size_t len;

    (void)state;
    len = js_put_units(&b, s, 8, &half);
    assert_string_equal(b.data, "\"1234567\\ud83d\"");
    assert_true(half);
    buf_reset(&b);
    assert_int_equal(js_put_units(&b, span_skip(s, len), 8, &half), 6);
    assert_string_equal(b.data, "\"\\ude00\u00e9\"");
    assert_false(half);
}

static const struct action *only_step(const char *text, struct script *script, size_t step)
{
    struct err err = {0};
    size_t n;

    assert_int_equal(script_parse(script, text, &err), 0);
    return script_step(script, step, &n);
}

static void echoes_what_is_no_script(void **state)
{
    struct script script;

    (void)state;
    assert_string_equal(only_step(" sayonara ", &script, 0)->text, "echo: sayonara");
    script_release(&script);
    assert_string_equal(only_step("stamp collecting", &script, 0)->text, "echo: stamp collecting");
    script_release(&script);
    assert_string_equal(only_step("", &script, 3)->text, "echo: ");
    script_release(&script);
}

static void reads_the_width_of_stamps(void **state)
{
    struct script script;

    (void)state;
    assert_int_equal(only_step("stamp 3 tokens 5ms 60 bytes", &script, 0)->width, 60);
    script_release(&script);
    assert_int_equal(only_step("stamp 3 tokens 5ms", &script, 0)->width, 0);
    script_release(&script);
}

static void splits_at_then_outside_of_brackets_only(void **state)
{
    struct script script;
    const struct action *actions;

    (void)state;
    actions = only_step("SAY it's [a then say b] c then than then Say d", &script, 0);
    assert_int_equal(script.n_actions, 2);
    assert_string_equal(actions[0].text, "it's [a then say b] c then than");
    assert_string_equal(actions[1].text, "d");
    script_release(&script);
}

static void reads_several_calls_of_one_action(void **state)
{
    struct script script;
    const struct action *call;

    (void)state;
    call =
        only_step("call a {\"x\": [1, \"} and call b\"]} and call b and badargs c {no", &script, 0);
    assert_int_equal(call->n_calls, 3);
    assert_string_equal(call->calls[0].raw, "{\"x\":[1,\"} and call b\"]}");
    assert_string_equal(call->calls[1].raw, "{}");
    assert_string_equal(call->calls[2].name, "c");
    assert_string_equal(call->calls[2].raw, "{no");
    script_release(&script);
}

static void steps_end_at_calls_and_the_last_one_stays(void **state)
{
    const char *text = "say a then call t {} then say b then call u {}";
    struct script script;
    size_t n;

    (void)state;
    assert_string_equal(only_step(text, &script, 0)->text, "a");
    assert_string_equal(script_step(&script, 1, &n)->text, "b");
    assert_int_equal(n, 2);
    assert_string_equal(script_step(&script, 2, &n)->text, "tool said {{tool}}");
    assert_string_equal(script_step(&script, 9, &n)->text, "tool said {{tool}}");
    script_release(&script);
}

static void a_loop_is_called_again_on_every_later_step(void **state)
{
    struct script script;
    size_t n;

    (void)state;
    assert_string_equal(only_step("call t {} then loop u {} then say c", &script, 0)->calls->name,
                        "t");
    assert_string_equal(script_step(&script, 1, &n)->calls->name, "u");
    assert_string_equal(script_step(&script, 7, &n)->calls->name, "u");
    assert_int_equal(n, 1);
    script_release(&script);
}

static void refuses_what_it_cannot_read(void **state)
{
    static const char *const texts[] = {"call", "call t {\"a\":",       "call t nonsense",
                                        "loop", "iftool \"x\" nothing", "iftool \"x"};

    (void)state;
    for (size_t i = 0; i < sizeof(texts) / sizeof(*texts); i++) {
        struct err err = {0};
        struct script script;

        assert_int_equal(script_parse(&script, texts[i], &err), -1);
        assert_int_equal(err.code, ERR_INVALID);
        script_release(&script);
    }
}

static void refuses_to_nest_for_ever(void **state)
{
    BUF_AUTO(text, BUF_MAX);
    struct err err = {0};
    struct script script;

    (void)state;
    for (int i = 0; i < 10000; i++)
        (void)buf_puts(&text, "iftool \"\" ");
    (void)buf_puts(&text, "say x");
    assert_int_equal(script_parse(&script, text.data, &err), -1);
    script_release(&script);
}

static void read_chat(struct chat *chat, const char *json)
{
    struct err err = {0};
    JSON_AUTO(messages) = json_parse(json, strlen(json), &err);

    assert_non_null(messages);
    assert_int_equal(chat_read(chat, messages, &err), 0);
}

static void assert_expanded(const struct chat *chat, const char *text, const char *expected)
{
    char *expanded = chat_expand(chat, text);

    assert_string_equal(expanded, expected);
    free(expanded);
}

static void fills_in_templates_from_the_conversation(void **state)
{
    struct chat chat;

    (void)state;
    read_chat(&chat,
              "[{\"role\":\"system\",\"content\":\"S\"},{\"role\":\"user\",\"content\":\"u1\"},"
              "{\"role\":\"assistant\",\"content\":\"a\"},"
              "{\"role\":\"user\",\"content\":[{\"type\":\"text\",\"text\":\"u\"},\"2\"]},"
              "{\"role\":\"assistant\",\"content\":null,\"tool_calls\":"
              "[{\"id\":\"c1\",\"function\":{\"name\":\"t\"}}]},"
              "{\"role\":\"tool\",\"tool_call_id\":\"c1\",\"content\":\"R1\"},"
              "{\"role\":\"tool\",\"tool_call_id\":\"zz\",\"content\":\"R2\"}]");
    assert_string_equal(chat.script, "u2");
    assert_int_equal(chat.step, 1);
    assert_expanded(&chat, "{{tool}} {{tool:t}} {{tool:x}}", "R2 R1 (no tool result)");
    assert_expanded(&chat, "{{tools}} {{n}} {{users}} {{history}} {{system}}",
                    "t=R1;undefined=R2 6 2 u1 S");
    assert_expanded(&chat, "{{{n}}} {{ n }} {{x}} {{n:}} {{", "{6} {{ n }} {{x}} {{n:}} {{");
    assert_true(chat_tools_say(&chat, "R1"));
    assert_false(chat_tools_say(&chat, "R3"));
    chat_release(&chat);
}

static void makes_the_same_digest_as_everyone(void **state)
{
    char hex[SHA1_HEX_BYTES], text[200];

    (void)state;
    sha1_hex("", 0, hex);
    assert_string_equal(hex, "da39a3ee5e6b4b0d3255bfef95601890afd80709");
    sha1_hex("abc", 3, hex);
    assert_string_equal(hex, "a9993e364706816aba3e25717850c26c9cd0d89d");
    memset(text, 'a', sizeof(text));
    sha1_hex(text, 119, hex);
    assert_string_equal(hex, "ee971065aaa017e0632a8ca6c77bb3bf8b1dfc56");
}

static void the_log_keeps_the_newest_requests(void **state)
{
    struct reqlog *log = xcalloc(1, sizeof(*log));

    (void)state;
    reqlog_init(log);
    for (uint64_t i = 1; i <= REQLOG_MAX + 5; i++)
        assert_int_equal(reqlog_add(log, &(struct reqlog_entry){.script = xstrdup("s")}), i);
    assert_null(reqlog_find(log, 5));
    assert_int_equal(reqlog_find(log, 6)->id, 6);
    assert_int_equal(log->text_bytes, REQLOG_MAX);
    reqlog_reset(log);
    assert_null(reqlog_find(log, REQLOG_MAX + 5));
    assert_int_equal(log->text_bytes, 0);
    assert_int_equal(reqlog_add(log, &(struct reqlog_entry){.script = xstrdup("s")}),
                     REQLOG_MAX + 6);
    reqlog_reset(log);
    free(log);
}

static char *filled(size_t len)
{
    char *text = xcalloc(1, len + 1);

    memset(text, ' ', len);
    return text;
}

static void the_log_drops_the_oldest_messages_first(void **state)
{
    struct reqlog *log = xcalloc(1, sizeof(*log));
    BUF_AUTO(b, BUF_MAX);

    (void)state;
    reqlog_init(log);
    log->max_text_bytes = 40000;
    for (int i = 0; i < 3; i++)
        reqlog_add(log, &(struct reqlog_entry){
                            .script = filled(5000), .status = "done", .messages = filled(10000)});
    assert_null(reqlog_find(log, 1)->messages);
    assert_int_equal(strlen(reqlog_find(log, 1)->script), 1024);
    assert_non_null(reqlog_find(log, 2)->messages);
    reqlog_print(log, &b);
    assert_non_null(strstr(b.data, "\"messages\":[],\"stream\":false,\"messagesDropped\":true}"));
    reqlog_reset(log);
    free(log);
}

struct waiter {
    struct board_waiter waiter;
    int opened;
};

static void on_opened(struct board_waiter *waiter)
{
    container_of(waiter, struct waiter, waiter)->opened++;
}

static void a_gate_lets_go_of_those_that_wait_and_stays_open(void **state)
{
    struct board *board = xcalloc(1, sizeof(*board));
    struct waiter a = {.waiter.opened = on_opened}, b = a, c = a;

    (void)state;
    board_init(board);
    assert_int_equal(board_wait(board, "g", &a.waiter), 0);
    assert_int_equal(board_wait(board, "g", &b.waiter), 0);
    assert_int_equal(board_wait(board, "h", &c.waiter), 0);
    list_remove(&b.waiter.node); /* its client left */
    assert_int_equal(board_open(board, "g"), 0);
    assert_int_equal(a.opened + 10 * b.opened + 100 * c.opened, 1);
    assert_int_equal(board_wait(board, "g", &a.waiter), 1);
    board_reset(board);
    assert_int_equal(c.opened, 1);
    assert_int_equal(board_wait(board, "g", &a.waiter), 0);
    board_reset(board);
    free(board);
}

static void the_board_counts_tries_until_it_is_reset(void **state)
{
    struct board *board = xcalloc(1, sizeof(*board));

    (void)state;
    board_init(board);
    assert_int_equal(board_fire(board, "k:0"), 1);
    assert_int_equal(board_fire(board, "k:0"), 2);
    assert_int_equal(board_fire(board, "k:1"), 1);
    board_reset(board);
    assert_int_equal(board_fire(board, "k:0"), 1);
    for (int i = 0; i < 70000; i++) {
        char key[16];

        snprintf(key, sizeof(key), "%d", i);
        (void)board_fire(board, key);
    }
    assert_int_equal(board->n_counters, 1 << 16);
    assert_int_equal(board_fire(board, "k:0"), 1); /* forgotten: the oldest */
    board_reset(board);
    free(board);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(stringifies_as_javascript_does),
        cmocka_unit_test(refuses_json_that_only_cjson_takes),
        cmocka_unit_test(writes_numbers_as_javascript_does),
        cmocka_unit_test(splits_text_into_words_with_their_space),
        cmocka_unit_test(cuts_arguments_by_utf16_units),
        cmocka_unit_test(echoes_what_is_no_script),
        cmocka_unit_test(reads_the_width_of_stamps),
        cmocka_unit_test(splits_at_then_outside_of_brackets_only),
        cmocka_unit_test(reads_several_calls_of_one_action),
        cmocka_unit_test(steps_end_at_calls_and_the_last_one_stays),
        cmocka_unit_test(a_loop_is_called_again_on_every_later_step),
        cmocka_unit_test(refuses_what_it_cannot_read),
        cmocka_unit_test(refuses_to_nest_for_ever),
        cmocka_unit_test(fills_in_templates_from_the_conversation),
        cmocka_unit_test(makes_the_same_digest_as_everyone),
        cmocka_unit_test(the_log_keeps_the_newest_requests),
        cmocka_unit_test(the_log_drops_the_oldest_messages_first),
        cmocka_unit_test(a_gate_lets_go_of_those_that_wait_and_stays_open),
        cmocka_unit_test(the_board_counts_tries_until_it_is_reset),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
