#include "log/keyring.h"

#include <inttypes.h>
#include <stdio.h>

static bool is_space(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r';
}

static void skip_spaces(struct slice *line)
{
    while (line->size > 0 && is_space(line->data[0])) {
        line->data++;
        line->size--;
    }
}

/* What stands before the next space. */
static struct slice take_word(struct slice *line)
{
    struct slice word = {line->data, 0};

    while (line->size > 0 && !is_space(line->data[0])) {
        word.size++;
        line->data++;
        line->size--;
    }
    skip_spaces(line);
    return word;
}

static bool read_id(struct slice word, uint32_t *id)
{
    uint64_t value = 0;

    if (word.size == 0 || word.size > 10)
        return false;
    for (size_t i = 0; i < word.size; i++) {
        if (word.data[i] < '0' || word.data[i] > '9')
            return false;
        value = value * 10 + (uint64_t)(word.data[i] - '0');
    }
    *id = (uint32_t)value;
    return value > 0 && value <= UINT32_MAX;
}

static int digit_of(uint8_t byte)
{
    if (byte >= '0' && byte <= '9')
        return byte - '0';
    if (byte >= 'a' && byte <= 'f')
        return byte - 'a' + 10;
    return byte >= 'A' && byte <= 'F' ? byte - 'A' + 10 : -1;
}

static bool read_key(struct slice word, uint8_t key[CIPHER_KEY_SIZE])
{
    if (word.size != KEYRING_KEY_DIGITS)
        return false;
    for (size_t i = 0; i < CIPHER_KEY_SIZE; i++) {
        int high = digit_of(word.data[2 * i]), low = digit_of(word.data[2 * i + 1]);
        if (high < 0 || low < 0)
            return false;
        key[i] = (uint8_t)(high << 4 | low);
    }
    return true;
}

static int add_line(struct keyring *keyring, struct slice line, unsigned number,
                    struct failure *failure)
{
    struct master_key *key = &keyring->keys[keyring->count];
    uint32_t id;

    skip_spaces(&line);
    if (line.size == 0)
        return 0;
    if (keyring->count == KEYRING_MAX)
        return fail(failure, E_INVALID, "line %u: there are more than %u keys", number,
                    KEYRING_MAX);
    if (!read_id(take_word(&line), &id))
        return fail(failure, E_INVALID,
                    "line %u does not begin with the number of a key, from 1 to 4294967295",
                    number);
    if (!read_key(take_word(&line), key->bytes))
        return fail(failure, E_INVALID,
                    "line %u: behind the number %" PRIu32 " there is no key of %u hexadecimal "
                    "digits",
                    number, id, KEYRING_KEY_DIGITS);
    if (line.size > 0)
        return fail(failure, E_INVALID, "line %u: there is more behind key %" PRIu32, number, id);
    if (keyring_find(keyring, id))
        return fail(failure, E_INVALID, "line %u: there are two keys %" PRIu32, number, id);
    key->id = id;
    keyring->count++;
    return 0;
}

/* Cut from the text, without a comment. */
static struct slice take_line(struct slice *text)
{
    struct slice line = {text->data, 0};
    bool in_comment = false;

    while (text->size > 0) {
        uint8_t byte = text->data[0];
        text->data++;
        text->size--;
        if (byte == '\n' || (byte == ',' && !in_comment))
            break;
        in_comment |= byte == '#';
        line.size += !in_comment;
    }
    return line;
}

int keyring_parse(struct keyring *keyring, struct slice text, struct failure *failure)
{
    int result = 0;

    *keyring = (struct keyring){.count = 0};
    for (unsigned number = 1; result == 0 && text.size > 0; number++)
        result = add_line(keyring, take_line(&text), number, failure);
    if (result == 0 && keyring->count == 0)
        result = fail(failure, E_INVALID, "there is no key in it");
    if (result < 0)
        keyring_wipe(keyring);
    return result;
}

const struct master_key *keyring_find(const struct keyring *keyring, uint32_t id)
{
    for (unsigned i = 0; i < keyring->count; i++)
        if (keyring->keys[i].id == id)
            return &keyring->keys[i];
    return NULL;
}

const char *keyring_list(const struct keyring *keyring, char text[KEYRING_LIST_MAX])
{
    int at = snprintf(text, KEYRING_LIST_MAX, "%s", keyring->count == 0 ? "none" : "");

    for (unsigned i = 0; i < keyring->count; i++)
        at += snprintf(text + at, KEYRING_LIST_MAX - (size_t)at, "%s%" PRIu32, i ? ", " : "",
                       keyring->keys[i].id);
    return text;
}

void keyring_wipe(struct keyring *keyring)
{
    cipher_wipe(keyring, sizeof *keyring);
}
