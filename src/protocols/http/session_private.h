/*
 * A session: one connection, whose exchanges come one after the other.
 *
 *   HEAD  --headers complete--> LOGIN --allowed--> BODY --complete--> SERVE --answered--> HEAD
 *     \______ answered already: not found, not allowed, too large ______\
 *                                                 SKIP --the rest of its body was read--> HEAD
 *   any   --wire error, "Connection: close" after the answer, drain--> OVER
 *
 * Who may not ask is told so before the body is read; and who has not logged in is given no memory
 * beyond HTTP_HEAD_MAX. What comes while an exchange is under way stays in the connection's input,
 * which is not read any more: so answers come in the order of requests, and cost nothing in
 * advance.
 */
#ifndef SLUICE_HTTP_SESSION_PRIVATE_H
#define SLUICE_HTTP_SESSION_PRIVATE_H

#include "protocols/http/session.h"

#include <http_parser.h>

enum http_state {
    HTTP_HEAD_IS_READ,
    HTTP_LOGS_IN,
    HTTP_BODY_IS_READ,
    HTTP_SERVES,
    HTTP_SKIPS,
    HTTP_IS_OVER
};

/* The headers that mean something here. */
enum http_header { HEADER_OTHER, HEADER_AUTHORIZATION, HEADER_EXPECT };

struct http_session {
    struct exchange exchange;
    struct wire *wire;
    struct loop *loop;
    enum http_state state;
    bool is_closed; /* by the connection */
    bool has_left;  /* the client is closed */
    bool is_draining;

    /* the parser and what it has told of the request at hand */
    struct http_parser parser;
    size_t head_size;  /* bytes of the head so far */
    uint64_t began_ns; /* its first byte */
    bool head_is_complete, message_is_complete, body_is_too_large;
    bool keeps_alive, is_head, has_body, expects_continue, is_version_1_0;
    struct http_text target; /* as it came; its path is decoded in place */
    struct http_text authorization;
    struct http_text body;
    char field[32]; /* name of the header at hand, lower case; longer ones mean nothing here */
    size_t field_size;
    bool value_has_begun;
    enum http_header header;
    char expect[16];
    size_t expect_size;
    size_t skipped;

    /* the answer */
    bool has_begun, has_ended, is_chunked, closes;
    bool request_is_pending;
    http_step *next;  /* when the request is complete */
    http_step *later; /* in another turn */

    /* time */
    uint64_t moved_ns, moved_bytes; /* when bytes were last seen to have moved, and how many */
};

static inline struct http_session *session_of(struct exchange *exchange)
{
    return CONTAINER_OF(exchange, struct http_session, exchange);
}

/* The answer is complete: to the next request, or to the end (session.c). */
void http_answered(struct http_session *session);

/* Without exchange: from the session itself (answer.c). */
void http_refuse(struct http_session *session, unsigned status, const char *error,
                 const char *reason);

/* 100 Continue. */
void http_continue(struct http_session *session);

/* OPTIONS, or a method that the path does not have. */
void http_tell_methods(struct http_session *session, unsigned status, const char *allowed);

/* Forgets all about the answer before (answer.c). */
void http_answer_init(struct http_session *session);

#endif
