/* Attribute tables out of arbitrary bytes: checked, walked, searched, compared, described, rebuilt.
 */
#include "base/assert.h"
#include "message/fields.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

/* What fields_check() accepted can be walked to its end, and put together again byte by byte. */
static void walk_checked(struct slice table)
{
    struct reader reader = reader_of(table);
    struct field field;
    uint8_t *memory = malloc(table.size + 1);
    struct writer writer = writer_of(memory, table.size);
    struct slice differs;

    while (fields_next(&reader, &field))
        fields_put(&writer, &field);
    ASSERT(!reader.failed && reader_left(&reader) == 0);
    ASSERT(!writer.failed && writer_size(&writer) == table.size);
    ASSERT(fields_equal(table, slice_of(memory, table.size), &differs));
    ASSERT(fields_hash(table, 1) == fields_hash(slice_of(memory, table.size), 1));
    free(memory);
}

/* Anything may be given to these without harm. */
static void look_at_unchecked(struct slice table)
{
    struct reader reader = reader_of(table);
    struct field field, found;
    struct slice differs, text;
    char description[64];
    bool boolean;
    int64_t integer;

    while (fields_next(&reader, &field)) {
        ASSERT(fields_find(table, field.name, &found));
        ASSERT(strlen(field_describe(&field, description, sizeof description)) <
               sizeof description);
    }
    reader = reader_of(table);
    while (fields_next_value(&reader, &field))
        ASSERT(field_equal(&field, &field));
    (void)fields_text(table, "a", &text);
    (void)fields_boolean(table, "a", &boolean);
    (void)fields_integer(table, "a", &integer);
    size_t half = table.size / 2;
    struct slice left = slice_of(table.data, half);
    struct slice right = slice_of(table.data + half, table.size - half);
    bool equal = fields_equal(left, right, &differs);
    ASSERT(equal == fields_equal(right, left, &differs));
    ASSERT(!equal || fields_hash(left, 1) == fields_hash(right, 1));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct slice table = slice_of(data, size);
    struct failure failure;

    if (size > 8192)
        return 0;
    if (fields_check(table, &failure) == 0)
        walk_checked(table);
    else
        ASSERT(failure.text[0]);
    look_at_unchecked(table);
    return 0;
}
