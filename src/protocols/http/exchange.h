/*
 * An exchange: one request of a client and its answer, as a handler sees it. Handlers know nothing
 * of parsing, connections or time; they call the broker, and say what the answer is.
 *
 * A handler is called once, when the request is complete and allowed. It answers at once, or calls
 * the broker and goes on in a later step:
 *
 *     exchange_wait(x, broker_...(x->client, &x->request, ...), next_step);
 *
 * What may be long is written in parts, a step for each, each in a turn of its own and not before
 * the client has read most of what came before:
 *
 *     exchange_begin(x, 200, "application/json");
 *     exchange_write(x, bytes); exchange_later(x, next_step); ...  exchange_end(x);
 *
 * An exchange may end at any time between two steps, when the client goes: `release` gives back
 * what the handler keeps in `state`, after requests that are pending have completed into nothing.
 * Before that, and before the broker's client is closed, `leave` gives back what is the broker's:
 * leases.
 */
#ifndef SLUICE_HTTP_EXCHANGE_H
#define SLUICE_HTTP_EXCHANGE_H

#include "broker/broker.h"
#include "protocols/http/text.h"

struct exchange;
struct http_site;

typedef void http_step(struct exchange *exchange);

/* What a user must be called (the tags) to use a route. */
enum http_role {
    HTTP_ANYBODY,       /* no login */
    HTTP_USER,          /* one of management, policymaker, monitoring, administrator */
    HTTP_POLICYMAKER,   /* policymaker or administrator */
    HTTP_MONITORING,    /* monitoring or administrator */
    HTTP_ADMINISTRATOR, /* administrator */
};

#define HTTP_PARAMETERS_MAX 4

/* Words of the path are separated by `/`; a word `*` of the pattern matches any one, which becomes
 * a parameter, decoded. */
struct http_route {
    const char *method; /* "GET" is HEAD's, too */
    const char *pattern;
    enum http_role role;
    size_t body_max; /* bytes; 0: a body is refused */
    http_step *handler;
};

struct exchange {
    const struct http_site *site;
    const struct http_route *route;
    struct slice parameters[HTTP_PARAMETERS_MAX];
    struct slice query; /* behind the `?`, as it came */
    struct slice body;
    struct client *client;
    struct request request; /* one at a time */
    struct http_text page;  /* to put an answer together in; empty at first */

    void *state;                /* the handler's */
    void (*leave)(void *state); /* or NULL */
    void (*release)(void *state);
};

/* The whole answer. The body is copied. An answer that is complete is the end of the exchange:
 * nothing of it may be touched afterwards. */
void exchange_answer(struct exchange *exchange, unsigned status, const char *type,
                     struct slice body);

/* In parts. */
void exchange_begin(struct exchange *exchange, unsigned status, const char *type);
void exchange_write(struct exchange *exchange, struct slice bytes);
void exchange_end(struct exchange *exchange);

/* An answer that has begun cannot go on: the client sees that it is cut off. */
void exchange_break(struct exchange *exchange);

/* Nobody reads a body. What is written of it is dropped. */
bool exchange_is_head(struct exchange *exchange);

/* `next` is called when the request is complete: now if it is. */
void exchange_wait(struct exchange *exchange, int outcome, http_step *next);

/* `next` is called in a later turn, when the client has room. */
void exchange_later(struct exchange *exchange, http_step *next);

/* RabbitMQ's form: {"error": ..., "reason": ...}. `error` NULL: the usual word for the status. */
void exchange_fail(struct exchange *exchange, unsigned status, const char *error,
                   const char *reason);

/* The same for what the broker has refused. */
void exchange_fail_as(struct exchange *exchange, const struct failure *failure);

#endif
