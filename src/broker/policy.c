#include "broker/policy.h"

#include "base/assert.h"
#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

enum { CLASSIC = 1 << QUEUE_CLASSIC, QUORUM = 1 << QUEUE_QUORUM, STREAM = 1 << QUEUE_STREAM };

#define ANY_TYPE (CLASSIC | QUORUM | STREAM)

/* ---- what it applies to ---- */

static const char *const target_names[POLICY_TARGETS] = {
    [POLICY_ALL] = "all",
    [POLICY_QUEUES] = "queues",
    [POLICY_CLASSIC_QUEUES] = "classic_queues",
    [POLICY_QUORUM_QUEUES] = "quorum_queues",
    [POLICY_STREAMS] = "streams",
    [POLICY_EXCHANGES] = "exchanges",
};

static const unsigned target_types[POLICY_TARGETS] = {
    [POLICY_ALL] = ANY_TYPE,         [POLICY_QUEUES] = ANY_TYPE, [POLICY_CLASSIC_QUEUES] = CLASSIC,
    [POLICY_QUORUM_QUEUES] = QUORUM, [POLICY_STREAMS] = STREAM,
};

const char *policy_target_name(enum policy_target target)
{
    ASSERT(target < POLICY_TARGETS);
    return target_names[target];
}

bool policy_target_parse(struct slice name, enum policy_target *target)
{
    for (unsigned i = 0; i < POLICY_TARGETS; i++) {
        if (slice_is(name, target_names[i])) {
            *target = (enum policy_target)i;
            return true;
        }
    }
    return false;
}

/* ---- keys ---- */

enum value {
    VALUE_FROM_0,  /* an integer */
    VALUE_FROM_1,  /* likewise */
    VALUE_MS,      /* from 0 on, and no longer than arguments may be */
    VALUE_MS_SOME, /* likewise, from 1 on */
    VALUE_INTEGER,
    VALUE_TEXT,
    VALUE_OVERFLOW,
    VALUE_STRATEGY,
    VALUE_MODE,
    VALUE_ANY,
};

enum effect {
    ACTS,
    IS_A_HINT, /* how RabbitMQ is to do it, which changes nothing for clients: taken, nothing done
                */
    IS_MISSING /* it would change what becomes of messages, and does not yet: refused */
};

enum merging { THE_LOWER, THE_LOWER_LIMIT, THE_OPERATORS };

struct key {
    const char *name;
    const char *means; /* in errors */
    unsigned types;    /* of queues that have it */
    enum value value;
    enum effect effect;
    bool for_operators;
    enum merging merging; /* of the operators' with others */
};

