#include "traffic.h"

#include "consumer.h"
#include "producer.h"

#include "base/memory.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <unistd.h>

#define EVENTS_MAX   256
#define IDLE_WAIT_NS 5000000u /* how late a change of phase may be seen */

struct load_thread {
    struct traffic *traffic;
    struct load load;
    struct producer *producers;
    uint32_t producer_count;
    struct consumer *consumers;
    uint32_t consumer_count;
    uint32_t *interest; /* of each connection in epoll: producers, then consumers */
    int epoll;
    pthread_t thread;
    bool started;
    _Atomic bool settled;
    _Atomic bool failed; /* then `failure` is set and does not change */
    struct failure failure;
};

struct traffic {
    const struct options *options;
    const struct check *check;
    struct load_thread *threads;
    uint32_t thread_count;
    _Atomic int phase;
};

/* ---- one thread ---- */

static uint32_t producer_interest(const struct producer *p)
{
    return EPOLLIN | (p->wants_output ? (uint32_t)EPOLLOUT : 0);
}

static uint32_t consumer_interest(const struct consumer *c)
{
    return (c->paused ? 0 : (uint32_t)EPOLLIN) | (c->wants_output ? (uint32_t)EPOLLOUT : 0);
}

static int set_interest(struct load_thread *t, uint32_t index, int fd, uint32_t events)
{
    if (t->interest[index] == events)
        return 0;
    int operation = t->interest[index] == UINT32_MAX ? EPOLL_CTL_ADD : EPOLL_CTL_MOD;
    struct epoll_event event = {.events = events, .data.u32 = index};
    if (epoll_ctl(t->epoll, operation, fd, &event) < 0)
        return fail(&t->failure, E_IO, "epoll_ctl: %s", strerror(errno));
    t->interest[index] = events;
    return 0;
}

static int handle_event(struct load_thread *t, uint32_t index, uint32_t events)
{
    int error = 0;
    if (index < t->producer_count) {
        /* output is tried for every producer in publish() */
        if (events & ~(uint32_t)EPOLLOUT)
            error = producer_input(&t->producers[index], &t->failure);
        return error;
    }
    struct consumer *c = &t->consumers[index - t->producer_count];
    if (events & EPOLLOUT)
        error = consumer_output(c, &t->failure);
    if (error == 0 && events & ~(uint32_t)EPOLLOUT)
        error = consumer_input(c, &t->failure);
    return error < 0 ? error : set_interest(t, index, c->client.fd, consumer_interest(c));
}

static int publish(struct load_thread *t, bool more)
{
    bool settled = true;
    for (uint32_t i = 0; i < t->producer_count; i++) {
        struct producer *p = &t->producers[i];
        int error = producer_publish(p, more, &t->failure);
        if (error == 0)
            error = set_interest(t, i, p->client.fd, producer_interest(p));
        if (error < 0)
            return error;
        settled &= producer_settled(p);
    }
    atomic_store_explicit(&t->settled, settled, memory_order_relaxed);
    return 0;
}

static uint64_t wait_ns(const struct load_thread *t, bool more)
{
    uint64_t least = IDLE_WAIT_NS;
    if (!more || t->producer_count == 0)
        return least;
    uint64_t now_ns = clock_ns();
    for (uint32_t i = 0; i < t->producer_count && least > 0; i++) {
        uint64_t wait = producer_wait_ns(&t->producers[i], now_ns);
        if (wait < least)
            least = wait;
    }
    return least;
}

/* Begins recording when the phase says so. */
static enum traffic_phase observe_phase(struct load_thread *t, enum traffic_phase before)
{
    enum traffic_phase phase =
        (enum traffic_phase)atomic_load_explicit(&t->traffic->phase, memory_order_acquire);
    if (phase != before)
        t->load.recording = phase == TRAFFIC_MEASURE;
    return phase;
}

