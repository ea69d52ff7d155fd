/*
 * All that a protocol may call. Neutral words; each protocol maps its own onto them.
 *
 * A session opens a *client*: its standing with the broker (who, from where, which virtual host,
 * what it holds). Calls that may take longer get a `struct request` that the session embeds and
 * keeps still until it is complete:
 *
 *     int outcome = broker_declare_queue(client, request, &spec);
 *     DONE     request->failure.code is 0 or an error, request->result is filled in
 *     PENDING  the same, but only when events->completed(session, request) is called, in a later
 * turn, exactly once
 *
 * Errors come in request->failure, never as the return value of these calls. Test builds turn DONE
 * into PENDING at random. A request that depends on an earlier one waits for it; the session
 * arranges that, by parking the input of its channel. Events are never called from inside a call
 * that this session is making.
 *
 * Slices given to a call are borrowed until it is complete for requests, until it returns for the
 * rest. Names are bytes, at most 255, checked to be UTF-8 by the protocol.
 *
 * Memory: `struct client` belongs to the broker, from client_open() to client_close(). Handles
 * (struct catalog_queue, struct consumer) belong to the broker; a lease or a consumer keeps its
 * queue alive as memory, even when it is deleted: then settling does nothing.
 */
#ifndef SLUICE_BROKER_BROKER_H
#define SLUICE_BROKER_BROKER_H

#include "loop/loop.h"
#include "message/filter.h"
#include "message/message.h"

struct worker;
struct client;
struct catalog_queue;
struct consumer;
struct publisher;
struct request;

#define NAME_MAX_BYTES 255u

/* ---- what a session is told ---- */

/* A message that was given out and is not settled. Holds a reference on the queue's memory until
 * settled. */
struct lease {
    struct catalog_queue *queue;
    uint64_t sequence;
};

struct delivery {
    struct message
        *message;       /* borrowed, or lent: to keep it, or its body, is to take a reference */
    struct lease lease; /* the session's to settle, unless the consumer settles automatically */
    bool redelivered;   /* was given out before, or may have been */
    bool tells_count;   /* its queue is of a kind that lets clients know */
    uint32_t count;     /* how often it came back in a way that counts */
};

enum flow {
    FLOW_OPEN,   /* publish on */
    FLOW_BUSY,   /* out of credit for a moment: stop reading; nobody need be told */
    FLOW_MEMORY, /* the memory watermark is passed */
    FLOW_DISK,   /* the disk watermark is passed, or storage has failed */
};

struct client_events {
    void (*completed)(void *session, struct request *request);

    /* 0: taken (with its lease). E_ROOM: not now; the consumer gets nothing more until
     * broker_resume(). */
    int (*deliver)(void *session, void *cookie, const struct delivery *delivery);

    /* Of the publisher's sequence, all up to `last` that were not told yet: on disk if they are to
     * be, or refused. */
    void (*confirmed)(void *session, void *cookie, uint64_t last, bool accepted);

    /* The broker has ended the consumer (its queue is gone): the handle is invalid now. Leases
     * stay. */
    void (*cancelled)(void *session, void *cookie);

    /* May this client publish? Told only to clients that have asked by publishing. */
    void (*flow)(void *session, enum flow flow);

    /* Close this connection in your protocol's way, with this reason. */
    void (*kick)(void *session, const char *reason);
};

/* ---- requests ---- */

struct queue_counts {
    uint64_t ready, leased;
    uint32_t consumers;
    uint64_t delayed; /* wait for their time, and are none of the others */
};

struct request {
    struct failure failure; /* code 0: done as asked */
    union {
        struct {
            char name[NAME_MAX_BYTES + 1]; /* declare: the name, also if the broker chose it */
            struct queue_counts counts; /* declare, delete, purge: `ready` is how many there were */
        } queue;
        struct {
            struct delivery
                delivery;   /* get: message NULL when there was none; a reference for the session */
            uint64_t ready; /* what is left */
        } get;
        struct consumer *consumer; /* subscribe */
        struct {
            bool was_there; /* set: in place of one of that name */
        } policy;
        uint64_t redrive; /* its id */
    } result;

