#include "agents_dir.h"

#include "agent.h"
#include "json.h"
#include "mem.h"
#include "problem.h"

#include <dirent.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define AGENTS_MAX 1000
#define SUFFIX     ".json"

static int is_definition(const struct dirent *entry)
{
    size_t len = strlen(entry->d_name), suffix = strlen(SUFFIX);

    return entry->d_name[0] != '.' && len > suffix && !strcmp(entry->d_name + len - suffix, SUFFIX);
}

static int read_file(const char *path, struct buf *text, struct err *err)
{
    FILE *file = fopen(path, "re");
    char bytes[8192];
    size_t n;
    int rc = 0;

    if (!file)
        return err_set(err, ERR_INVALID, "%.120s", strerror(errno));
    while (rc == 0 && (n = fread(bytes, 1, sizeof(bytes), file)) > 0)
        if (buf_append(text, bytes, n) < 0)
            rc = err_set(err, ERR_INVALID, "larger than %d bytes", AGENT_MAX_BYTES);
    if (rc == 0 && ferror(file))
        rc = err_set(err, ERR_INVALID, "cannot be read");
    (void)fclose(file); /* only read */
    return rc;
}

static void tell(FILE *out, const char *path, const struct problem_list *problems)
{
    for (size_t i = 0; i < problems->n; i++) {
        BUF_AUTO(line, BUF_MAX);

        (void)problem_put_text(&problems->items[i], &line);
        fprintf(out, "%s: %s\n", path, line.data);
    }
}

/* One file into `body`; -1 and told when it is no good. */
static int take_file(const char *path, const char *file, FILE *out, struct buf *body)
{
    BUF_AUTO(text, AGENT_MAX_BYTES);
    PROBLEMS_AUTO(problems);
    char *name = xmemdup(file, strlen(file) - strlen(SUFFIX));
    struct agent *agent = NULL;
    struct err err = {0};

    if (!agent_name_is_valid(name))
        fprintf(out, "%s: the file name is no agent name: letters, digits, '_', '-' and '.'\n",
                path);
    else if (read_file(path, &text, &err) < 0)
        fprintf(out, "%s: %s\n", path, err.msg);
    else if (!(agent = agent_parse(text.data, text.len, &problems)))
        tell(out, path, &problems);
    if (agent) {
        (void)json_put_key(body, name);
        (void)json_put_raw(body, text.data, text.len);
    }
    free(name);
    if (!agent)
        return -1;
    agent_free(agent);
    return 0;
}

int agents_dir_read(const char *dir, FILE *out, struct buf *body, int *ret_n, struct err *err)
{
    struct dirent **entries;
    int n = scandir(dir, &entries, is_definition, alphasort), bad = 0;

    if (n < 0)
        return err_set(err, ERR_NOT_FOUND, "%.150s: %s", dir, strerror(errno));
    (void)json_open(body, '{');
    (void)json_put_key(body, "agents");
    (void)json_open(body, '{');
    for (int i = 0; i < n; i++) {
        char *path = xasprintf("%s/%s", dir, entries[i]->d_name);

        if (n <= AGENTS_MAX && take_file(path, entries[i]->d_name, out, body) < 0)
            bad++;
        free(path);
        free(entries[i]);
    }
    free(entries);
    (void)json_close(body, '}');
    (void)json_close(body, '}');
    if (n > AGENTS_MAX)
        return err_set(err, ERR_INVALID, "%.150s: more than %d definitions", dir, AGENTS_MAX);
    if (bad)
        return err_set(err, ERR_INVALID, "%d of %d definitions are wrong, nothing was applied", bad,
                       n);
    *ret_n = n;
    return 0;
}
