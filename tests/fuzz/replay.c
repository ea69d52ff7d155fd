/*
 * The main() of a fuzz target without libFuzzer: gives it each file of the directories and files
 * named, in no order that matters. A directory that is not there is an empty corpus.
 */
#include <dirent.h>
#include <errno.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static int replay_file(const char *path, size_t size)
{
    FILE *file = fopen(path, "rb");
    if (!file) {
        fprintf(stderr, "%s: %s\n", path, strerror(errno));
        return -1;
    }
    /* Exactly as many bytes as there are, so that a sanitizer sees a read past them. */
    uint8_t *data = malloc(size ? size : 1);
    size_t got = data ? fread(data, 1, size, file) : 0;
    fclose(file);
    if (!data || got != size) {
        fprintf(stderr, "%s: cannot be read\n", path);
        free(data);
        return -1;
    }
    int result = LLVMFuzzerTestOneInput(data, size);
    free(data);
    return result;
}

static int replay_directory(const char *path, unsigned *count)
{
    DIR *directory = opendir(path);
    if (!directory)
        return errno == ENOENT ? 0 : -1;
    int result = 0;
    struct dirent *entry;
    while (result == 0 && (entry = readdir(directory)) != NULL) {
        char name[4096];
        struct stat status;
        int length = snprintf(name, sizeof name, "%s/%s", path, entry->d_name);
        if (length < 0 || (size_t)length >= sizeof name || stat(name, &status) != 0 ||
            !S_ISREG(status.st_mode))
            continue;
        result = replay_file(name, (size_t)status.st_size);
        ++*count;
    }
    closedir(directory);
    return result;
}

int main(int argc, char **argv)
{
    unsigned count = 0;
    for (int i = 1; i < argc; i++) {
        struct stat status;
        int result;
        if (stat(argv[i], &status) == 0 && S_ISREG(status.st_mode)) {
            result = replay_file(argv[i], (size_t)status.st_size);
            count++;
        } else {
            result = replay_directory(argv[i], &count);
        }
        if (result != 0)
            return 1;
    }
    printf("%u inputs\n", count);
    return 0;
}
