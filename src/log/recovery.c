/*
 * Opening: what was durable is found and told, in bounded memory and in slices of a turn.
 *
 *   metadata -> list of files -> LOOK at each segment (its footer, or all of it) -> judge ->
 *   catalog -> states -> TELL each segment -> ask the layer above -> metadata with the next epoch
 *   -> remove files that are not listed -> seal what was open -> opened
 *
 * Nothing is changed before the layer above has agreed: a start that is refused can be repeated,
 * and what is there can be looked at.
 *
 * Judging (docs/log-format.md, "Torn or corrupt"): K is the highest number known durable, from
 * every sound block header, footer and the metadata. A block that is missing or broken at or below
 * K is corrupt: reported, its segment quarantined, everything sound around it served. The first one
 * above K ends the log: it and all behind it are a torn tail that nobody was told of.
 */
#include "log/recovery_private.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW_BYTES (256u << 10)

_Static_assert(WINDOW_BYTES >= SCAN_WINDOW_MIN, "a window brings a scan on");

static void step_list(struct recovery *r);
static void step_orphans(struct recovery *r);
static void step_end(struct recovery *r);

/* ---- the course of it ---- */

static void run_step(struct task *task)
{
    struct recovery *r = CONTAINER_OF(task, struct recovery, task);

    if (!r->is_ended)
        r->step(r);
}

void recovery_go(struct recovery *r, void (*step)(struct recovery *r))
{
    r->step = step;
    loop_defer(r->log->loop, &r->task, LOOP_DISPATCH);
}

static void free_memory(struct recovery *r)
{
    struct map_cursor cursor = {0};
    struct found_state *state;

    while ((state = map_next(&r->states, &cursor))) {
        map_remove_number(&r->states, state->queue);
        free(state);
    }
    list_init(&r->states_order);
    if (r->has_scan)
        scan_fini(&r->scan);
    r->has_scan = false;
    buffer_unref(r->metadata_bytes);
    buffer_unref(r->window);
    free(r->names);
    free(r->bad);
    free(r->marks);
    free(r->state_bytes);
    r->metadata_bytes = r->window = NULL;
    r->names = NULL;
    r->bad = NULL;
    r->marks = NULL;
    r->state_bytes = NULL;
}

static void tell_opened(struct recovery *r)
{
    free_memory(r);
    r->opened(r->log->context, r->result, &r->summary, r->result < 0 ? &r->failure : NULL);
}

/* After an error: what is still under way is waited for, files are closed. */
static void wind_up(struct timer *timer)
{
    struct recovery *r = CONTAINER_OF(timer, struct recovery, timer);
    struct log *log = r->log;

    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        if (segment->file && !segment->is_closing && !segment->is_opening)
            segment_close_file(segment);
    }
    if (log->outstanding > 0 || log->files_open > 0) {
        timer_set(timer, loop_now_ns(log->loop) + NANOSECONDS_PER_MS);
        return;
    }
    tell_opened(r);
}

void recovery_end(struct recovery *r, int result)
{
    struct log *log = r->log;

    if (r->is_ended)
        return;
    r->is_ended = true;
    r->result = result;
    fetch_fini(&r->fetch);
    if (result == 0) {
        tell_opened(r);
        return;
    }
    log->has_failed = true;
    log->phase = LOG_CLOSED;
    timer_stop(&log->metadata.retry);
    timer_set(&r->timer, loop_now_ns(log->loop));
}

void recovery_end_with(struct recovery *r, const struct store_request *request, const char *what)
{
    int code = request->result == E_FULL ? E_FULL : E_IO;

    fail(&r->failure, code, "%s: %s", what, request->failure.text);
    recovery_end(r, code);
}

void recovery_failed(struct log *log, const struct failure *why)
{
    log->recovery->failure = *why;
    recovery_end(log->recovery, why->code);
}

void recovery_submit(struct recovery *r, void (*done)(struct store_request *request))
{
    r->request.done = done;
    store_do(r->log, &r->request);
}

void recovery_report(struct recovery *r, const char *format, ...)
{
    struct failure failure = {.code = E_CORRUPT};
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(failure.text, sizeof failure.text, format, arguments);
    va_end(arguments);
    log_error(r->log->options.logger, "log", "corrupt: %s", failure.text);
    r->log->statistics.quarantined++;
    r->log->metadata.damaged = true;
    if (r->functions.corrupt)
        r->functions.corrupt(r->log->context, &failure);
}

