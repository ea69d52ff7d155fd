/* What a queue does by itself: limits, times to live, and what becomes of messages that die. */
#include "queue/queue_private.h"

#include "base/memory.h"

#include <stdlib.h>

#define LOOK_AGAIN_MS 60000u /* the wall clock may jump */

static void on_timer(struct timer *timer)
{
    upkeep_look(CONTAINER_OF(timer, struct queue_upkeep, timer)->queue);
}

static const struct queue_rules no_rules = {
    .length_max = UINT64_MAX,
    .bytes_max = UINT64_MAX,
    .lives_ms = UINT64_MAX,
    .returns_max = UINT32_MAX,
};

static struct queue_upkeep *upkeep_of(struct queue *queue)
{
    if (queue->upkeep)
        return queue->upkeep;
    struct queue_upkeep *upkeep = memory_new(sizeof *upkeep);
    upkeep->queue = queue;
    upkeep->rules = no_rules;
    timer_init(&upkeep->timer, queue->host->loop, on_timer);
    list_init(&upkeep->link);
    queue->upkeep = upkeep;
    return upkeep;
}

void upkeep_end(struct queue *queue)
{
    struct queue_upkeep *upkeep = queue->upkeep;

    if (!upkeep)
        return;
    timer_stop(&upkeep->timer);
    list_remove(&upkeep->link);
    free(upkeep->dead);
    free(upkeep);
    queue->upkeep = NULL;
}

static bool lets_be(const struct queue_rules *r)
{
    return r->length_max == no_rules.length_max && r->bytes_max == no_rules.bytes_max &&
           r->lives_ms == no_rules.lives_ms && r->returns_max == no_rules.returns_max &&
           !r->buries && !r->chooses && !r->retry.counted && !r->retry.uncounted;
}

void queue_set_rules(struct queue *queue, const struct queue_rules *rules)
{
    ASSERT(!queue->closed && (queue->consumers == 0 || rules->chooses == queue_chooses(queue)));
    if (!queue->upkeep && lets_be(rules))
        return;
    upkeep_of(queue)->rules = *rules;
    upkeep_look(queue);
}

struct queue_rules queue_no_rules(void)
{
    return no_rules;
}

/* ---- dying ---- */

void queue_die(struct queue *queue, uint64_t sequence, enum settle_reason why)
{
    struct queue_upkeep *upkeep = queue->upkeep;

    if (!upkeep || !upkeep->rules.buries) {
        queue_gone(queue, sequence, why);
        return;
    }
    upkeep->dead = ring_reserve(&upkeep->dead_ring, upkeep->dead, sizeof *upkeep->dead);
    upkeep->dead[ring_add(&upkeep->dead_ring)] = (struct queue_dead){sequence, why};
    if (upkeep->dead_ring.count == 1)
        queue->host->events->died(queue->host->context, queue);
}

uint32_t queue_dead_count(const struct queue *queue)
{
    return queue->upkeep ? queue->upkeep->dead_ring.count : 0;
}

struct queue_dead queue_dead_at(const struct queue *queue, uint32_t index)
{
    ASSERT(index < queue_dead_count(queue));
    return queue->upkeep->dead[ring_at(&queue->upkeep->dead_ring, index)];
}

struct queue_dead queue_dead_take(struct queue *queue, struct message **message, uint64_t *position)
{
    struct queue_dead dead = queue_dead_at(queue, 0);
    const struct queue_page *page = page_of(queue, dead.sequence);
    unsigned index = dead.sequence % QUEUE_PAGE;

    ASSERT(page && (page->leased & page_bit(dead.sequence)));
    ring_drop_first(&queue->upkeep->dead_ring);
    *message = page->messages && page->messages[index] ? message_ref(page->messages[index]) : NULL;
    *position = page->positions[index];
    return dead;
}

void queue_dead_return(struct queue *queue)
{
    struct queue_upkeep *upkeep = queue->upkeep;

    for (uint32_t left = queue_dead_count(queue); left > 0; left--) {
        struct queue_dead dead = queue_dead_at(queue, 0);
        ring_drop_first(&upkeep->dead_ring);
        if (dead.why == SETTLE_REJECTED || dead.why == SETTLE_RETURNED)
            upkeep->dead[ring_add(&upkeep->dead_ring)] = dead;
        else
            queue_return(queue, dead.sequence, false, false);
    }
}

