#include "auth/remembered.h"

#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/hmac.h>

void remembered_init(struct remembered *remembered, struct loop *loop)
{
    memset(remembered, 0, sizeof *remembered);
    loop_random_bytes(loop, remembered->key, sizeof remembered->key);
}

void remembered_fini(struct remembered *remembered)
{
    OPENSSL_cleanse(remembered, sizeof *remembered);
}

/* HMAC of one piece under a key, as the key of the next: no piece can run into its neighbour. */
static bool chain(uint8_t digest[REMEMBERED_DIGEST_SIZE], const uint8_t key[REMEMBERED_DIGEST_SIZE],
                  struct slice piece)
{
    static const uint8_t nothing[1];
    uint8_t result[REMEMBERED_DIGEST_SIZE];
    unsigned size = sizeof result;

    if (!HMAC(EVP_sha256(), key, REMEMBERED_DIGEST_SIZE, piece.size ? piece.data : nothing,
              piece.size, result, &size))
        return false;
    memcpy(digest, result, sizeof result);
    return true;
}

bool remembered_digest(const struct remembered *remembered, struct slice user, struct slice hash,
                       struct slice password, uint8_t digest[REMEMBERED_DIGEST_SIZE])
{
    return chain(digest, remembered->key, user) && chain(digest, digest, hash) &&
           chain(digest, digest, password);
}

static size_t place(const uint8_t digest[REMEMBERED_DIGEST_SIZE])
{
    return load_le32(digest) & (REMEMBERED_MAX - 1);
}

bool remembered_has(const struct remembered *remembered,
                    const uint8_t digest[REMEMBERED_DIGEST_SIZE], uint64_t now_ns)
{
    const struct remembered_login *login = &remembered->logins[place(digest)];

    return login->until_ns > now_ns &&
           CRYPTO_memcmp(login->digest, digest, sizeof login->digest) == 0;
}

void remembered_add(struct remembered *remembered, const uint8_t digest[REMEMBERED_DIGEST_SIZE],
                    uint64_t now_ns)
{
    struct remembered_login *login = &remembered->logins[place(digest)];

    memcpy(login->digest, digest, sizeof login->digest);
    login->until_ns = now_ns + REMEMBERED_NS;
}
