/* The routes of tasks, but for their events. */
#pragma once

#include "request.h"

void task_submit(struct request *r);      /* POST /v1/agents/{agent}/tasks */
void task_submit_many(struct request *r); /* POST /v1/tasks */
void task_list(struct request *r);        /* GET  /v1/tasks */
void task_get(struct request *r);         /* GET  /v1/tasks/{id} */
void task_abort(struct request *r);       /* POST /v1/tasks/{id}/abort */
void task_resume(struct request *r);      /* POST /v1/tasks/{id}/resume */
void task_retry(struct request *r);       /* POST /v1/tasks/{id}/retry */

/* r->params[0] as a task id. -1: answered 404, `r` is gone. */
int task_take_id(struct request *r);
