/*
 * Consumers and deliveries.
 *
 * Credit: a consumer with a prefetch of N gets N messages of credit at the start and one back for
 * each that is settled; without prefetch that credit is unlimited. Every consumer has CREDIT_BYTES
 * of credit for bytes, which come back as the output is written: in two lots, so that an output
 * that is never quite empty returns some, too. What a slow socket or the channel's common limit
 * (global prefetch) cannot take is refused with E_ROOM, and the subscription waits in a list
 * (session->starved, channel->limited) until the output has drained or something was settled.
 */
#include "base/assert.h"
#include "base/memory.h"
#include "protocols/amqp091/session_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define REPLY_TO "amq.rabbitmq.reply-to"

/* ---- writing messages ---- */

static void release_message(void *message)
{
    message_unref(message);
}

static void write_frame_header(uint8_t *p, enum frame_type type, uint16_t channel, size_t size)
{
    p[0] = (uint8_t)type;
    store_be16(p + 1, channel);
    store_be32(p + 3, (uint32_t)size);
}

static uint8_t *put(uint8_t *to, struct slice bytes)
{
    if (bytes.size)
        memcpy(to, bytes.data, bytes.size);
    return to + bytes.size;
}

/* Frame header and fixed part of a content header. */
#define CONTENT_HEAD_SIZE (FRAME_HEADER_SIZE + CONTENT_HEADER_FIXED)

static uint8_t *put_content_head(uint8_t *p, uint16_t channel, const struct message *message)
{
    write_frame_header(p, FRAME_HEADER, channel, CONTENT_HEADER_FIXED + message->properties_size);
    store_be32(p + 7, 60u << 16); /* class basic, weight 0 */
    store_be64(p + 11, message->body_size);
    return p + CONTENT_HEAD_SIZE;
}

_Static_assert(MESSAGE_INLINE_MAX <= DELIVERY_COPY_MAX, "what is borrowed is a body's own buffer");

static void write_body(struct session *session, uint16_t channel, struct message *message)
{
    struct output *output = &session->wire->output;
    struct slice body = message_body(message);
    size_t part_max = session->frame_max - FRAME_OVERHEAD;
    struct message *kept = body.size > DELIVERY_COPY_MAX ? message_ref(message) : NULL;

    for (size_t at = 0; at < body.size;) {
        size_t size = body.size - at < part_max ? body.size - at : part_max;
        struct slice part = slice_of(body.data + at, size);
        write_frame_header(output_take(output, FRAME_HEADER_SIZE), FRAME_BODY, channel, size);
        if (size > DELIVERY_COPY_MAX && kept)
            output_borrow(output, part, (struct output_owner){release_message, message_ref(kept)});
        else
            output_append(output, part);
        *output_take(output, 1) = FRAME_END;
        at += size;
    }
    if (kept)
        message_unref(kept);
}

void write_content(struct session *session, uint16_t channel, struct message *message)
{
    struct output *output = &session->wire->output;

    put_content_head(output_take(output, CONTENT_HEAD_SIZE), channel, message);
    output_append(output, message_properties(message));
    *output_take(output, 1) = FRAME_END;
    write_body(session, channel, message);
    wire_touch(session->wire);
}

/* ---- messages that have come back ---- */

static const char delivery_count[] = "x-delivery-count";

/* The headers with how often it has come back. NULL: no memory. */
static uint8_t *headers_with_count(struct slice old, uint32_t count, struct slice *headers)
{
    size_t room = old.size + sizeof delivery_count + 16;
    uint8_t *memory = malloc(room);
    struct reader reader = reader_of(old);
    struct field field;

    if (!memory)
        return NULL;
    struct writer writer = writer_of(memory, room);
    while (fields_next(&reader, &field)) {
        if (!slice_is(field.name, delivery_count))
            fields_put(&writer, &field);
    }
    fields_put_integer(&writer, delivery_count, count);
    *headers = slice_of(memory, writer_size(&writer));
    return memory;
}

static struct message *message_with(struct session *session, const struct message *message,
                                    const struct amqp091_properties *properties)
{
    struct message_parts parts = {
        .format = message->format,
        .flags = message->flags,
        .priority = message->priority,
        .exchange = message_exchange(message),
        .key = message_key(message),
        .body = message_body(message),
        .body_buffer = message->body,
        .published_at_ms = message->published_at_ms,
        .expires_at_ms = message->expires_at_ms,
    };
    size_t size = amqp091_properties_size(properties);
    uint8_t *bytes = malloc(size + 1);
    struct message *with = NULL;

    if (bytes) {
        struct writer writer = writer_of(bytes, size);
        amqp091_properties_write(&writer, properties);
        parts.properties = slice_of(bytes, size);
        with = message_new(broker_message_account(session->client), &parts);
    }
    free(bytes);
    return with;
}

