/*
 * The keys of RabbitMQ that do nothing here (yet), and finding out what a mistyped key was meant to
 * be. Private to config/.
 *
 * Keys are given as patterns: `$` stands for one word, `*` as the last word for one or more.
 */
#ifndef SLUICE_CONFIG_KEYS_H
#define SLUICE_CONFIG_KEYS_H

#include "config/conf.h"

bool key_matches(const char *pattern, const char *key);

/* Of a feature that is to come: a warning. */
bool key_is_for_later(const char *key);

/* About insides that RabbitMQ has and sluice has not: a warning. */
bool key_is_meaningless(const char *key);

/* Keeps in `best` the nearest pattern seen so far, with the words of the key for `$`. Start with
 * distance = SIZE_MAX. */
struct key_suggestion {
    size_t distance;
    char text[CONF_KEY_MAX + 1];
};

void key_suggest(const char *pattern, const char *key, struct key_suggestion *best);
void key_suggest_others(const char *key, struct key_suggestion *best);

/* Near enough to be worth telling. */
bool key_suggestion_is_near(const struct key_suggestion *best, const char *key);

#endif
