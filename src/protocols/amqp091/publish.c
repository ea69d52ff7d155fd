/*
 * Content and basic.publish. A publish whose method, header and one body frame are in the input
 * together goes straight from there into the message; else its parts are kept until the last has
 * come (struct content).
 */
#include "base/assert.h"
#include "base/memory.h"
#include "protocols/amqp091/session_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define BASIC_CLASS          60u
#define MESSAGE_SIZE_CEILING 536870912u    /* 512 MiB, no configuration goes above */
#define EXPIRATION_MAX_MS    315360000000u /* ten years */
#define REPLY_TO             "amq.rabbitmq.reply-to"

/* What basic.publish says. */
struct envelope {
    struct slice exchange, key;
    bool mandatory, immediate;
};

enum content_phase { CONTENT_NONE, CONTENT_HEADER, CONTENT_BODY };

struct content {
    enum content_phase phase;
    bool mandatory;
    uint8_t exchange_size, key_size;
    uint8_t exchange[NAME_MAX_BYTES], key[NAME_MAX_BYTES];
    struct kept properties;
    struct buffer *body; /* charged to the account by its capacity */
    uint64_t body_size;
};

/* ---- properties ---- */

static bool parse_expiration(struct channel *channel, struct slice text, uint64_t *expiry_ms)
{
    bool is_negative = text.size > 1 && text.data[0] == '-';
    size_t at = text.size > 1 && (is_negative || text.data[0] == '+') ? 1 : 0;
    size_t first = at;
    uint64_t value = 0;

    for (; at < text.size && text.data[at] >= '0' && text.data[at] <= '9'; at++)
        if (value <= EXPIRATION_MAX_MS)
            value = value * 10 + (uint64_t)(text.data[at] - '0');
    if (at == first) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED, "invalid expiration '%.*s': no_integer",
                     SLICE_ARGS(text));
    } else if (at < text.size) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED,
                     "invalid expiration '%.*s': {leftover_string,\"%.*s\"}", SLICE_ARGS(text),
                     (int)(text.size - at), (const char *)text.data + at);
    } else if (is_negative && value > 0) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED,
                     "invalid expiration '%.*s': {value_negative,-%" PRIu64 "}", SLICE_ARGS(text),
                     value);
    } else if (value > EXPIRATION_MAX_MS) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED,
                     "invalid expiration '%.*s': {value_too_large,%.*s}", SLICE_ARGS(text),
                     SLICE_ARGS(text));
    } else {
        *expiry_ms = value;
        return true;
    }
    return false;
}

static bool check_user_id(struct channel *channel, struct slice claimed)
{
    struct slice user = client_user(channel->session->client);

    if (slice_equal(claimed, user) || client_may_impersonate(channel->session->client))
        return true;
    channel_fail(channel, REPLY_PRECONDITION_FAILED,
                 "user_id property set to '%.*s' but authenticated user was '%.*s'",
                 SLICE_ARGS(claimed), SLICE_ARGS(user));
    return false;
}

/* Further keys to route by, out of the headers CC and BCC. */
struct more_keys {
    struct slice keys[PUBLISH_KEYS_MAX];
    size_t count;
};

static bool collect_keys(struct channel *channel, const struct field *header,
                         struct more_keys *more)
{
    struct reader reader = reader_of(header->value.bytes);
    struct field value;
    char type[64];

    if (header->type != 'A') {
        channel_fail(channel, REPLY_PRECONDITION_FAILED,
                     "invalid message: {unacceptable_type_in_header,\"%.*s\",%s}",
                     SLICE_ARGS(header->name), field_describe(header, type, sizeof type));
        return false;
    }
    while (fields_next_value(&reader, &value)) {
        if (value.type != 'S')
            continue;
        if (more->count == PUBLISH_KEYS_MAX || value.value.bytes.size > MESSAGE_ADDRESS_MAX) {
            channel_fail(channel, REPLY_PRECONDITION_FAILED,
                         "invalid message: header %.*s has more than %u routing keys or one above "
                         "%u bytes",
                         SLICE_ARGS(header->name), PUBLISH_KEYS_MAX, MESSAGE_ADDRESS_MAX);
            return false;
        }
        more->keys[more->count++] = value.value.bytes;
    }
    return true;
}

/* What is to be looked at more closely. */
struct rare_headers {
    bool has_cc, has_bcc; /* the message goes by more than its routing key */
    bool has_delay;
};

