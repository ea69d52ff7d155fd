/* Definitions: what may be set, what two say together, and what acts besides the arguments. */
#include "broker/policy.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <cmocka.h>
#include <stdlib.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

struct definition {
    uint8_t bytes[2048];
    struct writer w;
};

static struct definition *begin(struct definition *d)
{
    d->w = writer_of(d->bytes, sizeof d->bytes);
    return d;
}

static struct slice end(struct definition *d)
{
    assert_false(d->w.failed);
    return slice_of(d->bytes, writer_size(&d->w));
}

static struct slice number(struct definition *d, const char *name, int64_t value)
{
    fields_put_integer(&begin(d)->w, name, value);
    return end(d);
}

static struct slice text(struct definition *d, const char *name, const char *value)
{
    fields_put_text(&begin(d)->w, name, slice_text(value));
    return end(d);
}

/* ---- what may be set ---- */

static void expect_refused(struct slice definition, enum policy_kind kind, const char *why)
{
    struct failure failure = {0};
    const char *without_effect;

    assert_int_equal(policy_definition_check(definition, kind, &without_effect, &failure),
                     E_INVALID);
    if (!strstr(failure.text, why))
        fail_msg("'%s' is not in: %s", why, failure.text);
    assert_ptr_equal(strstr(failure.text, "Validation failed\n\n"), failure.text);
}

static const char *expect_taken(struct slice definition, enum policy_kind kind)
{
    struct failure failure = {0};
    const char *without_effect;

    if (policy_definition_check(definition, kind, &without_effect, &failure) != 0)
        fail_msg("%s", failure.text);
    return without_effect;
}

static void numbers_have_their_ranges(void **state)
{
    static const struct {
        const char *name;
        int64_t least, most;
        const char *why;
    } cases[] = {
        {"message-ttl", 0, ARGUMENT_MS_MAX, "is not a valid message TTL\n"},
        {"expires", 1, ARGUMENT_MS_MAX, "is not a valid queue expiry\n"},
        {"max-length", 0, INT64_MAX, "is not a valid maximum length\n"},
        {"max-length-bytes", 0, INT64_MAX, "is not a valid maximum length in bytes\n"},
        {"delivery-limit", INT64_MIN, INT64_MAX, "is not a valid delivery limit\n"},
    };
    struct definition d;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        for (unsigned kind = 0; kind < POLICY_KINDS; kind++) {
            assert_null(expect_taken(number(&d, cases[i].name, cases[i].least), kind));
            assert_null(expect_taken(number(&d, cases[i].name, cases[i].most), kind));
            if (cases[i].least > INT64_MIN)
                expect_refused(number(&d, cases[i].name, cases[i].least - 1), kind, cases[i].why);
            if (cases[i].most < INT64_MAX)
                expect_refused(number(&d, cases[i].name, cases[i].most + 1), kind, cases[i].why);
            expect_refused(text(&d, cases[i].name, "7"), kind, "<<\"7\">> is not a valid");
        }
    }
}

static void texts_are_checked(void **state)
{
    struct definition d;
    char name[300];

    (void)state;
    memset(name, 'x', sizeof name);
    name[255] = 0;
    assert_null(expect_taken(text(&d, "dead-letter-exchange", ""), POLICY_OF_USERS));
    assert_null(expect_taken(text(&d, "dead-letter-exchange", name), POLICY_OF_USERS));
    assert_null(expect_taken(text(&d, "alternate-exchange", "x"), POLICY_OF_USERS));
    assert_null(expect_taken(text(&d, "overflow", "reject-publish-dlx"), POLICY_OF_USERS));
    assert_null(expect_taken(text(&d, "dead-letter-strategy", "at-least-once"), POLICY_OF_USERS));
    name[255] = 'x';
    name[256] = 0;
    expect_refused(text(&d, "dead-letter-exchange", name), POLICY_OF_USERS, "is not a valid dead");
    expect_refused(number(&d, "dead-letter-routing-key", 1), POLICY_OF_USERS,
                   "1 is not a valid dead letter routing key\n");
    expect_refused(text(&d, "overflow", "drop-tail"), POLICY_OF_USERS,
                   "<<\"drop-tail\">> is not a valid overflow value\n");
    expect_refused(text(&d, "dead-letter-strategy", "never"), POLICY_OF_USERS,
                   "<<\"never\">> is not a valid dead letter strategy\n");
}

