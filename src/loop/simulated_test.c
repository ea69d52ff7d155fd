#include "loop/simulated.h"

#include "base/assert.h"
#include "base/checksum.h"
#include "loop/loop_private.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>

/* ---- timers ---- */

struct counting_timer {
    struct timer timer;
    uint64_t fired_ns;
    unsigned fired;
    uint64_t again_ns;
};

static void count_fire(struct timer *timer)
{
    struct counting_timer *counting = CONTAINER_OF(timer, struct counting_timer, timer);

    counting->fired++;
    counting->fired_ns = loop_now_ns(timer->loop);
    if (counting->again_ns)
        timer_set(timer, counting->again_ns);
}

static void timers_fire_in_order_of_time(void **state)
{
    struct loop *loop = loop_new_simulated(1);
    struct counting_timer timers[500];
    uint64_t start = loop_now_ns(loop);

    (void)state;
    simulated_options(loop)->jump_ppm = 0;
    for (size_t i = 0; i < 500; i++) {
        timers[i] = (struct counting_timer){.fired = 0};
        timer_init(&timers[i].timer, loop, count_fire);
        timer_set(&timers[i].timer, start + 1 + loop_random(loop) % 10000);
        loop_check(loop);
    }
    for (size_t i = 0; i < 500; i += 3) {
        timer_stop(&timers[i].timer);
        timer_stop(&timers[i].timer);
        assert_false(timer_is_set(&timers[i].timer));
        loop_check(loop);
    }
    for (size_t i = 1; i < 500; i += 3) {
        timer_set(&timers[i].timer, start + 20000 - i);
        loop_check(loop);
    }
    assert_true(simulated_run_idle(loop, 10000));
    for (size_t i = 0; i < 500; i++) {
        assert_int_equal(timers[i].fired, i % 3 ? 1 : 0);
        if (i % 3)
            assert_int_equal(timers[i].fired_ns, timers[i].timer.at_ns);
    }
    assert_int_equal(loop_now_ns(loop), start + 19999);
    loop_free(loop);
}

static void a_timer_in_the_past_fires_once_a_turn(void **state)
{
    struct loop *loop = loop_new_simulated(1);
    struct counting_timer counting = {.again_ns = 1};

    (void)state;
    timer_init(&counting.timer, loop, count_fire);
    timer_set(&counting.timer, 0);
    assert_true(simulated_run_turns(loop, 7));
    assert_int_equal(counting.fired, 7);
    loop_free(loop);
}

/* ---- tasks ---- */

struct noting_task {
    struct task task;
    struct loop *loop;
    char **notes;
    char note;
    struct noting_task *next; /* deferred by this one's run */
    enum loop_phase next_phase;
};

static void note_run(struct task *task)
{
    struct noting_task *noting = CONTAINER_OF(task, struct noting_task, task);

    *(*noting->notes)++ = noting->note;
    if (noting->next)
        loop_defer(noting->loop, &noting->next->task, noting->next_phase);
}

