/*
 * sluicectl: looks at a broker and at its data, and tells it what to do.
 */
#include "ctl/dump.h"
#include "ctl/encryption.h"
#include "ctl/messages.h"
#include "ctl/policies.h"
#include "ctl/queues.h"
#include "ctl/redrives.h"
#include "ctl/status.h"

#include <errno.h>
#include <getopt.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 2

struct arguments {
    const char *data_dir;
    struct api_options api;
    unsigned port_offset;
    bool has_port, has_user, reads_password;
    const char *vhost;    /* NULL: not said */
    const char *key_file; /* NULL: there are no keys */
    bool as_json;
    struct messages_wanted wanted;
    const char *exchange, *ackmode;
    struct redrive_options redrive;
    const char *headers[MESSAGES_WHERE_MAX];
    unsigned header_count;
    bool is_operator;
    long priority;
    const char *apply_to;
    char **rest; /* what stands behind the command */
    int rest_count;
};

struct command {
    const char *name; /* one word, or two */
    int rest_min, rest_max;
    int (*run)(const struct arguments *arguments);
};

static int fail_with(const struct failure *failure)
{
    fprintf(stderr, "sluicectl: %s\n", failure->text);
    return EXIT_FAILURE;
}

static int run_status(const struct arguments *arguments)
{
    struct failure failure = {0};
    return status_print(arguments->data_dir, stdout, &failure) == 0 ? EXIT_SUCCESS
                                                                    : fail_with(&failure);
}

static const char *directory_of(const struct arguments *arguments)
{
    return arguments->rest_count ? arguments->rest[0] : arguments->data_dir;
}

static int run_log_dump(const struct arguments *arguments)
{
    struct failure failure = {0};
    return dump_print(directory_of(arguments), arguments->key_file, stdout, &failure) == 0
               ? EXIT_SUCCESS
               : fail_with(&failure);
}

static int run_accept_damage(const struct arguments *arguments)
{
    struct failure failure = {0};
    return dump_accept_damage(directory_of(arguments), &failure) == 0 ? EXIT_SUCCESS
                                                                      : fail_with(&failure);
}

/* ---- over the management API ---- */

static bool parse_number(const char *text, unsigned long most, unsigned *number)
{
    char *end;

    errno = 0;
    unsigned long value = strtoul(text, &end, 10);
    if (errno || *end || end == text || text[0] == '-' || value > most)
        return false;
    *number = (unsigned)value;
    return true;
}

static bool parse_signed(const char *text, long *number)
{
    char *end;

    errno = 0;
    *number = strtol(text, &end, 10);
    return errno == 0 && end != text && *end == 0;
}

/* The port, and the password: from the standard input when that was asked for, or when there is a
 * user without one. */
static int complete(struct api_options *api, const struct arguments *arguments,
                    struct failure *failure)
{
    *api = arguments->api;
    if (!arguments->has_port)
        api->port = API_PORT + arguments->port_offset;
    if (api->port > UINT16_MAX)
        return fail(failure, E_INVALID, "ports end at 65535");
    if (arguments->reads_password || arguments->has_user)
        return api_read_password(api, failure);
    return 0;
}

typedef int ask(struct api *api, const struct arguments *arguments, struct failure *failure);

static int run_over_api(const struct arguments *arguments, ask *function)
{
    struct failure failure = {0};
    struct api_options options;
    struct api *api;

    int result = complete(&options, arguments, &failure);
    if (result == 0)
        result = api_open(&options, &api, &failure);
    if (result == 0) {
        result = function(api, arguments, &failure);
        api_close(api);
    }
    explicit_bzero(options.password, sizeof options.password);
    return result == 0 ? EXIT_SUCCESS : fail_with(&failure);
}

static int list_queues(struct api *api, const struct arguments *arguments, struct failure *failure)
{
    return queues_list(api, arguments->vhost, arguments->as_json, stdout, failure);
}

static int run_list_queues(const struct arguments *arguments)
{
    return run_over_api(arguments, list_queues);
}

static const char *vhost_of(const struct arguments *arguments)
{
    return arguments->vhost ? arguments->vhost : "/";
}

static int move_queue(struct api *api, const struct arguments *arguments, struct failure *failure)
{
    unsigned shard = 0;

    if (!parse_number(arguments->rest[1], UINT32_MAX, &shard))
        return fail(failure, E_INVALID, "%s is no shard", arguments->rest[1]);
    return queues_move(api, vhost_of(arguments), arguments->rest[0], shard, failure);
}

