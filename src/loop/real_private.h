/* What real.c, real_listener.c and real_long_jobs.c share. */
#ifndef SLUICE_LOOP_REAL_PRIVATE_H
#define SLUICE_LOOP_REAL_PRIVATE_H

#include "loop/loop_private.h"

#include <netinet/in.h>
#include <stdatomic.h>
#include <uv.h>

#define RANDOM_POOL 512

struct real {
    struct loop loop;
    uv_loop_t uv;
    uv_prepare_t prepare; /* before the wait: how long may it be? */
    uv_check_t check;     /* after the events: the rest of the turn */
    uv_idle_t idle;       /* active while the wait must be none */
    uv_timer_t alarm;
    uv_poll_t bell; /* on an eventfd: there are posts */
    int bell_descriptor;
    _Atomic(struct post *) posts; /* newest first */
    struct list signals;
    bool is_in_turn;
    _Atomic uint64_t busy_since_ns; /* for the watchdog */
    uv_work_t nothing;              /* makes the helper threads */
    struct long_jobs *long_jobs;    /* NULL: there was none yet */
    uint8_t random[RANDOM_POOL];
    size_t random_left;
};

static inline struct real *real_of(const struct loop *loop)
{
    return CONTAINER_OF((uintptr_t)loop, struct real, loop);
}

/* Each callback of libuv begins with this: the first of a turn reads the clock. */
void real_turn_enter(struct real *real);

uint64_t real_clock_ns(void);

/* Makes the thread, which takes over to which processors the calling one is bound. E_LIMIT. */
int real_long_jobs_start(struct real *real) MUST_CHECK;
int real_long_jobs_add(struct real *real, struct job *job) MUST_CHECK;
void real_long_jobs_end(struct real *real);

int real_listen(struct loop *loop, const struct listen_options *options,
                void (*accepted)(void *context, struct stream *stream, int error), void *context,
                struct listener **listener, struct failure *failure) MUST_CHECK;
void real_listener_close(struct listener *listener);

/* Over an accepted socket, which it takes; the loop is that of the listener. */
struct stream *real_stream_loose(struct loop *loop, int descriptor);

union socket_address {
    struct sockaddr any;
    struct sockaddr_in v4;
    struct sockaddr_in6 v6;
};

void address_describe(const union socket_address *from, struct stream_address *to);

#endif
