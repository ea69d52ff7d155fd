/*
 * Remotes: clients that speak AMQP 0-9-1 over simulated byte streams, through net/ and
 * protocols/amqp091 as they are. What they do to the queues that stay is held against the same
 * model as what actors do; what they do wrong must end in the reply that RabbitMQ gives.
 *
 *   stream.c   bytes: sent in pieces, read slowly or not at all for a while, cut anywhere
 *   remote.c   the conversation: what comes is taken apart, and must be what was to come
 *   content.c  messages that come: deliveries, returns
 *   script.c   what remotes do
 *   misuse.c   what they do wrong, and what must come of it
 *
 * What a remote knows is what has been told to it. An acknowledgement counts as done when an
 * answer, or a confirm, of something that was sent behind it on its channel has come; until then
 * the message may be there or not. Leases end, as the model sees it, when a remote sends what ends
 * them: the broker may give the message to somebody else long before the answer is read. Deliveries
 * that come after that are *stale*: the broker wrote them before. Where the broker may close a
 * channel of its own accord, nobody can say what is stale: then a delivery is doubtful.
 */
#ifndef SLUICE_SIMULATION_REMOTE_H
#define SLUICE_SIMULATION_REMOTE_H

#include "protocols/amqp091/codec.h"
#include "world.h"

#define REMOTE_PORT      5672u /* of the first worker; the next has the next */
#define REMOTE_CHANNELS  3u
#define REMOTE_CONSUMERS 2u                    /* of a channel */
#define CHANNELS_AGREED  (REMOTE_CHANNELS + 1) /* as the connection's maximum */
#define CHANNELS_EXTRA   1000u                 /* numbers of more than that */
#define HELD_MAX         256u
#define AWAITS_MAX       24u
#define NOT_STILL        UINT32_MAX
#define SETTLING_MAX     512u
#define ORDERS           16u
#define REMOTE_OUT_MAX   (512u << 10) /* bytes that wait to be sent: then a remote does no more */

/* ---- stream.c ---- */

struct bytes {
    uint8_t *data;
    size_t start, size, capacity; /* `size` bytes from `start` on */
};

/* One end of a connection, the client's. */
struct cable {
    struct world *world;
    struct stream *stream; /* NULL: none */
    struct bytes out, in;
    struct timer write, read;
    bool is_slow_reader, is_slow_writer;
    bool is_mute; /* sends nothing any more */
    bool reads_not;
    bool is_full;   /* the stream takes no more for now */
    bool has_ended; /* nothing more comes */
    void (*arrived)(struct cable *cable);
};

/* Room behind what is to be sent; cable_sent() says how much of it was used. */
uint8_t *cable_room(struct cable *cable, size_t size);
void cable_sent(struct cable *cable, size_t size);

/* False: nobody listens. */
bool cable_connect(struct cable *cable, unsigned worker);

/* At rest: all at once, and always. */
void cable_hurry(struct cable *cable);

void cable_shut(struct cable *cable);              /* our direction */
void cable_close(struct cable *cable, bool reset); /* with whatever is on its way */

/* ---- what a remote knows ---- */

enum remote_state {
    REMOTE_AWAY,
    REMOTE_GREETING, /* up to open-ok */
    REMOTE_OPEN,
    REMOTE_LEAVING, /* connection.close is sent */
    REMOTE_ENDED,   /* close-ok has come or gone: the end of the stream follows */
};

/* What must come before anything else does, or instead of it. */
struct expectation {
    const char *name; /* NULL: nothing is wrong */
    unsigned channel; /* 0: the connection is closed */
    uint16_t code;    /* 0: any, or none and only the end of the stream */
    uint32_t method;
};

/* A request whose answer is to come. */
struct await {
    uint32_t request, answer; /* methods */
    uint8_t queue, consumer;  /* QUEUES: none that is ours */
    bool may_fail;            /* its channel is closed then */
    bool sent_blocked;
    unsigned blocks; /* how often the remote had been blocked */
    uint64_t alarms; /* that had ended; UINT64_MAX: one was on */
    uint64_t settled, published;
    uint32_t transaction;
};

struct held {
    uint64_t tag, id;
    uint32_t seen;   /* known.seen then */
    uint32_t serial; /* of its consumer; 0: from a get */
};

/* An acknowledgement on its way. */
struct settling {
    uint64_t id;
    uint32_t seen;  /* known.seen then */
    unsigned moves; /* moves_ever then; NOT_STILL: its queue was moving */
};

struct published {
    uint64_t id;
    uint64_t settled; /* how many acknowledgements were sent before it */
    bool must_return;
};

enum consumer_state { CONSUMER_NONE, CONSUMER_ASKED, CONSUMER_THERE, CONSUMER_LEAVING };

struct remote_consumer {
    enum consumer_state state;
    uint8_t queue;
    bool no_ack, is_reply;
    uint32_t serial; /* in its tag */
    uint16_t prefetch;
    uint32_t held;
    struct {
        uint32_t publisher;
        uint64_t id;
    } last[ORDERS]; /* seen first by this consumer, by publisher */
};

enum channel_state { CHANNEL_NONE, CHANNEL_OPENING, CHANNEL_OPEN, CHANNEL_CLOSING };
enum channel_mode { MODE_PLAIN, MODE_CONFIRM, MODE_TX };