static int run_queue_move(const struct arguments *arguments)
{
    return run_over_api(arguments, move_queue);
}

static int browse_queue(struct api *api, const struct arguments *arguments, struct failure *failure)
{
    return messages_browse(api, vhost_of(arguments), arguments->rest[0], &arguments->wanted,
                           arguments->as_json, stdout, failure);
}

static int run_queue_browse(const struct arguments *arguments)
{
    return run_over_api(arguments, browse_queue);
}

static int get_from_queue(struct api *api, const struct arguments *arguments,
                          struct failure *failure)
{
    return messages_get(api, vhost_of(arguments), arguments->rest[0], arguments->wanted.limit,
                        arguments->ackmode, arguments->as_json, stdout, failure);
}

static int run_queue_get(const struct arguments *arguments)
{
    return run_over_api(arguments, get_from_queue);
}

static int redrive_queue(struct api *api, const struct arguments *arguments,
                         struct failure *failure)
{
    struct redrive_options options = arguments->redrive;

    options.exchange = arguments->exchange;
    return redrive_run(api, vhost_of(arguments), arguments->rest[0], &arguments->wanted, &options,
                       arguments->as_json, stdout, failure);
}

static int run_queue_redrive(const struct arguments *arguments)
{
    return run_over_api(arguments, redrive_queue);
}

static int list_redrives(struct api *api, const struct arguments *arguments,
                         struct failure *failure)
{
    return redrives_list(api, arguments->as_json, stdout, failure);
}

static int run_list_redrives(const struct arguments *arguments)
{
    return run_over_api(arguments, list_redrives);
}

static int cancel_redrive(struct api *api, const struct arguments *arguments,
                          struct failure *failure)
{
    return redrive_cancel(api, arguments->rest[0], failure);
}

static int run_redrive_cancel(const struct arguments *arguments)
{
    return run_over_api(arguments, cancel_redrive);
}

static int publish(struct api *api, const struct arguments *arguments, struct failure *failure)
{
    return messages_publish(api, vhost_of(arguments), arguments->exchange, arguments->rest[0],
                            arguments->rest[1], arguments->headers, arguments->header_count,
                            failure);
}

static int run_publish(const struct arguments *arguments)
{
    return run_over_api(arguments, publish);
}

static int rebalance(struct api *api, const struct arguments *arguments, struct failure *failure)
{
    (void)arguments;
    return queues_rebalance(api, failure);
}

static int run_rebalance(const struct arguments *arguments)
{
    return run_over_api(arguments, rebalance);
}

static int list_policies(struct api *api, const struct arguments *arguments,
                         struct failure *failure)
{
    return policies_list(api, arguments->vhost, arguments->is_operator, arguments->as_json, stdout,
                         failure);
}

static int run_list_policies(const struct arguments *arguments)
{
    return run_over_api(arguments, list_policies);
}

/* What stands behind the command: a name, and perhaps a pattern and a definition. */
static struct policy_words policy_words(const struct arguments *arguments)
{
    bool has_all = arguments->rest_count == 3;

    return (struct policy_words){
        .vhost = arguments->vhost ? arguments->vhost : "/",
        .name = arguments->rest[0],
        .pattern = has_all ? arguments->rest[1] : NULL,
        .definition = has_all ? arguments->rest[2] : NULL,
        .apply_to = arguments->apply_to,
        .priority = arguments->priority,
        .is_operator = arguments->is_operator,
    };
}

static int set_policy(struct api *api, const struct arguments *arguments, struct failure *failure)
{
    struct policy_words words = policy_words(arguments);
    return policies_set(api, &words, failure);
}

static int run_policy_set(const struct arguments *arguments)
{
    return run_over_api(arguments, set_policy);
}

static int clear_policy(struct api *api, const struct arguments *arguments, struct failure *failure)
{
    struct policy_words words = policy_words(arguments);
    return policies_clear(api, &words, failure);
}

static int run_policy_clear(const struct arguments *arguments)
{
    return run_over_api(arguments, clear_policy);
}

static int show_encryption(struct api *api, const struct arguments *arguments,
                           struct failure *failure)
{
    return encryption_print(api, arguments->as_json, stdout, failure);
}

static int run_encryption(const struct arguments *arguments)
{
    return run_over_api(arguments, show_encryption);
}

static int run_version(const struct arguments *arguments)
{
    (void)arguments;
    puts("sluicectl " SLUICE_VERSION);
    return EXIT_SUCCESS;
}