/* For each message with headers, so in one pass. */
static struct rare_headers find_rare(struct slice headers)
{
    struct reader reader = reader_of(headers);
    struct field field;
    struct rare_headers rare = {false, false, false};

    while (fields_next(&reader, &field)) {
        if (slice_is(field.name, "BCC"))
            rare.has_bcc = true;
        else if (slice_is(field.name, "CC"))
            rare.has_cc = true;
        else if (slice_is(field.name, "x-delay"))
            rare.has_delay = true;
    }
    return rare;
}

/* The properties anew, with another reply-to or without BCC. NULL: no memory. */
static uint8_t *rewrite_properties(const struct amqp091_properties *old, bool drop_bcc,
                                   struct slice reply_to, struct slice *result)
{
    struct amqp091_properties new = *old;
    uint8_t *headers = NULL, *memory = NULL;

    if (reply_to.size > 0)
        new.reply_to = reply_to;
    if (drop_bcc) {
        struct reader reader = reader_of(old->headers);
        struct field field;
        headers = malloc(old->headers.size + 1);
        if (!headers)
            return NULL;
        struct writer writer = writer_of(headers, old->headers.size);
        while (fields_next(&reader, &field))
            if (!slice_is(field.name, "BCC"))
                fields_put(&writer, &field);
        new.headers = slice_of(headers, writer_size(&writer));
    }
    size_t size = amqp091_properties_size(&new);
    memory = malloc(size + 1);
    if (memory) {
        struct writer writer = writer_of(memory, size);
        amqp091_properties_write(&writer, &new);
        *result = slice_of(memory, writer_size(&writer));
    }
    free(headers);
    return memory;
}

/* ---- publishing ---- */

void publish_return(struct channel *channel, const struct message *message)
{
    struct session *session = channel->session;
    struct method method = {.id = METHOD_basic_return};

    if (channel->state != CHANNEL_OPEN || session->state != SESSION_RUNNING)
        return;
    method.basic_return.reply_code = REPLY_NO_ROUTE;
    method.basic_return.reply_text = slice_text(reply_name(REPLY_NO_ROUTE));
    method.basic_return.exchange = message_exchange(message);
    method.basic_return.routing_key = message_key(message);
    session_write(session, channel->number, &method);
    write_content(session, channel->number, (struct message *)(uintptr_t)message);
}

/* Takes the message. */
static void publish_message(struct channel *channel, struct message *message, bool mandatory,
                            const struct more_keys *more)
{
    struct session *session = channel->session;
    struct publish publish; /* not zeroed as a whole: its failure is large and rarely used */

    publish.message = message;
    publish.more_keys = more ? more->keys : NULL;
    publish.more_keys_count = more ? more->count : 0;
    publish.publisher = channel->publisher;
    publish.may_go_to = NULL;
    publish.only = NULL;
    publish.must_be_taken = false;
    publish.queues = 0;
    publish.failure.code = 0;
    publish.failure.text[0] = 0;
    if (channel->transaction) {
        if (!transaction_publish(channel, message, mandatory, publish.more_keys,
                                 publish.more_keys_count))
            message_unref(message);
        return;
    }
    if (broker_publish(session->client, &publish))
        channel_fail(channel, reply_for_error(publish.failure.code, METHOD_basic_publish), "%s",
                     publish.failure.text);
    else if (mandatory && publish.queues == 0)
        publish_return(channel, message);
    message_unref(message);
    enum flow flow = broker_flow(session->client);
    if (flow != session->flow)
        session_set_flow(session, flow);
}

static void refuse_memory(struct channel *channel, uint64_t size)
{
    session_fail(channel->session, NULL, REPLY_RESOURCE_ERROR, METHOD_basic_publish,
                 "no memory for a message of %" PRIu64 " bytes", size);
}

/* It lives for so long once it may be given out. */
static void delay_parts(struct message_parts *parts, uint64_t delay_ms)
{
    if (delay_ms == 0)
        return;
    parts->not_before_ms = parts->published_at_ms + delay_ms;
    if (parts->expires_at_ms)
        parts->expires_at_ms += delay_ms;
}

