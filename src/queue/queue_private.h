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

static inline struct page_entry *page_entry(const struct queue *queue, uint32_t index)
{
    return &queue->pages[queue->pages_start + index];
}

/* The index of the first entry with this number or a higher one. */
uint32_t page_search(const struct queue *queue, uint64_t number);

static inline uint32_t page_index(const struct queue *queue, uint64_t number)
{
    if (queue->pages_count > 0) {
        uint64_t guess = number - page_entry(queue, 0)->number;
        if (guess < queue->pages_count && page_entry(queue, (uint32_t)guess)->number == number)
            return (uint32_t)guess;
    }
    return page_search(queue, number);
}

/* NULL where everything is settled, or outside. */
static inline struct queue_page *page_get(const struct queue *queue, uint64_t number)
{
    uint32_t index = page_index(queue, number);

    if (index == queue->pages_count || page_entry(queue, index)->number != number)
        return NULL;
    return page_entry(queue, index)->page;
}

/* The page of that number, made if need be: at the end, but for recovery. */
struct queue_page *page_make(struct queue *queue, uint64_t number);

/* A page gets, and gives back, its room for messages in memory (which is charged to the host's
 * account). */
void page_heat(struct queue *queue, struct queue_page *page);
void page_cool(struct queue *queue, struct queue_page *page);

/* Frees the page of that number if nothing in it is live and no push will come to it. */
void page_trim(struct queue *queue, uint64_t number);

/* The lowest live, unleased sequence at or above `from`, or `queue->next`. */
uint64_t queue_find_ready(const struct queue *queue, uint64_t from);

/* The item that goes out next, which must exist: its sequence. Moves the cursors over what is
 * settled. */
uint64_t queue_head(struct queue *queue);

/* Marks the head as given out. */
void queue_lease(struct queue *queue, uint64_t sequence);

/* Removes a live sequence from its page: the message, the room in the log, the counts of bytes. */
void queue_remove(struct queue *queue, struct queue_page *page, uint64_t sequence);

/* Is the message of that sequence in memory? If not, reading it has been started (or waits for a
 * retry). */
bool queue_is_hot(struct queue *queue, uint64_t sequence);

/* Forgets all reads that are under way. */
void loads_abandon(struct queue *queue);

/* May that sequence be given out, or must a mark become durable first? */
bool queue_mark_allows(struct queue *queue, uint64_t sequence);

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
    uint64_t looked_until;   /* what is before has been looked at, at the head or behind it */
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
bool upkeep_head_is_over(struct queue *queue, uint64_t sequence);

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
