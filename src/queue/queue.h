/*
 * A queue: a view over the log. Who is next, who has it, what is done with.
 *
 * Every message has a sequence of its queue: 1, 2, ... . Its life, one state machine for every
 * protocol's vocabulary:
 *
 *     push -> READY -> (delivery) -> LEASED -> (settle) -> gone
 *     push    ^   ^                  |    |
 *       |     |   +---- (return) ----+    |      a ready message may also be settled: purged,
 *       v     |                           |      expired; a delayed one: purged
 *      DELAYED <----- (return later) -----+
 *
 * A message that is not to be given out before a time (message_not_before_ms()), or that comes back
 * with a delay, is DELAYED until then, and takes its place by its sequence when it is due: never
 * earlier by the wall clock, and as soon after as there is a turn. The log keeps that time. Limits
 * look at ready messages; a time to live begins when the message may be given out.
 *
 * A queue has one *lane*, or, where it has levels of priority, one for each level in use. A lane is
 * a sequence of its own, with pages and cursors of its own: the high bits of a message's sequence
 * are the lane's number, so that whoever knows the sequence (a lease, a record of the log) knows
 * the lane. Which lane is next is asked of a *chooser*: the highest level that has a ready message.
 * What is said below of order holds within a lane. (Lanes share nothing, so the first message of a
 * lane is found without a look at the others, however many messages wait there; and a queue with
 * one lane does not know that there are others. Bits per lane in common pages would have cost a
 * walk over pages full of other lanes' messages, or lists of pages for each lane, which is the same
 * again.)
 *
 * Messages stand in *pages* of 64 in the order of their sequence; a page has one bit per message
 * and state, so that leases and settlements out of order cost bits. A page is *hot* where it has
 * the messages in memory and *cold* where it has only their positions in the log; cold ones are
 * read back when their turn comes, some pages ahead. A message without position (transient) is
 * always hot.
 *
 * Delivery goes round the consumers that have credit, among those of the highest priority; in a
 * queue that chooses, all goes to one of them, which was the first to come, until it leaves. Ready
 * messages go out in the order of their sequence, returned ones first, since theirs is lower.
 *
 * After an unclean stop nobody knows what had been delivered. So a queue logs, before it delivers a
 * sequence, a mark beyond it (in strides of QUEUE_MARK_STRIDE): whatever is below the last mark of
 * its lane comes back as redelivered.
 *
 * Invariants (queue_check):
 *  1. leased and returned are subsets of live, delayed of leased; every live sequence is below its
 * lane's `next`. The counts of leased messages are without those that are delayed.
 *  2. ready = live - leased, summed over all pages; `returned_ready` of a lane are below `fresh`.
 *  3. No live, unleased sequence is below min(returned_first, fresh); none below `fresh` if
 * returned_ready is 0.
 *  4. A live message has a position, or is in memory, or both.
 *  5. Whatever is delayed stands in the heap (delay.c), with the time that its page has.
 *  6. In a queue with a log that works, what was delivered and has a position is below
 * `mark_durable`.
 *  6. In a queue with several lanes each counts its ready messages, and the chooser knows exactly
 * those lanes that have some.
 *
 * A queue belongs to a *host*: what the queues of one shard share. All functions are for the host's
 * worker. The owner (the broker) embeds the struct; nothing of it is for others to write, except
 * where it says so.
 */
#ifndef SLUICE_QUEUE_QUEUE_H
#define SLUICE_QUEUE_QUEUE_H

#include "log/log.h"

#define QUEUE_PAGE        64u
#define QUEUE_MARK_STRIDE 10000u
#define QUEUE_READ_AHEAD  4u         /* pages being read from the log at a time */
#define QUEUE_HOT_PAGES   16u        /* from the cursor on, these stay in memory under pressure, */
#define QUEUE_HOT_BYTES   (4u << 20) /* as far as their bodies are not more than this */

