/* The conversation: what comes is taken apart, and must be what was to come. */
#include "remote.h"

#define BEAT_NS  (400 * NANOSECONDS_PER_MS)
#define QUIET_NS (200 * NANOSECONDS_PER_MS)

static struct remote_channel *channel_of(struct remote *r, uint16_t number)
{
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++) {
        if (r->channels[i].number == number)
            return &r->channels[i];
    }
    failed(r->world, "remote %u: something on channel %u, which was never open", r->index, number);
}

bool world_may_fail(const struct world *w)
{
    return w->failed_shards != 0 || w->corruption_reported || w->seed % 8 == 5;
}

/* ---- sending ---- */

void remote_send_bytes(struct remote *r, const void *bytes, size_t size)
{
    memcpy(cable_room(&r->cable, size), bytes, size);
    cable_sent(&r->cable, size);
}

void remote_send(struct remote *r, uint16_t channel, const struct method *method)
{
    struct writer writer = writer_of(cable_room(&r->cable, 2048), 2048);

    amqp091_method_write(&writer, channel, method);
    CHECK(r->world, !writer.failed, "a method that is too long");
    cable_sent(&r->cable, writer_size(&writer));
    if (method->id != METHOD_basic_publish)
        trace(r->world, "remote %u.%u says %s", r->index, channel, amqp091_method_name(method->id));
}

bool channel_is_in_doubt(const struct remote_channel *ch)
{
    for (size_t i = 0; i < ch->await_count; i++) {
        if (ch->awaits[i].may_fail)
            return true;
    }
    return false;
}

bool held_is_ours(const struct remote *r, const struct held *held)
{
    return r->world->known[held->id].seen == held->seen;
}

/* It has not been closed, so nobody else can have got what it holds. */
static void out_of_doubt(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;

    for (size_t i = 0; i < ch->held_count; i++) {
        struct known *k = &w->known[ch->held[i].id];
        CHECK(w, k->seen == ch->held[i].seen || world_may_fail(w),
              "remote %u.%u: message %" PRIu64 " was given to somebody else, too", r->index,
              ch->number, ch->held[i].id);
        k->leased = k->seen == ch->held[i].seen && !world_may_fail(w);
    }
}

static void into_doubt(struct remote *r, struct remote_channel *ch)
{
    for (size_t i = 0; i < ch->held_count; i++) {
        if (held_is_ours(r, &ch->held[i]))
            r->world->known[ch->held[i].id].leased = false;
    }
}

void remote_doubt(struct remote *r)
{
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++)
        into_doubt(r, &r->channels[i]);
}

bool channel_ask(struct remote *r, struct remote_channel *ch, const struct method *method,
                 struct await await)
{
    if (ch->await_count == AWAITS_MAX)
        return false;
    await.request = method->id;
    await.sent_blocked = r->is_blocked;
    await.blocks = r->blocks;
    await.alarms = world_flow(r->world) == FLOW_OPEN ? r->world->alarms : UINT64_MAX;
    await.settled = ch->settled_sent;
    await.published = ch->sequence;
    ch->awaits[ch->await_count++] = await;
    if (await.may_fail) {
        channel_unsee(r, ch);
        into_doubt(r, ch);
    }
    remote_send(r, ch->number, method);
    return true;
}

bool channel_is_calm(const struct remote_channel *ch)
{
    return ch->state == CHANNEL_OPEN && !ch->is_stale && ch->await_count == 0;
}

/* ---- what ends, as the model sees it ---- */

/* What is on its way to this channel may come to somebody else, as if nobody had seen it. */
void channel_unsee(struct remote *r, const struct remote_channel *ch)
{
    for (unsigned i = 0; i < REMOTE_CONSUMERS; i++) {
        if (ch->consumers[i].state != CONSUMER_NONE && ch->consumers[i].queue < QUEUES)
            r->world->unseen[ch->consumers[i].queue]++;
    }
    for (size_t i = 0; i < ch->await_count; i++) {
        if (ch->awaits[i].request == METHOD_basic_get)
            r->world->unseen[ch->awaits[i].queue]++;
    }
}

void channel_doom(struct remote *r, struct remote_channel *ch)
{
    if (ch->is_stale)
        return;
    ch->is_stale = true;
    channel_unsee(r, ch);
    into_doubt(r, ch);
    ch->held_count = 0;
}

