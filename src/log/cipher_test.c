/* The cipher against published vectors; keys, keyrings, chunks. */
#include "log/test_witness.h"

#include "base/memory.h"
#include "log/block.h"
#include "log/scan.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

static void of_hex(const char *text, uint8_t *bytes)
{
    for (; *text; text += 2)
        assert_int_equal(sscanf(text, "%2hhx", bytes++), 1);
}

/* ---- the cipher ---- */

/* McGrew and Viega, "The Galois/Counter Mode of Operation", test case 16. */
static void gcm_is_what_it_should_be(void **state)
{
    static const char *const plain_text =
        "d9313225f88406e5a55909c5aff5269a86a7a9531534f7da2e4c303d8a318a72"
        "1c3c0c95956809532fcf0e2449a6b525b16aedf5aa0de657ba637b39";
    static const char *const sealed_text =
        "522dc1f099567d07f47f37a32a84427d643a8cdcbfe5c0c97598a2bd2555d1aa"
        "8cb08e48590dbb3da7b08b1056828838c5f61e6393ba7a0abcc9f662";
    uint8_t key[32], nonce[12], additional[20], plain[60], expected[60], sealed[60], opened[60];
    uint8_t tag[16], expected_tag[16];
    struct cipher *cipher = cipher_new(NULL);

    (void)state;
    of_hex("feffe9928665731c6d6a8f9467308308feffe9928665731c6d6a8f9467308308", key);
    of_hex("cafebabefacedbaddecaf888", nonce);
    of_hex("feedfacedeadbeeffeedfacedeadbeefabaddad2", additional);
    of_hex(plain_text, plain);
    of_hex(sealed_text, expected);
    of_hex("76fc6ece0f4e1768cddf8853bb2d551b", expected_tag);
    for (size_t cut = 0; cut <= sizeof plain; cut++) { /* in two pieces, and twice each */
        cipher_seal_begin(cipher, key, nonce, slice_of(additional, sizeof additional));
        cipher_seal_add(cipher, slice_of(plain, cut), sealed);
        cipher_seal_add(cipher, slice_of(plain + cut, sizeof plain - cut), sealed + cut);
        cipher_seal_end(cipher, tag);
        assert_memory_equal(sealed, expected, sizeof expected);
        assert_memory_equal(tag, expected_tag, sizeof tag);
    }
    assert_int_equal(cipher_open(cipher, key, nonce, slice_of(additional, sizeof additional),
                                 slice_of(sealed, sizeof sealed), tag, opened),
                     0);
    assert_memory_equal(opened, plain, sizeof plain);
    uint8_t *const parts[] = {key, nonce, additional, sealed, tag};
    static const size_t sizes[] = {32, 12, 20, 60, 16};
    for (size_t i = 0; i < 5; i++) {
        for (size_t at = 0; at < sizes[i]; at++) {
            parts[i][at] ^= 0x20;
            assert_int_equal(cipher_open(cipher, key, nonce,
                                         slice_of(additional, sizeof additional),
                                         slice_of(sealed, sizeof sealed), tag, opened),
                             E_CORRUPT);
            parts[i][at] ^= 0x20;
        }
    }
    cipher_free(cipher);
}

/* RFC 3394, 4.6. */
static void keys_are_wrapped(void **state)
{
    uint8_t master[32], key[32], wrapped[40], expected[40], unwrapped[32] = {0};

    (void)state;
    of_hex("000102030405060708090A0B0C0D0E0F101112131415161718191A1B1C1D1E1F", master);
    of_hex("00112233445566778899AABBCCDDEEFF000102030405060708090A0B0C0D0E0F", key);
    of_hex("28C9F404C4B810F4CBCCB35CFB87F8263F5786E2D80ED326CBC7F0E71A99F43BFB988B9B7A02DD21",
           expected);
    cipher_wrap(master, key, wrapped);
    assert_memory_equal(wrapped, expected, sizeof expected);
    assert_int_equal(cipher_unwrap(master, wrapped, unwrapped), 0);
    assert_memory_equal(unwrapped, key, sizeof key);
    for (size_t i = 0; i < sizeof wrapped; i++) {
        wrapped[i] ^= 1;
        assert_int_equal(cipher_unwrap(master, wrapped, unwrapped), E_KEY);
        wrapped[i] ^= 1;
    }
    master[31] ^= 1;
    assert_int_equal(cipher_unwrap(master, wrapped, unwrapped), E_KEY);
}

