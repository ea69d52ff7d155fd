#include "loop/processors.h"

#include "loop/real.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdint.h>
#include <stdio.h>
#include <cmocka.h>

#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

static void quotas_are_read(void **state)
{
    (void)state;
    assert_int_equal(processors_of_quota("max 100000\n"), 0);
    assert_int_equal(processors_of_quota("200000 100000\n"), 2);
    assert_int_equal(processors_of_quota("250000 100000\n"), 3);
    assert_int_equal(processors_of_quota("1000 100000\n"), 1);
    assert_int_equal(processors_of_quota(""), 0);
    assert_int_equal(processors_of_quota("100000"), 0);
    assert_int_equal(processors_of_quota("100000 0"), 0);
    assert_int_equal(processors_of_quota("0 100000"), 0);
    assert_int_equal(processors_of_quota("100000 max"), 0);
    assert_int_equal(processors_of_quota("99999999999999999999 1"), 0);
    assert_int_equal(processors_of_quota("18446744073709551615 1"), 0);
}

static void groups_are_found(void **state)
{
    char path[32];
    char shorter[6];

    (void)state;
    assert_true(processors_group("0::/\n", path, sizeof path));
    assert_string_equal(path, "/");
    assert_true(processors_group("0::/system.slice/sluice.service\n", path, sizeof path));
    assert_string_equal(path, "/system.slice/sluice.service");
    assert_true(processors_group("2:cpu:/x\n1:memory:/y\n0::/z\n", path, sizeof path));
    assert_string_equal(path, "/z");
    assert_true(processors_group("0::/system.slice", shorter, sizeof shorter));
    assert_string_equal(shorter, "/syst");
    assert_false(processors_group("2:cpu:/x\n", path, sizeof path));
    assert_false(processors_group("", path, sizeof path));
    assert_false(processors_group("0::", path, sizeof path));
}

struct binding {
    int result;
    cpu_set_t set, set_of_helper;
    struct loop *loop;
    struct job job;
};

static void helper_looks(struct job *job)
{
    struct binding *binding = CONTAINER_OF(job, struct binding, job);

    sched_getaffinity(0, sizeof binding->set_of_helper, &binding->set_of_helper);
}

static void helper_done(struct job *job)
{
    loop_stop(job->loop);
}

static void *bind_last(void *argument)
{
    struct binding *binding = argument;

    binding->result = loop_bind(binding->loop, processors_count() - 1, 1);
    sched_getaffinity(0, sizeof binding->set, &binding->set);
    if (loop_help(binding->loop, &binding->job) == 0)
        loop_run(binding->loop);
    return NULL;
}

static void a_thread_is_bound_to_one(void **state)
{
    struct failure failure;
    struct binding binding = {.loop = loop_new_real(&failure),
                              .job = {.work = helper_looks, .done = helper_done}};
    cpu_set_t all;
    pthread_t thread;

    (void)state;
    assert_non_null(binding.loop);
    assert_int_equal(sched_getaffinity(0, sizeof all, &all), 0);
    assert_true(processors_count() >= 1);
    assert_true(processors_count() <= (unsigned)CPU_COUNT(&all));
    assert_int_equal(pthread_create(&thread, NULL, bind_last, &binding), 0);
    pthread_join(thread, NULL);
    loop_free(binding.loop);
    if (processors_count() < (unsigned)CPU_COUNT(&all)) { /* there is a quota */
        assert_int_equal(binding.result, E_UNSUPPORTED);
        assert_true(CPU_EQUAL(&binding.set, &all));
        return;
    }
    assert_true(binding.result >= 0 && CPU_ISSET((size_t)binding.result, &all));
    assert_true(CPU_ISSET((size_t)binding.result, &binding.set));
    assert_int_equal(CPU_COUNT(&binding.set), 1);
    assert_true(CPU_EQUAL(&binding.set_of_helper, &all));
}

static void few_processors_are_left_to_the_system(void **state)
{
    cpu_set_t before, after;

    (void)state;
    sched_getaffinity(0, sizeof before, &before);
    assert_int_equal(processors_bind(0, processors_count() + 1), E_UNSUPPORTED);
    assert_int_equal(processors_bind(processors_count(), 1), E_UNSUPPORTED);
    sched_getaffinity(0, sizeof after, &after);
    assert_true(CPU_EQUAL(&before, &after));
}

struct slicing {
    int result;
    uint64_t maker_ns, made_ns, again_ns; /* as the system has it */
};

static uint64_t slice_now_ns(void)
{
    uint64_t attributes[6] = {0}; /* sched_setattr(2): the fourth is the run time */

    assert_int_equal(syscall(SYS_sched_getattr, 0, attributes, sizeof attributes, 0), 0);
    return attributes[3];
}

static void *made_thread(void *argument)
{
    struct slicing *slicing = argument;

    slicing->made_ns = slice_now_ns();
    int result = processors_set_slice(0);
    assert_int_equal(result, 0);
    slicing->again_ns = slice_now_ns();
    return NULL;
}

static void *making_thread(void *argument)
{
    struct slicing *slicing = argument;
    pthread_t thread;

    slicing->result = processors_set_slice(PROCESSORS_PROMPT_NS);
    slicing->maker_ns = slice_now_ns();
    if (slicing->result == 0 && pthread_create(&thread, NULL, made_thread, slicing) == 0)
        pthread_join(thread, NULL);
    return NULL;
}

static void slices_are_those_of_threads_made_later(void **state)
{
    struct slicing slicing = {0};
    uint64_t before_ns = slice_now_ns();
    pthread_t thread;

    (void)state;
    assert_int_equal(pthread_create(&thread, NULL, making_thread, &slicing), 0);
    pthread_join(thread, NULL);
    assert_int_equal(slice_now_ns(), before_ns); /* it was not about this thread */
    if (slicing.result != 0) { /* a system that does not know them, or does not allow it */
        assert_true(slicing.result == E_UNSUPPORTED || slicing.result == E_DENIED);
        return;
    }
    assert_int_equal(slicing.maker_ns, PROCESSORS_PROMPT_NS);
    assert_int_equal(slicing.made_ns, PROCESSORS_PROMPT_NS);
    assert_int_not_equal(slicing.again_ns, PROCESSORS_PROMPT_NS);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(quotas_are_read),
        cmocka_unit_test(groups_are_found),
        cmocka_unit_test(a_thread_is_bound_to_one),
        cmocka_unit_test(few_processors_are_left_to_the_system),
        cmocka_unit_test(slices_are_those_of_threads_made_later),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
