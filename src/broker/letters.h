/*
 * What workers write to each other (loop/mail.h), as the structs that they are: both sides are the
 * same program. Texts and other bytes follow the struct.
 *
 *   asking worker                                    worker that has the queue, or the catalog
 *     ASK_* (token)             ------------------>    does it in the name of a proxy
 *     ANSWER (token)            <------------------
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
    LETTER_ANSWER,
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

/* A message, inside other letters: by value, but for a body that has a buffer of its own, on which
 * the letter holds a reference. The bytes of address, properties and inline body follow at the
 * letter's end. */
struct letter_message {
    _Alignas(8) uint8_t head[MESSAGE_FIXED_SIZE]; /* struct message; see message_revive() */
};

/* Fills in both; takes a reference on the body's buffer, if it has one. */
void letter_put_message(struct letter_message *letter, const struct message *message,
                        uint8_t *bytes);

/* The message, made anew with one reference, which gives up the letter's reference on the body's
 * buffer in each case. NULL: no memory. */
struct message *letter_take_message(const struct letter_message *letter, const uint8_t *bytes,
                                    struct account *account) MUST_CHECK;

/* The message for the moment, in that room. The letter's reference is the message's from
 * message_room_leave() on; without it, it stays the letter's. */
struct message *letter_lend_message(const struct letter_message *letter, const uint8_t *bytes,
                                    struct message_room *room) MUST_CHECK;
void letter_drop_message(const struct letter_message *letter);

/* As mail_events.dropped. */
void letter_dropped(void *context, unsigned kind, struct slice letter);

struct letter_answer {
    uint64_t token;
    int32_t code; /* of the failure; its text follows */
    uint32_t text_size;
    bool has_counts;
    uint64_t ready, leased; /* counts, or what is left after a get */
    uint32_t consumers;
    bool has_message; /* a get's: */
    bool redelivered;
    uint32_t count;
    uint64_t sequence;
    struct letter_message message;
};

struct letter_publish {
    uint64_t ticket; /* 0: nobody wants to know */
    uint32_t queues; /* ids, 8 bytes each, follow; then the message's bytes */
    struct letter_message message;
};

/* A transaction's part in one shard. */
struct letter_part {
    struct transaction_id id;
    uint32_t shard;
};

struct letter_part_publish {
    struct letter_part part;
    uint32_t queues; /* ids, 8 bytes each, follow; then the message's bytes */
    struct letter_message message;
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
    struct letter_message message;
};

/* Sequences of one queue, with the same outcome; ranges may be added while the letter has not gone
 * off. */
struct letter_settle {
    uint64_t queue;
    uint64_t first, last;
    uint32_t outcome;
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
