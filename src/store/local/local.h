/*
 * The store in a directory of the local file system: one file a segment, `meta` for the metadata
 * (replaced by rename), `lock` held with flock() while open. One writer thread per store does
 * writes and syncs in order; reads go to helper jobs with their own descriptors.
 */
#ifndef SLUICE_STORE_LOCAL_LOCAL_H
#define SLUICE_STORE_LOCAL_LOCAL_H

#include "store/store.h"

/* Makes the directory (one level) when it is not there. E_HELD: another process has it (the text
 * names the process when it can be known); E_DENIED, E_IO, E_FULL. Blocks: only at start. */
int store_local_open(struct loop *loop, const char *directory, struct store **store,
                     struct failure *failure) MUST_CHECK;

#endif
