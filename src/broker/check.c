/* What tests and the simulation look at: the invariants of a worker, and what must be so when
 * nothing is on its way. */
#include "broker/move.h"
#include "broker/peer.h"

void worker_check(const struct worker *worker)
{
    struct map_cursor cursor = {0};
    uint32_t clients = 0;

    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        ASSERT(vhost_queue(q->vhost, slice_text(q->name)) == q);
        ASSERT(!q->dropped && q->home && q->home->is_here == (q->hosted != NULL));
        ASSERT(q->place == (q->move ? &worker->onward.place : q->home));
        if (q->hosted)
            queue_check(&q->hosted->queue);
    }
    for (const struct list *l = worker->clients.next; l != &worker->clients; l = l->next)
        clients++;
    ASSERT(clients == worker->client_count);
    route_table_check(worker->catalog.routes);
    for (unsigned i = 0; i < worker->shard_count; i++)
        log_check(worker->shards[i]->log);
}

const struct catalog *worker_catalog(const struct worker *worker)
{
    return &worker->catalog;
}

bool worker_is_burying(const struct worker *worker)
{
    return !burials_are_over(worker) || !redrives_are_over(worker);
}

/* ---- nothing is on its way ---- */

static void check_line_quiet(const struct line *line)
{
    ASSERT(list_empty(&line->requests));
    ASSERT(list_empty(&line->publishers));
}

static void check_peer_at_rest(const struct peer *peer)
{
    check_line_quiet(&peer->place.line);
    ASSERT(map_count(&peer->asked) == 0);
    ASSERT(peer->place.line.done == peer->ticket_last);
    check_line_quiet(&peer->credit);
    ASSERT(peer->sent_bytes == peer->credit.done);
    ASSERT(peer->received_bytes == peer->returned_bytes);
    ASSERT(list_empty(&peer->pending));
    ASSERT(peer->proxy->outstanding == 0);
}

/* What the log keeps a state of is here, and what has come here has one. */
static void check_states_at_rest(const struct shard *shard)
{
    const struct worker *worker = shard->place.worker;
    struct map_cursor cursor = {0};
    size_t known = log_has_state(shard->log, LEDGER_ID);

    if (log_is_failed(shard->log) || worker->catalog_settled.failed || worker->catalog_is_suspect)
        return;
    for (const struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        const struct hosted *hosted = hosted_in(q, shard);
        bool has_state = hosted && hosted->queue.log && log_has_state(shard->log, q->id);
        ASSERT(!hosted || !hosted->queue.log || !hosted->arrived_by || has_state);
        known += has_state;
    }
    ASSERT(log_state_count(shard->log) == known);
}

static void check_shard_at_rest(const struct shard *shard)
{
    check_line_quiet(&shard->place.line);
    ASSERT(list_empty(&shard->discards));
    ASSERT(list_empty(&shard->dropped) || shard->place.worker->catalog_settled.failed);
    check_states_at_rest(shard);
    /* where storage has failed, transactions may be in doubt until the next start */
    ASSERT(map_count(&shard->ledger.parts) == 0 || shard->place.worker->flow == FLOW_DISK);
}

static void check_queues_at_rest(const struct worker *worker)
{
    struct map_cursor cursor = {0};

    for (const struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        if (!q->hosted)
            continue;
        const struct queue *queue = &q->hosted->queue;
        ASSERT(queue->ready == 0 || list_empty(&queue->active) || queue->host->quarantined > 0);
        ASSERT(list_empty(&q->hosted->getters));
        ASSERT(queue_dead_count(queue) == 0 || q->move || timer_is_set(&q->hosted->bury_again));
        /* who is not read, because publishers wait, may have no room for what it is to take first
         */
        ASSERT(q->hosted->returning == 0 || q->move || worker->flow != FLOW_OPEN);
    }
}

/* No queue has one that is not in the catalog any more, or not in this form. */
static void check_policies_at_rest(const struct worker *worker)
{
    const struct map *policies = &worker->catalog.policies_by_id;
    struct map_cursor cursor = {0};

    ASSERT(policies_are_in_force(worker));
    for (const struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));) {
        for (unsigned kind = 0; kind < POLICY_KINDS; kind++)
            ASSERT(!q->policies[kind] ||
                   map_get_number(policies, q->policies[kind]->id) == q->policies[kind]);
    }
}

