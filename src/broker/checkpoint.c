/* Writing a checkpoint: the catalog's snapshot and the states of queues that changed, in slices. */
#include "broker/broker_private.h"

#include <stdlib.h>

struct checkpoint_job {
    struct task task;
    struct worker *worker;
    bool catalog;
    bool exact; /* a clean stop: nothing will be delivered any more */
    struct catalog_cursor cursor;
    uint64_t *ids; /* of the durable queues that there were when their part began */
    size_t count, at;
};

static bool snapshot_slice(struct checkpoint_job *job, uint64_t since_ns)
{
    struct worker *worker = job->worker;
    uint8_t *bytes = memory_new(EVENT_BYTES_MAX);
    size_t size = 0;
    bool over = false;

    while (!over && (size = catalog_snapshot_next(&worker->catalog, &job->cursor, bytes,
                                                  EVENT_BYTES_MAX)) > 0) {
        log_snapshot_item(worker->log, slice_of(bytes, size));
        over = loop_precise_ns(worker->loop) - since_ns > TURN_SLICE_NS;
    }
    free(bytes);
    if (size > 0)
        return false;
    catalog_snapshot_end(&job->cursor);
    log_snapshot_end(worker->log);
    job->catalog = false;
    return true;
}

static void collect(struct checkpoint_job *job)
{
    const struct map *queues = &job->worker->catalog.queues_by_id;
    struct map_cursor cursor = {0};

    job->ids = memory_new((map_count(queues) + 1) * sizeof *job->ids);
    for (struct catalog_queue *q; (q = map_next(queues, &cursor));) {
        if (q->queue.log)
            job->ids[job->count++] = q->queue.id;
    }
}

static bool states_slice(struct checkpoint_job *job, uint64_t since_ns)
{
    struct worker *worker = job->worker;

    if (!job->ids)
        collect(job);
    while (job->at < job->count) {
        struct catalog_queue *q = catalog_queue_by_id(&worker->catalog, job->ids[job->at++]);
        bool inexact = q && job->exact && q->queue.mark_logged > q->queue.fresh;
        if (q && (q->queue.is_dirty || inexact || log_state_is_wanted(worker->log, q->queue.id)))
            queue_write_state(&q->queue, job->exact);
        if (loop_precise_ns(worker->loop) - since_ns > TURN_SLICE_NS)
            return false;
    }
    return true;
}

static void checkpoint_run(struct task *task)
{
    struct checkpoint_job *job = CONTAINER_OF(task, struct checkpoint_job, task);
    struct worker *worker = job->worker;
    uint64_t since_ns = loop_precise_ns(worker->loop);

    if ((job->catalog && !snapshot_slice(job, since_ns)) || !states_slice(job, since_ns)) {
        loop_defer(worker->loop, task, LOOP_DISPATCH);
        return;
    }
    log_checkpoint_end(worker->log);
    worker->last_checkpoint = job->exact;
    checkpoint_free(worker);
}

void checkpoint_begin(struct worker *worker, bool catalog)
{
    struct checkpoint_job *job = memory_new(sizeof *job);

    ASSERT(!worker->checkpoint);
    worker->checkpoint = job;
    job->worker = worker;
    job->catalog = catalog;
    job->exact = worker->stopping;
    task_init(&job->task, checkpoint_run);
    if (catalog)
        log_snapshot_begin(worker->log);
    loop_defer(worker->loop, &job->task, LOOP_DISPATCH);
}

void checkpoint_free(struct worker *worker)
{
    struct checkpoint_job *job = worker->checkpoint;

    if (!job)
        return;
    task_cancel(&job->task);
    catalog_snapshot_end(&job->cursor);
    free(job->ids);
    free(job);
    worker->checkpoint = NULL;
}
