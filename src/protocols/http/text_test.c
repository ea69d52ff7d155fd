#include "protocols/http/json.h"
#include "protocols/http/router.h"

#include "message/fields.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

/* ---- text ---- */

static void test_text_grows_within_its_account(void **state)
{
    struct account account;
    struct http_text text = {.account = &account};
    char much[2000];

    (void)state;
    account_init(&account, NULL, 4096);
    memset(much, 'm', sizeof much);
    for (int i = 0; i < 2; i++)
        assert_int_equal(http_text_append(&text, slice_of(much, sizeof much)), 0);
    assert_int_equal(text.size, 4000);
    assert_int_equal(http_text_append(&text, slice_of(much, sizeof much)), E_MEMORY);
    assert_int_equal(http_text_append(&text, slice_of(much, 1)), E_MEMORY); /* and stays so */
    assert_int_equal(text.size, 4000);
    http_text_clear(&text);
    assert_int_equal(http_text_append(&text, slice_of(much, 1)), 0);
    http_text_free(&text);
    assert_int_equal(account.used, 0);
    account_fini(&account);
}

static void test_printing_is_bounded(void **state)
{
    struct http_text text = {0};
    char long_word[1100];

    (void)state;
    memset(long_word, 'w', sizeof long_word);
    long_word[sizeof long_word - 1] = 0;
    http_text_print(&text, "%d", 17);
    assert_true(slice_is(http_text_slice(&text), "17"));
    http_text_print(&text, "%s", long_word);
    assert_true(text.failed);
    http_text_free(&text);
}

static void test_percent(void **state)
{
    static const struct {
        const char *from, *to;
    } good[] = {{"", ""}, {"abc", "abc"}, {"%2F", "/"}, {"%2fa%41+", "/aA+"}, {"%e2%82%ac", "€"}};
    static const char *const bad[] = {"%", "%4", "%4g", "a%", "%%41"};
    char bytes[32];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        memcpy(bytes, good[i].from, strlen(good[i].from) + 1);
        ssize_t size = http_percent_decode(bytes, strlen(bytes));
        assert_int_equal(size, strlen(good[i].to));
        assert_memory_equal(bytes, good[i].to, (size_t)size);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        memcpy(bytes, bad[i], strlen(bad[i]) + 1);
        assert_int_equal(http_percent_decode(bytes, strlen(bytes)), E_INVALID);
    }
}

static void test_base64(void **state)
{
    static const struct {
        const char *from, *to;
    } good[] = {{"", ""},
                {"Zg==", "f"},
                {"Zm8=", "fo"},
                {"Zm9v", "foo"},
                {"Zm9vYg==", "foob"},
                {"Zm9vYmE=", "fooba"},
                {"+/+/", "\xfb\xff\xbf"},
                {"Zm9vYmFy", "foobar"}};
    static const char *const bad[] = {
        "Z", "Zg", "Zg=", "====", "Zg=v", "Z===", "Zm9v Zm", "Zm9\x01"};
    uint8_t bytes[6];

    (void)state;
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        ssize_t size = http_base64_decode(slice_text(good[i].from), bytes, sizeof bytes);
        assert_int_equal(size, strlen(good[i].to));
        assert_memory_equal(bytes, good[i].to, (size_t)size);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_int_equal(http_base64_decode(slice_text(bad[i]), bytes, sizeof bytes), E_INVALID);
    assert_int_equal(http_base64_decode(slice_text("Zm9vYmFyYQ=="), bytes, sizeof bytes), E_LIMIT);
    assert_int_equal(http_base64_decode(slice_text("Zm9vYmFy"), bytes, 5), E_LIMIT);
}

/* ---- routes ---- */

static void nothing(struct exchange *exchange)
{
    (void)exchange;
}

static const struct http_route routes[] = {
    {"GET", "api/queues", HTTP_USER, 0, nothing},
    {"GET", "api/queues/*/*", HTTP_USER, 0, nothing},
    {"PUT", "api/queues/*/*", HTTP_USER, 0, nothing},
    {"POST", "api/queues/*/*/actions", HTTP_USER, 0, nothing},
};

static struct http_match match(const char *method, const char *path)
{
    struct http_match match;

    http_match(routes, 4, slice_text(method), slice_text(path), &match);
    return match;
}

