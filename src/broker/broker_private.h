/* What the files of this folder share. */
#ifndef SLUICE_BROKER_BROKER_PRIVATE_H
#define SLUICE_BROKER_BROKER_PRIVATE_H

#include "auth/remembered.h"
#include "base/assert.h"
#include "base/memory.h"
#include "base/ring.h"
#include "broker/places.h"
#include "broker/worker.h"

struct worker {
    struct worker_options options;
    unsigned index, count; /* which one of how many */
    struct loop *loop;
    const struct logger *logger;

    struct shard **shards; /* those hosted here: number index + 1, then every count-th */
    unsigned shard_count;
    unsigned shards_open;    /* while it stops */
    uint32_t balance;        /* of shards, for new queues */
    struct peer **peers;     /* by index; NULL for itself */
    struct mailbox *mailbox; /* NULL: it is alone */

    struct catalog catalog;
    struct policy_round {
        bool is_on, is_stale; /* is_stale: they have changed since it began */
        uint64_t event, done; /* as they are by that event; and by the round before */
        struct catalog_walk queues;
        uint64_t *exchanges; /* ids of those that are to be looked at still */
        size_t exchange_count;
    } policies;
    bool catalog_is_suspect; /* recovery met corruption: what is unknown is kept */
    struct changes *changes;

    /* Events of the catalog, by number: on disk if they are to be, and applied by every worker. */
    struct line catalog_settled;

    struct account memory;   /* all that clients made grow */
    struct account messages; /* of which messages and queues */
    struct stock stock;      /* of memory for messages */

    struct list clients;
    struct map clients_by_id;
    uint64_t client_last; /* id */
    uint32_t client_count;
    bool stopping;
    bool has_ended; /* it stops, and has said that it changes nothing in the catalog */
    bool is_quiet;  /* it stops, and no worker has clients any more */

    struct list lines_going;   /* in which requests may go on: struct line.going */
    struct list completions;   /* requests that are complete, not yet told */
    struct list jobs;          /* requests with work proportional to a count: a slice per turn */
    struct list cancellations; /* subscriptions that the broker ended, not yet told */
    struct list parts;         /* of transactions, with work: part.h */
    struct task tell;          /* lines that go on, completions, cancellations */
    struct task work;          /* jobs, parts, discards */

    struct rebalance *rebalance; /* where the catalog is decided, while it is at it */
    struct list moves;           /* queues on their way to another shard: move.h */
    struct list leavings;        /* of them, those that leave shards of this worker */

    /* Where publishes wait for queues on their way. */
    struct onward {
        struct place place;    /* its line: publishes held */
        uint64_t last;         /* number of a publish held */
        struct list order;     /* those that are not confirmed, by number */
        struct client *client; /* in whose name they go on, */
        struct publisher *publisher;
        uint64_t sent_last; /* its sequence */
        struct list sent;   /* those that have gone on, by that */
        uint64_t bytes;     /* held */
    } onward;

    struct list undertakers; /* of virtual hosts, for dead letters: bury.c */
    struct list burying;     /* queues that have dead messages */
    struct list refused;     /* messages that full queues did not take, and bury */
    struct list burials;
    uint32_t burial_count;
    struct task bury;

    struct list browses, browses_ready; /* pages of messages that are being made: browse.h */
    struct task browse;

    struct list redrives, redrives_ready; /* redrive.h */
    uint32_t redrive_count;               /* under way */
    uint64_t redrive_last;                /* of those that clients here have asked for */
    struct task redrive;

    struct list transactions; /* of clients here, over several shards */
    uint32_t collecting;      /* of those, how many look at their queues */
    uint64_t transaction_last;
    uint64_t start_number; /* how often the process was started, for identities */

    struct list publishers_ready; /* have something to tell */
    struct task confirm;

    /* So that a publish need not look at all shards and peers: flow_now() keeps them. */
    bool flow_may_have_changed;
    uint64_t memory_room; /* the watermark, less what the peers use */

    struct list flow_waiters; /* clients */
    enum flow flow;
    enum flow flow_told;               /* to peers, as well as */
    uint64_t memory_told, memory_seen; /* by the last watch */
    bool disk_is_low;
    struct timer watch;
    uint64_t long_turns_told;

    struct remembered remembered;
    struct list logins;        /* the one that is being verified by a helper */
    struct list login_waiters; /* those behind it */

