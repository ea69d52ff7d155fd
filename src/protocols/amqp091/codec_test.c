#include "protocols/amqp091/codec.h"

#include "message/fields.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

#include "protocols/amqp091/replies.h"

/* Every member of a method's struct gets a value of its own, found again after a round trip. */
static void fill_octet(uint8_t *p, unsigned *n)
{
    *p = (uint8_t)(*n)++;
}

static void fill_word(uint16_t *p, unsigned *n)
{
    *p = (uint16_t)(0x1000 + (*n)++);
}

static void fill_long(uint32_t *p, unsigned *n)
{
    *p = 0x10000000 + (*n)++;
}

static void fill_longlong(uint64_t *p, unsigned *n)
{
    *p = 0x1000000000000000 + (*n)++;
}

static void fill_bit(bool *p, unsigned *n)
{
    *p = (*n)++ % 2 == 0;
}

static void fill_shortstr(struct slice *p, unsigned *n)
{
    static const char texts[] = "abcdefghijklmnop";
    *p = slice_of(texts, (*n)++ % sizeof texts);
}

static void fill_longstr(struct slice *p, unsigned *n)
{
    fill_shortstr(p, n);
}

static void fill_table(struct slice *p, unsigned *n)
{
    static const uint8_t table[] = {1, 'k', 't', 1};
    (*n)++;
    *p = slice_of(table, sizeof table);
}

static void same_octet(uint8_t a, uint8_t b)
{
    assert_int_equal(a, b);
}

static void same_word(uint16_t a, uint16_t b)
{
    assert_int_equal(a, b);
}

static void same_long(uint32_t a, uint32_t b)
{
    assert_int_equal(a, b);
}

static void same_longlong(uint64_t a, uint64_t b)
{
    assert_true(a == b);
}

static void same_bit(bool a, bool b)
{
    assert_int_equal(a, b);
}

static void same_shortstr(struct slice a, struct slice b)
{
    assert_true(slice_equal(a, b));
}

static void same_longstr(struct slice a, struct slice b)
{
    assert_true(slice_equal(a, b));
}

static void same_table(struct slice a, struct slice b)
{
    assert_true(slice_equal(a, b));
}

/* Encodes, reads the frame, decodes; then every shorter payload must be refused. */
#define BYTES_MAX 512u

static void round_trip(const struct method *in, struct method *out, uint8_t *bytes)
{
    struct writer writer = writer_of(bytes, BYTES_MAX);
    struct frame frame;
    struct failure failure;

    amqp091_method_write(&writer, 7, in);
    assert_false(writer.failed);
    ssize_t size = amqp091_frame_read(slice_of(bytes, writer_size(&writer)), &frame);
    assert_int_equal(size, writer_size(&writer));
    assert_int_equal(frame.type, FRAME_METHOD);
    assert_int_equal(frame.channel, 7);
    for (size_t cut = 0; cut < frame.payload.size; cut++) {
        /* in memory of exactly that size, so that a read beyond is seen */
        uint8_t *copy = malloc(cut + 1);
        assert_non_null(copy);
        memcpy(copy, frame.payload.data, cut);
        assert_int_equal(amqp091_method_decode(slice_of(copy, cut), out, &failure), E_FRAME);
        free(copy);
    }
    assert_int_equal(amqp091_method_decode(frame.payload, out, &failure), 0);
    assert_int_equal(out->id, in->id);

    /* one byte more is refused, too */
    uint8_t longer[BYTES_MAX];
    memcpy(longer, frame.payload.data, frame.payload.size);
    longer[frame.payload.size] = 0;
    struct method ignored;
    assert_int_equal(
        amqp091_method_decode(slice_of(longer, frame.payload.size + 1), &ignored, &failure),
        E_FRAME);
}