void worker_check_rest(const struct worker *worker)
{
    ASSERT(list_empty(&worker->completions) && list_empty(&worker->cancellations));
    ASSERT(list_empty(&worker->jobs) && list_empty(&worker->lines_going) &&
           list_empty(&worker->publishers_ready));
    ASSERT(list_empty(&worker->logins) && list_empty(&worker->login_waiters));
    ASSERT(list_empty(&worker->parts) && list_empty(&worker->transactions));
    ASSERT(burials_are_over(worker) && redrives_rest_or_wait(worker) &&
           list_empty(&worker->browses));
    ASSERT(moves_are_over(worker) && worker->collecting == 0 && worker->onward.bytes == 0);
    ASSERT(list_empty(&worker->moves) || worker->catalog_settled.failed);
    check_line_quiet(&worker->onward.place.line);
    check_line_quiet(&worker->catalog_settled);
    ASSERT(worker->catalog_settled.failed ||
           worker->catalog_settled.done == worker->catalog.events);
    for (unsigned i = 0; i < worker->count; i++) {
        if (worker->peers[i])
            check_peer_at_rest(worker->peers[i]);
    }
    for (unsigned i = 0; i < worker->shard_count; i++)
        check_shard_at_rest(worker->shards[i]);
    check_queues_at_rest(worker);
    check_policies_at_rest(worker);
    LIST_EACH (&worker->clients, link) {
        const struct client *client = CONTAINER_OF(link, struct client, link);
        LIST_EACH (&client->subscriptions, other) {
            const struct subscription *s = CONTAINER_OF(other, struct subscription, client_link);
            ASSERT(list_empty(&s->held) || s->is_refused);
        }
    }
}

static void check_queue_quiet(const struct catalog_queue *queue)
{
    const struct hosted *hosted = queue->hosted;

    unsigned stranded = !queue->move ? 0 : queue->move->arriving ? 2 : 1;

    ASSERT(queue->references == (hosted ? 2u : 1u) + stranded);
    ASSERT(queue->owner.client == 0); /* no client, no exclusive queue */
    if (!hosted)
        return;
    /* What a transaction in doubt holds it holds until the next start. */
    if (map_count(&hosted->shard->ledger.parts) == 0)
        ASSERT(hosted->queue.references == 1);
    /* nor can the dead be buried, where storage has failed, or they cannot be read */
    if (map_count(&hosted->shard->ledger.parts) == 0)
        ASSERT(hosted->queue.leased <= queue_dead_count(&hosted->queue) + hosted->queue.set_aside);
    ASSERT(hosted->queue.consumers == 0 && !hosted->queue.getters_wait);
    ASSERT(list_empty(&hosted->subscriptions));
    ASSERT(!hosted->exclusive_consumer);
    ASSERT(hosted->returning == 0 || queue->move);
}

/* Nobody holds memory but queues, and transactions that are in doubt. */
static void check_accounts_quiet(const struct worker *worker)
{
    bool in_doubt = false;

    for (unsigned i = 0; i < worker->shard_count; i++)
        in_doubt = in_doubt || map_count(&worker->shards[i]->ledger.parts) > 0;
    ASSERT(worker->memory.used >= worker->messages.used);
    ASSERT(in_doubt || worker->memory.used == worker->messages.used);
}

void worker_check_quiet(const struct worker *worker)
{
    struct map_cursor cursor = {0};

    worker_check_rest(worker);
    ASSERT(worker->client_count == 0 && map_count(&worker->clients_by_id) == 0);
    ASSERT(list_empty(&worker->flow_waiters));
    check_accounts_quiet(worker);
    ASSERT(list_empty(&worker->catalog.forgotten) || worker->catalog_settled.failed);
    for (unsigned i = 0; i < worker->count; i++) {
        const struct peer *peer = worker->peers[i];
        if (!peer)
            continue;
        ASSERT(map_count(&peer->subscriptions) == 0 && map_count(&peer->consumers) == 0);
        ASSERT(list_empty(&peer->proxy->subscriptions));
    }
    for (struct catalog_queue *q; (q = map_next(&worker->catalog.queues_by_id, &cursor));)
        check_queue_quiet(q);
}

/* ---- one catalog, many copies ---- */

static void check_same_policies(const struct vhost *one, const struct vhost *other,
                                enum policy_kind kind)
{
    const struct list *place = &other->policies[kind];

    ASSERT(one->policy_count[kind] == other->policy_count[kind]);
    LIST_EACH (&one->policies[kind], link) {
        const struct policy *p = CONTAINER_OF(link, struct policy, link);
        place = place->next;
        const struct policy *q = CONTAINER_OF(place, struct policy, link);
        ASSERT(p->id == q->id && strcmp(p->name, q->name) == 0 && p->kind == kind);
        ASSERT(p->priority == q->priority && p->target == q->target);
        ASSERT(slice_equal(pattern_text(p->pattern), pattern_text(q->pattern)));
        ASSERT(slice_equal(policy_definition(p), policy_definition(q)));
    }
}

