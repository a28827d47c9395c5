/*
 * Request heads, strictly (RFC 9112), before llhttp sees them. Pure functions over bytes.
 *
 * Why twice: llhttp 8.1 lets folded header lines, bare LF and empty names through even in strict
 * mode, and a byte that two parsers of one chain read differently is how requests are smuggled.
 * The parser behind still decides where a body ends; a request must please both.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define HTTPD_MAX_FIELDS 128 /* header lines of one request; 431 above */

enum httpd_scan_at {
    HTTPD_AT_LINE, /* in the request line */
    HTTPD_AT_LINE_LF,
    HTTPD_AT_START, /* at the first byte of a header line, or of the empty line */
    HTTPD_AT_NAME,
    HTTPD_AT_VALUE,
    HTTPD_AT_VALUE_LF,
    HTTPD_AT_END_LF,
    HTTPD_AT_END,
};

/* Zeroed before the first byte of a head. */
struct httpd_scan {
    size_t pos;    /* bytes seen; the length of the head once it is whole */
    size_t fields; /* header lines begun */
    enum httpd_scan_at at;
};

enum { HTTPD_SCAN_MORE = 0, HTTPD_SCAN_WHOLE = 1 };

/*
 * Go on scanning `bytes`, which begins where the head begins and may have grown since the last
 * call. Returns one of the above, or the status to refuse with (400, 414, 431) and its reason.
 */
int httpd_scan(struct httpd_scan *scan, const char *bytes, size_t len, size_t max_bytes,
               const char **ret_reason);

struct httpd_field {
    const char *name; /* lower case */
    const char *value;
};

struct httpd_head {
    const char *method, *path, *query;
    struct httpd_field *fields;
    size_t field_count;
    uint64_t content_length;
    int minor; /* HTTP/1.minor */
    bool chunked;
    bool expect_continue;
};

/*
 * Take a scanned head apart in place. `text` and `fields` (scan.fields of them) are the caller's
 * and stay borrowed by `ret_head`. Returns 0, or the status to refuse with and its reason.
 */
int httpd_head_read(struct httpd_head *ret_head, char *text, size_t len, struct httpd_field *fields,
                    const char **ret_reason);

/* The first header of that name; NULL when absent. */
const char *httpd_head_get(const struct httpd_head *head, const char *lower_name);

/* Is `lower_token` an element of a comma-separated list, whatever its case? NULL has none. */
bool httpd_has_token(const char *list, const char *lower_token);

/* Letters, digits and !#$%&'*+-.^_`|~ : what methods and header names are made of. */
bool httpd_is_token(const char *text);
