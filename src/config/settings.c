/*
 * The table of what can be configured, and how values are read.
 *
 * Each row names a key, says how its value is read and where it goes. Rows without a reader belong
 * to a group of keys that only make sense together (listeners, tags, log outputs, watermarks); a
 * function for each group collects them after the rows are done.
 */
#include "config/settings.h"

#include "base/assert.h"
#include "config/keys.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define KIB 1024ull
#define MIB (1024 * KIB)
#define GIB (1024 * MIB)

#define FILE_NAME_DEFAULT "sluice.log"

struct reading {
    struct settings *settings;
    const struct conf *conf;
    unsigned port_offset;
    void (*warn)(void *context, const char *text);
    void *context;
    struct failure *failure;
};

struct setting;
typedef int read_value(const struct reading *reading, const struct setting *setting,
                       const struct conf_entry *entry);

struct setting {
    struct setting_help help;
    read_value *read; /* NULL: its group reads it */
    size_t offset, size;
    uint64_t low, high;
};

static read_value read_number, read_count, read_size, read_boolean, read_text, read_sync,
    read_workers, read_locator;

#define PLACE(member)                                                                              \
    .offset = offsetof(struct settings, member), .size = sizeof((struct settings *)NULL)->member
#define NUMBER(key, type, standard, help, member, low, high)                                       \
    {                                                                                              \
        {key, type, standard, help}, read_number, PLACE(member), low, high                         \
    }
#define COUNT_OF(key, standard, help, member)                                                      \
    {                                                                                              \
        {key, "number, infinity", standard, help}, read_count, PLACE(member), 1, UINT32_MAX        \
    }
#define SIZE(key, standard, help, member, low, high)                                               \
    {                                                                                              \
        {key, "size", standard, help}, read_size, PLACE(member), low, high                         \
    }
#define BOOLEAN(key, standard, help, member)                                                       \
    {                                                                                              \
        {key, "true, false", standard, help}, read_boolean, PLACE(member), 0, 0                    \
    }
#define TEXT(key, type, standard, help, member, shortest)                                          \
    {                                                                                              \
        {key, type, standard, help}, read_text, PLACE(member), shortest, 0                         \
    }
#define GROUPED(key, type, standard, help)                                                         \
    {                                                                                              \
        {key, type, standard, help}, NULL, 0, 0, 0, 0                                              \
    }

