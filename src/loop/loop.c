/* The part that both loops share: timers, tasks in phases, statistics; the rest is handed to the
 * implementation's table. */
#include "loop/loop_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

void loop_init(struct loop *loop, const struct loop_functions *functions)
{
    loop->functions = functions;
    for (int phase = 0; phase < LOOP_PHASES; phase++)
        list_init(&loop->tasks[phase]);
    list_init(&loop->owned);
}

void loop_fini(struct loop *loop)
{
    struct list *link;

    while ((link = list_take_first(&loop->owned)) != NULL) {
        struct loop_owned *owned = CONTAINER_OF(link, struct loop_owned, link);
        owned->release(owned);
    }
    free(loop->timers);
}

void loop_own(struct loop *loop, struct loop_owned *owned)
{
    list_append(&loop->owned, &owned->link);
}

void loop_free(struct loop *loop)
{
    loop->functions->free(loop);
}

uint64_t loop_now_ns(const struct loop *loop)
{
    return loop->now_ns;
}

uint64_t loop_precise_ns(struct loop *loop)
{
    return loop->functions->precise_ns(loop);
}

uint64_t loop_wall_ms(const struct loop *loop)
{
    return loop->wall_ms;
}

uint64_t loop_random(struct loop *loop)
{
    uint64_t value;

    loop->functions->random_bytes(loop, &value, sizeof value);
    return value;
}

void loop_random_bytes(struct loop *loop, void *memory, size_t size)
{
    loop->functions->random_bytes(loop, memory, size);
}

const struct loop_statistics *loop_statistics(const struct loop *loop)
{
    return &loop->statistics;
}

void loop_run(struct loop *loop)
{
    loop->stopping = false;
    loop->functions->run(loop);
}

void loop_stop(struct loop *loop)
{
    loop->stopping = true;
    loop->functions->wake(loop);
}

uint64_t loop_longest_turn_ns(struct loop *loop)
{
    uint64_t longest_ns = loop->longest_turn_ns;

    loop->longest_turn_ns = 0;
    return longest_ns;
}

/* ---- turns ---- */

void loop_turn_begin(struct loop *loop, uint64_t now_ns, uint64_t wall_ms)
{
    ASSERT(now_ns > 0 && now_ns >= loop->now_ns);
    loop->now_ns = now_ns;
    loop->wall_ms = wall_ms;
    loop->turn_began_ns = now_ns;
#ifdef SLUICE_TURN_TRACE
    turn_trace_begin(loop);
#endif
}

static bool timer_is_due(const struct loop *loop)
{
    return loop->timers_count > 0 && loop->timers[0]->at_ns <= loop->now_ns;
}

/* Many connections may have the same deadline: what a slice has no time for fires in the next turn,
 * which does not sleep then. */
static void fire_timers(struct loop *loop)
{
    if (!timer_is_due(loop))
        return;
    uint64_t began_ns = loop->functions->precise_ns(loop);
    while (timer_is_due(loop)) { /* one set meanwhile is later than now, so this ends */
        struct timer *timer = loop->timers[0];
        timer_stop(timer);
        TURN_TRACED(loop, timer->fire, timer);
        if (timer_is_due(loop) && loop->functions->precise_ns(loop) - began_ns >= TURN_SLICE_NS)
            break;
    }
}

static void run_phase(struct loop *loop, enum loop_phase phase)
{
    struct list running;
    struct list *link;

    list_init(&running);
    list_move_all(&running, &loop->tasks[phase]);
    while ((link = list_take_first(&running)) != NULL) {
        struct task *task = CONTAINER_OF(link, struct task, link);
        TURN_TRACED(loop, task->run, task);
    }
}

/* There may be as many of these tasks as there are connections. Those that a slice has no time for
 * come first in the next turn. */
