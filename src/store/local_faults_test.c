/*
 * The local store over system calls that fail: this program defines them itself, asks a plan, and
 * otherwise passes them on to the kernel. The plan says which call fails, how often, and with what.
 */
#include "store/store_conformance.h"

#include "base/assert.h"
#include "base/buffer.h"
#include "loop/real.h"
#include "store/local/local.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/syscall.h>
#include <unistd.h>

enum call {
    CALL_PWRITEV,
    CALL_PREAD,
    CALL_FDATASYNC,
    CALL_FSYNC,
    CALL_RENAME,
    CALL_UNLINK,
    CALL_FALLOCATE,
    CALL_FTRUNCATE,
    CALL_OPEN,
    CALLS
};

/* For this test alone: which calls fail. */
static struct {
    _Atomic int error[CALLS];
    _Atomic unsigned skip[CALLS]; /* so many pass first */
    _Atomic unsigned count[CALLS];
    _Atomic bool short_writes; /* a write does half of it */
} plan;

static bool fails(enum call call)
{
    atomic_fetch_add(&plan.count[call], 1);
    int error = atomic_load(&plan.error[call]);
    if (!error)
        return false;
    unsigned skip = atomic_load(&plan.skip[call]);
    if (skip > 0) {
        atomic_store(&plan.skip[call], skip - 1);
        return false;
    }
    errno = error;
    return true;
}

ssize_t pwritev(int descriptor, const struct iovec *slices, int count, off_t offset)
{
    if (fails(CALL_PWRITEV))
        return -1;
    if (atomic_load(&plan.short_writes) && slices[0].iov_len > 1)
        return syscall(SYS_pwrite64, descriptor, slices[0].iov_base, slices[0].iov_len / 2, offset);
    return syscall(SYS_pwritev, descriptor, slices, count, offset, 0);
}

ssize_t pread(int descriptor, void *bytes, size_t size, off_t offset)
{
    if (fails(CALL_PREAD))
        return -1;
    return syscall(SYS_pread64, descriptor, bytes, size, offset);
}

/* What a compiler that checks the sizes of buffers (_FORTIFY_SOURCE) makes of it. */
ssize_t pread_into(int descriptor, void *bytes, size_t size, off_t offset,
                   size_t room) __asm__("__pread64_chk");
ssize_t pread_into(int descriptor, void *bytes, size_t size, off_t offset, size_t room)
{
    assert_true(size <= room);
    return pread(descriptor, bytes, size, offset);
}

int fdatasync(int descriptor)
{
    return fails(CALL_FDATASYNC) ? -1 : (int)syscall(SYS_fdatasync, descriptor);
}

int fsync(int descriptor)
{
    return fails(CALL_FSYNC) ? -1 : (int)syscall(SYS_fsync, descriptor);
}

int rename(const char *from, const char *to)
{
    return fails(CALL_RENAME) ? -1 : (int)syscall(SYS_rename, from, to);
}

int unlink(const char *name)
{
    return fails(CALL_UNLINK) ? -1 : (int)syscall(SYS_unlink, name);
}

int fallocate(int descriptor, int mode, off_t offset, off_t size)
{
    return fails(CALL_FALLOCATE) ? -1 : (int)syscall(SYS_fallocate, descriptor, mode, offset, size);
}

int ftruncate(int descriptor, off_t size)
{
    return fails(CALL_FTRUNCATE) ? -1 : (int)syscall(SYS_ftruncate, descriptor, size);
}

int open(const char *name, int flags, ...)
{
    va_list arguments;

    va_start(arguments, flags);
    int mode = flags & O_CREAT ? va_arg(arguments, int) : 0;
    va_end(arguments);
    return fails(CALL_OPEN) ? -1 : (int)syscall(SYS_open, name, flags, mode);
}

int open_there(const char *name, int flags) __asm__("__open64_2"); /* see pread_into() */
int open_there(const char *name, int flags)
{
    return open(name, flags);
}

/* ---- the scene ---- */

struct scene {
    char directory[64];
    struct loop *loop;
    struct store *store;
};

static void plan_clear(void)
{
    for (int i = 0; i < CALLS; i++) {
        atomic_store(&plan.error[i], 0);
        atomic_store(&plan.skip[i], 0);
        atomic_store(&plan.count[i], 0);
    }
    atomic_store(&plan.short_writes, false);
}

