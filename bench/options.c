#include "options.h"

#include <errno.h>
#include <getopt.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* ---- the table: one row an option, for parsing and for --help ---- */

enum option_id {
    OPTION_URI = 256,
    OPTION_PRODUCERS,
    OPTION_CONSUMERS,
    OPTION_SIZE,
    OPTION_PERSISTENT,
    OPTION_DURABLE,
    OPTION_CONFIRM,
    OPTION_PREFETCH,
    OPTION_ACK,
    OPTION_QUEUES,
    OPTION_FANOUT,
    OPTION_QUEUE_TYPE,
    OPTION_QUEUE_PREFIX,
    OPTION_KEEP,
    OPTION_RATE,
    OPTION_DURATION,
    OPTION_MESSAGES,
    OPTION_WARMUP,
    OPTION_DRAIN_TIMEOUT,
    OPTION_BACKLOG,
    OPTION_IDLE_CONNECTIONS,
    OPTION_BROKER_PID,
    OPTION_JSON,
    OPTION_THREADS,
    OPTION_QUIET,
    OPTION_NULL_SERVER,
    OPTION_NULL_FAULT,
    OPTION_HELP,
    OPTION_VERSION,
};

struct option_row {
    enum option_id id;
    const char *name;
    const char *argument; /* NULL: none */
    const char *help;
};

static const struct option_row rows[] = {
    {OPTION_URI, "uri", "URI", "amqp://user:password@host:port/vhost"},
    {OPTION_PRODUCERS, "producers", "N", "publishing connections (1)"},
    {OPTION_CONSUMERS, "consumers", "N", "consuming connections (1)"},
    {OPTION_SIZE, "size", "BYTES", "body size, at least 16 (1024)"},
    {OPTION_PERSISTENT, "persistent", NULL, "persistent messages, durable queues"},
    {OPTION_DURABLE, "durable", NULL, "durable queues, also for transient messages"},
    {OPTION_CONFIRM, "confirm", "WINDOW", "publisher confirms, at most WINDOW outstanding each"},
    {OPTION_PREFETCH, "prefetch", "N", "unacknowledged messages per consumer (0: no limit)"},
    {OPTION_ACK, "ack", "N", "acknowledge every N messages at once (0: auto-ack)"},
    {OPTION_QUEUES, "queues", "N", "each producer publishes to all in turn (1)"},
    {OPTION_FANOUT, "fanout", "N", "publish to a fanout exchange with N queues"},
    {OPTION_QUEUE_TYPE, "queue-type", "TYPE", "classic, quorum or stream"},
    {OPTION_QUEUE_PREFIX, "queue-prefix", "TEXT", "queues are TEXT-00000 and so on (bench)"},
    {OPTION_KEEP, "keep", NULL, "do not delete the queues at the end"},
    {OPTION_RATE, "rate", "PER_S",
     "publish at this rate in total; latency counts from the intended time"},
    {OPTION_DURATION, "duration", "S", "measure for S seconds (10)"},
    {OPTION_MESSAGES, "messages", "N", "publish N messages in total instead"},
    {OPTION_WARMUP, "warmup", "S", "before measuring (2; with --messages 0)"},
    {OPTION_DRAIN_TIMEOUT, "drain-timeout", "S",
     "give missing messages up after S seconds without any (10)"},
    {OPTION_BACKLOG, "backlog", "N", "publish N messages, report memory, then drain them"},
    {OPTION_IDLE_CONNECTIONS, "idle-connections", "N", "open N connections first, report memory"},
    {OPTION_BROKER_PID, "broker-pid", "PID",
     "report CPU and memory of this process and its children"},
    {OPTION_JSON, "json", "FILE", "write the result as JSON (-: standard output, without text)"},
    {OPTION_THREADS, "threads", "N", "threads that generate load (1)"},
    {OPTION_QUIET, "quiet", NULL, "no progress line"},
    {OPTION_NULL_SERVER, "null-server", "PORT",
     "be the server that costs next to nothing (0: any port)"},
    {OPTION_NULL_FAULT, "null-fault", "KIND[@N]",
     "drop, duplicate or reorder its message N (1000)"},
    {OPTION_HELP, "help", NULL, "this text"},
    {OPTION_VERSION, "version", NULL, "the version"},
};
#define ROW_COUNT (sizeof rows / sizeof *rows)

