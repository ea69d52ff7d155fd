#include "net/connection.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

#define WRITES_A_TURN  4
#define IDLE_WAIT_MIN  NANOSECONDS_PER_MS /* doubled each time, as thousands may wait */
#define IDLE_WAIT_MAX  (64 * NANOSECONDS_PER_MS)
#define DRAIN_PATIENCE (5000 * NANOSECONDS_PER_MS)

static struct loop *loop_of(const struct connection *c)
{
    return c->host->options.loop;
}

/* ---- closing ---- */

static void rest_free(struct connection *c)
{
    account_release(&c->host->account, c->rest_capacity);
    free(c->rest);
    c->rest = NULL;
    c->rest_size = c->rest_capacity = 0;
}

static void close_stream(struct connection *c)
{
    if (!c->stream)
        return;
    stream_close(c->stream);
    c->stream = NULL;
    output_fini(&c->wire.output);
    loop_defer(loop_of(c), &c->teardown, LOOP_DISPATCH);
}

static void begin_close(struct connection *c, enum close_reason reason)
{
    if (c->state == CONNECTION_CLOSING)
        return;
    c->state = CONNECTION_CLOSING;
    c->reason = reason;
    rest_free(c);
    timer_stop(&c->tick);
    timer_set(&c->deadline, loop_now_ns(loop_of(c)) + LINGER_NS);
    loop_defer(loop_of(c), &c->teardown, LOOP_DISPATCH);
}

static void destroy(struct connection *c)
{
    struct connection_host *host = c->host;

    ASSERT(!c->stream && !c->session);
    output_fini(&c->wire.output);
    timer_stop(&c->deadline);
    timer_stop(&c->tick);
    task_cancel(&c->teardown);
    list_remove(&c->reader);
    list_remove(&c->touched);
    list_remove(&c->link);
    host->statistics.closed++;
    free(c);
    host->gone(host);
}

/* All is written: tell the peer, and wait a moment for its end. */
static void linger(struct connection *c)
{
    if (c->peer_has_ended) {
        close_stream(c);
    } else if (!c->output_is_shut) {
        uint64_t at_ns = loop_now_ns(loop_of(c)) + LINGER_SHUT_NS;
        c->output_is_shut = true;
        stream_shutdown(c->stream);
        stream_want(c->stream, STREAM_READABLE);
        if (at_ns < c->deadline.at_ns)
            timer_set(&c->deadline, at_ns);
    }
}

static void teardown_run(struct task *task)
{
    struct connection *c = CONTAINER_OF(task, struct connection, teardown);

    if (c->session && !c->session_is_closed) {
        c->session_is_closed = c->protocol->close(c->session, c->reason);
        if (!c->session_is_closed) {
            loop_defer(loop_of(c), &c->teardown, LOOP_DISPATCH);
            return;
        }
    }
    if (c->stream && output_pending(&c->wire.output) == 0)
        linger(c);
    if (c->session && output_pending(&c->wire.output) == 0) { /* or that holds what was lent */
        if (!c->protocol->idle(c->session)) {
            c->idle_wait_ns = c->idle_wait_ns ? 2 * c->idle_wait_ns : IDLE_WAIT_MIN;
            if (c->idle_wait_ns > IDLE_WAIT_MAX)
                c->idle_wait_ns = IDLE_WAIT_MAX;
            timer_set(&c->tick, loop_now_ns(loop_of(c)) + c->idle_wait_ns);
            return;
        }
        c->protocol->free(c->session);
        c->session = NULL;
    }
    if (!c->session && !c->stream)
        destroy(c);
}

