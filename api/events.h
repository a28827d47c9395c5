/* GET /v1/tasks/{id}/events */
#pragma once

#include "request.h"

void task_events(struct request *r);
