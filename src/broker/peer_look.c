/* Peers: asking how the queues over there are, and for that worker's report; and answering. */
#include "broker/peer.h"

/* ---- asking ---- */

void peer_ask_queues(struct request *request, struct peer *peer, const uint64_t *ids,
                     uint32_t count)
{
    struct letter_ask_queues *letter =
        peer_ask(peer, LETTER_ASK_QUEUES, sizeof *letter + count * sizeof ids[0], request, 0);

    letter->count = count;
    memcpy(letter + 1, ids, count * sizeof ids[0]);
    request->awaited++;
}

void peer_ask_report(struct request *request, struct peer *peer)
{
    peer_ask(peer, LETTER_ASK_REPORT, sizeof(struct letter_ask), request, 0);
    request->awaited++;
}

static struct request *answered(struct peer *peer, uint64_t token)
{
    struct request *request = map_remove_number(&peer->asked, token);

    ASSERT(request && request->awaited > 0);
    return request;
}

static void queues_came(struct peer *peer, struct slice bytes)
{
    const struct letter_queues *letter = letter_at(bytes);

    listing_numbers(answered(peer, letter->token), peer, letter->at);
}

static void report_came(struct peer *peer, struct slice bytes)
{
    const struct letter_report *letter = letter_at(bytes);
    struct request *request = answered(peer, letter->token);
    struct worker_report *reports = request->target;

    reports[peer->index] = letter->report;
    if (--request->awaited == 0)
        request_go_on(request);
}

/* ---- answering ---- */

static struct queue_numbers numbers_of(const struct worker *worker, uint64_t id)
{
    const struct catalog_queue *queue = catalog_queue_by_id(&worker->catalog, id);
    struct queue_numbers numbers = {.is_there = queue != NULL};

    if (queue && queue->hosted) {
        numbers.has_counts = true;
        numbers.counts = (struct queue_counts){
            .ready = queue->hosted->queue.ready,
            .leased = queue->hosted->queue.leased,
            .consumers = queue->hosted->queue.consumers + queue->hosted->returning,
        };
    }
    return numbers;
}

/* At most LISTING_PAGE of them. */
static void tell_queues(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_queues *asked = letter_at(bytes);
    const uint64_t *ids = (const uint64_t *)(asked + 1);
    struct letter_queues *letter =
        peer_write(peer, LETTER_QUEUES, sizeof *letter + asked->count * sizeof letter->at[0]);

    letter->token = asked->ask.token;
    for (uint32_t i = 0; i < asked->count; i++)
        letter->at[i] = numbers_of(peer->place.worker, ids[i]);
}

letter_reader *const peer_look_readers[LETTERS] = {
    [LETTER_ASK_QUEUES] = tell_queues,
    [LETTER_QUEUES] = queues_came,
    [LETTER_REPORT] = report_came,
};
