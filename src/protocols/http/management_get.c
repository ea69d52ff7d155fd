/*
 * Taking messages, as RabbitMQ's management API does it:
 *
 *   POST /api/queues/VHOST/NAME/get  {"count": 5, "ackmode": "ack_requeue_true", "encoding":
 * "auto"}
 *
 * All are taken before any is settled, else the same one would come again and again. When the
 * client goes before it has all, what it was given goes back.
 */
#include "base/assert.h"
#include "base/memory.h"
#include "protocols/http/management_private.h"
#include "protocols/http/message_json.h"

#include <stdlib.h>

#define COUNT_MAX 10000
#define A_TURN    16u /* gets */

static const struct ack_mode {
    const char *name;
    bool settles_itself;
    enum outcome outcome;
} ack_modes[] = {
    {"ack_requeue_true", false, OUTCOME_RETURN_COUNTED}, /* as if a channel had closed */
    {"ack_requeue_false", true, OUTCOME_ACCEPT},
    {"reject_requeue_true", false, OUTCOME_RETURN_COUNTED},
    {"reject_requeue_false", false, OUTCOME_REJECT},
};

struct get {
    struct client *client;
    const struct ack_mode *mode;
    struct payload_options payload;
    uint32_t left; /* to be asked for */
    bool has_begun, has_some;
    uint32_t lease_count, settled;
    struct lease leases[]; /* as many as are asked for; those from `settled` on are held */
};

static void settle_some(struct get *get, enum outcome outcome)
{
    uint32_t count = get->lease_count - get->settled;

    if (count > SETTLE_SLICE)
        count = SETTLE_SLICE;
    broker_settle(get->client, get->leases + get->settled, count, outcome);
    get->settled += count;
}

static void leave(void *state)
{
    struct get *get = state;

    while (get->settled < get->lease_count)
        settle_some(get, OUTCOME_RETURN);
}

/* ---- one after the other ---- */

static json_t *message_value(const struct exchange *exchange)
{
    const struct get *get = exchange->state;
    const struct delivery *delivery = &exchange->request.result.get.delivery;
    json_t *value = http_json_message(delivery->message, &get->payload);

    if (!value)
        return NULL;
    json_object_set_new(value, "redelivered", json_boolean(delivery->redelivered));
    json_object_set_new(value, "message_count",
                        json_integer((json_int_t)exchange->request.result.get.ready));
    return value;
}

static void put_message(struct exchange *exchange)
{
    struct get *get = exchange->state;
    const struct delivery *delivery = &exchange->request.result.get.delivery;
    json_t *value = message_value(exchange);

    if (!get->mode->settles_itself)
        get->leases[get->lease_count++] = delivery->lease;
    message_unref(delivery->message);
    if (!value) {
        exchange->page.failed = true;
        return;
    }
    http_text_print(&exchange->page, "%s", get->has_some ? "," : "");
    http_json_append(exchange, value);
    get->has_some = true;
}

/* The answer is whole when all is settled: so whoever has it finds what it says. */
static void finish(struct exchange *exchange)
{
    struct get *get = exchange->state;

    if (get->settled < get->lease_count) {
        settle_some(get, get->mode->outcome);
        exchange_later(exchange, finish);
        return;
    }
    http_text_print(&exchange->page, "]");
    exchange_write(exchange, http_text_slice(&exchange->page));
    http_text_clear(&exchange->page);
    exchange_end(exchange);
}

/* What came is put into the answer. False: no more is to be asked for now. */
static bool take(struct exchange *exchange)
{
    struct get *get = exchange->state;
    const struct request *request = &exchange->request;

    if (request->failure.code != 0 && !get->has_begun) {
        exchange_fail_as(exchange, &request->failure);
        return false;
    }
    if (!get->has_begun) {
        exchange_begin(exchange, 200, "application/json");
        http_text_print(&exchange->page, "[");
        get->has_begun = true;
    }
    bool is_over = request->failure.code != 0 || !request->result.get.delivery.message;
    if (!is_over)
        put_message(exchange);
    if (request->failure.code != 0 || exchange->page.failed) {
        leave(get);
        exchange_break(exchange);
        return false;
    }
    if (is_over || --get->left == 0) {
        finish(exchange);
        return false;
    }
    return true;
}

