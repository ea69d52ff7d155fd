/*
 * The queue against a model, by seed, over a log that is only remembered here: pushes, with and
 * without priorities, deliveries to consumers with and without credit, single gets, settlements,
 * returns, purges, messages that wait for their time, cold messages and their reading back, and a
 * restart from state and records.
 *
 * The model counts messages from 1 on as they are pushed; where a message is in the queue (its
 * sequence) it reckons for itself.
 */
#include "queue/test_log.h"

#include "base/memory.h"
#include "loop/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>
#include <stdlib.h>

#define SEQUENCES_MAX 4096u /* messages */
#define LANES         32u
#define LATE_MS_MAX   2u

/* ---- the log that is only remembered ---- */

struct memory_log {
    struct log log;
    struct loop *loop;
    uint64_t position; /* of the last append */
    struct message *stored[SEQUENCES_MAX];
    bool live[SEQUENCES_MAX];    /* not released, by position */
    bool settled[SEQUENCES_MAX]; /* by message */
    uint32_t returned[SEQUENCES_MAX];
    uint64_t due_ms[SEQUENCES_MAX];    /* as appended */
    uint64_t postponed[SEQUENCES_MAX]; /* since then; 0: was not */
    uint64_t durable;
    uint8_t state[1u << 16];
    size_t state_size;
    struct timer timer;
    unsigned reads_done;
    uint16_t messages[LANES][SEQUENCES_MAX]; /* which one stands there; 0: none */
};

static struct queue_host host;

static struct memory_log *memory_of(struct log *log)
{
    return CONTAINER_OF(log, struct memory_log, log);
}

static uint16_t *message_at(struct memory_log *log, uint64_t sequence)
{
    uint64_t lane = sequence >> QUEUE_LANE_SHIFT, place = sequence % QUEUE_LANE_SPAN;

    assert_true(lane < LANES && place < SEQUENCES_MAX);
    return &log->messages[lane][place];
}

static void log_turn(struct timer *timer)
{
    struct memory_log *log = CONTAINER_OF(timer, struct memory_log, timer);

    for (struct list *link; (link = list_take_first(&log->log.reads));) {
        struct log_read *read = CONTAINER_OF(link, struct log_read, link);
        for (size_t i = 0; i < read->count; i++) {
            /* settled meanwhile: the log may have given up the place */
            bool live = log->live[read->positions[i]];
            read->messages[i] = live ? message_ref(log->stored[read->positions[i]]) : NULL;
            read->results[i] = live ? 0 : E_CORRUPT;
        }
        log->reads_done++;
        read->done(read);
    }
    if (log->durable < log->log.block) {
        log->durable = log->log.block;
        queue_host_durable(&host, log->durable);
    }
}

static void log_settled(struct log *told, uint64_t first, uint64_t last, enum settle_reason why)
{
    (void)why;
    struct memory_log *log = memory_of(told);

    for (uint64_t s = first; s <= last; s++) {
        assert_false(log->settled[*message_at(log, s)]);
        log->settled[*message_at(log, s)] = true;
    }
}

/* Not before it has been told why: else the room could be used again before that is on disk. */
static void log_released(struct log *told, uint64_t position)
{
    struct memory_log *log = memory_of(told);
    const struct message *message = log->stored[position];

    assert_true(log->live[position]);
    assert_true(!message || log->settled[message->published_at_ms]);
    log->live[position] = false;
}

static void log_returned(struct log *told, uint64_t first, uint64_t last, uint32_t count)
{
    struct memory_log *log = memory_of(told);

    assert_int_equal(first, last);
    log->returned[*message_at(log, first)] += count;
}

static void log_postponed(struct log *told, uint64_t sequence, uint64_t due_ms)
{
    struct memory_log *log = memory_of(told);

    log->postponed[*message_at(log, sequence)] = due_ms;
}

static void log_state(struct log *told, struct slice bytes, bool more)
{
    struct memory_log *log = memory_of(told);

    memcpy(log->state + log->state_size, bytes.data, bytes.size);
    log->state_size += bytes.size;
    assert_true(more || log->state_size < LOG_STATE_MAX);
}

