/*
 * The master keys that a log is given: under each an id, which is what is written down beside a
 * segment's wrapped data key. The first is the current one, under which new data keys are wrapped;
 * the others are older, for what they wrapped. Whoever has one on the stack or in memory wipes it.
 */
#ifndef SLUICE_LOG_KEYRING_H
#define SLUICE_LOG_KEYRING_H

#include "log/cipher.h"

#define KEYRING_MAX        16u
#define KEYRING_TEXT_MAX   8192u
#define KEYRING_LIST_MAX   (KEYRING_MAX * 12u) /* see keyring_list() */
#define KEYRING_KEY_DIGITS (2 * CIPHER_KEY_SIZE)

struct master_key {
    uint32_t id; /* never 0 */
    uint8_t bytes[CIPHER_KEY_SIZE];
};

struct keyring {
    struct master_key keys[KEYRING_MAX];
    unsigned count;
};

/* A key a line (or one after the other with commas in between): its id, a number from 1 to 2^32 -
 * 1, space, and 64 hexadecimal digits. What stands behind # is a comment. E_INVALID names the line,
 * never what is in it. */
int keyring_parse(struct keyring *keyring, struct slice text, struct failure *failure) MUST_CHECK;

/* NULL: there is none with this id. */
const struct master_key *keyring_find(const struct keyring *keyring, uint32_t id);

/* The ids, for a person: "2, 1"; "none". */
const char *keyring_list(const struct keyring *keyring, char text[KEYRING_LIST_MAX]);

void keyring_wipe(struct keyring *keyring);

#endif