static void tasks_run_in_phases(void **state)
{
    struct loop *loop = loop_new_simulated(1);
    char text[32] = "";
    char *notes = text;
    struct noting_task tasks[4];

    (void)state;
    for (int i = 0; i < 4; i++) {
        tasks[i] = (struct noting_task){.loop = loop, .notes = &notes, .note = (char)('a' + i)};
        task_init(&tasks[i].task, note_run);
    }
    loop_defer(loop, &tasks[3].task, LOOP_BULK);
    loop_defer(loop, &tasks[2].task, LOOP_FLUSH);
    loop_defer(loop, &tasks[1].task, LOOP_COMMIT);
    loop_defer(loop, &tasks[0].task, LOOP_DISPATCH);
    loop_defer(loop, &tasks[0].task, LOOP_FLUSH); /* waits already */
    simulated_run_turns(loop, 1);
    assert_string_equal(text, "abcd");

    tasks[0].next = &tasks[1]; /* a later phase of the same turn */
    tasks[0].next_phase = LOOP_COMMIT;
    tasks[1].next = &tasks[0]; /* an earlier phase: the next turn */
    tasks[1].next_phase = LOOP_DISPATCH;
    loop_defer(loop, &tasks[0].task, LOOP_DISPATCH);
    simulated_run_turns(loop, 1);
    assert_string_equal(text, "abcdab");
    simulated_run_turns(loop, 1);
    assert_string_equal(text, "abcdabab");
    task_cancel(&tasks[0].task);
    assert_true(simulated_run_idle(loop, 1));
    assert_string_equal(text, "abcdabab");

    tasks[2].next = &tasks[2]; /* itself: once a turn */
    tasks[2].next_phase = LOOP_FLUSH;
    loop_defer(loop, &tasks[2].task, LOOP_FLUSH);
    simulated_run_turns(loop, 3);
    assert_string_equal(text, "abcdababccc");
    loop_free(loop);
}

/* ---- jobs and posts ---- */

struct noting_job {
    struct job job;
    int worked, done;
};

#define MANY 1000

struct crowd {
    struct task task;
    struct timer timer;
    unsigned *count; /* how many before it */
    unsigned fired_as, ran_as;
};

static void crowd_fire(struct timer *timer)
{
    struct crowd *c = CONTAINER_OF(timer, struct crowd, timer);

    assert_int_equal(c->fired_as, 0);
    c->fired_as = ++*c->count;
}

static void crowd_run(struct task *task)
{
    struct crowd *c = CONTAINER_OF(task, struct crowd, task);

    assert_int_equal(c->ran_as, 0);
    c->ran_as = ++*c->count;
}

/* Each look at the clock takes time here, up to a whole slice. */
static void many_timers_and_tasks_take_many_turns(void **state)
{
    static struct crowd crowd[MANY];
    struct loop *loop = loop_new_simulated(5);
    uint64_t at_ns = loop_now_ns(loop) + NANOSECONDS_PER_MS;
    unsigned fired = 0, ran = 0;

    (void)state;
    simulated_options(loop)->jump_ppm = 1000000;
    for (unsigned i = 0; i < MANY; i++) {
        timer_init(&crowd[i].timer, loop, crowd_fire);
        timer_set(&crowd[i].timer, at_ns);
        crowd[i].count = &fired;
    }
    assert_true(simulated_run_turns(loop, 10));
    assert_in_range(fired, 1, 100);
    assert_true(simulated_run_idle(loop, 10 * MANY));
    assert_int_equal(fired, MANY);
    for (unsigned i = 0; i < MANY; i++) {
        task_init(&crowd[i].task, crowd_run);
        loop_defer(loop, &crowd[i].task, LOOP_DISPATCH);
        crowd[i].count = &ran;
    }
    assert_true(simulated_run_turns(loop, 10));
    assert_in_range(ran, 10, 100);
    assert_true(simulated_run_idle(loop, 10 * MANY));
    for (unsigned i = 0; i < MANY; i++)
        assert_int_equal(crowd[i].ran_as, i + 1); /* who had to wait came first */
    loop_free(loop);
}

static void job_work(struct job *job)
{
    CONTAINER_OF(job, struct noting_job, job)->worked++;
}

static void job_done(struct job *job)
{
    struct noting_job *noting = CONTAINER_OF(job, struct noting_job, job);

    assert_int_equal(noting->worked, 1);
    noting->done++;
}

