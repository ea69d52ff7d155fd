/*
 * What is done with a data directory's log while no broker runs: showing it to a person, and
 * accepting its damage. All shards of a data directory are meant, or one, whose own directory is
 * given. A shard's lock is held meanwhile.
 */
#ifndef SLUICE_CTL_DUMP_H
#define SLUICE_CTL_DUMP_H

#include "base/error.h"

#include <stdio.h>

/* With the master keys of that file, NULL: there are none. E_NOT_FOUND: no data directory; E_HELD:
 * a broker runs on it; what log_dump(), store_local_open() and key_source_read() say. */
int dump_print(const char *data_dir, const char *key_file, FILE *out,
               struct failure *failure) MUST_CHECK;

/* The same, and what log_accept_damage() says. */
int dump_accept_damage(const char *data_dir, struct failure *failure) MUST_CHECK;

#endif
