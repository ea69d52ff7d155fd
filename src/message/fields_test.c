#include "message/fields.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

static struct slice written(const struct writer *w)
{
    assert_false(w->failed);
    return slice_of(w->start, writer_size(w));
}

static struct field integer(const char *name, uint8_t type, int64_t value)
{
    return (struct field){slice_text(name), type, {.integer = value}};
}

static void test_every_type_comes_back(void **state)
{
    (void)state;
    static const struct {
        uint8_t type;
        int64_t low, high;
    } ranges[] = {
        {'b', INT8_MIN, INT8_MAX},   {'B', 0, UINT8_MAX},         {'s', INT16_MIN, INT16_MAX},
        {'u', 0, UINT16_MAX},        {'I', INT32_MIN, INT32_MAX}, {'i', 0, UINT32_MAX},
        {'l', INT64_MIN, INT64_MAX}, {'L', INT64_MIN, INT64_MAX}, {'T', 0, INT64_MAX}};
    uint8_t memory[512];
    struct writer w = writer_of(memory, sizeof memory);
    struct field field;

    for (size_t i = 0; i < sizeof ranges / sizeof ranges[0]; i++) {
        w = writer_of(memory, sizeof memory);
        field = integer("low", ranges[i].type, ranges[i].low);
        fields_put(&w, &field);
        field = integer("high", ranges[i].type, ranges[i].high);
        fields_put(&w, &field);
        assert_int_equal(fields_check(written(&w), NULL), 0);
        assert_true(fields_find(written(&w), slice_text("low"), &field));
        assert_int_equal(field.type, ranges[i].type);
        assert_true(field.value.integer == ranges[i].low);
        assert_true(fields_find(written(&w), slice_text("high"), &field));
        assert_true(field.value.integer == ranges[i].high);
    }

    w = writer_of(memory, sizeof memory);
    fields_put_boolean(&w, "t", true);
    fields_put(&w, &(struct field){slice_text("f"), 'f', {.real = 0.5}});
    fields_put(&w, &(struct field){slice_text("d"), 'd', {.real = 0.1}});
    fields_put(&w, &(struct field){slice_text("D"), 'D', {.decimal = {2, -1234}}});
    fields_put_text(&w, "S", slice_text("text"));
    fields_put(&w, &(struct field){slice_text("x"), 'x', {.bytes = slice_of("\0\1", 2)}});
    fields_put(&w, &(struct field){slice_text("V"), 'V', {.integer = 0}});
    size_t array = fields_begin(&w, "A", 'A');
    fields_put_value(&w, &(struct field){.type = 'l', .value.integer = 7});
    size_t inner = fields_begin(&w, NULL, 'F');
    fields_put_text(&w, "deep", slice_text("down"));
    fields_end(&w, inner);
    fields_end(&w, array);
    struct slice table = written(&w);
    assert_int_equal(fields_check(table, NULL), 0);

    bool boolean = false;
    assert_true(fields_boolean(table, "t", &boolean) && boolean);
    assert_true(fields_find(table, slice_text("f"), &field) && field.value.real == 0.5);
    assert_true(fields_find(table, slice_text("d"), &field) && field.value.real == 0.1);
    assert_true(fields_find(table, slice_text("D"), &field));
    assert_int_equal(field.value.decimal.scale, 2);
    assert_int_equal(field.value.decimal.value, -1234);
    struct slice bytes;
    assert_true(fields_text(table, "S", &bytes) && slice_is(bytes, "text"));
    assert_false(fields_text(table, "x", &bytes));
    assert_true(fields_find(table, slice_text("V"), &field));
    assert_true(fields_find(table, slice_text("A"), &field));
    struct reader reader = reader_of(field.value.bytes);
    assert_true(fields_next_value(&reader, &field) && field.value.integer == 7);
    assert_true(fields_next_value(&reader, &field) && field.type == 'F');
    assert_true(fields_text(field.value.bytes, "deep", &bytes) && slice_is(bytes, "down"));
    assert_false(fields_next_value(&reader, &field));
    assert_false(reader.failed);
}

