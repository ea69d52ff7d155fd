/*
 * The history that a dead letter in AMQP 0-9-1's format carries in its headers, as RabbitMQ 4
 * writes it. message.h has the contract of the functions, which are part of the format's table.
 *
 *   header                                        type  value
 *   x-death                                       A     tables, the newest death first, one for
 * each queue and reason, see below x-first-death-queue, -reason, -exchange       S     of the first
 * death, never changed again x-last-death-queue, -reason, -exchange        S     of the newest
 *
 *   field of a death      type  value
 *   count                 l     how often it died of this reason in this queue
 *   original-expiration   S     time to live in ms, where the message had one of its own
 *   reason                S     rejected, expired, maxlen, delivery_limit
 *   queue                 S
 *   time                  T     seconds, of the first time
 *   exchange              S     where it had been published before it came to the queue
 *   routing-keys          A     S: its key then, and those of its CC header
 *
 * Dying again of the same in the same queue moves the table to the head and raises its count;
 * nothing else in it changes. A queue that publishes its dead letters with a key of its own takes
 * the CC header away, and BCC is never passed on. All other properties and headers stay byte for
 * byte as they came; the history stands behind the other headers.
 *
 * Only what the broker wrote counts (MESSAGE_DEAD_LETTER): headers of these names that a client
 * published, copied from a dead letter or made up, are replaced at the first death whatever is in
 * them.
 *
 * The history is bounded: what grows beyond AMQP091_HISTORY_MAX loses its oldest deaths, and a
 * death lists CC keys up to AMQP091_HISTORY_KEYS_MAX. Properties that cannot be read (those of
 * published messages can) are passed on as they are, without a history.
 */
#ifndef SLUICE_MESSAGE_AMQP091_DEAD_LETTER_H
#define SLUICE_MESSAGE_AMQP091_DEAD_LETTER_H

#include "message/message.h"

#define AMQP091_HISTORY_MAX      32768u /* bytes of x-death's tables */
#define AMQP091_HISTORY_KEYS_MAX 8192u  /* bytes of one routing-keys' values */

struct message *amqp091_dead_letter(struct account *account, const struct message *message,
                                    const struct death *death) MUST_CHECK;
bool amqp091_goes_in_circle(const struct message *message, struct slice queue);
bool amqp091_origin(const struct message *message, struct message_origin *origin);

#endif
