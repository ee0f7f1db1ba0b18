/* How fast one next hop may be used: connections, rate, back-off. Core; times are monotonic ms. */
#ifndef BATON_DELIVERY_DESTINATION_H
#define BATON_DELIVERY_DESTINATION_H

#include "node/base/config.h"

enum {
    DESTINATION_WINDOW_START = 5, /* connections before anything is known (as Postfix does) */
    DESTINATION_BACKOFF_MIN_MS = 5000,
    DESTINATION_BACKOFF_MAX_MS = 600000,
};

struct destination {
    unsigned connections_max, messages_max;
    double rate_per_s; /* 0: no limit */
    unsigned window;   /* connections allowed at present: grows with success */
    unsigned open;     /* connections there are, in whatever state */
    double tokens;
    uint64_t tokens_at_ms;
    uint64_t backoff_until_ms; /* 0: none */
    unsigned failures;         /* in a row */
    char why[200];             /* of the back-off */
};

void destination_init(struct destination *d, const struct config_destination *limits,
                      uint64_t now_ms);
/* New limits after a reload; keeps what was learnt. */
void destination_limit(struct destination *d, const struct config_destination *limits);
bool destination_backing_off(const struct destination *d, uint64_t now_ms);
/* Is another connection worth opening for `waiting` transactions, with `idle` connections free or
 * about to be? */
bool destination_may_open(const struct destination *d, uint64_t now_ms, unsigned waiting,
                          unsigned idle);
/* Takes the right to start one transaction. False: not yet (rate). */
bool destination_take(struct destination *d, uint64_t now_ms);
/* After `sent` transactions: should this connection be closed? */
bool destination_worn(const struct destination *d, uint64_t sent);
void destination_succeeded(struct destination *d);
/* One of several connections was turned away while others work: fewer for now. */
void destination_crowded(struct destination *d);
/* No way in at all: back off, twice as long as the last time, spread by random (0..UINT32_MAX). */
void destination_failed(struct destination *d, uint64_t now_ms, uint32_t random, const char *why);
#endif
