/* Queues: lists of them, page by page, and single ones. */
#include "protocols/http/management_private.h"

#include "base/memory.h"

#include <stdlib.h>

/* What an exchange that shows queues keeps. */
struct queue_list {
    struct listing *listing;
    bool has_some; /* there is one before the next: a comma between them */
};

static void release(void *state)
{
    struct queue_list *list = state;

    listing_close(list->listing);
    free(list);
}

/* Takes the listing; NULL: it was refused, which is answered. */
static struct queue_list *keep(struct exchange *exchange, struct listing *listing,
                               const struct failure *failure)
{
    if (!listing) {
        exchange_fail_as(exchange, failure);
        return NULL;
    }
    struct queue_list *list = memory_new(sizeof *list);
    list->listing = listing;
    exchange->state = list;
    exchange->release = release;
    return list;
}

static json_t *name_or_null(struct slice name)
{
    return name.size > 0 ? http_json_text(name) : json_null();
}

static void add_policies(json_t *value, const struct queue_facts *facts)
{
    json_object_set_new(value, "policy", name_or_null(facts->policy));
    json_object_set_new(value, "operator_policy", name_or_null(facts->operator_policy));
    json_object_set_new(value, "effective_policy_definition",
                        http_json_table(facts->policy_definition));
}

static json_t *queue_value(const struct exchange *exchange, const struct queue_facts *facts)
{
    const struct broker_settings *settings = worker_settings(exchange->site->worker);
    json_t *value =
        json_pack("{s:o, s:o, s:b, s:b, s:b, s:o, s:s, s:s, s:s, s:I, s:I}", "name",
                  http_json_text(facts->name), "vhost", http_json_text(facts->vhost), "durable",
                  facts->durable, "auto_delete", facts->auto_delete, "exclusive", facts->exclusive,
                  "arguments", http_json_table(facts->arguments), "type", facts->type, "node",
                  settings->node_name, "state", facts->has_counts ? "running" : "moving", "shard",
                  (json_int_t)facts->shard, "worker", (json_int_t)facts->worker);
    if (value)
        add_policies(value, facts);
    json_int_t ready = (json_int_t)facts->counts.ready, leased = (json_int_t)facts->counts.leased;

    if (!value || !facts->has_counts)
        return value;
    json_object_set_new(value, "messages", json_integer(ready + leased));
    json_object_set_new(value, "messages_ready", json_integer(ready));
    json_object_set_new(value, "messages_unacknowledged", json_integer(leased));
    json_object_set_new(value, "messages_delayed", json_integer((json_int_t)facts->counts.delayed));
    json_object_set_new(value, "consumers", json_integer(facts->counts.consumers));
    return value;
}

/* ---- lists ---- */

static void page_came(struct exchange *exchange);

static void next_page(struct exchange *exchange)
{
    const struct queue_list *list = exchange->state;

    exchange_wait(exchange, listing_next(list->listing, &exchange->request), page_came);
}

static void page_came(struct exchange *exchange)
{
    struct queue_list *list = exchange->state;
    bool is_over = listing_is_over(list->listing);
    struct queue_facts facts;

    for (size_t i = 0; i < listing_count(list->listing); i++) {
        if (!listing_queue(list->listing, i, &facts))
            continue;
        http_text_print(&exchange->page, "%s", list->has_some ? "," : "");
        http_json_append(exchange, queue_value(exchange, &facts));
        list->has_some = true;
    }
    if (is_over)
        http_text_print(&exchange->page, "]");
    if (exchange->page.failed || exchange->request.failure.code != 0) {
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

static void list_queues(struct exchange *exchange, struct slice vhost)
{
    struct failure failure;
    struct listing *listing = listing_open(exchange->client, vhost, &failure);

    if (!keep(exchange, listing, &failure))
        return;
    exchange_begin(exchange, 200, "application/json");
    if (exchange_is_head(exchange)) {
        exchange_end(exchange);
        return;
    }
    http_text_print(&exchange->page, "[");
    next_page(exchange);
}

void management_queues(struct exchange *exchange)
{
    list_queues(exchange, slice_of(NULL, 0));
}

void management_queues_of_vhost(struct exchange *exchange)
{
    list_queues(exchange, exchange->parameters[0]);
}

/* ---- one ---- */

static void queue_came(struct exchange *exchange)
{
    const struct queue_list *list = exchange->state;
    struct queue_facts facts;

    if (listing_queue(list->listing, 0, &facts))
        http_json_answer(exchange, 200, queue_value(exchange, &facts));
    else
        exchange_fail(exchange, 404, NULL, "Not Found");
}

void management_queue(struct exchange *exchange)
{
    struct failure failure;
    struct listing *listing = listing_open_queue(exchange->client, exchange->parameters[0],
                                                 exchange->parameters[1], &failure);
    const struct queue_list *list = keep(exchange, listing, &failure);

    if (list)
        exchange_wait(exchange, listing_next(list->listing, &exchange->request), queue_came);
}
