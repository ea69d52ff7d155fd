/*
 * Bytes in memory: borrowed slices, a bounded reader and a bounded writer, integers by bytes.
 *
 * Big-endian (`be`) is the network's order, little-endian (`le`) the disk's. Disk and wire integers
 * are always moved with these, never by casting a struct. Reader and writer check every access and
 * remember the first failure, so a decoder reads all its fields and asks once at the end.
 */
#ifndef SLUICE_BASE_BYTES_H
#define SLUICE_BASE_BYTES_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>
#include <string.h>
#include <sys/types.h>

/* Borrowed: whoever made it says how long it is good. data may be NULL when size is 0. */
struct slice {
    const uint8_t *data;
    size_t size;
};

static inline struct slice slice_of(const void *data, size_t size)
{
    return (struct slice){data, size};
}

static inline struct slice slice_text(const char *text)
{
    return (struct slice){(const uint8_t *)text, strlen(text)};
}

static inline bool slice_equal(struct slice a, struct slice b)
{
    return a.size == b.size && (a.size == 0 || memcmp(a.data, b.data, a.size) == 0);
}

static inline bool slice_is(struct slice a, const char *text)
{
    return slice_equal(a, slice_text(text));
}

static inline bool slice_starts(struct slice a, const char *prefix)
{
    size_t size = strlen(prefix);
    return a.size >= size && memcmp(a.data, prefix, size) == 0;
}

/* For "%.*s": SLICE_ARGS(s). */
#define SLICE_ARGS(s) (int)(s).size, (const char *)((s).data ? (s).data : (const uint8_t *)"")

static inline uint16_t load_be16(const uint8_t *p)
{
    return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t load_be32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return __builtin_bswap32(v);
}

static inline uint64_t load_be64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return __builtin_bswap64(v);
}

static inline void store_be16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)(v >> 8);
    p[1] = (uint8_t)v;
}

static inline void store_be32(uint8_t *p, uint32_t v)
{
    v = __builtin_bswap32(v);
    memcpy(p, &v, 4);
}

static inline void store_be64(uint8_t *p, uint64_t v)
{
    v = __builtin_bswap64(v);
    memcpy(p, &v, 8);
}

static inline uint16_t load_le16(const uint8_t *p)
{
    return (uint16_t)(p[1] << 8 | p[0]);
}

static inline uint32_t load_le32(const uint8_t *p)
{
    uint32_t v;
    memcpy(&v, p, 4);
    return v;
}

static inline uint64_t load_le64(const uint8_t *p)
{
    uint64_t v;
    memcpy(&v, p, 8);
    return v;
}

static inline void store_le16(uint8_t *p, uint16_t v)
{
    p[0] = (uint8_t)v;
    p[1] = (uint8_t)(v >> 8);
}

static inline void store_le32(uint8_t *p, uint32_t v)
{
    memcpy(p, &v, 4);
}

static inline void store_le64(uint8_t *p, uint64_t v)
{
    memcpy(p, &v, 8);
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "the le functions copy as they are");

/* ---- reader: over borrowed bytes; after a read past the end `failed` is set and reads give zeros
 * ---- */

struct reader {
    const uint8_t *at;
    const uint8_t *end;
    bool failed;
};

static inline struct reader reader_of(struct slice s)
{
    const uint8_t *at = s.data ? s.data : (const uint8_t *)""; /* NULL + 0 is undefined in C17 */
    return (struct reader){at, at + s.size, false};
}

static inline size_t reader_left(const struct reader *r)
{
    return (size_t)(r->end - r->at);
}

static inline const uint8_t *reader_take(struct reader *r, size_t size)
{
    const uint8_t *p = r->at;
    if (__builtin_expect(r->failed || reader_left(r) < size, 0)) {
        r->failed = true;
        return NULL;
    }
    r->at += size;
    return p;
}

#define READER_INTEGER(name, type, size, load)                                                     \
    static inline type name(struct reader *r)                                                      \
    {                                                                                              \
        const uint8_t *p = reader_take(r, size);                                                   \
        return p ? load(p) : (type)0;                                                              \
    }

READER_INTEGER(read_u8, uint8_t, 1, *)
READER_INTEGER(read_be16, uint16_t, 2, load_be16)
READER_INTEGER(read_be32, uint32_t, 4, load_be32)
READER_INTEGER(read_be64, uint64_t, 8, load_be64)
READER_INTEGER(read_le16, uint16_t, 2, load_le16)
READER_INTEGER(read_le32, uint32_t, 4, load_le32)
READER_INTEGER(read_le64, uint64_t, 8, load_le64)
#undef READER_INTEGER

static inline struct slice read_bytes(struct reader *r, size_t size)
{
    const uint8_t *p = reader_take(r, size);
    return p ? slice_of(p, size) : slice_of(NULL, 0);
}

/* Unsigned LEB128, at most 10 bytes. */
uint64_t read_varint(struct reader *r);

/* ---- writer: into caller's memory of fixed size; past the end `failed` is set and nothing more is
 * written ---- */

struct writer {
    uint8_t *start;
    uint8_t *at;
    uint8_t *end;
    bool failed;
};

static inline struct writer writer_of(void *memory, size_t size)
{
    uint8_t *p = memory;
    return (struct writer){p, p, p + size, false};
}

static inline size_t writer_size(const struct writer *w)
{
    return (size_t)(w->at - w->start);
}

/* Room for `size` bytes to be filled in by the caller, or NULL. */
static inline uint8_t *writer_take(struct writer *w, size_t size)
{
    uint8_t *p = w->at;
    if (__builtin_expect(w->failed || (size_t)(w->end - w->at) < size, 0)) {
        w->failed = true;
        return NULL;
    }
    w->at += size;
    return p;
}

#define WRITER_INTEGER(name, type, size, store)                                                    \
    static inline void name(struct writer *w, type v)                                              \
    {                                                                                              \
        uint8_t *p = writer_take(w, size);                                                         \
        if (p)                                                                                     \
            store(p, v);                                                                           \
    }

static inline void store_u8(uint8_t *p, uint8_t v)
{
    *p = v;
}

WRITER_INTEGER(write_u8, uint8_t, 1, store_u8)
WRITER_INTEGER(write_be16, uint16_t, 2, store_be16)
WRITER_INTEGER(write_be32, uint32_t, 4, store_be32)
WRITER_INTEGER(write_be64, uint64_t, 8, store_be64)
WRITER_INTEGER(write_le16, uint16_t, 2, store_le16)
WRITER_INTEGER(write_le32, uint32_t, 4, store_le32)
WRITER_INTEGER(write_le64, uint64_t, 8, store_le64)
#undef WRITER_INTEGER

static inline void write_bytes(struct writer *w, struct slice s)
{
    uint8_t *p = writer_take(w, s.size);
    if (p && s.size)
        memcpy(p, s.data, s.size);
}

#define VARINT_SIZE_MAX 10
void write_varint(struct writer *w, uint64_t v);
size_t varint_size(uint64_t v);

#endif
