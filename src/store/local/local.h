/*
 * The store in a directory of the local file system: one file a segment, `meta` for the metadata
 * (replaced by rename), `lock` held with flock() while open.
 *
 * Two threads per store: the writer does writes and syncs in order, the keeper what concerns the
 * directory (create, remove, metadata, sealing when nothing is to be written any more), so that
 * preparing a segment never delays a commit. Reads are helper jobs.
 */
#ifndef SLUICE_STORE_LOCAL_LOCAL_H
#define SLUICE_STORE_LOCAL_LOCAL_H

#include "store/store.h"

/* Makes the directory (one level) when it is not there. E_HELD: another process has it (the text
 * names the process when it can be known); E_DENIED, E_IO, E_FULL; E_CORRUPT, E_VERSION: its
 * metadata. Blocks: only at start. */
int store_local_open(struct loop *loop, const char *directory, struct store **store,
                     struct failure *failure) MUST_CHECK;

#endif
