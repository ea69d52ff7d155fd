/* What remotes do wrong, and what must come of it: the right party is closed, with RabbitMQ's code.
 */
#include "remote.h"

#include "base/error.h"

enum needs { NEEDS_ANY, NEEDS_PLAIN, NEEDS_CONFIRM, NEEDS_TX, NEEDS_CONSUMER };

struct misuse {
    const char *name;
    void (*commit)(struct remote *r, struct remote_channel *ch);
    uint16_t code; /* 0: whatever, or nothing but the end of the stream */
    uint32_t method;
    bool ends_connection;
    enum needs needs;
};

#define SAY(name, ...)                                                                             \
    remote_send(r, ch->number, &(struct method){.id = METHOD_##name, .name = {__VA_ARGS__}})
#define SAY_EMPTY(name) remote_send(r, ch->number, &(struct method){.id = METHOD_##name})
#define RAW(bytes)      remote_send_bytes(r, bytes, sizeof(bytes) - 1)

/* ---- what closes the channel ---- */

static void unknown_tag(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_ack, .delivery_tag = ch->last_tag + 1000, .multiple = dice(r->world, 2));
}

static void unknown_tag_rejected(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_reject, .delivery_tag = 0, .requeue = true);
}

static void settled_twice(struct remote *r, struct remote_channel *ch)
{
    uint64_t tag = ch->held_count > 0 ? ch->held[0].tag : ch->last_tag + 1000;

    if (ch->held_count > 0)
        script_settle(r, ch, 0, false, METHOD_basic_nack, true);
    SAY(basic_nack, .delivery_tag = tag, .requeue = true);
}

static void wrong_exchange(struct remote *r, struct remote_channel *ch)
{
    uint8_t properties[64];

    script_publish_bytes(r, ch->number, "no-such-exchange", "a", false,
                         slice_of(properties, script_properties(properties, true, NULL)),
                         slice_text("to nobody"));
}

static void wrong_passive(struct remote *r, struct remote_channel *ch)
{
    SAY(queue_declare, .queue = slice_text("no-such-queue"), .passive = true);
}

static void wrong_consume(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_consume, .queue = slice_text("no-such-queue"));
}

static void wrong_get(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_get, .queue = slice_text("no-such-queue"));
}

static void wrong_bind(struct remote *r, struct remote_channel *ch)
{
    SAY(queue_bind, .queue = slice_text("no-such-queue"), .exchange = slice_text("amq.direct"));
}

static void wrong_type(struct remote *r, struct remote_channel *ch)
{
    SAY(exchange_declare, .exchange = slice_text("x"), .type = slice_text("no-such-type"));
}

static void other_type(struct remote *r, struct remote_channel *ch)
{
    SAY(exchange_declare, .exchange = slice_text("amq.direct"), .type = slice_text("fanout"),
        .durable = true);
}

static void reserved_name(struct remote *r, struct remote_channel *ch)
{
    SAY(queue_declare, .queue = slice_text("amq.mine"));
}

static void default_exchange(struct remote *r, struct remote_channel *ch)
{
    SAY(exchange_delete, .exchange = slice_text(""));
}

static void not_in_tx(struct remote *r, struct remote_channel *ch)
{
    SAY_EMPTY(tx_commit);
}

static void rollback_not_in_tx(struct remote *r, struct remote_channel *ch)
{
    SAY_EMPTY(tx_rollback);
}

static void confirm_in_tx(struct remote *r, struct remote_channel *ch)
{
    SAY(confirm_select, .no_wait = dice(r->world, 2));
}

static void tx_in_confirm(struct remote *r, struct remote_channel *ch)
{
    SAY_EMPTY(tx_select);
}

static void too_large(struct remote *r, struct remote_channel *ch)
{
    struct content_header header = {60, 0, 17u << 20, slice_of("\0\0", 2)};
    uint8_t memory[64];
    struct writer writer = writer_of(memory, sizeof memory);

    SAY(basic_publish, .routing_key = slice_text("a"));
    amqp091_content_header_write(&writer, ch->number, &header);
    remote_send_bytes(r, memory, writer_size(&writer));
}

