/* Lives: the workers of a process start, actors act, the process crashes or stops. */
#include "mortal.h"
#include "net/server.h"
#include "protocols/amqp091/session.h"
#include "remote.h"

#include <stdarg.h>

void failed(const struct world *w, const char *format, ...)
{
    va_list arguments;

    fprintf(stderr, "seed %" PRIu64 ", life %u: ", w->seed, w->life);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
    exit(1); /* seeds.c tells the rest */
}

/* With --verbose: what happened, in order. */
void trace(const struct world *w, const char *format, ...)
{
    va_list arguments;
    const struct loop *loop = w->members[0].loop;

    if (!w->options->verbose)
        return;
    fprintf(stderr, "%u:%" PRIu64 " ", w->life, loop ? loop_now_ns(loop) / 1000 : 0);
    va_start(arguments, format);
    vfprintf(stderr, format, arguments);
    va_end(arguments);
    fputc('\n', stderr);
}

uint64_t dice(struct world *w, uint64_t sides)
{
    w->random_state ^= w->random_state << 13;
    w->random_state ^= w->random_state >> 7;
    w->random_state ^= w->random_state << 17;
    return w->random_state % sides;
}

void world_run(struct world *w, uint64_t for_ns)
{
    simulated_run_for(w->members[0].loop, for_ns);
}

bool world_flipped(const struct world *w)
{
    for (unsigned i = 0; i < w->shards; i++) {
        if (simulated_disk_flips(w->disks[i]) > 0)
            return true;
    }
    return false;
}

/* One worker's alarm is everybody's. */
enum flow world_flow(const struct world *w)
{
    bool disk = w->failed_shards != 0;
    uint64_t used = 0;

    for (unsigned i = 0; i < w->workers; i++) {
        const struct member *member = &w->members[i];
        struct worker_statistics statistics;
        worker_statistics(member->worker, &statistics);
        used += statistics.memory_bytes;
        disk = disk || (member->stores[0] && store_bytes_free(member->stores[0]) < w->disk_low);
    }
    return disk ? FLOW_DISK : w->memory_high && used >= w->memory_high ? FLOW_MEMORY : FLOW_OPEN;
}

/* ---- what workers tell ---- */

static void on_line(void *context, enum log_level level, const char *category, const char *text)
{
    static const char failed_shard[] = "the storage of shard ";
    struct world *w = context;
    uint64_t torn_bytes;

    if (level >= LOG_ERROR &&
        (strstr(text, "corrupt") || strstr(text, "cannot be read") || strstr(text, "has lost")))
        w->corruption_reported = true;
    /* a bit that turned in the last blocks, which no later one vouches for yet, looks like a torn
     * tail: that it was cut is all that can be told */
    if (sscanf(text, "%*u segments, last block %*u, %" SCNu64 " bytes torn", &torn_bytes) == 1 &&
        torn_bytes > 0 && world_flipped(w))
        w->corruption_reported = true;
    if (strcmp(category, "storage") == 0 &&
        strncmp(text, failed_shard, strlen(failed_shard)) == 0) {
        w->failed_shards |= 1u << strtoul(text + strlen(failed_shard), NULL, 10);
        for (unsigned i = 0; i < w->remote_count; i++)
            remote_doubt(w->remotes[i]);
    }
    if (w->options->verbose)
        fprintf(stderr, "[%s] %s\n", category, text);
}

static void on_started(void *context, const struct worker_started *what)
{
    struct member *member = context;
    struct world *w = member->world;

    CHECK(w, !member->started, "a worker starts twice");
    member->started = true;
    member->start_result = what->result;
    if (what->log.corrupt_blocks > 0)
        w->corruption_reported = true;
    trace(w, "worker %u: %s", (unsigned)(member - w->members),
          what->result ? what->failure.text : "started");
    locks_refused(w, what->result, &what->failure);
}

static void on_stopped(void *context)
{
    struct member *member = context;

    CHECK(member->world, !member->stopped, "a worker stops twice");
    member->stopped = true;
    trace(member->world, "worker %u: stopped", (unsigned)(member - member->world->members));
}

