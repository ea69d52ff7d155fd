#include "broker/peer.h"

#include "broker/change.h"
#include "broker/move.h"

#include <stdio.h>
#include <stdlib.h>

#define EACH_PEER(worker, peer)                                                                    \
    for (unsigned i_ = 0; i_ < (worker)->count; i_++)                                              \
        for (struct peer *peer = (worker)->peers[i_]; peer; peer = NULL)

/* ---- the catalog ---- */

static void tell_number(struct peer *peer, enum letter kind, uint64_t number)
{
    struct letter_number *letter = peer_write(peer, kind, sizeof *letter);
    letter->number = number;
}

static void tell_bytes(struct peer *peer, enum letter kind, struct slice bytes)
{
    memcpy(peer_write(peer, kind, bytes.size), bytes.data, bytes.size);
}

void peers_tell_event(struct worker *worker, struct slice event)
{
    EACH_PEER (worker, peer)
        tell_bytes(peer, LETTER_EVENT, event);
    if (worker->mailbox)
        mailbox_stamp(worker->mailbox, worker->catalog.events);
}

void peers_tell_settled(struct worker *worker, uint64_t settled)
{
    EACH_PEER (worker, peer) {
        struct letter_settled *letter = peer_write(peer, LETTER_SETTLED, sizeof *letter);
        *letter = (struct letter_settled){settled, worker->catalog_settled.failed};
    }
}

void peer_tell_change(struct worker *worker, struct slice order)
{
    tell_bytes(worker->peers[0], LETTER_CHANGE, order);
}

void peers_tell_catalog(struct worker *worker)
{
    struct catalog_cursor cursor = {0};
    size_t size;

    if (worker->count == 1)
        return;
    uint8_t *bytes = memory_new(EVENT_BYTES_MAX);
    while ((size = catalog_snapshot_next(&worker->catalog, &cursor, bytes, EVENT_BYTES_MAX)) > 0) {
        EACH_PEER (worker, peer)
            tell_bytes(peer, LETTER_SNAPSHOT, slice_of(bytes, size));
    }
    catalog_snapshot_end(&cursor);
    free(bytes);
    EACH_PEER (worker, peer) {
        struct letter_catalog *letter = peer_write(peer, LETTER_SNAPSHOT_END, sizeof *letter);
        *letter = (struct letter_catalog){
            .events = worker->catalog.events,
            .start_number = worker->start_number,
            .is_suspect = worker->catalog_is_suspect,
        };
        peer->applied = worker->catalog.events; /* before anything that comes later */
    }
    mailbox_stamp(worker->mailbox, worker->catalog.events);
}

/* Catalog letters of the first worker to this one; the bytes come from the same program. */
static void apply(struct worker *worker, struct slice event)
{
    int result = catalog_apply(&worker->catalog, event);
    ASSERT(result == 0);
}

/* The events of a snapshot are not the ones that were counted: all that is in it is settled. */
static void snapshot_came(struct peer *peer, struct slice event)
{
    struct worker *worker = peer->place.worker;

    apply(worker, event);
    worker->catalog.events = 0;
}

static void catalog_came(struct peer *peer, struct slice bytes)
{
    const struct letter_catalog *letter = letter_at(bytes);
    struct worker *worker = peer->place.worker;

    worker->catalog.events = letter->events;
    worker->start_number = letter->start_number;
    mailbox_stamp(worker->mailbox, letter->events);
    mailbox_retry(worker->mailbox);
    if (worker->boot)
        boot_catalog_came(worker, letter->is_suspect);
}

static void event_came(struct peer *peer, struct slice event)
{
    struct worker *worker = peer->place.worker;

    apply(worker, event);
    mailbox_stamp(worker->mailbox, worker->catalog.events);
    mailbox_retry(worker->mailbox);
    struct letter_number *last = peer_last(worker->peers[0], LETTER_APPLIED);
    if (last)
        last->number = worker->catalog.events;
    else
        tell_number(worker->peers[0], LETTER_APPLIED, worker->catalog.events);
}

static void settled_came(struct peer *peer, struct slice bytes)
{
    const struct letter_settled *letter = letter_at(bytes);
    struct worker *worker = peer->place.worker;

    line_advance(&worker->catalog_settled, letter->events);
    hosted_settled(worker);
    if (letter->failed && !worker->catalog_settled.failed)
        line_fail(&worker->catalog_settled);
}