static void run_slice(struct loop *loop, enum loop_phase phase, uint64_t slice_ns)
{
    struct list *tasks = &loop->tasks[phase];
    struct list running;

    if (list_empty(tasks))
        return;
    uint64_t began_ns = loop->functions->precise_ns(loop);
    list_init(&running);
    list_move_all(&running, tasks);
    do {
        struct task *task = CONTAINER_OF(list_take_first(&running), struct task, link);
        TURN_TRACED(loop, task->run, task);
    } while (!list_empty(&running) && loop->functions->precise_ns(loop) - began_ns < slice_ns);
    list_move_all(&running, tasks);
    list_move_all(tasks, &running);
}

void loop_turn_end(struct loop *loop)
{
    struct loop_statistics *statistics = &loop->statistics;

    fire_timers(loop);
    run_slice(loop, LOOP_DISPATCH, TURN_SLICE_NS);
    run_phase(loop, LOOP_COMMIT);
    run_phase(loop, LOOP_FLUSH);
    run_slice(loop, LOOP_BULK, JOB_SLICE_NS);

#ifdef SLUICE_TURN_TRACE
    turn_trace_end(loop);
#endif
    uint64_t spent = loop->functions->precise_ns(loop) - loop->turn_began_ns;
    statistics->turns++;
    statistics->turns_ns += spent;
    if (spent > TURN_LONG_NS)
        statistics->long_turns++;
    if (spent > statistics->longest_turn_ns)
        statistics->longest_turn_ns = spent;
    if (spent > loop->longest_turn_ns)
        loop->longest_turn_ns = spent;
}

/* ---- tasks ---- */

void task_init(struct task *task, void (*run)(struct task *task))
{
    list_init(&task->link);
    task->run = run;
}

void loop_defer(struct loop *loop, struct task *task, enum loop_phase phase)
{
    if (list_linked(&task->link))
        return;
    list_append(&loop->tasks[phase], &task->link);
    loop->functions->wake(loop);
}

void task_cancel(struct task *task)
{
    list_remove(&task->link);
}

bool loop_has_tasks(const struct loop *loop)
{
    for (int phase = 0; phase < LOOP_PHASES; phase++) {
        if (!list_empty(&loop->tasks[phase]))
            return true;
    }
    return false;
}

/* ---- timers: a binary heap ---- */

#define NOT_SET SIZE_MAX

static bool is_before(const struct timer *a, const struct timer *b)
{
    return a->at_ns != b->at_ns ? a->at_ns < b->at_ns : a->order < b->order;
}

static void place(struct loop *loop, struct timer *timer, size_t position)
{
    loop->timers[position] = timer;
    timer->position = position;
}

static void sift_up(struct loop *loop, struct timer *timer, size_t position)
{
    while (position > 0) {
        size_t parent = (position - 1) / 2;
        if (!is_before(timer, loop->timers[parent]))
            break;
        place(loop, loop->timers[parent], position);
        position = parent;
    }
    place(loop, timer, position);
}

static void sift_down(struct loop *loop, struct timer *timer, size_t position)
{
    for (;;) {
        size_t child = 2 * position + 1;
        if (child >= loop->timers_count)
            break;
        if (child + 1 < loop->timers_count &&
            is_before(loop->timers[child + 1], loop->timers[child]))
            child++;
        if (!is_before(loop->timers[child], timer))
            break;
        place(loop, loop->timers[child], position);
        position = child;
    }
    place(loop, timer, position);
}

/* Puts the timer where it belongs, starting at a position that is free or its own. */
static void settle(struct loop *loop, struct timer *timer, size_t position)
{
    if (position > 0 && is_before(timer, loop->timers[(position - 1) / 2]))
        sift_up(loop, timer, position);
    else
        sift_down(loop, timer, position);
}

void timer_init(struct timer *timer, struct loop *loop, void (*fire)(struct timer *timer))
{
    *timer = (struct timer){.loop = loop, .fire = fire, .position = NOT_SET};
}

