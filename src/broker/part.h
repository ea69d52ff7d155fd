/*
 * Parts: what a transaction does in one shard.
 *
 * A part is collected on the worker of its shard (by letters, where the client is elsewhere), and
 * then either done alone, at once, in one group of the log, because the transaction has no other
 * part; or prepared, and later ended:
 *
 *   COLLECTING -> PREPARING -> PREPARED -> ENDING -> ENDED
 *                     |                       ^
 *                     +---- it cannot be -----+
 *
 * PREPARED: its messages stand in their queues and in the log, but held: leased, to nobody. What is
 * to be settled is leased still. The ledger says so, in the same blocks. So both ways are open, and
 * need no room that is not promised: ENDING releases and settles (committed), or drops and returns
 * (undone). ENDED waits for the block that has the END, then tells the decider, and is gone.
 * Preparing and ending go in slices: nothing of it need be in one block, since what was done twice
 * is done once (a sequence is settled, or it is not).
 *
 * The *decider* is one of the transaction's shards. Its ledger has the decision; what a decider
 * does not know did not happen.
 */
#ifndef SLUICE_BROKER_PART_H
#define SLUICE_BROKER_PART_H

#include "broker/broker_private.h"
#include "broker/ledger.h"

/* Prepared and not ended, in one shard; and decisions that are not forgotten. */
#define PARTS_MAX     16384u
#define DECISIONS_MAX 16384u

struct part;

/* The part of that transaction, made if need be; NULL where it has been asked to prepare already.
 */
struct part *part_collect(struct shard *shard, struct transaction_id id);

/* The message is for these queues of the shard, those of them that are still there. wanted: so many
 * have to take it, else the part cannot be prepared, or done; 0: those that do. */
void part_publish(struct part *part, struct message *message, struct catalog_queue **queues,
                  size_t count, size_t wanted);

/* A lease becomes the part's. */
void part_settle(struct part *part, struct hosted *hosted, uint64_t sequence, enum outcome outcome);

/* A queue that it was for is deleted, at the latest by that event of the catalog. Until that is
 * settled a crash may bring the queue back: the part is prepared no earlier, and not done alone. */
void part_wait_settled(struct part *part, uint64_t version);

/* That version; 0: it need not wait. */
uint64_t part_waits_for(const struct part *part);

/* What a settlement may take of a group. */
#define PART_SETTLE_BYTES_MAX 48u

/* The transaction has only this part, and it is small: happens now. The part is gone; the request
 * fails, or has a mark more to wait for. */
void part_do_alone(struct part *part, struct request *request);

/* request_go_on() follows, when the part is prepared and that is durable. When preparing fails the
 * part undoes itself; when waiting fails, it is prepared. */
void part_prepare(struct part *part, uint32_t decider, struct request *request);

/* The transaction happens, or does not; also for a part that is not known (any more). If somebody
 * wants to know, request_go_on() follows when everybody can see it. */
void part_end(struct shard *shard, struct transaction_id id, uint32_t decider, bool commit,
              struct request *request);

/* Undoes a part that was never asked to prepare, or to do its work: leases go back. */
void part_drop(struct shard *shard, struct transaction_id id);

/* The decision: to commit. 0, and the request has a mark more to wait for; E_FULL, E_FAILED,
 * E_LIMIT with text: it was not made. */
int decision_make(struct shard *shard, struct transaction_id id, const uint32_t *shards,
                  size_t count, struct request *request) MUST_CHECK;

/* That shard knows the decision, and will for ever. */
void decision_applied(struct shard *shard, struct transaction_id id, uint32_t by);

/* A slice of all parts that have work; false: there is more. */
bool parts_slice(struct worker *worker);

/* ---- the ledger ---- */

void ledger_init(struct shard *shard);
void ledger_fini(struct shard *shard);

/* From the log's events. */
void ledger_durable(struct shard *shard, uint64_t block);
void ledger_failed(struct shard *shard);

/* Nothing is under way that the log is needed for. */
bool ledger_is_quiet(const struct shard *shard);

void ledger_write_state(struct shard *shard);

/* In the order of struct log_recovery; the end before anything is appended. E_CORRUPT, E_VERSION.
 */
int ledger_recover_state(struct shard *shard, struct slice state) MUST_CHECK;
int ledger_recover_change(struct shard *shard, struct slice change) MUST_CHECK;
void ledger_recover_end(struct shard *shard);

/* All shards are open: those in doubt ask, decisions are told again. */
void ledgers_resolve(struct worker *worker);

/* What was decided about a transaction that is in doubt? */
void ledger_answer(struct shard *decider, struct transaction_id id, uint32_t asker);

#endif
