/* From the log to a running worker; and what a new data directory gets. */
#include "broker/broker_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

/* What a start needs and nobody afterwards. */
struct boot {
    struct worker *worker;
    uint64_t *orphans; /* queues with a state and without a place in the catalog */
    size_t orphan_count, orphan_capacity;

    /* of a new data directory: */
    struct password_job hash;
    struct timer wait;
    uint64_t block;
};

void boot_new(struct worker *worker)
{
    worker->boot = memory_new(sizeof *worker->boot);
    worker->boot->worker = worker;
}

void boot_free(struct worker *worker)
{
    if (!worker->boot)
        return;
    if (worker->boot->wait.loop)
        timer_stop(&worker->boot->wait);
    free(worker->boot->orphans);
    free(worker->boot);
    worker->boot = NULL;
}

/* ---- what the log tells ---- */

static void recover_catalog(void *context, struct slice bytes)
{
    struct worker *worker = context;

    if (catalog_apply(&worker->catalog, bytes) != 0) {
        worker->catalog_is_suspect = true;
        log_set_damaged(worker->log);
        log_error(worker->logger, "recovery",
                  "a catalog record of %zu bytes makes no sense: passed over", bytes.size);
    }
}

static struct queue *find(struct worker *worker, uint64_t id)
{
    struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);
    return queue && queue->queue.log ? &queue->queue : NULL;
}

/* A state of a queue that the catalog does not know. Whether the catalog can be trusted is known
 * when all has been told, so it is dropped at the end. */
static void orphan_add(struct worker *worker, uint64_t id)
{
    struct boot *boot = worker->boot;

    if (boot->orphan_count == boot->orphan_capacity) {
        boot->orphan_capacity = boot->orphan_capacity ? 2 * boot->orphan_capacity : 16;
        boot->orphans = memory_resize(boot->orphans, boot->orphan_capacity, sizeof *boot->orphans);
    }
    boot->orphans[boot->orphan_count++] = id;
}

static void drop_orphans(struct worker *worker)
{
    const struct boot *boot = worker->boot;

    for (size_t i = 0; i < boot->orphan_count && !worker->catalog_is_suspect; i++)
        log_drop_state(worker->log, boot->orphans[i]);
}

static void recover_state(void *context, uint64_t id, struct slice bytes, uint64_t position)
{
    struct worker *worker = context;
    struct queue *queue = find(worker, id);

    (void)position;
    if (!queue) {
        orphan_add(worker, id);
        return;
    }
    int result = queue_recover_state(queue, bytes);
    if (result != 0)
        log_error(worker->logger, "recovery", "the state of queue '%s' cannot be read (%s)",
                  catalog_queue_of(queue)->name, error_name(result));
}

/* A queue that the catalog does not know was deleted, unless the catalog itself is damaged: then
 * its messages stay. */
static void recover_message(void *context, uint64_t id, uint64_t sequence, uint64_t position,
                            uint64_t size, uint16_t lane)
{
    struct worker *worker = context;
    struct queue *queue = find(worker, id);

    (void)lane;
    if (queue ? queue_recover_message(queue, sequence, position, size) : worker->catalog_is_suspect)
        return;
    log_release(worker->log, position);
}

static void recover_settled(void *context, uint64_t id, uint64_t first, uint64_t last, unsigned why)
{
    struct queue *queue = find(context, id);

    (void)why;
    if (queue)
        queue_recover_settled(queue, first, last);
}

static void recover_returned(void *context, uint64_t id, uint64_t first, uint64_t last,
                             uint32_t count)
{
    struct queue *queue = find(context, id);

    if (queue)
        queue_recover_returned(queue, first, last, count);
}

static void recover_delivered(void *context, uint64_t id, uint64_t sequence)
{
    struct queue *queue = find(context, id);

    if (queue)
        queue_recover_delivered(queue, sequence);
}

static void recover_corrupt(void *context, const struct failure *what)
{
    struct worker *worker = context;

    worker->catalog_is_suspect = true;
    log_error(worker->logger, "recovery", "corruption: %s", what->text);
}

/* Nothing has been changed yet, so that what is there can still be looked at. */
static int recover_told(void *context, struct failure *failure)
{
    struct worker *worker = context;

    if (map_count(&worker->catalog.vhosts) > 0 || !worker->catalog_is_suspect)
        return 0;
    return fail(failure, E_CORRUPT,
                "the catalog cannot be read, and making a new one would hide what is there");
}

const struct log_recovery worker_recovery = {
    .catalog = recover_catalog,
    .state = recover_state,
    .message = recover_message,
    .settled = recover_settled,
    .returned = recover_returned,
    .delivered = recover_delivered,
    .corrupt = recover_corrupt,
    .told = recover_told,
};