static void deadline_fire(struct timer *timer)
{
    struct connection *c = CONTAINER_OF(timer, struct connection, deadline);

    switch (c->state) {
    case CONNECTION_SNIFFING:
        c->host->statistics.silent++;
        log_error(c->host->options.logger, "connection",
                  "closing %s:%u -> %s:%u: handshake_timeout, %llu bytes came in %llu ms",
                  c->wire.peer_host, c->wire.peer_port, c->wire.local_host, c->wire.local_port,
                  (unsigned long long)c->wire.bytes_received,
                  (unsigned long long)c->host->options.handshake_ms);
        begin_close(c, CLOSE_TIMEOUT);
        break;
    case CONNECTION_OPEN:
        begin_close(c, CLOSE_STOP);
        break;
    case CONNECTION_CLOSING:
        close_stream(c);
        loop_defer(loop_of(c), &c->teardown, LOOP_DISPATCH);
        break;
    }
}

/* ---- output ---- */

/* Does it wait behind the others? */
static bool is_patient(const struct connection *c)
{
    return !c->wire.is_established || c->wire.again || c->again || c->state == CONNECTION_CLOSING;
}

static void flush_later(struct connection *c)
{
    struct connection_host *host = c->host;

    if (list_linked(&c->touched))
        return;
    if (is_patient(c)) {
        list_append(&host->patient_touched, &c->touched);
        loop_defer(loop_of(c), &host->wait, LOOP_BULK);
    } else {
        list_append(&host->touched, &c->touched);
        loop_defer(loop_of(c), &host->flush, LOOP_FLUSH);
    }
}

static void tell_drained(struct connection *c)
{
    size_t pending = output_pending(&c->wire.output);

    if (c->state == CONNECTION_CLOSING) {
        if (pending == 0)
            loop_defer(loop_of(c), &c->teardown, LOOP_DISPATCH);
    } else if (pending == 0 || (c->was_high && pending < OUTPUT_LOW_WATER)) {
        c->was_high = false;
        if (c->session)
            c->protocol->drained(c->session);
    }
}

/* Writes what the socket takes, up to a bound. */
static void write_output(struct connection *c)
{
    struct output *output = &c->wire.output;
    struct iovec slices[SLICES_MAX];

    c->socket_is_full = false;
    if (output_pending(output) == 0 || !c->stream)
        return;
    c->was_high |= output_pending(output) >= OUTPUT_HIGH_WATER;
    for (int i = 0; i < WRITES_A_TURN && output_pending(output) > 0; i++) {
        size_t size = 0;
        int count = output_slices(output, slices, SLICES_MAX);
        for (int j = 0; j < count; j++)
            size += slices[j].iov_len;
        ssize_t written = stream_write(c->stream, slices, count);
        if (written < 0 && written != E_AGAIN) {
            begin_close(c, CLOSE_PEER);
            close_stream(c);
            return;
        }
        if (written > 0) {
            output_consume(output, (size_t)written);
            c->wire.bytes_sent += (uint64_t)written;
            c->host->statistics.bytes_sent += (uint64_t)written;
        }
        if (written < 0 || (size_t)written < size) { /* no need to ask it again */
            c->socket_is_full = true;
            break;
        }
    }
    if (output_pending(output) > 0 && !c->socket_is_full)
        flush_later(c); /* in the next turn */
    tell_drained(c);
}

static size_t rest_limit(const struct connection *c)
{
    size_t limit = c->session ? c->protocol->input_max(c->session) : SNIFF_MAX;

    return limit > INPUT_SIZE ? limit : INPUT_SIZE;
}

static bool may_read(const struct connection *c)
{
    return c->state != CONNECTION_CLOSING && !c->wire.paused && c->rest_size < rest_limit(c);
}

static void update_wants(struct connection *c)
{
    unsigned wants = c->socket_is_full ? STREAM_WRITABLE : 0;

    if (!c->stream)
        return;
    if (c->state == CONNECTION_CLOSING ? !c->peer_has_ended : may_read(c))
        wants |= STREAM_READABLE;
    stream_want(c->stream, wants);
}

/* ---- input ---- */

