#include "broker/change.h"
#include "broker/move.h"
#include "broker/part.h"
#include "broker/peer.h"

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
        .product_version = "4.3.0",
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
    options->count = options->shard_count = 1;
}

/* ---- what there is to tell, and to do ---- */

/* Sessions are told of so much in a turn: each writes an answer, and goes on with what it has been
 * sent meanwhile. What is delivered and confirmed is not told here, and does not wait. */
#define TOLD_A_TURN 16u

static void tell_completion(struct request *request)
{
    struct client *client = request->client;

    list_remove(&request->link);
    client->outstanding--;
    if (!client->closed)
        client->options.events->completed(client->options.session, request);
    else if (request->is_get)
        get_give_back(request);
}

static void tell_cancellation(struct subscription *subscription)
{
    struct client *client = subscription->client;
    void *cookie = subscription->cookie;

    subscription_free(subscription);
    client->options.events->cancelled(client->options.session, cookie);
}

static void tell(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, tell);
    uint64_t since_ns = loop_precise_ns(worker->loop);
    bool goes_on = !lines_slice(worker, since_ns);
    struct list *link;
    struct list now;
    unsigned told = 0;

    list_init(&now);
    list_move_all(&now, &worker->completions);
    for (; told < TOLD_A_TURN && (link = list_first(&now)) != NULL; told++)
        tell_completion(CONTAINER_OF(link, struct request, link));
    list_move_all(&now, &worker->completions); /* those who had to wait come first */
    list_move_all(&worker->completions, &now);
    for (; told < TOLD_A_TURN && (link = list_first(&worker->cancellations)) != NULL; told++)
        tell_cancellation(CONTAINER_OF(link, struct subscription, cancel_link));
    if (goes_on || !list_empty(&worker->completions) || !list_empty(&worker->cancellations))
        loop_defer(worker->loop, task, LOOP_DISPATCH);
}

/* A slice of each job, as many as fit one slice of the turn; those that had to wait are first in
 * the next. */
static void jobs_slice(struct worker *worker)
{
    uint64_t start_ns = loop_precise_ns(worker->loop);
    struct list now;

    list_init(&now);
    list_move_all(&now, &worker->jobs);
    for (struct list *link; (link = list_take_first(&now));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        list_append(&worker->jobs, link); /* from where the slice may take it off itself */
        if (request->slice(request))
            request_go_on(request);
        if (loop_precise_ns(worker->loop) - start_ns >= JOB_SLICE_NS)
            break;
    }
    list_move_all(&now, &worker->jobs);
    list_move_all(&worker->jobs, &now);
}

static void work(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, work);

    jobs_slice(worker);
    bool done = parts_slice(worker);
    done = policies_slice(worker) && done;
    for (unsigned i = 0; i < worker->shard_count; i++)
        done = shard_discard_slice(worker->shards[i]) && done;
    if (!done || !list_empty(&worker->jobs))
        loop_defer(worker->loop, task, LOOP_DISPATCH);
}

/* ---- a log's events ---- */

static void durable(void *context, uint64_t block)
{
    struct shard *shard = context;
    struct worker *worker = shard->place.worker;

    queue_host_durable(&shard->host, block);
    ledger_durable(shard, block);
    if (shard->number == 1)
        changes_settle(worker);
    line_advance(&shard->place.line, block);
}

static void failed(void *context, const struct failure *why)
{
    struct shard *shard = context;
    struct worker *worker = shard->place.worker;

    log_error(worker->logger, "storage",
              "the storage of shard %u has failed: %s. Nothing durable is taken any more; what was "
              "stored is still delivered",
              shard->number, why->text);
    shard->has_failed = worker->flow_may_have_changed = true;
    line_fail(&shard->place.line);
    ledger_failed(shard);
    if (shard->number == 1)
        changes_failed(worker);
    queue_host_failed(&shard->host);
}

