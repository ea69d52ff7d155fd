#include "protocols/http/session_private.h"

#include "base/assert.h"
#include "base/memory.h"
#include "protocols/http/router.h"

#include <stdlib.h>
#include <strings.h>

#define INPUT_MAX 65536u /* what may wait while an exchange is under way */

/* ---- what the parser tells ---- */

static struct http_session *parsed(struct http_parser *parser)
{
    return parser->data;
}

static int on_target(struct http_parser *parser, const char *at, size_t size)
{
    struct http_session *s = parsed(parser);
    return http_text_append(&s->target, slice_of(at, size));
}

static int on_field(struct http_parser *parser, const char *at, size_t size)
{
    struct http_session *s = parsed(parser);

    if (s->value_has_begun) {
        s->value_has_begun = false;
        s->field_size = 0;
    }
    for (size_t i = 0; i < size; i++, s->field_size++) {
        if (s->field_size < sizeof s->field)
            s->field[s->field_size] = (char)(at[i] | ((at[i] >= 'A' && at[i] <= 'Z') ? 0x20 : 0));
    }
    return 0;
}

static enum http_header header_of(const struct http_session *s)
{
    struct slice name = slice_of(s->field, s->field_size);

    if (s->field_size > sizeof s->field)
        return HEADER_OTHER;
    if (slice_is(name, "authorization"))
        return HEADER_AUTHORIZATION;
    return slice_is(name, "expect") ? HEADER_EXPECT : HEADER_OTHER;
}

/* A value in several parts, or a header that comes twice, is taken as one text. */
static int on_value(struct http_parser *parser, const char *at, size_t size)
{
    struct http_session *s = parsed(parser);

    if (!s->value_has_begun) {
        s->value_has_begun = true;
        s->header = s->head_is_complete ? HEADER_OTHER : header_of(s); /* trailers mean nothing */
    }
    if (s->header == HEADER_AUTHORIZATION)
        return http_text_append(&s->authorization, slice_of(at, size));
    if (s->header == HEADER_EXPECT) {
        for (size_t i = 0; i < size; i++, s->expect_size++) {
            if (s->expect_size < sizeof s->expect)
                s->expect[s->expect_size] = (char)(at[i] | 0x20);
        }
    }
    return 0;
}

/* Stops the parser, which goes on when the session lets it. */
static int on_head(struct http_parser *parser)
{
    struct http_session *s = parsed(parser);

    s->head_is_complete = true;
    s->value_has_begun = true;
    parser->upgrade = 0; /* an offer of another protocol, which is not taken */
    http_parser_pause(parser, 1);
    return 0;
}

static int on_body(struct http_parser *parser, const char *at, size_t size)
{
    struct http_session *s = parsed(parser);

    if (s->state == HTTP_SKIPS) {
        s->skipped += size;
        return 0;
    }
    s->body_is_too_large = s->body.size + size > s->exchange.route->body_max;
    if (s->body_is_too_large)
        return 1;
    return http_text_append(&s->body, slice_of(at, size));
}

static int on_message(struct http_parser *parser)
{
    struct http_session *s = parsed(parser);

    s->message_is_complete = true;
    http_parser_pause(parser, 1);
    return 0;
}

static const struct http_parser_settings callbacks = {
    .on_url = on_target,
    .on_header_field = on_field,
    .on_header_value = on_value,
    .on_headers_complete = on_head,
    .on_body = on_body,
    .on_message_complete = on_message,
};

/* ---- from one request to the next ---- */

static void forget_request(struct http_session *s)
{
    struct exchange *x = &s->exchange;

    ASSERT(!s->request_is_pending);
    if (x->release)
        x->release(x->state);
    x->release = x->leave = NULL;
    x->state = NULL;
    x->route = NULL;
    x->query = x->body = slice_of(NULL, 0);
    memset(x->parameters, 0, sizeof x->parameters);
    http_text_clear(&x->page);
    http_text_clear(&s->target);
    if (s->authorization.size)
        explicit_bzero(s->authorization.data, s->authorization.size);
    http_text_clear(&s->authorization);
    http_text_clear(&s->body);
    s->next = s->later = NULL;
}

