/* Following a turn's events to its end, across any number of cuts. */
#pragma once

#include "client.h"
#include "view.h"

#include <stdint.h>

/*
 * Show the events of `task_id` after `after` (0: from the start) until the turn has ended. An enum
 * cli_exit: that of the turn, CLI_DETACHED after Ctrl-C, or why it could not be followed.
 */
int follow_turn(struct client *client, const char *task_id, int64_t after);
