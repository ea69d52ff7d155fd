/*
 * What the files of this folder share: the session, its channels and consumers.
 *
 *   session.c      the protocol table; bytes to frames; pausing, parking and going on; the end
 *   connection.c   channel 0: handshake, login, tune, open, close, heartbeats, blocked
 *   channel.c      channels: open, close, errors, dispatch of methods, requests to the broker
 *   declare.c      class exchange and class queue
 *   publish.c      content, basic.publish, basic.return, confirms
 *   consume.c      basic.qos, consume, cancel, get; deliveries
 *   settle.c       basic.ack, nack, reject, recover
 *   transaction.c  class tx
 *
 * A session works on a channel's frames in order. While a channel waits for the broker (a request
 * is PENDING) or works off something long in slices (a job), its further frames are parked:
 * copied, charged, and taken up again when it goes on. Other channels go on meanwhile.
 *
 *   session:  HEADER -> START -> LOGIN -> TUNE -> OPEN -> ENTER -> RUNNING -> CLOSING -> FINISHED
 *   channel:  NONE -> OPEN -> RELEASING (the client closed) -> NONE
 *                          -> CLOSING (we closed, until close-ok) -> NONE
 */
#ifndef SLUICE_AMQP091_SESSION_PRIVATE_H
#define SLUICE_AMQP091_SESSION_PRIVATE_H

#include "base/list.h"
#include "base/logging.h"
#include "base/map.h"
#include "broker/broker.h"
#include "message/amqp091_properties.h"
#include "net/protocol.h"
#include "protocols/amqp091/codec.h"
#include "protocols/amqp091/replies.h"
#include "protocols/amqp091/unacked.h"

#define CONNECTION_NAME_MAX 160u
#define PARKED_BYTES_MAX    (1024u * 1024u)   /* in all channels; beyond, the wire is paused */
#define SETTLE_TURN_MAX     SETTLE_SLICE      /* leases settled in one call by one job */
#define CREDIT_BYTES        OUTPUT_HIGH_WATER /* of a consumer, for what is not written yet */
#define DELIVERY_COPY_MAX   8192u             /* larger bodies are borrowed by the output */
#define TIMESTAMP_NEVER     UINT64_MAX

/* ---- bytes that the session keeps, charged to its account ---- */

struct kept {
    uint8_t *data;
    size_t size, capacity;
};

int kept_append(struct account *account, struct kept *kept, struct slice bytes) MUST_CHECK;
void kept_free(struct account *account, struct kept *kept);

/* Empties it; keeps the memory when it is small. */
void kept_clear(struct account *account, struct kept *kept);

static inline struct slice kept_slice(const struct kept *kept)
{
    return slice_of(kept->data, kept->size);
}

/* ---- the session ---- */

enum session_state {
    SESSION_HEADER, /* waits for the protocol header */
    SESSION_START,  /* ... for connection.start-ok */
    SESSION_LOGIN,  /* ... for the broker to say who that is */
    SESSION_TUNE,   /* ... for connection.tune-ok */
    SESSION_OPEN,   /* ... for connection.open */
    SESSION_ENTER,  /* ... for the broker to let it into the virtual host */
    SESSION_RUNNING,
    SESSION_CLOSING,   /* connection.close is sent; waits for close-ok */
    SESSION_ANSWERING, /* connection.close has come; close-ok follows when all is given back */
    SESSION_FINISHED,
};

struct session {
    struct wire *wire;
    struct worker *worker;
    const struct broker_settings *settings;
    const struct logger *logger;
    struct loop *loop;
    struct client *client;
    struct account *account;

    enum session_state state;
    bool has_capability_login_failure_close, has_capability_blocked, has_capability_cancel_notify;
    bool is_told_blocked;
    bool is_releasing;  /* give back what the channels hold, in slices; then leave the broker */
    bool has_left;      /* client_close() was called */
    bool is_abandoned;  /* by a simulated crash: the client has gone with its worker */
    uint32_t frame_max; /* whole frames */
    uint32_t channel_max;
    uint32_t heartbeat_s;
    enum flow flow;

    struct request request; /* log in, enter */
    bool request_is_pending;
    struct kept request_bytes;
    char mechanism[16];
    char vhost[NAME_MAX_BYTES + 1];
    char user[NAME_MAX_BYTES + 1];
    char name[CONNECTION_NAME_MAX]; /* "127.0.0.1:40000 -> 127.0.0.1:5672" */

    struct map channels;
    struct channel *last_channel; /* of the last frame */
    uint32_t channel_count;       /* those that are not NONE */
    struct list owing;            /* subscriptions that owe credit for bytes, see consume.c */
    struct list busy;             /* channels that can go on in the next turn */
    struct list starved; /* subscriptions that wait for the output to drain, or for memory */
    size_t parked_bytes;

