/* Task documents of the API: what they mean for the exit status, and how people see them. */
#pragma once

#include "json.h"
#include "term.h"

/* An enum cli_exit, or -1 while the task is not over. */
int task_exit(const char *status, const char *finish_reason);
int task_exit_of(const cJSON *task);

/* The answer on stdout: its text, else its data as JSON; nothing when there is none. */
void task_print_output(struct term *term, const cJSON *output);

/* On stderr, when the turn did not simply complete: what happened, and how to go on. */
void task_print_end(struct term *term, const cJSON *task);

/* All there is to know, for `nocturne show`. */
void task_print_whole(struct term *term, const cJSON *task);

/* One line of `nocturne list`; NULL for the heading. */
void task_print_line(struct term *term, const cJSON *task);