    /* The broker's from here. */
    struct client *client;
    struct list link;
    struct mark {
        struct line *line; /* NULL: nothing to wait for */
        uint64_t number;
    } waits[2]; /* before it is complete, one after the other */
    /* The step after that (which looks at the failure first), or NULL: DONE, and the request goes
     * on to its marks and next step, or PENDING, and somebody calls request_go_on(). */
    int (*next)(struct request *request);
    /* A slice of work that is proportional to a count, while it is a job; true: done with it. It
     * may take the request off the list of jobs, where something else will go on with it. */
    bool (*slice)(struct request *request);
    bool is_get;                     /* its result may hold a lease, */
    bool settles_itself;             /* unless it is settled already */
    uint32_t peer;                   /* of what it speaks of, where that is elsewhere, */
    uint64_t number;                 /* and which one there */
    uint32_t awaited;                /* answers that are to come, where several are asked */
    void *target;                    /* memory of the caller's that the answers go to */
    void *internal;                  /* memory; free() is enough when all is given up */
    struct transaction *transaction; /* while it is collected */
};

/* ---- clients ---- */

struct client_options {
    const struct client_events *events;
    void *session;
    const char *protocol;
    const char *peer_host;
    uint16_t peer_port;
    bool peer_is_loopback;
    bool is_operator; /* it looks and commands, and carries no messages: not counted as a
                         connection, so that those who come to look are never too many */
};

/* NULL: refused (E_LIMIT connections, or the broker is stopping), with the reason. */
struct client *client_open(struct worker *worker, const struct client_options *options,
                           struct failure *failure);

/* No more events after this. Unsubscribes, drops exclusive queues; requests that are pending
 * complete into nothing: the session stays in memory until client_idle(). Leases must have been
 * settled before. Idempotent. */
void client_close(struct client *client);
bool client_idle(const struct client *client);
void client_free(struct client *client);

/* A simulated crash, of a client that was closed and has requests pending still: before its worker
 * is abandoned (worker.h), which takes all other clients with it. */
void client_abandon(struct client *client);

/* Name and password; checked in a helper. E_LOGIN; the text says why, for the log, not for the
 * peer. */
int broker_login(struct client *client, struct request *request, struct slice user,
                 struct slice password);

/* After login. E_NOT_FOUND: no such virtual host; E_DENIED: not for this user; E_LIMIT. */
int broker_enter(struct client *client, struct request *request, struct slice vhost);

struct slice client_user(const struct client *client);
bool client_may_impersonate(const struct client *client);

/* What the user is called besides the name ("administrator", ...), separated by commas. */
const char *client_tags(const struct client *client);
bool client_has_tag(const struct client *client, const char *tag);

/* The account for bytes that this session holds: unfinished bodies, parked input. */
struct account *client_account(struct client *client);

/* For messages: charged to the worker's memory, which the watermark looks at. */
struct account *broker_message_account(struct client *client);

struct worker *client_worker(const struct client *client);
struct loop *worker_loop(const struct worker *worker);
const struct logger *worker_logger(const struct worker *worker);

/* Limits and words that the configuration sets and protocols ask for. */
struct broker_settings {
    uint32_t frame_max;                 /* 131072 */
    uint32_t channel_max;               /* 2047 */
    uint32_t heartbeat_s;               /* 60 */
    uint32_t handshake_ms;              /* 10000 */
    uint64_t message_size_max;          /* 16 MiB */
    uint32_t consumers_per_channel_max; /* 0: no limit */
    char product_name[64];              /* RabbitMQ */
    char product_version[32];           /* clients look at it to know what they may use */
    char cluster_name[256];
    char node_name[256];
    char default_vhost[256];
};
const struct broker_settings *worker_settings(const struct worker *worker);

