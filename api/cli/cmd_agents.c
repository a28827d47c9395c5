/* agents list, show, apply, delete. */
#include "agents_dir.h"
#include "client.h"
#include "commands.h"
#include "json.h"
#include "mem.h"

#include <stdlib.h>
#include <string.h>

#define BODY_MAX_BYTES ((size_t)256 << 20)

static cJSON *parse_reply(struct client *client)
{
    struct err err;

    return json_parse(client->call.reply.data, client->call.reply.len, &err);
}

static void print_reply(struct client *client)
{
    term_text(&client->term, client->call.reply.data, client->call.reply.len);
    term_break(&client->term);
}

/* "/v1/agents/NAME", to be freed by the caller. */
static char *agent_path(const char *name)
{
    struct buf path = BUF_INIT(CLIENT_PATH_BYTES);

    if (buf_puts(&path, "/v1/agents/") < 0 || client_put_segment(&path, name) < 0) {
        buf_release(&path);
        return xstrdup("/v1/agents/-"); /* there is none with a name that long */
    }
    return buf_detach(&path);
}

static void print_line(struct client *client, const cJSON *agent)
{
    const cJSON *revision = json_get(agent, "revision"), *changed = json_get(agent, "changed");
    char line[400];

    snprintf(line, sizeof(line), "%-24s  revision %-4.0f%s%s%s%s\n",
             json_str_or(agent, "name", "?"), cJSON_IsNumber(revision) ? revision->valuedouble : 0,
             *json_str_or(agent, "kind", "") ? "  " : "", json_str_or(agent, "kind", ""),
             *json_str_or(agent, "description", "") ? "  " : "",
             json_str_or(agent, "description", ""));
    if (changed)
        snprintf(line, sizeof(line), "%s: revision %.0f%s\n", json_str_or(agent, "name", "?"),
                 cJSON_IsNumber(revision) ? revision->valuedouble : 0,
                 cJSON_IsTrue(changed) ? "" : ", as before");
    term_puts(&client->term, line);
}

static void print_lines(struct client *client)
{
    JSON_AUTO(root) = parse_reply(client);
    const cJSON *agent;

    cJSON_ArrayForEach (agent, json_get(root, "agents"))
        print_line(client, agent);
}

/* Send one request and print its answer, as it is with --json. */
static int ask_and_print(const struct args *args, const struct client_ask *ask,
                         void (*print)(struct client *client))
{
    struct client client;
    int rc = client_open(&client, args);

    if (rc != CLI_OK)
        return rc;
    rc = client_call(&client, ask);
    if (rc == CLI_OK && (args->json || !print))
        print_reply(&client);
    else if (rc == CLI_OK)
        print(&client);
    client_close(&client);
    return rc;
}

/* All pages: the server gives them by name, with a link to what follows. */
int cmd_agents_list(const struct args *args)
{
    struct client client;
    BUF_AUTO(json, BODY_MAX_BYTES);
    char *path = xstrdup("/v1/agents");
    int rc = client_open(&client, args);

    if (rc != CLI_OK) {
        free(path);
        return rc;
    }
    (void)json_open(&json, '{');
    (void)json_put_key(&json, "agents");
    (void)json_open(&json, '[');
    while (path && (rc = client_call(&client, &(struct client_ask){.path = path})) == CLI_OK) {
        JSON_AUTO(root) = parse_reply(&client);
        const cJSON *agent;
        const char *next = json_str_or(root, "next", "");

        cJSON_ArrayForEach (agent, json_get(root, "agents")) {
            char *text = json_print(agent);

            (void)json_put_raw(&json, text, strlen(text));
            free(text);
            if (!args->json)
                print_line(&client, agent);
        }
        free(path);
        path = *next == '/' ? xstrdup(next) : NULL;
    }
    free(path);
    (void)json_close(&json, ']');
    (void)json_close(&json, '}');
    if (rc == CLI_OK && args->json) {
        term_text(&client.term, json.data, json.len);
        term_break(&client.term);
    }
    client_close(&client);
    return rc;
}

int cmd_agents_show(const struct args *args)
{
    char *path = agent_path(args->words[0]);
    int rc = ask_and_print(args, &(struct client_ask){.path = path}, NULL);

    free(path);
    return rc;
}

int cmd_agents_apply(const struct args *args)
{
    BUF_AUTO(body, BODY_MAX_BYTES);
    struct err err = {0};
    int n = 0;

    if (agents_dir_read(args->words[0], stderr, &body, &n, &err) < 0) {
        fprintf(stderr, "nocturne: %s\n", err.msg);
        return err.code == ERR_NOT_FOUND ? CLI_NOT_FOUND : CLI_USAGE;
    }
    if (n == 0) {
        fprintf(stderr, "nocturne: there is no *.json in %s\n", args->words[0]);
        return CLI_NOT_FOUND;
    }
    return ask_and_print(args,
                         &(struct client_ask){
                             .method = "PUT",
                             .path = "/v1/agents",
                             .body = body.data,
                             .body_len = body.len,
                         },
                         print_lines);
}

static void print_deleted(struct client *client)
{
    term_say(&client->term, "deleted; running tasks keep their revision");
}

int cmd_agents_delete(const struct args *args)
{
    char *path = agent_path(args->words[0]);
    int rc =
        ask_and_print(args, &(struct client_ask){.method = "DELETE", .path = path}, print_deleted);

    free(path);
    return rc;
}
