#include "protocols/http/management_private.h"

#include "base/memory.h"

#include <stdlib.h>

/* Of a publish: 16 MiB as base64, and what stands around it. */
#define PUBLISH_BODY_MAX (23u << 20)
#define POLICY_BODY_MAX  32768u

static const struct http_route routes[] = {
    {"GET", "api/overview", HTTP_USER, 4096, management_overview},
    {"GET", "api/whoami", HTTP_USER, 4096, management_whoami},
    {"GET", "api/queues", HTTP_USER, 4096, management_queues},
    {"GET", "api/queues/*", HTTP_USER, 4096, management_queues_of_vhost},
    {"GET", "api/queues/*/*", HTTP_USER, 4096, management_queue},
    {"POST", "api/queues/*/*/actions", HTTP_ADMINISTRATOR, 4096, management_queue_action},
    {"GET", "api/queues/*/*/messages", HTTP_USER, 4096, management_browse},
    {"POST", "api/queues/*/*/get", HTTP_USER, 4096, management_get},
    {"POST", "api/queues/*/*/redrive", HTTP_USER, 16384, management_redrive},
    {"GET", "api/redrives", HTTP_USER, 4096, management_redrives},
    {"GET", "api/redrives/*", HTTP_USER, 4096, management_redrive_one},
    {"DELETE", "api/redrives/*", HTTP_USER, 4096, management_redrive_stop},
    {"POST", "api/exchanges/*/*/publish", HTTP_USER, PUBLISH_BODY_MAX, management_publish},
    {"POST", "api/rebalance/queues", HTTP_ADMINISTRATOR, 4096, management_rebalance},
    {"GET", "api/policies", HTTP_USER, 4096, management_policies},
    {"GET", "api/policies/*", HTTP_USER, 4096, management_policies_of_vhost},
    {"GET", "api/policies/*/*", HTTP_POLICYMAKER, 4096, management_policy},
    {"PUT", "api/policies/*/*", HTTP_POLICYMAKER, POLICY_BODY_MAX, management_set_policy},
    {"DELETE", "api/policies/*/*", HTTP_POLICYMAKER, 4096, management_clear_policy},
    {"GET", "api/operator-policies", HTTP_USER, 4096, management_operator_policies},
    {"GET", "api/operator-policies/*", HTTP_USER, 4096, management_operator_policies_of_vhost},
    {"GET", "api/operator-policies/*/*", HTTP_ADMINISTRATOR, 4096, management_operator_policy},
    {"PUT", "api/operator-policies/*/*", HTTP_ADMINISTRATOR, POLICY_BODY_MAX,
     management_set_operator_policy},
    {"DELETE", "api/operator-policies/*/*", HTTP_ADMINISTRATOR, 4096,
     management_clear_operator_policy},
};

const struct http_route *management_routes(size_t *count)
{
    *count = sizeof routes / sizeof routes[0];
    return routes;
}

/* ---- who am I ---- */

static json_t *tags_of(const struct client *client)
{
    json_t *tags = json_array();

    for (const char *at = client_tags(client); *at;) {
        size_t size = strcspn(at, ",");
        json_array_append_new(tags, http_json_text(slice_of(at, size)));
        at += size + (at[size] == ',');
    }
    return tags;
}

void management_whoami(struct exchange *exchange)
{
    http_json_answer(exchange, 200,
                     json_pack("{s:o, s:o, s:b}", "name",
                               http_json_text(client_user(exchange->client)), "tags",
                               tags_of(exchange->client), "is_internal_user", 1));
}

/* ---- overview ---- */

struct overview {
    unsigned workers;
    struct worker_report reports[];
};

static json_t *number(uint64_t value)
{
    return json_integer(value > INT64_MAX ? INT64_MAX : (json_int_t)value);
}

static json_t *names_and_versions(const struct exchange *exchange)
{
    const struct broker_settings *settings = worker_settings(exchange->site->worker);

    return json_pack("{s:s, s:s, s:s, s:s, s:s, s:s, s:s, s:s}", "management_version",
                     settings->product_version, "rabbitmq_version", settings->product_version,
                     "product_name", settings->product_name, "product_version",
                     settings->product_version, "sluice_version", SLUICE_VERSION, "cluster_name",
                     settings->cluster_name, "node", settings->node_name, "rates_mode", "none");
}

