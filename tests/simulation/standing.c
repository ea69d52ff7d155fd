/*
 * What was promised of queues.
 *
 * A queue *must* be there, under its id and on every worker, from the answer to its declaration
 * until somebody asks to delete it; across crashes, if it is durable; and if it expires, as long as
 * somebody consumes from it, and so long after it was last used: declared, asked for a message, or
 * left by a consumer. Nothing of this is promised of those that go with a client.
 */
#include "broker/places.h"
#include "world.h"

/* ---- what kinds there are ---- */

bool standing_is_durable(unsigned queue)
{
    return queue < QUEUES_STAY || queue == QUEUES_STAY || queue == QUEUES_STAY + 3;
}

/* restless-1 and restless-2 go with their consumers, or with the client that declared them. */
static bool goes_with_a_client(unsigned queue)
{
    return queue == QUEUES_STAY + 1 || queue == QUEUES_STAY + 2;
}

uint32_t standing_expires_ms(const struct world *w, unsigned queue)
{
    uint64_t some = w->seed * 2654435761 >> 7;

    return queue == QUEUES_STAY + 3   ? 20 + (uint32_t)(some % 200)
           : queue == QUEUES_STAY + 4 ? 10 + (uint32_t)(some / 200 % 60)
                                      : 0;
}

const struct catalog_queue *standing_look(const struct world *w, unsigned worker, unsigned queue)
{
    const struct vhost *vhost =
        catalog_vhost(worker_catalog(w->members[worker].worker), slice_text("/"));

    return vhost_queue(vhost, slice_text(queue_names[queue]));
}

/* ---- what must be ---- */

static uint64_t actor_now_ns(const struct actor *actor)
{
    return loop_now_ns(actor->world->members[actor->worker].loop);
}

static uint64_t latest_ns(const struct world *w)
{
    uint64_t latest = w->ended_ns;

    for (unsigned i = 0; i < w->workers; i++) {
        if (w->members[i].loop && loop_now_ns(w->members[i].loop) > latest)
            latest = loop_now_ns(w->members[i].loop);
    }
    return latest;
}

static bool has_consumer(const struct world *w, uint64_t id)
{
    for (unsigned i = 0; i < ACTORS; i++) {
        const struct actor *actor = &w->actors[i];
        if (actor->client && !actor->leaving && actor->consumer && actor->consumer_of == id)
            return true;
    }
    return false;
}

uint64_t standing_must(const struct world *w, unsigned queue)
{
    const struct standing *s = &w->standings[queue];
    uint64_t expires_ns = standing_expires_ms(w, queue) * NANOSECONDS_PER_MS;

    if (!s->must || s->deletes > 0 || goes_with_a_client(queue) || w->corruption_reported)
        return 0;
    if (expires_ns && !has_consumer(w, s->id) && latest_ns(w) >= s->used_ns + expires_ns)
        return 0;
    return s->id;
}

/* ---- what is asked and answered ---- */

void standing_asked(struct actor *actor, unsigned queue)
{
    const struct catalog_queue *named = standing_look(actor->world, actor->worker, queue);

    actor->asked_queue = queue;
    actor->asked_id = named ? named->id : 0;
    actor->asked_must = standing_must(actor->world, queue);
    actor->asked_ns = actor_now_ns(actor);
}

/* The queue was there; once its declaration is answered it must be, on all workers. */
static void seen(struct actor *actor, bool used)
{
    struct world *w = actor->world;
    struct standing *s = &w->standings[actor->asked_queue];
    const struct catalog_queue *named = standing_look(w, actor->worker, actor->asked_queue);
    uint64_t must = standing_must(w, actor->asked_queue);

    if (!named) /* deleted meanwhile */
        return;
    CHECK(w, !must || must == named->id, "%s is queue %" PRIu64 ", and was %" PRIu64,
          queue_names[actor->asked_queue], named->id, must);
    if (s->id != named->id)
        *s = (struct standing){.id = named->id, .deletes = s->deletes};
    if (used && s->used_ns < actor->asked_ns)
        s->used_ns = actor->asked_ns;
    /* where the catalog's storage has failed, an answer does not wait for the others */
    bool declared = actor->ask == ASK_RESTLESS_QUEUE || actor->ask == ASK_DECLARE;
    s->must = must || (declared && !(w->failed_shards & 1u << 1));
}

void standing_answered(struct actor *actor, bool used)
{
    struct world *w = actor->world;
    int code = actor->request.failure.code;

    if (code == 0)
        seen(actor, used);
    CHECK(w,
          code != E_NOT_FOUND || !actor->asked_must ||
              standing_must(w, actor->asked_queue) != actor->asked_must,
          "actor %u, request %d: %s, but it is there as %" PRIu64, actor->index, (int)actor->ask,
          actor->request.failure.text, actor->asked_must);
}

