#include "loop/real.h"

#include "base/assert.h"
#include "loop/loop_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <arpa/inet.h>
#include <errno.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

static int setup(void **state)
{
    struct failure failure;

    *state = loop_new_real(&failure);
    return *state ? 0 : -1;
}

static int teardown(void **state)
{
    loop_free(*state);
    return 0;
}

/* ---- time, tasks ---- */

struct stopping_timer {
    struct timer timer;
    uint64_t fired_ns;
    bool stops;
};

static void fire_and_stop(struct timer *timer)
{
    struct stopping_timer *t = CONTAINER_OF(timer, struct stopping_timer, timer);

    t->fired_ns = loop_now_ns(timer->loop);
    if (t->stops)
        loop_stop(timer->loop);
}

static void timers_fire_in_time(void **state)
{
    struct loop *loop = *state;
    struct stopping_timer a = {.fired_ns = 0};
    struct stopping_timer b = {.stops = true};

    timer_init(&a.timer, loop, fire_and_stop);
    timer_init(&b.timer, loop, fire_and_stop);
    timer_set(&b.timer, loop_now_ns(loop) + 20 * NANOSECONDS_PER_MS);
    timer_set(&a.timer, loop_now_ns(loop) + 10 * NANOSECONDS_PER_MS);
    loop_run(loop);
    assert_true(a.fired_ns >= a.timer.at_ns && b.fired_ns >= b.timer.at_ns);
    assert_true(a.fired_ns < b.fired_ns);
    assert_true(loop_statistics(loop)->turns < 10); /* it slept */
}

struct again_task {
    struct task task;
    struct loop *loop;
    unsigned runs;
};

static void run_again(struct task *task)
{
    struct again_task *again = CONTAINER_OF(task, struct again_task, task);

    if (++again->runs == 100)
        loop_stop(again->loop);
    else
        loop_defer(again->loop, task, LOOP_DISPATCH);
}

static void a_task_deferred_again_runs_in_the_next_turn_at_once(void **state)
{
    struct loop *loop = *state;
    struct again_task again = {.loop = loop};
    uint64_t start_ns = loop_precise_ns(loop);
    uint64_t turns = loop_statistics(loop)->turns;

    task_init(&again.task, run_again);
    loop_defer(loop, &again.task, LOOP_DISPATCH);
    loop_run(loop);
    assert_int_equal(again.runs, 100);
    assert_int_equal(loop_statistics(loop)->turns - turns, 100);
    assert_true(loop_precise_ns(loop) - start_ns < 1000 * NANOSECONDS_PER_MS);
}

static void random_bytes_differ(void **state)
{
    struct loop *loop = *state;
    uint8_t first[300];
    uint8_t second[300];
    uint64_t seen = loop_random(loop);

    for (int i = 0; i < 1000; i++) {
        uint64_t next = loop_random(loop);
        assert_int_not_equal(next, seen);
        seen = next;
    }
    loop_random_bytes(loop, first, sizeof first);
    loop_random_bytes(loop, second, sizeof second);
    assert_memory_not_equal(first, second, sizeof first);
    assert_true(loop_wall_ms(loop) > 1600000000000u);
}

/* ---- jobs and posts ---- */

struct summing_job {
    struct job job;
    pthread_t loops_thread;
    uint64_t sum;
    unsigned *left;
};

static void job_work(struct job *job)
{
    struct summing_job *s = CONTAINER_OF(job, struct summing_job, job);

    assert_false(pthread_equal(pthread_self(), s->loops_thread));
    for (uint64_t i = 0; i <= 1000; i++)
        s->sum += i;
}

static void job_done(struct job *job)
{
    struct summing_job *s = CONTAINER_OF(job, struct summing_job, job);

    assert_true(pthread_equal(pthread_self(), s->loops_thread));
    if (--*s->left == 0)
        loop_stop(job->loop);
}

static void jobs_run_on_helpers(void **state)
{
    static struct summing_job jobs[LOOP_JOBS_MAX + 1];
    unsigned left = LOOP_JOBS_MAX;

    for (size_t i = 0; i <= LOOP_JOBS_MAX; i++) {
        jobs[i] = (struct summing_job){.job = {.work = job_work, .done = job_done},
                                       .loops_thread = pthread_self(),
                                       .left = &left};
        assert_int_equal(loop_help(*state, &jobs[i].job), i < LOOP_JOBS_MAX ? 0 : E_LIMIT);
    }
    loop_run(*state);
    for (size_t i = 0; i < LOOP_JOBS_MAX; i++)
        assert_int_equal(jobs[i].sum, 500500);
}

