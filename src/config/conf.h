/*
 * rabbitmq.conf: the format and the keys.
 *
 * Format. One `key = value` a line, of any length and indentation; `#` outside single quotes starts
 * a comment; single quotes around a value are stripped; `$(VAR)` is the environment's; a value that
 * begins with `encrypted:` is refused. Keys are words of letters, digits, `_` and `-` joined by
 * dots. A later setting of a key replaces the earlier one.
 *
 * A key nobody knows is an error with file and line; a key of RabbitMQ that has no meaning here is
 * a warning. Reading stops at the first error.
 */
#ifndef SLUICE_CONFIG_CONF_H
#define SLUICE_CONFIG_CONF_H

#include "base/bytes.h"
#include "base/logging.h"

#define CONF_KEY_MAX   255
#define CONF_VALUE_MAX 65535

struct conf_entry {
    char *key, *value;
    const char *source; /* file name, or "--set" */
    unsigned line;
};

struct conf {
    struct conf_entry *entries; /* in the order they came, one per key */
    size_t count, capacity;
    char **sources;
    size_t source_count;
};

void conf_init(struct conf *conf);
void conf_fini(struct conf *conf);

/* Parses the text of one file. `environment` is getenv() or a test's. E_INVALID with "file:line:
 * cause". */
int conf_parse(struct conf *conf, const char *source, struct slice text,
               char *(*environment)(const char *name), struct failure *failure) MUST_CHECK;

/* A file, or a directory whose *.conf files are read in the order of their names. E_NOT_FOUND,
 * E_IO, E_INVALID. */
int conf_load(struct conf *conf, const char *path, struct failure *failure) MUST_CHECK;

/* "KEY=VALUE" from the command line. */
int conf_set(struct conf *conf, const char *assignment, struct failure *failure) MUST_CHECK;

const char *conf_get(const struct conf *conf, const char *key);

#endif