static void jobs_are_limited_and_complete(void **state)
{
    static struct noting_job jobs[LOOP_JOBS_MAX + 1];
    struct loop *loop = loop_new_simulated(5);

    (void)state;
    for (size_t i = 0; i <= LOOP_JOBS_MAX; i++) {
        jobs[i] = (struct noting_job){.job = {.work = job_work, .done = job_done}};
        assert_int_equal(loop_help(loop, &jobs[i].job), i < LOOP_JOBS_MAX ? 0 : E_LIMIT);
        assert_int_equal(jobs[i].worked, 0);
    }
    assert_true(simulated_run_idle(loop, 10000));
    for (size_t i = 0; i < LOOP_JOBS_MAX; i++)
        assert_int_equal(jobs[i].done, 1);
    assert_int_equal(jobs[LOOP_JOBS_MAX].worked, 0);
    loop_free(loop);
}

struct noting_post {
    struct post post;
    int *next;
    int ran_as;
};

static void post_run(struct post *post)
{
    struct noting_post *noting = CONTAINER_OF(post, struct noting_post, post);
    noting->ran_as = (*noting->next)++;
}

static void posts_run_in_order(void **state)
{
    struct loop *loop = loop_new_simulated(5);
    int next = 1;
    struct noting_post posts[10];

    (void)state;
    for (int i = 0; i < 10; i++) {
        posts[i] = (struct noting_post){.post = {.run = post_run}, .next = &next};
        loop_post(loop, &posts[i].post);
        assert_int_equal(posts[i].ran_as, 0);
    }
    assert_true(simulated_run_idle(loop, 10000));
    for (int i = 0; i < 10; i++)
        assert_int_equal(posts[i].ran_as, i + 1);
    loop_free(loop);
}

/* ---- pipes: one end sends a stream of known bytes, the other checks them ---- */

struct talker {
    struct stream *stream;
    uint64_t sent, received, to_send;
    bool ended, broken;
    uint32_t history; /* of everything that happened, with its time */
};

static void talker_note(struct talker *t, int64_t what)
{
    uint64_t entry[2] = {(uint64_t)what, 0};
    t->history = checksum_add(t->history, slice_of(entry, sizeof entry));
}

static void talker_ready(void *context, unsigned events)
{
    struct talker *t = context;
    uint8_t bytes[3000];

    talker_note(t, events);
    if (events & STREAM_READABLE) {
        ssize_t size = stream_read(t->stream, bytes, sizeof bytes);
        talker_note(t, size);
        for (ssize_t i = 0; i < size; i++)
            assert_int_equal(bytes[i], (uint8_t)((t->received + (uint64_t)i) * 7 >> 3));
        if (size > 0)
            t->received += (uint64_t)size;
        t->ended = size == 0;
        t->broken |= size == E_CLOSED;
    }
    if (events & STREAM_WRITABLE && t->sent < t->to_send) {
        size_t size = t->to_send - t->sent < sizeof bytes ? t->to_send - t->sent : sizeof bytes;
        for (size_t i = 0; i < size; i++)
            bytes[i] = (uint8_t)((t->sent + i) * 7 >> 3);
        struct iovec slices[2] = {{bytes, size / 3}, {bytes + size / 3, size - size / 3}};
        ssize_t written = stream_write(t->stream, slices, 2);
        talker_note(t, written);
        if (written > 0)
            t->sent += (uint64_t)written;
        t->broken |= written == E_CLOSED;
        if (t->sent == t->to_send)
            stream_shutdown(t->stream);
    }
    stream_want(t->stream, t->broken ? 0
                                     : (t->ended ? 0u : STREAM_READABLE) |
                                           (t->sent < t->to_send ? STREAM_WRITABLE : 0u));
}

struct acceptor {
    struct talker *talker;
    int failures;
};

static void acceptor_accepted(void *context, struct stream *stream, int error)
{
    struct acceptor *acceptor = context;

    if (!stream) {
        assert_int_equal(error, E_LIMIT);
        acceptor->failures++;
        return;
    }
    acceptor->talker->stream = stream;
    stream_start(stream, talker_ready, acceptor->talker);
    stream_want(stream, STREAM_READABLE | STREAM_WRITABLE);
}

struct conversation {
    struct loop *loop;
    struct listener *listener;
    struct talker client, server;
    struct acceptor acceptor;
};

