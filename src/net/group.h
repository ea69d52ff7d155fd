/*
 * One port for several workers. Each worker has a server of its own (net/server.h); those of the
 * same port are the members of a *group*, which decides how connections come to them.
 *
 * SPREAD_COUNTED  The first member listens and gives each connection to the member that has the
 *                 fewest, itself included. Few connections are spread evenly, and so are many whose
 *                 lives differ; a second broker that is started by mistake finds the port taken.
 *                 A connection costs a letter more (15 µs of processor time where the workers
 * sleep; all of connecting, asking once and closing costs 120), and accepting has one processor at
 * most. This is for who keeps connections, as messaging clients do.
 *
 * SPREAD_HASHED   Each member listens on the port (SO_REUSEPORT), and the system chooses by a hash
 *                 of the addresses. Nothing is handed over. But four connections over four workers
 *                 leave one worker with two or more of them nine times out of ten; the connections
 *                 that wait on a member which stops listening are reset; and every process of the
 *                 same user may join in unnoticed. This is for thousands of short connections a
 *                 second.
 *
 * Threads: server_group_new() and server_group_free() when no member's loop runs; the members are
 * opened one after the other, the first one first, and are freed when none of their loops runs.
 */
#ifndef SLUICE_NET_GROUP_H
#define SLUICE_NET_GROUP_H

#include "loop/loop.h"

enum server_spread { SPREAD_COUNTED, SPREAD_HASHED };

struct server_group;

struct server_group *server_group_new(unsigned members, enum server_spread spread);

/* After all loops of its members. */
void server_group_free(struct server_group *group);

/* ---- for server.c ---- */

/* Gets the connections that others have given to this member, on its loop; to be joined. */
typedef void group_take(void *context, struct stream *stream);

void group_enter(struct server_group *group, unsigned member, struct loop *loop, group_take *take,
                 void *context);

/* No more connections for this member. */
void group_refuse(struct server_group *group, unsigned member);
void group_leave(struct server_group *group, unsigned member);

/* What a member has to listen with; false: it does not listen. */
bool group_listens(const struct server_group *group, unsigned member,
                   struct listen_options *options);
uint16_t group_port(const struct server_group *group);
void group_set_port(struct server_group *group, uint16_t port);

/* Gives the connection to another member, or returns false: it stays here. */
bool group_give(struct server_group *group, unsigned member, struct stream *stream);

/* Of the member's connections: one more, which nobody has given to it, or one less. */
void group_count(struct server_group *group, unsigned member, int change);

/* Of all members; may change while it is asked. */
unsigned group_connections(const struct server_group *group);

#endif
