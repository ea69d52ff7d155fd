#include "base/memory.h"
#include "message/fields.h"
#include "protocols/amqp091/session_private.h"

#include <inttypes.h>
#include <stdio.h>

#define CLOSE_TIMEOUT_NS  (30000 * NANOSECONDS_PER_MS) /* for close-ok to come */
#define TICK_MAX_NS       (5000 * NANOSECONDS_PER_MS)
#define TICK_HANDSHAKE_NS (250 * NANOSECONDS_PER_MS)

void session_finish(struct session *session)
{
    session->state = SESSION_FINISHED;
    session->wire->finished = true;
    session_set_pause(session);
    wire_touch(session->wire);
}

/* ---- errors ---- */

static const char *state_name(enum session_state state)
{
    static const char *const names[] = {"handshake", "starting", "securing", "tuning",  "opening",
                                        "opening",   "running",  "closing",  "closing", "closed"};
    return names[state];
}

/* RabbitMQ tells a reason only to who has logged in; before that a broken handshake just ends. */
static bool is_worth_a_reply(const struct session *session, enum reply_code code)
{
    if (session->state == SESSION_TUNE)
        return code == REPLY_NOT_ALLOWED || code == REPLY_CONNECTION_FORCED;
    return session->state >= SESSION_OPEN || code == REPLY_ACCESS_REFUSED;
}

void session_close(struct session *session, enum reply_code code, uint32_t method_id,
                   const char *explanation)
{
    char text[REPLY_TEXT_MAX + 1];

    if (session->state >= SESSION_CLOSING)
        return;
    size_t size = reply_text(text, code, explanation);
    const char *method = amqp091_method_name(method_id);
    if (code == REPLY_CONNECTION_FORCED)
        log_warning(session->logger, "connection",
                    "closing AMQP connection %s (vhost: '%s', user: '%s'): %s", session->name,
                    session->vhost, session->user, explanation);
    else
        log_error(session->logger, "connection",
                  "error on AMQP connection %s (vhost: '%s', user: '%s', state: %s): operation %s "
                  "caused a connection exception %s",
                  session->name, session->vhost, session->user, state_name(session->state),
                  method ? method : "none", text);
    if (!is_worth_a_reply(session, code)) {
        session_finish(session);
        return;
    }
    struct method close = {.id = METHOD_connection_close};
    close.connection_close.reply_code = (uint16_t)code;
    close.connection_close.reply_text = slice_of(text, size);
    close.connection_close.class_id = (uint16_t)(method_id >> 16);
    close.connection_close.method_id = (uint16_t)method_id;
    session_write(session, 0, &close);
    session->closing_ns = loop_now_ns(session->loop) + CLOSE_TIMEOUT_NS;
    session->state = SESSION_CLOSING;
    session->is_releasing = true;
    session->wire->again = true;
    session_set_pause(session);
}

/* ---- protocol header and connection.start ---- */

static void put_capabilities(struct writer *w)
{
    static const char *const names[] = {
        "publisher_confirms",           "exchange_exchange_bindings", "basic.nack",
        "consumer_cancel_notify",       "connection.blocked",         "consumer_priorities",
        "authentication_failure_close", "per_consumer_qos",           "direct_reply_to",
    };
    size_t mark = fields_begin(w, "capabilities", 'F');
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        fields_put_boolean(w, names[i], true);
    fields_end(w, mark);
}

#define START_FRAME_MAX 2048u

