/*
 * The result of a run, for a person and as JSON. docs/performance.md explains the fields.
 */
#ifndef SLUICE_BENCH_REPORT_H
#define SLUICE_BENCH_REPORT_H

#include "run.h"

/* To standard output. */
void report_text(const struct options *options, const struct run_result *result);

/* To the file, or standard output if it is "-". */
int report_json(const struct options *options, const struct run_result *result, const char *file,
                struct failure *failure) MUST_CHECK;

#endif
