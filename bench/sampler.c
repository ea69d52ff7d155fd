#include "sampler.h"

#include "base/memory.h"

#include <dirent.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
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
    unsigned long long ticks[4]; /* user, system, children's user, children's system */
};

/* proc(5), /proc/pid/stat: the name in parentheses may hold anything, so count from the last one.
 */
static bool read_process(int pid, struct process *p)
{
    char path[64], text[1024];
    snprintf(path, sizeof path, "/proc/%d/stat", pid);
    if (!read_file(path, text, sizeof text))
        return false;
    const char *at = strrchr(text, ')');
    *p = (struct process){.pid = pid};
    return at && sscanf(at + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %llu %llu %llu %llu",
                        &p->parent, &p->ticks[0], &p->ticks[1], &p->ticks[2], &p->ticks[3]) == 5;
}

static uint64_t resident_bytes(int pid)
{
    char path[64], text[256];
    unsigned long long pages = 0;
    snprintf(path, sizeof path, "/proc/%d/statm", pid);
    if (!read_file(path, text, sizeof text) || sscanf(text, "%*u %llu", &pages) != 1)
        return 0;
    return pages * (uint64_t)sysconf(_SC_PAGESIZE);
}

static uint64_t proportional_bytes(int pid)
{
    char path[64], text[2048];
    unsigned long long kib = 0;
    snprintf(path, sizeof path, "/proc/%d/smaps_rollup", pid);
    const char *line = read_file(path, text, sizeof text) ? strstr(text, "\nPss:") : NULL;
    return line && sscanf(line, "\nPss: %llu", &kib) == 1 ? kib * 1024 : 0;
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
