/* Peers: asking how the queues over there are, for pages of their messages, and for that worker's
 * report; and answering. */
#include "broker/browse.h"
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

int peer_browse(struct request *request, struct catalog_queue *queue,
                const struct browse_range *range)
{
    struct slice conditions = range->filter.conditions;
    struct letter_ask_browse *letter =
        peer_ask(peer_of(queue->place), LETTER_ASK_BROWSE, sizeof *letter + conditions.size,
                 request, queue->id);

    letter->from = range->from;
    letter->since_ms = range->filter.since_ms;
    letter->until_ms = range->filter.until_ms;
    letter->limit = range->limit;
    letter->ready = range->ready;
    letter->leased = range->leased;
    letter->delayed = range->delayed;
    letter->conditions_size = (uint32_t)conditions.size;
    if (conditions.size > 0)
        memcpy(letter + 1, conditions.data, conditions.size);
    return PENDING;
}

/* The answer to the request follows these. */
static struct request *asking(struct peer *peer, uint64_t token)
{
    struct request *request = map_get_number(&peer->asked, token);

    ASSERT(request);
    return request;
}

static void browsed_came(struct peer *peer, struct slice bytes)
{
    struct letter_browsed *letter = letter_at(bytes);
    struct message *lent = message_lent(&letter->message, &peer->place.worker->messages);
    struct browsed found = {
        .message = lent,
        .sequence = letter->sequence,
        .is_leased = letter->is_leased,
        .redelivered = letter->redelivered,
        .count = letter->count,
        .due_ms = letter->due_ms,
    };

    browsing_add(asking(peer, letter->token), &found);
    message_lent_end(lent);
}

static void browse_end_came(struct peer *peer, struct slice bytes)
{
    const struct letter_browse_end *letter = letter_at(bytes);
    struct browse_end end = {letter->next, letter->unreadable, letter->is_over};

    browsing_end(asking(peer, letter->token), &end);
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
        numbers.counts = hosted_counts(queue->hosted);
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

static void browse(struct peer *peer, struct slice bytes)
{
    const struct letter_ask_browse *letter = letter_at(bytes);
    struct request *request = asked_begin(peer, &letter->ask);
    const struct catalog_queue *queue =
        catalog_queue_by_id(&peer->place.worker->catalog, letter->ask.queue);
    struct browse_range range = {
        .from = letter->from,
        .limit = letter->limit,
        .ready = letter->ready,
        .leased = letter->leased,
        .delayed = letter->delayed,
        .filter = {slice_of((const uint8_t *)(letter + 1), letter->conditions_size),
                   letter->since_ms, letter->until_ms},
    };
    int outcome = DONE;

    if (queue && queue->hosted)
        outcome = browse_here(request, queue->hosted, &range, peer, letter->ask.token);
    else
        fail(&request->failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    asked_end(request, outcome);
}

void peer_tell_browsed(struct peer *peer, uint64_t token, const struct browsed *found)
{
    struct letter_browsed *letter =
        peer_write(peer, LETTER_BROWSED,
                   offsetof(struct letter_browsed, message) + message_room_size(found->message));

    letter->token = token;
    letter->sequence = found->sequence;
    letter->count = found->count;
    letter->due_ms = found->due_ms;
    letter->is_leased = found->is_leased;
    letter->redelivered = found->redelivered;
    message_lend(&letter->message, found->message);
}

void peer_tell_browse_end(struct peer *peer, uint64_t token, const struct browse_end *end)
{
    struct letter_browse_end *letter = peer_write(peer, LETTER_BROWSE_END, sizeof *letter);

    *letter = (struct letter_browse_end){token, end->next, end->unreadable, end->is_over};
}

letter_reader *const peer_look_readers[LETTERS] = {
    [LETTER_ASK_QUEUES] = tell_queues, [LETTER_ASK_BROWSE] = browse,
    [LETTER_BROWSED] = browsed_came,   [LETTER_BROWSE_END] = browse_end_came,
    [LETTER_QUEUES] = queues_came,     [LETTER_REPORT] = report_came,
};