/* The message as the client is to see it: with the count in a header, where its queue tells it. A
 * reference. For want of memory, or properties that nobody can read, it goes without. */
static struct message *as_told(struct session *session, const struct delivery *delivery)
{
    struct amqp091_properties properties;
    struct message *with = NULL;

    if (!delivery->tells_count || delivery->count == 0 ||
        amqp091_properties_parse(message_properties(delivery->message), &properties) < 0)
        return message_ref(delivery->message);
    if (!(properties.flags & AMQP091_HEADERS))
        properties.headers = slice_of(NULL, 0);
    uint8_t *headers = headers_with_count(properties.headers, delivery->count, &properties.headers);
    properties.flags |= AMQP091_HEADERS;
    if (headers)
        with = message_with(session, delivery->message, &properties);
    free(headers);
    return with ? with : message_ref(delivery->message);
}

/* A delivery in one piece where it is small, which most are. */
static void write_delivery(const struct subscription *s, uint64_t tag,
                           const struct delivery *delivery)
{
    struct session *session = s->channel->session;
    struct message *message = delivery->message;
    struct slice exchange = message_exchange(message), key = message_key(message);
    size_t method_size = s->head_size + 8u + 1u + 1u + exchange.size + 1u + key.size;
    size_t size = method_size + 1u + CONTENT_HEAD_SIZE + message->properties_size + 1u;
    bool is_small = message->body_size <= DELIVERY_COPY_MAX &&
                    message->body_size <= session->frame_max - FRAME_OVERHEAD &&
                    size + message->body_size + FRAME_OVERHEAD <= OUTPUT_CHUNK_SIZE;
    size_t body_size =
        is_small && message->body_size ? (size_t)message->body_size + FRAME_OVERHEAD : 0;

    uint8_t *p = output_take(&session->wire->output, is_small ? size + body_size : method_size + 1);
    memcpy(p, s->head, s->head_size);
    store_be32(p + 3, (uint32_t)(method_size - FRAME_HEADER_SIZE));
    p += s->head_size;
    store_be64(p, tag);
    p[8] = delivery->redelivered;
    p[9] = (uint8_t)exchange.size;
    p = put(p + 10, exchange);
    *p++ = (uint8_t)key.size;
    p = put(p, key);
    *p++ = FRAME_END;
    if (!is_small) {
        write_content(session, s->channel->number, message);
        return;
    }
    p = put(put_content_head(p, s->channel->number, message), message_properties(message));
    *p++ = FRAME_END;
    if (body_size) {
        write_frame_header(p, FRAME_BODY, s->channel->number, (size_t)message->body_size);
        p = put(p + FRAME_HEADER_SIZE, message_body(message));
        *p = FRAME_END;
    }
}

/* ---- deliveries ---- */

static int wait_in(struct list *list, struct subscription *s)
{
    list_remove(&s->waiting);
    list_append(list, &s->waiting);
    return E_ROOM;
}

/* Is spent already; will be given back when what was just written has left. */
static void owe(struct subscription *s, const struct message *message)
{
    struct session *session = s->channel->session;

    if (!list_linked(&s->owing))
        list_append(&session->owing, &s->owing);
    s->owed_next += message_footprint(message);
    s->owed_next_until = session->wire->output.total;
}

static bool return_lot(struct subscription *s, uint64_t written)
{
    if (s->owed_until > written)
        return false;
    if (s->owed && s->consumer && !s->channel->session->is_releasing)
        broker_credit(s->consumer, 0, s->owed);
    s->owed = s->owed_next;
    s->owed_until = s->owed_next_until;
    s->owed_next = 0;
    return s->owed > 0;
}

void consume_return_credit(struct session *session)
{
    const struct output *output = &session->wire->output;
    uint64_t written = output->total - output_pending(output);

    LIST_EACH (&session->owing, link) {
        struct subscription *s = CONTAINER_OF(link, struct subscription, owing);
        while (return_lot(s, written))
            ;
        if (s->owed == 0)
            list_remove(&s->owing);
    }
}

