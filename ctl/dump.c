#include "ctl/dump.h"

#include "log/dump.h"
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

int dump_print(const char *data_dir, FILE *out, struct failure *failure)
{
    struct store *store;
    int result = check_is_there(data_dir, failure);
    if (result < 0)
        return result;
    struct dump dump = {.loop = loop_new_real(failure), .out = out, .failure = failure};
    if (!dump.loop)
        return E_IO;
    result = store_local_open(dump.loop, data_dir, &store, failure);
    if (result == 0) {
        struct log_dump_options options = {
            .records = true, .line = print_line, .done = dump_done, .context = &dump};
        log_dump(dump.loop, store, &options);
        loop_run(dump.loop);
        result = dump.result;
        store_free(store);
    }
    loop_free(dump.loop);
    return result;
}
