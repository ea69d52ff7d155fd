#include "protocols/http/router.h"

#include "base/assert.h"

#include <stdio.h>

/* The word up to the next `/`, which is taken, too. */
static struct slice take_word(struct slice *path)
{
    const uint8_t *end = path->size ? memchr(path->data, '/', path->size) : NULL;
    size_t size = end ? (size_t)(end - path->data) : path->size;
    struct slice word = slice_of(path->data, size);
    size_t used = size + (end != NULL);

    *path = slice_of(path->data + used, path->size - used);
    return word;
}

static bool fits(const char *pattern, struct slice path, struct http_match *match)
{
    struct slice rest = slice_text(pattern);

    match->parameter_count = 0;
    while (rest.size > 0 && path.size > 0) {
        struct slice wanted = take_word(&rest), word = take_word(&path);
        if (slice_is(wanted, "*")) {
            ASSERT(match->parameter_count < HTTP_PARAMETERS_MAX);
            if (word.size == 0)
                return false;
            match->parameters[match->parameter_count++] = word;
        } else if (!slice_equal(wanted, word)) {
            return false;
        }
    }
    return rest.size == 0 && path.size == 0;
}

static void allow(struct http_match *match, const char *method)
{
    size_t size = strlen(match->allowed);

    snprintf(match->allowed + size, sizeof match->allowed - size, "%s%s",
             strcmp(method, "GET") == 0 ? "HEAD, " : "", method);
    size = strlen(match->allowed);
    snprintf(match->allowed + size, sizeof match->allowed - size, ", ");
}

void http_match(const struct http_route *routes, size_t count, struct slice method,
                struct slice path, struct http_match *match)
{
    struct http_match found = {0};

    if (slice_is(method, "HEAD"))
        method = slice_text("GET");
    if (path.size > 0) { /* patterns are written without the first one */
        path.data++;
        path.size--;
    }
    for (size_t i = 0; i < count; i++) {
        struct http_match this = {0};
        if (!fits(routes[i].pattern, path, &this))
            continue;
        found.path_is_known = true;
        allow(&found, routes[i].method);
        if (found.route || !slice_is(method, routes[i].method))
            continue;
        found.route = &routes[i];
        memcpy(found.parameters, this.parameters, sizeof found.parameters);
        found.parameter_count = this.parameter_count;
    }
    if (found.path_is_known) {
        size_t size = strlen(found.allowed);
        snprintf(found.allowed + size, sizeof found.allowed - size, "OPTIONS");
    }
    *match = found;
}
