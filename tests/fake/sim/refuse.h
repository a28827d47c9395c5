/* Answers that say no, in the form of OpenAI's API. */
#pragma once

#include "httpd.h"

/* The error of `status` (100 to 999); `retry_after` (seconds) goes with 429 alone. */
void refuse_api(struct httpd_req *req, double status, double retry_after);

/* What a script asked for: node refuses to send a status that is not one, and so do we. */
void refuse_as_told(struct httpd_req *req, double status, double retry_after);

/* An error with a message of its own; `type` such as "sim_error". */
void refuse(struct httpd_req *req, int status, const char *type, const char *message);
