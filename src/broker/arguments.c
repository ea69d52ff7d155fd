#include "broker/arguments.h"

#include "base/assert.h"
#include "message/message.h"

#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

#define PRIORITY_MAX           255
#define DELIVERY_LIMIT         20 /* of a quorum queue that says nothing */
#define STREAM_SEGMENT_MAX     3000000000
#define STREAM_FILTER_SIZE_MIN 16
#define STREAM_FILTER_SIZE_MAX 255

enum { CLASSIC = 1 << QUEUE_CLASSIC, QUORUM = 1 << QUEUE_QUORUM, STREAM = 1 << QUEUE_STREAM };

static const char *const type_names[QUEUE_TYPES] = {"classic", "quorum", "stream"};

const char *queue_type_name(enum queue_type type)
{
    ASSERT(type < QUEUE_TYPES);
    return type_names[type];
}

static const char *const queue_overflow_words[] = {
    [OVERFLOW_DROP_OLDEST] = "drop-head",
    [OVERFLOW_REFUSE] = "reject-publish",
    [OVERFLOW_REFUSE_AND_BURY] = "reject-publish-dlx",
};

bool queue_overflow_parse(struct slice word, enum queue_overflow *overflow)
{
    for (unsigned i = 0; i < COUNT(queue_overflow_words); i++) {
        if (slice_is(word, queue_overflow_words[i])) {
            *overflow = (enum queue_overflow)i;
            return true;
        }
    }
    return false;
}

/* One argument of one declaration. */
struct checking {
    struct slice arguments;
    const char *name; /* of the argument */
    const char *queue_name, *vhost;
    struct failure *failure;
    union {
        struct queue_settings *queue;
        struct consumer_settings *consumer;
    } settings;
};

typedef int check_argument(const struct checking *checking, const struct field *field);

/* ---- what is wrong with an argument ---- */

static int refuse(const struct checking *checking, const char *format, ...) PRINTF_LIKE(2, 3);

static int refuse(const struct checking *checking, const char *format, ...)
{
    char cause[160];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(cause, sizeof cause, format, arguments);
    va_end(arguments);
    return fail(checking->failure, E_INVALID, "invalid arg '%s' for queue '%s' in vhost '%s': %s",
                checking->name, checking->queue_name, checking->vhost, cause);
}

static int refuse_type(const struct checking *checking, const struct field *field)
{
    return refuse(checking, "{unacceptable_type,%s}", field_type_name(field));
}

static int refuse_number(const struct checking *checking, const char *why,
                         const struct field *field)
{
    return refuse(checking, "{%s,%" PRId64 "}", why, field->value.integer);
}

/* ---- kinds of values ---- */

static int check_integer(const struct checking *checking, const struct field *field)
{
    if (!field_is_integer(field))
        return refuse(checking, "\"expected integer, got %s\"", field_type_name(field));
    return 0;
}

static int check_not_negative(const struct checking *checking, const struct field *field)
{
    int result = check_integer(checking, field);

    if (result == 0 && field->value.integer < 0)
        return refuse_number(checking, "value_negative", field);
    return result;
}

static int check_positive(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0 && field->value.integer == 0)
        return refuse_number(checking, "value_zero", field);
    return result;
}

static int check_period(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0 && field->value.integer > ARGUMENT_MS_MAX)
        return refuse_number(checking, "value_too_large", field);
    return result;
}

/* *index: which of the words it is; NULL: nobody wants to know. */
static int check_one_of(const struct checking *checking, const struct field *field,
                        const char *const *words, unsigned count, const char *why, unsigned *index)
{
    if (field->type != 'S')
        return refuse_type(checking, field);
    for (unsigned i = 0; i < count; i++) {
        if (!slice_is(field->value.bytes, words[i]))
            continue;
        if (index)
            *index = i;
        return 0;
    }
    return refuse(checking, "%s", why);
}

static int check_anything(const struct checking *checking, const struct field *field)
{
    (void)checking;
    (void)field;
    return 0;
}

/* ---- single arguments ---- */

static int check_expires(const struct checking *checking, const struct field *field)
{
    int result = check_integer(checking, field);

    if (result == 0 && field->value.integer == 0)
        return refuse_number(checking, "value_zero", field);
    if (result == 0)
        result = check_period(checking, field);
    if (result == 0)
        checking->settings.queue->expires_ms = (uint64_t)field->value.integer;
    return result;
}

static int check_message_ttl(const struct checking *checking, const struct field *field)
{
    int result = check_period(checking, field);

    if (result == 0)
        checking->settings.queue->message_ttl_ms = field->value.integer;
    return result;
}

