/* Queues and exchanges that come and go, declared, bound and deleted on all workers at once. */
#include "world.h"

#include "message/fields.h"

#define FIRST QUEUES_STAY

/* ---- what is asked ---- */

const char *const restless_exchanges[EXCHANGES] = {"restless-exchange", "restless-topic"};

/* The table {x-expires: this many ms}. */
static struct slice expiry_arguments(struct actor *actor, uint32_t expires_ms)
{
    struct writer w = writer_of(actor->arguments, sizeof actor->arguments);
    struct field field = {.name = slice_text("x-expires"), .type = 'I'};

    field.value.integer = expires_ms;
    fields_put(&w, &field);
    return slice_of(actor->arguments, writer_size(&w));
}

static void declare_queue(struct actor *actor, unsigned queue)
{
    struct world *w = actor->world;
    uint32_t expires_ms = standing_expires_ms(w, queue);
    struct queue_spec spec = {
        .name = slice_text(queue_names[queue]),
        .passive = dice(w, 8) == 0,
        .durable = standing_is_durable(queue),
        .auto_delete = queue == FIRST + 1 || (queue == FIRST + 2 && dice(w, 2)),
        .exclusive = queue == FIRST + 2,
    };

    if (expires_ms)
        spec.arguments = expiry_arguments(actor, expires_ms);

    trace(w, "actor %u declares %s%s", actor->index, queue_names[queue],
          spec.passive ? ", passively" : "");
    standing_asked(actor, queue);
    actor_asked(actor, ASK_RESTLESS_QUEUE,
                broker_declare_queue(actor->client, &actor->request, &spec));
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
    standing_asked(actor, queue);
    standing_delete_asked(actor);
    actor_asked(actor, ASK_DELETE,
                broker_delete_queue(actor->client, &actor->request, slice_text(queue_names[queue]),
                                    dice(w, 3) == 0, dice(w, 3) == 0));
}

static void declare_exchange(struct actor *actor, unsigned which)
{
    struct world *w = actor->world;
    struct exchange_spec spec = {
        .name = slice_text(restless_exchanges[which]),
        .type = slice_text(which ? "topic" : "direct"),
        .durable = dice(w, 10) > 0,
        .auto_delete = which != 0,
    };

    trace(w, "actor %u declares %s", actor->index, restless_exchanges[which]);
    actor_asked(actor, ASK_RESTLESS,
                broker_declare_exchange(actor->client, &actor->request, &spec));
}

static void delete_exchange(struct actor *actor, unsigned which)
{
    struct world *w = actor->world;

    trace(w, "actor %u deletes %s", actor->index, restless_exchanges[which]);
    actor_asked(actor, ASK_RESTLESS,
                broker_delete_exchange(actor->client, &actor->request,
                                       slice_text(restless_exchanges[which]), dice(w, 2)));
}

static void bind(struct actor *actor, unsigned which, unsigned queue)
{
    static const char *const keys[] = {"a", "b", "a.*", "#"};
    struct world *w = actor->world;
    bool to_exchange = dice(w, 5) == 0;
    struct binding_spec spec = {
        .source = slice_text(restless_exchanges[which]),
        .destination = slice_text(to_exchange ? restless_exchanges[!which] : queue_names[queue]),
        .to_exchange = to_exchange,
        .key = slice_text(keys[dice(w, 4)]),
    };
    bool off = dice(w, 3) == 0;

    trace(w, "actor %u %s %s and %.*s", actor->index, off ? "unbinds" : "binds",
          restless_exchanges[which], SLICE_ARGS(spec.destination));
    actor_asked(actor, ASK_RESTLESS,
                off ? broker_unbind(actor->client, &actor->request, &spec)
                    : broker_bind(actor->client, &actor->request, &spec));
}

void restless_act(struct actor *actor)
{
    struct world *w = actor->world;
    unsigned queue = FIRST + (unsigned)dice(w, QUEUES - FIRST),
             which = (unsigned)dice(w, EXCHANGES);

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
        actor_purge(actor, queue);
        break;
    default:
        bind(actor, which, dice(w, 3) ? queue : (unsigned)dice(w, QUEUES_STAY));
    }
}

/* ---- where messages go ---- */

static bool key_matches(enum exchange_type type, struct slice pattern, struct slice key)
{
    if (type == EXCHANGE_DIRECT || !memchr("#*", pattern.data[pattern.size - 1], 2))
        return slice_equal(pattern, key);
    if (pattern.size == 1) /* "#" */
        return true;
    return key.size > 2 && memcmp(pattern.data, key.data, 2) == 0 && /* "a.*" */
           !memchr(key.data + 2, '.', key.size - 2);
}

static unsigned queue_of(const struct catalog *catalog, uint64_t id)
{
    const struct catalog_queue *named = catalog_queue_by_id(catalog, id);
    unsigned queue = 0;

    while (strcmp(queue_names[queue], named->name) != 0)
        queue++;
    return queue;
}

/* Sets: the queues of this exchange's own bindings; the exchanges behind them. */
static void follow(const struct catalog *catalog, const struct catalog_exchange *exchange,
                   struct slice key, unsigned *to_queues, unsigned *to_exchanges)
{
    struct route_binding_view binding;

    for (size_t at = 0; route_binding_next(exchange->route, &at, &binding);) {
        if (!key_matches(exchange->type, binding.key, key))
            continue;
        const struct catalog_exchange *next =
            map_get_number(&catalog->exchanges_by_id, binding.target.id);
        if (next)
            *to_exchanges |= 1u << (strcmp(next->name, restless_exchanges[0]) != 0);
        else
            *to_queues |= 1u << queue_of(catalog, binding.target.id);
    }
}

bool restless_route(const struct actor *actor, unsigned exchange, struct slice key,
                    unsigned queues[QUEUES], unsigned *count)
{
    const struct catalog *catalog = worker_catalog(actor->world->members[actor->worker].worker);
    const struct vhost *vhost = catalog_vhost(catalog, slice_text("/"));
    unsigned to_queues = 0, to_exchanges = 1u << exchange, followed = 0;

    *count = 0;
    if (!vhost_exchange(vhost, slice_text(restless_exchanges[exchange])))
        return false;
    while (to_exchanges != followed) {
        unsigned next = (unsigned)__builtin_ctz(to_exchanges & ~followed);
        followed |= 1u << next;
        follow(catalog, vhost_exchange(vhost, slice_text(restless_exchanges[next])), key,
               &to_queues, &to_exchanges);
    }
    for (unsigned queue = 0; queue < QUEUES; queue++) {
        if (to_queues & 1u << queue)
            queues[(*count)++] = queue;
    }
    return true;
}

/* ---- what comes of it ---- */

void restless_answered(struct actor *actor)
{
    const struct failure *failure = &actor->request.failure;

    if (actor->ask == ASK_DELETE)
        standing_delete_answered(actor, failure->code);
    if (actor->ask == ASK_RESTLESS_QUEUE)
        standing_answered(actor, true);
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
