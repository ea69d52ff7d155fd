#include "base/assert.h"
#include "base/memory.h"
#include "protocols/amqp091/session_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the set of channels ---- */

struct channel *channel_find(struct session *session, uint16_t number)
{
    struct channel *last = session->last_channel;

    if (last && last->number == number)
        return last;
    struct channel *channel = map_get_number(&session->channels, number);
    if (channel)
        session->last_channel = channel;
    return channel;
}

/* What one channel costs while it is open. */
#define CHANNEL_COST (sizeof(struct channel))

static struct channel *channel_new(struct session *session, uint16_t number)
{
    if (account_charge(session->account, CHANNEL_COST))
        return NULL;
    struct channel *channel = memory_new(sizeof *channel);
    channel->session = session;
    channel->number = number;
    list_init(&channel->busy_link);
    list_init(&channel->subscriptions);
    list_init(&channel->limited);
    unacked_init(&channel->unacked, session->account);
    map_put_number(&session->channels, number, channel);
    session->last_channel = channel;
    return channel;
}

static void forget_parked(struct channel *channel)
{
    channel->session->parked_bytes -= channel->parked.size - channel->parked_at;
    kept_free(channel->session->account, &channel->parked);
    channel->parked_at = 0;
}

/* All memory but the struct. */
static void empty(struct channel *channel)
{
    struct session *session = channel->session;

    ASSERT(channel->unacked.count == 0);
    transaction_free(channel);
    for (struct list *link; (link = list_take_first(&channel->subscriptions));) {
        /* the broker has let go of them with the client */
        account_release(session->account, sizeof(struct subscription));
        free(CONTAINER_OF(link, struct subscription, link));
    }
    forget_parked(channel);
    kept_free(session->account, &channel->method_bytes);
    unacked_fini(&channel->unacked);
    if (channel->has_tags)
        map_fini(&channel->tags);
    publish_abandon(channel);
    list_remove(&channel->busy_link);
    account_release(session->account, CHANNEL_COST);
}

void channel_free(struct channel *channel)
{
    struct session *session = channel->session;

    if (!session->is_abandoned)
        empty(channel);
    map_remove_number(&session->channels, channel->number);
    if (session->last_channel == channel)
        session->last_channel = NULL;
    free(channel);
}

void channel_abandon(struct channel *channel)
{
    const struct request *request = &channel->request;

    ASSERT(channel->session->is_releasing); /* so that no credit is given */
    if (channel->request_is_pending && request->is_get && request->result.get.delivery.message)
        message_unref(request->result.get.delivery.message);
    transaction_free(channel);
    for (uint64_t tag = 0; (tag = unacked_next(&channel->unacked, tag));) {
        struct subscription *subscription = unacked_find(&channel->unacked, tag)->subscription;
        unacked_remove(&channel->unacked, tag);
        if (subscription)
            consume_forget(subscription, 1);
    }
    empty(channel); /* the rest goes with free(): the broker may know the request still */
}

/* The channel has ended for the client, who may open one of the same number: parked frames are for
 * that one. */
static void become_none(struct channel *channel)
{
    struct session *session = channel->session;

    ASSERT(channel->is_released && !channel->request_is_pending);
    channel->state = CHANNEL_NONE;
    session->channel_count--;
    kept_free(session->account, &channel->method_bytes);
    session_go_on(session, channel); /* which frees it, or takes up what is parked */
}

static void open_channel(struct session *session, struct channel *channel, uint16_t number)
{
    if (!channel)
        channel = channel_new(session, number);
    if (!channel) {
        session_fail(session, NULL, REPLY_RESOURCE_ERROR, METHOD_channel_open,
                     "no memory for channel %u", number);
        return;
    }
    unacked_fini(&channel->unacked);
    channel->state = CHANNEL_OPEN;
    channel->close_ok_has_come = channel->is_released = false;
    channel->job = (struct settle_job){0};
    channel->last_queue[0] = channel->reply_queue[0] = 0;
    channel->prefetch = channel->prefetch_global = 0;
    channel->next_tag = 1;
    channel->held = channel->confirmed = 0;
    session->channel_count++;
    session_write_empty(session, number, METHOD_channel_open_ok);
}

/* ---- errors and replies ---- */

void channel_write(struct channel *channel, const struct method *method)
{
    if (channel->state == CHANNEL_OPEN && channel->session->state == SESSION_RUNNING)
        session_write(channel->session, channel->number, method);
}

