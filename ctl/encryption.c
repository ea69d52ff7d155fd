#include "ctl/encryption.h"

#include <inttypes.h>

static json_int_t number_of(const json_t *encryption, const char *name)
{
    return json_integer_value(json_object_get(encryption, name));
}

static void print_keys(const json_t *encryption, FILE *out)
{
    const json_t *needed = json_object_get(encryption, "needed_keys");
    size_t i;
    const json_t *id;

    if (json_is_true(json_object_get(encryption, "has_keys")))
        fprintf(out, "current key      %" JSON_INTEGER_FORMAT "\n",
                number_of(encryption, "current_key"));
    else
        fputs("current key      none\n", out);
    fputs("needed keys      ", out);
    json_array_foreach(needed, i, id)
        fprintf(out, "%s%" JSON_INTEGER_FORMAT, i ? ", " : "", json_integer_value(id));
    fputs(json_array_size(needed) ? "\n" : "none\n", out);
}

static void print_segments(const json_t *encryption, FILE *out)
{
    fprintf(out,
            "encrypted        %" JSON_INTEGER_FORMAT " segments, %" JSON_INTEGER_FORMAT " bytes\n"
            "under older keys %" JSON_INTEGER_FORMAT " segments\n"
            "in the clear     %" JSON_INTEGER_FORMAT " segments, %" JSON_INTEGER_FORMAT " bytes\n",
            number_of(encryption, "encrypted_segments"), number_of(encryption, "encrypted_bytes"),
            number_of(encryption, "segments_behind"), number_of(encryption, "plain_segments"),
            number_of(encryption, "plain_bytes"));
}

int encryption_print(struct api *api, bool as_json, FILE *out, struct failure *failure)
{
    const char *words[] = {NULL};
    json_t *overview;
    int result = api_call(api, "GET", "overview", words, NULL, &overview, failure);

    if (result != 0)
        return result;
    const json_t *encryption = json_object_get(overview, "encryption");
    if (!json_is_object(encryption)) {
        result = fail(failure, E_DENIED,
                      "this user may not see it: that takes the tag monitoring or administrator");
    } else if (as_json) {
        json_dumpf(encryption, out, JSON_INDENT(2));
        fputc('\n', out);
    } else {
        print_keys(encryption, out);
        print_segments(encryption, out);
    }
    json_decref(overview);
    return result;
}
