#include "database.h"

#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define URL_BYTES 1024

static char *read_dev(void)
{
    FILE *file = fopen(".nocturne/" DATABASE_FILE, "re");
    char url[URL_BYTES], *got;

    if (!file)
        return NULL;
    got = fgets(url, sizeof(url), file);
    (void)fclose(file); /* only read */
    if (!got)
        return NULL;
    url[strcspn(url, "\n")] = '\0';
    return xstrdup(url);
}

char *database_url(const struct args *args, const char *command)
{
    const char *env = getenv("NOCTURNE_DATABASE");
    char *url;

    if (args->database)
        return xstrdup(args->database);
    if (env && *env)
        return xstrdup(env);
    if ((url = read_dev()))
        return url;
    fprintf(stderr,
            "nocturne %s: which database? Give --database URL or set NOCTURNE_DATABASE "
            "(there is no `nocturne dev` in .nocturne either)\n",
            command);
    return NULL;
}
