/* Clients: opening and closing, logging in, permissions; and how requests complete. */
#include "broker/broker_private.h"

#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- requests ---- */

void request_begin(struct client *client, struct request *request)
{
    request->failure.code = 0;
    request->failure.text[0] = 0;
    request->client = client;
    request->waits[0] = request->waits[1] = (struct mark){0};
    request->next = NULL;
    request->slice = NULL;
    request->is_get = false;
    request->internal = NULL;
    list_init(&request->link);
    client->outstanding++;
}

void request_wait(struct request *request, struct line *line, uint64_t number)
{
    struct mark *mark = &request->waits[request->waits[0].line != NULL];

    ASSERT(!mark->line);
    *mark = (struct mark){line, number};
}

/* Into the line of the mark, by growing number. */
static void wait_for(struct request *request, struct mark mark)
{
    struct list *behind = mark.line->requests.previous;

    while (behind != &mark.line->requests &&
           CONTAINER_OF(behind, struct request, link)->waits[0].number > mark.number)
        behind = behind->previous;
    list_insert_before(behind->next, &request->link);
}

/* Whether it is complete: else it waits for a mark, or for what `next` has begun. */
static bool step(struct request *request)
{
    for (;;) {
        while (request->failure.code == 0 && request->waits[0].line) {
            struct mark mark = request->waits[0];
            if (!mark_is_good(mark) && !mark.line->failed) {
                wait_for(request, mark);
                line_hurry(mark.line);
                return false;
            }
            if (!mark_is_good(mark))
                fail(&request->failure, E_FAILED, "storage has failed");
            request->waits[0] = request->waits[1];
            request->waits[1] = (struct mark){0};
        }
        request->waits[0] = request->waits[1] = (struct mark){0};
        int (*next)(struct request *) = request->next;
        if (!next)
            return true;
        request->next = NULL;
        if (next(request) == PENDING)
            return false;
    }
}

int request_end(struct request *request)
{
    struct worker *worker = request->client->worker;
    uint32_t ppm = worker->options.pending_ppm;

    if (!step(request))
        return PENDING;
    if (ppm && loop_random(worker->loop) % 1000000 < ppm) {
        request_complete(request);
        return PENDING;
    }
    request->client->outstanding--;
    return DONE;
}

void request_go_on(struct request *request)
{
    list_remove(&request->link);
    if (step(request))
        request_complete(request);
}

void request_work(struct request *request)
{
    struct worker *worker = request->client->worker;

    list_append(&worker->jobs, &request->link);
    loop_defer(worker->loop, &worker->work, LOOP_DISPATCH);
}

void request_complete(struct request *request)
{
    struct worker *worker = request->client->worker;

    list_remove(&request->link);
    list_append(&worker->completions, &request->link);
    loop_defer(worker->loop, &worker->tell, LOOP_DISPATCH);
}

/* ---- opening and closing ---- */

static void login_cancel(struct client *client);

/* One more in the process, if there may be. */
static bool connection_count(struct worker *worker)
{
    uint32_t most = worker->options.connections_max;

    if (!worker->options.connections)
        return !most || worker->opened - worker->closed < most;
    uint32_t before =
        atomic_fetch_add_explicit(worker->options.connections, 1, memory_order_relaxed);
    if (!most || before < most)
        return true;
    atomic_fetch_sub_explicit(worker->options.connections, 1, memory_order_relaxed);
    return false;
}

static void connection_uncount(struct worker *worker)
{
    if (worker->options.connections)
        atomic_fetch_sub_explicit(worker->options.connections, 1, memory_order_relaxed);
}

struct client *client_open(struct worker *worker, const struct client_options *options,
                           struct failure *failure)
{
    if (worker->stopping) {
        fail(failure, E_CLOSED, "the broker is stopping");
        return NULL;
    }
    if (!options->is_operator && !connection_count(worker)) {
        fail(failure, E_LIMIT, "connection refused: connection limit (%u) is reached",
             worker->options.connections_max);
        return NULL;
    }
    struct client *client = memory_new(sizeof *client);
    client->worker = worker;
    client->options = *options;
    snprintf(client->peer_host, sizeof client->peer_host, "%s",
             options->peer_host ? options->peer_host : "");
    client->options.peer_host = client->peer_host;
    account_init(&client->account, &worker->memory, 0);
    list_init(&client->queues);
    list_init(&client->subscriptions);
    list_init(&client->publishers);
    list_init(&client->flow_link);
    client->id = ++worker->client_last;
    map_put_number(&worker->clients_by_id, client->id, client);
    list_append(&worker->clients, &client->link);
    worker->client_count++;
    worker->opened += !options->is_operator;
    return client;
}

struct client *client_new_proxy(struct worker *worker, const struct client_events *events,
                                void *session)
{
    struct client *client = memory_new(sizeof *client);

    client->worker = worker;
    client->options = (struct client_options){.events = events, .session = session};
    client->is_proxy = true;
    account_init(&client->account, &worker->memory, 0);
    list_init(&client->link);
    list_init(&client->queues);
    list_init(&client->subscriptions);
    list_init(&client->publishers);
    list_init(&client->flow_link);
    return client;
}

