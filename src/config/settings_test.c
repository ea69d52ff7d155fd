#include "config/settings.h"

#include <stdarg.h>
#include <setjmp.h>
#include <cmocka.h>
#include <stdio.h>
#include <stdlib.h>

struct outcome {
    struct settings settings;
    struct failure failure;
    unsigned warnings;
    char warning[600]; /* the last */
    int result;
};

static void warn(void *context, const char *text)
{
    struct outcome *outcome = context;
    outcome->warnings++;
    snprintf(outcome->warning, sizeof outcome->warning, "%s", text);
}

static void read_text(struct outcome *outcome, const char *text)
{
    struct conf conf;
    *outcome = (struct outcome){0};
    conf_init(&conf);
    assert_int_equal(conf_parse(&conf, "f", slice_text(text), getenv, NULL), 0);
    outcome->result =
        settings_from_conf(&outcome->settings, &conf, 0, warn, outcome, &outcome->failure);
    conf_fini(&conf);
}

static struct outcome *good(const char *text)
{
    static struct outcome outcome;
    read_text(&outcome, text);
    if (outcome.result != 0)
        fail_msg("%s: %s", text, outcome.failure.text);
    return &outcome;
}

static void bad(const char *text, const char *cause)
{
    struct outcome outcome;
    read_text(&outcome, text);
    assert_int_equal(outcome.result, E_INVALID);
    if (!strstr(outcome.failure.text, cause))
        fail_msg("%s: %s", text, outcome.failure.text);
}

static void test_defaults(void **state)
{
    (void)state;
    const struct settings *s = &good("")->settings;
    assert_int_equal(s->amqp.count, 1);
    assert_string_equal(s->amqp.at[0].host, "");
    assert_int_equal(s->amqp.at[0].port, 5672);
    assert_int_equal(s->tcp.backlog, 128);
    assert_true(s->tcp.no_delay);
    assert_false(s->tcp.keepalive);
    assert_int_equal(s->handshake_timeout_ms, 10000);
    assert_int_equal(s->heartbeat_s, 60);
    assert_int_equal(s->frame_max, 131072);
    assert_int_equal(s->channel_max, 2047);
    assert_int_equal(s->max_connections, 0);
    assert_int_equal(s->max_message_size, 16 << 20);
    assert_string_equal(s->default_vhost, "/");
    assert_string_equal(s->default_user, "guest");
    assert_string_equal(s->default_pass, "guest");
    assert_string_equal(s->default_configure, ".*");
    assert_string_equal(s->default_tags, "administrator");
    assert_string_equal(s->loopback_users, "guest");
    assert_string_equal(s->cluster_name, s->node_name);
    assert_string_equal(s->product_name, "RabbitMQ");
    assert_true(s->memory_watermark.is_relative && s->memory_watermark.relative == 0.6);
    assert_false(s->disk_free_limit.is_relative);
    assert_int_equal(s->disk_free_limit.absolute, 50000000);
    assert_int_equal(s->log_level, LOG_INFO);
    assert_true(s->log_console);
    assert_string_equal(s->log_file, "");
    assert_int_equal(s->workers, 0);
    assert_string_equal(s->sync, "always");
    assert_int_equal(s->segment_bytes_min, 8 << 20);
    assert_int_equal(s->segment_bytes_max, 128 << 20);
    assert_int_equal(s->checkpoint_bytes, 256 << 20);
}