static const struct command commands[] = {
    {"status", 0, 0, run_status},
    {"log-dump", 0, 1, run_log_dump},
    {"accept-damage", 0, 1, run_accept_damage},
    {"list queues", 0, 0, run_list_queues},
    {"queue move", 2, 2, run_queue_move},
    {"queue browse", 1, 1, run_queue_browse},
    {"queue get", 1, 1, run_queue_get},
    {"queue redrive", 1, 1, run_queue_redrive},
    {"list redrives", 0, 0, run_list_redrives},
    {"redrive cancel", 1, 1, run_redrive_cancel},
    {"publish", 2, 2, run_publish},
    {"rebalance", 0, 0, run_rebalance},
    {"list policies", 0, 0, run_list_policies},
    {"policy set", 3, 3, run_policy_set},
    {"policy clear", 1, 1, run_policy_clear},
    {"encryption", 0, 0, run_encryption},
    {"version", 0, 0, run_version},
};

static void print_help(void)
{
    puts("Usage: sluicectl [OPTION]... COMMAND [ARGUMENT]...\n"
         "\n"
         "Looks at a sluice broker and at its data, and tells it what to do.\n"
         "\n"
         "Commands on this machine:\n"
         "  status              whether a broker runs on the data directory, where it listens,\n"
         "                      and what it says of itself\n"
         "  log-dump [DIR]      every segment, block and record in a data directory that no\n"
         "                      broker runs on, or in one of its shards: DIR/shard-2\n"
         "  accept-damage [DIR] what a start has reported as corrupt is accepted as lost: later\n"
         "                      starts do not report it, and give up what belonged to it\n"
         "  version             the version of this program\n"
         "\n"
         "Commands over the management API:\n"
         "  list queues         queues with what is in them, and where they live\n"
         "  queue move NAME SHARD\n"
         "                      takes a queue to another shard, while it is used\n"
         "  queue browse NAME   shows messages without touching them: ready ones, and those that\n"
         "                      consumers have\n"
         "  queue get NAME      takes messages and puts them back, or not: see --ackmode\n"
         "  queue redrive NAME  moves dead letters back to the queues in which they died, or\n"
         "                      elsewhere; an interrupt stops it\n"
         "  list redrives       those that are under way, and the latest that are over\n"
         "  redrive cancel ID   stops one, or forgets one that is over\n"
         "  publish KEY PAYLOAD publishes a persistent message\n"
         "  encryption          which master keys of encryption at rest are needed, and what is\n"
         "                      encrypted under them\n"
         "  rebalance           begins to move queues until all shards have as many\n"
         "  list policies       settings for queues and exchanges by their names\n"
         "  policy set NAME PATTERN DEFINITION\n"
         "                      for all whose names match the regular expression, from now on;\n"
         "                      DEFINITION is JSON: '{\"max-length\": 1000}'\n"
         "  policy clear NAME   they are as they say themselves again\n"
         "\n"
         "Options:\n"
         "  --data-dir DIR      the broker's data directory (default: ./data)\n"
         "  --key-file FILE     the master keys of an encrypted data directory, for log-dump\n"
         "  --host HOST         where the management API is served (default: 127.0.0.1)\n"
         "  --port PORT         on which port (default: 15672)\n"
         "  --port-offset N     N is added to the default port, as the broker's was\n"
         "  --username USER     who asks (default: guest, whose password is guest); the password\n"
         "                      is asked for, or read from the standard input\n"
         "  --password-stdin    the password is read from the standard input, for guest, too\n"
         "  --vhost VHOST       of this virtual host\n"
         "  --json              as JSON, not as a table\n"
         "  --limit N           so many messages (default: browse 50, get 1, redrive all)\n"
         "  --from POSITION     browse: from there on\n"
         "  --state STATE       browse: ready, leased, delayed or all\n"
         "  --since TIME        browse, redrive: what came since: 90s, 10m, 2h or 3d ago, or at\n"
         "                      so many milliseconds after 1970\n"
         "  --until TIME        browse, redrive: what came before\n"
         "  --where NAME=VALUE  browse, redrive: header.NAME, property.NAME, exchange,\n"
         "                      routing_key, death.queue, death.reason; may be said more than\n"
         "                      once: all hold\n"
         "  --ackmode MODE      get: ack_requeue_true (default), ack_requeue_false,\n"
         "                      reject_requeue_true, reject_requeue_false\n"
         "  --exchange NAME     publish: to this exchange, not to the queue KEY; redrive: there\n"
         "  --key KEY           redrive: with this key, not that of the first publish\n"
         "  --to-queue NAME     redrive: to this queue, whatever died where\n"
         "  --rate N            redrive: so many messages a second\n"
         "  --preview           redrive: only counts what would go where\n"
         "  --background        redrive: only begins, and prints the number of the redrive\n"
         "  --header NAME=VALUE publish: with this header; may be said more than once\n"
         "  --priority N        policy: of those that match, the highest acts (default: 0)\n"
         "  --apply-to WHAT     policy: all (default), queues, classic_queues, quorum_queues,\n"
         "                      streams or exchanges\n"
         "  --operator          policy: an operator's, which bounds what others say\n"
         "  --help              print this help\n"
         "  --version           print the version\n"
         "\n"
         "Exit status: 0 done, 1 not running, not to be had or refused, 2 wrong usage.");
}

