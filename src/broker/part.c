#include "broker/part_private.h"
#include "broker/peer.h"

#include <stdlib.h>

#define RECORD_BYTES     4096u /* of a PREPARE; more of them add up */
#define STEP_ITEMS_MAX   1000u
#define STEP_PUBLISH_MAX 64u
#define STEP_BYTES_MAX   (256u << 10)
#define CLOCK_ITEMS      32u /* between two looks at the clock */

/* ---- collecting ---- */

struct part *part_find(const struct shard *shard, struct transaction_id id)
{
    return map_get(&shard->ledger.parts, transaction_key(&id));
}

struct part *part_new(struct shard *shard, struct transaction_id id)
{
    struct part *part = memory_new(sizeof *part);

    part->id = id;
    part->shard = shard;
    list_init(&part->work_link);
    list_init(&part->end_link);
    map_put(&shard->ledger.parts, transaction_key(&part->id), part);
    return part;
}

void part_count(struct part *part)
{
    part->is_counted = true;
    part->shard->ledger.prepared++;
}

void part_free(struct part *part)
{
    for (size_t i = part->publish_at; i < part->publish_count; i++) {
        const struct part_publish *publish = &part->publishes[i];
        for (size_t t = 0; t < publish->count; t++)
            hosted_release(part->targets[publish->targets + t]);
        message_unref(publish->message);
    }
    for (size_t i = part->at; i < part->item_count; i++) {
        if (part->items[i].hosted)
            hosted_release(part->items[i].hosted);
    }
    part->shard->ledger.prepared -= part->is_counted;
    account_release(&part->shard->place.worker->memory, part->charged);
    list_remove(&part->work_link);
    list_remove(&part->end_link);
    map_remove(&part->shard->ledger.parts, transaction_key(&part->id));
    free(part->publishes);
    free(part->targets);
    free(part->items);
    free(part);
}

struct part *part_collect(struct shard *shard, struct transaction_id id)
{
    struct part *part = part_find(shard, id);

    if (!part)
        part = part_new(shard, id);
    return part->phase == PART_COLLECTING ? part : NULL;
}

void part_publish(struct part *part, struct message *message, struct catalog_queue **queues,
                  size_t count, size_t wanted)
{
    struct part_publish publish = {message_ref(message), part->target_count, 0, wanted};

    for (size_t i = 0; i < count; i++) {
        struct hosted *hosted = queues[i]->hosted;
        if (!hosted || hosted->queue.is_given_up)
            continue;
        part->targets = part_grow(part, part->targets, part->target_count, &part->target_capacity,
                                  sizeof(struct hosted *));
        part->targets[part->target_count++] = hosted;
        queue_ref(&hosted->queue);
        publish.count++;
    }
    part->publishes = part_grow(part, part->publishes, part->publish_count, &part->publish_capacity,
                                sizeof *part->publishes);
    part->publishes[part->publish_count++] = publish;
}

void part_add_item(struct part *part, struct hosted *hosted, uint64_t sequence, enum item_kind kind,
                   bool is_logged)
{
    struct item *last = part->item_count ? &part->items[part->item_count - 1] : NULL;

    if (last && part->written < part->item_count && last->hosted == hosted &&
        last->what.kind == kind && last->is_logged == is_logged &&
        last->what.first + last->what.count == sequence) {
        last->what.count++;
        return;
    }
    part->items =
        part_grow(part, part->items, part->item_count, &part->item_capacity, sizeof *part->items);
    part->items[part->item_count++] =
        (struct item){hosted, {hosted->queue.id, sequence, 1, (uint8_t)kind}, is_logged};
    queue_ref(&hosted->queue);
}

_Static_assert((int)ITEM_BURIED - (int)ITEM_ACCEPT == (int)OUTCOME_BURIED,
               "kinds of items follow outcomes");

