#include "log/cipher.h"

#include "base/assert.h"
#include "base/memory.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>
#include <stdlib.h>

/* One direction: OpenSSL keeps the schedule of the last key. */
struct direction {
    EVP_CIPHER_CTX *context;
    uint8_t key[CIPHER_KEY_SIZE];
    bool has_key;
};

struct cipher {
    EVP_CIPHER *algorithm;
    struct direction seal, open;
    const struct cipher_witness *witness;
    uint8_t nonce[CIPHER_NONCE_SIZE]; /* of what is being sealed, for the witness */
};

struct cipher *cipher_new(const struct cipher_witness *witness)
{
    struct cipher *cipher = memory_new(sizeof *cipher);

    cipher->algorithm = EVP_CIPHER_fetch(NULL, "AES-256-GCM", NULL);
    cipher->seal.context = EVP_CIPHER_CTX_new();
    cipher->open.context = EVP_CIPHER_CTX_new();
    cipher->witness = witness;
    ASSERT(cipher->algorithm && cipher->seal.context && cipher->open.context);
    return cipher;
}

void cipher_free(struct cipher *cipher)
{
    if (!cipher)
        return;
    EVP_CIPHER_CTX_free(cipher->seal.context); /* it wipes its own */
    EVP_CIPHER_CTX_free(cipher->open.context);
    EVP_CIPHER_free(cipher->algorithm);
    cipher_wipe(cipher, sizeof *cipher);
    free(cipher);
}

static void direction_use(const struct cipher *cipher, struct direction *direction, bool seals,
                          const uint8_t key[CIPHER_KEY_SIZE])
{
    if (direction->has_key && memcmp(direction->key, key, CIPHER_KEY_SIZE) == 0)
        return;
    int done = EVP_CipherInit_ex2(direction->context, cipher->algorithm, key, NULL, seals, NULL);
    ASSERT(done == 1);
    memcpy(direction->key, key, CIPHER_KEY_SIZE);
    direction->has_key = true;
}

static void seal_begin(struct cipher *cipher, const uint8_t nonce[CIPHER_NONCE_SIZE],
                       struct slice additional)
{
    EVP_CIPHER_CTX *context = cipher->seal.context;
    int size;

    int done = EVP_EncryptInit_ex2(context, NULL, NULL, nonce, NULL);
    done &= EVP_EncryptUpdate(context, NULL, &size, additional.data, (int)additional.size);
    ASSERT(done == 1);
}

void cipher_seal_begin(struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE],
                       const uint8_t nonce[CIPHER_NONCE_SIZE], struct slice additional)
{
    direction_use(cipher, &cipher->seal, true, key);
    memcpy(cipher->nonce, nonce, CIPHER_NONCE_SIZE);
    seal_begin(cipher, nonce, additional);
}

void cipher_seal_add(struct cipher *cipher, struct slice piece, uint8_t *sealed)
{
    int size;

    ASSERT(cipher->seal.has_key && piece.size <= INT32_MAX);
    int done = EVP_EncryptUpdate(cipher->seal.context, sealed, &size, piece.data, (int)piece.size);
    ASSERT(done == 1 && (size_t)size == piece.size);
}

void cipher_seal_end(struct cipher *cipher, uint8_t tag[CIPHER_TAG_SIZE])
{
    EVP_CIPHER_CTX *context = cipher->seal.context;
    uint8_t nothing[CIPHER_TAG_SIZE];
    int size;

    int done = EVP_EncryptFinal_ex(context, nothing, &size);
    done &= EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_GET_TAG, CIPHER_TAG_SIZE, tag);
    ASSERT(done == 1 && size == 0);
    if (cipher->witness)
        cipher->witness->sealed(cipher->witness->context, cipher->seal.key, cipher->nonce, tag);
}

int cipher_open(struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE],
                const uint8_t nonce[CIPHER_NONCE_SIZE], struct slice additional,
                struct slice sealed, const uint8_t tag[CIPHER_TAG_SIZE], uint8_t *opened)
{
    EVP_CIPHER_CTX *context = cipher->open.context;
    uint8_t expected[CIPHER_TAG_SIZE];
    int size;

    ASSERT(sealed.size > 0 && sealed.size <= INT32_MAX);
    direction_use(cipher, &cipher->open, false, key);
    memcpy(expected, tag, CIPHER_TAG_SIZE);
    int done = EVP_DecryptInit_ex2(context, NULL, NULL, nonce, NULL);
    done &= EVP_DecryptUpdate(context, NULL, &size, additional.data, (int)additional.size);
    done &= EVP_DecryptUpdate(context, opened, &size, sealed.data, (int)sealed.size);
    done &= EVP_CIPHER_CTX_ctrl(context, EVP_CTRL_AEAD_SET_TAG, CIPHER_TAG_SIZE, expected);
    ASSERT(done == 1);
    return EVP_DecryptFinal_ex(context, expected, &size) == 1 ? 0 : E_CORRUPT;
}

/* ---- keys of keys ---- */

static EVP_CIPHER_CTX *wrapping(void)
{
    EVP_CIPHER_CTX *context = EVP_CIPHER_CTX_new();

    ASSERT(context);
    EVP_CIPHER_CTX_set_flags(context, EVP_CIPHER_CTX_FLAG_WRAP_ALLOW);
    return context;
}

void cipher_wrap(const uint8_t master[CIPHER_KEY_SIZE], const uint8_t key[CIPHER_KEY_SIZE],
                 uint8_t wrapped[CIPHER_WRAPPED_SIZE])
{
    EVP_CIPHER_CTX *context = wrapping();
    int size = 0;

    int done = EVP_EncryptInit_ex2(context, EVP_aes_256_wrap(), master, NULL, NULL);
    done &= EVP_EncryptUpdate(context, wrapped, &size, key, CIPHER_KEY_SIZE);
    ASSERT(done == 1 && size == CIPHER_WRAPPED_SIZE);
    EVP_CIPHER_CTX_free(context);
}

int cipher_unwrap(const uint8_t master[CIPHER_KEY_SIZE], const uint8_t wrapped[CIPHER_WRAPPED_SIZE],
                  uint8_t key[CIPHER_KEY_SIZE])
{
    EVP_CIPHER_CTX *context = wrapping();
    uint8_t unwrapped[CIPHER_WRAPPED_SIZE];
    int size = 0;

    int done = EVP_DecryptInit_ex2(context, EVP_aes_256_wrap(), master, NULL, NULL);
    ASSERT(done == 1);
    done = EVP_DecryptUpdate(context, unwrapped, &size, wrapped, CIPHER_WRAPPED_SIZE);
    bool fits = done == 1 && size == CIPHER_KEY_SIZE;
    if (fits)
        memcpy(key, unwrapped, CIPHER_KEY_SIZE);
    cipher_wipe(unwrapped, sizeof unwrapped);
    EVP_CIPHER_CTX_free(context);
    return fits ? 0 : E_KEY;
}

void cipher_derive(const uint8_t key[CIPHER_KEY_SIZE], struct slice salt,
                   uint8_t derived[CIPHER_KEY_SIZE])
{
    unsigned size = 0;
    const uint8_t *done =
        HMAC(EVP_sha256(), key, CIPHER_KEY_SIZE, salt.data, salt.size, derived, &size);

    ASSERT(done && size == CIPHER_KEY_SIZE);
}

void cipher_wipe(void *memory, size_t size)
{
    OPENSSL_cleanse(memory, size);
}
