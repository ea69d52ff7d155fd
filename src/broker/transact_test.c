/*
 * Transactions over the shards of three workers, in virtual time: whole or not at all, whenever
 * everything crashes.
 */
#include "broker/peer.h"
#include "broker/test_world.h"

/* Takes everything out; both kinds come in the order in which they were published. */
struct found {
    unsigned old, new;
};

static struct found drain(struct world *w, const char *queue)
{
    struct actor *a = open_actor(w, 0);
    struct found found = {0};
    struct lease lease;
    char body[16];

    while (get(w, a, queue, &lease, body)) {
        broker_settle(a->client, &lease, 1, OUTCOME_ACCEPT);
        unsigned *count = body[0] == 'o' ? &found.old : &found.new;
        assert_int_equal(strtoul(body + 3, NULL, 10), *count);
        ++*count;
    }
    return found;
}

/* ---- the transaction of these tests: of each queue it takes all "old" and puts in "new" ---- */

#define EACH_MAX 4000u

static const char *const names[] = {"a", "b", "c"};

struct swap {
    struct message *messages[3 * EACH_MAX];
    struct publish publishes[3 * EACH_MAX];
    struct settlement settlements[3 * EACH_MAX];
    unsigned queues, each; /* so many old ones in so many queues */
    size_t count;
};

static void publish_old(struct world *w, const char *queue, unsigned each)
{
    struct actor *a = open_actor(w, 0);
    struct publish *publishes = memory_new((each + 1) * sizeof *publishes);
    const struct settlement none = {0};

    for (unsigned i = 0; i < each; i++) {
        char body[16];
        snprintf(body, sizeof body, "old%u", i);
        publishes[i] = (struct publish){.message = message_for(a, queue, body, true)};
    }
    DO(w, a, broker_transact(a->client, &a->request, publishes, each, &none, 0));
    for (unsigned i = 0; i < each; i++) {
        assert_int_equal(publishes[i].queues, 1);
        message_unref(publishes[i].message);
    }
    free(publishes);
}

static struct swap *swap_new(struct world *w, unsigned queues, unsigned each, bool durable)
{
    struct swap *x = memory_new(sizeof *x);

    x->queues = queues;
    x->each = each;
    x->count = queues * each;
    for (unsigned i = 0; i < 3; i++) {
        declare(w, i % w->workers, names[i], durable);
        publish_old(w, names[i], each);
    }
    return x;
}

/* As it is when it is asked to commit. */
static void swap_collect(struct world *w, struct actor *a, struct swap *x)
{
    char body[16];
    size_t at = 0;

    for (unsigned q = 0; q < x->queues; q++) {
        for (unsigned i = 0; i < x->each; i++, at++) {
            assert_true(get(w, a, names[q], &x->settlements[at].lease, body));
            x->settlements[at].outcome = OUTCOME_ACCEPT;
            snprintf(body, sizeof body, "new%u", i);
            x->messages[at] = message_for(a, names[q], body, true);
            x->publishes[at] = (struct publish){.message = x->messages[at]};
        }
    }
}

static int swap_commit(struct actor *a, struct swap *x)
{
    return broker_transact(a->client, &a->request, x->publishes, x->count, x->settlements,
                           x->count);
}

/* Before its worker goes. */
static void swap_release(struct swap *x)
{
    for (size_t i = 0; i < x->count && x->messages[i]; i++) {
        message_unref(x->messages[i]);
        x->messages[i] = NULL;
    }
}

static void swap_free(struct swap *x)
{
    swap_release(x);
    free(x);
}

enum end { NOTHING = 1, ALL = 2, IN_PART = 4 };

/* How it ended, for queues of which it has taken or given anything. */
static enum end swap_judge(struct world *w, const struct swap *x)
{
    struct found sum = {0};

    /* what is in doubt is found out by the workers themselves */
    simulated_run_for(w->loops[0], 200 * NANOSECONDS_PER_MS);
    for (unsigned q = 0; q < x->queues; q++) {
        struct found found = drain(w, names[q]);
        sum.old += found.old;
        sum.new += found.new;
    }
    if (sum.old == x->count && sum.new == 0)
        return NOTHING;
    if (sum.old == 0 && sum.new == x->count)
        return ALL;
    print_message("%u old, %u new\n", sum.old, sum.new);
    return IN_PART;
}

