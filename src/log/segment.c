#include "log/log_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void segment_name(uint64_t id, char name[SEGMENT_NAME_SIZE])
{
    snprintf(name, SEGMENT_NAME_SIZE, "segment-%016" PRIx64, id);
}

bool segment_name_parse(const char *name, uint64_t *id)
{
    char again[SEGMENT_NAME_SIZE];

    if (sscanf(name, "segment-%16" SCNx64, id) != 1)
        return false;
    segment_name(*id, again);
    return strcmp(name, again) == 0;
}

struct segment *segment_new(struct log *log, const struct metadata_segment *info)
{
    struct segment *segment = memory_new(sizeof *segment);

    segment->log = log;
    segment->info = *info;
    segment_name(info->id, segment->name);
    list_init(&segment->waiting);
    list_init(&segment->link);
    VECTOR_RESERVE(log->segments, log->segments_capacity, log->segments_count + 1);
    log->segments[log->segments_count++] = segment;
    return segment;
}

void segment_free(struct segment *segment)
{
    if (segment->index)
        block_free(segment->index);
    free(segment->offsets);
    free(segment->bytes);
    free(segment->slices);
    sealing_fini(&segment->sealing);
    cipher_wipe(&segment->keys, sizeof segment->keys);
    free(segment);
}

static int compare(const void *a, const void *b)
{
    const struct segment *x = *(struct segment *const *)a, *y = *(struct segment *const *)b;
    uint64_t m = x->info.first_block ? x->info.first_block : UINT64_MAX;
    uint64_t n = y->info.first_block ? y->info.first_block : UINT64_MAX;

    if (m != n)
        return m < n ? -1 : 1;
    return x->info.id < y->info.id ? -1 : x->info.id > y->info.id;
}

void segments_sort(struct log *log)
{
    if (log->segments_count)
        qsort(log->segments, log->segments_count, sizeof *log->segments, compare);
}

struct segment *segment_of_block(const struct log *log, uint64_t block)
{
    size_t low = 0, high = log->segments_count;

    /* the last one that begins at the block or before */
    while (low < high) {
        size_t middle = low + (high - low) / 2;
        uint64_t first = log->segments[middle]->info.first_block;
        if (first != 0 && first <= block)
            low = middle + 1;
        else
            high = middle;
    }
    if (low == 0)
        return NULL;
    struct segment *segment = log->segments[low - 1];
    return block <= segment->info.last_block ? segment : NULL;
}

void segment_add_block(struct segment *segment, uint64_t block, uint64_t offset, uint64_t size)
{
    if (segment->info.first_block == 0)
        segment->info.first_block = block;
    ASSERT(offset % SECTOR_SIZE == 0 && offset / SECTOR_SIZE <= UINT32_MAX);
    ASSERT(block >= segment->info.first_block + segment->offsets_count);
    size_t index = (size_t)(block - segment->info.first_block);
    VECTOR_RESERVE(segment->offsets, segment->offsets_capacity, index + 1);
    while (segment->offsets_count < index) /* those between cannot be read */
        segment->offsets[segment->offsets_count++] = 0;
    segment->offsets[segment->offsets_count++] = (uint32_t)(offset / SECTOR_SIZE);
    segment->info.last_block = block;
    segment->end = offset + size;
}

uint64_t segment_block_offset(const struct segment *segment, uint64_t block, uint64_t *end)
{
    size_t index = (size_t)(block - segment->info.first_block);

    if (block < segment->info.first_block || index >= segment->offsets_count)
        return 0;
    uint64_t offset = (uint64_t)segment->offsets[index] * SECTOR_SIZE;
    *end = segment->end;
    while (++index < segment->offsets_count)
        if (segment->offsets[index]) {
            *end = (uint64_t)segment->offsets[index] * SECTOR_SIZE;
            break;
        }
    return offset;
}

/* ---- the footer ---- */