void part_settle(struct part *part, struct hosted *hosted, uint64_t sequence, enum outcome outcome)
{
    if (!hosted->queue.is_given_up)
        part_add_item(part, hosted, sequence, (enum item_kind)(ITEM_ACCEPT + outcome),
                      queue_is_logged(&hosted->queue, sequence));
}

void part_wait_settled(struct part *part, uint64_t version)
{
    part->deletion = version;
}

uint64_t part_waits_for(const struct part *part)
{
    return part->deletion;
}

/* ---- into log and queues ---- */

/* The queues that are still there and take it, in an array that the caller frees; and a word on
 * what the log needs for it. One that is deleted is there until that is durable: a crash may undo
 * the deletion, but not a part of the transaction. */
static struct catalog_queue **still_there(struct part *part, const struct part_publish *publish,
                                          size_t *count, bool *is_logged)
{
    struct catalog_queue **queues = memory_new((publish->count + 1) * sizeof(void *));

    *count = 0;
    *is_logged = false;
    for (size_t i = 0; i < publish->count; i++) {
        struct hosted *hosted = part->targets[publish->targets + i];
        if (hosted->queue.is_given_up ||
            queue_refuses(&hosted->queue, message_body(publish->message).size))
            continue;
        queues[(*count)++] = hosted->named;
        *is_logged |= hosted->queue.log && (publish->message->flags & MESSAGE_PERSISTENT);
    }
    return queues;
}

/* Those of the next publishes that have to be taken can be. */
static int check_taken(struct part *part, size_t end, struct failure *failure)
{
    for (size_t i = part->publish_at; i < end; i++) {
        const struct part_publish *publish = &part->publishes[i];
        size_t count = 0;
        bool is_logged;
        if (publish->wanted == 0)
            continue;
        free(still_there(part, publish, &count, &is_logged));
        if (count < publish->wanted)
            return fail(failure, E_LIMIT, "a queue is full, or has been deleted");
    }
    return 0;
}

static size_t publish_bytes(struct part *part, const struct part_publish *publish)
{
    size_t count;
    bool is_logged;

    free(still_there(part, publish, &count, &is_logged));
    return is_logged ? log_message_bytes(publish->message, count) : 0;
}

/* Enqueues the next publish; held, if it is not to happen now. What it needs of the log is in an
 * open group. */
static void enqueue_next(struct part *part, bool held)
{
    const struct part_publish *publish = &part->publishes[part->publish_at++];
    struct failure failure;
    size_t count;
    bool is_logged;
    struct catalog_queue **queues = still_there(part, publish, &count, &is_logged);

    int result = shard_enqueue(part->shard, publish->message, queues, count, &is_logged, &failure);
    ASSERT(result == 0);
    for (size_t i = 0; i < count && held; i++) {
        struct hosted *hosted = queues[i]->hosted;
        uint64_t sequence = queue_sequence(&hosted->queue, publish->message) - 1;
        bool holds = queue_hold(&hosted->queue, sequence);
        ASSERT(holds);
        part_add_item(part, hosted, sequence, ITEM_PUBLISH, is_logged && hosted->queue.log);
    }
    for (size_t i = 0; i < publish->count; i++)
        hosted_release(part->targets[publish->targets + i]);
    message_unref(publish->message);
    free(queues);
}

static void too_large(struct failure *failure)
{
    fail(failure, E_LIMIT, "the transaction is larger than %u bytes", LOG_GROUP_BYTES_MAX);
}

static int group_begin(struct log *log, size_t bytes, struct failure *failure)
{
    int result = log_group_begin(log, bytes);

    if (result == E_LIMIT)
        too_large(failure);
    else if (result != 0)
        storage_failure(result, failure);
    return result;
}

/* ---- ending: what is held goes one of its two ways ---- */

/* The queue has been given up meanwhile. Where its deletion could not be logged the next start has
 * it again, but not a part of the transaction. */
