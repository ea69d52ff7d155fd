#include "loop/mail.h"

#include "base/assert.h"
#include "base/buffer.h"
#include "base/memory.h"
#include "loop/loop_private.h"
#include "loop/real.h"
#include "loop/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

#define MEMBERS 4

enum { NUMBERED = 1, RUN, BODY, LARGE, TOTAL };

struct numbered {
    uint64_t number;
    uint8_t filler[];
};

/* A member that checks that each sender's letters come in order, whole, and within its parcels. */
struct member {
    struct mailbox *box;
    struct loop *loop;
    uint64_t sent[MEMBERS], received[MEMBERS];
    uint64_t accepted_stamp, asked_stamp;
    int open_from; /* -1: no parcel is open */
    uint64_t parcels, dropped, total, large_bytes;
    struct mailbox *closes; /* by the next letter */
    char *history;
    size_t history_size;
};

static size_t size_of_letter(uint64_t number)
{
    return sizeof(struct numbered) + number * 31 % 97;
}

static void fill_numbered(struct numbered *letter, uint64_t number)
{
    assert_int_equal((uintptr_t)letter % 8, 0);
    letter->number = number;
    memset(letter->filler, (int)(number & 0xff), size_of_letter(number) - sizeof *letter);
}

static void write_numbered(struct member *from, unsigned to)
{
    uint64_t number = from->sent[to]++;

    fill_numbered(mail_write(from->box, to, NUMBERED, size_of_letter(number)), number);
}

static void add_numbered(struct member *from, unsigned to)
{
    uint64_t number = from->sent[to]++;

    fill_numbered(mail_add(from->box, to, RUN, size_of_letter(number)), number);
}

/* Some are letters of their own, some are items of runs. */
static void write_either(struct member *from, unsigned to)
{
    if (from->sent[to] % 13 < 5)
        write_numbered(from, to);
    else
        add_numbered(from, to);
}

static void write_body(struct member *from, unsigned to, struct buffer *buffer)
{
    struct buffer **letter = mail_write(from->box, to, BODY, sizeof *letter);

    from->sent[to]++;
    *letter = buffer_ref(buffer);
}

static void check_numbered(const struct member *member, unsigned from, struct slice bytes)
{
    const struct numbered *letter = (const void *)bytes.data;

    ASSERT((uintptr_t)bytes.data % 8 == 0);
    ASSERT(letter->number == member->received[from]);
    ASSERT(bytes.size == size_of_letter(letter->number));
    for (size_t i = 0; i < bytes.size - sizeof *letter; i++)
        ASSERT(letter->filler[i] == (uint8_t)letter->number);
}

static void check_run(struct member *member, unsigned from, struct slice bytes)
{
    ASSERT(bytes.size > 0 && bytes.size <= MAIL_RUN_MAX);
    while (bytes.size > 0) {
        size_t size = size_of_letter(member->received[from]);
        size_t room = (size + 7) & ~(size_t)7;
        ASSERT(room <= bytes.size);
        check_numbered(member, from, slice_of(bytes.data, size));
        member->received[from]++;
        bytes = slice_of(bytes.data + room, bytes.size - room);
    }
    member->received[from]--; /* the caller counts one */
}

static void on_received(void *context, unsigned from, unsigned kind, struct slice bytes)
{
    struct member *member = context;

    ASSERT(member->open_from == (int)from);
    if (kind == NUMBERED)
        check_numbered(member, from, bytes);
    if (kind == RUN)
        check_run(member, from, bytes);
    if (kind == BODY)
        buffer_unref(*(struct buffer *const *)(const void *)bytes.data);
    if (kind == TOTAL)
        member->total += *(const uint64_t *)(const void *)bytes.data;
    if (kind == LARGE) {
        member->large_bytes += bytes.size;
        for (size_t i = 0; i < bytes.size; i++)
            ASSERT(bytes.data[i] == (uint8_t)(i * 7));
    }
    member->received[from]++;
    if (member->closes) {
        mailbox_close(member->closes);
        member->closes = member->box = NULL;
        member->received[from]--;
        check_numbered(member, from, bytes); /* still good */
        member->received[from]++;
    }
}

static bool on_accepts(void *context, unsigned from, uint64_t stamp)
{
    struct member *member = context;

    (void)from;
    ASSERT(member->open_from == -1);
    member->asked_stamp = stamp;
    return stamp <= member->accepted_stamp;
}

