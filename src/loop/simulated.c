/*
 * Everything that happens later is a timer of the shared heap, with a random `order`, so ties fall
 * as the seed wants: readiness of a pipe's end, a job's run, waiting posts, a listener's accept.
 */
#include "loop/simulated.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/loop_private.h"

#include <stdio.h>
#include <stdlib.h>

#define START_NS      1000000000ull
#define START_WALL_MS 1700000000000ull
#define FIRST_PORT    49152
#define ACCEPT_PAUSE  (100 * NANOSECONDS_PER_MS)
#define REPORT_PAUSE  (1000 * NANOSECONDS_PER_MS)

struct simulated {
    struct loop loop;
    struct simulated_options options;
    uint64_t random[2];
    uint64_t ahead_ns; /* how far loop_precise_ns() has jumped in this turn */
    int64_t wall_offset_ms;
    struct list listeners;
    struct list pairs;      /* with an end that is open */
    struct list pairs_dead; /* closed at both ends; freed between turns */
    struct list jobs;
    struct post *posts, **posts_end;
    struct timer posts_timer;
    uint16_t port_next;
};

struct pair;

/* One end of a pipe. `inbound` is what the other has written and this one not yet read. */
struct end {
    struct stream stream;
    struct pair *pair;
    struct end *other;
    struct timer notice;
    uint8_t *inbound;
    size_t inbound_start, inbound_size;
    bool inbound_ended; /* nothing more will come after the bytes */
    bool is_closed;
    struct stream_address address;
};

struct pair {
    struct list link;         /* in simulated.pairs or pairs_dead */
    struct list link_waiting; /* in listener_simulated.waiting until accepted */
    bool is_reset;
    size_t size;
    struct end ends[2]; /* client, server */
};

struct listener_simulated {
    struct listener listener;
    struct list link;
    struct list waiting;
    struct timer accept;
    uint64_t reported_ns;
};

struct job_simulated {
    struct list link;
    struct timer timer;
    struct job *job;
};

static struct simulated *simulated_of(const struct loop *loop)
{
    return CONTAINER_OF((uintptr_t)loop, struct simulated, loop);
}

static struct end *end_of(const struct stream *stream)
{
    return CONTAINER_OF((uintptr_t)stream, struct end, stream);
}

/* ---- randomness: xoroshiro128+, good enough for tests and repeatable everywhere ---- */

static uint64_t rotate(uint64_t value, int by)
{
    return value << by | value >> (64 - by);
}

static uint64_t next_random(struct simulated *s)
{
    uint64_t a = s->random[0];
    uint64_t b = s->random[1];
    uint64_t result = a + b;

    b ^= a;
    s->random[0] = rotate(a, 24) ^ b ^ b << 16;
    s->random[1] = rotate(b, 37);
    return result;
}