static void end_in_deleted(const struct item *item, bool commit)
{
    const struct queue *queue = &item->hosted->queue;
    bool is_publish = item->what.kind == ITEM_PUBLISH;
    bool is_final = item->what.kind <= ITEM_REJECT || item->what.kind == ITEM_BURIED;
    bool is_settled = is_publish ? !commit : commit && is_final;
    enum settle_reason why = is_publish                       ? SETTLE_DROPPED
                             : item->what.kind == ITEM_ACCEPT ? SETTLE_ACCEPTED
                                                              : SETTLE_REJECTED;

    if (is_settled && item->is_logged)
        log_settle(queue->log, queue->id, item->what.first, item->what.first, why);
}

static void end_one(const struct item *item, bool commit)
{
    struct queue *queue = &item->hosted->queue;
    uint64_t sequence = item->what.first;
    bool is_publish = item->what.kind == ITEM_PUBLISH;

    if (queue->is_given_up)
        end_in_deleted(item, commit);
    else if (commit && is_publish)
        queue_return(queue, sequence, false, false);
    else if (commit)
        settle_here(queue, sequence, sequence, (enum outcome)(item->what.kind - ITEM_ACCEPT));
    else if (is_publish)
        queue_settle(queue, sequence, SETTLE_DROPPED);
    else
        queue_return(queue, sequence, true, false);
}

/* All items, or until the time is over: then false. The ledger has what is left. */
static bool end_items(struct part *part, uint64_t until_ns)
{
    struct loop *loop = part->shard->place.worker->loop;
    unsigned done = 0;

    for (; part->at < part->item_count; part->at++) {
        struct item *item = &part->items[part->at];
        for (; item->what.count > 0; item->what.first++, item->what.count--) {
            if (++done % CLOCK_ITEMS == 0 && loop_precise_ns(loop) > until_ns)
                return false;
            end_one(item, part->commits);
        }
        hosted_release(item->hosted);
    }
    return true;
}

/* Publishes that were never made. */
static bool drop_publishes(struct part *part, uint64_t until_ns)
{
    struct loop *loop = part->shard->place.worker->loop;

    while (part->publish_at < part->publish_count) {
        if (part->publish_at % CLOCK_ITEMS == 0 && loop_precise_ns(loop) > until_ns)
            return false;
        const struct part_publish *publish = &part->publishes[part->publish_at++];
        for (size_t i = 0; i < publish->count; i++)
            hosted_release(part->targets[publish->targets + i]);
        message_unref(publish->message);
    }
    return true;
}

/* The decider may strike this shard out. */
static void tell_applied(struct shard *shard, struct transaction_id id, uint32_t decider)
{
    struct place *place = decider ? worker_place(shard->place.worker, decider) : NULL;

    if (!place)
        return; /* nothing of it was durable anywhere: nobody has written a decision */
    if (place->is_here)
        decision_applied(shard_of(place), id, shard->number);
    else
        peer_tell_applied(peer_of(place), id, decider, shard->number);
}

void part_over(struct part *part, bool is_durable)
{
    if (part->commits && is_durable)
        tell_applied(part->shard, part->id, part->decider);
    part_free(part);
}

static void write_end(struct part *part)
{
    struct shard *shard = part->shard;
    uint8_t bytes[LEDGER_HEAD_BYTES_MAX];
    struct writer w = writer_of(bytes, sizeof bytes);

    ledger_write_head(&w, LEDGER_END, part->id, 0);
    log_append_promised(shard->log, LEDGER_ID, slice_of(bytes, writer_size(&w)), promise_bytes());
    shard->ledger.is_dirty = true;
    part->phase = PART_ENDED;
    part->block = log_block_last(shard->log);
    list_append(&shard->ledger.ending, &part->end_link);
}