static const struct key keys[] = {
    {"alternate-exchange", "alternate exchange name", ANY_TYPE, VALUE_TEXT, ACTS, false, 0},
    {"dead-letter-exchange", "dead letter exchange name", CLASSIC | QUORUM, VALUE_TEXT, ACTS, false,
     0},
    {"dead-letter-routing-key", "dead letter routing key", CLASSIC | QUORUM, VALUE_TEXT, ACTS,
     false, 0},
    /* here each dead letter is published at least once, whatever is said */
    {"dead-letter-strategy", "dead letter strategy", QUORUM, VALUE_STRATEGY, ACTS, false, 0},
    {"message-ttl", "message TTL", CLASSIC | QUORUM, VALUE_MS, ACTS, true, THE_LOWER},
    {"expires", "queue expiry", CLASSIC | QUORUM, VALUE_MS_SOME, ACTS, true, THE_LOWER},
    {"max-length", "maximum length", CLASSIC | QUORUM, VALUE_FROM_0, ACTS, true, THE_LOWER},
    {"max-length-bytes", "maximum length in bytes", ANY_TYPE, VALUE_FROM_0, ACTS, true, THE_LOWER},
    {"overflow", "overflow value", CLASSIC | QUORUM, VALUE_OVERFLOW, ACTS, true, THE_OPERATORS},
    {"delivery-limit", "delivery limit", QUORUM, VALUE_INTEGER, ACTS, true, THE_LOWER_LIMIT},

    {"max-in-memory-length", "maximum memory in bytes", QUORUM, VALUE_FROM_0, IS_A_HINT, true,
     THE_LOWER},
    {"max-in-memory-bytes", "maximum memory in bytes", QUORUM, VALUE_FROM_0, IS_A_HINT, true,
     THE_LOWER},
    {"queue-mode", "queue-mode value", CLASSIC, VALUE_MODE, IS_A_HINT, false, 0},
    {"queue-version", "queue-version value", ANY_TYPE, VALUE_FROM_1, IS_A_HINT, true,
     THE_OPERATORS},
    {"queue-leader-locator", "queue leader locator value", ANY_TYPE, VALUE_TEXT, IS_A_HINT, false,
     0},
    {"queue-master-locator", "queue master locator", CLASSIC, VALUE_TEXT, IS_A_HINT, true,
     THE_OPERATORS},
    {"target-group-size", "target quorum queue group size", QUORUM, VALUE_FROM_0, IS_A_HINT, true,
     THE_OPERATORS},
    {"initial-cluster-size", "cluster size", STREAM, VALUE_FROM_0, IS_A_HINT, false, 0},

    {"consumer-timeout", NULL, ANY_TYPE, VALUE_ANY, IS_MISSING, false, 0},
    {"consumer-disconnected-timeout", NULL, ANY_TYPE, VALUE_ANY, IS_MISSING, false, 0},
    {"delayed-retry-type", NULL, ANY_TYPE, VALUE_ANY, IS_MISSING, true, 0},
    {"delayed-retry-min", NULL, ANY_TYPE, VALUE_ANY, IS_MISSING, true, 0},
    {"delayed-retry-max", NULL, ANY_TYPE, VALUE_ANY, IS_MISSING, true, 0},
    {"max-age", NULL, STREAM, VALUE_ANY, IS_MISSING, false, 0},
    {"stream-max-segment-size-bytes", NULL, STREAM, VALUE_ANY, IS_MISSING, false, 0},
    {"stream-filter-size-bytes", NULL, STREAM, VALUE_ANY, IS_MISSING, false, 0},
    {"federation-upstream", NULL, ANY_TYPE, VALUE_ANY, IS_MISSING, false, 0},
    {"federation-upstream-set", NULL, ANY_TYPE, VALUE_ANY, IS_MISSING, false, 0},
};

static const char *const strategies[] = {"at-most-once", "at-least-once"};
static const char *const modes[] = {"default", "lazy"};

static const struct key *find_key(struct slice name)
{
    for (size_t i = 0; i < COUNT(keys); i++) {
        if (slice_is(name, keys[i].name))
            return &keys[i];
    }
    return NULL;
}

static bool is_one_of(const struct field *field, const char *const *words, size_t count)
{
    for (size_t i = 0; field->type == 'S' && i < count; i++) {
        if (slice_is(field->value.bytes, words[i]))
            return true;
    }
    return false;
}

static bool is_between(const struct field *field, int64_t least, int64_t most)
{
    return field_is_integer(field) && field->value.integer >= least && field->value.integer <= most;
}

static bool is_valid(const struct key *key, const struct field *field)
{
    enum queue_overflow overflow;

    switch (key->value) {
    case VALUE_FROM_0:
        return is_between(field, 0, INT64_MAX);
    case VALUE_FROM_1:
        return is_between(field, 1, INT64_MAX);
    case VALUE_MS:
        return is_between(field, 0, ARGUMENT_MS_MAX);
    case VALUE_MS_SOME:
        return is_between(field, 1, ARGUMENT_MS_MAX);
    case VALUE_INTEGER:
        return field_is_integer(field);
    case VALUE_TEXT: /* one that is longer could be in no message */
        return field->type == 'S' && field->value.bytes.size <= MESSAGE_ADDRESS_MAX;
    case VALUE_OVERFLOW:
        return field->type == 'S' && queue_overflow_parse(field->value.bytes, &overflow);
    case VALUE_STRATEGY:
        return is_one_of(field, strategies, COUNT(strategies));
    case VALUE_MODE:
        return is_one_of(field, modes, COUNT(modes));
    default:
        return true;
    }
}

/* As Erlang prints it, which is what RabbitMQ's errors show. */
static const char *value_text(const struct field *field, char *text, size_t size)
{
    char value[128];

    field_value_text(field, value, sizeof value);
    snprintf(text, size, field->type == 'S' ? "<<\"%s\">>" : "%s", value);
    return text;
}

