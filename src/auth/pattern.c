#include "auth/pattern.h"

#include "base/memory.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>
#include <stdlib.h>

/* Names have at most 255 bytes, so an honest pattern needs a few thousand steps. */
#define STEPS_MAX    100000u
#define DEPTH_MAX    10000u
#define HEAP_KIB_MAX 1024u

struct pattern {
    pcre2_code *code; /* NULL: the empty pattern */
    pcre2_match_data *data;
    pcre2_match_context *limits;
    size_t size;
    uint8_t text[];
};

static int refuse(struct slice text, int error, size_t offset, struct failure *failure)
{
    char cause[200];

    pcre2_get_error_message(error, (PCRE2_UCHAR *)cause, sizeof cause);
    return fail(failure, E_INVALID, "the regular expression '%.*s' is wrong at character %zu: %s",
                (int)(text.size < 100 ? text.size : 100), (const char *)text.data, offset + 1,
                cause);
}

/* What a match needs, made once, so that matching does not allocate. */
static bool prepare(struct pattern *pattern)
{
    pattern->data = pcre2_match_data_create(1, NULL);
    pattern->limits = pcre2_match_context_create(NULL);
    if (!pattern->data || !pattern->limits)
        return false;
    pcre2_set_match_limit(pattern->limits, STEPS_MAX);
    pcre2_set_depth_limit(pattern->limits, DEPTH_MAX);
    pcre2_set_heap_limit(pattern->limits, HEAP_KIB_MAX);
    return true;
}

int pattern_new(struct slice text, struct pattern **result, struct failure *failure)
{
    int error;
    size_t offset;
    pcre2_code *code = NULL;

    if (text.size > PATTERN_TEXT_MAX)
        return fail(failure, E_INVALID, "the regular expression is longer than %u bytes",
                    PATTERN_TEXT_MAX);
    if (text.size > 0) {
        code = pcre2_compile(text.data, text.size, PCRE2_NEVER_BACKSLASH_C, &error, &offset, NULL);
        if (!code)
            return refuse(text, error, offset, failure);
    }
    struct pattern *pattern = memory_new(sizeof *pattern + text.size);
    pattern->code = code;
    pattern->size = text.size;
    if (text.size > 0)
        memcpy(pattern->text, text.data, text.size);
    if (code && !prepare(pattern)) {
        pattern_free(pattern);
        return fail(failure, E_MEMORY, "no memory for a regular expression");
    }
    *result = pattern;
    return 0;
}

void pattern_free(struct pattern *pattern)
{
    if (!pattern)
        return;
    pcre2_match_context_free(pattern->limits);
    pcre2_match_data_free(pattern->data);
    pcre2_code_free(pattern->code);
    free(pattern);
}

struct slice pattern_text(const struct pattern *pattern)
{
    return slice_of(pattern->text, pattern->size);
}

bool pattern_matches(const struct pattern *pattern, struct slice name)
{
    if (!pattern->code)
        return name.size == 0;
    const uint8_t *subject = name.data ? name.data : (const uint8_t *)"";
    return pcre2_match(pattern->code, subject, name.size, 0, 0, pattern->data, pattern->limits) >=
           0;
}
