#include "route/route.h"

#include "message/fields.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

static const struct slice none = {NULL, 0};

/* Queues are numbers here: the id, and as a pointer the address of that element. */
#define QUEUES 4096
static const char queues[QUEUES];

static struct route_target queue(unsigned number)
{
    return (struct route_target){.id = 1000 + number, .queue = (void *)(uintptr_t)&queues[number]};
}

static struct route_target to_exchange(struct route_exchange *exchange)
{
    return (struct route_target){.id = route_exchange_id(exchange), .exchange = exchange};
}

static bool has(const struct route_result *result, unsigned number)
{
    for (size_t i = 0; i < result->count; i++)
        if (result->queues[i] == &queues[number])
            return true;
    return false;
}

static size_t match(struct route_table *table, struct route_exchange *exchange, const char *key,
                    struct route_result *result)
{
    route_result_clear(result);
    route_match(table, exchange, slice_text(key), none, result);
    return result->count;
}

static void bind(struct route_exchange *exchange, unsigned number, const char *key)
{
    assert_true(route_bind(exchange, queue(number), slice_text(key), none));
}

static uint64_t next_random(uint64_t *state)
{
    *state ^= *state << 13;
    *state ^= *state >> 7;
    *state ^= *state << 17;
    return *state;
}

struct fixture {
    struct route_table *table;
    struct route_result result;
};

static struct fixture start(void)
{
    struct fixture f = {.table = route_table_new(7)};
    route_result_init(&f.result);
    return f;
}

static void stop(struct fixture *f)
{
    route_table_check(f->table);
    route_result_fini(&f->result);
    route_table_free(f->table);
}

static void test_types_by_name(void **state)
{
    (void)state;
    enum exchange_type type;
    for (unsigned i = 0; i < EXCHANGE_TYPES; i++) {
        assert_true(exchange_type_parse(slice_text(exchange_type_name(i)), &type));
        assert_int_equal(type, i);
    }
    assert_false(exchange_type_parse(slice_text("x-random"), &type));
    assert_false(exchange_type_parse(none, &type));
}

static void test_direct(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_DIRECT);
    bind(x, 1, "a");
    bind(x, 2, "a");
    bind(x, 2, "b");
    bind(x, 3, "");
    assert_false(route_bind(x, queue(1), slice_text("a"), none));
    assert_int_equal(route_binding_count(x), 4);
    assert_int_equal(match(f.table, x, "a", &f.result), 2);
    assert_true(has(&f.result, 1) && has(&f.result, 2));
    assert_int_equal(match(f.table, x, "b", &f.result), 1);
    assert_int_equal(match(f.table, x, "", &f.result), 1);
    assert_true(has(&f.result, 3));
    assert_int_equal(match(f.table, x, "c", &f.result), 0);
    assert_true(route_unbind(x, queue(1), slice_text("a"), none));
    assert_false(route_unbind(x, queue(1), slice_text("a"), none));
    assert_false(route_unbind(x, queue(9), slice_text("a"), none));
    assert_int_equal(match(f.table, x, "a", &f.result), 1);
    assert_true(route_unbind(x, queue(3), slice_text(""), none));
    assert_int_equal(match(f.table, x, "", &f.result), 0);
    stop(&f);
}

static void test_a_queue_comes_once(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_TOPIC);
    bind(x, 1, "a.*");
    bind(x, 1, "a.#");
    bind(x, 1, "*.b");
    bind(x, 1, "#");
    assert_int_equal(match(f.table, x, "a.b", &f.result), 1);
    /* several calls fill one result */
    route_match(f.table, x, slice_text("a.c"), none, &f.result);
    assert_int_equal(f.result.count, 1);

    /* what was added from elsewhere counts, too */
    route_result_clear(&f.result);
    route_result_add(&f.result, queue(1).queue);
    route_result_add(&f.result, queue(2).queue);
    route_result_add(&f.result, queue(2).queue);
    assert_int_equal(f.result.count, 2);
    route_match(f.table, x, slice_text("a.b"), none, &f.result);
    assert_int_equal(f.result.count, 2);
    stop(&f);
}

