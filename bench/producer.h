/*
 * A publishing connection.
 *
 * Its messages stand in a batch of prebuilt, equally long publishes; only the queue's digits in the
 * routing key, the tag and the time stamp change from one use of a slot to the next. So publishing
 * costs a few stores a message and one send a batch. A batch is sent whole before it is filled
 * again.
 */
#ifndef SLUICE_BENCH_PRODUCER_H
#define SLUICE_BENCH_PRODUCER_H

#include "check.h"
#include "load.h"

#define PRODUCER_BATCH_SIZE (256u << 10)

struct producer {
    struct client client;
    struct load *load;
    const struct check *check;
    uint32_t number;
    uint32_t queues; /* taken in turn; with fanout 1 */
    uint32_t queue_next;
    uint64_t limit; /* messages in all; UINT64_MAX: none */
    uint64_t published;
    bool wants_output; /* the socket took less than the batch */

    uint8_t *batch;
    size_t stride;
    uint32_t slots;
    size_t digits_at; /* of the routing key's digits in a slot; 0: it does not change */
    size_t body_at;
    size_t send_at;
    size_t send_end;

    double interval_ns; /* with a rate: between two messages of this producer; else 0 */
    uint64_t start_ns;  /* the first message's intended time; 0: not started */

    /* confirms: the time stamp of each unconfirmed tag, 0 once confirmed */
    uint32_t window;
    uint32_t unconfirmed;
    uint64_t *sent_ns; /* of ring_size, a power of two; by tag */
    uint64_t ring_size;
    uint64_t confirm_base; /* the lowest unconfirmed tag */
    uint64_t confirm_next; /* the tag of the next publish; tags count from 1 */
};

/* Connects. The exchange and queues are there. Publishes `limit` messages, then stops. */
int producer_open(struct producer *producer, const struct options *options,
                  const struct check *check, uint32_t number, uint64_t limit,
                  struct failure *failure) MUST_CHECK;
void producer_close(struct producer *producer);

/* The socket can be read. */
int producer_input(struct producer *producer, struct failure *failure) MUST_CHECK;

/* Sends on, and if `more`, publishes at most one batch of what is due and allowed. */
int producer_publish(struct producer *producer, bool more, struct failure *failure) MUST_CHECK;

/* In how many nanoseconds producer_publish() has something to do, if nothing is heard from the
 * socket: UINT64_MAX when it waits for the socket, the confirms, or is done. */
uint64_t producer_wait_ns(const struct producer *producer, uint64_t now_ns);

/* Everything published so far is sent, and confirmed where it must be. */
bool producer_settled(const struct producer *producer);

#endif
