/*
 * Moving queues between the shards of one to three workers, in virtual time: nothing is lost,
 * nothing comes twice, and order stays, whenever everything crashes.
 */
#include "broker/move.h"
#include "broker/test_world.h"

#define MESSAGES_MAX 4000u

/* ---- what there is to do ---- */

static struct catalog_queue *find(struct world *w, unsigned worker, const char *name)
{
    const struct vhost *vhost = catalog_vhost(&w->worker[worker]->catalog, slice_text("/"));
    return vhost_queue(vhost, slice_text(name));
}

static int begin_move(struct actor *a, const char *name, uint32_t shard)
{
    return broker_move_queue(a->client, &a->request, slice_text(name), shard);
}

/* By the client of that worker; all workers know it then. */
static void move(struct world *w, unsigned by, const char *name, uint32_t shard)
{
    struct actor *a = open_actor(w, by);

    DO(w, a, begin_move(a, name, shard));
    for (unsigned i = 0; i < w->workers; i++) {
        const struct catalog_queue *queue = find(w, i, name);
        assert_int_equal(queue->shard, shard);
        assert_int_equal(queue->hosted != NULL, (shard - 1) % w->workers == i);
    }
}

static void publish_one(struct actor *a, const char *name, unsigned number, bool persistent,
                        struct publisher *publisher)
{
    char body[16];

    snprintf(body, sizeof body, "%u", number);
    struct message *message = message_for(a, name, body, persistent);
    struct publish publish = {.message = message, .publisher = publisher};
    assert_int_equal(broker_publish(a->client, &publish), 0);
    assert_int_equal(publish.queues, 1);
    message_unref(message);
}

static void pass_time(struct world *w)
{
    simulated_run_for(w->loops[0], 20 * NANOSECONDS_PER_MS);
}

/* Takes out what is there, which must be these numbers in this order. */
static void expect_range(struct world *w, unsigned by, const char *name, unsigned first,
                         unsigned last)
{
    struct actor *a = open_actor(w, by);
    struct lease lease;
    char body[16];

    for (unsigned number = first; number <= last; number++) {
        assert_true(get(w, a, name, &lease, body));
        assert_int_equal(strtoul(body, NULL, 10), number);
        broker_settle(a->client, &lease, 1, OUTCOME_ACCEPT);
    }
}

static void expect_empty(struct world *w, unsigned by, const char *name)
{
    struct lease lease;
    char body[16];

    assert_false(get(w, open_actor(w, by), name, &lease, body));
}

static void publish_range(struct world *w, unsigned by, const char *name, unsigned first,
                          unsigned last)
{
    struct actor *a = open_actor(w, by);
    struct publisher *publisher = publisher_open(a->client, NULL);

    a->confirmed = 0;
    for (unsigned number = first; number <= last; number++)
        publish_one(a, name, number, true, publisher);
    RUN_UNTIL(w, a->confirmed == last - first + 1);
    assert_int_equal(a->refused, 0);
    publisher_close(publisher);
}

/* ---- tests ---- */

static void an_empty_queue(void **state)
{
    struct world w;

    (void)state;
    for (unsigned workers = 1; workers <= 3; workers++) {
        for (unsigned by = 0; by < workers; by++) {
            for (uint32_t from = 1; from <= 4; from++) {
                world_init(&w, workers, 4, 10 * workers + by);
                world_start(&w);
                declare(&w, (from - 1) % workers, "q", from % 2);
                move(&w, by, "q", from);
                move(&w, by, "q", 1 + from % 4);
                publish_range(&w, by, "q", 1, 3);
                expect_range(&w, 0, "q", 1, 3);
                expect_empty(&w, by, "q");
                world_end(&w);
            }
        }
    }
}