static bool is_same_policy(const struct policy *one, const struct policy *other)
{
    return one && other ? one->id == other->id : one == other;
}

static void check_same_vhosts(const struct catalog *one, const struct catalog *other)
{
    struct map_cursor cursor = {0};

    ASSERT(map_count(&one->vhosts) == map_count(&other->vhosts));
    for (const struct vhost *v; (v = map_next(&one->vhosts, &cursor));) {
        const struct vhost *w = map_get_number(&other->vhosts_by_id, v->id);
        ASSERT(w && strcmp(v->name, w->name) == 0);
        ASSERT(map_count(&v->exchanges) == map_count(&w->exchanges));
        ASSERT(map_count(&v->queues) == map_count(&w->queues));
        ASSERT(v->headers_bindings == w->headers_bindings && v->alternates == w->alternates);
        ASSERT(v->binding_count == w->binding_count);
        for (unsigned kind = 0; kind < POLICY_KINDS; kind++)
            check_same_policies(v, w, (enum policy_kind)kind);
    }
}

static bool has_binding(const struct route_exchange *exchange,
                        const struct route_binding_view *wanted)
{
    struct route_binding_view binding;

    for (size_t position = 0; route_binding_next(exchange, &position, &binding);) {
        if (binding.target.id == wanted->target.id && slice_equal(binding.key, wanted->key) &&
            slice_equal(binding.arguments, wanted->arguments))
            return true;
    }
    return false;
}

static void check_same_exchanges(const struct catalog *one, const struct catalog *other)
{
    struct map_cursor cursor = {0};

    ASSERT(map_count(&one->exchanges_by_id) == map_count(&other->exchanges_by_id));
    for (const struct catalog_exchange *e; (e = map_next(&one->exchanges_by_id, &cursor));) {
        const struct catalog_exchange *f = map_get_number(&other->exchanges_by_id, e->id);
        struct route_binding_view binding;
        ASSERT(f && strcmp(e->name, f->name) == 0 && e->vhost->id == f->vhost->id);
        ASSERT(e->type == f->type && e->flags == f->flags);
        ASSERT(slice_equal(exchange_arguments(e), exchange_arguments(f)));
        ASSERT(is_same_policy(e->policy, f->policy));
        ASSERT(route_binding_count(e->route) == route_binding_count(f->route));
        for (size_t position = 0; route_binding_next(e->route, &position, &binding);)
            ASSERT(has_binding(f->route, &binding));
    }
}

static void check_same_queues(const struct catalog *one, const struct catalog *other)
{
    struct map_cursor cursor = {0};

    ASSERT(map_count(&one->queues_by_id) == map_count(&other->queues_by_id));
    for (const struct catalog_queue *q; (q = map_next(&one->queues_by_id, &cursor));) {
        const struct catalog_queue *r = catalog_queue_by_id(other, q->id);
        ASSERT(r && strcmp(q->name, r->name) == 0 && q->vhost->id == r->vhost->id);
        ASSERT(q->shard == r->shard && q->flags == r->flags);
        ASSERT(q->owner.worker == r->owner.worker && q->owner.client == r->owner.client);
        ASSERT(slice_equal(queue_arguments(q), queue_arguments(r)));
        for (unsigned kind = 0; kind < POLICY_KINDS; kind++)
            ASSERT(is_same_policy(q->policies[kind], r->policies[kind]));
    }
}

static void check_same_people(const struct catalog *one, const struct catalog *other)
{
    struct map_cursor cursor = {0};

    ASSERT(map_count(&one->users) == map_count(&other->users));
    ASSERT(map_count(&one->permissions) == map_count(&other->permissions));
    for (const struct user *u; (u = map_next(&one->users, &cursor));) {
        const struct user *v = catalog_user(other, slice_text(u->name));
        ASSERT(v && strcmp(u->hash, v->hash) == 0 && strcmp(u->tags, v->tags) == 0);
    }
}

void worker_check_same_catalog(const struct worker *worker, const struct worker *other)
{
    const struct catalog *one = &worker->catalog, *two = &other->catalog;

    ASSERT(one->events == two->events);
    check_same_vhosts(one, two);
    check_same_exchanges(one, two);
    check_same_queues(one, two);
    check_same_people(one, two);
}
