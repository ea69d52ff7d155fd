/* Actors look: they list all queues, page by page, while these come and go, and ask for the
 * workers' numbers. */
#include "world.h"

#include "base/memory.h"

#include <stdlib.h>

#define ALL_THAT_STAY ((1u << QUEUES_STAY) - 1)

struct look {
    struct listing *listing; /* NULL: it is about numbers */
    unsigned must, seen;     /* sets of queues that stay: were answered for before; were listed */
    struct worker_report reports[WORKERS_MAX];
};

void looker_forget(struct actor *actor)
{
    struct look *look = actor->look;

    if (look && look->listing)
        listing_close(look->listing);
    free(look);
    actor->look = NULL;
}

static void next_page(struct actor *actor)
{
    actor_asked(actor, ASK_LOOK, listing_next(actor->look->listing, &actor->request));
}

void looker_act(struct actor *actor)
{
    struct world *w = actor->world;
    struct failure failure;

    if (actor->look) {
        next_page(actor);
        return;
    }
    actor->look = memory_new(sizeof *actor->look);
    if (dice(w, 4) == 0) {
        trace(w, "actor %u asks for numbers", actor->index);
        actor_asked(actor, ASK_LOOK,
                    broker_report(actor->client, &actor->request, actor->look->reports));
        return;
    }
    trace(w, "actor %u lists queues", actor->index);
    actor->look->must = w->queues_there & ALL_THAT_STAY;
    actor->look->listing = listing_open(actor->client, slice_of(NULL, 0), &failure);
    CHECK(w, actor->look->listing, "no list: %s", failure.text);
    next_page(actor);
}

static void see(struct actor *actor, const struct queue_facts *facts)
{
    const struct world *w = actor->world;

    CHECK(w, facts->shard >= 1 && facts->shard <= w->shards, "a queue in shard %u", facts->shard);
    CHECK(w, facts->worker < w->workers, "a queue with worker %u", facts->worker);
    CHECK(w,
          !facts->has_counts || facts->counts.ready + facts->counts.leased <=
                                    w->ids + mortals_count(w) + redriver_count(w),
          "%.*s has %" PRIu64 " messages", SLICE_ARGS(facts->name), facts->counts.ready);
    for (unsigned q = 0; q < QUEUES_STAY; q++) {
        if (!slice_is(facts->name, queue_names[q]))
            continue;
        CHECK(w, !(actor->look->seen & 1u << q), "%s is listed twice", queue_names[q]);
        actor->look->seen |= 1u << q;
    }
}

static void check_reports(const struct actor *actor)
{
    const struct world *w = actor->world;
    uint64_t shards = 0;

    for (unsigned i = 0; i < w->workers; i++) {
        const struct worker_report *report = &actor->look->reports[i];
        CHECK(w, report->turns > 0 && report->turns_long <= report->turns,
              "worker %u has had %" PRIu64 " turns", i, report->turns);
        shards += report->log.shards;
    }
    CHECK(w, shards == w->shards, "%" PRIu64 " shards of %u", shards, w->shards);
}

void looker_answered(struct actor *actor)
{
    const struct world *w = actor->world;
    struct look *look = actor->look;
    struct queue_facts facts;

    CHECK(w, actor->request.failure.code == 0, "looking: %s", actor->request.failure.text);
    if (!look->listing) {
        check_reports(actor);
        looker_forget(actor);
        return;
    }
    for (size_t i = 0; i < listing_count(look->listing); i++) {
        if (listing_queue(look->listing, i, &facts))
            see(actor, &facts);
    }
    if (!listing_is_over(look->listing))
        return;
    CHECK(w, (look->seen & look->must) == look->must || w->corruption_reported,
          "the list has queues %x of %x", look->seen, look->must);
    looker_forget(actor);
}
