/* What becomes of messages that may die: what was promised of each, and what is possible. */
#include "mortal.h"

#include "message/amqp091_properties.h"

/* Disks fail, or are full, or cannot be read: then the dead may come back. */
static bool may_fail(const struct world *w)
{
    return w->failed_shards != 0 || w->corruption_reported ||
           (w->seed % 8 >= 3 && w->seed % 8 <= 5);
}

/* ---- paths ---- */

/* Sets of queues are bits; that of NO_GRAVE: gone. */

static bool has(unsigned set, unsigned queue)
{
    return set & 1u << queue;
}

/* Where it may be after one death more. */
static unsigned places_after(const struct mortals *m, const struct fate *f, unsigned places)
{
    unsigned after = 0;

    for (unsigned q = 0; q < MORTAL_QUEUES; q++) {
        if (has(places, q))
            after |= rules_targets(m, q, rules_since(m, f, q));
    }
    return after;
}

/* Where a message may be after so many deaths. */
static unsigned places_at(const struct mortals *m, const struct fate *f, uint32_t step)
{
    unsigned places = 1u << f->queue;

    while (step-- > 0)
        places = places_after(m, f, places);
    return places;
}

static bool leads_to(const struct mortals *m, const struct fate *f, unsigned to)
{
    unsigned places = 1u << f->queue;

    for (uint32_t step = 0; step <= MORTAL_QUEUES; step++) {
        if (has(places, to))
            return true;
        places = places_after(m, f, places);
    }
    return false;
}

/* ---- messages ---- */

static const uint8_t *bytes_of(const struct world *w, uint64_t id)
{
    return w->room->bodies + id * 2654435761 % BODY_PLACES;
}

static uint32_t size_of(const struct world *w, uint64_t id)
{
    return (uint32_t)(16 + (id * 7919 + w->seed) % (id % 11 == 0 ? 20000 : 300));
}

static uint64_t wall_ms(const struct mourner *mourner)
{
    return loop_wall_ms(mourner->world->members[mourner->worker].loop);
}

uint64_t fate_new(struct mourner *mourner, unsigned queue, bool persistent, uint64_t lives_ms,
                  uint64_t waits_ms)
{
    struct world *w = mourner->world;
    struct mortals *m = w->mortals;
    const struct catalog_queue *named = mortal_look(m, mourner->worker, queue);
    uint64_t id = ++m->count;

    m->fates[id] = (struct fate){
        .persistent = persistent,
        .queue = (uint8_t)queue,
        .publisher = mourner->number,
        .born = w->life,
        .size = size_of(w, id),
        .published_ms = wall_ms(mourner),
        .lives_ms = lives_ms,
        .waits_ms = waits_ms,
        .home = named ? (uint8_t)named->shard : 0,
    };
    for (unsigned q = 0; q < MORTAL_QUEUES; q++)
        m->fates[id].since[q] = (uint8_t)m->queues[q].certain;
    return id;
}

struct message *fate_message(struct mourner *mourner, uint64_t id)
{
    const struct world *w = mourner->world;
    const struct fate *f = &w->mortals->fates[id];
    struct buffer *body = buffer_new(f->size);
    uint8_t properties[64];
    char expiration[24];
    struct writer writer = writer_of(properties, sizeof properties);
    struct amqp091_properties p = {.flags = AMQP091_DELIVERY_MODE,
                                   .delivery_mode = f->persistent ? 2 : 1};
    if (f->priority != NO_PRIORITY) {
        p.flags |= AMQP091_PRIORITY;
        p.priority = (uint8_t)f->priority;
    }

    store_le64(body->data, id);
    memcpy(body->data + 8, bytes_of(w, id), f->size - 8);
    body->size = f->size;
    snprintf(expiration, sizeof expiration, "%" PRIu64, f->lives_ms);
    if (f->lives_ms != UNLIMITED) {
        p.flags |= AMQP091_EXPIRATION;
        p.expiration = slice_text(expiration);
    }
    amqp091_properties_write(&writer, &p);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = amqp091_message_flags(&p),
        .priority = p.priority,
        .exchange = slice_text(""),
        .key = slice_text(mortal_names[f->queue]),
        .properties = slice_of(properties, writer_size(&writer)),
        .body = slice_of(body->data, body->size),
        .body_buffer = body->size > MESSAGE_INLINE_MAX ? body : NULL,
        .published_at_ms = f->published_ms,
        .not_before_ms = f->waits_ms ? f->published_ms + f->waits_ms : 0,
        .expires_at_ms = f->lives_ms == UNLIMITED ? 0 : f->published_ms + f->waits_ms + f->lives_ms,
    };
    struct message *message = message_new(broker_message_account(mourner->client), &parts);
    buffer_unref(body);
    CHECK(w, message, "no message");
    return message;
}

