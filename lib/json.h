/*
 * JSON that someone else wrote, read on top of cJSON; JSON of ours, written straight into a buf.
 *
 * cJSON trees live inside one function or one struct and never cross a module boundary: read
 * them into plain fields at once. A JSON value we only pass on stays text (json_member_span()),
 * so that its numbers and order survive. Numbers are doubles in cJSON, so ids travel as strings
 * and json_int() refuses what a double cannot hold exactly.
 *
 * Each reader fails with ERR_INVALID and names the key in the message, which may go back to the
 * client. Strings point into the tree. Keys are compared case-sensitively.
 */
#pragma once

#include "buf.h"
#include "err.h"

#include <cjson/cJSON.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* JSON_AUTO(root) = json_parse(...): deleted at end of scope. */
#define JSON_AUTO(name) __attribute__((cleanup(json_release))) cJSON *name
void json_release(cJSON **root);

/*
 * NULL on failure. Refuses anything but white space after the value, text that is not UTF-8,
 * the escape \u0000 (which neither a C string nor PostgreSQL's text can hold), and what cJSON
 * would let pass: control characters, numbers such as 01 or 1.
 */
cJSON *json_parse(const char *text, size_t len, struct err *err);

/*
 * As json_parse(), for JSON of peers that cut texts anywhere: what is no UTF-8 and the escape
 * \u0000 become U+FFFD, and half of a surrogate pair stays as its three bytes (ED A0..BF xx,
 * which is no UTF-8) for the caller to join with the other half or to replace.
 */
cJSON *json_parse_loose(const char *text, size_t len, struct err *err);

/* The member `key` of `obj`, or NULL; JSON null counts as absent. */
const cJSON *json_get(const cJSON *obj, const char *key);
int json_str(const cJSON *obj, const char *key, const char **ret_value, struct err *err);
int json_int(const cJSON *obj, const char *key, int64_t min, int64_t max, int64_t *ret_value,
             struct err *err);

/* The string member `key`, or `fallback` when it is absent or not a string. */
const char *json_str_or(const cJSON *obj, const char *key, const char *fallback);

/* Where the value of member `key` stands in `text`, which must be a valid JSON object. */
bool json_member_span(const char *text, const char *key, const char **ret_start, size_t *ret_len);

/*
 * The elements of the array that begins at `*at`, one a call: where the next one stands. `*at` is
 * moved behind it. False at the end.
 */
bool json_element_span(const char **at, const char **ret_start, size_t *ret_len);

/* Is it nested so deep that json_parse() might not read it again, with what is stored around it? */
bool json_is_deep(const cJSON *value);

/* `value` as compact text, its numbers exactly; to be freed by the caller. */
char *json_print(const cJSON *value);

/*
 * Writing. A comma is put before a key or value when one is due, so code reads
 *   json_open(b, '{'); json_put_key(b, "seq"); json_put_int(b, 7); json_close(b, '}');
 * All return 0, or -1 when the buffer's limit is hit.
 */
int json_open(struct buf *b, char bracket);  /* '{' or '[' */
int json_close(struct buf *b, char bracket); /* '}' or ']' */
int json_put_key(struct buf *b, const char *key);
int json_put_str(struct buf *b, const char *text); /* NULL is written as null */
int json_put_strn(struct buf *b, const char *text,
                  size_t len); /* bytes that are not UTF-8 become U+FFFD */
int json_put_int(struct buf *b, int64_t value);
/* May these bytes stand in a JSON string as they are? Valid UTF-8 with nothing to escape. */
bool json_is_plain(const char *text, size_t len);
int json_put_bool(struct buf *b, bool value);
/* a JSON value as it is, but on one line: events are lines */
int json_put_raw(struct buf *b, const char *json, size_t len);

/* json_put_key() and json_put_str() in one; nothing when `text` is NULL. */
int json_put_member_str(struct buf *b, const char *key, const char *text);
int json_put_member_int(struct buf *b, const char *key, int64_t value);
int json_put_member_raw(struct buf *b, const char *key, const char *json); /* nothing when NULL */
