/* What the files of this folder share. */
#ifndef SLUICE_BROKER_BROKER_PRIVATE_H
#define SLUICE_BROKER_BROKER_PRIVATE_H

#include "auth/remembered.h"
#include "base/assert.h"
#include "base/memory.h"
#include "broker/catalog.h"
#include "broker/worker.h"

struct worker {
    struct worker_options options;
    struct loop *loop;
    const struct logger *logger;
    struct log *log;
    struct queue_host host;
    struct catalog catalog;
    bool catalog_is_suspect; /* recovery met corruption: what is unknown is kept */

    struct account memory;   /* all that clients made grow */
    struct account messages; /* of which messages and queues */

    struct list clients;
    uint32_t client_count;
    bool stopping;

    struct list durable_requests; /* by growing wait_block */
    struct list completions;      /* requests that are complete, not yet told */
    struct list jobs;             /* requests with work proportional to a count: a slice per turn */
    struct list cancellations;    /* subscriptions that the broker ended, not yet told */
    struct task tell;             /* completions, cancellations */
    struct task work;             /* jobs, discards */
    struct list discards;         /* deleted queues that are given back in slices */

    struct list publishers_waiting; /* for a block */
    struct list publishers_ready;
    struct task confirm;

    struct list flow_waiters; /* clients */
    enum flow flow;
    bool disk_is_low, storage_failed;
    struct timer watch;

    struct remembered remembered;
    struct list logins;        /* being verified by a helper */
    struct list login_waiters; /* all helpers are busy */

    struct checkpoint_job *checkpoint;
    bool last_checkpoint; /* the one of a clean stop is written */
    struct cooling *cooling;
    struct route_result routed;
    struct log_target *targets; /* scratch of publishing */
    size_t targets_capacity;

    uint64_t published, delivered;

    void (*started)(void *context, const struct worker_started *what);
    void *started_context;
    struct worker_started start;
    void (*stopped)(void *context);
    void *stopped_context;
    struct boot *boot;
};

struct client {
    struct worker *worker;
    struct client_options options;
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
    uint32_t outstanding; /* requests */
    bool closed;
    struct route_cache *routes;
};

struct subscription {
    struct consumer consumer;
    struct client *client;
    void *cookie;
    char *tag;
    bool exclusive;
    bool ended; /* by the broker; the session is to be told */
    struct list client_link, queue_link, cancel_link;
};

/* ---- requests (client.c) ---- */

/* At the start of each request function, and at its end. `wait_block` of the request is 0 or what
 * must be durable. */
void request_begin(struct client *client, struct request *request);
int request_end(struct request *request) MUST_CHECK;

/* A request that is pending for another reason: it will be completed by request_complete(). */
int request_park(struct request *request) MUST_CHECK;

/* From a turn of the broker's own. */
void request_complete(struct request *request);

/* Gives up what helpers are at work on (the loop is never run again). */
void logins_free(struct worker *worker);

void worker_durable(struct worker *worker, uint64_t block);

/* Releases the memory of a client that is given up: nobody is told. */
void client_abandon(struct client *client);

/* ---- permissions (client.c) ---- */

enum access { ACCESS_CONFIGURE, ACCESS_WRITE, ACCESS_READ };

/* kind: "exchange" or "queue"; the default exchange goes by the name amq.default. */
int client_may(struct client *client, enum access access, const char *kind, struct slice name,
               struct failure *failure) MUST_CHECK;

/* ---- topology (topology.c) ---- */

/* Logs the event, applies it. E_FULL, E_FAILED with text. */
int catalog_record(struct worker *worker, const struct writer *event,
                   struct failure *failure) MUST_CHECK;

/* Takes the queue out of the catalog, ends its consumers, begins its discarding. Logs if it is
 * durable. */
void worker_delete_queue(struct worker *worker, struct catalog_queue *queue);

/* The last consumer has gone, or a single reference. */
void queue_release(struct queue *queue);

/* The queue of that name, which this client may use. E_NOT_FOUND, E_LOCKED. */
int client_find_queue(struct client *client, struct slice name, struct catalog_queue **queue,
                      struct failure *failure) MUST_CHECK;

/* It is in use: its expiry begins anew. */
void queue_used(struct catalog_queue *queue);
void queue_added(void *context, struct catalog_queue *queue);
void queue_dropped(void *context, struct catalog_queue *queue);
bool worker_discard_slice(struct worker *worker); /* true when nothing is left */

/* A new virtual host with its predeclared exchanges. */
int worker_create_vhost(struct worker *worker, struct slice name,
                        struct failure *failure) MUST_CHECK;

/* Largest event: names, and arguments up to what the log takes. */
#define EVENT_BYTES_MAX LOG_CATALOG_MAX

/* ---- publishing (publish.c) ---- */

void publisher_free(struct publisher *publisher);
void publishers_durable(struct worker *worker, uint64_t block);
void publishers_failed(struct worker *worker);
void publishers_confirm(struct task *task);
void route_cache_free(struct route_cache *cache);
void worker_watch(struct timer *timer);
void worker_flow_changed(struct worker *worker);

/* ---- consuming (consume.c) ---- */

extern const struct queue_events worker_queue_events;
void subscription_end(
    struct subscription *subscription); /* by the broker: the session is told later */
void subscription_free(struct subscription *subscription); /* out of the client, told or not */

/* Its client has closed before it could be told. */
void get_give_back(struct request *request);
void getters_fail(struct catalog_queue *queue);
bool purge_slice(struct request *request);
void purge_abandon(struct request *request);
void subscription_abandon(struct subscription *subscription);

/* ---- checkpoints (checkpoint.c) ---- */

void checkpoint_begin(struct worker *worker, bool catalog);
void checkpoint_free(struct worker *worker);

/* ---- memory pressure (cooling.c) ---- */

/* Begins, unless it is at it, to give back the memory of messages that can be read from the log. */
void cooling_begin(struct worker *worker);
void cooling_free(struct worker *worker);

/* ---- recovery and first start (recover.c) ---- */

extern const struct log_recovery worker_recovery;
void boot_new(struct worker *worker);
void boot_free(struct worker *worker);
void worker_opened(void *context, int result, const struct log_opened *summary,
                   const struct failure *failure);

#endif
