#include "message/filter.h"

#include "message/amqp091_properties.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>

static struct account account;

/* Published to "in" with the key "a.b" at 1000: n=7 t=true x=text, message_id=m1, priority=3. */
static struct message *some_message(void)
{
    uint8_t headers[256], properties[512];
    struct writer h = writer_of(headers, sizeof headers);
    struct writer w = writer_of(properties, sizeof properties);
    struct field real = {slice_text("f"), 'd', {.real = 1.5}};

    fields_put_integer(&h, "n", 7);
    fields_put_boolean(&h, "t", true);
    fields_put_text(&h, "x", slice_text("text"));
    fields_put(&h, &real);
    fields_end(&h, fields_begin(&h, "table", 'F'));
    struct amqp091_properties p = {
        .flags = AMQP091_HEADERS | AMQP091_MESSAGE_ID | AMQP091_PRIORITY | AMQP091_TIMESTAMP,
        .headers = slice_of(headers, writer_size(&h)),
        .message_id = slice_text("m1"),
        .priority = 3,
        .timestamp = 1700000000,
    };
    amqp091_properties_write(&w, &p);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .exchange = slice_text("in"),
        .key = slice_text("a.b"),
        .properties = slice_of(properties, writer_size(&w)),
        .body = slice_text("body"),
        .published_at_ms = 1000,
    };
    return message_new(&account, &parts);
}

static bool accepts(const struct message *message, const char *name, const char *value)
{
    uint8_t bytes[512];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct failure failure;

    fields_put_text(&w, name, slice_text(value));
    struct message_filter filter = {.conditions = slice_of(bytes, writer_size(&w))};
    assert_int_equal(filter_check(filter.conditions, &failure), 0);
    return filter_accepts(&filter, message);
}

static void test_each_condition(void **state)
{
    static const struct {
        const char *name, *yes, *no;
    } cases[] = {
        {"header.n", "7", "8"},
        {"header.t", "true", "false"},
        {"header.x", "text", "tex"},
        {"header.f", "1.5", "1.50"},
        {"property.message_id", "m1", "m2"},
        {"property.priority", "3", "03"},
        {"property.timestamp", "1700000000", "1700000001"},
        {"exchange", "in", ""},
        {"routing_key", "a.b", "a"},
    };
    struct message *message = some_message();

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_true(accepts(message, cases[i].name, cases[i].yes));
        assert_false(accepts(message, cases[i].name, cases[i].no));
    }
    assert_false(accepts(message, "header.table", ""));
    assert_false(accepts(message, "header.none", ""));
    assert_false(accepts(message, "property.none", ""));
    assert_false(accepts(message, "property.type", ""));
    message_unref(message);
}

static void test_all_must_hold(void **state)
{
    struct message *message = some_message();
    uint8_t bytes[512];
    struct writer w = writer_of(bytes, sizeof bytes);

    (void)state;
    fields_put_text(&w, "header.n", slice_text("7"));
    fields_put_text(&w, "exchange", slice_text("in"));
    struct message_filter filter = {.conditions = slice_of(bytes, writer_size(&w))};
    assert_true(filter_accepts(&filter, message));
    fields_put_text(&w, "routing_key", slice_text("other"));
    filter.conditions.size = writer_size(&w);
    assert_false(filter_accepts(&filter, message));
    message_unref(message);
}

static void test_time(void **state)
{
    struct message *message = some_message();
    static const struct {
        uint64_t since_ms, until_ms;
        bool accepts;
    } cases[] = {{0, 0, true},     {1000, 0, true},    {1001, 0, false}, {0, 1001, true},
                 {0, 1000, false}, {1000, 1001, true}, {500, 999, false}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct message_filter filter = {.since_ms = cases[i].since_ms,
                                        .until_ms = cases[i].until_ms};
        assert_int_equal(filter_accepts(&filter, message), cases[i].accepts);
    }
    message_unref(message);
}

static struct message *dead(struct message *message, const char *queue, const char *reason)
{
    struct death death = {.queue = slice_text(queue), .reason = reason, .at_ms = 2000};
    struct message *letter = message_format(message)->dead_letter(&account, message, &death);

    message_unref(message);
    return letter;
}

static void test_deaths(void **state)
{
    struct message *message = some_message();
    struct message_origin origin;

    (void)state;
    assert_false(accepts(message, "death.queue", "work"));
    assert_false(message_format(message)->origin(message, &origin));
    message = dead(message, "work", "rejected");
    assert_true(accepts(message, "death.queue", "work"));
    assert_true(accepts(message, "death.reason", "rejected"));
    message = dead(message, "graves", "expired");
    assert_true(accepts(message, "death.queue", "work"));
    assert_false(accepts(message, "death.queue", "graves"));
    assert_true(accepts(message, "death.reason", "expired"));
    assert_false(accepts(message, "death.reason", "rejected"));
    assert_true(message_format(message)->origin(message, &origin));
    assert_true(slice_is(origin.queue, "work"));
    assert_true(slice_is(origin.exchange, "in"));
    assert_true(slice_is(origin.key, "a.b"));
    assert_true(slice_is(origin.reason, "expired"));
    message_unref(message);
}

/* Whoever publishes such headers has not died. */
static void test_deaths_made_up(void **state)
{
    struct message *message = dead(some_message(), "work", "rejected");
    struct message_origin origin;

    (void)state;
    message->flags = 0;
    assert_false(message_format(message)->origin(message, &origin));
    assert_false(accepts(message, "death.queue", "work"));
    message_unref(message);
}

static void test_what_is_refused(void **state)
{
    uint8_t bytes[FILTER_BYTES_MAX + 64];
    struct failure failure;
    struct writer w = writer_of(bytes, sizeof bytes);

    (void)state;
    fields_put_text(&w, "headers.x", slice_text("1"));
    assert_int_equal(filter_check(slice_of(bytes, writer_size(&w)), &failure), E_INVALID);
    w = writer_of(bytes, sizeof bytes);
    fields_put_text(&w, "header.", slice_text("1"));
    assert_int_equal(filter_check(slice_of(bytes, writer_size(&w)), &failure), E_INVALID);
    w = writer_of(bytes, sizeof bytes);
    fields_put_integer(&w, "header.x", 1);
    assert_int_equal(filter_check(slice_of(bytes, writer_size(&w)), &failure), E_INVALID);
    assert_int_equal(filter_check(slice_of("\xff", 1), &failure), E_INVALID);
    w = writer_of(bytes, sizeof bytes);
    for (unsigned i = 0; i < FILTER_CONDITIONS_MAX; i++)
        fields_put_text(&w, "header.x", slice_text("1"));
    assert_int_equal(filter_check(slice_of(bytes, writer_size(&w)), &failure), 0);
    fields_put_text(&w, "header.x", slice_text("1"));
    assert_int_equal(filter_check(slice_of(bytes, writer_size(&w)), &failure), E_LIMIT);
    assert_int_equal(filter_check(slice_of(bytes, FILTER_BYTES_MAX + 1), &failure), E_LIMIT);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_each_condition), cmocka_unit_test(test_all_must_hold),
        cmocka_unit_test(test_time),           cmocka_unit_test(test_deaths),
        cmocka_unit_test(test_deaths_made_up), cmocka_unit_test(test_what_is_refused),
    };

    account_init(&account, NULL, 0);
    int result = cmocka_run_group_tests(tests, NULL, NULL);
    account_fini(&account);
    return result;
}
