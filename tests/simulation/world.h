/*
 * The simulation's world: a process of several workers over disks that lose, tear, fail, fill up
 * and turn bits; actors, which are its clients; and the model, which knows what each answer
 * promised. Everything by one seed.
 *
 *   main.c      options
 *   seeds.c     one world for each seed, in one process or in several
 *   world.c     lives: workers start, actors act, the process crashes or stops
 *   actor.c     what clients do with queues that stay
 *   mover.c     they move queues to other shards
 *   restless.c  what they do with queues that come and go, on all workers at once
 *   redriver.c  a client whose dead letters come back, and that looks at messages
 *   looker.c    they list queues and ask for numbers
 *   remote.h    clients that speak AMQP 0-9-1 over byte streams: four more files
 *   model.c     what was promised of messages, and what became of it
 *   standing.c  the same of queues; what must be in them when nothing is on its way
 *   mortal.h    queues in which messages die: two more files
 *   locked.c    encryption at rest: keys that change, are wrong, are thrown away
 */
#ifndef SLUICE_SIMULATION_WORLD_H
#define SLUICE_SIMULATION_WORLD_H

#include "base/memory.h"
#include "broker/catalog.h"
#include "broker/worker.h"
#include "loop/mail.h"
#include "log/test_witness.h"
#include "loop/simulated.h"
#include "store/simulated/simulated.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define WORKERS_MAX 4u
#define SHARDS_MAX  6u
#define ACTORS      4u
#define REMOTES     3u
#define IDS_MAX     20000u
#define LEASES_MAX  512u
#define LIVES_MAX   4u
#define JOBS_MAX    64u

#define PASSWORD    "simulated"
#define BODY_MAX    (301u << 10)
#define BODY_PLACES 4093u

/* Queues that stay come first, then those that come and go. */
#define QUEUES_STAY   3u
#define QUEUES        8u
#define QUEUE_IDS_MAX 4096u
#define NOWHERE       QUEUES /* where a message went that no queue wanted, or was rolled back */

struct locks;
struct mortals;
struct remote;
struct server;
struct world;

#define CHECK(world, condition, ...)                                                               \
    do {                                                                                           \
        if (!(condition))                                                                          \
            failed(world, __VA_ARGS__);                                                            \
    } while (0)

/* ---- the model: one entry a message and queue ---- */

struct known {
    bool exists, persistent;
    uint8_t queue;
    uint8_t copies; /* of a message that went to several queues: its entries, this the first */
    bool in_transaction;
    bool confirmed;   /* it was told that it is safe */
    bool may_be_gone; /* its queue was purged, or what became of its settlement is not known */
    bool settled;     /* by a client, or purged, or delivered to a consumer that settles itself */
    bool settle_durable; /* so that it must never come back */
    bool delivered_ever, leased;
    uint32_t seen;      /* how often */
    uint32_t publisher; /* the client that published it, or the transaction: one order */
    unsigned born;      /* the life in which it was published */
    bool was_there;     /* in a later life, so it was on disk */
    bool may_be_done; /* given out in the life it was published in, perhaps before it was on disk */
    unsigned delivered_life; /* the last life in which it was delivered */
    bool present_at_end;
    uint32_t settled_in; /* a transaction of which no good answer came; 0: none */
    uint8_t shard;       /* where it went, */
    bool in_move;        /* while its queue was perhaps on its way elsewhere */
    unsigned moves;      /* of its queue, asked for before it was published */
    uint64_t sequence;   /* in its queue, once it was seen */
    uint64_t queue_id;   /* 0: not known yet */

    /* While its settlement is on its way to the disk: */
    uint64_t settle_stamp; /* it is durable with the first that is published after it, by the */
    uint8_t settle_worker; /* same worker to the same shard */
};

#define SETTLEMENTS_MAX 8u

struct transaction {
    bool committed;
    uint64_t first, count; /* ids that it publishes */
    uint64_t settled[SETTLEMENTS_MAX];
    size_t settled_count;
    uint64_t came_back; /* one of those, which was given out again: so it did not happen */
};

