#include "store_result.h"

#include <stdlib.h>

int store_rows(PGresult *res)
{
    return PQntuples(res);
}

size_t store_bytes(PGresult *res)
{
    return PQresultMemorySize(res);
}

int64_t column_int(PGresult *res, int row, int column)
{
    return strtoll(PQgetvalue(res, row, column), NULL, 10);
}

const char *column_text(PGresult *res, int row, int column)
{
    return PQgetisnull(res, row, column) ? NULL : PQgetvalue(res, row, column);
}

bool column_bool(PGresult *res, int row, int column)
{
    return *PQgetvalue(res, row, column) == 't';
}