static void conversation_start(struct conversation *c, uint64_t seed, uint64_t bytes)
{
    struct listen_options options = {.port = 5672};
    struct failure failure;

    *c = (struct conversation){.loop = loop_new_simulated(seed)};
    c->client.to_send = bytes;
    c->server.to_send = bytes / 2;
    c->acceptor.talker = &c->server;
    assert_int_equal(
        loop_listen(c->loop, &options, acceptor_accepted, &c->acceptor, &c->listener, &failure), 0);
    assert_int_equal(simulated_connect(c->loop, 5672, &c->client.stream), 0);
    stream_start(c->client.stream, talker_ready, &c->client);
    stream_want(c->client.stream, STREAM_READABLE | STREAM_WRITABLE);
}

static void bytes_arrive_and_the_end_after_them(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct conversation c;
        conversation_start(&c, seed, 300000);
        assert_true(simulated_run_idle(c.loop, 100000));
        assert_int_equal(c.server.received, 300000);
        assert_int_equal(c.client.received, 150000);
        assert_true(c.server.ended && c.client.ended);
        stream_close(c.client.stream);
        stream_close(c.server.stream);
        listener_close(c.listener);
        loop_free(c.loop);
    }
}

static uint32_t history_of(uint64_t seed, uint32_t reset_ppm)
{
    struct conversation c;

    conversation_start(&c, seed, 100000);
    simulated_options(c.loop)->reset_ppm = reset_ppm;
    simulated_run_idle(c.loop, 100000);
    uint64_t end[2] = {loop_now_ns(c.loop), loop_random(c.loop)};
    uint32_t history = checksum_add(c.client.history, slice_of(end, sizeof end));
    if (reset_ppm == 1000000)
        assert_true(c.client.broken && c.server.broken);
    loop_free(c.loop); /* drops what is open */
    return history ^ c.server.history;
}

static void a_seed_repeats_and_seeds_differ(void **state)
{
    (void)state;
    for (uint64_t seed = 0; seed < 10; seed++) {
        assert_int_equal(history_of(seed, 5000), history_of(seed, 5000));
        assert_int_not_equal(history_of(seed, 0), history_of(seed + 1, 0));
    }
    history_of(1, 1000000);
}

static void a_full_pipe_stops_its_writer(void **state)
{
    struct conversation c;
    uint8_t bytes[4096] = {0};
    struct iovec slice = {bytes, sizeof bytes};
    ssize_t size;
    size_t total = 0;

    (void)state;
    conversation_start(&c, 3, 0);
    while ((size = stream_write(c.client.stream, &slice, 1)) > 0)
        total += (size_t)size;
    assert_int_equal(size, E_AGAIN);
    assert_int_equal(total, 65536);
    simulated_reset(c.client.stream);
    assert_int_equal(stream_write(c.client.stream, &slice, 1), E_CLOSED);
    assert_int_equal(stream_read(c.client.stream, bytes, 1), E_CLOSED);
    loop_free(c.loop);
}

static void listening_fails_and_refuses(void **state)
{
    struct conversation c;
    struct listen_options options = {.port = 5672};
    struct listener *second;
    struct stream *stream;
    struct failure failure;

    (void)state;
    conversation_start(&c, 3, 10);
    assert_int_equal(loop_listen(c.loop, &options, acceptor_accepted, NULL, &second, &failure),
                     E_HELD);
    assert_string_equal(failure.text, "port 5672 is taken");
    options.port = 0;
    assert_int_equal(loop_listen(c.loop, &options, acceptor_accepted, NULL, &second, &failure), 0);
    assert_int_not_equal(listener_port(second), 0);
    assert_int_equal(simulated_connect(c.loop, listener_port(second), &stream), 0);
    listener_close(second); /* who waits is closed */
    uint8_t byte;
    assert_int_equal(stream_read(stream, &byte, 1), 0);
    stream_close(stream);
    assert_int_equal(simulated_connect(c.loop, 1, &stream), E_CLOSED);
    loop_free(c.loop);
}