static void keys_follow_from_keys(void **state)
{
    struct segment_keys keys = {.data = {1, 2, 3}}, same = keys, other = {.data = {1, 2, 4}};
    uint8_t footer[32], again[32];

    (void)state;
    segment_keys_derive(&keys);
    segment_keys_derive(&same);
    segment_keys_derive(&other);
    assert_memory_equal(keys.blocks, same.blocks, sizeof keys.blocks);
    assert_memory_not_equal(keys.blocks, other.blocks, sizeof keys.blocks);
    assert_memory_not_equal(keys.blocks, keys.data, sizeof keys.blocks);
    segment_keys_footer(&keys, 5, footer);
    segment_keys_footer(&keys, 5, again);
    assert_memory_equal(footer, again, sizeof footer);
    segment_keys_footer(&keys, 6, again);
    assert_memory_not_equal(footer, again, sizeof footer);
    assert_memory_not_equal(footer, keys.blocks, sizeof footer);
}

static void a_witness_sees_reuse(void **state)
{
    struct test_witness witness;
    uint8_t key[32] = {1}, nonce[12] = {2}, sealed[3], tag[16];

    (void)state;
    test_witness_init(&witness);
    struct cipher *cipher = cipher_new(&witness.cipher);
    for (unsigned i = 0; i < 4; i++) {
        cipher_seal_begin(cipher, key, nonce, slice_of("x", 1));
        cipher_seal_add(cipher, slice_of(i < 3 ? "abc" : "abd", 3), sealed);
        cipher_seal_end(cipher, tag);
        assert_int_equal(witness.has_reuse, i == 3);
        assert_int_equal(witness.sealed, i + 1);
    }
    cipher_free(cipher);
    test_witness_fini(&witness);
}

/* ---- keyrings ---- */

#define DIGITS "000102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"
#define OTHERS "ff0102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F"

static int parse(struct keyring *keyring, const char *text, struct failure *failure)
{
    return keyring_parse(keyring, slice_text(text), failure);
}

static void a_keyring_is_read(void **state)
{
    struct keyring keyring;
    struct failure failure;
    char list[KEYRING_LIST_MAX];

    (void)state;
    assert_int_equal(parse(&keyring,
                           "# ours, since May\n"
                           "  7   " DIGITS "  # the current one, 3 " DIGITS "\r\n"
                           "\n"
                           "\t4294967295\t" OTHERS,
                           &failure),
                     0);
    assert_int_equal(keyring.count, 2);
    assert_int_equal(keyring.keys[0].id, 7);
    assert_int_equal(keyring.keys[0].bytes[0], 0);
    assert_int_equal(keyring.keys[0].bytes[31], 0x1f);
    assert_int_equal(keyring_find(&keyring, 4294967295)->bytes[0], 0xff);
    assert_null(keyring_find(&keyring, 8));
    assert_string_equal(keyring_list(&keyring, list), "7, 4294967295");
    assert_int_equal(parse(&keyring, "2 " OTHERS ",1 " DIGITS, &failure), 0); /* one line */
    assert_int_equal(keyring.count, 2);
    keyring_wipe(&keyring);
    assert_string_equal(keyring_list(&keyring, list), "none");
}

