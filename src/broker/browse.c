#include "broker/browse.h"

#include "broker/move.h"
#include "broker/peer.h"

#include <inttypes.h>
#include <stdlib.h>

#define CLOCK_MESSAGES 16u

/* ---- a page that is being made ---- */

struct browse {
    struct list link;       /* worker.browses */
    struct list ready_link; /* worker.browses_ready: it is not reading */
    struct worker *worker;
    struct hosted *hosted; /* a reference on its queue */
    struct request *request;
    struct peer *peer; /* it goes there by mail, NULL: it stays here */
    uint64_t token;
    struct browse_range range; /* its conditions stand behind this struct */
    struct queue_walk walk;
    struct browse_end end;
    uint32_t found, looked;
    size_t bytes; /* of what was found */
    uint8_t conditions[];
};

static void browse_later(struct browse *browse)
{
    struct worker *worker = browse->worker;

    list_append(&worker->browses_ready, &browse->ready_link);
    loop_defer(worker->loop, &worker->browse, LOOP_DISPATCH);
}

static void walk_ready(struct queue_walk *walk)
{
    browse_later(CONTAINER_OF(walk, struct browse, walk));
}

static void tell(struct browse *browse, const struct queue_traveller *seen)
{
    struct browsed found = {
        .message = seen->message,
        .sequence = seen->sequence,
        .is_leased = seen->is_leased,
        .redelivered = seen->is_returned,
        .count = seen->count,
        .due_ms = seen->is_leased ? 0 : seen->due_ms,
    };

    browse->found++;
    browse->bytes += message_footprint(seen->message);
    if (browse->peer)
        peer_tell_browsed(browse->peer, browse->token, &found);
    else
        browsing_add(browse->request, &found);
}

static bool page_is_full(const struct browse *browse)
{
    return browse->found >= browse->range.limit || browse->bytes >= BROWSE_PAGE_BYTES ||
           browse->looked >= BROWSE_LOOK_MAX;
}

/* 1: it may go on; 0: the page is complete, and so is the request, perhaps with a failure; E_AGAIN:
 * walk_ready() follows. */
static int browse_one(struct browse *browse)
{
    struct queue_traveller seen;

    if (browse->hosted->queue.closed || page_is_full(browse))
        return 0;
    int result = queue_walk_next(&browse->walk, &seen);
    if (result == 0) {
        browse->end.is_over = true;
    } else if (result == 1) {
        browse->looked++;
        if (filter_accepts(&browse->range.filter, seen.message))
            tell(browse, &seen);
        message_unref(seen.message);
    } else if (result == E_CORRUPT) { /* what the log cannot read nobody will */
        browse->walk.at = seen.sequence + 1;
        browse->end.unreadable++;
        result = 1;
    } else if (result != E_AGAIN) {
        fail(&browse->request->failure, result, "message %" PRIu64 " cannot be read back: %s",
             seen.sequence, error_name(result));
        result = 0;
    }
    return result;
}

static void browse_free(struct browse *browse)
{
    list_remove(&browse->link);
    list_remove(&browse->ready_link);
    if (!browse->walk.is_reading) /* else its log is gone, and what it has read */
        queue_walk_fini(&browse->walk);
    free(browse);
}

static void browse_over(struct browse *browse)
{
    struct request *request = browse->request;
    struct hosted *hosted = browse->hosted;

    browse->end.next = browse->walk.at;
    if (browse->peer)
        peer_tell_browse_end(browse->peer, browse->token, &browse->end);
    else
        browsing_end(request, &browse->end);
    browse_free(browse);
    hosted_release(hosted);
    request_go_on(request);
}

static void browse_slice(struct browse *browse, uint64_t until_ns)
{
    int result = 1;

    for (unsigned n = 1; result == 1; n++) {
        if (n % CLOCK_MESSAGES == 0 && loop_precise_ns(browse->worker->loop) > until_ns) {
            browse_later(browse);
            return;
        }
        result = browse_one(browse);
    }
    if (result == 0)
        browse_over(browse);
}

static void browses_run(struct task *task)
{
    struct worker *worker = CONTAINER_OF(task, struct worker, browse);
    uint64_t until_ns = loop_precise_ns(worker->loop) + JOB_SLICE_NS;

    for (struct list *link; (link = list_take_first(&worker->browses_ready));) {
        browse_slice(CONTAINER_OF(link, struct browse, ready_link), until_ns);
        if (loop_precise_ns(worker->loop) > until_ns)
            break;
    }
    if (!list_empty(&worker->browses_ready))
        loop_defer(worker->loop, task, LOOP_DISPATCH);
}

int browse_here(struct request *request, struct hosted *hosted, const struct browse_range *range,
                struct peer *peer, uint64_t token)
{
    struct slice conditions = range->filter.conditions;
    struct browse *browse = memory_new(sizeof *browse + conditions.size);

    browse->worker = request->client->worker;
    browse->hosted = hosted;
    browse->request = request;
    browse->peer = peer;
    browse->token = token;
    browse->range = *range;
    if (conditions.size > 0)
        memcpy(browse->conditions, conditions.data, conditions.size);
    browse->range.filter.conditions = slice_of(browse->conditions, conditions.size);
    browse->walk = (struct queue_walk){
        .queue = &hosted->queue,
        .at = range->from,
        .skips_ready = !range->ready,
        .skips_leased = !range->leased,
        .skips_delayed = !range->delayed,
        .ready = walk_ready,
    };
    queue_ref(&hosted->queue);
    list_append(&browse->worker->browses, &browse->link);
    list_init(&browse->ready_link);
    browse_later(browse);
    return PENDING;
}

