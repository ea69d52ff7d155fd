#include "config/conf.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

static char *environment(const char *name)
{
    static char user[] = "alice", empty[] = "";
    if (strcmp(name, "USER_NAME") == 0)
        return user;
    return strcmp(name, "EMPTY") == 0 ? empty : NULL;
}

static int parse(struct conf *conf, const char *text, struct failure *failure)
{
    return conf_parse(conf, "rabbitmq.conf", slice_text(text), environment, failure);
}

static void test_values(void **state)
{
    (void)state;
    static const struct {
        const char *line, *value;
    } cases[] = {
        {"key = value", "value"},
        {"key=value", "value"},
        {"  \t key\t=\t value \t", "value"},
        {"key = value\r", "value"},
        {"key = two words", "two words"},
        {"key = value # comment", "value"},
        {"key = value#comment", "value"},
        {"key = 'va#lue'", "va#lue"},
        {"key = ' spaces kept '  # comment", " spaces kept "},
        {"key = ''", ""},
        {"key = 'it\\'s'", "it's"},
        {"key = it's", "it's"},
        {"key = a = b", "a = b"},
        {"key = $(USER_NAME)", "alice"},
        {"key = x-$(USER_NAME)-$(EMPTY)y", "x-alice-y"},
        {"key = '$(USER_NAME)'", "$(USER_NAME)"},
        {"key = 5$ $", "5$ $"},
        {"key = .*", ".*"},
        {"# a comment\n\n   # another\nkey = value", "value"},
        {"\xef\xbb\xbfkey = value", "value"},
        {"key = first\nkey = second", "second"},
        {"key = caf\xc3\xa9", "caf\xc3\xa9"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct conf conf;
        struct failure failure = {0};
        conf_init(&conf);
        if (parse(&conf, cases[i].line, &failure) != 0)
            fail_msg("%s: %s", cases[i].line, failure.text);
        assert_int_equal(conf.count, 1);
        assert_string_equal(conf_get(&conf, "key"), cases[i].value);
        conf_fini(&conf);
    }
}

static void test_errors_name_the_line(void **state)
{
    (void)state;
    static const struct {
        const char *text, *cause;
    } cases[] = {
        {"a = 1\n\nb\n", "rabbitmq.conf:3: expected \"key = value\""},
        {"= 1", "rabbitmq.conf:1: expected \"key = value\""},
        {"two words = 1", "rabbitmq.conf:1: expected \"key = value\""},
        {"[{rabbit, []}].", "rabbitmq.conf:1: expected \"key = value\""},
        {".a = 1", "a word is missing before a dot"},
        {"a..b = 1", "a word is missing before a dot"},
        {"a. = 1", "behind the last dot"},
        {"a =", "rabbitmq.conf:1: there is no value"},
        {"a = # nothing", "there is no value"},
        {"a = 'open", "the single quote is not closed"},
        {"a = 'x' y", "text behind the closing quote"},
        {"a = $(NOT_SET)", "the environment has no variable NOT_SET"},
        {"a = $(", "$( is not closed"},
        {"a = $()", "the environment has no variable"},
        {"a = encrypted:abc", "rabbitmq.conf:1: a: encrypted values cannot be read"},
        {"a = 'encrypted:abc'", "encrypted values cannot be read"},
    };
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct conf conf;
        struct failure failure = {0};
        conf_init(&conf);
        assert_int_equal(parse(&conf, cases[i].text, &failure), E_INVALID);
        if (!strstr(failure.text, cases[i].cause))
            fail_msg("%s: %s", cases[i].text, failure.text);
        conf_fini(&conf);
    }
    struct conf conf;
    struct failure failure = {0};
    conf_init(&conf);
    assert_int_equal(conf_parse(&conf, "f", slice_of("a\0 = 1", 6), environment, &failure),
                     E_INVALID);
    assert_string_equal(failure.text, "f:1: there is a zero byte: not a text file");
    conf_fini(&conf);
}

