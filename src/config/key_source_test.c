#include "config/key_source.h"

#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

static char text[64];
static size_t size;
static struct failure failure;

static int read_from(enum key_source_kind kind, const char *where)
{
    struct key_source source = {kind, where};

    size = 0;
    failure.text[0] = 0;
    return key_source_read(&source, text, sizeof text, &size, &failure);
}

static bool text_is(const char *expected)
{
    return slice_is(slice_of(text, size), expected);
}

static void of_a_file(void **state)
{
    char path[] = "/tmp/sluice-key-XXXXXX";
    int file = mkstemp(path);

    (void)state;
    assert_true(file >= 0);
    assert_int_equal(write(file, "1 secret\n", 9), 9);
    assert_int_equal(read_from(KEY_SOURCE_FILE, path), 0);
    assert_true(text_is("1 secret\n"));
    static const mode_t refused[] = {0604, 0602, 0601, 0620, 0666};
    for (size_t i = 0; i < sizeof refused / sizeof refused[0]; i++) {
        fchmod(file, refused[i]);
        assert_int_equal(read_from(KEY_SOURCE_FILE, path), E_DENIED);
        assert_non_null(strstr(failure.text, path));
        assert_null(strstr(failure.text, "secret"));
    }
    fchmod(file, 0440);
    assert_int_equal(read_from(KEY_SOURCE_FILE, path), 0);
    fchmod(file, 0600);
    for (size_t i = 9; i < sizeof text; i++) {
        assert_int_equal(read_from(KEY_SOURCE_FILE, path), 0);
        assert_int_equal(size, i);
        assert_int_equal(pwrite(file, "x", 1, (off_t)i), 1);
    }
    assert_int_equal(read_from(KEY_SOURCE_FILE, path), 0); /* just what there is room for */
    assert_int_equal(pwrite(file, "x", 1, sizeof text), 1);
    assert_int_equal(read_from(KEY_SOURCE_FILE, path), E_LIMIT);
    unlink(path);
    close(file);
    assert_int_equal(read_from(KEY_SOURCE_FILE, path), E_NOT_FOUND);
    assert_int_equal(read_from(KEY_SOURCE_FILE, "/tmp"), E_DENIED);
    assert_int_equal(read_from(KEY_SOURCE_FILE, "/dev/null"), E_DENIED);
}

static void of_the_environment(void **state)
{
    (void)state;
    unsetenv("SLUICE_KEY_TEST");
    assert_int_equal(read_from(KEY_SOURCE_VARIABLE, "SLUICE_KEY_TEST"), E_NOT_FOUND);
    assert_non_null(strstr(failure.text, "SLUICE_KEY_TEST"));
    setenv("SLUICE_KEY_TEST", "2 secret", 1);
    assert_int_equal(read_from(KEY_SOURCE_VARIABLE, "SLUICE_KEY_TEST"), 0);
    assert_true(text_is("2 secret"));
    setenv("SLUICE_KEY_TEST", "12345678901234567890123456789012345678901234567890123456789012345",
           1);
    assert_int_equal(read_from(KEY_SOURCE_VARIABLE, "SLUICE_KEY_TEST"), E_LIMIT);
}

static void of_a_command(void **state)
{
    (void)state;
    assert_int_equal(read_from(KEY_SOURCE_COMMAND, "echo 3 secret; cat"), 0); /* no input */
    assert_true(text_is("3 secret\n"));
    assert_int_equal(read_from(KEY_SOURCE_COMMAND, "echo 3 secret; exit 7"), E_IO);
    assert_non_null(strstr(failure.text, "status 7"));
    assert_null(strstr(failure.text, "secret"));
    assert_int_equal(read_from(KEY_SOURCE_COMMAND, "kill -9 $$"), E_IO);
    assert_non_null(strstr(failure.text, "signal 9"));
    assert_int_equal(read_from(KEY_SOURCE_COMMAND, "/no/such/command 2>/dev/null"), E_IO);
    assert_non_null(strstr(failure.text, "status 127"));
    assert_int_equal(read_from(KEY_SOURCE_COMMAND, "head -c 64 /dev/zero"), 0);
    assert_int_equal(size, 64);
    assert_int_equal(read_from(KEY_SOURCE_COMMAND, "head -c 65 /dev/zero; sleep 100"), E_LIMIT);
    assert_int_equal(read_from(KEY_SOURCE_NONE, ""), E_NOT_FOUND);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(of_a_file),
        cmocka_unit_test(of_the_environment),
        cmocka_unit_test(of_a_command),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
