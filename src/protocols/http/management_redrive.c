/*
 * Redrives: jobs that move messages to where they died, or elsewhere.
 *
 *   POST   /api/queues/VHOST/NAME/redrive  {"queue": ..., "exchange": ..., "routing_key": ...,
 *                                           "where": {...}, "since": ..., "until": ...,
 *                                           "rate": ..., "limit": ..., "preview": ...}
 *   GET    /api/redrives, /api/redrives/ID
 *   DELETE /api/redrives/ID
 */
#include "base/memory.h"
#include "protocols/http/management_private.h"

#include <stdlib.h>

/* ---- begin ---- */

struct begin {
    struct redrive_spec spec;
    json_t *body; /* its texts are the spec's */
    uint8_t conditions[FILTER_BYTES_MAX];
};

static void release(void *state)
{
    struct begin *begin = state;

    json_decref(begin->body);
    free(begin);
}

static struct slice text_of(const json_t *value)
{
    return slice_of(json_string_value(value), json_string_length(value));
}

static int take_number(const json_t *body, const char *name, uint64_t most, uint64_t *number,
                       struct failure *failure)
{
    const json_t *value = json_object_get(body, name);
    json_int_t given = json_integer_value(value);

    if (!value)
        return 0;
    if (!json_is_integer(value) || given < 0 || (uint64_t)given > most)
        return fail(failure, E_INVALID, "%s must be a number from 0 to %llu", name,
                    (unsigned long long)most);
    *number = (uint64_t)given;
    return 0;
}

/* The values as the texts that a filter compares with. */
static int take_conditions(struct begin *begin, json_t *where, struct failure *failure)
{
    struct writer writer = writer_of(begin->conditions, sizeof begin->conditions);
    const char *name;
    json_t *value;
    char number[32];

    if (where && !json_is_object(where))
        return fail(failure, E_INVALID, "where must be an object");
    json_object_foreach(where, name, value)
    {
        struct slice text = text_of(value);
        if (json_is_boolean(value)) {
            text = slice_text(json_is_true(value) ? "true" : "false");
        } else if (json_is_integer(value)) {
            snprintf(number, sizeof number, "%" JSON_INTEGER_FORMAT, json_integer_value(value));
            text = slice_text(number);
        } else if (!json_is_string(value)) {
            return fail(failure, E_INVALID, "a condition must be a text, a number or a boolean");
        }
        if (strlen(name) > FIELD_NAME_MAX)
            return fail(failure, E_INVALID, "a condition's name is too long");
        fields_put_text(&writer, name, text);
    }
    if (writer.failed)
        return fail(failure, E_LIMIT, "the conditions are too long");
    begin->spec.filter.conditions = slice_of(begin->conditions, writer_size(&writer));
    return 0;
}

static int take_target(struct begin *begin, struct failure *failure)
{
    const json_t *queue = json_object_get(begin->body, "queue");
    const json_t *exchange = json_object_get(begin->body, "exchange");
    const json_t *key = json_object_get(begin->body, "routing_key");
    struct redrive_spec *spec = &begin->spec;

    if ((queue && !json_is_string(queue)) || (exchange && !json_is_string(exchange)) ||
        (key && !json_is_string(key)))
        return fail(failure, E_INVALID, "queue, exchange and routing_key must be texts");
    if ((queue && exchange) || (key && !exchange))
        return fail(failure, E_INVALID, "it goes to a queue, or to an exchange with a routing_key");
    if (queue) {
        spec->to = REDRIVE_TO_QUEUE;
        spec->target = text_of(queue);
    } else if (exchange) {
        spec->to = REDRIVE_TO_EXCHANGE;
        spec->target = text_of(exchange);
        if (slice_is(spec->target, "amq.default"))
            spec->target.size = 0;
        if (key)
            spec->key = text_of(key);
    }
    if (memchr(spec->target.data ? (const char *)spec->target.data : "", 0, spec->target.size) ||
        memchr(spec->key.data ? (const char *)spec->key.data : "", 0, spec->key.size))
        return fail(failure, E_INVALID, "names have no zero byte");
    return 0;
}

