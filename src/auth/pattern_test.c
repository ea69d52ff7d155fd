#include "auth/pattern.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>
#include <time.h>

static bool matches(const char *text, const char *name)
{
    struct pattern *pattern;
    assert_int_equal(pattern_new(slice_text(text), &pattern, NULL), 0);
    assert_true(slice_is(pattern_text(pattern), text));
    bool result = pattern_matches(pattern, slice_text(name));
    pattern_free(pattern);
    return result;
}

static void test_as_rabbitmq_matches(void **state)
{
    (void)state;
    assert_true(matches(".*", ""));
    assert_true(matches(".*", "anything"));
    assert_true(matches("", ""));
    assert_false(matches("", "a"));
    assert_true(matches("^$", ""));
    assert_false(matches("^$", "amq.default"));
    assert_true(matches("orders", "my-orders-2")); /* anchored nowhere */
    assert_true(matches("^orders\\.", "orders.eu"));
    assert_false(matches("^orders\\.", "my.orders.eu"));
    assert_true(matches("^(amq\\.gen.*|amq\\.default)$", "amq.gen-x"));
    assert_false(matches("^(?!amq\\.).*", "amq.topic"));
    assert_true(matches("\xc3\xa9", "caf\xc3\xa9")); /* bytes, as they are */
}

static void test_wrong_patterns_say_where(void **state)
{
    (void)state;
    struct pattern *pattern = NULL;
    struct failure failure;
    assert_int_equal(pattern_new(slice_text("ab(c"), &pattern, &failure), E_INVALID);
    assert_non_null(strstr(failure.text, "'ab(c' is wrong at character 5: missing closing"));
    assert_int_equal(pattern_new(slice_text("*"), &pattern, &failure), E_INVALID);

    char longest[PATTERN_TEXT_MAX + 1];
    memset(longest, 'a', sizeof longest);
    assert_int_equal(pattern_new(slice_of(longest, sizeof longest), &pattern, &failure), E_INVALID);
    assert_int_equal(pattern_new(slice_of(longest, sizeof longest - 1), &pattern, &failure), 0);
    pattern_free(pattern);
    memset(longest, '(', sizeof longest);
    assert_int_equal(pattern_new(slice_of(longest, sizeof longest - 1), &pattern, &failure),
                     E_INVALID);
    pattern_free(NULL);
}

/* A pattern that would backtrack for ages gives up and matches nothing. */
static void test_runaway(void **state)
{
    (void)state;
    char name[255];
    memset(name, 'a', sizeof name);
    struct pattern *pattern;
    assert_int_equal(pattern_new(slice_text("^(a+)+(a+)+(a+)+$b"), &pattern, NULL), 0);
    clock_t before = clock();
    assert_false(pattern_matches(pattern, slice_of(name, sizeof name)));
    assert_true((double)(clock() - before) / CLOCKS_PER_SEC < 1);
    pattern_free(pattern);

    assert_int_equal(pattern_new(slice_text("^(a+)+$"), &pattern, NULL), 0);
    name[254] = 'b';
    before = clock();
    assert_false(pattern_matches(pattern, slice_of(name, sizeof name)));
    assert_true((double)(clock() - before) / CLOCKS_PER_SEC < 1);
    name[254] = 'a';
    assert_true(pattern_matches(pattern, slice_of(name, sizeof name)));
    pattern_free(pattern);

    /* the limit is ours: PCRE2's own would let this one go on to its second half */
    assert_false(matches("^(a+)+$|^a", "aaaaaaaaaaaaaaaaaab"));
    assert_true(matches("^(a+)+$|^a", "aaaab"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_as_rabbitmq_matches),
        cmocka_unit_test(test_wrong_patterns_say_where),
        cmocka_unit_test(test_runaway),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