static void test_fanout(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_FANOUT);
    for (unsigned i = 0; i < 100; i++)
        bind(x, i, i % 2 ? "k" : "");
    bind(x, 0, "other");
    assert_int_equal(match(f.table, x, "whatever", &f.result), 100);
    assert_true(route_unbind(x, queue(0), none, none));
    assert_int_equal(match(f.table, x, "", &f.result), 100);
    assert_true(route_unbind(x, queue(0), slice_text("other"), none));
    assert_int_equal(match(f.table, x, "", &f.result), 99);
    assert_false(has(&f.result, 0));
    stop(&f);
}

static void test_topic_by_hand(void **state)
{
    (void)state;
    static const struct {
        const char *pattern, *key;
        bool matches;
    } cases[] = {
        {"", "", true},
        {"", "a", false},
        {"#", "", true},
        {"#", "a.b.c", true},
        {"*", "", false},
        {"*", "a", true},
        {"*", "a.b", false},
        {"a.*", "a.", true},
        {"a.*", "a", false},
        {"a.#", "a", true},
        {"a.#", "a.b.c", true},
        {"a.#", "b", false},
        {"#.a", "a", true},
        {"#.a", "b.c.a", true},
        {"#.a", "a.b", false},
        {"*.#", "", false},
        {"*.#", "a", true},
        {"#.*", "", false},
        {"#.*", "a.b", true},
        {"#.#", "", true},
        {"#.#.a", "a", true},
        {"a.#.b", "a.b", true},
        {"a.#.b", "a.x.b", true},
        {"a.#.b", "a.b.x", false},
        {"a.#.b", "a", false},
        {".", ".", true},
        {".", "", false},
        {"*.*", ".", true},
        {"..", "..", true},
        {"a..b", "a..b", true},
        {"a.*.b", "a..b", true},
        {"ab", "a", false},
        {"a", "ab", false},
        {"*.stock.#", "usd.stock", true},
        {"*.stock.#", "usd.stock.db", true},
        {"#.stock.*", "stock.a.b", false},
        {"a*", "ab", false},
        {"a*", "a*", true},
        {"#a", "xa", false},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct fixture f = start();
        struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_TOPIC);
        bind(x, 1, cases[i].pattern);
        if ((match(f.table, x, cases[i].key, &f.result) == 1) != cases[i].matches)
            fail_msg("pattern \"%s\", key \"%s\"", cases[i].pattern, cases[i].key);
        stop(&f);
    }
}

/* ---- topics against a matcher that is too simple to be wrong ---- */

#define WORDS_MAX 300

static size_t split(const char *key, const char **words, size_t *sizes)
{
    size_t count = 0;
    if (!*key)
        return 0;
    for (const char *at = key;; at++) {
        const char *dot = strchr(at, '.');
        words[count] = at;
        sizes[count++] = dot ? (size_t)(dot - at) : strlen(at);
        if (!dot)
            return count;
        at = dot;
    }
}

/* reach[i]: the pattern so far can stand for the first i words of the key */
static bool simple_match(const char *pattern, const char *key)
{
    const char *pattern_words[WORDS_MAX], *words[WORDS_MAX];
    size_t pattern_sizes[WORDS_MAX], sizes[WORDS_MAX];
    size_t pattern_count = split(pattern, pattern_words, pattern_sizes);
    size_t count = split(key, words, sizes);
    bool reach[WORDS_MAX + 1] = {true};

    for (size_t p = 0; p < pattern_count; p++) {
        bool is_hash = pattern_sizes[p] == 1 && pattern_words[p][0] == '#';
        bool is_star = pattern_sizes[p] == 1 && pattern_words[p][0] == '*';
        bool next[WORDS_MAX + 1] = {false};
        for (size_t i = 0; i <= count; i++) {
            if (is_hash)
                next[i] = reach[i] || (i > 0 && next[i - 1]);
            else if (i > 0)
                next[i] = reach[i - 1] &&
                          (is_star || (sizes[i - 1] == pattern_sizes[p] &&
                                       memcmp(words[i - 1], pattern_words[p], sizes[i - 1]) == 0));
        }
        memcpy(reach, next, sizeof reach);
    }
    return reach[count];
}

