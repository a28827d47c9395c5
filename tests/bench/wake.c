/*
 * The least that "submit to running" costs with nothing but libpq: one connection stores a row and
 * notifies, a second one listens, and when that has heard, a third one takes the row. Two commits
 * and a wake-up, in one process, without HTTP, turns, fences or programs in between.
 *
 *   wake CONNINFO RATE SECONDS LISTEN SUBMIT TAKE    SUBMIT takes a uuid as $1
 *
 * Prints the microseconds of each, from before SUBMIT is sent to the answer of TAKE.
 */
#include "pg.h"

#include "clock.h"
#include "id.h"

#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>

static void must(bool ok, PGconn *pg, const char *what)
{
    if (ok)
        return;
    fprintf(stderr, "wake: %s: %s\n", what, PQerrorMessage(pg));
    exit(1);
}

static PGconn *connect_to(const char *conninfo, const char *sql)
{
    PGconn *pg = PQconnectdb(conninfo);
    PGresult *res;

    must(PQstatus(pg) == CONNECTION_OK, pg, "connect");
    res = PQprepare(pg, "s", sql, 0, NULL);
    must(PQresultStatus(res) == PGRES_COMMAND_OK, pg, sql);
    PQclear(res);
    return pg;
}

static void take(PGconn *pg)
{
    PGresult *res = PQexecPrepared(pg, "s", 0, NULL, NULL, NULL, 0);

    must(PQresultStatus(res) == PGRES_TUPLES_OK && PQntuples(res) == 1, pg, "take");
    PQclear(res);
}

static void await_notify(PGconn *listener)
{
    struct pollfd fd = {.fd = PQsocket(listener), .events = POLLIN};
    PGnotify *heard;

    while (!(heard = PQnotifies(listener))) {
        must(poll(&fd, 1, 5000) == 1, listener, "nothing was heard");
        must(PQconsumeInput(listener), listener, "read");
    }
    PQfreemem(heard);
}

static uint64_t once(PGconn *submitter, PGconn *listener, PGconn *taker)
{
    char id[ID_BYTES];
    const char *values[] = {id};
    uint64_t began_us = clock_mono_us(), took_us;
    PGresult *res;

    id_uuid7(id);
    must(PQsendQueryPrepared(submitter, "s", 1, values, NULL, NULL, 0), submitter, "submit");
    await_notify(listener);
    take(taker);
    took_us = clock_mono_us() - began_us;
    while ((res = PQgetResult(submitter))) {
        must(PQresultStatus(res) == PGRES_TUPLES_OK, submitter, "submit");
        PQclear(res);
    }
    return took_us;
}

int main(int argc, char **argv)
{
    long n, rate;
    PGconn *submitter, *listener, *taker;

    if (argc != 7 || (rate = strtol(argv[2], NULL, 10)) <= 0) {
        fprintf(stderr, "usage: wake CONNINFO RATE SECONDS LISTEN SUBMIT TAKE\n");
        return 2;
    }
    submitter = connect_to(argv[1], argv[5]);
    taker = connect_to(argv[1], argv[6]);
    listener = PQconnectdb(argv[1]);
    PQclear(PQexec(listener, argv[4]));
    n = rate * strtol(argv[3], NULL, 10);
    for (long i = 0; i < n; i++) {
        printf("%" PRIu64 "\n", once(submitter, listener, taker));
        poll(NULL, 0, (int)(1000 / rate)); /* asleep, as they all are between two turns */
    }
    PQfinish(submitter);
    PQfinish(listener);
    PQfinish(taker);
    return 0;
}
