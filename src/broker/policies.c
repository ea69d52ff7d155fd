/*
 * Policies: setting and clearing them, bringing them into force, looking at them.
 *
 * What a policy says acts when each worker has looked again at all queues and exchanges in its copy
 * of the catalog, which it does in slices (policies_slice), one round after the other while
 * policies change; whoever has set a policy is answered when all have. What is declared meanwhile
 * has what acts at once.
 */
#include "broker/change.h"
#include "broker/move.h"
#include "broker/peer.h"

#include <stdlib.h>

/* ---- bringing them into force ---- */

static void round_begin(struct worker *worker)
{
    struct policy_round *round = &worker->policies;
    const struct map *exchanges = &worker->catalog.exchanges_by_id;
    struct map_cursor cursor = {0};

    round->is_on = true;
    round->is_stale = false;
    round->event = worker->catalog.events;
    catalog_walk_begin(&worker->catalog, &round->queues);
    round->exchanges = memory_new((map_count(exchanges) + 1) * sizeof *round->exchanges);
    round->exchange_count = 0;
    for (const struct catalog_exchange *e; (e = map_next(exchanges, &cursor));)
        round->exchanges[round->exchange_count++] = e->id;
}

static void round_end(struct worker *worker)
{
    struct policy_round *round = &worker->policies;

    catalog_walk_end(&round->queues);
    free(round->exchanges);
    round->exchanges = NULL;
    round->is_on = false;
    round->done = round->event;
}

static void refresh_queue(struct catalog_queue *queue)
{
    uint64_t expires_ms = queue->settings.expires_ms;

    catalog_queue_refresh(queue);
    if (queue->hosted)
        hosted_refresh(queue->hosted, queue->settings.expires_ms != expires_ms);
    if (queue->move && queue->move->arriving)
        hosted_refresh(queue->move->arriving, false);
}

/* One object more; false: there is none. */
static bool refresh_next(struct worker *worker)
{
    struct policy_round *round = &worker->policies;

    if (round->exchange_count > 0) {
        struct catalog_exchange *exchange = map_get_number(
            &worker->catalog.exchanges_by_id, round->exchanges[--round->exchange_count]);
        if (exchange)
            catalog_exchange_refresh(&worker->catalog, exchange);
        return true;
    }
    struct catalog_queue *queue = catalog_walk_next(&worker->catalog, &round->queues);
    if (queue)
        refresh_queue(queue);
    return queue;
}

bool policies_slice(struct worker *worker)
{
    struct policy_round *round = &worker->policies;

    if (!round->is_on)
        return true;
    uint64_t since_ns = loop_precise_ns(worker->loop);
    while (refresh_next(worker)) {
        if (loop_precise_ns(worker->loop) - since_ns > JOB_SLICE_NS)
            return false;
    }
    round_end(worker);
    if (round->is_stale)
        round_begin(worker);
    return !round->is_on;
}

void policies_changed(void *context)
{
    struct worker *worker = context;
    struct policy_round *round = &worker->policies;

    round->is_stale = true;
    if (worker->boot || round->is_on)
        return; /* at the end of the start, or of this round */
    round_begin(worker);
    loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
}

void policies_boot(struct worker *worker)
{
    if (!worker->policies.is_stale)
        return;
    round_begin(worker);
    while (refresh_next(worker))
        ;
    round_end(worker);
}

void policies_free(struct worker *worker)
{
    if (worker->policies.is_on)
        round_end(worker);
}

bool policies_are_in_force(const struct worker *worker)
{
    return !worker->policies.is_on;
}

static bool is_in_force(struct request *request)
{
    const struct policy_round *round = &request->client->worker->policies;

    return !round->is_on || round->done >= request->number;
}

void policies_work(struct request *request)
{
    request->number = request->client->worker->catalog.events;
    request->slice = is_in_force;
    request_work(request);
}

