#include "store/store.h"

#include "base/assert.h"

void store_submit(struct store *store, struct store_request *request)
{
    ASSERT(request->done);
    request->result = 0;
    request->failure.code = 0;
    request->failure.text[0] = 0;
    list_init(&request->link);
    store->functions->submit(store, request);
}

const struct store_capabilities *store_capabilities(const struct store *store)
{
    return &store->capabilities;
}

uint64_t store_bytes_free(struct store *store)
{
    return store->functions->bytes_free(store);
}

void store_free(struct store *store)
{
    store->functions->free(store);
}

bool store_name_is_valid(const char *name)
{
    static const char allowed[] =
        "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789-.";

    if (!name || name[0] == 0 || name[0] == '.')
        return false;
    size_t size = strspn(name, allowed);
    return size <= STORE_NAME_MAX && name[size] == 0;
}

uint64_t store_slices_size(const struct store_request *request)
{
    uint64_t size = 0;

    for (int i = 0; i < request->slices_count; i++)
        size += request->slices[i].iov_len;
    return size;
}
