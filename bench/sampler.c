#include "sampler.h"

#include "base/memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define DESCENDANTS_MAX 4096

/* Reads a small file whole, with a 0 behind; returns false when it is not there (any more). */
static bool read_file(const char *path, char *text, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return false;
    ssize_t got = read(fd, text, size - 1);
    close(fd);
    text[got > 0 ? got : 0] = 0;
    return got > 0;
}

struct process {
    int pid;
    int parent;
    uint64_t ticks[4]; /* user, system, children's user, children's system */
};

/* Skips fields that end in a space; NULL when there are not so many. */
static const char *skip_fields(const char *at, int count)
{
    while (at && count-- > 0) {
        at = strchr(at, ' ');
        if (at)
            at++;
    }
    return at;
}

/* The number at the place, 0 where there is none; *at is moved behind it and a space. */
static uint64_t take_number(const char **at)
{
    if (!*at)
        return 0;
    char *end;
    uint64_t value = strtoull(*at, &end, 10);
    *at = *end == ' ' ? end + 1 : end;
    return value;
}

/* proc(5), /proc/pid/stat: the name in parentheses may hold anything, so count from the last one.
 * Behind it: state, parent, 9 more, then the four times. */
static bool read_process(int pid, struct process *p)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!read_file(path, text, sizeof text))
        return false;
    *p = (struct process){.pid = pid};
    const char *at = skip_fields(strrchr(text, ')'), 2);
    p->parent = (int)take_number(&at);
    at = skip_fields(at, 9);
    for (size_t i = 0; i < sizeof p->ticks / sizeof *p->ticks; i++)
        p->ticks[i] = take_number(&at);
    return at != NULL;
}

static uint64_t resident_bytes(int pid)
{
    char path[64], text[256];
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    if (!read_file(path, text, sizeof text))
        return 0;
    const char *at = skip_fields(text, 1);
    return take_number(&at) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t proportional_bytes(int pid)
{
    static const char label[] = "\nPss:";
    char path[64], text[2048];
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    const char *line = read_file(path, text, sizeof text) ? strstr(text, label) : NULL;
    if (!line)
        return 0;
    line += strlen(label);
    return take_number(&line) * 1024;
}

static void usage_add(struct usage *usage, const struct process *p, bool proportional)
{
    uint64_t tick_ns = 1000000000u / (uint64_t)sysconf(_SC_CLK_TCK);
    usage->user_ns += (p->ticks[0] + p->ticks[2]) * tick_ns;
    usage->system_ns += (p->ticks[1] + p->ticks[3]) * tick_ns;
    usage->resident_bytes += resident_bytes(p->pid);
    if (proportional)
        usage->proportional_bytes += proportional_bytes(p->pid);
    usage->processes++;
}

/* All processes there are; freed by the caller. */
static struct process *read_all(size_t *count)
{
    struct process *all = NULL;
    *count = 0;
    DIR *directory = opendir("/proc");
    if (!directory)
        return NULL;
    size_t room = 0;
    /* this stream is ours alone */
    /* cppcheck-suppress readdirCalled */
    for (struct dirent *entry; (entry = readdir(directory));) {
        int pid = (int)strtol(entry->d_name, NULL, 10);
        if (pid <= 0)
            continue;
        if (*count == room) {
            room = room ? room * 2 : 256;
            all = memory_resize(all, room, sizeof *all);
        }
        if (read_process(pid, &all[*count]))
            ++*count;
    }
    closedir(directory);
    return all;
}

int sampler_read(struct usage *usage, int pid, bool proportional, struct failure *failure)
{
    *usage = (struct usage){0};
    struct process root;
    if (!read_process(pid, &root))
        return fail(failure, E_NOT_FOUND, "there is no process %d to watch", pid);
    size_t count;
    struct process *all = read_all(&count);
    int family[DESCENDANTS_MAX] = {pid};
    size_t members = 1;
    usage_add(usage, &root, proportional);
    for (size_t m = 0; m < members; m++) {
        for (size_t i = 0; i < count; i++) {
            if (all[i].parent != family[m] || members == DESCENDANTS_MAX)
                continue;
            family[members++] = all[i].pid;
            usage_add(usage, &all[i], proportional);
        }
    }
    free(all);
    return 0;
}
