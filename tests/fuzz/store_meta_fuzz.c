/* The local store's `meta` file: any bytes, and the same with a checksum that fits. A store that
 * opens has a value as long as the file says. */
#include "base/assert.h"
#include "base/checksum.h"
#include "loop/simulated.h"
#include "store/local/local.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#define HEAD_SIZE 24u

struct paths {
    char directory[64], meta[80], lock[80];
};

static void open_with(const struct paths *paths, const uint8_t *bytes, size_t size, bool fits)
{
    struct loop *loop = loop_new_simulated(1);
    struct store *store;
    struct failure failure = {0};
    int file = open(paths->meta, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

    ASSERT(file >= 0 && write(file, bytes, size) == (ssize_t)size);
    close(file);
    int result = store_local_open(loop, paths->directory, &store, &failure);
    if (result == 0) {
        ASSERT(size >= HEAD_SIZE && load_le32(bytes + 16) <= size - HEAD_SIZE);
        store_free(store);
    } else {
        ASSERT((result == E_CORRUPT || result == E_VERSION || result == E_MEMORY) &&
               failure.code == result && failure.text[0]);
        ASSERT(!fits);
    }
    loop_free(loop);
}

/* True when it must be taken now. */
static bool mend(uint8_t *bytes, size_t size)
{
    if (size < HEAD_SIZE)
        return false;
    uint32_t value = load_le32(bytes + 16);
    memcpy(bytes, "SLUICEM1", 8);
    if (value > size - HEAD_SIZE) {
        value = (uint32_t)(size - HEAD_SIZE);
        store_le32(bytes + 16, value);
    }
    uint32_t checksum = checksum_of(slice_of(bytes + 8, 12));
    store_le32(bytes + 20, checksum_add(checksum, slice_of(bytes + HEAD_SIZE, value)));
    return load_le64(bytes + 8) > 0;
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct paths paths = {.directory = "/tmp/sluice-meta-fuzz-XXXXXX"};
    uint8_t *bytes = malloc(size ? size : 1);

    if (!mkdtemp(paths.directory) || !bytes)
        abort();
    snprintf(paths.meta, sizeof paths.meta, "%s/meta", paths.directory);
    snprintf(paths.lock, sizeof paths.lock, "%s/lock", paths.directory);
    if (size > 0)
        memcpy(bytes, data, size);
    open_with(&paths, bytes, size, false);
    bool fits = mend(bytes, size);
    open_with(&paths, bytes, size, fits);
    unlink(paths.meta);
    unlink(paths.lock);
    rmdir(paths.directory);
    free(bytes);
    return 0;
}
