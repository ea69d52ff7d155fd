#include "protocols/amqp091/codec.h"

#include "message/fields.h"

/* ---- frames ---- */

ssize_t amqp091_frame_read(struct slice bytes, struct frame *frame)
{
    *frame = (struct frame){0};
    if (bytes.size < FRAME_HEADER_SIZE)
        return E_MORE;
    frame->type = bytes.data[0];
    frame->channel = load_be16(bytes.data + 1);
    frame->size = load_be32(bytes.data + 3);
    if (bytes.size - FRAME_HEADER_SIZE <= frame->size)
        return E_MORE;
    frame->payload = slice_of(bytes.data + FRAME_HEADER_SIZE, frame->size);
    if (frame->payload.data[frame->size] != FRAME_END)
        return E_FRAME;
    return (ssize_t)frame->size + (ssize_t)FRAME_OVERHEAD;
}

/* Writes a frame's header; end_frame() fills in the size. */
static uint8_t *begin_frame(struct writer *writer, enum frame_type type, uint16_t channel)
{
    uint8_t *start = writer_take(writer, FRAME_HEADER_SIZE);
    if (start) {
        start[0] = (uint8_t)type;
        store_be16(start + 1, channel);
    }
    return start;
}

static void end_frame(struct writer *writer, uint8_t *start)
{
    if (start && !writer->failed)
        store_be32(start + 3, (uint32_t)(writer->at - start - (ptrdiff_t)FRAME_HEADER_SIZE));
    write_u8(writer, FRAME_END);
}

void amqp091_body_write(struct writer *writer, uint16_t channel, struct slice part)
{
    uint8_t *start = begin_frame(writer, FRAME_BODY, channel);
    write_bytes(writer, part);
    end_frame(writer, start);
}

void amqp091_heartbeat_write(struct writer *writer)
{
    end_frame(writer, begin_frame(writer, FRAME_HEARTBEAT, 0));
}

/* ---- UTF-8 ---- */

/* The size of the sequence that starts at p, 0 when there is none. */
static size_t utf8_sequence(const uint8_t *p, size_t left)
{
    uint8_t first = p[0];
    size_t size = first < 0x80 ? 1 : first < 0xc2 ? 0 : first < 0xe0 ? 2 : first < 0xf0 ? 3 : 4;

    if (size == 0 || first > 0xf4 || size > left)
        return 0;
    for (size_t i = 1; i < size; i++)
        if ((p[i] & 0xc0) != 0x80)
            return 0;
    /* overlong forms, surrogates, and what is above U+10FFFF show in the second byte */
    if ((first == 0xe0 && p[1] < 0xa0) || (first == 0xed && p[1] > 0x9f) ||
        (first == 0xf0 && p[1] < 0x90) || (first == 0xf4 && p[1] > 0x8f))
        return 0;
    return size;
}

bool amqp091_is_utf8(struct slice text)
{
    size_t i = 0;

    while (i < text.size) {
        uint64_t eight;
        if (text.size - i >= 8 && (memcpy(&eight, text.data + i, 8), true) &&
            (eight & 0x8080808080808080u) == 0) {
            i += 8;
            continue;
        }
        size_t size = utf8_sequence(text.data + i, text.size - i);
        if (size == 0)
            return false;
        i += size;
    }
    return true;
}

/* ---- methods: one table of shapes, made from methods.h ---- */

/* What a field is on the wire and in its struct. The members of a method's struct stand in wire
 * order, so decoder and encoder walk both together, each member at its natural alignment. */
enum field_kind {
    KIND_end,
    KIND_bit,
    KIND_octet,
    KIND_word,
    KIND_long,
    KIND_longlong,
    KIND_shortstr,
    KIND_longstr,
    KIND_table,
};

struct kind_layout {
    uint8_t size, alignment;
};

static const struct kind_layout layouts[] = {
    [KIND_end] = {0, 1},
    [KIND_bit] = {sizeof(bool), _Alignof(bool)},
    [KIND_octet] = {1, 1},
    [KIND_word] = {2, _Alignof(uint16_t)},
    [KIND_long] = {4, _Alignof(uint32_t)},
    [KIND_longlong] = {8, _Alignof(uint64_t)},
    [KIND_shortstr] = {sizeof(struct slice), _Alignof(struct slice)},
    [KIND_longstr] = {sizeof(struct slice), _Alignof(struct slice)},
    [KIND_table] = {sizeof(struct slice), _Alignof(struct slice)},
};

#define FIELD_KIND(type, member) KIND_##type,
#define METHOD_KINDS(name, class_id, method, text, content)                                        \
    static const uint8_t kinds_##name[] = {FIELDS_##name(FIELD_KIND) KIND_end};
AMQP091_METHODS(METHOD_KINDS)

struct method_shape {
    const char *name;
    bool has_content;
    const uint8_t *kinds;
};

static struct method_shape shape_of(uint32_t id)
{
    switch (id) {
#define METHOD_SHAPE(name, class_id, method, text, content)                                        \
    case METHOD_##name:                                                                            \
        return (struct method_shape){text, content, kinds_##name};
        AMQP091_METHODS(METHOD_SHAPE)
#undef METHOD_SHAPE
    default:
        return (struct method_shape){0};
    }
}

const char *amqp091_method_name(uint32_t id)
{
    return shape_of(id).name;
}

bool amqp091_method_has_content(uint32_t id)
{
    return shape_of(id).has_content;
}

/* Steps through the members of a struct. */
static size_t next_offset(size_t *offset, uint8_t kind)
{
    size_t alignment = layouts[kind].alignment;
    size_t here = (*offset + alignment - 1) & ~(alignment - 1);
    *offset = here + layouts[kind].size;
    return here;
}

static void put_member(uint8_t *member, uint8_t kind, const void *value)
{
    memcpy(member, value, layouts[kind].size);
}

static int decode_text(struct reader *reader, uint8_t kind, struct slice *text,
                       struct failure *failure)
{
    size_t size = kind == KIND_shortstr ? read_u8(reader) : read_be32(reader);
    *text = read_bytes(reader, size);
    if (reader->failed)
        return 0; /* told once, at the end */
    if (kind == KIND_shortstr && !amqp091_is_utf8(*text))
        return fail(failure, E_FRAME, "Malformed UTF-8 in shortstr");
    if (kind == KIND_table)
        return fields_check(*text, failure);
    return 0;
}

static int decode_fields(struct reader *reader, const uint8_t *kinds, uint8_t *base,
                         struct failure *failure)
{
    size_t offset = 0;
    uint8_t bits = 0;
    unsigned bit = 8; /* 8: the next bit begins a byte */

