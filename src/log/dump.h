/*
 * Prints what is in a log's store, in lines a person can read: the metadata, each segment, each
 * block, each record, the footers. For `sluicectl log-dump` and for tests; it changes nothing.
 *
 * The store must not be in use by a broker. What is broken is a line that says so, and the rest
 * goes on.
 */
#ifndef SLUICE_LOG_DUMP_H
#define SLUICE_LOG_DUMP_H

#include "log/keyring.h"
#include "store/store.h"

struct log_dump_options {
    bool records;               /* also a line for each record, not only for blocks */
    uint64_t segment;           /* only this one; 0: all */
    const struct keyring *keys; /* until done; NULL: there are none */

    /* One line, without its end; good until it returns. */
    void (*line)(void *context, const char *text);
    /* Once, in a later turn: 0; E_NOT_FOUND: the store has no metadata; E_KEY, and there was no
     * line; E_IO, E_VERSION, E_CORRUPT (the metadata). */
    void (*done)(void *context, int result, const struct failure *failure);
    void *context;
};

/* The options are copied. */
void log_dump(struct loop *loop, struct store *store, const struct log_dump_options *options);

#endif
