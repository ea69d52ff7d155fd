#include "ctl/policies.h"

#include "ctl/table.h"

#include <stdlib.h>

static const struct table_column columns[] = {
    {"VHOST", "vhost", false},      {"NAME", "name", false},
    {"PATTERN", "pattern", false},  {"APPLY-TO", "apply-to", false},
    {"PRIORITY", "priority", true}, {"DEFINITION", "definition", false},
};

/* A table shows texts and numbers: what a definition says becomes one. */
static void show_definitions(json_t *policies)
{
    json_t *policy;
    size_t i;

    json_array_foreach(policies, i, policy)
    {
        char *text = json_dumps(json_object_get(policy, "definition"), JSON_COMPACT);
        json_object_set_new(policy, "definition", json_string(text ? text : ""));
        free(text);
    }
}

int policies_list(struct api *api, const char *vhost, bool is_operator, bool as_json, FILE *out,
                  struct failure *failure)
{
    const char *words[] = {is_operator ? "operator-policies" : "policies", vhost, NULL};
    json_t *policies;
    int result = api_call(api, "GET", vhost ? "*/*" : "*", words, NULL, &policies, failure);

    if (result != 0)
        return result;
    if (!json_is_array(policies)) {
        result = fail(failure, E_FAILED, "what came is no list of policies");
    } else if (as_json) {
        json_dumpf(policies, out, JSON_INDENT(2));
        fputc('\n', out);
    } else {
        show_definitions(policies);
        table_print(columns, sizeof columns / sizeof columns[0], policies, out);
    }
    json_decref(policies);
    return result;
}

int policies_set(struct api *api, const struct policy_words *words, struct failure *failure)
{
    const char *path[] = {words->is_operator ? "operator-policies" : "policies", words->vhost,
                          words->name, NULL};
    json_error_t error;
    json_t *definition = json_loads(words->definition, JSON_REJECT_DUPLICATES, &error);

    if (!definition)
        return fail(failure, E_INVALID, "the definition is no JSON object: %s", error.text);
    json_t *body =
        json_pack("{s:s, s:o, s:s, s:I}", "pattern", words->pattern, "definition", definition,
                  "apply-to", words->apply_to, "priority", (json_int_t)words->priority);
    if (!body)
        return fail(failure, E_INVALID, "the pattern is no UTF-8");
    return api_call(api, "PUT", "*/*/*", path, body, NULL, failure);
}

int policies_clear(struct api *api, const struct policy_words *words, struct failure *failure)
{
    const char *path[] = {words->is_operator ? "operator-policies" : "policies", words->vhost,
                          words->name, NULL};

    return api_call(api, "DELETE", "*/*/*", path, NULL, NULL, failure);
}