/* True: nothing more to do for it now. */
static bool end_slice(struct part *part, uint64_t until_ns)
{
    struct request *request = part->request;

    if (!drop_publishes(part, until_ns) || !end_items(part, until_ns))
        return false;
    list_remove(&part->work_link);
    part->request = NULL;
    if (request)
        request_go_on(request);
    if (!part->is_logged) {
        part_over(part, true);
        return true;
    }
    write_end(part);
    if (log_is_failed(part->shard->log))
        part_over(part, false);
    return true;
}

static void work_on(struct part *part, enum part_phase phase)
{
    struct worker *worker = part->shard->place.worker;

    part->phase = phase;
    list_append(&worker->parts, &part->work_link);
    loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
}

static void end_begin(struct part *part, bool commit)
{
    part->commits = commit;
    work_on(part, PART_ENDING);
}

void part_drop(struct shard *shard, struct transaction_id id)
{
    struct part *part = part_find(shard, id);

    if (part && part->phase == PART_COLLECTING)
        end_begin(part, false);
}

void part_end(struct shard *shard, struct transaction_id id, uint32_t decider, bool commit,
              struct request *request)
{
    struct part *part = part_find(shard, id);

    if (part && part->phase == PART_PREPARED) {
        part->decider = decider;
        part->request = request;
        end_begin(part, commit);
        return;
    }
    if (!part && commit)
        tell_applied(shard, id, decider);
    if (request)
        request_go_on(request);
}

/* ---- alone ---- */

static size_t alone_bytes(struct part *part)
{
    size_t bytes = 0;

    for (size_t i = 0; i < part->publish_count; i++)
        bytes += publish_bytes(part, &part->publishes[i]);
    for (size_t i = 0; i < part->item_count; i++)
        bytes += part->items[i].is_logged ? part->items[i].what.count * PART_SETTLE_BYTES_MAX : 0;
    return bytes;
}

void part_do_alone(struct part *part, struct request *request)
{
    struct shard *shard = part->shard;
    size_t bytes = alone_bytes(part);

    if (check_taken(part, part->publish_count, &request->failure) != 0) {
        end_begin(part, false);
        return;
    }
    if (bytes > 0 && group_begin(shard->log, bytes, &request->failure) != 0) {
        end_begin(part, false);
        return;
    }
    while (part->publish_at < part->publish_count)
        enqueue_next(part, false);
    part->commits = true;
    bool all = end_items(part, UINT64_MAX);
    ASSERT(all);
    if (bytes > 0) {
        log_group_end(shard->log);
        request_wait(request, &shard->place.line, log_block_last(shard->log));
    }
    part_free(part);
}

/* ---- preparing ---- */

/* What records of so many bytes of items take of a group, with the promise. */
static size_t group_bytes(size_t item_bytes)
{
    size_t records =
        item_bytes / (RECORD_BYTES - LEDGER_HEAD_BYTES_MAX - LEDGER_ITEM_BYTES_MAX) + 1;

    return item_bytes + records * log_change_bytes(LEDGER_HEAD_BYTES_MAX) + promise_bytes();
}

static void append_prepare(struct part *part, const struct writer *w)
{
    struct ledger *ledger = &part->shard->ledger;
    size_t promise = part->is_logged ? 0 : promise_bytes();

    ASSERT(!w->failed);
    int result =
        log_append_change(part->shard->log, LEDGER_ID, slice_of(w->start, writer_size(w)), promise);
    ASSERT(result == 0); /* in a group */
    ledger->is_dirty = true;
    part->is_logged = true;
}

/* The next items up to this one become records. In a group. */
static void write_items(struct part *part, size_t end)
{
    uint8_t bytes[RECORD_BYTES];
    struct writer w = writer_of(bytes, sizeof bytes);
    size_t count = 0;

    for (; part->written < end; part->written++) {
        const struct item *item = &part->items[part->written];
        if (!item->is_logged)
            continue;
        if (count > 0 && (size_t)(w.end - w.at) < LEDGER_ITEM_BYTES_MAX) {
            append_prepare(part, &w);
            w = writer_of(bytes, sizeof bytes);
            count = 0;
        }
        if (count++ == 0)
            ledger_write_head(&w, LEDGER_PREPARE, part->id, part->decider);
        ledger_write_item(&w, &item->what);
    }
    if (count > 0)
        append_prepare(part, &w);
}

