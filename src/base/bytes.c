#include "base/bytes.h"

uint64_t read_varint(struct reader *r)
{
    uint64_t value = 0;

    for (unsigned shift = 0; shift < 64; shift += 7) {
        uint8_t byte = read_u8(r);
        if (r->failed)
            return 0;
        if (shift == 63 && byte > 1)
            break;
        value |= (uint64_t)(byte & 0x7f) << shift;
        if (!(byte & 0x80))
            return value;
    }
    r->failed = true;
    return 0;
}

void write_varint(struct writer *w, uint64_t v)
{
    while (v >= 0x80) {
        write_u8(w, (uint8_t)(v | 0x80));
        v >>= 7;
    }
    write_u8(w, (uint8_t)v);
}

size_t varint_size(uint64_t v)
{
    size_t size = 1;

    while (v >= 0x80) {
        v >>= 7;
        size++;
    }
    return size;
}
