/*
 * Settings of a program: one table says all there is to know about them.
 *
 * A value comes from the first of: the command line (--name VALUE or --name=VALUE; a `_` of the
 * name may be written `-`), the environment (NOCTURNE_NAME), the file named by --config
 * (`name = value` lines, # comments), the default in the table. Unknown names on the command
 * line and in the file are errors, so a typing mistake cannot pass unnoticed.
 */
#pragma once

#include "buf.h"
#include "err.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdio.h>

enum config_type {
    CONFIG_STR,   /* char *, owned by the struct */
    CONFIG_INT,   /* int64_t, from 0 */
    CONFIG_MS,    /* uint64_t milliseconds, written as 500ms, 30s, 5m, 2h or 7d */
    CONFIG_BYTES, /* uint64_t, written as 512, 64KiB, 1MiB or 2GiB */
    CONFIG_BOOL,  /* bool, written as on/off, true/false, yes/no or 1/0 */
};

struct config_key {
    const char *name;
    enum config_type type;
    size_t offset;
    const char *fallback; /* NULL: must be given; "" is a legal string */
    const char *help;
    bool secret; /* never printed */
};

/* KEY(struct worker_conf, slots, CONFIG_INT, "1000", "most turns at once") */
#define CONFIG_KEY(type, field, kind, fallback, help)                                              \
    {                                                                                              \
#field, kind, offsetof(type, field), fallback, help, false                                 \
    }
#define CONFIG_SECRET(type, field, kind, fallback, help)                                           \
    {                                                                                              \
#field, kind, offsetof(type, field), fallback, help, true                                  \
    }
#define CONFIG_END                                                                                 \
    {                                                                                              \
        0                                                                                          \
    }

/*
 * Fill `settings` (zeroed before). `argv` from the first argument on; --help and --version are
 * the caller's and must not be among them. On failure `settings` is released.
 */
int config_load(void *settings, const struct config_key *keys, int argc, char **argv,
                struct err *err);
void config_release(void *settings, const struct config_key *keys);

/* For --help: one line per key with its environment variable and default. */
void config_help(FILE *out, const struct config_key *keys);

/* The settings in force as a logfmt fragment without the secrets. */
void config_describe(const void *settings, const struct config_key *keys, struct buf *out);
