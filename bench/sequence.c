#include "sequence.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdlib.h>

#define WINDOW_BITS_MIN 4096u

void sequence_fini(struct sequence *s)
{
    free(s->window);
    *s = (struct sequence){0};
}

static bool window_has(const struct sequence *s, uint64_t number)
{
    uint64_t at = number & (s->window_bits - 1);
    return s->window[at / 64] >> (at % 64) & 1;
}

static void window_set(struct sequence *s, uint64_t number)
{
    uint64_t at = number & (s->window_bits - 1);
    s->window[at / 64] |= (uint64_t)1 << (at % 64);
}

static void window_clear(struct sequence *s, uint64_t number)
{
    uint64_t at = number & (s->window_bits - 1);
    s->window[at / 64] &= ~((uint64_t)1 << (at % 64));
}

/* Makes room for base..number. */
static void window_grow(struct sequence *s, uint64_t number)
{
    struct sequence bigger = *s;
    bigger.window_bits = s->window_bits ? s->window_bits : WINDOW_BITS_MIN;
    while (number - s->base >= bigger.window_bits)
        bigger.window_bits *= 2;
    bigger.window = memory_new(bigger.window_bits / 8);
    for (uint64_t seen = s->base; seen < s->high; seen++) {
        if (window_has(s, seen))
            window_set(&bigger, seen);
    }
    free(s->window);
    *s = bigger;
}

/* Moves the base over all that was seen. */
static void window_advance(struct sequence *s)
{
    while (s->base < s->high && window_has(s, s->base)) {
        window_clear(s, s->base);
        s->base++;
    }
    ASSERT(s->base <= s->high);
}

void sequence_add_slowly(struct sequence *s, uint64_t *next, uint64_t number, bool redelivered,
                         struct sequence_faults *faults)
{
    if (number >= s->base && number - s->base >= SEQUENCE_WINDOW_MAX) {
        faults->foreign++;
        return;
    }
    if (redelivered)
        faults->redelivered++;
    bool seen = number < s->base || (number < s->high && window_has(s, number));
    if (seen) {
        if (!redelivered)
            faults->duplicated++;
        return;
    }
    if (number < *next && !redelivered)
        faults->reordered++;
    if (number >= *next)
        *next = number + 1;
    if (number - s->base >= s->window_bits)
        window_grow(s, number);
    window_set(s, number);
    if (number >= s->high)
        s->high = number + 1;
    window_advance(s);
}

uint64_t sequence_lost(const struct sequence *s, uint64_t expected)
{
    if (expected <= s->base)
        return 0;
    uint64_t lost = expected - s->base;
    for (uint64_t number = s->base; number < s->high && number < expected; number++)
        lost -= window_has(s, number);
    return lost;
}
