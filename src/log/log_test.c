#include "log/log.h"
#include "log/dump.h"
#include "log/test_witness.h"
#include "log/format.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/simulated.h"
#include "store/simulated/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

/* ---- a log on a simulated disk, and what it tells ---- */

#define TOLD_MAX 100000

struct told_message {
    uint64_t queue, sequence, position, size;
    uint16_t lane;
    uint64_t due_ms;
};

struct fixture {
    struct simulated_disk *disk;
    struct loop *loop;
    struct store *store;
    struct account account;
    struct log_options options;
    struct log *log;
    uint64_t seed;
    const struct keyring *keys; /* NULL: it is in the clear */
    struct test_witness witness;

    int opened; /* 1: not yet */
    struct log_opened summary;
    struct failure failure;
    uint64_t durable;
    bool failed, closed, checkpoint_due, checkpoint_catalog;
    bool auto_checkpoint, refuses;
    unsigned rooms;

    struct told_message *messages;
    size_t messages_count, settled_count, returned_count, delivered_count, corrupt_count;
    struct postponed_record postponed; /* the last that was told */
    uint64_t settled_first, settled_last, settled_why;
    char catalog[4096]; /* the records behind each other, a space between */
    char states[4096];
    char changes[4096];
    uint8_t *state;
    size_t state_size;
    uint64_t unknown_queue; /* whose state is dropped as soon as it is told */
};

static void on_durable(void *context, uint64_t block)
{
    struct fixture *f = context;
    assert_true(block > f->durable);
    f->durable = block;
}

static void on_failed(void *context, const struct failure *why)
{
    struct fixture *f = context;
    f->failed = true;
    f->failure = *why;
}

static void on_room(void *context)
{
    ((struct fixture *)context)->rooms++;
}

static void on_checkpoint(void *context, bool catalog)
{
    struct fixture *f = context;
    f->checkpoint_due = true;
    f->checkpoint_catalog = catalog;
    if (f->auto_checkpoint)
        log_checkpoint_end(f->log);
}

static void append_text(char *text, size_t size, struct slice bytes)
{
    size_t at = strlen(text);
    snprintf(text + at, size - at, "%.*s ", SLICE_ARGS(bytes));
}

static void on_catalog(void *context, struct slice bytes)
{
    struct fixture *f = context;
    append_text(f->catalog, sizeof f->catalog, bytes);
}

static void on_state(void *context, uint64_t queue, struct slice bytes, uint64_t position)
{
    struct fixture *f = context;
    char text[64];
    assert_true(position > 0);
    snprintf(text, sizeof text, "%llu:%.*s", (unsigned long long)queue,
             bytes.size < 32 ? (int)bytes.size : 32, (const char *)bytes.data);
    append_text(f->states, sizeof f->states, slice_text(text));
    free(f->state);
    f->state = memory_new(bytes.size);
    memcpy(f->state, bytes.data, bytes.size);
    f->state_size = bytes.size;
    if (queue == f->unknown_queue)
        log_drop_state(f->log, queue);
}

static void on_message(void *context, uint64_t queue, uint64_t sequence, uint64_t position,
                       uint64_t size, uint16_t lane, uint64_t due_ms)
{
    struct fixture *f = context;
    assert_true(f->messages_count < TOLD_MAX);
    f->messages[f->messages_count++] =
        (struct told_message){queue, sequence, position, size, lane, due_ms};
}

static void on_settled(void *context, uint64_t queue, uint64_t first, uint64_t last, unsigned why)
{
    struct fixture *f = context;
    assert_true(queue > 0);
    f->settled_count++;
    f->settled_first = first;
    f->settled_last = last;
    f->settled_why = why;
}

static void on_returned(void *context, uint64_t queue, uint64_t first, uint64_t last,
                        uint32_t count)
{
    assert_true(queue > 0 && first <= last && count > 0);
    ((struct fixture *)context)->returned_count++;
}

static void on_postponed(void *context, uint64_t queue, uint64_t sequence, uint64_t due_ms)
{
    ((struct fixture *)context)->postponed = (struct postponed_record){queue, sequence, due_ms};
}

static void on_delivered(void *context, uint64_t queue, uint64_t sequence)
{
    assert_true(queue > 0 && sequence > 0);
    ((struct fixture *)context)->delivered_count++;
}

static void on_change(void *context, uint64_t queue, struct slice bytes)
{
    struct fixture *f = context;
    char text[64];
    snprintf(text, sizeof text, "%llu:%.*s", (unsigned long long)queue,
             bytes.size < 32 ? (int)bytes.size : 32, (const char *)bytes.data);
    append_text(f->changes, sizeof f->changes, slice_text(text));
}

static void on_corrupt(void *context, const struct failure *what)
{
    assert_true(strlen(what->text) > 0);
    ((struct fixture *)context)->corrupt_count++;
}

static int on_told(void *context, struct failure *failure)
{
    const struct fixture *f = context;
    if (!f->refuses)
        return 0;
    *failure = (struct failure){.code = E_DENIED, .text = "refused"};
    return E_DENIED;
}

static const struct log_events events = {on_durable, on_failed, on_room, on_checkpoint};
static const struct log_recovery recovery = {on_catalog,  on_state,     on_message,   on_settled,
                                             on_returned, on_postponed, on_delivered, on_change,
                                             on_corrupt,  on_told};

static void on_opened(void *context, int result, const struct log_opened *summary,
                      const struct failure *failure)
{
    struct fixture *f = context;
    assert_int_equal(f->opened, 1);
    f->opened = result;
    f->summary = *summary;
    if (failure)
        f->failure = *failure;
}

