#include "message/message.h"

#include "base/memory.h"
#include "message/amqp091_dead_letter.h"
#include "message/amqp091_properties.h"

#define CONTENT_VERSION 1u
#define FLAGS_KNOWN                                                                                \
    (MESSAGE_PERSISTENT | MESSAGE_DEAD_LETTER | MESSAGE_WAITS | MESSAGE_HAS_PRIORITY)
#define WAITS_SIZE sizeof(uint64_t)

_Static_assert(sizeof(struct message) == 56, "it is paid for each message in memory");
_Static_assert(6 + 5 * VARINT_SIZE_MAX <= 64, "see MESSAGE_HEAD_MAX");

/* ---- making ---- */

static uint8_t *append(uint8_t *to, struct slice s)
{
    if (s.data)
        memcpy(to, s.data, s.size);
    return to + s.size;
}

/* A body too large to be inline, with a reference for the message. NULL: no memory. */
static struct buffer *own_body(const struct message_parts *parts)
{
    if (parts->body_buffer)
        return buffer_ref(parts->body_buffer);
    ASSERT(parts->body.data);
    struct buffer *buffer = buffer_new(parts->body.size);
    if (!buffer)
        return NULL;
    memcpy(buffer->data, parts->body.data, parts->body.size);
    buffer->size = (uint32_t)parts->body.size;
    return buffer;
}

static size_t bytes_size(const struct message_parts *parts)
{
    return parts->exchange.size + parts->key.size + parts->properties.size +
           (parts->not_before_ms ? WAITS_SIZE : 0) +
           (parts->body.size > MESSAGE_INLINE_MAX ? 0 : parts->body.size);
}

static void fill(struct message *m, const struct message_parts *parts)
{
    *m = (struct message){
        .references = 1,
        .format = parts->format,
        .flags =
            (uint8_t)((parts->flags & ~MESSAGE_WAITS) | (parts->not_before_ms ? MESSAGE_WAITS : 0)),
        .priority = parts->priority,
        .exchange_size = (uint8_t)parts->exchange.size,
        .key_size = (uint8_t)parts->key.size,
        .properties_size = (uint32_t)parts->properties.size,
        .body_size = (uint32_t)parts->body.size,
        .bytes_size = (uint32_t)bytes_size(parts),
        .published_at_ms = parts->published_at_ms,
        .expires_at_ms = parts->expires_at_ms,
    };
    uint8_t *to = append(m->bytes, parts->exchange);
    to = append(to, parts->key);
    append(to, parts->properties);
    if (parts->not_before_ms)
        store_le64(to + parts->properties.size, parts->not_before_ms);
}

struct message *message_new(struct account *account, const struct message_parts *parts)
{
    ASSERT(parts->format > 0 && parts->format < FORMATS);
    ASSERT(parts->exchange.size <= MESSAGE_ADDRESS_MAX && parts->key.size <= MESSAGE_ADDRESS_MAX);
    ASSERT(parts->properties.size <= MESSAGE_PROPERTIES_MAX && parts->body.size <= UINT32_MAX);

    bool apart = parts->body.size > MESSAGE_INLINE_MAX;
    size_t size = sizeof(struct message) + bytes_size(parts);
    size_t cost = size;
    if (apart)
        cost += buffer_cost(parts->body_buffer ? parts->body_buffer->capacity : parts->body.size);
    if (account_charge(account, cost) != 0)
        return NULL;
    struct message *m = stock_take(account->stock, size);
    if (!m)
        goto uncharge;
    fill(m, parts);
    m->account = account;
    if (apart) {
        m->body = own_body(parts);
        if (!m->body)
            goto free_message;
    } else if (parts->body.data) {
        append(message_body_to_fill(m), parts->body);
    }
    return m;

free_message:
    stock_give(account->stock, m, size);
uncharge:
    account_release(account, cost);
    return NULL;
}

struct message *message_copy(const struct message *lent)
{
    size_t size = message_room_size(lent);

    ASSERT(lent->references == 0 && lent->account);
    struct message *m = stock_take(lent->account->stock, size);
    if (!m)
        return NULL;
    memcpy(m, lent, size);
    m->references = 1;
    if (m->body)
        buffer_ref(m->body);
    account_add(m->account, message_footprint(m));
    return m;
}

uint8_t *message_body_to_fill(struct message *m)
{
    ASSERT(!m->body && m->references == 1);
    return m->bytes + m->bytes_size - m->body_size;
}

uint8_t *message_properties_to_fill(struct message *m)
{
    ASSERT(m->references == 1);
    return m->bytes + m->exchange_size + m->key_size;
}

void message_free(struct message *m)
{
    struct account *account = m->account;

    account_release(account, message_footprint(m));
    buffer_unref(m->body);
    stock_give(account->stock, m, message_room_size(m));
}

