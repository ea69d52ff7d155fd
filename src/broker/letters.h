/*
 * What workers write to each other (loop/mail.h), as the structs that they are: both sides are the
 * same program. Texts and other bytes follow the struct.
 *
 * A message stands in its letter as the struct that it is, too, its bytes behind it: by value, but
 * for a body that has a buffer of its own, on which the letter holds a reference. The reader lends
 * it on (message_lent()), and gives up that reference when it has read the letter.
 *
 * PUBLISH and DELIVER are runs (mail_add()): of as many of their structs as are in the letter.
 *
 *   asking worker                                    worker that has the queue, or the catalog
 *     ASK_* (token)             ------------------>    does it in the name of a proxy
 *     ANSWER (token)            <------------------    QUEUES, REPORT, REDRIVES are answers, too
 *     BROWSED ..., BROWSE_END   <------------------    before the answer: a page of messages
 *     PUBLISH (ticket)          ------------------>
 *     CONFIRM (last ticket)     <------------------    in the order of the tickets
 *     CREDIT                    <------------------    for bytes of publishes that are dealt with
 *     CONSUMER_CREDIT, UNSUBSCRIBE ---------------->
 *     DELIVER, CANCELLED        <------------------
 *     SETTLE                    ------------------>
 *     PART_PUBLISH, PART_SETTLE, PART_DROP -------->   a transaction's part there, see part.h
 *     ASK_PART, ASK_DECISION    ------------------>    answered when done and durable
 *     ASK_END                   ------------------>    it happens, or does not; answered when seen
 *     PART_END                  ------------------>    the same, from the decider after a start
 *     PART_APPLIED, PART_DOUBT  ------------------>    to the decider, by participants
 *
 *   QUIET from each to the home of a queue that moves; MOVE_BEGIN, MOVE_LANE, MOVE_MESSAGE,
 * MOVE_SETTLE, MOVE_END from there to the target; MOVE_RESULT from either to the worker with the
 * catalog (move.h). CONSUMER_MOVED to a worker whose consumer has to come back: SUBSCRIBE_AGAIN, or
 * CONSUMERS_GONE.
 *
 *   worker with the catalog                          every other worker
 *     SNAPSHOT ..., EVENT ...   ------------------>    applies
 *     APPLIED                   <------------------
 *     CHANGE                    <------------------    an order (change.h) that nobody waits for
 *     SETTLED                   ------------------>
 *
 *   STATUS goes from each to each when something has changed.
 */
#ifndef SLUICE_BROKER_LETTERS_H
#define SLUICE_BROKER_LETTERS_H

#include "broker/broker.h"
#include "broker/ledger.h"

enum letter {
    LETTER_ASK_SUBSCRIBE = 1,
    LETTER_ASK_GET,
    LETTER_ASK_PURGE,
    LETTER_ASK_COUNTS,
    LETTER_ASK_DELETE,
    LETTER_ASK_CHANGE,
    LETTER_ASK_PART,
    LETTER_ASK_DECISION,
    LETTER_ASK_END,
    LETTER_ASK_QUEUES,
    LETTER_ASK_REPORT, /* struct letter_ask */
    LETTER_ASK_BROWSE,
    LETTER_ASK_REDRIVE,
    LETTER_ASK_REDRIVES, /* struct letter_ask */
    LETTER_ASK_REDRIVE_STOP,
    LETTER_ASK_MOVE,
    LETTER_ASK_REBALANCE, /* struct letter_ask */
    LETTER_ASK_POLICIES,  /* struct letter_ask: answered when they are in force */
    LETTER_ANSWER,
    LETTER_QUEUES,
    LETTER_REPORT,
    LETTER_REDRIVES,
    LETTER_BROWSED,
    LETTER_BROWSE_END,
    LETTER_PUBLISH,
    LETTER_CONFIRM,
    LETTER_CREDIT,
    LETTER_CONSUMER_CREDIT,
    LETTER_UNSUBSCRIBE,
    LETTER_DELIVER,
    LETTER_CANCELLED,
    LETTER_SETTLE,
    LETTER_PART_PUBLISH,
    LETTER_PART_SETTLE,
    LETTER_PART_DROP,    /* struct letter_part */
    LETTER_PART_END,     /* struct letter_part_end */
    LETTER_PART_APPLIED, /* struct letter_part_about */
    LETTER_PART_DOUBT,   /* struct letter_part_about */
    LETTER_QUIET,        /* struct letter_move */
    LETTER_MOVE_BEGIN,
    LETTER_MOVE_LANE,
    LETTER_MOVE_MESSAGE,
    LETTER_MOVE_SETTLE,
    LETTER_MOVE_END, /* struct letter_move */
    LETTER_MOVE_RESULT,
    LETTER_CONSUMER_MOVED,
    LETTER_SUBSCRIBE_AGAIN,
    LETTER_CONSUMERS_GONE,
    LETTER_SNAPSHOT,
    LETTER_SNAPSHOT_END, /* struct letter_catalog */
    LETTER_EVENT,
    LETTER_APPLIED,
    LETTER_SETTLED,
    LETTER_CHANGE,
    LETTER_STATUS,
    LETTER_STARTED, /* struct letter_result */
    LETTER_GO,      /* struct letter_result */
    LETTER_LAST,    /* see peers_have_ended() */
    LETTERS,
};

