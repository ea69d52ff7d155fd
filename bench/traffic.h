/*
 * Producers and consumers at work, spread over load threads with an epoll each.
 *
 *     WARMUP -> MEASURE -> DRAIN -> finished
 *
 * WARMUP and MEASURE publish, MEASURE records latencies, DRAIN only receives (and gets the last
 * confirms). The main thread moves the phase and reads counters and CPU clocks meanwhile;
 * histograms and faults only after traffic_finish(). Consumers of one queue share a thread.
 */
#ifndef SLUICE_BENCH_TRAFFIC_H
#define SLUICE_BENCH_TRAFFIC_H

#include "check.h"
#include "load.h"

enum traffic_phase { TRAFFIC_WARMUP, TRAFFIC_MEASURE, TRAFFIC_DRAIN, TRAFFIC_FINISHED };

struct traffic;

struct traffic_counts {
    uint64_t published;
    uint64_t confirmed;
    uint64_t nacked;
    uint64_t received;
    uint64_t blocked;
};

/* Connects everybody, without starting. `messages` in all, 0 for no limit. Options and check are
 * borrowed. */
int traffic_new(struct traffic **traffic, const struct options *options, const struct check *check,
                uint32_t producers, uint32_t consumers, uint64_t messages,
                struct failure *failure) MUST_CHECK;

int traffic_start(struct traffic *traffic, struct failure *failure) MUST_CHECK;
void traffic_set_phase(struct traffic *traffic, enum traffic_phase phase);

struct traffic_counts traffic_counts(const struct traffic *traffic);

/* E_... when a thread has given up, with its failure. */
int traffic_check(const struct traffic *traffic, struct failure *failure) MUST_CHECK;

/* Nothing published is unsent or unconfirmed. */
bool traffic_settled(const struct traffic *traffic);

/* CPU nanoseconds of each thread so far, `threads` of the options many; before the finish. */
void traffic_cpu(const struct traffic *traffic, uint64_t *cpu_ns);

/* Stops the threads; sends the last acknowledgements. Idempotent. */
void traffic_finish(struct traffic *traffic);

/* After the finish: the sum over the threads. */
void traffic_results(const struct traffic *traffic, struct histogram *latency,
                     struct histogram *confirm, struct histogram *lag,
                     struct sequence_faults *faults);

void traffic_free(struct traffic *traffic);

#endif
