/* What remotes do. */
#include "remote.h"

#include "message/amqp091_properties.h"

#define ALL_THAT_STAY ((1u << QUEUES_STAY) - 1)
#define GUEST         "guest"

/* ---- requests in few words ---- */

#define NO_QUEUE    QUEUES
#define NO_CONSUMER REMOTE_CONSUMERS
#define ANSWER(name, which_queue, which_consumer, ...)                                             \
    (struct await)                                                                                 \
    {                                                                                              \
        .answer = METHOD_##name, .queue = (uint8_t)(which_queue),                                  \
        .consumer = (uint8_t)(which_consumer), __VA_ARGS__                                         \
    }

static void ask_empty(struct remote *r, struct remote_channel *ch, uint32_t request,
                      uint32_t answer)
{
    channel_ask(r, ch, &(struct method){.id = request},
                (struct await){.answer = answer, .queue = NO_QUEUE, .consumer = NO_CONSUMER});
}

static struct slice name_of(unsigned queue)
{
    return slice_text(queue_names[queue]);
}

/* One that stays: who consumes from the others is for actors to know. */
static unsigned some_queue(struct world *w)
{
    return (unsigned)dice(w, QUEUES_STAY);
}

/* Has somebody been answered that it is there? */
static bool is_sure(const struct world *w, unsigned queue)
{
    return queue < QUEUES_STAY && (w->queues_there & 1u << queue) && !w->corruption_reported;
}

/* ---- channels ---- */

static void set_qos(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    struct method qos = {.id = METHOD_basic_qos};

    ch->prefetch = ch->mode == MODE_TX || dice(w, 2) ? (uint16_t)(1 + dice(w, 20)) : 0;
    qos.basic_qos.prefetch_count = ch->prefetch;
    channel_ask(r, ch, &qos, ANSWER(basic_qos_ok, NO_QUEUE, NO_CONSUMER));
    if (dice(w, 4) == 0) {
        ch->prefetch_global = (uint16_t)(1 + dice(w, 20));
        qos.basic_qos.prefetch_count = ch->prefetch_global;
        qos.basic_qos.global = true;
        channel_ask(r, ch, &qos, ANSWER(basic_qos_ok, NO_QUEUE, NO_CONSUMER));
    }
}

void script_open_channel(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    uint64_t mode = dice(w, 4);

    ch->state = CHANNEL_OPENING;
    ch->publisher = ++w->clients;
    ask_empty(r, ch, METHOD_channel_open, METHOD_channel_open_ok);
    ch->mode = mode < 2 ? MODE_CONFIRM : mode < 3 ? MODE_TX : MODE_PLAIN;
    if (ch->mode == MODE_CONFIRM)
        ask_empty(r, ch, METHOD_confirm_select, METHOD_confirm_select_ok);
    if (ch->mode == MODE_TX)
        ask_empty(r, ch, METHOD_tx_select, METHOD_tx_select_ok);
    set_qos(r, ch);
}

static void close_channel(struct remote *r, struct remote_channel *ch)
{
    struct method m = {.id = METHOD_channel_close, .channel_close.reply_code = 200};

    if (!channel_ask(r, ch, &m, ANSWER(channel_close_ok, NO_QUEUE, NO_CONSUMER)))
        return;
    ch->state = CHANNEL_CLOSING;
    channel_doom(r, ch);
}

static void leave(struct remote *r)
{
    struct method m = {.id = METHOD_connection_close, .connection_close.reply_code = 200};

    remote_send(r, 0, &m);
    remote_doom(r);
    r->state = REMOTE_LEAVING;
}

static void fall_silent(struct remote *r)
{
    if (r->heartbeat_s == 0)
        return;
    trace(r->world, "remote %u falls silent", r->index);
    r->cable.is_mute = true;
    r->mute_since_ns = loop_now_ns(r->world->outside);
    remote_doom(r);
}

/* ---- queues that stay ---- */

static bool declare_missing(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    struct method m = {.id = METHOD_queue_declare};

    if ((w->queues_there & ALL_THAT_STAY) == ALL_THAT_STAY)
        return false;
    unsigned queue = (unsigned)__builtin_ctz(~w->queues_there);
    m.queue_declare.queue = name_of(queue);
    m.queue_declare.durable = true;
    channel_ask(r, ch, &m, ANSWER(queue_declare_ok, queue, NO_CONSUMER));
    return true;
}

