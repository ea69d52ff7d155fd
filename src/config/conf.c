#include "config/conf.h"

#include "base/memory.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_SIZE_MAX (4u << 20)

void conf_init(struct conf *conf)
{
    *conf = (struct conf){0};
}

void conf_fini(struct conf *conf)
{
    for (size_t i = 0; i < conf->count; i++) {
        free(conf->entries[i].key);
        free(conf->entries[i].value);
    }
    for (size_t i = 0; i < conf->source_count; i++)
        free(conf->sources[i]);
    free(conf->entries);
    free(conf->sources);
    conf_init(conf);
}

/* ---- entries ---- */

static struct conf_entry *find(const struct conf *conf, struct slice key)
{
    for (size_t i = 0; i < conf->count; i++)
        if (slice_is(key, conf->entries[i].key))
            return &conf->entries[i];
    return NULL;
}

const char *conf_get(const struct conf *conf, const char *key)
{
    const struct conf_entry *entry = find(conf, slice_text(key));
    return entry ? entry->value : NULL;
}

static const char *add_source(struct conf *conf, const char *source)
{
    conf->sources = memory_resize(conf->sources, conf->source_count + 1, sizeof *conf->sources);
    return conf->sources[conf->source_count++] = memory_text(slice_text(source));
}

static void put(struct conf *conf, struct slice key, struct slice value, const char *source,
                unsigned line)
{
    struct conf_entry *entry = find(conf, key);

    if (entry) {
        free(entry->value);
    } else {
        if (conf->count == conf->capacity) {
            conf->capacity = conf->capacity ? 2 * conf->capacity : 32;
            conf->entries = memory_resize(conf->entries, conf->capacity, sizeof *conf->entries);
        }
        entry = &conf->entries[conf->count++];
        entry->key = memory_text(key);
    }
    entry->value = memory_text(value);
    entry->source = source;
    entry->line = line;
}

/* ---- one line ---- */

struct line {
    const char *source;
    unsigned number;
    struct slice rest; /* not looked at yet */
    char *(*environment)(const char *name);
    struct writer value; /* CONF_VALUE_MAX bytes */
    struct failure *failure;
};

#define refuse(line, ...) refuse_line(line, E_INVALID, __VA_ARGS__)

static int refuse_line(const struct line *line, int code, const char *format, ...)
    PRINTF_LIKE(3, 4);

static int refuse_line(const struct line *line, int code, const char *format, ...)
{
    char cause[300];
    va_list arguments;

    va_start(arguments, format);
    vsnprintf(cause, sizeof cause, format, arguments);
    va_end(arguments);
    if (line->number == 0)
        return fail(line->failure, code, "%s: %s", line->source, cause);
    return fail(line->failure, code, "%s:%u: %s", line->source, line->number, cause);
}

static bool is_blank(uint8_t byte)
{
    return byte == ' ' || byte == '\t' || byte == '\r';
}

static bool is_key_byte(uint8_t byte)
{
    return (byte >= 'a' && byte <= 'z') || (byte >= 'A' && byte <= 'Z') ||
           (byte >= '0' && byte <= '9') || byte == '_' || byte == '-' || byte == '.';
}

static void skip(struct slice *s, size_t size)
{
    *s = slice_of(s->data + size, s->size - size);
}

static void skip_blanks(struct slice *s)
{
    while (s->size > 0 && is_blank(s->data[0]))
        skip(s, 1);
}

/* The key, up to and with the `=`. */
static int take_key(struct line *line, struct slice *key)
{
    skip_blanks(&line->rest);
    *key = slice_of(line->rest.data, 0);
    while (line->rest.size > 0 && is_key_byte(line->rest.data[0])) {
        bool is_dot = line->rest.data[0] == '.';
        if (is_dot && (key->size == 0 || key->data[key->size - 1] == '.'))
            return refuse(line, "a word is missing before a dot of the key");
        key->size++;
        skip(&line->rest, 1);
    }
    skip_blanks(&line->rest);
    if (key->size == 0 || line->rest.size == 0 || line->rest.data[0] != '=')
        return refuse(line, "expected \"key = value\"");
    if (key->data[key->size - 1] == '.')
        return refuse(line, "a word is missing behind the last dot of the key");
    if (key->size > CONF_KEY_MAX)
        return refuse(line, "the key is longer than %d bytes", CONF_KEY_MAX);
    skip(&line->rest, 1);
    return 0;
}