static void on_opened(void *context, unsigned from)
{
    struct member *member = context;

    ASSERT(member->open_from == -1);
    member->open_from = (int)from;
    member->parcels++;
    if (member->history)
        member->history[member->history_size++] = (char)('0' + from);
}

static void on_closed(void *context, unsigned from)
{
    struct member *member = context;

    ASSERT(member->open_from == (int)from);
    member->open_from = -1;
}

static void on_dropped(void *context, unsigned kind, struct slice bytes)
{
    struct member *member = context;

    if (kind == BODY)
        buffer_unref(*(struct buffer *const *)(const void *)bytes.data);
    if (member)
        member->dropped++;
}

static const struct mail_events events = {
    .received = on_received,
    .accepts = on_accepts,
    .opened = on_opened,
    .closed = on_closed,
    .dropped = on_dropped,
};

static void member_open(struct member *member, struct office *office, unsigned index,
                        struct loop *loop)
{
    *member = (struct member){.loop = loop, .open_from = -1, .accepted_stamp = UINT64_MAX};
    member->box = mailbox_open(office, index, loop, &events, member);
    assert_int_equal(mailbox_member(member->box), index);
    assert_int_equal(mailbox_members(member->box), MEMBERS);
}

struct town {
    struct loop *loop;           /* the first member's */
    struct loop *loops[MEMBERS]; /* each its own, or all the same */
    struct office *office;
    struct member members[MEMBERS];
};

static void town_open_on(struct town *town, struct loop *const *loops)
{
    town->loop = loops[0];
    town->office = office_new(MEMBERS);
    for (unsigned i = 0; i < MEMBERS; i++) {
        town->loops[i] = loops[i];
        member_open(&town->members[i], town->office, i, loops[i]);
    }
}

static void town_open(struct town *town, uint64_t seed)
{
    struct loop *loop = loop_new_simulated(seed);

    town_open_on(town, (struct loop *[]){loop, loop, loop, loop});
}

static void town_open_apart(struct town *town, uint64_t seed)
{
    struct loop *loops[MEMBERS] = {loop_new_simulated(seed)};

    for (unsigned i = 1; i < MEMBERS; i++)
        loops[i] = loop_new_simulated_beside(loops[0]);
    town_open_on(town, loops);
}

/* In an order by chance, as a crash may find it. */
static void town_close(struct town *town)
{
    unsigned first = (unsigned)(loop_random(town->loop) % MEMBERS);

    for (unsigned n = 0; n < MEMBERS; n++) {
        unsigned i = (first + n) % MEMBERS;
        if (town->members[i].box)
            mailbox_close(town->members[i].box);
        if (n == MEMBERS - 1 || town->loops[0] != town->loops[1])
            loop_free(town->loops[i]);
    }
    office_free(town->office);
}

/* ---- in simulation ---- */

static void a_turns_letters_make_one_parcel(void **state)
{
    struct town town;

    (void)state;
    town_open(&town, 1);
    for (int i = 0; i < 1000; i++)
        write_numbered(&town.members[0], 1);
    write_numbered(&town.members[2], 1);
    assert_int_equal(town.members[1].received[0], 0);
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(town.members[1].received[0], 1000);
    assert_int_equal(town.members[1].received[2], 1);
    assert_int_equal(town.members[1].parcels, 2);
    assert_int_equal(town.members[3].parcels, 0);

    const struct mail_statistics *sent = mailbox_statistics(town.members[0].box);
    const struct mail_statistics *other = mailbox_statistics(town.members[2].box);
    assert_int_equal(sent->letters_sent, 1000);
    assert_int_equal(sent->parcels_sent, 1);
    assert_true(sent->bytes_sent > 1000 * 24 && sent->bytes_sent < 1000 * 128);
    assert_int_equal(sent->wakes + other->wakes, 1); /* one bell for both */
    assert_int_equal(mailbox_statistics(town.members[1].box)->letters_received, 1001);
    town_close(&town);
}