static void change_came(struct peer *peer, struct slice order)
{
    struct worker *worker = peer->place.worker;

    struct failure failure = {0};

    if (change_execute(worker, order, &failure) != 0)
        log_warning(worker->logger, "catalog", "%s", failure.text);
    changes_settle(worker);
}

static void applied_came(struct peer *peer, struct slice bytes)
{
    const struct letter_number *letter = letter_at(bytes);

    peer->applied = letter->number;
    changes_settle(peer->place.worker);
}

/* ---- starting and ending ---- */

static struct letter_result *tell_result(struct peer *peer, enum letter kind, int result,
                                         const char *text)
{
    struct letter_result *letter = peer_write(peer, kind, sizeof *letter);

    *letter = (struct letter_result){.result = result};
    snprintf(letter->text, sizeof letter->text, "%s", text);
    return letter;
}

void peers_tell_started(struct worker *worker, const struct worker_started *what, uint64_t id_last)
{
    tell_result(worker->peers[0], LETTER_STARTED, what->result, what->failure.text)->id_last =
        id_last;
}

void peers_tell_go(struct worker *worker, int result, const char *text)
{
    EACH_PEER (worker, peer)
        tell_result(peer, LETTER_GO, result, text);
}

void peers_end(struct worker *worker)
{
    EACH_PEER (worker, peer)
        peer_write(peer, LETTER_LAST, 0);
}

static bool all_have_ended(const struct worker *worker, unsigned round)
{
    EACH_PEER (worker, peer) {
        if (peer->ended < round)
            return false;
    }
    return true;
}

static bool is_waiting_for_answers(const struct worker *worker)
{
    EACH_PEER (worker, peer) {
        if (map_count(&peer->asked) > 0)
            return true;
    }
    return false;
}

/* Of what the broker does by itself. */
static bool is_over(const struct worker *worker)
{
    return moves_are_over(worker) && burials_are_over(worker) && redrives_are_over(worker);
}

/* The second round is about the catalog: what the end of clients changes in it has to be in every
 * log before that is closed. Each tells the first worker that it gives no orders any more, and when
 * all have, the first worker tells all of them. */
static bool catalog_has_ended(struct worker *worker)
{
    if (worker_has_catalog(worker)) {
        if (!all_have_ended(worker, 2) || !is_over(worker))
            return false;
        if (!worker->has_ended)
            peers_end(worker);
        worker->has_ended = true;
        return true;
    }
    if (!worker->has_ended && !is_waiting_for_answers(worker) && is_over(worker)) {
        worker->has_ended = true;
        peer_write(worker->peers[0], LETTER_LAST, 0);
    }
    return worker->peers[0]->ended == 2;
}

bool peers_have_ended(struct worker *worker)
{
    if (!all_have_ended(worker, 1) || !is_over(worker) ||
        (worker->count > 1 && !catalog_has_ended(worker)))
        return false;
    EACH_PEER (worker, peer)
        peer_answer_free(peer);
    return true;
}

/* ---- how it is ---- */

/* Smaller changes are told when no other follows: else a publisher could stay blocked for ever by
 * what its worker was last told. */
#define MEMORY_STEP_BYTES (1u << 20)

void peers_status(struct worker *worker)
{
    enum flow flow = worker_flow_here(worker);
    uint64_t used = worker->memory.used;
    uint64_t change =
        used > worker->memory_told ? used - worker->memory_told : worker->memory_told - used;
    bool rests = used == worker->memory_seen;

    worker->memory_seen = used;
    if (worker->count == 1 ||
        (flow == worker->flow_told && change < MEMORY_STEP_BYTES && (change == 0 || !rests)))
        return;
    worker->flow_told = flow;
    worker->memory_told = used;
    EACH_PEER (worker, peer) {
        struct letter_status *letter = peer_write(peer, LETTER_STATUS, sizeof *letter);
        *letter = (struct letter_status){.memory_used = used, .flow = flow};
    }
}

static void hurry_flow(struct worker *worker)
{
    if (!list_empty(&worker->flow_waiters))
        timer_set(&worker->watch, loop_now_ns(worker->loop));
}

static void status_came(struct peer *peer, struct slice bytes)
{
    const struct letter_status *letter = letter_at(bytes);

    peer->flow = (enum flow)letter->flow;
    peer->memory_used = letter->memory_used;
    peer->place.worker->flow_may_have_changed = true;
    hurry_flow(peer->place.worker);
}

