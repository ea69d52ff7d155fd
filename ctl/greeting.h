/*
 * What an AMQP 0-9-1 broker says of itself to whoever connects, before any login: the
 * server-properties of connection.start (section 4.2.2 of the specification, and 1.4.2.1 of its
 * reference).
 */
#ifndef SLUICE_CTL_GREETING_H
#define SLUICE_CTL_GREETING_H

#include "base/bytes.h"

#include <netinet/in.h>

#define GREETING_MAX        8192u
#define GREETING_TIMEOUT_MS 2000

struct greeting {
    uint8_t bytes[GREETING_MAX];
    struct slice properties; /* a table, inside of bytes */
};

/* E_IO, E_TIMEOUT, E_INVALID: what answers is no such broker. */
int greeting_read(const struct sockaddr_in6 *address, struct greeting *greeting,
                  struct failure *failure) MUST_CHECK;

#endif
