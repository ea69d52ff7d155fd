/*
 * Looking at messages without touching them:
 *
 *   GET /api/queues/VHOST/NAME/messages?from=1&limit=50&state=all&header.NAME=VALUE&...
 *
 * docs/operating.md has the parameters. The answer is written page by page, as the client reads it;
 * "next", at its end, is where to go on, or null.
 */
#include "base/memory.h"
#include "protocols/http/management_private.h"
#include "protocols/http/message_json.h"

#include <stdlib.h>

#define LIMIT_DEFAULT    50u
#define LIMIT_MAX        1000u
#define TRUNCATE_DEFAULT 50000u
#define PAGES_MAX        32u /* of an answer: then it ends, with a place to go on from */

struct browse {
    struct browse_spec spec;
    struct payload_options payload;
    uint64_t limit; /* messages that are still to be shown */
    unsigned pages;
    bool has_begun, has_some;
    struct browsing *browsing;
    uint8_t conditions[FILTER_BYTES_MAX];
};

static void release(void *state)
{
    struct browse *browse = state;

    if (browse->browsing)
        browsing_close(browse->browsing);
    free(browse);
}

/* ---- parameters ---- */

static int take_state(struct browse *browse, struct slice value)
{
    bool is_all = slice_is(value, "all");

    browse->spec.ready = is_all || slice_is(value, "ready");
    browse->spec.leased = is_all || slice_is(value, "leased");
    browse->spec.delayed = is_all || slice_is(value, "delayed");
    return browse->spec.ready || browse->spec.leased || browse->spec.delayed ? 0 : E_INVALID;
}

static int take_limit(struct browse *browse, struct slice value)
{
    int result = http_number(value, &browse->limit);

    return result == 0 && (browse->limit == 0 || browse->limit > LIMIT_MAX) ? E_INVALID : result;
}

/* What has no other meaning is a condition. */
static int take_parameter(struct browse *browse, struct slice name, struct slice value,
                          struct writer *conditions)
{
    char text[FIELD_NAME_MAX + 1];

    if (slice_is(name, "from"))
        return http_number(value, &browse->spec.from);
    if (slice_is(name, "limit"))
        return take_limit(browse, value);
    if (slice_is(name, "state"))
        return take_state(browse, value);
    if (slice_is(name, "since"))
        return http_number(value, &browse->spec.filter.since_ms);
    if (slice_is(name, "until"))
        return http_number(value, &browse->spec.filter.until_ms);
    if (slice_is(name, "truncate"))
        return http_number(value, &browse->payload.truncate);
    if (slice_is(name, "encoding"))
        return payload_encoding_parse(value, &browse->payload);
    if (name.size > FIELD_NAME_MAX || memchr(name.data, 0, name.size))
        return E_INVALID;
    memcpy(text, name.data, name.size);
    text[name.size] = 0;
    fields_put_text(conditions, text, value);
    return conditions->failed ? E_LIMIT : 0;
}

static int take_query(struct browse *browse, struct slice query, struct failure *failure)
{
    struct writer conditions = writer_of(browse->conditions, sizeof browse->conditions);
    struct slice name, value;
    int result;

    while ((result = http_query_next(&query, &name, &value)) == 1) {
        result = take_parameter(browse, name, value, &conditions);
        if (result == E_LIMIT)
            return fail(failure, result, "the conditions are too long");
        if (result != 0)
            return fail(failure, result, "'%.*s' cannot be '%.*s'", SLICE_ARGS(name),
                        SLICE_ARGS(value));
    }
    browse->spec.filter.conditions = slice_of(browse->conditions, writer_size(&conditions));
    return result == 0 ? 0 : fail(failure, result, "the query cannot be decoded");
}

/* ---- the answer ---- */

