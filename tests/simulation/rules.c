/*
 * The rules of mortal queues: their arguments, and the policies that change them while they are
 * used. Each change is a version. Which one acts, is known as far as it was answered: between that
 * and the last that was asked for, any may. Nobody asks for a change of a queue while another is on
 * its way, so that versions act in their order.
 */
#include "mortal.h"

#include "message/fields.h"

static const char *const overflows[] = {"drop-head", "reject-publish", "reject-publish-dlx"};

/* ---- what they may be ---- */

#define RETRY_MS_MAX 800u /* nobody waits longer */
#define RETRY_TIMES  4u   /* the longest one, of the shortest */

static uint64_t some_lives(struct mortals *m)
{
    switch (mortal_dice(m, 5)) {
    case 0:
        return mortal_dice(m, 3);
    case 1:
        return 5 + mortal_dice(m, 300);
    case 2:
        return 3600000; /* nobody waits for that */
    default:
        return UNLIMITED;
    }
}

static struct rules some_rules(struct mortals *m, bool is_quorum)
{
    struct rules r = {
        .buries = mortal_dice(m, 4) > 0,
        .target = mortal_dice(m, 12) ? (unsigned)mortal_dice(m, MORTAL_QUEUES) : NO_GRAVE,
        .lives_ms = some_lives(m),
        .length_max = mortal_dice(m, 2) ? UNLIMITED : mortal_dice(m, mortal_dice(m, 2) ? 10 : 60),
        .bytes_max = mortal_dice(m, 6) ? UNLIMITED : mortal_dice(m, 5000),
        .returns_max = UNLIMITED,
    };

    if (is_quorum && (r.says_returns = mortal_dice(m, 3)))
        r.returns_max = mortal_dice(m, 4);
    if (r.length_max != UNLIMITED || r.bytes_max != UNLIMITED)
        r.overflow = (enum overflow)mortal_dice(m, is_quorum ? 2 : 3);
    return r;
}

static const struct rules no_rules = {.lives_ms = UNLIMITED,
                                      .length_max = UNLIMITED,
                                      .bytes_max = UNLIMITED,
                                      .returns_max = UNLIMITED,
                                      .target = NO_GRAVE};

static uint64_t least(uint64_t a, uint64_t b)
{
    return a < b ? a : b;
}

/* What acts of a queue's own rules and those of its policy. */
static struct rules together(const struct rules *own, const struct rules *policy, bool is_quorum)
{
    struct rules r = *own;

    r.lives_ms = least(own->lives_ms, policy->lives_ms);
    r.length_max = least(own->length_max, policy->length_max);
    r.bytes_max = least(own->bytes_max, policy->bytes_max);
    r.returns_max = least(own->returns_max, policy->returns_max);
    if (is_quorum && !own->says_returns && !policy->says_returns)
        r.returns_max = 20;
    if (policy->overflow != OVERFLOW_DROP && (is_quorum || own->overflow == OVERFLOW_DROP))
        r.overflow = policy->overflow;
    if (!own->buries) {
        r.buries = policy->buries;
        r.target = policy->target;
    }
    if (r.overflow == OVERFLOW_NACK_AND_BURY && !r.buries)
        r.overflow = OVERFLOW_NACK;
    return r;
}

void rules_choose(struct mortals *m, unsigned queue)
{
    struct mortal_queue *q = &m->queues[queue];

    *q = (struct mortal_queue){.is_quorum = mortal_dice(m, 3) == 0};
    if (!q->is_quorum && mortal_dice(m, 2))
        q->priority_max = 1 + (unsigned)mortal_dice(m, 9);
    q->own = m->has_policies && mortal_dice(m, 2) ? no_rules : some_rules(m, q->is_quorum);
    q->versions[0] = together(&q->own, &no_rules, q->is_quorum);
    if (!q->is_quorum || mortal_dice(m, 2))
        return;
    q->retries_failed = mortal_dice(m, 3) > 0;
    q->retries_returned = !q->retries_failed || mortal_dice(m, 2);
    q->retry_ms = 1 + mortal_dice(m, RETRY_MS_MAX / RETRY_TIMES);
}