static void items_of_a_kind_become_one_letter(void **state)
{
    struct town town;

    (void)state;
    town_open(&town, 1);
    add_numbered(&town.members[0], 1);
    add_numbered(&town.members[0], 1);
    add_numbered(&town.members[0], 2); /* to somebody else: that does not part them */
    add_numbered(&town.members[0], 1);
    assert_null(mail_last(town.members[0].box, 1, NUMBERED));
    assert_non_null(mail_last(town.members[0].box, 1, RUN));
    write_numbered(&town.members[0], 1); /* this does */
    add_numbered(&town.members[0], 1);
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(mailbox_statistics(town.members[0].box)->letters_sent, 4);
    assert_int_equal(town.members[1].received[0], 5);
    assert_int_equal(town.members[2].received[0], 1);
    /* what has gone off is not added to, and none gets long */
    for (int i = 0; i < 1000; i++)
        add_numbered(&town.members[0], 1);
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(town.members[1].received[0], 1005);
    uint64_t letters = mailbox_statistics(town.members[0].box)->letters_sent - 4;
    assert_true(letters > 1000 * 24 / MAIL_RUN_MAX && letters < 100);
    town_close(&town);
}

static void letters_of_every_size_arrive_whole(void **state)
{
    static const size_t sizes[] = {0,    1,    7,    8,     4000,           4032,
                                   4040, 4048, 5000, 65536, MAIL_LETTER_MAX};
    struct town town;

    (void)state;
    town_open(&town, 2);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
            uint8_t *bytes = mail_write(town.members[3].box, 0, LARGE, sizes[i]);
            for (size_t at = 0; at < sizes[i]; at++)
                bytes[at] = (uint8_t)(at * 7);
        }
        assert_true(simulated_run_idle(town.loop, 1000));
    }
    assert_int_equal(town.members[0].received[3], 33);
    assert_int_equal(town.members[0].large_bytes,
                     3 * (16 + 4000 + 4032 + 4040 + 4048 + 5000 + 65536 + MAIL_LETTER_MAX));
    town_close(&town);
}

static void the_last_letter_may_be_added_to(void **state)
{
    struct town town;

    (void)state;
    town_open(&town, 3);
    struct mailbox *box = town.members[0].box;
    assert_null(mail_last(box, 1, TOTAL));
    uint64_t *total = mail_write(box, 1, TOTAL, sizeof *total);
    *total = 1;
    assert_ptr_equal(mail_last(box, 1, TOTAL), total);
    assert_null(mail_last(box, 1, NUMBERED));
    assert_null(mail_last(box, 2, TOTAL));
    *(uint64_t *)mail_last(box, 1, TOTAL) += 41;
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(town.members[1].total, 42);
    assert_null(mail_last(box, 1, TOTAL)); /* it has gone off */
    town_close(&town);
}

static void a_parcel_waits_until_its_stamp_is_accepted(void **state)
{
    struct town town;
    struct member *reader = &town.members[1];

    (void)state;
    town_open(&town, 4);
    reader->accepted_stamp = 4;
    write_numbered(&town.members[0], 1);
    mailbox_stamp(town.members[0].box, 5); /* holds for the whole parcel: it has not gone off */
    assert_true(simulated_run_idle(town.loop, 1000));
    mailbox_stamp(town.members[0].box, 3);
    write_numbered(&town.members[0], 1); /* stays behind the first */
    write_numbered(&town.members[2], 1); /* others are not held up */
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(reader->asked_stamp, 0);
    assert_int_equal(reader->received[0], 0);
    assert_int_equal(reader->received[2], 1);

    mailbox_retry(reader->box);
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(reader->received[0], 0);
    assert_int_equal(reader->asked_stamp, 5);
    reader->accepted_stamp = 5;
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(reader->received[0], 0); /* nobody has said so */
    mailbox_retry(reader->box);
    assert_int_equal(reader->received[0], 0); /* in a later turn */
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(reader->received[0], 2);
    town_close(&town);
}

/* on_received() checks that no other parcel is opened meanwhile. */
static void a_long_parcel_is_read_over_several_turns(void **state)
{
    struct town town;
    struct member *reader = &town.members[1];

    (void)state;
    town_open(&town, 5);
    simulated_options(town.loop)->jump_ppm = 1000000; /* looking at the clock takes time */
    for (int i = 0; i < 1000; i++)
        write_numbered(&town.members[0], 1);
    write_numbered(&town.members[2], 1);
    unsigned slices = 0;
    for (uint64_t seen = 0; reader->received[0] < 1000;) {
        assert_true(simulated_run_turns(town.loop, 1));
        slices += reader->received[0] > seen;
        assert_true(reader->received[0] - seen < 500);
        seen = reader->received[0];
    }
    assert_true(slices >= 4);
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(reader->received[2], 1);
    town_close(&town);
}

