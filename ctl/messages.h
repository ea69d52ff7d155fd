/* Messages over the management API: looked at, taken, published. */
#ifndef SLUICE_CTL_MESSAGES_H
#define SLUICE_CTL_MESSAGES_H

#include "ctl/api.h"

#include <stdbool.h>
#include <stdio.h>

#define MESSAGES_WHERE_MAX 16u

/* Which ones: NULL and 0 where nothing was said. */
struct messages_wanted {
    const char *from, *limit, *state, *since, *until;
    const char *where[MESSAGES_WHERE_MAX]; /* NAME=VALUE */
    unsigned where_count;
};

/* As milliseconds since 1970: such a number as it is, or so long ago: 90s, 10m, 2h, 3d. E_INVALID.
 */
int messages_time(const char *text, char number[24], struct failure *failure) MUST_CHECK;

/* Looks at them without touching them. Errors as api_call(), and E_INVALID. */
int messages_browse(struct api *api, const char *vhost, const char *queue,
                    const struct messages_wanted *wanted, bool as_json, FILE *out,
                    struct failure *failure) MUST_CHECK;

/* Takes some; `ackmode` as in RabbitMQ's management API. */
int messages_get(struct api *api, const char *vhost, const char *queue, const char *limit,
                 const char *ackmode, bool as_json, FILE *out, struct failure *failure) MUST_CHECK;

/* Publishes one, persistent, with headers NAME=VALUE. E_NOT_FOUND: no queue wanted it. */
int messages_publish(struct api *api, const char *vhost, const char *exchange, const char *key,
                     const char *payload, const char *const *headers, unsigned header_count,
                     struct failure *failure) MUST_CHECK;

#endif
