/* Queues and exchanges that come and go, declared, bound and deleted on all workers at once. */
#include "world.h"

#define FIRST QUEUES_STAY

/* ---- what is asked ---- */

static const char *const exchange_names[2] = {"restless-exchange", "restless-topic"};

static void declare_queue(struct actor *actor, unsigned queue)
{
    struct world *w = actor->world;
    struct queue_spec spec = {
        .name = slice_text(queue_names[queue]),
        .passive = dice(w, 8) == 0,
        .durable = queue == FIRST,
        .auto_delete = queue == FIRST + 1 || (queue == FIRST + 2 && dice(w, 2)),
        .exclusive = queue == FIRST + 2,
    };

    trace(w, "actor %u declares %s%s", actor->index, queue_names[queue],
          spec.passive ? ", passively" : "");
    actor_asked(actor, ASK_RESTLESS, broker_declare_queue(actor->client, &actor->request, &spec));
}

static void declare_unnamed(struct actor *actor)
{
    struct queue_spec spec = {.exclusive = true};

    trace(actor->world, "actor %u declares a queue without a name", actor->index);
    actor_asked(actor, ASK_RESTLESS, broker_declare_queue(actor->client, &actor->request, &spec));
}

static void delete_queue(struct actor *actor, unsigned queue)
{
    struct world *w = actor->world;

    trace(w, "actor %u deletes %s", actor->index, queue_names[queue]);
    actor_asked(actor, ASK_RESTLESS,
                broker_delete_queue(actor->client, &actor->request, slice_text(queue_names[queue]),
                                    dice(w, 3) == 0, dice(w, 3) == 0));
}

static void purge_queue(struct actor *actor, unsigned queue)
{
    actor_asked(actor, ASK_RESTLESS,
                broker_purge_queue(actor->client, &actor->request, slice_text(queue_names[queue])));
}

static void declare_exchange(struct actor *actor, unsigned which)
{
    struct world *w = actor->world;
    struct exchange_spec spec = {
        .name = slice_text(exchange_names[which]),
        .type = slice_text(which ? "topic" : "direct"),
        .durable = dice(w, 10) > 0,
        .auto_delete = which != 0,
    };

    trace(w, "actor %u declares %s", actor->index, exchange_names[which]);
    actor_asked(actor, ASK_RESTLESS,
                broker_declare_exchange(actor->client, &actor->request, &spec));
}

static void delete_exchange(struct actor *actor, unsigned which)
{
    struct world *w = actor->world;

    trace(w, "actor %u deletes %s", actor->index, exchange_names[which]);
    actor_asked(actor, ASK_RESTLESS,
                broker_delete_exchange(actor->client, &actor->request,
                                       slice_text(exchange_names[which]), dice(w, 2)));
}

static void bind(struct actor *actor, unsigned which, unsigned queue)
{
    static const char *const keys[] = {"a", "b", "a.*", "#"};
    struct world *w = actor->world;
    bool to_exchange = dice(w, 5) == 0;
    struct binding_spec spec = {
        .source = slice_text(exchange_names[which]),
        .destination = slice_text(to_exchange ? exchange_names[!which] : queue_names[queue]),
        .to_exchange = to_exchange,
        .key = slice_text(keys[dice(w, 4)]),
    };
    bool off = dice(w, 3) == 0;

    trace(w, "actor %u %s %s and %.*s", actor->index, off ? "unbinds" : "binds",
          exchange_names[which], SLICE_ARGS(spec.destination));
    actor_asked(actor, ASK_RESTLESS,
                off ? broker_unbind(actor->client, &actor->request, &spec)
                    : broker_bind(actor->client, &actor->request, &spec));
}

void restless_act(struct actor *actor)
{
    struct world *w = actor->world;
    unsigned queue = FIRST + (unsigned)dice(w, QUEUES - FIRST), which = (unsigned)dice(w, 2);

    switch (dice(w, 12)) {
    case 0:
    case 1:
    case 2:
    case 3:
        declare_queue(actor, queue);
        break;
    case 4:
    case 5:
        delete_queue(actor, queue);
        break;
    case 6:
        declare_exchange(actor, which);
        break;
    case 7:
        delete_exchange(actor, which);
        break;
    case 8:
        declare_unnamed(actor);
        break;
    case 9:
        purge_queue(actor, queue);
        break;
    default:
        bind(actor, which, dice(w, 3) ? queue : (unsigned)dice(w, QUEUES_STAY));
    }
}

/* ---- what comes of it ---- */

void restless_answered(struct actor *actor)
{
    const struct failure *failure = &actor->request.failure;

    switch (failure->code) {
    case 0:
    case E_NOT_FOUND:
    case E_MISMATCH:
    case E_LOCKED:
    case E_IN_USE:
    case E_FULL:
    case E_FAILED:
        break;
    default:
        failed(actor->world, "actor %u: %s (%s)", actor->index, failure->text,
               error_name(failure->code));
    }
}
