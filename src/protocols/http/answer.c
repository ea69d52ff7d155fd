/* Answers: status line, headers, bodies in one piece or in chunks. */
#include "base/assert.h"
#include "protocols/http/session_private.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <time.h>

#include <jansson.h>

/* ---- words ---- */

static const struct {
    unsigned status;
    const char *words; /* of the status line */
    const char *error; /* in JSON, as RabbitMQ calls it */
} statuses[] = {
    {200, "OK", ""},
    {201, "Created", ""},
    {204, "No Content", ""},
    {400, "Bad Request", "bad_request"},
    {401, "Unauthorized", "not_authorised"},
    {404, "Not Found", "Object Not Found"},
    {405, "Method Not Allowed", "method_not_allowed"},
    {408, "Request Timeout", "request_timeout"},
    {409, "Conflict", "conflict"},
    {413, "Payload Too Large", "payload_too_large"},
    {414, "URI Too Long", "uri_too_long"},
    {417, "Expectation Failed", "expectation_failed"},
    {431, "Request Header Fields Too Large", "headers_too_large"},
    {500, "Internal Server Error", "internal_server_error"},
    {501, "Not Implemented", "not_implemented"},
    {503, "Service Unavailable", "service_unavailable"},
    {504, "Gateway Timeout", "timeout"},
    {505, "HTTP Version Not Supported", "version_not_supported"},
};

#define STATUSES (sizeof statuses / sizeof statuses[0])

static size_t status_index(unsigned status)
{
    for (size_t i = 0; i < STATUSES; i++) {
        if (statuses[i].status == status)
            return i;
    }
    ASSERT(false); /* one that is not in the table */
}

/* ---- heads ---- */

static void write_text(struct http_session *s, const char *text)
{
    output_append(&s->wire->output, slice_text(text));
}

static void write_date(struct http_session *s)
{
    time_t now = (time_t)(loop_wall_ms(s->loop) / 1000);
    struct tm parts;
    char line[64];

    /* the names of days and months are English: the program never leaves the locale "C" */
    if (gmtime_r(&now, &parts) &&
        strftime(line, sizeof line, "date: %a, %d %b %Y %H:%M:%S GMT\r\n", &parts) > 0)
        write_text(s, line);
}

/* The body is of this size; negative: it comes in chunks, or ends with the connection. */
static void write_head(struct http_session *s, unsigned status, const char *type, int64_t size)
{
    char line[128];

    ASSERT(!s->has_begun);
    s->has_begun = true;
    s->closes = s->closes || !s->keeps_alive || s->is_draining || (size < 0 && s->is_version_1_0);
    s->is_chunked = size < 0 && !s->is_version_1_0;
    snprintf(line, sizeof line, "HTTP/1.1 %u %s\r\nserver: sluice\r\n", status,
             statuses[status_index(status)].words);
    write_text(s, line);
    write_date(s);
    write_text(s, "cache-control: no-cache\r\nx-content-type-options: nosniff\r\n");
    if (status == 401 && s->exchange.site->realm) {
        snprintf(line, sizeof line, "www-authenticate: Basic realm=\"%s\"\r\n",
                 s->exchange.site->realm);
        write_text(s, line);
    }
    if (type) {
        snprintf(line, sizeof line, "content-type: %s\r\n", type);
        write_text(s, line);
    }
    if (size >= 0 && status != 204) {
        snprintf(line, sizeof line, "content-length: %" PRId64 "\r\n", size);
        write_text(s, line);
    }
    if (s->is_chunked)
        write_text(s, "transfer-encoding: chunked\r\n");
    if (s->closes)
        write_text(s, "connection: close\r\n");
    else if (s->is_version_1_0)
        write_text(s, "connection: keep-alive\r\n");
}

static void end_head(struct http_session *s)
{
    write_text(s, "\r\n");
    wire_touch(s->wire);
}

void http_answer_init(struct http_session *s)
{
    s->has_begun = s->has_ended = s->is_chunked = s->closes = false;
}