static void pass_time(struct world *w)
{
    simulated_run_for(w->loops[0], 20 * NANOSECONDS_PER_MS);
}

static uint64_t find_ready(const struct world *w, unsigned worker, const char *name)
{
    const struct vhost *vhost = catalog_vhost(&w->worker[worker]->catalog, slice_text("/"));
    return vhost_queue(vhost, slice_text(name))->hosted->queue.ready;
}

/* ---- tests ---- */

static void commits_over_three_shards(void **state)
{
    struct world w;

    (void)state;
    for (unsigned from = 0; from < 3; from++) {
        world_init(&w, 3, 3, 1 + from);
        world_start(&w);
        struct swap *x = swap_new(&w, 3, 2, from != 1);
        struct actor *a = open_actor(&w, from);
        swap_collect(&w, a, x);
        DO(&w, a, swap_commit(a, x));
        for (unsigned q = 0; q < 3; q++) { /* it finds its own writes at once */
            struct lease lease;
            char body[16];
            assert_true(get(&w, a, names[q], &lease, body));
            assert_string_equal(body, "new0");
            broker_settle(a->client, &lease, 1, OUTCOME_RETURN);
        }
        assert_int_equal(swap_judge(&w, x), ALL);
        swap_free(x);
        world_end(&w);
    }
}

/* From a worker that has no shard of it; more shards than workers. */
static void one_shard_elsewhere(void **state)
{
    struct world w;

    (void)state;
    for (unsigned each = 1; each < 400; each += 200) {
        world_init(&w, 2, 5, 7);
        world_start(&w);
        struct swap *x = swap_new(&w, 1, each, true);
        struct actor *a = open_actor(&w, 1);
        swap_collect(&w, a, x);
        DO(&w, a, swap_commit(a, x));
        assert_int_equal(swap_judge(&w, x), ALL);
        swap_free(x);
        world_end(&w);
    }
}

/* Nothing of it happened, also in the next life. */
static void expect_nothing(struct world *w, struct swap *x)
{
    pass_time(w);
    swap_release(x);
    if (w->seed % 2) {
        world_crash(w);
        world_start(w);
    }
    assert_int_equal(swap_judge(w, x), NOTHING);
    swap_free(x);
    world_end(w);
}

/* A commit that fails, with this code. */
static void expect_failure(struct world *w, struct actor *a, struct swap *x, int code,
                           const char *text)
{
    complete(w, a, swap_commit(a, x));
    assert_int_equal(a->request.failure.code, code);
    assert_non_null(strstr(a->request.failure.text, text));
    expect_nothing(w, x);
}

static struct message *large_message(struct actor *a, const char *queue, size_t size)
{
    char *body = memory_new(size + 1);

    memset(body, 'x', size);
    struct message *message = message_for(a, queue, body, true);
    free(body);
    return message;
}

/* What one shard has to log is limited; wherever that shard is, and whether others take part. */
static void too_large_for_one_shard(void **state)
{
    struct world w;

    (void)state;
    for (unsigned from = 0; from < 3; from++) {
        for (unsigned queues = 1; queues < 4; queues += 2) {
            world_init(&w, 3, 3, 20 + from + queues);
            world_start(&w);
            struct swap *x = swap_new(&w, queues, 50, true);
            struct actor *a = open_actor(&w, from);
            swap_collect(&w, a, x);
            for (size_t i = 0; i < x->count; i++) {
                if (i / 50 != queues - 1)
                    continue;
                message_unref(x->messages[i]);
                x->messages[i] = large_message(a, names[queues - 1], 200000);
                x->publishes[i].message = x->messages[i];
            }
            expect_failure(&w, a, x, E_LIMIT, "the transaction is larger than 8388608 bytes");
        }
    }
}

/* Between being collected and being asked: an exchange that is not there any more. */
static void a_publish_that_cannot_be(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 3, 3, 31);
    world_start(&w);
    struct swap *x = swap_new(&w, 3, 3, true);
    struct actor *a = open_actor(&w, 1);
    swap_collect(&w, a, x);
    struct message_parts parts = {.format = FORMAT_AMQP091,
                                  .exchange = slice_text("gone"),
                                  .key = slice_text("a"),
                                  .properties = slice_of("\0\0", 2)};
    message_unref(x->messages[8]);
    x->messages[8] = message_new(broker_message_account(a->client), &parts);
    x->publishes[8].message = x->messages[8];
    expect_failure(&w, a, x, E_NOT_FOUND, "no exchange 'gone'");
}