static void get_some(struct exchange *exchange);

/* What there is goes off, and more is asked for when it has been read. */
static void get_more(struct exchange *exchange)
{
    exchange_write(exchange, http_text_slice(&exchange->page));
    http_text_clear(&exchange->page);
    exchange_later(exchange, get_some);
}

static void got(struct exchange *exchange)
{
    if (take(exchange))
        get_more(exchange);
}

static void get_some(struct exchange *exchange)
{
    const struct get *get = exchange->state;

    for (unsigned n = 0; n < A_TURN && exchange->page.size < OUTPUT_HIGH_WATER; n++) {
        if (broker_get(exchange->client, &exchange->request, exchange->parameters[1],
                       get->mode->settles_itself) == PENDING) {
            exchange_wait(exchange, PENDING, got);
            return;
        }
        if (!take(exchange))
            return;
    }
    get_more(exchange);
}

static void entered(struct exchange *exchange)
{
    if (exchange->request.failure.code != 0)
        exchange_fail_as(exchange, &exchange->request.failure);
    else
        get_some(exchange);
}

/* ---- what is asked for ---- */

static const struct ack_mode *ack_mode_of(const json_t *name)
{
    for (size_t i = 0; i < sizeof ack_modes / sizeof ack_modes[0]; i++) {
        if (json_is_string(name) && strcmp(json_string_value(name), ack_modes[i].name) == 0)
            return &ack_modes[i];
    }
    return NULL;
}

/* A number, or, as RabbitMQ's own page sends it, a text that is one. */
static int number_of(const json_t *value, uint64_t *number)
{
    if (json_is_string(value))
        return http_number(slice_of(json_string_value(value), json_string_length(value)), number);
    if (!json_is_integer(value) || json_integer_value(value) < 0)
        return E_INVALID;
    *number = (uint64_t)json_integer_value(value);
    return 0;
}

/* NULL with the reason. */
static struct get *parse(struct exchange *exchange, const json_t *body, const char **reason)
{
    const struct ack_mode *mode = ack_mode_of(json_object_get(body, "ackmode"));
    const char *encoding = json_string_value(json_object_get(body, "encoding"));
    const json_t *truncate = json_object_get(body, "truncate");
    struct payload_options payload = {.truncate = PAYLOAD_WHOLE};
    uint64_t count = 0;

    if (number_of(json_object_get(body, "count"), &count) != 0 || count < 1 || count > COUNT_MAX)
        *reason = "the count must be a number from 1 to 10000";
    else if (!mode)
        *reason = "the ackmode must be ack_requeue_true, ack_requeue_false, reject_requeue_true or "
                  "reject_requeue_false";
    else if (!encoding || payload_encoding_parse(slice_text(encoding), &payload) != 0)
        *reason = "Unsupported encoding. Please use auto or base64.";
    else if (truncate && number_of(truncate, &payload.truncate) != 0)
        *reason = "truncate must be a number of bytes";
    if (*reason)
        return NULL;
    struct get *get = memory_new(sizeof *get + count * sizeof get->leases[0]);
    get->client = exchange->client;
    get->mode = mode;
    get->payload = payload;
    get->left = (uint32_t)count;
    return get;
}

void management_get(struct exchange *exchange)
{
    json_t *body = http_json_body(exchange);
    const char *reason = NULL;

    if (!body)
        return;
    struct get *get = parse(exchange, body, &reason);
    json_decref(body);
    if (!get) {
        exchange_fail(exchange, 400, NULL, reason);
        return;
    }
    exchange->state = get;
    exchange->leave = leave;
    exchange->release = free;
    exchange_wait(exchange,
                  broker_enter(exchange->client, &exchange->request, exchange->parameters[0]),
                  entered);
}