/* A client anywhere publishes in each turn of a move; a get finds what it has published before. */
static void publishes_meanwhile(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 30; seed++) {
        world_init(&w, 1 + seed % 3, 4, 100 + seed);
        world_start(&w);
        declare(&w, 0, "q", true);
        struct actor *mover = open_actor(&w, 0);
        struct actor *a = open_actor(&w, w.workers - 1);
        if (mover == a)
            mover = open_another(&w, 0);
        struct publisher *publisher = publisher_open(a->client, NULL);
        unsigned number = 0;
        for (unsigned i = 0; i < 3; i++) {
            int outcome = begin_move(mover, "q", 2 + i % 3);
            while (outcome == PENDING && !mover->is_done) {
                for (unsigned n = seed % 4; n > 0; n--)
                    publish_one(a, "q", ++number, seed % 2 || n % 3, publisher);
                run(&w);
            }
            complete(&w, mover, outcome);
            assert_string_equal(mover->request.failure.text, "");
        }
        publish_one(a, "q", ++number, true, publisher);
        expect_range(&w, w.workers - 1, "q", 1, number);
        RUN_UNTIL(&w, a->confirmed == number);
        assert_int_equal(a->refused, 0);
        expect_empty(&w, 0, "q");
        publisher_close(publisher);
        world_end(&w);
    }
}

/* Ready, leased, returned and transient ones; leases are settled after the move, before it and
 * while it goes on. */
static void messages(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 60; seed++) {
        struct lease leases[40];
        char body[16];
        world_init(&w, 1 + seed % 3, 4, 200 + seed);
        w.jump_ppm = seed % 4 ? 10000 : 300000;
        world_start(&w);
        declare(&w, 0, "q", seed % 5);
        struct actor *a = open_actor(&w, w.workers - 1);
        for (unsigned i = 1; i <= 200; i++)
            publish_one(a, "q", i, i % 3, NULL);
        for (unsigned i = 0; i < 40; i++)
            assert_true(get(&w, a, "q", &leases[i], body));
        broker_settle(a->client, &leases[0], 1, OUTCOME_RETURN_COUNTED);
        broker_settle(a->client, &leases[1], 1, OUTCOME_RETURN_UNSEEN);
        broker_settle(a->client, &leases[2], 1, OUTCOME_ACCEPT);
        struct actor *mover = open_another(&w, 0);
        int outcome = begin_move(mover, "q", 2);
        unsigned at = 3;
        for (unsigned turn = 0; outcome == PENDING && !mover->is_done; turn++) {
            if (at < 30 && turn % 3 == 0)
                broker_settle(a->client, &leases[at++], 1, OUTCOME_ACCEPT);
            run(&w);
        }
        complete(&w, mover, outcome);
        assert_string_equal(mover->request.failure.text, "");
        for (; at < 38; at++)
            broker_settle(a->client, &leases[at], 1, OUTCOME_ACCEPT);
        broker_settle(a->client, &leases[39], 1, OUTCOME_RETURN);
        broker_settle(a->client, &leases[38], 1, OUTCOME_RETURN);
        static const unsigned back[] = {1, 2, 39, 40};
        for (unsigned i = 0; i < 4; i++) {
            DO(&w, a, broker_get(a->client, &a->request, slice_text("q"), false));
            struct delivery delivery = a->request.result.get.delivery;
            assert_non_null(delivery.message);
            assert_int_equal(delivery.lease.sequence, back[i]);
            assert_int_equal(delivery.redelivered, i != 1);
            assert_int_equal(delivery.count, i == 0);
            message_unref(delivery.message);
            broker_settle(a->client, &delivery.lease, 1, OUTCOME_ACCEPT);
        }
        expect_range(&w, 0, "q", 41, 200);
        expect_empty(&w, 0, "q");
        pass_time(&w);
        for (unsigned i = 0; i < w.workers; i++)
            worker_check(w.worker[i]);
        world_end(&w);
    }
}

/* ---- consumers ---- */

struct seen {
    unsigned count, last;
    struct consumer *consumer;
};

static int take(struct actor *a, const struct delivery *delivery)
{
    struct seen *seen = a->context;
    struct slice body = message_body(delivery->message);
    char text[16];

    snprintf(text, sizeof text, "%.*s", (int)body.size, (const char *)body.data);
    unsigned number = (unsigned)strtoul(text, NULL, 10);
    assert_true(number > seen->last);
    seen->last = number;
    seen->count++;
    return 0;
}

