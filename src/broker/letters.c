#include "broker/letters.h"

#include "base/assert.h"

#include <string.h>

static const struct message *head_of(const struct letter_message *letter)
{
    return (const void *)letter->head;
}

void letter_put_message(struct letter_message *letter, const struct message *message,
                        uint8_t *bytes)
{
    memcpy(letter->head, message, sizeof letter->head);
    if (message->body)
        buffer_ref(message->body);
    memcpy(bytes, message->bytes, message_bytes_size(message));
}

void letter_drop_message(const struct letter_message *letter)
{
    buffer_unref(head_of(letter)->body);
}

struct message *letter_take_message(const struct letter_message *letter, const uint8_t *bytes,
                                    struct account *account)
{
    struct message *message = message_revive(account, head_of(letter), bytes);

    if (!message)
        letter_drop_message(letter);
    return message;
}

struct message *letter_lend_message(const struct letter_message *letter, const uint8_t *bytes,
                                    struct message_room *room)
{
    return message_revive_in(room, head_of(letter), bytes);
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