/* ---- as stored: the table is in the header ---- */

size_t message_head_size(const struct message *m)
{
    uint64_t not_before_ms = message_not_before_ms(m);

    return 6 + varint_size(m->published_at_ms) + varint_size(m->expires_at_ms) +
           (not_before_ms ? varint_size(not_before_ms) : 0) + varint_size(m->properties_size) +
           varint_size(m->body_size) + m->exchange_size + m->key_size + m->properties_size;
}

static uint8_t *put_varint(uint8_t *to, uint64_t v)
{
    for (; v >= 0x80; v >>= 7)
        *to++ = (uint8_t)(v | 0x80);
    *to++ = (uint8_t)v;
    return to;
}

/* For each message in the log: so its room is asked for once, and then filled. */
void message_encode_head(const struct message *m, struct writer *writer)
{
    size_t size = message_head_size(m);
    uint8_t *start = writer_take(writer, size), *to = start;

    if (!start)
        return;
    *to++ = CONTENT_VERSION;
    *to++ = m->format;
    *to++ = m->flags;
    *to++ = m->priority;
    to = put_varint(to, m->published_at_ms);
    to = put_varint(to, m->expires_at_ms);
    if (m->flags & MESSAGE_WAITS)
        to = put_varint(to, message_not_before_ms(m));
    *to++ = m->exchange_size;
    *to++ = m->key_size;
    to = put_varint(to, m->properties_size);
    to = put_varint(to, m->body_size);
    /* exchange, key and properties stand behind each other here, too */
    to =
        append(to, slice_of(m->bytes, (size_t)m->exchange_size + m->key_size + m->properties_size));
    ASSERT((size_t)(to - start) == size);
}

int message_decode(struct account *account, struct slice content, struct message **message)
{
    struct reader r = reader_of(content);
    struct message_parts parts = {0};

    uint8_t version = read_u8(&r);
    if (!r.failed && version != CONTENT_VERSION)
        return E_VERSION;
    parts.format = read_u8(&r);
    parts.flags = read_u8(&r);
    parts.priority = read_u8(&r);
    parts.published_at_ms = read_varint(&r);
    parts.expires_at_ms = read_varint(&r);
    if (parts.flags & MESSAGE_WAITS)
        parts.not_before_ms = read_varint(&r);
    size_t exchange_size = read_u8(&r), key_size = read_u8(&r);
    uint64_t properties_size = read_varint(&r), body_size = read_varint(&r);
    parts.exchange = read_bytes(&r, exchange_size);
    parts.key = read_bytes(&r, key_size);
    parts.properties = read_bytes(&r, properties_size);
    parts.body = read_bytes(&r, body_size);
    if (r.failed || reader_left(&r) > 0 || parts.format < 1 || parts.format >= FORMATS ||
        (parts.flags & ~FLAGS_KNOWN) || !(parts.flags & MESSAGE_WAITS) != !parts.not_before_ms ||
        properties_size > MESSAGE_PROPERTIES_MAX || body_size > UINT32_MAX)
        return E_CORRUPT;
    *message = message_new(account, &parts);
    return *message ? 0 : E_MEMORY;
}

/* ---- formats ---- */

static struct slice amqp091_headers(const struct message *m)
{
    struct slice headers;

    return amqp091_properties_headers(message_properties(m), &headers) ? headers
                                                                       : slice_of(NULL, 0);
}

static bool amqp091_header(const struct message *m, struct slice name, struct field *field)
{
    return fields_find(amqp091_headers(m), name, field);
}

static bool amqp091_next_property(const struct message *m, unsigned *at, struct field *field)
{
    struct amqp091_properties properties;

    return amqp091_properties_parse(message_properties(m), &properties) == 0 &&
           amqp091_properties_next(&properties, at, field);
}

static size_t amqp091_more_keys(const struct message *m, struct slice *keys, size_t most)
{
    struct field copies, key;
    size_t count = 0;

    if (!amqp091_header(m, slice_text("CC"), &copies) || copies.type != 'A')
        return 0;
    for (struct reader r = reader_of(copies.value.bytes); fields_next_value(&r, &key);) {
        if (key.type != 'S')
            continue;
        if (count < most)
            keys[count] = key.value.bytes;
        count++;
    }
    return count;
}

static const struct message_format_functions formats[FORMATS] = {
    [FORMAT_AMQP091] = {"amqp091", amqp091_header, amqp091_headers, amqp091_next_property,
                        amqp091_more_keys, amqp091_dead_letter, amqp091_goes_in_circle,
                        amqp091_origin},
};

const struct message_format_functions *message_format(const struct message *m)
{
    ASSERT(m->format > 0 && m->format < FORMATS);
    return &formats[m->format];
}