static uint64_t id_of(const struct world *w, struct slice body)
{
    CHECK(w, body.size >= 16, "a mortal body of %zu bytes", body.size);
    uint64_t id = load_le64(body.data);
    CHECK(w, id > 0 && id <= w->mortals->count, "mortal %" PRIu64 " was never published", id);
    CHECK(w,
          body.size == w->mortals->fates[id].size &&
              memcmp(body.data + 8, bytes_of(w, id), body.size - 8) == 0,
          "mortal %" PRIu64 " has other bytes than were published", id);
    return id;
}

/* ---- priorities ---- */

/* RabbitMQ's: none is 0, and in quorum queues, which have 32, it is 4. */
static unsigned level_in(const struct mortals *m, const struct fate *f, unsigned queue)
{
    const struct mortal_queue *q = &m->queues[queue];
    unsigned most = q->is_quorum ? LEVELS_MAX - 1 : q->priority_max;
    unsigned level = f->priority != NO_PRIORITY ? (unsigned)f->priority : q->is_quorum ? 4 : 0;

    return level < most ? level : most;
}

/* ---- what is possible ---- */

/* Others that may have been ready in that queue at a time since this one was published. */
static void count_others(const struct mortals *m, uint64_t id, unsigned queue, uint64_t *count,
                         uint64_t *bytes)
{
    *count = *bytes = 0;
    for (uint64_t other = 1; other <= m->count; other++) {
        const struct fate *f = &m->fates[other];
        bool was_over =
            (f->accepted && f->accepted_before < id) || (f->leased && f->leased_before < id);
        bool was_refused =
            f->refused && !rules_may_bury_refused(m, f->queue, rules_since(m, f, f->queue));
        if (other == id || was_over || (was_refused && !may_fail(m->world)) ||
            !leads_to(m, f, queue))
            continue;
        ++*count;
        *bytes += f->size;
    }
}

#define DROPS   (1u << OVERFLOW_DROP)
#define REFUSES (1u << OVERFLOW_NACK | 1u << OVERFLOW_NACK_AND_BURY)

/* While it did one of these with what is over its limit. */
static bool may_be_full(const struct mortals *m, uint64_t id, unsigned queue, unsigned overflow)
{
    const struct fate *f = &m->fates[id];
    unsigned since = rules_since(m, f, queue);
    uint64_t count, bytes;

    if (!rules_may_be_over(m, queue, since, overflow, UNLIMITED, UNLIMITED))
        return false;
    count_others(m, id, queue, &count, &bytes);
    return rules_may_be_over(m, queue, since, overflow, count, bytes + f->size);
}

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

static bool may_be_too_old(const struct mortals *m, const struct fate *f, uint32_t step,
                           unsigned queue)
{
    uint64_t lives_ms = rules_least_lives(m, queue, rules_since(m, f, queue));

    if (step == 0)
        lives_ms = least(lives_ms, f->lives_ms);
    return lives_ms != UNLIMITED && m->latest_ms >= f->published_ms + f->waits_ms + lives_ms;
}

static bool may_be_returned(const struct mortals *m, const struct fate *f, uint32_t step,
                            unsigned queue)
{
    return f->returns[step] > rules_least_returns(m, queue, rules_since(m, f, queue));
}

/* Of anything but a rejection. */
static bool may_die_in(const struct mortals *m, uint64_t id, uint32_t step, unsigned queue)
{
    const struct fate *f = &m->fates[id];

    return may_be_too_old(m, f, step, queue) || may_be_returned(m, f, step, queue) ||
           may_be_full(m, id, queue, DROPS);
}

