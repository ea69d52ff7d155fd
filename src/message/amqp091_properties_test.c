#include "message/amqp091_properties.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

static const struct amqp091_properties full = {
    .flags = 0xfffc,
    .delivery_mode = 2,
    .priority = 9,
    .timestamp = 0x1122334455667788,
    .content_type = {(const uint8_t *)"a", 1},
    .content_encoding = {(const uint8_t *)"bb", 2},
    .correlation_id = {(const uint8_t *)"ccc", 3},
    .reply_to = {(const uint8_t *)"dddd", 4},
    .expiration = {(const uint8_t *)"60000", 5},
    .message_id = {(const uint8_t *)"ffffff", 6},
    .type = {(const uint8_t *)"g", 1},
    .user_id = {(const uint8_t *)"guest", 5},
    .app_id = {(const uint8_t *)"", 0},
    .cluster_id = {(const uint8_t *)"k", 1},
    .headers = {(const uint8_t *)"\1xt\1", 4},
};

static void same(const struct amqp091_properties *a, const struct amqp091_properties *b)
{
    assert_int_equal(a->flags, b->flags);
    assert_int_equal(a->delivery_mode, b->delivery_mode);
    assert_int_equal(a->priority, b->priority);
    assert_true(a->timestamp == b->timestamp);
    assert_true(slice_equal(a->content_type, b->content_type));
    assert_true(slice_equal(a->content_encoding, b->content_encoding));
    assert_true(slice_equal(a->correlation_id, b->correlation_id));
    assert_true(slice_equal(a->reply_to, b->reply_to));
    assert_true(slice_equal(a->expiration, b->expiration));
    assert_true(slice_equal(a->message_id, b->message_id));
    assert_true(slice_equal(a->type, b->type));
    assert_true(slice_equal(a->user_id, b->user_id));
    assert_true(slice_equal(a->app_id, b->app_id));
    assert_true(slice_equal(a->cluster_id, b->cluster_id));
    assert_true(slice_equal(a->headers, b->headers));
}

static struct amqp091_properties with_flags(uint16_t flags)
{
    struct amqp091_properties p = {.flags = flags};
#define KEEP(bit, member)                                                                          \
    if (flags & (bit))                                                                             \
    p.member = full.member
    KEEP(AMQP091_CONTENT_TYPE, content_type);
    KEEP(AMQP091_CONTENT_ENCODING, content_encoding);
    KEEP(AMQP091_HEADERS, headers);
    KEEP(AMQP091_DELIVERY_MODE, delivery_mode);
    KEEP(AMQP091_PRIORITY, priority);
    KEEP(AMQP091_CORRELATION_ID, correlation_id);
    KEEP(AMQP091_REPLY_TO, reply_to);
    KEEP(AMQP091_EXPIRATION, expiration);
    KEEP(AMQP091_MESSAGE_ID, message_id);
    KEEP(AMQP091_TIMESTAMP, timestamp);
    KEEP(AMQP091_TYPE, type);
    KEEP(AMQP091_USER_ID, user_id);
    KEEP(AMQP091_APP_ID, app_id);
    KEEP(AMQP091_CLUSTER_ID, cluster_id);
#undef KEEP
    return p;
}

/* All 2^14 sets of properties go out and come back. */
static void test_every_set_comes_back(void **state)
{
    (void)state;
    for (unsigned set = 0; set < 1u << 14; set++) {
        struct amqp091_properties p = with_flags((uint16_t)(set << 2)), back;
        size_t size = amqp091_properties_size(&p);
        uint8_t memory[128];
        struct writer w = writer_of(memory, size);
        amqp091_properties_write(&w, &p);
        assert_false(w.failed);
        assert_int_equal(writer_size(&w), size);
        assert_int_equal(amqp091_properties_parse(slice_of(memory, size), &back), 0);
        same(&p, &back);
        struct slice headers;
        bool has = amqp091_properties_headers(slice_of(memory, size), &headers);
        assert_int_equal(has, (p.flags & AMQP091_HEADERS) != 0);
        if (has)
            assert_true(slice_equal(headers, p.headers));
    }
}

