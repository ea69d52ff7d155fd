#include "log/dump.h"

#include "base/assert.h"
#include "base/buffer.h"
#include "base/memory.h"
#include "log/log_private.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define WINDOW_BYTES (256u << 10)
#define LINE_BYTES   512
#define SHOWN_BYTES  32 /* of a record's bytes */

struct dump {
    struct log_dump_options options;
    struct store *store;
    struct store_request request;
    struct buffer *metadata_bytes, *window;
    struct metadata metadata;
    struct metadata_segment segment;
    char name[SEGMENT_NAME_SIZE];
    uint32_t at;
    uint64_t size, footer, salt;
    struct cipher *cipher; /* NULL: there are no keys */
    struct scan scan;
    bool in_footer;
    int result;
    struct failure failure;
};

static void next_segment(struct dump *d);
static void scan_on(struct dump *d);

static void line(struct dump *d, const char *format, ...) PRINTF_LIKE(2, 3);

static void line(struct dump *d, const char *format, ...)
{
    char text[LINE_BYTES];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    d->options.line(d->options.context, text);
}

static void submit(struct dump *d, void (*done)(struct store_request *request))
{
    d->request.done = done;
    store_submit(d->store, &d->request);
}

static struct dump *dump_of(struct store_request *request)
{
    return CONTAINER_OF(request, struct dump, request);
}

static void end(struct dump *d)
{
    struct log_dump_options options = d->options;
    struct failure failure = d->failure;
    int result = d->result;

    buffer_unref(d->metadata_bytes);
    buffer_unref(d->window);
    cipher_free(d->cipher);
    free(d);
    options.done(options.context, result, result < 0 ? &failure : NULL);
}

/* ---- records ---- */

static const char *const type_names[] = {
    [RECORD_MESSAGE] = "message",
    [RECORD_PART] = "part",
    [RECORD_SETTLED] = "settled",
    [RECORD_RETURNED] = "returned",
    [RECORD_DELIVERED] = "delivered",
    [RECORD_STATE] = "state",
    [RECORD_STATE_DROPPED] = "state dropped",
    [RECORD_CATALOG] = "catalog",
    [RECORD_SNAPSHOT_BEGIN] = "snapshot begin",
    [RECORD_SNAPSHOT_ITEM] = "snapshot item",
    [RECORD_SNAPSHOT_END] = "snapshot end",
    [RECORD_CHECKPOINT_END] = "checkpoint end",
    [RECORD_CHANGE] = "change",
    [RECORD_POSTPONED] = "postponed",
    [RECORD_INDEX_BLOCKS] = "index of blocks",
    [RECORD_INDEX_MESSAGES] = "index of messages",
    [RECORD_INDEX_MARKS] = "index of marks",
};

/* Printable as they are, others as dots. */
static const char *shown(struct slice bytes, char text[SHOWN_BYTES + 4])
{
    size_t size = bytes.size < SHOWN_BYTES ? bytes.size : SHOWN_BYTES;

    for (size_t i = 0; i < size; i++)
        text[i] = bytes.data[i] >= ' ' && bytes.data[i] < 0x7f ? (char)bytes.data[i] : '.';
    snprintf(text + size, 4, "%s", bytes.size > size ? "..." : "");
    return text;
}

static void line_message(struct dump *d, struct slice payload)
{
    struct message_record message;
    struct target target;

    if (message_record_decode(payload, &message) < 0) {
        line(d, "      broken");
        return;
    }
    struct reader targets = reader_of(message.targets);
    for (uint64_t i = 0; i < message.targets_count; i++) {
        target_decode(&targets, &target);
        line(d, "      queue %" PRIu64 " sequence %" PRIu64 " lane %u, body of %" PRIu64 "%s",
             target.queue, target.sequence, target.lane, message.body_size,
             message.flags & MESSAGE_ATTACHED ? ", attached" : "");
        if (target.lane & LOG_LANE_DUE)
            line(d, "        due at %" PRIu64 " ms", target.due_ms);
    }
}

