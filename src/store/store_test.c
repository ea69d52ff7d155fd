/* The conformance suite over both back ends, and what only one of them can show: the simulated
 * disk's crashes and faults, the local store's directory. */
#include "store/store_conformance.h"

#include "base/assert.h"
#include "base/buffer.h"
#include "loop/real.h"
#include "loop/simulated.h"
#include "store/local/local.h"
#include "store/simulated/simulated.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

/* ---- the back ends for the suite ---- */

struct simulated_context {
    struct simulated_disk *disk;
    uint64_t seed;
};

static void simulated_begin(void *context)
{
    struct simulated_context *c = context;
    c->disk = simulated_disk_new(++c->seed);
}

static void simulated_end(void *context)
{
    struct simulated_context *c = context;
    simulated_disk_free(c->disk);
}

static struct loop *simulated_loop(void *context)
{
    struct simulated_context *c = context;
    return loop_new_simulated(++c->seed);
}

static int simulated_open(void *context, struct loop *loop, struct store **store,
                          struct failure *failure)
{
    struct simulated_context *c = context;
    return store_simulated_open(loop, c->disk, store, failure);
}

struct local_context {
    char directory[64];
};

static void local_begin(void *context)
{
    struct local_context *c = context;

    snprintf(c->directory, sizeof c->directory, "store_test_XXXXXX");
    assert_non_null(mkdtemp(c->directory));
}

static void local_end(void *context)
{
    struct local_context *c = context;

    test_remove_directory(c->directory);
}

static struct loop *real_loop(void *context)
{
    struct failure failure;

    (void)context;
    return loop_new_real(&failure);
}

static int local_open(void *context, struct loop *loop, struct store **store,
                      struct failure *failure)
{
    struct local_context *c = context;
    return store_local_open(loop, c->directory, store, failure);
}

/* ---- the simulated disk ---- */

struct simulation {
    struct simulated_disk *disk;
    struct loop *loop;
    struct store *store;
};

static void simulation_open(struct simulation *s, uint64_t seed)
{
    struct failure failure;

    s->loop = loop_new_simulated(seed);
    assert_int_equal(store_simulated_open(s->loop, s->disk, &s->store, &failure), 0);
}

static void simulation_begin(struct simulation *s, uint64_t seed)
{
    s->disk = simulated_disk_new(seed);
    simulation_open(s, seed);
}

static void simulation_crash(struct simulation *s, uint64_t seed)
{
    if (seed % 2) /* either may go first */
        simulated_disk_crash(s->disk);
    loop_free(s->loop);
    if (seed % 2 == 0)
        simulated_disk_crash(s->disk);
    simulation_open(s, seed + 1);
}

static void simulation_end(struct simulation *s)
{
    simulated_disk_crash(s->disk);
    loop_free(s->loop);
    simulated_disk_free(s->disk);
}

#define SYNCED   5000
#define UNSYNCED 20000

/* Writes, syncs a part, crashes; returns how many of the bytes not synced are still there. */
static size_t crash_once(uint64_t seed, bool forget_syncs, uint64_t *synced_lost)
{
    struct simulation s;
    uint8_t bytes[SYNCED + UNSYNCED];
    uint64_t size;
    size_t kept = 0;

    simulation_begin(&s, seed);
    simulated_disk_faults(s.disk)->forget_syncs = forget_syncs;
    struct store_file *file = test_create(s.store, "a", 0);
    pattern_fill(bytes, sizeof bytes, 0);
    assert_int_equal(test_write(s.store, file, 0, bytes, 3000, true), 0);
    assert_int_equal(test_write(s.store, file, 3000, bytes + 3000, SYNCED - 3000, false), 0);
    assert_int_equal(test_sync(s.store, file), 0);
    for (size_t at = SYNCED; at < sizeof bytes; at += 1000)
        assert_int_equal(test_write(s.store, file, at, bytes + at, 1000, false), 0);
    simulation_crash(&s, seed);

    file = test_open(s.store, "a", seed % 3 == 0, &size);
    assert_non_null(file);
    memset(bytes, 0, sizeof bytes);
    assert_true(test_read(s.store, file, 0, bytes, sizeof bytes) >= (forget_syncs ? 0 : SYNCED));
    *synced_lost = 0;
    for (size_t i = 0; i < sizeof bytes; i++) {
        bool right = i < size && bytes[i] == pattern(i);
        assert_true(right || bytes[i] == 0); /* never anything else */
        if (i < SYNCED)
            *synced_lost += !right;
        else
            kept += right;
    }
    simulation_end(&s);
    return kept;
}

