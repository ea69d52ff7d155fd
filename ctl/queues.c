#include "ctl/queues.h"

#include <stdlib.h>
#include <string.h>

/* ---- tables ---- */

struct column {
    const char *title, *name;
    bool is_number;
};

static const struct column columns[] = {
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

/* As it is shown; "-": it is not known. Numbers are written into `number`. */
static const char *cell(const json_t *queue, const struct column *column, char number[24])
{
    const json_t *value = json_object_get(queue, column->name);

    if (json_is_string(value))
        return json_string_value(value);
    if (!json_is_integer(value))
        return "-";
    snprintf(number, 24, "%lld", (long long)json_integer_value(value));
    return number;
}

/* Control bytes of a name would move the cursor: they are shown as `?`. Returns how many characters
 * it takes (of UTF-8; each one column). */
static int put_text(const char *text, FILE *out)
{
    int width = 0;

    for (; *text; text++) {
        unsigned char c = (unsigned char)*text;
        if (out)
            fputc(c < 0x20 || c == 0x7f ? '?' : c, out);
        width += (c & 0xc0) != 0x80;
    }
    return width;
}

static void put_cell(const char *text, int width, bool is_number, bool is_last, FILE *out)
{
    int left = width - put_text(text, NULL);

    if (is_number)
        fprintf(out, "%*s", left, "");
    put_text(text, out);
    if (is_last)
        fputc('\n', out);
    else
        fprintf(out, "%*s", is_number ? 2 : left + 2, "");
}

static void put_table(const json_t *queues, FILE *out)
{
    int widths[COLUMNS];
    char number[24];
    const json_t *queue;
    size_t i;

    for (size_t c = 0; c < COLUMNS; c++) {
        widths[c] = (int)strlen(columns[c].title);
        json_array_foreach(queues, i, queue)
        {
            int width = put_text(cell(queue, &columns[c], number), NULL);
            widths[c] = width > widths[c] ? width : widths[c];
        }
    }
    for (size_t c = 0; c < COLUMNS; c++)
        put_cell(columns[c].title, widths[c], columns[c].is_number, c + 1 == COLUMNS, out);
    json_array_foreach(queues, i, queue)
    {
        for (size_t c = 0; c < COLUMNS; c++)
            put_cell(cell(queue, &columns[c], number), widths[c], columns[c].is_number,
                     c + 1 == COLUMNS, out);
    }
}

/* ---- commands ---- */

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
        put_table(queues, out);
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
