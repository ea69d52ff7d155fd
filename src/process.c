#include "process.h"

#include "base/assert.h"
#include "base/memory.h"
#include "broker/worker.h"
#include "loop/mail.h"
#include "loop/processors.h"
#include "loop/real.h"
#include "loop/real_watchdog.h"
#include "net/server.h"
#include "process_keys.h"
#include "protocols/amqp091/session.h"
#include "protocols/http/management.h"
#include "protocols/http/metrics.h"
#include "store/local/local.h"
#include "store/local/shards.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define DRAIN_NS (5000 * NANOSECONDS_PER_MS)

_Static_assert(SETTINGS_WORKERS_MAX <= MAIL_MEMBERS_MAX, "every worker has a mailbox");

/* What a listener speaks. */
enum service { SERVICE_AMQP, SERVICE_MANAGEMENT, SERVICE_METRICS, SERVICES };

/* Connections of operators are few; so many are a mistake, or an attack. */
#define OPERATORS_MAX 1000u

#define LISTENERS_MAX (SETTINGS_LISTENERS_MAX + 2)

struct listening {
    const struct listener_setting *where;
    enum service service;
    struct server_group *group; /* NULL: there is one worker */
};

/* One worker's thread and what is its own. */
struct member {
    struct process *process;
    unsigned index;
    pthread_t thread; /* but of the first */
    struct loop *loop;
    struct store **stores;
    unsigned store_count;
    struct worker *worker;
    struct server *servers[LISTENERS_MAX];
    unsigned server_count;
    struct http_site sites[SERVICES]; /* of the services that are HTTP */
    struct timer drained;

    struct post begin; /* to the member: open your servers */
    struct post end;   /* to the member: stop */
    struct post rekey; /* to the member: there are new keys */

    /* To the first: the worker has started; the servers are open. */
    struct post has_started, has_opened, has_rekeyed;
    struct worker_started started;
    int opened, rekeyed;
    struct failure failure; /* of that */
};

/* Keys that are read again: by a helper, since that may take its time; then each member takes them.
 */
struct rekeying {
    struct job job;
    struct process *process;
    int result;
    struct failure failure;
    bool is_under_way, is_wanted_again;
    unsigned awaited;
};

struct process {
    const struct process_options *options;
    const struct settings *settings;
    const struct logger *logger;
    unsigned worker_count, shard_count;
    struct member *members;
    struct office *office; /* NULL: there is one worker */
    struct listening listening[LISTENERS_MAX];
    unsigned listening_count;
    struct watchdog *watchdog;
    struct keyring keys; /* while it starts, and while they are read again */
    struct rekeying rekeying;
    _Atomic uint32_t connections;
    _Atomic bool start_failed; /* storage is as it was found; files may still be open */

    /* the first member's */
    uint64_t started_ns;
    unsigned started; /* workers */
    struct worker_started sum;
    bool is_up; /* servers are open, or have failed to: it can be stopped */
    const char *stop_reason;
    bool is_stopping;
    int exit_code;
};

/* ---- the system ---- */

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

static void worker_is_stopped(void *context)
{
    struct member *member = context;
    loop_stop(member->loop);
}

/* Waits until the member's last connection is gone; the servers close what is left at their
 * deadline. */
static void drain_step(struct timer *timer)
{
    struct member *member = CONTAINER_OF(timer, struct member, drained);
    unsigned left = 0;

    for (unsigned i = 0; i < member->server_count; i++)
        left += server_connection_count(member->servers[i]);
    if (left == 0 && worker_client_count(member->worker) == 0) {
        worker_stop(member->worker, worker_is_stopped, member);
        return;
    }
    timer_set(timer, loop_now_ns(member->loop) + 2 * NANOSECONDS_PER_MS);
}

