#include "loop/turn_trace.h"

#include "loop/loop_private.h"

#include <dlfcn.h>
#include <stdio.h>
#include <time.h>

#define TOLD_MAX 5      /* callbacks of a turn */
#define TOLD_NS  250000 /* shorter turns are not told */

uint64_t turn_trace_enter(void)
{
    struct timespec now;

    clock_gettime(CLOCK_THREAD_CPUTIME_ID, &now);
    return (uint64_t)now.tv_sec * 1000000000u + (uint64_t)now.tv_nsec;
}

void turn_trace_leave(struct loop *loop, uint64_t entered, uintptr_t function)
{
    struct turn_trace *trace = &loop->trace;
    unsigned i = 0;

    while (i < trace->count && trace->kinds[i].function != function)
        i++;
    if (i == TURN_TRACE_KINDS)
        return;
    if (i == trace->count) {
        trace->count++;
        trace->kinds[i].function = function;
        trace->kinds[i].ns = trace->kinds[i].calls = 0;
    }
    trace->kinds[i].ns += turn_trace_enter() - entered;
    trace->kinds[i].calls++;
}

void turn_trace_begin(struct loop *loop)
{
    loop->trace.count = 0;
    loop->trace.began_ns = turn_trace_enter();
}

/* The one that took longest, which is told only once. */
static int tell_next(struct turn_trace *trace, char *text, size_t size)
{
    unsigned most = 0;
    Dl_info info;

    for (unsigned i = 1; i < trace->count; i++) {
        if (trace->kinds[i].ns > trace->kinds[most].ns)
            most = i;
    }
    if (trace->count == 0 || trace->kinds[most].ns == 0)
        return 0;
    uintptr_t function = trace->kinds[most].function;
    uintptr_t base = dladdr((void *)function, &info) ? (uintptr_t)info.dli_fbase : 0;
    uint64_t ns = trace->kinds[most].ns;
    trace->kinds[most].ns = 0;
    return snprintf(text, size, "; 0x%zx %llu x%u", (size_t)(function - base),
                    (unsigned long long)ns / 1000, trace->kinds[most].calls);
}

void turn_trace_end(struct loop *loop)
{
    uint64_t spent_ns = turn_trace_enter() - loop->trace.began_ns;
    uint64_t elapsed_ns = loop_precise_ns(loop) - loop->turn_began_ns;
    char text[512];

    if (spent_ns <= TOLD_NS)
        return;
    int size = snprintf(text, sizeof text, "turn: %llu of %llu at %llu",
                        (unsigned long long)spent_ns / 1000, (unsigned long long)elapsed_ns / 1000,
                        (unsigned long long)loop->turn_began_ns / 1000);
    for (int i = 0; i < TOLD_MAX && size < 400; i++)
        size += tell_next(&loop->trace, text + size, sizeof text - (size_t)size);
    fprintf(stderr, "%s\n", text);
}
