/*
 * The broker's process: a thread for each worker, with its loop, its stores and its servers; how
 * they start and stop together.
 *
 * The calling thread runs the first worker. That one handles the signals, and counts how far the
 * others are: they tell it with posts.
 *
 *   start   each thread starts its worker; when all have started, they open their servers one
 *           after the other, the first one first; the last one open, the process is ready
 *   stop    each drains its connections, then stops its worker, which waits for all others, and
 *           then leaves its loop; when all threads have ended, everything is freed
 */
#ifndef SLUICE_PROCESS_H
#define SLUICE_PROCESS_H

#include "base/logging.h"
#include "config/settings.h"

struct process_options {
    const char *data_dir;
    const char *version;
    const struct settings *settings;
    const struct logger *logger;
};

/* Runs until TERM or INT. The exit status: EXIT_SUCCESS when it was ready and stopped as asked. */
int process_run(const struct process_options *options) MUST_CHECK;

#endif