void remote_doom(struct remote *r)
{
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++)
        channel_doom(r, &r->channels[i]);
}

unsigned remote_shard(const struct remote *r, unsigned queue)
{
    const struct catalog_queue *named = standing_look(r->world, r->self.worker, queue);
    return named ? named->shard : 0;
}

/* The broker has done what was sent up to there. */
static void settle_known(struct remote *r, struct remote_channel *ch, uint64_t up_to)
{
    struct world *w = r->world;

    while (ch->settled_known < up_to) {
        const struct settling *s = &ch->settling[++ch->settled_known % SETTLING_MAX];
        struct known *k = &w->known[s->id];
        CHECK(w, k->seen == s->seen,
              "remote %u.%u: message %" PRIu64 " came back after it was acknowledged", r->index,
              ch->number, s->id);
        model_settled(&r->self, s->id, remote_shard(r, k->queue));
        if (s->moves != w->moves_ever[k->queue])
            k->settle_stamp = 0; /* it may have gone into another log */
    }
}

static void channel_over(struct remote *r, struct remote_channel *ch)
{
    struct published *published = ch->published;
    struct bytes body = ch->incoming.body;
    uint64_t capacity = ch->published_capacity;
    uint16_t number = ch->number;

    channel_doom(r, ch);
    *ch = (struct remote_channel){
        .number = number, .published = published, .published_capacity = capacity};
    body.start = body.size = 0;
    ch->incoming.body = body;
}

static void remote_over(struct remote *r)
{
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++)
        channel_over(r, &r->channels[i]);
    r->state = REMOTE_AWAY;
    r->expected = (struct expectation){0};
    r->is_drained = false;
}

void remote_cut(struct remote *r, bool reset)
{
    if (r->state == REMOTE_AWAY)
        return;
    trace(r->world, "remote %u is cut off", r->index);
    timer_stop(&r->beat);
    cable_close(&r->cable, reset);
    remote_over(r);
}

void remote_drain(struct remote *r)
{
    if (r->state == REMOTE_AWAY)
        return;
    r->is_drained = true;
    remote_doom(r);
}

/* ---- ends that the broker makes ---- */

static void check_code(const struct remote *r, const char *what, uint16_t code, uint32_t method,
                       struct slice text)
{
    const struct expectation *e = &r->expected;

    CHECK(
        r->world, (e->code == 0 || e->code == code) && (e->code == 0 || e->method == method),
        "remote %u: after \"%s\" its %s is closed with %u and method %08x (%.*s), not with %u and "
        "method %08x",
        r->index, e->name, what, code, method, SLICE_ARGS(text), e->code, e->method);
}

static void connection_closed(struct remote *r, const struct connection_close *m)
{
    struct world *w = r->world;
    uint16_t code = m->reply_code;

    trace(w, "remote %u is told to go: %.*s", r->index, SLICE_ARGS(m->reply_text));
    if (r->is_drained && code == 320)
        ;
    else if (r->expected.name && r->expected.channel == 0)
        check_code(r, "connection", code, (uint32_t)m->class_id << 16 | m->method_id,
                   m->reply_text);
    else
        CHECK(w, world_may_fail(w) && (code == 541 || code == 506),
              "remote %u: its connection is closed: %.*s", r->index, SLICE_ARGS(m->reply_text));
    r->expected = (struct expectation){0};
    remote_doom(r);
    if (r->state != REMOTE_ENDED && (!r->is_drained || dice(w, 4)))
        remote_send(r, 0, &(struct method){.id = METHOD_connection_close_ok});
    r->state = REMOTE_ENDED;
}

static bool is_ill_luck(uint16_t code)
{
    return code >= 403 && code <= 406;
}

