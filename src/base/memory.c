#include "base/memory.h"

#include "base/assert.h"

#include <stdlib.h>

void *memory_new(size_t size)
{
    void *memory = calloc(1, size ? size : 1);
    ASSERT(memory);
    return memory;
}

void *memory_resize(void *memory, size_t count, size_t element_size)
{
    void *bigger = reallocarray(memory, count ? count : 1, element_size);
    ASSERT(bigger);
    return bigger;
}

char *memory_text(struct slice text)
{
    char *copy = memory_new(text.size + 1);
    if (text.size)
        memcpy(copy, text.data, text.size);
    return copy;
}

#define SLAB_SIZE 16384

struct pool_slab {
    struct pool_slab *next;
    _Alignas(16) uint8_t elements[];
};

void pool_init(struct pool *pool, size_t element_size)
{
    size_t rounded = (element_size + 15) & ~(size_t)15;
    ASSERT(rounded >= sizeof(void *) && rounded <= SLAB_SIZE / 4);
    *pool = (struct pool){.element_size = rounded};
}

void pool_fini(struct pool *pool)
{
    ASSERT(pool->in_use == 0);
    while (pool->slabs) {
        struct pool_slab *slab = pool->slabs;
        pool->slabs = slab->next;
        free(slab);
    }
    pool->free_list = NULL;
}

static void pool_grow(struct pool *pool)
{
    struct pool_slab *slab = malloc(SLAB_SIZE);
    ASSERT(slab);
    slab->next = pool->slabs;
    pool->slabs = slab;
    for (size_t at = 0; at + pool->element_size <= SLAB_SIZE - sizeof *slab;
         at += pool->element_size) {
        void **element = (void **)(void *)(slab->elements + at);
        *element = pool->free_list;
        pool->free_list = element;
    }
}

void *pool_take(struct pool *pool)
{
    if (!pool->free_list)
        pool_grow(pool);
    void **element = pool->free_list;
    pool->free_list = *element;
    pool->in_use++;
    return element;
}

void pool_give(struct pool *pool, void *element)
{
    ASSERT(pool->in_use > 0);
    *(void **)element = pool->free_list;
    pool->free_list = element;
    pool->in_use--;
}

/* ---- a stock ---- */

#define STOCK_LISTS (STOCK_SIZE_MAX / STOCK_STEP)

/* The sanitizers are to see who uses what was given back. */
#ifdef SLUICE_DEBUG_CHECKS
#define STOCK_KEPT_MAX 0u
#else
#define STOCK_KEPT_MAX STOCK_BYTES_MAX
#endif

static size_t list_size(size_t list)
{
    return (list + 1) * STOCK_STEP;
}

static void *take_from(struct stock *stock, size_t list)
{
    void **memory = stock->free_lists[list];

    if (memory) {
        stock->free_lists[list] = *memory;
        stock->bytes -= list_size(list);
    }
    return memory;
}

void *stock_take(struct stock *stock, size_t size)
{
    size_t list = (size - 1) / STOCK_STEP;

    if (!stock || list >= STOCK_LISTS)
        return malloc(size);
    void *memory = take_from(stock, list);
    return memory ? memory : malloc(list_size(list));
}

/* It is full, maybe of sizes that are wanted no more: each list in turn gives something up. */
static void __attribute__((noinline)) give_up(struct stock *stock, void *memory)
{
    free(memory);
    if (stock->bytes > 0)
        free(take_from(stock, stock->hand));
    stock->hand = (stock->hand + 1) % STOCK_LISTS;
}

void stock_give(struct stock *stock, void *memory, size_t size)
{
    size_t list = (size - 1) / STOCK_STEP;

    if (!stock || list >= STOCK_LISTS) {
        free(memory);
    } else if (stock->bytes + list_size(list) > STOCK_KEPT_MAX) {
        give_up(stock, memory);
    } else {
        *(void **)memory = stock->free_lists[list];
        stock->free_lists[list] = memory;
        stock->bytes += list_size(list);
    }
}

void stock_fini(struct stock *stock)
{
    for (size_t list = 0; list < STOCK_LISTS; list++) {
        void *memory;
        while ((memory = take_from(stock, list)))
            free(memory);
    }
    ASSERT(stock->bytes == 0);
}
