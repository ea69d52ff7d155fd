#include "protocols/amqp091/session.h"

#include "base/assert.h"
#include "base/memory.h"
#include "protocols/amqp091/session_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- kept bytes ---- */

#define KEPT_SMALL 1024u

int kept_append(struct account *account, struct kept *kept, struct slice bytes)
{
    if (kept->capacity - kept->size < bytes.size) {
        size_t capacity = kept->capacity ? kept->capacity : 256;
        while (capacity - kept->size < bytes.size)
            capacity *= 2;
        if (account_charge(account, capacity - kept->capacity))
            return E_MEMORY;
        uint8_t *data = realloc(kept->data, capacity);
        if (!data) {
            account_release(account, capacity - kept->capacity);
            return E_MEMORY;
        }
        kept->data = data;
        kept->capacity = capacity;
    }
    if (bytes.size)
        memcpy(kept->data + kept->size, bytes.data, bytes.size);
    kept->size += bytes.size;
    return 0;
}

void kept_free(struct account *account, struct kept *kept)
{
    account_release(account, kept->capacity);
    free(kept->data);
    *kept = (struct kept){0};
}

void kept_clear(struct account *account, struct kept *kept)
{
    kept->size = 0;
    if (kept->capacity > KEPT_SMALL)
        kept_free(account, kept);
}

/* ---- writing ---- */

void session_write(struct session *session, uint16_t channel, const struct method *method)
{
    uint8_t *memory = output_take(&session->wire->output, METHOD_FRAME_MAX);
    struct writer writer = writer_of(memory, METHOD_FRAME_MAX);

    amqp091_method_write(&writer, channel, method);
    ASSERT(!writer.failed);
    output_untake(&session->wire->output, METHOD_FRAME_MAX - writer_size(&writer));
    wire_touch(session->wire);
}

void session_write_empty(struct session *session, uint16_t channel, uint32_t method_id)
{
    session_write(session, channel, &(struct method){.id = method_id});
}

void session_fail(struct session *session, struct channel *channel, enum reply_code code,
                  uint32_t method_id, const char *format, ...)
{
    char text[FAILURE_TEXT_MAX];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (!channel || reply_is_hard(code))
        session_close(session, code, method_id, text);
    else
        channel_close(channel, code, method_id, text);
}

/* ---- pausing and going on ---- */

void session_set_pause(struct session *session)
{
    bool over = session->state >= SESSION_CLOSING;

    session->wire->paused = !over && (session->flow != FLOW_OPEN || session->request_is_pending ||
                                      session->parked_bytes >= PARKED_BYTES_MAX);
}

void session_set_flow(struct session *session, enum flow flow)
{
    bool is_alarm = flow == FLOW_MEMORY || flow == FLOW_DISK;

    if (session->flow == flow)
        return;
    session->flow = flow;
    if (session->state == SESSION_RUNNING && session->has_capability_blocked) {
        if (is_alarm && !session->is_told_blocked) {
            struct method method = {.id = METHOD_connection_blocked};
            method.connection_blocked.reason =
                slice_text(flow == FLOW_MEMORY ? "low on memory" : "low on disk");
            session_write(session, 0, &method);
            session->is_told_blocked = true;
        } else if (!is_alarm && session->is_told_blocked) {
            session_write_empty(session, 0, METHOD_connection_unblocked);
            session->is_told_blocked = false;
        }
    }
    session_set_pause(session);
    if (flow == FLOW_OPEN)
        session->wire->again = true;
    wire_touch(session->wire);
}

void session_go_on(struct session *session, struct channel *channel)
{
    if (!list_linked(&channel->busy_link))
        list_append(&session->busy, &channel->busy_link);
    session->wire->again = true;
    wire_touch(session->wire);
}

