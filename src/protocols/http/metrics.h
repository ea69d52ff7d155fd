/*
 * Metrics in Prometheus's text format (version 0.0.4): the routes, for a struct http_site. The
 * names are RabbitMQ's where it has one for what is measured, else they begin with sluice_.
 */
#ifndef SLUICE_HTTP_METRICS_H
#define SLUICE_HTTP_METRICS_H

#include "protocols/http/session.h"

const struct http_route *metrics_routes(size_t *count);

#endif
