/*
 * One world for each seed. Processes beside this one do the work, each a block of seeds at a time,
 * the lowest that is left; so what a seed does to its process ends that one alone, and the first
 * that fails is found with any number of them. What they have done stands in memory that all share.
 */
#include "world.h"

#include <signal.h>
#include <stdatomic.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define BLOCK_SEEDS    100u
#define PROGRESS_S     60u
#define LOOK_EACH_NS   20000000
#define FAILURES_SHOWN 20u

/* One process after the other. */
struct slot {
    pid_t process; /* 0: none */
    uint64_t seed, block_end;
    uint64_t passed, deliveries, far_deliveries, crashes, confirms, alarms, moved;
    uint64_t mortal_sights, mortal_deaths, redrives, policies;
};

struct shared {
    _Atomic uint64_t next;         /* seed of no block yet */
    _Atomic uint64_t first_failed; /* UINT64_MAX: none */
    uint64_t failed;
    struct slot slots[JOBS_MAX];
};

/* ---- in a process of its own, or with --jobs 0 in this one ---- */

static void run_seed(const struct options *options, struct slot *slot, struct world *w,
                     struct room *room)
{
    world_run_seed(w, options, slot->seed, room);
    slot->passed++;
    slot->deliveries += w->deliveries;
    slot->far_deliveries += w->far_deliveries;
    slot->crashes += w->crashes;
    slot->confirms += w->confirms;
    slot->alarms += w->alarms;
    slot->moved += w->moved;
    slot->mortal_sights += w->mortal_sights;
    slot->mortal_deaths += w->mortal_deaths;
    slot->redrives += w->redrives;
    slot->policies += w->policies;
}

/* First what is left of the block at hand. */
static void run_blocks(const struct options *options, struct shared *shared, struct slot *slot)
{
    uint64_t end = options->first + options->count;
    struct world *w = memory_new(sizeof *w);
    struct room *room = room_new();

    for (;;) {
        if (slot->seed == slot->block_end) {
            slot->seed = atomic_fetch_add(&shared->next, BLOCK_SEEDS);
            slot->block_end = slot->seed + BLOCK_SEEDS < end ? slot->seed + BLOCK_SEEDS : end;
        }
        if (slot->seed >= end || (slot->seed > shared->first_failed && !options->goes_on))
            break;
        run_seed(options, slot, w, room);
        slot->seed++;
    }
    slot->block_end = slot->seed;
    free(room);
    free(w);
}

/* ---- the one that waits ---- */

static void begin(const struct options *options, struct shared *shared, struct slot *slot)
{
    fflush(NULL);
    pid_t process = fork();
    if (process < 0) {
        perror("fork");
        exit(2);
    }
    if (process == 0) {
        run_blocks(options, shared, slot);
        exit(0);
    }
    slot->process = process;
}

/* It has ended; if it was a seed that ended it, the next one may go on behind that. */
static void ended(const struct options *options, struct shared *shared, struct slot *slot,
                  int status)
{
    slot->process = 0;
    if (WIFEXITED(status) && WEXITSTATUS(status) == 0)
        return;
    if (WIFSIGNALED(status))
        fprintf(stderr, "seed %" PRIu64 ": %s\n", slot->seed, strsignal(WTERMSIG(status)));
    if (shared->failed++ < FAILURES_SHOWN)
        fprintf(stderr, "again: %s --seed %" PRIu64 " --count 1 --verbose%s%s\n", options->program,
                slot->seed, options->fault ? " --fault " : "",
                options->fault ? options->fault : "");
    if (slot->seed < shared->first_failed)
        shared->first_failed = slot->seed;
    slot->seed++;
    if (options->goes_on)
        begin(options, shared, slot);
}

static struct slot total(const struct shared *shared)
{
    struct slot sum = {0};

    for (unsigned i = 0; i < JOBS_MAX; i++) {
        const struct slot *slot = &shared->slots[i];
        sum.passed += slot->passed;
        sum.deliveries += slot->deliveries;
        sum.far_deliveries += slot->far_deliveries;
        sum.crashes += slot->crashes;
        sum.confirms += slot->confirms;
        sum.alarms += slot->alarms;
        sum.moved += slot->moved;
        sum.mortal_sights += slot->mortal_sights;
        sum.mortal_deaths += slot->mortal_deaths;
        sum.redrives += slot->redrives;
        sum.policies += slot->policies;
    }
    return sum;
}

static void wait_for_all(const struct options *options, struct shared *shared)
{
    time_t told = time(NULL);
    bool some = true;

    while (some) {
        some = false;
        nanosleep(&(struct timespec){.tv_nsec = LOOK_EACH_NS}, NULL);
        for (unsigned i = 0; i < options->jobs; i++) {
            struct slot *slot = &shared->slots[i];
            int status;
            if (slot->process && waitpid(slot->process, &status, WNOHANG) == slot->process)
                ended(options, shared, slot, status);
            some = some || slot->process;
        }
        if (time(NULL) - told < PROGRESS_S)
            continue;
        told = time(NULL);
        fprintf(stderr, "%" PRIu64 " passed, %" PRIu64 " failed so far\n", total(shared).passed,
                shared->failed);
    }
}

int seeds_run(const struct options *options)
{
    struct shared *shared =
        mmap(NULL, sizeof *shared, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);

    if (shared == MAP_FAILED) {
        perror("mmap");
        return 2;
    }
    shared->next = options->first;
    shared->first_failed = UINT64_MAX;
    if (options->jobs == 0)
        run_blocks(options, shared, &shared->slots[0]);
    for (unsigned i = 0; i < options->jobs; i++)
        begin(options, shared, &shared->slots[i]);
    wait_for_all(options, shared);

    struct slot sum = total(shared);
    uint64_t failures = shared->failed;
    printf("%" PRIu64 " seeds: %" PRIu64 " crashes, %" PRIu64 " confirms, %" PRIu64
           " deliveries, %" PRIu64 " of them by mail, %" PRIu64 " alarms that ended, %" PRIu64
           " moves, %" PRIu64 " deliveries of mortals, %" PRIu64 " of them dead letters, %" PRIu64
           " redrives, %" PRIu64 " policies\n",
           sum.passed, sum.crashes, sum.confirms, sum.deliveries, sum.far_deliveries, sum.alarms,
           sum.moved, sum.mortal_sights, sum.mortal_deaths, sum.redrives, sum.policies);
    if (failures > 0)
        printf("the first that failed: %" PRIu64 "\n", shared->first_failed);
    printf("%" PRIu64 " passed, %" PRIu64 " failed\n", sum.passed, failures);
    munmap(shared, sizeof *shared);
    return failures > 0;
}