/* One participant's disk is full: all of it is undone. */
static void a_disk_is_full(void **state)
{
    struct world w;

    (void)state;
    for (unsigned disk = 0; disk < 3; disk++) {
        for (unsigned from = 0; from < 3; from++) {
            world_init(&w, 3, 3, 40 + disk + from);
            world_start(&w);
            struct swap *x = swap_new(&w, 3, 2, true);
            struct actor *a = open_actor(&w, from);
            swap_collect(&w, a, x);
            pass_time(&w);
            simulated_disk_faults(w.disks[disk])->capacity = 1 + simulated_disk_used(w.disks[disk]);
            complete(&w, a, swap_commit(a, x));
            assert_int_equal(a->request.failure.code, E_FULL);
            pass_time(&w);
            simulated_disk_faults(w.disks[disk])->capacity = 0;
            expect_nothing(&w, x);
        }
    }
}

/* The disk of one shard fails for good after so many turns. Whatever the client was told holds. */
static bool fail_after(struct world *w, unsigned disk, unsigned turns, unsigned *seen)
{
    world_start(w);
    struct swap *x = swap_new(w, 3, 2, true);
    struct actor *a = open_actor(w, (unsigned)(w->seed % 3));
    swap_collect(w, a, x);
    int outcome = swap_commit(a, x);
    for (unsigned i = 0; i < turns && !a->is_done; i++)
        run(w);
    bool is_late = a->is_done;
    simulated_disk_faults(w->disks[disk])->write_fails_ppm = 1000000;
    complete(w, a, outcome);
    struct failure failure = a->request.failure;
    pass_time(w);
    swap_release(x);
    world_crash(w);
    simulated_disk_faults(w->disks[disk])->write_fails_ppm = 0;
    world_start(w);
    enum end end = swap_judge(w, x);
    assert_true(end != IN_PART);
    bool is_open = strstr(failure.text, "is found out at the next start") != NULL;
    if (!is_open)
        assert_int_equal(end, failure.code == 0 ? ALL : NOTHING);
    *seen |= end | (is_open ? 4 * (unsigned)end : 0);
    swap_free(x);
    world_stop(w);
    return is_late;
}

static void a_disk_fails(void **state)
{
    unsigned seen = 0;

    (void)state;
    for (unsigned seed = 0; seed < 15; seed++) {
        bool is_late = false;
        for (unsigned turns = 0; !is_late; turns++) {
            struct world w;
            world_init(&w, 3, 3, 1000 * seed + turns);
            is_late = fail_after(&w, seed % 3, turns, &seen);
            world_fini(&w);
        }
    }
    assert_true((seen & 3) == 3);
    assert_true(seen & (4 * NOTHING)); /* some were open, and did not happen */
}

/* Crashes after so many turns of the commit, and again after so many of the next start's work. */
static bool crash_after(struct world *w, struct swap *x, unsigned turns, unsigned more_turns,
                        unsigned *seen)
{
    struct actor *a = open_actor(w, (unsigned)(w->seed % w->workers));

    swap_collect(w, a, x);
    int outcome = swap_commit(a, x);
    for (unsigned i = 0; i < turns && outcome == PENDING && !a->is_done; i++)
        run(w);
    bool answered = outcome == DONE || a->is_done;
    if (answered) {
        assert_int_equal(a->request.failure.code, 0);
        for (unsigned i = 0; i < more_turns; i++)
            run(w);
    }
    swap_release(x);
    world_crash(w);
    if (more_turns) {
        world_start(w);
        for (unsigned i = 0; i < more_turns; i++)
            run(w);
        world_crash(w);
    }
    world_start(w);
    enum end end = swap_judge(w, x);
    if (end == IN_PART || (answered && end != ALL))
        fail_msg("after %u and %u turns, seed %u, %sanswered", turns, more_turns, (unsigned)w->seed,
                 answered ? "" : "not ");
    *seen |= end;
    world_stop(w);
    world_start(w); /* and there is nothing left of it */
    assert_int_equal(w->in_doubt_now, 0);
    for (unsigned q = 0; q < x->queues; q++)
        assert_int_equal(drain(w, names[q]).new, 0);
    world_stop(w);
    assert_int_equal(w->errors, 0);
    return answered;
}

