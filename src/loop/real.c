/*
 * A turn is one round of libuv: its poll calls back for sockets, posts and finished jobs; then the
 * check handle runs the timers and phases; then the prepare handle says how long the next poll may
 * wait. libuv's own timer only limits that wait.
 */
#include "loop/real.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/processors.h"
#include "loop/real_private.h"

#include <arpa/inet.h>
#include <errno.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

struct real_stream {
    struct stream stream;
    uv_poll_t poll;
    int descriptor;
    bool is_joined;
    int armed; /* what the kernel watches: READABLE may stay armed when it is not wanted */
};

struct real_job {
    uv_work_t work;
    struct job *job;
};

struct real_signal {
    struct list link;
    uv_signal_t handle;
    struct real *real;
    void (*caught)(void *context, int signal_number);
    void *context;
};

/* ---- time and turns ---- */

uint64_t real_clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static uint64_t wall_clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_REALTIME_COARSE, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / NANOSECONDS_PER_MS;
}

static uint64_t precise_ns(struct loop *loop)
{
    (void)loop;
    return real_clock_ns();
}

static uint64_t timer_order(struct loop *loop)
{
    return loop->timers_set++;
}

static unsigned choose(struct loop *loop, unsigned count)
{
    (void)loop;
    (void)count;
    return 0;
}

static void wake(struct loop *loop)
{
    (void)loop; /* only this thread calls, and before_wait() looks again before each wait */
}

void real_turn_enter(struct real *real)
{
    if (real->is_in_turn)
        return;
    real->is_in_turn = true;
    loop_turn_begin(&real->loop, real_clock_ns(), wall_clock_ms());
    atomic_store_explicit(&real->busy_since_ns, real->loop.now_ns, memory_order_relaxed);
}

uint64_t loop_busy_since_ns(const struct loop *loop)
{
    return atomic_load_explicit(&real_of(loop)->busy_since_ns, memory_order_relaxed);
}

static void after_events(uv_check_t *check)
{
    struct real *real = check->data;

    real_turn_enter(real);
    loop_turn_end(&real->loop);
    real->is_in_turn = false;
    atomic_store_explicit(&real->busy_since_ns, 0, memory_order_relaxed);
    if (real->loop.stopping)
        uv_stop(&real->uv);
}

static void nothing_idle(uv_idle_t *idle)
{
    (void)idle;
}

static void nothing_timer(uv_timer_t *timer)
{
    (void)timer;
}

static void before_wait(uv_prepare_t *prepare)
{
    struct real *real = prepare->data;
    uint64_t next_ns = loop_next_timer_ns(&real->loop);

    if (real->loop.stopping || loop_has_tasks(&real->loop)) {
        uv_idle_start(&real->idle, nothing_idle);
        return;
    }
    uv_idle_stop(&real->idle);
    if (next_ns == UINT64_MAX) {
        uv_timer_stop(&real->alarm);
        return;
    }
    uint64_t now_ns = real_clock_ns();
    uint64_t wait_ms =
        next_ns > now_ns ? (next_ns - now_ns + NANOSECONDS_PER_MS - 1) / NANOSECONDS_PER_MS : 0;
    uv_timer_start(&real->alarm, nothing_timer, wait_ms, 0);
}

static void run(struct loop *loop)
{
    uv_run(&real_of(loop)->uv, UV_RUN_DEFAULT);
}

/* ---- randomness ---- */

static void random_fill(void *memory, size_t size)
{
    uint8_t *at = memory;

    while (size > 0) {
        ssize_t part = getrandom(at, size, 0);
        ASSERT(part > 0 || errno == EINTR);
        if (part < 0)
            continue;
        at += part;
        size -= (size_t)part;
    }
}

static void random_bytes(struct loop *loop, void *memory, size_t size)
{
    struct real *real = real_of(loop);

    if (size > RANDOM_POOL / 4) {
        random_fill(memory, size);
        return;
    }
    if (real->random_left < size) {
        random_fill(real->random, RANDOM_POOL);
        real->random_left = RANDOM_POOL;
    }
    real->random_left -= size;
    memcpy(memory, real->random + real->random_left, size);
    memset(real->random + real->random_left, 0, size); /* no token is left behind in memory */
}