static void open_log_with(struct fixture *f, bool encrypts)
{
    struct failure failure;

    f->loop = loop_new_simulated(++f->seed);
    assert_int_equal(store_simulated_open(f->loop, f->disk, &f->store, &failure), 0);
    f->options.loop = f->loop;
    f->options.store = f->store;
    f->options.account = &f->account;
    f->options.keys = f->keys;
    f->options.encrypts = encrypts;
    f->options.witness = f->keys ? &f->witness.cipher : NULL;
    f->opened = 1;
    f->durable = 0;
    f->messages_count = f->settled_count = f->returned_count = f->delivered_count = 0;
    f->corrupt_count = 0;
    f->catalog[0] = f->states[0] = f->changes[0] = 0;
    f->failed = f->closed = f->checkpoint_due = false;
    f->log = log_open(&f->options, &events, &recovery, f, on_opened);
    while (f->opened == 1)
        simulated_run_turns(f->loop, 1);
}

static void open_log(struct fixture *f)
{
    open_log_with(f, f->keys != NULL);
}

static void on_closed(void *context)
{
    ((struct fixture *)context)->closed = true;
}

static void free_log(struct fixture *f)
{
    log_free(f->log);
    store_free(f->store);
    loop_free(f->loop);
}

static void close_log(struct fixture *f)
{
    log_close(f->log, on_closed, f);
    while (!f->closed)
        simulated_run_turns(f->loop, 1);
    free_log(f);
}

static void crash_log(struct fixture *f)
{
    simulated_disk_crash(f->disk);
    log_free(f->log);
    loop_free(f->loop);
}

static struct fixture *fixture_new(void)
{
    struct fixture *f = memory_new(sizeof *f);

    f->disk = simulated_disk_new(7);
    simulated_disk_faults(f->disk)->latency_max_ns = 1000000;
    account_init(&f->account, NULL, 0);
    log_options_default(&f->options);
    f->options.segment_bytes_min = 64u << 10;
    f->options.segment_bytes_max = 256u << 10;
    f->options.checkpoint_bytes = 1u << 30;
    f->messages = memory_new(TOLD_MAX * sizeof *f->messages);
    return f;
}

static int setup(void **state)
{
    struct fixture *f = fixture_new();

    *state = f;
    open_log(f);
    assert_int_equal(f->opened, 0);
    return 0;
}

/* The same log, encrypted: what holds of it does not change. */
static int setup_encrypted(void **state)
{
    static const struct keyring keys = {.keys = {{.id = 7, .bytes = {1, 2, 3}}}, .count = 1};
    struct fixture *f = fixture_new();

    f->keys = &keys;
    test_witness_init(&f->witness);
    *state = f;
    open_log(f);
    assert_int_equal(f->opened, 0);
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;

    if (f->keys) {
        assert_false(f->witness.has_reuse);
        test_witness_fini(&f->witness);
    }
    account_fini(&f->account);
    simulated_disk_free(f->disk);
    free(f->messages);
    free(f->state);
    free(f);
    return 0;
}

static struct message *make_message(struct fixture *f, size_t size, uint64_t mark)
{
    uint8_t *bytes = memory_new(size + 8);
    struct message_parts parts = {
        .format = FORMAT_AMQP091,
        .flags = MESSAGE_PERSISTENT,
        .exchange = slice_text("exchange"),
        .key = slice_text("key"),
        .properties = slice_of("\0\0", 2),
        .body = slice_of(bytes, size),
        .published_at_ms = 1000,
    };

    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)(mark + i * 7 + i / 251);
    struct message *message = message_new(&f->account, &parts);
    assert_non_null(message);
    free(bytes);
    return message;
}

static uint64_t append(struct fixture *f, uint64_t queue, uint64_t sequence, size_t size)
{
    struct message *message = make_message(f, size, sequence);
    struct log_target target = {queue, sequence, 3, 0};
    uint64_t position;

    assert_int_equal(log_append_message(f->log, message, &target, 1, &position), 0);
    message_unref(message);
    return position;
}

static void wait_durable(struct fixture *f)
{
    uint64_t block = log_block_last(f->log);

    log_commit(f->log);
    while (log_block_durable(f->log) < block && !f->failed)
        simulated_run_turns(f->loop, 1);
}

static void read_done(struct log_read *read)
{
    read->internal = NULL;
}

static void read_back(struct fixture *f, struct log_read *read)
{
    read->done = read_done;
    read->internal = read;
    log_read(f->log, read);
    assert_non_null(read->internal);
    while (read->internal)
        simulated_run_turns(f->loop, 1);
}

static void expect_message(struct fixture *f, uint64_t position, uint64_t sequence, size_t size)
{
    struct log_read read = {.positions = {position}, .count = 1};
    struct message *expected = make_message(f, size, sequence);

    read_back(f, &read);
    assert_int_equal(read.results[0], 0);
    assert_true(slice_equal(message_body(read.messages[0]), message_body(expected)));
    assert_true(slice_is(message_key(read.messages[0]), "key"));
    message_unref(read.messages[0]);
    message_unref(expected);
}

/* ---- the tests ---- */

static void empty_opens_again(void **state)
{
    struct fixture *f = *state;

    assert_true(f->summary.clean);
    close_log(f);
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_true(f->summary.clean);
    assert_int_equal(f->messages_count, 0);
    crash_log(f);
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_false(f->summary.clean);
    close_log(f);
}

static void durable_comes_back(void **state)
{
    struct fixture *f = *state;
    uint64_t positions[100];

    for (uint64_t i = 0; i < 100; i++)
        positions[i] = append(f, 1 + i % 3, 1 + i / 3, i * 10);
    assert_int_equal(log_block_durable(f->log), 0);
    expect_message(f, positions[99], 34, 990); /* from memory */
    wait_durable(f);
    assert_int_equal(f->durable, log_block_last(f->log));
    expect_message(f, positions[42], 15, 420); /* from the store */
    log_check(f->log);
    crash_log(f);

    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_int_equal(f->messages_count, 100);
    for (uint64_t i = 0; i < 100; i++) {
        const struct told_message *m = &f->messages[i];
        assert_int_equal(m->queue, 1 + i % 3);
        assert_int_equal(m->sequence, 1 + i / 3);
        assert_int_equal(m->position, positions[i]);
        assert_int_equal(m->size, i * 10);
        assert_int_equal(m->lane, 3);
        expect_message(f, m->position, m->sequence, m->size);
    }
    log_check(f->log);
    close_log(f);

    open_log(f); /* from the footer now */
    assert_true(f->summary.clean);
    assert_int_equal(f->messages_count, 100);
    assert_int_equal(f->messages[99].position, positions[99]);
    expect_message(f, positions[99], 34, 990);
    close_log(f);
}

