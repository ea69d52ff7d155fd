#include "broker/redrive.h"

#include "broker/move.h"
#include "broker/peer.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define CLOCK_MESSAGES 16u
#define WAIT_NS        (20 * NANOSECONDS_PER_MS)  /* while the queue moves, or storage is busy */
#define BEHIND_NS      (100 * NANOSECONDS_PER_MS) /* of its rate, which is made up for */

struct redrive {
    struct list link;       /* worker.redrives */
    struct list ready_link; /* worker.redrives_ready */
    struct worker *worker;
    struct client *client; /* internal, in the queue's virtual host; NULL: it is over */
    uint64_t queue;        /* id */
    struct redrive_order order;
    struct redrive_facts facts;
    struct message_filter filter;
    struct queue_walk walk;
    struct hosted *reading; /* a reference on its queue, while the walk reads */
    struct queue_ends ends; /* what came later is not meant */
    bool is_ending;         /* nothing more is sent */
    struct list sent;       /* struct sending */
    uint32_t in_flight;
    uint64_t next_ns; /* not before then goes the next */
    struct timer timer;
    uint8_t conditions[];
};

/* One message on its way. */
struct sending {
    struct list link;
    struct redrive *redrive;
    struct request request;
    struct publish publish;
    struct settlement settlement;
    uint32_t target; /* of the facts */
};

static void redrive_later(struct redrive *redrive)
{
    struct worker *worker = redrive->worker;

    list_remove(&redrive->ready_link);
    list_append(&worker->redrives_ready, &redrive->ready_link);
    loop_defer(worker->loop, &worker->redrive, LOOP_DISPATCH);
}

static void redrive_wait(struct redrive *redrive, uint64_t until_ns)
{
    timer_set(&redrive->timer, until_ns);
}

static void waited(struct timer *timer)
{
    redrive_later(CONTAINER_OF(timer, struct redrive, timer));
}

/* ---- the end ---- */

static void redrive_free(struct redrive *redrive)
{
    list_remove(&redrive->link);
    list_remove(&redrive->ready_link);
    timer_stop(&redrive->timer);
    queue_ends_free(&redrive->ends);
    free(redrive);
}

/* Of those that are over the oldest ones go, when there are too many. */
static void forget_old(struct worker *worker)
{
    struct redrive *oldest = NULL;
    unsigned over = 0;

    LIST_EACH (&worker->redrives, link) {
        struct redrive *redrive = CONTAINER_OF(link, struct redrive, link);
        if (redrive->client)
            continue;
        over++;
        oldest = oldest ? oldest : redrive;
    }
    if (over > REDRIVES_KEPT)
        redrive_free(oldest);
}

/* When nothing is on its way any more. */
static void check_end(struct redrive *redrive)
{
    struct worker *worker = redrive->worker;
    struct redrive_facts *facts = &redrive->facts;

    if (!redrive->is_ending || redrive->in_flight > 0 || redrive->walk.is_reading)
        return;
    queue_walk_fini(&redrive->walk);
    timer_stop(&redrive->timer);
    list_remove(&redrive->ready_link);
    client_abandon(redrive->client);
    redrive->client = NULL;
    list_remove(&redrive->link);
    list_append(&worker->redrives, &redrive->link); /* the last to be forgotten */
    if (facts->state == REDRIVE_RUNS)
        facts->state = REDRIVE_DONE;
    facts->ended_ms = loop_wall_ms(worker->loop);
    worker->redrive_count--;
    log_info(worker->logger, "queue",
             "redrive %" PRIu64 " of queue '%s' in vhost '%s' is over: %" PRIu64 " of %" PRIu64
             " messages moved, %" PRIu64 " refused%s%s",
             facts->id, facts->queue, facts->vhost, facts->moved, facts->matched, facts->refused,
             facts->problem[0] ? ": " : "", facts->problem);
    forget_old(worker);
}

static void redrive_end(struct redrive *redrive, enum redrive_state state, const char *why)
{
    redrive->is_ending = true;
    if (redrive->facts.state == REDRIVE_RUNS)
        redrive->facts.state = state;
    if (why)
        snprintf(redrive->facts.problem, sizeof redrive->facts.problem, "%s", why);
}

/* ---- one message ---- */

static void sending_free(struct sending *sending)
{
    list_remove(&sending->link);
    sending->redrive->in_flight--;
    if (sending->publish.only)
        catalog_queue_unref(sending->publish.only);
    message_unref(sending->publish.message);
    free(sending);
}

