#include "broker/catalog.h"

#include "base/assert.h"
#include "base/memory.h"
#include "broker/broker.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>

void catalog_init(struct catalog *catalog, uint64_t seed)
{
    memset(catalog, 0, sizeof *catalog);
    catalog->seed = seed;
    catalog->next_id = 1;
    list_init(&catalog->forgotten);
    list_init(&catalog->queues);
    list_init(&catalog->walks);
    catalog->routes = route_table_new(catalog->seed);
    map_init_bytes(&catalog->vhosts, catalog->seed);
    map_init_numbers(&catalog->vhosts_by_id, catalog->seed);
    map_init_bytes(&catalog->users, catalog->seed);
    map_init_bytes(&catalog->permissions, catalog->seed);
    map_init_numbers(&catalog->exchanges_by_id, catalog->seed);
    map_init_numbers(&catalog->queues_by_id, catalog->seed);
    map_init_numbers(&catalog->policies_by_id, catalog->seed);
    catalog->recent = memory_new(CATALOG_RECENT * sizeof(void *));
}

bool catalog_name_is_valid(struct slice name)
{
    return name.size > 0 && name.size <= NAME_MAX_BYTES && !memchr(name.data, 0, name.size);
}

/* ---- look-ups ---- */

struct vhost *catalog_vhost(const struct catalog *catalog, struct slice name)
{
    return map_get(&catalog->vhosts, name);
}

struct user *catalog_user(const struct catalog *catalog, struct slice name)
{
    return map_get(&catalog->users, name);
}

#define PERMISSION_KEY_MAX (NAME_MAX_BYTES + 32)

static size_t permission_key(char *key, size_t size, struct slice user, uint64_t vhost)
{
    int length = snprintf(key, size, "%.*s%c%" PRIu64, SLICE_ARGS(user), 0, vhost);
    return length > 0 && (size_t)length < size ? (size_t)length : 0;
}

struct permission *catalog_permission(const struct catalog *catalog, struct slice user,
                                      const struct vhost *vhost)
{
    char key[PERMISSION_KEY_MAX];
    size_t size = permission_key(key, sizeof key, user, vhost->id);
    return map_get(&catalog->permissions, slice_of(key, size));
}

struct catalog_exchange *vhost_exchange(const struct vhost *vhost, struct slice name)
{
    return name.size == 0 ? vhost->default_exchange : map_get(&vhost->exchanges, name);
}

struct catalog_queue *vhost_queue(const struct vhost *vhost, struct slice name)
{
    return map_get(&vhost->queues, name);
}

struct catalog_queue *catalog_queue_search(const struct catalog *catalog, uint64_t id)
{
    struct catalog_queue *queue = map_get_number(&catalog->queues_by_id, id);

    if (queue)
        catalog->recent[id % CATALOG_RECENT] = queue;
    return queue;
}

/* ---- putting in ---- */

static void id_used(struct catalog *catalog, uint64_t id)
{
    if (id >= catalog->next_id && id < UINT64_MAX / 2)
        catalog->next_id = id + 1;
}

static struct vhost *put_vhost(struct catalog *catalog, uint64_t id, struct slice name)
{
    struct vhost *vhost = catalog_vhost(catalog, name);

    id_used(catalog, id);
    if (vhost)
        return vhost;
    vhost = memory_new(sizeof *vhost);
    vhost->id = id;
    vhost->name = memory_text(name);
    map_init_bytes(&vhost->exchanges, catalog->seed);
    map_init_bytes(&vhost->queues, catalog->seed);
    for (unsigned kind = 0; kind < POLICY_KINDS; kind++)
        list_init(&vhost->policies[kind]);
    map_put(&catalog->vhosts, slice_text(vhost->name), vhost);
    map_put_number(&catalog->vhosts_by_id, id, vhost);
    catalog->version++;
    return vhost;
}

static void put_user(struct catalog *catalog, struct slice name, struct slice hash,
                     struct slice tags)
{
    struct user *user = catalog_user(catalog, name);

    if (!user) {
        user = memory_new(sizeof *user);
        user->name = memory_text(name);
        map_put(&catalog->users, slice_text(user->name), user);
    }
    free(user->hash);
    free(user->tags);
    user->hash = memory_text(hash);
    user->tags = memory_text(tags);
    catalog->version++;
    catalog->people_version++;
}

static void permission_free(struct permission *permission)
{
    pattern_free(permission->configure);
    pattern_free(permission->write);
    pattern_free(permission->read);
    free(permission->key);
    free(permission);
}

