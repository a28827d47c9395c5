/*
 * One round per migration: lock, look, apply the first that is missing, record it, commit; at last
 * the functions, when their text is another one. The lock ends with the transaction, so between
 * two rounds another program may apply the next one; each round looks again. A failure or a crash
 * anywhere rolls the round back.
 */
#include "migrate.h"

#include "hash.h"
#include "migrate_sql.h"
#include "migrations.h"
#include "pg.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME      "nocturne-migrate"
#define MAX_TRIES 30 /* with the lock_timeout of begin.sql and RETRY_MS, 75 s */
#define RETRY_MS  500

/* What is applied of `ours`; the rows are ordered by version, as our table is. */
static int find_row(PGresult *applied, int version)
{
    for (int row = 0; row < PQntuples(applied); row++)
        if (strtol(PQgetvalue(applied, row, 0), NULL, 10) == version)
            return row;
    return -1;
}

static const struct schema_migration *find_ours(int version)
{
    for (int i = 0; i < schema_migration_count; i++)
        if (schema_migrations[i].version == version)
            return &schema_migrations[i];
    return NULL;
}

static void checksum(const struct schema_migration *ours, char *ret_hex)
{
    hash_sha256_hex(ours->text, strlen(ours->text), ret_hex);
}

/* The state of one applied migration, `ours` being NULL when we do not have it. */
static const char *state_of(const struct schema_migration *ours, PGresult *applied, int row)
{
    char hex[HASH_SHA256_HEX_BYTES];

    if (!ours)
        return "unknown";
    checksum(ours, hex);
    return strcmp(hex, PQgetvalue(applied, row, 2)) ? "changed" : "applied";
}

/* May we go on from what is applied? */
static int check(PGresult *applied, struct err *err)
{
    int newest = 0;

    for (int row = 0; row < PQntuples(applied); row++) {
        const char *name = PQgetvalue(applied, row, 1), *state;

        newest = (int)strtol(PQgetvalue(applied, row, 0), NULL, 10);
        state = state_of(find_ours(newest), applied, row);
        if (!strcmp(state, "unknown"))
            return err_set(err, ERR_CONFLICT,
                           "the database has migration %d (%s), which is newer than this program",
                           newest, name);
        if (!strcmp(state, "changed"))
            return err_set(err, ERR_CONFLICT, "migration %d (%s) was changed after it was applied",
                           newest, name);
    }
    for (int i = 0; i < schema_migration_count && schema_migrations[i].version < newest; i++)
        if (find_row(applied, schema_migrations[i].version) < 0)
            return err_set(err, ERR_CONFLICT, "migration %d (%s) was not applied before %d",
                           schema_migrations[i].version, schema_migrations[i].name, newest);
    return 0;
}

static int run(PGconn *conn, const char *sql, struct err *err)
{
    PGresult *res = pg_query_blocking(conn, sql, 0, NULL, err);

    PQclear(res);
    return res ? 0 : -1;
}

static int record(PGconn *conn, const struct schema_migration *ours, struct err *err)
{
    char version[16], hex[HASH_SHA256_HEX_BYTES];
    const char *const params[] = {version, ours->name, hex};
    PGresult *res;

    snprintf(version, sizeof(version), "%d", ours->version);
    checksum(ours, hex);
    res = pg_query_blocking(conn, migrate_sql_record, 3, params, err);
    PQclear(res);
    return res ? 0 : -1;
}

static int apply_one(PGconn *conn, const struct schema_migration *ours, struct err *err)
{
    struct err why = {0};
    int rc = 0;

    if (run(conn, ours->text, &why) < 0 || record(conn, ours, &why) < 0)
        rc =
            err_set(err, why.code, "migration %d (%s): %.180s", ours->version, ours->name, why.msg);
    return rc;
}

/* ---- functions ---- */

/* Our version as int[] and the checksum of our functions: the parameters of both statements. */
struct functions_key {
    char version[32], hex[HASH_SHA256_HEX_BYTES];
    const char *params[2];
};

static void functions_key(struct functions_key *key)
{
    snprintf(key->version, sizeof(key->version), "{%s}", NOCTURNE_VERSION);
    for (char *at = key->version; *at; at++)
        if (*at == '.')
            *at = ',';
    hash_sha256_hex(schema_functions, strlen(schema_functions), key->hex);
    key->params[0] = key->version;
    key->params[1] = key->hex;
}

/* "applied", "pending" or "unknown", as of a migration; `ret_program` is whose they are, 32 bytes.
 */
static const char *functions_state(PGconn *conn, const struct functions_key *key, char *ret_program,
                                   struct err *err)
{
    PGresult *res = pg_query_blocking(conn, migrate_sql_functions_read, 2, key->params, err);
    const char *state = "pending";

    if (!res)
        return NULL;
    if (PQntuples(res) > 0) {
        if (*PQgetvalue(res, 0, 1) == 't')
            state = "unknown";
        else if (*PQgetvalue(res, 0, 0) == 't')
            state = "applied";
        snprintf(ret_program, 32, "%s", PQgetvalue(res, 0, 2));
    }
    PQclear(res);
    return state;
}

