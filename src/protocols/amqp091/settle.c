/* basic.ack, nack, reject and recover: deliveries are found by tag, their leases given to the
 * broker in runs, their credit given back. What is long becomes a job in slices. */
#include "base/assert.h"
#include "protocols/amqp091/session_private.h"

#include <inttypes.h>

#define RUN_MAX 256u /* leases in one call to the broker: 4 KiB of stack */

/* Leases and their subscriptions' credit, collected until the run is full. */
struct run {
    struct lease leases[RUN_MAX];
    size_t count;
    struct subscription *subscription; /* to whom `settled` belongs */
    uint64_t settled;
};

static void flush_credit(struct run *run)
{
    if (run->subscription)
        consume_forget(run->subscription, run->settled);
    run->subscription = NULL;
    run->settled = 0;
}

static void flush(struct channel *channel, struct run *run, enum outcome outcome)
{
    if (run->count > 0)
        broker_settle(channel->session->client, run->leases, run->count, outcome);
    run->count = 0;
}

static void take(struct channel *channel, struct run *run, uint64_t tag,
                 const struct unacked_entry *entry, enum outcome outcome)
{
    if (run->count == RUN_MAX)
        flush(channel, run, outcome);
    run->leases[run->count++] = entry->lease;
    if (entry->subscription) {
        if (run->subscription != entry->subscription)
            flush_credit(run);
        run->subscription = entry->subscription;
        run->settled++;
        channel->held--;
    }
    unacked_remove(&channel->unacked, tag);
}

/* Settles what is unsettled of [first, last], at most `most`; returns the tag to go on with, or 0
 * when there is no more. */
static uint64_t settle_some(struct channel *channel, uint64_t first, uint64_t last, size_t most,
                            enum outcome outcome)
{
    struct run run = {.count = 0};
    uint64_t tag = unacked_next(&channel->unacked, first);

    for (; tag && tag <= last && most > 0; most--) {
        take(channel, &run, tag, unacked_find(&channel->unacked, tag), outcome);
        tag = unacked_next(&channel->unacked, tag + 1);
    }
    flush(channel, &run, outcome);
    flush_credit(&run);
    return tag && tag <= last ? tag : 0;
}

static bool do_step(struct channel *channel)
{
    struct settle_job *job = &channel->job;

    switch (job->kind) {
    case SETTLE_LATER:
        return transaction_settle_step(channel);
    case SETTLE_UNDO:
        return transaction_undo_step(channel);
    default:
        job->next = settle_some(channel, job->next, job->last, SETTLE_TURN_MAX, job->outcome);
        return job->next == 0;
    }
}

bool settle_step(struct channel *channel)
{
    struct settle_job *job = &channel->job;

    ASSERT(job->is_running);
    if (!do_step(channel))
        return false;
    job->is_running = false;
    if (job->answer)
        channel_write(channel, &(struct method){.id = job->answer});
    if (channel->state == CHANNEL_OPEN)
        consume_resume_limited(channel);
    return true;
}

void settle_begin(struct channel *channel, const struct settle_job *job)
{
    channel->job = *job;
    channel->job.is_running = true;
    if (!settle_step(channel))
        session_go_on(channel->session, channel);
}

static void settle_one(struct channel *channel, uint64_t tag, const struct unacked_entry *entry,
                       enum outcome outcome)
{
    struct unacked_entry copy = *entry;

    unacked_remove(&channel->unacked, tag);
    broker_settle(channel->session->client, &copy.lease, 1, outcome);
    if (copy.subscription) {
        channel->held--;
        consume_forget(copy.subscription, 1);
    }
    if (!list_empty(&channel->limited))
        consume_resume_limited(channel);
}

static void settle_tags(struct channel *channel, uint64_t tag, bool multiple, enum outcome outcome)
{
    const struct unacked_entry *entry = tag ? unacked_find(&channel->unacked, tag) : NULL;
    uint64_t first = multiple ? 1 : tag;

    if (tag == 0 && multiple) {
        tag = channel->next_tag - 1; /* all there are, and none that come while it goes on */
    } else if (!entry) {
        channel_fail(channel, REPLY_PRECONDITION_FAILED, "unknown delivery tag %" PRIu64, tag);
        return;
    }
    if (!channel->transaction && !multiple) {
        settle_one(channel, tag, entry, outcome);
        return;
    }
    struct settle_job job = {.kind = channel->transaction ? SETTLE_LATER : SETTLE_NOW,
                             .next = first,
                             .last = tag,
                             .outcome = outcome};
    settle_begin(channel, &job);
}

void settle_ack(struct channel *channel, uint64_t tag, bool multiple)
{
    settle_tags(channel, tag, multiple, OUTCOME_ACCEPT);
}

void settle_reject(struct channel *channel, uint64_t tag, bool multiple, enum outcome outcome)
{
    settle_tags(channel, tag, multiple, outcome);
}

static void recover(struct channel *channel, bool requeue, uint32_t answer)
{
    if (!requeue) {
        channel_fail(channel, REPLY_NOT_IMPLEMENTED, "requeue=false");
        return;
    }
    struct settle_job job = {
        .next = 1, .last = channel->next_tag - 1, .outcome = OUTCOME_RETURN, .answer = answer};
    settle_begin(channel, &job);
}

void handle_basic_recover(struct channel *channel)
{
    recover(channel, channel->method.basic_recover.requeue, METHOD_basic_recover_ok);
}

void handle_basic_recover_async(struct channel *channel)
{
    recover(channel, channel->method.basic_recover_async.requeue, 0);
}
