#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "backoff.h"
#include "buf.h"
#include "clock.h"
#include "config.h"
#include "err.h"
#include "id.h"
#include "json.h"
#include "mem.h"
#include "utf8.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define COUNT(table) (sizeof(table) / sizeof(*(table)))

/* --- buf, err, mem --- */

static void buf_appends_and_terminates(void **state)
{
    BUF_AUTO(b, 1000);

    (void)state;
    assert_string_equal(b.data, "");
    assert_int_equal(buf_append(&b, "abc", 3), 0);
    assert_int_equal(buf_printf(&b, "-%d", 42), 0);
    assert_int_equal(buf_putc(&b, '!'), 0);
    assert_int_equal(buf_append(&b, NULL, 0), 0);
    assert_string_equal(b.data, "abc-42!");
    assert_int_equal(b.len, 7);
    for (int i = 0; i < 900; i++)
        assert_int_equal(buf_putc(&b, 'x'), 0);
    assert_int_equal(strlen(b.data), 907);
}

static void buf_refuses_to_pass_its_limit_and_changes_nothing(void **state)
{
    BUF_AUTO(b, 4);
    BUF_AUTO(none, 0);

    (void)state;
    assert_int_equal(buf_append(&b, "abcd", 4), 0);
    assert_int_equal(buf_append(&b, "e", 1), -1);
    assert_int_equal(buf_append(&b, "e", SIZE_MAX), -1);
    assert_int_equal(buf_printf(&b, "%s", "e"), -1);
    assert_int_equal(buf_putc(&b, 'e'), -1);
    assert_string_equal(b.data, "abcd");
    assert_int_equal(buf_puts(&none, ""), 0);
    assert_int_equal(buf_puts(&none, "x"), -1);
}

static void buf_drops_truncates_and_detaches(void **state)
{
    BUF_AUTO(b, 100);
    char *text;

    (void)state;
    text = buf_detach(&b);
    assert_string_equal(text, "");
    free(text);
    buf_puts(&b, "abcdef");
    buf_drop_front(&b, 0);
    buf_drop_front(&b, 2);
    assert_string_equal(b.data, "cdef");
    buf_truncate(&b, 9);
    buf_truncate(&b, 2);
    assert_string_equal(b.data, "cd");
    buf_drop_front(&b, 2);
    assert_string_equal(b.data, "");
    buf_puts(&b, "x");
    text = buf_detach(&b);
    assert_string_equal(text, "x");
    assert_string_equal(b.data, "");
    free(text);
    buf_puts(&b, "y");
    buf_reset(&b);
    assert_string_equal(b.data, "");
    buf_release(&b);
    buf_release(&b);
    assert_int_equal(buf_puts(&b, "usable again"), 0);
}

static void err_set_returns_minus_one_and_cuts_long_messages(void **state)
{
    struct err err = {0};
    char text[1000];

    (void)state;
    assert_int_equal(err_set(&err, ERR_TIMEOUT, "no answer in %d ms", 5), -1);
    assert_string_equal(err.msg, "no answer in 5 ms");
    assert_string_equal(err_name(err.code), "timeout");
    assert_string_equal(err_name(ERR_NOT_FOUND), "not_found");
    memset(text, 'x', sizeof(text));
    text[999] = '\0';
    err_set(&err, ERR_BUG, "%s", text);
    assert_int_equal(strlen(err.msg), sizeof(err.msg) - 1);
}

static void mem_copies(void **state)
{
    char *copy = xmemdup("a\0b", 3), *text = xasprintf("%s-%d", "x", 1);

    (void)state;
    assert_memory_equal(copy, "a\0b", 4);
    assert_string_equal(text, "x-1");
    assert_null(xstrdup(NULL));
    free(copy);
    free(text);
}

/* --- clock, backoff, id --- */

static void reads_durations(void **state)
{
    static const struct {
        const char *text;
        int64_t ms; /* -1: refused */
    } cases[] = {
        {"0s",                     0           },
        {"1ms",                    1           },
        {"500ms",                  500         },
        {"30s",                    30000       },
        {"5m",                     300000      },
        {"2h",                     7200000     },
        {"7d",                     604800000   },
        {"007s",                   7000        },
        {"3650d",                  315360000000},
        {"315360000000ms",         315360000000},
        {"3651d",                  -1          },
        {"315360000001ms",         -1          },
        {"99999999999999999999s",  -1          },
        {"18446744073709551616ms", -1          },
        {"",                       -1          },
        {"s",                      -1          },
        {"30",                     -1          },
        {"30 s",                   -1          },
        {" 30s",                   -1          },
        {"30s ",                   -1          },
        {"-1s",                    -1          },
        {"+1s",                    -1          },
        {"1.5s",                   -1          },
        {"1e3s",                   -1          },
        {"0x1s",                   -1          },
        {"30S",                    -1          },
        {"1w",                     -1          },
        {"1h30m",                  -1          },
        {"1us",                    -1          },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        uint64_t ms = 4711;
        int rc = clock_parse_duration(cases[i].text, &ms);

        if (rc != (cases[i].ms < 0 ? -1 : 0) ||
            (rc == 0 ? ms != (uint64_t)cases[i].ms : ms != 4711))
            fail_msg("\"%s\": %d, %llu", cases[i].text, rc, (unsigned long long)ms);
    }
}