/* A content header as a client sends it: headers {"a": true}, delivery mode 2, priority 5. */
static void test_bytes_of_the_wire(void **state)
{
    (void)state;
    static const uint8_t bytes[] = {0x38, 0x00, 0, 0, 0, 4, 1, 'a', 't', 1, 2, 5};
    struct amqp091_properties p;
    assert_int_equal(amqp091_properties_parse(slice_of(bytes, sizeof bytes), &p), 0);
    assert_int_equal(p.delivery_mode, 2);
    assert_int_equal(p.priority, 5);
    bool value = false;
    assert_true(fields_boolean(p.headers, "a", &value));
    assert_true(value);
}

static void test_broken_bytes(void **state)
{
    (void)state;
    uint8_t memory[128];
    size_t size = amqp091_properties_size(&full);
    struct amqp091_properties p;
    struct slice headers;
    struct writer w = writer_of(memory, size);
    amqp091_properties_write(&w, &full);

    for (size_t cut = 0; cut < size; cut++) {
        uint8_t *part = malloc(cut ? cut : 1);
        memcpy(part, memory, cut);
        assert_int_equal(amqp091_properties_parse(slice_of(part, cut), &p), E_INVALID);
        (void)amqp091_properties_headers(slice_of(part, cut), &headers);
        free(part);
    }
    assert_int_equal(amqp091_properties_parse(slice_of(memory, size + 1), &p), E_INVALID);
    memory[1] |= 1;
    assert_int_equal(amqp091_properties_parse(slice_of(memory, size), &p), E_INVALID);
    memory[1] = (uint8_t)((memory[1] & ~1) | 2);
    assert_int_equal(amqp091_properties_parse(slice_of(memory, size), &p), E_INVALID);
}

/* What next() tells, set() makes again. */
static void test_by_name(void **state)
{
    uint8_t first[512], second[512];
    struct amqp091_properties p = {
        .flags = AMQP091_CONTENT_TYPE | AMQP091_DELIVERY_MODE | AMQP091_TIMESTAMP |
                 AMQP091_MESSAGE_ID | AMQP091_CLUSTER_ID,
        .content_type = slice_text("text/plain"),
        .delivery_mode = 2,
        .timestamp = 1700000000,
        .message_id = slice_text("m"),
        .cluster_id = slice_text(""),
    };
    struct amqp091_properties again = {0};
    struct field field;
    unsigned at = 0, count = 0;

    (void)state;
    while (amqp091_properties_next(&p, &at, &field)) {
        assert_int_equal(amqp091_properties_set(&again, &field), 0);
        count++;
    }
    assert_int_equal(count, 5);
    struct writer a = writer_of(first, sizeof first), b = writer_of(second, sizeof second);
    amqp091_properties_write(&a, &p);
    amqp091_properties_write(&b, &again);
    assert_true(slice_equal(slice_of(first, writer_size(&a)), slice_of(second, writer_size(&b))));
}

static void test_set_refuses(void **state)
{
    static const uint8_t long_text[256];
    struct amqp091_properties p = {0};
    struct field fields[] = {
        {slice_text("none"), 'S', {.bytes = slice_text("")}},
        {slice_text("message_id"), 'l', {.integer = 1}},
        {slice_text("message_id"), 'S', {.bytes = slice_of(long_text, sizeof long_text)}},
        {slice_text("priority"), 'l', {.integer = 256}},
        {slice_text("priority"), 'l', {.integer = -1}},
        {slice_text("priority"), 'S', {.bytes = slice_text("1")}},
        {slice_text("timestamp"), 'l', {.integer = -1}},
        {slice_text("timestamp"), 'S', {.bytes = slice_text("1")}},
    };

    (void)state;
    for (size_t i = 0; i < sizeof fields / sizeof fields[0]; i++)
        assert_int_equal(amqp091_properties_set(&p, &fields[i]), i == 0 ? E_NOT_FOUND : E_INVALID);
    assert_int_equal(p.flags, 0);
}

/* ---- x-delay ---- */

