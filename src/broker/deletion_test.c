/*
 * Deleted queues, between the deletion and the time when it is durable: a crash may bring them
 * back, and then they are as they were, less what was settled.
 */
#include "broker/test_world.h"

#define SLOW_NS (1000 * NANOSECONDS_PER_MS)

static const struct catalog_queue *find(const struct world *w, unsigned worker, const char *name)
{
    const struct vhost *vhost = catalog_vhost(&w->worker[worker]->catalog, slice_text("/"));
    return vhost_queue(vhost, slice_text(name));
}

static struct publish to_queue(struct actor *a, const char *name, const char *body,
                               struct publisher *publisher)
{
    return (struct publish){.message = message_for(a, name, body, true), .publisher = publisher};
}

static void publish_some(struct world *w, struct actor *a, const char *name, unsigned count)
{
    struct publisher *publisher = publisher_open(a->client, NULL);

    a->confirmed = 0;
    for (unsigned i = 0; i < count; i++) {
        struct publish publish = to_queue(a, name, "body", publisher);
        assert_int_equal(broker_publish(a->client, &publish), 0);
        assert_int_equal(publish.queues, 1);
        message_unref(publish.message);
    }
    RUN_UNTIL(w, a->confirmed == count);
    assert_int_equal(a->refused, 0);
    publisher_close(publisher);
}

/* How many there are; each is returned when all are counted. */
static unsigned count(struct world *w, const char *name)
{
    struct actor *a = open_actor(w, 0);
    struct lease leases[64];
    char body[16];
    unsigned n = 0;

    while (get(w, a, name, &leases[n], body))
        assert_true(++n < 64);
    broker_settle(a->client, leases, n, OUTCOME_RETURN);
    return n;
}

/* By a client of the first worker; nothing that it does is durable in a second. Returns when the
 * worker that has the queue knows. */
static void delete_slowly(struct world *w, const char *name, unsigned host)
{
    struct actor *a = open_another(w, 0);

    simulated_disk_faults(w->disks[0])->latency_max_ns = SLOW_NS;
    int outcome = broker_delete_queue(a->client, &a->request, slice_text(name), false, false);
    assert_int_equal(outcome, PENDING);
    RUN_UNTIL(w, !find(w, host, name));
}

static void crash_and_start(struct world *w)
{
    world_crash(w);
    simulated_disk_faults(w->disks[0])->latency_max_ns = NANOSECONDS_PER_MS;
    world_start(w);
}

static void stop(struct world *w)
{
    world_stop(w);
    assert_int_equal(w->errors, 0);
    world_fini(w);
}

/* What was settled before the deletion, and what is settled after it, stays settled when the
 * deletion is undone, however many checkpoints there have been since. */
static void checkpoints_know_it(void **state)
{
    unsigned back = 0;

    (void)state;
    for (unsigned seed = 0; seed < 40; seed++) {
        struct world w;
        struct lease leases[20];
        char body[16];
        world_init(&w, 2, 2, 100 + seed);
        w.checkpoint_bytes = 3000;
        world_start(&w);
        declare(&w, 1, "deleted", true);
        declare(&w, 1, "other", true);
        struct actor *a = open_actor(&w, 1);
        publish_some(&w, a, "deleted", 40);
        publish_some(&w, a, "other", 10); /* a checkpoint has them all */
        for (unsigned i = 0; i < 20; i++)
            assert_true(get(&w, a, "deleted", &leases[i], body));
        broker_settle(a->client, leases, 10, OUTCOME_ACCEPT);
        delete_slowly(&w, "deleted", 1);
        if (seed % 2)
            publish_some(&w, a, "other", 10);
        broker_settle(a->client, &leases[10], 10, OUTCOME_ACCEPT);
        for (unsigned i = 0; i < 3; i++)
            publish_some(&w, a, "other", 10);
        crash_and_start(&w);
        if (find(&w, 0, "deleted")) {
            assert_int_equal(count(&w, "deleted"), 20);
            back++;
        }
        assert_int_equal(count(&w, "other"), seed % 2 ? 50 : 40);
        stop(&w);
    }
    assert_true(back > 10);
}

static void declare_with_graves(struct world *w, const char *name)
{
    struct actor *a = open_actor(w, 1);
    uint8_t bytes[100];
    struct writer arguments = writer_of(bytes, sizeof bytes);

    fields_put_text(&arguments, "x-dead-letter-exchange", slice_text(""));
    fields_put_text(&arguments, "x-dead-letter-routing-key", slice_text("other"));
    struct queue_spec spec = {.name = slice_text(name),
                              .durable = true,
                              .arguments = slice_of(bytes, writer_size(&arguments))};
    DO(w, a, broker_declare_queue(a->client, &a->request, &spec));
}

/* What is rejected after the deletion is buried by nobody: when the deletion is undone, it is back
 * in its queue. */
