/*
 * A *parcel* is a chain of *chunks*, and the letters lie in them one behind the other. Its first
 * chunk also says whom it is from.
 *
 * Each box has one lock-free list `arrived`, newest first, onto which senders push parcels and
 * which its owner takes whole. Whoever finds the list empty rings the bell, so it is rung once
 * until it has been answered. The lowest bit of the list's head is DEAF: nobody is to be rung,
 * because the box is not open yet, or no more. So one atomic word decides who rings, and opening
 * and closing cannot miss a parcel.
 *
 * The owner sorts what has arrived by sender, and reads the senders' oldest parcels in turn. An
 * emptied chunk goes back to its sender through another such list, as long as that has few.
 */
#include "loop/mail.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/loop_private.h"

#include <stdatomic.h>
#include <stdlib.h>

#define CHUNK_MIN       4096u
#define CHUNK_MAX       65536u
#define SPARE_BYTES_MAX 65536u /* waiting to be used again, of each pair of members */
#define LINE            64     /* of the processor's cache */
#define DEAF            ((uintptr_t)1)
#define LETTERS_A_LOOK  4      /* read between two looks at the clock, */
#define BYTES_A_LOOK    16384u /* or so many: a letter may be a run of many things */

struct chunk {
    struct chunk *next; /* of the parcel, or of a list of spare ones */
    uint32_t capacity, used;

    /* Of a parcel's first chunk. */
    struct chunk *next_parcel;
    uint64_t stamp;
    uint32_t from, letters;

    _Alignas(8) uint8_t bytes[];
};

struct letter {
    uint32_t size, kind;
    uint8_t bytes[]; /* up to a multiple of 8 */
};

_Static_assert(sizeof(struct letter) == 8, "letters are aligned to 8");

static inline size_t round_up(size_t size)
{
    return (size + 7) & ~(size_t)7;
}

static inline size_t letter_room(size_t size)
{
    return sizeof(struct letter) + round_up(size);
}

/* What is being written to one member. */
struct outbound {
    struct chunk *first, *last; /* the parcel that has not gone off */
    struct letter *letter;      /* its last one */
    struct chunk *spare;

    /* The other member's end. */
    _Alignas(LINE) _Atomic(struct chunk *) emptied;
    _Atomic uint32_t emptied_bytes;
};

/* What has arrived from one member. */
struct inbound {
    struct list ready; /* in mailbox.ready */
    struct chunk *first, **end;
    bool is_held; /* accepts() has said no */
};

enum box_state { BOX_NEW, BOX_OPEN, BOX_CLOSED };

struct mailbox {
    struct office *office;
    struct loop *loop;
    const struct mail_events *events;
    void *context;
    unsigned member;
    enum box_state state;
    uint64_t stamp;
    struct mail_statistics statistics;

    struct outbound *out;
    struct task flush;
    unsigned *touched; /* members with something to go off */
    unsigned touched_count;

    struct inbound *in;
    struct list ready; /* by inbound.ready: whose oldest parcel may be opened */
    unsigned ready_count;
    struct timer go_on;
    bool is_reading;
    unsigned reading_from;
    struct chunk *reading; /* of the parcel that is open; NULL: none */
    uint32_t reading_at;
    struct chunk *remains; /* of a closed box: freed with the office */

    /* Everybody's. */
    _Alignas(LINE) _Atomic uintptr_t arrived;
    struct post bell;
};

struct office {
    unsigned members;
    struct mailbox *boxes;
};

/* ---- chunks ---- */

static struct chunk *chunk_new(size_t room)
{
    struct chunk *chunk = malloc(sizeof *chunk + room);

    ASSERT(chunk && room <= UINT32_MAX);
    chunk->capacity = (uint32_t)room;
    return chunk;
}

static void chunks_free(struct chunk *chunk)
{
    while (chunk) {
        struct chunk *next = chunk->next;
        free(chunk);
        chunk = next;
    }
}

