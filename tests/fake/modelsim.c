/*
 * modelsim: a scripted stand-in for an OpenAI-compatible model, fast enough to feed thousands of
 * streams. What it answers is written in the last user message; the language and the control
 * routes are those of conformance/genkit/modelsim.mjs (its README has the list), and both answer
 * the same script with the same bytes (tests/wire/modelsim.sh).
 *
 * Extensions of ours, not in the other one:
 *   stamp <N> tokens [<D>ms [<B> bytes]]  as `stream`, but each token is the wall clock in
 *                             microseconds and a space, so that a reader can tell how old a token
 *                             is (benches only); with B, dots behind it make it so long, up to 80
 *   GET /__sim/stats          {"open":N,"requests":N,"tokens":N}
 *
 *   sim/script  text -> actions          sim/chat    what a script may ask about its conversation
 *   sim/reply   actions -> frames        sim/js      JavaScript's ways, so that bytes are equal
 *   sim/reqlog  what was asked           sim/board   gates and counters
 */
#include "sim/refuse.h"
#include "sim/reply.h"

#include "json.h"
#include "log.h"
#include "loop.h"
#include "mem.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>

#define DRAIN_MS 100

struct server {
    struct loop loop;
    struct sim sim;
    struct httpd *httpd;
};

/* ---- control ---- */

static void answer(struct httpd_req *req, int status, const char *json)
{
    httpd_reply(req, status, "application/json", json, strlen(json));
}

static void answer_requests(struct sim *sim, struct httpd_req *req)
{
    BUF_AUTO(b, BUF_MAX);

    reqlog_print(&sim->log, &b);
    httpd_reply(req, 200, "application/json", b.data, b.len);
}

static void answer_stats(const struct sim *sim, struct httpd_req *req)
{
    BUF_AUTO(b, 256);

    (void)buf_printf(&b, "{\"open\":%" PRIu64 ",\"requests\":%" PRIu64 ",\"tokens\":%" PRIu64 "}",
                     sim->n_open, sim->log.newest, sim->n_tokens);
    answer(req, 200, b.data);
}

static int hex_digit(char c)
{
    const char *digits = "0123456789abcdef", *p = c ? strchr(digits, c | 0x20) : NULL;

    return p && (c <= '9' || (c | 0x20) >= 'a') ? (int)(p - digits) : -1;
}

/* decodeURIComponent() in place; -1 when it is malformed. */
static int decode(char *text)
{
    char *to = text;

    for (const char *from = text; *from; from++) {
        int high, low;

        if (*from != '%') {
            *to++ = *from;
            continue;
        }
        high = hex_digit(from[1]);
        low = high < 0 ? -1 : hex_digit(from[2]);
        if (low < 0 || high * 16 + low == 0)
            return -1;
        *to++ = (char)(high * 16 + low);
        from += 2;
    }
    *to = '\0';
    return 0;
}

static void answer_gate(struct sim *sim, struct httpd_req *req, const char *encoded)
{
    char *name = xstrdup(encoded);

    if (decode(name) < 0)
        refuse(req, 500, "sim_error", "URI malformed");
    else if (board_open(&sim->board, name) < 0)
        refuse(req, 500, "sim_error", "too many gates");
    else
        answer(req, 200, "{\"ok\":true}");
    free(name);
}

static void answer_control(struct sim *sim, struct httpd_req *req, const char *what)
{
    if (!strcmp(what, "health")) {
        answer(req, 200, "{\"ok\":true}");
    } else if (!strcmp(what, "requests")) {
        answer_requests(sim, req);
    } else if (!strcmp(what, "stats")) {
        answer_stats(sim, req);
    } else if (!strcmp(what, "reset")) {
        reqlog_reset(&sim->log);
        board_reset(&sim->board);
        answer(req, 200, "{\"ok\":true}");
    } else if (!strncmp(what, "gate/", 5)) {
        answer_gate(sim, req, what + 5);
    } else {
        answer(req, 404, "{\"error\":\"unknown control path\"}");
    }
}

/* ---- routes ---- */

static bool ends_with(const char *text, const char *end)
{
    size_t len = strlen(text), end_len = strlen(end);

    return len >= end_len && !strcmp(text + len - end_len, end);
}

static void on_request(struct httpd_req *req, void *owner)
{
    struct server *server = owner;

    if (!strncmp(req->path, "/__sim/", 7))
        answer_control(&server->sim, req, req->path + 7);
    else if (!strcmp(req->method, "GET") && ends_with(req->path, "/models"))
        answer(req, 200,
               "{\"object\":\"list\",\"data\":[{\"id\":\"" SIM_MODEL "\",\"object\":\"model\","
               "\"created\":0,\"owned_by\":\"modelsim\"}]}");
    else if (!strcmp(req->method, "POST") && ends_with(req->path, "/chat/completions"))
        reply_start(&server->sim, req);
    else
        refuse(req, 404, "not_found_error", "not found");
}

