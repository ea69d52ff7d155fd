/* What the files of this folder share. */
#ifndef SLUICE_QUEUE_QUEUE_PRIVATE_H
#define SLUICE_QUEUE_QUEUE_PRIVATE_H

#include "base/ring.h"
#include "queue/queue.h"

struct queue_page {
    uint64_t live;             /* in the queue */
    uint64_t leased;           /* of these, given out, or delayed */
    uint64_t delayed;          /* of the leased, those that nobody has, and that wait */
    uint64_t returned;         /* of these, seen by somebody before */
    uint64_t in_line;          /* in the queue's `returns`, if they still are there */
    struct message **messages; /* QUEUE_PAGE of them; NULL: the whole page is cold */
    uint32_t *counts;          /* returns that counted; NULL: all 0 */
    uint64_t *dues;            /* when it is due; 0: it waits for nothing; NULL: all 0 */
    bool loading;
    uint64_t positions[QUEUE_PAGE];
    uint32_t sizes[QUEUE_PAGE]; /* of bodies */
};

/* In a due, when that is: as a return has said, and not the message's record. */
#define DUE_POSTPONED (1ull << 63)
#define DUE_MS_MAX    ((1ull << 62) - 1)

static inline uint64_t due_ms_least(uint64_t due_ms)
{
    return due_ms < DUE_MS_MAX ? due_ms : DUE_MS_MAX;
}

static inline uint64_t page_number(uint64_t sequence)
{
    return sequence / QUEUE_PAGE;
}

static inline uint64_t page_bit(uint64_t sequence)
{
    return 1ull << (sequence % QUEUE_PAGE);
}

/* Bits of sequences from this one on, and up to it, in its page. */
static inline uint64_t page_bits_from(uint64_t sequence)
{
    return ~0ull << (sequence % QUEUE_PAGE);
}

static inline uint64_t page_bits_to(uint64_t sequence)
{
    return ~0ull >> (QUEUE_PAGE - 1 - sequence % QUEUE_PAGE);
}

/* Pages are found by number. They are few and follow each other as a rule, but one old message must
 * not make room for all that has come and gone since: so the array has only the pages that there
 * are. One that becomes empty stays as an entry without page, until room is needed. */
struct page_entry {
    uint64_t number;
    struct queue_page *page; /* NULL: everything in it is settled */
};

static inline struct page_entry *page_entry(const struct queue_lane *lane, uint32_t index)
{
    return &lane->pages[lane->pages_start + index];
}

/* The index of the first entry with this number or a higher one. */
uint32_t page_search(const struct queue_lane *lane, uint64_t number);

static inline uint32_t page_index(const struct queue_lane *lane, uint64_t number)
{
    if (lane->pages_count > 0) {
        uint64_t guess = number - page_entry(lane, 0)->number;
        if (guess < lane->pages_count && page_entry(lane, (uint32_t)guess)->number == number)
            return (uint32_t)guess;
    }
    return page_search(lane, number);
}

/* NULL where everything is settled, or outside. */
static inline struct queue_page *page_get(const struct queue_lane *lane, uint64_t number)
{
    uint32_t index = page_index(lane, number);

    if (index == lane->pages_count || page_entry(lane, index)->number != number)
        return NULL;
    return page_entry(lane, index)->page;
}

/* ---- lanes (lanes.c) ---- */

static inline unsigned lane_number(uint64_t sequence)
{
    return (unsigned)(sequence >> QUEUE_LANE_SHIFT);
}

static inline uint64_t lane_start(unsigned number)
{
    return (uint64_t)number << QUEUE_LANE_SHIFT;
}

/* What chooses the lane that is next. */
struct lane_chooser {
    /* The lane has got its first ready message, or given its last. */
    void (*filled)(struct queue_lanes *lanes, unsigned number);
    void (*emptied)(struct queue_lanes *lanes, unsigned number);
    /* The number of the lane that is next; some lane has a ready message. */
    unsigned (*next)(const struct queue_lanes *lanes);
    /* Does it know that the lane has a ready message? For queue_check(). */
    bool (*knows)(const struct queue_lanes *lanes, unsigned number);
};

