#include "store/local/local_private.h"

#include "base/assert.h"
#include "base/buffer.h"
#include "base/checksum.h"
#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MODE      0640
#define DIRECTORY_MODE 0750
#define DIRECT_ALIGN   4096u
#define DIRECT_PIECE   (1024u * 1024u)

static const char meta_magic[8] = {'S', 'L', 'U', 'I', 'C', 'E', 'M', '1'};

#define META_NEW_NAME "meta.new"
#define LOCK_NAME     "lock"

/* ---- small things ---- */

static int refuse(struct failure *failure, const char *what, const char *directory,
                  const char *name)
{
    int error = errno;
    char text[100];

    return fail(failure, error_from_errno(error), "cannot %s %s%s%s: %s", what, directory,
                name[0] ? "/" : "", name, strerror_r(error, text, sizeof text));
}

static bool is_reserved(const char *name)
{
    return strcmp(name, META_NAME) == 0 || strcmp(name, META_NEW_NAME) == 0 ||
           strcmp(name, LOCK_NAME) == 0;
}

struct path {
    char text[PATH_MAX];
};

/* The directory's length was checked at opening, the names' are known. */
static const char *path_of(const struct local_store *s, const char *name, struct path *path)
{
    int size = snprintf(path->text, sizeof path->text, "%s/%s", s->directory, name);
    ASSERT(size > 0 && (size_t)size < sizeof path->text);
    return path->text;
}

static int sync_directory(const char *directory)
{
    int descriptor = open(directory, O_RDONLY | O_DIRECTORY | O_CLOEXEC);

    if (descriptor < 0)
        return -1;
    int result = fsync(descriptor);
    int error = errno;
    close(descriptor);
    errno = error;
    return result;
}

/* At the offset; all of it or -1 with errno. */
static int write_all(int descriptor, const struct iovec *slices, int count, uint64_t offset)
{
    struct iovec left[STORE_SLICES_MAX];
    int first = 0;

    ASSERT(count <= STORE_SLICES_MAX);
    if (count > 0)
        memcpy(left, slices, (size_t)count * sizeof left[0]);
    while (first < count) {
        ssize_t written = pwritev(descriptor, left + first, count - first, (off_t)offset);
        if (written < 0 && errno == EINTR)
            continue;
        if (written < 0)
            return -1;
        offset += (uint64_t)written;
        size_t done = (size_t)written;
        while (first < count && done >= left[first].iov_len)
            done -= left[first++].iov_len;
        if (first < count) {
            left[first].iov_base = (char *)left[first].iov_base + done;
            left[first].iov_len -= done;
        }
    }
    return 0;
}

/* Up to `size` bytes, less only at the end of the file; -1 with errno. */
static ssize_t read_all(int descriptor, uint8_t *into, size_t size, uint64_t offset)
{
    size_t done = 0;

    while (done < size) {
        ssize_t part = pread(descriptor, into + done, size - done, (off_t)(offset + done));
        if (part < 0 && errno == EINTR)
            continue;
        if (part < 0)
            return -1;
        if (part == 0)
            break;
        done += (size_t)part;
    }
    return (ssize_t)done;
}

/* ---- files ---- */

static struct store_file *handle_new(int descriptor, bool direct)
{
    struct store_file *handle = memory_new(sizeof *handle);

    list_init(&handle->link);
    handle->descriptor = descriptor;
    handle->direct = direct;
    return handle; /* local.c joins it to its local_file */
}

