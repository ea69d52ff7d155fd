/* Frames, methods and content headers out of arbitrary bytes: what is decoded is encoded again and
 * must be the same. */
#include "base/assert.h"
#include "protocols/amqp091/codec.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static bool has_bits(uint32_t id)
{
    /* methods whose unused bits are not kept */
    switch (id) {
#define BIT_octet          0
#define BIT_word           0
#define BIT_long           0
#define BIT_longlong       0
#define BIT_shortstr       0
#define BIT_longstr        0
#define BIT_table          0
#define BIT_bit            1
#define IS_BIT(type, name) +BIT_##type
#define HAS_BITS(name, class_id, method, text, content)                                            \
    case METHOD_##name:                                                                            \
        return (0 FIELDS_##name(IS_BIT)) > 0;
        AMQP091_METHODS(HAS_BITS)
    default:
        return false;
    }
}

static void try_method(struct slice payload)
{
    struct method method, again;
    struct failure failure;
    uint8_t *memory = malloc(payload.size + FRAME_OVERHEAD + 1);
    struct writer writer = writer_of(memory, payload.size + FRAME_OVERHEAD);
    struct frame frame;

    if (amqp091_method_decode(payload, &method, &failure) == 0) {
        amqp091_method_write(&writer, 1, &method);
        ASSERT(!writer.failed && writer_size(&writer) == payload.size + FRAME_OVERHEAD);
        ASSERT(amqp091_frame_read(slice_of(memory, writer_size(&writer)), &frame) > 0);
        ASSERT(has_bits(method.id) || slice_equal(frame.payload, payload));
        ASSERT(amqp091_method_decode(frame.payload, &again, &failure) == 0);
        ASSERT(again.id == method.id && amqp091_method_name(method.id));
    } else {
        ASSERT(failure.text[0]);
    }
    free(memory);
}

static void try_header(struct slice payload)
{
    struct content_header header;
    struct frame frame;

    if (amqp091_content_header_decode(payload, &header))
        return;
    uint8_t *memory = malloc(payload.size + FRAME_OVERHEAD);
    struct writer writer = writer_of(memory, payload.size + FRAME_OVERHEAD);
    amqp091_content_header_write(&writer, 1, &header);
    ASSERT(!writer.failed &&
           amqp091_frame_read(slice_of(memory, writer_size(&writer)), &frame) > 0);
    ASSERT(slice_equal(frame.payload, payload));
    free(memory);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice left = slice_of(data, size);
    struct frame frame;
    ssize_t used;

    while ((used = amqp091_frame_read(left, &frame)) > 0) {
        try_method(frame.payload);
        try_header(frame.payload);
        left = slice_of(left.data + used, left.size - (size_t)used);
    }
    /* and without a frame around */
    try_method(slice_of(data, size));
    try_header(slice_of(data, size));
    amqp091_is_utf8(slice_of(data, size));
    return 0;
}
