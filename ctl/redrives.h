/* Redrives over the management API: begun and followed to their end, listed, stopped. */
#ifndef SLUICE_CTL_REDRIVES_H
#define SLUICE_CTL_REDRIVES_H

#include "ctl/messages.h"

struct redrive_options {
    const char *to_queue, *exchange, *key, *rate;
    bool is_preview;
    bool in_background; /* it is begun, and its number printed */
};

/* Returns when it is over; an interrupt (INT, TERM) stops it. Progress goes to a terminal, what
 * became of it to `out`. E_FAILED: it has not done all. Else as api_call(), and E_INVALID. */
int redrive_run(struct api *api, const char *vhost, const char *queue,
                const struct messages_wanted *wanted, const struct redrive_options *options,
                bool as_json, FILE *out, struct failure *failure) MUST_CHECK;

int redrives_list(struct api *api, bool as_json, FILE *out, struct failure *failure) MUST_CHECK;

/* One that is under way; of one that is over the broker forgets what it has done. */
int redrive_cancel(struct api *api, const char *id, struct failure *failure) MUST_CHECK;

#endif
