/*
 * The store over a simulated disk. Each request becomes an operation with a timer at a random time;
 * what it does, it does when the timer fires. Order is kept only where the rules of store.h ask for
 * it: writes, seals and truncations of one file; a close after everything of its file.
 */
#include "store/simulated/simulated.h"

#include "base/assert.h"
#include "base/buffer.h"
#include "base/memory.h"
#include "store/simulated/disk_private.h"

#include <stdlib.h>

struct store_file {
    struct list link; /* in simulated_store.handles */
    struct disk_file *file;
    bool direct;
};

struct simulated_store {
    struct store store;
    struct loop_owned owned;
    struct simulated_disk *disk;
    struct list operations;
    struct list handles;
    struct pool pool;
    bool is_dead; /* crashed: nothing completes any more */
};

struct operation {
    struct list link;
    struct timer timer;
    struct simulated_store *store;
    struct store_request *request;
    uint64_t sync_upto; /* what a sync covers: as of when it was asked for */
};

static struct simulated_store *simulated_of(struct store *store)
{
    return CONTAINER_OF(store, struct simulated_store, store);
}

/* ---- what the operations do; each returns the request's result ---- */

static struct store_file *handle_new(struct simulated_store *s, struct disk_file *file, bool direct)
{
    struct store_file *handle = memory_new(sizeof *handle);

    handle->file = file;
    handle->direct = direct;
    file->handles++;
    list_append(&s->handles, &handle->link);
    return handle;
}

static int refuse_full(struct store_request *request, const char *what)
{
    return fail(&request->failure, E_FULL, "simulated disk: no room to %s", what);
}

static int refuse_io(struct store_request *request, const char *what)
{
    return fail(&request->failure, E_IO, "simulated disk: an error in %s", what);
}

static int do_create(struct operation *o, struct store_request *request)
{
    struct simulated_disk *disk = o->store->disk;
    struct disk_file *file;

    if (!store_name_is_valid(request->name))
        return fail(&request->failure, E_INVALID, "no name for a file");
    if (disk_find(disk, request->name))
        return fail(&request->failure, E_MISMATCH, "%s exists", request->name);
    if (disk_happens(disk, disk->faults.write_fails_ppm))
        return refuse_io(request, "create");
    if (disk_create(disk, request->name, request->size, &file) < 0)
        return refuse_full(request, "create a file");
    request->file = handle_new(o->store, file, false);
    return 0;
}

static int do_open(struct operation *o, struct store_request *request)
{
    struct simulated_disk *disk = o->store->disk;
    struct disk_file *file = request->name ? disk_find(disk, request->name) : NULL;

    if (!file)
        return fail(&request->failure, E_NOT_FOUND, "no file %s", request->name);
    if (disk_happens(disk, disk->faults.read_fails_ppm))
        return refuse_io(request, "open");
    request->file = handle_new(o->store, file, request->direct);
    request->size = file->end;
    return 0;
}

static int do_write(struct operation *o, struct store_request *request)
{
    struct simulated_disk *disk = o->store->disk;
    struct disk_file *file = request->file->file;
    uint64_t size = store_slices_size(request);

    if (file->is_sealed || request->slices_count > STORE_SLICES_MAX ||
        size > o->store->store.capabilities.write_max)
        return fail(&request->failure, E_INVALID, "%s: sealed, or a write too large", file->name);
    if (request->offset != file->end)
        return fail(&request->failure, request->offset > file->end ? E_IO : E_INVALID,
                    "%s: a write at %llu, but the end is at %llu", file->name,
                    (unsigned long long)request->offset, (unsigned long long)file->end);
    int result = disk_write(disk, file, request->slices, request->slices_count, size);
    if (result == E_FULL)
        return refuse_full(request, "write");
    return result < 0 ? refuse_io(request, "write") : 0;
}

static int do_sync(struct operation *o, struct store_request *request)
{
    if (disk_sync(o->store->disk, request->file->file, o->sync_upto) < 0)
        return refuse_io(request, "sync");
    return 0;
}

static int do_write_sync(struct operation *o, struct store_request *request)
{
    int result = do_write(o, request);

    if (result < 0)
        return result;
    o->sync_upto = request->file->file->end;
    return do_sync(o, request);
}

static int do_read(struct operation *o, struct store_request *request)
{
    struct simulated_disk *disk = o->store->disk;
    struct buffer *into = request->into;

    ASSERT(into->capacity >= request->size);
    if (disk_happens(disk, disk->faults.read_fails_ppm))
        return refuse_io(request, "read");
    into->size = (uint32_t)disk_read(disk, request->file->file, request->file->direct,
                                     request->offset, into->data, request->size);
    return 0;
}

static int do_truncate(struct operation *o, struct store_request *request)
{
    struct disk_file *file = request->file->file;

    if (request->offset > file->end || file->is_sealed)
        return fail(&request->failure, E_INVALID, "%s is sealed or ends before %llu", file->name,
                    (unsigned long long)request->offset);
    if (disk_happens(o->store->disk, o->store->disk->faults.write_fails_ppm))
        return refuse_io(request, "truncate");
    disk_truncate(file, request->offset);
    return 0;
}

