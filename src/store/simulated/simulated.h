/*
 * The store in memory that does everything a disk may do, by seed: late completions, lost unsynced
 * writes at a crash, torn and reordered writes, failing writes, syncs and reads, a full disk,
 * flipped bits.
 *
 * The *disk* outlives the store: a crash ends the store (and its loop) and leaves the disk with
 * what a crash leaves.
 */
#ifndef SLUICE_STORE_SIMULATED_SIMULATED_H
#define SLUICE_STORE_SIMULATED_SIMULATED_H

#include "store/store.h"

struct simulated_disk;

struct simulated_faults {
    uint32_t write_fails_ppm; /* of writes: an error, and any part of it may have happened */
    uint32_t sync_fails_ppm;  /* and what it should have made durable may be lost, even though later
                                 reads show it */
    uint32_t read_fails_ppm;
    uint32_t flip_ppm;       /* of reads of synced bytes: one bit of the disk turns, for good */
    uint64_t capacity;       /* bytes; then E_FULL. 0: no limit */
    uint64_t latency_max_ns; /* each operation takes 1 ns to this */
    bool forget_syncs;       /* a lie: syncs do nothing (the mutation that tests must find) */
};

struct simulated_disk *simulated_disk_new(uint64_t seed);
void simulated_disk_free(struct simulated_disk *disk);
struct simulated_faults *
simulated_disk_faults(struct simulated_disk *disk); /* may be changed at any time */

/* What was not synced is kept, lost or torn by seed. The store that was open on it is gone: its
 * requests never complete, its memory is released with its loop. */
void simulated_disk_crash(struct simulated_disk *disk);

uint64_t simulated_disk_used(const struct simulated_disk *disk);

/* How many bits were flipped so far: whoever reads must report corruption at least when it meets
 * one. */
uint64_t simulated_disk_flips(const struct simulated_disk *disk);

/* How often something was made, written, cut, sealed or removed: the same number, the same disk. */
uint64_t simulated_disk_changes(const struct simulated_disk *disk);

/* Another disk with the same on it: a backup that is put back. No store is open on either. */
struct simulated_disk *simulated_disk_copy(const struct simulated_disk *disk, uint64_t seed);

/* Whether these bytes are anywhere on it, in one piece: also where files end no longer. */
bool simulated_disk_has(const struct simulated_disk *disk, struct slice bytes);

/* E_HELD when a store is open on it. */
int store_simulated_open(struct loop *loop, struct simulated_disk *disk, struct store **store,
                         struct failure *failure) MUST_CHECK;

#endif
