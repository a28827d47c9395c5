/* api/wire/genkit_frame.c and genkit_input.c: what a client may send and what it is sent. */
#include "wire/genkit_frame.h"
#include "wire/genkit_input.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#include <cmocka.h>

static struct sweep_row chunk_of(const char *events, int64_t seq_from)
{
    struct sweep_row row = {.seq_from = seq_from, .events = events, .len = strlen(events)};

    for (const char *c = events; *c; c++)
        row.count += *c == '\n';
    return row;
}

/* The frames of `events` from the start. */
static int take(struct genkit_chunks *g, const char *events, int64_t seq_from, struct buf *out)
{
    struct sweep_row row = chunk_of(events, seq_from);

    return genkit_chunks_take(g, &row, seq_from - 1, out);
}

static void assert_frames(const char *events, const char *frames)
{
    struct genkit_chunks g;
    BUF_AUTO(out, BUF_MAX);

    genkit_chunks_init(&g, false);
    assert_int_equal(take(&g, events, 1, &out), 0);
    assert_string_equal(out.data, frames);
    genkit_chunks_release(&g);
}

static void everything_outside_ascii_is_escaped(void **state)
{
    BUF_AUTO(out, BUF_MAX);

    (void)state;
    genkit_put_frame(&out, "message", "{\"t\":\"\xc3\xa9\xe4\xb8\x96\xf0\x9f\x8e\x89\"}");
    assert_string_equal(out.data,
                        "data: {\"message\":{\"t\":\"\\u00e9\\u4e16\\ud83c\\udf89\"}}\n\n");
}

static void json_with_line_feeds_stays_one_line(void **state)
{
    BUF_AUTO(out, BUF_MAX);

    (void)state;
    genkit_put_frame(&out, "result", "{\n\n  \"a\": 1\r\n}");
    assert_string_equal(out.data, "data: {\"result\":{    \"a\": 1  }}\n\n");
}

static void text_and_reasoning_become_model_chunks(void **state)
{
    (void)state;
    assert_frames("0 {\"type\":\"turn.started\"}\n0 {\"type\":\"step.started\",\"step\":1}\n"
                  "1 {\"type\":\"reasoning.delta\",\"text\":\"hm\"}\n"
                  "2 {\"type\":\"content.delta\",\"text\":\"a\"}\n",
                  "data: {\"message\":{\"modelChunk\":{\"role\":\"model\",\"index\":0,\"content\":"
                  "[{\"reasoning\":\"hm\"}]}}}\n\n"
                  "data: {\"message\":{\"modelChunk\":{\"role\":\"model\",\"index\":0,\"content\":"
                  "[{\"text\":\"a\"}]}}}\n\n");
}

static void answers_of_tools_are_one_chunk_in_the_order_of_the_requests(void **state)
{
    (void)state;
    assert_frames(
        "0 {\"type\":\"step.started\",\"step\":1}\n"
        "0 {\"type\":\"step.ended\",\"step\":1,\"message\":{\"role\":\"model\",\"content\":["
        "{\"toolRequest\":{\"name\":\"t\",\"ref\":\"a\",\"input\":{}}},"
        "{\"toolRequest\":{\"name\":\"t\",\"ref\":\"b\",\"input\":{}}}]}}\n"
        "0 {\"type\":\"tool.result\",\"step\":1,\"call_id\":\"b\",\"name\":\"t\",\"output\":2}\n"
        "0 {\"type\":\"tool.result\",\"step\":1,\"call_id\":\"a\",\"name\":\"t\",\"output\":1}\n"
        "0 {\"type\":\"step.started\",\"step\":2}\n",
        "data: {\"message\":{\"modelChunk\":{\"role\":\"model\",\"index\":0,\"content\":["
        "{\"toolRequest\":{\"name\":\"t\",\"ref\":\"a\",\"input\":{}}},"
        "{\"toolRequest\":{\"name\":\"t\",\"ref\":\"b\",\"input\":{}}}]}}}\n\n"
        "data: {\"message\":{\"modelChunk\":{\"role\":\"tool\",\"index\":1,\"content\":["
        "{\"toolResponse\":{\"name\":\"t\",\"ref\":\"a\",\"output\":1}},"
        "{\"toolResponse\":{\"name\":\"t\",\"ref\":\"b\",\"output\":2}}]}}}\n\n");
}