/* For a letter of `room` bytes; `before` is the parcel's last one. */
static struct chunk *chunk_take(struct outbound *out, size_t room, const struct chunk *before)
{
    if (!out->spare &&
        (out->spare = atomic_exchange_explicit(&out->emptied, NULL, memory_order_acquire)) != NULL)
        atomic_store_explicit(&out->emptied_bytes, 0, memory_order_relaxed);
    struct chunk *chunk = out->spare;
    if (chunk && chunk->capacity >= room) {
        out->spare = chunk->next;
        return chunk;
    }
    size_t whole = before ? 2 * (before->capacity + sizeof *before) : CHUNK_MIN;
    whole = whole < CHUNK_MAX ? whole : CHUNK_MAX;
    return chunk_new(room > whole - sizeof *chunk ? room : whole - sizeof *chunk);
}

/* To its sender, unless that has enough. Its count may be out of date: then there are a few more or
 * less. */
static void chunk_give_back(struct outbound *out, struct chunk *chunk)
{
    uint32_t bytes = atomic_load_explicit(&out->emptied_bytes, memory_order_relaxed);

    if (bytes + chunk->capacity > SPARE_BYTES_MAX) {
        free(chunk);
        return;
    }
    atomic_fetch_add_explicit(&out->emptied_bytes, chunk->capacity, memory_order_relaxed);
    chunk->next = atomic_load_explicit(&out->emptied, memory_order_relaxed);
    while (!atomic_compare_exchange_weak_explicit(&out->emptied, &chunk->next, chunk,
                                                  memory_order_release, memory_order_relaxed))
        ;
}

/* ---- writing ---- */

static void chunk_begin(struct mailbox *box, unsigned to, size_t room)
{
    struct outbound *out = &box->out[to];
    struct chunk *chunk = chunk_take(out, room, out->last);

    chunk->next = NULL;
    chunk->used = 0;
    if (out->last) {
        out->last->next = chunk;
    } else {
        out->first = chunk;
        chunk->from = box->member;
        chunk->letters = 0;
        box->touched[box->touched_count++] = to;
        loop_defer(box->loop, &box->flush, LOOP_FLUSH);
    }
    out->last = chunk;
}

static struct letter *letter_begin(struct outbound *out, uint32_t room, unsigned kind, size_t size)
{
    struct letter *letter = (void *)(out->last->bytes + out->last->used);

    out->last->used += room;
    out->first->letters++;
    out->letter = letter;
    *letter = (struct letter){.size = (uint32_t)size, .kind = kind};
    return letter;
}

/* Apart, so that what most letters need is short. */
static void *__attribute__((noinline))
write_into_new_chunk(struct mailbox *box, unsigned to, unsigned kind, size_t size)
{
    size_t room = letter_room(size);

    ASSERT(box->state == BOX_OPEN && to != box->member);
    chunk_begin(box, to, room);
    return letter_begin(&box->out[to], (uint32_t)room, kind, size)->bytes;
}

void *mail_write(struct mailbox *box, unsigned to, unsigned kind, size_t size)
{
    struct outbound *out = &box->out[to];
    size_t room = letter_room(size);

    ASSERT(to < box->office->members && size <= MAIL_LETTER_MAX);
    if (!out->last || out->last->capacity - out->last->used < room)
        return write_into_new_chunk(box, to, kind, size);
    return letter_begin(out, (uint32_t)room, kind, size)->bytes;
}

void *mail_add(struct mailbox *box, unsigned to, unsigned kind, size_t size)
{
    struct outbound *out = &box->out[to];
    size_t room = round_up(size);

    ASSERT(to < box->office->members && size <= MAIL_LETTER_MAX);
    struct letter *letter = out->letter;
    if (!letter || letter->kind != kind || letter->size + room > MAIL_RUN_MAX ||
        out->last->capacity - out->last->used < room)
        return mail_write(box, to, kind, room);
    uint8_t *item = letter->bytes + letter->size;
    letter->size += (uint32_t)room;
    out->last->used += (uint32_t)room;
    return item;
}

void *mail_last(struct mailbox *box, unsigned to, unsigned kind)
{
    struct letter *letter = box->out[to].letter;

    return letter && letter->kind == kind ? letter->bytes : NULL;
}

void mailbox_stamp(struct mailbox *box, uint64_t stamp)
{
    box->stamp = stamp;
}