static bool rest_reserve(struct connection *c, size_t capacity)
{
    if (capacity <= c->rest_capacity)
        return true;
    if (account_charge(&c->host->account, capacity - c->rest_capacity) < 0)
        return false;
    uint8_t *rest = realloc(c->rest, capacity);
    if (!rest) {
        account_release(&c->host->account, capacity - c->rest_capacity);
        return false;
    }
    c->rest = rest;
    c->rest_capacity = capacity;
    return true;
}

static void out_of_memory(struct connection *c)
{
    log_error(c->host->options.logger, "connection",
              "closing %s:%u -> %s:%u: no memory for %zu bytes of input", c->wire.peer_host,
              c->wire.peer_port, c->wire.local_host, c->wire.local_port, c->rest_size);
    begin_close(c, CLOSE_PROTOCOL);
}

/* Keeps what follows the consumed bytes. They are in the rest itself or in the shared input. */
static void keep(struct connection *c, const uint8_t *bytes, size_t consumed, size_t size)
{
    size_t left = size - consumed;

    if (left == 0) {
        rest_free(c);
        return;
    }
    if (bytes == c->rest && (left > INPUT_COPY_MAX || c->rest_capacity <= INPUT_COPY_MAX)) {
        if (consumed > 0)
            memmove(c->rest, c->rest + consumed, left);
        c->rest_size = left;
        return;
    }
    if (bytes == c->rest) { /* a large buffer for a small rest: not kept */
        memcpy(c->host->input, bytes + consumed, left);
        bytes = c->host->input;
        consumed = 0;
        rest_free(c);
    }
    if (!rest_reserve(c, left <= INPUT_COPY_MAX ? left : left + INPUT_SIZE)) {
        out_of_memory(c);
        return;
    }
    memcpy(c->rest, bytes + consumed, left);
    c->rest_size = left;
}

static void tick_fire(struct timer *timer)
{
    struct connection *c = CONTAINER_OF(timer, struct connection, tick);

    if (c->state == CONNECTION_CLOSING) { /* is it idle now? */
        loop_defer(loop_of(c), &c->teardown, LOOP_DISPATCH);
        return;
    }
    uint64_t next_ns = c->protocol->tick(c->session, loop_now_ns(loop_of(c)));
    wire_touch(&c->wire);
    if (next_ns == TICK_EXPIRED)
        begin_close(c, CLOSE_TIMEOUT);
    else if (next_ns != TICK_NEVER)
        timer_set(&c->tick, next_ns);
}

static void open_session(struct connection *c, const struct server_protocol *chosen)
{
    void *session = NULL;

    c->protocol = chosen->protocol;
    c->wire.protocol = chosen->protocol->name;
    timer_stop(&c->deadline);
    if (c->protocol->open(chosen->context, &c->wire, &session) < 0) {
        begin_close(c, CLOSE_PROTOCOL);
        return;
    }
    c->session = session;
    c->state = CONNECTION_OPEN;
    tick_fire(&c->tick);
}

static void sniff(struct connection *c, struct slice start)
{
    const struct server_options *options = &c->host->options;
    bool undecided = false;

    for (unsigned i = 0; i < options->protocol_count; i++) {
        enum sniff answer = options->protocols[i].protocol->sniff(start);
        if (answer == SNIFF_YES) {
            open_session(c, &options->protocols[i]);
            return;
        }
        undecided |= answer == SNIFF_MORE;
    }
    if (!undecided || start.size >= SNIFF_MAX)
        open_session(c, &options->protocols[0]);
}

/* Returns how many bytes were consumed; after an error the connection is CLOSING. */
static size_t feed(struct connection *c, struct slice bytes)
{
    if (c->state == CONNECTION_SNIFFING)
        sniff(c, bytes);
    if (c->state != CONNECTION_OPEN)
        return 0;
    ssize_t consumed = c->protocol->input(c->session, bytes);
    wire_touch(&c->wire);
    if (consumed < 0) {
        begin_close(c, CLOSE_PROTOCOL);
        return 0;
    }
    ASSERT((size_t)consumed <= bytes.size);
    return (size_t)consumed;
}

