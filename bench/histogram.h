/*
 * A histogram of durations in nanoseconds with a relative error under 1 %.
 *
 * Log-linear: each power of two is cut into 128 equal buckets; values below 128 are exact. Adding
 * is a shift and an increment, so that it can be done for every message. About 59 KiB, fixed; for
 * one thread (merge afterwards). Values are unsigned and never refused.
 */
#ifndef SLUICE_BENCH_HISTOGRAM_H
#define SLUICE_BENCH_HISTOGRAM_H

#include <stdint.h>

#define HISTOGRAM_STEP_BITS 7
#define HISTOGRAM_STEPS     (1u << HISTOGRAM_STEP_BITS)
#define HISTOGRAM_BUCKETS   ((64 - HISTOGRAM_STEP_BITS + 1) * HISTOGRAM_STEPS)

struct histogram {
    uint64_t count;
    uint64_t sum;
    uint64_t min; /* UINT64_MAX while empty */
    uint64_t max;
    uint64_t buckets[HISTOGRAM_BUCKETS];
};

/* Empties it; also the initialiser. */
void histogram_reset(struct histogram *h);

static inline uint32_t histogram_bucket(uint64_t value)
{
    if (value < HISTOGRAM_STEPS)
        return (uint32_t)value;
    uint32_t shift = 63u - (uint32_t)__builtin_clzll(value) - HISTOGRAM_STEP_BITS;
    uint32_t step = (uint32_t)(value >> shift) & (HISTOGRAM_STEPS - 1);
    return (shift + 1) * HISTOGRAM_STEPS + step;
}

/* The same value `count` times. */
static inline void histogram_add(struct histogram *h, uint64_t value, uint64_t count)
{
    h->buckets[histogram_bucket(value)] += count;
    h->count += count;
    h->sum += value * count;
    if (value < h->min)
        h->min = value;
    if (value > h->max)
        h->max = value;
}

/* Adds the time from each stamp until `now`, many equal stamps at once: messages of one batch carry
 * the same. For one batch of input: start with the clock, end with histogram_run_end(). */
struct histogram_run {
    struct histogram *histogram; /* NULL: nothing is recorded */
    uint64_t now_ns;
    uint64_t stamp_ns;
    uint64_t count;
};

static inline void histogram_run_end(struct histogram_run *run)
{
    if (run->count && run->histogram)
        histogram_add(run->histogram, run->now_ns > run->stamp_ns ? run->now_ns - run->stamp_ns : 0,
                      run->count);
    run->count = 0;
}

static inline void histogram_run_add(struct histogram_run *run, uint64_t stamp_ns)
{
    if (stamp_ns != run->stamp_ns) {
        histogram_run_end(run);
        run->stamp_ns = stamp_ns;
    }
    run->count++;
}

void histogram_merge(struct histogram *to, const struct histogram *from);

/* The value that `fraction` (0 to 1) of all values do not exceed: the upper edge of its bucket, and
 * never above the largest value seen. 0 while empty. */
uint64_t histogram_quantile(const struct histogram *h, double fraction);

/* 0 while empty. */
double histogram_mean(const struct histogram *h);

#endif