static void answers_of_a_resume_come_first_and_shift_the_index(void **state)
{
    (void)state;
    assert_frames(
        "0 {\"type\":\"tool.result\",\"step\":0,\"call_id\":\"a\",\"name\":\"t\",\"output\":1}\n"
        "0 {\"type\":\"step.started\",\"step\":1}\n"
        "0 {\"type\":\"content.delta\",\"text\":\"x\"}\n",
        "data: {\"message\":{\"modelChunk\":{\"role\":\"tool\",\"index\":0,\"content\":["
        "{\"toolResponse\":{\"name\":\"t\",\"ref\":\"a\",\"output\":1}}]}}}\n\n"
        "data: {\"message\":{\"modelChunk\":{\"role\":\"model\",\"index\":1,\"content\":["
        "{\"text\":\"x\"}]}}}\n\n");
}

static void an_answer_that_a_reset_makes_void_is_not_sent(void **state)
{
    (void)state;
    assert_frames(
        "0 {\"type\":\"step.started\",\"step\":1}\n"
        "0 {\"type\":\"tool.result\",\"step\":1,\"call_id\":\"a\",\"name\":\"t\",\"output\":1}\n"
        "0 {\"type\":\"reset\",\"to_seq\":1,\"reason\":\"takeover\"}\n"
        "0 {\"type\":\"step.started\",\"step\":2}\n",
        "");
}

static void half_a_step_that_is_void_is_said_to_be_nothing(void **state)
{
    (void)state;
    assert_frames(
        "0 {\"type\":\"step.started\",\"step\":2}\n"
        "0 {\"type\":\"content.delta\",\"text\":\"x\"}\n"
        "0 {\"type\":\"reset\",\"to_seq\":1,\"reason\":\"takeover\"}\n"
        "0 {\"type\":\"step.started\",\"step\":2}\n"
        "0 {\"type\":\"reset\",\"to_seq\":1,\"reason\":\"takeover\"}\n",
        "data: {\"message\":{\"modelChunk\":{\"role\":\"model\",\"index\":2,\"content\":["
        "{\"text\":\"x\"}]}}}\n\n"
        "data: {\"message\":{\"modelChunk\":{\"role\":\"model\",\"index\":2,\"content\":[],"
        "\"aggregated\":true}}}\n\n");
}

static void an_answer_from_before_the_question_says_so(void **state)
{
    (void)state;
    assert_frames(
        "0 {\"type\":\"tool.result\",\"step\":0,\"call_id\":\"a\",\"name\":\"t\",\"output\":1,"
        "\"pending\":true}\n"
        "0 {\"type\":\"step.started\",\"step\":1}\n",
        "data: {\"message\":{\"modelChunk\":{\"role\":\"tool\",\"index\":0,\"content\":["
        "{\"toolResponse\":{\"name\":\"t\",\"ref\":\"a\",\"output\":1},"
        "\"metadata\":{\"source\":\"pending\"}}]}}}\n\n");
}

static void the_frames_do_not_depend_on_how_events_were_flushed(void **state)
{
    static const char first[] = "0 {\"type\":\"step.started\",\"step\":1}\n";
    static const char second[] = "5 {\"type\":\"content.delta\",\"text\":\"a\"}\n"
                                 "6 {\"type\":\"turn.ended\",\"status\":\"completed\"}\n";
    struct genkit_chunks g;
    struct sweep_row row;
    BUF_AUTO(out, BUF_MAX);

    (void)state;
    genkit_chunks_init(&g, false);
    assert_int_equal(take(&g, first, 1, &out), 0);
    assert_int_equal(take(&g, second, 2, &out), 0);
    assert_true(g.ended);
    row = chunk_of(second, 2);
    assert_int_equal(genkit_chunks_take(&g, &row, 3, &out), 0); /* seen already */
    assert_string_equal(out.data, "data: {\"message\":{\"modelChunk\":{\"role\":\"model\","
                                  "\"index\":0,\"content\":[{\"text\":\"a\"}]}}}\n\n");
    genkit_chunks_release(&g);
}