struct queue_lanes {
    const struct lane_chooser *chooser;
    struct queue_lane **lanes; /* by number; NULL: nothing was ever in it */
    unsigned count;
    /* The chooser's: */
    unsigned home;                         /* the level of lane 0 */
    uint64_t filled[QUEUE_LANES_MAX / 64]; /* a bit for each level */
    uint16_t words;                        /* a bit for each of those that is not 0 */
};

/* The first lane from *number on, which *number is then; NULL: there is none. */
struct queue_lane *lane_from(struct queue *queue, unsigned *number);
const struct queue_lane *lane_look_from(const struct queue *queue, unsigned *number);
#define LANES_EACH(queue, lane, number)                                                            \
    for (unsigned number = 0; (lane = lane_from(queue, &number)); number++)
#define LANES_LOOK_EACH(queue, lane, number)                                                       \
    for (unsigned number = 0; (lane = lane_look_from(queue, &number)); number++)

/* The lane of that sequence; NULL: there is none. */
const struct queue_lane *lane_of_several(const struct queue *queue, uint64_t sequence);

static inline const struct queue_lane *lane_look(const struct queue *queue, uint64_t sequence)
{
    return sequence < QUEUE_LANE_SPAN ? &queue->lane : lane_of_several(queue, sequence);
}

static inline struct queue_lane *lane_of(struct queue *queue, uint64_t sequence)
{
    return (struct queue_lane *)lane_look(queue, sequence);
}

/* The same, and there is one afterwards. */
struct queue_lane *lane_make(struct queue *queue, unsigned number);

/* Of queues with several lanes: a ready message more, or less. */
void lane_ready_more(struct queue *queue, struct queue_lane *lane, uint32_t size);
void lane_ready_less(struct queue *queue, struct queue_lane *lane, uint32_t size);

static inline void ready_more(struct queue *queue, struct queue_lane *lane, uint32_t size)
{
    queue->ready++;
    queue->ready_bytes += size;
    if (queue->lanes)
        lane_ready_more(queue, lane, size);
}

static inline void ready_less(struct queue *queue, struct queue_lane *lane, uint32_t size)
{
    queue->ready--;
    queue->ready_bytes -= size;
    if (queue->lanes)
        lane_ready_less(queue, lane, size);
}

/* The lane that is next; there is a ready message. */
static inline struct queue_lane *lane_next(struct queue *queue)
{
    const struct queue_lanes *lanes = queue->lanes;

    return lanes ? lanes->lanes[lanes->chooser->next(lanes)] : &queue->lane;
}

void lanes_free(struct queue *queue);
void lanes_check(const struct queue *queue);

/* What has come back goes out in the order of its return; those of them that are not ready any more
 * are passed over. */
void returns_add(struct queue *queue, struct queue_page *page, uint64_t sequence);

/* 0: there are none. */
uint64_t returns_first(struct queue *queue);

/* One that was given out. */
void returns_leased(struct queue *queue, struct queue_page *page, uint64_t sequence);

/* ---- pages ---- */

static inline struct queue_page *page_of(const struct queue *queue, uint64_t sequence)
{
    const struct queue_lane *lane = lane_look(queue, sequence);

    return lane ? page_get(lane, page_number(sequence)) : NULL;
}

/* The page of that number, made if need be: at the end, but for recovery. */
struct queue_page *page_make(struct queue *queue, struct queue_lane *lane, uint64_t number);

/* A page gets, and gives back, its room for messages in memory (which is charged to the host's
 * account). */
void page_heat(struct queue *queue, struct queue_page *page);
void page_cool(struct queue *queue, struct queue_page *page);

/* Frees the page of that number if nothing in it is live and no push will come to it. */
void page_trim(struct queue *queue, struct queue_lane *lane, uint64_t number);

/* The lowest live, unleased sequence of the lane at or above `from`, or `next`. */
uint64_t lane_find_ready(const struct queue_lane *lane, uint64_t from);

/* A message in its queue. */
struct queue_place {
    struct queue_lane *lane;
    struct queue_page *page;
    uint64_t sequence;
};

/* The item that goes out next, which must exist. Moves the cursors over what is settled. */
struct queue_place queue_head(struct queue *queue);

/* Marks the head as given out. */
void queue_lease(struct queue *queue, const struct queue_place *head);

