/* See wall.h. */
#include "health/wall.h"
#include "node/base/mutant.h"

static bool beyond(int64_t skew_ms)
{
    return skew_ms > WALL_APART_MS || skew_ms < -WALL_APART_MS;
}

bool wall_apart(const struct pair_view *v, uint64_t now_ns, int64_t wall_ms)
{
    return v->silent_ns == UINT64_MAX || beyond(v->peer_wall_skew_ms) ||
           beyond(v->peer_wall_base_ms + (int64_t)(now_ns / UINT64_C(1000000)) - wall_ms);
}

bool wall_may_expire(const struct pair_view *v, uint64_t serving_ns, uint64_t now_ns,
                     int64_t wall_ms)
{
    if (!serving_ns)
        return false;
    return BATON_MUTANT(ANY_CLOCK_EXPIRES, true, !wall_apart(v, now_ns, wall_ms)) ||
           now_ns - serving_ns > WALL_HOLD_MS * UINT64_C(1000000);
}