static void end_member(struct post *post)
{
    struct member *member = CONTAINER_OF(post, struct member, end);

    for (unsigned i = 0; i < member->server_count; i++)
        server_drain(member->servers[i], "broker forced connection closure with reason 'shutdown'",
                     loop_now_ns(member->loop) + DRAIN_NS);
    timer_init(&member->drained, member->loop, drain_step);
    timer_set(&member->drained, loop_now_ns(member->loop));
}

/* On the first member's loop. While the workers start it has to wait. */
static void begin_stop(struct process *process, const char *reason)
{
    if (!process->stop_reason)
        process->stop_reason = reason;
    if (process->is_stopping || !process->is_up)
        return;
    process->is_stopping = true;
    log_info(process->logger, "stop", "%s: connections are closed, then storage",
             process->stop_reason);
    notify("STOPPING=1");
    for (unsigned i = 0; i < process->worker_count; i++)
        loop_post(process->members[i].loop, &process->members[i].end);
}

static void on_stop_signal(void *context, int signal_number)
{
    (void)signal_number;
    begin_stop(context, "asked to stop");
}

/* ---- keys that are read again ---- */

static void begin_rekeying(struct process *process);

static void member_has_rekeyed(struct post *post)
{
    const struct member *member = CONTAINER_OF(post, struct member, has_rekeyed);
    struct process *process = member->process;

    if (member->rekeyed < 0)
        log_error(process->logger, "encryption", "the keys that were read are not taken: %s",
                  member->failure.text);
    if (--process->rekeying.awaited > 0)
        return;
    keyring_wipe(&process->keys);
    process->rekeying.is_under_way = false;
    if (process->rekeying.is_wanted_again)
        begin_rekeying(process);
}

static void rekey_member(struct post *post)
{
    struct member *member = CONTAINER_OF(post, struct member, rekey);

    if (!member->worker) /* the process has ended meanwhile */
        return;
    member->rekeyed = worker_set_keys(member->worker, &member->process->keys, &member->failure);
    loop_post(member->process->members[0].loop, &member->has_rekeyed);
}

static void keys_read(struct job *job)
{
    struct rekeying *rekeying = CONTAINER_OF(job, struct rekeying, job);

    rekeying->result = process_keys_read(rekeying->process->settings, &rekeying->process->keys,
                                         &rekeying->failure);
}

static void keys_were_read(struct job *job)
{
    struct rekeying *rekeying = CONTAINER_OF(job, struct rekeying, job);
    struct process *process = rekeying->process;
    char list[KEYRING_LIST_MAX];

    if (rekeying->result < 0) {
        log_error(process->logger, "encryption", "%s; those from before stay",
                  rekeying->failure.text);
        rekeying->is_under_way = false;
        return;
    }
    log_info(process->logger, "encryption",
             "keys were read: %s. Data keys are wrapped in the first of them",
             keyring_list(&process->keys, list));
    rekeying->awaited = process->worker_count;
    for (unsigned i = 0; i < process->worker_count; i++)
        loop_post(process->members[i].loop, &process->members[i].rekey);
}

static void begin_rekeying(struct process *process)
{
    struct rekeying *rekeying = &process->rekeying;

    rekeying->is_wanted_again = rekeying->is_under_way;
    if (rekeying->is_under_way || process->is_stopping)
        return;
    rekeying->process = process;
    rekeying->job = (struct job){.loop = process->members[0].loop,
                                 .work = keys_read,
                                 .done = keys_were_read,
                                 .is_long = true};
    rekeying->is_under_way = loop_help(process->members[0].loop, &rekeying->job) == 0;
    if (!rekeying->is_under_way)
        log_error(process->logger, "encryption", "the keys are not read: too much is to be done");
}

