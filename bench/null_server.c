#include "null_server.h"

#include "amqp.h"

#include "base/assert.h"
#include "base/list.h"
#include "base/map.h"
#include "base/memory.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define INPUT_SIZE     (256u << 10)
#define INPUT_SIZE_MAX (1u << 30)
#define DELIVERY_SIZE  (512u << 10) /* deliveries fill an output so far, answers may go beyond */
#define OUTPUT_SIZE    (DELIVERY_SIZE + (64u << 10))
#define BACKLOG_MAX    ((uint64_t)8 << 30) /* bytes kept for queues without consumers */
#define ANSWER_MAX     1024
#define EVENTS_MAX     64

struct consumer {
    struct connection *connection;
    struct slice tag; /* owned */
};

/* Messages wait in `backlog` as records: size of keys (4), size of content (4), keys, content. */
struct queue {
    struct slice name; /* owned */
    struct consumer *consumers;
    uint32_t consumer_count;
    uint32_t consumer_next;
    uint8_t *backlog;
    size_t backlog_start;
    size_t backlog_end;
    size_t backlog_room;
    uint32_t backlog_count;
    uint8_t *held; /* a record that the reorder fault lets wait for the next */
    struct list link;
};

/* A fanout exchange; each queue is one, too, for the default exchange. */
struct binding {
    struct queue *queue;
};

struct target {
    struct binding *bindings;
    uint32_t count;
};

struct exchange {
    struct slice name; /* owned */
    struct target target;
};

struct connection {
    struct server *server;
    int fd;
    struct list link;  /* server.connections or server.dead */
    struct list dirty; /* server.dirty while its output waits to be sent */
    uint32_t interest;
    bool greeted;
    bool stalled; /* its input waits for room in a consumer's output */
    bool confirming;
    uint64_t published; /* the tag of the last publish */
    uint64_t confirmed;
    uint64_t delivered;
    uint8_t *input;
    size_t input_start;
    size_t input_end;
    size_t input_room;
    uint8_t *output;
    size_t output_at;
    size_t output_end;
    size_t output_room;
    struct target route; /* of the exchange and key last published to: */
    uint8_t route_keys[2 * 256];
    size_t route_size;
    uint64_t route_topology;
};

struct server {
    const struct options *options;
    int listener;
    uint16_t port;
    int epoll;
    int signals;
    struct list connections;
    struct list dead;
    struct list dirty;
    struct list queues;
    struct map queues_by_name;
    struct map exchanges_by_name;
    uint64_t topology; /* changes with every declaration */
    uint64_t queued;   /* messages put into queues, for the fault */
    uint64_t backlog_size;
    uint32_t stalled_count;
    bool freed; /* an output has become empty */
};

/* ---- output ---- */

static void set_dirty(struct connection *c)
{
    if (!list_linked(&c->dirty))
        list_append(&c->server->dirty, &c->dirty);
}

static uint8_t *output_take(struct connection *c, size_t size)
{
    if (c->output_room - c->output_end < size) {
        c->output_room = c->output_end + size;
        c->output = memory_resize(c->output, c->output_room, 1);
    }
    uint8_t *at = c->output + c->output_end;
    c->output_end += size;
    set_dirty(c);
    return at;
}

/* Deliveries must leave room; a large one has an empty output to itself. */
static bool output_has_room(const struct connection *c, size_t size)
{
    return c->output_end == 0 || c->output_end + size <= DELIVERY_SIZE;
}

static void set_interest(struct connection *c, uint32_t events)
{
    if (c->interest == events)
        return;
    struct epoll_event event = {.events = events, .data.ptr = c};
    int error = epoll_ctl(c->server->epoll, EPOLL_CTL_MOD, c->fd, &event);
    ASSERT(error == 0);
    c->interest = events;
}

static void update_interest(struct connection *c)
{
    set_interest(c, (c->stalled ? 0 : (uint32_t)EPOLLIN) |
                        (c->output_end > 0 ? (uint32_t)EPOLLOUT : 0));
}

/* ---- queues ---- */

static struct slice copy_slice(struct slice s)
{
    return slice_of(memory_text(s), s.size);
}