static void begin_request(struct http_session *s)
{
    forget_request(s);
    http_answer_init(s);
    http_parser_init(&s->parser, HTTP_REQUEST);
    s->parser.data = s;
    s->state = HTTP_HEAD_IS_READ;
    s->head_size = s->field_size = s->expect_size = s->skipped = 0;
    s->head_is_complete = s->message_is_complete = s->body_is_too_large = false;
    s->value_has_begun = false;
    s->keeps_alive = s->is_head = s->has_body = s->expects_continue = s->is_version_1_0 = false;
}

static void finish(struct http_session *s)
{
    s->state = HTTP_IS_OVER;
    s->wire->finished = true;
    wire_touch(s->wire);
}

/* A body that is announced and was not read stands between this request and the next one. A small
 * one is read and thrown away; who waits for "100 Continue" may send it or not, so that nobody
 * knows where the next request begins. */
static bool can_skip(const struct http_session *s)
{
    bool is_small = (s->parser.flags & F_CHUNKED) || s->parser.content_length <= HTTP_SKIP_MAX;

    return s->head_is_complete && is_small && !s->expects_continue && !s->body_is_too_large;
}

void http_answered(struct http_session *s)
{
    if (s->closes) {
        finish(s);
    } else if (s->message_is_complete) {
        begin_request(s);
    } else {
        s->state = HTTP_SKIPS;
    }
    s->wire->again = true;
    wire_touch(s->wire);
}

/* An answer after which nothing can be read any more. */
static void refuse_and_close(struct http_session *s, unsigned status, const char *reason)
{
    s->closes = true;
    http_refuse(s, status, NULL, reason);
}

/* An answer before the body was read. */
static void refuse(struct http_session *s, unsigned status, const char *error, const char *reason)
{
    s->closes = s->closes || (s->has_body && !s->message_is_complete && !can_skip(s));
    http_refuse(s, status, error, reason);
}

/* ---- the head ---- */

/* The part of the target that is a path, and the query behind it. Absolute ones
 * ("http://host/path", as to a proxy) count without their host. */
static int split_target(struct http_session *s, struct slice *path)
{
    struct http_parser_url url;

    http_parser_url_init(&url);
    if (s->target.size == 0 ||
        http_parser_parse_url(s->target.data, s->target.size, s->parser.method == HTTP_CONNECT,
                              &url) != 0 ||
        !(url.field_set & 1 << UF_PATH))
        return E_INVALID;
    *path = slice_of(s->target.data + url.field_data[UF_PATH].off, url.field_data[UF_PATH].len);
    if (url.field_set & 1 << UF_QUERY)
        s->exchange.query =
            slice_of(s->target.data + url.field_data[UF_QUERY].off, url.field_data[UF_QUERY].len);
    return 0;
}

static int take_parameters(struct http_session *s, const struct http_match *match)
{
    for (size_t i = 0; i < match->parameter_count; i++) {
        char *bytes = s->target.data + ((const char *)match->parameters[i].data - s->target.data);
        ssize_t size = http_percent_decode(bytes, match->parameters[i].size);
        if (size < 0)
            return E_INVALID;
        s->exchange.parameters[i] = slice_of(bytes, (size_t)size);
    }
    return 0;
}

static void serve(struct http_session *s);

/* Who asks is known and may: on to the body. */
static void read_body(struct http_session *s)
{
    if (s->has_body && !(s->parser.flags & F_CHUNKED) &&
        s->parser.content_length > s->exchange.route->body_max) {
        refuse(s, 413, NULL, "the body is larger than is taken here");
        return;
    }
    s->state = HTTP_BODY_IS_READ;
    if (s->has_body && s->expects_continue)
        http_continue(s);
    s->wire->again = true;
    wire_touch(s->wire);
}

static bool has_role(const struct client *client, enum http_role role)
{
    static const struct {
        const char *tag;
        unsigned roles;
    } tags[] = {
        {"management", 1u << HTTP_USER},
        {"policymaker", 1u << HTTP_USER | 1u << HTTP_POLICYMAKER},
        {"monitoring", 1u << HTTP_USER | 1u << HTTP_MONITORING},
        {"administrator", ~0u},
    };

    for (size_t i = 0; i < sizeof tags / sizeof tags[0]; i++) {
        if (tags[i].roles & 1u << role && client_has_tag(client, tags[i].tag))
            return true;
    }
    return false;
}