/* What is left from before comes first, a slice of each. */
static void go_on(struct session *session)
{
    struct list now;

    if (session->is_releasing && !session->has_left) {
        if (!session_release_step(session)) {
            session->wire->again = true;
            return;
        }
        client_close(session->client);
        session->has_left = true;
        if (session->state == SESSION_ANSWERING) {
            session_write_empty(session, 0, METHOD_connection_close_ok);
            session_finish(session);
        }
        return;
    }
    list_init(&now);
    list_move_all(&now, &session->busy);
    for (struct list *link; (link = list_take_first(&now));) {
        struct channel *channel = CONTAINER_OF(link, struct channel, busy_link);
        if (session->is_releasing)
            continue;
        if (channel_go_on(channel))
            session_go_on(session, channel);
        else if (channel->state == CHANNEL_NONE && !channel_is_busy(channel))
            channel_free(channel);
        else if (channel->parked.size > channel->parked_at && !channel->request_is_pending &&
                 !list_linked(&channel->busy_link))
            list_append(&session->busy, &channel->busy_link); /* until publishing is allowed */
    }
}

/* ---- frames ---- */

/* "all octets = <<1,2,3>>", as RabbitMQ shows what it cannot read. */
static void describe_payload(char *text, size_t size, struct slice payload)
{
    size_t count = payload.size < 16 ? payload.size : 16;
    int at = snprintf(text, size, "%s octets = <<", payload.size <= 16 ? "all" : "first 16");

    for (size_t i = 0; i < count; i++)
        at += snprintf(text + at, size - (size_t)at, i ? ",%u" : "%u", payload.data[i]);
    snprintf(text + at, size - (size_t)at, ">>");
}

static void refuse_frame(struct session *session, const struct frame *frame, enum reply_code code,
                         const char *reason)
{
    char payload[128];

    describe_payload(payload, sizeof payload, frame->payload);
    session_fail(session, NULL, code, 0, "type %u, %s%s%s", frame->type, payload,
                 reason[0] ? ": " : "", reason);
}

/* Nothing that comes can be understood any more, not even close-ok: that is the end. */
static void lose_frames(struct session *session, const struct frame *frame, const char *reason)
{
    refuse_frame(session, frame, REPLY_FRAME_ERROR, reason);
    session_finish(session);
}

static bool is_known_frame(const struct frame *frame)
{
    switch (frame->type) {
    case FRAME_METHOD:
        return frame->size >= 4;
    case FRAME_HEADER:
        return frame->size >= CONTENT_HEADER_FIXED;
    case FRAME_BODY:
        return true;
    case FRAME_HEARTBEAT:
        return frame->size == 0;
    default:
        return false;
    }
}

static void frame_of_connection(struct session *session, const struct frame *frame)
{
    bool is_over = session->state >= SESSION_CLOSING;

    if (!is_known_frame(frame)) {
        if (!is_over)
            refuse_frame(session, frame, REPLY_FRAME_ERROR, "unknown_frame");
    } else if (frame->type == FRAME_METHOD) {
        session_method(session, frame->payload);
    } else if (frame->type != FRAME_HEARTBEAT && !is_over) {
        refuse_frame(session, frame, REPLY_UNEXPECTED_FRAME, "");
    }
}

/* Returns how many bytes of `ahead` were used with it, or E_AGAIN: it cannot be taken now. */
static ssize_t frame_of_channel(struct session *session, const struct frame *frame,
                                struct slice whole, struct slice ahead)
{
    if (session->state >= SESSION_CLOSING)
        return 0;
    if (session->state != SESSION_RUNNING) {
        refuse_frame(session, frame, REPLY_UNEXPECTED_FRAME, "");
        return 0;
    }
    if (!is_known_frame(frame)) {
        refuse_frame(session, frame, REPLY_FRAME_ERROR, "unknown_frame");
        return 0;
    }
    if (frame->type == FRAME_HEARTBEAT) {
        refuse_frame(session, frame, REPLY_UNEXPECTED_FRAME, "");
        return 0;
    }
    struct channel *channel = channel_find(session, frame->channel);
    if (channel && channel_is_busy(channel))
        return channel_park(channel, whole) ? 0 : E_AGAIN;
    return (ssize_t)channel_frame(session, frame->channel, frame, ahead);
}