/* In which of these queues. */
static unsigned may_die(const struct mortals *m, uint64_t id, uint32_t step, unsigned places)
{
    unsigned deadly = 0;

    for (unsigned q = 0; q < MORTAL_QUEUES; q++) {
        if (has(places, q) && may_die_in(m, id, step, q))
            deadly |= 1u << q;
    }
    return deadly;
}

/* May it come to one of these, where it has been before, and nobody need have rejected it since? */
static bool may_go_in_circle(const struct mortals *m, uint64_t id, uint32_t step, unsigned targets)
{
    const struct fate *f = &m->fates[id];

    for (uint32_t i = step + 1; i-- > 0;) {
        unsigned deadly = may_die(m, id, i, places_at(m, f, i));
        if (!deadly)
            return false;
        if (deadly & targets)
            return true;
    }
    return false;
}

static bool may_be_refused(const struct mortals *m, uint64_t id, unsigned places)
{
    for (unsigned q = 0; q < MORTAL_QUEUES; q++) {
        if (has(places, q) && may_be_full(m, id, q, REFUSES))
            return true;
    }
    return false;
}

/* May it be gone, by the rules of some queue on its path? */
static bool may_have_gone(const struct mortals *m, uint64_t id)
{
    const struct fate *f = &m->fates[id];
    unsigned places = 1u << f->queue;

    for (uint32_t step = 0; step < STEPS_MAX; step++) {
        bool is_rejected = f->rejected & UINT64_C(1) << step;
        if ((step > 0 || f->in_transaction) && may_be_refused(m, id, places))
            return true;
        unsigned deadly = is_rejected ? places : may_die(m, id, step, places);
        if (!deadly)
            return false;
        places = places_after(m, f, deadly);
        if (has(places, NO_GRAVE) || may_go_in_circle(m, id, step, places))
            return true;
    }
    return true;
}

/* ---- histories ---- */

enum reason { REASON_REJECTED, REASON_EXPIRED, REASON_MAXLEN, REASON_RETURNED, REASONS };

struct history {
    uint32_t deaths[MORTAL_QUEUES][REASONS];
    uint32_t step;
};

static unsigned one_of(const char *const *words, unsigned count, struct slice text)
{
    unsigned i = 0;

    while (i < count && !slice_is(text, words[i]))
        i++;
    return i;
}

static void read_death(const struct world *w, uint64_t id, struct slice table, struct history *h)
{
    static const char *const reasons[REASONS] = {"rejected", "expired", "maxlen", "delivery_limit"};
    struct slice queue, reason;
    int64_t count = 0;

    CHECK(w,
          fields_text(table, "queue", &queue) && fields_text(table, "reason", &reason) &&
              fields_integer(table, "count", &count) && count > 0,
          "mortal %" PRIu64 " has a death without queue, reason or count", id);
    unsigned which = one_of(mortal_names, MORTAL_QUEUES, queue);
    unsigned why = one_of(reasons, REASONS, reason);
    CHECK(w, which < MORTAL_QUEUES && why < REASONS && h->deaths[which][why] == 0,
          "mortal %" PRIu64 " has died in %.*s of %.*s", id, SLICE_ARGS(queue), SLICE_ARGS(reason));
    h->deaths[which][why] = (uint32_t)count;
    h->step += (uint32_t)count;
}

static void read_history(const struct world *w, uint64_t id, const struct message *message,
                         struct history *h)
{
    struct slice headers = message_format(message)->headers(message);
    struct field deaths, each;

    *h = (struct history){.step = 0};
    if (!fields_find(headers, slice_text("x-death"), &deaths) || deaths.type != 'A')
        return;
    struct reader reader = reader_of(deaths.value.bytes);
    while (fields_next_value(&reader, &each)) {
        CHECK(w, each.type == 'F', "mortal %" PRIu64 " has a death that is no table", id);
        read_death(w, id, each.value.bytes, h);
    }
}

