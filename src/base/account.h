/*
 * Accounts of memory: whatever a client can make grow is charged here before it is allocated.
 *
 * Accounts form a tree (connection -> worker); a charge goes to each up to the root or to none. The
 * limit of 0 means none. Sizes are bytes as asked for, not as the allocator rounds them.
 */
#ifndef SLUICE_BASE_ACCOUNT_H
#define SLUICE_BASE_ACCOUNT_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct account {
    struct account *parent;
    struct stock *stock; /* memory.h; for what is charged here, set after account_init(); or NULL */
    uint64_t used;
    uint64_t limit;
    uint64_t peak;
    uint64_t refusals;
};

void account_init(struct account *account, struct account *parent, uint64_t limit);

/* All must have been given back. */
void account_fini(struct account *account);

/* E_MEMORY and nothing charged when one on the way has no room. */
int account_charge(struct account *account, uint64_t size) MUST_CHECK;

/* Charges without asking: for what was admitted already and must be counted. */
void account_add(struct account *account, uint64_t size);

void account_release(struct account *account, uint64_t size);

#endif