#define NEW_YEAR_2026 1767225600LL /* 2026-01-01T00:00:00Z */

static void reads_stamps(void **state)
{
    static const struct {
        const char *text;
        int64_t us; /* -1: refused */
    } cases[] = {
        {"1970-01-01T00:00:00Z",            0                               },
        {"2026-01-01T00:00:00Z",            NEW_YEAR_2026 * 1000000         },
        {"2026-01-01t00:00:00z",            NEW_YEAR_2026 * 1000000         },
        {"2026-01-01 00:00:00Z",            NEW_YEAR_2026 * 1000000         },
        {"2026-01-01T02:00:00+02:00",       NEW_YEAR_2026 * 1000000         },
        {"2025-12-31T18:30:00-05:30",       NEW_YEAR_2026 * 1000000         },
        {"2026-01-01T00:00:00-00:00",       NEW_YEAR_2026 * 1000000         },
        {"2026-01-01T00:00:00.5Z",          NEW_YEAR_2026 * 1000000 + 500000},
        {"2026-01-01T00:00:00.000001Z",     NEW_YEAR_2026 * 1000000 + 1     },
        {"2026-01-01T00:00:00.1234567899Z", NEW_YEAR_2026 * 1000000 + 123456},
        {"2024-02-29T00:00:00Z",            1709164800LL * 1000000          },
        {"2016-12-31T23:59:60Z",            1483228800LL * 1000000          }, /* a leap second */
        {"9999-12-31T23:59:59Z",            253402300799LL * 1000000        },
        {"2026-02-29T00:00:00Z",            -1                              },
        {"2026-04-31T00:00:00Z",            -1                              },
        {"2026-02-30T00:00:00Z",            -1                              },
        {"2026-01-01T24:00:00Z",            -1                              },
        {"2026-01-01T00:60:00Z",            -1                              },
        {"2026-01-01T00:00:61Z",            -1                              },
        {"2026-13-01T00:00:00Z",            -1                              },
        {"2026-00-01T00:00:00Z",            -1                              },
        {"2026-01-00T00:00:00Z",            -1                              },
        {"2026-01-32T00:00:00Z",            -1                              },
        {"1969-12-31T23:59:59Z",            -1                              },
        {"2026-01-01T00:00:00",             -1                              },
        {"2026-01-01T00:00:00.Z",           -1                              },
        {"2026-01-01T00:00:00,5Z",          -1                              },
        {"2026-01-01T00:00:00+0200",        -1                              },
        {"2026-01-01T00:00:00+02",          -1                              },
        {"2026-01-01T00:00:00+24:00",       -1                              },
        {"2026-01-01T00:00:00+02:60",       -1                              },
        {"2026-01-01T00:00:00+-1:00",       -1                              },
        {"2026-01-01T00:00:00ZZ",           -1                              },
        {"2026-01-01T00:00:00Z ",           -1                              },
        {" 2026-01-01T00:00:00Z",           -1                              },
        {"2026-01-01X00:00:00Z",            -1                              },
        {"2026-01-01",                      -1                              },
        {"2026-1-1T00:00:00Z",              -1                              },
        {"2026- 1-01T00:00:00Z",            -1                              },
        {"2026-+1-01T00:00:00Z",            -1                              },
        {"2026-01--1T00:00:00Z",            -1                              },
        {"2026-01-01T-1:00:00Z",            -1                              },
        {"2026-01-01T00:00:-1Z",            -1                              },
        {"+202-01-01T00:00:00Z",            -1                              },
        {"now",                             -1                              },
        {"",                                -1                              },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        int64_t us = 4711;
        int rc = clock_parse_stamp(cases[i].text, &us);

        if (rc != (cases[i].us < 0 ? -1 : 0) || (rc == 0 ? us != cases[i].us : us != 4711))
            fail_msg("\"%s\": %d, %lld", cases[i].text, rc, (long long)us);
    }
}

static void writes_stamps_that_read_back(void **state)
{
    char text[CLOCK_STAMP_BYTES];
    int64_t us;

    (void)state;
    assert_string_equal(clock_stamp(0, text), "1970-01-01T00:00:00.000Z");
    assert_string_equal(clock_stamp(NEW_YEAR_2026 * 1000000 + 5999, text),
                        "2026-01-01T00:00:00.005Z");
    assert_string_equal(clock_stamp(NEW_YEAR_2026 * 1000000 - 1, text), "2025-12-31T23:59:59.999Z");
    assert_string_equal(clock_stamp_us(NEW_YEAR_2026 * 1000000 + 5999, text),
                        "2026-01-01T00:00:00.005999Z");
    assert_int_equal(clock_parse_stamp(clock_stamp(1234567890123000, text), &us), 0);
    assert_int_equal(us, 1234567890123000);
    assert_true(clock_wall_us() > NEW_YEAR_2026 * 1000000 - 366LL * 86400 * 1000000);
}