void http_continue(struct http_session *s)
{
    write_text(s, "HTTP/1.1 100 Continue\r\n\r\n");
    wire_touch(s->wire);
}

void http_tell_methods(struct http_session *s, unsigned status, const char *allowed)
{
    write_head(s, status, NULL, 0);
    write_text(s, "allow: ");
    write_text(s, allowed);
    write_text(s, "\r\n");
    end_head(s);
    s->has_ended = true;
    http_answered(s);
}

/* ---- for handlers ---- */

void exchange_answer(struct exchange *exchange, unsigned status, const char *type,
                     struct slice body)
{
    struct http_session *s = session_of(exchange);

    write_head(s, status, body.size > 0 ? type : NULL, (int64_t)body.size);
    end_head(s);
    if (!s->is_head)
        output_append(&s->wire->output, body);
    s->has_ended = true;
    http_answered(s);
}

void exchange_begin(struct exchange *exchange, unsigned status, const char *type)
{
    struct http_session *s = session_of(exchange);

    write_head(s, status, type, -1);
    end_head(s);
}

void exchange_write(struct exchange *exchange, struct slice bytes)
{
    struct http_session *s = session_of(exchange);
    char line[32];

    ASSERT(s->has_begun && !s->has_ended);
    if (s->is_head || bytes.size == 0)
        return;
    snprintf(line, sizeof line, "%zx\r\n", bytes.size);
    if (s->is_chunked)
        write_text(s, line);
    output_append(&s->wire->output, bytes);
    if (s->is_chunked)
        write_text(s, "\r\n");
    wire_touch(s->wire);
}

void exchange_end(struct exchange *exchange)
{
    struct http_session *s = session_of(exchange);

    ASSERT(s->has_begun && !s->has_ended);
    if (s->is_chunked && !s->is_head)
        write_text(s, "0\r\n\r\n");
    s->has_ended = true;
    wire_touch(s->wire);
    http_answered(s);
}

void exchange_break(struct exchange *exchange)
{
    struct http_session *s = session_of(exchange);

    s->closes = true;
    s->has_ended = true;
    http_answered(s);
}

bool exchange_is_head(struct exchange *exchange)
{
    return session_of(exchange)->is_head;
}

/* ---- refusals ---- */

void exchange_fail(struct exchange *exchange, unsigned status, const char *error,
                   const char *reason)
{
    json_t *answer =
        json_pack("{s:s, s:s+}", "error", error ? error : statuses[status_index(status)].error,
                  "reason", reason, "");
    char *text = answer ? json_dumps(answer, JSON_COMPACT) : NULL;

    /* a reason that is no UTF-8, out of a name that a client made up, is left out */
    exchange_answer(exchange, status, "application/json",
                    text ? slice_text(text) : slice_text("{\"error\":\"bad_request\"}"));
    free(text);
    json_decref(answer);
}

void exchange_fail_as(struct exchange *exchange, const struct failure *failure)
{
    static const struct {
        int code;
        unsigned status;
    } table[] = {
        {E_NOT_FOUND, 404}, {E_DENIED, 401},      {E_LOGIN, 401},  {E_INVALID, 400},
        {E_MISMATCH, 400},  {E_UNSUPPORTED, 400}, {E_LIMIT, 400},  {E_IN_USE, 400},
        {E_LOCKED, 400},    {E_FULL, 503},        {E_FAILED, 503}, {E_TIMEOUT, 504},
        {E_MEMORY, 503},    {E_CLOSED, 503},
    };

    for (size_t i = 0; i < sizeof table / sizeof table[0]; i++) {
        if (table[i].code == failure->code) {
            exchange_fail(exchange, table[i].status, NULL, failure->text);
            return;
        }
    }
    exchange_fail(exchange, 500, NULL, failure->text);
}

void http_refuse(struct http_session *s, unsigned status, const char *error, const char *reason)
{
    exchange_fail(&s->exchange, status, error, reason);
}
