/* What tools that may block need of libpq; see pg.h. */
#include "pg.h"

#include <string.h>

PGconn *pg_open_blocking(const char *conninfo, const char *name, struct err *err)
{
    const char *const keys[] = {"dbname", "fallback_application_name", NULL};
    const char *const values[] = {conninfo, name, NULL};
    PGconn *conn = PQconnectdbParams(keys, values, 1);
    const char *why;

    if (PQstatus(conn) == CONNECTION_OK)
        return conn;
    why = PQerrorMessage(conn);
    err_set(err, ERR_UNAVAILABLE, "postgres: %.*s", (int)strcspn(why, "\n"), why);
    PQfinish(conn);
    return NULL;
}

PGresult *pg_query_blocking(PGconn *conn, const char *sql, int nparams, const char *const *params,
                            struct err *err)
{
    PGresult *res =
        nparams ? PQexecParams(conn, sql, nparams, NULL, params, NULL, NULL, 0) : PQexec(conn, sql);
    ExecStatusType status = PQresultStatus(res);
    char sqlstate[6];

    if (status == PGRES_TUPLES_OK || status == PGRES_COMMAND_OK)
        return res;
    pg_result_err(err, res, sqlstate);
    PQclear(res);
    return NULL;
}

void pg_close_blocking(PGconn *conn)
{
    PQfinish(conn);
}
