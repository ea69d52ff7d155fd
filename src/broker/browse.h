/*
 * Browsing: a worker looks at messages of a queue that is hosted here, a page at a time, for a
 * client of its own or of another worker. Nothing is given out, marked, moved or kept in memory.
 *
 * A page is bounded: in messages and bytes that it tells, and in messages that it looks at, so that
 * a filter that hits nothing comes back, too. It is made in slices of a turn, and waits where cold
 * messages are read back from the log.
 */
#ifndef SLUICE_BROKER_BROWSE_H
#define SLUICE_BROKER_BROWSE_H

#include "broker/broker_private.h"

/* What is wanted of one page. */
struct browse_range {
    uint64_t from; /* sequence: the first that is looked at */
    uint32_t limit;
    bool ready, leased, delayed;
    struct message_filter filter; /* conditions: borrowed */
};

/* How far a page went. */
struct browse_end {
    uint64_t next; /* sequence, to go on from */
    uint64_t unreadable;
    bool is_over; /* the queue has no more */
};

/* A step of the request: makes the page of the queue. Where the request came by mail, from that
 * peer under that token, the page goes by mail; else into the request's target. */
int browse_here(struct request *request, struct hosted *hosted, const struct browse_range *range,
                struct peer *peer, uint64_t token) MUST_CHECK;

/* One message of the page that the request waits for; and that this was all. `message` is borrowed,
 * or lent. */
void browsing_add(struct request *request, const struct browsed *found);
void browsing_end(struct request *request, const struct browse_end *end);

#endif
