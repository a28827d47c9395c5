/*
 * The schema, embedded at build: tables by forward-only migrations, sql/schema/NNN_what.sql, and
 * functions as a whole, sql/functions/NAME.sql, which are replaced when their text differs from
 * what is there, but never by those of an older version.
 *
 * Each migration is applied in a transaction of its own under a lock, together with a row in
 * nocturne.migration that keeps the checksum of its text. Several programs may migrate at once:
 * one works, the others wait, all succeed. Blocking; for `nocturne migrate`, `doctor` and `dev`.
 */
#pragma once

#include "err.h"

/*
 * Bring the database to the schema of this program; `*ret_applied` is the number of migrations
 * that were missing, the functions counted as one. Changes nothing, and fails with ERR_CONFLICT,
 * when an applied migration's text differs from ours or the database is newer than this program.
 * When a migration fails, those before it stay applied.
 */
int migrate_apply(const char *conninfo, int *ret_applied, struct err *err);

/*
 * Tell the state of each migration, in order of their versions, without changing anything:
 * "applied", "pending", "changed" (applied with another text) or "unknown" (applied by a newer
 * program). The functions come last, as version 0. `name` is valid until `each` returns.
 */
int migrate_status(const char *conninfo,
                   void (*each)(void *owner, int version, const char *name, const char *state),
                   void *owner, struct err *err);