static void backoff_doubles_up_to_its_cap(void **state)
{
    static const struct {
        unsigned attempt;
        uint32_t random;
        uint64_t base, cap, expected;
    } cases[] = {
        {1,          UINT32_MAX, 1000, 60000, 1000 },
        {1,          0,          1000, 60000, 500  },
        {2,          UINT32_MAX, 1000, 60000, 2000 },
        {4,          0,          1000, 60000, 4000 },
        {7,          UINT32_MAX, 1000, 60000, 60000},
        {1000000,    0,          1000, 60000, 30000},
        {UINT32_MAX, UINT32_MAX, 1,    1000,  1000 },
        {0,          0,          1000, 60000, 500  },
        {1,          UINT32_MAX, 5000, 100,   100  },
        {3,          7,          0,    0,     0    },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++)
        assert_int_equal(backoff_ms(cases[i].attempt, cases[i].base, cases[i].cap, cases[i].random),
                         cases[i].expected);
}

static void makes_uuids_in_the_order_of_time(void **state)
{
    char first[ID_BYTES], second[ID_BYTES];
    uint64_t then = clock_mono_ms();

    (void)state;
    id_uuid7(first);
    while (clock_mono_ms() < then + 3)
        continue;
    id_uuid7(second);
    assert_true(id_is_uuid(first));
    assert_int_equal(first[14], '7');
    assert_non_null(strchr("89ab", first[19]));
    assert_true(strcmp(first, second) < 0);
    assert_true(id_random32() != id_random32() || id_random32() != id_random32());
}

static void knows_uuids(void **state)
{
    static const char *const bad[] = {
        "",
        "0190163d-8694-739b-aea5-966c26f8ad9",
        "0190163d-8694-739b-aea5-966c26f8ad911",
        "0190163d-8694-739b-aea5-966c26f8ad9g",
        "0190163d08694-739b-aea5-966c26f8ad91",
        "{190163d-8694-739b-aea5-966c26f8ad91",
        "0190163d-8694-739b-aea5-966c26f8ad9\n",
        "------------------------------------",
    };

    (void)state;
    assert_true(id_is_uuid("0190163d-8694-739b-aea5-966c26f8ad91"));
    assert_true(id_is_uuid("0190163D-8694-739B-AEA5-966C26F8AD91"));
    for (size_t i = 0; i < COUNT(bad); i++)
        assert_false(id_is_uuid(bad[i]));
}

/* --- utf8 --- */

