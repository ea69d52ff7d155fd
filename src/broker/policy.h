/*
 * Policies: settings for all queues and exchanges of a virtual host whose names match a pattern.
 * Of those that fit, the one with the highest priority acts, alone; of several with the same one,
 * the first by name. *Operator policies* are chosen the same way, apart from the others, and bound
 * what those and the arguments say.
 *
 * A definition is a table (message/fields.h) of keys, which are RabbitMQ's. What they do together:
 *
 *   key                                 policy and operator's    with the queue's own argument
 *   expires, message-ttl, max-length,   the lower                the lower
 *   max-length-bytes
 *   delivery-limit                      the lower; below 0       likewise
 *                                       (none) the higher
 *   overflow                            the operator's           classic: the argument;
 *                                                                quorum: the policy
 *   dead-letter-*, alternate-exchange   policies only            the argument
 *
 * A policy with a key that a queue's type does not have does not apply to that queue at all.
 *
 * This file knows single policies; the catalog has them all (catalog_policy.c), and policies.c
 * brings them into force.
 */
#ifndef SLUICE_BROKER_POLICY_H
#define SLUICE_BROKER_POLICY_H

#include "auth/pattern.h"
#include "base/list.h"
#include "broker/arguments.h"

struct vhost;

#define POLICY_DEFINITION_MAX 4096u
#define POLICIES_MAX          1000u /* of one kind in a virtual host */

enum policy_kind { POLICY_OF_USERS, POLICY_OF_OPERATORS, POLICY_KINDS };

/* What it applies to. The numbers are in the log. */
enum policy_target {
    POLICY_ALL,
    POLICY_QUEUES,
    POLICY_CLASSIC_QUEUES,
    POLICY_QUORUM_QUEUES,
    POLICY_STREAMS,
    POLICY_EXCHANGES,
    POLICY_TARGETS,
};

const char *policy_target_name(enum policy_target target);
bool policy_target_parse(struct slice name, enum policy_target *target);

/* What a definition says, as far as it acts. Texts stay where they were read. */
struct policy_terms {
    unsigned types;                          /* of queues that have all its keys: a bit for each */
    int64_t expires_ms, message_ttl_ms;      /* -1: it does not say */
    int64_t length_max, length_bytes_max;    /* likewise */
    bool says_delivery_limit, says_overflow; /* and then: */
    int64_t delivery_limit;                  /* below 0: none */
    enum queue_overflow overflow;
    struct slice dead_letter_exchange, dead_letter_key, alternate; /* data NULL: it does not say */
};

/* May a definition be set? E_INVALID, in RabbitMQ's words. Keys that RabbitMQ has and that would
 * change what becomes of messages are refused where they do nothing here; `*without_effect` is the
 * first that is taken and does nothing, or NULL. The table has been through fields_check(). */
int policy_definition_check(struct slice definition, enum policy_kind kind,
                            const char **without_effect, struct failure *failure) MUST_CHECK;

/* Values that could not be set are passed over: what an older release let pass acts as far as it
 * can. */
void policy_definition_read(struct slice definition, struct policy_terms *terms);

/* What both say together, of policies for the same object, either of which may be empty. */
void policy_definitions_merge(struct slice policy, struct slice operators, struct writer *w);

/* ---- one policy ---- */

struct policy_event {
    uint64_t id, vhost;
    enum policy_kind kind;
    enum policy_target target;
    int64_t priority;
    struct slice name, pattern, definition;
};

struct policy {
    uint64_t id;
    struct vhost *vhost;
    enum policy_kind kind;
    enum policy_target target;
    int64_t priority;
    char *name;
    struct pattern *pattern;
    uint8_t *definition;
    size_t definition_size;
    struct policy_terms terms;
    uint32_t references; /* the catalog's, of queues and exchanges to which it applies */
    struct list link;    /* vhost.policies, by falling priority, then by name */
};

/* With one reference. E_INVALID: the pattern; E_MEMORY. */
int policy_new(const struct policy_event *event, struct vhost *vhost, struct policy **policy,
               struct failure *failure) MUST_CHECK;

static inline struct policy *policy_ref(struct policy *policy)
{
    if (policy)
        policy->references++;
    return policy;
}

/* Frees it with the last. NULL is none. */
void policy_unref(struct policy *policy);

static inline struct slice policy_definition(const struct policy *policy)
{
    return slice_of(policy->definition, policy->definition_size);
}

bool policy_fits_queue(const struct policy *policy, enum queue_type type, struct slice name);
bool policy_fits_exchange(const struct policy *policy, struct slice name);

/* The queue's own settings, as its arguments have them, become those that act. Either policy may be
 * NULL. */
void policies_bound(const struct policy *policy, const struct policy *operators,
                    struct queue_settings *settings);

#endif
