/*
 * A session over a broker made for tests, fed in one of three ways:
 *
 *   raw     the bytes as they are, from the protocol header on
 *   framed  after a proper handshake, bytes that are put into frames, so that they get further
 *   talk    after a proper handshake, well-formed methods and contents in any order, over few names
 *           and channels, with turns, blocked publishers, a slow socket and time between them
 *
 * The first byte chooses the way, the second the seed, the third how much is PENDING. At the end
 * the session goes, and everything must have been given back (fake_fini() checks).
 */
#include "protocols/amqp091/test_peer.h"

#include "base/assert.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static void handshake(struct peer *peer, bool capable)
{
    static const uint8_t capabilities[] = "\x0c"
                                          "capabilitiesF\0\0\0\x2e"
                                          "\x12"
                                          "connection.blockedt\x01"
                                          "\x16"
                                          "consumer_cancel_notifyt\x01"
                                          "\x01xt\x01";
    struct method start_ok = {.id = METHOD_connection_start_ok};
    start_ok.connection_start_ok.mechanism = slice_text("PLAIN");
    start_ok.connection_start_ok.response = slice_of("\0guest\0guest", 12);
    if (capable)
        start_ok.connection_start_ok.client_properties =
            slice_of(capabilities, sizeof capabilities - 1);
    struct method tune_ok = {.id = METHOD_connection_tune_ok};
    tune_ok.connection_tune_ok = (struct connection_tune_ok){20, 4096, 10};
    struct method open = {.id = METHOD_connection_open};
    open.connection_open.virtual_host = slice_text("/");

    peer_send(peer, "AMQP\0\0\x09\x01", 8);
    peer_send_method(peer, 0, &start_ok);
    peer_send_method(peer, 0, &tune_ok);
    peer_send_method(peer, 0, &open);
    for (uint16_t channel = 1; channel <= 2; channel++)
        peer_send_method(peer, channel, &(struct method){.id = METHOD_channel_open});
    peer_run(peer);
}

/* ---- framed ---- */

static void framed(struct peer *peer, struct reader *reader)
{
    static const uint8_t types[] = {FRAME_METHOD, FRAME_METHOD,    FRAME_HEADER,
                                    FRAME_BODY,   FRAME_HEARTBEAT, 4,
                                    FRAME_METHOD, FRAME_BODY};

    while (reader_left(reader) > 0) {
        uint8_t head = read_u8(reader);
        size_t size = read_u8(reader);
        if (size > reader_left(reader))
            size = reader_left(reader);
        struct slice payload = read_bytes(reader, size);
        uint8_t frame[FRAME_HEADER_SIZE] = {types[head & 7], 0, head >> 3 & 3};
        store_be32(frame + 3, (uint32_t)payload.size);
        peer_send(peer, frame, sizeof frame);
        peer_send(peer, payload.data, payload.size);
        peer_send(peer, head & 0x20 ? "\xce\xce" : "\xce", 1);
        if (head & 0x40)
            peer_run(peer);
    }
}

/* ---- talk ---- */

static struct slice a_name(struct reader *reader)
{
    static const char *const names[] = {
        "a", "b", "", "amq.fanout", "amq.direct", "x", "amq.rabbitmq.reply-to", "fanout"};
    return slice_text(names[read_u8(reader) & 7]);
}

static struct slice some_headers(void)
{
    return slice_of("\x03"
                    "BCCA\0\0\0\x06S\0\0\0\x01"
                    "b"
                    "\x02"
                    "CCA\0\0\0\x06S\0\0\0\x01"
                    "a",
                    29);
}

static struct slice some_properties(struct reader *reader)
{
    static uint8_t rewritten[] = {0x20, 0, 0, 0, 0, 29};
    static uint8_t with_headers[6 + 29];

    switch (read_u8(reader) & 7) {
    case 0:
        return slice_of("\x02\x00\x15"
                        "amq.rabbitmq.reply-to",
                        24);
    case 1:
        return slice_of("\x01\x00\x01"
                        "7",
                        4);
    case 2:
        memcpy(with_headers, rewritten, sizeof rewritten);
        memcpy(with_headers + sizeof rewritten, some_headers().data, 29);
        return slice_of(with_headers, sizeof with_headers);
    case 3:
        return slice_of("\x00\x10\x05"
                        "guest",
                        8);
    case 4:
        return slice_of("\x10\x00\x02", 3);
    default:
        return slice_of(NULL, 0);
    }
}

static void a_publish(struct peer *peer, uint16_t channel, struct reader *reader)
{
    static const uint8_t body[20000];
    static const size_t sizes[] = {0, 1, 16, 4000, 4097, 9000, 20000, 100};
    uint8_t how = read_u8(reader);
    struct basic_publish publish = {
        .exchange = a_name(reader), .routing_key = a_name(reader), .mandatory = how & 8};

    peer_publish(peer, channel, &publish, some_properties(reader), slice_of(body, sizes[how & 7]),
                 how & 16 ? 100 : 4088);
}