/* With `properties` as they shall be stored. */
static void publish_parts(struct channel *channel, const struct envelope *envelope,
                          const struct amqp091_properties *p, struct slice properties,
                          struct slice body, struct buffer *buffer, const struct more_keys *more,
                          uint64_t delay_ms)
{
    struct session *session = channel->session;
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = amqp091_message_flags(p),
        .priority = p->flags & AMQP091_PRIORITY ? p->priority : 0,
        .exchange = envelope->exchange,
        .key = envelope->key,
        .properties = properties,
        .body = body,
        .body_buffer = buffer,
        .published_at_ms = loop_wall_ms(session->loop),
    };
    if (p->flags & AMQP091_EXPIRATION) {
        uint64_t expiry_ms;
        if (!parse_expiration(channel, p->expiration, &expiry_ms))
            return;
        parts.expires_at_ms = parts.published_at_ms + expiry_ms;
    }
    delay_parts(&parts, delay_ms);
    struct message *message = message_new(broker_message_account(session->client), &parts);
    if (message && delay_ms > 0)
        amqp091_delay_spend(message_properties_to_fill(message), properties.size);
    if (message)
        publish_message(channel, message, envelope->mandatory, more);
    else
        refuse_memory(channel, body.size);
}

/* The rare ones: carbon copies, or a reply-to that stands for this channel's reply consumer. */
static void __attribute__((noinline))
publish_rewritten(struct channel *channel, const struct envelope *envelope,
                  const struct amqp091_properties *p, struct slice properties, struct slice body,
                  struct buffer *buffer, bool has_bcc, uint64_t delay_ms)
{
    struct more_keys more = {.count = 0};
    struct slice reply_to = {0};
    struct field header;
    uint8_t *memory = NULL;

    if (p->flags & AMQP091_HEADERS) {
        if (fields_find(p->headers, slice_text("CC"), &header) &&
            !collect_keys(channel, &header, &more))
            return;
        if (fields_find(p->headers, slice_text("BCC"), &header) &&
            !collect_keys(channel, &header, &more))
            return;
    }
    if ((p->flags & AMQP091_REPLY_TO) && slice_is(p->reply_to, REPLY_TO)) {
        if (!channel->reply_subscription) {
            channel_fail(channel, REPLY_PRECONDITION_FAILED, "fast reply consumer does not exist");
            return;
        }
        reply_to = slice_text(channel->reply_queue);
    }
    if (has_bcc || reply_to.size > 0) {
        memory = rewrite_properties(p, has_bcc, reply_to, &properties);
        if (!memory) {
            refuse_memory(channel, body.size);
            return;
        }
    }
    publish_parts(channel, envelope, p, properties, body, buffer, &more, delay_ms);
    free(memory);
}

static void publish(struct channel *channel, const struct envelope *envelope,
                    struct slice properties, struct slice body, struct buffer *buffer)
{
    struct amqp091_properties p;
    struct failure failure;
    struct rare_headers rare = {false, false, false};
    bool is_rare = false;
    uint64_t delay_ms = 0;

    if (amqp091_properties_parse(properties, &p)) {
        session_fail(channel->session, NULL, REPLY_FRAME_ERROR, METHOD_basic_publish,
                     "cannot decode the %zu bytes of a content header's properties",
                     properties.size);
        return;
    }
    if (p.flags & AMQP091_HEADERS) {
        if (fields_check(p.headers, &failure)) {
            session_fail(channel->session, NULL, REPLY_SYNTAX_ERROR, METHOD_basic_publish,
                         "property headers: %s", failure.text);
            return;
        }
        rare = find_rare(p.headers);
        is_rare = rare.has_cc || rare.has_bcc;
        delay_ms = rare.has_delay ? amqp091_delay_ms(p.headers) : 0;
    }
    if ((p.flags & AMQP091_REPLY_TO) && slice_is(p.reply_to, REPLY_TO))
        is_rare = true;
    if ((p.flags & AMQP091_USER_ID) && !check_user_id(channel, p.user_id))
        return;
    if (is_rare)
        publish_rewritten(channel, envelope, &p, properties, body, buffer, rare.has_bcc, delay_ms);
    else
        publish_parts(channel, envelope, &p, properties, body, buffer, NULL, delay_ms);
}

/* ---- content in pieces ---- */

bool publish_is_open(const struct channel *channel)
{
    return channel->content && channel->content->phase != CONTENT_NONE;
}

static void forget_content(struct channel *channel)
{
    struct content *content = channel->content;

    if (content->body) {
        account_release(channel->session->account, content->body->capacity);
        buffer_unref(content->body);
        content->body = NULL;
    }
    kept_clear(channel->session->account, &content->properties);
    content->phase = CONTENT_NONE;
}

