#include "term.h"

#include "buf.h"
#include "utf8.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

#define LINE_BYTES 4096

static bool is_same_file(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

void term_init(struct term *term)
{
    const char *name = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    bool able = name && *name && strcmp(name, "dumb") != 0;

    *term = (struct term){
        .out_tty = isatty(STDOUT_FILENO),
        .err_tty = isatty(STDERR_FILENO) && able,
        .shared = is_same_file(STDOUT_FILENO, STDERR_FILENO),
        .colour = able && !(no_colour && *no_colour),
    };
}

static void flush(void)
{
    /* A closed pipe is found by the write itself: there is nobody left to tell. */
    (void)fflush(stdout);
    (void)fflush(stderr);
}

static void hide(struct term *term)
{
    if (!term->shown)
        return;
    fputs(term->below ? "\0337\033[B\r\033[K\0338" : "\r\033[K", stderr);
    (void)fflush(stderr);
    term->shown = false;
}

static size_t width(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 2)
        return 79;
    return size.ws_col - 1U;
}

/*
 * Under a line that is still being written: go down and up once so that there is a line below
 * even at the bottom of the screen, then write there and come back.
 */
static void show(struct term *term)
{
    size_t len = strlen(term->status), max = width();

    if (!term->err_tty || len == 0)
        return;
    if (len > max)
        len = utf8_prefix(term->status, max);
    term->below = term->mid_line && term->out_tty;
    fprintf(stderr, term->below ? "\033D\033M\0337\033[B\r" : "\r");
    fprintf(stderr, "%s%.*s%s\033[K", term->colour ? "\033[2m" : "", (int)len, term->status,
            term->colour ? "\033[0m" : "");
    if (term->below)
        fputs("\0338", stderr);
    term->shown = true;
}

/* C0 but tab and newline, DEL, and C1 (two bytes in UTF-8) become '?'. */
static void write_clean(FILE *out, const char *text, size_t len)
{
    size_t from = 0;

    for (size_t i = 0; i < len; i++) {
        unsigned char c = (unsigned char)text[i];
        bool c1 = c == 0xc2 && i + 1 < len && (unsigned char)text[i + 1] < 0xa0;

        if (!c1 && c != 0x7f && (c >= 0x20 || c == '\n' || c == '\t'))
            continue;
        fwrite(text + from, 1, i - from, out);
        fputc('?', out);
        i += c1;
        from = i + 1;
    }
    fwrite(text + from, 1, len - from, out);
}

void term_text(struct term *term, const char *text, size_t len)
{
    if (len == 0)
        return;
    hide(term);
    if (term->out_tty)
        write_clean(stdout, text, len);
    else
        fwrite(text, 1, len, stdout);
    term->mid_line = text[len - 1] != '\n';
    (void)fflush(stdout);
    show(term);
    flush();
}

void term_puts(struct term *term, const char *text)
{
    term_text(term, text, strlen(text));
}

void term_break(struct term *term)
{
    if (term->mid_line)
        term_text(term, "\n", 1);
}

static void line(struct term *term, bool dim, const char *fmt, va_list ap)
{
    char text[LINE_BYTES];

    vsnprintf(text, sizeof(text), fmt, ap);
    text[utf8_prefix(text, strlen(text))] = '\0';
    if (term->out_tty || term->shared)
        term_break(term);
    hide(term);
    dim = dim && term->err_tty && term->colour;
    if (dim)
        fputs("\033[2m", stderr);
    if (term->err_tty)
        write_clean(stderr, text, strlen(text));
    else
        fputs(text, stderr);
    fputs(dim ? "\033[0m\n" : "\n", stderr);
    show(term);
    flush();
}

void term_note(struct term *term, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    line(term, true, fmt, ap);
    va_end(ap);
}

void term_say(struct term *term, const char *fmt, ...)
{
    va_list ap;

    va_start(ap, fmt);
    line(term, false, fmt, ap);
    va_end(ap);
}

void term_status(struct term *term, const char *text)
{
    if (!term->err_tty)
        return;
    hide(term);
    snprintf(term->status, sizeof(term->status), "%s", text);
    show(term);
    flush();
}
