#include "client.h"

#include "base/memory.h"

#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define ANSWER_TIMEOUT_S 60

/* ---- bytes ---- */

static int client_send(struct client *c, struct slice bytes, struct failure *failure)
{
    while (bytes.size > 0) {
        ssize_t sent = send(c->fd, bytes.data, bytes.size, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0)
            return fail(failure, error_from_errno(errno), "cannot send to the broker: %s",
                        strerror(errno));
        bytes = slice_of(bytes.data + sent, bytes.size - (size_t)sent);
    }
    return 0;
}

static int client_fill(struct client *c, struct failure *failure)
{
    if (c->input_start > 0) {
        memmove(c->input, c->input + c->input_start, c->input_end - c->input_start);
        c->input_end -= c->input_start;
        c->input_start = 0;
    }
    for (;;) {
        ssize_t got = recv(c->fd, c->input + c->input_end, CLIENT_INPUT_SIZE - c->input_end, 0);
        if (got > 0) {
            c->input_end += (size_t)got;
            return 0;
        }
        if (got == 0)
            return fail(failure, E_CLOSED, "the broker closed the connection");
        if (errno == EAGAIN)
            return fail(failure, E_TIMEOUT, "no answer from the broker within %d s",
                        ANSWER_TIMEOUT_S);
        if (errno != EINTR)
            return fail(failure, error_from_errno(errno), "cannot read from the broker: %s",
                        strerror(errno));
    }
}

/* The next frame into c->frame. */
static int client_read(struct client *c, struct failure *failure)
{
    for (;;) {
        struct slice bytes = {c->input + c->input_start, c->input_end - c->input_start};
        int error = frame_read(bytes, &c->frame);
        if (error == 0) {
            c->input_start += c->frame.size;
            return 0;
        }
        /* "AMQP" 0 0 9 1: the broker wants another protocol */
        if (slice_starts(bytes, "AMQP"))
            return fail(failure, E_VERSION, "the peer does not speak AMQP 0-9-1");
        if (error == E_FRAME)
            return fail(failure, error, "the peer sent what is no AMQP 0-9-1 frame");
        error = client_fill(c, failure);
        if (error < 0)
            return error;
    }
}

/* ---- calls ---- */

int client_closed_by(const struct frame *frame, struct failure *failure)
{
    struct reader r = reader_of(frame->payload);
    uint32_t method = read_be32(&r);
    if (method == BASIC_CANCEL) {
        struct slice tag = read_short_text(&r);
        return fail(failure, E_CLOSED, "the broker cancelled consumer %.*s", SLICE_ARGS(tag));
    }
    uint16_t code = read_be16(&r);
    struct slice text = read_short_text(&r);
    return fail(failure, E_CLOSED, "the broker closed the %s: %u %.*s",
                method == CHANNEL_CLOSE ? "channel" : "connection", code, SLICE_ARGS(text));
}

/* Reads until the awaited method, whose arguments `arguments` then reads. */
static int client_await(struct client *c, enum amqp_method awaited, struct reader *arguments,
                        struct failure *failure)
{
    for (;;) {
        int error = client_read(c, failure);
        if (error < 0)
            return error;
        if (c->frame.type == FRAME_HEARTBEAT)
            continue;
        struct reader r = reader_of(c->frame.payload);
        uint32_t method = read_be32(&r);
        if (c->frame.type != FRAME_METHOD || r.failed)
            return fail(failure, E_FRAME, "a frame of type %u where an answer was expected",
                        c->frame.type);
        if (method == awaited) {
            *arguments = r;
            return 0;
        }
        if (method == CONNECTION_CLOSE || method == CHANNEL_CLOSE)
            return client_closed_by(&c->frame, failure);
        if (method != CONNECTION_BLOCKED && method != CONNECTION_UNBLOCKED)
            return fail(failure, E_FRAME, "method %u.%u where %u.%u was expected", method >> 16,
                        method & 0xffff, (uint32_t)awaited >> 16, (uint32_t)awaited & 0xffff);
    }
}

struct call {
    uint8_t bytes[CLIENT_METHOD_SIZE];
    struct writer w;
    size_t begin;
};

static void call_begin(struct call *call, uint16_t channel, enum amqp_method method)
{
    call->w = writer_of(call->bytes, sizeof call->bytes);
    call->begin = method_begin(&call->w, channel, method);
}

static int call_send(struct client *c, struct call *call, struct failure *failure)
{
    frame_end(&call->w, call->begin);
    if (call->w.failed)
        return fail(failure, E_INVALID, "a name is too long for a method");
    return client_send(c, slice_of(call->bytes, writer_size(&call->w)), failure);
}

static int call_finish(struct client *c, struct call *call, enum amqp_method answer,
                       struct failure *failure)
{
    struct reader unused;
    int error = call_send(c, call, failure);
    return error < 0 ? error : client_await(c, answer, &unused, failure);
}