/* The lane's number, and the place in it, which begins with 1: a million messages a second take
 * nine years to the end. The lane 0 is the one that every queue has. */
#define QUEUE_LANE_SHIFT 48u
#define QUEUE_LANE_SPAN  (1ull << QUEUE_LANE_SHIFT)
#define QUEUE_LANES_MAX  1024u

/* With which a message is logged, for a start to know: it has a time to live of its own. */
#define QUEUE_LANE_MORTAL 0x100u

/* The latest time until which it can wait, wall clock; what is to wait longer waits so long. */
#define QUEUE_DUE_MS_MAX ((1ull << 62) - 1)

struct queue;
struct consumer;
struct page_entry;
struct queue_lanes;
struct queue_returns;
struct queue_promise;
struct queue_upkeep;
struct queue_delay;

/* Why a message is gone; in the log's settlements. */
enum settle_reason {
    SETTLE_ACCEPTED = 1,
    SETTLE_REJECTED = 2, /* refused by a consumer, and no dead-letter exchange wanted it */
    SETTLE_EXPIRED = 3,
    SETTLE_PURGED = 4,
    SETTLE_DROPPED = 5,   /* over a limit */
    SETTLE_DELIVERED = 6, /* to a consumer that settles itself */
    SETTLE_RETURNED = 7,  /* more often than it may be */
    SETTLE_BURIED = 8,    /* died (queue_die), and the owner has seen to it */
};

struct queue_item {
    struct message *message; /* borrowed, good until the queue is called again */
    uint64_t sequence;
    bool redelivered;
    uint32_t count; /* returns that counted */
};

struct queue_events {
    /* 0, then the item is leased to the consumer (or settled, if it settles itself); E_ROOM: the
     * consumer is parked until consumer_resume(). Must not call the queue. */
    int (*deliver)(void *context, struct consumer *consumer, const struct queue_item *item);

    /* A getter's turn: an item has become available, or the queue is empty now. */
    void (*get)(void *context, struct queue *queue);

    /* There are dead messages, the first since there were none: queue_dead_take(), later. */
    void (*died)(void *context, struct queue *queue);
};

/* ---- what the queues of one shard share ---- */

struct queue_host {
    struct loop *loop;
    struct log *log; /* NULL: nothing here is durable */
    const struct logger *logger;
    const struct queue_events *events;
    void *context;
    struct account *memory; /* of messages; over hot_bytes_max new ones go cold where they can */
    uint64_t hot_bytes_max;

    struct task dispatch;
    struct list ready;         /* queues that may have something to deliver */
    struct list awaiting_mark; /* queues whose next delivery waits for a durable mark */
    struct list closed_dirty;  /* closed queues that changed since their last state record */
    struct list upkeep;        /* queues that may be over a limit, or have old messages */
    struct task upkeep_task;
    struct list delays; /* queues in which messages may be due: struct queue_delay.link */
    struct task delay_task;
    bool has_begun;       /* and does not rest */
    uint64_t quarantined; /* messages that could not be read back, so far */
    bool has_failed;      /* queue_host_failed() */
};

void queue_host_init(struct queue_host *host);
void queue_host_fini(struct queue_host *host);

/* All is recovered: queues do what they do by themselves, such as letting messages expire, from now
 * on; until queue_host_rest(). */
void queue_host_begin(struct queue_host *host);
void queue_host_rest(struct queue_host *host);

/* From the log's events. */
void queue_host_durable(struct queue_host *host, uint64_t block);

/* The log is FAILED: no mark will be durable any more, so what is readable goes out without. */
void queue_host_failed(struct queue_host *host);

/* ---- the queue ---- */

struct queue_lane {
    struct page_entry *pages; /* by growing number; some have become empty, see queue_private.h */
    uint32_t pages_capacity, pages_start, pages_count, pages_empty;

