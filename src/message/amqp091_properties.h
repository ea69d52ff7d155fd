/*
 * The properties of a message in AMQP 0-9-1's format: the property flags and property list of a
 * content header frame (section 4.2.6.1), as they came. This is message format FORMAT_AMQP091; the
 * protocol's codec and the conversions use it, too.
 */
#ifndef SLUICE_MESSAGE_AMQP091_PROPERTIES_H
#define SLUICE_MESSAGE_AMQP091_PROPERTIES_H

#include "message/fields.h"

enum amqp091_property {
    AMQP091_CONTENT_TYPE = 1 << 15,
    AMQP091_CONTENT_ENCODING = 1 << 14,
    AMQP091_HEADERS = 1 << 13,
    AMQP091_DELIVERY_MODE = 1 << 12,
    AMQP091_PRIORITY = 1 << 11,
    AMQP091_CORRELATION_ID = 1 << 10,
    AMQP091_REPLY_TO = 1 << 9,
    AMQP091_EXPIRATION = 1 << 8,
    AMQP091_MESSAGE_ID = 1 << 7,
    AMQP091_TIMESTAMP = 1 << 6,
    AMQP091_TYPE = 1 << 5,
    AMQP091_USER_ID = 1 << 4,
    AMQP091_APP_ID = 1 << 3,
    AMQP091_CLUSTER_ID = 1 << 2,
};

struct amqp091_properties {
    uint16_t flags; /* which of the following are there */
    uint8_t delivery_mode, priority;
    uint64_t timestamp;
    struct slice content_type, content_encoding, correlation_id, reply_to, expiration, message_id,
        type, user_id, app_id, cluster_id;
    struct slice headers; /* a table without its size, see fields.h; not checked inside */
};

/* From "property flags, property list". E_INVALID: the bytes end early, go on too long, or have
 * flag bits that no property has (bit 1, bit 0 = continuation). The headers' inside is not looked
 * at. Slices borrow from `bytes`. */
int amqp091_properties_parse(struct slice bytes, struct amqp091_properties *properties) MUST_CHECK;

/* The reverse. */
size_t amqp091_properties_size(const struct amqp091_properties *properties);
void amqp091_properties_write(struct writer *writer, const struct amqp091_properties *properties);

/* What they mean for a message that has them: flags (enum message_flag). */
uint8_t amqp091_message_flags(const struct amqp091_properties *properties);

/* The properties that are there, but the headers, one after the other: texts (type S), integers
 * (type l) and the timestamp (T) by name; start with *at 0. False: that was all. */
bool amqp091_properties_next(const struct amqp091_properties *properties, unsigned *at,
                             struct field *field);

/* The reverse, from a field of that name: E_NOT_FOUND: there is no such property; E_INVALID: it is
 * of another type, or longer than 255 bytes. Texts are borrowed. */
int amqp091_properties_set(struct amqp091_properties *properties,
                           const struct field *field) MUST_CHECK;

/* Only the headers' table out of the raw bytes; false where there is none. Cheap: skips what stands
 * before. */
bool amqp091_properties_headers(struct slice bytes, struct slice *headers);

/* ---- the header x-delay: how long a message is to wait, in milliseconds ---- */

#define AMQP091_DELAY_MS_MAX UINT32_MAX /* as in RabbitMQ: more is no delay */

/* Of these headers, in whatever type of number or as a text of digits; 0: it is not to wait. */
uint64_t amqp091_delay_ms(struct slice headers);

/* Makes it negative where it stands, which says that it has been obeyed: whoever publishes the
 * message again as it came does not wait again. One that is no number, or too large for the signed
 * type of its width, stays. Of properties that the caller may write to. */
void amqp091_delay_spend(uint8_t *properties, size_t size);

#endif
