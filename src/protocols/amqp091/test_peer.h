/*
 * The client's end for tests of the session: a wire in memory, what was sent and is not taken yet,
 * what came and is not looked at yet. Runs session and fake broker until both are at rest.
 */
#ifndef SLUICE_AMQP091_TEST_PEER_H
#define SLUICE_AMQP091_TEST_PEER_H

#include "protocols/amqp091/codec.h"
#include "protocols/amqp091/fake_broker.h"
#include "protocols/amqp091/session.h"

struct peer {
    struct worker *worker;
    struct wire wire;
    void *session;
    uint8_t *in; /* to the session */
    size_t in_size, in_capacity;
    uint8_t *out; /* from the session, from out_at on not looked at */
    size_t out_size, out_capacity, out_at;
    size_t step;      /* most bytes given to input() at once; 0: all */
    size_t leave;     /* ... or all but these bytes */
    bool was_high;    /* the output, so that the session is told as by net/ */
    bool keep_output; /* a socket that takes nothing */
    bool is_failed;   /* input() returned an error */
    uint8_t *scratch; /* input is given in memory of exactly its size */
    size_t scratch_size;
};

/* 0 or client_open()'s error. */
int peer_open(struct peer *peer, struct worker *worker) MUST_CHECK;

/* Ends the session, with all slices and turns it takes. */
void peer_close(struct peer *peer);

void peer_send(struct peer *peer, const void *bytes, size_t size);
void peer_send_method(struct peer *peer, uint16_t channel, const struct method *method);

/* basic.publish with its content in frames of at most `part` bytes. */
void peer_publish(struct peer *peer, uint16_t channel, const struct basic_publish *publish,
                  struct slice properties, struct slice body, size_t part);

/* Until nothing moves any more. */
void peer_run(struct peer *peer);

/* The next frame that has come; false when there is none. Good until the next run. */
bool peer_frame(struct peer *peer, struct frame *frame);

#endif