    uint64_t next;           /* sequence of the next push; its high bits are the lane's number */
    uint64_t fresh;          /* first sequence that was never given out */
    uint64_t returned_first; /* no returned ready sequence is below */
    uint64_t returned_ready;

    uint64_t mark_logged, mark_durable;
    uint64_t looked_until; /* what is before has been looked at (upkeep.c) */

    uint64_t ready, ready_bytes; /* counted where the queue has several lanes */
};

/* Levels of priority. Those that are never used cost nothing. */
struct queue_levels {
    uint8_t max;         /* a message of a higher priority has this level; 0: there is only one */
    uint8_t absent;      /* the level of messages without priority; at most `max` */
    bool returned_first; /* what came back goes out before all else, in the order of its return */
};

struct queue {
    struct queue_host *host;
    uint64_t id;         /* in the log */
    struct log *log;     /* NULL: this queue is transient */
    uint32_t references; /* leases, consumers and the owner; the owner frees at 0 (queue_unref) */
    bool closed;         /* deleted: nothing is delivered any more */
    bool is_given_up;    /* and a crash will not bring it back: settling does nothing */
    bool is_dirty;
    bool has_no_state; /* in the log, any more */
    bool waits_for_mark;
    bool rests;  /* does nothing by itself: it is on its way */
    bool buried; /* it is closed, and was one whose dead were buried */

    struct queue_lane lane;        /* number 0 */
    struct queue_lanes *lanes;     /* NULL: there is no other */
    struct queue_returns *returns; /* NULL: nothing has come back that goes out first */
    struct queue_levels levels;

    uint64_t ready, leased, delayed;
    uint64_t ready_bytes, leased_bytes, delayed_bytes; /* of bodies */
    uint64_t set_aside; /* of the leased: the owner's dead that it cannot read, until the restart */

    uint64_t mark_block; /* of the last mark, of any lane */
    struct list loads;   /* being read from the log */
    unsigned loads_count;

    struct list active; /* consumers with credit, by falling priority, then in turn */
    struct list idle;   /* consumers without */
    uint32_t consumers;
    bool getters_wait; /* the owner has requests for single messages: events->get */

    struct list ready_link, mark_link, closed_link;
    struct queue_upkeep *upkeep;   /* NULL: nothing to do by itself */
    struct queue_delay *delay;     /* NULL: nothing was ever delayed */
    struct queue_promise *promise; /* while it recovers: what its state says */

    /* statistics, ever growing */
    uint64_t pushed, delivered, redelivered, settled;
};

/* With one reference, the caller's. log NULL for a transient queue. */
void queue_init(struct queue *queue, struct queue_host *host, uint64_t id, struct log *log);

/* Nothing may be in it and nobody may refer to it. */
void queue_fini(struct queue *queue);

static inline void queue_ref(struct queue *queue)
{
    queue->references++;
}

/* True when it was the last: the owner frees. */
static inline bool queue_unref(struct queue *queue)
{
    return --queue->references == 0;
}

/* When the next of its delayed messages is due, by the wall clock; perhaps earlier, if that was
 * settled before; UINT64_MAX: none is. */
uint64_t queue_next_due_ms(const struct queue *queue);

/* At once, when nothing is in it yet. */
void queue_set_levels(struct queue *queue, const struct queue_levels *levels);

/* The sequence that a push of this message must have: for the log record that comes before it. */
uint64_t queue_sequence_in_levels(const struct queue *queue, const struct message *message);
static inline uint64_t queue_sequence(const struct queue *queue, const struct message *message)
{
    return queue->levels.max == 0 ? queue->lane.next : queue_sequence_in_levels(queue, message);
}

/* Has there been a push of that sequence? */
bool queue_has_come_to(const struct queue *queue, uint64_t sequence);

/* Takes a reference on the message. position 0: not in the log. */
void queue_push(struct queue *queue, struct message *message, uint64_t position);

/* With which the message is logged, for recovery to know. */
struct log_target queue_target(const struct queue *queue, const struct message *message);