static void a_crash_keeps_what_was_synced_and_loses_the_rest_at_random(void **state)
{
    unsigned all = 0;
    unsigned none = 0;
    unsigned some = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 300; seed++) {
        uint64_t lost;
        size_t kept = crash_once(seed, false, &lost);
        assert_int_equal(lost, 0);
        all += kept == UNSYNCED;
        none += kept < UNSYNCED / 100; /* pattern bytes that are 0 look kept */
        some += kept >= UNSYNCED / 100 && kept < UNSYNCED;
    }
    assert_true(all > 10 && none > 10 && some > 50);
}

static void a_disk_that_lies_about_syncs_is_found_out(void **state)
{
    unsigned found = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        uint64_t lost;
        crash_once(seed, true, &lost);
        found += lost > 0;
    }
    assert_true(found > 10);
}

static void a_crash_in_the_middle_does_a_part(void **state)
{
    unsigned created = 0;
    unsigned meta_new = 0;
    unsigned written = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 200; seed++) {
        struct simulation s;
        uint8_t bytes[4096];
        struct iovec slice = {bytes, sizeof bytes};
        struct iovec meta = {(char *)(uintptr_t) "new", 3};
        struct buffer *value;
        uint64_t version, size;
        simulation_begin(&s, seed);
        struct store_file *file = test_create(s.store, "a", 0);
        assert_int_equal(test_meta_write(s.store, 0, "old", 3), 0);
        struct waited w[3] = {
            {.request = {.file = file, .slices = &slice, .slices_count = 1}},
            {.request = {.name = "b"}},
            {.request = {.slices = &meta, .slices_count = 1, .version = 1}},
        };
        pattern_fill(bytes, sizeof bytes, 0);
        waited_submit(&w[0], s.store, STORE_WRITE);
        waited_submit(&w[1], s.store, STORE_CREATE);
        waited_submit(&w[2], s.store, STORE_META_WRITE);
        simulated_disk_crash(s.disk);
        simulated_run_idle(s.loop, 1000);
        for (int i = 0; i < 3; i++)
            assert_int_equal(w[i].completed, 0); /* never */
        loop_free(s.loop);
        simulation_open(&s, seed);

        assert_int_equal(test_meta_read(s.store, &version, &value), 0);
        bool is_new = slice_is(slice_of(value->data, value->size), "new");
        assert_true(is_new ? version == 2 : version == 1);
        assert_true(is_new || slice_is(slice_of(value->data, value->size), "old"));
        meta_new += is_new;
        buffer_unref(value);
        struct store_file *second = test_open(s.store, "b", false, NULL);
        created += second != NULL;
        file = test_open(s.store, "a", false, &size);
        written += size > 0;
        simulation_end(&s);
    }
    assert_true(created > 20 && created < 180);
    assert_true(meta_new > 20 && meta_new < 180);
    assert_true(written > 20 && written < 180);
}

static void a_failed_write_may_be_repeated(void **state)
{
    unsigned failures = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 20; seed++) {
        struct simulation s;
        uint8_t bytes[30000];
        uint64_t size;
        simulation_begin(&s, seed);
        struct store_file *file = test_create(s.store, "a", 0);
        pattern_fill(bytes, sizeof bytes, 0);
        simulated_disk_faults(s.disk)->write_fails_ppm = 500000;
        for (size_t at = 0; at < sizeof bytes;) {
            int result = test_write(s.store, file, at, bytes + at, 1500, false);
            assert_true(result == 0 || result == E_IO);
            failures += result != 0;
            at += result == 0 ? 1500 : 0;
        }
        assert_int_equal(test_sync(s.store, file), 0);
        simulation_crash(&s, seed);
        file = test_open(s.store, "a", false, &size);
        memset(bytes, 0, sizeof bytes);
        assert_int_equal(test_read(s.store, file, 0, bytes, sizeof bytes), sizeof bytes);
        for (size_t i = 0; i < sizeof bytes; i++)
            assert_int_equal(bytes[i], pattern(i));
        simulation_end(&s);
    }
    assert_true(failures > 100);
}

