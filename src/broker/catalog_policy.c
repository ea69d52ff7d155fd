/* The policies of the catalog: putting in, taking out, and which of them apply to what. */
#include "broker/catalog.h"

#include "base/memory.h"

#include <stdlib.h>

struct policy *vhost_policy(const struct vhost *vhost, enum policy_kind kind, struct slice name)
{
    LIST_EACH (&vhost->policies[kind], link) {
        struct policy *policy = CONTAINER_OF(link, struct policy, link);
        if (slice_is(name, policy->name))
            return policy;
    }
    return NULL;
}

/* ---- putting in, taking out ---- */

static bool comes_before(const struct policy *a, const struct policy *b)
{
    return a->priority != b->priority ? a->priority > b->priority : strcmp(a->name, b->name) < 0;
}

static void take_out(struct catalog *catalog, struct policy *policy)
{
    map_remove_number(&catalog->policies_by_id, policy->id);
    list_remove(&policy->link);
    policy->vhost->policy_count[policy->kind]--;
    policy_unref(policy);
}

static void have_changed(struct catalog *catalog)
{
    if (catalog->policies_changed)
        catalog->policies_changed(catalog->context);
}

void catalog_put_policy(struct catalog *catalog, struct policy *policy)
{
    struct vhost *vhost = policy->vhost;
    struct list *list = &vhost->policies[policy->kind], *place = list->next;
    struct policy *before = vhost_policy(vhost, policy->kind, slice_text(policy->name));

    if (before)
        take_out(catalog, before);
    for (place = list->next; place != list; place = place->next) {
        if (comes_before(policy, CONTAINER_OF(place, struct policy, link)))
            break;
    }
    list_insert_before(place, &policy->link);
    vhost->policy_count[policy->kind]++;
    map_put_number(&catalog->policies_by_id, policy->id, policy);
    have_changed(catalog);
}

void catalog_drop_policy(struct catalog *catalog, struct policy *policy)
{
    take_out(catalog, policy);
    have_changed(catalog);
}

/* ---- what applies ---- */

static void apply(struct policy **at, struct policy *policy)
{
    struct policy *before = *at;

    *at = policy_ref(policy);
    policy_unref(before);
}

static struct policy *policy_of_queue(const struct catalog_queue *queue, enum policy_kind kind)
{
    if (queue->flags & CATALOG_HIDDEN)
        return NULL;
    LIST_EACH (&queue->vhost->policies[kind], link) {
        struct policy *policy = CONTAINER_OF(link, struct policy, link);
        if (policy_fits_queue(policy, queue->settings.type, slice_text(queue->name)))
            return policy;
    }
    return NULL;
}

void catalog_queue_refresh(struct catalog_queue *queue)
{
    struct failure failure;

    /* they were checked when it was declared; what an older release let pass acts as far as it can
     */
    int result = queue_arguments_check(queue_arguments(queue), queue->name, queue->vhost->name,
                                       &queue->settings, &failure);
    (void)result;
    for (unsigned kind = 0; kind < POLICY_KINDS; kind++)
        apply(&queue->policies[kind], policy_of_queue(queue, (enum policy_kind)kind));
    policies_bound(queue->policies[POLICY_OF_USERS], queue->policies[POLICY_OF_OPERATORS],
                   &queue->settings);
}

static struct policy *policy_of_exchange(const struct catalog_exchange *exchange)
{
    if (exchange->name[0] == 0)
        return NULL; /* routes from it are found without looking further */
    LIST_EACH (&exchange->vhost->policies[POLICY_OF_USERS], link) {
        struct policy *policy = CONTAINER_OF(link, struct policy, link);
        if (policy_fits_exchange(policy, slice_text(exchange->name)))
            return policy;
    }
    return NULL;
}

/* Empty: none. */
static struct slice alternate_of(const struct catalog_exchange *exchange)
{
    struct slice name = slice_of(NULL, 0);

    if (!fields_text(exchange_arguments(exchange), "alternate-exchange", &name) && exchange->policy)
        name = exchange->policy->terms.alternate;
    return catalog_name_is_valid(name) ? name : slice_of(NULL, 0);
}

void catalog_exchange_refresh(struct catalog *catalog, struct catalog_exchange *exchange)
{
    struct vhost *vhost = exchange->vhost;
    char *before = exchange->alternate_name;

    apply(&exchange->policy, policy_of_exchange(exchange));
    struct slice name = alternate_of(exchange);
    if (before ? slice_is(name, before) : name.size == 0)
        return;
    exchange->alternate_name = name.size > 0 ? memory_text(name) : NULL;
    exchange->alternate = name.size > 0 ? vhost_exchange(vhost, name) : NULL;
    vhost->alternates += name.size > 0;
    vhost->alternates -= before != NULL;
    route_set_alternate(exchange->route, exchange->alternate ? exchange->alternate->route : NULL);
    catalog->version++;
    free(before);
}