/* Text in single quotes, as it stands; \' is a quote. */
static int take_quoted(struct line *line)
{
    struct slice *rest = &line->rest;

    skip(rest, 1);
    while (rest->size > 0 && rest->data[0] != '\'') {
        if (rest->size > 1 && rest->data[0] == '\\' && rest->data[1] == '\'')
            skip(rest, 1);
        write_u8(&line->value, rest->data[0]);
        skip(rest, 1);
    }
    if (rest->size == 0)
        return refuse(line, "the single quote is not closed");
    skip(rest, 1);
    skip_blanks(rest);
    if (rest->size > 0 && rest->data[0] != '#')
        return refuse(line, "there is text behind the closing quote");
    return 0;
}

/* $(NAME), with the rest at the `$`. */
static int take_variable(struct line *line)
{
    struct slice *rest = &line->rest;
    const uint8_t *end = memchr(rest->data, ')', rest->size);

    if (!end)
        return refuse(line, "$( is not closed");
    struct slice name = slice_of(rest->data + 2, (size_t)(end - rest->data) - 2);
    char *text = memory_text(name);
    const char *value = name.size > 0 ? line->environment(text) : NULL;
    free(text);
    if (!value)
        return refuse(line, "the environment has no variable %.*s",
                      name.size > 100 ? 100 : (int)name.size, (const char *)name.data);
    write_bytes(&line->value, slice_text(value));
    skip(rest, name.size + 3);
    return 0;
}

/* Text up to a comment or the end of the line, without the blanks at its end. */
static int take_plain(struct line *line)
{
    struct slice *rest = &line->rest;
    uint8_t *end = line->value.at;

    while (rest->size > 0 && rest->data[0] != '#') {
        if (rest->size > 1 && rest->data[0] == '$' && rest->data[1] == '(') {
            int result = take_variable(line);
            if (result != 0)
                return result;
            end = line->value.at;
            continue;
        }
        write_u8(&line->value, rest->data[0]);
        if (!is_blank(rest->data[0]))
            end = line->value.at;
        skip(rest, 1);
    }
    if (end == line->value.start && !line->value.failed)
        return refuse(line, "there is no value (for an empty one write '')");
    line->value.at = end;
    return 0;
}

static int check_value(const struct line *line, struct slice key, struct slice value, bool fits)
{
    if (!fits)
        return refuse(line, "the value of %.*s is longer than %d bytes", SLICE_ARGS(key),
                      CONF_VALUE_MAX);
    if (slice_starts(value, "encrypted:"))
        return refuse(line,
                      "%.*s: encrypted values cannot be read; write $(NAME) to take the value from "
                      "the environment, or keep it in a file that only the broker may read",
                      SLICE_ARGS(key));
    return 0;
}

static int parse_line(struct conf *conf, struct line *line)
{
    struct slice key;
    int result;

    if (memchr(line->rest.data, 0, line->rest.size))
        return refuse(line, "there is a zero byte: not a text file");
    skip_blanks(&line->rest);
    if (line->rest.size == 0 || line->rest.data[0] == '#')
        return 0;
    if ((result = take_key(line, &key)) != 0)
        return result;
    skip_blanks(&line->rest);
    line->value.at = line->value.start;
    line->value.failed = false;
    bool quoted = line->rest.size > 0 && line->rest.data[0] == '\'';
    if ((result = quoted ? take_quoted(line) : take_plain(line)) != 0)
        return result;
    struct slice value = slice_of(line->value.start, writer_size(&line->value));
    if ((result = check_value(line, key, value, !line->value.failed)) != 0)
        return result;
    put(conf, key, value, line->source, line->number);
    return 0;
}