void standing_delete_asked(struct actor *actor)
{
    actor->world->standings[actor->asked_queue].deletes++;
}

/* One that cannot be logged is undone by the next start. */
static bool deletion_is_logged(const struct world *w, unsigned queue)
{
    return standing_is_durable(queue) && w->failed_shards == 0 && w->seed % 8 != 5;
}

static void check_not_deleted(const struct world *w, const struct catalog_queue *named)
{
    CHECK(w, named->id >= QUEUE_IDS_MAX || !w->deleted[named->id] || w->corruption_reported,
          "queue %" PRIu64 ", %s, was deleted and is there", named->id, named->name);
}

/* By its id, the one that the worker knew when it was asked. */
void standing_delete_answered(struct actor *actor, int code)
{
    struct world *w = actor->world;
    struct standing *s = &w->standings[actor->asked_queue];

    s->deletes--;
    if (code == E_IN_USE || code == E_LOCKED)
        return;
    if (s->id == actor->asked_id)
        s->must = false;
    if (actor->asked_id)
        model_deleted(w, actor->asked_id);
    if (code == 0 && actor->asked_id < QUEUE_IDS_MAX && deletion_is_logged(w, actor->asked_queue))
        w->deleted[actor->asked_id] = true;
}

void standing_unsubscribed(struct actor *actor)
{
    struct standing *s = &actor->world->standings[actor->consumer_queue];

    if (actor->consumer && s->id == actor->consumer_of)
        s->used_ns = actor_now_ns(actor);
    actor->consumer_of = 0;
}

/* ---- lives ---- */

static void check_all_know(const struct world *w, unsigned queue, uint64_t id)
{
    for (unsigned i = 0; i < w->workers; i++) {
        const struct catalog_queue *named = standing_look(w, i, queue);
        CHECK(w, named && named->id == id,
              "worker %u has %" PRIu64 " for %s, which is queue %" PRIu64, i, named ? named->id : 0,
              queue_names[queue], id);
    }
}

void standing_life_begins(struct world *w)
{
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        uint64_t id = standing_must(w, queue);
        if (id)
            check_all_know(w, queue, id);
        if (standing_look(w, 0, queue))
            check_not_deleted(w, standing_look(w, 0, queue));
    }
}

/* Expiry begins anew with the next start: at the time at which loops begin. */
void standing_life_over(struct world *w)
{
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        struct standing *s = &w->standings[queue];
        s->deletes = 0;
        s->must = standing_is_durable(queue) && standing_must(w, queue);
        s->used_ns = NANOSECONDS_PER_MS * 1000;
    }
    w->ended_ns = 0;
}

/* ---- at rest ---- */

static bool is_gone(const struct world *w, const struct known *k)
{
    if (k->settle_durable && !w->corruption_reported)
        return true;
    return k->settled && k->delivered_life == w->life + 1;
}

static bool must_be_in(const struct world *w, const struct known *k)
{
    bool kept = k->born == w->life || (k->persistent && standing_is_durable(k->queue));

    return kept && k->confirmed && !k->may_be_gone && !k->settled && !k->settled_in;
}

/* Not fewer messages than were confirmed and are not settled, nor more than were published. */
static void check_content(const struct world *w, unsigned queue, const struct hosted *hosted)
{
    uint64_t there = hosted->queue.ready + hosted->queue.leased, id = hosted->named->id;
    uint64_t must = 0, may = 0;

    for (uint64_t i = 1; i <= w->ids; i++) {
        const struct known *k = &w->known[i];
        if (k->queue != queue || (k->queue_id && k->queue_id != id) || is_gone(w, k))
            continue;
        may++;
        must += k->queue_id == id && must_be_in(w, k);
    }
    CHECK(w, there <= may,
          "%s has %" PRIu64 " messages, but only %" PRIu64 " were published and are not settled",
          queue_names[queue], there, may);
    CHECK(w, there >= must || world_flipped(w),
          "%s has %" PRIu64 " messages, but %" PRIu64 " were confirmed and are not settled",
          queue_names[queue], there, must);
}

/* What could be deleted, is: its event could be logged. */
static void check_expired(const struct world *w, unsigned queue, unsigned worker)
{
    const struct catalog_queue *named = standing_look(w, worker, queue);

    if (!standing_expires_ms(w, queue) || !named || w->failed_shards != 0)
        return;
    CHECK(w, has_consumer(w, named->id), "worker %u: %s is unused and has not expired", worker,
          queue_names[queue]);
}

void standing_check(struct world *w)
{
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        uint64_t must = standing_must(w, queue);
        if (must)
            check_all_know(w, queue, must);
        for (unsigned i = 0; i < w->workers; i++) {
            const struct catalog_queue *named = standing_look(w, i, queue);
            if (named)
                check_not_deleted(w, named);
            if (named && named->hosted)
                check_content(w, queue, named->hosted);
            check_expired(w, queue, i);
        }
    }
}