static int usage(const char *text, const char *what)
{
    fprintf(stderr, "sluicectl: %s%s\nTry 'sluicectl --help'.\n", text, what);
    return EXIT_USAGE;
}

/* How many of the words name this command; 0: they name another. */
static int words_of(const struct command *command, char **words, int count)
{
    size_t first = strcspn(command->name, " ");
    bool has_two = command->name[first] != 0;

    if (strlen(words[0]) != first || memcmp(words[0], command->name, first) != 0)
        return 0;
    if (!has_two)
        return 1;
    return count > 1 && strcmp(words[1], command->name + first + 1) == 0 ? 2 : 0;
}

static int run(struct arguments *arguments, char **words, int count)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const struct command *command = &commands[i];
        int used = words_of(command, words, count);
        if (used == 0)
            continue;
        arguments->rest = words + used;
        arguments->rest_count = count - used;
        if (arguments->rest_count < command->rest_min)
            return usage("something is missing behind ", command->name);
        if (arguments->rest_count > command->rest_max)
            return usage("too much stands behind ", command->name);
        return command->run(arguments);
    }
    return usage("no such command: ", words[0]);
}

/* ---- options ---- */

enum {
    OPTION_DATA = 1,
    OPTION_KEYS,
    OPTION_HOST,
    OPTION_PORT,
    OPTION_OFFSET,
    OPTION_USER,
    OPTION_PASSWORD,
    OPTION_VHOST,
    OPTION_JSON,
    OPTION_LIMIT,
    OPTION_FROM,
    OPTION_STATE,
    OPTION_SINCE,
    OPTION_UNTIL,
    OPTION_WHERE,
    OPTION_ACKMODE,
    OPTION_EXCHANGE,
    OPTION_HEADER,
    OPTION_PRIORITY,
    OPTION_APPLY_TO,
    OPTION_OPERATOR,
    OPTION_KEY,
    OPTION_TO_QUEUE,
    OPTION_RATE,
    OPTION_PREVIEW,
    OPTION_BACKGROUND,
    OPTION_HELP,
    OPTION_VERSION
};