int local_create(struct local_store *s, struct store_request *request)
{
    struct path path;

    if (!store_name_is_valid(request->name) || is_reserved(request->name))
        return fail(&request->failure, E_INVALID, "no name for a file");
    path_of(s, request->name, &path);
    int descriptor = open(path.text, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, FILE_MODE);
    if (descriptor < 0 && errno == EEXIST)
        return fail(&request->failure, E_MISMATCH, "%s exists", path.text);
    if (descriptor < 0)
        return refuse(&request->failure, "create", s->directory, request->name);
    if (request->size > 0 &&
        fallocate(descriptor, FALLOC_FL_KEEP_SIZE, 0, (off_t)request->size) < 0 &&
        errno != EOPNOTSUPP && errno != ENOSYS && errno != EINTR) {
        refuse(&request->failure, "reserve room for", s->directory, request->name);
        goto remove_again;
    }
    if (sync_directory(s->directory) < 0) {
        refuse(&request->failure, "sync", s->directory, "");
        goto remove_again;
    }
    request->file = handle_new(descriptor, false);
    return 0;

remove_again:
    close(descriptor);
    unlink(path.text);
    return request->failure.code;
}

int local_open(struct local_store *s, struct store_request *request)
{
    struct path path;
    struct stat status;
    bool direct = request->direct;

    if (!store_name_is_valid(request->name) || is_reserved(request->name))
        return fail(&request->failure, E_INVALID, "no name for a file");
    path_of(s, request->name, &path);
    int descriptor = open(path.text, O_RDWR | O_CLOEXEC | (direct ? O_DIRECT : 0));
    if (descriptor < 0 && direct && errno == EINVAL) { /* this file system does not do that */
        direct = false;
        descriptor = open(path.text, O_RDWR | O_CLOEXEC);
    }
    if (descriptor < 0)
        return refuse(&request->failure, "open", s->directory, request->name);
    if (fstat(descriptor, &status) < 0) {
        refuse(&request->failure, "look at", s->directory, request->name);
        close(descriptor);
        return request->failure.code;
    }
    request->size = (uint64_t)status.st_size;
    request->file = handle_new(descriptor, direct);
    return 0;
}

int local_write(struct local_store *s, struct store_request *request)
{
    struct local_file *file = request->file->file;
    uint64_t size = store_slices_size(request);
    uint64_t end = atomic_load(&file->end);

    if (atomic_load(&file->is_sealed) || request->slices_count > STORE_SLICES_MAX ||
        size > s->store.capabilities.write_max)
        return fail(&request->failure, E_INVALID, "%s: sealed, or a write too large", file->name);
    if (request->offset != end)
        return fail(&request->failure, request->offset > end ? E_IO : E_INVALID,
                    "%s: a write at %llu, but the end is at %llu", file->name,
                    (unsigned long long)request->offset, (unsigned long long)end);
    if (write_all(request->file->descriptor, request->slices, request->slices_count, end) < 0)
        return refuse(&request->failure, "write", s->directory, file->name);
    atomic_store(&file->end, end + size);
    return 0;
}

int local_sync(struct local_store *s, struct store_request *request)
{
    if (fdatasync(request->file->descriptor) < 0)
        return refuse(&request->failure, "sync", s->directory, request->file->file->name);
    return 0;
}

int local_write_sync(struct local_store *s, struct store_request *request)
{
    int result = local_write(s, request);

    return result < 0 ? result : local_sync(s, request);
}

/* Past the page cache, through aligned memory. Returns as read_all(). */
static ssize_t read_direct(int descriptor, uint8_t *into, size_t size, uint64_t offset)
{
    uint64_t start = offset & ~(uint64_t)(DIRECT_ALIGN - 1);
    size_t lead = (size_t)(offset - start);
    size_t done = 0;
    void *piece;

    if (posix_memalign(&piece, DIRECT_ALIGN, DIRECT_PIECE) != 0) {
        errno = ENOMEM;
        return -1;
    }
    while (done < size) {
        size_t wanted = lead + size - done;
        wanted = (wanted + DIRECT_ALIGN - 1) & ~(size_t)(DIRECT_ALIGN - 1);
        ssize_t got =
            pread(descriptor, piece, wanted < DIRECT_PIECE ? wanted : DIRECT_PIECE, (off_t)start);
        if (got < 0 && errno == EINTR)
            continue;
        if (got < 0) {
            int error = errno;
            free(piece);
            errno = error;
            return -1;
        }
        if ((size_t)got <= lead)
            break;
        size_t part = (size_t)got - lead < size - done ? (size_t)got - lead : size - done;
        memcpy(into + done, (uint8_t *)piece + lead, part);
        done += part;
        start += (uint64_t)got;
        lead = 0;
        if ((size_t)got % DIRECT_ALIGN != 0)
            break; /* the end of the file */
    }
    free(piece);
    return (ssize_t)done;
}

