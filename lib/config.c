#include "config.h"

#include "clock.h"
#include "mem.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

static void *field_of(void *settings, const struct config_key *key)
{
    return (char *)settings + key->offset;
}

static int parse_int(const char *text, int64_t *ret_value)
{
    char *end;
    long long n;

    errno = 0;
    n = strtoll(text, &end, 10);
    if (errno || end == text || *end || n < 0)
        return -1;
    *ret_value = n;
    return 0;
}

static int parse_bytes(const char *text, uint64_t *ret_bytes)
{
    static const char *const units[] = {"", "KiB", "MiB", "GiB"};
    unsigned long long n;
    char *end;

    if (!isdigit((unsigned char)*text))
        return -1;
    n = strtoull(text, &end, 10);
    for (unsigned i = 0; i < sizeof(units) / sizeof(*units); i++) {
        if (!strcmp(end, units[i]) && n <= UINT64_MAX >> (10 * i + 10)) {
            *ret_bytes = n << (10 * i);
            return 0;
        }
    }
    return -1;
}

static int parse_bool(const char *text, bool *ret_value)
{
    static const char *const words[] = {"off", "on", "false", "true", "no", "yes", "0", "1"};

    for (unsigned i = 0; i < sizeof(words) / sizeof(*words); i++) {
        if (!strcmp(text, words[i])) {
            *ret_value = i % 2;
            return 0;
        }
    }
    return -1;
}

static int set(void *settings, const struct config_key *key, const char *text, struct err *err)
{
    static const char *const wanted[] = {
        [CONFIG_INT] = "a whole number",
        [CONFIG_MS] = "a duration such as 500ms or 30s",
        [CONFIG_BYTES] = "a size such as 512, 64KiB or 1MiB",
        [CONFIG_BOOL] = "on or off",
    };
    void *field = field_of(settings, key);
    int rc = -1;

    switch (key->type) {
    case CONFIG_STR:
        free(*(char **)field);
        *(char **)field = xstrdup(text);
        return 0;
    case CONFIG_INT:
        rc = parse_int(text, field);
        break;
    case CONFIG_MS:
        rc = clock_parse_duration(text, field);
        break;
    case CONFIG_BYTES:
        rc = parse_bytes(text, field);
        break;
    case CONFIG_BOOL:
        rc = parse_bool(text, field);
        break;
    }
    if (rc < 0)
        return err_set(err, ERR_INVALID, "%s: \"%s\" is not %s", key->name, text,
                       wanted[key->type]);
    return 0;
}

/* The key called `name`, where `-` may stand for `_`; NULL when there is none. */
static const struct config_key *find(const struct config_key *keys, const char *name, size_t len)
{
    for (const struct config_key *key = keys; key->name; key++) {
        size_t i = 0;

        while (i < len && key->name[i] &&
               (key->name[i] == name[i] || (key->name[i] == '_' && name[i] == '-')))
            i++;
        if (i == len && !key->name[i])
            return key;
    }
    return NULL;
}

static char *trim(char *text)
{
    char *end = text + strlen(text);

    while (end > text && isspace((unsigned char)end[-1]))
        *--end = '\0';
    while (isspace((unsigned char)*text))
        text++;
    return text;
}

static int set_line(void *settings, const struct config_key *keys, char *line, struct err *err)
{
    char *name = trim(line);
    char *equals = strchr(name, '=');
    const struct config_key *key;

    if (!*name || *name == '#')
        return 0;
    if (!equals)
        return err_set(err, ERR_INVALID, "\"%s\" is not of the form name = value", name);
    *equals = '\0';
    name = trim(name);
    key = find(keys, name, strlen(name));
    if (!key)
        return err_set(err, ERR_INVALID, "unknown setting \"%s\"", name);
    return set(settings, key, trim(equals + 1), err);
}

static int set_from_file(void *settings, const struct config_key *keys, const char *path,
                         struct err *err)
{
    FILE *file = fopen(path, "re");
    char line[4096];
    int rc = 0;

    if (!file)
        return err_set(err, ERR_INVALID, "cannot open %s: %s", path, strerror(errno));
    while (rc == 0 && fgets(line, sizeof(line), file))
        rc = set_line(settings, keys, line, err);
    fclose(file);
    return rc;
}

