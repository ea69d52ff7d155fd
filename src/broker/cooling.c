/* Under memory pressure: queue after queue gives back what can be read from the log, in slices. */
#include "broker/broker_private.h"

#include <stdlib.h>

struct cooling {
    struct task task;
    struct worker *worker;
    unsigned shard; /* which of the worker's is at turn */
    uint64_t *ids;  /* of its durable queues, when its turn began; NULL: not yet */
    size_t count, at;
    uint64_t position; /* in the queue that is at turn */
};

/* A step; false when all shards have had their turn. */
static bool cool(struct cooling *cooling)
{
    struct worker *worker = cooling->worker;

    if (cooling->shard == worker->shard_count)
        return false;
    if (!cooling->ids)
        cooling->ids = shard_logged_queues(worker->shards[cooling->shard], &cooling->count);
    if (cooling->at == cooling->count) {
        free(cooling->ids);
        cooling->ids = NULL;
        cooling->at = 0;
        cooling->shard++;
        return true;
    }
    struct queue *queue =
        shard_logged_queue(worker->shards[cooling->shard], cooling->ids[cooling->at]);
    if (!queue || queue_cool(queue, &cooling->position)) {
        cooling->at++;
        cooling->position = 0;
    }
    return true;
}

static void cooling_run(struct task *task)
{
    struct cooling *cooling = CONTAINER_OF(task, struct cooling, task);
    struct worker *worker = cooling->worker;
    uint64_t since_ns = loop_precise_ns(worker->loop);

    while (worker->messages.used > worker->options.hot_bytes_max && cool(cooling)) {
        if (loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS) {
            loop_defer(worker->loop, task, LOOP_DISPATCH);
            return;
        }
    }
    cooling_free(worker);
}

void cooling_begin(struct worker *worker)
{
    if (worker->cooling)
        return;
    struct cooling *cooling = memory_new(sizeof *cooling);
    cooling->worker = worker;
    task_init(&cooling->task, cooling_run);
    worker->cooling = cooling;
    loop_defer(worker->loop, &cooling->task, LOOP_DISPATCH);
}

void cooling_free(struct worker *worker)
{
    struct cooling *cooling = worker->cooling;

    if (!cooling)
        return;
    task_cancel(&cooling->task);
    free(cooling->ids);
    free(cooling);
    worker->cooling = NULL;
}
