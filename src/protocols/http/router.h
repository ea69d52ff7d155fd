/* Which route a path and a method mean. */
#ifndef SLUICE_HTTP_ROUTER_H
#define SLUICE_HTTP_ROUTER_H

#include "protocols/http/exchange.h"

struct http_match {
    const struct http_route *route; /* NULL: none with this method */
    bool path_is_known;             /* some route has this path */
    char allowed[64];               /* "HEAD, GET, OPTIONS": the methods of this path */
    struct slice parameters[HTTP_PARAMETERS_MAX]; /* inside the path, not decoded yet */
    size_t parameter_count;
};

/* `path` begins with `/`. A path may end with one `/` more. */
void http_match(const struct http_route *routes, size_t count, struct slice method,
                struct slice path, struct http_match *match);

#endif