static bool bind_missing(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    struct method m = {.id = METHOD_exchange_declare};
    unsigned missing = ~w->queues_bound & (ALL_THAT_STAY | 1u << QUEUES);

    if (!missing)
        return false;
    if (missing & 1u << QUEUES) {
        m.exchange_declare.exchange = slice_text(FANOUT_NAME);
        m.exchange_declare.type = slice_text("fanout");
        m.exchange_declare.durable = true;
        channel_ask(r, ch, &m,
                    (struct await){.answer = METHOD_exchange_declare_ok, .consumer = QUEUES});
        return true;
    }
    unsigned queue = (unsigned)__builtin_ctz(missing);
    m = (struct method){.id = METHOD_queue_bind};
    m.queue_bind.queue = name_of(queue);
    m.queue_bind.exchange = slice_text(FANOUT_NAME);
    channel_ask(r, ch, &m,
                ANSWER(queue_bind_ok, queue, NO_CONSUMER, .may_fail = !is_sure(w, queue)));
    return true;
}

static void purge(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    unsigned queue = (unsigned)dice(w, QUEUES_STAY);
    struct method m = {.id = METHOD_queue_purge, .queue_purge.queue = name_of(queue)};

    if (!is_sure(w, queue) || ch->await_count == AWAITS_MAX)
        return;
    model_purge_asked(w, queue);
    channel_ask(r, ch, &m, ANSWER(queue_purge_ok, queue, NO_CONSUMER));
}

/* ---- publishing ---- */

size_t script_properties(uint8_t *properties, bool persistent, const char *reply_to)
{
    struct amqp091_properties p = {.flags = AMQP091_DELIVERY_MODE,
                                   .delivery_mode = persistent ? 2 : 1};
    struct writer writer = writer_of(properties, 64);

    if (reply_to) {
        p.flags |= AMQP091_REPLY_TO;
        p.reply_to = slice_text(reply_to);
    }
    amqp091_properties_write(&writer, &p);
    return writer_size(&writer);
}

void script_publish_bytes(struct remote *r, uint16_t channel, const char *exchange, const char *key,
                          bool mandatory, struct slice properties, struct slice body)
{
    struct world *w = r->world;
    struct method m = {.id = METHOD_basic_publish};
    struct content_header header = {60, 0, body.size, properties};
    size_t most = r->frame_max - FRAME_OVERHEAD;
    size_t part = dice(w, 4) ? most : 1 + dice(w, most), at = 0;

    if (part < body.size / 50)
        part = most;
    m.basic_publish.exchange = slice_text(exchange);
    m.basic_publish.routing_key = slice_text(key);
    m.basic_publish.mandatory = mandatory;
    remote_send(r, channel, &m);
    size_t room = body.size + (body.size / part + 2) * FRAME_OVERHEAD + 512;
    struct writer writer = writer_of(cable_room(&r->cable, room), room);
    amqp091_content_header_write(&writer, channel, &header);
    for (size_t size; at < body.size; at += size) {
        size = body.size - at < part ? body.size - at : part;
        amqp091_body_write(&writer, channel, slice_of(body.data + at, size));
    }
    CHECK(w, !writer.failed, "a message that is too long");
    cable_sent(&r->cable, writer_size(&writer));
}

static struct published *next_published(struct remote_channel *ch)
{
    if (ch->sequence + 2 > ch->published_capacity) {
        ch->published_capacity = 2 * ch->published_capacity + 64;
        ch->published = memory_resize(ch->published, ch->published_capacity, sizeof *ch->published);
    }
    struct published *p = &ch->published[++ch->sequence];
    *p = (struct published){.settled = ch->settled_sent};
    return p;
}

bool script_publish_unknown(struct remote_channel *ch)
{
    if (ch->state != CHANNEL_OPEN || ch->is_stale)
        return false;
    next_published(ch);
    return true;
}

