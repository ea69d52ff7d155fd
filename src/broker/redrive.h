/*
 * Redrive: a worker moves messages of a queue that is hosted here to where they died, or elsewhere.
 *
 * A *redrive* is a job. It walks over the queue's ready messages as they are at its beginning,
 * those that are meant one after the other:
 *
 *   ready -- held --> a transaction: published there and settled here -- committed --> gone
 *     ^                                   \__ it cannot be __/
 *     +---------------------------------------+
 *
 * so a message is in one of the two places after any crash, never in both, never in none. Nothing
 * of the job itself is kept on disk: a restart forgets it, and what it has not moved stands where
 * it was. A preview is the same walk, which counts and moves nothing.
 *
 * A job that is over is remembered until others take its place, so that one can see what became of
 * it. One whose queue goes to another worker fails; on its way to another shard here it waits.
 */
#ifndef SLUICE_BROKER_REDRIVE_H
#define SLUICE_BROKER_REDRIVE_H

#include "broker/broker_private.h"

#define REDRIVES_MAX      16u /* of a worker, under way */
#define REDRIVES_KEPT     32u /* of a worker, over and remembered */
#define REDRIVE_IN_FLIGHT 64u /* transactions of one job */

/* What is to be done, as it goes by mail; the filter's conditions stand behind it there. */
struct redrive_order {
    uint64_t id;
    enum redrive_to to;
    char target[NAME_MAX_BYTES + 1]; /* a queue, or an exchange */
    char key[NAME_MAX_BYTES + 1];
    bool has_key;
    bool is_preview;
    uint32_t rate;
    uint64_t limit;
    uint64_t since_ms, until_ms;
};

/* The queue is hosted here. E_LIMIT: too many are under way; E_CLOSED: the worker stops. */
int redrive_begin(struct worker *worker, struct catalog_queue *queue,
                  const struct redrive_order *order, struct slice conditions,
                  struct failure *failure) MUST_CHECK;

/* One that is under way ends soon; one that is over is forgotten. E_NOT_FOUND. */
int redrive_stop(struct worker *worker, uint64_t id, struct failure *failure) MUST_CHECK;

/* Those of this worker, at most REDRIVES_MAX + REDRIVES_KEPT, the oldest first; returns how many.
 * `facts` NULL: only their number. */
size_t redrives_tell(const struct worker *worker, struct redrive_facts *facts);

/* What other workers told, into the request's list. */
void redrives_came(struct request *request, const struct redrive_facts *facts, size_t count);

#endif