static void scene_open(struct scene *s)
{
    struct failure failure;

    s->loop = loop_new_real(&failure);
    assert_int_equal(store_local_open(s->loop, s->directory, &s->store, &failure), 0);
}

static void scene_close(struct scene *s)
{
    store_free(s->store);
    loop_free(s->loop);
}

static int setup(void **state)
{
    struct scene *s = calloc(1, sizeof *s);

    plan_clear();
    snprintf(s->directory, sizeof s->directory, "local_faults_XXXXXX");
    assert_non_null(mkdtemp(s->directory));
    scene_open(s);
    *state = s;
    return 0;
}

static int teardown(void **state)
{
    struct scene *s = *state;

    plan_clear();
    scene_close(s);
    test_remove_directory(s->directory);
    free(s);
    return 0;
}

/* ---- the tests ---- */

static void a_failed_write_leaves_the_end_and_may_be_repeated(void **state)
{
    struct scene *s = *state;
    struct store_file *file = test_create(s->store, "a", 0);
    struct iovec slice = {(char *)(uintptr_t) "hello", 5};
    struct waited w = {.request = {.file = file, .slices = &slice, .slices_count = 1}};
    char text[8];

    atomic_store(&plan.error[CALL_PWRITEV], EIO);
    assert_int_equal(waited_do(&w, s->store, STORE_WRITE_SYNC), E_IO);
    assert_non_null(strstr(w.request.failure.text, "cannot write"));
    assert_non_null(strstr(w.request.failure.text, "/a: Input/output error"));
    assert_int_equal(atomic_load(&plan.count[CALL_FDATASYNC]), 0);
    atomic_store(&plan.error[CALL_PWRITEV], ENOSPC);
    assert_int_equal(waited_do(&w, s->store, STORE_WRITE), E_FULL);
    plan_clear();
    assert_int_equal(test_read(s->store, file, 0, text, 8), 0);
    assert_int_equal(waited_do(&w, s->store, STORE_WRITE), 0);
    assert_int_equal(test_read(s->store, file, 0, text, 8), 5);
    test_close(s->store, file);
}

static void short_writes_go_on(void **state)
{
    struct scene *s = *state;
    struct store_file *file = test_create(s->store, "a", 0);
    uint8_t bytes[1000], read[1000];
    struct iovec slices[5] = {
        {bytes, 0}, {bytes, 300}, {bytes + 300, 1}, {bytes, 0}, {bytes + 301, 699}};
    struct waited w = {.request = {.file = file, .slices = slices, .slices_count = 5}};

    pattern_fill(bytes, sizeof bytes, 0);
    slices[0] = slices[1]; /* the first slice has something */
    slices[0].iov_len = 100;
    slices[1] = (struct iovec){bytes + 100, 200};
    atomic_store(&plan.short_writes, true);
    assert_int_equal(waited_do(&w, s->store, STORE_WRITE), 0);
    assert_true(atomic_load(&plan.count[CALL_PWRITEV]) > 5);
    plan_clear();
    assert_int_equal(test_read(s->store, file, 0, read, 1000), 1000);
    assert_memory_equal(bytes, read, 1000);
    atomic_store(&plan.short_writes, true); /* and then the disk is full */
    atomic_store(&plan.error[CALL_PWRITEV], ENOSPC);
    atomic_store(&plan.skip[CALL_PWRITEV], 2);
    w.request.offset = 1000;
    assert_int_equal(waited_do(&w, s->store, STORE_WRITE), E_FULL);
    plan_clear();
    assert_int_equal(test_read(s->store, file, 0, read, 1000), 1000);
    uint8_t more;
    assert_int_equal(test_read(s->store, file, 1000, &more, 1), 0); /* the part is not seen */
    assert_int_equal(waited_do(&w, s->store, STORE_WRITE), 0);
    test_close(s->store, file);
}

