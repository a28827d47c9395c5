/* The command line: a table of commands, and nothing else. */
#include "commands.h"
#include "exit.h"

#include <signal.h>
#include <string.h>

#define URL  ARG("url", ARG_STR, url, "URL", "the API (NOCTURNE_URL, http://127.0.0.1:8700)")
#define JSON ARG("json", ARG_FLAG, json, NULL, "print JSON as the API gives it")
#define DATABASE                                                                                   \
    ARG("database", ARG_STR, database, "URL",                                                      \
        "PostgreSQL (NOCTURNE_DATABASE, else that of `nocturne dev` in .nocturne)")
#define STAY                                                                                       \
    ARG("follow", ARG_FLAG, follow, NULL, "show the turn until it ends; Ctrl-C leaves it"),        \
        ARG("wait", ARG_FLAG, wait, NULL, "print the answer when it is there"),                    \
        ARG("timeout", ARG_MS, timeout_ms, "T", "with --wait: not longer than this, e.g. 30s"),    \
        ARG("idempotency-key", ARG_STR, idempotency_key, "KEY",                                    \
            "the same key gives the same task, however often it is sent")

static const struct arg_option submit_options[] = {
    STAY,
    ARG("session", ARG_STR, session, "ID", "continue this conversation, or begin it"),
    ARG("snapshot", ARG_STR, snapshot, "ID", "continue from this snapshot: a branch"),
    ARG("parent", ARG_STR, parent, "ID",
        "aborted with this task ($NOCTURNE_TASK_ID; none: with no other)"),
    ARG("run-at", ARG_STR, run_at, "T", "not before: a time, or a duration from now"),
    ARG("deadline", ARG_STR, deadline, "T", "not after: a time, or a duration from now"),
    ARG("priority", ARG_INT, priority, "N", "0 to 9, smaller runs first"),
    ARG("max-attempts", ARG_INT, max_attempts, "N", "how often a failed turn is tried"),
    ARG("metadata", ARG_STR, metadata, "JSON", "an object to be kept with the task"),
    ARG("input", ARG_STR, input, "JSON", "any JSON as the input, in place of TEXT"),
    JSON,
    URL,
    ARG_END,
};
static const struct arg_option resume_options[] = {
    ARG("respond", ARG_LIST, respond, "TOOL=JSON", "the answer to a question; may be repeated"),
    ARG("restart", ARG_LIST, restart, "TOOL", "let a tool run that asked before; may be repeated"),
    STAY,
    JSON,
    URL,
    ARG_END,
};
static const struct arg_option retry_options[] = {
    ARG("fresh", ARG_FLAG, fresh, NULL, "from the beginning, and tools get new idempotency keys"),
    STAY,
    JSON,
    URL,
    ARG_END,
};
static const struct arg_option tail_options[] = {
    ARG("after", ARG_INT, after, "SEQ", "events after this one (0: from the start)"),
    ARG("json", ARG_FLAG, json, NULL, "print each event as a line of JSON"),
    URL,
    ARG_END,
};
static const struct arg_option wait_options[] = {
    ARG("timeout", ARG_MS, timeout_ms, "T", "not longer than this, e.g. 30s (for ever)"),
    JSON,
    URL,
    ARG_END,
};
static const struct arg_option list_options[] = {
    ARG("status", ARG_STR, status, "S",
        "scheduled, queued, running, aborting, completed, incomplete, failed, aborted, expired"),
    ARG("agent", ARG_STR, agent, "NAME", "of this agent"),
    ARG("session", ARG_STR, session, "ID", "of this conversation"),
    ARG("limit", ARG_INT, limit, "N", "at most (20)"),
    JSON,
    URL,
    ARG_END,
};
static const struct arg_option abort_options[] = {
    ARG("reason", ARG_STR, reason, "TEXT", "kept with the task"),
    JSON,
    URL,
    ARG_END,
};
static const struct arg_option plain_options[] = {JSON, URL, ARG_END};
static const struct arg_option migrate_options[] = {
    ARG("status", ARG_FLAG, show_status, NULL, "tell what is applied, change nothing"),
    DATABASE,
    ARG("json", ARG_FLAG, json, NULL, "print JSON"),
    ARG_END,
};
static const struct arg_option doctor_options[] = {
    DATABASE,
    ARG("json", ARG_FLAG, json, NULL, "print JSON"),
    ARG_END,
};
static const struct arg_option dev_options[] = {
    ARG("data", ARG_STR, data, "DIR", "where the private PostgreSQL lives (.nocturne)"),
    ARG("listen", ARG_STR, listen, "HOST:PORT",
        "the API (127.0.0.1:8700); port 0 takes a free one"),
    ARG("workers", ARG_INT, workers, "N", "how many workers (1)"),
    ARG("schedulers", ARG_INT, schedulers, "N", "how many schedulers (1)"),
    ARG("agents", ARG_STR, agents, "DIR", "apply the definitions of this folder"),
    ARG("database", ARG_STR, database, "URL", "use this PostgreSQL instead of a private one"),
    ARG_END,
};