static void log_hurried(struct log *told)
{
    struct memory_log *log = memory_of(told);

    timer_set(&log->timer, loop_now_ns(log->loop) + 1000);
}

static const struct test_log_hooks log_hooks = {
    .settled = log_settled,
    .released = log_released,
    .returned = log_returned,
    .postponed = log_postponed,
    .state = log_state,
    .hurried = log_hurried,
};

static struct memory_log *memory_log_new(struct loop *loop)
{
    struct memory_log *log = memory_new(sizeof *log);

    test_log_init(&log->log, &log_hooks);
    log->loop = loop;
    timer_init(&log->timer, loop, log_turn);
    return log;
}

/* ---- the model ---- */

enum state { NONE, READY, DELAYED, LEASED, GONE };

struct model {
    struct loop *loop;
    struct memory_log *log;
    struct queue queue;
    struct account account;
    struct queue_levels levels;
    enum state state[SEQUENCES_MAX];
    unsigned level[SEQUENCES_MAX];
    uint64_t sequence[SEQUENCES_MAX];
    uint64_t pushed_in[LANES];    /* by lane */
    uint64_t back[SEQUENCES_MAX]; /* when it came back, if that counts; 0 */
    uint64_t backs;
    bool seen[SEQUENCES_MAX], persistent[SEQUENCES_MAX];
    uint32_t counts[SEQUENCES_MAX];
    uint64_t position[SEQUENCES_MAX];
    uint64_t due_ms[SEQUENCES_MAX];
    uint64_t pushed, ready, leased, delayed, delays, put_off;
    struct consumer consumers[3];
    uint32_t credit[3];
    bool room;
    bool durable;
    bool looks; /* the walk is under way */
    struct queue_walk walk;
    uint64_t looked;
};

static uint64_t wall_ms(const struct model *m)
{
    return loop_wall_ms(m->loop);
}

static void become(struct model *m, uint64_t s, enum state state)
{
    uint64_t *counts[] = {[READY] = &m->ready, [DELAYED] = &m->delayed, [LEASED] = &m->leased};

    if (m->state[s] != NONE && m->state[s] != GONE)
        --*counts[m->state[s]];
    if (state != GONE)
        ++*counts[state];
    m->state[s] = state;
}

static void become_ready(struct model *m, uint64_t s)
{
    bool waits = m->due_ms[s] > wall_ms(m);

    become(m, s, waits ? DELAYED : READY);
    m->delays += waits;
}

/* The queue may have seen that these are due, */
static uint64_t count_due(const struct model *m)
{
    uint64_t count = 0;

    for (uint64_t s = 1; s <= m->pushed; s++)
        count += m->state[s] == DELAYED && m->due_ms[s] <= wall_ms(m);
    return count;
}

/* and these it must have. */
static void catch_up(struct model *m)
{
    for (uint64_t s = 1; s <= m->pushed; s++) {
        if (m->state[s] == DELAYED && m->due_ms[s] + LATE_MS_MAX <= wall_ms(m))
            become(m, s, READY);
    }
}

/* Does a go out before b? */
static bool comes_before(const struct model *m, uint64_t a, uint64_t b)
{
    if (m->back[a] || m->back[b])
        return m->back[a] && (!m->back[b] || m->back[a] < m->back[b]);
    return m->level[a] != m->level[b] ? m->level[a] > m->level[b] : a < b;
}

/* 0: there is none. */
static uint64_t next_ready(const struct model *m)
{
    uint64_t next = 0;

    for (uint64_t s = 1; s <= m->pushed; s++) {
        if (m->state[s] == READY && (!next || comes_before(m, s, next)))
            next = s;
    }
    return next;
}

static uint64_t lane_at(uint64_t sequence)
{
    return sequence >> QUEUE_LANE_SHIFT;
}

static void expect_item(struct model *m, const struct queue_item *item)
{
    uint64_t s = *message_at(m->log, item->sequence), next = next_ready(m);

    if (m->state[s] == DELAYED) { /* it was seen before others that are due, too */
        assert_true(m->due_ms[s] <= wall_ms(m));
        assert_true(next == 0 || comes_before(m, s, next));
    } else {
        assert_int_equal(s, next);
    }
    m->back[s] = 0;
    assert_non_null(item->message);
    assert_int_equal(item->message->published_at_ms, s); /* the right one */
    assert_int_equal(item->redelivered, m->seen[s]);
    assert_int_equal(item->count, m->counts[s]);
    if (m->durable && m->persistent[s])
        assert_true(item->sequence < m->log->log.delivered_marks[lane_at(item->sequence)] &&
                    m->log->durable >= 1);
    become(m, s, LEASED);
}

