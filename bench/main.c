/* sluice-bench: a load generator for AMQP 0-9-1 brokers. */

#include "null_server.h"
#include "options.h"
#include "report.h"
#include "run.h"

#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

enum { EXIT_WELL = 0, EXIT_FAILED = 1, EXIT_USAGE = 2, EXIT_CHECK = 3 };

static int complain(const struct failure *failure)
{
    fprintf(stderr, "sluice-bench: %s\n", failure->text);
    return EXIT_FAILED;
}

static int bench(const struct options *options)
{
    struct failure failure;
    struct run_result *result = memory_new(sizeof *result);
    int status = EXIT_WELL;
    if (run_execute(options, result, &failure) < 0)
        status = complain(&failure);
    else if (!run_is_well(options, result))
        status = EXIT_CHECK;
    if (status != EXIT_FAILED) {
        bool only_json = options->json && options->json[0] == '-' && options->json[1] == 0;
        if (!only_json)
            report_text(options, result);
        if (options->json && report_json(options, result, options->json, &failure) < 0)
            status = complain(&failure);
    }
    run_result_fini(result);
    free(result);
    return status;
}

int main(int argc, char **argv)
{
    struct options options;
    struct failure failure;
    switch (options_parse(&options, argc, argv)) {
    case OPTIONS_DONE:
        return EXIT_WELL;
    case OPTIONS_WRONG:
        return EXIT_USAGE;
    case OPTIONS_RUN:
        break;
    }
    if (options.null_server)
        return null_server_run(&options, &failure) < 0 ? complain(&failure) : EXIT_WELL;
    return bench(&options);
}
