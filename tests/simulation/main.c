/*
 * The broker, whole, in virtual time, by seed: several workers with mail between them, a disk for
 * each shard, clients on all of them, by broker.h and over byte streams, lives that end in a crash
 * or a clean stop, and a model that knows what each answer promised. world.h says what is where.
 *
 *   simulate [--seed FIRST] [--count N] [--jobs N] [--go-on] [--verbose] [--fault forget-syncs]
 *
 *   --jobs N   so many processes, 1 by default; 0: in this one, for a debugger
 *   --go-on    after a seed that failed
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

#include <malloc.h>

static bool parse_number(uint64_t *number, const char *text)
{
    char *end;

    *number = strtoull(text, &end, 10);
    return *text && !*end;
}

static bool parse_options(struct options *options, int argc, char **argv)
{
    uint64_t jobs = options->jobs;

    for (int i = 1; i < argc; i++) {
        const char *value = i + 1 < argc ? argv[i + 1] : "";
        if (strcmp(argv[i], "--verbose") == 0)
            options->verbose = true;
        else if (strcmp(argv[i], "--go-on") == 0)
            options->goes_on = true;
        else if (strcmp(argv[i], "--seed") == 0 && parse_number(&options->first, value))
            i++;
        else if (strcmp(argv[i], "--count") == 0 && parse_number(&options->count, value))
            i++;
        else if (strcmp(argv[i], "--jobs") == 0 && parse_number(&jobs, value) && jobs <= JOBS_MAX)
            i++;
        else if (strcmp(argv[i], "--fault") == 0 && *value)
            options->fault = argv[++i];
        else
            return false;
    }
    options->jobs = (unsigned)jobs;
    return options->first > 0 && options->count > 0;
}

int main(int argc, char **argv)
{
    struct options options = {.program = argv[0], .first = 1, .count = 200, .jobs = 1};

    if (!parse_options(&options, argc, argv)) {
        fprintf(stderr,
                "usage: %s [--seed FIRST] [--count N] [--jobs N] [--go-on] [--verbose]\n"
                "       [--fault forget-syncs]\n",
                argv[0]);
        return 2;
    }
    /* what one seed gives back the next one takes: the system need not clear it each time */
    mallopt(M_MMAP_THRESHOLD, 64 << 20);
    mallopt(M_TRIM_THRESHOLD, 512 << 20);
    mallopt(M_TOP_PAD, 16 << 20);
    return seeds_run(&options);
}