/* ---- metadata and files ---- */

static void metadata_read(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    struct log *log = r->log;

    if (request->result == E_NOT_FOUND) {
        r->metadata = (struct metadata){.segment_next = 1, .replay_block = 1, .clean = true};
        recovery_go(r, step_list);
        return;
    }
    if (request->result < 0) {
        recovery_end_with(r, request, "the metadata cannot be read");
        return;
    }
    r->metadata_bytes = request->into;
    log->metadata.version = request->version;
    int result = metadata_decode(slice_of(r->metadata_bytes->data, r->metadata_bytes->size),
                                 &r->metadata, &r->failure);
    if (result < 0) {
        recovery_end(r, result);
        return;
    }
    recovery_go(r, step_list);
}

static bool is_listed(const struct log *log, uint64_t id)
{
    for (size_t i = 0; i < log->segments_count; i++)
        if (log->segments[i]->info.id == id)
            return true;
    return false;
}

static int compare_ids(const void *a, const void *b)
{
    const struct segment *x = *(struct segment *const *)a, *y = *(struct segment *const *)b;

    return x->info.id < y->info.id ? -1 : x->info.id > y->info.id;
}

static int load_segments(struct recovery *r)
{
    struct log *log = r->log;
    struct metadata_segment info;

    for (size_t i = 0; i < r->metadata.segments_count; i++) {
        metadata_segment_decode(&r->metadata, i, &info);
        struct segment *segment = segment_new(log, &info);
        segment->phase = SEGMENT_DONE;
        segment->listed = 1;
        if (segment_is_encrypted(segment) && keys_find(segment, &r->failure) < 0)
            return E_KEY;
        if (info.flags & SEGMENT_ENDED && info.last_block > r->known_durable)
            r->known_durable = info.last_block;
    }
    if (log->segments_count)
        qsort(log->segments, log->segments_count, sizeof *log->segments, compare_ids);
    log->epoch = r->metadata.epoch + 1;
    log->segment_next = r->metadata.segment_next;
    log->metadata.replay_block = log->metadata.replay_durable = r->metadata.replay_block;
    if (r->metadata.durable_block > r->known_durable)
        r->known_durable = r->metadata.durable_block;
    log->synced = log->durable = r->known_durable;
    r->summary.clean = r->metadata.clean;
    return 0;
}

static void listed(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    uint64_t id;

    if (request->result < 0) {
        recovery_end_with(r, request, "the files cannot be listed");
        return;
    }
    r->names = request->names;
    r->names_count = request->count;
    if (load_segments(r) < 0) {
        recovery_end(r, E_KEY);
        return;
    }
    for (size_t i = 0; i < r->names_count && !r->metadata_bytes; i++)
        if (segment_name_parse(r->names[i], &id)) {
            fail(&r->failure, E_CORRUPT, "there is %s, but no metadata", r->names[i]);
            recovery_end(r, E_CORRUPT);
            return;
        }
    if (r->metadata.damaged)
        recovery_report(r, "an earlier start found damage that nobody has accepted yet");
    recovery_go(r, recovery_look);
}

static void step_list(struct recovery *r)
{
    r->request = (struct store_request){.operation = STORE_LIST};
    recovery_submit(r, listed);
}

static bool remove_orphan(struct recovery *r);

static void step_orphans(struct recovery *r)
{
    if (remove_orphan(r))
        return;
    r->at = 0;
    recovery_go(r, recovery_seal);
}

/* The epoch is the first thing that changes. */
void recovery_ask(struct recovery *r)
{
    int result = r->functions.told ? r->functions.told(r->log->context, &r->failure) : 0;

    if (result < 0) {
        recovery_end(r, result);
        return;
    }
    r->waits_for_metadata = true;
    metadata_touch(r->log);
}

static void orphan_removed(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    if (request->result < 0)
        log_warning(r->log->options.logger, "log", "%s, which no list names, stays: %s",
                    r->names[r->names_at], request->failure.text);
    r->names_at++;
    recovery_go(r, step_orphans);
}

