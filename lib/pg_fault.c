#include "pg_fault.h"

#ifdef TEST_HOOKS
#include "log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool test_fails(enum sql_stmt stmt, char *ret_sqlstate)
{
    static int done[SQL_COUNT];
    const char *text = getenv("TEST_FAIL_SQL");

    if (!text || strlen(text) < 7 || done[stmt] >= strtol(text + 6, NULL, 10))
        return false;
    done[stmt]++;
    snprintf(ret_sqlstate, 6, "%.5s", text);
    log_line(LOG_WARN, "", "test: %s fails with %s", sql_texts[stmt].name, ret_sqlstate);
    return true;
}

const char *pg_fault_text(enum sql_stmt stmt, bool *ret_lose)
{
    static char text[160];
    char sqlstate[6];

    if (!test_fails(stmt, sqlstate))
        return NULL;
    if (!strcmp(sqlstate, "08006")) {
        *ret_lose = true;
        return NULL;
    }
    if (!strcmp(sqlstate, "57P01"))
        snprintf(text, sizeof(text),
                 "do $$ begin perform pg_terminate_backend(pg_backend_pid());"
                 " perform pg_sleep(9); end $$");
    else
        snprintf(text, sizeof(text), "do $$ begin raise 'test' using errcode = '%s'; end $$",
                 sqlstate);
    return text;
}
#endif
