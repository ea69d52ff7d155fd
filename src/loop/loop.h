/*
 * The event loop of one worker: time, timers, work for later in this turn, jobs for helper threads,
 * byte streams.
 *
 * There are two: loop/real.h (libuv, sockets, threads) and loop/simulated.h (virtual time, memory
 * pipes, everything by one seed). Everything above uses only this header, so that it runs in both.
 * Nothing here is for more than one thread, except loop_post(), which is how any other thread tells
 * a loop something.
 *
 * A turn:  events of streams, timers and finished jobs -> DISPATCH tasks -> COMMIT tasks -> FLUSH
 * tasks -> BULK tasks -> wait. A task that is deferred again while its phase runs waits for the
 * next turn (which then does not sleep). Work proportional to a count does a slice, at most
 * TURN_SLICE_NS, and defers itself again.
 */
#ifndef SLUICE_LOOP_LOOP_H
#define SLUICE_LOOP_LOOP_H

#include "base/bytes.h"
#include "base/list.h"

#include <sys/uio.h>

#define TURN_SLICE_NS      250000u  /* what one resumable job may use of a turn */
#define JOB_SLICE_NS       100000u  /* for a job behind whose slices other traffic waits */
#define TURN_LONG_NS       1000000u /* longer turns are counted in loop_statistics.long_turns */
#define NANOSECONDS_PER_MS UINT64_C(1000000)

struct loop;

/* Monotonic, read once at the start of the turn. Never 0. */
uint64_t loop_now_ns(const struct loop *loop);

/* Monotonic, read now: for measuring a slice. In simulation it moves only between turns, or by
 * seed. */
uint64_t loop_precise_ns(struct loop *loop);

/* The wall clock in milliseconds since 1970, as of this turn; may jump. */
uint64_t loop_wall_ms(const struct loop *loop);

uint64_t loop_random(struct loop *loop);
void loop_random_bytes(struct loop *loop, void *memory,
                       size_t size); /* good enough for tokens in the real loop */

struct loop_statistics {
    uint64_t turns;
    uint64_t turns_ns; /* spent in turns, not waiting */
    uint64_t long_turns;
    uint64_t longest_turn_ns;
};

const struct loop_statistics *loop_statistics(const struct loop *loop);

/* How long the longest turn since the last call took; 0: there was none. For one who looks
 * regularly. */
uint64_t loop_longest_turn_ns(struct loop *loop);

/* Runs turns until loop_stop(). The real one handles no signals: main does. */
void loop_run(struct loop *loop);
void loop_stop(struct loop *loop);

/* Ends the loop, whichever it is. The real one must have nothing outstanding; the simulated one
 * drops what is (that is how a crash is simulated). */
void loop_free(struct loop *loop);

/* Something that is released with the loop, unless it is disowned before: list_remove(&it->link).
 */
struct loop_owned {
    struct list link;
    void (*release)(struct loop_owned *owned);
};

void loop_own(struct loop *loop, struct loop_owned *owned);

/* ---- tasks: deferred calls, each at most once at a time ---- */

enum loop_phase {
    LOOP_DISPATCH,
    LOOP_COMMIT,
    LOOP_FLUSH,
    LOOP_BULK, /* what may wait until all that the turn has brought is on its way */
    LOOP_PHASES
};

struct task {
    struct list link;
    void (*run)(struct task *task);
};

void task_init(struct task *task, void (*run)(struct task *task));

/* Runs the task in that phase of this turn, or of the next when the phase has begun; of DISPATCH
 * and BULK tasks so many that a turn has no time for all, some later. A task already waiting stays.
 */
void loop_defer(struct loop *loop, struct task *task, enum loop_phase phase);
void task_cancel(struct task *task);

/* ---- timers ---- */

struct timer {
    struct loop *loop;
    void (*fire)(struct timer *timer);
    uint64_t at_ns;
    uint64_t
        order; /* among timers of the same time: as set in the real loop, by seed in simulation */
    size_t position; /* in the loop's heap; SIZE_MAX when not set */
};

void timer_init(struct timer *timer, struct loop *loop, void (*fire)(struct timer *timer));