static int put_permission(struct catalog *catalog, struct slice user_name, uint64_t vhost_id,
                          struct slice configure, struct slice write, struct slice read)
{
    struct user *user = catalog_user(catalog, user_name);
    struct vhost *vhost = map_get_number(&catalog->vhosts_by_id, vhost_id);
    char key[PERMISSION_KEY_MAX];
    size_t size = permission_key(key, sizeof key, user_name, vhost_id);
    struct failure failure;

    if (!user || !vhost) {
        catalog->unknown_records++;
        return 0;
    }
    struct permission *permission = memory_new(sizeof *permission);
    if (pattern_new(configure, &permission->configure, &failure) != 0 ||
        pattern_new(write, &permission->write, &failure) != 0 ||
        pattern_new(read, &permission->read, &failure) != 0) {
        permission_free(permission);
        return E_CORRUPT;
    }
    struct permission *old = map_remove(&catalog->permissions, slice_of(key, size));
    if (old)
        permission_free(old);
    permission->user = user;
    permission->vhost = vhost;
    permission->key = memory_text(slice_of(key, size));
    map_put(&catalog->permissions, slice_of(permission->key, size), permission);
    catalog->version++;
    catalog->people_version++;
    return 0;
}

/* An exchange that names an alternate finds it now or when that is declared. */
static void link_alternates(struct vhost *vhost)
{
    struct map_cursor cursor = {0};

    if (vhost->alternates == 0)
        return;
    for (struct catalog_exchange *e; (e = map_next(&vhost->exchanges, &cursor));) {
        if (!e->alternate_name)
            continue;
        struct catalog_exchange *alternate = vhost_exchange(vhost, slice_text(e->alternate_name));
        if (alternate != e->alternate) {
            e->alternate = alternate;
            route_set_alternate(e->route, alternate ? alternate->route : NULL);
        }
    }
}

static void put_exchange(struct catalog *catalog, struct vhost *vhost,
                         const struct exchange_event *event)
{
    struct catalog_exchange *exchange = vhost_exchange(vhost, event->name);
    struct slice arguments = event->arguments;

    id_used(catalog, event->id);
    if (exchange)
        return;
    exchange = memory_new(sizeof *exchange);
    exchange->id = event->id;
    exchange->vhost = vhost;
    exchange->name = memory_text(event->name);
    exchange->type = event->type;
    exchange->flags = event->flags;
    exchange->arguments = (uint8_t *)memory_text(arguments);
    exchange->arguments_size = arguments.size;
    exchange->version = catalog->events;
    exchange->route = route_exchange_add(catalog->routes, event->id, event->type);
    if (event->name.size == 0)
        vhost->default_exchange = exchange;
    else
        map_put(&vhost->exchanges, slice_text(exchange->name), exchange);
    map_put_number(&catalog->exchanges_by_id, event->id, exchange);
    catalog_exchange_refresh(catalog, exchange);
    link_alternates(vhost);
    catalog->version++;
}

static void put_queue(struct catalog *catalog, struct vhost *vhost, const struct queue_event *event)
{
    struct catalog_queue *queue = vhost_queue(vhost, event->name);

    id_used(catalog, event->id);
    if (queue)
        return;
    queue = memory_new(sizeof *queue);
    queue->id = event->id;
    queue->references = 1;
    queue->vhost = vhost;
    queue->name = memory_text(event->name);
    queue->shard = event->shard;
    queue->flags = event->flags;
    queue->owner = event->owner;
    queue->arguments = (uint8_t *)memory_text(event->arguments);
    queue->arguments_size = event->arguments.size;
    queue->version = catalog->events;
    list_init(&queue->owner_link);
    list_append(&catalog->queues, &queue->walk_link);
    catalog_queue_refresh(queue);
    map_put(&vhost->queues, slice_text(queue->name), queue);
    map_put_number(&catalog->queues_by_id, queue->id, queue);
    catalog->version++;
    if (catalog->queue_added)
        catalog->queue_added(catalog->context, queue);
}

/* ---- taking out ---- */

static void binding_lost(void *context, struct route_exchange *source, struct slice key,
                         struct slice arguments)
{
    struct catalog *catalog = context;
    uint64_t id = route_exchange_id(source);
    struct catalog_exchange *exchange = map_get_number(&catalog->exchanges_by_id, id);

    (void)key;
    (void)arguments;
    if (!exchange)
        return;
    exchange->vhost->binding_count--;
    if (exchange->type == EXCHANGE_HEADERS)
        exchange->vhost->headers_bindings--;
    if (catalog->binding_lost)
        catalog->binding_lost(catalog->context, id);
}

