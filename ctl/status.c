#include "ctl/status.h"

#include "ctl/greeting.h"
#include "ctl/listeners.h"
#include "message/fields.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

/* Who holds the data directory: the process's id, 0 for nobody. The first shard's lock is that of
 * the whole. The lock file has the number of
 * whoever took it last; that it is held still only the lock itself tells. */
static int find_holder(const char *data_dir, pid_t *holder, struct failure *failure)
{
    char path[PATH_MAX], text[32] = "";
    *holder = 0;
    int length = snprintf(path, sizeof path, "%s/shard-1/lock", data_dir);
    if (length < 0 || (size_t)length >= sizeof path)
        return fail(failure, E_INVALID, "the name of the data directory is too long");
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return errno == ENOENT ? fail(failure, E_NOT_FOUND,
                                      "%s is no data directory: it has no shard-1", data_dir)
                               : fail(failure, errno == EACCES ? E_DENIED : E_IO, "%s: %s", path,
                                      strerror(errno));
    int result = 0;
    if (flock(descriptor, LOCK_SH | LOCK_NB) < 0) {
        if (errno != EWOULDBLOCK)
            result = fail(failure, E_IO, "%s: %s", path, strerror(errno));
        else if (pread(descriptor, text, sizeof text - 1, 0) > 0)
            *holder = (pid_t)strtol(text, NULL, 10);
    }
    close(descriptor);
    return result;
}

static void print_memory(pid_t process, FILE *out)
{
    char path[64], line[256];
    snprintf(path, sizeof path, "/proc/%ld/status", (long)process);
    FILE *file = fopen(path, "re");
    if (!file)
        return;
    while (fgets(line, sizeof line, file)) {
        if (strncmp(line, "VmRSS:", 6) == 0) {
            fprintf(out, "  memory     %.1f MiB resident\n", strtod(line + 6, NULL) / 1024);
            break;
        }
    }
    fclose(file);
}

static void print_property(const struct greeting *greeting, const char *name, const char *title,
                           FILE *out)
{
    struct slice text;
    if (fields_text(greeting->properties, name, &text))
        fprintf(out, "  %-10s %.*s\n", title, SLICE_ARGS(text));
}

/* The first listener that speaks AMQP is asked; none that does is said, too. */
static void print_listeners(pid_t process, FILE *out)
{
    struct listeners listeners;
    struct greeting greeting;
    struct failure failure = {0};
    char text[80];
    bool answered = false;
    if (listeners_of(process, &listeners, &failure) < 0) {
        fprintf(out, "  listeners  unknown: %s\n", failure.text);
        return;
    }
    if (listeners.count == 0)
        fprintf(out, "  listeners  none\n");
    for (size_t i = 0; i < listeners.count; i++)
        fprintf(out, "  listens on %s\n", listener_text(&listeners.at[i], text, sizeof text));
    for (size_t i = 0; i < listeners.count && !answered; i++)
        answered = greeting_read(&listeners.at[i], &greeting, &failure) == 0;
    if (!answered) {
        if (listeners.count > 0)
            fprintf(out, "  answers    no: %s\n", failure.text);
        return;
    }
    print_property(&greeting, "product", "answers as", out);
    print_property(&greeting, "version", "level", out);
    print_property(&greeting, "sluice_version", "version", out);
    print_property(&greeting, "cluster_name", "cluster", out);
}

int status_print(const char *data_dir, FILE *out, struct failure *failure)
{
    pid_t holder;
    char absolute[PATH_MAX];
    int result = find_holder(data_dir, &holder, failure);
    if (result < 0)
        return result;
    const char *shown = realpath(data_dir, absolute) ? absolute : data_dir;
    if (holder == 0)
        return fail(failure, E_NOT_FOUND, "sluice is not running on %s", shown);
    fprintf(out, "sluice is running: process %ld, data in %s\n", (long)holder, shown);
    print_memory(holder, out);
    print_listeners(holder, out);
    return 0;
}