/* ---- jobs and posts ---- */

static void job_work(uv_work_t *work)
{
    struct job *job = CONTAINER_OF(work, struct real_job, work)->job;
    job->work(job);
}

static void job_done(uv_work_t *work, int status)
{
    struct real_job *waiting = CONTAINER_OF(work, struct real_job, work);
    struct job *job = waiting->job;

    ASSERT(status == 0); /* nobody cancels */
    real_turn_enter(real_of(job->loop));
    job->loop->jobs--;
    free(waiting);
    TURN_TRACED(job->loop, job->done, job);
}

static int help(struct loop *loop, struct job *job)
{
    loop->jobs++;
    if (job->is_long && real_long_jobs_add(real_of(loop), job) == 0)
        return 0;
    struct real_job *waiting = memory_new(sizeof *waiting);
    waiting->job = job;
    int result = uv_queue_work(&real_of(loop)->uv, &waiting->work, job_work, job_done);
    ASSERT(result == 0);
    return 0;
}

static void nothing_work(uv_work_t *work)
{
    (void)work;
}

static void nothing_done(uv_work_t *work, int status)
{
    (void)work;
    (void)status;
}

int loop_bind(struct loop *loop, unsigned index, unsigned processors_min)
{
    struct real *real = real_of(loop);
    int result = uv_queue_work(&real->uv, &real->nothing, nothing_work, nothing_done);

    ASSERT(result == 0);
    result = real_long_jobs_start(real);
    if (result != 0)
        return result;
    return processors_bind(index, processors_min);
}

static void post_add(struct loop *loop, struct post *post)
{
    struct real *real = real_of(loop);
    struct post *newest = atomic_load_explicit(&real->posts, memory_order_relaxed);

    do {
        post->next = newest;
    } while (!atomic_compare_exchange_weak_explicit(&real->posts, &newest, post,
                                                    memory_order_release, memory_order_relaxed));
    if (!newest) { /* or whoever found the list empty has rung already */
        uint64_t one = 1;
        ssize_t written = write(real->bell_descriptor, &one, sizeof one);
        ASSERT(written == sizeof one);
    }
}

static void posts_run(struct real *real)
{
    struct post *post = atomic_exchange_explicit(&real->posts, NULL, memory_order_acquire);
    struct post *oldest = NULL;

    while (post) {
        struct post *next = post->next;
        post->next = oldest;
        oldest = post;
        post = next;
    }
    while (oldest) {
        struct post *next = oldest->next;
        TURN_TRACED(&real->loop, oldest->run, oldest);
        oldest = next;
    }
}

/* libuv's own way to be woken spins until the sender has left it; an eventfd does not. The bell is
 * silenced before the list is taken, so that none is missed. */
static void bell_rung(uv_poll_t *bell, int status, int events)
{
    struct real *real = bell->data;
    uint64_t rings;

    (void)status;
    (void)events;
    (void)!read(real->bell_descriptor, &rings, sizeof rings);
    real_turn_enter(real);
    posts_run(real);
}

/* ---- streams ---- */

_Static_assert((int)STREAM_READABLE == UV_READABLE && (int)STREAM_WRITABLE == UV_WRITABLE,
               "events are passed through");

static struct real_stream *real_stream_of(const struct stream *stream)
{
    return CONTAINER_OF((uintptr_t)stream, struct real_stream, stream);
}

static void stream_polled(uv_poll_t *poll, int status, int events);

static void arm(struct real_stream *s, int events)
{
    if (events == s->armed)
        return;
    s->armed = events;
    if (events)
        uv_poll_start(&s->poll, events, stream_polled);
    else
        uv_poll_stop(&s->poll);
}

static void stream_polled(uv_poll_t *poll, int status, int events)
{
    struct real_stream *s = CONTAINER_OF(poll, struct real_stream, poll);
    struct stream *stream = &s->stream;

    real_turn_enter(real_of(stream->loop));
    if (status < 0) { /* the next read or write tells; libuv has stopped watching */
        s->armed = 0;
        events = STREAM_READABLE | STREAM_WRITABLE;
    }
    unsigned wanted = (unsigned)events & stream->wanted;
    if (wanted != (unsigned)events)
        arm(s, (int)stream->wanted);
    if (wanted)
        TURN_TRACED(stream->loop, stream->ready, stream->context, wanted);
}