/* ---- looking: what there is, and how it is ---- */

/* A walk over queues, page by page, over any number of turns: each page shows how its queues are
 * now, wherever they live. Users with the tag administrator or monitoring see every virtual host,
 * others those that they may enter. What comes after the walk has begun is not in it. */
struct listing;

#define LISTING_PAGE 32u

struct queue_facts {
    struct slice name, vhost, arguments;  /* borrowed until the next page */
    struct slice policy, operator_policy; /* those that apply to it; empty: none; likewise */
    struct slice policy_definition; /* of both together; borrowed until the next of the page */
    const char *type;               /* "classic" */
    bool durable, auto_delete, exclusive;
    uint32_t shard, worker; /* worker: from 0 */
    bool has_counts;        /* false: it is on its way from one worker to another */
    struct queue_counts counts;
};

/* After login. Empty: all virtual hosts. NULL with E_NOT_FOUND (virtual host), E_DENIED. */
struct listing *listing_open(struct client *client, struct slice vhost,
                             struct failure *failure) MUST_CHECK;

/* The walk of one queue. Also E_NOT_FOUND: no such queue. */
struct listing *listing_open_queue(struct client *client, struct slice vhost, struct slice name,
                                   struct failure *failure) MUST_CHECK;

/* Its requests must be complete, or the client idle; before client_free(). */
void listing_close(struct listing *listing);

/* The next page. It may be empty before the end: ask again, in a later turn. */
int listing_next(struct listing *listing, struct request *request);
size_t listing_count(const struct listing *listing);
/* false: it has been deleted meanwhile. */
bool listing_queue(struct listing *listing, size_t index, struct queue_facts *facts) MUST_CHECK;

/* There is no page after this one. */
bool listing_is_over(const struct listing *listing);

/* ---- browsing: messages of a queue, without touching them ---- */

/* A walk over a queue's messages, page by page, over any number of turns, wherever the queue lives:
 * each page shows them as they are now, in the order of their sequence. What was given out, is read
 * back from the log, or dies, does so as if nobody had looked. */
struct browsing;

#define BROWSE_PAGE       64u        /* messages of a page */
#define BROWSE_PAGE_BYTES (1u << 20) /* of messages: beyond it the page is full */
#define BROWSE_LOOK_MAX   4096u      /* messages looked at for a page, whatever the filter hits */

struct browse_spec {
    struct slice queue;
    uint64_t from;      /* sequence of the first that is looked at; 0: from the head */
    bool delayed;       /* which ones: that wait for their time, */
    bool ready, leased; /* or these; a lease is a consumer's, or a transaction's that is being
                           committed, or that of a message that has died and is being buried */
    struct message_filter filter; /* conditions: not checked yet; copied */
};

struct browsed {
    struct message *message; /* borrowed until the next page */
    uint64_t sequence;
    bool is_leased, redelivered; /* redelivered: was given out before, or may have been */
    uint32_t count;              /* how often it came back in a way that counts */
    uint64_t due_ms;             /* it is delayed until then; 0: it is not */
};

/* Needs the permission to read the queue. NULL with E_NOT_FOUND, E_LOCKED, E_DENIED, E_INVALID and
 * E_LIMIT (the conditions). */
struct browsing *browsing_open(struct client *client, const struct browse_spec *spec,
                               struct failure *failure) MUST_CHECK;

/* Its requests must be complete, or the client idle; before client_free(). */
void browsing_close(struct browsing *browsing);

/* The next page, of at most `limit`. It may be empty before the end: ask again, in a later turn.
 * E_NOT_FOUND: the queue has been deleted; E_IO, E_MEMORY, E_FAILED. */
int browsing_next(struct browsing *browsing, struct request *request, uint32_t limit);
size_t browsing_count(const struct browsing *browsing);
const struct browsed *browsing_message(const struct browsing *browsing, size_t index);