    struct cooling *cooling;
    struct route_result routed;
    struct place **places; /* scratch of publishing: where the message at hand goes */
    size_t places_capacity;

    uint64_t published, delivered;
    uint64_t opened, closed; /* connections: clients that are not operators */

    void (*started)(void *context, const struct worker_started *what);
    void *started_context;
    struct worker_started start;
    void (*stopped)(void *context);
    void *stopped_context;
    struct boot *boot;
    bool is_closing; /* its logs take nothing more */
};

struct client {
    struct worker *worker;
    struct client_options options;
    uint64_t id;
    char peer_host[ADDRESS_TEXT_MAX];
    struct list link;
    struct account account;
    char *user; /* after login */
    bool may_impersonate;
    struct vhost *vhost; /* after entering */
    struct permission
        *permission; /* cached, good while permission_version is the catalog's people_version */
    uint64_t permission_version;
    struct list queues; /* exclusive ones */
    struct list subscriptions;
    struct list publishers;
    struct list flow_link;
    enum flow flow_told;
    struct peer *out_of_credit; /* it has published there, and has to wait, */
    bool is_held_back;          /* or to queues on their way */
    uint32_t outstanding;       /* requests */
    struct login *login;        /* that is not decided yet; client.c */
    bool closed;
    bool is_proxy;    /* of another worker, see peer.h */
    bool is_internal; /* the broker itself, which may publish everywhere */
    struct route_cache *routes;
};

/* Of a client here to a queue anywhere. */
struct subscription {
    struct consumer consumer; /* its queue is NULL while it is in none that is hosted here */
    struct client *client;
    void *cookie;
    char *tag;
    bool exclusive;
    bool ended;     /* by the broker; the session is to be told */
    bool is_adrift; /* its queue has moved, or may have; its queue_link is perhaps move.adrift's */
    struct list client_link, queue_link, cancel_link;

    uint64_t queue_id;

    /* Where the queue lives with a peer (and the consumer's credit is a copy): */
    struct peer *peer;
    uint64_t number;   /* by which the peer knows it */
    bool is_asked;     /* whether it may is not answered yet, */
    uint32_t asked_of; /* by this worker */
    struct task resume;
    struct list held; /* deliveries that the session had no room for; struct held */
    bool is_refused;  /* the session had none for the latest, and has not said that it has */
};

static inline struct client_identity client_identity(const struct client *client)
{
    return (struct client_identity){client->worker->index, client->id};
}

/* All workers have started. */
static inline bool worker_runs(const struct worker *worker)
{
    return !worker->boot && worker->start.result == 0;
}

/* The worker that hosts shard 1 decides about the catalog. */
static inline bool worker_has_catalog(const struct worker *worker)
{
    return worker->index == 0;
}

static inline struct log *catalog_log(const struct worker *worker)
{
    ASSERT(worker_has_catalog(worker));
    return worker->shards[0]->log;
}

/* Where a queue that a client of this worker declares is to live: here, or, when it is nobody's own
 * and queues are to be balanced, anywhere. */
uint32_t worker_new_queue_shard(struct worker *worker, bool exclusive);

/* Where the queues of that shard are, as seen from this worker. */
struct place *worker_place(const struct worker *worker, unsigned shard);

/* ---- requests (client.c) ---- */

/* At the start of each request function, and at its end: then the request waits for its marks
 * (request_wait()), as far as it has not failed, does `next`, and is complete. */
void request_begin(struct client *client, struct request *request);
int request_end(struct request *request) MUST_CHECK;
void request_wait(struct request *request, struct line *line, uint64_t number);

/* Requests whose line has come up to what they wait for go on; until so long after since_ns. False:
 * there are more. */
bool lines_slice(struct worker *worker, uint64_t since_ns);

/* From a turn of the broker's own, for a request that is pending: as request_end(). */
void request_go_on(struct request *request);

/* The same, without waiting for anything. */
void request_complete(struct request *request);

/* Regularly: those who wait for want of helpers may have one now. */
void logins_go_on(struct worker *worker);

/* Gives up what helpers are at work on (the loop is never run again). */
void logins_free(struct worker *worker);

/* A client that is no connection: in nobody's list, never limited. */
struct client *client_new_proxy(struct worker *worker, const struct client_events *events,
                                void *session);

/* The same, in that virtual host, for what the broker does itself. */
struct client *client_new_internal(struct worker *worker, const struct client_events *events,
                                   void *session, struct vhost *vhost);

