/*
 * The loop over the operating system: epoll through libuv, sockets, a pool of helper threads. Only
 * real*.c include uv.h.
 *
 * loop_free() runs what was posted and has not run yet.
 *
 * Its helper threads are libuv's (UV_THREADPOOL_SIZE of the environment, 4 by default); for long
 * jobs each loop has one of its own, from the first on.
 */
#ifndef SLUICE_LOOP_REAL_H
#define SLUICE_LOOP_REAL_H

#include "loop/loop.h"

/* NULL when the system refuses descriptors. */
struct loop *loop_new_real(struct failure *failure) MUST_CHECK;

/* Calls `caught` in a turn after the signal arrived; until loop_free(). For main. */
int loop_on_signal(struct loop *loop, int signal_number,
                   void (*caught)(void *context, int signal_number), void *context) MUST_CHECK;

/* Since when (by the monotonic clock) the present turn lasts, 0 while the loop waits; from any
 * thread. */
uint64_t loop_busy_since_ns(const struct loop *loop);

/* Binds the calling thread, which will run the loop, to a processor: see processors_bind(). Helper
 * threads are made before, so they stay free. */
int loop_bind(struct loop *loop, unsigned index, unsigned processors_min) MUST_CHECK;

/* A stream over a connected socket, which it takes (also when it fails: E_LIMIT, E_IO). */
int stream_of_socket(struct loop *loop, int descriptor, struct stream **stream) MUST_CHECK;

#endif
