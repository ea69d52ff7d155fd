/*
 * What a channel gave out and nobody has settled: leases by delivery tag.
 *
 * Delivery tags count up. The set is a ring of chunks of UNACKED_CHUNK_TAGS consecutive tags each;
 * a chunk exists while something in it is unsettled. Finding, adding and removing cost the same
 * whatever the number, nothing is ever moved, and a message held for hours costs its one chunk,
 * however many came and went after it. 24 bytes an entry, charged to the account by the chunk.
 */
#ifndef SLUICE_AMQP091_UNACKED_H
#define SLUICE_AMQP091_UNACKED_H

#include "base/account.h"
#include "broker/broker.h"

#define UNACKED_CHUNK_TAGS 128u

struct subscription;

struct unacked_entry {
    struct lease lease;                /* queue NULL: no such entry */
    struct subscription *subscription; /* NULL: from basic.get */
};

struct unacked_chunk;

struct unacked {
    struct account *account;
    struct unacked_chunk **ring; /* by chunk number, of which there are `capacity` at a time */
    size_t capacity;             /* 0 or a power of two */
    uint64_t first, end;         /* chunk numbers in the ring: [first, end) */
    uint64_t count;              /* entries */
    struct unacked_chunk *spare; /* one that is free, so that low traffic does not allocate */
};

void unacked_init(struct unacked *unacked, struct account *account);

/* Must be empty. */
void unacked_fini(struct unacked *unacked);

/* Tags need not come in order (a rolled back transaction puts some back). E_MEMORY when the account
 * refuses. */
int unacked_add(struct unacked *unacked, uint64_t tag, struct lease lease,
                struct subscription *subscription) MUST_CHECK;

/* NULL when there is none. Good until the next change. */
struct unacked_entry *unacked_find(const struct unacked *unacked, uint64_t tag);

/* The entry must be there. */
void unacked_remove(struct unacked *unacked, uint64_t tag);

/* The first tag that is there, from `tag` on; 0 when there is none. Costs what lies between in
 * chunks. */
uint64_t unacked_next(const struct unacked *unacked, uint64_t tag);

void unacked_check(const struct unacked *unacked);

#endif
