#include "agents.h"

#include "agent.h"
#include "fields.h"
#include "mem.h"
#include "page.h"
#include "reply.h"
#include "store_task.h"

#include <stdlib.h>
#include <string.h>

#define MAX_AT_ONCE 1000

/* Definitions on their way into the database; hangs on the request as `ud`. */
struct apply {
    struct pg_array names, definitions, managed, max_attempts;
    bool bulk;
};

/* One of them, checked; sorted by name, so that two of us at once lock in the same order. */
struct item {
    const char *name;
    char *definition;
    bool client;
    int64_t max_attempts;
};

/* ---- read ---- */

static int take_name(struct request *r)
{
    if (agent_name_is_valid(r->params[0]))
        return 0;
    reply_fault(r, FAULT_NOT_FOUND, "there is no agent \"%.60s\"", r->params[0]);
    return -1;
}

static void on_got(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;
    const char *json = err->code == ERR_OK ? store_read_one(res) : NULL;

    if (err->code != ERR_OK)
        reply_err(r, err);
    else if (!json)
        reply_fault(r, FAULT_NOT_FOUND, "there is no agent \"%s\"", r->params[0]);
    else
        reply_json(r, 200, json, strlen(json));
}

void agent_get(struct request *r)
{
    if (take_name(r) == 0)
        store_agent_get(pgpool_pick(r->api->pool), &r->call, r->params[0], on_got, r);
}

static void on_deleted(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;

    if (err->code != ERR_OK)
        reply_err(r, err);
    else if (!store_read_one(res))
        reply_fault(r, FAULT_NOT_FOUND, "there is no agent \"%s\"", r->params[0]);
    else
        reply_empty(r, 204);
}

void agent_delete(struct request *r)
{
    if (take_name(r) == 0)
        store_agent_delete(pgpool_pick(r->api->pool), &r->call, r->params[0], on_deleted, r);
}

static void on_listed(void *owner, PGresult *res, const struct err *err)
{
    page_answer(owner, "agents", "after", res, err);
}

void agent_list(struct request *r)
{
    const char *after = query_get(&r->query, "after");
    struct page page;

    if (page_init(&page, r, "agents", "after") < 0)
        return;
    store_agent_list(pgpool_pick(r->api->pool), &r->call, after ? after : "", page.limit + 1,
                     on_listed, r);
    page_release(&page);
}

/* ---- apply ---- */

static void apply_init(struct apply *apply, bool bulk)
{
    apply->bulk = bulk;
    pg_array_init(&apply->names, PG_TEXT);
    pg_array_init(&apply->definitions, PG_TEXT);
    pg_array_init(&apply->managed, PG_TEXT);
    pg_array_init(&apply->max_attempts, PG_INT4);
}

static void apply_free(struct apply *apply)
{
    pg_array_release(&apply->names);
    pg_array_release(&apply->definitions);
    pg_array_release(&apply->managed);
    pg_array_release(&apply->max_attempts);
    free(apply);
}

static void apply_put(struct apply *apply, const struct item *item)
{
    pg_array_put_text(&apply->names, item->name);
    pg_array_put_text(&apply->definitions, item->definition);
    pg_array_put_text(&apply->managed, item->client ? "client" : "server");
    pg_array_put_int(&apply->max_attempts, item->max_attempts);
}

static void put_applied(struct buf *out, const struct applied_row *row)
{
    json_open(out, '{');
    json_put_member_str(out, "name", row->name);
    json_put_member_int(out, "revision", row->revision);
    json_put_key(out, "changed");
    json_put_bool(out, row->changed);
    json_close(out, '}');
}

static void on_applied(void *owner, PGresult *res, const struct err *err)
{
    struct request *r = owner;
    struct apply *apply = r->ud;
    struct applied_row row;
    bool bulk = apply->bulk;
    BUF_AUTO(out, BUF_MAX);

    apply_free(apply);
    if (err->code != ERR_OK) {
        reply_err(r, err);
        return;
    }
    if (bulk)
        (void)buf_puts(&out, "{\"agents\":[");
    for (int i = 0; i < store_rows(res); i++) {
        store_read_applied(res, i, &row);
        (void)buf_puts(&out, i ? "," : "");
        put_applied(&out, &row);
    }
    if (bulk)
        (void)buf_puts(&out, "]}");
    reply_json(r, 200, out.data, out.len);
}

static void apply_start(struct request *r, struct apply *apply)
{
    r->ud = apply;
    store_agent_apply(pgpool_pick(r->api->pool), &r->call, &apply->names, &apply->definitions,
                      &apply->managed, &apply->max_attempts, on_applied, r);
}

/* The text of a valid JSON document without the white space between its tokens. */
static char *minified(const char *text, size_t len)
{
    char *out = xmemdup(text, len);
    size_t n = 0;
    bool in_string = false;

    for (size_t i = 0; i < len; i++) {
        if (!in_string && strchr(" \t\r\n", text[i]))
            continue;
        out[n++] = text[i];
        if (in_string && text[i] == '\\' && i + 1 < len)
            out[n++] = text[++i];
        else if (text[i] == '"')
            in_string = !in_string;
    }
    out[n] = '\0';
    return out;
}