static void test_web_listeners(void **state)
{
    (void)state;
    const struct settings *s = &good("")->settings;
    assert_int_equal(s->management.count, 1);
    assert_int_equal(s->management.at[0].port, 15672);
    assert_string_equal(s->management.at[0].host, "");
    assert_int_equal(s->prometheus.at[0].port, 15692);
    assert_int_equal(s->management_idle_timeout_ms, 60000);
    s = &good("management.tcp.port = 8080\nmanagement.tcp.ip = ::1\nprometheus.tcp.port = none")
             ->settings;
    assert_int_equal(s->management.at[0].port, 8080);
    assert_string_equal(s->management.at[0].host, "::1");
    assert_int_equal(s->prometheus.count, 0);
    s = &good("management.tcp.ip = 127.0.0.1")->settings;
    assert_int_equal(s->management.at[0].port, 15672);
    assert_string_equal(s->management.at[0].host, "127.0.0.1");
    assert_int_equal(
        good("management.tcp.port = none\nmanagement.tcp.ip = ::1")->settings.management.count, 0);
    bad("management.tcp.port = 65536", "f:1: management.tcp.port = 65536: expected a port or none");
    bad("prometheus.tcp.port = 1x", "expected a port or none");
    bad("management.tcp.ip = "
        "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
        "longer than 63 bytes");
    bad("management.tcp.idle_timeout = 0", "expected a number");
}

static void test_listeners(void **state)
{
    (void)state;
    const struct settings *s = &good("listeners.tcp = none")->settings;
    assert_int_equal(s->amqp.count, 0);
    s = &good("listeners.tcp.default = 5673")->settings;
    assert_int_equal(s->amqp.count, 1);
    assert_int_equal(s->amqp.at[0].port, 5673);
    s = &good("listeners.tcp.1 = 127.0.0.1:5672\nlisteners.tcp.2 = ::1:5674\n"
              "listeners.tcp.3 = [::1]:5675\nlisteners.tcp.4 = localhost:0")
             ->settings;
    assert_int_equal(s->amqp.count, 4);
    assert_string_equal(s->amqp.at[0].host, "127.0.0.1");
    assert_string_equal(s->amqp.at[1].host, "::1");
    assert_int_equal(s->amqp.at[1].port, 5674);
    assert_string_equal(s->amqp.at[2].host, "::1");
    assert_string_equal(s->amqp.at[3].host, "localhost");
    assert_int_equal(s->amqp.at[3].port, 0);
    assert_int_equal(good("listeners.tcp = none\nlisteners.tcp.1 = 1")->settings.amqp.count, 0);

    bad("listeners.tcp.1 = 65536", "f:1: listeners.tcp.1 = 65536: expected a port or HOST:PORT");
    bad("listeners.tcp.1 = x", "expected a port");
    bad("listeners.tcp.1 = :5672", "there is no host before the port");
    bad("listeners.tcp.1 = 127.0.0.1:", "expected a port");
    bad("listeners.tcp.1 = "
        "a-name-that-is-longer-than-any-address-could-be-and-than-the-room-there-is:1",
        "the host is longer than 63 bytes");
    char many[1000];
    size_t at = 0;
    for (int i = 0; i <= SETTINGS_LISTENERS_MAX; i++)
        at += (size_t)snprintf(many + at, sizeof many - at, "listeners.tcp.%d = %d\n", i, i);
    bad(many, "more than 16 listeners");
}

static void test_port_offset(void **state)
{
    (void)state;
    struct conf conf;
    struct settings settings = {0};
    struct failure failure = {0};
    conf_init(&conf);
    assert_int_equal(settings_from_conf(&settings, &conf, 100, NULL, NULL, &failure), 0);
    assert_int_equal(settings.amqp.at[0].port, 5772);
    assert_int_equal(settings_from_conf(&settings, &conf, 60000, NULL, NULL, &failure), E_INVALID);
    assert_int_equal(conf_set(&conf, "listeners.tcp.1=5000", &failure), 0);
    assert_int_equal(settings_from_conf(&settings, &conf, 100, NULL, NULL, &failure), 0);
    assert_int_equal(settings.amqp.at[0].port, 5000); /* as asked for */
    assert_int_equal(conf_set(&conf, "heartbeat=x", &failure), 0);
    assert_int_equal(settings_from_conf(&settings, &conf, 0, NULL, NULL, &failure), E_INVALID);
    assert_string_equal(failure.text, "--set: heartbeat = x: expected a number from 0 to 65535");
    conf_fini(&conf);
}