/* A ready one. */
static void remove_ready(struct queue *queue, uint64_t sequence, enum settle_reason why)
{
    bool holds = queue_hold(queue, sequence);

    ASSERT(holds);
    queue_die(queue, sequence, why);
}

/* ---- limits ---- */

static bool is_over(const struct queue *queue)
{
    const struct queue_rules *rules = &queue->upkeep->rules;

    return queue->ready > 0 && rules->overflow == OVERFLOW_DROP_OLDEST &&
           (queue->ready > rules->length_max || queue->ready_bytes > rules->bytes_max);
}

/* How many of the ready messages are left when the consumers have had their turn. */
static uint64_t staying(const struct queue *queue)
{
    uint64_t going = 0;

    LIST_EACH (&queue->active, link) {
        going += CONTAINER_OF(link, struct consumer, link)->credit_messages;
        if (going >= queue->ready)
            return 0;
    }
    return queue->ready - going;
}

bool queue_refuses(const struct queue *queue, uint64_t body_size)
{
    if (!queue->upkeep || queue->upkeep->rules.overflow == OVERFLOW_DROP_OLDEST)
        return false;
    const struct queue_rules *rules = &queue->upkeep->rules;
    if (queue->ready < rules->length_max && queue->ready_bytes <= rules->bytes_max &&
        body_size <= rules->bytes_max - queue->ready_bytes)
        return false;
    uint64_t count = staying(queue), bytes = count > 0 ? queue->ready_bytes : 0;
    return count >= rules->length_max || bytes > rules->bytes_max ||
           body_size > rules->bytes_max - bytes;
}

bool queue_buries_refused(const struct queue *queue)
{
    const struct queue_upkeep *upkeep = queue->upkeep;

    return upkeep && upkeep->rules.overflow == OVERFLOW_REFUSE_AND_BURY && upkeep->rules.buries;
}

bool queue_returned_enough(const struct queue *queue, uint32_t count)
{
    return queue->upkeep && count > queue->upkeep->rules.returns_max;
}

/* ---- times to live ---- */

/* What is not to be given out before a time has its own life from then on. */
static uint64_t lives_since_ms(const struct message *message)
{
    uint64_t not_before_ms = message_not_before_ms(message);

    return not_before_ms > message->published_at_ms ? not_before_ms : message->published_at_ms;
}

static uint64_t dies_at_ms(const struct queue *queue, const struct message *message)
{
    uint64_t lives_ms = queue->upkeep->rules.lives_ms, since_ms = lives_since_ms(message);
    uint64_t by_queue = lives_ms > UINT64_MAX - since_ms ? UINT64_MAX : since_ms + lives_ms;
    uint64_t by_itself = message->expires_at_ms ? message->expires_at_ms : UINT64_MAX;

    return by_queue < by_itself ? by_queue : by_itself;
}

static bool may_expire(const struct queue_upkeep *upkeep)
{
    return upkeep->has_mortals || upkeep->rules.lives_ms != UINT64_MAX;
}

bool upkeep_head_is_over(struct queue *queue, const struct queue_place *head)
{
    struct queue_upkeep *upkeep = queue->upkeep;

    if (!upkeep || !may_expire(upkeep))
        return false;
    const struct message *message = head->page->messages[head->sequence % QUEUE_PAGE];
    uint64_t at_ms = dies_at_ms(queue, message);
    if (at_ms >= loop_wall_ms(queue->host->loop))
        return false;
    if (at_ms <= lives_since_ms(message) && head->sequence >= head->lane->looked_until)
        return false; /* it may have been on its way for longer */
    remove_ready(queue, head->sequence, SETTLE_EXPIRED);
    return true;
}

