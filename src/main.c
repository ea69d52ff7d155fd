/*
 * The broker's process: options, configuration, the explicit table of protocols, start and stop.
 */
#include "base/assert.h"
#include "base/memory.h"
#include "broker/worker.h"
#include "config/settings.h"
#include "loop/real.h"
#include "net/server.h"
#include "protocols/amqp091/session.h"
#include "store/local/local.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define EXIT_USAGE 2

struct process {
    const char *data_dir;
    struct conf conf;
    struct settings settings;
    struct logger logger;
    struct loop *loop;
    struct store *store;
    struct worker *worker;
    struct server *servers[SETTINGS_LISTENERS_MAX];
    unsigned server_count;
    struct timer drained;
    unsigned port_offset;
    bool stopping;
    bool start_failed; /* storage is as it was found; files may still be open */
    int exit_code;
    uint64_t started_ns;
};

/* ---- the command line ---- */

static void print_help(void)
{
    puts("Usage: sluice [OPTION]...\n"
         "\n"
         "Runs the sluice message broker until it gets TERM or INT.\n"
         "\n"
         "  --config FILE|DIR   read the configuration: a file in the format of rabbitmq.conf,\n"
         "                      or a directory whose *.conf files are read in order\n"
         "  --data-dir DIR      keep all data there (default: ./data)\n"
         "  --set KEY=VALUE     set a configuration key; wins over files; repeatable\n"
         "  --port-offset N     add N to every default port\n"
         "  --list-settings     print every configuration key, its type, default and meaning\n"
         "  --help              print this help\n"
         "  --version           print the version\n"
         "\n"
         "Exit status: 0 stopped as asked, 1 could not start or had to stop, 2 wrong usage.");
}

static void print_settings(void)
{
    const struct setting_help *help;

    for (unsigned i = 0; (help = settings_help(i)); i++)
        printf("%s\n    %s, default %s\n    %s\n", help->key, help->type,
               help->standard ? help->standard : "none", help->help);
}

static int usage(const char *text)
{
    fprintf(stderr, "sluice: %s\nTry 'sluice --help'.\n", text);
    return EXIT_USAGE;
}

static int parse_offset(const char *text, unsigned *offset)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);

    if (errno || *end || end == text || value > 60000)
        return E_INVALID;
    *offset = (unsigned)value;
    return 0;
}

enum {
    OPTION_CONFIG = 1,
    OPTION_DATA,
    OPTION_SET,
    OPTION_OFFSET,
    OPTION_SETTINGS,
    OPTION_HELP,
    OPTION_VERSION
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"data-dir", required_argument, NULL, OPTION_DATA},
    {"set", required_argument, NULL, OPTION_SET},
    {"port-offset", required_argument, NULL, OPTION_OFFSET},
    {"list-settings", no_argument, NULL, OPTION_SETTINGS},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

/* -1: go on; else the exit code. Files are read first, whatever the order, so that --set wins. */
static int parse_command_line(struct process *process, int argc, char **argv)
{
    struct failure failure = {0};
    const char **sets = memory_new((size_t)argc * sizeof *sets);
    size_t set_count = 0;
    int code = -1;

    for (int option; code < 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case OPTION_CONFIG:
            if (conf_load(&process->conf, optarg, &failure) != 0)
                code = EXIT_USAGE;
            break;
        case OPTION_DATA:
            process->data_dir = optarg;
            break;
        case OPTION_SET:
            sets[set_count++] = optarg;
            break;
        case OPTION_OFFSET:
            if (parse_offset(optarg, &process->port_offset) != 0)
                code = usage("--port-offset takes a number from 0 to 60000");
            break;
        case OPTION_SETTINGS:
            print_settings();
            code = 0;
            break;
        case OPTION_HELP:
            print_help();
            code = 0;
            break;
        case OPTION_VERSION:
            puts("sluice " SLUICE_VERSION);
            code = 0;
            break;
        default:
            fputs("Try 'sluice --help'.\n", stderr);
            code = EXIT_USAGE;
        }
    }
    if (code < 0 && optind < argc)
        code = usage("there are no arguments besides options");
    for (size_t i = 0; code < 0 && i < set_count; i++) {
        if (conf_set(&process->conf, sets[i], &failure) != 0)
            code = EXIT_USAGE;
    }
    free(sets);
    if (failure.text[0])
        fprintf(stderr, "sluice: %s\n", failure.text);
    return code;
}