static void random_key(uint64_t *seed, char *text, bool pattern)
{
    static const char *const words[] = {"a", "b", "c", "", "dd", "*", "#"};
    unsigned count = (unsigned)(next_random(seed) % 6);
    size_t at = 0;

    text[0] = 0;
    for (unsigned i = 0; i < count; i++) {
        unsigned choice = (unsigned)(next_random(seed) % (pattern ? 9 : 5));
        const char *word = words[choice > 6 ? choice - 2 : choice];
        at += (size_t)snprintf(text + at, 32 - at, "%s%s", i ? "." : "", word);
    }
}

static void test_topic_against_simple(void **state)
{
    (void)state;
    enum { TABLES = 400, PATTERNS = 60, KEYS = 100 };
    static char patterns[PATTERNS][32];
    size_t hits = 0;

    for (uint64_t table_seed = 1; table_seed <= TABLES; table_seed++) {
        uint64_t seed = table_seed * 0x9e3779b97f4a7c15u;
        struct fixture f = start();
        struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_TOPIC);
        bool bound[PATTERNS] = {false};

        for (unsigned i = 0; i < PATTERNS; i++) {
            random_key(&seed, patterns[i], true);
            bound[i] = route_bind(x, queue(i), slice_text(patterns[i]), none);
            assert_true(bound[i]);
        }
        for (unsigned k = 0; k < KEYS; k++) {
            char key[32];
            random_key(&seed, key, false);
            /* bindings come and go meanwhile */
            unsigned change = (unsigned)(next_random(&seed) % PATTERNS);
            if (bound[change])
                assert_true(route_unbind(x, queue(change), slice_text(patterns[change]), none));
            else
                assert_true(route_bind(x, queue(change), slice_text(patterns[change]), none));
            bound[change] = !bound[change];
            size_t expected = 0;
            match(f.table, x, key, &f.result);
            for (unsigned i = 0; i < PATTERNS; i++) {
                bool matches = bound[i] && simple_match(patterns[i], key);
                expected += matches;
                if (matches != has(&f.result, i))
                    fail_msg("seed %u: pattern \"%s\", key \"%s\": %d", (unsigned)table_seed,
                             patterns[i], key, matches);
            }
            assert_int_equal(f.result.count, expected);
            hits += expected;
        }
        route_table_check(f.table);
        for (unsigned i = 0; i < PATTERNS; i++)
            if (bound[i])
                assert_true(route_unbind(x, queue(i), slice_text(patterns[i]), none));
        stop(&f);
    }
    assert_true(hits > 10000);
}

/* Patterns and keys that make a backtracking matcher run for years. */
static void test_topic_does_not_explode(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_TOPIC);
    char pattern[256], key[256];
    size_t at = 0;

    for (unsigned i = 0; i < 63; i++)
        at += (size_t)snprintf(pattern + at, sizeof pattern - at, "#.a.");
    snprintf(pattern + at, sizeof pattern - at, "#.b");
    bind(x, 1, pattern);
    for (unsigned i = 1; i < 63; i++) {
        char shorter[256];
        snprintf(shorter, sizeof shorter, "%.*s#", (int)(4 * i), pattern);
        bind(x, 1 + i, shorter);
    }
    for (unsigned i = 0; i < 255; i++)
        key[i] = i % 2 ? '.' : 'a';
    key[255] = 0;
    clock_t before = clock();
    for (unsigned i = 0; i < 100; i++)
        assert_int_equal(match(f.table, x, key, &f.result), 62);
    double seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    assert_true(seconds < 5); /* some milliseconds, in fact */
    key[254] = 'b';
    assert_int_equal(match(f.table, x, key, &f.result), 63);
    memset(key, '.', 255); /* 256 empty words */
    assert_int_equal(match(f.table, x, key, &f.result), 0);
    stop(&f);
}

