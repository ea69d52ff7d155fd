/* The text of a key file: any bytes; what is read is what is written down again. */
#include "base/assert.h"
#include "log/keyring.h"

#include <stdio.h>

/* A key a line, as a person would write it. */
static size_t write_down(const struct keyring *keyring, char text[KEYRING_TEXT_MAX])
{
    size_t size = 0;

    for (unsigned i = 0; i < keyring->count; i++) {
        size += (size_t)snprintf(text + size, KEYRING_TEXT_MAX - size, "%u ", keyring->keys[i].id);
        for (size_t k = 0; k < CIPHER_KEY_SIZE; k++)
            size += (size_t)snprintf(text + size, KEYRING_TEXT_MAX - size, "%02X",
                                     keyring->keys[i].bytes[k]);
        text[size++] = '\n';
    }
    return size;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct keyring keyring, again;
    struct failure failure;
    char list[KEYRING_LIST_MAX], text[KEYRING_TEXT_MAX];

    if (keyring_parse(&keyring, slice_of(data, size), &failure) < 0) {
        ASSERT(failure.code == E_INVALID && keyring.count == 0);
        return 0;
    }
    ASSERT(keyring.count > 0 && keyring.count <= KEYRING_MAX);
    ASSERT(strlen(keyring_list(&keyring, list)) < sizeof list);
    for (unsigned i = 0; i < keyring.count; i++)
        ASSERT(keyring.keys[i].id > 0 &&
               keyring_find(&keyring, keyring.keys[i].id) == &keyring.keys[i]);
    size_t written = write_down(&keyring, text);
    ASSERT(keyring_parse(&again, slice_of(text, written), &failure) == 0);
    ASSERT(memcmp(&keyring, &again, sizeof keyring) == 0);
    return 0;
}