static void consume(struct world *w, struct actor *a, struct seen *seen, uint32_t credit,
                    bool exclusive)
{
    struct subscribe_spec spec = {.queue = slice_text("q"),
                                  .settles_itself = true,
                                  .credit_messages = credit,
                                  .exclusive = exclusive,
                                  .credit_bytes = 1u << 20};

    a->deliver = take;
    a->context = seen;
    DO(w, a, broker_subscribe(a->client, &a->request, &spec));
    seen->consumer = a->request.result.consumer;
}

/* They come along with what is left of their credit, and with what they are given meanwhile. */
static void consumers(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 60; seed++) {
        struct seen seen[3] = {0};
        world_init(&w, 1 + seed % 3, 4, 300 + seed);
        world_start(&w);
        declare(&w, 0, "q", true);
        struct actor *mover = open_another(&w, 0);
        for (unsigned i = 0; i < w.workers; i++)
            consume(&w, open_actor(&w, i), &seen[i], 4, false);
        publish_range(&w, 0, "q", 1, 2 * w.workers);
        for (uint32_t to = 2; to <= 4; to++) {
            int outcome = begin_move(mover, "q", to);
            for (unsigned turn = 0; outcome == PENDING && !mover->is_done; turn++) {
                if (turn == seed % 10 + to)
                    broker_credit(seen[seed % w.workers].consumer, 1, 0);
                run(&w);
            }
            complete(&w, mover, outcome);
            assert_string_equal(mover->request.failure.text, "");
        }
        pass_time(&w);
        publish_range(&w, 0, "q", 2 * w.workers + 1, 4 * w.workers + 10);
        pass_time(&w);
        for (unsigned i = 0; i < w.workers; i++)
            assert_true(seen[i].count >= 4 && seen[i].count <= 4 + 3 * (i == seed % w.workers));
        for (unsigned i = 0; i < w.workers; i++)
            broker_credit(seen[i].consumer, 100, 1u << 20);
        pass_time(&w);
        unsigned count = 0;
        for (unsigned i = 0; i < w.workers; i++)
            count += seen[i].count;
        assert_int_equal(count, 4 * w.workers + 10);
        world_end(&w);
    }
}

/* A consumer that goes while its queue is on its way is not counted over there; one that is alone
 * stays alone. */
static void consumers_that_go(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 60; seed++) {
        struct seen seen = {0};
        world_init(&w, 1 + seed % 3, 4, 400 + seed);
        world_start(&w);
        struct actor *a = open_actor(&w, w.workers - 1), *mover = open_another(&w, 0);
        struct queue_spec spec = {.name = slice_text("q"), .auto_delete = true};
        DO(&w, a, broker_declare_queue(a->client, &a->request, &spec));
        consume(&w, a, &seen, 10, true);
        int outcome = begin_move(mover, "q", 2);
        for (unsigned turn = 0; turn < seed / 2; turn++)
            run(&w);
        struct subscribe_spec another = {.queue = slice_text("q")};
        complete(&w, a, broker_subscribe(a->client, &a->request, &another));
        assert_int_equal(a->request.failure.code, E_DENIED);
        assert_non_null(find(&w, 0, "q"));
        broker_unsubscribe(seen.consumer);
        complete(&w, mover, outcome);
        pass_time(&w);
        for (unsigned i = 0; i < w.workers; i++)
            assert_null(find(&w, i, "q"));
        world_end(&w);
    }
}

/* Whatever is asked of it while it is on its way is done when it has come. */
static void requests_wait(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 90; seed++) {
        world_init(&w, 1 + seed % 3, 4, 500 + seed);
        world_start(&w);
        declare(&w, 0, "q", true);
        publish_range(&w, 0, "q", 1, 5);
        struct actor *a = open_actor(&w, w.workers - 1), *mover = open_another(&w, 0);
        int outcome = begin_move(mover, "q", 3);
        for (unsigned turn = 0; turn < seed / 3; turn++)
            run(&w);
        switch (seed / 3 % 4) {
        case 0:
            expect_range(&w, w.workers - 1, "q", 1, 5);
            break;
        case 1:
            DO(&w, a, broker_purge_queue(a->client, &a->request, slice_text("q")));
            assert_int_equal(a->request.result.queue.counts.ready, 5);
            break;
        case 2:
            DO(&w, a,
               broker_declare_queue(
                   a->client, &a->request,
                   &(struct queue_spec){.name = slice_text("q"), .durable = true}));
            assert_int_equal(a->request.result.queue.counts.ready, 5);
            break;
        default:
            DO(&w, a, broker_delete_queue(a->client, &a->request, slice_text("q"), true, false));
            assert_int_equal(a->request.result.queue.counts.ready, 5);
        }
        complete(&w, mover, outcome);
        assert_string_equal(mover->request.failure.text, "");
        pass_time(&w);
        world_end(&w);
    }
}

