/*
 * Places: where queues live, as one worker sees it. A *shard* is here, a log with its queues; a
 * *peer* is another worker, which is written to. Every queue of the catalog has its place. What is
 * published to queues that are on their way to another shard waits in the worker's *onward* place.
 *
 * What happens at a place becomes good later, in order: a shard's blocks become durable, a peer
 * answers for the tickets of what it was sent. Whoever must wait for that, waits for a *mark*: a
 * number of a *line*, which has come up to `done`. Waiting in one line costs a list; whoever waits
 * in several does so one after the other.
 */
#ifndef SLUICE_BROKER_PLACES_H
#define SLUICE_BROKER_PLACES_H

#include "broker/broker.h"
#include "broker/catalog.h"
#include "log/log.h"
#include "queue/queue.h"

struct line {
    uint64_t done;          /* all up to this is good */
    bool failed;            /* nothing will be any more */
    struct log *log;        /* whose blocks they are; NULL: not a log's */
    struct list requests;   /* by growing number */
    struct list publishers; /* in no order; each knows what it waits for */
    struct list going;      /* of the worker's lines in which requests may go on */
};

static inline bool mark_is_good(struct mark mark)
{
    return !mark.line || mark.number <= mark.line->done;
}

struct place {
    struct worker *worker;
    bool is_here;   /* a shard, else a peer, */
    bool is_onward; /* or where publishes wait for queues that move, see move.h */
    struct line line;

    /* The targets of the publish at hand that live here, see publish.c. */
    struct catalog_queue **batch;
    size_t batch_count, batch_capacity;
};

/* ---- shards ---- */

/* What it knows of transactions over several shards, see part.h. */
struct ledger {
    struct map parts, decisions; /* by transaction */
    struct list ending;          /* parts whose END is on its way to the disk, in its order */
    uint32_t prepared;           /* parts, from preparing until they are gone */
    bool is_dirty;               /* since its last state record */
};

struct shard {
    struct place place; /* its line: blocks of the log */
    unsigned number;    /* 1, 2, ... */
    struct store *store;
    struct log *log;
    struct queue_host host; /* its context is the shard */
    bool has_failed;
    struct ledger ledger;
    struct list dropped;  /* hosted queues whose deletion is not settled yet, in its order; then */
    struct list discards; /* they are given back in slices */
    struct checkpoint_job *checkpoint;
    bool last_checkpoint;       /* the one of a clean stop is written */
    struct log_target *targets; /* scratch of publishing */
    size_t targets_capacity;
    struct catalog_queue **takers; /* likewise */
    size_t takers_capacity;
    struct log_opened opened;
};

static inline struct shard *shard_of(struct place *place)
{
    return CONTAINER_OF(place, struct shard, place);
}

/* ---- hosted queues: what the catalog does not know of a queue ---- */

struct hosted {
    struct queue queue;          /* one of its references is the catalog's, until it is discarded */
    struct catalog_queue *named; /* a reference */
    struct shard *shard;
    struct consumer *exclusive_consumer;
    uint32_t returning;        /* consumers that a move has made homeless, until they are back; */
    bool returning_exclusive;  /* one of them is alone */
    struct leaving *leaving;   /* its messages are being told to another shard, or NULL */
    uint64_t arrived_by;       /* the number of the move that brought it here, or 0 */
    struct list subscriptions; /* struct subscription.queue_link */
    struct list getters;       /* requests that wait for a message */
    struct list discard_link;
    struct timer expiry;
    bool has_expired;        /* it is to be deleted: nobody can use it any more */
    uint64_t used_ns;        /* the last time it had a consumer, a get or a declaration */
    struct list bury_link;   /* worker.burying: messages have died in it */
    struct timer bury_again; /* its dead wait until then */
};

static inline struct hosted *hosted_of(struct queue *queue)
{
    return CONTAINER_OF(queue, struct hosted, queue);
}

/* A queue of the catalog is hosted by this shard from now on. */
void hosted_new(struct shard *shard, struct catalog_queue *named);

/* The same, but the catalog's queue does not know of it yet: it is arriving. */
struct hosted *hosted_new_apart(struct shard *shard, struct catalog_queue *named);

/* The queue in this shard, also when it is still arriving; NULL: it is not there. */
struct hosted *hosted_in(const struct catalog_queue *named, const struct shard *shard);

/* The catalog has dropped it: ends its consumers. It is discarded when that is settled: a crash
 * before may bring the queue back, and then whole. */
void hosted_drop(struct hosted *hosted);

/* The catalog has it elsewhere, durably; nobody refers to it. It is discarded. */
void hosted_leave(struct hosted *hosted);

/* Gives back all memory, whoever refers to it. */
void hosted_abandon(struct hosted *hosted);

/* It may have lost its last consumer: then an auto-delete queue goes. */
void hosted_check_unused(struct hosted *hosted);

struct queue_counts hosted_counts(const struct hosted *hosted);

/* One reference on its queue less; the last frees it. */
void hosted_release(struct hosted *hosted);
void hosted_free(struct hosted *hosted);

/* It is in use: its expiry begins anew. */
void hosted_used(struct hosted *hosted);

/* What its settings say is different now, and perhaps when it expires: that begins anew. */
void hosted_refresh(struct hosted *hosted, bool expires_otherwise);

/* A slice of discarding; true when nothing is left to discard now. */
bool shard_discard_slice(struct shard *shard);

/* What the catalog has settled may have queues to discard. */
void hosted_settled(struct worker *worker);

/* ---- waiting ---- */

void line_init(struct line *line);

/* It has come up to this number: requests go on and publishers are told in a later phase, as many
 * in a turn as there is time for. */
void line_advance(struct line *line, uint64_t done);

/* Somebody has begun to wait in it: a log is asked to commit. */
void line_hurry(struct line *line);

/* It never will come further: whoever waits in it is told so. */
void line_fail(struct line *line);

#endif
