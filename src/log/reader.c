/*
 * Records back from the store: whole chunks are read, several in one go where positions are near
 * each other, and nothing is handed out that does not match its checksum.
 */
#include "log/log_private.h"

#include <stdlib.h>

#define READ_RUN_BYTES (512u << 10) /* of one request, for several chunks */
#define READ_GAP_BYTES (64u << 10)  /* read over rather than ask twice */

/* ---- bytes of a segment ---- */

void fetch_init(struct fetch *fetch, struct log *log, void (*done)(struct fetch *fetch, int result))
{
    *fetch = (struct fetch){.log = log, .done = done};
    list_init(&fetch->link);
}

static void unpin(struct segment *segment)
{
    ASSERT(segment->readers > 0);
    segment->readers--;
    if (segment->readers == 0 && segment->live == 0)
        reclaim_defer(segment->log);
}

static void fetch_let_go(struct fetch *fetch)
{
    struct segment *segment = fetch->segment;

    buffer_unref(fetch->buffer);
    fetch->buffer = NULL;
    fetch->chunk_offset = 0;
    fetch->segment = NULL;
    if (segment)
        unpin(segment);
}

void fetch_fini(struct fetch *fetch)
{
    ASSERT(!fetch->in_flight);
    fetch_let_go(fetch);
}

static struct cached_bytes *cache_find(struct log *log, const struct segment *segment,
                                       uint64_t offset, size_t size)
{
    for (size_t i = 0; i < CACHE_ENTRIES; i++) {
        struct cached_bytes *entry = &log->cache[i];
        if (entry->segment == segment && entry->offset <= offset &&
            offset + size <= entry->offset + entry->buffer->size) {
            entry->used = ++log->cache_clock;
            return entry;
        }
    }
    return NULL;
}

static void cache_add(struct log *log, const struct fetch *fetch)
{
    struct cached_bytes *oldest = &log->cache[0];

    if (fetch->buffer->capacity > READ_RUN_BYTES + CHUNK_SIZE_MAX)
        return;
    for (size_t i = 1; i < CACHE_ENTRIES; i++)
        if (log->cache[i].used < oldest->used)
            oldest = &log->cache[i];
    buffer_unref(oldest->buffer);
    *oldest = (struct cached_bytes){fetch->segment, fetch->offset, buffer_ref(fetch->buffer),
                                    ++log->cache_clock};
}

void cache_forget(struct log *log, const struct segment *segment)
{
    for (size_t i = 0; i < CACHE_ENTRIES; i++)
        if (!segment || log->cache[i].segment == segment) {
            buffer_unref(log->cache[i].buffer);
            log->cache[i] = (struct cached_bytes){0};
        }
    if (!segment || log->decrypted.segment == segment)
        log->decrypted.segment = NULL;
}

static void fetch_end(struct fetch *fetch, int result)
{
    fetch->in_flight = false;
    if (result < 0)
        fetch_let_go(fetch);
    fetch->done(fetch, result);
}

static void fetched(struct store_request *request)
{
    struct fetch *fetch = CONTAINER_OF(request, struct fetch, request);
    struct log *log = fetch->log;

    log->statistics.reads++;
    if (request->result == 0) {
        log->statistics.read_bytes += fetch->buffer->size;
        cache_add(log, fetch);
    }
    fetch_end(fetch, request->result);
}

static void fetch_read(struct fetch *fetch)
{
    fetch->request = (struct store_request){.operation = STORE_READ,
                                            .file = fetch->segment->file,
                                            .offset = fetch->offset,
                                            .size = fetch->buffer->capacity,
                                            .into = fetch->buffer,
                                            .done = fetched};
    store_submit(fetch->log->store, &fetch->request);
}

/* ---- files of sealed segments, opened when they are read ---- */

static void idle_closed(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, open_request);
    struct log *log = segment->log;

    store_did(log);
    segment->file = NULL;
    segment->is_closing = false;
    log->files_open--;
    if (!list_empty(&segment->waiting))
        segment_open(segment, false);
    segments_metadata_done(log); /* it may be waiting to be removed */
    log_step_close(log);
}

static void close_idle_file(struct log *log)
{
    struct segment *oldest = NULL;

    for (size_t i = 0; i < log->segments_count; i++) {
        struct segment *segment = log->segments[i];
        if (segment->phase == SEGMENT_DONE && segment->file && segment->readers == 0 &&
            !segment->is_closing && (!oldest || segment->used < oldest->used))
            oldest = segment;
    }
    if (oldest)
        segment_close_file(oldest);
}

