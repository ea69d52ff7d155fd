/*
 * How the catalog changes: orders, and when they are settled (change.c says how it works).
 */
#ifndef SLUICE_BROKER_CHANGE_H
#define SLUICE_BROKER_CHANGE_H

#include "broker/broker_private.h"

#define ORDER_IF_UNUSED 1u
#define ORDER_BYTES_MAX (1 + EVENT_BYTES_MAX)

struct changes *changes_new(struct worker *worker);
void changes_free(struct changes *changes);

/* The request asks for a change. DONE: go on to request_end(), where it waits for the change to be
 * settled; PENDING: it goes on by itself. It fails with E_AGAIN when somebody else has taken the
 * name meanwhile: look again, in its `next`, which is called in each case. */
int change_order(struct request *request, const struct writer *order) MUST_CHECK;

/* Does an order, where the catalog is decided. It is settled with the last event that there is now.
 */
int change_execute(struct worker *worker, struct slice order, struct failure *failure) MUST_CHECK;

/* Where the catalog is decided: logs the event if it is durable, applies it, tells all workers.
 * E_FULL, E_FAILED with text: then nothing has happened. E_LIMIT: the writer was too small. */
int change_make(struct worker *worker, const struct writer *event, bool logged,
                struct failure *failure) MUST_CHECK;

/* Blocks have become durable, or a peer has applied events: what is settled by that? */
void changes_settle(struct worker *worker);

/* The request waits for an event to be settled. When the log of shard 1 has failed no event will
 * be; then only objects that are in the log are refused, since nobody can promise that they last.
 */
void change_wait(struct request *request, uint64_t version, bool logged);

/* The log of shard 1 has failed: what was not durable will never be. */
void changes_failed(struct worker *worker);

/* The catalog's callback, once the worker has started. */
void change_binding_lost(void *context, uint64_t exchange_id);

#endif
