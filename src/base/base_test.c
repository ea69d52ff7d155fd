/* Bytes, lists, maps, rings, pools, accounts, buffers, log lines, checksums, errors. */
#include "base/account.h"
#include "base/buffer.h"
#include "base/bytes.h"
#include "base/checksum.h"
#include "base/list.h"
#include "base/logging.h"
#include "base/map.h"
#include "base/memory.h"
#include "base/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/wait.h>
#include <unistd.h>

/* The same numbers on each run. */
static uint64_t chance(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

/* Does it end in an abort? (Or in that of a sanitizer's, which is an exit with a code.) */
static bool aborts(void (*function)(void))
{
    int status;
    pid_t child = fork();

    if (child == 0) {
        int quiet = open("/dev/null", O_WRONLY);
        dup2(quiet, STDERR_FILENO);
        signal(SIGABRT, SIG_DFL);
        function();
        _exit(0);
    }
    assert_int_equal(waitpid(child, &status, 0), child);
    return WIFSIGNALED(status) ? WTERMSIG(status) == SIGABRT : WEXITSTATUS(status) != 0;
}

/* ---- bytes ---- */

static void integers_go_by_bytes(void **state)
{
    uint8_t bytes[8];

    (void)state;
    store_be16(bytes, 0x0102);
    assert_memory_equal(bytes, "\1\2", 2);
    assert_int_equal(load_be16(bytes), 0x0102);
    assert_int_equal(load_le16(bytes), 0x0201);
    store_be32(bytes, 0xf1020304);
    assert_memory_equal(bytes, "\xf1\2\3\4", 4);
    assert_int_equal(load_be32(bytes), 0xf1020304);
    assert_int_equal(load_le32(bytes), 0x040302f1);
    store_be64(bytes, 0xf102030405060708);
    assert_memory_equal(bytes, "\xf1\2\3\4\5\6\7\10", 8);
    assert_int_equal(load_be64(bytes), 0xf102030405060708);
    assert_int_equal(load_le64(bytes), 0x08070605040302f1);
    store_le16(bytes, 0x0102);
    assert_memory_equal(bytes, "\2\1", 2);
    store_le32(bytes, 0x01020304);
    assert_memory_equal(bytes, "\4\3\2\1", 4);
    store_le64(bytes, 0x0102030405060708);
    assert_memory_equal(bytes, "\10\7\6\5\4\3\2\1", 8);
}

static void slices_compare(void **state)
{
    (void)state;
    assert_true(slice_is(slice_text("abc"), "abc"));
    assert_false(slice_is(slice_text("abc"), "abd"));
    assert_false(slice_is(slice_text("abc"), "ab"));
    assert_true(slice_is(slice_of(NULL, 0), ""));
    assert_true(slice_equal(slice_of(NULL, 0), slice_of("x", 0)));
    assert_true(slice_starts(slice_text("abc"), "ab"));
    assert_true(slice_starts(slice_text("abc"), ""));
    assert_false(slice_starts(slice_text("ab"), "abc"));
    char text[10];
    snprintf(text, sizeof text, "%.*s", SLICE_ARGS(slice_of(NULL, 0)));
    assert_string_equal(text, "");
}

static void a_reader_stops_at_the_end_and_remembers(void **state)
{
    struct reader r = reader_of(slice_of("\1\0\2\0\0\0\3abc", 10));

    (void)state;
    assert_int_equal(read_u8(&r), 1);
    assert_int_equal(read_be16(&r), 2);
    assert_int_equal(read_be32(&r), 3);
    assert_true(slice_is(read_bytes(&r, 2), "ab"));
    assert_int_equal(reader_left(&r), 1);
    assert_int_equal(read_be16(&r), 0);
    assert_true(r.failed);
    assert_int_equal(read_u8(&r), 0); /* though a byte is there */
    assert_int_equal(read_bytes(&r, 0).size, 0);
    assert_null(read_bytes(&r, 1).data);
    struct reader huge = reader_of(slice_of("abc", 3));
    assert_null(reader_take(&huge, SIZE_MAX));
    struct reader empty = reader_of(slice_of(NULL, 0));
    assert_false(empty.failed);
    assert_int_equal(reader_left(&empty), 0);
}

static void a_writer_stops_at_the_end_and_remembers(void **state)
{
    uint8_t bytes[8] = {0};
    struct writer w = writer_of(bytes, 7);

    (void)state;
    write_u8(&w, 1);
    write_be16(&w, 2);
    write_bytes(&w, slice_text("ab"));
    write_bytes(&w, slice_of(NULL, 0));
    assert_int_equal(writer_size(&w), 5);
    write_be32(&w, 0xffffffff);
    assert_true(w.failed);
    write_u8(&w, 0xff); /* would fit */
    assert_int_equal(writer_size(&w), 5);
    assert_memory_equal(bytes, "\1\0\2ab\0\0\0", 8);
}

static void varints_go_both_ways(void **state)
{
    static const struct {
        uint64_t value;
        size_t size;
    } cases[] = {{0, 1},     {1, 1},          {127, 1},         {128, 2},        {16383, 2},
                 {16384, 3}, {UINT32_MAX, 5}, {1ull << 63, 10}, {UINT64_MAX, 10}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        uint8_t bytes[VARINT_SIZE_MAX];
        struct writer w = writer_of(bytes, sizeof bytes);
        write_varint(&w, cases[i].value);
        assert_false(w.failed);
        assert_int_equal(writer_size(&w), cases[i].size);
        assert_int_equal(varint_size(cases[i].value), cases[i].size);
        struct reader r = reader_of(slice_of(bytes, cases[i].size));
        assert_int_equal(read_varint(&r), cases[i].value);
        assert_false(r.failed);
        for (size_t cut = 0; cut < cases[i].size; cut++) {
            r = reader_of(slice_of(bytes, cut));
            assert_int_equal(read_varint(&r), 0);
            assert_true(r.failed);
        }
    }
    struct reader r = reader_of(slice_of("\xff\xff\xff\xff\xff\xff\xff\xff\xff\x02", 10));
    assert_int_equal(read_varint(&r), 0); /* more than 64 bits */
    assert_true(r.failed);
    r = reader_of(slice_of("\x80\x80\x80\x80\x80\x80\x80\x80\x80\x80\x01", 11));
    assert_int_equal(read_varint(&r), 0); /* longer than any */
    assert_true(r.failed);
}

/* ---- lists ---- */

struct item {
    int number;
    struct list link;
};

static void assert_numbers(const struct list *list, const char *expected)
{
    size_t count = 0;

    LIST_EACH (list, link) {
        assert_int_equal('0' + CONTAINER_OF(link, struct item, link)->number, expected[count++]);
        assert_ptr_equal(link->next->previous, link);
    }
    assert_int_equal(count, strlen(expected));
}

static void lists_link_and_unlink(void **state)
{
    struct list a, b;
    struct item items[6];

    (void)state;
    list_init(&a);
    list_init(&b);
    assert_true(list_empty(&a));
    assert_null(list_first(&a));
    assert_null(list_take_first(&a));
    list_move_all(&a, &b);
    assert_true(list_empty(&a));
    for (int i = 0; i < 6; i++) {
        items[i].number = i;
        list_init(&items[i].link);
        assert_false(list_linked(&items[i].link));
        if (i < 3)
            list_append(&a, &items[i].link);
        else
            list_prepend(&b, &items[i].link);
        assert_true(list_linked(&items[i].link));
    }
    assert_numbers(&a, "012");
    assert_numbers(&b, "543");
    list_move_all(&a, &b);
    assert_numbers(&a, "012543");
    assert_true(list_empty(&b));
    list_move_all(&b, &a);
    assert_numbers(&b, "012543");
    list_remove(&items[5].link);
    list_remove(&items[5].link); /* twice does no harm */
    assert_numbers(&b, "01243");
    list_insert_before(&items[0].link, &items[5].link);
    assert_numbers(&b, "501243");
    LIST_EACH (&b, link) { /* the body may remove what it has */
        if (CONTAINER_OF(link, struct item, link)->number % 2)
            list_remove(link);
    }
    assert_numbers(&b, "024");
    assert_ptr_equal(list_take_first(&b), &items[0].link);
    assert_numbers(&b, "24");
}

/* ---- maps ---- */

#define NAMES 5000

static void maps_of_bytes(void **state)
{
    static char names[NAMES][16];
    struct map map;
    size_t count = 0;

    (void)state;
    uint64_t seed = 1;
    map_init_bytes(&map, 42);
    for (int i = 0; i < NAMES; i++) {
        snprintf(names[i], sizeof names[i], "queue-%d", i);
        assert_null(map_get(&map, slice_text(names[i])));
        map_put(&map, slice_text(names[i]), names[i]);
    }
    assert_int_equal(map_count(&map), NAMES);
    for (int i = 0; i < 20 * NAMES; i++) { /* come and go: tombstones are swept */
        char *name = names[chance(&seed) % NAMES];
        char copy[16];
        memcpy(copy, name, sizeof copy); /* found by content */
        if (map_get(&map, slice_text(copy))) {
            assert_ptr_equal(map_remove(&map, slice_text(copy)), name);
            assert_null(map_remove(&map, slice_text(copy)));
        } else {
            map_put(&map, slice_text(name), name);
        }
    }
    struct map_cursor cursor = {0};
    for (const char *name; (name = map_next(&map, &cursor)) != NULL; count++)
        assert_ptr_equal(map_get(&map, slice_text(name)), name);
    assert_int_equal(count, map_count(&map));
    assert_null(map_get(&map, slice_of(NULL, 0)));
    assert_null(map_remove(&map, slice_text("")));

    memset(&cursor, 0, sizeof cursor); /* removing while walking */
    for (char *name; (name = map_next(&map, &cursor)) != NULL;)
        assert_ptr_equal(map_remove(&map, slice_text(name)), name);
    assert_int_equal(map_count(&map), 0);
    map_fini(&map);
}

static void keys_with_zeros_and_prefixes_differ(void **state)
{
    struct map map;
    int values[4];

    (void)state;
    map_init_bytes(&map, 1);
    map_put(&map, slice_of("a", 1), &values[0]);
    map_put(&map, slice_of("a\0", 2), &values[1]);
    map_put(&map, slice_of("a\0b", 3), &values[2]);
    map_put(&map, slice_of("\0", 1), &values[3]);
    assert_ptr_equal(map_get(&map, slice_of("a", 1)), &values[0]);
    assert_ptr_equal(map_get(&map, slice_of("a\0", 2)), &values[1]);
    assert_ptr_equal(map_get(&map, slice_of("a\0b", 3)), &values[2]);
    assert_ptr_equal(map_get(&map, slice_of("\0", 1)), &values[3]);
    assert_null(map_get(&map, slice_of("\0\0", 2)));
    map_fini(&map);
}

static void the_longest_key(void **state)
{
    struct map map;
    char *key = malloc(UINT16_MAX);

    (void)state;
    memset(key, 'x', UINT16_MAX);
    map_init_bytes(&map, 1);
    map_put(&map, slice_of(key, UINT16_MAX), key);
    assert_ptr_equal(map_get(&map, slice_of(key, UINT16_MAX)), key);
    assert_null(map_get(&map, slice_of(key, UINT16_MAX - 1)));
    map_fini(&map);
    free(key);
}

static void a_key_longer_than_any_is_in_no_map(void **state)
{
    struct map map;
    char *key = calloc(1, UINT16_MAX + 2);

    (void)state;
    key[0] = 'a';
    map_init_bytes(&map, 1);
    map_put(&map, slice_of(key, 1), key); /* 65537 is 1 in 16 bits */
    assert_null(map_get(&map, slice_of(key, UINT16_MAX + 2)));
    assert_null(map_remove(&map, slice_of(key, UINT16_MAX + 2)));
    assert_ptr_equal(map_get(&map, slice_of(key, 1)), key);
    map_fini(&map);
    free(key);
}

static void maps_of_numbers(void **state)
{
    struct map map;
    static int values[NAMES];
    uint64_t sum = 0;

    (void)state;
    map_init_numbers(&map, 7);
    for (uint64_t i = 0; i < NAMES; i++)
        map_put_number(&map, i * i + 1, &values[i]);
    map_put_number(&map, UINT64_MAX - 1, &map);
    assert_int_equal(map_count(&map), NAMES + 1);
    for (uint64_t i = 0; i < NAMES; i++)
        assert_ptr_equal(map_get_number(&map, i * i + 1), &values[i]);
    assert_ptr_equal(map_get_number(&map, UINT64_MAX - 1), &map);
    assert_null(map_get_number(&map, 3));
    assert_ptr_equal(map_remove_number(&map, UINT64_MAX - 1), &map);
    assert_null(map_remove_number(&map, UINT64_MAX - 1));
    struct map_cursor cursor = {0};
    for (const int *value; (value = map_next(&map, &cursor)) != NULL;)
        sum += (uint64_t)(value - values);
    assert_int_equal(sum, NAMES * (NAMES - 1) / 2);
    map_fini(&map);
}

/* ---- memory ---- */

static void memory_is_zeroed_and_texts_end(void **state)
{
    uint8_t *bytes = memory_new(1000);
    char *text = memory_text(slice_of("abcdef", 3));
    char *empty = memory_text(slice_of(NULL, 0));

    (void)state;
    for (int i = 0; i < 1000; i++)
        assert_int_equal(bytes[i], 0);
    assert_string_equal(text, "abc");
    assert_string_equal(empty, "");
    bytes[999] = 7;
    bytes = memory_resize(bytes, 5000, 1);
    assert_int_equal(bytes[999], 7);
    free(bytes);
    free(memory_new(0));
    free(text);
    free(empty);
}

static void resize_too_much(void)
{
    void *memory = memory_resize(NULL, SIZE_MAX / 2, 4); /* more than a size_t can hold */
    free(memory);
}

static void pool_leak(void)
{
    struct pool pool;

    pool_init(&pool, 16);
    memset(pool_take(&pool), 0, 16);
    pool_fini(&pool);
}

static void pools_give_and_take(void **state)
{
    struct pool pool;
    static void *elements[3000];

    (void)state;
    pool_init(&pool, 100);
    for (int round = 0; round < 3; round++) {
        for (size_t i = 0; i < 3000; i++) {
            elements[i] = pool_take(&pool);
            assert_int_equal((uintptr_t)elements[i] % 16, 0);
            memset(elements[i], (int)i, 100);
        }
        assert_int_equal(pool.in_use, 3000);
        for (size_t i = 0; i < 3000; i++) {
            for (size_t j = 0; j < 100; j += 33)
                assert_int_equal(((uint8_t *)elements[i])[j], (uint8_t)i);
            pool_give(&pool, elements[i]);
        }
    }
    assert_int_equal(pool.in_use, 0);
    pool_fini(&pool);
    assert_true(aborts(pool_leak));
    assert_true(aborts(resize_too_much));
}

static void unref_once_too_often(void)
{
    struct buffer *buffer = buffer_new(1);
    struct buffer copy;

    buffer->references = 0;
    copy = *buffer;
    buffer_unref(&copy);
}

static void buffers_are_counted(void **state)
{
    struct buffer *buffer = buffer_new(10);

    (void)state;
    assert_int_equal(buffer->references, 1);
    assert_int_equal(buffer->size, 0);
    assert_int_equal(buffer->capacity, 10);
    assert_ptr_equal(buffer_ref(buffer), buffer);
    buffer_unref(buffer);
    assert_int_equal(buffer->references, 1);
    buffer_unref(buffer);
    buffer_unref(NULL);
    assert_true(aborts(unref_once_too_often));
}

/* ---- accounts ---- */

static void release_too_much(void)
{
    struct account account;

    account_init(&account, NULL, 0);
    account_add(&account, 1);
    account_release(&account, 2);
}

static void end_with_something_used(void)
{
    struct account account;

    account_init(&account, NULL, 0);
    account_add(&account, 1);
    account_fini(&account);
}

static void a_charge_goes_to_all_or_none(void **state)
{
    struct account worker, connection, other;

    (void)state;
    account_init(&worker, NULL, 100);
    account_init(&connection, &worker, 60);
    account_init(&other, &worker, 0);
    assert_int_equal(account_charge(&connection, 60), 0);
    assert_int_equal(worker.used, 60);
    assert_int_equal(account_charge(&connection, 1), E_MEMORY);
    assert_int_equal(connection.refusals, 1);
    assert_int_equal(worker.used, 60);
    assert_int_equal(account_charge(&other, 41), E_MEMORY); /* its parent has no room */
    assert_int_equal(other.used, 0);
    assert_int_equal(worker.refusals, 1);
    assert_int_equal(account_charge(&other, 40), 0);
    assert_int_equal(account_charge(&other, UINT64_MAX), E_MEMORY); /* no overflow */
    account_add(&other, 5);                                         /* without asking */
    assert_int_equal(worker.used, 105);
    assert_int_equal(account_charge(&connection, 0), E_MEMORY); /* beyond its limit it is full */
    account_release(&other, 45);
    account_release(&connection, 60);
    assert_int_equal(worker.peak, 105);
    assert_int_equal(connection.peak, 60);
    account_fini(&other);
    account_fini(&connection);
    account_fini(&worker);
    assert_true(aborts(release_too_much));
    assert_true(aborts(end_with_something_used));
}

/* ---- log lines ---- */

static uint64_t fixed_wall_ms(void *clock)
{
    (void)clock;
    return 1700000000123u;
}

static void count_line(void *context, enum log_level level, const char *category, const char *text)
{
    unsigned *counts = context;

    (void)category;
    (void)text;
    counts[level]++;
}

static size_t read_pipe(int descriptor, char *text, size_t room)
{
    ssize_t size = read(descriptor, text, room - 1);

    assert_true(size > 0);
    text[size] = 0;
    return (size_t)size;
}

static void log_lines_are_one_line(void **state)
{
    int ends[2];
    char text[4096];
    struct logger logger = {.level = LOG_INFO, .wall_ms = fixed_wall_ms};

    (void)state;
    assert_int_equal(pipe(ends), 0);
    logger.descriptor = ends[1];
    log_info(&logger, "connection", "user %s did\nthis\x1b[0m\x7f \xc3\xa9", "a\r\nb");
    read_pipe(ends[0], text, sizeof text);
    assert_string_equal(text, "2023-11-14 22:13:20.123+00:00 [info] connection: user a\\x0d\\x0ab "
                              "did\\x0athis\\x1b[0m\\x7f \xc3\xa9\n");
    log_debug(&logger, "x", "not wanted");
    log_warning(&logger, "x", "wanted");
    read_pipe(ends[0], text, sizeof text);
    assert_non_null(strstr(text, "[warning] x: wanted"));

    char *longest = malloc(10000); /* cut, and still one line */
    memset(longest, '\n', 9999);
    longest[9999] = 0;
    log_error(&logger, "x", "%s", longest);
    size_t size = read_pipe(ends[0], text, sizeof text);
    assert_true(size < 2 * LOG_LINE_MAX + 2);
    assert_ptr_equal(strchr(text, '\n'), text + size - 1);
    free(longest);
    close(ends[0]);
    close(ends[1]);
}

static void log_levels(void **state)
{
    enum log_level level;
    unsigned counts[LOG_NONE + 1] = {0};
    struct logger logger = {.descriptor = -1, .line = count_line, .context = counts};

    (void)state;
    assert_int_equal(log_level_parse("debug", &level), 0);
    assert_int_equal(level, LOG_DEBUG);
    assert_int_equal(log_level_parse("none", &level), 0);
    assert_int_equal(level, LOG_NONE);
    assert_int_equal(log_level_parse("Debug", &level), E_INVALID);
    assert_int_equal(log_level_parse("", &level), E_INVALID);
    assert_int_equal(log_level_parse(NULL, &level), E_INVALID);
    for (int least = LOG_DEBUG; least <= LOG_NONE; least++) {
        logger.level = (enum log_level)least;
        log_debug(&logger, "x", "x");
        log_info(&logger, "x", "x");
        log_warning(&logger, "x", "x");
        log_error(&logger, "x", "x");
    }
    for (unsigned i = LOG_DEBUG; i < LOG_NONE; i++)
        assert_int_equal(counts[i], i + 1);
    log_error(NULL, "x", "nobody listens");
}

/* ---- checksums ---- */

/* Bit by bit, from the definition. */
static uint32_t checksum_slowly(const uint8_t *bytes, size_t size)
{
    uint32_t sum = 0xffffffff;

    for (size_t i = 0; i < size; i++) {
        sum ^= bytes[i];
        for (int bit = 0; bit < 8; bit++)
            sum = sum >> 1 ^ (sum & 1 ? 0x82f63b78 : 0);
    }
    return sum;
}

static void checksums_are_crc32c(void **state)
{
    /* RFC 3720, B.4. Those are with the final inversion, which ours leaves out. */
    uint8_t zeros[32] = {0};
    uint8_t ones[32], up[32], down[32];

    (void)state;
    for (int i = 0; i < 32; i++) {
        ones[i] = 0xff;
        up[i] = (uint8_t)i;
        down[i] = (uint8_t)(31 - i);
    }
    assert_int_equal(checksum_of(slice_of(zeros, 32)), ~0x8a9136aau);
    assert_int_equal(checksum_of(slice_of(ones, 32)), ~0x62a8ab43u);
    assert_int_equal(checksum_of(slice_of(up, 32)), ~0x46dd794eu);
    assert_int_equal(checksum_of(slice_of(down, 32)), ~0x113fdb5cu);
    assert_int_equal(checksum_of(slice_text("123456789")), ~0xe3069283u);
    assert_int_equal(checksum_of(slice_of(NULL, 0)), CHECKSUM_START);
}

static void checksums_chain(void **state)
{
    uint8_t bytes[3000];

    (void)state;
    uint64_t seed = 1;
    for (size_t i = 0; i < sizeof bytes; i++)
        bytes[i] = (uint8_t)chance(&seed);
    for (size_t size = 0; size < sizeof bytes; size += 97) {
        uint32_t whole = checksum_of(slice_of(bytes, size));
        assert_int_equal(whole, checksum_slowly(bytes, size));
        size_t cut = size ? (size_t)chance(&seed) % size : 0;
        uint32_t parts = checksum_add(CHECKSUM_START, slice_of(bytes, cut));
        assert_int_equal(checksum_add(parts, slice_of(bytes + cut, size - cut)), whole);
    }
}

/* ---- errors ---- */

static void each_error_has_a_name_of_its_own(void **state)
{
    (void)state;
    for (int code = -1; code >= E_KEY; code--) {
        assert_string_not_equal(error_name(code), "unknown");
        for (int other = -1; other > code; other--)
            assert_string_not_equal(error_name(code), error_name(other));
    }
    assert_string_equal(error_name(0), "none");
    assert_string_equal(error_name(E_KEY - 1), "unknown");
    assert_string_equal(error_name(1), "unknown");
    assert_string_equal(error_name(-2147483647 - 1), "unknown");
    assert_string_equal(error_name(E_NOT_FOUND), "not_found");
}

static void errno_becomes_a_code(void **state)
{
    static const struct {
        int number, code;
    } cases[] = {{ENOSPC, E_FULL},   {EDQUOT, E_FULL},      {EAGAIN, E_AGAIN},
                 {EIO, E_IO},        {ENOENT, E_NOT_FOUND}, {ENOMEM, E_MEMORY},
                 {EACCES, E_DENIED}, {EPERM, E_DENIED},     {EMFILE, E_LIMIT},
                 {ENFILE, E_LIMIT},  {EADDRINUSE, E_HELD},  {ECONNRESET, E_CLOSED},
                 {EPIPE, E_CLOSED},  {EXDEV, E_IO},         {12345, E_IO}};

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++)
        assert_int_equal(error_from_errno(cases[i].number), cases[i].code);
}

