/* Properties of AMQP 0-9-1 out of arbitrary bytes; those that parse are written back the same. */
#include "base/assert.h"
#include "message/amqp091_properties.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice bytes = slice_of(data, size), headers;
    struct amqp091_properties properties;

    bool has_headers = amqp091_properties_headers(bytes, &headers);
    if (amqp091_properties_parse(bytes, &properties) != 0)
        return 0;
    ASSERT(has_headers == ((properties.flags & AMQP091_HEADERS) != 0));
    ASSERT(!has_headers || slice_equal(headers, properties.headers));
    ASSERT(amqp091_properties_size(&properties) == size);
    uint8_t *memory = malloc(size);
    struct writer writer = writer_of(memory, size);
    amqp091_properties_write(&writer, &properties);
    ASSERT(!writer.failed && writer_size(&writer) == size && memcmp(memory, data, size) == 0);
    uint64_t delay_ms = amqp091_delay_ms(properties.headers);
    ASSERT(delay_ms <= AMQP091_DELAY_MS_MAX);
    amqp091_delay_spend(memory, size);
    ASSERT(delay_ms > 0 || memcmp(memory, data, size) == 0);
    ASSERT(amqp091_properties_parse(slice_of(memory, size), &properties) == 0);
    uint64_t left_ms = amqp091_delay_ms(properties.headers);
    ASSERT(left_ms == 0 || left_ms == delay_ms);
    free(memory);
    return 0;
}