static int do_seal(struct operation *o, struct store_request *request)
{
    o->sync_upto = request->file->file->end;
    int result = do_sync(o, request);
    if (result == 0)
        disk_seal(request->file->file);
    return result;
}

static void handle_free(struct store_file *handle)
{
    disk_file_release(handle->file);
    list_remove(&handle->link);
    free(handle);
}

static int do_close(struct operation *o, struct store_request *request)
{
    (void)o;
    handle_free(request->file);
    request->file = NULL;
    return 0;
}

static int do_remove(struct operation *o, struct store_request *request)
{
    struct simulated_disk *disk = o->store->disk;
    struct disk_file *file = request->name ? disk_find(disk, request->name) : NULL;

    if (!file)
        return fail(&request->failure, E_NOT_FOUND, "no file %s", request->name);
    if (disk_happens(disk, disk->faults.write_fails_ppm))
        return refuse_io(request, "remove");
    disk_remove(disk, file);
    return 0;
}

static int do_list(struct operation *o, struct store_request *request)
{
    size_t count = 0;
    size_t bytes = 0;

    LIST_EACH (&o->store->disk->files, link) {
        const struct disk_file *file = CONTAINER_OF(link, struct disk_file, link);
        count += !file->is_removed;
        bytes += strlen(file->name) + 1;
    }
    char **names = memory_new(count * sizeof *names + bytes);
    char *at = (char *)(names + count);
    request->names = names;
    request->count = count;
    LIST_EACH (&o->store->disk->files, link) {
        const struct disk_file *file = CONTAINER_OF(link, struct disk_file, link);
        if (file->is_removed)
            continue;
        *names++ = at;
        at = stpcpy(at, file->name) + 1;
    }
    return 0;
}

static int do_meta_read(struct operation *o, struct store_request *request)
{
    const struct disk_meta *meta = &o->store->disk->meta;

    if (!meta->bytes)
        return fail(&request->failure, E_NOT_FOUND, "there is no metadata");
    if (disk_happens(o->store->disk, o->store->disk->faults.read_fails_ppm))
        return refuse_io(request, "read of the metadata");
    request->into = buffer_new(meta->size);
    if (!request->into)
        return fail(&request->failure, E_MEMORY, "no memory for the metadata");
    memcpy(request->into->data, meta->bytes, meta->size);
    request->into->size = (uint32_t)meta->size;
    request->version = meta->version;
    return 0;
}

static int do_meta_write(struct operation *o, struct store_request *request)
{
    struct simulated_disk *disk = o->store->disk;
    uint64_t size = store_slices_size(request);

    if (size > STORE_META_MAX)
        return fail(&request->failure, E_INVALID, "metadata of more than %u bytes", STORE_META_MAX);
    if (request->version != disk->meta.version)
        return fail(&request->failure, E_FENCED, "the metadata has version %llu, not %llu",
                    (unsigned long long)disk->meta.version, (unsigned long long)request->version);
    if (disk->faults.capacity && simulated_disk_used(disk) + size > disk->faults.capacity)
        return refuse_full(request, "write the metadata");
    if (disk_happens(disk, disk->faults.write_fails_ppm)) {
        disk_meta_set(&disk->meta_perhaps, request->slices, request->slices_count,
                      request->version + 1);
        return refuse_io(request, "write of the metadata");
    }
    disk_meta_clear(&disk->meta_perhaps);
    disk_meta_set(&disk->meta, request->slices, request->slices_count, ++request->version);
    return 0;
}

static int (*const actions[])(struct operation *o, struct store_request *request) = {
    [STORE_CREATE] = do_create,
    [STORE_OPEN] = do_open,
    [STORE_WRITE] = do_write,
    [STORE_SYNC] = do_sync,
    [STORE_WRITE_SYNC] = do_write_sync,
    [STORE_READ] = do_read,
    [STORE_TRUNCATE] = do_truncate,
    [STORE_SEAL] = do_seal,
    [STORE_CLOSE] = do_close,
    [STORE_REMOVE] = do_remove,
    [STORE_LIST] = do_list,
    [STORE_META_READ] = do_meta_read,
    [STORE_META_WRITE] = do_meta_write,
};

/* ---- when they do it ---- */

static void operation_free(struct operation *o)
{
    timer_stop(&o->timer);
    list_remove(&o->link);
    pool_give(&o->store->pool, o);
}

static bool changes_file(enum store_operation operation)
{
    return operation == STORE_WRITE || operation == STORE_WRITE_SYNC ||
           operation == STORE_TRUNCATE || operation == STORE_SEAL;
}

static bool changes_disk(enum store_operation operation)
{
    return changes_file(operation) || operation == STORE_CREATE || operation == STORE_REMOVE ||
           operation == STORE_META_WRITE;
}

