/* Text that grows: what a request brings, and what answers are put together in. */
#ifndef SLUICE_HTTP_TEXT_H
#define SLUICE_HTTP_TEXT_H

#include "base/account.h"
#include "base/bytes.h"

struct http_text {
    struct account *account; /* charged for the capacity; NULL: nobody */
    char *data;              /* may be NULL while it is empty; no 0 behind it */
    size_t size, capacity;
    bool failed; /* it was refused memory: nothing is appended any more */
};

/* E_MEMORY once the account or the system has refused. */
int http_text_append(struct http_text *text, struct slice bytes) MUST_CHECK;

/* The same without a result: `failed` tells. At most 1 KiB at once. */
void http_text_print(struct http_text *text, const char *format, ...) PRINTF_LIKE(2, 3);

/* Empty; what it took stays, unless it is much. */
void http_text_clear(struct http_text *text);
void http_text_free(struct http_text *text);

static inline struct slice http_text_slice(const struct http_text *text)
{
    return slice_of(text->data, text->size);
}

/* "%41" becomes "A", in place; the new size, or E_INVALID. */
ssize_t http_percent_decode(char *bytes, size_t size) MUST_CHECK;

/* The next "name=value" of a query, decoded in place (a `+` is a space), so that it can be read
 * once. 1; 0: that was all; E_INVALID. A parameter without `=` has an empty value. */
int http_query_next(struct slice *query, struct slice *name, struct slice *value) MUST_CHECK;

/* A number from 0 on, in decimal, and nothing else. E_INVALID. */
int http_number(struct slice text, uint64_t *number) MUST_CHECK;

/* Appends as base64. */
int http_base64_append(struct http_text *text, struct slice bytes) MUST_CHECK;

/* Base64 with its padding; returns the number of bytes, E_INVALID, or E_LIMIT: they do not fit. */
ssize_t http_base64_decode(struct slice text, uint8_t *bytes, size_t size) MUST_CHECK;

#endif
