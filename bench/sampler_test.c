#include "sampler.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#include <cmocka.h>

static void burn(double seconds)
{
    struct timespec spent;
    do
        clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &spent);
    while ((double)spent.tv_sec + (double)spent.tv_nsec / 1e9 < seconds);
}

static void sees_cpu_and_memory_of_the_family(void **state)
{
    (void)state;
    struct usage before, during, after;
    struct failure failure;
    assert_int_equal(sampler_read(&before, getpid(), true, &failure), 0);
    assert_int_equal(before.processes, 1);
    assert_true(before.resident_bytes > 100000);
    assert_true(before.proportional_bytes > 0);
    assert_true(before.proportional_bytes <= before.resident_bytes);

    int ready[2], stop[2];
    assert_int_equal(pipe(ready), 0);
    assert_int_equal(pipe(stop), 0);
    pid_t child = fork();
    if (child == 0) {
        char byte = 0;
        burn(0.1);
        _exit(write(ready[1], &byte, 1) == 1 && read(stop[0], &byte, 1) == 1 ? 0 : 1);
    }
    char byte = 0;
    assert_int_equal(read(ready[0], &byte, 1), 1);
    assert_int_equal(sampler_read(&during, getpid(), false, &failure), 0);
    assert_int_equal(during.processes, 2);
    assert_int_equal(during.proportional_bytes, 0);
    uint64_t cpu_ns = during.user_ns + during.system_ns - before.user_ns - before.system_ns;
    assert_true(cpu_ns >= 80000000);

    assert_int_equal(write(stop[1], &byte, 1), 1);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(sampler_read(&after, getpid(), false, &failure), 0);
    assert_int_equal(after.processes, 1);
    assert_true(after.user_ns + after.system_ns >= during.user_ns + during.system_ns);
}

static void tells_a_missing_process(void **state)
{
    (void)state;
    struct usage usage;
    struct failure failure;
    pid_t child = fork();
    if (child == 0)
        _exit(0);
    assert_int_equal(waitpid(child, NULL, 0), child);
    assert_int_equal(sampler_read(&usage, child, false, &failure), E_NOT_FOUND);
    assert_non_null(strstr(failure.text, "no process"));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(sees_cpu_and_memory_of_the_family),
        cmocka_unit_test(tells_a_missing_process),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
