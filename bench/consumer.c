#include "consumer.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

/* Offsets in a basic.deliver frame with our consumer tags: head 7, class and method 4, tag 1 + 5.
 */
#define TAG_AT          12
#define DELIVERY_TAG_AT (TAG_AT + CONSUMER_TAG_DIGITS)
#define REDELIVERED_AT  (DELIVERY_TAG_AT + 8)
#define ACK_SIZE        21

/* ---- opening and closing ---- */

static int subscribe(struct consumer *c, const struct options *o, struct failure *failure)
{
    int error = 0;
    if (o->prefetch)
        error = client_qos(&c->client, (uint16_t)o->prefetch, failure);
    for (uint32_t i = 0; error == 0 && i < c->subscription_count; i++) {
        uint32_t queue = c->first_queue + i * c->queue_step;
        struct subscription *s = &c->subscriptions[i];
        s->sequences = check_sequences(c->check, queue);
        s->next = memory_new(c->check->producers * sizeof *s->next);
        char name[TEXT_PART_SIZE], tag[16];
        snprintf(name, sizeof name, "%s-%05u", o->queue_prefix, queue);
        snprintf(tag, sizeof tag, "%05u", i);
        error = client_consume(&c->client, name, tag, c->ack_every == 0,
                               o->queue_type == QUEUE_STREAM, failure);
    }
    return error;
}

int consumer_open(struct consumer *c, const struct options *o, const struct check *check,
                  uint32_t number, struct failure *failure)
{
    *c = (struct consumer){.check = check, .size = o->size, .ack_every = o->ack_every};
    c->first_queue = number % o->queues;
    c->queue_step = o->consumers < o->queues ? o->consumers : o->queues;
    c->subscription_count = (o->queues - c->first_queue + c->queue_step - 1) / c->queue_step;
    int error = client_open(&c->client, &o->uri, failure);
    if (error < 0)
        return error;
    c->subscriptions = memory_new(c->subscription_count * sizeof *c->subscriptions);
    c->output = memory_resize(NULL, CONSUMER_OUTPUT_SIZE, 1);
    error = subscribe(c, o, failure);
    if (error == 0)
        error = load_take_over(&c->client, failure);
    if (error < 0)
        consumer_close(c);
    return error;
}

void consumer_close(struct consumer *c)
{
    client_close(&c->client, true);
    for (uint32_t i = 0; c->subscriptions && i < c->subscription_count; i++)
        free(c->subscriptions[i].next);
    free(c->subscriptions);
    free(c->output);
    c->subscriptions = NULL;
    c->output = NULL;
}

/* ---- acknowledging ---- */

static int flush(struct consumer *c, struct failure *failure)
{
    int error = load_send(&c->client, c->output, &c->output_at, c->output_end, failure);
    c->wants_output = error == E_AGAIN;
    if (error < 0)
        return error == E_AGAIN ? 0 : error;
    c->output_at = c->output_end = 0;
    return 0;
}

static void write_ack(struct consumer *c)
{
    ASSERT(c->output_end + ACK_SIZE <= CONSUMER_OUTPUT_SIZE);
    struct writer w = writer_of(c->output + c->output_end, ACK_SIZE);
    size_t frame = method_begin(&w, CHANNEL, BASIC_ACK);
    write_be64(&w, c->last_tag);
    write_u8(&w, 1); /* multiple */
    frame_end(&w, frame);
    ASSERT(!w.failed && writer_size(&w) == ACK_SIZE);
    c->output_end += ACK_SIZE;
    c->unacknowledged = 0;
}

static bool output_has_room(const struct consumer *c)
{
    return c->output_end + ACK_SIZE <= CONSUMER_OUTPUT_SIZE;
}

int consumer_finish(struct consumer *c, struct failure *failure)
{
    if (c->unacknowledged && output_has_room(c))
        write_ack(c);
    return flush(c, failure);
}

/* ---- a message ---- */