static int deliver(void *context, struct consumer *consumer, const struct queue_item *item)
{
    struct model *m = context;
    size_t index = (size_t)(consumer - m->consumers);

    assert_true(index < 3 && m->credit[index] > 0);
    if (!m->room)
        return E_ROOM;
    if (m->credit[index] != CONSUMER_UNLIMITED)
        m->credit[index]--;
    expect_item(m, item);
    if (consumer->settles_itself)
        become(m, *message_at(m->log, item->sequence), GONE);
    return 0;
}

static void get(void *context, struct queue *queue)
{
    (void)context;
    (void)queue;
}

static const struct queue_events events = {.deliver = deliver, .get = get};

/* Most have none; its level. */
static unsigned some_priority(struct model *m, struct message_parts *parts)
{
    static const uint8_t priorities[] = {0, 0, 1, 3, 4, 9, 31, 255};
    unsigned level = m->levels.absent;

    if (loop_random(m->loop) % 2) {
        parts->priority = priorities[loop_random(m->loop) % sizeof priorities];
        parts->flags = MESSAGE_HAS_PRIORITY;
        level = parts->priority;
    }
    return level < m->levels.max ? level : m->levels.max;
}

/* Of lane 0 are those without priority. */
static uint64_t lane_for(const struct model *m, unsigned level)
{
    return level == m->levels.absent ? 0 : level == 0 ? m->levels.absent : level;
}

static void push(struct model *m)
{
    uint8_t body[16] = {0};
    uint64_t s = m->pushed + 1;
    uint64_t position = 0;

    if (s >= SEQUENCES_MAX)
        return;
    if (loop_random(m->loop) % 4 == 0 && !m->levels.returned_first)
        m->due_ms[s] = wall_ms(m) + loop_random(m->loop) % 30;
    struct message_parts parts = {.format = FORMAT_AMQP091,
                                  .exchange = slice_text("e"),
                                  .key = slice_text("k"),
                                  .body = slice_of(body, 1 + loop_random(m->loop) % sizeof body),
                                  .published_at_ms = s,
                                  .not_before_ms = m->due_ms[s]};
    m->level[s] = some_priority(m, &parts);
    struct message *message = message_new(&m->account, &parts);
    assert_non_null(message);
    struct log_target target = queue_target(&m->queue, message);
    uint64_t lane = lane_for(m, m->level[s]);
    m->sequence[s] = (lane << QUEUE_LANE_SHIFT) + ++m->pushed_in[lane];
    *message_at(m->log, m->sequence[s]) = (uint16_t)s;
    assert_int_equal(target.sequence, m->sequence[s]);
    assert_int_equal(target.lane, m->due_ms[s] ? LOG_LANE_DUE : 0);
    m->persistent[s] = m->durable && loop_random(m->loop) % 4;
    if (m->persistent[s]) {
        position = ++m->log->position;
        m->log->stored[position] = message_ref(message);
        m->log->live[position] = true;
        m->position[s] = position;
        m->log->due_ms[s] = target.due_ms;
    }
    queue_push(&m->queue, message, position);
    message_unref(message);
    m->pushed = s;
    become_ready(m, s);
}

static uint64_t random_leased(struct model *m)
{
    uint64_t start = loop_random(m->loop) % (m->pushed + 1);

    for (uint64_t i = 0; i <= m->pushed; i++) {
        uint64_t s = (start + i) % (m->pushed + 1);
        if (m->state[s] == LEASED)
            return s;
    }
    return 0;
}

static void take(struct model *m)
{
    struct queue_item item;
    int result = queue_take(&m->queue, &item);

    if (result == 0) {
        expect_item(m, &item);
        message_unref(item.message);
    } else {
        assert_true(result == (next_ready(m) ? E_AGAIN : E_NOT_FOUND) || count_due(m) > 0);
    }
}

