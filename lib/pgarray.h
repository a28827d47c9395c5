/*
 * One array parameter of a statement, in PostgreSQL's binary format: no quoting, no escaping,
 * whatever bytes a peer sent. Elements are put in order; NULLs are allowed.
 */
#pragma once

#include "buf.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum pg_type { /* OIDs */
               PG_BOOL = 16,
               PG_INT8 = 20,
               PG_INT4 = 23,
               PG_TEXT = 25,
               PG_JSON = 114,
               PG_UUID = 2950,
};

struct pg_array {
    struct buf bytes; /* header and elements */
    enum pg_type type;
    int count;
};

void pg_array_init(struct pg_array *a, enum pg_type type);
void pg_array_release(struct pg_array *a);
void pg_array_reset(struct pg_array *a); /* empty it, keep the memory */

void pg_array_put_text(struct pg_array *a, const char *text); /* or JSON; NULL gives NULL */
void pg_array_put_bytes(struct pg_array *a, const void *bytes, size_t len);
void pg_array_put_uuid(struct pg_array *a, const char *uuid); /* text; NULL gives NULL */
void pg_array_put_int(struct pg_array *a, int64_t value);     /* of INT4 or INT8 */
void pg_array_put_bool(struct pg_array *a, bool value);
void pg_array_put_null(struct pg_array *a);

/* Write the count into the header; the bytes are then the parameter. */
void pg_array_finish(struct pg_array *a);
