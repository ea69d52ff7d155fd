/* Queues move to other shards, those that stay and those that come and go. */
#include "world.h"

void mover_act(struct actor *actor)
{
    struct world *w = actor->world;

    if (dice(w, 10) == 0) {
        trace(w, "actor %u balances queues", actor->index);
        actor->asked_queue = QUEUES;
        for (unsigned queue = 0; queue < QUEUES; queue++)
            model_move_asked(w, queue); /* at any time from now on */
        mortals_may_move(w);
        actor_asked(actor, ASK_MOVE, broker_rebalance(actor->client, &actor->request));
        return;
    }
    unsigned queue = (unsigned)dice(w, dice(w, 4) ? QUEUES_STAY : QUEUES);
    uint32_t shard = 1 + (uint32_t)dice(w, w->shards);

    trace(w, "actor %u moves %s to shard %u", actor->index, queue_names[queue], shard);
    actor->asked_queue = queue;
    model_move_asked(w, queue);
    actor_asked(
        actor, ASK_MOVE,
        broker_move_queue(actor->client, &actor->request, slice_text(queue_names[queue]), shard));
}

/* Another one may be moving it still. */
void mover_answered(struct actor *actor)
{
    struct world *w = actor->world;
    const struct failure *failure = &actor->request.failure;

    if (actor->asked_queue == QUEUES) {
        CHECK(w, failure->code == 0, "balancing queues: %s", failure->text);
        return;
    }
    if (failure->code != E_FAILED) /* then it may be stranded */
        w->moves[actor->asked_queue]--;
    switch (failure->code) {
    case 0:
        w->moved++;
        break;
    case E_NOT_FOUND: /* not declared yet, or deleted */
    case E_UNSUPPORTED:
    case E_IN_USE:
    case E_FULL:
    case E_FAILED:
    case E_CLOSED:
        break;
    default:
        failed(w, "actor %u: %s (%s)", actor->index, failure->text, error_name(failure->code));
    }
}