static inline void take_message(struct consumer *c, const struct subscription *s,
                                uint64_t delivery_tag, bool redelivered, const uint8_t *body,
                                struct histogram_run *run)
{
    uint64_t tag = load_le64(body);
    uint64_t stamp_ns = load_le64(body + 8);
    uint32_t producer = (uint32_t)(tag >> TAG_NUMBER_BITS) & 0xffff;
    if (__builtin_expect(tag >> 56 != c->check->run || producer >= c->check->producers, 0))
        c->load->faults.foreign++;
    else
        sequence_add(&s->sequences[producer], &s->next[producer], tag & TAG_NUMBER_MASK,
                     redelivered, &c->load->faults);
    histogram_run_add(run, stamp_ns);
    if (c->ack_every) {
        c->last_tag = delivery_tag;
        if (++c->unacknowledged >= c->ack_every)
            write_ack(c);
    }
}

static inline struct subscription *find_subscription(struct consumer *c, const uint8_t *digits)
{
    if (c->subscription_count == 1)
        return &c->subscriptions[0];
    uint32_t index = 0;
    for (int i = 0; i < CONSUMER_TAG_DIGITS; i++)
        index = index * 10 + (uint32_t)(digits[i] - '0');
    return index < c->subscription_count ? &c->subscriptions[index] : NULL;
}

/* ---- the fast way ---- */

/* Takes deliveries of the known shape; returns how many. */
static uint64_t scan_fast(struct consumer *c, struct histogram_run *run)
{
    const struct delivery_shape shape = c->shape; /* a copy, for the compiler's sake */
    if (shape.stride == 0)
        return 0;
    const uint8_t *at = c->client.input + c->client.input_start;
    const uint8_t *end = c->client.input + c->client.input_end;
    uint64_t head = load_le64(shape.head);
    uint64_t count = 0;
    while ((size_t)(end - at) >= shape.stride && output_has_room(c)) {
        static const uint8_t rest[4] = {60, 0, 60, CONSUMER_TAG_DIGITS};
        if (load_le64(at) != head || load_le32(at + 8) != load_le32(rest) ||
            at[shape.header_at - 1] != FRAME_END || at[shape.stride - 1] != FRAME_END ||
            memcmp(at + shape.header_at, shape.header, shape.header_size) != 0)
            break;
        struct subscription *s = find_subscription(c, at + TAG_AT);
        if (!s)
            break;
        take_message(c, s, load_be64(at + DELIVERY_TAG_AT), at[REDELIVERED_AT] & 1,
                     at + shape.header_at + shape.header_size, run);
        at += shape.stride;
        count++;
    }
    c->client.input_start = (size_t)(at - c->client.input);
    return count;
}

/* ---- the general way ---- */

static int read_deliver(struct consumer *c, struct failure *failure)
{
    struct reader r = reader_of(c->client.frame.payload);
    uint32_t method = read_be32(&r);
    if (c->client.frame.type != FRAME_METHOD || method != BASIC_DELIVER)
        return load_unasked(c->load, &c->client.frame, failure);
    struct slice tag = read_short_text(&r);
    c->delivery_tag = read_be64(&r);
    c->redelivered = read_u8(&r) & 1;
    read_short_text(&r);
    read_short_text(&r);
    c->subscription =
        !r.failed && tag.size == CONSUMER_TAG_DIGITS ? find_subscription(c, tag.data) : NULL;
    if (!c->subscription)
        return fail(failure, E_FRAME, "a delivery for unknown consumer %.*s", SLICE_ARGS(tag));
    c->header_at = c->client.frame.size;
    c->whole = true;
    c->state = AWAIT_HEADER;
    return 0;
}

static int read_header(struct consumer *c, struct failure *failure)
{
    struct reader r = reader_of(c->client.frame.payload);
    uint16_t class_id = read_be16(&r);
    read_be16(&r);
    c->body_size = read_be64(&r);
    if (c->client.frame.type != FRAME_HEADER || class_id != CONTENT_CLASS_BASIC || r.failed)
        return fail(failure, E_FRAME, "a delivery without a content header");
    if (c->body_size < MESSAGE_SIZE_MIN)
        return fail(failure, E_FRAME, "a delivery of %llu bytes, which is not ours",
                    (unsigned long long)c->body_size);
    c->body_at = c->header_at + c->client.frame.size + FRAME_HEAD_SIZE;
    c->body_left = c->body_size;
    c->prefix_size = 0;
    c->state = AWAIT_BODY;
    return 0;
}

