/*
 * Moving a queue to another shard of the process.
 *
 * The worker with the catalog decides; the shard that has the queue is its *home*, the other one
 * the *target*. All workers go through the same, by events of the catalog (MOVING, then MOVED or
 * STAYS):
 *
 * MOVING: what is published to the queue waits on the publisher's worker, in order; so do requests
 * that concern it. Each worker writes QUIET to the home: behind it, in its mail, comes nothing for
 * the queue but settlements.
 *
 * Leaving: when all are quiet the home has the queue for itself. Consumers become *adrift*: their
 * own workers keep them. Then it tells the target all messages, in the order of their sequence,
 * leased ones, too. What is settled or returned meanwhile is done here and, where the message has
 * been told already, is told, too.
 *
 * Arriving: the target makes the queue of what it is told, in its own log, with the same sequences:
 * leases are pairs of queue and sequence, and stay good. At the end it writes the queue's state and
 * waits until that is durable.
 *
 * MOVED then goes into the catalog's log, and when it is durable to everybody: home and place of
 * the queue change, what has waited goes on, consumers subscribe again, and the old home discards
 * what it has. STAYS instead, when anything failed or took too long: all goes on as it was, and the
 * target discards.
 *
 * A crash before MOVED is durable leaves the queue at its home, after it at the target: records of
 * a queue in a shard that is not its home are released by recovery.
 */
#ifndef SLUICE_BROKER_MOVE_H
#define SLUICE_BROKER_MOVE_H

#include "broker/broker_private.h"
#include "broker/letters.h"

#define MOVE_DEADLINE_NS    (30000 * NANOSECONDS_PER_MS)
#define MOVE_IN_USE_NS      (2000 * NANOSECONDS_PER_MS) /* for transactions and purges to end */
#define MOVE_POLL_NS        NANOSECONDS_PER_MS
#define MOVE_HELD_BYTES_MAX (4u << 20) /* of a worker's held publishes: then publishers wait */

/* What leaves, at home. One that was given up stays until its read is over. */
struct leaving {
    struct list link; /* worker.leavings */
    struct worker *worker;
    struct hosted *hosted; /* a reference on its queue; NULL: given up */
    uint64_t number;
    unsigned target; /* worker */
    uint64_t since_ns;
    uint64_t block; /* of the home's log, that has to be durable first; 0: not known yet */
    bool has_begun; /* to tell */
    bool is_over;   /* all is told, or it has failed */
    struct queue_walk walk;
};

/* A queue on its way, or what there is still to do on this worker since it has come. */
struct move {
    struct list link; /* worker.moves */
    struct worker *worker;
    struct catalog_queue *queue; /* a reference */
    uint64_t number;             /* of its MOVING among the catalog's events: everywhere the same */
    uint32_t target;             /* shard */
    bool is_quiet;               /* the home has been told so */
    bool is_over;                /* where the queue is is known again, */
    bool is_stranded;            /* or will not be before the next start */
    bool has_moved;
    bool is_ending; /* nothing is left but requests that go on */
    struct timer tick;
    struct line over; /* 1: what has waited here may look again */
    struct list held; /* publishes */
    struct list adrift;
    uint32_t gone; /* consumers that ended while they were adrift */

    /* At home. */
    unsigned quiets;

    /* At the target. */
    struct hosted *arriving;
    bool has_failed;
    struct request arrived; /* nobody's: waits for the log */

    /* Where it is decided. */
    bool has_result; /* told here, for the next tick */
    int result;
    bool is_decided; /* MOVED is in the log */
    uint64_t deadline_ns;
    int why;                 /* it stays */
    struct request *request; /* whoever wants to know, or NULL */
    struct request flip;     /* nobody's: waits for the log */
};

void moves_new(struct worker *worker);

/* First what waits in lines, then, after the logs are freed, which may be reading for a queue that
 * leaves, the rest. */
void moves_abandon(struct worker *worker);
void moves_free(struct worker *worker);

/* None is under way, so that the worker may stop. */
bool moves_are_over(const struct worker *worker);

/* ---- the catalog's callbacks ---- */

void queue_moving(void *context, struct catalog_queue *queue, uint32_t shard);
void queue_moved(void *context, struct catalog_queue *queue);
void queue_stays(void *context, struct catalog_queue *queue, int why);
void queue_stranded(void *context, struct catalog_queue *queue);

/* It is deleted on its way. */
void move_dropped(struct move *move);

/* ---- who must wait (move.c) ---- */

/* For a step of a request: `next` follows when the queue has come to its place, or is gone. */
void move_wait(struct request *request, const struct catalog_queue *queue,
               int (*next)(struct request *request));