static void warn(void *context, const char *text)
{
    struct process *process = context;
    log_warning(&process->logger, "config", "%s", text);
}

/* Settings know nothing of the system: a node is called after its host unless told otherwise. */
static void name_after_host(struct settings *settings)
{
    char host[128];

    if (gethostname(host, sizeof host) != 0)
        return;
    host[sizeof host - 1] = 0;
    bool cluster_too = strcmp(settings->cluster_name, settings->node_name) == 0;
    snprintf(settings->node_name, sizeof settings->node_name, "sluice@%s", host);
    if (cluster_too)
        memcpy(settings->cluster_name, settings->node_name, sizeof settings->cluster_name);
}

static int configure(struct process *process)
{
    struct failure failure;

    if (settings_from_conf(&process->settings, &process->conf, process->port_offset, warn, process,
                           &failure) != 0) {
        fprintf(stderr, "sluice: %s\n", failure.text);
        return EXIT_USAGE;
    }
    if (!conf_get(&process->conf, "node_name"))
        name_after_host(&process->settings);
    process->logger.level = process->settings.log_level;
    if (process->settings.log_file[0]) {
        int file =
            open(process->settings.log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        if (file < 0) {
            fprintf(stderr, "sluice: log file %s: %s\n", process->settings.log_file,
                    strerror(errno));
            return EXIT_FAILURE;
        }
        process->logger.descriptor = file;
    } else if (!process->settings.log_console) {
        process->logger.descriptor = -1;
    }
    return 0;
}

/* ---- the system ---- */

static void raise_descriptor_limit(const struct logger *logger)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        log_warning(logger, "start", "the limit of open files cannot be raised: %s",
                    strerror(errno));
}

static uint64_t memory_total(const struct settings *settings)
{
    if (settings->memory_total_override)
        return settings->memory_total_override;
    long pages = sysconf(_SC_PHYS_PAGES), size = sysconf(_SC_PAGESIZE);
    return pages > 0 && size > 0 ? (uint64_t)pages * (uint64_t)size : 0;
}

static uint64_t watermark_bytes(const struct watermark_setting *watermark, uint64_t total)
{
    return watermark->is_relative ? (uint64_t)(watermark->relative * (double)total)
                                  : watermark->absolute;
}

/* Tells systemd, where it is who started us (sd_notify(3): one datagram to the named socket). */
static void notify(const char *state)
{
    const char *path = getenv("NOTIFY_SOCKET");
    struct sockaddr_un address = {.sun_family = AF_UNIX};

    if (!path || strlen(path) >= sizeof address.sun_path)
        return;
    memcpy(address.sun_path, path, strlen(path));
    if (address.sun_path[0] == '@')
        address.sun_path[0] = 0;
    int descriptor = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return;
    socklen_t size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + strlen(path));
    ssize_t sent = sendto(descriptor, state, strlen(state), MSG_NOSIGNAL,
                          (const struct sockaddr *)&address, size);
    (void)sent; /* nobody who must know */
    close(descriptor);
}

/* ---- stopping ---- */

#define DRAIN_NS (5000 * NANOSECONDS_PER_MS)

static void stopped(void *context)
{
    struct process *process = context;
    loop_stop(process->loop);
}

/* Waits until the last connection is gone, closing what is left at the deadline. */
static void drain_step(struct timer *timer)
{
    struct process *process = CONTAINER_OF(timer, struct process, drained);
    unsigned left = 0;

    for (unsigned i = 0; i < process->server_count; i++)
        left += server_connection_count(process->servers[i]);
    if (left == 0 && worker_client_count(process->worker) == 0) {
        worker_stop(process->worker, stopped, process);
        return;
    }
    timer_set(timer, loop_now_ns(process->loop) + 2 * NANOSECONDS_PER_MS);
}

static void begin_stop(struct process *process, const char *reason)
{
    if (process->stopping)
        return;
    process->stopping = true;
    log_info(&process->logger, "stop", "%s: connections are closed, then storage", reason);
    notify("STOPPING=1");
    for (unsigned i = 0; i < process->server_count; i++)
        server_drain(process->servers[i], "broker forced connection closure with reason 'shutdown'",
                     loop_now_ns(process->loop) + DRAIN_NS);
    timer_init(&process->drained, process->loop, drain_step);
    timer_set(&process->drained, loop_now_ns(process->loop));
}