static void pipelined_writes_fail_behind_a_failed_one(void **state)
{
    struct simulation s;
    uint8_t bytes[300];
    struct iovec slices[3] = {{bytes, 100}, {bytes + 100, 100}, {bytes + 200, 100}};
    struct waited w[3] = {{.completed = 0}};

    (void)state;
    simulation_begin(&s, 4);
    struct store_file *file = test_create(s.store, "a", 0);
    simulated_disk_faults(s.disk)->write_fails_ppm = 1000000;
    for (int i = 0; i < 3; i++) {
        w[i].request = (struct store_request){
            .file = file, .offset = (uint64_t)i * 100, .slices = &slices[i], .slices_count = 1};
        waited_submit(&w[i], s.store, STORE_WRITE);
    }
    assert_int_equal(waited_wait(&w[0]), E_IO);
    simulated_disk_faults(s.disk)->write_fails_ppm = 0;
    assert_int_equal(waited_wait(&w[1]), E_IO); /* there is a gap before it */
    assert_int_equal(waited_wait(&w[2]), E_IO);
    simulation_end(&s);
}

static void a_failed_sync_may_lose_what_reads_still_show(void **state)
{
    unsigned lost = 0;
    unsigned seen_direct = 0;

    (void)state;
    for (uint64_t seed = 0; seed < 50; seed++) {
        struct simulation s;
        uint8_t bytes[8192];
        uint64_t size;
        simulation_begin(&s, seed);
        struct store_file *file = test_create(s.store, "a", 0);
        pattern_fill(bytes, sizeof bytes, 1);
        assert_int_equal(test_write(s.store, file, 0, bytes, sizeof bytes, false), 0);
        simulated_disk_faults(s.disk)->sync_fails_ppm = 1000000;
        assert_int_equal(test_sync(s.store, file), E_IO);
        simulated_disk_faults(s.disk)->sync_fails_ppm = 0;
        assert_int_equal(test_sync(s.store, file), 0); /* says so, and is wrong */
        uint8_t read[8192];
        assert_int_equal(test_read(s.store, file, 0, read, sizeof read), sizeof read);
        assert_memory_equal(read, bytes, sizeof read); /* from the page cache */
        struct store_file *direct = test_open(s.store, "a", true, NULL);
        assert_int_equal(test_read(s.store, direct, 0, read, sizeof read), sizeof read);
        bool tells = memcmp(read, bytes, sizeof read) != 0;
        seen_direct += tells;
        simulation_crash(&s, seed);
        file = test_open(s.store, "a", false, &size);
        memset(read, 0, sizeof read);
        assert_true(test_read(s.store, file, 0, read, sizeof read) >= 0);
        bool is_lost = memcmp(read, bytes, sizeof read) != 0;
        assert_true(is_lost == tells);
        lost += is_lost;
        simulation_end(&s);
    }
    assert_true(lost > 20 && seen_direct > 20);
}