static void line_details(struct dump *d, const struct record *record)
{
    struct range_record range;
    struct delivered_record delivered;
    struct postponed_record postponed;
    struct state_record state;
    struct slice rest = record->payload;
    uint64_t number;
    char text[SHOWN_BYTES + 4];

    switch (record->type) {
    case RECORD_MESSAGE:
        line_message(d, record->payload);
        break;
    case RECORD_SETTLED:
    case RECORD_RETURNED:
        if (range_record_decode(record->payload, &range) == 0)
            line(d, "      queue %" PRIu64 " %" PRIu64 " to %" PRIu64 ", %s %u", range.queue,
                 range.first, range.last, record->type == RECORD_SETTLED ? "why" : "count",
                 range.detail);
        break;
    case RECORD_DELIVERED:
        if (delivered_record_decode(record->payload, &delivered) == 0)
            line(d, "      queue %" PRIu64 " up to %" PRIu64, delivered.queue, delivered.sequence);
        break;
    case RECORD_POSTPONED:
        if (postponed_record_decode(record->payload, &postponed) == 0)
            line(d, "      queue %" PRIu64 " %" PRIu64 ", due at %" PRIu64 " ms", postponed.queue,
                 postponed.sequence, postponed.due_ms);
        break;
    case RECORD_STATE:
        if (state_record_decode(record->payload, &state) == 0)
            line(d, "      queue %" PRIu64 "%s%s: %zu bytes", state.queue,
                 state.first ? "" : ", goes on", state.more ? ", more follows" : "",
                 state.bytes.size);
        break;
    case RECORD_CATALOG:
        line(d, "      \"%s\"", shown(rest, text));
        break;
    case RECORD_CHANGE:
        if (number_record_decode(record->payload, &number, &rest) == 0)
            line(d, "      queue %" PRIu64 " \"%s\"", number, shown(rest, text));
        break;
    default:
        if (number_record_decode(record->payload, &number, &rest) == 0)
            line(d, "      %" PRIu64 " \"%s\"", number, shown(rest, text));
    }
}

static void on_block(void *context, const struct block_header *header, uint64_t offset)
{
    struct dump *d = context;
    bool is_mark = header->record_bytes == 0 && header->attachment_bytes == 0;

    if (header->flags & BLOCK_FOOTER)
        line(d, "  footer at %" PRIu64 ": %u bytes", offset, header->record_bytes);
    else
        line(d,
             "  block %" PRIu64 " at %" PRIu64 ": %u bytes of records, %" PRIu64
             " attached, known durable %" PRIu64 "%s",
             header->block, offset, header->record_bytes, header->attachment_bytes, header->durable,
             is_mark ? ", mark" : "");
}

static void on_record(void *context, const struct record *record, uint64_t order)
{
    struct dump *d = context;
    const char *name =
        record->type < sizeof type_names / sizeof type_names[0] ? type_names[record->type] : NULL;

    if (!d->options.records)
        return;
    if (record_is_addressable(record->type))
        line(d, "    %s at %" PRIu64 ": %zu bytes", name ? name : "unknown", order,
             record->payload.size);
    else
        line(d, "    %s: %zu bytes", name ? name : "unknown", record->payload.size);
    if (!d->in_footer)
        line_details(d, record);
}

static void on_bad(void *context, const struct block_header *header, uint64_t chunk,
                   uint64_t offset)
{
    line(context, "  BROKEN: chunk %" PRIu64 " of block %" PRIu64 " at %" PRIu64, chunk,
         header->block, offset);
}

static void on_gap(void *context, uint64_t offset, uint64_t next, uint64_t found)
{
    if (next)
        line(context, "  BROKEN: from %" PRIu64 " to %" PRIu64 ", where block %" PRIu64 " begins",
             offset, found, next);
    else
        line(context, "  no block from %" PRIu64 " to the end at %" PRIu64, offset, found);
}