/* A transaction waits for it, or it for the transaction. */
static void transactions_wait(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 120; seed++) {
        world_init(&w, 1 + seed % 3, 4, 600 + seed);
        world_start(&w);
        declare(&w, 0, "q", true);
        declare(&w, w.workers - 1, "other", true);
        publish_range(&w, 0, "q", 1, 1);
        struct actor *a = open_actor(&w, (seed / 2) % w.workers), *mover = open_another(&w, 0);
        struct settlement settlement = {.outcome = OUTCOME_ACCEPT};
        char body[16];
        assert_true(get(&w, a, "q", &settlement.lease, body));
        struct publish publishes[2] = {{.message = message_for(a, "q", "2", true)},
                                       {.message = message_for(a, "other", "2", true)}};
        bool is_first = seed % 2;
        int moving = is_first ? begin_move(mover, "q", 3) : DONE;
        for (unsigned turn = 0; is_first && turn < seed / 4; turn++)
            run(&w);
        int outcome = broker_transact(a->client, &a->request, publishes, 2, &settlement, 1);
        for (unsigned turn = 0; !is_first && turn < seed / 4; turn++)
            run(&w);
        if (!is_first)
            moving = begin_move(mover, "q", 3);
        complete(&w, a, outcome);
        assert_string_equal(a->request.failure.text, "");
        complete(&w, mover, moving);
        assert_string_equal(mover->request.failure.text, "");
        expect_range(&w, 0, "q", 2, 2);
        expect_range(&w, 0, "other", 2, 2);
        expect_empty(&w, 0, "q");
        message_unref(publishes[0].message);
        message_unref(publishes[1].message);
        pass_time(&w);
        world_end(&w);
    }
}

/* ---- what is refused, and what fails ---- */

static void expect_refusal(struct world *w, struct actor *a, const char *name, uint32_t shard,
                           int code)
{
    complete(w, a, begin_move(a, name, shard));
    assert_int_equal(a->request.failure.code, code);
}

static void refusals(void **state)
{
    struct world w;

    (void)state;
    for (unsigned by = 0; by < 3; by++) {
        world_init(&w, 3, 3, 700);
        world_start(&w);
        struct actor *a = open_actor(&w, by), *b = open_another(&w, 2 - by);
        declare(&w, 0, "q", true);
        struct queue_spec spec = {.name = slice_text("own"), .exclusive = true};
        DO(&w, a, broker_declare_queue(a->client, &a->request, &spec));
        expect_refusal(&w, a, "none", 1, E_NOT_FOUND);
        expect_refusal(&w, a, "q", 0, E_NOT_FOUND);
        expect_refusal(&w, a, "q", 4, E_NOT_FOUND);
        expect_refusal(&w, a, "own", 1 + (by + 1) % 3, E_UNSUPPORTED);
        int one = begin_move(a, "q", 2), other = begin_move(b, "q", 3);
        complete(&w, a, one);
        complete(&w, b, other);
        bool is_first = a->request.failure.code == 0;
        assert_int_equal((is_first ? b : a)->request.failure.code, E_IN_USE);
        assert_int_equal((is_first ? a : b)->request.failure.code, 0);
        struct user *user = catalog_user(&w.worker[by]->catalog, slice_text("guest"));
        free(user->tags);
        user->tags = memory_text(slice_text("monitoring"));
        expect_refusal(&w, a, "q", 1, E_DENIED);
        world_end(&w);
    }
}