static void unknown_keys_are_refused(void **state)
{
    struct definition d;

    (void)state;
    expect_refused(slice_of(NULL, 0), POLICY_OF_USERS, "no policy provided\n");
    expect_refused(number(&d, "max-lenght", 1), POLICY_OF_USERS,
                   "[{<<\"max-lenght\">>,1}] are not recognised policy settings\n");
    expect_refused(
        text(&d, "dead-letter-exchange", "x"), POLICY_OF_OPERATORS,
        "[{<<\"dead-letter-exchange\">>,<<\"x\">>}] are not recognised policy settings\n");
    expect_refused(text(&d, "alternate-exchange", "x"), POLICY_OF_OPERATORS, "not recognised");
    fields_put_integer(&begin(&d)->w, "max-length", 1);
    fields_put_text(&d.w, "ha-mode", slice_text("all"));
    expect_refused(end(&d), POLICY_OF_USERS, "[{<<\"ha-mode\">>,<<\"all\">>}] are not");
}

static void what_does_nothing_is_told(void **state)
{
    struct definition d;

    (void)state;
    assert_string_equal(expect_taken(text(&d, "queue-mode", "lazy"), POLICY_OF_USERS),
                        "queue-mode");
    assert_string_equal(expect_taken(number(&d, "queue-version", 2), POLICY_OF_OPERATORS),
                        "queue-version");
    expect_refused(text(&d, "queue-mode", "slow"), POLICY_OF_USERS, "is not a valid queue-mode");
    expect_refused(text(&d, "max-age", "1D"), POLICY_OF_USERS,
                   "max-age is a policy setting of RabbitMQ that does nothing in sluice yet\n");
}

static void a_definition_has_a_limit(void **state)
{
    uint8_t bytes[POLICY_DEFINITION_MAX + 100];
    struct writer w = writer_of(bytes, sizeof bytes);

    (void)state;
    while (writer_size(&w) + 20 <= POLICY_DEFINITION_MAX)
        fields_put_integer(&w, "max-length", 1); /* 20 bytes */
    assert_null(expect_taken(slice_of(bytes, writer_size(&w)), POLICY_OF_USERS));
    fields_put_integer(&w, "max-length", 1);
    expect_refused(slice_of(bytes, writer_size(&w)), POLICY_OF_USERS, "larger than 4096 bytes");
}

/* ---- policies, and what acts ---- */

static struct policy *policy_of(struct slice definition, const char *target, const char *pattern)
{
    struct policy_event event = {
        .id = 1, .name = slice_text("p"), .pattern = slice_text(pattern), .definition = definition};
    struct policy *policy;

    assert_true(policy_target_parse(slice_text(target), &event.target));
    assert_int_equal(policy_new(&event, NULL, &policy, NULL), 0);
    return policy;
}

static bool fits(struct slice definition, const char *target, enum queue_type type)
{
    struct policy *policy = policy_of(definition, target, "^q");
    bool result = policy_fits_queue(policy, type, slice_text("q1"));

    assert_false(policy_fits_queue(policy, type, slice_text("xq")));
    policy_unref(policy);
    return result;
}

