/*
 * HTTP/1.1 (RFC 9110, 9112): the protocol's table for process.c. Its context is a struct http_site,
 * which says what is served: the management API, or metrics.
 */
#ifndef SLUICE_HTTP_SESSION_H
#define SLUICE_HTTP_SESSION_H

#include "net/protocol.h"
#include "protocols/http/exchange.h"

#define HTTP_HEAD_MAX 16384u /* bytes of a request line with its headers; more is 431 */
#define HTTP_PATH_MAX 8192u  /* more is 414 */
#define HTTP_SKIP_MAX 65536u /* of a body that nobody wants, read to keep the connection */

struct http_site {
    const struct http_route *routes;
    size_t route_count;
    struct worker *worker;
    const char *realm;           /* told to who has not logged in */
    uint32_t idle_timeout_ms;    /* nothing was read or written for so long; RabbitMQ: 60000 */
    uint32_t request_timeout_ms; /* from the first byte of a request to its last header */
    uint64_t started_ns;         /* loop_now_ns() when the process began */
};

extern const struct protocol http_protocol;

#endif