/* The target has no room, or its disk fails: the queue stays, whole, and can move later. */
static void a_target_that_fails(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 12; seed++) {
        struct seen seen = {0};
        world_init(&w, 1 + seed % 3, 4, 800 + seed);
        world_start(&w);
        declare(&w, 0, "q", true);
        publish_range(&w, 0, "q", 1, 100);
        pass_time(&w);
        struct simulated_faults *faults = simulated_disk_faults(w.disks[1]);
        if (seed < 6)
            faults->capacity = 1 + simulated_disk_used(w.disks[1]);
        else
            faults->write_fails_ppm = 1000000;
        struct actor *a = open_actor(&w, w.workers - 1);
        expect_refusal(&w, a, "q", 2, seed < 6 ? E_FULL : E_FAILED);
        expect_range(&w, 0, "q", 1, 10);
        publish_range(&w, 0, "q", 101, 110);
        consume(&w, open_another(&w, 0), &seen, 10, false);
        seen.last = 10;
        pass_time(&w);
        assert_int_equal(seen.count, 10);
        broker_unsubscribe(seen.consumer);
        faults->capacity = faults->write_fails_ppm = 0;
        if (seed < 6)
            move(&w, 0, "q", 2);
        else
            move(&w, 0, "q", 3);
        expect_range(&w, 0, "q", 21, 110);
        expect_empty(&w, 0, "q");
        world_stop(&w);
        world_fini(&w);
    }
}

static void expect_failure(struct world *w, struct actor *a, int outcome)
{
    complete(w, a, outcome);
    assert_int_equal(a->request.failure.code, E_FAILED);
}

/* The queue moves until MOVED is written, and before that is durable the catalog's disk fails. */
static void strand(struct world *w, struct actor *mover, struct actor *asker)
{
    const struct catalog_queue *queue = find(w, 0, "q");
    int outcome = begin_move(mover, "q", 3);

    assert_int_equal(outcome, PENDING);
    struct publisher *publisher = publisher_open(asker->client, NULL);
    publish_one(asker, "q", 51, true, publisher); /* may come there before */
    RUN_UNTIL(w, queue->move && queue->move->is_decided);
    struct simulated_faults *faults = simulated_disk_faults(w->disks[0]);
    faults->write_fails_ppm = faults->sync_fails_ppm = 1000000;
    assert_false(queue->move->is_over);
    publish_one(asker, "q", 52, true, publisher);
    expect_failure(w, asker, broker_get(asker->client, &asker->request, slice_text("q"), false));
    expect_failure(w, mover, outcome);
    pass_time(w);
    for (unsigned i = 0; i < w->workers; i++) {
        assert_true(find(w, i, "q")->move && find(w, i, "q")->move->is_stranded);
        worker_check(w->worker[i]);
    }
}

/* Nobody can know where it is: nothing is taken for it, and nothing of it is lost. The next start
 * finds it in one of the two places. */
static void stranded_until_the_next_start(void **state)
{
    unsigned places = 0;

    (void)state;
    for (unsigned seed = 0; seed < 60; seed++) {
        struct world w;
        struct lease lease;
        char body[16];
        world_init(&w, 1 + seed % 3, 3, 1000 + seed);
        world_start(&w);
        declare(&w, 0, "q", true);
        move(&w, 0, "q", 2);
        publish_range(&w, 0, "q", 1, 50);
        struct actor *a = open_another(&w, w.workers - 1);
        assert_true(get(&w, a, "q", &lease, body));
        a->confirmed = a->refused = 0;
        strand(&w, open_actor(&w, seed % w.workers), a);
        assert_int_equal(a->confirmed, 2);
        assert_true(a->refused == 2 || (a->refused == 1 && w.workers > 1));
        unsigned last = 52 - (unsigned)a->refused;
        struct message *message = message_for(a, "q", "53", true);
        struct publish publish = {.message = message};
        assert_int_equal(broker_publish(a->client, &publish), E_FAILED);
        message_unref(message);
        struct subscribe_spec spec = {.queue = slice_text("q")};
        expect_failure(&w, a, broker_subscribe(a->client, &a->request, &spec));
        broker_settle(a->client, &lease, 1, OUTCOME_RETURN);
        if (seed % 2)
            world_stop(&w);
        else
            world_crash(&w);
        *simulated_disk_faults(w.disks[0]) = (struct simulated_faults){.latency_max_ns = 1000};
        w.errors = 0;
        world_start(&w);
        uint32_t shard = find(&w, 0, "q")->shard;
        assert_true(shard == 2 || shard == 3);
        places |= 1u << shard;
        expect_range(&w, 0, "q", 1, last);
        expect_empty(&w, 0, "q");
        move(&w, 0, "q", 5 - shard);
        world_stop(&w);
        assert_int_equal(w.errors, 0);
        world_fini(&w);
    }
    assert_int_equal(places, 1u << 2 | 1u << 3);
}