static void backlog_append(struct server *s, struct queue *q, struct slice keys,
                           struct slice content)
{
    size_t size = 8 + keys.size + content.size;
    if (q->backlog_room - q->backlog_end < size && q->backlog_start > q->backlog_end / 2) {
        memmove(q->backlog, q->backlog + q->backlog_start, q->backlog_end - q->backlog_start);
        q->backlog_end -= q->backlog_start;
        q->backlog_start = 0;
    }
    if (q->backlog_room - q->backlog_end < size) {
        q->backlog_room = (q->backlog_room + size) * 2;
        q->backlog = memory_resize(q->backlog, q->backlog_room, 1);
    }
    struct writer w = writer_of(q->backlog + q->backlog_end, size);
    write_le32(&w, (uint32_t)keys.size);
    write_le32(&w, (uint32_t)content.size);
    write_bytes(&w, keys);
    write_bytes(&w, content);
    q->backlog_end += size;
    q->backlog_count++;
    s->backlog_size += size;
}

static size_t delivery_size(const struct consumer *consumer, struct slice keys,
                            struct slice content)
{
    return FRAME_OVERHEAD_SIZE + 4 + 1 + consumer->tag.size + 8 + 1 + keys.size + content.size;
}

/* 1.8.3.14 basic.deliver; exchange and routing key stand in it as they stood in the publish. */
static void deliver(const struct consumer *consumer, struct slice keys, struct slice content)
{
    struct connection *c = consumer->connection;
    size_t size = delivery_size(consumer, keys, content);
    uint8_t *at = output_take(c, size);
    uint8_t *tag = at + FRAME_HEAD_SIZE + 4;
    at[0] = FRAME_METHOD;
    store_be16(at + 1, CHANNEL);
    store_be32(at + 3, (uint32_t)(size - content.size - FRAME_OVERHEAD_SIZE));
    store_be32(at + FRAME_HEAD_SIZE, BASIC_DELIVER);
    tag[0] = (uint8_t)consumer->tag.size;
    memcpy(tag + 1, consumer->tag.data, consumer->tag.size);
    at = tag + 1 + consumer->tag.size;
    store_be64(at, ++c->delivered);
    at[8] = 0;
    memcpy(at + 9, keys.data, keys.size);
    at += 9 + keys.size;
    at[0] = FRAME_END;
    memcpy(at + 1, content.data, content.size);
}

/* The next consumer in turn that has room, or NULL. */
static struct consumer *choose_consumer(struct queue *q, struct slice keys, struct slice content)
{
    for (uint32_t i = 0; i < q->consumer_count; i++) {
        if (++q->consumer_next >= q->consumer_count)
            q->consumer_next = 0;
        struct consumer *consumer = &q->consumers[q->consumer_next];
        if (output_has_room(consumer->connection, delivery_size(consumer, keys, content)))
            return consumer;
    }
    return NULL;
}

static void queue_pass(struct server *s, struct queue *q, struct slice keys, struct slice content)
{
    struct consumer *consumer = q->backlog_count ? NULL : choose_consumer(q, keys, content);
    if (consumer)
        deliver(consumer, keys, content);
    else
        backlog_append(s, q, keys, content);
}

static struct slice record_keys(const uint8_t *record)
{
    return slice_of(record + 8, load_le32(record));
}

static struct slice record_content(const uint8_t *record)
{
    return slice_of(record + 8 + load_le32(record), load_le32(record + 4));
}

static void queue_release_held(struct server *s, struct queue *q)
{
    uint8_t *held = q->held;
    q->held = NULL;
    queue_pass(s, q, record_keys(held), record_content(held));
    free(held);
}

static void queue_hold(struct queue *q, struct slice keys, struct slice content)
{
    size_t size = 8 + keys.size + content.size;
    q->held = memory_resize(NULL, size, 1);
    struct writer w = writer_of(q->held, size);
    write_le32(&w, (uint32_t)keys.size);
    write_le32(&w, (uint32_t)content.size);
    write_bytes(&w, keys);
    write_bytes(&w, content);
}

static void queue_put(struct server *s, struct queue *q, struct slice keys, struct slice content)
{
    bool faulty = ++s->queued == s->options->null_fault_at;
    if (faulty && s->options->null_fault == FAULT_DROP)
        return;
    if (faulty && s->options->null_fault == FAULT_REORDER) {
        queue_hold(q, keys, content);
        return;
    }
    queue_pass(s, q, keys, content);
    if (faulty && s->options->null_fault == FAULT_DUPLICATE)
        queue_pass(s, q, keys, content);
    if (q->held)
        queue_release_held(s, q);
}

