#include "message/amqp091_properties.h"

#include "base/assert.h"
#include "message/message.h"

#include <stddef.h>

#define FLAGS_UNKNOWN                                                                              \
    3u /* bit 1 has no property; bit 0 announces further flags, which none have                    \
        */

static struct slice read_short_text(struct reader *r)
{
    return read_bytes(r, read_u8(r));
}

int amqp091_properties_parse(struct slice bytes, struct amqp091_properties *p)
{
    struct reader r = reader_of(bytes);

    *p = (struct amqp091_properties){.flags = read_be16(&r)};
    if (p->flags & FLAGS_UNKNOWN)
        return E_INVALID;
    if (p->flags & AMQP091_CONTENT_TYPE)
        p->content_type = read_short_text(&r);
    if (p->flags & AMQP091_CONTENT_ENCODING)
        p->content_encoding = read_short_text(&r);
    if (p->flags & AMQP091_HEADERS)
        p->headers = read_bytes(&r, read_be32(&r));
    if (p->flags & AMQP091_DELIVERY_MODE)
        p->delivery_mode = read_u8(&r);
    if (p->flags & AMQP091_PRIORITY)
        p->priority = read_u8(&r);
    if (p->flags & AMQP091_CORRELATION_ID)
        p->correlation_id = read_short_text(&r);
    if (p->flags & AMQP091_REPLY_TO)
        p->reply_to = read_short_text(&r);
    if (p->flags & AMQP091_EXPIRATION)
        p->expiration = read_short_text(&r);
    if (p->flags & AMQP091_MESSAGE_ID)
        p->message_id = read_short_text(&r);
    if (p->flags & AMQP091_TIMESTAMP)
        p->timestamp = read_be64(&r);
    if (p->flags & AMQP091_TYPE)
        p->type = read_short_text(&r);
    if (p->flags & AMQP091_USER_ID)
        p->user_id = read_short_text(&r);
    if (p->flags & AMQP091_APP_ID)
        p->app_id = read_short_text(&r);
    if (p->flags & AMQP091_CLUSTER_ID)
        p->cluster_id = read_short_text(&r);
    return r.failed || reader_left(&r) > 0 ? E_INVALID : 0;
}

size_t amqp091_properties_size(const struct amqp091_properties *p)
{
    size_t size = 2;

    size += p->flags & AMQP091_CONTENT_TYPE ? 1 + p->content_type.size : 0;
    size += p->flags & AMQP091_CONTENT_ENCODING ? 1 + p->content_encoding.size : 0;
    size += p->flags & AMQP091_HEADERS ? 4 + p->headers.size : 0;
    size += p->flags & AMQP091_DELIVERY_MODE ? 1 : 0;
    size += p->flags & AMQP091_PRIORITY ? 1 : 0;
    size += p->flags & AMQP091_CORRELATION_ID ? 1 + p->correlation_id.size : 0;
    size += p->flags & AMQP091_REPLY_TO ? 1 + p->reply_to.size : 0;
    size += p->flags & AMQP091_EXPIRATION ? 1 + p->expiration.size : 0;
    size += p->flags & AMQP091_MESSAGE_ID ? 1 + p->message_id.size : 0;
    size += p->flags & AMQP091_TIMESTAMP ? 8 : 0;
    size += p->flags & AMQP091_TYPE ? 1 + p->type.size : 0;
    size += p->flags & AMQP091_USER_ID ? 1 + p->user_id.size : 0;
    size += p->flags & AMQP091_APP_ID ? 1 + p->app_id.size : 0;
    size += p->flags & AMQP091_CLUSTER_ID ? 1 + p->cluster_id.size : 0;
    return size;
}

static void write_short_text(struct writer *w, struct slice text)
{
    ASSERT(text.size <= 255);
    write_u8(w, (uint8_t)text.size);
    write_bytes(w, text);
}

