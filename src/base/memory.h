/*
 * Small internal allocations that may abort the process when the system refuses them. Nothing whose
 * size a client chooses comes from here: that is charged to an account and allocated with a check.
 */
#ifndef SLUICE_BASE_MEMORY_H
#define SLUICE_BASE_MEMORY_H

#include "base/bytes.h"

/* Zeroed; never NULL. Freed with free(). */
void *memory_new(size_t size) __attribute__((malloc, returns_nonnull, warn_unused_result));

/* realloc() of `count` elements, never NULL; new elements are not zeroed. */
void *memory_resize(void *memory, size_t count, size_t element_size)
    __attribute__((warn_unused_result));

/* The bytes with a 0 behind them. */
char *memory_text(struct slice text) __attribute__((malloc, returns_nonnull, warn_unused_result));

/* ---- a pool of equal things made per message, delivery or connection; for one worker ---- */

struct pool {
    void *free_list;
    size_t element_size;
    size_t in_use;
    struct pool_slab *slabs;
};

void pool_init(struct pool *pool, size_t element_size);
void pool_fini(struct pool *pool);                                   /* nothing may be in use */
void *pool_take(struct pool *pool) __attribute__((returns_nonnull)); /* not zeroed */
void pool_give(struct pool *pool, void *element);

/* ---- a stock: memory of any size that comes and goes, used again; for one worker ---- */

#define STOCK_STEP      32u
#define STOCK_SIZE_MAX  4608u      /* larger memory is the system's each time */
#define STOCK_BYTES_MAX (1u << 20) /* kept of what is not in use */

struct stock {
    void *free_lists[STOCK_SIZE_MAX / STOCK_STEP];
    size_t bytes;
    size_t hand; /* the list that gives up memory next, when there is too much */
};

/* Zeroed is empty. Gives back what is not in use; what is given later is freed at once. */
void stock_fini(struct stock *stock);

/* Not zeroed; NULL when the system refuses. Without a stock, NULL, it is malloc() and free(). */
void *stock_take(struct stock *stock, size_t size) __attribute__((malloc, warn_unused_result));
void stock_give(struct stock *stock, void *memory, size_t size); /* of that size */

#endif
