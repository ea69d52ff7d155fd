#include "protocols/http/json.h"

#include "base/memory.h"
#include "message/fields.h"

#include <math.h>
#include <stdlib.h>

/* ---- texts ---- */

/* The size of the UTF-8 character at the start; 0: there is none. */
static size_t character_size(const uint8_t *at, size_t left)
{
    static const uint32_t least[] = {0, 0, 0x80, 0x800, 0x10000};
    size_t size = at[0] < 0x80       ? 1
                  : at[0] >> 5 == 6  ? 2
                  : at[0] >> 4 == 14 ? 3
                  : at[0] >> 3 == 30 ? 4
                                     : 0;
    uint32_t value = size == 1 ? at[0] : at[0] & (0xffu >> (size + 1));

    if (size == 0 || size > left)
        return 0;
    for (size_t i = 1; i < size; i++) {
        if ((at[i] & 0xc0) != 0x80)
            return 0;
        value = value << 6 | (at[i] & 0x3f);
    }
    bool is_surrogate = value >= 0xd800 && value <= 0xdfff;
    return value < least[size] || value > 0x10ffff || is_surrogate ? 0 : size;
}

static json_t *mended_text(struct slice text)
{
    char *mended = memory_new(text.size * 3 + 1);
    size_t size = 0;

    for (size_t at = 0; at < text.size;) {
        size_t part = character_size(text.data + at, text.size - at);
        if (part > 0) {
            memcpy(mended + size, text.data + at, part);
            size += part;
        } else {
            memcpy(mended + size, "\xef\xbf\xbd", 3);
            size += 3;
        }
        at += part > 0 ? part : 1;
    }
    json_t *value = json_stringn(mended, size);
    free(mended);
    return value;
}

json_t *http_json_text(struct slice text)
{
    json_t *value = json_stringn(text.data ? (const char *)text.data : "", text.size);

    return value ? value : mended_text(text);
}

/* ---- tables ---- */

static json_t *real_value(double real)
{
    return isfinite(real) ? json_real(real) : json_null();
}

static json_t *simple_value(const struct field *field)
{
    switch (field->type) {
    case 't':
        return json_boolean(field->value.boolean);
    case 'f':
    case 'd':
        return real_value(field->value.real);
    case 'S':
    case 'x':
        return http_json_text(field->value.bytes);
    case 'D':
        return real_value(field->value.decimal.value / pow(10, field->value.decimal.scale));
    case 'V':
        return json_null();
    default:
        return json_integer(field->value.integer);
    }
}

static void add(json_t *to, const struct field *field, json_t *value)
{
    char name[FIELD_NAME_MAX + 1];

    if (json_is_array(to)) {
        json_array_append_new(to, value);
        return;
    }
    memcpy(name, field->name.data, field->name.size);
    name[field->name.size] = 0;
    if (json_object_set_new(to, name, value) != 0) /* a name that is no UTF-8 */
        json_object_set_new(to, "\xef\xbf\xbd", json_null());
}

/* Tables and arrays inside each other, without recursion: their depth was checked with them. */
json_t *http_json_table(struct slice table)
{
    struct {
        struct reader reader;
        json_t *value;
    } levels[FIELDS_DEPTH_MAX + 2];
    size_t depth = 0;
    struct field field;
    json_t *whole = json_object();

    levels[0].reader = reader_of(table);
    levels[0].value = whole;
    for (;;) {
        json_t *to = levels[depth].value;
        bool is_there = json_is_array(to) ? fields_next_value(&levels[depth].reader, &field)
                                          : fields_next(&levels[depth].reader, &field);
        if (!is_there && depth == 0)
            return whole;
        if (!is_there) {
            depth--;
        } else if (field.type != 'F' && field.type != 'A') {
            add(to, &field, simple_value(&field));
        } else if (depth <= FIELDS_DEPTH_MAX) {
            json_t *inner = field.type == 'F' ? json_object() : json_array();
            add(to, &field, inner);
            depth++;
            levels[depth].reader = reader_of(field.value.bytes);
            levels[depth].value = inner;
        }
    }
}

