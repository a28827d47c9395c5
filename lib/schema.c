/*
 * One table row per keyword: how the keyword itself must look, and what it asks of a value. The
 * walk goes down the schema, never further down the value than the schema reaches, so the depth
 * that schema_lint() allows bounds both.
 */
#include "schema.h"

#include <stdlib.h>
#include <string.h>

#define MAX_EXACT 9007199254740992.0 /* 2^53 */

/* A keyword whose own form is looked at: `rule` is its value, `at` its place. */
struct lint {
    const cJSON *rule;
    const struct pointer *at;
    int depth;
    struct problem_list *problems;
};

/* A value that is looked at by one keyword of `schema`. */
struct check {
    const cJSON *schema;
    const cJSON *rule;
    const cJSON *value;
    const struct pointer *at;
    int depth;
    struct problem_list *problems;
};

struct keyword {
    const char *name;
    int (*lint)(const struct lint *l); /* NULL: any value will do */
    int (*check)(const struct check *c);
};

/* 1.0 is whole, and so is everything from 2^53 up, where doubles have no fraction left. */
static cJSON_bool is_integer(const cJSON *const value)
{
    double n = cJSON_IsNumber(value) ? value->valuedouble : 0.5;

    return n >= MAX_EXACT || n <= -MAX_EXACT || n == (double)(int64_t)n;
}

static const struct {
    const char *name;
    const char *wanted;
    cJSON_bool (*is)(const cJSON *const value);
} types[] = {
    {"string",  "a string",       cJSON_IsString},
    {"number",  "a number",       cJSON_IsNumber},
    {"integer", "a whole number", is_integer    },
    {"boolean", "true or false",  cJSON_IsBool  },
    {"object",  "an object",      cJSON_IsObject},
    {"array",   "an array",       cJSON_IsArray },
    {"null",    "null",           cJSON_IsNull  },
};
#define N_TYPES (sizeof(types) / sizeof(*types))

static int lint_schema(const cJSON *schema, const struct pointer *at, int depth,
                       struct problem_list *problems);
static int check_value(const cJSON *schema, const cJSON *value, const struct pointer *at, int depth,
                       struct problem_list *problems);

/* Index in `types` of the string `word`, or -1. */
static int find_type(const cJSON *word)
{
    for (size_t i = 0; cJSON_IsString(word) && i < N_TYPES; i++)
        if (!strcmp(word->valuestring, types[i].name))
            return (int)i;
    return -1;
}

static int lint_type(const struct lint *l)
{
    static const char wanted[] = "must be string, number, integer, boolean, object, array or null";
    const cJSON *word;
    size_t i = 0;
    int rc = 0;

    if (!cJSON_IsArray(l->rule))
        return find_type(l->rule) < 0 ? problem_add(l->problems, l->at, wanted) : 0;
    if (!l->rule->child)
        return problem_add(l->problems, l->at, "must name at least one type");
    cJSON_ArrayForEach (word, l->rule) {
        if (find_type(word) < 0)
            rc = problem_add(l->problems, POINTER_INDEX(l->at, i), wanted);
        i++;
    }
    return rc;
}

static int lint_enum(const struct lint *l)
{
    if (!cJSON_IsArray(l->rule) || !l->rule->child)
        return problem_add(l->problems, l->at, "must be an array of at least one value");
    return 0;
}

static int lint_schema_here(const struct lint *l)
{
    return lint_schema(l->rule, l->at, l->depth + 1, l->problems);
}

static int lint_properties(const struct lint *l)
{
    const cJSON *member;
    int rc = 0;

    if (!cJSON_IsObject(l->rule))
        return problem_add(l->problems, l->at, "must be an object of schemas");
    cJSON_ArrayForEach (member, l->rule) {
        if (lint_schema(member, POINTER_KEY(l->at, member->string), l->depth + 1, l->problems) < 0)
            rc = -1;
    }
    return rc;
}

static int lint_required(const struct lint *l)
{
    const cJSON *name;
    size_t i = 0;
    int rc = 0;

    if (!cJSON_IsArray(l->rule))
        return problem_add(l->problems, l->at, "must be an array of strings");
    cJSON_ArrayForEach (name, l->rule) {
        if (!cJSON_IsString(name))
            rc = problem_add(l->problems, POINTER_INDEX(l->at, i), "must be a string");
        i++;
    }
    return rc;
}

static int lint_any_of(const struct lint *l)
{
    const cJSON *schema;
    size_t i = 0;
    int rc = 0;

    if (!cJSON_IsArray(l->rule) || !l->rule->child)
        return problem_add(l->problems, l->at, "must be an array of at least one schema");
    cJSON_ArrayForEach (schema, l->rule) {
        if (lint_schema(schema, POINTER_INDEX(l->at, i), l->depth + 1, l->problems) < 0)
            rc = -1;
        i++;
    }
    return rc;
}

