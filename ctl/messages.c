#include "ctl/messages.h"

#include "ctl/table.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define PAGE_MAX      1000u /* messages that the API gives at once */
#define LIMIT_DEFAULT 50u
#define PARAMETERS    (8u + MESSAGES_WHERE_MAX)
#define PATH_SIZE     (sizeof "queues/*/*/messages?" + PARAMETERS * sizeof "*=*&")

static const struct table_column columns[] = {
    {"POSITION", "position", true},  {"STATE", "state", false},
    {"ARRIVED", "arrived", false},   {"BYTES", "payload_bytes", true},
    {"EXCHANGE", "exchange", false}, {"KEY", "routing_key", false},
    {"PAYLOAD", "payload", false},
};

static const struct table_column got_columns[] = {
    {"BYTES", "payload_bytes", true},
    {"EXCHANGE", "exchange", false},
    {"KEY", "routing_key", false},
    {"PAYLOAD", "payload", false},
};

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* ---- numbers ---- */

static bool parse(const char *text, unsigned long long *number, char **end)
{
    errno = 0;
    *number = strtoull(text, end, 10);
    return errno == 0 && *end != text && text[0] != '-';
}

static int parse_count(const char *text, unsigned long long *count, struct failure *failure)
{
    char *end;

    if (!parse(text, count, &end) || *end || *count == 0)
        return fail(failure, E_INVALID, "%s is no number from 1 on", text);
    return 0;
}

int messages_time(const char *text, char number[24], struct failure *failure)
{
    static const struct {
        const char *name;
        unsigned long long ms;
    } units[] = {{"s", 1000}, {"m", 60000}, {"h", 3600000}, {"d", 86400000}};
    unsigned long long value, now = (unsigned long long)time(NULL) * 1000;
    char *end;

    if (!parse(text, &value, &end))
        return fail(failure, E_INVALID, "%s is no time", text);
    for (size_t i = 0; *end && i < COUNT_OF(units); i++) {
        if (strcmp(end, units[i].name) != 0)
            continue;
        if (value > now / units[i].ms)
            return fail(failure, E_INVALID, "%s is longer ago than there were clocks", text);
        value = now - value * units[i].ms;
        end = strchr(end, 0);
    }
    if (*end)
        return fail(failure, E_INVALID, "%s is no time: 90s, 10m, 2h, 3d or milliseconds", text);
    snprintf(number, 24, "%llu", value);
    return 0;
}

/* ---- the query ---- */

/* A path with its words, which are encoded when it is asked for. */
struct query {
    char path[PATH_SIZE];
    const char *words[2 + 2 * PARAMETERS + 1];
    unsigned count;
    char names[MESSAGES_WHERE_MAX][256];
    char since[24], until[24];
};

static void add(struct query *query, const char *name, const char *value)
{
    size_t size = strlen(query->path);

    if (!value)
        return;
    snprintf(query->path + size, sizeof query->path - size, "%s*=*", query->count > 2 ? "&" : "?");
    query->words[query->count++] = name;
    query->words[query->count++] = value;
}

static int add_where(struct query *query, unsigned index, const char *where,
                     struct failure *failure)
{
    const char *equals = strchr(where, '=');
    size_t size = equals ? (size_t)(equals - where) : 0;

    if (size == 0 || size >= sizeof query->names[0])
        return fail(failure, E_INVALID, "%s is no condition: NAME=VALUE", where);
    memcpy(query->names[index], where, size);
    query->names[index][size] = 0;
    add(query, query->names[index], equals + 1);
    return 0;
}

static int fill(struct query *query, const char *vhost, const char *queue,
                const struct messages_wanted *wanted, struct failure *failure)
{
    int result = 0;

    *query = (struct query){.path = "queues/*/*/messages", .words = {vhost, queue}, .count = 2};
    add(query, "state", wanted->state);
    if (wanted->since && (result = messages_time(wanted->since, query->since, failure)) == 0)
        add(query, "since", query->since);
    if (result == 0 && wanted->until &&
        (result = messages_time(wanted->until, query->until, failure)) == 0)
        add(query, "until", query->until);
    for (unsigned i = 0; result == 0 && i < wanted->where_count; i++)
        result = add_where(query, i, wanted->where[i], failure);
    return result;
}

/* ---- browsing ---- */

/* Appends the page's messages; *from becomes where the next one begins. 1: there is one. */
static int take_page(json_t *page, json_t *messages, char from[24], struct failure *failure)
{
    json_t *found = json_object_get(page, "messages"), *next = json_object_get(page, "next");

    if (!json_is_array(found))
        return fail(failure, E_FAILED, "what came is no list of messages");
    json_array_extend(messages, found);
    if (!json_is_integer(next))
        return 0;
    snprintf(from, 24, "%lld", (long long)json_integer_value(next));
    return 1;
}

