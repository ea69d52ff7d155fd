#include "loop/real_watchdog.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/real.h"

#include <dlfcn.h>
#include <errno.h>
#include <execinfo.h>
#include <inttypes.h>
#include <pthread.h>
#include <semaphore.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define FRAMES_MAX  48
#define FRAMES_SKIP 2 /* the handler, and what the system calls it through */
#define ANSWER_MS   1000
#define STUCK_NAME  32

/* One of the loops. Stays until the watchdog ends: a signal may come late. */
struct watched {
    struct list link;
    const struct loop *loop;
    bool has_left;
    pthread_t thread;
    char name[STUCK_NAME];
    uint64_t reported_ns; /* the beginning of the turn that was reported last; 0: it is over */
    uint64_t seen_ns;     /* when it was last seen going on */

    /* Filled in by the stuck thread, in its signal handler. */
    void *frames[FRAMES_MAX];
    _Atomic int frames_count;
    sem_t answered;
};

struct watchdog {
    const struct logger *logger;
    uint64_t limit_ns;
    struct sigaction before;
    pthread_t thread;
    pthread_mutex_t mutex; /* of all below; never taken within a turn */
    pthread_cond_t end;
    struct list watched;
    bool ends;
};

static int stack_signal(void)
{
    return SIGRTMIN + 3;
}

/* On the stuck thread, wherever it is: nothing but what a signal handler may do. */
static void take_stack(int number, siginfo_t *info, void *machine)
{
    struct watched *w = info->si_value.sival_ptr;
    int error = errno;

    (void)number;
    (void)machine;
    if (info->si_code != SI_QUEUE || !w) /* somebody else's */
        return;
    atomic_store_explicit(&w->frames_count, backtrace(w->frames, FRAMES_MAX), memory_order_release);
    sem_post(&w->answered);
    errno = error;
}

