/*
 * Dead letters. What dies in a queue that has a dead-letter exchange (queue/queue.h) is published
 * there, with its history in its headers, in one transaction with its settlement: it is in one of
 * the two places after any crash, never in both, never in none.
 *
 * Where nobody wants it, since the exchange is not there, routes it nowhere or would lead it in a
 * circle, it is settled alone. When storage refuses, it goes back to its queue, and whoever dies
 * there next waits for a second.
 *
 * What a full queue has refused and buries has never been in it: it is published alone.
 */
#include "broker/move.h"

#include <inttypes.h>
#include <stdlib.h>

#define BURIALS_MAX   256u /* of one worker at a time */
#define BURY_AGAIN_NS (1000 * NANOSECONDS_PER_MS)

/* In whose name dead letters of a virtual host are published. */
struct undertaker {
    struct list link; /* worker.undertakers */
    struct client *client;
};

struct reading {
    struct log_read read;
    struct burial *burial;
};

struct burial {
    struct list link; /* worker.burials */
    struct worker *worker;
    struct catalog_queue *queue; /* a reference; it may move meanwhile */
    struct queue_dead dead;      /* sequence 0: it was refused */
    struct request request;
    struct publish publish;
    struct slice *more_keys; /* of the publish */
    struct settlement settlement;
    struct reading *reading; /* while it is being read back */
};

/* A message that a full queue did not take; both are references. */
struct refused {
    struct list link; /* worker.refused */
    struct catalog_queue *queue;
    struct message *message;
};

/* ---- undertakers ---- */

static void burial_completed(void *session, struct request *request);

static const struct client_events undertaker_events = {.completed = burial_completed};

static struct client *undertaker_of(struct worker *worker, struct vhost *vhost)
{
    LIST_EACH (&worker->undertakers, link) {
        struct client *client = CONTAINER_OF(link, struct undertaker, link)->client;
        if (client->vhost == vhost)
            return client;
    }
    struct undertaker *undertaker = memory_new(sizeof *undertaker);
    undertaker->client = client_new_internal(worker, &undertaker_events, worker, vhost);
    list_append(&worker->undertakers, &undertaker->link);
    return undertaker->client;
}

/* ---- one burial ---- */

static void burial_free(struct burial *burial)
{
    if (burial->publish.message)
        message_unref(burial->publish.message);
    list_remove(&burial->link);
    burial->worker->burial_count--;
    catalog_queue_unref(burial->queue);
    free(burial->more_keys);
    free(burial->reading);
    free(burial);
}

static void burial_end(struct burial *burial)
{
    struct worker *worker = burial->worker;

    burial_free(burial);
    if (!list_empty(&worker->burying) || !list_empty(&worker->refused))
        loop_defer(worker->loop, &worker->bury, LOOP_DISPATCH);
}

/* Whoever dies next in this queue waits. */
static void pause_burying(struct catalog_queue *queue, const char *why)
{
    struct hosted *hosted = queue->hosted;

    if (!hosted || hosted->queue.closed || timer_is_set(&hosted->bury_again))
        return;
    struct worker *worker = hosted->shard->place.worker;
    log_warning(worker->logger, "queue",
                "a dead letter of queue '%s' in vhost '%s' is not published yet: %s", queue->name,
                queue->vhost->name, why);
    list_remove(&hosted->bury_link);
    timer_set(&hosted->bury_again, loop_now_ns(worker->loop) + BURY_AGAIN_NS);
}

static void burial_completed(void *session, struct request *request)
{
    struct burial *burial = CONTAINER_OF(request, struct burial, request);

    (void)session;
    if (request->failure.code != 0 && burial->dead.sequence == 0)
        log_warning(burial->worker->logger, "queue",
                    "what queue '%s' in vhost '%s' has refused is not published: %s",
                    burial->queue->name, burial->queue->vhost->name, request->failure.text);
    else if (request->failure.code != 0)
        pause_burying(burial->queue, request->failure.text);
    burial_end(burial);
}

static void settle_alone(struct burial *burial, enum outcome outcome)
{
    uint64_t sequence = burial->dead.sequence;

    if (sequence > 0)
        settle_anywhere(burial->worker, burial->queue->id, sequence, sequence, outcome);
    burial_end(burial);
}

static const char *reason_of(enum settle_reason why)
{
    switch (why) {
    case SETTLE_REJECTED:
        return "rejected";
    case SETTLE_EXPIRED:
        return "expired";
    case SETTLE_RETURNED:
        return "delivery_limit";
    default:
        return "maxlen";
    }
}