static void completed(void *session, struct request *request)
{
    struct sending *sending = CONTAINER_OF(request, struct sending, request);
    struct redrive *redrive = session;
    struct redrive_facts *facts = &redrive->facts;

    if (request->failure.code == 0) {
        facts->moved++;
        facts->targets[sending->target].moved++;
    } else {
        facts->refused++;
        snprintf(facts->problem, sizeof facts->problem, "%s", request->failure.text);
    }
    sending_free(sending);
    if (redrive->is_ending)
        check_end(redrive);
    else
        redrive_later(redrive);
}

static const struct client_events redrive_events = {.completed = completed};

/* Where it goes: a place of the facts, the last one being for all that have none of their own. */
static uint32_t target_of(struct redrive *redrive, struct slice name)
{
    struct redrive_facts *facts = &redrive->facts;
    uint32_t i = 0;

    while (i < facts->target_count && !slice_is(name, facts->targets[i].name))
        i++;
    if (i < facts->target_count)
        return i;
    if (i == REDRIVE_TARGETS_MAX - 1)
        name = slice_text("(others)");
    if (i == REDRIVE_TARGETS_MAX)
        return i - 1;
    snprintf(facts->targets[i].name, sizeof facts->targets[i].name, "%.*s", SLICE_ARGS(name));
    facts->target_count++;
    return i;
}

/* What is known of the way of a message. */
struct way {
    struct message_origin origin;
    bool has_origin;
    struct catalog_queue *queue; /* NULL: to the exchange */
    struct slice exchange, key, name;
};

/* False: there is no way for it. */
static bool find_way(const struct redrive *redrive, const struct message *message, struct way *way)
{
    const struct redrive_order *order = &redrive->order;
    const struct vhost *vhost = redrive->client->vhost;

    way->has_origin = message_format(message)->origin(message, &way->origin);
    way->queue = NULL;
    way->exchange = way->has_origin ? way->origin.exchange : message_exchange(message);
    way->key = way->has_origin ? way->origin.key : message_key(message);
    if (order->to == REDRIVE_TO_EXCHANGE) {
        way->exchange = way->name = slice_text(order->target);
        way->key = order->has_key ? slice_text(order->key) : way->key;
        return true;
    }
    if (order->to == REDRIVE_TO_ORIGIN && !way->has_origin)
        return false;
    way->name = order->to == REDRIVE_TO_QUEUE ? slice_text(order->target) : way->origin.queue;
    way->queue = vhost_queue(vhost, way->name);
    return way->queue && !(way->queue->flags & CATALOG_HIDDEN) && way->queue->id != redrive->queue;
}

/* The same message, as it was published before it died; its history stays. */
static struct message *make_message(struct worker *worker, const struct message *old,
                                    const struct way *way)
{
    struct message_parts parts = {
        .format = old->format,
        .flags = old->flags,
        .priority = old->priority,
        .exchange = way->exchange,
        .key = way->key,
        .properties = message_properties(old),
        .body = message_body(old),
        .body_buffer = old->body,
        .published_at_ms = loop_wall_ms(worker->loop),
        .expires_at_ms = old->expires_at_ms,
    };

    return message_new(&worker->messages, &parts);
}

static void send_one(struct redrive *redrive, struct hosted *hosted,
                     const struct queue_traveller *seen, const struct way *way, uint32_t target)
{
    struct message *message = make_message(redrive->worker, seen->message, way);

    if (!message) {
        redrive->facts.refused++;
        snprintf(redrive->facts.problem, sizeof redrive->facts.problem, "out of memory");
        return;
    }
    bool holds = queue_hold(&hosted->queue, seen->sequence);
    ASSERT(holds);
    struct sending *sending = memory_new(sizeof *sending);
    sending->redrive = redrive;
    sending->target = target;
    list_append(&redrive->sent, &sending->link);
    redrive->in_flight++;
    sending->publish.message = message;
    sending->publish.only = way->queue;
    if (way->queue)
        catalog_queue_ref(way->queue);
    sending->publish.must_be_taken = true;
    sending->settlement =
        (struct settlement){{.queue = hosted->named, .sequence = seen->sequence}, OUTCOME_ACCEPT};
    catalog_queue_ref(hosted->named);
    if (broker_transact(redrive->client, &sending->request, &sending->publish, 1,
                        &sending->settlement, 1) == DONE)
        completed(redrive, &sending->request);
}

/* ---- the walk ---- */

static void walk_ready(struct queue_walk *walk)
{
    struct redrive *redrive = CONTAINER_OF(walk, struct redrive, walk);
    struct hosted *hosted = redrive->reading;

    redrive->reading = NULL;
    hosted_release(hosted);
    if (redrive->is_ending)
        check_end(redrive);
    else
        redrive_later(redrive);
}