static void room(void *context)
{
    struct worker *worker = ((struct shard *)context)->place.worker;

    if (!list_empty(&worker->flow_waiters))
        timer_set(&worker->watch, loop_now_ns(worker->loop));
}

static void checkpoint(void *context, bool catalog)
{
    checkpoint_begin(context, catalog);
}

static const struct log_events shard_log_events = {
    .durable = durable,
    .failed = failed,
    .room = room,
    .checkpoint = checkpoint,
};

/* ---- shards ---- */

static struct shard *shard_new(struct worker *worker, unsigned number, struct store *store)
{
    struct shard *shard = memory_new(sizeof *shard);

    shard->place.worker = worker;
    shard->place.is_here = true;
    line_init(&shard->place.line);
    shard->number = number;
    shard->store = store;
    list_init(&shard->dropped);
    list_init(&shard->discards);
    shard->host = (struct queue_host){
        .loop = worker->loop,
        .logger = worker->logger,
        .events = &worker_queue_events,
        .context = shard,
        .memory = &worker->messages,
        .hot_bytes_max = worker->options.hot_bytes_max,
    };
    queue_host_init(&shard->host);
    ledger_init(shard);
    return shard;
}

void shard_open(struct shard *shard)
{
    struct worker *worker = shard->place.worker;
    struct log_options log = worker->options.log;
    struct map_cursor cursor = {0};

    log.loop = worker->loop;
    log.store = shard->store;
    log.logger = worker->logger;
    log.account = &worker->messages;
    shard->log = log_open(&log, &shard_log_events, &shard_recovery, shard, shard_opened);
    shard->host.log = shard->place.line.log = shard->log;
    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        if (q->shard == shard->number)
            hosted_new(shard, q);
    }
}

static void shard_free(struct shard *shard)
{
    for (struct list *link; (link = list_first(&shard->dropped));)
        hosted_abandon(CONTAINER_OF(link, struct hosted, discard_link));
    for (struct list *link; (link = list_first(&shard->discards));)
        hosted_abandon(CONTAINER_OF(link, struct hosted, discard_link));
    list_init(&shard->host.ready);
    queue_host_fini(&shard->host);
    free(shard->targets);
    free(shard->takers);
    free(shard->place.batch);
    free(shard);
}

struct place *worker_place(const struct worker *worker, unsigned shard)
{
    unsigned host = (shard - 1) % worker->count, at = (shard - 1) / worker->count;

    if (host != worker->index)
        return &worker->peers[host]->place;
    return at < worker->shard_count ? &worker->shards[at]->place : NULL;
}

uint32_t worker_new_queue_shard(struct worker *worker, bool exclusive)
{
    if (worker->options.queues_balanced && !exclusive)
        return 1 + worker->balance++ % worker->options.shard_count;
    return worker->shard_count > 0 ? worker->shards[0]->number : 1;
}

/* ---- start and stop ---- */

