/* For tests: a log that keeps nothing but numbers, for one queue. What it is told has to make
 * sense, and goes to hooks. Included by one source file of a test, instead of linking log/. */
#ifndef SLUICE_QUEUE_TEST_LOG_H
#define SLUICE_QUEUE_TEST_LOG_H

#include "base/assert.h"
#include "queue/queue.h"

#define TEST_LOG_QUEUE 7u /* the queue's id */

/* NULL where nobody wants to know. */
struct test_log_hooks {
    void (*settled)(struct log *log, uint64_t first, uint64_t last, enum settle_reason why);
    void (*released)(struct log *log, uint64_t position);
    void (*returned)(struct log *log, uint64_t first, uint64_t last, uint32_t count);
    void (*postponed)(struct log *log, uint64_t sequence, uint64_t due_ms);
    void (*state)(struct log *log, struct slice bytes, bool more);
    void (*hurried)(struct log *log); /* somebody waits for a block, or for `reads` */
};

/* Embedded in what the test remembers. */
struct log {
    const struct test_log_hooks *hooks;
    uint64_t delivered_marks[QUEUE_LANES_MAX], block;
    struct list reads; /* struct log_read, for the test to answer */
};

static void test_log_init(struct log *log, const struct test_log_hooks *hooks)
{
    *log = (struct log){.hooks = hooks};
    list_init(&log->reads);
}

/* ---- log/log.h ---- */

void log_settle(struct log *log, uint64_t queue, uint64_t first, uint64_t last, unsigned why)
{
    ASSERT(queue == TEST_LOG_QUEUE && first > 0 && first <= last && why > 0);
    if (log->hooks->settled)
        log->hooks->settled(log, first, last, why);
}

void log_release(struct log *log, uint64_t position)
{
    ASSERT(position > 0);
    if (log->hooks->released)
        log->hooks->released(log, position);
}

void log_append_returned(struct log *log, uint64_t queue, uint64_t first, uint64_t last,
                         uint32_t count)
{
    ASSERT(queue == TEST_LOG_QUEUE && first > 0 && first <= last && count > 0);
    if (log->hooks->returned)
        log->hooks->returned(log, first, last, count);
}

void log_append_postponed(struct log *log, uint64_t queue, uint64_t sequence, uint64_t due_ms)
{
    ASSERT(queue == TEST_LOG_QUEUE && sequence > 0 && due_ms > 0);
    if (log->hooks->postponed)
        log->hooks->postponed(log, sequence, due_ms);
}

void log_append_delivered(struct log *log, uint64_t queue, uint64_t sequence)
{
    uint64_t *mark = &log->delivered_marks[sequence >> QUEUE_LANE_SHIFT];

    ASSERT(queue == TEST_LOG_QUEUE && sequence > *mark);
    *mark = sequence;
    log->block++;
}

void log_append_state(struct log *log, uint64_t queue, struct slice bytes, bool more)
{
    ASSERT(queue == TEST_LOG_QUEUE && bytes.size > 0 && bytes.size <= LOG_STATE_MAX);
    if (log->hooks->state)
        log->hooks->state(log, bytes, more);
}

void log_drop_state(struct log *log, uint64_t queue)
{
    (void)log;
    ASSERT(queue == TEST_LOG_QUEUE);
}

uint64_t log_block_last(const struct log *log)
{
    return log->block;
}

bool log_is_failed(const struct log *log)
{
    (void)log;
    return false;
}

void log_commit(struct log *log)
{
    if (log->hooks->hurried)
        log->hooks->hurried(log);
}

void log_read(struct log *log, struct log_read *read)
{
    list_append(&log->reads, &read->link);
    log_commit(log);
}

#endif
