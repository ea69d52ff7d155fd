/* For tests: a process of several workers in virtual time, over simulated disks, and a client for
 * each of its workers. Included by one source file of a test. */
#ifndef SLUICE_BROKER_TEST_WORLD_H
#define SLUICE_BROKER_TEST_WORLD_H

#include "base/memory.h"
#include "broker/part.h"
#include "loop/mail.h"
#include "loop/simulated.h"
#include "store/simulated/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#define MAYBE_UNUSED __attribute__((unused))

#define WORKERS_MAX 3u
#define SHARDS_MAX  6u

/* ---- a world of several workers ---- */

struct actor {
    struct client *client;
    struct request request;
    bool is_done;

    /* for tests that consume or confirm; NULL: not expected */
    int (*deliver)(struct actor *actor, const struct delivery *delivery);
    uint64_t confirmed, refused;
    bool is_cancelled;
    void *context;
};

struct world {
    unsigned workers, shards;
    uint64_t seed;
    size_t checkpoint_bytes;
    struct simulated_disk *disks[SHARDS_MAX];
    struct logger logger;
    bool is_verbose;
    unsigned errors;   /* in the log */
    unsigned in_doubt; /* starts of a shard that was */
    unsigned in_doubt_now;
    uint32_t jump_ppm;

    /* of one life: */
    struct loop *loops[WORKERS_MAX];
    struct office *office;
    struct store *stores[SHARDS_MAX];
    struct store *hosted[WORKERS_MAX][SHARDS_MAX];
    struct worker *worker[WORKERS_MAX];
    unsigned started, stopped;
    int result;
    struct actor actors[2 * WORKERS_MAX]; /* the second half: one more on each worker */
};

static MAYBE_UNUSED void on_line(void *context, enum log_level level, const char *category,
                                 const char *text)
{
    struct world *w = context;

    w->errors += level >= LOG_ERROR;
    w->in_doubt += strstr(text, "in doubt") != NULL;
    w->in_doubt_now += strstr(text, "in doubt") != NULL;
    if (w->is_verbose)
        fprintf(stderr, "[%s] %s\n", category, text);
}

static MAYBE_UNUSED void on_started(void *context, const struct worker_started *what)
{
    struct world *w = context;

    w->started++;
    w->result = w->result ? w->result : what->result;
}

static MAYBE_UNUSED void on_stopped(void *context)
{
    ((struct world *)context)->stopped++;
}

static MAYBE_UNUSED void on_completed(void *session, struct request *request)
{
    CONTAINER_OF(request, struct actor, request)->is_done = true;
    (void)session;
}

static int on_deliver(void *session, void *cookie, const struct delivery *delivery)
{
    struct actor *a = session;

    (void)cookie;
    assert_non_null(a->deliver);
    return a->deliver(a, delivery);
}

static void on_confirmed(void *session, void *cookie, uint64_t last, bool accepted)
{
    struct actor *a = session;

    (void)cookie;
    a->refused += accepted ? 0 : last - a->confirmed;
    a->confirmed = last;
}

static void on_cancelled(void *session, void *cookie)
{
    (void)cookie;
    ((struct actor *)session)->is_cancelled = true;
}

static void on_flow(void *session, enum flow flow)
{
    (void)session;
    (void)flow;
}

static const struct client_events events = {
    .completed = on_completed,
    .deliver = on_deliver,
    .confirmed = on_confirmed,
    .cancelled = on_cancelled,
    .flow = on_flow,
};

static MAYBE_UNUSED void world_init(struct world *w, unsigned workers, unsigned shards,
                                    uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->workers = workers;
    w->shards = shards;
    w->seed = seed;
    w->checkpoint_bytes = 256u << 20;
    w->jump_ppm = 10000;
    w->logger = (struct logger){.level = LOG_INFO, .descriptor = -1, .line = on_line, .context = w};
    w->is_verbose = getenv("VERBOSE") != NULL;
    for (unsigned i = 0; i < shards; i++) {
        w->disks[i] = simulated_disk_new(seed * 100 + i);
        simulated_disk_faults(w->disks[i])->latency_max_ns = NANOSECONDS_PER_MS;
    }
}

static MAYBE_UNUSED void world_fini(struct world *w)
{
    for (unsigned i = 0; i < w->shards; i++)
        simulated_disk_free(w->disks[i]);
}

static MAYBE_UNUSED void run(struct world *w)
{
    simulated_run_turns(w->loops[0], 1);
}

#define RUN_UNTIL(w, condition)                                                                    \
    do {                                                                                           \
        for (unsigned turn_ = 0; turn_ < 200000 && !(condition); turn_++)                          \
            run(w);                                                                                \
        assert_true(condition);                                                                    \
    } while (0)

static MAYBE_UNUSED void worker_begin(struct world *w, unsigned index)
{
    struct worker_options options;
    unsigned count = 0;

    for (unsigned s = index; s < w->shards; s += w->workers) {
        struct failure failure;
        assert_int_equal(
            store_simulated_open(w->loops[index], w->disks[s], &w->stores[s], &failure), 0);
        w->hosted[index][count++] = w->stores[s];
    }
    worker_options_default(&options);
    options.loop = w->loops[index];
    options.index = index;
    options.count = w->workers;
    options.office = w->office;
    options.stores = w->hosted[index];
    options.store_count = count;
    options.shard_count = w->shards;
    options.logger = &w->logger;
    options.password_cost = (struct password_cost){8, 1};
    options.log.segment_bytes_min = options.log.segment_bytes_max = 1u << 20;
    options.log.checkpoint_bytes = (uint32_t)w->checkpoint_bytes;
    options.log.disk_reserve_bytes = 2u << 20;
    w->worker[index] = worker_start(&options, on_started, w);
}

