#include "broker/arguments.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

#define NAMED(n) .name = {(const uint8_t *)(n), sizeof(n) - 1}
#define TEXT(n, v)                                                                                 \
    {                                                                                              \
        NAMED(n), .type = 'S', .value.bytes = {(const uint8_t *)(v), sizeof(v) - 1 }               \
    }
#define NUMBER(n, t, v)                                                                            \
    {                                                                                              \
        NAMED(n), .type = (t), .value.integer = (v)                                                \
    }
#define BOOLEAN(n, v)                                                                              \
    {                                                                                              \
        NAMED(n), .type = 't', .value.boolean = (v)                                                \
    }

struct table {
    uint8_t memory[400];
    struct slice bytes;
};

static struct slice build(struct table *table, const struct field fields[3])
{
    struct writer w = writer_of(table->memory, sizeof table->memory);
    for (unsigned i = 0; i < 3 && fields[i].type; i++)
        fields_put(&w, &fields[i]);
    assert_false(w.failed);
    table->bytes = slice_of(table->memory, writer_size(&w));
    assert_int_equal(fields_check(table->bytes, NULL), 0);
    return table->bytes;
}

struct check_case {
    struct field fields[3];
    const char *cause; /* behind "invalid arg 'NAME' for queue 'q' in vhost '/'"; NULL: in order */
};

#define X16  "xxxxxxxxxxxxxxxx"
#define X64  X16 X16 X16 X16
#define X256 X64 X64 X64 X64

