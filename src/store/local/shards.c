#include "store/local/shards.h"

#include "base/memory.h"
#include "store/local/local_private.h"

#include <dirent.h>
#include <errno.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define PREFIX "shard-"

/* 0: it is no shard's name. */
static unsigned number_of(const char *name)
{
    char *end;

    if (strncmp(name, PREFIX, sizeof PREFIX - 1) != 0)
        return 0;
    name += sizeof PREFIX - 1;
    if (*name < '1' || *name > '9')
        return 0;
    unsigned long number = strtoul(name, &end, 10);
    if (*end)
        return 0;
    return number > LOCAL_SHARDS_MAX ? LOCAL_SHARDS_MAX + 1 : (unsigned)number;
}

/* Marks those that are there. */
static int look(DIR *directory, bool *there, unsigned *highest, bool *old_layout)
{
    const struct dirent *entry;

    errno = 0;
    while ((entry = readdir(directory))) {
        unsigned number = number_of(entry->d_name);
        if (number > *highest)
            *highest = number;
        if (number > 0 && number <= LOCAL_SHARDS_MAX)
            there[number] = true;
        if (strcmp(entry->d_name, META_NAME) == 0)
            *old_layout = true;
        errno = 0;
    }
    return errno ? E_IO : 0;
}

static int judge(const char *data_dir, const bool *there, unsigned highest, bool old_layout,
                 struct failure *failure)
{
    if (old_layout)
        return fail(failure, E_VERSION,
                    "%s has its log directly in it, as versions before there were shards made it; "
                    "this version keeps it in shard-1, shard-2, ... and cannot read that",
                    data_dir);
    if (highest > LOCAL_SHARDS_MAX)
        return fail(failure, E_LIMIT, "%s has a shard with a number over %u", data_dir,
                    LOCAL_SHARDS_MAX);
    for (unsigned i = 1; i < highest; i++) {
        if (!there[i])
            return fail(failure, E_NOT_FOUND,
                        "%s/" PREFIX "%u is missing: there are shards up to " PREFIX "%u, and "
                        "without one of them its queues would be lost",
                        data_dir, i, highest);
    }
    return 0;
}

int local_shards_count(const char *data_dir, unsigned *count, struct failure *failure)
{
    DIR *directory = opendir(data_dir);
    bool old_layout = false;

    *count = 0;
    if (!directory && errno == ENOENT)
        return 0;
    if (!directory)
        return fail(failure, errno == EACCES ? E_DENIED : E_IO, "cannot read %s: %s", data_dir,
                    strerror(errno));
    bool *there = memory_new((LOCAL_SHARDS_MAX + 1) * sizeof *there);
    int result = look(directory, there, count, &old_layout);
    if (result < 0)
        fail(failure, result, "cannot read %s: %s", data_dir, strerror(errno));
    else
        result = judge(data_dir, there, *count, old_layout, failure);
    free(there);
    closedir(directory);
    return result;
}

int local_shard_path(const char *data_dir, unsigned shard, char *path, size_t size,
                     struct failure *failure)
{
    int length = snprintf(path, size, "%s/" PREFIX "%u", data_dir, shard);

    if (length < 0 || (size_t)length >= size)
        return fail(failure, E_INVALID, "the name of the data directory is too long");
    return 0;
}

int local_shards_prepare(const char *data_dir, struct failure *failure)
{
    return local_make_directory(data_dir, failure);
}
