/*
 * The catalog: virtual hosts, users, permissions, policies, exchanges, queues and bindings; one
 * worker's copy. It knows what there is and who may use it, not what is in it: the messages of a
 * queue are with the worker that hosts its shard (hosted.h).
 *
 * It changes through *events* alone. Each change is one event, which every worker applies to its
 * copy, in the same order; events of durable objects are logged before, and recovery applies them
 * again. Applying is idempotent ("put X as this", "drop X"), so a snapshot may be written while
 * events go on. Ids are 64-bit, of virtual hosts, policies, exchanges and queues together, and
 * never used again.
 *
 *   event   kind u8, then:
 *     NEXT_ID        id varint
 *     VHOST          id varint, name
 *     VHOST_DROP     id varint
 *     USER           name, hash, tags
 *     USER_DROP      name
 *     PERMISSION     user, vhost varint, configure, write, read
 *     PERMISSION_DROP user, vhost varint
 *     EXCHANGE       id varint, vhost varint, flags u8, type u8, name, arguments
 *     EXCHANGE_DROP  id varint
 *     QUEUE          id varint, vhost varint, shard varint, flags u8, name, arguments;
 *                    where the flags say exclusive: owner's worker varint, owner's client varint
 *     QUEUE_DROP     id varint
 *     QUEUE_MOVING   id varint, shard varint: it is on its way there; never in the log
 *     QUEUE_MOVED    id varint, shard varint: that shard has it
 *     QUEUE_STAYS    id varint, why varint: it is where it was, since -why; never in the log
 *     QUEUE_STRANDED id varint: the next start finds out where it is; never in the log
 *     BINDING        source varint, target varint, key, arguments
 *     BINDING_DROP   the same
 *     POLICY         id varint, vhost varint, kind u8, target u8, priority le64, name, pattern,
 *                    definition (policy.h)
 *     POLICY_DROP    id varint
 *   names and texts: size varint, bytes. flags: enum catalog_flag.
 *
 * The catalog owns all objects. A lease can outlive its queue: the object is freed with the last
 * reference, and everybody holding one knows that by `dropped`.
 */
#ifndef SLUICE_BROKER_CATALOG_H
#define SLUICE_BROKER_CATALOG_H

#include "base/map.h"
#include "broker/policy.h"
#include "route/route.h"

struct hosted;
struct move;
struct place;

#define CATALOG_SHARDS_MAX 65535u

enum catalog_event {
    CATALOG_NEXT_ID = 1,
    CATALOG_VHOST,
    CATALOG_VHOST_DROP,
    CATALOG_USER,
    CATALOG_USER_DROP,
    CATALOG_PERMISSION,
    CATALOG_PERMISSION_DROP,
    CATALOG_EXCHANGE,
    CATALOG_EXCHANGE_DROP,
    CATALOG_QUEUE,
    CATALOG_QUEUE_DROP,
    CATALOG_BINDING,
    CATALOG_BINDING_DROP,
    CATALOG_QUEUE_MOVING,
    CATALOG_QUEUE_MOVED,
    CATALOG_QUEUE_STAYS,
    CATALOG_QUEUE_STRANDED,
    CATALOG_POLICY,
    CATALOG_POLICY_DROP,
};

enum catalog_flag {
    CATALOG_DURABLE = 1,
    CATALOG_AUTO_DELETE = 2,
    CATALOG_INTERNAL = 4,
    CATALOG_PREDECLARED = 8,
    CATALOG_EXCLUSIVE = 16, /* lives as long as its connection, so it is never logged */
    CATALOG_HIDDEN = 32,    /* nobody chose its name, which is in no list */
    CATALOG_DELAYED = 64,   /* an exchange that was declared as one for messages that wait */
};

/* Is the object in the log? */
static inline bool catalog_is_logged(uint8_t flags)
{
    return (flags & CATALOG_DURABLE) && !(flags & CATALOG_EXCLUSIVE);
}

struct vhost {
    uint64_t id;
    char *name;
    struct map exchanges, queues; /* by name */
    struct catalog_exchange *default_exchange;
    uint64_t headers_bindings; /* while 0, routes depend on exchange and key alone */
    uint64_t binding_count;
    uint64_t alternates;                /* exchanges that name one */
    struct list policies[POLICY_KINDS]; /* by falling priority, then by name */
    uint32_t policy_count[POLICY_KINDS];
};

struct user {
    char *name, *hash, *tags; /* tags: separated by commas */
};

struct permission {
    char *key; /* user, 0, vhost id in decimal */
    struct user *user;
    struct vhost *vhost;
    struct pattern *configure, *write, *read;
};

