/* Policies and operators' policies: lists of them, single ones, setting and clearing. */
#include "protocols/http/management_private.h"

#include "base/memory.h"

#include <stdlib.h>

#define DEFINITION_BYTES_MAX 16384u /* more than any that is taken */
#define POLICIES_A_PAGE      32u

static json_t *policy_value(const struct policy_facts *facts)
{
    return json_pack("{s:o, s:o, s:o, s:s, s:o, s:I}", "vhost", http_json_text(facts->vhost),
                     "name", http_json_text(facts->name), "pattern", http_json_text(facts->pattern),
                     "apply-to", facts->apply_to, "definition", http_json_table(facts->definition),
                     "priority", (json_int_t)facts->priority);
}

/* ---- lists ---- */

struct listed_policies {
    struct policy_list *list;
    bool has_some;
};

static void release(void *state)
{
    struct listed_policies *listed = state;

    policy_list_close(listed->list);
    free(listed);
}

static void write_page(struct exchange *exchange)
{
    struct listed_policies *listed = exchange->state;
    struct policy_facts facts;
    unsigned count = 0;
    bool is_over = false;

    while (!is_over && count++ < POLICIES_A_PAGE) {
        is_over = !policy_list_next(listed->list, &facts);
        if (is_over)
            break;
        http_text_print(&exchange->page, "%s", listed->has_some ? "," : "");
        http_json_append(exchange, policy_value(&facts));
        listed->has_some = true;
    }
    if (is_over)
        http_text_print(&exchange->page, "]");
    if (exchange->page.failed) {
        exchange_break(exchange);
        return;
    }
    exchange_write(exchange, http_text_slice(&exchange->page));
    http_text_clear(&exchange->page);
    if (is_over)
        exchange_end(exchange);
    else
        exchange_later(exchange, write_page);
}

static void list_policies(struct exchange *exchange, struct slice vhost, bool is_operator)
{
    struct failure failure;
    struct policy_list *list = policy_list_open(exchange->client, vhost, is_operator, &failure);

    if (!list) {
        exchange_fail_as(exchange, &failure);
        return;
    }
    struct listed_policies *listed = memory_new(sizeof *listed);
    listed->list = list;
    exchange->state = listed;
    exchange->release = release;
    exchange_begin(exchange, 200, "application/json");
    http_text_print(&exchange->page, "[");
    write_page(exchange);
}

void management_policies(struct exchange *exchange)
{
    list_policies(exchange, slice_of(NULL, 0), false);
}

void management_policies_of_vhost(struct exchange *exchange)
{
    list_policies(exchange, exchange->parameters[0], false);
}

void management_operator_policies(struct exchange *exchange)
{
    list_policies(exchange, slice_of(NULL, 0), true);
}

void management_operator_policies_of_vhost(struct exchange *exchange)
{
    list_policies(exchange, exchange->parameters[0], true);
}

/* ---- one ---- */

static void show(struct exchange *exchange, bool is_operator)
{
    struct policy_facts facts;
    struct failure failure;

    if (broker_find_policy(exchange->client, exchange->parameters[0], is_operator,
                           exchange->parameters[1], &facts, &failure) == 0)
        http_json_answer(exchange, 200, policy_value(&facts));
    else
        exchange_fail_as(exchange, &failure);
}

void management_policy(struct exchange *exchange)
{
    show(exchange, false);
}

void management_operator_policy(struct exchange *exchange)
{
    show(exchange, true);
}

/* ---- setting ---- */

/* The body's texts stay as long as this. */
struct setting {
    json_t *body;
    struct policy_spec spec;
    uint8_t definition[DEFINITION_BYTES_MAX];
};

static void release_setting(void *state)
{
    struct setting *setting = state;

    json_decref(setting->body);
    free(setting);
}

static struct slice text_of(const json_t *value)
{
    return slice_of(json_string_value(value), json_string_length(value));
}

static int wrong(struct failure *failure, const char *what, const char *should, const json_t *value)
{
    char *text = json_dumps(value, JSON_COMPACT | JSON_ENCODE_ANY);
    int result = fail(failure, E_INVALID, "Validation failed\n\n%s should be %s, actually was %s\n",
                      what, should, text ? text : "something else");

    free(text);
    return result;
}

static int take_definition(struct setting *setting, const json_t *definition,
                           struct failure *failure)
{
    struct writer w = writer_of(setting->definition, sizeof setting->definition);

    if (!definition)
        return fail(failure, E_INVALID, "[{key_missing,definition}]");
    if (!json_is_object(definition))
        return wrong(failure, "definition", "a dictionary", definition);
    int result = http_json_write_table(definition, &w);
    setting->spec.definition = slice_of(setting->definition, writer_size(&w));
    return result == 0
               ? 0
               : fail(failure, E_INVALID, "the definition is too large, or nested too deep");
}

static int take_body(struct setting *setting, struct failure *failure)
{
    const json_t *pattern = json_object_get(setting->body, "pattern");
    const json_t *apply_to = json_object_get(setting->body, "apply-to");
    const json_t *priority = json_object_get(setting->body, "priority");

    if (!pattern)
        return fail(failure, E_INVALID, "[{key_missing,pattern}]");
    if (!json_is_string(pattern))
        return wrong(failure, "pattern", "a text", pattern);
    if (apply_to && !json_is_string(apply_to))
        return wrong(failure, "apply-to", "a text", apply_to);
    if (priority && !json_is_integer(priority))
        return wrong(failure, "priority", "a number", priority);
    setting->spec.pattern = text_of(pattern);
    setting->spec.apply_to = apply_to ? text_of(apply_to) : slice_text("all");
    setting->spec.priority = json_integer_value(priority);
    return take_definition(setting, json_object_get(setting->body, "definition"), failure);
}

static void was_set(struct exchange *exchange)
{
    const struct request *request = &exchange->request;

    if (request->failure.code != 0)
        exchange_fail_as(exchange, &request->failure);
    else
        exchange_answer(exchange, request->result.policy.was_there ? 204 : 201, NULL,
                        slice_of(NULL, 0));
}

static void set(struct exchange *exchange, bool is_operator)
{
    json_t *body = http_json_body(exchange);
    struct failure failure;

    if (!body)
        return;
    struct setting *setting = memory_new(sizeof *setting);
    setting->body = body;
    exchange->state = setting;
    exchange->release = release_setting;
    setting->spec = (struct policy_spec){.vhost = exchange->parameters[0],
                                         .name = exchange->parameters[1],
                                         .is_operator = is_operator};
    if (take_body(setting, &failure) != 0)
        exchange_fail_as(exchange, &failure);
    else
        exchange_wait(exchange,
                      broker_set_policy(exchange->client, &exchange->request, &setting->spec),
                      was_set);
}

void management_set_policy(struct exchange *exchange)
{
    set(exchange, false);
}

void management_set_operator_policy(struct exchange *exchange)
{
    set(exchange, true);
}

/* ---- clearing ---- */

static void was_cleared(struct exchange *exchange)
{
    if (exchange->request.failure.code != 0)
        exchange_fail_as(exchange, &exchange->request.failure);
    else
        exchange_answer(exchange, 204, NULL, slice_of(NULL, 0));
}

static void clear(struct exchange *exchange, bool is_operator)
{
    exchange_wait(exchange,
                  broker_clear_policy(exchange->client, &exchange->request, exchange->parameters[0],
                                      is_operator, exchange->parameters[1]),
                  was_cleared);
}

void management_clear_policy(struct exchange *exchange)
{
    clear(exchange, false);
}

void management_clear_operator_policy(struct exchange *exchange)
{
    clear(exchange, true);
}
