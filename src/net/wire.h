/*
 * What a session sees of its connection, and all it may touch of it: an output to write to, who the
 * peer is, and three wishes. The session never sees a socket. net/connection.c is the one
 * implementation; tests and fuzzers make their own by filling in the struct.
 */
#ifndef SLUICE_NET_WIRE_H
#define SLUICE_NET_WIRE_H

#include "net/output.h"

struct wire {
    struct output output;

    /* Called by wire_touch() once per turn, so that the connection is looked at in the FLUSH phase.
     */
    void (*touched)(struct wire *wire);
    bool is_touched;

    /* Wishes, looked at after each call into the session and in the FLUSH phase: */
    bool again;    /* call input() again with what is left, in the next turn, even if nothing new
                      arrived */
    bool paused;   /* do not read: the session is out of credit, or waits for something */
    bool finished; /* write what is pending, then close */

    /* The session says so when its peer has logged in; before that, the connection's work waits
     * behind that of others. Operators' sessions never do. */
    bool is_established;

    /* Facts. */
    const char *protocol; /* as in "amqp" */
    char peer_host[64];
    uint16_t peer_port;
    char local_host[64];
    uint16_t local_port;
    bool peer_is_loopback;
    bool is_tls;
    uint64_t bytes_received, bytes_sent;
    uint64_t connected_at_ms; /* wall clock */
};

/* After writing to the output or making a wish from outside of input(): a delivery, an event, a
 * timer. */
static inline void wire_touch(struct wire *wire)
{
    if (!wire->is_touched) {
        wire->is_touched = true;
        wire->touched(wire);
    }
}

#endif