/* Runs are letters of many things: how much is read at once does not depend on how it is packed. */
static void long_runs_are_read_over_several_turns(void **state)
{
    struct town town;
    struct member *reader = &town.members[1];

    (void)state;
    town_open(&town, 5);
    simulated_options(town.loop)->jump_ppm = 1000000;
    for (int i = 0; i < 20000; i++)
        add_numbered(&town.members[0], 1);
    unsigned slices = 0;
    for (uint64_t seen = 0; reader->received[0] < 20000;) {
        assert_true(simulated_run_turns(town.loop, 1));
        slices += reader->received[0] > seen;
        assert_true(reader->received[0] - seen < 4000);
        seen = reader->received[0];
    }
    assert_true(slices >= 10);
    town_close(&town);
}

static void write_some(struct town *town, unsigned count, struct buffer *body)
{
    for (unsigned i = 0; i < count; i++) {
        unsigned from = (unsigned)(loop_random(town->loop) % MEMBERS);
        unsigned to = (unsigned)(loop_random(town->loop) % MEMBERS);
        if (from != to && i % 8 == 0)
            write_body(&town->members[from], to, body);
        else if (from != to)
            write_either(&town->members[from], to);
    }
}

/* Ends at the end, or in the middle. */
static void run_by_seed(uint64_t seed, bool apart, bool to_the_end, char *history, size_t *size)
{
    struct buffer *body = buffer_new(10);
    struct town town;

    if (apart)
        town_open_apart(&town, seed);
    else
        town_open(&town, seed);
    for (unsigned i = 0; i < MEMBERS; i++) {
        simulated_options(town.loops[i])->jump_ppm = 50000;
        simulated_options(town.loops[i])->pause_ppm = i * 10000;
    }
    town.members[1].history = history;
    for (int round = 0; round < 60; round++) {
        write_some(&town, 30, body);
        simulated_run_turns(town.loop, loop_random(town.loop) % 10);
    }
    if (to_the_end) {
        assert_true(simulated_run_idle(town.loop, 10000));
        for (unsigned from = 0; from < MEMBERS; from++) {
            for (unsigned to = 0; to < MEMBERS; to++)
                assert_int_equal(town.members[to].received[from], town.members[from].sent[to]);
        }
        assert_int_equal(body->references, 1);
    }
    *size = town.members[1].history_size;
    town_close(&town);
    assert_int_equal(body->references, 1);
    buffer_unref(body);
}

static void the_seed_decides_who_is_read_when(void **state)
{
    char history[3][512];
    size_t size[3];

    (void)state;
    for (int apart = 0; apart < 2; apart++) {
        run_by_seed(7, apart, true, history[0], &size[0]);
        run_by_seed(7, apart, true, history[1], &size[1]);
        run_by_seed(8, apart, true, history[2], &size[2]);
        assert_true(size[0] > 50 && size[0] < sizeof history[0]);
        assert_int_equal(size[0], size[1]);
        assert_memory_equal(history[0], history[1], size[0]);
        assert_true(size[0] != size[2] || memcmp(history[0], history[2], size[0]) != 0);
    }
}

static void many_seeds(void **state)
{
    char history[512];
    size_t size;

    (void)state;
    for (uint64_t seed = 10; seed < 110; seed++)
        run_by_seed(seed, seed % 4 != 0, seed % 3 != 0, history, &size);
}

static void letters_wait_for_who_has_not_opened(void **state)
{
    struct loop *loop = loop_new_simulated(6);
    struct office *office = office_new(MEMBERS);
    struct member members[2];

    (void)state;
    member_open(&members[0], office, 0, loop);
    for (int i = 0; i < 10; i++) {
        write_numbered(&members[0], 1);
        assert_true(simulated_run_idle(loop, 1000));
    }
    assert_int_equal(mailbox_statistics(members[0].box)->wakes, 0);
    member_open(&members[1], office, 1, loop);
    assert_int_equal(members[1].received[0], 0); /* in a later turn */
    assert_true(simulated_run_idle(loop, 1000));
    assert_int_equal(members[1].received[0], 10);
    write_numbered(&members[0], 1);
    assert_true(simulated_run_idle(loop, 1000));
    assert_int_equal(members[1].received[0], 11);
    mailbox_close(members[0].box);
    mailbox_close(members[1].box);
    loop_free(loop);
    office_free(office);
}