static void a_keyring_may_be_wrong(void **state)
{
    static const struct {
        const char *text, *cause;
    } cases[] = {
        {"", "no key"},
        {"# nothing\n\n", "no key"},
        {"x " DIGITS, "line 1 does not begin"},
        {"1 " DIGITS "\n0 " DIGITS, "line 2 does not begin"},
        {"4294967296 " DIGITS, "line 1 does not begin"},
        {"-1 " DIGITS, "line 1 does not begin"},
        {DIGITS, "line 1 does not begin"},
        {"1", "line 1: behind the number 1"},
        {"1 " DIGITS "0", "line 1: behind the number 1"},
        {"1 0" DIGITS, "line 1: behind the number 1"},
        {"1 g00102030405060708090a0b0c0d0e0f101112131415161718191A1B1C1D1E1F", "line 1: behind"},
        {"1 " DIGITS " 2", "line 1: there is more behind key 1"},
        {"1 " DIGITS "\n\n1 " OTHERS, "line 3: there are two keys 1"},
    };
    struct keyring keyring;
    struct failure failure;
    char many[KEYRING_TEXT_MAX] = "";

    (void)state;
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        assert_int_equal(parse(&keyring, cases[i].text, &failure), E_INVALID);
        assert_non_null(strstr(failure.text, cases[i].cause));
        assert_null(strstr(failure.text, "0001020304")); /* nothing of a key is told */
        assert_int_equal(keyring.count, 0);
    }
    for (unsigned i = 1; i <= KEYRING_MAX; i++)
        snprintf(many + strlen(many), sizeof many - strlen(many), "%u %s\n", i, DIGITS);
    assert_int_equal(parse(&keyring, many, &failure), 0);
    assert_int_equal(keyring.count, KEYRING_MAX);
    snprintf(many + strlen(many), sizeof many - strlen(many), "100 %s\n", DIGITS);
    assert_int_equal(parse(&keyring, many, &failure), E_INVALID);
    assert_non_null(strstr(failure.text, "more than 16"));
}

/* ---- blocks ---- */

struct seen {
    size_t records, bytes, bad, gaps;
};

static void seen_block(void *context, const struct block_header *header, uint64_t offset)
{
    (void)context;
    (void)header;
    (void)offset;
}

static void seen_record(void *context, const struct record *record, uint64_t order)
{
    struct seen *seen = context;

    (void)order;
    seen->records++;
    seen->bytes += record->payload.size;
    for (size_t i = 0; i < record->payload.size; i++)
        assert_int_equal(record->payload.data[i], record->payload.data[0]);
}

static void seen_bad(void *context, const struct block_header *header, uint64_t chunk,
                     uint64_t offset)
{
    (void)header;
    (void)chunk;
    (void)offset;
    ((struct seen *)context)->bad++;
}

static void seen_gap(void *context, uint64_t offset, uint64_t next, uint64_t found)
{
    (void)offset;
    (void)next;
    (void)found;
    ((struct seen *)context)->gaps++;
}

static const struct scan_visitor visitor = {seen_block, seen_record, seen_bad, seen_gap,
                                            seen_block};

static struct seen scan(struct slice bytes, struct cipher *cipher, const uint8_t *key)
{
    struct seen seen = {0};
    struct scan scan;
    uint64_t offset;

    scan_init(&scan, &visitor, &seen, 3, 1, 0, bytes.size);
    if (key)
        scan_decrypt(&scan, cipher, key);
    while (scan_wants(&scan, &offset)) {
        size_t left = bytes.size - (size_t)offset;
        scan_feed(&scan,
                  slice_of(bytes.data + offset, left < SCAN_WINDOW_MIN ? left : SCAN_WINDOW_MIN));
    }
    scan_fini(&scan);
    return seen;
}

/* Some 3 MiB, so in several windows; records of all sizes, copied and borrowed. */
static struct block *make_block(struct block_pool *pool, bool is_encrypted, size_t *bytes)
{
    static const uint32_t sizes[] = {1, 100, 65519, 5, 300000, 40, 0, 65536};
    static uint8_t payload[300000];
    struct block *block = block_new(pool, 1, 2, 0);

    *bytes = 0;
    for (size_t i = 1; i <= 56; i++) {
        uint32_t size = sizes[i % 8];
        memset(payload, (int)('A' + i % 20), size);
        block_append(block, RECORD_CATALOG, slice_of(payload, size), slice_of(NULL, 0), false);
        *bytes += size;
    }
    block_close(block, is_encrypted);
    block_seal(block, 3, 1, 1);
    return block;
}

