#include "base/logging.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

static const char *const level_names[] = {"debug", "info", "warning", "error", "none"};

int log_level_parse(const char *text, enum log_level *level)
{
    for (size_t i = 0; i < sizeof level_names / sizeof level_names[0]; i++) {
        if (text && strcmp(text, level_names[i]) == 0) {
            *level = (enum log_level)i;
            return 0;
        }
    }
    return E_INVALID;
}

/* Copies with control bytes as \xNN; returns the size written, always less than `room`. */
static size_t escape(char *to, size_t room, const char *from)
{
    static const char digits[] = "0123456789abcdef";
    size_t size = 0;

    for (; *from && size + 5 < room; from++) {
        unsigned char byte = (unsigned char)*from;
        if (byte < 0x20 || byte == 0x7f) {
            to[size++] = '\\';
            to[size++] = 'x';
            to[size++] = digits[byte >> 4];
            to[size++] = digits[byte & 15];
        } else {
            to[size++] = (char)byte;
        }
    }
    to[size] = 0;
    return size;
}

static uint64_t wall_ms(const struct logger *logger)
{
    struct timespec now;

    if (logger->wall_ms)
        return logger->wall_ms(logger->clock);
    clock_gettime(CLOCK_REALTIME, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

void logger_write(const struct logger *logger, enum log_level level, const char *category,
                  const char *format, ...)
{
    char text[LOG_LINE_MAX];
    char line[2 * LOG_LINE_MAX];
    va_list arguments;

    if (!logger || level < logger->level)
        return;
    va_start(arguments, format);
    vsnprintf(text, sizeof text, format, arguments);
    va_end(arguments);
    if (logger->line)
        logger->line(logger->context, level, category, text);
    if (logger->descriptor < 0)
        return;

    uint64_t ms = wall_ms(logger);
    time_t seconds = (time_t)(ms / 1000);
    struct tm parts;
    gmtime_r(&seconds, &parts);
    size_t size = strftime(line, sizeof line, "%Y-%m-%d %H:%M:%S", &parts);
    int head =
        snprintf(line + size, sizeof line - size, ".%03u+00:00 [%s] %s: ", (unsigned)(ms % 1000),
                 level_names[level], category);
    size += (size_t)head;
    size += escape(line + size, sizeof line - size - 1, text);
    line[size++] = '\n';
    ssize_t written = write(logger->descriptor, line, size);
    (void)written; /* a log that cannot be written has nowhere to complain */
}