static void take(struct redrive *redrive, struct hosted *hosted, const struct queue_traveller *seen)
{
    struct redrive_facts *facts = &redrive->facts;
    struct way way;

    facts->looked++;
    if (!filter_accepts(&redrive->filter, seen->message))
        return;
    if (!find_way(redrive, seen->message, &way)) {
        facts->skipped++;
        return;
    }
    facts->matched++;
    uint32_t target = target_of(redrive, way.name);
    facts->targets[target].matched++;
    if (redrive->order.rate > 0 && !redrive->order.is_preview) {
        uint64_t now_ns = loop_now_ns(redrive->worker->loop);
        uint64_t least_ns = now_ns > BEHIND_NS ? now_ns - BEHIND_NS : 0;
        redrive->next_ns = (redrive->next_ns > least_ns ? redrive->next_ns : least_ns) +
                           1000 * NANOSECONDS_PER_MS / redrive->order.rate;
    }
    if (!redrive->order.is_preview)
        send_one(redrive, hosted, seen, &way, target);
    if (redrive->order.limit > 0 && facts->matched == redrive->order.limit)
        redrive_end(redrive, REDRIVE_DONE, NULL);
}

/* True: it may go on at once. */
static bool redrive_one(struct redrive *redrive, struct hosted *hosted)
{
    struct queue_traveller seen;

    redrive->walk.queue = &hosted->queue;
    int result = queue_walk_next(&redrive->walk, &seen);
    if (result == E_AGAIN) {
        redrive->reading = hosted;
        queue_ref(&hosted->queue);
        return false;
    }
    if (result == E_CORRUPT) {
        redrive->walk.at = seen.sequence + 1;
        redrive->facts.looked++;
        redrive->facts.skipped++;
    } else if (result < 0) {
        redrive_end(redrive, REDRIVE_FAILED, "a message cannot be read back");
    } else if (result == 0) {
        redrive_end(redrive, REDRIVE_DONE, NULL);
    } else if (!queue_ends_include(&redrive->ends, seen.sequence)) {
        redrive->walk.at = queue_next_lane(seen.sequence);
    } else {
        take(redrive, hosted, &seen);
    }
    if (result == 1)
        message_unref(seen.message);
    return !redrive->is_ending;
}

/* As publishers have to. */
static bool has_to_wait(const struct worker *worker)
{
    return worker->flow != FLOW_OPEN || worker_flow_here(worker) != FLOW_OPEN;
}

/* NULL: not now, or never again. */
static struct hosted *source_of(struct redrive *redrive)
{
    struct worker *worker = redrive->worker;
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, redrive->queue);
    uint64_t now_ns = loop_now_ns(worker->loop);

    if (!queue) {
        redrive_end(redrive, REDRIVE_FAILED, "the queue has been deleted");
    } else if (queue->move && queue->move->is_stranded) {
        redrive_end(redrive, REDRIVE_FAILED, "where the queue is will be known at the next start");
    } else if (queue->move || (!redrive->order.is_preview && has_to_wait(worker))) {
        redrive_wait(redrive, now_ns + WAIT_NS);
    } else if (!queue->hosted) {
        redrive_end(redrive, REDRIVE_FAILED, "the queue has moved to another worker");
    } else if (redrive->next_ns > now_ns) {
        redrive_wait(redrive, redrive->next_ns);
    } else {
        return queue->hosted;
    }
    return NULL;
}

static void redrive_slice(struct redrive *redrive, uint64_t until_ns)
{
    struct loop *loop = redrive->worker->loop;
    struct hosted *hosted;

    for (unsigned n = 1; !redrive->is_ending && !redrive->walk.is_reading &&
                         redrive->in_flight < REDRIVE_IN_FLIGHT && (hosted = source_of(redrive));
         n++) {
        if (!redrive_one(redrive, hosted))
            break;
        if (n % CLOCK_MESSAGES == 0 && loop_precise_ns(loop) > until_ns) {
            redrive_later(redrive);
            return;
        }
    }
    check_end(redrive);
}

static void redrives_run(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, redrive);
    uint64_t until_ns = loop_precise_ns(worker->loop) + JOB_SLICE_NS;

    for (struct list *link; (link = list_take_first(&worker->redrives_ready));) {
        redrive_slice(CONTAINER_OF(link, struct redrive, ready_link), until_ns);
        if (loop_precise_ns(worker->loop) > until_ns)
            break;
    }
    if (!list_empty(&worker->redrives_ready))
        loop_defer(worker->loop, task, LOOP_DISPATCH);
}

/* ---- beginning, stopping, telling ---- */