    uint64_t started_ns, closing_ns;
    uint64_t seen_received, seen_received_ns; /* heartbeats: bytes when last looked at, and when */
    uint64_t seen_sent, seen_sent_ns;
};

enum channel_state {
    CHANNEL_NONE, /* not open; here for its parked frames */
    CHANNEL_OPEN,
    CHANNEL_RELEASING,
    CHANNEL_CLOSING,
};

enum settle_kind {
    SETTLE_NOW,   /* give the leases to the broker */
    SETTLE_LATER, /* keep them in the transaction */
    SETTLE_UNDO,  /* take all of the transaction's back */
};

/* A long settlement in slices: tags from `next` to `last` (UINT64_MAX: all). */
struct settle_job {
    bool is_running;
    enum settle_kind kind;
    uint64_t next, last;
    enum outcome outcome;
    uint32_t answer; /* the method to send at the end, or 0 */
};

struct content;
struct transaction;

struct channel {
    struct session *session;
    uint16_t number;
    uint8_t state; /* enum channel_state */
    bool close_ok_has_come;
    bool is_released; /* nothing is held any more */
    struct list busy_link;

    /* One request at a time. */
    struct request request;
    bool request_is_pending;
    void (*completed)(struct channel *channel);
    struct method method; /* what is being asked; its slices are in method_bytes */
    struct kept method_bytes;
    struct settle_job job;
    struct kept parked;
    size_t parked_at; /* taken up so far */

    char last_queue[NAME_MAX_BYTES + 1]; /* most recently declared */

    /* consuming */
    struct map tags; /* consumer tag -> subscription */
    bool has_tags;
    struct list subscriptions;
    struct subscription *subscribing; /* whose request is on the way */
    struct list
        limited; /* subscriptions that wait for acknowledgements (global prefetch, memory) */
    uint32_t subscription_count;
    uint16_t prefetch, prefetch_global;
    uint64_t next_tag;
    uint64_t held; /* unacked that came from consumers */
    struct unacked unacked;

    /* publishing */
    struct content *content;
    struct publisher *publisher;
    uint64_t confirmed;
    struct transaction *transaction;

    /* direct reply-to */
    struct subscription *reply_subscription;
    char reply_queue[NAME_MAX_BYTES + 1];
};

/* Size of "frame header, class, method, size of tag" in front of the tag. */
#define DELIVER_HEAD_FIXED (FRAME_HEADER_SIZE + 4u + 1u)

struct subscription {
    struct channel *channel;
    struct list link;          /* in channel->subscriptions */
    struct list waiting;       /* in session->starved or channel->limited */
    struct consumer *consumer; /* NULL: not yet, or no more */
    uint64_t outstanding;      /* entries of unacked that point here */
    struct list owing;         /* in session->owing */
    uint64_t owed, owed_until; /* credit for bytes to give back when so much has been written, */
    uint64_t owed_next, owed_next_until; /* and after that */
    bool no_ack, has_prefetch;
    bool is_over;            /* cancelled; lives on while something is outstanding */
    bool must_retry;         /* was offered something before it was ready */
    bool is_cancelled_early; /* the broker has ended it before consume-ok was sent */
    uint16_t head_size;
    uint8_t head[DELIVER_HEAD_FIXED + 255]; /* a basic.deliver frame up to the consumer tag */
};

static inline struct slice subscription_tag(const struct subscription *s)
{
    return slice_of(s->head + DELIVER_HEAD_FIXED, s->head_size - DELIVER_HEAD_FIXED);
}

/* ---- session.c ---- */

/* Writes a method frame that fits METHOD_FRAME_MAX. */
#define METHOD_FRAME_MAX 1100u /* four short strings and some */
void session_write(struct session *session, uint16_t channel, const struct method *method);
void session_write_empty(struct session *session, uint16_t channel, uint32_t method_id);

/* Ends the connection (hard codes, or channel NULL) or the channel with this reply. */
void session_fail(struct session *session, struct channel *channel, enum reply_code code,
                  uint32_t method_id, const char *format, ...) PRINTF_LIKE(5, 6);

/* The channel can go on: it is looked at in input(). */
void session_go_on(struct session *session, struct channel *channel);

/* Sets the wire's wish to be read or not. */
void session_set_pause(struct session *session);
void session_set_flow(struct session *session, enum flow flow);

/* Gives back what all channels hold, a slice a call; true when done. Then the client is closed. */
bool session_release_step(struct session *session);

/* ---- connection.c ---- */

ssize_t session_header(struct session *session, struct slice bytes);
void session_method(struct session *session, struct slice payload);
void session_completed(struct session *session);
uint64_t session_tick(struct session *session, uint64_t now_ns);
void session_close(struct session *session, enum reply_code code, uint32_t method_id,
                   const char *explanation);
/* The end, without a word: what is written is still sent. */
void session_finish(struct session *session);

