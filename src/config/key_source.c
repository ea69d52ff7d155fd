#include "config/key_source.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

extern char **environ;

/* ---- a file ---- */

static int check_file(int file, const char *path, struct failure *failure)
{
    struct stat status;

    if (fstat(file, &status) < 0)
        return fail(failure, E_IO, "%s: %s", path, strerror(errno));
    if (!S_ISREG(status.st_mode))
        return fail(failure, E_DENIED, "%s is no file", path);
    if (status.st_uid != geteuid() && status.st_uid != 0)
        return fail(failure, E_DENIED, "%s belongs to another user, who could change it", path);
    if (status.st_mode & (S_IWGRP | S_IRWXO))
        return fail(failure, E_DENIED,
                    "%s has mode %03o: others may read or change it; chmod 600 ends that", path,
                    (unsigned)(status.st_mode & 0777));
    return 0;
}

/* Until the end, or the deadline. */
static int read_all(int file, const char *what, int (*wait)(int file, uint64_t until_ms),
                    uint64_t until_ms, char *text, size_t capacity, size_t *size,
                    struct failure *failure)
{
    *size = 0;
    for (;;) {
        char more;
        bool is_full = *size == capacity;
        if (wait(file, until_ms) < 0)
            return fail(failure, E_TIMEOUT, "%s did not end within %u s", what,
                        KEY_COMMAND_LIMIT_MS / 1000);
        ssize_t got = read(file, is_full ? &more : text + *size, is_full ? 1 : capacity - *size);
        if (got == 0)
            return 0;
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0)
            return fail(failure, E_IO, "%s: %s", what, strerror(errno));
        if (is_full)
            return fail(failure, E_LIMIT, "%s: the text is longer than %zu bytes", what, capacity);
        *size += (size_t)got;
    }
}

static int no_wait(int file, uint64_t until_ms)
{
    (void)file;
    (void)until_ms;
    return 0;
}

static int read_file(const char *path, char *text, size_t capacity, size_t *size,
                     struct failure *failure)
{
    int file = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);

    if (file < 0)
        return fail(failure, error_from_errno(errno), "%s: %s", path, strerror(errno));
    int result = check_file(file, path, failure);
    if (result == 0)
        result = read_all(file, path, no_wait, 0, text, capacity, size, failure);
    close(file);
    return result;
}

/* ---- a variable ---- */

static int read_variable(const char *name, char *text, size_t capacity, size_t *size,
                         struct failure *failure)
{
    const char *value = getenv(name);

    if (!value)
        return fail(failure, E_NOT_FOUND, "the environment has no %s", name);
    *size = strlen(value);
    if (*size > capacity)
        return fail(failure, E_LIMIT, "%s: the text is longer than %zu bytes", name, capacity);
    memcpy(text, value, *size);
    return 0;
}

/* ---- a command ---- */

static uint64_t clock_ms(void)
{
    struct timespec now;

    clock_gettime(CLOCK_MONOTONIC, &now);
    return (uint64_t)now.tv_sec * 1000 + (uint64_t)now.tv_nsec / 1000000;
}

static int wait_readable(int file, uint64_t until_ms)
{
    struct pollfd polled = {.fd = file, .events = POLLIN};
    uint64_t now_ms;

    while ((now_ms = clock_ms()) < until_ms) {
        int ready = poll(&polled, 1, (int)(until_ms - now_ms));
        if (ready > 0)
            return 0;
        if (ready < 0 && errno != EINTR)
            return E_IO;
    }
    return E_TIMEOUT;
}

/* In a group of its own, with the signals as a program expects them, its output in the pipe. */
static int start_command(const char *line, int output, pid_t *child)
{
    char shell[] = "/bin/sh", option[] = "-c";
    char *const arguments[] = {shell, option, (char *)(uintptr_t)line, NULL};
    posix_spawn_file_actions_t actions;
    posix_spawnattr_t attributes;
    sigset_t none, all;

    sigemptyset(&none);
    sigfillset(&all);
    posix_spawnattr_init(&attributes);
    posix_spawnattr_setflags(&attributes, POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF |
                                              POSIX_SPAWN_SETPGROUP);
    posix_spawnattr_setsigmask(&attributes, &none);
    posix_spawnattr_setsigdefault(&attributes, &all);
    posix_spawn_file_actions_init(&actions);
    posix_spawn_file_actions_addopen(&actions, STDIN_FILENO, "/dev/null", O_RDONLY, 0);
    posix_spawn_file_actions_adddup2(&actions, output, STDOUT_FILENO);
    int error = posix_spawn(child, shell, &actions, &attributes, arguments, environ);
    posix_spawn_file_actions_destroy(&actions);
    posix_spawnattr_destroy(&attributes);
    return error;
}

/* Which may have closed its output and gone on. */
static int end_command(pid_t child, uint64_t until_ms, int *status)
{
    static const struct timespec pause = {.tv_nsec = 5000000};

    for (;;) {
        pid_t ended = waitpid(child, status, WNOHANG);
        if (ended == child)
            return 0;
        if (ended < 0 && errno != EINTR)
            return E_IO;
        if (clock_ms() >= until_ms)
            break;
        nanosleep(&pause, NULL);
    }
    kill(-child, SIGKILL);
    while (waitpid(child, status, 0) < 0 && errno == EINTR)
        continue;
    return E_TIMEOUT;
}

static int read_command(const char *line, char *text, size_t capacity, size_t *size,
                        struct failure *failure)
{
    uint64_t until_ms = clock_ms() + KEY_COMMAND_LIMIT_MS;
    int ends[2], status = 0;
    pid_t child;

    if (pipe2(ends, O_CLOEXEC) < 0)
        return fail(failure, E_IO, "the key command: %s", strerror(errno));
    int error = start_command(line, ends[1], &child);
    close(ends[1]);
    if (error != 0) {
        close(ends[0]);
        return fail(failure, E_IO, "the key command cannot be run: %s", strerror(error));
    }
    int result = read_all(ends[0], "the key command", wait_readable, until_ms, text, capacity, size,
                          failure);
    close(ends[0]);
    int end = end_command(child, result < 0 ? 0 : until_ms, &status);
    if (result < 0)
        return result;
    if (end < 0)
        return fail(failure, end, "the key command did not end within %u s",
                    KEY_COMMAND_LIMIT_MS / 1000);
    if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
        return fail(failure, E_IO, "the key command ended with %s %d",
                    WIFEXITED(status) ? "status" : "signal",
                    WIFEXITED(status) ? WEXITSTATUS(status) : WTERMSIG(status));
    return 0;
}

int key_source_read(const struct key_source *source, char *text, size_t capacity, size_t *size,
                    struct failure *failure)
{
    switch (source->kind) {
    case KEY_SOURCE_FILE:
        return read_file(source->where, text, capacity, size, failure);
    case KEY_SOURCE_VARIABLE:
        return read_variable(source->where, text, capacity, size, failure);
    case KEY_SOURCE_COMMAND:
        return read_command(source->where, text, capacity, size, failure);
    default:
        return fail(failure, E_NOT_FOUND, "no keys are configured");
    }
}