static void a_failed_sync_is_told(void **state)
{
    struct scene *s = *state;
    struct store_file *file = test_create(s->store, "a", 0);
    struct waited w = {.request = {.file = file}};

    assert_int_equal(test_write(s->store, file, 0, "x", 1, false), 0);
    atomic_store(&plan.error[CALL_FDATASYNC], EIO);
    assert_int_equal(waited_do(&w, s->store, STORE_SYNC), E_IO);
    assert_non_null(strstr(w.request.failure.text, "cannot sync"));
    assert_int_equal(test_write(s->store, file, 1, "y", 1, true), E_IO);
    plan_clear();
    atomic_store(&plan.error[CALL_FSYNC], EIO);
    assert_int_equal(waited_do(&w, s->store, STORE_SEAL), E_IO);
    atomic_store(&plan.error[CALL_FTRUNCATE], EIO);
    assert_int_equal(waited_do(&w, s->store, STORE_SEAL), E_IO);
    assert_int_equal(waited_do(&w, s->store, STORE_TRUNCATE), E_IO);
    test_close(s->store, file);
}

static void a_file_that_cannot_be_made_is_not_left(void **state)
{
    static const struct {
        enum call call;
        int error, result;
    } cases[] = {{CALL_OPEN, EMFILE, E_LIMIT},
                 {CALL_OPEN, EACCES, E_DENIED},
                 {CALL_FALLOCATE, ENOSPC, E_FULL},
                 {CALL_FSYNC, EIO, E_IO}};
    struct scene *s = *state;

    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        struct waited w = {.request = {.name = "a", .size = 1 << 20}};
        struct waited list = {.request = {.name = NULL}};
        atomic_store(&plan.error[cases[i].call], cases[i].error);
        assert_int_equal(waited_do(&w, s->store, STORE_CREATE), cases[i].result);
        plan_clear();
        assert_int_equal(waited_do(&list, s->store, STORE_LIST), 0);
        assert_int_equal(list.request.count, 0);
        free(list.request.names);
    }
    atomic_store(&plan.error[CALL_FALLOCATE], EOPNOTSUPP); /* not all file systems can */
    struct store_file *file = test_create(s->store, "a", 1 << 20);
    assert_non_null(file);
    test_close(s->store, file);
}

static void reads_and_removals_fail(void **state)
{
    struct scene *s = *state;
    struct store_file *file = test_create(s->store, "a", 0);
    struct waited w = {.request = {.name = "a"}};
    struct buffer *value;
    uint64_t version;
    char byte;

    assert_int_equal(test_write(s->store, file, 0, "x", 1, true), 0);
    assert_int_equal(test_meta_write(s->store, 0, "x", 1), 0);
    test_close(s->store, file);
    for (int direct = 0; direct < 2; direct++) {
        file = test_open(s->store, "a", direct, NULL);
        atomic_store(&plan.error[CALL_PREAD], EIO);
        assert_int_equal(test_read(s->store, file, 0, &byte, 1), E_IO);
        plan_clear();
        assert_int_equal(test_read(s->store, file, 0, &byte, 1), 1);
        test_close(s->store, file);
    }
    atomic_store(&plan.error[CALL_PREAD], EIO);
    assert_int_equal(test_meta_read(s->store, &version, &value), E_IO);
    plan_clear();
    atomic_store(&plan.error[CALL_OPEN], EMFILE);
    assert_int_equal(test_meta_read(s->store, &version, &value), E_LIMIT);
    assert_int_equal(waited_do(&w, s->store, STORE_OPEN), E_LIMIT);
    plan_clear();
    atomic_store(&plan.error[CALL_UNLINK], EIO);
    assert_int_equal(waited_do(&w, s->store, STORE_REMOVE), E_IO);
    plan_clear();
    atomic_store(&plan.error[CALL_FSYNC], EIO); /* gone, but not for sure */
    assert_int_equal(waited_do(&w, s->store, STORE_REMOVE), E_IO);
}

static void where_direct_is_refused_the_cache_is_read(void **state)
{
    struct scene *s = *state;
    struct store_file *file = test_create(s->store, "a", 0);
    char byte;

    assert_int_equal(test_write(s->store, file, 0, "x", 1, true), 0);
    test_close(s->store, file);
    atomic_store(&plan.error[CALL_OPEN], EINVAL);
    assert_null(test_open(s->store, "a", true, NULL)); /* both ways refused */
    plan_clear();
    file = test_open(s->store, "a", true, NULL);
    assert_int_equal(test_read(s->store, file, 0, &byte, 1), 1);
    test_close(s->store, file);
}

