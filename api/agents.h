/* The routes of agents. */
#pragma once

#include "request.h"

void agent_list(struct request *r);   /* GET    /v1/agents */
void agent_apply(struct request *r);  /* PUT    /v1/agents */
void agent_get(struct request *r);    /* GET    /v1/agents/{agent} */
void agent_put(struct request *r);    /* PUT    /v1/agents/{agent} */
void agent_delete(struct request *r); /* DELETE /v1/agents/{agent} */
