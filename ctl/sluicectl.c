/*
 * sluicectl: looks at a broker and at its data.
 */
#include "ctl/dump.h"
#include "ctl/status.h"

#include <getopt.h>
#include <stdlib.h>
#include <string.h>

#define EXIT_USAGE 2

struct arguments {
    const char *data_dir;
    char **rest; /* what stands behind the command */
    int rest_count;
};

struct command {
    const char *name;
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
    return dump_print(directory_of(arguments), stdout, &failure) == 0 ? EXIT_SUCCESS
                                                                      : fail_with(&failure);
}

static int run_accept_damage(const struct arguments *arguments)
{
    struct failure failure = {0};
    return dump_accept_damage(directory_of(arguments), &failure) == 0 ? EXIT_SUCCESS
                                                                      : fail_with(&failure);
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
    {"version", 0, 0, run_version},
};

static void print_help(void)
{
    puts("Usage: sluicectl [OPTION]... COMMAND [ARGUMENT]...\n"
         "\n"
         "Looks at a sluice broker on this machine and at its data.\n"
         "\n"
         "Commands:\n"
         "  status              whether a broker runs on the data directory, where it listens,\n"
         "                      and what it says of itself\n"
         "  log-dump [DIR]      every segment, block and record in a data directory that no\n"
         "                      broker runs on, or in one of its shards: DIR/shard-2\n"
         "  accept-damage [DIR] what a start has reported as corrupt is accepted as lost: later\n"
         "                      starts do not report it, and give up what belonged to it\n"
         "  version             the version of this program\n"
         "\n"
         "Options:\n"
         "  --data-dir DIR      the broker's data directory (default: ./data)\n"
         "  --help              print this help\n"
         "  --version           print the version\n"
         "\n"
         "Exit status: 0 done, 1 not running or not to be had, 2 wrong usage.");
}

static int usage(const char *text, const char *what)
{
    fprintf(stderr, "sluicectl: %s%s\nTry 'sluicectl --help'.\n", text, what);
    return EXIT_USAGE;
}

static int run(const struct arguments *arguments, const char *name)
{
    for (size_t i = 0; i < sizeof commands / sizeof *commands; i++) {
        const struct command *command = &commands[i];
        if (strcmp(command->name, name) != 0)
            continue;
        if (arguments->rest_count < command->rest_min)
            return usage("something is missing behind ", name);
        if (arguments->rest_count > command->rest_max)
            return usage("too much stands behind ", name);
        return command->run(arguments);
    }
    return usage("no such command: ", name);
}

int main(int argc, char **argv)
{
    enum { OPTION_DATA = 1, OPTION_HELP, OPTION_VERSION };
    static const struct option options[] = {
        {"data-dir", required_argument, NULL, OPTION_DATA},
        {"help", no_argument, NULL, OPTION_HELP},
        {"version", no_argument, NULL, OPTION_VERSION},
        {0},
    };
    struct arguments arguments = {.data_dir = "data"};
    for (int option; (option = getopt_long(argc, argv, "+", options, NULL)) != -1;) {
        switch (option) {
        case OPTION_DATA:
            arguments.data_dir = optarg;
            break;
        case OPTION_HELP:
            print_help();
            return EXIT_SUCCESS;
        case OPTION_VERSION:
            return run_version(&arguments);
        default:
            fputs("Try 'sluicectl --help'.\n", stderr);
            return EXIT_USAGE;
        }
    }
    if (optind == argc)
        return usage("a command is needed", "");
    arguments.rest = argv + optind + 1;
    arguments.rest_count = argc - optind - 1;
    return run(&arguments, argv[optind]);
}
