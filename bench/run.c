#include "run.h"

#include "client.h"

#include "base/memory.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define SECOND_NS    1000000000u
#define POLL_NS      2000000u   /* how often counters are looked at when waiting for a count */
#define QUEUE_ASK_NS 200000000u /* how often the broker is asked for a queue's length */

struct run {
    const struct options *options;
    struct run_result *result;
    struct check check;
    struct client admin;
    struct client *idle;
    uint32_t idle_count;
    struct traffic *traffic;
    bool consuming; /* there are consumers in the traffic */
    int signals;
    bool terminal;
    uint64_t course_start_ns;
    uint64_t course_next_ns;
    struct traffic_counts course_last;
    uint64_t course_last_ns;
};

/* ---- waiting ---- */

/* Until the moment, or until a signal asks to stop; then true. */
static bool wait_until(struct run *run, uint64_t until_ns)
{
    uint64_t now_ns = clock_ns();
    uint64_t left = until_ns > now_ns ? until_ns - now_ns : 0;
    struct timespec timeout = {.tv_sec = (time_t)(left / SECOND_NS),
                               .tv_nsec = (long)(left % SECOND_NS)};
    struct pollfd signals = {.fd = run->signals, .events = POLLIN};
    if (ppoll(&signals, 1, &timeout, NULL) > 0)
        run->result->interrupted = true;
    return run->result->interrupted;
}

/* ---- moments and intervals ---- */

struct moment {
    uint64_t at_ns;
    struct traffic_counts counts;
    struct usage usage;
    uint64_t thread_ns[THREADS_MAX];
};

static int take_moment(struct run *run, struct moment *m, bool proportional,
                       struct failure *failure)
{
    *m = (struct moment){0};
    if (run->options->broker_pid) {
        int error = sampler_read(&m->usage, run->options->broker_pid, proportional, failure);
        if (error < 0)
            return error;
    }
    if (m->usage.resident_bytes > run->result->resident_peak_bytes)
        run->result->resident_peak_bytes = m->usage.resident_bytes;
    m->at_ns = clock_ns();
    m->counts = traffic_counts(run->traffic);
    traffic_cpu(run->traffic, m->thread_ns);
    return 0;
}

static double seconds(uint64_t from_ns, uint64_t to_ns)
{
    return (double)(to_ns - from_ns) / 1e9;
}

static struct traffic_counts counts_between(struct traffic_counts a, struct traffic_counts b)
{
    return (struct traffic_counts){.published = b.published - a.published,
                                   .confirmed = b.confirmed - a.confirmed,
                                   .nacked = b.nacked - a.nacked,
                                   .received = b.received - a.received,
                                   .blocked = b.blocked - a.blocked};
}

static struct interval between(const struct moment *a, const struct moment *b)
{
    struct interval i = {.seconds = seconds(a->at_ns, b->at_ns),
                         .counts = counts_between(a->counts, b->counts),
                         .broker_user_s = seconds(a->usage.user_ns, b->usage.user_ns),
                         .broker_system_s = seconds(a->usage.system_ns, b->usage.system_ns)};
    for (uint32_t t = 0; t < THREADS_MAX; t++)
        i.thread_s[t] = seconds(a->thread_ns[t], b->thread_ns[t]);
    return i;
}

/* ---- the course: a point a second, and the progress line ---- */

static void course_begin(struct run *run)
{
    run->course_start_ns = run->course_last_ns = clock_ns();
    run->course_next_ns = run->course_start_ns + SECOND_NS;
    run->course_last = traffic_counts(run->traffic);
}

static int course_continue(struct run *run, const char *what, struct failure *failure)
{
    uint64_t now_ns = clock_ns();
    if (now_ns < run->course_next_ns)
        return 0;
    struct moment m;
    int error = take_moment(run, &m, false, failure);
    if (error < 0)
        return error;
    double span_s = seconds(run->course_last_ns, m.at_ns);
    struct traffic_counts d = counts_between(run->course_last, m.counts);
    struct course_point point = {.at_s = seconds(run->course_start_ns, m.at_ns),
                                 .published_per_s = (double)d.published / span_s,
                                 .received_per_s = (double)d.received / span_s,
                                 .confirmed_per_s = (double)d.confirmed / span_s,
                                 .resident_bytes = m.usage.resident_bytes};
    struct run_result *result = run->result;
    result->course = memory_resize(result->course, result->course_count + 1, sizeof point);
    result->course[result->course_count++] = point;
    run->course_last = m.counts;
    run->course_last_ns = m.at_ns;
    run->course_next_ns += SECOND_NS;
    if (run->terminal)
        fprintf(stderr, "\r%s %4.0f s   published %10.0f/s   received %10.0f/s   broker %6.1f MiB ",
                what, point.at_s, point.published_per_s, point.received_per_s,
                (double)point.resident_bytes / 1048576);
    return 0;
}

