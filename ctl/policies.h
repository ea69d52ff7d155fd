/* Policies over the management API. */
#ifndef SLUICE_CTL_POLICIES_H
#define SLUICE_CTL_POLICIES_H

#include "ctl/api.h"

#include <stdbool.h>
#include <stdio.h>

struct policy_words {
    const char *vhost, *name, *pattern;
    const char *definition; /* JSON */
    const char *apply_to;
    long priority;
    bool is_operator;
};

/* Of one virtual host (NULL: of all that the user may see), as a table or as the API tells them.
 * Errors as api_call(). */
int policies_list(struct api *api, const char *vhost, bool is_operator, bool as_json, FILE *out,
                  struct failure *failure) MUST_CHECK;

/* Returns when it is in force. E_INVALID also where the definition is no JSON. */
int policies_set(struct api *api, const struct policy_words *words,
                 struct failure *failure) MUST_CHECK;
int policies_clear(struct api *api, const struct policy_words *words,
                   struct failure *failure) MUST_CHECK;

#endif