/* This one, or also those behind it that are leased, at most so many. */
static void settle(struct model *m, uint64_t s)
{
    uint64_t first = m->sequence[s], last = first;
    uint64_t most = loop_random(m->loop) % 4 ? 0 : loop_random(m->loop) % 200;

    while (last - first < most && m->state[*message_at(m->log, last + 1)] == LEASED)
        last++;
    if (last > first)
        queue_settle_range(&m->queue, first, last, SETTLE_ACCEPTED);
    else
        queue_settle(&m->queue, first, SETTLE_ACCEPTED);
    for (uint64_t sequence = first; sequence <= last; sequence++)
        become(m, *message_at(m->log, sequence), GONE);
}

static void purge(struct model *m)
{
    uint64_t all = m->ready + m->delayed;
    struct queue_purge_job job;

    queue_purge_begin(&job, &m->queue);
    while (!queue_purge(&job, &m->queue, SETTLE_PURGED))
        queue_check(&m->queue);
    assert_int_equal(job.removed, all);
    queue_purge_fini(&job);
    for (uint64_t s = 1; s <= m->pushed; s++) {
        if (m->state[s] == READY || m->state[s] == DELAYED)
            become(m, s, GONE);
    }
}

static void return_one(struct model *m, uint64_t s)
{
    bool seen = loop_random(m->loop) % 2, counted = loop_random(m->loop) % 2;

    if (loop_random(m->loop) % 2 || m->levels.returned_first) {
        queue_return(&m->queue, m->sequence[s], seen, counted);
        m->seen[s] = m->seen[s] || seen;
        if (m->levels.returned_first && m->seen[s])
            m->back[s] = ++m->backs;
    } else {
        m->due_ms[s] = wall_ms(m) + loop_random(m->loop) % 30;
        queue_return_later(&m->queue, m->sequence[s], counted, m->due_ms[s]);
        m->seen[s] = true;
        m->put_off++;
    }
    m->counts[s] += counted;
    become_ready(m, s);
}

/* Who is held comes back, some time, to what it was. */
static void hold_one(struct model *m)
{
    uint64_t s = 1 + loop_random(m->loop) % (m->pushed + 1);
    bool is_free = m->state[s] == READY || m->state[s] == DELAYED;

    if (m->levels.returned_first)
        return; /* it may keep its place among what came back, or not */
    assert_int_equal(queue_hold(&m->queue, m->sequence[s]), is_free);
    if (is_free)
        become(m, s, LEASED);
}

/* ---- looking at it: from anywhere, over any number of turns ---- */

static void walk_ready(struct queue_walk *walk)
{
    (void)walk;
}

static void look_begin(struct model *m)
{
    uint64_t kind = loop_random(m->loop) % 4;

    m->walk = (struct queue_walk){
        .queue = &m->queue,
        .at = loop_random(m->loop) % 2 && m->pushed > 0
                  ? m->sequence[1 + loop_random(m->loop) % m->pushed]
                  : 0,
        .skips_ready = kind == 1,
        .skips_leased = kind == 2,
        .skips_delayed = kind >= 2,
        .ready = walk_ready,
    };
    m->looks = true;
}

static void look_end(struct model *m)
{
    while (m->walk.is_reading)
        simulated_run_for(m->loop, 10000);
    queue_walk_fini(&m->walk);
    m->looks = false;
}

