#include "message/amqp091_dead_letter.h"

#include "message/amqp091_properties.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define HEADERS_MAX  (300u * 1024)
#define LENGTH_OF(a) (sizeof(a) / sizeof *(a))

/* ---- headers as text: a=1 b=[x {c=@2}] ---- */

static void print(struct writer *w, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void print(struct writer *w, const char *format, ...)
{
    char text[1024];
    va_list arguments;

    va_start(arguments, format);
    int size = vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    assert_true(size >= 0 && (size_t)size < sizeof text);
    write_bytes(w, slice_of(text, (size_t)size));
}

/* Nothing here is nested deeper than the tables of a history and their arrays. */
static void print_fields(struct writer *w, struct slice bytes, bool named, int depth)
{
    struct reader reader = reader_of(bytes);
    struct field field;
    const char *space = "";

    assert_true(depth < 4);
    while (named ? fields_next(&reader, &field) : fields_next_value(&reader, &field)) {
        print(w, "%s", space);
        if (named)
            print(w, "%.*s=", SLICE_ARGS(field.name));
        space = " ";
        if (field.type == 'S') {
            print(w, "%.*s", SLICE_ARGS(field.value.bytes));
        } else if (field.type == 'T' || field.type == 'l') {
            print(w, "%s%" PRId64, field.type == 'T' ? "@" : "", field.value.integer);
        } else if (field.type == 'A' || field.type == 'F') {
            print(w, field.type == 'A' ? "[" : "{");
            print_fields(w, field.value.bytes, field.type == 'F', depth + 1);
            print(w, field.type == 'A' ? "]" : "}");
        } else {
            fail_msg("type %c", field.type);
        }
    }
    assert_false(reader.failed);
}

/* ---- making ---- */

#define TEXT(literal) slice_of(literal, sizeof(literal) - 1)

struct start {
    void (*headers)(struct writer *w);
    const char *expiration;
    uint8_t flags;
};

/* Published to "in" with the key "k". */
static struct message *message_of(struct account *account, const struct start *start,
                                  struct slice body)
{
    uint8_t *headers = malloc(HEADERS_MAX), *properties = malloc(HEADERS_MAX);
    struct writer h = writer_of(headers, HEADERS_MAX), w = writer_of(properties, HEADERS_MAX);
    struct amqp091_properties p = {.flags = AMQP091_APP_ID, .app_id = TEXT("test")};

    if (start->headers) {
        start->headers(&h);
        p.flags |= AMQP091_HEADERS;
        p.headers = slice_of(headers, writer_size(&h));
    }
    if (start->expiration) {
        p.flags |= AMQP091_EXPIRATION;
        p.expiration = slice_text(start->expiration);
    }
    amqp091_properties_write(&w, &p);
    assert_false(h.failed || w.failed);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = MESSAGE_PERSISTENT | start->flags,
        .priority = 3,
        .exchange = TEXT("in"),
        .key = TEXT("k"),
        .properties = slice_of(properties, writer_size(&w)),
        .body = body,
        .published_at_ms = 1000,
        .expires_at_ms = start->expiration ? 5000 : 0,
    };
    struct message *m = message_new(account, &parts);
    assert_non_null(m);
    free(headers);
    free(properties);
    return m;
}

struct step {
    const char *queue, *reason, *exchange, *key;
    uint64_t at_ms;
};

static struct death death_of(const struct step *step)
{
    return (struct death){
        .queue = slice_text(step->queue),
        .reason = step->reason,
        .at_ms = step->at_ms,
        .exchange = slice_text(step->exchange ? step->exchange : ""),
        .key = step->key ? slice_text(step->key) : slice_of(NULL, 0),
    };
}

/* The message goes, its dead letter is given back. */
static struct message *die(struct account *account, struct message *m, const struct step *step)
{
    struct death death = death_of(step);
    struct message *dead = message_format(m)->dead_letter(account, m, &death);

    assert_non_null(dead);
    assert_int_equal(dead->references, 1);
    assert_int_equal(dead->expires_at_ms, 0);
    assert_true(dead->published_at_ms == step->at_ms);
    assert_int_equal(dead->flags, m->flags | MESSAGE_DEAD_LETTER);
    assert_int_equal(dead->priority, m->priority);
    assert_true(slice_equal(message_body(dead), message_body(m)));
    assert_true(slice_equal(message_exchange(dead), death.exchange));
    assert_true(slice_equal(message_key(dead), step->key ? death.key : message_key(m)));
    message_unref(m);
    return dead;
}

