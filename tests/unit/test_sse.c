#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "sse.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What came, as text: "event|id|data;" for each. */
struct seen {
    struct buf text;
    int stop_after; /* 0: never */
    int n;
};

static int on_event(void *owner, const char *event, const char *id, const char *data, size_t len)
{
    struct seen *seen = owner;

    assert_int_equal(data[len], '\0');
    assert_int_equal(buf_printf(&seen->text, "%s|%s|", event, id), 0);
    assert_int_equal(buf_append(&seen->text, data, len), 0);
    assert_int_equal(buf_putc(&seen->text, ';'), 0);
    return ++seen->n == seen->stop_after ? -1 : 0;
}

/* Fed whole, byte by byte, and in pieces of 2 to 7: always the same events. */
static void check(const char *text, size_t len, const char *expected, bool finish)
{
    for (size_t piece = 0; piece <= 7; piece++) {
        struct seen seen = {.text = BUF_INIT(1 << 20)};
        struct sse sse;
        struct err err = {0};

        sse_init(&sse, 1 << 16, on_event, &seen);
        for (size_t at = 0; at < len;) {
            size_t n = piece && piece < len - at ? piece : len - at;
            char *exact = malloc(n); /* so that the sanitizer sees a byte read too many */

            memcpy(exact, text + at, n);
            assert_int_equal(sse_feed(&sse, exact, n, &err), 0);
            free(exact);
            at += n;
        }
        if (finish)
            assert_int_equal(sse_finish(&sse), 0);
        assert_string_equal(seen.text.data, expected);
        sse_release(&sse);
        buf_release(&seen.text);
    }
}

#define CHECK(text, expected) check(text, sizeof(text) - 1, expected, false)

static void gives_out_an_event_at_its_blank_line(void **state)
{
    (void)state;
    CHECK("id: 7\nevent: content.delta\ndata: {\"a\":1}\n\n", "content.delta|7|{\"a\":1};");
    CHECK("data: 1\n\ndata: 2\n\n", "message||1;message||2;");
    CHECK("data: 1\n", "");
}

static void ends_lines_with_lf_cr_and_crlf(void **state)
{
    (void)state;
    CHECK("event: a\r\ndata: 1\r\n\r\ndata: 2\r\n\r\n", "a||1;message||2;");
    CHECK("event: a\rdata: 1\r\rdata: 2\r\r", "a||1;message||2;");
    CHECK("event: a\rdata: 1\r\n\ndata: 2\n\rdata: 3\r\n\r\n", "a||1;message||2;message||3;");
}

static void joins_data_lines(void **state)
{
    (void)state;
    CHECK("data: a\ndata:\ndata: b\n\n", "message||a\n\nb;");
    CHECK("data\ndata\n\n", "message||\n;");
    CHECK("data:\n\n", "message||;");
}

static void takes_one_space_after_the_colon(void **state)
{
    (void)state;
    CHECK("data:a\n\ndata:  b\n\ndata: c: d\n\n", "message||a;message|| b;message||c: d;");
}

static void skips_comments_unknown_fields_and_events_without_data(void **state)
{
    (void)state;
    CHECK(": keep-alive\n\n:\nretry: 10\nfoo: bar\ndatas: x\ndat: x\ndata: 1\n\n", "message||1;");
    CHECK("event: a\n\ndata: 1\n\n", "message||1;");
    CHECK(" data: x\ndata : y\n\n\n\n", "");
}

static void keeps_the_id_but_not_the_event_name(void **state)
{
    (void)state;
    CHECK("id: 1\nevent: a\ndata: x\n\ndata: y\n\nid\ndata: z\n\n",
          "a|1|x;message|1|y;message||z;");
    CHECK("id: 1\nid: 2\0"
          "3\ndata: x\n\n",
          "message|1|x;");
}

static void skips_a_byte_order_mark_at_the_start_only(void **state)
{
    (void)state;
    CHECK("\xEF\xBB\xBF"
          "data: 1\n\n",
          "message||1;");
    CHECK("\xEF\xBB"
          "data: 1\ndata: 2\n\n",
          "message||2;");
    CHECK("data: 1\n\n\xEF\xBB\xBF"
          "data: 2\n\n",
          "message||1;");
}

