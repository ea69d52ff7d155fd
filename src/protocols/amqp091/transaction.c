/*
 * Class tx: publishes and settlements are kept until tx.commit and then done in one call,
 * broker_transact(); what cannot be published is found when it is published.
 */
#include "base/assert.h"
#include "base/memory.h"
#include "protocols/amqp091/session_private.h"

#include <stdlib.h>

/* Of a settlement, what rollback and credit need. */
struct origin {
    uint64_t tag;
    struct subscription *subscription;
};

struct transaction {
    struct publish *publishes;
    bool *mandatory;
    size_t publish_count, publish_capacity;
    struct settlement *settlements;
    struct origin *origins;
    size_t settlement_count, settlement_capacity;
    size_t given_back; /* settlements, when it is abandoned */
    bool is_committing;
    size_t charged;
};

/* ---- growing ---- */

/* Both arrays to twice their size. */
static bool grow(struct channel *channel, void **first, size_t first_size, void **second,
                 size_t second_size, size_t *capacity)
{
    size_t more = *capacity ? *capacity : 16;
    size_t cost = more * (first_size + second_size);

    if (account_charge(channel->session->account, cost))
        return false;
    void *a = realloc(*first, (*capacity + more) * first_size);
    if (a)
        *first = a;
    void *b = a ? realloc(*second, (*capacity + more) * second_size) : NULL;
    if (!b) {
        account_release(channel->session->account, cost);
        return false;
    }
    *second = b;
    *capacity += more;
    channel->transaction->charged += cost;
    return true;
}

static bool refuse(struct channel *channel)
{
    channel_fail(channel, REPLY_RESOURCE_ERROR, "no memory for a transaction of this size");
    return false;
}

/* ---- collecting ---- */

/* Keys behind each other in one piece of memory. */
static bool copy_keys(struct channel *channel, const struct slice *keys, size_t count,
                      struct publish *publish)
{
    size_t size = count * sizeof *keys;
    for (size_t i = 0; i < count; i++)
        size += keys[i].size;
    if (account_charge(channel->session->account, size))
        return false;
    struct slice *copies = malloc(size);
    if (!copies) {
        account_release(channel->session->account, size);
        return false;
    }
    uint8_t *bytes = (uint8_t *)(copies + count);
    for (size_t i = 0; i < count; i++) {
        memcpy(bytes, keys[i].data, keys[i].size);
        copies[i] = slice_of(bytes, keys[i].size);
        bytes += keys[i].size;
    }
    publish->more_keys = copies;
    publish->more_keys_count = count;
    channel->transaction->charged += size;
    return true;
}

bool transaction_publish(struct channel *channel, struct message *message, bool mandatory,
                         const struct slice *more_keys, size_t more_keys_count)
{
    struct transaction *t = channel->transaction;
    struct failure failure;

    if (broker_check_publish(channel->session->client, message, &failure)) {
        channel_fail(channel, reply_for_error(failure.code, METHOD_basic_publish), "%s",
                     failure.text);
        return false;
    }
    if (t->publish_count == t->publish_capacity &&
        !grow(channel, (void **)&t->publishes, sizeof *t->publishes, (void **)&t->mandatory,
              sizeof *t->mandatory, &t->publish_capacity))
        return refuse(channel);
    struct publish *publish = &t->publishes[t->publish_count];
    *publish = (struct publish){.message = message};
    if (more_keys_count > 0 && !copy_keys(channel, more_keys, more_keys_count, publish))
        return refuse(channel);
    t->mandatory[t->publish_count++] = mandatory;
    return true;
}

bool transaction_settle_step(struct channel *channel)
{
    struct transaction *t = channel->transaction;
    struct settle_job *job = &channel->job;
    uint64_t tag;

    for (size_t i = 0; i < SETTLE_TURN_MAX; i++) {
        tag = unacked_next(&channel->unacked, job->next);
        if (!tag || tag > job->last)
            return true;
        if (t->settlement_count == t->settlement_capacity &&
            !grow(channel, (void **)&t->settlements, sizeof *t->settlements, (void **)&t->origins,
                  sizeof *t->origins, &t->settlement_capacity))
            return !refuse(channel);
        const struct unacked_entry *entry = unacked_find(&channel->unacked, tag);
        t->settlements[t->settlement_count] = (struct settlement){entry->lease, job->outcome};
        t->origins[t->settlement_count++] = (struct origin){tag, entry->subscription};
        unacked_remove(&channel->unacked, tag);
        job->next = tag + 1;
    }
    return false;
}

/* ---- the end of one, and the beginning of the next ---- */

