#include "store_doctor.h"

#include "clock.h"
#include "migrate.h"
#include "pg.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME           "nocturne-doctor"
#define VALUE_BYTES    300
#define ANY            INT64_MAX
#define OFFSET_WARN_MS 500 /* stamps of events come from the workers' clocks */
#define OFFSET_FAIL_MS 5000
#define OLD_WARN_S     60
#define OLD_FAIL_S     3600
#define OLD_XIDS       10000000

struct doctor {
    PGconn *conn;
    doctor_fn *each;
    void *owner;
    bool tcp;
    bool slots; /* there are replication slots */
    bool migrated;
};

const char *doctor_level_name(enum doctor_level level)
{
    static const char *const names[] = {"ok", "warn", "fail"};

    return names[level];
}

static void tell(struct doctor *d, enum doctor_level level, const char *check, const char *advice,
                 const char *fmt, ...) __attribute__((format(printf, 5, 6)));

static void tell(struct doctor *d, enum doctor_level level, const char *check, const char *advice,
                 const char *fmt, ...)
{
    char value[VALUE_BYTES];
    va_list ap;

    va_start(ap, fmt);
    vsnprintf(value, sizeof(value), fmt, ap);
    va_end(ap);
    d->each(d->owner, &(struct doctor_finding){
                          .level = level,
                          .check = check,
                          .value = value,
                          .advice = level == DOCTOR_OK ? "" : advice,
                      });
}

static PGresult *ask(struct doctor *d, enum sql_stmt stmt, struct err *err)
{
    return pg_query_blocking(d->conn, sql_texts[stmt].text, 0, NULL, err);
}

static int64_t number(PGresult *res, int row, int column)
{
    return strtoll(PQgetvalue(res, row, column), NULL, 10);
}

/* ---- the server ---- */

/* The clock of the database stands between the two times we read ours. */
static void check_clock(struct doctor *d, int64_t db_us, int64_t before_us, int64_t after_us)
{
    int64_t off_us = db_us < before_us  ? db_us - before_us
                     : db_us > after_us ? db_us - after_us
                                        : 0;
    int64_t off_ms = off_us / 1000, size_ms = off_ms < 0 ? -off_ms : off_ms;
    enum doctor_level level = size_ms >= OFFSET_FAIL_MS   ? DOCTOR_FAIL
                              : size_ms >= OFFSET_WARN_MS ? DOCTOR_WARN
                                                          : DOCTOR_OK;

    tell(d, level, "clock offset", "run NTP here and on the database's machine",
         "%" PRId64 " ms (asked for %.1f ms)", off_ms, (double)(after_us - before_us) / 1000);
}

static int check_server(struct doctor *d, struct err *err)
{
    int64_t before_us = clock_wall_us(), after_us, used, allowed;
    PGresult *res = ask(d, SQL_DOCTOR_SERVER, err);

    after_us = clock_wall_us();
    if (!res)
        return -1;
    check_clock(d, number(res, 0, 0), before_us, after_us);
    d->tcp = !strcmp(PQgetvalue(res, 0, 1), "t");
    used = number(res, 0, 2);
    allowed = number(res, 0, 3);
    d->slots = number(res, 0, 4) > 0;
    tell(d, used * 10 > allowed * 8 ? DOCTOR_WARN : DOCTOR_OK, "connections",
         "raise max_connections, or put a pooler in front", "%" PRId64 " of %" PRId64, used,
         allowed);
    PQclear(res);
    return 0;
}

/* ---- settings ---- */

/* A setting is fine when it is the word, or a number from `min` to `max` in its base unit. */
struct rule {
    const char *name;
    const char *words; /* " on remote_apply ", NULL: a number */
    int64_t min, max;
    enum doctor_level level;                 /* when it is not fine */
    bool (*applies)(const struct doctor *d); /* NULL: always */
    const char *advice;
};

static bool by_tcp(const struct doctor *d)
{
    return d->tcp;
}

static bool has_slots(const struct doctor *d)
{
    return d->slots;
}