static void test_sizes(void **state)
{
    (void)state;
    static const struct {
        const char *text;
        uint64_t value;
    } cases[] = {
        {"0", 0},
        {"123", 123},
        {"1k", 1000},
        {"1kB", 1000},
        {"1K", 1000},
        {"1Ki", 1024},
        {"1KiB", 1024},
        {"1kib", 1024},
        {"2GB", 2000000000},
        {"500MB", 500000000},
        {"50MiB", 52428800},
        {"1m", 1000000},
        {"1gib", 1 << 30},
        {"3TB", 3000000000000},
        {"1PiB", 1ull << 50},
        {"18446744073709551615", UINT64_MAX},
    };
    char text[100];
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        snprintf(text, sizeof text, "disk_free_limit.absolute = %s", cases[i].text);
        const struct settings *s = &good(text)->settings;
        assert_true(s->disk_free_limit.absolute == cases[i].value);
        snprintf(text, sizeof text, "total_memory_available_override_value = %s", cases[i].text);
        assert_true(good(text)->settings.memory_total_override == cases[i].value);
    }
    static const char *const wrong[] = {"x",
                                        "-1",
                                        "1X",
                                        "1.5GB",
                                        "1 GB",
                                        "1GBs",
                                        "1iB",
                                        "1kk",
                                        "18446744073709551616",
                                        "18446744073709551615k",
                                        "16384PiB"};
    for (size_t i = 0; i < sizeof wrong / sizeof wrong[0]; i++) {
        snprintf(text, sizeof text, "disk_free_limit.absolute = %s", wrong[i]);
        bad(text, "expected a size like");
        snprintf(text, sizeof text, "max_message_size = %s", wrong[i]);
        bad(text, "expected a size like");
    }
}

static void test_watermarks(void **state)
{
    (void)state;
    const struct settings *s =
        &good("vm_memory_high_watermark.relative = 0.4\ndisk_free_limit.relative = 1.5")->settings;
    assert_true(s->memory_watermark.is_relative && s->memory_watermark.relative == 0.4);
    assert_true(s->disk_free_limit.is_relative && s->disk_free_limit.relative == 1.5);
    const struct outcome *both = good("vm_memory_high_watermark.relative = 0.4\n"
                                      "vm_memory_high_watermark.absolute = 2GB");
    assert_false(both->settings.memory_watermark.is_relative);
    assert_true(both->settings.memory_watermark.absolute == 2000000000);
    assert_int_equal(both->warnings, 1);
    bad("vm_memory_high_watermark.relative = 60", "expected a number from 0 to 1");
    bad("vm_memory_high_watermark.relative = 60%", "expected a number");
    bad("vm_memory_high_watermark.relative = nan", "expected a number");
    bad("vm_memory_high_watermark.relative = 0x1", "expected a number");
    bad("vm_memory_high_watermark.relative = .", "expected a number");
    bad("disk_free_limit.relative = -1", "expected a number");
}

static void test_users(void **state)
{
    (void)state;
    assert_string_equal(good("loopback_users = none")->settings.loopback_users, "");
    assert_string_equal(good("loopback_users.guest = false")->settings.loopback_users, "");
    assert_string_equal(
        good("loopback_users.a = true\nloopback_users.b = true")->settings.loopback_users, "a,b");
    bad("loopback_users = guest", "expected none");
    bad("loopback_users.guest = maybe", "expected true or false");
    const struct settings *s =
        &good("default_user_tags.management = true\ndefault_user_tags.administrator = false\n"
              "default_user = admin\ndefault_pass = 's#cret'\ndefault_vhost = prod\n"
              "default_permissions.configure = ^a\ndefault_permissions.read = ''\n"
              "default_permissions.write = ^b")
             ->settings;
    assert_string_equal(s->default_tags, "management");
    assert_string_equal(s->default_user, "admin");
    assert_string_equal(s->default_pass, "s#cret");
    assert_string_equal(s->default_vhost, "prod");
    assert_string_equal(s->default_configure, "^a");
    assert_string_equal(s->default_write, "^b");
    assert_string_equal(s->default_read, "");
    bad("default_user = ''", "it may not be empty");
    char text[400] = "default_user = ";
    memset(text + strlen(text), 'x', 256);
    bad(text, "it is longer than 255 bytes");
}