/* ---- headers ---- */

struct headers_case {
    const char *mode; /* NULL: no x-match */
    struct field arguments[3];
    struct field headers[3];
    bool matches;
};

#define TEXT(n, v)                                                                                 \
    {                                                                                              \
        .name = {(const uint8_t *)(n), sizeof(n) - 1}, .type = 'S', .value.bytes = {               \
            (const uint8_t *)(v),                                                                  \
            sizeof(v) - 1                                                                          \
        }                                                                                          \
    }
#define NUMBER(n, t, v)                                                                            \
    {                                                                                              \
        .name = {(const uint8_t *)(n), sizeof(n) - 1}, .type = (t), .value.integer = (v)           \
    }
#define NOTHING(n)                                                                                 \
    {                                                                                              \
        .name = {(const uint8_t *)(n), sizeof(n) - 1}, .type = 'V'                                 \
    }

static struct slice table_of(uint8_t *memory, size_t size, const char *mode,
                             const struct field *fields)
{
    struct writer w = writer_of(memory, size);
    if (mode)
        fields_put_text(&w, "x-match", slice_text(mode));
    for (unsigned i = 0; i < 3 && fields[i].type; i++)
        fields_put(&w, &fields[i]);
    assert_false(w.failed);
    return slice_of(memory, writer_size(&w));
}

static void test_headers_by_hand(void **state)
{
    (void)state;
    static const struct headers_case cases[] = {
        {NULL, {{.type = 0}}, {{.type = 0}}, true},
        {"all", {{.type = 0}}, {TEXT("a", "1")}, true},
        {"any", {{.type = 0}}, {TEXT("a", "1")}, false},
        {NULL, {TEXT("a", "1")}, {TEXT("a", "1")}, true},
        {"all", {TEXT("a", "1"), TEXT("b", "2")}, {TEXT("b", "2"), TEXT("a", "1")}, true},
        {"all", {TEXT("a", "1"), TEXT("b", "2")}, {TEXT("a", "1")}, false},
        {"any", {TEXT("a", "1"), TEXT("b", "2")}, {TEXT("b", "2")}, true},
        {"any", {TEXT("a", "1"), TEXT("b", "2")}, {TEXT("b", "1")}, false},
        {"all", {TEXT("a", "1")}, {TEXT("a", "2")}, false},
        {"all", {NOTHING("a")}, {TEXT("a", "anything")}, true},
        {"all", {NOTHING("a")}, {TEXT("b", "1")}, false},
        {"any", {NOTHING("a"), TEXT("b", "1")}, {NUMBER("a", 'l', 0)}, true},
        {"all", {NUMBER("n", 'I', 5)}, {NUMBER("n", 'b', 5)}, true},
        {"all", {NUMBER("n", 'I', 5)}, {NUMBER("n", 'l', 6)}, false},
        {"all", {NUMBER("n", 'I', 5)}, {TEXT("n", "5")}, false},
        {"all", {TEXT("x-a", "1")}, {{.type = 0}}, true},
        {"any", {TEXT("x-a", "1")}, {TEXT("x-a", "1")}, false},
        {"all-with-x", {TEXT("x-a", "1")}, {TEXT("x-a", "1")}, true},
        {"all-with-x", {TEXT("x-a", "1")}, {{.type = 0}}, false},
        {"any-with-x", {TEXT("x-a", "1"), TEXT("b", "1")}, {TEXT("x-a", "1")}, true},
        {"any-with-x", {{.type = 0}}, {TEXT("x-match", "any-with-x")}, false},
        {"all", {TEXT("", "1")}, {TEXT("", "1")}, true},
        {"all", {TEXT("a", "1")}, {TEXT("a", "1"), TEXT("a", "2")}, false}, /* the later counts */
        {"all", {TEXT("a", "2")}, {TEXT("a", "1"), TEXT("a", "2")}, true},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t arguments_memory[256], headers_memory[256];
        struct fixture f = start();
        struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_HEADERS);
        struct slice arguments = table_of(arguments_memory, 256, cases[i].mode, cases[i].arguments);
        struct slice headers = table_of(headers_memory, 256, NULL, cases[i].headers);
        assert_int_equal(route_check(EXCHANGE_HEADERS, none, arguments, NULL), 0);
        assert_true(route_bind(x, queue(1), slice_text("key"), arguments));
        route_match(f.table, x, slice_text("other"), headers, &f.result);
        if ((f.result.count == 1) != cases[i].matches)
            fail_msg("headers case %zu", i);
        route_table_check(f.table);
        assert_true(route_unbind(x, queue(1), slice_text("key"), arguments));
        stop(&f);
    }
}

