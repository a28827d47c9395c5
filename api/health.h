/* The routes for those who watch over the process. */
#pragma once

#include "request.h"

void health_live(struct request *r);  /* GET /healthz */
void health_ready(struct request *r); /* GET /readyz */
void metrics_get(struct request *r);  /* GET /metrics; api/metrics_route.c */