/* A part that is prepared holds on to the queue. */
static void a_part_in_doubt(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 900);
    world_start(&w);
    declare(&w, 0, "q", true);
    struct actor *a = open_actor(&w, 0);
    struct shard *shard = w.worker[0]->shards[0];
    struct catalog_queue *queue = find(&w, 0, "q");
    struct message *message = message_for(a, "q", "1", true);
    struct transaction_id id = {1, 1};
    struct part *part = part_collect(shard, id);
    part_publish(part, message, &queue, 1, 0);
    message_unref(message);
    expect_refusal(&w, a, "q", 2, E_IN_USE);
    part_drop(shard, id);
    pass_time(&w);
    move(&w, 1, "q", 2);
    world_end(&w);
}

/* Deleted, or stopped, or left by whoever asked for it, after so many turns of it. */
static void meanwhile(void **state)
{
    struct world w;

    (void)state;
    for (unsigned turns = 0; turns < 60; turns++) {
        for (unsigned what = 0; what < 3; what++) {
            world_init(&w, 1 + turns % 3, 4, 1000 + turns);
            world_start(&w);
            declare(&w, 0, "q", true);
            publish_range(&w, 0, "q", 1, 20);
            struct actor *a = open_actor(&w, 0), *mover = open_another(&w, 0);
            struct publisher *publisher = publisher_open(a->client, NULL);
            a->confirmed = 0;
            int outcome = begin_move(mover, "q", 2);
            for (unsigned i = 0; i < turns; i++) {
                run(&w);
                if (i % 4 == 0)
                    publish_one(a, "q", 21 + i / 4, true, publisher);
            }
            if (what == 0) {
                worker_delete_queue(w.worker[0], find(&w, 0, "q"));
                complete(&w, mover, outcome);
                int code = mover->request.failure.code;
                assert_true(code == 0 || code == E_NOT_FOUND);
                RUN_UNTIL(&w, a->confirmed == (turns + 3) / 4); /* once the deletion is settled */
                assert_int_equal(a->refused, 0);
            }
            publisher_close(publisher);
            if (what > 0) {
                world_stop(&w);
                world_start(&w);
                expect_range(&w, 0, "q", 1, 20 + (turns + 3) / 4);
                expect_empty(&w, 0, "q");
            }
            world_end(&w);
        }
    }
}

/* All queues are declared on one worker; each has a message. */
static void rebalances(void **state)
{
    struct world w;

    (void)state;
    for (unsigned seed = 0; seed < 12; seed++) {
        unsigned counts[4] = {0};
        char name[8];
        world_init(&w, 1 + seed % 3, 4, 900 + seed);
        world_start(&w);
        struct actor *a = open_actor(&w, w.workers - 1);
        for (unsigned i = 0; i < 14; i++) {
            snprintf(name, sizeof name, "q%u", i);
            declare(&w, 0, name, i % 2);
            publish_range(&w, 0, name, i, i);
        }
        DO(&w, a,
           broker_declare_queue(
               a->client, &a->request,
               &(struct queue_spec){.name = slice_text("own"), .exclusive = true}));
        DO(&w, a, broker_rebalance(a->client, &a->request));
        DO(&w, a, broker_rebalance(a->client, &a->request)); /* it is at it */
        if (seed % 2)
            worker_delete_queue(w.worker[0], find(&w, 0, "q13"));
        if (seed < 9)
            RUN_UNTIL(&w, moves_are_over(w.worker[0]));
        for (unsigned i = 0; i < 14 - seed % 2; i++) {
            snprintf(name, sizeof name, "q%u", i);
            counts[find(&w, 0, name)->shard - 1]++;
            expect_range(&w, 0, name, i, i);
        }
        for (unsigned i = 0; i < 4 && seed < 9; i++)
            assert_true(counts[i] >= 3 && counts[i] <= 4);
        world_end(&w); /* for some of them in the middle of it */
    }
}