/* Where the next page begins, in this walk or a later one; there is none when the walk is over. */
uint64_t browsing_cursor(const struct browsing *browsing);
bool browsing_is_over(const struct browsing *browsing);

/* How many were passed over, because the log cannot read them. */
uint64_t browsing_unreadable(const struct browsing *browsing);

/* ---- numbers ---- */

/* One worker's numbers. Those that only grow do so from the start of the process. */
#define REPORT_KEYS_MAX 16u

struct worker_report {
    uint64_t turns;        /* of its loop */
    uint64_t turns_long;   /* of those, longer than TURN_LONG_NS */
    uint64_t turns_ns;     /* spent in them, waiting apart */
    uint64_t turn_ns_max;  /* the longest */
    uint64_t letters_sent; /* to other workers */
    uint64_t parcels_sent; /* in so many hand-overs */
    uint64_t mail_bytes;   /* sent */
    uint64_t wakes;        /* of other workers that slept */
    uint64_t connections;  /* there are */
    uint64_t opened, closed;
    uint64_t queues, consumers, messages_ready, messages_leased; /* of those that live here */
    uint64_t messages_delayed;                                   /* likewise */
    uint64_t published;                                          /* by its clients, and taken */
    uint64_t delivered;                                          /* to its clients */
    uint64_t memory_bytes, message_bytes;                        /* charged to accounts */
    uint64_t disk_free_bytes;                                    /* where its first shard is */
    enum flow flow;
    struct {
        uint64_t shards, failed_shards;
        uint64_t syncs, sync_ns, sync_ns_max;
        uint64_t blocks, bytes_written, unsynced_bytes;
        uint64_t segments, segment_bytes, segments_removed;
        uint64_t checkpoints, bytes_read, write_failures, corrupt_reads;
        uint64_t encrypted_segments, encrypted_bytes, plain_segments, plain_bytes;
        uint64_t keys_behind;                  /* segments whose keys an older master key wraps */
        uint32_t master_key;                   /* id of that of new segments; 0: there is none */
        uint32_t keys_needed[REPORT_KEYS_MAX]; /* ids of those that may not be thrown away */
        uint32_t keys_needed_count;
    } log; /* of its shards together */
};

/* Adds keys that are needed elsewhere to those that are needed. */
static inline void worker_report_add_keys(struct worker_report *report, const uint32_t *ids,
                                          uint32_t count)
{
    uint32_t *needed = report->log.keys_needed;

    for (uint32_t i = 0; i < count; i++) {
        uint32_t at = 0;
        while (at < report->log.keys_needed_count && needed[at] != ids[i])
            at++;
        if (at == report->log.keys_needed_count && at < REPORT_KEYS_MAX)
            needed[report->log.keys_needed_count++] = ids[i];
    }
}

unsigned worker_of_how_many(const struct worker *worker);

/* Of all workers, in an array of worker_of_how_many() that stays until the request is complete.
 * Needs no login: these are numbers without names, and whoever serves them decides for whom. */
int broker_report(struct client *client, struct request *request, struct worker_report *reports);

/* What there is in all virtual hosts together. */
struct catalog_counts {
    uint64_t vhosts, exchanges, queues, users;
};
void broker_catalog_counts(const struct client *client, struct catalog_counts *counts);

/* ---- redrive: messages go back to where they died, or elsewhere ---- */

/* A job of the worker that has the queue (redrive.h): over its ready messages as they are when it
 * begins, in their order, each one moved by a transaction of its own. */
enum redrive_to {
    REDRIVE_TO_ORIGIN, /* the queue in which a dead letter died first, directly; what never died
                          stays, and what died in a queue that is gone */
    REDRIVE_TO_QUEUE,  /* directly, whatever died or not */
    REDRIVE_TO_EXCHANGE,
};