/* A session that neither takes a whole item nor says that it waits would wait for ever. */
static void check_progress(struct connection *c)
{
    if (c->state == CONNECTION_OPEN && c->rest_size >= rest_limit(c) && !c->wire.paused &&
        !c->wire.again && !c->again) {
        log_error(c->host->options.logger, "connection",
                  "closing %s:%u -> %s:%u: %zu bytes of input are no %s", c->wire.peer_host,
                  c->wire.peer_port, c->wire.local_host, c->wire.local_port, c->rest_size,
                  c->protocol->name);
        begin_close(c, CLOSE_PROTOCOL);
    }
}

static void peer_is_gone(struct connection *c, bool by_its_end)
{
    begin_close(c, CLOSE_PEER);
    if (by_its_end) {
        c->peer_has_ended = true;
        wire_touch(&c->wire); /* an answer may be waiting to be written */
    } else {
        close_stream(c);
    }
}

/* One read, and what it brings. Returns whether there may be more. */
static bool read_once(struct connection *c, size_t *budget)
{
    uint8_t *base = c->host->input;
    size_t room = INPUT_SIZE;
    size_t have = c->rest_size;

    if (have > INPUT_COPY_MAX) {
        size_t limit = rest_limit(c);
        size_t wanted = 2 * have < limit ? 2 * have : limit;
        bool is_tight = c->rest_capacity - have < INPUT_SIZE / 4;
        if (is_tight && !rest_reserve(c, wanted)) {
            out_of_memory(c);
            return false;
        }
        base = c->rest;
        room = c->rest_capacity - have;
    } else if (have > 0) {
        memcpy(base, c->rest, have);
    }
    ssize_t size = stream_read(c->stream, base + have, room);
    if (size == E_AGAIN)
        return false;
    if (size <= 0) {
        peer_is_gone(c, size == 0);
        return false;
    }
    c->wire.bytes_received += (uint64_t)size;
    c->host->statistics.bytes_received += (uint64_t)size;
    size_t total = have + (size_t)size;
    size_t consumed = feed(c, slice_of(base, total));
    if (c->state != CONNECTION_CLOSING)
        keep(c, base, consumed, total);
    check_progress(c);
    *budget = (size_t)size < *budget ? *budget - (size_t)size : 0;
    return (size_t)size == room && *budget > 0; /* after a short read there is nothing more */
}

static void read_input(struct connection *c)
{
    size_t budget = INPUT_TURN_MAX;

    while (may_read(c) && read_once(c, &budget))
        ;
}

static void input_again(struct connection *c)
{
    size_t size = c->rest_size;

    c->again = false;
    if (c->state != CONNECTION_OPEN)
        return;
    size_t consumed = feed(c, slice_of(c->rest, size));
    if (c->state != CONNECTION_CLOSING && consumed > 0)
        keep(c, c->rest, consumed, size);
    check_progress(c);
}

/* While CLOSING: so that the peer is not stuck writing, and its end is seen. */
static void discard_input(struct connection *c)
{
    size_t budget = INPUT_TURN_MAX;
    ssize_t size;

    do {
        size = stream_read(c->stream, c->host->input, INPUT_SIZE);
        budget = size > 0 && (size_t)size < budget ? budget - (size_t)size : 0;
    } while (size == (ssize_t)INPUT_SIZE && budget > 0);
    if (size == 0) {
        c->peer_has_ended = true;
        loop_defer(loop_of(c), &c->teardown, LOOP_DISPATCH);
    } else if (size < 0 && size != E_AGAIN) {
        close_stream(c);
    }
}

/* ---- events and wishes ---- */

static void read_now(struct connection *c)
{
    if (c->again)
        input_again(c);
    if (!c->stream)
        return;
    if (c->state == CONNECTION_CLOSING)
        discard_input(c);
    else
        read_input(c);
    update_wants(c);
}

