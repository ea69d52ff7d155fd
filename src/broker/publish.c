/* Publishing: routing with a cache, the log, the queues; confirms; flow. */
#include "broker/move.h"
#include "broker/peer.h"

#include <inttypes.h>
#include <stdlib.h>
#include <xxhash.h>

/* ---- the cache of routes: by exchange and key, good while the catalog's version stays ---- */

#define ROUTE_SLOTS      64u /* power of 2 */
#define ROUTE_QUEUES_MAX 64u

struct route_slot {
    uint64_t hash, version;
    struct catalog_exchange *exchange;
    uint8_t exchange_size, key_size;
    uint16_t count;
    uint8_t *names; /* exchange, key */
    struct catalog_queue **queues;
};

struct route_cache {
    struct route_slot slots[ROUTE_SLOTS];
};

void route_cache_free(struct route_cache *cache)
{
    if (!cache)
        return;
    for (size_t i = 0; i < ROUTE_SLOTS; i++) {
        free(cache->slots[i].names);
        free(cache->slots[i].queues);
    }
    free(cache);
}

static bool slot_is(const struct route_slot *slot, uint64_t hash, uint64_t version,
                    const struct message *message)
{
    return slot->version == version && slot->hash == hash &&
           slot->exchange_size == message->exchange_size && slot->key_size == message->key_size &&
           memcmp(slot->names, message->bytes, (size_t)slot->exchange_size + slot->key_size) == 0;
}

static void slot_fill(struct route_slot *slot, uint64_t hash, uint64_t version,
                      const struct message *message, const struct route_result *result)
{
    size_t names_size = (size_t)message->exchange_size + message->key_size;

    slot->hash = hash;
    slot->version = version;
    slot->exchange_size = message->exchange_size;
    slot->key_size = message->key_size;
    slot->names = memory_resize(slot->names, names_size + 1, 1);
    memcpy(slot->names, message->bytes, names_size);
    slot->queues = memory_resize(slot->queues, result->count + 1, sizeof *slot->queues);
    if (result->count)
        memcpy(slot->queues, result->queues, result->count * sizeof *slot->queues);
    slot->count = (uint16_t)result->count;
}

static int find_exchange(struct client *client, const struct message *message,
                         struct catalog_exchange **exchange, struct failure *failure)
{
    struct slice name = message_exchange(message);

    *exchange = vhost_exchange(client->vhost, name);
    if (!*exchange)
        return fail(failure, E_NOT_FOUND, "no exchange '%.*s' in vhost '%s'", SLICE_ARGS(name),
                    client->vhost->name);
    int result = client_may(client, ACCESS_WRITE, "exchange", name, failure);
    if (result != 0)
        return result;
    if (((*exchange)->flags & CATALOG_INTERNAL) && !client->is_internal)
        return fail(failure, E_DENIED, "cannot publish to internal exchange '%s' in vhost '%s'",
                    (*exchange)->name, client->vhost->name);
    return 0;
}

static void route_keys(struct worker *worker, struct catalog_exchange *exchange,
                       const struct slice *keys, size_t count, struct slice headers)
{
    if (exchange != exchange->vhost->default_exchange) {
        route_match_keys(worker->catalog.routes, exchange->route, keys, count, headers,
                         &worker->routed);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        struct catalog_queue *queue = vhost_queue(exchange->vhost, keys[i]);
        if (queue)
            route_result_add(&worker->routed, queue);
    }
}

static int route_fully(struct client *client, const struct publish *publish,
                       struct failure *failure)
{
    struct worker *worker = client->worker;
    const struct message *message = publish->message;
    struct catalog_exchange *exchange;
    struct slice headers = slice_of(NULL, 0);

    int result = find_exchange(client, message, &exchange, failure);
    if (result != 0)
        return result;
    if (client->vhost->headers_bindings > 0)
        headers = message_format(message)->headers(message);
    route_result_clear(&worker->routed);
    struct slice key = message_key(message);
    if (publish->more_keys_count == 0) {
        route_keys(worker, exchange, &key, 1, headers);
        return 0;
    }
    struct slice *keys = memory_new((1 + publish->more_keys_count) * sizeof *keys);
    keys[0] = key;
    memcpy(keys + 1, publish->more_keys, publish->more_keys_count * sizeof *keys);
    route_keys(worker, exchange, keys, 1 + publish->more_keys_count, headers);
    free(keys);
    return 0;
}

