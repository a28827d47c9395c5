#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include "hash.h"
#include "httpd_scan.h"
#include "mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_HEAD 1024

/* A head read whole; `text` and `fields` are what `head` points into. */
struct outcome {
    struct httpd_head head;
    struct httpd_field fields[HTTPD_MAX_FIELDS + 1];
    const char *reason;
    char *text;
    int status; /* 0: accepted, HTTPD_SCAN_MORE never */
    size_t len;
};

/* Exactly sized copies, so that the sanitizers see every byte read too far. */
static struct outcome *read_head(const char *bytes, size_t len)
{
    static struct outcome out; /* until the next call */
    struct httpd_scan scan = {0};
    char *exact = xmemdup(bytes, len);

    free(out.text);
    out = (struct outcome){0};
    exact = xrealloc(exact, len);
    out.status = httpd_scan(&scan, exact, len, MAX_HEAD, &out.reason);
    free(exact);
    if (out.status != HTTPD_SCAN_WHOLE)
        return &out;
    out.len = scan.pos;
    out.text = xmemdup(bytes, scan.pos);
    out.status = httpd_head_read(&out.head, out.text, scan.pos, out.fields, &out.reason);
    return &out;
}

static void check_status(const char *text, int status)
{
    struct outcome *out = read_head(text, strlen(text));

    if (out->status != status)
        fail_msg("%s: %d (%s) instead of %d", text, out->status, out->reason ? out->reason : "",
                 status);
}

static void takes_a_head_apart(void **state)
{
    static const char text[] = "POST /a/b?c=d?e HTTP/1.1\r\nHost: a:80\r\nX-One:\t two  \r\n"
                               "content-LENGTH: 12\r\nX-Empty:\r\n\r\nbody";
    struct outcome *out = read_head(text, sizeof(text) - 1);

    (void)state;
    assert_int_equal(out->status, 0);
    assert_int_equal(out->len, sizeof(text) - 1 - 4);
    assert_string_equal(out->head.method, "POST");
    assert_string_equal(out->head.path, "/a/b");
    assert_string_equal(out->head.query, "c=d?e");
    assert_int_equal(out->head.minor, 1);
    assert_int_equal(out->head.field_count, 4);
    assert_string_equal(httpd_head_get(&out->head, "x-one"), "two");
    assert_string_equal(httpd_head_get(&out->head, "x-empty"), "");
    assert_null(httpd_head_get(&out->head, "x-two"));
    assert_int_equal(out->head.content_length, 12);
}

static void finds_the_end_wherever_the_head_is_cut(void **state)
{
    static const char text[] = "GET / HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\nGET";
    size_t whole = sizeof(text) - 1 - 3;
    const char *reason;

    (void)state;
    for (size_t cut = 0; cut < whole; cut++) {
        struct httpd_scan scan = {0};

        assert_int_equal(httpd_scan(&scan, text, cut, MAX_HEAD, &reason), HTTPD_SCAN_MORE);
        assert_int_equal(httpd_scan(&scan, text, sizeof(text) - 1, MAX_HEAD, &reason),
                         HTTPD_SCAN_WHOLE);
        assert_int_equal(scan.pos, whole);
        assert_int_equal(scan.fields, 2);
    }
}