static int check_length(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0)
        checking->settings.queue->length_max = field->value.integer;
    return result;
}

static int check_length_bytes(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0)
        checking->settings.queue->length_bytes_max = field->value.integer;
    return result;
}

static int check_priority(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0 && field->value.integer > PRIORITY_MAX)
        return refuse_number(checking, "max_value_exceeded", field);
    if (result == 0)
        checking->settings.queue->priority_max = (uint8_t)field->value.integer;
    return result;
}

static int check_queue_version(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    /* version 1 is gone from RabbitMQ; here both are the same, so old programs may go on */
    if (result == 0 && field->value.integer != 1 && field->value.integer != 2)
        return refuse(checking, "\"unsupported queue version '%" PRId64 "'\"",
                      field->value.integer);
    return result;
}

static int check_overflow(const struct checking *checking, const struct field *field)
{
    struct queue_settings *settings = checking->settings.queue;
    unsigned count = settings->type == QUEUE_QUORUM ? 2 : COUNT(queue_overflow_words);
    unsigned index;

    int result =
        check_one_of(checking, field, queue_overflow_words, count, "invalid_overflow", &index);
    if (result == 0) {
        settings->overflow = (enum queue_overflow)index;
        settings->says_overflow = true;
    }
    return result;
}

/* One that is longer could be in no message. */
static int check_address(const struct checking *checking, const struct field *field)
{
    if (field->value.bytes.size > MESSAGE_ADDRESS_MAX)
        return refuse(checking, "{value_too_long,%zu}", field->value.bytes.size);
    return 0;
}

static int check_dead_letter_exchange(const struct checking *checking, const struct field *field)
{
    if (field->type != 'S')
        return fail(checking->failure, E_INVALID,
                    "invalid type '%s' for arg '%s' in queue '%s' in vhost '%s'",
                    field_type_name(field), checking->name, checking->queue_name, checking->vhost);
    checking->settings.queue->dead_letter_exchange = field->value.bytes;
    return check_address(checking, field);
}

static int check_dead_letter_key(const struct checking *checking, const struct field *field)
{
    if (field->type != 'S')
        return refuse_type(checking, field);
    if (!queue_dead_letters(checking->settings.queue))
        return refuse(checking, "routing_key_but_no_dlx_defined");
    checking->settings.queue->dead_letter_key = field->value.bytes;
    return check_address(checking, field);
}

static int check_dead_letter_strategy(const struct checking *checking, const struct field *field)
{
    static const char *const words[] = {"at-most-once", "at-least-once"};
    return check_one_of(checking, field, words, COUNT(words), "invalid_dlx_strategy", NULL);
}

static int check_leader_locator(const struct checking *checking, const struct field *field)
{
    static const char *const words[] = {"client-local", "balanced", "random", "least-leaders",
                                        "min-masters"};
    return check_one_of(checking, field, words, COUNT(words), "invalid_queue_locator_arg", NULL);
}

static int check_retry_type(const struct checking *checking, const struct field *field)
{
    enum { DISABLED, ALL, FAILED, RETURNED };
    static const char *const words[] = {"disabled", "all", "failed", "returned"};
    struct queue_retry *retry = &checking->settings.queue->retry;
    unsigned word = DISABLED;

    int result =
        check_one_of(checking, field, words, COUNT(words), "invalid_delayed_retry_type", &word);
    retry->counted = word == ALL || word == FAILED;
    retry->uncounted = word == ALL || word == RETURNED;
    return result;
}

/* Without a longest one, the shortest is that, too. */
static int check_retry_min(const struct checking *checking, const struct field *field)
{
    struct queue_retry *retry = &checking->settings.queue->retry;
    int result = check_period(checking, field);

    if (result == 0)
        retry->min_ms = retry->max_ms = (uint64_t)field->value.integer;
    return result;
}

static int check_retry_max(const struct checking *checking, const struct field *field)
{
    int result = check_period(checking, field);

    if (result == 0)
        checking->settings.queue->retry.max_ms = (uint64_t)field->value.integer;
    return result;
}

static int check_retry_backoff(const struct checking *checking, const struct field *field)
{
    static const char *const words[] = {"linear", "exponential"};
    unsigned word = 0;

    int result = check_one_of(checking, field, words, COUNT(words), "invalid_backoff", &word);
    checking->settings.queue->retry.doubles = word == 1;
    return result;
}

static int check_retry_jitter(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0 && field->value.integer > 100)
        return refuse_number(checking, "value_too_large", field);
    if (result == 0)
        checking->settings.queue->retry.less_percent = (uint8_t)field->value.integer;
    return result;
}