/* None is passed over, and each is told as it is now. */
static void look(struct model *m)
{
    struct queue_walk *walk = &m->walk;
    struct queue_traveller seen;
    uint64_t hot = m->account.used;
    int result = 1;

    if (!m->looks)
        look_begin(m);
    for (uint64_t n = loop_random(m->loop) % 100; n > 0 && result == 1; n--) {
        uint64_t from = walk->at;
        result = queue_walk_next(walk, &seen);
        uint64_t end = result == 1 ? seen.sequence : result == 0 ? UINT64_MAX : from;
        for (uint64_t s = 1; s <= m->pushed; s++)
            assert_false(
                m->sequence[s] >= from && m->sequence[s] < end &&
                ((m->state[s] == READY && !walk->skips_ready) ||
                 (m->state[s] == LEASED && !walk->skips_leased) ||
                 (m->state[s] == DELAYED && m->due_ms[s] > wall_ms(m) && !walk->skips_delayed)));
        if (result != 1)
            continue;
        uint64_t s = *message_at(m->log, seen.sequence);
        enum state told = seen.is_leased ? LEASED : seen.due_ms ? DELAYED : READY;
        bool is_due = m->due_ms[s] <= wall_ms(m);
        assert_true(m->state[s] == told || (m->state[s] == DELAYED && told == READY && is_due));
        assert_true(told != DELAYED || seen.due_ms == m->due_ms[s]);
        assert_false(told == LEASED    ? walk->skips_leased
                     : told == DELAYED ? walk->skips_delayed
                                       : walk->skips_ready);
        assert_int_equal(seen.message->published_at_ms, s);
        assert_int_equal(seen.is_logged, m->persistent[s]);
        assert_int_equal(seen.count, m->counts[s]);
        assert_int_equal(seen.is_returned, m->seen[s]);
        message_unref(seen.message);
        m->looked++;
    }
    assert_true(result == 1 || result == 0 || result == E_AGAIN);
    assert_int_equal(m->account.used, hot);
    if (result == 0)
        look_end(m);
}

static void step(struct model *m)
{
    uint64_t s = random_leased(m);
    uint64_t position = 0;
    size_t c = loop_random(m->loop) % 3;

    switch (loop_random(m->loop) % 14) {
    case 12:
    case 13:
        look(m);
        break;
    case 0:
    case 1:
    case 2:
        for (uint64_t n = loop_random(m->loop) % 40; n > 0; n--)
            push(m);
        break;
    case 3:
        if (m->credit[c] < 1000) {
            m->credit[c] += 5;
            consumer_credit(&m->consumers[c], 5, 1000);
        }
        break;
    case 4:
        simulated_run_for(m->loop, 1000000);
        break;
    case 5:
        if (s)
            return_one(m, s);
        break;
    case 6:
    case 7:
    case 8:
        if (s)
            settle(m, s);
        break;
    case 9:
        take(m);
        break;
    case 10:
        if (loop_random(m->loop) % 10 == 0)
            purge(m);
        else if (loop_random(m->loop) % 2)
            hold_one(m);
        else if (!queue_cool(&m->queue, &position))
            position = 0;
        break;
    default:
        m->room = loop_random(m->loop) % 3;
        for (size_t i = 0; m->room && i < 3; i++)
            consumer_resume(&m->consumers[i]);
    }
    queue_check(&m->queue);
    catch_up(m);
    assert_int_equal(m->queue.ready + m->queue.delayed, m->ready + m->delayed);
    assert_in_range(m->queue.ready, m->ready, m->ready + count_due(m));
    assert_int_equal(m->queue.leased, m->leased);
}

/* As recovery knows it: whether somebody may have seen it. */
static bool is_seen_again(const struct model *m, uint64_t s, uint64_t mark)
{
    bool was_put_off = m->log->postponed[s] != 0;

    if (m->counts[s] > 0 || (was_put_off && m->state[s] == DELAYED))
        return true;
    return m->sequence[s] < mark && m->state[s] != DELAYED;
}

static void recover_records(struct model *m)
{
    struct memory_log *log = m->log;

    for (uint64_t s = 1; s <= m->pushed; s++) {
        uint64_t sequence = m->sequence[s];
        if (log->settled[s]) {
            log->live[m->position[s]] = true; /* the log counts anew, too */
            queue_recover_settled(&m->queue, sequence, sequence);
        }
        if (log->returned[s])
            queue_recover_returned(&m->queue, sequence, sequence, log->returned[s]);
        if (log->postponed[s])
            queue_recover_postponed(&m->queue, sequence, log->postponed[s]);
    }
    for (unsigned lane = 0; lane < LANES; lane++) {
        if (log->log.delivered_marks[lane])
            queue_recover_delivered(&m->queue, log->log.delivered_marks[lane]);
    }
}