/* ---- the history ---- */

static void headers_of_client(struct writer *w)
{
    fields_put_text(w, "a", TEXT("b"));
    fields_put_integer(w, "n", 7);
}

static void put_text_value(struct writer *w, const char *text)
{
    fields_put_value(w, &(struct field){.type = 'S', .value.bytes = slice_text(text)});
}

static void headers_with_copies(struct writer *w)
{
    size_t mark = fields_begin(w, "CC", 'A');
    put_text_value(w, "c1");
    fields_put_value(w, &(struct field){.type = 'I', .value.integer = 5});
    put_text_value(w, "c2");
    fields_end(w, mark);
    mark = fields_begin(w, "BCC", 'A');
    put_text_value(w, "hidden");
    fields_end(w, mark);
    fields_put_text(w, "a", TEXT("b"));
}

static void headers_with_a_copy(struct writer *w)
{
    size_t mark = fields_begin(w, "CC", 'A');
    put_text_value(w, "c1");
    fields_end(w, mark);
}

/* What a client sends that consumed a dead letter and publishes it again with all its headers. */
static void headers_sent_again(struct writer *w)
{
    size_t array = fields_begin(w, "x-death", 'A');
    size_t table = fields_begin(w, NULL, 'F');
    fields_put_integer(w, "count", 41);
    fields_put_text(w, "reason", TEXT("expired"));
    fields_put_text(w, "queue", TEXT("q"));
    fields_end(w, table);
    fields_end(w, array);
    fields_put_text(w, "x-first-death-queue", TEXT("q0"));
    fields_put_text(w, "x-first-death-reason", TEXT("maxlen"));
    fields_put_text(w, "x-first-death-exchange", TEXT("in0"));
    fields_put_text(w, "x-last-death-queue", TEXT("q9"));
    fields_put_text(w, "a", TEXT("b"));
}

static void headers_with_text(struct writer *w)
{
    fields_put_text(w, "x-death", TEXT("[{count,1}]"));
}

static void headers_with_void(struct writer *w)
{
    fields_put(w, &(struct field){.name = TEXT("x-death"), .type = 'V'});
}

static void headers_with_other_values(struct writer *w)
{
    size_t array = fields_begin(w, "x-death", 'A');
    fields_put_value(w, &(struct field){.type = 'l', .value.integer = 1});
    size_t table = fields_begin(w, NULL, 'F');
    fields_put_text(w, "queue", TEXT("q1"));
    fields_put_integer(w, "reason", 5);
    fields_end(w, table);
    put_text_value(w, "x");
    table = fields_begin(w, NULL, 'F');
    fields_put_text(w, "queue", TEXT("q"));
    fields_put_text(w, "reason", TEXT("expired"));
    fields_put_text(w, "count", TEXT("many"));
    fields_end(w, table);
    fields_end(w, array);
}

static void headers_with_a_full_count(struct writer *w)
{
    size_t array = fields_begin(w, "x-death", 'A');
    size_t table = fields_begin(w, NULL, 'F');
    fields_put_text(w, "queue", TEXT("q"));
    fields_put_integer(w, "count", INT64_MAX);
    fields_put_text(w, "reason", TEXT("expired"));
    fields_end(w, table);
    fields_end(w, array);
}

#define FIRST_EXPIRED "{count=1 reason=expired queue=q time=@60 exchange=in routing-keys=[k]}"

