/* Messages that come to a remote: deliveries, answers to gets, returns, replies. */
#include "remote.h"

#include "message/amqp091_properties.h"

#define REPLY_MARK (UINT64_C(1) << 63) /* in the id of a reply */
#define NO_ROUTE   312

static void copy_name(char *to, struct slice name)
{
    memcpy(to, name.data, name.size);
    to[name.size] = 0;
}

/* ---- returns ---- */

void content_check_returns(struct remote *r, struct remote_channel *ch, uint64_t sequence)
{
    while (ch->looked_at_returns < sequence) {
        const struct published *p = &ch->published[++ch->looked_at_returns];
        CHECK(r->world, !p->must_return,
              "remote %u.%u: message %" PRIu64 ", which nobody wanted, was not returned", r->index,
              ch->number, p->id);
    }
}

/* They come in the order in which they were published. */
static void returned(struct remote *r, struct remote_channel *ch, uint64_t id)
{
    struct world *w = r->world;
    unsigned queue = w->known[id].queue;

    CHECK(w, queue >= QUEUES_STAY, "remote %u.%u: message %" PRIu64 " was for %s, and is returned",
          r->index, ch->number, id, queue_names[queue]);
    while (ch->looked_at_returns < ch->sequence) {
        const struct published *p = &ch->published[++ch->looked_at_returns];
        if (p->id == id)
            return;
        CHECK(w, !p->must_return,
              "remote %u.%u: message %" PRIu64 ", which nobody wanted, was not returned", r->index,
              ch->number, p->id);
    }
    failed(w, "remote %u.%u: message %" PRIu64 " is returned, and was not published here", r->index,
           ch->number, id);
}

/* ---- deliveries ---- */

static void check_address(const struct remote *r, const struct incoming *in, uint64_t id)
{
    const char *queue = queue_names[r->world->known[id].queue];

    CHECK(r->world,
          strcmp(in->exchange, FANOUT_NAME) == 0 || (!in->exchange[0] && !strcmp(in->key, queue)) ||
              strncmp(in->exchange, "restless-", 9) == 0,
          "message %" PRIu64 " of %s comes from exchange '%s' by key '%s'", id, queue, in->exchange,
          in->key);
}

/* What one publisher's messages do who have not been seen by anybody: they come in order. */
static void check_order(struct remote *r, struct remote_consumer *c, uint64_t id)
{
    const struct world *w = r->world;
    const struct known *k = &w->known[id];
    unsigned place = k->publisher % ORDERS;

    if (k->in_transaction)
        return;
    CHECK(w,
          c->last[place].publisher != k->publisher || c->last[place].id < id ||
              w->unseen[c->queue] > 0 || world_may_fail(w),
          "remote %u: message %" PRIu64 " comes after %" PRIu64 ", which is newer", r->index, id,
          c->last[place].id);
    c->last[place].publisher = k->publisher;
    c->last[place].id = id;
}

static void check_prefetch(const struct remote *r, const struct remote_channel *ch,
                           const struct remote_consumer *c)
{
    size_t held = 0;

    for (size_t i = 0; i < ch->held_count; i++)
        held += ch->held[i].serial != 0;
    CHECK(r->world, c->prefetch == 0 || c->held <= c->prefetch,
          "remote %u.%u: a consumer with prefetch %u has %u messages", r->index, ch->number,
          c->prefetch, c->held);
    CHECK(r->world, ch->prefetch_global == 0 || held <= ch->prefetch_global,
          "remote %u.%u: with a global prefetch of %u it has %zu messages", r->index, ch->number,
          ch->prefetch_global, held);
}

/* Without room for more the older half is acknowledged. */
static void make_room(struct remote *r, struct remote_channel *ch)
{
    if (ch->held_count == HELD_MAX)
        script_settle(r, ch, HELD_MAX / 2, true, METHOD_basic_ack, false);
}

static void hold(struct remote *r, struct remote_channel *ch, struct remote_consumer *c,
                 uint64_t id)
{
    const struct incoming *in = &ch->incoming;

    if (ch->held_count == HELD_MAX) { /* forgotten, until something behind it is settled, too */
        r->world->known[id].may_be_gone = true;
        ch->has_forgotten = true;
        return;
    }
    struct known *k = &r->world->known[id];
    k->leased = !channel_is_in_doubt(ch) && !world_may_fail(r->world);
    ch->held[ch->held_count++] = (struct held){in->tag, id, k->seen, c ? c->serial : 0};
    if (c) {
        c->held++;
        check_prefetch(r, ch, c);
    }
    make_room(r, ch);
}

static void reply(struct remote *r, struct remote_channel *ch, const char *key, uint64_t id)
{
    uint8_t body[8], properties[64];

    store_le64(body, id | REPLY_MARK);
    if (!script_publish_unknown(ch))
        return;
    script_publish_bytes(r, ch->number, "", key, false,
                         slice_of(properties, script_properties(properties, false, NULL)),
                         slice_of(body, sizeof body));
}

static void delivered(struct remote *r, struct remote_channel *ch, struct slice body)
{
    struct incoming *in = &ch->incoming;
    struct remote_consumer *c =
        in->consumer < REMOTE_CONSUMERS ? &ch->consumers[in->consumer] : NULL;
    struct sight sight = {
        .body = body,
        .queue = in->queue,
        .shard = remote_shard(r, in->queue),
        .redelivered = in->redelivered,
        .is_stale = ch->is_stale || ch->recovering > 0,
        .is_doubtful = channel_is_in_doubt(ch) || world_may_fail(r->world),
    };
    uint64_t id = model_seen(&r->self, &sight);

    check_address(r, in, id);
    if (sight.is_stale) {
        /* if it is ours after all, it is settled together with something behind it */
        bool may_be_ours = !ch->is_stale && ch->recovering == 0;
        ch->has_forgotten |= may_be_ours;
        r->world->known[id].may_be_gone |= may_be_ours;
        return;
    }
    if (c && sight.is_first && !in->redelivered)
        check_order(r, c, id);
    if (c && c->no_ack)
        model_settled(&r->self, id, sight.shard);
    else
        hold(r, ch, c, id);
    if (in->reply_to[0] && ch->mode != MODE_TX && r->state == REMOTE_OPEN)
        reply(r, ch, in->reply_to, id);
}