struct catalog_exchange {
    uint64_t id;
    struct vhost *vhost;
    char *name;
    enum exchange_type type;
    uint8_t flags;
    uint8_t *arguments;
    size_t arguments_size;
    struct route_exchange *route;
    struct catalog_exchange *alternate; /* as far as it exists */
    char *alternate_name;               /* or NULL; by its arguments, or by the policy */
    struct policy *policy;              /* that applies to it, a reference, or NULL */
    bool had_bindings;
    uint64_t version; /* of the event that made it, see catalog.events */
};

/* A client anywhere in the process. Worker 0 is the first; client ids begin with 1. */
struct client_identity {
    uint32_t worker;
    uint64_t client; /* 0: nobody */
};

struct catalog_queue {
    uint64_t id;
    struct vhost *vhost;
    char *name;
    uint8_t flags;
    bool dropped;                 /* the catalog has forgotten it */
    uint32_t references;          /* the catalog's, of leases, of what hosts it */
    uint32_t shard;               /* whose log has its messages; from 1 */
    struct client_identity owner; /* of an exclusive queue */
    uint8_t *arguments;
    size_t arguments_size;
    struct queue_settings settings;        /* those that act: arguments and policies together */
    struct policy *policies[POLICY_KINDS]; /* that apply to it, references, or NULL */
    uint64_t version;                      /* of the event that made it, or that dropped it */

    /* The broker's (places.h): how to get at it from this worker. */
    struct place *place;    /* for what is published */
    struct place *home;     /* where its shard is: the same, but while it moves */
    struct move *move;      /* NULL: it does not (move.h) */
    uint32_t shard_logged;  /* 0, or what the log says already, while it waits for that */
    struct hosted *hosted;  /* NULL: another worker has it */
    struct list owner_link; /* on its owner's worker; dropped: in catalog.forgotten */
    struct list walk_link;  /* in catalog.queues */
};

/* Whoever gets a message of it is told how often that came back. */
static inline bool catalog_queue_tells_count(const struct catalog_queue *queue)
{
    return queue->settings.type == QUEUE_QUORUM;
}

struct catalog {
    struct map vhosts; /* by name */
    struct map vhosts_by_id;
    struct map users;
    struct map permissions; /* by user, 0, vhost id */
    struct map exchanges_by_id, queues_by_id, policies_by_id;
    struct catalog_queue **recent; /* queues that were looked up, by the end of their id */
    struct list forgotten;         /* dropped queues to which somebody still refers */
    struct list queues;            /* all, in the order in which they came */
    struct list walks;             /* those that are under way */
    struct route_table *routes;
    uint64_t next_id;
    uint64_t version;        /* grows with each change that may change a route or a permission */
    uint64_t people_version; /* grows with each change of users and permissions */
    uint64_t events; /* applied so far, as every worker counts them: what mail is stamped with */
    uint64_t seed;
    uint64_t unknown_records; /* events that speak of objects that are not there */

    /* NULL: nobody wants to know. A queue was put in, or taken out: its reference is still there,
     * and goes when the callee returns. */
    void (*queue_added)(void *context, struct catalog_queue *queue);
    void (*queue_dropped)(void *context, struct catalog_queue *queue);
    void (*binding_lost)(void *context, uint64_t exchange_id); /* this exchange, as source */

    /* Policies are others now: all queues and exchanges have to be looked at again, as soon as can
     * be (catalog_queue_refresh()). */
    void (*policies_changed)(void *context);

    /* It has come to another shard, which it names already. */
    void (*queue_moved)(void *context, struct catalog_queue *queue);

    /* Before the worker has started there are none: then the events make no sense. */
    void (*queue_moving)(void *context, struct catalog_queue *queue, uint32_t shard);
    void (*queue_stays)(void *context, struct catalog_queue *queue, int why);
    void (*queue_stranded)(void *context, struct catalog_queue *queue);
    void *context;
};

void catalog_init(struct catalog *catalog, uint64_t seed);

/* Frees everything, queues to which somebody still refers included. */
void catalog_fini(struct catalog *catalog);

/* What a virtual host, a user, an exchange or a queue may be called: 1 to 255 bytes, none of them 0
 * (so that a name is also a C string). */
bool catalog_name_is_valid(struct slice name);

/* ---- look-ups; NULL where there is none ---- */
struct vhost *catalog_vhost(const struct catalog *catalog, struct slice name);
struct user *catalog_user(const struct catalog *catalog, struct slice name);
struct permission *catalog_permission(const struct catalog *catalog, struct slice user,
                                      const struct vhost *vhost);
struct catalog_exchange *vhost_exchange(const struct vhost *vhost, struct slice name);
struct catalog_queue *vhost_queue(const struct vhost *vhost, struct slice name);
struct catalog_queue *catalog_queue_search(const struct catalog *catalog, uint64_t id);

#define CATALOG_RECENT 64u /* power of 2 */