/* This worker's part is done, then the next one's, and so on: they are at it at the same time. */
static int ask_next(struct request *request)
{
    const struct worker *worker = request->client->worker;

    if (request->failure.code != 0 || request->client->closed)
        return DONE;
    while (request->awaited < worker->count) {
        struct peer *peer = worker->peers[request->awaited++];
        if (!peer)
            continue;
        request->next = ask_next;
        peer_ask(peer, LETTER_ASK_POLICIES, sizeof(struct letter_ask), request, 0);
        return PENDING;
    }
    return DONE;
}

/* All workers know it. */
static int changed(struct request *request)
{
    if (request->failure.code != 0 || request->client->closed)
        return DONE;
    request->awaited = 0;
    request->next = ask_next;
    policies_work(request);
    return PENDING;
}

/* ---- setting and clearing ---- */

static enum policy_kind kind_of(bool is_operator)
{
    return is_operator ? POLICY_OF_OPERATORS : POLICY_OF_USERS;
}

/* RabbitMQ: policies are for administrators, and for policymakers in their virtual hosts; those of
 * operators for administrators. */
static struct vhost *find_vhost(struct client *client, struct slice name, bool is_operator,
                                struct failure *failure)
{
    bool is_administrator = client_has_tag(client, "administrator");

    if (!is_administrator && (is_operator || !client_has_tag(client, "policymaker"))) {
        fail(failure, E_DENIED, "user '%s' is no %s", client->user,
             is_operator ? "administrator" : "policymaker");
        return NULL;
    }
    struct vhost *vhost = client_find_vhost(client, name, failure);
    if (vhost && !is_administrator && !client_may_enter(client, vhost)) {
        fail(failure, E_DENIED, "access to vhost '%s' refused for user '%s'", vhost->name,
             client->user);
        return NULL;
    }
    return vhost;
}

static int check_spec(struct client *client, const struct policy_spec *spec,
                      enum policy_target *target, struct failure *failure)
{
    enum policy_kind kind = kind_of(spec->is_operator);
    const char *without_effect;
    struct pattern *pattern;
    struct failure why;

    if (!catalog_name_is_valid(spec->name))
        return fail(failure, E_INVALID, "a policy's name has 1 to %u bytes, none of them 0",
                    NAME_MAX_BYTES);
    if (pattern_new(spec->pattern, &pattern, &why) != 0)
        return fail(failure, E_INVALID,
                    "Validation failed\n\npattern should be regular expression but is invalid: "
                    "%s\n",
                    why.text);
    pattern_free(pattern);
    if (!policy_target_parse(spec->apply_to, target))
        return fail(failure, E_INVALID,
                    "Validation failed\n\napply-to '%.*s' unrecognised; should be one of: "
                    "'queues', 'classic_queues',  'quorum_queues', 'streams', 'exchanges', or "
                    "'all'\n",
                    SLICE_ARGS(spec->apply_to));
    int result = fields_check(spec->definition, failure);
    if (result == 0)
        result = policy_definition_check(spec->definition, kind, &without_effect, failure);
    if (result == 0 && without_effect)
        log_warning(client->worker->logger, "policy",
                    "'%s' of policy '%.*s' in vhost '%.*s' is taken, and has no effect here",
                    without_effect, SLICE_ARGS(spec->name), SLICE_ARGS(spec->vhost));
    return result;
}

int broker_set_policy(struct client *client, struct request *request,
                      const struct policy_spec *spec)
{
    struct failure *failure = &request->failure;
    uint8_t bytes[POLICY_DEFINITION_MAX + PATTERN_TEXT_MAX + 512];
    struct writer w = writer_of(bytes, sizeof bytes);
    struct policy_event event = {.kind = kind_of(spec->is_operator),
                                 .priority = spec->priority,
                                 .name = spec->name,
                                 .pattern = spec->pattern,
                                 .definition = spec->definition};

    request_begin(client, request);
    const struct vhost *vhost = find_vhost(client, spec->vhost, spec->is_operator, failure);
    if (!vhost || check_spec(client, spec, &event.target, failure) != 0)
        return request_end(request);
    event.vhost = vhost->id;
    request->result.policy.was_there = vhost_policy(vhost, event.kind, spec->name) != NULL;
    request->next = changed;
    write_u8(&w, 0);
    catalog_encode_policy(&w, &event);
    return change_order(request, &w) == DONE ? request_end(request) : PENDING;
}

