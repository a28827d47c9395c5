/* What submit and resume share with tail and wait: staying with a task until it is over. */
#pragma once

#include "client.h"

#include <stdint.h>

/* Show the events after `after`, then what people should know about the end. */
int task_follow(struct client *client, const char *task_id, int64_t after);

/* Wait for the end and print the answer. `timeout_ms` 0: for ever. */
int task_wait(struct client *client, const char *task_id, uint64_t timeout_ms);
