/* See schedule.h. */
#include "node/delivery/schedule.h"

#include <assert.h>

static int64_t next_attempt(const struct schedule *s, uint32_t attempts, int64_t now_ms,
                            uint32_t random)
{
    uint64_t wait = 300000;
    if (s->n_retry)
        wait = s->retry_ms[attempts - 1 < s->n_retry ? attempts - 1 : s->n_retry - 1];
    return now_ms + (int64_t)(wait + (uint64_t)((double)wait / 10 * random / UINT32_MAX));
}

enum verdict schedule_apply(const struct schedule *s, struct row_recipient *r,
                            const struct reply *result, struct slice remote, int64_t received_ms,
                            int64_t now_ms, uint32_t random)
{
    assert(r->state == RCPT_QUEUED);
    r->attempts++;
    r->last_ms = now_ms;
    r->in_doubt = DOUBT_NONE; /* an outcome of any kind settles it (protocol 9) */
    r->held &= (uint8_t)~HELD_DOUBT;
    r->code = result->code;
    r->enhanced = slice_str(result->enhanced);
    r->reply = slice_of(result->text, result->text_n);
    r->remote = remote;
    bool permanent = result->code ? result->code / 100 == 5 : result->enhanced[0] == '5';
    if (result->code / 100 == 2) {
        r->state = RCPT_DELIVERED;
        r->next_ms = 0;
        return VERDICT_DELIVERED;
    }
    if (permanent) {
        r->state = RCPT_FAILED;
        r->next_ms = 0;
        return VERDICT_FAILED;
    }
    if (schedule_expired(s, r, received_ms, now_ms)) {
        schedule_expire(r);
        return VERDICT_EXPIRED;
    }
    r->next_ms = next_attempt(s, r->attempts, now_ms, random);
    return VERDICT_DEFERRED;
}

bool schedule_expired(const struct schedule *s, const struct row_recipient *r, int64_t received_ms,
                      int64_t now_ms)
{
    return s->may_expire && r->attempts > 0 && now_ms - received_ms >= (int64_t)s->expire_ms;
}

void schedule_expire(struct row_recipient *r)
{
    assert(!rcpt_terminal(r->state));
    r->state = RCPT_EXPIRED;
    r->in_doubt = DOUBT_NONE;
    r->next_ms = 0;
}

void schedule_suppress(struct row_recipient *r, int64_t now_ms)
{
    r->state = RCPT_SUPPRESSED;
    r->next_ms = 0;
    r->last_ms = now_ms;
    r->code = 0;
    r->enhanced = r->remote = slice_of(NULL, 0);
    r->reply = SLICE_LIT("the address is on the list of those that are never sent to");
}

bool schedule_delay_due(const struct row_recipient *r, int64_t before_ms, int64_t received_ms,
                        int64_t now_ms)
{
    return (r->notify & NOTIFY_DELAY) && now_ms - received_ms >= SCHEDULE_DELAY_WARN_MS &&
           before_ms - received_ms < SCHEDULE_DELAY_WARN_MS;
}