static uint64_t scramble(uint64_t *state)
{
    uint64_t z = *state += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* From 1 to most. */
static uint64_t random_up_to(struct simulated *s, uint64_t most)
{
    return most > 1 ? 1 + next_random(s) % most : 1;
}

static bool happens(struct simulated *s, uint32_t ppm)
{
    return ppm > 0 && next_random(s) % 1000000 < ppm;
}

static void set_later(struct simulated *s, struct timer *timer, uint64_t delay_max_ns)
{
    timer_set(timer, s->loop.now_ns + random_up_to(s, delay_max_ns));
}

static void random_bytes(struct loop *loop, void *memory, size_t size)
{
    uint8_t *at = memory;

    while (size > 0) {
        uint64_t value = next_random(simulated_of(loop));
        size_t part = size < sizeof value ? size : sizeof value;
        memcpy(at, &value, part);
        at += part;
        size -= part;
    }
}

static uint64_t timer_order(struct loop *loop)
{
    return next_random(simulated_of(loop));
}

static unsigned choose(struct loop *loop, unsigned count)
{
    return count > 1 ? (unsigned)(next_random(simulated_of(loop)) % count) : 0;
}

/* ---- time and turns ---- */

static uint64_t precise_ns(struct loop *loop)
{
    struct simulated *s = simulated_of(loop);

    if (happens(s, s->options.jump_ppm))
        s->ahead_ns += random_up_to(s, TURN_SLICE_NS);
    return loop->now_ns + s->ahead_ns;
}

static void wake(struct loop *loop)
{
    (void)loop; /* it looks at everything before each turn */
}

static void free_dead_pairs(struct simulated *s)
{
    struct list *link;

    while ((link = list_take_first(&s->pairs_dead)) != NULL)
        free(CONTAINER_OF(link, struct pair, link));
}

static void turn(struct simulated *s, uint64_t now_ns)
{
    uint64_t earliest = s->loop.now_ns + s->ahead_ns + 1;

    if (now_ns < earliest)
        now_ns = earliest;
    s->ahead_ns = 0;
    int64_t wall_ms = (int64_t)(START_WALL_MS + (now_ns - START_NS) / NANOSECONDS_PER_MS);
    loop_turn_begin(&s->loop, now_ns, (uint64_t)(wall_ms + s->wall_offset_ms));
    loop_turn_end(&s->loop);
    free_dead_pairs(s);
}

/* The time of the next turn, or UINT64_MAX when nothing is left to do. */
static uint64_t next_turn_ns(const struct simulated *s)
{
    return loop_has_tasks(&s->loop) ? s->loop.now_ns + 1 : loop_next_timer_ns(&s->loop);
}

static void run(struct loop *loop)
{
    struct simulated *s = simulated_of(loop);

    while (!loop->stopping && next_turn_ns(s) != UINT64_MAX)
        turn(s, next_turn_ns(s));
}

bool simulated_run_turns(struct loop *loop, uint64_t turns)
{
    struct simulated *s = simulated_of(loop);

    loop->stopping = false;
    while (!loop->stopping && turns-- > 0 && next_turn_ns(s) != UINT64_MAX)
        turn(s, next_turn_ns(s));
    return !loop->stopping;
}

bool simulated_run_until(struct loop *loop, uint64_t at_ns)
{
    struct simulated *s = simulated_of(loop);

    loop->stopping = false;
    while (!loop->stopping && next_turn_ns(s) <= at_ns)
        turn(s, next_turn_ns(s));
    if (!loop->stopping && loop->now_ns < at_ns)
        turn(s, at_ns);
    return !loop->stopping;
}

bool simulated_run_for(struct loop *loop, uint64_t for_ns)
{
    return simulated_run_until(loop, loop->now_ns + for_ns);
}

bool simulated_run_idle(struct loop *loop, uint64_t turns_max)
{
    return simulated_run_turns(loop, turns_max) && next_turn_ns(simulated_of(loop)) == UINT64_MAX;
}

void simulated_wall_jump(struct loop *loop, int64_t by_ms)
{
    simulated_of(loop)->wall_offset_ms += by_ms;
}

/* ---- jobs and posts ---- */

static void job_run(struct timer *timer)
{
    struct job_simulated *waiting = CONTAINER_OF(timer, struct job_simulated, timer);
    struct job *job = waiting->job;

    timer->loop->jobs--;
    list_remove(&waiting->link);
    free(waiting);
    job->work(job);
    job->done(job);
}

static int help(struct loop *loop, struct job *job)
{
    struct simulated *s = simulated_of(loop);
    struct job_simulated *waiting = memory_new(sizeof *waiting);

    waiting->job = job;
    timer_init(&waiting->timer, loop, job_run);
    set_later(s, &waiting->timer, s->options.job_delay_max_ns);
    list_append(&s->jobs, &waiting->link);
    loop->jobs++;
    return 0;
}

static void posts_run(struct timer *timer)
{
    struct simulated *s = simulated_of(timer->loop);
    struct post *post = s->posts;

    s->posts = NULL;
    s->posts_end = &s->posts;
    while (post) {
        struct post *next = post->next;
        post->run(post);
        post = next;
    }
}

static void post_add(struct loop *loop, struct post *post)
{
    struct simulated *s = simulated_of(loop);

    post->next = NULL;
    *s->posts_end = post;
    s->posts_end = &post->next;
    if (!timer_is_set(&s->posts_timer))
        set_later(s, &s->posts_timer, s->options.post_delay_max_ns);
}

/* ---- pipes ---- */

static unsigned events_true(const struct end *end)
{
    unsigned events = 0;

    if (end->pair->is_reset)
        return STREAM_READABLE | STREAM_WRITABLE;
    if (end->inbound_size > 0 || end->inbound_ended)
        events |= STREAM_READABLE;
    if (end->other->is_closed || end->other->inbound_size < end->pair->size)
        events |= STREAM_WRITABLE;
    return events;
}

/* Something has changed for this end: should it be told? */
static void consider(struct end *end)
{
    struct simulated *s = simulated_of(end->stream.loop);

    if (end->is_closed || timer_is_set(&end->notice))
        return;
    if (end->stream.wanted & events_true(end))
        set_later(s, &end->notice, s->options.network_delay_max_ns);
}

static void notice(struct timer *timer)
{
    struct end *end = CONTAINER_OF(timer, struct end, notice);
    unsigned events = end->stream.wanted & events_true(end);

    if (events)
        end->stream.ready(end->stream.context, events);
    consider(end); /* levels, not edges; the pair outlives a close within the turn */
}

static void pair_reset(struct pair *pair)
{
    pair->is_reset = true;
    for (int i = 0; i < 2; i++) {
        free(pair->ends[i].inbound);
        pair->ends[i].inbound = NULL;
        pair->ends[i].inbound_size = 0;
        consider(&pair->ends[i]);
    }
}

static void want(struct stream *stream, unsigned events)
{
    (void)events;
    consider(end_of(stream));
}

/* How much of the possible is done this time. */
static size_t part_of(struct simulated *s, size_t possible)
{
    return possible > 1 && happens(s, s->options.short_ppm) ? random_up_to(s, possible) : possible;
}

static ssize_t pipe_read(struct stream *stream, void *memory, size_t size)
{
    struct end *end = end_of(stream);
    struct simulated *s = simulated_of(stream->loop);

    if (!end->pair->is_reset && happens(s, s->options.reset_ppm))
        pair_reset(end->pair);
    if (end->pair->is_reset)
        return E_CLOSED;
    if (end->inbound_size == 0)
        return end->inbound_ended ? 0 : E_AGAIN;

    size_t part = part_of(s, size < end->inbound_size ? size : end->inbound_size);
    memcpy(memory, end->inbound + end->inbound_start, part);
    end->inbound_start += part;
    end->inbound_size -= part;
    if (end->inbound_size == 0) {
        free(end->inbound);
        end->inbound = NULL;
        end->inbound_start = 0;
    }
    consider(end->other);
    return (ssize_t)part;
}

static void inbound_add(struct end *end, const uint8_t *bytes, size_t size)
{
    if (!end->inbound)
        end->inbound = memory_new(end->pair->size);
    if (end->inbound_start + end->inbound_size + size > end->pair->size) {
        memmove(end->inbound, end->inbound + end->inbound_start, end->inbound_size);
        end->inbound_start = 0;
    }
    memcpy(end->inbound + end->inbound_start + end->inbound_size, bytes, size);
    end->inbound_size += size;
}

static ssize_t pipe_write(struct stream *stream, const struct iovec *slices, int count)
{
    struct end *end = end_of(stream);
    struct end *other = end->other;
    struct simulated *s = simulated_of(stream->loop);
    size_t left = 0;
    size_t written = 0;

    if (!end->pair->is_reset && (other->is_closed || happens(s, s->options.reset_ppm)))
        pair_reset(end->pair);
    if (end->pair->is_reset || other->inbound_ended)
        return E_CLOSED;
    for (int i = 0; i < count; i++)
        left += slices[i].iov_len;
    if (left == 0)
        return 0;
    size_t room = end->pair->size - other->inbound_size;
    if (room == 0)
        return E_AGAIN;
    left = part_of(s, left < room ? left : room);
    for (int i = 0; i < count && left > 0; i++) {
        size_t part = slices[i].iov_len < left ? slices[i].iov_len : left;
        if (part > 0)
            inbound_add(other, slices[i].iov_base, part);
        written += part;
        left -= part;
    }
    consider(other);
    return (ssize_t)written;
}

static void pipe_shutdown(struct stream *stream)
{
    struct end *end = end_of(stream);

    end->other->inbound_ended = true;
    consider(end->other);
}

/* As TCP does: closing with unread input resets the connection, and then of what was sent a tail
 * may be lost. */
static void pipe_close(struct stream *stream)
{
    struct end *end = end_of(stream);
    struct simulated *s = simulated_of(stream->loop);

    ASSERT(!end->is_closed);
    timer_stop(&end->notice);
    end->is_closed = true;
    stream->wanted = 0;
    if (end->other->is_closed) {
        pair_reset(end->pair);
        list_remove(&end->pair->link_waiting);
        list_remove(&end->pair->link);
        list_append(&s->pairs_dead, &end->pair->link);
        return;
    }
    if (end->inbound_size > 0) {
        if (end->other->inbound_size > 0)
            end->other->inbound_size = random_up_to(s, end->other->inbound_size);
        free(end->inbound);
        end->inbound = NULL;
        end->inbound_size = 0;
    }
    end->other->inbound_ended = true;
    consider(end->other);
}

static void address(const struct stream *stream, bool peer, struct stream_address *to)
{
    const struct end *end = end_of(stream);

    *to = peer ? end->other->address : end->address;
}

void simulated_reset(struct stream *stream)
{
    pair_reset(end_of(stream)->pair);
}

/* ---- listeners ---- */

static void accept_next(struct timer *timer)
{
    struct listener_simulated *l = CONTAINER_OF(timer, struct listener_simulated, accept);
    struct simulated *s = simulated_of(timer->loop);

    if (s->options.accept_failures > 0) {
        s->options.accept_failures--;
        timer_set(timer, timer->loop->now_ns + ACCEPT_PAUSE);
        if (l->reported_ns == 0 || timer->loop->now_ns - l->reported_ns >= REPORT_PAUSE) {
            l->reported_ns = timer->loop->now_ns;
            l->listener.accepted(l->listener.context, NULL, E_LIMIT);
        }
        return;
    }
    struct list *link = list_take_first(&l->waiting);
    if (!list_empty(&l->waiting))
        set_later(s, timer, s->options.network_delay_max_ns);
    if (link) {
        struct pair *pair = CONTAINER_OF(link, struct pair, link_waiting);
        l->listener.accepted(l->listener.context, &pair->ends[1].stream, 0);
    }
}

static struct listener_simulated *find_listener(struct simulated *s, uint16_t port)
{
    LIST_EACH (&s->listeners, link) {
        struct listener_simulated *l = CONTAINER_OF(link, struct listener_simulated, link);
        if (l->listener.port == port)
            return l;
    }
    return NULL;
}

static uint16_t free_port(struct simulated *s)
{
    do {
        s->port_next = s->port_next == UINT16_MAX ? FIRST_PORT : (uint16_t)(s->port_next + 1);
    } while (find_listener(s, s->port_next));
    return s->port_next;
}

static int listen_simulated(struct loop *loop, const struct listen_options *options,
                            void (*accepted)(void *context, struct stream *stream, int error),
                            void *context, struct listener **listener, struct failure *failure)
{
    struct simulated *s = simulated_of(loop);

    if (options->port && find_listener(s, options->port))
        return fail(failure, E_HELD, "port %u is taken", options->port);
    struct listener_simulated *l = memory_new(sizeof *l);
    l->listener =
        (struct listener){loop, accepted, context, options->port ? options->port : free_port(s)};
    list_init(&l->waiting);
    timer_init(&l->accept, loop, accept_next);
    list_append(&s->listeners, &l->link);
    *listener = &l->listener;
    return 0;
}

static void listener_close_simulated(struct listener *listener)
{
    struct listener_simulated *l = CONTAINER_OF(listener, struct listener_simulated, listener);
    struct list *link;

    while ((link = list_take_first(&l->waiting)) != NULL) {
        struct pair *pair = CONTAINER_OF(link, struct pair, link_waiting);
        stream_close(&pair->ends[1].stream);
    }
    timer_stop(&l->accept);
    list_remove(&l->link);
    free(l);
}

static void end_init(struct simulated *s, struct pair *pair, int index, const char *host,
                     uint16_t port)
{
    struct end *end = &pair->ends[index];

    end->stream.loop = &s->loop;
    end->pair = pair;
    end->other = &pair->ends[1 - index];
    timer_init(&end->notice, &s->loop, notice);
    snprintf(end->address.text, sizeof end->address.text, "%s", host);
    end->address.port = port;
    end->address.is_loopback = strncmp(host, "127.", 4) == 0 || strcmp(host, "::1") == 0;
}

int simulated_connect_from(struct loop *loop, const char *host, uint16_t port,
                           struct stream **stream)
{
    struct simulated *s = simulated_of(loop);
    struct listener_simulated *l = find_listener(s, port);

    if (!l)
        return E_CLOSED;
    struct pair *pair = memory_new(sizeof *pair);
    pair->size = s->options.pipe_size;
    end_init(s, pair, 0, host, free_port(s));
    end_init(s, pair, 1, "127.0.0.1", port);
    list_append(&s->pairs, &pair->link);
    list_append(&l->waiting, &pair->link_waiting);
    if (!timer_is_set(&l->accept))
        set_later(s, &l->accept, s->options.network_delay_max_ns);
    *stream = &pair->ends[0].stream;
    return 0;
}

int simulated_connect(struct loop *loop, uint16_t port, struct stream **stream)
{
    return simulated_connect_from(loop, "127.0.0.1", port, stream);
}

/* ---- start and end ---- */

static void free_simulated(struct loop *loop)
{
    struct simulated *s = simulated_of(loop);
    struct list *link;

    while ((link = list_take_first(&s->listeners)) != NULL)
        free(CONTAINER_OF(link, struct listener_simulated, link));
    while ((link = list_take_first(&s->jobs)) != NULL)
        free(CONTAINER_OF(link, struct job_simulated, link));
    while ((link = list_take_first(&s->pairs)) != NULL) {
        struct pair *pair = CONTAINER_OF(link, struct pair, link);
        free(pair->ends[0].inbound);
        free(pair->ends[1].inbound);
        free(pair);
    }
    free_dead_pairs(s);
    loop_fini(loop);
    free(s);
}

static const struct loop_functions functions = {
    .precise_ns = precise_ns,
    .random_bytes = random_bytes,
    .timer_order = timer_order,
    .choose = choose,
    .wake = wake,
    .run = run,
    .free = free_simulated,
    .help = help,
    .post = post_add,
    .listen = listen_simulated,
    .listener_close = listener_close_simulated,
    .want = want,
    .read = pipe_read,
    .write = pipe_write,
    .shutdown = pipe_shutdown,
    .close = pipe_close,
    .address = address,
};

struct loop *loop_new_simulated(uint64_t seed)
{
    struct simulated *s = memory_new(sizeof *s);

    loop_init(&s->loop, &functions);
    s->options = (struct simulated_options){
        .network_delay_max_ns = 100000,
        .job_delay_max_ns = 1000000,
        .post_delay_max_ns = 50000,
        .short_ppm = 100000,
        .jump_ppm = 10000,
        .pipe_size = 65536,
    };
    s->random[0] = scramble(&seed);
    s->random[1] = scramble(&seed);
    list_init(&s->listeners);
    list_init(&s->pairs);
    list_init(&s->pairs_dead);
    list_init(&s->jobs);
    s->posts_end = &s->posts;
    timer_init(&s->posts_timer, &s->loop, posts_run);
    s->port_next = FIRST_PORT;
    s->loop.now_ns = START_NS;
    s->loop.wall_ms = START_WALL_MS;
    return &s->loop;
}

struct simulated_options *simulated_options(struct loop *loop)
{
    return &simulated_of(loop)->options;
}
