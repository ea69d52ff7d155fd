#include "protocols/amqp091/replies.h"

#include "protocols/amqp091/codec.h"

#include <stdio.h>

struct reply {
    uint16_t code;
    bool hard;
    const char *name;
};

static const struct reply replies[] = {
    {REPLY_SUCCESS, false, "OK"},
    {REPLY_CONTENT_TOO_LARGE, false, "CONTENT_TOO_LARGE"},
    {REPLY_NO_ROUTE, false, "NO_ROUTE"},
    {REPLY_NO_CONSUMERS, false, "NO_CONSUMERS"},
    {REPLY_CONNECTION_FORCED, true, "CONNECTION_FORCED"},
    {REPLY_INVALID_PATH, true, "INVALID_PATH"},
    {REPLY_ACCESS_REFUSED, false, "ACCESS_REFUSED"},
    {REPLY_NOT_FOUND, false, "NOT_FOUND"},
    {REPLY_RESOURCE_LOCKED, false, "RESOURCE_LOCKED"},
    {REPLY_PRECONDITION_FAILED, false, "PRECONDITION_FAILED"},
    {REPLY_FRAME_ERROR, true, "FRAME_ERROR"},
    {REPLY_SYNTAX_ERROR, true, "SYNTAX_ERROR"},
    {REPLY_COMMAND_INVALID, true, "COMMAND_INVALID"},
    {REPLY_CHANNEL_ERROR, true, "CHANNEL_ERROR"},
    {REPLY_UNEXPECTED_FRAME, true, "UNEXPECTED_FRAME"},
    {REPLY_RESOURCE_ERROR, true, "RESOURCE_ERROR"},
    {REPLY_NOT_ALLOWED, true, "NOT_ALLOWED"},
    {REPLY_NOT_IMPLEMENTED, true, "NOT_IMPLEMENTED"},
    {REPLY_INTERNAL_ERROR, true, "INTERNAL_ERROR"},
};

static const struct reply *reply_of(enum reply_code code)
{
    for (size_t i = 0; i < sizeof replies / sizeof replies[0]; i++)
        if (replies[i].code == code)
            return &replies[i];
    return &replies[sizeof replies / sizeof replies[0] - 1];
}

const char *reply_name(enum reply_code code)
{
    return reply_of(code)->name;
}

bool reply_is_hard(enum reply_code code)
{
    return reply_of(code)->hard;
}

struct error_reply {
    int error;
    uint32_t method_id; /* 0: any */
    enum reply_code code;
};

/* The first that fits counts. */
static const struct error_reply error_replies[] = {
    {E_NOT_FOUND, METHOD_connection_open, REPLY_NOT_ALLOWED},
    {E_DENIED, METHOD_connection_open, REPLY_NOT_ALLOWED},
    {E_LIMIT, METHOD_connection_open, REPLY_NOT_ALLOWED},
    {E_UNSUPPORTED, METHOD_exchange_declare, REPLY_PRECONDITION_FAILED},
    {E_NOT_FOUND, 0, REPLY_NOT_FOUND},
    {E_DENIED, 0, REPLY_ACCESS_REFUSED},
    {E_LOGIN, 0, REPLY_ACCESS_REFUSED},
    {E_LOCKED, 0, REPLY_RESOURCE_LOCKED},
    {E_MISMATCH, 0, REPLY_PRECONDITION_FAILED},
    {E_IN_USE, 0, REPLY_PRECONDITION_FAILED},
    {E_INVALID, 0, REPLY_PRECONDITION_FAILED},
    {E_LIMIT, 0, REPLY_PRECONDITION_FAILED},
    {E_UNSUPPORTED, 0, REPLY_NOT_IMPLEMENTED},
    {E_MEMORY, 0, REPLY_RESOURCE_ERROR},
    {E_FULL, 0, REPLY_RESOURCE_ERROR},
    {E_ROOM, 0, REPLY_RESOURCE_ERROR},
    {E_CLOSED, 0, REPLY_CONNECTION_FORCED},
};

enum reply_code reply_for_error(int error, uint32_t method_id)
{
    for (size_t i = 0; i < sizeof error_replies / sizeof error_replies[0]; i++) {
        const struct error_reply *r = &error_replies[i];
        if (r->error == error && (r->method_id == 0 || r->method_id == method_id))
            return r->code;
    }
    return REPLY_INTERNAL_ERROR; /* E_IO, E_FAILED, E_CORRUPT, ...: nothing the client did */
}

enum reply_code reply_for_decoding(int error)
{
    switch (error) {
    case E_UNSUPPORTED:
        return REPLY_COMMAND_INVALID;
    case E_INVALID:
        return REPLY_SYNTAX_ERROR;
    default:
        return REPLY_FRAME_ERROR;
    }
}

size_t reply_text(char *text, enum reply_code code, const char *explanation)
{
    int wanted = snprintf(text, REPLY_TEXT_MAX + 1, "%s - %s", reply_name(code), explanation);
    size_t size = wanted < 0 ? 0 : (size_t)wanted;

    if (size > REPLY_TEXT_MAX) {
        size = REPLY_TEXT_MAX;
        /* cut in the middle of a character: drop its head, too */
        size_t start = size;
        while (start > 0 && ((uint8_t)text[start - 1] & 0xc0) == 0x80)
            start--;
        if (start > 0 && (uint8_t)text[start - 1] >= 0x80 &&
            !amqp091_is_utf8(slice_of(text + start - 1, size - (start - 1))))
            size = start - 1;
        text[size] = 0;
    }
    return size;
}
