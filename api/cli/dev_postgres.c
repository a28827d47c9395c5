#include "dev_postgres.h"

#include "buf.h"
#include "hash.h"
#include "mem.h"
#include "pg.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <glob.h>
#include <pwd.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define USER         "nocturne"
#define SYSTEM_USER  "postgres"
#define SOCKET_NAME  "/.s.PGSQL.5432"
#define SOCKET_BYTES 107 /* of sun_path, without its '\0' */
#define PATH_BYTES   4096
#define NFTW_FDS     16

/* ---- programs ---- */

static bool has_programs(const char *bin)
{
    char *initdb = xasprintf("%s/initdb", bin), *postgres = xasprintf("%s/postgres", bin);
    bool has = access(initdb, X_OK) == 0 && access(postgres, X_OK) == 0;

    free(initdb);
    free(postgres);
    return has;
}

/* /usr/lib/postgresql/15/bin -> 15; 0 when the path does not say. */
static long major_of(const char *bin)
{
    static const char before[] = "/postgresql/";
    const char *at = strstr(bin, before);

    return at ? strtol(at + strlen(before), NULL, 10) : 0;
}

/* Debian keeps each major version in a folder of its own: the wanted one, else the newest. */
static char *find_debian(long wanted)
{
    char *best = NULL;
    glob_t found;

    if (glob("/usr/lib/postgresql/*/bin", 0, NULL, &found) != 0)
        return NULL;
    for (size_t i = 0; i < found.gl_pathc; i++) {
        const char *bin = found.gl_pathv[i];
        long major = major_of(bin);

        if (!has_programs(bin) || (wanted && major != wanted) || (best && major < major_of(best)))
            continue;
        free(best);
        best = xstrdup(bin);
    }
    globfree(&found);
    return best;
}

static char *find_in_path(void)
{
    const char *at = getenv("PATH");
    char real[PATH_BYTES];

    for (size_t len; at && *at; at += len + (at[len] == ':')) {
        char *folder, *program;
        bool found;

        len = strcspn(at, ":");
        folder = xmemdup(at, len);
        program = xasprintf("%s/postgres", folder);
        /* The programs of a version stand together behind the links. */
        found = len > 0 && has_programs(folder) && realpath(program, real);
        free(program);
        free(folder);
        if (found) {
            *strrchr(real, '/') = '\0';
            return xstrdup(real);
        }
    }
    return NULL;
}

/* The major version of the cluster at `data`, 0 when there is none. */
static long cluster_major(const char *data)
{
    char *path = xasprintf("%s/PG_VERSION", data), line[32] = "";
    FILE *file = fopen(path, "re");

    if (file) {
        if (!fgets(line, sizeof(line), file))
            line[0] = '\0';
        (void)fclose(file); /* only read */
    }
    free(path);
    return strtol(line, NULL, 10);
}

static int find_programs(struct postgres *pg, struct err *err)
{
    long wanted = cluster_major(pg->data), found;

    if (!(pg->bin = find_debian(wanted)))
        pg->bin = find_in_path();
    if (!pg->bin)
        return err_set(err, ERR_INVALID,
                       "there is no PostgreSQL: install it (make deps), or give --database URL");
    pg->initdb = xasprintf("%s/initdb", pg->bin);
    pg->postgres = xasprintf("%s/postgres", pg->bin);
    found = major_of(pg->bin);
    if (wanted && found && wanted != found)
        return err_set(err, ERR_INVALID,
                       "%.100s was made by PostgreSQL %ld, but only %ld is here: install "
                       "postgresql-%ld, or take another --data folder",
                       pg->dir, wanted, found, wanted);
    return 0;
}

/* ---- folders ---- */

static int make_folder(const char *path, mode_t mode, struct err *err)
{
    if (mkdir(path, mode) < 0 && errno != EEXIST)
        return err_set(err, ERR_INVALID, "%.150s: %s", path, strerror(errno));
    return 0;
}

static bool may_search(const struct stat *st, uid_t uid, gid_t gid)
{
    if (st->st_uid == uid)
        return st->st_mode & S_IXUSR;
    if (st->st_gid == gid)
        return st->st_mode & S_IXGRP;
    return st->st_mode & S_IXOTH;
}

/* Whoever runs the server must be able to come to DIR, through all that is above it. */
static int check_reach(const struct postgres *pg, struct err *err)
{
    struct stat st;
    int rc = 0;

    for (size_t i = 0; rc == 0 && i <= strlen(pg->dir); i++) {
        char *part;

        if (pg->dir[i] != '/' && pg->dir[i] != '\0')
            continue;
        part = i == 0 ? xstrdup("/") : xmemdup(pg->dir, i);
        if (stat(part, &st) == 0 && !may_search(&st, pg->uid, pg->gid))
            rc = err_set(err, ERR_INVALID,
                         "root runs PostgreSQL as the user " SYSTEM_USER
                         ", who may not enter %.100s: give --data a folder elsewhere, such as "
                         "/var/lib/nocturne",
                         part);
        free(part);
    }
    return rc;
}

