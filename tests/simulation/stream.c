/* Bytes to and from the broker: in pieces of any size, at any time. */
#include "remote.h"

/* ---- bytes ---- */

uint8_t *cable_room(struct cable *cable, size_t size)
{
    struct bytes *out = &cable->out;

    if (out->start + out->size + size > out->capacity) {
        if (out->size > 0)
            memmove(out->data, out->data + out->start, out->size);
        out->start = 0;
    }
    if (out->size + size > out->capacity) {
        out->capacity = 2 * (out->size + size);
        out->data = memory_resize(out->data, out->capacity, 1);
    }
    return out->data + out->start + out->size;
}

static void take(struct bytes *bytes, size_t size)
{
    bytes->start += size;
    bytes->size -= size;
    if (bytes->size == 0)
        bytes->start = 0;
}

/* ---- sending ---- */

static void write_later(struct cable *cable, uint64_t most_ns)
{
    if (cable->stream && !cable->is_mute && cable->out.size > 0 && !timer_is_set(&cable->write))
        timer_set(&cable->write,
                  loop_now_ns(cable->world->outside) + dice(cable->world, most_ns + 1));
}

void cable_sent(struct cable *cable, size_t size)
{
    cable->out.size += size;
    write_later(cable, cable->world->resting ? 0 : 200000);
}

static size_t piece(struct cable *cable)
{
    struct world *w = cable->world;
    size_t all = cable->out.size, some;

    if (w->resting || (!cable->is_slow_writer && dice(w, 8)))
        return all;
    some = 1 + dice(w, dice(w, 2) ? 30 : dice(w, 2) ? 1000 : 30000);
    return some < all ? some : all;
}

static void want(struct cable *cable)
{
    unsigned wants = cable->is_full ? STREAM_WRITABLE : 0;

    if (!cable->reads_not && !cable->has_ended)
        wants |= STREAM_READABLE;
    stream_want(cable->stream, wants);
}

static void on_write(struct timer *timer)
{
    struct cable *cable = CONTAINER_OF(timer, struct cable, write);
    size_t size = piece(cable);
    struct iovec slice = {cable->out.data + cable->out.start, size};

    if (!cable->stream || size == 0 || cable->is_mute)
        return;
    ssize_t written = stream_write(cable->stream, &slice, 1);
    if (written > 0)
        take(&cable->out, (size_t)written);
    else if (written < 0 && written != E_AGAIN)
        return; /* reading tells */
    cable->is_full = written < 0 || (size_t)written < size;
    if (cable->is_full)
        want(cable);
    else
        write_later(cable, 300000);
}

/* ---- receiving ---- */

static void on_read(struct timer *timer)
{
    struct cable *cable = CONTAINER_OF(timer, struct cable, read);

    cable->reads_not = false;
    if (cable->stream)
        want(cable);
}

/* Some read little at a time, and sometimes nothing for a while. */
static void rest_a_while(struct cable *cable)
{
    struct world *w = cable->world;

    if (w->resting || !cable->is_slow_reader)
        return;
    cable->reads_not = true;
    timer_set(&cable->read,
              loop_now_ns(w->outside) +
                  dice(w, dice(w, 16) ? NANOSECONDS_PER_MS : 80 * NANOSECONDS_PER_MS));
}

#define READ_MAX 65536u

static void receive(struct cable *cable)
{
    struct world *w = cable->world;
    struct bytes *in = &cable->in;
    size_t most = cable->is_slow_reader && !w->resting ? 1 + dice(w, 20000) : READ_MAX;

    if (in->start > 0)
        memmove(in->data, in->data + in->start, in->size);
    in->start = 0;
    if (in->capacity < in->size + most) {
        in->capacity = in->size + most + READ_MAX;
        in->data = memory_resize(in->data, in->capacity, 1);
    }
    ssize_t size = stream_read(cable->stream, in->data + in->size, most);
    if (size == E_AGAIN)
        return;
    if (size <= 0)
        cable->has_ended = true;
    else
        in->size += (size_t)size;
    rest_a_while(cable);
    cable->arrived(cable);
}

static void on_ready(void *context, unsigned events)
{
    struct cable *cable = context;

    if (events & STREAM_WRITABLE) {
        cable->is_full = false;
        write_later(cable, 100000);
    }
    if (events & STREAM_READABLE)
        receive(cable);
    if (cable->stream)
        want(cable);
}

/* ---- connecting and closing ---- */

bool cable_connect(struct cable *cable, unsigned worker)
{
    struct world *w = cable->world;
    uint16_t port = (uint16_t)(REMOTE_PORT + worker);

    if (simulated_connect(w->outside, port, &cable->stream) != 0) {
        cable->stream = NULL;
        return false;
    }
    cable->out.start = cable->out.size = cable->in.start = cable->in.size = 0;
    cable->is_slow_reader = dice(w, 3) == 0;
    cable->is_slow_writer = dice(w, 3) == 0;
    cable->reads_not = cable->has_ended = cable->is_mute = cable->is_full = false;
    timer_init(&cable->write, w->outside, on_write);
    timer_init(&cable->read, w->outside, on_read);
    stream_start(cable->stream, on_ready, cable);
    want(cable);
    return true;
}

void cable_hurry(struct cable *cable)
{
    if (!cable->stream)
        return;
    write_later(cable, 0);
    if (cable->reads_not) {
        timer_stop(&cable->read);
        on_read(&cable->read);
    }
}

void cable_shut(struct cable *cable)
{
    timer_stop(&cable->write);
    cable->out.size = 0;
    stream_shutdown(cable->stream);
}

void cable_close(struct cable *cable, bool reset)
{
    if (!cable->stream)
        return;
    timer_stop(&cable->write);
    timer_stop(&cable->read);
    if (reset)
        simulated_reset(cable->stream);
    stream_close(cable->stream);
    cable->stream = NULL;
}
