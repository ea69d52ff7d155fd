/*
 * Encrypted chunks (docs/log-format.md, "Encryption"): a segment's keys, a block as it is written,
 * a chunk as it is read.
 */
#ifndef SLUICE_LOG_SEALING_H
#define SLUICE_LOG_SEALING_H

#include "log/format.h"
#include "log/keyring.h"

#include <sys/uio.h>

_Static_assert(CIPHER_WRAPPED_SIZE == WRAPPED_KEY_SIZE, "the metadata has wrapped keys");

#define SEALING_WINDOW_BYTES (1u << 20) /* sealed at a time, and the memory it takes */

struct segment_keys {
    uint8_t data[CIPHER_KEY_SIZE];   /* what is wrapped; the others follow from it */
    uint8_t blocks[CIPHER_KEY_SIZE]; /* of the chunks of its blocks */
};

void segment_keys_derive(struct segment_keys *keys); /* the rest, from `data` */

/* Of a footer's chunks: each time that one is written, with another salt. */
void segment_keys_footer(const struct segment_keys *keys, uint64_t salt,
                         uint8_t footer[CIPHER_KEY_SIZE]);

/* The data key of a segment, by the metadata. E_KEY: its master key is not there, or is another;
 * the failure names segment and key. */
int segment_keys_unwrap(struct segment_keys *keys, const struct metadata_segment *segment,
                        const struct keyring *keyring, struct failure *failure) MUST_CHECK;

/* ---- writing ---- */

/* What is to be written of a closed block, window by window: its slices as they are on disk. It may
 * begin again any number of times: with the same key and segment that gives the same bytes. */
struct sealing {
    struct cipher *cipher; /* borrowed */
    const struct block_header *header;
    const struct iovec *slices; /* a block's, or those of a footer with the trailer behind them */
    size_t count, at;           /* of them; the next */
    uint64_t chunk;             /* the next */
    uint8_t key[CIPHER_KEY_SIZE];
    uint8_t *bytes;
    size_t capacity, size; /* of the window */
    struct iovec window;
};

/* A zeroed one has no memory. The header has its segment. */
void sealing_begin(struct sealing *sealing, struct cipher *cipher,
                   const uint8_t key[CIPHER_KEY_SIZE], const struct block_header *header,
                   const struct iovec *slices, size_t count);

/* The next bytes are in sealing->window, until the next call. */
void sealing_next(struct sealing *sealing);

static inline bool sealing_is_over(const struct sealing *sealing)
{
    return sealing->at == sealing->count;
}

void sealing_fini(struct sealing *sealing);

/* ---- reading ---- */

/* As chunk_decode(), of a chunk that must be sealed: its payload is then in `opened`, which has
 * room for CHUNK_PAYLOAD_MAX. */
int chunk_open(struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE], struct slice bytes,
               uint64_t segment, uint64_t epoch, uint64_t block, uint64_t number, uint8_t *opened,
               struct chunk *chunk) MUST_CHECK;

#endif
