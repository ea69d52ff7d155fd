/*
 * Where a process listens, by what the kernel tells in /proc: the sockets among its descriptors
 * that are in the state LISTEN.
 */
#ifndef SLUICE_CTL_LISTENERS_H
#define SLUICE_CTL_LISTENERS_H

#include "base/error.h"

#include <netinet/in.h>
#include <sys/types.h>

#define LISTENERS_MAX 64

struct listeners {
    struct sockaddr_in6 at[LISTENERS_MAX]; /* IPv4 as mapped addresses */
    size_t count;
};

/* E_DENIED: another user's process; E_IO. */
int listeners_of(pid_t process, struct listeners *listeners, struct failure *failure) MUST_CHECK;

/* "127.0.0.1:5672" or "[::1]:5672". Returns text. */
const char *listener_text(const struct sockaddr_in6 *address, char *text, size_t size);

#endif