static size_t seal_all(struct cipher *cipher, const uint8_t *key, const struct block *block,
                       uint8_t *bytes)
{
    struct sealing sealing = {0};
    size_t size = 0;

    sealing_begin(&sealing, cipher, key, &block->header, block->slices, block->slices_count);
    while (!sealing_is_over(&sealing)) {
        sealing_next(&sealing);
        assert_true(sealing.size <= SEALING_WINDOW_BYTES);
        memcpy(bytes + size, sealing.bytes, sealing.size);
        size += sealing.size;
    }
    sealing_fini(&sealing);
    return size;
}

static void blocks_are_sealed(void **state)
{
    struct cipher *cipher = cipher_new(NULL);
    struct block_pool pool;
    uint8_t key[32] = {9}, other[32] = {8};
    size_t payload;

    (void)state;
    block_pool_init(&pool);
    struct block *block = make_block(&pool, true, &payload);
    uint8_t *bytes = memory_new(block_bytes(block)), *again = memory_new(block_bytes(block));
    size_t size = seal_all(cipher, key, block, bytes);
    assert_int_equal(size, block_bytes(block));
    assert_true(size > 2 * SEALING_WINDOW_BYTES);
    assert_null(memmem(bytes, size, "AAAAAAAA", 8));
    assert_int_equal(seal_all(cipher, key, block, again), size); /* a retry */
    assert_memory_equal(bytes, again, size);

    struct seen seen = scan(slice_of(bytes, size), cipher, key);
    assert_int_equal(seen.records, 56);
    assert_int_equal(seen.bytes, payload);
    assert_int_equal(seen.bad + seen.gaps, 0);
    /* with another key, or none, all of it is bad, and none of it is told */
    seen = scan(slice_of(bytes, size), cipher, other);
    assert_int_equal(seen.records, 0);
    assert_int_equal(seen.bad, block_chunks(&block->header));
    seen = scan(slice_of(bytes, size), cipher, NULL);
    assert_int_equal(seen.records, 0);
    assert_int_equal(seen.bad, block_chunks(&block->header));
    /* any byte of the first chunk, its header and the tag included, also with a checksum that fits
     */
    for (size_t at = BLOCK_HEADER_SIZE; at < BLOCK_HEADER_SIZE + 200; at++) {
        for (unsigned mended = 0; mended < 2; mended++) {
            memcpy(again, bytes, size);
            again[at] ^= 0x40;
            if (mended)
                chunk_checksum_set(1, 2, 0, again + BLOCK_HEADER_SIZE, CHUNK_SIZE_MAX);
            bool is_checksum = at < BLOCK_HEADER_SIZE + 4;
            seen = scan(slice_of(again, size), cipher, key);
            assert_int_equal(seen.bad, (mended && is_checksum) ? 0 : 1);
        }
    }
    block_free(block);
    block_pool_fini(&pool);
    cipher_free(cipher);
    free(bytes);
    free(again);
}

/* Who can write to the disk cannot put plain bytes where encrypted ones were. */
static void plain_blocks_are_refused(void **state)
{
    struct cipher *cipher = cipher_new(NULL);
    struct block_pool pool;
    uint8_t key[32] = {9};
    size_t payload, size = 0;

    (void)state;
    block_pool_init(&pool);
    struct block *block = make_block(&pool, false, &payload);
    uint8_t *bytes = memory_new(block_bytes(block));
    for (size_t i = 0; i < block->slices_count; i++) {
        memcpy(bytes + size, block->slices[i].iov_base, block->slices[i].iov_len);
        size += block->slices[i].iov_len;
    }
    assert_int_equal(scan(slice_of(bytes, size), cipher, NULL).records, 56);
    struct seen seen = scan(slice_of(bytes, size), cipher, key);
    assert_int_equal(seen.records, 0);
    assert_int_equal(seen.bad, block_chunks(&block->header));
    block_free(block);
    block_pool_fini(&pool);
    cipher_free(cipher);
    free(bytes);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(gcm_is_what_it_should_be), cmocka_unit_test(keys_are_wrapped),
        cmocka_unit_test(keys_follow_from_keys),    cmocka_unit_test(a_witness_sees_reuse),
        cmocka_unit_test(a_keyring_is_read),        cmocka_unit_test(a_keyring_may_be_wrong),
        cmocka_unit_test(blocks_are_sealed),        cmocka_unit_test(plain_blocks_are_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