/* May more be published to it? Without a consumer everything is kept, up to the limit. */
static bool queue_is_open(const struct server *s, const struct queue *q)
{
    if (q->backlog_count || q->consumer_count == 0)
        return s->backlog_size < BACKLOG_MAX && (q->consumer_count == 0 || q->backlog_count == 0);
    for (uint32_t i = 0; i < q->consumer_count; i++) {
        if (output_has_room(q->consumers[i].connection, 0) &&
            q->consumers[i].connection->output_end < DELIVERY_SIZE / 2)
            return true;
    }
    return false;
}

static void queue_drain_backlog(struct server *s, struct queue *q)
{
    while (q->backlog_count) {
        const uint8_t *record = q->backlog + q->backlog_start;
        struct slice keys = record_keys(record);
        struct slice content = record_content(record);
        struct consumer *consumer = choose_consumer(q, keys, content);
        if (!consumer)
            return;
        deliver(consumer, keys, content);
        q->backlog_start += 8 + keys.size + content.size;
        s->backlog_size -= 8 + keys.size + content.size;
        q->backlog_count--;
    }
    q->backlog_start = q->backlog_end = 0;
}

static void queue_drop_consumers(struct queue *q, const struct connection *c)
{
    uint32_t kept = 0;
    for (uint32_t i = 0; i < q->consumer_count; i++) {
        if (q->consumers[i].connection == c)
            free((void *)(uintptr_t)q->consumers[i].tag.data);
        else
            q->consumers[kept++] = q->consumers[i];
    }
    q->consumer_count = kept;
}

static void queue_free(struct server *s, struct queue *q)
{
    s->backlog_size -= q->backlog_end - q->backlog_start;
    for (uint32_t i = 0; i < q->consumer_count; i++)
        free((void *)(uintptr_t)q->consumers[i].tag.data);
    list_remove(&q->link);
    free(q->consumers);
    free(q->backlog);
    free(q->held);
    free((void *)(uintptr_t)q->name.data);
    free(q);
}

/* ---- answers ---- */

struct answer {
    uint8_t bytes[ANSWER_MAX];
    struct writer w;
    size_t begin;
};

static void answer_begin(struct answer *a, uint16_t channel, enum amqp_method method)
{
    a->w = writer_of(a->bytes, sizeof a->bytes);
    a->begin = method_begin(&a->w, channel, method);
}

static void answer_send(struct connection *c, struct answer *a)
{
    frame_end(&a->w, a->begin);
    ASSERT(!a->w.failed);
    memcpy(output_take(c, writer_size(&a->w)), a->bytes, writer_size(&a->w));
}

static void answer_empty(struct connection *c, uint16_t channel, enum amqp_method method)
{
    struct answer a;
    answer_begin(&a, channel, method);
    answer_send(c, &a);
}

static void answer_start(struct connection *c)
{
    struct answer a;
    answer_begin(&a, 0, CONNECTION_START);
    write_u8(&a.w, 0);
    write_u8(&a.w, 9);
    size_t table = table_begin(&a.w);
    write_text_field(&a.w, "product", slice_text("sluice-bench null server"));
    write_text_field(&a.w, "version", slice_text(SLUICE_VERSION));
    table_end(&a.w, table);
    write_long_text(&a.w, slice_text("PLAIN"));
    write_long_text(&a.w, slice_text("en_US"));
    answer_send(c, &a);
}

static void answer_channel_close(struct connection *c, uint16_t code, const char *text,
                                 uint32_t method)
{
    struct answer a;
    answer_begin(&a, CHANNEL, CHANNEL_CLOSE);
    write_be16(&a.w, code);
    write_short_text(&a.w, slice_text(text));
    write_be32(&a.w, method);
    answer_send(c, &a);
}

static void answer_confirms(struct connection *c)
{
    if (!c->confirming || c->confirmed == c->published)
        return;
    struct answer a;
    answer_begin(&a, CHANNEL, BASIC_ACK);
    write_be64(&a.w, c->published);
    write_u8(&a.w, 1);
    answer_send(c, &a);
    c->confirmed = c->published;
}

/* ---- methods: each reads its arguments and answers; a negative code ends the connection ---- */

static int on_start_ok(struct connection *c, struct reader *r)
{
    (void)r;
    struct answer a;
    answer_begin(&a, 0, CONNECTION_TUNE);
    write_be16(&a.w, CHANNEL);
    write_be32(&a.w, FRAME_MAX);
    write_be16(&a.w, 0);
    answer_send(c, &a);
    return 0;
}

