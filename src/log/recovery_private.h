/* What the three files of recovery share. recovery.c: its course, files, sealing; recovery_look.c:
 * where the blocks are and what is broken; recovery_tell.c: telling what there is. */
#ifndef SLUICE_LOG_RECOVERY_PRIVATE_H
#define SLUICE_LOG_RECOVERY_PRIVATE_H

#include "log/log_private.h"

struct bad_block {
    size_t segment; /* its index */
    uint64_t first, last;
    uint64_t offset;
    bool is_listed; /* its header is sound: other chunks of it may be, too */
};

struct found_state {
    struct list link;
    uint64_t queue, position;
    size_t mark, count; /* its parts, in recovery->marks */
};

struct recovery {
    struct log *log;
    struct log_recovery functions;
    void (*opened)(void *context, int result, const struct log_opened *summary,
                   const struct failure *failure);
    struct log_opened summary;
    struct failure failure;
    struct task task;
    void (*step)(struct recovery *recovery); /* what the task does */
    void (*next)(struct recovery *recovery); /* after a scan, an open, a close */
    struct store_request request;
    struct metadata metadata;
    struct buffer *metadata_bytes;
    char **names;
    size_t names_count, names_at;
    bool is_ended, waits_for_metadata;
    int result;
    struct timer timer;

    size_t at; /* segment */
    struct scan scan;
    bool has_scan;
    struct buffer *window;
    bool footer_is_bad, footer_has_blocks;

    uint64_t known_durable; /* K */
    uint64_t last;          /* the log's last block */
    struct bad_block *bad;
    size_t bad_count, bad_capacity;
    struct index_mark *marks;
    size_t marks_count, marks_capacity, marks_before;

    struct fetch fetch;
    uint64_t snapshot; /* the newest complete one; 0: none */
    struct map states; /* of struct found_state by queue */
    struct list states_order;
    uint8_t *state_bytes;
    size_t state_size, state_capacity, state_part;

    struct block *collected; /* index entries of the block being told */
    uint64_t block;
    bool is_telling; /* this block counts */
};

static inline struct recovery *recovery_of(struct store_request *request)
{
    struct recovery *r = CONTAINER_OF(request, struct recovery, request);

    store_did(r->log);
    return r;
}

static inline struct segment *segment_now(const struct recovery *r)
{
    return r->log->segments[r->at];
}

/* Goes on with this step in a later turn; ends with the result; with the request's. */
void recovery_go(struct recovery *r, void (*step)(struct recovery *r));
void recovery_end(struct recovery *r, int result);
void recovery_end_with(struct recovery *r, const struct store_request *request, const char *what);
void recovery_submit(struct recovery *r, void (*done)(struct store_request *request));

/* Something that was durable cannot be read. */
void recovery_report(struct recovery *r, const char *format, ...) PRINTF_LIKE(2, 3);

/* Of the segment at r->at; then `next`. A file that is not there leaves segment->file NULL. */
void recovery_open(struct recovery *r, bool direct, void (*next)(struct recovery *r));
void recovery_close(struct recovery *r, void (*next)(struct recovery *r));
void recovery_scan(struct recovery *r, const struct scan_visitor *visitor, uint64_t offset,
                   uint64_t scan_end, bool footer, void (*next)(struct recovery *r));

/* The steps, in this order. */
void recovery_look(struct recovery *r);
void recovery_judge(struct recovery *r);
void recovery_catalog(struct recovery *r);
void recovery_tell(struct recovery *r);
void recovery_ask(struct recovery *r);
void recovery_seal(struct recovery *r);

/* Of those who visit a footer. */
void recovery_footer_bad(void *context, const struct block_header *header, uint64_t chunk,
                         uint64_t offset);
void recovery_footer_gap(void *context, uint64_t offset, uint64_t next, uint64_t found);
void recovery_ignore_block(void *context, const struct block_header *header, uint64_t offset);

void recovery_fetched(struct fetch *fetch, int result);

#endif
