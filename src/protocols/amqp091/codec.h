/*
 * Frames and methods of AMQP 0-9-1 (sections 4.2.3 to 4.2.5): pure functions between bytes and
 * structs. Nothing is allocated; decoded slices borrow from the input.
 *
 *   frame   type 1 | channel 2 | size 4 | payload | 0xCE
 *   method  class 2 | method 2 | fields
 *   header  class 2 | weight 2 (0) | body size 8 | property flags and list (message/)
 */
#ifndef SLUICE_AMQP091_CODEC_H
#define SLUICE_AMQP091_CODEC_H

#include "base/bytes.h"
#include "protocols/amqp091/methods.h"

#define FRAME_HEADER_SIZE 7u
#define FRAME_OVERHEAD    8u /* header and end octet */
#define FRAME_END         0xCEu
#define FRAME_SIZE_MIN    4096u /* frame_max may not be negotiated below */

enum frame_type { FRAME_METHOD = 1, FRAME_HEADER = 2, FRAME_BODY = 3, FRAME_HEARTBEAT = 8 };

struct frame {
    uint8_t type; /* enum frame_type, or what else came */
    uint16_t channel;
    uint32_t size;        /* of the payload */
    struct slice payload; /* data NULL until the whole frame is there */
};

/* The frame at the start of `bytes`. Its whole size when it is complete; E_MORE when it is not,
 * with type, channel and size filled in as soon as 7 bytes are there (else size is 0 and type 0);
 * E_FRAME when the octet behind the payload is not FRAME_END. Does not limit the size: the caller
 * looks at frame->size after E_MORE, too. */
ssize_t amqp091_frame_read(struct slice bytes, struct frame *frame) MUST_CHECK;

/* ---- methods ---- */

#define METHOD_ID(class_id, method_id) ((uint32_t)(class_id) << 16 | (uint32_t)(method_id))

enum method_id {
#define METHOD_NUMBER(name, class_id, method, text, content)                                       \
    METHOD_##name = METHOD_ID(class_id, method),
    AMQP091_METHODS(METHOD_NUMBER)
#undef METHOD_NUMBER
};

#define TYPE_octet    uint8_t
#define TYPE_word     uint16_t
#define TYPE_long     uint32_t
#define TYPE_longlong uint64_t
#define TYPE_bit      bool
#define TYPE_shortstr struct slice
#define TYPE_longstr  struct slice
#define TYPE_table    struct slice

#define METHOD_MEMBER(type, name) TYPE_##type name;
#define METHOD_STRUCT(name, class_id, method, text, content)                                       \
    struct name {                                                                                  \
        FIELDS_##name(METHOD_MEMBER)                                                               \
    };
AMQP091_METHODS(METHOD_STRUCT)
#undef METHOD_STRUCT
#undef METHOD_MEMBER

struct method {
    uint32_t id; /* enum method_id */
    union {
#define METHOD_UNION(name, class_id, method, text, content) struct name name;
        AMQP091_METHODS(METHOD_UNION)
#undef METHOD_UNION
    };
};

/* "basic.publish"; NULL when there is no such method. */
const char *amqp091_method_name(uint32_t id);
bool amqp091_method_has_content(uint32_t id);

/* Of a method frame's payload. E_UNSUPPORTED: no such method; E_FRAME: fields end early, go on too
 * long, or hold a short string that is not UTF-8; E_INVALID: a table breaks (message/fields.h). The
 * id is filled in whenever there are four bytes. */
int amqp091_method_decode(struct slice payload, struct method *method,
                          struct failure *failure) MUST_CHECK;

/* Appends a whole frame. */
void amqp091_method_write(struct writer *writer, uint16_t channel, const struct method *method);

/* ---- content ---- */

#define CONTENT_HEADER_FIXED 12u /* class, weight, body size */

struct content_header {
    uint16_t class_id;
    uint16_t weight;
    uint64_t body_size;
    struct slice properties; /* flags and list, as message/amqp091_properties.h reads them */
};

/* Of a header frame's payload; E_INVALID when it is shorter than its fixed part. */
int amqp091_content_header_decode(struct slice payload, struct content_header *header) MUST_CHECK;

/* Whole frames. */
void amqp091_content_header_write(struct writer *writer, uint16_t channel,
                                  const struct content_header *header);
void amqp091_body_write(struct writer *writer, uint16_t channel, struct slice part);
void amqp091_heartbeat_write(struct writer *writer);

/* Is it UTF-8 (without surrogates and overlong forms)? */
bool amqp091_is_utf8(struct slice text);

#endif