static json_t *message_value(const struct browsed *found, const struct payload_options *options)
{
    json_t *value = http_json_message(found->message, options);

    if (!value)
        return NULL;
    json_object_set_new(value, "position", json_integer((json_int_t)found->sequence));
    json_object_set_new(value, "state",
                        json_string(found->is_leased ? "leased"
                                    : found->due_ms  ? "delayed"
                                                     : "ready"));
    if (found->due_ms)
        json_object_set_new(value, "due_at", json_integer((json_int_t)found->due_ms));
    json_object_set_new(value, "redelivered", json_boolean(found->redelivered));
    json_object_set_new(value, "returns", json_integer(found->count));
    json_object_set_new(value, "arrived_at",
                        json_integer((json_int_t)found->message->published_at_ms));
    if (found->message->expires_at_ms)
        json_object_set_new(value, "expires_at",
                            json_integer((json_int_t)found->message->expires_at_ms));
    return value;
}

static void put_page(struct exchange *exchange)
{
    struct browse *browse = exchange->state;

    for (size_t i = 0; i < browsing_count(browse->browsing); i++) {
        const struct browsed *found = browsing_message(browse->browsing, i);
        json_t *value = message_value(found, &browse->payload);
        if (!value) {
            exchange->page.failed = true;
            return;
        }
        http_text_print(&exchange->page, "%s", browse->has_some ? "," : "");
        http_json_append(exchange, value);
        browse->has_some = true;
        browse->limit--;
    }
}

static void put_end(struct exchange *exchange)
{
    const struct browse *browse = exchange->state;

    if (browsing_is_over(browse->browsing))
        http_text_print(&exchange->page, "],\"next\":null");
    else
        http_text_print(&exchange->page, "],\"next\":%llu",
                        (unsigned long long)browsing_cursor(browse->browsing));
    http_text_print(&exchange->page, ",\"unreadable\":%llu}",
                    (unsigned long long)browsing_unreadable(browse->browsing));
}

static void page_came(struct exchange *exchange);

static void next_page(struct exchange *exchange)
{
    const struct browse *browse = exchange->state;

    exchange_wait(exchange,
                  browsing_next(browse->browsing, &exchange->request, (uint32_t)browse->limit),
                  page_came);
}

static void page_came(struct exchange *exchange)
{
    struct browse *browse = exchange->state;
    bool has_failed = exchange->request.failure.code != 0;

    if (has_failed && !browse->has_begun) {
        exchange_fail_as(exchange, &exchange->request.failure);
        return;
    }
    if (!browse->has_begun) {
        exchange_begin(exchange, 200, "application/json");
        http_text_print(&exchange->page, "{\"messages\":[");
        browse->has_begun = true;
    }
    put_page(exchange);
    bool is_over = browsing_is_over(browse->browsing) || browse->limit == 0 ||
                   ++browse->pages == PAGES_MAX || exchange_is_head(exchange);
    if (is_over)
        put_end(exchange);
    if (has_failed || exchange->page.failed) {
        exchange_break(exchange);
        return;
    }
    exchange_write(exchange, http_text_slice(&exchange->page));
    http_text_clear(&exchange->page);
    if (is_over)
        exchange_end(exchange);
    else
        exchange_later(exchange, next_page);
}

static void entered(struct exchange *exchange)
{
    struct browse *browse = exchange->state;
    struct failure *failure = &exchange->request.failure;

    if (failure->code == 0)
        browse->browsing = browsing_open(exchange->client, &browse->spec, failure);
    if (failure->code != 0)
        exchange_fail_as(exchange, failure);
    else
        next_page(exchange);
}

void management_browse(struct exchange *exchange)
{
    struct browse *browse = memory_new(sizeof *browse);
    struct failure failure;

    browse->spec = (struct browse_spec){
        .queue = exchange->parameters[1], .ready = true, .leased = true, .delayed = true};
    browse->limit = LIMIT_DEFAULT;
    browse->payload.truncate = TRUNCATE_DEFAULT;
    exchange->state = browse;
    exchange->release = release;
    if (take_query(browse, exchange->query, &failure) != 0) {
        exchange_fail_as(exchange, &failure);
        return;
    }
    exchange_wait(exchange,
                  broker_enter(exchange->client, &exchange->request, exchange->parameters[0]),
                  entered);
}
