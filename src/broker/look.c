/*
 * Looking: pages of queues with their counts, the numbers of all workers. Whatever is asked of
 * several workers is asked at the same time; the request counts the answers that it awaits.
 */
#include "broker/peer.h"
#include "loop/mail.h"

#include <stdlib.h>

/* ---- queues, by pages ---- */

struct listed_queue {
    struct catalog_queue *queue; /* a reference */
    unsigned worker;             /* where it lived when it was asked about */
    struct queue_numbers numbers;
};

struct listing {
    struct client *client;
    struct vhost *vhost; /* NULL: all */
    bool sees_all;       /* virtual hosts, by the user's tags */
    struct catalog_walk walk;
    bool is_over;
    struct catalog_queue *only; /* a reference: the walk of one */
    size_t count;
    struct listed_queue page[LISTING_PAGE];
    uint8_t definition[2 * POLICY_DEFINITION_MAX]; /* of the policies of the queue at hand */
};

/* By tag, or because it may enter. */
static bool sees_all(const struct client *client)
{
    return client_has_tag(client, "administrator") || client_has_tag(client, "monitoring");
}

bool client_may_enter(const struct client *client, const struct vhost *vhost)
{
    const struct catalog *catalog = &client->worker->catalog;

    return catalog_permission(catalog, slice_text(client->user), vhost) != NULL;
}

bool client_sees(const struct client *client, const struct vhost *vhost)
{
    return sees_all(client) || client_may_enter(client, vhost);
}

static struct listing *listing_new(struct client *client)
{
    struct listing *listing = memory_new(sizeof *listing);

    listing->client = client;
    listing->sees_all = sees_all(client);
    list_init(&listing->walk.link);
    return listing;
}

struct vhost *client_find_vhost(struct client *client, struct slice name, struct failure *failure)
{
    struct vhost *vhost = catalog_vhost(&client->worker->catalog, name);

    ASSERT(client->user);
    if (!vhost) {
        fail(failure, E_NOT_FOUND, "vhost '%.*s' not found", SLICE_ARGS(name));
        return NULL;
    }
    if (!client_sees(client, vhost)) {
        fail(failure, E_DENIED, "access to vhost '%.*s' refused for user '%s'", SLICE_ARGS(name),
             client->user);
        return NULL;
    }
    return vhost;
}

struct listing *listing_open(struct client *client, struct slice vhost, struct failure *failure)
{
    struct vhost *found = NULL;

    if (vhost.size > 0 && !(found = client_find_vhost(client, vhost, failure)))
        return NULL;
    struct listing *listing = listing_new(client);
    listing->vhost = found;
    catalog_walk_begin(&client->worker->catalog, &listing->walk);
    return listing;
}

struct listing *listing_open_queue(struct client *client, struct slice vhost, struct slice name,
                                   struct failure *failure)
{
    const struct vhost *found = client_find_vhost(client, vhost, failure);
    struct catalog_queue *queue = found ? vhost_queue(found, name) : NULL;

    if (!found)
        return NULL;
    if (!queue || (queue->flags & CATALOG_HIDDEN)) {
        fail(failure, E_NOT_FOUND, "no queue '%.*s' in vhost '%s'", SLICE_ARGS(name), found->name);
        return NULL;
    }
    struct listing *listing = listing_new(client);
    listing->only = queue;
    catalog_queue_ref(queue);
    return listing;
}

static void turn_page(struct listing *listing)
{
    for (size_t i = 0; i < listing->count; i++)
        catalog_queue_unref(listing->page[i].queue);
    listing->count = 0;
}

void listing_close(struct listing *listing)
{
    turn_page(listing);
    if (listing->only)
        catalog_queue_unref(listing->only);
    catalog_walk_end(&listing->walk);
    free(listing);
}

/* Takes the reference. */
static void add(struct listing *listing, struct catalog_queue *queue)
{
    struct listed_queue *listed = &listing->page[listing->count++];

    *listed = (struct listed_queue){.queue = queue, .worker = listing->client->worker->index};
    if (!queue->home->is_here) {
        listed->worker = peer_of(queue->home)->index;
    } else if (queue->hosted) {
        listed->numbers.is_there = listed->numbers.has_counts = true;
        listed->numbers.counts = hosted_counts(queue->hosted);
    } else {
        listed->numbers.is_there = true;
    }
}

static bool is_shown(const struct listing *listing, const struct catalog_queue *queue)
{
    if (queue->flags & CATALOG_HIDDEN)
        return false;
    if (listing->vhost)
        return queue->vhost == listing->vhost;
    return listing->sees_all || client_may_enter(listing->client, queue->vhost);
}

