/*
 * Headers exchanges.
 *
 * A binding's arguments are compiled into conditions: a name that the message's headers must have,
 * with that value, or, where the argument is void, with any. `x-match` says whether all conditions
 * must hold or any one, and whether arguments whose names begin with `x-` are conditions too
 * (all-with-x, any-with-x). Without conditions, all holds and any does not.
 *
 * To match, each header of the message that some binding asks for is put beside that name, once;
 * then a condition is a look at its name. Values are equal when their type's class and value are:
 * integers of any width, texts and byte arrays.
 */
#include "route/route_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

/* A header's name that at least one condition asks for, and what the message at hand has there. */
struct header_name {
    uint64_t stamp; /* the match that set `field` */
    struct field field;
    uint32_t users;
    uint16_t key_size;
    uint8_t key[]; /* the name with its size in front, as in the table: so "" has a key, too */
};

struct conditions {
    bool any;
    uint32_t count;
    struct condition {
        struct header_name *name;
        struct field field; /* its bytes are in the binding */
    } at[];
};

static struct slice name_key(const struct field *field)
{
    return slice_of(field->name.data - 1, field->name.size + 1);
}

static struct header_name *name_take(struct headers_index *index, const struct field *field)
{
    struct slice key = name_key(field);
    struct header_name *name = map_get(&index->names, key);

    if (!name) {
        name = memory_new(sizeof *name + key.size);
        name->key_size = (uint16_t)key.size;
        memcpy(name->key, key.data, key.size);
        map_put(&index->names, slice_of(name->key, key.size), name);
    }
    name->users++;
    return name;
}

static void name_give(struct headers_index *index, struct header_name *name)
{
    ASSERT(name->users > 0);
    if (--name->users > 0)
        return;
    map_remove(&index->names, slice_of(name->key, name->key_size));
    free(name);
}

/* ---- compiling ---- */

struct mode {
    bool any, with_x;
};

static bool mode_parse(struct slice text, struct mode *mode)
{
    static const struct {
        const char *text;
        struct mode mode;
    } modes[] = {
        {"all", {false, false}},
        {"any", {true, false}},
        {"all-with-x", {false, true}},
        {"any-with-x", {true, true}},
    };

    for (size_t i = 0; i < sizeof modes / sizeof modes[0]; i++) {
        if (slice_is(text, modes[i].text)) {
            *mode = modes[i].mode;
            return true;
        }
    }
    return false;
}

static int headers_accept(struct slice key, struct slice arguments, struct failure *failure)
{
    struct field field;
    struct mode mode;
    char text[64];

    (void)key;
    if (!fields_find(arguments, slice_text("x-match"), &field))
        return 0;
    if (field.type != 'S')
        return fail(failure, E_INVALID,
                    "Invalid x-match field type %s (value %s); expected longstr",
                    field_type_name(&field), field_value_text(&field, text, sizeof text));
    if (!mode_parse(field.value.bytes, &mode))
        return fail(
            failure, E_INVALID,
            "Invalid x-match field value '%s'; expected all, any, all-with-x, or any-with-x",
            field_value_text(&field, text, sizeof text));
    return 0;
}

static bool is_condition(const struct field *field, struct mode mode)
{
    if (slice_is(field->name, "x-match"))
        return false;
    return mode.with_x || !slice_starts(field->name, "x-");
}

static struct conditions *compile(struct headers_index *index, struct slice arguments)
{
    struct mode mode = {false, false};
    struct slice text;
    struct field field;
    size_t count = 0;

    if (fields_text(arguments, "x-match", &text))
        (void)mode_parse(text, &mode);
    struct reader reader = reader_of(arguments);
    while (fields_next(&reader, &field))
        count += is_condition(&field, mode);
    struct conditions *conditions =
        memory_new(sizeof *conditions + count * sizeof conditions->at[0]);
    conditions->any = mode.any;
    reader = reader_of(arguments);
    while (fields_next(&reader, &field)) {
        if (is_condition(&field, mode))
            conditions->at[conditions->count++] =
                (struct condition){name_take(index, &field), field};
    }
    ASSERT(conditions->count == count);
    return conditions;
}

static void headers_init(struct route_exchange *exchange)
{
    exchange->index.headers.all = (struct binding_set){0};
    map_init_bytes(&exchange->index.headers.names, exchange->table->seed);
}

static void headers_fini(struct route_exchange *exchange)
{
    struct headers_index *index = &exchange->index.headers;

    ASSERT(index->all.count == 0 && map_count(&index->names) == 0);
    binding_set_fini(&index->all);
    map_fini(&index->names);
}

static void headers_add(struct route_exchange *exchange, struct binding *binding)
{
    struct headers_index *index = &exchange->index.headers;

    binding->compiled = compile(index, binding_arguments(binding));
    binding_set_add(&index->all, binding);
}

static void headers_remove(struct route_exchange *exchange, struct binding *binding)
{
    struct headers_index *index = &exchange->index.headers;
    struct conditions *conditions = binding->compiled;

    binding_set_remove(&index->all, binding);
    for (uint32_t i = 0; i < conditions->count; i++)
        name_give(index, conditions->at[i].name);
    free(conditions);
}

/* ---- matching ---- */

static bool is_bytes(uint8_t type)
{
    return type == 'S' || type == 'x';
}

static bool holds(const struct condition *condition, uint64_t stamp)
{
    const struct header_name *name = condition->name;

    if (name->stamp != stamp)
        return false;
    if (condition->field.type == 'V' || field_equal(&condition->field, &name->field))
        return true;
    return is_bytes(condition->field.type) && is_bytes(name->field.type) &&
           slice_equal(condition->field.value.bytes, name->field.value.bytes);
}

static bool all_or_any_hold(const struct conditions *conditions, uint64_t stamp)
{
    for (uint32_t i = 0; i < conditions->count; i++)
        if (holds(&conditions->at[i], stamp) == conditions->any)
            return conditions->any;
    return !conditions->any;
}

static void headers_match(struct route_exchange *exchange, struct slice key, struct match *match)
{
    struct headers_index *index = &exchange->index.headers;
    struct reader reader = reader_of(match->headers);
    struct field field;

    (void)key;
    while (map_count(&index->names) > 0 && fields_next(&reader, &field)) {
        struct header_name *name = map_get(&index->names, name_key(&field));
        if (name) {
            name->stamp = match->stamp;
            name->field = field; /* of two of a name the later counts */
        }
    }
    for (uint32_t i = 0; i < index->all.count; i++) {
        const struct set_entry *entry = &index->all.entries[i];
        if (all_or_any_hold(entry->binding->compiled, match->stamp))
            match_target(match, entry->target);
    }
}

static size_t headers_check(const struct route_exchange *exchange)
{
    const struct headers_index *index = &exchange->index.headers;
    struct map_cursor cursor = {0};
    const struct header_name *name;
    uint64_t users = 0, conditions = 0;

    while ((name = map_next(&index->names, &cursor))) {
        ASSERT(name->users > 0);
        users += name->users;
    }
    binding_set_check(&index->all, exchange);
    for (uint32_t i = 0; i < index->all.count; i++)
        conditions += ((struct conditions *)index->all.entries[i].binding->compiled)->count;
    ASSERT(users == conditions);
    return index->all.count;
}

const struct exchange_functions headers_functions = {
    .name = "headers",
    .init = headers_init,
    .fini = headers_fini,
    .add = headers_add,
    .remove = headers_remove,
    .match = headers_match,
    .accept = headers_accept,
    .check = headers_check,
};
