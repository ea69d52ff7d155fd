#include "auth/password.h"

#include "base/assert.h"

#include <argon2.h>
#include <stdlib.h>

#define HASH_SIZE      32u
#define LANES          1u /* a job has one thread */
#define MEMORY_KIB_MIN 8u
#define MEMORY_KIB_MAX (1u << 20)
#define ROUNDS_MAX     100u
#define ENCODED_PREFIX "$argon2id$v=19$"

const struct password_cost password_cost_default = {.memory_kib = 19 * 1024, .rounds = 2};

static bool cost_is_allowed(const struct password_cost *cost)
{
    return cost->memory_kib >= MEMORY_KIB_MIN && cost->memory_kib <= MEMORY_KIB_MAX &&
           cost->rounds >= 1 && cost->rounds <= ROUNDS_MAX;
}

/* "NAME=NUMBER," at *text, which is moved on; 0 where there is none. */
static uint32_t take_parameter(const char **text, char name)
{
    char *end;

    if ((*text)[0] != name || (*text)[1] != '=' || (*text)[2] < '0' || (*text)[2] > '9')
        return 0;
    unsigned long value = strtoul(*text + 2, &end, 10);
    if (*end != ',' || value > UINT32_MAX)
        return 0;
    *text = end + 1;
    return (uint32_t)value;
}

/* What a stored hash would cost to verify, looked at before the library spends it: the text comes
 * from disk or was imported. */
static bool encoded_is_allowed(const char *text)
{
    struct password_cost cost;

    if (!memchr(text, 0, PASSWORD_HASH_MAX) ||
        strncmp(text, ENCODED_PREFIX, sizeof ENCODED_PREFIX - 1) != 0)
        return false;
    text += sizeof ENCODED_PREFIX - 1;
    cost.memory_kib = take_parameter(&text, 'm');
    cost.rounds = take_parameter(&text, 't');
    return cost_is_allowed(&cost);
}

static int hash(struct password_job *job)
{
    if (!cost_is_allowed(&job->cost))
        return E_INVALID;
    int result = argon2id_hash_encoded(job->cost.rounds, job->cost.memory_kib, LANES, job->password,
                                       job->password_size, job->salt, sizeof job->salt, HASH_SIZE,
                                       job->hash, sizeof job->hash);
    return result == ARGON2_OK                        ? 0
           : result == ARGON2_MEMORY_ALLOCATION_ERROR ? E_MEMORY
                                                      : E_INVALID;
}

static int verify(struct password_job *job)
{
    if (!encoded_is_allowed(job->hash))
        return E_INVALID;
    switch (argon2id_verify(job->hash, job->password, job->password_size)) {
    case ARGON2_OK:
        return 0;
    case ARGON2_VERIFY_MISMATCH:
        return E_LOGIN;
    case ARGON2_MEMORY_ALLOCATION_ERROR:
        return E_MEMORY;
    default:
        return E_INVALID;
    }
}

void password_work(struct job *work)
{
    struct password_job *job = CONTAINER_OF(work, struct password_job, job);

    ASSERT(job->password_size <= PASSWORD_MAX);
    job->result = job->verify ? verify(job) : hash(job);
    explicit_bzero(job->password, sizeof job->password);
}
