#include "ctl/queues.h"

#include "ctl/table.h"

static const struct table_column columns[] = {
    {"VHOST", "vhost", false},
    {"NAME", "name", false},
    {"TYPE", "type", false},
    {"READY", "messages_ready", true},
    {"UNACKED", "messages_unacknowledged", true},
    {"CONSUMERS", "consumers", true},
    {"SHARD", "shard", true},
    {"WORKER", "worker", true},
};

#define COLUMNS (sizeof columns / sizeof columns[0])

int queues_list(struct api *api, const char *vhost, bool as_json, FILE *out,
                struct failure *failure)
{
    const char *words[] = {vhost, NULL};
    json_t *queues;
    int result = api_call(api, "GET", vhost ? "queues/*" : "queues", words, NULL, &queues, failure);

    if (result != 0)
        return result;
    if (!json_is_array(queues)) {
        result = fail(failure, E_FAILED, "what came is no list of queues");
    } else if (as_json) {
        json_dumpf(queues, out, JSON_INDENT(2));
        fputc('\n', out);
    } else {
        table_print(columns, COLUMNS, queues, out);
    }
    json_decref(queues);
    return result;
}

int queues_move(struct api *api, const char *vhost, const char *name, unsigned shard,
                struct failure *failure)
{
    const char *words[] = {vhost, name, NULL};
    json_t *body = json_pack("{s:s, s:I}", "action", "move", "shard", (json_int_t)shard);

    return api_call(api, "POST", "queues/*/*/actions", words, body, NULL, failure);
}

int queues_rebalance(struct api *api, struct failure *failure)
{
    const char *words[] = {NULL};

    return api_call(api, "POST", "rebalance/queues", words, NULL, NULL, failure);
}
