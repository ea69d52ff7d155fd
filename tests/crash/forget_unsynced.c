/*
 * A library for LD_PRELOAD that makes a process forget, when it is killed, everything it did not
 * follow by a sync: a power cut, as far as the data directory goes.
 *
 * Writes to files below SLUICE_FORGET_DIRECTORY stay in the memory of the process and reach the
 * file when it is synced; reads see them at once. Killed with SIGKILL, the memory is gone.
 * What happens to names (files made, renamed, removed) is done at once and written down in
 * SLUICE_FORGET_JOURNAL/journal with what is needed to undo it; a sync of the directory empties the
 * journal. Whoever starts the process again undoes the journal first, from its end (crash.py).
 *
 *     SLUICE_FORGET_SKIP=data       syncs of files do nothing: a broker that forgot to sync
 *     SLUICE_FORGET_SKIP=directory  syncs of directories do nothing
 *     SLUICE_FORGET_SEED=N          a quarter of the unsynced writes survive whole and a quarter
 *                                   torn, as a disk may have it: later ones without earlier ones
 *
 * A library that stands under somebody else's program has no place for its state but statics; one
 * lock guards them all.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

#define DESCRIPTORS_MAX 65536
#define SECTOR          512u

/* A write, or a change of the size (data NULL), that no sync has followed. */
struct change {
    struct change *next;
    uint8_t *data;
    size_t size;
    off_t offset;
};

/* By inode; kept for ever, since descriptors come and go. */
struct file {
    struct file *next;
    dev_t device;
    ino_t inode;
    struct change *first, *last;
};

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static struct file *files;
static struct file *open_files[DESCRIPTORS_MAX];
static bool is_directory[DESCRIPTORS_MAX];
static char root[PATH_MAX];
static char journal[PATH_MAX];
static bool skip_data, skip_directory;
static uint64_t random_state;
static unsigned undo_count;