struct worker *worker_start(const struct worker_options *options,
                            void (*started)(void *context, const struct worker_started *what),
                            void *context)
{
    struct worker *worker = memory_new(sizeof *worker);

    ASSERT(options->count > 0 && options->index < options->count);
    ASSERT(options->index > 0 || options->store_count > 0);
    worker->options = *options;
    worker->index = options->index;
    worker->count = options->count;
    worker->loop = options->loop;
    worker->logger = options->logger;
    worker->started = started;
    worker->started_context = context;
    account_init(&worker->memory, NULL, 0);
    account_init(&worker->messages, &worker->memory, 0);
    worker->messages.stock = &worker->stock;
    list_init(&worker->clients);
    map_init_numbers(&worker->clients_by_id, loop_random(worker->loop));
    list_init(&worker->lines_going);
    list_init(&worker->completions);
    list_init(&worker->jobs);
    list_init(&worker->parts);
    list_init(&worker->transactions);
    list_init(&worker->cancellations);
    list_init(&worker->publishers_ready);
    list_init(&worker->flow_waiters);
    worker->flow_may_have_changed = true;
    list_init(&worker->logins);
    list_init(&worker->login_waiters);
    line_init(&worker->catalog_settled);
    task_init(&worker->tell, tell);
    task_init(&worker->work, work);
    task_init(&worker->confirm, publishers_confirm);
    timer_init(&worker->watch, worker->loop, worker_watch);
    remembered_init(&worker->remembered, worker->loop);
    route_result_init(&worker->routed);

    catalog_init(&worker->catalog, loop_random(worker->loop));
    worker->catalog.queue_added = queue_added;
    worker->catalog.queue_dropped = queue_dropped;
    worker->catalog.queue_moved = queue_moved;
    worker->catalog.policies_changed = policies_changed;
    worker->catalog.context = worker;
    worker->changes = changes_new(worker);

    worker->shard_count = options->store_count;
    worker->shards = memory_new((worker->shard_count + 1) * sizeof(void *));
    for (unsigned i = 0; i < worker->shard_count; i++)
        worker->shards[i] =
            shard_new(worker, worker->index + 1 + i * worker->count, options->stores[i]);
    peers_new(worker);
    moves_new(worker);
    burials_new(worker);
    browses_new(worker);
    redrives_new(worker);
    boot_new(worker);
    if (worker_has_catalog(worker)) {
        shard_open(worker->shards[0]);
        worker->catalog_settled.log = worker->shards[0]->log;
    }
    return worker;
}

static void closed(void *context)
{
    struct shard *shard = context;
    struct worker *worker = shard->place.worker;

    if (--worker->shards_open == 0)
        worker->stopped(worker->stopped_context);
}

static bool shard_is_ready_to_close(struct shard *shard)
{
    bool drops_settle = !shard->place.worker->catalog_settled.failed;

    if (!ledger_is_quiet(shard))
        return false;
    if (log_is_failed(shard->log))
        return true;
    if ((drops_settle && !list_empty(&shard->dropped)) || !list_empty(&shard->discards))
        return false;
    if (shard->last_checkpoint)
        return true;
    if (!shard->last_checkpoint && !shard->checkpoint)
        log_checkpoint(shard->log);
    return false;
}

/* Others wait for their deletions to be settled, so the first worker goes on until all is. */
static bool catalog_is_settled(struct worker *worker)
{
    struct line *settled = &worker->catalog_settled;

    if (!worker_has_catalog(worker) || settled->failed || settled->done == worker->catalog.events)
        return true;
    line_hurry(settled);
    return false;
}

/* When no worker has clients any more: a last checkpoint of each shard, with exact states, then the
 * logs. */
static void stop_wait(struct timer *timer)
{
    struct worker *worker = CONTAINER_OF(timer, struct worker, watch);
    bool ready = peers_have_ended(worker);

    worker->is_quiet = ready;
    ready = ready && catalog_is_settled(worker);
    for (unsigned i = 0; ready && i < worker->shard_count; i++)
        ready = shard_is_ready_to_close(worker->shards[i]);
    if (!ready) {
        timer_set(timer, loop_now_ns(worker->loop) + NANOSECONDS_PER_MS);
        return;
    }
    worker->is_closing = true;
    worker->shards_open = worker->shard_count;
    for (unsigned i = 0; i < worker->shard_count; i++)
        log_close(worker->shards[i]->log, closed, worker->shards[i]);
    if (worker->shard_count == 0)
        worker->stopped(worker->stopped_context);
}

void worker_stop(struct worker *worker, void (*stopped)(void *context), void *context)
{
    ASSERT(worker->client_count == 0);
    worker->stopping = true;
    for (unsigned i = 0; i < worker->shard_count; i++)
        queue_host_rest(&worker->shards[i]->host);
    redrives_rest(worker);
    worker->stopped = stopped;
    worker->stopped_context = context;
    peers_end(worker);
    timer_stop(&worker->watch);
    timer_init(&worker->watch, worker->loop, stop_wait);
    timer_set(&worker->watch, loop_now_ns(worker->loop));
}