/* All that is asked begins so. */
struct letter_ask {
    uint64_t token;
    uint64_t queue; /* id; 0 where none is meant */
};

struct letter_ask_subscribe {
    struct letter_ask ask;
    uint64_t number; /* of the subscription, the asking worker's */
    uint64_t credit_bytes;
    uint32_t credit_messages;
    int32_t priority;
    bool exclusive;
};

struct letter_ask_get {
    struct letter_ask ask;
    bool settles_itself;
};

struct letter_ask_delete {
    struct letter_ask ask;
    bool if_unused, if_empty;
};

/* As mail_events.dropped. */
void letter_dropped(void *context, unsigned kind, struct slice letter);

/* How these queues are that live over there. */
struct letter_ask_queues {
    struct letter_ask ask;
    uint32_t count; /* ids, 8 bytes each, follow */
};

struct queue_numbers {
    bool is_there; /* the catalog has it */
    bool has_counts;
    struct queue_counts counts;
};

struct letter_queues {
    uint64_t token;
    struct queue_numbers at[]; /* in the order asked for */
};

struct letter_report {
    uint64_t token;
    struct worker_report report;
};

/* A page of messages, see browse.h. */
struct letter_ask_browse {
    struct letter_ask ask;
    uint64_t from, since_ms, until_ms;
    uint32_t limit;
    bool ready, leased, delayed;
    uint32_t conditions_size; /* they follow */
};

struct letter_browsed {
    uint64_t token;
    uint64_t sequence;
    uint64_t due_ms;
    uint32_t count;
    bool is_leased, redelivered;
    struct message message;
};

struct letter_browse_end {
    uint64_t token;
    uint64_t next, unreadable;
    bool is_over;
};

/* Redrives, see redrive.h: a struct redrive_order and the conditions follow; then one of those
 * worker's; and what they are, a struct redrive_facts each. */
struct letter_ask_redrive {
    struct letter_ask ask;
    uint32_t conditions_size;
};

struct letter_ask_redrive_stop {
    struct letter_ask ask;
    uint64_t id;
};

struct letter_redrives {
    uint64_t token;
    uint32_t count;
    struct redrive_facts at[];
};

struct letter_answer {
    uint64_t token;
    int32_t code; /* of the failure; its text follows */
    uint32_t text_size;
    bool has_counts;
    uint64_t ready, leased; /* counts, or what is left after a get */
    uint64_t delayed;
    uint32_t consumers;
    bool has_message; /* a get's, which did not fail: */
    bool redelivered;
    uint32_t count;
    uint64_t sequence;
    struct message message;
};

struct letter_publish {
    uint64_t ticket; /* 0: nobody wants to know */
    uint32_t queues;
    uint64_t ids[]; /* of the queues; then the message */
};