static void publish_with(struct remote *r, struct remote_channel *ch, const char *properties,
                         size_t size)
{
    script_publish_bytes(r, ch->number, "", "a", false, slice_of(properties, size),
                         slice_text("wrong"));
}

static void wrong_user(struct remote *r, struct remote_channel *ch)
{
    publish_with(r, ch, "\x00\x10\x05other", 8);
}

static void wrong_expiration(struct remote *r, struct remote_channel *ch)
{
    publish_with(r, ch, "\x01\x00\x04soon", 7);
}

static void reply_to_nobody(struct remote *r, struct remote_channel *ch)
{
    publish_with(r, ch,
                 "\x02\x00\x15"
                 "amq.rabbitmq.reply-to",
                 24);
}

static void reply_with_ack(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_consume, .queue = slice_text("amq.rabbitmq.reply-to"));
}

/* ---- what closes the connection ---- */

static void tag_again(struct remote *r, struct remote_channel *ch)
{
    char tag[16];

    for (unsigned i = 0; i < REMOTE_CONSUMERS; i++) {
        if (ch->consumers[i].state != CONSUMER_THERE)
            continue;
        snprintf(tag, sizeof tag, "c%u", ch->consumers[i].serial);
        SAY(basic_consume, .queue = slice_text(queue_names[0]), .consumer_tag = slice_text(tag));
        return;
    }
}

static void prefetch_size(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_qos, .prefetch_size = 1);
}

static void immediate(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_publish, .routing_key = slice_text("a"), .immediate = true);
}

static void recover_without_requeue(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_recover, .requeue = false);
}

static void second_open(struct remote *r, struct remote_channel *ch)
{
    SAY_EMPTY(channel_open);
}

static void channel_unknown(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    remote_send(r, 77, &(struct method){.id = METHOD_basic_get});
}

static void no_method(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    RAW("\x01\0\x01\0\0\0\x04\0\x3c\0\x29\xce");
}

static void server_method(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_deliver, .delivery_tag = 1);
}

static void second_start_ok(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    remote_send(r, 0,
                &(struct method){.id = METHOD_connection_start_ok,
                                 .connection_start_ok.mechanism = slice_text("PLAIN")});
}

static void frame_end(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    RAW("\x01\0\x01\0\0\0\x04\0\x14\0\x28"
        "A");
}

static void frame_type(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    RAW("\x05\0\0\0\0\0\x01"
        "A\xce");
}

static void frame_size(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    RAW("\x03\0\x01\0\x02\0\x09");
}

static void heartbeat_on_channel(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    RAW("\x08\0\x01\0\0\0\0\xce");
}

static void body_of_connection(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    RAW("\x03\0\0\0\0\0\0\xce");
}

/* A frame of `size` bytes. */
static void send_frame(struct remote *r, const struct remote_channel *ch, enum frame_type type,
                       const void *payload, size_t size)
{
    uint8_t head[FRAME_HEADER_SIZE] = {(uint8_t)type};

    store_be16(head + 1, ch->number);
    store_be32(head + 3, (uint32_t)size);
    remote_send_bytes(r, head, sizeof head);
    remote_send_bytes(r, payload, size);
    RAW("\xce");
}

static void body_alone(struct remote *r, struct remote_channel *ch)
{
    send_frame(r, ch, FRAME_BODY, "body", 4);
}

static void arguments_short(struct remote *r, struct remote_channel *ch)
{
    send_frame(r, ch, FRAME_METHOD, "\0\x3c\0\x50\x01", 5);
}

static void not_utf8(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_get, .queue = slice_of("\xff\xfe", 2));
}

static void broken_table(struct remote *r, struct remote_channel *ch)
{
    SAY(queue_declare, .queue = slice_text("q"), .arguments = slice_of("\x01xS\0\0\0\x09", 7));
}

static void method_for_content(struct remote *r, struct remote_channel *ch)
{
    SAY(basic_publish, .routing_key = slice_text("a"));
    SAY(basic_get, .queue = slice_text(queue_names[0]));
}