/* Until the page is full, or the turn has done enough. */
static void collect(struct listing *listing)
{
    struct worker *worker = listing->client->worker;
    uint64_t start_ns = loop_precise_ns(worker->loop);
    struct catalog_queue *queue;

    if (listing->only) {
        add(listing, listing->only);
        listing->only = NULL;
        listing->is_over = true;
        return;
    }
    while (listing->count < LISTING_PAGE) {
        queue = catalog_walk_next(&worker->catalog, &listing->walk);
        if (!queue) {
            listing->is_over = true;
            return;
        }
        if (is_shown(listing, queue)) {
            catalog_queue_ref(queue);
            add(listing, queue);
        }
        if (loop_precise_ns(worker->loop) - start_ns >= JOB_SLICE_NS)
            return;
    }
}

static void ask_peer(struct listing *listing, struct request *request, struct peer *peer)
{
    uint64_t ids[LISTING_PAGE];
    uint32_t count = 0;

    for (size_t i = 0; i < listing->count; i++) {
        if (listing->page[i].worker == peer->index)
            ids[count++] = listing->page[i].queue->id;
    }
    if (count > 0)
        peer_ask_queues(request, peer, ids, count);
}

int listing_next(struct listing *listing, struct request *request)
{
    struct worker *worker = listing->client->worker;

    request_begin(listing->client, request);
    request->target = listing;
    request->awaited = 0;
    turn_page(listing);
    if (!listing->is_over)
        collect(listing);
    for (unsigned i = 0; i < worker->count; i++) {
        if (worker->peers[i])
            ask_peer(listing, request, worker->peers[i]);
    }
    return request->awaited > 0 ? PENDING : request_end(request);
}

void listing_numbers(struct request *request, const struct peer *peer,
                     const struct queue_numbers *numbers)
{
    struct listing *listing = request->target;

    for (size_t i = 0; i < listing->count; i++) {
        if (listing->page[i].worker == peer->index)
            listing->page[i].numbers = *numbers++;
    }
    if (--request->awaited == 0)
        request_go_on(request);
}

size_t listing_count(const struct listing *listing)
{
    return listing->count;
}

/* The definition of the queue's policies together. */
static struct slice merged_definition(struct listing *listing, const struct catalog_queue *queue)
{
    const struct policy *policy = queue->policies[POLICY_OF_USERS];
    const struct policy *operators = queue->policies[POLICY_OF_OPERATORS];
    struct writer w = writer_of(listing->definition, sizeof listing->definition);

    policy_definitions_merge(policy ? policy_definition(policy) : slice_of(NULL, 0),
                             operators ? policy_definition(operators) : slice_of(NULL, 0), &w);
    ASSERT(!w.failed);
    return slice_of(listing->definition, writer_size(&w));
}

static struct slice policy_name(const struct policy *policy)
{
    return policy ? slice_text(policy->name) : slice_of(NULL, 0);
}

bool listing_queue(struct listing *listing, size_t index, struct queue_facts *facts)
{
    const struct listed_queue *listed = &listing->page[index];
    const struct catalog_queue *queue = listed->queue;

    ASSERT(index < listing->count);
    if (queue->dropped || !listed->numbers.is_there)
        return false;
    *facts = (struct queue_facts){
        .name = slice_text(queue->name),
        .vhost = slice_text(queue->vhost->name),
        .arguments = queue_arguments(queue),
        .policy = policy_name(queue->policies[POLICY_OF_USERS]),
        .operator_policy = policy_name(queue->policies[POLICY_OF_OPERATORS]),
        .policy_definition = merged_definition(listing, queue),
        .type = queue_type_name(queue->settings.type),
        .durable = queue->flags & CATALOG_DURABLE,
        .auto_delete = queue->flags & CATALOG_AUTO_DELETE,
        .exclusive = queue->flags & CATALOG_EXCLUSIVE,
        .shard = queue->shard,
        .worker = listed->worker,
        .has_counts = listed->numbers.has_counts,
        .counts = listed->numbers.counts,
    };
    return true;
}

bool listing_is_over(const struct listing *listing)
{
    return listing->is_over;
}

/* ---- the workers' numbers ---- */

struct report_job {
    struct catalog_walk walk;
    struct worker_report *report;
};

static void report_encryption(const struct log_statistics *log, struct worker_report *report)
{
    _Static_assert(KEYRING_MAX <= REPORT_KEYS_MAX, "there is room for all of a log");
    report->log.encrypted_segments += log->encryption.segments;
    report->log.encrypted_bytes += log->encryption.bytes;
    report->log.plain_segments += log->encryption.plain_segments;
    report->log.plain_bytes += log->encryption.plain_bytes;
    report->log.keys_behind += log->encryption.behind;
    report->log.master_key = log->encryption.master_key;
    worker_report_add_keys(report, log->encryption.needed, log->encryption.needed_count);
}