/* What it says of itself besides. */
static void check_envelope(const struct mortals *m, uint64_t id, const struct fate_sight *sight)
{
    const struct message *message = sight->message;
    const struct fate *f = &m->fates[id];
    struct slice headers = message_format(message)->headers(message), first, last;
    bool is_dead = sight->step > 0;

    CHECK(m->world, slice_is(message_key(message), mortal_names[sight->queue]),
          "mortal %" PRIu64 " comes by key %.*s", id, SLICE_ARGS(message_key(message)));
    CHECK(m->world, is_dead == !!(message->flags & MESSAGE_DEAD_LETTER),
          "mortal %" PRIu64 " died %u times, and its flags are %02x", id, sight->step,
          message->flags);
    CHECK(m->world, (message->expires_at_ms != 0) == (!is_dead && f->lives_ms != UNLIMITED),
          "mortal %" PRIu64 ", step %u, expires at %" PRIu64, id, sight->step,
          message->expires_at_ms);
    CHECK(m->world,
          !is_dead ||
              (fields_text(headers, "x-first-death-queue", &first) &&
               fields_text(headers, "x-last-death-queue", &last) &&
               slice_is(first, mortal_names[f->queue]) &&
               has(places_at(m, f, sight->step - 1), one_of(mortal_names, MORTAL_QUEUES, last))),
          "mortal %" PRIu64 ", step %u: first or last death is wrong", id, sight->step);
}

static bool is_one(unsigned places)
{
    return (places & (places - 1)) == 0;
}

/* It died so often in each queue of its path, and nowhere else; where it may have gone several
 * ways, in those that were on one. */
static void check_path(const struct mortals *m, uint64_t id, const struct history *h)
{
    const struct fate *f = &m->fates[id];
    uint32_t least_times[MORTAL_QUEUES + 1] = {0}, most_times[MORTAL_QUEUES + 1] = {0};

    CHECK(m->world, h->step < STEPS_MAX, "mortal %" PRIu64 " has died %u times", id, h->step);
    for (uint32_t step = 0; step < h->step; step++) {
        unsigned places = places_at(m, f, step);
        for (unsigned q = 0; q <= MORTAL_QUEUES; q++) {
            most_times[q] += has(places, q);
            least_times[q] += has(places, q) && is_one(places);
        }
    }
    for (unsigned q = 0; q < MORTAL_QUEUES; q++) {
        uint32_t sum = 0;
        for (unsigned r = 0; r < REASONS; r++)
            sum += h->deaths[q][r];
        CHECK(m->world, sum >= least_times[q] && sum <= most_times[q],
              "mortal %" PRIu64 " says it died %u times in %s, not %u to %u", id, sum,
              mortal_names[q], least_times[q], most_times[q]);
    }
}

static void check_reasons_in(const struct mortals *m, uint64_t id, const struct history *h,
                             unsigned queue)
{
    const struct fate *f = &m->fates[id];
    const uint32_t *deaths = h->deaths[queue];
    uint32_t rejected = 0, returned = 0;

    for (uint32_t step = 0; step < h->step; step++) {
        bool is_here = has(places_at(m, f, step), queue);
        rejected += is_here && (f->rejected & UINT64_C(1) << step);
        returned += is_here && may_be_returned(m, f, step, queue);
    }
    CHECK(m->world, deaths[REASON_REJECTED] <= rejected,
          "mortal %" PRIu64 " was rejected in %s, by nobody", id, mortal_names[queue]);
    CHECK(m->world, deaths[REASON_RETURNED] <= returned,
          "mortal %" PRIu64 " was not returned to %s as often as it says", id, mortal_names[queue]);
    if (deaths[REASON_MAXLEN] == 0)
        return;
    bool may_be_refused_here = queue == f->queue && !f->confirmed;
    unsigned overflow = DROPS | (may_be_refused_here ? 1u << OVERFLOW_NACK_AND_BURY : 0);
    CHECK(m->world, may_be_full(m, id, queue, overflow),
          "mortal %" PRIu64 " was too many in %s, but was not", id, mortal_names[queue]);
}

/* Not before as much time was over as they take together. */
static void check_times(const struct mortals *m, uint64_t id, const struct history *h)
{
    const struct fate *f = &m->fates[id];
    uint64_t sum_ms = 0;

    for (unsigned q = 0; q < MORTAL_QUEUES; q++) {
        uint32_t times = h->deaths[q][REASON_EXPIRED];
        uint64_t lives_ms = rules_least_lives(m, q, rules_since(m, f, q));
        if (times > 0 && q == f->queue && f->lives_ms < lives_ms) {
            sum_ms += f->lives_ms;
            times--;
        }
        CHECK(m->world, times == 0 || lives_ms != UNLIMITED,
              "mortal %" PRIu64 " has expired in %s, where nothing does", id, mortal_names[q]);
        sum_ms += times > 0 ? times * lives_ms : 0;
    }
    CHECK(m->world, m->latest_ms >= f->published_ms + sum_ms,
          "mortal %" PRIu64 " has expired within %" PRIu64 " ms, and not %" PRIu64, id,
          m->latest_ms - f->published_ms, sum_ms);
}