struct redrive_spec {
    struct slice queue;
    enum redrive_to to;
    struct slice target; /* the queue, or exchange */
    struct slice key;    /* to the exchange; data NULL: that with which it was published at first */
    struct message_filter filter; /* conditions: not checked yet; copied */
    uint64_t limit;               /* messages at the most; 0: all */
    uint32_t rate;                /* a second; 0: as it can be done */
    bool is_preview;              /* only counts */
};

enum redrive_state { REDRIVE_RUNS, REDRIVE_DONE, REDRIVE_CANCELLED, REDRIVE_FAILED };

#define REDRIVE_TARGETS_MAX 16u

struct redrive_facts {
    uint64_t id;
    uint32_t worker;
    enum redrive_to to;
    char vhost[NAME_MAX_BYTES + 1], queue[NAME_MAX_BYTES + 1];
    char target[NAME_MAX_BYTES + 1], key[NAME_MAX_BYTES + 1];
    bool has_key, is_preview;
    enum redrive_state state;
    uint32_t rate;
    uint64_t limit;
    uint64_t started_ms, ended_ms;  /* wall clock; 0: not yet */
    uint64_t total;                 /* ready messages when it began; of these it has */
    uint64_t looked;                /* at so many, of which */
    uint64_t skipped;               /* fit the filter, and have nowhere to go */
    uint64_t matched;               /* are to be moved, or would be; */
    uint64_t moved, refused;        /* and those are. What is refused stays where it was */
    char problem[FAILURE_TEXT_MAX]; /* the latest; or empty */
    uint32_t target_count;
    struct {
        char name[NAME_MAX_BYTES + 1];
        uint64_t matched, moved;
    } targets[REDRIVE_TARGETS_MAX]; /* the last one stands for all further */
};

/* Begins one; completes when it is begun, with its id. Needs the permission to read the queue, and
 * to write to the default exchange, or to the exchange that it is to go to. E_NOT_FOUND, E_LOCKED,
 * E_DENIED, E_INVALID, E_LIMIT, E_CLOSED. */
int broker_redrive(struct client *client, struct request *request, const struct redrive_spec *spec);

/* Those that are under way, or over and not forgotten yet, of all workers; by growing id. Users see
 * those of virtual hosts that they see. A restart forgets all of them. */
struct redrives;
struct redrives *redrives_open(struct client *client);
void redrives_close(struct redrives *redrives); /* as browsing_close() */
int redrives_ask(struct redrives *redrives, struct request *request);
size_t redrives_count(const struct redrives *redrives);
const struct redrive_facts *redrives_at(const struct redrives *redrives, size_t index);

/* One that is under way moves no more; one that is over is forgotten. The client has entered its
 * virtual host, and may read its queue. E_NOT_FOUND, E_DENIED. */
int broker_redrive_stop(struct client *client, struct request *request,
                        const struct redrive_facts *facts);

/* ---- exchanges, queues, bindings; permissions are checked here ---- */

struct exchange_spec {
    struct slice name, type; /* "direct", ... */
    bool passive;            /* only ask whether it exists: E_NOT_FOUND */
    bool durable, auto_delete, internal;
    struct slice arguments; /* checked table */
};

/* E_MISMATCH, E_DENIED (also reserved names), E_UNSUPPORTED (type), E_INVALID (arguments). */
int broker_declare_exchange(struct client *client, struct request *request,
                            const struct exchange_spec *spec);

/* E_NOT_FOUND never: deleting what is not there is done. E_IN_USE, E_DENIED. */
int broker_delete_exchange(struct client *client, struct request *request, struct slice name,
                           bool if_unused);

struct queue_spec {
    struct slice name; /* empty: the broker chooses, "amq.gen-..." */
    bool passive;
    bool durable, exclusive, auto_delete;
    bool hidden; /* no name anybody chose, no permissions, not listed: for replies; exclusive */
    struct slice arguments;
};