struct long_job_seen {
    struct job job;
    unsigned *running, *done;
    bool was_alone;
};

static void long_work(struct job *job)
{
    struct long_job_seen *seen = CONTAINER_OF(job, struct long_job_seen, job);

    seen->was_alone = ++*seen->running == 1; /* thread sanitizer would tell otherwise, too */
    nanosleep(&(struct timespec){.tv_nsec = 1000000}, NULL);
    --*seen->running;
}

static void long_done(struct job *job)
{
    struct long_job_seen *seen = CONTAINER_OF(job, struct long_job_seen, job);

    assert_true(seen->was_alone);
    if (++*seen->done == 10)
        loop_stop(job->loop);
}

static void long_jobs_are_done_one_by_one(void **state)
{
    struct long_job_seen jobs[10];
    unsigned running = 0, done = 0;

    for (size_t i = 0; i < 10; i++) {
        jobs[i] =
            (struct long_job_seen){.job = {.work = long_work, .done = long_done, .is_long = true},
                                   .running = &running,
                                   .done = &done};
        assert_int_equal(loop_help(*state, &jobs[i].job), 0);
    }
    loop_run(*state);
    assert_int_equal(done, 10);
}

#define POSTERS 4
#define POSTS   20000

struct poster {
    struct loop *loop;
    unsigned last_seen, *left;
    struct numbered_post {
        struct post post;
        struct poster *poster;
        unsigned number;
    } posts[POSTS];
};

static void post_run(struct post *post)
{
    struct numbered_post *numbered = CONTAINER_OF(post, struct numbered_post, post);
    struct poster *poster = numbered->poster;

    assert_int_equal(numbered->number, poster->last_seen + 1);
    poster->last_seen++;
    if (--*poster->left == 0)
        loop_stop(poster->loop);
}

static void *poster_main(void *argument)
{
    struct poster *poster = argument;

    for (unsigned i = 0; i < POSTS; i++) {
        poster->posts[i] =
            (struct numbered_post){.post = {.run = post_run}, .poster = poster, .number = i + 1};
        loop_post(poster->loop, &poster->posts[i].post);
    }
    return NULL;
}

static void posts_of_each_thread_arrive_in_order(void **state)
{
    struct poster *posters = calloc(POSTERS, sizeof *posters);
    pthread_t threads[POSTERS];
    unsigned left = POSTERS * POSTS;

    for (int i = 0; i < POSTERS; i++) {
        posters[i].loop = *state;
        posters[i].left = &left;
        assert_int_equal(pthread_create(&threads[i], NULL, poster_main, &posters[i]), 0);
    }
    loop_run(*state);
    for (int i = 0; i < POSTERS; i++)
        pthread_join(threads[i], NULL);
    assert_int_equal(left, 0);
    free(posters);
}

/* ---- sockets ---- */

struct echo {
    struct loop *loop;
    struct stream *stream;
    struct listener *listener;
    uint8_t bytes[4096];
    size_t size;
    uint64_t total;
    ssize_t last;
    int errors;
    bool loopback;
};

static void echo_close(struct echo *e)
{
    stream_close(e->stream);
    e->stream = NULL;
    loop_stop(e->loop);
}

static void echo_ready(void *context, unsigned events)
{
    struct echo *e = context;

    if (events & STREAM_READABLE && e->size == 0) {
        e->last = stream_read(e->stream, e->bytes, sizeof e->bytes);
        if (e->last <= 0 && e->last != E_AGAIN) {
            echo_close(e);
            return;
        }
        e->size = e->last > 0 ? (size_t)e->last : 0;
    }
    if (e->size > 0) {
        struct iovec slice = {e->bytes, e->size};
        ssize_t written = stream_write(e->stream, &slice, 1);
        if (written > 0) {
            memmove(e->bytes, e->bytes + written, e->size - (size_t)written);
            e->size -= (size_t)written;
            e->total += (uint64_t)written;
        } else if (written != E_AGAIN) {
            e->last = written;
            echo_close(e);
            return;
        }
    }
    stream_want(e->stream, e->size > 0 ? STREAM_WRITABLE : STREAM_READABLE);
}

static void echo_accepted(void *context, struct stream *stream, int error)
{
    struct echo *e = context;
    struct stream_address address;

    if (!stream) {
        assert_int_equal(error, E_LIMIT);
        e->errors++;
        return;
    }
    e->stream = stream;
    stream_peer(stream, &address);
    e->loopback = address.is_loopback;
    stream_local(stream, &address);
    assert_int_equal(address.port, listener_port(e->listener));
    stream_start(stream, echo_ready, e);
    stream_want(stream, STREAM_READABLE);
}

