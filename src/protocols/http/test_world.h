/*
 * For tests: a broker of several workers in virtual time, each with its server of the management
 * API (port 1 + worker) and of metrics (port 101 + worker), and clients that send bytes and keep
 * what comes back. Everything random comes from the seed.
 */
#ifndef SLUICE_HTTP_TEST_WORLD_H
#define SLUICE_HTTP_TEST_WORLD_H

#include "broker/worker.h"
#include "net/server.h"
#include "protocols/http/session.h"

#define WORLD_WORKERS_MAX 3u

#define PORT_MANAGEMENT 1
#define PORT_METRICS    101

struct world {
    unsigned workers;
    struct loop *loops[WORLD_WORKERS_MAX + 1]; /* the last one is the clients' */
    struct office *office;
    struct simulated_disk *disks[WORLD_WORKERS_MAX];
    struct store *stores[WORLD_WORKERS_MAX];
    struct worker *worker[WORLD_WORKERS_MAX];
    struct http_site sites[WORLD_WORKERS_MAX][2];
    struct server *servers[WORLD_WORKERS_MAX][2];
    struct logger logger;
    unsigned started, stopped;
    int result;
};

/* pending_ppm: how many of the broker's answers that could be DONE are PENDING. */
void world_init(struct world *world, unsigned workers, uint64_t seed, uint32_t pending_ppm);

/* Drains the servers, stops the workers, frees everything. Clients of the broker must be gone. */
void world_fini(struct world *world);

void world_run(struct world *world, uint64_t for_ms);

/* ---- a client ---- */

struct http_peer {
    struct world *world;
    struct stream *stream; /* NULL once it is closed */
    char *answer;          /* all that came, with a 0 behind it */
    size_t size, capacity;
    bool is_ended;  /* the server's end was read, or a reset */
    bool reads_not; /* a client that is slow */
};

void http_peer_open(struct http_peer *peer, struct world *world, uint16_t port);
void http_peer_close(struct http_peer *peer);

/* Sends all of it, running turns while the pipe is full. */
void http_peer_send(struct http_peer *peer, const char *bytes, size_t size);

/* A client that is slow: reads, or not. */
void http_peer_read(struct http_peer *peer, bool reads);

/* ---- a client of the broker's, to have queues to look at ---- */

struct actor {
    struct client *client;
    struct request request;
    bool is_done;
};

/* Logged in as guest, in the virtual host "/". */
void actor_open(struct actor *actor, struct world *world, unsigned worker);
void actor_close(struct actor *actor, struct world *world);
void actor_declare(struct actor *actor, struct world *world, const char *name, bool durable);
void actor_delete(struct actor *actor, struct world *world, const char *name);
void actor_publish(struct actor *actor, struct world *world, const char *queue);

#endif