static void print_help(void)
{
    printf("Usage: sluice-bench [OPTION]...\n"
           "Load an AMQP 0-9-1 broker and measure it.\n\n");
    for (size_t i = 0; i < ROW_COUNT; i++) {
        char left[64];
        snprintf(left, sizeof left, "--%s%s%s", rows[i].name, rows[i].argument ? " " : "",
                 rows[i].argument ? rows[i].argument : "");
        printf("  %-24s %s\n", left, rows[i].help);
    }
    printf(
        "\nEvery message carries its producer and number; lost, duplicated and reordered ones "
        "are counted.\nExit status: 0 all well, 1 the run failed, 2 wrong usage, 3 messages were "
        "lost, duplicated\nor reordered.\n");
}

/* ---- values ---- */

static int parse_number(const char *text, uint64_t min, uint64_t max, uint64_t *value)
{
    char *end;
    errno = 0;
    unsigned long long parsed = strtoull(text, &end, 10);
    if (errno || end == text || *end || *text < '0' || *text > '9' || parsed < min || parsed > max)
        return E_INVALID;
    *value = parsed;
    return 0;
}

static int parse_u32(const char *text, uint32_t min, uint32_t max, uint32_t *value)
{
    uint64_t wide;
    if (parse_number(text, min, max, &wide) < 0)
        return E_INVALID;
    *value = (uint32_t)wide;
    return 0;
}

static int parse_real(const char *text, double max, double *value)
{
    char *end;
    errno = 0;
    double parsed = strtod(text, &end);
    if (errno || end == text || *end || !isfinite(parsed) || parsed < 0 || parsed > max)
        return E_INVALID;
    *value = parsed;
    return 0;
}

static int parse_seconds(const char *text, uint64_t *value_ms)
{
    double seconds;
    if (parse_real(text, 1e6, &seconds) < 0)
        return E_INVALID;
    *value_ms = (uint64_t)(seconds * 1000);
    return 0;
}

static const char *const queue_type_names[] = {"default", "classic", "quorum", "stream"};

const char *queue_type_name(enum queue_type type)
{
    return queue_type_names[type];
}

static int parse_queue_type(const char *text, enum queue_type *type)
{
    for (enum queue_type t = QUEUE_CLASSIC; t <= QUEUE_STREAM; t++) {
        if (strcmp(text, queue_type_names[t]) == 0) {
            *type = t;
            return 0;
        }
    }
    return E_INVALID;
}

static int parse_fault(const char *text, struct options *o)
{
    static const char *const names[] = {"none", "drop", "duplicate", "reorder"};
    const char *at = strchr(text, '@');
    size_t size = at ? (size_t)(at - text) : strlen(text);
    if (at && parse_number(at + 1, 1, UINT64_MAX, &o->null_fault_at) < 0)
        return E_INVALID;
    for (enum null_fault f = FAULT_NONE; f <= FAULT_REORDER; f++) {
        if (strlen(names[f]) == size && memcmp(names[f], text, size) == 0) {
            o->null_fault = f;
            return 0;
        }
    }
    return E_INVALID;
}

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    if (c >= 'a' && c <= 'f')
        return c - 'a' + 10;
    return c >= 'A' && c <= 'F' ? c - 'A' + 10 : -1;
}

/* Percent-decodes begin..end into a text of TEXT_PART_SIZE. */
static int decode_part(char *to, const char *begin, const char *end)
{
    size_t size = 0;
    while (begin < end) {
        char c = *begin++;
        if (c == '%') {
            int high = end - begin >= 2 ? hex_digit(begin[0]) : -1;
            int low = high >= 0 ? hex_digit(begin[1]) : -1;
            if (low < 0 || (high == 0 && low == 0))
                return E_INVALID;
            c = (char)(high * 16 + low);
            begin += 2;
        }
        if (size + 1 >= TEXT_PART_SIZE)
            return E_LIMIT;
        to[size++] = c;
    }
    to[size] = 0;
    return 0;
}

/* host, host:port, [address]:port between begin and end. */
static int parse_authority(struct uri *uri, const char *begin, const char *end)
{
    const char *host_end;
    const char *rest;
    if (begin < end && *begin == '[') {
        host_end = memchr(begin, ']', (size_t)(end - begin));
        if (!host_end)
            return E_INVALID;
        begin++;
        rest = host_end + 1;
    } else {
        host_end = memchr(begin, ':', (size_t)(end - begin));
        if (!host_end)
            host_end = end;
        rest = host_end;
    }
    if (host_end > begin && decode_part(uri->host, begin, host_end) < 0)
        return E_INVALID;
    if (rest == end)
        return 0;
    uint64_t port;
    char digits[8] = "";
    size_t size = (size_t)(end - rest) - 1;
    if (*rest != ':' || size == 0 || size >= sizeof digits)
        return E_INVALID;
    memcpy(digits, rest + 1, size);
    if (parse_number(digits, 1, 65535, &port) < 0)
        return E_INVALID;
    memcpy(uri->port, digits, sizeof digits);
    return 0;
}

