/*
 * The processors this process may use: for how many workers there are by default, and for binding
 * them.
 */
#ifndef SLUICE_LOOP_PROCESSORS_H
#define SLUICE_LOOP_PROCESSORS_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

/* Those of its affinity mask, but no more than its control group's quota gives time for (rounded
 * up). At least 1. */
unsigned processors_count(void);

/* Binds the calling thread to the index-th of them and returns that one's number. A bound worker
 * keeps its caches; but where the system has little choice left, it chooses better. So
 * E_UNSUPPORTED, and nothing done, when there are fewer than `processors_min` or no more than
 * `index`, or a quota allows less than there are (then threads had better be moved).
 *
 * Threads that this thread makes later are bound with it: make them before. */
#define PROCESSORS_BIND_MIN 4
int processors_bind(unsigned index, unsigned processors_min) MUST_CHECK;

/* Asks that the calling thread, and the threads it makes from then on, get a processor for that
 * long at a time when others want it too; 0: for as long as the system thinks best. It is not about
 * how much a thread gets, but about when: one that awakes, and has not had more than its share, is
 * let on at once where one with longer slices runs, instead of after the rest of that slice (up to
 * a tick, 4 ms). For threads that mostly wait. Needs no privilege. At least 0.1 ms, at most 100 ms.
 *
 * E_UNSUPPORTED where it is not to be had (Linux before 6.12, which ignores it or refuses; a thread
 * that is not scheduled as usual); E_DENIED. Then all is as before. */
#define PROCESSORS_PROMPT_NS 100000u
int processors_set_slice(uint64_t slice_ns) MUST_CHECK;

/* The processors that a control group's "cpu.max" gives time for; 0 when that does not limit them.
 */
unsigned processors_of_quota(const char *text);

/* The group's path in the text of /proc/self/cgroup ("0::/PATH"), cut at the size; false when there
 * is none. */
bool processors_group(const char *text, char *path, size_t size);

#endif
