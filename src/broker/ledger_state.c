/* The ledger of a shard beyond its parts: decisions, its state in checkpoints, recovery, and what a
 * start does about what is in doubt. */
#include "broker/part_private.h"
#include "broker/peer.h"

#include <stdlib.h>

/* ---- decisions ---- */

static struct decision *decision_find(const struct shard *shard, struct transaction_id id)
{
    return map_get(&shard->ledger.decisions, transaction_key(&id));
}

static void decision_add(struct shard *shard, struct transaction_id id, const uint32_t *shards,
                         size_t count)
{
    struct decision *decision = memory_new(sizeof *decision);

    decision->id = id;
    decision->count = (uint32_t)count;
    decision->shards = memory_new((count + 1) * sizeof *shards);
    memcpy(decision->shards, shards, count * sizeof *shards);
    map_put(&shard->ledger.decisions, transaction_key(&decision->id), decision);
}

static void decision_free(struct shard *shard, struct decision *decision)
{
    map_remove(&shard->ledger.decisions, transaction_key(&decision->id));
    free(decision->shards);
    free(decision);
}

int decision_make(struct shard *shard, struct transaction_id id, const uint32_t *shards,
                  size_t count, struct request *request)
{
    size_t size = LEDGER_HEAD_BYTES_MAX + count * VARINT_SIZE_MAX;
    struct failure *failure = &request->failure;

    if (map_count(&shard->ledger.decisions) >= DECISIONS_MAX)
        return fail(failure, E_LIMIT, "%u transactions over several shards are under way",
                    DECISIONS_MAX);
    uint8_t *bytes = memory_new(size);
    struct writer w = writer_of(bytes, size);
    ledger_write_head(&w, LEDGER_DECIDE, id, 0);
    for (size_t i = 0; i < count; i++)
        write_varint(&w, shards[i]);
    int result =
        log_append_change(shard->log, LEDGER_ID, slice_of(bytes, writer_size(&w)), promise_bytes());
    free(bytes);
    if (result != 0)
        return storage_failure(result, failure);
    shard->ledger.is_dirty = true;
    decision_add(shard, id, shards, count);
    request_wait(request, &shard->place.line, log_block_last(shard->log));
    return 0;
}

void decision_applied(struct shard *shard, struct transaction_id id, uint32_t by)
{
    struct decision *decision = decision_find(shard, id);
    uint8_t bytes[LEDGER_HEAD_BYTES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);

    if (!decision)
        return;
    for (uint32_t i = 0; i < decision->count; i++) {
        if (decision->shards[i] == by)
            decision->shards[i] = decision->shards[--decision->count];
    }
    shard->ledger.is_dirty = true;
    if (decision->count > 0)
        return;
    ledger_write_head(&w, LEDGER_FORGET, id, 0);
    log_append_promised(shard->log, LEDGER_ID, slice_of(bytes, writer_size(&w)), promise_bytes());
    decision_free(shard, decision);
}

/* ---- the ledger as a whole ---- */

void ledger_init(struct shard *shard)
{
    struct loop *loop = shard->place.worker->loop;

    map_init_bytes(&shard->ledger.parts, loop_random(loop));
    map_init_bytes(&shard->ledger.decisions, loop_random(loop));
    list_init(&shard->ledger.ending);
}

void ledger_fini(struct shard *shard)
{
    struct map_cursor parts = {0}, decisions = {0};

    for (struct part *part; (part = map_next(&shard->ledger.parts, &parts));)
        part_free(part);
    for (struct decision *d; (d = map_next(&shard->ledger.decisions, &decisions));)
        decision_free(shard, d);
    map_fini(&shard->ledger.parts);
    map_fini(&shard->ledger.decisions);
}

void ledger_durable(struct shard *shard, uint64_t block)
{
    for (struct list *link; (link = list_first(&shard->ledger.ending));) {
        struct part *part = CONTAINER_OF(link, struct part, end_link);
        if (part->block > block)
            break;
        part_over(part, true);
    }
}

void ledger_failed(struct shard *shard)
{
    for (struct list *link; (link = list_first(&shard->ledger.ending));)
        part_over(CONTAINER_OF(link, struct part, end_link), false);
}

bool ledger_is_quiet(const struct shard *shard)
{
    struct map_cursor cursor = {0};

    for (const struct part *part; (part = map_next(&shard->ledger.parts, &cursor));) {
        if (part->phase == PART_ENDING || part->phase == PART_ENDED)
            return false;
    }
    return true;
}

/* ---- its state ---- */

struct growing {
    uint8_t *bytes;
    size_t size, capacity;
};