static const struct history {
    const char *name;
    struct start start;
    struct step steps[4];
    const char *others;       /* the other headers */
    const char *first, *last; /* queue, reason, exchange */
    const char *deaths;
} histories[] = {
    {"rejected",
     {0},
     {{"q", "rejected", "dlx", NULL, 60999}},
     "",
     "q rejected in",
     "q rejected in",
     "{count=1 reason=rejected queue=q time=@60 exchange=in routing-keys=[k]}"},
    {"the client's headers stay",
     {.headers = headers_of_client},
     {{"q", "maxlen", "dlx", NULL, 60000}},
     "a=b n=7 ",
     "q maxlen in",
     "q maxlen in",
     "{count=1 reason=maxlen queue=q time=@60 exchange=in routing-keys=[k]}"},
    {"a time to live of its own",
     {.expiration = "60000"},
     {{"q", "expired", "dlx", NULL, 60000}},
     "",
     "q expired in",
     "q expired in",
     "{count=1 original-expiration=60000 reason=expired queue=q time=@60 exchange=in "
     "routing-keys=[k]}"},
    {"which is a number",
     {.expiration = "+00"},
     {{"q", "rejected", "dlx", NULL, 60000}},
     "",
     "q rejected in",
     "q rejected in",
     "{count=1 original-expiration=0 reason=rejected queue=q time=@60 exchange=in "
     "routing-keys=[k]}"},
    {"only the first death tells of it",
     {.expiration = "9"},
     {{"q1", "expired", "dlx", NULL, 60000}, {"q2", "expired", "dlx", NULL, 70000}},
     "",
     "q1 expired in",
     "q2 expired dlx",
     "{count=1 reason=expired queue=q2 time=@70 exchange=dlx routing-keys=[k]} "
     "{count=1 original-expiration=9 reason=expired queue=q1 time=@60 exchange=in "
     "routing-keys=[k]}"},
    {"again in the same queue, of the same and of another reason",
     {0},
     {{"q", "rejected", "dlx", NULL, 60000},
      {"q", "expired", "dlx", NULL, 70000},
      {"q", "rejected", "dlx", NULL, 80000},
      {"q", "rejected", "dlx", NULL, 90000}},
     "",
     "q rejected in",
     "q rejected dlx",
     "{count=3 reason=rejected queue=q time=@60 exchange=in routing-keys=[k]} "
     "{count=1 reason=expired queue=q time=@70 exchange=dlx routing-keys=[k]}"},
    {"another key",
     {0},
     {{"q1", "rejected", "dlx", "other", 60000}, {"q2", "delivery_limit", "dlx2", "", 70000}},
     "",
     "q1 rejected in",
     "q2 delivery_limit dlx",
     "{count=1 reason=delivery_limit queue=q2 time=@70 exchange=dlx routing-keys=[other]} "
     "{count=1 reason=rejected queue=q1 time=@60 exchange=in routing-keys=[k]}"},
    {"copies, while the key stays",
     {.headers = headers_with_a_copy},
     {{"q1", "rejected", "dlx", NULL, 60000}, {"q2", "rejected", "dlx", NULL, 70000}},
     "CC=[c1] ",
     "q1 rejected in",
     "q2 rejected dlx",
     "{count=1 reason=rejected queue=q2 time=@70 exchange=dlx routing-keys=[k c1]} "
     "{count=1 reason=rejected queue=q1 time=@60 exchange=in routing-keys=[k c1]}"},
    {"copies and hidden ones, and a key that is replaced",
     {.headers = headers_with_copies},
     {{"q1", "rejected", "dlx", "other", 60000}, {"q2", "rejected", "dlx", NULL, 70000}},
     "a=b ",
     "q1 rejected in",
     "q2 rejected dlx",
     "{count=1 reason=rejected queue=q2 time=@70 exchange=dlx routing-keys=[other]} "
     "{count=1 reason=rejected queue=q1 time=@60 exchange=in routing-keys=[k c1 c2]}"},
    {"the history that a client published is none",
     {.headers = headers_sent_again},
     {{"q", "expired", "dlx", NULL, 60000}},
     "a=b ",
     "q expired in",
     "q expired in",
     FIRST_EXPIRED},
    {"nor is a text",
     {.headers = headers_with_text},
     {{"q", "expired", "dlx", NULL, 60000}},
     "",
     "q expired in",
     "q expired in",
     FIRST_EXPIRED},
    {"nor is nothing",
     {.headers = headers_with_void},
     {{"q", "expired", "dlx", NULL, 60000}},
     "",
     "q expired in",
     "q expired in",
     FIRST_EXPIRED},
    {"nor are other values",
     {.headers = headers_with_other_values},
     {{"q", "expired", "dlx", NULL, 60000}},
     "",
     "q expired in",
     "q expired in",
     FIRST_EXPIRED},
    {"on disk: a text in place of the history",
     {.headers = headers_with_text, .flags = MESSAGE_DEAD_LETTER},
     {{"q", "expired", "dlx", NULL, 60000}},
     "",
     NULL,
     "q expired in",
     FIRST_EXPIRED},
    {"on disk: a history with other values in it",
     {.headers = headers_with_other_values, .flags = MESSAGE_DEAD_LETTER},
     {{"q", "expired", "dlx", NULL, 60000}, {"q", "expired", "dlx", NULL, 70000}},
     "",
     NULL,
     "q expired dlx",
     "{count=2 queue=q reason=expired} {queue=q1 reason=5}"},
    {"a count that can be no higher",
     {.headers = headers_with_a_full_count, .flags = MESSAGE_DEAD_LETTER},
     {{"q", "expired", "dlx", NULL, 60000}},
     "",
     NULL,
     "q expired in",
     "{count=9223372036854775807 queue=q reason=expired}"},
};

