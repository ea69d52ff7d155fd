#include "net/group.h"

#include "base/assert.h"
#include "base/memory.h"
#include "loop/mail.h"

#include <stdatomic.h>
#include <stdlib.h>

enum { CONNECTION = 1 }; /* a letter: the stream's pointer */

struct group_member {
    struct mailbox *box;
    group_take *take;
    void *context;
    _Atomic bool serves;
    _Atomic unsigned connections; /* with those on their way to it */
};

struct server_group {
    enum server_spread spread;
    unsigned count;
    unsigned latest; /* who got the last one; the first member's */
    _Atomic uint16_t port;
    struct office *office;
    struct group_member members[];
};

struct server_group *server_group_new(unsigned members, enum server_spread spread)
{
    struct server_group *group = memory_new(sizeof *group + members * sizeof(struct group_member));

    group->spread = spread;
    group->count = members;
    group->latest = members - 1;
    group->office = office_new(members);
    return group;
}

void server_group_free(struct server_group *group)
{
    office_free(group->office);
    free(group);
}

/* ---- connections on their way ---- */

static void received(void *context, unsigned from, unsigned kind, struct slice letter)
{
    struct group_member *member = context;
    struct stream *stream;

    (void)from;
    ASSERT(kind == CONNECTION && letter.size == sizeof stream);
    memcpy(&stream, letter.data, sizeof stream);
    if (atomic_load_explicit(&member->serves, memory_order_relaxed)) {
        member->take(member->context, stream);
        return;
    }
    stream_close(stream);
    atomic_fetch_sub_explicit(&member->connections, 1, memory_order_relaxed);
}

static void dropped(void *context, unsigned kind, struct slice letter)
{
    struct stream *stream;

    (void)context;
    (void)kind;
    memcpy(&stream, letter.data, sizeof stream);
    stream_close(stream);
}

static const struct mail_events events = {.received = received, .dropped = dropped};

/* Of those with the fewest connections the next after the last who got one; the first member when
 * nobody serves. */
static unsigned choose(struct server_group *group)
{
    unsigned chosen = 0;
    unsigned fewest = UINT32_MAX;

    for (unsigned i = 1; i <= group->count; i++) {
        unsigned at = (group->latest + i) % group->count;
        const struct group_member *member = &group->members[at];
        unsigned connections = atomic_load_explicit(&member->connections, memory_order_relaxed);
        if (connections >= fewest || !atomic_load_explicit(&member->serves, memory_order_relaxed))
            continue;
        chosen = at;
        fewest = connections;
    }
    group->latest = chosen;
    return chosen;
}

bool group_give(struct server_group *group, unsigned member, struct stream *stream)
{
    if (group->spread == SPREAD_HASHED)
        return false;
    unsigned to = choose(group);
    if (to == member)
        return false;
    group_count(group, to, 1);
    memcpy(mail_write(group->members[member].box, to, CONNECTION, sizeof stream), &stream,
           sizeof stream);
    return true;
}

/* ---- members ---- */

void group_enter(struct server_group *group, unsigned member, struct loop *loop, group_take *take,
                 void *context)
{
    ASSERT(member < group->count);
    struct group_member *m = &group->members[member];

    m->take = take;
    m->context = context;
    m->box = mailbox_open(group->office, member, loop, &events, m);
    atomic_store(&m->serves, true);
}

void group_refuse(struct server_group *group, unsigned member)
{
    atomic_store(&group->members[member].serves, false);
}

void group_leave(struct server_group *group, unsigned member)
{
    group_refuse(group, member);
    mailbox_close(group->members[member].box);
}

bool group_listens(const struct server_group *group, unsigned member,
                   struct listen_options *options)
{
    if (group->spread == SPREAD_COUNTED) {
        options->loose = true;
        return member == 0;
    }
    options->share_port = true;
    if (options->port == 0 && member > 0)
        options->port = group_port(group);
    return true;
}

uint16_t group_port(const struct server_group *group)
{
    return atomic_load_explicit(&group->port, memory_order_relaxed);
}

void group_set_port(struct server_group *group, uint16_t port)
{
    atomic_store_explicit(&group->port, port, memory_order_relaxed);
}

void group_count(struct server_group *group, unsigned member, int change)
{
    atomic_fetch_add_explicit(&group->members[member].connections, (unsigned)change,
                              memory_order_relaxed);
}

unsigned group_connections(const struct server_group *group)
{
    unsigned sum = 0;

    for (unsigned i = 0; i < group->count; i++)
        sum += atomic_load_explicit(&group->members[i].connections, memory_order_relaxed);
    return sum;
}
