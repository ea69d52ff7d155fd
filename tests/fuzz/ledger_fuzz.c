/* A shard's ledger as recovery meets it: a state, or a change (by the first byte); what is sound
 * comes out of the writer as it went in. */
#include "base/assert.h"
#include "broker/ledger.h"

#include <stdlib.h>

/* Written again and read again, it is the same. */
static void again(const struct ledger_record *record)
{
    size_t size = LEDGER_HEAD_BYTES_MAX + record->rest.size * VARINT_SIZE_MAX;
    uint8_t *bytes = malloc(size);
    struct writer w = writer_of(bytes, size);
    struct slice rest = record->rest;
    struct ledger_record back;
    struct ledger_item item;
    uint32_t shard;

    ASSERT(bytes);
    ledger_write_head(&w, record->kind, record->id, record->decider);
    while (record->kind == LEDGER_PREPARE && ledger_item_next(&rest, &item)) {
        ASSERT(item.first + item.count > item.first);
        ledger_write_item(&w, &item);
    }
    while (record->kind == LEDGER_DECIDE && ledger_shard_next(&rest, &shard))
        write_varint(&w, shard);
    ASSERT(rest.size == 0 && !w.failed);
    ASSERT(ledger_record_decode(slice_of(bytes, writer_size(&w)), &back) == 0);
    ASSERT(back.kind == record->kind && back.decider == record->decider);
    ASSERT(back.id.start == record->id.start && back.id.number == record->id.number);
    ASSERT(back.rest.size <= record->rest.size); /* varints may be longer than they need to be */
    free(bytes);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
    struct ledger_record record;
    size_t at = 0;

    if (size == 0)
        return 0;
    struct slice bytes = slice_of(data + 1, size - 1);
    if (data[0] & 1) {
        if (ledger_record_decode(bytes, &record) == 0)
            again(&record);
        return 0;
    }
    while (ledger_state_next(bytes, &at, &record) == 1)
        again(&record);
    return 0;
}
