/* Messages as JSON, as RabbitMQ's management API shows them. */
#ifndef SLUICE_HTTP_MESSAGE_JSON_H
#define SLUICE_HTTP_MESSAGE_JSON_H

#include "protocols/http/json.h"

#define PAYLOAD_WHOLE UINT64_MAX

struct payload_options {
    bool as_base64;    /* else only what is no UTF-8 */
    uint64_t truncate; /* bytes of a body at the most, or PAYLOAD_WHOLE */
};

/* "auto" or "base64"; E_INVALID. */
int payload_encoding_parse(struct slice text, struct payload_options *options) MUST_CHECK;

/* An object: exchange, routing_key, properties (headers among them), payload_bytes (of the whole
 * body), payload, payload_encoding. NULL: no memory. */
json_t *http_json_message(const struct message *message, const struct payload_options *options);

#endif