/* NULL: it has closed. */
struct client *worker_client(const struct worker *worker, uint64_t id);

/* ---- permissions (client.c) ---- */

enum access { ACCESS_CONFIGURE, ACCESS_WRITE, ACCESS_READ };

/* kind: "exchange" or "queue"; the default exchange goes by the name amq.default. */
int client_may(struct client *client, enum access access, const char *kind, struct slice name,
               struct failure *failure) MUST_CHECK;

/* ---- changes of the catalog (change.c; more in change.h) ---- */

/* Largest event: names, and arguments up to what the log takes. */
#define EVENT_BYTES_MAX LOG_CATALOG_MAX

/* Takes the queue out of the catalog, from any worker, without anybody waiting for it: it is
 * unused, or its owner is gone. */
void worker_delete_queue(struct worker *worker, struct catalog_queue *queue);

/* ---- topology (topology.c) ---- */

/* The queue of that name, which this client may use. E_NOT_FOUND, E_LOCKED. */
int client_find_queue(struct client *client, struct slice name, struct catalog_queue **queue,
                      struct failure *failure) MUST_CHECK;

/* The part that is done where the queue is: a step of the request, see request.next. */
int counts_here(struct request *request, struct hosted *hosted) MUST_CHECK;
int delete_here(struct request *request, struct hosted *hosted, bool if_unused,
                bool if_empty) MUST_CHECK;

/* The catalog's callbacks. */
void queue_added(void *context, struct catalog_queue *queue);
void queue_dropped(void *context, struct catalog_queue *queue);

/* A new virtual host with its predeclared exchanges. */
int worker_create_vhost(struct worker *worker, struct slice name,
                        struct failure *failure) MUST_CHECK;

/* ---- policies (policies.c) ---- */

/* The catalog's callback. */
void policies_changed(void *context);

/* A slice of bringing them into force; true: they are. */
bool policies_slice(struct worker *worker);
bool policies_are_in_force(const struct worker *worker);

/* The same at once, at a start, before queues do anything. */
void policies_boot(struct worker *worker);
void policies_free(struct worker *worker);

/* The request becomes a job that is done when the policies that are known here now are in force
 * here. */
void policies_work(struct request *request);

/* ---- publishing (publish.c) ---- */

/* The queues that a publish goes to, in an array that is good until the next call. */
int client_route(struct client *client, const struct publish *publish,
                 struct catalog_queue ***queues, size_t *count, struct failure *failure) MUST_CHECK;

/* E_FULL or E_FAILED in words. */
int storage_failure(int result, struct failure *failure);

/* The message is for these queues of this shard: logs it for those that keep it, and gives it to
 * all. *logged: somebody keeps it. */
int shard_enqueue(struct shard *shard, struct message *message, struct catalog_queue **queues,
                  size_t count, bool *logged, struct failure *failure) MUST_CHECK;

/* A publish that has come by mail, for queues (publish->queues of them) that are hosted here: its
 * sender wrote it before it knew that one of them moves, and into that it goes still. */
int publish_by_mail(struct client *proxy, struct publish *publish,
                    struct catalog_queue **queues) MUST_CHECK;

/* The peer whose line it is has refused these tickets. */
void publishers_refuse(struct worker *worker, const struct line *line, uint64_t first,
                       uint64_t last);

/* One that was held goes on to where the queue is; NULL: it is gone. */
int publish_onward(struct worker *worker, struct publish *publish,
                   struct catalog_queue *queue) MUST_CHECK;

void publisher_free(struct publisher *publisher);

/* What is published next is confirmed when this event is settled, too. */
void publisher_wait_settled(struct publisher *publisher, uint64_t version);
void publishers_advance(struct line *line);
void publishers_confirm(struct task *task);
void route_cache_free(struct route_cache *cache);
void worker_watch(struct timer *timer);
enum flow worker_flow_here(const struct worker *worker); /* of its own shards alone */
void worker_flow_changed(struct worker *worker);

/* ---- consuming (consume.c) ---- */

extern const struct queue_events worker_queue_events;
void subscription_end(
    struct subscription *subscription); /* by the broker: the session is told later */
void subscription_free(struct subscription *subscription); /* out of the client, told or not */

/* The part that is done where the queue is, once all is checked; for clients and for proxies. */
struct subscription *subscription_new(struct client *client, const struct subscribe_spec *spec,
                                      int64_t priority);
