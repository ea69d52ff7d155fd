#include "sequence.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

struct check {
    struct sequence sequence;
    struct sequence_faults faults;
    uint64_t next[2];
};

static void see(struct check *c, uint64_t number)
{
    sequence_add(&c->sequence, &c->next[0], number, false, &c->faults);
}

static void in_order(void **state)
{
    (void)state;
    struct check c = {0};
    for (uint64_t i = 0; i < 1000; i++)
        see(&c, i);
    assert_int_equal(sequence_lost(&c.sequence, 1000), 0);
    assert_int_equal(sequence_lost(&c.sequence, 1003), 3);
    assert_int_equal(c.faults.duplicated + c.faults.reordered + c.faults.redelivered, 0);
    assert_null(c.sequence.window);
    sequence_fini(&c.sequence);
}

static void a_gap_is_a_loss(void **state)
{
    (void)state;
    struct check c = {0};
    for (uint64_t i = 0; i < 100000; i++) {
        if (i != 10 && i != 70000)
            see(&c, i);
    }
    assert_int_equal(sequence_lost(&c.sequence, 100000), 2);
    assert_int_equal(sequence_lost(&c.sequence, 100), 1);
    assert_int_equal(c.faults.reordered, 0);
    sequence_fini(&c.sequence);
}

static void late_is_reordered_not_lost(void **state)
{
    (void)state;
    struct check c = {0};
    see(&c, 0);
    see(&c, 2);
    see(&c, 1);
    see(&c, 3);
    assert_int_equal(c.faults.reordered, 1);
    assert_int_equal(c.faults.duplicated, 0);
    assert_int_equal(sequence_lost(&c.sequence, 4), 0);
    assert_int_equal(c.sequence.base, 4);
    sequence_fini(&c.sequence);
}

static void twice_is_a_duplicate(void **state)
{
    (void)state;
    struct check c = {0};
    see(&c, 0);
    see(&c, 0);
    see(&c, 2);
    see(&c, 2);
    assert_int_equal(c.faults.duplicated, 2);
    assert_int_equal(c.faults.reordered, 0);
    assert_int_equal(sequence_lost(&c.sequence, 3), 1);
    sequence_fini(&c.sequence);
}

static void redelivered_may_repeat(void **state)
{
    (void)state;
    struct check c = {0};
    see(&c, 0);
    sequence_add(&c.sequence, &c.next[0], 0, true, &c.faults);
    sequence_add(&c.sequence, &c.next[0], 1, true, &c.faults);
    assert_int_equal(c.faults.redelivered, 2);
    assert_int_equal(c.faults.duplicated + c.faults.reordered, 0);
    assert_int_equal(sequence_lost(&c.sequence, 2), 0);
    sequence_fini(&c.sequence);
}

/* Two consumers of one queue, each in order, the second far behind. */
static void shared_queue(void **state)
{
    (void)state;
    struct check c = {0};
    for (uint64_t i = 0; i < 50000; i += 2)
        sequence_add(&c.sequence, &c.next[0], i, false, &c.faults);
    for (uint64_t i = 1; i < 50000; i += 2)
        sequence_add(&c.sequence, &c.next[1], i, false, &c.faults);
    assert_int_equal(c.faults.reordered + c.faults.duplicated, 0);
    assert_int_equal(sequence_lost(&c.sequence, 50000), 0);
    assert_int_equal(c.sequence.base, 50000);
    sequence_add(&c.sequence, &c.next[1], 50001, false, &c.faults);
    sequence_add(&c.sequence, &c.next[1], 50000, false, &c.faults);
    assert_int_equal(c.faults.reordered, 1);
    sequence_fini(&c.sequence);
}

static void too_far_ahead_is_foreign(void **state)
{
    (void)state;
    struct check c = {0};
    see(&c, 0);
    see(&c, SEQUENCE_WINDOW_MAX + 1);
    assert_int_equal(c.faults.foreign, 1);
    assert_null(c.sequence.window);
    see(&c, SEQUENCE_WINDOW_MAX);
    assert_int_equal(c.faults.foreign, 1);
    assert_int_equal(sequence_lost(&c.sequence, SEQUENCE_WINDOW_MAX + 1), SEQUENCE_WINDOW_MAX - 1);
    sequence_fini(&c.sequence);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(in_order),
        cmocka_unit_test(a_gap_is_a_loss),
        cmocka_unit_test(late_is_reordered_not_lost),
        cmocka_unit_test(twice_is_a_duplicate),
        cmocka_unit_test(redelivered_may_repeat),
        cmocka_unit_test(shared_queue),
        cmocka_unit_test(too_far_ahead_is_foreign),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