/* 0, or -1 with problems. */
static int item_read(struct item *item, const char *name, const char *text, size_t len,
                     struct problem_list *problems)
{
    struct agent *agent = agent_parse(text, len, problems);

    if (!agent)
        return -1;
    *item = (struct item){
        .name = name,
        .definition = minified(text, len),
        .client = agent->state_at == AGENT_STATE_CLIENT,
        .max_attempts = agent->max_attempts,
    };
    agent_free(agent);
    return 0;
}

void agent_put(struct request *r)
{
    struct apply *apply;
    struct item item;
    PROBLEMS_AUTO(problems);

    if (!agent_name_is_valid(r->params[0])) {
        reply_fault(r, FAULT_INVALID_REQUEST,
                    "an agent's name is 1 to 128 of A-Z a-z 0-9 _ . - and begins with a letter or "
                    "digit");
        return;
    }
    if (request_read_body(r, false) < 0)
        return;
    if (item_read(&item, r->params[0], r->http->body, r->http->body_len, &problems) < 0) {
        reply_problems(r, &problems);
        return;
    }
    apply = xcalloc(1, sizeof(*apply));
    apply_init(apply, false);
    apply_put(apply, &item);
    free(item.definition);
    apply_start(r, apply);
}

/* Take over the mistakes of one definition, each behind its agent's place in the body. */
static void adopt(struct problem_list *all, struct problem_list *problems, const char *name)
{
    BUF_AUTO(prefix, BUF_MAX);

    (void)pointer_put(&prefix, POINTER_KEY(POINTER_KEY(NULL, "agents"), name));
    for (size_t i = 0; i < problems->n && !problem_is_full(all); i++) {
        struct problem *from = &problems->items[i], *to = &all->items[all->n++];

        to->pointer = xasprintf("%s%s", prefix.data, from->pointer);
        to->detail = xstrdup(from->detail);
    }
}

/* The text of the member `name` of the object that stands in `text`. */
static char *member_text(const char *text, const cJSON *value)
{
    const char *start;
    size_t len;

    if (json_member_span(text, value->string, &start, &len))
        return xmemdup(start, len);
    return json_print(value); /* its name was written with escapes */
}

static bool is_repeated(const cJSON *value)
{
    for (const cJSON *other = value->prev; other && other->next; other = other->prev)
        if (!strcmp(other->string, value->string))
            return true;
    return false;
}

static void items_read(const cJSON *agents, const char *text, struct item *items,
                       struct problem_list *problems)
{
    const cJSON *value;
    int i = 0;

    cJSON_ArrayForEach (value, agents) {
        const struct pointer *at = POINTER_KEY(POINTER_KEY(NULL, "agents"), value->string);
        char *definition = member_text(text, value);
        PROBLEMS_AUTO(own);

        if (!agent_name_is_valid(value->string))
            (void)problem_add(problems, at, "is not a name: 1 to 128 of A-Z a-z 0-9 _ . -");
        else if (is_repeated(value))
            (void)problem_add(problems, at, "is given twice");
        else if (item_read(&items[i++], value->string, definition, strlen(definition), &own) < 0)
            adopt(problems, &own, value->string);
        free(definition);
    }
}

static int compare_items(const void *a, const void *b)
{
    return strcmp(((const struct item *)a)->name, ((const struct item *)b)->name);
}

static void items_apply(struct request *r, struct item *items, int n)
{
    struct apply *apply = xcalloc(1, sizeof(*apply));

    if (n > 1)
        qsort(items, (size_t)n, sizeof(*items), compare_items);
    apply_init(apply, true);
    for (int i = 0; i < n; i++)
        apply_put(apply, &items[i]);
    apply_start(r, apply);
}

struct bulk_body {
    const cJSON *agents;
};

static const struct field bulk_fields[] = {
    FIELD(struct bulk_body, "agents", FIELD_OBJECT, agents, .required = true),
    FIELD_END,
};

static int check_bulk(struct request *r, const cJSON **ret_agents, struct problem_list *problems)
{
    struct bulk_body body = {0};

    if (fields_read(r->body, NULL, bulk_fields, &body, problems) < 0)
        return -1;
    if (cJSON_GetArraySize(body.agents) > MAX_AT_ONCE)
        return problem_add(problems, POINTER_KEY(NULL, "agents"), "must have at most %d members",
                           MAX_AT_ONCE);
    *ret_agents = body.agents;
    return 0;
}

void agent_apply(struct request *r)
{
    struct item *items = NULL;
    const cJSON *agents = NULL;
    int n = 0;
    char *text;
    PROBLEMS_AUTO(problems);

    if (request_read_body(r, false) < 0)
        return;
    if (check_bulk(r, &agents, &problems) == 0 && agents) {
        n = cJSON_GetArraySize(agents);
        items = xcalloc((size_t)n + 1, sizeof(*items));
        text = member_text(r->http->body, agents);
        items_read(agents, text, items, &problems);
        free(text);
    }
    if (problems.n > 0)
        reply_problems(r, &problems);
    else
        items_apply(r, items, n);
    for (int i = 0; i < n; i++)
        free(items[i].definition);
    free(items);
}