static void test_every_method(void **state)
{
    (void)state;
    unsigned n = 1, count = 0;

#define FILL(type, member) fill_##type(&m->member, &n);
#define SAME(type, member) same_##type(m->member, o->member);
#define CHECK(name, class_id, number, text, content)                                               \
    {                                                                                              \
        struct method in = {.id = METHOD_##name}, out;                                             \
        uint8_t bytes[BYTES_MAX];                                                                  \
        struct name *m = &in.name, *o = &out.name;                                                 \
        (void)m;                                                                                   \
        (void)o;                                                                                   \
        FIELDS_##name(FILL) round_trip(&in, &out, bytes);                                          \
        FIELDS_##name(SAME) assert_string_equal(amqp091_method_name(in.id), text);                 \
        assert_int_equal(amqp091_method_has_content(in.id), content);                              \
        count++;                                                                                   \
    }
    AMQP091_METHODS(CHECK)
    assert_int_equal(count, 66);
}

static void test_known_bytes(void **state)
{
    (void)state;
    static const uint8_t expected[] = {1, 0, 1,   0,    0, 0, 16, 0, 50, 0, 10,  0,
                                       0, 1, 'q', 0x12, 0, 0, 0,  0, 0,  0, 0xce};
    struct method method = {.id = METHOD_queue_declare};
    uint8_t bytes[64];
    struct writer writer = writer_of(bytes, sizeof bytes);

    method.queue_declare.queue = slice_text("q");
    method.queue_declare.durable = true;
    method.queue_declare.no_wait = true;
    amqp091_method_write(&writer, 1, &method);
    assert_int_equal(writer_size(&writer), 7 + 4 + 2 + 2 + 1 + 4 + 1);
    assert_memory_equal(bytes + 7, expected + 7, 9);
    assert_int_equal(bytes[7 + 4 + 2 + 2], 0x12);
    assert_int_equal(bytes[writer_size(&writer) - 1], FRAME_END);
    assert_int_equal(load_be32(bytes + 3), writer_size(&writer) - FRAME_OVERHEAD);
}

static void test_unknown_method(void **state)
{
    (void)state;
    static const uint8_t payload[] = {0, 60, 0, 41};
    struct method method;
    struct failure failure;

    assert_int_equal(amqp091_method_decode(slice_of(payload, 4), &method, &failure), E_UNSUPPORTED);
    assert_string_equal(failure.text, "unknown method 41 of class 60");
    assert_null(amqp091_method_name(METHOD_ID(60, 41)));
}

static void test_bad_fields(void **state)
{
    (void)state;
    /* basic.cancel with a tag that is not UTF-8 */
    static const uint8_t cancel[] = {0, 60, 0, 30, 1, 0xff, 0};
    /* queue.unbind with a table whose field has an unknown type */
    static const uint8_t unbind[] = {0, 50, 0, 50, 0, 0, 0, 0, 0, 0, 0, 0, 3, 1, 'a', '?'};
    struct method method;
    struct failure failure;

    assert_int_equal(amqp091_method_decode(slice_of(cancel, sizeof cancel), &method, &failure),
                     E_FRAME);
    assert_string_equal(failure.text, "Malformed UTF-8 in shortstr");
    assert_int_equal(amqp091_method_decode(slice_of(unbind, sizeof unbind), &method, &failure),
                     E_INVALID);
}

static void test_frames(void **state)
{
    (void)state;
    uint8_t bytes[64];
    struct writer writer = writer_of(bytes, sizeof bytes);
    struct frame frame;

    amqp091_body_write(&writer, 3, slice_text("body"));
    size_t size = writer_size(&writer);
    assert_int_equal(size, 4 + FRAME_OVERHEAD);
    for (size_t cut = 0; cut < size; cut++)
        assert_int_equal(amqp091_frame_read(slice_of(bytes, cut), &frame), E_MORE);
    assert_int_equal(frame.size, 4);
    assert_int_equal(amqp091_frame_read(slice_of(bytes, size), &frame), size);
    assert_true(slice_is(frame.payload, "body"));
    bytes[size - 1] = 0;
    assert_int_equal(amqp091_frame_read(slice_of(bytes, size), &frame), E_FRAME);

    writer = writer_of(bytes, sizeof bytes);
    amqp091_heartbeat_write(&writer);
    assert_int_equal(writer_size(&writer), FRAME_OVERHEAD);
    assert_int_equal(amqp091_frame_read(slice_of(bytes, FRAME_OVERHEAD), &frame), FRAME_OVERHEAD);
    assert_int_equal(frame.type, FRAME_HEARTBEAT);
}

static void test_content_header(void **state)
{
    (void)state;
    uint8_t bytes[64];
    struct writer writer = writer_of(bytes, sizeof bytes);
    struct content_header in = {60, 0, 123456789012, slice_of("\x10\x00\x02", 3)}, out;
    struct frame frame;

    amqp091_content_header_write(&writer, 9, &in);
    assert_int_equal(amqp091_frame_read(slice_of(bytes, writer_size(&writer)), &frame),
                     writer_size(&writer));
    assert_int_equal(frame.type, FRAME_HEADER);
    assert_int_equal(amqp091_content_header_decode(frame.payload, &out), 0);
    assert_int_equal(out.class_id, 60);
    assert_true(out.body_size == in.body_size);
    assert_true(slice_equal(out.properties, in.properties));
    assert_int_equal(amqp091_content_header_decode(slice_of(frame.payload.data, 11), &out),
                     E_INVALID);
}

static void test_utf8(void **state)
{
    (void)state;
    static const char *const good[] = {"",           "a", "abcdefgh",     "grün",
                                       "abcdefgh€x", "𐍈", "\xed\x9f\xbf", "\xf4\x8f\xbf\xbf"};
    static const char *const bad[] = {"\x80",
                                      "\xc0\x80",
                                      "\xc3",
                                      "\xe0\x80\x80",
                                      "\xed\xa0\x80",
                                      "\xf5\x80\x80\x80",
                                      "abcdefg\xff",
                                      "abcdefgh\xc3",
                                      "\xf4\x90\x80\x80",
                                      "\xf0\x80\x80\x80"};

    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++)
        assert_true(amqp091_is_utf8(slice_text(good[i])));
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(amqp091_is_utf8(slice_text(bad[i])));
}