struct crashes {
    unsigned workers, shards, queues, each;
    size_t checkpoint_bytes;
    uint32_t jump_ppm; /* how short slices are */
    unsigned seeds, step;
};

static void crashes(const struct crashes *c)
{
    const char *seeds = getenv("SEEDS");
    uint64_t last = seeds ? strtoull(seeds, NULL, 10) : c->seeds;
    unsigned seen = 0, tried = 0, in_doubt = 0;

    for (uint64_t seed = 1; seed <= last; seed++) {
        bool is_over = false;
        for (unsigned turns = 0; !is_over; turns += c->step, tried++) {
            struct world w;
            world_init(&w, c->workers, c->shards, seed * 1000 + turns);
            w.checkpoint_bytes = c->checkpoint_bytes;
            w.jump_ppm = c->jump_ppm;
            world_start(&w);
            struct swap *x = swap_new(&w, c->queues, c->each, true);
            is_over = crash_after(&w, x, turns, turns % 3 ? (unsigned)(w.seed * 7 % 40) : 0, &seen);
            swap_free(x);
            in_doubt += w.in_doubt;
            world_fini(&w);
        }
    }
    print_message("%u crashes, %u shards in doubt\n", tried, in_doubt);
    assert_int_equal(seen, NOTHING | ALL);
    assert_true(in_doubt > 10);
}

static void whole_or_not_at_all(void **state)
{
    (void)state;
    crashes(&(struct crashes){3, 3, 3, 1, 256u << 20, 10000, 25, 1});
}

static void whole_or_not_with_checkpoints(void **state)
{
    (void)state;
    crashes(&(struct crashes){3, 3, 3, 1, 500, 10000, 25, 1});
}

static void whole_or_not_with_two_workers(void **state)
{
    (void)state;
    crashes(&(struct crashes){2, 5, 3, 1, 500, 10000, 25, 1});
}

static void whole_or_not_in_slices(void **state)
{
    (void)state;
    crashes(&(struct crashes){3, 3, 3, 150, 3000, 500000, 2, 3});
}

static void whole_or_not_in_slices_of_one_shard(void **state)
{
    (void)state;
    crashes(&(struct crashes){2, 2, 1, 400, 3000, 500000, 2, 2});
}

/* Neither the number of publishes nor that of settlements makes a turn long. */
static void large_ones_go_in_slices(void **state)
{
    struct world w;

    (void)state;
    for (unsigned queues = 1; queues < 4; queues += 2) {
        world_init(&w, 3, 3, 50 + queues);
        w.jump_ppm = 500000;
        world_start(&w);
        struct swap *x = swap_new(&w, queues, EACH_MAX, true);
        struct actor *a = open_actor(&w, 1);
        swap_collect(&w, a, x);
        int outcome = swap_commit(a, x);
        unsigned turns = 0;
        assert_int_equal(outcome, PENDING);
        for (; !a->is_done; turns++)
            run(&w);
        assert_true(turns > 100);
        complete(&w, a, outcome);
        assert_int_equal(a->request.failure.code, 0);
        assert_int_equal(swap_judge(&w, x), ALL);
        swap_free(x);
        world_end(&w);
    }
}

/* All outcomes, and what an abort makes of them. */
static void outcomes(void **state)
{
    static const enum outcome all[] = {OUTCOME_ACCEPT, OUTCOME_REJECT, OUTCOME_RETURN,
                                       OUTCOME_RETURN_COUNTED, OUTCOME_RETURN_UNSEEN};
    struct world w;

    (void)state;
    world_init(&w, 3, 3, 60);
    world_start(&w);
    struct swap *x = swap_new(&w, 3, 5, true);
    struct actor *a = open_actor(&w, 2);
    swap_collect(&w, a, x);
    for (size_t i = 0; i < x->count; i++)
        x->settlements[i].outcome = all[i % 5];
    DO(&w, a, broker_transact(a->client, &a->request, x->publishes, 0, x->settlements, x->count));
    for (unsigned q = 0; q < 3; q++) {
        for (unsigned i = 2; i < 5; i++) {
            DO(&w, a, broker_get(a->client, &a->request, slice_text(names[q]), false));
            struct delivery delivery = a->request.result.get.delivery;
            assert_non_null(delivery.message);
            assert_int_equal(delivery.redelivered, i != 4);
            assert_int_equal(delivery.count, i == 3);
            message_unref(delivery.message);
            broker_settle(a->client, &delivery.lease, 1, OUTCOME_ACCEPT);
        }
        assert_int_equal(drain(&w, names[q]).old, 0);
    }
    swap_free(x);
    world_end(&w);
}