static void test_last_of_a_name(void **state)
{
    (void)state;
    uint8_t memory[64];
    struct writer w = writer_of(memory, sizeof memory);
    int64_t value = 0;
    fields_put_integer(&w, "a", 1);
    fields_put_integer(&w, "a", 2);
    assert_int_equal(fields_check(written(&w), NULL), 0);
    assert_true(fields_integer(written(&w), "a", &value));
    assert_int_equal(value, 2);
    assert_false(fields_integer(written(&w), "b", &value));
}

static void test_checked_bytes(void **state)
{
    (void)state;
    static const struct {
        const char *bytes;
        size_t size;
        const char *cause; /* NULL: in order */
    } cases[] = {
        {"", 0, NULL},
        {"\1aV", 3, NULL},
        {"\0V", 2, NULL},
        {"\1", 1, "longer"},
        {"\5a", 2, "longer"},
        {"\1a", 2, "longer"},
        {"\1aZ", 3, "unknown field type 0x5a"},
        {"\1aI\0\0\0", 6, "longer"},
        {"\1aS\0\0\0\2x", 8, "longer"},
        {"\1aS\xff\xff\xff\xffx", 8, "longer"},
        {"\1aF\0\0\0\3\1bV", 10, NULL},
        {"\1aF\0\0\0\2\1b\1cV", 12, "longer"}, /* the inner field would end outside */
        {"\1aA\0\0\0\2VV", 9, NULL},
        {"\1aA\0\0\0\2VI", 9, "longer"},
        {"\1at\7", 4, NULL},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct failure failure = {0};
        uint8_t *exact = malloc(cases[i].size ? cases[i].size : 1);
        memcpy(exact, cases[i].bytes, cases[i].size);
        int result = fields_check(slice_of(exact, cases[i].size), &failure);
        assert_int_equal(result, cases[i].cause ? E_INVALID : 0);
        if (cases[i].cause)
            assert_non_null(strstr(failure.text, cases[i].cause));
        free(exact);
    }
}

/* `depth` tables inside each other, each the only field of the outer one. */
static size_t nest(uint8_t *memory, size_t room, unsigned depth, uint8_t type)
{
    struct writer w = writer_of(memory, room);
    size_t marks[1000];
    for (unsigned i = 0; i < depth; i++)
        marks[i] = fields_begin(&w, i > 0 && type == 'A' ? NULL : "a", type);
    for (unsigned i = depth; i-- > 0;)
        fields_end(&w, marks[i]);
    return written(&w).size;
}

static void test_depth_is_limited(void **state)
{
    (void)state;
    static uint8_t memory[16000];
    struct failure failure;
    for (const char *type = "FA"; *type; type++) {
        size_t size = nest(memory, sizeof memory, FIELDS_DEPTH_MAX, (uint8_t)*type);
        assert_int_equal(fields_check(slice_of(memory, size), &failure), 0);
        size = nest(memory, sizeof memory, FIELDS_DEPTH_MAX + 1, (uint8_t)*type);
        assert_int_equal(fields_check(slice_of(memory, size), &failure), E_INVALID);
        size = nest(memory, sizeof memory, 1000, (uint8_t)*type);
        assert_int_equal(fields_check(slice_of(memory, size), &failure), E_INVALID);
        assert_non_null(strstr(failure.text, "deeper than 64"));
    }
}

static void test_field_equal(void **state)
{
    (void)state;
    struct field narrow = integer("", 'b', 10), wide = integer("", 'l', 10);
    struct field unsigned32 = integer("", 'i', 10), other = integer("", 'l', 11);
    struct field time = integer("", 'T', 10);
    assert_true(field_equal(&narrow, &wide) && field_equal(&wide, &unsigned32));
    assert_false(field_equal(&wide, &other));
    assert_false(field_equal(&wide, &time));
    struct field single = {.type = 'f', .value.real = 0.5}, real = {.type = 'd', .value.real = 0.5};
    assert_true(field_equal(&single, &real));
    assert_false(field_equal(&real, &wide));
    struct field text = {.type = 'S', .value.bytes = slice_text("10")};
    struct field binary = {.type = 'x', .value.bytes = slice_text("10")};
    assert_false(field_equal(&text, &wide));
    assert_false(field_equal(&text, &binary));
    struct field yes = {.type = 't', .value.boolean = true}, no = {.type = 't'};
    assert_false(field_equal(&yes, &no));
    assert_true(field_equal(&yes, &yes));
}

