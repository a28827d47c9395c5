#include "backoff.h"

uint64_t backoff_ms(unsigned attempt, uint64_t base_ms, uint64_t cap_ms, uint32_t random)
{
    uint64_t delay = base_ms;

    while (attempt-- > 1 && delay < cap_ms)
        delay *= 2;
    if (delay > cap_ms)
        delay = cap_ms;
    return delay / 2 + delay / 2 * random / UINT32_MAX;
}