/* Who or what has closed the channel: the first request that waits, or what was done wrong. */
static void channel_closed(struct remote *r, struct remote_channel *ch,
                           const struct channel_close *m)
{
    struct world *w = r->world;
    const struct await *first = ch->await_count > 0 ? &ch->awaits[0] : NULL;
    uint32_t method = (uint32_t)m->class_id << 16 | m->method_id;

    trace(w, "remote %u.%u is closed: %.*s", r->index, ch->number, SLICE_ARGS(m->reply_text));
    if (r->expected.name && r->expected.channel == ch->number) {
        check_code(r, "channel", m->reply_code, method, m->reply_text);
        r->expected = (struct expectation){0};
        settle_known(r, ch, ch->settled_sent);
        content_check_returns(r, ch, ch->sequence);
    } else if (first && first->may_fail && first->request == method && is_ill_luck(m->reply_code)) {
        settle_known(r, ch, first->settled);
    } else {
        CHECK(w, world_may_fail(w), "remote %u.%u: is closed: %.*s", r->index, ch->number,
              SLICE_ARGS(m->reply_text));
    }
    remote_send(r, ch->number, &(struct method){.id = METHOD_channel_close_ok});
    if (ch->state != CHANNEL_CLOSING) {
        channel_over(r, ch);
    } else { /* our own close is answered still, and nothing else */
        ch->awaits[0] = ch->awaits[ch->await_count - 1];
        ch->awaits[0].settled = ch->settled_known;
        ch->awaits[0].published = ch->looked_at_returns;
        ch->await_count = 1;
    }
}

static void stream_ended(struct remote *r)
{
    bool is_mute = r->cable.is_mute && r->heartbeat_s > 0;

    CHECK(r->world,
          r->state == REMOTE_ENDED || r->is_drained || is_mute ||
              (r->expected.name && r->expected.channel == 0),
          "remote %u: its stream ends in the middle", r->index);
    CHECK(r->world, !r->expected.name || r->expected.code == 0 || r->is_drained,
          "remote %u: after \"%s\" its stream ends, and nobody says why", r->index,
          r->expected.name);
    remote_cut(r, false);
}

/* ---- answers ---- */

/* What stands in a queue at which one of our consumers could take it. What waited for the end of an
 * alarm says nothing: it was read in one go with the acknowledgements in front of it. */
static void check_probe(struct remote *r, struct remote_channel *ch, const struct await *a,
                        uint32_t ready)
{
    const struct remote_consumer *c = &ch->consumers[a->consumer];
    struct world *w = r->world;
    size_t held = 0;

    for (size_t i = 0; i < ch->held_count; i++)
        held += ch->held[i].serial != 0;
    bool has_room = (c->prefetch == 0 || c->held < c->prefetch || c->no_ack) &&
                    (ch->prefetch_global == 0 || held < ch->prefetch_global);
    CHECK(w,
          ready == 0 || !has_room || c->state != CONSUMER_THERE || ch->has_forgotten ||
              a->alarms != w->alarms || world_may_fail(w) || w->seed % 8 == 3 || w->seed % 8 == 4,
          "remote %u.%u: %s has %u messages, and its consumer gets none", r->index, ch->number,
          queue_names[a->queue], ready);
}

/* As if an actor had asked now. */
static void declared_one_that_stays(struct remote *r, unsigned queue)
{
    r->world->queues_there |= 1u << queue;
    r->self.ask = ASK_DECLARE;
    r->self.request.failure.code = 0;
    standing_asked(&r->self, queue);
    standing_answered(&r->self, true);
}

static void declared(struct remote *r, struct remote_channel *ch, const struct await *a,
                     const struct queue_declare_ok *ok)
{
    if (a->consumer < REMOTE_CONSUMERS)
        check_probe(r, ch, a, ok->message_count);
    else if (a->queue < QUEUES_STAY)
        declared_one_that_stays(r, a->queue);
}

static void answered(struct remote *r, struct remote_channel *ch, const struct await *a,
                     const struct method *method)
{
    struct world *w = r->world;

    switch (a->request) {
    case METHOD_channel_open:
        ch->state = CHANNEL_OPEN;
        break;
    case METHOD_channel_close:
        channel_over(r, ch);
        break;
    case METHOD_queue_declare:
        declared(r, ch, a, &method->queue_declare_ok);
        break;
    case METHOD_exchange_declare:
    case METHOD_queue_bind:
        if (a->queue < QUEUES_STAY || a->consumer == QUEUES)
            w->queues_bound |= 1u << (a->consumer == QUEUES ? QUEUES : a->queue);
        break;
    case METHOD_queue_purge:
        w->purges[a->queue]--;
        break;
    case METHOD_basic_consume:
        ch->consumers[a->consumer].state = CONSUMER_THERE;
        break;
    case METHOD_basic_cancel:
        if (ch->consumers[a->consumer].state == CONSUMER_LEAVING)
            ch->consumers[a->consumer].state = CONSUMER_NONE;
        break;
    case METHOD_basic_recover:
        ch->recovering--;
        break;
    case METHOD_tx_commit:
        ch->is_committing = false;
        model_transacted(w, a->transaction, true);
        break;
    case METHOD_basic_get:
        ch->get_queue = a->queue;
        if (method->id == METHOD_basic_get_ok)
            content_begin(r, ch, method);
        break;
    default:
        break;
    }
}