static void types_decide(void **state)
{
    struct definition d;
    struct slice length = number(&d, "max-length", 1);

    (void)state;
    assert_true(fits(length, "all", QUEUE_CLASSIC) && fits(length, "queues", QUEUE_QUORUM));
    assert_true(fits(length, "classic_queues", QUEUE_CLASSIC));
    assert_false(fits(length, "classic_queues", QUEUE_QUORUM));
    assert_false(fits(length, "quorum_queues", QUEUE_CLASSIC));
    assert_false(fits(length, "exchanges", QUEUE_CLASSIC));
    assert_false(fits(length, "all", QUEUE_STREAM));
    length = number(&d, "max-length-bytes", 1);
    assert_true(fits(length, "streams", QUEUE_STREAM));
    /* with a key that a type does not have, nothing of it is for that type */
    fields_put_integer(&d.w, "delivery-limit", 1);
    assert_false(fits(end(&d), "all", QUEUE_CLASSIC));
    assert_true(fits(end(&d), "all", QUEUE_QUORUM));
}

static void patterns_decide(void **state)
{
    struct definition d;
    struct slice x = text(&d, "alternate-exchange", "x");
    struct policy *all = policy_of(x, "all", ""), *some = policy_of(x, "exchanges", "b"),
                  *queues = policy_of(x, "queues", "b");
    struct policy_event wrong = {.pattern = slice_text("("), .definition = x};
    struct failure failure;

    (void)state;
    assert_true(policy_fits_exchange(all, slice_text("abc")));
    assert_true(policy_fits_exchange(some, slice_text("abc")));
    assert_false(policy_fits_exchange(some, slice_text("acc")));
    assert_false(policy_fits_exchange(queues, slice_text("abc")));
    assert_int_equal(policy_new(&wrong, NULL, &all, &failure), E_INVALID);
    policy_unref(all);
    policy_unref(some);
    policy_unref(queues);
}

/* One that would try for ever is given up, and fits nothing. */
static void a_pattern_that_burns_is_bounded(void **state)
{
    struct definition d;
    struct policy *policy = policy_of(number(&d, "max-length", 1), "all", "^(a+)+$");
    char name[256];

    (void)state;
    memset(name, 'a', sizeof name);
    name[255] = 0;
    assert_true(policy_fits_queue(policy, QUEUE_CLASSIC, slice_text(name)));
    name[254] = 'b';
    assert_false(policy_fits_queue(policy, QUEUE_CLASSIC, slice_text(name)));
    policy_unref(policy);
}

struct arguments {
    const char *type;                           /* NULL: classic */
    int64_t expires, ttl, length, bytes, limit; /* 0: not said */
    const char *overflow, *exchange, *key;
};

static void put_number(struct writer *w, const char *name, int64_t value)
{
    if (value != 0)
        fields_put_integer(w, name, value);
}

static void put_text(struct writer *w, const char *name, const char *value)
{
    if (value)
        fields_put_text(w, name, slice_text(value));
}

/* The same as arguments (with "x-" in front) and as a definition. */
static struct slice write_all(struct definition *d, const struct arguments *a, bool are_arguments)
{
    unsigned skip = are_arguments ? 0 : 2;
    struct writer *w = &begin(d)->w;

    if (are_arguments)
        put_text(w, "x-queue-type", a->type);
    put_number(w, &"x-expires"[skip], a -> expires);
    put_number(w, &"x-message-ttl"[skip], a -> ttl);
    put_number(w, &"x-max-length"[skip], a -> length);
    put_number(w, &"x-max-length-bytes"[skip], a -> bytes);
    put_number(w, &"x-delivery-limit"[skip], a -> limit);
    put_text(w, &"x-overflow"[skip], a -> overflow);
    put_text(w, &"x-dead-letter-exchange"[skip], a -> exchange);
    put_text(w, &"x-dead-letter-routing-key"[skip], a -> key);
    return end(d);
}

