/*
 * Policies over the shards of one to three workers, in virtual time: what they say acts on queues
 * and exchanges that are there and that come, everywhere, as soon as they are set, and after any
 * restart.
 */
#include "broker/move.h"
#include "broker/test_world.h"

/* ---- what there is to do ---- */

struct setting {
    const char *name, *pattern, *definition; /* "max-length=3 overflow=reject-publish" */
    int64_t priority;
    bool is_operator;
};

static struct slice parse(const char *text, uint8_t *bytes, size_t size)
{
    struct writer w = writer_of(bytes, size);
    char name[64], value[64];
    int used;

    for (; sscanf(text, " %63[^=]=%63s%n", name, value, &used) == 2; text += used) {
        if (strspn(value, "-0123456789") == strlen(value))
            fields_put_integer(&w, name, strtoll(value, NULL, 10));
        else
            fields_put_text(&w, name, slice_text(strcmp(value, "default") ? value : ""));
    }
    assert_false(w.failed);
    return slice_of(bytes, writer_size(&w));
}

/* What comes of it. */
static int set_policy(struct world *w, unsigned worker, const struct setting *setting)
{
    struct actor *a = open_actor(w, worker);
    uint8_t bytes[1024];
    struct policy_spec spec = {.vhost = slice_text("/"),
                               .name = slice_text(setting->name),
                               .is_operator = setting->is_operator,
                               .pattern = slice_text(setting->pattern),
                               .apply_to = slice_text("all"),
                               .priority = setting->priority,
                               .definition = parse(setting->definition, bytes, sizeof bytes)};

    complete(w, a, broker_set_policy(a->client, &a->request, &spec));
    return a->request.failure.code;
}

static void set(struct world *w, unsigned worker, const char *name, const char *pattern,
                const char *definition)
{
    assert_int_equal(set_policy(w, worker, &(struct setting){name, pattern, definition, 0, false}),
                     0);
}

static void clear(struct world *w, unsigned worker, const char *name, bool is_operator)
{
    struct actor *a = open_actor(w, worker);

    DO(w, a,
       broker_clear_policy(a->client, &a->request, slice_text("/"), is_operator, slice_text(name)));
}

static void publish(struct world *w, unsigned worker, const char *queue, unsigned count)
{
    struct actor *a = open_actor(w, worker);
    struct publisher *publisher = publisher_open(a->client, NULL);

    a->confirmed = a->refused = 0;
    for (unsigned i = 0; i < count; i++) {
        struct message *message = message_for(a, queue, "m", true);
        message->published_at_ms = loop_wall_ms(w->loops[worker]);
        struct publish publish = {.message = message, .publisher = publisher};
        assert_int_equal(broker_publish(a->client, &publish), 0);
        message_unref(message);
    }
    RUN_UNTIL(w, a->confirmed == count);
    publisher_close(publisher);
}

static void pass_ms(struct world *w, uint64_t ms)
{
    simulated_run_for(w->loops[0], ms * NANOSECONDS_PER_MS);
}

static struct catalog_queue *look(const struct world *w, unsigned worker, const char *name)
{
    return vhost_queue(catalog_vhost(&w->worker[worker]->catalog, slice_text("/")),
                       slice_text(name));
}

static struct hosted *hosted(const struct world *w, const char *name)
{
    for (unsigned i = 0; i < w->workers; i++) {
        const struct catalog_queue *queue = look(w, i, name);
        if (queue && queue->hosted)
            return queue->hosted;
    }
    return NULL;
}

static uint64_t ready(const struct world *w, const char *name)
{
    return hosted(w, name)->queue.ready;
}

/* ---- tests ---- */

static void it_acts_on_what_is_there(void **state)
{
    struct world w;

    (void)state;
    for (unsigned workers = 1; workers <= 3; workers++) {
        world_init(&w, workers, 3, 10 + workers);
        world_start(&w);
        declare(&w, workers - 1, "q", true);
        declare(&w, 0, "grave", true);
        publish(&w, 0, "q", 20);
        set(&w, 0, "p", "^q$",
            "max-length=5 dead-letter-exchange=default dead-letter-routing-key=grave");
        RUN_UNTIL(&w, ready(&w, "q") == 5 && ready(&w, "grave") == 15);
        set(&w, workers - 1, "p", "^q$", "max-length=2");
        RUN_UNTIL(&w, ready(&w, "q") == 2);
        pass_ms(&w, 50);
        assert_int_equal(ready(&w, "grave"), 15); /* nobody is buried any more */
        clear(&w, 0, "p", false);
        publish(&w, 0, "q", 20);
        pass_ms(&w, 50);
        assert_int_equal(ready(&w, "q"), 22);
        world_end(&w);
    }
}

