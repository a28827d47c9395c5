#include "hook.h"

#ifdef TEST_HOOKS
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

void hook_state(const char *flow, int state)
{
    static const char *at, *after;
    static unsigned long left;
    char name[64];

    if (!at) {
        at = getenv("TEST_CRASH_AT");
        at = at ? at : "";
        after = getenv("TEST_CRASH_AFTER");
        left = after ? strtoul(after, NULL, 10) : 0;
    }
    if (!*at)
        return;
    snprintf(name, sizeof(name), "%s.%d", flow, state);
    if (strcmp(name, at) != 0)
        return;
    if (left == 0)
        (void)raise(SIGKILL);
    left--;
}
#endif
