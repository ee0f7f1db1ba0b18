/* The one source of chance of a run: the same seed gives the same run, bit for bit (splitmix64). */
#ifndef BATON_SIM_RNG_H
#define BATON_SIM_RNG_H

#include <stdbool.h>
#include <stdint.h>

struct rng {
    uint64_t s;
};

static inline uint64_t rng_mix(uint64_t z)
{
    z = (z ^ (z >> 30)) * 0xbf58476d1ce4e5b9u;
    z = (z ^ (z >> 27)) * 0x94d049bb133111ebu;
    return z ^ (z >> 31);
}
static inline uint64_t rng_u64(struct rng *r)
{
    return rng_mix(r->s += 0x9e3779b97f4a7c15u);
}
/* 0 .. n-1 */
static inline uint64_t rng_below(struct rng *r, uint64_t n)
{
    return n ? rng_u64(r) % n : 0;
}
static inline uint64_t rng_range(struct rng *r, uint64_t lo, uint64_t hi)
{
    return lo + rng_below(r, hi - lo + 1);
}
static inline double rng_unit(struct rng *r)
{
    return (double)(rng_u64(r) >> 11) / 9007199254740992.0;
}
static inline bool rng_chance(struct rng *r, double p)
{
    return rng_unit(r) < p;
}
/* lo .. hi, small values far more often: each magnitude is as likely as the next. */
static inline uint64_t rng_skewed(struct rng *r, uint64_t lo, uint64_t hi)
{
    double u = rng_unit(r);
    return lo + (uint64_t)((double)(hi - lo) * u * u * u);
}
#endif
