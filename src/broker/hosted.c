/* Hosted queues, and the lines in which requests and publishers wait. */
#include "broker/broker_private.h"

#include <stdlib.h>

/* ---- lines ---- */

void line_init(struct line *line)
{
    *line = (struct line){0};
    list_init(&line->requests);
    list_init(&line->publishers);
    list_init(&line->going);
}

void line_hurry(struct line *line)
{
    if (line->log)
        log_commit(line->log);
}

/* The request that may go on; NULL: none. */
static struct request *line_first(const struct line *line)
{
    struct list *link = list_first(&line->requests);
    struct request *request = link ? CONTAINER_OF(link, struct request, link) : NULL;

    return request && (line->failed || mark_is_good(request->waits[0])) ? request : NULL;
}

static void goes_on(struct line *line)
{
    struct request *first = line_first(line);

    if (first && !list_linked(&line->going)) {
        struct worker *worker = first->client->worker;
        list_append(&worker->lines_going, &line->going);
        loop_defer(worker->loop, &worker->tell, LOOP_DISPATCH);
    }
    publishers_advance(line);
}

bool lines_slice(struct worker *worker, uint64_t since_ns)
{
    struct list *link;

    while ((link = list_first(&worker->lines_going)) != NULL) {
        struct line *line = CONTAINER_OF(link, struct line, going);
        struct request *request = line_first(line);
        list_remove(link);
        if (!request)
            continue;
        list_append(&worker->lines_going, link);
        request_go_on(request);
        if (loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS)
            return false;
    }
    return true;
}

void line_advance(struct line *line, uint64_t done)
{
    if (done <= line->done)
        return;
    line->done = done;
    goes_on(line);
}

void line_fail(struct line *line)
{
    line->failed = true;
    goes_on(line);
}

/* ---- expiry of unused queues ---- */

void hosted_used(struct hosted *hosted)
{
    uint64_t expires_ms = hosted->named->settings.expires_ms;

    hosted->used_ns = loop_now_ns(hosted->queue.host->loop);
    if (expires_ms && !hosted->has_expired && !hosted->queue.closed &&
        !timer_is_set(&hosted->expiry))
        timer_set(&hosted->expiry, hosted->used_ns + expires_ms * NANOSECONDS_PER_MS);
}

static void expired(struct timer *timer)
{
    struct hosted *hosted = CONTAINER_OF(timer, struct hosted, expiry);
    struct worker *worker = hosted->shard->place.worker;
    uint64_t expires_ns = hosted->named->settings.expires_ms * NANOSECONDS_PER_MS;
    uint64_t at_ns = hosted->used_ns + expires_ns;

    if (worker->stopping)
        return; /* the next start begins anew */
    if (hosted->queue.consumers + hosted->returning > 0 || !list_empty(&hosted->getters) ||
        hosted->named->move || !worker_runs(worker))
        at_ns = loop_now_ns(worker->loop) + expires_ns;
    if (at_ns > loop_now_ns(worker->loop)) {
        timer_set(timer, at_ns);
        return;
    }
    log_debug(worker->logger, "queue", "queue '%s' in vhost '%s' has expired", hosted->named->name,
              hosted->named->vhost->name);
    hosted->has_expired = true;
    worker_delete_queue(worker, hosted->named);
}

struct queue_counts hosted_counts(const struct hosted *hosted)
{
    return (struct queue_counts){
        .ready = hosted->queue.ready,
        .leased = hosted->queue.leased,
        .consumers = hosted->queue.consumers + hosted->returning,
        .delayed = hosted->queue.delayed,
    };
}

void hosted_check_unused(struct hosted *hosted)
{
    struct catalog_queue *named = hosted->named;

    if ((named->flags & CATALOG_AUTO_DELETE) && !named->dropped &&
        hosted->queue.consumers + hosted->returning == 0)
        worker_delete_queue(hosted->shard->place.worker, named);
}

/* ---- what it does by itself ---- */

static uint64_t or_any(int64_t limit)
{
    return limit < 0 ? UINT64_MAX : (uint64_t)limit;
}

static void set_rules(struct hosted *hosted)
{
    const struct queue_settings *settings = &hosted->named->settings;
    uint64_t returns_max = or_any(settings->delivery_limit);
    struct queue_rules rules = {
        .length_max = or_any(settings->length_max),
        .bytes_max = or_any(settings->length_bytes_max),
        .lives_ms = or_any(settings->message_ttl_ms),
        .returns_max = returns_max > UINT32_MAX ? UINT32_MAX : (uint32_t)returns_max,
        .overflow = settings->overflow,
        .buries = queue_dead_letters(settings),
        .chooses = settings->single_active_consumer,
        .retry = settings->retry,
    };

    if (settings->type != QUEUE_STREAM)
        queue_set_rules(&hosted->queue, &rules);
}