static void times_and_refusals(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 20);
    world_start(&w);
    declare(&w, 1, "q", true);
    publish(&w, 0, "q", 10);
    set(&w, 0, "p", "q", "max-length=12 overflow=reject-publish");
    publish(&w, 0, "q", 5);
    assert_int_equal(w.actors[0].refused, 3);
    set(&w, 0, "p", "q", "message-ttl=100");
    pass_ms(&w, 10);
    assert_int_equal(ready(&w, "q"), 12);
    pass_ms(&w, 200);
    assert_int_equal(ready(&w, "q"), 0);
    publish(&w, 0, "q", 5);
    set(&w, 1, "p", "q", "message-ttl=100000");
    pass_ms(&w, 500);
    assert_int_equal(ready(&w, "q"), 5);
    set(&w, 1, "p", "q", "expires=1000");
    pass_ms(&w, 500);
    assert_non_null(hosted(&w, "q"));
    pass_ms(&w, 700);
    assert_null(hosted(&w, "q"));
    declare(&w, 1, "q", true);
    clear(&w, 1, "p", false);
    pass_ms(&w, 3000);
    assert_non_null(hosted(&w, "q"));
    world_end(&w);
}

/* What a crash leaves is what was answered. No queue loses anything for a policy that is gone. */
static void it_survives(void **state)
{
    struct world w;

    (void)state;
    for (unsigned workers = 1; workers <= 3; workers++) {
        world_init(&w, workers, 3, 30 + workers);
        world_start(&w);
        declare(&w, workers - 1, "q", true);
        declare(&w, 0, "r", true);
        set(&w, 0, "p", "^q$", "max-length=5");
        set(&w, 0, "s", "^r$", "max-length=5");
        publish(&w, 0, "q", 20);
        clear(&w, workers - 1, "s", false);
        publish(&w, 0, "r", 20);
        for (unsigned life = 0; life < 3; life++) {
            if (life == 1)
                world_stop(&w);
            else
                world_crash(&w);
            world_start(&w);
            pass_ms(&w, 100);
            assert_int_equal(ready(&w, "q"), 5);
            assert_int_equal(ready(&w, "r"), 20);
            publish(&w, 0, "q", 1);
            pass_ms(&w, 100);
            assert_int_equal(ready(&w, "q"), 5);
        }
        world_end(&w);
    }
}

static const char *applies(const struct world *w, const char *queue, enum policy_kind kind)
{
    const struct policy *policy = look(w, 0, queue)->policies[kind];

    return policy ? policy->name : "none";
}

static void the_highest_priority_wins(void **state)
{
    static const struct setting settings[] = {
        {"low", "", "max-length=9", -1, false}, {"b", "^q", "max-length=8", 3, false},
        {"a", "^q", "max-length=7", 3, false},  {"op", "", "max-length=20", 0, true},
        {"op2", "^q", "max-length=6", 1, true},
    };
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 40);
    world_start(&w);
    declare(&w, 1, "q", false);
    declare(&w, 1, "r", false);
    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++)
        assert_int_equal(set_policy(&w, i % 2, &settings[i]), 0);
    assert_string_equal(applies(&w, "q", POLICY_OF_USERS), "a");
    assert_string_equal(applies(&w, "q", POLICY_OF_OPERATORS), "op2");
    assert_string_equal(applies(&w, "r", POLICY_OF_USERS), "low");
    assert_string_equal(applies(&w, "r", POLICY_OF_OPERATORS), "op");
    assert_int_equal(look(&w, 0, "q")->settings.length_max, 6);
    assert_int_equal(look(&w, 0, "r")->settings.length_max, 9);
    declare(&w, 0, "q-later", false);
    assert_int_equal(look(&w, 1, "q-later")->settings.length_max, 6);
    clear(&w, 0, "a", false);
    clear(&w, 1, "op2", true);
    assert_string_equal(applies(&w, "q", POLICY_OF_USERS), "b");
    assert_int_equal(look(&w, 0, "q")->settings.length_max, 8);
    worker_check_same_catalog(w.worker[0], w.worker[1]);
    world_end(&w);
}

static void exchanges_get_alternates(void **state)
{
    struct world w;

    (void)state;
    world_init(&w, 2, 2, 50);
    world_start(&w);
    struct actor *a = open_actor(&w, 1);
    struct exchange_spec main = {.name = slice_text("x"), .type = slice_text("direct")},
                         other = {.name = slice_text("y"), .type = slice_text("fanout")};
    struct binding_spec binding = {.source = slice_text("y"), .destination = slice_text("q")};
    declare(&w, 0, "q", false);
    set(&w, 0, "p", "^x$", "alternate-exchange=y");
    DO(&w, a, broker_declare_exchange(a->client, &a->request, &main));
    DO(&w, a, broker_declare_exchange(a->client, &a->request, &other));
    DO(&w, a, broker_bind(a->client, &a->request, &binding));
    for (unsigned i = 0; i < 2; i++) {
        struct message_parts parts = {.format = FORMAT_AMQP091,
                                      .exchange = slice_text("x"),
                                      .key = slice_text("nobody"),
                                      .properties = slice_of("\0\0", 2),
                                      .body = slice_text("m")};
        struct publish publish = {.message =
                                      message_new(broker_message_account(a->client), &parts)};
        assert_int_equal(broker_publish(a->client, &publish), 0);
        assert_int_equal(publish.queues, 1 - i);
        message_unref(publish.message);
        if (i == 0)
            clear(&w, 0, "p", false);
    }
    world_end(&w);
}