static void test_headers_x_match_is_checked(void **state)
{
    (void)state;
    uint8_t memory[64];
    struct failure failure;
    static const struct field nothing[3];
    struct slice wrong = table_of(memory, sizeof memory, "some", nothing);
    assert_int_equal(route_check(EXCHANGE_HEADERS, none, wrong, &failure), E_INVALID);
    assert_string_equal(failure.text, "Invalid x-match field value 'some'; expected all, any, "
                                      "all-with-x, or any-with-x");
    assert_int_equal(route_check(EXCHANGE_TOPIC, none, wrong, &failure), 0);
    struct writer w = writer_of(memory, sizeof memory);
    fields_put_integer(&w, "x-match", 10);
    assert_int_equal(
        route_check(EXCHANGE_HEADERS, none, slice_of(memory, writer_size(&w)), &failure),
        E_INVALID);
    assert_string_equal(failure.text,
                        "Invalid x-match field type long (value 10); expected longstr");
}

/* Bindings that differ in arguments alone are different, whatever the order of fields. */
static void test_arguments_are_identity(void **state)
{
    (void)state;
    static const struct field ab[3] = {TEXT("a", "1"), TEXT("b", "2")},
                              ba[3] = {TEXT("b", "2"), TEXT("a", "1")}, a[3] = {TEXT("a", "1")};
    uint8_t memory[3][64];
    struct slice first = table_of(memory[0], 64, NULL, ab),
                 same = table_of(memory[1], 64, NULL, ba), other = table_of(memory[2], 64, NULL, a);
    struct fixture f = start();
    struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_DIRECT);
    assert_true(route_bind(x, queue(1), slice_text("k"), first));
    assert_false(route_bind(x, queue(1), slice_text("k"), same));
    assert_true(route_bind(x, queue(1), slice_text("k"), other));
    assert_int_equal(match(f.table, x, "k", &f.result), 1);
    assert_true(route_unbind(x, queue(1), slice_text("k"), same));
    assert_int_equal(match(f.table, x, "k", &f.result), 1);
    assert_true(route_unbind(x, queue(1), slice_text("k"), other));
    assert_int_equal(match(f.table, x, "k", &f.result), 0);
    stop(&f);
}

