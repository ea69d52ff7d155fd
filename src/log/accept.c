/* Damage that an operator accepts: the metadata of a log that is not open, without its mark. */
#include "log/log_private.h"

#include <stdlib.h>

struct accept {
    void (*done)(void *context, int result, const struct failure *failure);
    void *context;
    struct store *store;
    struct store_request request;
    struct buffer *found;
    struct iovec slice;
};

static void end(struct accept *a, int result, const struct failure *failure)
{
    struct failure why = *failure;
    void (*done)(void *context, int result, const struct failure *failure) = a->done;
    void *context = a->context;

    buffer_unref(a->found);
    free(a->slice.iov_base);
    free(a);
    done(context, result, result < 0 ? &why : NULL);
}

static void written(struct store_request *request)
{
    end(CONTAINER_OF(request, struct accept, request), request->result, &request->failure);
}

/* The same with another flag. */
static void encode_again(struct accept *a, struct metadata *metadata)
{
    struct metadata_segment *segments =
        memory_new((metadata->segments_count + 1) * sizeof *segments);

    for (size_t i = 0; i < metadata->segments_count; i++)
        metadata_segment_decode(metadata, i, &segments[i]);
    metadata->damaged = false;
    a->slice.iov_len = metadata_size(segments, metadata->segments_count);
    a->slice.iov_base = memory_new(a->slice.iov_len);
    metadata_encode(metadata, segments, a->slice.iov_base, a->slice.iov_len);
    free(segments);
}

static void metadata_read(struct store_request *request)
{
    struct accept *a = CONTAINER_OF(request, struct accept, request);
    struct metadata metadata;
    struct failure failure;

    if (request->result < 0) {
        end(a, request->result, &request->failure);
        return;
    }
    a->found = request->into;
    int result = metadata_decode(slice_of(a->found->data, a->found->size), &metadata, &failure);
    if (result == 0 && !metadata.damaged)
        result = fail(&failure, E_NOT_FOUND, "no damage is known");
    if (result < 0) {
        end(a, result, &failure);
        return;
    }
    encode_again(a, &metadata);
    a->request = (struct store_request){.operation = STORE_META_WRITE,
                                        .slices = &a->slice,
                                        .slices_count = 1,
                                        .version = request->version,
                                        .done = written};
    store_submit(a->store, &a->request);
}

void log_accept_damage(struct store *store,
                       void (*done)(void *context, int result, const struct failure *failure),
                       void *context)
{
    struct accept *a = memory_new(sizeof *a);

    a->done = done;
    a->context = context;
    a->store = store;
    a->request = (struct store_request){.operation = STORE_META_READ, .done = metadata_read};
    store_submit(store, &a->request);
}