static const struct setting table[] = {
    GROUPED("listeners.tcp", "none, [HOST:]PORT", "5672", "where AMQP is served; none: nowhere"),
    GROUPED("listeners.tcp.$", "[HOST:]PORT", NULL, "one of several places where AMQP is served"),
    GROUPED("management.tcp.port", "none, PORT", "15672", "where the management API is served"),
    GROUPED("management.tcp.ip", "address", NULL, "the same: on this address alone"),
    NUMBER("management.tcp.idle_timeout", "milliseconds", "60000",
           "until a connection on which nothing moves is closed", management_idle_timeout_ms, 100,
           86400000),
    NUMBER("management.tcp.request_timeout", "milliseconds", "5000",
           "from the first byte of a request to its last header", management_request_timeout_ms,
           100, 86400000),
    GROUPED("prometheus.tcp.port", "none, PORT", "15692", "where metrics are served"),
    GROUPED("prometheus.tcp.ip", "address", NULL, "the same: on this address alone"),
    NUMBER("tcp_listen_options.backlog", "number", "128", "connections waiting to be accepted",
           tcp.backlog, 1, 65535),
    BOOLEAN("tcp_listen_options.nodelay", "true", "send small packets at once", tcp.no_delay),
    BOOLEAN("tcp_listen_options.keepalive", "false", "TCP keep-alive probes", tcp.keepalive),
    SIZE("tcp_listen_options.sndbuf", "0", "send buffer of a socket; 0: the system's",
         tcp.send_buffer, 0, GIB),
    SIZE("tcp_listen_options.recbuf", "0", "receive buffer of a socket; 0: the system's",
         tcp.receive_buffer, 0, GIB),
    NUMBER("handshake_timeout", "milliseconds", "10000", "from a connection to an open session",
           handshake_timeout_ms, 1, 3600000),
    NUMBER("heartbeat", "seconds", "60", "heartbeat proposed to clients; 0: none", heartbeat_s, 0,
           65535),
    SIZE("frame_max", "131072", "largest frame of AMQP 0-9-1", frame_max, 4096, 16 * MIB),
    NUMBER("channel_max", "number", "2047", "channels of a connection; 0: as many as there can be",
           channel_max, 0, 65535),
    NUMBER("max_channels_per_connection", "number", NULL, "the same", channel_max, 0, 65535),
    COUNT_OF("max_connections", "infinity", "connections at a time", max_connections),
    COUNT_OF("connection_max", NULL, "the same", max_connections),
    COUNT_OF("consumer_max_per_channel", "infinity", "consumers of a channel",
             consumer_max_per_channel),
    SIZE("max_message_size", "16777216", "largest body of a message; up to 512 MiB",
         max_message_size, 0, 512 * MIB),
    TEXT("default_vhost", "text", "/", "virtual host that a new node has", default_vhost, 1),
    TEXT("default_user", "text", "guest", "user that a new node has", default_user, 1),
    TEXT("default_pass", "text", "guest", "that user's password", default_pass, 0),
    TEXT("default_permissions.configure", "pattern", ".*", "what that user may declare and delete",
         default_configure, 0),
    TEXT("default_permissions.write", "pattern", ".*", "where that user may publish", default_write,
         0),
    TEXT("default_permissions.read", "pattern", ".*", "from where that user may consume",
         default_read, 0),
    GROUPED("default_user_tags.$", "true, false", NULL,
            "that user's tags; without any it is administrator"),
    GROUPED("loopback_users", "none", NULL, "none: every user may come from everywhere"),
    GROUPED("loopback_users.$", "true, false", NULL,
            "users who may come from this machine only; without any it is guest"),
    TEXT("cluster_name", "text", NULL, "told to clients; the node's name if not given",
         cluster_name, 1),
    TEXT("node_name", "text", "sluice@localhost", "name of this node", node_name, 1),
    TEXT("product_name", "text", "RabbitMQ", "told to clients, some of which ask for RabbitMQ",
         product_name, 1),
    TEXT("product.name", "text", NULL, "the same", product_name, 1),
    GROUPED("vm_memory_high_watermark.relative", "fraction", "0.6",
            "publishers are held back when the broker uses this much of the memory there is"),
    GROUPED("vm_memory_high_watermark.absolute", "size", NULL, "the same as a size; wins"),
    SIZE("total_memory_available_override_value", "0",
         "the memory there is; 0: what the system or the container has", memory_total_override, 0,
         UINT64_MAX),
    GROUPED("disk_free_limit.absolute", "size", "50MB",
            "publishers are held back when the disk has less room than this; wins"),
    GROUPED("disk_free_limit.relative", "factor", NULL, "the same in terms of the memory there is"),
    BOOLEAN("log.console", "true", "log lines to standard error", log_console),
    GROUPED("log.console.level", "level", NULL, "debug, info, warning, error or none"),
    GROUPED("log.file", "false, NAME", "false",
            "log lines to that file, in log.dir unless it has a path"),
    GROUPED("log.file.level", "level", NULL, "debug, info, warning, error or none"),
    GROUPED("log.dir", "path", NULL,
            "where log files are; alone it means " FILE_NAME_DEFAULT " there"),
    GROUPED("log.default.level", "level", "info", "for outputs without a level of their own"),
    {{"workers", "auto, number", "auto",
      "threads that serve; auto: as many as there are processors for this process"},
     read_workers,
     PLACE(workers),
     1,
     SETTINGS_WORKERS_MAX},
    {{"queue_leader_locator", "client-local, balanced", "client-local",
      "where a new queue lives: with the worker of whoever declares it; with each in turn"},
     read_locator,
     PLACE(queues_balanced),
     0,
     0},
    {{"sync", "always, interval, never", "always",
      "a confirm means: on disk; written, and synced every sync_interval; written"},
     read_sync,
     PLACE(sync),
     0,
     0},
    NUMBER("sync_interval", "milliseconds", "1000", "between syncs, with sync = interval",
           sync_interval_ms, 1, 60000),
    SIZE("segment_size_min", "8MiB", "first segments of the log", segment_bytes_min, 64 * KIB, GIB),
    SIZE("segment_size_max", "128MiB", "segments of the log grow to this with the load",
         segment_bytes_max, 64 * KIB, GIB),
    TEXT("encryption.key_file", "path", NULL,
         "the log is encrypted: a file with the master keys, `NUMBER KEY` a line, the current one "
         "first",
         encryption.key_file, 1),
    TEXT("encryption.key_env", "name", NULL, "the same, from a variable of the environment",
         encryption.key_env, 1),
    TEXT("encryption.key_command", "command", NULL, "the same, as this command prints them",
         encryption.key_command, 1),
    BOOLEAN("encryption.enabled", "true",
            "with keys; false: they are for what is encrypted already, and nothing more is",
            encryption.is_on),
    SIZE("checkpoint_interval_bytes", "256MiB",
         "of log between checkpoints: what is replayed after an unclean stop", checkpoint_bytes,
         64 * KIB, 2 * GIB),
};

