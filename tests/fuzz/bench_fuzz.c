/*
 * What sluice-bench reads from a broker: the first byte chooses a consumer, a publisher waiting for
 * confirms, or a URI; the rest is what it reads, in pieces whose sizes the second byte decides.
 */
#include "consumer.h"
#include "producer.h"

#include "base/memory.h"

#include <stdint.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PRODUCERS 2
#define QUEUES    3
#define RUN       7

static struct load *new_load(void)
{
    struct load *load = memory_new(sizeof *load);
    load->recording = true;
    histogram_reset(&load->latency);
    histogram_reset(&load->confirm);
    return load;
}

/* Hands the bytes over piece by piece, each followed by input(). */
static void feed(struct client *client, struct slice bytes, size_t piece,
                 int (*input)(void *context, struct failure *failure), void *context)
{
    int ends[2];
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_NONBLOCK, 0, ends) < 0)
        abort();
    client->fd = ends[0];
    client->frame_max = FRAME_MAX;
    client->input = memory_new(CLIENT_INPUT_SIZE);
    struct failure failure;
    int error = 0;
    while (bytes.size > 0 && error == 0) {
        size_t part = bytes.size < piece ? bytes.size : piece;
        ssize_t sent = send(ends[1], bytes.data, part, MSG_NOSIGNAL);
        if (sent < 0)
            break;
        bytes = slice_of(bytes.data + sent, bytes.size - (size_t)sent);
        error = input(context, &failure);
        if (client->input_start > client->input_end || client->input_end > CLIENT_INPUT_SIZE)
            abort();
    }
    close(ends[1]);
}

static int consume(void *context, struct failure *failure)
{
    return consumer_input(context, failure);
}

static void fuzz_consumer(struct slice bytes, size_t piece, uint32_t ack_every)
{
    struct check check;
    check_init(&check, PRODUCERS, QUEUES, false, RUN);
    struct consumer c = {.load = new_load(),
                         .check = &check,
                         .queue_step = 1,
                         .subscription_count = QUEUES,
                         .size = 16,
                         .ack_every = ack_every};
    c.subscriptions = memory_new(QUEUES * sizeof *c.subscriptions);
    for (uint32_t q = 0; q < QUEUES; q++) {
        c.subscriptions[q].sequences = check_sequences(&check, q);
        c.subscriptions[q].next = memory_new(PRODUCERS * sizeof *c.subscriptions[q].next);
    }
    c.output = memory_new(CONSUMER_OUTPUT_SIZE);
    feed(&c.client, bytes, piece, consume, &c);
    free(c.load);
    consumer_close(&c);
    check_fini(&check);
}

static int confirm(void *context, struct failure *failure)
{
    return producer_input(context, failure);
}

static void fuzz_producer(struct slice bytes, size_t piece)
{
    struct producer p = {.load = new_load(), .window = 8, .ring_size = 16, .unconfirmed = 8};
    p.confirm_base = 1;
    p.confirm_next = 9;
    p.sent_ns = memory_new(p.ring_size * sizeof *p.sent_ns);
    for (uint64_t tag = p.confirm_base; tag < p.confirm_next; tag++)
        p.sent_ns[tag] = tag;
    feed(&p.client, bytes, piece, confirm, &p);
    uint64_t confirmed = p.load->counters.confirmed + p.load->counters.nacked;
    if (confirmed + p.unconfirmed != 8 || p.confirm_base > p.confirm_next)
        abort();
    free(p.load);
    producer_close(&p);
}

static void fuzz_uri(struct slice bytes)
{
    struct uri uri;
    struct failure failure;
    char *text = memory_text(bytes);
    int error = uri_parse(&uri, text, &failure);
    if (error == 0 && strtol(uri.port, NULL, 10) <= 0)
        abort();
    free(text);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    if (size < 2)
        return 0;
    struct slice rest = slice_of(data + 2, size - 2);
    size_t piece = (size_t)data[1] * 8 + 1;
    if (data[0] % 4 == 3)
        fuzz_uri(rest);
    else if (data[0] % 4 == 2)
        fuzz_producer(rest, piece);
    else
        fuzz_consumer(rest, piece, data[0] % 4);
    return 0;
}
