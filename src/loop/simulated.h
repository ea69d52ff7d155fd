/*
 * The loop for tests and simulation: virtual time, one thread, memory pipes instead of sockets, and
 * every choice by one seed. The same seed and the same calls give the same run, to the last bit.
 *
 * Virtual time stands still within a turn (except that loop_precise_ns() may jump ahead, so that
 * jobs in slices are interrupted at random) and jumps to the next event between turns. Events of
 * the same instant come in an order chosen by the seed. Helper jobs run on this thread, late by a
 * random delay.
 */
#ifndef SLUICE_LOOP_SIMULATED_H
#define SLUICE_LOOP_SIMULATED_H

#include "loop/loop.h"

struct loop *loop_new_simulated(uint64_t seed);

/*
 * One more loop in the virtual time of another, for the workers of one process, or for clients that
 * outlive them. The loops beside each other share time, seed and network: whoever runs one runs
 * all, one turn of one loop at a time, by time, and by seed where several are due. Options are each
 * loop's own, and at first those of `first`.
 *
 * Turns take time here (turn_max_ns), so that one loop's turns fall in between those of another;
 * what happens in a turn happens at its start. A loop may stand still for a while, as a thread that
 * the system does not run, while the others go on.
 *
 * They are freed one by one in any order. To who has a connection with a loop that is freed, it is
 * reset.
 */
struct loop *loop_new_simulated_beside(struct loop *first);

/* No turn for so long; what is due meanwhile happens afterwards. */
void simulated_pause(struct loop *loop, uint64_t for_ns);

/* Until when it last had no turn for longer than 1 ms, paused or busy; by the wall clock, perhaps
 * in the future. */
uint64_t simulated_stood_until_ms(const struct loop *loop);

/* May be changed at any time; holds for what happens after. */
struct simulated_options {
    uint64_t network_delay_max_ns; /* until a stream's readiness is noticed; 100 µs */
    uint64_t job_delay_max_ns;     /* 1 ms */
    uint64_t post_delay_max_ns;    /* 50 µs */
    uint32_t short_ppm;            /* of reads and writes: only a random part is done; 100,000 */
    uint32_t reset_ppm;            /* of reads and writes: the connection is reset; 0 */
    uint64_t turn_max_ns;          /* what a turn takes; 0: 1 ns alone, 20 µs in company */
    uint32_t pause_ppm;            /* of turns: the loop then stands still for a while; 0 */
    uint64_t pause_max_ns;         /* 50 ms */
    uint32_t jump_ppm; /* of loop_precise_ns() calls: time jumps by up to TURN_SLICE_NS; 10,000 */
    size_t pipe_size;  /* bytes in flight in one direction; 64 KiB */
    unsigned accept_failures; /* so many times from now accepting fails for want of descriptors */
};

struct simulated_options *simulated_options(struct loop *loop);

/* Each of these runs turns, of all loops beside each other, until its end is reached, loop_stop()
 * is called for one of them (then they return false) or nothing is left to do: no task, no timer,
 * no event. */
bool simulated_run_turns(struct loop *loop, uint64_t turns);
/* Each loop has a turn at at_ns, unless it stands still or its last turn takes longer. */
bool simulated_run_until(struct loop *loop, uint64_t at_ns); /* the time is at_ns afterwards */
bool simulated_run_for(struct loop *loop, uint64_t for_ns);
bool simulated_run_idle(struct loop *loop, uint64_t turns_max); /* false: still not idle */

/* Connects to a listener of this loop or of one beside it (of several that share the port to any,
 * by seed) and gives the client's end, which belongs to this loop. E_CLOSED: nobody listens there.
 */
int simulated_connect(struct loop *loop, uint16_t port, struct stream **stream) MUST_CHECK;

/* As from that host, which is loopback only when it begins with "127." or is "::1". */
int simulated_connect_from(struct loop *loop, const char *host, uint16_t port,
                           struct stream **stream) MUST_CHECK;

/* Breaks a connection for both ends: what is in flight is lost. */
void simulated_reset(struct stream *stream);

/* The wall clock jumps (the monotonic one never does). */
void simulated_wall_jump(struct loop *loop, int64_t by_ms);

#endif