/* Root may not run PostgreSQL: the owner of the cluster does, or the user postgres. */
static int choose_user(struct postgres *pg, struct err *err)
{
    bool there = !postgres_is_new(pg);
    struct passwd *who;
    struct stat st = {0};

    if (there && stat(pg->data, &st) < 0)
        return err_set(err, ERR_INVALID, "%.150s: %s", pg->data, strerror(errno));
    if (geteuid() != 0) {
        if (there && st.st_uid != geteuid())
            return err_set(err, ERR_INVALID, "%.150s belongs to another user", pg->data);
        return 0;
    }
    if (there && st.st_uid != 0) {
        pg->uid = st.st_uid;
        pg->gid = st.st_gid;
    } else if ((who = getpwnam(SYSTEM_USER))) {
        pg->uid = who->pw_uid;
        pg->gid = who->pw_gid;
    } else {
        return err_set(err, ERR_INVALID,
                       "root may not run PostgreSQL and there is no user " SYSTEM_USER);
    }
    return check_reach(pg, err);
}

static int give(const struct postgres *pg, const char *path, struct err *err)
{
    if (pg->uid && lchown(path, pg->uid, pg->gid) < 0)
        return err_set(err, ERR_INVALID, "%.150s: %s", path, strerror(errno));
    return 0;
}

/* Somebody else's folder under /tmp would see all we say to the database. */
static int check_owner(const struct postgres *pg, struct err *err)
{
    uid_t wanted = pg->uid ? pg->uid : geteuid();
    struct stat st;

    if (lstat(pg->sockets, &st) < 0 || !S_ISDIR(st.st_mode) || st.st_uid != wanted ||
        (st.st_mode & 077))
        return err_set(err, ERR_INVALID, "%.150s is not a private folder of ours: remove it",
                       pg->sockets);
    return 0;
}

static int make_sockets(struct postgres *pg, struct err *err)
{
    const char *run = pg->uid ? NULL : getenv("XDG_RUNTIME_DIR");
    char hex[HASH_SHA256_HEX_BYTES];
    struct stat st;

    pg->sockets = xasprintf("%s/run", pg->dir);
    if (strlen(pg->sockets) + strlen(SOCKET_NAME) > SOCKET_BYTES) {
        free(pg->sockets);
        hash_sha256_hex(pg->dir, strlen(pg->dir), hex);
        pg->sockets =
            xasprintf("%s/nocturne-%.16s", run && *run && strlen(run) < 50 ? run : "/tmp", hex);
    }
    if (lstat(pg->sockets, &st) == 0)
        return check_owner(pg, err);
    if (make_folder(pg->sockets, 0700, err) < 0 || give(pg, pg->sockets, err) < 0)
        return -1;
    return check_owner(pg, err);
}

/* A URL holds any path when all but the plainest characters are encoded. */
static void make_url(struct postgres *pg)
{
    struct buf url = BUF_INIT(BUF_MAX);

    (void)buf_puts(&url, "postgresql://" USER "@");
    for (const char *at = pg->sockets; *at; at++)
        (void)buf_printf(&url, isalnum((unsigned char)*at) ? "%c" : "%%%02X", (unsigned char)*at);
    (void)buf_puts(&url, "/postgres");
    pg->url = buf_detach(&url);
    /* A list, whose elements stand in quotes where they have odd characters. */
    pg->sockets_option = xasprintf("unix_socket_directories=\"%s\"", pg->sockets);
}

static int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
    (void)st;
    (void)flag;
    (void)ftw;
    return remove(path);
}

/*
 * Half a cluster stays when we are killed while it is made. Its initdb may still be at work, and
 * fails in its own time: therefore each of us takes another name.
 */
static void remove_halves(const struct postgres *pg)
{
    DIR *dir = opendir(pg->dir);
    struct dirent *entry;

    while (dir && (entry = readdir(dir))) {
        char *path = xasprintf("%s/%s", pg->dir, entry->d_name);

        if (!strncmp(entry->d_name, "postgres.new.", strlen("postgres.new.")))
            (void)nftw(path, remove_one, NFTW_FDS, FTW_DEPTH | FTW_PHYS); /* or at the next start */
        free(path);
    }
    if (dir)
        closedir(dir);
}

int postgres_prepare(struct postgres *pg, const char *dir, struct err *err)
{
    char real[PATH_BYTES];

    *pg = (struct postgres){0};
    if (make_folder(dir, geteuid() == 0 ? 0755 : 0700, err) < 0)
        return -1;
    if (!realpath(dir, real))
        return err_set(err, ERR_INVALID, "%.150s: %s", dir, strerror(errno));
    pg->dir = xstrdup(real);
    pg->data = xasprintf("%s/postgres", real);
    pg->fresh = xasprintf("%s/postgres.new.%d", real, (int)getpid());
    pg->log = xasprintf("%s/postgres.log", real);
    if (find_programs(pg, err) < 0 || choose_user(pg, err) < 0 || make_sockets(pg, err) < 0)
        return -1;
    make_url(pg);
    remove_halves(pg);
    if (!postgres_is_new(pg))
        return 0;
    if (make_folder(pg->fresh, 0700, err) < 0)
        return -1;
    return give(pg, pg->fresh, err);
}