/* The next ready item, leased by this call. E_NOT_FOUND: none; E_AGAIN: one, but it is being read
 * back or the mark is being written; set getters_wait and be called. The message is a reference for
 * the caller. */
int queue_take(struct queue *queue, struct queue_item *item) MUST_CHECK;

/* Of leased messages. In a queue that is given up they do nothing. */
void queue_settle(struct queue *queue, uint64_t sequence, enum settle_reason why);
void queue_settle_range(struct queue *queue, uint64_t first, uint64_t last, enum settle_reason why);

/* seen: it goes out as redelivered from now on, and later, if the queue's rules say so; counted:
 * and its count grows. */
void queue_return(struct queue *queue, uint64_t sequence, bool seen, bool counted);

/* Back, but not ready before that time. */
void queue_return_later(struct queue *queue, uint64_t sequence, bool counted, uint64_t due_ms);

/* A ready or delayed message becomes leased, to nobody whom the queue knows, and is not seen: until
 * it is settled or returned, and then it is delayed again if it is not due yet. False: there is
 * none of that sequence, or it is leased. */
bool queue_hold(struct queue *queue, uint64_t sequence) MUST_CHECK;

/* Of a leased message: is it in the log, so that what becomes of it is, too? */
bool queue_is_logged(const struct queue *queue, uint64_t sequence);

/* Settles what is ready or delayed when it begins, in slices. */
struct queue_purge_job {
    uint64_t removed; /* so far */

    /* The queue's from here. */
    uint64_t position; /* all before is settled */
    uint64_t *ends;    /* by lane */
    unsigned lanes;
};
void queue_purge_begin(struct queue_purge_job *purge, const struct queue *queue);
void queue_purge_fini(struct queue_purge_job *purge);

/* For a slice of the turn; true when that was all, or the queue is closed. */
bool queue_purge(struct queue_purge_job *purge, struct queue *queue,
                 enum settle_reason why) MUST_CHECK;

/* Deleted: nothing is delivered any more. A crash may undo that: until the deletion is durable it
 * is whole, what is settled is settled, and where its state has changed it is in the host's
 * closed_dirty. Consumers must be gone. */
void queue_close(struct queue *queue);

/* The deletion is durable (what the log gives up does not come back with the queue): called until
 * it returns true, gives back all memory and room in the log. */
bool queue_discard(struct queue *queue);

/* Instead of queue_close() for one that is elsewhere now, durably: its state is dropped at once,
 * since it may come back before all is discarded. */
void queue_close_moved(struct queue *queue);

/* The process ends, or a simulated one has crashed: gives back all memory, whoever refers to it.
 * The log is gone. */
void queue_abandon(struct queue *queue);

/* Gives back the memory of messages that can be read from the log, beyond the hot pages. For a
 * slice; start with *position 0; true when done. */
bool queue_cool(struct queue *queue, uint64_t *position);

void queue_check(const struct queue *queue);

/* ---- consumers ---- */

#define CONSUMER_UNLIMITED UINT32_MAX

struct consumer {
    struct list link;
    struct queue *queue;
    void *owner;              /* the owner's, free to use */
    int32_t priority;         /* while one of a higher priority has credit, lower ones wait */
    uint32_t credit_messages; /* or CONSUMER_UNLIMITED */
    int64_t credit_bytes;     /* one delivery may take it below 0 */
    bool settles_itself;
    bool parked; /* E_ROOM; waits for consumer_resume() */
    uint64_t delivered;
};

/* The fields queue, owner, priority, credit and settles_itself are set. Takes a reference on the
 * queue. */
void consumer_add(struct consumer *consumer);

/* Gives its reference back: true when it was the last. */
bool consumer_remove(struct consumer *consumer);
void consumer_credit(struct consumer *consumer, uint32_t messages, uint64_t bytes);
void consumer_resume(struct consumer *consumer);

