/*
 * A worker: one thread's world. Its loop, its copy of the catalog, its shards (logs with their
 * queues), its clients. What main.c, tests and the simulation need to start and stop them;
 * protocols use broker.h.
 *
 * The workers of a process are started together, each on its own loop's thread, with an office in
 * common. Shards are numbered from 1 and dealt out in turn: worker i of n hosts shards i + 1,
 * i + 1 + n, ... . The worker with shard 1, the first, keeps the catalog in its log and decides
 * about it. So another number of workers at the next start changes who hosts what, and rewrites
 * nothing.
 */
#ifndef SLUICE_BROKER_WORKER_H
#define SLUICE_BROKER_WORKER_H

#include "auth/password.h"
#include "broker/broker.h"
#include "log/log.h"

struct office;

struct worker_options {
    struct loop *loop;
    unsigned index, count; /* which worker, from 0, of how many */
    struct office *office; /* with that many members; NULL where there is one worker */
    struct store **stores; /* of all shards that it hosts, in their order; borrowed, never freed */
    unsigned store_count;  /* may be 0 for all but the first worker */
    unsigned shard_count;  /* of the whole process */
    bool queues_balanced;  /* new queues go to all shards in turn, not to the declaring worker's */
    const struct logger *logger;
    struct broker_settings settings;
    struct log_options log; /* loop, store, logger and account are filled in by the worker; its keys
                               stay until all workers have started */

    /* What a new data directory gets: */
    const char *default_user, *default_pass, *default_tags;
    const char *default_configure, *default_write, *default_read;
    struct password_cost password_cost;

    const char *loopback_users; /* comma separated: these may come from loopback addresses only */
    uint32_t connections_max;   /* 0: no limit */
    _Atomic uint32_t *connections; /* counted for that by all workers of the process; borrowed.
                                      NULL: this worker has a limit of its own */
    uint64_t memory_high_bytes;    /* the memory watermark; 0: none */
    uint64_t disk_low_bytes;       /* the disk watermark; 0: none */
    uint64_t hot_bytes_max;        /* of messages that could be read back; see queue_host */
    uint32_t pending_ppm;          /* tests: how many DONE answers become PENDING */
};

/* Everything at its default but loop, store and logger, which are NULL. */
void worker_options_default(struct worker_options *options);

struct worker_started {
    int result; /* 0 or log_open()'s errors */
    struct failure failure;
    struct log_opened log;
    uint64_t queues, messages;
};

/* Recovers, creates what a new directory gets, then calls started() once, from a turn, when all
 * workers of the process have started or one of them has failed. After a failed start only
 * worker_free() is left to do. The strings of the options must stay as long as
 * the worker. */
struct worker *worker_start(const struct worker_options *options,
                            void (*started)(void *context, const struct worker_started *what),
                            void *context);

/* Clients must be closed and freed. When that is so with all workers, writes a checkpoint, closes
 * the logs, then calls stopped(). */
void worker_stop(struct worker *worker, void (*stopped)(void *context), void *context);

/* After stopped(), or after a failed start. */
void worker_free(struct worker *worker);

/* A simulated crash: at any moment, from outside of a turn; the store is gone already. Nothing of
 * the worker and no client is told anything; all their memory is released. The loop must not run
 * again. */
void worker_abandon(struct worker *worker);

/* Other master keys for its logs: log_set_keys() for each. The first failure, with the shard; those
 * of other shards are taken then, too. */
int worker_set_keys(struct worker *worker, const struct keyring *keys,
                    struct failure *failure) MUST_CHECK;

uint32_t worker_client_count(const struct worker *worker);

struct worker_statistics {
    uint64_t clients, queues, messages_ready, messages_leased, published, delivered;
    uint64_t message_bytes, memory_bytes;
    uint64_t letters_sent, letters_received; /* to and from other workers */
    struct log_statistics log;               /* of the first shard */
};
void worker_statistics(const struct worker *worker, struct worker_statistics *statistics);

/* For tests and simulation. */
struct catalog;
const struct catalog *worker_catalog(const struct worker *worker);

/* Walks everything and asserts the invariants. */
void worker_check(const struct worker *worker);

/* Whether dead letters are on their way. What storage refuses is tried again each second: a worker
 * that is just at it is not at rest. */
bool worker_is_burying(const struct worker *worker);

/* Asserts that nothing is on its way: requests are answered, publishes confirmed, their credit is
 * back, and whoever can get a message and takes it has it. For when all mail has been read, the
 * disks have answered and consumers have been resumed. */
void worker_check_rest(const struct worker *worker);

/* The same, when no worker has clients any more: no lease, consumer or owner is left over. */
void worker_check_quiet(const struct worker *worker);

/* Asserts that two workers have the same copy of the catalog, when nothing is on its way. */
void worker_check_same_catalog(const struct worker *worker, const struct worker *other);

#endif
