/*
 * Assertions of what must hold inside the program; they stay in release builds. Never on bytes from
 * disk or wire: those are errors to their sender. DEBUG_ASSERT is for walks too expensive to keep
 * (compiled in with -Ddebug_checks).
 */
#ifndef SLUICE_BASE_ASSERT_H
#define SLUICE_BASE_ASSERT_H

#define ASSERT(condition)                                                                          \
    do {                                                                                           \
        if (__builtin_expect(!(condition), 0))                                                     \
            assert_failed(#condition, __FILE__, __LINE__);                                         \
    } while (0)

#ifdef SLUICE_DEBUG_CHECKS
#define DEBUG_ASSERT(condition) ASSERT(condition)
#else
#define DEBUG_ASSERT(condition)                                                                    \
    do {                                                                                           \
        if (0 && !(condition))                                                                     \
            assert_failed(#condition, __FILE__, __LINE__);                                         \
    } while (0)
#endif

/* Prints the condition, the place and a stack trace to standard error, and aborts. */
void assert_failed(const char *condition, const char *file, int line)
    __attribute__((noreturn, cold));

#endif
