/*
 * What every store must do, as tests to be run against a back end, and what tests of stores share.
 */
#ifndef SLUICE_STORE_STORE_CONFORMANCE_H
#define SLUICE_STORE_STORE_CONFORMANCE_H

#include "store/store.h"

struct store_back_end {
    const char *name;
    void *context;
    void (*begin)(void *context); /* nothing is stored afterwards */
    void (*end)(void *context);
    struct loop *(*loop_new)(void *context);
    int (*open)(void *context, struct loop *loop, struct store **store, struct failure *failure);
};

/* Returns the number of failed tests. */
int store_conformance(const struct store_back_end *back_end);

/* ---- for tests: a request, and a way to wait for it ---- */

struct waited {
    struct store_request request;
    struct loop *loop;
    unsigned completed;
    unsigned *order; /* when given: counts completions, and `place` is this one's number */
    unsigned place;
};

/* Submits; the other fields of the request are set by the caller. */
void waited_submit(struct waited *waited, struct store *store, enum store_operation operation);

/* Runs the loop until it has completed; returns its result. */
int waited_wait(struct waited *waited);

static inline int waited_do(struct waited *waited, struct store *store,
                            enum store_operation operation)
{
    waited_submit(waited, store, operation);
    return waited_wait(waited);
}

/* The same in short, for common requests; results as the request's. */
struct store_file *test_create(struct store *store, const char *name, uint64_t reserve);
struct store_file *test_open(struct store *store, const char *name, bool direct, uint64_t *size);
int test_write(struct store *store, struct store_file *file, uint64_t offset, const void *bytes,
               size_t size, bool sync);
int test_sync(struct store *store, struct store_file *file);
ssize_t test_read(struct store *store, struct store_file *file, uint64_t offset, void *bytes,
                  size_t size);
void test_close(struct store *store, struct store_file *file);
int test_meta_write(struct store *store, uint64_t version, const void *bytes, size_t size);
int test_meta_read(struct store *store, uint64_t *version, struct buffer **value);

/* Byte number `at` of the pattern that tests write. */
static inline uint8_t pattern(uint64_t at)
{
    return (uint8_t)(at * 31 ^ at >> 8 ^ at >> 17);
}

void test_remove_directory(const char *path);

void pattern_fill(uint8_t *bytes, size_t size, uint64_t from);

#endif
