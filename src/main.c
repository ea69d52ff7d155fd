/*
 * The broker's program: options, configuration, what the system has to allow. process.h does the
 * rest.
 */
#include "base/memory.h"
#include "process.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <malloc.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <unistd.h>

#define EXIT_USAGE           2
#define DESCRIPTORS_FORESEEN 65536 /* 512 KiB of the kernel's memory */

struct program {
    const char *data_dir;
    struct conf conf;
    struct settings settings;
    struct logger logger;
    unsigned port_offset;
};

/* ---- the command line ---- */

static void print_help(void)
{
    puts("Usage: sluice [OPTION]...\n"
         "\n"
         "Runs the sluice message broker until it gets TERM or INT.\n"
         "\n"
         "  --config FILE|DIR   read the configuration: a file in the format of rabbitmq.conf,\n"
         "                      or a directory whose *.conf files are read in order\n"
         "  --data-dir DIR      keep all data there (default: ./data)\n"
         "  --set KEY=VALUE     set a configuration key; wins over files; repeatable\n"
         "  --port-offset N     add N to every default port\n"
         "  --list-settings     print every configuration key, its type, default and meaning\n"
         "  --help              print this help\n"
         "  --version           print the version\n"
         "\n"
         "Exit status: 0 stopped as asked, 1 could not start or had to stop, 2 wrong usage.");
}

static void print_settings(void)
{
    const struct setting_help *help;

    for (unsigned i = 0; (help = settings_help(i)); i++)
        printf("%s\n    %s, default %s\n    %s\n", help->key, help->type,
               help->standard ? help->standard : "none", help->help);
}

static int usage(const char *text)
{
    fprintf(stderr, "sluice: %s\nTry 'sluice --help'.\n", text);
    return EXIT_USAGE;
}

static int parse_offset(const char *text, unsigned *offset)
{
    char *end;
    errno = 0;
    unsigned long value = strtoul(text, &end, 10);

    if (errno || *end || end == text || value > 60000)
        return E_INVALID;
    *offset = (unsigned)value;
    return 0;
}

enum {
    OPTION_CONFIG = 1,
    OPTION_DATA,
    OPTION_SET,
    OPTION_OFFSET,
    OPTION_SETTINGS,
    OPTION_HELP,
    OPTION_VERSION
};

static const struct option options[] = {
    {"config", required_argument, NULL, OPTION_CONFIG},
    {"data-dir", required_argument, NULL, OPTION_DATA},
    {"set", required_argument, NULL, OPTION_SET},
    {"port-offset", required_argument, NULL, OPTION_OFFSET},
    {"list-settings", no_argument, NULL, OPTION_SETTINGS},
    {"help", no_argument, NULL, OPTION_HELP},
    {"version", no_argument, NULL, OPTION_VERSION},
    {0},
};

/* -1: go on; else the exit code. Files are read first, whatever the order, so that --set wins. */
static int parse_command_line(struct program *program, int argc, char **argv)
{
    struct failure failure = {0};
    const char **sets = memory_new((size_t)argc * sizeof *sets);
    size_t set_count = 0;
    int code = -1;

    for (int option; code < 0 && (option = getopt_long(argc, argv, "", options, NULL)) != -1;) {
        switch (option) {
        case OPTION_CONFIG:
            if (conf_load(&program->conf, optarg, &failure) != 0)
                code = EXIT_USAGE;
            break;
        case OPTION_DATA:
            program->data_dir = optarg;
            break;
        case OPTION_SET:
            sets[set_count++] = optarg;
            break;
        case OPTION_OFFSET:
            if (parse_offset(optarg, &program->port_offset) != 0)
                code = usage("--port-offset takes a number from 0 to 60000");
            break;
        case OPTION_SETTINGS:
            print_settings();
            code = 0;
            break;
        case OPTION_HELP:
            print_help();
            code = 0;
            break;
        case OPTION_VERSION:
            puts("sluice " SLUICE_VERSION);
            code = 0;
            break;
        default:
            fputs("Try 'sluice --help'.\n", stderr);
            code = EXIT_USAGE;
        }
    }
    if (code < 0 && optind < argc)
        code = usage("there are no arguments besides options");
    for (size_t i = 0; code < 0 && i < set_count; i++) {
        if (conf_set(&program->conf, sets[i], &failure) != 0)
            code = EXIT_USAGE;
    }
    free(sets);
    if (failure.text[0])
        fprintf(stderr, "sluice: %s\n", failure.text);
    return code;
}