/* ---- the first start ---- */

static void started(struct worker *worker)
{
    boot_free(worker);
    timer_set(&worker->watch, loop_now_ns(worker->loop) + 1);
    worker->started(worker->started_context, &worker->start);
}

static void boot_failed(struct worker *worker, int result, const char *what)
{
    worker->start.result = result;
    if (worker->start.failure.text[0] == 0)
        fail(&worker->start.failure, result, "%s: %s", what, error_name(result));
    started(worker);
}

/* Until the first catalog is durable. */
static void boot_wait(struct timer *timer)
{
    struct boot *boot = CONTAINER_OF(timer, struct boot, wait);
    struct worker *worker = boot->worker;

    if (log_is_failed(worker->log)) {
        boot_failed(worker, E_FAILED, "the new data directory cannot be written");
    } else if (log_block_durable(worker->log) < boot->block) {
        timer_set(timer, loop_now_ns(worker->loop) + NANOSECONDS_PER_MS);
    } else {
        started(worker);
    }
}

static int record_user(struct worker *worker, const char *hash, struct failure *failure)
{
    const struct worker_options *o = &worker->options;
    uint8_t bytes[4096];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_user(&w, slice_text(o->default_user), slice_text(hash),
                        slice_text(o->default_tags));
    int result = catalog_record(worker, &w, failure);
    if (result != 0)
        return result;
    struct vhost *vhost = catalog_vhost(&worker->catalog, slice_text(o->settings.default_vhost));
    w = writer_of(bytes, sizeof bytes);
    catalog_encode_permission(&w, slice_text(o->default_user), vhost->id,
                              slice_text(o->default_configure), slice_text(o->default_write),
                              slice_text(o->default_read));
    return catalog_record(worker, &w, failure);
}

static void boot_hashed(struct job *job)
{
    struct boot *boot = CONTAINER_OF(job, struct boot, hash.job);
    struct worker *worker = boot->worker;

    int result = boot->hash.result;
    if (result == 0)
        result = worker_create_vhost(worker, slice_text(worker->options.settings.default_vhost),
                                     &worker->start.failure);
    if (result == 0)
        result = record_user(worker, boot->hash.hash, &worker->start.failure);
    if (result != 0) {
        boot_failed(worker, result, "the default user cannot be made");
        return;
    }
    boot->block = log_block_last(worker->log);
    log_commit(worker->log);
    timer_set(&boot->wait, loop_now_ns(worker->loop));
}

/* The default password stands in every manual: no cost of hashing protects it, and the first start
 * need not wait for it. A password that is set, also as default_pass, gets the full cost. */
static const struct password_cost cost_of_what_everybody_knows = {1024, 1};

static void boot_begin(struct worker *worker)
{
    struct boot *boot = worker->boot;
    const char *password = worker->options.default_pass;

    timer_init(&boot->wait, worker->loop, boot_wait);
    boot->hash.cost = worker->options.password_cost;
    if (strcmp(password, "guest") == 0)
        boot->hash.cost = cost_of_what_everybody_knows;
    loop_random_bytes(worker->loop, boot->hash.salt, sizeof boot->hash.salt);
    boot->hash.password_size = strlen(password);
    ASSERT(boot->hash.password_size <= PASSWORD_MAX);
    memcpy(boot->hash.password, password, boot->hash.password_size);
    boot->hash.job = (struct job){.loop = worker->loop, .work = password_work, .done = boot_hashed};
    int result = loop_help(worker->loop, &boot->hash.job);
    ASSERT(result == 0); /* the first job of all */
}

/* ---- the end of recovery ---- */

static void finish_queues(struct worker *worker)
{
    struct map_cursor cursor = {0};

    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        uint64_t missing = queue_recover_end(&q->queue);
        if (missing > 0)
            log_error(worker->logger, "recovery",
                      "queue '%s' in vhost '%s' has lost %" PRIu64 " messages", q->name,
                      q->vhost->name, missing);
        worker->start.queues++;
        worker->start.messages += q->queue.ready;
    }
}

void worker_opened(void *context, int result, const struct log_opened *summary,
                   const struct failure *failure)
{
    struct worker *worker = context;

    worker->start.result = result;
    if (summary)
        worker->start.log = *summary;
    if (result != 0) {
        worker->start.failure = *failure;
        worker->started(worker->started_context, &worker->start);
        return;
    }
    finish_queues(worker);
    drop_orphans(worker);
    if (map_count(&worker->catalog.vhosts) > 0)
        started(worker);
    else
        boot_begin(worker);
}
