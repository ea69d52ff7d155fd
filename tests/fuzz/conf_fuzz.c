/*
 * Configuration files out of arbitrary bytes: parsed, and what parses turned into settings. What
 * was parsed is written down again, quoted, and must come back the same.
 */
#include "base/assert.h"
#include "config/settings.h"

#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char *environment(const char *name)
{
    static char value[] = "value";
    return name[0] == 'V' ? value : NULL;
}

static void warn(void *context, const char *text)
{
    ASSERT(strlen(text) > 0);
    ++*(unsigned *)context;
}

/* Quotes inside are written \', so a text with \' in it would read differently: those are left out.
 */
static bool is_quotable(const char *value)
{
    return !strchr(value, '\\') && !strchr(value, '\n');
}

static void write_entry(struct writer *w, const struct conf_entry *entry)
{
    write_bytes(w, slice_text(entry->key));
    write_bytes(w, slice_text(" = '"));
    for (const char *at = entry->value; *at; at++) {
        if (*at == '\'')
            write_u8(w, '\\');
        write_u8(w, (uint8_t)*at);
    }
    write_bytes(w, slice_text("'\n"));
}

static void reread(const struct conf *conf, size_t room)
{
    uint8_t *memory = malloc(room);
    struct writer w = writer_of(memory, room);
    struct conf again;

    for (size_t i = 0; i < conf->count; i++)
        if (is_quotable(conf->entries[i].value))
            write_entry(&w, &conf->entries[i]);
    ASSERT(!w.failed);
    conf_init(&again);
    int result = conf_parse(&again, "again", slice_of(memory, writer_size(&w)), environment, NULL);
    ASSERT(result == 0);
    for (size_t i = 0; i < conf->count; i++) {
        const char *value = conf_get(&again, conf->entries[i].key);
        ASSERT(!is_quotable(conf->entries[i].value) ||
               (value && strcmp(value, conf->entries[i].value) == 0));
    }
    conf_fini(&again);
    free(memory);
}

static void check_settings(const struct settings *s)
{
    ASSERT(s->amqp.count <= SETTINGS_LISTENERS_MAX);
    ASSERT(s->max_message_size <= 512u << 20 && s->frame_max >= 4096 && s->channel_max > 0);
    ASSERT(s->segment_bytes_min <= s->segment_bytes_max);
    ASSERT(s->memory_watermark.relative >= 0 && s->memory_watermark.relative <= 1);
    ASSERT(memchr(s->loopback_users, 0, sizeof s->loopback_users));
    ASSERT(memchr(s->default_tags, 0, sizeof s->default_tags));
    ASSERT(memchr(s->log_file, 0, sizeof s->log_file));
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct conf conf;
    struct settings settings;
    struct failure failure = {0};
    unsigned warnings = 0;

    if (size > 16384)
        return 0;
    conf_init(&conf);
    if (conf_parse(&conf, "fuzz", slice_of(data, size), environment, &failure) != 0)
        ASSERT(failure.code == E_INVALID && strstr(failure.text, "fuzz:"));
    else
        reread(&conf, 16 * size + 64);
    if (settings_from_conf(&settings, &conf, 0, warn, &warnings, &failure) == 0)
        check_settings(&settings);
    else
        ASSERT(failure.code == E_INVALID && failure.text[0]);
    conf_fini(&conf);

    char *assignment = malloc(size + 1);
    memcpy(assignment, data, size);
    assignment[size] = 0;
    conf_init(&conf);
    (void)!conf_set(&conf, assignment, &failure);
    conf_fini(&conf);
    free(assignment);
    return 0;
}
