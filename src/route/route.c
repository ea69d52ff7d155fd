/* Tables, exchanges, matching and its result. Bindings are in binding.c, exchange types in files of
 * their own. */
#include "route/route_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

static const struct exchange_functions *const types[EXCHANGE_TYPES] = {
    [EXCHANGE_DIRECT] = &direct_functions,
    [EXCHANGE_FANOUT] = &fanout_functions,
    [EXCHANGE_TOPIC] = &topic_functions,
    [EXCHANGE_HEADERS] = &headers_functions,
};

bool exchange_type_parse(struct slice name, enum exchange_type *type)
{
    for (unsigned i = 0; i < EXCHANGE_TYPES; i++) {
        if (slice_is(name, types[i]->name)) {
            *type = (enum exchange_type)i;
            return true;
        }
    }
    return false;
}

const char *exchange_type_name(enum exchange_type type)
{
    ASSERT(type < EXCHANGE_TYPES);
    return types[type]->name;
}

int route_check(enum exchange_type type, struct slice key, struct slice arguments,
                struct failure *failure)
{
    ASSERT(type < EXCHANGE_TYPES);
    return types[type]->accept ? types[type]->accept(key, arguments, failure) : 0;
}

/* ---- tables and exchanges ---- */

struct route_table *route_table_new(uint64_t seed)
{
    struct route_table *table = memory_new(sizeof *table);

    table->seed = seed;
    map_init_numbers(&table->exchanges, seed);
    map_init_numbers(&table->targets, seed);
    map_init_bytes(&table->identities, seed);
    return table;
}

void route_table_free(struct route_table *table)
{
    struct map_cursor cursor = {0};
    struct route_exchange *exchange;

    while ((exchange = map_next(&table->exchanges, &cursor)))
        route_exchange_remove(table, exchange);
    ASSERT(map_count(&table->targets) == 0 && map_count(&table->identities) == 0);
    map_fini(&table->exchanges);
    map_fini(&table->targets);
    map_fini(&table->identities);
    free(table);
}

struct route_exchange *route_exchange_add(struct route_table *table, uint64_t id,
                                          enum exchange_type type)
{
    ASSERT(type < EXCHANGE_TYPES && !map_get_number(&table->exchanges, id));
    struct route_exchange *exchange = memory_new(sizeof *exchange);

    exchange->id = id;
    exchange->table = table;
    exchange->functions = types[type];
    list_init(&exchange->alternate_link);
    list_init(&exchange->alternate_users);
    exchange->functions->init(exchange);
    map_put_number(&table->exchanges, id, exchange);
    return exchange;
}

void route_exchange_remove(struct route_table *table, struct route_exchange *exchange)
{
    struct list *link;

    ASSERT(exchange->table == table);
    route_remove_target(table, exchange->id, NULL, NULL);
    route_remove_source(exchange);
    while ((link = list_first(&exchange->alternate_users)))
        route_set_alternate(CONTAINER_OF(link, struct route_exchange, alternate_link), NULL);
    route_set_alternate(exchange, NULL);
    exchange->functions->fini(exchange);
    map_remove_number(&table->exchanges, exchange->id);
    free(exchange->slots);
    free(exchange);
}

void route_set_alternate(struct route_exchange *exchange, struct route_exchange *alternate)
{
    ASSERT(!alternate || alternate->table == exchange->table);
    list_remove(&exchange->alternate_link);
    exchange->alternate = alternate;
    if (alternate)
        list_append(&alternate->alternate_users, &exchange->alternate_link);
}

uint64_t route_exchange_id(const struct route_exchange *exchange)
{
    return exchange->id;
}

size_t route_binding_count(const struct route_exchange *exchange)
{
    return exchange->binding_count;
}

/* ---- results ---- */

void route_result_init(struct route_result *result)
{
    *result = (struct route_result){0};
}

void route_result_fini(struct route_result *result)
{
    free(result->queues);
    route_result_init(result);
}

void route_result_clear(struct route_result *result)
{
    result->count = 0;
    result->added = 0;
    result->stamp = 0;
}

static void append(struct route_result *result, void *queue)
{
    if (result->count == result->capacity) {
        result->capacity = result->capacity ? 2 * result->capacity : 16;
        result->queues = memory_resize(result->queues, result->capacity, sizeof(void *));
    }
    result->queues[result->count++] = queue;
}

static bool contains(const struct route_result *result, const void *queue)
{
    for (size_t i = 0; i < result->count; i++)
        if (result->queues[i] == queue)
            return true;
    return false;
}

void route_result_add(struct route_result *result, void *queue)
{
    if (contains(result, queue))
        return;
    append(result, queue);
    result->added++;
}

/* ---- matching ---- */

static void follow(struct match *match, struct route_exchange *exchange)
{
    if (exchange->visited == match->stamp)
        return;
    exchange->visited = match->stamp;
    exchange->work_next = match->work;
    match->work = exchange;
}

void match_target(struct match *match, struct target *target)
{
    struct route_result *result = match->result;

    match->hit = true;
    if (target->is.exchange) {
        follow(match, target->is.exchange);
        return;
    }
    if (target->stamp == result->stamp)
        return;
    target->stamp = result->stamp;
    /* queues that came by route_result_add() have no stamp */
    if (result->added == 0 || !contains(result, target->is.queue))
        append(result, target->is.queue);
}

static void match_exchange(struct match *match, struct route_exchange *exchange,
                           const struct slice *keys, size_t count)
{
    match->hit = false;
    for (size_t i = 0; i < (exchange->functions->by_key ? count : 1); i++)
        exchange->functions->match(exchange, keys[i], match);
    if (!match->hit && exchange->alternate)
        follow(match, exchange->alternate);
}

void route_match_keys(struct route_table *table, struct route_exchange *exchange,
                      const struct slice *keys, size_t count, struct slice headers,
                      struct route_result *result)
{
    ASSERT(count > 0 && exchange->table == table);
    if (result->stamp == 0)
        result->stamp = ++table->result_stamp;
    struct match match = {.result = result, .headers = headers, .stamp = ++table->match_stamp};

    follow(&match, exchange);
    while (match.work) {
        struct route_exchange *each = match.work;
        match.work = each->work_next;
        match_exchange(&match, each, keys, count);
    }
}

void route_match(struct route_table *table, struct route_exchange *exchange, struct slice key,
                 struct slice headers, struct route_result *result)
{
    route_match_keys(table, exchange, &key, 1, headers, result);
}