static MAYBE_UNUSED void world_start(struct world *w)
{
    w->seed++;
    w->loops[0] = loop_new_simulated(w->seed);
    for (unsigned i = 1; i < w->workers; i++)
        w->loops[i] = loop_new_simulated_beside(w->loops[0]);
    w->office = w->workers > 1 ? office_new(w->workers) : NULL;
    simulated_options(w->loops[0])->jump_ppm = w->jump_ppm;
    for (unsigned i = 1; i < w->workers; i++)
        simulated_options(w->loops[i])->jump_ppm = w->jump_ppm;
    w->started = w->stopped = w->in_doubt_now = 0;
    w->result = 0;
    memset(w->actors, 0, sizeof w->actors);
    for (unsigned i = 0; i < w->workers; i++)
        worker_begin(w, i);
    RUN_UNTIL(w, w->started == w->workers);
    assert_int_equal(w->result, 0);
}

/* All of it, at once. Clients are the workers' to free. */
static MAYBE_UNUSED void world_crash(struct world *w)
{
    for (unsigned i = 0; i < w->shards; i++)
        simulated_disk_crash(w->disks[i]);
    for (unsigned i = 0; i < w->workers; i++)
        worker_abandon(w->worker[i]);
    if (w->office)
        office_free(w->office);
    for (unsigned i = w->workers; i-- > 0;)
        loop_free(w->loops[i]);
}

static MAYBE_UNUSED void world_stop(struct world *w)
{
    for (unsigned i = 0; i < 2 * WORKERS_MAX; i++) {
        struct actor *a = &w->actors[i];
        if (!a->client)
            continue;
        client_close(a->client);
        RUN_UNTIL(w, client_idle(a->client));
        client_free(a->client);
    }
    for (unsigned i = 0; i < w->workers; i++)
        worker_check(w->worker[i]);
    for (unsigned i = 0; i < w->workers; i++)
        worker_stop(w->worker[i], on_stopped, w);
    RUN_UNTIL(w, w->stopped == w->workers);
    for (unsigned i = 0; i < w->workers; i++)
        worker_free(w->worker[i]);
    if (w->office)
        office_free(w->office);
    for (unsigned i = 0; i < w->shards; i++)
        store_free(w->stores[i]);
    for (unsigned i = w->workers; i-- > 0;)
        loop_free(w->loops[i]);
}

/* The end of a test in which nothing has gone wrong. */
static MAYBE_UNUSED void world_end(struct world *w)
{
    world_stop(w);
    assert_int_equal(w->errors, 0);
    world_fini(w);
}

/* ---- clients ---- */

static MAYBE_UNUSED void complete(struct world *w, struct actor *a, int outcome)
{
    if (outcome == PENDING)
        RUN_UNTIL(w, a->is_done);
    a->is_done = false;
}

#define DO(w, a, call)                                                                             \
    do {                                                                                           \
        complete(w, a, call);                                                                      \
        assert_string_equal((a)->request.failure.text, "");                                        \
    } while (0)

static MAYBE_UNUSED struct actor *open_one(struct world *w, struct actor *a, unsigned worker)
{
    struct failure failure;

    if (a->client)
        return a;
    a->client = client_open(
        w->worker[worker],
        &(struct client_options){
            .events = &events, .session = a, .protocol = "test", .peer_is_loopback = true},
        &failure);
    assert_non_null(a->client);
    DO(w, a, broker_login(a->client, &a->request, slice_text("guest"), slice_text("guest")));
    DO(w, a, broker_enter(a->client, &a->request, slice_text("/")));
    return a;
}

static MAYBE_UNUSED struct actor *open_actor(struct world *w, unsigned index)
{
    return open_one(w, &w->actors[index], index);
}

static MAYBE_UNUSED struct actor *open_another(struct world *w, unsigned index)
{
    return open_one(w, &w->actors[WORKERS_MAX + index], index);
}

static MAYBE_UNUSED void declare(struct world *w, unsigned worker, const char *name, bool durable)
{
    struct actor *a = open_actor(w, worker);
    struct queue_spec spec = {.name = slice_text(name), .durable = durable};

    DO(w, a, broker_declare_queue(a->client, &a->request, &spec));
}

static MAYBE_UNUSED struct message *message_for(struct actor *a, const char *queue,
                                                const char *body, bool persistent)
{
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = persistent ? MESSAGE_PERSISTENT : 0,
        .key = slice_text(queue),
        .properties = slice_of("\0\0", 2),
        .body = slice_text(body),
    };
    struct message *message = message_new(broker_message_account(a->client), &parts);

    assert_non_null(message);
    return message;
}

/* A lease; the body is told. False: empty. */
static MAYBE_UNUSED bool get(struct world *w, struct actor *a, const char *queue,
                             struct lease *lease, char body[16])
{
    DO(w, a, broker_get(a->client, &a->request, slice_text(queue), false));
    struct delivery *delivery = &a->request.result.get.delivery;
    if (!delivery->message)
        return false;
    struct slice bytes = message_body(delivery->message);
    snprintf(body, 16, "%.*s", (int)bytes.size, (const char *)bytes.data);
    *lease = delivery->lease;
    message_unref(delivery->message);
    return true;
}

#endif
