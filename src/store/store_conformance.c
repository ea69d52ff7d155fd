#include "store/store_conformance.h"

#include "base/assert.h"
#include "base/buffer.h"
#include "base/memory.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>

/* ---- the helpers ---- */

static void waited_done(struct store_request *request)
{
    struct waited *waited = CONTAINER_OF(request, struct waited, request);

    waited->completed++;
    if (waited->order)
        waited->place = ++*waited->order;
    loop_stop(waited->loop);
}

void waited_submit(struct waited *waited, struct store *store, enum store_operation operation)
{
    waited->request.operation = operation;
    waited->request.done = waited_done;
    waited->loop = store->loop;
    waited->completed = 0;
    store_submit(store, &waited->request);
    assert_int_equal(waited->completed, 0); /* never from inside the call */
}

int waited_wait(struct waited *waited)
{
    while (waited->completed == 0)
        loop_run(waited->loop);
    assert_int_equal(waited->completed, 1);
    return waited->request.result;
}

struct store_file *test_create(struct store *store, const char *name, uint64_t reserve)
{
    struct waited w = {.request = {.name = name, .size = reserve}};

    return waited_do(&w, store, STORE_CREATE) == 0 ? w.request.file : NULL;
}

struct store_file *test_open(struct store *store, const char *name, bool direct, uint64_t *size)
{
    struct waited w = {.request = {.name = name, .direct = direct}};

    if (waited_do(&w, store, STORE_OPEN) < 0)
        return NULL;
    if (size)
        *size = w.request.size;
    return w.request.file;
}

int test_write(struct store *store, struct store_file *file, uint64_t offset, const void *bytes,
               size_t size, bool sync)
{
    struct iovec slice = {(void *)(uintptr_t)bytes, size};
    struct waited w = {
        .request = {.file = file, .offset = offset, .slices = &slice, .slices_count = 1}};

    return waited_do(&w, store, sync ? STORE_WRITE_SYNC : STORE_WRITE);
}

int test_sync(struct store *store, struct store_file *file)
{
    struct waited w = {.request = {.file = file}};

    return waited_do(&w, store, STORE_SYNC);
}

ssize_t test_read(struct store *store, struct store_file *file, uint64_t offset, void *bytes,
                  size_t size)
{
    struct waited w = {.request = {.file = file, .offset = offset, .size = size}};
    ssize_t result;

    w.request.into = buffer_new(size);
    assert_non_null(w.request.into);
    result = waited_do(&w, store, STORE_READ);
    if (result == 0) {
        result = w.request.into->size;
        memcpy(bytes, w.request.into->data, w.request.into->size);
    }
    buffer_unref(w.request.into);
    return result;
}

void test_close(struct store *store, struct store_file *file)
{
    struct waited w = {.request = {.file = file}};

    assert_int_equal(waited_do(&w, store, STORE_CLOSE), 0);
}

int test_meta_write(struct store *store, uint64_t version, const void *bytes, size_t size)
{
    struct iovec slices[2] = {{(void *)(uintptr_t)bytes, size / 2},
                              {(char *)(uintptr_t)bytes + size / 2, size - size / 2}};
    struct waited w = {.request = {.slices = slices, .slices_count = 2, .version = version}};
    int result = waited_do(&w, store, STORE_META_WRITE);

    if (result == 0)
        assert_int_equal(w.request.version, version + 1);
    return result;
}

int test_meta_read(struct store *store, uint64_t *version, struct buffer **value)
{
    struct waited w = {.request = {.into = NULL}};
    int result = waited_do(&w, store, STORE_META_READ);

    *version = w.request.version;
    *value = w.request.into;
    return result;
}

void pattern_fill(uint8_t *bytes, size_t size, uint64_t from)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = pattern(from + i);
}