int local_read(struct local_store *s, struct store_request *request)
{
    struct store_file *handle = request->file;
    struct buffer *into = request->into;
    uint64_t end = atomic_load(&handle->file->end);
    size_t size = (size_t)request->size;

    ASSERT(into->capacity >= size);
    into->size = 0;
    if (request->offset >= end)
        return 0;
    if (size > end - request->offset)
        size = (size_t)(end - request->offset);
    ssize_t got = handle->direct
                      ? read_direct(handle->descriptor, into->data, size, request->offset)
                      : read_all(handle->descriptor, into->data, size, request->offset);
    if (got < 0)
        return refuse(&request->failure, "read", s->directory, handle->file->name);
    into->size = (uint32_t)got;
    return 0;
}

/* Truncating is what frees reserved room, too, even if the size stays. */
static int cut(struct local_store *s, struct store_request *request, uint64_t size)
{
    struct store_file *handle = request->file;

    if (ftruncate(handle->descriptor, (off_t)size) < 0)
        return refuse(&request->failure, "truncate", s->directory, handle->file->name);
    if (fsync(handle->descriptor) < 0)
        return refuse(&request->failure, "sync", s->directory, handle->file->name);
    return 0;
}

int local_truncate(struct local_store *s, struct store_request *request)
{
    struct local_file *file = request->file->file;

    if (request->offset > atomic_load(&file->end) || atomic_load(&file->is_sealed))
        return fail(&request->failure, E_INVALID, "%s is sealed or ends before %llu", file->name,
                    (unsigned long long)request->offset);
    int result = cut(s, request, request->offset);
    if (result == 0)
        atomic_store(&file->end, request->offset);
    return result;
}

int local_seal(struct local_store *s, struct store_request *request)
{
    struct local_file *file = request->file->file;
    int result = cut(s, request, atomic_load(&file->end));

    if (result == 0)
        atomic_store(&file->is_sealed, true);
    return result;
}

int local_close(struct local_store *s, struct store_request *request)
{
    (void)s;
    close(request->file->descriptor);
    return 0;
}

int local_remove(struct local_store *s, struct store_request *request)
{
    struct path path;

    if (!store_name_is_valid(request->name) || is_reserved(request->name))
        return fail(&request->failure, E_INVALID, "no name for a file");
    if (unlink(path_of(s, request->name, &path)) < 0)
        return refuse(&request->failure, "remove", s->directory, request->name);
    if (sync_directory(s->directory) < 0)
        return refuse(&request->failure, "sync", s->directory, "");
    return 0;
}

/* ---- the list of names ---- */

static int is_listed(const struct dirent *entry)
{
    return store_name_is_valid(entry->d_name) && !is_reserved(entry->d_name);
}

/* One allocation: the pointers, then the texts. */
static char **names_pack(struct dirent **entries, size_t count)
{
    size_t size = count * sizeof(char *);

    for (size_t i = 0; i < count; i++)
        size += strlen(entries[i]->d_name) + 1;
    char **names = memory_new(size);
    char *at = (char *)(names + count);
    for (size_t i = 0; i < count; i++) {
        names[i] = at;
        at = stpcpy(at, entries[i]->d_name) + 1;
    }
    return names;
}