/* Decimals all hash the same: such bindings are in one chain, from whose every place they leave. */
static void test_equal_hashes(void **state)
{
    (void)state;
    static const unsigned orders[][3] = {{0, 1, 2}, {0, 2, 1}, {1, 0, 2},
                                         {1, 2, 0}, {2, 0, 1}, {2, 1, 0}};
    uint8_t memory[3][32];
    struct slice arguments[3];
    for (int i = 0; i < 3; i++) {
        struct writer w = writer_of(memory[i], sizeof memory[i]);
        fields_put(&w, &(struct field){slice_text("d"), 'D', {.decimal = {2, i}}});
        arguments[i] = slice_of(memory[i], writer_size(&w));
    }
    assert_true(fields_hash(arguments[0], 1) == fields_hash(arguments[1], 1));
    for (size_t o = 0; o < sizeof orders / sizeof orders[0]; o++) {
        struct fixture f = start();
        struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_DIRECT);
        for (int i = 0; i < 3; i++) {
            assert_true(route_bind(x, queue(1), slice_text("k"), arguments[i]));
            assert_false(route_bind(x, queue(1), slice_text("k"), arguments[i]));
        }
        for (int i = 0; i < 3; i++) {
            assert_true(route_unbind(x, queue(1), slice_text("k"), arguments[orders[o][i]]));
            assert_false(route_unbind(x, queue(1), slice_text("k"), arguments[orders[o][i]]));
            route_table_check(f.table);
        }
        stop(&f);
    }
}

/* ---- between exchanges ---- */

static void test_exchange_to_exchange(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *a = route_exchange_add(f.table, 1, EXCHANGE_TOPIC);
    struct route_exchange *b = route_exchange_add(f.table, 2, EXCHANGE_DIRECT);
    struct route_exchange *c = route_exchange_add(f.table, 3, EXCHANGE_FANOUT);
    assert_true(route_bind(a, to_exchange(b), slice_text("x.#"), none));
    assert_true(route_bind(b, to_exchange(c), slice_text("x.y"), none));
    assert_true(route_bind(c, to_exchange(a), none, none)); /* a cycle */
    assert_true(route_bind(c, to_exchange(c), none, none)); /* and a short one */
    bind(a, 1, "#");
    bind(b, 2, "x.y");
    bind(c, 3, "");
    bind(c, 1, "");
    assert_int_equal(match(f.table, a, "x.y", &f.result), 3);
    assert_int_equal(match(f.table, a, "x.z", &f.result), 1);
    assert_int_equal(match(f.table, c, "z", &f.result), 2);
    route_table_check(f.table);

    route_exchange_remove(f.table, b);
    assert_int_equal(route_binding_count(a), 1);
    assert_int_equal(match(f.table, a, "x.y", &f.result), 1);
    route_exchange_remove(f.table, c);
    stop(&f);
}

static void test_alternate(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_DIRECT);
    struct route_exchange *alternate = route_exchange_add(f.table, 2, EXCHANGE_FANOUT);
    struct route_exchange *empty = route_exchange_add(f.table, 3, EXCHANGE_DIRECT);
    bind(x, 1, "a");
    bind(alternate, 2, "");
    route_set_alternate(x, alternate);
    assert_int_equal(match(f.table, x, "a", &f.result), 1);
    assert_true(has(&f.result, 1));
    assert_int_equal(match(f.table, x, "b", &f.result), 1);
    assert_true(has(&f.result, 2));

    /* an exchange that is bound counts, though it gives nothing; its own alternate would */
    assert_true(route_bind(x, to_exchange(empty), slice_text("b"), none));
    assert_int_equal(match(f.table, x, "b", &f.result), 0);
    route_set_alternate(empty, x);
    route_set_alternate(alternate, x); /* a cycle of alternates */
    assert_int_equal(match(f.table, x, "b", &f.result), 0);
    assert_int_equal(match(f.table, empty, "a", &f.result), 1);
    assert_int_equal(match(f.table, x, "c", &f.result), 1);

    /* several keys: the alternate only when none gives anything */
    const struct slice keys[] = {slice_text("c"), slice_text("a")};
    route_result_clear(&f.result);
    route_match_keys(f.table, x, keys, 2, none, &f.result);
    assert_int_equal(f.result.count, 1);
    assert_true(has(&f.result, 1));

    route_exchange_remove(f.table, alternate);
    assert_int_equal(match(f.table, x, "c", &f.result), 0);
    stop(&f);
}