void publish_abandon(struct channel *channel)
{
    if (!channel->content)
        return;
    forget_content(channel);
    kept_free(channel->session->account, &channel->content->properties);
    account_release(channel->session->account, sizeof *channel->content);
    free(channel->content);
    channel->content = NULL;
}

static void begin_content(struct channel *channel, const struct envelope *envelope)
{
    if (!channel->content) {
        if (account_charge(channel->session->account, sizeof *channel->content)) {
            refuse_memory(channel, 0);
            return;
        }
        channel->content = memory_new(sizeof *channel->content);
    }
    struct content *content = channel->content;
    content->phase = CONTENT_HEADER;
    content->mandatory = envelope->mandatory;
    content->exchange_size = (uint8_t)envelope->exchange.size;
    content->key_size = (uint8_t)envelope->key.size;
    memcpy(content->exchange, envelope->exchange.data, envelope->exchange.size);
    memcpy(content->key, envelope->key.data, envelope->key.size);
}

static void end_content(struct channel *channel)
{
    struct content *content = channel->content;
    struct envelope envelope = {
        .exchange = slice_of(content->exchange, content->exchange_size),
        .key = slice_of(content->key, content->key_size),
        .mandatory = content->mandatory,
    };
    struct slice body =
        content->body ? slice_of(content->body->data, content->body->size) : slice_of(NULL, 0);

    content->phase = CONTENT_NONE;
    publish(channel, &envelope, kept_slice(&content->properties), body, content->body);
    forget_content(channel);
}

/* Too large is known as soon as it is announced. */
static bool check_size(struct channel *channel, uint64_t body_size)
{
    uint64_t size_max = channel->session->settings->message_size_max;

    if (body_size > MESSAGE_SIZE_CEILING) {
        session_fail(channel->session, NULL, REPLY_FRAME_ERROR, METHOD_basic_publish,
                     "content body size %" PRIu64 " exceeds maximum allowed size %u", body_size,
                     MESSAGE_SIZE_CEILING);
        return false;
    }
    if (body_size > size_max) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED,
                     "message size %" PRIu64 " is larger than %s size %" PRIu64, body_size,
                     size_max == MESSAGE_SIZE_CEILING ? "max" : "configured max", size_max);
        return false;
    }
    return true;
}

static void take_header(struct channel *channel, const struct frame *frame)
{
    struct session *session = channel->session;
    struct content *content = channel->content;
    struct content_header header;

    if (frame->type != FRAME_HEADER || amqp091_content_header_decode(frame->payload, &header) ||
        header.weight != 0) {
        session_fail(session, NULL, REPLY_UNEXPECTED_FRAME, METHOD_basic_publish,
                     "expected content header for class %u, got non content header frame instead",
                     BASIC_CLASS);
        return;
    }
    if (header.class_id != BASIC_CLASS) {
        session_fail(session, NULL, REPLY_UNEXPECTED_FRAME, METHOD_basic_publish,
                     "expected content header for class %u, got one for class %u instead",
                     BASIC_CLASS, header.class_id);
        return;
    }
    if (!check_size(channel, header.body_size))
        return;
    if (kept_append(session->account, &content->properties, header.properties)) {
        refuse_memory(channel, header.body_size);
        return;
    }
    if (header.body_size == 0) {
        end_content(channel);
        return;
    }
    if (account_charge(session->account, header.body_size)) {
        refuse_memory(channel, header.body_size);
        return;
    }
    content->body = buffer_new((size_t)header.body_size);
    if (!content->body) {
        account_release(session->account, header.body_size);
        refuse_memory(channel, header.body_size);
        return;
    }
    ASSERT(content->body->capacity == header.body_size);
    content->body_size = header.body_size;
    content->phase = CONTENT_BODY;
}

static void take_body(struct channel *channel, const struct frame *frame)
{
    struct content *content = channel->content;

    if (frame->type != FRAME_BODY) {
        session_fail(channel->session, NULL, REPLY_UNEXPECTED_FRAME, METHOD_basic_publish,
                     "expected content body, got non content body frame instead");
        return;
    }
    if (frame->size > content->body_size - content->body->size) {
        session_fail(channel->session, NULL, REPLY_FRAME_ERROR, METHOD_basic_publish,
                     "content body frame exceeds remaining content size");
        return;
    }
    if (frame->size)
        memcpy(content->body->data + content->body->size, frame->payload.data, frame->size);
    content->body->size += frame->size;
    if (content->body->size == content->body_size)
        end_content(channel);
}