static void keep_out(const struct publish *publish, struct route_result *routed)
{
    size_t kept = 0;

    for (size_t i = 0; i < routed->count; i++) {
        if (publish->may_go_to(publish, routed->queues[i]))
            routed->queues[kept++] = routed->queues[i];
    }
    routed->count = kept;
}

int client_route(struct client *client, const struct publish *publish,
                 struct catalog_queue ***queues, size_t *count, struct failure *failure)
{
    struct worker *worker = client->worker;
    const struct message *message = publish->message;
    uint64_t version = worker->catalog.version;

    if (publish->only) {
        *queues = (struct catalog_queue **)(uintptr_t)&publish->only;
        *count = 1;
        return publish->only->dropped ? fail(failure, E_NOT_FOUND, "no queue '%s' in vhost '%s'",
                                             publish->only->name, publish->only->vhost->name)
                                      : 0;
    }
    if (!client->routes)
        client->routes = memory_new(sizeof *client->routes);
    uint64_t hash = XXH3_64bits_withSeed(
        message->bytes, (size_t)message->exchange_size + message->key_size, message->exchange_size);
    struct route_slot *slot = &client->routes->slots[hash & (ROUTE_SLOTS - 1)];
    bool may_cache = publish->more_keys_count == 0 && client->vhost->headers_bindings == 0 &&
                     !publish->may_go_to;
    if (may_cache && slot_is(slot, hash, version, message)) {
        *queues = slot->queues;
        *count = slot->count;
        return 0;
    }
    int result = route_fully(client, publish, failure);
    if (result != 0)
        return result;
    if (publish->may_go_to)
        keep_out(publish, &worker->routed);
    *queues = (struct catalog_queue **)(void *)worker->routed.queues;
    *count = worker->routed.count;
    if (may_cache && *count <= ROUTE_QUEUES_MAX)
        slot_fill(slot, hash, version, message, &worker->routed);
    return 0;
}

int broker_check_publish(struct client *client, const struct message *message,
                         struct failure *failure)
{
    struct catalog_exchange *exchange;
    return find_exchange(client, message, &exchange, failure);
}

/* ---- into log and queues ---- */

int storage_failure(int result, struct failure *failure)
{
    return fail(failure, result, "%s",
                result == E_FULL ? "the disk is full: the message cannot be stored"
                                 : "storage has failed: the message cannot be stored");
}

static void takers_reserve(struct shard *shard, size_t count)
{
    if (count > shard->takers_capacity) {
        shard->takers_capacity = count;
        shard->takers = memory_resize(shard->takers, count, sizeof *shard->takers);
    }
}

/* Of these queues of the shard those that take the message, in an array that is the given one or
 * good until the next call. */
static size_t shard_takers(struct shard *shard, const struct message *message,
                           struct catalog_queue ***queues, size_t count)
{
    uint64_t size = message_body(message).size;
    size_t first = 0, taking;

    while (first < count && !queue_refuses(&(*queues)[first]->hosted->queue, size))
        first++;
    if (first == count)
        return count;
    takers_reserve(shard, count);
    memcpy(shard->takers, *queues, first * sizeof **queues);
    taking = first;
    for (size_t i = first + 1; i < count; i++) {
        if (!queue_refuses(&(*queues)[i]->hosted->queue, size))
            shard->takers[taking++] = (*queues)[i];
    }
    *queues = shard->takers;
    return taking;
}