int local_list(struct local_store *s, struct store_request *request)
{
    struct dirent **entries;
    int count = scandir(s->directory, &entries, is_listed, alphasort);

    if (count < 0)
        return refuse(&request->failure, "list", s->directory, "");
    request->count = (size_t)count;
    request->names = names_pack(entries, request->count);
    for (int i = 0; i < count; i++)
        free(entries[i]);
    free(entries);
    return 0;
}

/* ---- metadata ---- */

struct meta_head {
    uint64_t version;
    uint32_t size;
    uint32_t checksum;
};

static int meta_head_read(const uint8_t *bytes, struct meta_head *head)
{
    if (memcmp(bytes, meta_magic, sizeof meta_magic - 1) != 0)
        return E_CORRUPT;
    if (bytes[7] != (uint8_t)meta_magic[7])
        return E_VERSION;
    head->version = load_le64(bytes + 8);
    head->size = load_le32(bytes + 16);
    head->checksum = load_le32(bytes + 20);
    return head->version > 0 && head->size <= STORE_META_MAX ? 0 : E_CORRUPT;
}

/* Reads the whole of `meta` into a new buffer, without its head. */
static int meta_load(struct local_store *s, struct buffer **value, uint64_t *version,
                     struct failure *failure)
{
    struct path path;
    uint8_t bytes[META_HEAD_SIZE];
    struct meta_head head = {.version = 0};
    struct buffer *buffer = NULL;
    int result = 0;
    int descriptor = open(path_of(s, META_NAME, &path), O_RDONLY | O_CLOEXEC);

    if (descriptor < 0 && errno == ENOENT)
        return fail(failure, E_NOT_FOUND, "there is no %s", path.text);
    if (descriptor < 0)
        return refuse(failure, "open", s->directory, META_NAME);
    ssize_t got = read_all(descriptor, bytes, sizeof bytes, 0);
    if (got >= 0)
        result = got < META_HEAD_SIZE ? E_CORRUPT : meta_head_read(bytes, &head);
    if (got >= 0 && result == 0) {
        buffer = buffer_new(head.size);
        if (!buffer)
            result = E_MEMORY;
    }
    if (buffer) {
        got = read_all(descriptor, buffer->data, head.size, META_HEAD_SIZE);
        uint32_t checksum = checksum_of(slice_of(bytes + 8, 12));
        if (got >= 0 &&
            ((size_t)got < head.size ||
             checksum_add(checksum, slice_of(buffer->data, head.size)) != head.checksum))
            result = E_CORRUPT;
        buffer->size = head.size;
    }
    if (got < 0)
        result = refuse(failure, "read", s->directory, META_NAME);
    else if (result < 0)
        fail(failure, result, "%s %s", path.text,
             result == E_VERSION  ? "is of a version that this program does not know"
             : result == E_MEMORY ? "does not fit into memory"
                                  : "is damaged");
    close(descriptor);
    if (result < 0) {
        buffer_unref(buffer);
        return result;
    }
    *version = head.version;
    *value = buffer;
    return 0;
}

int local_meta_read(struct local_store *s, struct store_request *request)
{
    return meta_load(s, &request->into, &request->version, &request->failure);
}

static int meta_write_new(struct local_store *s, struct store_request *request, const char *path,
                          uint64_t version)
{
    uint8_t head[META_HEAD_SIZE];
    struct iovec head_slice = {head, sizeof head};
    int descriptor = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, FILE_MODE);

    if (descriptor < 0)
        return refuse(&request->failure, "create", s->directory, META_NEW_NAME);
    memcpy(head, meta_magic, sizeof meta_magic);
    store_le64(head + 8, version);
    store_le32(head + 16, (uint32_t)store_slices_size(request));
    uint32_t checksum = checksum_of(slice_of(head + 8, 12));
    for (int i = 0; i < request->slices_count; i++)
        checksum = checksum_add(checksum,
                                slice_of(request->slices[i].iov_base, request->slices[i].iov_len));
    store_le32(head + 20, checksum);
    int result = 0;
    if (write_all(descriptor, &head_slice, 1, 0) < 0 ||
        write_all(descriptor, request->slices, request->slices_count, META_HEAD_SIZE) < 0)
        result = refuse(&request->failure, "write", s->directory, META_NEW_NAME);
    else if (fsync(descriptor) < 0)
        result = refuse(&request->failure, "sync", s->directory, META_NEW_NAME);
    close(descriptor);
    return result;
}

