#include "message/fields.h"

#include "base/assert.h"
#include "base/memory.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

/* ---- reading ---- */

static int64_t sign_extend(uint64_t value, unsigned bits)
{
    return (int64_t)(value << (64 - bits)) >> (64 - bits);
}

static double real_of_single(uint32_t bits)
{
    float value;
    memcpy(&value, &bits, sizeof value);
    return (double)value;
}

static double real_of_double(uint64_t bits)
{
    double value;
    memcpy(&value, &bits, sizeof value);
    return value;
}

static void read_value(struct reader *reader, struct field *field)
{
    switch (field->type) {
    case 't':
        field->value.boolean = read_u8(reader) != 0;
        break;
    case 'b':
        field->value.integer = sign_extend(read_u8(reader), 8);
        break;
    case 'B':
        field->value.integer = read_u8(reader);
        break;
    case 's':
        field->value.integer = sign_extend(read_be16(reader), 16);
        break;
    case 'u':
        field->value.integer = read_be16(reader);
        break;
    case 'I':
        field->value.integer = sign_extend(read_be32(reader), 32);
        break;
    case 'i':
        field->value.integer = read_be32(reader);
        break;
    case 'l':
    case 'L':
    case 'T':
        field->value.integer = (int64_t)read_be64(reader);
        break;
    case 'f':
        field->value.real = real_of_single(read_be32(reader));
        break;
    case 'd':
        field->value.real = real_of_double(read_be64(reader));
        break;
    case 'D':
        field->value.decimal.scale = read_u8(reader);
        field->value.decimal.value = (int32_t)read_be32(reader);
        break;
    case 'S':
    case 'x':
    case 'A':
    case 'F':
        field->value.bytes = read_bytes(reader, read_be32(reader));
        break;
    case 'V':
        break;
    default:
        reader->failed = true;
    }
}

static bool next(struct reader *reader, struct field *field, bool named)
{
    if (reader->failed || reader_left(reader) == 0)
        return false;
    field->name = named ? read_bytes(reader, read_u8(reader)) : slice_of(NULL, 0);
    field->type = read_u8(reader);
    field->value.integer = 0;
    if (!reader->failed)
        read_value(reader, field);
    return !reader->failed;
}

bool fields_next(struct reader *reader, struct field *field)
{
    return next(reader, field, true);
}

bool fields_next_value(struct reader *reader, struct field *field)
{
    return next(reader, field, false);
}

/* ---- checking ---- */

static int broken(struct slice table, const struct reader *reader, const struct field *field,
                  struct failure *failure)
{
    size_t offset = (size_t)(reader->at - table.data);

    if (field->type && !strchr("tbBsuIilLfdDSxAFTV", field->type))
        return fail(failure, E_INVALID, "table: unknown field type 0x%02x before byte %zu",
                    field->type, offset);
    return fail(failure, E_INVALID, "table: a field at byte %zu is longer than its table", offset);
}

/* Tables and arrays inside are walked through with a stack of where the outer ones go on. */
int fields_check(struct slice table, struct failure *failure)
{
    struct {
        const uint8_t *end;
        bool named;
    } outer[FIELDS_DEPTH_MAX];
    size_t depth = 0;
    bool named = true;
    struct reader reader = reader_of(table);

    for (;;) {
        struct field field = {.type = 0};
        if (next(&reader, &field, named)) {
            if (field.type != 'A' && field.type != 'F')
                continue;
            if (depth == FIELDS_DEPTH_MAX)
                return fail(failure, E_INVALID, "table: nested deeper than %d", FIELDS_DEPTH_MAX);
            outer[depth].end = reader.end;
            outer[depth].named = named;
            depth++;
            reader = reader_of(field.value.bytes);
            named = field.type == 'F';
        } else if (reader.failed) {
            return broken(table, &reader, &field, failure);
        } else if (depth == 0) {
            return 0;
        } else {
            depth--;
            reader.end = outer[depth].end;
            named = outer[depth].named;
        }
    }
}