/* ---- files ---- */

int conf_parse(struct conf *conf, const char *source, struct slice text,
               char *(*environment)(const char *name), struct failure *failure)
{
    char *memory = memory_new(CONF_VALUE_MAX);
    struct line line = {
        .source = add_source(conf, source),
        .environment = environment,
        .value = writer_of(memory, CONF_VALUE_MAX),
        .failure = failure,
    };
    int result = 0;

    if (slice_starts(text, "\xef\xbb\xbf")) /* some editors mark UTF-8 so */
        skip(&text, 3);
    while (text.size > 0 && result == 0) {
        const uint8_t *end = memchr(text.data, '\n', text.size);
        size_t size = end ? (size_t)(end - text.data) : text.size;
        line.number++;
        line.rest = slice_of(text.data, size);
        skip(&text, size + (end != NULL));
        result = parse_line(conf, &line);
    }
    free(memory);
    return result;
}

static int read_all(int descriptor, const char *path, uint8_t *memory, size_t room, size_t *size,
                    struct failure *failure)
{
    *size = 0;
    for (;;) {
        ssize_t count = read(descriptor, memory + *size, room - *size);
        if (count < 0 && errno == EINTR)
            continue;
        if (count < 0)
            return fail(failure, E_IO, "%s: %s", path, strerror(errno));
        if (count == 0)
            return 0;
        *size += (size_t)count;
        if (*size == room)
            return fail(failure, E_INVALID, "%s: larger than %u bytes", path, FILE_SIZE_MAX);
    }
}

static int load_file(struct conf *conf, const char *path, struct failure *failure)
{
    int descriptor = open(path, O_RDONLY | O_CLOEXEC);
    if (descriptor < 0)
        return fail(failure, errno == ENOENT ? E_NOT_FOUND : E_IO, "%s: %s", path, strerror(errno));
    uint8_t *memory = memory_new(FILE_SIZE_MAX + 1);
    size_t size;
    int result = read_all(descriptor, path, memory, FILE_SIZE_MAX + 1, &size, failure);
    if (result == 0)
        result = conf_parse(conf, path, slice_of(memory, size), getenv, failure);
    free(memory);
    close(descriptor);
    return result;
}

static int is_conf(const struct dirent *entry)
{
    size_t size = strlen(entry->d_name);
    return size > 5 && entry->d_name[0] != '.' && strcmp(entry->d_name + size - 5, ".conf") == 0;
}

static int by_bytes(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int load_directory(struct conf *conf, const char *path, struct failure *failure)
{
    struct dirent **names;
    int count = scandir(path, &names, is_conf, by_bytes), result = 0;

    if (count < 0)
        return fail(failure, E_IO, "%s: %s", path, strerror(errno));
    for (int i = 0; i < count; i++) {
        char *file = NULL;
        if (result == 0 && asprintf(&file, "%s/%s", path, names[i]->d_name) < 0)
            result = fail(failure, E_MEMORY, "%s: no memory", path);
        if (result == 0)
            result = load_file(conf, file, failure);
        free(file);
        free(names[i]);
    }
    free(names);
    return result;
}

int conf_load(struct conf *conf, const char *path, struct failure *failure)
{
    struct stat status;

    if (stat(path, &status) != 0)
        return fail(failure, errno == ENOENT ? E_NOT_FOUND : E_IO, "%s: %s", path, strerror(errno));
    return S_ISDIR(status.st_mode) ? load_directory(conf, path, failure)
                                   : load_file(conf, path, failure);
}

/* The shell has dealt with quotes and variables: the value is what is behind the `=`. */
int conf_set(struct conf *conf, const char *assignment, struct failure *failure)
{
    struct line line = {.source = "--set", .rest = slice_text(assignment), .failure = failure};
    struct slice key;
    int result = take_key(&line, &key);

    if (result != 0)
        return result;
    if ((result = check_value(&line, key, line.rest, line.rest.size <= CONF_VALUE_MAX)) != 0)
        return result;
    put(conf, key, line.rest, "--set", 0);
    return 0;
}
