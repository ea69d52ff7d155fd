/*
 * Logins that were verified a short while ago, so that the same user with the same password need
 * not be hashed again: clients that connect for each task, and HTTP requests with basic
 * authentication.
 *
 * What is kept is a keyed digest (HMAC-SHA256, the key random for each process and never stored)
 * over user, stored hash and password: no password, and nothing that is of use elsewhere. A changed
 * password has another stored hash, so its old digest is never asked for again. One worker's; a
 * fixed size.
 */
#ifndef SLUICE_AUTH_REMEMBERED_H
#define SLUICE_AUTH_REMEMBERED_H

#include "loop/loop.h"

#define REMEMBERED_MAX         256u /* power of 2; two that meet in one place push each other out */
#define REMEMBERED_NS          (60000 * NANOSECONDS_PER_MS)
#define REMEMBERED_DIGEST_SIZE 32u

struct remembered_login {
    uint8_t digest[REMEMBERED_DIGEST_SIZE];
    uint64_t until_ns; /* 0: empty */
};

struct remembered {
    uint8_t key[REMEMBERED_DIGEST_SIZE];
    struct remembered_login logins[REMEMBERED_MAX];
};

void remembered_init(struct remembered *remembered, struct loop *loop);

/* Wipes everything. */
void remembered_fini(struct remembered *remembered);

/* False when the library fails: then nothing is remembered. */
bool remembered_digest(const struct remembered *remembered, struct slice user, struct slice hash,
                       struct slice password, uint8_t digest[REMEMBERED_DIGEST_SIZE]);

bool remembered_has(const struct remembered *remembered,
                    const uint8_t digest[REMEMBERED_DIGEST_SIZE], uint64_t now_ns);
void remembered_add(struct remembered *remembered, const uint8_t digest[REMEMBERED_DIGEST_SIZE],
                    uint64_t now_ns);

#endif