static int load_thread_work(struct load_thread *t)
{
    struct epoll_event events[EVENTS_MAX];
    enum traffic_phase phase = TRAFFIC_WARMUP;
    while ((phase = observe_phase(t, phase)) != TRAFFIC_FINISHED) {
        bool more = phase < TRAFFIC_DRAIN;
        int error = publish(t, more);
        if (error < 0)
            return error;
        uint64_t wait = wait_ns(t, more);
        struct timespec timeout = {.tv_nsec = (long)wait};
        int count = epoll_pwait2(t->epoll, events, EVENTS_MAX, &timeout, NULL);
        if (count < 0 && errno != EINTR)
            return fail(&t->failure, E_IO, "epoll_pwait2: %s", strerror(errno));
        for (int i = 0; i < count && error == 0; i++)
            error = handle_event(t, events[i].data.u32, events[i].events);
        if (error < 0)
            return error;
    }
    for (uint32_t i = 0; i < t->consumer_count; i++) {
        int error = consumer_finish(&t->consumers[i], &t->failure);
        if (error < 0)
            return error;
    }
    return 0;
}

static void *load_thread_main(void *argument)
{
    struct load_thread *t = argument;
    if (load_thread_work(t) < 0)
        atomic_store_explicit(&t->failed, true, memory_order_release);
    return NULL;
}

/* ---- setting up ---- */

static int watch(struct load_thread *t)
{
    t->epoll = epoll_create1(EPOLL_CLOEXEC);
    if (t->epoll < 0)
        return fail(&t->failure, E_IO, "epoll_create1: %s", strerror(errno));
    uint32_t count = t->producer_count + t->consumer_count;
    t->interest = memory_resize(NULL, count, sizeof *t->interest);
    memset(t->interest, 0xff, count * sizeof *t->interest);
    int error = 0;
    for (uint32_t i = 0; i < count && error == 0; i++) {
        bool produces = i < t->producer_count;
        int fd =
            produces ? t->producers[i].client.fd : t->consumers[i - t->producer_count].client.fd;
        error = set_interest(t, i, fd, EPOLLIN);
    }
    return error;
}

/* A part of `total` for one of `count`, so that the parts add up. */
static uint64_t share(uint64_t total, uint32_t number, uint32_t count)
{
    return total / count + (number < total % count);
}

/* The thread of a consumer follows from its first queue, so that queues are not shared. */
static struct load_thread *consumer_thread(struct traffic *t, uint32_t number)
{
    return &t->threads[number % t->options->queues % t->thread_count];
}

/* From the other end, so that a producer and a consumer alone do not share a thread when there are
 * two. */
static struct load_thread *producer_thread(struct traffic *t, uint32_t number)
{
    return &t->threads[t->thread_count - 1 - number % t->thread_count];
}

static int open_consumers(struct traffic *t, uint32_t count, struct failure *failure)
{
    for (uint32_t i = 0; i < count; i++) {
        struct load_thread *thread = consumer_thread(t, i);
        struct consumer *c = &thread->consumers[thread->consumer_count];
        int error = consumer_open(c, t->options, t->check, i, failure);
        if (error < 0)
            return error;
        c->load = &thread->load;
        thread->consumer_count++;
    }
    return 0;
}

static int open_producers(struct traffic *t, uint32_t count, uint64_t messages,
                          struct failure *failure)
{
    for (uint32_t i = 0; i < count; i++) {
        struct load_thread *thread = producer_thread(t, i);
        struct producer *p = &thread->producers[thread->producer_count];
        uint64_t limit = messages ? share(messages, i, count) : UINT64_MAX;
        int error = producer_open(p, t->options, t->check, i, limit, failure);
        if (error < 0)
            return error;
        p->load = &thread->load;
        thread->producer_count++;
    }
    return 0;
}

int traffic_new(struct traffic **traffic, const struct options *options, const struct check *check,
                uint32_t producers, uint32_t consumers, uint64_t messages, struct failure *failure)
{
    struct traffic *t = memory_new(sizeof *t);
    t->options = options;
    t->check = check;
    t->thread_count = options->threads;
    t->threads = memory_new(t->thread_count * sizeof *t->threads);
    for (uint32_t i = 0; i < t->thread_count; i++) {
        struct load_thread *thread = &t->threads[i];
        thread->traffic = t;
        thread->epoll = -1;
        histogram_reset(&thread->load.latency);
        histogram_reset(&thread->load.confirm);
        histogram_reset(&thread->load.lag);
        /* as many as might land here; pages are touched only when used */
        thread->producers = memory_new(producers * sizeof *thread->producers);
        thread->consumers = memory_new(consumers * sizeof *thread->consumers);
    }
    int error = open_consumers(t, consumers, failure);
    if (error == 0)
        error = open_producers(t, producers, messages, failure);
    for (uint32_t i = 0; i < t->thread_count && error == 0; i++) {
        error = watch(&t->threads[i]);
        if (error < 0)
            *failure = t->threads[i].failure;
    }
    if (error < 0) {
        traffic_free(t);
        return error;
    }
    *traffic = t;
    return 0;
}