static void operation_fire(struct timer *timer)
{
    struct operation *o = CONTAINER_OF(timer, struct operation, timer);
    struct store_request *request = o->request;

    o->store->disk->changes += changes_disk(request->operation);
    request->result = actions[request->operation](o, request);
    operation_free(o);
    request->done(request);
}

/* Must the second, asked for later, wait for the first? */
static bool is_ordered(const struct store_request *first, const struct store_request *second)
{
    if (!first->file || !second->file || first->operation == STORE_CREATE ||
        first->operation == STORE_OPEN)
        return false;
    if (second->operation == STORE_CLOSE)
        return first->file == second->file;
    return first->file->file == second->file->file && changes_file(first->operation) &&
           changes_file(second->operation);
}

static void submit(struct store *store, struct store_request *request)
{
    struct simulated_store *s = simulated_of(store);
    struct loop *loop = store->loop;
    uint64_t latency_ns = s->disk->faults.latency_max_ns;

    if (s->is_dead)
        return;
    if (request->operation == STORE_CREATE || request->operation == STORE_OPEN)
        request->file = NULL;
    struct operation *o = pool_take(&s->pool);
    *o = (struct operation){.store = s, .request = request};
    timer_init(&o->timer, loop, operation_fire);
    if (request->operation == STORE_SYNC)
        o->sync_upto = request->file->file->end;
    uint64_t at_ns = loop_now_ns(loop) + 1 + disk_random(s->disk) % (latency_ns ? latency_ns : 1);
    LIST_EACH (&s->operations, link) {
        const struct operation *earlier = CONTAINER_OF(link, struct operation, link);
        if (earlier->timer.at_ns >= at_ns && is_ordered(earlier->request, request))
            at_ns = earlier->timer.at_ns + 1;
    }
    list_append(&s->operations, &o->link);
    timer_set(&o->timer, at_ns);
}

/* ---- the end: by crash or in order ---- */

/* What was under way may have happened, in part where it can. */
static void perhaps_do(struct operation *o)
{
    struct simulated_disk *disk = o->store->disk;
    struct store_request *request = o->request;

    switch (request->operation) {
    case STORE_WRITE:
    case STORE_WRITE_SYNC:
        if (request->offset != request->file->file->end || request->file->file->is_sealed)
            break;
        if (disk_coin(disk))
            (void)!do_write(o, request);
        else
            disk_write_torn(disk, request->file->file, request->slices, request->slices_count,
                            store_slices_size(request));
        break;
    case STORE_CREATE:
    case STORE_REMOVE:
    case STORE_TRUNCATE:
    case STORE_SYNC:
    case STORE_META_WRITE:
        if (disk_coin(disk))
            (void)!actions[request->operation](o, request);
        break;
    default:
        break;
    }
}

static void drop(struct simulated_store *s)
{
    LIST_EACH (&s->operations, link)
        operation_free(CONTAINER_OF(link, struct operation, link));
    LIST_EACH (&s->handles, link)
        handle_free(CONTAINER_OF(link, struct store_file, link));
}

static void crash(struct store *store)
{
    struct simulated_store *s = simulated_of(store);

    LIST_EACH (&s->operations, link)
        perhaps_do(CONTAINER_OF(link, struct operation, link));
    drop(s);
    s->is_dead = true;
    s->disk = NULL;
}

static void release(struct loop_owned *owned)
{
    struct simulated_store *s = CONTAINER_OF(owned, struct simulated_store, owned);

    drop(s);
    if (s->disk)
        s->disk->store = NULL;
    pool_fini(&s->pool);
    free(s);
}

static void free_store(struct store *store)
{
    struct simulated_store *s = simulated_of(store);

    ASSERT(list_empty(&s->operations) && list_empty(&s->handles));
    list_remove(&s->owned.link);
    release(&s->owned);
}

static uint64_t bytes_free(struct store *store)
{
    struct simulated_disk *disk = simulated_of(store)->disk;

    if (!disk || disk->faults.capacity == 0)
        return UINT64_MAX;
    uint64_t used = simulated_disk_used(disk);
    return used < disk->faults.capacity ? disk->faults.capacity - used : 0;
}

static const struct store_functions functions = {submit, bytes_free, free_store};

int store_simulated_open(struct loop *loop, struct simulated_disk *disk, struct store **store,
                         struct failure *failure)
{
    if (disk->store)
        return fail(failure, E_HELD, "the simulated disk is in use");
    struct simulated_store *s = memory_new(sizeof *s);
    s->store = (struct store){
        .functions = &functions,
        .capabilities = {.write_max = 64u << 20, .file_max = 1u << 30, .alignment = 4096},
        .loop = loop};
    s->disk = disk;
    list_init(&s->operations);
    list_init(&s->handles);
    pool_init(&s->pool, sizeof(struct operation));
    s->owned.release = release;
    loop_own(loop, &s->owned);
    disk->store = &s->store;
    disk->store_crash = crash;
    *store = &s->store;
    return 0;
}
