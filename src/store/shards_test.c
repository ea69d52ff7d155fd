/* What is found in data directories, and what is refused. */
#include "store/local/shards.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char root[64];

static void make(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(mkdir(path, 0750), 0);
}

static void discard(const char *name)
{
    char path[128];
    snprintf(path, sizeof path, "%s/%s", root, name);
    assert_int_equal(rmdir(path), 0);
}

static int setup(void **state)
{
    (void)state;
    snprintf(root, sizeof root, "/tmp/shards-test-XXXXXX");
    return mkdtemp(root) ? 0 : -1;
}

static int teardown(void **state)
{
    (void)state;
    return rmdir(root);
}

static void finds(unsigned expected)
{
    struct failure failure = {0};
    unsigned count = 99;
    assert_int_equal(local_shards_count(root, &count, &failure), 0);
    assert_int_equal(count, expected);
}

static void refuses(int code, const char *text)
{
    struct failure failure = {0};
    unsigned count;
    assert_int_equal(local_shards_count(root, &count, &failure), code);
    assert_int_equal(failure.code, code);
    if (!strstr(failure.text, text))
        fail_msg("'%s' is not in '%s'", text, failure.text);
}

static void test_count(void **state)
{
    (void)state;
    struct failure failure = {0};
    unsigned count = 99;

    assert_int_equal(local_shards_count("/tmp/there/is/no/such", &count, &failure), 0);
    assert_int_equal(count, 0);
    finds(0);
    make("shard-1");
    finds(1);
    make("shard-01"); /* nobody's */
    make("shard-2x");
    make("shard-");
    finds(1);
    make("shard-2");
    make("shard-10");
    refuses(E_NOT_FOUND, "shard-3 is missing");
    discard("shard-10");
    finds(2);
    discard("shard-1");
    refuses(E_NOT_FOUND, "shard-1 is missing");
    discard("shard-2");
    discard("shard-01");
    discard("shard-2x");
    discard("shard-");
}

static void test_refused(void **state)
{
    (void)state;
    make("meta");
    refuses(E_VERSION, "before there were shards");
    discard("meta");
    make("shard-99999999999999999999");
    refuses(E_LIMIT, "4096");
    discard("shard-99999999999999999999");
}

static void test_path(void **state)
{
    (void)state;
    struct failure failure = {0};
    char path[16];

    assert_int_equal(local_shard_path("/data", 7, path, sizeof path, &failure), 0);
    assert_string_equal(path, "/data/shard-7");
    assert_int_equal(local_shard_path("/data", 4000, path, sizeof path, &failure), E_INVALID);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_count, setup, teardown),
        cmocka_unit_test_setup_teardown(test_refused, setup, teardown),
        cmocka_unit_test(test_path),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