void channel_fail(struct channel *channel, enum reply_code code, const char *format, ...)
{
    char text[FAILURE_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    session_fail(channel->session, channel, code, channel->method.id, "%s", text);
}

void channel_close(struct channel *channel, enum reply_code code, uint32_t method_id,
                   const char *explanation)
{
    struct session *session = channel->session;
    char text[REPLY_TEXT_MAX + 1];

    if (channel->state != CHANNEL_OPEN || session->state >= SESSION_CLOSING)
        return;
    size_t size = reply_text(text, code, explanation);
    const char *method = amqp091_method_name(method_id);
    log_error(session->logger, "channel",
              "channel error on connection %s (vhost: '%s', user: '%s'), channel %u: operation %s "
              "caused a channel exception %s",
              session->name, session->vhost, session->user, channel->number,
              method ? method : "none", text);
    struct method close = {.id = METHOD_channel_close};
    close.channel_close.reply_code = (uint16_t)code;
    close.channel_close.reply_text = slice_of(text, size);
    close.channel_close.class_id = (uint16_t)(method_id >> 16);
    close.channel_close.method_id = (uint16_t)method_id;
    session_write(session, channel->number, &close);
    channel->state = CHANNEL_CLOSING;
    session_go_on(session, channel);
}

/* ---- requests ---- */

void channel_await(struct channel *channel, int outcome, void (*completed)(struct channel *))
{
    if (outcome == PENDING) {
        channel->request_is_pending = true;
        channel->completed = completed;
    } else {
        completed(channel);
    }
}

bool channel_request_failed(struct channel *channel)
{
    const struct failure *failure = &channel->request.failure;

    if (failure->code == 0)
        return false;
    channel_fail(channel, reply_for_error(failure->code, channel->method.id), "%s", failure->text);
    return true;
}

bool channel_queue_name(struct channel *channel, struct slice *name)
{
    if (name->size > 0)
        return true;
    if (!channel->last_queue[0]) {
        channel_fail(channel, REPLY_NOT_FOUND, "no previously declared queue");
        return false;
    }
    *name = slice_text(channel->last_queue);
    return true;
}

/* ---- class channel, and odds and ends ---- */

static void handle_channel_open(struct channel *channel)
{
    channel_fail(channel, REPLY_CHANNEL_ERROR, "second 'channel.open' seen");
}

static void handle_channel_close(struct channel *channel)
{
    channel->state = CHANNEL_RELEASING;
    session_go_on(channel->session, channel);
}

static void handle_channel_flow(struct channel *channel)
{
    if (!channel->method.channel_flow.active) {
        channel_fail(channel, REPLY_NOT_IMPLEMENTED, "active=false");
        return;
    }
    struct method ok = {.id = METHOD_channel_flow_ok, .channel_flow_ok.active = true};
    channel_write(channel, &ok);
}

static void handle_access_request(struct channel *channel)
{
    struct method ok = {.id = METHOD_access_request_ok, .access_request_ok.ticket = 1};
    channel_write(channel, &ok);
}

typedef void handler(struct channel *channel);

static handler *handler_of(uint32_t method_id)
{
    switch (method_id) {
    case METHOD_channel_open:
        return handle_channel_open;
    case METHOD_channel_close:
        return handle_channel_close;
    case METHOD_channel_flow:
        return handle_channel_flow;
    case METHOD_access_request:
        return handle_access_request;
    case METHOD_exchange_declare:
        return handle_exchange_declare;
    case METHOD_exchange_delete:
        return handle_exchange_delete;
    case METHOD_exchange_bind:
        return handle_exchange_bind;
    case METHOD_exchange_unbind:
        return handle_exchange_unbind;
    case METHOD_queue_declare:
        return handle_queue_declare;
    case METHOD_queue_delete:
        return handle_queue_delete;
    case METHOD_queue_purge:
        return handle_queue_purge;
    case METHOD_queue_bind:
        return handle_queue_bind;
    case METHOD_queue_unbind:
        return handle_queue_unbind;
    case METHOD_basic_qos:
        return handle_basic_qos;
    case METHOD_basic_consume:
        return handle_basic_consume;
    case METHOD_basic_cancel:
        return handle_basic_cancel;
    case METHOD_basic_cancel_ok:
        return handle_basic_cancel_ok;
    case METHOD_basic_get:
        return handle_basic_get;
    case METHOD_basic_recover:
        return handle_basic_recover;
    case METHOD_basic_recover_async:
        return handle_basic_recover_async;
    case METHOD_confirm_select:
        return handle_confirm_select;
    case METHOD_tx_select:
        return handle_tx_select;
    case METHOD_tx_commit:
        return handle_tx_commit;
    case METHOD_tx_rollback:
        return handle_tx_rollback;
    default:
        return NULL;
    }
}

/* ---- frames ---- */

/* The frequent ones need neither a copy of their bytes nor the table. */
static bool take_settlement(struct channel *channel, struct slice payload)
{
    uint32_t id = load_be32(payload.data);
    bool has_bits = payload.size == 13;

    if (!has_bits ||
        (id != METHOD_basic_ack && id != METHOD_basic_nack && id != METHOD_basic_reject))
        return false;
    uint64_t tag = load_be64(payload.data + 4);
    uint8_t bits = payload.data[12];
    channel->method.id = id;
    if (id == METHOD_basic_ack)
        settle_ack(channel, tag, bits & 1);
    else if (id == METHOD_basic_nack)
        settle_reject(channel, tag, bits & 1, bits & 2 ? OUTCOME_RETURN : OUTCOME_REJECT);
    else
        settle_reject(channel, tag, false, bits & 1 ? OUTCOME_RETURN_COUNTED : OUTCOME_REJECT);
    return true;
}

static void take_method(struct channel *channel, struct slice payload)
{
    struct session *session = channel->session;
    struct failure failure;

    if (take_settlement(channel, payload))
        return;
    kept_clear(session->account, &channel->method_bytes);
    if (kept_append(session->account, &channel->method_bytes, payload)) {
        session_fail(session, NULL, REPLY_RESOURCE_ERROR, load_be32(payload.data),
                     "no memory for a method of %zu bytes", payload.size);
        return;
    }
    int error =
        amqp091_method_decode(kept_slice(&channel->method_bytes), &channel->method, &failure);
    if (error) {
        session_fail(session, NULL, reply_for_decoding(error), channel->method.id, "%s",
                     failure.text);
        return;
    }
    handler *handle = handler_of(channel->method.id);
    if (handle)
        handle(channel);
    else
        channel_fail(channel, REPLY_COMMAND_INVALID, "unimplemented method");
}

/* After we closed: only close and close-ok still mean something. */
static void frame_of_closing(struct channel *channel, const struct frame *frame)
{
    uint32_t id = frame->type == FRAME_METHOD ? load_be32(frame->payload.data) : 0;

    if (id == METHOD_channel_close) {
        session_write_empty(channel->session, channel->number, METHOD_channel_close_ok);
    } else if (id == METHOD_channel_close_ok) {
        channel->close_ok_has_come = true;
        if (channel->is_released)
            become_none(channel);
    }
}

static void frame_of_none(struct session *session, struct channel *channel,
                          const struct frame *frame)
{
    struct method method;
    struct failure failure;

    if (session->channel_max && session->channel_count >= session->channel_max) {
        session_fail(session, NULL, REPLY_NOT_ALLOWED, 0,
                     "number of channels opened (%u) has reached the negotiated channel_max (%u)",
                     session->channel_count, session->channel_max);
    } else if (frame->type != FRAME_METHOD) {
        session_fail(session, NULL, REPLY_UNEXPECTED_FRAME, 0,
                     "expected method frame, got non method frame instead");
    } else {
        int error = amqp091_method_decode(frame->payload, &method, &failure);
        if (error)
            session_fail(session, NULL, reply_for_decoding(error), method.id, "%s", failure.text);
        else if (method.id != METHOD_channel_open)
            session_fail(session, NULL, REPLY_CHANNEL_ERROR, method.id, "expected 'channel.open'");
        else
            open_channel(session, channel, frame->channel);
    }
}

size_t channel_frame(struct session *session, uint16_t number, const struct frame *frame,
                     struct slice ahead)
{
    struct channel *channel = channel_find(session, number);

    if (!channel || channel->state == CHANNEL_NONE) {
        frame_of_none(session, channel, frame);
    } else if (channel->state == CHANNEL_CLOSING) {
        frame_of_closing(channel, frame);
    } else if (publish_is_open(channel)) {
        publish_content(channel, frame);
    } else if (frame->type != FRAME_METHOD) {
        session_fail(session, NULL, REPLY_UNEXPECTED_FRAME, 0,
                     "expected method frame, got non method frame instead");
    } else if (load_be32(frame->payload.data) == METHOD_basic_publish) {
        channel->method.id = METHOD_basic_publish;
        return publish_method(channel, slice_of(frame->payload.data + 4, frame->payload.size - 4),
                              ahead);
    } else {
        take_method(channel, frame->payload);
    }
    return 0;
}

/* ---- parking and going on ---- */

static bool can_take_frames(const struct channel *channel)
{
    switch (channel->state) {
    case CHANNEL_OPEN:
        return !channel->request_is_pending && !channel->job.is_running;
    case CHANNEL_RELEASING:
        return false;
    case CHANNEL_CLOSING:
        return !channel->close_ok_has_come;
    default:
        return true;
    }
}

bool channel_is_busy(const struct channel *channel)
{
    return channel->parked.size > channel->parked_at || !can_take_frames(channel);
}

bool channel_park(struct channel *channel, struct slice frame)
{
    struct session *session = channel->session;

    if (session->parked_bytes >= PARKED_BYTES_MAX)
        return false;
    if (kept_append(session->account, &channel->parked, frame))
        session_fail(session, NULL, REPLY_RESOURCE_ERROR, 0,
                     "no memory for what channel %u has sent and not waited for", channel->number);
    else
        session->parked_bytes += frame.size;
    return true;
}

static void take_parked(struct channel *channel)
{
    struct session *session = channel->session;

    while (channel->parked_at < channel->parked.size && session->state == SESSION_RUNNING &&
           session->flow == FLOW_OPEN && can_take_frames(channel)) {
        struct slice left = slice_of(channel->parked.data + channel->parked_at,
                                     channel->parked.size - channel->parked_at);
        struct frame frame;
        ssize_t size = amqp091_frame_read(left, &frame);
        ASSERT(size > 0);
        struct slice ahead = slice_of(left.data + size, left.size - (size_t)size);
        size_t used = (size_t)size + channel_frame(session, channel->number, &frame, ahead);
        channel->parked_at += used;
        session->parked_bytes -= used;
    }
    if (channel->parked_at == channel->parked.size) {
        kept_clear(session->account, &channel->parked);
        channel->parked_at = 0;
    }
    session_set_pause(session);
}

static void end_release(struct channel *channel)
{
    if (channel->state == CHANNEL_RELEASING) {
        session_write_empty(channel->session, channel->number, METHOD_channel_close_ok);
        become_none(channel);
    } else if (channel->state == CHANNEL_CLOSING && channel->close_ok_has_come) {
        become_none(channel);
    }
}

bool channel_go_on(struct channel *channel)
{
    if (channel->state == CHANNEL_RELEASING || channel->state == CHANNEL_CLOSING) {
        bool has_more = false;
        if (!channel->is_released) {
            if (channel_release_step(channel))
                end_release(channel);
            else
                has_more = !channel->request_is_pending;
        }
        if (channel->state == CHANNEL_CLOSING)
            take_parked(channel);
        return has_more;
    }
    if (channel->request_is_pending)
        return false;
    if (channel->job.is_running && !settle_step(channel))
        return true;
    take_parked(channel);
    return channel->job.is_running;
}

/* ---- giving back ---- */

static bool end_subscriptions(struct channel *channel)
{
    for (size_t i = 0; i < SETTLE_SLICE; i++) {
        struct list *link = list_first(&channel->subscriptions);
        if (!link)
            return true;
        consume_end(CONTAINER_OF(link, struct subscription, link));
    }
    return list_empty(&channel->subscriptions);
}

static void reply_queue_deleted(struct channel *channel)
{
    channel->reply_queue[0] = 0;
}

bool channel_release_step(struct channel *channel)
{
    struct session *session = channel->session;
    bool is_alone = session->state == SESSION_RUNNING; /* the connection goes on */

    if (channel->request_is_pending && is_alone)
        return false; /* its completion goes on here */
    publish_abandon(channel);
    if (channel->publisher) {
        publisher_close(channel->publisher);
        channel->publisher = NULL;
    }
    if (!transaction_abandon_step(channel))
        return false;
    if (channel->unacked.count > 0) {
        channel->job = (struct settle_job){
            .is_running = true, .last = UINT64_MAX, .outcome = OUTCOME_RETURN_COUNTED};
        if (!settle_step(channel))
            return false;
    }
    channel->job.is_running = false;
    /* They have taken nothing since the channel was open; whoever comes after them, where one alone
     * consumes, has before it what they gave back. The connection's end with the client. */
    if (is_alone && !end_subscriptions(channel))
        return false;
    if (channel->reply_queue[0] && is_alone) {
        channel_await(channel,
                      broker_delete_queue(session->client, &channel->request,
                                          slice_text(channel->reply_queue), false, false),
                      reply_queue_deleted);
        if (channel->request_is_pending)
            return false;
    }
    channel->is_released = true;
    return true;
}