/* A publish to queues that are on their way; *mark is what its confirm waits for. */
int move_hold(struct client *client, struct publish *publish, struct catalog_queue **queues,
              size_t count, struct mark *mark) MUST_CHECK;

/* May more be held? */
static inline bool onward_has_room(const struct worker *worker)
{
    return worker->onward.bytes < MOVE_HELD_BYTES_MAX;
}

/* The home has let go of this consumer, which is in no list; where the queue is going to be it will
 * subscribe again. */
void move_adrift(struct subscription *subscription);

/* So many consumers that were adrift are no more. */
void move_consumers_gone(struct worker *worker, uint64_t queue, uint32_t count);

/* What it has to do here goes on in the next turn. */
void move_go_on(struct move *move);

/* ---- at home and at the target (travel.c) ---- */

/* A worker is quiet. */
void move_quiet(struct worker *worker, uint64_t queue, uint64_t number);

/* The next slice of what leaves, or the end of it. True: there is more, which has to wait for
 * nothing but the turn. */
bool leaving_go_on(struct leaving *leaving);
void leaving_end(struct leaving *leaving);
void leaving_free(struct leaving *leaving);

/* What becomes of leases, a range of sequences, wherever their queue lives. By its id it may have
 * been deleted meanwhile, and the messages with it. */
void settle_leases(const struct catalog_queue *queue, uint64_t first, uint64_t last,
                   enum outcome outcome);
void settle_anywhere(struct worker *worker, uint64_t queue, uint64_t first, uint64_t last,
                     enum outcome outcome);

struct move_begin {
    uint64_t queue, number;
    uint32_t returning; /* consumers */
    bool returning_exclusive;
};
void arriving_begin(struct worker *worker, const struct move_begin *begin);

/* Then one for each of its lanes. */
void arriving_lane(struct worker *worker, uint64_t queue, uint64_t number,
                   const struct queue_standing *standing);
void arriving_message(struct worker *worker, uint64_t queue, uint64_t number,
                      const struct queue_traveller *traveller);
void arriving_settle(struct worker *worker, uint64_t queue, uint64_t number, uint64_t first,
                     uint64_t last, enum outcome outcome);
void arriving_end(struct worker *worker, uint64_t queue, uint64_t number);

/* ---- deciding (move_decide.c) ---- */

/* request_go_on() follows, unless it fails at once. NULL: nobody wants to know. E_NOT_FOUND,
 * E_UNSUPPORTED, E_IN_USE, E_CLOSED. */
int move_decide(struct worker *worker, uint64_t queue, uint32_t shard, struct request *request,
                struct failure *failure) MUST_CHECK;

/* 0: it has arrived, durably; else why it cannot. Told from anywhere, also from in the middle of
 * leaving and arriving; dealt with later, where it is decided. */
void move_tell_result(struct worker *worker, uint64_t queue, uint64_t number, int result);
void move_result(struct worker *worker, uint64_t queue, uint64_t number, int result);

/* On each tick: has it been told how it ends, has it taken too long? */
void move_watch(struct move *move);

/* It is over, and what waited for it on this worker has gone on: tells whoever asked for it. */
void move_answer(struct move *move);

/* ---- balancing (rebalance.c) ---- */

/* Where the catalog is decided; nothing, when it is at it. */
void rebalance_begin(struct worker *worker);
void rebalance_free(struct worker *worker);

/* ---- letters (peer_move.c) ---- */

void peer_tell_quiet(struct worker *worker, unsigned to, uint64_t queue, uint64_t number);
void peer_tell_begin(struct worker *worker, unsigned to, const struct move_begin *begin);
void peer_tell_lane(struct worker *worker, unsigned to, uint64_t queue, uint64_t number,
                    const struct queue_standing *standing);
void peer_tell_message(struct worker *worker, unsigned to, uint64_t queue, uint64_t number,
                       const struct queue_traveller *traveller);
void peer_tell_settle(struct worker *worker, unsigned to, uint64_t queue, uint64_t number,
                      uint64_t first, uint64_t last, enum outcome outcome);
void peer_tell_end(struct worker *worker, unsigned to, uint64_t queue, uint64_t number);
void peer_tell_result(struct worker *worker, uint64_t queue, uint64_t number, int result);
void peer_tell_gone(struct worker *worker, unsigned to, uint64_t queue, uint32_t count);
int peer_ask_move(struct request *request, uint64_t queue, uint32_t shard);
int peer_ask_rebalance(struct request *request);

/* Which worker hosts that shard. */
static inline unsigned worker_of_shard(const struct worker *worker, uint32_t shard)
{
    return (shard - 1) % worker->count;
}

#endif