static void logged_in(struct exchange *x)
{
    static const char *const not_this[] = {
        [HTTP_POLICYMAKER] = "User not authorised to access object",
        [HTTP_MONITORING] = "Not monitor user",
        [HTTP_ADMINISTRATOR] = "Not administrator user",
    };
    struct http_session *s = session_of(x);

    if (x->request.failure.code != 0)
        refuse(s, 401, NULL, "Login failed");
    else if (!has_role(x->client, HTTP_USER))
        refuse(s, 401, NULL, "Not management user");
    else if (!has_role(x->client, x->route->role))
        refuse(s, 401, NULL, not_this[x->route->role]);
    else
        read_body(s);
}

static void log_in(struct http_session *s)
{
    struct exchange *x = &s->exchange;
    struct slice given = http_text_slice(&s->authorization);
    uint8_t pair[2048];
    ssize_t size = E_INVALID;

    if (given.size > 6 && strncasecmp((const char *)given.data, "basic ", 6) == 0)
        size = http_base64_decode(slice_of(given.data + 6, given.size - 6), pair, sizeof pair);
    const uint8_t *colon = size > 0 ? memchr(pair, ':', (size_t)size) : NULL;
    if (!colon) {
        refuse(s, 401, NULL, "Login failed");
        return;
    }
    /* both stay until the request is complete: they are kept where the base64 was */
    s->authorization.size = 0;
    memcpy(s->authorization.data, pair, (size_t)size); /* shorter than what it was made from */
    s->authorization.size = (size_t)size;
    explicit_bzero(pair, sizeof pair);
    size_t user = (size_t)(colon - pair);
    s->state = HTTP_LOGS_IN;
    exchange_wait(x,
                  broker_login(x->client, &x->request, slice_of(s->authorization.data, user),
                               slice_of(s->authorization.data + user + 1, (size_t)size - user - 1)),
                  logged_in);
}

/* What the parser knows of the message, before it is asked for more. */
static void note_head(struct http_session *s)
{
    s->keeps_alive = http_should_keep_alive(&s->parser) && s->parser.method != HTTP_CONNECT;
    s->is_head = s->parser.method == HTTP_HEAD;
    s->is_version_1_0 = s->parser.http_major == 1 && s->parser.http_minor == 0;
    s->has_body = (s->parser.flags & F_CHUNKED) ||
                  (s->parser.content_length > 0 && s->parser.content_length != UINT64_MAX);
    s->expects_continue =
        !s->is_version_1_0 && slice_is(slice_of(s->expect, s->expect_size), "100-continue");
}

/* The head is complete: what is wanted, and may it be? */
static void begin_exchange(struct http_session *s)
{
    const struct http_site *site = s->exchange.site;
    const char *method = http_method_str((enum http_method)s->parser.method);
    struct http_match match;
    struct slice path;

    note_head(s);
    if (s->parser.http_major != 1) {
        refuse_and_close(s, 505, "HTTP/1.1 and HTTP/1.0 are spoken here");
        return;
    }
    if (s->target.size > HTTP_PATH_MAX) {
        refuse(s, 414, NULL, "the path is too long");
        return;
    }
    if (split_target(s, &path) != 0) {
        refuse(s, 400, NULL, "the path cannot be read");
        return;
    }
    http_match(site->routes, site->route_count, slice_text(method), path, &match);
    if (!match.path_is_known) {
        refuse(s, 404, NULL, "Not Found");
        return;
    }
    if (!match.route) {
        s->closes = s->has_body && !can_skip(s);
        http_tell_methods(s, s->parser.method == HTTP_OPTIONS ? 200 : 405, match.allowed);
        return;
    }
    s->exchange.route = match.route;
    if (take_parameters(s, &match) != 0)
        refuse(s, 400, NULL, "the path cannot be decoded");
    else if (s->expect_size > 0 && !s->expects_continue && !s->is_version_1_0)
        refuse(s, 417, NULL, "only 100-continue can be expected");
    else if (match.route->role == HTTP_ANYBODY)
        read_body(s);
    else
        log_in(s);
}

/* ---- handlers and their steps ---- */

static void serve(struct http_session *s)
{
    s->exchange.body = http_text_slice(&s->body);
    s->state = HTTP_SERVES;
    s->exchange.route->handler(&s->exchange);
}

void exchange_wait(struct exchange *x, int outcome, http_step *next)
{
    struct http_session *s = session_of(x);

    if (outcome == DONE) {
        next(x);
        return;
    }
    s->request_is_pending = true;
    s->next = next;
}

