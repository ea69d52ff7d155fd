#include "histogram.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct histogram *new_histogram(void)
{
    struct histogram *h = malloc(sizeof *h);
    assert_non_null(h);
    histogram_reset(h);
    return h;
}

static void empty_is_zero(void **state)
{
    (void)state;
    struct histogram *h = new_histogram();
    assert_int_equal(histogram_quantile(h, 0.5), 0);
    assert_true(histogram_mean(h) == 0);
    free(h);
}

static void small_values_are_exact(void **state)
{
    (void)state;
    struct histogram *h = new_histogram();
    for (uint64_t value = 1; value <= 100; value++)
        histogram_add(h, value, 1);
    assert_int_equal(histogram_quantile(h, 0), 1);
    assert_int_equal(histogram_quantile(h, 0.5), 50);
    assert_int_equal(histogram_quantile(h, 0.99), 99);
    assert_int_equal(histogram_quantile(h, 1), 100);
    assert_int_equal(h->min, 1);
    assert_int_equal(h->max, 100);
    assert_true(histogram_mean(h) == 50.5);
    free(h);
}

/* Every bucket's values are consecutive, and the error stays under 1/128. */
static void buckets_are_ordered_and_narrow(void **state)
{
    (void)state;
    uint32_t last = 0;
    for (uint64_t value = 1; value < (uint64_t)1 << 62; value += value / 300 + 1) {
        uint32_t bucket = histogram_bucket(value);
        assert_true(bucket >= last && bucket < HISTOGRAM_BUCKETS);
        last = bucket;
        struct histogram *h = new_histogram();
        histogram_add(h, value, 1);
        histogram_add(h, UINT64_MAX, 1);
        uint64_t told = histogram_quantile(h, 0.5);
        assert_true(told >= value && told - value <= value / 128);
        free(h);
    }
    assert_int_equal(histogram_bucket(UINT64_MAX), HISTOGRAM_BUCKETS - 1);
}

static void never_above_the_largest(void **state)
{
    (void)state;
    struct histogram *h = new_histogram();
    histogram_add(h, 1000001, 3);
    assert_int_equal(histogram_quantile(h, 0.999), 1000001);
    free(h);
}

static void counts_and_merging(void **state)
{
    (void)state;
    struct histogram *a = new_histogram();
    struct histogram *b = new_histogram();
    histogram_add(a, 10, 90);
    histogram_add(b, 1000000, 10);
    histogram_merge(a, b);
    assert_int_equal(a->count, 100);
    assert_int_equal(histogram_quantile(a, 0.9), 10);
    assert_true(histogram_quantile(a, 0.91) > 990000);
    assert_int_equal(a->min, 10);
    assert_int_equal(a->max, 1000000);
    free(a);
    free(b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(empty_is_zero),
        cmocka_unit_test(small_values_are_exact),
        cmocka_unit_test(buckets_are_ordered_and_narrow),
        cmocka_unit_test(never_above_the_largest),
        cmocka_unit_test(counts_and_merging),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