int broker_clear_policy(struct client *client, struct request *request, struct slice vhost_name,
                        bool is_operator, struct slice name)
{
    struct failure *failure = &request->failure;
    uint8_t bytes[16];
    struct writer w = writer_of(bytes, sizeof bytes);

    request_begin(client, request);
    const struct vhost *vhost = find_vhost(client, vhost_name, is_operator, failure);
    const struct policy *policy = vhost ? vhost_policy(vhost, kind_of(is_operator), name) : NULL;
    if (vhost && !policy)
        fail(failure, E_NOT_FOUND, "no policy '%.*s' in vhost '%s'", SLICE_ARGS(name), vhost->name);
    if (!policy)
        return request_end(request);
    request->next = changed;
    write_u8(&w, 0);
    catalog_encode_drop(&w, CATALOG_POLICY_DROP, policy->id);
    return change_order(request, &w) == DONE ? request_end(request) : PENDING;
}

/* ---- looking ---- */

struct policy_list {
    struct client *client;
    uint64_t *ids; /* those that there were when it was opened */
    size_t count, at;
};

static void describe(const struct policy *policy, struct policy_facts *facts)
{
    *facts = (struct policy_facts){
        .vhost = slice_text(policy->vhost->name),
        .name = slice_text(policy->name),
        .pattern = pattern_text(policy->pattern),
        .apply_to = policy_target_name(policy->target),
        .definition = policy_definition(policy),
        .priority = policy->priority,
    };
}

int broker_find_policy(struct client *client, struct slice vhost_name, bool is_operator,
                       struct slice name, struct policy_facts *facts, struct failure *failure)
{
    const struct vhost *vhost = find_vhost(client, vhost_name, is_operator, failure);

    if (!vhost)
        return failure->code;
    const struct policy *policy = vhost_policy(vhost, kind_of(is_operator), name);
    if (!policy)
        return fail(failure, E_NOT_FOUND, "no policy '%.*s' in vhost '%s'", SLICE_ARGS(name),
                    vhost->name);
    describe(policy, facts);
    return 0;
}

static void list_vhost(struct policy_list *list, const struct vhost *vhost, enum policy_kind kind)
{
    LIST_EACH (&vhost->policies[kind], link)
        list->ids[list->count++] = CONTAINER_OF(link, struct policy, link)->id;
}

struct policy_list *policy_list_open(struct client *client, struct slice vhost_name,
                                     bool is_operator, struct failure *failure)
{
    const struct catalog *catalog = &client->worker->catalog;
    const struct vhost *only = NULL;
    struct map_cursor cursor = {0};

    if (vhost_name.size > 0 && !(only = client_find_vhost(client, vhost_name, failure)))
        return NULL;
    struct policy_list *list = memory_new(sizeof *list);
    list->client = client;
    list->ids = memory_new((map_count(&catalog->policies_by_id) + 1) * sizeof *list->ids);
    for (const struct vhost *v; (v = map_next(&catalog->vhosts_by_id, &cursor));) {
        if (only ? v == only : client_sees(client, v))
            list_vhost(list, v, kind_of(is_operator));
    }
    return list;
}

bool policy_list_next(struct policy_list *list, struct policy_facts *facts)
{
    const struct catalog *catalog = &list->client->worker->catalog;

    while (list->at < list->count) {
        const struct policy *policy =
            map_get_number(&catalog->policies_by_id, list->ids[list->at++]);
        if (!policy)
            continue;
        describe(policy, facts);
        return true;
    }
    return false;
}

void policy_list_close(struct policy_list *list)
{
    free(list->ids);
    free(list);
}
