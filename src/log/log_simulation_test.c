/*
 * The log against a model, by seed: lives that end in a crash or a clean close, on a disk that
 * loses, tears, fails, fills up and turns bits.
 *
 *   log_simulation_test [--seeds FIRST..LAST] [--verbose]
 *
 * The model is the list of what was appended in this life, each with its block. After a crash the
 * log says which block is its last; then exactly what was appended up to that block must be told,
 * nothing less and nothing more, and no block that was told durable may be missing. Every message
 * that is read back must have its own bytes. Machines stand for what has changes: their changes are
 * numbered, so that each must be told once and in order unless a state covers it.
 *
 * Some openings are refused, or end in a crash: the first must leave the disk as it was. What was
 * reported as corrupt must be told again at each later opening.
 *
 * Half of the seeds are encrypted, with master keys that rotate while the log is open. Nothing may
 * be sealed under a key and nonce that other bytes were sealed under, in any life, nor by another
 * process that goes on from a copy of the disk. Some openings come with wrong keys, and change
 * nothing.
 */
#include "log/log.h"
#include "log/test_witness.h"

#include "base/memory.h"
#include "loop/simulated.h"
#include "store/simulated/simulated.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define QUEUES       4
#define SEQUENCE_MAX 1500
#define EVENTS_MAX   2000
#define OPS_MAX      8000
#define LIVES_MAX    6
#define MACHINES     2
#define PROMISES_MAX 8 /* of one machine */
#define PROMISE      (20u << 10)

/* ---- the model ---- */

struct item {
    uint64_t position;
    uint32_t id;
    bool is_live;
};

struct queue {
    struct item items[SEQUENCE_MAX];
    uint64_t next, returned, delivered, postponed; /* postponed: all times together */
    bool is_dirty;
};

struct model {
    struct queue queues[QUEUES];
    struct machine {
        uint32_t changes;  /* 1 to this */
        uint32_t promised; /* more of them that must not fail */
        bool is_dirty;
    } machines[MACHINES];
    uint32_t events; /* of the catalog: 1 to this */
};

enum kind {
    APPENDED,
    SETTLED,
    RETURNED,
    DELIVERED,
    POSTPONED,
    CATALOG,
    PREPARED,
    CHANGED,
    FULFILLED
};

struct operation {
    enum kind kind;
    unsigned queue; /* or machine */
    uint64_t block, first, last, position;
    uint32_t id;
};

/* What recovery has told. */
struct view {
    bool has_state[QUEUES];
    uint64_t next[QUEUES], returned[QUEUES], delivered[QUEUES], postponed[QUEUES];
    uint64_t position[QUEUES][SEQUENCE_MAX];
    uint32_t size[QUEUES][SEQUENCE_MAX];
    uint16_t lane[QUEUES][SEQUENCE_MAX];
    uint64_t due_ms[QUEUES][SEQUENCE_MAX];
    uint8_t live_in_state[QUEUES][SEQUENCE_MAX / 8 + 1];
    uint8_t settled[QUEUES][SEQUENCE_MAX / 8 + 1];
    uint8_t events[EVENTS_MAX / 8 + 1];
    uint32_t event_last;
    struct machine machines[MACHINES];
    bool is_out_of_order; /* a change was told that does not follow the one before */
};

enum profile { CALM, FAILING_WRITES, FAILING_SYNCS, FAILING_READS, SMALL_DISK, FLIPPING, PROFILES };

struct simulation {
    uint64_t seed, random;
    enum profile profile;
    struct simulated_disk *disk;
    struct loop *loop;
    struct store *store;
    struct account account;
    struct logger logger;
    struct log_options options;
    struct log *log;
    struct model base, now;
    struct view view;
    struct operation *ops;
    size_t ops_count;
    uint32_t id_next;
    unsigned life;
    uint64_t durable;
    bool is_open, has_failed, is_closed, was_full;
    int opened;
    struct log_opened summary;
    struct failure failure;
    bool has_checkpoint, checkpoint_catalog, snapshot_is_open;
    unsigned checkpoint_queue, snapshot_event;
    unsigned reads_open;
    uint64_t reads_done;
    struct list reads;
    bool corrupt_reported; /* in this life or before: what was set aside then is not told again */
    bool corrupt_now;      /* in this life, */
    bool corrupt_lasts;    /* or in one before it, so that it must be told */
    bool refuses;          /* this opening */
    bool was_clean; /* the life before; after a power cut in an opening it may look so or not */
    bool was_cut;
    uint64_t changes; /* of the disk, before it */
    bool has_keys, has_wrong_keys;
    struct keyring keys, keys_of_opening;
    struct test_witness witness;
    bool ends_soon;
    bool verbose;
};

static const char *const profile_names[PROFILES] = {
    "calm", "failing writes", "failing syncs", "failing reads", "small disk", "flipping bits"};

static void give_up(const struct simulation *s, int line, const char *condition)
{
    fflush(stdout);
    fprintf(stderr,
            "seed %llu (%s, life %u): line %d: %s\n  again: log_simulation_test --seeds %llu..%llu "
            "--verbose\n",
            (unsigned long long)s->seed, profile_names[s->profile], s->life, line, condition,
            (unsigned long long)s->seed, (unsigned long long)s->seed);
    abort();
}

