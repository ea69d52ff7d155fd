/*
 * One connection: a stream below, a session above, the wire between them. For server.c.
 *
 *      SNIFFING --first bytes--> OPEN --peer gone, error, finished, timeout, stop--> CLOSING -->
 * gone
 *          \______________________________________________________________________/
 *
 * SNIFFING  reads until one of the protocols knows the bytes
 * OPEN      there is a session; bytes go both ways
 * CLOSING   the session gives back what it holds (close() in slices, until idle(), then free());
 *           meanwhile what is pending is still written, for LINGER_NS at most; then our direction
 *           is shut and the peer's input thrown away until its end, so that no reset overtakes the
 *           last bytes
 *
 * Input is read into memory that all connections of a server share; what a session leaves (part of
 * an item) is kept in the connection's own memory, up to input_max(). So a quiet connection holds
 * no buffer. Small rests are copied in front of the next read; large ones are read on in place.
 */
#ifndef SLUICE_NET_CONNECTION_H
#define SLUICE_NET_CONNECTION_H

#include "net/server.h"

#define INPUT_SIZE       65536u           /* of a read */
#define INPUT_COPY_MAX   4096u            /* a rest up to this is copied, not read on in place */
#define INPUT_TURN_MAX   (2 * INPUT_SIZE) /* one connection's in a turn */
#define SNIFF_MAX        1024u            /* who cannot tell by then has said no */
#define SLICES_MAX       64               /* of one write */
#define PATIENT_SLICE_NS 25000u           /* of a turn, for all who are patient */
#define LINGER_NS        (5000 * NANOSECONDS_PER_MS)
#define LINGER_SHUT_NS   (1000 * NANOSECONDS_PER_MS) /* of that, for the peer's end after ours */

enum connection_state { CONNECTION_SNIFFING, CONNECTION_OPEN, CONNECTION_CLOSING };

/* What the connections of a server have in common. */
struct connection_host {
    struct server_options options;
    struct server_statistics statistics;
    struct output_cache chunks;
    struct account account; /* of rests */
    uint8_t *input;         /* INPUT_COPY_MAX + INPUT_SIZE bytes, used within a read only; NULL
                               before the first connection */

    /* However many connections are ready, a turn reads for TURN_SLICE_NS and writes for as long.
     * Who has to wait is first in the next turn. Those who are *patient* wait behind the others,
     * and get PATIENT_SLICE_NS for both: who has not logged in, who goes on with what was
     * sent before, who closes. So a thousand requests or logins at once hold nobody up who sends
     * one. */
    struct list readers, patient_readers; /* by connection.reader */
    struct list touched, patient_touched; /* by connection.touched */
    struct task flush;                    /* FLUSH: of those touched */
    struct task wait;                     /* BULK: of all others */
    void (*gone)(struct connection_host *host);
};

struct connection {
    struct list link; /* the server's */
    struct connection_host *host;
    struct stream *stream; /* NULL when closed */
    const struct protocol *protocol;
    void *session; /* NULL before and after */
    struct wire wire;
    enum connection_state state;
    enum close_reason reason;
    bool session_is_closed;
    bool peer_has_ended; /* its end was read */
    bool output_is_shut;
    bool socket_is_full; /* wait until it is writable */
    bool was_high;       /* the output was above OUTPUT_HIGH_WATER */
    bool was_paused;
    uint8_t *rest; /* input that the session has left */
    size_t rest_size, rest_capacity;
    struct list reader;   /* in host.readers or patient_readers: waits for its turn */
    struct list touched;  /* in host.touched or patient_touched: something to write, or wishes */
    bool again;           /* input() is to be called without new bytes */
    struct task teardown; /* DISPATCH: the next step of closing */
    struct timer tick;
    uint64_t idle_wait_ns; /* while CLOSING: until the session is asked again whether it is idle */
    struct timer deadline; /* of the handshake, draining or lingering */
};

/* With options, gone and account filled in by the caller. */
void connection_host_init(struct connection_host *host);
void connection_host_fini(struct connection_host *host);

/* Takes the stream. Frees itself after `gone`. */
struct connection *connection_new(struct connection_host *host, struct stream *stream);

/* Asks the session to end, and closes it at the time (of loop_now_ns()) anyway. */
void connection_drain(struct connection *connection, const char *reason, uint64_t deadline_ns);

/* Closes at once. */
void connection_abort(struct connection *connection);

/* A simulated crash: the session drops what it holds; later the memory goes, and the stream. */
void connection_abandon(struct connection *connection);
void connection_free(struct connection *connection);

#endif