static void failures_tell_and_are_cut(void **state)
{
    struct failure failure;
    char longest[1000];

    (void)state;
    assert_int_equal((fail)(&failure, E_INVALID, "line %d: %s", 7, "unknown key"), E_INVALID);
    assert_int_equal(failure.code, E_INVALID);
    assert_string_equal(failure.text, "line 7: unknown key");
    memset(longest, 'x', sizeof longest - 1);
    longest[sizeof longest - 1] = 0;
    assert_int_equal((fail)(&failure, E_LIMIT, "%s", longest), E_LIMIT);
    assert_int_equal(strlen(failure.text), FAILURE_TEXT_MAX - 1);
    assert_int_equal((fail)(NULL, E_IO, "nobody asks"), E_IO);
}

/* Numbers go in and come out in order, whatever the head was when it had to grow. */
static void a_ring_grows_and_keeps_its_order(void **state)
{
    struct ring ring = {0};
    uint64_t *numbers = NULL;
    uint64_t seed = 1, in = 0, out = 0;

    (void)state;
    while (in < 100000) {
        for (uint64_t more = chance(&seed) % 20; more > 0; more--) {
            numbers = ring_reserve(&ring, numbers, sizeof *numbers);
            numbers[ring_add(&ring)] = in++;
        }
        for (uint64_t fewer = chance(&seed) % 19; fewer > 0 && ring.count > 0; fewer--) {
            assert_int_equal(numbers[ring_at(&ring, 0)], out++);
            ring_drop_first(&ring);
        }
        assert_int_equal(ring.count, in - out);
        for (uint32_t i = 0; i < ring.count; i += 7)
            assert_int_equal(numbers[ring_at(&ring, i)], out + i);
    }
    assert_true(ring.capacity > 100 && ring.capacity < 1u << 20);
    free(numbers);
}

