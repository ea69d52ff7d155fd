#include "message/amqp091_dead_letter.h"

#include "base/memory.h"
#include "message/amqp091_properties.h"

/* What one death adds to the headers at most, besides the CC keys: its table, six texts that are
 * names or reasons, and the names of all these fields. */
#define GROWTH_MAX 4096u

/* ---- reading the history ---- */

/* x-death's values, where the broker wrote it. */
static struct slice deaths_of(const struct message *message, struct slice headers)
{
    struct field field;

    if ((message->flags & MESSAGE_DEAD_LETTER) &&
        fields_find(headers, slice_text("x-death"), &field) && field.type == 'A')
        return field.value.bytes;
    return slice_of(NULL, 0);
}

static bool next_death(struct reader *reader, struct field *death)
{
    while (fields_next_value(reader, death))
        if (death->type == 'F')
            return true;
    return false;
}

static bool is_same_death(const struct field *entry, const struct death *death)
{
    struct slice queue, reason;

    return fields_text(entry->value.bytes, "queue", &queue) && slice_equal(queue, death->queue) &&
           fields_text(entry->value.bytes, "reason", &reason) && slice_is(reason, death->reason);
}

bool amqp091_goes_in_circle(const struct message *message, struct slice queue)
{
    struct slice headers, name, reason;
    struct field death;

    if (!amqp091_properties_headers(message_properties(message), &headers))
        return false;
    struct reader reader = reader_of(deaths_of(message, headers));
    while (next_death(&reader, &death)) {
        if (fields_text(death.value.bytes, "reason", &reason) && slice_is(reason, "rejected"))
            return false;
        if (fields_text(death.value.bytes, "queue", &name) && slice_equal(name, queue))
            return true;
    }
    return false;
}

/* Where it had been published before this death, and with which key. */
static void take_address(struct slice entry, struct message_origin *origin)
{
    struct field keys, first;

    if (!fields_find(entry, slice_text("routing-keys"), &keys) || keys.type != 'A')
        return;
    struct reader reader = reader_of(keys.value.bytes);
    if (!fields_next_value(&reader, &first) || first.type != 'S')
        return;
    origin->key = first.value.bytes;
    (void)fields_text(entry, "exchange", &origin->exchange);
}

bool amqp091_origin(const struct message *message, struct message_origin *origin)
{
    struct slice headers, queue, why, first;
    struct field death;

    if (!(message->flags & MESSAGE_DEAD_LETTER) ||
        !amqp091_properties_headers(message_properties(message), &headers) ||
        !fields_text(headers, "x-first-death-queue", &origin->queue) ||
        !fields_text(headers, "x-first-death-reason", &first) ||
        !fields_text(headers, "x-first-death-exchange", &origin->exchange) ||
        !fields_text(headers, "x-last-death-reason", &origin->reason))
        return false;
    origin->key = message_key(message);
    struct reader reader = reader_of(deaths_of(message, headers));
    while (next_death(&reader, &death)) {
        if (fields_text(death.value.bytes, "queue", &queue) && slice_equal(queue, origin->queue) &&
            fields_text(death.value.bytes, "reason", &why) && slice_equal(why, first))
            take_address(death.value.bytes, origin);
    }
    return origin->queue.size <= MESSAGE_ADDRESS_MAX &&
           origin->exchange.size <= MESSAGE_ADDRESS_MAX && origin->key.size <= MESSAGE_ADDRESS_MAX;
}

/* ---- writing it ---- */

struct rewriting {
    const struct message *message;
    const struct death *death;
    const struct amqp091_properties *old;
    struct writer headers; /* the new ones */
};

static void put_text_value(struct writer *w, struct slice text)
{
    fields_put_value(w, &(struct field){.type = 'S', .value.bytes = text});
}

static void put_routing_keys(struct rewriting *r)
{
    struct writer *w = &r->headers;
    size_t mark = fields_begin(w, "routing-keys", 'A');
    size_t keys_end = writer_size(w) + AMQP091_HISTORY_KEYS_MAX;
    struct field copies, key;

    put_text_value(w, message_key(r->message));
    if (fields_find(r->old->headers, slice_text("CC"), &copies) && copies.type == 'A') {
        struct reader reader = reader_of(copies.value.bytes);
        while (fields_next_value(&reader, &key))
            if (key.type == 'S' && writer_size(w) + 5 + key.value.bytes.size <= keys_end)
                put_text_value(w, key.value.bytes);
    }
    fields_end(w, mark);
}

/* "+060" is 60: RabbitMQ tells the number, not the text. */
static struct slice digits_of(struct slice text)
{
    if (text.size > 1 && (text.data[0] == '+' || text.data[0] == '-'))
        text = slice_of(text.data + 1, text.size - 1);
    while (text.size > 1 && text.data[0] == '0')
        text = slice_of(text.data + 1, text.size - 1);
    return text;
}

static void put_first_of_its_kind(struct rewriting *r)
{
    struct writer *w = &r->headers;
    struct field time = {slice_text("time"), 'T', {.integer = (int64_t)(r->death->at_ms / 1000)}};

    fields_put_integer(w, "count", 1);
    if (r->old->flags & AMQP091_EXPIRATION)
        fields_put_text(w, "original-expiration", digits_of(r->old->expiration));
    fields_put_text(w, "reason", slice_text(r->death->reason));
    fields_put_text(w, "queue", r->death->queue);
    fields_put(w, &time);
    fields_put_text(w, "exchange", message_exchange(r->message));
    put_routing_keys(r);
}