static void lines_that_are_no_events_are_refused(void **state)
{
    static const char *const bad[] = {"x\n", "0 {}\n", "0 {\"type\":\"turn.started\"}", "\n"};
    struct genkit_chunks g;
    BUF_AUTO(out, BUF_MAX);

    (void)state;
    genkit_chunks_init(&g, false);
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(take(&g, bad[i], 1, &out), -1);
    genkit_chunks_release(&g);
}

/* ---- input ---- */

static int read_body(const char *text, bool client, struct genkit_input *ret)
{
    const struct genkit_agent_row agent = {.is_llm = true, .client = client, .busy = "enqueue"};
    struct err err;
    JSON_AUTO(body) = json_parse(text, strlen(text), &err);

    return genkit_input_read(ret, text, body, &agent, &err);
}

static void assert_refused(const char *text, bool client, const char *status)
{
    struct genkit_input in;

    assert_int_equal(read_body(text, client, &in), -1);
    assert_string_equal(in.refused, status);
    genkit_input_release(&in);
}

#define HI "\"data\":{\"message\":{\"role\":\"user\",\"content\":[{\"text\":\"hi\"}]}}"

static void a_message_is_passed_on_as_it_was_written(void **state)
{
    struct genkit_input in;

    (void)state;
    assert_int_equal(read_body("{\"data\":{\"message\":{\"role\":\"user\",\"content\":["
                               "{\"data\":{\"n\":1.50}}]}},\"init\":{\"sessionId\":\"s 1\"}}",
                               false, &in),
                     0);
    assert_string_equal(in.input, "{\"message\":{\"role\":\"user\",\"content\":["
                                  "{\"data\":{\"n\":1.50}}]}}");
    assert_string_equal(in.session_id, "s 1");
    assert_null(in.snapshot_id);
    assert_string_equal(in.options, "{\"as\":\"genkit\",\"foreground\":true}");
    genkit_input_release(&in);
}

static void empty_ids_count_as_absent_and_init_may_be_missing(void **state)
{
    struct genkit_input in;

    (void)state;
    assert_int_equal(
        read_body("{" HI ",\"init\":{\"sessionId\":\"\",\"snapshotId\":\"\"}}", true, &in), 0);
    assert_null(in.session_id);
    genkit_input_release(&in);
    assert_int_equal(read_body("{" HI "}", false, &in), 0);
    genkit_input_release(&in);
}

static void a_restart_says_whether_it_is_resumed(void **state)
{
    struct genkit_input in;

    (void)state;
    assert_int_equal(
        read_body("{\"data\":{\"detach\":true,\"resume\":{\"respond\":[{\"toolResponse\":{"
                  "\"name\":\"a\",\"ref\":\"1\",\"output\":{\"x\":1}}}],\"restart\":[{"
                  "\"toolRequest\":{\"name\":\"b\",\"ref\":\"2\",\"input\":[]}},{\"toolRequest\":{"
                  "\"name\":\"c\"},\"metadata\":{\"resumed\":true}}]}}}",
                  false, &in),
        0);
    assert_true(in.detach);
    assert_string_equal(in.input, "{}");
    assert_string_equal(
        in.options,
        "{\"resume\":{\"respond\":[{\"name\":\"a\",\"call_id\":\"1\",\"output\":{\"x\":1}}],"
        "\"restart\":[{\"name\":\"b\",\"call_id\":\"2\",\"input\":[],\"resumed\":false},"
        "{\"name\":\"c\"}]},\"as\":\"genkit\"}");
    genkit_input_release(&in);
}

