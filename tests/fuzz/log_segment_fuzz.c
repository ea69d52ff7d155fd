/* The readers of a segment (header, blocks, gaps, trailer) and of the metadata. */
#include "log_scan_testing.h"

static void read_metadata_of(uint8_t version, uint8_t *bytes, size_t size)
{
    struct metadata metadata;
    struct metadata_segment segment;
    struct segment_keys keys;
    struct failure failure;
    static const struct keyring keyring = {.keys = {{.id = 1}}, .count = 1};

    memcpy(bytes, "SLUICELG\1\0\0\0", 12);
    bytes[8] = version;
    store_le32(bytes + 12, checksum_of(slice_of(bytes + 16, size - 16)));
    if (metadata_decode(slice_of(bytes, size), &metadata, &failure) < 0)
        return;
    ASSERT(metadata.has_keys == (version == FORMAT_VERSION_KEYS));
    for (uint32_t i = 0; i < metadata.segments_count; i++) {
        metadata_segment_decode(&metadata, i, &segment);
        ASSERT(metadata.has_keys || segment.master_key == 0);
        if (i < 4 && segment_keys_unwrap(&keys, &segment, &keyring, &failure) < 0)
            ASSERT(failure.code == E_KEY);
    }
}

static void read_metadata(uint8_t *bytes, size_t size)
{
    struct metadata metadata;
    struct failure failure;

    if (metadata_decode(slice_of(bytes, size), &metadata, &failure) < 0)
        ASSERT(failure.code == E_CORRUPT || failure.code == E_VERSION);
    if (size < METADATA_HEAD_SIZE)
        return;
    read_metadata_of(FORMAT_VERSION, bytes, size);
    read_metadata_of(FORMAT_VERSION_KEYS, bytes, size);
}

static void read_ends(const uint8_t *bytes, size_t size)
{
    struct segment_header header;
    struct trailer trailer;
    struct failure failure;

    if (segment_header_decode(slice_of(bytes, size), &header, &failure) < 0)
        ASSERT(failure.code == E_CORRUPT || failure.code == E_VERSION);
    if (size >= TRAILER_SIZE &&
        trailer_decode(slice_of(bytes + size - TRAILER_SIZE, TRAILER_SIZE), &trailer) == 0)
        ASSERT(trailer.first_block <= trailer.last_block);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size == 0)
        return 0;
    uint8_t *bytes = malloc(size);
    ASSERT(bytes);
    memcpy(bytes, data, size);
    read_ends(bytes, size);
    read_metadata(bytes, size);
    memcpy(bytes, data, size);
    for (size_t at = 0; at + BLOCK_HEADER_SIZE <= size; at += SECTOR_SIZE)
        mend_block(bytes + at, size - at);
    uint64_t hash = scan_all(slice_of(bytes, size), 0, SIZE_MAX, false);
    ASSERT(scan_all(slice_of(bytes, size), 0, SCAN_WINDOW_MIN, false) == hash);
    free(bytes);
    return 0;
}