static void no_descriptors_pauses_accepting(void **state)
{
    struct conversation c;

    (void)state;
    conversation_start(&c, 3, 10);
    simulated_options(c.loop)->accept_failures = 25; /* 2.5 s */
    assert_true(simulated_run_idle(c.loop, 10000));
    assert_int_equal(c.acceptor.failures, 3);
    assert_int_equal(c.server.received, 10);
    loop_free(c.loop);
}

static void addresses_tell_loopback(void **state)
{
    struct conversation c;
    struct stream *stream;
    struct stream_address address;

    (void)state;
    conversation_start(&c, 3, 10);
    stream_peer(c.client.stream, &address);
    assert_int_equal(address.port, 5672);
    assert_true(address.is_loopback);
    assert_int_equal(simulated_connect_from(c.loop, "10.1.2.3", 5672, &stream), 0);
    stream_local(stream, &address);
    assert_string_equal(address.text, "10.1.2.3");
    assert_false(address.is_loopback);
    loop_free(c.loop);
}

static void time_stands_still_and_jumps(void **state)
{
    struct loop *loop = loop_new_simulated(9);
    uint64_t start = loop_now_ns(loop);
    uint64_t wall_ms = loop_wall_ms(loop);

    (void)state;
    simulated_options(loop)->jump_ppm = 0;
    assert_int_equal(loop_precise_ns(loop), start);
    simulated_options(loop)->jump_ppm = 1000000;
    uint64_t ahead = loop_precise_ns(loop);
    assert_true(ahead > start && ahead <= start + TURN_SLICE_NS);
    assert_true(simulated_run_for(loop, 5000 * NANOSECONDS_PER_MS));
    assert_int_equal(loop_wall_ms(loop), wall_ms + 5000);
    simulated_wall_jump(loop, -3600000);
    simulated_run_for(loop, 1000000);
    assert_int_equal(loop_wall_ms(loop), wall_ms + 5001 - 3600000);
    loop_free(loop);
}

/* ---- loops beside each other ---- */

#define WORKERS 3

/* Works in each turn for a while, and posts to the next one. */
struct busy {
    struct loop *loop;
    struct task task;
    struct post post;
    struct busy *next;
    struct checksum_of_turns *turns;
    unsigned index, runs, posts;
    bool is_posted;
};

struct checksum_of_turns {
    uint32_t sum;
    uint64_t latest_ns;
    unsigned changes, last;
};

static void note_turn(struct busy *busy)
{
    uint64_t now_ns = loop_now_ns(busy->loop);
    uint64_t word = now_ns << 4 | busy->index;

    assert_true(now_ns >= busy->turns->latest_ns); /* one time for all */
    busy->turns->latest_ns = now_ns;
    busy->turns->changes += busy->turns->last != busy->index;
    busy->turns->last = busy->index;
    busy->turns->sum = checksum_add(busy->turns->sum, slice_of(&word, sizeof word));
}

static void busy_run(struct task *task)
{
    struct busy *busy = CONTAINER_OF(task, struct busy, task);

    note_turn(busy);
    if (!busy->next->is_posted) {
        busy->next->is_posted = true;
        loop_post(busy->next->loop, &busy->next->post);
    }
    if (++busy->runs < 1000)
        loop_defer(busy->loop, task, LOOP_COMMIT);
}

static void busy_posted(struct post *post)
{
    struct busy *busy = CONTAINER_OF(post, struct busy, post);

    note_turn(busy);
    busy->is_posted = false;
    busy->posts++;
}

