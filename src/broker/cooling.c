/* Under memory pressure: queue after queue gives back what can be read from the log, in slices. */
#include "broker/broker_private.h"

#include <stdlib.h>

struct cooling {
    struct task task;
    struct worker *worker;
    uint64_t *ids; /* of the durable queues that there were at the start */
    size_t count, at;
    uint64_t position; /* in the queue that is at turn */
};

static void cooling_run(struct task *task)
{
    struct cooling *cooling = CONTAINER_OF(task, struct cooling, task);
    struct worker *worker = cooling->worker;
    uint64_t since_ns = loop_precise_ns(worker->loop);

    while (cooling->at < cooling->count && worker->messages.used > worker->options.hot_bytes_max) {
        struct catalog_queue *q = catalog_queue_by_id(&worker->catalog, cooling->ids[cooling->at]);
        if (!q || queue_cool(&q->queue, &cooling->position)) {
            cooling->at++;
            cooling->position = 0;
        }
        if (loop_precise_ns(worker->loop) - since_ns > TURN_SLICE_NS) {
            loop_defer(worker->loop, task, LOOP_DISPATCH);
            return;
        }
    }
    cooling_free(worker);
}

void cooling_begin(struct worker *worker)
{
    const struct map *queues = &worker->catalog.queues_by_id;
    struct map_cursor cursor = {0};

    if (worker->cooling)
        return;
    struct cooling *cooling = memory_new(sizeof *cooling);
    cooling->worker = worker;
    cooling->ids = memory_new((map_count(queues) + 1) * sizeof *cooling->ids);
    for (struct catalog_queue *q; (q = map_next(queues, &cursor));) {
        if (q->queue.log)
            cooling->ids[cooling->count++] = q->queue.id;
    }
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
