/*
 * Error codes of the whole program.
 *
 * A function that can fail returns 0 or one of these, negative; byte counts come back as ssize_t
 * with the same negative codes. The text for a person is made where the cause is known (struct
 * failure), never from the code alone. A protocol has one table from these codes to its own reply
 * codes.
 */
#ifndef SLUICE_BASE_ERROR_H
#define SLUICE_BASE_ERROR_H

#include <stddef.h>

enum error {
    E_AGAIN = -1,     /* nothing now, ask again when told (a socket that would block) */
    E_ROOM = -2,      /* no room now: a bounded buffer or credit is used up, ask again when told */
    E_MORE = -3,      /* the input ends before the item does */
    E_INVALID = -4,   /* the caller's input breaks a rule of syntax or range */
    E_LIMIT = -5,     /* a configured limit is reached */
    E_MEMORY = -6,    /* an account or the system refuses memory */
    E_NOT_FOUND = -7, /* no such object */
    E_MISMATCH = -8,  /* the object exists with other properties */
    E_DENIED = -9,    /* the user may not do this */
    E_LOCKED = -10,   /* the object belongs exclusively to another connection */
    E_IN_USE =
        -11, /* the object has users or is not empty, and the caller asked not to disturb them */
    E_LOGIN = -12,       /* wrong user or password, or this user may not come from there */
    E_UNSUPPORTED = -13, /* known, and not done here */
    E_CLOSED = -14,      /* the peer or the object is gone */
    E_TIMEOUT = -15,
    E_IO = -16,      /* the system reported an I/O error */
    E_FULL = -17,    /* the disk is full */
    E_CORRUPT = -18, /* stored bytes do not match their checksum or break the format */
    E_VERSION = -19, /* stored bytes have a format this program does not know */
    E_HELD = -20,    /* another process holds the data directory, the port, ... */
    E_FENCED = -21,  /* another owner has taken the shard over */
    E_FAILED = -22,  /* the shard has stopped taking writes after I/O errors */
    E_FRAME = -23, /* the peer's bytes are no frame of the protocol: the connection cannot go on */
    E_KEY = -24,   /* what is stored is encrypted, and the key is not there or is another */
};

/* What a call that may complete later returns when it did not fail: DONE, the result is there;
 * PENDING, a completion follows in a later turn, exactly once. */
enum { DONE = 0, PENDING = 1 };

#define MUST_CHECK               __attribute__((warn_unused_result))
#define PRINTF_LIKE(text, first) __attribute__((format(printf, text, first)))

/* The code's name without E_, lower case: "not_found". For log lines and tests. */
const char *error_name(int code);

/* The code for errno, after a system call failed: ENOSPC and EDQUOT are E_FULL, EAGAIN is E_AGAIN,
 * the rest E_IO. */
int error_from_errno(int number);

/* A failure told to a person: the code and one line that names the cause. Text is cut at the size,
 * never wrong. */
#define FAILURE_TEXT_MAX 400

struct failure {
    int code;
    char text[FAILURE_TEXT_MAX];
};

/* Fills in the failure (which may be NULL) and returns the code, so that `return fail(f, E_X,
 * "...")` reads well. */
int fail(struct failure *failure, int code, const char *format, ...) PRINTF_LIKE(3, 4);

#endif
