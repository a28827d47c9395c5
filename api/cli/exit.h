/* What the command line's exit status says; documented in `nocturne --help`. */
#pragma once

enum cli_exit {
    CLI_OK = 0,          /* done; the turn completed */
    CLI_FAILED = 1,      /* the turn failed, or the command did */
    CLI_USAGE = 2,       /* wrong arguments, found by us or by the server */
    CLI_NOT_FOUND = 3,   /* no such task, agent, session */
    CLI_INCOMPLETE = 4,  /* the turn ended early: length, steps, budget */
    CLI_ABORTED = 5,     /* the turn was aborted */
    CLI_EXPIRED = 6,     /* its deadline passed */
    CLI_INTERRUPTED = 7, /* the turn waits for an answer */
    CLI_UNREACHABLE = 8, /* no server, or it cannot work now */
    CLI_TIMEOUT = 9,     /* not over in the given time */
    CLI_DETACHED = 130,  /* Ctrl-C: the turn goes on */
};
