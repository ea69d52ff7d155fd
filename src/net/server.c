#include "net/server.h"

#include "base/assert.h"
#include "base/memory.h"
#include "net/connection.h"

#include <stdlib.h>

struct server {
    struct connection_host host;
    struct server_protocol *protocols;
    struct listener *listener; /* NULL when draining */
    uint16_t port;
    unsigned count;
    struct list connections;

    /* Draining walks over all connections in slices, those not visited yet are in `waiting`: once
     * to ask, at the deadline again to close. */
    struct list waiting;
    struct task visit;
    struct timer deadline;
    char *drain_reason;
    bool aborts;
    bool is_abandoned;
};

static void count(struct server *server, int change)
{
    const struct server_options *options = &server->host.options;

    server->count += (unsigned)change;
    if (options->group)
        group_count(options->group, options->member, change);
}

static void gone(struct connection_host *host)
{
    count(CONTAINER_OF(host, struct server, host), -1);
}

static void accept_failed(struct server *server, int error)
{
    server->host.statistics.accept_errors++;
    log_error(server->host.options.logger, "connection", "port %u: cannot accept connections: %s",
              server->port, error == E_LIMIT ? "no file descriptors are left" : error_name(error));
}

/* A stream of this loop, that has been counted. */
static void connect_stream(struct server *server, struct stream *stream)
{
    struct connection *connection = connection_new(&server->host, stream);

    list_append(&server->connections, &connection->link);
    server->host.statistics.accepted++;
}

/* A stream that another member has accepted, and counted for this one. */
static void take(void *context, struct stream *stream)
{
    struct server *server = context;
    int result = stream_join(stream, server->host.options.loop);

    server->count++;
    if (result == 0) {
        connect_stream(server, stream);
        return;
    }
    count(server, -1);
    accept_failed(server, result);
}

static bool is_full(const struct server *server)
{
    const struct server_options *options = &server->host.options;
    unsigned connections = options->group ? group_connections(options->group) : server->count;

    return options->connections_max && connections >= options->connections_max;
}

static void accepted(void *context, struct stream *stream, int error)
{
    struct server *server = context;
    const struct server_options *options = &server->host.options;
    struct server_statistics *statistics = &server->host.statistics;

    if (!stream) {
        accept_failed(server, error);
        return;
    }
    if (is_full(server)) {
        if (statistics->refused++ == 0)
            log_warning(options->logger, "connection",
                        "port %u: more than %u connections; more are closed at once", server->port,
                        options->connections_max);
        stream_close(stream);
        return;
    }
    if (options->group && group_give(options->group, options->member, stream))
        return;
    if (options->listen.loose && (error = stream_join(stream, options->loop)) < 0) {
        accept_failed(server, error);
        return;
    }
    count(server, 1);
    connect_stream(server, stream);
}

/* ---- draining ---- */

static void visit_run(struct task *task)
{
    struct server *server = CONTAINER_OF(task, struct server, visit);
    struct loop *loop = server->host.options.loop;
    uint64_t start_ns = loop_precise_ns(loop);
    struct list *link;

    while ((link = list_take_first(&server->waiting)) != NULL) {
        struct connection *connection = CONTAINER_OF(link, struct connection, link);
        list_append(&server->connections, link);
        if (server->aborts)
            connection_abort(connection);
        else
            connection_drain(connection, server->drain_reason, server->deadline.at_ns);
        if (loop_precise_ns(loop) - start_ns >= TURN_SLICE_NS)
            break;
    }
    if (!list_empty(&server->waiting))
        loop_defer(loop, &server->visit, LOOP_DISPATCH);
}

static void visit_all(struct server *server)
{
    list_move_all(&server->waiting, &server->connections);
    loop_defer(server->host.options.loop, &server->visit, LOOP_DISPATCH);
}

static void deadline_fire(struct timer *timer)
{
    struct server *server = CONTAINER_OF(timer, struct server, deadline);

    server->aborts = true;
    visit_all(server);
}

static void listen_no_more(struct server *server)
{
    const struct server_options *options = &server->host.options;

    if (options->group)
        group_refuse(options->group, options->member);
    if (server->listener)
        listener_close(server->listener);
    server->listener = NULL;
}

void server_drain(struct server *server, const char *reason, uint64_t deadline_ns)
{
    listen_no_more(server);
    free(server->drain_reason);
    server->drain_reason = memory_text(slice_text(reason));
    timer_set(&server->deadline, deadline_ns);
    visit_all(server);
}

/* ---- start and end ---- */

static int listen_for(struct server *server, struct failure *failure)
{
    struct server_options *options = &server->host.options;

    if (options->group && !group_listens(options->group, options->member, &options->listen)) {
        server->port = group_port(options->group);
        return 0;
    }
    int result =
        loop_listen(options->loop, &options->listen, accepted, server, &server->listener, failure);
    if (result < 0)
        return result;
    server->port = listener_port(server->listener);
    if (options->group)
        group_set_port(options->group, server->port);
    return 0;
}

int server_open(const struct server_options *options, struct server **server,
                struct failure *failure)
{
    struct server *made = memory_new(sizeof *made);
    size_t size = options->protocol_count * sizeof made->protocols[0];

    ASSERT(options->protocol_count > 0);
    made->protocols = memory_new(size);
    memcpy(made->protocols, options->protocols, size);
    made->host.options = *options;
    made->host.options.protocols = made->protocols;
    made->host.gone = gone;
    connection_host_init(&made->host);
    account_init(&made->host.account, options->account, 0);
    list_init(&made->connections);
    list_init(&made->waiting);
    task_init(&made->visit, visit_run);
    timer_init(&made->deadline, options->loop, deadline_fire);
    if (options->group)
        group_enter(options->group, options->member, options->loop, take, made);
    int result = listen_for(made, failure);
    if (result < 0) {
        server_free(made);
        return result;
    }
    *server = made;
    return 0;
}

uint16_t server_port(const struct server *server)
{
    return server->port;
}

unsigned server_connection_count(const struct server *server)
{
    return server->count;
}

const struct server_statistics *server_statistics(const struct server *server)
{
    return &server->host.statistics;
}

void server_abandon(struct server *server)
{
    server->is_abandoned = true;
    list_move_all(&server->connections, &server->waiting);
    LIST_EACH (&server->connections, link)
        connection_abandon(CONTAINER_OF(link, struct connection, link));
}

void server_free(struct server *server)
{
    struct list *link;

    while (server->is_abandoned && (link = list_first(&server->connections)))
        connection_free(CONTAINER_OF(link, struct connection, link));
    ASSERT(server->count == 0);
    listen_no_more(server);
    if (server->host.options.group)
        group_leave(server->host.options.group, server->host.options.member);
    timer_stop(&server->deadline);
    task_cancel(&server->visit);
    connection_host_fini(&server->host);
    account_fini(&server->host.account);
    free(server->drain_reason);
    free(server->protocols);
    free(server);
}