/* Takes the frame at the start of `bytes`; returns its size with all that was used, or 0. */
static size_t take_frame(struct session *session, struct slice bytes)
{
    struct frame frame;
    char reason[80];
    ssize_t size = amqp091_frame_read(bytes, &frame);

    /* RabbitMQ forgives clients that count the frame's overhead wrong */
    if (frame.size > session->frame_max) {
        frame.payload = slice_of(NULL, 0);
        snprintf(reason, sizeof reason, "{frame_too_large,%u,%u}", frame.size,
                 session->frame_max - FRAME_OVERHEAD);
        lose_frames(session, &frame, reason);
        return 0;
    }
    if (size == E_MORE)
        return 0;
    if (size == E_FRAME) {
        snprintf(reason, sizeof reason, "{invalid_frame_end_marker,%u}",
                 frame.payload.data[frame.size]);
        lose_frames(session, &frame, reason);
        return 0;
    }
    if (frame.channel == 0) {
        frame_of_connection(session, &frame);
        return (size_t)size;
    }
    ssize_t more = frame_of_channel(session, &frame, slice_of(bytes.data, (size_t)size),
                                    slice_of(bytes.data + size, bytes.size - (size_t)size));
    return more < 0 ? 0 : (size_t)size + (size_t)more;
}

/* ---- the protocol's functions ---- */

static enum sniff amqp091_sniff(struct slice start)
{
    /* AMQP 1.0 and its SASL layer are another protocol's; everything else is answered here, if only
     * by saying which header is wanted */
    static const uint8_t ours[] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1};
    static const uint8_t older[] = {'A', 'M', 'Q', 'P', 1, 1, 0, 9};
    size_t size = start.size < sizeof ours ? start.size : sizeof ours;

    if (memcmp(start.data, ours, size) != 0 && memcmp(start.data, older, size) != 0)
        return SNIFF_NO;
    return size == sizeof ours ? SNIFF_YES : SNIFF_MORE;
}

static void completed(void *context, struct request *request)
{
    struct session *session = context;

    if (request == &session->request) {
        session->request_is_pending = false;
        session_completed(session);
        session->wire->again = true;
    } else {
        struct channel *channel = CONTAINER_OF(request, struct channel, request);
        ASSERT(channel->request_is_pending);
        channel->request_is_pending = false;
        channel->completed(channel);
        session_go_on(session, channel);
    }
    session_set_pause(session);
    wire_touch(session->wire);
}

static int deliver(void *context, void *cookie, const struct delivery *delivery)
{
    (void)context;
    return consume_deliver(cookie, delivery);
}

static void confirmed(void *context, void *cookie, uint64_t last, bool accepted)
{
    (void)context;
    publish_confirmed(cookie, last, accepted);
}

static void cancelled(void *context, void *cookie)
{
    (void)context;
    consume_cancelled(cookie);
}

static void flow(void *context, enum flow now)
{
    session_set_flow(context, now);
}

static void close_for(struct session *session, const char *reason)
{
    if (session->state >= SESSION_CLOSING)
        return;
    if (session->state < SESSION_TUNE)
        session_finish(session);
    else
        session_close(session, REPLY_CONNECTION_FORCED, 0, reason);
    wire_touch(session->wire);
}

static void kick(void *context, const char *reason)
{
    close_for(context, reason);
}

static const struct client_events events = {
    .completed = completed,
    .deliver = deliver,
    .confirmed = confirmed,
    .cancelled = cancelled,
    .flow = flow,
    .kick = kick,
};

#define FRAME_MAX_AT_START 8192u

static int amqp091_open(void *context, struct wire *wire, void **result)
{
    struct worker *worker = context;
    struct session *session = memory_new(sizeof *session);
    struct failure failure;

    session->wire = wire;
    session->worker = worker;
    session->settings = worker_settings(worker);
    session->logger = worker_logger(worker);
    session->loop = worker_loop(worker);
    session->frame_max = FRAME_MAX_AT_START;
    snprintf(session->name, sizeof session->name, "%s:%u -> %s:%u", wire->peer_host,
             wire->peer_port, wire->local_host, wire->local_port);
    struct client_options options = {
        .events = &events,
        .session = session,
        .protocol = "amqp091",
        .peer_host = wire->peer_host,
        .peer_port = wire->peer_port,
        .peer_is_loopback = wire->peer_is_loopback,
    };
    session->client = client_open(worker, &options, &failure);
    if (!session->client) {
        log_warning(session->logger, "connection", "refused AMQP connection %s: %s", session->name,
                    failure.text);
        free(session);
        return failure.code;
    }
    session->account = client_account(session->client);
    map_init_numbers(&session->channels, loop_random(session->loop));
    list_init(&session->busy);
    list_init(&session->owing);
    list_init(&session->starved);
    session->started_ns = session->seen_received_ns = session->seen_sent_ns =
        loop_now_ns(session->loop);
    wire->protocol = "amqp";
    *result = session;
    return 0;
}