/* What the log knows makes the same queue again. */
static void restart(struct model *m, bool with_state)
{
    struct memory_log *log = m->log;
    struct queue_standing standing;

    if (with_state)
        queue_write_state(&m->queue, loop_random(m->loop) % 2);
    list_init(&log->log.reads); /* nobody waits for them any more */
    queue_abandon(&m->queue);
    queue_fini(&m->queue);
    queue_init(&m->queue, &host, TEST_LOG_QUEUE, &log->log);
    queue_set_levels(&m->queue, &m->levels);
    if (with_state)
        assert_int_equal(queue_recover_state(&m->queue, slice_of(log->state, log->state_size)), 0);
    for (unsigned lane = 0; with_state && queue_standing(&m->queue, &lane, &standing); lane++)
        log->log.delivered_marks[lane] = standing.mark;
    for (uint64_t s = 1; s <= m->pushed; s++) {
        if (!m->persistent[s])
            continue;
        bool kept =
            queue_recover_message(&m->queue, m->sequence[s], m->position[s], 1, 0, log->due_ms[s]);
        if (with_state)
            assert_int_equal(kept, log->live[m->position[s]]);
    }
    if (!with_state)
        recover_records(m);
    assert_int_equal(queue_recover_end(&m->queue), 0);
    queue_check(&m->queue);
    for (uint64_t s = 1; s <= m->pushed; s++) {
        uint64_t mark = log->log.delivered_marks[lane_at(m->sequence[s])];
        m->back[s] = 0;
        if (m->state[s] == GONE)
            continue;
        if (m->persistent[s])
            become_ready(m, s);
        else
            become(m, s, GONE);
        m->seen[s] = is_seen_again(m, s, mark) || (!with_state && log->postponed[s]);
    }
    assert_int_equal(m->queue.ready, m->ready);
    assert_int_equal(m->queue.delayed, m->delayed);
}

static void drain(struct model *m)
{
    for (unsigned i = 0; i < 20000 && m->ready + m->delayed > 0; i++) {
        take(m);
        simulated_run_for(m->loop, 10000);
        catch_up(m);
    }
    assert_int_equal(m->ready + m->delayed, 0);
    for (uint64_t s; (s = random_leased(m));)
        settle(m, s);
    assert_int_equal(m->queue.leased, 0);
}

struct tally {
    uint64_t reads, looked, delays, put_off;
};

static const struct queue_levels levels[] = {
    {0}, {.max = 3}, {.max = 31, .absent = 4, .returned_first = true}, {.max = 9}};

static void run_seed(uint64_t seed, struct tally *tally)
{
    struct model *m = memory_new(sizeof *m);
    m->loop = loop_new_simulated(seed);
    struct memory_log *log = m->log = memory_log_new(m->loop);
    m->durable = seed % 4 != 0;
    m->room = true;
    account_init(&m->account, NULL, 0);
    host = (struct queue_host){.loop = m->loop,
                               .log = &log->log,
                               .events = &events,
                               .context = m,
                               .memory = &m->account,
                               .hot_bytes_max = 4000};
    queue_host_init(&host);
    queue_host_begin(&host);
    queue_init(&m->queue, &host, TEST_LOG_QUEUE, m->durable ? &log->log : NULL);
    m->levels = levels[seed / 4 % 4];
    queue_set_levels(&m->queue, &m->levels);
    for (size_t i = 0; i < 3; i++) {
        m->consumers[i] = (struct consumer){
            .queue = &m->queue, .credit_bytes = INT64_MAX / 8, .settles_itself = i == 2};
        consumer_add(&m->consumers[i]);
    }
    for (unsigned i = 0; i < 300; i++)
        step(m);
    if (m->looks)
        look_end(m);
    for (size_t i = 0; i < 3; i++)
        assert_false(consumer_remove(&m->consumers[i]));
    if (m->durable)
        restart(m, seed % 2);
    drain(m);

    queue_close(&m->queue);
    while (!queue_discard(&m->queue))
        simulated_run_for(m->loop, 1000000);
    assert_true(queue_unref(&m->queue));
    queue_fini(&m->queue);
    for (uint64_t p = 1; p <= log->position; p++) {
        assert_false(log->live[p]);
        message_unref(log->stored[p]);
    }
    account_fini(&m->account);
    timer_stop(&log->timer);
    queue_host_fini(&host);
    loop_free(m->loop);
    tally->reads += log->reads_done;
    tally->looked += m->looked;
    tally->delays += m->delays;
    tally->put_off += m->put_off;
    free(log);
    free(m);
}