/* ---- the start ---- */

static void make_loops(struct world *w)
{
    uint64_t pause = dice(w, 3) ? dice(w, 3000) : 0, post = 1 + dice(w, 2000) * 1000;

    for (unsigned i = 0; i < w->workers; i++) {
        struct member *member = &w->members[i];
        *member = (struct member){.world = w};
        member->loop = i ? loop_new_simulated_beside(w->members[0].loop)
                         : loop_new_simulated(w->seed * 64 + w->life);
        struct simulated_options *options = simulated_options(member->loop);
        options->pause_ppm = (uint32_t)pause;
        options->post_delay_max_ns = post;
        options->job_delay_max_ns = dice(w, 4) ? NANOSECONDS_PER_MS : 300 * NANOSECONDS_PER_MS;
    }
    if (mortals_wall_ms(w)) /* messages have a time at which they die */
        simulated_wall_jump(w->members[0].loop,
                            (int64_t)(mortals_wall_ms(w) - loop_wall_ms(w->members[0].loop)));
    w->outside = loop_new_simulated_beside(w->members[0].loop);
    struct simulated_options *options = simulated_options(w->outside);
    options->pause_ppm = 0;
    options->pipe_size = dice(w, 2) ? 65536 : (size_t)1000 << dice(w, 5);
}

/* Each worker has a port of its own, so that remotes know to whom they speak. */
static void open_server(struct world *w, struct member *member)
{
    struct server_protocol protocols[] = {{&amqp091_protocol, member->worker}};
    struct server_options options = {
        .loop = member->loop,
        .logger = &w->logger,
        .listen.port = (uint16_t)(REMOTE_PORT + (unsigned)(member - w->members)),
        .protocols = protocols,
        .protocol_count = 1,
        .handshake_ms = 10000,
    };
    struct failure failure;

    CHECK(w, server_open(&options, &member->server, &failure) == 0, "%s", failure.text);
}

static void member_start(struct world *w, unsigned index, struct worker_options *options)
{
    struct member *member = &w->members[index];
    struct failure failure;

    options->loop = member->loop;
    options->index = index;
    options->stores = member->stores;
    options->store_count = 0;
    for (unsigned shard = index; shard < w->shards; shard += w->workers) {
        CHECK(w,
              store_simulated_open(member->loop, w->disks[shard],
                                   &member->stores[options->store_count++], &failure) == 0,
              "store: %s", failure.text);
    }
    trace(w, "worker %u of %u starts with %u shards", index, w->workers, options->store_count);
    member->worker = worker_start(options, on_started, member);
}

static void choose_options(struct world *w, struct worker_options *options)
{
    worker_options_default(options);
    options->logger = &w->logger;
    options->count = w->workers;
    options->office = w->office;
    options->shard_count = w->shards;
    options->queues_balanced = dice(w, 2);
    options->default_pass = PASSWORD; /* one that costs what is said here, as "guest" does not */
    options->password_cost = (struct password_cost){8, 1};
    options->pending_ppm = 200000;
    w->memory_high = w->seed % 16 == 9 || dice(w, 12) == 0 ? 50000u << dice(w, 6) : 0;
    w->disk_low = w->seed % 8 == 5 && dice(w, 2) ? (2 + dice(w, 10)) << 20 : 0;
    options->memory_high_bytes = w->memory_high;
    options->disk_low_bytes = w->disk_low;
    options->hot_bytes_max = w->seed % 3 ? 20000 : 64u << 20;
    /* small, so that segments fill, are checkpointed and go within a short life */
    options->log.segment_bytes_min = (uint32_t)(8192u << dice(w, 5));
    options->log.segment_bytes_max = options->log.segment_bytes_min << dice(w, 3);
    options->log.checkpoint_bytes = (uint32_t)(5000 + dice(w, 100000));
    options->log.disk_reserve_bytes = 2u << 20;
}

static bool all_started(const struct world *w)
{
    for (unsigned i = 0; i < w->workers; i++) {
        if (!w->members[i].started)
            return false;
    }
    return true;
}