/* ---- connecting ---- */

static int connect_address(const struct addrinfo *address)
{
    int fd = socket(address->ai_family, address->ai_socktype | SOCK_CLOEXEC, 0);
    if (fd < 0)
        return -1;
    struct timeval limit = {.tv_sec = ANSWER_TIMEOUT_S};
    int one = 1;
    if (setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) < 0 ||
        setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof limit) < 0 ||
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one) < 0 ||
        connect(fd, address->ai_addr, address->ai_addrlen) < 0) {
        int number = errno;
        close(fd);
        errno = number;
        return -1;
    }
    return fd;
}

static int client_connect(struct client *c, const struct uri *uri, struct failure *failure)
{
    struct addrinfo *addresses;
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM};
    int error = getaddrinfo(uri->host, uri->port, &hints, &addresses);
    if (error)
        return fail(failure, E_NOT_FOUND, "cannot find %s: %s", uri->host, gai_strerror(error));
    for (struct addrinfo *a = addresses; a && c->fd < 0; a = a->ai_next)
        c->fd = connect_address(a);
    int number = errno;
    freeaddrinfo(addresses);
    if (c->fd < 0)
        return fail(failure, error_from_errno(number), "cannot connect to %s port %s: %s",
                    uri->host, uri->port, strerror(number));
    return 0;
}

static void write_client_properties(struct writer *w)
{
    size_t table = table_begin(w);
    write_text_field(w, "product", slice_text("sluice-bench"));
    write_short_text(w, slice_text("capabilities"));
    write_u8(w, 'F');
    size_t capabilities = table_begin(w);
    static const char *const names[] = {"publisher_confirms", "basic.nack",
                                        "consumer_cancel_notify", "connection.blocked",
                                        "authentication_failure_close"};
    for (size_t i = 0; i < sizeof names / sizeof *names; i++) {
        write_short_text(w, slice_text(names[i]));
        write_u8(w, 't');
        write_u8(w, 1);
    }
    table_end(w, capabilities);
    table_end(w, table);
}

static int client_log_in(struct client *c, const struct uri *uri, struct failure *failure)
{
    struct reader r;
    int error = client_await(c, CONNECTION_START, &r, failure);
    if (error < 0)
        return error;
    uint8_t login[2 * TEXT_PART_SIZE + 2];
    struct writer l = writer_of(login, sizeof login);
    write_u8(&l, 0);
    write_bytes(&l, slice_text(uri->user));
    write_u8(&l, 0);
    write_bytes(&l, slice_text(uri->password));

    struct call call;
    call_begin(&call, 0, CONNECTION_START_OK);
    write_client_properties(&call.w);
    write_short_text(&call.w, slice_text("PLAIN"));
    write_long_text(&call.w, slice_of(login, writer_size(&l)));
    write_short_text(&call.w, slice_text("en_US"));
    return call_send(c, &call, failure);
}

static int client_tune(struct client *c, struct failure *failure)
{
    struct reader r;
    int error = client_await(c, CONNECTION_TUNE, &r, failure);
    if (error < 0)
        return error;
    uint16_t channel_max = read_be16(&r);
    uint32_t frame_max = read_be32(&r);
    if (r.failed)
        return fail(failure, E_FRAME, "connection.tune is cut short");
    c->frame_max = frame_max && frame_max < FRAME_MAX ? frame_max : FRAME_MAX;

    struct call call;
    call_begin(&call, 0, CONNECTION_TUNE_OK);
    write_be16(&call.w, channel_max);
    write_be32(&call.w, c->frame_max);
    write_be16(&call.w, 0); /* no heartbeats: idle connections must cost nothing here */
    return call_send(c, &call, failure);
}

static int client_handshake(struct client *c, const struct uri *uri, struct failure *failure)
{
    int error = client_send(c, slice_of("AMQP\0\0\x09\x01", 8), failure);
    if (error == 0)
        error = client_log_in(c, uri, failure);
    if (error == 0)
        error = client_tune(c, failure);
    if (error < 0)
        return error;
    struct call call;
    call_begin(&call, 0, CONNECTION_OPEN);
    write_short_text(&call.w, slice_text(uri->vhost));
    write_short_text(&call.w, slice_text(""));
    write_u8(&call.w, 0);
    error = call_finish(c, &call, CONNECTION_OPEN_OK, failure);
    if (error < 0)
        return error;
    call_begin(&call, CHANNEL, CHANNEL_OPEN);
    write_short_text(&call.w, slice_text(""));
    return call_finish(c, &call, CHANNEL_OPEN_OK, failure);
}

