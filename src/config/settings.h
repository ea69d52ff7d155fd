/*
 * Everything that can be configured, with its value: the configuration's keys turned into a typed
 * struct, by one table (settings.c) that names each key, its type, its range and its default.
 * `sluice --help` and the manual page list keys from the same table.
 */
#ifndef SLUICE_CONFIG_SETTINGS_H
#define SLUICE_CONFIG_SETTINGS_H

#include "config/conf.h"
#include "config/key_source.h"

#define SETTINGS_LISTENERS_MAX 16
#define SETTINGS_WORKERS_MAX   64

struct listener_setting {
    char host[64]; /* empty: every address */
    uint16_t port;
};

struct listeners_setting {
    struct listener_setting at[SETTINGS_LISTENERS_MAX];
    unsigned count; /* 0: none */
};

struct watermark_setting {
    bool is_relative;
    double relative;   /* of the memory that there is */
    uint64_t absolute; /* bytes */
};

struct settings {
    struct listeners_setting amqp;                   /* listeners.tcp: default 5672 */
    struct listeners_setting management, prometheus; /* one or none: default 15672, 15692 */
    uint32_t management_idle_timeout_ms, management_request_timeout_ms;
    struct {
        int backlog, send_buffer, receive_buffer;
        bool no_delay, keepalive;
    } tcp;
    uint32_t handshake_timeout_ms, heartbeat_s, frame_max, channel_max, max_connections,
        consumer_max_per_channel;
    uint64_t max_message_size;
    char default_vhost[256], default_user[256], default_pass[256], cluster_name[256],
        node_name[256], product_name[64];
    char default_configure[256], default_write[256], default_read[256];
    char default_tags[256];                    /* "administrator", comma separated */
    char loopback_users[1024];                 /* comma separated; empty: none */
    struct watermark_setting memory_watermark; /* 0.6 */
    uint64_t memory_total_override;            /* 0: what the system has */
    struct watermark_setting disk_free_limit;  /* 50 MB */
    enum log_level log_level;                  /* the lower of console and file levels */
    char log_file[1024];                       /* empty: none */
    bool log_console;

    /* sluice's own */
    uint32_t workers; /* 0: as many as there are processors */
    bool queues_balanced;
    char sync[16]; /* sync = always | interval | never */
    uint32_t sync_interval_ms;
    uint64_t segment_bytes_min, segment_bytes_max, checkpoint_bytes;
    struct {
        bool is_on; /* with keys: what is new is encrypted */
        char key_file[1024], key_env[256], key_command[4096]; /* one of them, or none */
    } encryption;
};

/* Where its master keys come from. */
struct key_source settings_key_source(const struct settings *settings);

/* From the entries; port_offset is added to default ports only. Warnings (a RabbitMQ key without
 * meaning here) go to `warn`, one call each. E_INVALID with "source:line: cause". */
int settings_from_conf(struct settings *settings, const struct conf *conf, unsigned port_offset,
                       void (*warn)(void *context, const char *text), void *context,
                       struct failure *failure) MUST_CHECK;

/* Each honoured key with its type, default and one line of help; start at 0, NULL at the end. */
struct setting_help {
    const char *key, *type, *standard, *help;
};
const struct setting_help *settings_help(unsigned index);

#endif