static int check_field(const struct field *field, enum policy_kind kind,
                       const char **without_effect, struct failure *failure)
{
    const struct key *key = find_key(field->name);
    char text[160];

    if (!key || (kind == POLICY_OF_OPERATORS && !key->for_operators))
        return fail(failure, E_INVALID,
                    "Validation failed\n\n[{<<\"%.*s\">>,%s}] are not recognised policy settings\n",
                    SLICE_ARGS(field->name), value_text(field, text, sizeof text));
    if (key->effect == IS_MISSING)
        return fail(failure, E_INVALID,
                    "Validation failed\n\n%s is a policy setting of RabbitMQ that does nothing in "
                    "sluice yet\n",
                    key->name);
    if (!is_valid(key, field))
        return fail(failure, E_INVALID, "Validation failed\n\n%s is not a valid %s\n",
                    value_text(field, text, sizeof text), key->means);
    if (key->effect == IS_A_HINT && !*without_effect)
        *without_effect = key->name;
    return 0;
}

int policy_definition_check(struct slice definition, enum policy_kind kind,
                            const char **without_effect, struct failure *failure)
{
    struct reader r = reader_of(definition);
    struct field field;
    int result = 0;

    *without_effect = NULL;
    if (definition.size == 0)
        return fail(failure, E_INVALID, "Validation failed\n\nno policy provided\n");
    if (definition.size > POLICY_DEFINITION_MAX)
        return fail(failure, E_INVALID,
                    "Validation failed\n\nthe definition is larger than %u bytes\n",
                    POLICY_DEFINITION_MAX);
    while (result == 0 && fields_next(&r, &field))
        result = check_field(&field, kind, without_effect, failure);
    return result;
}

/* ---- what a definition says ---- */

/* Where a key's number goes; NULL: it is none. */
static int64_t *number_of(struct policy_terms *terms, const char *name)
{
    const struct {
        const char *name;
        int64_t *at;
    } numbers[] = {
        {"expires", &terms->expires_ms},
        {"message-ttl", &terms->message_ttl_ms},
        {"max-length", &terms->length_max},
        {"max-length-bytes", &terms->length_bytes_max},
        {"delivery-limit", &terms->delivery_limit},
    };

    for (size_t i = 0; i < COUNT(numbers); i++) {
        if (strcmp(name, numbers[i].name) == 0)
            return numbers[i].at;
    }
    return NULL;
}

static struct slice *text_of(struct policy_terms *terms, const char *name)
{
    const struct {
        const char *name;
        struct slice *at;
    } texts[] = {
        {"dead-letter-exchange", &terms->dead_letter_exchange},
        {"dead-letter-routing-key", &terms->dead_letter_key},
        {"alternate-exchange", &terms->alternate},
    };

    for (size_t i = 0; i < COUNT(texts); i++) {
        if (strcmp(name, texts[i].name) == 0)
            return texts[i].at;
    }
    return NULL;
}

static void read_field(const struct key *key, const struct field *field, struct policy_terms *terms)
{
    int64_t *number = number_of(terms, key->name);
    struct slice *text = text_of(terms, key->name);

    if (number)
        *number = field->value.integer;
    if (text)
        *text = field->value.bytes;
    terms->says_delivery_limit |= number == &terms->delivery_limit;
    if (key->value == VALUE_OVERFLOW)
        terms->says_overflow = queue_overflow_parse(field->value.bytes, &terms->overflow);
}

void policy_definition_read(struct slice definition, struct policy_terms *terms)
{
    struct reader r = reader_of(definition);
    struct field field;

    *terms = (struct policy_terms){
        .types = ANY_TYPE,
        .expires_ms = -1,
        .message_ttl_ms = -1,
        .length_max = -1,
        .length_bytes_max = -1,
    };
    while (fields_next(&r, &field)) {
        const struct key *key = find_key(field.name);
        if (!key || !is_valid(key, &field))
            continue;
        terms->types &= key->types;
        if (key->effect == ACTS)
            read_field(key, &field, terms);
    }
}

/* ---- two together ---- */

static int64_t lower_limit(int64_t a, int64_t b)
{
    if (a < 0 || b < 0)
        return a > b ? a : b;
    return a < b ? a : b;
}

/* *field, of an ordinary policy, becomes what the operators leave of it. */
static void merge_field(struct field *field, const struct field *operators)
{
    const struct key *key = find_key(field->name);
    enum merging merging = key ? key->merging : THE_OPERATORS;
    bool are_numbers = field_is_integer(field) && field_is_integer(operators);
    int64_t a = field->value.integer, b = operators->value.integer;

    if (!are_numbers || merging == THE_OPERATORS)
        *field = *operators;
    else if (merging == THE_LOWER_LIMIT)
        field->value.integer = lower_limit(a, b);
    else
        field->value.integer = a < b ? a : b;
}