static void exchange_free(struct catalog_exchange *exchange)
{
    policy_unref(exchange->policy);
    free(exchange->name);
    free(exchange->arguments);
    free(exchange->alternate_name);
    free(exchange);
}

static void drop_exchange(struct catalog *catalog, struct catalog_exchange *exchange)
{
    struct vhost *vhost = exchange->vhost;

    map_remove(&vhost->exchanges, slice_text(exchange->name));
    map_remove_number(&catalog->exchanges_by_id, exchange->id);
    vhost->binding_count -= route_binding_count(exchange->route);
    if (exchange->type == EXCHANGE_HEADERS)
        vhost->headers_bindings -= route_binding_count(exchange->route);
    route_remove_target(catalog->routes, exchange->id, binding_lost, catalog);
    link_alternates(vhost);
    route_exchange_remove(catalog->routes, exchange->route);
    vhost->alternates -= exchange->alternate_name != NULL;
    catalog->version++;
    exchange_free(exchange);
}

/* Walks that have come to it go on behind it. */
static void step_over(struct catalog *catalog, struct catalog_queue *queue)
{
    LIST_EACH (&catalog->walks, link) {
        struct catalog_walk *walk = CONTAINER_OF(link, struct catalog_walk, link);
        if (walk->next == &queue->walk_link)
            walk->next = queue->walk_link.next;
    }
    list_remove(&queue->walk_link);
}

static void drop_queue(struct catalog *catalog, struct catalog_queue *queue)
{
    step_over(catalog, queue);
    map_remove(&queue->vhost->queues, slice_text(queue->name));
    map_remove_number(&catalog->queues_by_id, queue->id);
    if (catalog->recent[queue->id % CATALOG_RECENT] == queue)
        catalog->recent[queue->id % CATALOG_RECENT] = NULL;
    route_remove_target(catalog->routes, queue->id, binding_lost, catalog);
    queue->dropped = true;
    queue->version = catalog->events;
    catalog->version++;
    if (catalog->queue_dropped)
        catalog->queue_dropped(catalog->context, queue);
    list_remove(&queue->owner_link);
    list_append(&catalog->forgotten, &queue->owner_link);
    catalog_queue_unref(queue);
}

static void queue_free(struct catalog_queue *queue)
{
    ASSERT(!queue->hosted);
    list_remove(&queue->owner_link);
    for (unsigned kind = 0; kind < POLICY_KINDS; kind++)
        policy_unref(queue->policies[kind]);
    free(queue->name);
    free(queue->arguments);
    free(queue);
}

void catalog_queue_unref(struct catalog_queue *queue)
{
    ASSERT(queue->references > 0);
    if (--queue->references == 0)
        queue_free(queue);
}

static void bind(struct catalog *catalog, struct catalog_exchange *source,
                 struct route_target target, struct slice key, struct slice arguments)
{
    if (!route_bind(source->route, target, key, arguments))
        return;
    source->had_bindings = true;
    source->vhost->binding_count++;
    if (source->type == EXCHANGE_HEADERS)
        source->vhost->headers_bindings++;
    catalog->version++;
}

static void unbind(struct catalog *catalog, struct catalog_exchange *source,
                   struct route_target target, struct slice key, struct slice arguments)
{
    if (!route_unbind(source->route, target, key, arguments))
        return;
    binding_lost(catalog, source->route, key, arguments);
    catalog->version++;
}

/* ---- walking over all queues ---- */

void catalog_walk_begin(struct catalog *catalog, struct catalog_walk *walk)
{
    list_append(&catalog->walks, &walk->link);
    walk->next = catalog->queues.next;
    walk->until = catalog->events;
}

struct catalog_queue *catalog_walk_next(const struct catalog *catalog, struct catalog_walk *walk)
{
    if (walk->next == &catalog->queues)
        return NULL;
    struct catalog_queue *queue = CONTAINER_OF(walk->next, struct catalog_queue, walk_link);
    if (queue->version > walk->until)
        return NULL;
    walk->next = queue->walk_link.next;
    return queue;
}

void catalog_walk_end(struct catalog_walk *walk)
{
    list_remove(&walk->link);
}

void catalog_walks_abandon(struct catalog *catalog)
{
    while (list_take_first(&catalog->walks))
        ;
}

/* ---- the end ---- */

static void vhost_free(struct vhost *vhost)
{
    map_fini(&vhost->exchanges);
    map_fini(&vhost->queues);
    free(vhost->name);
    free(vhost);
}

