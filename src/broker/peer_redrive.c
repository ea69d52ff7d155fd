/* Peers, redrives: both sides. */
#include "broker/peer.h"
#include "broker/redrive.h"

#include <stdlib.h>

/* ---- asking ---- */

int peer_redrive(struct request *request, struct catalog_queue *queue,
                 const struct redrive_order *order, struct slice conditions)
{
    struct letter_ask_redrive *letter =
        peer_ask(peer_of(queue->place), LETTER_ASK_REDRIVE,
                 sizeof *letter + sizeof *order + conditions.size, request, queue->id);
    uint8_t *behind = (uint8_t *)(letter + 1);

    letter->conditions_size = (uint32_t)conditions.size;
    memcpy(behind, order, sizeof *order);
    if (conditions.size > 0)
        memcpy(behind + sizeof *order, conditions.data, conditions.size);
    return PENDING;
}

void peer_redrive_stop(struct request *request, struct peer *peer, uint64_t id)
{
    struct letter_ask_redrive_stop *letter =
        peer_ask(peer, LETTER_ASK_REDRIVE_STOP, sizeof *letter, request, 0);

    letter->id = id;
}

void peer_ask_redrives(struct request *request, struct peer *peer)
{
    peer_ask(peer, LETTER_ASK_REDRIVES, sizeof(struct letter_ask), request, 0);
    request->awaited++;
}

static void told(struct peer *peer, struct slice bytes)
{
    const struct letter_redrives *letter = letter_at(bytes);
    struct request *request = map_remove_number(&peer->asked, letter->token);

    ASSERT(request && request->awaited > 0);
    redrives_came(request, letter->at, letter->count);
}

/* ---- answering ---- */

static void begin(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_redrive *letter = letter_at(bytes);
    struct request *request = asked_begin(peer, &letter->ask);
    struct worker *worker = peer->place.worker;
    struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, letter->ask.queue);
    const uint8_t *behind = (const uint8_t *)(letter + 1);
    struct redrive_order order;

    memcpy(&order, behind, sizeof order);
    if (queue && queue->hosted)
        (void)!redrive_begin(worker, queue, &order,
                             slice_of(behind + sizeof order, letter->conditions_size),
                             &request->failure);
    else
        fail(&request->failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    asked_end(request, DONE);
}

static void stop(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_redrive_stop *letter = letter_at(bytes);
    struct request *request = asked_begin(peer, &letter->ask);

    (void)!redrive_stop(peer->place.worker, letter->id, &request->failure);
    asked_end(request, DONE);
}

static void tell(struct peer *peer, struct slice bytes)
{
    const struct letter_ask *asked = letter_at(bytes);
    const struct worker *worker = peer->place.worker;
    size_t count = redrives_tell(worker, NULL);
    struct letter_redrives *letter =
        peer_write(peer, LETTER_REDRIVES, sizeof *letter + count * sizeof letter->at[0]);

    letter->token = asked->token;
    letter->count = (uint32_t)count;
    redrives_tell(worker, letter->at);
}

letter_reader *const peer_redrive_readers[LETTERS] = {
    [LETTER_ASK_REDRIVE] = begin,
    [LETTER_ASK_REDRIVE_STOP] = stop,
    [LETTER_ASK_REDRIVES] = tell,
    [LETTER_REDRIVES] = told,
};