int consume_deliver(struct subscription *s, const struct delivery *delivery)
{
    struct channel *channel = s->channel;
    struct session *session = channel->session;

    if (!s->consumer || channel->state != CHANNEL_OPEN || session->state != SESSION_RUNNING) {
        s->must_retry = true; /* not yet, or soon over */
        return E_ROOM;
    }
    if (output_pending(&session->wire->output) >= OUTPUT_HIGH_WATER)
        return wait_in(&session->starved, s);
    if (!s->no_ack) {
        if (channel->prefetch_global && channel->held >= channel->prefetch_global)
            return wait_in(&channel->limited, s);
        if (unacked_add(&channel->unacked, channel->next_tag, delivery->lease, s))
            return wait_in(&session->starved, s); /* memory comes from anywhere: try now and then */
        s->outstanding++;
        channel->held++;
    }
    if (!delivery->tells_count) {
        write_delivery(s, channel->next_tag++, delivery);
    } else {
        struct delivery told = *delivery;
        told.message = as_told(session, delivery);
        write_delivery(s, channel->next_tag++, &told);
        message_unref(told.message);
    }
    owe(s, delivery->message);
    wire_touch(session->wire);
    return 0;
}

static void resume_all(struct list *waiting)
{
    struct list now;

    list_init(&now);
    list_move_all(&now, waiting);
    for (struct list *link; (link = list_take_first(&now));) {
        struct subscription *s = CONTAINER_OF(link, struct subscription, waiting);
        if (s->consumer)
            broker_resume(s->consumer);
    }
}

void consume_drained(struct session *session)
{
    if (session->has_left) /* the broker's consumers are gone with the client */
        return;
    consume_return_credit(session);
    resume_all(&session->starved);
}

void consume_resume_limited(struct channel *channel)
{
    if (list_empty(&channel->limited) ||
        (channel->prefetch_global && channel->held >= channel->prefetch_global))
        return;
    resume_all(&channel->limited);
}

/* ---- subscriptions ---- */

static struct subscription *find_subscription(struct channel *channel, struct slice tag)
{
    return channel->has_tags ? map_get(&channel->tags, tag) : NULL;
}

/* The prefix and 22 characters that nobody guesses. */
static size_t make_name(struct loop *loop, const char *prefix, char *text, size_t size)
{
    static const char letters[] =
        "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_";
    uint8_t bytes[22];
    int at = snprintf(text, size, "%s", prefix);

    loop_random_bytes(loop, bytes, sizeof bytes);
    for (size_t i = 0; i < sizeof bytes; i++)
        text[at++] = letters[bytes[i] & 63];
    text[at] = 0;
    return (size_t)at;
}

static struct subscription *new_subscription(struct channel *channel, struct slice tag, bool no_ack)
{
    if (account_charge(channel->session->account, sizeof(struct subscription)))
        return NULL;
    struct subscription *s = memory_new(sizeof *s);
    s->channel = channel;
    s->no_ack = no_ack;
    list_init(&s->waiting);
    list_init(&s->owing);
    write_frame_header(s->head, FRAME_METHOD, channel->number, 0);
    store_be32(s->head + FRAME_HEADER_SIZE, METHOD_basic_deliver);
    s->head[DELIVER_HEAD_FIXED - 1] = (uint8_t)tag.size;
    memcpy(s->head + DELIVER_HEAD_FIXED, tag.data, tag.size);
    s->head_size = (uint16_t)(DELIVER_HEAD_FIXED + tag.size);
    list_append(&channel->subscriptions, &s->link);
    if (!channel->has_tags) {
        map_init_bytes(&channel->tags, loop_random(channel->session->loop));
        channel->has_tags = true;
    }
    map_put(&channel->tags, subscription_tag(s), s);
    channel->subscription_count++;
    return s;
}

static void free_when_done(struct subscription *s)
{
    if (!s->is_over || s->outstanding > 0)
        return;
    account_release(s->channel->session->account, sizeof *s);
    free(s);
}

/* Out of the channel's lists. */
static void retire(struct subscription *s)
{
    struct channel *channel = s->channel;

    list_remove(&s->link);
    list_remove(&s->waiting);
    list_remove(&s->owing);
    map_remove(&channel->tags, subscription_tag(s));
    channel->subscription_count--;
    if (channel->reply_subscription == s)
        channel->reply_subscription = NULL;
    s->consumer = NULL;
    s->is_over = true;
    free_when_done(s);
}

void consume_end(struct subscription *s)
{
    if (s->consumer)
        broker_unsubscribe(s->consumer);
    retire(s);
}