/* ---- crashes ---- */

struct crashes {
    unsigned workers, shards;
    size_t checkpoint_bytes;
    uint32_t jump_ppm;
    unsigned before;   /* moves that the queue has behind it, there and back */
    unsigned messages; /* of which a third is leased, a third of those settled */
    unsigned seeds, step;
};

/* What was confirmed is there once and in order, less what was settled and durable; what was
 * settled in the last moments may be back. */
static void judge(struct world *w, const bool *settled, unsigned count)
{
    struct actor *a = open_actor(w, 0);
    struct lease lease;
    char body[16];
    unsigned last = 0;

    while (get(w, a, "q", &lease, body)) {
        unsigned number = (unsigned)strtoul(body, NULL, 10);
        assert_true(number > last && number <= count);
        for (unsigned missing = last + 1; missing < number; missing++)
            assert_true(settled[missing]);
        assert_false(settled[number]);
        last = number;
        broker_settle(a->client, &lease, 1, OUTCOME_ACCEPT);
    }
    for (unsigned missing = last + 1; missing <= count; missing++)
        assert_true(settled[missing]);
}

static bool crash_after(struct world *w, const struct crashes *c, unsigned turns, unsigned *moved)
{
    bool settled[MESSAGES_MAX + 1] = {false};
    struct actor *a = open_actor(w, w->workers - 1);
    struct lease lease;
    char body[16];

    declare(w, 0, "q", true);
    publish_range(w, 0, "q", 1, c->messages);
    for (unsigned i = 0; i < c->messages / 3; i++) {
        assert_true(get(w, a, "q", &lease, body));
        settled[strtoul(body, NULL, 10)] = i % 3 == 0;
        broker_settle(a->client, &lease, 1, i % 3 ? OUTCOME_RETURN_COUNTED : OUTCOME_ACCEPT);
    }
    for (unsigned i = 0; i < c->before; i++)
        move(w, i % w->workers, "q", i % 2 ? 1 : 2);
    simulated_run_for(w->loops[0], 50 * NANOSECONDS_PER_MS); /* what was settled is durable */
    uint32_t from = find(w, 0, "q")->shard;
    struct actor *mover = open_another(w, (unsigned)(w->seed % w->workers));
    int outcome = begin_move(mover, "q", from == 1 ? 2 : 1);
    for (unsigned i = 0; i < turns && !mover->is_done; i++)
        run(w);
    bool answered = outcome == DONE || mover->is_done;
    if (answered)
        assert_string_equal(mover->request.failure.text, "");
    world_crash(w);
    world_start(w);
    uint32_t now = find(w, 0, "q")->shard;
    assert_true(now == from ? !answered : now == 3 - from);
    *moved |= now == from ? 1 : 2;
    if (w->seed % 3 == 0) { /* once more, there and back, in the next life */
        move(w, 0, "q", 3 - now);
        if (w->seed % 2)
            move(w, 0, "q", now);
        world_crash(w);
        world_start(w);
    }
    judge(w, settled, c->messages);
    world_stop(w);
    world_start(w);
    expect_empty(w, 0, "q");
    world_stop(w);
    assert_int_equal(w->errors, 0);
    return answered;
}

static void crashes(const struct crashes *c)
{
    const char *seeds = getenv("SEEDS");
    uint64_t last = seeds ? strtoull(seeds, NULL, 10) : c->seeds;
    unsigned moved = 0, tried = 0;

    for (uint64_t seed = 1; seed <= last; seed++) {
        bool is_over = false;
        for (unsigned turns = 0; !is_over; turns += c->step, tried++) {
            struct world w;
            world_init(&w, c->workers, c->shards, seed * 1000 + turns);
            w.checkpoint_bytes = c->checkpoint_bytes;
            w.jump_ppm = c->jump_ppm;
            world_start(&w);
            is_over = crash_after(&w, c, turns, &moved);
            world_fini(&w);
        }
    }
    print_message("%u crashes\n", tried);
    assert_int_equal(moved, 3); /* some came too early for it, some not */
}

static void crashes_of_one_worker(void **state)
{
    (void)state;
    crashes(&(struct crashes){1, 2, 256u << 20, 10000, 0, 20, 4, 1});
}