/* Removes a live sequence from its page: the message, the room in the log, the counts of bytes. */
void queue_remove(struct queue *queue, struct queue_page *page, uint64_t sequence);

/* Is that message in memory? If not, reading it has been started (or waits for a retry). */
bool queue_is_hot(struct queue *queue, const struct queue_place *place);

/* Forgets all reads that are under way. */
void loads_abandon(struct queue *queue);

/* May it be given out, or must a mark become durable first? */
bool queue_mark_allows(struct queue *queue, const struct queue_place *place);

/* Forgets what the state said. */
void queue_promise_free(struct queue *queue);

/* What becomes of a leased message that died; and that of queue_settle() without looking further.
 */
void queue_die(struct queue *queue, uint64_t sequence, enum settle_reason why);
void queue_gone(struct queue *queue, uint64_t sequence, enum settle_reason why);

/* The message waits no more, and is in its place among those that are ready. */
void queue_now_ready(struct queue *queue, struct queue_page *page, uint64_t sequence);

/* ---- delay.c ---- */

/* A live message that is counted neither among the ready nor the leased waits from now on. Its page
 * keeps `due` until then, also if it is held meanwhile (delay_stop()). */
void delay_start(struct queue *queue, struct queue_page *page, uint64_t sequence, uint64_t due);

/* It is none of those that wait any more; what it is the caller has to say. */
void delay_stop(struct queue *queue, struct queue_page *page, uint64_t sequence);

/* Its due, if that is still to come, else 0. */
uint64_t delay_left(const struct queue *queue, const struct queue_page *page, uint64_t sequence);

/* While it recovers, of a message that is ready or waits: it waits until then, if that is still to
 * come, else it is ready. */
void delay_recover(struct queue *queue, struct queue_page *page, uint64_t sequence, uint64_t due);

/* When a message whose return is counted already is ready again, by the queue's rules; 0: at once.
 */
uint64_t delay_retry_ms(const struct queue *queue, const struct queue_page *page, uint64_t sequence,
                        bool counted);

void page_drop_dues(struct queue *queue, struct queue_page *page);

/* Something may be due, or be due earlier than was known; later in this turn. */
void delay_look(struct queue *queue);

/* Some were settled before they were due. */
void delay_settled(struct queue *queue);
void delay_task_run(struct task *task);
void delay_end(struct queue *queue);
void delay_check(const struct queue *queue, uint64_t delayed);

/* ---- upkeep.c ---- */

struct queue_upkeep {
    struct queue *queue;
    struct queue_rules rules;
    bool has_mortals;        /* some of its messages have, or had, a time to live of their own */
    struct list link;        /* host.upkeep */
    struct consumer *chosen; /* that gets all; NULL: it does not choose, or has no consumers */
    struct timer timer;
    struct queue_dead *dead; /* in the ring */
    struct ring dead_ring;
};

/* Something has come or the head has changed: a look at it, later in this turn. */
void upkeep_look(struct queue *queue);
void upkeep_run(struct queue *queue);

/* A single one was taken. Whoever did so is told how many are left, without those that are no more;
 * consumers that wait for their turn come first, however. */
void upkeep_took(struct queue *queue);
void upkeep_task_run(struct task *task);
void upkeep_end(struct queue *queue);

/* The head, which is in memory, has lived too long, and is no more. What is to live for 0 ms and
 * has just come is for the consumers that are there. */
bool upkeep_head_is_over(struct queue *queue, const struct queue_place *head);

/* What it has got has a time to live. */
void queue_has_mortals(struct queue *queue);

/* With so many returns that counted it dies. */
bool queue_returned_enough(const struct queue *queue, uint32_t count);

static inline bool queue_chooses(const struct queue *queue)
{
    return queue->upkeep && queue->upkeep->rules.chooses;
}

static inline void upkeep_pushed(struct queue *queue, const struct message *message)
{
    if (queue->closed)
        return;
    if (message->expires_at_ms)
        queue_has_mortals(queue);
    if (queue->upkeep)
        upkeep_look(queue);
}

void queue_touch(struct queue *queue);    /* dirty: its state has changed */
void queue_activate(struct queue *queue); /* there may be something to deliver */

#endif
