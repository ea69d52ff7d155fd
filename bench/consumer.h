/*
 * A consuming connection.
 *
 * Deliveries of one subscription look alike: same frames, same sizes. The first one is read frame
 * by frame and its shape remembered; as long as the next bytes have that shape (every frame head,
 * the content header and the frame ends are compared), a message costs these comparisons and no
 * more. Whatever looks different goes the general way, which remembers the new shape.
 */
#ifndef SLUICE_BENCH_CONSUMER_H
#define SLUICE_BENCH_CONSUMER_H

#include "check.h"
#include "load.h"

#define CONSUMER_TAG_DIGITS  5
#define CONSUMER_OUTPUT_SIZE (64u << 10)
#define CONSUMER_HEADER_MAX  256

struct subscription {
    struct sequence *sequences; /* of the queue, one a producer */
    uint64_t *next;             /* the least number in order at this consumer, one a producer */
};

/* The shape of a delivery whose body is one frame. */
struct delivery_shape {
    size_t stride;                       /* the whole delivery; 0: none known */
    size_t header_at;                    /* the content header frame, and its end */
    size_t header_size;                  /* with the head of the body frame behind it */
    uint8_t head[8];                     /* type, channel, size of the method frame, then class */
    uint8_t header[CONSUMER_HEADER_MAX]; /* the bytes from header_at, header_size of them */
};

enum consumer_state { AWAIT_METHOD, AWAIT_HEADER, AWAIT_BODY };

struct consumer {
    struct client client;
    struct load *load;
    const struct check *check;
    uint32_t first_queue; /* its queues: first_queue, first_queue + queue_step, ... */
    uint32_t queue_step;
    uint32_t subscription_count;
    struct subscription *subscriptions;
    uint32_t size; /* body bytes expected */

    struct delivery_shape shape;

    /* of the delivery that is read the general way */
    enum consumer_state state;
    struct subscription *subscription;
    uint64_t delivery_tag;
    bool redelivered;
    uint64_t body_size;
    uint64_t body_left;
    uint8_t prefix[MESSAGE_SIZE_MIN];
    size_t prefix_size;
    size_t begin;     /* where it begins in the input */
    size_t header_at; /* counted from begin */
    size_t body_at;
    bool whole; /* it stands in the input from its begin on, with one body frame */

    uint32_t ack_every; /* 0: auto-ack */
    uint64_t unacknowledged;
    uint64_t last_tag;
    uint8_t *output; /* acknowledgements, CONSUMER_OUTPUT_SIZE */
    size_t output_at;
    size_t output_end;
    bool wants_output;
    bool paused; /* input waits for room in the output */
};

/* Connects and subscribes to its queues: consumer `number` of `count` in all. */
int consumer_open(struct consumer *consumer, const struct options *options,
                  const struct check *check, uint32_t number, struct failure *failure) MUST_CHECK;
void consumer_close(struct consumer *consumer);

/* The socket can be read. */
int consumer_input(struct consumer *consumer, struct failure *failure) MUST_CHECK;

/* The socket can be written. */
int consumer_output(struct consumer *consumer, struct failure *failure) MUST_CHECK;

/* Acknowledges what is left below a full --ack. */
int consumer_finish(struct consumer *consumer, struct failure *failure) MUST_CHECK;

#endif
