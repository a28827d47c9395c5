/*
 * JSON Patch (RFC 6902): how one document became another, for state.patch events.
 *
 * Pure; arguments are borrowed, results belong to the caller (json_release()). Of a member given
 * twice in one object the first counts, as everywhere in cJSON.
 */
#pragma once

#include "buf.h"
#include "err.h"
#include "json.h"

#define PATCH_MAX_DEPTH 1000   /* of a document patch_apply() makes; what cJSON can read back */
#define PATCH_MAX_NODES 100000 /* values that the copies and moves of one patch may handle */

/*
 * Append the patch that turns `from` into `to`, "[]" when they are equal. Members are added,
 * removed and replaced one by one at any depth; array elements are replaced by index, then added
 * with "/-" or removed from the end. `from` NULL: there was no document, one replace of the
 * whole (path ""). The order of members is not a difference. 0, or -1 and `out` as it was when the
 * patch does not fit into it.
 */
int patch_diff(const cJSON *from, const cJSON *to, struct buf *out);

/*
 * A new document: `doc` (NULL: none yet) after all operations (add, remove, replace, move, copy,
 * test). NULL and ERR_INVALID, which names the operation, when one cannot be done: all or nothing.
 */
cJSON *patch_apply(const cJSON *doc, const cJSON *patch, struct err *err);

/*
 * A new object: the members of `base` (NULL or not an object: none) with those of the object
 * `changes` put over them, whole values, not merged deeper. A null removes the member: null
 * counts as absent everywhere here, and a model has no other way to forget something.
 */
cJSON *patch_merge_shallow(const cJSON *base, const cJSON *changes);
