/*
 * Peers: the other workers of the process, as one worker deals with them.
 *
 * Two roles. *Asking*: what a client of this worker wants of a queue that lives over there becomes
 * a letter (letters.h); its requests wait under a token until the answer comes, its publishes have
 * tickets, its consumers are known over there by their number. *Answering*: what the peer's letters
 * ask for is done here in the name of a client of its own, the peer's *proxy*, whose events are
 * letters back. To the rest of the broker a proxy is a client like others: mail is one more
 * protocol.
 *
 * Everything sent is paid for: requests by the slot of their answer, deliveries by the credit of
 * their consumer, settlements by their leases, publishes (in transactions, too, and of queues that
 * move) by the credit of the pair of workers: over PEER_CREDIT_BYTES on their way, those who
 * publish there wait.
 */
#ifndef SLUICE_BROKER_PEER_H
#define SLUICE_BROKER_PEER_H

#include "broker/broker_private.h"
#include "broker/letters.h"
#include "loop/mail.h"

#define PEER_CREDIT_BYTES (4u << 20)

/* Of one message. With them and the largest properties (a frame of 16 MiB) a letter has room. */
#define PEER_QUEUES_MAX (1u << 20)

struct peer {
    struct place place; /* its line: tickets */
    unsigned index;

    /* asking */
    uint64_t token_last;
    struct map asked; /* token -> struct request */
    uint64_t ticket_last;
    uint64_t sent_bytes; /* of publishes, written; */
    struct line credit;  /* their bytes that are known to be dealt with over there */
    uint64_t subscription_last;
    struct map subscriptions;    /* number -> struct subscription of a client here */
    struct subscription *latest; /* of those, the one that the last delivery was for, or NULL */
    enum flow flow;              /* how it is over there */
    uint64_t memory_used;
    unsigned ended; /* 1: it has no clients any more; 2: and gives no orders */

    /* answering */
    struct client *proxy;
    struct list pending;            /* what it has asked for and has no answer yet; struct asked */
    struct publisher *publisher;    /* counts tickets */
    struct map consumers;           /* number -> struct remote_consumer */
    struct catalog_queue **targets; /* scratch: where the publish at hand goes */
    size_t targets_capacity;
    uint64_t received_bytes, returned_bytes;
    uint64_t applied; /* events of the catalog, as it says; where the catalog is decided */
};

static inline struct peer *peer_of(struct place *place)
{
    return CONTAINER_OF(place, struct peer, place);
}

/* Opens the worker's mailbox and makes its peers. */
void peers_new(struct worker *worker);
void peers_free(struct worker *worker);

/* This worker has no clients any more and writes nothing but answers: tells it to all. */
void peers_end(struct worker *worker);

/* All of them have said so, and nothing changes the catalog any more; closes their proxies. */
bool peers_have_ended(struct worker *worker);

void peers_status(struct worker *worker); /* tells what has changed: flow, memory */

/* The credit for publishes that are dealt with goes back, unless the shards here are busy. */
void peers_return_credit(struct worker *worker);

/* A letter of one kind has come. Who reads which, by file. */
typedef void letter_reader(struct peer *peer, struct slice bytes);

extern letter_reader *const peer_ask_readers[LETTERS];
extern letter_reader *const peer_answer_readers[LETTERS];
extern letter_reader *const peer_part_readers[LETTERS];
extern letter_reader *const peer_look_readers[LETTERS];
extern letter_reader *const peer_move_readers[LETTERS];
extern letter_reader *const peer_redrive_readers[LETTERS];

/* The letter that these bytes are: its reader's, to write into, too. */
static inline void *letter_at(struct slice bytes)
{
    return (void *)(uintptr_t)bytes.data;
}
void peer_answer_init(struct peer *peer);
void peer_answer_free(struct peer *peer);

/* Room for a letter to that peer, as mail_write(); for an item of a run, as mail_add(); its last
 * letter, as mail_last(). */
static inline void *peer_write(struct peer *peer, enum letter kind, size_t size)
{
    return mail_write(peer->place.worker->mailbox, peer->index, kind, size);
}

static inline void *peer_add(struct peer *peer, enum letter kind, size_t size)
{
    return mail_add(peer->place.worker->mailbox, peer->index, kind, size);
}

static inline void *peer_last(struct peer *peer, enum letter kind)
{
    return mail_last(peer->place.worker->mailbox, peer->index, kind);
}

/* ---- asking: what broker.h offers, for queues that live over there ---- */

int peer_subscribe(struct request *request, struct catalog_queue *queue,
                   struct subscription *subscription) MUST_CHECK;
/* A consumer that is back; it is not answered for. */
void peer_subscribe_again(struct subscription *subscription, const struct catalog_queue *queue);
void peer_unsubscribe(struct subscription *subscription);
void peer_forget(struct subscription *subscription); /* nobody is told */
void peer_credit(struct subscription *subscription, uint32_t messages, uint64_t bytes);
void peer_resume(struct subscription *subscription);
void peer_resume_run(struct task *task); /* subscription.resume */
int peer_get(struct request *request, struct catalog_queue *queue) MUST_CHECK;
int peer_purge(struct request *request, struct catalog_queue *queue) MUST_CHECK;
int peer_counts(struct request *request, struct catalog_queue *queue) MUST_CHECK;
int peer_delete(struct request *request, struct catalog_queue *queue, bool if_unused,
                bool if_empty) MUST_CHECK;
