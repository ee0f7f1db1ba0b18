/* See selector.h. */
#include "node/queue/selector.h"

const char *selector_state(const struct row_recipient *r)
{
    if (rcpt_terminal(r->state))
        return rcpt_state_name(r->state);
    if (r->held & HELD_OPERATOR)
        return "held";
    if (r->state == RCPT_QUARANTINED)
        return "quarantined";
    if (r->in_doubt == DOUBT_YES)
        return "in-doubt";
    return r->attempts ? "deferred" : "queued";
}

bool selector_fits(const struct selector *s, const struct row_recipient *r)
{
    return !rcpt_terminal(r->state) && (!s->state[0] || strcmp(s->state, selector_state(r)) == 0);
}

/* One reason at a time, an operator's hold first: what is quarantined or in doubt as well is
 * released by a second word. */
static bool release(struct row_recipient *r, int64_t now_ms)
{
    if (r->held & HELD_OPERATOR) {
        r->held &= (uint8_t)~HELD_OPERATOR;
        if (r->in_doubt == DOUBT_YES) /* its time goes on */
            return true;
    } else if (r->state == RCPT_QUARANTINED) {
        r->state = RCPT_QUEUED;
    } else if (r->in_doubt == DOUBT_YES) {
        r->in_doubt = DOUBT_NONE;
        r->held &= (uint8_t)~HELD_DOUBT;
    } else {
        return false;
    }
    if (r->state == RCPT_QUEUED)
        r->next_ms = now_ms;
    return true;
}

bool selector_apply(enum select_action action, const struct selector *s, struct row_recipient *r,
                    int64_t now_ms)
{
    if (rcpt_terminal(r->state))
        return false;
    switch (action) {
    case SELECT_HOLD:
        if (r->held & HELD_OPERATOR)
            return false;
        r->held |= HELD_OPERATOR;
        return true;
    case SELECT_RELEASE:
        return release(r, now_ms);
    case SELECT_RETRY:
        if (r->state != RCPT_QUEUED || r->next_ms <= now_ms || r->held & HELD_IN_DOUBT)
            return false; /* what may have been sent, at most once, is released by a clear word */
        r->next_ms = now_ms;
        return true;
    case SELECT_CANCEL:
        r->state = RCPT_CANCELLED;
        r->in_doubt = DOUBT_NONE;
        r->held = 0;
        return true;
    case SELECT_REDATE:
        if (r->next_ms <= now_ms + (int64_t)s->ahead_ms)
            return false;
        r->next_ms = now_ms + (r->state == RCPT_QUARANTINED ? (int64_t)s->ahead_ms : 0);
        return true;
    }
    return false;
}