static void wait_ms(struct queue *queue, uint64_t ms)
{
    uint64_t most_ms = ms < LOOK_AGAIN_MS ? ms : LOOK_AGAIN_MS;

    timer_set(&queue->upkeep->timer, loop_now_ns(queue->host->loop) + most_ms * NANOSECONDS_PER_MS);
}

/* Has the head to go? Else the timer is set to when it has. */
static bool must_go(struct queue *queue, const struct queue_place *head, enum settle_reason *why)
{
    *why = SETTLE_DROPPED;
    if (is_over(queue))
        return true;
    if (!may_expire(queue->upkeep) || !queue_is_hot(queue, head))
        return false; /* when it has been read back, there is another look */
    uint64_t at_ms = dies_at_ms(queue, head->page->messages[head->sequence % QUEUE_PAGE]);
    uint64_t now_ms = loop_wall_ms(queue->host->loop);
    *why = SETTLE_EXPIRED;
    if (at_ms > now_ms && at_ms != UINT64_MAX)
        wait_ms(queue, at_ms - now_ms);
    return at_ms <= now_ms;
}

void upkeep_run(struct queue *queue)
{
    uint64_t since_ns = loop_precise_ns(queue->host->loop);
    struct queue_upkeep *upkeep = queue->upkeep;
    struct queue_lane *lane;
    enum settle_reason why;
    bool some = false;

    timer_stop(&upkeep->timer);
    if (queue->ready > 0 && !list_empty(&queue->active))
        return; /* they wait for a mark or for what is read back, and then it is looked at again */
    while (!queue->rests && queue->ready > 0) {
        struct queue_place head = queue_head(queue);
        if (!must_go(queue, &head, &why))
            break;
        remove_ready(queue, head.sequence, why);
        some = true;
        if (loop_precise_ns(queue->host->loop) - since_ns > JOB_SLICE_NS) {
            wait_ms(queue, 0);
            break;
        }
    }
    LANES_EACH (queue, lane, number)
        lane->looked_until = lane->next;
    if (queue->ready + queue->leased + queue->delayed == 0)
        upkeep->has_mortals = false;
    if (some)
        queue_activate(queue); /* single gets may wait behind what has gone */
}

void upkeep_took(struct queue *queue)
{
    if (list_empty(&queue->active) && queue->host->has_begun)
        upkeep_run(queue);
    else
        upkeep_look(queue);
}

void upkeep_look(struct queue *queue)
{
    struct queue_host *host = queue->host;

    if (queue->closed || queue->rests || queue->ready == 0 || list_linked(&queue->upkeep->link))
        return;
    if (!is_over(queue) && !may_expire(queue->upkeep))
        return;
    list_append(&host->upkeep, &queue->upkeep->link);
    if (host->has_begun)
        loop_defer(host->loop, &host->upkeep_task, LOOP_COMMIT);
}

void queue_rest(struct queue *queue, bool rests)
{
    queue->rests = rests;
    if (queue->upkeep)
        upkeep_look(queue);
    delay_look(queue);
}

void queue_host_begin(struct queue_host *host)
{
    host->has_begun = true;
    if (!list_empty(&host->upkeep))
        loop_defer(host->loop, &host->upkeep_task, LOOP_COMMIT);
    if (!list_empty(&host->delays))
        loop_defer(host->loop, &host->delay_task, LOOP_DISPATCH);
}

void queue_host_rest(struct queue_host *host)
{
    host->has_begun = false;
    task_cancel(&host->upkeep_task);
    task_cancel(&host->delay_task);
}

void upkeep_task_run(struct task *task)
{
    struct queue_host *host = CONTAINER_OF(task, struct queue_host, upkeep_task);
    uint64_t since_ns = loop_precise_ns(host->loop);

    for (struct list *link; (link = list_take_first(&host->upkeep));) {
        upkeep_run(CONTAINER_OF(link, struct queue_upkeep, link)->queue);
        if (loop_precise_ns(host->loop) - since_ns > TURN_SLICE_NS)
            break;
    }
    if (!list_empty(&host->upkeep))
        loop_defer(host->loop, task, LOOP_COMMIT);
}

void queue_has_mortals(struct queue *queue)
{
    upkeep_of(queue)->has_mortals = true;
}