#define SETTINGS (sizeof table / sizeof table[0])

const struct setting_help *settings_help(unsigned index)
{
    return index < SETTINGS ? &table[index].help : NULL;
}

/* ---- telling ---- */

static int refuse(const struct reading *reading, const struct conf_entry *entry, const char *format,
                  ...) PRINTF_LIKE(3, 4);

static const char *place(const struct conf_entry *entry, char *text, size_t size)
{
    if (entry->line == 0)
        snprintf(text, size, "%s", entry->source);
    else
        snprintf(text, size, "%s:%u", entry->source, entry->line);
    return text;
}

static int refuse(const struct reading *reading, const struct conf_entry *entry, const char *format,
                  ...)
{
    char cause[200], where[200];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(cause, sizeof cause, format, arguments);
    va_end(arguments);
    return fail(reading->failure, E_INVALID, "%s: %s = %.60s: %s",
                place(entry, where, sizeof where), entry->key, entry->value, cause);
}

static void warn(const struct reading *reading, const struct conf_entry *entry, const char *what)
{
    char text[CONF_KEY_MAX + 400], where[200];

    if (!reading->warn)
        return;
    snprintf(text, sizeof text, "%s: %s %s", place(entry, where, sizeof where), entry->key, what);
    reading->warn(reading->context, text);
}

/* ---- reading values ---- */

static void store(const struct reading *reading, const struct setting *setting, uint64_t value)
{
    uint8_t *to = (uint8_t *)reading->settings + setting->offset;

    if (setting->size == 8) {
        memcpy(to, &value, 8);
    } else {
        uint32_t narrow = (uint32_t)value; /* the row's range fits */
        ASSERT(setting->size == 4 && value <= UINT32_MAX);
        memcpy(to, &narrow, 4);
    }
}

/* Digits only; what follows them is left in *rest. */
static bool parse_number(const char *text, uint64_t *value, const char **rest)
{
    const char *at = text;

    for (*value = 0; *at >= '0' && *at <= '9'; at++)
        if (__builtin_mul_overflow(*value, 10u, value) ||
            __builtin_add_overflow(*value, (uint64_t)(*at - '0'), value))
            return false;
    *rest = at;
    return at != text;
}

static int read_number(const struct reading *reading, const struct setting *setting,
                       const struct conf_entry *entry)
{
    uint64_t value;
    const char *rest;

    if (!parse_number(entry->value, &value, &rest) || *rest || value < setting->low ||
        value > setting->high)
        return refuse(reading, entry, "expected a number from %" PRIu64 " to %" PRIu64,
                      setting->low, setting->high);
    store(reading, setting, value);
    return 0;
}

static int read_count(const struct reading *reading, const struct setting *setting,
                      const struct conf_entry *entry)
{
    if (strcmp(entry->value, "infinity") != 0)
        return read_number(reading, setting, entry);
    store(reading, setting, 0);
    return 0;
}

static int read_workers(const struct reading *reading, const struct setting *setting,
                        const struct conf_entry *entry)
{
    if (strcmp(entry->value, "auto") != 0)
        return read_number(reading, setting, entry);
    store(reading, setting, 0);
    return 0;
}

/* Units as RabbitMQ has them since 3.13: k, kB 1000; Ki, KiB 1024; and so on, in any case. */
static bool parse_size(const char *text, uint64_t *value)
{
    static const char letters[] = "kmgtp";
    const char *rest;

    if (!parse_number(text, value, &rest))
        return false;
    if (!*rest)
        return true;
    const char *letter = strchr(letters, *rest | 0x20);
    if (!letter)
        return false;
    rest++;
    bool is_binary = (*rest | 0x20) == 'i';
    rest += is_binary;
    rest += (*rest | 0x20) == 'b';
    if (*rest)
        return false;
    for (const char *at = letters; at <= letter; at++)
        if (__builtin_mul_overflow(*value, is_binary ? 1024u : 1000u, value))
            return false;
    return true;
}

