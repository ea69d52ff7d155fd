#include "protocols/http/metrics.h"

#include "base/memory.h"

#include <inttypes.h>
#include <stddef.h>
#include <stdlib.h>

static http_step metrics_scrape;

static const struct http_route routes[] = {
    {"GET", "metrics", HTTP_ANYBODY, 4096, metrics_scrape},
};

const struct http_route *metrics_routes(size_t *count)
{
    *count = sizeof routes / sizeof routes[0];
    return routes;
}

/* ---- what there is to tell ---- */

enum unit { UNIT_ONE, UNIT_SECONDS }; /* seconds: counted in nanoseconds */

struct metric {
    const char *name, *type, *help;
    size_t offset; /* in struct worker_report */
    enum unit unit;
};

#define OF(member) offsetof(struct worker_report, member)

/* Sums over all workers. */
static const struct metric totals[] = {
    {"rabbitmq_connections", "gauge", "Connections currently open", OF(connections), UNIT_ONE},
    {"rabbitmq_connections_opened_total", "counter", "Total number of connections opened",
     OF(opened), UNIT_ONE},
    {"rabbitmq_connections_closed_total", "counter", "Total number of connections closed",
     OF(closed), UNIT_ONE},
    {"rabbitmq_queues", "gauge", "Queues available", OF(queues), UNIT_ONE},
    {"rabbitmq_consumers", "gauge", "Consumers currently connected", OF(consumers), UNIT_ONE},
    {"rabbitmq_queue_messages_ready", "gauge", "Messages ready to be delivered to consumers",
     OF(messages_ready), UNIT_ONE},
    {"rabbitmq_queue_messages_unacked", "gauge",
     "Messages delivered to consumers but not yet acknowledged", OF(messages_leased), UNIT_ONE},
    {"sluice_queue_messages_delayed", "gauge",
     "Messages that wait for their time, neither ready nor unacknowledged", OF(messages_delayed),
     UNIT_ONE},
};