/* NULL: there is no such policy. Texts of the settings are good until the next call. */
static void bound(struct queue_settings *s, const struct arguments *arguments,
                  const struct arguments *policy, const struct arguments *operators)
{
    static struct definition d;
    static struct policy *p, *o;
    struct definition other;
    struct failure failure = {0};

    policy_unref(p);
    policy_unref(o);
    p = policy ? policy_of(write_all(&other, policy, false), "all", "") : NULL;
    o = operators ? policy_of(write_all(&other, operators, false), "all", "") : NULL;
    if (arguments &&
        queue_arguments_check(write_all(&d, arguments, true), "q", "/", s, &failure) != 0)
        fail_msg("%s", failure.text);
    if (arguments)
        policies_bound(p, o, s);
}

static int forget(void **state)
{
    (void)state;
    bound(NULL, NULL, NULL, NULL);
    return 0;
}

static void the_lowest_number_acts(void **state)
{
    struct arguments none = {0}, some = {.expires = 50, .ttl = 40, .length = 30, .bytes = 20},
                     lower = {.expires = 49, .ttl = 39, .length = 29, .bytes = 19},
                     higher = {.expires = 51, .ttl = 41, .length = 31, .bytes = 21};
    const struct arguments *three[][3] = {
        {&some, NULL, NULL},     {&none, &some, NULL},      {&none, NULL, &some},
        {&some, &higher, NULL},  {&higher, &some, NULL},    {&higher, &some, &higher},
        {&none, &higher, &some}, {&some, &higher, &higher},
    };
    struct queue_settings s;

    (void)state;
    for (size_t i = 0; i < COUNT(three); i++) {
        bound(&s, three[i][0], three[i][1], three[i][2]);
        assert_int_equal(s.expires_ms, 50);
        assert_int_equal(s.message_ttl_ms, 40);
        assert_int_equal(s.length_max, 30);
        assert_int_equal(s.length_bytes_max, 20);
    }
    bound(&s, &some, &lower, &higher);
    assert_int_equal(s.expires_ms, 49);
    bound(&s, &some, &higher, &lower);
    assert_int_equal(s.length_bytes_max, 19);
    bound(&s, &none, &(struct arguments){.overflow = "drop-head"}, NULL);
    assert_int_equal(s.expires_ms, 0);
    assert_int_equal(s.message_ttl_ms, -1);
    assert_int_equal(s.length_max, -1);
}

/* As rabbit_quorum_queue:resolve_delivery_limit() has it. */
static void delivery_limits(void **state)
{
    static const struct {
        int64_t argument, policy, operators, acts;
    } cases[] = {
        {0, 0, 0, 20},  {0, 30, 0, 30},  {0, 30, 5, 5},  {7, 30, 0, 7}, {7, 3, 0, 3},
        {-1, 5, 0, 5},  {7, -1, 0, 7},   {0, -1, 0, -1}, {0, -1, 9, 9}, {0, 9, -1, 9},
        {3, 10, -1, 3}, {-1, -2, 0, -1}, {40, 0, 0, 40}, {0, 0, 6, 6},
    };
    struct queue_settings s;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arguments a = {.type = "quorum", .limit = cases[i].argument},
                         p = {.limit = cases[i].policy}, o = {.limit = cases[i].operators};
        bound(&s, &a, cases[i].policy ? &p : NULL, cases[i].operators ? &o : NULL);
        assert_int_equal(s.delivery_limit, cases[i].acts);
    }
}

static void overflow(void **state)
{
    static const struct {
        const char *type, *argument, *policy, *operators;
        enum queue_overflow acts;
    } cases[] = {
        {NULL, NULL, "reject-publish", NULL, OVERFLOW_REFUSE},
        {NULL, "drop-head", "reject-publish", NULL, OVERFLOW_DROP_OLDEST},
        {NULL, NULL, "reject-publish", "reject-publish-dlx", OVERFLOW_REFUSE_AND_BURY},
        {NULL, NULL, "reject-publish", "drop-head", OVERFLOW_DROP_OLDEST},
        {"quorum", "drop-head", "reject-publish", NULL, OVERFLOW_REFUSE},
        {"quorum", "reject-publish", "reject-publish-dlx", NULL, OVERFLOW_DROP_OLDEST},
        {"quorum", "reject-publish", NULL, "drop-head", OVERFLOW_DROP_OLDEST},
    };
    struct queue_settings s;

    (void)state;
    for (size_t i = 0; i < COUNT(cases); i++) {
        struct arguments a = {.type = cases[i].type, .overflow = cases[i].argument},
                         p = {.overflow = cases[i].policy}, o = {.overflow = cases[i].operators};
        bound(&s, &a, cases[i].policy ? &p : NULL, cases[i].operators ? &o : NULL);
        assert_int_equal(s.overflow, cases[i].acts);
    }
}

