#include "store/simulated/disk_private.h"

#include "base/assert.h"
#include "base/memory.h"

#include <stdio.h>
#include <stdlib.h>

#define LATENCY_AT_START_NS 200000

/* ---- choices ---- */

uint64_t disk_random(struct simulated_disk *disk)
{
    uint64_t z = disk->random += 0x9e3779b97f4a7c15u;

    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

bool disk_happens(struct simulated_disk *disk, uint32_t ppm)
{
    return ppm > 0 && disk_random(disk) % 1000000 < ppm;
}

bool disk_coin(struct simulated_disk *disk)
{
    return disk_random(disk) & 1;
}

/* ---- files ---- */

static size_t sectors_of(uint64_t size)
{
    return (size_t)((size + SECTOR_SIZE - 1) / SECTOR_SIZE);
}

/* Bytes of the first `size` that are in that sector. */
static uint16_t sector_bytes(uint64_t size, size_t sector)
{
    uint64_t start = (uint64_t)sector * SECTOR_SIZE;

    if (size <= start)
        return 0;
    return (uint16_t)(size - start < SECTOR_SIZE ? size - start : SECTOR_SIZE);
}

static void grow(struct disk_file *file, uint64_t size)
{
    if (size <= file->size)
        return;
    if (size > file->capacity) {
        size_t capacity = file->capacity ? file->capacity : 8 * SECTOR_SIZE;
        while (capacity < size)
            capacity *= 2;
        file->image = memory_resize(file->image, capacity, 1);
        file->sectors = memory_resize(file->sectors, sectors_of(capacity), sizeof file->sectors[0]);
        memset(file->sectors + sectors_of(file->capacity), 0,
               (sectors_of(capacity) - sectors_of(file->capacity)) * sizeof file->sectors[0]);
        file->capacity = capacity;
    }
    memset(file->image + file->size, 0, size - file->size);
    file->size = size;
}

struct disk_file *disk_find(struct simulated_disk *disk, const char *name)
{
    LIST_EACH (&disk->files, link) {
        struct disk_file *file = CONTAINER_OF(link, struct disk_file, link);
        if (!file->is_removed && strcmp(file->name, name) == 0)
            return file;
    }
    return NULL;
}

static uint64_t file_used(const struct disk_file *file)
{
    return file->size > file->reserved ? file->size : file->reserved;
}

uint64_t simulated_disk_used(const struct simulated_disk *disk)
{
    uint64_t used = disk->meta.size;

    LIST_EACH (&disk->files, link)
        used += file_used(CONTAINER_OF(link, struct disk_file, link));
    return used;
}

static bool has_room(struct simulated_disk *disk, uint64_t more)
{
    uint64_t capacity = disk->faults.capacity;

    return capacity == 0 || simulated_disk_used(disk) + more <= capacity;
}

int disk_create(struct simulated_disk *disk, const char *name, uint64_t reserve,
                struct disk_file **file)
{
    if (!has_room(disk, reserve ? reserve : 1))
        return E_FULL;
    struct disk_file *made = memory_new(sizeof *made);
    snprintf(made->name, sizeof made->name, "%s", name);
    made->reserved = reserve;
    list_append(&disk->files, &made->link);
    *file = made;
    return 0;
}

static void file_free(struct disk_file *file)
{
    list_remove(&file->link);
    free(file->image);
    free(file->sectors);
    free(file);
}

void disk_remove(struct simulated_disk *disk, struct disk_file *file)
{
    (void)disk;
    file->is_removed = true;
    if (file->handles == 0)
        file_free(file);
}

void disk_file_release(struct disk_file *file)
{
    ASSERT(file->handles > 0);
    file->handles--;
    if (file->handles == 0 && file->is_removed)
        file_free(file);
}

/* ---- writes and syncs ---- */

/* Copies what of the slices falls into one sector. */
static void write_sector(struct disk_file *file, size_t sector, const struct iovec *slices,
                         int count, uint64_t size)
{
    uint64_t from = (uint64_t)sector * SECTOR_SIZE;
    uint64_t to = from + SECTOR_SIZE;
    uint64_t at = file->end;

    if (to > file->end + size)
        to = file->end + size;
    if (from < file->end)
        from = file->end;
    grow(file, to);
    for (int i = 0; i < count && at < to; i++) {
        uint64_t next = at + slices[i].iov_len;
        uint64_t first = at > from ? at : from;
        uint64_t last = next < to ? next : to;
        if (first < last)
            memcpy(file->image + first, (const uint8_t *)slices[i].iov_base + (first - at),
                   last - first);
        at = next;
    }
    file->sectors[sector].lost = false;
}

void disk_write_torn(struct simulated_disk *disk, struct disk_file *file,
                     const struct iovec *slices, int count, uint64_t size)
{
    if (!has_room(disk, size))
        return;
    for (size_t sector = file->end / SECTOR_SIZE; sector < sectors_of(file->end + size); sector++) {
        if (disk_coin(disk))
            write_sector(file, sector, slices, count, size);
    }
}

int disk_write(struct simulated_disk *disk, struct disk_file *file, const struct iovec *slices,
               int count, uint64_t size)
{
    uint64_t end = file->end + size;
    uint64_t used = file_used(file);

    if (end > used && !has_room(disk, end - used))
        return E_FULL;
    if (disk_happens(disk, disk->faults.write_fails_ppm)) {
        disk_write_torn(disk, file, slices, count, size);
        return E_IO;
    }
    grow(file, end);
    for (uint64_t at = file->end, i = 0; i < (uint64_t)count; i++) {
        if (slices[i].iov_len > 0)
            memcpy(file->image + at, slices[i].iov_base, slices[i].iov_len);
        at += slices[i].iov_len;
    }
    for (size_t sector = file->end / SECTOR_SIZE; sector < sectors_of(end); sector++)
        file->sectors[sector].lost = false;
    if (file->dirty_from > file->end)
        file->dirty_from = file->end;
    file->end = end;
    return 0;
}

int disk_sync(struct simulated_disk *disk, struct disk_file *file, uint64_t upto)
{
    bool fails = disk_happens(disk, disk->faults.sync_fails_ppm);
    bool loses = fails && disk_random(disk) % 4 != 0;

    if (disk->faults.forget_syncs)
        return 0;
    for (size_t s = file->dirty_from / SECTOR_SIZE; s < sectors_of(upto); s++) {
        struct sector *sector = &file->sectors[s];
        if (loses && disk_coin(disk))
            sector->lost = true;
        else if (!sector->lost && sector_bytes(upto, s) > sector->durable)
            sector->durable = sector_bytes(upto, s);
    }
    if (file->dirty_from < upto)
        file->dirty_from = upto;
    if (!loses && file->durable_size < upto)
        file->durable_size = upto;
    return fails ? E_IO : 0;
}

void disk_truncate(struct disk_file *file, uint64_t size)
{
    ASSERT(size <= file->size);
    for (size_t s = size / SECTOR_SIZE; s < sectors_of(file->size); s++) {
        struct sector *sector = &file->sectors[s];
        uint16_t left = sector_bytes(size, s);
        if (sector->durable > left)
            sector->durable = left;
        if (left == 0)
            *sector = (struct sector){.durable = 0};
    }
    file->size = size;
    file->end = size;
    file->reserved = 0;
    if (file->durable_size > size)
        file->durable_size = size;
    if (file->dirty_from > size)
        file->dirty_from = size;
}

void disk_seal(struct disk_file *file)
{
    disk_truncate(file, file->end); /* parts of failed writes, and the room that was reserved */
    file->is_sealed = true;
}

/* ---- reads ---- */

static void flip_a_bit(struct simulated_disk *disk, struct disk_file *file, uint64_t offset,
                       size_t size)
{
    uint64_t at = offset + disk_random(disk) % size;
    struct sector *sector = &file->sectors[at / SECTOR_SIZE];

    if (sector->flipped || sector->durable <= at % SECTOR_SIZE)
        return;
    sector->flipped = true; /* once, so that no second flip turns the bit back */
    file->image[at] ^= (uint8_t)(1u << disk_random(disk) % 8);
    disk->flips++;
}

size_t disk_read(struct simulated_disk *disk, struct disk_file *file, bool direct, uint64_t offset,
                 uint8_t *into, size_t size)
{
    if (offset >= file->end)
        return 0;
    if (size > file->end - offset)
        size = file->end - offset;
    if (size > 0 && disk_happens(disk, disk->faults.flip_ppm))
        flip_a_bit(disk, file, offset, size);
    memcpy(into, file->image + offset, size);
    if (!direct)
        return size;
    for (uint64_t at = offset, next; at < offset + size; at = next) { /* past the page cache */
        const struct sector *sector = &file->sectors[at / SECTOR_SIZE];
        uint64_t begin = at / SECTOR_SIZE * SECTOR_SIZE;
        uint64_t lost = begin + sector->durable > at ? begin + sector->durable : at;
        next = begin + SECTOR_SIZE < offset + size ? begin + SECTOR_SIZE : offset + size;
        if (sector->lost && lost < next)
            memset(into + (lost - offset), 0, next - lost);
    }
    return size;
}

/* ---- metadata ---- */

void disk_meta_clear(struct disk_meta *meta)
{
    free(meta->bytes);
    *meta = (struct disk_meta){.bytes = NULL};
}

void disk_meta_set(struct disk_meta *meta, const struct iovec *slices, int count, uint64_t version)
{
    size_t size = 0;
    size_t at = 0;

    disk_meta_clear(meta);
    for (int i = 0; i < count; i++)
        size += slices[i].iov_len;
    meta->bytes = memory_new(size);
    for (int i = 0; i < count; i++) {
        if (slices[i].iov_len > 0)
            memcpy(meta->bytes + at, slices[i].iov_base, slices[i].iov_len);
        at += slices[i].iov_len;
    }
    meta->size = size;
    meta->version = version;
}

/* ---- a crash ---- */

static uint64_t size_after_crash(struct simulated_disk *disk, const struct disk_file *file)
{
    uint64_t size = file->size > file->durable_size ? file->size : file->durable_size;

    switch (disk_random(disk) % 4) {
    case 0:
        return file->durable_size;
    case 1:
        return file->durable_size + disk_random(disk) % (size - file->durable_size + 1);
    case 2:
        return size > file->reserved ? size : file->reserved;
    default:
        return size;
    }
}

static void crash_file(struct simulated_disk *disk, struct disk_file *file)
{
    static const uint32_t keeping_ppm[] = {0, 100000, 500000, 900000, 1000000};
    uint32_t keep_ppm = keeping_ppm[disk_random(disk) % 5];
    uint64_t size = size_after_crash(disk, file);

    for (size_t s = 0; s < sectors_of(file->size); s++) {
        struct sector *sector = &file->sectors[s];
        uint16_t has = sector_bytes(file->size, s);
        if (sector->durable < has && (sector->lost || !disk_happens(disk, keep_ppm)))
            memset(file->image + s * SECTOR_SIZE + sector->durable, 0,
                   (size_t)(has - sector->durable));
    }
    if (size < file->size)
        disk_truncate(file, size);
    else
        grow(file, size);
    for (size_t s = 0; s < sectors_of(file->size); s++) {
        file->sectors[s].durable = sector_bytes(file->size, s);
        file->sectors[s].lost = false;
    }
    file->end = file->durable_size = file->dirty_from = file->size;
    file->reserved = 0;
    file->is_sealed = false;
    file->handles = 0;
}

void simulated_disk_crash(struct simulated_disk *disk)
{
    if (disk->store)
        disk->store_crash(disk->store);
    disk->store = NULL;
    LIST_EACH (&disk->files, link) {
        struct disk_file *file = CONTAINER_OF(link, struct disk_file, link);
        if (file->is_removed)
            file_free(file);
        else
            crash_file(disk, file);
    }
    if (disk->meta_perhaps.bytes && disk_coin(disk)) {
        disk_meta_clear(&disk->meta);
        disk->meta = disk->meta_perhaps;
        disk->meta_perhaps = (struct disk_meta){.bytes = NULL};
    }
    disk_meta_clear(&disk->meta_perhaps);
    disk_check(disk);
}

/* ---- the disk ---- */

struct simulated_disk *simulated_disk_new(uint64_t seed)
{
    struct simulated_disk *disk = memory_new(sizeof *disk);

    disk->random = seed;
    disk->faults.latency_max_ns = LATENCY_AT_START_NS;
    list_init(&disk->files);
    return disk;
}

void simulated_disk_free(struct simulated_disk *disk)
{
    ASSERT(!disk->store);
    LIST_EACH (&disk->files, link)
        file_free(CONTAINER_OF(link, struct disk_file, link));
    disk_meta_clear(&disk->meta);
    disk_meta_clear(&disk->meta_perhaps);
    free(disk);
}

static void meta_copy(struct disk_meta *copy, const struct disk_meta *meta)
{
    struct iovec slice = {meta->bytes, meta->size};

    if (meta->bytes)
        disk_meta_set(copy, &slice, 1, meta->version);
}

struct simulated_disk *simulated_disk_copy(const struct simulated_disk *disk, uint64_t seed)
{
    struct simulated_disk *copy = simulated_disk_new(seed);

    ASSERT(!disk->store);
    copy->faults = disk->faults;
    copy->flips = disk->flips;
    meta_copy(&copy->meta, &disk->meta);
    meta_copy(&copy->meta_perhaps, &disk->meta_perhaps);
    LIST_EACH (&disk->files, link) {
        const struct disk_file *file = CONTAINER_OF(link, struct disk_file, link);
        struct disk_file *again = memory_new(sizeof *again);
        *again = *file;
        list_init(&again->link);
        again->image = memory_new(file->capacity + 1);
        again->sectors = memory_new((sectors_of(file->capacity) + 1) * sizeof file->sectors[0]);
        if (file->capacity) {
            memcpy(again->image, file->image, file->size);
            memcpy(again->sectors, file->sectors,
                   sectors_of(file->capacity) * sizeof file->sectors[0]);
        }
        list_append(&copy->files, &again->link);
    }
    return copy;
}

bool simulated_disk_has(const struct simulated_disk *disk, struct slice bytes)
{
    if (disk->meta.bytes && memmem(disk->meta.bytes, disk->meta.size, bytes.data, bytes.size))
        return true;
    LIST_EACH (&disk->files, link) {
        const struct disk_file *file = CONTAINER_OF(link, struct disk_file, link);
        if (file->image && memmem(file->image, file->size, bytes.data, bytes.size))
            return true;
    }
    return false;
}

struct simulated_faults *simulated_disk_faults(struct simulated_disk *disk)
{
    return &disk->faults;
}

uint64_t simulated_disk_changes(const struct simulated_disk *disk)
{
    return disk->changes;
}

uint64_t simulated_disk_flips(const struct simulated_disk *disk)
{
    return disk->flips;
}

void disk_check(const struct simulated_disk *disk)
{
    LIST_EACH (&disk->files, link) {
        const struct disk_file *file = CONTAINER_OF(link, struct disk_file, link);
        ASSERT(file->end <= file->size && file->durable_size <= file->size);
        ASSERT(file->size <= file->capacity);
        for (size_t s = 0; s < sectors_of(file->size); s++)
            ASSERT(file->sectors[s].durable <= sector_bytes(file->size, s));
    }
}