static void echo_listen(struct echo *e, struct loop *loop, const char *host)
{
    struct listen_options options = {.host = host,
                                     .no_delay = true,
                                     .keepalive = true,
                                     .send_buffer = 8192,
                                     .receive_buffer = 8192};
    struct failure failure;

    *e = (struct echo){.loop = loop};
    assert_int_equal(loop_listen(loop, &options, echo_accepted, e, &e->listener, &failure), 0);
    assert_int_not_equal(listener_port(e->listener), 0);
}

static int dial(uint16_t port, int family)
{
    struct sockaddr_in v4 = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr = {htonl(INADDR_LOOPBACK)}};
    struct sockaddr_in6 v6 = {
        .sin6_family = AF_INET6, .sin6_port = htons(port), .sin6_addr = IN6ADDR_LOOPBACK_INIT};
    int descriptor = socket(family, SOCK_STREAM, 0);

    if (descriptor < 0)
        return -1;
    int result = family == AF_INET ? connect(descriptor, (struct sockaddr *)&v4, sizeof v4)
                                   : connect(descriptor, (struct sockaddr *)&v6, sizeof v6);
    if (result < 0) {
        close(descriptor);
        return -1;
    }
    return descriptor;
}

#define ECHO_BYTES 2000000

struct client {
    int descriptor;
    bool right;
};

static void *client_send(void *argument)
{
    struct client *c = argument;
    uint8_t bytes[10007];

    for (size_t sent = 0; sent < ECHO_BYTES;) {
        size_t size = ECHO_BYTES - sent < sizeof bytes ? ECHO_BYTES - sent : sizeof bytes;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)((sent + i) % 251);
        ssize_t written = write(c->descriptor, bytes, size);
        if (written <= 0)
            return NULL;
        sent += (size_t)written;
    }
    return NULL;
}

static void *client_receive(void *argument)
{
    struct client *c = argument;
    uint8_t bytes[4001];
    size_t received = 0;

    while (received < ECHO_BYTES) {
        ssize_t size = read(c->descriptor, bytes, sizeof bytes);
        if (size <= 0)
            return NULL;
        for (ssize_t i = 0; i < size; i++) {
            if (bytes[i] != (received + (size_t)i) % 251)
                return NULL;
        }
        received += (size_t)size;
    }
    c->right = true;
    shutdown(c->descriptor, SHUT_RDWR);
    return NULL;
}

static void bytes_go_through_sockets(void **state)
{
    static const int families[] = {AF_INET, AF_INET6};

    for (int i = 0; i < 2; i++) {
        struct echo e;
        pthread_t sender, receiver;
        echo_listen(&e, *state, NULL);
        struct client c = {.descriptor = dial(listener_port(e.listener), families[i])};
        if (c.descriptor < 0 && families[i] == AF_INET6) {
            listener_close(e.listener);
            print_message("no IPv6 here\n");
            continue;
        }
        assert_true(c.descriptor >= 0);
        pthread_create(&sender, NULL, client_send, &c);
        pthread_create(&receiver, NULL, client_receive, &c);
        loop_run(*state);
        pthread_join(sender, NULL);
        pthread_join(receiver, NULL);
        assert_true(c.right);
        assert_int_equal(e.total, ECHO_BYTES);
        assert_int_equal(e.last, 0);
        assert_true(e.loopback);
        close(c.descriptor);
        listener_close(e.listener);
    }
}

static void a_reset_is_told(void **state)
{
    struct echo e;
    struct linger linger = {1, 0};

    echo_listen(&e, *state, "127.0.0.1");
    int descriptor = dial(listener_port(e.listener), AF_INET);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, "x", 1), 1);
    setsockopt(descriptor, SOL_SOCKET, SO_LINGER, &linger, sizeof linger);
    close(descriptor);
    loop_run(*state);
    assert_int_equal(e.last, E_CLOSED);
    listener_close(e.listener);
}

/* A stream that does not want to read must not keep the loop awake. */
static void paused_accepted(void *context, struct stream *stream, int error)
{
    struct echo *e = context;

    (void)error;
    e->stream = stream;
    stream_start(stream, echo_ready, e);
    stream_want(stream, STREAM_READABLE);
    stream_want(stream, 0);
}

