/*
 * Text whose characters a server has cut in two: some stream JavaScript or Java strings piece by
 * piece, and a character beyond U+FFFF is two pieces there ("\ud83d" then "\ude00"). What
 * json_parse_loose() leaves of such a half is joined here with the other one. Pure.
 */
#pragma once

#include "buf.h"

/* A first half that waits for the next delta of the same text: its three bytes, or "". */
typedef char halves[4];

/*
 * `text` with its halves joined; one at the end stays in `half`, and those that have lost the
 * other one become U+FFFD. Returns `text` itself, as nearly always, or what was put in `joined`.
 */
const char *halves_join(halves half, const char *text, struct buf *joined);

/* The text is over: append U+FFFD when a half still waits. */
void halves_end(halves half, struct buf *out);