/* Of each worker. */
static const struct metric workers[] = {
    {"sluice_turns_total", "counter", "Turns of the worker's loop", OF(turns), UNIT_ONE},
    {"sluice_turns_long_total", "counter", "Turns that took more than 1 ms", OF(turns_long),
     UNIT_ONE},
    {"sluice_turns_seconds_total", "counter", "Time spent in turns, not waiting", OF(turns_ns),
     UNIT_SECONDS},
    {"sluice_turn_longest_seconds", "gauge", "The longest turn since the start", OF(turn_ns_max),
     UNIT_SECONDS},
    {"sluice_mail_letters_total", "counter", "Letters written to other workers", OF(letters_sent),
     UNIT_ONE},
    {"sluice_mail_parcels_total", "counter", "Parcels in which they went off", OF(parcels_sent),
     UNIT_ONE},
    {"sluice_mail_bytes_total", "counter", "Bytes of letters written to other workers",
     OF(mail_bytes), UNIT_ONE},
    {"sluice_mail_wakes_total", "counter", "Times that another worker had to be woken for mail",
     OF(wakes), UNIT_ONE},
    {"sluice_connections", "gauge", "Connections of the worker", OF(connections), UNIT_ONE},
    {"sluice_queues", "gauge", "Queues that live with the worker", OF(queues), UNIT_ONE},
    {"sluice_messages_published_total", "counter", "Messages that its clients published to queues",
     OF(published), UNIT_ONE},
    {"sluice_messages_delivered_total", "counter", "Messages given to its clients", OF(delivered),
     UNIT_ONE},
    {"sluice_memory_bytes", "gauge", "Memory that clients made grow", OF(memory_bytes), UNIT_ONE},
    {"sluice_message_memory_bytes", "gauge", "Of that, messages and queues", OF(message_bytes),
     UNIT_ONE},
    {"sluice_log_shards", "gauge", "Shards that the worker hosts", OF(log.shards), UNIT_ONE},
    {"sluice_log_shards_failed", "gauge", "Shards whose storage has failed", OF(log.failed_shards),
     UNIT_ONE},
    {"sluice_log_syncs_total", "counter", "Syncs of the logs", OF(log.syncs), UNIT_ONE},
    {"sluice_log_sync_seconds_total", "counter", "Time that syncs took", OF(log.sync_ns),
     UNIT_SECONDS},
    {"sluice_log_sync_longest_seconds", "gauge", "The longest sync since the start",
     OF(log.sync_ns_max), UNIT_SECONDS},
    {"sluice_log_blocks_total", "counter", "Blocks written", OF(log.blocks), UNIT_ONE},
    {"sluice_log_written_bytes_total", "counter", "Bytes written", OF(log.bytes_written), UNIT_ONE},
    {"sluice_log_read_bytes_total", "counter", "Bytes read back", OF(log.bytes_read), UNIT_ONE},
    {"sluice_log_unsynced_bytes", "gauge", "Bytes that are not on disk yet", OF(log.unsynced_bytes),
     UNIT_ONE},
    {"sluice_log_segments", "gauge", "Segments of the logs", OF(log.segments), UNIT_ONE},
    {"sluice_log_segment_bytes", "gauge", "Bytes in segments", OF(log.segment_bytes), UNIT_ONE},
    {"sluice_log_segments_removed_total", "counter", "Segments given up, as nothing in them lived",
     OF(log.segments_removed), UNIT_ONE},
    {"sluice_log_checkpoints_total", "counter", "Checkpoints completed", OF(log.checkpoints),
     UNIT_ONE},
    {"sluice_log_write_failures_total", "counter", "Writes and syncs that failed",
     OF(log.write_failures), UNIT_ONE},
    {"sluice_log_corrupt_reads_total", "counter", "Reads that found corrupt bytes",
     OF(log.corrupt_reads), UNIT_ONE},
    {"sluice_log_encrypted_bytes", "gauge", "Of the bytes in segments, those encrypted",
     OF(log.encrypted_bytes), UNIT_ONE},
    {"sluice_log_plain_bytes", "gauge", "Of the bytes in segments, those in the clear",
     OF(log.plain_bytes), UNIT_ONE},
    {"sluice_log_keys_behind", "gauge", "Segments whose keys are wrapped in an older master key",
     OF(log.keys_behind), UNIT_ONE},
};

#define COUNT(array) (sizeof(array) / sizeof(array)[0])

struct scrape {
    unsigned workers;
    struct worker_report reports[];
};

static uint64_t value_of(const struct metric *metric, const struct worker_report *report)
{
    uint64_t value;

    memcpy(&value, (const uint8_t *)report + metric->offset, sizeof value);
    return value;
}

static void print_head(struct http_text *page, const struct metric *metric)
{
    http_text_print(page, "# HELP %s %s\n# TYPE %s %s\n", metric->name, metric->help, metric->name,
                    metric->type);
}

static void print_value(struct http_text *page, const struct metric *metric, uint64_t value)
{
    if (metric->unit == UNIT_SECONDS)
        http_text_print(page, "%" PRIu64 ".%09" PRIu64 "\n", value / 1000000000,
                        value % 1000000000);
    else
        http_text_print(page, "%" PRIu64 "\n", value);
}

static void print_totals(struct http_text *page, const struct scrape *scrape)
{
    for (size_t i = 0; i < COUNT(totals); i++) {
        uint64_t sum = 0;
        for (unsigned w = 0; w < scrape->workers; w++)
            sum += value_of(&totals[i], &scrape->reports[w]);
        print_head(page, &totals[i]);
        http_text_print(page, "%s ", totals[i].name);
        print_value(page, &totals[i], sum);
    }
}

static void print_workers(struct http_text *page, const struct scrape *scrape)
{
    for (size_t i = 0; i < COUNT(workers); i++) {
        print_head(page, &workers[i]);
        for (unsigned w = 0; w < scrape->workers; w++) {
            http_text_print(page, "%s{worker=\"%u\"} ", workers[i].name, w);
            print_value(page, &workers[i], value_of(&workers[i], &scrape->reports[w]));
        }
    }
}

