/*
 * A broker for tests of the session: everything of broker/broker.h that the session calls, in
 * memory, small and slow, for one worker. It is strict where the real one trusts: a lease must be
 * out and is settled once; a request is asked once; events come only from fake_run().
 *
 * `pending_percent` of the requests are PENDING; those are carried out in a later fake_run(), so a
 * slice that did not stay is found by the address sanitizer. Everything random comes from the seed.
 */
#ifndef SLUICE_AMQP091_FAKE_BROKER_H
#define SLUICE_AMQP091_FAKE_BROKER_H

#include "base/logging.h"
#include "base/map.h"
#include "broker/broker.h"

struct loop {
    uint64_t now_ns;
    uint64_t random;
};

struct worker {
    struct loop loop;
    struct logger logger;
    struct broker_settings settings;
    struct account account; /* of everything; all is given back at the end */
    struct account message_account;
    struct list clients, queues, exchanges, bindings;
    struct list graveyard; /* deleted queues, whose leases may still come */
    unsigned pending_percent;
    enum flow flow;
    bool refuse_clients;
    bool impersonate;
    bool is_reject_publishes;          /* confirms say "refused" */
    uint64_t publishes, confirms_held; /* hold back so many publishers' confirms: 0 or 1 */
    uint64_t names;
    uint64_t settled[5]; /* by outcome */
    char last_line[LOG_LINE_MAX];
};

void fake_init(struct worker *worker, uint64_t seed, unsigned pending_percent);

/* All sessions must be gone. Checks that nothing is left out. */
void fake_fini(struct worker *worker);

/* One turn: pending requests, cancellations, deliveries, confirms. True when something was done. */
bool fake_run(struct worker *worker);

/* Of the flow: told to all clients that have published. */
void fake_set_flow(struct worker *worker, enum flow flow);

/* What a test needs to look at. */
struct catalog_queue *fake_queue(struct worker *worker, const char *name);
uint64_t fake_ready(const struct catalog_queue *queue);
uint64_t fake_leased(const struct catalog_queue *queue);
void fake_put(struct worker *worker, const char *queue, struct slice body);
void fake_kick(struct worker *worker, const char *reason);

#endif
