/*
 * Routing: from an exchange, a routing key and headers to a set of queues. Pure memory, one
 * worker's copy.
 *
 * A *table* has exchanges by 64-bit id and, for each, its bindings to *targets*. A target is a
 * queue or another exchange, and is opaque here: the id the broker gave it and a pointer that the
 * result hands back. Names, virtual hosts and permissions are the broker's. The table owns its
 * exchanges and bindings and copies what it keeps; it borrows the targets' pointers, and the broker
 * removes a target's bindings before the pointer dies.
 *
 * Costs: direct, one hash look-up; fanout, its targets; topic, a trie over the words of the
 * patterns whose cost depends on the words of the key and the wildcards that can match there, not
 * on the number of bindings; headers, one compiled match per binding. Results have each queue once.
 * Exchange-to-exchange bindings are followed once per exchange, so cycles end. An exchange whose
 * own bindings give nothing (for its alternate's sake: neither a queue nor an exchange) goes to its
 * alternate.
 */
#ifndef SLUICE_ROUTE_ROUTE_H
#define SLUICE_ROUTE_ROUTE_H

#include "base/bytes.h"

#define ROUTE_KEY_MAX 255u /* bytes of a binding's key, which the caller has checked */

enum exchange_type {
    EXCHANGE_DIRECT,
    EXCHANGE_FANOUT,
    EXCHANGE_TOPIC,
    EXCHANGE_HEADERS,
    EXCHANGE_TYPES
};

/* "direct", ...; false where there is no such type. */
bool exchange_type_parse(struct slice name, enum exchange_type *type);
const char *exchange_type_name(enum exchange_type type);

struct route_table;
struct route_exchange;

struct route_table *route_table_new(uint64_t seed);
void route_table_free(struct route_table *table);

/* The id must be new. Never fails. The exchange lives until removed. */
struct route_exchange *route_exchange_add(struct route_table *table, uint64_t id,
                                          enum exchange_type type);

/* With all its bindings, from and to, and where it is somebody's alternate. */
void route_exchange_remove(struct route_table *table, struct route_exchange *exchange);

/* NULL for none. */
void route_set_alternate(struct route_exchange *exchange, struct route_exchange *alternate);

struct route_target {
    uint64_t id;                     /* unique among queues and exchanges together */
    struct route_exchange *exchange; /* set when the target is an exchange */
    void *queue;                     /* else */
};

/* Bindings are equal when target, key and arguments are (arguments as fields_equal()). Adding one
 * that is there is no error and returns false; removing one that is not returns false. E_INVALID
 * comes for arguments that the type refuses (headers: x-match not one of all, any, all-with-x,
 * any-with-x), by route_check() before. */
int route_check(enum exchange_type type, struct slice key, struct slice arguments,
                struct failure *failure) MUST_CHECK;
bool route_bind(struct route_exchange *exchange, struct route_target target, struct slice key,
                struct slice arguments);
bool route_unbind(struct route_exchange *exchange, struct route_target target, struct slice key,
                  struct slice arguments);

/* Every binding to this target, in every exchange; for each the callback (may be NULL) is told
 * first; it may not change the table. Proportional to the target's own bindings. */
void route_remove_target(struct route_table *table, uint64_t target_id,
                         void (*removed)(void *context, struct route_exchange *source,
                                         struct slice key, struct slice arguments),
                         void *context);

uint64_t route_exchange_id(const struct route_exchange *exchange);
size_t route_binding_count(const struct route_exchange *exchange); /* as source */

/* Steps through the bindings of a source, in the order they were made; start with *position = 0;
 * false at the end. Adding or removing meanwhile may skip or repeat. */
struct route_binding_view {
    struct route_target target;
    struct slice key, arguments;
};
bool route_binding_next(const struct route_exchange *exchange, size_t *position,
                        struct route_binding_view *binding);

/* ---- the result: queues, each once; reused from call to call, so that publishing does not
 * allocate ---- */

struct route_result {
    void **queues;
    size_t count, capacity;
    size_t added;   /* of them by route_result_add() */
    uint64_t stamp; /* marks what is in it already; the table's */
};

void route_result_init(struct route_result *result);
void route_result_fini(struct route_result *result);
void route_result_clear(struct route_result *result);

/* Adds a queue that was found elsewhere (the default exchange, which is the broker's hash of
 * names), unless it is there already. */
void route_result_add(struct route_result *result, void *queue);

/* Adds what the exchange gives for this key and these headers (a table, may be empty). Until it is
 * cleared a result is filled from one table. */
void route_match(struct route_table *table, struct route_exchange *exchange, struct slice key,
                 struct slice headers, struct route_result *result);

/* The same for a message with several keys (at least one; carbon copies). Not the same as one call
 * after the other: the alternate is asked only when no key gave anything. */
void route_match_keys(struct route_table *table, struct route_exchange *exchange,
                      const struct slice *keys, size_t count, struct slice headers,
                      struct route_result *result);

/* ---- the invariants, for tests and simulation ---- */
void route_table_check(const struct route_table *table);

#endif
