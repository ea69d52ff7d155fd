/*
 * A message with arbitrary properties dies again and again. Each dead letter is compared with what
 * it was made of, and its history, where it began here, with a list kept beside it.
 *
 *   bytes   field
 *   1       bit 0: it says that its history is the broker's; bit 1: its body is a buffer of its own
 *   1       number of deaths, modulo DEATHS_MAX + 1
 *   each 1  a death: bits 0-1 the queue, 2-3 the reason, 4-5 the key
 *   ...     the properties
 */
#include "base/assert.h"
#include "message/amqp091_dead_letter.h"
#include "message/amqp091_properties.h"

#include <stdlib.h>

#define DEATHS_MAX 24u
#define QUEUES     4u

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static const char *const reasons[] = {"rejected", "expired", "maxlen", "delivery_limit"};
static const uint8_t longest[MESSAGE_ADDRESS_MAX];

static struct slice queue_name(unsigned which)
{
    const struct slice names[QUEUES] = {slice_text("q"), slice_text("r"), slice_text(""),
                                        slice_of(longest, sizeof longest)};
    return names[which % QUEUES];
}

static struct death death_of(uint8_t byte, uint64_t number)
{
    const struct slice keys[4] = {slice_of(NULL, 0), slice_text("key"), slice_text(""),
                                  slice_of(longest, sizeof longest)};
    return (struct death){
        .queue = queue_name(byte & 3u),
        .reason = reasons[byte >> 2 & 3],
        .at_ms = number * 1000,
        .exchange = slice_text("dlx"),
        .key = keys[byte >> 4 & 3],
    };
}

/* ---- what the history must be: queue and reason in the low four bits, the newest first ---- */

struct model {
    bool is_known; /* false: it began before the message came here, or some of it is forgotten */
    uint8_t deaths[16];
    size_t count;
    int64_t times[16]; /* by queue and reason */
};

static void model_die(struct model *model, uint8_t byte)
{
    uint8_t death = byte & 15;
    size_t at = 0;

    while (at < model->count && model->deaths[at] != death)
        at++;
    if (at == model->count)
        model->count++;
    memmove(model->deaths + 1, model->deaths, at);
    model->deaths[0] = death;
    model->times[death]++;
}

static bool model_goes_in_circle(const struct model *model, unsigned queue)
{
    for (size_t at = 0; at < model->count && model->deaths[at] >> 2 != 0; at++)
        if ((model->deaths[at] & 3u) == queue)
            return true;
    return false;
}

/* ---- looking at a dead letter ---- */

static bool is_whole(struct slice table)
{
    struct reader reader = reader_of(table);
    struct field field;

    while (fields_next(&reader, &field))
        ;
    return !reader.failed;
}

/* May dead_letter() take it away or write it anew? */
static bool is_touched(struct slice name)
{
    static const char *const names[] = {
        "CC",
        "BCC",
        "x-death",
        "x-first-death-queue",
        "x-first-death-reason",
        "x-first-death-exchange",
        "x-last-death-queue",
        "x-last-death-reason",
        "x-last-death-exchange",
    };
    for (size_t i = 0; i < sizeof names / sizeof *names; i++)
        if (slice_is(name, names[i]))
            return true;
    return false;
}

/* The next field that dead_letter() has to leave alone, as bytes; empty at the end. */
static struct slice next_untouched(struct reader *reader)
{
    struct field field;

    for (const uint8_t *from = reader->at; fields_next(reader, &field); from = reader->at)
        if (!is_touched(field.name))
            return slice_of(from, (size_t)(reader->at - from));
    return slice_of(NULL, 0);
}

static void compare_headers(struct slice before, struct slice after)
{
    struct reader b = reader_of(before), a = reader_of(after);
    struct slice field;
    struct failure failure;

    do {
        field = next_untouched(&b);
        ASSERT(slice_equal(field, next_untouched(&a)));
    } while (field.size > 0);
    ASSERT(is_whole(after));
    ASSERT(fields_check(before, &failure) != 0 || fields_check(after, &failure) == 0);
}

static void compare_properties(const struct amqp091_properties *before,
                               const struct amqp091_properties *after)
{
    ASSERT(after->flags == ((before->flags | AMQP091_HEADERS) & ~AMQP091_EXPIRATION));
    ASSERT(before->delivery_mode == after->delivery_mode && before->priority == after->priority);
    ASSERT(before->timestamp == after->timestamp);
    ASSERT(slice_equal(before->content_type, after->content_type));
    ASSERT(slice_equal(before->content_encoding, after->content_encoding));
    ASSERT(slice_equal(before->correlation_id, after->correlation_id));
    ASSERT(slice_equal(before->reply_to, after->reply_to));
    ASSERT(slice_equal(before->message_id, after->message_id));
    ASSERT(slice_equal(before->type, after->type));
    ASSERT(slice_equal(before->user_id, after->user_id));
    ASSERT(slice_equal(before->app_id, after->app_id));
    ASSERT(slice_equal(before->cluster_id, after->cluster_id));
    compare_headers(before->headers, after->headers);
}