static uint64_t clock_ns(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

static struct timespec after_ns(clockid_t clock, uint64_t delay_ns)
{
    struct timespec at;

    clock_gettime(clock, &at);
    uint64_t ns = (uint64_t)at.tv_nsec + delay_ns;
    at.tv_sec += (time_t)(ns / 1000000000u);
    at.tv_nsec = (long)(ns % 1000000000u);
    return at;
}

static bool ask_for_stack(struct watched *w)
{
    struct timespec until = after_ns(CLOCK_REALTIME, ANSWER_MS * NANOSECONDS_PER_MS);
    int result;

    while (sem_trywait(&w->answered) == 0) /* an answer that came too late */
        ;
    if (pthread_sigqueue(w->thread, stack_signal(), (union sigval){.sival_ptr = w}) != 0)
        return false;
    while ((result = sem_timedwait(&w->answered, &until)) < 0 && errno == EINTR)
        ;
    return result == 0;
}

static void log_frame(const struct watchdog *watchdog, const struct watched *w, int number,
                      const void *address)
{
    Dl_info info;

    if (!dladdr(address, &info) || !info.dli_fname) {
        log_warning(watchdog->logger, "loop", "%s: #%d %p", w->name, number, address);
        return;
    }
    log_warning(watchdog->logger, "loop", "%s: #%d %s %s 0x%" PRIxPTR, w->name, number,
                info.dli_fname, info.dli_sname ? info.dli_sname : "?",
                (uintptr_t)address - (uintptr_t)info.dli_fbase);
}

static void report(struct watchdog *watchdog, struct watched *w, uint64_t since_ns)
{
    uint64_t spent_ms = (w->seen_ns - since_ns) / NANOSECONDS_PER_MS;

    if (!ask_for_stack(w)) { /* in the system, and not to be interrupted: a disk, as a rule */
        log_warning(watchdog->logger, "loop",
                    "%s is stuck in a turn for %" PRIu64 " ms, and waits in the system", w->name,
                    spent_ms);
        return;
    }
    int count = atomic_load_explicit(&w->frames_count, memory_order_acquire);
    log_warning(watchdog->logger, "loop",
                "%s is stuck in a turn for %" PRIu64 " ms, here:", w->name, spent_ms);
    for (int i = FRAMES_SKIP; i < count; i++)
        log_frame(watchdog, w, i - FRAMES_SKIP, w->frames[i]);
}

static void look_at(struct watchdog *watchdog, struct watched *w)
{
    uint64_t since_ns = loop_busy_since_ns(w->loop);

    if (w->reported_ns && since_ns != w->reported_ns) {
        log_warning(watchdog->logger, "loop", "%s goes on, after %" PRIu64 " ms or more", w->name,
                    (w->seen_ns - w->reported_ns) / NANOSECONDS_PER_MS);
        w->reported_ns = 0;
    }
    if (since_ns == 0)
        return;
    w->seen_ns = clock_ns();
    if (since_ns == w->reported_ns || w->seen_ns < since_ns + watchdog->limit_ns)
        return;
    w->reported_ns = since_ns;
    report(watchdog, w, since_ns);
}

static void *watch(void *argument)
{
    struct watchdog *watchdog = argument;

    pthread_mutex_lock(&watchdog->mutex);
    while (!watchdog->ends) {
        LIST_EACH (&watchdog->watched, link) {
            struct watched *w = CONTAINER_OF(link, struct watched, link);
            if (!w->has_left)
                look_at(watchdog, w);
        }
        struct timespec until = after_ns(CLOCK_MONOTONIC, watchdog->limit_ns / 4);
        while (!watchdog->ends &&
               pthread_cond_timedwait(&watchdog->end, &watchdog->mutex, &until) == 0)
            ;
    }
    pthread_mutex_unlock(&watchdog->mutex);
    return NULL;
}

/* ---- loops ---- */

void watchdog_enter(struct watchdog *watchdog, struct loop *loop, const char *name)
{
    struct watched *w = memory_new(sizeof *w);

    w->loop = loop;
    w->thread = pthread_self();
    snprintf(w->name, sizeof w->name, "%s", name);
    sem_init(&w->answered, 0, 0);
    pthread_mutex_lock(&watchdog->mutex);
    list_append(&watchdog->watched, &w->link);
    pthread_mutex_unlock(&watchdog->mutex);
}

void watchdog_leave(struct watchdog *watchdog, struct loop *loop)
{
    pthread_mutex_lock(&watchdog->mutex);
    LIST_EACH (&watchdog->watched, link) {
        struct watched *w = CONTAINER_OF(link, struct watched, link);
        if (w->loop == loop)
            w->has_left = true;
    }
    pthread_mutex_unlock(&watchdog->mutex);
}

/* ---- start and end ---- */

int watchdog_new(const struct logger *logger, unsigned limit_ms, struct watchdog **watchdog,
                 struct failure *failure)
{
    struct watchdog *made = memory_new(sizeof *made);
    struct sigaction action = {.sa_sigaction = take_stack,
                               .sa_flags = SA_SIGINFO | SA_RESTART | SA_ONSTACK};
    pthread_condattr_t attributes;
    void *frames[1];

    ASSERT(limit_ms >= WATCHDOG_LIMIT_MIN_MS);
    made->logger = logger;
    made->limit_ns = limit_ms * NANOSECONDS_PER_MS;
    list_init(&made->watched);
    pthread_mutex_init(&made->mutex, NULL);
    pthread_condattr_init(&attributes);
    pthread_condattr_setclock(&attributes, CLOCK_MONOTONIC);
    pthread_cond_init(&made->end, &attributes);
    pthread_condattr_destroy(&attributes);
    (void)backtrace(frames, 1); /* what it needs is loaded now, not in a signal handler */
    sigemptyset(&action.sa_mask);
    int result = sigaction(stack_signal(), &action, &made->before);
    ASSERT(result == 0);
    result = pthread_create(&made->thread, NULL, watch, made);
    if (result != 0) {
        sigaction(stack_signal(), &made->before, NULL);
        free(made);
        return fail(failure, E_LIMIT, "no thread for the watchdog: error %d of the system", result);
    }
    *watchdog = made;
    return 0;
}

void watchdog_free(struct watchdog *watchdog)
{
    struct list *link;

    pthread_mutex_lock(&watchdog->mutex);
    watchdog->ends = true;
    pthread_cond_signal(&watchdog->end);
    pthread_mutex_unlock(&watchdog->mutex);
    pthread_join(watchdog->thread, NULL);
    sigaction(stack_signal(), &watchdog->before, NULL);
    while ((link = list_take_first(&watchdog->watched)) != NULL) {
        struct watched *w = CONTAINER_OF(link, struct watched, link);
        ASSERT(w->has_left);
        sem_destroy(&w->answered);
        free(w);
    }
    pthread_cond_destroy(&watchdog->end);
    pthread_mutex_destroy(&watchdog->mutex);
    free(watchdog);
}