/* ---- in words ---- */

static void put_number(struct writer *w, const char *name, uint64_t value)
{
    if (value != UNLIMITED)
        fields_put_integer(w, name, (int64_t)value);
}

/* The names of a policy's keys are those of arguments without "x-". */
static void put_rules(struct writer *w, const struct rules *r, unsigned skip)
{
    put_number(w, &"x-message-ttl"[skip], r -> lives_ms);
    put_number(w, &"x-max-length"[skip], r -> length_max);
    put_number(w, &"x-max-length-bytes"[skip], r -> bytes_max);
    if (r->says_returns)
        put_number(w, &"x-delivery-limit"[skip], r -> returns_max);
    if (r->overflow != OVERFLOW_DROP)
        fields_put_text(w, &"x-overflow"[skip], slice_text(overflows[r->overflow]));
    if (r->buries) {
        fields_put_text(w, &"x-dead-letter-exchange"[skip], slice_text(""));
        fields_put_text(w, &"x-dead-letter-routing-key"[skip],
                        slice_text(r->target == NO_GRAVE ? "nowhere" : mortal_names[r->target]));
    }
}

static void put_retry(struct writer *w, const struct mortal_queue *q)
{
    if (q->retry_ms == 0)
        return;
    fields_put_text(w, "x-delayed-retry-type",
                    slice_text(!q->retries_returned ? "failed"
                               : !q->retries_failed ? "returned"
                                                    : "all"));
    put_number(w, "x-delayed-retry-min", q->retry_ms);
    put_number(w, "x-delayed-retry-max", RETRY_TIMES * q->retry_ms);
}

struct slice rules_arguments(struct mourner *mourner, unsigned queue)
{
    const struct mortal_queue *q = &mourner->world->mortals->queues[queue];
    struct writer w = writer_of(mourner->arguments, sizeof mourner->arguments);

    if (q->is_quorum)
        fields_put_text(&w, "x-queue-type", slice_text("quorum"));
    if (q->priority_max > 0)
        put_number(&w, "x-max-priority", q->priority_max);
    put_rules(&w, &q->own, 0);
    put_retry(&w, q);
    CHECK(mourner->world, !w.failed, "too many arguments");
    return slice_of(mourner->arguments, writer_size(&w));
}

/* ---- policies ---- */

static int clear(struct mourner *mourner, unsigned queue)
{
    trace(mourner->world, "mourner %u clears the policy of %s", mourner->index,
          mortal_names[queue]);
    return broker_clear_policy(mourner->client, &mourner->request, slice_text("/"), false,
                               slice_text(mortal_names[queue]));
}

static int set(struct mourner *mourner, unsigned queue, const struct rules *policy)
{
    struct mortals *m = mourner->world->mortals;
    struct writer w = writer_of(mourner->arguments, sizeof mourner->arguments);
    char pattern[32];

    put_rules(&w, policy, 2);
    if (writer_size(&w) == 0) /* a policy says something, if only what has no effect */
        fields_put_integer(&w, "queue-version", 2);
    snprintf(pattern, sizeof pattern, "^%s$", mortal_names[queue]);
    struct policy_spec spec = {
        .vhost = slice_text("/"),
        .name = slice_text(mortal_names[queue]),
        .pattern = slice_text(pattern),
        .apply_to = slice_text(mortal_dice(m, 2) ? "queues" : "all"),
        .priority = (int64_t)mortal_dice(m, 10) - 5,
        .definition = slice_of(mourner->arguments, writer_size(&w)),
    };
    CHECK(mourner->world, !w.failed, "too large a definition");
    trace(mourner->world, "mourner %u sets the policy of %s: version %u", mourner->index,
          mortal_names[queue], m->queues[queue].latest);
    return broker_set_policy(mourner->client, &mourner->request, &spec);
}