void segment_close_file(struct segment *segment)
{
    ASSERT(segment->file && !segment->is_closing && !segment->is_opening && !segment->readers);
    segment->is_closing = true;
    segment->open_request = (struct store_request){
        .operation = STORE_CLOSE, .file = segment->file, .done = idle_closed};
    store_do(segment->log, &segment->open_request);
}

static void opened(struct store_request *request)
{
    struct segment *segment = CONTAINER_OF(request, struct segment, open_request);
    struct log *log = segment->log;
    int result = request->result; /* who waits may open it again, with the same request */
    struct list *link;

    store_did(log);
    segment->is_opening = false;
    if (result == 0) {
        segment->file = request->file;
        segment->file_size = request->size;
        log->files_open++;
        if (log->files_open > SEGMENT_FILES_MAX)
            close_idle_file(log);
    }
    struct list waiting;
    list_init(&waiting);
    list_move_all(&waiting, &segment->waiting);
    while ((link = list_take_first(&waiting))) {
        struct fetch *fetch = CONTAINER_OF(link, struct fetch, link);
        if (result < 0)
            fetch_end(fetch, result);
        else
            fetch_read(fetch);
    }
    log_step_close(log);
}

void segment_open(struct segment *segment, bool direct)
{
    if (segment->is_opening || segment->is_closing)
        return;
    segment->is_opening = true;
    segment->open_request = (struct store_request){
        .operation = STORE_OPEN, .name = segment->name, .direct = direct, .done = opened};
    store_do(segment->log, &segment->open_request);
}

int fetch_bytes(struct fetch *fetch, struct segment *segment, uint64_t offset, size_t size,
                struct slice *bytes)
{
    struct log *log = fetch->log;

    ASSERT(!fetch->in_flight && size > 0);
    if (fetch->buffer && fetch->segment == segment && fetch->offset <= offset &&
        (offset + size <= fetch->offset + fetch->buffer->size ||
         (fetch->offset == offset && fetch->buffer->capacity >= size))) {
        size_t from = (size_t)(offset - fetch->offset);
        size_t there = fetch->buffer->size - from;
        *bytes = slice_of(fetch->buffer->data + from, there < size ? there : size);
        return 0;
    }
    fetch_let_go(fetch);
    fetch->segment = segment;
    segment->readers++;
    segment->used = ++log->cache_clock;
    struct cached_bytes *entry = cache_find(log, segment, offset, size);
    if (entry) {
        fetch->buffer = buffer_ref(entry->buffer);
        fetch->offset = entry->offset;
        *bytes = slice_of(fetch->buffer->data + (offset - fetch->offset), size);
        return 0;
    }
    if (fetch->ahead > size)
        size = fetch->ahead;
    fetch->buffer = buffer_new(size);
    if (!fetch->buffer) {
        fetch_let_go(fetch);
        return E_MEMORY;
    }
    fetch->offset = offset;
    fetch->in_flight = true;
    if (segment->file && !segment->is_closing) {
        fetch_read(fetch);
    } else {
        list_append(&segment->waiting, &fetch->link);
        segment_open(segment, log->phase == LOG_RECOVERING && segment->was_unsealed);
    }
    return E_AGAIN;
}

/* ---- a record ---- */

static int corrupt(struct failure *failure, const struct segment *segment, uint64_t position,
                   const char *what)
{
    return fail(failure, E_CORRUPT, "%s: block %llu, chunk %u: %s",
                segment ? segment->name : "no segment",
                (unsigned long long)position_block(position), position_chunk(position), what);
}

/* Decrypted once as long as no other is: several readers may come to the same chunk. */
static int decrypt_chunk(const struct segment *segment, struct slice bytes, uint64_t offset,
                         uint64_t block, uint64_t number, struct chunk *chunk)
{
    struct log *log = segment->log;
    struct opened_chunk *last = &log->decrypted;

    if (last->segment != segment || last->offset != offset) {
        if (!last->bytes)
            last->bytes = memory_new(CHUNK_PAYLOAD_MAX);
        last->segment = NULL;
        int result = chunk_open(log->cipher, segment->keys.blocks, bytes, segment->info.id,
                                segment->info.epoch, block, number, last->bytes, &last->chunk);
        if (result < 0)
            return result;
        last->segment = segment;
        last->offset = offset;
    }
    *chunk = last->chunk;
    return 0;
}