static void expect_delay(const struct field *field, uint64_t delay_ms, const struct field *spent)
{
    uint8_t headers[256], bytes[512];
    struct writer h = writer_of(headers, sizeof headers), w = writer_of(bytes, sizeof bytes);
    struct amqp091_properties p = {.flags = AMQP091_HEADERS | AMQP091_CONTENT_TYPE,
                                   .content_type = slice_text("text/plain")};
    struct field after;

    fields_put_text(&h, "before", slice_text("x-delay"));
    fields_put(&h, field);
    fields_put_integer(&h, "behind", -1);
    p.headers = slice_of(headers, writer_size(&h));
    assert_true(amqp091_delay_ms(p.headers) == delay_ms);
    amqp091_properties_write(&w, &p);
    amqp091_delay_spend(bytes, writer_size(&w));
    assert_int_equal(amqp091_properties_parse(slice_of(bytes, writer_size(&w)), &p), 0);
    assert_true(fields_find(p.headers, slice_text("x-delay"), &after));
    assert_int_equal(after.type, spent->type);
    assert_true(field_equal(&after, spent));
    assert_true(fields_find(p.headers, slice_text("behind"), &after) && after.value.integer == -1);
}

static struct field integer(char type, int64_t value)
{
    return (struct field){slice_text("x-delay"), (uint8_t)type, {.integer = value}};
}

static void expect_integer(char type, int64_t value, uint64_t delay_ms, char spent_type,
                           int64_t spent)
{
    struct field before = integer(type, value), after = integer(spent_type, spent);

    expect_delay(&before, delay_ms, &after);
}

static void test_delays(void **state)
{
    static const char signed_types[] = "bsIlL", unsigned_types[] = "Bui", become[] = "bsI";

    (void)state;
    for (size_t i = 0; i < 5; i++) {
        expect_integer(signed_types[i], 100, 100, signed_types[i], -100);
        expect_integer(signed_types[i], -100, 0, signed_types[i], -100);
        expect_integer(signed_types[i], 0, 0, signed_types[i], 0);
    }
    for (size_t i = 0; i < 3; i++)
        expect_integer(unsigned_types[i], 100, 100, become[i], -100);
    expect_integer('B', 200, 200, 'B', 200); /* no signed one of a byte has that */
    expect_integer('i', UINT32_MAX, UINT32_MAX, 'i', UINT32_MAX);
    expect_integer('l', UINT32_MAX, UINT32_MAX, 'l', -(int64_t)UINT32_MAX);
    expect_integer('l', (int64_t)UINT32_MAX + 1, 0, 'l', (int64_t)UINT32_MAX + 1);
    expect_integer('I', INT32_MAX, INT32_MAX, 'I', -INT32_MAX);
}

static void test_delays_of_other_types(void **state)
{
    struct field real = {slice_text("x-delay"), 'd', {.real = 1500.7}}, spent = real;
    struct field text = {slice_text("x-delay"), 'S', {.bytes = slice_text("2000")}};
    struct field none = {slice_text("x-delay"), 't', {.boolean = true}};

    (void)state;
    spent.value.real = -1500.7;
    expect_delay(&real, 1500, &spent);
    expect_delay(&spent, 0, &spent);
    real.value.real = spent.value.real = 1e300;
    expect_delay(&real, 0, &spent);
    expect_delay(&text, 2000, &text);
    text.value.bytes = slice_text("-2000");
    expect_delay(&text, 0, &text);
    text.value.bytes = slice_text("99999999999999999999999");
    expect_delay(&text, 0, &text);
    text.value.bytes = slice_text("");
    expect_delay(&text, 0, &text);
    expect_delay(&none, 0, &none);
    assert_true(amqp091_delay_ms(slice_of(NULL, 0)) == 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_by_name),
        cmocka_unit_test(test_set_refuses),
        cmocka_unit_test(test_delays),
        cmocka_unit_test(test_delays_of_other_types),
        cmocka_unit_test(test_every_set_comes_back),
        cmocka_unit_test(test_bytes_of_the_wire),
        cmocka_unit_test(test_broken_bytes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