void timer_set(struct timer *timer, uint64_t at_ns)
{
    struct loop *loop = timer->loop;

    /* so that what is set in the past fires in the next turn, never again in this one */
    timer->at_ns = at_ns > loop->now_ns ? at_ns : loop->now_ns + 1;
    timer->order = loop->functions->timer_order(loop);
    if (timer->position == NOT_SET) {
        if (loop->timers_count == loop->timers_capacity) {
            loop->timers_capacity = loop->timers_capacity ? 2 * loop->timers_capacity : 64;
            loop->timers =
                memory_resize(loop->timers, loop->timers_capacity, sizeof(struct timer *));
        }
        sift_up(loop, timer, loop->timers_count++);
    } else {
        settle(loop, timer, timer->position);
    }
    if (timer->position == 0)
        loop->functions->wake(loop);
}

void timer_stop(struct timer *timer)
{
    struct loop *loop = timer->loop;
    size_t position = timer->position;

    if (position == NOT_SET)
        return;
    ASSERT(position < loop->timers_count && loop->timers[position] == timer);
    timer->position = NOT_SET;
    struct timer *last = loop->timers[--loop->timers_count];
    if (last != timer)
        settle(loop, last, position);
}

uint64_t loop_next_timer_ns(const struct loop *loop)
{
    return loop->timers_count ? loop->timers[0]->at_ns : UINT64_MAX;
}

void loop_check(const struct loop *loop)
{
    for (size_t i = 0; i < loop->timers_count; i++) {
        ASSERT(loop->timers[i]->position == i && loop->timers[i]->loop == loop);
        ASSERT(i == 0 || !is_before(loop->timers[i], loop->timers[(i - 1) / 2]));
    }
}

/* ---- jobs and posts ---- */

int loop_help(struct loop *loop, struct job *job)
{
    if (loop->jobs >= LOOP_JOBS_MAX)
        return E_LIMIT;
    job->loop = loop;
    return loop->functions->help(loop, job);
}

void loop_post(struct loop *loop, struct post *post)
{
    loop->functions->post(loop, post);
}

/* ---- streams and listeners ---- */

int stream_join(struct stream *stream, struct loop *loop)
{
    ASSERT(!stream->ready && stream->loop->functions == loop->functions);
    return loop->functions->join(stream, loop);
}

void stream_start(struct stream *stream, stream_ready *ready, void *context)
{
    stream->ready = ready;
    stream->context = context;
}

void stream_want(struct stream *stream, unsigned events)
{
    ASSERT(stream->ready || events == 0);
    if (events == stream->wanted)
        return;
    stream->wanted = events;
    stream->loop->functions->want(stream, events);
}

ssize_t stream_read(struct stream *stream, void *memory, size_t size)
{
    ASSERT(size > 0); /* or the end of the input could not be told */
    return stream->loop->functions->read(stream, memory, size);
}

ssize_t stream_write(struct stream *stream, const struct iovec *slices, int count)
{
    return stream->loop->functions->write(stream, slices, count);
}

void stream_shutdown(struct stream *stream)
{
    stream->loop->functions->shutdown(stream);
}

void stream_close(struct stream *stream)
{
    stream->loop->functions->close(stream);
}

void stream_peer(const struct stream *stream, struct stream_address *address)
{
    stream->loop->functions->address(stream, true, address);
}

void stream_local(const struct stream *stream, struct stream_address *address)
{
    stream->loop->functions->address(stream, false, address);
}

int loop_listen(struct loop *loop, const struct listen_options *options,
                void (*accepted)(void *context, struct stream *stream, int error), void *context,
                struct listener **listener, struct failure *failure)
{
    return loop->functions->listen(loop, options, accepted, context, listener, failure);
}

uint16_t listener_port(const struct listener *listener)
{
    return listener->port;
}

void listener_close(struct listener *listener)
{
    listener->loop->functions->listener_close(listener);
}