static void parcel_send(struct mailbox *box, unsigned to)
{
    struct outbound *out = &box->out[to];
    struct mailbox *receiver = &box->office->boxes[to];
    struct chunk *parcel = out->first;
    uintptr_t newest = atomic_load_explicit(&receiver->arrived, memory_order_relaxed);

    parcel->stamp = box->stamp;
    box->statistics.parcels_sent++;
    box->statistics.letters_sent += parcel->letters;
    for (const struct chunk *chunk = parcel; chunk; chunk = chunk->next)
        box->statistics.bytes_sent += chunk->used;
    out->first = out->last = NULL;
    out->letter = NULL;
    do {
        parcel->next_parcel = (struct chunk *)(newest & ~DEAF);
    } while (!atomic_compare_exchange_weak_explicit(&receiver->arrived, &newest,
                                                    (uintptr_t)parcel | (newest & DEAF),
                                                    memory_order_acq_rel, memory_order_relaxed));
    if (newest == 0) {
        box->statistics.wakes++;
        loop_post(receiver->loop, &receiver->bell);
    }
}

static void flush_run(struct task *task)
{
    struct mailbox *box = CONTAINER_OF(task, struct mailbox, flush);

    for (unsigned i = 0; i < box->touched_count; i++)
        parcel_send(box, box->touched[i]);
    box->touched_count = 0;
}

/* ---- reading ---- */

static void make_ready(struct mailbox *box, struct inbound *in)
{
    if (list_linked(&in->ready) || in->is_held || !in->first)
        return;
    list_append(&box->ready, &in->ready);
    box->ready_count++;
}

/* Sorts a list of parcels, newest first, by sender. */
static void sort_arrived(struct mailbox *box, struct chunk *newest)
{
    struct chunk *oldest = NULL;

    while (newest) {
        struct chunk *next = newest->next_parcel;
        newest->next_parcel = oldest;
        oldest = newest;
        newest = next;
    }
    while (oldest) {
        struct chunk *next = oldest->next_parcel;
        struct inbound *in = &box->in[oldest->from];
        oldest->next_parcel = NULL;
        *in->end = oldest;
        in->end = &oldest->next_parcel;
        make_ready(box, in);
        oldest = next;
    }
}

/* The sender whose parcel is next: who has waited longest; in simulation anyone. */
static struct inbound *next_ready(struct mailbox *box)
{
    if (box->ready_count == 0)
        return NULL;
    unsigned skip = box->loop->functions->choose(box->loop, box->ready_count);
    struct list *link = box->ready.next;
    while (skip-- > 0)
        link = link->next;
    list_remove(link);
    box->ready_count--;
    return CONTAINER_OF(link, struct inbound, ready);
}

/* Opens the next parcel that may be opened. */
static bool parcel_open(struct mailbox *box)
{
    const struct mail_events *events = box->events;
    struct inbound *in;

    while ((in = next_ready(box)) != NULL) {
        struct chunk *parcel = in->first;
        in->is_held =
            events->accepts && !events->accepts(box->context, parcel->from, parcel->stamp);
        if (box->state != BOX_OPEN)
            return false;
        if (in->is_held)
            continue;
        in->first = parcel->next_parcel;
        if (!in->first)
            in->end = &in->first;
        box->statistics.letters_received += parcel->letters;
        box->reading = parcel;
        box->reading_from = parcel->from;
        box->reading_at = 0;
        if (events->opened)
            events->opened(box->context, box->reading_from);
        return box->state == BOX_OPEN;
    }
    return false;
}

static bool is_late(struct mailbox *box, uint64_t start_ns)
{
    return loop_precise_ns(box->loop) - start_ns >= JOB_SLICE_NS;
}

/* One slice, and what has been read in it since the last look at the clock. */
struct reading {
    uint64_t start_ns;
    size_t letters, bytes;
};

static bool is_enough_after(struct mailbox *box, struct reading *reading, size_t room)
{
    reading->letters++;
    reading->bytes += room;
    if (reading->letters < LETTERS_A_LOOK && reading->bytes < BYTES_A_LOOK)
        return false;
    reading->letters = reading->bytes = 0;
    return is_late(box, reading->start_ns);
}