static void publish_id(struct remote *r, struct remote_channel *ch, uint64_t id,
                       const char *exchange, const char *key, bool mandatory)
{
    struct world *w = r->world;
    uint8_t properties[64];
    size_t size = model_body(w, id, NULL);
    uint8_t *body = memory_new(size);
    bool wants_reply = false;

    for (unsigned i = 0; i < REMOTE_CONSUMERS; i++)
        wants_reply |= ch->consumers[i].is_reply && ch->consumers[i].state == CONSUMER_THERE;
    model_body(w, id, body);
    size_t properties_size = script_properties(properties, w->known[id].persistent,
                                               wants_reply ? "amq.rabbitmq.reply-to" : NULL);
    script_publish_bytes(r, ch->number, exchange, key, mandatory,
                         slice_of(properties, properties_size), slice_of(body, size));
    free(body);
    trace(w, "remote %u.%u publishes %" PRIu64 " to %s as %" PRIu64, r->index, ch->number, id,
          key[0] ? key : exchange, ch->sequence);
}

/* To nobody: it must come back, when that is asked for. */
static void publish_nowhere(struct remote *r, struct remote_channel *ch)
{
    uint64_t id = model_new(&r->self, NULL, 0, false);
    bool mandatory = dice(r->world, 2);
    struct published *p = next_published(ch);

    p->id = id;
    p->must_return = mandatory;
    publish_id(r, ch, id, "", "nowhere", mandatory);
}

/* As far as one can say of a name that anybody may give to another queue until it is looked up. */
static uint64_t new_message(struct remote *r, unsigned queue, bool persistent)
{
    uint64_t id = model_new(&r->self, &queue, 1, persistent);
    struct known *k = &r->world->known[id];

    if (queue >= QUEUES_STAY) {
        k->may_be_gone = true;
        k->queue_id = 0;
    }
    return id;
}

static void publish_everywhere(struct remote *r, struct remote_channel *ch, bool persistent)
{
    static const unsigned all[QUEUES_STAY] = {0, 1, 2};
    uint64_t id = model_new(&r->self, all, QUEUES_STAY, persistent);

    next_published(ch)->id = id;
    publish_id(r, ch, id, FANOUT_NAME, "", dice(r->world, 4) == 0);
}

static void publish(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    bool persistent = dice(w, 8) > 0;
    unsigned queue = (unsigned)dice(w, dice(w, 8) ? QUEUES_STAY : QUEUES);
    unsigned bound = ALL_THAT_STAY | 1u << QUEUES;

    r->self.number = ch->publisher;
    if (w->ids + QUEUES >= IDS_MAX)
        return;
    if (dice(w, 20) == 0) {
        publish_nowhere(r, ch);
    } else if (dice(w, 6) == 0 && w->queues_bound == bound && !w->corruption_reported) {
        publish_everywhere(r, ch, persistent);
    } else if (queue >= QUEUES_STAY || standing_look(w, r->self.worker, queue)) {
        uint64_t id = new_message(r, queue, persistent);
        next_published(ch)->id = id;
        publish_id(r, ch, id, "", queue_names[queue], dice(w, 4) == 0);
    }
}

/* ---- settling ---- */

static bool is_final(uint32_t method, bool requeue)
{
    return method == METHOD_basic_ack || !requeue;
}

static struct held take_held(struct remote *r, struct remote_channel *ch, size_t index)
{
    struct held held = ch->held[index];

    memmove(ch->held + index, ch->held + index + 1,
            (--ch->held_count - index) * sizeof ch->held[0]);
    for (unsigned i = 0; i < REMOTE_CONSUMERS; i++)
        ch->consumers[i].held -= held.serial != 0 && held.serial == ch->consumers[i].serial;
    if (held_is_ours(r, &held))
        r->world->known[held.id].leased = false;
    return held;
}

/* It may be gone from now on; that it is, is known later. */
static void settled(struct remote *r, struct remote_channel *ch, const struct held *held)
{
    if (held_is_ours(r, held))
        r->world->known[held->id].may_be_gone = true;
    unsigned queue = r->world->known[held->id].queue;
    ch->settling[++ch->settled_sent % SETTLING_MAX] = (struct settling){
        held->id, held->seen, r->world->moves[queue] > 0 ? NOT_STILL : r->world->moves_ever[queue]};
}

