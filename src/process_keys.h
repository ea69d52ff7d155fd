/*
 * The master keys of the process: what encryption at rest is given. They come from the source that
 * the settings name, and go to the workers' logs; here they are for a moment only, then wiped.
 */
#ifndef SLUICE_PROCESS_KEYS_H
#define SLUICE_PROCESS_KEYS_H

#include "config/settings.h"
#include "log/keyring.h"
#include "store/store.h"

/* May block (see key_source_read()); from any thread. An empty ring where none are configured. */
int process_keys_read(const struct settings *settings, struct keyring *keys,
                      struct failure *failure) MUST_CHECK;

/* Whether the store's log can be read with them; nothing is changed. Runs the store's loop, which
 * nobody else runs yet. */
int process_keys_check(struct store *store, const struct keyring *keys,
                       struct failure *failure) MUST_CHECK;

#endif
