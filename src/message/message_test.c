#include "message/message.h"
#include "message/amqp091_properties.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

static struct slice text(const char *s)
{
    return slice_text(s);
}

static struct message_parts sample(void)
{
    return (struct message_parts){
        .format = FORMAT_AMQP091,
        .flags = MESSAGE_PERSISTENT,
        .priority = 7,
        .exchange = text("logs"),
        .key = text("a.b.c"),
        .properties = slice_of("\0\0", 2),
        .body = text("hello"),
        .published_at_ms = 1700000000123,
        .expires_at_ms = 1700000060123,
    };
}

static void test_parts_come_back(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message_parts parts = sample();
    struct message *m = message_new(&account, &parts);

    assert_true(slice_is(message_exchange(m), "logs"));
    assert_true(slice_is(message_key(m), "a.b.c"));
    assert_int_equal(message_properties(m).size, 2);
    assert_true(slice_is(message_body(m), "hello"));
    assert_int_equal(m->priority, 7);
    assert_int_equal(m->flags, MESSAGE_PERSISTENT);
    assert_int_equal(account.used, message_footprint(m));
    assert_null(m->body);
    message_ref(m);
    message_unref(m);
    assert_true(account.used > 0);
    message_unref(m);
    account_fini(&account);
}

static void test_one_that_waits_says_so(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message_parts parts = sample();
    uint8_t bytes[1000];
    struct message *back;

    for (unsigned i = 0; i < 3; i++) {
        parts.not_before_ms = i == 0 ? 0 : i == 1 ? 1700000030123 : UINT64_MAX;
        parts.flags = MESSAGE_PERSISTENT | MESSAGE_WAITS; /* which is as the time says */
        struct message *m = message_new(&account, &parts);
        assert_int_equal(m->flags, MESSAGE_PERSISTENT | (i ? MESSAGE_WAITS : 0));
        assert_true(message_not_before_ms(m) == parts.not_before_ms);
        assert_true(slice_is(message_body(m), "hello"));
        assert_int_equal(message_properties(m).size, 2);

        struct writer w = writer_of(bytes, sizeof bytes);
        message_encode_head(m, &w);
        assert_int_equal(writer_size(&w), message_head_size(m));
        write_bytes(&w, message_body(m));
        assert_int_equal(message_decode(&account, slice_of(bytes, writer_size(&w)), &back), 0);
        assert_int_equal(back->flags, m->flags);
        assert_true(message_not_before_ms(back) == parts.not_before_ms);
        assert_true(slice_is(message_body(back), "hello"));
        message_unref(back);
        message_unref(m);
    }
    /* a message that waits for nothing does not say that it waits */
    static const uint8_t nothing[] = {1, FORMAT_AMQP091, MESSAGE_WAITS, 0, 5, 0, 0, 0, 0, 0, 0};
    assert_int_equal(message_decode(&account, slice_of(nothing, sizeof nothing), &back), E_CORRUPT);
    account_fini(&account);
}

static void test_large_body_is_apart(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message_parts parts = sample();
    size_t size = MESSAGE_INLINE_MAX + 1;
    uint8_t *body = malloc(size);
    memset(body, 'x', size);
    parts.body = slice_of(body, size);

    struct message *copied = message_new(&account, &parts);
    assert_non_null(copied->body);
    assert_true(slice_equal(message_body(copied), parts.body));

    struct buffer *buffer = buffer_new(size);
    memcpy(buffer->data, body, size);
    parts.body_buffer = buffer;
    parts.body = slice_of(buffer->data, size);
    struct message *shared = message_new(&account, &parts);
    assert_ptr_equal(shared->body, buffer);
    assert_int_equal(buffer->references, 2);
    assert_int_equal(account.used, message_footprint(copied) + message_footprint(shared));

    /* what fits inline is copied, even out of a buffer */
    parts.body.size = MESSAGE_INLINE_MAX;
    struct message *small = message_new(&account, &parts);
    assert_null(small->body);
    assert_int_equal(buffer->references, 2);

    message_unref(small);
    message_unref(shared);
    message_unref(copied);
    assert_int_equal(buffer->references, 1);
    buffer_unref(buffer);
    free(body);
    account_fini(&account);
}

static void test_body_to_fill(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message_parts parts = sample();
    parts.body = slice_of(NULL, 5);
    struct message *m = message_new(&account, &parts);
    memcpy(message_body_to_fill(m), "later", 5);
    assert_true(slice_is(message_body(m), "later"));
    assert_true(slice_is(message_key(m), "a.b.c"));
    message_unref(m);
    account_fini(&account);
}