void hosted_refresh(struct hosted *hosted, bool expires_otherwise)
{
    if (hosted->queue.closed)
        return;
    set_rules(hosted);
    if (!expires_otherwise)
        return;
    timer_stop(&hosted->expiry);
    hosted_used(hosted);
}

static void end_timers(struct hosted *hosted)
{
    timer_stop(&hosted->expiry);
    timer_stop(&hosted->bury_again);
    list_remove(&hosted->bury_link);
}

/* Quorum queues have RabbitMQ 4.3's priorities without being asked. */
#define QUORUM_PRIORITY_MAX    31
#define QUORUM_PRIORITY_ABSENT 4

static void set_levels(struct hosted *hosted)
{
    const struct queue_settings *settings = &hosted->named->settings;
    struct queue_levels levels = {.max = settings->priority_max};

    if (settings->type == QUEUE_QUORUM)
        levels = (struct queue_levels){QUORUM_PRIORITY_MAX, QUORUM_PRIORITY_ABSENT, true};
    queue_set_levels(&hosted->queue, &levels);
}

/* ---- the life of a hosted queue ---- */

struct hosted *hosted_new_apart(struct shard *shard, struct catalog_queue *named)
{
    struct hosted *hosted = memory_new(sizeof *hosted);

    queue_init(&hosted->queue, &shard->host, named->id,
               catalog_is_logged(named->flags) ? shard->log : NULL);
    hosted->named = named;
    hosted->shard = shard;
    list_init(&hosted->subscriptions);
    list_init(&hosted->getters);
    list_init(&hosted->discard_link);
    timer_init(&hosted->expiry, shard->place.worker->loop, expired);
    list_init(&hosted->bury_link);
    timer_init(&hosted->bury_again, shard->place.worker->loop, bury_again);
    set_levels(hosted);
    set_rules(hosted);
    catalog_queue_ref(named);
    return hosted;
}

void hosted_new(struct shard *shard, struct catalog_queue *named)
{
    named->hosted = hosted_new_apart(shard, named);
    hosted_used(named->hosted);
}

void hosted_free(struct hosted *hosted)
{
    struct catalog_queue *named = hosted->named;

    ASSERT(!timer_is_set(&hosted->expiry));
    queue_fini(&hosted->queue);
    if (named->hosted == hosted)
        named->hosted = NULL;
    free(hosted);
    catalog_queue_unref(named);
}

void hosted_release(struct hosted *hosted)
{
    if (queue_unref(&hosted->queue))
        hosted_free(hosted);
}

void hosted_drop(struct hosted *hosted)
{
    struct worker *worker = hosted->shard->place.worker;

    LIST_EACH (&hosted->subscriptions, link)
        subscription_end(CONTAINER_OF(link, struct subscription, queue_link));
    getters_fail(hosted);
    queue_close(&hosted->queue);
    end_timers(hosted);
    list_append(&hosted->shard->dropped, &hosted->discard_link);
    loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
}

void hosted_leave(struct hosted *hosted)
{
    struct worker *worker = hosted->shard->place.worker;

    ASSERT(list_empty(&hosted->subscriptions) && list_empty(&hosted->getters));
    queue_close_moved(&hosted->queue);
    end_timers(hosted);
    list_append(&hosted->shard->discards, &hosted->discard_link);
    loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
}

void hosted_settled(struct worker *worker)
{
    for (unsigned i = 0; i < worker->shard_count; i++) {
        if (!list_empty(&worker->shards[i]->dropped))
            loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
    }
}

void hosted_abandon(struct hosted *hosted)
{
    end_timers(hosted);
    list_remove(&hosted->discard_link);
    queue_abandon(&hosted->queue);
    hosted_free(hosted);
}

static void discard_what_is_settled(struct shard *shard)
{
    uint64_t settled = shard->place.worker->catalog_settled.done;

    LIST_EACH (&shard->dropped, link) {
        if (CONTAINER_OF(link, struct hosted, discard_link)->named->version > settled)
            break;
        list_remove(link);
        list_append(&shard->discards, link);
    }
}

bool shard_discard_slice(struct shard *shard)
{
    discard_what_is_settled(shard);
    struct list *link = list_first(&shard->discards);

    if (!link)
        return true;
    struct hosted *hosted = CONTAINER_OF(link, struct hosted, discard_link);
    list_remove(link);
    if (queue_discard(&hosted->queue))
        hosted_release(hosted);
    else
        list_append(&shard->discards, link);
    return list_empty(&shard->discards);
}
