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
