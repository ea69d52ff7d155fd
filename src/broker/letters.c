#include "broker/letters.h"

static void publishes_dropped(struct slice letter)
{
    const uint8_t *end = letter.data + letter.size;

    for (const void *at = letter.data; (const uint8_t *)at < end;) {
        const struct letter_publish *publish = at;
        const struct message *message = letter_message(publish->ids + publish->queues);
        at = letter_next(message);
        message_lent_end(message);
    }
}

static void deliveries_dropped(struct slice letter)
{
    const uint8_t *end = letter.data + letter.size;

    for (const void *at = letter.data; (const uint8_t *)at < end;) {
        const struct letter_deliver *deliver = at;
        at = letter_next(&deliver->message);
        message_lent_end(&deliver->message);
    }
}

void letter_dropped(void *context, unsigned kind, struct slice letter)
{
    const void *data = letter.data;
    const struct letter_part_publish *part_publish = data;
    const struct letter_move_message *move_message = data;
    const struct letter_answer *answer = data;
    const struct letter_browsed *browsed = data;

    (void)context;
    switch (kind) {
    case LETTER_PUBLISH:
        publishes_dropped(letter);
        break;
    case LETTER_PART_PUBLISH:
        message_lent_end(letter_message(part_publish->ids + part_publish->queues));
        break;
    case LETTER_DELIVER:
        deliveries_dropped(letter);
        break;
    case LETTER_MOVE_MESSAGE:
        message_lent_end(&move_message->message);
        break;
    case LETTER_BROWSED:
        message_lent_end(&browsed->message);
        break;
    case LETTER_ANSWER:
        if (answer->has_message)
            message_lent_end(&answer->message);
        break;
    default:
        break;
    }
}
