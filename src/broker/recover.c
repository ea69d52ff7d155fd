/* From the log to a running worker; and what a new data directory gets. */
#include "broker/change.h"
#include "broker/move.h"
#include "broker/part.h"
#include "broker/peer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define BOOT_ID_MAX (UINT64_MAX / 2) /* no catalog comes so far */

/* What a start needs and nobody afterwards. */
struct boot {
    struct worker *worker;
    uint64_t
        *orphans; /* queues with a state in the log at hand and without a place in the catalog */
    size_t orphan_count, orphan_capacity;
    unsigned opened;        /* shards */
    unsigned peers_started; /* on the first worker */
    bool is_opening;        /* a shard, which is shards[opened] */
    bool has_failed;        /* somewhere: what is open here is closed */
    unsigned closing;       /* shards */
    uint64_t id_last;       /* of all queues that logs speak of, known or not */

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
    struct shard *shard = context;
    struct worker *worker = shard->place.worker;

    if (shard->number != 1) {
        log_error(worker->logger, "recovery", "shard %u has a catalog record: passed over",
                  shard->number);
        return;
    }
    if (catalog_apply(&worker->catalog, bytes) != 0) {
        worker->catalog_is_suspect = true;
        log_set_damaged(shard->log);
        log_error(worker->logger, "recovery",
                  "a catalog record of %zu bytes makes no sense: passed over", bytes.size);
    }
}

/* An object's id is durable with its making in the first shard, and may stand in another before: a
 * crash in between leaves records of a queue that never was, and its id must not be given again. */
static struct queue *find(const struct shard *shard, uint64_t id)
{
    struct worker *worker = shard->place.worker;