static const struct rule rules[] = {
    {"server_version_num",                  NULL,                             130000, ANY,   DOCTOR_FAIL, NULL,
     "PostgreSQL 13 or later is needed"                                                          },
    {"fsync",                               " on ",                           0,      0,     DOCTOR_FAIL, NULL,
     "a crash of the machine loses accepted tasks: turn it on"                                   },
    {"full_page_writes",                    " on ",                           0,      0,     DOCTOR_WARN, NULL,
     "a crash of the machine may tear pages: turn it on unless the file system cannot"           },
    {"synchronous_commit",                  " on remote_write remote_apply ", 0,      0,     DOCTOR_FAIL, NULL,
     "a crash loses tasks that were accepted: alter role ... set synchronous_commit = on"        },
    {"autovacuum",                          " on ",                           0,      0,     DOCTOR_FAIL, NULL,
     "the queue slows down for ever without it: turn it on"                                      },
    {"idle_in_transaction_session_timeout", NULL,                             1,      60000, DOCTOR_WARN, NULL,
     "a client that hangs in a transaction keeps dead rows for ever: set it to 60s or less"      },
    {"tcp_user_timeout",                    NULL,                             1000,   15000, DOCTOR_WARN, by_tcp,
     "a dead network is noticed after a quarter of an hour: set it to 10s"                       },
    {"statement_timeout",                   NULL,                             30000,  ANY,   DOCTOR_WARN, NULL,
     "migrations and sweeps may need longer: alter role ... set statement_timeout = '5min', or 0"},
    {"max_slot_wal_keep_size",              NULL,                             0,      ANY,   DOCTOR_WARN, has_slots,
     "a replica that stays away fills the disk: set a limit"                                     },
    {"wal_compression",                     " on pglz lz4 zstd ",             0,      0,     DOCTOR_WARN, NULL,
     "lz4 makes less WAL out of page images"                                                     },
    {"plan_cache_mode",                     " auto force_generic_plan ",      0,      0,     DOCTOR_WARN, NULL,
     "every statement is planned again each time: set it to auto"                                },
};

static bool is_fine(const struct rule *rule, const char *setting)
{
    char word[64];
    int64_t n;

    if (rule->words) {
        snprintf(word, sizeof(word), " %s ", setting);
        return strstr(rule->words, word) != NULL;
    }
    n = strtoll(setting, NULL, 10);
    if (!strcmp(rule->name, "statement_timeout") && n == 0)
        return true; /* clients have their own time-outs */
    return n >= rule->min && n <= rule->max;
}

static void check_setting(struct doctor *d, const char *name, const char *setting,
                          const char *shown)
{
    for (unsigned i = 0; i < sizeof(rules) / sizeof(*rules); i++) {
        const struct rule *rule = &rules[i];
        bool applies = !rule->applies || rule->applies(d);

        if (!strcmp(rule->name, name) && applies)
            tell(d, is_fine(rule, setting) ? DOCTOR_OK : rule->level, name, rule->advice, "%s",
                 shown);
    }
}

static int check_settings(struct doctor *d, struct err *err)
{
    PGresult *res = ask(d, SQL_DOCTOR_SETTINGS, err);

    if (!res)
        return -1;
    for (int row = 0; row < PQntuples(res); row++)
        check_setting(d, PQgetvalue(res, row, 0), PQgetvalue(res, row, 1), PQgetvalue(res, row, 3));
    PQclear(res);
    return 0;
}

/* ---- what keeps dead rows ---- */

static int check_oldest(struct doctor *d, struct err *err)
{
    PGresult *res = ask(d, SQL_DOCTOR_OLDEST, err);
    enum doctor_level level = DOCTOR_OK;
    int64_t seconds, xids;

    if (!res)
        return -1;
    if (PQntuples(res) == 0) {
        tell(d, DOCTOR_OK, "oldest transaction", "", "none is open");
    } else {
        seconds = number(res, 0, 2);
        xids = number(res, 0, 3);
        if (seconds >= OLD_WARN_S || xids >= OLD_XIDS)
            level = seconds >= OLD_FAIL_S ? DOCTOR_FAIL : DOCTOR_WARN;
        tell(d, level, "oldest transaction",
             "end it: dead rows stay and claims slow down until then",
             "%s %s, %" PRId64 " s, %" PRId64 " transactions behind", PQgetvalue(res, 0, 0),
             PQgetvalue(res, 0, 1), seconds, xids);
    }
    PQclear(res);
    return 0;
}

