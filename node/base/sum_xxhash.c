/* See sum_xxhash.h. */
#include "node/base/sum_xxhash.h"

#include <xxhash.h>

uint64_t sum_bytes(struct slice s)
{
    return XXH3_64bits(s.p, s.n);
}