static void check_circle(const struct mortals *m, uint64_t id, const struct history *h,
                         unsigned queue)
{
    uint32_t here = 0, rejected = 0;

    for (unsigned r = 0; r < REASONS; r++)
        here += h->deaths[queue][r];
    for (unsigned q = 0; q < MORTAL_QUEUES; q++)
        rejected += h->deaths[q][REASON_REJECTED];
    CHECK(m->world, here == 0 || rejected > 0, "mortal %" PRIu64 " goes in a circle to %s", id,
          mortal_names[queue]);
}

static void look_at_history(const struct mortals *m, uint64_t id, struct fate_sight *sight)
{
    struct history h;

    read_history(m->world, id, sight->message, &h);
    sight->step = h.step;
    check_path(m, id, &h);
    CHECK(m->world, has(places_at(m, &m->fates[id], h.step), sight->queue),
          "mortal %" PRIu64 ", published to %s, is in %s after %u deaths", id,
          mortal_names[m->fates[id].queue], mortal_names[sight->queue], h.step);
    check_envelope(m, id, sight);
    for (unsigned q = 0; q < MORTAL_QUEUES; q++)
        check_reasons_in(m, id, &h, q);
    check_times(m, id, &h);
    check_circle(m, id, &h, sight->queue);
}

/* ---- sights ---- */

/* What happened to it in this life. */
static struct fate *fate_now(const struct world *w, uint64_t id)
{
    struct fate *f = &w->mortals->fates[id];

    if (f->life == w->life + 1)
        return f;
    f->life = w->life + 1;
    f->step = 0;
    f->rejected_now = f->seen_now = 0;
    f->back_ms = 0;
    memset(f->returns_now, 0, sizeof f->returns_now);
    return f;
}

static void check_alive(const struct mortals *m, uint64_t id, const struct fate_sight *sight)
{
    const struct world *w = m->world;
    const struct fate *f = &m->fates[id];
    uint64_t bit = UINT64_C(1) << sight->step;
    bool may_be_buried = rules_may_bury_refused(m, f->queue, rules_since(m, f, f->queue));

    CHECK(w, !f->leased || w->corruption_reported,
          "mortal %" PRIu64 " was given out twice at a time", id);
    CHECK(w, !f->accepted || w->corruption_reported,
          "mortal %" PRIu64 " came back after it was accepted%s", id,
          f->accepted_durable ? ", durably" : "");
    CHECK(w, sight->step >= f->step || may_fail(w),
          "mortal %" PRIu64 " had died %u times, and now %u", id, f->step, sight->step);
    CHECK(w, sight->step >= f->least || w->corruption_reported,
          "mortal %" PRIu64 " was dead for good at step %u, and is at %u", id, f->least - 1,
          sight->step);
    CHECK(w, !(f->rejected_now & bit) || may_fail(w),
          "mortal %" PRIu64 " was rejected at step %u, and is there", id, sight->step);
    CHECK(w, !f->refused || (sight->step > 0 && may_be_buried) || may_fail(w),
          "mortal %" PRIu64 " was refused by %s, and is there", id, mortal_names[f->queue]);
}

/* Who died of the last return and cannot be buried is back, without it. */
static void check_counts(const struct mortals *m, uint64_t id, const struct fate_sight *sight)
{
    const struct fate *f = &m->fates[id];
    uint32_t step = sight->step;

    CHECK(m->world,
          sight->count <= f->returns[step] &&
              (sight->count >= f->returns_now[step] || may_fail(m->world)),
          "mortal %" PRIu64 " counts %u returns, but there were %u, %u of them in this life", id,
          sight->count, f->returns[step], f->returns_now[step]);
    uint64_t returns_max = rules_most_returns(m, sight->queue, rules_since(m, f, sight->queue));
    CHECK(m->world, sight->count <= returns_max || may_fail(m->world),
          "mortal %" PRIu64 " was returned %u times to %s", id, sight->count,
          mortal_names[sight->queue]);
    bool was_seen = step == 0 ? f->seen_ever & 1 : f->seen_now & UINT64_C(1) << step;
    CHECK(m->world, !was_seen || sight->redelivered || may_fail(m->world),
          "mortal %" PRIu64 " was seen before, and does not say so", id);
}

