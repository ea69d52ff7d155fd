/*
 * What the real and the simulated loop share: the struct they extend and the functions they supply.
 * Included by the files of this folder only.
 *
 * An implementation embeds `struct loop` first and runs a turn as
 *     loop_turn_begin()  sets the time
 *     ... its events ...
 *     loop_turn_end()    fires the timers that are due, runs the phases, keeps the statistics
 */
#ifndef SLUICE_LOOP_LOOP_PRIVATE_H
#define SLUICE_LOOP_LOOP_PRIVATE_H

#include "loop/loop.h"
#include "loop/turn_trace.h"

struct loop_functions {
    uint64_t (*precise_ns)(struct loop *loop);
    void (*random_bytes)(struct loop *loop, void *memory, size_t size);
    uint64_t (*timer_order)(struct loop *loop);
    unsigned (*choose)(struct loop *loop, unsigned count); /* which is first: 0, or by seed */
    void (*wake)(struct loop *loop); /* a task or an earlier timer waits: do not sleep past it */
    void (*run)(struct loop *loop);
    void (*free)(struct loop *loop);
    int (*help)(struct loop *loop, struct job *job);
    void (*post)(struct loop *loop, struct post *post); /* from any thread */

    int (*listen)(struct loop *loop, const struct listen_options *options,
                  void (*accepted)(void *context, struct stream *stream, int error), void *context,
                  struct listener **listener, struct failure *failure);
    void (*listener_close)(struct listener *listener);

    int (*join)(struct stream *stream, struct loop *loop);
    void (*want)(struct stream *stream, unsigned events);
    ssize_t (*read)(struct stream *stream, void *memory, size_t size);
    ssize_t (*write)(struct stream *stream, const struct iovec *slices, int count);
    void (*shutdown)(struct stream *stream);
    void (*close)(struct stream *stream);
    void (*address)(const struct stream *stream, bool peer, struct stream_address *address);
};

struct loop {
    const struct loop_functions *functions;
    uint64_t now_ns;
    uint64_t wall_ms;
    uint64_t turn_began_ns;
    struct loop_statistics statistics;
    uint64_t longest_turn_ns; /* since loop_longest_turn_ns() */
    struct list tasks[LOOP_PHASES];
    struct list owned;
    struct timer **timers; /* a binary heap by (at_ns, order) */
    size_t timers_count, timers_capacity;
    uint64_t timers_set; /* calls of timer_set() so far */
    size_t jobs;         /* waiting or running */
    bool stopping;
#ifdef SLUICE_TURN_TRACE
    struct turn_trace trace;
#endif
};

struct stream {
    struct loop *loop;
    stream_ready *ready;
    void *context;
    unsigned wanted;
};

struct listener {
    struct loop *loop;
    void (*accepted)(void *context, struct stream *stream, int error);
    void *context;
    uint16_t port;
};

void loop_init(struct loop *loop, const struct loop_functions *functions);
void loop_fini(struct loop *loop);

bool loop_has_tasks(const struct loop *loop);
uint64_t loop_next_timer_ns(const struct loop *loop); /* UINT64_MAX when there is none */

void loop_turn_begin(struct loop *loop, uint64_t now_ns, uint64_t wall_ms);
void loop_turn_end(struct loop *loop);

/* Walks the heap: each timer knows its place, none is earlier than its parent. For tests. */
void loop_check(const struct loop *loop);

#endif
