/* Pure: how long to wait before trying again. */
#pragma once

#include <stdint.h>

/*
 * Delay before attempt `attempt` + 1 (attempt counts from 1): `base_ms` doubled per attempt, at
 * most `cap_ms`, then scaled by 0.5..1 with `random` (any 32 bits) so that peers do not march in
 * step.
 */
uint64_t backoff_ms(unsigned attempt, uint64_t base_ms, uint64_t cap_ms, uint32_t random);
