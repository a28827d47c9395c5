/* The commands of the command line. Each returns an enum cli_exit. */
#pragma once

#include "args.h"

int cmd_submit(const struct args *args);
int cmd_resume(const struct args *args);
int cmd_retry(const struct args *args);
int cmd_tail(const struct args *args);
int cmd_wait(const struct args *args);
int cmd_show(const struct args *args);
int cmd_list(const struct args *args);
int cmd_abort(const struct args *args);
int cmd_agents_list(const struct args *args);
int cmd_agents_show(const struct args *args);
int cmd_agents_apply(const struct args *args);
int cmd_agents_delete(const struct args *args);
int cmd_migrate(const struct args *args);
int cmd_doctor(const struct args *args);
int cmd_dev(const struct args *args);
