/*
 * The arguments of queues, exchanges and consumers: which are known, what they may be, and whether
 * a second declaration asks for the same.
 *
 * The rules and the words of the errors are RabbitMQ 4.3's. Arguments that nobody knows are kept,
 * shown and never refused. An argument of another queue type is refused, so is one of a wrong type
 * or range. Failures are E_INVALID and E_MISMATCH; AMQP 0-9-1 answers both with 406.
 *
 * `name` and `vhost` are for the texts. Tables have been through fields_check().
 */
#ifndef SLUICE_BROKER_ARGUMENTS_H
#define SLUICE_BROKER_ARGUMENTS_H

#include "message/fields.h"
#include "queue/queue.h"

enum queue_type { QUEUE_CLASSIC, QUEUE_QUORUM, QUEUE_STREAM, QUEUE_TYPES };

const char *queue_type_name(enum queue_type type);

#define ARGUMENT_MS_MAX 315360000000 /* ten years: the longest expiry and time to live */

/* What the arguments say. Texts stay where they were read. */
struct queue_settings {
    enum queue_type type;
    uint64_t expires_ms;         /* x-expires; 0: never */
    int64_t message_ttl_ms;      /* -1: none */
    int64_t length_max;          /* x-max-length; -1: none */
    int64_t length_bytes_max;    /* x-max-length-bytes; -1: none */
    int64_t delivery_limit;      /* -1: none; a quorum queue has one, unless it says otherwise */
    int64_t consumer_timeout_ms; /* -1: the node's */
    struct slice dead_letter_exchange; /* data NULL: none */
    struct slice dead_letter_key;      /* data NULL: the message's own */
    enum queue_overflow overflow;      /* x-overflow */
    uint8_t priority_max;              /* x-max-priority; 0: no priorities */
    struct queue_retry retry;          /* x-delayed-retry-... */
    bool single_active_consumer;
    bool says_overflow, says_delivery_limit; /* these are not what goes without saying */
};

/* "drop-head", ...; false: there is no such word. */
bool queue_overflow_parse(struct slice word, enum queue_overflow *overflow) MUST_CHECK;

/* Has it an exchange for those who die in it? "" is one, too. */
static inline bool queue_dead_letters(const struct queue_settings *settings)
{
    return settings->dead_letter_exchange.data != NULL;
}

/* On failure the settings have what was read before the argument that is wrong. */
int queue_arguments_check(struct slice arguments, const char *queue_name, const char *vhost,
                          struct queue_settings *settings, struct failure *failure) MUST_CHECK;

/* Quorum queues and streams are durable, belong to nobody and stay. E_INVALID. */
int queue_properties_check(enum queue_type type, bool durable, bool exclusive, bool auto_delete,
                           const char *queue_name, const char *vhost,
                           struct failure *failure) MUST_CHECK;

/* Those arguments that belong to the queue's type are compared: integers of any width by value, one
 * that is missing differs from any (but no x-queue-type is "classic"). E_MISMATCH. */
int queue_arguments_equivalent(struct slice current, struct slice received, const char *queue_name,
                               const char *vhost, struct failure *failure) MUST_CHECK;

/* An alternate-exchange must be a text. */
int exchange_arguments_check(struct slice arguments, const char *exchange_name, const char *vhost,
                             struct failure *failure) MUST_CHECK;

/* Only the alternate-exchange is compared. */
int exchange_arguments_equivalent(struct slice current, struct slice received,
                                  const char *exchange_name, const char *vhost,
                                  struct failure *failure) MUST_CHECK;

/* Of basic.consume and its like. */
struct consumer_settings {
    int64_t priority;            /* x-priority; higher first; 0 */
    int64_t consumer_timeout_ms; /* -1: the queue's */
};

int consumer_arguments_check(struct slice arguments, enum queue_type type, const char *queue_name,
                             const char *vhost, struct consumer_settings *settings,
                             struct failure *failure) MUST_CHECK;

#endif
