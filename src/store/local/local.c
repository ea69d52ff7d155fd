/*
 * Requests go from the loop to a lane's thread or to a helper, and come back over `finished` and a
 * post. What belongs to the loop (files, handles, counts) is touched by the loop alone.
 */
#include "store/local/local_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define READS_RUNNING_MAX 64
#define READS_RETRY_NS    NANOSECONDS_PER_MS
#define FREE_CACHE_NS     (100 * NANOSECONDS_PER_MS)

static struct local_store *local_of(struct store *store)
{
    return CONTAINER_OF(store, struct local_store, store);
}

static int (*const actions[])(struct local_store *s, struct store_request *request) = {
    [STORE_CREATE] = local_create,
    [STORE_OPEN] = local_open,
    [STORE_WRITE] = local_write,
    [STORE_SYNC] = local_sync,
    [STORE_WRITE_SYNC] = local_write_sync,
    [STORE_READ] = local_read,
    [STORE_TRUNCATE] = local_truncate,
    [STORE_SEAL] = local_seal,
    [STORE_CLOSE] = local_close,
    [STORE_REMOVE] = local_remove,
    [STORE_LIST] = local_list,
    [STORE_META_READ] = local_meta_read,
    [STORE_META_WRITE] = local_meta_write,
};

static void act(struct local_store *s, struct store_request *request)
{
    request->result = actions[request->operation](s, request);
}

/* ---- lanes ---- */

/* One post brings all that finish until it runs. */
static void finish(struct local_store *s, struct store_request *request)
{
    pthread_mutex_lock(&s->finished_mutex);
    list_append(&s->finished, &request->link);
    bool must_post = !s->is_posted;
    s->is_posted = true;
    pthread_mutex_unlock(&s->finished_mutex);
    if (must_post) /* outside, so that who wakes up does not meet the lock */
        loop_post(s->store.loop, &s->post);
}

/* NULL: the lane stops. */
static struct store_request *lane_next(struct lane *lane)
{
    while (sem_wait(&lane->waiting) < 0)
        ASSERT(errno == EINTR);
    pthread_mutex_lock(&lane->mutex);
    struct list *link = list_take_first(&lane->requests);
    pthread_mutex_unlock(&lane->mutex);
    return link ? CONTAINER_OF(link, struct store_request, link) : NULL;
}

static void *lane_main(void *argument)
{
    struct lane *lane = argument;
    struct store_request *request;

    while ((request = lane_next(lane)) != NULL) {
        act(lane->store, request);
        finish(lane->store, request);
    }
    return NULL;
}

/* The semaphore comes after the lock, so that the thread does not wake up to meet it. */
static void lane_add(struct lane *lane, struct store_request *request)
{
    pthread_mutex_lock(&lane->mutex);
    list_append(&lane->requests, &request->link);
    pthread_mutex_unlock(&lane->mutex);
    sem_post(&lane->waiting);
}

static int lane_start(struct lane *lane, struct local_store *s)
{
    lane->store = s;
    pthread_mutex_init(&lane->mutex, NULL);
    sem_init(&lane->waiting, 0, 0);
    list_init(&lane->requests);
    return pthread_create(&lane->thread, NULL, lane_main, lane) == 0 ? 0 : E_LIMIT;
}

static void lane_fini(struct lane *lane)
{
    sem_destroy(&lane->waiting);
    pthread_mutex_destroy(&lane->mutex);
}

static void lane_stop(struct lane *lane)
{
    ASSERT(list_empty(&lane->requests));
    sem_post(&lane->waiting);
    pthread_join(lane->thread, NULL);
    lane_fini(lane);
}

/* ---- handles and files: the loop's side ---- */

static struct local_file *file_named(struct local_store *s, const char *name)
{
    LIST_EACH (&s->files, link) {
        struct local_file *file = CONTAINER_OF(link, struct local_file, link);
        if (strcmp(file->name, name) == 0)
            return file;
    }
    return NULL;
}