static void add_encryption(struct worker_report *sum, const struct worker_report *report)
{
    sum->log.encrypted_segments += report->log.encrypted_segments;
    sum->log.encrypted_bytes += report->log.encrypted_bytes;
    sum->log.plain_segments += report->log.plain_segments;
    sum->log.plain_bytes += report->log.plain_bytes;
    sum->log.keys_behind += report->log.keys_behind;
    if (report->log.master_key)
        sum->log.master_key = report->log.master_key;
    worker_report_add_keys(sum, report->log.keys_needed, report->log.keys_needed_count);
}

/* The ids of master keys, and how far the log is encrypted under which. */
static json_t *encryption_of(const struct worker_report *sum)
{
    json_t *needed = json_array();

    for (uint32_t i = 0; i < sum->log.keys_needed_count; i++)
        json_array_append_new(needed, number(sum->log.keys_needed[i]));
    return json_pack("{s:b, s:o, s:o, s:o, s:o, s:o, s:o, s:o}", "has_keys",
                     sum->log.master_key != 0, "current_key", number(sum->log.master_key),
                     "needed_keys", needed, "segments_behind", number(sum->log.keys_behind),
                     "encrypted_segments", number(sum->log.encrypted_segments), "encrypted_bytes",
                     number(sum->log.encrypted_bytes), "plain_segments",
                     number(sum->log.plain_segments), "plain_bytes", number(sum->log.plain_bytes));
}

/* Of all virtual hosts: for those who may see all. */
static void add_totals(json_t *answer, const struct exchange *exchange,
                       const struct overview *overview)
{
    struct worker_report sum = {0};
    struct catalog_counts counts;

    for (unsigned i = 0; i < overview->workers; i++) {
        const struct worker_report *report = &overview->reports[i];
        sum.connections += report->connections;
        sum.consumers += report->consumers;
        sum.queues += report->queues;
        sum.messages_ready += report->messages_ready;
        sum.messages_leased += report->messages_leased;
        sum.messages_delayed += report->messages_delayed;
        sum.published += report->published;
        sum.delivered += report->delivered;
        sum.log.shards += report->log.shards;
        add_encryption(&sum, report);
    }
    broker_catalog_counts(exchange->client, &counts);
    json_object_set_new(answer, "object_totals",
                        json_pack("{s:o, s:o, s:o, s:o}", "connections", number(sum.connections),
                                  "consumers", number(sum.consumers), "exchanges",
                                  number(counts.exchanges), "queues", number(sum.queues)));
    json_object_set_new(answer, "queue_totals",
                        json_pack("{s:o, s:o, s:o, s:o}", "messages",
                                  number(sum.messages_ready + sum.messages_leased),
                                  "messages_ready", number(sum.messages_ready),
                                  "messages_unacknowledged", number(sum.messages_leased),
                                  "messages_delayed", number(sum.messages_delayed)));
    json_object_set_new(answer, "message_stats",
                        json_pack("{s:o, s:o}", "publish", number(sum.published), "deliver_get",
                                  number(sum.delivered)));
    json_object_set_new(answer, "workers", number(overview->workers));
    json_object_set_new(answer, "shards", number(sum.log.shards));
    json_object_set_new(answer, "encryption", encryption_of(&sum));
}

static void overview_came(struct exchange *exchange)
{
    json_t *answer = names_and_versions(exchange);

    if (exchange->request.failure.code != 0) {
        json_decref(answer);
        exchange_fail_as(exchange, &exchange->request.failure);
        return;
    }
    add_totals(answer, exchange, exchange->state);
    http_json_answer(exchange, 200, answer);
}

void management_overview(struct exchange *exchange)
{
    unsigned workers = worker_of_how_many(exchange->site->worker);

    if (!client_has_tag(exchange->client, "monitoring") &&
        !client_has_tag(exchange->client, "administrator")) {
        http_json_answer(exchange, 200, names_and_versions(exchange));
        return;
    }
    struct overview *overview =
        memory_new(sizeof *overview + workers * sizeof overview->reports[0]);
    overview->workers = workers;
    exchange->state = overview;
    exchange->release = free;
    exchange_wait(exchange, broker_report(exchange->client, &exchange->request, overview->reports),
                  overview_came);
}
