/*
 * Everything that happens later is a timer of a loop's heap, with a random `order`, so ties fall as
 * the seed wants: readiness of a pipe's end, a job's run, waiting posts, a listener's accept.
 *
 * The loops that stand beside each other are a *world*: one time, one source of randomness, one
 * network. Turns are taken one after the other; the next is that of the loop whose turn is due
 * first, and of several by seed.
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

#define TURN_MAX_NS   20000   /* in company, unless told otherwise */
#define STANDSTILL_NS 1000000 /* more than that without a turn */

struct world {
    struct list loops; /* by simulated.link; freed with the last */
    uint64_t now_ns;   /* of the latest turn */
    uint64_t random[2];
    int64_t wall_offset_ms;
    struct list listeners;
    struct list pairs;      /* with an end that is open */
    struct list pairs_dead; /* closed at both ends; freed between turns */
    uint16_t port_next;
    bool stopping;
};

struct simulated {
    struct loop loop;
    struct world *world;
    struct list link;
    struct simulated_options options;
    uint64_t ahead_ns; /* how far loop_precise_ns() has jumped in this turn */
    uint64_t free_ns;  /* no turn before: it still takes the last one, or is paused */
    uint64_t stood_until_ns;
    struct list jobs;
    struct post *posts, **posts_end;
    struct timer posts_timer;
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
    struct list link;         /* in world.pairs or pairs_dead */
    struct list link_waiting; /* in listener_simulated.waiting until accepted */
    bool is_reset;
    size_t size;
    struct end ends[2]; /* client, server */
};

struct listener_simulated {
    struct listener listener;
    struct list link;
    struct list waiting;
    bool shares_port;
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

static uint64_t next_random(struct world *world)
{
    uint64_t a = world->random[0];
    uint64_t b = world->random[1];
    uint64_t result = a + b;

    b ^= a;
    world->random[0] = rotate(a, 24) ^ b ^ b << 16;
    world->random[1] = rotate(b, 37);
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
    return most > 1 ? 1 + next_random(s->world) % most : 1;
}

static bool happens(struct simulated *s, uint32_t ppm)
{
    return ppm > 0 && next_random(s->world) % 1000000 < ppm;
}

static void set_later(struct simulated *s, struct timer *timer, uint64_t delay_max_ns)
{
    timer_set(timer, s->world->now_ns + random_up_to(s, delay_max_ns));
}

static void random_bytes(struct loop *loop, void *memory, size_t size)
{
    uint8_t *at = memory;

    while (size > 0) {
        uint64_t value = next_random(simulated_of(loop)->world);
        size_t part = size < sizeof value ? size : sizeof value;
        memcpy(at, &value, part);
        at += part;
        size -= part;
    }
}

static uint64_t timer_order(struct loop *loop)
{
    return next_random(simulated_of(loop)->world);
}

static unsigned choose(struct loop *loop, unsigned count)
{
    return count > 1 ? (unsigned)(next_random(simulated_of(loop)->world) % count) : 0;
}

/* ---- time and turns ---- */

static uint64_t precise_ns(struct loop *loop)
{
    struct simulated *s = simulated_of(loop);

    if (happens(s, s->options.jump_ppm))
        s->ahead_ns += random_up_to(s, TURN_SLICE_NS);
    return loop->now_ns + s->ahead_ns;
}

static uint64_t wall_ms(const struct world *world, uint64_t now_ns)
{
    int64_t ms = (int64_t)(START_WALL_MS + (now_ns - START_NS) / NANOSECONDS_PER_MS);

    return (uint64_t)(ms + world->wall_offset_ms);
}

static void wake(struct loop *loop)
{
    if (loop->stopping)
        simulated_of(loop)->world->stopping = true;
}

static void free_dead_pairs(struct world *world)
{
    struct list *link;

    while ((link = list_take_first(&world->pairs_dead)) != NULL)
        free(CONTAINER_OF(link, struct pair, link));
}

/* How long this turn keeps the loop from the next. */
static uint64_t turn_spends_ns(struct simulated *s)
{
    bool is_alone = s->link.next == s->link.previous;
    uint64_t most = s->options.turn_max_ns;

    if (most == 0)
        most = is_alone ? 1 : TURN_MAX_NS;
    uint64_t spent = s->ahead_ns + random_up_to(s, most);
    if (happens(s, s->options.pause_ppm))
        spent += random_up_to(s, s->options.pause_max_ns);
    return spent;
}

static void stand_until(struct simulated *s, uint64_t until_ns)
{
    s->free_ns = until_ns;
    if (until_ns - s->world->now_ns > STANDSTILL_NS)
        s->stood_until_ns = until_ns;
}

static void turn(struct simulated *s, uint64_t now_ns)
{
    struct world *world = s->world;

    if (now_ns < world->now_ns) /* a timer set from outside of its loop's turns, in its past */
        now_ns = world->now_ns;
    world->now_ns = now_ns;
    s->ahead_ns = 0;
    loop_turn_begin(&s->loop, now_ns, wall_ms(world, now_ns));
    loop_turn_end(&s->loop);
    stand_until(s, now_ns + turn_spends_ns(s));
    free_dead_pairs(world);
}

/* The time of the loop's next turn, or UINT64_MAX when it has nothing left to do. */
static uint64_t due_ns(const struct simulated *s)
{
    uint64_t at_ns = loop_has_tasks(&s->loop) ? s->loop.now_ns + 1 : loop_next_timer_ns(&s->loop);

    return at_ns < s->free_ns ? s->free_ns : at_ns;
}

/* Whose turn is next; NULL when nobody has anything left to do, or not until then. */
static struct simulated *next_loop(struct world *world, uint64_t until_ns)
{
    struct simulated *next = NULL;
    uint64_t next_ns = UINT64_MAX;
    unsigned equal = 0;