static void large_bodies(void **state)
{
    struct fixture *f = *state;
    static const size_t sizes[] = {4096,       4097,    65535,   65536,   65537, 200000,
                                   256u << 10, 262145u, 1000000, 5000000, 1};
    uint64_t positions[sizeof sizes / sizeof sizes[0]];
    size_t count = sizeof sizes / sizeof sizes[0];

    for (size_t round = 0; round < 2; round++) {
        for (size_t i = 0; i < count && round == 0; i++)
            positions[i] = append(f, 1, 1 + i, sizes[i]);
        for (size_t i = 0; i < count; i++)
            expect_message(f, positions[i], 1 + i, sizes[i]);
        wait_durable(f);
        for (size_t i = 0; i < count; i++)
            expect_message(f, positions[i], 1 + i, sizes[i]);
        crash_log(f);
        open_log(f);
        assert_int_equal(f->messages_count, count);
        for (size_t i = 0; i < count; i++) {
            assert_int_equal(f->messages[i].size, sizes[i]);
            expect_message(f, positions[i], 1 + i, sizes[i]);
        }
    }
    close_log(f);
}

static void expect_times(struct fixture *f, const uint64_t *due_ms, size_t count)
{
    assert_int_equal(f->messages_count, count);
    for (size_t i = 0; i < count; i++) {
        assert_int_equal(f->messages[i].lane, due_ms[i] ? LOG_LANE_DUE | 2 : 2);
        assert_true(f->messages[i].due_ms == due_ms[i]);
    }
}

static void times_come_back(void **state)
{
    struct fixture *f = *state;
    static const uint64_t due_ms[] = {
        1700000000000, 1700000000001, 0, 1699999999999, 0, 0, UINT64_MAX, 1, UINT64_MAX};
    size_t count = sizeof due_ms / sizeof due_ms[0];

    for (uint64_t i = 0; i < count; i++) {
        struct message *message = make_message(f, 10, 1 + i);
        struct log_target target = {1, 1 + i, 2, due_ms[i]};
        uint64_t position;
        target.lane |= due_ms[i] ? LOG_LANE_DUE : 0;
        assert_int_equal(log_append_message(f->log, message, &target, 1, &position), 0);
        message_unref(message);
    }
    log_append_postponed(f->log, 1, 3, 1700000000007);
    wait_durable(f);
    crash_log(f);
    open_log(f); /* from the records */
    expect_times(f, due_ms, count);
    assert_int_equal(f->postponed.queue, 1);
    assert_int_equal(f->postponed.sequence, 3);
    assert_int_equal(f->postponed.due_ms, 1700000000007);
    log_append_state(f->log, 1, slice_text("covers it"), false);
    close_log(f);
    f->postponed.queue = 0;
    open_log(f); /* from the footer */
    expect_times(f, due_ms, count);
    assert_int_equal(f->postponed.queue, 0);
    close_log(f);
}

static void lazy_records_go_out_by_themselves(void **state)
{
    struct fixture *f = *state;

    append(f, 1, 1, 10);
    simulated_run_for(f->loop, 30 * NANOSECONDS_PER_MS);
    assert_int_equal(f->durable, 1);
    /* the mark: an empty block behind it */
    simulated_run_for(f->loop, 300 * NANOSECONDS_PER_MS);
    assert_int_equal(f->durable, 2);
    simulated_run_for(f->loop, 5000 * NANOSECONDS_PER_MS);
    assert_int_equal(f->durable, 2);
    close_log(f);
}

static void settlements_are_replayed(void **state)
{
    struct fixture *f = *state;

    for (uint64_t i = 1; i <= 10; i++)
        append(f, 5, i, 10);
    for (uint64_t i = 3; i <= 7; i++)
        log_settle(f->log, 5, i, i, 2);
    log_append_returned(f->log, 5, 8, 9, 1);
    log_append_delivered(f->log, 5, 10);
    wait_durable(f);
    crash_log(f);
    open_log(f);
    assert_int_equal(f->messages_count, 10);
    assert_int_equal(f->settled_count, 1);
    assert_int_equal(f->settled_first, 3);
    assert_int_equal(f->settled_last, 7);
    assert_int_equal(f->settled_why, 2);
    assert_int_equal(f->returned_count, 1);
    assert_int_equal(f->delivered_count, 1);
    log_append_state(f->log, 5, slice_text("after"), false);
    log_settle(f->log, 5, 8, 8, 1);
    wait_durable(f);
    crash_log(f);
    open_log(f);
    assert_string_equal(f->states, "5:after ");
    assert_int_equal(f->settled_count, 1); /* the others are covered */
    assert_int_equal(f->settled_first, 8);
    assert_int_equal(f->returned_count, 0);
    assert_int_equal(f->delivered_count, 0);
    close_log(f);
}

static void expect_changes(struct fixture *f, const char *states, const char *changes)
{
    crash_log(f);
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_string_equal(f->states, states);
    assert_string_equal(f->changes, changes);
    assert_int_equal(f->corrupt_count, 0);
}