bool rules_change(struct mourner *mourner, unsigned queue, int *outcome)
{
    struct mortals *m = mourner->world->mortals;
    struct mortal_queue *q = &m->queues[queue];

    if (!m->has_policies || q->is_changing || q->latest + 1 == VERSIONS_MAX)
        return false;
    bool clears = q->has_policy && q->certain == q->latest && mortal_dice(m, 4) == 0;
    struct rules policy = clears ? no_rules : some_rules(m, q->is_quorum);
    q->versions[++q->latest] = together(&q->own, &policy, q->is_quorum);
    q->is_changing = true;
    q->clears = clears;
    *outcome = clears ? clear(mourner, queue) : set(mourner, queue, &policy);
    return true;
}

void rules_changed(struct mourner *mourner, unsigned queue)
{
    struct world *w = mourner->world;
    struct mortal_queue *q = &w->mortals->queues[queue];
    bool is_done = mourner->request.failure.code == 0 && !(w->failed_shards & 1u << 1);

    q->is_changing = false;
    if (!is_done)
        return;
    q->certain = q->latest;
    q->has_policy = !q->clears;
    w->policies++;
}

void rules_life_over(struct mortals *m)
{
    for (unsigned q = 0; q < MORTAL_QUEUES; q++)
        m->queues[q].is_changing = false;
}

/* ---- which may act ---- */

unsigned rules_certain(const struct mortals *m, unsigned queue)
{
    return m->world->corruption_reported ? 0 : m->queues[queue].certain;
}

unsigned rules_since(const struct mortals *m, const struct fate *f, unsigned queue)
{
    return m->world->corruption_reported ? 0 : f->since[queue];
}

uint64_t rules_least_lives(const struct mortals *m, unsigned queue, unsigned first)
{
    uint64_t lives_ms = UNLIMITED;

    for (unsigned v = first; v <= m->queues[queue].latest; v++)
        lives_ms = least(lives_ms, m->queues[queue].versions[v].lives_ms);
    return lives_ms;
}

uint64_t rules_most_lives(const struct mortals *m, unsigned queue, unsigned first)
{
    uint64_t lives_ms = 0;

    for (unsigned v = first; v <= m->queues[queue].latest; v++)
        if (m->queues[queue].versions[v].lives_ms > lives_ms)
            lives_ms = m->queues[queue].versions[v].lives_ms;
    return lives_ms;
}

uint64_t rules_least_returns(const struct mortals *m, unsigned queue, unsigned first)
{
    uint64_t returns = UNLIMITED;

    for (unsigned v = first; v <= m->queues[queue].latest; v++)
        returns = least(returns, m->queues[queue].versions[v].returns_max);
    return returns;
}

uint64_t rules_most_returns(const struct mortals *m, unsigned queue, unsigned first)
{
    uint64_t returns = 0;

    for (unsigned v = first; v <= m->queues[queue].latest; v++)
        if (m->queues[queue].versions[v].returns_max > returns)
            returns = m->queues[queue].versions[v].returns_max;
    return returns;
}

bool rules_may_bury_refused(const struct mortals *m, unsigned queue, unsigned first)
{
    for (unsigned v = first; v <= m->queues[queue].latest; v++)
        if (m->queues[queue].versions[v].overflow == OVERFLOW_NACK_AND_BURY)
            return true;
    return false;
}

bool rules_may_be_over(const struct mortals *m, unsigned queue, unsigned first, unsigned overflow,
                       uint64_t count, uint64_t bytes)
{
    for (unsigned v = first; v <= m->queues[queue].latest; v++) {
        const struct rules *r = &m->queues[queue].versions[v];
        bool is_over = (r->length_max != UNLIMITED && count >= r->length_max) ||
                       (r->bytes_max != UNLIMITED && bytes >= r->bytes_max);
        if ((overflow & 1u << r->overflow) && is_over)
            return true;
    }
    return false;
}

unsigned rules_targets(const struct mortals *m, unsigned queue, unsigned first)
{
    unsigned targets = 0;

    for (unsigned v = first; v <= m->queues[queue].latest; v++) {
        const struct rules *r = &m->queues[queue].versions[v];
        targets |= 1u << (r->buries ? r->target : NO_GRAVE);
    }
    return targets;
}

const struct rules *rules_now(const struct mortals *m, unsigned queue)
{
    const struct mortal_queue *q = &m->queues[queue];

    return q->certain == q->latest ? &q->versions[q->latest] : NULL;
}