/* ---- who we are ---- */

/* The value of a label: backslash, quote and line end are escaped. */
static void print_label(struct http_text *page, const char *name, const char *value)
{
    http_text_print(page, "%s=\"", name);
    for (; *value; value++) {
        if (*value == '\\' || *value == '"')
            http_text_print(page, "\\%c", *value);
        else if (*value == '\n')
            http_text_print(page, "\\n");
        else
            http_text_print(page, "%c", *value);
    }
    http_text_print(page, "\"");
}

static void print_identity(struct http_text *page, const struct exchange *exchange)
{
    const struct broker_settings *settings = worker_settings(exchange->site->worker);
    uint64_t up_ns = loop_now_ns(worker_loop(exchange->site->worker)) - exchange->site->started_ns;

    http_text_print(page, "# HELP rabbitmq_build_info Version of the broker\n"
                          "# TYPE rabbitmq_build_info gauge\nrabbitmq_build_info{");
    print_label(page, "rabbitmq_version", settings->product_version);
    http_text_print(page, ",");
    print_label(page, "sluice_version", SLUICE_VERSION);
    http_text_print(page, "} 1\n# HELP rabbitmq_identity_info Names of the node and its cluster\n"
                          "# TYPE rabbitmq_identity_info gauge\nrabbitmq_identity_info{");
    print_label(page, "rabbitmq_node", settings->node_name);
    http_text_print(page, ",");
    print_label(page, "rabbitmq_cluster", settings->cluster_name);
    http_text_print(page,
                    "} 1\n# HELP sluice_uptime_seconds Time since the start\n"
                    "# TYPE sluice_uptime_seconds gauge\nsluice_uptime_seconds %" PRIu64
                    ".%03" PRIu64 "\n",
                    up_ns / 1000000000, up_ns / 1000000 % 1000);
}

/* What is one number for the whole process. */
static void print_process(struct http_text *page, const struct scrape *scrape)
{
    uint64_t messages = 0;

    for (unsigned i = 0; i < scrape->workers; i++)
        messages += scrape->reports[i].messages_ready + scrape->reports[i].messages_leased;
    http_text_print(page,
                    "# HELP rabbitmq_queue_messages Sum of ready and unacknowledged messages\n"
                    "# TYPE rabbitmq_queue_messages gauge\nrabbitmq_queue_messages %" PRIu64 "\n",
                    messages);
    if (scrape->reports[0].disk_free_bytes != UINT64_MAX)
        http_text_print(page,
                        "# HELP rabbitmq_disk_space_available_bytes Disk space available in bytes\n"
                        "# TYPE rabbitmq_disk_space_available_bytes gauge\n"
                        "rabbitmq_disk_space_available_bytes %" PRIu64 "\n",
                        scrape->reports[0].disk_free_bytes);
}

/* ---- a scrape ---- */

static void report_came(struct exchange *exchange)
{
    const struct scrape *scrape = exchange->state;
    struct http_text *page = &exchange->page;

    print_identity(page, exchange);
    print_totals(page, scrape);
    print_process(page, scrape);
    print_workers(page, scrape);
    if (page->failed)
        exchange_fail(exchange, 503, NULL, "there is no memory for the answer");
    else
        exchange_answer(exchange, 200, "text/plain; version=0.0.4; charset=utf-8",
                        http_text_slice(page));
}

static void metrics_scrape(struct exchange *exchange)
{
    unsigned count = worker_of_how_many(exchange->site->worker);
    struct scrape *scrape = memory_new(sizeof *scrape + count * sizeof scrape->reports[0]);

    scrape->workers = count;
    exchange->state = scrape;
    exchange->release = free;
    exchange_wait(exchange, broker_report(exchange->client, &exchange->request, scrape->reports),
                  report_came);
}