static int lint_count(const struct lint *l)
{
    if (!is_integer(l->rule) || l->rule->valuedouble < 0)
        return problem_add(l->problems, l->at, "must be a whole number from 0");
    return 0;
}

static int lint_number(const struct lint *l)
{
    return cJSON_IsNumber(l->rule) ? 0 : problem_add(l->problems, l->at, "must be a number");
}

static bool is_type(const cJSON *value, const cJSON *word)
{
    int i = find_type(word);

    return i >= 0 && types[i].is(value);
}

/* "must be a string, a number or null" */
static int wrong_type(const struct check *c)
{
    BUF_AUTO(wanted, PROBLEM_MAX_BYTES);
    const cJSON *word = cJSON_IsArray(c->rule) ? c->rule->child : c->rule;

    for (; word; word = word->next) {
        int i = find_type(word);
        const char *between = !wanted.len ? "" : word->next ? ", " : " or ";

        /* a list that is too long is cut: the first types tell enough */
        if (i >= 0)
            (void)buf_printf(&wanted, "%s%s", between, types[i].wanted);
        if (!cJSON_IsArray(c->rule))
            break;
    }
    return problem_add(c->problems, c->at, "must be %s", wanted.data);
}

static int check_type(const struct check *c)
{
    const cJSON *word;

    if (!cJSON_IsArray(c->rule))
        return is_type(c->value, c->rule) ? 0 : wrong_type(c);
    cJSON_ArrayForEach (word, c->rule) {
        if (is_type(c->value, word))
            return 0;
    }
    return wrong_type(c);
}

static int must_be(const struct check *c, const char *how)
{
    char *text = json_print(c->rule);
    int rc = problem_add(c->problems, c->at, "must be %s%s", how, text);

    free(text);
    return rc;
}

static int check_enum(const struct check *c)
{
    const cJSON *word;

    cJSON_ArrayForEach (word, c->rule) {
        if (cJSON_Compare(c->value, word, true))
            return 0;
    }
    return must_be(c, "one of ");
}

static int check_const(const struct check *c)
{
    return cJSON_Compare(c->value, c->rule, true) ? 0 : must_be(c, "");
}

/* Goes over the value, not over the rule, so that a member given twice is checked twice. */
static int check_properties(const struct check *c)
{
    const cJSON *member, *schema;
    int rc = 0;

    if (!cJSON_IsObject(c->value))
        return 0;
    cJSON_ArrayForEach (member, c->value) {
        if (problem_is_full(c->problems))
            return -1;
        schema = cJSON_GetObjectItemCaseSensitive(c->rule, member->string);
        if (schema && check_value(schema, member, POINTER_KEY(c->at, member->string), c->depth + 1,
                                  c->problems) < 0)
            rc = -1;
    }
    return rc;
}

static int check_additional(const struct check *c)
{
    const cJSON *known = cJSON_GetObjectItemCaseSensitive(c->schema, "properties");
    const cJSON *member;
    int rc = 0;

    if (!cJSON_IsObject(c->value) || cJSON_IsTrue(c->rule))
        return 0;
    cJSON_ArrayForEach (member, c->value) {
        if (problem_is_full(c->problems))
            return -1;
        if (cJSON_GetObjectItemCaseSensitive(known, member->string))
            continue;
        if (check_value(c->rule, member, POINTER_KEY(c->at, member->string), c->depth + 1,
                        c->problems) < 0)
            rc = -1;
    }
    return rc;
}

static int check_required(const struct check *c)
{
    const cJSON *name;
    int rc = 0;

    if (!cJSON_IsObject(c->value))
        return 0;
    cJSON_ArrayForEach (name, c->rule) {
        if (cJSON_IsString(name) && !cJSON_GetObjectItemCaseSensitive(c->value, name->valuestring))
            rc = problem_add(c->problems, POINTER_KEY(c->at, name->valuestring), "is required");
    }
    return rc;
}

static int check_items(const struct check *c)
{
    const cJSON *element;
    size_t i = 0;
    int rc = 0;

    if (!cJSON_IsArray(c->value))
        return 0;
    cJSON_ArrayForEach (element, c->value) {
        if (problem_is_full(c->problems))
            return -1;
        if (check_value(c->rule, element, POINTER_INDEX(c->at, i), c->depth + 1, c->problems) < 0)
            rc = -1;
        i++;
    }
    return rc;
}

static int check_any_of(const struct check *c)
{
    const cJSON *schema;

    cJSON_ArrayForEach (schema, c->rule) {
        PROBLEMS_AUTO(unseen);

        if (check_value(schema, c->value, c->at, c->depth + 1, &unseen) == 0)
            return 0;
    }
    return problem_add(c->problems, c->at, "must fit at least one of the schemas in anyOf");
}

static int check_minimum(const struct check *c)
{
    if (!cJSON_IsNumber(c->value) || c->value->valuedouble >= c->rule->valuedouble)
        return 0;
    return must_be(c, "at least ");
}

