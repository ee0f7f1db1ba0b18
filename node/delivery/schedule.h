/* What a reply means for a recipient, and when it is tried again: RFC 5321 4.2.1 and 4.5.4.1.
 * Core; times are wall-clock ms. */
#ifndef BATON_DELIVERY_SCHEDULE_H
#define BATON_DELIVERY_SCHEDULE_H

#include "node/delivery/reply.h"
#include "replication/row.h"

struct schedule {
    const uint64_t *retry_ms; /* wait after the 1st, 2nd, ... attempt; the last one repeats */
    unsigned n_retry;
    uint64_t expire_ms;
    bool may_expire; /* not while the clock is in doubt (protocol 6) */
};

enum verdict {
    VERDICT_DELIVERED,
    VERDICT_DEFERRED,
    VERDICT_FAILED,
    VERDICT_EXPIRED,
    VERDICT_SUPPRESSED
};

/* After this age a recipient with NOTIFY=DELAY is told once that the message is late. */
enum { SCHEDULE_DELAY_WARN_MS = 4 * 3600 * 1000 };

/* Applies the result of an attempt to r: state, attempts, times, code. result with code 0 is our
 * own finding: temporary, unless its enhanced code begins with 5. result, remote and their bytes
 * are borrowed by r. random spreads the retry by up to a tenth. */
enum verdict schedule_apply(const struct schedule *s, struct row_recipient *r,
                            const struct reply *result, struct slice remote, int64_t received_ms,
                            int64_t now_ms, uint32_t random);
/* Was it tried, and is it too old to be tried again? */
bool schedule_expired(const struct schedule *s, const struct row_recipient *r, int64_t received_ms,
                      int64_t now_ms);
/* Ends r without another attempt; its last reply stays. */
void schedule_expire(struct row_recipient *r);
/* Ends r: its address is never sent to. */
void schedule_suppress(struct row_recipient *r, int64_t now_ms);
/* Did this attempt, deferred, cross the age at which the sender wants to hear of a delay? before:
 * last_ms before the attempt. */
bool schedule_delay_due(const struct row_recipient *r, int64_t before_ms, int64_t received_ms,
                        int64_t now_ms);
#endif
