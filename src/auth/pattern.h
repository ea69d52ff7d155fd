/*
 * Permission patterns: regular expressions in PCRE2's dialect over resource names, anchored nowhere
 * unless the pattern says so, as RabbitMQ does it. The empty pattern is RabbitMQ's "^$": it matches
 * only the empty name.
 */
#ifndef SLUICE_AUTH_PATTERN_H
#define SLUICE_AUTH_PATTERN_H

#include "base/bytes.h"

#define PATTERN_TEXT_MAX 4096u

struct pattern;

/* E_INVALID with the place and cause in the failure. */
int pattern_new(struct slice text, struct pattern **pattern, struct failure *failure) MUST_CHECK;
void pattern_free(struct pattern *pattern);
struct slice pattern_text(const struct pattern *pattern);

/* Bounded: a pattern that runs away (PCRE2's match limit) matches nothing. */
bool pattern_matches(const struct pattern *pattern, struct slice name);

#endif