static void send_start(struct session *session)
{
    uint8_t table[START_FRAME_MAX - 256];
    struct writer w = writer_of(table, sizeof table);

    put_capabilities(&w);
    fields_put_text(&w, "cluster_name", slice_text(session->settings->cluster_name));
    fields_put_text(&w, "copyright", slice_text("Copyright (c) the sluice authors"));
    fields_put_text(&w, "information", slice_text("sluice, a message broker. Apache License 2.0"));
    fields_put_text(&w, "platform", slice_text("sluice " SLUICE_VERSION));
    fields_put_text(&w, "product", slice_text(session->settings->product_name));
    fields_put_text(&w, "sluice_version", slice_text(SLUICE_VERSION));
    fields_put_text(&w, "version", slice_text(session->settings->product_version));

    struct method start = {.id = METHOD_connection_start};
    start.connection_start.version_major = 0;
    start.connection_start.version_minor = 9;
    start.connection_start.server_properties = slice_of(table, writer_size(&w));
    start.connection_start.mechanisms = slice_text("PLAIN AMQPLAIN");
    start.connection_start.locales = slice_text("en_US");

    uint8_t frame[START_FRAME_MAX];
    struct writer out = writer_of(frame, sizeof frame);
    amqp091_method_write(&out, 0, &start);
    output_append(&session->wire->output, slice_of(frame, writer_size(&out)));
    wire_touch(session->wire);
}

ssize_t session_header(struct session *session, struct slice bytes)
{
    static const uint8_t wanted[] = {'A', 'M', 'Q', 'P', 0, 0, 9, 1};
    static const uint8_t older[] = {'A', 'M', 'Q', 'P', 1, 1, 0, 9};

    if (bytes.size == 0)
        return 0;
    size_t size = bytes.size < sizeof wanted ? bytes.size : sizeof wanted;
    if (memcmp(bytes.data, wanted, size) == 0 || memcmp(bytes.data, older, size) == 0) {
        if (size < sizeof wanted)
            return 0;
        log_info(session->logger, "connection", "accepting AMQP connection %s", session->name);
        send_start(session);
        session->state = SESSION_START;
        return (ssize_t)sizeof wanted;
    }
    if (size < sizeof wanted && memcmp(bytes.data, wanted, size < 4 ? size : 4) == 0)
        return 0; /* "AMQP", and not yet which */
    log_error(session->logger, "connection",
              "error on AMQP connection %s: bad protocol header %02x%02x%02x%02x%02x%02x%02x%02x",
              session->name, bytes.data[0], size > 1 ? bytes.data[1] : 0,
              size > 2 ? bytes.data[2] : 0, size > 3 ? bytes.data[3] : 0,
              size > 4 ? bytes.data[4] : 0, size > 5 ? bytes.data[5] : 0,
              size > 6 ? bytes.data[6] : 0, size > 7 ? bytes.data[7] : 0);
    output_append(&session->wire->output, slice_of(wanted, sizeof wanted));
    session_finish(session);
    return (ssize_t)bytes.size;
}

/* ---- login ---- */

static void note_capabilities(struct session *session, struct slice properties)
{
    struct field field;
    struct slice name;

    if (fields_find(properties, slice_text("capabilities"), &field) && field.type == 'F') {
        fields_boolean(field.value.bytes, "authentication_failure_close",
                       &session->has_capability_login_failure_close);
        fields_boolean(field.value.bytes, "connection.blocked", &session->has_capability_blocked);
        fields_boolean(field.value.bytes, "consumer_cancel_notify",
                       &session->has_capability_cancel_notify);
    }
    if (fields_text(properties, "connection_name", &name))
        log_info(session->logger, "connection", "connection %s has a client-provided name: %.*s",
                 session->name, name.size > 200 ? 200 : (int)name.size, (const char *)name.data);
}

/* \0 user \0 password (RFC 4616 without the authorization identity, as RabbitMQ wants it). */
static bool parse_plain(struct slice response, struct slice *user, struct slice *password)
{
    if (response.size < 2 || response.data[0] != 0)
        return false;
    const uint8_t *middle = memchr(response.data + 1, 0, response.size - 1);
    if (!middle)
        return false;
    *user = slice_of(response.data + 1, (size_t)(middle - response.data) - 1);
    *password = slice_of(middle + 1, response.size - user->size - 2);
    return !memchr(password->data, 0, password->size);
}