static void test_single_arguments(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {{{.type = 0}}, NULL},
        {{TEXT("x-nobody-knows", "this"), NUMBER("my-own", 'l', -1)}, NULL},
        {{NUMBER("x-expires", 'I', 1)}, NULL},
        {{NUMBER("x-expires", 'l', ARGUMENT_MS_MAX)}, NULL},
        {{NUMBER("x-expires", 'l', ARGUMENT_MS_MAX + 1)}, ": {value_too_large,315360000001}"},
        {{NUMBER("x-expires", 'I', 0)}, ": {value_zero,0}"},
        {{NUMBER("x-expires", 'b', -1)}, ": {value_negative,-1}"},
        {{TEXT("x-expires", "1000")}, ": \"expected integer, got longstr\""},
        {{NUMBER("x-expires", 'T', 1)}, ": \"expected integer, got timestamp\""},
        {{NUMBER("x-message-ttl", 's', 0)}, NULL},
        {{NUMBER("x-message-ttl", 's', -1)}, ": {value_negative,-1}"},
        {{NUMBER("x-message-ttl", 'l', ARGUMENT_MS_MAX + 1)}, ": {value_too_large,315360000001}"},
        {{NUMBER("x-max-length", 'i', 0)}, NULL},
        {{NUMBER("x-max-length", 'I', -5)}, ": {value_negative,-5}"},
        {{NUMBER("x-max-length-bytes", 'l', INT64_MAX)}, NULL},
        {{BOOLEAN("x-max-length-bytes", true)}, ": \"expected integer, got bool\""},
        {{NUMBER("x-max-priority", 'B', 255)}, NULL},
        {{NUMBER("x-max-priority", 'B', 0)}, NULL},
        {{NUMBER("x-max-priority", 's', 256)}, ": {max_value_exceeded,256}"},
        {{TEXT("x-overflow", "reject-publish-dlx")}, NULL},
        {{TEXT("x-overflow", "drop-tail")}, ": invalid_overflow"},
        {{NUMBER("x-overflow", 'I', 1)}, ": {unacceptable_type,signedint}"},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-overflow", "reject-publish-dlx")},
         ": invalid_overflow"},
        {{TEXT("x-dead-letter-exchange", "dlx"), TEXT("x-dead-letter-routing-key", "k")}, NULL},
        {{TEXT("x-dead-letter-routing-key", "k"), TEXT("x-dead-letter-exchange", "")}, NULL},
        {{TEXT("x-dead-letter-routing-key", "k")}, ": routing_key_but_no_dlx_defined"},
        {{TEXT("x-dead-letter-exchange", "d"), BOOLEAN("x-dead-letter-routing-key", true)},
         ": {unacceptable_type,bool}"},
        {{TEXT("x-dead-letter-exchange", X256)}, ": {value_too_long,256}"},
        {{TEXT("x-dead-letter-exchange", "d"), TEXT("x-dead-letter-routing-key", X256)},
         ": {value_too_long,256}"},
        {{BOOLEAN("x-single-active-consumer", false)}, NULL},
        {{TEXT("x-single-active-consumer", "true")}, ": {unacceptable_type,longstr}"},
        {{TEXT("x-queue-mode", "lazy")}, NULL},
        {{NUMBER("x-queue-version", 'I', 2)}, NULL},
        {{NUMBER("x-queue-version", 'I', 3)}, ": \"unsupported queue version '3'\""},
        {{TEXT("x-queue-leader-locator", "balanced")}, NULL},
        {{TEXT("x-queue-leader-locator", "here")}, ": invalid_queue_locator_arg"},
        {{TEXT("x-queue-type", "classic")}, NULL},
        {{TEXT("x-queue-type", "")}, NULL},
        {{TEXT("x-queue-type", "fast")}, ": \"unsupported queue type 'fast'\""},
        {{BOOLEAN("x-queue-type", true)}, ": {unacceptable_type,bool}"},
        /* of other types of queue */
        {{NUMBER("x-delivery-limit", 'I', 5)}, " of queue type classic"},
        {{TEXT("x-max-age", "1D")}, " of queue type classic"},
        {{TEXT("x-queue-type", "quorum"), NUMBER("x-max-priority", 'I', 5)},
         " of queue type quorum"},
        {{TEXT("x-queue-type", "stream"), NUMBER("x-expires", 'I', 5)}, " of queue type stream"},
        {{TEXT("x-queue-type", "stream"), TEXT("x-dead-letter-exchange", "d")},
         " of queue type stream"},
        {{TEXT("x-queue-type", "quorum"), NUMBER("x-delivery-limit", 'I', -1)}, NULL},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-delivery-limit", "5")},
         ": \"expected integer, got longstr\""},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-dead-letter-strategy", "at-least-once")}, NULL},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-dead-letter-strategy", "often")},
         ": invalid_dlx_strategy"},
        {{TEXT("x-queue-type", "quorum"), NUMBER("x-quorum-initial-group-size", 'I', 0)},
         ": {value_zero,0}"},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-delayed-retry-type", "all")}, NULL},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-delayed-retry-backoff", "linear")}, NULL},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-delayed-retry-backoff", "square")},
         ": invalid_backoff"},
        {{TEXT("x-queue-type", "quorum"), NUMBER("x-delayed-retry-jitter", 'l', 100)}, NULL},
        {{TEXT("x-queue-type", "quorum"), NUMBER("x-delayed-retry-jitter", 'l', 101)},
         ": {value_too_large,101}"},
        {{TEXT("x-queue-type", "quorum"), NUMBER("x-delayed-retry-min", 'l', ARGUMENT_MS_MAX + 1)},
         ": {value_too_large,315360000001}"},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-delayed-retry-steps", "1")},
         ": {unacceptable_type,longstr}"},
        {{TEXT("x-queue-type", "quorum"), TEXT("x-delayed-retry-type", "some")},
         ": invalid_delayed_retry_type"},
        {{TEXT("x-queue-type", "stream"), TEXT("x-max-age", "7D")}, NULL},
        {{TEXT("x-queue-type", "stream"), TEXT("x-max-age", "0D")}, ": invalid_max_age"},
        {{TEXT("x-queue-type", "stream"), TEXT("x-max-age", "7")}, ": invalid_max_age"},
        {{TEXT("x-queue-type", "stream"), TEXT("x-max-age", "7days")}, ": invalid_max_age"},
        {{TEXT("x-queue-type", "stream"), TEXT("x-max-age", "")}, ": invalid_max_age"},
        {{TEXT("x-queue-type", "stream"), NUMBER("x-stream-filter-size-bytes", 'I', 16)}, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct table table;
        struct queue_settings settings;
        struct failure failure = {0};
        int result =
            queue_arguments_check(build(&table, cases[i].fields), "q", "/", &settings, &failure);
        if (!cases[i].cause) {
            if (result != 0)
                fail_msg("case %zu: %s", i, failure.text);
            continue;
        }
        assert_int_equal(result, E_INVALID);
        const char *middle = strstr(failure.text, "' for queue 'q' in vhost '/'");
        if (!slice_starts(slice_text(failure.text), "invalid arg 'x-") || !middle ||
            strcmp(middle + strlen("' for queue 'q' in vhost '/'"), cases[i].cause) != 0)
            fail_msg("case %zu: %s", i, failure.text);
    }
}