void publish_content(struct channel *channel, const struct frame *frame)
{
    channel->method.id = METHOD_basic_publish;
    if (channel->content->phase == CONTENT_HEADER)
        take_header(channel, frame);
    else
        take_body(channel, frame);
}

/* ---- basic.publish ---- */

/* Header and body stand whole behind the method: no copy but into the message. Returns the bytes
 * used, or 0 when it is not so. */
static size_t publish_whole(struct channel *channel, const struct envelope *envelope,
                            struct slice ahead)
{
    struct frame first, second;
    struct content_header header;
    uint32_t frame_max = channel->session->frame_max;
    ssize_t size = amqp091_frame_read(ahead, &first);

    if (size <= 0 || first.type != FRAME_HEADER || first.channel != channel->number ||
        first.size > frame_max || amqp091_content_header_decode(first.payload, &header) ||
        header.class_id != BASIC_CLASS || header.weight != 0 ||
        header.body_size > channel->session->settings->message_size_max)
        return 0;
    if (header.body_size == 0) {
        publish(channel, envelope, header.properties, slice_of(NULL, 0), NULL);
        return (size_t)size;
    }
    ssize_t more =
        amqp091_frame_read(slice_of(ahead.data + size, ahead.size - (size_t)size), &second);
    if (more <= 0 || second.type != FRAME_BODY || second.channel != channel->number ||
        second.size != header.body_size || second.size > frame_max)
        return 0;
    publish(channel, envelope, header.properties, second.payload, NULL);
    return (size_t)size + (size_t)more;
}

size_t publish_method(struct channel *channel, struct slice arguments, struct slice ahead)
{
    struct reader reader = reader_of(arguments);
    struct envelope envelope;

    read_be16(&reader); /* the ticket means nothing any more */
    envelope.exchange = read_bytes(&reader, read_u8(&reader));
    envelope.key = read_bytes(&reader, read_u8(&reader));
    uint8_t bits = read_u8(&reader);
    envelope.mandatory = bits & 1;
    envelope.immediate = bits & 2;
    if (reader.failed || reader_left(&reader) > 0) {
        session_fail(channel->session, NULL, REPLY_FRAME_ERROR, METHOD_basic_publish,
                     reader.failed ? "the arguments of basic.publish end early"
                                   : "bytes behind the arguments of basic.publish");
        return 0;
    }
    if (!amqp091_is_utf8(envelope.exchange) || !amqp091_is_utf8(envelope.key)) {
        session_fail(channel->session, NULL, REPLY_FRAME_ERROR, METHOD_basic_publish,
                     "Malformed UTF-8 in shortstr");
        return 0;
    }
    if (envelope.immediate) {
        channel_fail(channel, REPLY_NOT_IMPLEMENTED, "immediate=true");
        return 0;
    }
    size_t used = publish_whole(channel, &envelope, ahead);
    if (used == 0)
        begin_content(channel, &envelope);
    return used;
}

/* ---- confirms ---- */

static void confirm_selected(struct channel *channel)
{
    if (!channel->method.confirm_select.no_wait)
        channel_write(channel, &(struct method){.id = METHOD_confirm_select_ok});
}

void handle_confirm_select(struct channel *channel)
{
    if (channel->transaction) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED, "cannot switch from tx to confirm mode");
        return;
    }
    if (!channel->publisher)
        channel->publisher = publisher_open(channel->session->client, channel);
    confirm_selected(channel);
}

#define ACK_FRAME_SIZE (FRAME_OVERHEAD + 13u)

void publish_confirmed(struct channel *channel, uint64_t last, bool accepted)
{
    struct session *session = channel->session;

    ASSERT(last > channel->confirmed);
    bool multiple = last - channel->confirmed > 1;
    channel->confirmed = last;
    if (channel->state != CHANNEL_OPEN || session->state != SESSION_RUNNING)
        return;
    uint8_t *p = output_take(&session->wire->output, ACK_FRAME_SIZE);
    p[0] = FRAME_METHOD;
    store_be16(p + 1, channel->number);
    store_be32(p + 3, 13);
    store_be32(p + 7, accepted ? METHOD_basic_ack : METHOD_basic_nack);
    store_be64(p + 11, last);
    p[19] = multiple;
    p[20] = FRAME_END;
    wire_touch(session->wire);
}