static void changes_are_replayed(void **state)
{
    struct fixture *f = *state;
    uint8_t *large = memory_new(LOG_CHANGE_MAX);

    memset(large, 'x', LOG_CHANGE_MAX);
    memcpy(large, "large", 5);
    assert_int_equal(log_append_change(f->log, 9, slice_text("a"), 0), 0);
    assert_int_equal(log_append_change(f->log, 1ull << 63, slice_text("b"), 100), 0);
    assert_int_equal(log_append_change(f->log, 9, slice_of(NULL, 0), 0), 0);
    log_append_promised(f->log, 9, slice_text("c"), 100);
    wait_durable(f);
    assert_int_equal(log_append_change(f->log, 9, slice_text("lost"), 0), 0);
    expect_changes(f, "", "9:a 9223372036854775808:b 9: 9:c ");

    log_append_state(f->log, 9, slice_text("nine"), false); /* covers what was before it */
    assert_int_equal(log_append_change(f->log, 9, slice_of(large, LOG_CHANGE_MAX), 0), 0);
    assert_int_equal(log_append_change(f->log, 9, slice_text("d"), 0), 0);
    wait_durable(f);
    expect_changes(f, "9:nine ", "9223372036854775808:b 9:largexxxxxxxxxxxxxxxxxxxxxxxxxxx 9:d ");

    f->auto_checkpoint = true; /* from then on replay begins behind all of them */
    log_append_state(f->log, 1ull << 63, slice_text("other"), false);
    log_append_state(f->log, 9, slice_text("all"), false);
    log_checkpoint(f->log);
    wait_durable(f);
    simulated_run_for(f->loop, 100 * NANOSECONDS_PER_MS);
    assert_int_equal(log_append_change(f->log, 9, slice_text("e"), 0), 0);
    wait_durable(f);
    expect_changes(f, "9223372036854775808:other 9:all ", "9:e ");
    free(large);
    close_log(f);
}

static void catalog_and_states(void **state)
{
    struct fixture *f = *state;
    uint8_t *large = memory_new(3 * LOG_STATE_MAX);

    memset(large, 'x', 3 * LOG_STATE_MAX);
    memcpy(large, "large", 5);
    assert_int_equal(log_append_catalog(f->log, slice_text("a")), 0);
    assert_int_equal(log_append_catalog(f->log, slice_text("b")), 0);
    log_append_state(f->log, 1, slice_text("old"), false);
    log_append_state(f->log, 2, slice_text("two"), false);
    wait_durable(f);
    crash_log(f);

    open_log(f);
    assert_string_equal(f->catalog, "a b ");
    assert_string_equal(f->states, "1:old 2:two ");
    f->unknown_queue = 1;
    crash_log(f);

    open_log(f); /* dropped before there is a block to append to */
    assert_string_equal(f->states, "1:old 2:two ");
    f->unknown_queue = 0;
    crash_log(f);

    open_log(f);
    assert_string_equal(f->states, "1:old 2:two ");
    log_drop_state(f->log, 1); /* it leaves, and comes back */
    log_append_state(f->log, 1, slice_text("new"), false);
    wait_durable(f);
    crash_log(f);

    open_log(f);
    assert_string_equal(f->states, "2:two 1:new ");
    log_snapshot_begin(f->log);
    log_snapshot_item(f->log, slice_text("A"));
    assert_int_equal(log_append_catalog(f->log, slice_text("c")), 0);
    log_snapshot_item(f->log, slice_text("B"));
    log_snapshot_end(f->log);
    assert_int_equal(log_append_catalog(f->log, slice_text("d")), 0);
    for (size_t i = 0; i < 3; i++)
        log_append_state(f->log, 1, slice_of(large + i * LOG_STATE_MAX, LOG_STATE_MAX), i < 2);
    log_drop_state(f->log, 2);
    wait_durable(f);
    crash_log(f);

    open_log(f);
    assert_string_equal(f->catalog, "A c B d ");
    assert_int_equal(f->state_size, 3 * LOG_STATE_MAX);
    assert_memory_equal(f->state, large, f->state_size);
    assert_memory_equal(f->states, "1:large", 7);
    assert_null(strstr(f->states, "2:"));
    log_snapshot_begin(f->log);
    log_snapshot_item(f->log, slice_text("Z")); /* incomplete: does not count */
    wait_durable(f);
    crash_log(f);

    open_log(f);
    assert_string_equal(f->catalog, "A c B d ");
    close_log(f);
    open_log(f);
    assert_string_equal(f->catalog, "A c B d ");
    assert_memory_equal(f->states, "1:large", 7);
    close_log(f);
    free(large);
}

/* ---- checkpoints, segments that go ---- */

static void run_checkpoint(struct fixture *f)
{
    struct log_statistics before, after;

    log_statistics(f->log, &before);
    f->checkpoint_due = false;
    log_checkpoint(f->log);
    for (after = before; after.checkpoints == before.checkpoints;) {
        assert_true(simulated_run_turns(f->loop, 1));
        log_statistics(f->log, &after);
        if (!f->checkpoint_due)
            continue;
        f->checkpoint_due = false;
        for (uint64_t queue = 1; queue <= 2; queue++)
            if (log_state_is_wanted(f->log, queue))
                log_append_state(f->log, queue, slice_text("again"), false);
        if (f->checkpoint_catalog) {
            log_snapshot_begin(f->log);
            log_snapshot_item(f->log, slice_text("snapshot"));
            log_snapshot_end(f->log);
        }
        log_checkpoint_end(f->log);
    }
    simulated_run_for(f->loop, 500 * NANOSECONDS_PER_MS);
}

static uint64_t segments_of(const struct fixture *f)
{
    struct log_statistics statistics;

    log_statistics(f->log, &statistics);
    return statistics.segments;
}