static int write_some_items(struct part *part, struct failure *failure)
{
    size_t end = part->written, logged = 0;

    while (end < part->item_count && logged < STEP_ITEMS_MAX)
        logged += part->items[end++].is_logged;
    if (logged == 0) {
        part->written = end;
        return 0;
    }
    int result =
        group_begin(part->shard->log, group_bytes(logged * LEDGER_ITEM_BYTES_MAX), failure);
    if (result != 0)
        return result;
    write_items(part, end);
    log_group_end(part->shard->log);
    return 0;
}

static int publish_some(struct part *part, struct failure *failure)
{
    size_t end = part->publish_at, bytes = 0, item_bytes = 0;

    while (end < part->publish_count && end - part->publish_at < STEP_PUBLISH_MAX) {
        size_t more = publish_bytes(part, &part->publishes[end]);
        if (bytes > 0 && bytes + more > STEP_BYTES_MAX)
            break;
        bytes += more;
        item_bytes += part->publishes[end].count * LEDGER_ITEM_BYTES_MAX;
        end++;
    }
    if (check_taken(part, end, failure) != 0)
        return failure->code;
    if (bytes > 0) {
        int result = group_begin(part->shard->log, bytes + group_bytes(item_bytes), failure);
        if (result != 0)
            return result;
    }
    while (part->publish_at < end)
        enqueue_next(part, true);
    write_items(part, part->item_count);
    if (bytes > 0)
        log_group_end(part->shard->log);
    return 0;
}

/* The request goes on; the part may be gone by then. */
static void prepare_over(struct part *part)
{
    struct shard *shard = part->shard;
    struct request *request = part->request;

    part->request = NULL;
    if (request->failure.code != 0)
        end_begin(part, false);
    else if (part->is_logged)
        request_wait(request, &shard->place.line, log_block_last(shard->log));
    if (request->failure.code == 0 && part->deletion)
        request_wait(request, &shard->place.worker->catalog_settled, part->deletion);
    request_go_on(request);
}

static bool prepare_slice(struct part *part, uint64_t until_ns)
{
    struct loop *loop = part->shard->place.worker->loop;
    struct failure *failure = &part->request->failure;

    while (failure->code == 0) {
        if (part->written < part->item_count)
            failure->code = write_some_items(part, failure);
        else if (part->publish_at < part->publish_count)
            failure->code = publish_some(part, failure);
        else
            break;
        if (loop_precise_ns(loop) > until_ns)
            return false;
    }
    list_remove(&part->work_link);
    part->phase = PART_PREPARED;
    prepare_over(part);
    return true;
}

void part_prepare(struct part *part, uint32_t decider, struct request *request)
{
    ASSERT(part->phase == PART_COLLECTING);
    part->decider = decider;
    part->request = request;
    if (part->shard->ledger.prepared >= PARTS_MAX) {
        fail(&request->failure, E_LIMIT, "%u transactions over several shards are under way",
             PARTS_MAX);
        prepare_over(part);
        return;
    }
    part_count(part);
    work_on(part, PART_PREPARING);
}

bool parts_slice(struct worker *worker)
{
    uint64_t until_ns = loop_precise_ns(worker->loop) + TURN_SLICE_NS;

    for (struct list *link; (link = list_first(&worker->parts));) {
        struct part *part = CONTAINER_OF(link, struct part, work_link);
        bool is_over = part->phase == PART_PREPARING ? prepare_slice(part, until_ns)
                                                     : end_slice(part, until_ns);
        if (!is_over || loop_precise_ns(worker->loop) > until_ns)
            break;
    }
    return list_empty(&worker->parts);
}
