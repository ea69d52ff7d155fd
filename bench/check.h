/*
 * What was published and what arrived, for each pair of producer and queue.
 *
 * A body begins with 16 bytes, little-endian: the tag (run, producer, number in the queue) and the
 * time stamp in monotonic nanoseconds. The run's byte tells messages of another run apart. A table
 * entry is used by one thread at a time: `published` by the producer's, `sequences` by that of the
 * queue's consumers.
 */
#ifndef SLUICE_BENCH_CHECK_H
#define SLUICE_BENCH_CHECK_H

#include "sequence.h"

#include <stddef.h>

#define TAG_NUMBER_BITS 40 /* below them 16 bits of producer and 8 of run above */
#define TAG_NUMBER_MASK (((uint64_t)1 << TAG_NUMBER_BITS) - 1)

struct check {
    uint32_t producers;
    uint32_t queues;
    bool fanout; /* one number for all queues */
    uint8_t run;
    uint64_t *published;        /* next number: [producer][queue], with fanout [producer] */
    struct sequence *sequences; /* [queue][producer] */
};

struct check_result {
    uint64_t expected;
    uint64_t lost;
};

void check_init(struct check *check, uint32_t producers, uint32_t queues, bool fanout, uint8_t run);
void check_fini(struct check *check);

/* The next numbers of the producer, one a queue (one alone with fanout). */
static inline uint64_t *check_published(const struct check *check, uint32_t producer)
{
    return &check->published[(size_t)producer * (check->fanout ? 1 : check->queues)];
}

/* The sequences of the queue, one a producer. */
static inline struct sequence *check_sequences(const struct check *check, uint32_t queue)
{
    return &check->sequences[(size_t)queue * check->producers];
}

/* The tag's part that is constant for a producer. */
static inline uint64_t check_source(const struct check *check, uint32_t producer)
{
    return (uint64_t)check->run << 56 | (uint64_t)producer << TAG_NUMBER_BITS;
}

/* Only when no thread works on it any more. */
struct check_result check_finish(const struct check *check);

#endif