/* Wanting to read comes and goes, often within a turn; the kernel is told that it went only when
 * there is something to read. */
static void want(struct stream *stream, unsigned events)
{
    struct real_stream *s = real_stream_of(stream);

    arm(s, (int)events | (s->armed & UV_READABLE));
}

static ssize_t socket_result(ssize_t result)
{
    return result >= 0 ? result : error_from_errno(errno);
}

static ssize_t socket_read(struct stream *stream, void *memory, size_t size)
{
    ssize_t result;

    do {
        result = recv(real_stream_of(stream)->descriptor, memory, size, 0);
    } while (result < 0 && errno == EINTR);
    return socket_result(result);
}

static ssize_t socket_write(struct stream *stream, const struct iovec *slices, int count)
{
    struct msghdr message = {.msg_iov = (struct iovec *)(uintptr_t)slices,
                             .msg_iovlen = (size_t)count};
    ssize_t result;

    do {
        result = sendmsg(real_stream_of(stream)->descriptor, &message, MSG_NOSIGNAL);
    } while (result < 0 && errno == EINTR);
    return socket_result(result);
}

static void socket_shutdown(struct stream *stream)
{
    shutdown(real_stream_of(stream)->descriptor, SHUT_WR);
}

static void stream_closed(uv_handle_t *handle)
{
    free(CONTAINER_OF(handle, struct real_stream, poll));
}

static void socket_close(struct stream *stream)
{
    struct real_stream *s = real_stream_of(stream);

    if (s->is_joined)
        uv_close((uv_handle_t *)&s->poll, stream_closed);
    close(s->descriptor);
    if (!s->is_joined)
        free(s);
}

static int socket_join(struct stream *stream, struct loop *loop)
{
    struct real_stream *s = real_stream_of(stream);
    int result = uv_poll_init_socket(&real_of(loop)->uv, &s->poll, s->descriptor);

    if (result < 0) {
        close(s->descriptor);
        free(s);
        return error_from_errno(-result);
    }
    stream->loop = loop;
    s->is_joined = true;
    return 0;
}

struct stream *real_stream_loose(struct loop *loop, int descriptor)
{
    struct real_stream *s = memory_new(sizeof *s);

    s->stream.loop = loop;
    s->descriptor = descriptor;
    return &s->stream;
}

int stream_of_socket(struct loop *loop, int descriptor, struct stream **stream)
{
    *stream = real_stream_loose(loop, descriptor);
    return socket_join(*stream, loop);
}

void address_describe(const union socket_address *from, struct stream_address *to)
{
    const struct in6_addr *v6 = &from->v6.sin6_addr;

    *to = (struct stream_address){.text = "?"};
    if (from->any.sa_family == AF_INET) {
        inet_ntop(AF_INET, &from->v4.sin_addr, to->text, sizeof to->text);
        to->port = ntohs(from->v4.sin_port);
        to->is_loopback = ntohl(from->v4.sin_addr.s_addr) >> 24 == 127;
    } else if (from->any.sa_family == AF_INET6 && IN6_IS_ADDR_V4MAPPED(v6)) {
        inet_ntop(AF_INET, &v6->s6_addr[12], to->text, sizeof to->text);
        to->port = ntohs(from->v6.sin6_port);
        to->is_loopback = v6->s6_addr[12] == 127;
    } else if (from->any.sa_family == AF_INET6) {
        inet_ntop(AF_INET6, v6, to->text, sizeof to->text);
        to->port = ntohs(from->v6.sin6_port);
        to->is_loopback = IN6_IS_ADDR_LOOPBACK(v6);
    }
}

static void address(const struct stream *stream, bool peer, struct stream_address *to)
{
    int descriptor = real_stream_of(stream)->descriptor;
    union socket_address from = {.any = {.sa_family = AF_UNSPEC}};
    socklen_t size = sizeof from;

    /* when it fails (the peer has reset already) the address stays unknown: "?" */
    (void)!(peer ? getpeername(descriptor, &from.any, &size)
                 : getsockname(descriptor, &from.any, &size));
    address_describe(&from, to);
}