static struct writer growing_writer(struct growing *g, size_t room)
{
    if (g->capacity - g->size < room) {
        g->capacity = 2 * g->capacity + room;
        g->bytes = memory_resize(g->bytes, g->capacity, 1);
    }
    return writer_of(g->bytes + g->size, room);
}

/* A record that was written behind a gap, and the gap becomes its size. */
static void close_record(struct growing *g, const struct writer *w)
{
    uint8_t bytes[VARINT_SIZE_MAX];
    struct writer size = writer_of(bytes, sizeof bytes);
    size_t record = writer_size(w) - VARINT_SIZE_MAX;

    ASSERT(!w->failed);
    write_varint(&size, record);
    memmove(w->start + writer_size(&size), w->start + VARINT_SIZE_MAX, record);
    memcpy(w->start, bytes, writer_size(&size));
    g->size += writer_size(&size) + record;
}

static void put_part(struct growing *g, const struct part *part)
{
    size_t room = VARINT_SIZE_MAX + LEDGER_HEAD_BYTES_MAX +
                  (part->item_count - part->at) * LEDGER_ITEM_BYTES_MAX;
    struct writer w = growing_writer(g, room);

    if (!part->is_logged || part->phase == PART_ENDED)
        return;
    writer_take(&w, VARINT_SIZE_MAX);
    ledger_write_head(&w, LEDGER_PREPARE, part->id, part->decider);
    for (size_t i = part->at; i < part->item_count; i++) {
        const struct item *item = &part->items[i];
        if (item->is_logged && item->what.count > 0)
            ledger_write_item(&w, &item->what);
    }
    close_record(g, &w);
}

static void put_decision(struct growing *g, const struct decision *decision)
{
    size_t room =
        VARINT_SIZE_MAX + LEDGER_HEAD_BYTES_MAX + decision->count * (size_t)VARINT_SIZE_MAX;
    struct writer w = growing_writer(g, room);

    writer_take(&w, VARINT_SIZE_MAX);
    ledger_write_head(&w, LEDGER_DECIDE, decision->id, 0);
    for (uint32_t i = 0; i < decision->count; i++)
        write_varint(&w, decision->shards[i]);
    close_record(g, &w);
}

void ledger_write_state(struct shard *shard)
{
    struct growing g = {0};
    struct map_cursor parts = {0}, decisions = {0};

    struct writer w = growing_writer(&g, 1);
    write_u8(&w, LEDGER_STATE_VERSION);
    g.size = 1;
    for (const struct part *part; (part = map_next(&shard->ledger.parts, &parts));)
        put_part(&g, part);
    for (const struct decision *d; (d = map_next(&shard->ledger.decisions, &decisions));)
        put_decision(&g, d);
    size_t at = 0;
    do {
        size_t size = g.size - at < LOG_STATE_MAX ? g.size - at : LOG_STATE_MAX;
        log_append_state(shard->log, LEDGER_ID, slice_of(g.bytes + at, size), at + size < g.size);
        at += size;
    } while (at < g.size);
    free(g.bytes);
    shard->ledger.is_dirty = false;
}

/* ---- recovery ---- */

static void recover_items(struct part *part, struct slice rest)
{
    struct ledger_item what;

    while (ledger_item_next(&rest, &what)) {
        part->items = part_grow(part, part->items, part->item_count, &part->item_capacity,
                                sizeof *part->items);
        part->items[part->item_count++] = (struct item){NULL, what, true};
    }
}

static void recover_shards(struct shard *shard, const struct ledger_record *record)
{
    struct slice rest = record->rest;
    size_t count = 0;
    uint32_t number;

    if (decision_find(shard, record->id))
        return;
    uint32_t *shards = memory_new((rest.size + 1) * sizeof *shards);
    while (ledger_shard_next(&rest, &number))
        shards[count++] = number;
    decision_add(shard, record->id, shards, count);
    free(shards);
}

static void recover_record(struct shard *shard, const struct ledger_record *record)
{
    struct part *part = part_find(shard, record->id);
    struct decision *decision = decision_find(shard, record->id);

    switch (record->kind) {
    case LEDGER_PREPARE:
        if (!part)
            part = part_new(shard, record->id);
        part->decider = record->decider;
        recover_items(part, record->rest);
        break;
    case LEDGER_END:
        if (part)
            part_free(part);
        break;
    case LEDGER_DECIDE:
        recover_shards(shard, record);
        break;
    case LEDGER_FORGET:
        if (decision)
            decision_free(shard, decision);
        break;
    }
    shard->ledger.is_dirty = true; /* the next checkpoint may end the replay of this */
}