void peer_settle(struct peer *peer, uint64_t queue, uint64_t first, uint64_t last,
                 enum outcome outcome);

/* Returns the ticket, if one is wanted. */
uint64_t peer_publish(struct peer *peer, const struct message *message,
                      struct catalog_queue **queues, size_t count, bool wants_ticket);

/* Has it room for publishes? */
static inline bool peer_has_credit(const struct peer *peer)
{
    return peer->sent_bytes - peer->credit.done < PEER_CREDIT_BYTES;
}

/* For a request that has to wait for it. */
static inline void peer_wait_for_credit(struct peer *peer, struct request *request)
{
    request_wait(request, &peer->credit, peer->sent_bytes - PEER_CREDIT_BYTES + 1);
}

/* ---- looking, see look.c (peer_look.c) ---- */

/* Asks for the numbers of those queues that live over there: the request awaits one answer more.
 * They go, in order, to listing_numbers(). */
void peer_ask_queues(struct request *request, struct peer *peer, const uint64_t *ids,
                     uint32_t count);
void listing_numbers(struct request *request, const struct peer *peer,
                     const struct queue_numbers *numbers);

/* The same for the report of that worker, which goes to the request's target. */
void peer_ask_report(struct request *request, struct peer *peer);

/* A page of the queue's messages, see browse.h; and what is told of it, to whom it was asked. */
struct browse_range;
struct browse_end;
int peer_browse(struct request *request, struct catalog_queue *queue,
                const struct browse_range *range) MUST_CHECK;
void peer_tell_browsed(struct peer *peer, uint64_t token, const struct browsed *found);
void peer_tell_browse_end(struct peer *peer, uint64_t token, const struct browse_end *end);

/* ---- redrives, see redrive.h (peer_redrive.c) ---- */

struct redrive_order;
int peer_redrive(struct request *request, struct catalog_queue *queue,
                 const struct redrive_order *order, struct slice conditions) MUST_CHECK;
void peer_redrive_stop(struct request *request, struct peer *peer, uint64_t id);

/* As peer_ask_report(); what comes goes to redrives_came(). */
void peer_ask_redrives(struct request *request, struct peer *peer);

/* ---- queues on their way, see move.h (peer_move.c) ---- */

/* The proxy's consumer has left its queue, which moves: it is gone, and its worker is told. */
void peer_consumer_moved(struct subscription *subscription);

/* ---- transactions, see part.h (peer_transact.c) ---- */

/* Of the client's worker. */
void peer_part_publish(struct peer *peer, const struct letter_part *part,
                       const struct message *message, struct catalog_queue **queues, size_t count,
                       size_t wanted);
void peer_part_settle(struct peer *peer, const struct letter_part *part, const struct lease *lease,
                      enum outcome outcome);
void peer_part_drop(struct peer *peer, const struct letter_part *part);

/* The request goes on with the answer, later. Alone: it waits for its own marks, too. */
void peer_part_ask(struct request *request, struct peer *peer, const struct letter_part *part,
                   bool alone, uint32_t decider);

/* The same; fails with E_TIMEOUT when whether it is decided is not known. */
void peer_decide(struct request *request, struct peer *peer, const struct letter_part *decider,
                 const uint32_t *shards, size_t count);

/* The request goes on when the part's end is to be seen. */
void peer_ask_end(struct request *request, struct peer *peer, const struct letter_part *part,
                  uint32_t decider, bool commit);

/* Of shards, to each other. */
void peer_part_end(struct peer *peer, struct transaction_id id, uint32_t shard, uint32_t decider,
                   bool commit);
void peer_tell_applied(struct peer *peer, struct transaction_id id, uint32_t decider,
                       uint32_t participant);
void peer_ask_decision(struct peer *peer, struct transaction_id id, uint32_t decider,
                       uint32_t participant);

/* What has been asked for by mail: a request of the proxy, which is answered when it is complete.
 * asked_begin() for each, then DONE or PENDING as for requests of clients. */
struct request *asked_begin(struct peer *peer, const struct letter_ask *letter);
void asked_end(struct request *request, int outcome);

/* A letter that asks, with the request under its token. */
void *peer_ask(struct peer *peer, enum letter kind, size_t size, struct request *request,
               uint64_t queue);

/* ---- the catalog's changes, see change.c ---- */

int peer_change(struct request *request, struct slice order) MUST_CHECK;
void peer_tell_change(struct worker *worker, struct slice order);
void peers_tell_event(struct worker *worker, struct slice event);
void peers_tell_settled(struct worker *worker, uint64_t settled);

/* ---- starting, see recover.c ---- */

/* The first worker's catalog, whole, to all others. */
void peers_tell_catalog(struct worker *worker);
void peers_tell_started(struct worker *worker, const struct worker_started *what, uint64_t id_last);
void peers_tell_go(struct worker *worker, int result, const char *text);

#endif
