/* Faults of the server for tests, in builds with TEST_HOOKS alone. */
#pragma once

#include "sql.h"

#include <stdbool.h>

/*
 * TEST_FAIL_SQL=SQLSTATE:COUNT makes the first COUNT executions of each statement fail: the server
 * raises the error inside the transaction; 57P01 ends the backend; and 08006 loses the connection
 * with the answer, after the server has committed.
 */

/* What to send in the place of the statement; NULL: itself. `ret_lose` is set when the next answer
 * is to be lost. */
const char *pg_fault_text(enum sql_stmt stmt, bool *ret_lose);