static void on_stop_signal(void *context, int signal_number)
{
    (void)signal_number;
    begin_stop(context, "asked to stop");
}

static void on_hangup(void *context, int signal_number)
{
    (void)signal_number;
    struct process *process = context;

    if (process->settings.log_file[0]) {
        int file =
            open(process->settings.log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        if (file >= 0) {
            dup3(file, process->logger.descriptor, O_CLOEXEC);
            close(file);
        }
    }
    log_info(&process->logger, "config", "the log file was opened anew");
}

/* ---- starting ---- */

static int listen_on(struct process *process, const struct listener_setting *listener)
{
    const struct settings *s = &process->settings;
    struct server_protocol protocols[] = {{&amqp091_protocol, process->worker}};
    struct server_options server = {
        .loop = process->loop,
        .logger = &process->logger,
        .listen = {.host = listener->host[0] ? listener->host : NULL,
                   .port = listener->port,
                   .backlog = s->tcp.backlog,
                   .no_delay = s->tcp.no_delay,
                   .keepalive = s->tcp.keepalive,
                   .send_buffer = s->tcp.send_buffer,
                   .receive_buffer = s->tcp.receive_buffer},
        .protocols = protocols,
        .protocol_count = 1,
        .handshake_ms = s->handshake_timeout_ms,
    };
    struct failure failure;

    int result = server_open(&server, &process->servers[process->server_count], &failure);
    if (result != 0) {
        log_error(&process->logger, "start", "%s", failure.text);
        return result;
    }
    log_info(&process->logger, "start", "AMQP 0-9-1 on %s port %u",
             listener->host[0] ? listener->host : "every address",
             server_port(process->servers[process->server_count]));
    process->server_count++;
    return 0;
}

static void worker_is_started(void *context, const struct worker_started *what)
{
    struct process *process = context;
    const struct log_opened *log = &what->log;

    if (what->result != 0) {
        log_error(&process->logger, "start", "%s: %s", process->data_dir, what->failure.text);
        process->start_failed = true;
        loop_stop(process->loop);
        return;
    }
    if (log->torn_bytes > 0)
        log_warning(&process->logger, "recovery",
                    "%" PRIu64 " bytes at the end of the log were never confirmed: cut off",
                    log->torn_bytes);
    if (log->corrupt_blocks > 0)
        log_error(&process->logger, "recovery", "%" PRIu64 " blocks are corrupt: set aside",
                  log->corrupt_blocks);
    log_info(&process->logger, "recovery",
             "%s, %" PRIu64 " queues, %" PRIu64 " messages, %" PRIu64 " records read",
             log->clean ? "stopped cleanly" : "not stopped cleanly (or new)", what->queues,
             what->messages, log->records_replayed);
    for (unsigned i = 0; i < process->settings.amqp.count; i++) {
        if (listen_on(process, &process->settings.amqp.at[i]) != 0) {
            begin_stop(process, "a listener cannot be opened");
            return;
        }
    }
    process->exit_code = EXIT_SUCCESS;
    log_info(&process->logger, "start",
             "sluice " SLUICE_VERSION " is ready after %" PRIu64 " ms, data in %s",
             (loop_now_ns(process->loop) - process->started_ns) / NANOSECONDS_PER_MS,
             process->data_dir);
    notify("READY=1");
}

static enum log_sync sync_policy(const char *name)
{
    if (strcmp(name, "interval") == 0)
        return LOG_SYNC_INTERVAL;
    return strcmp(name, "never") == 0 ? LOG_SYNC_NEVER : LOG_SYNC_ALWAYS;
}

static void fill_broker_settings(struct broker_settings *broker, const struct settings *s)
{
    broker->frame_max = s->frame_max;
    broker->channel_max = s->channel_max;
    broker->heartbeat_s = s->heartbeat_s;
    broker->handshake_ms = s->handshake_timeout_ms;
    broker->message_size_max = s->max_message_size;
    broker->consumers_per_channel_max = s->consumer_max_per_channel;
    snprintf(broker->product_name, sizeof broker->product_name, "%s", s->product_name);
    snprintf(broker->cluster_name, sizeof broker->cluster_name, "%s", s->cluster_name);
    snprintf(broker->node_name, sizeof broker->node_name, "%s", s->node_name);
    snprintf(broker->default_vhost, sizeof broker->default_vhost, "%s", s->default_vhost);
}

static void start_worker(struct process *process)
{
    const struct settings *s = &process->settings;
    uint64_t total = memory_total(s);
    struct worker_options worker;

    worker_options_default(&worker);
    worker.loop = process->loop;
    worker.stores = &process->store;
    worker.store_count = 1;
    worker.logger = &process->logger;
    fill_broker_settings(&worker.settings, s);
    worker.log.sync = sync_policy(s->sync);
    worker.log.sync_interval_ms = s->sync_interval_ms;
    worker.log.segment_bytes_min = (uint32_t)s->segment_bytes_min;
    worker.log.segment_bytes_max = (uint32_t)s->segment_bytes_max;
    worker.log.checkpoint_bytes = (uint32_t)s->checkpoint_bytes;
    worker.default_user = s->default_user;
    worker.default_pass = s->default_pass;
    worker.default_tags = s->default_tags;
    worker.default_configure = s->default_configure;
    worker.default_write = s->default_write;
    worker.default_read = s->default_read;
    worker.loopback_users = s->loopback_users;
    worker.connections_max = s->max_connections;
    worker.memory_high_bytes = watermark_bytes(&s->memory_watermark, total);
    worker.disk_low_bytes = watermark_bytes(&s->disk_free_limit, total);
    if (worker.memory_high_bytes && worker.hot_bytes_max > worker.memory_high_bytes * 2 / 5)
        worker.hot_bytes_max = worker.memory_high_bytes * 2 / 5;
    process->worker = worker_start(&worker, worker_is_started, process);
}

static int open_storage(struct process *process)
{
    struct failure failure = {0};

    process->loop = loop_new_real(&failure);
    if (!process->loop) {
        log_error(&process->logger, "start", "%s", failure.text);
        return EXIT_FAILURE;
    }
    if (store_local_open(process->loop, process->data_dir, &process->store, &failure) != 0) {
        log_error(&process->logger, "start", "%s", failure.text);
        return EXIT_FAILURE;
    }
    return 0;
}

static int run(struct process *process)
{
    if (loop_on_signal(process->loop, SIGTERM, on_stop_signal, process) != 0 ||
        loop_on_signal(process->loop, SIGINT, on_stop_signal, process) != 0 ||
        loop_on_signal(process->loop, SIGHUP, on_hangup, process) != 0) {
        log_error(&process->logger, "start", "signals cannot be handled");
        return EXIT_FAILURE;
    }
    process->started_ns = loop_now_ns(process->loop);
    start_worker(process);
    loop_run(process->loop);
    log_info(&process->logger, "stop", "stopped");
    return process->exit_code;
}

static void tear_down(struct process *process)
{
    for (unsigned i = 0; i < process->server_count; i++)
        server_free(process->servers[i]);
    conf_fini(&process->conf);
    if (process->start_failed)
        return;
    if (process->worker)
        worker_free(process->worker);
    if (process->store)
        store_free(process->store);
    if (process->loop)
        loop_free(process->loop);
}

int main(int argc, char **argv)
{
    struct process process = {
        .data_dir = "data",
        .logger = {.level = LOG_INFO, .descriptor = STDERR_FILENO},
        .exit_code = EXIT_FAILURE,
    };

    conf_init(&process.conf);
    int code = parse_command_line(&process, argc, argv);
    bool go_on = code < 0;
    if (go_on)
        code = configure(&process);
    if (go_on && code == 0) {
        signal(SIGPIPE, SIG_IGN);
        mallopt(M_MMAP_THRESHOLD, 4 << 20);  /* what a password check needs goes back at once */
        mallopt(M_TRIM_THRESHOLD, 16 << 20); /* the heap of messages shrinks, but not each time */
        raise_descriptor_limit(&process.logger);
        code = open_storage(&process);
        if (code == 0)
            code = run(&process);
    }
    tear_down(&process);
    return code;
}
