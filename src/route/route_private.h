/*
 * Insides of route/: how a table keeps exchanges, bindings and targets, and what an exchange type
 * is.
 *
 *   table ── exchanges by id ── slots: its bindings in the order they were made
 *     │                     └── the type's index: sets of bindings, by key, by trie node, ...
 *     ├── bindings by identity (source, target, hash of arguments, key), chained where equal
 *     └── targets by id ── list of the bindings that lead there
 *
 * A binding is in one slot, in one chain, in one target's list and in exactly one set of its
 * exchange's index. Matching reads only sets and targets.
 */
#ifndef SLUICE_ROUTE_PRIVATE_H
#define SLUICE_ROUTE_PRIVATE_H

#include "base/list.h"
#include "base/map.h"
#include "message/fields.h"
#include "route/route.h"

#define IDENTITY_SIZE 24u /* three numbers of 8 bytes in front of the key */

/* Where bindings lead to: a queue or an exchange that at least one binding of the table names. */
struct target {
    struct route_target is;
    struct list bindings; /* struct binding.by_target */
    uint64_t stamp;       /* of the last result that has it */
};

struct binding {
    struct route_exchange *source;
    struct target *target;
    struct list by_target;
    struct binding *next_equal; /* same identity, other arguments */
    size_t slot;                /* in source->slots */
    void *place;                /* whose set it is in: the index's */
    void *compiled;             /* the index's */
    uint32_t set_index;         /* in that set */
    uint32_t arguments_size;
    uint16_t key_size;
    uint8_t bytes[]; /* identity, key, arguments */
};

static inline struct slice binding_identity(const struct binding *b)
{
    return slice_of(b->bytes, IDENTITY_SIZE + b->key_size);
}

static inline struct slice binding_key(const struct binding *b)
{
    return slice_of(b->bytes + IDENTITY_SIZE, b->key_size);
}

static inline struct slice binding_arguments(const struct binding *b)
{
    return slice_of(b->bytes + IDENTITY_SIZE + b->key_size, b->arguments_size);
}

/* ---- sets of bindings: what a key or a pattern leads to ---- */

struct binding_set {
    struct set_entry {
        struct target *target; /* beside the binding, so that matching touches no binding */
        struct binding *binding;
    } * entries;
    uint32_t count, capacity;
};

void binding_set_fini(struct binding_set *set);
void binding_set_add(struct binding_set *set, struct binding *binding);
void binding_set_remove(struct binding_set *set, struct binding *binding);
void binding_set_check(const struct binding_set *set, const struct route_exchange *exchange);

/* All bindings of which the exchange is the source. */
void route_remove_source(struct route_exchange *exchange);

/* ---- exchanges ---- */

struct direct_index {
    struct map buckets;          /* by key */
    struct direct_bucket *empty; /* the bucket of the empty key, which no map can hold */
};

struct topic_index {
    struct topic_node *root;
    struct map words; /* (node, word) -> node */
    struct list nodes;
    uint64_t node_id_last;
    uint64_t step; /* one for each word of each match: stamps the nodes that are active there */
};

struct headers_index {
    struct binding_set all;
    struct map names; /* the header names that bindings ask for */
};

struct route_exchange {
    uint64_t id;
    struct route_table *table;
    const struct exchange_functions *functions;
    struct route_exchange *alternate;
    struct list alternate_link;  /* in alternate->alternate_users */
    struct list alternate_users; /* exchanges whose alternate this is */
    struct binding **slots;      /* in the order they were made, NULL where one was removed */
    size_t slot_count, slot_capacity, binding_count;
    struct route_exchange *work_next;
    uint64_t visited; /* the last match that came by */
    union {
        struct direct_index direct;
        struct binding_set fanout;
        struct topic_index topic;
        struct headers_index headers;
    } index;
};

struct route_table {
    struct map exchanges;  /* by id */
    struct map targets;    /* by id */
    struct map identities; /* first binding of a chain */
    uint64_t seed;
    uint64_t result_stamp, match_stamp;
};

/* ---- matching ---- */

struct match {
    struct route_result *result;
    struct route_exchange *work; /* exchanges still to be followed */
    struct slice headers;
    uint64_t stamp; /* of this match: an exchange is followed once */
    bool hit;       /* the exchange at hand gave something */
};

void match_target(struct match *match, struct target *target);

static inline void match_set(struct match *match, const struct binding_set *set)
{
    for (uint32_t i = 0; i < set->count; i++)
        match_target(match, set->entries[i].target);
}

/* ---- exchange types ---- */

struct exchange_functions {
    const char *name;
    bool by_key; /* does the routing key matter? */
    void (*init)(struct route_exchange *exchange);
    void (*fini)(struct route_exchange *exchange); /* it has no bindings any more */
    void (*add)(struct route_exchange *exchange, struct binding *binding);
    void (*remove)(struct route_exchange *exchange, struct binding *binding);
    void (*match)(struct route_exchange *exchange, struct slice key, struct match *match);
    /* May be NULL: any binding will do. */
    int (*accept)(struct slice key, struct slice arguments, struct failure *failure);
    /* Walks the index and returns how many bindings are in it. */
    size_t (*check)(const struct route_exchange *exchange);
};

extern const struct exchange_functions direct_functions, fanout_functions, topic_functions,
    headers_functions;

#endif