static void on_hangup(void *context, int signal_number)
{
    struct process *process = context;

    (void)signal_number;
    if (process->settings->log_file[0]) {
        int file =
            open(process->settings->log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        if (file >= 0) {
            dup3(file, process->logger->descriptor, O_CLOEXEC);
            close(file);
        }
    }
    log_info(process->logger, "config", "the log file was opened anew");
    if (process->is_up && settings_key_source(process->settings).kind != KEY_SOURCE_NONE)
        begin_rekeying(process);
}

/* ---- starting: servers ---- */

static const char *const service_names[SERVICES] = {
    [SERVICE_AMQP] = "AMQP 0-9-1",
    [SERVICE_MANAGEMENT] = "the management API",
    [SERVICE_METRICS] = "metrics",
};

static struct http_site *site_of(struct member *member, enum service service)
{
    const struct settings *s = member->process->settings;
    struct http_site *site = &member->sites[service];

    *site = (struct http_site){
        .worker = member->worker,
        .realm = "RabbitMQ Management",
        .idle_timeout_ms = s->management_idle_timeout_ms,
        .request_timeout_ms = s->management_request_timeout_ms,
        .started_ns = member->process->started_ns,
    };
    site->routes = service == SERVICE_MANAGEMENT ? management_routes(&site->route_count)
                                                 : metrics_routes(&site->route_count);
    return site;
}

static struct server_protocol protocol_of(struct member *member, enum service service)
{
    if (service == SERVICE_AMQP)
        return (struct server_protocol){&amqp091_protocol, member->worker};
    return (struct server_protocol){&http_protocol, site_of(member, service)};
}

static int listen_on(struct member *member, unsigned listener)
{
    struct process *process = member->process;
    const struct settings *s = process->settings;
    const struct listening *listening = &process->listening[listener];
    const struct listener_setting *where = listening->where;
    struct server_protocol protocols[] = {protocol_of(member, listening->service)};
    struct server_options server = {
        .loop = member->loop,
        .logger = process->logger,
        .listen = {.host = where->host[0] ? where->host : NULL,
                   .port = where->port,
                   .backlog = s->tcp.backlog,
                   .no_delay = s->tcp.no_delay,
                   .keepalive = s->tcp.keepalive,
                   .send_buffer = s->tcp.send_buffer,
                   .receive_buffer = s->tcp.receive_buffer},
        .group = listening->group,
        .member = member->index,
        .protocols = protocols,
        .protocol_count = 1,
        .handshake_ms = s->handshake_timeout_ms,
        .connections_max = listening->service == SERVICE_AMQP ? 0 : OPERATORS_MAX,
    };
    struct failure failure;

    int result = server_open(&server, &member->servers[listener], &failure);
    if (result != 0) {
        log_error(process->logger, "start", "%s", failure.text);
        return result;
    }
    member->server_count++;
    if (member->index == 0)
        log_info(process->logger, "start", "%s on %s port %u", service_names[listening->service],
                 where->host[0] ? where->host : "every address",
                 server_port(member->servers[listener]));
    return 0;
}

static void begin_member(struct post *post)
{
    struct member *member = CONTAINER_OF(post, struct member, begin);
    struct process *process = member->process;

    member->opened = 0;
    for (unsigned i = 0; i < process->listening_count && member->opened == 0; i++)
        member->opened = listen_on(member, i);
    loop_post(process->members[0].loop, &member->has_opened);
}

static void member_has_opened(struct post *post)
{
    const struct member *member = CONTAINER_OF(post, struct member, has_opened);
    struct process *process = member->process;
    unsigned next = member->index + 1;

    if (member->opened == 0 && next < process->worker_count && !process->stop_reason) {
        loop_post(process->members[next].loop, &process->members[next].begin);
        return;
    }
    process->is_up = true;
    if (member->opened != 0) {
        begin_stop(process, "a listener cannot be opened");
        return;
    }
    process->exit_code = EXIT_SUCCESS;
    if (process->stop_reason) {
        begin_stop(process, process->stop_reason);
        return;
    }
    log_info(process->logger, "start", "sluice %s is ready after %" PRIu64 " ms, data in %s",
             process->options->version,
             (loop_now_ns(process->members[0].loop) - process->started_ns) / NANOSECONDS_PER_MS,
             process->options->data_dir);
    notify("READY=1");
}

/* ---- starting: workers ---- */

static void add_started(struct worker_started *sum, const struct worker_started *one, bool is_first)
{
    sum->log.records_replayed += one->log.records_replayed;
    sum->log.torn_bytes += one->log.torn_bytes;
    sum->log.corrupt_blocks += one->log.corrupt_blocks;
    sum->log.clean = (is_first || sum->log.clean) && one->log.clean;
    sum->queues += one->queues;
    sum->messages += one->messages;
}

static void log_recovery(const struct process *process)
{
    const struct worker_started *sum = &process->sum;

    if (sum->log.torn_bytes > 0)
        log_warning(process->logger, "recovery",
                    "%" PRIu64 " bytes at the end of the log were never confirmed: cut off",
                    sum->log.torn_bytes);
    if (sum->log.corrupt_blocks > 0)
        log_error(process->logger, "recovery", "%" PRIu64 " blocks are corrupt: set aside",
                  sum->log.corrupt_blocks);
    log_info(process->logger, "recovery",
             "%s, %" PRIu64 " queues, %" PRIu64 " messages, %" PRIu64 " records read",
             sum->log.clean ? "stopped cleanly" : "not stopped cleanly (or new)", sum->queues,
             sum->messages, sum->log.records_replayed);
    log_info(process->logger, "start", "workers: %u, shards: %u", process->worker_count,
             process->shard_count);
}

static void member_has_started(struct post *post)
{
    const struct member *member = CONTAINER_OF(post, struct member, has_started);
    struct process *process = member->process;

    if (member->store_count > 0)
        add_started(&process->sum, &member->started, member->index == 0);
    if (++process->started < process->worker_count)
        return;
    log_recovery(process);
    keyring_wipe(&process->keys);
    begin_member(&process->members[0].begin);
}

/* Either all are told that all have started, or all are told of a failure. */
static void worker_is_started(void *context, const struct worker_started *what)
{
    struct member *member = context;
    struct process *process = member->process;

    if (what->result == 0) {
        member->started = *what;
        loop_post(process->members[0].loop, &member->has_started);
        return;
    }
    if (member->index == 0)
        log_error(process->logger, "start", "%s: %s", process->options->data_dir,
                  what->failure.text);
    atomic_store(&process->start_failed, true);
    loop_stop(member->loop);
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

/* The watermarks are of the process; what stays in memory although it could be read back is each
 * worker's share. */
static void fill_limits(struct worker_options *worker, struct process *process)
{
    const struct settings *s = process->settings;
    uint64_t total = memory_total(s);

    worker->connections_max = s->max_connections;
    worker->connections = &process->connections;
    worker->memory_high_bytes = watermark_bytes(&s->memory_watermark, total);
    worker->disk_low_bytes = watermark_bytes(&s->disk_free_limit, total);
    uint64_t hot_max = worker->memory_high_bytes * 2 / 5 / process->worker_count;
    if (worker->memory_high_bytes && worker->hot_bytes_max > hot_max)
        worker->hot_bytes_max = hot_max;
}

static void start_worker(struct member *member)
{
    struct process *process = member->process;
    const struct settings *s = process->settings;
    struct worker_options worker;

    worker_options_default(&worker);
    worker.loop = member->loop;
    worker.index = member->index;
    worker.count = process->worker_count;
    worker.office = process->office;
    worker.stores = member->stores;
    worker.store_count = member->store_count;
    worker.shard_count = process->shard_count;
    worker.queues_balanced = s->queues_balanced;
    worker.logger = process->logger;
    fill_broker_settings(&worker.settings, s);
    fill_limits(&worker, process);
    worker.log.sync = sync_policy(s->sync);
    worker.log.sync_interval_ms = s->sync_interval_ms;
    worker.log.segment_bytes_min = (uint32_t)s->segment_bytes_min;
    worker.log.segment_bytes_max = (uint32_t)s->segment_bytes_max;
    worker.log.checkpoint_bytes = (uint32_t)s->checkpoint_bytes;
    worker.log.keys = &process->keys;
    worker.log.encrypts = s->encryption.is_on && process->keys.count > 0;
    worker.default_user = s->default_user;
    worker.default_pass = s->default_pass;
    worker.default_tags = s->default_tags;
    worker.default_configure = s->default_configure;
    worker.default_write = s->default_write;
    worker.default_read = s->default_read;
    worker.loopback_users = s->loopback_users;
    member->worker = worker_start(&worker, worker_is_started, member);
}

/* A member's life, on its thread. */
static void *member_run(void *argument)
{
    struct member *member = argument;
    struct process *process = member->process;
    char name[32];

    snprintf(name, sizeof name, "worker %u", member->index + 1);
    if (process->worker_count > 1) {
        int result = loop_bind(member->loop, member->index, PROCESSORS_BIND_MIN);
        (void)result; /* it runs where the system puts it */
    }
    watchdog_enter(process->watchdog, member->loop, name);
    start_worker(member);
    loop_run(member->loop);
    watchdog_leave(process->watchdog, member->loop);
    return NULL;
}

/* ---- what is there before the threads, and after them ---- */

/* Those that are there come first: when one cannot be read with the keys, nothing has changed yet.
 */
static int open_shard(struct process *process, unsigned shard, struct failure *failure)
{
    struct member *member = &process->members[(shard - 1) % process->worker_count];
    struct failure cause;
    char path[PATH_MAX];

    int result = local_shard_path(process->options->data_dir, shard, path, sizeof path, failure);
    if (result == 0)
        result =
            store_local_open(member->loop, path, &member->stores[member->store_count], failure);
    if (result < 0)
        return result;
    result = process_keys_check(member->stores[member->store_count++], &process->keys, &cause);
    if (result < 0)
        fail(failure, result, "%s: %s", path, cause.text);
    return result;
}

/* The first shard's lock is the whole directory's: what else is there is certain once it is held.
 */
static int open_shards(struct process *process, struct failure *failure)
{
    const char *data_dir = process->options->data_dir;
    unsigned count;

    int result = local_shards_count(data_dir, &count, failure);
    if (result == 0)
        result = local_shards_prepare(data_dir, failure);
    for (unsigned i = 0; result == 0 && i < process->worker_count; i++)
        process->members[i].stores =
            memory_new((LOCAL_SHARDS_MAX / process->worker_count + 1) * sizeof(struct store *));
    if (result == 0)
        result = open_shard(process, 1, failure);
    if (result == 0)
        result = local_shards_count(data_dir, &count, failure);
    if (result < 0)
        return result;
    process->shard_count = count > process->worker_count ? count : process->worker_count;
    for (unsigned i = 2; result == 0 && i <= process->shard_count; i++)
        result = open_shard(process, i, failure);
    return result;
}

static int make_loops(struct process *process, struct failure *failure)
{
    for (unsigned i = 0; i < process->worker_count; i++) {
        struct member *member = &process->members[i];
        member->process = process;
        member->index = i;
        member->begin.run = begin_member;
        member->end.run = end_member;
        member->has_started.run = member_has_started;
        member->has_opened.run = member_has_opened;
        member->rekey.run = rekey_member;
        member->has_rekeyed.run = member_has_rekeyed;
        member->loop = loop_new_real(failure);
        if (!member->loop)
            return E_IO;
    }
    return 0;
}

static void make_offices(struct process *process)
{
    if (process->worker_count == 1)
        return;
    process->office = office_new(process->worker_count);
    for (unsigned i = 0; i < process->listening_count; i++)
        process->listening[i].group = server_group_new(process->worker_count, SPREAD_COUNTED);
}

static void add_listening(struct process *process, const struct listeners_setting *listeners,
                          enum service service)
{
    for (unsigned i = 0; i < listeners->count; i++)
        process->listening[process->listening_count++] =
            (struct listening){.where = &listeners->at[i], .service = service};
}

static int handle_signals(struct process *process, struct failure *failure)
{
    struct loop *loop = process->members[0].loop;

    if (loop_on_signal(loop, SIGTERM, on_stop_signal, process) != 0 ||
        loop_on_signal(loop, SIGINT, on_stop_signal, process) != 0 ||
        loop_on_signal(loop, SIGHUP, on_hangup, process) != 0)
        return fail(failure, E_IO, "signals cannot be handled");
    return 0;
}

static int prepare(struct process *process, struct failure *failure)
{
    int ignored = processors_set_slice(PROCESSORS_PROMPT_NS); /* all threads that are made below */
    (void)ignored;
    process->worker_count =
        process->settings->workers ? process->settings->workers : processors_count();
    if (process->worker_count > SETTINGS_WORKERS_MAX)
        process->worker_count = SETTINGS_WORKERS_MAX;
    process->members = memory_new(process->worker_count * sizeof *process->members);
    int result = make_loops(process, failure);
    if (result == 0)
        result = process_keys_read(process->settings, &process->keys, failure);
    if (result == 0)
        result = open_shards(process, failure);
    if (result == 0)
        result = handle_signals(process, failure);
    if (result == 0)
        result = watchdog_new(process->logger, WATCHDOG_LIMIT_MS, &process->watchdog, failure);
    add_listening(process, &process->settings->amqp, SERVICE_AMQP);
    add_listening(process, &process->settings->management, SERVICE_MANAGEMENT);
    add_listening(process, &process->settings->prometheus, SERVICE_METRICS);
    if (result == 0)
        make_offices(process);
    return result;
}

/* A thread that cannot be made: those that run wait for it, and it will not come; there is nothing
 * yet that would have to be closed in order. */
static void run_threads(struct process *process)
{
    process->started_ns = loop_now_ns(process->members[0].loop);
    for (unsigned i = 1; i < process->worker_count; i++) {
        struct member *member = &process->members[i];
        int error = pthread_create(&member->thread, NULL, member_run, member);
        if (error != 0) {
            log_error(process->logger, "start", "worker %u gets no thread: %s", i + 1,
                      strerror(error));
            _exit(EXIT_FAILURE);
        }
    }
    member_run(&process->members[0]);
    for (unsigned i = 1; i < process->worker_count; i++)
        pthread_join(process->members[i].thread, NULL);
}

static void free_member(struct member *member)
{
    for (unsigned i = 0; i < member->server_count; i++)
        server_free(member->servers[i]);
    if (member->worker)
        worker_free(member->worker);
    member->worker = NULL;
    for (unsigned i = 0; i < member->store_count; i++)
        store_free(member->stores[i]);
    free(member->stores);
}

static void tear_down(struct process *process)
{
    for (unsigned i = 0; i < process->worker_count; i++)
        free_member(&process->members[i]);
    if (process->watchdog)
        watchdog_free(process->watchdog);
    for (unsigned i = 0; i < process->worker_count; i++) {
        if (process->members[i].loop)
            loop_free(process->members[i].loop);
    }
    /* behind the loops, which hear the last bells */
    for (unsigned i = 0; i < process->listening_count && process->listening[i].group; i++)
        server_group_free(process->listening[i].group);
    if (process->office)
        office_free(process->office);
    free(process->members);
}

int process_run(const struct process_options *options)
{
    struct process process = {
        .options = options,
        .settings = options->settings,
        .logger = options->logger,
        .exit_code = EXIT_FAILURE,
    };
    struct failure failure = {0};

    if (prepare(&process, &failure) < 0) {
        log_error(options->logger, "start", "%s", failure.text);
    } else {
        run_threads(&process);
        log_info(options->logger, "stop", "stopped");
    }
    /* After a start that failed files are open, and the system is the one who can close them. */
    if (atomic_load(&process.start_failed))
        exit(process.exit_code);
    tear_down(&process);
    keyring_wipe(&process.keys);
    return process.exit_code;
}