enum begun { BEGUN_WELL, BEGUN_BADLY, BEGUN_NOT };

/* Another number of workers than before, perhaps; never fewer shards, but perhaps fewer than there
 * are workers. BEGUN_NOT: the power goes
 * before all have started. */
static enum begun begin_life(struct world *w, bool may_crash)
{
    struct worker_options options;
    uint64_t turns = may_crash && dice(w, 12) == 0 ? dice(w, 30) : 10000;

    w->workers = 1 + (unsigned)dice(w, WORKERS_MAX);
    unsigned shards = dice(w, 8) ? w->workers + (unsigned)dice(w, 2) : 1;
    for (; w->shards < shards; w->shards++)
        w->disks[w->shards] = simulated_disk_new(w->seed * SHARDS_MAX + w->shards);
    w->failed_shards = 0;
    make_loops(w);
    w->office = w->workers > 1 ? office_new(w->workers) : NULL;
    choose_options(w, &options);
    locks_choose(w, &options, may_crash);
    unsigned first = (unsigned)dice(w, w->workers);
    for (unsigned i = 0; i < w->workers; i++) {
        member_start(w, (first + i) % w->workers, &options);
        if (dice(w, 3) == 0)
            world_run(w, dice(w, 3 * NANOSECONDS_PER_MS));
    }
    for (uint64_t i = 0; i < turns && !all_started(w); i++)
        world_run(w, turns < 100 ? dice(w, NANOSECONDS_PER_MS) : 10 * NANOSECONDS_PER_MS);
    if (!all_started(w)) {
        CHECK(w, turns < 100, "not all workers start");
        return BEGUN_NOT;
    }
    for (unsigned i = 1; i < w->workers; i++)
        CHECK(w, (w->members[i].start_result == 0) == (w->members[0].start_result == 0),
              "some workers start and some do not");
    if (w->members[0].start_result != 0)
        return BEGUN_BADLY;
    for (unsigned i = 0; i < w->workers; i++)
        open_server(w, &w->members[i]);
    return BEGUN_WELL;
}

/* ---- the end ---- */

static void free_loops(struct world *w)
{
    if (w->office)
        office_free(w->office);
    w->office = NULL;
    mortals_note_time(w);
    for (unsigned i = 0; i < w->remote_count; i++)
        remote_cut(w->remotes[i], false); /* who has not read yet that it is over */
    loop_free(w->outside);
    w->outside = NULL;
    for (unsigned i = w->workers; i-- > 0;) {
        if (w->ended_ns < loop_now_ns(w->members[i].loop))
            w->ended_ns = loop_now_ns(w->members[i].loop);
        loop_free(w->members[i].loop);
        w->members[i].loop = NULL;
    }
}

static void end_crash(struct world *w)
{
    trace(w, "crash");
    for (unsigned i = 0; i < w->shards; i++)
        simulated_disk_crash(w->disks[i]);
    for (unsigned i = 0; i < ACTORS; i++)
        actor_abandon(&w->actors[i]);
    mortals_abandon(w);
    redriver_abandon(w);
    for (unsigned i = 0; i < w->remote_count; i++)
        remote_cut(w->remotes[i], true);
    for (unsigned i = 0; i < w->workers; i++) {
        if (w->members[i].server)
            server_abandon(w->members[i].server);
    }
    for (unsigned i = 0; i < w->workers; i++) {
        if (w->members[i].worker)
            worker_abandon(w->members[i].worker);
        w->members[i].worker = NULL;
    }
    for (unsigned i = 0; i < w->workers; i++) {
        if (w->members[i].server)
            server_free(w->members[i].server);
        w->members[i].server = NULL;
    }
    free_loops(w);
    w->crashes++;
}