static int check_tables(struct doctor *d, struct err *err)
{
    PGresult *res = ask(d, SQL_DOCTOR_TABLES, err);

    if (!res)
        return -1;
    if (PQntuples(res) == 0)
        tell(d, DOCTOR_OK, "dead rows", "", "vacuum keeps up");
    for (int row = 0; row < PQntuples(res); row++)
        tell(d, DOCTOR_WARN, "dead rows", "see the oldest transaction, then vacuum it",
             "%s: %s live, %s dead", PQgetvalue(res, row, 0), PQgetvalue(res, row, 1),
             PQgetvalue(res, row, 2));
    PQclear(res);
    return 0;
}

/* ---- ours ---- */

static void on_migration(void *owner, int version, const char *name, const char *state)
{
    struct doctor *d = owner;
    bool fine = !strcmp(state, "applied");

    if (!fine)
        d->migrated = false;
    tell(d, fine ? DOCTOR_OK : DOCTOR_FAIL, "schema",
         !strcmp(state, "pending") ? "run `nocturne migrate`"
                                   : "this program and the database do not belong together",
         "%03d %s %s", version, name, state);
}

static int check_live(struct doctor *d, struct err *err)
{
    PGresult *res = ask(d, SQL_DOCTOR_LIVE, err);
    int64_t live, ready, dead;

    if (!res)
        return -1;
    live = number(res, 0, 0);
    dead = number(res, 0, 3);
    ready = number(res, 0, 6);
    tell(d, live > 0 ? DOCTOR_OK : DOCTOR_FAIL, "workers", "start nocturne-worker",
         "%" PRId64 " live with %s slots, %s draining", live, PQgetvalue(res, 0, 1),
         PQgetvalue(res, 0, 2));
    if (PQgetisnull(res, 0, 4))
        tell(d, DOCTOR_FAIL, "leader", "start nocturne-scheduler", "nobody leads");
    else
        tell(d, DOCTOR_OK, "leader", "", "%s, for another %s s", PQgetvalue(res, 0, 4),
             PQgetvalue(res, 0, 5));
    if (dead > 0)
        tell(d, DOCTOR_FAIL, "dead workers", "a scheduler must be running to rescue their turns",
             "%" PRId64 " are not reaped", dead);
    tell(d, ready > 0 && live == 0 ? DOCTOR_FAIL : DOCTOR_OK, "queue", "nobody takes them",
         "%" PRId64 " tasks are ready", ready);
    tell(d, strtod(PQgetvalue(res, 0, 7), NULL) > 0.5 ? DOCTOR_WARN : DOCTOR_OK, "epochs",
         "more than half of them are used", "%.0f%% used",
         strtod(PQgetvalue(res, 0, 7), NULL) * 100);
    PQclear(res);
    return 0;
}

static int check_quarantine(struct doctor *d, struct err *err)
{
    PGresult *res = ask(d, SQL_DOCTOR_QUARANTINE, err);
    int64_t n;

    if (!res)
        return -1;
    n = number(res, 0, 0);
    if (n > 0)
        tell(d, DOCTOR_WARN, "quarantine",
             "find out what killed their workers, then `nocturne retry ID`",
             "%" PRId64 " turns, the newest is %s", n, PQgetvalue(res, 0, 1));
    else
        tell(d, DOCTOR_OK, "quarantine", "", "no turns");
    PQclear(res);
    return 0;
}

static int examine(struct doctor *d, const char *conninfo, struct err *err)
{
    if (check_server(d, err) < 0 || check_settings(d, err) < 0 || check_oldest(d, err) < 0)
        return -1;
    d->migrated = true;
    if (migrate_status(conninfo, on_migration, d, err) < 0)
        return -1;
    if (!d->migrated)
        return 0; /* the rest reads our tables */
    if (check_tables(d, err) < 0 || check_live(d, err) < 0)
        return -1;
    return check_quarantine(d, err);
}

int store_doctor(const char *conninfo, doctor_fn *each, void *owner, struct err *err)
{
    struct doctor d = {.each = each, .owner = owner};
    int rc;

    if (!(d.conn = pg_open_blocking(conninfo, NAME, err)))
        return -1;
    rc = examine(&d, conninfo, err);
    pg_close_blocking(d.conn);
    return rc;
}

int store_doctor_workers(const char *conninfo, int *ret_live, struct err *err)
{
    struct doctor d = {.conn = pg_open_blocking(conninfo, NAME, err)};
    PGresult *res;

    if (!d.conn)
        return -1;
    if ((res = ask(&d, SQL_DOCTOR_LIVE, err)))
        *ret_live = (int)number(res, 0, 0);
    pg_close_blocking(d.conn);
    PQclear(res);
    return res ? 0 : -1;
}