static void what_is_not_read_is_dropped(void **state)
{
    struct loop *loop = loop_new_simulated(6);
    struct office *office = office_new(MEMBERS);
    struct buffer *body = buffer_new(10);
    struct member members[3];

    (void)state;
    for (unsigned i = 0; i < 3; i++)
        member_open(&members[i], office, i, loop);
    members[1].accepted_stamp = 0;
    mailbox_stamp(members[0].box, 1);
    write_body(&members[0], 1, body); /* waits, not accepted */
    assert_true(simulated_run_idle(loop, 1000));
    write_body(&members[0], 1, body); /* arrived, not sorted */
    write_body(&members[2], 1, body);
    write_body(&members[0], 2, body); /* the bell of 2 is rung when it closes */
    write_body(&members[0], 3, body); /* never opens */
    assert_true(simulated_run_turns(loop, 1));
    assert_int_equal(members[1].received[2] + members[2].received[0], 0);
    write_body(&members[1], 0, body); /* not gone off */
    assert_int_equal(body->references, 7);
    mailbox_close(members[1].box);
    assert_int_equal(members[1].dropped, 4);
    mailbox_close(members[2].box);
    assert_int_equal(members[2].dropped, 1);
    write_body(&members[0], 1, body); /* nobody reads any more */
    assert_true(simulated_run_idle(loop, 1000));
    assert_int_equal(body->references, 3);
    mailbox_close(members[0].box);
    loop_free(loop);
    office_free(office);
    assert_int_equal(body->references, 1);
    buffer_unref(body);
}

static void a_box_may_be_closed_while_it_is_read(void **state)
{
    struct town town;
    struct member *reader = &town.members[1];

    (void)state;
    town_open(&town, 9);
    for (int i = 0; i < 300; i++)
        write_numbered(&town.members[0], 1);
    write_numbered(reader, 0);
    simulated_run_turns(town.loop, 1);
    reader->closes = reader->box;
    assert_true(simulated_run_idle(town.loop, 1000));
    assert_int_equal(reader->received[0], 1);
    assert_int_equal(reader->dropped, 299);
    assert_int_equal(town.members[0].received[1], 1);
    town_close(&town);
}

/* ---- with threads ---- */

#define LETTERS    100000u /* from each to each */
#define AHEAD_MAX  2000u   /* not yet answered: who writes has paid in advance */
#define BODY_EVERY 64u

struct worker {
    struct member member;
    struct office *office;
    struct loop *loop;
    struct task write;
    struct post stop;
    struct worker *all;
    _Atomic unsigned *working;
    struct buffer *body;
    pthread_t thread;
    unsigned index;
    uint64_t answered[MEMBERS], to_answer[MEMBERS];
    bool is_done;
};

static void stop_run(struct post *post)
{
    loop_stop(CONTAINER_OF(post, struct worker, stop)->loop);
}

static void look_whether_done(struct worker *worker)
{
    for (unsigned other = 0; other < MEMBERS; other++) {
        if (other != worker->index &&
            (worker->answered[other] < LETTERS || worker->member.received[other] < LETTERS))
            return;
    }
    if (worker->is_done)
        return;
    worker->is_done = true;
    if (atomic_fetch_sub(worker->working, 1) > 1)
        return;
    for (unsigned i = 0; i < MEMBERS; i++)
        loop_post(worker->all[i].loop, &worker->all[i].stop);
}

static void worker_write(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, write);
    struct member *member = &worker->member;
    bool is_more = false;

    for (unsigned to = 0; to < MEMBERS; to++) {
        if (to == worker->index)
            continue;
        if (worker->to_answer[to] > 0) {
            uint64_t *count = mail_last(member->box, to, TOTAL);
            if (!count)
                *(count = mail_write(member->box, to, TOTAL, sizeof *count)) = 0;
            *count += worker->to_answer[to];
            worker->to_answer[to] = 0;
        }
        for (unsigned i = 0; i < 100 && member->sent[to] < LETTERS &&
                             member->sent[to] - worker->answered[to] < AHEAD_MAX;
             i++) {
            if (member->sent[to] % BODY_EVERY == 0)
                write_body(member, to, worker->body);
            else
                write_either(member, to);
        }
        is_more |=
            member->sent[to] < LETTERS && member->sent[to] - worker->answered[to] < AHEAD_MAX;
    }
    if (is_more)
        loop_defer(worker->loop, task, LOOP_DISPATCH);
    look_whether_done(worker);
}