static void metadata_that_cannot_be_replaced_stays(void **state)
{
    static const struct {
        enum call call;
        int error;
        unsigned skip;
        int result;
    } cases[] = {
        {CALL_OPEN, EMFILE, 0, E_LIMIT}, {CALL_PWRITEV, ENOSPC, 0, E_FULL},
        {CALL_PWRITEV, EIO, 1, E_IO},    {CALL_FSYNC, EIO, 0, E_IO},
        {CALL_RENAME, EIO, 0, E_IO},     {CALL_FSYNC, EIO, 1, E_IO}, /* of the directory */
    };
    struct scene *s = *state;
    struct buffer *value;
    uint64_t version;
    const size_t last = sizeof cases / sizeof cases[0] - 1;

    assert_int_equal(test_meta_write(s->store, 0, "old", 3), 0);
    for (size_t i = 0; i <= last; i++) {
        atomic_store(&plan.error[cases[i].call], cases[i].error);
        atomic_store(&plan.skip[cases[i].call], cases[i].skip);
        assert_int_equal(test_meta_write(s->store, 1, "new", 3), cases[i].result);
        plan_clear();
        assert_int_equal(test_meta_read(s->store, &version, &value), 0);
        assert_int_equal(version, i < last ? 1 : 2); /* after the rename the new one is seen */
        assert_true(slice_is(slice_of(value->data, value->size), i < last ? "old" : "new"));
        buffer_unref(value);
    }
    assert_int_equal(test_meta_write(s->store, 1, "again", 5), 0); /* the same may be repeated */
    scene_close(s);
    scene_open(s);
    assert_int_equal(test_meta_read(s->store, &version, &value), 0);
    assert_int_equal(version, 2);
    assert_true(slice_is(slice_of(value->data, value->size), "again"));
    buffer_unref(value);
}

static void starting_fails_with_a_reason(void **state)
{
    static const struct {
        enum call call;
        unsigned skip;
    } cases[] = {{CALL_OPEN, 0}, {CALL_FTRUNCATE, 0}, {CALL_OPEN, 1}, {CALL_PREAD, 0}};
    struct scene *s = *state;
    struct failure failure;
    struct store *store;

    assert_int_equal(test_meta_write(s->store, 0, "x", 1), 0);
    store_free(s->store);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        atomic_store(&plan.error[cases[i].call], EIO);
        atomic_store(&plan.skip[cases[i].call], cases[i].skip);
        assert_int_equal(store_local_open(s->loop, s->directory, &store, &failure), E_IO);
        assert_non_null(strstr(failure.text, s->directory));
        assert_non_null(strstr(failure.text, "Input/output error"));
        plan_clear();
    }
    assert_int_equal(store_local_open(s->loop, s->directory, &s->store, &failure), 0);
}

/* That a write with its sync is one trip: written, then synced, then told. */
static void a_write_with_sync_syncs_once(void **state)
{
    struct scene *s = *state;
    struct store_file *file = test_create(s->store, "a", 1 << 20);

    plan_clear();
    for (uint64_t i = 0; i < 10; i++)
        assert_int_equal(test_write(s->store, file, i, "x", 1, true), 0);
    assert_int_equal(atomic_load(&plan.count[CALL_PWRITEV]), 10);
    assert_int_equal(atomic_load(&plan.count[CALL_FDATASYNC]), 10);
    assert_int_equal(atomic_load(&plan.count[CALL_FSYNC]), 0);
    test_close(s->store, file);
}

int main(void)
{
#define LOCAL_TEST(function) cmocka_unit_test_setup_teardown(function, setup, teardown)
    const struct CMUnitTest tests[] = {
        LOCAL_TEST(a_failed_write_leaves_the_end_and_may_be_repeated),
        LOCAL_TEST(short_writes_go_on),
        LOCAL_TEST(a_failed_sync_is_told),
        LOCAL_TEST(a_file_that_cannot_be_made_is_not_left),
        LOCAL_TEST(reads_and_removals_fail),
        LOCAL_TEST(where_direct_is_refused_the_cache_is_read),
        LOCAL_TEST(metadata_that_cannot_be_replaced_stays),
        LOCAL_TEST(starting_fails_with_a_reason),
        LOCAL_TEST(a_write_with_sync_syncs_once),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
