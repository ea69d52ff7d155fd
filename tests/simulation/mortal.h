/*
 * Queues that do something by themselves, and what becomes of messages in them: they die of limits,
 * of age, of rejections and of too many returns, and are published again, or are gone.
 *
 *   rules.c     what these queues are to do, by arguments and by policies, which change
 *   mortal.c    clients that publish to them and consume
 *   fate.c      what was promised of their messages, and what became of it
 *
 * In half of the worlds there are such queues, and two *mourners*, which nobody else takes notice
 * of but by moving their queues. Each queue buries its dead in one other, so that a message goes
 * along a path: where it is on it is its *step*, the number of its deaths, which its history tells.
 */
#ifndef SLUICE_SIMULATION_MORTAL_H
#define SLUICE_SIMULATION_MORTAL_H

#include "world.h"

#define MORTAL_QUEUES 5u
#define MOURNERS      2u
#define FATES_MAX     6000u
#define STEPS_MAX     32u
#define HELDS_MAX     64u
#define IN_TX_MAX     6u
#define LEVELS_MAX    32u
#define NO_PRIORITY   (-1)
#define NO_GRAVE      MORTAL_QUEUES /* as a target: the dead are gone */
#define UNLIMITED     UINT64_MAX

#define VERSIONS_MAX 200u /* of a queue's rules */

enum overflow { OVERFLOW_DROP, OVERFLOW_NACK, OVERFLOW_NACK_AND_BURY };

struct rules {
    bool buries;                              /* has a dead-letter exchange, */
    unsigned target;                          /* which leads there, or nowhere */
    uint64_t lives_ms, length_max, bytes_max; /* or UNLIMITED */
    uint64_t returns_max;                     /* or UNLIMITED */
    bool says_returns;
    enum overflow overflow;
};

struct mortal_queue {
    bool is_quorum;
    unsigned priority_max;                 /* of a classic queue; 0: it has no priorities */
    struct rules own;                      /* by arguments */
    struct rules versions[VERSIONS_MAX];   /* of what acts, policies included */
    uint64_t retry_ms;                     /* by arguments: returned ones wait at least so long, */
    bool retries_failed, retries_returned; /* those that count, and the others */
    unsigned certain,
        latest;       /* one of these acts: the last that was answered, that was asked for */
    bool is_changing; /* somebody has asked for the latest, and may not be answered yet */
    bool clears;      /* it was asked for by clearing */
    bool has_policy;  /* by the certain one */
    unsigned unseen;  /* in this life: consumers that left, perhaps with messages on the way */
    bool is_there;    /* its declaration was answered */
    uint64_t late_ms, late_since_ms; /* what is next was due then, and seen to be so since */
};

/* One message on its way along the queues. */
struct fate {
    bool persistent, confirmed, refused, in_transaction;
    bool may_be_gone; /* it was accepted, or perhaps */
    bool leased, present_at_end;
    bool accepted, accepted_durable; /* accepted: not undone by a crash since */
    bool in_doubt;                   /* not seen since a transaction was to settle it */
    uint8_t queue;                   /* to which it was published */
    uint8_t since[MORTAL_QUEUES];    /* the first version of each queue that may act on it */
    uint8_t home;                    /* the shard to which it was published */
    uint8_t worker, shard;           /* where it was accepted last */
    uint32_t publisher, born;        /* born: the life */
    uint32_t size;
    uint64_t published_ms, lives_ms; /* lives_ms: its own; UNLIMITED: none */
    uint64_t waits_ms;               /* before it may be given out; then its life begins */
    bool was_put_off;                /* came back, and had to wait, perhaps in another life */
    uint64_t back_ms;                /* in the life `life`, at its step: not before */
    uint64_t leased_before;          /* the same of the lease it has */
    uint64_t accepted_before;        /* which ids were there then, all lower ones */
    uint64_t rejected;               /* a bit for each step at which it was */
    uint64_t rejected_now, seen_now; /* the same, in the life `life` */
    uint64_t seen_ever;              /* a bit for each step */
    uint32_t least;                  /* steps below are over for good */
    uint32_t life, step;             /* the last life in which something happened to it, and the
                                        last step there */
    uint64_t sequence;               /* of step 0, once it was seen there */
    int priority;                    /* or NO_PRIORITY */
    uint8_t returns[STEPS_MAX];      /* that count, and were asked for */
    uint8_t returns_now[STEPS_MAX];  /* of those, in the life `life` */
};

