/* Wall clocks (protocol 6, incident 27): what one of them says of a message's age is only worth
 * something while it agrees with the other node's. Core. */
#ifndef BATON_HEALTH_WALL_H
#define BATON_HEALTH_WALL_H

#include "health/pair.h"

enum { WALL_APART_MS = 60000, WALL_HOLD_MS = 3600000 };

/* The clocks differ by more than a minute, or nothing is known of the other one's. Both when
 * the other was heard last and now: a clock may have jumped while this process stood still. */
bool wall_apart(const struct pair_view *v, uint64_t now_ns, int64_t wall_ms);
/* May mail expire now? Not within an hour after this process began to serve while the clocks are
 * apart: it may have taken over from the other node, in this life or in one before. serving_ns:
 * when it began, on the clock of now_ns; 0: it doesn't serve. */
bool wall_may_expire(const struct pair_view *v, uint64_t serving_ns, uint64_t now_ns,
                     int64_t wall_ms);
#endif