struct client *client_new_internal(struct worker *worker, const struct client_events *events,
                                   void *session, struct vhost *vhost)
{
    struct client *client = client_new_proxy(worker, events, session);

    client->is_proxy = false;
    client->is_internal = true;
    client->vhost = vhost;
    return client;
}

void client_close(struct client *client)
{
    struct list *link;

    if (client->closed)
        return;
    client->closed = true;
    login_cancel(client);
    list_remove(&client->flow_link);
    map_remove_number(&client->worker->clients_by_id, client->id);
    while ((link = list_first(&client->subscriptions)))
        subscription_free(CONTAINER_OF(link, struct subscription, client_link));
    while ((link = list_first(&client->publishers)))
        publisher_free((struct publisher *)(void *)link);
    while ((link = list_take_first(&client->queues))) {
        struct catalog_queue *queue = CONTAINER_OF(link, struct catalog_queue, owner_link);
        worker_delete_queue(client->worker, queue);
    }
    list_remove(&client->link);
    client->worker->client_count--;
    client->worker->closed += !client->options.is_operator;
    if (!client->options.is_operator)
        connection_uncount(client->worker);
}

struct client *worker_client(const struct worker *worker, uint64_t id)
{
    return map_get_number(&worker->clients_by_id, id);
}

bool client_idle(const struct client *client)
{
    return client->outstanding == 0;
}

void client_free(struct client *client)
{
    ASSERT(client->closed && client->outstanding == 0);
    account_fini(&client->account);
    route_cache_free(client->routes);
    free(client->user);
    free(client);
}

void client_abandon(struct client *client)
{
    struct list *link;

    while ((link = list_first(&client->subscriptions)))
        subscription_abandon(CONTAINER_OF(link, struct subscription, client_link));
    while ((link = list_first(&client->publishers)))
        publisher_free((struct publisher *)(void *)link);
    while (list_take_first(&client->queues))
        ;
    list_remove(&client->link);
    route_cache_free(client->routes);
    free(client->user);
    free(client);
}

/* ---- who and where ---- */

struct login {
    struct password_job hash;
    struct request *request;
    struct list link; /* logins, or login_waiters */
    bool waits;       /* nobody is hashing it */
    char user[NAME_MAX_BYTES + 1];
    bool has_digest;
    uint8_t digest[REMEMBERED_DIGEST_SIZE];
};

static bool listed(const char *list, struct slice name)
{
    while (list && *list) {
        size_t size = strcspn(list, ",");
        if (slice_equal(slice_of(list, size), name))
            return true;
        list += size + (list[size] == ',');
    }
    return false;
}

static void login_over(struct login *login);

static void logged_in(struct client *client, const struct user *user)
{
    bool is_another = client->user && strcmp(client->user, user->name) != 0;

    if (!client->user || is_another) {
        free(client->user);
        client->user = memory_text(slice_text(user->name));
    }
    if (is_another) { /* what was found out is about the one before */
        client->permission = NULL;
        route_cache_free(client->routes);
        client->routes = NULL;
    }
    client->may_impersonate = listed(user->tags, slice_text("impersonator"));
}

static void login_done(struct job *job)
{
    struct login *login = CONTAINER_OF(job, struct login, hash.job);
    struct request *request = login->request;
    struct client *client = request->client;
    struct user *user = catalog_user(&client->worker->catalog, slice_text(login->user));

    if (login->hash.result != 0 || !user) {
        fail(&request->failure, E_LOGIN, "user '%s' - invalid credentials", login->user);
    } else {
        logged_in(client, user);
        if (login->has_digest)
            remembered_add(&client->worker->remembered, login->digest,
                           loop_now_ns(client->worker->loop));
    }
    list_remove(&login->link);
    login_over(login);
    logins_go_on(client->worker);
}

/* One is hashed at a time, and what the others wait for is often just this one: a program's many
 * connections log in with the same password. */
static void login_start(struct worker *worker, struct login *login)
{
    login->hash.job = (struct job){
        .loop = worker->loop, .work = password_work, .done = login_done, .is_long = true};
    login->waits = !list_empty(&worker->logins) || loop_help(worker->loop, &login->hash.job) != 0;
    list_append(login->waits ? &worker->login_waiters : &worker->logins, &login->link);
    login->request->client->login = login;
}

void logins_free(struct worker *worker)
{
    struct list *link;

    list_move_all(&worker->logins, &worker->login_waiters);
    while ((link = list_take_first(&worker->logins)))
        free(CONTAINER_OF(link, struct login, link));
}

static void login_over(struct login *login)
{
    struct request *request = login->request;

    explicit_bzero(login->hash.password, sizeof login->hash.password);
    request->client->login = NULL;
    free(login);
    request_complete(request);
}

/* Its client has gone: nobody is to be kept waiting by it. */
static void login_cancel(struct client *client)
{
    if (!client->login || !client->login->waits)
        return;
    list_remove(&client->login->link);
    login_over(client->login);
}

