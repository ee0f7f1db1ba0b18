/* See destination.h. */
#include "node/delivery/destination.h"

#include <assert.h>
#include <stdio.h>

void destination_init(struct destination *d, const struct config_destination *limits,
                      uint64_t now_ms)
{
    *d = (struct destination){.tokens_at_ms = now_ms};
    destination_limit(d, limits);
    d->window = d->connections_max < DESTINATION_WINDOW_START ? d->connections_max
                                                              : DESTINATION_WINDOW_START;
    d->tokens = 1;
}

void destination_limit(struct destination *d, const struct config_destination *limits)
{
    d->connections_max = limits->connections ? limits->connections : 1;
    d->messages_max = limits->messages_per_connection;
    d->rate_per_s = limits->rate_per_s;
    if (d->window > d->connections_max)
        d->window = d->connections_max;
}

bool destination_backing_off(const struct destination *d, uint64_t now_ms)
{
    return d->backoff_until_ms > now_ms;
}

bool destination_may_open(const struct destination *d, uint64_t now_ms, unsigned waiting,
                          unsigned idle)
{
    return !destination_backing_off(d, now_ms) && waiting > idle && d->open < d->window;
}

bool destination_take(struct destination *d, uint64_t now_ms)
{
    if (d->rate_per_s <= 0)
        return true;
    /* A quarter of a second's worth may come in one burst: small, so that a receiver who counts
     * per second never sees much more than the rate. */
    double burst = d->rate_per_s / 4 < 1 ? 1 : d->rate_per_s / 4;
    if (now_ms > d->tokens_at_ms)
        d->tokens += (double)(now_ms - d->tokens_at_ms) * d->rate_per_s / 1000;
    d->tokens_at_ms = now_ms;
    if (d->tokens > burst)
        d->tokens = burst;
    if (d->tokens < 1)
        return false;
    d->tokens -= 1;
    return true;
}

bool destination_worn(const struct destination *d, uint64_t sent)
{
    return d->messages_max && sent >= d->messages_max;
}

void destination_succeeded(struct destination *d)
{
    d->failures = 0;
    d->backoff_until_ms = 0;
    d->why[0] = 0;
    if (d->window < d->connections_max)
        d->window++;
}

void destination_crowded(struct destination *d)
{
    unsigned working = d->open > 1 ? d->open - 1 : 1;
    d->window = working < d->window ? working : d->window > 1 ? d->window - 1 : 1;
    assert(d->window >= 1);
}

void destination_failed(struct destination *d, uint64_t now_ms, uint32_t random, const char *why)
{
    uint64_t wait = DESTINATION_BACKOFF_MIN_MS;
    for (unsigned i = 0; i < d->failures && wait < DESTINATION_BACKOFF_MAX_MS; i++)
        wait *= 2;
    if (wait > DESTINATION_BACKOFF_MAX_MS)
        wait = DESTINATION_BACKOFF_MAX_MS;
    wait = wait * 3 / 4 + (uint64_t)((double)wait / 2 * random / UINT32_MAX);
    d->failures++;
    d->backoff_until_ms = now_ms + wait;
    d->window = 1; /* one connection finds out whether it is back */
    snprintf(d->why, sizeof d->why, "%s", why);
}