static bool is_death(const struct field *entry, const struct death *death)
{
    struct slice queue, reason;

    ASSERT(entry->type == 'F');
    return fields_text(entry->value.bytes, "queue", &queue) && slice_equal(queue, death->queue) &&
           fields_text(entry->value.bytes, "reason", &reason) && slice_is(reason, death->reason);
}

/* This death once, at the head, and how often it happened. The number of entries. */
static size_t check_history(struct slice headers, const struct death *death, int64_t *times)
{
    struct field history, entry;
    struct slice name;
    size_t count = 0, head_size = 0;

    ASSERT(fields_text(headers, "x-last-death-queue", &name) && slice_equal(name, death->queue));
    ASSERT(fields_text(headers, "x-last-death-reason", &name) && slice_is(name, death->reason));
    ASSERT(fields_find(headers, slice_text("x-death"), &history) && history.type == 'A');
    struct reader reader = reader_of(history.value.bytes);
    for (; fields_next_value(&reader, &entry); count++) {
        ASSERT(is_death(&entry, death) == (count == 0));
        if (count == 0) {
            head_size = 5 + entry.value.bytes.size;
            ASSERT(fields_integer(entry.value.bytes, "count", times));
        }
    }
    ASSERT(!reader.failed && count > 0);
    ASSERT(history.value.bytes.size <= AMQP091_HISTORY_MAX || count == 1);
    ASSERT(head_size <= history.value.bytes.size);
    return count;
}

static void compare_with_model(const struct message *after, struct model *model, size_t count,
                               int64_t times)
{
    if (count < model->count)
        model->is_known = false;
    if (!model->is_known)
        return;
    ASSERT(count == model->count && times == model->times[model->deaths[0]]);
    for (unsigned queue = 0; queue < QUEUES; queue++)
        ASSERT(amqp091_goes_in_circle(after, queue_name(queue)) ==
               model_goes_in_circle(model, queue));
}

static void look_at(const struct message *before, const struct message *after,
                    const struct death *death, struct model *model)
{
    struct message_origin origin;
    struct amqp091_properties old, new;
    struct field field;
    int64_t times = 0;

    ASSERT(after->expires_at_ms == 0 && after->published_at_ms == death->at_ms);
    ASSERT(after->body == before->body);
    ASSERT(slice_equal(message_body(after), message_body(before)));
    ASSERT(slice_equal(message_exchange(after), death->exchange));
    ASSERT(slice_equal(message_key(after), death->key.data ? death->key : message_key(before)));
    if (amqp091_properties_parse(message_properties(before), &old) != 0 || !is_whole(old.headers)) {
        ASSERT(slice_equal(message_properties(after), message_properties(before)));
        ASSERT(after->flags == before->flags);
        return;
    }
    ASSERT(after->flags == (before->flags | MESSAGE_DEAD_LETTER));
    ASSERT(amqp091_properties_parse(message_properties(after), &new) == 0);
    compare_properties(&old, &new);
    ASSERT(!fields_find(new.headers, slice_text("BCC"), &field));
    ASSERT(!death->key.data || !fields_find(new.headers, slice_text("CC"), &field));
    size_t count = check_history(new.headers, death, &times);
    compare_with_model(after, model, count, times);
    bool has_origin = amqp091_origin(after, &origin);
    ASSERT(has_origin || !model->is_known);
    ASSERT(!has_origin || slice_is(origin.reason, death->reason));
    ASSERT(!has_origin || !model->is_known || slice_is(origin.exchange, "in"));
}

static struct message *message_of(struct account *account, uint8_t bits, struct slice properties)
{
    static const uint8_t body[MESSAGE_INLINE_MAX + 1];

    return message_new(account, &(struct message_parts){
                                    .format = FORMAT_AMQP091,
                                    .flags = bits & 1 ? MESSAGE_DEAD_LETTER : 0,
                                    .exchange = slice_text("in"),
                                    .key = slice_text("k"),
                                    .properties = properties,
                                    .body = slice_of(body, bits & 2 ? sizeof body : 3),
                                    .expires_at_ms = 1,
                                });
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct reader input = reader_of(slice_of(data, size));
    uint8_t bits = read_u8(&input);
    struct slice deaths = read_bytes(&input, read_u8(&input) % (DEATHS_MAX + 1));
    struct account account;
    struct model model = {.is_known = !(bits & 1)};

    if (input.failed)
        return 0;
    account_init(&account, NULL, 1 << 20);
    struct message *m = message_of(&account, bits, read_bytes(&input, reader_left(&input)));
    ASSERT(!m || !model.is_known || !amqp091_goes_in_circle(m, queue_name(0)));
    for (size_t i = 0; m && i < deaths.size; i++) {
        struct death death = death_of(deaths.data[i], i);
        model_die(&model, deaths.data[i]);
        struct message *dead = amqp091_dead_letter(&account, m, &death);
        if (dead)
            look_at(m, dead, &death, &model);
        message_unref(m);
        m = dead;
        ASSERT(account.used == (m ? message_footprint(m) : 0));
    }
    if (m)
        message_unref(m);
    account_fini(&account);
    return 0;
}