int subscribe_here(struct hosted *hosted, struct subscription *subscription,
                   struct failure *failure) MUST_CHECK;
int get_here(struct request *request, struct hosted *hosted) MUST_CHECK;
int purge_here(struct request *request, struct hosted *hosted) MUST_CHECK;
void settle_here(struct queue *queue, uint64_t first, uint64_t last, enum outcome outcome);

/* Its client has closed before it could be told. */
void get_give_back(struct request *request);
void getters_fail(struct hosted *hosted);

/* Those who wait for a message have to ask again, where the queue is going to be. */
void getters_look_again(struct hosted *hosted);

/* Out of its queue, which moves, and, once it is known where to, into it again. */
void subscription_leave(struct subscription *subscription);
void subscription_return(struct subscription *subscription);
void subscription_return_here(struct hosted *hosted, struct subscription *subscription);

/* The request's `slice` is called in each turn from now on. */
void request_work(struct request *request);
void subscription_abandon(struct subscription *subscription);

/* ---- dead letters (bury.c) ---- */

void burials_new(struct worker *worker);

/* What has died in the queue is published, when it is not on its way. */
void hosted_bury(struct hosted *hosted);
void bury_again(struct timer *timer);

/* It has died in that queue without ever having been in it: it is published if that can be done,
 * and nothing is promised, since its publisher is told that it was refused. */
void refused_bury(struct catalog_queue *queue, struct message *message);

/* None is under way, so that the worker may stop. */
bool burials_are_over(const struct worker *worker);

/* First the clients, then, after the logs are freed, which may be reading for it, the rest. */
void burials_abandon(struct worker *worker);
void burials_free(struct worker *worker);

/* ---- browsing (browse.c) ---- */

void browses_new(struct worker *worker);
void browses_free(struct worker *worker); /* after the logs, which may be reading for it */

/* ---- redrives (redrive.c) ---- */

void redrives_new(struct worker *worker);
void redrives_rest(struct worker *worker); /* the worker stops: they end */
bool redrives_are_over(const struct worker *worker);
bool redrives_rest_or_wait(const struct worker *worker); /* for checks: none is at it */

/* As for burials. */
void redrives_abandon(struct worker *worker);
void redrives_free(struct worker *worker);

/* ---- transactions (transact.c; more in part.h) ---- */

void transactions_free(struct worker *worker); /* those that are given up */

/* ---- looking (look.c) ---- */

/* By the user's tags, or because it may enter. */
bool client_sees(const struct client *client, const struct vhost *vhost);
bool client_may_enter(const struct client *client, const struct vhost *vhost);

/* The virtual host of that name, if this user sees it. E_NOT_FOUND, E_DENIED. */
struct vhost *client_find_vhost(struct client *client, struct slice name, struct failure *failure);

/* The request's `internal` and `slice` become a job that fills in the report of this worker. It
 * goes on with `next`. */
void report_work(struct request *request, struct worker_report *report);

/* ---- checkpoints (checkpoint.c) ---- */

void checkpoint_begin(struct shard *shard, bool catalog);
void checkpoint_free(struct shard *shard);

/* The ids of the shard's queues that are in its log, also of those that are arriving there, in an
 * array that the caller frees. */
uint64_t *shard_logged_queues(const struct shard *shard, size_t *count);

/* The queue, if it is still there and is in the shard's log. */
struct queue *shard_logged_queue(const struct shard *shard, uint64_t id);

/* ---- memory pressure (cooling.c) ---- */

/* Begins, unless it is at it, to give back the memory of messages that can be read from the log. */
void cooling_begin(struct worker *worker);
void cooling_free(struct worker *worker);

/* ---- recovery and first start (recover.c) ---- */

extern const struct log_recovery shard_recovery;
void boot_new(struct worker *worker);

/* By mail: a peer has done its part; the catalog is here; all have done theirs. */
void boot_peer_started(struct worker *worker, int result, const char *text, uint64_t id_last);
void boot_catalog_came(struct worker *worker, bool is_suspect);
void boot_end(struct worker *worker, int result, const char *text);
void boot_free(struct worker *worker);
/* Opens the log; the catalog is known, but where it is in this very log. shard_opened() follows. */
void shard_open(struct shard *shard);
void shard_opened(void *context, int result, const struct log_opened *summary,
                  const struct failure *failure);

#endif