static struct message *dead_letter(const struct burial *burial, const struct message *message)
{
    const struct catalog_queue *queue = burial->queue;
    struct death death = {
        .queue = slice_text(queue->name),
        .exchange = queue->settings.dead_letter_exchange,
        .key = queue->settings.dead_letter_key,
        .reason = reason_of(burial->dead.why),
        .at_ms = loop_wall_ms(burial->worker->loop),
    };

    return message_format(message)->dead_letter(&burial->worker->messages, message, &death);
}

static bool may_go_to(const struct publish *publish, const struct catalog_queue *queue)
{
    return !message_format(publish->message)
                ->goes_in_circle(publish->message, slice_text(queue->name));
}

static void find_more_keys(struct burial *burial)
{
    const struct message *message = burial->publish.message;
    size_t count = message_format(message)->more_keys(message, NULL, 0);

    if (count == 0)
        return;
    if (count > PUBLISH_KEYS_MAX)
        count = PUBLISH_KEYS_MAX;
    burial->more_keys = memory_new(count * sizeof *burial->more_keys);
    message_format(message)->more_keys(message, burial->more_keys, count);
    burial->publish.more_keys = burial->more_keys;
    burial->publish.more_keys_count = count;
}

/* Takes the reference on the message. */
static void publish_dead_letter(struct burial *burial, struct message *message)
{
    struct client *client = undertaker_of(burial->worker, burial->queue->vhost);
    size_t settlements = burial->dead.sequence > 0;
    struct failure failure;

    if (!queue_dead_letters(&burial->queue->settings)) { /* not any more */
        message_unref(message);
        settle_alone(burial, OUTCOME_BURIED);
        return;
    }
    burial->publish.message = dead_letter(burial, message);
    message_unref(message);
    if (!burial->publish.message)
        log_warning(burial->worker->logger, "queue",
                    "message %" PRIu64 " of queue '%s' in vhost '%s' has died, and is too large to "
                    "become a dead letter: dropped",
                    burial->dead.sequence, burial->queue->name, burial->queue->vhost->name);
    if (!burial->publish.message ||
        broker_check_publish(client, burial->publish.message, &failure) != 0) {
        settle_alone(burial, OUTCOME_BURIED);
        return;
    }
    find_more_keys(burial);
    burial->publish.may_go_to = may_go_to;
    if (settlements > 0)
        catalog_queue_ref(burial->queue);
    burial->settlement = (struct settlement){
        {.queue = burial->queue, .sequence = burial->dead.sequence}, OUTCOME_BURIED};
    if (broker_transact(client, &burial->request, &burial->publish, 1, &burial->settlement,
                        settlements) == DONE)
        burial_completed(burial->worker, &burial->request);
}

/* What is corrupt stays where it is, out of reach; but a move has read it, or will. */
static void set_aside(struct burial *burial)
{
    struct catalog_queue *queue = burial->queue;

    if (!queue->hosted || queue->move) {
        settle_alone(burial, OUTCOME_RETURN_UNSEEN);
        return;
    }
    log_error(burial->worker->logger, "queue",
              "message %" PRIu64 " of queue '%s' in vhost '%s', which has died, cannot be read "
              "back: set aside",
              burial->dead.sequence, queue->name, queue->vhost->name);
    queue->hosted->queue.set_aside++;
    burial_end(burial);
}

static void read_done(struct log_read *read)
{
    struct burial *burial = CONTAINER_OF(read, struct reading, read)->burial;

    if (read->messages[0]) {
        publish_dead_letter(burial, read->messages[0]);
    } else if (read->results[0] == E_CORRUPT) {
        set_aside(burial);
    } else {
        pause_burying(burial->queue, error_name(read->results[0]));
        settle_alone(burial, OUTCOME_RETURN_UNSEEN);
    }
}

static struct burial *burial_new(struct worker *worker, struct catalog_queue *queue)
{
    struct burial *burial = memory_new(sizeof *burial);

    burial->worker = worker;
    burial->queue = queue;
    catalog_queue_ref(queue);
    list_append(&worker->burials, &burial->link);
    worker->burial_count++;
    return burial;
}

