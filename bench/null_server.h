/*
 * The server that costs next to nothing: what the load generator is measured against.
 *
 * It speaks just as much AMQP 0-9-1 as the generator does, on 127.0.0.1, one channel per
 * connection: everybody may log in; queues, fanout exchanges and bindings can be declared and are
 * forgotten at the end; what is published is confirmed at once and passed straight on to the
 * queue's consumers in turn, frames of header and body copied as they came, or kept in memory until
 * there is one. Prefetch and acknowledgements are taken and ignored. One thread.
 *
 * On request it does one thing wrong, so that one can see the generator notice.
 */
#ifndef SLUICE_BENCH_NULL_SERVER_H
#define SLUICE_BENCH_NULL_SERVER_H

#include "options.h"

/* Prints "listening on 127.0.0.1:PORT" and serves until SIGINT or SIGTERM. */
int null_server_run(const struct options *options, struct failure *failure) MUST_CHECK;

#endif
