#include "base/account.h"

#include "base/assert.h"

void account_init(struct account *account, struct account *parent, uint64_t limit)
{
    *account = (struct account){.parent = parent, .limit = limit};
}

void account_fini(struct account *account)
{
    ASSERT(account->used == 0);
}

int account_charge(struct account *account, uint64_t size)
{
    for (struct account *a = account; a; a = a->parent) {
        if (a->limit && (size > a->limit || a->used > a->limit - size)) {
            a->refusals++;
            return E_MEMORY;
        }
    }
    account_add(account, size);
    return 0;
}

void account_add(struct account *account, uint64_t size)
{
    for (struct account *a = account; a; a = a->parent) {
        a->used += size;
        if (a->used > a->peak)
            a->peak = a->used;
    }
}

void account_release(struct account *account, uint64_t size)
{
    for (struct account *a = account; a; a = a->parent) {
        ASSERT(a->used >= size);
        a->used -= size;
    }
}