static void print_summary(struct writer *w, const char *which, const char *words)
{
    char queue[64], reason[64], exchange[64];

    assert_int_equal(sscanf(words, "%63s %63s %63s", queue, reason, exchange), 3);
    print(w, "x-%s-death-queue=%s x-%s-death-reason=%s x-%s-death-exchange=%s ", which, queue,
          which, reason, which, exchange);
}

static void expect_history(const struct message *m, const struct history *h)
{
    char expected[4096], found[4096];
    struct writer e = writer_of(expected, sizeof expected);
    struct writer f = writer_of(found, sizeof found);

    print(&e, "%s", h->others);
    if (h->first)
        print_summary(&e, "first", h->first);
    print_summary(&e, "last", h->last);
    print(&e, "x-death=[%s]", h->deaths);
    write_u8(&e, 0);
    print_fields(&f, message_format(m)->headers(m), true, 0);
    write_u8(&f, 0);
    assert_false(e.failed || f.failed);
    assert_string_equal(found, expected);
}

static void test_histories(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    for (size_t i = 0; i < LENGTH_OF(histories); i++) {
        const struct history *h = &histories[i];
        print_message("%s\n", h->name);
        struct message *m = message_of(&account, &h->start, TEXT("body"));
        for (size_t at = 0; at < LENGTH_OF(h->steps) && h->steps[at].queue; at++)
            m = die(&account, m, &h->steps[at]);
        expect_history(m, h);
        struct amqp091_properties p;
        assert_int_equal(amqp091_properties_parse(message_properties(m), &p), 0);
        assert_int_equal(p.flags, AMQP091_APP_ID | AMQP091_HEADERS);
        assert_true(slice_is(p.app_id, "test"));
        assert_int_equal(fields_check(p.headers, &(struct failure){0}), 0);
        assert_int_equal(account.used, message_footprint(m));
        message_unref(m);
    }
    account_fini(&account);
}

/* What no decoder need understand comes through byte for byte: a boolean of 2, a number that is
 * none, two fields of one name, tables inside. And all the properties but the time to live. */
static void test_the_rest_stays_byte_for_byte(void **state)
{
    (void)state;
    static const uint8_t odd[] = "\1bt\2"
                                 "\1fd\x7f\xf0\0\0\0\0\0\1"
                                 "\1sf\x7f\x80\0\1"
                                 "\1dS\0\0\0\1x"
                                 "\1dS\0\0\0\1y"
                                 "\0F\0\0\0\5\3abcV";
    struct slice headers = slice_of(odd, sizeof odd - 1);
    struct amqp091_properties p = {
        .flags = 0xfffc,
        .headers = headers,
        .delivery_mode = 2,
        .priority = 200,
        .timestamp = UINT64_MAX,
        .content_type = TEXT("a"),
        .content_encoding = TEXT("b"),
        .correlation_id = TEXT("c"),
        .reply_to = TEXT("d"),
        .expiration = TEXT("1"),
        .message_id = TEXT("e"),
        .type = TEXT("f"),
        .user_id = TEXT("g"),
        .app_id = TEXT(""),
        .cluster_id = TEXT("i"),
    };
    uint8_t memory[512], again[512];
    struct writer w = writer_of(memory, sizeof memory);
    amqp091_properties_write(&w, &p);
    struct account account;
    account_init(&account, NULL, 0);
    struct message *m = message_new(
        &account, &(struct message_parts){.format = FORMAT_AMQP091,
                                          .properties = slice_of(memory, writer_size(&w))});
    m = die(&account, m, &(struct step){"q", "expired", "dlx", "k", 1});

    struct amqp091_properties back;
    assert_int_equal(amqp091_properties_parse(message_properties(m), &back), 0);
    assert_true(back.headers.size > headers.size);
    assert_memory_equal(back.headers.data, headers.data, headers.size);
    back.headers = headers;
    p.flags = (uint16_t)(p.flags & ~AMQP091_EXPIRATION);
    w = writer_of(memory, sizeof memory);
    amqp091_properties_write(&w, &p);
    struct writer other = writer_of(again, sizeof again);
    amqp091_properties_write(&other, &back);
    assert_true(
        slice_equal(slice_of(memory, writer_size(&w)), slice_of(again, writer_size(&other))));
    message_unref(m);
    account_fini(&account);
}