/* Of some remotes the broker hears before it asks them to go, of others it does not. */
static void close_remotes(struct world *w, struct member *member)
{
    if (!member->server)
        return;
    for (unsigned i = 0; i < w->remote_count; i++) {
        struct remote *r = w->remotes[i];
        if (&w->members[r->self.worker] != member)
            continue;
        if (dice(w, 2))
            remote_cut(r, dice(w, 2));
        else
            remote_drain(r);
    }
    server_drain(member->server, "the broker stops",
                 loop_now_ns(member->loop) + dice(w, 500 * NANOSECONDS_PER_MS));
    for (unsigned i = 0; i < 1000 && server_connection_count(member->server) > 0; i++)
        world_run(w, 10 * NANOSECONDS_PER_MS);
    CHECK(w, server_connection_count(member->server) == 0, "a connection never ends");
    server_free(member->server);
    member->server = NULL;
}

/* Waits until nobody has anything pending; false: the power goes meanwhile. */
static bool close_clients(struct world *w, unsigned worker)
{
    close_remotes(w, &w->members[worker]);
    for (unsigned i = 0; i < ACTORS; i++) {
        struct actor *actor = &w->actors[i];
        if (!actor->client || actor->worker != worker)
            continue;
        actor_close(actor);
        for (unsigned turn = 0; turn < 10000 && !actor_is_idle(actor); turn++)
            world_run(w, 10 * NANOSECONDS_PER_MS);
        CHECK(w, actor_is_idle(actor), "a request never completes");
        actor_free(actor);
    }
    for (unsigned turn = 0; turn < 10000 && !mortals_leave(w, worker); turn++)
        world_run(w, 10 * NANOSECONDS_PER_MS);
    CHECK(w, mortals_leave(w, worker), "a mourner's request never completes");
    for (unsigned turn = 0; turn < 10000 && !redriver_leave(w, worker); turn++)
        world_run(w, 10 * NANOSECONDS_PER_MS);
    CHECK(w, redriver_leave(w, worker), "the redriver's request never completes");
    return dice(w, 20) > 0;
}

/* A slow one keeps nobody waiting for too long. */
static void disks_hurry(struct world *w)
{
    for (unsigned i = 0; i < w->shards; i++)
        simulated_disk_faults(w->disks[i])->latency_max_ns = NANOSECONDS_PER_MS;
}

#define BURIED_FOR_MS   60u /* longer than a thread stands still */
#define BURIED_AFTER_MS 5000u

/* Where storage has failed, dead letters are tried again each second: not while somebody is at it.
 * Who never ends is found by what is checked next. */
static void await_burials(struct world *w)
{
    unsigned calm = 0;

    for (unsigned i = 0; i < BURIED_AFTER_MS && calm < BURIED_FOR_MS; i++) {
        world_run(w, NANOSECONDS_PER_MS);
        calm++;
        for (unsigned n = 0; n < w->workers; n++)
            calm = worker_is_burying(w->members[n].worker) ? 0 : calm;
    }
}

static bool remotes_are_getting(const struct world *w)
{
    for (unsigned i = 0; i < w->remote_count; i++) {
        if (remote_is_getting(w->remotes[i]))
            return true;
    }
    return false;
}

#define REST_TURNS_MAX 1000u

/* Everybody waits, and longer where much has to go through a narrow stream: what a remote gets it
 * may reply to, and the confirm stands behind what is still to come. */
static void rest(struct world *w)
{
    unsigned turns = 30, i;

    for (i = 0; i < w->remote_count; i++)
        turns = remote_is_silent(w->remotes[i]) ? 40 : turns; /* until that is noticed */
    w->resting = true;
    for (i = 0; i < turns || (i < REST_TURNS_MAX && remotes_are_getting(w)); i++) {
        for (unsigned a = 0; a < ACTORS; a++)
            actor_rest(&w->actors[a]);
        mortals_rest(w);
        for (unsigned n = 0; n < w->remote_count; n++)
            remote_rest(w->remotes[n], i);
        world_run(w, 100 * NANOSECONDS_PER_MS);
    }
    w->resting = false;
    CHECK(w, i < REST_TURNS_MAX, "a remote is given messages, and there is no end of it");
    await_burials(w);
}

