#include "amqp.h"

int frame_read(struct slice bytes, struct frame *frame)
{
    if (bytes.size < FRAME_HEAD_SIZE)
        return E_MORE;
    size_t payload = load_be32(bytes.data + 3);
    if (payload > FRAME_MAX)
        return E_FRAME;
    if (bytes.size < payload + FRAME_OVERHEAD_SIZE)
        return E_MORE;
    if (bytes.data[FRAME_HEAD_SIZE + payload] != FRAME_END)
        return E_FRAME;
    frame->type = bytes.data[0];
    frame->channel = load_be16(bytes.data + 1);
    frame->payload = slice_of(bytes.data + FRAME_HEAD_SIZE, payload);
    frame->size = payload + FRAME_OVERHEAD_SIZE;
    return 0;
}

size_t frame_begin(struct writer *w, uint8_t type, uint16_t channel)
{
    size_t begin = writer_size(w);
    write_u8(w, type);
    write_be16(w, channel);
    write_be32(w, 0);
    return begin;
}

void frame_end(struct writer *w, size_t begin)
{
    if (w->failed)
        return;
    store_be32(w->start + begin + 3, (uint32_t)(writer_size(w) - begin - FRAME_HEAD_SIZE));
    write_u8(w, FRAME_END);
}

size_t method_begin(struct writer *w, uint16_t channel, enum amqp_method method)
{
    size_t begin = frame_begin(w, FRAME_METHOD, channel);
    write_be32(w, (uint32_t)method);
    return begin;
}

void write_short_text(struct writer *w, struct slice text)
{
    if (text.size > UINT8_MAX) {
        w->failed = true;
        return;
    }
    write_u8(w, (uint8_t)text.size);
    write_bytes(w, text);
}

void write_long_text(struct writer *w, struct slice text)
{
    write_be32(w, (uint32_t)text.size);
    write_bytes(w, text);
}

struct slice read_short_text(struct reader *r)
{
    return read_bytes(r, read_u8(r));
}

struct slice read_long_text(struct reader *r)
{
    return read_bytes(r, read_be32(r));
}

void write_text_field(struct writer *w, const char *name, struct slice value)
{
    write_short_text(w, slice_text(name));
    write_u8(w, 'S');
    write_long_text(w, value);
}

size_t table_begin(struct writer *w)
{
    size_t begin = writer_size(w);
    write_be32(w, 0);
    return begin;
}

void table_end(struct writer *w, size_t begin)
{
    if (!w->failed)
        store_be32(w->start + begin, (uint32_t)(writer_size(w) - begin - 4));
}