/* Not before its time. Its dead letters wait for nothing. */
static void check_due(const struct mortals *m, uint64_t id, const struct fate_sight *sight)
{
    const struct fate *f = &m->fates[id];
    uint64_t due_ms = sight->step == 0 && f->waits_ms ? f->published_ms + f->waits_ms : 0;

    CHECK(m->world, message_not_before_ms(sight->message) == due_ms,
          "mortal %" PRIu64 ", step %u, is due at %" PRIu64, id, sight->step,
          message_not_before_ms(sight->message));
    CHECK(m->world, m->latest_ms >= due_ms,
          "mortal %" PRIu64 " is given out at %" PRIu64 ", but due at %" PRIu64, id, m->latest_ms,
          due_ms);
    CHECK(m->world, sight->step != f->step || m->latest_ms >= f->back_ms || may_fail(m->world),
          "mortal %" PRIu64 " is given out at %" PRIu64 ", but was put off until %" PRIu64, id,
          m->latest_ms, f->back_ms);
}

/* Given out by a queue that could look at the clock. What lives for 0 ms may have been on its way
 * for longer. */
static void check_age(const struct mortals *m, uint64_t id, const struct fate_sight *sight,
                      uint64_t now_ms)
{
    const struct fate *f = &m->fates[id];
    unsigned certain = rules_certain(m, sight->queue);
    uint64_t lives_ms = rules_most_lives(m, sight->queue, certain);
    bool may_be_0 = rules_least_lives(m, sight->queue, certain) == 0;

    if (sight->step == 0)
        lives_ms = least(lives_ms, f->lives_ms);
    if (!sight->is_at_home || m->has_moved || lives_ms == UNLIMITED || lives_ms == 0 || may_be_0)
        return;
    uint64_t waits_ms = sight->step == 0 ? f->waits_ms : 0;
    CHECK(m->world, sight->message->published_at_ms + waits_ms + lives_ms >= now_ms,
          "mortal %" PRIu64 ", of %" PRIu64 " ms, is given out by %s at %" PRIu64 ", too old", id,
          lives_ms, mortal_names[sight->queue], now_ms);
}

/* What one client has published to one queue stands there in that order, at each level. */
static void check_place(struct mortals *m, uint64_t id, const struct fate_sight *sight)
{
    struct fate *f = &m->fates[id];

    if (sight->step > 0)
        return;
    CHECK(m->world, f->sequence == 0 || f->sequence == sight->sequence,
          "mortal %" PRIu64 " was number %" PRIu64 ", and is number %" PRIu64, id, f->sequence,
          sight->sequence);
    f->sequence = sight->sequence;
    for (uint64_t other = 1; other <= m->count; other++) {
        const struct fate *o = &m->fates[other];
        if (other == id || o->sequence == 0 || o->publisher != f->publisher ||
            o->queue != f->queue || level_in(m, o, o->queue) != level_in(m, f, f->queue))
            continue;
        CHECK(m->world, (other < id) == (o->sequence < f->sequence),
              "mortals %" PRIu64 " and %" PRIu64 " of %s are numbers %" PRIu64 " and %" PRIu64, id,
              other, mortal_names[f->queue], f->sequence, o->sequence);
    }
}

/* Its burial may have been under way when everything crashed: then it waits, too. */
static bool may_be_half_buried(const struct mortals *m, uint64_t id)
{
    const struct fate *f = &m->fates[id];

    return f->born < m->world->life && ((f->rejected & 1) || may_die_in(m, id, 0, f->queue));
}

/* A consumer gets what nobody has seen yet in the order of the queue. Dead letters are put in by
 * transactions, whose messages stand in their place and wait; and so does what a transaction was to
 * settle, until its end is known, after a crash too. */