void catalog_fini(struct catalog *catalog)
{
    struct map_cursor cursor = {0};

    for (struct catalog_exchange *e; (e = map_next(&catalog->exchanges_by_id, &cursor));)
        exchange_free(e);
    cursor = (struct map_cursor){0};
    for (struct permission *p; (p = map_next(&catalog->permissions, &cursor));)
        permission_free(p);
    cursor = (struct map_cursor){0};
    for (struct user *u; (u = map_next(&catalog->users, &cursor));) {
        free(u->name);
        free(u->hash);
        free(u->tags);
        free(u);
    }
    cursor = (struct map_cursor){0};
    for (struct catalog_queue *q; (q = map_next(&catalog->queues_by_id, &cursor));)
        queue_free(q);
    for (struct list *link; (link = list_first(&catalog->forgotten));)
        queue_free(CONTAINER_OF(link, struct catalog_queue, owner_link));
    cursor = (struct map_cursor){0};
    for (struct policy *p; (p = map_next(&catalog->policies_by_id, &cursor));)
        policy_unref(p);
    cursor = (struct map_cursor){0};
    for (struct vhost *v; (v = map_next(&catalog->vhosts_by_id, &cursor));)
        vhost_free(v);
    route_table_free(catalog->routes);
    map_fini(&catalog->vhosts);
    map_fini(&catalog->vhosts_by_id);
    map_fini(&catalog->users);
    map_fini(&catalog->permissions);
    map_fini(&catalog->exchanges_by_id);
    map_fini(&catalog->queues_by_id);
    map_fini(&catalog->policies_by_id);
    free(catalog->recent);
}

/* ---- events ---- */

static void write_text(struct writer *w, struct slice text)
{
    write_varint(w, text.size);
    write_bytes(w, text);
}

static struct slice read_text(struct reader *r)
{
    return read_bytes(r, (size_t)read_varint(r));
}

void catalog_encode_next_id(struct writer *w, uint64_t id)
{
    write_u8(w, CATALOG_NEXT_ID);
    write_varint(w, id);
}

void catalog_encode_vhost(struct writer *w, uint64_t id, struct slice name)
{
    write_u8(w, CATALOG_VHOST);
    write_varint(w, id);
    write_text(w, name);
}

void catalog_encode_user(struct writer *w, struct slice name, struct slice hash, struct slice tags)
{
    write_u8(w, CATALOG_USER);
    write_text(w, name);
    write_text(w, hash);
    write_text(w, tags);
}

void catalog_encode_permission(struct writer *w, struct slice user, uint64_t vhost,
                               struct slice configure, struct slice write, struct slice read)
{
    write_u8(w, CATALOG_PERMISSION);
    write_text(w, user);
    write_varint(w, vhost);
    write_text(w, configure);
    write_text(w, write);
    write_text(w, read);
}

void catalog_encode_exchange(struct writer *w, const struct exchange_event *event)
{
    write_u8(w, CATALOG_EXCHANGE);
    write_varint(w, event->id);
    write_varint(w, event->vhost);
    write_u8(w, event->flags);
    write_u8(w, (uint8_t)event->type);
    write_text(w, event->name);
    write_text(w, event->arguments);
}

int catalog_decode_exchange(struct slice bytes, struct exchange_event *event)
{
    struct reader r = reader_of(bytes);
    bool is_one = read_u8(&r) == CATALOG_EXCHANGE;

    event->id = read_varint(&r);
    event->vhost = read_varint(&r);
    event->flags = read_u8(&r);
    uint8_t type = read_u8(&r);
    event->type = (enum exchange_type)type;
    event->name = read_text(&r);
    event->arguments = read_text(&r);
    return is_one && !r.failed && type < EXCHANGE_TYPES ? 0 : E_CORRUPT;
}

void catalog_encode_queue(struct writer *w, const struct queue_event *event)
{
    write_u8(w, CATALOG_QUEUE);
    write_varint(w, event->id);
    write_varint(w, event->vhost);
    write_varint(w, event->shard);
    write_u8(w, event->flags);
    if (event->flags & CATALOG_EXCLUSIVE) {
        write_varint(w, event->owner.worker);
        write_varint(w, event->owner.client);
    }
    write_text(w, event->name);
    write_text(w, event->arguments);
}

int catalog_decode_queue(struct slice bytes, struct queue_event *event)
{
    struct reader r = reader_of(bytes);
    bool is_one = read_u8(&r) == CATALOG_QUEUE;
    uint64_t worker = 0;

    event->id = read_varint(&r);
    event->vhost = read_varint(&r);
    uint64_t shard = read_varint(&r);
    event->flags = read_u8(&r);
    event->owner = (struct client_identity){0};
    if (event->flags & CATALOG_EXCLUSIVE) {
        worker = read_varint(&r);
        event->owner.client = read_varint(&r);
    }
    event->name = read_text(&r);
    event->arguments = read_text(&r);
    event->shard = (uint32_t)shard;
    event->owner.worker = (uint32_t)worker;
    return is_one && !r.failed && shard > 0 && shard <= CATALOG_SHARDS_MAX &&
                   worker <= CATALOG_SHARDS_MAX
               ? 0
               : E_CORRUPT;
}

