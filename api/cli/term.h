/*
 * What people see: text of the turn on stdout, everything about it on stderr.
 *
 * On a terminal, notes are dim and a status line stands below the text; control characters that
 * came from elsewhere are replaced, so that an answer cannot play with the terminal. Into a file
 * or a pipe everything goes plain, stdout byte for byte and without a status line.
 */
#pragma once

#include <stdbool.h>
#include <stddef.h>

#define TERM_STATUS_BYTES 160

struct term {
    bool out_tty, err_tty;
    bool shared;   /* stdout and stderr go to the same place */
    bool colour;   /* dim is allowed */
    bool mid_line; /* stdout's last byte was not a newline */
    size_t column; /* where stdout's cursor is, as if lines had no end */
    bool shown;    /* a status line is on the screen now */
    bool below;    /* and it is on the line under the text */
    char status[TERM_STATUS_BYTES];
};

void term_init(struct term *term);

/* Text on stdout, as it comes. */
void term_text(struct term *term, const char *text, size_t len);
void term_puts(struct term *term, const char *text);

/* End the line of stdout when one is begun. */
void term_break(struct term *term);

/* A line of its own on stderr, dim on a terminal. */
void term_note(struct term *term, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The same as it is, for what matters. */
void term_say(struct term *term, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

/* The status line from now on, "" for none. Only when stderr is a terminal. */
void term_status(struct term *term, const char *text);
