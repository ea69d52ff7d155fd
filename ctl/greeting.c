#include "ctl/greeting.h"

#include <errno.h>
#include <sys/socket.h>
#include <sys/time.h>
#include <unistd.h>

#define FRAME_METHOD     1
#define FRAME_OVERHEAD   8u /* type, channel, size; end */
#define CLASS_CONNECTION 10
#define METHOD_START     10

/* A wildcard is not an address to connect to; loopback is where it can be reached from here. */
static struct sockaddr_in6 reachable(const struct sockaddr_in6 *address)
{
    struct sockaddr_in6 result = *address;
    static const uint8_t any_mapped[16] = {[10] = 0xFF, [11] = 0xFF};
    if (IN6_IS_ADDR_UNSPECIFIED(&result.sin6_addr))
        result.sin6_addr = in6addr_loopback;
    else if (memcmp(&result.sin6_addr, any_mapped, sizeof any_mapped) == 0)
        memcpy(&result.sin6_addr.s6_addr[12], (const uint8_t[]){127, 0, 0, 1}, 4);
    return result;
}

static int connect_to(const struct sockaddr_in6 *address, struct failure *failure)
{
    struct sockaddr_in6 peer = reachable(address);
    struct timeval patience = {GREETING_TIMEOUT_MS / 1000, GREETING_TIMEOUT_MS % 1000 * 1000};
    int descriptor = socket(AF_INET6, SOCK_STREAM | SOCK_CLOEXEC, 0);
    if (descriptor < 0)
        return fail(failure, E_IO, "socket: %s", strerror(errno));
    if (setsockopt(descriptor, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof patience) < 0 ||
        setsockopt(descriptor, SOL_SOCKET, SO_SNDTIMEO, &patience, sizeof patience) < 0 ||
        connect(descriptor, (struct sockaddr *)&peer, sizeof peer) < 0) {
        int code = fail(failure, E_IO, "connect: %s", strerror(errno));
        close(descriptor);
        return code;
    }
    return descriptor;
}

/* The inside of connection.start: two version octets, then the table. */
static int parse_start(struct greeting *greeting, size_t size, struct failure *failure)
{
    struct reader reader = reader_of(slice_of(greeting->bytes, size));
    uint8_t type = read_u8(&reader);
    uint16_t channel = read_be16(&reader);
    uint32_t payload = read_be32(&reader);
    if (!reader.failed && payload + FRAME_OVERHEAD > size)
        return payload + FRAME_OVERHEAD > GREETING_MAX
                   ? fail(failure, E_INVALID, "the greeting is longer than %u bytes", GREETING_MAX)
                   : E_MORE;
    if (reader.failed)
        return E_MORE;
    uint16_t class_id = read_be16(&reader), method_id = read_be16(&reader);
    read_be16(&reader);
    greeting->properties = read_bytes(&reader, read_be32(&reader));
    if (reader.failed || type != FRAME_METHOD || channel != 0 || class_id != CLASS_CONNECTION ||
        method_id != METHOD_START)
        return fail(failure, E_INVALID, "what answers does not speak AMQP 0-9-1");
    return 0;
}

int greeting_read(const struct sockaddr_in6 *address, struct greeting *greeting,
                  struct failure *failure)
{
    static const char header[8] = "AMQP\0\0\x9\x1";
    size_t size = 0;
    int descriptor = connect_to(address, failure);
    if (descriptor < 0)
        return descriptor;
    int result = E_MORE;
    if (send(descriptor, header, sizeof header, MSG_NOSIGNAL) != (ssize_t)sizeof header)
        result = fail(failure, E_IO, "send: %s", strerror(errno));
    while (result == E_MORE && size < GREETING_MAX) {
        ssize_t got = recv(descriptor, greeting->bytes + size, GREETING_MAX - size, 0);
        if (got <= 0) {
            result = got == 0 ? fail(failure, E_INVALID, "it closed the connection")
                              : fail(failure, E_TIMEOUT, "it does not answer: %s", strerror(errno));
            break;
        }
        size += (size_t)got;
        result = parse_start(greeting, size, failure);
    }
    close(descriptor);
    return result;
}