/* Whoever is answered finds it in force on all of many queues, which takes several turns. */
static void many_queues(void **state)
{
    unsigned count = 3000, turns_between = 0;
    uint8_t bytes[64];
    struct world w;
    char text[32];

    (void)state;
    world_init(&w, 2, 4, 60);
    world_start(&w);
    for (unsigned i = 0; i < count; i++) {
        snprintf(text, sizeof text, "q%u", i);
        declare(&w, i % 2, text, false);
    }
    for (unsigned n = 1; n <= 3; n++) {
        struct actor *a = open_actor(&w, n % 2);
        snprintf(text, sizeof text, "max-length=%u", n);
        struct policy_spec spec = {.vhost = slice_text("/"),
                                   .name = slice_text("p"),
                                   .pattern = slice_text("^q"),
                                   .apply_to = slice_text("queues"),
                                   .definition = parse(text, bytes, sizeof bytes)};
        int outcome = broker_set_policy(a->client, &a->request, &spec);
        while (outcome == PENDING && !a->is_done) {
            run(&w);
            turns_between += w.worker[0]->policies.is_on + w.worker[1]->policies.is_on;
        }
        a->is_done = false;
        for (unsigned i = 0; i < count; i++) {
            snprintf(text, sizeof text, "q%u", i);
            assert_int_equal(look(&w, 0, text)->settings.length_max, n);
            assert_int_equal(look(&w, 1, text)->settings.length_max, n);
        }
    }
    assert_in_range(turns_between, 6, 10000);
    world_end(&w);
}

/* Changed while it is under way, in each turn of it. */
static void a_queue_that_moves(void **state)
{
    struct world w;

    (void)state;
    for (unsigned after = 0; after < 30; after++) {
        world_init(&w, 2, 2, 70 + after);
        world_start(&w);
        declare(&w, 0, "q", true);
        set(&w, 0, "p", "q", "max-length=50");
        publish(&w, 0, "q", 40);
        struct actor *mover = open_another(&w, 1);
        int outcome = broker_move_queue(mover->client, &mover->request, slice_text("q"), 2);
        for (unsigned turn = 0; turn < after; turn++)
            run(&w);
        set(&w, after % 2, "p", "q", "max-length=7");
        complete(&w, mover, outcome);
        RUN_UNTIL(&w, hosted(&w, "q") && ready(&w, "q") == 7);
        assert_int_equal(look(&w, 0, "q")->shard, 2);
        world_end(&w);
    }
}

static void limits_and_refusals(void **state)
{
    struct setting setting = {"p", "q", "max-length=1", 0, false};
    struct world w;
    char name[16];

    (void)state;
    world_init(&w, 2, 2, 80);
    world_start(&w);
    for (unsigned i = 0; i < POLICIES_MAX; i++) {
        snprintf(name, sizeof name, "p%u", i);
        setting.name = name;
        assert_int_equal(set_policy(&w, 1, &setting), 0);
    }
    setting.name = "one-more";
    assert_int_equal(set_policy(&w, 1, &setting), E_LIMIT);
    setting.name = "p7";
    assert_int_equal(set_policy(&w, 1, &setting), 0);
    assert_true(w.actors[1].request.result.policy.was_there);
    setting = (struct setting){"op", "q", "max-length=1", 0, true};
    assert_int_equal(set_policy(&w, 1, &setting), 0);
    assert_false(w.actors[1].request.result.policy.was_there);
    setting.pattern = "(";
    assert_int_equal(set_policy(&w, 1, &setting), E_INVALID);
    setting = (struct setting){"op", "q", "", 0, false};
    assert_int_equal(set_policy(&w, 1, &setting), E_INVALID);
    struct actor *a = open_actor(&w, 0);
    complete(&w, a,
             broker_clear_policy(a->client, &a->request, slice_text("/"), true, slice_text("no")));
    assert_int_equal(a->request.failure.code, E_NOT_FOUND);
    world_end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(it_acts_on_what_is_there),
        cmocka_unit_test(times_and_refusals),
        cmocka_unit_test(it_survives),
        cmocka_unit_test(the_highest_priority_wins),
        cmocka_unit_test(exchanges_get_alternates),
        cmocka_unit_test(many_queues),
        cmocka_unit_test(a_queue_that_moves),
        cmocka_unit_test(limits_and_refusals),
    };

    return cmocka_run_group_tests(tests, NULL, NULL);
}
