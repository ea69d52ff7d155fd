/*
 * The broker behind broker.h, whole, in virtual time, by seed: several workers with mail between
 * them, a disk for each shard, clients on all of them, lives that end in a crash or a clean stop,
 * and a model that knows what each answer promised. world.h says what is where.
 *
 *   simulate [--seed FIRST] [--count N] [--verbose] [--fault forget-syncs]
 *
 * What is checked (docs/testing.md says more):
 *   - what was confirmed and not acknowledged comes back after any crash; what was acknowledged
 *     durably never does
 *   - nothing is delivered that was not published there, twice at a time, or with other bytes
 *   - what may have been seen before says so (redelivered)
 *   - order: what one client published to one queue stands there, and goes out, in that order
 *   - transactions happen whole or not at all
 *   - corruption is reported before anything may be missing
 *   - when nothing is on its way, all workers have the same catalog, and no credit, lease, request
 *     or memory is left over
 */
#include "world.h"

#include <signal.h>
#include <unistd.h>

struct options {
    uint64_t first, count;
    bool verbose;
    const char *fault;
};

static bool parse_options(struct options *options, int argc, char **argv)
{
    for (int i = 1; i < argc; i++) {
        bool has_value = i + 1 < argc;
        if (strcmp(argv[i], "--verbose") == 0)
            options->verbose = true;
        else if (strcmp(argv[i], "--seed") == 0 && has_value)
            options->first = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--count") == 0 && has_value)
            options->count = strtoull(argv[++i], NULL, 10);
        else if (strcmp(argv[i], "--fault") == 0 && has_value)
            options->fault = argv[++i];
        else
            return false;
    }
    return options->first > 0 && options->count > 0;
}

/* What the seed at hand is, in words, for the moment when an assertion ends the process. */
static char last_words[64];

static void on_abort(int signal_number)
{
    ssize_t written = write(STDERR_FILENO, last_words, strlen(last_words));

    (void)written;
    signal(signal_number, SIG_DFL);
    raise(signal_number);
}

int main(int argc, char **argv)
{
    struct options options = {.first = 1, .count = 200};
    uint64_t deliveries = 0, far = 0, crashes = 0, confirms = 0;

    if (!parse_options(&options, argc, argv)) {
        fprintf(stderr, "usage: %s [--seed FIRST] [--count N] [--verbose] [--fault forget-syncs]\n",
                argv[0]);
        return 2;
    }
    signal(SIGABRT, on_abort);
    signal(SIGSEGV, on_abort);
    for (uint64_t i = 0; i < options.count; i++) {
        struct world *w = memory_new(sizeof *w);
        w->program = argv[0];
        w->seed = options.first + i;
        w->verbose = options.verbose;
        w->fault = options.fault;
        w->passed = i;
        snprintf(last_words, sizeof last_words, "died in seed %" PRIu64 "\n", w->seed);
        world_run_seed(w);
        deliveries += w->deliveries;
        far += w->far_deliveries;
        crashes += w->crashes;
        confirms += w->confirms;
        free(w);
    }
    printf("%" PRIu64 " seeds: %" PRIu64 " crashes, %" PRIu64 " confirms, %" PRIu64
           " deliveries, %" PRIu64 " of them by mail\n",
           options.count, crashes, confirms, deliveries, far);
    printf("%" PRIu64 " passed, 0 failed\n", options.count);
    return 0;
}
