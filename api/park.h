/* Requests that stay: how many of a kind, and how many of one address, there may be. */
#pragma once

#include "request.h"

enum park_kind { PARK_WAITER, PARK_SUBSCRIBER };

/* Count `r` among those that stay until request_over(). -1: answered 429 or 503, `r` is gone. */
int park_enter(struct request *r, enum park_kind kind);
void park_leave(struct request *r); /* by request_over(); nothing when it is not counted */
