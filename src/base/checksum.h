/* CRC32C (Castagnoli, reflected, as in RFC 3720 and ISA-L's crc32_iscsi), seeded so that parts can
 * be chained. */
#ifndef SLUICE_BASE_CHECKSUM_H
#define SLUICE_BASE_CHECKSUM_H

#include "base/bytes.h"

#define CHECKSUM_START 0xffffffffu

/* Start with CHECKSUM_START, pass each result on; the last is the checksum. */
uint32_t checksum_add(uint32_t checksum, struct slice bytes);

static inline uint32_t checksum_of(struct slice bytes)
{
    return checksum_add(CHECKSUM_START, bytes);
}

#endif
