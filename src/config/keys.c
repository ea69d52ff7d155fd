#include "config/keys.h"

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

static const char *const for_later[] = {
    "listeners.ssl",
    "listeners.ssl.$",
    "ssl_options.*",
    "ssl_handshake_timeout",
    "ssl_cert_login_from",
    "ssl_cert_login_san_type",
    "ssl_cert_login_san_index",
    "proxy_protocol",
    "reverse_dns_lookups",
    "initial_frame_max",
    "channel_max_per_node",
    "session_max_per_connection",
    "link_max_per_session",
    "vhost_max",
    "cluster_queue_limit",
    "cluster_exchange_limit",
    "consumer_timeout",
    "consumer_disconnected_timeout",
    "default_queue_type",
    "default_users.$.*",
    "default_policies.operator.$.*",
    "default_limits.vhosts.$.*",
    "anonymous_login_user",
    "anonymous_login_pass",
    "auth_mechanisms.$",
    "auth_backends.$",
    "auth_backends.$.authn",
    "auth_backends.$.authz",
    "auth_cache.*",
    "auth_http.*",
    "auth_ldap.*",
    "auth_oauth2.*",
    "password_hashing_module",
    "credential_validator.*",
    "load_definitions",
    "definitions.*",
    "log.file.formatter",
    "log.file.formatter.*",
    "log.file.rotation.*",
    "log.console.formatter",
    "log.console.formatter.*",
    "log.syslog",
    "log.syslog.*",
    "log.journald",
    "log.journald.*",
    "log.exchange",
    "log.exchange.*",
    "log.connection.*",
    "log.channel.*",
    "log.queue.*",
    "log.user.*",
    "log.upgrade.*",
    "log.federation.*",
    "log.shovel.*",
    "collect_statistics",
    "collect_statistics_interval",
    "management.*",
    "management_agent.*",
    "prometheus.*",
    "http_dispatch.*",
    "mqtt.*",
    "stomp.*",
    "web_mqtt.*",
    "web_stomp.*",
    "stream.*",
    "shovel.*",
    "federation.*",
    "event_exchange.*",
    "message_interceptors.*",
    "queue_types.*",
    "exchange_types.*",
    "runtime_parameters.limits.$",
    "cluster_tags.$",
    "node_tags.$",
    "trust_store.*",
    "tracing.*",
    "motd_file",
    "product.version",
    "auth.scram",
    "kafka.*",
};

static const char *const meaningless[] = {
    "tcp_listen_options.*",
    "num_acceptors.$",
    "ranch_connection_max",
    "socket_writer.gc_threshold",
    "erlang.K",
    "cluster_formation.*",
    "cluster_partition_handling",
    "cluster_partition_handling.*",
    "cluster_keepalive_interval",
    "net_ticktime",
    "distribution.*",
    "raft.*",
    "metadata_store.*",
    "vm_memory_high_watermark_paging_ratio",
    "vm_memory_calculation_strategy",
    "memory_monitor_interval",
    "queue_index_embed_msgs_below",
    "queue_master_locator",
    "quorum_queue.*",
    "classic_queue.*",
    "stream.replication.*",
    "stream.data_dir",
    "stream.read_ahead",
    "stream.read_ahead_limit",
    "deprecated_features.permit.$",
    "sysmon_handler.*",
    "delegate_count",
    "default_worker_pool_size",
    "mirroring_sync_batch_size",
    "mirroring_sync_max_throughput",
    "hipe_compile",
    "mnesia_table_loading_retry_timeout",
    "mnesia_table_loading_retry_limit",
    "message_store_shutdown_timeout",
    "background_gc_enabled",
    "background_gc_target_interval",
    "vhost_restart_strategy",
    "prevent_startup_if_node_was_reset",
    "ssl_allow_poodle_attack",
    "channel_interceptor.priorities.$",
    "amqp_client.*",
    "amqp10_client.*",
    "aws.*",
    "log.summarize_process_state",
    "log.error_logger_format_depth",
    "log.console.stdio",
    "log.console.use_colors",
    "log.console.color_esc_seqs.$",
    "log.mirroring.*",
    "log.ra.*",
    "log.default.rotation.*",
};

/* Takes the word before the next dot off. */
static struct slice take_word(const char **at)
{
    const char *start = *at, *end = strchrnul(start, '.');

    *at = *end ? end + 1 : end;
    return slice_of(start, (size_t)(end - start));
}

bool key_matches(const char *pattern, const char *key)
{
    while (*pattern && *key) {
        struct slice wanted = take_word(&pattern), word = take_word(&key);
        if (slice_is(wanted, "*"))
            return true;
        if (!slice_is(wanted, "$") && !slice_equal(wanted, word))
            return false;
    }
    return !*pattern && !*key;
}

static bool is_in(const char *const *patterns, size_t count, const char *key)
{
    for (size_t i = 0; i < count; i++)
        if (key_matches(patterns[i], key))
            return true;
    return false;
}

bool key_is_meaningless(const char *key)
{
    return is_in(meaningless, COUNT(meaningless), key);
}

bool key_is_for_later(const char *key)
{
    return is_in(for_later, COUNT(for_later), key);
}

/* ---- suggestions ---- */

/* The pattern with the key's words for its wildcards: what the key would be if it were right.
 * Returns false when the key has too few words for that. */
static bool fill_in(const char *pattern, const char *key, char text[static CONF_KEY_MAX + 1])
{
    struct writer w = writer_of(text, CONF_KEY_MAX);

    while (*pattern) {
        struct slice wanted = take_word(&pattern);
        const char *rest = key;
        struct slice word = take_word(&key);
        if (slice_is(wanted, "*"))
            word = slice_text(rest);
        else if (!slice_is(wanted, "$"))
            word = wanted;
        if (word.size == 0)
            return false;
        if (w.at != w.start)
            write_u8(&w, '.');
        write_bytes(&w, word);
    }
    text[writer_size(&w)] = 0;
    return !w.failed;
}

/* How many bytes to insert, remove or replace (Levenshtein), row by row. */
static size_t distance(const char *a, const char *b)
{
    size_t row[CONF_KEY_MAX + 1];
    size_t size = strnlen(b, CONF_KEY_MAX);

    for (size_t j = 0; j <= size; j++)
        row[j] = j;
    for (size_t i = 1; a[i - 1]; i++) {
        size_t diagonal = row[0];
        row[0] = i;
        for (size_t j = 1; j <= size; j++) {
            size_t replaced = diagonal + (a[i - 1] != b[j - 1]);
            size_t other = (row[j] < row[j - 1] ? row[j] : row[j - 1]) + 1;
            diagonal = row[j];
            row[j] = replaced < other ? replaced : other;
        }
    }
    return row[size];
}

void key_suggest(const char *pattern, const char *key, struct key_suggestion *best)
{
    char text[CONF_KEY_MAX + 1];

    if (!fill_in(pattern, key, text))
        return;
    size_t far = distance(key, text);
    if (far < best->distance) {
        best->distance = far;
        memcpy(best->text, text, sizeof text);
    }
}

void key_suggest_others(const char *key, struct key_suggestion *best)
{
    for (size_t i = 0; i < COUNT(for_later); i++)
        key_suggest(for_later[i], key, best);
    for (size_t i = 0; i < COUNT(meaningless); i++)
        key_suggest(meaningless[i], key, best);
}

bool key_suggestion_is_near(const struct key_suggestion *best, const char *key)
{
    size_t size = strlen(key);
    return best->distance <= (size < 12 ? 2 : size / 5);
}
