#include "broker/ledger.h"

/* ---- writing ---- */

void ledger_write_head(struct writer *w, enum ledger_kind kind, struct transaction_id id,
                       uint32_t decider)
{
    write_u8(w, (uint8_t)kind);
    write_varint(w, id.start);
    write_varint(w, id.number);
    if (kind == LEDGER_PREPARE)
        write_varint(w, decider);
}

void ledger_write_item(struct writer *w, const struct ledger_item *item)
{
    write_u8(w, item->kind);
    write_varint(w, item->queue);
    write_varint(w, item->first);
    write_varint(w, item->count - 1);
}

/* ---- reading: what is decoded once is sound ---- */

static bool read_item(struct reader *r, struct ledger_item *item)
{
    item->kind = read_u8(r);
    item->queue = read_varint(r);
    item->first = read_varint(r);
    uint64_t more = read_varint(r);
    item->count = more + 1;
    return !r->failed && item->kind >= ITEM_PUBLISH && item->kind <= ITEM_KIND_LAST &&
           item->queue > 0 && item->first > 0 && more < UINT64_MAX - item->first;
}

static bool read_shard(struct reader *r, uint32_t *shard)
{
    uint64_t number = read_varint(r);

    *shard = (uint32_t)number;
    return !r->failed && number > 0 && number <= UINT32_MAX;
}

static bool rest_is_sound(const struct ledger_record *record)
{
    struct reader r = reader_of(record->rest);
    struct ledger_item item;
    uint32_t shard;
    bool sound = true;

    while (sound && reader_left(&r) > 0) {
        if (record->kind == LEDGER_PREPARE)
            sound = read_item(&r, &item);
        else
            sound = record->kind == LEDGER_DECIDE && read_shard(&r, &shard);
    }
    return sound;
}

int ledger_record_decode(struct slice bytes, struct ledger_record *record)
{
    struct reader r = reader_of(bytes);
    uint8_t kind = read_u8(&r);

    record->id.start = read_varint(&r);
    record->id.number = read_varint(&r);
    record->decider = 0;
    if (r.failed || kind < LEDGER_PREPARE || kind > LEDGER_FORGET)
        return E_CORRUPT;
    record->kind = (enum ledger_kind)kind;
    if (kind == LEDGER_PREPARE && !read_shard(&r, &record->decider))
        return E_CORRUPT;
    record->rest = slice_of(r.at, reader_left(&r));
    return rest_is_sound(record) ? 0 : E_CORRUPT;
}

static struct slice behind(const struct reader *r)
{
    return slice_of(r->at, reader_left(r));
}

bool ledger_item_next(struct slice *rest, struct ledger_item *item)
{
    struct reader r = reader_of(*rest);

    if (rest->size == 0 || !read_item(&r, item))
        return false;
    *rest = behind(&r);
    return true;
}

bool ledger_shard_next(struct slice *rest, uint32_t *shard)
{
    struct reader r = reader_of(*rest);

    if (rest->size == 0 || !read_shard(&r, shard))
        return false;
    *rest = behind(&r);
    return true;
}

int ledger_state_next(struct slice state, size_t *at, struct ledger_record *record)
{
    struct reader r = reader_of(slice_of(state.data + *at, state.size - *at));

    if (*at == 0 && read_u8(&r) != LEDGER_STATE_VERSION)
        return r.failed ? E_CORRUPT : E_VERSION;
    if (reader_left(&r) == 0)
        return 0;
    uint64_t size = read_varint(&r);
    if (r.failed || size > reader_left(&r))
        return E_CORRUPT;
    struct slice bytes = read_bytes(&r, (size_t)size);
    *at = state.size - reader_left(&r);
    int result = ledger_record_decode(bytes, record);
    return result < 0 ? result : 1;
}
