/*
 * Which keys a log has: the master keys it was given, the keys of its segments, and their rotation.
 *
 * A segment's data key is made with the segment, at random, and is in memory as long as the segment
 * is listed. In the metadata it stands wrapped in a master key; when another one becomes the first,
 * it is wrapped again, and the segment itself stays as it is.
 */
#include "log/log_private.h"

#include <inttypes.h>
#include <stdlib.h>

static void rewrap(struct task *task);

static void take_keys(struct log *log, const struct keyring *keys)
{
    log->keys = *keys;
    if (!log->cipher && keys->count > 0)
        log->cipher = cipher_new(log->options.witness);
}

void keys_init(struct log *log)
{
    ASSERT(!log->options.encrypts || (log->options.keys && log->options.keys->count > 0));
    if (log->options.keys)
        take_keys(log, log->options.keys);
    log->options.keys = NULL; /* borrowed for the call alone */
    task_init(&log->rewrap_task, rewrap);
}

void keys_fini(struct log *log)
{
    sealing_fini(&log->sealing);
    cipher_free(log->cipher);
    free(log->decrypted.bytes);
    keyring_wipe(&log->keys);
}

static const struct master_key *first_key(const struct log *log)
{
    return &log->keys.keys[0];
}

static void wrap(struct segment *segment)
{
    const struct master_key *master = first_key(segment->log);

    cipher_wrap(master->bytes, segment->keys.data, segment->info.wrapped_key);
    segment->info.master_key = master->id;
}

void keys_make(struct segment *segment)
{
    loop_random_bytes(segment->log->loop, segment->keys.data, sizeof segment->keys.data);
    segment_keys_derive(&segment->keys);
    wrap(segment);
}

int keys_find(struct segment *segment, struct failure *failure)
{
    return segment_keys_unwrap(&segment->keys, &segment->info, &segment->log->keys, failure);
}

/* ---- rotation ---- */

static bool is_behind(const struct log *log, const struct segment *segment)
{
    return segment_is_encrypted(segment) && segment->info.master_key != first_key(log)->id;
}

/* From the start in each slice: segments come and go meanwhile. */
static void rewrap(struct task *task)
{
    struct log *log = CONTAINER_OF(task, struct log, rewrap_task);
    uint64_t until_ns = loop_precise_ns(log->loop) + TURN_SLICE_NS;
    bool has_changed = false;

    for (size_t i = 0; i < log->segments_count; i++) {
        if (!is_behind(log, log->segments[i]))
            continue;
        if (has_changed && loop_precise_ns(log->loop) >= until_ns) {
            loop_defer(log->loop, task, LOOP_DISPATCH);
            return;
        }
        if (metadata_has(log, log->rewrap_generation))
            log->rewrapped = 0; /* those before are on disk */
        wrap(log->segments[i]);
        log->rewrapped++;
        log->rewrap_generation = log->metadata.generation + 1; /* the next one has it */
        has_changed = true;
    }
    if (has_changed)
        metadata_touch(log);
}

void keys_rewrap(struct log *log)
{
    if (log->keys.count > 0)
        loop_defer(log->loop, &log->rewrap_task, LOOP_DISPATCH);
}

/* A key that is needed must be there, and none may be another one than it was. */
static int check_successor(const struct log *log, const struct keyring *keys,
                           struct failure *failure)
{
    for (unsigned i = 0; i < log->keys.count; i++) {
        const struct master_key *old = &log->keys.keys[i];
        const struct master_key *new = keyring_find(keys, old->id);
        if (new &&memcmp(new->bytes, old->bytes, CIPHER_KEY_SIZE) != 0)
            return fail(failure, E_KEY, "key %" PRIu32 " is another one than it was", old->id);
        if (!new &&log_key_is_needed(log, old->id))
            return fail(failure, E_KEY, "key %" PRIu32 " is still needed", old->id);
    }
    return 0;
}

