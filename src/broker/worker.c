#include "broker/broker_private.h"

#include <stdlib.h>

void worker_options_default(struct worker_options *options)
{
    memset(options, 0, sizeof *options);
    options->settings = (struct broker_settings){
        .frame_max = 131072,
        .channel_max = 2047,
        .heartbeat_s = 60,
        .handshake_ms = 10000,
        .message_size_max = 16u << 20,
        .product_name = "RabbitMQ",
        .cluster_name = "sluice",
        .node_name = "sluice",
        .default_vhost = "/",
    };
    log_options_default(&options->log);
    options->default_user = "guest";
    options->default_pass = "guest";
    options->default_tags = "administrator";
    options->default_configure = options->default_write = options->default_read = ".*";
    options->loopback_users = "guest";
    options->password_cost = password_cost_default;
    options->hot_bytes_max = 64u << 20;
}

/* ---- what there is to tell, and to do ---- */

static void tell(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, tell);
    struct list completions;

    list_init(&completions);
    list_move_all(&completions, &worker->completions);
    for (struct list *link; (link = list_take_first(&completions));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        struct client *client = request->client;
        client->outstanding--;
        if (!client->closed)
            client->options.events->completed(client->options.session, request);
        else if (request->is_get)
            get_give_back(request);
    }
    for (struct list *link; (link = list_first(&worker->cancellations));) {
        struct subscription *subscription = CONTAINER_OF(link, struct subscription, cancel_link);
        struct client *client = subscription->client;
        void *cookie = subscription->cookie;
        subscription_free(subscription);
        client->options.events->cancelled(client->options.session, cookie);
    }
}

static void work(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, work);

    LIST_EACH (&worker->jobs, link) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        if (purge_slice(request))
            request_complete(request);
    }
    bool done = worker_discard_slice(worker);
    if (!done || !list_empty(&worker->jobs))
        loop_defer(worker->loop, task, LOOP_DISPATCH);
}

/* ---- the log's events ---- */

static void durable(void *context, uint64_t block)
{
    struct worker *worker = context;

    queue_host_durable(&worker->host, block);
    worker_durable(worker, block);
}

static void failed(void *context, const struct failure *why)
{
    struct worker *worker = context;

    log_error(worker->logger, "storage",
              "storage has failed: %s. Nothing durable is taken any more; what was stored is "
              "still delivered",
              why->text);
    worker->storage_failed = true;
    for (struct list *link; (link = list_first(&worker->durable_requests));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        fail(&request->failure, E_FAILED, "storage has failed");
        request_complete(request);
    }
    publishers_failed(worker);
    queue_host_failed(&worker->host);
}

static void room(void *context)
{
    struct worker *worker = context;

    if (!list_empty(&worker->flow_waiters))
        timer_set(&worker->watch, loop_now_ns(worker->loop));
}

static void checkpoint(void *context, bool catalog)
{
    checkpoint_begin(context, catalog);
}

static const struct log_events worker_log_events = {
    .durable = durable,
    .failed = failed,
    .room = room,
    .checkpoint = checkpoint,
};

/* ---- start and stop ---- */

struct worker *worker_start(const struct worker_options *options,
                            void (*started)(void *context, const struct worker_started *what),
                            void *context)
{
    struct worker *worker = memory_new(sizeof *worker);

    worker->options = *options;
    worker->loop = options->loop;
    worker->logger = options->logger;
    worker->started = started;
    worker->started_context = context;
    account_init(&worker->memory, NULL, 0);
    account_init(&worker->messages, &worker->memory, 0);
    list_init(&worker->clients);
    list_init(&worker->durable_requests);
    list_init(&worker->completions);
    list_init(&worker->jobs);
    list_init(&worker->cancellations);
    list_init(&worker->discards);
    list_init(&worker->publishers_waiting);
    list_init(&worker->publishers_ready);
    list_init(&worker->flow_waiters);
    list_init(&worker->logins);
    list_init(&worker->login_waiters);
    task_init(&worker->tell, tell);
    task_init(&worker->work, work);
    task_init(&worker->confirm, publishers_confirm);
    timer_init(&worker->watch, worker->loop, worker_watch);
    remembered_init(&worker->remembered, worker->loop);
    route_result_init(&worker->routed);

    worker->host = (struct queue_host){
        .loop = worker->loop,
        .logger = worker->logger,
        .events = &worker_queue_events,
        .context = worker,
        .memory = &worker->messages,
        .hot_bytes_max = options->hot_bytes_max,
    };
    queue_host_init(&worker->host);
    catalog_init(&worker->catalog, worker->loop, &worker->host);
    worker->catalog.queue_added = queue_added;
    worker->catalog.queue_dropped = queue_dropped;
    worker->catalog.context = worker;

    struct log_options log = options->log;
    log.loop = worker->loop;
    log.store = options->store;
    log.logger = worker->logger;
    log.account = &worker->messages;
    boot_new(worker);
    worker->log = log_open(&log, &worker_log_events, &worker_recovery, worker, worker_opened);
    worker->host.log = worker->log;
    return worker;
}

