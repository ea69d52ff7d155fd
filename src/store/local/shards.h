/*
 * A data directory: `shard-1`, `shard-2`, ... without a gap, each the directory of a local store.
 * The lock of the first is the lock of the whole.
 */
#ifndef SLUICE_STORE_LOCAL_SHARDS_H
#define SLUICE_STORE_LOCAL_SHARDS_H

#include "base/error.h"

#include <stddef.h>

#define LOCAL_SHARDS_MAX 4096u

/* How many there are; 0: none, or no such directory. Changes nothing. E_NOT_FOUND: one below the
 * highest is missing; E_VERSION: a log lies in the directory itself, as in versions before there
 * were shards; E_LIMIT, E_IO, E_DENIED. */
int local_shards_count(const char *data_dir, unsigned *count, struct failure *failure) MUST_CHECK;

/* The directory of a shard, from 1. E_INVALID: the name is too long. */
int local_shard_path(const char *data_dir, unsigned shard, char *path, size_t size,
                     struct failure *failure) MUST_CHECK;

/* Makes the data directory (one level) when it is not there. */
int local_shards_prepare(const char *data_dir, struct failure *failure) MUST_CHECK;

#endif