static void bury_one(struct hosted *hosted)
{
    struct burial *burial = burial_new(hosted->shard->place.worker, hosted->named);
    struct message *message;
    uint64_t position;

    burial->dead = queue_dead_take(&hosted->queue, &message, &position);
    if (message) {
        publish_dead_letter(burial, message);
        return;
    }
    burial->reading = memory_new(sizeof *burial->reading);
    burial->reading->burial = burial;
    burial->reading->read.positions[0] = position;
    burial->reading->read.count = 1;
    burial->reading->read.done = read_done;
    log_read(hosted->queue.log, &burial->reading->read);
}

/* Gives back the reference on the message to the caller. */
static struct message *refused_free(struct refused *refused)
{
    struct message *message = refused->message;

    list_remove(&refused->link);
    catalog_queue_unref(refused->queue);
    free(refused);
    return message;
}

static void bury_one_refused(struct worker *worker, struct refused *refused)
{
    struct burial *burial = burial_new(worker, refused->queue);

    burial->dead = (struct queue_dead){.sequence = 0, .why = SETTLE_DROPPED};
    publish_dead_letter(burial, refused_free(refused));
}

/* ---- all of them ---- */

/* False: the time is over. */
static bool bury_the_refused(struct worker *worker, uint64_t since_ns)
{
    for (struct list *link;
         worker->burial_count < BURIALS_MAX && (link = list_first(&worker->refused));) {
        bury_one_refused(worker, CONTAINER_OF(link, struct refused, link));
        if (loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS)
            return false;
    }
    return true;
}

static void bury_run(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, bury);
    uint64_t since_ns = loop_precise_ns(worker->loop);

    if (!bury_the_refused(worker, since_ns)) {
        loop_defer(worker->loop, task, LOOP_DISPATCH);
        return;
    }
    for (struct list *link;
         worker->burial_count < BURIALS_MAX && (link = list_first(&worker->burying));) {
        struct hosted *hosted = CONTAINER_OF(link, struct hosted, bury_link);
        list_remove(link);
        if (hosted->named->move || queue_dead_count(&hosted->queue) == 0)
            continue; /* until it is over: hosted_bury() */
        list_append(&worker->burying, link);
        bury_one(hosted);
        if (loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS) {
            loop_defer(worker->loop, task, LOOP_DISPATCH);
            break;
        }
    }
}

void hosted_bury(struct hosted *hosted)
{
    struct worker *worker = hosted->shard->place.worker;

    if (hosted->queue.closed || queue_dead_count(&hosted->queue) == 0 ||
        list_linked(&hosted->bury_link) || timer_is_set(&hosted->bury_again))
        return;
    list_append(&worker->burying, &hosted->bury_link);
    loop_defer(worker->loop, &worker->bury, LOOP_DISPATCH);
}

void refused_bury(struct catalog_queue *queue, struct message *message)
{
    struct worker *worker = queue->hosted->shard->place.worker;
    struct refused *refused = memory_new(sizeof *refused);

    refused->queue = queue;
    catalog_queue_ref(queue);
    refused->message = message_ref(message);
    list_append(&worker->refused, &refused->link);
    loop_defer(worker->loop, &worker->bury, LOOP_DISPATCH);
}

void bury_again(struct timer *timer)
{
    struct hosted *hosted = CONTAINER_OF(timer, struct hosted, bury_again);

    /* a worker that has told the others that it is at its end begins nothing with them any more */
    if (!hosted->shard->place.worker->stopping)
        hosted_bury(hosted);
}

void burials_new(struct worker *worker)
{
    list_init(&worker->undertakers);
    list_init(&worker->burying);
    list_init(&worker->refused);
    list_init(&worker->burials);
    task_init(&worker->bury, bury_run);
}

bool burials_are_over(const struct worker *worker)
{
    return list_empty(&worker->burying) && list_empty(&worker->burials) &&
           list_empty(&worker->refused);
}

void burials_abandon(struct worker *worker)
{
    task_cancel(&worker->bury);
    for (struct list *link; (link = list_take_first(&worker->undertakers));) {
        struct undertaker *undertaker = CONTAINER_OF(link, struct undertaker, link);
        client_abandon(undertaker->client);
        free(undertaker);
    }
}

void burials_free(struct worker *worker)
{
    for (struct list *link; (link = list_first(&worker->refused));)
        message_unref(refused_free(CONTAINER_OF(link, struct refused, link)));
    for (struct list *link; (link = list_first(&worker->burials));)
        burial_free(CONTAINER_OF(link, struct burial, link));
}
