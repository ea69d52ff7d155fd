#include "protocols/http/message_json.h"

int payload_encoding_parse(struct slice text, struct payload_options *options)
{
    options->as_base64 = slice_is(text, "base64");
    return options->as_base64 || slice_is(text, "auto") ? 0 : E_INVALID;
}

static json_t *properties_of(const struct message *message)
{
    const struct message_format_functions *format = message_format(message);
    struct slice headers = format->headers(message);
    json_t *properties = json_object();
    struct field field;
    unsigned at = 0;

    while (format->next_property(message, &at, &field)) {
        char name[FIELD_NAME_MAX + 1];
        memcpy(name, field.name.data, field.name.size);
        name[field.name.size] = 0;
        json_object_set_new(properties, name,
                            field.type == 'S' ? http_json_text(field.value.bytes)
                                              : json_integer(field.value.integer));
    }
    if (headers.size > 0)
        json_object_set_new(properties, "headers", http_json_table(headers));
    return properties;
}

static json_t *base64_of(struct slice bytes)
{
    struct http_text text = {0};
    json_t *value = NULL;

    if (http_base64_append(&text, bytes) == 0)
        value = json_stringn(text.data ? text.data : "", text.size);
    http_text_free(&text);
    return value;
}

json_t *http_json_message(const struct message *message, const struct payload_options *options)
{
    struct slice body = message_body(message);
    json_t *payload = NULL;
    bool is_text = true;

    if (body.size > options->truncate)
        body.size = options->truncate;
    if (!options->as_base64) /* NULL: it is no UTF-8 */
        payload = json_stringn(body.size ? (const char *)body.data : "", body.size);
    if (!payload) {
        payload = base64_of(body);
        is_text = false;
    }
    if (!payload)
        return NULL;
    return json_pack("{s:o, s:o, s:o, s:I, s:o, s:s}", "exchange",
                     http_json_text(message_exchange(message)), "routing_key",
                     http_json_text(message_key(message)), "properties", properties_of(message),
                     "payload_bytes", (json_int_t)message->body_size, "payload", payload,
                     "payload_encoding", is_text ? "string" : "base64");
}
