/*
 * Encryption at rest, in half of the worlds: the master keys change while workers run, those that
 * are not needed any more are thrown away, and some starts come with wrong ones. A witness sees all
 * that is sealed, in all lives and on all disks: nothing under a key and nonce that other bytes
 * had.
 *
 * It has dice of its own, so that worlds in the clear are as they were.
 */
#include "world.h"

#define KEYS_MAX 6u /* at a time */

struct locks {
    uint64_t random;
    struct keyring keys, opening; /* those there are; what this start comes with */
    struct test_witness witness;
    bool is_wrong;
    uint64_t changes[SHARDS_MAX]; /* of the disks, before it */
};

static uint64_t lock_dice(struct locks *locks, uint64_t sides)
{
    locks->random ^= locks->random << 13;
    locks->random ^= locks->random >> 7;
    locks->random ^= locks->random << 17;
    return locks->random % sides;
}

static struct master_key new_key(struct locks *locks, uint32_t id)
{
    struct master_key key = {.id = id};

    for (size_t i = 0; i < sizeof key.bytes; i += 8)
        store_le64(key.bytes + i, lock_dice(locks, UINT64_MAX));
    return key;
}

struct locks *locks_new(const struct world *w)
{
    struct locks *locks = memory_new(sizeof *locks);

    locks->random = w->seed * 0xd1342543de82ef95ull + 1;
    locks->keys = (struct keyring){.keys = {new_key(locks, 1)}, .count = 1};
    test_witness_init(&locks->witness);
    return locks;
}

void locks_free(struct locks *locks)
{
    test_witness_fini(&locks->witness);
    free(locks);
}

/* Somebody has lost them, or has others. Then nothing is encrypted, so that no wrong key is used.
 */
static void take_wrong_keys(struct locks *locks)
{
    struct keyring *keys = &locks->opening;

    locks->is_wrong = true;
    keys->count = (unsigned)lock_dice(locks, 2);
    if (lock_dice(locks, 2))
        keys->keys[0].id += 100;
    else
        keys->keys[0].bytes[lock_dice(locks, CIPHER_KEY_SIZE)] ^= 1;
}

void locks_choose(struct world *w, struct worker_options *options, bool may_be_wrong)
{
    struct locks *locks = w->locks;

    if (!locks)
        return;
    locks->opening = locks->keys;
    locks->is_wrong = false;
    options->log.encrypts = lock_dice(locks, 8) > 0;
    if (may_be_wrong && lock_dice(locks, 8) == 0) {
        take_wrong_keys(locks);
        options->log.encrypts = false;
    }
    options->log.keys = &locks->opening;
    options->log.witness = &locks->witness.cipher;
    for (unsigned i = 0; i < w->shards; i++)
        locks->changes[i] = simulated_disk_changes(w->disks[i]);
}

void locks_refused(const struct world *w, int result, const struct failure *why)
{
    const struct locks *locks = w->locks;

    if (result != E_KEY)
        return;
    CHECK(w, locks && locks->is_wrong, "the right keys are not taken: %s", why->text);
    for (unsigned i = 0; i < w->shards && strncmp(why->text, "shard 1:", 8) == 0; i++)
        CHECK(w, simulated_disk_changes(w->disks[i]) == locks->changes[i],
              "wrong keys, and disk %u has changed", i);
}

/* Whether all logs take them. What some do not give up yet stays among the keys of the next start.
 */
static bool give_keys(struct world *w, const struct keyring *keys)
{
    struct failure failure;
    bool all = true;

    for (unsigned i = 0; i < w->workers; i++) {
        int result = worker_set_keys(w->members[i].worker, keys, &failure);
        CHECK(w, result == 0 || result == E_KEY, "%s (%s)", failure.text, error_name(result));
        all = all && result == 0;
    }
    return all;
}

void locks_act(struct world *w)
{
    struct locks *locks = w->locks;
    struct keyring keys;

    if (!locks || locks->is_wrong || lock_dice(locks, 40) > 0)
        return;
    keys = locks->keys;
    if (keys.count < KEYS_MAX && lock_dice(locks, 2)) {
        memmove(&keys.keys[1], &keys.keys[0], keys.count++ * sizeof keys.keys[0]);
        keys.keys[0] = new_key(locks, keys.keys[1].id + 1);
        trace(w, "there is key %u, and %u older", keys.keys[0].id, keys.count - 1);
        CHECK(w, give_keys(w, &keys), "a new key is not taken");
        locks->keys = keys;
        if (lock_dice(locks, 2))
            return;
        world_run(w, lock_dice(locks, 3 * NANOSECONDS_PER_MS)); /* a little later, or at once */
    }
    keys.count = 1;
    if (give_keys(w, &keys)) {
        trace(w, "no other key than %u is needed", keys.keys[0].id);
        locks->keys = keys;
    }
}

void locks_life_over(const struct world *w)
{
    CHECK(w, !w->locks || !w->locks->witness.has_reuse, "a nonce was used again");
}
