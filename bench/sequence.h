/*
 * Checks one sequence of messages, that of one producer in one queue, for loss, repetition and
 * order.
 *
 * Numbers count from 0. `base` is the smallest not seen yet; what was seen above it is a bit each
 * in a window that grows as far as the numbers run ahead (a message that never comes holds the
 * base, so at worst it is a bit for every later message). In order and without gaps, no bitmap is
 * touched.
 *
 * Several consumers may share a queue: each sees rising numbers of its own, so order is checked per
 * consumer (`next`), loss and repetition per queue. For one thread.
 */
#ifndef SLUICE_BENCH_SEQUENCE_H
#define SLUICE_BENCH_SEQUENCE_H

#include <stdbool.h>
#include <stdint.h>

/* A number so far ahead of the base cannot be ours. Bits, so 256 MiB at most. */
#define SEQUENCE_WINDOW_MAX ((uint64_t)1 << 31)

/* What goes wrong; one per thread, added up at the end. */
struct sequence_faults {
    uint64_t duplicated;  /* seen before, and not marked as redelivered */
    uint64_t reordered;   /* after a later one of the same producer at the same consumer */
    uint64_t redelivered; /* marked so by the broker: allowed, told */
    uint64_t foreign;     /* not of this run */
};

struct sequence {
    uint64_t base; /* all below were seen */
    uint64_t high; /* none at or above was seen */
    uint64_t *window;
    uint64_t window_bits; /* a power of two, or 0 */
};

void sequence_fini(struct sequence *s);

/* Out of line part of sequence_add(). */
void sequence_add_slowly(struct sequence *s, uint64_t *next, uint64_t number, bool redelivered,
                         struct sequence_faults *faults);

/* A message arrived at the consumer whose next number in order is at least *next. */
static inline void sequence_add(struct sequence *s, uint64_t *next, uint64_t number,
                                bool redelivered, struct sequence_faults *faults)
{
    if (__builtin_expect(number == s->base && number == s->high && !redelivered, 1)) {
        s->base = s->high = *next = number + 1;
        return;
    }
    sequence_add_slowly(s, next, number, redelivered, faults);
}

/* How many of the first `expected` were never seen. */
uint64_t sequence_lost(const struct sequence *s, uint64_t expected);

#endif