int shard_enqueue(struct shard *shard, struct message *message, struct catalog_queue **queues,
                  size_t count, bool *logged, struct failure *failure)
{
    uint64_t position = 0;
    size_t targets = 0;

    *logged = false;
    if (message->flags & MESSAGE_PERSISTENT) {
        if (count > shard->targets_capacity) {
            shard->targets_capacity = count;
            shard->targets = memory_resize(shard->targets, count, sizeof *shard->targets);
        }
        for (size_t i = 0; i < count; i++) {
            const struct queue *queue = &queues[i]->hosted->queue;
            if (queue->log)
                shard->targets[targets++] = queue_target(queue, message);
        }
        if (targets > LOG_TARGETS_MAX)
            return fail(failure, E_LIMIT, "the message goes to more than %u durable queues",
                        LOG_TARGETS_MAX);
        int result =
            targets ? log_append_message(shard->log, message, shard->targets, targets, &position)
                    : 0;
        if (result != 0)
            return storage_failure(result, failure);
        if (targets > 0 && !log_has_room(shard->log))
            shard->place.worker->flow_may_have_changed = true;
    }
    for (size_t i = 0; i < count; i++) {
        struct queue *queue = &queues[i]->hosted->queue;
        queue_push(queue, message, queue->log ? position : 0);
    }
    *logged = targets > 0;
    return 0;
}

/* ---- confirms ---- */

/* All publishes up to `last` (after those of the run before) wait for this mark. A publish that
 * waits for several has several runs, of which the last one alone counts up. */
struct confirm_run {
    struct mark mark;
    uint64_t last;
    bool accepted;
};

struct publisher {
    struct list client_link; /* first: client_close() finds the publisher by it */
    struct list link;        /* of a line's publishers, or publishers_ready */
    struct client *client;
    void *cookie;
    uint64_t sequence;
    uint64_t told;
    bool in_parts;            /* the next sequence has runs already that do not count up */
    bool seal;                /* the last run's sequence had: it stands alone */
    bool refuse;              /* what the next run that counts up tells of has failed in part */
    struct confirm_run *runs; /* in the ring */
    struct ring ring;
};

_Static_assert(offsetof(struct publisher, client_link) == 0, "see client_close()");

struct publisher *publisher_open(struct client *client, void *cookie)
{
    struct publisher *publisher = memory_new(sizeof *publisher);

    publisher->client = client;
    publisher->cookie = cookie;
    list_init(&publisher->link);
    list_append(&client->publishers, &publisher->client_link);
    return publisher;
}

void publisher_free(struct publisher *publisher)
{
    list_remove(&publisher->client_link);
    list_remove(&publisher->link);
    free(publisher->runs);
    free(publisher);
}

void publisher_close(struct publisher *publisher)
{
    publisher_free(publisher);
}

static struct confirm_run *run_at(const struct publisher *publisher, uint32_t index)
{
    return &publisher->runs[ring_at(&publisher->ring, index)];
}

/* May the publishes behind be added to this run? A log's blocks are good as a whole; of tickets
 * each one may be refused, so that only neighbours can share a run. */
static bool run_takes(const struct confirm_run *run, struct mark mark, uint64_t sequence)
{
    if (!mark.line)
        return !run->mark.line || run->mark.line->log;
    if (run->mark.line != mark.line)
        return false;
    return mark.line->log ? mark.number <= run->mark.number
                          : mark.number == run->mark.number + 1 && sequence == run->last + 1;
}

static void add_run(struct publisher *publisher, struct mark mark, uint64_t last, bool accepted)
{
    publisher->runs = ring_reserve(&publisher->ring, publisher->runs, sizeof *publisher->runs);
    publisher->runs[ring_add(&publisher->ring)] = (struct confirm_run){mark, last, accepted};
}

static bool add_to_last_run(struct publisher *publisher, struct mark mark, bool accepted)
{
    if (publisher->ring.count == 0 || publisher->in_parts || publisher->seal)
        return false;
    struct confirm_run *run = run_at(publisher, publisher->ring.count - 1);
    if (run->accepted != accepted || !run_takes(run, mark, publisher->sequence))
        return false;
    run->last = publisher->sequence;
    if (mark.line && mark.number > run->mark.number)
        run->mark.number = mark.number;
    return true;
}

static bool run_is_over(const struct confirm_run *run)
{
    return mark_is_good(run->mark) || run->mark.line->failed;
}

/* Into the list where it is found when its first run is over. */
static void publisher_place(struct publisher *publisher)
{
    struct worker *worker = publisher->client->worker;

    if (publisher->ring.count == 0 || list_linked(&publisher->link))
        return;
    if (run_is_over(run_at(publisher, 0))) {
        list_append(&worker->publishers_ready, &publisher->link);
        loop_defer(worker->loop, &worker->confirm, LOOP_COMMIT);
    } else {
        list_append(&run_at(publisher, 0)->mark.line->publishers, &publisher->link);
    }
}