void browses_new(struct worker *worker)
{
    list_init(&worker->browses);
    list_init(&worker->browses_ready);
    task_init(&worker->browse, browses_run);
}

void browses_free(struct worker *worker)
{
    task_cancel(&worker->browse);
    for (struct list *link; (link = list_first(&worker->browses));)
        browse_free(CONTAINER_OF(link, struct browse, link));
}

/* ---- the client's side ---- */

struct browsing {
    struct client *client;
    uint64_t queue; /* id */
    struct browse_range range;
    struct browse_end end;
    bool lacks_memory; /* for all of the page */
    size_t count;
    struct browsed page[BROWSE_PAGE];
    uint8_t conditions[];
};

static int check_spec(struct client *client, const struct browse_spec *spec,
                      struct catalog_queue **queue, struct failure *failure)
{
    int result = client_find_queue(client, spec->queue, queue, failure);

    if (result == 0)
        result = client_may(client, ACCESS_READ, "queue", spec->queue, failure);
    return result == 0 ? filter_check(spec->filter.conditions, failure) : result;
}

struct browsing *browsing_open(struct client *client, const struct browse_spec *spec,
                               struct failure *failure)
{
    struct slice conditions = spec->filter.conditions;
    struct catalog_queue *queue;

    if (check_spec(client, spec, &queue, failure) != 0)
        return NULL;
    struct browsing *browsing = memory_new(sizeof *browsing + conditions.size);
    browsing->client = client;
    browsing->queue = queue->id;
    browsing->range = (struct browse_range){.ready = spec->ready,
                                            .leased = spec->leased,
                                            .delayed = spec->delayed,
                                            .filter = spec->filter};
    if (conditions.size > 0)
        memcpy(browsing->conditions, conditions.data, conditions.size);
    browsing->range.filter.conditions = slice_of(browsing->conditions, conditions.size);
    browsing->end.next = spec->from;
    return browsing;
}

static void turn_page(struct browsing *browsing)
{
    for (size_t i = 0; i < browsing->count; i++)
        message_unref(browsing->page[i].message);
    browsing->count = 0;
}

void browsing_close(struct browsing *browsing)
{
    turn_page(browsing);
    free(browsing);
}

/* The page is here. */
static int browse_came(struct request *request)
{
    struct browsing *browsing = request->target;

    if (browsing->lacks_memory && request->failure.code == 0)
        fail(&request->failure, E_MEMORY, "out of memory");
    browsing->lacks_memory = false;
    return DONE;
}

static int browse_again(struct request *request);

static int browse_from(struct request *request, struct catalog_queue *queue)
{
    const struct browsing *browsing = request->target;

    if (queue->move) {
        move_wait(request, queue, browse_again);
        return DONE;
    }
    request->next = browse_came;
    return queue->hosted ? browse_here(request, queue->hosted, &browsing->range, NULL, 0)
                         : peer_browse(request, queue, &browsing->range);
}

static int browse_again(struct request *request)
{
    struct client *client = request->client;
    const struct browsing *browsing = request->target;
    struct catalog_queue *queue = catalog_queue_by_id(&client->worker->catalog, browsing->queue);

    if (request->failure.code != 0 || client->closed)
        return DONE;
    if (queue)
        return browse_from(request, queue);
    fail(&request->failure, E_NOT_FOUND, "the queue has been deleted meanwhile");
    return DONE;
}

int browsing_next(struct browsing *browsing, struct request *request, uint32_t limit)
{
    request_begin(browsing->client, request);
    request->target = browsing;
    turn_page(browsing);
    browsing->range.from = browsing->end.next;
    browsing->range.limit = limit < BROWSE_PAGE ? limit : BROWSE_PAGE;
    if (browsing->end.is_over || limit == 0)
        return request_end(request);
    return browse_again(request) == DONE ? request_end(request) : PENDING;
}

void browsing_add(struct request *request, const struct browsed *found)
{
    struct browsing *browsing = request->target;

    ASSERT(browsing->count < BROWSE_PAGE);
    browsing->page[browsing->count] = *found;
    browsing->page[browsing->count].message = message_ref(found->message);
    if (browsing->page[browsing->count].message)
        browsing->count++;
    else
        browsing->lacks_memory = true;
}

void browsing_end(struct request *request, const struct browse_end *end)
{
    struct browsing *browsing = request->target;

    browsing->end.next = end->next;
    browsing->end.is_over = end->is_over;
    browsing->end.unreadable += end->unreadable;
}

size_t browsing_count(const struct browsing *browsing)
{
    return browsing->count;
}

const struct browsed *browsing_message(const struct browsing *browsing, size_t index)
{
    ASSERT(index < browsing->count);
    return &browsing->page[index];
}

uint64_t browsing_cursor(const struct browsing *browsing)
{
    return browsing->end.next;
}

uint64_t browsing_unreadable(const struct browsing *browsing)
{
    return browsing->end.unreadable;
}

bool browsing_is_over(const struct browsing *browsing)
{
    return browsing->end.is_over;
}