static void check_order(struct mourner *mourner, uint64_t id, const struct fate_sight *sight)
{
    struct mortals *m = mourner->world->mortals;
    const struct fate *f = &m->fates[id];
    uint64_t *last = &mourner->consumer_last[level_in(m, f, sight->queue)];

    if (!sight->to_consumer || sight->step > 0 || f->in_transaction || f->in_doubt ||
        (f->seen_now & 1) || f->waits_ms > 0 || f->was_put_off || may_be_half_buried(m, id))
        return;
    CHECK(m->world,
          sight->sequence > *last || m->has_moved || may_fail(m->world) ||
              m->queues[sight->queue].unseen > 0,
          "a mortal, number %" PRIu64 " of %s, is first seen after number %" PRIu64,
          sight->sequence, mortal_names[sight->queue], *last);
    *last = sight->sequence;
}

/* Published in this life, in the queue and ready for sure: nobody had it, and nothing befell it. */
static bool must_be_ready(const struct mortals *m, uint64_t id, unsigned queue)
{
    const struct fate *f = &m->fates[id];

    return f->queue == queue && f->confirmed && f->born == m->world->life && !f->in_transaction &&
           !f->in_doubt && !f->leased && !f->accepted && !f->may_be_gone && f->rejected == 0 &&
           f->waits_ms == 0 && f->seen_ever == 0 &&
           (f->life != m->world->life + 1 || !f->seen_now) && !may_die_in(m, id, 0, queue);
}

/* It is strict: there is none of a higher priority when one goes out for the first time. */
static void check_priority(const struct mourner *mourner, const struct fate *f,
                           const struct fate_sight *sight)
{
    struct mortals *m = mourner->world->mortals;
    unsigned level = level_in(m, f, sight->queue);

    if (!sight->is_at_home || sight->redelivered || (f->seen_now & UINT64_C(1) << sight->step) ||
        m->has_moved || may_fail(m->world) || m->queues[sight->queue].unseen > 0 ||
        !mortal_is_alone(mourner, sight->queue))
        return;
    for (uint64_t other = 1; other <= m->count; other++) {
        unsigned its_level = level_in(m, &m->fates[other], sight->queue);
        CHECK(m->world, its_level <= level || !must_be_ready(m, other, sight->queue),
              "a mortal of priority %u comes from %s, where %" PRIu64 " of %u waits", level,
              mortal_names[sight->queue], other, its_level);
    }
}

uint64_t fate_seen(struct mourner *mourner, struct fate_sight *sight)
{
    struct world *w = mourner->world;
    struct mortals *m = w->mortals;
    uint64_t id = id_of(w, message_body(sight->message));
    struct fate *f = fate_now(w, id);

    mortals_note_time(w);
    look_at_history(m, id, sight);
    trace(w, "mourner %u gets %" PRIu64 " of %s as %" PRIu64 ", step %u%s", mourner->index, id,
          mortal_names[sight->queue], sight->sequence, sight->step,
          sight->redelivered ? ", redelivered" : "");
    check_alive(m, id, sight);
    check_due(m, id, sight);
    check_counts(m, id, sight);
    check_age(m, id, sight, wall_ms(mourner));
    check_place(m, id, sight);
    check_order(mourner, id, sight);
    check_priority(mourner, f, sight);
    f->in_doubt = false;
    if (sight->step != f->step)
        f->back_ms = 0; /* that was in another queue */
    f->step = sight->step;
    f->seen_now |= UINT64_C(1) << sight->step;
    if (!(w->failed_shards & 1u << sight->shard))
        f->seen_ever |= UINT64_C(1) << sight->step;
    w->mortal_sights++;
    w->mortal_deaths += sight->step > 0;
    return id;
}

/* ---- settlements and confirms ---- */

static void note_outcome(struct fate *f, uint32_t step, enum outcome outcome)
{
    if (outcome == OUTCOME_ACCEPT)
        f->may_be_gone = true;
    else if (outcome == OUTCOME_REJECT)
        f->rejected |= UINT64_C(1) << step;
    else if (outcome == OUTCOME_RETURN_COUNTED && f->returns[step] < UINT8_MAX)
        f->returns[step]++;
}

