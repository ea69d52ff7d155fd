#include "report.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <cmocka.h>

#define TEXT_SIZE 20000

/* What the report says when the busiest of two threads used that much of its core: in `text` for a
 * person, in `json`. */
static void report(double measured, double drained, char text[TEXT_SIZE], char json[TEXT_SIZE])
{
    struct options options;
    struct run_result *result = calloc(1, sizeof *result);
    struct failure failure;
    char name[] = "/tmp/sluice-bench-report-XXXXXX";
    char *arguments[] = {"sluice-bench", "--threads", "2", NULL};
    int file = mkstemp(name), output = dup(STDOUT_FILENO);

    assert_true(file >= 0 && output >= 0 && result);
    assert_int_equal(options_parse(&options, 3, arguments), OPTIONS_RUN);
    result->measured.seconds = 2;
    result->measured.counts.published = 1000;
    result->measured.thread_s[0] = 0.1;
    result->measured.thread_s[1] = 2 * measured;
    result->drain.seconds = 2;
    result->drain.thread_s[0] = 2 * drained;

    fflush(stdout);
    dup2(file, STDOUT_FILENO);
    report_text(&options, result);
    fflush(stdout);
    dup2(output, STDOUT_FILENO);
    close(output);
    ssize_t size = pread(file, text, TEXT_SIZE - 1, 0);
    assert_true(size > 0);
    text[size] = 0;

    assert_int_equal(report_json(&options, result, name, &failure), 0);
    close(file);
    FILE *written = fopen(name, "r");
    assert_non_null(written);
    json[fread(json, 1, TEXT_SIZE - 1, written)] = 0;
    fclose(written);
    unlink(name);
    free(result);
}

static unsigned count(const char *text, const char *what)
{
    unsigned found = 0;

    for (const char *at = text; (at = strstr(at, what)); at += strlen(what))
        found++;
    return found;
}

static void a_busy_generator_makes_it_void(void **state)
{
    char text[TEXT_SIZE], json[TEXT_SIZE];

    (void)state;
    report(GENERATOR_SHARE_MAX + 0.01, 0, text, json);
    assert_int_equal(count(text, "VOID: a generator thread used over 80 % of its core"), 1);
    assert_int_equal(count(json, "\"void\": true"), 2); /* the interval, and the whole */
    assert_int_equal(count(json, "\"void\": false"), 1);
    report(0, GENERATOR_SHARE_MAX + 0.01, text, json); /* in the drain alone */
    assert_int_equal(count(json, "\"void\": true"), 2);
}

static void an_idle_one_does_not(void **state)
{
    char text[TEXT_SIZE], json[TEXT_SIZE];

    (void)state;
    report(GENERATOR_SHARE_MAX - 0.01, 0.1, text, json);
    assert_int_equal(count(text, "VOID"), 0);
    assert_int_equal(count(json, "\"void\": true"), 0);
    assert_int_equal(count(json, "\"void\": false"), 3);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_busy_generator_makes_it_void),
        cmocka_unit_test(an_idle_one_does_not),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