/* ---- finding ---- */

bool fields_find(struct slice table, struct slice name, struct field *field)
{
    struct reader reader = reader_of(table);
    struct field each;
    bool found = false;

    while (fields_next(&reader, &each)) {
        if (slice_equal(each.name, name)) {
            *field = each;
            found = true;
        }
    }
    return found;
}

static bool is_integer(uint8_t type)
{
    switch (type) {
    case 'b':
    case 'B':
    case 's':
    case 'u':
    case 'I':
    case 'i':
    case 'l':
    case 'L':
        return true;
    default:
        return false;
    }
}

bool field_is_integer(const struct field *field)
{
    return is_integer(field->type);
}

bool fields_text(struct slice table, const char *name, struct slice *text)
{
    struct field field;

    if (!fields_find(table, slice_text(name), &field) || field.type != 'S')
        return false;
    *text = field.value.bytes;
    return true;
}

bool fields_integer(struct slice table, const char *name, int64_t *value)
{
    struct field field;

    if (!fields_find(table, slice_text(name), &field) || !is_integer(field.type))
        return false;
    *value = field.value.integer;
    return true;
}

bool fields_boolean(struct slice table, const char *name, bool *value)
{
    struct field field;

    if (!fields_find(table, slice_text(name), &field) || field.type != 't')
        return false;
    *value = field.value.boolean;
    return true;
}

/* ---- comparing ---- */

static bool is_real(uint8_t type)
{
    return type == 'f' || type == 'd';
}

/* So that a number that is none (NaN) equals itself. */
static uint64_t bits_of(const struct field *field)
{
    uint64_t bits;
    memcpy(&bits, &field->value.real, sizeof bits);
    return bits;
}

bool field_equal(const struct field *a, const struct field *b)
{
    if (is_integer(a->type) && is_integer(b->type))
        return a->value.integer == b->value.integer;
    if (is_real(a->type) && is_real(b->type))
        return a->value.real == b->value.real || bits_of(a) == bits_of(b);
    if (a->type != b->type)
        return false;
    switch (a->type) {
    case 't':
        return a->value.boolean == b->value.boolean;
    case 'T':
        return a->value.integer == b->value.integer;
    case 'D':
        return a->value.decimal.scale == b->value.decimal.scale &&
               a->value.decimal.value == b->value.decimal.value;
    case 'S':
    case 'x':
    case 'A':
    case 'F':
        return slice_equal(a->value.bytes, b->value.bytes);
    default:
        return true; /* void */
    }
}

#define FIELDS_ON_STACK 32

static int name_compare(struct slice a, struct slice b)
{
    size_t size = a.size < b.size ? a.size : b.size;
    int order = size ? memcmp(a.data, b.data, size) : 0;
    return order ? order : (a.size > b.size) - (a.size < b.size);
}

/* By name, of equal names the later field first: the names' addresses tell. */
static int field_compare(const void *left, const void *right)
{
    const struct field *a = left, *b = right;
    int order = name_compare(a->name, b->name);
    return order ? order : (a->name.data < b->name.data) - (a->name.data > b->name.data);
}

static size_t count_fields(struct slice table)
{
    struct reader reader = reader_of(table);
    struct field field;
    size_t count = 0;

    while (fields_next(&reader, &field))
        count++;
    return count;
}

/* The fields in the order of names, each name once. */
static size_t sort_fields(struct slice table, struct field *fields)
{
    struct reader reader = reader_of(table);
    size_t count = 0, kept = 0;

    while (fields_next(&reader, &fields[count]))
        count++;
    qsort(fields, count, sizeof *fields, field_compare);
    for (size_t i = 0; i < count; i++)
        if (i == 0 || !slice_equal(fields[i].name, fields[kept - 1].name))
            fields[kept++] = fields[i];
    return kept;
}