/* The chunk at that offset, checked once as long as its bytes stay: until the next call. */
static int fetch_chunk(struct fetch *fetch, struct slice bytes, uint64_t offset, uint64_t block,
                       uint64_t number, struct chunk *chunk)
{
    if (segment_is_encrypted(fetch->segment))
        return decrypt_chunk(fetch->segment, bytes, offset, block, number, chunk);
    if (fetch->chunk_offset == offset) {
        *chunk = fetch->chunk;
        return 0;
    }
    int result = chunk_decode(bytes, fetch->segment->info.epoch, block, number, chunk);
    if (result == 0) {
        fetch->chunk = *chunk;
        fetch->chunk_offset = offset;
    }
    return result;
}

/* A record that goes on in later chunks. */
static int assemble(struct fetch *fetch, struct segment *segment, uint64_t position, uint64_t start,
                    uint64_t end, uint32_t offset, uint64_t size, struct buffer **assembled)
{
    uint32_t number = position_chunk(position);
    uint64_t chunks = 1 + chunks_for(size - (CHUNK_PAYLOAD_MAX - offset));
    uint64_t wanted = chunks * CHUNK_SIZE_MAX;
    struct chunk chunk;
    struct slice bytes;

    if (size > BLOCK_RECORDS_MAX || start + (chunks - 1) * CHUNK_SIZE_MAX >= end)
        return E_CORRUPT;
    int result = fetch_bytes(fetch, segment, start,
                             (size_t)(wanted < end - start ? wanted : end - start), &bytes);
    if (result < 0)
        return result;
    struct buffer *whole = buffer_new((size_t)size);
    if (!whole)
        return E_MEMORY;
    for (uint64_t i = 0; i < chunks; i++) {
        size_t at = (size_t)(i * CHUNK_SIZE_MAX);
        result = at < bytes.size
                     ? fetch_chunk(fetch, slice_of(bytes.data + at, bytes.size - at), start + at,
                                   position_block(position), number + i, &chunk)
                     : E_CORRUPT;
        if (result < 0 || (i + 1 < chunks && chunk.payload.size < CHUNK_PAYLOAD_MAX) ||
            chunk.header.flags) {
            buffer_unref(whole);
            return E_CORRUPT;
        }
        size_t from = i == 0 ? offset : 0;
        size_t part = chunk.payload.size - from;
        if (part > size - whole->size)
            part = (size_t)size - whole->size;
        memcpy(whole->data + whole->size, chunk.payload.data + from, part);
        whole->size += (uint32_t)part;
    }
    if (whole->size < size) {
        buffer_unref(whole);
        return E_CORRUPT;
    }
    *assembled = whole;
    return 0;
}

int fetch_record(struct fetch *fetch, uint64_t position, struct record *record,
                 struct buffer **assembled, struct failure *failure)
{
    struct segment *segment = segment_of_block(fetch->log, position_block(position));
    uint64_t end;
    uint64_t block = segment ? segment_block_offset(segment, position_block(position), &end) : 0;
    struct chunk chunk;
    struct slice bytes;
    uint32_t offset;
    uint64_t size;

    *assembled = NULL;
    if (block == 0)
        return corrupt(failure, segment, position, "the block is not there");
    uint64_t start =
        block + BLOCK_HEADER_SIZE + (uint64_t)position_chunk(position) * CHUNK_SIZE_MAX;
    if (start >= end)
        return corrupt(failure, segment, position, "the block has no such chunk");
    size_t wanted = end - start < CHUNK_SIZE_MAX ? (size_t)(end - start) : CHUNK_SIZE_MAX;
    int result = fetch_bytes(fetch, segment, start, wanted, &bytes);
    if (result == E_AGAIN)
        return result;
    if (result < 0)
        return fail(failure, result, "%s cannot be read", segment->name);
    if (fetch_chunk(fetch, bytes, start, position_block(position), position_chunk(position),
                    &chunk) < 0)
        return corrupt(failure, segment, position, "it does not match its checksum");
    if (chunk_find_record(&chunk, position_index(position), &record->type, &offset, &size) < 0)
        return corrupt(failure, segment, position, "there is no such record");
    if (size <= chunk.payload.size - offset) {
        record->payload = slice_of(chunk.payload.data + offset, (size_t)size);
        return 0;
    }
    result = assemble(fetch, segment, position, start, end, offset, size, assembled);
    if (result == E_CORRUPT)
        return corrupt(failure, segment, position, "a record that begins there is not whole");
    if (result == 0)
        record->payload = slice_of((*assembled)->data, (*assembled)->size);
    return result;
}

/* ---- reading messages ---- */

struct read_job {
    struct list link;
    struct log *log;
    struct log_read *read;
    struct fetch fetch;
    struct task task;
    uint8_t order[LOG_READ_MAX]; /* by position */
    size_t at;
    struct segment *pins[LOG_READ_MAX]; /* which must not go meanwhile */