void consume_forget(struct subscription *s, uint64_t settled)
{
    ASSERT(s->outstanding >= settled);
    s->outstanding -= settled;
    if (s->consumer && s->has_prefetch && s->channel->state == CHANNEL_OPEN &&
        !s->channel->session->is_releasing)
        broker_credit(s->consumer, (uint32_t)settled, 0);
    free_when_done(s);
}

void consume_cancelled(struct subscription *s)
{
    struct channel *channel = s->channel;
    struct method method = {.id = METHOD_basic_cancel};

    if (s == channel->subscribing) {
        s->is_cancelled_early = true; /* first it hears that it consumes */
        return;
    }
    s->consumer = NULL; /* the broker's handle is gone */
    if (channel->session->has_capability_cancel_notify) {
        method.basic_cancel.consumer_tag = subscription_tag(s);
        method.basic_cancel.no_wait = true;
        channel_write(channel, &method);
    }
    retire(s);
}

/* ---- basic.qos ---- */

void handle_basic_qos(struct channel *channel)
{
    const struct basic_qos *m = &channel->method.basic_qos;

    if (m->prefetch_size != 0) {
        channel_fail(channel, REPLY_NOT_IMPLEMENTED, "prefetch_size!=0 (%u)", m->prefetch_size);
        return;
    }
    if (m->global) {
        channel->prefetch_global = m->prefetch_count;
    } else {
        channel->prefetch = m->prefetch_count;
        channel->prefetch_global = 0;
    }
    channel_write(channel, &(struct method){.id = METHOD_basic_qos_ok});
    consume_resume_limited(channel);
}

/* ---- basic.consume ---- */

static void send_consume_ok(struct channel *channel, const struct subscription *s)
{
    struct method ok = {.id = METHOD_basic_consume_ok};

    if (channel->method.basic_consume.no_wait)
        return;
    ok.basic_consume_ok.consumer_tag = subscription_tag(s);
    channel_write(channel, &ok);
}

static void subscribed(struct channel *channel)
{
    struct subscription *s = channel->subscribing;

    channel->subscribing = NULL;
    if (channel->request.failure.code) {
        retire(s);
        channel_request_failed(channel);
        return;
    }
    send_consume_ok(channel, s);
    if (s->is_cancelled_early) {
        consume_cancelled(s);
        return;
    }
    s->consumer = channel->request.result.consumer;
    if (s->must_retry)
        broker_resume(s->consumer);
}

static void subscribe(struct channel *channel, struct subscription *s, struct slice queue)
{
    const struct basic_consume *m = &channel->method.basic_consume;
    bool has_prefetch = !m->no_ack && channel->prefetch > 0;
    struct subscribe_spec spec = {
        .queue = queue,
        .cookie = s,
        .tag = subscription_tag(s),
        .settles_itself = m->no_ack,
        .exclusive = m->exclusive,
        .credit_messages = has_prefetch ? channel->prefetch : CREDIT_UNLIMITED,
        .credit_bytes = CREDIT_BYTES,
        .arguments = m->arguments,
    };

    s->has_prefetch = has_prefetch;
    channel_await(channel, broker_subscribe(channel->session->client, &channel->request, &spec),
                  subscribed);
}

/* The hidden queue for replies is there: now its consumer. */
static void reply_queue_declared(struct channel *channel)
{
    struct subscription *s = channel->subscribing;

    if (channel->request.failure.code) {
        channel->subscribing = NULL;
        channel->reply_queue[0] = 0;
        retire(s);
        channel_request_failed(channel);
        return;
    }
    channel->reply_subscription = s;
    subscribe(channel, s, slice_text(channel->reply_queue));
}

static bool check_reply_consumer(struct channel *channel, const struct basic_consume *m)
{
    if (!m->no_ack) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED, "reply consumer cannot acknowledge");
        return false;
    }
    if (channel->reply_subscription) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED, "reply consumer already set");
        return false;
    }
    return true;
}