static void crashes_of_two_workers(void **state)
{
    (void)state;
    crashes(&(struct crashes){2, 2, 256u << 20, 10000, 0, 20, 10, 1});
}

static void crashes_of_three_workers_with_checkpoints(void **state)
{
    (void)state;
    crashes(&(struct crashes){3, 4, 500, 10000, 0, 20, 10, 1});
}

static void crashes_there_and_back(void **state)
{
    (void)state;
    crashes(&(struct crashes){2, 3, 256u << 20, 10000, 1, 20, 10, 1});
    crashes(&(struct crashes){2, 3, 256u << 20, 10000, 2, 20, 5, 1});
    crashes(&(struct crashes){3, 3, 500, 10000, 3, 20, 10, 1});
}

static void crashes_in_slices(void **state)
{
    (void)state;
    crashes(&(struct crashes){2, 2, 3000, 500000, 1, 500, 1, 7});
}

static bool is_being_discarded(const struct shard *shard, const struct catalog_queue *queue)
{
    LIST_EACH (&shard->discards, link) {
        if (CONTAINER_OF(link, struct hosted, discard_link)->named == queue)
            return true;
    }
    return false;
}

/* A queue that is back before its old home has discarded what it had, in turns with others: its
 * state is the new one, and stays. */
static void back_before_all_is_discarded(void **state)
{
    (void)state;
    for (unsigned seed = 0; seed < 4; seed++) {
        struct world w;
        char name[8];
        world_init(&w, 1 + seed % 2, 2, 1200 + seed);
        world_start(&w);
        for (unsigned i = 0; i < 6; i++) {
            snprintf(name, sizeof name, "x%u", i);
            declare(&w, 0, i ? name : "q", true);
            publish_range(&w, 0, i ? name : "q", 1, MESSAGES_MAX);
        }
        pass_time(&w);
        for (unsigned i = 0; i < 2; i++)
            simulated_disk_faults(w.disks[i])->latency_max_ns = 1;
        struct actor *a = open_actor(&w, 0), *mover = open_another(&w, 0);
        const struct catalog_queue *queue = find(&w, 0, "q");
        int outcome = begin_move(mover, "q", 2);
        RUN_UNTIL(&w, queue->move->is_decided);
        simulated_options(w.loops[0])->jump_ppm = 1000000; /* slices are as short as can be */
        complete(&w, mover, outcome);
        for (unsigned i = 1; i < 6; i++) {
            snprintf(name, sizeof name, "x%u", i);
            DO(&w, a, broker_delete_queue(a->client, &a->request, slice_text(name), false, false));
        }
        DO(&w, a, broker_purge_queue(a->client, &a->request, slice_text("q")));
        const struct shard *home = w.worker[0]->shards[0];
        move(&w, 0, "q", 1);
        assert_true(is_being_discarded(home, queue));
        RUN_UNTIL(&w, !is_being_discarded(home, queue));
        assert_true(log_has_state(home->log, queue->id));
        publish_range(&w, 0, "q", 1, 10);
        world_crash(&w);
        world_start(&w);
        expect_range(&w, 0, "q", 1, 10);
        expect_empty(&w, 0, "q");
        world_stop(&w);
        assert_int_equal(w.errors, 0);
        world_fini(&w);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(an_empty_queue),
        cmocka_unit_test(publishes_meanwhile),
        cmocka_unit_test(messages),
        cmocka_unit_test(consumers),
        cmocka_unit_test(consumers_that_go),
        cmocka_unit_test(requests_wait),
        cmocka_unit_test(transactions_wait),
        cmocka_unit_test(refusals),
        cmocka_unit_test(a_target_that_fails),
        cmocka_unit_test(stranded_until_the_next_start),
        cmocka_unit_test(a_part_in_doubt),
        cmocka_unit_test(meanwhile),
        cmocka_unit_test(rebalances),
        cmocka_unit_test(back_before_all_is_discarded),
        cmocka_unit_test(crashes_of_one_worker),
        cmocka_unit_test(crashes_of_two_workers),
        cmocka_unit_test(crashes_of_three_workers_with_checkpoints),
        cmocka_unit_test(crashes_there_and_back),
        cmocka_unit_test(crashes_in_slices),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