void amqp091_properties_write(struct writer *w, const struct amqp091_properties *p)
{
    ASSERT(!(p->flags & FLAGS_UNKNOWN));
    write_be16(w, p->flags);
    if (p->flags & AMQP091_CONTENT_TYPE)
        write_short_text(w, p->content_type);
    if (p->flags & AMQP091_CONTENT_ENCODING)
        write_short_text(w, p->content_encoding);
    if (p->flags & AMQP091_HEADERS) {
        ASSERT(p->headers.size <= UINT32_MAX);
        write_be32(w, (uint32_t)p->headers.size);
        write_bytes(w, p->headers);
    }
    if (p->flags & AMQP091_DELIVERY_MODE)
        write_u8(w, p->delivery_mode);
    if (p->flags & AMQP091_PRIORITY)
        write_u8(w, p->priority);
    if (p->flags & AMQP091_CORRELATION_ID)
        write_short_text(w, p->correlation_id);
    if (p->flags & AMQP091_REPLY_TO)
        write_short_text(w, p->reply_to);
    if (p->flags & AMQP091_EXPIRATION)
        write_short_text(w, p->expiration);
    if (p->flags & AMQP091_MESSAGE_ID)
        write_short_text(w, p->message_id);
    if (p->flags & AMQP091_TIMESTAMP)
        write_be64(w, p->timestamp);
    if (p->flags & AMQP091_TYPE)
        write_short_text(w, p->type);
    if (p->flags & AMQP091_USER_ID)
        write_short_text(w, p->user_id);
    if (p->flags & AMQP091_APP_ID)
        write_short_text(w, p->app_id);
    if (p->flags & AMQP091_CLUSTER_ID)
        write_short_text(w, p->cluster_id);
}

bool amqp091_properties_headers(struct slice bytes, struct slice *headers)
{
    struct reader r = reader_of(bytes);
    uint16_t flags = read_be16(&r);

    if (!(flags & AMQP091_HEADERS))
        return false;
    if (flags & AMQP091_CONTENT_TYPE)
        read_short_text(&r);
    if (flags & AMQP091_CONTENT_ENCODING)
        read_short_text(&r);
    *headers = read_bytes(&r, read_be32(&r));
    return !r.failed;
}

/* ---- by name ---- */

enum kind { KIND_TEXT, KIND_OCTET, KIND_TIME };

static const struct property {
    const char *name;
    uint16_t flag;
    uint8_t kind;
    size_t place; /* in the struct */
} all[] = {
    {"content_type", AMQP091_CONTENT_TYPE, KIND_TEXT,
     offsetof(struct amqp091_properties, content_type)},
    {"content_encoding", AMQP091_CONTENT_ENCODING, KIND_TEXT,
     offsetof(struct amqp091_properties, content_encoding)},
    {"delivery_mode", AMQP091_DELIVERY_MODE, KIND_OCTET,
     offsetof(struct amqp091_properties, delivery_mode)},
    {"priority", AMQP091_PRIORITY, KIND_OCTET, offsetof(struct amqp091_properties, priority)},
    {"correlation_id", AMQP091_CORRELATION_ID, KIND_TEXT,
     offsetof(struct amqp091_properties, correlation_id)},
    {"reply_to", AMQP091_REPLY_TO, KIND_TEXT, offsetof(struct amqp091_properties, reply_to)},
    {"expiration", AMQP091_EXPIRATION, KIND_TEXT, offsetof(struct amqp091_properties, expiration)},
    {"message_id", AMQP091_MESSAGE_ID, KIND_TEXT, offsetof(struct amqp091_properties, message_id)},
    {"timestamp", AMQP091_TIMESTAMP, KIND_TIME, offsetof(struct amqp091_properties, timestamp)},
    {"type", AMQP091_TYPE, KIND_TEXT, offsetof(struct amqp091_properties, type)},
    {"user_id", AMQP091_USER_ID, KIND_TEXT, offsetof(struct amqp091_properties, user_id)},
    {"app_id", AMQP091_APP_ID, KIND_TEXT, offsetof(struct amqp091_properties, app_id)},
    {"cluster_id", AMQP091_CLUSTER_ID, KIND_TEXT, offsetof(struct amqp091_properties, cluster_id)},
};

uint8_t amqp091_message_flags(const struct amqp091_properties *p)
{
    bool is_persistent = (p->flags & AMQP091_DELIVERY_MODE) && p->delivery_mode == 2;

    return (uint8_t)((is_persistent ? MESSAGE_PERSISTENT : 0) |
                     (p->flags & AMQP091_PRIORITY ? MESSAGE_HAS_PRIORITY : 0));
}