/* Letters name their queues so: the last few are found at once. */
static inline struct catalog_queue *catalog_queue_by_id(const struct catalog *catalog, uint64_t id)
{
    struct catalog_queue *recent = catalog->recent[id % CATALOG_RECENT];

    return recent && recent->id == id ? recent : catalog_queue_search(catalog, id);
}

/* A walk over all queues in the order in which they came, over any number of turns. Those that come
 * meanwhile are not in it; those that go before it reaches them are left out. */
struct catalog_walk {
    struct list link;  /* catalog.walks */
    struct list *next; /* in catalog.queues */
    uint64_t until;    /* the newest event that counts */
};

void catalog_walk_begin(struct catalog *catalog, struct catalog_walk *walk);

/* NULL at the end. */
struct catalog_queue *catalog_walk_next(const struct catalog *catalog, struct catalog_walk *walk);

/* Each walk is ended, before the catalog is freed. */
void catalog_walk_end(struct catalog_walk *walk);

/* A simulated process has crashed: those who walk are freed without a word. */
void catalog_walks_abandon(struct catalog *catalog);

static inline void catalog_queue_ref(struct catalog_queue *queue)
{
    queue->references++;
}

/* Frees it with the last. */
void catalog_queue_unref(struct catalog_queue *queue);

static inline struct slice exchange_arguments(const struct catalog_exchange *exchange)
{
    return slice_of(exchange->arguments, exchange->arguments_size);
}

static inline struct slice queue_arguments(const struct catalog_queue *queue)
{
    return slice_of(queue->arguments, queue->arguments_size);
}

/* ---- policies (catalog_policy.c) ---- */

struct policy *vhost_policy(const struct vhost *vhost, enum policy_kind kind, struct slice name);

/* Takes the policy, in place of the one of its name. */
void catalog_put_policy(struct catalog *catalog, struct policy *policy);
void catalog_drop_policy(struct catalog *catalog, struct policy *policy);

/* Finds out again which policies apply to it, and what acts of them. What is new has been through
 * this. */
void catalog_queue_refresh(struct catalog_queue *queue);
void catalog_exchange_refresh(struct catalog *catalog, struct catalog_exchange *exchange);

/* ---- events: encode into a writer, apply from bytes ---- */

void catalog_encode_next_id(struct writer *w, uint64_t id);
void catalog_encode_vhost(struct writer *w, uint64_t id, struct slice name);
void catalog_encode_user(struct writer *w, struct slice name, struct slice hash, struct slice tags);
void catalog_encode_permission(struct writer *w, struct slice user, uint64_t vhost,
                               struct slice configure, struct slice write, struct slice read);

struct exchange_event {
    uint64_t id, vhost;
    uint8_t flags;
    enum exchange_type type;
    struct slice name, arguments;
};
void catalog_encode_exchange(struct writer *w, const struct exchange_event *event);
int catalog_decode_exchange(struct slice bytes, struct exchange_event *event) MUST_CHECK;

struct queue_event {
    uint64_t id, vhost;
    uint32_t shard;
    uint8_t flags;
    struct client_identity owner; /* written where the flags say exclusive */
    struct slice name, arguments;
};
void catalog_encode_queue(struct writer *w, const struct queue_event *event);
int catalog_decode_queue(struct slice bytes, struct queue_event *event) MUST_CHECK;
void catalog_encode_drop(struct writer *w, enum catalog_event kind, uint64_t id);

void catalog_encode_policy(struct writer *w, const struct policy_event *event);
int catalog_decode_policy(struct slice bytes, struct policy_event *event) MUST_CHECK;

/* MOVING, MOVED: a shard; STAYS: why, as a positive number; STRANDED: 0. */
void catalog_encode_move(struct writer *w, enum catalog_event kind, uint64_t id, uint32_t what);
void catalog_encode_binding(struct writer *w, enum catalog_event kind, uint64_t source,
                            uint64_t target, struct slice key, struct slice arguments);

/* E_CORRUPT: no event, or one with parts that cannot be. Speaking of what is not there is no error
 * (it is counted): the snapshot may have been written after a drop. */
int catalog_apply(struct catalog *catalog, struct slice event) MUST_CHECK;

/* Steps through everything as events, durable objects only. Start with a zeroed cursor; fills
 * `bytes` and returns the size, 0 at the end. The catalog must not change during one step, and may
 * between steps. */
struct catalog_cursor {
    unsigned stage;
    uint64_t *ids;
    uint64_t people_version;
    size_t count, at;
    size_t position;
};
size_t catalog_snapshot_next(const struct catalog *catalog, struct catalog_cursor *cursor,
                             uint8_t *bytes, size_t size);
void catalog_snapshot_end(struct catalog_cursor *cursor);

#endif