static bool has_read_enough(struct connection_host *host)
{
    struct loop *loop = host->options.loop;
    return loop_precise_ns(loop) - loop_now_ns(loop) >= TURN_SLICE_NS;
}

/* Unless it waits already. */
static void read_later(struct connection *c)
{
    struct connection_host *host = c->host;

    if (list_linked(&c->reader))
        return;
    list_append(is_patient(c) ? &host->patient_readers : &host->readers, &c->reader);
    loop_defer(host->options.loop, &host->wait, LOOP_BULK);
}

static void connection_ready(void *context, unsigned events)
{
    struct connection *c = context;
    struct connection_host *host = c->host;

    if (events & STREAM_WRITABLE) {
        write_output(c);
        update_wants(c);
    }
    if (!(events & STREAM_READABLE) || !c->stream)
        return;
    if (list_empty(&host->readers) && !list_linked(&c->reader) && !is_patient(c) &&
        !has_read_enough(host))
        read_now(c);
    else
        read_later(c);
}

static void look_at_wishes(struct connection *c)
{
    bool goes_on = c->was_paused && !c->wire.paused && c->rest_size > 0;

    c->was_paused = c->wire.paused;
    if (c->wire.again || goes_on) {
        c->wire.again = false;
        c->again = true;
        read_later(c);
    }
    if (c->wire.finished)
        begin_close(c, CLOSE_PROTOCOL);
}

static void flush(struct connection *c)
{
    c->wire.is_touched = false;
    if (!c->stream) {
        output_fini(&c->wire.output); /* there is nobody to read it */
    } else if (!c->socket_is_full) {
        write_output(c);
    }
    if (c->state == CONNECTION_OPEN)
        look_at_wishes(c);
    update_wants(c);
}

/* `rest` comes first. */
static void put_back(struct list *list, struct list *rest)
{
    list_move_all(rest, list);
    list_move_all(list, rest);
}

static void flush_run(struct task *task)
{
    struct connection_host *host = CONTAINER_OF(task, struct connection_host, flush);
    struct loop *loop = host->options.loop;
    uint64_t start_ns = loop_precise_ns(loop);
    struct list now;
    struct list *link;

    list_init(&now);
    list_move_all(&now, &host->touched);
    while ((link = list_take_first(&now)) != NULL) {
        flush(CONTAINER_OF(link, struct connection, touched));
        if (loop_precise_ns(loop) - start_ns >= TURN_SLICE_NS)
            break;
    }
    put_back(&host->touched, &now);
    if (!list_empty(&host->touched))
        loop_defer(loop, task, LOOP_FLUSH);
}

/* At least one; before the patient, who may be many. */
static void read_waiting(struct connection_host *host)
{
    struct loop *loop = host->options.loop;
    uint64_t start_ns = loop_precise_ns(loop);
    struct list *link;

    while ((link = list_take_first(&host->readers)) != NULL) {
        read_now(CONTAINER_OF(link, struct connection, reader));
        if (loop_precise_ns(loop) - start_ns >= TURN_SLICE_NS)
            break;
    }
}

/* At least one of each; by turns, since who is answered may send the next. */
static void serve_patient(struct connection_host *host)
{
    struct loop *loop = host->options.loop;
    uint64_t start_ns = loop_precise_ns(loop);
    struct list now_touched, now_readers;
    struct list *touched, *reader;

    list_init(&now_touched);
    list_init(&now_readers);
    list_move_all(&now_touched, &host->patient_touched);
    list_move_all(&now_readers, &host->patient_readers);
    do {
        touched = list_take_first(&now_touched);
        if (touched)
            flush(CONTAINER_OF(touched, struct connection, touched));
        reader = list_take_first(&now_readers);
        if (reader)
            read_now(CONTAINER_OF(reader, struct connection, reader));
    } while ((touched || reader) && loop_precise_ns(loop) - start_ns < PATIENT_SLICE_NS);
    put_back(&host->patient_touched, &now_touched);
    put_back(&host->patient_readers, &now_readers);
}

