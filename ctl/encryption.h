/* What a broker says of encryption at rest, over the management API. */
#ifndef SLUICE_CTL_ENCRYPTION_H
#define SLUICE_CTL_ENCRYPTION_H

#include "ctl/api.h"

#include <stdbool.h>
#include <stdio.h>

/* Which keys there are and which are needed, and what is encrypted: a line each, or as the API
 * tells it. Errors as api_call(), and E_DENIED: the user may not see it. */
int encryption_print(struct api *api, bool as_json, FILE *out, struct failure *failure) MUST_CHECK;

#endif
