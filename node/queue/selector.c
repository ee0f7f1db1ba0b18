/* See selector.h. */
#include "node/queue/selector.h"

const char *selector_state(const struct row_recipient *r)
{
    if (rcpt_terminal(r->state))
        return rcpt_state_name(r->state);
    if (r->held)
        return "held";
    if (r->state == RCPT_QUARANTINED)
        return "quarantined";
    if (r->in_doubt)
        return "in-doubt";
    return r->attempts ? "deferred" : "queued";
}

bool selector_fits(const struct selector *s, const struct row_recipient *r)
{
    return !rcpt_terminal(r->state) && (!s->state[0] || strcmp(s->state, selector_state(r)) == 0);
}

bool selector_apply(enum select_action action, const struct selector *s, struct row_recipient *r,
                    int64_t now_ms)
{
    if (rcpt_terminal(r->state))
        return false;
    switch (action) {
    case SELECT_HOLD:
        if (r->held)
            return false;
        r->held = 1;
        return true;
    case SELECT_RELEASE:
        if (!r->held && r->state != RCPT_QUARANTINED)
            return false;
        /* Out of a hold first: what is quarantined as well is released by a second word. */
        if (r->held)
            r->held = 0;
        else
            r->state = RCPT_QUEUED;
        if (r->state == RCPT_QUEUED)
            r->next_ms = now_ms;
        return true;
    case SELECT_RETRY:
        if (r->state != RCPT_QUEUED || r->next_ms <= now_ms)
            return false;
        r->next_ms = now_ms;
        return true;
    case SELECT_CANCEL:
        r->state = RCPT_CANCELLED;
        return true;
    case SELECT_REDATE:
        if (r->next_ms <= now_ms + (int64_t)s->ahead_ms)
            return false;
        r->next_ms = now_ms + (r->state == RCPT_QUARANTINED ? (int64_t)s->ahead_ms : 0);
        return true;
    }
    return false;
}