/* The same numbers on each run. */
static uint64_t chance(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

static int remove_entry(const char *path, const struct stat *status, int type, struct FTW *where)
{
    (void)status;
    (void)type;
    (void)where;
    return remove(path);
}

void test_remove_directory(const char *path)
{
    assert_int_equal(nftw(path, remove_entry, 8, FTW_DEPTH | FTW_PHYS), 0);
}

/* ---- each test has a store that is empty ---- */

struct world {
    const struct store_back_end *back_end;
    struct loop *loop;
    struct store *store;
};

static void world_open(struct world *world)
{
    struct failure failure = {.code = 0};
    const struct store_back_end *b = world->back_end;

    world->loop = b->loop_new(b->context);
    assert_non_null(world->loop);
    int result = b->open(b->context, world->loop, &world->store, &failure);
    if (result < 0)
        print_error("%s\n", failure.text);
    assert_int_equal(result, 0);
}

static void world_close(struct world *world)
{
    store_free(world->store);
    loop_free(world->loop);
}

static int setup(void **state)
{
    struct world *world = *state;

    world->back_end->begin(world->back_end->context);
    world_open(world);
    return 0;
}

static int teardown(void **state)
{
    struct world *world = *state;

    world_close(world);
    world->back_end->end(world->back_end->context);
    return 0;
}

static void assert_content(struct store *store, struct store_file *file, uint64_t size)
{
    uint8_t *bytes = malloc(size + 1);

    assert_int_equal(test_read(store, file, 0, bytes, size + 1), size);
    for (uint64_t i = 0; i < size; i++) {
        if (bytes[i] != pattern(i))
            fail_msg("byte %llu is %02x", (unsigned long long)i, bytes[i]);
    }
    free(bytes);
}

static void write_pattern(struct store *store, struct store_file *file, uint64_t from, size_t size,
                          bool sync)
{
    uint8_t *bytes = malloc(size);

    pattern_fill(bytes, size, from);
    assert_int_equal(test_write(store, file, from, bytes, size, sync), 0);
    free(bytes);
}

static unsigned count_named(struct store *store, const char *name, size_t *total)
{
    struct waited w = {.request = {.names = NULL}};
    unsigned found = 0;

    assert_int_equal(waited_do(&w, store, STORE_LIST), 0);
    for (size_t i = 0; i < w.request.count; i++)
        found += strcmp(w.request.names[i], name) == 0;
    if (total)
        *total = w.request.count;
    free(w.request.names);
    return found;
}

/* ---- the tests ---- */

static void a_new_store_is_empty(void **state)
{
    struct world *world = *state;
    struct buffer *value;
    uint64_t version;
    size_t total;

    assert_int_equal(count_named(world->store, "x", &total), 0);
    assert_int_equal(total, 0);
    assert_int_equal(test_meta_read(world->store, &version, &value), E_NOT_FOUND);
    assert_true(store_bytes_free(world->store) > 0);
    assert_true(store_capabilities(world->store)->write_max >= 1u << 20);
    assert_true(store_capabilities(world->store)->alignment >= 1);
}

static void what_is_written_is_read(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "segment-1.log", 1 << 20);
    uint8_t bytes[100];

    assert_non_null(file);
    write_pattern(world->store, file, 0, 1000, false);
    write_pattern(world->store, file, 1000, 70000, false);
    assert_int_equal(test_sync(world->store, file), 0);
    write_pattern(world->store, file, 71000, 1, true);
    assert_content(world->store, file, 71001);
    assert_int_equal(test_read(world->store, file, 70951, bytes, 100), 50); /* ends there */
    assert_int_equal(bytes[49], pattern(71000));
    assert_int_equal(test_read(world->store, file, 71001, bytes, 100), 0);
    assert_int_equal(test_read(world->store, file, 9999999, bytes, 100), 0);
    assert_int_equal(test_read(world->store, file, 517, bytes, 100), 100);
    assert_int_equal(bytes[0], pattern(517));
    assert_int_equal(count_named(world->store, "segment-1.log", NULL), 1);
    test_close(world->store, file);
}

static void what_was_synced_is_there_when_opened_again(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);
    uint64_t size;

    write_pattern(world->store, file, 0, 12345, true);
    test_close(world->store, file);
    world_close(world);
    world_open(world);
    for (int direct = 0; direct < 2; direct++) {
        file = test_open(world->store, "a", direct, &size);
        assert_non_null(file);
        assert_int_equal(size, 12345);
        assert_content(world->store, file, 12345);
        test_close(world->store, file);
    }
}

static void direct_reads_of_any_piece(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);
    const size_t size = 3u << 20 | 123;
    uint8_t *bytes = malloc(size);

    write_pattern(world->store, file, 0, size, true);
    test_close(world->store, file);
    file = test_open(world->store, "a", true, NULL);
    assert_content(world->store, file, size);
    uint64_t seed = 1;
    for (int i = 0; i < 30; i++) {
        uint64_t from = chance(&seed) % size;
        size_t wanted = (size_t)chance(&seed) % size + 1;
        size_t expected = wanted < size - from ? wanted : size - from;
        assert_int_equal(test_read(world->store, file, from, bytes, wanted), expected);
        for (size_t at = 0; at < expected; at++)
            assert_true(bytes[at] == pattern(from + at));
    }
    test_close(world->store, file);
    free(bytes);
}

