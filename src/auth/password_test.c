#include "auth/password.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdlib.h>

static const struct password_cost cheap = {.memory_kib = 8, .rounds = 1};

static void set(struct password_job *job, bool verify, const char *password)
{
    job->verify = verify;
    job->cost = cheap;
    memset(job->salt, 0x5a, sizeof job->salt);
    job->password_size = strlen(password);
    memcpy(job->password, password, job->password_size);
}

static int run(struct password_job *job, bool verify, const char *password)
{
    set(job, verify, password);
    job->result = 1;
    password_work(&job->job);
    for (size_t i = 0; i < sizeof job->password; i++)
        assert_int_equal(job->password[i], 0); /* wiped, whatever came of it */
    return job->result;
}

static struct password_job *job_new(void)
{
    return calloc(1, sizeof(struct password_job));
}

static void test_right_and_wrong(void **state)
{
    (void)state;
    struct password_job *job = job_new();
    assert_int_equal(run(job, false, "guest"), 0);
    assert_int_equal(strncmp(job->hash, "$argon2id$v=19$m=8,t=1,p=1$", 27), 0);
    assert_int_equal(run(job, true, "guest"), 0);
    assert_int_equal(run(job, true, "guess"), E_LOGIN);
    assert_int_equal(run(job, true, ""), E_LOGIN);
    assert_int_equal(run(job, false, ""), 0);
    assert_int_equal(run(job, true, ""), 0);
    assert_int_equal(run(job, true, "x"), E_LOGIN);
    free(job);
}

static void test_salt_matters(void **state)
{
    (void)state;
    struct password_job *a = job_new(), *b = job_new();
    set(a, false, "secret");
    set(b, false, "secret");
    b->salt[0] ^= 1;
    password_work(&a->job);
    password_work(&b->job);
    assert_int_equal(a->result, 0);
    assert_string_not_equal(a->hash, b->hash);
    free(a);
    free(b);
}

/* The longest password and the dearest cost that are allowed fit the memory there is for them. */
static void test_limits(void **state)
{
    (void)state;
    struct password_job *job = job_new();
    char longest[PASSWORD_MAX + 1];
    memset(longest, 'p', PASSWORD_MAX);
    longest[PASSWORD_MAX] = 0;
    assert_int_equal(run(job, false, longest), 0);
    assert_int_equal(run(job, true, longest), 0);
    longest[PASSWORD_MAX - 1] = 'q';
    assert_int_equal(run(job, true, longest), E_LOGIN);

    static const struct password_cost wrong[] = {{7, 1}, {8, 0}, {(1 << 20) + 1, 1}, {8, 101}};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        set(job, false, "x");
        job->cost = wrong[i];
        password_work(&job->job);
        assert_int_equal(job->result, E_INVALID);
    }
    set(job, false, "default");
    job->cost = password_cost_default;
    password_work(&job->job);
    assert_int_equal(job->result, 0);
    assert_int_equal(run(job, true, "default"), 0);
    free(job);
}

static void test_not_our_hashes(void **state)
{
    (void)state;
    static const char *const texts[] = {
        "",
        "plain",
        "$argon2i$v=19$m=8,t=1,p=1$WlpaWlpaWlpaWlpaWlpaWg$AAAA",
        "$argon2id$v=19$m=8,t=1,p=1$",
        "$argon2id$v=19$m=8,t=1,p=1$!$!",
        "$argon2id$v=19$m=4000000000,t=1,p=1$WlpaWlpaWlpaWlpaWlpaWg$AAAAAAAA",
        "$argon2id$v=19$m=1048577,t=1,p=1$WlpaWlpaWlpaWlpaWlpaWg$AAAAAAAA",
        "$argon2id$v=19$m=8,t=4000000,p=1$WlpaWlpaWlpaWlpaWlpaWg$AAAAAAAA",
    };
    struct password_job *job = job_new();
    for (size_t i = 0; i < sizeof texts / sizeof texts[0]; i++) {
        memset(job->hash, 0, sizeof job->hash);
        memcpy(job->hash, texts[i], strlen(texts[i]));
        assert_int_equal(run(job, true, "x"), E_INVALID);
    }
    memset(job->hash, '$', sizeof job->hash); /* no end */
    assert_int_equal(run(job, true, "x"), E_INVALID);
    free(job);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_right_and_wrong),
        cmocka_unit_test(test_salt_matters),
        cmocka_unit_test(test_limits),
        cmocka_unit_test(test_not_our_hashes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
