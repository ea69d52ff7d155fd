/* Writing a checkpoint: the catalog's snapshot and the states of queues that changed, in slices. */
#include "broker/part.h"

#include <stdlib.h>

struct checkpoint_job {
    struct task task;
    struct shard *shard;
    bool catalog;
    bool exact; /* a clean stop: nothing will be delivered any more */
    struct catalog_cursor cursor;
    uint64_t *ids; /* of the durable queues that there were when their part began */
    size_t count, at;
};

static bool snapshot_slice(struct checkpoint_job *job, uint64_t since_ns)
{
    struct worker *worker = job->shard->place.worker;
    struct log *log = job->shard->log;
    uint8_t *bytes = memory_new(EVENT_BYTES_MAX);
    size_t size = 0;
    bool over = false;

    while (!over && (size = catalog_snapshot_next(&worker->catalog, &job->cursor, bytes,
                                                  EVENT_BYTES_MAX)) > 0) {
        log_snapshot_item(log, slice_of(bytes, size));
        over = loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS;
    }
    free(bytes);
    if (size > 0)
        return false;
    catalog_snapshot_end(&job->cursor);
    log_snapshot_end(log);
    job->catalog = false;
    return true;
}

uint64_t *shard_logged_queues(const struct shard *shard, size_t *count)
{
    const struct map *queues = &shard->place.worker->catalog.queues_by_id;
    struct map_cursor cursor = {0};
    uint64_t *ids = memory_new((map_count(queues) + 1) * sizeof *ids);

    *count = 0;
    for (const struct catalog_queue *q; (q = map_next(queues, &cursor));) {
        const struct hosted *hosted = hosted_in(q, shard);
        if (hosted && hosted->queue.log)
            ids[(*count)++] = q->id;
    }
    return ids;
}

struct queue *shard_logged_queue(const struct shard *shard, uint64_t id)
{
    const struct catalog_queue *q = catalog_queue_by_id(&shard->place.worker->catalog, id);
    struct hosted *hosted = q ? hosted_in(q, shard) : NULL;

    return hosted && hosted->queue.log ? &hosted->queue : NULL;
}

static bool states_slice(struct checkpoint_job *job, uint64_t since_ns)
{
    struct worker *worker = job->shard->place.worker;

    if (!job->ids)
        job->ids = shard_logged_queues(job->shard, &job->count);
    while (job->at < job->count) {
        struct queue *queue = shard_logged_queue(job->shard, job->ids[job->at++]);
        bool inexact = queue && job->exact && queue_is_inexact(queue);
        if (queue &&
            (queue->is_dirty || inexact || log_state_is_wanted(job->shard->log, queue->id)))
            queue_write_state(queue, job->exact);
        if (loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS)
            return false;
    }
    return true;
}

/* Queues that the catalog does not know any more, until that is durable: a crash may bring them
 * back. */
static bool closed_slice(const struct checkpoint_job *job, uint64_t since_ns)
{
    const struct shard *shard = job->shard;

    for (struct list *link; (link = list_first(&shard->host.closed_dirty));) {
        queue_write_state(CONTAINER_OF(link, struct queue, closed_link), job->exact);
        if (loop_precise_ns(shard->place.worker->loop) - since_ns > JOB_SLICE_NS)
            return false;
    }
    return true;
}

static void checkpoint_run(struct task *task)
{
    struct checkpoint_job *job = CONTAINER_OF(task, struct checkpoint_job, task);
    struct shard *shard = job->shard;
    struct loop *loop = shard->place.worker->loop;
    uint64_t since_ns = loop_precise_ns(loop);

    if ((job->catalog && !snapshot_slice(job, since_ns)) || !states_slice(job, since_ns) ||
        !closed_slice(job, since_ns)) {
        loop_defer(loop, task, LOOP_DISPATCH);
        return;
    }
    if (shard->ledger.is_dirty || log_state_is_wanted(shard->log, LEDGER_ID))
        ledger_write_state(shard);
    log_checkpoint_end(shard->log);
    shard->last_checkpoint = job->exact;
    checkpoint_free(shard);
}

void checkpoint_begin(struct shard *shard, bool catalog)
{
    struct worker *worker = shard->place.worker;
    struct checkpoint_job *job = memory_new(sizeof *job);

    ASSERT(!shard->checkpoint);
    shard->checkpoint = job;
    job->shard = shard;
    job->catalog = catalog && shard->number == 1;
    job->exact = worker->is_quiet;
    task_init(&job->task, checkpoint_run);
    if (catalog)
        log_snapshot_begin(shard->log);
    if (catalog && !job->catalog) /* this shard's log has no catalog: an empty one */
        log_snapshot_end(shard->log);
    loop_defer(worker->loop, &job->task, LOOP_DISPATCH);
}

void checkpoint_free(struct shard *shard)
{
    struct checkpoint_job *job = shard->checkpoint;

    if (!job)
        return;
    task_cancel(&job->task);
    catalog_snapshot_end(&job->cursor);
    free(job->ids);
    free(job);
    shard->checkpoint = NULL;
}