static void names_are_checked(void **state)
{
    static const char *const bad[] = {
        "",    "a/b", "../a", ".hidden",
        "a b", "a\n", NULL,   "1234567890123456789012345678901234567890123456789012345678901234"};
    static const char longest[] = "123456789012345678901234567890123456789012345678901234567890.ab";
    struct world *world = *state;

    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct waited w = {.request = {.name = bad[i]}};
        assert_int_equal(waited_do(&w, world->store, STORE_CREATE), E_INVALID);
    }
    assert_int_equal(strlen(longest), STORE_NAME_MAX);
    struct store_file *file = test_create(world->store, longest, 0);
    assert_non_null(file);
    assert_int_equal(count_named(world->store, longest, NULL), 1);
    test_close(world->store, file);
}

static void what_is_or_is_not_there(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);
    struct waited again = {.request = {.name = "a"}};
    struct waited other = {.request = {.name = "b"}};

    assert_int_equal(waited_do(&again, world->store, STORE_CREATE), E_MISMATCH);
    assert_non_null(strstr(again.request.failure.text, "exists"));
    assert_int_equal(waited_do(&other, world->store, STORE_OPEN), E_NOT_FOUND);
    assert_non_null(strstr(other.request.failure.text, "b"));
    assert_int_equal(waited_do(&other, world->store, STORE_REMOVE), E_NOT_FOUND);
    test_close(world->store, file);
    assert_int_equal(waited_do(&again, world->store, STORE_REMOVE), 0);
    assert_int_equal(waited_do(&again, world->store, STORE_OPEN), E_NOT_FOUND);
    world_close(world);
    world_open(world);
    assert_int_equal(count_named(world->store, "a", NULL), 0);
}

static void writes_continue_at_the_end_only(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);

    write_pattern(world->store, file, 0, 100, false);
    assert_int_equal(test_write(world->store, file, 0, "x", 1, false), E_INVALID);
    assert_int_equal(test_write(world->store, file, 99, "x", 1, true), E_INVALID);
    assert_true(test_write(world->store, file, 101, "x", 1, false) < 0);
    assert_content(world->store, file, 100);
    write_pattern(world->store, file, 100, 100, false);
    assert_content(world->store, file, 200);
    test_close(world->store, file);
}

#define PIPELINED 300

static void pipelined_writes_complete_in_order(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);
    struct waited *w = calloc(PIPELINED, sizeof *w);
    struct iovec *slices = calloc(PIPELINED, STORE_SLICES_MAX * sizeof *slices);
    uint8_t *bytes = malloc(PIPELINED * STORE_SLICES_MAX * 8);
    unsigned order = 0;
    uint64_t end = 0;

    uint64_t seed = 1;
    for (int i = 0; i < PIPELINED; i++) {
        w[i].request.file = file;
        w[i].request.offset = end;
        w[i].request.slices = slices + i * STORE_SLICES_MAX;
        w[i].request.slices_count = i % 50 == 0 ? STORE_SLICES_MAX : (int)(chance(&seed) % 8);
        w[i].order = &order;
        for (int j = 0; j < w[i].request.slices_count; j++) {
            size_t size = (size_t)chance(&seed) % 9; /* none, too */
            pattern_fill(bytes + end, size, end);
            w[i].request.slices[j] = (struct iovec){bytes + end, size};
            end += size;
        }
        waited_submit(&w[i], world->store, i % 7 ? STORE_WRITE : STORE_WRITE_SYNC);
    }
    for (unsigned i = 0; i < PIPELINED; i++) {
        assert_int_equal(waited_wait(&w[i]), 0);
        assert_int_equal(w[i].place, i + 1);
    }
    assert_content(world->store, file, end);
    test_close(world->store, file);
    free(bytes);
    free(slices);
    free(w);
}