bool log_key_is_needed(const struct log *log, uint32_t id)
{
    bool may_be_last = log->rewrapped > 0 && !metadata_has(log, log->rewrap_generation);

    for (size_t i = 0; i < log->segments_count; i++)
        if (log->segments[i]->info.master_key == id)
            return true;
    LIST_EACH (&log->removing, link) {
        const struct segment *segment = CONTAINER_OF(link, struct segment, link);
        if (segment->info.master_key == id && !metadata_has(log, segment->listed))
            return true;
    }
    return may_be_last; /* the metadata on disk may name any that it was wrapped in before */
}

int log_set_keys(struct log *log, const struct keyring *keys, struct failure *failure)
{
    ASSERT(keys->count > 0 && log->phase != LOG_RECOVERING);
    if (log->phase == LOG_CLOSED)
        return fail(failure, E_CLOSED, "the log is closed");
    int result = check_successor(log, keys, failure);
    if (result < 0)
        return result;
    take_keys(log, keys);
    keys_rewrap(log);
    return 0;
}

/* ---- looking ---- */

void keys_statistics(const struct log *log, struct log_statistics *statistics)
{
    statistics->encryption.master_key = log->keys.count > 0 ? first_key(log)->id : 0;
    for (size_t i = 0; i < log->segments_count; i++) {
        const struct segment *segment = log->segments[i];
        if (segment_is_encrypted(segment)) {
            statistics->encryption.segments++;
            statistics->encryption.bytes += segment->end;
            statistics->encryption.behind += is_behind(log, segment);
        } else {
            statistics->encryption.plain_segments++;
            statistics->encryption.plain_bytes += segment->end;
        }
    }
    LIST_EACH (&log->removing, link) {
        const struct segment *segment = CONTAINER_OF(link, struct segment, link);
        if (is_behind(log, segment) && !metadata_has(log, segment->listed))
            statistics->encryption.behind++;
    }
    if (!metadata_has(log, log->rewrap_generation))
        statistics->encryption.behind += log->rewrapped;
    for (unsigned i = 0; i < log->keys.count; i++) {
        uint32_t id = log->keys.keys[i].id;
        if (log_key_is_needed(log, id))
            statistics->encryption.needed[statistics->encryption.needed_count++] = id;
    }
}

/* ---- of a log that is not open ---- */

struct check {
    void (*done)(void *context, int result, const struct failure *failure);
    void *context;
    const struct keyring *keys;
    struct store_request request;
};

static int check_segments(const struct metadata *metadata, const struct keyring *keys,
                          struct failure *failure)
{
    static const struct keyring none;
    struct metadata_segment segment;
    struct segment_keys found;
    int result = 0;

    for (uint32_t i = 0; result == 0 && i < metadata->segments_count; i++) {
        metadata_segment_decode(metadata, i, &segment);
        if (segment.master_key != 0)
            result = segment_keys_unwrap(&found, &segment, keys ? keys : &none, failure);
    }
    cipher_wipe(&found, sizeof found);
    return result;
}

static void metadata_read(struct store_request *request)
{
    struct check *check = CONTAINER_OF(request, struct check, request);
    struct failure failure = request->failure;
    struct metadata metadata;
    int result = request->result;

    if (result == 0) {
        result = metadata_decode(slice_of(request->into->data, request->into->size), &metadata,
                                 &failure);
        if (result == 0)
            result = check_segments(&metadata, check->keys, &failure);
        buffer_unref(request->into);
    } else if (result == E_NOT_FOUND) {
        result = 0;
    }
    check->done(check->context, result, result < 0 ? &failure : NULL);
    free(check);
}

void log_check_keys(struct store *store, const struct keyring *keys,
                    void (*done)(void *context, int result, const struct failure *failure),
                    void *context)
{
    struct check *check = memory_new(sizeof *check);

    check->done = done;
    check->context = context;
    check->keys = keys;
    check->request = (struct store_request){.operation = STORE_META_READ, .done = metadata_read};
    store_submit(store, &check->request);
}