static int on_nothing(struct connection *c, struct reader *r)
{
    (void)c;
    (void)r;
    return 0;
}

static int on_open(struct connection *c, struct reader *r)
{
    (void)r;
    struct answer a;
    answer_begin(&a, 0, CONNECTION_OPEN_OK);
    write_u8(&a.w, 0);
    answer_send(c, &a);
    return 0;
}

static int on_connection_close(struct connection *c, struct reader *r)
{
    (void)r;
    answer_empty(c, 0, CONNECTION_CLOSE_OK);
    return 0;
}

static int on_channel_open(struct connection *c, struct reader *r)
{
    (void)r;
    struct answer a;
    answer_begin(&a, CHANNEL, CHANNEL_OPEN_OK);
    write_be32(&a.w, 0);
    answer_send(c, &a);
    return 0;
}

static int on_channel_close(struct connection *c, struct reader *r)
{
    (void)r;
    answer_empty(c, CHANNEL, CHANNEL_CLOSE_OK);
    return 0;
}

static int on_confirm_select(struct connection *c, struct reader *r)
{
    if (!(read_u8(r) & 1))
        answer_empty(c, CHANNEL, CONFIRM_SELECT_OK);
    c->confirming = true;
    return 0;
}

static int on_qos(struct connection *c, struct reader *r)
{
    (void)r;
    answer_empty(c, CHANNEL, BASIC_QOS_OK);
    return 0;
}

static int on_exchange_declare(struct connection *c, struct reader *r)
{
    struct server *s = c->server;
    read_be16(r);
    struct slice name = read_short_text(r);
    struct slice type = read_short_text(r);
    bool no_wait = read_u8(r) & 16;
    if (r->failed || name.size == 0)
        return E_FRAME;
    if (!slice_is(type, "fanout")) {
        answer_channel_close(c, 540, "only fanout exchanges here", EXCHANGE_DECLARE);
        return 0;
    }
    if (!map_get(&s->exchanges_by_name, name)) {
        struct exchange *e = memory_new(sizeof *e);
        e->name = copy_slice(name);
        map_put(&s->exchanges_by_name, e->name, e);
        s->topology++;
    }
    if (!no_wait)
        answer_empty(c, CHANNEL, EXCHANGE_DECLARE_OK);
    return 0;
}

static void exchange_free(struct exchange *e)
{
    free(e->target.bindings);
    free((void *)(uintptr_t)e->name.data);
    free(e);
}

static int on_exchange_delete(struct connection *c, struct reader *r)
{
    read_be16(r);
    struct slice name = read_short_text(r);
    bool no_wait = read_u8(r) & 2;
    if (r->failed || name.size == 0)
        return E_FRAME;
    struct exchange *e = map_remove(&c->server->exchanges_by_name, name);
    if (e)
        exchange_free(e);
    c->server->topology++;
    if (!no_wait)
        answer_empty(c, CHANNEL, EXCHANGE_DELETE_OK);
    return 0;
}

static int on_queue_declare(struct connection *c, struct reader *r)
{
    struct server *s = c->server;
    read_be16(r);
    struct slice name = read_short_text(r);
    uint8_t bits = read_u8(r);
    if (r->failed || name.size == 0)
        return E_FRAME;
    struct queue *q = map_get(&s->queues_by_name, name);
    if (!q && bits & 1) {
        answer_channel_close(c, 404, "no such queue", QUEUE_DECLARE);
        return 0;
    }
    if (!q) {
        q = memory_new(sizeof *q);
        q->name = copy_slice(name);
        list_append(&s->queues, &q->link);
        map_put(&s->queues_by_name, q->name, q);
        s->topology++;
    }
    if (bits & 16)
        return 0;
    struct answer a;
    answer_begin(&a, CHANNEL, QUEUE_DECLARE_OK);
    write_short_text(&a.w, q->name);
    write_be32(&a.w, q->backlog_count);
    write_be32(&a.w, q->consumer_count);
    answer_send(c, &a);
    return 0;
}

static void unbind_everywhere(struct server *s, const struct queue *q)
{
    struct map_cursor cursor = {0};
    for (struct exchange *e; (e = map_next(&s->exchanges_by_name, &cursor));) {
        uint32_t kept = 0;
        for (uint32_t i = 0; i < e->target.count; i++) {
            if (e->target.bindings[i].queue != q)
                e->target.bindings[kept++] = e->target.bindings[i];
        }
        e->target.count = kept;
    }
}