static int read_size(const struct reading *reading, const struct setting *setting,
                     const struct conf_entry *entry)
{
    uint64_t value;

    if (!parse_size(entry->value, &value))
        return refuse(reading, entry, "expected a size like 500, 64KiB, 50MB or 2GB");
    if (value < setting->low || value > setting->high)
        return refuse(reading, entry, "expected a size from %" PRIu64 " to %" PRIu64 " bytes",
                      setting->low, setting->high);
    store(reading, setting, value);
    return 0;
}

static int parse_boolean(const struct reading *reading, const struct conf_entry *entry, bool *value)
{
    *value = strcmp(entry->value, "true") == 0 || strcmp(entry->value, "on") == 0;
    if (!*value && strcmp(entry->value, "false") != 0 && strcmp(entry->value, "off") != 0)
        return refuse(reading, entry, "expected true or false");
    return 0;
}

static int read_boolean(const struct reading *reading, const struct setting *setting,
                        const struct conf_entry *entry)
{
    bool value;
    int result = parse_boolean(reading, entry, &value);

    if (result == 0)
        memcpy((uint8_t *)reading->settings + setting->offset, &value, sizeof value);
    return result;
}

static int read_text(const struct reading *reading, const struct setting *setting,
                     const struct conf_entry *entry)
{
    size_t size = strlen(entry->value);

    if (size < setting->low)
        return refuse(reading, entry, "it may not be empty");
    if (size >= setting->size)
        return refuse(reading, entry, "it is longer than %zu bytes", setting->size - 1);
    memcpy((char *)reading->settings + setting->offset, entry->value, size + 1);
    return 0;
}

static int read_sync(const struct reading *reading, const struct setting *setting,
                     const struct conf_entry *entry)
{
    if (strcmp(entry->value, "always") != 0 && strcmp(entry->value, "interval") != 0 &&
        strcmp(entry->value, "never") != 0)
        return refuse(reading, entry, "expected always, interval or never");
    return read_text(reading, setting, entry);
}

static int read_locator(const struct reading *reading, const struct setting *setting,
                        const struct conf_entry *entry)
{
    bool balanced = strcmp(entry->value, "balanced") == 0;

    if (!balanced && strcmp(entry->value, "client-local") != 0)
        return refuse(reading, entry, "expected client-local or balanced");
    memcpy((uint8_t *)reading->settings + setting->offset, &balanced, sizeof balanced);
    return 0;
}

/* ---- listeners ---- */

static const struct conf_entry *entry_of(const struct reading *reading, const char *key)
{
    for (size_t i = 0; i < reading->conf->count; i++)
        if (strcmp(reading->conf->entries[i].key, key) == 0)
            return &reading->conf->entries[i];
    return NULL;
}

/* PORT, HOST:PORT, ADDRESS:PORT where an IPv6 address may stand in brackets. */
static int parse_listener(const struct reading *reading, const struct conf_entry *entry,
                          struct listener_setting *listener)
{
    const char *colon = strrchr(entry->value, ':'), *port_text = colon ? colon + 1 : entry->value;
    const char *host = entry->value, *rest;
    size_t host_size = colon ? (size_t)(colon - host) : 0;
    uint64_t port;

    if (!parse_number(port_text, &port, &rest) || *rest || port > UINT16_MAX)
        return refuse(reading, entry, "expected a port or HOST:PORT");
    if (host_size >= 2 && host[0] == '[' && host[host_size - 1] == ']') {
        host++;
        host_size -= 2;
    }
    if (colon && host_size == 0)
        return refuse(reading, entry, "there is no host before the port");
    if (host_size >= sizeof listener->host)
        return refuse(reading, entry, "the host is longer than %zu bytes",
                      sizeof listener->host - 1);
    *listener = (struct listener_setting){.port = (uint16_t)port};
    memcpy(listener->host, host, host_size);
    return 0;
}