struct seen {
    unsigned count;
    uint64_t sources;
};

static void see(void *context, struct route_exchange *source, struct slice key,
                struct slice arguments)
{
    struct seen *seen = context;
    assert_true(key.size > 0);
    assert_int_equal(arguments.size, 0);
    seen->count++;
    seen->sources |= 1u << route_exchange_id(source);
}

static void test_remove_target(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *x[EXCHANGE_TYPES];
    for (unsigned i = 0; i < EXCHANGE_TYPES; i++) {
        x[i] = route_exchange_add(f.table, i + 1, (enum exchange_type)i);
        for (unsigned q = 0; q < 10; q++) {
            bind(x[i], q, "a.b");
            bind(x[i], q, "a.c");
        }
    }
    struct seen seen = {0};
    route_remove_target(f.table, queue(3).id, see, &seen);
    assert_int_equal(seen.count, 2 * EXCHANGE_TYPES);
    assert_int_equal(seen.sources, 0x1e);
    route_remove_target(f.table, queue(3).id, see, &seen);
    assert_int_equal(seen.count, 2 * EXCHANGE_TYPES);
    for (unsigned i = 0; i < EXCHANGE_TYPES; i++) {
        assert_int_equal(route_binding_count(x[i]), 18);
        assert_int_equal(match(f.table, x[i], "a.b", &f.result), 9);
        assert_false(has(&f.result, 3));
    }
    stop(&f);
}

static void test_bindings_in_order(void **state)
{
    (void)state;
    struct fixture f = start();
    struct route_exchange *x = route_exchange_add(f.table, 1, EXCHANGE_DIRECT);
    struct route_binding_view view;
    char key[16];
    for (unsigned i = 0; i < 200; i++) {
        snprintf(key, sizeof key, "%u", i);
        bind(x, i, key);
    }
    for (unsigned i = 0; i < 200; i++) { /* leaves the multiples of 3 */
        snprintf(key, sizeof key, "%u", i);
        if (i % 3)
            assert_true(route_unbind(x, queue(i), slice_text(key), none));
    }
    for (unsigned i = 200; i < 500; i++) {
        snprintf(key, sizeof key, "%u", i);
        bind(x, i, key);
        route_table_check(f.table);
    }
    size_t position = 0;
    uint64_t last = 0;
    unsigned count = 0;
    while (route_binding_next(x, &position, &view)) {
        assert_true(view.target.id > last);
        snprintf(key, sizeof key, "%u", (unsigned)(view.target.id - 1000));
        assert_true(slice_is(view.key, key));
        last = view.target.id;
        count++;
    }
    assert_int_equal(count, 67 + 300);
    assert_int_equal(route_binding_count(x), count);
    stop(&f);
}

/* Everything at random, invariants walked. */
static void test_random_tables(void **state)
{
    (void)state;
    for (uint64_t table_seed = 1; table_seed <= 20; table_seed++) {
        uint64_t seed = table_seed * 0x9e3779b97f4a7c15u;
        struct fixture f = start();
        struct route_exchange *x[12] = {NULL};
        char key[32];
        for (unsigned step = 0; step < 3000; step++) {
            unsigned a = (unsigned)(next_random(&seed) % 12),
                     b = (unsigned)(next_random(&seed) % 12);
            unsigned q = (unsigned)(next_random(&seed) % 50);
            random_key(&seed, key, true);
            switch (next_random(&seed) % 16) {
            case 0:
                if (x[a])
                    route_exchange_remove(f.table, x[a]);
                x[a] = NULL;
                break;
            case 1:
                route_remove_target(f.table, queue(q).id, NULL, NULL);
                break;
            case 2:
                if (x[a])
                    route_set_alternate(x[a], x[b]);
                break;
            case 3:
                if (x[a] && x[b])
                    (void)route_bind(x[a], to_exchange(x[b]), slice_text(key), none);
                break;
            case 4:
            case 5:
                if (x[a])
                    (void)route_unbind(x[a], queue(q), slice_text(key), none);
                break;
            default:
                if (!x[a])
                    x[a] = route_exchange_add(f.table, 1 + a,
                                              (enum exchange_type)(a % EXCHANGE_TYPES));
                (void)route_bind(x[a], queue(q), slice_text(key), none);
                match(f.table, x[a], key, &f.result);
            }
            if (step % 100 == 0)
                route_table_check(f.table);
        }
        stop(&f);
    }
}