static void drop_publishes(struct channel *channel)
{
    struct transaction *t = channel->transaction;

    for (size_t i = 0; i < t->publish_count; i++) {
        message_unref(t->publishes[i].message);
        free((void *)(uintptr_t)t->publishes[i].more_keys);
    }
    t->publish_count = 0;
}

/* Empties it; its leases must have been taken or put back. */
static void reset(struct channel *channel)
{
    struct transaction *t = channel->transaction;

    drop_publishes(channel);
    free(t->publishes);
    free(t->mandatory);
    free(t->settlements);
    free(t->origins);
    account_release(channel->session->account, t->charged);
    *t = (struct transaction){0};
}

/* Settled: credit goes back to the consumers. */
static void return_credit(struct channel *channel)
{
    struct transaction *t = channel->transaction;

    for (size_t i = 0, end; i < t->settlement_count; i = end) {
        struct subscription *subscription = t->origins[i].subscription;
        for (end = i + 1; end < t->settlement_count; end++) {
            if (t->origins[end].subscription != subscription)
                break;
        }
        if (!subscription)
            continue;
        channel->held -= end - i;
        consume_forget(subscription, end - i);
    }
    t->settlement_count = 0;
}

void transaction_free(struct channel *channel)
{
    if (!channel->transaction)
        return;
    return_credit(channel); /* of a commit whose answer nobody awaits any more */
    reset(channel);
    free(channel->transaction);
    channel->transaction = NULL;
}

bool transaction_abandon_step(struct channel *channel)
{
    struct transaction *t = channel->transaction;
    struct lease leases[SETTLE_SLICE / 4];
    size_t count = 0;

    if (!t)
        return true;
    if (t->is_committing)
        return true; /* the broker has the leases, and borrows the rest */
    for (; count < SETTLE_SLICE / 4 && t->given_back < t->settlement_count; t->given_back++)
        leases[count++] = t->settlements[t->given_back].lease;
    if (count > 0)
        broker_settle(channel->session->client, leases, count, OUTCOME_RETURN_COUNTED);
    if (t->given_back < t->settlement_count)
        return false;
    return_credit(channel);
    transaction_free(channel);
    return true;
}

static void committed(struct channel *channel)
{
    struct transaction *t = channel->transaction;

    if (!channel->request.failure.code) {
        for (size_t i = 0; i < t->publish_count; i++)
            if (t->mandatory[i] && t->publishes[i].queues == 0)
                publish_return(channel, t->publishes[i].message);
    }
    return_credit(channel);
    reset(channel);
    if (channel_request_failed(channel))
        return;
    channel_write(channel, &(struct method){.id = METHOD_tx_commit_ok});
    consume_resume_limited(channel);
}

/* ---- methods ---- */

static bool is_transactional(struct channel *channel)
{
    if (channel->transaction)
        return true;
    channel_fail(channel, REPLY_PRECONDITION_FAILED, "channel is not transactional");
    return false;
}

void handle_tx_select(struct channel *channel)
{
    if (channel->publisher) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED, "cannot switch from confirm to tx mode");
        return;
    }
    if (!channel->transaction)
        channel->transaction = memory_new(sizeof *channel->transaction);
    channel_write(channel, &(struct method){.id = METHOD_tx_select_ok});
}

void handle_tx_commit(struct channel *channel)
{
    struct transaction *t = channel->transaction;

    if (!is_transactional(channel))
        return;
    if (t->publish_count == 0 && t->settlement_count == 0) {
        channel_write(channel, &(struct method){.id = METHOD_tx_commit_ok});
        return;
    }
    t->is_committing = true;
    channel_await(channel,
                  broker_transact(channel->session->client, &channel->request, t->publishes,
                                  t->publish_count, t->settlements, t->settlement_count),
                  committed);
}

bool transaction_undo_step(struct channel *channel)
{
    struct transaction *t = channel->transaction;

    for (size_t i = 0; i < SETTLE_TURN_MAX && t->settlement_count > 0; i++) {
        const struct origin *origin = &t->origins[t->settlement_count - 1];
        if (unacked_add(&channel->unacked, origin->tag,
                        t->settlements[t->settlement_count - 1].lease, origin->subscription))
            return !refuse(channel);
        t->settlement_count--;
    }
    if (t->settlement_count > 0)
        return false;
    reset(channel);
    return true;
}

/* What was acknowledged is unacknowledged again. */
void handle_tx_rollback(struct channel *channel)
{
    if (is_transactional(channel))
        settle_begin(channel,
                     &(struct settle_job){.kind = SETTLE_UNDO, .answer = METHOD_tx_rollback_ok});
}
