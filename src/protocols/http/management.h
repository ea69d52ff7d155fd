/* RabbitMQ's management API: the routes, for a struct http_site. */
#ifndef SLUICE_HTTP_MANAGEMENT_H
#define SLUICE_HTTP_MANAGEMENT_H

#include "protocols/http/session.h"

const struct http_route *management_routes(size_t *count);

#endif
