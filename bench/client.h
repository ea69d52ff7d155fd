/*
 * An AMQP 0-9-1 connection with one open channel, for setting things up: it connects, logs in and
 * declares, one blocking call after the other, each with a time limit. The traffic takes the
 * connected client over afterwards, makes it non-blocking and reads on from its input buffer.
 */
#ifndef SLUICE_BENCH_CLIENT_H
#define SLUICE_BENCH_CLIENT_H

#include "amqp.h"
#include "options.h"

/* Holds at least one frame of FRAME_MAX and then some; pages are touched only when needed. */
#define CLIENT_INPUT_SIZE (512u << 10)

/* Enough for any method that is sent here: the texts are limited. */
#define CLIENT_METHOD_SIZE 4096

struct client {
    int fd; /* -1: closed */
    uint32_t frame_max;
    uint8_t *input; /* CLIENT_INPUT_SIZE bytes */
    size_t input_start;
    size_t input_end;
    struct frame frame; /* the last that was read, borrowed from the input */
};

/* Connects, logs in, opens the channel. On failure there is nothing to close. */
int client_open(struct client *client, const struct uri *uri, struct failure *failure) MUST_CHECK;

/* Gives the buffer back, for a connection that is to idle; only client_close() may follow. */
void client_idle(struct client *client);

/* Says connection.close if `politely`, without waiting for an answer. Idempotent. */
void client_close(struct client *client, bool politely);

int client_confirm_select(struct client *client, struct failure *failure) MUST_CHECK;
int client_qos(struct client *client, uint16_t prefetch, struct failure *failure) MUST_CHECK;

struct queue_wish {
    const char *name;
    enum queue_type type;
    bool durable;
    bool passive;
};

/* `ready`, if wanted, becomes the number of messages that the broker tells. */
int client_declare_queue(struct client *client, const struct queue_wish *wish, uint32_t *ready,
                         struct failure *failure) MUST_CHECK;
int client_delete_queue(struct client *client, const char *name,
                        struct failure *failure) MUST_CHECK;
int client_declare_fanout(struct client *client, const char *name, bool durable,
                          struct failure *failure) MUST_CHECK;
int client_delete_exchange(struct client *client, const char *name,
                           struct failure *failure) MUST_CHECK;
int client_bind(struct client *client, const char *queue, const char *exchange,
                struct failure *failure) MUST_CHECK;

/* Starts deliveries; the broker is told not to answer, since deliveries may overtake the answers of
 * other consumers. A refusal arrives as a close of the channel. */
int client_consume(struct client *client, const char *queue, const char *tag, bool auto_ack,
                   bool from_start, struct failure *failure) MUST_CHECK;

/* For a connection.close, channel.close or basic.cancel that came unasked: its failure. */
int client_closed_by(const struct frame *frame, struct failure *failure) MUST_CHECK;

#endif