/* All that was asked has come to an end, and who can get something has it. */
static void check_rest(struct world *w)
{
    disks_hurry(w);
    trace(w, "rest");
    rest(w);
    for (unsigned i = 0; i < ACTORS; i++)
        actor_check_rest(&w->actors[i]);
    for (unsigned i = 0; i < w->remote_count; i++)
        remote_check_rest(w->remotes[i]);
    for (unsigned i = 0; i < w->workers; i++) {
        worker_check(w->members[i].worker);
        worker_check_rest(w->members[i].worker);
        worker_check_same_catalog(w->members[i].worker, w->members[0].worker);
    }
    standing_check(w);
    mortals_check_rest(w);
}

/* Nobody is there any more: the workers agree, and owe each other nothing. */
static void check_quiet(struct world *w)
{
    uint64_t sent = 0, received = 0;

    disks_hurry(w);
    world_run(w, 2000 * NANOSECONDS_PER_MS);
    await_burials(w);
    for (unsigned i = 0; i < w->workers; i++) {
        struct worker_statistics statistics;
        worker_statistics(w->members[i].worker, &statistics);
        sent += statistics.letters_sent;
        received += statistics.letters_received;
        worker_check(w->members[i].worker);
        worker_check_quiet(w->members[i].worker);
        worker_check_same_catalog(w->members[i].worker, w->members[0].worker);
    }
    CHECK(w, sent == received, "%" PRIu64 " letters were sent, and %" PRIu64 " read", sent,
          received);
    standing_check(w);
    mortals_check_rest(w);
}

/* They have stopped, or not started. */
static void free_workers(struct world *w, unsigned first)
{
    for (unsigned i = 0; i < w->workers; i++) {
        struct member *member = &w->members[(first + i) % w->workers];
        worker_free(member->worker);
        member->worker = NULL;
        for (unsigned s = 0; s < SHARDS_MAX && member->stores[s]; s++)
            store_free(member->stores[s]);
    }
    free_loops(w);
}

static bool all_stopped(const struct world *w)
{
    for (unsigned i = 0; i < w->workers; i++) {
        if (!w->members[i].stopped)
            return false;
    }
    return true;
}

/* An actor, or a remote or a mourner, if there are any. */
static void somebody_acts(struct world *w)
{
    if (redriver_wants_to_act(w))
        redriver_act(w);
    else if (w->mortals && mortal_dice(w->mortals, 2))
        mortals_act(w);
    else if (w->remote_count > 0 && dice(w, 2))
        remote_act(w->remotes[dice(w, w->remote_count)]);
    else
        actor_act(&w->actors[dice(w, ACTORS)]);
}

/* One of those whose worker is not stopping. */
static void others_act(struct world *w)
{
    struct actor *actor = &w->actors[dice(w, ACTORS)];

    if (redriver_wants_to_act(w))
        redriver_act(w);
    else if (w->mortals && mortal_dice(w->mortals, 2))
        mortals_act(w);
    else if (w->remote_count > 0 && dice(w, 2))
        remote_act(w->remotes[dice(w, w->remote_count)]);
    else if (actor->client && !w->members[actor->worker].stopping)
        actor_act(actor);
}

/* Worker after worker loses its clients and stops, or all lose them first. Sometimes the power goes
 * meanwhile: false. */
static bool end_clean(struct world *w)
{
    unsigned first = (unsigned)dice(w, w->workers);
    bool together = dice(w, 2);
    bool power = true;

    if (dice(w, 2))
        check_rest(w);
    trace(w, "stop%s", together ? ", together" : "");
    for (unsigned i = 0; together && power && i < w->workers; i++)
        power = close_clients(w, i);
    if (together && power)
        check_quiet(w);
    for (unsigned i = 0; power && i < w->workers; i++) {
        struct member *member = &w->members[(first + i) % w->workers];
        member->stopping = true;
        power = close_clients(w, (first + i) % w->workers);
        if (power)
            worker_stop(member->worker, on_stopped, member);
        for (uint64_t n = dice(w, 3) ? 0 : dice(w, 100); n > 0; n--) {
            others_act(w);
            world_run(w, dice(w, NANOSECONDS_PER_MS));
        }
    }
    uint64_t turns = dice(w, 10) ? 10000 : dice(w, 30);
    for (uint64_t i = 0; power && i < turns && !all_stopped(w); i++)
        world_run(w, turns < 100 ? dice(w, NANOSECONDS_PER_MS) : 10 * NANOSECONDS_PER_MS);
    if (!power || !all_stopped(w)) {
        CHECK(w, !power || turns < 100, "not all workers stop");
        end_crash(w);
        return false;
    }
    free_workers(w, first);
    return true;
}

