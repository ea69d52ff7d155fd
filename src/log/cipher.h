/*
 * AES-256-GCM, and keys that are wrapped in other keys: bytes in, bytes out, over OpenSSL, which
 * uses what the processor has for it. One thread's.
 *
 * A cipher is used for one chunk after the other, under any keys: it remembers the last one's
 * schedule and allocates nothing. What may be sealed under which key and nonce is not decided here:
 * docs/log-format.md, "Encryption".
 */
#ifndef SLUICE_LOG_CIPHER_H
#define SLUICE_LOG_CIPHER_H

#include "base/bytes.h"

#define CIPHER_KEY_SIZE     32u
#define CIPHER_NONCE_SIZE   12u
#define CIPHER_TAG_SIZE     16u
#define CIPHER_WRAPPED_SIZE 40u

/* For tests: is told of everything that is sealed. The same bytes under the same key and nonce have
 * the same tag, so another tag means that a nonce was used twice. */
struct cipher_witness {
    void (*sealed)(void *context, const uint8_t key[CIPHER_KEY_SIZE],
                   const uint8_t nonce[CIPHER_NONCE_SIZE], const uint8_t tag[CIPHER_TAG_SIZE]);
    void *context;
};

struct cipher;

/* The witness is borrowed; NULL: none. Freeing wipes what it remembers of keys. */
struct cipher *cipher_new(const struct cipher_witness *witness);
void cipher_free(struct cipher *cipher); /* or NULL */

/* Sealing in pieces: begin, add each piece, end. What is added takes as much room sealed; `sealed`
 * is not the piece itself. */
void cipher_seal_begin(struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE],
                       const uint8_t nonce[CIPHER_NONCE_SIZE], struct slice additional);
void cipher_seal_add(struct cipher *cipher, struct slice piece, uint8_t *sealed);
void cipher_seal_end(struct cipher *cipher, uint8_t tag[CIPHER_TAG_SIZE]);

/* Into `opened`, which has room for as much. E_CORRUPT: not what was sealed under this key, nonce
 * and additional data; then `opened` is worth nothing. */
int cipher_open(struct cipher *cipher, const uint8_t key[CIPHER_KEY_SIZE],
                const uint8_t nonce[CIPHER_NONCE_SIZE], struct slice additional,
                struct slice sealed, const uint8_t tag[CIPHER_TAG_SIZE],
                uint8_t *opened) MUST_CHECK;

/* AES-256 key wrap (RFC 3394). Unwrapping with another key than it was wrapped with: E_KEY. */
void cipher_wrap(const uint8_t master[CIPHER_KEY_SIZE], const uint8_t key[CIPHER_KEY_SIZE],
                 uint8_t wrapped[CIPHER_WRAPPED_SIZE]);
int cipher_unwrap(const uint8_t master[CIPHER_KEY_SIZE], const uint8_t wrapped[CIPHER_WRAPPED_SIZE],
                  uint8_t key[CIPHER_KEY_SIZE]) MUST_CHECK;

/* Another key that follows from this one and the salt, and tells nothing of it: HMAC-SHA256. */
void cipher_derive(const uint8_t key[CIPHER_KEY_SIZE], struct slice salt,
                   uint8_t derived[CIPHER_KEY_SIZE]);

/* Overwrites memory that had a key in it, so that no compiler leaves that out. */
void cipher_wipe(void *memory, size_t size);

#endif