/* Those who wait need no hashing when their password has been verified since. */
static bool login_is_over(struct worker *worker, struct login *login)
{
    struct client *client = login->request->client;
    const struct user *user = catalog_user(&worker->catalog, slice_text(login->user));

    if (!user || strcmp(user->hash, login->hash.hash) != 0 || !login->has_digest ||
        !remembered_has(&worker->remembered, login->digest, loop_now_ns(worker->loop)))
        return false;
    logged_in(client, user);
    return true;
}

void logins_go_on(struct worker *worker)
{
    struct list *link;

    while (list_empty(&worker->logins) && (link = list_take_first(&worker->login_waiters))) {
        struct login *login = CONTAINER_OF(link, struct login, link);
        if (!login_is_over(worker, login)) {
            login_start(worker, login);
            break; /* it may be waiting again, for want of helpers: then for the watch */
        }
        login_over(login);
    }
}

int broker_login(struct client *client, struct request *request, struct slice name,
                 struct slice password)
{
    struct worker *worker = client->worker;
    const struct user *user = catalog_user(&worker->catalog, name);

    request_begin(client, request);
    if (name.size > NAME_MAX_BYTES || password.size > PASSWORD_MAX || !user) {
        fail(&request->failure, E_LOGIN, "user '%.*s' - invalid credentials", SLICE_ARGS(name));
        return request_end(request);
    }
    if (!client->options.peer_is_loopback && listed(worker->options.loopback_users, name)) {
        fail(&request->failure, E_LOGIN, "user '%.*s' can only connect via localhost",
             SLICE_ARGS(name));
        return request_end(request);
    }
    struct login *login = memory_new(sizeof *login);
    login->has_digest = remembered_digest(&worker->remembered, name, slice_text(user->hash),
                                          password, login->digest);
    if (login->has_digest &&
        remembered_has(&worker->remembered, login->digest, loop_now_ns(worker->loop))) {
        logged_in(client, user);
        free(login);
        return request_end(request);
    }
    login->request = request;
    list_init(&login->link);
    memcpy(login->user, name.data, name.size);
    login->hash.verify = true;
    if (password.size)
        memcpy(login->hash.password, password.data, password.size);
    login->hash.password_size = password.size;
    snprintf(login->hash.hash, sizeof login->hash.hash, "%s", user->hash);
    login_start(worker, login);
    return PENDING;
}

int broker_enter(struct client *client, struct request *request, struct slice name)
{
    struct vhost *vhost = catalog_vhost(&client->worker->catalog, name);

    request_begin(client, request);
    ASSERT(client->user);
    if (!vhost)
        fail(&request->failure, E_NOT_FOUND, "vhost %.*s not found", SLICE_ARGS(name));
    else if (!catalog_permission(&client->worker->catalog, slice_text(client->user), vhost))
        fail(&request->failure, E_DENIED, "access to vhost '%.*s' refused for user '%s'",
             SLICE_ARGS(name), client->user);
    else if (client->vhost != vhost) {
        client->vhost = vhost;
        client->permission = NULL;
    }
    return request_end(request);
}

int client_may(struct client *client, enum access access, const char *kind, struct slice name,
               struct failure *failure)
{
    static const char *const words[] = {"configure", "write", "read"};
    const struct catalog *catalog = &client->worker->catalog;

    if (client->is_internal)
        return 0;
    if (!client->permission || client->permission_version != catalog->people_version) {
        client->permission = catalog_permission(catalog, slice_text(client->user), client->vhost);
        client->permission_version = catalog->people_version;
    }
    if (name.size == 0)
        name = slice_text("amq.default");
    const struct permission *p = client->permission;
    const struct pattern *pattern = !p                           ? NULL
                                    : access == ACCESS_CONFIGURE ? p->configure
                                    : access == ACCESS_WRITE     ? p->write
                                                                 : p->read;
    if (pattern && pattern_matches(pattern, name))
        return 0;
    return fail(failure, E_DENIED, "%s access to %s '%.*s' in vhost '%s' refused for user '%s'",
                words[access], kind, SLICE_ARGS(name), client->vhost->name, client->user);
}

/* ---- what a session may ask ---- */

struct slice client_user(const struct client *client)
{
    return client->user ? slice_text(client->user) : slice_of(NULL, 0);
}

bool client_may_impersonate(const struct client *client)
{
    return client->may_impersonate;
}

bool client_has_tag(const struct client *client, const char *tag)
{
    const struct user *user =
        client->user ? catalog_user(&client->worker->catalog, slice_text(client->user)) : NULL;

    return user && listed(user->tags, slice_text(tag));
}

const char *client_tags(const struct client *client)
{
    const struct user *user =
        client->user ? catalog_user(&client->worker->catalog, slice_text(client->user)) : NULL;

    return user ? user->tags : "";
}

struct account *client_account(struct client *client)
{
    return &client->account;
}

struct account *broker_message_account(struct client *client)
{
    return &client->worker->messages;
}

struct worker *client_worker(const struct client *client)
{
    return client->worker;
}

struct loop *worker_loop(const struct worker *worker)
{
    return worker->loop;
}

const struct logger *worker_logger(const struct worker *worker)
{
    return worker->logger;
}

const struct broker_settings *worker_settings(const struct worker *worker)
{
    return &worker->options.settings;
}