/* E_NOT_FOUND (passive), E_MISMATCH, E_LOCKED (another connection's), E_DENIED, E_INVALID. */
int broker_declare_queue(struct client *client, struct request *request,
                         const struct queue_spec *spec);
int broker_delete_queue(struct client *client, struct request *request, struct slice name,
                        bool if_unused, bool if_empty);
int broker_purge_queue(struct client *client, struct request *request, struct slice name);

/* ---- policies: settings for all queues and exchanges whose names match ---- */

struct policy_spec {
    struct slice vhost, name;
    bool is_operator;
    struct slice pattern;    /* a regular expression */
    struct slice apply_to;   /* "all", "queues", ... */
    int64_t priority;        /* the highest of those that match acts */
    struct slice definition; /* a table: message/fields.h */
};

/* Completes when it is durable and acts on all that it concerns, everywhere; then
 * result.policy.was_there tells whether there was one of that name. For administrators, and for
 * policymakers unless it is an operator's. E_INVALID, E_DENIED, E_NOT_FOUND (virtual host), E_LIMIT
 * (too many), E_FULL, E_FAILED. */
int broker_set_policy(struct client *client, struct request *request,
                      const struct policy_spec *spec);

/* The same; E_NOT_FOUND: there is none of that name. */
int broker_clear_policy(struct client *client, struct request *request, struct slice vhost,
                        bool is_operator, struct slice name);

struct policy_facts { /* borrowed until the broker is called again */
    struct slice vhost, name, pattern, definition;
    const char *apply_to;
    int64_t priority;
};

/* For those who may set it. E_NOT_FOUND, E_DENIED. */
int broker_find_policy(struct client *client, struct slice vhost, bool is_operator,
                       struct slice name, struct policy_facts *facts,
                       struct failure *failure) MUST_CHECK;

/* Those that there are, over any number of turns, in each virtual host by falling priority. After
 * login. Empty: all virtual hosts that the user sees. NULL with E_NOT_FOUND (virtual host),
 * E_DENIED. */
struct policy_list *policy_list_open(struct client *client, struct slice vhost, bool is_operator,
                                     struct failure *failure) MUST_CHECK;

/* false: there is none left. */
bool policy_list_next(struct policy_list *list, struct policy_facts *facts) MUST_CHECK;
void policy_list_close(struct policy_list *list);

struct binding_spec {
    struct slice source;      /* exchange */
    struct slice destination; /* queue, or exchange */
    bool to_exchange;
    struct slice key, arguments;
};

/* The queue moves to another shard of this process: with its messages, leases and consumers; what
 * is published to it meanwhile waits. Needs the tag administrator. Completes when the move is
 * durable and known to all workers. E_NOT_FOUND (queue, shard), E_DENIED, E_UNSUPPORTED (exclusive
 * and hidden queues), E_IN_USE (it moves already, or a transaction holds on to it: try again),
 * E_FULL, E_FAILED, E_TIMEOUT, E_CLOSED (the broker is stopping). */
int broker_move_queue(struct client *client, struct request *request, struct slice name,
                      uint32_t shard);

/* Moves queues one after the other from the shards with most to those with fewest, until the counts
 * differ by at most one. Needs the tag administrator. Completes when begun, or when it is at it
 * already; what comes of it is in the log. E_DENIED. */
int broker_rebalance(struct client *client, struct request *request);

int broker_bind(struct client *client, struct request *request, const struct binding_spec *spec);
int broker_unbind(struct client *client, struct request *request, const struct binding_spec *spec);

/* ---- publishing ---- */

#define PUBLISH_KEYS_MAX 1024u

struct publish {
    struct message *message;       /* borrowed; its exchange and key say where it goes */
    const struct slice *more_keys; /* further keys to route by (carbon copies) */
    size_t more_keys_count;
    struct publisher *publisher; /* NULL: nobody wants to know */
    size_t queues;               /* out: how many took it; 0: nobody would */
    struct failure failure;      /* out */