static void header_of_size(struct remote *r, struct remote_channel *ch, uint16_t class_id,
                           uint64_t body_size)
{
    struct content_header header = {class_id, 0, body_size, slice_of("\0\0", 2)};
    uint8_t memory[64];
    struct writer writer = writer_of(memory, sizeof memory);

    SAY(basic_publish, .routing_key = slice_text("a"));
    amqp091_content_header_write(&writer, ch->number, &header);
    remote_send_bytes(r, memory, writer_size(&writer));
}

static void body_too_long(struct remote *r, struct remote_channel *ch)
{
    header_of_size(r, ch, 60, 3);
    body_alone(r, ch);
}

static void body_too_long_later(struct remote *r, struct remote_channel *ch)
{
    header_of_size(r, ch, 60, 7);
    body_alone(r, ch);
    body_alone(r, ch);
}

static void body_too_short(struct remote *r, struct remote_channel *ch)
{
    header_of_size(r, ch, 60, 5);
    body_alone(r, ch);
    SAY(basic_get, .queue = slice_text(queue_names[0]));
}

static void header_of_class(struct remote *r, struct remote_channel *ch)
{
    header_of_size(r, ch, 50, 5);
}

static void too_many_channels(struct remote *r, struct remote_channel *ch)
{
    (void)ch;
    for (uint16_t i = 0; i <= CHANNELS_AGREED; i++)
        remote_send(r, (uint16_t)(CHANNELS_EXTRA + i), &(struct method){.id = METHOD_channel_open});
}

/* Anything may come of it but harm to others. */
static void garbage(struct remote *r, struct remote_channel *ch)
{
    uint8_t bytes[64];
    size_t size = 8 + dice(r->world, sizeof bytes - 8);

    (void)ch;
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)dice(r->world, 256);
    bytes[0] |= 0x10; /* no type that there is */
    bytes[3] = 0xff;  /* and a size that nobody agreed to */
    remote_send_bytes(r, bytes, size);
}

#define CHANNEL(function, code, method, needs)                                                     \
    {                                                                                              \
#function, function, code, METHOD_##method, false, needs                                   \
    }
#define CONNECTION(function, code, method)                                                         \
    {                                                                                              \
#function, function, code, method, true, NEEDS_ANY                                         \
    }

