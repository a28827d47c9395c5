/*
 * Is this database fit for us, and does anybody work on it? For `nocturne doctor`; blocking.
 *
 * Looks at settings that have hurt queues on PostgreSQL, at what keeps VACUUM from its work, at
 * the schema, the workers and the leader, and at the offset between the two clocks.
 */
#pragma once

#include "err.h"

enum doctor_level { DOCTOR_OK, DOCTOR_WARN, DOCTOR_FAIL };

struct doctor_finding {
    enum doctor_level level;
    const char *check;  /* a setting's name, or what was looked at: "workers" */
    const char *value;  /* what was found */
    const char *advice; /* "" when all is well */
};

/* Valid until it returns. */
typedef void doctor_fn(void *owner, const struct doctor_finding *finding);

/* Tell every finding, bad or not. -1 when the database cannot be asked. */
int store_doctor(const char *conninfo, doctor_fn *each, void *owner, struct err *err);

/* How many workers are live, by the database's clock. -1 when it cannot be asked. */
int store_doctor_workers(const char *conninfo, int *ret_live, struct err *err);

/* "ok", "warn" or "fail". */
const char *doctor_level_name(enum doctor_level level);