static int parse(struct begin *begin, struct failure *failure)
{
    const json_t *preview = json_object_get(begin->body, "preview");
    struct redrive_spec *spec = &begin->spec;
    uint64_t rate = 0;

    if (preview && !json_is_boolean(preview))
        return fail(failure, E_INVALID, "preview must be true or false");
    spec->is_preview = json_is_true(preview);
    int result = take_target(begin, failure);
    if (result == 0)
        result = take_conditions(begin, json_object_get(begin->body, "where"), failure);
    if (result == 0)
        result = take_number(begin->body, "rate", 1000000, &rate, failure);
    if (result == 0)
        result = take_number(begin->body, "limit", INT64_MAX, &spec->limit, failure);
    if (result == 0)
        result = take_number(begin->body, "since", INT64_MAX, &spec->filter.since_ms, failure);
    if (result == 0)
        result = take_number(begin->body, "until", INT64_MAX, &spec->filter.until_ms, failure);
    spec->rate = (uint32_t)rate;
    return result;
}

static void begun(struct exchange *exchange)
{
    const struct request *request = &exchange->request;

    if (request->failure.code != 0)
        exchange_fail_as(exchange, &request->failure);
    else
        http_json_answer(exchange, 201,
                         json_pack("{s:I}", "id", (json_int_t)request->result.redrive));
}

static void entered(struct exchange *exchange)
{
    const struct begin *begin = exchange->state;

    if (exchange->request.failure.code != 0)
        exchange_fail_as(exchange, &exchange->request.failure);
    else
        exchange_wait(exchange, broker_redrive(exchange->client, &exchange->request, &begin->spec),
                      begun);
}

void management_redrive(struct exchange *exchange)
{
    struct failure failure = {0};
    json_t *body = http_json_body(exchange);

    if (!body)
        return;
    struct begin *begin = memory_new(sizeof *begin);
    begin->body = body;
    begin->spec.queue = exchange->parameters[1];
    exchange->state = begin;
    exchange->release = release;
    if (parse(begin, &failure) != 0) {
        exchange_fail_as(exchange, &failure);
        return;
    }
    exchange_wait(exchange,
                  broker_enter(exchange->client, &exchange->request, exchange->parameters[0]),
                  entered);
}

/* ---- what there is ---- */

struct look {
    struct redrives *redrives;
    uint64_t id; /* 0: all */
    struct redrive_facts facts;
};

static void look_release(void *state)
{
    struct look *look = state;

    redrives_close(look->redrives);
    free(look);
}

static json_t *targets_value(const struct redrive_facts *facts)
{
    json_t *targets = json_array();

    for (uint32_t i = 0; i < facts->target_count; i++)
        json_array_append_new(targets, json_pack("{s:o, s:I, s:I}", "name",
                                                 http_json_text(slice_text(facts->targets[i].name)),
                                                 "matched", (json_int_t)facts->targets[i].matched,
                                                 "moved", (json_int_t)facts->targets[i].moved));
    return targets;
}

static void add_number(json_t *value, const char *name, uint64_t number)
{
    json_object_set_new(value, name, json_integer((json_int_t)number));
}