/* clang-format off */
static const struct command commands[] = {
    {"submit", "AGENT [TEXT|-]", 1, 2, "Submit a turn; prints its task id.",
     "TEXT is what the user says; - reads it from standard input. With --json the server's answer\n"
     "is printed; with --follow --json the events come after it, a line each.\n",
     submit_options, cmd_submit},
    {"tail", "ID", 1, 1, "Show a turn from any point, and follow it to its end.",
     "Goes on by itself when the connection is cut; no event is missing and none comes twice.\n"
     "The text of the turn goes to standard output, everything else to standard error.\n"
     "Ctrl-C leaves the turn running and prints how to come back.\n",
     tail_options, cmd_tail},
    {"wait", "ID", 1, 1, "Wait until a turn is over and print its answer.", NULL, wait_options,
     cmd_wait},
    {"show", "ID", 1, 1, "Show all there is to know about a task.", NULL, plain_options, cmd_show},
    {"list", "", 0, 0, "List tasks, newest first.", NULL, list_options, cmd_list},
    {"abort", "ID", 1, 1, "Stop a turn, wherever it is.", NULL, abort_options, cmd_abort},
    {"resume", "ID", 1, 1, "Answer what a turn waits for; prints the id of the next turn.",
     "TOOL is the name `nocturne show` prints, or NAME/CALL_ID when it asked more than once.\n",
     resume_options, cmd_resume},
    {"retry", "ID", 1, 1, "Try a turn again that failed, expired or was aborted; prints the new id.",
     "Goes on behind the steps that are done, without paying for them again. A turn that is\n"
     "quarantined, because three workers died with it, is let go so.\n",
     retry_options, cmd_retry},
    {"agents list", "", 0, 0, "List the agents.", NULL, plain_options, cmd_agents_list},
    {"agents show", "NAME", 1, 1, "Print an agent's definition.", NULL, plain_options,
     cmd_agents_show},
    {"agents apply", "DIR", 1, 1, "Apply every DIR/NAME.json, all or none.",
     "Each mistake is printed as FILE: POINTER: what was expected. A definition that has not\n"
     "changed keeps its revision; running tasks keep theirs.\n",
     plain_options, cmd_agents_apply},
    {"agents delete", "NAME", 1, 1, "Take no more tasks for an agent.", NULL, plain_options,
     cmd_agents_delete},
    {"dev", "", 0, 0, "Run everything in this terminal, with a private PostgreSQL.",
     "Prints `ready http://HOST:PORT` when all is up. Ctrl-C drains and stops everything.\n",
     dev_options, cmd_dev},
    {"migrate", "", 0, 0, "Bring the database to the schema of this program.", NULL,
     migrate_options, cmd_migrate},
    {"doctor", "", 0, 0, "Check the database, the workers and the clocks.",
     "Each line is ok, warn or fail with an advice; the exit status is 1 when one failed.\n",
     doctor_options, cmd_doctor},
};
/* clang-format on */