/* A table without its size: LOGIN and PASSWORD. */
static bool parse_amqplain(struct slice response, struct slice *user, struct slice *password)
{
    struct failure failure;

    return fields_check(response, &failure) == 0 && fields_text(response, "LOGIN", user) &&
           fields_text(response, "PASSWORD", password);
}

static void copy_text(char *to, size_t room, struct slice text)
{
    size_t size = text.size < room - 1 ? text.size : room - 1;
    if (size)
        memcpy(to, text.data, size);
    to[size] = 0;
}

static void refuse_login(struct session *session, const char *why)
{
    log_error(session->logger, "connection",
              "error on AMQP connection %s (state: starting): %s login refused: %s", session->name,
              session->mechanism, why);
    if (session->has_capability_login_failure_close) {
        char text[160];
        snprintf(text, sizeof text,
                 "Login was refused using authentication mechanism %s. For details see the broker "
                 "logfile.",
                 session->mechanism);
        session_close(session, REPLY_ACCESS_REFUSED, 0, text);
    }
    session_finish(session); /* who is not known gets no time for an answer */
}

static void login(struct session *session, const struct connection_start_ok *ok)
{
    struct slice user, password;
    bool is_plain = slice_is(ok->mechanism, "PLAIN");

    if (!is_plain && !slice_is(ok->mechanism, "AMQPLAIN")) {
        session_fail(session, NULL, REPLY_COMMAND_INVALID, METHOD_connection_start_ok,
                     "unknown authentication mechanism '%.*s'", SLICE_ARGS(ok->mechanism));
        return;
    }
    copy_text(session->mechanism, sizeof session->mechanism, ok->mechanism);
    note_capabilities(session, ok->client_properties);
    session->request_bytes.size = 0;
    if (kept_append(session->account, &session->request_bytes, ok->response)) {
        session_fail(session, NULL, REPLY_RESOURCE_ERROR, METHOD_connection_start_ok,
                     "no memory for a login of %zu bytes", ok->response.size);
        return;
    }
    struct slice response = kept_slice(&session->request_bytes);
    if (is_plain ? !parse_plain(response, &user, &password)
                 : !parse_amqplain(response, &user, &password)) {
        session_fail(session, NULL, REPLY_SYNTAX_ERROR, METHOD_connection_start_ok,
                     "%s response invalid", session->mechanism);
        return;
    }
    copy_text(session->user, sizeof session->user, user);
    session->state = SESSION_LOGIN;
    if (broker_login(session->client, &session->request, user, password) == PENDING)
        session->request_is_pending = true;
    else
        session_completed(session);
}

static void login_done(struct session *session)
{
    const struct broker_settings *settings = session->settings;

    /* the password is not left lying around */
    explicit_bzero(session->request_bytes.data, session->request_bytes.size);
    kept_clear(session->account, &session->request_bytes);
    if (session->request.failure.code) {
        refuse_login(session, session->request.failure.text);
        return;
    }
    struct method tune = {.id = METHOD_connection_tune};
    tune.connection_tune.channel_max = (uint16_t)settings->channel_max;
    tune.connection_tune.frame_max = settings->frame_max;
    tune.connection_tune.heartbeat = (uint16_t)settings->heartbeat_s;
    session_write(session, 0, &tune);
    session->state = SESSION_TUNE;
}

/* ---- tune ---- */

static bool check_negotiated(struct session *session, const char *what, uint32_t lowest,
                             uint32_t highest, uint32_t value, const char *zero_means)
{
    const char *detail = value == 0 ? zero_means : "";

    if (value != 0 && value < lowest) {
        session_fail(session, NULL, REPLY_NOT_ALLOWED, METHOD_connection_tune,
                     "negotiated %s = %u%s is lower than the minimum allowed value (%u)", what,
                     value, detail, lowest);
        return false;
    }
    if (highest != 0 && (value == 0 || value > highest)) {
        session_fail(session, NULL, REPLY_NOT_ALLOWED, METHOD_connection_tune,
                     "negotiated %s = %u%s is higher than the maximum allowed value (%u)", what,
                     value, detail, highest);
        return false;
    }
    return true;
}