static void truncating_cuts_and_lasts(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 100000);
    struct waited w = {.request = {.offset = 777}};
    uint64_t size;

    write_pattern(world->store, file, 0, 5000, true);
    test_close(world->store, file);
    file = test_open(world->store, "a", false, &size);
    assert_int_equal(size, 5000);
    w.request.file = file;
    assert_int_equal(waited_do(&w, world->store, STORE_TRUNCATE), 0);
    assert_content(world->store, file, 777);
    w.request.offset = 778;
    assert_int_equal(waited_do(&w, world->store, STORE_TRUNCATE), E_INVALID);
    write_pattern(world->store, file, 777, 23, true);
    test_close(world->store, file);
    world_close(world);
    world_open(world);
    file = test_open(world->store, "a", true, &size);
    assert_int_equal(size, 800);
    assert_content(world->store, file, 800);
    test_close(world->store, file);
}

static void a_sealed_file_takes_no_more(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 1 << 20);
    struct waited w = {.request = {.file = file}};
    struct waited writes[2] = {{.request = {.file = file}}, {.request = {.file = file}}};
    uint8_t bytes[3000];
    struct iovec slices[2] = {{bytes, 1000}, {bytes + 1000, 2000}};
    uint64_t size;

    pattern_fill(bytes, sizeof bytes, 0);
    for (int i = 0; i < 2; i++) { /* the seal comes behind what was asked before */
        writes[i].request.offset = i ? 1000 : 0;
        writes[i].request.slices = &slices[i];
        writes[i].request.slices_count = 1;
        waited_submit(&writes[i], world->store, STORE_WRITE);
    }
    assert_int_equal(waited_do(&w, world->store, STORE_SEAL), 0);
    assert_int_equal(waited_wait(&writes[0]), 0);
    assert_int_equal(waited_wait(&writes[1]), 0);
    assert_int_equal(test_write(world->store, file, 3000, "x", 1, false), E_INVALID);
    assert_content(world->store, file, 3000);
    test_close(world->store, file);
    world_close(world);
    world_open(world);
    file = test_open(world->store, "a", false, &size);
    assert_int_equal(size, 3000);
    assert_content(world->store, file, 3000);
    test_close(world->store, file);
}

static void a_close_comes_last(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);
    uint8_t bytes[500];
    struct iovec slice = {bytes, sizeof bytes};
    struct waited w[4] = {{.request = {.file = file, .slices = &slice, .slices_count = 1}}};
    unsigned order = 0;

    pattern_fill(bytes, sizeof bytes, 0);
    for (int i = 0; i < 4; i++) {
        w[i].request.file = file;
        w[i].order = &order;
    }
    w[2].request.into = buffer_new(500);
    w[2].request.size = 500;
    waited_submit(&w[0], world->store, STORE_WRITE);
    waited_submit(&w[1], world->store, STORE_SYNC);
    waited_submit(&w[2], world->store, STORE_READ);
    waited_submit(&w[3], world->store, STORE_CLOSE);
    for (int i = 3; i >= 0; i--)
        assert_int_equal(waited_wait(&w[i]), 0);
    assert_int_equal(w[3].place, 4);
    buffer_unref(w[2].request.into);
}

static void a_removed_file_stays_for_its_readers(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);
    struct waited w = {.request = {.name = "a"}};

    write_pattern(world->store, file, 0, 2000, true);
    assert_int_equal(waited_do(&w, world->store, STORE_REMOVE), 0);
    assert_int_equal(count_named(world->store, "a", NULL), 0);
    struct store_file *second = test_create(world->store, "a", 0);
    assert_non_null(second);
    write_pattern(world->store, second, 0, 10, true);
    assert_content(world->store, file, 2000);
    assert_content(world->store, second, 10);
    test_close(world->store, file);
    assert_content(world->store, second, 10);
    test_close(world->store, second);
}

static void handles_of_one_file_agree(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 1 << 16);
    uint64_t size;

    write_pattern(world->store, file, 0, 100, false);
    struct store_file *reader = test_open(world->store, "a", false, &size);
    assert_int_equal(size, 100);
    write_pattern(world->store, file, 100, 100, false);
    assert_content(world->store, reader, 200);
    test_close(world->store, file);
    assert_content(world->store, reader, 200);
    test_close(world->store, reader);
}

