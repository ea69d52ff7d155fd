#include "options.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdlib.h>

#include <cmocka.h>

static struct uri parsed(const char *text)
{
    struct uri uri;
    struct failure failure;
    assert_int_equal(uri_parse(&uri, text, &failure), 0);
    return uri;
}

static void refused(const char *text)
{
    struct uri uri;
    struct failure failure;
    assert_int_equal(uri_parse(&uri, text, &failure), E_INVALID);
    assert_true(failure.text[0] != 0);
}

static void parts_of_a_uri(void **state)
{
    (void)state;
    struct uri uri = parsed("amqp://me:pass%40word@example.org:1234/a%2Fb");
    assert_string_equal(uri.user, "me");
    assert_string_equal(uri.password, "pass@word");
    assert_string_equal(uri.host, "example.org");
    assert_string_equal(uri.port, "1234");
    assert_string_equal(uri.vhost, "a/b");
    uri = parsed("amqp://[::1]:99/%2f");
    assert_string_equal(uri.host, "::1");
    assert_string_equal(uri.port, "99");
    assert_string_equal(uri.vhost, "/");
}

static void what_is_missing(void **state)
{
    (void)state;
    struct uri uri = parsed("amqp://");
    assert_string_equal(uri.user, "guest");
    assert_string_equal(uri.password, "guest");
    assert_string_equal(uri.host, "127.0.0.1");
    assert_string_equal(uri.port, "5672");
    assert_string_equal(uri.vhost, "/");
    uri = parsed("amqp://other/");
    assert_string_equal(uri.host, "other");
    assert_string_equal(uri.vhost, "/");
}

static void wrong_uris(void **state)
{
    (void)state;
    refused("http://localhost");
    refused("amqps://localhost");
    refused("amqp://host:0/");
    refused("amqp://host:65536/");
    refused("amqp://host:12x/");
    refused("amqp://host:/");
    refused("amqp://[::1/");
    refused("amqp://host/%2");
    refused("amqp://host/%00");
    refused("amqp://host?heartbeat=1");
}

static enum options_action parse(struct options *o, int count, char **arguments)
{
    extern int optind;
    optind = 0; /* getopt starts over */
    return options_parse(o, count, arguments);
}

static void defaults_and_implications(void **state)
{
    (void)state;
    struct options o;
    char *plain[] = {"sluice-bench", NULL};
    assert_int_equal(parse(&o, 1, plain), OPTIONS_RUN);
    assert_int_equal(o.producers, 1);
    assert_int_equal(o.warmup_ms, 2000);
    assert_false(o.durable);
    char *persistent[] = {"sluice-bench", "--persistent", "--messages", "5", NULL};
    assert_int_equal(parse(&o, 4, persistent), OPTIONS_RUN);
    assert_true(o.durable);
    assert_int_equal(o.warmup_ms, 0);
    char *fanout[] = {"sluice-bench", "--fanout", "3", "--duration", "0.5", NULL};
    assert_int_equal(parse(&o, 5, fanout), OPTIONS_RUN);
    assert_true(o.fanout);
    assert_int_equal(o.queues, 3);
    assert_int_equal(o.duration_ms, 500);
    char *fault[] = {"sluice-bench", "--null-server", "0", "--null-fault", "reorder@7", NULL};
    assert_int_equal(parse(&o, 5, fault), OPTIONS_RUN);
    assert_int_equal(o.null_fault, FAULT_REORDER);
    assert_int_equal(o.null_fault_at, 7);
}

static void what_does_not_go(void **state)
{
    (void)state;
    struct options o;
    char *small[] = {"sluice-bench", "--size", "15", NULL};
    assert_int_equal(parse(&o, 3, small), OPTIONS_WRONG);
    char *ack[] = {"sluice-bench", "--ack", "11", "--prefetch", "10", NULL};
    assert_int_equal(parse(&o, 5, ack), OPTIONS_WRONG);
    char *stream[] = {"sluice-bench", "--queue-type", "stream", NULL};
    assert_int_equal(parse(&o, 3, stream), OPTIONS_WRONG);
    char *type[] = {"sluice-bench", "--queue-type", "magic", NULL};
    assert_int_equal(parse(&o, 3, type), OPTIONS_WRONG);
    char *number[] = {"sluice-bench", "--producers", "-1", NULL};
    assert_int_equal(parse(&o, 3, number), OPTIONS_WRONG);
    char *rest[] = {"sluice-bench", "localhost", NULL};
    assert_int_equal(parse(&o, 2, rest), OPTIONS_WRONG);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(parts_of_a_uri),   cmocka_unit_test(what_is_missing),
        cmocka_unit_test(wrong_uris),       cmocka_unit_test(defaults_and_implications),
        cmocka_unit_test(what_does_not_go),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