/* True when the chunk has been read. */
static bool chunk_read(struct mailbox *box, struct chunk *chunk, struct reading *reading)
{
    while (box->reading_at < chunk->used) {
        struct letter *letter = (void *)(chunk->bytes + box->reading_at);
        size_t room = letter_room(letter->size);
        box->reading_at += (uint32_t)room;
        box->events->received(box->context, box->reading_from, letter->kind,
                              slice_of(letter->bytes, letter->size));
        if (box->state != BOX_OPEN || is_enough_after(box, reading, room))
            return false;
    }
    return true;
}

/* Reads the open parcel. True when it is at its end, and closed. */
static bool parcel_read(struct mailbox *box, struct reading *reading)
{
    struct outbound *theirs = &box->office->boxes[box->reading_from].out[box->member];

    while (box->reading) {
        struct chunk *chunk = box->reading;
        if (!chunk_read(box, chunk, reading))
            return false;
        box->reading = chunk->next;
        box->reading_at = 0;
        chunk_give_back(theirs, chunk);
    }
    make_ready(box, &box->in[box->reading_from]);
    if (box->events->closed)
        box->events->closed(box->context, box->reading_from);
    return box->state == BOX_OPEN;
}

/* A parcel that is not at its end stays open, and is gone on with before any other is opened. */
static void read_some(struct mailbox *box)
{
    struct reading reading = {.start_ns = loop_precise_ns(box->loop)};
    bool is_enough = false;

    box->is_reading = true;
    while (!is_enough && (box->reading || parcel_open(box))) {
        if (!parcel_read(box, &reading))
            break;
        /* in simulation a receiver may also have enough for no reason */
        is_enough =
            is_late(box, reading.start_ns) || box->loop->functions->choose(box->loop, 4) == 3;
    }
    box->is_reading = false;
    if (box->state == BOX_OPEN && (box->reading || box->ready_count > 0))
        timer_set(&box->go_on, box->loop->now_ns);
}

static void go_on(struct timer *timer)
{
    read_some(CONTAINER_OF(timer, struct mailbox, go_on));
}

static void bell_run(struct post *bell)
{
    struct mailbox *box = CONTAINER_OF(bell, struct mailbox, bell);

    if (box->state != BOX_OPEN)
        return;
    sort_arrived(box,
                 (struct chunk *)atomic_exchange_explicit(&box->arrived, 0, memory_order_acq_rel));
    if (!timer_is_set(&box->go_on)) /* or it has had its slice, and the rest is for this turn's */
        read_some(box);
}

void mailbox_retry(struct mailbox *box)
{
    for (unsigned from = 0; from < box->office->members; from++) {
        struct inbound *in = &box->in[from];
        if (!in->is_held)
            continue;
        in->is_held = false;
        make_ready(box, in);
    }
    if (box->ready_count > 0 && !box->is_reading && !timer_is_set(&box->go_on))
        timer_set(&box->go_on, box->loop->now_ns);
}

/* ---- start and end ---- */

static void *lines_new(size_t count, size_t size)
{
    void *memory = aligned_alloc(LINE, count * size);

    ASSERT(memory);
    memset(memory, 0, count * size);
    return memory;
}

_Static_assert(sizeof(struct mailbox) % LINE == 0 && sizeof(struct outbound) % LINE == 0,
               "whole cache lines");

static void box_init(struct mailbox *box, struct office *office, unsigned member)
{
    box->office = office;
    box->member = member;
    box->out = lines_new(office->members, sizeof *box->out);
    box->touched = memory_new(office->members * sizeof *box->touched);
    box->in = memory_new(office->members * sizeof *box->in);
    for (unsigned from = 0; from < office->members; from++) {
        list_init(&box->in[from].ready);
        box->in[from].end = &box->in[from].first;
    }
    list_init(&box->ready);
    task_init(&box->flush, flush_run);
    box->bell.run = bell_run;
    atomic_init(&box->arrived, DEAF);
}

struct office *office_new(unsigned members)
{
    struct office *office = memory_new(sizeof *office);

