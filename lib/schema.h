/*
 * The part of JSON Schema that tool arguments are checked against.
 *
 * Understood: type (a word or an array of words; "integer" is any whole number, 1.0 too), enum,
 * const, properties, required, additionalProperties (boolean or schema), items (one schema for
 * all elements), minItems, maxItems, minimum, maximum, minLength, maxLength (code points), anyOf.
 * A schema may be true (anything) or false (nothing).
 *
 * Every other keyword is ignored here, be it an annotation (title, description, default,
 * examples, format, $schema, $comment) or a rule we do not know (pattern, $ref, allOf, ...): the
 * model still sees it, and arguments it would refuse reach the tool.
 *
 * Pure; trees are borrowed. Work is bounded by the size of the schema times that of the value.
 */
#pragma once

#include "json.h"
#include "pointer.h"
#include "problem.h"

#define SCHEMA_MAX_DEPTH 64 /* of schemas inside schemas, and of values checked by them */

/*
 * Is `schema` itself well-formed? 0, or -1 with problems added; pointers start with `at`, where
 * the schema stands in its document. Only a schema that passed may be given to schema_check().
 */
int schema_lint(const cJSON *schema, const struct pointer *at, struct problem_list *problems);

/* Does `value`, which stands at `at`, satisfy `schema`? 0, or -1 with problems added. */
int schema_check(const cJSON *schema, const cJSON *value, const struct pointer *at,
                 struct problem_list *problems);
