#include "broker/letters.h"

void letter_dropped(void *context, unsigned kind, struct slice letter)
{
    const void *data = letter.data;
    const struct letter_publish *publish = data;
    const struct letter_part_publish *part_publish = data;
    const struct letter_deliver *deliver = data;
    const struct letter_move_message *move_message = data;
    const struct letter_answer *answer = data;

    (void)context;
    switch (kind) {
    case LETTER_PUBLISH:
        message_lent_end(letter_message(publish->ids + publish->queues));
        break;
    case LETTER_PART_PUBLISH:
        message_lent_end(letter_message(part_publish->ids + part_publish->queues));
        break;
    case LETTER_DELIVER:
        message_lent_end(&deliver->message);
        break;
    case LETTER_MOVE_MESSAGE:
        message_lent_end(&move_message->message);
        break;
    case LETTER_ANSWER:
        if (answer->has_message)
            message_lent_end(&answer->message);
        break;
    default:
        break;
    }
}
