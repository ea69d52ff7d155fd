/*
 * Topic routing with arbitrary patterns and keys. The input is a list of strings, each ended by a
 * 0: patterns up to an empty string, then keys. After each key the table is compared with a matcher
 * that looks at one pattern at a time.
 */
#include "base/assert.h"
#include "route/route.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define PATTERNS_MAX 32
#define KEYS_MAX     32

static bool next_text(struct slice *input, struct slice *text)
{
    if (input->size == 0)
        return false;
    const uint8_t *end = memchr(input->data, 0, input->size);
    size_t size = end ? (size_t)(end - input->data) : input->size;
    *text = slice_of(input->data, size < ROUTE_KEY_MAX ? size : ROUTE_KEY_MAX);
    *input = slice_of(input->data + size + (end != NULL), input->size - size - (end != NULL));
    return true;
}

static size_t split(struct slice text, struct slice words[ROUTE_KEY_MAX + 1])
{
    size_t count = 0, start = 0;

    if (text.size == 0)
        return 0;
    for (size_t i = 0; i <= text.size; i++) {
        if (i == text.size || text.data[i] == '.') {
            words[count++] = slice_of(text.data + start, i - start);
            start = i + 1;
        }
    }
    return count;
}

/* reach[i]: the pattern so far can stand for the first i words of the key */
static bool simple_match(struct slice pattern, struct slice key)
{
    struct slice pattern_words[ROUTE_KEY_MAX + 1], words[ROUTE_KEY_MAX + 1];
    size_t pattern_count = split(pattern, pattern_words), count = split(key, words);
    bool reach[ROUTE_KEY_MAX + 2] = {true};

    for (size_t p = 0; p < pattern_count; p++) {
        bool is_hash = slice_is(pattern_words[p], "#"), is_star = slice_is(pattern_words[p], "*");
        bool before = reach[0];
        reach[0] = is_hash && before;
        for (size_t i = 1; i <= count; i++) {
            bool here = reach[i];
            if (is_hash)
                reach[i] = here || reach[i - 1];
            else
                reach[i] = before && (is_star || slice_equal(words[i - 1], pattern_words[p]));
            before = here;
        }
    }
    return reach[count];
}

static void match(struct route_table *table, struct route_exchange *exchange, struct slice key,
                  struct slice *patterns, size_t count)
{
    struct route_result result;
    size_t expected = 0;

    route_result_init(&result);
    route_match(table, exchange, key, slice_of(NULL, 0), &result);
    for (size_t i = 0; i < count; i++) {
        bool found = false;
        for (size_t r = 0; r < result.count; r++)
            found |= result.queues[r] == &patterns[i];
        ASSERT(found == simple_match(patterns[i], key));
        expected += found;
    }
    ASSERT(expected == result.count);
    route_result_fini(&result);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice input = slice_of(data, size), patterns[PATTERNS_MAX], text;
    struct route_table *table = route_table_new(1);
    struct route_exchange *exchange = route_exchange_add(table, 1, EXCHANGE_TOPIC);
    size_t count = 0, keys = 0;

    while (count < PATTERNS_MAX && next_text(&input, &text) && text.size > 0) {
        patterns[count] = text;
        struct route_target target = {.id = 2 + count, .queue = &patterns[count]};
        ASSERT(route_bind(exchange, target, text, slice_of(NULL, 0)));
        count++;
    }
    while (keys++ < KEYS_MAX && next_text(&input, &text))
        match(table, exchange, text, patterns, count);
    route_table_check(table);
    for (size_t i = 0; i < count; i += 2)
        route_remove_target(table, 2 + i, NULL, NULL);
    route_table_check(table);
    route_table_free(table);
    return 0;
}