static void the_rejected_come_back(void **state)
{
    unsigned back = 0;

    (void)state;
    for (unsigned seed = 0; seed < 20; seed++) {
        struct world w;
        struct lease leases[10];
        char body[16];
        world_init(&w, 2, 2, 200 + seed);
        world_start(&w);
        declare_with_graves(&w, "deleted");
        declare(&w, 1, "other", true);
        struct actor *a = open_actor(&w, 1);
        publish_some(&w, a, "deleted", 10);
        for (unsigned i = 0; i < 10; i++)
            assert_true(get(&w, a, "deleted", &leases[i], body));
        delete_slowly(&w, "deleted", 1);
        broker_settle(a->client, leases, 5, OUTCOME_REJECT);
        broker_settle(a->client, leases + 5, 1, OUTCOME_REJECT);
        broker_settle(a->client, leases + 6, 4, OUTCOME_ACCEPT);
        publish_some(&w, a, "other", 1);
        crash_and_start(&w);
        assert_int_equal(count(&w, "other"), 1);
        if (find(&w, 0, "deleted")) {
            assert_int_equal(count(&w, "deleted"), 6);
            back++;
        }
        stop(&w);
    }
    assert_true(back > 5);
}

/* ---- transactions ---- */

struct trial {
    unsigned workers, client; /* the client's worker; the queue's is 1 */
    bool is_spread;           /* over two shards */
    unsigned turns, more;     /* from the deletion to the commit, to the crash */
};

#define SETTLED 5u

/* Moves messages from a queue that is being deleted to another: whole or not at all. */
static bool try_transaction(const struct trial *t, uint64_t seed, unsigned *seen)
{
    struct world w;
    struct settlement settlements[SETTLED];
    struct publish publishes[SETTLED];
    char body[16];

    world_init(&w, t->workers, t->workers, seed);
    world_start(&w);
    declare(&w, 1, "deleted", true);
    declare(&w, t->is_spread ? 0 : 1, "other", true);
    struct actor *a = open_actor(&w, t->client), *b = open_another(&w, 0);
    publish_some(&w, a, "deleted", SETTLED);
    for (unsigned i = 0; i < SETTLED; i++) {
        assert_true(get(&w, a, "deleted", &settlements[i].lease, body));
        settlements[i].outcome = OUTCOME_ACCEPT;
        publishes[i] = to_queue(a, "other", "moved", NULL);
    }
    simulated_disk_faults(w.disks[0])->latency_max_ns = 20 * NANOSECONDS_PER_MS;
    int outcome = broker_delete_queue(b->client, &b->request, slice_text("deleted"), false, false);
    for (unsigned i = 0; i < t->turns; i++)
        run(&w);
    int committed =
        broker_transact(a->client, &a->request, publishes, SETTLED, settlements, SETTLED);
    for (unsigned i = 0; i < t->more; i++)
        run(&w);
    bool is_answered = committed == DONE || a->is_done;
    if (is_answered)
        assert_string_equal(a->request.failure.text, "");
    bool is_over = is_answered && (outcome == DONE || b->is_done);
    for (unsigned i = 0; i < SETTLED; i++)
        message_unref(publishes[i].message);
    crash_and_start(&w);
    simulated_run_for(w.loops[0], 50 * NANOSECONDS_PER_MS); /* what was in doubt is known */
    unsigned moved = count(&w, "other");
    assert_true(moved == 0 || moved == SETTLED);
    assert_true(moved == SETTLED || !is_answered);
    *seen |= moved ? 1 : 2;
    if (find(&w, 0, "deleted")) {
        assert_int_equal(count(&w, "deleted"), SETTLED - moved);
        *seen |= moved ? 4 : 8;
    }
    stop(&w);
    return is_over;
}

static void try_all(const struct trial *trial, uint64_t seed)
{
    struct trial t = *trial;
    unsigned seen = 0, tried = 0;

    for (t.turns = 0; t.turns < 60; t.turns += 4) {
        bool is_over = false;
        for (t.more = 0; !is_over; t.more++, tried++)
            is_over = try_transaction(&t, seed += 10, &seen);
    }
    print_message("%u crashes, %x\n", tried, seen);
    assert_true((seen & 11) == 11);
}

static void transactions_at_home(void **state)
{
    (void)state;
    try_all(&(struct trial){2, 1, false, 0, 0}, 20000);
    try_all(&(struct trial){2, 1, true, 0, 0}, 30000);
}

static void transactions_by_mail(void **state)
{
    (void)state;
    try_all(&(struct trial){3, 2, false, 0, 0}, 40000);
    try_all(&(struct trial){3, 2, true, 0, 0}, 50000);
    try_all(&(struct trial){3, 0, false, 0, 0}, 60000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(checkpoints_know_it),
        cmocka_unit_test(the_rejected_come_back),
        cmocka_unit_test(transactions_at_home),
        cmocka_unit_test(transactions_by_mail),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
