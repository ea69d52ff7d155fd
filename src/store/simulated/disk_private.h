/*
 * The simulated disk under the store: what reads see (the image) and what a crash would leave.
 *
 * A file is append-only, so a sector's old content is always a prefix of its new one; what is
 * durable of it is a number of bytes:
 *
 *      sector      0         1         2         3
 *      image     |#########|#########|######   |
 *      durable    512       512       100         sector 2 was synced when it held 100 bytes
 *
 * Invariants:
 *  D1  durable <= bytes of the image in that sector <= 512
 *  D2  a sync moves `durable` of the sectors it covers up to the image, except for lost sectors
 *  D3  a lost sector was to be synced when the sync failed: the system thinks it clean, so later
 *      syncs pass over it; only writing into it again makes it dirty again
 *  D4  a crash keeps the durable bytes of each sector; what is beyond goes or stays by seed, a
 *      sector as a whole; sizes never fall below durable_size
 */
#ifndef SLUICE_STORE_SIMULATED_DISK_PRIVATE_H
#define SLUICE_STORE_SIMULATED_DISK_PRIVATE_H

#include "store/simulated/simulated.h"

#define SECTOR_SIZE 512u

struct sector {
    uint16_t durable;
    bool lost;
    bool flipped;
};

struct disk_file {
    struct list link;
    char name[STORE_NAME_MAX + 1];
    uint8_t *image;
    struct sector *sectors;
    size_t size; /* of the image */
    size_t capacity;
    uint64_t end; /* where the next write goes; beyond it the image has parts of failed writes */
    uint64_t durable_size;
    uint64_t dirty_from; /* before it nothing is left to sync */
    uint64_t reserved;
    unsigned handles;
    bool is_removed; /* while handles are open */
    bool is_sealed;
};

struct disk_meta {
    uint8_t *bytes; /* NULL: there is none */
    size_t size;
    uint64_t version;
};

struct simulated_disk {
    struct simulated_faults faults;
    uint64_t random;
    struct list files;
    struct disk_meta meta;
    struct disk_meta meta_perhaps; /* of a write that failed: after a crash it may be there */
    uint64_t flips, changes;
    struct store *store;
    void (*store_crash)(struct store *store);
};

uint64_t disk_random(struct simulated_disk *disk);
bool disk_happens(struct simulated_disk *disk, uint32_t ppm);
bool disk_coin(struct simulated_disk *disk);

struct disk_file *disk_find(struct simulated_disk *disk, const char *name);
int disk_create(struct simulated_disk *disk, const char *name, uint64_t reserve,
                struct disk_file **file) MUST_CHECK;
void disk_remove(struct simulated_disk *disk, struct disk_file *file);
void disk_file_release(struct disk_file *file); /* a handle is closed */

/* At the file's end. E_FULL, E_IO. */
int disk_write(struct simulated_disk *disk, struct disk_file *file, const struct iovec *slices,
               int count, uint64_t size) MUST_CHECK;
/* Some sectors of it, as a write that fails or is cut by a crash leaves them; the end stays. */
void disk_write_torn(struct simulated_disk *disk, struct disk_file *file,
                     const struct iovec *slices, int count, uint64_t size);
int disk_sync(struct simulated_disk *disk, struct disk_file *file, uint64_t upto) MUST_CHECK;
size_t disk_read(struct simulated_disk *disk, struct disk_file *file, bool direct, uint64_t offset,
                 uint8_t *into, size_t size);
void disk_truncate(struct disk_file *file, uint64_t size);
void disk_seal(struct disk_file *file);

void disk_meta_set(struct disk_meta *meta, const struct iovec *slices, int count, uint64_t version);
void disk_meta_clear(struct disk_meta *meta);

/* Asserts D1 and D4's sizes for each file. */
void disk_check(const struct simulated_disk *disk);

#endif