/* ---- in between ---- */

static uint64_t segments_removed(const struct world *w)
{
    uint64_t removed = 0;

    for (unsigned i = 0; i < w->workers; i++) {
        struct worker_statistics statistics;
        worker_statistics(w->members[i].worker, &statistics);
        removed += statistics.log.segments_removed;
    }
    return removed;
}

/* Some lives end when a log has just given up something, where a crash shows whether it could. */
static void live(struct world *w)
{
    uint64_t steps = 20 + dice(w, 250);
    uint64_t until = dice(w, 2) ? 0 : segments_removed(w) + 1 + dice(w, 2);

    standing_life_begins(w);
    for (unsigned i = 0; i < ACTORS; i++)
        actor_open(w, i);
    for (uint64_t i = 0; i < steps; i++) {
        somebody_acts(w);
        locks_act(w);
        if (dice(w, 40) == 0)
            simulated_pause(w->members[dice(w, w->workers)].loop, dice(w, 50 * NANOSECONDS_PER_MS));
        if (dice(w, 500) == 0)
            world_run(w, dice(w, 4000 * NANOSECONDS_PER_MS));
        for (unsigned turn = dice(w, 2) ? 0 : dice(w, 5) ? 5 : 200; turn > 0; turn--) {
            world_run(w, 100000);
            if (until && segments_removed(w) >= until)
                return;
        }
    }
    for (unsigned i = 0; i < w->workers; i++)
        worker_check(w->members[i].worker);
}

/* The last life: no faults; everything that is there is taken out, by whomever. */
static void drain(struct world *w)
{
    standing_life_begins(w);
    for (unsigned i = 0; i < ACTORS; i++)
        actor_open(w, i);
    for (unsigned q = 0; q < QUEUES; q++) {
        struct actor *actor = &w->actors[dice(w, ACTORS)];
        for (unsigned i = 0; i < 2000 && !actor->ready; i++)
            world_run(w, NANOSECONDS_PER_MS);
        CHECK(w, actor->ready, "no login");
        for (;;) {
            size_t before = actor->lease_count;
            actor_get(actor, q);
            for (unsigned i = 0; i < 100000 && actor->busy; i++)
                world_run(w, 100000);
            CHECK(w, !actor->busy, "a get never completes");
            if (actor->lease_count == before)
                break;
            w->known[actor->lease_ids[before]].present_at_end = true;
            while (actor->lease_count > LEASES_MAX / 2)
                actor_settle(actor, actor->lease_count - 1, OUTCOME_ACCEPT);
        }
        w->standings[q].drained_id = actor->request.failure.code == 0 ? actor->asked_id : 0;
    }
}

/* ---- faults ---- */

/* Of some of the disks; each does what it does on its own. */
static void set_faults(struct world *w)
{
    bool all = dice(w, 2);
    unsigned slow = (unsigned)(dice(w, 4) ? w->shards : dice(w, w->shards)); /* others are ahead */

    for (unsigned i = 0; i < w->shards; i++) {
        struct simulated_faults *f = simulated_disk_faults(w->disks[i]);
        uint64_t latency_ms = i == slow ? 50 : dice(w, 5);
        *f = (struct simulated_faults){.latency_max_ns = 1 + latency_ms * NANOSECONDS_PER_MS};
        if (w->options->fault && strcmp(w->options->fault, "forget-syncs") == 0)
            f->forget_syncs = true;
        if (!all && dice(w, 2))
            continue;
        switch (w->seed % 8) {
        case 1:
            f->write_fails_ppm = 20000;
            break;
        case 2:
            f->sync_fails_ppm = 20000;
            break;
        case 3:
            f->read_fails_ppm = 20000;
            break;
        case 4:
            f->flip_ppm = 20000;
            break;
        case 5:
            f->capacity = 12u << 20;
            break;
        default:
            break;
        }
    }
}

