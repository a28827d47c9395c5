/* Which database the commands that need one work on. */
#pragma once

#include "args.h"

#define DATABASE_FILE "database" /* in the data folder of `nocturne dev`: the URL of its server */

/*
 * --database, else NOCTURNE_DATABASE, else what `nocturne dev` wrote into .nocturne. NULL and told
 * when there is none. To be freed by the caller.
 */
char *database_url(const struct args *args, const char *command);