/* A name, and the queue that was last known to have it. */
struct standing {
    uint64_t id;
    bool must;           /* its declaration was answered, and nobody has deleted it since */
    unsigned deletes;    /* asked and not answered: until then nobody knows */
    uint64_t used_ns;    /* not before then was it last in use */
    uint64_t drained_id; /* in the last life: the queue that was emptied */
};

enum ask {
    ASK_LOGIN,
    ASK_ENTER,
    ASK_DECLARE,
    ASK_BIND,
    ASK_SUBSCRIBE,
    ASK_GET,
    ASK_PURGE,
    ASK_TRANSACT,
    ASK_RESTLESS_QUEUE, /* declares one that comes and goes */
    ASK_DELETE,
    ASK_MOVE,
    ASK_RESTLESS, /* whose answer promises nothing */
    ASK_LOOK,
};

struct actor {
    struct world *world;
    unsigned index, worker;
    uint32_t number; /* of the client: an actor is one after the other */
    struct client *client;
    struct publisher *publisher;
    struct request request;
    uint8_t arguments[32]; /* of what it asks */
    bool busy;             /* the request is pending */
    enum ask ask;
    enum flow flow; /* as it was told */
    bool ready, leaving;
    unsigned declared, bound, asked_queue;   /* sets of queues; one queue */
    uint64_t asked_id, asked_must, asked_ns; /* which it was and had to be, and when */
    struct consumer *consumer;
    unsigned consumer_queue;
    uint64_t consumer_of; /* the queue's id; 0: it had gone when the answer came */
    bool consumer_settles;
    uint64_t consumer_last; /* sequence, of what came to it for the first time */
    uint64_t consumer_queue_id;
    struct lease leases[LEASES_MAX];
    uint64_t lease_ids[LEASES_MAX];
    size_t lease_count;
    uint64_t *window; /* publisher's sequence -> id */
    uint64_t sequence, confirmed;
    struct settlement settlements[SETTLEMENTS_MAX];
    struct publish publishes[4];
    struct message *messages[4];
    size_t publish_count;
    uint32_t transaction;
    struct look *look; /* NULL: it does not look */
};

struct member {
    struct world *world;
    struct loop *loop;
    struct worker *worker;
    struct server *server; /* for remotes; NULL: nobody listens */
    struct store *stores[SHARDS_MAX];
    bool started, stopping, stopped;
    int start_result;
};

/* What is large, and used again from seed to seed: each entry is written before it is read. */
struct room {
    struct known known[IDS_MAX];
    uint64_t settling[IDS_MAX];
    struct transaction transactions[IDS_MAX / 4];
    uint64_t windows[ACTORS][IDS_MAX];
    uint8_t bodies[BODY_MAX + BODY_PLACES]; /* each body is a part of it, see model.c */
};

struct world {
    uint64_t seed;
    const struct options *options;
    struct room *room;
    unsigned life;
    struct office *office;
    struct member members[WORKERS_MAX];
    unsigned workers, shards; /* of this life */
    struct simulated_disk *disks[SHARDS_MAX];
    struct locks *locks; /* NULL: it is in the clear */
    struct logger logger;
    bool corruption_reported;
    unsigned failed_shards;         /* a set */
    uint64_t memory_high, disk_low; /* watermarks */
    struct actor actors[ACTORS];
    struct loop *outside; /* where remotes are; NULL: there are none in this life */
    struct remote *remotes[REMOTES];
    unsigned remote_count;
    struct known *known;
    uint64_t ids;
    uint64_t *settling; /* ids whose settlement is on its way to the disk */
    uint64_t settling_count;
    struct transaction *transactions;
    uint32_t transaction_count;
    unsigned queues_there, queues_bound; /* sets: a declaration, a binding was answered */
    unsigned purges[QUEUES];             /* under way */
    struct standing standings[QUEUES];
    uint64_t ended_ns;           /* of the last life */
    bool deleted[QUEUE_IDS_MAX]; /* of durable queues: it was answered that they are */
    unsigned moves[QUEUES];      /* perhaps under way: asked for and not answered */
    unsigned moves_ever[QUEUES]; /* asked for */
    unsigned
        unseen[QUEUES]; /* in this life: consumers that left, perhaps with messages on the way */
    uint32_t clients;   /* so far */
    uint64_t random_state;
    bool draining, resting;
    struct mortals *mortals;   /* NULL: there are none in this world */
    struct redriver *redriver; /* likewise */
    uint64_t redrives;
    uint64_t deliveries, far_deliveries, crashes, confirms, alarms, moved;
    uint64_t policies;                     /* that were set or cleared */
    uint64_t mortal_sights, mortal_deaths; /* of messages that may die; of those that had */
};