static void test_unreadable_properties_are_passed_on(void **state)
{
    (void)state;
    /* the list ends early; a header's value does; a flag that no property has */
    const struct slice broken[] = {TEXT("\x80\0\5abc"), TEXT("\x20\0\0\0\0\5\1aS\0\0"),
                                   TEXT("\0\1"), TEXT("")};
    struct account account;
    account_init(&account, NULL, 0);
    for (size_t i = 0; i < LENGTH_OF(broken); i++) {
        struct message_parts parts = {
            .format = FORMAT_AMQP091, .key = TEXT("k"), .properties = broken[i]};
        struct message *m = message_new(&account, &parts);
        struct death death = death_of(&(struct step){"q", "rejected", "dlx", "other", 1});
        struct message *dead = message_format(m)->dead_letter(&account, m, &death);
        assert_true(slice_equal(message_properties(dead), broken[i]));
        assert_true(slice_is(message_exchange(dead), "dlx"));
        assert_true(slice_is(message_key(dead), "other"));
        assert_int_equal(dead->flags, 0);
        assert_false(message_format(dead)->goes_in_circle(dead, TEXT("q")));
        message_unref(dead);
        message_unref(m);
    }
    account_fini(&account);
}

/* ---- memory ---- */

static void test_a_large_body_is_shared(void **state)
{
    (void)state;
    static uint8_t large[MESSAGE_INLINE_MAX + 1];
    struct account account;
    account_init(&account, NULL, 0);
    struct message *m = message_of(&account, &(struct start){0}, slice_of(large, sizeof large));
    struct buffer *body = m->body;
    struct death death = death_of(&(struct step){"q", "rejected", "dlx", NULL, 1});
    struct message *dead = message_format(m)->dead_letter(&account, m, &death);

    assert_ptr_equal(dead->body, body);
    assert_int_equal(body->references, 2);
    assert_int_equal(account.used, message_footprint(m) + message_footprint(dead));
    message_unref(m);
    assert_int_equal(body->references, 1);
    message_unref(dead);
    account_fini(&account);
}

/* Whatever the account has room for: a dead letter or NULL, and nothing left behind. */
static void test_no_memory(void **state)
{
    (void)state;
    struct account account, narrow;
    account_init(&account, NULL, 0);
    account_init(&narrow, NULL, 1);
    struct message *m = message_of(&account, &(struct start){.headers = headers_of_client},
                                   TEXT("body")),
                   *dead = NULL;
    struct death death = death_of(&(struct step){"q", "rejected", "dlx", NULL, 1});

    while (!dead) {
        dead = message_format(m)->dead_letter(&narrow, m, &death);
        assert_true(dead || narrow.used == 0);
        narrow.limit++;
    }
    assert_true(narrow.refusals > message_footprint(dead));
    assert_int_equal(narrow.used, message_footprint(dead));
    message_unref(dead);
    message_unref(m);
    account_fini(&narrow);
    account_fini(&account);
}

/* ---- limits ---- */

static struct slice deaths_in(const struct message *m)
{
    struct field field;

    assert_true(message_format(m)->header(m, TEXT("x-death"), &field));
    assert_int_equal(field.type, 'A');
    return field.value.bytes;
}

static void test_the_oldest_deaths_are_forgotten(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message *m = message_of(&account, &(struct start){0}, TEXT("body"));
    enum { DEATHS = 1000 };

    for (int i = 0; i < DEATHS; i++) {
        char queue[64];
        snprintf(queue, sizeof queue, "%d", i);
        m = die(&account, m, &(struct step){queue, "rejected", "dlx", NULL, 1});
    }
    struct slice deaths = deaths_in(m), queue;
    assert_true(deaths.size <= AMQP091_HISTORY_MAX && deaths.size > AMQP091_HISTORY_MAX - 256);
    struct reader reader = reader_of(deaths);
    struct field death;
    for (int i = DEATHS - 1; fields_next_value(&reader, &death); i--) {
        char expected[64];
        snprintf(expected, sizeof expected, "%d", i);
        assert_true(fields_text(death.value.bytes, "queue", &queue));
        assert_true(slice_is(queue, expected));
    }
    assert_false(reader.failed);
    struct field first;
    assert_true(message_format(m)->header(m, TEXT("x-first-death-queue"), &first));
    assert_true(slice_is(first.value.bytes, "0"));
    message_unref(m);
    account_fini(&account);
}