bool amqp091_properties_next(const struct amqp091_properties *p, unsigned *at, struct field *field)
{
    while (*at < sizeof all / sizeof all[0] && !(p->flags & all[*at].flag))
        ++*at;
    if (*at == sizeof all / sizeof all[0])
        return false;
    const struct property *property = &all[(*at)++];
    const uint8_t *place = (const uint8_t *)p + property->place;
    *field = (struct field){.name = slice_text(property->name)};
    if (property->kind == KIND_TEXT) {
        field->type = 'S';
        memcpy(&field->value.bytes, place, sizeof field->value.bytes);
    } else if (property->kind == KIND_OCTET) {
        field->type = 'l';
        field->value.integer = *place;
    } else {
        field->type = 'T';
        memcpy(&field->value.integer, place, sizeof field->value.integer);
    }
    return true;
}

static const struct property *find_property(struct slice name)
{
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++) {
        if (slice_is(name, all[i].name))
            return &all[i];
    }
    return NULL;
}

int amqp091_properties_set(struct amqp091_properties *p, const struct field *field)
{
    const struct property *property = find_property(field->name);
    int64_t number = field->value.integer;

    if (!property)
        return E_NOT_FOUND;
    uint8_t *place = (uint8_t *)p + property->place;
    if (property->kind == KIND_TEXT) {
        if (field->type != 'S' || field->value.bytes.size > 255)
            return E_INVALID;
        memcpy(place, &field->value.bytes, sizeof field->value.bytes);
    } else if (property->kind == KIND_OCTET) {
        if (!field_is_integer(field) || number < 0 || number > 255)
            return E_INVALID;
        *place = (uint8_t)number;
    } else {
        if ((!field_is_integer(field) && field->type != 'T') || number < 0)
            return E_INVALID;
        memcpy(place, &number, sizeof number);
    }
    p->flags |= property->flag;
    return 0;
}

/* ---- x-delay ---- */

static uint64_t digits(struct slice text)
{
    uint64_t value = 0;

    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9' || value > AMQP091_DELAY_MS_MAX)
            return 0;
        value = value * 10 + (uint64_t)(text.data[i] - '0');
    }
    return value;
}

uint64_t amqp091_delay_ms(struct slice headers)
{
    struct field field;
    uint64_t delay_ms = 0;

    if (!fields_find(headers, slice_text("x-delay"), &field))
        return 0;
    if (field_is_integer(&field) && field.value.integer > 0)
        delay_ms = (uint64_t)field.value.integer;
    else if ((field.type == 'f' || field.type == 'd') && field.value.real >= 1 &&
             field.value.real <= AMQP091_DELAY_MS_MAX)
        delay_ms = (uint64_t)field.value.real;
    else if (field.type == 'S')
        delay_ms = digits(field.value.bytes);
    return delay_ms <= AMQP091_DELAY_MS_MAX ? delay_ms : 0;
}

/* An integer of so many bytes, the first one first; unsigned types become the signed one, if that
 * has the number. */
static void negate(uint8_t *type, const struct field *field)
{
    static const struct {
        char type, becomes;
        uint8_t size;
    } types[] = {{'b', 'b', 1}, {'B', 'b', 1}, {'s', 's', 2}, {'u', 's', 2},
                 {'I', 'I', 4}, {'i', 'I', 4}, {'l', 'l', 8}, {'L', 'L', 8}};

    if (field->type == 'f' || field->type == 'd') {
        type[1] ^= 0x80;
        return;
    }
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (types[i].type != field->type || field->value.integer >> (8 * types[i].size - 1) > 0)
            continue;
        uint64_t value = 0 - (uint64_t)field->value.integer;
        type[0] = (uint8_t)types[i].becomes;
        for (uint8_t at = types[i].size; at > 0; at--, value >>= 8)
            type[at] = (uint8_t)value;
    }
}

void amqp091_delay_spend(uint8_t *properties, size_t size)
{
    struct slice headers;
    struct field field;

    if (!amqp091_properties_headers(slice_of(properties, size), &headers) ||
        amqp091_delay_ms(headers) == 0 || !fields_find(headers, slice_text("x-delay"), &field))
        return;
    negate(properties + (field.name.data + field.name.size - properties), &field);
}