/* Where there are steps, the longest of them is long enough. */
static int check_retry_steps(const struct checking *checking, const struct field *field)
{
    struct queue_retry *retry = &checking->settings.queue->retry;
    struct reader values;
    struct field step;
    int result = 0;

    if (field->type != 'A')
        return refuse_type(checking, field);
    values = reader_of(field->value.bytes);
    retry->max_ms = 0;
    while (result == 0 && fields_next_value(&values, &step)) {
        result = check_period(checking, &step);
        if (result == 0 && retry->steps == QUEUE_RETRY_STEPS_MAX)
            return refuse(checking, "\"more than %u steps\"", QUEUE_RETRY_STEPS_MAX);
        if (result != 0)
            break;
        retry->steps_ms[retry->steps] = (uint64_t)step.value.integer;
        if (retry->steps_ms[retry->steps] > retry->max_ms)
            retry->max_ms = retry->steps_ms[retry->steps];
        retry->steps++;
    }
    return result;
}

static int check_single_active(const struct checking *checking, const struct field *field)
{
    if (field->type != 't')
        return refuse_type(checking, field);
    checking->settings.queue->single_active_consumer = field->value.boolean;
    return 0;
}

static int check_delivery_limit(const struct checking *checking, const struct field *field)
{
    int result = check_integer(checking, field);

    if (result == 0) {
        checking->settings.queue->delivery_limit =
            field->value.integer < 0 ? -1 : field->value.integer;
        checking->settings.queue->says_delivery_limit = true;
    }
    return result;
}

static int check_consumer_timeout(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0)
        checking->settings.queue->consumer_timeout_ms = field->value.integer;
    return result;
}

static bool is_unit(uint8_t byte)
{
    return byte != 0 && strchr("YMDhms", byte);
}

/* A number above 0 and one of the units. */
static int check_max_age(const struct checking *checking, const struct field *field)
{
    struct slice text = field->value.bytes;
    bool is_positive = false;
    size_t at = 0;

    if (field->type != 'S')
        return refuse_type(checking, field);
    for (; at < text.size && text.data[at] >= '0' && text.data[at] <= '9'; at++)
        is_positive |= text.data[at] != '0';
    if (!is_positive || at + 1 != text.size || !is_unit(text.data[at]))
        return refuse(checking, "invalid_max_age");
    return 0;
}

static int check_segment_size(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0 && field->value.integer > STREAM_SEGMENT_MAX)
        return fail(checking->failure, E_INVALID,
                    "Exceeded max value for x-stream-max-segment-size-bytes");
    return result;
}

static int check_filter_size(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0 && (field->value.integer < STREAM_FILTER_SIZE_MIN ||
                        field->value.integer > STREAM_FILTER_SIZE_MAX))
        return fail(checking->failure, E_INVALID, "Invalid value for x-stream-filter-size-bytes");
    return result;
}

/* ---- the arguments of queues ---- */

/* In the order in which they are checked: a dead letter key after its exchange. */
static const struct {
    const char *name;
    unsigned types; /* of queues that have it */
    check_argument *check;
} queue_arguments[] = {
    {"x-expires", CLASSIC | QUORUM, check_expires},
    {"x-message-ttl", CLASSIC | QUORUM, check_message_ttl},
    {"x-dead-letter-exchange", CLASSIC | QUORUM, check_dead_letter_exchange},
    {"x-dead-letter-routing-key", CLASSIC | QUORUM, check_dead_letter_key},
    {"x-dead-letter-strategy", QUORUM, check_dead_letter_strategy},
    {"x-max-length", CLASSIC | QUORUM, check_length},
    {"x-max-length-bytes", CLASSIC | QUORUM | STREAM, check_length_bytes},
    {"x-max-in-memory-length", QUORUM, check_not_negative},
    {"x-max-in-memory-bytes", QUORUM, check_not_negative},
    {"x-max-priority", CLASSIC, check_priority},
    {"x-overflow", CLASSIC | QUORUM, check_overflow},
    {"x-queue-mode", CLASSIC, check_anything},
    {"x-queue-version", CLASSIC, check_queue_version},
    {"x-queue-master-locator", CLASSIC, check_anything},
    {"x-queue-leader-locator", CLASSIC | QUORUM | STREAM, check_leader_locator},
    {"x-single-active-consumer", CLASSIC | QUORUM, check_single_active},
    {"x-consumer-timeout", CLASSIC | QUORUM, check_consumer_timeout}, /* ours on classic, too */
    {"x-consumer-disconnected-timeout", QUORUM, check_not_negative},
    {"x-quorum-initial-group-size", QUORUM, check_positive},
    {"x-delivery-limit", QUORUM, check_delivery_limit},
    {"x-delayed-retry-type", QUORUM, check_retry_type},
    {"x-delayed-retry-min", QUORUM, check_retry_min},
    {"x-delayed-retry-backoff", QUORUM, check_retry_backoff}, /* this and the next two: ours */
    {"x-delayed-retry-jitter", QUORUM, check_retry_jitter},
    {"x-delayed-retry-steps", QUORUM, check_retry_steps},
    {"x-delayed-retry-max", QUORUM, check_retry_max}, /* after those that say another one */
    {"x-max-age", STREAM, check_max_age},
    {"x-stream-max-segment-size-bytes", STREAM, check_segment_size},
    {"x-stream-filter-size-bytes", STREAM, check_filter_size},
    {"x-initial-cluster-size", STREAM, check_positive},
};