    if (id > worker->boot->id_last && id <= BOOT_ID_MAX)
        worker->boot->id_last = id;
    return shard_logged_queue(shard, id);
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

static void drop_orphans(struct shard *shard)
{
    struct worker *worker = shard->place.worker;
    struct boot *boot = worker->boot;

    for (size_t i = 0; i < boot->orphan_count && !worker->catalog_is_suspect; i++)
        log_drop_state(shard->log, boot->orphans[i]);
    boot->orphan_count = 0;
}

/* Whether what it does not tell was decided, nobody can say any more. */
static void ledger_is_damaged(struct shard *shard, int result)
{
    struct worker *worker = shard->place.worker;

    log_set_damaged(shard->log);
    log_error(worker->logger, "recovery",
              "a record of the transactions of shard %u cannot be read (%s): passed over",
              shard->number, error_name(result));
}

static void recover_change(void *context, uint64_t id, struct slice bytes)
{
    struct shard *shard = context;
    int result = id == LEDGER_ID ? ledger_recover_change(shard, bytes) : 0;

    if (result < 0)
        ledger_is_damaged(shard, result);
}

static void recover_state(void *context, uint64_t id, struct slice bytes, uint64_t position)
{
    struct shard *shard = context;
    struct queue *queue = find(shard, id);

    (void)position;
    if (id == LEDGER_ID) {
        int result = ledger_recover_state(shard, bytes);
        if (result < 0)
            ledger_is_damaged(shard, result);
        return;
    }
    if (!queue) {
        orphan_add(shard->place.worker, id);
        return;
    }
    int result = queue_recover_state(queue, bytes);
    if (result != 0)
        log_error(shard->place.worker->logger, "recovery",
                  "the state of queue '%s' cannot be read (%s)", hosted_of(queue)->named->name,
                  error_name(result));
}

/* A queue that the catalog does not know was deleted, unless the catalog itself is damaged: then
 * its messages stay. */
static void recover_message(void *context, uint64_t id, uint64_t sequence, uint64_t position,
                            uint64_t size, uint16_t lane, uint64_t due_ms)
{
    const struct shard *shard = context;
    struct queue *queue = find(shard, id);

    if (queue ? queue_recover_message(queue, sequence, position, size, lane, due_ms)
              : shard->place.worker->catalog_is_suspect)
        return;
    log_release(shard->log, position);
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

static void recover_postponed(void *context, uint64_t id, uint64_t sequence, uint64_t due_ms)
{
    struct queue *queue = find(context, id);

    if (queue)
        queue_recover_postponed(queue, sequence, due_ms);
}

static void recover_delivered(void *context, uint64_t id, uint64_t sequence)
{
    struct queue *queue = find(context, id);

    if (queue)
        queue_recover_delivered(queue, sequence);
}

static void recover_corrupt(void *context, const struct failure *what)
{
    const struct shard *shard = context;
    struct worker *worker = shard->place.worker;

    worker->catalog_is_suspect = true;
    log_error(worker->logger, "recovery", "corruption in shard %u: %s", shard->number, what->text);
}

/* A queue that has its messages in a log, of those beyond the `after`th shard. NULL: none. */
static const struct catalog_queue *logged_queue(const struct worker *worker, unsigned after,
                                                unsigned up_to)
{
    struct map_cursor cursor = {0};

    for (const struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        if (q->shard > after && q->shard <= up_to && catalog_is_logged(q->flags))
            return q;
    }
    return NULL;
}

static int shard_is_missing(const struct catalog_queue *queue, struct failure *failure)
{
    return fail(failure, E_NOT_FOUND, "shard-%u is missing: it has the messages of queue '%s'",
                queue->shard, queue->name);
}

/* Nothing has been changed yet, so that what is there can still be looked at. A log that has never
 * been opened can have no queue. */
static int recover_told(void *context, struct failure *failure)
{
    const struct shard *shard = context;
    const struct worker *worker = shard->place.worker;

    if (shard->number > 1 && log_epoch(shard->log) == 1) {
        const struct catalog_queue *queue = logged_queue(worker, shard->number - 1, shard->number);
        if (queue)
            return shard_is_missing(queue, failure);
    }
    if (map_count(&worker->catalog.vhosts) > 0 || !worker->catalog_is_suspect)
        return 0;
    return fail(failure, E_CORRUPT,
                "the catalog cannot be read, and making a new one would hide what is there");
}

const struct log_recovery shard_recovery = {
    .catalog = recover_catalog,
    .state = recover_state,
    .message = recover_message,
    .settled = recover_settled,
    .returned = recover_returned,
    .postponed = recover_postponed,
    .delivered = recover_delivered,
    .change = recover_change,
    .corrupt = recover_corrupt,
    .told = recover_told,
};

/* ---- the end of a start ---- */

static void boot_over(struct worker *worker)
{
    boot_free(worker);
    worker->started(worker->started_context, &worker->start);
}

static void boot_closed(void *context)
{
    struct worker *worker = ((struct shard *)context)->place.worker;

    if (--worker->boot->closing == 0)
        boot_over(worker);
}

/* Logs that were opened are closed in order, so that nothing is under way in a store when all is
 * given up. One that is being opened is waited for. */
static void boot_retreat(struct worker *worker)
{
    struct boot *boot = worker->boot;

    boot->has_failed = true;
    if (boot->is_opening)
        return;
    boot->closing = boot->opened;
    for (unsigned i = 0; i < boot->opened; i++) {
        checkpoint_free(worker->shards[i]);
        log_close(worker->shards[i]->log, boot_closed, worker->shards[i]);
    }
    if (boot->opened == 0)
        boot_over(worker);
}

void boot_end(struct worker *worker, int result, const char *text)
{
    if (result != 0 && worker->start.result == 0) {
        worker->start.result = result;
        fail(&worker->start.failure, result, "%s", text);
    }
    if (worker->start.result != 0) {
        boot_retreat(worker);
        return;
    }
    if (worker->catalog.next_id <= worker->boot->id_last)
        worker->catalog.next_id = worker->boot->id_last + 1;
    worker->catalog.queue_moving = queue_moving;
    worker->catalog.queue_stays = queue_stays;
    worker->catalog.queue_stranded = queue_stranded;
    worker->catalog.binding_lost = worker_has_catalog(worker) ? change_binding_lost : NULL;
    timer_set(&worker->watch, loop_now_ns(worker->loop) + 1);
    for (unsigned i = 0; i < worker->shard_count; i++)
        queue_host_begin(&worker->shards[i]->host);
    ledgers_resolve(worker);
    boot_over(worker);
}

/* ---- the first start ---- */

/* What this worker has to do is done, or has failed. */
static void started(struct worker *worker)
{
    if (worker->count == 1)
        boot_end(worker, 0, "");
    else if (worker_has_catalog(worker))
        boot_peer_started(worker, 0, "", worker->boot->id_last);
    else
        peers_tell_started(worker, &worker->start, worker->boot->id_last);
}

void boot_peer_started(struct worker *worker, int result, const char *text, uint64_t id_last)
{
    struct boot *boot = worker->boot;

    if (!boot || boot->has_failed)
        return;
    boot->peers_started++;
    if (id_last > boot->id_last)
        boot->id_last = id_last;
    if (worker->start.result != 0 || result != 0 || boot->peers_started == worker->count) {
        result = worker->start.result ? worker->start.result : result;
        text = worker->start.result ? worker->start.failure.text : text;
        peers_tell_go(worker, result, text);
        boot_end(worker, result, text);
    }
}

/* The first worker has the catalog: the others get it, and all open what is theirs. */
static void open_next(struct worker *worker)
{
    struct boot *boot = worker->boot;

    boot->is_opening = boot->opened < worker->shard_count;
    if (boot->is_opening)
        shard_open(worker->shards[boot->opened]);
    else
        started(worker);
}

static void boot_failed(struct worker *worker, int result, const char *what)
{
    worker->start.result = result;
    if (worker->start.failure.text[0] == 0)
        fail(&worker->start.failure, result, "%s: %s", what, error_name(result));
    started(worker);
}

static void catalog_is_there(struct worker *worker)
{
    const struct catalog_queue *queue =
        logged_queue(worker, worker->options.shard_count, UINT32_MAX);

    if (queue) {
        boot_failed(worker, shard_is_missing(queue, &worker->start.failure), "");
        return;
    }
    policies_boot(worker);
    worker->catalog_settled.done = worker->catalog.events;
    hosted_settled(worker);
    worker->start_number = log_epoch(catalog_log(worker));
    peers_tell_catalog(worker);
    open_next(worker);
}

void boot_catalog_came(struct worker *worker, bool is_suspect)
{
    ASSERT(!worker_has_catalog(worker));
    worker->catalog_is_suspect = is_suspect;
    policies_boot(worker);
    worker->catalog_settled.done = worker->catalog.events;
    hosted_settled(worker);
    open_next(worker);
}

/* Until the first catalog is durable. */
static void boot_wait(struct timer *timer)
{
    struct boot *boot = CONTAINER_OF(timer, struct boot, wait);
    struct worker *worker = boot->worker;

    if (log_is_failed(catalog_log(worker))) {
        boot_failed(worker, E_FAILED, "the new data directory cannot be written");
    } else if (log_block_durable(catalog_log(worker)) < boot->block) {
        timer_set(timer, loop_now_ns(worker->loop) + NANOSECONDS_PER_MS);
    } else {
        changes_settle(worker);
        catalog_is_there(worker);
    }
}

static int record_user(struct worker *worker, const char *hash, struct failure *failure)
{
    const struct worker_options *o = &worker->options;
    uint8_t bytes[4096];
    struct writer w = writer_of(bytes, sizeof bytes);

    catalog_encode_user(&w, slice_text(o->default_user), slice_text(hash),
                        slice_text(o->default_tags));
    int result = change_make(worker, &w, true, failure);
    if (result != 0)
        return result;
    struct vhost *vhost = catalog_vhost(&worker->catalog, slice_text(o->settings.default_vhost));
    w = writer_of(bytes, sizeof bytes);
    catalog_encode_permission(&w, slice_text(o->default_user), vhost->id,
                              slice_text(o->default_configure), slice_text(o->default_write),
                              slice_text(o->default_read));
    return change_make(worker, &w, true, failure);
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
    boot->block = log_block_last(catalog_log(worker));
    log_commit(catalog_log(worker));
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

static void finish_queues(struct shard *shard)
{
    struct worker *worker = shard->place.worker;
    struct map_cursor cursor = {0};

    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        if (!q->hosted || q->hosted->shard != shard)
            continue;
        uint64_t missing = queue_recover_end(&q->hosted->queue);
        if (missing > 0)
            log_error(worker->logger, "recovery",
                      "queue '%s' in vhost '%s' has lost %" PRIu64 " messages", q->name,
                      q->vhost->name, missing);
        worker->start.queues++;
        worker->start.messages += q->hosted->queue.ready;
    }
    ledger_recover_end(shard);
}

static void add_opened(struct log_opened *sum, const struct log_opened *one, bool is_first)
{
    sum->blocks_replayed += one->blocks_replayed;
    sum->records_replayed += one->records_replayed;
    sum->torn_bytes += one->torn_bytes;
    sum->corrupt_blocks += one->corrupt_blocks;
    sum->clean = (is_first || sum->clean) && one->clean;
}

void shard_opened(void *context, int result, const struct log_opened *summary,
                  const struct failure *failure)
{
    struct shard *shard = context;
    struct worker *worker = shard->place.worker;

    worker->boot->is_opening = false;
    if (worker->boot->has_failed) { /* another worker could not start */
        worker->boot->opened += result == 0;
        boot_retreat(worker);
        return;
    }
    if (summary)
        add_opened(&worker->start.log, summary, worker->boot->opened == 0);
    if (result != 0) {
        worker->start.result = result;
        fail(&worker->start.failure, result, "shard %u: %s", shard->number, failure->text);
        started(worker);
        return;
    }
    worker->boot->opened++;
    finish_queues(shard);
    drop_orphans(shard);
    shard->place.line.done = log_block_durable(shard->log);
    if (worker->start.result != 0)
        started(worker);
    else if (shard->number != 1)
        open_next(worker);
    else if (map_count(&worker->catalog.vhosts) > 0)
        catalog_is_there(worker);
    else
        boot_begin(worker);
}