static json_t *facts_value(const struct redrive_facts *facts)
{
    static const char *const states[] = {"running", "done", "cancelled", "failed"};
    static const char *const places[] = {"origin", "queue", "exchange"};
    json_t *value = json_pack("{s:I, s:o, s:o, s:s, s:b, s:s, s:o}", "id", (json_int_t)facts->id,
                              "vhost", http_json_text(slice_text(facts->vhost)), "queue",
                              http_json_text(slice_text(facts->queue)), "to", places[facts->to],
                              "preview", facts->is_preview, "state",
                              facts->ended_ms ? states[facts->state] : states[REDRIVE_RUNS],
                              "targets", targets_value(facts));

    if (!value)
        return NULL;
    if (facts->to != REDRIVE_TO_ORIGIN)
        json_object_set_new(value, "target", http_json_text(slice_text(facts->target)));
    if (facts->has_key)
        json_object_set_new(value, "routing_key", http_json_text(slice_text(facts->key)));
    add_number(value, "rate", facts->rate);
    add_number(value, "limit", facts->limit);
    add_number(value, "started_at", facts->started_ms);
    if (facts->ended_ms)
        add_number(value, "ended_at", facts->ended_ms);
    add_number(value, "total", facts->total);
    add_number(value, "looked", facts->looked);
    add_number(value, "skipped", facts->skipped);
    add_number(value, "matched", facts->matched);
    add_number(value, "moved", facts->moved);
    add_number(value, "refused", facts->refused);
    if (facts->problem[0])
        json_object_set_new(value, "problem", http_json_text(slice_text(facts->problem)));
    return value;
}

static const struct redrive_facts *find(const struct look *look)
{
    for (size_t i = 0; i < redrives_count(look->redrives); i++) {
        if (redrives_at(look->redrives, i)->id == look->id)
            return redrives_at(look->redrives, i);
    }
    return NULL;
}

static void all_came(struct exchange *exchange)
{
    const struct look *look = exchange->state;
    json_t *list = json_array();

    for (size_t i = 0; i < redrives_count(look->redrives); i++)
        json_array_append_new(list, facts_value(redrives_at(look->redrives, i)));
    http_json_answer(exchange, 200, list);
}

static void one_came(struct exchange *exchange)
{
    const struct redrive_facts *facts = find(exchange->state);

    if (facts)
        http_json_answer(exchange, 200, facts_value(facts));
    else
        exchange_fail(exchange, 404, NULL, "Not Found");
}

static void ask(struct exchange *exchange, uint64_t id, http_step *next)
{
    struct look *look = memory_new(sizeof *look);

    look->id = id;
    look->redrives = redrives_open(exchange->client);
    exchange->state = look;
    exchange->release = look_release;
    exchange_wait(exchange, redrives_ask(look->redrives, &exchange->request), next);
}

void management_redrives(struct exchange *exchange)
{
    ask(exchange, 0, all_came);
}

static void ask_one(struct exchange *exchange, http_step *next)
{
    uint64_t id;

    if (http_number(exchange->parameters[0], &id) != 0)
        exchange_fail(exchange, 404, NULL, "Not Found");
    else
        ask(exchange, id, next);
}

void management_redrive_one(struct exchange *exchange)
{
    ask_one(exchange, one_came);
}

/* ---- stop ---- */

static void stopped(struct exchange *exchange)
{
    if (exchange->request.failure.code != 0)
        exchange_fail_as(exchange, &exchange->request.failure);
    else
        exchange_answer(exchange, 204, NULL, slice_of(NULL, 0));
}

static void entered_to_stop(struct exchange *exchange)
{
    const struct look *look = exchange->state;

    if (exchange->request.failure.code != 0)
        exchange_fail_as(exchange, &exchange->request.failure);
    else
        exchange_wait(exchange,
                      broker_redrive_stop(exchange->client, &exchange->request, &look->facts),
                      stopped);
}

static void came_to_stop(struct exchange *exchange)
{
    struct look *look = exchange->state;
    const struct redrive_facts *facts = find(look);

    if (!facts) {
        exchange_fail(exchange, 404, NULL, "Not Found");
        return;
    }
    look->facts = *facts;
    exchange_wait(exchange,
                  broker_enter(exchange->client, &exchange->request, slice_text(look->facts.vhost)),
                  entered_to_stop);
}

void management_redrive_stop(struct exchange *exchange)
{
    ask_one(exchange, came_to_stop);
}
