/* Time: two clocks, RFC 3339 text, and durations written with a unit. */
#pragma once

#include <stddef.h>
#include <stdint.h>

#define CLOCK_STAMP_BYTES 32

uint64_t clock_mono_ms(void); /* never goes back; for time-outs and latencies */
uint64_t clock_mono_us(void);
uint64_t clock_boot_ms(void); /* as mono, and goes on while the machine sleeps; for leases */
int64_t clock_wall_us(void);  /* UTC, microseconds since 1970 */

/* "2026-01-02T03:04:05.678Z" of `wall_us` into `ret_text` (CLOCK_STAMP_BYTES); returns it. */
char *clock_stamp(int64_t wall_us, char *ret_text);
char *clock_stamp_us(int64_t wall_us, char *ret_text); /* the same to the microsecond */

/* RFC 3339 with a zone, e.g. 2026-01-02T03:04:05.678Z or ...+02:00. 0, or -1 when it is not. */
int clock_parse_stamp(const char *text, int64_t *ret_wall_us);

/* "500ms", "30s", "5m", "2h", "7d"; at most 3650 days. 0, or -1 when it is not a duration. */
int clock_parse_duration(const char *text, uint64_t *ret_ms);