/* A message behind ids. */
static inline struct message *letter_message(const uint64_t *place)
{
    return (struct message *)(uintptr_t)place;
}

/* The next item of a run, behind this item's message. */
static inline void *letter_next(const struct message *message)
{
    size_t size = message_room_size(message);
    return (uint8_t *)(uintptr_t)message + ((size + 7) & ~(size_t)7);
}

/* A transaction's part in one shard. */
struct letter_part {
    struct transaction_id id;
    uint32_t shard;
};

struct letter_part_publish {
    struct letter_part part;
    uint32_t queues;
    uint32_t wanted; /* see part_publish() */
    uint64_t ids[];  /* of the queues; then the message */
};

/* Ranges may be added while the letter has not gone off. */
struct letter_part_settle {
    struct letter_part part;
    uint32_t outcome;
    uint64_t queue;
    uint64_t first, last;
};

struct letter_ask_part {
    struct letter_ask ask;
    struct letter_part part;
    bool alone;       /* do it: there is no other; else prepare, */
    uint32_t decider; /* for this shard's decision; 0: nothing of it is durable */
};

struct letter_ask_decision {
    struct letter_ask ask;
    struct letter_part part;
    uint32_t count; /* shards, 4 bytes each, follow */
};

struct letter_part_end {
    struct letter_part part;
    uint32_t decider;
    bool commit;
};

struct letter_ask_end {
    struct letter_ask ask;
    struct letter_part_end end;
};

/* To the decider, about itself and a participant. */
struct letter_part_about {
    struct letter_part decider;
    uint32_t participant;
};

struct letter_confirm {
    uint64_t last;
    bool accepted;
};

struct letter_credit {
    uint64_t bytes; /* of publishes dealt with, since the beginning */
};

struct letter_consumer_credit {
    uint64_t number;
    uint64_t bytes;
    uint32_t messages;
};

struct letter_catalog {
    uint64_t events;
    uint64_t start_number;
    bool is_suspect; /* recovery met corruption */
};

struct letter_settled {
    uint64_t events;
    bool failed; /* no more will be: the catalog's log has failed */
};

struct letter_number {
    uint64_t number; /* of a subscription, or of an event */
};

struct letter_deliver {
    uint64_t number; /* of the subscription */
    uint64_t queue;
    uint64_t sequence;
    uint32_t count;
    bool redelivered;
    struct message message;
};

/* Sequences of one queue, with the same outcome; ranges may be added while the letter has not gone
 * off. */
struct letter_settle {
    uint64_t queue;
    uint64_t first, last;
    uint32_t outcome;
};

/* ---- queues on their way, see move.h ---- */

struct letter_ask_move {
    struct letter_ask ask;
    uint32_t shard;
};

struct letter_move {
    uint64_t queue;
    uint64_t number; /* of the move */
};

struct letter_move_begin {
    struct letter_move move;
    uint32_t returning;
    bool returning_exclusive;
};

struct letter_move_lane {
    struct letter_move move;
    uint64_t next, fresh, mark, set_aside; /* struct queue_standing */
};

struct letter_move_message {
    struct letter_move move;
    uint64_t sequence;
    uint64_t due_ms;
    uint32_t count;
    bool is_logged, is_leased, is_returned;
    struct message message;
};

struct letter_move_settle {
    struct letter_move move;
    uint64_t first, last;
    uint32_t outcome;
};

struct letter_move_result {
    struct letter_move move;
    int32_t result;
};

struct letter_consumer_moved {
    uint64_t number; /* of the subscription */
    uint64_t queue;
};

struct letter_subscribe_again {
    uint64_t queue;
    uint64_t number; /* a new one */
    int64_t credit_bytes;
    uint32_t credit_messages;
    int32_t priority;
    bool exclusive;
};

struct letter_consumers_gone {
    uint64_t queue;
    uint32_t count;
};

struct letter_status {
    uint64_t memory_used;
    uint32_t flow;
};

struct letter_result {
    int32_t result;   /* 0, or the error */
    uint64_t id_last; /* STARTED: the largest id of a queue that its logs speak of */
    char text[sizeof(((struct failure *)0)->text)];
};

#endif
