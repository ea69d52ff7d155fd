/*
 * Publishing one message, as RabbitMQ's management API does it:
 *
 *   POST /api/exchanges/VHOST/NAME/publish
 *        {"properties": {"headers": {...}, "delivery_mode": 2}, "routing_key": "k",
 *         "payload": "text", "payload_encoding": "string"}
 *
 * It is answered when the message is stored: {"routed": true}, or false where no queue wanted it.
 */
#include "base/memory.h"
#include "message/amqp091_properties.h"
#include "protocols/http/management_private.h"

#include <stdlib.h>

#define EXPIRATION_MAX_MS 315360000000u /* ten years */
#define FRAME_ROOM        64u           /* of a header's frame that is not properties */

struct publication {
    struct message *message;
    struct publish publish;
    struct slice *more_keys;
};

static void release(void *state)
{
    struct publication *publication = state;

    if (publication->message)
        message_unref(publication->message);
    free(publication->more_keys);
    free(publication);
}

/* ---- the message ---- */

/* What is being made of the request's body. */
struct making {
    struct exchange *exchange;
    const json_t *body;
    struct amqp091_properties properties;
    uint8_t *headers, *written; /* each of so many bytes: */
    size_t room;
    struct failure failure;
};

static int take_headers(struct making *making, const json_t *headers)
{
    struct writer writer = writer_of(making->headers, making->room);

    if (!json_is_object(headers))
        return fail(&making->failure, E_INVALID, "headers must be an object");
    if (json_object_get(headers, "BCC"))
        return fail(&making->failure, E_INVALID, "BCC is not supported here");
    int result = http_json_write_table(headers, &writer);
    if (result != 0)
        return fail(&making->failure, result, "the headers are too large, or too deep");
    making->properties.headers = slice_of(making->headers, writer_size(&writer));
    making->properties.flags |= AMQP091_HEADERS;
    return 0;
}

static int take_property(struct making *making, const char *name, const json_t *value)
{
    struct field field = {.name = slice_text(name)};

    if (strcmp(name, "headers") == 0)
        return take_headers(making, value);
    if (json_is_string(value)) {
        field.type = 'S';
        field.value.bytes = slice_of(json_string_value(value), json_string_length(value));
    } else if (json_is_integer(value)) {
        field.type = 'l';
        field.value.integer = json_integer_value(value);
    }
    int result = amqp091_properties_set(&making->properties, &field);
    if (result == E_NOT_FOUND)
        return fail(&making->failure, E_INVALID, "no property '%s'", name);
    return result == 0 ? 0 : fail(&making->failure, result, "property '%s' cannot be that", name);
}

static int take_properties(struct making *making)
{
    json_t *properties = json_object_get(making->body, "properties");
    struct slice user = client_user(making->exchange->client);
    const struct amqp091_properties *p = &making->properties;
    const char *name;
    json_t *value;

    if (json_is_array(properties) && json_array_size(properties) == 0)
        return 0; /* as some languages write an empty table */
    if (properties && !json_is_object(properties))
        return fail(&making->failure, E_INVALID, "properties must be an object");
    json_object_foreach(properties, name, value)
    {
        int result = take_property(making, name, value);
        if (result != 0)
            return result;
    }
    if ((p->flags & AMQP091_USER_ID) && !slice_equal(p->user_id, user) &&
        !client_may_impersonate(making->exchange->client))
        return fail(&making->failure, E_INVALID,
                    "user_id property set to '%.*s' but authenticated user was '%.*s'",
                    SLICE_ARGS(p->user_id), SLICE_ARGS(user));
    return 0;
}

/* *memory: what the payload was decoded into, to be freed. */
static int take_payload(struct making *making, struct slice *payload, uint8_t **memory)
{
    const json_t *value = json_object_get(making->body, "payload");
    const json_t *encoding = json_object_get(making->body, "payload_encoding");
    const char *name = encoding ? json_string_value(encoding) : "string";

    if (!json_is_string(value))
        return fail(&making->failure, E_INVALID, "the payload must be a string");
    *payload = slice_of(json_string_value(value), json_string_length(value));
    if (name && strcmp(name, "string") == 0)
        return 0;
    if (!name || strcmp(name, "base64") != 0)
        return fail(&making->failure, E_INVALID, "the payload_encoding must be string or base64");
    *memory = malloc(payload->size + 1);
    if (!*memory)
        return fail(&making->failure, E_MEMORY, "there is no memory for the payload");
    ssize_t size = http_base64_decode(*payload, *memory, payload->size);
    if (size < 0)
        return fail(&making->failure, E_INVALID, "the payload is no base64");
    *payload = slice_of(*memory, (size_t)size);
    return 0;
}

static int take_expiration(struct making *making, struct message_parts *parts)
{
    uint64_t expires_ms;

    if (!(making->properties.flags & AMQP091_EXPIRATION))
        return 0;
    if (http_number(making->properties.expiration, &expires_ms) != 0 ||
        expires_ms > EXPIRATION_MAX_MS)
        return fail(&making->failure, E_INVALID, "invalid expiration '%.*s'",
                    SLICE_ARGS(making->properties.expiration));
    parts->expires_at_ms = parts->published_at_ms + expires_ms;
    return 0;
}