static int add_listener(const struct reading *reading, const struct conf_entry *entry)
{
    struct listeners_setting *amqp = &reading->settings->amqp;

    if (amqp->count == SETTINGS_LISTENERS_MAX)
        return refuse(reading, entry, "there are more than %d listeners", SETTINGS_LISTENERS_MAX);
    return parse_listener(reading, entry, &amqp->at[amqp->count++]);
}

static int read_listeners(const struct reading *reading)
{
    struct listeners_setting *amqp = &reading->settings->amqp;
    const char *all = conf_get(reading->conf, "listeners.tcp");
    bool are_given = false;

    amqp->count = 0;
    if (all && strcmp(all, "none") == 0)
        return 0;
    for (size_t i = 0; i < reading->conf->count; i++) {
        const struct conf_entry *entry = &reading->conf->entries[i];
        if (!key_matches("listeners.tcp", entry->key) &&
            !key_matches("listeners.tcp.$", entry->key))
            continue;
        int result = add_listener(reading, entry);
        if (result != 0)
            return result;
        are_given = true;
    }
    if (!are_given) {
        if (5672u + reading->port_offset > UINT16_MAX)
            return fail(reading->failure, E_INVALID, "--port-offset %u: ports end at 65535",
                        reading->port_offset);
        amqp->at[amqp->count++].port = (uint16_t)(5672 + reading->port_offset);
    }
    return 0;
}

/* A listener with its address and its port in two keys. */
static int read_web_listener(const struct reading *reading, const char *port_key,
                             const char *ip_key, unsigned standard,
                             struct listeners_setting *listeners)
{
    const struct conf_entry *port = entry_of(reading, port_key), *ip = entry_of(reading, ip_key);
    struct listener_setting *listener = &listeners->at[0];
    const char *rest;
    uint64_t number = standard + reading->port_offset;

    listeners->count = 0;
    if (port && strcmp(port->value, "none") == 0)
        return 0;
    if (port && (!parse_number(port->value, &number, &rest) || *rest || number > UINT16_MAX))
        return refuse(reading, port, "expected a port or none");
    if (number > UINT16_MAX)
        return fail(reading->failure, E_INVALID, "--port-offset %u: ports end at 65535",
                    reading->port_offset);
    if (ip && strlen(ip->value) >= sizeof listener->host)
        return refuse(reading, ip, "the address is longer than %zu bytes",
                      sizeof listener->host - 1);
    *listener = (struct listener_setting){.port = (uint16_t)number};
    if (ip)
        memcpy(listener->host, ip->value, strlen(ip->value));
    listeners->count = 1;
    return 0;
}

static int read_web_listeners(const struct reading *reading)
{
    int result = read_web_listener(reading, "management.tcp.port", "management.tcp.ip", 15672,
                                   &reading->settings->management);

    if (result == 0)
        result = read_web_listener(reading, "prometheus.tcp.port", "prometheus.tcp.ip", 15692,
                                   &reading->settings->prometheus);
    return result;
}

/* ---- lists that are written as one key for each element ---- */

/* PREFIX.NAME = true for each name, joined with commas. What is there without any is `standard`. */
static int read_names(const struct reading *reading, const char *pattern, const char *standard,
                      char *names, size_t room)
{
    struct writer w = writer_of(names, room - 1);
    bool are_given = false;

    for (size_t i = 0; i < reading->conf->count; i++) {
        const struct conf_entry *entry = &reading->conf->entries[i];
        bool value;
        if (!key_matches(pattern, entry->key))
            continue;
        are_given = true;
        int result = parse_boolean(reading, entry, &value);
        if (result != 0)
            return result;
        if (!value)
            continue;
        if (w.at != w.start)
            write_u8(&w, ',');
        write_bytes(&w, slice_text(strrchr(entry->key, '.') + 1));
        if (w.failed)
            return refuse(reading, entry, "the names are longer than %zu bytes together", room - 1);
    }
    if (!are_given)
        write_bytes(&w, slice_text(standard));
    *w.at = 0;
    return 0;
}

static int read_users_and_tags(const struct reading *reading)
{
    struct settings *s = reading->settings;
    const char *loopback = conf_get(reading->conf, "loopback_users");
    int result = read_names(reading, "default_user_tags.$", "administrator", s->default_tags,
                            sizeof s->default_tags);

    if (result == 0)
        result = read_names(reading, "loopback_users.$", "guest", s->loopback_users,
                            sizeof s->loopback_users);
    if (result != 0 || !loopback)
        return result;
    if (strcmp(loopback, "none") != 0)
        return fail(reading->failure, E_INVALID,
                    "loopback_users = %.60s: expected none (or loopback_users.NAME = true)",
                    loopback);
    s->loopback_users[0] = 0;
    return 0;
}

