#include "check.h"

#include "base/memory.h"

#include <stdlib.h>

void check_init(struct check *check, uint32_t producers, uint32_t queues, bool fanout, uint8_t run)
{
    size_t pairs = (size_t)producers * queues;
    *check = (struct check){.producers = producers, .queues = queues, .fanout = fanout, .run = run};
    check->published = memory_new(pairs * sizeof *check->published);
    check->sequences = memory_new(pairs * sizeof *check->sequences);
}

void check_fini(struct check *check)
{
    for (size_t i = 0; i < (size_t)check->producers * check->queues; i++)
        sequence_fini(&check->sequences[i]);
    free(check->sequences);
    free(check->published);
}

struct check_result check_finish(const struct check *check)
{
    struct check_result result = {0};
    for (uint32_t p = 0; p < check->producers; p++) {
        for (uint32_t q = 0; q < check->queues; q++) {
            uint64_t expected = check_published(check, p)[check->fanout ? 0 : q];
            result.expected += expected;
            result.lost += sequence_lost(&check_sequences(check, q)[p], expected);
        }
    }
    return result;
}
