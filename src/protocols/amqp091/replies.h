/*
 * Reply codes of AMQP 0-9-1 (section 1.2.1 of the generated specification), and the one table from
 * the program's error codes to them, with the words RabbitMQ puts in front of its texts.
 */
#ifndef SLUICE_AMQP091_REPLIES_H
#define SLUICE_AMQP091_REPLIES_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum reply_code {
    REPLY_SUCCESS = 200,
    REPLY_CONTENT_TOO_LARGE = 311,
    REPLY_NO_ROUTE = 312,
    REPLY_NO_CONSUMERS = 313,
    REPLY_CONNECTION_FORCED = 320,
    REPLY_INVALID_PATH = 402,
    REPLY_ACCESS_REFUSED = 403,
    REPLY_NOT_FOUND = 404,
    REPLY_RESOURCE_LOCKED = 405,
    REPLY_PRECONDITION_FAILED = 406,
    REPLY_FRAME_ERROR = 501,
    REPLY_SYNTAX_ERROR = 502,
    REPLY_COMMAND_INVALID = 503,
    REPLY_CHANNEL_ERROR = 504,
    REPLY_UNEXPECTED_FRAME = 505,
    REPLY_RESOURCE_ERROR = 506,
    REPLY_NOT_ALLOWED = 530,
    REPLY_NOT_IMPLEMENTED = 540,
    REPLY_INTERNAL_ERROR = 541,
};

/* "NOT_FOUND". */
const char *reply_name(enum reply_code code);

/* Does it end the connection, not only the channel? */
bool reply_is_hard(enum reply_code code);

/* The reply to an E_ code that the broker gave for a method (enum method_id; some methods have
 * their own). */
enum reply_code reply_for_error(int error, uint32_t method_id);

/* The reply to what amqp091_method_decode() says. */
enum reply_code reply_for_decoding(int error);

#define REPLY_TEXT_MAX 255u

/* "NOT_FOUND - no queue 'a' in vhost '/'", at most REPLY_TEXT_MAX bytes, never cut inside a
 * character. `text` has room for REPLY_TEXT_MAX + 1. Returns the size. */
size_t reply_text(char *text, enum reply_code code, const char *explanation);

#endif