static int collect(struct api *api, struct query *query, const char *start,
                   unsigned long long limit, json_t *messages, struct failure *failure)
{
    char from[24], page_limit[24], path[PATH_SIZE];
    unsigned count = query->count;
    int result = 1;

    snprintf(from, sizeof from, "%s", start ? start : "1");
    memcpy(path, query->path, sizeof path);
    while (result == 1 && json_array_size(messages) < limit) {
        unsigned long long left = limit - json_array_size(messages);
        json_t *page;
        snprintf(page_limit, sizeof page_limit, "%llu", left < PAGE_MAX ? left : PAGE_MAX);
        query->count = count;
        memcpy(query->path, path, sizeof path);
        add(query, "from", from);
        add(query, "limit", page_limit);
        query->words[query->count] = NULL;
        result = api_call(api, "GET", query->path, query->words, NULL, &page, failure);
        if (result == 0)
            result = take_page(page, messages, from, failure);
        json_decref(page);
    }
    return result < 0 ? result : 0;
}

/* A time as people write it, here. */
static void add_arrival(json_t *message)
{
    time_t seconds = (time_t)(json_integer_value(json_object_get(message, "arrived_at")) / 1000);
    struct tm parts;
    char text[32];

    if (localtime_r(&seconds, &parts) && strftime(text, sizeof text, "%Y-%m-%d %H:%M:%S", &parts))
        json_object_set_new(message, "arrived", json_string(text));
}

static void print(json_t *messages, const struct table_column *shown, size_t count, bool as_json,
                  FILE *out)
{
    json_t *message;
    size_t i;

    if (as_json) {
        json_dumpf(messages, out, JSON_INDENT(2));
        fputc('\n', out);
        return;
    }
    json_array_foreach(messages, i, message)
    {
        if (json_object_get(message, "arrived_at"))
            add_arrival(message);
    }
    table_print(shown, count, messages, out);
}

int messages_browse(struct api *api, const char *vhost, const char *queue,
                    const struct messages_wanted *wanted, bool as_json, FILE *out,
                    struct failure *failure)
{
    unsigned long long limit = LIMIT_DEFAULT;
    struct query query;

    int result = wanted->limit ? parse_count(wanted->limit, &limit, failure) : 0;
    if (result == 0)
        result = fill(&query, vhost, queue, wanted, failure);
    if (result != 0)
        return result;
    json_t *messages = json_array();
    result = collect(api, &query, wanted->from, limit, messages, failure);
    if (result == 0)
        print(messages, columns, COUNT_OF(columns), as_json, out);
    json_decref(messages);
    return result;
}

/* ---- taking and publishing ---- */

int messages_get(struct api *api, const char *vhost, const char *queue, const char *limit,
                 const char *ackmode, bool as_json, FILE *out, struct failure *failure)
{
    const char *words[] = {vhost, queue, NULL};
    unsigned long long count = 1;
    json_t *messages;

    int result = limit ? parse_count(limit, &count, failure) : 0;
    if (result != 0)
        return result;
    json_t *body = json_pack("{s:I, s:s, s:s}", "count", (json_int_t)count, "ackmode",
                             ackmode ? ackmode : "ack_requeue_true", "encoding", "auto");
    result = api_call(api, "POST", "queues/*/*/get", words, body, &messages, failure);
    if (result == 0)
        print(messages, got_columns, COUNT_OF(got_columns), as_json, out);
    json_decref(messages);
    return result;
}

static int add_header(json_t *headers, const char *header, struct failure *failure)
{
    const char *equals = strchr(header, '=');
    char name[256];

    if (!equals || equals == header || (size_t)(equals - header) >= sizeof name)
        return fail(failure, E_INVALID, "%s is no header: NAME=VALUE", header);
    memcpy(name, header, (size_t)(equals - header));
    name[equals - header] = 0;
    return json_object_set_new(headers, name, json_string(equals + 1)) == 0
               ? 0
               : fail(failure, E_INVALID, "%s is no UTF-8", header);
}

int messages_publish(struct api *api, const char *vhost, const char *exchange, const char *key,
                     const char *payload, const char *const *header_texts, unsigned header_count,
                     struct failure *failure)
{
    const char *words[] = {vhost, exchange ? exchange : "amq.default", NULL};
    json_t *headers = json_object(), *answer = NULL;
    int result = 0;

    for (unsigned i = 0; result == 0 && i < header_count; i++)
        result = add_header(headers, header_texts[i], failure);
    json_t *body =
        json_pack("{s:{s:i, s:o}, s:s, s:s, s:s}", "properties", "delivery_mode", 2, "headers",
                  headers, "routing_key", key, "payload", payload, "payload_encoding", "string");
    if (result == 0 && !body)
        result = fail(failure, E_INVALID, "the key or the payload is no UTF-8");
    if (result != 0) {
        json_decref(body);
        return result;
    }
    result = api_call(api, "POST", "exchanges/*/*/publish", words, body, &answer, failure);
    if (result == 0 && !json_is_true(json_object_get(answer, "routed")))
        result = fail(failure, E_NOT_FOUND, "no queue wanted it");
    json_decref(answer);
    return result;
}
