#include "protocols/http/text.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>

#define KEPT_MAX 4096u /* bytes that an empty text may keep */

/* ---- growing ---- */

static int grow(struct http_text *text, size_t more)
{
    size_t capacity = text->capacity ? text->capacity : 256;

    if (more > SIZE_MAX / 4 || text->size > SIZE_MAX / 4)
        return E_MEMORY;
    while (capacity - text->size < more)
        capacity *= 2;
    if (text->account && account_charge(text->account, capacity - text->capacity) < 0)
        return E_MEMORY;
    char *data = realloc(text->data, capacity);
    if (!data) {
        if (text->account)
            account_release(text->account, capacity - text->capacity);
        return E_MEMORY;
    }
    text->data = data;
    text->capacity = capacity;
    return 0;
}

int http_text_append(struct http_text *text, struct slice bytes)
{
    if (!text->failed && text->capacity - text->size < bytes.size)
        text->failed = grow(text, bytes.size) != 0;
    if (text->failed)
        return E_MEMORY;
    if (bytes.size > 0)
        memcpy(text->data + text->size, bytes.data, bytes.size);
    text->size += bytes.size;
    return 0;
}

void http_text_print(struct http_text *text, const char *format, ...)
{
    char line[1024];
    va_list arguments;

    va_start(arguments, format);
    int size = vsnprintf(line, sizeof line, format, arguments);
    va_end(arguments);
    if (size < 0 || (size_t)size >= sizeof line ||
        http_text_append(text, slice_of(line, (size_t)size)) != 0)
        text->failed = true;
}

void http_text_clear(struct http_text *text)
{
    if (text->capacity > KEPT_MAX)
        http_text_free(text);
    text->size = 0;
    text->failed = false;
}

void http_text_free(struct http_text *text)
{
    if (text->account)
        account_release(text->account, text->capacity);
    free(text->data);
    text->data = NULL;
    text->size = text->capacity = 0;
    text->failed = false;
}

/* ---- encodings ---- */

static int hex_digit(char c)
{
    if (c >= '0' && c <= '9')
        return c - '0';
    c = (char)(c | 0x20);
    return c >= 'a' && c <= 'f' ? c - 'a' + 10 : -1;
}

ssize_t http_percent_decode(char *bytes, size_t size)
{
    size_t to = 0;

    for (size_t at = 0; at < size; at++) {
        if (bytes[at] != '%') {
            bytes[to++] = bytes[at];
            continue;
        }
        if (size - at < 3)
            return E_INVALID;
        int high = hex_digit(bytes[at + 1]), low = hex_digit(bytes[at + 2]);
        if (high < 0 || low < 0)
            return E_INVALID;
        bytes[to++] = (char)(high << 4 | low);
        at += 2;
    }
    return (ssize_t)to;
}

/* Into the bytes of the query, which belong to whoever asks. */
static int decode_word(struct slice *word)
{
    char *bytes = (char *)(uintptr_t)word->data;

    for (size_t i = 0; i < word->size; i++) {
        if (bytes[i] == '+')
            bytes[i] = ' ';
    }
    ssize_t size = word->size ? http_percent_decode(bytes, word->size) : 0;
    if (size < 0)
        return E_INVALID;
    word->size = (size_t)size;
    return 0;
}

int http_query_next(struct slice *query, struct slice *name, struct slice *value)
{
    if (query->size == 0)
        return 0;
    const uint8_t *end = memchr(query->data, '&', query->size);
    size_t size = end ? (size_t)(end - query->data) : query->size;
    const uint8_t *equals = memchr(query->data, '=', size);
    size_t name_size = equals ? (size_t)(equals - query->data) : size;
    size_t value_at = name_size + (equals != NULL), used = size + (end != NULL);

    *name = slice_of(query->data, name_size);
    *value = slice_of(query->data + value_at, size - value_at);
    *query = slice_of(query->data + used, query->size - used);
    return decode_word(name) == 0 && decode_word(value) == 0 ? 1 : E_INVALID;
}

int http_number(struct slice text, uint64_t *number)
{
    uint64_t value = 0;

    if (text.size == 0 || text.size > 19) /* below 10^19, which 64 bits hold */
        return E_INVALID;
    for (size_t i = 0; i < text.size; i++) {
        if (text.data[i] < '0' || text.data[i] > '9')
            return E_INVALID;
        value = value * 10 + (uint64_t)(text.data[i] - '0');
    }
    *number = value;
    return 0;
}

static const char digits[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

int http_base64_append(struct http_text *text, struct slice bytes)
{
    if (!text->failed && text->capacity - text->size < (bytes.size + 2) / 3 * 4)
        text->failed = grow(text, (bytes.size + 2) / 3 * 4) != 0;
    if (text->failed)
        return E_MEMORY;
    if (bytes.size == 0)
        return 0; /* there may be no data yet */
    char *to = text->data + text->size;
    for (size_t i = 0; i < bytes.size; i += 3) {
        size_t left = bytes.size - i;
        uint32_t group = (uint32_t)bytes.data[i] << 16 |
                         (left > 1 ? (uint32_t)bytes.data[i + 1] << 8 : 0) |
                         (left > 2 ? bytes.data[i + 2] : 0u);
        *to++ = digits[group >> 18];
        *to++ = digits[group >> 12 & 63];
        *to++ = left > 1 ? digits[group >> 6 & 63] : '=';
        *to++ = left > 2 ? digits[group & 63] : '=';
    }
    text->size += (bytes.size + 2) / 3 * 4;
    return 0;
}

static int base64_digit(uint8_t c)
{
    const char *at = c ? strchr(digits, c) : NULL;

    return at ? (int)(at - digits) : -1;
}

ssize_t http_base64_decode(struct slice text, uint8_t *bytes, size_t size)
{
    size_t count = 0, padding = 0;
    uint32_t group = 0;

    if (text.size % 4 != 0)
        return E_INVALID;
    while (padding < 2 && padding < text.size && text.data[text.size - 1 - padding] == '=')
        padding++;
    if (text.size / 4 * 3 > size + padding)
        return E_LIMIT;
    for (size_t i = 0; i < text.size; i++) {
        bool is_padding = i >= text.size - padding;
        int digit = is_padding ? 0 : base64_digit(text.data[i]);
        if (digit < 0)
            return E_INVALID;
        group = group << 6 | (uint32_t)digit;
        if (i % 4 != 3)
            continue;
        size_t most = i + 1 == text.size ? 3 - padding : 3;
        for (size_t j = 0; j < most; j++)
            bytes[count++] = (uint8_t)(group >> (16 - 8 * j));
        group = 0;
    }
    return (ssize_t)count;
}