/* A message that is coming. */
struct incoming {
    uint32_t method; /* basic.deliver, get-ok, return; 0: none */
    bool has_header, redelivered;
    uint8_t consumer; /* of this channel; REMOTE_CONSUMERS: a get */
    uint8_t queue;
    uint64_t tag, size;
    char exchange[256], key[256], reply_to[256];
    struct bytes body;
};

struct remote_channel {
    uint16_t number;
    enum channel_state state;
    enum channel_mode mode;
    uint32_t publisher;  /* as the model knows it */
    bool is_stale;       /* what comes now was written before something that was sent */
    bool has_forgotten;  /* something that it may hold still */
    unsigned recovering; /* basic.recover is sent, so many times */
    bool is_committing;  /* between tx.commit and its answer */
    struct await awaits[AWAITS_MAX];
    size_t await_count;
    struct held held[HELD_MAX];
    size_t held_count;
    uint64_t last_tag;
    struct settling settling[SETTLING_MAX]; /* a ring by number */
    uint64_t settled_sent, settled_known;
    struct published *published; /* by sequence, from 1 on */
    uint64_t sequence, confirmed, looked_at_returns, published_capacity;
    struct remote_consumer consumers[REMOTE_CONSUMERS];
    struct incoming incoming;
    uint16_t prefetch, prefetch_global;
    uint8_t get_queue; /* of the get that is being answered */
};

struct remote {
    struct world *world;
    unsigned index;
    struct cable cable;
    enum remote_state state;
    struct actor self; /* who it is to the model */
    struct remote_channel channels[REMOTE_CHANNELS];
    struct expectation expected;
    uint32_t frame_max;
    uint16_t heartbeat_s;
    struct timer beat;
    bool knows_blocked, is_blocked;
    unsigned blocks;
    bool is_drained; /* the broker is asking it to go */
    uint64_t mute_since_ns, heard_ns, delivered_ns;
    uint32_t serial; /* of consumers */
};

/* ---- remote.c ---- */

void remote_init(struct world *w, unsigned index);
void remote_fini(struct remote *r);

/* Connects, or does something; for a random moment of a life. */
void remote_act(struct remote *r);

/* A shard has failed: the broker may have closed what it likes, and has not told it yet. */
void remote_doubt(struct remote *r);

/* The broker is about to close its connections. */
void remote_drain(struct remote *r);

/* Whatever it holds is lost; the stream is closed. */
void remote_cut(struct remote *r, bool reset);

/* Of one that agreed on heartbeats. */
bool remote_is_silent(const struct remote *r);

/* Something has come to it just now, so that more of it may be on its way. */
bool remote_is_getting(const struct remote *r);

/* While the world rests, so many times; then, whether all that it has asked is answered. */
void remote_rest(struct remote *r, unsigned turn);
void remote_check_rest(const struct remote *r);

/* Where the queue is now, as its worker knows; 0: it knows none. */
unsigned remote_shard(const struct remote *r, unsigned queue);

void remote_send(struct remote *r, uint16_t channel, const struct method *method);
void remote_send_bytes(struct remote *r, const void *bytes, size_t size);

/* The same for a request; `await` says what is to come, the rest of it is filled in. False: too
 * many are on their way. */
bool channel_ask(struct remote *r, struct remote_channel *ch, const struct method *method,
                 struct await await);

/* Has nothing on its way. */
bool channel_is_calm(const struct remote_channel *ch);

/* False: somebody else has got it since, so the channel was closed, and that is not heard yet. */
bool held_is_ours(const struct remote *r, const struct held *held);

/* Has something on its way that may close it: nobody knows what it still holds. */
bool channel_is_in_doubt(const struct remote_channel *ch);

/* A disk is full, or failed or lost something: the broker may close what it likes. */
bool world_may_fail(const struct world *w);

/* From now on the broker may give to others what the channel holds; deliveries are stale. */
void channel_doom(struct remote *r, struct remote_channel *ch);
void remote_doom(struct remote *r);

/* From now on the broker may give to others, as if nobody had seen it, what is on its way. */
void channel_unsee(struct remote *r, const struct remote_channel *ch);

/* ---- content.c ---- */

void content_begin(struct remote *r, struct remote_channel *ch, const struct method *method);
void content_header(struct remote *r, struct remote_channel *ch, struct slice payload);
void content_body(struct remote *r, struct remote_channel *ch, struct slice part);

/* All returns of what was published up to there must have come. */
void content_check_returns(struct remote *r, struct remote_channel *ch, uint64_t sequence);

/* ---- script.c ---- */

void script_act(struct remote *r);
void script_open_channel(struct remote *r, struct remote_channel *ch);

/* Settles what is held at that index, or all up to there. */
void script_settle(struct remote *r, struct remote_channel *ch, size_t index, bool multiple,
                   uint32_t method, bool requeue);

/* Something that the model does not know of is about to be published; false: not here. */
bool script_publish_unknown(struct remote_channel *ch);
size_t script_properties(uint8_t *properties, bool persistent, const char *reply_to);
void script_publish_bytes(struct remote *r, uint16_t channel, const char *exchange, const char *key,
                          bool mandatory, struct slice properties, struct slice body);

/* ---- misuse.c ---- */

/* Does something wrong; false: nothing can be done now. */
bool misuse_act(struct remote *r);

#endif