/* ---- what a queue does by itself (upkeep.c) ----
 *
 * It keeps within limits, and what has lived too long goes, when it stands at the head. Neither is
 * looked at before consumers had their turn. What goes so, what is rejected and what comes back too
 * often has died: it is settled, or, where the owner buries the dead, leased to nobody until the
 * owner settles it (SETTLE_BURIED); events->died tells of it. A crash forgets who was dead: then
 * what is over a limit or too old dies again, and what was rejected is ready, as if the rejection
 * had never come. */

enum queue_overflow {
    OVERFLOW_DROP_OLDEST,
    OVERFLOW_REFUSE,
    OVERFLOW_REFUSE_AND_BURY, /* what is refused has died, too */
};

#define QUEUE_RETRY_STEPS_MAX 8u

/* How long a message that comes back, and was seen, waits before it is ready again: after its n-th
 * return that counts (n is 1 if none did) n times `min_ms`, or, if it doubles, 2^(n-1) times, or
 * the n-th of the steps; never more than `max_ms`, and up to so many percent less, by chance. */
struct queue_retry {
    bool counted, uncounted; /* of returns: those that count, those that do not; neither: at once */
    bool doubles;
    uint8_t less_percent;
    uint8_t steps; /* how many there are; 0: it goes by min_ms */
    uint64_t min_ms, max_ms;
    uint64_t steps_ms[QUEUE_RETRY_STEPS_MAX]; /* the last one counts for all that follow */
};

struct queue_rules {
    uint64_t length_max;  /* of ready messages; UINT64_MAX: any */
    uint64_t bytes_max;   /* of their bodies; UINT64_MAX: any */
    uint64_t lives_ms;    /* from when it was published; UINT64_MAX: for ever */
    uint32_t returns_max; /* of those that count; UINT32_MAX: any */
    enum queue_overflow overflow;
    bool buries;
    bool chooses; /* one consumer gets all until it leaves, then another */
    struct queue_retry retry;
};

/* Those that let everything be. */
struct queue_rules queue_no_rules(void);

/* At any time before it is closed; what is over a new limit goes soon. */
void queue_set_rules(struct queue *queue, const struct queue_rules *rules);

/* To be asked before a push, which does as it is told: with this one it would be over a limit, even
 * when its consumers have had their turn, and refuses. */
bool queue_refuses(const struct queue *queue, uint64_t body_size);

/* What it refuses has died, as if it had been in it. */
bool queue_buries_refused(const struct queue *queue);

struct queue_dead {
    uint64_t sequence;
    enum settle_reason why;
};

/* The dead that nobody has taken yet, in the order in which they died. */
uint32_t queue_dead_count(const struct queue *queue);
struct queue_dead queue_dead_at(const struct queue *queue, uint32_t index);

/* The first of them, to be settled some time. *message: a reference, or NULL: it stands at
 * *position of the log alone. */
struct queue_dead queue_dead_take(struct queue *queue, struct message **message,
                                  uint64_t *position);

/* Makes ready again those whom the queue lets die by itself: the rejected, and those who came back
 * too often, stay dead. */
void queue_dead_return(struct queue *queue);

/* It does nothing by itself from now on, or again what has to be done. */
void queue_rest(struct queue *queue, bool rests);

/* ---- state and recovery ---- */

/* Writes the queue's state to the log: it is not dirty any more. `exact`: nothing will be
 * delivered any more, so what was never given out need not come back as redelivered. */
void queue_write_state(struct queue *queue, bool exact);

/* An exact state would say more than what is in the log. */
bool queue_is_inexact(const struct queue *queue);

/* In the order of struct log_recovery; then queue_recover_end(), which returns how many messages
 * the state speaks of that the log no longer has. E_VERSION, E_CORRUPT: the state cannot be read,
 * and the queue goes on as if there were none: better a message twice than none. */