    /* The broker's own: not to this queue, wherever the routes lead. NULL: to all. */
    bool (*may_go_to)(const struct publish *publish, const struct catalog_queue *queue);
    struct catalog_queue *only; /* to this queue, whatever its exchange and key say; or NULL */
    bool must_be_taken;         /* in a transaction: which fails (E_NOT_FOUND, E_LIMIT) if nobody
                                   wants it, or a queue that it goes to cannot take it */
};

/* Routes and enqueues now; never pending. 0 or the failure's code: E_NOT_FOUND (exchange),
 * E_DENIED, E_FAILED, E_FULL. With a publisher, events->confirmed follows for its sequence in any
 * case but an error. */
int broker_publish(struct client *client, struct publish *publish) MUST_CHECK;

/* Ask after each publish; not FLOW_OPEN: stop reading until events->flow says FLOW_OPEN. */
enum flow broker_flow(struct client *client);

/* A sequence of publishes (1, 2, ...) that wants confirms. Confirms come in order. */
struct publisher *publisher_open(struct client *client, void *cookie);
void publisher_close(struct publisher *publisher);

/* ---- consuming ---- */

#define CREDIT_UNLIMITED UINT32_MAX

struct subscribe_spec {
    struct slice queue;
    void *cookie;
    struct slice tag;         /* for lists */
    bool settles_itself;      /* delivered is settled */
    bool exclusive;           /* nobody else may consume */
    uint32_t credit_messages; /* or CREDIT_UNLIMITED */
    uint64_t credit_bytes;
    struct slice arguments;
};

/* E_NOT_FOUND, E_LOCKED (another's exclusive queue), E_DENIED (exclusive consumers, permissions),
 * E_INVALID. */
int broker_subscribe(struct client *client, struct request *request,
                     const struct subscribe_spec *spec);

/* No delivery after this; the handle is invalid. Leases stay. */
void broker_unsubscribe(struct consumer *consumer);

/* More credit. Nothing is delivered from inside this call. */
void broker_credit(struct consumer *consumer, uint32_t messages, uint64_t bytes);

/* After E_ROOM: try again. */
void broker_resume(struct consumer *consumer);

/* One message, if there is one. E_NOT_FOUND, E_LOCKED, E_DENIED. */
int broker_get(struct client *client, struct request *request, struct slice queue,
               bool settles_itself);

enum outcome {
    OUTCOME_ACCEPT,         /* done with */
    OUTCOME_REJECT,         /* not wanted: dead letter or drop */
    OUTCOME_RETURN,         /* back to the queue, where it was, marked as redelivered */
    OUTCOME_RETURN_COUNTED, /* the same, and it counts against the delivery limit */
    OUTCOME_RETURN_UNSEEN,  /* the same, but the session knows nobody saw it: the mark stays as it
                               was */
    OUTCOME_BURIED,         /* the broker's own: it had died, and is a dead letter elsewhere */
};

/* Takes the leases. Sliced by the session: at most SETTLE_SLICE in one call. */
#define SETTLE_SLICE 1024u
void broker_settle(struct client *client, const struct lease *leases, size_t count,
                   enum outcome outcome);

/* ---- transactions: publishes and settlements that happen together or not at all ---- */

struct settlement {
    struct lease lease; /* taken, also on failure */
    enum outcome outcome;
};

/* Completes when all is durable. E_LIMIT: too large; a publish that cannot be done (E_NOT_FOUND,
 * E_DENIED) is to have been found when it was made, with broker_check_publish().
 * publishes[i].queues is filled in. */
int broker_transact(struct client *client, struct request *request, struct publish *publishes,
                    size_t publish_count, const struct settlement *settlements,
                    size_t settlement_count);

/* Everything broker_publish() would refuse, without doing it. */
int broker_check_publish(struct client *client, const struct message *message,
                         struct failure *failure) MUST_CHECK;

#endif