static int check_maximum(const struct check *c)
{
    if (!cJSON_IsNumber(c->value) || c->value->valuedouble <= c->rule->valuedouble)
        return 0;
    return must_be(c, "at most ");
}

static double characters(const char *text)
{
    size_t n = 0;

    for (; *text; text++)
        n += ((unsigned char)*text & 0xC0) != 0x80;
    return (double)n;
}

static int check_min_length(const struct check *c)
{
    if (!cJSON_IsString(c->value) || characters(c->value->valuestring) >= c->rule->valuedouble)
        return 0;
    return problem_add(c->problems, c->at, "must have at least %.0f characters",
                       c->rule->valuedouble);
}

static int check_max_length(const struct check *c)
{
    if (!cJSON_IsString(c->value) || characters(c->value->valuestring) <= c->rule->valuedouble)
        return 0;
    return problem_add(c->problems, c->at, "must have at most %.0f characters",
                       c->rule->valuedouble);
}

static int check_min_items(const struct check *c)
{
    if (!cJSON_IsArray(c->value) || cJSON_GetArraySize(c->value) >= c->rule->valuedouble)
        return 0;
    return problem_add(c->problems, c->at, "must have at least %.0f elements",
                       c->rule->valuedouble);
}

static int check_max_items(const struct check *c)
{
    if (!cJSON_IsArray(c->value) || cJSON_GetArraySize(c->value) <= c->rule->valuedouble)
        return 0;
    return problem_add(c->problems, c->at, "must have at most %.0f elements", c->rule->valuedouble);
}

static const struct keyword keywords[] = {
    {"type",                 lint_type,        check_type      },
    {"enum",                 lint_enum,        check_enum      },
    {"const",                NULL,             check_const     },
    {"properties",           lint_properties,  check_properties},
    {"additionalProperties", lint_schema_here, check_additional},
    {"required",             lint_required,    check_required  },
    {"items",                lint_schema_here, check_items     },
    {"minItems",             lint_count,       check_min_items },
    {"maxItems",             lint_count,       check_max_items },
    {"minimum",              lint_number,      check_minimum   },
    {"maximum",              lint_number,      check_maximum   },
    {"minLength",            lint_count,       check_min_length},
    {"maxLength",            lint_count,       check_max_length},
    {"anyOf",                lint_any_of,      check_any_of    },
};

static const struct keyword *find_keyword(const char *name)
{
    for (size_t i = 0; i < sizeof(keywords) / sizeof(*keywords); i++)
        if (!strcmp(keywords[i].name, name))
            return &keywords[i];
    return NULL;
}

static int lint_schema(const cJSON *schema, const struct pointer *at, int depth,
                       struct problem_list *problems)
{
    const struct keyword *keyword;
    const cJSON *rule;
    int rc = 0;

    if (cJSON_IsBool(schema))
        return 0;
    if (!cJSON_IsObject(schema))
        return problem_add(problems, at, "must be a schema: an object, true or false");
    if (depth > SCHEMA_MAX_DEPTH)
        return problem_add(problems, at, "must not be nested more than %d deep", SCHEMA_MAX_DEPTH);
    cJSON_ArrayForEach (rule, schema) {
        if (problem_is_full(problems))
            return -1;
        keyword = find_keyword(rule->string);
        if (!keyword || !keyword->lint)
            continue;
        if (keyword->lint(&(struct lint){rule, POINTER_KEY(at, rule->string), depth, problems}) < 0)
            rc = -1;
    }
    return rc;
}

static int check_value(const cJSON *schema, const cJSON *value, const struct pointer *at, int depth,
                       struct problem_list *problems)
{
    struct check c = {schema, NULL, value, at, depth, problems};
    int rc = 0;

    if (cJSON_IsFalse(schema))
        return problem_add(problems, at, "is not allowed");
    if (depth > SCHEMA_MAX_DEPTH)
        return problem_add(problems, at, "must not be nested more than %d deep", SCHEMA_MAX_DEPTH);
    /* Of a value of the wrong type nothing else is worth saying. */
    c.rule = cJSON_GetObjectItemCaseSensitive(schema, "type");
    if (c.rule && check_type(&c) < 0)
        return -1;
    cJSON_ArrayForEach (c.rule, schema) {
        const struct keyword *keyword = find_keyword(c.rule->string);

        if (problem_is_full(problems))
            return -1;
        if (keyword && keyword->check != check_type && keyword->check(&c) < 0)
            rc = -1;
    }
    return rc;
}

int schema_lint(const cJSON *schema, const struct pointer *at, struct problem_list *problems)
{
    return lint_schema(schema, at, 1, problems);
}

int schema_check(const cJSON *schema, const cJSON *value, const struct pointer *at,
                 struct problem_list *problems)
{
    return check_value(schema, value, at, 1, problems);
}
