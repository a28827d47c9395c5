/*
 * Reading the columns of a result: what all lib/store_* files share. Rows and columns count from
 * 0; texts point into the result.
 */
#pragma once

#include "pg.h"

#include <stdbool.h>
#include <stdint.h>

int store_rows(PGresult *res);
size_t store_bytes(PGresult *res); /* that the result takes in memory */
int64_t column_int(PGresult *res, int row, int column);
const char *column_text(PGresult *res, int row, int column); /* NULL where the column is */
bool column_bool(PGresult *res, int row, int column);