static int on_queue_delete(struct connection *c, struct reader *r)
{
    struct server *s = c->server;
    read_be16(r);
    struct slice name = read_short_text(r);
    bool no_wait = read_u8(r) & 4;
    if (r->failed || name.size == 0)
        return E_FRAME;
    struct queue *q = map_remove(&s->queues_by_name, name);
    uint32_t count = q ? q->backlog_count : 0;
    if (q) {
        unbind_everywhere(s, q);
        queue_free(s, q);
        s->topology++;
    }
    if (no_wait)
        return 0;
    struct answer a;
    answer_begin(&a, CHANNEL, QUEUE_DELETE_OK);
    write_be32(&a.w, count);
    answer_send(c, &a);
    return 0;
}

static int on_queue_bind(struct connection *c, struct reader *r)
{
    struct server *s = c->server;
    read_be16(r);
    struct slice queue_name = read_short_text(r);
    struct slice exchange_name = read_short_text(r);
    read_short_text(r);
    bool no_wait = read_u8(r) & 1;
    if (r->failed || queue_name.size == 0 || exchange_name.size == 0)
        return E_FRAME;
    struct queue *q = map_get(&s->queues_by_name, queue_name);
    struct exchange *e = map_get(&s->exchanges_by_name, exchange_name);
    if (!q || !e) {
        answer_channel_close(c, 404, "no such queue or exchange", QUEUE_BIND);
        return 0;
    }
    struct target *t = &e->target;
    t->bindings = memory_resize(t->bindings, t->count + 1, sizeof *t->bindings);
    t->bindings[t->count++].queue = q;
    s->topology++;
    if (!no_wait)
        answer_empty(c, CHANNEL, QUEUE_BIND_OK);
    return 0;
}

static int on_consume(struct connection *c, struct reader *r)
{
    struct server *s = c->server;
    read_be16(r);
    struct slice name = read_short_text(r);
    struct slice tag = read_short_text(r);
    bool no_wait = read_u8(r) & 8;
    if (r->failed || name.size == 0 || tag.size == 0)
        return E_FRAME;
    struct queue *q = map_get(&s->queues_by_name, name);
    if (!q) {
        answer_channel_close(c, 404, "no such queue", BASIC_CONSUME);
        return 0;
    }
    q->consumers = memory_resize(q->consumers, q->consumer_count + 1, sizeof *q->consumers);
    q->consumers[q->consumer_count++] = (struct consumer){.connection = c, .tag = copy_slice(tag)};
    if (!no_wait) {
        struct answer a;
        answer_begin(&a, CHANNEL, BASIC_CONSUME_OK);
        write_short_text(&a.w, tag);
        answer_send(c, &a);
    }
    s->freed = true; /* the backlog can go */
    return 0;
}

static const struct {
    enum amqp_method method;
    int (*handle)(struct connection *c, struct reader *arguments);
} methods[] = {
    {BASIC_ACK, on_nothing},
    {BASIC_NACK, on_nothing},
    {BASIC_QOS, on_qos},
    {BASIC_CONSUME, on_consume},
    {CONFIRM_SELECT, on_confirm_select},
    {QUEUE_DECLARE, on_queue_declare},
    {QUEUE_DELETE, on_queue_delete},
    {QUEUE_BIND, on_queue_bind},
    {EXCHANGE_DECLARE, on_exchange_declare},
    {EXCHANGE_DELETE, on_exchange_delete},
    {CHANNEL_OPEN, on_channel_open},
    {CHANNEL_CLOSE, on_channel_close},
    {CHANNEL_CLOSE_OK, on_nothing},
    {CONNECTION_START_OK, on_start_ok},
    {CONNECTION_TUNE_OK, on_nothing},
    {CONNECTION_OPEN, on_open},
    {CONNECTION_CLOSE, on_connection_close},
    {CONNECTION_CLOSE_OK, on_nothing},
};

/* ---- publishes ---- */

