/* Bindings: made, found again, removed; and the sets that exchange types keep them in. */
#include "route/route_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

/* ---- sets ---- */

void binding_set_fini(struct binding_set *set)
{
    ASSERT(set->count == 0);
    free(set->entries);
    *set = (struct binding_set){0};
}

void binding_set_add(struct binding_set *set, struct binding *binding)
{
    ASSERT(set->count < UINT32_MAX / 2);
    if (set->count == set->capacity) {
        set->capacity = set->capacity ? 2 * set->capacity : 1; /* most sets stay at one */
        set->entries = memory_resize(set->entries, set->capacity, sizeof *set->entries);
    }
    binding->set_index = set->count;
    set->entries[set->count++] = (struct set_entry){binding->target, binding};
}

/* The last takes the place. */
void binding_set_remove(struct binding_set *set, struct binding *binding)
{
    ASSERT(binding->set_index < set->count);
    ASSERT(set->entries[binding->set_index].binding == binding);
    struct set_entry last = set->entries[--set->count];
    set->entries[binding->set_index] = last;
    last.binding->set_index = binding->set_index;
    if (set->count < set->capacity / 4) {
        set->capacity /= 2;
        set->entries = memory_resize(set->entries, set->capacity, sizeof *set->entries);
    }
}

/* ---- targets ---- */

static struct target *target_of(struct route_table *table, struct route_target is)
{
    struct target *target = map_get_number(&table->targets, is.id);

    if (!target) {
        target = memory_new(sizeof *target);
        target->is = is;
        list_init(&target->bindings);
        map_put_number(&table->targets, is.id, target);
    }
    ASSERT(target->is.exchange == is.exchange && target->is.queue == is.queue);
    return target;
}

/* ---- slots: the order in which bindings were made ---- */

static void slots_compact(struct route_exchange *exchange)
{
    size_t kept = 0;

    for (size_t i = 0; i < exchange->slot_count; i++) {
        struct binding *binding = exchange->slots[i];
        if (binding) {
            binding->slot = kept;
            exchange->slots[kept++] = binding;
        }
    }
    exchange->slot_count = kept;
}

static void slots_add(struct route_exchange *exchange, struct binding *binding)
{
    if (exchange->slot_count == exchange->slot_capacity) {
        if (exchange->binding_count <= exchange->slot_count / 2)
            slots_compact(exchange);
        if (exchange->slot_count == exchange->slot_capacity) {
            exchange->slot_capacity = exchange->slot_capacity ? 2 * exchange->slot_capacity : 4;
            exchange->slots =
                memory_resize(exchange->slots, exchange->slot_capacity, sizeof(struct binding *));
        }
    }
    binding->slot = exchange->slot_count;
    exchange->slots[exchange->slot_count++] = binding;
    exchange->binding_count++;
}

static void slots_remove(struct route_exchange *exchange, struct binding *binding)
{
    ASSERT(exchange->slots[binding->slot] == binding);
    exchange->slots[binding->slot] = NULL;
    exchange->binding_count--;
    while (exchange->slot_count > 0 && !exchange->slots[exchange->slot_count - 1])
        exchange->slot_count--;
}

bool route_binding_next(const struct route_exchange *exchange, size_t *position,
                        struct route_binding_view *view)
{
    while (*position < exchange->slot_count) {
        const struct binding *binding = exchange->slots[(*position)++];
        if (binding) {
            *view = (struct route_binding_view){binding->target->is, binding_key(binding),
                                                binding_arguments(binding)};
            return true;
        }
    }
    return false;
}

/* ---- identity: equal bindings have equal identities, and then equal arguments ---- */

struct identity {
    uint8_t bytes[IDENTITY_SIZE + UINT8_MAX];
    size_t size;
};

static void identity_of(struct identity *identity, const struct route_exchange *source,
                        uint64_t target_id, struct slice key, struct slice arguments)
{
    ASSERT(key.size <= ROUTE_KEY_MAX);
    struct writer w = writer_of(identity->bytes, sizeof identity->bytes);
    write_le64(&w, source->id);
    write_le64(&w, target_id);
    write_le64(&w, fields_hash(arguments, source->table->seed));
    write_bytes(&w, key);
    identity->size = writer_size(&w);
}

static struct binding *find(const struct route_table *table, const struct identity *identity,
                            struct slice arguments)
{
    struct binding *binding =
        map_get(&table->identities, slice_of(identity->bytes, identity->size));
    struct slice differs;

    while (binding && !fields_equal(binding_arguments(binding), arguments, &differs))
        binding = binding->next_equal;
    return binding;
}

static void chain_add(struct route_table *table, struct binding *binding)
{
    struct slice identity = binding_identity(binding);
    struct binding *first = map_get(&table->identities, identity);

    if (first) {
        binding->next_equal = first->next_equal;
        first->next_equal = binding;
    } else {
        map_put(&table->identities, identity, binding);
    }
}

static void chain_remove(struct route_table *table, struct binding *binding)
{
    struct slice identity = binding_identity(binding);
    struct binding *before = map_get(&table->identities, identity);

    if (before != binding) {
        while (before->next_equal != binding)
            before = before->next_equal;
        before->next_equal = binding->next_equal;
        return;
    }
    map_remove(&table->identities, identity);
    if (binding->next_equal) /* its bytes are the key now */
        map_put(&table->identities, binding_identity(binding->next_equal), binding->next_equal);
}