static void test_ranges(void **state)
{
    (void)state;
    assert_int_equal(good("max_message_size = 536870912")->settings.max_message_size, 512 << 20);
    bad("max_message_size = 536870913", "expected a size from 0 to 536870912 bytes");
    assert_int_equal(good("heartbeat = 0")->settings.heartbeat_s, 0);
    bad("heartbeat = 65536", "from 0 to 65535");
    bad("heartbeat = 60s", "from 0 to 65535");
    bad("handshake_timeout = 0", "from 1 to 3600000");
    assert_int_equal(good("frame_max = 4096")->settings.frame_max, 4096);
    bad("frame_max = 4095", "from 4096");
    assert_int_equal(good("channel_max = 0")->settings.channel_max, 65535);
    assert_int_equal(good("max_channels_per_connection = 10")->settings.channel_max, 10);
    assert_int_equal(good("max_connections = 10")->settings.max_connections, 10);
    assert_int_equal(good("connection_max = 11")->settings.max_connections, 11);
    assert_int_equal(good("max_connections = infinity")->settings.max_connections, 0);
    bad("max_connections = 0", "from 1 to");
    bad("tcp_listen_options.nodelay = yes", "expected true or false");
    assert_int_equal(good("tcp_listen_options.sndbuf = 65536")->settings.tcp.send_buffer, 65536);
    assert_int_equal(good("workers = 3")->settings.workers, 3);
    assert_int_equal(good("workers = 64")->settings.workers, SETTINGS_WORKERS_MAX);
    bad("workers = 65", "64");
    assert_int_equal(good("workers = auto")->settings.workers, 0);
    bad("workers = 0", "1");
    bad("workers = many", "number");
    assert_false(good("queue_leader_locator = client-local")->settings.queues_balanced);
    assert_true(good("queue_leader_locator = balanced")->settings.queues_balanced);
    bad("queue_leader_locator = random", "expected client-local or balanced");
    assert_string_equal(good("sync = interval")->settings.sync, "interval");
    bad("sync = sometimes", "expected always, interval or never");
    bad("segment_size_min = 64MiB\nsegment_size_max = 32MiB", "is above segment_size_max");
    assert_string_equal(good("cluster_name = prod")->settings.cluster_name, "prod");
    assert_string_equal(good("node_name = n1")->settings.cluster_name, "n1");
    assert_string_equal(good("product.name = Sluice")->settings.product_name, "Sluice");
}

static void test_log(void **state)
{
    (void)state;
    assert_int_equal(good("log.default.level = debug")->settings.log_level, LOG_DEBUG);
    assert_int_equal(good("log.console.level = error")->settings.log_level, LOG_ERROR);
    assert_int_equal(good("log.console = false")->settings.log_level, LOG_NONE);
    assert_int_equal(good("log.console.level = critical")->settings.log_level, LOG_ERROR);
    assert_int_equal(good("log.console.level = notice")->settings.log_level, LOG_INFO);
    const struct settings *s =
        &good("log.file = rabbit.log\nlog.dir = /var/log/rabbitmq\nlog.file.level = debug\n"
              "log.console.level = error")
             ->settings;
    assert_string_equal(s->log_file, "/var/log/rabbitmq/rabbit.log");
    assert_int_equal(s->log_level, LOG_DEBUG);
    assert_string_equal(good("log.file = /x/y\nlog.dir = /z")->settings.log_file, "/x/y");
    assert_string_equal(good("log.dir = /z")->settings.log_file, "/z/sluice.log");
    assert_string_equal(good("log.dir = /z\nlog.file = false")->settings.log_file, "");
    assert_string_equal(good("log.file = false")->settings.log_file, "");
    bad("log.file = true", "expected false or the name of a file");
    bad("log.console.level = loud", "expected debug, info, warning, error or none");
    char text[1200] = "log.file = ";
    memset(text + strlen(text), 'x', 1024);
    bad(text, "the path is longer than 1023 bytes");
}