static void test_replies(void **state)
{
    (void)state;
    char text[REPLY_TEXT_MAX + 1], large[400];

    assert_int_equal(reply_text(text, REPLY_NOT_FOUND, "no queue 'a' in vhost '/'"), 37);
    assert_string_equal(text, "NOT_FOUND - no queue 'a' in vhost '/'");
    assert_true(reply_is_hard(REPLY_NOT_ALLOWED));
    assert_false(reply_is_hard(REPLY_NOT_FOUND));
    assert_int_equal(reply_for_error(E_NOT_FOUND, METHOD_queue_bind), REPLY_NOT_FOUND);
    assert_int_equal(reply_for_error(E_NOT_FOUND, METHOD_connection_open), REPLY_NOT_ALLOWED);
    assert_int_equal(reply_for_error(E_UNSUPPORTED, METHOD_exchange_declare),
                     REPLY_PRECONDITION_FAILED);
    assert_int_equal(reply_for_error(E_UNSUPPORTED, METHOD_basic_get), REPLY_NOT_IMPLEMENTED);
    assert_int_equal(reply_for_error(E_CORRUPT, METHOD_basic_get), REPLY_INTERNAL_ERROR);

    /* never cut inside a character: "FRAME_ERROR - " is 14 bytes, then 2 bytes each */
    for (size_t i = 0; i < sizeof large - 2; i += 2)
        memcpy(large + i, "ü", 2);
    large[sizeof large - 2] = 0;
    size_t size = reply_text(text, REPLY_FRAME_ERROR, large);
    assert_int_equal(size, 254);
    assert_true(amqp091_is_utf8(slice_of(text, size)));
    large[300] = 0;
    assert_int_equal(reply_text(text, REPLY_NOT_FOUND, large + 1), 12 + 243);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_method),   cmocka_unit_test(test_known_bytes),
        cmocka_unit_test(test_unknown_method), cmocka_unit_test(test_bad_fields),
        cmocka_unit_test(test_frames),         cmocka_unit_test(test_content_header),
        cmocka_unit_test(test_utf8),           cmocka_unit_test(test_replies),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