void catalog_encode_drop(struct writer *w, enum catalog_event kind, uint64_t id)
{
    write_u8(w, (uint8_t)kind);
    write_varint(w, id);
}

void catalog_encode_move(struct writer *w, enum catalog_event kind, uint64_t id, uint32_t what)
{
    write_u8(w, (uint8_t)kind);
    write_varint(w, id);
    if (kind != CATALOG_QUEUE_STRANDED)
        write_varint(w, what);
}

void catalog_encode_binding(struct writer *w, enum catalog_event kind, uint64_t source,
                            uint64_t target, struct slice key, struct slice arguments)
{
    write_u8(w, (uint8_t)kind);
    write_varint(w, source);
    write_varint(w, target);
    write_text(w, key);
    write_text(w, arguments);
}

void catalog_encode_policy(struct writer *w, const struct policy_event *event)
{
    write_u8(w, CATALOG_POLICY);
    write_varint(w, event->id);
    write_varint(w, event->vhost);
    write_u8(w, (uint8_t)event->kind);
    write_u8(w, (uint8_t)event->target);
    write_le64(w, (uint64_t)event->priority);
    write_text(w, event->name);
    write_text(w, event->pattern);
    write_text(w, event->definition);
}

int catalog_decode_policy(struct slice bytes, struct policy_event *event)
{
    struct reader r = reader_of(bytes);
    bool is_one = read_u8(&r) == CATALOG_POLICY;

    event->id = read_varint(&r);
    event->vhost = read_varint(&r);
    uint8_t kind = read_u8(&r), target = read_u8(&r);
    event->priority = (int64_t)read_le64(&r);
    event->name = read_text(&r);
    event->pattern = read_text(&r);
    event->definition = read_text(&r);
    event->kind = (enum policy_kind)kind;
    event->target = (enum policy_target)target;
    return is_one && !r.failed && kind < POLICY_KINDS && target < POLICY_TARGETS ? 0 : E_CORRUPT;
}

/* May something new have this id? Ids are never used again, nor twice. */
static bool id_is_free(const struct catalog *catalog, uint64_t id)
{
    return id > 0 && id < UINT64_MAX / 2 && !map_get_number(&catalog->vhosts_by_id, id) &&
           !map_get_number(&catalog->exchanges_by_id, id) &&
           !map_get_number(&catalog->queues_by_id, id) &&
           !map_get_number(&catalog->policies_by_id, id);
}

static int apply_vhost(struct catalog *catalog, struct reader *r)
{
    uint64_t id = read_varint(r);
    struct slice name = read_text(r);

    if (r->failed || !catalog_name_is_valid(name) ||
        (!catalog_vhost(catalog, name) && !id_is_free(catalog, id)))
        return E_CORRUPT;
    put_vhost(catalog, id, name);
    return 0;
}

static int apply_exchange(struct catalog *catalog, struct slice bytes)
{
    struct exchange_event event;

    if (catalog_decode_exchange(bytes, &event) != 0 || event.id == 0 ||
        (event.name.size > 0 && !catalog_name_is_valid(event.name)))
        return E_CORRUPT;
    struct vhost *vhost = map_get_number(&catalog->vhosts_by_id, event.vhost);
    if (vhost && !vhost_exchange(vhost, event.name) && !id_is_free(catalog, event.id))
        return E_CORRUPT;
    if (vhost)
        put_exchange(catalog, vhost, &event);
    else
        catalog->unknown_records++;
    return 0;
}

static int apply_queue(struct catalog *catalog, struct slice bytes)
{
    struct queue_event event;

    if (catalog_decode_queue(bytes, &event) != 0 || event.id == 0 ||
        !catalog_name_is_valid(event.name))
        return E_CORRUPT;
    struct vhost *vhost = map_get_number(&catalog->vhosts_by_id, event.vhost);
    if (vhost && !vhost_queue(vhost, event.name) && !id_is_free(catalog, event.id))
        return E_CORRUPT;
    if (vhost)
        put_queue(catalog, vhost, &event);
    else
        catalog->unknown_records++;
    return 0;
}

