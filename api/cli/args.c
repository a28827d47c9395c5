#include "args.h"

#include "clock.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct arg_option common[] = {
    ARG("help", ARG_FLAG, help, NULL, "show this text"),
    ARG_END,
};

static const struct arg_option *find_in(const struct arg_option *options, const char *name,
                                        size_t len)
{
    for (; options->name; options++)
        if (strlen(options->name) == len && !memcmp(options->name, name, len))
            return options;
    return NULL;
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

static int set(const struct arg_option *option, const char *value, struct args *args,
               struct err *err)
{
    void *field = (char *)args + option->offset;
    struct args_list *list;

    switch (option->type) {
    case ARG_FLAG:
        *(bool *)field = true;
        break;
    case ARG_STR:
        *(const char **)field = value;
        break;
    case ARG_INT:
        if (parse_int(value, field) < 0)
            return err_set(err, ERR_INVALID, "--%s: \"%.60s\" is not a whole number", option->name,
                           value);
        break;
    case ARG_MS:
        if (clock_parse_duration(value, field) < 0)
            return err_set(err, ERR_INVALID,
                           "--%s: \"%.60s\" is not a duration such as 500ms or 30s", option->name,
                           value);
        break;
    case ARG_LIST:
        list = field;
        if (list->n == ARGS_MAX_LIST)
            return err_set(err, ERR_INVALID, "--%s: at most %d", option->name, ARGS_MAX_LIST);
        list->items[list->n++] = value;
        break;
    }
    return 0;
}

/* `argv[*at]` starts with "--"; `*at` moves to the last argument used. */
static int parse_option(const struct command *command, int argc, char **argv, int *at,
                        struct args *args, struct err *err)
{
    const char *name = argv[*at] + 2, *equals = strchr(name, '=');
    size_t len = equals ? (size_t)(equals - name) : strlen(name);
    const struct arg_option *option = find_in(command->options, name, len);

    if (!option && !(option = find_in(common, name, len)))
        return err_set(err, ERR_INVALID, "unknown option --%.*s", (int)(len < 60 ? len : 60), name);
    if (option->type == ARG_FLAG) {
        if (equals)
            return err_set(err, ERR_INVALID, "--%s takes no value", option->name);
        return set(option, NULL, args, err);
    }
    if (equals)
        return set(option, equals + 1, args, err);
    if (++*at == argc)
        return err_set(err, ERR_INVALID, "--%s needs %s", option->name, option->value);
    return set(option, argv[*at], args, err);
}

static int take_word(const struct command *command, const char *word, struct args *args,
                     struct err *err)
{
    if (args->n_words == command->max_words)
        return err_set(err, ERR_INVALID, "one word too many: \"%.60s\"%s", word,
                       command->max_words ? " (put a text in quotes)" : "");
    args->words[args->n_words++] = word;
    return 0;
}

int args_parse(const struct command *command, int argc, char **argv, struct args *ret_args,
               struct err *err)
{
    struct args args = {
        .priority = -1,
        .max_attempts = -1,
        .after = -1,
        .limit = -1,
        .workers = -1,
        .schedulers = -1,
    };
    bool options_over = false;
    int rc = 0;

    for (int i = 0; i < argc && rc == 0; i++) {
        if (!options_over && !strcmp(argv[i], "--"))
            options_over = true;
        else if (!options_over && !strncmp(argv[i], "--", 2))
            rc = parse_option(command, argc, argv, &i, &args, err);
        else if (!options_over && !strcmp(argv[i], "-h"))
            args.help = true;
        else if (!options_over && argv[i][0] == '-' && argv[i][1])
            rc = err_set(err, ERR_INVALID, "unknown option %.60s", argv[i]);
        else
            rc = take_word(command, argv[i], &args, err);
    }
    if (rc < 0)
        return -1;
    if (!args.help && args.n_words < command->min_words)
        return err_set(err, ERR_INVALID, "needs %s", command->words);
    *ret_args = args;
    return 0;
}

static void help_options(FILE *out, const struct arg_option *options)
{
    char left[80];

    for (; options->name; options++) {
        snprintf(left, sizeof(left), "--%s%s%s", options->name, options->value ? " " : "",
                 options->value ? options->value : "");
        fprintf(out, "  %-25s %s\n", left, options->help);
    }
}

void args_help(FILE *out, const struct command *command)
{
    fprintf(out, "usage: nocturne %s%s%s [OPTION...]\n\n%s\n", command->name,
            *command->words ? " " : "", command->words, command->summary);
    if (command->details)
        fprintf(out, "\n%s", command->details);
    fputs("\noptions:\n", out);
    help_options(out, command->options);
    help_options(out, common);
}