#define FRAME_MAX_UNLIMITED (1024u * 1024u) /* what 0 means here: input needs some bound */

static void tune_ok(struct session *session, const struct connection_tune_ok *ok)
{
    if (!check_negotiated(session, "frame_max", FRAME_SIZE_MIN, session->settings->frame_max,
                          ok->frame_max, "") ||
        !check_negotiated(session, "channel_max", 1, session->settings->channel_max,
                          ok->channel_max, " (no limit)"))
        return;
    session->frame_max = ok->frame_max ? ok->frame_max : FRAME_MAX_UNLIMITED;
    session->channel_max = ok->channel_max;
    session->heartbeat_s = ok->heartbeat;
    session->state = SESSION_OPEN;
}

/* ---- open ---- */

static void open_vhost(struct session *session, const struct connection_open *open)
{
    copy_text(session->vhost, sizeof session->vhost, open->virtual_host);
    session->state = SESSION_ENTER;
    /* the slice must stay: session->vhost is a copy of the whole name */
    if (broker_enter(session->client, &session->request,
                     slice_of(session->vhost, open->virtual_host.size)) == PENDING)
        session->request_is_pending = true;
    else
        session_completed(session);
}

static void open_done(struct session *session)
{
    const struct failure *failure = &session->request.failure;

    if (failure->code) {
        session_fail(session, NULL, reply_for_error(failure->code, METHOD_connection_open),
                     METHOD_connection_open, "%s", failure->text);
        return;
    }
    session_write(session, 0, &(struct method){.id = METHOD_connection_open_ok});
    session->state = SESSION_RUNNING;
    session->wire->is_established = true;
    log_info(session->logger, "connection",
             "connection %s: user '%s' authenticated and granted access to vhost '%s'",
             session->name, session->user, session->vhost);
}

void session_completed(struct session *session)
{
    if (session->state == SESSION_LOGIN)
        login_done(session);
    else if (session->state == SESSION_ENTER)
        open_done(session);
    else if (session->request.failure.code == 0 && session->state == SESSION_RUNNING)
        session_write_empty(session, 0, METHOD_connection_update_secret_ok);
    else if (session->state == SESSION_RUNNING)
        session_fail(session, NULL, REPLY_NOT_ALLOWED, METHOD_connection_update_secret,
                     "New secret was refused by one of the backends");
}

/* ---- running ---- */

/* Another password of the same user. */
static void update_secret(struct session *session, const struct connection_update_secret *update)
{
    session->request_bytes.size = 0;
    if (kept_append(session->account, &session->request_bytes, update->new_secret)) {
        session_fail(session, NULL, REPLY_RESOURCE_ERROR, METHOD_connection_update_secret,
                     "no memory for a secret of %zu bytes", update->new_secret.size);
        return;
    }
    if (broker_login(session->client, &session->request, slice_text(session->user),
                     kept_slice(&session->request_bytes)) == PENDING)
        session->request_is_pending = true;
    else
        session_completed(session);
}

static void close_asked(struct session *session)
{
    if (session->state != SESSION_CLOSING)
        log_info(session->logger, "connection",
                 "closing AMQP connection %s (vhost: '%s', user: '%s')", session->name,
                 session->vhost, session->user);
    if (session->state == SESSION_CLOSING) {
        session_write_empty(session, 0, METHOD_connection_close_ok);
        return;
    }
    /* what it held is given back, and its exclusive queues are gone, before the client is told */
    session->state = SESSION_ANSWERING;
    session->is_releasing = true;
    session->closing_ns = loop_now_ns(session->loop) + CLOSE_TIMEOUT_NS;
    session->wire->again = true;
}