int local_meta_write(struct local_store *s, struct store_request *request)
{
    struct path from, to;

    if (store_slices_size(request) > STORE_META_MAX || request->slices_count > STORE_SLICES_MAX)
        return fail(&request->failure, E_INVALID, "metadata of more than %u bytes", STORE_META_MAX);
    if (request->version != s->meta_version)
        return fail(&request->failure, E_FENCED, "the metadata has version %llu, not %llu",
                    (unsigned long long)s->meta_version, (unsigned long long)request->version);
    path_of(s, META_NEW_NAME, &from);
    path_of(s, META_NAME, &to);
    int result = meta_write_new(s, request, from.text, request->version + 1);
    if (result < 0)
        return result;
    if (rename(from.text, to.text) < 0)
        return refuse(&request->failure, "rename to", s->directory, META_NAME);
    if (sync_directory(s->directory) < 0)
        return refuse(&request->failure, "sync", s->directory, "");
    s->meta_version = ++request->version;
    return 0;
}

/* ---- start ---- */

int local_make_directory(const char *directory, struct failure *failure)
{
    char *parent = memory_text(slice_text(directory));
    char *slash = strrchr(parent, '/');
    int result = 0;

    if (mkdir(directory, DIRECTORY_MODE) < 0) {
        if (errno != EEXIST)
            result = refuse(failure, "make the directory", directory, "");
    } else {
        if (slash == parent)
            slash[1] = 0;
        else if (slash)
            *slash = 0;
        if (sync_directory(slash ? parent : ".") < 0)
            result = refuse(failure, "sync", slash ? parent : ".", "");
    }
    free(parent);
    return result;
}

static int refuse_held(struct local_store *s, struct failure *failure)
{
    char holder[32] = "";
    ssize_t size = pread(s->lock, holder, sizeof holder - 1, 0);
    long pid = size > 0 ? strtol(holder, NULL, 10) : 0;

    if (pid > 0)
        return fail(failure, E_HELD, "%s is in use by process %ld", s->directory, pid);
    return fail(failure, E_HELD, "%s is in use by another process", s->directory);
}

static int take_lock(struct local_store *s, struct failure *failure)
{
    struct path path;
    char text[32];

    s->lock = open(path_of(s, LOCK_NAME, &path), O_RDWR | O_CREAT | O_CLOEXEC, FILE_MODE);
    if (s->lock < 0)
        return refuse(failure, "open", s->directory, LOCK_NAME);
    if (flock(s->lock, LOCK_EX | LOCK_NB) < 0)
        return errno == EWOULDBLOCK ? refuse_held(s, failure)
                                    : refuse(failure, "lock", s->directory, LOCK_NAME);
    int size = snprintf(text, sizeof text, "%ld\n", (long)getpid());
    if (ftruncate(s->lock, 0) < 0 || pwrite(s->lock, text, (size_t)size, 0) < 0)
        return refuse(failure, "write", s->directory, LOCK_NAME);
    return 0;
}

int local_prepare(struct local_store *s, struct failure *failure)
{
    struct buffer *value = NULL;

    if (strlen(s->directory) + 1 + STORE_NAME_MAX >= PATH_MAX)
        return fail(failure, E_INVALID, "the name of the data directory is too long");
    int result = local_make_directory(s->directory, failure);
    if (result == 0)
        result = take_lock(s, failure);
    if (result < 0)
        return result;
    result = meta_load(s, &value, &s->meta_version, failure);
    buffer_unref(value);
    return result == E_NOT_FOUND ? 0 : result;
}