static void report_log(const struct worker *worker, struct worker_report *report)
{
    for (unsigned i = 0; i < worker->shard_count; i++) {
        struct log_statistics log;
        log_statistics(worker->shards[i]->log, &log);
        report->log.shards++;
        report->log.failed_shards += worker->shards[i]->has_failed;
        report->log.syncs += log.syncs;
        report->log.sync_ns += log.sync_ns_total;
        if (log.sync_ns_max > report->log.sync_ns_max)
            report->log.sync_ns_max = log.sync_ns_max;
        report->log.blocks += log.blocks;
        report->log.bytes_written += log.bytes_written;
        report->log.unsynced_bytes += log.unsynced_bytes;
        report->log.segments += log.segments;
        report->log.segment_bytes += log.segment_bytes;
        report->log.segments_removed += log.segments_removed;
        report->log.checkpoints += log.checkpoints;
        report->log.bytes_read += log.read_bytes;
        report->log.write_failures += log.write_failures;
        report->log.corrupt_reads += log.corrupt_reads;
        report_encryption(&log, report);
    }
}

static void report_rest(const struct worker *worker, struct worker_report *report)
{
    const struct loop_statistics *loop = loop_statistics(worker->loop);

    report->turns = loop->turns;
    report->turns_long = loop->long_turns;
    report->turns_ns = loop->turns_ns;
    report->turn_ns_max = loop->longest_turn_ns;
    if (worker->mailbox) {
        const struct mail_statistics *mail = mailbox_statistics(worker->mailbox);
        report->letters_sent = mail->letters_sent;
        report->parcels_sent = mail->parcels_sent;
        report->mail_bytes = mail->bytes_sent;
        report->wakes = mail->wakes;
    }
    report->connections = worker->opened - worker->closed;
    report->opened = worker->opened;
    report->closed = worker->closed;
    report->published = worker->published;
    report->delivered = worker->delivered;
    report->memory_bytes = worker->memory.used;
    report->message_bytes = worker->messages.used;
    report->disk_free_bytes =
        worker->shard_count > 0 ? store_bytes_free(worker->shards[0]->store) : UINT64_MAX;
    report->flow = worker->flow;
    report_log(worker, report);
}

static bool report_slice(struct request *request)
{
    struct worker *worker = request->client->worker;
    struct report_job *job = request->internal;
    struct worker_report *report = job->report;
    uint64_t start_ns = loop_precise_ns(worker->loop);
    const struct catalog_queue *queue;

    while ((queue = catalog_walk_next(&worker->catalog, &job->walk))) {
        if (queue->hosted && !(queue->flags & CATALOG_HIDDEN)) {
            report->queues++;
            report->consumers += queue->hosted->queue.consumers;
            report->messages_ready += queue->hosted->queue.ready;
            report->messages_leased += queue->hosted->queue.leased;
            report->messages_delayed += queue->hosted->queue.delayed;
        }
        if (loop_precise_ns(worker->loop) - start_ns >= JOB_SLICE_NS)
            return false;
    }
    report_rest(worker, report);
    catalog_walk_end(&job->walk);
    free(job);
    request->internal = NULL;
    return true;
}

void report_work(struct request *request, struct worker_report *report)
{
    struct report_job *job = memory_new(sizeof *job);

    *report = (struct worker_report){0};
    job->report = report;
    catalog_walk_begin(&request->client->worker->catalog, &job->walk);
    request->internal = job;
    request->slice = report_slice;
    request_work(request);
}

/* The worker's own part is done. */
static int own_report_is_done(struct request *request)
{
    return --request->awaited > 0 ? PENDING : DONE;
}

int broker_report(struct client *client, struct request *request, struct worker_report *reports)
{
    struct worker *worker = client->worker;

    request_begin(client, request);
    request->target = reports;
    request->awaited = 1;
    request->next = own_report_is_done;
    for (unsigned i = 0; i < worker->count; i++) {
        if (worker->peers[i])
            peer_ask_report(request, worker->peers[i]);
    }
    report_work(request, &reports[worker->index]);
    return PENDING;
}

unsigned worker_of_how_many(const struct worker *worker)
{
    return worker->count;
}

void broker_catalog_counts(const struct client *client, struct catalog_counts *counts)
{
    const struct catalog *catalog = &client->worker->catalog;

    *counts = (struct catalog_counts){
        .vhosts = map_count(&catalog->vhosts_by_id),
        .exchanges = map_count(&catalog->exchanges_by_id),
        .queues = map_count(&catalog->queues_by_id),
        .users = map_count(&catalog->users),
    };
}
