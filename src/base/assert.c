#include "base/assert.h"

#include <execinfo.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void assert_failed(const char *condition, const char *file, int line)
{
    void *frames[32];

    fprintf(stderr, "assertion failed: %s (%s:%d)\n", condition, file, line);
    fflush(stderr);
    backtrace_symbols_fd(frames, backtrace(frames, 32), STDERR_FILENO);
    abort();
}