void peers_return_credit(struct worker *worker)
{
    if (!worker_runs(worker) || worker_flow_here(worker) == FLOW_BUSY)
        return;
    EACH_PEER (worker, peer) {
        if (peer->returned_bytes == peer->received_bytes)
            continue;
        struct letter_credit *letter = peer_write(peer, LETTER_CREDIT, sizeof *letter);
        letter->bytes = peer->returned_bytes = peer->received_bytes;
    }
}

static void credit_came(struct peer *peer, struct slice bytes)
{
    const struct letter_credit *letter = letter_at(bytes);

    line_advance(&peer->credit, letter->bytes);
    hurry_flow(peer->place.worker);
}

/* ---- mail ---- */

static void started_came(struct peer *peer, struct slice bytes)
{
    const struct letter_result *letter = letter_at(bytes);

    boot_peer_started(peer->place.worker, letter->result, letter->text, letter->id_last);
}

static void go_came(struct peer *peer, struct slice bytes)
{
    const struct letter_result *letter = letter_at(bytes);

    if (peer->place.worker->boot)
        boot_end(peer->place.worker, letter->result, letter->text);
}

static void last_came(struct peer *peer, struct slice bytes)
{
    (void)bytes;
    peer->ended++;
}

static letter_reader *const readers[LETTERS] = {
    [LETTER_SNAPSHOT] = snapshot_came, [LETTER_SNAPSHOT_END] = catalog_came,
    [LETTER_EVENT] = event_came,       [LETTER_APPLIED] = applied_came,
    [LETTER_SETTLED] = settled_came,   [LETTER_CHANGE] = change_came,
    [LETTER_CREDIT] = credit_came,     [LETTER_STATUS] = status_came,
    [LETTER_STARTED] = started_came,   [LETTER_GO] = go_came,
    [LETTER_LAST] = last_came,
};

static void received(void *context, unsigned from, unsigned kind, struct slice bytes)
{
    const struct worker *worker = context;
    letter_reader *reader = peer_answer_readers[kind];

    reader = reader ? reader : peer_ask_readers[kind];
    reader = reader ? reader : peer_part_readers[kind];
    reader = reader ? reader : peer_look_readers[kind];
    reader = reader ? reader : peer_move_readers[kind];
    reader = reader ? reader : peer_redrive_readers[kind];
    reader = reader ? reader : readers[kind];
    reader(worker->peers[from], bytes);
}

/* What a peer says may be about objects that this worker does not know yet. The first worker is
 * always ahead, and what it says is how the others catch up. */
static bool accepts(void *context, unsigned from, uint64_t stamp)
{
    const struct worker *worker = context;
    return from == 0 || stamp <= worker->catalog.events;
}

static void parcel_closed(void *context, unsigned from)
{
    (void)from;
    peers_return_credit(context);
}

static const struct mail_events mail_events = {
    .received = received,
    .accepts = accepts,
    .closed = parcel_closed,
    .dropped = letter_dropped,
};

void peers_new(struct worker *worker)
{
    worker->peers = memory_new(worker->count * sizeof(void *));
    if (worker->count == 1)
        return;
    for (unsigned i = 0; i < worker->count; i++) {
        if (i == worker->index)
            continue;
        struct peer *peer = memory_new(sizeof *peer);
        worker->peers[i] = peer;
        peer->place.worker = worker;
        peer->index = i;
        line_init(&peer->place.line);
        line_init(&peer->credit);
        map_init_numbers(&peer->asked, loop_random(worker->loop));
        map_init_numbers(&peer->subscriptions, loop_random(worker->loop));
        peer_answer_init(peer);
    }
    worker->mailbox =
        mailbox_open(worker->options.office, worker->index, worker->loop, &mail_events, worker);
}

void peers_free(struct worker *worker)
{
    EACH_PEER (worker, peer) {
        struct map_cursor cursor = {0};
        for (struct request *request; (request = map_next(&peer->asked, &cursor));) {
            free(request->internal);
            request->internal = NULL; /* several peers may have been asked */
        }
        peer_answer_free(peer);
        map_fini(&peer->asked);
        map_fini(&peer->subscriptions);
        free(peer->place.batch);
        free(peer);
    }
    if (worker->mailbox)
        mailbox_close(worker->mailbox);
    free(worker->peers);
}