    /* a body among the attachments, on its way */
    struct buffer *content;
    uint64_t attachment, content_size;
    struct block_header header;
    bool has_header;
};

static struct segment *place_of(const struct log *log, uint64_t position, uint64_t *start,
                                uint64_t *end)
{
    struct segment *segment = segment_of_block(log, position_block(position));
    uint64_t block = segment ? segment_block_offset(segment, position_block(position), end) : 0;

    *start = block + BLOCK_HEADER_SIZE + (uint64_t)position_chunk(position) * CHUNK_SIZE_MAX;
    return block ? segment : NULL;
}

/* How much to read from the chunk of this position on, so that the next ones come along. */
static size_t run_ahead(const struct read_job *job)
{
    uint64_t start, end, next_start, next_end;
    const struct log_read *read = job->read;
    struct segment *segment =
        place_of(job->log, read->positions[job->order[job->at]], &start, &end);
    uint64_t run_end = start;

    for (size_t i = job->at; segment && i < read->count; i++) {
        if (place_of(job->log, read->positions[job->order[i]], &next_start, &next_end) != segment ||
            next_start > run_end + READ_GAP_BYTES || next_start - start > READ_RUN_BYTES)
            break;
        uint64_t chunk_end = next_start + CHUNK_SIZE_MAX;
        if (chunk_end > next_end)
            chunk_end = next_end;
        if (chunk_end > run_end)
            run_end = chunk_end;
    }
    return (size_t)(run_end - start);
}

static int decode(struct read_job *job, struct slice content, size_t index)
{
    return message_decode(job->log->options.account, content, &job->read->messages[index]);
}

/* The next pieces of the body, of up to 8 chunks each. */
static int read_attachment(struct read_job *job, uint64_t position, size_t index)
{
    struct fetch *fetch = &job->fetch;
    uint64_t end;
    struct segment *segment = segment_of_block(job->log, position_block(position));
    uint64_t block = segment ? segment_block_offset(segment, position_block(position), &end) : 0;
    struct slice bytes;
    struct chunk chunk;
    int result;

    if (block == 0)
        return E_CORRUPT;
    fetch->ahead = 0;
    if (!job->has_header) {
        result = fetch_bytes(fetch, segment, block, BLOCK_HEADER_SIZE, &bytes);
        if (result < 0)
            return result;
        if (block_header_decode(bytes, &job->header) < 0 ||
            job->header.block != position_block(position) ||
            job->attachment + (job->content_size - job->content->size) >
                job->header.attachment_bytes)
            return E_CORRUPT;
        job->has_header = true;
    }
    uint64_t records = chunks_for(job->header.record_bytes);
    while (job->content->size < job->content_size) {
        uint64_t number = records + job->attachment / CHUNK_PAYLOAD_MAX;
        uint64_t start = block + block_chunk_offset(&job->header, number);
        uint64_t run = 8ull * CHUNK_SIZE_MAX;
        fetch->ahead = (size_t)(run < end - start ? run : end - start);
        size_t size = CHUNK_HEADER_SIZE + block_chunk_payload(&job->header, number);
        result = fetch_bytes(fetch, segment, start, size, &bytes);
        if (result < 0)
            return result;
        if (fetch_chunk(fetch, bytes, start, position_block(position), number, &chunk) < 0 ||
            chunk.header.flags != CHUNK_ATTACHMENT)
            return E_CORRUPT;
        size_t from = (size_t)(job->attachment % CHUNK_PAYLOAD_MAX);
        if (from >= chunk.payload.size)
            return E_CORRUPT;
        size_t part = chunk.payload.size - from;
        if (part > job->content_size - job->content->size)
            part = (size_t)job->content_size - job->content->size;
        memcpy(job->content->data + job->content->size, chunk.payload.data + from, part);
        job->content->size += (uint32_t)part;
        job->attachment += part;
    }
    return decode(job, slice_of(job->content->data, job->content->size), index);
}

static int begin_attachment(struct read_job *job, const struct message_record *record,
                            uint64_t position, size_t index)
{
    uint64_t size = record->content.size + record->body_size;

    if (size > UINT32_MAX)
        return E_CORRUPT;
    job->content = buffer_new((size_t)size);
    if (!job->content)
        return E_MEMORY;
    memcpy(job->content->data, record->content.data, record->content.size);
    job->content->size = (uint32_t)record->content.size;
    job->content_size = size;
    job->attachment = record->attachment;
    job->has_header = false;
    return read_attachment(job, position, index);
}

