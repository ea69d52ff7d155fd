/*
 * The ledger of a shard: what it knows of transactions that other shards take part in, too. Here is
 * how it stands in the log; part.h is what happens to it.
 *
 * The ledger is one thing with a state and changes (log_append_change()) under an id that no queue
 * has. Its records, as changes:
 *
 *   PREPARE  this shard has these items of the transaction, and holds them; several add up
 *   END      they are dealt with: done or undone
 *   DECIDE   the transaction happens; these shards may not know it yet
 *   FORGET   all of them do
 *
 *   record   kind u8, start varint, number varint (the transaction's id), then
 *            PREPARE: the deciding shard varint, then to its end items: kind u8, queue varint,
 *                     first sequence varint, how many more varint
 *            DECIDE:  to its end shards, varint each
 *   state    version u8 = 1, then records, each with its size (varint) before: a PREPARE for each
 *            transaction in doubt, a DECIDE for each that is not forgotten
 */
#ifndef SLUICE_BROKER_LEDGER_H
#define SLUICE_BROKER_LEDGER_H

#include "base/bytes.h"
#include "base/error.h"

#include <stdbool.h>

/* In the log; no object of the catalog will ever have it. */
#define LEDGER_ID (UINT64_MAX - 1)

#define LEDGER_STATE_VERSION 1u

/* Unique for ever: `start` grows with each start of the process, `number` while it runs. */
struct transaction_id {
    uint64_t start, number;
};

static inline struct slice transaction_key(const struct transaction_id *id)
{
    return slice_of(id, sizeof *id);
}

enum ledger_kind { LEDGER_PREPARE = 1, LEDGER_END, LEDGER_DECIDE, LEDGER_FORGET };

/* What is to become of a message when the transaction happens. */
enum item_kind {
    ITEM_PUBLISH = 1, /* it becomes ready; else it is dropped */
    ITEM_ACCEPT,
    ITEM_REJECT,
    ITEM_RETURN,
    ITEM_RETURN_COUNTED,
    ITEM_RETURN_UNSEEN,
    ITEM_BURIED,
};
#define ITEM_KIND_LAST ITEM_BURIED

/* Sequences of a queue that stand next to each other. */
struct ledger_item {
    uint64_t queue;
    uint64_t first, count;
    uint8_t kind;
};

#define LEDGER_ITEM_BYTES_MAX (1u + 3 * VARINT_SIZE_MAX)
#define LEDGER_HEAD_BYTES_MAX (1u + 3 * VARINT_SIZE_MAX)

struct ledger_record {
    enum ledger_kind kind;
    struct transaction_id id;
    uint32_t decider;  /* PREPARE */
    struct slice rest; /* PREPARE: items; DECIDE: shards; all of them are sound */
};

/* E_CORRUPT. */
int ledger_record_decode(struct slice bytes, struct ledger_record *record) MUST_CHECK;

/* The next of a record's rest; false at its end. */
bool ledger_item_next(struct slice *rest, struct ledger_item *item);
bool ledger_shard_next(struct slice *rest, uint32_t *shard);

/* The next record of a state. Start with *at 0. 1: there was one; 0: the end; E_CORRUPT; E_VERSION.
 */
int ledger_state_next(struct slice state, size_t *at, struct ledger_record *record) MUST_CHECK;

/* Head of a record; items or shards follow. */
void ledger_write_head(struct writer *w, enum ledger_kind kind, struct transaction_id id,
                       uint32_t decider);
void ledger_write_item(struct writer *w, const struct ledger_item *item);

#endif