static void busy_open(struct busy *busy, struct checksum_of_turns *turns, uint64_t seed)
{
    for (unsigned i = 0; i < WORKERS; i++) {
        busy[i] = (struct busy){.index = i,
                                .turns = turns,
                                .next = &busy[(i + 1) % WORKERS],
                                .post = {.run = busy_posted}};
        busy[i].loop = i == 0 ? loop_new_simulated(seed) : loop_new_simulated_beside(busy[0].loop);
        task_init(&busy[i].task, busy_run);
        loop_defer(busy[i].loop, &busy[i].task, LOOP_COMMIT);
    }
}

static uint32_t run_busy(uint64_t seed, unsigned *changes)
{
    struct busy busy[WORKERS];
    struct checksum_of_turns turns = {0};

    busy_open(busy, &turns, seed);
    assert_true(simulated_run_turns(busy[1].loop, 500));
    assert_false(simulated_run_idle(busy[2].loop, 10));
    assert_true(simulated_run_idle(busy[2].loop, 10000));
    for (unsigned i = 0; i < WORKERS; i++) {
        assert_int_equal(busy[i].runs, 1000);
        assert_true(busy[i].posts > 100);
    }
    for (unsigned i = 0; i < WORKERS; i++)
        loop_free(busy[(i + seed) % WORKERS].loop);
    *changes = turns.changes;
    return turns.sum;
}

static void turns_of_loops_fall_in_between_each_other(void **state)
{
    unsigned changes;
    uint32_t sum = run_busy(1, &changes);

    (void)state;
    assert_true(changes > 1000 && changes < 2900); /* neither one after the other nor in step */
    assert_int_equal(run_busy(1, &changes), sum);
    assert_int_not_equal(run_busy(2, &changes), sum);
    run_busy(3, &changes);
}

static void a_loop_may_stand_still(void **state)
{
    struct busy busy[WORKERS];
    struct checksum_of_turns turns = {0};

    (void)state;
    busy_open(busy, &turns, 5);
    uint64_t start_ns = loop_now_ns(busy[0].loop);
    struct counting_timer counting = {.fired = 0};
    timer_init(&counting.timer, busy[1].loop, count_fire);
    timer_set(&counting.timer, start_ns + NANOSECONDS_PER_MS);
    simulated_pause(busy[1].loop, 5 * NANOSECONDS_PER_MS);
    assert_true(simulated_run_until(busy[0].loop, start_ns + 4 * NANOSECONDS_PER_MS));
    assert_true(busy[0].runs > 100 && busy[2].runs > 100);
    assert_int_equal(busy[1].runs + busy[1].posts + counting.fired, 0);
    assert_int_equal(loop_now_ns(busy[1].loop), start_ns);
    assert_true(simulated_run_for(busy[0].loop, 2 * NANOSECONDS_PER_MS));
    assert_int_equal(counting.fired_ns, start_ns + 5 * NANOSECONDS_PER_MS);
    assert_true(busy[1].runs > 10 && busy[1].posts > 0);

    uint64_t runs = busy[1].runs;
    simulated_options(busy[1].loop)->pause_ppm = 1000000; /* after every turn */
    assert_true(simulated_run_for(busy[0].loop, 10 * NANOSECONDS_PER_MS));
    assert_true(busy[1].runs - runs <= 5);
    assert_true(busy[0].runs > 300);
    for (unsigned i = 0; i < WORKERS; i++)
        loop_free(busy[i].loop); /* with posts and tasks outstanding */
}

static void stop_fire(struct timer *timer)
{
    loop_stop(timer->loop);
}

static void one_stop_stops_all(void **state)
{
    struct busy busy[WORKERS];
    struct checksum_of_turns turns = {0};
    struct timer stopping;

    (void)state;
    busy_open(busy, &turns, 5);
    timer_init(&stopping, busy[2].loop, stop_fire);
    timer_set(&stopping, loop_now_ns(busy[2].loop) + NANOSECONDS_PER_MS);
    assert_false(simulated_run_idle(busy[0].loop, 10000));
    assert_true(busy[0].runs < 1000);
    assert_true(simulated_run_idle(busy[0].loop, 10000));
    for (unsigned i = 0; i < WORKERS; i++)
        loop_free(busy[i].loop);
}