/* At a time of loop_now_ns(); in the past fires in the next turn, or, of more than a turn has time
 * for, later. Setting again moves it. */
void timer_set(struct timer *timer, uint64_t at_ns);
void timer_stop(struct timer *timer);

static inline bool timer_is_set(const struct timer *timer)
{
    return timer->position != SIZE_MAX;
}

/* ---- jobs: pure work for a helper thread; bytes in, bytes out ---- */

struct job {
    struct loop *loop;
    void (*work)(struct job *job); /* on a helper: touches nothing but what the job owns */
    void (*done)(struct job *job); /* on the loop, in a later turn, exactly once */
    bool is_long; /* burns for milliseconds: done one by one, at a low priority, in nobody's way */
    void *internal;
};

/* E_LIMIT when LOOP_JOBS_MAX are waiting or running; then neither function is called. */
#define LOOP_JOBS_MAX 1024
int loop_help(struct loop *loop, struct job *job) MUST_CHECK;

/* ---- posts: from any thread to the loop ---- */

struct post {
    struct post *next;
    void (*run)(struct post *post); /* on the loop, in a later turn */
};

/* The caller leaves the post alone until it has run. Never fails, never blocks. */
void loop_post(struct loop *loop, struct post *post);

/* ---- byte streams: connected sockets, or pipes in memory ---- */

enum stream_event { STREAM_READABLE = 1, STREAM_WRITABLE = 2 };

struct stream; /* freed by stream_close() */

/* Puts a loose stream into a loop, on its thread. Until then it is in none: it may be carried to
 * another thread, closed and asked for its addresses, no more. The loop that has accepted it stays
 * meanwhile. Fails as the system does, then it is closed: E_LIMIT, E_MEMORY, E_IO. */
int stream_join(struct stream *stream, struct loop *loop) MUST_CHECK;

/* What somebody who has taken the stream is told: which of the wanted events are true (level, not
 * edge). */
typedef void stream_ready(void *context, unsigned events);

void stream_start(struct stream *stream, stream_ready *ready, void *context);
void stream_want(struct stream *stream, unsigned events); /* replaces the set; 0 for none */

/* Bytes moved; 0 from read is the end of the input. E_AGAIN, E_CLOSED (reset), E_IO. Short counts
 * are usual. */
ssize_t stream_read(struct stream *stream, void *memory, size_t size) MUST_CHECK;
ssize_t stream_write(struct stream *stream, const struct iovec *slices, int count) MUST_CHECK;

/* Ends our direction; the peer reads the end after what was written. */
void stream_shutdown(struct stream *stream);

/* Closes at once, also from inside `ready`; nothing is called after. */
void stream_close(struct stream *stream);

/* "127.0.0.1:40000", "[::1]:40000"; peer and local. For addresses of loopback interfaces
 * is_loopback is true. */
#define ADDRESS_TEXT_MAX 64
struct stream_address {
    char text[ADDRESS_TEXT_MAX]; /* host only */
    uint16_t port;
    bool is_loopback;
};

void stream_peer(const struct stream *stream, struct stream_address *address);
void stream_local(const struct stream *stream, struct stream_address *address);

/* ---- listeners ---- */

struct listener;

struct listen_options {
    const char *host; /* NULL: every address, IPv6 and IPv4 */
    uint16_t port;    /* 0: one that is free, see listener_port() */
    bool share_port;  /* with other listeners that say so: a connection goes to one of them */
    bool loose;       /* accepted streams are in no loop yet: stream_join() */
    int backlog;
    bool no_delay, keepalive;
    int send_buffer, receive_buffer; /* bytes; 0 leaves the system's */
};

/* `accepted` owns the stream. Out of descriptors: the listener pauses for 100 ms and reports it
 * once a second through `accepted` with stream NULL and the error. E_HELD: the port is taken;
 * E_DENIED; E_INVALID: no such address. */
int loop_listen(struct loop *loop, const struct listen_options *options,
                void (*accepted)(void *context, struct stream *stream, int error), void *context,
                struct listener **listener, struct failure *failure) MUST_CHECK;
uint16_t listener_port(const struct listener *listener);
void listener_close(struct listener *listener);

#endif