static void refuses_bytes_that_two_parsers_may_read_differently(void **state)
{
    (void)state;
    check_status("GET / HTTP/1.1\nHost: a\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\n\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\n\rX: y\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\rX: y\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX: a\r\n b\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\n Host: a\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\n: x\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX : y\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX: \x01\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX: \x7f\r\n\r\n", 400);
    check_status("GET /\t HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("GET /\x80 HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nX: \xc3\xa9\r\n\r\n", 0);
}

static void refuses_a_nul_anywhere(void **state)
{
    char text[] = "GET /x HTTP/1.1\r\nHost: a\r\nX: y\r\n\r\n";

    (void)state;
    for (size_t i = 0; i < sizeof(text) - 1; i++) {
        struct outcome *out;
        char was = text[i];

        text[i] = '\0';
        out = read_head(text, sizeof(text) - 1);
        assert_int_equal(out->status, 400);
        text[i] = was;
    }
}

static void tells_versions_spoken_from_others_and_from_noise(void **state)
{
    (void)state;
    check_status("GET / HTTP/1.0\r\n\r\n", 0);
    check_status("GET / HTTP/1.1\r\nHost: a\r\n\r\n", 0);
    check_status("GET / HTTP/1.2\r\nHost: a\r\n\r\n", 505);
    check_status("GET / HTTP/0.9\r\nHost: a\r\n\r\n", 505);
    check_status("PRI * HTTP/2.0\r\n\r\n", 505);
    check_status("GET / http/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("GET / HTTP/1.10\r\nHost: a\r\n\r\n", 400);
    check_status("GET /\r\nHost: a\r\n\r\n", 400);
    check_status("GET\r\nHost: a\r\n\r\n", 400);
    check_status("GET  HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status(" / HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("\r\n\r\n", 400);
}

static void check_target(const char *target, const char *path, const char *query)
{
    char text[200];
    struct outcome *out;

    snprintf(text, sizeof(text), "OPTIONS %s HTTP/1.1\r\nHost: a\r\n\r\n", target);
    out = read_head(text, strlen(text));
    if (!path) {
        assert_int_equal(out->status, 400);
    } else {
        assert_int_equal(out->status, 0);
        assert_string_equal(out->head.path, path);
        assert_string_equal(out->head.query, query);
    }
}

static void reads_each_form_of_target(void **state)
{
    (void)state;
    check_target("/", "/", "");
    check_target("/?", "/", "");
    check_target("/a%2fb?x=1&y=?", "/a%2fb", "x=1&y=?");
    check_target("*", "*", "");
    check_target("http://a", "/", "");
    check_target("HTTPS://a:1?x", "/", "x");
    check_target("http://a/b?x", "/b", "x");
    check_target("http:///b", NULL, NULL);
    check_target("http://", NULL, NULL);
    check_target("ftp://a/b", NULL, NULL);
    check_target("a", NULL, NULL);
    check_target("/a#b", NULL, NULL);
    check_status("GET * HTTP/1.1\r\nHost: a\r\n\r\n", 400);
    check_status("CONNECT a:1 HTTP/1.1\r\nHost: a\r\n\r\n", 501);
}

static void wants_one_well_formed_host(void **state)
{
    (void)state;
    check_status("GET / HTTP/1.1\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a\r\nhost: a\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a@b\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: a, b\r\n\r\n", 400);
    check_status("GET / HTTP/1.1\r\nHost: [::1]:80\r\n\r\n", 0);
    check_status("GET / HTTP/1.1\r\nHost:\r\n\r\n", 0);
}

#define POST "POST / HTTP/1.1\r\nHost: a\r\n"

static void wants_one_plain_content_length(void **state)
{
    (void)state;
    check_status(POST "Content-Length: 0\r\n\r\n", 0);
    check_status(POST "Content-Length: 999999999999999999\r\n\r\n", 0);
    check_status(POST "Content-Length: 1000000000000000000\r\n\r\n", 400);
    check_status(POST "Content-Length:\r\n\r\n", 400);
    check_status(POST "Content-Length: +5\r\n\r\n", 400);
    check_status(POST "Content-Length: 5, 5\r\n\r\n", 400);
    check_status(POST "Content-Length: 0x5\r\n\r\n", 400);
    check_status(POST "Content-Length: 5\r\nContent-Length: 5\r\n\r\n", 400);
}

static void takes_chunked_alone(void **state)
{
    (void)state;
    check_status(POST "Transfer-Encoding: CHUNKED\r\n\r\n", 0);
    check_status(POST "Transfer-Encoding: chunked\r\nContent-Length: 5\r\n\r\n", 400);
    check_status(POST "Content-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
    check_status(POST "Transfer-Encoding: chunked\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
    check_status(POST "Transfer-Encoding: gzip, chunked\r\n\r\n", 501);
    check_status(POST "Transfer-Encoding: \x0b"
                      "chunked\r\n\r\n",
                 400);
    check_status("POST / HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n", 400);
}

static void knows_one_expectation(void **state)
{
    (void)state;
    check_status(POST "Expect: 100-Continue\r\n\r\n", 0);
    check_status(POST "Expect: 200-ok\r\n\r\n", 417);
    check_status("POST / HTTP/1.0\r\nExpect: 200-ok\r\n\r\n", 0);
}

/* `text` without its '\0'. */
static void put(char *at, const char *text)
{
    while (*text)
        *at++ = *text++;
}

static void limits_the_size_of_each_part(void **state)
{
    char text[2 * MAX_HEAD];
    struct outcome *out;
    int len;

    (void)state;
    memset(text, 'a', sizeof(text));
    out = read_head(text, sizeof(text));
    assert_int_equal(out->status, 414);
    len = snprintf(text, sizeof(text), "GET / HTTP/1.1\r\nHost: a\r\nX: ");
    text[len] = 'a';
    out = read_head(text, sizeof(text));
    assert_int_equal(out->status, 431);
    len = snprintf(text, sizeof(text), "GET / HTTP/1.1");
    for (int i = 0; i <= HTTPD_MAX_FIELDS; i++, len += 5)
        put(text + len, "\r\nX:a");
    out = read_head(text, (size_t)len);
    assert_int_equal(out->status, 431);
}

static void takes_a_head_of_exactly_the_limit_and_no_more(void **state)
{
    char text[MAX_HEAD + 1];

    (void)state;
    for (int extra = -1; extra <= 0; extra++) {
        size_t len = (size_t)(MAX_HEAD + extra);
        struct outcome *out;

        memset(text, 'a', sizeof(text));
        put(text, "GET / HTTP/1.1\r\nHost: ");
        put(text + len - 4, "\r\n\r\n");
        out = read_head(text, len);
        assert_int_equal(out->status, 0);
    }
    memset(text, 'a', sizeof(text));
    put(text, "GET / HTTP/1.1\r\nHost: ");
    put(text + sizeof(text) - 4, "\r\n\r\n");
    assert_int_equal(read_head(text, sizeof(text))->status, 431);
}

static void finds_tokens_in_lists(void **state)
{
    (void)state;
    assert_true(httpd_has_token("keep-alive, Upgrade", "upgrade"));
    assert_true(httpd_has_token("upgrade", "upgrade"));
    assert_true(httpd_has_token(",\t upgrade ,x", "upgrade"));
    assert_false(httpd_has_token("upgraded", "upgrade"));
    assert_false(httpd_has_token("", "upgrade"));
    assert_false(httpd_has_token(" , ", "upgrade"));
    assert_false(httpd_has_token(NULL, "upgrade"));
}

static void hashes_known_texts(void **state)
{
    unsigned char digest[HASH_SHA1_BYTES];
    char hex[HASH_SHA256_HEX_BYTES], base64[HASH_BASE64_BYTES(HASH_SHA1_BYTES)];

    (void)state;
    hash_sha1("dGhlIHNhbXBsZSBub25jZQ==258EAFA5-E914-47DA-95CA-C5AB0DC85B11", 60, digest);
    hash_base64(digest, sizeof(digest), base64);
    assert_string_equal(base64, "s3pPLMBiTxaQ9kYGzzhZRbK+xOo="); /* RFC 6455 1.3 */
    hash_sha256_hex("abc", 3, hex);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    hash_sha256_hex("", 0, hex);
    assert_string_equal(hex, "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855");
    hash_base64("", 0, base64);
    assert_string_equal(base64, "");
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(takes_a_head_apart),
        cmocka_unit_test(finds_the_end_wherever_the_head_is_cut),
        cmocka_unit_test(refuses_bytes_that_two_parsers_may_read_differently),
        cmocka_unit_test(refuses_a_nul_anywhere),
        cmocka_unit_test(tells_versions_spoken_from_others_and_from_noise),
        cmocka_unit_test(reads_each_form_of_target),
        cmocka_unit_test(wants_one_well_formed_host),
        cmocka_unit_test(wants_one_plain_content_length),
        cmocka_unit_test(takes_chunked_alone),
        cmocka_unit_test(knows_one_expectation),
        cmocka_unit_test(limits_the_size_of_each_part),
        cmocka_unit_test(takes_a_head_of_exactly_the_limit_and_no_more),
        cmocka_unit_test(finds_tokens_in_lists),
        cmocka_unit_test(hashes_known_texts),
    };

    return cmocka_run_group_tests_name("httpd_scan", tests, NULL, NULL);
}