    for (; *kinds != KIND_end; kinds++) {
        uint8_t *member = base + next_offset(&offset, *kinds);
        if (*kinds == KIND_bit) {
            if (bit == 8) {
                bits = read_u8(reader);
                bit = 0;
            }
            bool value = bits >> bit++ & 1;
            put_member(member, KIND_bit, &value);
            continue;
        }
        bit = 8;
        switch (*kinds) {
        case KIND_octet:
            put_member(member, *kinds, &(uint8_t){read_u8(reader)});
            break;
        case KIND_word:
            put_member(member, *kinds, &(uint16_t){read_be16(reader)});
            break;
        case KIND_long:
            put_member(member, *kinds, &(uint32_t){read_be32(reader)});
            break;
        case KIND_longlong:
            put_member(member, *kinds, &(uint64_t){read_be64(reader)});
            break;
        default: {
            struct slice text;
            int error = decode_text(reader, *kinds, &text, failure);
            if (error)
                return error;
            put_member(member, *kinds, &text);
        }
        }
    }
    return 0;
}

int amqp091_method_decode(struct slice payload, struct method *method, struct failure *failure)
{
    struct reader reader = reader_of(payload);

    memset(method, 0, sizeof *method);
    method->id = read_be32(&reader);
    struct method_shape shape = shape_of(method->id);
    if (reader.failed)
        return fail(failure, E_FRAME, "a method frame of %zu bytes", payload.size);
    if (!shape.name)
        return fail(failure, E_UNSUPPORTED, "unknown method %u of class %u", method->id & 0xffff,
                    method->id >> 16);
    int error = decode_fields(&reader, shape.kinds, (uint8_t *)&method->connection_start, failure);
    if (error)
        return error;
    if (reader.failed)
        return fail(failure, E_FRAME, "the arguments of %s end early", shape.name);
    if (reader_left(&reader) > 0)
        return fail(failure, E_FRAME, "%zu bytes behind the arguments of %s", reader_left(&reader),
                    shape.name);
    return 0;
}

static void encode_text(struct writer *writer, uint8_t kind, struct slice text)
{
    if (kind != KIND_shortstr) {
        write_be32(writer, (uint32_t)text.size);
    } else if (text.size > 255) {
        writer->failed = true;
    } else {
        write_u8(writer, (uint8_t)text.size);
    }
    write_bytes(writer, text);
}

static void encode_fields(struct writer *writer, const uint8_t *kinds, const uint8_t *base)
{
    size_t offset = 0;
    uint8_t *bits = NULL; /* the byte that collects neighbouring bits */
    unsigned bit = 0;

    for (; *kinds != KIND_end; kinds++) {
        const uint8_t *member = base + next_offset(&offset, *kinds);
        uint16_t word;
        uint32_t number;
        uint64_t large;
        struct slice text;

        if (*kinds == KIND_bit) {
            if (!bits || bit == 8) {
                bits = writer_take(writer, 1);
                bit = 0;
                if (bits)
                    *bits = 0;
            }
            if (bits && *(const bool *)member)
                *bits |= (uint8_t)(1u << bit);
            bit++;
            continue;
        }
        bits = NULL;
        switch (*kinds) {
        case KIND_octet:
            write_u8(writer, *member);
            break;
        case KIND_word:
            memcpy(&word, member, sizeof word);
            write_be16(writer, word);
            break;
        case KIND_long:
            memcpy(&number, member, sizeof number);
            write_be32(writer, number);
            break;
        case KIND_longlong:
            memcpy(&large, member, sizeof large);
            write_be64(writer, large);
            break;
        default:
            memcpy(&text, member, sizeof text);
            encode_text(writer, *kinds, text);
        }
    }
}

void amqp091_method_write(struct writer *writer, uint16_t channel, const struct method *method)
{
    struct method_shape shape = shape_of(method->id);
    uint8_t *start = begin_frame(writer, FRAME_METHOD, channel);

    if (!shape.name) {
        writer->failed = true;
        return;
    }
    write_be32(writer, method->id);
    encode_fields(writer, shape.kinds, (const uint8_t *)&method->connection_start);
    end_frame(writer, start);
}

/* ---- content ---- */

int amqp091_content_header_decode(struct slice payload, struct content_header *header)
{
    struct reader reader = reader_of(payload);

    header->class_id = read_be16(&reader);
    header->weight = read_be16(&reader);
    header->body_size = read_be64(&reader);
    header->properties = slice_of(reader.at, reader_left(&reader));
    return reader.failed ? E_INVALID : 0;
}

void amqp091_content_header_write(struct writer *writer, uint16_t channel,
                                  const struct content_header *header)
{
    uint8_t *start = begin_frame(writer, FRAME_HEADER, channel);
    write_be16(writer, header->class_id);
    write_be16(writer, header->weight);
    write_be64(writer, header->body_size);
    write_bytes(writer, header->properties);
    end_frame(writer, start);
}