/* The exchange without a name has one in paths. */
static struct slice exchange_name(const struct exchange *exchange)
{
    struct slice name = exchange->parameters[1];

    return slice_is(name, "amq.default") ? slice_of(name.data, 0) : name;
}

static struct message *make(struct making *making, struct slice payload)
{
    const struct amqp091_properties *p = &making->properties;
    struct exchange *exchange = making->exchange;
    struct worker *worker = client_worker(exchange->client);
    const json_t *key = json_object_get(making->body, "routing_key");
    struct writer writer = writer_of(making->written, making->room);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = amqp091_message_flags(p),
        .priority = p->flags & AMQP091_PRIORITY ? p->priority : 0,
        .exchange = exchange_name(exchange),
        .key = slice_of(json_string_value(key), json_string_length(key)),
        .body = payload,
        .published_at_ms = loop_wall_ms(worker_loop(worker)),
    };

    if (!json_is_string(key) || parts.key.size > MESSAGE_ADDRESS_MAX ||
        parts.exchange.size > MESSAGE_ADDRESS_MAX)
        fail(&making->failure, E_INVALID, "the routing_key must be a string of up to 255 bytes");
    else if (amqp091_properties_size(p) > making->room)
        fail(&making->failure, E_LIMIT, "the properties are larger than a frame");
    else if (payload.size > worker_settings(worker)->message_size_max)
        fail(&making->failure, E_LIMIT, "the payload is larger than messages may be");
    else
        take_expiration(making, &parts);
    if (making->failure.code != 0)
        return NULL;
    uint64_t delay_ms = amqp091_delay_ms(p->headers);
    if (delay_ms > 0) {
        parts.not_before_ms = parts.published_at_ms + delay_ms;
        parts.expires_at_ms += parts.expires_at_ms ? delay_ms : 0;
    }
    amqp091_properties_write(&writer, p);
    amqp091_delay_spend(making->written, writer_size(&writer));
    parts.properties = slice_of(making->written, writer_size(&writer));
    struct message *message = message_new(broker_message_account(exchange->client), &parts);
    if (!message)
        fail(&making->failure, E_MEMORY, "there is no memory for the message");
    return message;
}

static struct message *message_of(struct exchange *exchange, const json_t *body,
                                  struct failure *failure)
{
    struct making making = {.exchange = exchange, .body = body};
    struct message *message = NULL;
    struct slice payload;
    uint8_t *memory = NULL;

    making.room = worker_settings(client_worker(exchange->client))->frame_max - FRAME_ROOM;
    making.headers = memory_new(making.room);
    making.written = memory_new(making.room);
    if (take_properties(&making) == 0 && take_payload(&making, &payload, &memory) == 0)
        message = make(&making, payload);
    *failure = making.failure;
    free(making.headers);
    free(making.written);
    free(memory);
    return message;
}

/* ---- publishing it ---- */

static void published(struct exchange *exchange)
{
    const struct publication *publication = exchange->state;

    if (exchange->request.failure.code != 0)
        exchange_fail_as(exchange, &exchange->request.failure);
    else
        http_json_answer(exchange, 200,
                         json_pack("{s:b}", "routed", publication->publish.queues > 0));
}

static void take_more_keys(struct publication *publication)
{
    const struct message_format_functions *format = message_format(publication->message);
    size_t count = format->more_keys(publication->message, NULL, 0);

    if (count == 0)
        return;
    count = count < PUBLISH_KEYS_MAX ? count : PUBLISH_KEYS_MAX;
    publication->more_keys = memory_new(count * sizeof *publication->more_keys);
    format->more_keys(publication->message, publication->more_keys, count);
    publication->publish.more_keys = publication->more_keys;
    publication->publish.more_keys_count = count;
}

/* An alarm that blocks other publishers refuses this one, who would not know why it waits. */
static int check_flow(struct client *client, struct failure *failure)
{
    switch (broker_flow(client)) {
    case FLOW_MEMORY:
        return fail(failure, E_MEMORY, "the memory watermark is passed: publishers are blocked");
    case FLOW_DISK:
        return fail(failure, E_FULL, "the disk watermark is passed: publishers are blocked");
    default:
        return 0;
    }
}

/* The body cannot be read before it is known who asks: the message is that user's. */
static void entered(struct exchange *exchange)
{
    struct publication *publication = exchange->state;
    struct failure failure = exchange->request.failure;
    json_t *body = failure.code == 0 ? http_json_body(exchange) : NULL;

    if (failure.code == 0 && !body)
        return;
    if (body)
        publication->message = message_of(exchange, body, &failure);
    json_decref(body);
    if (publication->message && check_flow(exchange->client, &failure) == 0 &&
        broker_check_publish(exchange->client, publication->message, &failure) == 0) {
        publication->publish.message = publication->message;
        take_more_keys(publication);
        exchange_wait(exchange,
                      broker_transact(exchange->client, &exchange->request, &publication->publish,
                                      1, NULL, 0),
                      published);
        return;
    }
    exchange_fail_as(exchange, &failure);
}

void management_publish(struct exchange *exchange)
{
    exchange->state = memory_new(sizeof(struct publication));
    exchange->release = release;
    exchange_wait(exchange,
                  broker_enter(exchange->client, &exchange->request, exchange->parameters[0]),
                  entered);
}
