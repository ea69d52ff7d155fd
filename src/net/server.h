/*
 * A listener and its connections: accepts, tells protocols apart by their first bytes, limits how
 * many there are, drains and closes them.
 */
#ifndef SLUICE_NET_SERVER_H
#define SLUICE_NET_SERVER_H

#include "base/account.h"
#include "base/logging.h"
#include "loop/loop.h"
#include "net/group.h"
#include "net/protocol.h"

struct server;

/* One of the protocols a listener speaks, and what its open() is given. */
struct server_protocol {
    const struct protocol *protocol;
    void *context;
};

struct server_options {
    struct loop *loop;
    const struct logger *logger;
    struct account *account; /* input that waits for more is charged here; may be NULL */
    struct listen_options listen;

    /* The servers of the same port on other workers, and which of them this is: 0 is the first.
     * NULL: it is alone. */
    struct server_group *group;
    unsigned member;

    /* Asked in order whether a connection's first bytes are theirs. When all say no the first gets
     * them, so that it can answer in its own way. The array is copied. */
    const struct server_protocol *protocols;
    unsigned protocol_count;

    uint64_t handshake_ms;    /* until the protocol must be known; 0: for ever */
    unsigned connections_max; /* of the group; more are closed at once; 0: no limit */
};

struct server_statistics {
    uint64_t accepted; /* by this member or given to it */
    uint64_t refused;  /* beyond connections_max */
    uint64_t closed;
    uint64_t silent; /* the protocol was not known in time */
    uint64_t accept_errors;
    uint64_t bytes_received, bytes_sent;
};

/* Errors as of loop_listen(). */
int server_open(const struct server_options *options, struct server **server,
                struct failure *failure) MUST_CHECK;

uint16_t server_port(const struct server *server);
unsigned server_connection_count(const struct server *server);
const struct server_statistics *server_statistics(const struct server *server);

/* Listens no more, asks each session to end, and closes what is left at the deadline (a time of
 * loop_now_ns()). Again: may bring the deadline forward. Connections are gone when
 * server_connection_count() is 0. */
void server_drain(struct server *server, const char *reason, uint64_t deadline_ns);

/* There must be no connection, unless it was abandoned; and no loop of its group may run. */
void server_free(struct server *server);

/* A simulated crash: sessions drop what they hold and tell nobody. Then come the broker's
 * worker_abandon() and server_free(); the loop must not run again. */
void server_abandon(struct server *server);

#endif
