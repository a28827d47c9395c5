/* What of a request goes into the log. */
#pragma once

#include "httpd.h"
#include "json.h"

/* As JSON, to be freed by the caller. */
char *intake_json(const cJSON *value);
char *intake_headers(const struct httpd_req *req); /* those a client of a model may send */
char *intake_tools(const cJSON *body);             /* their names; NULL when there is no list */
