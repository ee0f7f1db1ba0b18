/* The voter: promises, accepts, and how an emptied one comes back (protocol 5; incidents 9, 10).
 * Core.
 *
 * Why an emptied voter E' may vote again once both others, both voting, have told it their state.
 * What E forgot are promises and accepted records. Each of them was given to a proposer, which is a
 * voter itself and had made the same promise, or accepted the same record, *durably before* it
 * asked.
 *   - The proposer was one of the others, X: X's row has it since before E answered, so since
 * before E was emptied, so before E' took its name; and a SHARE is addressed to that name, so it
 * can't be older. E' takes the highest promise and the highest accepted record of both others: E'
 * has promised at least what E had promised to X, and knows at least what E had accepted for X.
 *     Hence a quorum with E' refuses the ballots that a quorum with E would have refused, and its
 *     prepare reports the records that E's would have reported.
 *   - The proposer was E itself: it died when it was emptied, nobody was or will be told "done" for
 *     what its late messages still bring about, and its ballots carry the old name, which nobody
 *     uses again. As long as no one has been told, such a record is only one that was proposed.
 *   - A record "done" by E and X (E's vote, X proposer or not) was accepted by X before E's
 *     answer was counted, and one done by the others alone is in any prepare quorum by itself, as
 *     for a voter that was merely away.
 * One sharer alone would not do: had E voted with the other one, only that one knows. A sharer that
 * is emptied itself after it shared asks both others too, so waits for E', whose row then holds
 * what it had shared. Taking over isn't accepting: E' answers ACCEPTED only when asked to accept,
 * in a ballot at or above its promise, and nobody counts a row that was merely seen (hints,
 * shares).
 *
 * Without an arbiter (register_none.h) the other node is the only other voter, and its state is all
 * that there is to learn: what E did alone, by judgement, is gone with E, as its store is. */
#include "health/register_core.h"
#include "node/base/mutant.h"

#include <assert.h>

/* Sends m when the row is durable: at once if it is. */
static void answer(struct reg *r, unsigned to, struct register_msg m, bool changed)
{
    if (!changed && !r->dirty) {
        reg_send(r, to, m);
        return;
    }
    r->then = THEN_SEND;
    r->answer = (struct request){to, m};
    reg_write_row(r);
}

static void refuse(struct reg *r, unsigned to, const struct register_msg *m)
{
    answer(r, to, reg_row_msg(r, REG_REFUSED, m->nonce), false);
}

static void on_prepare(struct reg *r, unsigned from, const struct register_msg *m)
{
    int cmp = ballot_cmp(m->ballot, r->state.promised);
    if (cmp < 0) {
        refuse(r, from, m);
        return;
    }
    r->state.promised = m->ballot;
    answer(r, from, reg_row_msg(r, REG_PROMISE, m->nonce), cmp > 0);
}

static void on_accept(struct reg *r, unsigned from, const struct register_msg *m)
{
    if (m->record.version == 0)
        return;
    if (BATON_MUTANT(ACCEPT_BELOW_PROMISE, false, ballot_cmp(m->ballot, r->state.promised) < 0)) {
        refuse(r, from, m);
        return;
    }
    if (r->none && record_cmp(&m->record, &r->state.record) < 0) {
        refuse(r, from, m); /* it doesn't know how far this node went: let it prepare and see */
        return;
    }
    bool again = ballot_cmp(m->ballot, r->state.accepted) == 0;
    if (again && m->record.tag != r->state.record.tag)
        return; /* one ballot, two records: no proposer of ours does that */
    r->then_hint = m->record.tag != r->state.record.tag;
    r->state.promised = r->state.accepted = m->ballot;
    r->state.record = m->record;
    struct register_msg a = reg_row_msg(r, REG_ACCEPTED, m->nonce);
    answer(r, from, a, !again);
}

static void on_peek(struct reg *r, unsigned from, const struct register_msg *m)
{
    reg_send(r, from, reg_row_msg(r, REG_PEEKED, m->nonce));
    if (m->voting || !reg_votes(r))
        return;
    struct register_msg share = reg_row_msg(r, REG_SHARE, m->nonce);
    share.voter_id = m->voter_id;
    answer(r, from, share, false);
}

static void on_init(struct reg *r, const struct register_msg *m)
{
    if (r->state.voting || m->voter_id != r->state.voter_id || m->record.version == 0 ||
        reg_no_ballot(m->ballot))
        return;
    r->state.voting = true;
    r->state.promised = r->state.accepted = m->ballot;
    r->state.record = m->record;
    reg_write_vote(r);
}

void reg_serve(struct reg *r, unsigned from, const struct register_msg *m)
{
    switch (m->type) {
    case REG_PREPARE:
        reg_saw(r, m->ballot);
        if (reg_votes(r)) /* an emptied voter is silent */
            on_prepare(r, from, m);
        break;
    case REG_ACCEPT:
        reg_saw(r, m->ballot);
        if (reg_votes(r))
            on_accept(r, from, m);
        break;
    case REG_PEEK:
        on_peek(r, from, m);
        break;
    case REG_INIT:
        on_init(r, m);
        break;
    default:
        assert(false); /* answers are never queued */
    }
}

void reg_on_share(struct reg *r, unsigned from, const struct register_msg *m)
{
    if (r->state.voting || m->voter_id != r->state.voter_id || !m->voting ||
        reg_no_ballot(m->accepted) || m->record.version == 0)
        return;
    struct other *o = &r->other[from];
    o->shared = true;
    o->share = *m;
    r->recover = true;
    for (unsigned v = 0; v < VOTERS; v++)
        r->recover &=
            !reg_other(r, v) || BATON_MUTANT(EMPTIED_VOTER_VOTES, true, r->other[v].shared);
    reg_pump(r);
}

void reg_recover(struct reg *r)
{
    r->recover = false;
    if (r->state.voting)
        return;
    for (unsigned v = 0; v < VOTERS; v++) {
        if (!reg_other(r, v))
            continue;
        const struct register_msg *s = &r->other[v].share;
        if (ballot_cmp(s->ballot, r->state.promised) > 0)
            r->state.promised = s->ballot;
        if (reg_newer(r, s->accepted, &s->record, r->state.accepted, &r->state.record)) {
            r->state.accepted = s->accepted;
            r->state.record = s->record;
        }
    }
    r->state.voting = true;
    reg_write_vote(r);
}