/* How long the content (header and body frames) at the start of the bytes is. */
static int content_extent(struct slice bytes, size_t *extent)
{
    struct frame frame;
    int error = frame_read(bytes, &frame);
    if (error < 0)
        return error;
    if (frame.type != FRAME_HEADER || frame.payload.size < CONTENT_HEAD_SIZE)
        return E_FRAME;
    uint64_t left = load_be64(frame.payload.data + 4);
    size_t at = frame.size;
    while (left > 0) {
        error = frame_read(slice_of(bytes.data + at, bytes.size - at), &frame);
        if (error < 0)
            return error;
        if (frame.type != FRAME_BODY || frame.payload.size > left || frame.payload.size == 0)
            return E_FRAME;
        left -= frame.payload.size;
        at += frame.size;
    }
    *extent = at;
    return 0;
}

/* Finds where messages with these keys go, unless it is the same as last time. */
static int find_route(struct connection *c, struct slice keys)
{
    struct server *s = c->server;
    if (c->route_topology == s->topology && c->route_size == keys.size &&
        memcmp(c->route_keys, keys.data, keys.size) == 0)
        return 0;
    struct reader r = reader_of(keys);
    struct slice exchange = read_short_text(&r);
    struct slice key = read_short_text(&r);
    if (r.failed || keys.size > sizeof c->route_keys)
        return E_FRAME;
    struct exchange *e = exchange.size ? map_get(&s->exchanges_by_name, exchange) : NULL;
    struct queue *q = !exchange.size && key.size ? map_get(&s->queues_by_name, key) : NULL;
    free(c->route.bindings);
    c->route = (struct target){.count = e ? e->target.count : q != NULL};
    c->route.bindings = memory_resize(NULL, c->route.count, sizeof *c->route.bindings);
    for (uint32_t i = 0; i < c->route.count; i++)
        c->route.bindings[i].queue = e ? e->target.bindings[i].queue : q;
    memcpy(c->route_keys, keys.data, keys.size);
    c->route_size = keys.size;
    c->route_topology = s->topology;
    return 0;
}

/* Takes the publish whose method frame has just been read, and its content. E_ROOM when a consumer
 * has to take something first. */
static int take_publish(struct connection *c, const struct frame *method)
{
    size_t content_at = c->input_start + method->size;
    size_t extent;
    int error = content_extent(slice_of(c->input + content_at, c->input_end - content_at), &extent);
    if (error < 0)
        return error;
    /* after class, method and ticket: exchange and routing key; one byte of bits follows */
    struct slice keys = {method->payload.data + 6, method->payload.size - 7};
    if (method->payload.size < 9)
        return E_FRAME;
    error = find_route(c, keys);
    if (error < 0)
        return error;
    for (uint32_t i = 0; i < c->route.count; i++) {
        if (!queue_is_open(c->server, c->route.bindings[i].queue))
            return E_ROOM;
    }
    for (uint32_t i = 0; i < c->route.count; i++)
        queue_put(c->server, c->route.bindings[i].queue, keys,
                  slice_of(c->input + content_at, extent));
    c->published++;
    c->input_start = content_at + extent;
    return 0;
}

/* ---- input ---- */

static int take_frame(struct connection *c)
{
    struct frame frame;
    int error =
        frame_read(slice_of(c->input + c->input_start, c->input_end - c->input_start), &frame);
    if (error < 0)
        return error;
    struct reader r = reader_of(frame.payload);
    uint32_t method = read_be32(&r);
    if (frame.type == FRAME_METHOD && method == BASIC_PUBLISH)
        return take_publish(c, &frame);
    c->input_start += frame.size;
    if (frame.type == FRAME_HEARTBEAT)
        return 0;
    for (size_t i = 0; frame.type == FRAME_METHOD && i < sizeof methods / sizeof *methods; i++) {
        if ((uint32_t)methods[i].method == method)
            return methods[i].handle(c, &r);
    }
    return E_FRAME;
}

static int take_greeting(struct connection *c)
{
    if (c->input_end - c->input_start < 8)
        return E_MORE;
    if (memcmp(c->input + c->input_start, "AMQP\0\0\x09\x01", 8) != 0)
        return E_FRAME;
    c->input_start += 8;
    c->greeted = true;
    answer_start(c);
    return 0;
}

/* Takes what stands in the input, as far as it goes. E_FRAME ends the connection. */
static int take_input(struct connection *c)
{
    int error = c->greeted ? 0 : take_greeting(c);
    while (error == 0)
        error = take_frame(c);
    answer_confirms(c);
    bool stalled = error == E_ROOM;
    if (stalled != c->stalled)
        c->server->stalled_count += stalled ? 1u : -1u;
    c->stalled = stalled;
    return error == E_MORE || error == E_ROOM ? 0 : error;
}