static void answer_came(struct remote *r, struct remote_channel *ch, const struct method *method)
{
    struct world *w = r->world;

    CHECK(w, ch->await_count > 0, "remote %u.%u: %s answers nothing", r->index, ch->number,
          amqp091_method_name(method->id));
    struct await a = ch->awaits[0];
    CHECK(w,
          a.answer == method->id ||
              (a.answer == METHOD_basic_get_ok && method->id == METHOD_basic_get_empty),
          "remote %u.%u: %s is answered with %s", r->index, ch->number,
          amqp091_method_name(a.request), amqp091_method_name(method->id));
    CHECK(w, !(a.sent_blocked && r->is_blocked && a.blocks == r->blocks),
          "remote %u.%u: %s is answered, but nobody said that it is unblocked", r->index,
          ch->number, amqp091_method_name(a.request));
    memmove(ch->awaits, ch->awaits + 1, --ch->await_count * sizeof ch->awaits[0]);
    settle_known(r, ch, a.settled);
    if (a.may_fail && !channel_is_in_doubt(ch))
        out_of_doubt(r, ch);
    if (!ch->is_stale)
        content_check_returns(r, ch, a.published);
    trace(w, "remote %u.%u hears %s", r->index, ch->number, amqp091_method_name(method->id));
    answered(r, ch, &a, method);
}

/* ---- confirms ---- */

/* Acknowledgements that were sent before a persistent message, on its channel and to its shards. */
static void settlements_durable(struct remote *r, struct remote_channel *ch,
                                const struct published *p)
{
    struct world *w = r->world;
    const struct known *first = &w->known[p->id];
    uint64_t n = p->settled > SETTLING_MAX ? p->settled - SETTLING_MAX + 1 : 1;

    if (!first->persistent || first->queue >= QUEUES_STAY)
        return;
    if (ch->settled_sent - n >= SETTLING_MAX)
        n = ch->settled_sent - SETTLING_MAX + 1;
    for (; n <= p->settled; n++) {
        const struct settling *s = &ch->settling[n % SETTLING_MAX];
        struct known *k = &w->known[s->id];
        bool is_still = s->moves == w->moves_ever[k->queue] && k->seen == s->seen;
        for (unsigned i = 0; i < first->copies && is_still && k->settled; i++) {
            bool went_there = !first[i].in_move && first[i].moves == w->moves_ever[first[i].queue];
            if (first[i].shard == k->shard && went_there && k->persistent)
                k->settle_durable = true;
        }
    }
}

static void confirmed(struct remote *r, struct remote_channel *ch, uint64_t last, bool multiple,
                      bool accepted)
{
    struct world *w = r->world;

    CHECK(w,
          ch->mode == MODE_CONFIRM && last > ch->confirmed && last <= ch->sequence &&
              (multiple || last == ch->confirmed + 1),
          "remote %u.%u: confirm of %" PRIu64 " (%s) after %" PRIu64 " of %" PRIu64, r->index,
          ch->number, last, multiple ? "multiple" : "single", ch->confirmed, ch->sequence);
    trace(w, "remote %u.%u: up to %" PRIu64 " %s", r->index, ch->number, last,
          accepted ? "confirmed" : "refused");
    content_check_returns(r, ch, last);
    while (ch->confirmed < last) {
        const struct published *p = &ch->published[++ch->confirmed];
        settle_known(r, ch, p->settled);
        if (p->id == 0)
            continue;
        model_confirmed(&r->self, p->id, accepted);
        if (accepted)
            settlements_durable(r, ch, p);
    }
}

/* ---- methods ---- */

