/*
 * A connection between a client and a session that both do as the input says, one byte a step: the
 * client writes, reads, pauses, closes, resets; the session consumes some, pauses, asks again,
 * finishes, fails, expires, lends memory. After all that everything must have been given back.
 */
#include "loop/simulated.h"
#include "net/server.h"

#include "base/assert.h"

#include <stdlib.h>

#define PORT 1

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct scene {
    struct loop *loop;
    struct reader script;
    struct stream *client;
    bool client_reads;
    unsigned sessions, lent;
    uint64_t to_session, to_client; /* bytes so far: they follow a pattern */
};

struct session {
    struct scene *scene;
    struct wire *wire;
    uint64_t consumed;
    bool is_closed, was_fatal;
};

static uint8_t pattern(uint64_t at)
{
    return (uint8_t)(at % 251);
}

/* ---- the session ---- */

static enum sniff fuzz_sniff(struct slice start)
{
    return start.size < 3 ? SNIFF_MORE : start.data[0] == 0 ? SNIFF_YES : SNIFF_NO;
}

static int fuzz_open(void *context, struct wire *wire, void **to)
{
    struct scene *scene = context;

    if (read_u8(&scene->script) == 0xff)
        return E_LIMIT;
    struct session *session = calloc(1, sizeof *session);
    ASSERT(session);
    session->scene = scene;
    session->wire = wire;
    scene->sessions++;
    *to = session;
    return 0;
}

static void give_back(void *object)
{
    struct scene *scene = object;
    scene->lent--;
}

static void act(struct session *session, uint8_t action)
{
    static const uint8_t lent[300000];
    struct output *output = &session->wire->output;

    switch (action % 8) {
    case 0:
        output_append(output, slice_of(lent, (size_t)action * 3));
        break;
    case 1:
        output_borrow(output, slice_of(lent, (size_t)action * 1100),
                      (struct output_owner){give_back, session->scene});
        session->scene->lent++;
        break;
    case 2:
        session->wire->paused = true;
        break;
    case 3:
        session->wire->paused = false;
        break;
    case 4:
        session->wire->again = true;
        break;
    case 5:
        session->wire->finished = action > 200;
        break;
    default:
        break;
    }
    wire_touch(session->wire);
}

static ssize_t fuzz_input(void *from, struct slice bytes)
{
    struct session *session = from;
    uint8_t action = read_u8(&session->scene->script);
    size_t consumed = bytes.size;

    ASSERT(!session->is_closed && !session->was_fatal);
    for (size_t i = 0; i < bytes.size; i++)
        ASSERT(bytes.data[i] == pattern(session->consumed + i)); /* in order, none twice */
    act(session, action);
    if (action == 255) {
        session->was_fatal = true;
        return E_FRAME;
    }
    if (action & 64)
        consumed = bytes.size * (action & 15) / 16;
    session->consumed += consumed;
    return (ssize_t)consumed;
}

static size_t fuzz_input_max(void *from)
{
    (void)from;
    return 100000;
}

static void fuzz_drained(void *from)
{
    struct session *session = from;

    ASSERT(!session->is_closed);
    if (!session->scene->script.failed && reader_left(&session->scene->script) > 0)
        act(session, read_u8(&session->scene->script));
}

static uint64_t fuzz_tick(void *from, uint64_t now_ns)
{
    struct session *session = from;
    uint8_t action = read_u8(&session->scene->script);

    ASSERT(!session->is_closed);
    act(session, action);
    return action == 254 ? TICK_EXPIRED : action % 2 == 0 ? TICK_NEVER : now_ns + action * 10000u;
}

static void fuzz_drain(void *from, const char *reason)
{
    (void)reason;
    act(from, read_u8(&((struct session *)from)->scene->script));
}

static bool fuzz_close(void *from, enum close_reason reason)
{
    struct session *session = from;

    (void)reason;
    session->is_closed = read_u8(&session->scene->script) % 4 == 0;
    return session->is_closed;
}

static bool fuzz_idle(void *from)
{
    struct session *session = from;

    ASSERT(session->is_closed);
    return read_u8(&session->scene->script) % 4 == 0;
}

static void fuzz_free(void *from)
{
    struct session *session = from;

    session->scene->sessions--;
    free(session);
}

static void fuzz_abandon(void *from)
{
    (void)from; /* nothing is held but what is lent */
}

static const struct protocol protocol = {"fuzz",         fuzz_sniff,   fuzz_open, fuzz_input,
                                         fuzz_input_max, fuzz_drained, fuzz_tick, fuzz_drain,
                                         fuzz_close,     fuzz_idle,    fuzz_free, fuzz_abandon};

/* ---- the client ---- */

static void client_ready(void *context, unsigned events)
{
    struct scene *scene = context;
    static uint8_t bytes[20000]; /* thrown away */

    (void)events;
    if (stream_read(scene->client, bytes, sizeof bytes) <= 0)
        stream_want(scene->client, 0);
}

static void client_send(struct scene *scene, size_t size)
{
    uint8_t bytes[255 * 64];
    struct iovec slice = {bytes, size};

    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(scene->to_session + i);
    ssize_t written = stream_write(scene->client, &slice, 1);
    if (written > 0)
        scene->to_session += (uint64_t)written;
}

static void client_act(struct scene *scene, uint8_t action)
{
    switch (action % 8) {
    case 0:
    case 1:
        client_send(scene, action);
        break;
    case 2:
        client_send(scene, (size_t)action * 64);
        break;
    case 3:
        scene->client_reads = !scene->client_reads;
        stream_want(scene->client, scene->client_reads ? STREAM_READABLE : 0);
        break;
    case 4:
        if (action > 220)
            stream_shutdown(scene->client);
        break;
    case 5:
        if (action > 240)
            simulated_reset(scene->client);
        break;
    default:
        simulated_run_for(scene->loop, (uint64_t)action * 20000);
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct scene scene = {.script = reader_of(slice_of(data, size))};
    struct server_protocol protocols[] = {{&protocol, &scene}};
    struct account account;
    struct server *server;
    struct failure failure;

    scene.loop = loop_new_simulated(read_be32(&scene.script));
    account_init(&account, NULL, read_u8(&scene.script) % 2 ? 0 : 50000);
    struct server_options options = {.loop = scene.loop,
                                     .account = &account,
                                     .listen = {.port = PORT},
                                     .protocols = protocols,
                                     .protocol_count = 1,
                                     .handshake_ms = 500};
    int result = server_open(&options, &server, &failure);
    ASSERT(result == 0);
    result = simulated_connect(scene.loop, PORT, &scene.client);
    ASSERT(result == 0);
    stream_start(scene.client, client_ready, &scene);
    while (!scene.script.failed && reader_left(&scene.script) > 0) {
        client_act(&scene, read_u8(&scene.script));
        simulated_run_turns(scene.loop, 3);
    }
    if (size % 2)
        stream_close(scene.client); /* else the deadline has to do */
    if (size % 3) {
        server_drain(server, "end", loop_now_ns(scene.loop) + 10 * NANOSECONDS_PER_MS);
        simulated_run_for(scene.loop, 20000 * NANOSECONDS_PER_MS);
        ASSERT(server_connection_count(server) == 0 && scene.sessions == 0);
    } else {
        server_abandon(server);
    }
    ASSERT(scene.lent == 0);
    server_free(server);
    ASSERT(scene.sessions == 0);
    account_fini(&account);
    if (size % 2 == 0)
        stream_close(scene.client);
    loop_free(scene.loop);
    return 0;
}