static void send_settlement(struct remote *r, struct remote_channel *ch, uint64_t tag,
                            bool multiple, uint32_t method, bool requeue)
{
    struct method m = {.id = method};

    if (method == METHOD_basic_ack)
        m.basic_ack = (struct basic_ack){tag, multiple};
    else if (method == METHOD_basic_nack)
        m.basic_nack = (struct basic_nack){tag, multiple, requeue};
    else
        m.basic_reject = (struct basic_reject){tag, requeue};
    remote_send(r, ch->number, &m);
}

void script_settle(struct remote *r, struct remote_channel *ch, size_t index, bool multiple,
                   uint32_t method, bool requeue)
{
    uint64_t tag = ch->held[index].tag;
    size_t first = multiple ? 0 : index;

    if (ch->settled_sent - ch->settled_known + index + 1 >= SETTLING_MAX || ch->mode == MODE_TX)
        return;
    send_settlement(r, ch, tag, multiple, method, requeue);
    for (size_t n = index - first + 1; n > 0; n--) {
        struct held held = take_held(r, ch, first);
        trace(r->world, "remote %u.%u settles %" PRIu64 "%s", r->index, ch->number, held.id,
              is_final(method, requeue) ? "" : ", to be seen again");
        if (is_final(method, requeue))
            settled(r, ch, &held);
    }
}

static void settle_some(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;

    for (uint64_t n = dice(w, 12); n > 0 && ch->held_count > 0; n--) {
        size_t index = dice(w, 3) ? 0 : dice(w, ch->held_count);
        uint64_t kind = dice(w, 10);
        uint32_t method = kind < 7   ? METHOD_basic_ack
                          : kind < 9 ? METHOD_basic_nack
                                     : METHOD_basic_reject;
        bool multiple = method != METHOD_basic_reject && dice(w, 4) == 0;
        script_settle(r, ch, index, multiple, method, dice(w, 3) > 0);
    }
}

/* All that the channel holds goes back, and what is on its way to it. */
static void recover(struct remote *r, struct remote_channel *ch)
{
    struct method m = {.id = METHOD_basic_recover, .basic_recover.requeue = true};

    if (ch->mode == MODE_TX ||
        !channel_ask(r, ch, &m, ANSWER(basic_recover_ok, NO_QUEUE, NO_CONSUMER)))
        return;
    channel_unsee(r, ch);
    ch->recovering++;
    while (ch->held_count > 0)
        take_held(r, ch, ch->held_count - 1);
}

/* ---- transactions ---- */

static void transact_publishes(struct remote *r, struct remote_channel *ch, struct transaction *t,
                               bool commits)
{
    struct world *w = r->world;

    t->first = w->ids + 1;
    r->self.number = ++w->clients;
    t->count = dice(w, 4);
    for (uint64_t i = 0; i < t->count; i++) {
        unsigned queue = (unsigned)dice(w, dice(w, 8) ? QUEUES_STAY : QUEUES);
        uint64_t id = new_message(r, queue, dice(w, 8) > 0);
        struct known *k = &w->known[id];
        k->in_transaction = true;
        k->may_be_gone |= !k->persistent;
        if (!commits)
            k->queue = NOWHERE;
        next_published(ch)->id = id;
        publish_id(r, ch, id, "", queue_names[queue], false);
    }
}

static void transact_settlements(struct remote *r, struct remote_channel *ch, struct transaction *t,
                                 uint32_t number, bool commits)
{
    struct world *w = r->world;

    for (size_t n = 0; n < ch->held_count && t->settled_count < SETTLEMENTS_MAX; n++) {
        if (dice(w, 3) == 0 || !held_is_ours(r, &ch->held[n]))
            continue;
        uint64_t id = ch->held[n].id;
        send_settlement(r, ch, ch->held[n].tag, false, METHOD_basic_ack, false);
        if (!commits)
            return; /* it is held again */
        t->settled[t->settled_count++] = id;
        w->known[id].settled_in = number;
        take_held(r, ch, n--);
        trace(w, "remote %u.%u settles %" PRIu64 " in transaction %u", r->index, ch->number, id,
              number);
    }
}