void exchange_later(struct exchange *x, http_step *next)
{
    struct http_session *s = session_of(x);

    s->later = next;
    s->wire->again = true;
    wire_touch(s->wire);
}

/* A step that was put off, if the client has read most of what came before. */
static void go_on(struct http_session *s)
{
    http_step *step = s->later;

    if (!step || output_pending(&s->wire->output) >= OUTPUT_LOW_WATER)
        return;
    s->later = NULL;
    step(&s->exchange);
}

/* ---- input ---- */

static void refuse_input(struct http_session *s, enum http_errno error)
{
    if (s->state == HTTP_SKIPS)
        finish(s);
    else if (s->body_is_too_large)
        refuse_and_close(s, 413, "the body is larger than is taken here");
    else if (s->target.failed || s->authorization.failed || s->body.failed)
        refuse_and_close(s, 503, "there is no memory for this request");
    else if (error == HPE_HEADER_OVERFLOW)
        refuse_and_close(s, 431, "the headers are too large");
    else
        refuse_and_close(s, 400, http_errno_description(error));
}

/* Gives bytes to the parser, up to where it stops; returns how many it took. */
static size_t parse(struct http_session *s, struct slice bytes)
{
    bool is_head = s->state == HTTP_HEAD_IS_READ;
    size_t size = bytes.size;

    if (is_head && s->head_size == 0)
        s->began_ns = loop_now_ns(s->loop);
    if (is_head && size > HTTP_HEAD_MAX - s->head_size)
        size = HTTP_HEAD_MAX - s->head_size;
    size_t used = http_parser_execute(&s->parser, &callbacks, (const char *)bytes.data, size);
    enum http_errno error = HTTP_PARSER_ERRNO(&s->parser);
    s->head_size += is_head ? used : 0;
    if (error == HPE_PAUSED) {
        http_parser_pause(&s->parser, 0);
    } else if (error != HPE_OK) {
        refuse_input(s, error);
        return bytes.size;
    }
    if (is_head && !s->head_is_complete && s->head_size >= HTTP_HEAD_MAX)
        refuse_and_close(s, 431, "the headers are too large");
    return used;
}

static bool wants_input(const struct http_session *s)
{
    return s->state == HTTP_HEAD_IS_READ || s->state == HTTP_BODY_IS_READ || s->state == HTTP_SKIPS;
}

/* Takes some of the bytes; 0: no more now. */
static size_t step_input(struct http_session *s, struct slice bytes)
{
    enum http_state before = s->state;
    size_t used = parse(s, bytes);

    if (s->state != before)
        return used; /* refused */
    if (before == HTTP_HEAD_IS_READ && s->head_is_complete)
        begin_exchange(s);
    else if (before == HTTP_BODY_IS_READ && s->message_is_complete)
        serve(s);
    else if (before == HTTP_SKIPS && s->message_is_complete)
        begin_request(s);
    else if (before == HTTP_SKIPS && s->skipped > HTTP_SKIP_MAX)
        finish(s);
    return used;
}

static void set_pause(struct http_session *s)
{
    s->wire->paused = !wants_input(s) && s->state != HTTP_IS_OVER;
}

static ssize_t http_input(void *session, struct slice bytes)
{
    struct http_session *s = session;
    size_t used = 0;

    go_on(s);
    while (used < bytes.size && wants_input(s)) {
        enum http_state before = s->state;
        size_t size = step_input(s, slice_of(bytes.data + used, bytes.size - used));
        used += size;
        if (size == 0 && s->state == before)
            break;
    }
    set_pause(s);
    return s->state == HTTP_IS_OVER ? (ssize_t)bytes.size : (ssize_t)used;
}

static size_t http_input_max(void *session)
{
    (void)session;
    return INPUT_MAX;
}

/* ---- what the broker tells ---- */

static void completed(void *session, struct request *request)
{
    struct http_session *s = session;
    http_step *next = s->next;

    (void)request;
    ASSERT(request == &s->exchange.request && s->request_is_pending);
    s->request_is_pending = false;
    s->next = NULL;
    next(&s->exchange);
    set_pause(s);
    s->wire->again = true;
    wire_touch(s->wire);
}

static void flow(void *session, enum flow now)
{
    (void)session;
    (void)now;
}

