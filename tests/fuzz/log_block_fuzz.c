/* The reader of one block: any bytes behind a header, with and without checksums that fit. */
#include "log_scan_testing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < BLOCK_HEADER_SIZE)
        return 0;
    struct block_header header;
    uint8_t *bytes = malloc(size);
    ASSERT(bytes);
    memcpy(bytes, data, size);
    scan_all(slice_of(bytes, size), 0, SIZE_MAX, false);
    memcpy(bytes, "SLBK", 4);
    mend_block(bytes, size);
    struct slice whole = slice_of(bytes, size);
    bool footer = bytes[52] & BLOCK_FOOTER;
    uint64_t hash = scan_all(whole, 0, SIZE_MAX, footer);
    ASSERT(scan_all(whole, 0, SCAN_WINDOW_MIN, footer) == hash);
    struct cipher *cipher = cipher_new(NULL);
    scan_all_with(cipher, whole, 0, SIZE_MAX, footer); /* what is not encrypted, and should be */
    bool is_all = bytes[52] == 0 && seal_block(cipher, bytes, size);
    uint64_t sealed = scan_all_with(cipher, whole, 0, SCAN_WINDOW_MIN, footer);
    ASSERT(scan_all_with(cipher, whole, 0, SIZE_MAX, footer) == sealed);
    if (is_all && block_header_decode(whole, &header) == 0 && block_size(&header) >= size)
        ASSERT(sealed == hash); /* encrypted it tells the same */
    cipher_free(cipher);
    free(bytes);
    return 0;
}
