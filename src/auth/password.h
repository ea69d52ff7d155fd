/*
 * Passwords: hashed and verified in helper jobs, never on a worker. Argon2id (libargon2) in its own
 * encoded text form,
 * "$argon2id$v=19$m=...,t=...,p=...$salt$hash".
 */
#ifndef SLUICE_AUTH_PASSWORD_H
#define SLUICE_AUTH_PASSWORD_H

#include "loop/loop.h"

#define PASSWORD_MAX       1024u /* bytes */
#define PASSWORD_HASH_MAX  128u  /* bytes of encoded text, with the 0 */
#define PASSWORD_SALT_SIZE 16u

struct password_cost {
    uint32_t memory_kib; /* 8 to 1 GiB */
    uint32_t rounds;
};

/* What new hashes cost: 19 MiB, 2 rounds. Tests and simulation take less. */
extern const struct password_cost password_cost_default;

/* The job is the caller's to embed; fill in the input, give it to loop_help() with password_work,
 * read the output in done(). The password's bytes are wiped by the work. */
struct password_job {
    struct job job;
    bool verify;                      /* else hash */
    struct password_cost cost;        /* for hash */
    uint8_t salt[PASSWORD_SALT_SIZE]; /* for hash */
    uint8_t password[PASSWORD_MAX];
    size_t password_size;
    char hash[PASSWORD_HASH_MAX]; /* verify: in; hash: out */
    int result;                   /* 0; verify: E_LOGIN; E_MEMORY; E_INVALID: no hash of ours */
};

void password_work(struct job *job);

#endif