static void http_drain(void *session, const char *reason)
{
    struct http_session *s = session;

    (void)reason;
    s->is_draining = true;
    if (s->state == HTTP_HEAD_IS_READ)
        finish(s);
    else if (s->has_begun) /* its head has promised more */
        s->closes = true;
}

static const struct client_events events = {
    .completed = completed,
    .flow = flow,
    .kick = http_drain,
};

/* ---- the protocol's functions ---- */

static enum sniff http_sniff(struct slice start)
{
    (void)start;
    return SNIFF_YES;
}

static int http_open(void *context, struct wire *wire, void **result)
{
    const struct http_site *site = context;
    struct http_session *s = memory_new(sizeof *s);
    struct failure failure;
    struct client_options options = {
        .events = &events,
        .session = s,
        .protocol = "http",
        .peer_host = wire->peer_host,
        .peer_port = wire->peer_port,
        .peer_is_loopback = wire->peer_is_loopback,
        .is_operator = true,
    };

    s->wire = wire;
    s->loop = worker_loop(site->worker);
    s->exchange.site = site;
    s->exchange.client = client_open(site->worker, &options, &failure);
    if (!s->exchange.client) {
        free(s);
        return failure.code;
    }
    struct account *account = client_account(s->exchange.client);
    s->target.account = s->authorization.account = s->body.account = account;
    s->exchange.page.account = account;
    s->moved_ns = loop_now_ns(s->loop);
    begin_request(s);
    *result = s;
    return 0;
}

static void http_drained(void *session)
{
    struct http_session *s = session;

    if (s->later) {
        s->wire->again = true;
        wire_touch(s->wire);
    }
}

/* Has a head begun that does not come to its end? */
static bool is_slow(const struct http_session *s, uint64_t now_ns)
{
    return s->state == HTTP_HEAD_IS_READ && s->head_size > 0 &&
           now_ns - s->began_ns >= s->exchange.site->request_timeout_ms * NANOSECONDS_PER_MS;
}

/* Nothing moves, and the broker is not what it waits for. */
static bool is_idle(struct http_session *s, uint64_t now_ns)
{
    uint64_t bytes = s->wire->bytes_received + s->wire->bytes_sent;
    bool works = s->request_is_pending && output_pending(&s->wire->output) == 0;

    if (bytes != s->moved_bytes || works) {
        s->moved_bytes = bytes;
        s->moved_ns = now_ns;
    }
    return now_ns - s->moved_ns >= s->exchange.site->idle_timeout_ms * NANOSECONDS_PER_MS;
}

/* Looked at a few times within each limit, which are met that closely. */
static uint64_t http_tick(void *session, uint64_t now_ns)
{
    struct http_session *s = session;
    const struct http_site *site = s->exchange.site;
    uint64_t least_ms = site->request_timeout_ms < site->idle_timeout_ms ? site->request_timeout_ms
                                                                         : site->idle_timeout_ms;

    if (is_slow(s, now_ns)) {
        refuse_and_close(s, 408, "the request took too long");
        return TICK_NEVER;
    }
    if (is_idle(s, now_ns))
        return TICK_EXPIRED;
    return now_ns + (least_ms + 3) / 4 * NANOSECONDS_PER_MS;
}

static bool http_close(void *session, enum close_reason reason)
{
    struct http_session *s = session;

    (void)reason;
    if (!s->has_left && s->exchange.leave)
        s->exchange.leave(s->exchange.state);
    if (!s->has_left)
        client_close(s->exchange.client);
    s->has_left = true;
    s->state = HTTP_IS_OVER;
    return true;
}

static bool http_idle(void *session)
{
    struct http_session *s = session;
    return client_idle(s->exchange.client);
}

static void http_free(void *session)
{
    struct http_session *s = session;

    s->request_is_pending = false; /* it has completed into nothing */
    forget_request(s);
    http_text_free(&s->exchange.page);
    http_text_free(&s->target);
    http_text_free(&s->authorization);
    http_text_free(&s->body);
    client_free(s->exchange.client);
    free(s);
}

const struct protocol http_protocol = {
    .name = "http",
    .sniff = http_sniff,
    .open = http_open,
    .input = http_input,
    .input_max = http_input_max,
    .drained = http_drained,
    .tick = http_tick,
    .drain = http_drain,
    .close = http_close,
    .idle = http_idle,
    .free = http_free,
};
