/*
 * The watchdog: a thread that looks whether a worker is stuck in a turn, and then logs where: what
 * the worker is just doing, as a stack. Once for each such turn, and another line when it is over.
 *
 * A stack has one line a frame: the file, the function if it is exported, and the address in the
 * file, as `addr2line -e FILE ADDRESS` takes it. The worker is interrupted for that with a signal
 * (SIGRTMIN + 3, which belongs to the watchdog while there is one), and looks at nothing but its
 * own stack; all else, the log too, is done by the watchdog's thread. So it works, too, while the
 * worker holds the allocator's lock.
 *
 * Real loops only; one for a process.
 */
#ifndef SLUICE_LOOP_REAL_WATCHDOG_H
#define SLUICE_LOOP_REAL_WATCHDOG_H

#include "base/logging.h"
#include "loop/loop.h"

#define WATCHDOG_LIMIT_MS     1000u /* a good limit */
#define WATCHDOG_LIMIT_MIN_MS 10u

struct watchdog;

/* Turns longer than `limit_ms` are reported, at most half as much again too late. The logger stays
 * until the end, and may be used from the watchdog's thread. E_LIMIT: the system gives no thread.
 */
int watchdog_new(const struct logger *logger, unsigned limit_ms, struct watchdog **watchdog,
                 struct failure *failure) MUST_CHECK;

/* Ends the thread. All loops have left. */
void watchdog_free(struct watchdog *watchdog);

/* The calling thread runs this loop from now on, until it leaves; called by that thread. The name
 * is for the log: "worker 2"; copied. */
void watchdog_enter(struct watchdog *watchdog, struct loop *loop, const char *name);
void watchdog_leave(struct watchdog *watchdog, struct loop *loop);

#endif