static void test_encryption(void **state)
{
    struct key_source source;

    (void)state;
    assert_int_equal(settings_key_source(&good("")->settings).kind, KEY_SOURCE_NONE);
    assert_true(good("")->settings.encryption.is_on);
    assert_false(good("encryption.enabled = false")->settings.encryption.is_on);
    source = settings_key_source(&good("encryption.key_file = /etc/keys")->settings);
    assert_int_equal(source.kind, KEY_SOURCE_FILE);
    assert_string_equal(source.where, "/etc/keys");
    source = settings_key_source(&good("encryption.key_env = BROKER_KEYS")->settings);
    assert_int_equal(source.kind, KEY_SOURCE_VARIABLE);
    assert_string_equal(source.where, "BROKER_KEYS");
    source = settings_key_source(&good("encryption.key_command = 'vault read -x'")->settings);
    assert_int_equal(source.kind, KEY_SOURCE_COMMAND);
    assert_string_equal(source.where, "vault read -x");
    bad("encryption.key_file = a\nencryption.key_env = b", "from one of encryption.key_file");
    bad("encryption.key_env = a\nencryption.key_command = b", "from one of");
    bad("encryption.enabled = perhaps", "expected true or false");
    bad("encryption.keyfile = a", "did you mean encryption.key_file?");
}

static void test_keys_without_effect(void **state)
{
    (void)state;
    const struct outcome *o = good("mqtt.listeners.tcp.1 = 1883");
    assert_int_equal(o->warnings, 1);
    assert_string_equal(o->warning,
                        "f:1: mqtt.listeners.tcp.1 is not supported yet and has no effect");
    o = good("\nraft.wal_max_size_bytes = 1");
    assert_string_equal(o->warning,
                        "f:2: raft.wal_max_size_bytes has no meaning here and has no effect");

    /* every key that compat lists as RabbitMQ's is known, in one form or another */
    static const char *const keys[] = {
        "listeners.ssl.1",
        "ssl_options.cacertfile",
        "ssl_options.versions.1",
        "ssl_options.ciphers.12",
        "proxy_protocol",
        "ssl_handshake_timeout",
        "reverse_dns_lookups",
        "default_users.alice.password",
        "default_users.alice.vhost_pattern",
        "anonymous_login_user",
        "anonymous_login_pass",
        "auth_mechanisms.1",
        "auth_backends.1",
        "auth_backends.2.authn",
        "ssl_cert_login_from",
        "ssl_cert_login_san_type",
        "ssl_cert_login_san_index",
        "password_hashing_module",
        "credential_validator.validation_backend",
        "credential_validator.min_length",
        "initial_frame_max",
        "channel_max_per_node",
        "vhost_max",
        "consumer_timeout",
        "default_queue_type",
        "cluster_queue_limit",
        "cluster_exchange_limit",
        "load_definitions",
        "definitions.import_backend",
        "definitions.local.path",
        "definitions.https.url",
        "definitions.tls.verify",
        "management.load_definitions",
        "default_policies.operator.limits.max_length",
        "default_limits.vhosts.prod.pattern",
        "log.file.rotation.date",
        "log.file.formatter",
        "log.console.formatter",
        "log.syslog",
        "log.journald",
        "log.connection.level",
        "management.ssl.port",
        "management.path_prefix",
        "management.cors.allow_origins.1",
        "management.sample_retention_policies.global.minute",
        "management.listener.port",
        "collect_statistics_interval",
        "prometheus.return_per_object_metrics",
        "mqtt.allow_anonymous",
        "mqtt.vhost",
        "stomp.listeners.tcp.1",
        "stomp.default_user",
        "web_mqtt.tcp.port",
        "web_mqtt.ws_path",
        "web_stomp.tcp.port",
        "web_stomp.ws_opts.compress",
        "auth_oauth2.resource_server_id",
        "auth_oauth2.scope_aliases.admin",
        "auth_oauth2.https.verify",
        "auth_http.user_path",
        "cluster_formation.peer_discovery_backend",
        "cluster_formation.k8s.host",
        "cluster_partition_handling",
        "cluster_partition_handling.pause_if_all_down.recover",
        "raft.segment_max_entries",
        "net_ticktime",
        "distribution.listener.port_range.min",
        "num_acceptors.tcp",
        "erlang.K",
        "queue_index_embed_msgs_below",
        "vm_memory_high_watermark_paging_ratio",
        "vm_memory_calculation_strategy",
        "quorum_queue.compute_checksums",
        "classic_queue.default_version",
        "sysmon_handler.triggers.port",
        "stream.replication.address_family",
        "deprecated_features.permit.transient_nonexcl_queues",
        "tcp_listen_options.exit_on_close",
        "tcp_listen_options.linger.timeout",
        "kafka.listeners.tcp.1",
    };
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++) {
        char text[200];
        snprintf(text, sizeof text, "%s = whatever", keys[i]);
        assert_int_equal(good(text)->warnings, 1);
    }
}