static void metadata_is_replaced_whole_and_guarded(void **state)
{
    struct world *world = *state;
    uint8_t *large = malloc(STORE_META_MAX + 1);
    struct buffer *value;
    uint64_t version;

    pattern_fill(large, STORE_META_MAX + 1, 0);
    assert_int_equal(test_meta_write(world->store, 1, "x", 1), E_FENCED);
    assert_int_equal(test_meta_write(world->store, 0, "first", 5), 0);
    assert_int_equal(test_meta_write(world->store, 0, "x", 1), E_FENCED);
    assert_int_equal(test_meta_write(world->store, 1, large, STORE_META_MAX + 1), E_INVALID);
    assert_int_equal(test_meta_write(world->store, 1, large, STORE_META_MAX), 0);
    assert_int_equal(test_meta_read(world->store, &version, &value), 0);
    assert_int_equal(version, 2);
    assert_int_equal(value->size, STORE_META_MAX);
    assert_memory_equal(value->data, large, STORE_META_MAX);
    buffer_unref(value);
    assert_int_equal(test_meta_write(world->store, 2, "third", 5), 0);
    world_close(world);
    world_open(world);
    assert_int_equal(test_meta_read(world->store, &version, &value), 0);
    assert_int_equal(version, 3);
    assert_true(slice_is(slice_of(value->data, value->size), "third"));
    buffer_unref(value);
    assert_int_equal(test_meta_write(world->store, 2, "x", 1), E_FENCED);
    assert_int_equal(test_meta_write(world->store, 3, "", 0), 0);
    assert_int_equal(test_meta_read(world->store, &version, &value), 0);
    assert_int_equal(value->size, 0);
    buffer_unref(value);
    size_t total;
    count_named(world->store, "", &total);
    assert_int_equal(total, 0); /* metadata is no file */
    free(large);
}

static void only_one_store_at_a_time(void **state)
{
    struct world *world = *state;
    struct store *second;
    struct failure failure;
    const struct store_back_end *b = world->back_end;

    assert_int_equal(b->open(b->context, world->loop, &second, &failure), E_HELD);
    assert_non_null(strstr(failure.text, "in use"));
    store_free(world->store);
    assert_int_equal(b->open(b->context, world->loop, &world->store, &failure), 0);
}

#define READS 3000

static void more_reads_than_helpers(void **state)
{
    struct world *world = *state;
    struct store_file *file = test_create(world->store, "a", 0);
    struct waited *w = calloc(READS, sizeof *w);

    write_pattern(world->store, file, 0, READS, false);
    for (size_t i = 0; i < READS; i++) {
        w[i].request.file = file;
        w[i].request.offset = i;
        w[i].request.size = 1;
        w[i].request.into = buffer_new(1);
        waited_submit(&w[i], world->store, STORE_READ);
    }
    for (size_t i = 0; i < READS; i++) {
        assert_int_equal(waited_wait(&w[i]), 0);
        assert_int_equal(w[i].request.into->size, 1);
        assert_int_equal(w[i].request.into->data[0], pattern(i));
        buffer_unref(w[i].request.into);
    }
    test_close(world->store, file);
    free(w);
}

int store_conformance(const struct store_back_end *back_end)
{
    struct world world = {.back_end = back_end};
#define CONFORMANCE_TEST(function)                                                                 \
    cmocka_unit_test_prestate_setup_teardown(function, setup, teardown, &world)
    const struct CMUnitTest tests[] = {
        CONFORMANCE_TEST(a_new_store_is_empty),
        CONFORMANCE_TEST(what_is_written_is_read),
        CONFORMANCE_TEST(what_was_synced_is_there_when_opened_again),
        CONFORMANCE_TEST(direct_reads_of_any_piece),
        CONFORMANCE_TEST(names_are_checked),
        CONFORMANCE_TEST(what_is_or_is_not_there),
        CONFORMANCE_TEST(writes_continue_at_the_end_only),
        CONFORMANCE_TEST(pipelined_writes_complete_in_order),
        CONFORMANCE_TEST(truncating_cuts_and_lasts),
        CONFORMANCE_TEST(a_sealed_file_takes_no_more),
        CONFORMANCE_TEST(a_close_comes_last),
        CONFORMANCE_TEST(a_removed_file_stays_for_its_readers),
        CONFORMANCE_TEST(handles_of_one_file_agree),
        CONFORMANCE_TEST(metadata_is_replaced_whole_and_guarded),
        CONFORMANCE_TEST(only_one_store_at_a_time),
        CONFORMANCE_TEST(more_reads_than_helpers),
    };
    return cmocka_run_group_tests_name(back_end->name, tests, NULL, NULL);
}