static void warn(void *context, const char *text)
{
    struct program *program = context;
    log_warning(&program->logger, "config", "%s", text);
}

/* Settings know nothing of the system: a node is called after its host unless told otherwise. */
static void name_after_host(struct settings *settings)
{
    char host[128];

    if (gethostname(host, sizeof host) != 0)
        return;
    host[sizeof host - 1] = 0;
    bool cluster_too = strcmp(settings->cluster_name, settings->node_name) == 0;
    snprintf(settings->node_name, sizeof settings->node_name, "sluice@%s", host);
    if (cluster_too)
        memcpy(settings->cluster_name, settings->node_name, sizeof settings->cluster_name);
}

static int configure(struct program *program)
{
    struct failure failure;

    if (settings_from_conf(&program->settings, &program->conf, program->port_offset, warn, program,
                           &failure) != 0) {
        fprintf(stderr, "sluice: %s\n", failure.text);
        return EXIT_USAGE;
    }
    if (!conf_get(&program->conf, "node_name"))
        name_after_host(&program->settings);
    program->logger.level = program->settings.log_level;
    if (program->settings.log_file[0]) {
        int file =
            open(program->settings.log_file, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0640);
        if (file < 0) {
            fprintf(stderr, "sluice: log file %s: %s\n", program->settings.log_file,
                    strerror(errno));
            return EXIT_FAILURE;
        }
        program->logger.descriptor = file;
    } else if (!program->settings.log_console) {
        program->logger.descriptor = -1;
    }
    return 0;
}

/* ---- the system ---- */

static void raise_descriptor_limit(const struct logger *logger)
{
    struct rlimit limit;

    if (getrlimit(RLIMIT_NOFILE, &limit) != 0)
        return;
    limit.rlim_cur = limit.rlim_max;
    if (setrlimit(RLIMIT_NOFILE, &limit) != 0)
        log_warning(logger, "start", "the limit of open files cannot be raised: %s",
                    strerror(errno));
}

/* While there is one thread only. Later the kernel, before it lets go on who has opened one
 * descriptor more than the table holds, waits until no thread can be looking at the old table: 3 to
 * 17 ms, measured while a thousand clients connect. */
static void grow_descriptor_table(void)
{
    struct rlimit limit;
    int file = open("/dev/null", O_RDONLY | O_CLOEXEC);

    if (file >= 0 && getrlimit(RLIMIT_NOFILE, &limit) == 0) {
        rlim_t count =
            limit.rlim_cur < DESCRIPTORS_FORESEEN ? limit.rlim_cur : DESCRIPTORS_FORESEEN;
        int last = fcntl(file, F_DUPFD_CLOEXEC, (int)count - 1);
        if (last >= 0)
            close(last);
    }
    if (file >= 0)
        close(file);
}

int main(int argc, char **argv)
{
    struct program program = {
        .data_dir = "data",
        .logger = {.level = LOG_INFO, .descriptor = STDERR_FILENO},
    };
    struct process_options process = {
        .version = SLUICE_VERSION,
        .settings = &program.settings,
        .logger = &program.logger,
    };

    conf_init(&program.conf);
    int code = parse_command_line(&program, argc, argv);
    bool go_on = code < 0;
    if (go_on)
        code = configure(&program);
    conf_fini(&program.conf);
    if (go_on && code == 0) {
        signal(SIGPIPE, SIG_IGN);
        /* no fast bins: millions of freed messages in them are put together all at once, in a turn
         * of 200 ms, when something large is allocated next */
        mallopt(M_MXFAST, 0);
        mallopt(M_MMAP_THRESHOLD, 4 << 20);  /* what a password check needs goes back at once */
        mallopt(M_TRIM_THRESHOLD, 16 << 20); /* the heap of messages shrinks, but not each time */
        raise_descriptor_limit(&program.logger);
        grow_descriptor_table();
        process.data_dir = program.data_dir;
        code = process_run(&process);
    }
    return code;
}
