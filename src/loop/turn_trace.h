/*
 * What long turns were spent on, by the CPU time of the worker's thread: unlike what a clock says,
 * that does not depend on what else the machine has to do. For looking for the causes of long
 * turns; compiled in with -Dturn_trace=true, else there is nothing of it. bench/turns reads what it
 * writes.
 *
 * For each turn that used more than 250 us one line on standard error, in microseconds:
 *
 *   turn: CPU of ELAPSED at BEGAN; FUNCTION TIME; FUNCTION TIME; ...
 *
 * with the callbacks that used most of it, as offsets in the program (addr2line names them), and
 * the monotonic clock when it began: samples of `perf record -k CLOCK_MONOTONIC` can be found by
 * it.
 */
#ifndef SLUICE_LOOP_TURN_TRACE_H
#define SLUICE_LOOP_TURN_TRACE_H

#include <stdint.h>

struct loop;

#ifdef SLUICE_TURN_TRACE

#define TURN_TRACE_KINDS 16 /* different callbacks of a turn that are told apart */

struct turn_trace {
    uint64_t began_ns; /* of the CPU clock */
    struct {
        uintptr_t function;
        uint64_t ns;
        unsigned calls;
    } kinds[TURN_TRACE_KINDS];
    unsigned count;
};

void turn_trace_begin(struct loop *loop);
void turn_trace_end(struct loop *loop);

/* Around each callback. */
uint64_t turn_trace_enter(void);
void turn_trace_leave(struct loop *loop, uint64_t entered, uintptr_t function);

#define TURN_TRACED(of, function, ...)                                                             \
    do {                                                                                           \
        struct loop *traced_loop = (of);                                                           \
        uintptr_t traced_function = (uintptr_t)(function);                                         \
        uint64_t traced_since = turn_trace_enter();                                                \
        (function)(__VA_ARGS__);                                                                   \
        turn_trace_leave(traced_loop, traced_since, traced_function);                              \
    } while (0)

#else

#define TURN_TRACED(of, function, ...) ((function)(__VA_ARGS__))

#endif
#endif