void handle_basic_consume(struct channel *channel)
{
    struct session *session = channel->session;
    struct basic_consume *m = &channel->method.basic_consume;
    uint32_t limit = session->settings->consumers_per_channel_max;
    bool is_reply = slice_is(m->queue, REPLY_TO);
    struct slice tag = m->consumer_tag;
    char made[40];

    if (!is_reply && !channel_queue_name(channel, &m->queue))
        return;
    if (tag.size > 0 && find_subscription(channel, tag)) {
        channel_fail(channel, REPLY_NOT_ALLOWED, "attempt to reuse consumer tag '%.*s'",
                     SLICE_ARGS(tag));
        return;
    }
    if (limit && channel->subscription_count >= limit) {
        channel_fail(channel, REPLY_NOT_ALLOWED, "reached maximum (%u) of consumers per channel",
                     limit);
        return;
    }
    if (is_reply && !check_reply_consumer(channel, m))
        return;
    if (tag.size == 0)
        tag = slice_of(made, make_name(session->loop, "amq.ctag-", made, sizeof made));
    struct subscription *s = new_subscription(channel, tag, m->no_ack);
    if (!s) {
        channel_fail(channel, REPLY_RESOURCE_ERROR, "no memory for another consumer");
        return;
    }
    channel->subscribing = s;
    if (!is_reply) {
        subscribe(channel, s, m->queue);
        return;
    }
    size_t size =
        make_name(session->loop, REPLY_TO ".", channel->reply_queue, sizeof channel->reply_queue);
    struct queue_spec spec = {
        .name = slice_of(channel->reply_queue, size), .hidden = true, .exclusive = true};
    channel_await(channel, broker_declare_queue(session->client, &channel->request, &spec),
                  reply_queue_declared);
}

/* ---- basic.cancel ---- */

static void send_cancel_ok(struct channel *channel)
{
    struct method ok = {.id = METHOD_basic_cancel_ok};

    if (channel->method.basic_cancel.no_wait)
        return;
    ok.basic_cancel_ok.consumer_tag = channel->method.basic_cancel.consumer_tag;
    channel_write(channel, &ok);
}

static void reply_queue_gone(struct channel *channel)
{
    channel->reply_queue[0] = 0;
    send_cancel_ok(channel);
}

void handle_basic_cancel(struct channel *channel)
{
    struct subscription *s = find_subscription(channel, channel->method.basic_cancel.consumer_tag);
    bool is_reply = s && channel->reply_subscription == s;

    if (s)
        consume_end(s);
    if (is_reply)
        channel_await(channel,
                      broker_delete_queue(channel->session->client, &channel->request,
                                          slice_text(channel->reply_queue), false, false),
                      reply_queue_gone);
    else
        send_cancel_ok(channel);
}

/* The client's answer to our cancel; it may also stand for one. */
void handle_basic_cancel_ok(struct channel *channel)
{
    struct subscription *s =
        find_subscription(channel, channel->method.basic_cancel_ok.consumer_tag);

    if (s)
        consume_end(s);
}

/* ---- basic.get ---- */

static void give_back(struct channel *channel, const struct delivery *delivery, bool no_ack)
{
    if (!no_ack)
        broker_settle(channel->session->client, &delivery->lease, 1, OUTCOME_RETURN_UNSEEN);
}

static void send_got(struct channel *channel, const struct delivery *delivery, uint64_t left)
{
    struct method ok = {.id = METHOD_basic_get_ok};

    ok.basic_get_ok.delivery_tag = channel->next_tag++;
    ok.basic_get_ok.redelivered = delivery->redelivered;
    ok.basic_get_ok.exchange = message_exchange(delivery->message);
    ok.basic_get_ok.routing_key = message_key(delivery->message);
    ok.basic_get_ok.message_count = left > UINT32_MAX ? UINT32_MAX : (uint32_t)left;
    channel_write(channel, &ok);
    struct message *told = as_told(channel->session, delivery);
    write_content(channel->session, channel->number, told);
    message_unref(told);
}

static void got(struct channel *channel)
{
    struct session *session = channel->session;
    bool no_ack = channel->method.basic_get.no_ack;

    if (channel_request_failed(channel))
        return;
    const struct delivery *delivery = &channel->request.result.get.delivery;
    if (channel->request.failure.code)
        return;
    if (!delivery->message) {
        channel_write(channel, &(struct method){.id = METHOD_basic_get_empty});
        return;
    }
    if (channel->state != CHANNEL_OPEN || session->state != SESSION_RUNNING) {
        give_back(channel, delivery, no_ack);
    } else if (!no_ack &&
               unacked_add(&channel->unacked, channel->next_tag, delivery->lease, NULL)) {
        give_back(channel, delivery, no_ack);
        channel_fail(channel, REPLY_RESOURCE_ERROR, "no memory for another delivery");
    } else {
        send_got(channel, delivery, channel->request.result.get.ready);
    }
    message_unref(delivery->message);
}

void handle_basic_get(struct channel *channel)
{
    struct basic_get *m = &channel->method.basic_get;

    if (!channel_queue_name(channel, &m->queue))
        return;
    channel_await(
        channel, broker_get(channel->session->client, &channel->request, m->queue, m->no_ack), got);
}
