#include "ctl/redrives.h"

#include "ctl/table.h"

#include <errno.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FIRST_LOOK_NS (50 * 1000000L)
#define LOOK_NS       (500 * 1000000L)

static const struct table_column list_columns[] = {
    {"ID", "id", true},           {"VHOST", "vhost", false},    {"QUEUE", "queue", false},
    {"TO", "to", false},          {"STATE", "state", false},    {"LOOKED", "looked", true},
    {"TOTAL", "total", true},     {"MATCHED", "matched", true}, {"MOVED", "moved", true},
    {"REFUSED", "refused", true},
};

static const struct table_column target_columns[] = {
    {"TARGET", "name", false},
    {"MATCHED", "matched", true},
    {"MOVED", "moved", true},
};

#define COUNT_OF(array) (sizeof(array) / sizeof *(array))

/* ---- what is asked for ---- */

static int add_number(json_t *body, const char *name, const char *text, struct failure *failure)
{
    char *end;

    errno = 0;
    long long value = text ? strtoll(text, &end, 10) : 0;
    if (!text)
        return 0;
    if (errno || *end || end == text || value < 0)
        return fail(failure, E_INVALID, "%s is no number from 0 on", text);
    return json_object_set_new(body, name, json_integer(value));
}

static int add_time(json_t *body, const char *name, const char *text, struct failure *failure)
{
    char number[24];
    int result = text ? messages_time(text, number, failure) : 0;

    return text && result == 0 ? add_number(body, name, number, failure) : result;
}

static int add_conditions(json_t *body, const struct messages_wanted *wanted,
                          struct failure *failure)
{
    json_t *where = json_object();

    json_object_set_new(body, "where", where);
    for (unsigned i = 0; i < wanted->where_count; i++) {
        const char *text = wanted->where[i], *equals = strchr(text, '=');
        char name[256];
        if (!equals || equals == text || (size_t)(equals - text) >= sizeof name)
            return fail(failure, E_INVALID, "%s is no condition: NAME=VALUE", text);
        memcpy(name, text, (size_t)(equals - text));
        name[equals - text] = 0;
        if (json_object_set_new(where, name, json_string(equals + 1)) != 0)
            return fail(failure, E_INVALID, "%s is no UTF-8", text);
    }
    return 0;
}

static int add_text(json_t *body, const char *name, const char *text, struct failure *failure)
{
    if (text && json_object_set_new(body, name, json_string(text)) != 0)
        return fail(failure, E_INVALID, "%s is no UTF-8", text);
    return 0;
}

static int fill(json_t *body, const struct messages_wanted *wanted,
                const struct redrive_options *options, struct failure *failure)
{
    int result = add_text(body, "queue", options->to_queue, failure);

    if (result == 0)
        result = add_text(body, "exchange", options->exchange, failure);
    if (result == 0)
        result = add_text(body, "routing_key", options->key, failure);
    if (result == 0)
        result = add_number(body, "rate", options->rate, failure);
    if (result == 0)
        result = add_number(body, "limit", wanted->limit, failure);
    if (result == 0)
        result = add_time(body, "since", wanted->since, failure);
    if (result == 0)
        result = add_time(body, "until", wanted->until, failure);
    json_object_set_new(body, "preview", json_boolean(options->is_preview));
    return result == 0 ? add_conditions(body, wanted, failure) : result;
}

/* *id: as text. */
static int begin(struct api *api, const char *vhost, const char *queue,
                 const struct messages_wanted *wanted, const struct redrive_options *options,
                 char id[24], struct failure *failure)
{
    const char *words[] = {vhost, queue, NULL};
    json_t *body = json_object(), *answer = NULL;

    int result = fill(body, wanted, options, failure);
    if (result != 0) {
        json_decref(body);
        return result;
    }
    result = api_call(api, "POST", "queues/*/*/redrive", words, body, &answer, failure);
    if (result == 0 && !json_is_integer(json_object_get(answer, "id")))
        result = fail(failure, E_FAILED, "what came has no id");
    if (result == 0)
        snprintf(id, 24, "%lld", (long long)json_integer_value(json_object_get(answer, "id")));
    json_decref(answer);
    return result;
}

/* ---- following it ---- */

static volatile sig_atomic_t is_interrupted;