static const struct misuse misuses[] = {
    CHANNEL(unknown_tag, 406, basic_ack, NEEDS_ANY),
    CHANNEL(unknown_tag_rejected, 406, basic_reject, NEEDS_ANY),
    CHANNEL(settled_twice, 406, basic_nack, NEEDS_CONFIRM),
    CHANNEL(wrong_exchange, 404, basic_publish, NEEDS_PLAIN),
    CHANNEL(wrong_exchange, 404, basic_publish, NEEDS_CONFIRM),
    CHANNEL(wrong_exchange, 404, basic_publish, NEEDS_TX),
    CHANNEL(wrong_passive, 404, queue_declare, NEEDS_ANY),
    CHANNEL(wrong_consume, 404, basic_consume, NEEDS_ANY),
    CHANNEL(wrong_get, 404, basic_get, NEEDS_ANY),
    CHANNEL(wrong_bind, 404, queue_bind, NEEDS_ANY),
    CHANNEL(wrong_type, 406, exchange_declare, NEEDS_ANY),
    CHANNEL(other_type, 406, exchange_declare, NEEDS_ANY),
    CHANNEL(reserved_name, 403, queue_declare, NEEDS_ANY),
    CHANNEL(default_exchange, 403, exchange_delete, NEEDS_ANY),
    CHANNEL(not_in_tx, 406, tx_commit, NEEDS_CONFIRM),
    CHANNEL(not_in_tx, 406, tx_commit, NEEDS_PLAIN),
    CHANNEL(rollback_not_in_tx, 406, tx_rollback, NEEDS_CONFIRM),
    CHANNEL(confirm_in_tx, 406, confirm_select, NEEDS_TX),
    CHANNEL(tx_in_confirm, 406, tx_select, NEEDS_CONFIRM),
    CHANNEL(too_large, 406, basic_publish, NEEDS_ANY),
    CHANNEL(wrong_user, 406, basic_publish, NEEDS_ANY),
    CHANNEL(wrong_expiration, 406, basic_publish, NEEDS_ANY),
    CHANNEL(reply_with_ack, 406, basic_consume, NEEDS_ANY),
    CHANNEL(reply_to_nobody, 406, basic_publish, NEEDS_ANY),
    {"tag_again", tag_again, 530, METHOD_basic_consume, true, NEEDS_CONSUMER},
    CONNECTION(prefetch_size, 540, METHOD_basic_qos),
    CONNECTION(immediate, 540, METHOD_basic_publish),
    CONNECTION(recover_without_requeue, 540, METHOD_basic_recover),
    CONNECTION(second_open, 504, METHOD_channel_open),
    CONNECTION(channel_unknown, 504, METHOD_basic_get),
    CONNECTION(no_method, 503, METHOD_ID(60, 41)),
    CONNECTION(server_method, 503, METHOD_basic_deliver),
    CONNECTION(second_start_ok, 504, METHOD_connection_start_ok),
    CONNECTION(frame_end, 501, 0),
    CONNECTION(frame_type, 501, 0),
    CONNECTION(frame_size, 501, 0),
    CONNECTION(heartbeat_on_channel, 505, 0),
    CONNECTION(body_of_connection, 505, 0),
    CONNECTION(body_alone, 505, 0),
    CONNECTION(arguments_short, 501, METHOD_basic_ack),
    CONNECTION(not_utf8, 501, METHOD_basic_get),
    CONNECTION(broken_table, 502, METHOD_queue_declare),
    CONNECTION(method_for_content, 505, METHOD_basic_publish),
    CONNECTION(body_too_long, 501, METHOD_basic_publish),
    CONNECTION(body_too_long_later, 501, METHOD_basic_publish),
    CONNECTION(body_too_short, 505, METHOD_basic_publish),
    CONNECTION(header_of_class, 505, METHOD_basic_publish),
    CONNECTION(too_many_channels, 530, 0),
    CONNECTION(garbage, 0, 0),
};

static bool has_consumer(const struct remote_channel *ch, bool for_replies)
{
    for (unsigned i = 0; i < REMOTE_CONSUMERS; i++) {
        const struct remote_consumer *c = &ch->consumers[i];
        if (c->state == CONSUMER_THERE && (!for_replies || c->is_reply))
            return true;
    }
    return false;
}

static bool fits(const struct misuse *misuse, const struct remote_channel *ch)
{
    if (misuse->commit == reply_to_nobody && has_consumer(ch, true))
        return false;
    switch (misuse->needs) {
    case NEEDS_PLAIN:
        return ch->mode == MODE_PLAIN;
    case NEEDS_CONFIRM:
        return ch->mode == MODE_CONFIRM;
    case NEEDS_TX:
        return ch->mode == MODE_TX;
    case NEEDS_CONSUMER:
        return has_consumer(ch, false);
    default:
        return true;
    }
}

bool misuse_act(struct remote *r)
{
    struct world *w = r->world;
    struct remote_channel *ch = &r->channels[dice(w, REMOTE_CHANNELS)];
    const struct misuse *misuse = &misuses[dice(w, sizeof misuses / sizeof misuses[0])];

    if (!channel_is_calm(ch) || !fits(misuse, ch))
        return false;
    for (unsigned i = 0; i < REMOTE_CHANNELS && misuse->ends_connection; i++) {
        if (r->channels[i].state != CHANNEL_NONE && !channel_is_calm(&r->channels[i]))
            return false;
    }
    trace(w, "remote %u.%u does wrong: %s", r->index, ch->number, misuse->name);
    misuse->commit(r, ch);
    r->expected = (struct expectation){.name = misuse->name,
                                       .channel = misuse->ends_connection ? 0 : ch->number,
                                       .code = misuse->code,
                                       .method = misuse->method};
    if (misuse->ends_connection)
        remote_doom(r);
    else
        channel_doom(r, ch);
    return true;
}
