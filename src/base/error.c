#include "base/error.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>

static const char *const names[] = {
    [-E_AGAIN] = "again",
    [-E_ROOM] = "room",
    [-E_MORE] = "more",
    [-E_INVALID] = "invalid",
    [-E_LIMIT] = "limit",
    [-E_MEMORY] = "memory",
    [-E_NOT_FOUND] = "not_found",
    [-E_MISMATCH] = "mismatch",
    [-E_DENIED] = "denied",
    [-E_LOCKED] = "locked",
    [-E_IN_USE] = "in_use",
    [-E_LOGIN] = "login",
    [-E_UNSUPPORTED] = "unsupported",
    [-E_CLOSED] = "closed",
    [-E_TIMEOUT] = "timeout",
    [-E_IO] = "io",
    [-E_FULL] = "full",
    [-E_CORRUPT] = "corrupt",
    [-E_VERSION] = "version",
    [-E_HELD] = "held",
    [-E_FENCED] = "fenced",
    [-E_FAILED] = "failed",
    [-E_FRAME] = "frame",
    [-E_KEY] = "key",
};

_Static_assert(sizeof names / sizeof names[0] == -E_KEY + 1, "E_KEY is the last");

const char *error_name(int code)
{
    if (code == 0)
        return "none";
    if (code > 0 || code < E_KEY || !names[-code])
        return "unknown";
    return names[-code];
}

int error_from_errno(int number)
{
    switch (number) {
    case EAGAIN:
#if EAGAIN != EWOULDBLOCK
    case EWOULDBLOCK:
#endif
        return E_AGAIN;
    case ENOSPC:
    case EDQUOT:
        return E_FULL;
    case ENOENT:
        return E_NOT_FOUND;
    case ENOMEM:
        return E_MEMORY;
    case EACCES:
    case EPERM:
        return E_DENIED;
    case EMFILE:
    case ENFILE:
        return E_LIMIT;
    case EADDRINUSE:
        return E_HELD;
    case ECONNRESET:
    case EPIPE:
        return E_CLOSED;
    default:
        return E_IO;
    }
}

int fail(struct failure *failure, int code, const char *format, ...)
{
    if (failure) {
        va_list arguments;
        va_start(arguments, format);
        failure->code = code;
        vsnprintf(failure->text, sizeof failure->text, format, arguments);
        va_end(arguments);
    }
    return code;
}