static void worker_received(void *context, unsigned from, unsigned kind, struct slice bytes)
{
    struct worker *worker = context;

    if (kind == TOTAL) {
        worker->answered[from] += *(const uint64_t *)(const void *)bytes.data;
    } else {
        uint64_t before = worker->member.received[from];
        on_received(&worker->member, from, kind, bytes);
        worker->to_answer[from] += worker->member.received[from] - before;
    }
    loop_defer(worker->loop, &worker->write, LOOP_DISPATCH);
}

static void worker_opened(void *context, unsigned from)
{
    on_opened(&((struct worker *)context)->member, from);
}

static void worker_closed(void *context, unsigned from)
{
    on_closed(&((struct worker *)context)->member, from);
}

static const struct mail_events worker_events = {
    .received = worker_received,
    .opened = worker_opened,
    .closed = worker_closed,
    .dropped = on_dropped,
};

static void *worker_run(void *argument)
{
    struct worker *worker = argument;

    worker->member.box =
        mailbox_open(worker->office, worker->index, worker->loop, &worker_events, worker);
    loop_defer(worker->loop, &worker->write, LOOP_DISPATCH);
    loop_run(worker->loop);
    mailbox_close(worker->member.box);
    return NULL;
}

static void print_totals(const struct worker *workers, uint64_t spent_ns)
{
    uint64_t letters = 0, parcels = 0, wakes = 0;

    for (unsigned i = 0; i < MEMBERS; i++) {
        const struct mail_statistics *statistics = mailbox_statistics(workers[i].member.box);
        letters += statistics->letters_sent;
        parcels += statistics->parcels_sent;
        wakes += statistics->wakes;
    }
    print_message("%llu letters in %llu parcels, %llu wakes, %llu ms\n",
                  (unsigned long long)letters, (unsigned long long)parcels,
                  (unsigned long long)wakes, (unsigned long long)(spent_ns / NANOSECONDS_PER_MS));
}

static void threads_write_to_each_other(void **state)
{
    struct worker workers[MEMBERS] = {0};
    struct office *office = office_new(MEMBERS);
    struct buffer *body = buffer_new(100);
    _Atomic unsigned working = MEMBERS;
    struct failure failure;

    (void)state;
    for (unsigned i = 0; i < MEMBERS; i++) {
        struct worker *worker = &workers[i];
        *worker = (struct worker){.office = office,
                                  .all = workers,
                                  .working = &working,
                                  .body = body,
                                  .index = i,
                                  .stop = {.run = stop_run},
                                  .member = {.open_from = -1}};
        task_init(&worker->write, worker_write);
        worker->loop = loop_new_real(&failure);
        assert_non_null(worker->loop);
    }
    uint64_t start_ns = loop_precise_ns(workers[0].loop);
    for (unsigned i = 0; i < MEMBERS; i++)
        assert_int_equal(pthread_create(&workers[i].thread, NULL, worker_run, &workers[i]), 0);
    for (unsigned i = 0; i < MEMBERS; i++)
        pthread_join(workers[i].thread, NULL);
    print_totals(workers, loop_precise_ns(workers[0].loop) - start_ns);
    for (unsigned i = 0; i < MEMBERS; i++) {
        for (unsigned from = 0; from < MEMBERS; from++)
            assert_int_equal(workers[i].member.received[from], from == i ? 0 : LETTERS);
        loop_free(workers[i].loop);
    }
    office_free(office);
    assert_int_equal(body->references, 1);
    buffer_unref(body);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_turns_letters_make_one_parcel),
        cmocka_unit_test(items_of_a_kind_become_one_letter),
        cmocka_unit_test(letters_of_every_size_arrive_whole),
        cmocka_unit_test(the_last_letter_may_be_added_to),
        cmocka_unit_test(a_parcel_waits_until_its_stamp_is_accepted),
        cmocka_unit_test(a_long_parcel_is_read_over_several_turns),
        cmocka_unit_test(long_runs_are_read_over_several_turns),
        cmocka_unit_test(the_seed_decides_who_is_read_when),
        cmocka_unit_test(many_seeds),
        cmocka_unit_test(letters_wait_for_who_has_not_opened),
        cmocka_unit_test(what_is_not_read_is_dropped),
        cmocka_unit_test(a_box_may_be_closed_while_it_is_read),
        cmocka_unit_test(threads_write_to_each_other),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