int uri_parse(struct uri *uri, const char *text, struct failure *failure)
{
    *uri = (struct uri){"guest", "guest", "127.0.0.1", "5672", "/"};
    static const char scheme[] = "amqp://";
    if (strncmp(text, scheme, strlen(scheme)) != 0)
        return fail(failure, E_INVALID, "the URI %s does not begin with amqp://", text);
    const char *at = text + strlen(scheme);
    const char *end = at + strcspn(at, "/?");
    const char *user_end = memchr(at, '@', (size_t)(end - at));
    int error = 0;
    if (user_end) {
        const char *colon = memchr(at, ':', (size_t)(user_end - at));
        error = decode_part(uri->user, at, colon ? colon : user_end);
        if (error == 0 && colon)
            error = decode_part(uri->password, colon + 1, user_end);
        at = user_end + 1;
    }
    if (error == 0)
        error = parse_authority(uri, at, end);
    if (error == 0 && end[0] == '/' && end[1])
        error = decode_part(uri->vhost, end + 1, end + strlen(end));
    if (error == 0 && *end == '?')
        error = E_INVALID;
    return error ? fail(failure, E_INVALID, "cannot understand the URI %s", text) : 0;
}

/* ---- the command line ---- */

static int parse_null_port(const char *text, struct options *o)
{
    uint64_t port;
    if (parse_number(text, 0, 65535, &port) < 0)
        return E_INVALID;
    o->null_port = (uint16_t)port;
    o->null_server = true;
    return 0;
}

static int parse_queue_prefix(const char *text, struct options *o)
{
    o->queue_prefix = text;
    return strlen(text) > 200 ? E_LIMIT : 0;
}

static int parse_real_rate(const char *text, struct options *o)
{
    return parse_real(text, 1e9, &o->rate) < 0 || o->rate == 0 ? E_INVALID : 0;
}

static int parse_value(struct options *o, enum option_id id, const char *value)
{
    switch (id) {
    case OPTION_PRODUCERS:
        return parse_u32(value, 0, PRODUCERS_MAX, &o->producers);
    case OPTION_CONSUMERS:
        return parse_u32(value, 0, CONSUMERS_MAX, &o->consumers);
    case OPTION_SIZE:
        return parse_u32(value, MESSAGE_SIZE_MIN, MESSAGE_SIZE_MAX, &o->size);
    case OPTION_CONFIRM:
        return parse_u32(value, 0, CONFIRM_WINDOW_MAX, &o->confirm_window);
    case OPTION_PREFETCH:
        return parse_u32(value, 0, UINT16_MAX, &o->prefetch);
    case OPTION_ACK:
        return parse_u32(value, 0, UINT32_MAX, &o->ack_every);
    case OPTION_FANOUT:
        o->fanout = true;
        return parse_u32(value, 1, QUEUES_MAX, &o->queues);
    case OPTION_QUEUES:
        return parse_u32(value, 1, QUEUES_MAX, &o->queues);
    case OPTION_QUEUE_TYPE:
        return parse_queue_type(value, &o->queue_type);
    case OPTION_QUEUE_PREFIX:
        return parse_queue_prefix(value, o);
    case OPTION_RATE:
        return parse_real_rate(value, o);
    case OPTION_DURATION:
        return parse_seconds(value, &o->duration_ms);
    case OPTION_MESSAGES:
        return parse_number(value, 1, (uint64_t)1 << 39, &o->messages);
    case OPTION_WARMUP:
        return parse_seconds(value, &o->warmup_ms);
    case OPTION_DRAIN_TIMEOUT:
        return parse_seconds(value, &o->drain_timeout_ms);
    case OPTION_BACKLOG:
        return parse_number(value, 1, (uint64_t)1 << 39, &o->backlog);
    case OPTION_IDLE_CONNECTIONS:
        return parse_u32(value, 0, IDLE_CONNECTIONS_MAX, &o->idle_connections);
    case OPTION_THREADS:
        return parse_u32(value, 1, THREADS_MAX, &o->threads);
    case OPTION_NULL_SERVER:
        return parse_null_port(value, o);
    case OPTION_NULL_FAULT:
        return parse_fault(value, o);
    default:
        return E_INVALID;
    }
}