static int read_from_store(struct read_job *job, uint64_t position, size_t index)
{
    struct record record;
    struct message_record message;
    struct buffer *assembled;

    if (job->content)
        return read_attachment(job, position, index);
    job->fetch.ahead = run_ahead(job);
    int result = fetch_record(&job->fetch, position, &record, &assembled, NULL);
    if (result < 0)
        return result;
    if (record.type != RECORD_MESSAGE || message_record_decode(record.payload, &message) < 0)
        result = E_CORRUPT;
    else if (message.flags & MESSAGE_ATTACHED)
        result = begin_attachment(job, &message, position, index);
    else
        result = decode(job, message.content, index);
    buffer_unref(assembled);
    return result;
}

/* What is in memory is there at once; the segments of the rest stay until they were read. */
static void job_begin_one(struct read_job *job, size_t index)
{
    struct log *log = job->log;
    uint64_t position = job->read->positions[index];
    uint64_t number = position_block(position);

    job->read->messages[index] = NULL;
    if (log->open && number > log->durable) {
        struct block *block = block_in_memory(log, number);
        struct message *message = block ? block_find(block, position) : NULL;
        if (message)
            job->read->messages[index] = message_ref(message);
        return;
    }
    job->pins[index] = segment_of_block(log, number);
    if (job->pins[index])
        job->pins[index]->readers++;
}

static int read_one(struct read_job *job, size_t index)
{
    if (job->read->messages[index])
        return 0;
    if (!job->pins[index])
        return E_CORRUPT;
    return read_from_store(job, job->read->positions[index], index);
}

static void job_free(struct read_job *job)
{
    list_remove(&job->link);
    task_cancel(&job->task);
    buffer_unref(job->content);
    free(job);
}

static void job_end_one(struct read_job *job, int result)
{
    size_t index = job->order[job->at++];

    buffer_unref(job->content);
    job->content = NULL;
    if (job->pins[index])
        unpin(job->pins[index]);
    job->pins[index] = NULL;
    job->read->results[index] = result;
    if (result < 0)
        job->read->messages[index] = NULL;
    if (result == E_CORRUPT) {
        job->log->statistics.corrupt_reads++;
        log_error(job->log->options.logger, "log", "position %llu cannot be read: corrupt",
                  (unsigned long long)job->read->positions[index]);
    }
}

static void job_run(struct task *task)
{
    struct read_job *job = CONTAINER_OF(task, struct read_job, task);
    struct log *log = job->log;
    struct log_read *read = job->read;
    uint64_t until_ns = loop_precise_ns(log->loop) + TURN_SLICE_NS;

    while (job->at < read->count) {
        int result = read_one(job, job->order[job->at]);
        if (result == E_AGAIN)
            return;
        job_end_one(job, result);
        if (loop_precise_ns(log->loop) >= until_ns && job->at < read->count) {
            loop_defer(log->loop, &job->task, LOOP_DISPATCH);
            return;
        }
    }
    fetch_fini(&job->fetch);
    job_free(job);
    read->done(read);
    log_step_close(log);
}

static void job_fetched(struct fetch *fetch, int result)
{
    struct read_job *job = CONTAINER_OF(fetch, struct read_job, fetch);

    if (result < 0)
        job_end_one(job, result == E_MEMORY ? E_MEMORY : E_IO);
    job_run(&job->task);
}

void log_read(struct log *log, struct log_read *read)
{
    struct read_job *job = memory_new(sizeof *job);

    ASSERT(read->count <= LOG_READ_MAX && read->done);
    job->log = log;
    job->read = read;
    read->internal = job;
    fetch_init(&job->fetch, log, job_fetched);
    task_init(&job->task, job_run);
    list_init(&job->link);
    list_append(&log->reads, &job->link);
    for (size_t i = 0; i < read->count; i++) {
        size_t at = i;
        for (; at > 0 && read->positions[job->order[at - 1]] > read->positions[i]; at--)
            job->order[at] = job->order[at - 1];
        job->order[at] = (uint8_t)i;
        job_begin_one(job, i);
    }
    loop_defer(log->loop, &job->task, LOOP_DISPATCH);
}

void reads_fini(struct log *log)
{
    LIST_EACH (&log->reads, link) {
        struct read_job *job = CONTAINER_OF(link, struct read_job, link);
        for (size_t i = 0; i < job->read->count; i++)
            if (job->read->messages[i])
                message_unref(job->read->messages[i]);
        buffer_unref(job->fetch.buffer);
        job_free(job);
    }
    cache_forget(log, NULL);
}