void policy_definitions_merge(struct slice policy, struct slice operators, struct writer *w)
{
    struct reader mine = reader_of(policy), theirs = reader_of(operators);
    struct field field, other;

    while (fields_next(&mine, &field)) {
        if (fields_find(operators, field.name, &other))
            merge_field(&field, &other);
        fields_put(w, &field);
    }
    while (fields_next(&theirs, &field)) {
        if (!fields_find(policy, field.name, &other))
            fields_put(w, &field);
    }
}

/* ---- one policy ---- */

int policy_new(const struct policy_event *event, struct vhost *vhost, struct policy **result,
               struct failure *failure)
{
    struct pattern *pattern;
    int code = pattern_new(event->pattern, &pattern, failure);

    if (code != 0)
        return code;
    struct policy *policy = memory_new(sizeof *policy);
    *policy = (struct policy){
        .id = event->id,
        .vhost = vhost,
        .kind = event->kind,
        .target = event->target,
        .priority = event->priority,
        .name = memory_text(event->name),
        .pattern = pattern,
        .definition = (uint8_t *)memory_text(event->definition),
        .definition_size = event->definition.size,
        .references = 1,
    };
    list_init(&policy->link);
    policy_definition_read(policy_definition(policy), &policy->terms);
    *result = policy;
    return 0;
}

void policy_unref(struct policy *policy)
{
    if (!policy || --policy->references > 0)
        return;
    list_remove(&policy->link);
    pattern_free(policy->pattern);
    free(policy->name);
    free(policy->definition);
    free(policy);
}

/* RabbitMQ: an empty pattern is found in every name. */
static bool matches(const struct policy *policy, struct slice name)
{
    return pattern_text(policy->pattern).size == 0 || pattern_matches(policy->pattern, name);
}

bool policy_fits_queue(const struct policy *policy, enum queue_type type, struct slice name)
{
    return (target_types[policy->target] & policy->terms.types & 1u << type) &&
           matches(policy, name);
}

bool policy_fits_exchange(const struct policy *policy, struct slice name)
{
    return (policy->target == POLICY_ALL || policy->target == POLICY_EXCHANGES) &&
           matches(policy, name);
}

/* ---- what acts ---- */

/* -1: none. */
static int64_t lower(int64_t a, int64_t b)
{
    if (a < 0 || b < 0)
        return a < 0 ? b : a;
    return a < b ? a : b;
}

static void bound_numbers(const struct policy_terms *terms, struct queue_settings *s)
{
    int64_t expires_ms = lower(terms->expires_ms, s->expires_ms ? (int64_t)s->expires_ms : -1);

    s->expires_ms = expires_ms < 0 ? 0 : (uint64_t)expires_ms;
    s->message_ttl_ms = lower(terms->message_ttl_ms, s->message_ttl_ms);
    s->length_max = lower(terms->length_max, s->length_max);
    s->length_bytes_max = lower(terms->length_bytes_max, s->length_bytes_max);
    if (!terms->says_delivery_limit || s->type != QUEUE_QUORUM)
        return;
    int64_t limit = terms->delivery_limit < 0 ? -1 : terms->delivery_limit;
    s->delivery_limit = s->says_delivery_limit ? lower_limit(limit, s->delivery_limit) : limit;
    s->says_delivery_limit = true;
}

static void take_overflow(enum queue_overflow overflow, struct queue_settings *s)
{
    if (s->type == QUEUE_QUORUM) /* which does not have the third */
        s->overflow = overflow == OVERFLOW_REFUSE_AND_BURY ? OVERFLOW_DROP_OLDEST : overflow;
    else if (!s->says_overflow)
        s->overflow = overflow;
}

void policies_bound(const struct policy *policy, const struct policy *operators,
                    struct queue_settings *settings)
{
    if (policy)
        bound_numbers(&policy->terms, settings);
    if (operators)
        bound_numbers(&operators->terms, settings);
    if (operators && operators->terms.says_overflow)
        take_overflow(operators->terms.overflow, settings);
    else if (policy && policy->terms.says_overflow)
        take_overflow(policy->terms.overflow, settings);
    if (!policy)
        return;
    if (!settings->dead_letter_exchange.data)
        settings->dead_letter_exchange = policy->terms.dead_letter_exchange;
    if (!settings->dead_letter_key.data)
        settings->dead_letter_key = policy->terms.dead_letter_key;
}