static void course_end(struct run *run)
{
    if (run->terminal)
        fprintf(stderr, "\r%78s\r", "");
}

/* ---- declaring ---- */

static void queue_name(const struct options *o, uint32_t queue, char name[TEXT_PART_SIZE])
{
    snprintf(name, TEXT_PART_SIZE, "%s-%05u", o->queue_prefix, queue);
}

static int declare(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    int error = 0;
    if (o->fanout) {
        error = client_delete_exchange(&run->admin, o->queue_prefix, failure);
        if (error == 0)
            error = client_declare_fanout(&run->admin, o->queue_prefix, o->durable, failure);
    }
    for (uint32_t q = 0; q < o->queues && error == 0; q++) {
        char name[TEXT_PART_SIZE];
        queue_name(o, q, name);
        struct queue_wish wish = {.name = name, .type = o->queue_type, .durable = o->durable};
        error = client_delete_queue(&run->admin, name, failure);
        if (error == 0)
            error = client_declare_queue(&run->admin, &wish, NULL, failure);
        if (error == 0 && o->fanout)
            error = client_bind(&run->admin, name, o->queue_prefix, failure);
    }
    return error;
}

static int clean_up(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    int error = 0;
    for (uint32_t q = 0; q < o->queues && error == 0; q++) {
        char name[TEXT_PART_SIZE];
        queue_name(o, q, name);
        error = client_delete_queue(&run->admin, name, failure);
    }
    if (error == 0 && o->fanout)
        error = client_delete_exchange(&run->admin, o->queue_prefix, failure);
    return error;
}

/* The sum of the queues' lengths, as the broker tells them. */
static int count_ready(struct run *run, uint64_t *ready, struct failure *failure)
{
    *ready = 0;
    for (uint32_t q = 0; q < run->options->queues; q++) {
        char name[TEXT_PART_SIZE];
        queue_name(run->options, q, name);
        struct queue_wish wish = {.name = name, .passive = true};
        uint32_t count;
        int error = client_declare_queue(&run->admin, &wish, &count, failure);
        if (error < 0)
            return error;
        *ready += count;
    }
    return 0;
}

/* ---- idle connections ---- */

static int raise_descriptor_limit(uint32_t wanted, struct failure *failure)
{
    struct rlimit limit;
    if (getrlimit(RLIMIT_NOFILE, &limit) < 0)
        return fail(failure, E_IO, "getrlimit: %s", strerror(errno));
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) < 0 || limit.rlim_cur < wanted)
        return fail(failure, E_LIMIT, "%u connections need more than %llu file descriptors", wanted,
                    (unsigned long long)limit.rlim_cur);
    return 0;
}

static int open_idle(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    if (o->idle_connections == 0)
        return 0;
    uint64_t start_ns = clock_ns();
    run->idle = memory_new(o->idle_connections * sizeof *run->idle);
    while (run->idle_count < o->idle_connections) {
        struct client *c = &run->idle[run->idle_count];
        int error = client_open(c, &o->uri, failure);
        if (error < 0)
            return error;
        client_idle(c);
        run->idle_count++;
    }
    run->result->idle_connect_s = seconds(start_ns, clock_ns());
    /* let the broker settle before its memory is read */
    wait_until(run, clock_ns() + SECOND_NS);
    if (o->broker_pid)
        return sampler_read(&run->result->usage_idle, o->broker_pid, true, failure);
    return 0;
}

/* ---- the usual run ---- */

static uint64_t deliveries_per_message(const struct options *o)
{
    return o->fanout ? o->queues : 1;
}

/* Has everything that was to be sent arrived? */
static bool all_arrived(const struct run *run, struct traffic_counts c, uint64_t published)
{
    if (c.published < published || !traffic_settled(run->traffic))
        return false;
    return !run->consuming || c.received >= c.published * deliveries_per_message(run->options);
}

/* Until everything has arrived, or nothing moves for the drain timeout. */
static int await_all(struct run *run, uint64_t published, const char *what, struct failure *failure)
{
    struct traffic_counts last = {0};
    uint64_t moved_ns = clock_ns();
    for (;;) {
        int error = traffic_check(run->traffic, failure);
        if (error == 0)
            error = course_continue(run, what, failure);
        if (error < 0)
            return error;
        struct traffic_counts c = traffic_counts(run->traffic);
        if (all_arrived(run, c, published))
            return 0;
        uint64_t now_ns = clock_ns();
        if (memcmp(&c, &last, sizeof c) != 0) {
            last = c;
            moved_ns = now_ns;
        }
        if (now_ns - moved_ns > run->options->drain_timeout_ms * 1000000u)
            return 0;
        if (wait_until(run, now_ns + POLL_NS))
            return 0;
    }
}

