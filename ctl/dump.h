/*
 * What is in a data directory's log, for a person to read. It takes the directory's lock for as
 * long as it reads, so no broker may run on it.
 */
#ifndef SLUICE_CTL_DUMP_H
#define SLUICE_CTL_DUMP_H

#include "base/error.h"

#include <stdio.h>

/* E_NOT_FOUND: no data directory; E_HELD: a broker runs on it; what log_dump() and
 * store_local_open() say. */
int dump_print(const char *data_dir, FILE *out, struct failure *failure) MUST_CHECK;

#endif
