/*
 * How far into `ready` nothing is left to claim, so that a claim does not walk over the rows that
 * were deleted before: dead ones stay as long as any old transaction does.
 *
 * Order of `seq` is not order of commit: the row of a transaction that stays open appears far below
 * all others when it commits. Whoever inserts into `ready` has a transaction id before it takes a
 * seq. So rows up to the newest seq, read before a claim got its own id, come from transactions
 * with smaller ids only; and when the snapshot of a later claim shows none of those under way, all
 * of these rows are there to see, and the first that it shows is where to begin. A transaction that
 * is old, or takes long, is remembered as late, with the place where its rows may be at the lowest:
 * when a snapshot shows that it has ended the next claims begin there. One that is idle for hours
 * costs nothing.
 *
 * What this relies on could break unseen (a crash or a failover behind a pool, after which
 * sequences and ids begin again a little lower), so a claim a minute begins at zero.
 */
#pragma once

#include "pgarray.h"
#include "store_turn.h"

#include <stdbool.h>
#include <stdint.h>

#define WATERMARK_KNOWN    8
#define WATERMARK_LATE     32
#define WATERMARK_WHOLE_MS 60000 /* between two claims that begin at zero, ± 25 % */

struct watermark {
    int64_t from[STORE_PRIORITIES]; /* smaller ones are gone, or of a transaction that is late */
    unsigned apart; /* bits: priorities with a range of their own, as rows were seen */
    struct {
        int64_t seq, below_id; /* all up to `seq` are of transactions below this id */
        uint64_t since_ms;
    } known[WATERMARK_KNOWN]; /* oldest first */
    int nknown;
    struct {
        int64_t id, from[STORE_PRIORITIES];
    } late[WATERMARK_LATE];
    int nlate;
    uint64_t whole_ms; /* when to begin at zero again */
    int64_t newest;    /* as of the last claim */
    unsigned asked;    /* `apart` as of the claim under way */
    bool asked_first;  /* and whether it tells the first rows */
};

void watermark_reset(struct watermark *m); /* nothing is known: begin at zero */

/* The ranges of the next claim. Returns whether to ask for the first row of each. */
bool watermark_ranges(struct watermark *m, uint64_t now_ms, struct claim_ranges *ret_ranges);

/* A row of its answer; then what it says of itself, and whether to claim again at once: a late
 * transaction has ended. */
void watermark_claimed(struct watermark *m, const struct claim_row *row);
bool watermark_learn(struct watermark *m, uint64_t now_ms, const struct claim_view *view);