void session_method(struct session *session, struct slice payload)
{
    struct method method;
    struct failure failure;
    enum session_state state = session->state;
    int error = amqp091_method_decode(payload, &method, &failure);

    if (state >= SESSION_CLOSING) {
        if (!error && method.id == METHOD_connection_close_ok && state == SESSION_CLOSING)
            session_finish(session);
        else if (!error && method.id == METHOD_connection_close && state == SESSION_CLOSING)
            close_asked(session);
    } else if (error) {
        session_fail(session, NULL, reply_for_decoding(error), method.id, "%s", failure.text);
    } else if (method.id == METHOD_connection_start_ok && state == SESSION_START) {
        login(session, &method.connection_start_ok);
    } else if (method.id == METHOD_connection_tune_ok && state == SESSION_TUNE) {
        tune_ok(session, &method.connection_tune_ok);
    } else if (method.id == METHOD_connection_open && state == SESSION_OPEN) {
        open_vhost(session, &method.connection_open);
    } else if (method.id == METHOD_connection_close && state == SESSION_RUNNING) {
        close_asked(session);
    } else if (method.id == METHOD_connection_update_secret && state == SESSION_RUNNING) {
        update_secret(session, &method.connection_update_secret);
    } else {
        session_fail(session, NULL, REPLY_CHANNEL_ERROR, method.id,
                     "unexpected method in connection state %s", state_name(state));
    }
}

/* ---- time ---- */

static bool is_silent_too_long(struct session *session, uint64_t now_ns, uint64_t heartbeat_ns)
{
    if (session->wire->bytes_received != session->seen_received || session->wire->paused) {
        /* who is not read cannot be blamed for silence */
        session->seen_received = session->wire->bytes_received;
        session->seen_received_ns = now_ns;
    }
    return now_ns - session->seen_received_ns >= 2 * heartbeat_ns;
}

static void keep_alive(struct session *session, uint64_t now_ns, uint64_t heartbeat_ns)
{
    uint8_t frame[FRAME_OVERHEAD];

    if (session->wire->output.total != session->seen_sent) {
        session->seen_sent = session->wire->output.total;
        session->seen_sent_ns = now_ns;
    }
    if (now_ns - session->seen_sent_ns < heartbeat_ns / 2 ||
        output_pending(&session->wire->output) > 0)
        return;
    struct writer writer = writer_of(frame, sizeof frame);
    amqp091_heartbeat_write(&writer);
    output_append(&session->wire->output, slice_of(frame, sizeof frame));
    session->seen_sent = session->wire->output.total;
    session->seen_sent_ns = now_ns;
    wire_touch(session->wire);
}

uint64_t session_tick(struct session *session, uint64_t now_ns)
{
    if (session->state < SESSION_RUNNING) {
        uint64_t patience_ns = session->settings->handshake_ms * NANOSECONDS_PER_MS;
        uint64_t limit_ns = patience_ns ? session->started_ns + patience_ns : UINT64_MAX;
        if (now_ns >= limit_ns) {
            log_error(session->logger, "connection",
                      "closing AMQP connection %s: handshake_timeout (%s)", session->name,
                      state_name(session->state));
            return TICK_EXPIRED;
        }
        uint64_t soon_ns = now_ns + TICK_HANDSHAKE_NS;
        return soon_ns < limit_ns ? soon_ns : limit_ns;
    }
    if (session->state >= SESSION_CLOSING) {
        if (session->state != SESSION_FINISHED && now_ns >= session->closing_ns)
            return TICK_EXPIRED;
        return now_ns + TICK_HANDSHAKE_NS;
    }
    if (session->heartbeat_s == 0)
        return now_ns + TICK_MAX_NS;
    uint64_t heartbeat_ns = (uint64_t)session->heartbeat_s * 1000 * NANOSECONDS_PER_MS;
    if (is_silent_too_long(session, now_ns, heartbeat_ns)) {
        log_error(session->logger, "connection",
                  "closing AMQP connection %s: missed heartbeats from client, timeout: %us",
                  session->name, session->heartbeat_s);
        return TICK_EXPIRED;
    }
    keep_alive(session, now_ns, heartbeat_ns);
    return now_ns + (heartbeat_ns / 2 < TICK_MAX_NS ? heartbeat_ns / 2 : TICK_MAX_NS);
}