static void clear_faults(struct world *w)
{
    for (unsigned i = 0; i < w->shards; i++) {
        struct simulated_faults *f = simulated_disk_faults(w->disks[i]);
        *f = (struct simulated_faults){.latency_max_ns = 1000, .forget_syncs = f->forget_syncs};
    }
}

/* True: it ended with all in order and on disk. */
static bool one_life(struct world *w)
{
    set_faults(w);
    enum begun begun = begin_life(w, true);
    if (begun == BEGUN_BADLY && dice(w, 2)) {
        free_workers(w, (unsigned)dice(w, w->workers));
        return false;
    }
    if (begun != BEGUN_WELL) {
        end_crash(w);
        return false;
    }
    live(w);
    if (dice(w, 4) == 0)
        return end_clean(w);
    end_crash(w);
    return false;
}

static void last_life(struct world *w)
{
    clear_faults(w);
    w->draining = true;
    if (begin_life(w, false) == BEGUN_WELL) {
        drain(w);
        model_judge(w);
        mortals_drain(w);
        redriver_drain(w);
        end_clean(w);
    } else {
        CHECK(w, world_flipped(w), "the workers do not start without any fault: %s", "see above");
        end_crash(w);
    }
}

/* Half of all; not by dice, so that the others are as they were. */
static bool has_mortals(uint64_t seed)
{
    return (seed * 0x9e3779b97f4a7c15ull >> 45) % 2 == 0;
}

/* A half of them, of those with mortals and of those without. */
static bool has_locks(uint64_t seed)
{
    return (seed * 0x9e3779b97f4a7c15ull >> 37) % 2 == 0;
}

static bool has_redriver(uint64_t seed)
{
    return (seed * 0x9e3779b97f4a7c15ull >> 47) % 2 == 0;
}

void world_run_seed(struct world *w, const struct options *options, uint64_t seed,
                    struct room *room)
{
    *w = (struct world){.seed = seed,
                        .options = options,
                        .room = room,
                        .known = room->known,
                        .settling = room->settling,
                        .transactions = room->transactions};
    w->random_state = w->seed * 0x9e3779b97f4a7c15ull + 1;
    w->logger =
        (struct logger){.level = LOG_DEBUG, .descriptor = -1, .line = on_line, .context = w};
    for (unsigned i = 0; i < ACTORS; i++)
        w->actors[i].window = room->windows[i];
    for (unsigned remotes = dice(w, 2) ? REMOTES : 0; w->remote_count < remotes; w->remote_count++)
        remote_init(w, w->remote_count);
    if (has_mortals(seed))
        w->mortals = mortals_new(w);
    if (has_locks(seed))
        w->locks = locks_new(w);
    if (has_redriver(seed))
        w->redriver = redriver_new(w);
    w->shards = 1;
    w->disks[0] = simulated_disk_new(w->seed * SHARDS_MAX);
    uint64_t lives = 1 + dice(w, LIVES_MAX);
    while (w->life < lives) {
        bool clean = one_life(w);
        mortals_life_over(w, clean);
        locks_life_over(w);
        redriver_life_over(w, clean);
        model_life_over(w);
        standing_life_over(w);
        w->life++;
    }
    last_life(w);
    locks_life_over(w);
    for (unsigned i = 0; i < w->shards; i++)
        simulated_disk_free(w->disks[i]);
    for (unsigned i = 0; i < w->remote_count; i++)
        remote_fini(w->remotes[i]);
    free(w->mortals);
    if (w->locks)
        locks_free(w->locks);
    free(w->redriver);
}
