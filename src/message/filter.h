/*
 * Which messages are meant: conditions, all of which hold. They are a table of texts (fields.h), so
 * that they go by mail and through any protocol as they are:
 *
 *   header.NAME     the header of that name has this value
 *   property.NAME   the same for a property, by its name in AMQP 0-9-1: property.message_id
 *   exchange        it was published to
 *   routing_key     with which key
 *   death.queue     a dead letter, which died first in this queue
 *   death.reason    a dead letter, whose newest death has this reason
 *
 * Values are compared as texts: numbers in decimal, booleans as true and false. What is neither
 * text, number nor boolean (tables, arrays, void) equals nothing.
 */
#ifndef SLUICE_MESSAGE_FILTER_H
#define SLUICE_MESSAGE_FILTER_H

#include "message/message.h"

#define FILTER_CONDITIONS_MAX 16u
#define FILTER_BYTES_MAX      8192u /* of the table */

struct message_filter {
    struct slice conditions;     /* checked; borrowed */
    uint64_t since_ms, until_ms; /* when the broker took it: from then on; before then, 0: ever */
};

/* E_INVALID: a condition that there is not, or is no text; E_LIMIT: too many, or too large. */
int filter_check(struct slice conditions, struct failure *failure) MUST_CHECK;

bool filter_accepts(const struct message_filter *filter, const struct message *message);

#endif
