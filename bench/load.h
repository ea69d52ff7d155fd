/*
 * What producers and consumers of one load thread share: counters that the main thread may read at
 * any time, and what is recorded while measuring.
 */
#ifndef SLUICE_BENCH_LOAD_H
#define SLUICE_BENCH_LOAD_H

#include "client.h"
#include "histogram.h"
#include "sequence.h"

#include <stdatomic.h>
#include <time.h>

/* Written by their thread alone, once a batch. */
struct load_counters {
    _Atomic uint64_t published;
    _Atomic uint64_t confirmed;
    _Atomic uint64_t nacked;
    _Atomic uint64_t received;
    _Atomic uint64_t blocked; /* connection.blocked notifications */
};

static inline void counter_add(_Atomic uint64_t *counter, uint64_t count)
{
    uint64_t value = atomic_load_explicit(counter, memory_order_relaxed);
    atomic_store_explicit(counter, value + count, memory_order_relaxed);
}

struct load {
    struct load_counters counters;
    bool recording;           /* inside the measured interval */
    struct histogram latency; /* publish, or its intended time, to delivery */
    struct histogram confirm; /* publish, or its intended time, to confirm */
    struct histogram lag;     /* with a rate: how late this generator itself was */
    struct sequence_faults faults;
};

static inline uint64_t clock_ns(void)
{
    struct timespec now;
    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

/* Makes a connected client's socket non-blocking. */
int load_take_over(struct client *client, struct failure *failure) MUST_CHECK;

/* Reads once into the client's input. E_AGAIN when there is nothing, E_CLOSED or E_IO when the
 * connection is gone. */
int load_receive(struct client *client, struct failure *failure) MUST_CHECK;

/* Sends bytes from *at to end, as far as the socket takes them, and moves *at. E_AGAIN when some
 * are left. */
int load_send(struct client *client, const uint8_t *bytes, size_t *at, size_t end,
              struct failure *failure) MUST_CHECK;

/* What every connection may be told unasked: blocked, unblocked, heartbeat are taken; a close or a
 * cancel is E_CLOSED; anything else E_FRAME. */
int load_unasked(struct load *load, const struct frame *frame, struct failure *failure) MUST_CHECK;

#endif