int traffic_start(struct traffic *t, struct failure *failure)
{
    for (uint32_t i = 0; i < t->thread_count; i++) {
        struct load_thread *thread = &t->threads[i];
        int number = pthread_create(&thread->thread, NULL, load_thread_main, thread);
        if (number)
            return fail(failure, E_MEMORY, "cannot start a thread: %s", strerror(number));
        thread->started = true;
    }
    return 0;
}

void traffic_set_phase(struct traffic *t, enum traffic_phase phase)
{
    atomic_store_explicit(&t->phase, phase, memory_order_release);
}

/* ---- looking on ---- */

struct traffic_counts traffic_counts(const struct traffic *t)
{
    struct traffic_counts sum = {0};
    for (uint32_t i = 0; i < t->thread_count; i++) {
        const struct load_counters *c = &t->threads[i].load.counters;
        /* received first: what is received was published before */
        sum.received += atomic_load_explicit(&c->received, memory_order_acquire);
        sum.confirmed += atomic_load_explicit(&c->confirmed, memory_order_acquire);
        sum.nacked += atomic_load_explicit(&c->nacked, memory_order_acquire);
        sum.blocked += atomic_load_explicit(&c->blocked, memory_order_acquire);
        sum.published += atomic_load_explicit(&c->published, memory_order_acquire);
    }
    return sum;
}

int traffic_check(const struct traffic *t, struct failure *failure)
{
    for (uint32_t i = 0; i < t->thread_count; i++) {
        if (atomic_load_explicit(&t->threads[i].failed, memory_order_acquire)) {
            *failure = t->threads[i].failure;
            return failure->code;
        }
    }
    return 0;
}

bool traffic_settled(const struct traffic *t)
{
    bool settled = true;
    for (uint32_t i = 0; i < t->thread_count; i++)
        settled &= atomic_load_explicit(&t->threads[i].settled, memory_order_relaxed);
    return settled;
}

void traffic_cpu(const struct traffic *t, uint64_t *cpu_ns)
{
    for (uint32_t i = 0; i < t->thread_count; i++) {
        clockid_t clock;
        struct timespec spent = {0};
        if (t->threads[i].started && pthread_getcpuclockid(t->threads[i].thread, &clock) == 0)
            clock_gettime(clock, &spent);
        cpu_ns[i] = (uint64_t)spent.tv_sec * 1000000000u + (uint64_t)spent.tv_nsec;
    }
}

/* ---- the end ---- */

void traffic_finish(struct traffic *t)
{
    traffic_set_phase(t, TRAFFIC_FINISHED);
    for (uint32_t i = 0; i < t->thread_count; i++) {
        if (t->threads[i].started)
            pthread_join(t->threads[i].thread, NULL);
        t->threads[i].started = false;
    }
}

void traffic_results(const struct traffic *t, struct histogram *latency, struct histogram *confirm,
                     struct histogram *lag, struct sequence_faults *faults)
{
    for (uint32_t i = 0; i < t->thread_count; i++) {
        const struct load *load = &t->threads[i].load;
        histogram_merge(latency, &load->latency);
        histogram_merge(confirm, &load->confirm);
        histogram_merge(lag, &load->lag);
        faults->duplicated += load->faults.duplicated;
        faults->reordered += load->faults.reordered;
        faults->redelivered += load->faults.redelivered;
        faults->foreign += load->faults.foreign;
    }
}

void traffic_free(struct traffic *t)
{
    traffic_finish(t);
    for (uint32_t i = 0; i < t->thread_count; i++) {
        struct load_thread *thread = &t->threads[i];
        for (uint32_t n = 0; n < thread->producer_count; n++)
            producer_close(&thread->producers[n]);
        for (uint32_t n = 0; n < thread->consumer_count; n++)
            consumer_close(&thread->consumers[n]);
        if (thread->epoll >= 0)
            close(thread->epoll);
        free(thread->producers);
        free(thread->consumers);
        free(thread->interest);
    }
    free(t->threads);
    free(t);
}
