/*
 * Listening sockets. A listener has one socket per address its host resolves to; all share a port.
 *
 * Options of connections (no delay, keepalive, buffer sizes) are set on the listening socket:
 * accepted sockets inherit them, which saves system calls for each.
 */
#include "base/assert.h"
#include "base/memory.h"
#include "loop/real.h"
#include "loop/real_private.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/tcp.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define SOCKETS_MAX     8  /* addresses of one host name */
#define ACCEPTS_A_TURN  64 /* of one socket, and for JOB_SLICE_NS */
#define ACCEPT_PAUSE_NS (100 * NANOSECONDS_PER_MS)
#define REPORT_PAUSE_NS (1000 * NANOSECONDS_PER_MS)

struct listening_socket {
    uv_poll_t poll;
    struct real_listener *owner;
    int descriptor;
};

struct real_listener {
    struct listener listener;
    struct timer pause;
    uint64_t reported_ns;
    int reserve; /* a descriptor to give up when there are no others; -1: given up */
    unsigned handles;
    struct listening_socket sockets[SOCKETS_MAX];
    int sockets_count;
    bool loose;
    bool is_closed;
};

static void reserve_open(struct real_listener *l)
{
    if (l->reserve < 0)
        l->reserve = open("/dev/null", O_RDONLY | O_CLOEXEC);
}

static void socket_polled(uv_poll_t *poll, int status, int events);

static void pause_accepting(struct real_listener *l)
{
    struct loop *loop = l->listener.loop;

    for (int i = 0; i < l->sockets_count; i++)
        uv_poll_stop(&l->sockets[i].poll);
    timer_set(&l->pause, loop->now_ns + ACCEPT_PAUSE_NS);
}

static void pause_ends(struct timer *timer)
{
    struct real_listener *l = CONTAINER_OF(timer, struct real_listener, pause);

    reserve_open(l);
    for (int i = 0; i < l->sockets_count; i++)
        uv_poll_start(&l->sockets[i].poll, UV_READABLE, socket_polled);
}

/* The peer who waits first is turned away, so that it learns of it; the others may wait. */
static void out_of_descriptors(struct listening_socket *s, int error)
{
    struct real_listener *l = s->owner;
    uint64_t now_ns = l->listener.loop->now_ns;

    if (l->reserve >= 0) {
        close(l->reserve);
        l->reserve = -1;
        int descriptor = accept4(s->descriptor, NULL, NULL, SOCK_CLOEXEC);
        if (descriptor >= 0)
            close(descriptor);
        reserve_open(l);
    }
    pause_accepting(l);
    if (l->reported_ns == 0 || now_ns - l->reported_ns >= REPORT_PAUSE_NS) {
        l->reported_ns = now_ns;
        l->listener.accepted(l->listener.context, NULL, error);
    }
}

static bool is_shortage(int number)
{
    return number == EMFILE || number == ENFILE || number == ENOBUFS || number == ENOMEM;
}