/* ---- making and removing ---- */

bool route_bind(struct route_exchange *exchange, struct route_target target, struct slice key,
                struct slice arguments)
{
    struct route_table *table = exchange->table;
    struct identity identity;

    ASSERT(arguments.size <= UINT32_MAX);
    ASSERT(!target.exchange || target.exchange->id == target.id);
    identity_of(&identity, exchange, target.id, key, arguments);
    if (find(table, &identity, arguments))
        return false;
    struct binding *binding = memory_new(sizeof *binding + identity.size + arguments.size);
    binding->source = exchange;
    binding->key_size = (uint16_t)key.size;
    binding->arguments_size = (uint32_t)arguments.size;
    memcpy(binding->bytes, identity.bytes, identity.size);
    if (arguments.size)
        memcpy(binding->bytes + identity.size, arguments.data, arguments.size);
    binding->target = target_of(table, target);
    list_append(&binding->target->bindings, &binding->by_target);
    chain_add(table, binding);
    slots_add(exchange, binding);
    exchange->functions->add(exchange, binding);
    return true;
}

static void remove_binding(struct binding *binding)
{
    struct route_exchange *exchange = binding->source;
    struct route_table *table = exchange->table;
    struct target *target = binding->target;

    exchange->functions->remove(exchange, binding);
    slots_remove(exchange, binding);
    chain_remove(table, binding);
    list_remove(&binding->by_target);
    if (list_empty(&target->bindings)) {
        map_remove_number(&table->targets, target->is.id);
        free(target);
    }
    free(binding);
}

bool route_unbind(struct route_exchange *exchange, struct route_target target, struct slice key,
                  struct slice arguments)
{
    struct identity identity;

    identity_of(&identity, exchange, target.id, key, arguments);
    struct binding *binding = find(exchange->table, &identity, arguments);
    if (!binding)
        return false;
    remove_binding(binding);
    return true;
}

void route_remove_target(struct route_table *table, uint64_t target_id,
                         void (*removed)(void *context, struct route_exchange *source,
                                         struct slice key, struct slice arguments),
                         void *context)
{
    struct target *target = map_get_number(&table->targets, target_id);
    bool last = !target;

    while (!last) {
        struct binding *binding =
            CONTAINER_OF(list_first(&target->bindings), struct binding, by_target);
        last = target->bindings.next == target->bindings.previous;
        if (removed)
            removed(context, binding->source, binding_key(binding), binding_arguments(binding));
        remove_binding(binding); /* frees the target with the last one */
    }
}

void route_remove_source(struct route_exchange *exchange)
{
    while (exchange->slot_count > 0)
        remove_binding(exchange->slots[exchange->slot_count - 1]);
}

/* ---- invariants ---- */

void binding_set_check(const struct binding_set *set, const struct route_exchange *exchange)
{
    ASSERT(set->count <= set->capacity);
    for (uint32_t i = 0; i < set->count; i++) {
        const struct binding *binding = set->entries[i].binding;
        ASSERT(binding->set_index == i && binding->source == exchange);
        ASSERT(set->entries[i].target == binding->target);
    }
}

static void exchange_check(const struct route_table *table, const struct route_exchange *exchange)
{
    size_t count = 0;

    ASSERT(exchange->table == table && exchange->visited <= table->match_stamp);
    ASSERT(exchange->slot_count == 0 || exchange->slots[exchange->slot_count - 1]);
    for (size_t i = 0; i < exchange->slot_count; i++) {
        const struct binding *binding = exchange->slots[i];
        if (!binding)
            continue;
        count++;
        ASSERT(binding->slot == i && binding->source == exchange);
        ASSERT(map_get_number(&table->targets, binding->target->is.id) == binding->target);
        struct identity identity;
        identity_of(&identity, exchange, binding->target->is.id, binding_key(binding),
                    binding_arguments(binding));
        ASSERT(find(table, &identity, binding_arguments(binding)) == binding);
    }
    ASSERT(count == exchange->binding_count);
    ASSERT(exchange->functions->check(exchange) == count);
    ASSERT(!exchange->alternate || list_linked(&exchange->alternate_link));
    LIST_EACH (&exchange->alternate_users, link)
        ASSERT(CONTAINER_OF(link, struct route_exchange, alternate_link)->alternate == exchange);
}

static size_t target_check(const struct route_table *table, const struct target *target)
{
    size_t count = 0;

    ASSERT(!list_empty(&target->bindings) && target->stamp <= table->result_stamp);
    ASSERT(!target->is.exchange ||
           map_get_number(&table->exchanges, target->is.id) == target->is.exchange);
    LIST_EACH (&target->bindings, link) {
        ASSERT(CONTAINER_OF(link, struct binding, by_target)->target == target);
        count++;
    }
    return count;
}

void route_table_check(const struct route_table *table)
{
    struct map_cursor cursor = {0};
    const struct route_exchange *exchange;
    const struct target *target;
    size_t from_exchanges = 0, from_targets = 0;

    while ((exchange = map_next(&table->exchanges, &cursor))) {
        exchange_check(table, exchange);
        from_exchanges += exchange->binding_count;
    }
    cursor = (struct map_cursor){0};
    while ((target = map_next(&table->targets, &cursor)))
        from_targets += target_check(table, target);
    ASSERT(from_exchanges == from_targets);
}