struct mourner {
    struct world *world;
    unsigned index, worker;
    uint32_t number;
    struct client *client;
    struct publisher *publisher;
    struct request request;
    uint8_t arguments[512];
    enum {
        MOURN_LOGIN,
        MOURN_ENTER,
        MOURN_DECLARE,
        MOURN_SUBSCRIBE,
        MOURN_GET,
        MOURN_TRANSACT,
        MOURN_MOVE,
        MOURN_POLICY
    } ask;
    bool busy, ready, leaving, is_open;
    enum flow flow;
    unsigned declared, asked_queue;
    struct consumer *consumer;
    unsigned consumer_queue;
    uint64_t consumer_last[LEVELS_MAX]; /* sequence, of what came to it for the first time */
    struct lease leases[HELDS_MAX];
    uint64_t ids[HELDS_MAX];
    uint32_t steps[HELDS_MAX];
    size_t held;
    uint64_t *window; /* publisher's sequence -> id */
    uint64_t sequence, confirmed;
    struct publish publishes[3];
    struct message *messages[3];
    uint64_t first;
    size_t publish_count;
    struct settlement settlements[IN_TX_MAX];
    uint64_t settled[IN_TX_MAX];
    uint32_t settled_steps[IN_TX_MAX];
    size_t settled_count;
};

struct mortals {
    struct world *world;
    uint64_t random_state; /* its own dice: the rest of the world is as without */
    struct mortal_queue queues[MORTAL_QUEUES];
    struct mourner mourners[MOURNERS];
    struct fate fates[FATES_MAX + 1];
    uint64_t count;
    bool has_policies;  /* which change while all goes on */
    bool has_moved;     /* in this life, perhaps */
    uint64_t latest_ms; /* of the wall clock, which goes on from life to life */
    uint64_t windows[MOURNERS][FATES_MAX + 1];
};

/* ---- mortal.c ---- */

extern const char *const mortal_names[MORTAL_QUEUES];

uint64_t mortal_dice(struct mortals *m, uint64_t sides);
/* Nobody but this mourner may have got messages of that queue that it has not seen. */
bool mortal_is_alone(const struct mourner *mourner, unsigned queue);
const struct catalog_queue *mortal_look(const struct mortals *m, unsigned worker, unsigned queue);

/* ---- rules.c ---- */

void rules_choose(struct mortals *m, unsigned queue);
struct slice rules_arguments(struct mourner *mourner, unsigned queue);

/* Asks for other rules by policy; false: not now. rules_changed(): it was answered. */
bool rules_change(struct mourner *mourner, unsigned queue, int *outcome);
void rules_changed(struct mourner *mourner, unsigned queue);
void rules_life_over(struct mortals *m);

/* The first version that may act now; that may have, on that message. */
unsigned rules_certain(const struct mortals *m, unsigned queue);
unsigned rules_since(const struct mortals *m, const struct fate *f, unsigned queue);

/* Of all versions from `first` on. */
uint64_t rules_least_lives(const struct mortals *m, unsigned queue, unsigned first);
uint64_t rules_most_lives(const struct mortals *m, unsigned queue, unsigned first);
uint64_t rules_least_returns(const struct mortals *m, unsigned queue, unsigned first);
uint64_t rules_most_returns(const struct mortals *m, unsigned queue, unsigned first);
bool rules_may_bury_refused(const struct mortals *m, unsigned queue, unsigned first);
unsigned rules_targets(const struct mortals *m, unsigned queue, unsigned first); /* bits */

/* With so many others and so many bytes; overflow: bits of those that are meant. */
bool rules_may_be_over(const struct mortals *m, unsigned queue, unsigned first, unsigned overflow,
                       uint64_t count, uint64_t bytes);

/* NULL: that is not certain. */
const struct rules *rules_now(const struct mortals *m, unsigned queue);

/* ---- fate.c ---- */

uint64_t fate_new(struct mourner *mourner, unsigned queue, bool persistent, uint64_t lives_ms,
                  uint64_t waits_ms);
struct message *fate_message(struct mourner *mourner, uint64_t id);

struct fate_sight {
    struct message *message;
    unsigned queue, shard;
    uint64_t sequence;
    uint32_t count, step;         /* step: out */
    bool redelivered, is_at_home; /* is_at_home: it comes from the queue without any detour */
    bool to_consumer;
};

/* The message's id. */
uint64_t fate_seen(struct mourner *mourner, struct fate_sight *sight);
void fate_settled(struct mourner *mourner, uint64_t id, uint32_t step, unsigned shard,
                  enum outcome outcome);
/* It was settled so in the queue of that name, which may put it off. */
void fate_returned(struct mourner *mourner, uint64_t id, const char *queue, enum outcome outcome);
/* In a transaction, which is not answered yet. */
void fate_may_settle(struct mourner *mourner, uint64_t id, uint32_t step, enum outcome outcome);
void fate_confirmed(struct mourner *mourner, uint64_t id, bool accepted);
/* It has happened: durably. */
void fate_done(struct mortals *m, uint64_t id, uint32_t step, enum outcome outcome);
void fates_life_over(struct mortals *m, bool clean);
void fates_judge(const struct mortals *m);

#endif