int client_open(struct client *c, const struct uri *uri, struct failure *failure)
{
    *c = (struct client){.fd = -1, .frame_max = FRAME_MAX};
    int error = client_connect(c, uri, failure);
    if (error < 0)
        return error;
    c->input = memory_resize(NULL, CLIENT_INPUT_SIZE, 1);
    error = client_handshake(c, uri, failure);
    if (error < 0)
        client_close(c, false);
    return error;
}

void client_idle(struct client *c)
{
    free(c->input);
    c->input = NULL;
}

void client_close(struct client *c, bool politely)
{
    if (c->fd < 0)
        return;
    if (politely) {
        struct call call;
        call_begin(&call, 0, CONNECTION_CLOSE);
        write_be16(&call.w, 200);
        write_short_text(&call.w, slice_text("done"));
        write_be32(&call.w, 0);
        frame_end(&call.w, call.begin);
        /* if the peer does not take it, closing the socket says the same */
        ssize_t sent = send(c->fd, call.bytes, writer_size(&call.w), MSG_NOSIGNAL | MSG_DONTWAIT);
        (void)sent;
    }
    close(c->fd);
    c->fd = -1;
    client_idle(c);
}

/* ---- declaring ---- */

int client_confirm_select(struct client *c, struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, CONFIRM_SELECT);
    write_u8(&call.w, 0);
    return call_finish(c, &call, CONFIRM_SELECT_OK, failure);
}

int client_qos(struct client *c, uint16_t prefetch, struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, BASIC_QOS);
    write_be32(&call.w, 0);
    write_be16(&call.w, prefetch);
    write_u8(&call.w, 0);
    return call_finish(c, &call, BASIC_QOS_OK, failure);
}

int client_declare_queue(struct client *c, const struct queue_wish *wish, uint32_t *ready,
                         struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, QUEUE_DECLARE);
    write_be16(&call.w, 0);
    write_short_text(&call.w, slice_text(wish->name));
    write_u8(&call.w, (uint8_t)((wish->passive ? 1 : 0) | (wish->durable ? 2 : 0)));
    size_t arguments = table_begin(&call.w);
    if (wish->type != QUEUE_DEFAULT)
        write_text_field(&call.w, "x-queue-type", slice_text(queue_type_name(wish->type)));
    table_end(&call.w, arguments);
    int error = call_send(c, &call, failure);
    struct reader r;
    if (error == 0)
        error = client_await(c, QUEUE_DECLARE_OK, &r, failure);
    if (error < 0)
        return error;
    read_short_text(&r);
    uint32_t count = read_be32(&r);
    if (r.failed)
        return fail(failure, E_FRAME, "queue.declare-ok is cut short");
    if (ready)
        *ready = count;
    return 0;
}

int client_delete_queue(struct client *c, const char *name, struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, QUEUE_DELETE);
    write_be16(&call.w, 0);
    write_short_text(&call.w, slice_text(name));
    write_u8(&call.w, 0);
    return call_finish(c, &call, QUEUE_DELETE_OK, failure);
}

int client_declare_fanout(struct client *c, const char *name, bool durable, struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, EXCHANGE_DECLARE);
    write_be16(&call.w, 0);
    write_short_text(&call.w, slice_text(name));
    write_short_text(&call.w, slice_text("fanout"));
    write_u8(&call.w, durable ? 2 : 0);
    write_be32(&call.w, 0);
    return call_finish(c, &call, EXCHANGE_DECLARE_OK, failure);
}

int client_delete_exchange(struct client *c, const char *name, struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, EXCHANGE_DELETE);
    write_be16(&call.w, 0);
    write_short_text(&call.w, slice_text(name));
    write_u8(&call.w, 0);
    return call_finish(c, &call, EXCHANGE_DELETE_OK, failure);
}

int client_bind(struct client *c, const char *queue, const char *exchange, struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, QUEUE_BIND);
    write_be16(&call.w, 0);
    write_short_text(&call.w, slice_text(queue));
    write_short_text(&call.w, slice_text(exchange));
    write_short_text(&call.w, slice_text(""));
    write_u8(&call.w, 0);
    write_be32(&call.w, 0);
    return call_finish(c, &call, QUEUE_BIND_OK, failure);
}

int client_consume(struct client *c, const char *queue, const char *tag, bool auto_ack,
                   bool from_start, struct failure *failure)
{
    struct call call;
    call_begin(&call, CHANNEL, BASIC_CONSUME);
    write_be16(&call.w, 0);
    write_short_text(&call.w, slice_text(queue));
    write_short_text(&call.w, slice_text(tag));
    write_u8(&call.w, (uint8_t)((auto_ack ? 2 : 0) | 8)); /* 8: no-wait */
    size_t arguments = table_begin(&call.w);
    if (from_start)
        write_text_field(&call.w, "x-stream-offset", slice_text("first"));
    table_end(&call.w, arguments);
    return call_send(c, &call, failure);
}