static void dead_segments_go(void **state)
{
    struct fixture *f = *state;
    uint64_t positions[300];

    assert_int_equal(log_append_catalog(f->log, slice_text("event")), 0);
    log_append_state(f->log, 1, slice_text("state"), false);
    for (uint64_t i = 0; i < 300; i++) {
        positions[i] = append(f, 1, i + 1, 2000);
        wait_durable(f);
    }
    assert_true(segments_of(f) > 4);
    run_checkpoint(f); /* all messages are live: nothing goes */
    uint64_t all = segments_of(f);
    assert_true(all > 4);
    for (uint64_t i = 0; i < 300; i++)
        if (i != 150) {
            log_settle(f->log, 1, i + 1, i + 1, 1);
            log_release(f->log, positions[i]);
        }
    wait_durable(f);
    run_checkpoint(f);
    run_checkpoint(f); /* the state and the catalog were wanted and written again */
    assert_true(segments_of(f) <= 4);
    expect_message(f, positions[150], 151, 2000);
    crash_log(f);
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_non_null(strstr(f->catalog, "snapshot"));
    assert_string_equal(f->states, "1:again ");
    for (uint64_t i = 0; i < f->messages_count; i++)
        if (f->messages[i].sequence != 151)
            log_release(f->log, f->messages[i].position);
    expect_message(f, positions[150], 151, 2000);
    log_check(f->log);
    close_log(f);
}

/* What recovery found and nobody needs goes at once; what is appended then must not look as if
 * something were missing in front of it. */
static void a_gap_of_dead_segments_is_none(void **state)
{
    struct fixture *f = *state;
    uint64_t kept = append(f, 2, 1, 3000);

    wait_durable(f);
    for (uint64_t i = 1; i <= 100; i++) {
        append(f, 1, i, 3000);
        wait_durable(f);
    }
    run_checkpoint(f);
    close_log(f);
    open_log(f);
    uint64_t before = segments_of(f);
    for (uint64_t i = 0; i < f->messages_count; i++)
        if (f->messages[i].queue == 1)
            log_release(f->log, f->messages[i].position);
    simulated_run_for(f->loop, 50 * NANOSECONDS_PER_MS);
    assert_true(segments_of(f) < before);
    append(f, 2, 2, 100);
    wait_durable(f);
    crash_log(f);
    open_log(f);
    assert_int_equal(f->corrupt_count, 0);
    assert_int_equal(f->summary.corrupt_blocks, 0);
    expect_message(f, kept, 1, 3000);
    close_log(f);
}

static void a_group_is_one_block(void **state)
{
    struct fixture *f = *state;

    assert_int_equal(log_group_begin(f->log, LOG_GROUP_BYTES_MAX + 1), E_LIMIT);
    for (unsigned round = 0; round < 5; round++) {
        append(f, 1, 1 + round, 3000000);
        assert_int_equal(log_group_begin(f->log, LOG_GROUP_BYTES_MAX), 0);
        append(f, 2, 1 + 40 * round, 100);
        uint64_t block = log_block_last(f->log);
        for (uint64_t i = 1; i < 40; i++) {
            append(f, 2, 1 + 40 * round + i, i == 7 ? 300000 : 200000);
            assert_int_equal(log_block_last(f->log), block);
        }
        log_settle(f->log, 1, 1, 1, 1);
        assert_int_equal(log_append_change(f->log, 3, slice_text("moved"), 20), 0);
        log_append_promised(f->log, 3, slice_text("and"), 20);
        assert_int_equal(log_block_last(f->log), block);
        log_group_end(f->log);
    }
    wait_durable(f);
    crash_log(f);
    open_log(f);
    assert_int_equal(f->messages_count, 205);
    assert_string_equal(f->changes, "3:moved 3:and 3:moved 3:and 3:moved 3:and 3:moved 3:and "
                                    "3:moved 3:and ");
    close_log(f);
}

/* ---- what goes wrong ---- */

static void a_failed_write_moves_on(void **state)
{
    struct fixture *f = *state;
    uint64_t first = append(f, 1, 1, 100);

    wait_durable(f);
    uint64_t second = append(f, 1, 2, 100);
    simulated_disk_faults(f->disk)->sync_fails_ppm = 1000000;
    log_commit(f->log);
    for (struct log_statistics s = {0}; s.write_failures == 0; log_statistics(f->log, &s))
        simulated_run_turns(f->loop, 1);
    simulated_disk_faults(f->disk)->sync_fails_ppm = 0;
    wait_durable(f);
    assert_false(log_is_failed(f->log));
    expect_message(f, first, 1, 100);
    expect_message(f, second, 2, 100);
    crash_log(f);
    open_log(f);
    assert_int_equal(f->messages_count, 2);
    assert_int_equal(f->messages[1].position, second);
    assert_int_equal(f->corrupt_count, 0);
    close_log(f);
}

static void a_second_failure_is_final(void **state)
{
    struct fixture *f = *state;
    uint64_t first = append(f, 1, 1, 100);
    struct log_target target = {1, 3, 0, 0};
    uint64_t position;

    wait_durable(f);
    append(f, 1, 2, 100);
    simulated_disk_faults(f->disk)->write_fails_ppm = 1000000;
    wait_durable(f);
    while (!f->failed)
        assert_true(simulated_run_turns(f->loop, 1));
    assert_true(log_is_failed(f->log));
    struct message *message = make_message(f, 10, 0);
    assert_int_equal(log_append_message(f->log, message, &target, 1, &position), E_FAILED);
    message_unref(message);
    assert_int_equal(log_append_catalog(f->log, slice_text("x")), E_FAILED);
    assert_int_equal(log_append_change(f->log, 1, slice_text("x"), 0), E_FAILED);
    log_append_promised(f->log, 1, slice_text("x"), 0);
    assert_int_equal(log_group_begin(f->log, 10), E_FAILED);
    log_settle(f->log, 1, 1, 1, 1);
    expect_message(f, first, 1, 100); /* reads go on */
    close_log(f);
    simulated_disk_faults(f->disk)->write_fails_ppm = 0;
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_true(f->messages_count >= 1);
    close_log(f);
}