/* The publisher's next sequence is confirmed when this mark is good, and those of publisher_also()
 * before. */
static void publisher_add(struct publisher *publisher, struct mark mark, bool accepted)
{
    publisher->sequence++;
    if (!add_to_last_run(publisher, mark, accepted))
        add_run(publisher, mark, publisher->sequence, accepted);
    publisher->seal = publisher->in_parts;
    publisher->in_parts = false;
    publisher_place(publisher);
}

static void publisher_also(struct publisher *publisher, struct mark mark)
{
    add_run(publisher, mark, 0, true);
    publisher->in_parts = true;
}

/* Takes off the runs that are over, as far as they are told alike; false when there was none that
 * counts. */
static bool take_runs(struct publisher *publisher, uint64_t *last, bool *accepted)
{
    bool some = false;

    while (publisher->ring.count > 0 && run_is_over(run_at(publisher, 0))) {
        struct confirm_run run = *run_at(publisher, 0);
        bool good = run.accepted && mark_is_good(run.mark);
        if (run.last != 0) {
            good = good && !publisher->refuse;
            if (some && good != *accepted)
                break;
            *last = run.last;
            *accepted = good;
            some = true;
            publisher->refuse = false;
        } else if (!good) {
            publisher->refuse = true;
        }
        ring_drop_first(&publisher->ring);
    }
    return some;
}

static void publisher_tell(struct publisher *publisher)
{
    struct client *client = publisher->client;
    uint64_t last = 0;
    bool accepted = true;

    while (take_runs(publisher, &last, &accepted)) {
        publisher->told = last;
        client->options.events->confirmed(client->options.session, publisher->cookie, last,
                                          accepted);
    }
    publisher_place(publisher);
}

/* The ticket of a run's first publish: those of tickets are neighbours. */
static uint64_t first_ticket(const struct confirm_run *run, uint64_t before)
{
    return run->last == 0 ? run->mark.number : run->mark.number - (run->last - before) + 1;
}

/* The part of a run up to a ticket, as a run of its own. */
static void add_part(struct publisher *publisher, const struct confirm_run *run, uint64_t ticket,
                     bool accepted)
{
    uint64_t last = run->last == 0 ? 0 : run->last - (run->mark.number - ticket);
    add_run(publisher, (struct mark){run->mark.line, ticket}, last, accepted);
}

/* Splits the runs that wait for these tickets, so that exactly those are refused. */
static void publisher_refuse(struct publisher *publisher, const struct line *line, uint64_t first,
                             uint64_t last)
{
    struct publisher old = *publisher;
    uint64_t before = publisher->told;

    publisher->runs = NULL;
    publisher->ring = (struct ring){0};
    for (uint32_t i = 0; i < old.ring.count; i++) {
        const struct confirm_run *run = run_at(&old, i);
        if (run->mark.line != line || run->mark.number < first ||
            first_ticket(run, before) > last) {
            add_run(publisher, run->mark, run->last, run->accepted);
        } else {
            if (first_ticket(run, before) < first)
                add_part(publisher, run, first - 1, run->accepted);
            add_part(publisher, run, last < run->mark.number ? last : run->mark.number, false);
            if (last < run->mark.number)
                add_part(publisher, run, run->mark.number, run->accepted);
        }
        before = run->last ? run->last : before;
    }
    free(old.runs);
}

void publishers_refuse(struct worker *worker, const struct line *line, uint64_t first,
                       uint64_t last)
{
    LIST_EACH (&worker->clients, link) {
        struct client *client = CONTAINER_OF(link, struct client, link);
        LIST_EACH (&client->publishers, publisher_link)
            publisher_refuse((struct publisher *)(void *)publisher_link, line, first, last);
    }
    publisher_refuse(worker->onward.publisher, line, first, last);
}

void publishers_advance(struct line *line)
{
    struct list *link = list_first(&line->publishers);

    if (!link)
        return;
    struct worker *worker = CONTAINER_OF(link, struct publisher, link)->client->worker;
    list_move_all(&worker->publishers_ready, &line->publishers);
    loop_defer(worker->loop, &worker->confirm, LOOP_COMMIT);
}