#define CHECK(s, condition)                                                                        \
    do {                                                                                           \
        if (!(condition))                                                                          \
            give_up(s, __LINE__, #condition);                                                      \
    } while (0)

static void say(const struct simulation *s, const char *format, ...) PRINTF_LIKE(2, 3);

static void say(const struct simulation *s, const char *format, ...)
{
    va_list arguments;

    if (!s->verbose)
        return;
    va_start(arguments, format);
    vprintf(format, arguments);
    va_end(arguments);
    putchar('\n');
}

static uint64_t mix(uint64_t x)
{
    x ^= x >> 30;
    x *= 0xbf58476d1ce4e5b9ull;
    x ^= x >> 27;
    x *= 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static uint64_t any(struct simulation *s, uint64_t below)
{
    s->random += 0x9e3779b97f4a7c15ull;
    return mix(s->random) % below;
}

static bool bit(const uint8_t *bits, uint64_t at)
{
    return bits[at / 8] >> at % 8 & 1;
}

static void set_bit(uint8_t *bits, uint64_t at)
{
    bits[at / 8] = (uint8_t)(bits[at / 8] | 1u << at % 8);
}

/* ---- messages: everything about one follows from its id ---- */

static size_t size_of(uint32_t id)
{
    uint64_t hash = mix(id * 77ull);

    if (hash % 500 == 0)
        return 262145 + hash / 500 % 150000;
    if (hash % 80 == 0)
        return hash / 80 % 140000;
    if (hash % 10 == 0)
        return hash / 10 % 6000;
    return hash / 10 % 200;
}

static uint16_t lane_of(uint32_t id)
{
    return id % 5 ? 0 : (uint16_t)mix(id);
}

static uint64_t due_of(uint32_t id)
{
    return lane_of(id) & LOG_LANE_DUE ? mix(id + 77) >> id % 60 : 0;
}

static uint64_t word_of(uint32_t id, size_t at)
{
    return (id + 1) * 0x9e3779b97f4a7c15ull ^ at * 0xc2b2ae3d27d4eb4full;
}

static struct message *message_of(struct simulation *s, uint32_t id)
{
    size_t size = size_of(id);
    struct buffer *body = buffer_new(size + 8);
    char key[16];

    CHECK(s, body);
    for (size_t i = 0; i < size; i += 8)
        store_le64(body->data + i, word_of(id, i));
    body->size = (uint32_t)size;
    snprintf(key, sizeof key, "%u", id);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .key = slice_text(key),
        .properties = slice_of("\0\0", 2),
        .body = slice_of(body->data, size),
        .body_buffer = size > MESSAGE_INLINE_MAX ? body : NULL,
        .published_at_ms = id,
    };
    struct message *message = message_new(&s->account, &parts);
    CHECK(s, message);
    buffer_unref(body);
    return message;
}

static bool is_message(const struct message *message, uint32_t id)
{
    struct slice body = message_body(message);
    char key[16];

    snprintf(key, sizeof key, "%u", id);
    if (body.size != size_of(id) || !slice_is(message_key(message), key) ||
        message->published_at_ms != id)
        return false;
    size_t at = 0;
    for (; at + 8 <= body.size; at += 8)
        if (load_le64(body.data + at) != word_of(id, at))
            return false;
    for (size_t i = at; i < body.size; i++)
        if (body.data[i] != (uint8_t)(word_of(id, at) >> 8 * (i - at)))
            return false;
    return true;
}

/* ---- reading back ---- */

struct reading {
    struct log_read read;
    struct list link;
    struct simulation *simulation;
    uint32_t ids[LOG_READ_MAX];
};

static bool may_be_corrupt(const struct simulation *s)
{
    return simulated_disk_flips(s->disk) > 0;
}

static void read_done(struct log_read *read)
{
    struct reading *reading = CONTAINER_OF(read, struct reading, read);
    struct simulation *s = reading->simulation;

    for (size_t i = 0; i < read->count; i++) {
        if (read->results[i] == 0) {
            CHECK(s, is_message(read->messages[i], reading->ids[i]));
            message_unref(read->messages[i]);
            s->reads_done++;
            continue;
        }
        CHECK(s, read->messages[i] == NULL);
        CHECK(s, read->results[i] == E_CORRUPT || read->results[i] == E_IO);
        CHECK(s, read->results[i] != E_CORRUPT || may_be_corrupt(s));
        CHECK(s, read->results[i] != E_IO || s->profile == FAILING_READS);
    }
    list_remove(&reading->link);
    s->reads_open--;
    free(reading);
}

static void submit_reading(struct simulation *s, struct reading *reading)
{
    reading->simulation = s;
    reading->read.done = read_done;
    list_init(&reading->link);
    list_append(&s->reads, &reading->link);
    s->reads_open++;
    log_read(s->log, &reading->read);
}

static void read_some(struct simulation *s, unsigned count)
{
    struct reading *reading = memory_new(sizeof *reading);

    for (unsigned i = 0; i < count * 4 && reading->read.count < count; i++) {
        const struct queue *queue = &s->now.queues[any(s, QUEUES)];
        if (queue->next == 1)
            continue;
        const struct item *item = &queue->items[1 + any(s, queue->next - 1)];
        if (!item->is_live)
            continue;
        reading->ids[reading->read.count] = item->id;
        reading->read.positions[reading->read.count++] = item->position;
    }
    if (reading->read.count == 0)
        free(reading);
    else
        submit_reading(s, reading);
}

static void run(struct simulation *s, uint64_t turns)
{
    simulated_run_turns(s->loop, turns);
}

static void finish_reads(struct simulation *s)
{
    for (unsigned i = 0; s->reads_open > 0; i++) {
        CHECK(s, i < 1000000);
        run(s, 1);
    }
}

static void read_everything(struct simulation *s)
{
    struct reading *reading = NULL;

    for (unsigned q = 0; q < QUEUES; q++)
        for (uint64_t sequence = 1; sequence < s->now.queues[q].next; sequence++) {
            const struct item *item = &s->now.queues[q].items[sequence];
            if (!item->is_live)
                continue;
            if (!reading)
                reading = memory_new(sizeof *reading);
            reading->ids[reading->read.count] = item->id;
            reading->read.positions[reading->read.count++] = item->position;
            if (reading->read.count == LOG_READ_MAX) {
                submit_reading(s, reading);
                reading = NULL;
            }
        }
    if (reading)
        submit_reading(s, reading);
    finish_reads(s);
}

/* ---- appending ---- */

static void apply_change(struct machine *machine, enum kind kind, uint32_t number)
{
    machine->changes = number;
    machine->promised += kind == PREPARED;
    machine->promised -= kind == FULFILLED;
    machine->is_dirty = true;
}

static void apply(struct model *model, const struct operation *o)
{
    if (o->kind >= PREPARED) {
        apply_change(&model->machines[o->queue], o->kind, o->id);
        return;
    }
    struct queue *queue = &model->queues[o->queue];

    switch (o->kind) {
    case APPENDED:
        queue->items[o->first] = (struct item){o->position, o->id, true};
        queue->next = o->first + 1;
        break;
    case SETTLED:
        for (uint64_t i = o->first; i <= o->last; i++)
            queue->items[i].is_live = false;
        break;
    case RETURNED:
        queue->returned += o->last - o->first + 1;
        break;
    case DELIVERED:
        queue->delivered = o->first;
        break;
    case POSTPONED:
        queue->postponed += o->first * o->last;
        break;
    default:
        model->events = o->id;
        return;
    }
    queue->is_dirty = true;
}

static void did(struct simulation *s, struct operation o)
{
    CHECK(s, s->ops_count < OPS_MAX);
    o.block = log_block_last(s->log);
    CHECK(s, s->ops_count == 0 || s->ops[s->ops_count - 1].block <= o.block);
    CHECK(s, o.block > log_block_durable(s->log));
    s->ops[s->ops_count++] = o;
    apply(&s->now, &o);
}

static void check_append_error(struct simulation *s, int result)
{
    CHECK(s, result == E_FULL || result == E_FAILED);
    CHECK(s, result != E_FAILED || log_is_failed(s->log));
    CHECK(s, result != E_FULL || s->profile == SMALL_DISK);
    s->was_full |= result == E_FULL;
}

static bool append_message(struct simulation *s, bool in_group)
{
    uint32_t id = s->id_next++;
    struct log_target targets[QUEUES];
    size_t count = 0;
    uint64_t position;
    unsigned first = (unsigned)any(s, QUEUES);

    for (unsigned i = 0; i < 1 + any(s, 8) / 6 * any(s, QUEUES); i++) {
        unsigned q = (first + i) % QUEUES;
        if (s->now.queues[q].next < SEQUENCE_MAX)
            targets[count++] =
                (struct log_target){q + 1, s->now.queues[q].next, lane_of(id), due_of(id)};
    }
    if (count == 0 || s->ops_count + 2 * QUEUES > OPS_MAX)
        return true;
    struct message *message = message_of(s, id);
    int result = log_append_message(s->log, message, targets, count, &position);
    message_unref(message);
    if (result < 0) {
        CHECK(s, !in_group);
        check_append_error(s, result);
        return false;
    }
    for (size_t i = 0; i < count; i++)
        did(s, (struct operation){.kind = APPENDED,
                                  .queue = (unsigned)targets[i].queue - 1,
                                  .first = targets[i].sequence,
                                  .last = targets[i].sequence,
                                  .position = position,
                                  .id = id});
    return true;
}

static void settle(struct simulation *s, unsigned q, uint64_t first, uint64_t last)
{
    struct queue *queue = &s->now.queues[q];

    log_settle(s->log, q + 1, first, last, 1);
    if (log_is_failed(s->log))
        return;
    for (uint64_t i = first; i <= last; i++)
        if (queue->items[i].is_live)
            log_release(s->log, queue->items[i].position);
    did(s, (struct operation){.kind = SETTLED, .queue = q, .first = first, .last = last});
}

/* Some of the oldest live messages, or one anywhere. */
static void settle_some(struct simulation *s, uint64_t count)
{
    unsigned q = (unsigned)any(s, QUEUES);
    const struct queue *queue = &s->now.queues[q];

    if (queue->next == 1 || log_is_failed(s->log))
        return;
    uint64_t at = any(s, 4) ? 1 : 1 + any(s, queue->next - 1);
    for (; at < queue->next && count > 0; at++)
        if (queue->items[at].is_live) {
            settle(s, q, at, at);
            count--;
        }
}

static void append_event(struct simulation *s)
{
    uint8_t bytes[200] = {0};

    if (s->now.events + 1 == EVENTS_MAX)
        return;
    store_le32(bytes, s->now.events + 1);
    int result = log_append_catalog(s->log, slice_of(bytes, 4 + any(s, 190)));
    if (result < 0)
        check_append_error(s, result);
    else
        did(s, (struct operation){.kind = CATALOG, .id = s->now.events + 1});
}

static size_t change_size(uint32_t number, enum kind kind)
{
    size_t max = kind == FULFILLED ? PROMISE : LOG_CHANGE_MAX + 1;

    return 9 + (number % 7 ? number % 50 : mix(number) % (max - 9));
}

static bool is_change(struct slice bytes, uint32_t number)
{
    enum kind kind = (enum kind)bytes.data[4];

    if (bytes.size != change_size(number, kind))
        return false;
    for (size_t i = 5; i < bytes.size; i++)
        if (bytes.data[i] != (uint8_t)(number + i))
            return false;
    return true;
}

/* One that makes another necessary, one for itself, or that other one. */
static void append_change(struct simulation *s, enum kind kind, bool in_group)
{
    unsigned m = (unsigned)any(s, MACHINES);
    struct machine *machine = &s->now.machines[m];
    uint32_t number = machine->changes + 1;
    size_t promise = log_change_bytes(PROMISE);
    int result = 0;

    if (log_is_failed(s->log) || (kind == PREPARED && machine->promised == PROMISES_MAX) ||
        (kind == FULFILLED && machine->promised == 0) || s->ops_count + 2 * QUEUES > OPS_MAX)
        return;
    size_t size = change_size(number, kind);
    uint8_t *bytes = memory_new(size);
    store_le32(bytes, number);
    bytes[4] = (uint8_t)kind;
    for (size_t i = 5; i < size; i++)
        bytes[i] = (uint8_t)(number + i);
    struct slice change = slice_of(bytes, size);
    if (kind == FULFILLED)
        log_append_promised(s->log, QUEUES + 1 + m, change, promise);
    else
        result = log_append_change(s->log, QUEUES + 1 + m, change, kind == PREPARED ? promise : 0);
    free(bytes);
    if (result == 0) {
        did(s, (struct operation){.kind = kind, .queue = m, .id = number});
        return;
    }
    CHECK(s, !in_group);
    check_append_error(s, result);
}

static void append_some_change(struct simulation *s, bool in_group)
{
    append_change(s, (enum kind)(PREPARED + any(s, 3)), in_group);
}

/* Moves: settle here, append there, together or not at all. */
static void append_group(struct simulation *s)
{
    size_t count = 1 + any(s, 5);
    size_t at = s->ops_count;
    int result = log_group_begin(s->log, count * (200u << 10));

    if (result < 0) {
        check_append_error(s, result);
        return;
    }
    for (size_t i = 0; i < count; i++) {
        switch (any(s, 5)) {
        case 0 ... 1:
            settle_some(s, 1);
            break;
        case 2:
            append_some_change(s, true);
            break;
        default:
            append_message(s, true);
        }
    }
    log_group_end(s->log);
    for (size_t i = at + 1; i < s->ops_count; i++)
        CHECK(s, s->ops[i].block == s->ops[at].block);
}

static void append_other(struct simulation *s)
{
    unsigned q = (unsigned)any(s, QUEUES);
    const struct queue *queue = &s->now.queues[q];

    if (queue->next == 1 || log_is_failed(s->log))
        return;
    uint64_t first = 1 + any(s, queue->next - 1);
    if (any(s, 3) == 0) {
        uint64_t due_ms = any(s, UINT64_MAX) >> any(s, 64);
        log_append_postponed(s->log, q + 1, first, due_ms);
        did(s, (struct operation){.kind = POSTPONED, .queue = q, .first = first, .last = due_ms});
    } else if (any(s, 2)) {
        uint64_t last = first + any(s, queue->next - first);
        log_append_returned(s->log, q + 1, first, last, 1);
        did(s, (struct operation){.kind = RETURNED, .queue = q, .first = first, .last = last});
    } else {
        log_append_delivered(s->log, q + 1, first);
        did(s, (struct operation){.kind = DELIVERED, .queue = q, .first = first});
    }
}

/* ---- checkpoints: in several turns, with other things in between ---- */

static void write_state(struct simulation *s, unsigned q)
{
    struct queue *queue = &s->now.queues[q];
    size_t size = 32 + (size_t)queue->next / 8 + 1;
    size_t filler = any(s, 20) ? 0 : any(s, 3 * LOG_STATE_MAX);
    uint8_t *bytes = memory_new(size + filler);

    store_le64(bytes, queue->next);
    store_le64(bytes + 8, queue->returned);
    store_le64(bytes + 16, queue->delivered);
    store_le64(bytes + 24, queue->postponed);
    for (uint64_t i = 1; i < queue->next; i++)
        if (queue->items[i].is_live)
            set_bit(bytes + 32, i);
    size += filler;
    for (size_t at = 0; at < size; at += LOG_STATE_MAX) {
        size_t part = size - at < LOG_STATE_MAX ? size - at : LOG_STATE_MAX;
        log_append_state(s->log, q + 1, slice_of(bytes + at, part), at + part < size);
    }
    free(bytes);
    queue->is_dirty = false;
}

static void write_machine(struct simulation *s, unsigned m)
{
    struct machine *machine = &s->now.machines[m];
    uint8_t bytes[8];

    store_le32(bytes, machine->changes);
    store_le32(bytes + 4, machine->promised);
    bool in_group = !any(s, 4) && log_group_begin(s->log, 256) == 0;
    if (in_group) /* it was dropped before, and nothing tears the two apart */
        log_drop_state(s->log, QUEUES + 1 + m);
    log_append_state(s->log, QUEUES + 1 + m, slice_of(bytes, sizeof bytes), false);
    if (in_group)
        log_group_end(s->log);
    machine->is_dirty = false;
}

static void checkpoint_step(struct simulation *s)
{
    uint8_t bytes[4];

    if (!s->has_checkpoint || log_is_failed(s->log))
        return;
    if (s->checkpoint_queue < QUEUES) {
        unsigned q = s->checkpoint_queue++;
        if (s->now.queues[q].is_dirty || log_state_is_wanted(s->log, q + 1))
            write_state(s, q);
        return;
    }
    if (s->checkpoint_queue < QUEUES + MACHINES) {
        unsigned m = s->checkpoint_queue++ - QUEUES;
        if (s->now.machines[m].is_dirty || log_state_is_wanted(s->log, QUEUES + 1 + m))
            write_machine(s, m);
        return;
    }
    if (s->checkpoint_catalog && !s->snapshot_is_open) {
        log_snapshot_begin(s->log);
        s->snapshot_is_open = true;
        s->snapshot_event = s->now.events;
        return;
    }
    if (s->snapshot_is_open) {
        for (unsigned i = 0; i < 100 && s->snapshot_event > 0; i++) {
            store_le32(bytes, s->snapshot_event--);
            log_snapshot_item(s->log, slice_of(bytes, 4));
        }
        if (s->snapshot_event > 0)
            return;
        log_snapshot_end(s->log);
        s->snapshot_is_open = false;
    }
    s->has_checkpoint = false;
    log_checkpoint_end(s->log);
}

/* ---- events and recovery ---- */

static void on_durable(void *context, uint64_t block)
{
    struct simulation *s = context;

    CHECK(s, block > s->durable && block <= log_block_durable(s->log));
    s->durable = block;
}

static void on_failed(void *context, const struct failure *why)
{
    struct simulation *s = context;

    CHECK(s, s->profile == FAILING_WRITES || s->profile == FAILING_SYNCS);
    CHECK(s, log_is_failed(s->log));
    say(s, "failed: %s", why->text);
    s->has_failed = true;
}

static void on_room(void *context)
{
    struct simulation *s = context;

    CHECK(s, log_has_room(s->log));
}

static void on_checkpoint(void *context, bool catalog)
{
    struct simulation *s = context;

    CHECK(s, !s->has_checkpoint);
    s->has_checkpoint = true;
    s->checkpoint_catalog = catalog || any(s, 10) == 0;
    s->checkpoint_queue = 0;
}

static void on_catalog(void *context, struct slice bytes)
{
    struct simulation *s = context;

    CHECK(s, bytes.size >= 4);
    uint32_t event = load_le32(bytes.data);
    CHECK(s, event > 0 && event < EVENTS_MAX);
    set_bit(s->view.events, event);
    if (event > s->view.event_last)
        s->view.event_last = event;
}

static void on_state(void *context, uint64_t queue, struct slice bytes, uint64_t position)
{
    struct simulation *s = context;
    struct view *view = &s->view;
    unsigned q = (unsigned)queue - 1;

    if (q >= QUEUES) {
        CHECK(s, q < QUEUES + MACHINES && bytes.size == 8 && position > 0);
        struct machine *machine = &view->machines[q - QUEUES];
        CHECK(s, machine->changes == 0);
        machine->changes = load_le32(bytes.data);
        machine->promised = load_le32(bytes.data + 4);
        return;
    }
    CHECK(s, !view->has_state[q] && bytes.size > 32 && position > 0);
    view->has_state[q] = true;
    view->next[q] = load_le64(bytes.data);
    view->returned[q] = load_le64(bytes.data + 8);
    view->delivered[q] = load_le64(bytes.data + 16);
    view->postponed[q] = load_le64(bytes.data + 24);
    CHECK(s, view->next[q] <= SEQUENCE_MAX && bytes.size >= 32 + view->next[q] / 8 + 1);
    memcpy(view->live_in_state[q], bytes.data + 32, view->next[q] / 8 + 1);
}

static void on_message(void *context, uint64_t queue, uint64_t sequence, uint64_t position,
                       uint64_t size, uint16_t lane, uint64_t due_ms)
{
    struct simulation *s = context;
    unsigned q = (unsigned)queue - 1;

    CHECK(s, q < QUEUES && sequence < SEQUENCE_MAX);
    CHECK(s, s->view.position[q][sequence] == 0);
    s->view.position[q][sequence] = position;
    s->view.size[q][sequence] = (uint32_t)size;
    s->view.lane[q][sequence] = lane;
    s->view.due_ms[q][sequence] = due_ms;
}

static void on_settled(void *context, uint64_t queue, uint64_t first, uint64_t last, unsigned why)
{
    struct simulation *s = context;

    CHECK(s, queue >= 1 && queue <= QUEUES && last < SEQUENCE_MAX && why == 1);
    for (uint64_t i = first; i <= last; i++)
        set_bit(s->view.settled[queue - 1], i);
}

static void on_returned(void *context, uint64_t queue, uint64_t first, uint64_t last,
                        uint32_t count)
{
    struct simulation *s = context;

    CHECK(s, queue >= 1 && queue <= QUEUES && count == 1);
    s->view.returned[queue - 1] += last - first + 1;
}

static void on_postponed(void *context, uint64_t queue, uint64_t sequence, uint64_t due_ms)
{
    struct simulation *s = context;

    CHECK(s, queue >= 1 && queue <= QUEUES && sequence < SEQUENCE_MAX);
    s->view.postponed[queue - 1] += sequence * due_ms;
}

static void on_delivered(void *context, uint64_t queue, uint64_t sequence)
{
    struct simulation *s = context;

    CHECK(s, queue >= 1 && queue <= QUEUES);
    s->view.delivered[queue - 1] = sequence;
}

static void on_change(void *context, uint64_t queue, struct slice bytes)
{
    struct simulation *s = context;

    CHECK(s, queue > QUEUES && queue <= QUEUES + MACHINES && bytes.size > 5);
    struct machine *machine = &s->view.machines[queue - QUEUES - 1];
    uint32_t number = load_le32(bytes.data);
    CHECK(s, is_change(bytes, number));
    s->view.is_out_of_order |= number != machine->changes + 1;
    apply_change(machine, (enum kind)bytes.data[4], number);
}

static void on_corrupt(void *context, const struct failure *what)
{
    struct simulation *s = context;

    say(s, "corrupt: %s", what->text);
    CHECK(s, may_be_corrupt(s));
    s->corrupt_reported = s->corrupt_now = true;
}

static int on_told(void *context, struct failure *failure)
{
    struct simulation *s = context;

    CHECK(s, simulated_disk_changes(s->disk) == s->changes);
    return s->refuses ? fail(failure, E_DENIED, "refused") : 0;
}

static void on_line(void *context, enum log_level level, const char *category, const char *text)
{
    (void)level;
    say(context, "  %s: %s", category, text);
}

static const struct log_events events = {on_durable, on_failed, on_room, on_checkpoint};
static const struct log_recovery recovery = {on_catalog,  on_state,     on_message,   on_settled,
                                             on_returned, on_postponed, on_delivered, on_change,
                                             on_corrupt,  on_told};

static void on_opened(void *context, int result, const struct log_opened *summary,
                      const struct failure *failure)
{
    struct simulation *s = context;

    CHECK(s, s->opened == 1);
    s->opened = result;
    s->summary = *summary;
    if (failure)
        s->failure = *failure;
}

/* ---- comparing ---- */

static bool view_is_live(const struct view *view, unsigned q, uint64_t sequence)
{
    if (view->position[q][sequence] == 0 || bit(view->settled[q], sequence))
        return false;
    return !view->has_state[q] || sequence >= view->next[q] ||
           bit(view->live_in_state[q], sequence);
}

static bool queue_matches(const struct simulation *s, unsigned q)
{
    const struct queue *queue = &s->base.queues[q];
    const struct view *view = &s->view;

    for (uint64_t i = 1; i < SEQUENCE_MAX; i++) {
        const struct item *item = &queue->items[i];
        bool expected = i < queue->next && item->is_live;
        if (view_is_live(view, q, i) != expected) {
            say(s, "queue %u, sequence %llu of block %llu: %s", q + 1, (unsigned long long)i,
                (unsigned long long)(item->position >> 20), expected ? "lost" : "came back");
            return false;
        }
        if (expected &&
            (view->position[q][i] != item->position || view->size[q][i] != size_of(item->id) ||
             view->lane[q][i] != lane_of(item->id) || view->due_ms[q][i] != due_of(item->id)))
            return false;
    }
    return view->returned[q] == queue->returned && view->delivered[q] == queue->delivered &&
           view->postponed[q] == queue->postponed;
}

static bool machines_match(const struct simulation *s)
{
    for (unsigned m = 0; m < MACHINES; m++) {
        const struct machine *machine = &s->base.machines[m], *told = &s->view.machines[m];
        if (told->changes != machine->changes || told->promised != machine->promised) {
            say(s, "machine %u: %u changes and %u promises, expected %u and %u", m, told->changes,
                told->promised, machine->changes, machine->promised);
            return false;
        }
    }
    return !s->view.is_out_of_order;
}

static bool catalog_matches(const struct simulation *s)
{
    for (uint32_t i = 1; i < EVENTS_MAX; i++)
        if (bit(s->view.events, i) != (i <= s->base.events)) {
            say(s, "event %u of the catalog: %s", i, i <= s->base.events ? "lost" : "too much");
            return false;
        }
    return true;
}

/* What was appended up to the log's last block is what there is now. */
static bool recovered_matches(struct simulation *s)
{
    uint64_t last = log_block_last(s->log);
    bool matches;

    say(s, "opened: last block %llu, told durable %llu, %llu bytes torn, %llu corrupt",
        (unsigned long long)last, (unsigned long long)s->durable,
        (unsigned long long)s->summary.torn_bytes, (unsigned long long)s->summary.corrupt_blocks);
    if (last < s->durable && (s->options.sync == LOG_SYNC_ALWAYS || s->summary.clean))
        return false;
    for (size_t i = 0; i < s->ops_count && s->ops[i].block <= last; i++)
        apply(&s->base, &s->ops[i]);
    s->ops_count = 0;
    matches = catalog_matches(s) && machines_match(s);
    for (unsigned q = 0; q < QUEUES && matches; q++)
        matches = queue_matches(s, q);
    return matches;
}

static void promise_again(struct simulation *s)
{
    for (unsigned m = 0; m < MACHINES; m++)
        log_promise(s->log, s->now.machines[m].promised * log_change_bytes(PROMISE));
}

static void release_the_dead(struct simulation *s)
{
    for (unsigned q = 0; q < QUEUES; q++)
        for (uint64_t i = 1; i < SEQUENCE_MAX; i++)
            if (s->view.position[q][i] && !view_is_live(&s->view, q, i))
                log_release(s->log, s->view.position[q][i]);
}

/* ---- lives ---- */

static void set_faults(struct simulation *s, bool on)
{
    struct simulated_faults *faults = simulated_disk_faults(s->disk);

    faults->write_fails_ppm = on && s->profile == FAILING_WRITES ? 20000 : 0;
    faults->sync_fails_ppm = on && s->profile == FAILING_SYNCS ? 20000 : 0;
    faults->read_fails_ppm = on && s->profile == FAILING_READS ? 50000 : 0;
    faults->flip_ppm = on && s->profile == FLIPPING ? 20000 : 0;
    faults->capacity = s->profile == SMALL_DISK ? 4u << 20 : 0;
}

static void free_reads(struct simulation *s)
{
    LIST_EACH (&s->reads, link) {
        list_remove(link);
        free(CONTAINER_OF(link, struct reading, link));
    }
    s->reads_open = 0;
}

static void free_loop(struct simulation *s)
{
    log_free(s->log);
    store_free(s->store);
    loop_free(s->loop);
}

/* What a key is follows from its number. */
static struct master_key key_of(uint32_t id)
{
    struct master_key key = {.id = id};

    for (size_t i = 0; i < sizeof key.bytes; i += 8)
        store_le64(key.bytes + i, mix(id * 8ull + i));
    return key;
}

/* What somebody has who has lost the right ones. */
static void take_wrong_keys(struct simulation *s)
{
    struct keyring *keys = &s->keys_of_opening;

    s->has_wrong_keys = true;
    s->options.encrypts = false;
    if (any(s, 2)) {
        keys->count = 0;
        return;
    }
    keys->count = 1;
    if (any(s, 2))
        keys->keys[0] = key_of(1000000);
    else
        keys->keys[0].bytes[any(s, CIPHER_KEY_SIZE)] ^= 4;
}

static void choose_keys(struct simulation *s)
{
    s->has_wrong_keys = false;
    if (!s->has_keys)
        return;
    s->keys_of_opening = s->keys;
    s->options.encrypts = any(s, 8) > 0;
    s->options.keys = &s->keys_of_opening;
    s->options.witness = &s->witness.cipher;
    if (any(s, 12) == 0)
        take_wrong_keys(s);
}

static void take_keys(struct simulation *s, struct keyring keys)
{
    struct failure failure;

    say(s, "keys: %u, and %u older", keys.keys[0].id, keys.count - 1);
    CHECK(s, log_set_keys(s->log, &keys, &failure) == 0);
    s->keys = keys;
    keys.count = 1;
    keys.keys[0].bytes[0] ^= 1;
    CHECK(s, log_set_keys(s->log, &keys, &failure) == E_KEY);
}

/* Those that are not needed any more are thrown away, as an operator does who looks at it. */
static void throw_keys_away(struct simulation *s)
{
    struct log_statistics statistics;
    struct keyring keys = s->keys;

    log_statistics(s->log, &statistics);
    unsigned others = statistics.encryption.needed_count;
    for (unsigned i = 0; i < statistics.encryption.needed_count; i++)
        others -= statistics.encryption.needed[i] == keys.keys[0].id;
    CHECK(s, (statistics.encryption.behind == 0) == (others == 0));
    if (others > 0)
        return;
    keys.count = 1;
    take_keys(s, keys);
    s->ends_soon = any(s, 6) == 0; /* a crash shows whether they could */
}

/* There is a new key, or some go; perhaps one at once after the other. */
static void rotate(struct simulation *s)
{
    struct keyring keys = s->keys;

    if (!s->has_keys || s->has_wrong_keys)
        return;
    if (keys.count < 4 && any(s, 3)) {
        memmove(&keys.keys[1], &keys.keys[0], keys.count++ * sizeof keys.keys[0]);
        keys.keys[0] = key_of(keys.keys[1].id + 1);
        take_keys(s, keys);
        if (any(s, 2))
            return;
        run(s, any(s, 12));
    }
    throw_keys_away(s);
}

static void begin_open(struct simulation *s)
{
    struct failure failure;

    choose_keys(s);

    s->loop = loop_new_simulated(any(s, UINT64_MAX));
    CHECK(s, store_simulated_open(s->loop, s->disk, &s->store, &failure) == 0);
    memset(&s->view, 0, sizeof s->view);
    s->options.loop = s->loop;
    s->options.store = s->store;
    s->opened = 1;
    s->corrupt_now = false;
    s->changes = simulated_disk_changes(s->disk);
    s->refuses = any(s, 12) == 0;
    s->log = log_open(&s->options, &events, &recovery, s, on_opened);
}

static void cut_power(struct simulation *s)
{
    simulated_disk_crash(s->disk);
    log_free(s->log);
    loop_free(s->loop);
}

/* False: the power was cut before it was open, or refused. */
static bool run_open(struct simulation *s)
{
    unsigned until = any(s, 5) ? 1000000 : 1 + (unsigned)any(s, 1 + any(s, 300));

    begin_open(s);
    for (unsigned i = 0; s->opened == 1 && i < until; i++)
        run(s, 1);
    if (s->opened != 1)
        return true;
    CHECK(s, until < 1000000);
    say(s, "crashed while it opened");
    cut_power(s);
    s->was_cut = true;
    return false;
}

/* False: it cannot be opened, and that is as it should be. */
static bool open_log(struct simulation *s)
{
    for (unsigned attempt = 0;; attempt++) {
        CHECK(s, attempt < 50);
        if (!run_open(s))
            continue;
        if (s->opened == 0)
            break;
        say(s, "not opened: %s", s->failure.text);
        free_loop(s);
        if (s->opened == E_DENIED) {
            CHECK(s, s->refuses && simulated_disk_changes(s->disk) == s->changes);
            continue;
        }
        if (s->opened == E_KEY) {
            CHECK(s, s->has_wrong_keys && simulated_disk_changes(s->disk) == s->changes);
            continue;
        }
        if (s->opened == E_CORRUPT && may_be_corrupt(s))
            return false;
        CHECK(s, s->opened == E_IO && s->profile != CALM && s->profile != SMALL_DISK);
        if (attempt > 5)
            set_faults(s, false);
    }
    CHECK(s, !s->refuses && (s->corrupt_now || !s->corrupt_lasts));
    s->corrupt_lasts = s->corrupt_now;
    s->is_open = true;
    s->has_checkpoint = s->snapshot_is_open = s->has_failed = s->is_closed = false;
    return true;
}

static void crash(struct simulation *s)
{
    cut_power(s);
    free_reads(s);
    s->is_open = false;
}

static void on_closed(void *context)
{
    ((struct simulation *)context)->is_closed = true;
}

static void close_cleanly(struct simulation *s)
{
    finish_reads(s);
    log_close(s->log, on_closed, s);
    for (unsigned i = 0; !s->is_closed; i++) {
        CHECK(s, i < 1000000);
        run(s, 1);
    }
    free_loop(s);
    s->is_open = false;
}

static void act(struct simulation *s)
{
    switch (any(s, 16)) {
    case 0 ... 5:
        for (uint64_t i = any(s, 10); i > 0; i--)
            append_message(s, false);
        break;
    case 6 ... 8:
        settle_some(s, any(s, 12));
        break;
    case 9:
        append_group(s);
        break;
    case 10:
        if (any(s, 2))
            append_other(s);
        else
            append_some_change(s, false);
        break;
    case 11:
        append_event(s);
        break;
    case 12:
        read_some(s, 1 + (unsigned)any(s, 20));
        break;
    case 13:
        if (any(s, 4) == 0)
            log_checkpoint(s->log);
        else if (any(s, 4) == 0)
            rotate(s);
        else if (any(s, 6) == 0)
            simulated_run_for(s->loop, any(s, 400) * NANOSECONDS_PER_MS);
        break;
    default:
        log_commit(s->log);
        break;
    }
    checkpoint_step(s);
    if (any(s, 3))
        run(s, any(s, 8));
    if (any(s, 8) == 0)
        log_check(s->log);
}

static void settle_everything(struct simulation *s)
{
    for (unsigned q = 0; q < QUEUES; q++)
        for (uint64_t i = 1; i < s->now.queues[q].next; i++)
            if (s->now.queues[q].items[i].is_live)
                settle(s, q, i, i);
}

static bool has_promises(const struct simulation *s)
{
    unsigned promised = 0;

    for (unsigned m = 0; m < MACHINES; m++)
        promised += s->now.machines[m].promised;
    return promised > 0;
}

/* With nothing live, two checkpoints leave next to nothing. */
static void check_reclaim(struct simulation *s)
{
    struct log_statistics statistics;

    settle_everything(s);
    while (has_promises(s) && !log_is_failed(s->log))
        append_change(s, FULFILLED, false);
    for (unsigned i = 0; i < 3; i++) {
        log_checkpoint(s->log);
        s->checkpoint_catalog = true;
        for (unsigned turn = 0; turn < 300; turn++) {
            run(s, 1);
            checkpoint_step(s);
        }
        simulated_run_for(s->loop, 400 * NANOSECONDS_PER_MS);
    }
    log_statistics(s->log, &statistics);
    CHECK(s, statistics.live_messages == 0);
    CHECK(s, statistics.checkpoints > 0);
    CHECK(s, statistics.segments <= 4);
    CHECK(s, !log_is_failed(s->log));
    if (s->was_full)
        CHECK(s, append_message(s, false));
}

/* False: the seed ends here. */
static bool live(struct simulation *s)
{
    s->was_clean = s->is_closed;
    s->was_cut = false;
    set_faults(s, true);
    if (!open_log(s))
        return false;
    if (!recovered_matches(s)) {
        /* a bit that turned may cost something, but never silently; for a torn tail only the last
         * blocks can be taken, which no later header has proved durable */
        CHECK(s, may_be_corrupt(s));
        CHECK(s, s->corrupt_reported || s->summary.corrupt_blocks > 0 ||
                     (s->summary.torn_bytes > 0 && log_block_last(s->log) + 2 >= s->durable));
        crash(s);
        return false;
    }
    CHECK(s, s->summary.clean == s->was_clean || s->summary.clean == false);
    CHECK(s, !s->was_clean || s->summary.clean || s->was_cut || s->profile != CALM);
    s->now = s->base;
    s->durable = log_block_durable(s->log);
    promise_again(s);
    release_the_dead(s);
    log_check(s->log);
    read_everything(s);
    s->ends_soon = false;
    for (uint64_t i = 20 + any(s, 150); i > 0 && !s->ends_soon; i--)
        act(s);
    if (s->life == LIVES_MAX - 1 && s->options.sync == LOG_SYNC_ALWAYS &&
        (s->profile == CALM || s->profile == SMALL_DISK))
        check_reclaim(s);
    if (any(s, 4) == 0 && !s->has_checkpoint && !s->ends_soon) {
        close_cleanly(s);
        if (s->has_failed)
            s->is_closed = false;
    } else {
        crash(s);
    }
    return true;
}

/* Another process goes on from a copy of the disk, and writes what it likes; this one does not know
 * of it. */
static void live_on_a_copy(const struct simulation *s)
{
    struct simulation *other = memory_new(sizeof *other);

    *other = *s;
    other->random = mix(s->random ^ 0xc0b1); /* what comes of a system is not alike twice */
    list_init(&other->reads);
    other->disk = simulated_disk_copy(s->disk, any(other, UINT64_MAX));
    other->ops = memory_new(OPS_MAX * sizeof *other->ops);
    memcpy(other->ops, s->ops, s->ops_count * sizeof *other->ops);
    account_init(&other->account, NULL, 0);
    other->options.account = &other->account;
    other->logger.context = other;
    other->witness.cipher.context = &((struct simulation *)(uintptr_t)s)->witness;
    say(s, "a copy goes on");
    if (live(other) && other->is_open)
        crash(other);
    say(s, "so much of the copy");
    account_fini(&other->account);
    simulated_disk_free(other->disk);
    free(other->ops);
    free(other);
}

static void run_seed(uint64_t seed, bool verbose, uint64_t *reads)
{
    struct simulation *s = memory_new(sizeof *s);

    s->seed = seed;
    s->random = mix(seed);
    s->verbose = verbose;
    s->profile = (enum profile)any(s, PROFILES);
    s->disk = simulated_disk_new(seed);
    s->ops = memory_new(OPS_MAX * sizeof *s->ops);
    s->id_next = 1;
    s->is_closed = true; /* as good as */
    list_init(&s->reads);
    s->has_keys = mix(seed) >> 20 & 1;
    s->keys = (struct keyring){.keys = {key_of(1)}, .count = 1};
    test_witness_init(&s->witness);
    for (unsigned q = 0; q < QUEUES; q++)
        s->base.queues[q].next = 1;
    simulated_disk_faults(s->disk)->latency_max_ns = 1 + any(s, 3000000);
    account_init(&s->account, NULL, 0);
    log_options_default(&s->options);
    s->options.account = &s->account;
    if (s->profile == CALM && any(s, 2)) { /* a crash may then cost what was told durable */
        s->options.sync = any(s, 2) ? LOG_SYNC_INTERVAL : LOG_SYNC_NEVER;
        s->options.sync_interval_ms = (uint32_t)(1 + any(s, 100));
    }
    s->logger = (struct logger){.descriptor = -1, .line = on_line, .context = s};
    s->options.logger = verbose ? &s->logger : NULL;
    s->options.segment_bytes_min = (uint32_t)(8192u << any(s, 4));
    s->options.segment_bytes_max = s->options.segment_bytes_min << any(s, 3);
    s->options.checkpoint_bytes = (uint32_t)(50000 + any(s, 2000000));
    /* what the settlements, states and the catalog of this test may need between two checkpoints */
    s->options.disk_reserve_bytes = 1u << 20;
    for (s->life = 0; s->life < LIVES_MAX; s->life++) {
        if (s->has_keys && s->life > 0 && any(s, 2))
            live_on_a_copy(s);
        if (!live(s))
            break;
        CHECK(s, !s->witness.has_reuse);
    }
    CHECK(s, !s->witness.has_reuse);
    *reads += s->reads_done;
    test_witness_fini(&s->witness);
    account_fini(&s->account);
    simulated_disk_free(s->disk);
    free(s->ops);
    free(s);
}

int main(int count, char **arguments)
{
    unsigned long long first = 1, last = 100;
    uint64_t reads = 0;
    bool verbose = false;

    for (int i = 1; i < count; i++) {
        if (strcmp(arguments[i], "--verbose") == 0)
            verbose = true;
        else if (strcmp(arguments[i], "--seeds") == 0 && i + 1 < count &&
                 sscanf(arguments[i + 1], "%llu..%llu", &first, &last) == 2)
            i++;
        else {
            fprintf(stderr, "usage: log_simulation_test [--seeds FIRST..LAST] [--verbose]\n");
            return 2;
        }
    }
    for (unsigned long long seed = first; seed <= last; seed++)
        run_seed(seed, verbose, &reads);
    printf("%llu seeds of the log, %llu messages read back\n", last - first + 1,
           (unsigned long long)reads);
    return 0;
}