static void a_full_disk_says_so_and_removing_helps(void **state)
{
    struct simulation s;
    uint8_t bytes[4096] = {1};
    uint64_t at = 0;
    int result;

    (void)state;
    simulation_begin(&s, 1);
    simulated_disk_faults(s.disk)->capacity = 100000;
    struct store_file *reserved = test_create(s.store, "reserved", 50000);
    assert_non_null(reserved);
    struct store_file *file = test_create(s.store, "a", 0);
    struct waited w = {.request = {.name = "too-much", .size = 60000}};
    assert_int_equal(waited_do(&w, s.store, STORE_CREATE), E_FULL);
    while ((result = test_write(s.store, file, at, bytes, sizeof bytes, true)) == 0)
        at += sizeof bytes;
    assert_int_equal(result, E_FULL);
    assert_int_equal(at, 50000 / 4096 * 4096);
    assert_int_equal(store_bytes_free(s.store), 50000 % 4096);
    assert_int_equal(test_meta_write(s.store, 0, bytes, sizeof bytes), E_FULL);
    for (uint64_t i = 0; i < 12; i++) /* what was reserved is there */
        assert_int_equal(test_write(s.store, reserved, i * 4096, bytes, 4096, false), 0);
    w.request.name = "reserved";
    assert_int_equal(waited_do(&w, s.store, STORE_REMOVE), 0);
    test_close(s.store, reserved);
    assert_int_equal(test_write(s.store, file, at, bytes, sizeof bytes, true), 0);
    simulation_end(&s);
}

static void bits_flip_once_each_and_are_counted(void **state)
{
    struct simulation s;
    uint8_t bytes[65536];
    uint8_t read[65536];
    uint64_t different = 0;

    (void)state;
    simulation_begin(&s, 1);
    struct store_file *file = test_create(s.store, "a", 0);
    pattern_fill(bytes, sizeof bytes, 0);
    assert_int_equal(test_write(s.store, file, 0, bytes, 50000, true), 0);
    assert_int_equal(test_write(s.store, file, 50000, bytes + 50000, 15536, false), 0);
    simulated_disk_faults(s.disk)->flip_ppm = 1000000;
    for (int i = 0; i < 500; i++)
        assert_int_equal(test_read(s.store, file, 0, read, sizeof read), sizeof read);
    simulated_disk_faults(s.disk)->flip_ppm = 0;
    assert_int_equal(test_read(s.store, file, 0, read, sizeof read), sizeof read);
    for (size_t i = 0; i < sizeof bytes; i++) {
        different += (uint64_t)__builtin_popcount(bytes[i] ^ read[i]);
        assert_true(i < 50000 || bytes[i] == read[i]); /* of synced bytes only */
    }
    assert_true(different > 20);
    assert_int_equal(different, simulated_disk_flips(s.disk));
    simulation_end(&s);
}

static void reads_opens_and_the_rest_can_fail(void **state)
{
    struct simulation s;
    struct waited w = {.request = {.name = "a"}};
    struct buffer *value;
    uint64_t version;
    uint8_t byte;

    (void)state;
    simulation_begin(&s, 1);
    struct store_file *file = test_create(s.store, "a", 0);
    assert_int_equal(test_write(s.store, file, 0, "x", 1, true), 0);
    assert_int_equal(test_meta_write(s.store, 0, "x", 1), 0);
    simulated_disk_faults(s.disk)->read_fails_ppm = 1000000;
    assert_int_equal(test_read(s.store, file, 0, &byte, 1), E_IO);
    assert_int_equal(test_meta_read(s.store, &version, &value), E_IO);
    assert_int_equal(waited_do(&w, s.store, STORE_OPEN), E_IO);
    simulated_disk_faults(s.disk)->write_fails_ppm = 1000000;
    assert_int_equal(waited_do(&w, s.store, STORE_REMOVE), E_IO);
    assert_int_equal(test_meta_write(s.store, 1, "y", 1), E_IO);
    w.request.name = "b";
    assert_int_equal(waited_do(&w, s.store, STORE_CREATE), E_IO);
    assert_non_null(strstr(w.request.failure.text, "create"));
    w.request.file = file;
    assert_int_equal(waited_do(&w, s.store, STORE_TRUNCATE), E_IO);
    simulated_disk_faults(s.disk)->sync_fails_ppm = 1000000;
    assert_int_equal(waited_do(&w, s.store, STORE_SEAL), E_IO);
    simulation_end(&s);
}

/* ---- the local store's directory ---- */