static void a_full_disk_refuses_messages_first(void **state)
{
    struct fixture *f = *state;
    struct log_target target = {1, 0, 0, 0};
    uint64_t position;
    uint64_t positions[1000];
    struct message *message = make_message(f, 5000, 1);

    f->auto_checkpoint = true;
    simulated_disk_faults(f->disk)->capacity = 1500000;
    int result = 0;
    for (target.sequence = 1; target.sequence < 1000; target.sequence++) {
        result = log_append_message(f->log, message, &target, 1, &position);
        if (result < 0)
            break;
        positions[target.sequence] = position;
        wait_durable(f);
    }
    message_unref(message);
    assert_int_equal(result, E_FULL);
    assert_int_equal(log_append_catalog(f->log, slice_text("x")), E_FULL);
    assert_int_equal(log_group_begin(f->log, 10), E_FULL);
    for (uint64_t i = 1; i < target.sequence; i++) { /* settling never fails */
        log_settle(f->log, 1, i, i, 1);
        log_release(f->log, positions[i]);
        if (i % 10 == 0)
            wait_durable(f);
    }
    wait_durable(f);
    assert_false(f->failed);
    log_checkpoint(f->log);
    simulated_run_for(f->loop, 1000 * NANOSECONDS_PER_MS);
    append(f, 1, target.sequence, 5000); /* there is room again */
    close_log(f);
}

static void fill_with_changes(struct fixture *f, struct slice change)
{
    int result;

    while ((result = log_append_change(f->log, 3, change, 0)) == 0)
        wait_durable(f);
    assert_int_equal(result, E_FULL);
}

/* What a transaction needs for its end is there, however full the disk is, also after a restart. */
static void a_full_disk_keeps_promises(void **state)
{
    struct fixture *f = *state;
    uint8_t *bytes = memory_new(LOG_CHANGE_MAX);
    struct slice change = slice_of(bytes, LOG_CHANGE_MAX);
    size_t promise = log_change_bytes(LOG_CHANGE_MAX);
    const unsigned transactions = 30;

    simulated_disk_faults(f->disk)->capacity = 4000000;
    for (unsigned i = 0; i < transactions; i++)
        assert_int_equal(log_append_change(f->log, 2, slice_text("prepared"), promise), 0);
    assert_int_equal(log_append_change(f->log, 3, slice_text("greedy"), 4000000), E_FULL);
    fill_with_changes(f, change);
    crash_log(f);
    open_log(f);
    log_promise(f->log, transactions * promise);
    fill_with_changes(f, change);
    for (unsigned i = 0; i < transactions; i++) {
        log_append_promised(f->log, 2, change, promise);
        wait_durable(f);
    }
    assert_false(f->failed);
    free(bytes);
    close_log(f);
}

static void memory_has_a_limit(void **state)
{
    struct fixture *f = *state;

    for (uint64_t i = 1; log_has_room(f->log); i++)
        append(f, 1, i, 1000000);
    assert_int_equal(f->rooms, 0);
    for (unsigned i = 0; f->rooms == 0; i++) {
        assert_true(i < 100000);
        simulated_run_turns(f->loop, 1);
    }
    assert_true(log_has_room(f->log));
    close_log(f);
}

static void meta_done(struct store_request *request)
{
    assert_true(request->result == 0 || request->result == E_FENCED);
}

/* Replaces the metadata by these bytes. */
static void write_metadata(struct fixture *f, void *bytes, size_t size, uint64_t version)
{
    struct failure failure;
    struct loop *loop = loop_new_simulated(1);
    struct store *store;
    struct iovec slice = {bytes, size};
    struct store_request request = {.operation = STORE_META_WRITE,
                                    .slices = &slice,
                                    .slices_count = 1,
                                    .version = version,
                                    .result = 1,
                                    .done = meta_done};

    assert_int_equal(store_simulated_open(loop, f->disk, &store, &failure), 0);
    store_submit(store, &request);
    for (unsigned i = 0; i < 100; i++)
        simulated_run_turns(loop, 1);
    store_free(store);
    loop_free(loop);
}

static void bad_metadata_is_refused(void **state)
{
    struct fixture *f = *state;
    uint8_t bytes[200] = "SLUICELG\3";

    append(f, 1, 1, 10);
    close_log(f);
    for (uint64_t version = 1; version < 20; version++) /* whichever it has */
        write_metadata(f, bytes, sizeof bytes, version);
    open_log(f);
    assert_int_equal(f->opened, E_VERSION);
    assert_non_null(strstr(f->failure.text, "version 3"));
    free_log(f);
    bytes[0] = 'X';
    for (uint64_t version = 1; version < 30; version++)
        write_metadata(f, bytes, sizeof bytes, version);
    open_log(f);
    assert_int_equal(f->opened, E_CORRUPT);
    free_log(f);
}

static void a_refused_start_changes_nothing(void **state)
{
    struct fixture *f = *state;

    append(f, 1, 1, 3000);
    wait_durable(f);
    append(f, 1, 2, 3000); /* a tail that is perhaps torn */
    log_commit(f->log);
    simulated_run_turns(f->loop, 2);
    crash_log(f);
    uint64_t changes = simulated_disk_changes(f->disk);
    f->refuses = true;
    for (unsigned i = 0; i < 2; i++) {
        open_log(f);
        assert_int_equal(f->opened, E_DENIED);
        assert_string_equal(f->failure.text, "refused");
        free_log(f);
        assert_int_equal(simulated_disk_changes(f->disk), changes);
    }
    f->refuses = false;
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_true(f->messages_count >= 1);
    assert_true(simulated_disk_changes(f->disk) > changes);
    close_log(f);
}

static void on_accepted(void *context, int result, const struct failure *failure)
{
    assert_true(!failure == (result == 0));
    *(int *)context = result;
}

