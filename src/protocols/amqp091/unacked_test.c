#include "protocols/amqp091/unacked.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>

#include <cmocka.h>

static struct catalog_queue *const QUEUE = (struct catalog_queue *)8; /* never looked into */

static void add(struct unacked *u, uint64_t tag)
{
    assert_int_equal(unacked_add(u, tag, (struct lease){QUEUE, tag}, NULL), 0);
}

static void test_in_order(void **state)
{
    (void)state;
    struct account account;
    struct unacked u;

    account_init(&account, NULL, 0);
    unacked_init(&u, &account);
    assert_int_equal(unacked_next(&u, 1), 0);
    assert_null(unacked_find(&u, 1));
    for (uint64_t tag = 1; tag <= 1000; tag++)
        add(&u, tag);
    unacked_check(&u);
    for (uint64_t tag = 1; tag <= 1000; tag++) {
        assert_true(unacked_find(&u, tag)->lease.sequence == tag);
        assert_true(unacked_next(&u, 0) == tag);
        unacked_remove(&u, tag);
        assert_null(unacked_find(&u, tag));
    }
    assert_true(u.count == 0);
    unacked_fini(&u);
    account_fini(&account);
}

/* One message that nobody acknowledges must not keep what came after it. */
static void test_one_is_held(void **state)
{
    (void)state;
    struct account account;
    struct unacked u;

    account_init(&account, NULL, 0);
    unacked_init(&u, &account);
    add(&u, 1);
    for (uint64_t tag = 2; tag <= 1000000; tag++) {
        add(&u, tag);
        unacked_remove(&u, tag);
    }
    unacked_check(&u);
    assert_true(account.used < 128 * 1024);
    assert_true(unacked_next(&u, 1) == 1);
    assert_true(unacked_next(&u, 2) == 0);
    unacked_remove(&u, 1);
    unacked_fini(&u);
    account_fini(&account);
}

static void test_random(void **state)
{
    (void)state;
    struct account account;
    struct unacked u;
    static bool there[5000];

    account_init(&account, NULL, 0);
    unacked_init(&u, &account);
    srand(1);
    for (int i = 0; i < 200000; i++) {
        uint64_t tag = 1 + (uint64_t)rand() % 4999;
        assert_int_equal(unacked_find(&u, tag) != NULL, there[tag]);
        if (there[tag])
            unacked_remove(&u, tag);
        else
            add(&u, tag);
        there[tag] = !there[tag];
        uint64_t next = tag;
        while (next < 5000 && !there[next])
            next++;
        assert_true(unacked_next(&u, tag) == (next < 5000 ? next : 0));
        if (i % 1000 == 0)
            unacked_check(&u);
    }
    for (uint64_t tag; (tag = unacked_next(&u, 0));)
        unacked_remove(&u, tag);
    unacked_fini(&u);
    account_fini(&account);
}

static void test_no_memory(void **state)
{
    (void)state;
    struct account account;
    struct unacked u;

    account_init(&account, NULL, 4096);
    unacked_init(&u, &account);
    for (uint64_t tag = 1; tag < UNACKED_CHUNK_TAGS; tag++)
        add(&u, tag);
    assert_int_equal(unacked_add(&u, UNACKED_CHUNK_TAGS, (struct lease){QUEUE, 0}, NULL), E_MEMORY);
    unacked_check(&u);
    for (uint64_t tag = 1; tag < UNACKED_CHUNK_TAGS; tag++)
        unacked_remove(&u, tag);
    unacked_fini(&u);
    account_fini(&account);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_in_order),
        cmocka_unit_test(test_one_is_held),
        cmocka_unit_test(test_random),
        cmocka_unit_test(test_no_memory),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
