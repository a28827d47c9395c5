/* The routes of sessions and snapshots. */
#pragma once

#include "request.h"

void session_get(struct request *r);       /* GET /v1/sessions/{id} */
void session_snapshots(struct request *r); /* GET /v1/sessions/{id}/snapshots */
void snapshot_get(struct request *r);      /* GET /v1/snapshots/{id} */