/* Those who still wait for something find their line again. */
void publishers_confirm(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, confirm);
    uint64_t since_ns = loop_precise_ns(worker->loop);
    struct list now;
    struct list *link;

    list_init(&now);
    list_move_all(&now, &worker->publishers_ready);
    while ((link = list_take_first(&now)) != NULL) {
        publisher_tell(CONTAINER_OF(link, struct publisher, link));
        if (loop_precise_ns(worker->loop) - since_ns > TURN_SLICE_NS)
            break;
    }
    list_move_all(&now, &worker->publishers_ready); /* who had to wait comes first */
    list_move_all(&worker->publishers_ready, &now);
    if (!list_empty(&worker->publishers_ready))
        loop_defer(worker->loop, task, LOOP_COMMIT);
}

/* ---- publishing ---- */

/* Sorts the queues by where they live; returns how many places there are. */
static size_t sort_by_place(struct worker *worker, struct catalog_queue **queues, size_t count,
                            bool came_by_mail)
{
    size_t places = 0;

    for (size_t i = 0; i < count; i++) {
        struct place *place = came_by_mail ? &queues[i]->hosted->shard->place : queues[i]->place;
        if (place->batch_count == 0) {
            if (places == worker->places_capacity) {
                worker->places_capacity = places ? 2 * places : 8;
                worker->places =
                    memory_resize(worker->places, worker->places_capacity, sizeof(void *));
            }
            worker->places[places++] = place;
        }
        if (place->batch_count == place->batch_capacity) {
            place->batch_capacity = place->batch_count ? 2 * place->batch_count : 8;
            place->batch = memory_resize(place->batch, place->batch_capacity, sizeof(void *));
        }
        place->batch[place->batch_count++] = queues[i];
    }
    return places;
}

void publisher_wait_settled(struct publisher *publisher, uint64_t version)
{
    struct mark mark = {&publisher->client->worker->catalog_settled, version};

    if (!mark_is_good(mark))
        publisher_also(publisher, mark);
}

/* The confirm of a message in a queue whose making is not on disk yet waits for that, too: else a
 * crash could lose a queue with what was confirmed in it. */
static void also_wait_for_queues(struct publisher *publisher, struct catalog_queue **queues,
                                 size_t count)
{
    uint64_t version = 0;

    for (size_t i = 0; i < count; i++) {
        if (queues[i]->version > version && catalog_is_logged(queues[i]->flags))
            version = queues[i]->version;
    }
    publisher_wait_settled(publisher, version);
}

/* What full queues refuse has died there, where they bury their dead. */
static void bury_refused(struct publish *publish, struct catalog_queue **queues, size_t count)
{
    uint64_t size = message_body(publish->message).size;

    for (size_t i = 0; i < count; i++) {
        const struct queue *queue = &queues[i]->hosted->queue;
        if (queue_refuses(queue, size) && queue_buries_refused(queue))
            refused_bury(queues[i], publish->message);
    }
}

static int publish_here(struct shard *shard, struct publish *publish, struct catalog_queue **queues,
                        size_t count, struct mark *mark)
{
    struct catalog_queue **taking = queues;
    size_t taking_count = shard_takers(shard, publish->message, &taking, count);
    bool logged;
    int result = 0;

    if (taking_count < count) /* who wants to know is told, others are not */
        bury_refused(publish, queues, count);
    if (taking_count < count && publish->publisher)
        result = fail(&publish->failure, E_LIMIT, "a queue is full");
    int stored =
        shard_enqueue(shard, publish->message, taking, taking_count, &logged, &publish->failure);
    if (logged && publish->publisher) {
        also_wait_for_queues(publish->publisher, taking, taking_count);
        *mark = (struct mark){&shard->place.line, log_block_last(shard->log)};
        log_commit(shard->log);
    }
    return stored ? stored : result;
}

static int publish_there(struct client *client, struct peer *peer, struct publish *publish,
                         struct catalog_queue **queues, size_t count, struct mark *mark)
{
    if (count > PEER_QUEUES_MAX)
        return fail(&publish->failure, E_LIMIT,
                    "the message goes to more than %u queues of one worker", PEER_QUEUES_MAX);
    uint64_t ticket =
        peer_publish(peer, publish->message, queues, count, publish->publisher != NULL);
    if (publish->publisher)
        *mark = (struct mark){&peer->place.line, ticket};
    if (!peer_has_credit(peer))
        client->out_of_credit = peer;
    return 0;
}