static void interrupted(int number)
{
    (void)number;
    is_interrupted = 1;
}

static long long number(const json_t *facts, const char *name)
{
    return (long long)json_integer_value(json_object_get(facts, name));
}

static const char *text(const json_t *facts, const char *name)
{
    const char *value = json_string_value(json_object_get(facts, name));

    return value ? value : "";
}

static void tell_progress(const json_t *facts, bool is_last)
{
    if (!isatty(STDERR_FILENO))
        return;
    fprintf(stderr, "\r%lld of %lld looked at, %lld to be moved, %lld moved, %lld refused%s",
            number(facts, "looked"), number(facts, "total"), number(facts, "matched"),
            number(facts, "moved"), number(facts, "refused"), is_last ? "\n" : "");
}

/* *facts: as it is at its end. */
static int follow(struct api *api, const char *id, json_t **facts, struct failure *failure)
{
    const char *words[] = {id, NULL};
    struct timespec wait = {0, FIRST_LOOK_NS};
    bool is_stopped = false;

    for (;; wait.tv_nsec = LOOK_NS) {
        nanosleep(&wait, NULL);
        if (is_interrupted && !is_stopped) {
            int result = api_call(api, "DELETE", "redrives/*", words, NULL, NULL, failure);
            if (result != 0)
                return result;
            is_stopped = true;
        }
        int result = api_call(api, "GET", "redrives/*", words, NULL, facts, failure);
        if (result != 0)
            return result;
        bool is_over = strcmp(text(*facts, "state"), "running") != 0;
        tell_progress(*facts, is_over);
        if (is_over)
            return 0;
        json_decref(*facts);
        *facts = NULL;
    }
}

static void print(const json_t *facts, bool is_preview, FILE *out)
{
    const json_t *targets = json_object_get(facts, "targets");

    if (json_array_size(targets) > 0)
        table_print(target_columns, is_preview ? 2 : COUNT_OF(target_columns), targets, out);
    if (is_preview)
        fprintf(out, "%lld messages would be moved", number(facts, "matched"));
    else
        fprintf(out, "%s: %lld messages moved, %lld refused", text(facts, "state"),
                number(facts, "moved"), number(facts, "refused"));
    fprintf(out, "; %lld of %lld looked at", number(facts, "looked"), number(facts, "total"));
    if (number(facts, "skipped") > 0)
        fprintf(out, ", %lld have nowhere to go", number(facts, "skipped"));
    fputc('\n', out);
}

int redrive_run(struct api *api, const char *vhost, const char *queue,
                const struct messages_wanted *wanted, const struct redrive_options *options,
                bool as_json, FILE *out, struct failure *failure)
{
    json_t *facts = NULL;
    char id[24];

    signal(SIGINT, interrupted);
    signal(SIGTERM, interrupted);
    int result = begin(api, vhost, queue, wanted, options, id, failure);
    if (result == 0 && options->in_background) {
        fprintf(out, "%s\n", id);
        return 0;
    }
    if (result == 0)
        result = follow(api, id, &facts, failure);
    if (result != 0)
        return result;
    if (as_json) {
        json_dumpf(facts, out, JSON_INDENT(2));
        fputc('\n', out);
    } else {
        print(facts, options->is_preview, out);
    }
    if (strcmp(text(facts, "state"), "done") != 0 || number(facts, "refused") > 0)
        result = fail(failure, E_FAILED, "redrive %s: %s%s%s", id, text(facts, "state"),
                      text(facts, "problem")[0] ? ": " : "", text(facts, "problem"));
    json_decref(facts);
    return result;
}

/* ---- all of them ---- */

int redrives_list(struct api *api, bool as_json, FILE *out, struct failure *failure)
{
    const char *words[] = {NULL};
    json_t *list;

    int result = api_call(api, "GET", "redrives", words, NULL, &list, failure);
    if (result != 0)
        return result;
    if (as_json) {
        json_dumpf(list, out, JSON_INDENT(2));
        fputc('\n', out);
    } else {
        table_print(list_columns, COUNT_OF(list_columns), list, out);
    }
    json_decref(list);
    return 0;
}

int redrive_cancel(struct api *api, const char *id, struct failure *failure)
{
    const char *words[] = {id, NULL};

    return api_call(api, "DELETE", "redrives/*", words, NULL, NULL, failure);
}
