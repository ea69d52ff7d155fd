#include "loop/real_watchdog.h"

#include "base/assert.h"
#include "loop/real.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#define LIMIT_MS 150 /* more than this a busy machine may take a processor away */

/* ---- what is logged, by another thread ---- */

struct notes {
    pthread_mutex_t mutex;
    char text[16384];
};

static void note(void *context, enum log_level level, const char *category, const char *text)
{
    struct notes *notes = context;

    ASSERT(level == LOG_WARNING && strcmp(category, "loop") == 0);
    pthread_mutex_lock(&notes->mutex);
    size_t size = strlen(notes->text);
    snprintf(notes->text + size, sizeof notes->text - size, "%s\n", text);
    pthread_mutex_unlock(&notes->mutex);
}

static unsigned count(struct notes *notes, const char *what)
{
    unsigned found = 0;

    pthread_mutex_lock(&notes->mutex);
    for (const char *at = notes->text; (at = strstr(at, what)) != NULL; at++)
        found++;
    pthread_mutex_unlock(&notes->mutex);
    return found;
}

/* ---- a worker whose turns are slow ---- */

struct worker {
    struct loop *loop;
    struct watchdog *watchdog;
    struct timer timer;
    struct post stop;
    const char *name;
    pthread_t thread;
    unsigned busy_ms; /* in the next turn */
    bool computes;    /* or sleeps */
    _Atomic unsigned turns;
};

static void spend(struct worker *worker)
{
    uint64_t until_ns = loop_precise_ns(worker->loop) + worker->busy_ms * NANOSECONDS_PER_MS;
    struct timespec moment = {.tv_nsec = 1000000};

    while (loop_precise_ns(worker->loop) < until_ns) {
        if (!worker->computes)
            nanosleep(&moment, NULL);
    }
    worker->busy_ms = 0;
}

static void slow_fire(struct timer *timer)
{
    struct worker *worker = CONTAINER_OF(timer, struct worker, timer);

    spend(worker);
    worker->turns++;
    timer_set(timer, loop_now_ns(worker->loop) + NANOSECONDS_PER_MS);
}

static void stop_run(struct post *post)
{
    struct worker *worker = CONTAINER_OF(post, struct worker, stop);

    loop_stop(worker->loop);
}

static void *worker_run(void *argument)
{
    struct worker *worker = argument;

    watchdog_enter(worker->watchdog, worker->loop, worker->name);
    loop_run(worker->loop);
    watchdog_leave(worker->watchdog, worker->loop);
    return NULL;
}

static void worker_start(struct worker *worker)
{
    struct failure failure;

    worker->loop = loop_new_real(&failure);
    assert_non_null(worker->loop);
    worker->stop.run = stop_run;
    timer_init(&worker->timer, worker->loop, slow_fire);
    timer_set(&worker->timer, loop_now_ns(worker->loop));
    assert_int_equal(pthread_create(&worker->thread, NULL, worker_run, worker), 0);
}

static void worker_stop(struct worker *worker)
{
    loop_post(worker->loop, &worker->stop);
    pthread_join(worker->thread, NULL);
    timer_stop(&worker->timer);
    loop_free(worker->loop);
}

static void wait_for_turns(struct worker *worker, unsigned turns)
{
    struct timespec moment = {.tv_nsec = 1000000};

    while (atomic_load(&worker->turns) < turns)
        nanosleep(&moment, NULL);
}

static void a_stuck_turn_is_reported_once(void **state)
{
    struct notes notes = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    struct logger logger = {.descriptor = -1, .line = note, .context = &notes};
    struct worker stuck = {.name = "worker 1", .busy_ms = 4 * LIMIT_MS};
    struct worker computing = {.name = "worker 2", .busy_ms = 4 * LIMIT_MS, .computes = true};
    struct worker quick = {.name = "worker 3"};
    struct failure failure;

    (void)state;
    assert_int_equal(watchdog_new(&logger, LIMIT_MS, &stuck.watchdog, &failure), 0);
    computing.watchdog = quick.watchdog = stuck.watchdog;
    worker_start(&stuck);
    worker_start(&computing);
    worker_start(&quick);
    wait_for_turns(&stuck, 60);
    wait_for_turns(&computing, 60);
    worker_stop(&stuck);
    worker_stop(&computing);
    worker_stop(&quick);
    watchdog_free(stuck.watchdog);

    assert_int_equal(count(&notes, "worker 1 is stuck in a turn for "), 1);
    assert_int_equal(count(&notes, "worker 2 is stuck in a turn for "), 1);
    assert_int_equal(count(&notes, "worker 3"), 0);
    assert_int_equal(count(&notes, "worker 1 goes on"), 1);
    assert_int_equal(count(&notes, "worker 2 goes on"), 1);
    assert_int_equal(count(&notes, "here:"), count(&notes, "is stuck"));
    assert_int_equal(count(&notes, "worker 1: #0 "), 1);
    assert_true(count(&notes, "worker 1: #") >= 5); /* down to uv_run() and below */
    assert_true(count(&notes, "uv_run") >= 2);
    assert_true(count(&notes, "real_watchdog_test") >= 4);
}

static void every_stuck_turn_is_reported(void **state)
{
    struct notes notes = {.mutex = PTHREAD_MUTEX_INITIALIZER};
    struct logger logger = {.descriptor = -1, .line = note, .context = &notes};
    struct worker worker = {.name = "worker 1"};
    struct failure failure;

    (void)state;
    assert_int_equal(watchdog_new(&logger, LIMIT_MS, &worker.watchdog, &failure), 0);
    for (unsigned life = 1; life <= 2; life++) { /* a loop that is run again is watched again */
        worker.busy_ms = 4 * LIMIT_MS;
        atomic_store(&worker.turns, 0);
        worker_start(&worker);
        wait_for_turns(&worker, 60);
        worker_stop(&worker);
        assert_int_equal(count(&notes, "is stuck"), life);
    }
    watchdog_free(worker.watchdog);
}

static void waiting_is_not_stuck(void **state)
{
    struct failure failure;
    struct loop *loop = loop_new_real(&failure);

    (void)state;
    assert_non_null(loop);
    assert_int_equal(loop_busy_since_ns(loop), 0);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stuck_turn_is_reported_once),
        cmocka_unit_test(every_stuck_turn_is_reported),
        cmocka_unit_test(waiting_is_not_stuck),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