static void gives_out_an_unfinished_event_only_when_asked(void **state)
{
    const char *texts[] = {"data: 1\n\ndata: 2", "data: 1\n\ndata: 2\n", "data: 1\n\ndata: 2\r\n"};

    (void)state;
    for (int i = 0; i < 3; i++) {
        check(texts[i], strlen(texts[i]), "message||1;", false);
        check(texts[i], strlen(texts[i]), "message||1;message||2;", true);
    }
    check("data: 1\n\n", 9, "message||1;", true);
    check("data: 1\n\n: x", 12, "message||1;", true);
    check("", 0, "", true);
}

static void carries_any_bytes_as_data(void **state)
{
    struct seen seen = {.text = BUF_INIT(100)};
    struct sse sse;
    struct err err;

    (void)state;
    sse_init(&sse, 100, on_event, &seen);
    assert_int_equal(sse_feed(&sse, "data: a\0b\xff\n\n", 12, &err), 0);
    assert_int_equal(seen.text.len, 14);
    assert_memory_equal(seen.text.data, "message||a\0b\xff;", 14);
    sse_release(&sse);
    buf_release(&seen.text);
}

static void stops_when_its_owner_says_so(void **state)
{
    struct seen seen = {.text = BUF_INIT(100), .stop_after = 2};
    struct sse sse;
    struct err err;
    const char *text = "data: 1\n\ndata: 2\n\ndata: 3\n\n";

    (void)state;
    sse_init(&sse, 100, on_event, &seen);
    assert_int_equal(sse_feed(&sse, text, strlen(text), &err), -1);
    assert_int_equal(err.code, ERR_CANCELED);
    assert_int_equal(sse_feed(&sse, text, strlen(text), &err), -1);
    assert_int_equal(sse_finish(&sse), -1);
    assert_string_equal(seen.text.data, "message||1;message||2;");
    sse_release(&sse);
    buf_release(&seen.text);
}

/* An event of `bytes` bytes fed in pieces to a parser that takes 64. */
static int feed_event(const char *line, int lines, size_t piece)
{
    struct seen seen = {.text = BUF_INIT(1 << 20)};
    BUF_AUTO(text, 1 << 20);
    struct sse sse;
    struct err err;
    int rc = 0;

    for (int i = 0; i < lines; i++)
        assert_int_equal(buf_printf(&text, "%s\n", line), 0);
    assert_int_equal(buf_puts(&text, "\ndata: next\n\n"), 0);
    sse_init(&sse, 64, on_event, &seen);
    for (size_t at = 0; at < text.len && rc == 0; at += piece) {
        size_t n = piece < text.len - at ? piece : text.len - at;

        rc = sse_feed(&sse, text.data + at, n, &err);
    }
    if (rc < 0)
        assert_int_equal(err.code, ERR_INVALID);
    sse_release(&sse);
    buf_release(&seen.text);
    return rc;
}

static void refuses_an_event_over_its_limit(void **state)
{
    static const char x58[] = "data: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx";
    char line[sizeof(x58) + 1];

    (void)state;
    snprintf(line, sizeof(line), "%sx", x58);
    for (size_t piece = 1; piece < 200; piece += 7) {
        assert_int_equal(feed_event(x58, 1, piece), 0);
        assert_int_equal(feed_event(line, 1, piece), -1);
        assert_int_equal(feed_event("data: 0123456789", 4, piece), 0);
        assert_int_equal(feed_event("data: 0123456789", 6, piece), -1);
        assert_int_equal(feed_event(": 0123456789", 100, piece), 0);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gives_out_an_event_at_its_blank_line),
        cmocka_unit_test(ends_lines_with_lf_cr_and_crlf),
        cmocka_unit_test(joins_data_lines),
        cmocka_unit_test(takes_one_space_after_the_colon),
        cmocka_unit_test(skips_comments_unknown_fields_and_events_without_data),
        cmocka_unit_test(keeps_the_id_but_not_the_event_name),
        cmocka_unit_test(skips_a_byte_order_mark_at_the_start_only),
        cmocka_unit_test(gives_out_an_unfinished_event_only_when_asked),
        cmocka_unit_test(carries_any_bytes_as_data),
        cmocka_unit_test(stops_when_its_owner_says_so),
        cmocka_unit_test(refuses_an_event_over_its_limit),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