static int await_time(struct run *run, uint64_t until_ns, const char *what, struct failure *failure)
{
    while (clock_ns() < until_ns) {
        int error = traffic_check(run->traffic, failure);
        if (error == 0)
            error = course_continue(run, what, failure);
        if (error < 0)
            return error;
        uint64_t step_ns = run->course_next_ns < until_ns ? run->course_next_ns : until_ns;
        if (wait_until(run, step_ns))
            break;
    }
    return traffic_check(run->traffic, failure);
}

static int measure(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    struct moment begin, end;
    if (o->warmup_ms == 0)
        traffic_set_phase(run->traffic, TRAFFIC_MEASURE);
    course_begin(run);
    if (o->warmup_ms == 0) {
        /* before the first message */
        int error = take_moment(run, &begin, false, failure);
        if (error < 0)
            return error;
    }
    int error = traffic_start(run->traffic, failure);
    if (error == 0 && o->warmup_ms > 0) {
        error = await_time(run, clock_ns() + o->warmup_ms * 1000000u, "warm up", failure);
        if (error == 0)
            error = take_moment(run, &begin, false, failure);
        traffic_set_phase(run->traffic, TRAFFIC_MEASURE);
        run->result->course_count = 0;
        course_begin(run);
    }
    if (error == 0 && o->messages)
        error = await_all(run, o->messages, "measure", failure);
    else if (error == 0)
        error = await_time(run, begin.at_ns + o->duration_ms * 1000000u, "measure", failure);
    if (error == 0)
        error = take_moment(run, &end, false, failure);
    if (error < 0)
        return error;
    run->result->measured = between(&begin, &end);
    run->result->usage_measured = end.usage;
    return 0;
}

static int drain(struct run *run, struct failure *failure)
{
    traffic_set_phase(run->traffic, TRAFFIC_DRAIN);
    /* producers see the phase within their idle wait; then the count is final */
    wait_until(run, clock_ns() + 4 * POLL_NS);
    return await_all(run, 0, "drain", failure);
}

static void add_results(struct run *run)
{
    struct run_result *r = run->result;
    traffic_finish(run->traffic);
    struct traffic_counts c = traffic_counts(run->traffic);
    r->totals.published += c.published;
    r->totals.confirmed += c.confirmed;
    r->totals.nacked += c.nacked;
    r->totals.received += c.received;
    r->totals.blocked += c.blocked;
    traffic_results(run->traffic, &r->latency, &r->confirm, &r->lag, &r->faults);
    traffic_free(run->traffic);
    run->traffic = NULL;
}

static int run_usual(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    run->consuming = o->consumers > 0;
    int error = traffic_new(&run->traffic, o, &run->check, o->producers, o->consumers, o->messages,
                            failure);
    if (error == 0)
        error = measure(run, failure);
    if (error == 0)
        error = drain(run, failure);
    if (error == 0)
        error = traffic_check(run->traffic, failure);
    if (error == 0)
        add_results(run);
    return error;
}

/* ---- the backlog ---- */

/* Publishes that were not confirmed may still be on their way: until the queues have them. */
static int await_queued(struct run *run, uint64_t expected, struct failure *failure)
{
    uint64_t last = 0;
    uint64_t moved_ns = clock_ns();
    for (;;) {
        uint64_t ready;
        int error = count_ready(run, &ready, failure);
        if (error < 0 || ready >= expected)
            return error;
        if (ready != last) {
            last = ready;
            moved_ns = clock_ns();
        }
        if (clock_ns() - moved_ns > run->options->drain_timeout_ms * 1000000u)
            return fail(failure, E_TIMEOUT, "the queues hold %llu of %llu messages",
                        (unsigned long long)ready, (unsigned long long)expected);
        if (wait_until(run, clock_ns() + QUEUE_ASK_NS))
            return 0;
    }
}

static int fill_backlog(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    struct moment begin, end;
    int error = traffic_new(&run->traffic, o, &run->check, o->producers, 0, o->backlog, failure);
    if (error == 0)
        error = take_moment(run, &begin, false, failure);
    if (error < 0)
        return error;
    traffic_set_phase(run->traffic, TRAFFIC_MEASURE);
    course_begin(run);
    error = traffic_start(run->traffic, failure);
    if (error == 0)
        error = await_all(run, o->backlog, "fill", failure);
    if (error == 0)
        error = await_queued(run, o->backlog * deliveries_per_message(o), failure);
    if (error == 0)
        error = take_moment(run, &end, true, failure);
    if (error < 0)
        return error;
    run->result->measured = between(&begin, &end);
    run->result->usage_measured = end.usage;
    add_results(run);
    return 0;
}