static bool find(struct slice arguments, const char *name, struct field *field)
{
    return fields_find(arguments, slice_text(name), field);
}

/* Some clients send "" or "undefined" for "I do not care". */
static int check_queue_type(struct checking *checking, enum queue_type *type)
{
    struct field field;
    char text[64];

    *type = QUEUE_CLASSIC;
    checking->name = "x-queue-type";
    if (!find(checking->arguments, checking->name, &field))
        return 0;
    if (field.type != 'S')
        return refuse_type(checking, &field);
    if (field.value.bytes.size == 0 || slice_is(field.value.bytes, "undefined"))
        return 0;
    for (unsigned i = 0; i < QUEUE_TYPES; i++) {
        if (slice_is(field.value.bytes, type_names[i])) {
            *type = (enum queue_type)i;
            return 0;
        }
    }
    return refuse(checking, "\"unsupported queue type '%s'\"",
                  field_value_text(&field, text, sizeof text));
}

static int refuse_foreign(const struct checking *checking, enum queue_type type)
{
    return fail(checking->failure, E_INVALID,
                "invalid arg '%s' for queue '%s' in vhost '%s' of queue type %s", checking->name,
                checking->queue_name, checking->vhost, type_names[type]);
}

int queue_arguments_check(struct slice arguments, const char *queue_name, const char *vhost,
                          struct queue_settings *settings, struct failure *failure)
{
    struct checking checking = {
        .arguments = arguments,
        .queue_name = queue_name,
        .vhost = vhost,
        .failure = failure,
        .settings.queue = settings,
    };
    struct field field;

    *settings = (struct queue_settings){
        .message_ttl_ms = -1,
        .length_max = -1,
        .length_bytes_max = -1,
        .delivery_limit = -1,
        .consumer_timeout_ms = -1,
    };
    if (arguments.size == 0)
        return 0;
    int result = check_queue_type(&checking, &settings->type);
    if (settings->type == QUEUE_QUORUM)
        settings->delivery_limit = DELIVERY_LIMIT;
    for (size_t i = 0; i < COUNT(queue_arguments) && result == 0; i++) {
        checking.name = queue_arguments[i].name;
        if (!find(arguments, checking.name, &field))
            continue;
        result = queue_arguments[i].types & (1u << settings->type)
                     ? queue_arguments[i].check(&checking, &field)
                     : refuse_foreign(&checking, settings->type);
    }
    return result;
}

int queue_properties_check(enum queue_type type, bool durable, bool exclusive, bool auto_delete,
                           const char *queue_name, const char *vhost, struct failure *failure)
{
    if (type == QUEUE_CLASSIC || (durable && !exclusive && !auto_delete))
        return 0;
    return fail(failure, E_INVALID, "invalid property '%s' for queue '%s' in vhost '%s'",
                auto_delete ? "auto-delete"
                : exclusive ? "exclusive-owner"
                            : "non-durable",
                queue_name, vhost);
}

/* ---- the same again? ---- */

/* Values count, their types only as far as they make the values different. */
static bool value_equal(const struct field *a, const struct field *b)
{
    bool a_is_bytes = a->type == 'S' || a->type == 'x',
         b_is_bytes = b->type == 'S' || b->type == 'x';

    if (a_is_bytes && b_is_bytes)
        return slice_equal(a->value.bytes, b->value.bytes);
    return field_equal(a, b);
}

struct comparison {
    struct slice current, received;
    const char *kind, *name, *vhost;
    struct failure *failure;
};

static int mismatch(const struct comparison *c, const char *argument, const char *received,
                    const char *current)
{
    return fail(c->failure, E_MISMATCH,
                "inequivalent arg '%s' for %s '%s' in vhost '%s': received %s but current is %s",
                argument, c->kind, c->name, c->vhost, received, current);
}