static void transact(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    bool commits = dice(w, 4) > 0;

    if (w->ids + 5 >= IDS_MAX || w->transaction_count + 1 >= IDS_MAX / 4 || ch->is_committing ||
        ch->await_count == AWAITS_MAX)
        return;
    uint32_t number = ++w->transaction_count;
    struct transaction *t = &w->transactions[number];
    *t = (struct transaction){0};
    transact_publishes(r, ch, t, commits);
    transact_settlements(r, ch, t, number, commits);
    trace(w, "remote %u.%u: transaction %u publishes %" PRIu64 " to %" PRIu64 ", settles %zu",
          r->index, ch->number, number, t->first, t->first + t->count - 1, t->settled_count);
    if (commits) {
        channel_ask(r, ch, &(struct method){.id = METHOD_tx_commit},
                    ANSWER(tx_commit_ok, NO_QUEUE, NO_CONSUMER, .transaction = number));
        ch->is_committing = true;
    } else {
        t->count = 0; /* those must never be seen */
        ask_empty(r, ch, METHOD_tx_rollback, METHOD_tx_rollback_ok);
    }
}

/* ---- consuming ---- */

static void consume(struct remote *r, struct remote_channel *ch, unsigned which)
{
    struct world *w = r->world;
    struct remote_consumer *c = &ch->consumers[which];
    struct method m = {.id = METHOD_basic_consume};
    char tag[16];

    if (ch->await_count == AWAITS_MAX)
        return;
    channel_unsee(r, ch); /* if it fails, the channel is closed */
    bool is_reply = dice(w, 8) == 0 && !ch->consumers[!which].is_reply;
    unsigned queue = is_reply ? QUEUES : some_queue(w);
    *c = (struct remote_consumer){.state = CONSUMER_ASKED,
                                  .queue = (uint8_t)queue,
                                  .is_reply = is_reply,
                                  .serial = ++r->serial,
                                  .prefetch = ch->prefetch};
    c->no_ack = is_reply || (w->seed % 8 == 6 && dice(w, 4) == 0);
    if (c->no_ack)
        c->prefetch = 0;
    if (c->no_ack && queue < QUEUES_STAY)
        model_purge_asked(w, queue); /* what is on its way when we go is lost */
    snprintf(tag, sizeof tag, "c%u", c->serial);
    m.basic_consume.queue = is_reply ? slice_text("amq.rabbitmq.reply-to") : name_of(queue);
    m.basic_consume.consumer_tag = slice_text(tag);
    m.basic_consume.no_ack = c->no_ack;
    m.basic_consume.exclusive = !is_reply && dice(w, 20) == 0;
    channel_ask(r, ch, &m, ANSWER(basic_consume_ok, queue, which, .may_fail = !is_reply));
}

static void cancel(struct remote *r, struct remote_channel *ch, unsigned which)
{
    struct remote_consumer *c = &ch->consumers[which];
    struct method m = {.id = METHOD_basic_cancel};
    char tag[16];

    snprintf(tag, sizeof tag, "c%u", c->serial);
    m.basic_cancel.consumer_tag = slice_text(tag);
    if (!channel_ask(r, ch, &m, ANSWER(basic_cancel_ok, NO_QUEUE, which)))
        return;
    channel_unsee(r, ch);
    c->state = CONSUMER_LEAVING;
}

static void consume_or_cancel(struct remote *r, struct remote_channel *ch)
{
    unsigned which = (unsigned)dice(r->world, REMOTE_CONSUMERS);

    if (ch->consumers[which].state == CONSUMER_NONE)
        consume(r, ch, which);
    else if (ch->consumers[which].state == CONSUMER_THERE && dice(r->world, 5) == 0)
        cancel(r, ch, which);
}

static void get(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;
    unsigned queue = some_queue(w);
    struct method m = {.id = METHOD_basic_get, .basic_get.queue = name_of(queue)};

    if (ch->held_count + AWAITS_MAX >= HELD_MAX)
        return;
    if (channel_ask(r, ch, &m,
                    ANSWER(basic_get_ok, queue, NO_CONSUMER, .may_fail = !is_sure(w, queue))) &&
        !is_sure(w, queue))
        channel_unsee(r, ch);
}

/* ---- queues that come and go: others than those of actors, who know what must be there ---- */