/* ---- seeds.c ---- */

struct options {
    const char *program;
    uint64_t first, count;
    unsigned jobs; /* processes */
    bool goes_on;  /* after a seed that failed */
    bool verbose;
    const char *fault;
};

/* The exit status. */
int seeds_run(const struct options *options);

/* ---- world.c ---- */

void failed(const struct world *w, const char *format, ...) PRINTF_LIKE(2, 3)
    __attribute__((noreturn));
void trace(const struct world *w, const char *format, ...) PRINTF_LIKE(2, 3);
uint64_t dice(struct world *w, uint64_t sides);
void world_run(struct world *w, uint64_t for_ns); /* all loops */
bool world_flipped(const struct world *w);        /* bits of any disk */
enum flow world_flow(const struct world *w);      /* what publishers are to be told, at rest */
void world_run_seed(struct world *w, const struct options *options, uint64_t seed,
                    struct room *room);

/* ---- model.c ---- */

struct room *room_new(void);

extern const char *const queue_names[QUEUES];
#define FANOUT_NAME "everywhere"

/* As many entries as the message goes to queues, in that order; one, when it goes nowhere. */
uint64_t model_new(struct actor *actor, const unsigned *queues, unsigned count, bool persistent);
struct message *model_message(struct actor *actor, uint64_t id, const char *exchange,
                              const char *key);
/* Bytes of the message with that id, if they are wanted; returns their number. */
size_t model_body(const struct world *w, uint64_t id, uint8_t *bytes);
/* Whose body this is, unaltered. */
uint64_t model_body_id(const struct world *w, struct slice body);

/* A message that somebody has got. */
struct sight {
    struct slice body;
    unsigned queue, shard;
    uint64_t queue_id, sequence; /* 0: from there this cannot be seen */
    bool redelivered;
    bool to_consumer; /* the actor's; else to a get of it */
    bool is_stale;    /* by now it may be somebody else's: it means nothing any more */
    bool is_doubtful; /* it is stale if somebody has seen it in this life */
    bool is_first;    /* out: in this life */
};

/* The entry of what was seen. */
uint64_t model_seen(struct actor *actor, struct sight *sight);
uint64_t model_delivered(struct actor *actor, unsigned queue, const struct delivery *delivery,
                         bool to_consumer);
void model_settled(struct actor *actor, uint64_t id, unsigned shard);
void model_confirmed(struct actor *actor, uint64_t id, bool accepted);
void model_transacted(struct world *w, uint32_t number, bool done);
void model_move_asked(struct world *w, unsigned queue);
void model_purge_asked(struct world *w, unsigned queue);
void model_deleted(struct world *w, uint64_t queue_id); /* perhaps */
void model_life_over(struct world *w);
void model_judge(struct world *w);

/* ---- looker.c ---- */

/* Begins to look, or goes on; nothing may be pending. */
void looker_act(struct actor *actor);
void looker_answered(struct actor *actor);

/* Before its client goes; idle, or abandoned. */
void looker_forget(struct actor *actor);

/* ---- actor.c ---- */

void actor_open(struct world *w, unsigned index);
void actor_act(struct actor *actor);
void actor_get(struct actor *actor, unsigned queue);
void actor_purge(struct actor *actor, unsigned queue);
void actor_settle(struct actor *actor, size_t index, enum outcome outcome);