static void headers_with_many_copies(struct writer *w)
{
    static uint8_t key[255];
    size_t mark = fields_begin(w, "CC", 'A');

    for (int i = 0; i < 500; i++)
        fields_put_value(w, &(struct field){.type = 'S', .value.bytes = slice_of(key, 255)});
    put_text_value(w, "short");
    fields_end(w, mark);
}

/* A death lists CC keys as far as there is room; the header itself stays as it is. */
static void test_many_copies(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message *m =
        message_of(&account, &(struct start){.headers = headers_with_many_copies}, TEXT("body"));
    struct field before, after, death, keys, key;
    assert_true(message_format(m)->header(m, TEXT("CC"), &before));
    size_t before_size = before.value.bytes.size, count = 0;

    for (int i = 0; i < 20; i++) {
        char queue[64];
        snprintf(queue, sizeof queue, "%d", i);
        m = die(&account, m, &(struct step){queue, "rejected", "dlx", NULL, 1});
    }
    assert_true(message_format(m)->header(m, TEXT("CC"), &after));
    assert_int_equal(after.value.bytes.size, before_size);
    assert_true(deaths_in(m).size <= AMQP091_HISTORY_MAX);
    struct reader reader = reader_of(deaths_in(m));
    assert_true(fields_next_value(&reader, &death));
    assert_true(fields_find(death.value.bytes, TEXT("routing-keys"), &keys));
    assert_true(keys.value.bytes.size <= AMQP091_HISTORY_KEYS_MAX);
    reader = reader_of(keys.value.bytes);
    while (fields_next_value(&reader, &key))
        count++;
    assert_int_equal(count, 1 + (AMQP091_HISTORY_KEYS_MAX - 6) / 260 + 1); /* k, long ones, short */
    message_unref(m);
    account_fini(&account);
}

static void test_more_keys(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    struct message *plain = message_of(&account, &(struct start){0}, TEXT("body"));
    struct message *m =
        message_of(&account, &(struct start){.headers = headers_with_copies}, TEXT("body"));
    struct slice keys[3] = {TEXT("")};

    assert_int_equal(message_format(plain)->more_keys(plain, keys, 3), 0);
    assert_int_equal(message_format(m)->more_keys(m, NULL, 0), 2);
    assert_int_equal(message_format(m)->more_keys(m, keys, 1), 2);
    assert_true(slice_is(keys[0], "c1") && keys[1].size == 0);
    assert_int_equal(message_format(m)->more_keys(m, keys, 3), 2);
    assert_true(slice_is(keys[0], "c1") && slice_is(keys[1], "c2"));
    m = die(&account, m, &(struct step){"q", "rejected", "dlx", NULL, 1}); /* it keeps its key */
    assert_int_equal(message_format(m)->more_keys(m, keys, 3), 2);
    m = die(&account, m, &(struct step){"q", "rejected", "dlx", "other", 1});
    assert_int_equal(message_format(m)->more_keys(m, keys, 3), 0);
    message_unref(plain);
    message_unref(m);
    account_fini(&account);
}

/* All names as long as they may be, and a time to live: what GROWTH_MAX has to cover. */
static void test_the_longest_names(void **state)
{
    (void)state;
    char name[MESSAGE_ADDRESS_MAX + 1];
    memset(name, 'n', MESSAGE_ADDRESS_MAX);
    name[MESSAGE_ADDRESS_MAX] = 0;
    struct account account;
    account_init(&account, NULL, 0);
    struct message *m = message_of(&account, &(struct start){.expiration = name}, TEXT("body"));

    for (int i = 0; i < 3; i++)
        m = die(&account, m, &(struct step){name, name, name, name, UINT64_MAX});
    struct field field;
    assert_true(message_format(m)->header(m, TEXT("x-last-death-exchange"), &field));
    assert_int_equal(field.value.bytes.size, MESSAGE_ADDRESS_MAX);
    message_unref(m);
    account_fini(&account);
}