/* To direct reply-to. */
static void reply_came(struct remote *r, struct remote_channel *ch, struct slice body)
{
    struct world *w = r->world;

    CHECK(w, body.size == 8, "remote %u.%u: a reply of %zu bytes", r->index, ch->number, body.size);
    uint64_t id = load_le64(body.data) & ~REPLY_MARK;
    CHECK(w,
          id <= w->ids && (w->known[id].publisher == ch->publisher ||
                           (w->known[id].in_transaction && ch->mode == MODE_TX)),
          "remote %u.%u: a reply to message %" PRIu64 ", which it did not publish", r->index,
          ch->number, id);
    trace(w, "remote %u.%u has the reply to %" PRIu64, r->index, ch->number, id);
}

static void content_over(struct remote *r, struct remote_channel *ch)
{
    struct incoming *in = &ch->incoming;
    struct slice body = slice_of(in->body.data, in->body.size);
    uint32_t method = in->method;

    in->method = 0;
    if (method == METHOD_basic_return)
        returned(r, ch, model_body_id(r->world, body));
    else if (in->consumer < REMOTE_CONSUMERS && ch->consumers[in->consumer].is_reply)
        reply_came(r, ch, body);
    else
        delivered(r, ch, body);
}

/* ---- parts ---- */

static unsigned consumer_of(struct remote *r, struct remote_channel *ch, struct slice tag)
{
    for (unsigned i = 0; i < REMOTE_CONSUMERS; i++) {
        char text[16];
        snprintf(text, sizeof text, "c%u", ch->consumers[i].serial);
        if (ch->consumers[i].state >= CONSUMER_THERE && slice_is(tag, text))
            return i;
    }
    failed(r->world, "remote %u.%u: a delivery to consumer %.*s, which is not there", r->index,
           ch->number, SLICE_ARGS(tag));
}

static void check_tag(struct remote *r, struct remote_channel *ch, uint64_t tag)
{
    CHECK(r->world, tag == ch->last_tag + 1,
          "remote %u.%u: delivery tag %" PRIu64 " comes after %" PRIu64, r->index, ch->number, tag,
          ch->last_tag);
    ch->last_tag = ch->incoming.tag = tag;
}

void content_begin(struct remote *r, struct remote_channel *ch, const struct method *m)
{
    struct incoming *in = &ch->incoming;

    CHECK(r->world, in->method == 0, "remote %u.%u: %s in the middle of a message", r->index,
          ch->number, amqp091_method_name(m->id));
    in->method = m->id;
    r->delivered_ns = loop_now_ns(r->world->outside);
    in->has_header = false;
    in->reply_to[0] = 0;
    if (m->id == METHOD_basic_deliver) {
        const struct basic_deliver *d = &m->basic_deliver;
        in->consumer = (uint8_t)consumer_of(r, ch, d->consumer_tag);
        in->queue = ch->consumers[in->consumer].queue;
        in->redelivered = d->redelivered;
        copy_name(in->exchange, d->exchange);
        copy_name(in->key, d->routing_key);
        check_tag(r, ch, d->delivery_tag);
    } else if (m->id == METHOD_basic_get_ok) {
        const struct basic_get_ok *d = &m->basic_get_ok;
        in->consumer = REMOTE_CONSUMERS;
        in->queue = ch->get_queue;
        in->redelivered = d->redelivered;
        copy_name(in->exchange, d->exchange);
        copy_name(in->key, d->routing_key);
        check_tag(r, ch, d->delivery_tag);
    } else {
        CHECK(r->world, m->basic_return.reply_code == NO_ROUTE, "remote %u: returned with %u",
              r->index, m->basic_return.reply_code);
    }
}

void content_header(struct remote *r, struct remote_channel *ch, struct slice payload)
{
    struct world *w = r->world;
    struct incoming *in = &ch->incoming;
    struct content_header header;
    struct amqp091_properties properties;

    CHECK(w, in->method && !in->has_header, "remote %u.%u: a header of no message", r->index,
          ch->number);
    CHECK(w,
          amqp091_content_header_decode(payload, &header) == 0 && header.class_id == 60 &&
              amqp091_properties_parse(header.properties, &properties) == 0,
          "remote %u.%u: a header that cannot be read", r->index, ch->number);
    in->has_header = true;
    in->size = header.body_size;
    in->body.start = in->body.size = 0;
    if (properties.flags & AMQP091_REPLY_TO)
        copy_name(in->reply_to, properties.reply_to);
    if (in->size == 0)
        content_over(r, ch);
}

void content_body(struct remote *r, struct remote_channel *ch, struct slice part)
{
    struct incoming *in = &ch->incoming;
    struct bytes *body = &in->body;

    CHECK(r->world, in->method && in->has_header && part.size <= in->size - body->size,
          "remote %u.%u: a body of no message", r->index, ch->number);
    if (body->capacity < body->size + part.size) {
        body->capacity = 2 * (body->size + part.size);
        body->data = memory_resize(body->data, body->capacity, 1);
    }
    if (part.size)
        memcpy(body->data + body->size, part.data, part.size);
    body->size += part.size;
    if (body->size == in->size)
        content_over(r, ch);
}