    ASSERT(members > 0 && members <= MAIL_MEMBERS_MAX);
    office->members = members;
    office->boxes = lines_new(members, sizeof *office->boxes);
    for (unsigned member = 0; member < members; member++)
        box_init(&office->boxes[member], office, member);
    return office;
}

struct mailbox *mailbox_open(struct office *office, unsigned member, struct loop *loop,
                             const struct mail_events *events, void *context)
{
    ASSERT(member < office->members);
    struct mailbox *box = &office->boxes[member];

    ASSERT(box->state == BOX_NEW);
    box->loop = loop;
    box->events = events;
    box->context = context;
    box->state = BOX_OPEN;
    timer_init(&box->go_on, loop, go_on);
    uintptr_t arrived = atomic_exchange_explicit(&box->arrived, 0, memory_order_acq_rel);
    sort_arrived(box, (struct chunk *)(arrived & ~DEAF));
    if (box->ready_count > 0)
        timer_set(&box->go_on, loop->now_ns);
    return box;
}

static void letters_drop(const struct mail_events *events, void *context, const struct chunk *chunk,
                         uint32_t at)
{
    for (; chunk; chunk = chunk->next, at = 0) {
        while (at < chunk->used) {
            const struct letter *letter = (const void *)(chunk->bytes + at);
            at += (uint32_t)letter_room(letter->size);
            if (events->dropped)
                events->dropped(context, letter->kind, slice_of(letter->bytes, letter->size));
        }
    }
}

/* The memory stays until the office ends: the letter that is being read may be the cause. */
static void parcel_drop(struct mailbox *box, struct chunk *chunk, uint32_t at)
{
    if (!chunk)
        return;
    letters_drop(box->events, box->context, chunk, at);
    while (chunk) {
        struct chunk *next = chunk->next;
        chunk->next = box->remains;
        box->remains = chunk;
        chunk = next;
    }
}

static void parcels_drop(struct mailbox *box, struct chunk *parcel)
{
    while (parcel) {
        struct chunk *next = parcel->next_parcel;
        parcel_drop(box, parcel, 0);
        parcel = next;
    }
}

void mailbox_close(struct mailbox *box)
{
    ASSERT(box->state == BOX_OPEN);
    box->state = BOX_CLOSED;
    timer_stop(&box->go_on);
    task_cancel(&box->flush);
    parcel_drop(box, box->reading, box->reading_at);
    box->reading = NULL;
    for (unsigned other = 0; other < box->office->members; other++) {
        struct outbound *out = &box->out[other];
        parcels_drop(box, box->in[other].first);
        box->in[other].first = NULL;
        parcel_drop(box, out->first, 0);
        out->first = out->last = NULL;
        out->letter = NULL;
    }
    uintptr_t arrived = atomic_exchange_explicit(&box->arrived, DEAF, memory_order_acq_rel);
    parcels_drop(box, (struct chunk *)(arrived & ~DEAF));
}

/* What came when nobody read any more: for a box that was never open its sender knows the letters.
 */
static void late_drop(struct office *office, struct mailbox *box)
{
    struct chunk *parcel = (struct chunk *)(atomic_load(&box->arrived) & ~DEAF);

    while (parcel) {
        struct chunk *next = parcel->next_parcel;
        const struct mail_events *events =
            box->events ? box->events : office->boxes[parcel->from].events;
        letters_drop(events, NULL, parcel, 0);
        chunks_free(parcel);
        parcel = next;
    }
}

void office_free(struct office *office)
{
    for (unsigned member = 0; member < office->members; member++) {
        struct mailbox *box = &office->boxes[member];
        ASSERT(box->state != BOX_OPEN);
        late_drop(office, box);
        chunks_free(box->remains);
        for (unsigned to = 0; to < office->members; to++) {
            chunks_free(box->out[to].spare);
            chunks_free(atomic_load(&box->out[to].emptied));
        }
        free(box->out);
        free(box->in);
        free(box->touched);
    }
    free(office->boxes);
    free(office);
}

unsigned mailbox_member(const struct mailbox *box)
{
    return box->member;
}

unsigned mailbox_members(const struct mailbox *box)
{
    return box->office->members;
}

const struct mail_statistics *mailbox_statistics(const struct mailbox *box)
{
    return &box->statistics;
}