    LIST_EACH (&world->loops, link) {
        struct simulated *s = CONTAINER_OF(link, struct simulated, link);
        uint64_t at_ns = due_ns(s);
        if (at_ns == UINT64_MAX || at_ns > until_ns || at_ns > next_ns)
            continue;
        equal = at_ns < next_ns ? 1 : equal + 1;
        if (equal == 1 || next_random(world) % equal == 0)
            next = s;
        next_ns = at_ns;
    }
    return next;
}

/* False when loop_stop() was called. */
static bool run_world(struct world *world, uint64_t turns, uint64_t until_ns)
{
    struct simulated *next;

    world->stopping = false;
    LIST_EACH (&world->loops, link)
        CONTAINER_OF(link, struct simulated, link)->loop.stopping = false;
    while (!world->stopping && turns-- > 0 && (next = next_loop(world, until_ns)) != NULL)
        turn(next, due_ns(next));
    return !world->stopping;
}

static void run(struct loop *loop)
{
    run_world(simulated_of(loop)->world, UINT64_MAX, UINT64_MAX);
}

bool simulated_run_turns(struct loop *loop, uint64_t turns)
{
    return run_world(simulated_of(loop)->world, turns, UINT64_MAX);
}

bool simulated_run_until(struct loop *loop, uint64_t at_ns)
{
    struct world *world = simulated_of(loop)->world;

    if (!run_world(world, UINT64_MAX, at_ns))
        return false;
    LIST_EACH (&world->loops, link) {
        struct simulated *s = CONTAINER_OF(link, struct simulated, link);
        if (s->loop.now_ns < at_ns && s->free_ns <= at_ns && !world->stopping)
            turn(s, at_ns);
    }
    if (world->now_ns < at_ns)
        world->now_ns = at_ns;
    return !world->stopping;
}

bool simulated_run_for(struct loop *loop, uint64_t for_ns)
{
    return simulated_run_until(loop, simulated_of(loop)->world->now_ns + for_ns);
}

bool simulated_run_idle(struct loop *loop, uint64_t turns_max)
{
    struct world *world = simulated_of(loop)->world;

    return run_world(world, turns_max, UINT64_MAX) && !next_loop(world, UINT64_MAX);
}

void simulated_pause(struct loop *loop, uint64_t for_ns)
{
    struct simulated *s = simulated_of(loop);
    uint64_t until_ns = s->world->now_ns + for_ns;

    if (s->free_ns < until_ns)
        stand_until(s, until_ns);
}

uint64_t simulated_stood_until_ms(const struct loop *loop)
{
    const struct simulated *s = simulated_of(loop);

    return s->stood_until_ns ? wall_ms(s->world, s->stood_until_ns) : 0;
}

void simulated_wall_jump(struct loop *loop, int64_t by_ms)
{
    simulated_of(loop)->world->wall_offset_ms += by_ms;
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

static int join_stream(struct stream *stream, struct loop *loop)
{
    struct end *end = end_of(stream);

    stream->loop = loop;
    timer_init(&end->notice, loop, notice);
    return 0;
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
        list_append(&s->world->pairs_dead, &end->pair->link);
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

/* Who listens there; of several that share the port one is chosen by seed. */
static struct listener_simulated *find_listener(struct world *world, uint16_t port)
{
    struct listener_simulated *found = NULL;
    unsigned count = 0;

    LIST_EACH (&world->listeners, link) {
        struct listener_simulated *l = CONTAINER_OF(link, struct listener_simulated, link);
        if (l->listener.port == port && (++count == 1 || next_random(world) % count == 0))
            found = l;
    }
    return found;
}

static uint16_t free_port(struct world *world)
{
    do {
        world->port_next =
            world->port_next == UINT16_MAX ? FIRST_PORT : (uint16_t)(world->port_next + 1);
    } while (find_listener(world, world->port_next));
    return world->port_next;
}

static int listen_simulated(struct loop *loop, const struct listen_options *options,
                            void (*accepted)(void *context, struct stream *stream, int error),
                            void *context, struct listener **listener, struct failure *failure)
{
    struct world *world = simulated_of(loop)->world;
    struct listener_simulated *other = options->port ? find_listener(world, options->port) : NULL;

    if (other && !(options->share_port && other->shares_port))
        return fail(failure, E_HELD, "port %u is taken", options->port);
    struct listener_simulated *l = memory_new(sizeof *l);
    l->listener = (struct listener){loop, accepted, context,
                                    options->port ? options->port : free_port(world)};
    l->shares_port = options->share_port;
    list_init(&l->waiting);
    timer_init(&l->accept, loop, accept_next);
    list_append(&world->listeners, &l->link);
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
    struct listener_simulated *l = find_listener(s->world, port);

    if (!l)
        return E_CLOSED;
    struct simulated *theirs = simulated_of(l->listener.loop);
    struct pair *pair = memory_new(sizeof *pair);
    pair->size = s->options.pipe_size;
    end_init(s, pair, 0, host, free_port(s->world));
    end_init(theirs, pair, 1, "127.0.0.1", port);
    list_append(&s->world->pairs, &pair->link);
    list_append(&l->waiting, &pair->link_waiting);
    if (!timer_is_set(&l->accept))
        set_later(theirs, &l->accept, theirs->options.network_delay_max_ns);
    *stream = &pair->ends[0].stream;
    return 0;
}

int simulated_connect(struct loop *loop, uint16_t port, struct stream **stream)
{
    return simulated_connect_from(loop, "127.0.0.1", port, stream);
}

/* ---- start and end ---- */

static void free_listeners(struct simulated *s)
{
    LIST_EACH (&s->world->listeners, link) {
        struct listener_simulated *l = CONTAINER_OF(link, struct listener_simulated, link);
        if (l->listener.loop != &s->loop)
            continue;
        while (list_take_first(&l->waiting))
            ;
        list_remove(&l->link);
        free(l);
    }
}

/* To a peer in another loop this is a reset, as when a process dies. */
static void free_ends(struct simulated *s)
{
    LIST_EACH (&s->world->pairs, link) {
        struct pair *pair = CONTAINER_OF(link, struct pair, link);
        bool is_ours = false;
        for (int i = 0; i < 2; i++) {
            if (pair->ends[i].stream.loop == &s->loop && !pair->ends[i].is_closed)
                is_ours = pair->ends[i].is_closed = true;
        }
        if (is_ours)
            pair_reset(pair);
        if (!pair->ends[0].is_closed || !pair->ends[1].is_closed)
            continue;
        list_remove(&pair->link);
        free(pair);
    }
}

static void free_simulated(struct loop *loop)
{
    struct simulated *s = simulated_of(loop);
    struct world *world = s->world;
    struct list *link;

    free_listeners(s);
    free_ends(s);
    free_dead_pairs(world);
    while ((link = list_take_first(&s->jobs)) != NULL)
        free(CONTAINER_OF(link, struct job_simulated, link));
    loop_fini(loop);
    list_remove(&s->link);
    free(s);
    if (list_empty(&world->loops))
        free(world);
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
    .join = join_stream,
    .want = want,
    .read = pipe_read,
    .write = pipe_write,
    .shutdown = pipe_shutdown,
    .close = pipe_close,
    .address = address,
};

static struct loop *join_world(struct world *world, const struct simulated_options *options)
{
    struct simulated *s = memory_new(sizeof *s);

    loop_init(&s->loop, &functions);
    s->world = world;
    s->options = *options;
    list_append(&world->loops, &s->link);
    list_init(&s->jobs);
    s->posts_end = &s->posts;
    timer_init(&s->posts_timer, &s->loop, posts_run);
    s->loop.now_ns = world->now_ns;
    s->loop.wall_ms = wall_ms(world, world->now_ns);
    return &s->loop;
}

struct loop *loop_new_simulated(uint64_t seed)
{
    static const struct simulated_options options = {
        .network_delay_max_ns = 100000,
        .job_delay_max_ns = 1000000,
        .post_delay_max_ns = 50000,
        .short_ppm = 100000,
        .jump_ppm = 10000,
        .pause_max_ns = 50 * NANOSECONDS_PER_MS,
        .pipe_size = 65536,
    };
    struct world *world = memory_new(sizeof *world);

    world->now_ns = START_NS;
    world->random[0] = scramble(&seed);
    world->random[1] = scramble(&seed);
    world->port_next = FIRST_PORT;
    list_init(&world->loops);
    list_init(&world->listeners);
    list_init(&world->pairs);
    list_init(&world->pairs_dead);
    return join_world(world, &options);
}

struct loop *loop_new_simulated_beside(struct loop *first)
{
    const struct simulated *s = simulated_of(first);

    return join_world(s->world, &s->options);
}

struct simulated_options *simulated_options(struct loop *loop)
{
    return &simulated_of(loop)->options;
}