int ledger_recover_change(struct shard *shard, struct slice change)
{
    struct ledger_record record;

    int result = ledger_record_decode(change, &record);
    if (result == 0)
        recover_record(shard, &record);
    return result;
}

int ledger_recover_state(struct shard *shard, struct slice state)
{
    struct ledger_record record;
    size_t at = 0;
    int result;

    while ((result = ledger_state_next(state, &at, &record)) == 1)
        recover_record(shard, &record);
    return result;
}

/* What is still there of an item is held again. */
static void hold_again(struct part *part, const struct ledger_item *what)
{
    struct queue *queue = shard_logged_queue(part->shard, what->queue);

    if (!queue)
        return;
    for (uint64_t i = 0; i < what->count && queue_has_come_to(queue, what->first + i); i++) {
        if (queue_hold(queue, what->first + i))
            part_add_item(part, hosted_of(queue), what->first + i, (enum item_kind)what->kind,
                          true);
    }
}

static void recover_part(struct part *part)
{
    struct item *told = part->items;
    size_t count = part->item_count;

    part->items = NULL;
    part->item_count = part->item_capacity = 0;
    account_release(&part->shard->place.worker->memory, part->charged);
    part->charged = 0;
    for (size_t i = 0; i < count; i++)
        hold_again(part, &told[i].what);
    free(told);
    part->written = part->item_count;
    part->phase = PART_PREPARED;
    part->is_logged = true;
    part->is_in_doubt = true;
    part_count(part);
}

void ledger_recover_end(struct shard *shard)
{
    struct ledger *ledger = &shard->ledger;
    struct map_cursor parts = {0}, decisions = {0};

    for (struct part *part; (part = map_next(&ledger->parts, &parts));)
        recover_part(part);
    for (struct decision *d; (d = map_next(&ledger->decisions, &decisions));)
        d->is_old = true;
    size_t promises = map_count(&ledger->parts) + map_count(&ledger->decisions);
    log_promise(shard->log, promises * promise_bytes());
    if (promises > 0)
        log_info(shard->place.worker->logger, "recovery",
                 "shard %u: %zu transactions in doubt, %zu decided and perhaps not known to all",
                 shard->number, map_count(&ledger->parts), map_count(&ledger->decisions));
}

/* To where a shard is: what was decided, or the question for it. */
static void tell_decision(struct shard *decider, struct transaction_id id, uint32_t to)
{
    struct place *place = worker_place(decider->place.worker, to);

    if (!place)
        return;
    if (place->is_here)
        part_end(shard_of(place), id, decider->number, true, NULL);
    else
        peer_part_end(peer_of(place), id, to, decider->number, true);
}

static void ask_decision(struct part *part)
{
    struct shard *shard = part->shard;
    struct place *place = worker_place(shard->place.worker, part->decider);

    if (!place)
        return;
    if (place->is_here)
        ledger_answer(shard_of(place), part->id, shard->number);
    else
        peer_ask_decision(peer_of(place), part->id, part->decider, shard->number);
}

void ledger_answer(struct shard *decider, struct transaction_id id, uint32_t asker)
{
    bool commit = decision_find(decider, id) != NULL;
    struct place *place = worker_place(decider->place.worker, asker);

    if (!place)
        return;
    if (place->is_here)
        part_end(shard_of(place), id, decider->number, commit, NULL);
    else
        peer_part_end(peer_of(place), id, asker, decider->number, commit);
}

/* Telling may end parts and decisions, which others than those at hand are not touched by. Workers
 * that have begun already may have prepared new ones here, and asking for those would undo them. */
static void resolve(struct shard *shard)
{
    struct map_cursor parts = {0}, decisions = {0};

    for (struct decision *d; (d = map_next(&shard->ledger.decisions, &decisions));) {
        if (!d->is_old)
            continue;
        struct transaction_id id = d->id;
        uint32_t count = d->count, *shards = memory_new((count + 1) * sizeof *shards);
        memcpy(shards, d->shards, count * sizeof *shards);
        for (uint32_t i = 0; i < count; i++)
            tell_decision(shard, id, shards[i]);
        free(shards);
    }
    for (struct part *part; (part = map_next(&shard->ledger.parts, &parts));) {
        if (part->is_in_doubt && part->phase == PART_PREPARED)
            ask_decision(part);
    }
}

void ledgers_resolve(struct worker *worker)
{
    for (unsigned i = 0; i < worker->shard_count; i++)
        resolve(worker->shards[i]);
}
