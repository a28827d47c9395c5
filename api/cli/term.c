#include "term.h"

#include "buf.h"
#include "utf8.h"

#include <locale.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wchar.h>

#define LINE_BYTES      4096
#define DEFAULT_COLUMNS 80
#define TAB_COLUMNS     8

static bool is_same_file(int a, int b)
{
    struct stat x, y;

    return fstat(a, &x) == 0 && fstat(b, &y) == 0 && x.st_dev == y.st_dev && x.st_ino == y.st_ino;
}

void term_init(struct term *term)
{
    const char *name = getenv("TERM"), *no_colour = getenv("NO_COLOR");
    bool able = name && *name && strcmp(name, "dumb") != 0;

    (void)setlocale(LC_CTYPE, ""); /* for wcwidth(); without, every byte counts as one column */
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

static size_t count_columns(void)
{
    struct winsize size;

    if (ioctl(STDERR_FILENO, TIOCGWINSZ, &size) < 0 || size.ws_col < 2)
        return DEFAULT_COLUMNS;
    return size.ws_col;
}

/* Where the cursor is after `text`: wide characters take two columns, combining ones none. */
static size_t move_column(size_t column, const char *text, size_t len, size_t columns)
{
    mbstate_t state = {0};
    wchar_t c;

    for (size_t i = 0, n; i < len; i += n) {
        int wide;

        n = mbrtowc(&c, text + i, len - i, &state);
        if (n == 0 || n > len - i) {
            n = 1; /* no character: the terminal shows one thing or another */
            c = L'?';
            state = (mbstate_t){0};
        }
        wide = wcwidth(c);
        if (c == L'\n')
            column = 0;
        else if (c == L'\t')
            column += TAB_COLUMNS - column % columns % TAB_COLUMNS;
        else if (wide > 1 && column % columns == columns - 1)
            column += 1 + (size_t)wide; /* it does not fit and goes to the next line */
        else
            column += wide < 0 ? 1 : (size_t)wide; /* a '?' stands for what is not shown */
    }
    return column;
}

/*
 * Under a line that is still being written: go down and up once so that there is a line below
 * even at the bottom of the screen, then write there and come back. Not when the line is just
 * full: terminals forget by that that the next character belongs to the next line.
 */
static void show(struct term *term)
{
    size_t len = strlen(term->status), columns = count_columns();

    if (!term->err_tty || len == 0)
        return;
    if (term->out_tty && term->column > 0 && term->column % columns == 0)
        return;
    if (len >= columns)
        len = utf8_prefix(term->status, columns - 1);
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
    if (term->out_tty && term->err_tty)
        term->column = move_column(term->column, text, len, count_columns());
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
