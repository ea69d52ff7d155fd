/*
 * As much of AMQP 0-9-1 as a load generator needs: frames, short and long texts, method numbers.
 *
 * On its own on purpose: the broker's codec must not be measured or tested with itself. Sections
 * are those of the AMQP 0-9-1 specification.
 */
#ifndef SLUICE_BENCH_AMQP_H
#define SLUICE_BENCH_AMQP_H

#include "base/bytes.h"

/* 4.2.3: type (1), channel (2), payload size (4), payload, end (1). */
enum { FRAME_METHOD = 1, FRAME_HEADER = 2, FRAME_BODY = 3, FRAME_HEARTBEAT = 8, FRAME_END = 0xce };
#define FRAME_HEAD_SIZE     7
#define FRAME_OVERHEAD_SIZE 8
#define FRAME_MAX           131072u /* what we offer; a peer may ask for less */

/* 4.2.6.1: class (2), weight (2), body size (8), property flags (2), properties. */
#define CONTENT_HEAD_SIZE     14
#define CONTENT_CLASS_BASIC   60
#define CONTENT_DELIVERY_MODE 0x1000 /* the property's flag; one byte, 2 is persistent */

#define AMQP_METHOD(class_id, method_id) ((uint32_t)(class_id) << 16 | (method_id))
enum amqp_method {
    CONNECTION_START = AMQP_METHOD(10, 10),
    CONNECTION_START_OK = AMQP_METHOD(10, 11),
    CONNECTION_TUNE = AMQP_METHOD(10, 30),
    CONNECTION_TUNE_OK = AMQP_METHOD(10, 31),
    CONNECTION_OPEN = AMQP_METHOD(10, 40),
    CONNECTION_OPEN_OK = AMQP_METHOD(10, 41),
    CONNECTION_CLOSE = AMQP_METHOD(10, 50),
    CONNECTION_CLOSE_OK = AMQP_METHOD(10, 51),
    CONNECTION_BLOCKED = AMQP_METHOD(10, 60),
    CONNECTION_UNBLOCKED = AMQP_METHOD(10, 61),
    CHANNEL_OPEN = AMQP_METHOD(20, 10),
    CHANNEL_OPEN_OK = AMQP_METHOD(20, 11),
    CHANNEL_FLOW = AMQP_METHOD(20, 20),
    CHANNEL_FLOW_OK = AMQP_METHOD(20, 21),
    CHANNEL_CLOSE = AMQP_METHOD(20, 40),
    CHANNEL_CLOSE_OK = AMQP_METHOD(20, 41),
    EXCHANGE_DECLARE = AMQP_METHOD(40, 10),
    EXCHANGE_DECLARE_OK = AMQP_METHOD(40, 11),
    EXCHANGE_DELETE = AMQP_METHOD(40, 20),
    EXCHANGE_DELETE_OK = AMQP_METHOD(40, 21),
    QUEUE_DECLARE = AMQP_METHOD(50, 10),
    QUEUE_DECLARE_OK = AMQP_METHOD(50, 11),
    QUEUE_BIND = AMQP_METHOD(50, 20),
    QUEUE_BIND_OK = AMQP_METHOD(50, 21),
    QUEUE_DELETE = AMQP_METHOD(50, 40),
    QUEUE_DELETE_OK = AMQP_METHOD(50, 41),
    BASIC_QOS = AMQP_METHOD(60, 10),
    BASIC_QOS_OK = AMQP_METHOD(60, 11),
    BASIC_CONSUME = AMQP_METHOD(60, 20),
    BASIC_CONSUME_OK = AMQP_METHOD(60, 21),
    BASIC_CANCEL = AMQP_METHOD(60, 30),
    BASIC_PUBLISH = AMQP_METHOD(60, 40),
    BASIC_RETURN = AMQP_METHOD(60, 50),
    BASIC_DELIVER = AMQP_METHOD(60, 60),
    BASIC_ACK = AMQP_METHOD(60, 80),
    BASIC_NACK = AMQP_METHOD(60, 120),
    CONFIRM_SELECT = AMQP_METHOD(85, 10),
    CONFIRM_SELECT_OK = AMQP_METHOD(85, 11),
};

/* The only channel that is ever used, on either side. */
#define CHANNEL 1

struct frame {
    uint8_t type;
    uint16_t channel;
    struct slice payload; /* borrowed from the input */
    size_t size;          /* of the whole frame */
};

/* The frame at the start of the bytes. E_MORE when it is not complete, E_FRAME when it is none. */
int frame_read(struct slice bytes, struct frame *frame) MUST_CHECK;

/* A frame is written as begin, payload, end; `begin` returns where, for `end`. */
size_t frame_begin(struct writer *w, uint8_t type, uint16_t channel);
void frame_end(struct writer *w, size_t begin);

/* A method frame up to its arguments. */
size_t method_begin(struct writer *w, uint16_t channel, enum amqp_method method);

/* Short: a size byte, at most 255 bytes (more fails the writer). Long: four size bytes. */
void write_short_text(struct writer *w, struct slice text);
void write_long_text(struct writer *w, struct slice text);
struct slice read_short_text(struct reader *r);
struct slice read_long_text(struct reader *r);

/* One field of a table whose value is a long text (`S`). */
void write_text_field(struct writer *w, const char *name, struct slice value);

/* A table is written as begin, fields, end. */
size_t table_begin(struct writer *w);
void table_end(struct writer *w, size_t begin);

#endif