#define REAL(result, name, ...)                                                                    \
    static result (*real_##name)(__VA_ARGS__);                                                     \
    static void resolve_##name(void)                                                               \
    {                                                                                              \
        *(void **)&real_##name = dlsym(RTLD_NEXT, #name);                                          \
    }

REAL(int, open, const char *path, int flags, ...)
REAL(int, close, int descriptor)
REAL(ssize_t, pread, int descriptor, void *data, size_t size, off_t offset)
REAL(ssize_t, pwrite, int descriptor, const void *data, size_t size, off_t offset)
REAL(int, ftruncate, int descriptor, off_t size)
REAL(int, fstat, int descriptor, struct stat *status)
REAL(int, fsync, int descriptor)
REAL(int, rename, const char *from, const char *to)
REAL(int, unlink, const char *path)

static __attribute__((noreturn)) void die(const char *what)
{
    fprintf(stderr, "forget_unsynced: %s: %s\n", what, strerror(errno));
    _exit(99);
}

__attribute__((constructor)) static void start(void)
{
    resolve_open();
    resolve_close();
    resolve_pread();
    resolve_pwrite();
    resolve_ftruncate();
    resolve_fstat();
    resolve_fsync();
    resolve_rename();
    resolve_unlink();
    const char *directory = getenv("SLUICE_FORGET_DIRECTORY");
    const char *where = getenv("SLUICE_FORGET_JOURNAL");
    const char *skip = getenv("SLUICE_FORGET_SKIP");
    const char *seed = getenv("SLUICE_FORGET_SEED");
    if (!directory || !where)
        die("SLUICE_FORGET_DIRECTORY and SLUICE_FORGET_JOURNAL are needed");
    snprintf(root, sizeof root, "%s/", directory);
    snprintf(journal, sizeof journal, "%s", where);
    skip_data = skip && strcmp(skip, "data") == 0;
    skip_directory = skip && strcmp(skip, "directory") == 0;
    random_state = seed ? strtoull(seed, NULL, 10) * 2 + 1 : 0;
}

static unsigned random_below(unsigned limit)
{
    random_state = random_state * 6364136223846793005ull + 1442695040888963407ull;
    return (unsigned)(random_state >> 33) % limit;
}

static bool is_ours(const char *path)
{
    return strncmp(path, root, strlen(root)) == 0;
}

/* ---- names */

static void journal_add(const char *what, const char *a, const char *b, const char *undo)
{
    char line[3 * PATH_MAX];
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/journal", journal);
    int size = snprintf(line, sizeof line, "%s\t%s\t%s\t%s\n", what, a, b, undo);
    int descriptor = real_open(path, O_WRONLY | O_CREAT | O_APPEND, 0600);
    if (descriptor < 0 || write(descriptor, line, (size_t)size) != size)
        die("journal");
    real_close(descriptor);
}

static void journal_empty(void)
{
    char path[PATH_MAX + 16];
    snprintf(path, sizeof path, "%s/journal", journal);
    if (truncate(path, 0) < 0 && errno != ENOENT)
        die("journal");
}

/* Keeps what is at `path` under a second name; "-" when there is nothing. */
static void keep(const char *path, char *undo, size_t size)
{
    snprintf(undo, size, "%s/undo-%u-%u", journal, (unsigned)getpid(), undo_count++);
    if (link(path, undo) < 0) {
        if (errno != ENOENT)
            die("link");
        snprintf(undo, size, "-");
    }
}

int rename(const char *from, const char *to)
{
    if (!is_ours(from))
        return real_rename(from, to);
    char undo[PATH_MAX + 64];
    pthread_mutex_lock(&lock);
    keep(to, undo, sizeof undo);
    journal_add("rename", from, to, undo);
    int result = real_rename(from, to);
    pthread_mutex_unlock(&lock);
    return result;
}

int unlink(const char *path)
{
    if (!is_ours(path))
        return real_unlink(path);
    char undo[PATH_MAX + 64];
    pthread_mutex_lock(&lock);
    keep(path, undo, sizeof undo);
    journal_add("unlink", path, "-", undo);
    int result = real_unlink(path);
    pthread_mutex_unlock(&lock);
    return result;
}

/* ---- descriptors */

static void forget_changes(struct file *file)
{
    while (file->first) {
        struct change *change = file->first;
        file->first = change->next;
        free(change->data);
        free(change);
    }
    file->last = NULL;
}

static void remember_descriptor(int descriptor, bool is_new)
{
    struct stat status;
    if (descriptor >= DESCRIPTORS_MAX || real_fstat(descriptor, &status) < 0)
        die("descriptor");
    is_directory[descriptor] = S_ISDIR(status.st_mode);
    open_files[descriptor] = NULL;
    if (!S_ISREG(status.st_mode))
        return;
    struct file *file = files;
    while (file && !(file->device == status.st_dev && file->inode == status.st_ino))
        file = file->next;
    if (!file) {
        file = calloc(1, sizeof *file);
        if (!file)
            die("memory");
        file->device = status.st_dev;
        file->inode = status.st_ino;
        file->next = files;
        files = file;
    } else if (is_new) {
        forget_changes(file); /* the inode's number has been used before */
    }
    open_files[descriptor] = file;
}

int open(const char *path, int flags, ...)
{
    mode_t mode = 0;
    if (flags & (O_CREAT | O_TMPFILE)) {
        va_list arguments;
        va_start(arguments, flags);
        mode = va_arg(arguments, mode_t);
        va_end(arguments);
    }
    bool is_root = strlen(path) + 1 == strlen(root) && strncmp(path, root, strlen(path)) == 0;
    if (!is_ours(path) && !is_root)
        return real_open(path, flags, mode);
    pthread_mutex_lock(&lock);
    struct stat status;
    bool is_new = (flags & O_CREAT) && stat(path, &status) < 0;
    if (is_new)
        journal_add("create", path, "-", "-");
    int descriptor = real_open(path, flags, mode);
    if (descriptor >= 0)
        remember_descriptor(descriptor, is_new || (flags & O_TRUNC));
    pthread_mutex_unlock(&lock);
    return descriptor;
}

int open64(const char *path, int flags, ...)
{
    va_list arguments;
    va_start(arguments, flags);
    mode_t mode = flags & (O_CREAT | O_TMPFILE) ? va_arg(arguments, mode_t) : 0;
    va_end(arguments);
    return open(path, flags, mode);
}

int close(int descriptor)
{
    pthread_mutex_lock(&lock);
    if (descriptor >= 0 && descriptor < DESCRIPTORS_MAX) {
        open_files[descriptor] = NULL;
        is_directory[descriptor] = false;
    }
    pthread_mutex_unlock(&lock);
    return real_close(descriptor);
}

static struct file *file_of(int descriptor)
{
    return descriptor >= 0 && descriptor < DESCRIPTORS_MAX ? open_files[descriptor] : NULL;
}

/* ---- contents */

static void add_change(struct file *file, uint8_t *data, size_t size, off_t offset)
{
    struct change *change = calloc(1, sizeof *change);
    if (!change)
        die("memory");
    change->data = data;
    change->size = size;
    change->offset = offset;
    if (file->last)
        file->last->next = change;
    else
        file->first = change;
    file->last = change;
}

static void write_through(int descriptor, const uint8_t *data, size_t size, off_t offset)
{
    while (size > 0) {
        ssize_t written = real_pwrite(descriptor, data, size, offset);
        if (written <= 0)
            die("write");
        data += written;
        size -= (size_t)written;
        offset += written;
    }
}

/* Some of it may reach the disk without being asked to. */
static void survive(int descriptor, const uint8_t *data, size_t size, off_t offset)
{
    unsigned fate = random_state ? random_below(4) : 3;
    if (fate == 1)
        size = size / SECTOR ? random_below((unsigned)(size / SECTOR)) * SECTOR : 0;
    if (fate <= 1 && size > 0)
        write_through(descriptor, data, size, offset);
}

ssize_t pwritev(int descriptor, const struct iovec *slices, int count, off_t offset)
{
    size_t size = 0;
    for (int i = 0; i < count; i++)
        size += slices[i].iov_len;
    uint8_t *data = malloc(size ? size : 1);
    if (!data)
        die("memory");
    size_t at = 0;
    for (int i = 0; i < count; i++) {
        if (slices[i].iov_len > 0)
            memcpy(data + at, slices[i].iov_base, slices[i].iov_len);
        at += slices[i].iov_len;
    }
    pthread_mutex_lock(&lock);
    struct file *file = file_of(descriptor);
    if (file) {
        survive(descriptor, data, size, offset);
        add_change(file, data, size, offset);
    }
    pthread_mutex_unlock(&lock);
    if (file)
        return (ssize_t)size;
    ssize_t written = real_pwrite(descriptor, data, size, offset);
    free(data);
    return written;
}

ssize_t pwritev64(int descriptor, const struct iovec *slices, int count, off_t offset)
{
    return pwritev(descriptor, slices, count, offset);
}

ssize_t pwrite(int descriptor, const void *data, size_t size, off_t offset)
{
    struct iovec slice = {(void *)(uintptr_t)data, size};
    return pwritev(descriptor, &slice, 1, offset);
}

ssize_t pwrite64(int descriptor, const void *data, size_t size, off_t offset)
{
    return pwrite(descriptor, data, size, offset);
}

int ftruncate(int descriptor, off_t size)
{
    pthread_mutex_lock(&lock);
    struct file *file = file_of(descriptor);
    if (file)
        add_change(file, NULL, 0, size);
    pthread_mutex_unlock(&lock);
    return file ? 0 : real_ftruncate(descriptor, size);
}

int ftruncate64(int descriptor, off_t size)
{
    return ftruncate(descriptor, size);
}

/* The size that the process is to see. */
static off_t size_of(const struct file *file, off_t size)
{
    for (const struct change *change = file->first; change; change = change->next) {
        off_t end = change->offset + (off_t)change->size;
        size = change->data && end < size ? size : end;
    }
    return size;
}

int fstat(int descriptor, struct stat *status)
{
    int result = real_fstat(descriptor, status);
    pthread_mutex_lock(&lock);
    struct file *file = file_of(descriptor);
    if (result == 0 && file)
        status->st_size = size_of(file, status->st_size);
    pthread_mutex_unlock(&lock);
    return result;
}

int fstat64(int descriptor, struct stat64 *status)
{
    return fstat(descriptor, (struct stat *)(void *)status);
}

static void overlay(const struct file *file, uint8_t *data, size_t size, off_t offset)
{
    for (const struct change *change = file->first; change; change = change->next) {
        off_t from = change->offset > offset ? change->offset : offset;
        off_t to = offset + (off_t)size;
        if (change->data && change->offset + (off_t)change->size < to)
            to = change->offset + (off_t)change->size;
        if (from >= to)
            continue;
        if (change->data)
            memcpy(data + (from - offset), change->data + (from - change->offset),
                   (size_t)(to - from));
        else
            memset(data + (from - offset), 0, (size_t)(to - from));
    }
}

ssize_t pread(int descriptor, void *data, size_t size, off_t offset)
{
    pthread_mutex_lock(&lock);
    struct file *file = file_of(descriptor);
    struct stat status;
    if (!file || !file->first || real_fstat(descriptor, &status) < 0) {
        pthread_mutex_unlock(&lock);
        return real_pread(descriptor, data, size, offset);
    }
    off_t end = size_of(file, status.st_size);
    size_t visible = offset >= end ? 0 : end - offset < (off_t)size ? (size_t)(end - offset) : size;
    memset(data, 0, visible);
    ssize_t got = visible > 0 ? real_pread(descriptor, data, size, offset) : 0;
    if (got >= 0)
        overlay(file, data, visible, offset);
    pthread_mutex_unlock(&lock);
    return got < 0 ? got : (ssize_t)visible;
}

ssize_t pread64(int descriptor, void *data, size_t size, off_t offset)
{
    return pread(descriptor, data, size, offset);
}

ssize_t __pread_chk(int descriptor, void *data, size_t size, off_t offset, size_t room);
ssize_t __pread_chk(int descriptor, void *data, size_t size, off_t offset, size_t room)
{
    return room < size ? -1 : pread(descriptor, data, size, offset);
}

/* ---- syncs */

static void apply(int descriptor, struct file *file)
{
    /* Through a descriptor of our own, since this one may be for reading past the page cache. */
    char path[64];
    snprintf(path, sizeof path, "/proc/self/fd/%d", descriptor);
    int writer = real_open(path, O_RDWR);
    if (writer < 0)
        die(path);
    for (struct change *change = file->first; change; change = change->next) {
        if (change->data)
            write_through(writer, change->data, change->size, change->offset);
        else if (real_ftruncate(writer, change->offset) < 0)
            die("truncate");
    }
    real_close(writer);
    forget_changes(file);
}

int fsync(int descriptor)
{
    pthread_mutex_lock(&lock);
    struct file *file = file_of(descriptor);
    bool directory = descriptor >= 0 && descriptor < DESCRIPTORS_MAX && is_directory[descriptor];
    if (file && !skip_data)
        apply(descriptor, file);
    if (directory && !skip_directory)
        journal_empty();
    pthread_mutex_unlock(&lock);
    return file || directory ? 0 : real_fsync(descriptor);
}

int fdatasync(int descriptor)
{
    return fsync(descriptor);
}