static void consumer_cancelled(struct remote *r, struct remote_channel *ch, struct slice tag)
{
    for (unsigned i = 0; i < REMOTE_CONSUMERS; i++) {
        struct remote_consumer *c = &ch->consumers[i];
        char text[16];
        snprintf(text, sizeof text, "c%u", c->serial);
        if (c->state == CONSUMER_NONE || !slice_is(tag, text))
            continue;
        CHECK(r->world, c->queue >= QUEUES_STAY || ch->is_stale,
              "remote %u.%u: the consumer of %s is cancelled", r->index, ch->number,
              queue_names[c->queue]);
        if (c->state != CONSUMER_LEAVING) /* else there is an answer to come */
            c->state = CONSUMER_NONE;
        return;
    }
    failed(r->world, "remote %u.%u: consumer %.*s is cancelled, but was not there", r->index,
           ch->number, SLICE_ARGS(tag));
}

static void channel_method(struct remote *r, struct remote_channel *ch, const struct method *m)
{
    switch (m->id) {
    case METHOD_basic_deliver:
    case METHOD_basic_return:
        content_begin(r, ch, m);
        break;
    case METHOD_basic_ack:
        confirmed(r, ch, m->basic_ack.delivery_tag, m->basic_ack.multiple, true);
        break;
    case METHOD_basic_nack:
        confirmed(r, ch, m->basic_nack.delivery_tag, m->basic_nack.multiple, false);
        break;
    case METHOD_basic_cancel:
        consumer_cancelled(r, ch, m->basic_cancel.consumer_tag);
        break;
    case METHOD_channel_close:
        channel_closed(r, ch, &m->channel_close);
        break;
    default:
        answer_came(r, ch, m);
    }
}

static void start_came(struct remote *r)
{
    static const uint8_t capabilities[] = "\x0c"
                                          "capabilitiesF\0\0\0\x2e"
                                          "\x12"
                                          "connection.blockedt\x01"
                                          "\x16"
                                          "consumer_cancel_notifyt\x01"
                                          "\x01xt\x01";
    static const char login[] = "\0guest\0" PASSWORD;
    struct method m = {.id = METHOD_connection_start_ok};

    m.connection_start_ok.mechanism = slice_text("PLAIN");
    m.connection_start_ok.response = slice_of(login, sizeof login - 1);
    m.connection_start_ok.locale = slice_text("en_US");
    r->knows_blocked = dice(r->world, 4) > 0;
    if (r->knows_blocked)
        m.connection_start_ok.client_properties = slice_of(capabilities, sizeof capabilities - 1);
    remote_send(r, 0, &m);
}

static void tune_came(struct remote *r)
{
    static const uint32_t frame_sizes[] = {4096, 5000, 131072};
    struct world *w = r->world;
    struct method ok = {.id = METHOD_connection_tune_ok}, open = {.id = METHOD_connection_open};

    r->frame_max = frame_sizes[dice(w, 3)];
    r->heartbeat_s = dice(w, 3) ? 0 : 1;
    ok.connection_tune_ok =
        (struct connection_tune_ok){CHANNELS_AGREED, r->frame_max, r->heartbeat_s};
    open.connection_open.virtual_host = slice_text("/");
    remote_send(r, 0, &ok);
    remote_send(r, 0, &open);
    if (r->heartbeat_s)
        timer_set(&r->beat, loop_now_ns(w->outside) + BEAT_NS);
}

static void connection_method(struct remote *r, const struct method *m)
{
    struct world *w = r->world;

    switch (m->id) {
    case METHOD_connection_start:
        start_came(r);
        break;
    case METHOD_connection_tune:
        tune_came(r);
        break;
    case METHOD_connection_open_ok:
        CHECK(w, r->state == REMOTE_GREETING, "remote %u: open-ok answers nothing", r->index);
        r->state = REMOTE_OPEN;
        break;
    case METHOD_connection_blocked:
        CHECK(w, r->knows_blocked && !r->is_blocked, "remote %u is blocked twice", r->index);
        r->is_blocked = true;
        r->blocks++;
        break;
    case METHOD_connection_unblocked:
        CHECK(w, r->is_blocked, "remote %u is unblocked without having been blocked", r->index);
        r->is_blocked = false;
        break;
    case METHOD_connection_close:
        connection_closed(r, &m->connection_close);
        break;
    case METHOD_connection_close_ok:
        CHECK(w, r->state == REMOTE_LEAVING || r->state == REMOTE_ENDED,
              "remote %u: close-ok answers nothing", r->index);
        r->state = REMOTE_ENDED;
        break;
    default:
        failed(w, "remote %u: %s on channel 0", r->index, amqp091_method_name(m->id));
    }
}

/* ---- frames ---- */