static void test_limits(void **state)
{
    (void)state;
    static char text[CONF_VALUE_MAX + 400];
    for (int over = 0; over <= 1; over++) {
        struct conf conf;
        struct failure failure = {0};
        conf_init(&conf);
        memset(text, 'k', sizeof text);
        snprintf(text + CONF_KEY_MAX + over, 10, " = v");
        assert_int_equal(parse(&conf, text, &failure), over ? E_INVALID : 0);
        memset(text, 'v', sizeof text);
        memcpy(text, "k = ", 4);
        text[4 + CONF_VALUE_MAX + over] = 0;
        assert_int_equal(parse(&conf, text, &failure), over ? E_INVALID : 0);
        if (over)
            assert_non_null(strstr(failure.text, "the value of k is longer than 65535 bytes"));
        memcpy(text, "kk=v", 4);
        text[3 + CONF_VALUE_MAX + over] = 0;
        assert_int_equal(conf_set(&conf, text, &failure), over ? E_INVALID : 0);
        conf_fini(&conf);
    }
}

static void test_set_wins(void **state)
{
    (void)state;
    struct conf conf;
    struct failure failure = {0};
    conf_init(&conf);
    assert_int_equal(parse(&conf, "a = 1\nb = 2", &failure), 0);
    assert_int_equal(conf_set(&conf, "a=x # $(y) 'z'", &failure), 0);
    assert_string_equal(conf_get(&conf, "a"), "x # $(y) 'z'"); /* as the shell gave it */
    assert_string_equal(conf.entries[0].source, "--set");
    assert_int_equal(conf.entries[0].line, 0);
    assert_string_equal(conf_get(&conf, "b"), "2");
    assert_null(conf_get(&conf, "c"));
    assert_int_equal(conf_set(&conf, "c=", &failure), 0);
    assert_string_equal(conf_get(&conf, "c"), "");
    assert_int_equal(conf_set(&conf, "nonsense", &failure), E_INVALID);
    assert_string_equal(failure.text, "--set: expected \"key = value\"");
    assert_int_equal(conf_set(&conf, "a=encrypted:1", &failure), E_INVALID);
    conf_fini(&conf);
}

static void write_file(const char *directory, const char *name, const char *text)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", directory, name);
    FILE *file = fopen(path, "w");
    assert_non_null(file);
    fputs(text, file);
    fclose(file);
}

static void test_files(void **state)
{
    (void)state;
    static const char *const names[] = {"20-b.conf", "10-a.conf", ".hidden.conf", "notes.txt"};
    char directory[] = "/tmp/sluice-conf-XXXXXX", path[200];
    struct conf conf;
    struct failure failure = {0};
    assert_non_null(mkdtemp(directory));
    write_file(directory, names[0], "key = from-b\nonly.b = 1\n");
    write_file(directory, names[1], "key = from-a\nonly.a = 1");
    write_file(directory, names[2], "broken");
    write_file(directory, names[3], "broken");

    conf_init(&conf);
    assert_int_equal(conf_load(&conf, directory, &failure), 0);
    assert_string_equal(conf_get(&conf, "key"), "from-b");
    assert_string_equal(conf_get(&conf, "only.a"), "1");
    assert_non_null(strstr(conf.entries[0].source, "20-b.conf"));
    conf_fini(&conf);

    snprintf(path, sizeof path, "%s/10-a.conf", directory);
    conf_init(&conf);
    assert_int_equal(conf_load(&conf, path, &failure), 0);
    assert_string_equal(conf_get(&conf, "key"), "from-a");
    write_file(directory, names[0], "x");
    assert_int_equal(conf_load(&conf, directory, &failure), E_INVALID);
    assert_non_null(strstr(failure.text, "20-b.conf:1: expected"));
    for (size_t i = 0; i < 4; i++) {
        snprintf(path, sizeof path, "%s/%s", directory, names[i]);
        unlink(path);
    }
    rmdir(directory);
    assert_int_equal(conf_load(&conf, directory, &failure), E_NOT_FOUND);
    assert_non_null(strstr(failure.text, directory));
    conf_fini(&conf);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_values), cmocka_unit_test(test_errors_name_the_line),
        cmocka_unit_test(test_limits), cmocka_unit_test(test_set_wins),
        cmocka_unit_test(test_files),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