/* A new handle joins the file that is open under the name, or makes it. */
static void handle_join(struct local_store *s, struct store_request *request)
{
    bool is_new = request->operation == STORE_CREATE;
    struct local_file *file = is_new ? NULL : file_named(s, request->name);

    if (!file) {
        file = memory_new(sizeof *file);
        snprintf(file->name, sizeof file->name, "%s", request->name);
        atomic_init(&file->end, is_new ? 0 : request->size);
        list_append(&s->files, &file->link);
    }
    file->handles++;
    request->file->file = file;
    list_append(&s->handles, &request->file->link);
    if (!is_new)
        request->size = atomic_load(&file->end);
}

static void handle_free(struct store_file *handle)
{
    if (--handle->file->handles == 0) {
        list_remove(&handle->file->link);
        free(handle->file);
    }
    list_remove(&handle->link);
    free(handle);
}

/* A removed name may be created again while the old file is still open. */
static void file_forget(struct local_store *s, const char *name)
{
    struct local_file *file = file_named(s, name);

    if (file)
        list_remove(&file->link);
}

static bool uses_file(const struct store_request *request)
{
    switch (request->operation) {
    case STORE_WRITE:
    case STORE_SYNC:
    case STORE_WRITE_SYNC:
    case STORE_READ:
    case STORE_TRUNCATE:
    case STORE_SEAL:
        return true;
    default:
        return false;
    }
}

/* ---- completions ---- */

static void complete(struct local_store *s, struct store_request *request)
{
    s->outstanding--;
    if (uses_file(request)) {
        struct store_file *handle = request->file;
        handle->pending--;
        if (handle->pending == 0 && handle->close) {
            lane_add(&s->lanes[LANE_KEEPER], handle->close);
            handle->close = NULL;
        }
    } else if (request->result == 0) {
        if (request->operation == STORE_CREATE || request->operation == STORE_OPEN)
            handle_join(s, request);
        if (request->operation == STORE_REMOVE)
            file_forget(s, request->name);
        if (request->operation == STORE_CLOSE) {
            handle_free(request->file);
            request->file = NULL;
        }
    }
    request->done(request);
}

static void finished_run(struct post *post)
{
    struct local_store *s = CONTAINER_OF(post, struct local_store, post);
    struct list finished;
    struct list *link;

    list_init(&finished);
    pthread_mutex_lock(&s->finished_mutex);
    list_move_all(&finished, &s->finished);
    s->is_posted = false;
    pthread_mutex_unlock(&s->finished_mutex);
    while ((link = list_take_first(&finished)) != NULL) /* the last may free the store */
        complete(s, CONTAINER_OF(link, struct store_request, link));
}

/* ---- reads: helper jobs ---- */

struct read_job {
    struct job job;
    struct local_store *store;
    struct store_request *request;
};

static void read_work(struct job *job)
{
    struct read_job *r = CONTAINER_OF(job, struct read_job, job);
    act(r->store, r->request);
}

static void reads_start(struct local_store *s);

static void read_done(struct job *job)
{
    struct read_job *r = CONTAINER_OF(job, struct read_job, job);
    struct local_store *s = r->store;
    struct store_request *request = r->request;

    free(r);
    s->reads_running--;
    reads_start(s);
    complete(s, request);
}

static void reads_start(struct local_store *s)
{
    while (!list_empty(&s->reads) && s->reads_running < READS_RUNNING_MAX) {
        struct read_job *r = memory_new(sizeof *r);
        r->job.work = read_work;
        r->job.done = read_done;
        r->store = s;
        r->request = CONTAINER_OF(list_first(&s->reads), struct store_request, link);
        if (loop_help(s->store.loop, &r->job) < 0) { /* the helpers are busy with others' jobs */
            free(r);
            timer_set(&s->reads_retry, loop_now_ns(s->store.loop) + READS_RETRY_NS);
            return;
        }
        list_remove(&r->request->link);
        s->reads_running++;
    }
}

static void reads_retry(struct timer *timer)
{
    reads_start(CONTAINER_OF(timer, struct local_store, reads_retry));
}

/* ---- requests ---- */

/* A seal goes behind the writes, if there are any, and then everything behind the seal. */
static struct lane *lane_for_change(struct local_store *s, const struct store_request *request)
{
    struct store_file *handle = request->file;

