#include "ctl/dump.h"

#include "log/dump.h"
#include "log/log.h"
#include "loop/real.h"
#include "store/local/local.h"

#include <limits.h>
#include <string.h>
#include <unistd.h>

struct dump {
    struct loop *loop;
    FILE *out;
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

/* Opening a store would make the directory. */
static int check_is_there(const char *data_dir, struct failure *failure)
{
    char path[PATH_MAX];
    int length = snprintf(path, sizeof path, "%s/lock", data_dir);
    if (length < 0 || (size_t)length >= sizeof path)
        return fail(failure, E_INVALID, "the name of the data directory is too long");
    if (access(path, F_OK) < 0)
        return fail(failure, E_NOT_FOUND, "%s is no data directory: it has no lock", data_dir);
    return 0;
}

/* Runs what `begin` has begun on the store until it is done. */
static int with_store(const char *data_dir, struct dump *dump,
                      void (*begin)(struct dump *dump, struct store *store))
{
    struct store *store;
    int result = check_is_there(data_dir, dump->failure);
    if (result < 0)
        return result;
    dump->loop = loop_new_real(dump->failure);
    if (!dump->loop)
        return E_IO;
    result = store_local_open(dump->loop, data_dir, &store, dump->failure);
    if (result == 0) {
        begin(dump, store);
        loop_run(dump->loop);
        result = dump->result;
        store_free(store);
    }
    loop_free(dump->loop);
    return result;
}

static void begin_dump(struct dump *dump, struct store *store)
{
    struct log_dump_options options = {
        .records = true, .line = print_line, .done = dump_done, .context = dump};

    log_dump(dump->loop, store, &options);
}

int dump_print(const char *data_dir, FILE *out, struct failure *failure)
{
    struct dump dump = {.out = out, .failure = failure};

    return with_store(data_dir, &dump, begin_dump);
}

static void begin_accept(struct dump *dump, struct store *store)
{
    log_accept_damage(store, dump_done, dump);
}

int dump_accept_damage(const char *data_dir, struct failure *failure)
{
    struct dump dump = {.failure = failure};

    return with_store(data_dir, &dump, begin_accept);
}
