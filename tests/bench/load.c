/*
 * Load over HTTP, for tests/bench/run. Prints one JSON object.
 *
 *   load requests --port P --path PATH [--method M] [--body TEXT|@FILE] [--paths FILE]
 *                 --clients N (--total N | --seconds S) [--rate R] [--ids FILE]
 *   load streams  --port P --path PATH --body TEXT --clients N --expect TOKENS [--events yes]
 *                 [--ramp MS] [--seconds S]
 *   load hold     --port P (--path PATH | --paths FILE) --clients N [--events yes]
 *
 * --paths names a file with a path a line, taken in turn; --ids takes the submitted tasks as
 * lines of wall-clock microseconds before the request and id; --seconds ends streams early.
 */
#include "load/load.h"

#include "mem.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define TEXT_MAX (64 << 20)

static char *read_file(const char *path)
{
    FILE *f = fopen(path, "r");
    struct buf b;
    char bytes[65536];
    size_t n;

    if (!f) {
        perror(path);
        exit(2);
    }
    buf_init(&b, TEXT_MAX);
    while ((n = fread(bytes, 1, sizeof(bytes), f)) > 0)
        if (buf_append(&b, bytes, n) < 0)
            exit(2);
    fclose(f);
    return buf_detach(&b);
}

struct request request_make(const char *method, const char *path, const char *body, bool stream)
{
    struct request r;
    const char *accept = stream ? "Accept: text/event-stream\r\n" : "";

    if (body)
        r.text = xasprintf("%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\n"
                           "%sContent-Length: %zu\r\n\r\n%s",
                           method, path, accept, strlen(body), body);
    else
        r.text = xasprintf("%s %s HTTP/1.1\r\nHost: 127.0.0.1\r\n%s\r\n", method, path, accept);
    r.len = strlen(r.text);
    return r;
}

struct request *requests_make(const struct options *o, size_t *ret_n)
{
    char *body = o->body && o->body[0] == '@' ? read_file(o->body + 1) : NULL;
    const char *text = body ? body : o->body, *method = o->method;
    char *lines = o->paths ? read_file(o->paths) : xstrdup(o->path), *state = NULL;
    struct request *list = NULL;
    bool stream = o->expect > 0 && !o->events; /* the answer to the post itself */

    *ret_n = 0;
    method = method ? method : text ? "POST" : "GET";
    for (char *p = strtok_r(lines, "\n", &state); p; p = strtok_r(NULL, "\n", &state)) {
        list = xrealloc(list, (*ret_n + 1) * sizeof(*list));
        list[(*ret_n)++] = request_make(method, p, text, stream);
    }
    free(lines);
    free(body);
    if (!*ret_n) {
        fprintf(stderr, "load: there is no path\n");
        exit(2);
    }
    return list;
}

static int parse(struct options *o, int argc, char **argv)
{
    for (int i = 0; i + 1 < argc; i += 2) {
        const char *name = argv[i], *value = argv[i + 1];

        if (!strcmp(name, "--port"))
            o->port = (int)strtol(value, NULL, 10);
        else if (!strcmp(name, "--method"))
            o->method = value;
        else if (!strcmp(name, "--path"))
            o->path = value;
        else if (!strcmp(name, "--paths"))
            o->paths = value;
        else if (!strcmp(name, "--body"))
            o->body = value;
        else if (!strcmp(name, "--events"))
            o->events = value;
        else if (!strcmp(name, "--ids"))
            o->ids = value;
        else if (!strcmp(name, "--clients"))
            o->clients = strtol(value, NULL, 10);
        else if (!strcmp(name, "--total"))
            o->total = strtol(value, NULL, 10);
        else if (!strcmp(name, "--expect"))
            o->expect = strtol(value, NULL, 10);
        else if (!strcmp(name, "--ramp"))
            o->ramp_ms = strtol(value, NULL, 10);
        else if (!strcmp(name, "--seconds"))
            o->seconds = strtod(value, NULL);
        else if (!strcmp(name, "--rate"))
            o->rate = strtod(value, NULL);
        else
            return -1;
    }
    return o->port > 0 && o->clients > 0 && (o->path || o->paths) && argc % 2 == 0 ? 0 : -1;
}

int main(int argc, char **argv)
{
    struct options o = {.clients = 1, .ramp_ms = 1000};
    struct rlimit files;

    if (getrlimit(RLIMIT_NOFILE, &files) == 0) {
        files.rlim_cur = files.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &files);
    }
    signal(SIGPIPE, SIG_IGN);
    if (argc > 1 && parse(&o, argc - 2, argv + 2) == 0) {
        if (!strcmp(argv[1], "requests"))
            return load_requests(&o);
        if (!strcmp(argv[1], "streams"))
            return load_streams(&o);
        if (!strcmp(argv[1], "hold"))
            return load_hold(&o);
    }
    fprintf(stderr, "usage: load requests|streams|hold --port P --path PATH --clients N ...\n"
                    "(see tests/bench/load.c)\n");
    return 2;
}
