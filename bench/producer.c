#include "producer.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

/* ---- the prebuilt batch ---- */

#define QUEUE_DIGITS 5

static void write_body_frames(struct writer *w, uint32_t size, uint32_t frame_max)
{
    uint64_t random = 0x9e3779b97f4a7c15u; /* a body that does not compress */
    uint32_t payload_max = frame_max - FRAME_OVERHEAD_SIZE;
    for (uint32_t left = size; left > 0;) {
        uint32_t part = left < payload_max ? left : payload_max;
        size_t frame = frame_begin(w, FRAME_BODY, CHANNEL);
        for (uint32_t i = 0; i < part; i++) {
            random = random * 6364136223846793005u + 1442695040888963407u;
            write_u8(w, (uint8_t)(random >> 56));
        }
        frame_end(w, frame);
        left -= part;
    }
}

/* One publish; sets where its changing parts are. */
static void write_publish(struct producer *p, const struct options *o, struct writer *w)
{
    size_t start = writer_size(w);
    char key[TEXT_PART_SIZE];
    snprintf(key, sizeof key, "%s-%05u", o->queue_prefix, 0u);

    size_t frame = method_begin(w, CHANNEL, BASIC_PUBLISH);
    write_be16(w, 0);
    write_short_text(w, slice_text(o->fanout ? o->queue_prefix : ""));
    write_short_text(w, slice_text(o->fanout ? "" : key));
    p->digits_at = p->queues > 1 ? writer_size(w) - start - QUEUE_DIGITS : 0;
    write_u8(w, 0);
    frame_end(w, frame);

    frame = frame_begin(w, FRAME_HEADER, CHANNEL);
    write_be16(w, CONTENT_CLASS_BASIC);
    write_be16(w, 0);
    write_be64(w, o->size);
    write_be16(w, o->persistent ? CONTENT_DELIVERY_MODE : 0);
    if (o->persistent)
        write_u8(w, 2);
    frame_end(w, frame);
    p->body_at = writer_size(w) - start + FRAME_HEAD_SIZE;
    write_body_frames(w, o->size, p->client.frame_max);
}

static void build_batch(struct producer *p, const struct options *o)
{
    size_t frames = o->size / (p->client.frame_max - FRAME_OVERHEAD_SIZE) + 3;
    size_t size_max = o->size + frames * FRAME_OVERHEAD_SIZE + 3 * TEXT_PART_SIZE;
    uint8_t *slot = memory_resize(NULL, size_max, 1);
    struct writer w = writer_of(slot, size_max);
    write_publish(p, o, &w);
    ASSERT(!w.failed);
    p->stride = writer_size(&w);
    p->slots = p->stride < PRODUCER_BATCH_SIZE ? (uint32_t)(PRODUCER_BATCH_SIZE / p->stride) : 1;
    if (p->window && p->slots > p->window)
        p->slots = p->window;
    p->batch = memory_resize(NULL, p->slots, p->stride);
    for (uint32_t i = 0; i < p->slots; i++)
        memcpy(p->batch + i * p->stride, slot, p->stride);
    free(slot);
}

int producer_open(struct producer *p, const struct options *o, const struct check *check,
                  uint32_t number, uint64_t limit, struct failure *failure)
{
    *p = (struct producer){.check = check,
                           .number = number,
                           .limit = limit,
                           .queues = o->fanout ? 1 : o->queues,
                           .window = o->confirm_window,
                           .confirm_base = 1,
                           .confirm_next = 1};
    p->queue_next = number % p->queues;
    if (o->rate > 0)
        p->interval_ns = 1e9 * o->producers / o->rate;
    int error = client_open(&p->client, &o->uri, failure);
    if (error < 0)
        return error;
    if (p->window)
        error = client_confirm_select(&p->client, failure);
    if (error == 0)
        error = load_take_over(&p->client, failure);
    if (error < 0) {
        client_close(&p->client, false);
        return error;
    }
    if (p->window) {
        /* twice the window, since confirms may come out of order */
        p->ring_size = (uint64_t)2 << (32 - __builtin_clz(p->window));
        p->sent_ns = memory_new(p->ring_size * sizeof *p->sent_ns);
    }
    build_batch(p, o);
    return 0;
}

void producer_close(struct producer *p)
{
    client_close(&p->client, true);
    free(p->batch);
    free(p->sent_ns);
    p->batch = NULL;
    p->sent_ns = NULL;
}

/* ---- publishing ---- */

static uint64_t due_ns(const struct producer *p, uint64_t message)
{
    return p->start_ns + (uint64_t)((double)message * p->interval_ns);
}

static void start_schedule(struct producer *p, uint64_t now_ns)
{
    /* producers take turns, so that together they publish evenly */
    p->start_ns = now_ns + (uint64_t)(p->interval_ns * p->number / p->check->producers);
}

/* How many messages may be published now. */
static uint64_t allowance(const struct producer *p, uint64_t now_ns)
{
    uint64_t count = p->limit - p->published;
    if (count > p->slots)
        count = p->slots;
    if (p->window) {
        uint64_t room = p->window - p->unconfirmed;
        uint64_t ring_room = p->ring_size - (p->confirm_next - p->confirm_base);
        if (count > room)
            count = room;
        if (count > ring_room)
            count = ring_room;
    }
    if (p->interval_ns > 0) {
        if (now_ns < p->start_ns)
            return 0;
        uint64_t due = (uint64_t)((double)(now_ns - p->start_ns) / p->interval_ns) + 1;
        due = due > p->published ? due - p->published : 0;
        if (count > due)
            count = due;
    }
    return count;
}

