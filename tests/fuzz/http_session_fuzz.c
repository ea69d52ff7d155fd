/*
 * A client of the management API, or of the metrics, that sends whatever the input says to a broker
 * of two workers with some queues: in parts, with turns between them, reading or not, and leaving
 * in the middle. At the end all must have been given back.
 *
 * The first byte is the seed, the second says how: 1 metrics, 2 a client that does not read at
 * first, 4 it leaves at once, 8 answers are PENDING; the rest the size of the parts.
 */
#include "protocols/http/test_world.h"

#include "base/assert.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void check_answers(const struct http_peer *peer)
{
    ASSERT(peer->size == 0 || (peer->size >= 9 && memcmp(peer->answer, "HTTP/1.1 ", 9) == 0));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    static const size_t parts[] = {1, 3, 17, 64, 200, 1000, 5000, 100000};
    struct reader reader = reader_of(slice_of(data, size));
    uint8_t seed = read_u8(&reader), how = read_u8(&reader);
    size_t part = parts[how >> 5];
    struct world world;
    struct actor actor;
    struct http_peer peer;

    world_init(&world, 2, seed, how & 8 ? 300000 : 0);
    actor_open(&actor, &world, seed % 2);
    actor_declare(&actor, &world, "a", true);
    actor_declare(&actor, &world, "b/c", false);
    http_peer_open(&peer, &world, how & 1 ? PORT_METRICS : PORT_MANAGEMENT);
    http_peer_read(&peer, !(how & 2));
    while (reader_left(&reader) > 0) {
        struct slice some =
            read_bytes(&reader, reader_left(&reader) < part ? reader_left(&reader) : part);
        http_peer_send(&peer, (const char *)some.data, some.size);
    }
    if (!(how & 4)) {
        world_run(&world, 100);
        http_peer_read(&peer, true);
        world_run(&world, 6000);
        check_answers(&peer);
    }
    http_peer_close(&peer);
    actor_close(&actor, &world);
    world_fini(&world);
    return 0;
}