/* To one place, of several or the only one. *mark: what its confirm waits for, zeroed before. */
static int publish_to(struct client *client, struct place *place, struct publish *publish,
                      struct catalog_queue **queues, size_t count, struct mark *mark)
{
    if (place->is_here)
        return publish_here(shard_of(place), publish, queues, count, mark);
    if (place->is_onward)
        return move_hold(client, publish, queues, count, mark);
    return publish_there(client, peer_of(place), publish, queues, count, mark);
}

static int publish_to_all(struct client *client, struct publish *publish,
                          struct catalog_queue **queues, bool came_by_mail, struct mark *mark)
{
    struct worker *worker = client->worker;
    size_t places = sort_by_place(worker, queues, publish->queues, came_by_mail);
    int result = 0;

    for (size_t i = 0; i < places; i++) {
        struct place *place = worker->places[i];
        if (publish->publisher && mark->line)
            publisher_also(publish->publisher, *mark);
        *mark = (struct mark){0};
        int here = publish_to(client, place, publish, place->batch, place->batch_count, mark);
        place->batch_count = 0;
        result = result ? result : here;
    }
    return result;
}

/* Who wants to know is told by the confirm, also of a failure. */
static int publish_end(const struct publish *publish, struct mark mark, int result)
{
    if (!publish->publisher)
        return result;
    publisher_add(publish->publisher, mark, result == 0);
    return 0;
}

int publish_by_mail(struct client *proxy, struct publish *publish, struct catalog_queue **queues)
{
    struct mark mark = {0};
    int result = 0;

    if (publish->queues == 1)
        result = publish_here(queues[0]->hosted->shard, publish, queues, 1, &mark);
    else if (publish->queues > 1)
        result = publish_to_all(proxy, publish, queues, true, &mark);
    return publish_end(publish, mark, result);
}

int publish_onward(struct worker *worker, struct publish *publish, struct catalog_queue *queue)
{
    struct mark mark = {0};
    int result = 0;

    if (queue)
        result = publish_to(worker->onward.client, queue->home, publish, &queue, 1, &mark);
    else if (publish->publisher) /* deleted: as what comes by mail then */
        publisher_wait_settled(publish->publisher, worker->catalog.events);
    return publish_end(publish, mark, result);
}

int broker_publish(struct client *client, struct publish *publish)
{
    struct catalog_queue **queues;
    struct mark mark = {0};

    int result = client_route(client, publish, &queues, &publish->queues, &publish->failure);
    if (result != 0)
        return result;
    if (publish->queues == 1)
        result = publish_to(client, queues[0]->place, publish, queues, 1, &mark);
    else if (publish->queues > 1)
        result = publish_to_all(client, publish, queues, false, &mark);
    client->worker->published += publish->queues > 0 && result == 0;
    return publish_end(publish, mark, result);
}

/* ---- flow ---- */

#define WATCH_NS (100 * NANOSECONDS_PER_MS)

enum flow worker_flow_here(const struct worker *worker)
{
    bool has_room = true;

    if (worker->disk_is_low)
        return FLOW_DISK;
    for (unsigned i = 0; i < worker->shard_count; i++) {
        if (worker->shards[i]->has_failed)
            return FLOW_DISK;
        struct log *log = worker->shards[i]->log; /* NULL: the worker has not come to open it */
        has_room = has_room && (!log || log_has_room(log));
    }
    return has_room ? FLOW_OPEN : FLOW_BUSY;
}

/* An alarm of one worker is everybody's, and the memory watermark is for all together. */
static enum flow flow_now(struct worker *worker)
{
    enum flow flow = worker_flow_here(worker);
    uint64_t high =
        worker->options.memory_high_bytes ? worker->options.memory_high_bytes : UINT64_MAX;
    uint64_t used = 0;