static bool sorted_equal(const struct field *a, size_t a_count, const struct field *b,
                         size_t b_count, struct slice *name)
{
    for (size_t i = 0; i < a_count || i < b_count; i++) {
        int order = i == a_count ? 1 : i == b_count ? -1 : name_compare(a[i].name, b[i].name);
        if (order == 0 && field_equal(&a[i], &b[i]))
            continue;
        *name = order > 0 ? b[i].name : a[i].name;
        return false;
    }
    return true;
}

bool fields_equal(struct slice a, struct slice b, struct slice *name)
{
    struct field a_stack[FIELDS_ON_STACK], b_stack[FIELDS_ON_STACK];

    if (slice_equal(a, b))
        return true;
    /* one more than there are: fields_next() may touch the place where it finds the end */
    size_t a_room = count_fields(a) + 1, b_room = count_fields(b) + 1;
    struct field *a_fields =
        a_room <= FIELDS_ON_STACK ? a_stack : memory_resize(NULL, a_room, sizeof *a_fields);
    struct field *b_fields =
        b_room <= FIELDS_ON_STACK ? b_stack : memory_resize(NULL, b_room, sizeof *b_fields);
    size_t a_count = sort_fields(a, a_fields), b_count = sort_fields(b, b_fields);

    bool equal = sorted_equal(a_fields, a_count, b_fields, b_count, name);
    if (a_fields != a_stack)
        free(a_fields);
    if (b_fields != b_stack)
        free(b_fields);
    return equal;
}

/* What field_equal() compares: the class of the type, and the value. */
static uint64_t hash_field(uint64_t hash, const struct field *field)
{
    uint8_t class = is_integer(field->type) ? 'l' : is_real(field->type) ? 'd' : field->type;
    double real;

    hash = XXH3_64bits_withSeed(field->name.data, field->name.size, hash);
    hash = XXH3_64bits_withSeed(&class, 1, hash);
    switch (class) {
    case 't':
        return XXH3_64bits_withSeed(&field->value.boolean, sizeof(bool), hash);
    case 'l':
    case 'T':
        return XXH3_64bits_withSeed(&field->value.integer, sizeof(int64_t), hash);
    case 'd':
        real = field->value.real == 0 ? 0 : field->value.real; /* -0 equals 0 */
        return XXH3_64bits_withSeed(&real, sizeof real, hash);
    case 'D': /* hardly anybody sends them: comparing is left to tell them apart */
    case 'V':
        return hash;
    default:
        return XXH3_64bits_withSeed(field->value.bytes.data, field->value.bytes.size, hash);
    }
}

uint64_t fields_hash(struct slice table, uint64_t seed)
{
    struct field stack[FIELDS_ON_STACK];
    uint64_t hash = seed;

    if (table.size == 0)
        return hash;
    size_t room = count_fields(table) + 1;
    struct field *fields =
        room <= FIELDS_ON_STACK ? stack : memory_resize(NULL, room, sizeof *fields);
    size_t count = sort_fields(table, fields);
    for (size_t i = 0; i < count; i++)
        hash = hash_field(hash, &fields[i]);
    if (fields != stack)
        free(fields);
    return hash;
}

/* ---- telling ---- */

const char *field_type_name(const struct field *field)
{
    switch (field->type) {
    case 't':
        return "bool";
    case 'b':
        return "byte";
    case 'B':
        return "unsignedbyte";
    case 's':
        return "short";
    case 'u':
        return "unsignedshort";
    case 'I':
        return "signedint";
    case 'i':
        return "unsignedint";
    case 'l':
    case 'L':
        return "long";
    case 'f':
        return "float";
    case 'd':
        return "double";
    case 'D':
        return "decimal";
    case 'S':
        return "longstr";
    case 'x':
        return "binary";
    case 'A':
        return "array";
    case 'T':
        return "timestamp";
    case 'F':
        return "table";
    default:
        return "void";
    }
}