static ssize_t amqp091_input(void *context, struct slice bytes)
{
    struct session *session = context;
    size_t used = 0;

    go_on(session);
    if (!list_empty(&session->owing))
        consume_return_credit(session);
    if (session->state == SESSION_HEADER) {
        ssize_t size = session_header(session, bytes);
        if (size <= 0)
            return size;
        used = (size_t)size;
    }
    while (used < bytes.size && session->state != SESSION_FINISHED) {
        session_set_pause(session);
        if (session->wire->paused)
            break;
        size_t size = take_frame(session, slice_of(bytes.data + used, bytes.size - used));
        if (size == 0)
            break;
        used += size;
    }
    session_set_pause(session);
    if (session->is_releasing && !session->has_left)
        session->wire->again = true;
    if (session->state == SESSION_FINISHED)
        return (ssize_t)bytes.size;
    return (ssize_t)used;
}

static size_t amqp091_input_max(void *context)
{
    struct session *session = context;
    return session->frame_max + FRAME_OVERHEAD;
}

static void amqp091_drained(void *context)
{
    consume_drained(context);
}

static uint64_t amqp091_tick(void *context, uint64_t now_ns)
{
    return session_tick(context, now_ns);
}

static void amqp091_drain(void *context, const char *reason)
{
    close_for(context, reason);
}

bool session_release_step(struct session *session)
{
    struct map_cursor cursor = {0};
    struct channel *channel;

    while ((channel = map_next(&session->channels, &cursor))) {
        if (channel->is_released)
            continue;
        if (!channel_release_step(channel))
            return false;
    }
    return true;
}

static bool amqp091_close(void *context, enum close_reason reason)
{
    struct session *session = context;

    if (session->state != SESSION_FINISHED) {
        if (session->state == SESSION_RUNNING && reason == CLOSE_PEER)
            log_warning(session->logger, "connection",
                        "closing AMQP connection %s (vhost: '%s', user: '%s'): client "
                        "unexpectedly closed TCP connection",
                        session->name, session->vhost, session->user);
        session->state = SESSION_FINISHED;
    }
    session->is_releasing = true;
    if (session->has_left)
        return true;
    if (!session_release_step(session))
        return false;
    client_close(session->client);
    session->has_left = true;
    return true;
}

static bool amqp091_idle(void *context)
{
    struct session *session = context;
    return session->has_left && client_idle(session->client);
}

static void amqp091_free(void *context)
{
    struct session *session = context;
    struct map_cursor cursor = {0};
    struct channel *channel;

    while ((channel = map_next(&session->channels, &cursor)))
        channel_free(channel);
    map_fini(&session->channels);
    if (!session->is_abandoned) {
        kept_free(session->account, &session->request_bytes);
        client_free(session->client);
    }
    free(session);
}

static void amqp091_abandon(void *context)
{
    struct session *session = context;
    struct map_cursor cursor = {0};
    struct channel *channel;

    session->is_releasing = session->is_abandoned = true;
    while ((channel = map_next(&session->channels, &cursor)))
        channel_abandon(channel);
    kept_free(session->account, &session->request_bytes);
    if (session->has_left)
        client_abandon(session->client);
}

const struct protocol amqp091_protocol = {
    .name = "amqp",
    .sniff = amqp091_sniff,
    .open = amqp091_open,
    .input = amqp091_input,
    .input_max = amqp091_input_max,
    .drained = amqp091_drained,
    .tick = amqp091_tick,
    .drain = amqp091_drain,
    .close = amqp091_close,
    .idle = amqp091_idle,
    .free = amqp091_free,
    .abandon = amqp091_abandon,
};