/* ---- `route_test --bench`: what a match costs ---- */

static double nanoseconds_per_match(struct route_table *table, struct route_exchange *x,
                                    const struct slice *keys, size_t count, size_t *hits)
{
    enum { ROUNDS = 1000000 };
    struct route_result result;
    route_result_init(&result);
    *hits = 0;
    clock_t before = clock();
    for (size_t i = 0; i < ROUNDS; i++) {
        route_result_clear(&result);
        route_match(table, x, keys[i % count], none, &result);
        *hits += result.count;
    }
    double seconds = (double)(clock() - before) / CLOCKS_PER_SEC;
    route_result_fini(&result);
    return seconds * 1e9 / ROUNDS;
}

static int bench(void)
{
    enum { KEYS = 1000 };
    static char texts[KEYS][48];
    struct slice keys[KEYS];

    for (unsigned bindings = 10; bindings <= 100000; bindings *= 10) {
        for (enum exchange_type type = EXCHANGE_DIRECT; type <= EXCHANGE_TOPIC; type += 2) {
            struct route_table *table = route_table_new(1);
            struct route_exchange *x = route_exchange_add(table, 1, type);
            char key[48];
            for (unsigned i = 0; i < bindings; i++) {
                const char *form = type == EXCHANGE_DIRECT ? "a%u.b%u.c%u"
                                   : i % 3 == 0            ? "a%u.*.c%u.d%u"
                                   : i % 3 == 1            ? "a%u.b%u.#.z%u"
                                                           : "a%u.b%u.c%u";
                snprintf(key, sizeof key, form, i % 100, i / 100, i);
                (void)route_bind(x, queue(i % QUEUES), slice_text(key), none);
            }
            for (unsigned i = 0; i < KEYS; i++) {
                unsigned n = i * 97 % bindings;
                snprintf(texts[i], sizeof texts[i], "a%u.b%u.c%u", n % 100, n / 100, n);
                keys[i] = slice_text(texts[i]);
            }
            size_t hits;
            double ns = nanoseconds_per_match(table, x, keys, KEYS, &hits);
            printf("%-7s %7u bindings: %7.1f ns a match, %.2f queues\n", exchange_type_name(type),
                   bindings, ns, (double)hits / 1e6);
            route_table_free(table);
        }
    }
    return 0;
}

int main(int argc, char **argv)
{
    if (argc == 2 && strcmp(argv[1], "--bench") == 0)
        return bench();
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_types_by_name),
        cmocka_unit_test(test_direct),
        cmocka_unit_test(test_a_queue_comes_once),
        cmocka_unit_test(test_fanout),
        cmocka_unit_test(test_topic_by_hand),
        cmocka_unit_test(test_topic_against_simple),
        cmocka_unit_test(test_topic_does_not_explode),
        cmocka_unit_test(test_headers_by_hand),
        cmocka_unit_test(test_headers_x_match_is_checked),
        cmocka_unit_test(test_arguments_are_identity),
        cmocka_unit_test(test_equal_hashes),
        cmocka_unit_test(test_exchange_to_exchange),
        cmocka_unit_test(test_alternate),
        cmocka_unit_test(test_remove_target),
        cmocka_unit_test(test_bindings_in_order),
        cmocka_unit_test(test_random_tables),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