static void behaves_as_the_model(void **state)
{
    struct tally tally = {0};

    (void)state;
    for (uint64_t seed = 1; seed <= 300; seed++)
        run_seed(seed, &tally);
    assert_true(tally.reads > 1000); /* cold messages were part of it */
    assert_true(tally.looked > 10000);
    assert_true(tally.delays > 1000 && tally.put_off > 1000);
}

/* What has come and gone since costs nothing, however old the oldest message is. */
static void one_old_message(void **state)
{
    struct loop *loop = loop_new_simulated(1);
    struct account account;
    struct queue queue;
    struct queue_item item;

    (void)state;
    account_init(&account, NULL, 0);
    host = (struct queue_host){
        .loop = loop, .events = &events, .memory = &account, .hot_bytes_max = 1u << 30};
    queue_host_init(&host);
    queue_init(&queue, &host, TEST_LOG_QUEUE, NULL);
    struct message *message = message_new(
        &account, &(struct message_parts){.format = FORMAT_AMQP091, .key = slice_text("k")});
    queue_push(&queue, message, 0);
    assert_int_equal(queue_take(&queue, &item), 0);
    message_unref(item.message);
    for (unsigned i = 0; i < 200000; i++) {
        queue_push(&queue, message, 0);
        assert_int_equal(queue_take(&queue, &item), 0);
        message_unref(item.message);
        queue_settle(&queue, item.sequence, SETTLE_ACCEPTED);
    }
    queue_check(&queue);
    assert_true(queue.lane.pages_capacity <= 8);
    assert_true(account.used < 10000);
    queue_return(&queue, 1, true, false);
    assert_int_equal(queue_take(&queue, &item), 0);
    assert_int_equal(item.sequence, 1);
    assert_true(item.redelivered);
    message_unref(item.message);
    queue_settle(&queue, 1, SETTLE_ACCEPTED);
    message_unref(message);
    queue_close(&queue);
    assert_true(queue_discard(&queue));
    assert_true(queue_unref(&queue));
    queue_fini(&queue);
    account_fini(&account);
    queue_host_fini(&host);
    loop_free(loop);
}

/* ---- states that nobody wrote ---- */

/* Of the newest version. */
static int recover_numbers(struct queue *queue, const uint64_t *numbers, size_t count)
{
    uint8_t bytes[256] = {2};
    struct writer w = writer_of(bytes + 1, sizeof bytes - 1);

    for (size_t i = 0; i < count; i++)
        write_varint(&w, numbers[i]);
    return queue_recover_state(queue, slice_of(bytes, 1 + writer_size(&w)));
}

