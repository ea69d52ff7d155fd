/* JSON, for handlers: jansson's values from the broker's, and answers. */
#ifndef SLUICE_HTTP_JSON_H
#define SLUICE_HTTP_JSON_H

#include "protocols/http/exchange.h"

#include <jansson.h>

/* A text; bytes that are no UTF-8 become U+FFFD. */
json_t *http_json_text(struct slice text);

/* A table of arguments (message/fields.h). */
json_t *http_json_table(struct slice table);

/* The reverse, of an object: texts, integers, reals, booleans, null, objects and arrays inside.
 * E_INVALID: a name above FIELD_NAME_MAX, or nesting deeper than FIELDS_DEPTH_MAX; E_LIMIT: the
 * writer has no room. */
int http_json_write_table(const json_t *object, struct writer *writer) MUST_CHECK;

/* Sends the value as the whole answer, and takes it. */
void http_json_answer(struct exchange *exchange, unsigned status, json_t *value);

/* Appends the value to the page, and takes it. */
void http_json_append(struct exchange *exchange, json_t *value);

/* The body as an object; NULL: it was answered with 400. An empty body is an empty object. */
json_t *http_json_body(struct exchange *exchange) MUST_CHECK;

#endif
