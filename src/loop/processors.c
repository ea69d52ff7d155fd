#include "loop/processors.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define FILE_MAX 4096

unsigned processors_of_quota(const char *text)
{
    char *end;
    errno = 0;
    unsigned long long quota = strtoull(text, &end, 10); /* "max": no number */

    if (end == text || errno || *end != ' ' || quota == 0)
        return 0;
    char *period_end;
    unsigned long long period = strtoull(end, &period_end, 10);
    if (period_end == end || errno || period == 0)
        return 0;
    unsigned long long processors = quota / period + (quota % period > 0);
    return processors > 1000000 ? 0 : (unsigned)processors;
}

bool processors_group(const char *text, char *path, size_t size)
{
    const char *line = strncmp(text, "0::", 3) == 0 ? text : strstr(text, "\n0::");

    if (!line)
        return false;
    line = strchr(line, '/');
    if (!line)
        return false;
    snprintf(path, size, "%.*s", (int)strcspn(line, "\n"), line);
    return true;
}

/* False when it cannot be read. */
static bool read_text(const char *path, char *text)
{
    int file = open(path, O_RDONLY | O_CLOEXEC);

    if (file < 0)
        return false;
    ssize_t size = read(file, text, FILE_MAX - 1);
    close(file);
    if (size < 0)
        return false;
    text[size] = 0;
    return true;
}

static unsigned quota(void)
{
    char text[FILE_MAX];
    char group[FILE_MAX];
    char path[FILE_MAX + 64];

    if (!read_text("/proc/self/cgroup", text) || !processors_group(text, group, sizeof group))
        return 0;
    snprintf(path, sizeof path, "/sys/fs/cgroup%s/cpu.max", group);
    return read_text(path, text) ? processors_of_quota(text) : 0;
}

unsigned processors_count(void)
{
    cpu_set_t set;
    unsigned limit = quota();
    long online = sysconf(_SC_NPROCESSORS_ONLN);
    unsigned count = online > 0 ? (unsigned)online : 1;

    if (sched_getaffinity(0, sizeof set, &set) == 0)
        count = (unsigned)CPU_COUNT(&set);
    return limit > 0 && limit < count ? limit : count;
}

int processors_bind(unsigned index, unsigned processors_min)
{
    cpu_set_t set;
    unsigned processors = processors_count();

    if (sched_getaffinity(0, sizeof set, &set) != 0) /* more than the set has room for */
        return E_UNSUPPORTED;
    if (processors < processors_min || index >= processors ||
        processors < (unsigned)CPU_COUNT(&set))
        return E_UNSUPPORTED;
    for (unsigned processor = 0; processor < CPU_SETSIZE; processor++) {
        if (!CPU_ISSET(processor, &set) || index-- > 0)
            continue;
        CPU_ZERO(&set);
        CPU_SET(processor, &set);
        return sched_setaffinity(0, sizeof set, &set) == 0 ? (int)processor
                                                           : error_from_errno(errno);
    }
    return E_UNSUPPORTED;
}

/* As the system calls know it, which the C library has no functions for. */
struct attributes {
    uint32_t size;
    uint32_t policy;
    uint64_t flags;
    int32_t nice;
    uint32_t priority;
    uint64_t runtime_ns; /* the slice, of a thread that is scheduled as usual */
    uint64_t deadline_ns;
    uint64_t period_ns;
};

int processors_set_slice(uint64_t slice_ns)
{
    struct attributes attributes;

    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0)
        return E_UNSUPPORTED;
    if (attributes.policy != SCHED_OTHER && attributes.policy != SCHED_BATCH)
        return E_UNSUPPORTED;
    attributes.runtime_ns = slice_ns;
    if (syscall(SYS_sched_setattr, 0, &attributes, 0) != 0)
        return error_from_errno(errno);
    if (syscall(SYS_sched_getattr, 0, &attributes, sizeof attributes, 0) != 0 ||
        (slice_ns && attributes.runtime_ns != slice_ns))
        return E_UNSUPPORTED;
    return 0;
}