static int apply_binding(struct catalog *catalog, struct reader *r, enum catalog_event kind)
{
    uint64_t source_id = read_varint(r), target_id = read_varint(r);
    struct slice key = read_text(r), arguments = read_text(r);

    if (r->failed)
        return E_CORRUPT;
    struct catalog_exchange *source = map_get_number(&catalog->exchanges_by_id, source_id);
    struct catalog_queue *queue = catalog_queue_by_id(catalog, target_id);
    struct catalog_exchange *exchange = map_get_number(&catalog->exchanges_by_id, target_id);
    if (!source || (!queue && !exchange)) {
        catalog->unknown_records++;
        return 0;
    }
    struct route_target target = {target_id, exchange ? exchange->route : NULL, queue};
    if (kind == CATALOG_BINDING)
        bind(catalog, source, target, key, arguments);
    else
        unbind(catalog, source, target, key, arguments);
    return 0;
}

static int apply_policy(struct catalog *catalog, struct slice bytes)
{
    struct policy_event event;
    struct policy *policy;
    struct failure failure;

    if (catalog_decode_policy(bytes, &event) != 0 || !catalog_name_is_valid(event.name) ||
        fields_check(event.definition, &failure) != 0)
        return E_CORRUPT;
    struct vhost *vhost = map_get_number(&catalog->vhosts_by_id, event.vhost);
    const struct policy *before = map_get_number(&catalog->policies_by_id, event.id);
    bool is_same = before && before->vhost == vhost && before->kind == event.kind &&
                   slice_is(event.name, before->name);
    if (!is_same && !id_is_free(catalog, event.id))
        return E_CORRUPT;
    id_used(catalog, event.id);
    if (!vhost) {
        catalog->unknown_records++;
        return 0;
    }
    if (policy_new(&event, vhost, &policy, &failure) != 0)
        return E_CORRUPT;
    catalog_put_policy(catalog, policy);
    return 0;
}

static int apply_drop(struct catalog *catalog, enum catalog_event kind, uint64_t id)
{
    if (kind == CATALOG_POLICY_DROP) {
        struct policy *policy = map_get_number(&catalog->policies_by_id, id);
        if (policy)
            catalog_drop_policy(catalog, policy);
    } else if (kind == CATALOG_EXCHANGE_DROP) {
        struct catalog_exchange *exchange = map_get_number(&catalog->exchanges_by_id, id);
        if (exchange)
            drop_exchange(catalog, exchange);
    } else {
        struct catalog_queue *queue = catalog_queue_by_id(catalog, id);
        if (queue)
            drop_queue(catalog, queue);
    }
    id_used(catalog, id);
    return 0;
}

static int apply_moved(struct catalog *catalog, struct catalog_queue *queue, uint64_t shard)
{
    if (shard == 0 || shard > CATALOG_SHARDS_MAX)
        return E_CORRUPT;
    if (!queue) {
        catalog->unknown_records++;
        return 0;
    }
    queue->shard_logged = 0;
    if (queue->shard == shard && !queue->move)
        return 0; /* the snapshot has it already */
    queue->shard = (uint32_t)shard;
    if (catalog->queue_moved)
        catalog->queue_moved(catalog->context, queue);
    return 0;
}

/* Of a process that runs, by mail. */
static int apply_moving(struct catalog *catalog, struct catalog_queue *queue,
                        enum catalog_event kind, uint64_t what)
{
    if (!catalog->queue_moving || what > CATALOG_SHARDS_MAX)
        return E_CORRUPT;
    if (!queue)
        return 0;
    if (kind == CATALOG_QUEUE_MOVING)
        catalog->queue_moving(catalog->context, queue, (uint32_t)what);
    else if (kind == CATALOG_QUEUE_STAYS)
        catalog->queue_stays(catalog->context, queue, -(int)what);
    else
        catalog->queue_stranded(catalog->context, queue);
    return 0;
}

static int apply_move(struct catalog *catalog, struct reader *r, enum catalog_event kind)
{
    uint64_t id = read_varint(r);
    uint64_t what = kind == CATALOG_QUEUE_STRANDED ? 0 : read_varint(r);
    struct catalog_queue *queue = catalog_queue_by_id(catalog, id);

    if (r->failed)
        return E_CORRUPT;
    return kind == CATALOG_QUEUE_MOVED ? apply_moved(catalog, queue, what)
                                       : apply_moving(catalog, queue, kind, what);
}