/* One argument of the command line. `settings` NULL: only look for --config. */
static int set_argument(void *settings, const struct config_key *keys, int argc, char **argv,
                        int *i, const char **config_path, struct err *err)
{
    const char *name = argv[*i], *value;
    const struct config_key *key;
    size_t len;

    if (strncmp(name, "--", 2) != 0)
        return err_set(err, ERR_INVALID, "unexpected argument \"%s\"", name);
    name += 2;
    len = strcspn(name, "=");
    if (name[len] == '=')
        value = name + len + 1;
    else if (*i + 1 < argc)
        value = argv[++*i];
    else
        return err_set(err, ERR_INVALID, "--%s needs a value", name);
    if (len == strlen("config") && !strncmp(name, "config", len)) {
        *config_path = value;
        return 0;
    }
    key = find(keys, name, len);
    if (!key)
        return err_set(err, ERR_INVALID, "unknown option --%.*s", (int)len, name);
    return settings ? set(settings, key, value, err) : 0;
}

static void env_name(char *name, size_t size, const struct config_key *key)
{
    snprintf(name, size, "NOCTURNE_%s", key->name);
    for (; *name; name++)
        *name = (char)toupper((unsigned char)*name);
}

static int load(void *settings, const struct config_key *keys, int argc, char **argv,
                struct err *err)
{
    const char *path = NULL, *text;
    char env[80];

    for (int i = 0; i < argc; i++)
        if (set_argument(NULL, keys, argc, argv, &i, &path, err) < 0)
            return -1;
    for (const struct config_key *key = keys; key->name; key++)
        if (key->fallback && set(settings, key, key->fallback, err) < 0)
            return -1;
    if (path && set_from_file(settings, keys, path, err) < 0)
        return -1;
    for (const struct config_key *key = keys; key->name; key++) {
        env_name(env, sizeof(env), key);
        if ((text = getenv(env)) && set(settings, key, text, err) < 0)
            return -1;
    }
    for (int i = 0; i < argc; i++)
        if (set_argument(settings, keys, argc, argv, &i, &path, err) < 0)
            return -1;
    for (const struct config_key *key = keys; key->name; key++) {
        env_name(env, sizeof(env), key);
        if (key->type == CONFIG_STR && !*(char **)field_of(settings, key))
            return err_set(err, ERR_INVALID, "%s is not set (--%s or %s)", key->name, key->name,
                           env);
    }
    return 0;
}

int config_load(void *settings, const struct config_key *keys, int argc, char **argv,
                struct err *err)
{
    if (load(settings, keys, argc, argv, err) == 0)
        return 0;
    config_release(settings, keys);
    return -1;
}

void config_release(void *settings, const struct config_key *keys)
{
    for (const struct config_key *key = keys; key->name; key++) {
        if (key->type == CONFIG_STR) {
            free(*(char **)field_of(settings, key));
            *(char **)field_of(settings, key) = NULL;
        }
    }
}

void config_help(FILE *out, const struct config_key *keys)
{
    char env[80];

    for (const struct config_key *key = keys; key->name; key++) {
        env_name(env, sizeof(env), key);
        fprintf(out, "  --%-20s %-32s %s [%s]\n", key->name, env, key->help,
                !key->fallback   ? "required"
                : *key->fallback ? key->fallback
                                 : "none");
    }
    fprintf(out, "  --%-20s %-32s %s\n", "config", "", "a file of `name = value` lines");
}

void config_describe(const void *settings, const struct config_key *keys, struct buf *out)
{
    for (const struct config_key *key = keys; key->name; key++) {
        const void *field = (const char *)settings + key->offset;

        buf_printf(out, "%s%s=", out->len ? " " : "", key->name);
        if (key->secret)
            buf_puts(out, "***");
        else if (key->type == CONFIG_STR)
            buf_printf(out, "\"%s\"", *(char *const *)field);
        else if (key->type == CONFIG_INT)
            buf_printf(out, "%" PRId64, *(const int64_t *)field);
        else if (key->type == CONFIG_MS)
            buf_printf(out, "%" PRIu64 "ms", *(const uint64_t *)field);
        else if (key->type == CONFIG_BYTES)
            buf_printf(out, "%" PRIu64, *(const uint64_t *)field);
        else
            buf_puts(out, *(const bool *)field ? "on" : "off");
    }
}