static void test_routes(void **state)
{
    (void)state;
    assert_ptr_equal(match("GET", "/api/queues").route, &routes[0]);
    assert_ptr_equal(match("HEAD", "/api/queues/").route, &routes[0]);
    struct http_match found = match("PUT", "/api/queues/%2F/a.b");
    assert_ptr_equal(found.route, &routes[2]);
    assert_int_equal(found.parameter_count, 2);
    assert_true(slice_is(found.parameters[0], "%2F") && slice_is(found.parameters[1], "a.b"));
    assert_ptr_equal(match("POST", "/api/queues/v/q/actions").route, &routes[3]);
    found = match("DELETE", "/api/queues/v/q");
    assert_null(found.route);
    assert_true(found.path_is_known);
    assert_string_equal(found.allowed, "HEAD, GET, PUT, OPTIONS");
    static const char *const unknown[] = {"/",
                                          "",
                                          "/api",
                                          "/api/queues//q",
                                          "/api/queues/v",
                                          "/api/queues//",
                                          "/API/queues",
                                          "//api/queues",
                                          "/api/queues/v/q/other",
                                          "api/queues/v/q/actions/more"};
    for (size_t i = 0; i < sizeof unknown / sizeof unknown[0]; i++)
        assert_false(match("GET", unknown[i]).path_is_known);
}

/* ---- JSON ---- */

static void assert_json(json_t *value, const char *expected)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);

    assert_non_null(text);
    assert_string_equal(text, expected);
    free(text);
    json_decref(value);
}

static void test_text_values(void **state)
{
    (void)state;
    assert_json(http_json_text(slice_text("")), "\"\"");
    assert_json(http_json_text(slice_of(NULL, 0)), "\"\"");
    assert_json(http_json_text(slice_text("a\"\n€\xf0\x9f\x98\x80")),
                "\"a\\\"\\n€\xf0\x9f\x98\x80\"");
    assert_json(http_json_text(slice_of("a\0b", 3)), "\"a\\u0000b\"");
    /* a byte alone, one that is cut off, an overlong one, a surrogate, one beyond the end */
    assert_json(http_json_text(slice_text("a\xff"
                                          "b")),
                "\"a\xef\xbf\xbd"
                "b\"");
    assert_json(http_json_text(slice_text("\xe2\x82")), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    assert_json(http_json_text(slice_text("\xc0\x80")), "\"\xef\xbf\xbd\xef\xbf\xbd\"");
    assert_json(http_json_text(slice_text("\xed\xa0\x80")),
                "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    assert_json(http_json_text(slice_text("\xf4\x90\x80\x80")),
                "\"\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
}

static void test_tables(void **state)
{
    uint8_t bytes[2000];
    struct writer w = writer_of(bytes, sizeof bytes);

    (void)state;
    fields_put_integer(&w, "n", -7);
    fields_put_boolean(&w, "b", true);
    fields_put_text(&w, "t", slice_text("x"));
    size_t array = fields_begin(&w, "a", 'A');
    fields_put_value(&w, &(struct field){.type = 'V'});
    size_t table = fields_begin(&w, NULL, 'F');
    fields_put_integer(&w, "deep", 1);
    fields_end(&w, table);
    fields_put_value(&w, &(struct field){.type = 'd', .value.real = 0.5});
    fields_end(&w, array);
    fields_put(&w,
               &(struct field){.name = slice_text("d"), .type = 'D', .value.decimal = {2, 150}});
    fields_put_text(&w, "\xff", slice_text("a name that cannot be told"));
    assert_false(w.failed);
    assert_json(http_json_table(slice_of(bytes, writer_size(&w))),
                "{\"n\":-7,\"b\":true,\"t\":\"x\",\"a\":[null,{\"deep\":1},0.5],\"d\":1.5,"
                "\"\xef\xbf\xbd\":null}");
    assert_json(http_json_table(slice_of(NULL, 0)), "{}");
}

static void test_the_deepest_table(void **state)
{
    uint8_t bytes[4000];
    struct writer w = writer_of(bytes, sizeof bytes);
    size_t marks[FIELDS_DEPTH_MAX];
    struct failure failure;

    (void)state;
    for (size_t i = 0; i < FIELDS_DEPTH_MAX; i++)
        marks[i] = fields_begin(&w, "t", 'F');
    for (size_t i = FIELDS_DEPTH_MAX; i-- > 0;)
        fields_end(&w, marks[i]);
    struct slice table = slice_of(bytes, writer_size(&w));
    assert_int_equal(fields_check(table, &failure), 0);
    json_t *value = http_json_table(table), *at = value;
    size_t depth = 0;
    while ((at = json_object_get(at, "t")) != NULL)
        depth++;
    assert_int_equal(depth, FIELDS_DEPTH_MAX);
    json_decref(value);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_text_grows_within_its_account),
        cmocka_unit_test(test_printing_is_bounded),
        cmocka_unit_test(test_percent),
        cmocka_unit_test(test_base64),
        cmocka_unit_test(test_routes),
        cmocka_unit_test(test_text_values),
        cmocka_unit_test(test_tables),
        cmocka_unit_test(test_the_deepest_table),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