static void test_fields_equal(void **state)
{
    (void)state;
    uint8_t left[64], right[64];
    struct slice name;
    struct writer a = writer_of(left, sizeof left), b = writer_of(right, sizeof right);
    fields_put_integer(&a, "one", 1);
    fields_put_text(&a, "two", slice_text("2"));
    fields_put_text(&b, "two", slice_text("2"));
    struct field narrow = integer("one", 'b', 1);
    fields_put(&b, &narrow);
    assert_true(fields_equal(written(&a), written(&b), &name));
    assert_true(fields_hash(written(&a), 1) == fields_hash(written(&b), 1));
    assert_true(fields_hash(written(&a), 1) != fields_hash(written(&a), 2));

    fields_put_boolean(&b, "three", true);
    assert_false(fields_equal(written(&a), written(&b), &name));
    assert_true(fields_hash(written(&a), 1) != fields_hash(written(&b), 1));
    assert_true(slice_is(name, "three"));
    fields_put_boolean(&a, "three", false);
    assert_false(fields_equal(written(&a), written(&b), &name));
    assert_true(slice_is(name, "three"));
    fields_put_boolean(&a, "three", true); /* the later counts */
    assert_true(fields_equal(written(&a), written(&b), &name));
    assert_true(fields_equal(written(&b), written(&a), &name));
    assert_true(fields_hash(written(&a), 1) == fields_hash(written(&b), 1));
}

/* Large tables in opposite orders: quick, and right. */
static void test_large_tables_are_equal(void **state)
{
    (void)state;
    enum { COUNT = 10000 };
    size_t room = COUNT * 16;
    uint8_t *left = malloc(room), *right = malloc(room);
    struct writer a = writer_of(left, room), b = writer_of(right, room);
    struct slice differs;
    for (int i = 0; i < COUNT; i++) {
        char name[8];
        snprintf(name, sizeof name, "%d", i);
        fields_put_integer(&a, name, i);
        snprintf(name, sizeof name, "%d", COUNT - 1 - i);
        fields_put_integer(&b, name, COUNT - 1 - i);
    }
    assert_true(fields_equal(written(&a), written(&b), &differs));
    right[3 + 4 + 7] ^= 1; /* the last byte of the first value, whose name is "9999" */
    assert_false(fields_equal(written(&a), written(&b), &differs));
    free(left);
    free(right);
}

static void test_description(void **state)
{
    (void)state;
    char text[100];
    struct field field = integer("", 'I', 10);
    assert_string_equal(field_describe(&field, text, sizeof text),
                        "the value '10' of type 'signedint'");
    field = (struct field){.type = 'S', .value.bytes = slice_text("drop-head")};
    assert_string_equal(field_describe(&field, text, sizeof text),
                        "the value 'drop-head' of type 'longstr'");
    field = (struct field){.type = 't', .value.boolean = true};
    assert_string_equal(field_describe(&field, text, sizeof text),
                        "the value 'true' of type 'bool'");
    char small[12];
    assert_string_equal(field_describe(&field, small, sizeof small), "the value '");
}

static void test_builder_knows_its_room(void **state)
{
    (void)state;
    uint8_t memory[12];
    struct writer w = writer_of(memory, sizeof memory);
    size_t mark = fields_begin(&w, "table", 'F');
    fields_put_integer(&w, "a", 1);
    assert_true(w.failed);
    fields_end(&w, mark); /* harmless */
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_every_type_comes_back),
        cmocka_unit_test(test_last_of_a_name),
        cmocka_unit_test(test_checked_bytes),
        cmocka_unit_test(test_depth_is_limited),
        cmocka_unit_test(test_field_equal),
        cmocka_unit_test(test_fields_equal),
        cmocka_unit_test(test_large_tables_are_equal),
        cmocka_unit_test(test_description),
        cmocka_unit_test(test_builder_knows_its_room),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