static int drain_backlog(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    struct moment begin, end;
    uint64_t expected = o->backlog * deliveries_per_message(o);
    int error = traffic_new(&run->traffic, o, &run->check, 0, o->consumers, 0, failure);
    if (error == 0)
        error = take_moment(run, &begin, false, failure);
    if (error == 0)
        error = traffic_start(run->traffic, failure);
    uint64_t last = 0;
    uint64_t moved_ns = clock_ns();
    while (error == 0 && !run->result->interrupted) {
        uint64_t received = traffic_counts(run->traffic).received;
        if (received != last)
            moved_ns = clock_ns();
        last = received;
        if (received >= expected || clock_ns() - moved_ns > o->drain_timeout_ms * 1000000u)
            break;
        wait_until(run, clock_ns() + POLL_NS);
        error = traffic_check(run->traffic, failure);
        if (error == 0)
            error = course_continue(run, "drain", failure);
    }
    if (error == 0)
        error = take_moment(run, &end, false, failure);
    if (error < 0)
        return error;
    run->result->drain = between(&begin, &end);
    add_results(run);
    return 0;
}

static int run_backlog(struct run *run, struct failure *failure)
{
    int error = fill_backlog(run, failure);
    if (error == 0 && !run->result->interrupted)
        error = drain_backlog(run, failure);
    return error;
}

/* ---- all of it ---- */

static int watch_signals(struct run *run, struct failure *failure)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    /* inherited by the load threads */
    if (pthread_sigmask(SIG_BLOCK, &stop, NULL) != 0)
        return fail(failure, E_IO, "cannot block signals");
    run->signals = signalfd(-1, &stop, SFD_CLOEXEC);
    return run->signals < 0 ? fail(failure, E_IO, "signalfd: %s", strerror(errno)) : 0;
}

static int sample(const struct options *o, struct usage *usage, struct failure *failure)
{
    return o->broker_pid ? sampler_read(usage, o->broker_pid, true, failure) : 0;
}

static int run_connected(struct run *run, struct failure *failure)
{
    const struct options *o = run->options;
    int error = declare(run, failure);
    if (error == 0)
        error = sample(o, &run->result->usage_before, failure);
    if (error == 0)
        error = open_idle(run, failure);
    if (error == 0 && o->producers > 0)
        error = o->backlog ? run_backlog(run, failure) : run_usual(run, failure);
    course_end(run);
    if (error == 0)
        error = sample(o, &run->result->usage_after, failure);
    if (error == 0)
        run->result->check = check_finish(&run->check);
    if (error == 0 && !o->keep)
        error = clean_up(run, failure);
    return error;
}

int run_execute(const struct options *o, struct run_result *result, struct failure *failure)
{
    struct run run = {.options = o,
                      .result = result,
                      .signals = -1,
                      .admin = {.fd = -1},
                      .terminal = !o->quiet && isatty(STDERR_FILENO)};
    *result = (struct run_result){0};
    histogram_reset(&result->latency);
    histogram_reset(&result->confirm);
    histogram_reset(&result->lag);
    uint8_t number = (uint8_t)((clock_ns() >> 10) ^ (uint64_t)getpid());
    check_init(&run.check, o->producers, o->queues, o->fanout, number);
    int error = watch_signals(&run, failure);
    if (error == 0)
        error =
            raise_descriptor_limit(o->idle_connections + o->producers + o->consumers + 64, failure);
    if (error == 0)
        error = client_open(&run.admin, &o->uri, failure);
    if (error == 0)
        error = run_connected(&run, failure);
    if (run.traffic)
        traffic_free(run.traffic);
    for (uint32_t i = 0; i < run.idle_count; i++)
        client_close(&run.idle[i], false);
    free(run.idle);
    client_close(&run.admin, true);
    if (run.signals >= 0)
        close(run.signals);
    check_fini(&run.check);
    return error;
}

void run_result_fini(struct run_result *result)
{
    free(result->course);
    result->course = NULL;
}

bool run_was_checked(const struct options *o, const struct run_result *r)
{
    return o->producers > 0 && o->consumers > 0 && !r->interrupted;
}

bool run_is_well(const struct options *o, const struct run_result *r)
{
    if (!run_was_checked(o, r))
        return true;
    return r->check.lost == 0 && r->faults.duplicated == 0 && r->faults.reordered == 0 &&
           r->faults.foreign == 0;
}

double run_generator_share(const struct options *o, const struct interval *i)
{
    double largest = 0;
    for (uint32_t t = 0; t < o->threads && i->seconds > 0; t++) {
        if (i->thread_s[t] / i->seconds > largest)
            largest = i->thread_s[t] / i->seconds;
    }
    return largest;
}