/* Remembers the shape of the delivery that has just been read, if it stands whole in the input. */
static void learn_shape(struct consumer *c)
{
    size_t header_size = c->body_at - c->header_at;
    if (!c->whole || header_size > CONSUMER_HEADER_MAX)
        return;
    const uint8_t *at = c->client.input + c->begin;
    c->shape.header_at = c->header_at;
    c->shape.header_size = header_size;
    c->shape.stride = c->client.input_start - c->begin;
    memcpy(c->shape.head, at, sizeof c->shape.head);
    memcpy(c->shape.header, at + c->header_at, header_size);
}

static int read_body(struct consumer *c, struct histogram_run *run, struct failure *failure)
{
    struct slice part = c->client.frame.payload;
    if (c->client.frame.type != FRAME_BODY || part.size > c->body_left)
        return fail(failure, E_FRAME, "a delivery whose body is not as long as announced");
    size_t missing = MESSAGE_SIZE_MIN - c->prefix_size;
    size_t taken = part.size < missing ? part.size : missing;
    if (taken)
        memcpy(c->prefix + c->prefix_size, part.data, taken);
    c->prefix_size += taken;
    c->body_left -= part.size;
    if (c->body_left > 0) {
        c->whole = false;
        return 0;
    }
    if (c->body_size != c->size)
        c->load->faults.foreign++;
    take_message(c, c->subscription, c->delivery_tag, c->redelivered, c->prefix, run);
    learn_shape(c);
    c->state = AWAIT_METHOD;
    return 1;
}

/* Takes one frame. Returns how many messages that completed: 0 or 1. */
static int scan_frame(struct consumer *c, struct histogram_run *run, struct failure *failure)
{
    struct client *client = &c->client;
    size_t at = client->input_start;
    int error = frame_read(slice_of(client->input + at, client->input_end - at), &client->frame);
    if (error == E_FRAME)
        return fail(failure, error, "the broker sent what is no frame");
    if (error < 0)
        return error;
    client->input_start += client->frame.size;
    switch (c->state) {
    case AWAIT_METHOD:
        c->begin = at;
        return read_deliver(c, failure);
    case AWAIT_HEADER:
        return read_header(c, failure);
    case AWAIT_BODY:
        return read_body(c, run, failure);
    }
    return 0;
}

static int scan(struct consumer *c, struct failure *failure)
{
    struct histogram_run run = {.histogram = c->load->recording ? &c->load->latency : NULL,
                                .now_ns = clock_ns()};
    uint64_t received = 0;
    int taken = 0;
    while (taken >= 0 && output_has_room(c)) {
        uint64_t fast = c->state == AWAIT_METHOD ? scan_fast(c, &run) : 0;
        taken = scan_frame(c, &run, failure);
        received += fast + (taken > 0);
    }
    histogram_run_end(&run);
    counter_add(&c->load->counters.received, received);
    c->paused = taken >= 0;
    return taken == E_MORE || taken >= 0 ? 0 : taken;
}

/* Scans the input and sends what that acknowledges, until one of them has nothing more to do. */
static int work(struct consumer *c, struct failure *failure)
{
    int error;
    do {
        error = scan(c, failure);
        if (error == 0)
            error = flush(c, failure);
    } while (error == 0 && c->paused && output_has_room(c));
    return error;
}

int consumer_input(struct consumer *c, struct failure *failure)
{
    if (c->paused)
        return 0;
    c->whole = false; /* what was read before is moved now */
    int error = load_receive(&c->client, failure);
    if (error < 0)
        return error == E_AGAIN ? 0 : error;
    return work(c, failure);
}

int consumer_output(struct consumer *c, struct failure *failure)
{
    int error = flush(c, failure);
    return error == 0 && c->paused && output_has_room(c) ? work(c, failure) : error;
}
