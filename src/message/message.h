/*
 * The message: immutable once published, reference counted, in the format it came in.
 *
 * One allocation holds the envelope, the address, the properties and a body of up to
 * MESSAGE_INLINE_MAX bytes; a larger body is a buffer of its own that is never copied again. The
 * engine reads the envelope; the bytes of `properties` mean something only to the format, whose
 * table of functions (message_format()) looks up headers in them.
 *
 * A message belongs to one worker; the count is not atomic. Its memory is charged to an account
 * from message_new() until the last reference goes.
 *
 * A *lent* message stands in memory that is somebody else's, such as a letter from another worker.
 * It has no reference and is good until you return: message_ref() makes a copy of it, which is the
 * caller's then.
 */
#ifndef SLUICE_MESSAGE_MESSAGE_H
#define SLUICE_MESSAGE_MESSAGE_H

#include "base/account.h"
#include "base/assert.h"
#include "base/buffer.h"
#include "message/fields.h"

#define MESSAGE_INLINE_MAX  4096u
#define MESSAGE_ADDRESS_MAX 255u /* bytes of an exchange's name, and of a routing key */
#define MESSAGE_PROPERTIES_MAX                                                                     \
    (UINT32_MAX - MESSAGE_INLINE_MAX - 2 * MESSAGE_ADDRESS_MAX) /* bytes */

enum message_format { FORMAT_AMQP091 = 1, FORMATS };

enum message_flag {
    MESSAGE_PERSISTENT = 1,   /* wants to survive a restart, where the queue does */
    MESSAGE_DEAD_LETTER = 2,  /* made by dead_letter(): the history in its properties is ours */
    MESSAGE_WAITS = 4,        /* for message_not_before_ms(); set by message_new() */
    MESSAGE_HAS_PRIORITY = 8, /* the publisher gave one, be it 0 */
};

struct message {
    uint32_t references; /* 0: it is lent */
    uint8_t format;      /* enum message_format */
    uint8_t flags;       /* enum message_flag */
    uint8_t priority;
    uint8_t exchange_size;
    uint8_t key_size;
    uint8_t reserved[3];
    uint32_t properties_size;
    uint32_t body_size;
    uint32_t bytes_size;      /* of `bytes` */
    uint64_t published_at_ms; /* wall clock, when the broker took it */
    uint64_t expires_at_ms;   /* wall clock; 0: never */
    struct buffer *body;      /* NULL: inline, behind the properties */
    struct account *account;
    /* exchange, routing key, properties, then not_before_ms (8) if it waits, inline body */
    uint8_t bytes[];
};

struct message_parts {
    uint8_t format, flags, priority; /* enum message_format, enum message_flag */
    /* With data NULL and a size, room is left for message_properties_to_fill(). */
    struct slice exchange, key, properties;
    /* Copied when it fits inline, or when body_buffer is NULL. With data NULL and a size that fits
     * inline, room is left for message_body_to_fill(). */
    struct slice body;
    struct buffer
        *body_buffer; /* the body's own buffer, whose data is `body`; a reference is taken */
    uint64_t published_at_ms, expires_at_ms;
    uint64_t not_before_ms; /* wall clock; 0: at once */
};

/* NULL when the account or the system refuses. One reference. Sizes are the caller's to have
 * checked: addresses up to MESSAGE_ADDRESS_MAX, properties up to MESSAGE_PROPERTIES_MAX, the body
 * up to UINT32_MAX. */
struct message *message_new(struct account *account, const struct message_parts *parts) MUST_CHECK;

/* A message whose inline body (at most MESSAGE_INLINE_MAX), or whose properties, the caller fills
 * in before anybody else sees it. */
uint8_t *message_body_to_fill(struct message *message);
uint8_t *message_properties_to_fill(struct message *message);

/* Of a lent message: the same with one reference. NULL: no memory. */
struct message *message_copy(const struct message *lent) MUST_CHECK;

/* Never NULL for a message that is not lent. */
static inline struct message *message_ref(struct message *message)
{
    if (message->references == 0)
        return message_copy(message);
    message->references++;
    return message;
}

void message_free(struct message *message);

static inline void message_unref(struct message *message)
{
    ASSERT(message->references > 0);
    if (--message->references == 0)
        message_free(message);
}

/* Writes the message into a room of so many bytes, aligned to 8, from where it is lent; a body of
 * its own gets a reference. */
static inline size_t message_room_size(const struct message *m)
{
    return sizeof *m + m->bytes_size;
}

static inline void message_lend(struct message *room, const struct message *message)
{
    memcpy(room, message, message_room_size(message));
    room->references = 0;
    if (room->body)
        buffer_ref(room->body);
}

/* Before it is lent on another worker: copies are charged to that account. */
static inline struct message *message_lent(struct message *room, struct account *account)
{
    room->account = account;
    return room;
}

/* The room is somebody's again. */
static inline void message_lent_end(const struct message *room)
{
    ASSERT(room->references == 0);
    buffer_unref(room->body);
}

/* One above 0 is enough: older versions did not store the flag. */
static inline bool message_has_priority(const struct message *m)
{
    return m->priority > 0 || (m->flags & MESSAGE_HAS_PRIORITY);
}