void recovery_metadata_done(struct log *log)
{
    struct recovery *r = log->recovery;

    if (!r || !r->waits_for_metadata)
        return;
    r->waits_for_metadata = false;
    recovery_go(r, step_orphans);
}

/* Files that the metadata does not list: made and never listed, or dead and not yet gone. */
static bool remove_orphan(struct recovery *r)
{
    uint64_t id;

    for (; r->names_at < r->names_count; r->names_at++) {
        if (!segment_name_parse(r->names[r->names_at], &id) || is_listed(r->log, id))
            continue;
        r->request =
            (struct store_request){.operation = STORE_REMOVE, .name = r->names[r->names_at]};
        recovery_submit(r, orphan_removed);
        return true;
    }
    return false;
}

/* ---- opening, scanning and closing one segment; then r->next ---- */

static void opened_segment(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    struct segment *segment = segment_now(r);

    if (request->result == 0) {
        segment->file = request->file;
        segment->file_size = request->size;
        r->log->files_open++;
    } else if (request->result != E_NOT_FOUND) {
        recovery_end_with(r, request, "a segment cannot be opened");
        return;
    }
    recovery_go(r, r->next);
}

void recovery_open(struct recovery *r, bool direct, void (*next)(struct recovery *r))
{
    r->next = next;
    if (segment_now(r)->file) { /* left open by what read states and the catalog */
        recovery_go(r, next);
        return;
    }
    r->request = (struct store_request){
        .operation = STORE_OPEN, .name = segment_now(r)->name, .direct = direct};
    recovery_submit(r, opened_segment);
}

static void closed_segment(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    segment_now(r)->file = NULL;
    r->log->files_open--;
    recovery_go(r, r->next);
}

void recovery_close(struct recovery *r, void (*next)(struct recovery *r))
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        recovery_go(r, next);
        return;
    }
    r->next = next;
    r->request = (struct store_request){.operation = STORE_CLOSE, .file = segment->file};
    recovery_submit(r, closed_segment);
}

static void window_read(struct store_request *request);

static void scan_on(struct recovery *r)
{
    uint64_t offset;

    if (!scan_wants(&r->scan, &offset)) {
        scan_fini(&r->scan);
        r->has_scan = false;
        recovery_go(r, r->next);
        return;
    }
    uint64_t left = r->scan.end - offset;
    r->window->size = 0;
    r->request = (struct store_request){.operation = STORE_READ,
                                        .file = segment_now(r)->file,
                                        .offset = offset,
                                        .size = left < WINDOW_BYTES ? left : WINDOW_BYTES,
                                        .into = r->window};
    recovery_submit(r, window_read);
}

static void window_read(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    if (request->result < 0) {
        recovery_end_with(r, request, "a segment cannot be read");
        return;
    }
    scan_feed(&r->scan, slice_of(r->window->data, r->window->size));
    scan_on(r);
}

static void scan_with_keys(struct recovery *r, const struct segment *segment, bool footer)
{
    uint8_t key[CIPHER_KEY_SIZE];

    memcpy(key, segment->keys.blocks, sizeof key);
    if (footer)
        segment_keys_footer(&segment->keys, segment->salt, key);
    scan_decrypt(&r->scan, r->log->cipher, key);
    cipher_wipe(key, sizeof key);
}

void recovery_scan(struct recovery *r, const struct scan_visitor *visitor, uint64_t offset,
                   uint64_t scan_end, bool footer, void (*next)(struct recovery *r))
{
    const struct segment *segment = segment_now(r);

    (footer ? scan_init_footer : scan_init)(&r->scan, visitor, r, segment->info.id,
                                            segment->info.epoch, offset, scan_end);
    if (segment_is_encrypted(segment))
        scan_with_keys(r, segment, footer);
    r->has_scan = true;
    r->next = next;
    scan_on(r);
}

/* ---- sealing what was open ---- */

static void seal_next(struct recovery *r)
{
    r->at++;
    recovery_go(r, recovery_seal);
}

/* What was read must not be lost by the next power cut, whether there is room for a footer or not.
 */