static int make_input_room(struct connection *c)
{
    if (c->input_start > 0) {
        memmove(c->input, c->input + c->input_start, c->input_end - c->input_start);
        c->input_end -= c->input_start;
        c->input_start = 0;
    }
    if (c->input_end < c->input_room)
        return 0;
    if (c->input_room >= INPUT_SIZE_MAX)
        return E_LIMIT;
    c->input_room *= 2;
    c->input = memory_resize(c->input, c->input_room, 1);
    return 0;
}

static int receive(struct connection *c)
{
    int error = make_input_room(c);
    if (error < 0)
        return error;
    ssize_t got = recv(c->fd, c->input + c->input_end, c->input_room - c->input_end, 0);
    if (got <= 0)
        return got < 0 && (errno == EAGAIN || errno == EINTR) ? 0 : E_CLOSED;
    c->input_end += (size_t)got;
    return take_input(c);
}

/* ---- connections ---- */

static void connection_drop(struct connection *c)
{
    struct server *s = c->server;
    if (c->fd < 0)
        return;
    LIST_EACH (&s->queues, link)
        queue_drop_consumers(CONTAINER_OF(link, struct queue, link), c);
    if (c->stalled)
        s->stalled_count--;
    c->stalled = false;
    close(c->fd);
    c->fd = -1;
    list_remove(&c->dirty);
    list_remove(&c->link);
    list_append(&s->dead, &c->link); /* events of this turn may still name it */
}

static void connection_free(struct connection *c)
{
    list_remove(&c->link);
    free(c->input);
    free(c->output);
    free(c->route.bindings);
    free(c);
}

static void connection_flush(struct connection *c)
{
    while (c->output_at < c->output_end) {
        ssize_t sent =
            send(c->fd, c->output + c->output_at, c->output_end - c->output_at, MSG_NOSIGNAL);
        if (sent < 0 && errno == EINTR)
            continue;
        if (sent < 0) {
            if (errno != EAGAIN)
                connection_drop(c);
            return;
        }
        c->output_at += (size_t)sent;
    }
    c->output_at = c->output_end = 0;
    c->server->freed = true;
}

static void accept_one(struct server *s)
{
    int fd = accept4(s->listener, NULL, NULL, SOCK_NONBLOCK | SOCK_CLOEXEC);
    if (fd < 0)
        return;
    int one = 1;
    setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof one);
    struct connection *c = memory_new(sizeof *c);
    *c = (struct connection){.server = s,
                             .fd = fd,
                             .interest = EPOLLIN,
                             .route_topology = UINT64_MAX,
                             .input_room = INPUT_SIZE,
                             .output_room = OUTPUT_SIZE};
    c->input = memory_resize(NULL, c->input_room, 1);
    c->output = memory_resize(NULL, c->output_room, 1);
    list_init(&c->link);
    list_init(&c->dirty);
    list_append(&s->connections, &c->link);
    struct epoll_event event = {.events = EPOLLIN, .data.ptr = c};
    int error = epoll_ctl(s->epoll, EPOLL_CTL_ADD, fd, &event);
    ASSERT(error == 0);
}

/* ---- the server ---- */

/* Sends what has gathered; whom that gave room goes on. Ends, since each turn needs an output that
 * the kernel took whole. */
static void settle(struct server *s)
{
    while (!list_empty(&s->dirty)) {
        struct list sending;
        list_init(&sending);
        list_move_all(&sending, &s->dirty);
        for (struct list *link; (link = list_take_first(&sending));) {
            struct connection *c = CONTAINER_OF(link, struct connection, dirty);
            connection_flush(c);
            if (c->fd >= 0)
                update_interest(c);
        }
        if (!s->freed)
            continue;
        s->freed = false;
        LIST_EACH (&s->queues, link)
            queue_drain_backlog(s, CONTAINER_OF(link, struct queue, link));
        for (struct list *link = s->connections.next;
             s->stalled_count && link != &s->connections;) {
            struct connection *c = CONTAINER_OF(link, struct connection, link);
            link = link->next;
            if (c->stalled && take_input(c) < 0)
                connection_drop(c);
            else
                update_interest(c);
        }
    }
}