/* Under the lock, after all migrations. `*ret_done`: there was nothing to do. */
static int apply_functions(PGconn *conn, bool *ret_done, struct err *err)
{
    char program[32] = "";
    const char *state;
    struct functions_key key;
    struct err why = {0};
    PGresult *res;

    functions_key(&key);
    state = functions_state(conn, &key, program, err);
    if (!state)
        return -1;
    if (!strcmp(state, "unknown"))
        return err_set(
            err, ERR_CONFLICT,
            "the database has the functions of version %s, this program is " NOCTURNE_VERSION,
            program);
    *ret_done = !strcmp(state, "applied");
    if (*ret_done)
        return 0;
    if (run(conn, schema_functions, &why) < 0)
        return err_set(err, why.code, "functions: %.200s", why.msg);
    res = pg_query_blocking(conn, migrate_sql_functions_record, 2, key.params, err);
    PQclear(res);
    return res ? 0 : -1;
}

/* Under the lock: apply the first that is missing. `*ret_done`: none is. */
static int apply_next(PGconn *conn, bool *ret_done, struct err *err)
{
    PGresult *applied = pg_query_blocking(conn, migrate_sql_list, 0, NULL, err);
    const struct schema_migration *next = NULL;
    int rc = applied ? check(applied, err) : -1;

    for (int i = 0; rc == 0 && i < schema_migration_count && !next; i++)
        if (find_row(applied, schema_migrations[i].version) < 0)
            next = &schema_migrations[i];
    PQclear(applied);
    *ret_done = false;
    if (rc == 0 && next)
        rc = apply_one(conn, next, err);
    else if (rc == 0)
        rc = apply_functions(conn, ret_done, err);
    return rc;
}

static int round_of(PGconn *conn, bool *ret_done, struct err *err)
{
    if (run(conn, migrate_sql_begin, err) < 0 || apply_next(conn, ret_done, err) < 0 ||
        run(conn, migrate_sql_commit, err) < 0)
        return -1;
    return 0;
}

/* Turns are running while we alter their tables: a lock that does not come soon is given up, so
 * that nobody queues behind us for long, and a deadlock may choose us. Both are tried again. */
static bool may_retry(PGconn *conn, const struct err *err)
{
    struct err ignored;

    if (err->code != ERR_UNAVAILABLE || PQstatus(conn) != CONNECTION_OK ||
        run(conn, migrate_sql_rollback, &ignored) < 0)
        return false;
    uv_sleep(RETRY_MS);
    return true;
}

int migrate_apply(const char *conninfo, int *ret_applied, struct err *err)
{
    PGconn *conn = pg_open_blocking(conninfo, NAME, err);
    bool done = false;
    int rc = 0, applied = 0, tries = 0;

    if (!conn)
        return -1;
    while (rc == 0 && !done) {
        if (round_of(conn, &done, err) == 0) {
            applied += !done;
            tries = 0;
        } else if (++tries == MAX_TRIES || !may_retry(conn, err)) {
            rc = -1;
        }
    }
    pg_close_blocking(conn);
    if (rc == 0)
        *ret_applied = applied;
    return rc;
}

/* Both lists are in order: walk them together. */
static void tell(PGresult *applied,
                 void (*each)(void *owner, int version, const char *name, const char *state),
                 void *owner)
{
    int rows = applied ? PQntuples(applied) : 0, row = 0, i = 0;

    while (row < rows || i < schema_migration_count) {
        const struct schema_migration *ours =
            i < schema_migration_count ? &schema_migrations[i] : NULL;
        int version = row < rows ? (int)strtol(PQgetvalue(applied, row, 0), NULL, 10) : 0;

        if (ours && (row == rows || ours->version < version)) {
            each(owner, ours->version, ours->name, "pending");
            i++;
            continue;
        }
        ours = ours && ours->version == version ? ours : NULL;
        each(owner, version, PQgetvalue(applied, row, 1), state_of(ours, applied, row));
        i += ours != NULL;
        row++;
    }
}

static int tell_functions(PGconn *conn, bool exist,
                          void (*each)(void *owner, int version, const char *name,
                                       const char *state),
                          void *owner, struct err *err)
{
    char program[32];
    struct functions_key key;
    const char *state = "pending";

    functions_key(&key);
    if (exist)
        state = functions_state(conn, &key, program, err);
    if (!state)
        return -1;
    each(owner, 0, "functions", state);
    return 0;
}

int migrate_status(const char *conninfo,
                   void (*each)(void *owner, int version, const char *name, const char *state),
                   void *owner, struct err *err)
{
    PGconn *conn = pg_open_blocking(conninfo, NAME, err);
    PGresult *exists, *applied = NULL;
    bool migrations, functions;
    int rc = 0;

    if (!conn)
        return -1;
    exists = pg_query_blocking(conn, migrate_sql_exists, 0, NULL, err);
    migrations = exists && *PQgetvalue(exists, 0, 0) == 't';
    functions = exists && *PQgetvalue(exists, 0, 1) == 't';
    if (migrations)
        applied = pg_query_blocking(conn, migrate_sql_list, 0, NULL, err);
    if (!exists || (migrations && !applied))
        rc = -1;
    if (rc == 0) {
        tell(applied, each, owner);
        rc = tell_functions(conn, functions, each, owner, err);
    }
    PQclear(exists);
    PQclear(applied);
    pg_close_blocking(conn);
    return rc;
}
