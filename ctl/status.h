/*
 * What can be said of a broker from its data directory and its sockets: who holds the directory,
 * where that process listens, and what it says of itself to whoever connects.
 */
#ifndef SLUICE_CTL_STATUS_H
#define SLUICE_CTL_STATUS_H

#include "base/error.h"

#include <stdio.h>

/* Prints it to `out`. 0: a broker runs there; E_NOT_FOUND: none does, or there is no such
 * directory; E_IO, E_DENIED: it cannot be known. */
int status_print(const char *data_dir, FILE *out, struct failure *failure) MUST_CHECK;

#endif