static void local_directory_troubles(void **state)
{
    struct local_context c;
    struct failure failure;
    struct store *store;
    struct loop *loop = loop_new_real(&failure);
    char path[128];
    char expected[64];

    (void)state;
    local_begin(&c);
    snprintf(path, sizeof path, "%s/new/", c.directory); /* made; the slash does no harm */
    assert_int_equal(store_local_open(loop, path, &store, &failure), 0);
    struct store *second;
    assert_int_equal(store_local_open(loop, path, &second, &failure), E_HELD);
    snprintf(expected, sizeof expected, "by process %ld", (long)getpid());
    assert_non_null(strstr(failure.text, expected));
    store_free(store);

    snprintf(path, sizeof path, "%s/no/such", c.directory); /* one level only */
    assert_int_equal(store_local_open(loop, path, &store, &failure), E_NOT_FOUND);
    assert_non_null(strstr(failure.text, "no/such: No such file"));
    snprintf(path, sizeof path, "%s/file", c.directory);
    FILE *file = fopen(path, "w");
    fclose(file);
    assert_int_equal(store_local_open(loop, path, &store, &failure), E_IO); /* not a directory */
    char *long_path = malloc(8000);
    memset(long_path, 'x', 7999);
    long_path[7999] = 0;
    assert_int_equal(store_local_open(loop, long_path, &store, &failure), E_INVALID);
    free(long_path);
    local_end(&c);
    loop_free(loop);
}

static void damaged_metadata_is_named(void **state)
{
    struct local_context c;
    struct failure failure;
    struct store *store;
    struct loop *loop = loop_new_real(&failure);
    char path[128];
    uint8_t bytes[64];

    (void)state;
    local_begin(&c);
    assert_int_equal(store_local_open(loop, c.directory, &store, &failure), 0);
    assert_int_equal(test_meta_write(store, 0, "hello", 5), 0);
    store_free(store);
    snprintf(path, sizeof path, "%s/meta", c.directory);
    FILE *file = fopen(path, "r");
    size_t size = fread(bytes, 1, sizeof bytes, file);
    fclose(file);
    assert_int_equal(size, 29);
    for (size_t i = 0; i <= size; i++) { /* each byte changed, then a byte missing */
        file = fopen(path, "w");
        bytes[i % size] ^= i < size ? 0x10 : 0;
        fwrite(bytes, 1, size - (i == size), file);
        bytes[i % size] ^= i < size ? 0x10 : 0;
        fclose(file);
        int expected = i == 7 ? E_VERSION : E_CORRUPT;
        assert_int_equal(store_local_open(loop, c.directory, &store, &failure), expected);
        assert_non_null(strstr(failure.text, "meta"));
    }
    local_end(&c);
    loop_free(loop);
}

int main(void)
{
    struct simulated_context simulated_context = {.seed = 1};
    struct local_context local_context;
    const struct store_back_end simulated = {"simulated",   &simulated_context, simulated_begin,
                                             simulated_end, simulated_loop,     simulated_open};
    const struct store_back_end local = {"local",   &local_context, local_begin,
                                         local_end, real_loop,      local_open};
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_crash_keeps_what_was_synced_and_loses_the_rest_at_random),
        cmocka_unit_test(a_disk_that_lies_about_syncs_is_found_out),
        cmocka_unit_test(a_crash_in_the_middle_does_a_part),
        cmocka_unit_test(a_failed_write_may_be_repeated),
        cmocka_unit_test(pipelined_writes_fail_behind_a_failed_one),
        cmocka_unit_test(a_failed_sync_may_lose_what_reads_still_show),
        cmocka_unit_test(a_full_disk_says_so_and_removing_helps),
        cmocka_unit_test(bits_flip_once_each_and_are_counted),
        cmocka_unit_test(reads_opens_and_the_rest_can_fail),
        cmocka_unit_test(local_directory_troubles),
        cmocka_unit_test(damaged_metadata_is_named),
    };
    int failed = 0;

    for (int round = 0; round < 20; round++)
        failed += store_conformance(&simulated);
    failed += store_conformance(&local);
    failed += cmocka_run_group_tests_name("faults", tests, NULL, NULL);
    return failed;
}
