#include "process_keys.h"

#include "log/log.h"

int process_keys_read(const struct settings *settings, struct keyring *keys,
                      struct failure *failure)
{
    struct key_source source = settings_key_source(settings);
    struct failure cause = {0};
    char text[KEYRING_TEXT_MAX];
    size_t size = 0;

    *keys = (struct keyring){.count = 0};
    if (source.kind == KEY_SOURCE_NONE)
        return 0;
    int result = key_source_read(&source, text, sizeof text, &size, &cause);
    if (result == 0)
        result = keyring_parse(keys, slice_of(text, size), &cause);
    cipher_wipe(text, sizeof text);
    if (result < 0)
        return fail(failure, result, "the keys of encryption cannot be read: %s", cause.text);
    return 0;
}

struct check {
    struct loop *loop;
    struct failure *failure;
    int result;
};

static void checked(void *context, int result, const struct failure *failure)
{
    struct check *check = context;

    check->result = result;
    if (failure && check->failure)
        *check->failure = *failure;
    loop_stop(check->loop);
}

int process_keys_check(struct store *store, const struct keyring *keys, struct failure *failure)
{
    struct check check = {.loop = store->loop, .failure = failure};

    log_check_keys(store, keys, checked, &check);
    loop_run(check.loop);
    return check.result;
}