/* Of two values that differ RabbitMQ tells the values; of one that is missing, the type as well. */
static int compare(const struct comparison *c, const char *argument)
{
    struct field current, received;
    char values[2][64], texts[2][160];
    bool has_current = find(c->current, argument, &current);
    bool has_received = find(c->received, argument, &received);

    if (has_current && has_received) {
        if (value_equal(&current, &received))
            return 0;
        snprintf(texts[0], sizeof texts[0], "'%s'",
                 field_value_text(&received, values[0], sizeof values[0]));
        snprintf(texts[1], sizeof texts[1], "'%s'",
                 field_value_text(&current, values[1], sizeof values[1]));
        return mismatch(c, argument, texts[0], texts[1]);
    }
    if (has_received)
        return mismatch(c, argument, field_describe(&received, texts[0], sizeof texts[0]), "none");
    if (has_current)
        return mismatch(c, argument, "none", field_describe(&current, texts[1], sizeof texts[1]));
    return 0;
}

static bool type_of(struct slice arguments, enum queue_type *type)
{
    struct checking checking = {.arguments = arguments, .queue_name = "", .vhost = ""};
    return check_queue_type(&checking, type) == 0;
}

int queue_arguments_equivalent(struct slice current, struct slice received, const char *queue_name,
                               const char *vhost, struct failure *failure)
{
    struct comparison c = {current, received, "queue", queue_name, vhost, failure};
    enum queue_type type, received_type;
    int result = 0;

    if (slice_equal(current, received))
        return 0;
    bool known = type_of(current, &type), received_known = type_of(received, &received_type);
    if (!known || !received_known || type != received_type)
        result = compare(&c, "x-queue-type");
    for (size_t i = 0; i < COUNT(queue_arguments) && result == 0; i++)
        if (queue_arguments[i].types & (1u << type))
            result = compare(&c, queue_arguments[i].name);
    return result;
}

/* ---- exchanges ---- */

int exchange_arguments_check(struct slice arguments, const char *exchange_name, const char *vhost,
                             struct failure *failure)
{
    struct field field;

    if (!find(arguments, "alternate-exchange", &field) || field.type == 'S')
        return 0;
    return fail(failure, E_INVALID,
                "invalid type '%s' for arg 'alternate-exchange' in exchange '%s' in vhost '%s'",
                field_type_name(&field), exchange_name, vhost);
}

int exchange_arguments_equivalent(struct slice current, struct slice received,
                                  const char *exchange_name, const char *vhost,
                                  struct failure *failure)
{
    struct comparison c = {current, received, "exchange", exchange_name, vhost, failure};

    return compare(&c, "alternate-exchange");
}

/* ---- consumers ---- */

static int check_consumer_priority(const struct checking *checking, const struct field *field)
{
    int result = check_integer(checking, field);

    if (result == 0)
        checking->settings.consumer->priority = field->value.integer;
    return result;
}

static int check_own_timeout(const struct checking *checking, const struct field *field)
{
    int result = check_not_negative(checking, field);

    if (result == 0)
        checking->settings.consumer->consumer_timeout_ms = field->value.integer;
    return result;
}

static const struct {
    const char *name;
    unsigned types;
    check_argument *check;
} consumer_arguments[] = {
    {"x-priority", CLASSIC | QUORUM, check_consumer_priority},
    {"x-consumer-timeout", CLASSIC | QUORUM, check_own_timeout},
    {"x-stream-offset", STREAM, check_anything},
    {"x-stream-filter", STREAM, check_anything},
    {"x-stream-match-unfiltered", STREAM, check_anything},
};

int consumer_arguments_check(struct slice arguments, enum queue_type type, const char *queue_name,
                             const char *vhost, struct consumer_settings *settings,
                             struct failure *failure)
{
    struct checking checking = {
        .arguments = arguments,
        .queue_name = queue_name,
        .vhost = vhost,
        .failure = failure,
        .settings.consumer = settings,
    };
    struct field field;
    int result = 0;

    *settings = (struct consumer_settings){.consumer_timeout_ms = -1};
    for (size_t i = 0; i < COUNT(consumer_arguments) && result == 0; i++) {
        checking.name = consumer_arguments[i].name;
        if (!find(arguments, checking.name, &field))
            continue;
        result = consumer_arguments[i].types & (1u << type)
                     ? consumer_arguments[i].check(&checking, &field)
                     : refuse_foreign(&checking, type);
    }
    return result;
}
