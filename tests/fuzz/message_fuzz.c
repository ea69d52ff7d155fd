/* Stored messages out of arbitrary bytes; those that decode are encoded the same. */
#include "base/assert.h"
#include "message/message.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void look_at(struct message *message)
{
    const struct message_format_functions *format = message_format(message);
    struct field field;

    (void)format->header(message, slice_text("a"), &field);
    struct slice headers = format->headers(message);
    struct reader reader = reader_of(headers);
    while (fields_next(&reader, &field))
        ASSERT(format->header(message, field.name, &field));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct account account;
    struct message *message, *again;

    account_init(&account, NULL, 1 << 20);
    int result = message_decode(&account, slice_of(data, size), &message);
    ASSERT(result == 0 || result == E_CORRUPT || result == E_VERSION || result == E_MEMORY);
    if (result == 0) {
        size_t head = message_head_size(message);
        struct slice body = message_body(message);
        uint8_t *memory = malloc(head + body.size);
        struct writer writer = writer_of(memory, head + body.size);
        message_encode_head(message, &writer);
        ASSERT(!writer.failed && writer_size(&writer) == head && head <= MESSAGE_HEAD_MAX(message));
        write_bytes(&writer, body);
        ASSERT(message_decode(&account, slice_of(memory, head + body.size), &again) == 0);
        ASSERT(slice_equal(message_body(again), body));
        ASSERT(message_footprint(again) == message_footprint(message));
        ASSERT(account.used == 2 * message_footprint(message));
        look_at(message);
        free(memory);
        message_unref(again);
        message_unref(message);
    }
    account_fini(&account);
    return 0;
}
