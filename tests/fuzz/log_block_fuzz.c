/* The reader of one block: any bytes behind a header, with and without checksums that fit. */
#include "log_scan_testing.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < BLOCK_HEADER_SIZE)
        return 0;
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
    free(bytes);
    return 0;
}
