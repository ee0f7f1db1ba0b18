/* See sum_xxhash.h. */
#include "node/base/sum_xxhash.h"

#include <stdio.h>
#include <stdlib.h>
#include <xxhash.h>

uint64_t sum_bytes(struct slice s)
{
    return XXH3_64bits(s.p, s.n);
}

static XXH3_state_t *state(struct sum *x)
{
    return (XXH3_state_t *)x;
}

struct sum *sum_new(void)
{
    XXH3_state_t *s = XXH3_createState();
    if (!s) { /* its alignment is more than malloc's, so it can't come from xmalloc() */
        fputs("baton: out of memory\n", stderr);
        abort();
    }
    XXH3_64bits_reset(s);
    return (struct sum *)s;
}

void sum_update(struct sum *x, struct slice s)
{
    XXH3_64bits_update(state(x), s.p, s.n);
}

uint64_t sum_final(struct sum *x)
{
    uint64_t value = XXH3_64bits_digest(state(x));
    sum_free(x);
    return value;
}

void sum_free(struct sum *x)
{
    XXH3_freeState(state(x));
}
