#include "net/output.h"

#include "base/assert.h"

#include <setjmp.h>
#include <stdarg.h>
#include <cmocka.h>

#include <stdlib.h>

/* The same numbers on each run. */
static uint64_t chance(uint64_t *seed)
{
    *seed = *seed * 6364136223846793005u + 1442695040888963407u;
    return *seed >> 33;
}

/* Takes `size` bytes out and checks that they continue the pattern of byte number mod 251. */
static void drain(struct output *output, size_t size, uint64_t *drained)
{
    while (size > 0) {
        struct iovec slices[3];
        int count = output_slices(output, slices, 3);
        size_t taken = 0;
        assert_true(count > 0);
        for (int i = 0; i < count && taken < size; i++) {
            const uint8_t *bytes = slices[i].iov_base;
            size_t part = slices[i].iov_len < size - taken ? slices[i].iov_len : size - taken;
            for (size_t j = 0; j < part; j++)
                assert_int_equal(bytes[j], (*drained + j) % 251);
            *drained += part;
            taken += part;
        }
        output_consume(output, taken);
        output_check(output);
        size -= taken;
    }
}

static void fill(uint8_t *bytes, size_t size, uint64_t from)
{
    for (size_t i = 0; i < size; i++)
        bytes[i] = (uint8_t)((from + i) % 251);
}

static size_t released;

static void release(void *object)
{
    free(object);
    released++;
}

static void any_mix_comes_out_in_order(void **state)
{
    struct output output;
    struct output_cache cache = {.count = 0};
    uint8_t *bytes = malloc(60000);
    uint64_t drained = 0;
    size_t borrowed = 0;

    released = 0;
    uint64_t seed = 1;
    output_init(&output);
    output.cache = *state ? &cache : NULL;
    for (int i = 0; i < 20000; i++) {
        size_t size = (size_t)chance(&seed) % (chance(&seed) % 50 == 0 ? 50000 : 300);
        switch (chance(&seed) % 4) {
        case 0:
            fill(bytes, size, output.total);
            output_append(&output, slice_of(bytes, size));
            break;
        case 1: {
            size %= OUTPUT_CHUNK_SIZE - 6;
            uint64_t from = output.total;
            fill(output_take(&output, size + 7), size, from);
            output_untake(&output, 7);
            break;
        }
        case 2: {
            uint8_t *own = malloc(size + 1);
            fill(own, size, output.total);
            output_borrow(&output, slice_of(own, size), (struct output_owner){release, own});
            borrowed++;
            break;
        }
        default:
            drain(&output,
                  output_pending(&output) ? (size_t)chance(&seed) % output_pending(&output) : 0,
                  &drained);
            if (chance(&seed) % 8 == 0)
                drain(&output, output_pending(&output), &drained);
        }
        output_check(&output);
        assert_int_equal(output.total - drained, output_pending(&output));
    }
    drain(&output, output_pending(&output), &drained);
    assert_int_equal(released, borrowed);
    assert_int_equal(output_slices(&output, (struct iovec[1]){{NULL, 0}}, 1), 0);
    assert_true(!output.cache || (!output.first && cache.count > 0 && cache.count <= 64));
    output_fini(&output);
    output_cache_fini(&cache);
    free(bytes);
}

static void a_steady_flow_keeps_its_chunk(void **state)
{
    struct output output;
    struct output_cache cache = {.count = 0};

    output_init(&output);
    output.cache = *state ? &cache : NULL;
    output_take(&output, 100);
    struct output_chunk *chunk = output.first;
    for (int i = 0; i < 1000; i++) {
        output_consume(&output, output_pending(&output));
        output_take(&output, 5000);
        assert_ptr_equal(output.first, chunk);
        assert_ptr_equal(output.last, chunk);
    }
    output_consume(&output, 5000);
    assert_int_equal(cache.count, *state ? 1 : 0);
    output_fini(&output);
    output_cache_fini(&cache);
}

static void what_is_borrowed_is_released_at_the_end(void **state)
{
    struct output output;

    (void)state;
    released = 0;
    output_init(&output);
    for (int i = 0; i < 3; i++)
        output_borrow(&output, slice_text("abc"), (struct output_owner){release, malloc(1)});
    output_borrow(&output, slice_of(NULL, 0), (struct output_owner){release, malloc(1)});
    assert_int_equal(released, 1); /* nothing to write */
    output_consume(&output, 4);
    assert_int_equal(released, 2);
    output_fini(&output);
    assert_int_equal(released, 4);
}

int main(void)
{
    bool with_cache = true;
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(any_mix_comes_out_in_order),
        cmocka_unit_test_prestate(any_mix_comes_out_in_order, &with_cache),
        cmocka_unit_test(a_steady_flow_keeps_its_chunk),
        cmocka_unit_test_prestate(a_steady_flow_keeps_its_chunk, &with_cache),
        cmocka_unit_test(what_is_borrowed_is_released_at_the_end),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
