/*
 * Errors that cross a module boundary.
 *
 * A function that can fail returns 0 or -1 and takes a `struct err *err` as its last parameter.
 * On failure it fills `err`; on success it leaves it untouched. The code says how the caller may
 * react, the message is fit to be logged or shown to a user as it is: lower case, no full stop.
 */
#pragma once

enum err_code {
    ERR_OK = 0,
    ERR_INVALID,     /* the input is wrong; trying again cannot help */
    ERR_NOT_FOUND,   /* no such thing */
    ERR_CONFLICT,    /* someone else got there first */
    ERR_UNAVAILABLE, /* the other side is down or overloaded; try later */
    ERR_TIMEOUT,     /* no answer in time; the effect is unknown */
    ERR_CANCELED,    /* we gave up on purpose */
    ERR_BUG,         /* cannot happen; report it */
};

struct err {
    enum err_code code;
    char msg[240];
};

/* Fill `err` and return -1, so that a caller can `return err_set(...)`. */
int err_set(struct err *err, enum err_code code, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));

/* The code as lower-case text for logs and JSON, e.g. "not_found". */
const char *err_name(enum err_code code);