static int accept_damage(struct fixture *f)
{
    struct failure failure;
    struct loop *loop = loop_new_simulated(1);
    struct store *store;
    int result = 1;

    assert_int_equal(store_simulated_open(loop, f->disk, &store, &failure), 0);
    log_accept_damage(store, on_accepted, &result);
    while (result == 1)
        simulated_run_turns(loop, 1);
    store_free(store);
    loop_free(loop);
    return result;
}

static void damage_is_told_until_it_is_accepted(void **state)
{
    struct fixture *f = *state;

    append(f, 1, 1, 10);
    wait_durable(f);
    log_set_damaged(f->log);
    for (unsigned i = 0; i < 3; i++) {
        if (i == 1) {
            simulated_run_for(f->loop, 100 * NANOSECONDS_PER_MS);
            crash_log(f);
        } else {
            close_log(f);
        }
        open_log(f);
        assert_int_equal(f->opened, 0);
        assert_int_equal(f->corrupt_count, 1);
        assert_int_equal(f->messages_count, 1);
    }
    close_log(f);
    assert_int_equal(accept_damage(f), 0);
    assert_int_equal(accept_damage(f), E_NOT_FOUND);
    open_log(f);
    assert_true(f->summary.clean);
    assert_int_equal(f->corrupt_count, 0);
    assert_int_equal(f->messages_count, 1);
    close_log(f);
}

static void damage_that_recovery_finds_is_told_again(void **state)
{
    struct fixture *f = *state;
    size_t found;

    for (uint64_t i = 1; i <= 50; i++)
        append(f, 1, i, 3000);
    wait_durable(f);
    simulated_run_for(f->loop, 200 * NANOSECONDS_PER_MS);
    append(f, 1, 51, 10); /* vouches for what is before it */
    wait_durable(f);
    crash_log(f);
    simulated_disk_faults(f->disk)->flip_ppm = 400000;
    do {
        open_log(f);
        assert_int_equal(f->opened, 0);
        found = f->corrupt_count;
        if (found == 0)
            close_log(f);
    } while (found == 0);
    simulated_disk_faults(f->disk)->flip_ppm = 0;
    close_log(f);
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_true(f->corrupt_count >= 1);
    close_log(f);
}

/* ---- looking into it ---- */

struct dumped {
    char text[20000];
    int result;
};

static void on_dump_line(void *context, const char *text)
{
    struct dumped *dumped = context;
    append_text(dumped->text, sizeof dumped->text, slice_text(text));
}

static void on_dump_done(void *context, int result, const struct failure *failure)
{
    struct dumped *dumped = context;
    assert_true(!failure == (result == 0));
    dumped->result = result;
}

static void a_dump_shows_everything(void **state)
{
    struct fixture *f = *state;
    static const char *const expected[] = {"closed cleanly",
                                           "block 1 at 512",
                                           "queue 7 sequence 9 lane 3, body of 300000, attached",
                                           "queue 7 9 to 9, why 4",
                                           "queue 7 9, due at 1700000000000 ms",
                                           "\"event\"",
                                           "change: 13 bytes",
                                           "queue 300 \"transaction\"",
                                           "index of messages",
                                           "footer at"};
    struct failure failure;
    struct dumped *dumped = memory_new(sizeof *dumped);
    struct log_dump_options options = {
        .records = true,
        .keys = f->keys,
        .line = on_dump_line,
        .done = on_dump_done,
        .context = dumped,
    };

    append(f, 7, 9, 300000);
    log_settle(f->log, 7, 9, 9, 4);
    log_append_postponed(f->log, 7, 9, 1700000000000);
    assert_int_equal(log_append_catalog(f->log, slice_text("event")), 0);
    assert_int_equal(log_append_change(f->log, 300, slice_text("transaction"), 0), 0);
    close_log(f);
    f->loop = loop_new_simulated(1);
    assert_int_equal(store_simulated_open(f->loop, f->disk, &f->store, &failure), 0);
    dumped->result = 1;
    log_dump(f->loop, f->store, &options);
    while (dumped->result == 1)
        simulated_run_turns(f->loop, 1);
    assert_int_equal(dumped->result, 0);
    for (size_t i = 0; i < sizeof expected / sizeof expected[0]; i++)
        if (!strstr(dumped->text, expected[i]))
            fail_msg("no \"%s\" in: %s", expected[i], dumped->text);
    assert_null(strstr(dumped->text, "BROKEN"));
    store_free(f->store);
    loop_free(f->loop);
    free(dumped);
}

/* ---- encryption ---- */

static void the_disk_shows_nothing(void **state)
{
    struct fixture *f = *state;
    struct message *message = make_message(f, 100, 1);
    uint8_t body[40];

    memcpy(body, message_body(message).data, sizeof body);
    message_unref(message);
    append(f, 1, 1, 100);
    append(f, 1, 2, 300000); /* attached */
    assert_int_equal(log_append_catalog(f->log, slice_text("the name of it")), 0);
    wait_durable(f);
    close_log(f);
    bool is_plain = f->keys == NULL; /* or the test would prove nothing */
    assert_int_equal(simulated_disk_has(f->disk, slice_of(body, sizeof body)), is_plain);
    assert_int_equal(simulated_disk_has(f->disk, slice_text("the name of it")), is_plain);
    open_log(f);
    assert_string_equal(f->catalog, "the name of it ");
    close_log(f);
}

static void expect_refused(struct fixture *f, const struct keyring *keys, const char *text)
{
    const struct keyring *right = f->keys;
    uint64_t changes = simulated_disk_changes(f->disk);

    f->keys = keys;
    open_log(f);
    f->keys = right;
    assert_int_equal(f->opened, E_KEY);
    assert_non_null(strstr(f->failure.text, text));
    assert_int_equal(simulated_disk_changes(f->disk), changes);
    free_log(f);
}