static void fill_facts(struct redrive *redrive, const struct catalog_queue *queue)
{
    const struct redrive_order *order = &redrive->order;
    struct redrive_facts *facts = &redrive->facts;

    *facts = (struct redrive_facts){
        .id = order->id,
        .worker = redrive->worker->index,
        .to = order->to,
        .has_key = order->has_key,
        .is_preview = order->is_preview,
        .rate = order->rate,
        .limit = order->limit,
        .state = REDRIVE_RUNS,
        .started_ms = loop_wall_ms(redrive->worker->loop),
        .total = queue->hosted->queue.ready,
    };
    snprintf(facts->vhost, sizeof facts->vhost, "%s", queue->vhost->name);
    snprintf(facts->queue, sizeof facts->queue, "%s", queue->name);
    memcpy(facts->target, order->target, sizeof facts->target);
    memcpy(facts->key, order->key, sizeof facts->key);
}

int redrive_begin(struct worker *worker, struct catalog_queue *queue,
                  const struct redrive_order *order, struct slice conditions,
                  struct failure *failure)
{
    if (worker->stopping)
        return fail(failure, E_CLOSED, "the broker is stopping");
    if (worker->redrive_count >= REDRIVES_MAX)
        return fail(failure, E_LIMIT, "%u redrives of worker %u are under way", REDRIVES_MAX,
                    worker->index);
    struct redrive *redrive = memory_new(sizeof *redrive + conditions.size);
    redrive->worker = worker;
    redrive->client = client_new_internal(worker, &redrive_events, redrive, queue->vhost);
    redrive->queue = queue->id;
    redrive->order = *order;
    if (conditions.size > 0)
        memcpy(redrive->conditions, conditions.data, conditions.size);
    redrive->filter = (struct message_filter){slice_of(redrive->conditions, conditions.size),
                                              order->since_ms, order->until_ms};
    redrive->walk =
        (struct queue_walk){.skips_leased = true, .skips_delayed = true, .ready = walk_ready};
    queue_ends_take(&redrive->ends, &queue->hosted->queue);
    fill_facts(redrive, queue);
    list_init(&redrive->ready_link);
    list_init(&redrive->sent);
    timer_init(&redrive->timer, worker->loop, waited);
    list_append(&worker->redrives, &redrive->link);
    worker->redrive_count++;
    redrive_later(redrive);
    return 0;
}

int redrive_stop(struct worker *worker, uint64_t id, struct failure *failure)
{
    LIST_EACH (&worker->redrives, link) {
        struct redrive *redrive = CONTAINER_OF(link, struct redrive, link);
        if (redrive->facts.id != id)
            continue;
        if (!redrive->client) {
            redrive_free(redrive);
            return 0;
        }
        redrive_end(redrive, REDRIVE_CANCELLED, NULL);
        redrive_later(redrive);
        return 0;
    }
    return fail(failure, E_NOT_FOUND, "no redrive %" PRIu64, id);
}

size_t redrives_tell(const struct worker *worker, struct redrive_facts *facts)
{
    size_t count = 0;

    LIST_EACH (&worker->redrives, link) {
        if (facts)
            facts[count] = CONTAINER_OF(link, struct redrive, link)->facts;
        count++;
    }
    return count;
}

/* ---- the worker's ---- */

void redrives_new(struct worker *worker)
{
    list_init(&worker->redrives);
    list_init(&worker->redrives_ready);
    task_init(&worker->redrive, redrives_run);
}

bool redrives_are_over(const struct worker *worker)
{
    return worker->redrive_count == 0;
}

bool redrives_rest_or_wait(const struct worker *worker)
{
    return redrives_are_over(worker) || has_to_wait(worker);
}

void redrives_rest(struct worker *worker)
{
    LIST_EACH (&worker->redrives, link) {
        struct redrive *redrive = CONTAINER_OF(link, struct redrive, link);
        if (!redrive->client)
            continue;
        redrive_end(redrive, REDRIVE_CANCELLED, "the broker stops");
        redrive_later(redrive);
    }
}

void redrives_abandon(struct worker *worker)
{
    task_cancel(&worker->redrive);
    LIST_EACH (&worker->redrives, link) {
        struct redrive *redrive = CONTAINER_OF(link, struct redrive, link);
        if (redrive->client)
            client_abandon(redrive->client);
        redrive->client = NULL;
    }
}

void redrives_free(struct worker *worker)
{
    for (struct list *link; (link = list_first(&worker->redrives));) {
        struct redrive *redrive = CONTAINER_OF(link, struct redrive, link);
        for (struct list *one; (one = list_first(&redrive->sent));)
            sending_free(CONTAINER_OF(one, struct sending, link));
        if (!redrive->walk.is_reading) /* else its log is gone, and what it has read */
            queue_walk_fini(&redrive->walk);
        redrive_free(redrive);
    }
}
