/* Class exchange and class queue: each method asks the broker and answers when that is done. */
#include "protocols/amqp091/session_private.h"

#include <stdio.h>

#define REPLY_TO_PREFIX "amq.rabbitmq.reply-to"

static void answer(struct channel *channel, bool no_wait, uint32_t method_id)
{
    if (!no_wait)
        channel_write(channel, &(struct method){.id = method_id});
}

static uint32_t count_on_wire(uint64_t count)
{
    return count > UINT32_MAX ? UINT32_MAX : (uint32_t)count;
}

/* Names lose line ends, as RabbitMQ has it. The bytes are the channel's own copy of the method. */
static struct slice without_line_ends(struct slice name)
{
    uint8_t *to = (uint8_t *)(uintptr_t)name.data;
    size_t size = 0;

    for (size_t i = 0; i < name.size; i++)
        if (name.data[i] != '\r' && name.data[i] != '\n')
            to[size++] = name.data[i];
    return slice_of(name.data, size);
}

/* ---- exchanges ---- */

static bool is_default_exchange(struct channel *channel, struct slice name)
{
    if (name.size > 0)
        return false;
    channel_fail(channel, REPLY_ACCESS_REFUSED, "operation not permitted on the default exchange");
    return true;
}

static void exchange_declared(struct channel *channel)
{
    if (!channel_request_failed(channel))
        answer(channel, channel->method.exchange_declare.no_wait, METHOD_exchange_declare_ok);
}

void handle_exchange_declare(struct channel *channel)
{
    struct exchange_declare *m = &channel->method.exchange_declare;

    m->exchange = without_line_ends(m->exchange);
    if (is_default_exchange(channel, m->exchange))
        return;
    struct exchange_spec spec = {
        .name = m->exchange,
        .type = m->type,
        .passive = m->passive,
        .durable = m->durable,
        .auto_delete = m->auto_delete,
        .internal = m->internal,
        .arguments = m->arguments,
    };
    channel_await(channel,
                  broker_declare_exchange(channel->session->client, &channel->request, &spec),
                  exchange_declared);
}

static void exchange_deleted(struct channel *channel)
{
    if (!channel_request_failed(channel))
        answer(channel, channel->method.exchange_delete.no_wait, METHOD_exchange_delete_ok);
}

void handle_exchange_delete(struct channel *channel)
{
    struct exchange_delete *m = &channel->method.exchange_delete;

    m->exchange = without_line_ends(m->exchange);
    if (is_default_exchange(channel, m->exchange))
        return;
    channel_await(channel,
                  broker_delete_exchange(channel->session->client, &channel->request, m->exchange,
                                         m->if_unused),
                  exchange_deleted);
}

/* ---- bindings ---- */

/* The four methods differ in little; `bound` answers for all. */
static void bound(struct channel *channel)
{
    if (channel_request_failed(channel))
        return;
    switch (channel->method.id) {
    case METHOD_exchange_bind:
        answer(channel, channel->method.exchange_bind.no_wait, METHOD_exchange_bind_ok);
        break;
    case METHOD_exchange_unbind:
        answer(channel, channel->method.exchange_unbind.no_wait, METHOD_exchange_unbind_ok);
        break;
    case METHOD_queue_bind:
        answer(channel, channel->method.queue_bind.no_wait, METHOD_queue_bind_ok);
        break;
    default:
        answer(channel, false, METHOD_queue_unbind_ok);
    }
}

static void bind(struct channel *channel, struct binding_spec *spec, bool is_unbind)
{
    struct client *client = channel->session->client;

    spec->source = without_line_ends(spec->source);
    if (!spec->to_exchange && slice_starts(spec->destination, REPLY_TO_PREFIX ".")) {
        channel_fail(channel, REPLY_ACCESS_REFUSED,
                     "cannot bind or unbind to a volatile (direct reply-to) queue");
        return;
    }
    if (is_default_exchange(channel, spec->source) ||
        (spec->to_exchange && is_default_exchange(channel, spec->destination)))
        return;
    int outcome = is_unbind ? broker_unbind(client, &channel->request, spec)
                            : broker_bind(client, &channel->request, spec);
    channel_await(channel, outcome, bound);
}

void handle_exchange_bind(struct channel *channel)
{
    struct exchange_bind *m = &channel->method.exchange_bind;
    struct binding_spec spec = {.source = m->source,
                                .destination = without_line_ends(m->destination),
                                .to_exchange = true,
                                .key = m->routing_key,
                                .arguments = m->arguments};
    bind(channel, &spec, false);
}

void handle_exchange_unbind(struct channel *channel)
{
    struct exchange_unbind *m = &channel->method.exchange_unbind;
    struct binding_spec spec = {.source = m->source,
                                .destination = without_line_ends(m->destination),
                                .to_exchange = true,
                                .key = m->routing_key,
                                .arguments = m->arguments};
    bind(channel, &spec, true);
}