const char *field_value_text(const struct field *field, char *text, size_t size)
{
    ASSERT(size > 0);
    switch (field->type) {
    case 't':
        snprintf(text, size, "%s", field->value.boolean ? "true" : "false");
        break;
    case 'f':
    case 'd':
        snprintf(text, size, "%g", field->value.real);
        break;
    case 'D':
        snprintf(text, size, "%" PRId32 "e-%u", field->value.decimal.value,
                 field->value.decimal.scale);
        break;
    case 'S':
    case 'x':
        snprintf(text, size, "%.*s",
                 (int)(field->value.bytes.size < size ? field->value.bytes.size : size),
                 field->value.bytes.size ? (const char *)field->value.bytes.data : "");
        break;
    case 'A':
    case 'F':
        snprintf(text, size, "%zu bytes", field->value.bytes.size);
        break;
    case 'V':
        snprintf(text, size, "undefined");
        break;
    default:
        snprintf(text, size, "%" PRId64, field->value.integer);
    }
    return text;
}

const char *field_describe(const struct field *field, char *text, size_t size)
{
    char value[128];

    field_value_text(field, value, sizeof value);
    snprintf(text, size, "the value '%s' of type '%s'", value, field_type_name(field));
    return text;
}

/* ---- building ---- */

static void put_name(struct writer *w, struct slice name, uint8_t type)
{
    ASSERT(name.size <= FIELD_NAME_MAX);
    write_u8(w, (uint8_t)name.size);
    write_bytes(w, name);
    write_u8(w, type);
}

static void put_value(struct writer *w, const struct field *field)
{
    float single;
    uint32_t bits32;
    uint64_t bits64;

    switch (field->type) {
    case 't':
        write_u8(w, field->value.boolean);
        break;
    case 'b':
    case 'B':
        write_u8(w, (uint8_t)field->value.integer);
        break;
    case 's':
    case 'u':
        write_be16(w, (uint16_t)field->value.integer);
        break;
    case 'I':
    case 'i':
        write_be32(w, (uint32_t)field->value.integer);
        break;
    case 'l':
    case 'L':
    case 'T':
        write_be64(w, (uint64_t)field->value.integer);
        break;
    case 'f':
        single = (float)field->value.real;
        memcpy(&bits32, &single, sizeof bits32);
        write_be32(w, bits32);
        break;
    case 'd':
        memcpy(&bits64, &field->value.real, sizeof bits64);
        write_be64(w, bits64);
        break;
    case 'D':
        write_u8(w, field->value.decimal.scale);
        write_be32(w, (uint32_t)field->value.decimal.value);
        break;
    case 'V':
        break;
    default:
        ASSERT(strchr("SxAF", field->type) && field->value.bytes.size <= UINT32_MAX);
        write_be32(w, (uint32_t)field->value.bytes.size);
        write_bytes(w, field->value.bytes);
    }
}

void fields_put(struct writer *w, const struct field *field)
{
    put_name(w, field->name, field->type);
    put_value(w, field);
}

void fields_put_value(struct writer *w, const struct field *field)
{
    write_u8(w, field->type);
    put_value(w, field);
}

void fields_put_boolean(struct writer *w, const char *name, bool value)
{
    fields_put(w, &(struct field){slice_text(name), 't', {.boolean = value}});
}

void fields_put_integer(struct writer *w, const char *name, int64_t value)
{
    fields_put(w, &(struct field){slice_text(name), 'l', {.integer = value}});
}

void fields_put_text(struct writer *w, const char *name, struct slice value)
{
    fields_put(w, &(struct field){slice_text(name), 'S', {.bytes = value}});
}

size_t fields_begin(struct writer *w, const char *name, uint8_t type)
{
    ASSERT(type == 'F' || type == 'A');
    if (name)
        put_name(w, slice_text(name), type);
    else
        write_u8(w, type);
    size_t mark = writer_size(w);
    write_be32(w, 0);
    return mark;
}

void fields_end(struct writer *w, size_t mark)
{
    if (w->failed)
        return;
    ASSERT(mark + 4 <= writer_size(w));
    store_be32(w->start + mark, (uint32_t)(writer_size(w) - mark - 4));
}