void fate_returned(struct mourner *mourner, uint64_t id, const char *queue, enum outcome outcome)
{
    const struct mortals *m = mourner->world->mortals;
    struct fate *f = fate_now(mourner->world, id);
    const struct mortal_queue *q =
        &m->queues[one_of(mortal_names, MORTAL_QUEUES - 1, slice_text(queue))];

    if (outcome == OUTCOME_RETURN_COUNTED ? q->retries_failed
                                          : outcome == OUTCOME_RETURN && q->retries_returned) {
        f->back_ms = wall_ms(mourner) + q->retry_ms;
        f->was_put_off = true;
    }
}

void fate_settled(struct mourner *mourner, uint64_t id, uint32_t step, unsigned shard,
                  enum outcome outcome)
{
    struct fate *f = fate_now(mourner->world, id);

    f->leased = false;
    note_outcome(f, step, outcome);
    if (outcome == OUTCOME_REJECT)
        f->rejected_now |= UINT64_C(1) << step;
    if (outcome == OUTCOME_RETURN_COUNTED && f->returns_now[step] < UINT8_MAX)
        f->returns_now[step]++;
    if (outcome != OUTCOME_ACCEPT)
        return;
    f->accepted = true;
    f->accepted_before = mourner->world->mortals->count;
    f->worker = (uint8_t)mourner->worker;
    f->shard = (uint8_t)shard;
}

void fate_may_settle(struct mourner *mourner, uint64_t id, uint32_t step, enum outcome outcome)
{
    struct fate *f = fate_now(mourner->world, id);

    f->leased = false;
    f->in_doubt = true;
    note_outcome(f, step, outcome);
}

void fate_done(struct mortals *m, uint64_t id, uint32_t step, enum outcome outcome)
{
    struct fate *f = fate_now(m->world, id);

    if (outcome == OUTCOME_ACCEPT) {
        f->accepted = true;
        f->accepted_durable = f->persistent;
        f->accepted_before = m->count;
    } else if (outcome == OUTCOME_REJECT) { /* it dies now, which a crash undoes */
        f->rejected_now |= UINT64_C(1) << step;
    }
}

/* What a worker's clients settled in a shard, before what they published there and what is durable
 * now, is durable, too. */
void fate_confirmed(struct mourner *mourner, uint64_t id, bool accepted)
{
    struct mortals *m = mourner->world->mortals;
    struct fate *f = &m->fates[id];

    f->confirmed = accepted;
    f->refused = !accepted && !may_fail(m->world); /* where storage fails, nobody knows */
    CHECK(m->world, accepted || may_fail(m->world) || may_be_full(m, id, f->queue, REFUSES),
          "mortal %" PRIu64 " is refused by %s, which was not full", id, mortal_names[f->queue]);
    if (!accepted || !f->persistent || m->has_moved)
        return;
    for (uint64_t other = 1; other <= m->count; other++) {
        struct fate *o = &m->fates[other];
        if (o->accepted && o->accepted_before < id && o->worker == mourner->worker &&
            o->shard == f->home)
            o->accepted_durable = true;
    }
}

/* ---- ends ---- */

/* Clean: nothing was on its way, and all of it is on disk. */
void fates_life_over(struct mortals *m, bool clean)
{
    bool all = clean && m->world->failed_shards == 0 && !may_fail(m->world);

    for (uint64_t id = 1; id <= m->count; id++) {
        struct fate *f = fate_now(m->world, id);
        f->leased = false;
        f->accepted_durable = f->accepted_durable || (all && f->accepted);
        f->accepted = f->accepted_durable;
        if (all && f->rejected_now) {
            uint32_t over = 64 - (uint32_t)__builtin_clzll(f->rejected_now);
            f->least = over > f->least ? over : f->least;
        }
    }
}

void fates_judge(const struct mortals *m)
{
    const struct world *w = m->world;
    bool may_miss = world_flipped(w) && w->corruption_reported;

    for (uint64_t id = 1; id <= m->count && !may_miss; id++) {
        const struct fate *f = &m->fates[id];
        bool must = f->confirmed && f->persistent && !f->may_be_gone && !f->present_at_end;
        CHECK(w, !must || may_have_gone(m, id),
              "mortal %" PRIu64 " of %s was confirmed and is lost", id, mortal_names[f->queue]);
    }
}