/* ---- watermarks ---- */

static int parse_fraction(const struct reading *reading, const struct conf_entry *entry,
                          double high, double *value)
{
    char *end;
    size_t size = strlen(entry->value);

    *value = strtod(entry->value, &end);
    if (size == 0 || strspn(entry->value, "0123456789.") != size || *end || !(*value <= high))
        return refuse(reading, entry, "expected a number from 0 to %g", high);
    return 0;
}

static int read_watermark(const struct reading *reading, const char *absolute_key,
                          const char *relative_key, double high,
                          struct watermark_setting *watermark)
{
    const struct conf_entry *absolute = entry_of(reading, absolute_key);
    const struct conf_entry *relative = entry_of(reading, relative_key);

    if (absolute) {
        if (!parse_size(absolute->value, &watermark->absolute))
            return refuse(reading, absolute, "expected a size like 500, 64KiB, 50MB or 2GB");
        watermark->is_relative = false;
    }
    if (!relative)
        return 0;
    int result = parse_fraction(reading, relative, high, &watermark->relative);
    if (result == 0 && absolute)
        warn(reading, relative, "has no effect: the absolute value wins");
    watermark->is_relative = !absolute;
    return result;
}

static int read_watermarks(const struct reading *reading)
{
    struct settings *s = reading->settings;

    s->memory_watermark = (struct watermark_setting){.is_relative = true, .relative = 0.6};
    s->disk_free_limit = (struct watermark_setting){.absolute = 50000000};
    int result = read_watermark(reading, "vm_memory_high_watermark.absolute",
                                "vm_memory_high_watermark.relative", 1, &s->memory_watermark);
    if (result == 0)
        result = read_watermark(reading, "disk_free_limit.absolute", "disk_free_limit.relative",
                                1000, &s->disk_free_limit);
    return result;
}

/* ---- the log ---- */

/* RabbitMQ has more levels: those between ours are told with the next lower one. */
static int parse_level(const struct reading *reading, const char *key, enum log_level *level)
{
    static const char *const errors[] = {"critical", "alert", "emergency"};
    const struct conf_entry *entry = entry_of(reading, key);

    if (!entry)
        return 0;
    if (log_level_parse(entry->value, level) == 0)
        return 0;
    if (strcmp(entry->value, "notice") == 0) {
        *level = LOG_INFO;
        return 0;
    }
    for (size_t i = 0; i < sizeof errors / sizeof errors[0]; i++) {
        if (strcmp(entry->value, errors[i]) == 0) {
            *level = LOG_ERROR;
            return 0;
        }
    }
    return refuse(reading, entry, "expected debug, info, warning, error or none");
}

static int read_log_file(const struct reading *reading)
{
    struct settings *s = reading->settings;
    const struct conf_entry *file = entry_of(reading, "log.file");
    const struct conf_entry *directory = entry_of(reading, "log.dir");
    const char *name = file ? file->value : FILE_NAME_DEFAULT;
    bool is_alone = !directory || name[0] == '/';

    if ((!file && !directory) || strcmp(name, "false") == 0)
        return 0;
    if (!*name || strcmp(name, "true") == 0)
        return refuse(reading, file, "expected false or the name of a file");
    int size = snprintf(s->log_file, sizeof s->log_file, "%s%s%s", is_alone ? "" : directory->value,
                        is_alone ? "" : "/", name);
    if ((size_t)size >= sizeof s->log_file)
        return refuse(reading, file ? file : directory, "the path is longer than %zu bytes",
                      sizeof s->log_file - 1);
    return 0;
}

static int read_log(const struct reading *reading)
{
    struct settings *s = reading->settings;
    enum log_level standard = LOG_INFO, console, file;
    int result = parse_level(reading, "log.default.level", &standard);

    console = file = standard;
    if (result == 0)
        result = parse_level(reading, "log.console.level", &console);
    if (result == 0)
        result = parse_level(reading, "log.file.level", &file);
    if (result == 0)
        result = read_log_file(reading);
    if (!s->log_console)
        console = LOG_NONE;
    if (!s->log_file[0])
        file = LOG_NONE;
    s->log_level = console < file ? console : file;
    return result;
}

