#include "auth/remembered.h"

#include "loop/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

static bool known(struct remembered *r, const char *user, const char *hash, const char *password,
                  uint64_t now_ns)
{
    uint8_t digest[REMEMBERED_DIGEST_SIZE];

    assert_true(
        remembered_digest(r, slice_text(user), slice_text(hash), slice_text(password), digest));
    return remembered_has(r, digest, now_ns);
}

static void only_the_same_for_a_while(void **state)
{
    struct loop *loop = loop_new_simulated(1);
    struct remembered r, other;
    uint8_t digest[REMEMBERED_DIGEST_SIZE];

    (void)state;
    remembered_init(&r, loop);
    remembered_init(&other, loop);
    assert_false(known(&r, "ann", "$1", "secret", 1));
    assert_true(
        remembered_digest(&r, slice_text("ann"), slice_text("$1"), slice_text("secret"), digest));
    remembered_add(&r, digest, 1);
    assert_true(known(&r, "ann", "$1", "secret", 1));
    assert_true(known(&r, "ann", "$1", "secret", REMEMBERED_NS));
    assert_false(known(&r, "ann", "$1", "secret", REMEMBERED_NS + 1));
    assert_false(known(&r, "ann", "$2", "secret", 1));
    assert_false(known(&r, "anna", "$1", "secret", 1));
    assert_false(known(&r, "ann$", "1", "secret", 1));
    assert_false(known(&r, "ann", "$1", "secre", 1));
    assert_false(known(&r, "ann", "$1", "", 1));
    remembered_add(&other, digest, 1);
    assert_false(known(&other, "ann", "$1", "secret", 1)); /* another key */
    remembered_fini(&r);
    assert_false(known(&r, "ann", "$1", "secret", 1));
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(only_the_same_for_a_while),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