void postgres_release(struct postgres *pg)
{
    free(pg->dir);
    free(pg->bin);
    free(pg->initdb);
    free(pg->postgres);
    free(pg->data);
    free(pg->fresh);
    free(pg->sockets);
    free(pg->log);
    free(pg->url);
    free(pg->sockets_option);
    *pg = (struct postgres){0};
}

bool postgres_is_new(const struct postgres *pg)
{
    return cluster_major(pg->data) == 0;
}

int postgres_adopt(const struct postgres *pg, struct err *err)
{
    if (rename(pg->fresh, pg->data) < 0)
        return err_set(err, ERR_INVALID, "%.150s: %s", pg->data, strerror(errno));
    return 0;
}

void postgres_tidy(const struct postgres *pg)
{
    if (pg->sockets)
        (void)rmdir(pg->sockets); /* one that is not empty is not ours to remove */
}

/* ---- arguments ---- */

static void put_args(const char *program, const char *const *args, const char **ret_args, int max)
{
    int n = 1;

    ret_args[0] = program;
    for (; *args && n < max - 1; args++)
        ret_args[n++] = *args;
    ret_args[n] = NULL;
}

void postgres_init_args(const struct postgres *pg, const char **ret_args, int max)
{
    const char *const args[] = {"-D",   pg->fresh, "-U",    USER,         "-E",
                                "UTF8", "-A",      "trust", "--locale=C", "--auth-host=reject",
                                NULL};

    put_args(pg->initdb, args, ret_args, max);
}

/* What `nocturne doctor` asks for, and nothing that trades safety for speed. */
void postgres_run_args(const struct postgres *pg, const char **ret_args, int max)
{
    const char *const args[] = {"-D", pg->data,
                                "-c", "listen_addresses=",
                                "-c", pg->sockets_option,
                                "-c", "unix_socket_permissions=0700",
                                "-c", "port=5432",
                                "-c", "fsync=on",
                                "-c", "synchronous_commit=on",
                                "-c", "wal_compression=on",
                                "-c", "max_connections=200",
                                "-c", "idle_in_transaction_session_timeout=60s",
                                "-c", "logging_collector=off",
                                NULL};

    put_args(pg->postgres, args, ret_args, max);
}

/* ---- an earlier server ---- */

/* The first line of postmaster.pid; 0 when there is none. */
static pid_t postmaster_pid(const struct postgres *pg)
{
    char *path = xasprintf("%s/postmaster.pid", pg->data), line[32] = "";
    FILE *file = fopen(path, "re");

    free(path);
    if (!file)
        return 0;
    if (!fgets(line, sizeof(line), file))
        line[0] = '\0';
    (void)fclose(file); /* only read */
    return (pid_t)strtol(line, NULL, 10);
}

/* PostgreSQL's processes, and nobody else's, work in the folder of their cluster. */
static bool works_in(const char *proc_name, const char *data)
{
    char path[64], cwd[PATH_BYTES];
    ssize_t len;

    snprintf(path, sizeof(path), "/proc/%.20s/cwd", proc_name);
    len = readlink(path, cwd, sizeof(cwd) - 1);
    if (len < 0)
        return false;
    cwd[len] = '\0';
    return !strcmp(cwd, data);
}

static void remove_file(const char *folder, const char *name)
{
    char *path = xasprintf("%s/%s", folder, name);

    (void)unlink(path); /* mostly it is not there */
    free(path);
}

/*
 * Of a server that was killed. The process number in them may belong to anybody by now, and
 * PostgreSQL would refuse to start.
 */
static void remove_locks(const struct postgres *pg)
{
    remove_file(pg->data, "postmaster.pid");
    remove_file(pg->sockets, SOCKET_NAME ".lock");
    remove_file(pg->sockets, SOCKET_NAME);
}

int postgres_remains(const struct postgres *pg, int signum)
{
    pid_t postmaster = postmaster_pid(pg);
    DIR *proc = opendir("/proc");
    struct dirent *entry;
    int n = 0;

    while (proc && (entry = readdir(proc))) {
        if (!isdigit((unsigned char)entry->d_name[0]) || !works_in(entry->d_name, pg->data))
            continue;
        n++;
        if (signum && (pid_t)strtol(entry->d_name, NULL, 10) == postmaster)
            (void)kill(postmaster, signum); /* gone already is fine */
    }
    if (proc)
        closedir(proc);
    if (n == 0)
        remove_locks(pg);
    return n;
}

bool postgres_answers(const struct postgres *pg)
{
    struct err ignored;
    PGconn *conn = pg_open_blocking(pg->url, "nocturne-dev", &ignored);

    pg_close_blocking(conn);
    return conn != NULL;
}
