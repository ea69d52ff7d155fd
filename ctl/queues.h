/* What can be seen of queues, and done with them, over the management API. */
#ifndef SLUICE_CTL_QUEUES_H
#define SLUICE_CTL_QUEUES_H

#include "ctl/api.h"

#include <stdbool.h>
#include <stdio.h>

/* Those of one virtual host (NULL: of all that the user may see), as a table or as the API tells
 * them. Errors as api_call(). */
int queues_list(struct api *api, const char *vhost, bool as_json, FILE *out,
                struct failure *failure) MUST_CHECK;

/* One queue to another shard. Returns when it is there. */
int queues_move(struct api *api, const char *vhost, const char *name, unsigned shard,
                struct failure *failure) MUST_CHECK;

/* All shards shall have as many. Returns when that has begun. */
int queues_rebalance(struct api *api, struct failure *failure) MUST_CHECK;

#endif
