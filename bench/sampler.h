/*
 * What a process and all its descendants have used, from /proc.
 *
 * CPU time includes that of children which have ended and were waited for, so that a difference of
 * two samples is right although children come and go. The kernel tells it in ticks of 10 ms.
 */
#ifndef SLUICE_BENCH_SAMPLER_H
#define SLUICE_BENCH_SAMPLER_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

struct usage {
    uint64_t user_ns;
    uint64_t system_ns;
    uint64_t resident_bytes;
    uint64_t proportional_bytes; /* PSS; 0 unless asked for or not readable */
    uint32_t processes;
};

/* E_NOT_FOUND when there is no such process. PSS makes the kernel walk the page tables: not while
 * measuring. */
int sampler_read(struct usage *usage, int pid, bool proportional,
                 struct failure *failure) MUST_CHECK;

#endif