static void on_block_end(void *context, const struct block_header *header, uint64_t offset)
{
    (void)context;
    (void)header;
    (void)offset;
}

static const struct scan_visitor visitor = {on_block, on_record, on_bad, on_gap, on_block_end};

/* ---- segments ---- */

static void closed(struct store_request *request)
{
    struct dump *d = dump_of(request);

    d->at++;
    next_segment(d);
}

static void close_segment(struct dump *d)
{
    d->request = (struct store_request){.operation = STORE_CLOSE, .file = d->request.file};
    submit(d, closed);
}

static void window_read(struct store_request *request)
{
    struct dump *d = dump_of(request);

    if (request->result < 0) {
        line(d, "  cannot be read: %s", request->failure.text);
        scan_fini(&d->scan);
        close_segment(d);
        return;
    }
    scan_feed(&d->scan, slice_of(d->window->data, d->window->size));
    scan_on(d);
}

static void read_window(struct dump *d, uint64_t offset, uint64_t size,
                        void (*done)(struct store_request *request))
{
    d->window->size = 0;
    d->request = (struct store_request){.operation = STORE_READ,
                                        .file = d->request.file,
                                        .offset = offset,
                                        .size = size,
                                        .into = d->window};
    submit(d, done);
}

static const struct keyring no_keys;

static const struct keyring *keys_of(const struct dump *d)
{
    return d->options.keys ? d->options.keys : &no_keys;
}

/* That they can be had was looked at before. */
static void scan_with_keys(struct dump *d)
{
    struct segment_keys keys;
    struct failure failure;

    if (d->segment.master_key == 0 ||
        segment_keys_unwrap(&keys, &d->segment, keys_of(d), &failure) < 0)
        return;
    if (d->in_footer)
        segment_keys_footer(&keys, d->salt, keys.blocks);
    scan_decrypt(&d->scan, d->cipher, keys.blocks);
    cipher_wipe(&keys, sizeof keys);
}

static void scan_on(struct dump *d)
{
    uint64_t offset;

    if (scan_wants(&d->scan, &offset)) {
        uint64_t left = d->scan.end - offset;
        read_window(d, offset, left < WINDOW_BYTES ? left : WINDOW_BYTES, window_read);
        return;
    }
    scan_fini(&d->scan);
    if (d->footer && !d->in_footer) {
        d->in_footer = true;
        scan_init_footer(&d->scan, &visitor, d, d->segment.id, d->segment.epoch, d->footer,
                         d->size - TRAILER_SIZE);
        scan_with_keys(d);
        scan_on(d);
        return;
    }
    close_segment(d);
}

static void trailer_read(struct store_request *request)
{
    struct dump *d = dump_of(request);
    struct trailer trailer;

    d->footer = 0;
    d->in_footer = false;
    if (request->result == 0 &&
        trailer_decode(slice_of(d->window->data, d->window->size), &trailer) == 0 &&
        trailer.segment == d->segment.id && trailer.footer < d->size - TRAILER_SIZE) {
        d->footer = trailer.footer;
        d->salt = trailer.salt;
    } else {
        line(d, "  no trailer");
    }
    scan_init(&d->scan, &visitor, d, d->segment.id, d->segment.epoch, SEGMENT_HEADER_SIZE,
              d->footer ? d->footer : d->size);
    scan_with_keys(d);
    scan_on(d);
}

static void header_read(struct store_request *request)
{
    struct dump *d = dump_of(request);
    struct segment_header header;
    struct failure failure;

    if (request->result < 0)
        line(d, "  cannot be read: %s", request->failure.text);
    else if (segment_header_decode(slice_of(d->window->data, d->window->size), &header, &failure) <
             0)
        line(d, "  BROKEN header: %s", failure.text);
    else
        line(d, "  header: segment %" PRIx64 ", epoch %" PRIu64 "%s", header.id, header.epoch,
             header.is_encrypted ? ", encrypted" : "");
    if (d->size < SEGMENT_HEADER_SIZE + TRAILER_SIZE) {
        line(d, "  empty");
        close_segment(d);
        return;
    }
    read_window(d, d->size - TRAILER_SIZE, TRAILER_SIZE, trailer_read);
}