/* A queue that is deleted while the transaction is under way takes its part of it along. */
static void a_queue_is_deleted_meanwhile(void **state)
{
    (void)state;
    for (unsigned turns = 0; turns < 40; turns++) {
        struct world w;
        world_init(&w, 3, 3, 70 + turns);
        w.jump_ppm = 300000;
        world_start(&w);
        struct swap *x = swap_new(&w, 3, 100, true);
        struct actor *a = open_actor(&w, 1), *b = open_actor(&w, 0);
        swap_collect(&w, a, x);
        int outcome = swap_commit(a, x);
        for (unsigned i = 0; i < turns; i++)
            run(&w);
        DO(&w, b,
           broker_delete_queue(b->client, &b->request, slice_text(names[turns % 3]), false, false));
        DO(&w, a, outcome);
        pass_time(&w);
        for (unsigned q = 0; q < 3; q++) {
            if (q != turns % 3)
                assert_int_equal(drain(&w, names[q]).new, 100);
        }
        swap_free(x);
        world_end(&w);
    }
}

/* What it publishes to another worker spends the credit of the pair, however large it is: more than
 * that, and the one message that goes beyond, is never on its way. */
static void credit_bounds_what_is_on_its_way(void **state)
{
    enum { COUNT = 40, BYTES = 512 * 1024 };
    static char body[BYTES];
    struct publish publishes[COUNT];
    const struct settlement none = {0};

    (void)state;
    memset(body, 'x', sizeof body - 1);
    for (unsigned workers = 2; workers <= 3; workers++) {
        struct world w;
        uint64_t most = 0, sum = 0;
        world_init(&w, workers, workers, 90 + workers);
        world_start(&w);
        for (unsigned i = 0; i < workers; i++)
            declare(&w, i, names[i], true);
        struct actor *a = open_actor(&w, 0);
        for (unsigned i = 0; i < COUNT; i++) {
            const char *name = names[1 + i % (workers - 1)];
            publishes[i] = (struct publish){.message = message_for(a, name, body, true)};
            sum += message_footprint(publishes[i].message);
        }
        uint64_t one = message_footprint(publishes[0].message);
        int outcome = broker_transact(a->client, &a->request, publishes, COUNT, &none, 0);
        for (; outcome == PENDING && !a->is_done; run(&w)) {
            for (unsigned i = 1; i < workers; i++) {
                const struct peer *peer = w.worker[0]->peers[i];
                uint64_t on_its_way = peer->sent_bytes - peer->credit.done;
                assert_true(on_its_way < PEER_CREDIT_BYTES + one);
                most = on_its_way > most ? on_its_way : most;
            }
        }
        DO(&w, a, outcome);
        assert_true(most >= PEER_CREDIT_BYTES);
        pass_time(&w);
        for (unsigned i = 1; i < workers; i++) {
            const struct peer *peer = w.worker[0]->peers[i];
            assert_int_equal(peer->credit.done, sum / (workers - 1));
            assert_int_equal(find_ready(&w, i, names[i]), COUNT / (workers - 1));
        }
        for (unsigned i = 0; i < COUNT; i++)
            message_unref(publishes[i].message);
        world_stop(&w);
        assert_int_equal(w.errors, 0);
        world_fini(&w);
    }
}

/* What is over leaves nothing behind, not even for the start after a crash. */
static void is_forgotten(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 3, 3, 90);
    world_start(&w);
    struct swap *x = swap_new(&w, 3, 2, true);
    struct actor *a = open_actor(&w, 0);
    swap_collect(&w, a, x);
    DO(&w, a, swap_commit(a, x));
    swap_release(x);
    simulated_run_for(w.loops[0], 100 * NANOSECONDS_PER_MS);
    world_crash(&w);
    world_start(&w);
    assert_int_equal(w.in_doubt, 0);
    assert_int_equal(swap_judge(&w, x), ALL);
    swap_free(x);
    world_end(&w);
}