static void frame_came(struct remote *r, const struct frame *frame)
{
    struct world *w = r->world;
    struct method method;
    struct failure failure;

    if (frame->channel >= CHANNELS_EXTRA && r->expected.name)
        return; /* the last of them was one too many */
    if (frame->type == FRAME_HEARTBEAT) {
        CHECK(w, r->heartbeat_s > 0 && frame->channel == 0, "remote %u: a heartbeat", r->index);
    } else if (frame->type == FRAME_METHOD) {
        CHECK(w, amqp091_method_decode(frame->payload, &method, &failure) == 0, "remote %u: %s",
              r->index, failure.text);
        if (frame->channel == 0)
            connection_method(r, &method);
        else if (r->state != REMOTE_ENDED)
            channel_method(r, channel_of(r, frame->channel), &method);
    } else if (r->state == REMOTE_ENDED) {
        return;
    } else if (frame->type == FRAME_HEADER) {
        content_header(r, channel_of(r, frame->channel), frame->payload);
    } else {
        CHECK(w, frame->type == FRAME_BODY, "remote %u: a frame of type %u", r->index, frame->type);
        content_body(r, channel_of(r, frame->channel), frame->payload);
    }
}

/* Who has not sent a header that the broker understands gets the one it wants. */
static bool is_header(struct remote *r)
{
    struct bytes *in = &r->cable.in;

    if (r->state != REMOTE_GREETING || in->size < 8 || memcmp(in->data + in->start, "AMQP", 4) != 0)
        return false;
    CHECK(r->world, r->expected.name && memcmp(in->data + in->start, "AMQP\0\0\x09\x01", 8) == 0,
          "remote %u: it is told to use another protocol", r->index);
    in->start += 8;
    in->size -= 8;
    return true;
}

static void bytes_came(struct cable *cable)
{
    struct remote *r = CONTAINER_OF(cable, struct remote, cable);
    struct bytes *in = &cable->in;
    struct frame frame;

    r->heard_ns = loop_now_ns(r->world->outside);
    while (r->state != REMOTE_AWAY && in->size > 0) {
        if (is_header(r))
            continue;
        ssize_t size = amqp091_frame_read(slice_of(in->data + in->start, in->size), &frame);
        CHECK(r->world, frame.size + FRAME_OVERHEAD <= r->frame_max,
              "remote %u: a frame of %u bytes, where %u were agreed on", r->index, frame.size,
              r->frame_max);
        if (size == E_MORE)
            break;
        CHECK(r->world, size > 0, "remote %u: a frame without an end", r->index);
        frame_came(r, &frame);
        in->start += (size_t)size;
        in->size -= (size_t)size;
    }
    if (cable->has_ended && r->state != REMOTE_AWAY)
        stream_ended(r);
}

/* ---- coming and resting ---- */

static void on_beat(struct timer *timer)
{
    struct remote *r = CONTAINER_OF(timer, struct remote, beat);

    remote_send_bytes(r, "\x08\0\0\0\0\0\0\xce", 8);
    timer_set(timer, loop_now_ns(r->world->outside) + BEAT_NS);
}

static void come(struct remote *r)
{
    struct world *w = r->world;
    unsigned worker = (unsigned)dice(w, w->workers);

    if (w->members[worker].stopping || !w->members[worker].server ||
        !cable_connect(&r->cable, worker))
        return;
    trace(w, "remote %u comes to worker %u", r->index, worker);
    r->self.worker = worker;
    r->state = REMOTE_GREETING;
    r->frame_max = 8192;
    r->heartbeat_s = 0;
    r->is_blocked = r->is_drained = false;
    timer_init(&r->beat, w->outside, on_beat);
    remote_send_bytes(r, "AMQP\0\0\x09\x01", 8);
}

void remote_act(struct remote *r)
{
    switch (r->state) {
    case REMOTE_AWAY:
        come(r);
        break;
    case REMOTE_OPEN:
        if (r->cable.is_mute || r->expected.name || r->is_drained)
            break;
        if (r->cable.out.size < REMOTE_OUT_MAX)
            script_act(r);
        break;
    default:
        if (dice(r->world, 200) == 0)
            remote_cut(r, dice(r->world, 2));
    }
}