static const struct {
    const char *bytes;
    size_t len;
    const char *clean; /* NULL: valid as it is */
} utf8_cases[] = {
    {"",                 0, NULL                                              },
    {"abc",              3, NULL                                              },
    {"\x7f",             1, NULL                                              },
    {"\xc2\x80",         2, NULL                                              },
    {"\xdf\xbf",         2, NULL                                              },
    {"\xe0\xa0\x80",     3, NULL                                              },
    {"\xed\x9f\xbf",     3, NULL                                              },
    {"\xee\x80\x80",     3, NULL                                              },
    {"\xef\xbf\xbf",     3, NULL                                              },
    {"\xf0\x90\x80\x80", 4, NULL                                              },
    {"\xf4\x8f\xbf\xbf", 4, NULL                                              },
    {"a\0b",             3,
     "a\xef\xbf\xbd"
     "b"                                                                      },
    {"\x80",             1, "\xef\xbf\xbd"                                    },
    {"\xc0\x80",         2, "\xef\xbf\xbd\xef\xbf\xbd"                        }, /* NUL, too long */
    {"\xc1\xbf",         2, "\xef\xbf\xbd\xef\xbf\xbd"                        }, /* too long */
    {"\xe0\x9f\xbf",     3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"            }, /* too long */
    {"\xed\xa0\x80",     3, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"            }, /* a surrogate */
    {"\xf0\x8f\xbf\xbf", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"},
    {"\xf4\x90\x80\x80", 4, "\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd"}, /* > U+10FFFF */
    {"\xf5\x80",         2, "\xef\xbf\xbd\xef\xbf\xbd"                        },
    {"\xff",             1, "\xef\xbf\xbd"                                    },
    {"a\xc3",            2, "a\xef\xbf\xbd"                                   },
    {"a\xe2\x82",        3, "a\xef\xbf\xbd\xef\xbf\xbd"                       },
    {"\xc3(\xc3\xa9",    4, "\xef\xbf\xbd(\xc3\xa9"                           },
};

static void utf8_is_checked_and_cleaned(void **state)
{
    (void)state;
    for (size_t i = 0; i < COUNT(utf8_cases); i++) {
        BUF_AUTO(out, 1000);
        const char *clean = utf8_cases[i].clean ? utf8_cases[i].clean : utf8_cases[i].bytes;
        char *exact = xmemdup(utf8_cases[i].bytes, utf8_cases[i].len);

        /* a copy, so that the sanitizer sees a read behind the end */
        exact = xrealloc(exact, utf8_cases[i].len ? utf8_cases[i].len : 1);
        assert_int_equal(utf8_is_valid(exact, utf8_cases[i].len), !utf8_cases[i].clean);
        assert_int_equal(utf8_put_clean(&out, exact, utf8_cases[i].len), 0);
        assert_string_equal(out.data, clean);
        assert_true(utf8_is_valid(out.data, out.len));
        free(exact);
    }
}

static void utf8_is_cut_between_sequences(void **state)
{
    static const char text[] = "a\xc3\xa9\xe2\x82\xac\xf0\x9f\x90\xa7z"; /* 1 2 3 4 1 bytes */
    static const size_t expected[] = {0, 1, 1, 3, 3, 3, 6, 6, 6, 6, 10, 11};

    (void)state;
    for (size_t len = 0; len < COUNT(expected); len++)
        assert_int_equal(utf8_prefix(text, len), expected[len]);
}

/* --- json --- */

static cJSON *parse(const char *text)
{
    struct err err = {0};
    cJSON *root = json_parse(text, strlen(text), &err);

    if (!root)
        fail_msg("%s: %s", text, err.msg);
    return root;
}

static void json_refuses_what_is_not_one_value(void **state)
{
    static const struct {
        const char *text;
        const char *why;
    } cases[] = {
        {"",                      "not JSON"                           },
        {" ",                     "not JSON"                           },
        {"{",                     "not JSON"                           },
        {"{\"a\":}",              "not JSON"                           },
        {"[1,]",                  "not JSON"                           },
        {"{\"a\" 1}",             "not JSON"                           },
        {"'a'",                   "not JSON"                           },
        {"nul",                   "not JSON"                           },
        {"01",                    "not JSON, at byte 0"                },
        {"-01.5",                 "not JSON, at byte 0"                },
        {"[1,1.]",                "not JSON, at byte 3"                },
        {"1e",                    "JSON"                               },
        {"1e+",                   "JSON"                               },
        {"{\"a\":-}",             "not JSON"                           },
        {"1.2.3",                 "JSON"                               },
        {"+1",                    "JSON"                               },
        {"\"a\nb\"",              "not JSON, at byte 2"                },
        {"\"\x1f\"",              "not JSON, at byte 1"                },
        {"[1,\v2]",               "not JSON, at byte 3"                },
        {"{\"a\tb\":1}",          "not JSON, at byte 3"                },
        {"\"\\x\"",               "not JSON"                           },
        {"\"\\ud800\"",           "not JSON"                           },
        {"1 2",                   "more than one JSON value, at byte 2"},
        {"{} x",                  "more than one JSON value, at byte 3"},
        {"{}\v",                  "more than one JSON value"           },
        {"\"\xff\"",              "not UTF-8"                          },
        {"\"\xc0\x80\"",          "not UTF-8"                          },
        {"\"\xed\xa0\x80\"",      "not UTF-8"                          },
        {"\"\\u0000\"",           "\\u0000"                            },
        {"\"a\\\\\\u0000\"",      "\\u0000"                            },
        {"{\"\\u0000\":1}",       "\\u0000"                            },
        {"\"\\\\u0000 \\u0000\"", "\\u0000"                            },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct err err = {0};
        cJSON *root = json_parse(cases[i].text, strlen(cases[i].text), &err);

        if (root || err.code != ERR_INVALID || !strstr(err.msg, cases[i].why))
            fail_msg("%s: %s", cases[i].text, root ? "taken" : err.msg);
    }
}

static void json_takes_what_looks_like_a_nul_but_is_none(void **state)
{
    static const char *const good[] = {"\"\\\\u0000\"",
                                       "\"\\\\\\\\u0000\"",
                                       "\"u0000\"",
                                       "\"\\u0001\"",
                                       " \t\r\n1\n",
                                       "[0,-0,0.5,-1.5e-7,1E+400,10]",
                                       "\"01 1. \\\" 02 \\\\\"",
                                       "{\"\\\"01\":\"\"}",
                                       "0"};

    (void)state;
    for (size_t i = 0; i < COUNT(good); i++) {
        struct err err = {0};
        cJSON *root = json_parse(good[i], strlen(good[i]), &err);

        assert_non_null(root);
        cJSON_Delete(root);
    }
}

static void json_loose_takes_what_is_no_text(void **state)
{
    static const struct {
        const char *text, *expected; /* in an array */
    } cases[] = {
        {"[\"a\\u0000b\"]",              "a\xEF\xBF\xBD"
                            "b"              },
        {"[\"a\xff\"]",                  "a\xEF\xBF\xBD"                },
        {"[\"\\ud83d\"]",                "\xED\xA0\xBD"                 },
        {"[\"\\ude00x\"]",               "\xED\xB8\x80x"                },
        {"[\"\\ud83d\\ude00 \\ud83d\"]", "\xF0\x9F\x98\x80 \xED\xA0\xBD"},
        {"[\"\\ud83d\\ud83d\\ude00\"]",  "\xED\xA0\xBD\xF0\x9F\x98\x80" },
        {"[\"\\\\ud83d\\ud83d\"]",       "\\ud83d\xED\xA0\xBD"          },
        {"[\"\\\"\\ud83d\\\\\"]",        "\"\xED\xA0\xBD\\"             },
    };
    static const char *const bad[] = {"", "[", "[\"\\ud83d", "[\"\\", "[\"\\ud8\"]", "\xff"};
    struct err err = {0};

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        JSON_AUTO(root) = json_parse_loose(cases[i].text, strlen(cases[i].text), &err);

        assert_non_null(root);
        assert_string_equal(root->child->valuestring, cases[i].expected);
    }
    for (size_t i = 0; i < COUNT(bad); i++) {
        char *exact = xrealloc(xmemdup(bad[i], strlen(bad[i])), strlen(bad[i]) + 1);

        assert_null(json_parse_loose(exact, strlen(bad[i]), &err));
        free(exact);
    }
}

static void json_put_raw_leaves_no_line_end(void **state)
{
    static const char text[] = "{\n \"a\":\r\n [1,\n 2]}\r\n";
    struct buf b = BUF_INIT(100);

    (void)state;
    assert_int_equal(buf_puts(&b, "1\n"), 0);
    assert_int_equal(json_put_raw(&b, text, strlen(text)), 0);
    assert_string_equal(b.data, "1\n{  \"a\":   [1,  2]}");
    buf_release(&b);
}

static void json_stops_at_the_length_it_was_given(void **state)
{
    struct err err = {0};
    JSON_AUTO(root) = json_parse("{\"a\":1}garbage", 7, &err);
    char *exact = xrealloc(xmemdup("[1,2", 4), 4);

    (void)state;
    assert_non_null(root);
    assert_null(json_parse(exact, 4, &err));
    free(exact);
}

static void json_survives_deep_nesting(void **state)
{
    static char deep[200001];
    struct err err = {0};

    (void)state;
    memset(deep, '[', 100000);
    memset(deep + 100000, ']', 100000);
    assert_null(json_parse(deep, 200000, &err));
    assert_int_equal(err.code, ERR_INVALID);
}

static void json_readers_name_the_key(void **state)
{
    JSON_AUTO(obj) =
        parse("{\"s\":\"x\",\"n\":5,\"null\":null,\"frac\":1.5,\"big\":9007199254740993e3,"
              "\"max\":9007199254740992,\"neg\":-3,\"true\":true}");
    struct err err = {0};
    const char *text = NULL;
    int64_t n = 0;

    (void)state;
    assert_int_equal(json_str(obj, "s", &text, &err), 0);
    assert_string_equal(text, "x");
    assert_int_equal(json_str(obj, "S", &text, &err), -1);
    assert_string_equal(err.msg, "\"S\" must be a string");
    assert_int_equal(json_str(obj, "n", &text, &err), -1);
    assert_int_equal(json_str(obj, "null", &text, &err), -1);
    assert_int_equal(json_int(obj, "n", 0, 10, &n, &err), 0);
    assert_int_equal(n, 5);
    assert_int_equal(json_int(obj, "n", 6, 10, &n, &err), -1);
    assert_string_equal(err.msg, "\"n\" must be an integer from 6 to 10");
    assert_int_equal(json_int(obj, "n", 0, 4, &n, &err), -1);
    assert_int_equal(json_int(obj, "frac", 0, 10, &n, &err), -1);
    assert_int_equal(json_int(obj, "big", 0, INT64_MAX, &n, &err), -1);
    assert_int_equal(json_int(obj, "max", 0, INT64_MAX, &n, &err), 0);
    assert_int_equal(n, 9007199254740992);
    assert_int_equal(json_int(obj, "neg", -5, 0, &n, &err), 0);
    assert_int_equal(n, -3);
    assert_int_equal(json_int(obj, "true", 0, 1, &n, &err), -1);
    assert_int_equal(json_int(obj, "absent", 0, 1, &n, &err), -1);
    assert_null(json_get(obj, "null"));
    assert_null(json_get(NULL, "x"));
    assert_string_equal(json_str_or(obj, "n", "or"), "or");
    assert_string_equal(json_str_or(obj, "s", "or"), "x");
}

static void json_finds_the_text_of_a_member(void **state)
{
    static const struct {
        const char *text;
        const char *key;
        const char *value; /* NULL: not there */
    } cases[] = {
        {"{\"a\":1}",                               "a",  "1"                   },
        {" \n{ \"a\" : 1.50 , \"b\":2}",            "a",  "1.50"                },
        {"{\"a\":1,\"b\" :\t[1, {\"x\":\"]}\"}] }", "b",  "[1, {\"x\":\"]}\"}]" },
        {"{\"a\":{\"b\":1},\"b\":2}",               "b",  "2"                   },
        {"{\"a\":\"x\\\"},{\",\"b\":true}",         "b",  "true"                },
        {"{\"a\":\"\\\\\",\"b\":null}",             "b",  "null"                },
        {"{\"b\":12345678901234567890}",            "b",  "12345678901234567890"},
        {"{\"b\":\"\"}",                            "b",  "\"\""                },
        {"{\"b\":{}}",                              "b",  "{}"                  },
        {"{\"b\":[]\n}",                            "b",  "[]"                  },
        {"{\"b\":[[],[\"[\"]],\"c\":-1e5}",         "c",  "-1e5"                },
        {"{\"b\":1,\"b\":2}",                       "b",  "1"                   },
        {"{\"ab\":1}",                              "a",  NULL                  },
        {"{\"a\":1}",                               "ab", NULL                  },
        {"{\"A\":1}",                               "a",  NULL                  },
        {"{\"x\":\"a\"}",                           "a",  NULL                  },
        {"{\"x\":{\"a\":1}}",                       "a",  NULL                  },
        {"{}",                                      "a",  NULL                  },
        {"{ }",                                     "a",  NULL                  },
        {"[\"a\",1]",                               "a",  NULL                  },
        {"\"a\"",                                   "a",  NULL                  },
        {"{\"\":1}",                                "",   "1"                   },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        const char *start = NULL;
        size_t len = 0;
        bool found = json_member_span(cases[i].text, cases[i].key, &start, &len);

        if (found != (cases[i].value != NULL) ||
            (found && (len != strlen(cases[i].value) || memcmp(start, cases[i].value, len) != 0)))
            fail_msg("%s, %s: %.*s", cases[i].text, cases[i].key, (int)len, start);
    }
}

static void json_finds_elements_in_text(void **state)
{
    const char *at = " [ 1.50 ,\"],[\" , {\"a\":[1,2]},[] ] ,9", *start;
    static const char *const values[] = {"1.50", "\"],[\"", "{\"a\":[1,2]}", "[]"};
    const char *empty = "[ ]";
    size_t len;

    (void)state;
    for (size_t i = 0; i < COUNT(values); i++) {
        assert_true(json_element_span(&at, &start, &len));
        assert_int_equal(len, strlen(values[i]));
        assert_memory_equal(start, values[i], len);
    }
    assert_false(json_element_span(&at, &start, &len));
    assert_false(json_element_span(&empty, &start, &len));
}

static void json_writes_commas_where_they_are_due(void **state)
{
    BUF_AUTO(b, 1000);

    (void)state;
    json_open(&b, '{');
    json_put_member_str(&b, "s", "x");
    json_put_member_str(&b, "none", NULL);
    json_put_member_int(&b, "n", -5);
    json_put_member_raw(&b, "raw", "[1, 2]\n ");
    json_put_member_raw(&b, "no_raw", NULL);
    json_put_key(&b, "list");
    json_open(&b, '[');
    json_put_bool(&b, true);
    json_put_bool(&b, false);
    json_put_str(&b, NULL);
    json_put_str(&b, "");
    json_put_str(&b, "ends with :");
    json_put_str(&b, "[");
    json_open(&b, '{');
    json_close(&b, '}');
    json_open(&b, '[');
    json_close(&b, ']');
    json_put_int(&b, INT64_MIN);
    json_close(&b, ']');
    json_put_key(&b, "last");
    json_open(&b, '{');
    json_close(&b, '}');
    json_close(&b, '}');
    assert_string_equal(b.data,
                        "{\"s\":\"x\",\"n\":-5,\"raw\":[1, 2],\"list\":[true,false,null,\"\","
                        "\"ends with :\",\"[\",{},[],-9223372036854775808],\"last\":{}}");
}

static void json_begins_afresh_behind_a_line_end_or_a_blank(void **state)
{
    BUF_AUTO(b, 1000);

    (void)state;
    buf_puts(&b, "data: ");
    json_open(&b, '{');
    json_close(&b, '}');
    buf_puts(&b, "\n");
    json_put_int(&b, 1);
    assert_string_equal(b.data, "data: {}\n1");
}

static void json_escapes_and_cleans_strings(void **state)
{
    BUF_AUTO(b, 1000);
    JSON_AUTO(back) = NULL;

    (void)state;
    json_open(&b, '[');
    json_put_str(&b, "\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9");
    json_put_strn(&b,
                  "a\xff"
                  "b\0c",
                  5);
    json_close(&b, ']');
    assert_string_equal(b.data, "[\"\\\"\\\\/\\b\\f\\n\\r\\t\\u0001\\u001f\x7f\xc3\xa9\","
                                "\"a\xef\xbf\xbd"
                                "b\xef\xbf\xbd"
                                "c\"]");
    back = parse(b.data);
    assert_string_equal(back->child->valuestring, "\"\\/\b\f\n\r\t\x01\x1f\x7f\xc3\xa9");
}

static void json_writers_say_when_the_buffer_is_full(void **state)
{
    (void)state;
    for (size_t max = 0; max < 30; max++) {
        BUF_AUTO(b, max);
        int rc = 0;

        rc |= json_open(&b, '{');
        rc |= json_put_member_str(&b, "key", "a\nb\"c");
        rc |= json_put_member_int(&b, "n", 12345);
        rc |= json_close(&b, '}'); /* {"key":"a\nb\"c","n":12345} has 27 bytes */
        assert_int_equal(rc, max < 27 ? -1 : 0);
        assert_true(b.len <= max);
    }
}

static void json_prints_what_it_read(void **state)
{
    static const struct {
        const char *text;
        const char *printed; /* NULL: the same */
    } cases[] = {
        {"null",                                    NULL                   },
        {"true",                                    NULL                   },
        {"\"\\n\xc3\xa9\"",                         NULL                   },
        {"[]",                                      NULL                   },
        {"{}",                                      NULL                   },
        {"[[],{},\"\",0]",                          NULL                   },
        {"{\"b\":1,\"a\":[1,{\"\":null}],\"b\":2}", NULL                   },
        {"\"\\u00e9\\/\"",                          "\"\xc3\xa9/\""        },
        {"1",                                       NULL                   },
        {"-7",                                      NULL                   },
        {"1.0",                                     "1"                    },
        {"0.1",                                     NULL                   },
        {"1.5",                                     NULL                   },
        {"79.714285714285708",                      "79.71428571428571"    },
        {"0.30000000000000004",                     NULL                   },
        {"9007199254740991",                        NULL                   },
        {"-9007199254740991",                       NULL                   },
        {"1700000000000000",                        NULL                   },
        {"1000000000000000000000",                  "1e+21"                },
        {"1.7976931348623157e+308",                 NULL                   },
        {"5e-324",                                  "4.94065645841247e-324"},
        {"1e999",                                   "null"                 },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        JSON_AUTO(root) = parse(cases[i].text);
        char *text = json_print(root);

        assert_string_equal(text, cases[i].printed ? cases[i].printed : cases[i].text);
        free(text);
    }
}

/* --- config --- */

struct settings {
    char *name;
    char *token;
    int64_t max_turns;
    uint64_t idle;
    uint64_t size;
    bool fast;
};

static const struct config_key keys[] = {
    CONFIG_KEY(struct settings, name, CONFIG_STR, "anna", "who"),
    CONFIG_SECRET(struct settings, token, CONFIG_STR, "", "a secret"),
    CONFIG_KEY(struct settings, max_turns, CONFIG_INT, "10", "how many"),
    CONFIG_KEY(struct settings, idle, CONFIG_MS, "30s", "how long"),
    CONFIG_KEY(struct settings, size, CONFIG_BYTES, "64KiB", "how large"),
    CONFIG_KEY(struct settings, fast, CONFIG_BOOL, "off", "how fast"),
    CONFIG_END,
};

static int load(struct settings *settings, struct err *err, int argc, const char *const *args)
{
    char *argv[8] = {NULL};
    int rc;

    for (int i = 0; i < argc; i++)
        argv[i] = xstrdup(args[i]);
    rc = config_load(settings, keys, argc, argv, err);
    for (int i = 0; i < argc; i++)
        free(argv[i]);
    return rc;
}

#define ARGS(...)                                                                                  \
    (int)(sizeof((const char *const[]){__VA_ARGS__}) / sizeof(char *)), (const char *const[])      \
    {                                                                                              \
        __VA_ARGS__                                                                                \
    }

static void config_has_defaults(void **state)
{
    struct settings s = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(config_load(&s, keys, 0, NULL, &err), 0);
    assert_string_equal(s.name, "anna");
    assert_string_equal(s.token, "");
    assert_int_equal(s.max_turns, 10);
    assert_int_equal(s.idle, 30000);
    assert_int_equal(s.size, 65536);
    assert_false(s.fast);
    config_release(&s, keys);
    assert_null(s.name);
    config_release(&s, keys);
}

static void config_command_line_beats_environment_beats_file(void **state)
{
    char path[] = "/tmp/nocturne-config-XXXXXX";
    int fd = mkstemp(path);
    struct settings s = {0};
    struct err err = {0};
    char *option = xasprintf("--config=%s", path);

    (void)state;
    assert_true(fd >= 0);
    assert_true(dprintf(fd, "# a comment\n\n  name = file \nmax-turns=1\nidle = 1m\r\nsize=1\n") >
                0);
    close(fd);
    setenv("NOCTURNE_IDLE", "2m", 1);
    setenv("NOCTURNE_SIZE", "2", 1);
    assert_int_equal(load(&s, &err, ARGS("--size=3GiB", option, "--fast", "yes")), 0);
    assert_string_equal(s.name, "file");
    assert_int_equal(s.max_turns, 1);
    assert_int_equal(s.idle, 120000);
    assert_int_equal(s.size, 3ULL << 30);
    assert_true(s.fast);
    config_release(&s, keys);
    unsetenv("NOCTURNE_IDLE");
    unsetenv("NOCTURNE_SIZE");
    unlink(path);
    free(option);
}

static void config_takes_each_way_to_write_a_value(void **state)
{
    static const struct {
        const char *arg;
        int64_t turns, idle, size;
        bool fast;
    } cases[] = {
        {"--max-turns=0",                   0,         30000, 65536,      false},
        {"--max_turns=9223372036854775807", INT64_MAX, 30000, 65536,      false},
        {"--idle=500ms",                    10,        500,   65536,      false},
        {"--idle=0s",                       10,        0,     65536,      false},
        {"--size=512",                      10,        30000, 512,        false},
        {"--size=1MiB",                     10,        30000, 1048576,    false},
        {"--size=2GiB",                     10,        30000, 2147483648, false},
        {"--fast=on",                       10,        30000, 65536,      true },
        {"--fast=true",                     10,        30000, 65536,      true },
        {"--fast=1",                        10,        30000, 65536,      true },
        {"--fast=no",                       10,        30000, 65536,      false},
        {"--name=",                         10,        30000, 65536,      false},
        {"--name=a=b",                      10,        30000, 65536,      false},
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct settings s = {0};
        struct err err = {0};

        if (load(&s, &err, ARGS(cases[i].arg)) < 0)
            fail_msg("%s: %s", cases[i].arg, err.msg);
        assert_int_equal(s.max_turns, cases[i].turns);
        assert_int_equal(s.idle, cases[i].idle);
        assert_int_equal(s.size, cases[i].size);
        assert_int_equal(s.fast, cases[i].fast);
        config_release(&s, keys);
    }
}

static void config_refuses_what_it_does_not_know(void **state)
{
    static const struct {
        const char *arg;
        const char *why;
    } cases[] = {
        {"--bogus=1",                       "unknown option --bogus"                             },
        {"--nam=1",                         "unknown option --nam"                               },
        {"--name2=1",                       "unknown option --name2"                             },
        {"--=1",                            "unknown option --"                                  },
        {"name",                            "unexpected argument \"name\""                       },
        {"-n",                              "unexpected argument \"-n\""                         },
        {"--name",                          "--name needs a value"                               },
        {"--max-turns=",                    "max_turns: \"\" is not a whole number"              },
        {"--max-turns=-1",                  "is not a whole number"                              },
        {"--max-turns=1.5",                 "is not a whole number"                              },
        {"--max-turns=1x",                  "is not a whole number"                              },
        {"--max-turns=9223372036854775808", "is not a whole number"                              },
        {"--idle=30",                       "idle: \"30\" is not a duration such as 500ms or 30s"},
        {"--size=1KB",                      "is not a size such as 512, 64KiB or 1MiB"           },
        {"--size=-1",                       "is not a size"                                      },
        {"--size=99999999999GiB",           "is not a size"                                      },
        {"--size=18446744073709551616",     "is not a size"                                      },
        {"--fast=maybe",                    "is not on or off"                                   },
        {"--fast=ON",                       "is not on or off"                                   },
        {"--config=/nonexistent/file",      "cannot open /nonexistent/file"                      },
    };

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct settings s = {0};
        struct err err = {0};

        if (load(&s, &err, ARGS(cases[i].arg)) == 0 || err.code != ERR_INVALID ||
            !strstr(err.msg, cases[i].why))
            fail_msg("%s: \"%s\"", cases[i].arg, err.msg);
        assert_null(s.name);
    }
}

static void config_wants_what_has_no_default(void **state)
{
    static const struct config_key needed[] = {
        CONFIG_KEY(struct settings, name, CONFIG_STR, NULL, "who"),
        CONFIG_END,
    };
    struct settings s = {0};
    struct err err = {0};

    (void)state;
    assert_int_equal(config_load(&s, needed, 0, NULL, &err), -1);
    assert_string_equal(err.msg, "name is not set (--name or NOCTURNE_NAME)");
}

static void config_never_shows_a_secret(void **state)
{
    struct settings s = {0};
    struct err err = {0};
    BUF_AUTO(out, 1000);

    (void)state;
    assert_int_equal(load(&s, &err, ARGS("--token=hush")), 0);
    config_describe(&s, keys, &out);
    assert_string_equal(out.data, "name=\"anna\" token=*** max_turns=10 idle=30000ms size=65536 "
                                  "fast=off");
    config_release(&s, keys);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(buf_appends_and_terminates),
        cmocka_unit_test(buf_refuses_to_pass_its_limit_and_changes_nothing),
        cmocka_unit_test(buf_drops_truncates_and_detaches),
        cmocka_unit_test(err_set_returns_minus_one_and_cuts_long_messages),
        cmocka_unit_test(mem_copies),
        cmocka_unit_test(reads_durations),
        cmocka_unit_test(reads_stamps),
        cmocka_unit_test(writes_stamps_that_read_back),
        cmocka_unit_test(backoff_doubles_up_to_its_cap),
        cmocka_unit_test(makes_uuids_in_the_order_of_time),
        cmocka_unit_test(knows_uuids),
        cmocka_unit_test(utf8_is_checked_and_cleaned),
        cmocka_unit_test(utf8_is_cut_between_sequences),
        cmocka_unit_test(json_refuses_what_is_not_one_value),
        cmocka_unit_test(json_takes_what_looks_like_a_nul_but_is_none),
        cmocka_unit_test(json_loose_takes_what_is_no_text),
        cmocka_unit_test(json_put_raw_leaves_no_line_end),
        cmocka_unit_test(json_stops_at_the_length_it_was_given),
        cmocka_unit_test(json_survives_deep_nesting),
        cmocka_unit_test(json_readers_name_the_key),
        cmocka_unit_test(json_finds_the_text_of_a_member),
        cmocka_unit_test(json_finds_elements_in_text),
        cmocka_unit_test(json_writes_commas_where_they_are_due),
        cmocka_unit_test(json_begins_afresh_behind_a_line_end_or_a_blank),
        cmocka_unit_test(json_escapes_and_cleans_strings),
        cmocka_unit_test(json_writers_say_when_the_buffer_is_full),
        cmocka_unit_test(json_prints_what_it_read),
        cmocka_unit_test(config_has_defaults),
        cmocka_unit_test(config_command_line_beats_environment_beats_file),
        cmocka_unit_test(config_takes_each_way_to_write_a_value),
        cmocka_unit_test(config_refuses_what_it_does_not_know),
        cmocka_unit_test(config_wants_what_has_no_default),
        cmocka_unit_test(config_never_shows_a_secret),
    };

    return cmocka_run_group_tests_name("base", tests, NULL, NULL);
}