static const struct option options[] = {
    {"data-dir", required_argument, NULL, OPTION_DATA},
    {"key-file", required_argument, NULL, OPTION_KEYS},
    {"host", required_argument, NULL, OPTION_HOST},
    {"port", required_argument, NULL, OPTION_PORT},
    {"port-offset", required_argument, NULL, OPTION_OFFSET},
    {"username", required_argument, NULL, OPTION_USER},
    {"password-stdin", no_argument, NULL, OPTION_PASSWORD},
    {"vhost", required_argument, NULL, OPTION_VHOST},
    {"json", no_argument, NULL, OPTION_JSON},
    {"limit", required_argument, NULL, OPTION_LIMIT},
    {"from", required_argument, NULL, OPTION_FROM},
    {"state", required_argument, NULL, OPTION_STATE},
    {"since", required_argument, NULL, OPTION_SINCE},
    {"until", required_argument, NULL, OPTION_UNTIL},
    {"where", required_argument, NULL, OPTION_WHERE},
    {"ackmode", required_argument, NULL, OPTION_ACKMODE},
    {"exchange", required_argument, NULL, OPTION_EXCHANGE},
    {"header", required_argument, NULL, OPTION_HEADER},
    {"priority", required_argument, NULL, OPTION_PRIORITY},
    {"apply-to", required_argument, NULL, OPTION_APPLY_TO},
    {"operator", no_argument, NULL, OPTION_OPERATOR},
    {"key", required_argument, NULL, OPTION_KEY},
    {"to-queue", required_argument, NULL, OPTION_TO_QUEUE},
    {"rate", required_argument, NULL, OPTION_RATE},
    {"preview", no_argument, NULL, OPTION_PREVIEW},
    {"background", no_argument, NULL, OPTION_BACKGROUND},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

/* Another one of an option that may be said more than once. -1, or the exit code. */
static int take_another(const char **texts, unsigned *count, const char *name)
{
    if (*count == MESSAGES_WHERE_MAX)
        return usage("too many of ", name);
    texts[(*count)++] = optarg;
    return -1;
}

/* Those about redrives: -1, or the exit code. */
static int take_redrive_option(struct redrive_options *redrive, int option)
{
    switch (option) {
    case OPTION_KEY:
        redrive->key = optarg;
        return -1;
    case OPTION_TO_QUEUE:
        redrive->to_queue = optarg;
        return -1;
    case OPTION_RATE:
        redrive->rate = optarg;
        return -1;
    case OPTION_PREVIEW:
        redrive->is_preview = true;
        return -1;
    case OPTION_BACKGROUND:
        redrive->in_background = true;
        return -1;
    default:
        fputs("Try 'sluicectl --help'.\n", stderr);
        return EXIT_USAGE;
    }
}

/* Those about messages: -1, or the exit code. */
static int take_message_option(struct arguments *arguments, int option)
{
    struct messages_wanted *wanted = &arguments->wanted;

    switch (option) {
    case OPTION_LIMIT:
        wanted->limit = optarg;
        return -1;
    case OPTION_FROM:
        wanted->from = optarg;
        return -1;
    case OPTION_STATE:
        wanted->state = optarg;
        return -1;
    case OPTION_SINCE:
        wanted->since = optarg;
        return -1;
    case OPTION_UNTIL:
        wanted->until = optarg;
        return -1;
    case OPTION_WHERE:
        return take_another(wanted->where, &wanted->where_count, "--where");
    case OPTION_ACKMODE:
        arguments->ackmode = optarg;
        return -1;
    case OPTION_EXCHANGE:
        arguments->exchange = optarg;
        return -1;
    case OPTION_HEADER:
        return take_another(arguments->headers, &arguments->header_count, "--header");
    default:
        return take_redrive_option(&arguments->redrive, option);
    }
}

/* -1: go on; else the exit code. */
static int take_option(struct arguments *arguments, int option)
{
    switch (option) {
    case OPTION_DATA:
        arguments->data_dir = optarg;
        return -1;
    case OPTION_KEYS:
        arguments->key_file = optarg;
        return -1;
    case OPTION_HOST:
        arguments->api.host = optarg;
        return -1;
    case OPTION_PORT:
        arguments->has_port = true;
        if (parse_number(optarg, UINT16_MAX, &arguments->api.port))
            return -1;
        return usage("--port takes a number from 0 to 65535, not ", optarg);
    case OPTION_OFFSET:
        if (parse_number(optarg, 60000, &arguments->port_offset))
            return -1;
        return usage("--port-offset takes a number from 0 to 60000, not ", optarg);
    case OPTION_USER:
        arguments->api.user = optarg;
        arguments->has_user = true;
        return -1;
    case OPTION_PASSWORD:
        arguments->reads_password = true;
        return -1;
    case OPTION_VHOST:
        arguments->vhost = optarg;
        return -1;
    case OPTION_JSON:
        arguments->as_json = true;
        return -1;
    case OPTION_PRIORITY:
        if (parse_signed(optarg, &arguments->priority))
            return -1;
        return usage("--priority takes a number, not ", optarg);
    case OPTION_APPLY_TO:
        arguments->apply_to = optarg;
        return -1;
    case OPTION_OPERATOR:
        arguments->is_operator = true;
        return -1;
    case OPTION_HELP:
        print_help();
        return EXIT_SUCCESS;
    case OPTION_VERSION:
        return run_version(arguments);
    default:
        return take_message_option(arguments, option);
    }
}

int main(int argc, char **argv)
{
    struct arguments arguments = {
        .data_dir = "data",
        .apply_to = "all",
        .api = {.host = "127.0.0.1", .port = API_PORT, .user = "guest", .password = "guest"},
    };
    for (int option; (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        int code = take_option(&arguments, option);
        if (code >= 0)
            return code;
    }
    if (optind == argc)
        return usage("a command is needed", "");
    return run(&arguments, argv + optind, argc - optind);
}