static void test_account_refuses(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message_parts parts = sample();
    struct message *m = message_new(&account, &parts);
    size_t cost = message_footprint(m);
    message_unref(m);

    account.limit = cost;
    m = message_new(&account, &parts);
    assert_non_null(m);
    assert_null(message_new(&account, &parts));
    assert_int_equal(account.refusals, 1);
    assert_int_equal(account.used, cost);
    message_unref(m);

    uint8_t body[MESSAGE_INLINE_MAX + 1] = {0};
    parts.body = slice_of(body, sizeof body);
    assert_null(message_new(&account, &parts));
    account_fini(&account);
}

/* As in a letter: the copy of a lent message is a message of its own, whatever becomes of the room.
 */
static void check_lent(struct account *account, const struct message_parts *parts)
{
    struct account theirs;
    account_init(&theirs, NULL, 0);
    struct message *m = message_new(account, parts);
    struct message *room = malloc(message_room_size(m));
    struct buffer *body = m->body;

    message_lend(room, m);
    message_unref(m);
    struct message *lent = message_lent(room, &theirs);
    assert_true(slice_equal(message_key(lent), parts->key));
    assert_true(slice_equal(message_body(lent), parts->body));
    assert_int_equal(account->used + theirs.used, 0);
    struct message *mine = message_ref(lent), *again = message_ref(mine);
    assert_ptr_not_equal(mine, lent);
    assert_ptr_equal(mine, again);
    assert_true(!body || body->references == 2);
    message_lent_end(lent);
    memset(room, 0xee, message_room_size(mine));
    free(room);
    assert_int_equal(theirs.used, message_footprint(mine));
    assert_true(slice_equal(message_exchange(mine), parts->exchange));
    assert_true(slice_equal(message_properties(mine), parts->properties));
    assert_true(slice_equal(message_body(mine), parts->body));
    assert_int_equal(mine->expires_at_ms, parts->expires_at_ms);
    assert_true(!body || (mine->body == body && body->references == 1));
    message_unref(again);
    message_unref(mine);
    account_fini(&theirs);
}

static void test_lent(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    static uint8_t large[MESSAGE_INLINE_MAX + 1];
    struct message_parts parts = sample();

    check_lent(&account, &parts);
    parts.body = slice_of(large, MESSAGE_INLINE_MAX);
    check_lent(&account, &parts);
    parts.body = slice_of(large, sizeof large);
    check_lent(&account, &parts);
    account_fini(&account);
}

/* Head and body in memory of their exact size. */
static uint8_t *encode(const struct message *m, size_t *size)
{
    size_t head = message_head_size(m);
    assert_true(head <= MESSAGE_HEAD_MAX(m));
    uint8_t *memory = malloc(head + m->body_size);
    struct writer w = writer_of(memory, head);
    message_encode_head(m, &w);
    assert_false(w.failed);
    assert_int_equal(writer_size(&w), head);
    memcpy(memory + head, message_body(m).data, m->body_size);
    *size = head + m->body_size;
    return memory;
}

static void test_content_comes_back(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    static uint8_t large[100000];
    const size_t sizes[] = {0,           1, 127, 128, MESSAGE_INLINE_MAX, MESSAGE_INLINE_MAX + 1,
                            sizeof large};

    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        struct message_parts parts = sample();
        parts.body = slice_of(large, sizes[i]);
        struct message *m = message_new(&account, &parts), *back = NULL;
        size_t size;
        uint8_t *memory = encode(m, &size);
        assert_int_equal(message_decode(&account, slice_of(memory, size), &back), 0);
        assert_true(slice_equal(message_exchange(m), message_exchange(back)));
        assert_true(slice_equal(message_key(m), message_key(back)));
        assert_true(slice_equal(message_properties(m), message_properties(back)));
        assert_true(slice_equal(message_body(m), message_body(back)));
        assert_int_equal(m->published_at_ms, back->published_at_ms);
        assert_int_equal(m->expires_at_ms, back->expires_at_ms);
        assert_int_equal(m->priority, back->priority);
        assert_int_equal(m->flags, back->flags);
        message_unref(back);
        message_unref(m);
        free(memory);
    }
    account_fini(&account);
}

