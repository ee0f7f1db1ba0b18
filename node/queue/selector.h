/* Which recipients an operator means, and what is to be done with them. Core. */
#ifndef BATON_QUEUE_SELECTOR_H
#define BATON_QUEUE_SELECTOR_H

#include "replication/row.h"

enum select_action {
    SELECT_HOLD,
    SELECT_RELEASE,
    SELECT_RETRY,
    SELECT_CANCEL,
    SELECT_REDATE, /* the queue's own: see ahead_ms */
};

/* Enhanced code of a recipient that the relay itself holds: system, something is wrong here. */
#define REASON_ENHANCED "4.3.0"

struct selector { /* ANDed; unset parts match all */
    bool all;
    uint64_t id;
    char *domain, *sender, *campaign;
    char state[16]; /* "", queued, deferred, held, quarantined, in-doubt */
    uint64_t older_than_ms;
    /* Next attempt, or end of a quarantine, further ahead than any schedule would put it: it was
     * set by a clock that was wrong, here or on the other node. 0: doesn't matter. For
     * SELECT_REDATE alone: where only what an operator holds is so far ahead, nothing is found. */
    uint64_t ahead_ms;
};

/* "queued" (never attempted), "deferred", "held", "quarantined", "in-doubt", or, when terminal, the
 * state's name. Every unfinished recipient is in one of the first five. */
const char *selector_state(const struct row_recipient *r);
/* Does the state part fit? The other parts never change once a recipient is there. */
bool selector_fits(const struct selector *s, const struct row_recipient *r);
/* Carries the action out on the row; false: there is nothing to change. */
bool selector_apply(enum select_action action, const struct selector *s, struct row_recipient *r,
                    int64_t now_ms);
#endif