struct keeper {
    struct stream *streams[64];
    unsigned count;
};

static void keep_stream(void *context, struct stream *stream, int error)
{
    struct keeper *keeper = context;

    assert_int_equal(error, 0);
    keeper->streams[keeper->count++] = stream;
}

static void loops_share_ports_and_connections(void **state)
{
    struct loop *client = loop_new_simulated(11);
    struct loop *servers[2] = {loop_new_simulated_beside(client),
                               loop_new_simulated_beside(client)};
    struct listen_options options = {.port = 5672};
    struct keeper keepers[2] = {0};
    struct listener *listeners[2];
    struct stream *clients[64];
    struct failure failure;

    (void)state;
    assert_int_equal(
        loop_listen(servers[0], &options, keep_stream, &keepers[0], &listeners[0], &failure), 0);
    options.share_port = true; /* the other does not */
    assert_int_equal(
        loop_listen(servers[1], &options, keep_stream, &keepers[1], &listeners[1], &failure),
        E_HELD);
    listener_close(listeners[0]);
    for (int i = 0; i < 2; i++)
        assert_int_equal(
            loop_listen(servers[i], &options, keep_stream, &keepers[i], &listeners[i], &failure),
            0);
    for (int i = 0; i < 64; i++)
        assert_int_equal(simulated_connect(client, 5672, &clients[i]), 0);
    assert_true(simulated_run_idle(client, 10000));
    assert_int_equal(keepers[0].count + keepers[1].count, 64);
    assert_true(keepers[0].count > 16 && keepers[1].count > 16);

    char byte = 'x';
    assert_int_equal(stream_write(keepers[0].streams[0], &(struct iovec){&byte, 1}, 1), 1);
    for (int i = 0; i < 8; i++)
        assert_int_equal(simulated_connect(client, 5672, &clients[i]), 0); /* not accepted yet */
    loop_free(servers[0]); /* it dies; the other serves */
    assert_int_equal(simulated_connect(client, 5672, &clients[0]), 0);
    assert_true(simulated_run_idle(client, 10000));
    assert_int_equal(stream_write(keepers[1].streams[0], &(struct iovec){&byte, 1}, 1), 1);
    unsigned reset = 0;
    for (int i = 8; i < 64; i++) {
        ssize_t result = stream_read(clients[i], &byte, 1);
        assert_true(result == E_CLOSED || result == E_AGAIN || result == 1);
        reset += result == E_CLOSED;
        stream_close(clients[i]);
    }
    assert_true(reset > 8);
    loop_free(client);
    assert_int_equal(stream_read(keepers[1].streams[0], &byte, 1), E_CLOSED);
    assert_true(simulated_run_idle(servers[1], 1000));
    loop_free(servers[1]);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(timers_fire_in_order_of_time),
        cmocka_unit_test(a_timer_in_the_past_fires_once_a_turn),
        cmocka_unit_test(tasks_run_in_phases),
        cmocka_unit_test(many_timers_and_tasks_take_many_turns),
        cmocka_unit_test(jobs_are_limited_and_complete),
        cmocka_unit_test(posts_run_in_order),
        cmocka_unit_test(bytes_arrive_and_the_end_after_them),
        cmocka_unit_test(a_seed_repeats_and_seeds_differ),
        cmocka_unit_test(a_full_pipe_stops_its_writer),
        cmocka_unit_test(listening_fails_and_refuses),
        cmocka_unit_test(no_descriptors_pauses_accepting),
        cmocka_unit_test(addresses_tell_loopback),
        cmocka_unit_test(time_stands_still_and_jumps),
        cmocka_unit_test(turns_of_loops_fall_in_between_each_other),
        cmocka_unit_test(a_loop_may_stand_still),
        cmocka_unit_test(one_stop_stops_all),
        cmocka_unit_test(loops_share_ports_and_connections),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