#define N_COMMANDS (sizeof(commands) / sizeof(*commands))

static void help(FILE *out, const char *group)
{
    fprintf(out, "usage: nocturne %s%sCOMMAND [ARGUMENT...] [OPTION...]\n\ncommands:\n", group,
            *group ? " " : "");
    for (unsigned i = 0; i < N_COMMANDS; i++) {
        char left[64];

        if (strncmp(commands[i].name, group, strlen(group)) != 0)
            continue;
        snprintf(left, sizeof(left), "%s %s", commands[i].name, commands[i].words);
        fprintf(out, "  %-24s %s\n", left, commands[i].summary);
    }
    fputs(
        "\n`nocturne COMMAND --help` tells more. The API is at --url or NOCTURNE_URL,\n"
        "by default http://127.0.0.1:8700. Times are RFC 3339, durations 500ms, 30s, 5m, 2h, 7d.\n"
        "\nexit status:\n"
        "  0    done; the turn completed\n"
        "  1    the turn failed, or the command did\n"
        "  2    wrong arguments, found here or by the server\n"
        "  3    no such task, agent or folder\n"
        "  4    the turn is incomplete: length, steps or budget\n"
        "  5    the turn was aborted\n"
        "  6    the turn expired\n"
        "  7    the turn was interrupted: it waits for an answer (nocturne resume)\n"
        "  8    the server does not answer, or cannot work now\n"
        "  9    not over in the given time\n"
        "  130  detached by Ctrl-C; the turn goes on\n",
        out);
}

/* The command whose one or two words `argv` starts with; `*ret_used` words. */
static const struct command *find(int argc, char **argv, int *ret_used)
{
    char two[64] = "";

    if (argc > 1)
        snprintf(two, sizeof(two), "%s %s", argv[0], argv[1]);
    for (unsigned i = 0; argc > 0 && i < N_COMMANDS; i++) {
        bool is_pair = strchr(commands[i].name, ' ') != NULL;

        if (!strcmp(commands[i].name, is_pair ? two : argv[0])) {
            *ret_used = 1 + is_pair;
            return &commands[i];
        }
    }
    return NULL;
}

/* No command: --help, --version, a group such as `agents`, or a mistake. */
static int run_without(int argc, char **argv)
{
    bool is_group = argc > 0 && !strcmp(argv[0], "agents");
    const char *last = argc > 0 ? argv[argc - 1] : "";

    if (argc == 1 && !strcmp(last, "--version")) {
        puts("nocturne " NOCTURNE_VERSION);
        return CLI_OK;
    }
    if (!strcmp(last, "--help") || !strcmp(last, "-h") || !strcmp(last, "help")) {
        help(stdout, is_group ? "agents" : "");
        return CLI_OK;
    }
    if (argc > 0 && !is_group)
        fprintf(stderr, "nocturne: there is no command \"%s\"\n\n", argv[0]);
    help(stderr, is_group ? "agents" : "");
    return CLI_USAGE;
}

int main(int argc, char **argv)
{
    const struct command *command;
    struct err err = {0};
    struct args args;
    int used = 0;

    signal(SIGPIPE, SIG_IGN);
    if (!(command = find(argc - 1, argv + 1, &used)))
        return run_without(argc - 1, argv + 1);
    if (args_parse(command, argc - 1 - used, argv + 1 + used, &args, &err) < 0) {
        fprintf(stderr, "nocturne %s: %s (see nocturne %s --help)\n", command->name, err.msg,
                command->name);
        return CLI_USAGE;
    }
    if (args.help) {
        args_help(stdout, command);
        return CLI_OK;
    }
    return command->run(&args);
}