/* next, mark, runs (gap, length - 1), counts (gap, count), dues (gap, due) */
static void broken_states_are_refused(void **state)
{
    static const uint64_t broken[][8] = {
        {0, 1, 0, 0},                       /* no next */
        {1ull << 48, 1, 0, 0},              /* a sequence that nobody reaches */
        {10, 1ull << 62, 0, 0},             /* a mark that nobody reaches */
        {10, 1, 1, 0, 3, 0},                /* sequence 0 */
        {10, 1, 1, 5, 5, 0},                /* beyond next */
        {10, 1, 1, 5, UINT64_MAX, 0},       /* a length that is none */
        {10, 1, 1, UINT64_MAX, 1, 0},       /* a gap that goes round */
        {10, 1, 2, 1, 1, UINT64_MAX, 1, 0}, /* the same in the second run */
        {10, 1, 0, 1, 10, 1},               /* a count beyond next */
        {10, 1, 0, 1, 1, 1ull << 32},       /* too large a count */
        {10, 1, 100, 1, 1, 1, 1},           /* more runs than there are */
        {10, 1, 0, 0, 0, 7},                /* more bytes than there should be */
        {10, 1, 0, 0},                      /* the dues are missing */
        {10, 1, 0, 0, 1, 0, 5},             /* a due of sequence 0 */
        {10, 1, 0, 0, 1, 10, 5},            /* a due beyond next */
        {10, 1, 0, 0, 1, 1, 1ull << 62},    /* a time that is none */
        {10, 1, 0, 0, 2, 1, 5},             /* more dues than there are */
    };
    static const size_t sizes[] = {4, 4, 4, 6, 6, 6, 6, 8, 6, 6, 7, 6, 4, 7, 7, 7, 7};
    struct loop *loop = loop_new_simulated(1);
    struct account memory;
    struct queue queue;
    struct memory_log *log = memory_log_new(loop);

    (void)state;
    account_init(&memory, NULL, 0);
    host = (struct queue_host){.loop = loop, .log = &log->log, .memory = &memory};
    queue_host_init(&host);
    queue_init(&queue, &host, TEST_LOG_QUEUE, &log->log);
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        assert_int_equal(recover_numbers(&queue, broken[i], sizes[i]), E_CORRUPT);
        assert_int_equal(queue.lane.next, 1);
    }
    assert_int_equal(queue_recover_state(&queue, slice_text("\4")), E_VERSION);
    assert_true(queue_recover_message(&queue, 5, 1, 1, 0, 0)); /* as if there were none */
    assert_int_equal(queue_recover_end(&queue), 0);
    queue_abandon(&queue);
    queue_fini(&queue);

    /* what it promises takes no memory: 2^47 messages, of which the log has two and settled one */
    static const uint64_t large[] = {(1ull << 48) - 1, 3, 1, 1, (1ull << 47) - 1, 0, 0};
    queue_init(&queue, &host, TEST_LOG_QUEUE, &log->log);
    assert_int_equal(recover_numbers(&queue, large, 7), 0);
    assert_true(queue_recover_message(&queue, 2, 1, 10, 0, 0));
    log->live[1] = log->live[2] = true;
    assert_true(queue_recover_message(&queue, 2, 2, 10, 0, 0)); /* twice: the newer one counts */
    assert_true(!log->live[1] && log->live[2]);
    assert_false(queue_recover_message(&queue, 2, 1, 10, 0, 0));
    assert_true(queue_recover_message(&queue, 1ull << 47, 3, 10, 0, 0));
    assert_false(queue_recover_message(&queue, (1ull << 47) + 1, 4, 10, 0, 0)); /* not promised */
    assert_false(queue_recover_message(&queue, UINT64_MAX, 5, 10, 0, 0));
    queue_recover_settled(&queue, 2, 11);
    assert_false(log->live[2]);
    assert_int_equal(queue_recover_end(&queue), (1ull << 47) - 11);
    assert_int_equal(queue.ready, 1);
    queue_check(&queue);
    queue_abandon(&queue);
    queue_fini(&queue);
    queue_host_fini(&host);
    account_fini(&memory);
    free(log);
    loop_free(loop);
}

/* A directory that an older program wrote. */
static void states_of_version_1_are_read(void **state)
{
    struct loop *loop = loop_new_simulated(1);
    struct account memory;
    struct queue queue;
    struct memory_log *log = memory_log_new(loop);

    (void)state;
    account_init(&memory, NULL, 0);
    host = (struct queue_host){.loop = loop, .log = &log->log, .memory = &memory};
    queue_host_init(&host);
    queue_init(&queue, &host, TEST_LOG_QUEUE, &log->log);
    /* next 5, mark 1, one run: 2 to 3; sequence 3 has 4 returns */
    assert_int_equal(queue_recover_state(&queue, slice_of("\1\5\1\1\2\1\1\3\4", 9)), 0);
    assert_false(queue_recover_message(&queue, 1, 1, 1, 0, 0));
    assert_true(queue_recover_message(&queue, 2, 2, 1, 0, 0));
    assert_true(queue_recover_message(&queue, 3, 3, 1, 0, 0));
    assert_int_equal(queue_recover_end(&queue), 0);
    assert_int_equal(queue.ready, 2);
    queue_check(&queue);
    queue_abandon(&queue);
    queue_fini(&queue);
    queue_host_fini(&host);
    account_fini(&memory);
    free(log);
    loop_free(loop);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(behaves_as_the_model),
        cmocka_unit_test(one_old_message),
        cmocka_unit_test(broken_states_are_refused),
        cmocka_unit_test(states_of_version_1_are_read),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