/* Options whose value is taken as it is, or that have none. */
static bool take_plain(struct options *o, enum option_id id, const char *value)
{
    switch (id) {
    case OPTION_URI:
        o->uri_text = value;
        return true;
    case OPTION_JSON:
        o->json = value;
        return true;
    case OPTION_PERSISTENT:
        o->persistent = true;
        return true;
    case OPTION_DURABLE:
        o->durable = true;
        return true;
    case OPTION_KEEP:
        o->keep = true;
        return true;
    case OPTION_QUIET:
        o->quiet = true;
        return true;
    default:
        return false;
    }
}

static int complain(const char *text)
{
    fprintf(stderr, "sluice-bench: %s; see --help\n", text);
    return E_INVALID;
}

/* What follows from other options, and what does not go together. */
static int options_complete(struct options *o, bool warmup_given)
{
    struct failure failure;
    if (uri_parse(&o->uri, o->uri_text, &failure) < 0)
        return complain(failure.text);
    if (o->null_fault != FAULT_NONE && !o->null_server)
        return complain("--null-fault is for the --null-server");
    if (o->queue_type == QUEUE_STREAM && o->consumers > o->queues)
        return complain("a stream is checked for one consumer each");
    if (o->messages && !warmup_given)
        o->warmup_ms = 0;
    if (o->queue_type == QUEUE_STREAM && o->ack_every == 0)
        return complain("a stream needs --ack");
    if (o->queue_type == QUEUE_STREAM && o->prefetch == 0)
        return complain("a stream needs --prefetch");
    if (o->prefetch && o->ack_every > o->prefetch)
        return complain("--ack above --prefetch would stand still");
    if (o->producers == 0 && o->consumers > 0)
        return complain("consumers need --producers");
    if (o->producers == 0 && (o->backlog || o->idle_connections == 0))
        return complain("nothing to do without --producers");
    if (o->backlog && o->consumers == 0)
        return complain("--backlog needs --consumers to drain it");
    if (o->backlog && o->rate > 0)
        return complain("--backlog goes as fast as it can, without --rate");
    if ((uint64_t)o->producers * o->queues > (uint64_t)1 << 24)
        return complain("too many producers times queues to check");
    if (o->persistent || o->queue_type == QUEUE_QUORUM || o->queue_type == QUEUE_STREAM)
        o->durable = true;
    return 0;
}

static const struct option_row *row_of(enum option_id id)
{
    for (size_t i = 0; i < ROW_COUNT; i++) {
        if (rows[i].id == id)
            return &rows[i];
    }
    return NULL;
}

enum options_action options_parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){.uri_text = "amqp://guest:guest@127.0.0.1:5672/",
                          .producers = 1,
                          .consumers = 1,
                          .queues = 1,
                          .size = 1024,
                          .queue_prefix = "bench",
                          .duration_ms = 10000,
                          .warmup_ms = 2000,
                          .drain_timeout_ms = 10000,
                          .threads = 1,
                          .null_fault_at = 1000};
    struct option wanted[ROW_COUNT + 1] = {0};
    for (size_t i = 0; i < ROW_COUNT; i++)
        wanted[i] = (struct option){.name = rows[i].name,
                                    .has_arg = rows[i].argument ? required_argument : no_argument,
                                    .val = (int)rows[i].id};
    bool warmup_given = false;
    int id;
    while ((id = getopt_long(argc, argv, "", wanted, NULL)) != -1) {
        if (id == '?')
            return OPTIONS_WRONG;
        if (id == OPTION_HELP || id == OPTION_VERSION) {
            if (id == OPTION_HELP)
                print_help();
            else
                printf("sluice-bench %s\n", SLUICE_VERSION);
            return OPTIONS_DONE;
        }
        warmup_given |= id == OPTION_WARMUP;
        uint32_t pid = 0;
        if (id == OPTION_BROKER_PID && parse_u32(optarg, 1, INT32_MAX, &pid) == 0) {
            o->broker_pid = (int)pid;
        } else if (!take_plain(o, (enum option_id)id, optarg) &&
                   parse_value(o, (enum option_id)id, optarg) < 0) {
            fprintf(stderr, "sluice-bench: --%s cannot be %s\n", row_of((enum option_id)id)->name,
                    optarg);
            return OPTIONS_WRONG;
        }
    }
    if (optind < argc) {
        fprintf(stderr, "sluice-bench: what is %s?\n", argv[optind]);
        return OPTIONS_WRONG;
    }
    return options_complete(o, warmup_given) < 0 ? OPTIONS_WRONG : OPTIONS_RUN;
}