/* ---- the program ---- */

static void on_drained(void *owner)
{
    struct server *server = owner;

    reply_drop_all(&server->sim);
    reqlog_reset(&server->sim.log);
    board_reset(&server->sim.board);
    loop_finish(&server->loop);
}

static void on_stop(void *owner)
{
    struct server *server = owner;

    httpd_drain(server->httpd, DRAIN_MS, NULL, on_drained, server);
}

static int server_open(struct server *server, const char *host, int port, struct err *err)
{
    const struct httpd_conf conf = {
        .host = host,
        .port = port,
        .max_head_bytes = 64 * 1024,
        .max_body_bytes = (size_t)64 << 20,
        .max_out_bytes = BUF_MAX, /* the log is answered in one piece; streams watch their queue */
        .max_conns = 60000,
        .head_ms = 60000,
        .body_ms = 600000,
        .idle_ms = 600000,
        .on_request = on_request,
        .owner = server,
    };

    server->httpd = httpd_open(&server->loop.uv, &conf, err);
    return server->httpd ? 0 : -1;
}

/* Thousands of streams need as many sockets. */
static void raise_file_limit(void)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        limit.rlim_cur = limit.rlim_max;
        (void)setrlimit(RLIMIT_NOFILE, &limit); /* fewer will do for most */
    }
}

static int serve(const char *host, int port)
{
    struct server *server = xcalloc(1, sizeof(*server));
    struct err err = {0};
    int rc;

    loop_init(&server->loop, on_stop, server);
    server->sim.uv = &server->loop.uv;
    list_init(&server->sim.replies);
    reqlog_init(&server->sim.log);
    board_init(&server->sim.board);
    if (server_open(server, host, port, &err) < 0) {
        fprintf(stderr, "modelsim: %s\n", err.msg);
        loop_finish(&server->loop);
        (void)loop_run(&server->loop);
        free(server);
        return 1;
    }
    printf("modelsim listening on http://%s:%d/v1\n", host, httpd_port(server->httpd));
    fflush(stdout);
    rc = loop_run(&server->loop);
    free(server);
    return rc;
}

static int usage(FILE *to)
{
    fputs("usage: modelsim [--port N] [--host ADDRESS]\n"
          "\n"
          "An OpenAI-compatible model that does what the last user message says.\n"
          "  --port N        0 takes any free one; default MODEL_PORT or 9099\n"
          "  --host ADDRESS  default 127.0.0.1\n"
          "\n"
          "Actions, joined by ' then ':\n"
          "  say TEXT | slow Dms TEXT | stream N tokens [Dms] | repeat N TEXT | big N\n"
          "  reason TEXT | call TOOL JSON [and call TOOL JSON ...] | badargs TOOL RAW\n"
          "  loop TOOL JSON | iftool \"NEEDLE\" ACTION otherwise ACTION | finish REASON\n"
          "  usage P C | empty | wait Dms | gate NAME | hang | fail STATUS\n"
          "  ratelimit N [after S] | flaky N [STATUS] | drop | garbage | nodone\n"
          "  stamp N tokens [Dms]   an extension for benches: each token is the wall clock\n"
          "                         in microseconds and a space\n"
          "Templates: {{tool}} {{tool:NAME}} {{tools}} {{n}} {{users}} {{history}} {{system}}\n"
          "Control: GET /__sim/health, /__sim/requests, /__sim/stats (an extension);\n"
          "         POST /__sim/gate/NAME, /__sim/reset\n",
          to);
    return to == stdout ? 0 : 2;
}

static int parse_port(const char *text, int *ret_port)
{
    char *end;
    long port;

    errno = 0;
    port = strtol(text, &end, 10);
    if (errno || end == text || *end || port < 0 || port > 65535)
        return -1;
    *ret_port = (int)port;
    return 0;
}

int main(int argc, char **argv)
{
    static const struct option options[] = {
        {"port", required_argument, NULL, 'p'},
        {"host", required_argument, NULL, 'H'},
        {"help", no_argument,       NULL, 'h'},
        {NULL,   0,                 NULL, 0  }
    };
    const char *host = "127.0.0.1", *port_text = getenv("MODEL_PORT");
    int option, port;

    while ((option = getopt_long(argc, argv, "p:h", options, NULL)) != -1) {
        if (option == 'p')
            port_text = optarg;
        else if (option == 'H')
            host = optarg;
        else
            return usage(option == 'h' ? stdout : stderr);
    }
    if (optind < argc || parse_port(port_text ? port_text : "9099", &port) < 0)
        return usage(stderr);
    log_init("modelsim", LOG_WARN);
    raise_file_limit();
    return serve(host, port);
}
