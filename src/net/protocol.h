/*
 * A protocol as the network sees it: bytes in, wishes and bytes out through the wire. The explicit
 * table of protocols is in main.c. All functions are called on the session's worker; none may
 * block. What the broker tells a session (deliveries, completions) goes another way: struct
 * client_events in broker/broker.h.
 */
#ifndef SLUICE_NET_PROTOCOL_H
#define SLUICE_NET_PROTOCOL_H

#include "net/wire.h"

enum sniff { SNIFF_NO, SNIFF_YES, SNIFF_MORE };

/* Why a session is closed by its connection. */
enum close_reason {
    CLOSE_PEER,     /* the peer's end was read, or a reset */
    CLOSE_PROTOCOL, /* input() returned an error, or the session asked with wire.finished */
    CLOSE_TIMEOUT,  /* tick() returned TICK_EXPIRED */
    CLOSE_STOP,     /* the broker stops, or an operator closes the connection */
};

#define TICK_NEVER   UINT64_MAX
#define TICK_EXPIRED 0

struct protocol {
    const char *name; /* "amqp" */

    /* Do these first bytes of a connection belong to this protocol? */
    enum sniff (*sniff)(struct slice start);

    /* Makes a session. `context` is what main.c bound to the protocol (the worker). 0 or an error,
     * then nothing is left behind and the connection is closed. */
    int (*open)(void *context, struct wire *wire, void **session);

    /* Takes bytes, returns how many it consumed: all, or less when the rest is an incomplete item
     * or the session cannot go on now; the same bytes come again with more behind them. wire.again
     * asks for that without new bytes. An error is fatal: what is in the output is still written
     * (best effort), then the connection closes. */
    ssize_t (*input)(void *session, struct slice bytes);

    /* The most bytes an incomplete item may have; input() is given at least so much before it must
     * consume. */
    size_t (*input_max)(void *session);

    /* The output has fallen below OUTPUT_LOW_WATER after having been above OUTPUT_HIGH_WATER, or
     * has been emptied. */
    void (*drained)(void *session);

    /* At the time it asked for: heartbeats, time-outs. Returns the next time (loop_now_ns) or
     * TICK_NEVER, or TICK_EXPIRED to be closed. Called once after open(), too. */
    uint64_t (*tick)(void *session, uint64_t now_ns);

    /* Asks a session to end in its protocol's way (a connection.close with this text); it sets
     * wire.finished when done. The connection closes it after 5 s anyway. */
    void (*drain)(void *session, const char *reason);

    /* No more input and no more output: give back what is held. Idempotent; returns false when work
     * remains that is proportional to a count, and is then called again in the next turn. */
    bool (*close)(void *session, enum close_reason reason);

    /* Has everything that was asked completed? Then free() may be called. */
    bool (*idle)(void *session);
    void (*free)(void *session);

    /* Instead of close(), when a crash is simulated: drops what it holds without a word to the
     * broker, which is abandoned next; then free(). NULL: not in simulation. */
    void (*abandon)(void *session);
};

#endif