/* ---- and back ---- */

struct level {
    const json_t *value; /* an object or an array */
    void *place;         /* in the object */
    size_t index;        /* in the array */
    size_t mark;
};

/* The next member of that level; false: there is none. */
static bool next_member(struct level *level, const char **name, const json_t **member)
{
    *name = NULL;
    if (json_is_array(level->value)) {
        *member = json_array_get(level->value, level->index++);
        return *member != NULL;
    }
    json_t *object = (json_t *)(uintptr_t)level->value;
    level->place = level->place ? json_object_iter_next(object, level->place)
                                : (level->index++ ? NULL : json_object_iter(object));
    if (!level->place)
        return false;
    *name = json_object_iter_key(level->place);
    *member = json_object_iter_value(level->place);
    return true;
}

static void write_simple(struct writer *writer, const char *name, const json_t *value)
{
    struct field field = {.name = name ? slice_text(name) : slice_of(NULL, 0)};

    if (json_is_string(value)) {
        field.type = 'S';
        field.value.bytes = slice_of(json_string_value(value), json_string_length(value));
    } else if (json_is_integer(value)) {
        field.type = 'l';
        field.value.integer = json_integer_value(value);
    } else if (json_is_real(value)) {
        field.type = 'd';
        field.value.real = json_real_value(value);
    } else if (json_is_boolean(value)) {
        field.type = 't';
        field.value.boolean = json_is_true(value);
    } else {
        field.type = 'V';
    }
    if (name)
        fields_put(writer, &field);
    else
        fields_put_value(writer, &field);
}

int http_json_write_table(const json_t *object, struct writer *writer)
{
    struct level levels[FIELDS_DEPTH_MAX + 1] = {{.value = object}};
    const char *name;
    const json_t *member;
    size_t depth = 0;

    while (!writer->failed) {
        if (!next_member(&levels[depth], &name, &member)) {
            if (depth == 0)
                return 0;
            fields_end(writer, levels[depth--].mark);
            continue;
        }
        if (name && strlen(name) > FIELD_NAME_MAX)
            return E_INVALID;
        if (!json_is_object(member) && !json_is_array(member)) {
            write_simple(writer, name, member);
            continue;
        }
        if (++depth > FIELDS_DEPTH_MAX)
            return E_INVALID;
        levels[depth] = (struct level){
            .value = member,
            .mark = fields_begin(writer, name, json_is_object(member) ? 'F' : 'A'),
        };
    }
    return E_LIMIT;
}

/* ---- answers ---- */

void http_json_answer(struct exchange *exchange, unsigned status, json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT);

    json_decref(value);
    if (text)
        exchange_answer(exchange, status, "application/json", slice_text(text));
    else
        exchange_fail(exchange, 503, NULL, "there is no memory for the answer");
    free(text);
}

static int append(const char *bytes, size_t size, void *context)
{
    return http_text_append(context, slice_of(bytes, size));
}

void http_json_append(struct exchange *exchange, json_t *value)
{
    if (json_dump_callback(value, append, &exchange->page, JSON_COMPACT) != 0)
        exchange->page.failed = true;
    json_decref(value);
}

json_t *http_json_body(struct exchange *exchange)
{
    struct slice body = exchange->body;
    json_error_t error;

    if (body.size == 0)
        return json_object();
    json_t *value = json_loadb((const char *)body.data, body.size, JSON_REJECT_DUPLICATES, &error);
    if (!value) {
        exchange_fail(exchange, 400, NULL, error.text);
        return NULL;
    }
    if (!json_is_object(value)) {
        json_decref(value);
        exchange_fail(exchange, 400, NULL, "the body is no JSON object");
        return NULL;
    }
    return value;
}