/* Memory of all sizes comes and goes; what is kept is used again and is never too much. */
static void a_stock_keeps_a_limited_amount(void **state)
{
    (void)state;
    struct stock stock = {0};
    uint8_t *held[2000];
    const size_t sizes[] = {1, 32, 33, 100, 1100, STOCK_SIZE_MAX, STOCK_SIZE_MAX + 1, 100000};

    for (size_t i = 0; i < sizeof sizes / sizeof *sizes; i++) {
        for (size_t n = 0; n < 2000; n++) {
            held[n] = stock_take(&stock, sizes[i]);
            assert_non_null(held[n]);
            memset(held[n], (int)n, sizes[i]);
        }
        for (size_t n = 0; n < 2000; n++) {
            assert_int_equal(held[n][0], (uint8_t)n);
            assert_int_equal(held[n][sizes[i] - 1], (uint8_t)n);
            stock_give(&stock, held[n], sizes[i]);
            assert_true(stock.bytes <= STOCK_BYTES_MAX);
        }
    }
#ifndef SLUICE_DEBUG_CHECKS
    /* full of sizes that nobody wants any more: room is made for what is wanted */
    assert_true(stock.bytes > STOCK_BYTES_MAX - 2 * STOCK_SIZE_MAX);
    for (size_t n = 0; n < 100000 && !stock.free_lists[200 / STOCK_STEP]; n++)
        stock_give(&stock, stock_take(&stock, 200), 200);
    void *memory = stock_take(&stock, 200);
    stock_give(&stock, memory, 200);
    assert_ptr_equal(stock_take(&stock, 201), memory);
    stock_give(&stock, memory, 201);
#endif
    stock_fini(&stock);
    assert_int_equal(stock.bytes, 0);
    uint8_t *memory_of_nobody = stock_take(NULL, 10);
    memset(memory_of_nobody, 1, 10);
    stock_give(NULL, memory_of_nobody, 10);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_stock_keeps_a_limited_amount),
        cmocka_unit_test(integers_go_by_bytes),
        cmocka_unit_test(slices_compare),
        cmocka_unit_test(a_reader_stops_at_the_end_and_remembers),
        cmocka_unit_test(a_writer_stops_at_the_end_and_remembers),
        cmocka_unit_test(varints_go_both_ways),
        cmocka_unit_test(lists_link_and_unlink),
        cmocka_unit_test(maps_of_bytes),
        cmocka_unit_test(keys_with_zeros_and_prefixes_differ),
        cmocka_unit_test(the_longest_key),
        cmocka_unit_test(a_key_longer_than_any_is_in_no_map),
        cmocka_unit_test(maps_of_numbers),
        cmocka_unit_test(memory_is_zeroed_and_texts_end),
        cmocka_unit_test(pools_give_and_take),
        cmocka_unit_test(buffers_are_counted),
        cmocka_unit_test(a_charge_goes_to_all_or_none),
        cmocka_unit_test(log_lines_are_one_line),
        cmocka_unit_test(log_levels),
        cmocka_unit_test(a_ring_grows_and_keeps_its_order),
        cmocka_unit_test(checksums_are_crc32c),
        cmocka_unit_test(checksums_chain),
        cmocka_unit_test(each_error_has_a_name_of_its_own),
        cmocka_unit_test(errno_becomes_a_code),
        cmocka_unit_test(failures_tell_and_are_cut),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
