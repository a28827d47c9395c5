#include "routes.h"

#include "agents.h"
#include "events.h"
#include "health.h"
#include "sessions.h"
#include "tasks.h"
#include "wire/genkit.h"

#include <stdio.h>
#include <string.h>

#define ALLOW_BYTES 64

const struct route routes[] = {
    {"GET",    "/healthz",                   "",                                            "healthz",           health_live             },
    {"GET",    "/readyz",                    "",                                            "readyz",            health_ready            },
    {"GET",    "/metrics",                   "",                                            "metrics",           metrics_get             },
    {"POST",   "/v1/agents/{}/tasks",        "",                                            "task_submit",       task_submit             },
    {"GET",    "/v1/tasks",                  "status agent session_id tenant limit before", "task_list",         task_list               },
    {"POST",   "/v1/tasks",                  "",                                            "task_submit_many",  task_submit_many        },
    {"GET",    "/v1/tasks/{}",               "wait",                                        "task_get",          task_get                },
    {"GET",    "/v1/tasks/{}/events",        "after format",                                "task_events",       task_events             },
    {"POST",   "/v1/tasks/{}/abort",         "",                                            "task_abort",        task_abort              },
    {"POST",   "/v1/tasks/{}/resume",        "",                                            "task_resume",       task_resume             },
    {"POST",   "/v1/tasks/{}/retry",         "",                                            "task_retry",        task_retry              },
    {"GET",    "/v1/agents",                 "limit after",                                 "agent_list",        agent_list              },
    {"PUT",    "/v1/agents",                 "",                                            "agent_apply",       agent_apply             },
    {"GET",    "/v1/agents/{}",              "",                                            "agent_get",         agent_get               },
    {"PUT",    "/v1/agents/{}",              "",                                            "agent_put",         agent_put               },
    {"DELETE", "/v1/agents/{}",              "",                                            "agent_delete",      agent_delete            },
    {"GET",    "/v1/sessions/{}",            "",                                            "session_get",       session_get             },
    {"GET",    "/v1/sessions/{}/snapshots",  "limit before",                                "session_snapshots", session_snapshots       },
    {"GET",    "/v1/snapshots/{}",           "",                                            "snapshot_get",      snapshot_get            },
    {"POST",   "/genkit/{}",                 "stream",                                      "genkit_turn",       genkit_turn             },
    {"POST",   "/genkit/{}/getSnapshot",     "",                                            "genkit_snapshot",   genkit_get_snapshot     },
    {"POST",   "/genkit/{}/waitForSnapshot", "",                                            "genkit_wait",       genkit_wait_for_snapshot},
    {"POST",   "/genkit/{}/abort",           "",                                            "genkit_abort",      genkit_abort            },
};
const int route_count = sizeof(routes) / sizeof(routes[0]);

/* Do the segments fit `path`? */
static bool fits(const char *path, char *const *segments, int n, char **ret_params)
{
    int params = 0;

    for (int i = 0; i < n; i++) {
        size_t len;

        if (*path++ != '/')
            return false;
        len = strcspn(path, "/");
        if (len == 2 && !strncmp(path, "{}", 2) && *segments[i])
            ret_params[params++] = segments[i];
        else if (strlen(segments[i]) != len || strncmp(segments[i], path, len) != 0)
            return false;
        path += len;
    }
    return n > 0 && !*path;
}

static void allow(char *list, const char *method)
{
    size_t len = strlen(list);

    snprintf(list + len, ALLOW_BYTES - len, "%s%s%s", len ? ", " : "", method,
             !strcmp(method, "GET") ? ", HEAD" : "");
}

const struct route *route_find(const char *method, char *const *segments, int n, char **ret_params,
                               char *ret_allow)
{
    const char *wanted = strcmp(method, "HEAD") == 0 ? "GET" : method;

    *ret_allow = '\0';
    for (int i = 0; i < route_count; i++) {
        if (!fits(routes[i].path, segments, n, ret_params))
            continue;
        if (strcmp(routes[i].method, wanted) == 0)
            return &routes[i];
        allow(ret_allow, routes[i].method);
    }
    if (*ret_allow) {
        size_t len = strlen(ret_allow);

        snprintf(ret_allow + len, ALLOW_BYTES - len, ", OPTIONS");
    }
    return NULL;
}