/* An empty queue name stands for the last declared queue, and then an empty key for its name. */
static bool expand_shortcut(struct channel *channel, struct slice *queue, struct slice *key)
{
    bool is_short = queue->size == 0;

    if (!channel_queue_name(channel, queue))
        return false;
    if (is_short && key->size == 0)
        *key = *queue;
    else if (!is_short)
        *queue = without_line_ends(*queue);
    return true;
}

void handle_queue_bind(struct channel *channel)
{
    struct queue_bind *m = &channel->method.queue_bind;

    if (!expand_shortcut(channel, &m->queue, &m->routing_key))
        return;
    struct binding_spec spec = {.source = m->exchange,
                                .destination = m->queue,
                                .key = m->routing_key,
                                .arguments = m->arguments};
    bind(channel, &spec, false);
}

void handle_queue_unbind(struct channel *channel)
{
    struct queue_unbind *m = &channel->method.queue_unbind;

    if (!expand_shortcut(channel, &m->queue, &m->routing_key))
        return;
    struct binding_spec spec = {.source = m->exchange,
                                .destination = m->queue,
                                .key = m->routing_key,
                                .arguments = m->arguments};
    bind(channel, &spec, true);
}

/* ---- queues ---- */

static void answer_declared(struct channel *channel, struct slice name, uint64_t messages,
                            uint32_t consumers)
{
    struct method ok = {.id = METHOD_queue_declare_ok};

    if (name.size > 0 && name.size < sizeof channel->last_queue) {
        memmove(channel->last_queue, name.data, name.size);
        channel->last_queue[name.size] = 0;
    }
    if (channel->method.queue_declare.no_wait)
        return;
    ok.queue_declare_ok.queue = name;
    ok.queue_declare_ok.message_count = count_on_wire(messages);
    ok.queue_declare_ok.consumer_count = consumers;
    channel_write(channel, &ok);
}

static void queue_declared(struct channel *channel)
{
    const struct request *request = &channel->request;

    if (!channel_request_failed(channel))
        answer_declared(channel, slice_text(request->result.queue.name),
                        request->result.queue.counts.ready, request->result.queue.counts.consumers);
}

/* The queue of somebody's direct reply-to: it is there as long as its consumer, who owns it. */
static void reply_queue_asked(struct channel *channel)
{
    if (channel->request.failure.code == E_LOCKED)
        channel->request.failure.code = 0;
    if (!channel_request_failed(channel))
        answer_declared(channel, channel->method.queue_declare.queue, 0, 1);
}

void handle_queue_declare(struct channel *channel)
{
    struct queue_declare *m = &channel->method.queue_declare;
    bool is_reply = slice_starts(m->queue, REPLY_TO_PREFIX);

    m->queue = without_line_ends(m->queue);
    if (slice_is(m->queue, REPLY_TO_PREFIX)) {
        answer_declared(channel, m->queue, 0, 1);
        return;
    }
    struct queue_spec spec = {
        .name = m->queue,
        .passive = m->passive || is_reply,
        .durable = m->durable,
        .exclusive = m->exclusive,
        .auto_delete = m->auto_delete,
        .arguments = m->arguments,
    };
    channel_await(channel, broker_declare_queue(channel->session->client, &channel->request, &spec),
                  is_reply ? reply_queue_asked : queue_declared);
}

static void queue_deleted(struct channel *channel)
{
    struct method ok = {.id = METHOD_queue_delete_ok};

    if (channel_request_failed(channel) || channel->method.queue_delete.no_wait)
        return;
    ok.queue_delete_ok.message_count = count_on_wire(channel->request.result.queue.counts.ready);
    channel_write(channel, &ok);
}

void handle_queue_delete(struct channel *channel)
{
    struct queue_delete *m = &channel->method.queue_delete;

    m->queue = without_line_ends(m->queue);
    if (!channel_queue_name(channel, &m->queue))
        return;
    channel_await(channel,
                  broker_delete_queue(channel->session->client, &channel->request, m->queue,
                                      m->if_unused, m->if_empty),
                  queue_deleted);
}

static void queue_purged(struct channel *channel)
{
    struct method ok = {.id = METHOD_queue_purge_ok};

    if (channel_request_failed(channel) || channel->method.queue_purge.no_wait)
        return;
    ok.queue_purge_ok.message_count = count_on_wire(channel->request.result.queue.counts.ready);
    channel_write(channel, &ok);
}

void handle_queue_purge(struct channel *channel)
{
    struct queue_purge *m = &channel->method.queue_purge;

    if (!channel_queue_name(channel, &m->queue))
        return;
    channel_await(channel,
                  broker_purge_queue(channel->session->client, &channel->request, m->queue),
                  queue_purged);
}