/* Gives everything back and closes; what is pending completes into nothing. */
void actor_close(struct actor *actor);
/* For a world at rest: takes what there is to take; then, whether all it has asked is answered. */
void actor_rest(struct actor *actor);
void actor_check_rest(struct actor *actor);

bool actor_is_idle(const struct actor *actor);
void actor_free(struct actor *actor);

/* After a crash: the broker has given up the client. */
void actor_abandon(struct actor *actor);

/* For restless.c and mover.c: what has been asked, and how. */
void actor_asked(struct actor *actor, enum ask ask, int outcome);

/* ---- locked.c: all for a world that may be in the clear ---- */

struct locks *locks_new(const struct world *w);
void locks_free(struct locks *locks);
void locks_choose(struct world *w, struct worker_options *options, bool may_be_wrong);
void locks_refused(const struct world *w, int result, const struct failure *why);
void locks_act(struct world *w);
void locks_life_over(const struct world *w);

/* ---- mover.c ---- */

void mover_act(struct actor *actor);
void mover_answered(struct actor *actor);

/* ---- mortal.c: all for a world that may have none ---- */

struct mortals *mortals_new(struct world *w);
void mortals_act(struct world *w); /* there are some */

/* Those of one worker go; false: they are at it. */
bool mortals_leave(struct world *w, unsigned worker);
void mortals_abandon(struct world *w);
void mortals_may_move(struct world *w);
void mortals_rest(struct world *w);
void mortals_check_rest(struct world *w);
void mortals_life_over(struct world *w, bool clean);
uint64_t mortals_count(const struct world *w); /* of messages, so far */
void mortals_note_time(struct world *w);
uint64_t mortals_wall_ms(const struct world *w); /* the latest; 0: none of them has looked */
void mortals_drain(struct world *w);             /* the last life: and judges */

/* ---- redriver.c: all for a world that may have none ---- */

struct redriver *redriver_new(struct world *w);
bool redriver_wants_to_act(struct world *w);
void redriver_act(struct world *w);
bool redriver_leave(struct world *w, unsigned worker); /* as mortals_leave() */
void redriver_abandon(struct world *w);
void redriver_life_over(struct world *w, bool clean);
uint64_t redriver_count(const struct world *w); /* of messages, so far */
void redriver_drain(struct world *w);           /* the last life: and judges */

/* ---- restless.c ---- */

void restless_act(struct actor *actor);
void restless_answered(struct actor *actor);

#define EXCHANGES 2u
extern const char *const restless_exchanges[EXCHANGES];

/* Where a message with that key goes, as the actor's worker sees it: looked up the plain way.
 * False: it has no such exchange. */
bool restless_route(const struct actor *actor, unsigned exchange, struct slice key,
                    unsigned queues[QUEUES], unsigned *count);

/* ---- standing.c ---- */

/* As the worker knows it, by the name; NULL: it knows none. */
const struct catalog_queue *standing_look(const struct world *w, unsigned worker, unsigned queue);
bool standing_is_durable(unsigned queue); /* and stays when its declarer goes */
uint32_t standing_expires_ms(const struct world *w, unsigned queue); /* 0: never */

/* The queue must be there, under this id; 0: nothing is promised. */
uint64_t standing_must(const struct world *w, unsigned queue);

/* A request that speaks of the queue is asked, or answered, without or with a use of the queue. */
void standing_asked(struct actor *actor, unsigned queue);
void standing_answered(struct actor *actor, bool used);
void standing_delete_asked(struct actor *actor);
void standing_delete_answered(struct actor *actor, int code);
void standing_unsubscribed(struct actor *actor); /* or its client goes */

void standing_life_begins(struct world *w);
void standing_life_over(struct world *w);

/* Nothing is on its way: queues that must be there are, those that are unused have expired, and in
 * each is what must be. */
void standing_check(struct world *w);

#endif
