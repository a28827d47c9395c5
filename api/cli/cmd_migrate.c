/* migrate and doctor: the two commands that talk to the database and not to the API. */
#include "commands.h"
#include "database.h"
#include "exit.h"
#include "json.h"
#include "migrate.h"
#include "store_doctor.h"
#include "term.h"

#include <stdlib.h>
#include <string.h>

static int fail(const struct err *err)
{
    fprintf(stderr, "nocturne: %s\n", err->msg);
    return err->code == ERR_UNAVAILABLE || err->code == ERR_TIMEOUT ? CLI_UNREACHABLE : CLI_FAILED;
}

/* ---- migrate ---- */

struct status {
    bool json;
    bool differs; /* something is pending, changed or unknown */
    struct buf out;
};

static void on_migration(void *owner, int version, const char *name, const char *state)
{
    struct status *status = owner;

    if (strcmp(state, "applied") != 0)
        status->differs = true;
    if (!status->json) {
        (void)buf_printf(&status->out, "%03d  %-24s  %s\n", version, name, state);
        return;
    }
    (void)json_open(&status->out, '{');
    (void)json_put_member_int(&status->out, "version", version);
    (void)json_put_member_str(&status->out, "name", name);
    (void)json_put_member_str(&status->out, "state", state);
    (void)json_close(&status->out, '}');
}

static int show_status(const char *url, bool json)
{
    struct status status = {.json = json, .out = BUF_INIT(BUF_MAX)};
    struct err err = {0};
    int rc;

    if (json)
        (void)buf_puts(&status.out, "{\"migrations\":[");
    rc = migrate_status(url, on_migration, &status, &err);
    if (json)
        (void)buf_puts(&status.out, "]}\n");
    if (rc == 0)
        fputs(status.out.data, stdout);
    buf_release(&status.out);
    if (rc < 0)
        return fail(&err);
    return status.differs ? CLI_FAILED : CLI_OK;
}

static int apply(const char *url, bool json)
{
    struct err err = {0};
    int applied = 0;

    if (migrate_apply(url, &applied, &err) < 0)
        return fail(&err);
    if (json)
        printf("{\"applied\":%d}\n", applied);
    else if (applied)
        printf("applied %d migration%s\n", applied, applied == 1 ? "" : "s");
    else
        puts("nothing to do: the schema is this program's");
    return CLI_OK;
}

int cmd_migrate(const struct args *args)
{
    char *url = database_url(args, "migrate");
    int rc;

    if (!url)
        return CLI_USAGE;
    rc = args->show_status ? show_status(url, args->json) : apply(url, args->json);
    free(url);
    return rc;
}

/* ---- doctor ---- */

struct report {
    bool json;
    struct term term;
    enum doctor_level worst;
    struct buf out;
};

static void put_json(struct report *report, const struct doctor_finding *finding)
{
    (void)json_open(&report->out, '{');
    (void)json_put_member_str(&report->out, "level", doctor_level_name(finding->level));
    (void)json_put_member_str(&report->out, "check", finding->check);
    (void)json_put_member_str(&report->out, "value", finding->value);
    if (*finding->advice)
        (void)json_put_member_str(&report->out, "advice", finding->advice);
    (void)json_close(&report->out, '}');
}

static void put_line(struct report *report, const struct doctor_finding *finding)
{
    (void)buf_printf(&report->out, "%-4s  %-36s %s\n", doctor_level_name(finding->level),
                     finding->check, finding->value);
    if (*finding->advice)
        (void)buf_printf(&report->out, "      -> %s\n", finding->advice);
}

static void on_finding(void *owner, const struct doctor_finding *finding)
{
    struct report *report = owner;

    if (finding->level > report->worst)
        report->worst = finding->level;
    (report->json ? put_json : put_line)(report, finding);
}

int cmd_doctor(const struct args *args)
{
    struct report report = {.json = args->json, .out = BUF_INIT(BUF_MAX)};
    char *url = database_url(args, "doctor");
    struct err err = {0};
    int rc;

    if (!url)
        return CLI_USAGE;
    term_init(&report.term);
    if (args->json)
        (void)buf_puts(&report.out, "{\"findings\":[");
    rc = store_doctor(url, on_finding, &report, &err);
    if (args->json)
        (void)buf_printf(&report.out, "],\"level\":\"%s\"}\n", doctor_level_name(report.worst));
    if (rc == 0 || !args->json)
        term_puts(&report.term, report.out.data);
    buf_release(&report.out);
    free(url);
    if (rc < 0)
        return fail(&err);
    return report.worst == DOCTOR_FAIL ? CLI_FAILED : CLI_OK;
}