static void closed(void *context)
{
    struct worker *worker = context;
    worker->stopped(worker->stopped_context);
}

/* A last checkpoint, with exact states, then the log. */
static void stop_wait(struct timer *timer)
{
    struct worker *worker = CONTAINER_OF(timer, struct worker, watch);

    if (log_is_failed(worker->log) || (worker->last_checkpoint && list_empty(&worker->discards))) {
        log_close(worker->log, closed, worker);
        return;
    }
    if (!worker->last_checkpoint && !worker->checkpoint)
        log_checkpoint(worker->log);
    timer_set(timer, loop_now_ns(worker->loop) + NANOSECONDS_PER_MS);
}

void worker_stop(struct worker *worker, void (*stopped)(void *context), void *context)
{
    ASSERT(worker->client_count == 0);
    worker->stopping = true;
    worker->stopped = stopped;
    worker->stopped_context = context;
    timer_stop(&worker->watch);
    timer_init(&worker->watch, worker->loop, stop_wait);
    timer_set(&worker->watch, loop_now_ns(worker->loop));
}

static void free_queues(struct worker *worker)
{
    struct map_cursor cursor = {0};

    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));)
        list_append(&worker->discards, &q->discard_link);
    for (struct list *link; (link = list_take_first(&worker->discards));) {
        struct catalog_queue *q = CONTAINER_OF(link, struct catalog_queue, discard_link);
        timer_stop(&q->expiry);
        queue_abandon(&q->queue);
        catalog_free_queue(q);
    }
}

void worker_free(struct worker *worker)
{
    checkpoint_free(worker);
    timer_stop(&worker->watch);
    task_cancel(&worker->tell);
    task_cancel(&worker->work);
    task_cancel(&worker->confirm);
    boot_free(worker);
    cooling_free(worker);
    logins_free(worker);
    log_free(worker->log);
    free_queues(worker);
    list_init(&worker->host.ready);
    queue_host_fini(&worker->host);
    catalog_fini(&worker->catalog);
    remembered_fini(&worker->remembered);
    route_result_fini(&worker->routed);
    free(worker->targets);
    account_fini(&worker->messages);
    free(worker);
}

void worker_abandon(struct worker *worker)
{
    struct list *link;

    while ((link = list_take_first(&worker->jobs)))
        purge_abandon(CONTAINER_OF(link, struct request, link));
    while ((link = list_first(&worker->clients)))
        client_abandon(CONTAINER_OF(link, struct client, link));
    worker_free(worker);
}

/* ---- looking at it ---- */

uint32_t worker_client_count(const struct worker *worker)
{
    return worker->client_count;
}

void worker_statistics(const struct worker *worker, struct worker_statistics *statistics)
{
    struct map_cursor cursor = {0};

    *statistics = (struct worker_statistics){
        .clients = worker->client_count,
        .published = worker->published,
        .delivered = worker->delivered,
        .message_bytes = worker->messages.used,
        .memory_bytes = worker->memory.used,
    };
    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        statistics->queues++;
        statistics->messages_ready += q->queue.ready;
        statistics->messages_leased += q->queue.leased;
    }
    log_statistics(worker->log, &statistics->log);
}

void worker_check(const struct worker *worker)
{
    struct map_cursor cursor = {0};
    uint32_t clients = 0;

    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        ASSERT(vhost_queue(q->vhost, slice_text(q->name)) == q);
        ASSERT(!q->queue.closed);
        queue_check(&q->queue);
    }
    for (const struct list *l = worker->clients.next; l != &worker->clients; l = l->next)
        clients++;
    ASSERT(clients == worker->client_count);
    route_table_check(worker->catalog.routes);
    log_check(worker->log);
}