static void test_unknown_keys(void **state)
{
    (void)state;
    bad("a.b.c = 1", "f:1: unknown key a.b.c");
    bad("\nheartbeet = 60", "f:2: unknown key heartbeet; did you mean heartbeat?");
    bad("listener.tcp.default = 1", "did you mean listeners.tcp.default?");
    bad("listeners.tpc.mine = 1", "did you mean listeners.tcp.mine?");
    bad("vm_memory_high_watermark.absolut = 1", "did you mean vm_memory_high_watermark.absolute?");
    bad("vm_memory_high_watermark = 1", "unknown key vm_memory_high_watermark");
    bad("managment.tcp.port = 1", "did you mean management.tcp.port?");
    bad("listeners.tcp.a.b = 1", "unknown key listeners.tcp.a.b");
    bad("disk_free_limit = 1", "unknown key disk_free_limit");
    struct outcome outcome;
    read_text(&outcome, "frobnicate = 1");
    assert_null(strstr(outcome.failure.text, "did you mean"));
    char text[CONF_KEY_MAX + 10];
    memset(text, 'k', CONF_KEY_MAX);
    snprintf(text + CONF_KEY_MAX, 10, " = 1");
    bad(text, "unknown key kkk");
    for (size_t i = 1; i < CONF_KEY_MAX; i += 2)
        text[i] = '.';
    bad(text, "unknown key k.k.k");
}

static void test_help_lists_each_key(void **state)
{
    (void)state;
    unsigned count = 0;
    for (const struct setting_help *help; (help = settings_help(count)); count++) {
        assert_true(help->key[0] && help->type[0] && help->help[0]);
        for (unsigned i = 0; i < count; i++)
            assert_string_not_equal(settings_help(i)->key, help->key);
    }
    assert_true(count > 40);
    assert_null(settings_help(UINT32_MAX));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_defaults),
        cmocka_unit_test(test_listeners),
        cmocka_unit_test(test_web_listeners),
        cmocka_unit_test(test_port_offset),
        cmocka_unit_test(test_sizes),
        cmocka_unit_test(test_watermarks),
        cmocka_unit_test(test_users),
        cmocka_unit_test(test_ranges),
        cmocka_unit_test(test_log),
        cmocka_unit_test(test_encryption),
        cmocka_unit_test(test_keys_without_effect),
        cmocka_unit_test(test_unknown_keys),
        cmocka_unit_test(test_help_lists_each_key),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