static void put_once_more(struct writer *w, struct slice entry)
{
    struct reader reader = reader_of(entry);
    struct field field;
    int64_t count = 0;

    (void)fields_integer(entry, "count", &count);
    fields_put_integer(w, "count", count < INT64_MAX ? count + 1 : count);
    while (fields_next(&reader, &field))
        if (!slice_is(field.name, "count"))
            fields_put(w, &field);
}

/* This death, and the others behind it as far as there is room. */
static void put_history(struct rewriting *r, struct slice deaths)
{
    struct writer *w = &r->headers;
    struct reader reader = reader_of(deaths);
    struct field each, same = {.type = 0};

    size_t array = fields_begin(w, "x-death", 'A');
    size_t end = writer_size(w) + AMQP091_HISTORY_MAX;
    while (same.type == 0 && next_death(&reader, &each))
        if (is_same_death(&each, r->death))
            same = each;
    size_t table = fields_begin(w, NULL, 'F');
    if (same.type)
        put_once_more(w, same.value.bytes);
    else
        put_first_of_its_kind(r);
    fields_end(w, table);
    reader = reader_of(deaths);
    while (next_death(&reader, &each) && writer_size(w) + 5 + each.value.bytes.size <= end)
        if (!is_same_death(&each, r->death))
            fields_put_value(w, &each);
    fields_end(w, array);
}

static void put_summary(struct rewriting *r, const char *queue, const char *reason,
                        const char *exchange)
{
    fields_put_text(&r->headers, queue, r->death->queue);
    fields_put_text(&r->headers, reason, slice_text(r->death->reason));
    fields_put_text(&r->headers, exchange, message_exchange(r->message));
}

static bool is_kept(const struct rewriting *r, struct slice name)
{
    if (slice_is(name, "BCC"))
        return false;
    if (slice_is(name, "CC"))
        return !r->death->key.data;
    if (slice_is(name, "x-death") || slice_is(name, "x-last-death-queue") ||
        slice_is(name, "x-last-death-reason") || slice_is(name, "x-last-death-exchange"))
        return false;
    if (slice_is(name, "x-first-death-queue") || slice_is(name, "x-first-death-reason") ||
        slice_is(name, "x-first-death-exchange"))
        return r->message->flags & MESSAGE_DEAD_LETTER;
    return true;
}

static void put_headers(struct rewriting *r)
{
    struct reader reader = reader_of(r->old->headers);
    struct field field;

    for (const uint8_t *from = reader.at; fields_next(&reader, &field); from = reader.at)
        if (is_kept(r, field.name))
            write_bytes(&r->headers, slice_of(from, (size_t)(reader.at - from)));
    if (!(r->message->flags & MESSAGE_DEAD_LETTER))
        put_summary(r, "x-first-death-queue", "x-first-death-reason", "x-first-death-exchange");
    put_summary(r, "x-last-death-queue", "x-last-death-reason", "x-last-death-exchange");
    put_history(r, deaths_of(r->message, r->old->headers));
}

/* ---- the new message ---- */

static struct message_parts parts_of(const struct message *message, const struct death *death)
{
    return (struct message_parts){
        .format = message->format,
        .flags = message->flags,
        .priority = message->priority,
        .exchange = death->exchange,
        .key = death->key.data ? death->key : message_key(message),
        .properties = message_properties(message),
        .body = message_body(message),
        .body_buffer = message->body,
        .published_at_ms = death->at_ms,
    };
}

/* With the headers that were written. */
static struct message *make(struct account *account, const struct rewriting *r)
{
    struct message_parts parts = parts_of(r->message, r->death);
    struct amqp091_properties new = *r->old;

    new.flags = (uint16_t)((new.flags | AMQP091_HEADERS) & ~AMQP091_EXPIRATION);
    new.headers = slice_of(r->headers.start, writer_size(&r->headers));
    parts.flags |= MESSAGE_DEAD_LETTER;
    parts.properties = slice_of(NULL, amqp091_properties_size(&new));
    if (parts.properties.size > MESSAGE_PROPERTIES_MAX)
        return NULL;
    struct message *dead = message_new(account, &parts);
    if (dead) {
        struct writer w = writer_of(message_properties_to_fill(dead), parts.properties.size);
        amqp091_properties_write(&w, &new);
        ASSERT(!w.failed && writer_size(&w) == parts.properties.size);
    }
    return dead;
}

static bool is_whole(struct slice table)
{
    struct reader reader = reader_of(table);
    struct field field;

    while (fields_next(&reader, &field))
        ;
    return !reader.failed;
}

struct message *amqp091_dead_letter(struct account *account, const struct message *message,
                                    const struct death *death)
{
    struct amqp091_properties old;

    ASSERT(death->queue.size <= MESSAGE_ADDRESS_MAX && strlen(death->reason) <= FIELD_NAME_MAX);
    /* clients choose these two with the arguments of a queue, where texts are long */
    if (death->exchange.size > MESSAGE_ADDRESS_MAX || death->key.size > MESSAGE_ADDRESS_MAX)
        return NULL;
    if (amqp091_properties_parse(message_properties(message), &old) || !is_whole(old.headers)) {
        struct message_parts parts = parts_of(message, death);
        return message_new(account, &parts);
    }
    /* CC keys are there once more, and a history is never larger than it was and the new death. */
    size_t size = 2 * old.headers.size + GROWTH_MAX;
    if (account_charge(account, size) != 0)
        return NULL;
    struct message *dead = NULL;
    uint8_t *memory = stock_take(account->stock, size);
    if (memory) {
        struct rewriting r = {message, death, &old, writer_of(memory, size)};
        put_headers(&r);
        ASSERT(!r.headers.failed);
        dead = make(account, &r);
        stock_give(account->stock, memory, size);
    }
    account_release(account, size);
    return dead;
}