static void handle(struct server *s, const struct epoll_event *event)
{
    struct connection *c = event->data.ptr;
    if (!c) {
        accept_one(s);
        return;
    }
    if (c->fd < 0)
        return;
    if (event->events & EPOLLOUT)
        set_dirty(c);
    if (event->events & ~(uint32_t)EPOLLOUT && !c->stalled) {
        if (receive(c) < 0)
            connection_drop(c);
        else
            update_interest(c);
    } else if (event->events & (EPOLLHUP | EPOLLERR)) {
        connection_drop(c);
    }
}

static void serve(struct server *s)
{
    for (;;) {
        struct epoll_event events[EVENTS_MAX];
        int count = epoll_wait(s->epoll, events, EVENTS_MAX, -1);
        for (int i = 0; i < count; i++) {
            if (events[i].data.ptr == s)
                return; /* a signal */
            handle(s, &events[i]);
        }
        if (s->freed && list_empty(&s->dirty)) {
            LIST_EACH (&s->queues, link)
                queue_drain_backlog(s, CONTAINER_OF(link, struct queue, link));
        }
        settle(s);
        for (struct list *link; (link = list_first(&s->dead));)
            connection_free(CONTAINER_OF(link, struct connection, link));
    }
}

static int listen_on(struct server *s, uint16_t port, struct failure *failure)
{
    struct sockaddr_in address = {
        .sin_family = AF_INET, .sin_port = htons(port), .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t size = sizeof address;
    int one = 1;
    s->listener = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (s->listener < 0 ||
        setsockopt(s->listener, SOL_SOCKET, SO_REUSEADDR, &one, sizeof one) < 0 ||
        bind(s->listener, (struct sockaddr *)&address, sizeof address) < 0 ||
        listen(s->listener, 1024) < 0 ||
        getsockname(s->listener, (struct sockaddr *)&address, &size) < 0)
        return fail(failure, E_HELD, "cannot listen on 127.0.0.1 port %u: %s", port,
                    strerror(errno));
    s->port = ntohs(address.sin_port);
    return 0;
}

static int watch(struct server *s, struct failure *failure)
{
    sigset_t stop;
    sigemptyset(&stop);
    sigaddset(&stop, SIGINT);
    sigaddset(&stop, SIGTERM);
    struct epoll_event listener = {.events = EPOLLIN, .data.ptr = NULL};
    struct epoll_event signals = {.events = EPOLLIN, .data.ptr = s};
    s->epoll = epoll_create1(EPOLL_CLOEXEC);
    s->signals = signalfd(-1, &stop, SFD_CLOEXEC);
    if (s->epoll < 0 || s->signals < 0 || sigprocmask(SIG_BLOCK, &stop, NULL) < 0 ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->listener, &listener) < 0 ||
        epoll_ctl(s->epoll, EPOLL_CTL_ADD, s->signals, &signals) < 0)
        return fail(failure, E_IO, "cannot wait for connections: %s", strerror(errno));
    return 0;
}

static void server_fini(struct server *s)
{
    for (struct list *link; (link = list_first(&s->connections));)
        connection_drop(CONTAINER_OF(link, struct connection, link));
    for (struct list *link; (link = list_first(&s->dead));)
        connection_free(CONTAINER_OF(link, struct connection, link));
    for (struct list *link; (link = list_first(&s->queues));)
        queue_free(s, CONTAINER_OF(link, struct queue, link));
    struct map_cursor cursor = {0};
    for (struct exchange *e; (e = map_next(&s->exchanges_by_name, &cursor));)
        exchange_free(e);
    map_fini(&s->queues_by_name);
    map_fini(&s->exchanges_by_name);
    if (s->listener >= 0)
        close(s->listener);
    if (s->epoll >= 0)
        close(s->epoll);
    if (s->signals >= 0)
        close(s->signals);
}

int null_server_run(const struct options *options, struct failure *failure)
{
    struct server s = {.options = options, .listener = -1, .epoll = -1, .signals = -1};
    list_init(&s.connections);
    list_init(&s.dead);
    list_init(&s.dirty);
    list_init(&s.queues);
    map_init_bytes(&s.queues_by_name, 1);
    map_init_bytes(&s.exchanges_by_name, 2);
    int error = listen_on(&s, options->null_port, failure);
    if (error == 0)
        error = watch(&s, failure);
    if (error == 0) {
        /* whoever reads this may stop it from now on */
        printf("listening on 127.0.0.1:%u\n", s.port);
        fflush(stdout);
        serve(&s);
    }
    server_fini(&s);
    return error;
}