/* The bytes of the table in message.h: what is on disk must not change under anybody. */
static void test_content_bytes(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message_parts parts = sample();
    parts.published_at_ms = 300;
    parts.expires_at_ms = 0;
    struct message *m = message_new(&account, &parts);
    static const uint8_t expected[] = {1,   1,   1,   7,   0xac, 0x02, 0,   4,   5,
                                       2,   5,   'l', 'o', 'g',  's',  'a', '.', 'b',
                                       '.', 'c', 0,   0,   'h',  'e',  'l', 'l', 'o'};
    size_t size;
    uint8_t *memory = encode(m, &size);
    assert_int_equal(size, sizeof expected);
    assert_memory_equal(memory, expected, size);
    free(memory);
    message_unref(m);
    account_fini(&account);
}

static void test_broken_content(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message_parts parts = sample();
    struct message *m = message_new(&account, &parts), *back = NULL;
    size_t size;
    uint8_t *memory = encode(m, &size);

    for (size_t cut = 0; cut < size; cut++) {
        /* of its exact size, so that the sanitizers see a byte too many */
        uint8_t *part = malloc(cut ? cut : 1);
        memcpy(part, memory, cut);
        assert_int_equal(message_decode(&account, slice_of(part, cut), &back), E_CORRUPT);
        free(part);
    }
    uint8_t longer[256] = {0};
    memcpy(longer, memory, size);
    assert_int_equal(message_decode(&account, slice_of(longer, size + 1), &back), E_CORRUPT);
    memory[0] = 2;
    assert_int_equal(message_decode(&account, slice_of(memory, size), &back), E_VERSION);
    memory[0] = 1;
    memory[1] = FORMATS;
    assert_int_equal(message_decode(&account, slice_of(memory, size), &back), E_CORRUPT);
    memory[1] = 0;
    assert_int_equal(message_decode(&account, slice_of(memory, size), &back), E_CORRUPT);
    memory[1] = 1;
    memory[2] = 0x80;
    assert_int_equal(message_decode(&account, slice_of(memory, size), &back), E_CORRUPT);
    memory[2] = 1;
    account.limit = account.used + 10;
    assert_int_equal(message_decode(&account, slice_of(memory, size), &back), E_MEMORY);
    account.limit = 0;
    assert_int_equal(message_decode(&account, slice_of(memory, size), &back), 0);
    message_unref(back);
    message_unref(m);
    free(memory);
    account_fini(&account);
}

static void test_headers_of_amqp091(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    uint8_t table[128], properties[256];
    struct writer w = writer_of(table, sizeof table);
    fields_put_integer(&w, "n", 42);
    fields_put_text(&w, "kind", text("report"));
    struct amqp091_properties p = {
        .flags = AMQP091_CONTENT_TYPE | AMQP091_HEADERS | AMQP091_PRIORITY,
        .content_type = text("text/plain"),
        .headers = slice_of(table, writer_size(&w)),
        .priority = 3,
    };
    struct writer out = writer_of(properties, sizeof properties);
    amqp091_properties_write(&out, &p);
    assert_false(out.failed);

    struct message_parts parts = sample();
    struct message *plain = message_new(&account, &parts);
    parts.properties = slice_of(properties, writer_size(&out));
    struct message *m = message_new(&account, &parts);
    const struct message_format_functions *format = message_format(m);
    struct field field;
    assert_string_equal(format->name, "amqp091");
    assert_true(format->header(m, text("n"), &field));
    assert_int_equal(field.value.integer, 42);
    assert_true(format->header(m, text("kind"), &field));
    assert_true(slice_is(field.value.bytes, "report"));
    assert_false(format->header(m, text("other"), &field));
    assert_true(slice_equal(format->headers(m), p.headers));
    assert_int_equal(format->headers(plain).size, 0);
    assert_false(format->header(plain, text("n"), &field));
    message_unref(plain);
    message_unref(m);
    account_fini(&account);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_parts_come_back),
        cmocka_unit_test(test_one_that_waits_says_so),
        cmocka_unit_test(test_large_body_is_apart),
        cmocka_unit_test(test_body_to_fill),
        cmocka_unit_test(test_lent),
        cmocka_unit_test(test_account_refuses),
        cmocka_unit_test(test_content_comes_back),
        cmocka_unit_test(test_content_bytes),
        cmocka_unit_test(test_broken_content),
        cmocka_unit_test(test_headers_of_amqp091),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
