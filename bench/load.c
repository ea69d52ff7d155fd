#include "load.h"

#include <errno.h>
#include <fcntl.h>
#include <sys/socket.h>

int load_take_over(struct client *c, struct failure *failure)
{
    int flags = fcntl(c->fd, F_GETFL);
    if (flags < 0 || fcntl(c->fd, F_SETFL, flags | O_NONBLOCK) < 0)
        return fail(failure, E_IO, "cannot make a socket non-blocking: %s", strerror(errno));
    return 0;
}

int load_receive(struct client *c, struct failure *failure)
{
    if (c->input_start > 0) {
        memmove(c->input, c->input + c->input_start, c->input_end - c->input_start);
        c->input_end -= c->input_start;
        c->input_start = 0;
    }
    ssize_t got = recv(c->fd, c->input + c->input_end, CLIENT_INPUT_SIZE - c->input_end, 0);
    if (got > 0) {
        c->input_end += (size_t)got;
        return 0;
    }
    if (got == 0)
        return fail(failure, E_CLOSED, "the broker closed the connection without a word");
    if (errno == EAGAIN || errno == EINTR)
        return E_AGAIN;
    return fail(failure, E_IO, "cannot read from the broker: %s", strerror(errno));
}

int load_send(struct client *c, const uint8_t *bytes, size_t *at, size_t end,
              struct failure *failure)
{
    while (*at < end) {
        ssize_t sent = send(c->fd, bytes + *at, end - *at, MSG_NOSIGNAL);
        if (sent >= 0)
            *at += (size_t)sent;
        else if (errno == EAGAIN)
            return E_AGAIN;
        else if (errno != EINTR)
            return fail(failure, E_IO, "cannot send to the broker: %s", strerror(errno));
    }
    return 0;
}

int load_unasked(struct load *load, const struct frame *frame, struct failure *failure)
{
    if (frame->type == FRAME_HEARTBEAT)
        return 0;
    struct reader r = reader_of(frame->payload);
    uint32_t method = read_be32(&r);
    if (frame->type != FRAME_METHOD || r.failed)
        return fail(failure, E_FRAME, "the broker sent an unexpected frame of type %u",
                    frame->type);
    switch (method) {
    case CONNECTION_BLOCKED:
        counter_add(&load->counters.blocked, 1);
        return 0;
    case CONNECTION_UNBLOCKED:
        return 0;
    case CONNECTION_CLOSE:
    case CHANNEL_CLOSE:
    case BASIC_CANCEL:
        return client_closed_by(frame, failure);
    default:
        return fail(failure, E_FRAME, "the broker sent unexpected method %u.%u", method >> 16,
                    method & 0xffff);
    }
}