static bool takes_part(const char *part)
{
    struct genkit_input in;
    BUF_AUTO(body, BUF_MAX);
    bool good;

    (void)buf_printf(&body, "{\"data\":{\"message\":{\"role\":\"model\",\"content\":[%s]}}}", part);
    good = read_body(body.data, false, &in) == 0;
    genkit_input_release(&in);
    return good;
}

static void parts_are_taken_as_genkit_takes_them(void **state)
{
    static const char *const good[] = {
        "",
        "{}",
        "{\"data\":null}",
        "{\"custom\":{}}",
        "{\"nothing\":1}",
        "{\"resource\":{\"uri\":\"x:y\"}}",
        "{\"toolRequest\":{\"name\":\"t\"}}",
        "{\"text\":\"a\",\"metadata\":{}}",
    };
    static const char *const bad[] = {
        "7",
        "{\"text\":5}",
        "{\"text\":null}",
        "{\"custom\":1}",
        "{\"media\":{}}",
        "{\"media\":7}",
        "{\"resource\":{}}",
        "{\"toolResponse\":{\"ref\":\"a\"}}",
        "{\"text\":\"a\",\"metadata\":7}",
    };

    (void)state;
    for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++)
        assert_true(takes_part(good[i]));
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_false(takes_part(bad[i]));
}

static void an_input_may_have_no_message(void **state)
{
    struct genkit_input in;

    (void)state;
    assert_int_equal(read_body("{\"data\":{},\"init\":{}}", false, &in), 0);
    assert_string_equal(in.input, "{}");
    genkit_input_release(&in);
}

static void misuse_is_told_by_grpc_status_names(void **state)
{
    (void)state;
    assert_refused("{}", false, "INVALID_ARGUMENT");
    assert_refused("{\"data\":{\"message\":null}}", false, "INVALID_ARGUMENT");
    assert_refused("{" HI ",\"init\":7}", false, "INVALID_ARGUMENT");
    assert_refused("{" HI ",\"init\":{\"sessionId\":\"a\\nb\"}}", false, "INVALID_ARGUMENT");
    assert_refused("{\"data\":{\"resume\":{\"respond\":[7]}}}", false, "INVALID_ARGUMENT");
    assert_refused("{" HI ",\"init\":{\"state\":{\"messages\":7}}}", true, "INVALID_ARGUMENT");
    assert_refused("{" HI ",\"init\":{\"state\":{}}}", false, "FAILED_PRECONDITION");
    assert_refused("{" HI ",\"init\":{\"snapshotId\":\"x\"}}", true, "FAILED_PRECONDITION");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(everything_outside_ascii_is_escaped),
        cmocka_unit_test(json_with_line_feeds_stays_one_line),
        cmocka_unit_test(text_and_reasoning_become_model_chunks),
        cmocka_unit_test(answers_of_tools_are_one_chunk_in_the_order_of_the_requests),
        cmocka_unit_test(answers_of_a_resume_come_first_and_shift_the_index),
        cmocka_unit_test(an_answer_that_a_reset_makes_void_is_not_sent),
        cmocka_unit_test(half_a_step_that_is_void_is_said_to_be_nothing),
        cmocka_unit_test(an_answer_from_before_the_question_says_so),
        cmocka_unit_test(the_frames_do_not_depend_on_how_events_were_flushed),
        cmocka_unit_test(lines_that_are_no_events_are_refused),
        cmocka_unit_test(a_message_is_passed_on_as_it_was_written),
        cmocka_unit_test(empty_ids_count_as_absent_and_init_may_be_missing),
        cmocka_unit_test(a_restart_says_whether_it_is_resumed),
        cmocka_unit_test(parts_are_taken_as_genkit_takes_them),
        cmocka_unit_test(an_input_may_have_no_message),
        cmocka_unit_test(misuse_is_told_by_grpc_status_names),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
