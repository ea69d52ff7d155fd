/* Queues to other shards: one, where the request says; or as many as it takes to have all shards
 * hold as many. */
#include "protocols/http/management_private.h"

#include "base/memory.h"

#include <stdlib.h>

/* ---- one ---- */

struct move {
    uint32_t shard;
};

static void fail_move(struct exchange *exchange)
{
    const struct failure *failure = &exchange->request.failure;

    if (failure->code == E_IN_USE) /* it may go at another time */
        exchange_fail(exchange, 409, NULL, failure->text);
    else
        exchange_fail_as(exchange, failure);
}

static void moved(struct exchange *exchange)
{
    if (exchange->request.failure.code != 0)
        fail_move(exchange);
    else
        exchange_answer(exchange, 204, NULL, slice_of(NULL, 0));
}

static void entered(struct exchange *exchange)
{
    const struct move *move = exchange->state;

    if (exchange->request.failure.code != 0) {
        fail_move(exchange);
        return;
    }
    exchange_wait(exchange,
                  broker_move_queue(exchange->client, &exchange->request, exchange->parameters[1],
                                    move->shard),
                  moved);
}

static void move_queue(struct exchange *exchange, json_int_t shard)
{
    struct move *move = memory_new(sizeof *move);

    move->shard = (uint32_t)shard;
    exchange->state = move;
    exchange->release = free;
    exchange_wait(exchange,
                  broker_enter(exchange->client, &exchange->request, exchange->parameters[0]),
                  entered);
}

void management_queue_action(struct exchange *exchange)
{
    json_t *body = http_json_body(exchange);
    const char *action;

    if (!body)
        return;
    action = json_string_value(json_object_get(body, "action"));
    const json_t *shard = json_object_get(body, "shard");
    json_int_t number = json_integer_value(shard);
    bool is_move = action && strcmp(action, "move") == 0;
    json_decref(body);
    if (!is_move)
        exchange_fail(exchange, 400, NULL, "the action must be \"move\"");
    else if (number < 1 || number > UINT32_MAX)
        exchange_fail(exchange, 400, NULL, "the shard must be a number from 1 on");
    else
        move_queue(exchange, number);
}

/* ---- all ---- */

/* As in RabbitMQ: 204 when it has begun. */
void management_rebalance(struct exchange *exchange)
{
    exchange_wait(exchange, broker_rebalance(exchange->client, &exchange->request), moved);
}
