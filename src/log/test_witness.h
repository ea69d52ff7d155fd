/*
 * For tests: sees all that is sealed, by any number of logs, and remembers under which key and
 * nonce which bytes were, as their tag. Twice the same is a repeated write; twice with another tag
 * is a nonce used again, which gives everything away.
 */
#ifndef SLUICE_LOG_TEST_WITNESS_H
#define SLUICE_LOG_TEST_WITNESS_H

#include "base/map.h"
#include "log/cipher.h"

struct test_witness {
    struct cipher_witness cipher; /* for log_options */
    struct map tags;              /* by key and nonce: the tag, in the pointer itself */
    uint64_t sealed;
    bool has_reuse;
};

static inline uint64_t test_witness_mix(uint64_t hash, const uint8_t *bytes, size_t size)
{
    for (size_t i = 0; i < size; i++)
        hash = (hash ^ bytes[i]) * 0x100000001b3ull;
    return hash ^ hash >> 29;
}

static inline void test_witness_sealed(void *context, const uint8_t key[CIPHER_KEY_SIZE],
                                       const uint8_t nonce[CIPHER_NONCE_SIZE],
                                       const uint8_t tag[CIPHER_TAG_SIZE])
{
    struct test_witness *witness = (struct test_witness *)context;
    uint64_t number = test_witness_mix(0xcbf29ce484222325ull, key, CIPHER_KEY_SIZE);
    number = test_witness_mix(number, nonce, CIPHER_NONCE_SIZE);
    void *now = (void *)(uintptr_t)(load_le64(tag) | 1);
    void *before = map_get_number(&witness->tags, number);

    witness->sealed++;
    if (before && before != now)
        witness->has_reuse = true;
    if (!before)
        map_put_number(&witness->tags, number, now);
}

static inline void test_witness_init(struct test_witness *witness)
{
    *witness = (struct test_witness){.cipher = {test_witness_sealed, witness}};
    map_init_numbers(&witness->tags, 1);
}

static inline void test_witness_fini(struct test_witness *witness)
{
    map_fini(&witness->tags);
}

#endif