static inline struct slice message_exchange(const struct message *m)
{
    return slice_of(m->bytes, m->exchange_size);
}

static inline struct slice message_key(const struct message *m)
{
    return slice_of(m->bytes + m->exchange_size, m->key_size);
}

static inline struct slice message_properties(const struct message *m)
{
    return slice_of(m->bytes + m->exchange_size + m->key_size, m->properties_size);
}

static inline struct slice message_body(const struct message *m)
{
    return slice_of(m->body ? m->body->data : m->bytes + m->bytes_size - m->body_size,
                    m->body_size);
}

/* From when on it may be given out, by the wall clock; 0: at once. Its time to live begins then. */
static inline uint64_t message_not_before_ms(const struct message *m)
{
    if (!(m->flags & MESSAGE_WAITS))
        return 0;
    return load_le64(m->bytes + m->exchange_size + m->key_size + m->properties_size);
}

/* What a body in a buffer of its own costs. */
static inline size_t buffer_cost(size_t capacity)
{
    return sizeof(struct buffer) + capacity;
}

/* What it costs in memory, and was charged. */
static inline size_t message_footprint(const struct message *m)
{
    return sizeof *m + m->bytes_size + (m->body ? buffer_cost(m->body->capacity) : 0);
}

/* ---- as stored ----
 *
 * "Message content", version 1: what docs/log-format.md calls so. Written as two slices, so that
 * large bodies are not copied. Sizes and times are varints (unsigned LEB128, base/bytes.h).
 *
 *   bytes   field
 *   1       version: 1
 *   1       format, enum message_format
 *   1       flags, enum message_flag; the other bits are 0
 *   1       priority, as the publisher gave it
 *   varint  published_at_ms
 *   varint  expires_at_ms; 0: never
 *   varint  not_before_ms, not 0, if the flags have MESSAGE_WAITS
 *   1       size of the exchange's name
 *   1       size of the routing key
 *   varint  size of the properties
 *   varint  size of the body
 *   ...     exchange, routing key, properties                       (here ends the head)
 *   ...     body, up to the end of the content
 *
 * A reader refuses another version, an unknown format or flag, and content that ends early or goes
 * on behind the body. What is inside the properties is the format's business.
 */

#define MESSAGE_HEAD_MAX(m) (64u + 2u * MESSAGE_ADDRESS_MAX + (m)->properties_size)

/* Size of everything before the body. */
size_t message_head_size(const struct message *message);
void message_encode_head(const struct message *message, struct writer *writer);

/* The reverse; `content` is head and body in one piece. E_CORRUPT when it breaks the format,
 * E_VERSION for another version, E_MEMORY. All is copied. */
int message_decode(struct account *account, struct slice content,
                   struct message **message) MUST_CHECK;

/* ---- formats ---- */

/* What became of a message in a queue. */
struct death {
    struct slice queue;    /* its name */
    const char *reason;    /* "rejected", "expired", "maxlen", "delivery_limit" */
    uint64_t at_ms;        /* wall clock */
    struct slice exchange; /* where the new message is published */
    struct slice key;      /* with which key; data NULL: with the one it has */
};

/* Where a dead letter comes from, and why; slices are borrowed from the message. */
struct message_origin {
    struct slice queue;         /* in which it died first, */
    struct slice exchange, key; /* and where it had been published before it came there */
    struct slice reason;        /* of its newest death */
};

struct message_format_functions {
    const char *name;
    /* The header of that name, in the words of fields.h; false where there is none. */
    bool (*header)(const struct message *message, struct slice name, struct field *field);
    /* All headers as a table (fields.h), borrowed from the message; empty where there are none. */
    struct slice (*headers)(const struct message *message);
    /* What it says of itself besides headers, one after the other, by the names of AMQP 0-9-1
     * ("message_id", "content_type", ...), borrowed; start with *at 0. False: that was all. */
    bool (*next_property)(const struct message *message, unsigned *at, struct field *field);
    /* Keys by which it is routed besides its own, as its headers say (carbon copies), borrowed; how
     * many there are, of which at most `most` are written. */
    size_t (*more_keys)(const struct message *message, struct slice *keys, size_t most);
    /* A new message of one that died: the same body (shared, not copied, where it is a buffer of
     * its own), the death at the head of its history, one reference. It expires no more (the time
     * to live that it had goes from its properties into the history), waits for nothing, and was
     * published when the other died. NULL: no memory, or too large, or an exchange or key above
     * MESSAGE_ADDRESS_MAX, which the queue's name is never. */
    struct message *(*dead_letter)(struct account *account, const struct message *message,
                                   const struct death *death);
    /* Would this dead letter, put into that queue, go in a circle without anybody having rejected
     * it meanwhile? That is: it died there before, and no death since then, that one and the newest
     * included, was by rejection. False for a message that never died. */
    bool (*goes_in_circle)(const struct message *message, struct slice queue);
    /* Of a dead letter, as the broker has written its history: what is older than the history goes
     * back has the key that the message has now. False: it never died. */
    bool (*origin)(const struct message *message, struct message_origin *origin);
};

const struct message_format_functions *message_format(const struct message *message);

#endif