static void synced(struct store_request *request)
{
    struct recovery *r = recovery_of(request);
    struct segment *segment = segment_now(r);

    if (request->result < 0) {
        recovery_end_with(r, request, "a segment cannot be synced");
        return;
    }
    if (segment->footer) { /* it was there already */
        segment->info.flags |= SEGMENT_ENDED | SEGMENT_SEALED;
        recovery_close(r, seal_next);
        return;
    }
    segment->info.flags |= SEGMENT_ENDED;
    r->next = seal_next;
    /* right behind the last block, whose padding may not be there */
    uint64_t offset = segment->file_size;
    if (!(segment->info.flags & SEGMENT_QUARANTINED) && segment->end < offset)
        offset = segment->end;
    segment_close(segment, offset);
}

static void truncated(struct store_request *request)
{
    struct recovery *r = recovery_of(request);

    if (request->result == E_INVALID) { /* sealed, by a footer that has turned bad since */
        segment_now(r)->info.flags |= SEGMENT_ENDED | SEGMENT_SEALED;
        segment_now(r)->info.end = segment_now(r)->end;
        recovery_close(r, seal_next);
        return;
    }
    if (request->result < 0) {
        recovery_end_with(r, request, "a torn tail cannot be cut off");
        return;
    }
    segment_now(r)->file_size = segment_now(r)->end;
    r->request = (struct store_request){.operation = STORE_SYNC, .file = segment_now(r)->file};
    recovery_submit(r, synced);
}

static void seal_file(struct recovery *r)
{
    struct segment *segment = segment_now(r);

    if (!segment->file) {
        seal_next(r);
        return;
    }
    if (segment->file_size > segment->end && !(segment->info.flags & SEGMENT_QUARANTINED) &&
        !segment->footer) {
        r->request = (struct store_request){
            .operation = STORE_TRUNCATE, .file = segment->file, .offset = segment->end};
        recovery_submit(r, truncated);
        return;
    }
    /* with its footer already there, sealing also drops what the store has reserved behind it */
    r->request = (struct store_request){.operation = segment->footer ? STORE_SEAL : STORE_SYNC,
                                        .file = segment->file};
    recovery_submit(r, synced);
}

/* The footer is written, or not: then the segment is read as a whole next time, too. */
void recovery_segment_closed(struct log *log)
{
    struct recovery *r = log->recovery;

    if (!r->is_ended)
        recovery_close(r, seal_next);
}

void recovery_seal(struct recovery *r)
{
    struct log *log = r->log;

    while (r->at < log->segments_count) {
        struct segment *segment = segment_now(r);
        if (segment->info.first_block == 0 && !(segment->info.flags & SEGMENT_QUARANTINED)) {
            segment_drop(segment);
            continue;
        }
        if (segment->was_unsealed && segment->info.first_block)
            break;
        r->at++;
    }
    if (r->at == log->segments_count) {
        recovery_go(r, step_end);
        return;
    }
    recovery_open(r, false, seal_file);
}

static void step_end(struct recovery *r)
{
    struct log *log = r->log;

    log->durable = log->synced = log->last = r->last;
    metadata_touch(log);
    log_info(log->options.logger, "log",
             "%zu segments, last block %llu, %llu bytes torn, %llu blocks corrupt",
             log->segments_count, (unsigned long long)r->last,
             (unsigned long long)r->summary.torn_bytes,
             (unsigned long long)r->summary.corrupt_blocks);
    log_start(log);
    recovery_end(r, 0);
}

void recovery_begin(struct log *log, const struct log_recovery *functions,
                    void (*opened)(void *context, int result, const struct log_opened *summary,
                                   const struct failure *failure))
{
    struct recovery *r = memory_new(sizeof *r);

    log->recovery = r;
    r->log = log;
    r->functions = *functions;
    r->opened = opened;
    r->window = buffer_new(WINDOW_BYTES);
    ASSERT(r->window);
    task_init(&r->task, run_step);
    timer_init(&r->timer, log->loop, wind_up);
    fetch_init(&r->fetch, log, recovery_fetched);
    map_init_numbers(&r->states, loop_random(log->loop));
    list_init(&r->states_order);
    r->request = (struct store_request){.operation = STORE_META_READ};
    recovery_submit(r, metadata_read);
}

void recovery_free(struct log *log)
{
    struct recovery *r = log->recovery;

    if (!r)
        return;
    free_memory(r);
    map_fini(&r->states);
    if (r->collected)
        block_free(r->collected);
    if (r->fetch.buffer)
        buffer_unref(r->fetch.buffer);
    free(r);
    log->recovery = NULL;
}
