/*
 * Transactions over the shards of three workers, in virtual time: whole or not at all, whenever
 * everything crashes.
 */
#include "broker/worker.h"
#include "base/memory.h"
#include "loop/mail.h"
#include "loop/simulated.h"
#include "store/simulated/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

#define WORKERS_MAX 3u
#define SHARDS_MAX  6u
#define LEASES_MAX  4096u

/* ---- a world of several workers ---- */

struct actor {
    struct client *client;
    struct request request;
    bool is_done;
};

struct world {
    unsigned workers, shards;
    uint64_t seed;
    size_t checkpoint_bytes;
    struct simulated_disk *disks[SHARDS_MAX];
    struct logger logger;
    bool is_verbose;
    unsigned errors;   /* in the log */
    unsigned in_doubt; /* starts with a shard that was */

    /* of one life: */
    struct loop *loops[WORKERS_MAX];
    struct office *office;
    struct store *stores[SHARDS_MAX];
    struct store *hosted[WORKERS_MAX][SHARDS_MAX];
    struct worker *worker[WORKERS_MAX];
    unsigned started, stopped;
    int result;
    struct actor actors[WORKERS_MAX];
};

static void on_line(void *context, enum log_level level, const char *category, const char *text)
{
    struct world *w = context;

    w->errors += level >= LOG_ERROR;
    w->in_doubt += strstr(text, "in doubt") != NULL;
    if (w->is_verbose)
        fprintf(stderr, "[%s] %s\n", category, text);
}

static void on_started(void *context, const struct worker_started *what)
{
    struct world *w = context;

    w->started++;
    w->result = w->result ? w->result : what->result;
}

static void on_stopped(void *context)
{
    ((struct world *)context)->stopped++;
}

static void on_completed(void *session, struct request *request)
{
    CONTAINER_OF(request, struct actor, request)->is_done = true;
    (void)session;
}

static const struct client_events events = {.completed = on_completed};

static void world_init(struct world *w, unsigned workers, unsigned shards, uint64_t seed)
{
    memset(w, 0, sizeof *w);
    w->workers = workers;
    w->shards = shards;
    w->seed = seed;
    w->checkpoint_bytes = 256u << 20;
    w->logger = (struct logger){.level = LOG_INFO, .descriptor = -1, .line = on_line, .context = w};
    w->is_verbose = getenv("VERBOSE") != NULL;
    for (unsigned i = 0; i < shards; i++) {
        w->disks[i] = simulated_disk_new(seed * 100 + i);
        simulated_disk_faults(w->disks[i])->latency_max_ns = NANOSECONDS_PER_MS;
    }
}

static void world_fini(struct world *w)
{
    for (unsigned i = 0; i < w->shards; i++)
        simulated_disk_free(w->disks[i]);
}

static void run(struct world *w)
{
    simulated_run_turns(w->loops[0], 1);
}

#define RUN_UNTIL(w, condition)                                                                    \
    do {                                                                                           \
        for (unsigned turn_ = 0; turn_ < 200000 && !(condition); turn_++)                          \
            run(w);                                                                                \
        assert_true(condition);                                                                    \
    } while (0)

static void worker_begin(struct world *w, unsigned index)
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

static void world_start(struct world *w)
{
    w->seed++;
    w->loops[0] = loop_new_simulated(w->seed);
    for (unsigned i = 1; i < w->workers; i++)
        w->loops[i] = loop_new_simulated_beside(w->loops[0]);
    w->office = w->workers > 1 ? office_new(w->workers) : NULL;
    w->started = w->stopped = 0;
    w->result = 0;
    memset(w->actors, 0, sizeof w->actors);
    for (unsigned i = 0; i < w->workers; i++)
        worker_begin(w, i);
    RUN_UNTIL(w, w->started == w->workers);
    assert_int_equal(w->result, 0);
}

/* All of it, at once. Clients are the workers' to free. */
static void world_crash(struct world *w)
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

