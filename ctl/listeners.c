#include "ctl/listeners.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SOCKETS_MAX     65536u
#define STATE_LISTEN    0x0Au
#define PROC_WORDS_MAX  10 /* of a line of /proc/net/tcp, up to the inode */
#define PROC_WORD_LOCAL 1
#define PROC_WORD_STATE 3
#define PROC_WORD_INODE 9

struct sockets {
    uint64_t *inodes;
    size_t count;
};

static int by_inode(const void *a, const void *b)
{
    const uint64_t *x = a, *y = b;
    return (*x > *y) - (*x < *y);
}

static int sockets_of(pid_t process, struct sockets *sockets, struct failure *failure)
{
    char path[64];
    snprintf(path, sizeof path, "/proc/%ld/fd", (long)process);
    DIR *directory = opendir(path);
    if (!directory)
        return fail(failure, errno == EACCES ? E_DENIED : E_IO, "%s: %s", path, strerror(errno));
    struct dirent *entry;
    while ((entry = readdir(directory)) != NULL && sockets->count < SOCKETS_MAX) {
        char target[64];
        ssize_t size = readlinkat(dirfd(directory), entry->d_name, target, sizeof target - 1);
        if (size <= 0)
            continue;
        target[size] = 0;
        if (strncmp(target, "socket:[", 8) == 0)
            sockets->inodes[sockets->count++] = strtoull(target + 8, NULL, 10);
    }
    closedir(directory);
    qsort(sockets->inodes, sockets->count, sizeof *sockets->inodes, by_inode);
    return 0;
}

/* The kernel prints addresses as words of 32 bits in its own order, and the port in ours. */
static bool parse_local(const char *word, struct sockaddr_in6 *address)
{
    const char *colon = strchr(word, ':');
    size_t digits = colon ? (size_t)(colon - word) : 0;
    uint32_t words[4] = {0, 0, htonl(0xFFFF), 0};
    if (digits != 8 && digits != 32)
        return false;
    for (size_t i = 0; i < digits / 8; i++) {
        char hex[9] = {0};
        memcpy(hex, word + i * 8, 8);
        words[digits == 8 ? 3 : i] = (uint32_t)strtoul(hex, NULL, 16);
    }
    *address = (struct sockaddr_in6){
        .sin6_family = AF_INET6,
        .sin6_port = htons((uint16_t)strtoul(colon + 1, NULL, 16)),
    };
    memcpy(&address->sin6_addr, words, sizeof words);
    return true;
}

static void add_listeners(const char *path, const struct sockets *sockets,
                          struct listeners *listeners)
{
    char line[512];
    FILE *file = fopen(path, "re");
    if (!file)
        return; /* a system without this kind of address */
    while (fgets(line, sizeof line, file) && listeners->count < LISTENERS_MAX) {
        char *words[PROC_WORDS_MAX] = {NULL}, *rest = line, *word;
        size_t count = 0;
        while (count < PROC_WORDS_MAX && (word = strtok_r(rest, " \n", &rest)) != NULL)
            words[count++] = word;
        if (count < PROC_WORDS_MAX || strtoul(words[PROC_WORD_STATE], NULL, 16) != STATE_LISTEN)
            continue;
        uint64_t inode = strtoull(words[PROC_WORD_INODE], NULL, 10);
        if (bsearch(&inode, sockets->inodes, sockets->count, sizeof inode, by_inode) &&
            parse_local(words[PROC_WORD_LOCAL], &listeners->at[listeners->count]))
            listeners->count++;
    }
    fclose(file);
}

int listeners_of(pid_t process, struct listeners *listeners, struct failure *failure)
{
    struct sockets sockets = {calloc(SOCKETS_MAX, sizeof(uint64_t)), 0};
    listeners->count = 0;
    if (!sockets.inodes)
        return fail(failure, E_MEMORY, "no memory for a list of sockets");
    int result = sockets_of(process, &sockets, failure);
    if (result == 0) {
        add_listeners("/proc/net/tcp", &sockets, listeners);
        add_listeners("/proc/net/tcp6", &sockets, listeners);
    }
    free(sockets.inodes);
    return result;
}

const char *listener_text(const struct sockaddr_in6 *address, char *text, size_t size)
{
    char host[INET6_ADDRSTRLEN] = "?";
    bool is_mapped = IN6_IS_ADDR_V4MAPPED(&address->sin6_addr);
    if (is_mapped)
        inet_ntop(AF_INET, &address->sin6_addr.s6_addr[12], host, sizeof host);
    else
        inet_ntop(AF_INET6, &address->sin6_addr, host, sizeof host);
    snprintf(text, size, is_mapped ? "%s:%u" : "[%s]:%u", host, ntohs(address->sin6_port));
    return text;
}