static void opened(struct store_request *request)
{
    struct dump *d = dump_of(request);

    if (request->result < 0) {
        line(d, "  cannot be opened: %s", request->failure.text);
        d->at++;
        next_segment(d);
        return;
    }
    d->size = request->size;
    read_window(d, 0, SEGMENT_HEADER_SIZE, header_read);
}

static void next_segment(struct dump *d)
{
    for (; d->at < d->metadata.segments_count; d->at++) {
        metadata_segment_decode(&d->metadata, d->at, &d->segment);
        if (d->options.segment == 0 || d->options.segment == d->segment.id)
            break;
    }
    if (d->at == d->metadata.segments_count) {
        end(d);
        return;
    }
    segment_name(d->segment.id, d->name);
    line(d, "%s: epoch %" PRIu64 ", block %" PRIu64 " to %" PRIu64 ", end %" PRIu64 "%s%s%s",
         d->name, d->segment.epoch, d->segment.first_block, d->segment.last_block, d->segment.end,
         d->segment.flags & SEGMENT_ENDED ? ", ended" : "",
         d->segment.flags & SEGMENT_SEALED ? ", sealed" : "",
         d->segment.flags & SEGMENT_QUARANTINED ? ", QUARANTINED" : "");
    if (d->segment.master_key)
        line(d, "  encrypted, its data key wrapped in master key %" PRIu32, d->segment.master_key);
    d->request = (struct store_request){.operation = STORE_OPEN, .name = d->name};
    submit(d, opened);
}

/* ---- the metadata ---- */

static int look_for_key(struct dump *d, uint32_t index)
{
    struct metadata_segment segment;
    struct segment_keys keys;

    metadata_segment_decode(&d->metadata, index, &segment);
    if (segment.master_key == 0)
        return 0;
    int result = segment_keys_unwrap(&keys, &segment, keys_of(d), &d->failure);
    cipher_wipe(&keys, sizeof keys);
    return result;
}

static void metadata_read(struct store_request *request)
{
    struct dump *d = dump_of(request);

    d->result = request->result;
    d->failure = request->failure;
    if (d->result == 0) {
        d->metadata_bytes = request->into;
        d->result = metadata_decode(slice_of(d->metadata_bytes->data, d->metadata_bytes->size),
                                    &d->metadata, &d->failure);
    }
    for (uint32_t i = 0; d->result == 0 && i < d->metadata.segments_count; i++)
        d->result = look_for_key(d, i);
    if (d->result < 0) {
        end(d);
        return;
    }
    line(d,
         "metadata: format %u, epoch %" PRIu64 ", replay from block %" PRIu64
         ", known durable %" PRIu64 ", %u segments, next id %" PRIx64 "%s%s",
         d->metadata.has_keys ? FORMAT_VERSION_KEYS : FORMAT_VERSION, d->metadata.epoch,
         d->metadata.replay_block, d->metadata.durable_block, d->metadata.segments_count,
         d->metadata.segment_next, d->metadata.clean ? ", closed cleanly" : "",
         d->metadata.damaged ? ", DAMAGED" : "");
    next_segment(d);
}

void log_dump(struct loop *loop, struct store *store, const struct log_dump_options *options)
{
    struct dump *d = memory_new(sizeof *d);

    ASSERT(store->loop == loop);
    d->options = *options;
    d->store = store;
    if (options->keys)
        d->cipher = cipher_new(NULL);
    d->window = buffer_new(WINDOW_BYTES);
    ASSERT(d->window);
    d->request = (struct store_request){.operation = STORE_META_READ};
    submit(d, metadata_read);
}
