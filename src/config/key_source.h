/*
 * Where the master keys of encryption at rest come from: a file, a variable of the environment, or
 * what a command prints. This brings the text; what it means is the log's (log/keyring.h).
 */
#ifndef SLUICE_CONFIG_KEY_SOURCE_H
#define SLUICE_CONFIG_KEY_SOURCE_H

#include "base/bytes.h"

#define KEY_COMMAND_LIMIT_MS 10000u /* until a command is ended that does not end */

enum key_source_kind { KEY_SOURCE_NONE, KEY_SOURCE_FILE, KEY_SOURCE_VARIABLE, KEY_SOURCE_COMMAND };

struct key_source {
    enum key_source_kind kind;
    const char *where; /* path, name, or a line for /bin/sh */
};

/* May block, for as long as a command may take. The caller wipes the text. A file must be a regular
 * one of this user or root that others may not read, nor their group write. A command must end with
 * 0; what it says on standard error goes where ours goes. E_NOT_FOUND, E_DENIED, E_LIMIT (longer
 * than the capacity), E_TIMEOUT, E_IO; the failure names the source, never its text. */
int key_source_read(const struct key_source *source, char *text, size_t capacity, size_t *size,
                    struct failure *failure) MUST_CHECK;

#endif