static void test_texts_in_full(void **state)
{
    (void)state;
    static const struct check_case cases[] = {
        {{NUMBER("x-expires", 'I', -1)},
         "invalid arg 'x-expires' for queue 'jobs' in vhost 'prod': {value_negative,-1}"},
        {{NUMBER("x-delivery-limit", 'I', 1)},
         "invalid arg 'x-delivery-limit' for queue 'jobs' in vhost 'prod' of queue type classic"},
        {{NUMBER("x-dead-letter-exchange", 'I', 1)},
         "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'jobs' in vhost "
         "'prod'"},
        {{TEXT("x-queue-type", "stream"), NUMBER("x-stream-filter-size-bytes", 'I', 256)},
         "Invalid value for x-stream-filter-size-bytes"},
        {{TEXT("x-queue-type", "stream"),
          NUMBER("x-stream-max-segment-size-bytes", 'l', 3000000001)},
         "Exceeded max value for x-stream-max-segment-size-bytes"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct table table;
        struct queue_settings settings;
        struct failure failure = {0};
        assert_int_equal(queue_arguments_check(build(&table, cases[i].fields), "jobs", "prod",
                                               &settings, &failure),
                         E_INVALID);
        assert_string_equal(failure.text, cases[i].cause);
    }
}

static void test_settings(void **state)
{
    (void)state;
    static const struct field none[3],
        some[3] = {NUMBER("x-expires", 'I', 1800000), NUMBER("x-max-priority", 'b', 10),
                   BOOLEAN("x-single-active-consumer", true)},
        quorum[3] = {TEXT("x-queue-type", "quorum"), NUMBER("x-delivery-limit", 'I', 3),
                     NUMBER("x-message-ttl", 'I', 0)},
        unsaid[3] = {TEXT("x-queue-type", "quorum")},
        unlimited[3] = {TEXT("x-queue-type", "quorum"), NUMBER("x-delivery-limit", 'I', -5)},
        buries[3] = {TEXT("x-dead-letter-exchange", ""), TEXT("x-dead-letter-routing-key", "k"),
                     TEXT("x-overflow", "reject-publish-dlx")};
    struct table table;
    struct queue_settings s;
    assert_int_equal(queue_arguments_check(build(&table, none), "q", "/", &s, NULL), 0);
    assert_int_equal(s.type, QUEUE_CLASSIC);
    assert_int_equal(s.expires_ms, 0);
    assert_int_equal(s.message_ttl_ms, -1);
    assert_int_equal(s.length_max, -1);
    assert_int_equal(s.delivery_limit, -1);
    assert_int_equal(queue_arguments_check(build(&table, some), "q", "/", &s, NULL), 0);
    assert_int_equal(s.expires_ms, 1800000);
    assert_int_equal(s.priority_max, 10);
    assert_true(s.single_active_consumer);
    assert_int_equal(queue_arguments_check(build(&table, quorum), "q", "/", &s, NULL), 0);
    assert_int_equal(s.type, QUEUE_QUORUM);
    assert_int_equal(s.delivery_limit, 3);
    assert_int_equal(s.message_ttl_ms, 0);
    assert_false(queue_dead_letters(&s));
    assert_int_equal(queue_arguments_check(build(&table, unsaid), "q", "/", &s, NULL), 0);
    assert_int_equal(s.delivery_limit, 20);
    assert_int_equal(queue_arguments_check(build(&table, unlimited), "q", "/", &s, NULL), 0);
    assert_int_equal(s.delivery_limit, -1);
    assert_int_equal(queue_arguments_check(build(&table, buries), "q", "/", &s, NULL), 0);
    assert_true(queue_dead_letters(&s) && s.dead_letter_exchange.size == 0);
    assert_true(slice_is(s.dead_letter_key, "k"));
    assert_int_equal(s.overflow, OVERFLOW_REFUSE_AND_BURY);
}

static void test_properties(void **state)
{
    (void)state;
    struct failure failure = {0};
    assert_int_equal(queue_properties_check(QUEUE_CLASSIC, false, true, true, "q", "/", NULL), 0);
    assert_int_equal(queue_properties_check(QUEUE_QUORUM, true, false, false, "q", "/", NULL), 0);
    assert_int_equal(queue_properties_check(QUEUE_QUORUM, false, false, false, "q", "/", &failure),
                     E_INVALID);
    assert_string_equal(failure.text, "invalid property 'non-durable' for queue 'q' in vhost '/'");
    assert_int_equal(queue_properties_check(QUEUE_STREAM, true, true, false, "q", "/", &failure),
                     E_INVALID);
    assert_string_equal(failure.text,
                        "invalid property 'exclusive-owner' for queue 'q' in vhost '/'");
    assert_int_equal(queue_properties_check(QUEUE_STREAM, true, false, true, "q", "/", &failure),
                     E_INVALID);
    assert_string_equal(failure.text, "invalid property 'auto-delete' for queue 'q' in vhost '/'");
}

static void test_equivalence(void **state)
{
    (void)state;
    static const struct {
        struct field current[3], received[3];
        const char *difference; /* behind "... for queue 'q' in vhost '/': "; NULL: none */
    } cases[] = {
        {{NUMBER("x-message-ttl", 'I', 10)}, {NUMBER("x-message-ttl", 'l', 10)}, NULL},
        {{{.type = 0}},
         {NUMBER("x-message-ttl", 'I', 10)},
         "received the value '10' of type 'signedint' but current is none"},
        {{NUMBER("x-message-ttl", 'l', 10)},
         {{.type = 0}},
         "received none but current is the value '10' of type 'long'"},
        {{NUMBER("x-message-ttl", 'I', 10)},
         {NUMBER("x-message-ttl", 'I', 20)},
         "received '20' but current is '10'"},
        {{TEXT("x-overflow", "drop-head")},
         {TEXT("x-overflow", "reject-publish")},
         "received 'reject-publish' but current is 'drop-head'"},
        {{TEXT("x-overflow", "drop-head")},
         {{.type = 0}},
         "received none but current is the value 'drop-head' of type 'longstr'"},
        {{TEXT("x-queue-type", "classic")}, {{.type = 0}}, NULL},
        {{{.type = 0}}, {TEXT("x-queue-type", "classic")}, NULL},
        {{{.type = 0}}, {TEXT("x-queue-type", "")}, NULL},
        {{{.type = 0}},
         {TEXT("x-queue-type", "quorum")},
         "received the value 'quorum' of type 'longstr' but current is none"},
        {{TEXT("x-queue-type", "quorum")},
         {TEXT("x-queue-type", "classic")},
         "received 'classic' but current is 'quorum'"},
        {{TEXT("my-own", "1")}, {TEXT("my-own", "2")}, NULL}, /* nobody's: not compared */
        {{{.type = 0}}, {TEXT("x-max-age", "1D")}, NULL},     /* a stream's: neither */
        {{BOOLEAN("x-single-active-consumer", true), NUMBER("x-max-length", 'I', 1)},
         {NUMBER("x-max-length", 'b', 1), BOOLEAN("x-single-active-consumer", true)},
         NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct table current, received;
        struct failure failure = {0};
        int result =
            queue_arguments_equivalent(build(&current, cases[i].current),
                                       build(&received, cases[i].received), "q", "/", &failure);
        assert_int_equal(result, cases[i].difference ? E_MISMATCH : 0);
        const char *text = cases[i].difference ? strstr(failure.text, "in vhost '/': ") : NULL;
        if (cases[i].difference && (!text || strcmp(text + 14, cases[i].difference) != 0))
            fail_msg("case %zu: %s", i, failure.text);
    }
    struct table current, received;
    struct failure failure = {0};
    assert_int_equal(queue_arguments_equivalent(build(&current, cases[1].current),
                                                build(&received, cases[1].received), "q", "/",
                                                &failure),
                     E_MISMATCH);
    assert_string_equal(failure.text,
                        "inequivalent arg 'x-message-ttl' for queue 'q' in vhost '/': received the "
                        "value '10' of type 'signedint' but current is none");
}

static void test_exchanges(void **state)
{
    (void)state;
    static const struct field none[3],
        text[3] = {TEXT("alternate-exchange", "ae")},
        other[3] = {TEXT("alternate-exchange", "be"), TEXT("x", "1")},
        wrong[3] = {NUMBER("alternate-exchange", 'I', 1)};
    struct table a, b;
    struct failure failure = {0};
    assert_int_equal(exchange_arguments_check(build(&a, none), "e", "/", NULL), 0);
    assert_int_equal(exchange_arguments_check(build(&a, text), "e", "/", NULL), 0);
    assert_int_equal(exchange_arguments_check(build(&a, wrong), "e", "/", &failure), E_INVALID);
    assert_string_equal(
        failure.text,
        "invalid type 'signedint' for arg 'alternate-exchange' in exchange 'e' in vhost '/'");
    assert_int_equal(
        exchange_arguments_equivalent(build(&a, text), build(&b, text), "e", "/", NULL), 0);
    assert_int_equal(
        exchange_arguments_equivalent(build(&a, text), build(&b, none), "e", "/", &failure),
        E_MISMATCH);
    assert_string_equal(failure.text,
                        "inequivalent arg 'alternate-exchange' for exchange 'e' in vhost '/': "
                        "received none but current is the value 'ae' of type 'longstr'");
    assert_int_equal(
        exchange_arguments_equivalent(build(&a, text), build(&b, other), "e", "/", &failure),
        E_MISMATCH);
    assert_string_equal(failure.text, "inequivalent arg 'alternate-exchange' for exchange 'e' in "
                                      "vhost '/': received 'be' but current is 'ae'");
}

static void test_consumers(void **state)
{
    (void)state;
    static const struct field none[3],
        good[3] = {NUMBER("x-priority", 'b', -5), NUMBER("x-consumer-timeout", 'I', 1000)},
        wrong[3] = {TEXT("x-priority", "high")}, stream[3] = {TEXT("x-stream-offset", "first")};
    struct table table;
    struct consumer_settings s;
    struct failure failure = {0};
    assert_int_equal(
        consumer_arguments_check(build(&table, none), QUEUE_CLASSIC, "q", "/", &s, NULL), 0);
    assert_int_equal(s.priority, 0);
    assert_int_equal(s.consumer_timeout_ms, -1);
    assert_int_equal(
        consumer_arguments_check(build(&table, good), QUEUE_CLASSIC, "q", "/", &s, NULL), 0);
    assert_int_equal(s.priority, -5);
    assert_int_equal(s.consumer_timeout_ms, 1000);
    assert_int_equal(
        consumer_arguments_check(build(&table, wrong), QUEUE_CLASSIC, "q", "/", &s, &failure),
        E_INVALID);
    assert_string_equal(failure.text, "invalid arg 'x-priority' for queue 'q' in vhost '/': "
                                      "\"expected integer, got longstr\"");
    assert_int_equal(
        consumer_arguments_check(build(&table, stream), QUEUE_CLASSIC, "q", "/", &s, &failure),
        E_INVALID);
    assert_int_equal(
        consumer_arguments_check(build(&table, stream), QUEUE_STREAM, "q", "/", &s, NULL), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_single_arguments), cmocka_unit_test(test_texts_in_full),
        cmocka_unit_test(test_settings),         cmocka_unit_test(test_properties),
        cmocka_unit_test(test_equivalence),      cmocka_unit_test(test_exchanges),
        cmocka_unit_test(test_consumers),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