static void accept_some(struct listening_socket *s)
{
    struct real_listener *l = s->owner;
    uint64_t began_ns = real_clock_ns();

    for (int i = 0; i < ACCEPTS_A_TURN && !l->is_closed; i++) {
        if (i > 0 && real_clock_ns() - began_ns >= JOB_SLICE_NS)
            return; /* those who still wait are there in the next turn, too */
        struct stream *stream;
        int error;
        int descriptor = accept4(s->descriptor, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
        if (descriptor < 0 && (errno == EAGAIN || errno == EWOULDBLOCK))
            return;
        if (descriptor < 0 && is_shortage(errno)) {
            out_of_descriptors(s, error_from_errno(errno));
            return;
        }
        if (descriptor < 0)
            continue; /* that connection is gone already; the next */
        stream = real_stream_loose(l->listener.loop, descriptor);
        error = l->loose ? 0 : stream_join(stream, l->listener.loop);
        if (error < 0) {
            out_of_descriptors(s, error);
            return;
        }
        l->listener.accepted(l->listener.context, stream, 0);
    }
}

static void socket_closed(uv_handle_t *handle)
{
    struct listening_socket *s = CONTAINER_OF(handle, struct listening_socket, poll);

    if (--s->owner->handles == 0)
        free(s->owner);
}

static void socket_polled(uv_poll_t *poll, int status, int events)
{
    struct listening_socket *s = CONTAINER_OF(poll, struct listening_socket, poll);

    (void)status;
    (void)events;
    real_turn_enter(real_of(s->owner->listener.loop));
    TURN_TRACED(s->owner->listener.loop, accept_some, s);
}

void real_listener_close(struct listener *listener)
{
    struct real_listener *l = CONTAINER_OF(listener, struct real_listener, listener);

    ASSERT(!l->is_closed);
    l->is_closed = true;
    timer_stop(&l->pause);
    if (l->reserve >= 0)
        close(l->reserve);
    l->reserve = -1;
    for (int i = 0; i < l->sockets_count; i++) {
        uv_close((uv_handle_t *)&l->sockets[i].poll, socket_closed);
        close(l->sockets[i].descriptor);
    }
    if (l->handles == 0)
        free(l);
}

/* ---- opening ---- */

static int set_options(int descriptor, int family, const struct listen_options *options, bool dual)
{
    struct {
        int level, name, value;
        bool wanted;
    } settings[] = {
        {SOL_SOCKET, SO_REUSEADDR, 1, true},
        {SOL_SOCKET, SO_REUSEPORT, 1, options->share_port},
        {IPPROTO_IPV6, IPV6_V6ONLY, dual ? 0 : 1, family == AF_INET6},
        {IPPROTO_TCP, TCP_NODELAY, 1, options->no_delay},
        {SOL_SOCKET, SO_KEEPALIVE, 1, options->keepalive},
        {SOL_SOCKET, SO_SNDBUF, options->send_buffer, options->send_buffer > 0},
        {SOL_SOCKET, SO_RCVBUF, options->receive_buffer, options->receive_buffer > 0},
    };

    for (size_t i = 0; i < sizeof settings / sizeof settings[0]; i++) {
        if (settings[i].wanted && setsockopt(descriptor, settings[i].level, settings[i].name,
                                             &settings[i].value, sizeof settings[i].value) < 0)
            return -1;
    }
    return 0;
}

/* Returns the descriptor, or -1 with errno. */
static int open_socket(const union socket_address *address, socklen_t size,
                       const struct listen_options *options, bool dual)
{
    int family = address->any.sa_family;
    int descriptor = socket(family, SOCK_STREAM | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);

    if (descriptor < 0)
        return -1;
    if (set_options(descriptor, family, options, dual) < 0 ||
        bind(descriptor, &address->any, size) < 0 ||
        listen(descriptor, options->backlog > 0 ? options->backlog : SOMAXCONN) < 0) {
        int error = errno;
        close(descriptor);
        errno = error;
        return -1;
    }
    return descriptor;
}

static int add_socket(struct real_listener *l, int descriptor)
{
    struct listening_socket *s = &l->sockets[l->sockets_count];
    int result = uv_poll_init_socket(&real_of(l->listener.loop)->uv, &s->poll, descriptor);

    if (result < 0) {
        close(descriptor);
        return error_from_errno(-result);
    }
    s->owner = l;
    s->descriptor = descriptor;
    l->sockets_count++;
    l->handles++;
    uv_poll_start(&s->poll, UV_READABLE, socket_polled);
    if (l->listener.port == 0) {
        union socket_address bound;
        struct stream_address text;
        socklen_t size = sizeof bound;
        if (getsockname(descriptor, &bound.any, &size) < 0)
            return E_IO;
        address_describe(&bound, &text);
        l->listener.port = text.port;
    }
    return 0;
}

static int refuse(struct failure *failure, const struct listen_options *options)
{
    int error = errno;
    int code = error == EADDRNOTAVAIL ? E_INVALID : error_from_errno(error);
    char text[100];

    return fail(failure, code, "cannot listen on %s port %u: %s",
                options->host ? options->host : "any address", options->port,
                error == EADDRINUSE ? "the port is in use by another process"
                                    : strerror_r(error, text, sizeof text));
}

static int listen_everywhere(struct real_listener *l, const struct listen_options *options,
                             struct failure *failure)
{
    union socket_address v6 = {.v6 = {.sin6_family = AF_INET6,
                                      .sin6_addr = IN6ADDR_ANY_INIT,
                                      .sin6_port = htons(options->port)}};
    union socket_address v4 = {.v4 = {.sin_family = AF_INET, .sin_port = htons(options->port)}};
    int descriptor = open_socket(&v6, sizeof v6.v6, options, true);

    if (descriptor < 0 && errno != EADDRINUSE && errno != EACCES) /* a system without IPv6 */
        descriptor = open_socket(&v4, sizeof v4.v4, options, false);
    if (descriptor < 0)
        return refuse(failure, options);
    int result = add_socket(l, descriptor);
    return result < 0 ? fail(failure, result, "cannot watch a listening socket") : 0;
}

static int listen_on_host(struct real_listener *l, const struct listen_options *options,
                          struct failure *failure)
{
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *found;
    int result = getaddrinfo(options->host, NULL, &hints, &found);

    if (result != 0)
        return fail(failure, E_INVALID, "cannot listen on \"%s\": %s", options->host,
                    gai_strerror(result));
    for (struct addrinfo *a = found; a && l->sockets_count < SOCKETS_MAX; a = a->ai_next) {
        union socket_address address;
        uint16_t port = htons(l->listener.port ? l->listener.port : options->port);
        if (a->ai_family != AF_INET && a->ai_family != AF_INET6)
            continue;
        memcpy(&address, a->ai_addr, a->ai_addrlen);
        if (a->ai_family == AF_INET)
            address.v4.sin_port = port;
        else
            address.v6.sin6_port = port;
        int descriptor = open_socket(&address, a->ai_addrlen, options, false);
        if (descriptor < 0 && l->sockets_count > 0 &&
            (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT))
            continue; /* "localhost" with an address that this machine does not have */
        if (descriptor < 0 && a->ai_next && (errno == EADDRNOTAVAIL || errno == EAFNOSUPPORT))
            continue;
        result = descriptor < 0 ? refuse(failure, options) : add_socket(l, descriptor);
        if (result < 0)
            break;
    }
    freeaddrinfo(found);
    if (result == 0 && l->sockets_count == 0)
        return fail(failure, E_INVALID, "\"%s\" has no address of this machine", options->host);
    return result;
}

int real_listen(struct loop *loop, const struct listen_options *options,
                void (*accepted)(void *context, struct stream *stream, int error), void *context,
                struct listener **listener, struct failure *failure)
{
    struct real_listener *l = memory_new(sizeof *l);

    l->listener = (struct listener){.loop = loop, .accepted = accepted, .context = context};
    l->reserve = -1;
    l->loose = options->loose;
    timer_init(&l->pause, loop, pause_ends);
    int result = options->host ? listen_on_host(l, options, failure)
                               : listen_everywhere(l, options, failure);
    if (result < 0) {
        real_listener_close(&l->listener);
        return result;
    }
    reserve_open(l);
    *listener = &l->listener;
    return 0;
}