static void world_stop(struct world *w)
{
    for (unsigned i = 0; i < w->workers; i++) {
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

/* ---- clients ---- */

static void complete(struct world *w, struct actor *a, int outcome)
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

static struct actor *open_actor(struct world *w, unsigned index)
{
    struct actor *a = &w->actors[index];
    struct failure failure;

    if (a->client)
        return a;
    a->client = client_open(
        w->worker[index],
        &(struct client_options){
            .events = &events, .session = a, .protocol = "test", .peer_is_loopback = true},
        &failure);
    assert_non_null(a->client);
    DO(w, a, broker_login(a->client, &a->request, slice_text("guest"), slice_text("guest")));
    DO(w, a, broker_enter(a->client, &a->request, slice_text("/")));
    return a;
}

static void declare(struct world *w, unsigned worker, const char *name, bool durable)
{
    struct actor *a = open_actor(w, worker);
    struct queue_spec spec = {.name = slice_text(name), .durable = durable};

    DO(w, a, broker_declare_queue(a->client, &a->request, &spec));
}

static struct message *message_for(struct actor *a, const char *queue, const char *body,
                                   bool persistent)
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

static void publish(struct world *w, struct actor *a, const char *queue, const char *body)
{
    struct message *message = message_for(a, queue, body, true);
    struct publish publish = {.message = message};
    const struct settlement none = {0};

    DO(w, a, broker_transact(a->client, &a->request, &publish, 1, &none, 0));
    assert_int_equal(publish.queues, 1);
    message_unref(message);
}

/* A lease; the body is told. False: empty. */
static bool get(struct world *w, struct actor *a, const char *queue, struct lease *lease,
                char body[16])
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

/* Takes everything out: "old new " and so on, in the order that it comes. */
static const char *drain(struct world *w, const char *queue, char text[256])
{
    struct actor *a = open_actor(w, 0);
    struct lease lease;
    char body[16];

    text[0] = 0;
    while (get(w, a, queue, &lease, body)) {
        broker_settle(a->client, &lease, 1, OUTCOME_ACCEPT);
        size_t size = strlen(text);
        snprintf(text + size, 256 - size, "%s ", body);
    }
    return text;
}

/* ---- the transaction of these tests: of each queue it takes "old" and puts in "new" ---- */

static const char *const names[] = {"a", "b", "c"};

struct exchange_of_messages {
    struct message *messages[3];
    struct publish publishes[3];
    struct settlement settlements[3];
    unsigned count;
};

static void prepare_world(struct world *w, bool durable)
{
    for (unsigned i = 0; i < 3; i++) {
        declare(w, i % w->workers, names[i], durable);
        publish(w, open_actor(w, (i + 1) % w->workers), names[i], "old");
    }
}

static void begin(struct world *w, struct actor *a, struct exchange_of_messages *x, unsigned count)
{
    char body[16];

    x->count = count;
    for (unsigned i = 0; i < count; i++) {
        assert_true(get(w, a, names[i], &x->settlements[i].lease, body));
        assert_string_equal(body, "old");
        x->settlements[i].outcome = OUTCOME_ACCEPT;
        x->messages[i] = message_for(a, names[i], "new", true);
        x->publishes[i] = (struct publish){.message = x->messages[i]};
    }
}

static int commit(struct actor *a, struct exchange_of_messages *x)
{
    return broker_transact(a->client, &a->request, x->publishes, x->count, x->settlements,
                           x->count);
}

static void over(struct exchange_of_messages *x)
{
    for (unsigned i = 0; i < x->count; i++)
        message_unref(x->messages[i]);
}

/* ---- tests ---- */

static void commits_over_three_shards(void **state)
{
    struct world w;
    struct exchange_of_messages x;
    char text[256];

    (void)state;
    for (unsigned from = 0; from < 3; from++) {
        world_init(&w, 3, 3, 1 + from);
        world_start(&w);
        prepare_world(&w, from != 1);
        struct actor *a = open_actor(&w, from);
        begin(&w, a, &x, 3);
        DO(&w, a, commit(a, &x));
        over(&x);
        /* from where it was made its own writes are found at once */
        struct lease lease;
        char body[16];
        assert_true(get(&w, a, "c", &lease, body));
        assert_string_equal(body, "new");
        broker_settle(a->client, &lease, 1, OUTCOME_RETURN);
        simulated_run_for(w.loops[0], 10 * NANOSECONDS_PER_MS); /* the others look from elsewhere */
        for (unsigned i = 0; i < 3; i++)
            assert_string_equal(drain(&w, names[i], text), "new ");
        world_stop(&w);
        assert_int_equal(w.errors, 0);
        world_fini(&w);
    }
}

/* The client of a worker with none of the queues, and more shards than workers. */
static void one_shard_elsewhere(void **state)
{
    struct world w;
    struct exchange_of_messages x;
    char text[256];

    (void)state;
    world_init(&w, 2, 5, 7);
    world_start(&w);
    prepare_world(&w, true);
    struct actor *a = open_actor(&w, 1);
    begin(&w, a, &x, 1);
    DO(&w, a, commit(a, &x));
    over(&x);
    assert_string_equal(drain(&w, "a", text), "new ");
    world_stop(&w);
    world_fini(&w);
}

/* Crashes after so many turns of the commit, and again after so many of the next start's work. */
static void crash_after(struct world *w, unsigned turns, unsigned more_turns, bool *is_over,
                        unsigned *seen)
{
    struct exchange_of_messages x;
    char text[256];
    unsigned old = 0, new = 0;

    world_start(w);
    prepare_world(w, true);
    unsigned from = (unsigned)(w->seed % w->workers);
    struct actor *a = open_actor(w, from);
    begin(w, a, &x, 3);
    int outcome = commit(a, &x);
    for (unsigned i = 0; i < turns && outcome == PENDING && !a->is_done; i++)
        run(w);
    *is_over = outcome == DONE || a->is_done;
    bool answered = *is_over;
    if (answered) {
        assert_int_equal(a->request.failure.code, 0);
        for (unsigned i = 0; i < more_turns; i++)
            run(w);
    }
    over(&x);
    world_crash(w);
    if (more_turns) {
        world_start(w);
        for (unsigned i = 0; i < more_turns; i++)
            run(w);
        world_crash(w);
    }
    world_start(w);
    /* what is in doubt is found out by the workers themselves */
    simulated_run_for(w->loops[0], 100 * NANOSECONDS_PER_MS);
    for (unsigned i = 0; i < 3; i++) {
        drain(w, names[i], text);
        old += strcmp(text, "old ") == 0;
        new += strcmp(text, "new ") == 0;
    }
    if (old + new != 3 || (old > 0 && new > 0) || (answered && old > 0))
        fail_msg("after %u and %u turns (seed %u): %u old, %u new, %sanswered; %s", turns,
                 more_turns, (unsigned)w->seed, old, new, answered ? "" : "not ", text);
    *seen |= old ? 1 : 2;
    world_stop(w);
    /* and there is nothing left of it */
    world_start(w);
    for (unsigned i = 0; i < 3; i++)
        assert_string_equal(drain(w, names[i], text), "");
    world_stop(w);
    assert_int_equal(w->errors, 0);
}

static void crashes(unsigned workers, unsigned shards, size_t checkpoint_bytes)
{
    unsigned seen = 0, tried = 0, in_doubt = 0;

    const char *seeds = getenv("SEEDS");
    uint64_t last = seeds ? strtoull(seeds, NULL, 10) : 25;
    for (uint64_t seed = 1; seed <= last; seed++) {
        bool is_over = false;
        for (unsigned turns = 0; !is_over && turns < 2000; turns++, tried++) {
            struct world w;
            world_init(&w, workers, shards, seed * 1000 + turns);
            w.checkpoint_bytes = checkpoint_bytes;
            crash_after(&w, turns, turns % 3 ? (unsigned)(w.seed * 7 % 40) : 0, &is_over, &seen);
            in_doubt += w.in_doubt;
            world_fini(&w);
        }
    }
    print_message("%u crashes, %u shards in doubt\n", tried, in_doubt);
    assert_int_equal(seen, 3); /* both ends */
    assert_true(tried > 20 && in_doubt > 20);
}

static void whole_or_not_at_all(void **state)
{
    (void)state;
    crashes(3, 3, 256u << 20);
}

static void whole_or_not_with_checkpoints(void **state)
{
    (void)state;
    crashes(3, 3, 500);
}

static void whole_or_not_with_two_workers(void **state)
{
    (void)state;
    crashes(2, 5, 500);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits_over_three_shards),
        cmocka_unit_test(one_shard_elsewhere),
        cmocka_unit_test(whole_or_not_at_all),
        cmocka_unit_test(whole_or_not_with_checkpoints),
        cmocka_unit_test(whole_or_not_with_two_workers),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