    for (unsigned i = 0; i < worker->count; i++) {
        const struct peer *peer = worker->peers[i];
        if (!peer)
            continue;
        if (peer->flow == FLOW_DISK)
            flow = FLOW_DISK;
        used += peer->memory_used;
    }
    worker->memory_room = high > used ? high - used : 0;
    if (flow != FLOW_DISK && worker->memory.used >= worker->memory_room)
        flow = FLOW_MEMORY;
    worker->flow_may_have_changed = flow != FLOW_OPEN;
    return flow;
}

static enum flow client_flow(struct client *client)
{
    enum flow flow = flow_now(client->worker);

    if (flow == FLOW_OPEN && client->out_of_credit) {
        if (!peer_has_credit(client->out_of_credit))
            return FLOW_BUSY;
        client->out_of_credit = NULL;
    }
    if (flow == FLOW_OPEN && client->is_held_back) {
        if (!onward_has_room(client->worker))
            return FLOW_BUSY;
        client->is_held_back = false;
    }
    return flow;
}

enum flow broker_flow(struct client *client)
{
    struct worker *worker = client->worker;

    if (!worker->flow_may_have_changed && worker->memory.used < worker->memory_room &&
        !client->out_of_credit && !client->is_held_back)
        return FLOW_OPEN;
    enum flow flow = client_flow(client);
    if (flow == FLOW_OPEN)
        return flow;
    client->flow_told = flow;
    if (!list_linked(&client->flow_link))
        list_append(&worker->flow_waiters, &client->flow_link);
    if (flow == FLOW_MEMORY && worker->flow != FLOW_MEMORY)
        worker_flow_changed(worker);
    return flow;
}

static const char *const flow_words[] = {
    [FLOW_OPEN] = "open",
    [FLOW_BUSY] = "busy",
    [FLOW_MEMORY] = "the memory watermark is passed: publishers are blocked",
    [FLOW_DISK] = "the disk watermark is passed or storage has failed: publishers are blocked",
};

/* Logs the change, once. Waiters are told by the watch, or when the log has room. */
void worker_flow_changed(struct worker *worker)
{
    enum flow flow = flow_now(worker);
    enum flow before = worker->flow;

    worker->flow = flow;
    if (flow >= FLOW_MEMORY && flow != before)
        log_warning(worker->logger, "alarm", "%s", flow_words[flow]);
    else if (before >= FLOW_MEMORY && flow < FLOW_MEMORY)
        log_info(worker->logger, "alarm", "publishers go on");
}

static void tell_flow(struct worker *worker)
{
    struct list waiters;

    list_init(&waiters);
    list_move_all(&waiters, &worker->flow_waiters);
    for (struct list *link; (link = list_take_first(&waiters));) {
        struct client *client = CONTAINER_OF(link, struct client, flow_link);
        enum flow flow = client_flow(client);
        bool changed = flow != client->flow_told;
        client->flow_told = flow;
        if (flow != FLOW_OPEN)
            list_append(&worker->flow_waiters, link);
        if (changed)
            client->options.events->flow(client->options.session, flow);
    }
}

static void tell_long_turns(struct worker *worker)
{
    uint64_t count = loop_statistics(worker->loop)->long_turns;
    uint64_t longest_ns = loop_longest_turn_ns(worker->loop);

    if (count > worker->long_turns_told)
        log_debug(worker->logger, "loop",
                  "%" PRIu64 " turns longer than %u ms, the longest took %.1f ms",
                  count - worker->long_turns_told, (unsigned)(TURN_LONG_NS / NANOSECONDS_PER_MS),
                  (double)longest_ns / NANOSECONDS_PER_MS);
    worker->long_turns_told = count;
}

/* Every 100 ms, and when the log has room again. */
void worker_watch(struct timer *timer)
{
    struct worker *worker = CONTAINER_OF(timer, struct worker, watch);

    worker->disk_is_low =
        worker->options.disk_low_bytes && worker->shard_count > 0 &&
        store_bytes_free(worker->shards[0]->store) < worker->options.disk_low_bytes;
    worker_flow_changed(worker);
    tell_long_turns(worker);
    logins_go_on(worker);
    peers_status(worker);
    peers_return_credit(worker);
    if (worker->messages.used > worker->options.hot_bytes_max)
        cooling_begin(worker);
    if (!list_empty(&worker->flow_waiters))
        tell_flow(worker);
    timer_set(timer, loop_now_ns(worker->loop) + WATCH_NS);
}