static void wrong_keys_are_refused(void **state)
{
    struct fixture *f = *state;
    struct keyring other = *f->keys;

    append(f, 1, 1, 100);
    close_log(f);
    expect_refused(f, NULL, "master key 7, which was not given; given were: none");
    other.keys[0].id = 8;
    expect_refused(f, &other, "given were: 8");
    other.keys[0].id = 7;
    other.keys[0].bytes[31] ^= 1;
    expect_refused(f, &other, "another master key 7 than the one that was given");
    open_log(f);
    assert_int_equal(f->opened, 0);
    assert_int_equal(f->messages_count, 1);
    close_log(f);
}

static struct log_statistics statistics_of(const struct fixture *f)
{
    struct log_statistics statistics;

    log_statistics(f->log, &statistics);
    return statistics;
}

/* Old and new keys, as an operator changes them: until the last metadata is durable the old one is
 * needed, then it is not. */
static void keys_rotate(void **state)
{
    struct fixture *f = *state;
    struct keyring keys = {.keys = {{.id = 9, .bytes = {9}}, f->keys->keys[0]}, .count = 2};
    struct failure failure;
    uint64_t position = append(f, 1, 1, 5000);

    wait_durable(f);
    assert_int_equal(
        log_set_keys(f->log, &(struct keyring){.keys = {keys.keys[0]}, .count = 1}, &failure),
        E_KEY);
    assert_non_null(strstr(failure.text, "key 7 is still needed"));
    assert_int_equal(statistics_of(f).encryption.behind, 0);
    assert_int_equal(log_set_keys(f->log, &keys, &failure), 0);
    assert_true(statistics_of(f).encryption.behind > 0);
    assert_true(log_key_is_needed(f->log, 7));
    for (unsigned i = 0; i < 1000 && log_key_is_needed(f->log, 7); i++) {
        assert_true(statistics_of(f).encryption.behind > 0);
        simulated_run_turns(f->loop, 1);
    }
    assert_false(log_key_is_needed(f->log, 7));
    assert_int_equal(statistics_of(f).encryption.behind, 0);
    assert_int_equal(statistics_of(f).encryption.needed_count, 1);
    assert_int_equal(statistics_of(f).encryption.needed[0], 9);
    keys.count = 1;
    assert_int_equal(log_set_keys(f->log, &keys, &failure), 0);
    assert_true(f->witness.sealed > 0);
    expect_message(f, position, 1, 5000); /* what was written under the old one */
    crash_log(f);
    f->keys = &keys;
    open_log(f);
    assert_int_equal(f->opened, 0);
    expect_message(f, position, 1, 5000);
    close_log(f);
    f->keys = &keys;
    expect_refused(f, NULL, "master key 9");
}

/* From the clear to keys and back: each segment stays as it is. */
static void plain_and_encrypted_go_together(void **state)
{
    struct fixture *f = *state;
    uint64_t positions[6];

    for (unsigned i = 0; i < 6; i++) {
        positions[i] = append(f, 1, 1 + i, 3000);
        wait_durable(f);
        for (unsigned k = 0; k <= i; k++)
            expect_message(f, positions[k], 1 + k, 3000);
        assert_int_equal(statistics_of(f).encryption.plain_segments > 0, i > 0);
        assert_true(statistics_of(f).encryption.segments > 0);
        if (i == 4)
            crash_log(f);
        else
            close_log(f);
        open_log_with(f, i % 2 == 1);
        assert_int_equal(f->opened, 0);
        assert_int_equal(f->messages_count, i + 1);
    }
    close_log(f);
}

#define ENCRYPTED(function)                                                                        \
    {                                                                                              \
#function " encrypted", function, setup_encrypted, teardown, NULL                          \
    }
#define TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(empty_opens_again),
        TEST(durable_comes_back),
        TEST(large_bodies),
        TEST(times_come_back),
        TEST(lazy_records_go_out_by_themselves),
        TEST(settlements_are_replayed),
        TEST(changes_are_replayed),
        TEST(catalog_and_states),
        TEST(dead_segments_go),
        TEST(a_gap_of_dead_segments_is_none),
        TEST(a_group_is_one_block),
        TEST(a_failed_write_moves_on),
        TEST(a_second_failure_is_final),
        TEST(a_full_disk_refuses_messages_first),
        TEST(a_full_disk_keeps_promises),
        TEST(memory_has_a_limit),
        TEST(bad_metadata_is_refused),
        TEST(a_refused_start_changes_nothing),
        TEST(damage_is_told_until_it_is_accepted),
        TEST(damage_that_recovery_finds_is_told_again),
        TEST(a_dump_shows_everything),
        TEST(the_disk_shows_nothing),
        ENCRYPTED(empty_opens_again),
        ENCRYPTED(durable_comes_back),
        ENCRYPTED(large_bodies),
        ENCRYPTED(times_come_back),
        ENCRYPTED(lazy_records_go_out_by_themselves),
        ENCRYPTED(settlements_are_replayed),
        ENCRYPTED(changes_are_replayed),
        ENCRYPTED(catalog_and_states),
        ENCRYPTED(dead_segments_go),
        ENCRYPTED(a_gap_of_dead_segments_is_none),
        ENCRYPTED(a_group_is_one_block),
        ENCRYPTED(a_failed_write_moves_on),
        ENCRYPTED(a_second_failure_is_final),
        ENCRYPTED(a_full_disk_refuses_messages_first),
        ENCRYPTED(a_full_disk_keeps_promises),
        ENCRYPTED(memory_has_a_limit),
        ENCRYPTED(bad_metadata_is_refused),
        ENCRYPTED(a_refused_start_changes_nothing),
        ENCRYPTED(damage_is_told_until_it_is_accepted),
        ENCRYPTED(damage_that_recovery_finds_is_told_again),
        ENCRYPTED(a_dump_shows_everything),
        ENCRYPTED(the_disk_shows_nothing),
        ENCRYPTED(wrong_keys_are_refused),
        ENCRYPTED(keys_rotate),
        ENCRYPTED(plain_and_encrypted_go_together),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