static void a_paused_stream_is_quiet(void **state)
{
    struct loop *loop = *state;
    struct listen_options options = {.host = "127.0.0.1"};
    struct failure failure;
    struct echo e = {.loop = loop};
    struct stopping_timer t = {.stops = true};

    assert_int_equal(loop_listen(loop, &options, paused_accepted, &e, &e.listener, &failure), 0);
    int descriptor = dial(listener_port(e.listener), AF_INET);
    assert_true(descriptor >= 0);
    assert_int_equal(write(descriptor, "hello", 5), 5);
    timer_init(&t.timer, loop, fire_and_stop);
    timer_set(&t.timer, loop_now_ns(loop) + 50 * NANOSECONDS_PER_MS);
    uint64_t turns = loop_statistics(loop)->turns;
    loop_run(loop);
    assert_non_null(e.stream);
    assert_true(loop_statistics(loop)->turns - turns < 20);
    assert_int_equal(e.total, 0);

    stream_want(e.stream, STREAM_READABLE);
    shutdown(descriptor, SHUT_WR);
    loop_run(loop);
    assert_int_equal(e.total, 5);
    close(descriptor);
    listener_close(e.listener);
}

static void a_port_or_a_host_that_cannot_be_had(void **state)
{
    struct echo e;
    struct listener *second;
    struct failure failure;

    echo_listen(&e, *state, "127.0.0.1");
    struct listen_options options = {.host = "127.0.0.1", .port = listener_port(e.listener)};
    assert_int_equal(loop_listen(*state, &options, echo_accepted, &e, &second, &failure), E_HELD);
    assert_non_null(strstr(failure.text, "in use"));
    options.host = "192.0.2.77"; /* of documentation: nobody's */
    assert_int_equal(loop_listen(*state, &options, echo_accepted, &e, &second, &failure),
                     E_INVALID);
    options.host = "no such host";
    assert_int_equal(loop_listen(*state, &options, echo_accepted, &e, &second, &failure),
                     E_INVALID);
    assert_non_null(strstr(failure.text, "no such host"));
    listener_close(e.listener);
}

static void without_descriptors_a_peer_is_turned_away(void **state)
{
    struct loop *loop = *state;
    struct echo e;
    struct rlimit limit, low;
    int taken[64];
    int count = 0;

    echo_listen(&e, loop, "127.0.0.1");
    int first = dial(listener_port(e.listener), AF_INET);
    assert_true(first >= 0);
    assert_int_equal(getrlimit(RLIMIT_NOFILE, &limit), 0);
    low = limit;
    low.rlim_cur = (rlim_t)first + 1;
    assert_int_equal(setrlimit(RLIMIT_NOFILE, &low), 0);
    while (count < 64 && (taken[count] = dup(0)) >= 0) /* the gaps below */
        count++;
    struct stopping_timer t = {.stops = true};
    timer_init(&t.timer, loop, fire_and_stop);
    timer_set(&t.timer, loop_now_ns(loop) + 250 * NANOSECONDS_PER_MS);
    loop_run(loop);
    assert_int_equal(e.errors, 1);
    assert_null(e.stream);
    char byte;
    assert_true(read(first, &byte, 1) <= 0); /* closed, not left waiting */
    close(first);

    assert_int_equal(setrlimit(RLIMIT_NOFILE, &limit), 0); /* and then it goes on */
    while (count > 0)
        close(taken[--count]);
    int second = dial(listener_port(e.listener), AF_INET);
    assert_true(second >= 0);
    assert_int_equal(write(second, "y", 1), 1);
    shutdown(second, SHUT_WR);
    timer_stop(&t.timer);
    loop_run(loop);
    assert_int_equal(e.total, 1);
    close(second);
    listener_close(e.listener);
}

/* ---- signals ---- */

static void caught(void *context, int signal_number)
{
    assert_int_equal(signal_number, SIGUSR1);
    loop_stop(context);
}

static void signals_arrive_in_a_turn(void **state)
{
    assert_int_equal(loop_on_signal(*state, SIGUSR1, caught, *state), 0);
    kill(getpid(), SIGUSR1);
    loop_run(*state);
}

int main(void)
{
#define REAL_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        REAL_TEST(timers_fire_in_time),
        REAL_TEST(a_task_deferred_again_runs_in_the_next_turn_at_once),
        REAL_TEST(random_bytes_differ),
        REAL_TEST(long_jobs_are_done_one_by_one),
        REAL_TEST(jobs_run_on_helpers),
        REAL_TEST(posts_of_each_thread_arrive_in_order),
        REAL_TEST(bytes_go_through_sockets),
        REAL_TEST(a_reset_is_told),
        REAL_TEST(a_paused_stream_is_quiet),
        REAL_TEST(a_port_or_a_host_that_cannot_be_had),
        REAL_TEST(without_descriptors_a_peer_is_turned_away),
        REAL_TEST(signals_arrive_in_a_turn),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
