/*
 * Log lines for the operator. One line an event: UTC time, level in brackets, category, text; never
 * a line break or a control byte from outside inside the text (they are escaped).
 *
 * A logger is given to whoever logs; there is none by default. Writing goes to a file descriptor,
 * or to a callback in tests and simulation. logger_write() does not allocate and is safe from
 * helper threads (one write(2) a line).
 */
#ifndef SLUICE_BASE_LOGGING_H
#define SLUICE_BASE_LOGGING_H

#include "base/error.h"

#include <stdbool.h>
#include <stdint.h>

enum log_level { LOG_DEBUG, LOG_INFO, LOG_WARNING, LOG_ERROR, LOG_NONE };

#define LOG_LINE_MAX 1024

struct logger {
    enum log_level level;
    int descriptor; /* -1: only the callback */
    void (*line)(void *context, enum log_level level, const char *category, const char *text);
    void *context;
    uint64_t (*wall_ms)(void *clock); /* NULL: the system's */
    void *clock;
};

/* Lower case, as in rabbitmq.conf: debug, info, warning, error, none; NULL-safe. Returns 0 or
 * E_INVALID. */
int log_level_parse(const char *text, enum log_level *level) MUST_CHECK;

void logger_write(const struct logger *logger, enum log_level level, const char *category,
                  const char *format, ...) PRINTF_LIKE(4, 5);

#define log_debug(logger, category, ...)   logger_write(logger, LOG_DEBUG, category, __VA_ARGS__)
#define log_info(logger, category, ...)    logger_write(logger, LOG_INFO, category, __VA_ARGS__)
#define log_warning(logger, category, ...) logger_write(logger, LOG_WARNING, category, __VA_ARGS__)
#define log_error(logger, category, ...)   logger_write(logger, LOG_ERROR, category, __VA_ARGS__)

#endif
