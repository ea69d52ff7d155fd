#include "ctl/dump.h"

#include "log/dump.h"
#include "log/log.h"
#include "loop/real.h"
#include "store/local/local.h"
#include "store/local/shards.h"

#include "config/key_source.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

struct dump {
    struct loop *loop;
    FILE *out;
    struct keyring keys;
    int result;
    struct failure *failure;
};

static void print_line(void *context, const char *text)
{
    struct dump *dump = context;
    fprintf(dump->out, "%s\n", text);
}

static void dump_done(void *context, int result, const struct failure *failure)
{
    struct dump *dump = context;
    dump->result = result;
    if (result < 0 && failure && dump->failure)
        *dump->failure = *failure;
    loop_stop(dump->loop);
}

static bool has_lock(const char *directory, struct failure *failure)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/lock", directory);
    if (length < 0 || (size_t)length >= sizeof path) {
        fail(failure, E_INVALID, "the name of the data directory is too long");
        return false;
    }
    if (access(path, F_OK) == 0)
        return true;
    fail(failure, E_NOT_FOUND, "%s is no data directory: it has neither shards nor a lock",
         directory);
    return false;
}

typedef void begin_function(struct dump *dump, struct store *store);

/* Runs what `begin` has begun on the store until it is done. */
static int with_store(const char *directory, struct dump *dump, begin_function *begin)
{
    struct store *store;

    if (!has_lock(directory, dump->failure)) /* opening a store would make the directory */
        return dump->failure->code;
    dump->loop = loop_new_real(dump->failure);
    if (!dump->loop)
        return E_IO;
    int result = store_local_open(dump->loop, directory, &store, dump->failure);
    if (result == 0) {
        begin(dump, store);
        loop_run(dump->loop);
        result = dump->result;
        store_free(store);
    }
    loop_free(dump->loop);
    return result;
}

/* A data directory's shards one after the other, or the one shard whose directory it is. Returns
 * the first failure but `passes`, which is returned when it is that of all. */
static int with_shards(const char *directory, struct dump *dump, begin_function *begin, int passes)
{
    unsigned count;
    bool done = false;
    char path[PATH_MAX];

    if (access(directory, F_OK) < 0 || has_lock(directory, dump->failure))
        return with_store(directory, dump, begin);
    int result = local_shards_count(directory, &count, dump->failure);
    if (result == 0 && count == 0)
        return with_store(directory, dump, begin);
    for (unsigned i = 1; result == 0 && i <= count; i++) {
        result = local_shard_path(directory, i, path, sizeof path, dump->failure);
        if (result == 0 && dump->out)
            fprintf(dump->out, "shard %u\n", i);
        if (result == 0)
            result = with_store(path, dump, begin);
        done = done || result == 0;
        if (result == passes && (done || i < count))
            result = 0;
    }
    return result;
}

static void begin_dump(struct dump *dump, struct store *store)
{
    struct log_dump_options options = {
        .records = true,
        .keys = dump->keys.count > 0 ? &dump->keys : NULL,
        .line = print_line,
        .done = dump_done,
        .context = dump,
    };

    log_dump(dump->loop, store, &options);
}

static int read_keys(const char *key_file, struct keyring *keys, struct failure *failure)
{
    struct key_source source = {KEY_SOURCE_FILE, key_file};
    struct failure cause;
    char text[KEYRING_TEXT_MAX];
    size_t size = 0;

    int result = key_source_read(&source, text, sizeof text, &size, failure);
    if (result == 0 && (result = keyring_parse(keys, slice_of(text, size), &cause)) < 0)
        fail(failure, result, "%s: %s", key_file, cause.text);
    cipher_wipe(text, sizeof text);
    return result;
}

int dump_print(const char *data_dir, const char *key_file, FILE *out, struct failure *failure)
{
    struct dump dump = {.out = out, .failure = failure};
    int result = key_file ? read_keys(key_file, &dump.keys, failure) : 0;

    if (result == 0)
        result = with_shards(data_dir, &dump, begin_dump, 0);
    keyring_wipe(&dump.keys);
    return result;
}

static void begin_accept(struct dump *dump, struct store *store)
{
    log_accept_damage(store, dump_done, dump);
}

int dump_accept_damage(const char *data_dir, struct failure *failure)
{
    struct dump dump = {.failure = failure};

    return with_shards(data_dir, &dump, begin_accept, E_NOT_FOUND);
}