static void write_digits(uint8_t *to, uint32_t number)
{
    for (int i = QUEUE_DIGITS - 1; i >= 0; i--) {
        to[i] = (uint8_t)('0' + number % 10);
        number /= 10;
    }
}

static void fill_batch(struct producer *p, uint64_t count, uint64_t now_ns)
{
    uint64_t *numbers = check_published(p->check, p->number);
    uint64_t source = check_source(p->check, p->number);
    uint32_t queue = p->queue_next;
    uint8_t *slot = p->batch;
    for (uint64_t i = 0; i < count; i++, slot += p->stride) {
        uint64_t stamp = p->interval_ns > 0 ? due_ns(p, p->published + i) : now_ns;
        if (p->digits_at)
            write_digits(slot + p->digits_at, queue);
        store_le64(slot + p->body_at, source | numbers[queue]++);
        store_le64(slot + p->body_at + 8, stamp);
        if (p->window)
            p->sent_ns[(p->confirm_next + i) & (p->ring_size - 1)] = stamp;
        if (p->interval_ns > 0 && p->load->recording)
            histogram_add(&p->load->lag, now_ns > stamp ? now_ns - stamp : 0, 1);
        if (++queue == p->queues)
            queue = 0;
    }
    p->queue_next = queue;
    p->published += count;
    if (p->window) {
        p->confirm_next += count;
        p->unconfirmed += (uint32_t)count;
    }
    counter_add(&p->load->counters.published, count);
    p->send_at = 0;
    p->send_end = count * p->stride;
}

int producer_publish(struct producer *p, bool more, struct failure *failure)
{
    if (p->send_at == p->send_end && more) {
        uint64_t now_ns = clock_ns();
        if (p->interval_ns > 0 && p->start_ns == 0)
            start_schedule(p, now_ns);
        uint64_t count = allowance(p, now_ns);
        if (count)
            fill_batch(p, count, now_ns);
    }
    int error = load_send(&p->client, p->batch, &p->send_at, p->send_end, failure);
    p->wants_output = error == E_AGAIN;
    return error == E_AGAIN ? 0 : error;
}

uint64_t producer_wait_ns(const struct producer *p, uint64_t now_ns)
{
    if (p->wants_output || p->published == p->limit)
        return UINT64_MAX;
    if (p->window &&
        (p->unconfirmed == p->window || p->confirm_next - p->confirm_base == p->ring_size))
        return UINT64_MAX;
    if (p->interval_ns == 0 || p->start_ns == 0)
        return 0;
    uint64_t due = due_ns(p, p->published);
    return due > now_ns ? due - now_ns : 0;
}

bool producer_settled(const struct producer *p)
{
    return p->send_at == p->send_end && p->unconfirmed == 0;
}

/* ---- confirms ---- */

static void confirm_one(struct producer *p, uint64_t tag, struct histogram_run *run)
{
    uint64_t *sent_ns = &p->sent_ns[tag & (p->ring_size - 1)];
    if (*sent_ns == 0)
        return;
    histogram_run_add(run, *sent_ns);
    *sent_ns = 0;
    p->unconfirmed--;
}

/* basic.ack and basic.nack to a publisher (RabbitMQ's extension). */
static int confirm(struct producer *p, struct reader arguments, bool refused,
                   struct histogram_run *run, struct failure *failure)
{
    uint64_t tag = read_be64(&arguments);
    bool multiple = read_u8(&arguments) & 1;
    if (multiple && tag == 0)
        tag = p->confirm_next - 1;
    if (arguments.failed || tag < p->confirm_base || tag >= p->confirm_next ||
        (!multiple && p->sent_ns[tag & (p->ring_size - 1)] == 0))
        return fail(
            failure, E_FRAME, "the broker confirmed publish %llu, %s", (unsigned long long)tag,
            tag < p->confirm_next ? "which was confirmed before" : "which was never published");
    uint32_t before = p->unconfirmed;
    for (uint64_t t = multiple ? p->confirm_base : tag; t <= tag; t++)
        confirm_one(p, t, run);
    if (multiple)
        p->confirm_base = tag + 1;
    while (p->confirm_base < p->confirm_next &&
           p->sent_ns[p->confirm_base & (p->ring_size - 1)] == 0)
        p->confirm_base++;
    counter_add(refused ? &p->load->counters.nacked : &p->load->counters.confirmed,
                before - p->unconfirmed);
    return 0;
}

static int producer_frame(struct producer *p, struct histogram_run *run, struct failure *failure)
{
    struct reader r = reader_of(p->client.frame.payload);
    uint32_t method = read_be32(&r);
    bool is_method = p->client.frame.type == FRAME_METHOD && !r.failed;
    if (is_method && p->window && (method == BASIC_ACK || method == BASIC_NACK))
        return confirm(p, r, method == BASIC_NACK, run, failure);
    return load_unasked(p->load, &p->client.frame, failure);
}

int producer_input(struct producer *p, struct failure *failure)
{
    struct client *c = &p->client;
    int error = load_receive(c, failure);
    if (error < 0)
        return error == E_AGAIN ? 0 : error;
    struct histogram_run run = {.histogram = p->load->recording ? &p->load->confirm : NULL,
                                .now_ns = clock_ns()};
    while (error == 0) {
        error = frame_read(slice_of(c->input + c->input_start, c->input_end - c->input_start),
                           &c->frame);
        if (error == E_FRAME)
            return fail(failure, error, "the broker sent what is no frame");
        if (error == 0) {
            c->input_start += c->frame.size;
            error = producer_frame(p, &run, failure);
        }
    }
    histogram_run_end(&run);
    return error == E_MORE ? 0 : error;
}
