/*
 * One run of the load generator from declaring the queues to checking the sequences.
 */
#ifndef SLUICE_BENCH_RUN_H
#define SLUICE_BENCH_RUN_H

#include "check.h"
#include "histogram.h"
#include "options.h"
#include "sampler.h"
#include "traffic.h"

#define GENERATOR_SHARE_MAX 0.8 /* of a core, per thread; above it the generator is measured */

/* What happened between two moments. */
struct interval {
    double seconds;
    struct traffic_counts counts;
    double broker_user_s;
    double broker_system_s;
    double thread_s[THREADS_MAX]; /* CPU of each load thread */
};

/* One line of the course of the run. */
struct course_point {
    double at_s; /* since the measured interval began; its end */
    double published_per_s;
    double received_per_s;
    double confirmed_per_s;
    uint64_t resident_bytes;
};

struct run_result {
    struct interval measured; /* with a backlog: of publishing it */
    struct interval drain;    /* of draining the backlog */
    struct course_point *course;
    size_t course_count;
    struct histogram latency;
    struct histogram confirm;
    struct histogram lag;
    struct sequence_faults faults;
    struct check_result check;
    struct traffic_counts totals;
    struct usage usage_before;   /* nothing connected but the one that declares */
    struct usage usage_idle;     /* with the idle connections */
    struct usage usage_measured; /* at the end of the measured interval; PSS with a backlog */
    struct usage usage_after;    /* drained */
    uint64_t resident_peak_bytes;
    double idle_connect_s;
    bool interrupted;
};

/* The result is large: allocated by the caller, who gives it to run_result_fini() also after a
 * failure. */
int run_execute(const struct options *options, struct run_result *result,
                struct failure *failure) MUST_CHECK;
void run_result_fini(struct run_result *result);

/* Was the sequence checked, and is all well? Without consumers nothing is checked. */
bool run_was_checked(const struct options *options, const struct run_result *result);
bool run_is_well(const struct options *options, const struct run_result *result);

/* The largest share of a core that a load thread used while measuring. */
double run_generator_share(const struct options *options, const struct interval *interval);

#endif