/* ---- channel.c ---- */

struct channel *channel_find(struct session *session, uint16_t number);
bool channel_is_busy(const struct channel *channel);

/* One frame of a channel that is not busy. `ahead` is what follows it; returns how much of that was
 * used, too. */
size_t channel_frame(struct session *session, uint16_t number, const struct frame *frame,
                     struct slice ahead);

/* Keeps a frame for later. False when there is no room now: stop reading. */
bool channel_park(struct channel *channel, struct slice frame);

/* Job, parked frames, release: a slice. True when there is more to do right away. */
bool channel_go_on(struct channel *channel);

void channel_close(struct channel *channel, enum reply_code code, uint32_t method_id,
                   const char *explanation);
bool channel_release_step(struct channel *channel);
void channel_free(struct channel *channel);

/* Drops what is held, without a word to the broker. */
void channel_abandon(struct channel *channel);

/* To be called with the outcome of a call to the broker: runs `completed` at once or when it is
 * done. */
void channel_await(struct channel *channel, int outcome, void (*completed)(struct channel *));

/* Reports request.failure when it is set. */
bool channel_request_failed(struct channel *channel);

void channel_fail(struct channel *channel, enum reply_code code, const char *format, ...)
    PRINTF_LIKE(3, 4);
void channel_write(struct channel *channel, const struct method *method);

/* With the empty name standing for the last declared queue. False: it has failed. */
bool channel_queue_name(struct channel *channel, struct slice *name);

/* ---- handlers: channel->method is decoded and stays until the request is complete ---- */

void handle_exchange_declare(struct channel *channel);
void handle_exchange_delete(struct channel *channel);
void handle_exchange_bind(struct channel *channel);
void handle_exchange_unbind(struct channel *channel);
void handle_queue_declare(struct channel *channel);
void handle_queue_delete(struct channel *channel);
void handle_queue_purge(struct channel *channel);
void handle_queue_bind(struct channel *channel);
void handle_queue_unbind(struct channel *channel);
void handle_basic_qos(struct channel *channel);
void handle_basic_consume(struct channel *channel);
void handle_basic_cancel(struct channel *channel);
void handle_basic_cancel_ok(struct channel *channel);
void handle_basic_get(struct channel *channel);
void handle_basic_recover(struct channel *channel);
void handle_basic_recover_async(struct channel *channel);
void handle_confirm_select(struct channel *channel);
void handle_tx_select(struct channel *channel);
void handle_tx_commit(struct channel *channel);
void handle_tx_rollback(struct channel *channel);

/* ---- publish.c ---- */

/* A basic.publish method frame's payload behind the method's number. Returns how much of `ahead`
 * was used. */
size_t publish_method(struct channel *channel, struct slice arguments, struct slice ahead);

/* Is a content's header or body awaited? Then frames go to publish_content(). */
bool publish_is_open(const struct channel *channel);
void publish_content(struct channel *channel, const struct frame *frame);
void publish_abandon(struct channel *channel);
void publish_confirmed(struct channel *channel, uint64_t last, bool accepted);
void publish_return(struct channel *channel, const struct message *message);

/* Header and body frames of a message. */
void write_content(struct session *session, uint16_t channel, struct message *message);

/* ---- consume.c ---- */

int consume_deliver(struct subscription *subscription, const struct delivery *delivery);
void consume_cancelled(struct subscription *subscription);
void consume_drained(struct session *session);

/* What has been written is credit again. */
void consume_return_credit(struct session *session);

/* Acknowledgements came: who waited for room in the channel tries again. */
void consume_resume_limited(struct channel *channel);

/* Ends a subscription; its struct goes when nothing is outstanding. */
void consume_end(struct subscription *subscription);
void consume_forget(struct subscription *subscription, uint64_t settled);

/* ---- settle.c ---- */

void settle_ack(struct channel *channel, uint64_t tag, bool multiple);
void settle_reject(struct channel *channel, uint64_t tag, bool multiple, enum outcome outcome);

/* Begins a job, and does the first slice of it. */
void settle_begin(struct channel *channel, const struct settle_job *job);

/* Up to SETTLE_TURN_MAX of the job; true when it is done. */
bool settle_step(struct channel *channel);

/* ---- transaction.c ---- */

bool transaction_publish(struct channel *channel, struct message *message, bool mandatory,
                         const struct slice *more_keys, size_t more_keys_count);

/* The job's tags out of unacked into the transaction, and back: up to SETTLE_TURN_MAX. True when it
 * is done, or the channel has failed. */
bool transaction_settle_step(struct channel *channel);
bool transaction_undo_step(struct channel *channel);

/* Gives everything back, a slice a call; true when done. */
bool transaction_abandon_step(struct channel *channel);

/* Without a word to the broker. */
void transaction_free(struct channel *channel);

#endif
