/* Transactions: publishes and settlements that happen together or not at all. */
#include "broker/broker_private.h"

#include <stdlib.h>

/* ---- transactions ---- */

/* The queues of all publishes, found first, so that nothing can fail half way. */
struct transaction {
    struct catalog_queue **queues;
    size_t queues_count, queues_capacity;
    size_t log_bytes;
};

static int transaction_route(struct client *client, struct transaction *transaction,
                             struct publish *publish, struct failure *failure)
{
    struct catalog_queue **queues;

    int result = client_route(client, publish, &queues, &publish->queues, failure);
    if (result != 0)
        return result;
    size_t needed = transaction->queues_count + publish->queues;
    if (needed > transaction->queues_capacity) {
        transaction->queues_capacity = 2 * needed;
        transaction->queues =
            memory_resize(transaction->queues, transaction->queues_capacity, sizeof(void *));
    }
    if (publish->queues)
        memcpy(transaction->queues + transaction->queues_count, queues,
               publish->queues * sizeof *queues);
    transaction->queues_count = needed;
    if (publish->message->flags & MESSAGE_PERSISTENT)
        transaction->log_bytes += log_message_bytes(publish->message, publish->queues);
    return 0;
}

/* Room in the log for a settlement or a count, at the most. */
#define SETTLE_BYTES_MAX 48u

static void transaction_settle(struct client *client, const struct settlement *settlements,
                               size_t count)
{
    for (size_t i = 0; i < count; i++)
        broker_settle(client, &settlements[i].lease, 1, settlements[i].outcome);
}

static int transaction_publish(struct shard *shard, struct transaction *transaction,
                               struct publish *publishes, size_t count, struct failure *failure)
{
    size_t at = 0;

    for (size_t i = 0; i < count; i++) {
        bool logged;
        if (publishes[i].queues == 0)
            continue;
        int result = shard_enqueue(shard, publishes[i].message, transaction->queues + at,
                                   publishes[i].queues, &logged, failure);
        if (result != 0)
            return result;
        at += publishes[i].queues;
    }
    return 0;
}

int broker_transact(struct client *client, struct request *request, struct publish *publishes,
                    size_t publish_count, const struct settlement *settlements,
                    size_t settlement_count)
{
    struct shard *shard = client->worker->shards[0];
    struct transaction transaction = {.log_bytes = settlement_count * SETTLE_BYTES_MAX};
    struct failure *failure = &request->failure;

    request_begin(client, request);
    for (size_t i = 0; i < publish_count && failure->code == 0; i++)
        failure->code = transaction_route(client, &transaction, &publishes[i], failure);
    bool grouped = false;
    if (failure->code == 0 && transaction.log_bytes > 0) {
        failure->code = log_group_begin(shard->log, transaction.log_bytes);
        grouped = failure->code == 0;
        if (failure->code == E_LIMIT)
            fail(failure, E_LIMIT, "the transaction is larger than %u bytes", LOG_GROUP_BYTES_MAX);
        else if (failure->code != 0)
            storage_failure(failure->code, failure);
    }
    if (failure->code == 0)
        failure->code = transaction_publish(shard, &transaction, publishes, publish_count, failure);
    if (failure->code == 0) {
        transaction_settle(client, settlements, settlement_count);
    } else {
        /* nothing happened: what was to be settled stays with the client, which gives it back */
        for (size_t i = 0; i < settlement_count; i++)
            broker_settle(client, &settlements[i].lease, 1, OUTCOME_RETURN);
    }
    if (grouped) {
        log_group_end(shard->log);
        request_wait(request, &shard->place.line, log_block_last(shard->log));
    }
    free(transaction.queues);
    return request_end(request);
}
