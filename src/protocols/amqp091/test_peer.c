#include "protocols/amqp091/test_peer.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

static void touched(struct wire *wire)
{
    (void)wire; /* everything is looked at in each turn here */
}

int peer_open(struct peer *peer, struct worker *worker)
{
    *peer = (struct peer){.worker = worker};
    output_init(&peer->wire.output);
    peer->wire.touched = touched;
    peer->wire.peer_is_loopback = true;
    peer->wire.peer_port = 40000;
    peer->wire.local_port = 5672;
    snprintf(peer->wire.peer_host, sizeof peer->wire.peer_host, "127.0.0.1");
    snprintf(peer->wire.local_host, sizeof peer->wire.local_host, "127.0.0.1");
    return amqp091_protocol.open(worker, &peer->wire, &peer->session);
}

void peer_close(struct peer *peer)
{
    for (int i = 0; !amqp091_protocol.close(peer->session, CLOSE_PEER); i++)
        ASSERT(i < 1000000);
    ASSERT(amqp091_protocol.close(peer->session, CLOSE_PEER)); /* twice is fine */
    for (int i = 0; !amqp091_protocol.idle(peer->session); i++) {
        ASSERT(i < 1000000);
        fake_run(peer->worker);
    }
    amqp091_protocol.free(peer->session);
    output_fini(&peer->wire.output);
    free(peer->in);
    free(peer->out);
    free(peer->scratch);
    *peer = (struct peer){0};
}

static void append(uint8_t **memory, size_t *size, size_t *capacity, const void *bytes,
                   size_t count)
{
    if (count == 0)
        return;
    if (*capacity - *size < count) {
        *capacity = (*size + count) * 2;
        *memory = memory_resize(*memory, *capacity, 1);
    }
    memcpy(*memory + *size, bytes, count);
    *size += count;
}

void peer_send(struct peer *peer, const void *bytes, size_t size)
{
    append(&peer->in, &peer->in_size, &peer->in_capacity, bytes, size);
}

void peer_send_method(struct peer *peer, uint16_t channel, const struct method *method)
{
    uint8_t memory[4096];
    struct writer writer = writer_of(memory, sizeof memory);

    amqp091_method_write(&writer, channel, method);
    ASSERT(!writer.failed);
    peer_send(peer, memory, writer_size(&writer));
}

void peer_publish(struct peer *peer, uint16_t channel, const struct basic_publish *publish,
                  struct slice properties, struct slice body, size_t part)
{
    struct method method = {.id = METHOD_basic_publish, .basic_publish = *publish};
    struct content_header header = {60, 0, body.size,
                                    properties.size ? properties : slice_of("\0\0", 2)};
    size_t room = properties.size + body.size + 1024;
    uint8_t *memory = memory_new(room + (part ? (body.size / part + 1) * FRAME_OVERHEAD : 0));
    struct writer writer =
        writer_of(memory, room + (part ? (body.size / part + 1) * FRAME_OVERHEAD : 0));

    amqp091_method_write(&writer, channel, &method);
    amqp091_content_header_write(&writer, channel, &header);
    for (size_t at = 0; at < body.size;) {
        size_t size = part && part < body.size - at ? part : body.size - at;
        amqp091_body_write(&writer, channel, slice_of(body.data + at, size));
        at += size;
    }
    ASSERT(!writer.failed);
    peer_send(peer, memory, writer_size(&writer));
    free(memory);
}

/* One call of input(); true when it has consumed something. */
static bool give_input(struct peer *peer, size_t size)
{
    /* a copy of exactly the size, and a new one each time, so that what is kept of it shows */
    free(peer->scratch);
    peer->scratch = memory_new(size + 1);
    if (size)
        memcpy(peer->scratch, peer->in, size);
    ssize_t used = amqp091_protocol.input(peer->session, slice_of(peer->scratch, size));
    if (used < 0) {
        peer->is_failed = true;
        return false;
    }
    ASSERT((size_t)used <= size);
    peer->in_size -= (size_t)used;
    if (peer->in_size)
        memmove(peer->in, peer->in + used, peer->in_size);
    return used > 0;
}

static bool run_input(struct peer *peer)
{
    bool done = false;

    if (peer->wire.again) {
        peer->wire.again = false;
        give_input(peer, 0);
        done = true;
    }
    /* more and more of what is there, until it takes some */
    size_t step = peer->step ? peer->step : peer->in_size;
    for (size_t size = step; !peer->wire.paused && !peer->is_failed && peer->in_size > 0;
         size += step) {
        if (size > peer->in_size)
            size = peer->in_size;
        peer->wire.bytes_received++;
        if (give_input(peer, size)) {
            done = true;
            size = 0;
        } else if (size == peer->in_size) {
            break;
        }
    }
    return done;
}

static bool run_output(struct peer *peer)
{
    struct output *output = &peer->wire.output;
    struct iovec slices[16];
    bool done = false;

    peer->was_high |= output_pending(output) >= OUTPUT_HIGH_WATER;
    while (!peer->keep_output && output_pending(output) > peer->leave) {
        int count = output_slices(output, slices, 16);
        size_t size = 0, most = output_pending(output) - peer->leave;
        for (int i = 0; i < count && size < most; i++) {
            size_t part = slices[i].iov_len < most - size ? slices[i].iov_len : most - size;
            append(&peer->out, &peer->out_size, &peer->out_capacity, slices[i].iov_base, part);
            size += part;
        }
        output_consume(output, size);
        done = true;
    }
    size_t pending = output_pending(output);
    if (done && (pending == 0 || (peer->was_high && pending < OUTPUT_LOW_WATER))) {
        peer->was_high = false;
        amqp091_protocol.drained(peer->session);
    }
    return done;
}

void peer_run(struct peer *peer)
{
    if (peer->out_at > 0 && peer->out_size > peer->out_at)
        memmove(peer->out, peer->out + peer->out_at, peer->out_size - peer->out_at);
    peer->out_size -= peer->out_at;
    peer->out_at = 0;
    for (int i = 0; i < 1000000; i++) {
        bool done = run_input(peer);
        done |= fake_run(peer->worker);
        done |= run_output(peer);
        peer->wire.is_touched = false;
        if (!done && !peer->wire.again)
            return;
    }
    ASSERT(false); /* it does not come to rest */
}

bool peer_frame(struct peer *peer, struct frame *frame)
{
    ssize_t size = amqp091_frame_read(
        slice_of(peer->out + peer->out_at, peer->out_size - peer->out_at), frame);
    if (size <= 0)
        return false;
    peer->out_at += (size_t)size;
    return true;
}