/* ---- how many there can be: parts and decisions made by hand ---- */

static unsigned steps;

static int step_counted(struct request *request)
{
    (void)request;
    steps++;
    return PENDING;
}

static void request_init(struct request *request, struct actor *a)
{
    memset(request, 0, sizeof *request);
    list_init(&request->link);
    request->client = a->client;
    request->next = step_counted;
}

static void too_many_in_doubt(void **state)
{
    struct world w;
    struct request *requests = memory_new((PARTS_MAX + 1) * sizeof *requests);

    (void)state;
    world_init(&w, 1, 1, 91);
    world_start(&w);
    struct actor *a = open_actor(&w, 0);
    declare(&w, 0, "a", true);
    struct shard *shard = w.worker[0]->shards[0];
    struct vhost *vhost = catalog_vhost(&w.worker[0]->catalog, slice_text("/"));
    struct catalog_queue *queue = vhost_queue(vhost, slice_text("a"));
    struct message *message = message_for(a, "a", "x", true);
    for (unsigned i = 0; i <= PARTS_MAX; i++) {
        struct transaction_id id = {1, i};
        request_init(&requests[i], a);
        struct part *part = part_collect(shard, id);
        part_publish(part, message, &queue, 1, 0);
        steps = 0;
        part_prepare(part, 1, &requests[i]);
        RUN_UNTIL(&w, i % 1024 || steps > 0);
        assert_int_equal(requests[i].failure.code, i < PARTS_MAX ? 0 : E_LIMIT);
    }
    assert_string_equal(requests[PARTS_MAX].failure.text,
                        "16384 transactions over several shards are under way");
    RUN_UNTIL(&w, queue->hosted->queue.leased == PARTS_MAX);
    assert_int_equal(queue->hosted->queue.ready, 0);
    for (unsigned i = 0; i < PARTS_MAX; i++)
        part_end(shard, (struct transaction_id){1, i}, 0, false, NULL);
    RUN_UNTIL(&w, queue->hosted->queue.leased == 0);
    assert_int_equal(queue->hosted->queue.ready, 0);
    message_unref(message);
    world_stop(&w);
    free(requests);
    world_fini(&w);
}

static void too_many_decisions(void **state)
{
    struct world w;
    struct request request;
    const uint32_t shards[] = {1};

    (void)state;
    world_init(&w, 1, 1, 92);
    world_start(&w);
    struct actor *a = open_actor(&w, 0);
    struct shard *shard = w.worker[0]->shards[0];
    for (unsigned i = 0; i <= DECISIONS_MAX; i++) {
        request_init(&request, a);
        int result = decision_make(shard, (struct transaction_id){1, i}, shards, 1, &request);
        assert_int_equal(result, i < DECISIONS_MAX ? 0 : E_LIMIT);
    }
    assert_string_equal(request.failure.text,
                        "16384 transactions over several shards are under way");
    for (unsigned i = 0; i < DECISIONS_MAX; i++)
        decision_applied(shard, (struct transaction_id){1, i}, 1);
    request_init(&request, a);
    assert_int_equal(decision_make(shard, (struct transaction_id){2, 1}, shards, 1, &request), 0);
    decision_applied(shard, (struct transaction_id){2, 1}, 1);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(commits_over_three_shards),
        cmocka_unit_test(one_shard_elsewhere),
        cmocka_unit_test(outcomes),
        cmocka_unit_test(large_ones_go_in_slices),
        cmocka_unit_test(too_large_for_one_shard),
        cmocka_unit_test(a_publish_that_cannot_be),
        cmocka_unit_test(a_disk_is_full),
        cmocka_unit_test(a_disk_fails),
        cmocka_unit_test(a_queue_is_deleted_meanwhile),
        cmocka_unit_test(credit_bounds_what_is_on_its_way),
        cmocka_unit_test(is_forgotten),
        cmocka_unit_test(too_many_in_doubt),
        cmocka_unit_test(too_many_decisions),
        cmocka_unit_test(whole_or_not_at_all),
        cmocka_unit_test(whole_or_not_with_checkpoints),
        cmocka_unit_test(whole_or_not_with_two_workers),
        cmocka_unit_test(whole_or_not_in_slices),
        cmocka_unit_test(whole_or_not_in_slices_of_one_shard),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
