/*
 * Where a shard's log keeps its bytes: append-only files with explicit syncs, and a little guarded
 * metadata.
 *
 * A store belongs to one shard and one worker. Every operation is asynchronous: it takes a request
 * that the caller embeds and keeps still, and calls request->done exactly once, in a later turn, on
 * the worker. Back ends: local/ (files), simulated/ (by seed, with faults). The log chooses by the
 * capabilities, never by the back end's name. All pass tests in store_conformance.c.
 *
 * Rules that hold for every back end:
 *  1. write_at must continue exactly at the current end. The bytes at an offset never change within
 * an epoch: after an error the caller may repeat the identical write, or stop.
 *  2. Writes of one file complete in order. A sync covers the writes that had completed when it was
 * asked for.
 *  3. Until a sync (or with STORE_WRITE_IS_DURABLE, its own completion) a write may be lost or torn
 * by a crash, in any order, as if sectors of 512 bytes were written at random.
 *  4. A read never waits behind a sync. It sees completed writes.
 *  5. The metadata is one value of at most STORE_META_MAX bytes, replaced whole: after a crash
 * either the old or the new is there. Its completion means durable.
 *  6. create and remove are durable when complete (the directory is synced, too).
 *  7. A file ends where its last completed write ended: a read stops there. After a crash it may be
 * longer than what was synced, with zeros (room that was reserved) or parts of lost writes behind.
 *  8. A close waits for what was asked of its file before. After a failed metadata write the old
 * value or the new one is there; the write may be repeated with the same version.
 */
#ifndef SLUICE_STORE_STORE_H
#define SLUICE_STORE_STORE_H

#include "loop/loop.h"

#define STORE_META_MAX   (1024u * 1024u)
#define STORE_SLICES_MAX 512 /* of one write */

struct store;
struct store_file; /* an open file; freed by close */

struct store_capabilities {
    bool write_is_durable; /* no sync needed */
    bool sync_is_cheap;
    uint64_t write_max; /* bytes of one write */
    uint64_t file_max;
    uint32_t alignment; /* what writes should be a multiple of, for speed: 4096, or 1 */
};

enum store_operation {
    STORE_CREATE,     /* name, size -> file, empty; E_MISMATCH if it exists. Room for `size` bytes
                         is reserved where the system can: E_FULL now instead of later */
    STORE_OPEN,       /* name -> file, size; for reading (direct: past the page cache) */
    STORE_WRITE,      /* file, offset, slices (borrowed until done) */
    STORE_SYNC,       /* file */
    STORE_WRITE_SYNC, /* a write and its sync in one go; the completion means durable */
    STORE_READ,      /* file, offset, into: fills buffer->size, short only at the end of the file */
    STORE_TRUNCATE,  /* file, offset: cuts the rest off, durable when complete; only by recovery,
                        before any write */
    STORE_SEAL,      /* file: no more writes; durable */
    STORE_CLOSE,     /* file */
    STORE_REMOVE,    /* name */
    STORE_LIST,      /* -> names, count */
    STORE_META_READ, /* -> into (buffer_new by the store), version; E_NOT_FOUND when there is none
                      */
    STORE_META_WRITE, /* slices, version = the one it replaces (0: none) -> version; E_FENCED when
                         that moved */
};

struct store_request {
    enum store_operation operation;
    void (*done)(struct store_request
                     *request); /* request->result is 0 or an error; failure.text says more */

    const char *name;        /* in; letters, digits, '-', '.'; at most STORE_NAME_MAX bytes */
    struct store_file *file; /* in, or out of create and open */
    uint64_t offset;         /* in */
    uint64_t size;           /* in: hint of create, bytes to read; out of open: the file's size */
    struct iovec *slices;    /* in */
    int slices_count;
    struct buffer
        *into;    /* read: in, its capacity is enough; meta read: out, a reference for the caller */
    bool direct;  /* open: read past the page cache, where that exists */
    char **names; /* out of list: one allocation, the caller's to free() */
    size_t count;
    uint64_t version;
    int result;
    struct failure failure;

    struct list link; /* the store's, until done */
    void *internal;
};

#define STORE_NAME_MAX 63

/* Takes the request; it completes later, never from inside the call. */
void store_submit(struct store *store, struct store_request *request);

const struct store_capabilities *store_capabilities(const struct store *store);

/* Bytes that may still be written, as the store believes at this moment; UINT64_MAX when it cannot
 * know. */
uint64_t store_bytes_free(struct store *store);

/* Everything must be closed and nothing outstanding. */
void store_free(struct store *store);

/* For back ends. */
struct store_functions {
    void (*submit)(struct store *store, struct store_request *request);
    uint64_t (*bytes_free)(struct store *store);
    void (*free)(struct store *store);
};

/* What a back end checks of each request. */
bool store_name_is_valid(const char *name);
uint64_t store_slices_size(const struct store_request *request);

struct store {
    const struct store_functions *functions;
    struct store_capabilities capabilities;
    struct loop *loop;
};

#endif