static bool a_method(struct method *m, struct reader *reader)
{
    uint8_t what = read_u8(reader), bits = read_u8(reader);
    bool one = bits & 1, two = bits & 2, three = bits & 4;

    *m = (struct method){0};
    switch (what % 28) {
    case 0:
        m->id = METHOD_queue_declare;
        m->queue_declare = (struct queue_declare){
            .queue = a_name(reader), .passive = one, .exclusive = two, .no_wait = three};
        break;
    case 1:
        m->id = METHOD_queue_delete;
        m->queue_delete =
            (struct queue_delete){.queue = a_name(reader), .if_unused = one, .if_empty = two};
        break;
    case 2:
        m->id = METHOD_queue_purge;
        m->queue_purge = (struct queue_purge){.queue = a_name(reader)};
        break;
    case 3:
        m->id = METHOD_queue_bind;
        m->queue_bind = (struct queue_bind){
            .queue = a_name(reader), .exchange = a_name(reader), .routing_key = a_name(reader)};
        break;
    case 4:
        m->id = METHOD_queue_unbind;
        m->queue_unbind = (struct queue_unbind){
            .queue = a_name(reader), .exchange = a_name(reader), .routing_key = a_name(reader)};
        break;
    case 5:
        m->id = METHOD_exchange_declare;
        m->exchange_declare = (struct exchange_declare){
            .exchange = a_name(reader), .type = a_name(reader), .passive = one};
        break;
    case 6:
        m->id = METHOD_exchange_bind;
        m->exchange_bind =
            (struct exchange_bind){.destination = a_name(reader), .source = a_name(reader)};
        break;
    case 7:
        m->id = METHOD_exchange_delete;
        m->exchange_delete = (struct exchange_delete){.exchange = a_name(reader)};
        break;
    case 8:
    case 9:
    case 10:
        m->id = METHOD_basic_consume;
        m->basic_consume = (struct basic_consume){.queue = a_name(reader),
                                                  .consumer_tag = a_name(reader),
                                                  .no_ack = one,
                                                  .exclusive = two,
                                                  .no_wait = three};
        break;
    case 11:
        m->id = METHOD_basic_cancel;
        m->basic_cancel = (struct basic_cancel){.consumer_tag = a_name(reader), .no_wait = one};
        break;
    case 12:
    case 13:
        m->id = METHOD_basic_get;
        m->basic_get = (struct basic_get){.queue = a_name(reader), .no_ack = one};
        break;
    case 14:
    case 15:
    case 16:
        m->id = METHOD_basic_ack;
        m->basic_ack = (struct basic_ack){bits >> 1 & 15, one};
        break;
    case 17:
        m->id = METHOD_basic_nack;
        m->basic_nack = (struct basic_nack){bits >> 2 & 15, one, two};
        break;
    case 18:
        m->id = METHOD_basic_reject;
        m->basic_reject = (struct basic_reject){bits >> 1 & 15, one};
        break;
    case 19:
        m->id = METHOD_basic_recover;
        m->basic_recover.requeue = true;
        break;
    case 20:
        m->id = METHOD_basic_qos;
        m->basic_qos = (struct basic_qos){0, bits >> 1 & 7, one};
        break;
    case 21:
        m->id = METHOD_confirm_select;
        break;
    case 22:
        m->id = METHOD_tx_select;
        break;
    case 23:
        m->id = METHOD_tx_commit;
        break;
    case 24:
        m->id = METHOD_tx_rollback;
        break;
    case 25:
        m->id = METHOD_channel_close;
        break;
    case 26:
        m->id = METHOD_channel_close_ok;
        break;
    default:
        m->id = METHOD_channel_open;
    }
    return true;
}

static void talk(struct peer *peer, struct reader *reader)
{
    struct worker *worker = peer->worker;
    struct method method;

    while (reader_left(reader) > 0 && !peer->is_failed) {
        uint8_t what = read_u8(reader);
        uint16_t channel = (uint16_t)(1 + (what >> 6));
        switch (what & 15) {
        case 0:
        case 1:
        case 2:
            peer_run(peer);
            break;
        case 3:
        case 4:
        case 5:
            a_publish(peer, channel, reader);
            break;
        case 6:
            fake_set_flow(worker, (enum flow)(what >> 6));
            break;
        case 7:
            peer->keep_output = what & 0x40;
            break;
        case 8:
            worker->loop.now_ns += (uint64_t)(what >> 6) * 3000 * NANOSECONDS_PER_MS;
            amqp091_protocol.tick(peer->session, worker->loop.now_ns);
            break;
        case 9:
            fake_run(worker);
            break;
        case 10:
            worker->is_reject_publishes = what & 0x40;
            worker->confirms_held = what >> 7;
            break;
        case 11:
            if (what == 0xcb)
                fake_kick(worker, "enough");
            break;
        default:
            a_method(&method, reader);
            peer_send_method(peer, channel, &method);
        }
    }
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader reader = reader_of(slice_of(data, size));
    struct worker worker;
    struct peer peer;
    uint8_t way = read_u8(&reader), seed = read_u8(&reader), pending = read_u8(&reader);
    static const size_t steps[] = {0, 1, 7, 4096}, large_steps[] = {0, 300, 1000, 4096};

    fake_init(&worker, seed + 1u, pending % 101);
    int result = peer_open(&peer, &worker);
    ASSERT(result == 0);
    peer.step = way & 2 ? large_steps[way >> 2 & 3] : steps[way >> 2 & 3];
    if (way & 3)
        handshake(&peer, way & 16);
    if ((way & 3) == 0)
        peer_send(&peer, reader.at, reader_left(&reader));
    else if ((way & 3) == 1)
        framed(&peer, &reader);
    else
        talk(&peer, &reader);
    if (way & 32)
        peer_run(&peer);
    peer_close(&peer);
    fake_fini(&worker);
    return 0;
}