int queue_recover_state(struct queue *queue, struct slice bytes) MUST_CHECK;
bool queue_recover_message(struct queue *queue, uint64_t sequence, uint64_t position, uint64_t size,
                           uint16_t note, uint64_t due_ms); /* false: release */
void queue_recover_settled(struct queue *queue, uint64_t first, uint64_t last);
void queue_recover_returned(struct queue *queue, uint64_t first, uint64_t last, uint32_t count);
void queue_recover_postponed(struct queue *queue, uint64_t sequence, uint64_t due_ms);
void queue_recover_delivered(struct queue *queue, uint64_t sequence);
uint64_t queue_recover_end(struct queue *queue);

/* ---- looking at messages: nothing is given out, marked or kept in memory ---- */

#define QUEUE_WALK_BYTES (1u << 20) /* of bodies are read back at a time, and one message */

/* A live message, as a walk tells it. */
struct queue_traveller {
    struct message *message;
    uint64_t sequence;
    bool is_logged; /* it stands in the queue's log */
    bool is_leased, is_returned;
    uint32_t count;  /* returns that counted */
    uint64_t due_ms; /* 0: it waits for nothing; of a leased one: if it comes back until then */
};

/* Tells live messages in the order of their sequence (lane by lane, 0 first), each as it is when it
 * is told; they may come and go meanwhile. Zeroed, with queue and ready set, and `at`, when not
 * from the first on; stays where it is, and keeps a reference on the queue, while it is reading. */
struct queue_walk {
    struct queue *queue;
    uint64_t at; /* all below have been told */
    bool skips_ready, skips_leased, skips_delayed;
    bool is_reading;
    void (*ready)(struct queue_walk *walk); /* it can go on, or be given up */

    /* The queue's from here: the page that is read back. */
    uint64_t page;
    struct log_read read;
    uint8_t index[LOG_READ_MAX];
};

/* 1: the next, with a reference on its message for the caller; 0: that was all; E_AGAIN: it is
 * being read back, and ready() follows; else why the message of that sequence cannot be read: the
 * walk stays there. */
int queue_walk_next(struct queue_walk *walk, struct queue_traveller *traveller) MUST_CHECK;

/* It must not be reading. */
void queue_walk_fini(struct queue_walk *walk);

/* Where each lane ended, once: so that a walk can leave out what came later. */
struct queue_ends {
    uint64_t *by_lane;
    unsigned lanes;
};
void queue_ends_take(struct queue_ends *ends, const struct queue *queue);
void queue_ends_free(struct queue_ends *ends);

/* Was the message of that sequence there, or before it? */
bool queue_ends_include(const struct queue_ends *ends, uint64_t sequence);

/* The sequence with which the lane behind that sequence's one begins. */
static inline uint64_t queue_next_lane(uint64_t sequence)
{
    return (sequence | (QUEUE_LANE_SPAN - 1)) + 1;
}

/* ---- moving to another shard ----
 *
 * Nothing is pushed or given out meanwhile; what is leased may be settled and returned at any time,
 * here, and there once it has been told. */

/* What a lane has besides its messages. */
struct queue_standing {
    uint64_t next, fresh, mark; /* see struct queue_lane */
    uint64_t set_aside;         /* the queue's, with lane 0 */
};

/* Of the first lane from number *lane on, which *lane is then; false: there is none. */
bool queue_standing(const struct queue *queue, unsigned *lane,
                    struct queue_standing *standing) MUST_CHECK;

/* A new queue takes over those standings, then what is told. position: of the message in its own
 * log, where it was appended with queue_arrival_target(); 0: not in the log. The mark is durable
 * when the queue's state is, which the caller writes and waits for. */
void queue_arrive_lane(struct queue *queue, const struct queue_standing *standing);
struct log_target queue_arrival_target(const struct queue *queue,
                                       const struct queue_traveller *traveller);
void queue_arrive(struct queue *queue, const struct queue_traveller *traveller, uint64_t position);

#endif
