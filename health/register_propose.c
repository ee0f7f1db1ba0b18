/* The proposer: changes and reads (protocol 5; incidents 1, 11). Core. */
#include "health/register_core.h"
#include "node/base/mutant.h"

#include <assert.h>

static void finish(struct reg *r, enum register_outcome outcome)
{
    struct register_fx fx = {
        .type = REG_FX_RESULT, .outcome = outcome, .record = r->op.value, .ballot = r->op.ballot};
    if (outcome == REG_NOT_DONE || outcome == REG_UNKNOWN)
        fx.record = r->state.record; /* for what it's worth: one voter's, our own */
    r->op.phase = PHASE_IDLE;
    r->emit(r->ctx, &fx); /* may begin the next operation */
}

void reg_ask(struct reg *r, uint64_t gap_ns)
{
    struct register_msg m = {.type = r->op.phase == PHASE_PREPARE ? REG_PREPARE : REG_ACCEPT,
                             .nonce = r->op.nonce,
                             .ballot = r->op.ballot};
    if (m.type == REG_ACCEPT)
        m.record = r->op.value;
    r->op.resend_gap_ns = gap_ns;
    r->op.resend_ns = r->now_ns + gap_ns;
    struct ballot b = r->op.ballot;
    for (unsigned v = 0; v < VOTERS; v++)
        if (v != r->self && register_busy(r) && ballot_cmp(r->op.ballot, b) == 0)
            reg_send(r, v, m);
}

/* The range grows with each attempt: on slow disks an attempt itself takes longer than the first.
 */
void reg_back_off(struct reg *r)
{
    unsigned doublings = r->op.attempts < BACKOFF_DOUBLINGS ? r->op.attempts : BACKOFF_DOUBLINGS;
    uint64_t range = MS(BACKOFF_MAX_MS - BACKOFF_MIN_MS) << doublings;
    if (r->op.retry_ns == 0)
        r->op.retry_ns = r->now_ns + MS(BACKOFF_MIN_MS) + reg_draw(r) % range;
    r->op.attempts++;
}

static void attempt(struct reg *r)
{
    r->op.phase = PHASE_WANT_PROMISE;
    r->op.retry_ns = 0;
    reg_pump(r);
}

void reg_promise_self(struct reg *r)
{
    reg_saw(r, r->state.promised);
    r->op.ballot = (struct ballot){r->seen_counter + 1, (uint8_t)r->self, r->state.voter_id};
    assert(ballot_cmp(r->op.ballot, r->state.promised) > 0);
    r->op.nonce = reg_draw(r);
    r->op.phase = PHASE_OWN_PROMISE;
    r->state.promised = r->op.ballot;
    r->then = THEN_PROMISED;
    r->then_ballot = r->op.ballot;
    reg_write_row(r);
}

/* One other promise completes the quorum: ourselves and it. */
void reg_on_promise(struct reg *r, const struct register_msg *m)
{
    struct op *op = &r->op;
    if (op->phase != PHASE_PREPARE || m->nonce != op->nonce ||
        ballot_cmp(m->ballot, op->ballot) != 0 || m->record.version == 0)
        return;
    const struct record *found =
        reg_newer(r, m->accepted, &m->record, r->state.accepted, &r->state.record)
            ? &m->record
            : &r->state.record;
    op->outcome = REG_DONE;
    op->value = *found;
    if (!op->is_read && found->tag == op->from_tag)
        op->value = op->to;
    else if (!op->is_read && found->tag != op->to.tag)
        op->outcome = REG_MISMATCH; /* and write back what was found */
    if (BATON_MUTANT(READ_WITHOUT_ACCEPT, op->is_read, false)) {
        finish(r, op->outcome);
        return;
    }
    op->phase = PHASE_WANT_ACCEPT;
    op->retry_ns = 0; /* one refusal doesn't matter: the voter that promised may accept as well */
    reg_pump(r);
}

void reg_accept_self(struct reg *r)
{
    struct op *op = &r->op;
    if (ballot_cmp(r->state.promised, op->ballot) != 0) { /* promised to a rival meanwhile */
        op->phase = PHASE_PREPARE;
        op->nonce = reg_draw(r); /* no late promise may complete this ballot */
        op->resend_ns = UINT64_MAX;
        reg_back_off(r);
        return;
    }
    if (op->is_read || op->value.tag == op->to.tag)
        op->cast = true; /* before the write: it may reach the disk and fail to say so */
    op->phase = PHASE_OWN_ACCEPT;
    r->state.accepted = op->ballot;
    r->state.record = op->value;
    r->then = THEN_ACCEPTED;
    r->then_ballot = op->ballot;
    reg_write_row(r);
}

void reg_on_accepted(struct reg *r, const struct register_msg *m)
{
    struct op *op = &r->op;
    if (op->phase == PHASE_ACCEPT && BATON_MUTANT(SEEN_IS_A_VOTE, true, m->nonce == op->nonce) &&
        ballot_cmp(m->accepted, op->ballot) == 0)
        finish(r, op->outcome);
}

void reg_on_refused(struct reg *r, const struct register_msg *m)
{
    reg_saw(r, m->ballot);
    if ((r->op.phase == PHASE_PREPARE || r->op.phase == PHASE_ACCEPT) && m->nonce == r->op.nonce)
        reg_back_off(r); /* the third voter may still complete this ballot before that */
}

static bool begin(struct reg *r, uint64_t timeout_ns, uint64_t now_ns)
{
    if (register_busy(r) || !reg_votes(r) || r->self == WITNESS)
        return false;
    r->now_ns = now_ns;
    r->op = (struct op){.deadline_ns = now_ns + timeout_ns};
    return true;
}

bool register_change(struct reg *r, uint64_t from_tag, const struct record *to, uint64_t timeout_ns,
                     uint64_t now_ns)
{
    assert(to->version > 0 && to->tag != from_tag);
    if (!begin(r, timeout_ns, now_ns))
        return false;
    r->op.from_tag = from_tag;
    r->op.to = *to;
    attempt(r);
    return true;
}

bool register_read(struct reg *r, uint64_t timeout_ns, uint64_t now_ns)
{
    if (!begin(r, timeout_ns, now_ns))
        return false;
    r->op.is_read = true;
    attempt(r);
    return true;
}

void reg_tick_op(struct reg *r)
{
    struct op *op = &r->op;
    if (r->now_ns >= op->deadline_ns) {
        finish(r, op->cast ? REG_UNKNOWN : REG_NOT_DONE);
        return;
    }
    if (op->retry_ns && r->now_ns >= op->retry_ns) {
        if (r->writing)
            return; /* its end decides; a write has a time-out of its own: the operation's */
        attempt(r);
        return;
    }
    if ((op->phase == PHASE_PREPARE || op->phase == PHASE_ACCEPT) && r->now_ns >= op->resend_ns) {
        uint64_t gap = op->resend_gap_ns * 2;
        reg_ask(r, gap < MS(RESEND_MAX_MS) ? gap : MS(RESEND_MAX_MS));
    }
}
