/*
 * For the crash matrix (tests/system/test_crash.py): every flow tells each state that it enters, in
 * the one function that writes it. A build with TEST_HOOKS dies there when it is told to.
 */
#pragma once

/* TEST_CRASH_AT is "flow.number", the flow and the number of the state in its enum.
 * TEST_CRASH_AFTER: so many times it is entered unharmed before. Death is kill -9: nothing is
 * flushed or closed. */
#ifdef TEST_HOOKS
void hook_state(const char *flow, int state);
#else
static inline void hook_state(const char *flow, int state)
{
    (void)flow;
    (void)state;
}
#endif
