#include "broker/letters.h"

#include "base/assert.h"

#include <string.h>

size_t letter_message_bytes(const struct message *message)
{
    size_t size = (size_t)message->exchange_size + message->key_size + message->properties_size;
    return message->body ? size : size + (size_t)message->body_size;
}

void letter_put_message(struct letter_message *letter, const struct message *message,
                        uint8_t *bytes)
{
    *letter = (struct letter_message){
        .format = message->format,
        .flags = message->flags,
        .priority = message->priority,
        .exchange_size = message->exchange_size,
        .key_size = message->key_size,
        .properties_size = message->properties_size,
        .body_size = message->body_size,
        .published_at_ms = message->published_at_ms,
        .expires_at_ms = message->expires_at_ms,
        .body = message->body ? buffer_ref(message->body) : NULL,
    };
    memcpy(bytes, message->bytes, letter_message_bytes(message));
}

void letter_drop_message(const struct letter_message *letter)
{
    buffer_unref(letter->body);
}

struct message *letter_take_message(const struct letter_message *letter, const uint8_t *bytes,
                                    struct account *account)
{
    struct message_parts parts = {
        .format = letter->format,
        .flags = letter->flags,
        .priority = letter->priority,
        .exchange = slice_of(bytes, letter->exchange_size),
        .key = slice_of(bytes + letter->exchange_size, letter->key_size),
        .properties =
            slice_of(bytes + letter->exchange_size + letter->key_size, letter->properties_size),
        .body_buffer = letter->body,
        .published_at_ms = letter->published_at_ms,
        .expires_at_ms = letter->expires_at_ms,
    };
    parts.body = letter->body ? slice_of(letter->body->data, (size_t)letter->body_size)
                              : slice_of(parts.properties.data + parts.properties.size,
                                         (size_t)letter->body_size);
    struct message *message = message_new(account, &parts);
    buffer_unref(letter->body);
    return message;
}

void letter_dropped(void *context, unsigned kind, struct slice letter)
{
    (void)context;
    switch (kind) {
    case LETTER_PUBLISH:
        letter_drop_message(&((const struct letter_publish *)(const void *)letter.data)->message);
        break;
    case LETTER_PART_PUBLISH:
        letter_drop_message(
            &((const struct letter_part_publish *)(const void *)letter.data)->message);
        break;
    case LETTER_DELIVER:
        letter_drop_message(&((const struct letter_deliver *)(const void *)letter.data)->message);
        break;
    case LETTER_ANSWER: {
        const struct letter_answer *answer = (const void *)letter.data;
        if (answer->has_message)
            letter_drop_message(&answer->message);
        break;
    }
    default:
        break;
    }
}