static struct block *index_of(struct segment *segment)
{
    struct log *log = segment->log;

    if (!segment->index)
        segment->index = block_new(&log->pool, segment->info.epoch, 0, BLOCK_FOOTER);
    return segment->index;
}

void segment_index_block(struct segment *segment, const struct block *block)
{
    uint8_t head[VARINT_SIZE_MAX];
    struct writer w = writer_of(head, sizeof head);

    write_varint(&w, block->header.block);
    if (block->index_size) {
        block_append(index_of(segment), RECORD_INDEX_MESSAGES, slice_of(head, writer_size(&w)),
                     slice_of(block->index, block->index_size), false);
    }
    if (block->marks_size)
        block_append(index_of(segment), RECORD_INDEX_MARKS, slice_of(NULL, 0),
                     slice_of(block->marks, block->marks_size), false);
}

static void index_offsets(struct segment *segment)
{
    size_t capacity = (segment->offsets_count + 1) * VARINT_SIZE_MAX;
    uint8_t *bytes = memory_new(capacity);
    struct writer w = writer_of(bytes, capacity);

    write_varint(&w, segment->info.first_block);
    for (size_t i = 0; i < segment->offsets_count; i++)
        write_varint(&w, segment->offsets[i]);
    ASSERT(!w.failed);
    block_append(index_of(segment), RECORD_INDEX_BLOCKS, slice_of(bytes, writer_size(&w)),
                 slice_of(NULL, 0), false);
    free(bytes);
}

void segment_finish_index(struct segment *segment)
{
    index_offsets(segment);
    struct block *index = segment->index;
    block_close(index, segment_is_encrypted(segment));
    block_seal(index, segment->info.id, segment->log->synced, loop_wall_ms(segment->log->loop));
}

/* ---- going ---- */

static void removed(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, request);
    struct log *log = segment->log;

    store_did(log);
    if (request->result < 0 && request->result != E_NOT_FOUND)
        log_warning(log->options.logger, "log", "%s could not be removed: %s", segment->name,
                    request->failure.text);
    list_remove(&segment->link);
    segment_free(segment);
    log_step_close(log);
}

static void remove_file(struct segment *segment)
{
    segment->request =
        (struct store_request){.operation = STORE_REMOVE, .name = segment->name, .done = removed};
    store_do(segment->log, &segment->request);
}

static void closed_to_remove(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, request);

    store_did(segment->log);
    segment->file = NULL;
    segment->log->files_open--;
    remove_file(segment);
}

/* It has left the durable metadata: nobody will ever look for it again. */
static void remove_now(struct segment *segment)
{
    ASSERT(segment->phase == SEGMENT_REMOVING && segment->readers == 0);
    segment->listed = UINT64_MAX; /* once */
    if (!segment->file) {
        remove_file(segment);
        return;
    }
    segment->request = (struct store_request){
        .operation = STORE_CLOSE, .file = segment->file, .done = closed_to_remove};
    store_do(segment->log, &segment->request);
}

void segment_drop(struct segment *segment)
{
    struct log *log = segment->log;
    size_t at = 0;

    ASSERT(segment->live == 0 && segment->states == 0 && segment->readers == 0);
    while (log->segments[at] != segment)
        at++;
    memmove(&log->segments[at], &log->segments[at + 1],
            (log->segments_count - at - 1) * sizeof *log->segments);
    log->segments_count--;
    cache_forget(log, segment);
    list_append(&log->removing, &segment->link);
    segment->phase = SEGMENT_REMOVING;
    segment->listed = metadata_touch(log);
    log->statistics.segments_removed++;
}

void segments_metadata_done(struct log *log)
{
    LIST_EACH (&log->removing, link) {
        struct segment *segment = CONTAINER_OF(link, struct segment, link);
        if (metadata_has(log, segment->listed) && !segment->is_opening && !segment->is_closing)
            remove_now(segment);
    }
}
