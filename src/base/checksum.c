#include "base/checksum.h"

#include <isa-l/crc.h>

uint32_t checksum_add(uint32_t checksum, struct slice bytes)
{
    while (bytes.size > 0) {
        int part = bytes.size > 1 << 30 ? 1 << 30 : (int)bytes.size;
        /* the library's parameter is not const, but only read */
        checksum = crc32_iscsi((unsigned char *)(uintptr_t)bytes.data, part, checksum);
        bytes.data += part;
        bytes.size -= (size_t)part;
    }
    return checksum;
}