static int apply(struct catalog *catalog, struct slice event)
{
    struct reader r = reader_of(event);
    uint8_t kind = read_u8(&r);

    switch (kind) {
    case CATALOG_NEXT_ID: {
        uint64_t id = read_varint(&r);
        if (r.failed || id == 0 || id > UINT64_MAX / 2)
            return E_CORRUPT;
        id_used(catalog, id - 1);
        return 0;
    }
    case CATALOG_VHOST:
        return apply_vhost(catalog, &r);
    case CATALOG_USER: {
        struct slice name = read_text(&r), hash = read_text(&r), tags = read_text(&r);
        if (r.failed || !catalog_name_is_valid(name))
            return E_CORRUPT;
        put_user(catalog, name, hash, tags);
        return 0;
    }
    case CATALOG_PERMISSION: {
        struct slice user = read_text(&r);
        uint64_t vhost = read_varint(&r);
        struct slice configure = read_text(&r), write = read_text(&r), read = read_text(&r);
        return r.failed ? E_CORRUPT : put_permission(catalog, user, vhost, configure, write, read);
    }
    case CATALOG_EXCHANGE:
        return apply_exchange(catalog, event);
    case CATALOG_QUEUE:
        return apply_queue(catalog, event);
    case CATALOG_POLICY:
        return apply_policy(catalog, event);
    case CATALOG_EXCHANGE_DROP:
    case CATALOG_QUEUE_DROP:
    case CATALOG_POLICY_DROP: {
        uint64_t id = read_varint(&r);
        return r.failed || id > UINT64_MAX / 2 ? E_CORRUPT
                                               : apply_drop(catalog, (enum catalog_event)kind, id);
    }
    case CATALOG_BINDING:
    case CATALOG_BINDING_DROP:
        return apply_binding(catalog, &r, (enum catalog_event)kind);
    case CATALOG_QUEUE_MOVING:
    case CATALOG_QUEUE_MOVED:
    case CATALOG_QUEUE_STAYS:
    case CATALOG_QUEUE_STRANDED:
        return apply_move(catalog, &r, (enum catalog_event)kind);
    default:
        return E_CORRUPT;
    }
}

int catalog_apply(struct catalog *catalog, struct slice event)
{
    catalog->events++;
    return apply(catalog, event);
}

/* ---- the snapshot: stages, each over the ids that were there when it began ---- */

enum {
    STAGE_START,
    STAGE_VHOSTS,
    STAGE_USERS,
    STAGE_PERMISSIONS,
    STAGE_POLICIES, /* before what they apply to */
    STAGE_EXCHANGES,
    STAGE_QUEUES,
    STAGE_BINDINGS,
    STAGES
};

static const struct map *stage_map(const struct catalog *catalog, unsigned stage)
{
    switch (stage) {
    case STAGE_VHOSTS:
        return &catalog->vhosts_by_id;
    case STAGE_USERS:
        return &catalog->users;
    case STAGE_PERMISSIONS:
        return &catalog->permissions;
    case STAGE_POLICIES:
        return &catalog->policies_by_id;
    case STAGE_QUEUES:
        return &catalog->queues_by_id;
    default:
        return &catalog->exchanges_by_id;
    }
}

static uint64_t stage_id(unsigned stage, const void *object)
{
    switch (stage) {
    case STAGE_VHOSTS:
        return ((const struct vhost *)object)->id;
    case STAGE_POLICIES:
        return ((const struct policy *)object)->id;
    case STAGE_QUEUES:
        return ((const struct catalog_queue *)object)->id;
    case STAGE_EXCHANGES:
    case STAGE_BINDINGS:
        return ((const struct catalog_exchange *)object)->id;
    default:
        return (uint64_t)(uintptr_t)object; /* users and permissions: see stage_is_stale() */
    }
}

static void stage_begin(const struct catalog *catalog, struct catalog_cursor *cursor)
{
    const struct map *map = stage_map(catalog, cursor->stage);
    struct map_cursor each = {0};

    free(cursor->ids);
    cursor->ids = memory_new((map_count(map) + 1) * sizeof *cursor->ids);
    cursor->count = cursor->at = cursor->position = 0;
    cursor->people_version = catalog->people_version;
    for (void *object; (object = map_next(map, &each));)
        cursor->ids[cursor->count++] = stage_id(cursor->stage, object);
}

/* Users and permissions are remembered by address, which a change may have freed: then the stage
 * begins anew, which does no harm, since putting twice is putting once. */
static bool stage_is_stale(const struct catalog *catalog, const struct catalog_cursor *cursor)
{
    return (cursor->stage == STAGE_USERS || cursor->stage == STAGE_PERMISSIONS) &&
           cursor->people_version != catalog->people_version;
}