/* ---- signals ---- */

static void signal_caught(uv_signal_t *handle, int signal_number)
{
    struct real_signal *s = handle->data;

    real_turn_enter(s->real);
    s->caught(s->context, signal_number);
}

int loop_on_signal(struct loop *loop, int signal_number,
                   void (*caught)(void *context, int signal_number), void *context)
{
    struct real *real = real_of(loop);
    struct real_signal *s = memory_new(sizeof *s);

    s->real = real;
    s->caught = caught;
    s->context = context;
    s->handle.data = s;
    int result = uv_signal_init(&real->uv, &s->handle);
    if (result < 0) {
        free(s);
        return error_from_errno(-result);
    }
    list_append(&real->signals, &s->link);
    result = uv_signal_start(&s->handle, signal_caught, signal_number);
    return result < 0 ? error_from_errno(-result) : 0;
}

static void signal_closed(uv_handle_t *handle)
{
    free(handle->data);
}

/* ---- start and end ---- */

static void free_real(struct loop *loop)
{
    struct real *real = real_of(loop);
    struct list *link;

    real_long_jobs_end(real);
    posts_run(real); /* a bell that another thread has rung while this loop ended */
    ASSERT(loop->jobs == 0 && !atomic_load(&real->posts));
    loop_fini(loop);
    while ((link = list_take_first(&real->signals)) != NULL)
        uv_close((uv_handle_t *)&CONTAINER_OF(link, struct real_signal, link)->handle,
                 signal_closed);
    uv_close((uv_handle_t *)&real->prepare, NULL);
    uv_close((uv_handle_t *)&real->check, NULL);
    uv_close((uv_handle_t *)&real->idle, NULL);
    uv_close((uv_handle_t *)&real->alarm, NULL);
    uv_close((uv_handle_t *)&real->bell, NULL);
    uv_run(&real->uv, UV_RUN_DEFAULT);
    int result = uv_loop_close(&real->uv);
    ASSERT(result == 0); /* or a stream or a listener is still open */
    close(real->bell_descriptor);
    free(real);
}

static const struct loop_functions functions = {
    .precise_ns = precise_ns,
    .random_bytes = random_bytes,
    .timer_order = timer_order,
    .choose = choose,
    .wake = wake,
    .run = run,
    .free = free_real,
    .help = help,
    .post = post_add,
    .listen = real_listen,
    .listener_close = real_listener_close,
    .join = socket_join,
    .want = want,
    .read = socket_read,
    .write = socket_write,
    .shutdown = socket_shutdown,
    .close = socket_close,
    .address = address,
};

struct loop *loop_new_real(struct failure *failure)
{
    struct real *real = memory_new(sizeof *real);
    int result = uv_loop_init(&real->uv);

    if (result < 0) {
        fail(failure, error_from_errno(-result), "no event loop: %s", uv_strerror(result));
        goto free_memory;
    }
    real->bell_descriptor = eventfd(0, EFD_NONBLOCK | EFD_CLOEXEC);
    result = real->bell_descriptor < 0
                 ? -errno
                 : uv_poll_init(&real->uv, &real->bell, real->bell_descriptor);
    if (result < 0) {
        fail(failure, error_from_errno(-result), "no event loop: %s", uv_strerror(result));
        goto close_bell;
    }
    loop_init(&real->loop, &functions);
    list_init(&real->signals);
    uv_prepare_init(&real->uv, &real->prepare);
    uv_check_init(&real->uv, &real->check);
    uv_idle_init(&real->uv, &real->idle);
    uv_timer_init(&real->uv, &real->alarm);
    real->prepare.data = real->check.data = real->bell.data = real;
    uv_poll_start(&real->bell, UV_READABLE, bell_rung);
    uv_prepare_start(&real->prepare, before_wait);
    uv_check_start(&real->check, after_events);
    real->loop.now_ns = real_clock_ns();
    real->loop.wall_ms = wall_clock_ms();
    return &real->loop;

close_bell:
    if (real->bell_descriptor >= 0)
        close(real->bell_descriptor);
    uv_loop_close(&real->uv);
free_memory:
    free(real);
    return NULL;
}