/* The arguments of a queue can name an address that no message can have. */
static void test_an_address_too_long(void **state)
{
    (void)state;
    static uint8_t name[MESSAGE_ADDRESS_MAX + 1];
    struct account account;
    account_init(&account, NULL, 0);
    struct message *m = message_of(&account, &(struct start){0}, TEXT("body"));
    struct death death = death_of(&(struct step){"q", "rejected", "dlx", NULL, 1});

    death.key = slice_of(name, sizeof name);
    assert_null(message_format(m)->dead_letter(&account, m, &death));
    death.key = slice_of(name, 1);
    death.exchange = slice_of(name, sizeof name);
    assert_null(message_format(m)->dead_letter(&account, m, &death));
    assert_int_equal(account.used, message_footprint(m));
    message_unref(m);
    account_fini(&account);
}

/* ---- circles ---- */

#define DIED(in, of)                                                                               \
    {                                                                                              \
        .queue = in, .reason = of                                                                  \
    }

static const struct circle {
    const char *name;
    struct start start;
    struct step steps[4];
    const char *queue;
    bool goes;
} circles[] = {
    {"never died", {0}, {{.queue = NULL}}, "q", false},
    {"expired here", {0}, {DIED("q", "expired")}, "q", true},
    {"dropped here", {0}, {DIED("q", "maxlen")}, "q", true},
    {"another queue", {0}, {DIED("q", "expired")}, "r", false},
    {"a longer name", {0}, {DIED("qq", "expired")}, "q", false},
    {"rejected here", {0}, {DIED("q", "rejected")}, "q", false},
    {"round by another", {0}, {DIED("q", "expired"), DIED("r", "expired")}, "q", true},
    {"rejected by the other", {0}, {DIED("q", "expired"), DIED("r", "rejected")}, "q", false},
    {"rejected before", {0}, {DIED("r", "rejected"), DIED("q", "expired")}, "q", true},
    {"rejected here, expired there",
     {0},
     {DIED("q", "rejected"), DIED("r", "expired")},
     "q",
     false},
    {"rejected between",
     {0},
     {DIED("q", "expired"), DIED("r", "rejected"), DIED("s", "maxlen")},
     "q",
     false},
    {"and again",
     {0},
     {DIED("q", "expired"), DIED("r", "rejected"), DIED("q", "expired")},
     "q",
     true},
    {"first rejected, then expired", {0}, {DIED("q", "rejected"), DIED("q", "expired")}, "q", true},
    {"first expired, then rejected",
     {0},
     {DIED("q", "expired"), DIED("q", "rejected")},
     "q",
     false},
    {"a client's own history", {.headers = headers_sent_again}, {{.queue = NULL}}, "q", false},
    {"which ends at a death", {.headers = headers_sent_again}, {DIED("r", "expired")}, "q", false},
    {"on disk: other values",
     {.headers = headers_with_other_values, .flags = MESSAGE_DEAD_LETTER},
     {{.queue = NULL}},
     "q1",
     true},
    {"on disk: a text",
     {.headers = headers_with_text, .flags = MESSAGE_DEAD_LETTER},
     {{.queue = NULL}},
     "q",
     false},
};

static void test_circles(void **state)
{
    (void)state;
    struct account account;
    account_init(&account, NULL, 0);
    for (size_t i = 0; i < LENGTH_OF(circles); i++) {
        const struct circle *c = &circles[i];
        print_message("%s\n", c->name);
        struct message *m = message_of(&account, &c->start, TEXT("body"));
        for (size_t at = 0; at < LENGTH_OF(c->steps) && c->steps[at].queue; at++)
            m = die(&account, m, &c->steps[at]);
        assert_int_equal(message_format(m)->goes_in_circle(m, slice_text(c->queue)), c->goes);
        message_unref(m);
    }
    account_fini(&account);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_histories),
        cmocka_unit_test(test_the_rest_stays_byte_for_byte),
        cmocka_unit_test(test_unreadable_properties_are_passed_on),
        cmocka_unit_test(test_a_large_body_is_shared),
        cmocka_unit_test(test_no_memory),
        cmocka_unit_test(test_the_oldest_deaths_are_forgotten),
        cmocka_unit_test(test_many_copies),
        cmocka_unit_test(test_more_keys),
        cmocka_unit_test(test_the_longest_names),
        cmocka_unit_test(test_an_address_too_long),
        cmocka_unit_test(test_circles),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
