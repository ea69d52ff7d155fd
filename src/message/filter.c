#include "message/filter.h"

#include <inttypes.h>
#include <stdio.h>

/* What stands behind the prefix of a condition's name. */
static bool name_of(struct slice condition, const char *prefix, struct slice *name)
{
    size_t size = strlen(prefix);

    if (!slice_starts(condition, prefix) || condition.size == size)
        return false;
    *name = slice_of(condition.data + size, condition.size - size);
    return true;
}

static bool is_known(struct slice condition)
{
    struct slice name;

    return name_of(condition, "header.", &name) || name_of(condition, "property.", &name) ||
           slice_is(condition, "exchange") || slice_is(condition, "routing_key") ||
           slice_is(condition, "death.queue") || slice_is(condition, "death.reason");
}

int filter_check(struct slice conditions, struct failure *failure)
{
    struct reader reader = reader_of(conditions);
    struct field field;
    unsigned count = 0;

    if (conditions.size > FILTER_BYTES_MAX)
        return fail(failure, E_LIMIT, "the conditions are longer than %u bytes", FILTER_BYTES_MAX);
    while (fields_next(&reader, &field)) {
        if (++count > FILTER_CONDITIONS_MAX)
            return fail(failure, E_LIMIT, "more than %u conditions", FILTER_CONDITIONS_MAX);
        if (!is_known(field.name) || field.type != 'S')
            return fail(failure, E_INVALID, "no condition '%.*s'", SLICE_ARGS(field.name));
    }
    return reader.failed ? fail(failure, E_INVALID, "the conditions cannot be read") : 0;
}

static bool field_is(const struct field *field, struct slice text)
{
    char number[32];

    switch (field->type) {
    case 'S':
    case 'x':
        return slice_equal(field->value.bytes, text);
    case 't':
        return slice_is(text, field->value.boolean ? "true" : "false");
    case 'f':
    case 'd':
        snprintf(number, sizeof number, "%.15g", field->value.real);
        return slice_is(text, number);
    case 'A':
    case 'F':
    case 'V':
    case 'D':
        return false;
    default:
        snprintf(number, sizeof number, "%" PRId64, field->value.integer);
        return slice_is(text, number);
    }
}

static bool has_property(const struct message *message, struct slice name, struct slice text)
{
    struct field field;
    unsigned at = 0;

    while (message_format(message)->next_property(message, &at, &field)) {
        if (slice_equal(field.name, name))
            return field_is(&field, text);
    }
    return false;
}

static bool holds(const struct field *condition, const struct message *message)
{
    struct slice text = condition->value.bytes, name;
    struct message_origin origin;
    struct field field;

    if (name_of(condition->name, "header.", &name))
        return message_format(message)->header(message, name, &field) && field_is(&field, text);
    if (name_of(condition->name, "property.", &name))
        return has_property(message, name, text);
    if (slice_is(condition->name, "exchange"))
        return slice_equal(message_exchange(message), text);
    if (slice_is(condition->name, "routing_key"))
        return slice_equal(message_key(message), text);
    if (!message_format(message)->origin(message, &origin))
        return false;
    return slice_equal(slice_is(condition->name, "death.queue") ? origin.queue : origin.reason,
                       text);
}

bool filter_accepts(const struct message_filter *filter, const struct message *message)
{
    struct reader reader = reader_of(filter->conditions);
    struct field condition;

    if (message->published_at_ms < filter->since_ms ||
        (filter->until_ms && message->published_at_ms >= filter->until_ms))
        return false;
    while (fields_next(&reader, &condition)) {
        if (!holds(&condition, message))
            return false;
    }
    return true;
}