static void dead_letter_targets(void **state)
{
    struct arguments none = {0}, mine = {.exchange = "mine", .key = "my-key"},
                     no_key = {.exchange = "mine"},
                     policy = {.exchange = "theirs", .key = "their-key"},
                     key = {.key = "their-key"};
    struct queue_settings s;

    (void)state;
    bound(&s, &none, &policy, NULL);
    assert_true(slice_is(s.dead_letter_exchange, "theirs") &&
                slice_is(s.dead_letter_key, "their-key"));
    bound(&s, &mine, &policy, NULL);
    assert_true(slice_is(s.dead_letter_exchange, "mine") && slice_is(s.dead_letter_key, "my-key"));
    bound(&s, &no_key, &policy, NULL);
    assert_true(slice_is(s.dead_letter_exchange, "mine") &&
                slice_is(s.dead_letter_key, "their-key"));
    bound(&s, &none, &key, NULL); /* a key alone leads nowhere */
    assert_false(queue_dead_letters(&s));
}

/* ---- together ---- */

static void definitions_together(void **state)
{
    struct definition policy, operators, both;
    struct slice definition;
    int64_t value;

    (void)state;
    fields_put_integer(&begin(&policy)->w, "max-length", 10);
    fields_put_integer(&policy.w, "message-ttl", 5);
    fields_put_text(&policy.w, "overflow", slice_text("drop-head"));
    fields_put_integer(&policy.w, "delivery-limit", -1);
    fields_put_integer(&begin(&operators)->w, "max-length", 7);
    fields_put_integer(&operators.w, "message-ttl", 9);
    fields_put_integer(&operators.w, "delivery-limit", 4);
    fields_put_integer(&operators.w, "expires", 3);
    fields_put_text(&operators.w, "overflow", slice_text("reject-publish"));
    policy_definitions_merge(end(&policy), end(&operators), &begin(&both)->w);
    definition = end(&both);
    assert_true(fields_integer(definition, "max-length", &value) && value == 7);
    assert_true(fields_integer(definition, "message-ttl", &value) && value == 5);
    assert_true(fields_integer(definition, "delivery-limit", &value) && value == 4);
    assert_true(fields_integer(definition, "expires", &value) && value == 3);
    struct slice word;
    assert_true(fields_text(definition, "overflow", &word) && slice_is(word, "reject-publish"));
    policy_definitions_merge(slice_of(NULL, 0), slice_of(NULL, 0), &begin(&both)->w);
    assert_int_equal(end(&both).size, 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(numbers_have_their_ranges),
        cmocka_unit_test(texts_are_checked),
        cmocka_unit_test(unknown_keys_are_refused),
        cmocka_unit_test(what_does_nothing_is_told),
        cmocka_unit_test(a_definition_has_a_limit),
        cmocka_unit_test(types_decide),
        cmocka_unit_test(patterns_decide),
        cmocka_unit_test(a_pattern_that_burns_is_bounded),
        cmocka_unit_test(the_lowest_number_acts),
        cmocka_unit_test(delivery_limits),
        cmocka_unit_test(overflow),
        cmocka_unit_test(dead_letter_targets),
        cmocka_unit_test(definitions_together),
    };

    return cmocka_run_group_tests(tests, NULL, forget);
}