static void probe(struct remote *r, struct remote_channel *ch, unsigned consumer)
{
    const struct remote_consumer *c = &ch->consumers[consumer];
    struct method m = {.id = METHOD_queue_declare};

    if (c->state != CONSUMER_THERE || c->queue >= QUEUES_STAY)
        return;
    m.queue_declare =
        (struct queue_declare){.queue = slice_text(queue_names[c->queue]), .passive = true};
    channel_ask(r, ch, &m,
                (struct await){.answer = METHOD_queue_declare_ok,
                               .queue = c->queue,
                               .consumer = (uint8_t)consumer});
}

/* So that no consumer waits with something that has come for it. */
static void lift_limit(struct remote *r, struct remote_channel *ch)
{
    struct method m = {.id = METHOD_basic_qos, .basic_qos.global = true};

    if (ch->state != CHANNEL_OPEN || ch->is_stale || ch->prefetch_global == 0)
        return;
    if (channel_ask(r, ch, &m, (struct await){.answer = METHOD_basic_qos_ok}))
        ch->prefetch_global = 0;
}

bool remote_is_getting(const struct remote *r)
{
    return r->state == REMOTE_OPEN && loop_now_ns(r->world->outside) - r->delivered_ns < QUIET_NS;
}

void remote_rest(struct remote *r, unsigned turn)
{
    if (r->state == REMOTE_AWAY)
        return;
    cable_hurry(&r->cable);
    for (unsigned i = 0; turn == 2 && r->state == REMOTE_OPEN && i < REMOTE_CHANNELS; i++)
        lift_limit(r, &r->channels[i]);
    if (turn != 15 || r->state != REMOTE_OPEN || r->cable.is_mute || r->expected.name ||
        remote_is_getting(r))
        return; /* or it is still getting what there is */
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++) {
        for (unsigned c = 0; c < REMOTE_CONSUMERS && channel_is_calm(&r->channels[i]); c++)
            probe(r, &r->channels[i], c);
    }
}

static void channel_check_rest(const struct remote *r, const struct remote_channel *ch)
{
    const struct world *w = r->world;

    CHECK(w, ch->await_count == 0, "remote %u.%u: %s is never answered", r->index, ch->number,
          amqp091_method_name(ch->awaits[0].request));
    CHECK(w, ch->mode != MODE_CONFIRM || ch->confirmed == ch->sequence,
          "remote %u.%u waits for confirms of %" PRIu64 " to %" PRIu64, r->index, ch->number,
          ch->confirmed + 1, ch->sequence);
}

bool remote_is_silent(const struct remote *r)
{
    return r->state != REMOTE_AWAY && r->cable.is_mute;
}

void remote_check_rest(const struct remote *r)
{
    const struct world *w = r->world;
    uint64_t now_ns = loop_now_ns(w->outside);
    bool may_wait = world_flow(w) != FLOW_OPEN; /* it may be blocked */

    if (r->state == REMOTE_AWAY)
        return;
    CHECK(w, !r->cable.is_mute || may_wait || now_ns - r->mute_since_ns < 3500 * NANOSECONDS_PER_MS,
          "remote %u is silent, and nobody minds", r->index);
    if (may_wait || r->cable.is_mute)
        return;
    CHECK(w, !r->expected.name, "remote %u: nothing came of \"%s\"", r->index, r->expected.name);
    CHECK(w, r->state == REMOTE_OPEN, "remote %u neither comes nor goes (%d)", r->index,
          (int)r->state);
    /* a heartbeat may have been sent just now */
    CHECK(w, r->cable.out.size <= FRAME_OVERHEAD && !r->is_blocked, "remote %u is not read",
          r->index);
    CHECK(w, r->heartbeat_s == 0 || now_ns - r->heard_ns < 1500 * NANOSECONDS_PER_MS,
          "remote %u: no heartbeats", r->index);
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++)
        channel_check_rest(r, &r->channels[i]);
}

void remote_init(struct world *w, unsigned index)
{
    struct remote *r = w->remotes[index] = memory_new(sizeof *r);

    r->world = r->cable.world = r->self.world = w;
    r->index = index;
    r->self.index = ACTORS + index;
    r->cable.arrived = bytes_came;
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++)
        r->channels[i].number = (uint16_t)(1 + i * 100);
}

void remote_fini(struct remote *r)
{
    for (unsigned i = 0; i < REMOTE_CHANNELS; i++) {
        free(r->channels[i].published);
        free(r->channels[i].incoming.body.data);
    }
    free(r->cable.in.data);
    free(r->cable.out.data);
    free(r);
}