/* Is the durable binding's other end durable, too? */
static bool target_is_durable(const struct catalog *catalog, const struct route_target *target)
{
    if (target->exchange) {
        const struct catalog_exchange *e = map_get_number(&catalog->exchanges_by_id, target->id);
        return e && (e->flags & CATALOG_DURABLE);
    }
    const struct catalog_queue *queue = target->queue;
    return catalog_is_logged(queue->flags);
}

/* Encodes the cursor's current object; false when there is nothing to write of it (any more). */
static bool encode_current(const struct catalog *catalog, struct catalog_cursor *cursor,
                           struct writer *w)
{
    uint64_t id = cursor->ids[cursor->at];

    switch (cursor->stage) {
    case STAGE_VHOSTS: {
        const struct vhost *v = map_get_number(&catalog->vhosts_by_id, id);
        if (v)
            catalog_encode_vhost(w, id, slice_text(v->name));
        return v;
    }
    case STAGE_USERS: {
        const struct user *u = (const struct user *)(uintptr_t)id;
        catalog_encode_user(w, slice_text(u->name), slice_text(u->hash), slice_text(u->tags));
        return true;
    }
    case STAGE_PERMISSIONS: {
        const struct permission *p = (const struct permission *)(uintptr_t)id;
        catalog_encode_permission(w, slice_text(p->user->name), p->vhost->id,
                                  pattern_text(p->configure), pattern_text(p->write),
                                  pattern_text(p->read));
        return true;
    }
    case STAGE_POLICIES: {
        const struct policy *p = map_get_number(&catalog->policies_by_id, id);
        if (p)
            catalog_encode_policy(w, &(struct policy_event){.id = id,
                                                            .vhost = p->vhost->id,
                                                            .kind = p->kind,
                                                            .target = p->target,
                                                            .priority = p->priority,
                                                            .name = slice_text(p->name),
                                                            .pattern = pattern_text(p->pattern),
                                                            .definition = policy_definition(p)});
        return p;
    }
    case STAGE_EXCHANGES: {
        const struct catalog_exchange *e = map_get_number(&catalog->exchanges_by_id, id);
        if (e && (e->flags & CATALOG_DURABLE))
            catalog_encode_exchange(w,
                                    &(struct exchange_event){.id = id,
                                                             .vhost = e->vhost->id,
                                                             .flags = e->flags,
                                                             .type = e->type,
                                                             .name = slice_text(e->name),
                                                             .arguments = exchange_arguments(e)});
        return e && (e->flags & CATALOG_DURABLE);
    }
    case STAGE_QUEUES: {
        const struct catalog_queue *q = map_get_number(&catalog->queues_by_id, id);
        if (!q || !catalog_is_logged(q->flags))
            return false;
        catalog_encode_queue(
            w, &(struct queue_event){.id = id,
                                     .vhost = q->vhost->id,
                                     .shard = q->shard_logged ? q->shard_logged : q->shard,
                                     .flags = q->flags,
                                     .name = slice_text(q->name),
                                     .arguments = queue_arguments(q)});
        return true;
    }
    default: {
        const struct catalog_exchange *e = map_get_number(&catalog->exchanges_by_id, id);
        struct route_binding_view binding;
        while (e && (e->flags & CATALOG_DURABLE) &&
               route_binding_next(e->route, &cursor->position, &binding)) {
            if (!target_is_durable(catalog, &binding.target))
                continue;
            catalog_encode_binding(w, CATALOG_BINDING, id, binding.target.id, binding.key,
                                   binding.arguments);
            return true;
        }
        return false;
    }
    }
}

size_t catalog_snapshot_next(const struct catalog *catalog, struct catalog_cursor *cursor,
                             uint8_t *bytes, size_t size)
{
    struct writer w = writer_of(bytes, size);

    if (cursor->stage == STAGE_START) {
        catalog_encode_next_id(&w, catalog->next_id);
        cursor->stage++;
        stage_begin(catalog, cursor);
        return writer_size(&w);
    }
    while (cursor->stage < STAGES) {
        if (stage_is_stale(catalog, cursor))
            stage_begin(catalog, cursor);
        while (cursor->at < cursor->count) {
            bool some = encode_current(catalog, cursor, &w);
            if (!some || cursor->stage != STAGE_BINDINGS) {
                cursor->at++;
                cursor->position = 0;
            }
            ASSERT(!w.failed);
            if (some)
                return writer_size(&w);
        }
        if (++cursor->stage < STAGES)
            stage_begin(catalog, cursor);
    }
    return 0;
}

void catalog_snapshot_end(struct catalog_cursor *cursor)
{
    free(cursor->ids);
    cursor->ids = NULL;
}