static void wait_run(struct task *task)
{
    struct connection_host *host = CONTAINER_OF(task, struct connection_host, wait);

    read_waiting(host);
    serve_patient(host);
    if (!list_empty(&host->readers) || !list_empty(&host->patient_touched) ||
        !list_empty(&host->patient_readers))
        loop_defer(host->options.loop, task, LOOP_BULK);
}

static void touched(struct wire *wire)
{
    flush_later(CONTAINER_OF(wire, struct connection, wire));
}

/* ---- for the server ---- */

void connection_host_init(struct connection_host *host)
{
    list_init(&host->readers);
    list_init(&host->patient_readers);
    list_init(&host->touched);
    list_init(&host->patient_touched);
    task_init(&host->flush, flush_run);
    task_init(&host->wait, wait_run);
}

void connection_host_fini(struct connection_host *host)
{
    ASSERT(list_empty(&host->readers) && list_empty(&host->patient_readers));
    ASSERT(list_empty(&host->touched) && list_empty(&host->patient_touched));
    task_cancel(&host->flush);
    task_cancel(&host->wait);
    output_cache_fini(&host->chunks);
    free(host->input);
}

static void wire_init(struct connection *c)
{
    struct wire *wire = &c->wire;
    struct stream_address address;

    output_init(&wire->output);
    wire->output.cache = &c->host->chunks;
    wire->touched = touched;
    wire->protocol = "";
    wire->connected_at_ms = loop_wall_ms(loop_of(c));
    stream_local(c->stream, &address);
    snprintf(wire->local_host, sizeof wire->local_host, "%s", address.text);
    wire->local_port = address.port;
    stream_peer(c->stream, &address);
    snprintf(wire->peer_host, sizeof wire->peer_host, "%s", address.text);
    wire->peer_port = address.port;
    wire->peer_is_loopback = address.is_loopback;
}

struct connection *connection_new(struct connection_host *host, struct stream *stream)
{
    struct connection *c = memory_new(sizeof *c);

    if (!host->input) /* a server that nobody uses costs nothing */
        host->input = memory_new(INPUT_COPY_MAX + INPUT_SIZE);
    list_init(&c->link);
    c->host = host;
    c->stream = stream;
    wire_init(c);
    list_init(&c->reader);
    list_init(&c->touched);
    task_init(&c->teardown, teardown_run);
    timer_init(&c->tick, host->options.loop, tick_fire);
    timer_init(&c->deadline, host->options.loop, deadline_fire);
    if (host->options.handshake_ms)
        timer_set(&c->deadline, loop_now_ns(host->options.loop) +
                                    host->options.handshake_ms * NANOSECONDS_PER_MS);
    stream_start(stream, connection_ready, c);
    stream_want(stream, STREAM_READABLE);
    return c;
}

void connection_drain(struct connection *c, const char *reason, uint64_t deadline_ns)
{
    uint64_t patience_ns = loop_now_ns(loop_of(c)) + DRAIN_PATIENCE;

    if (c->state == CONNECTION_SNIFFING) {
        begin_close(c, CLOSE_STOP);
    } else if (c->state == CONNECTION_OPEN) {
        timer_set(&c->deadline, deadline_ns < patience_ns ? deadline_ns : patience_ns);
        c->protocol->drain(c->session, reason);
        wire_touch(&c->wire);
    }
}

void connection_abort(struct connection *c)
{
    begin_close(c, CLOSE_STOP);
    close_stream(c);
}

void connection_abandon(struct connection *c)
{
    if (c->session)
        c->protocol->abandon(c->session);
    output_fini(&c->wire.output);
    rest_free(c);
}

void connection_free(struct connection *c)
{
    if (c->session)
        c->protocol->free(c->session);
    c->session = NULL;
    if (c->stream)
        stream_close(c->stream);
    c->stream = NULL;
    destroy(c);
}
