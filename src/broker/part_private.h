/* What part.c and ledger_state.c share: parts as they stand in memory. */
#ifndef SLUICE_BROKER_PART_PRIVATE_H
#define SLUICE_BROKER_PART_PRIVATE_H

#include "broker/part.h"

enum part_phase { PART_COLLECTING, PART_PREPARING, PART_PREPARED, PART_ENDING, PART_ENDED };

/* Held or leased sequences. */
struct item {
    struct hosted *hosted; /* a reference on its queue; NULL in recovery */
    struct ledger_item what;
    bool is_logged;
};

struct part_publish {
    struct message *message; /* a reference */
    size_t targets, count;
    size_t wanted; /* so many queues have to take it, else the part fails */
};

struct part {
    struct transaction_id id; /* first: the key */
    struct shard *shard;
    enum part_phase phase;
    struct list work_link; /* worker.parts */
    struct list end_link;  /* ledger.ending */
    uint32_t decider;
    uint64_t deletion; /* has to be settled first; 0: none */
    bool commits;
    bool is_logged;          /* the ledger has a record of it */
    bool is_in_doubt;        /* of an earlier start */
    bool is_counted;         /* in ledger.prepared */
    struct request *request; /* goes on when it is prepared, or its end is to be seen */

    struct part_publish *publishes;
    size_t publish_count, publish_capacity, publish_at;
    struct hosted **targets; /* of all publishes; references on their queues */
    size_t target_count, target_capacity;
    struct item *items;
    size_t item_count, item_capacity;
    size_t written; /* items that the ledger has */
    size_t at;      /* items that are ended */
    uint64_t block; /* of the END */
    size_t charged; /* bytes of the arrays */
};

struct decision {
    struct transaction_id id; /* first: the key */
    uint32_t count, capacity;
    uint32_t *shards; /* that may not know it yet */
    bool is_old;      /* of an earlier start */
};

/* Bytes of the disk that an END or a FORGET may take. */
static inline size_t promise_bytes(void)
{
    return log_change_bytes(LEDGER_HEAD_BYTES_MAX);
}

/* Room for one more at the end of an array of the part's, which the worker's memory has to know. */
static inline void *part_grow(struct part *part, void *elements, size_t count, size_t *capacity,
                              size_t size)
{
    size_t more = *capacity ? *capacity : 8;

    if (count < *capacity)
        return elements;
    *capacity += more;
    part->charged += more * size;
    account_add(&part->shard->place.worker->memory, more * size);
    return memory_resize(elements, *capacity, size);
}

/* ---- part.c ---- */

struct part *part_find(const struct shard *shard, struct transaction_id id);
struct part *part_new(struct shard *shard, struct transaction_id id);
void part_free(struct part *part);

/* Against PARTS_MAX, until it is gone. */
void part_count(struct part *part);

/* One more sequence of the queue, which is leased; takes a reference on it. */
void part_add_item(struct part *part, struct hosted *hosted, uint64_t sequence, enum item_kind kind,
                   bool is_logged);

/* The END is durable, or, since the log has failed, never will be: then the decider keeps what it
 * knows, and the next start asks it. */
void part_over(struct part *part, bool is_durable);

#endif
