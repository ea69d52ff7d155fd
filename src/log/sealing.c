#include "log/sealing.h"

#include "base/assert.h"
#include "base/memory.h"

#include <inttypes.h>
#include <stdlib.h>

#define ADDITIONAL_SIZE  28u
#define CHUNK_BOUND_FROM 4u /* these bytes of a chunk's header are bound to its contents, */
#define CHUNK_BOUND_TO   16u

/* ---- keys ---- */

static const char blocks_salt[] = "sluice blocks";
static const char footer_salt[] = "sluice footer";

void segment_keys_derive(struct segment_keys *keys)
{
    cipher_derive(keys->data, slice_of(blocks_salt, sizeof blocks_salt - 1), keys->blocks);
}

void segment_keys_footer(const struct segment_keys *keys, uint64_t salt,
                         uint8_t footer[CIPHER_KEY_SIZE])
{
    uint8_t bytes[sizeof footer_salt - 1 + 8];

    memcpy(bytes, footer_salt, sizeof footer_salt - 1);
    store_le64(bytes + sizeof footer_salt - 1, salt);
    cipher_derive(keys->data, slice_of(bytes, sizeof bytes), footer);
}

int segment_keys_unwrap(struct segment_keys *keys, const struct metadata_segment *segment,
                        const struct keyring *keyring, struct failure *failure)
{
    const struct master_key *master = keyring_find(keyring, segment->master_key);
    char list[KEYRING_LIST_MAX];

    if (!master)
        return fail(failure, E_KEY,
                    "segment-%016" PRIx64 " is encrypted under master key %" PRIu32
                    ", which was not given; given were: %s",
                    segment->id, segment->master_key, keyring_list(keyring, list));
    if (cipher_unwrap(master->bytes, segment->wrapped_key, keys->data) < 0)
        return fail(failure, E_KEY,
                    "segment-%016" PRIx64 " is encrypted under another master key %" PRIu32
                    " than the one that was given",
                    segment->id, segment->master_key);
    segment_keys_derive(keys);
    return 0;
}

/* ---- what a chunk is bound to ---- */

static void nonce_of(uint64_t block, uint64_t number, uint8_t nonce[CIPHER_NONCE_SIZE])
{
    ASSERT(number <= UINT32_MAX);
    store_le64(nonce, block);
    store_le32(nonce + 8, (uint32_t)number);
}

static struct slice additional_of(uint64_t segment, uint64_t epoch, const uint8_t *header,
                                  uint8_t bytes[ADDITIONAL_SIZE])
{
    _Static_assert(ADDITIONAL_SIZE == 16 + CHUNK_BOUND_TO - CHUNK_BOUND_FROM, "all of it");
    store_le64(bytes, epoch);
    store_le64(bytes + 8, segment);
    memcpy(bytes + 16, header + CHUNK_BOUND_FROM, CHUNK_BOUND_TO - CHUNK_BOUND_FROM);
    return slice_of(bytes, ADDITIONAL_SIZE);
}

/* ---- writing ---- */

void sealing_begin(struct sealing *sealing, struct cipher *cipher,
                   const uint8_t key[CIPHER_KEY_SIZE], const struct block_header *header,
                   const struct iovec *slices, size_t count)
{
    size_t total = 0;

    for (size_t i = 0; i < count && total < SEALING_WINDOW_BYTES; i++)
        total += slices[i].iov_len;
    size_t wanted = total < SEALING_WINDOW_BYTES ? total : SEALING_WINDOW_BYTES;
    if (sealing->capacity < wanted) {
        sealing->bytes = memory_resize(sealing->bytes, wanted, 1);
        sealing->capacity = wanted;
    }
    sealing->cipher = cipher;
    memcpy(sealing->key, key, CIPHER_KEY_SIZE);
    sealing->header = header;
    sealing->slices = slices;
    sealing->count = count;
    sealing->at = 0;
    sealing->chunk = 0;
}

static bool is_at_chunk(const struct sealing *sealing)
{
    return sealing->at > 0 && sealing->chunk < block_chunks(sealing->header);
}

/* What comes next has to fit as a whole: a chunk, or a slice that is none. */
static size_t unit_size(const struct sealing *sealing)
{
    if (is_at_chunk(sealing))
        return CHUNK_HEADER_SIZE + block_chunk_payload(sealing->header, sealing->chunk);
    return sealing->slices[sealing->at].iov_len;
}

static void seal_chunk(struct sealing *sealing, uint8_t *bytes)
{
    const struct block_header *header = sealing->header;
    size_t size = block_chunk_payload(header, sealing->chunk);
    uint8_t nonce[CIPHER_NONCE_SIZE], additional[ADDITIONAL_SIZE];
    size_t at = CHUNK_HEADER_SIZE;

    ASSERT(sealing->slices[sealing->at].iov_len == CHUNK_HEADER_SIZE);
    memcpy(bytes, sealing->slices[sealing->at++].iov_base, CHUNK_HEADER_SIZE);
    nonce_of(header->block, sealing->chunk, nonce);
    cipher_seal_begin(sealing->cipher, sealing->key, nonce,
                      additional_of(header->segment, header->epoch, bytes, additional));
    while (at < CHUNK_HEADER_SIZE + size) {
        const struct iovec *piece = &sealing->slices[sealing->at++];
        ASSERT(piece->iov_len <= CHUNK_HEADER_SIZE + size - at);
        cipher_seal_add(sealing->cipher, slice_of(piece->iov_base, piece->iov_len), bytes + at);
        at += piece->iov_len;
    }
    cipher_seal_end(sealing->cipher, bytes + CHUNK_TAG_OFFSET);
    chunk_checksum_set(header->epoch, header->block, sealing->chunk, bytes, at);
    sealing->chunk++;
}

void sealing_next(struct sealing *sealing)
{
    ASSERT(!sealing_is_over(sealing));
    sealing->size = 0;
    while (!sealing_is_over(sealing)) {
        size_t unit = unit_size(sealing);
        uint8_t *bytes = sealing->bytes + sealing->size;
        if (unit > sealing->capacity - sealing->size)
            break;
        if (is_at_chunk(sealing)) {
            seal_chunk(sealing, bytes);
        } else {
            memcpy(bytes, sealing->slices[sealing->at].iov_base, unit);
            sealing->at++;
        }
        sealing->size += unit;
    }
    ASSERT(sealing->size > 0);
    sealing->window = (struct iovec){sealing->bytes, sealing->size};
}

void sealing_fini(struct sealing *sealing)
{
    free(sealing->bytes);
    cipher_wipe(sealing, sizeof *sealing);
}

/* ---- reading ---- */

int chunk_open(struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE], struct slice bytes,
               uint64_t segment, uint64_t epoch, uint64_t block, uint64_t number, uint8_t *opened,
               struct chunk *chunk)
{
    uint8_t nonce[CIPHER_NONCE_SIZE], additional[ADDITIONAL_SIZE];
    int result = chunk_decode_sealed(bytes, epoch, block, number, chunk);

    if (result < 0 || number > UINT32_MAX)
        return result < 0 ? result : E_CORRUPT;
    nonce_of(block, number, nonce);
    result = cipher_open(cipher, key, nonce, additional_of(segment, epoch, bytes.data, additional),
                         chunk->payload, bytes.data + CHUNK_TAG_OFFSET, opened);
    chunk->payload.data = opened;
    chunk->header.flags = (uint8_t)(chunk->header.flags & ~CHUNK_ENCRYPTED);
    return result;
}