static void restless(struct remote *r, struct remote_channel *ch)
{
    static const char *const names[] = {"remote-0", "remote-1", "remote-2", ""};
    struct world *w = r->world;
    unsigned which = (unsigned)dice(w, 4);
    struct slice name = slice_text(names[which]);
    struct method m = {.id = METHOD_queue_declare};
    struct await a = ANSWER(queue_declare_ok, NO_QUEUE, NO_CONSUMER, .may_fail = true);

    switch (dice(w, 5)) {
    case 0:
        m.id = METHOD_queue_delete;
        m.queue_delete.queue = slice_text(names[which % 3]);
        m.queue_delete.if_empty = dice(w, 3) == 0;
        a.answer = METHOD_queue_delete_ok;
        break;
    case 1:
        m.id = METHOD_exchange_declare;
        m.exchange_declare.exchange = slice_text("remote-exchange");
        m.exchange_declare.type = slice_text("direct");
        m.exchange_declare.durable = dice(w, 10) > 0;
        a.answer = METHOD_exchange_declare_ok;
        break;
    case 2:
        m.id = METHOD_queue_bind;
        m.queue_bind.queue = slice_text(names[which % 3]);
        m.queue_bind.exchange = slice_text("remote-exchange");
        a.answer = METHOD_queue_bind_ok;
        break;
    default:
        m.queue_declare.queue = name;
        m.queue_declare.durable = which == 0;
        m.queue_declare.auto_delete = which == 1;
        m.queue_declare.exclusive = which > 1;
        m.queue_declare.passive = which < 3 && dice(w, 8) == 0;
    }
    if (channel_ask(r, ch, &m, a))
        channel_unsee(r, ch);
}

/* ---- acting ---- */

static void publish_some(struct remote *r, struct remote_channel *ch)
{
    if (ch->mode == MODE_TX) {
        transact(r, ch);
        return;
    }
    for (uint64_t n = dice(r->world, 12); n > 0; n--)
        publish(r, ch);
}

static void act_freely(struct remote *r, struct remote_channel *ch)
{
    struct world *w = r->world;

    switch (dice(w, 16)) {
    case 0:
    case 1:
    case 2:
    case 3:
    case 4:
        publish_some(r, ch);
        break;
    case 5:
    case 6:
    case 7:
        consume_or_cancel(r, ch);
        break;
    case 8:
        get(r, ch);
        break;
    case 9:
    case 10:
    case 11:
        settle_some(r, ch);
        break;
    case 12:
        restless(r, ch);
        break;
    case 13:
        if (dice(w, 4) == 0)
            recover(r, ch);
        else if (dice(w, 30) == 0)
            purge(r, ch);
        break;
    case 14:
        if (dice(w, 4) == 0)
            close_channel(r, ch);
        break;
    default:
        if (ch->mode == MODE_TX)
            transact(r, ch);
        else
            settle_some(r, ch);
    }
}

/* The connection as a whole. */
static bool act_at_large(struct remote *r)
{
    struct world *w = r->world;

    switch (dice(w, 300)) {
    case 0:
    case 1:
        leave(r);
        return true;
    case 2:
    case 3:
        remote_cut(r, dice(w, 2));
        return true;
    case 4:
        cable_shut(&r->cable);
        remote_doom(r);
        r->state = REMOTE_ENDED;
        return true;
    case 5:
    case 6:
        fall_silent(r);
        return true;
    case 7:
    case 8:
    case 9:
    case 10:
    case 11:
    case 12:
    case 13:
    case 14:
        return misuse_act(r);
    default:
        return false;
    }
}

void script_act(struct remote *r)
{
    struct world *w = r->world;
    struct remote_channel *ch = &r->channels[dice(w, dice(w, 2) ? 1 : REMOTE_CHANNELS)];

    if (act_at_large(r))
        return;
    if (ch->state == CHANNEL_NONE)
        script_open_channel(r, ch);
    if (ch->state != CHANNEL_OPEN || ch->is_stale || ch->await_count > AWAITS_MAX - 4)
        return;
    for (uint64_t n = 1 + dice(w, 4); n > 0 && ch->state == CHANNEL_OPEN; n--) {
        if (!declare_missing(r, ch) && !bind_missing(r, ch))
            act_freely(r, ch);
    }
}