static void abandon_queues(struct worker *worker)
{
    struct map_cursor cursor = {0};

    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        if (q->hosted)
            hosted_abandon(q->hosted);
    }
}

void worker_free(struct worker *worker)
{
    timer_stop(&worker->watch);
    task_cancel(&worker->tell);
    task_cancel(&worker->work);
    task_cancel(&worker->confirm);
    boot_free(worker);
    cooling_free(worker);
    logins_free(worker);
    moves_abandon(worker);
    burials_abandon(worker);
    redrives_abandon(worker);
    peers_free(worker);
    transactions_free(worker);
    for (unsigned i = 0; i < worker->shard_count; i++) {
        checkpoint_free(worker->shards[i]);
        ledger_fini(worker->shards[i]);
        if (worker->shards[i]->log) /* before its queues, which it may be reading for */
            log_free(worker->shards[i]->log);
    }
    moves_free(worker);
    burials_free(worker);
    browses_free(worker);
    redrives_free(worker);
    abandon_queues(worker);
    for (unsigned i = 0; i < worker->shard_count; i++)
        shard_free(worker->shards[i]);
    free(worker->shards);
    changes_free(worker->changes);
    policies_free(worker);
    catalog_fini(&worker->catalog);
    remembered_fini(&worker->remembered);
    route_result_fini(&worker->routed);
    map_fini(&worker->clients_by_id);
    free(worker->places);
    account_fini(&worker->messages);
    stock_fini(&worker->stock);
    free(worker);
}

static void requests_abandon(struct list *requests)
{
    for (struct list *link; (link = list_take_first(requests));) {
        struct request *request = CONTAINER_OF(link, struct request, link);
        free(request->internal);
        request->internal = NULL; /* a peer's is in its list, too */
    }
}

void worker_abandon(struct worker *worker)
{
    struct list *link;

    catalog_walks_abandon(&worker->catalog);
    requests_abandon(&worker->jobs);
    requests_abandon(&worker->completions);
    requests_abandon(&worker->catalog_settled.requests);
    for (unsigned i = 0; i < worker->shard_count; i++)
        requests_abandon(&worker->shards[i]->place.line.requests);
    while ((link = list_first(&worker->clients)))
        client_abandon(CONTAINER_OF(link, struct client, link));
    worker_free(worker);
}

/* ---- looking at it ---- */

int worker_set_keys(struct worker *worker, const struct keyring *keys, struct failure *failure)
{
    struct failure cause;
    int result = 0;

    for (unsigned i = 0; i < worker->shard_count; i++) {
        int one = log_set_keys(worker->shards[i]->log, keys, &cause);
        if (one < 0 && result == 0)
            result = fail(failure, one, "shard %u: %s", worker->shards[i]->number, cause.text);
    }
    return result;
}

uint32_t worker_client_count(const struct worker *worker)
{
    return worker->client_count;
}

void worker_statistics(const struct worker *worker, struct worker_statistics *statistics)
{
    const struct mail_statistics *mail =
        worker->mailbox ? mailbox_statistics(worker->mailbox) : NULL;
    struct map_cursor cursor = {0};

    *statistics = (struct worker_statistics){
        .clients = worker->client_count,
        .published = worker->published,
        .delivered = worker->delivered,
        .message_bytes = worker->messages.used,
        .memory_bytes = worker->memory.used,
        .letters_sent = mail ? mail->letters_sent : 0,
        .letters_received = mail ? mail->letters_received : 0,
    };
    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        if (!q->hosted)
            continue;
        statistics->queues++;
        statistics->messages_ready += q->hosted->queue.ready;
        statistics->messages_leased += q->hosted->queue.leased;
    }
    if (worker->shard_count > 0)
        log_statistics(worker->shards[0]->log, &statistics->log);
}