    if (request->operation == STORE_SEAL && handle->pending == 1) /* itself */
        handle->file->is_keepers = true;
    return &s->lanes[handle->file->is_keepers ? LANE_KEEPER : LANE_WRITER];
}

static void submit(struct store *store, struct store_request *request)
{
    struct local_store *s = local_of(store);
    struct store_file *handle = request->file;

    s->outstanding++;
    if (uses_file(request)) {
        ASSERT(!handle->close);
        handle->pending++;
    }
    switch (request->operation) {
    case STORE_WRITE:
    case STORE_SYNC:
    case STORE_WRITE_SYNC:
    case STORE_TRUNCATE:
    case STORE_SEAL:
        lane_add(lane_for_change(s, request), request);
        break;
    case STORE_CLOSE:
        ASSERT(!handle->close);
        if (handle->pending > 0)
            handle->close = request;
        else
            lane_add(&s->lanes[LANE_KEEPER], request);
        break;
    case STORE_CREATE:
    case STORE_REMOVE:
    case STORE_META_WRITE:
        lane_add(&s->lanes[LANE_KEEPER], request);
        break;
    case STORE_OPEN:
    case STORE_READ:
    case STORE_LIST:
    case STORE_META_READ:
        list_append(&s->reads, &request->link);
        reads_start(s);
        break;
    }
}

static uint64_t bytes_free(struct store *store)
{
    struct local_store *s = local_of(store);
    struct statvfs status;
    uint64_t now_ns = loop_now_ns(store->loop);

    if (s->free_asked_ns && now_ns - s->free_asked_ns < FREE_CACHE_NS)
        return s->free_bytes;
    s->free_asked_ns = now_ns;
    s->free_bytes = statvfs(s->directory, &status) < 0
                        ? UINT64_MAX
                        : (uint64_t)status.f_bavail * (uint64_t)status.f_frsize;
    return s->free_bytes;
}

/* ---- start and end ---- */

static void free_local(struct local_store *s)
{
    if (s->lock >= 0)
        close(s->lock);
    pthread_mutex_destroy(&s->finished_mutex);
    free(s->directory);
    free(s);
}

static void free_store(struct store *store)
{
    struct local_store *s = local_of(store);

    ASSERT(s->outstanding == 0 && list_empty(&s->handles) && list_empty(&s->files));
    timer_stop(&s->reads_retry);
    for (int i = 0; i < LANES; i++)
        lane_stop(&s->lanes[i]);
    free_local(s);
}

static const struct store_functions functions = {submit, bytes_free, free_store};

static struct local_store *local_new(struct loop *loop, const char *directory)
{
    struct local_store *s = memory_new(sizeof *s);
    size_t size = strlen(directory);

    while (size > 1 && directory[size - 1] == '/')
        size--;
    s->directory = memory_text(slice_of(directory, size));
    s->store = (struct store){
        .functions = &functions,
        .capabilities = {.write_max = 256u << 20, .file_max = 1ull << 40, .alignment = 1},
        .loop = loop};
    s->lock = -1;
    list_init(&s->files);
    list_init(&s->handles);
    list_init(&s->reads);
    timer_init(&s->reads_retry, loop, reads_retry);
    pthread_mutex_init(&s->finished_mutex, NULL);
    list_init(&s->finished);
    s->post.run = finished_run;
    return s;
}

int store_local_open(struct loop *loop, const char *directory, struct store **store,
                     struct failure *failure)
{
    struct local_store *s = local_new(loop, directory);
    int started = 0;
    int result = local_prepare(s, failure);

    if (result < 0)
        goto free_all;
    for (; started < LANES; started++) {
        result = lane_start(&s->lanes[started], s);
        if (result < 0) {
            fail(failure, result, "cannot start a thread for %s", directory);
            lane_fini(&s->lanes[started]);
            goto free_all;
        }
    }
    *store = &s->store;
    return 0;

free_all:
    while (started > 0)
        lane_stop(&s->lanes[--started]);
    free_local(s);
    return result;
}