/* ---- all together ---- */

static int read_defaults(const struct reading *reading)
{
    for (size_t i = 0; i < SETTINGS; i++) {
        if (!table[i].read || !table[i].help.standard)
            continue;
        char value[64];
        size_t size = strlen(table[i].help.standard);
        ASSERT(size < sizeof value);
        memcpy(value, table[i].help.standard, size + 1);
        struct conf_entry entry = {.key = value, .value = value, .source = "default"};
        int result = table[i].read(reading, &table[i], &entry);
        ASSERT(result == 0); /* the table is wrong */
    }
    return 0;
}

static int refuse_unknown(const struct reading *reading, const struct conf_entry *entry)
{
    struct key_suggestion best = {.distance = SIZE_MAX};
    char where[200];

    for (size_t i = 0; i < SETTINGS; i++)
        key_suggest(table[i].help.key, entry->key, &best);
    key_suggest_others(entry->key, &best);
    place(entry, where, sizeof where);
    if (key_suggestion_is_near(&best, entry->key))
        return fail(reading->failure, E_INVALID, "%s: unknown key %s; did you mean %s?", where,
                    entry->key, best.text);
    return fail(reading->failure, E_INVALID, "%s: unknown key %s", where, entry->key);
}

static int read_entry(const struct reading *reading, const struct conf_entry *entry)
{
    for (size_t i = 0; i < SETTINGS; i++)
        if (key_matches(table[i].help.key, entry->key))
            return table[i].read ? table[i].read(reading, &table[i], entry) : 0;
    if (key_is_meaningless(entry->key))
        warn(reading, entry, "has no meaning here and has no effect");
    else if (key_is_for_later(entry->key))
        warn(reading, entry, "is not supported yet and has no effect");
    else
        return refuse_unknown(reading, entry);
    return 0;
}

static int read_groups(const struct reading *reading)
{
    int result = read_listeners(reading);

    if (result == 0)
        result = read_web_listeners(reading);
    if (result == 0)
        result = read_users_and_tags(reading);
    if (result == 0)
        result = read_watermarks(reading);
    if (result == 0)
        result = read_log(reading);
    return result;
}

/* What depends on several settings. */
static int settle(const struct reading *reading)
{
    struct settings *s = reading->settings;

    if (s->channel_max == 0)
        s->channel_max = UINT16_MAX;
    if (!s->cluster_name[0])
        memcpy(s->cluster_name, s->node_name, sizeof s->cluster_name);
    if (!!s->encryption.key_file[0] + !!s->encryption.key_env[0] + !!s->encryption.key_command[0] >
        1)
        return fail(reading->failure, E_INVALID,
                    "the keys come from one of encryption.key_file, encryption.key_env and "
                    "encryption.key_command");
    if (s->segment_bytes_min > s->segment_bytes_max)
        return fail(reading->failure, E_INVALID,
                    "segment_size_min (%" PRIu64 ") is above segment_size_max (%" PRIu64 ")",
                    s->segment_bytes_min, s->segment_bytes_max);
    return 0;
}

struct key_source settings_key_source(const struct settings *settings)
{
    if (settings->encryption.key_file[0])
        return (struct key_source){KEY_SOURCE_FILE, settings->encryption.key_file};
    if (settings->encryption.key_env[0])
        return (struct key_source){KEY_SOURCE_VARIABLE, settings->encryption.key_env};
    if (settings->encryption.key_command[0])
        return (struct key_source){KEY_SOURCE_COMMAND, settings->encryption.key_command};
    return (struct key_source){.kind = KEY_SOURCE_NONE};
}

int settings_from_conf(struct settings *settings, const struct conf *conf, unsigned port_offset,
                       void (*warn_function)(void *context, const char *text), void *context,
                       struct failure *failure)
{
    struct reading reading = {settings, conf, port_offset, warn_function, context, failure};

    *settings = (struct settings){0};
    int result = read_defaults(&reading);
    for (size_t i = 0; i < conf->count && result == 0; i++)
        result = read_entry(&reading, &conf->entries[i]);
    if (result == 0)
        result = read_groups(&reading);
    if (result == 0)
        result = settle(&reading);
    return result;
}
