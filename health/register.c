/* Voter and proposer of the record's register (protocol 5, CASPaxos): one write at a time, messages
 * and time. Core: messages, time and "persisted" in, effects out. See register.h for the happy
 * path.
 *
 * Persistence: the row in memory runs ahead of the disk by at most one write. While that write is
 * out, requests wait in a queue, so every answer, also to oneself, tells of a row that is durable.
 */
#include "health/register_core.h"

#include <assert.h>
#include <stdlib.h>

struct reg *register_new(unsigned self, const struct voter_state *state, bool virgin,
                         uint64_t random, register_emit emit, void *ctx)
{
    assert(self < VOTERS && state->voting == (state->record.version > 0));
    struct reg *r = xcalloc(1, sizeof *r);
    r->self = self;
    r->state = *state;
    r->virgin = virgin;
    r->random = random;
    r->emit = emit;
    r->ctx = ctx;
    return r;
}

void register_free(struct reg *r)
{
    free(r);
}

void register_set_none(struct reg *r)
{
    assert(r->self != WITNESS && !register_busy(r));
    r->none = true;
}

void register_give_up(struct reg *r)
{
    if (register_busy(r))
        r->op.deadline_ns = r->now_ns;
}

void register_set_virgin(struct reg *r, bool virgin)
{
    r->virgin = virgin;
}

bool register_busy(const struct reg *r)
{
    return r->op.phase != PHASE_IDLE;
}

const struct voter_state *register_state(const struct reg *r)
{
    return &r->state;
}

void reg_send(struct reg *r, unsigned to, struct register_msg m)
{
    assert(to < VOTERS && to != r->self);
    struct register_fx fx = {.type = REG_FX_SEND, .to = to, .msg = m};
    /* SHARE and INIT name the voter they are for; all else its sender. */
    if (m.type != REG_SHARE && m.type != REG_INIT)
        fx.msg.voter_id = r->state.voter_id;
    fx.msg.voting = reg_votes(r);
    fx.msg.virgin = r->virgin && !r->state.voting;
    r->emit(r->ctx, &fx);
}

struct register_msg reg_row_msg(const struct reg *r, enum register_msg_type type, uint64_t nonce)
{
    return (struct register_msg){.type = type,
                                 .nonce = nonce,
                                 .ballot = r->state.promised,
                                 .accepted = r->state.accepted,
                                 .record = r->state.record};
}

void reg_hint(struct reg *r, unsigned from, const struct record *rec, struct ballot b)
{
    struct register_fx fx = {.type = REG_FX_HINT, .from = from, .record = *rec, .ballot = b};
    r->emit(r->ctx, &fx);
}

void reg_write_row(struct reg *r)
{
    assert(!r->writing);
    assert(ballot_cmp(r->state.promised, r->state.accepted) >= 0);
    r->writing = true;
    struct register_fx fx = {.type = REG_FX_PERSIST, .state = r->state};
    r->emit(r->ctx, &fx);
}

/* Begins to vote; repeated until it succeeds, for whoever gave us the record may be gone by then.
 */
void reg_write_vote(struct reg *r)
{
    assert(r->state.voting);
    r->vote_due = true;
    r->vote_ns = r->now_ns + MS(PEEK_SILENT_MS);
    r->then = THEN_VOTE;
    reg_write_row(r);
}

void reg_pump(struct reg *r)
{
    while (!r->writing) {
        if (r->recover) {
            reg_recover(r);
        } else if (r->op.phase == PHASE_WANT_PROMISE) {
            reg_promise_self(r);
        } else if (r->op.phase == PHASE_WANT_ACCEPT) {
            reg_accept_self(r);
        } else if (r->queue_n > 0) {
            struct request q = r->queue[r->queue_head];
            r->queue_head = (r->queue_head + 1) % QUEUE_MAX;
            r->queue_n--;
            reg_serve(r, q.from, &q.msg);
        } else {
            return;
        }
    }
}

void reg_began_to_vote(struct reg *r)
{
    r->vote_due = false;
    for (unsigned v = 0; v < VOTERS; v++)
        r->other[v].shared = false;
    struct register_fx fx = {.type = REG_FX_BOOTSTRAPPED, .record = r->state.record};
    r->emit(r->ctx, &fx);
}

static void written(struct reg *r)
{
    int then = r->then;
    bool own = ballot_cmp(r->then_ballot, r->op.ballot) == 0; /* still the same attempt */
    struct record accepted = r->state.record;
    struct ballot ballot = r->state.accepted;
    bool told = r->then_hint;
    struct request a = r->answer;
    r->then = THEN_NOTHING;
    r->then_hint = false;
    if (then == THEN_SEND) {
        reg_send(r, a.from, a.msg);
        if (told)
            reg_hint(r, r->self, &accepted, ballot);
    } else if (then == THEN_PROMISED && own && r->op.phase == PHASE_OWN_PROMISE) {
        r->op.phase = PHASE_PREPARE;
        reg_ask(r, MS(RESEND_FIRST_MS));
    } else if (then == THEN_ACCEPTED && own && r->op.phase == PHASE_OWN_ACCEPT) {
        r->op.phase = PHASE_ACCEPT;
        reg_ask(r, MS(RESEND_FIRST_MS));
    } else if (then == THEN_VOTE) {
        reg_began_to_vote(r);
    }
}

void register_persisted(struct reg *r, bool ok, uint64_t now_ns)
{
    assert(r->writing);
    r->now_ns = now_ns;
    r->writing = false;
    r->dirty = !ok;
    if (ok) {
        written(r);
    } else {
        /* The disk holds the row before this or this one; the memory keeps this one, which
         * promises no less, and nobody gets an answer until a write succeeds. */
        r->then = THEN_NOTHING;
        r->then_hint = false;
        if (register_busy(r))
            reg_back_off(r);
    }
    reg_pump(r);
}

void register_receive(struct reg *r, unsigned from, const struct register_msg *m, uint64_t now_ns)
{
    assert(from < VOTERS);
    if (from == r->self)
        return;
    r->now_ns = now_ns;
    switch (m->type) {
    case REG_PREPARE:
    case REG_ACCEPT:
    case REG_PEEK:
    case REG_INIT:
        if (r->queue_n < QUEUE_MAX) {
            r->queue[(r->queue_head + r->queue_n++) % QUEUE_MAX] = (struct request){from, *m};
            reg_pump(r);
        }
        break;
    case REG_PROMISE:
        reg_on_promise(r, m);
        break;
    case REG_ACCEPTED:
        reg_on_accepted(r, m);
        break;
    case REG_REFUSED:
        reg_on_refused(r, m);
        break;
    case REG_PEEKED:
        reg_on_peeked(r, from, m);
        break;
    case REG_SHARE:
        reg_on_share(r, from, m);
        break;
    }
}

void register_tick(struct reg *r, uint64_t now_ns)
{
    r->now_ns = now_ns;
    if (register_busy(r))
        reg_tick_op(r);
    if (r->vote_due && !r->writing && now_ns >= r->vote_ns)
        reg_write_vote(r);
    for (unsigned v = 0; v < VOTERS; v++)
        if (r->other[v].init_due && reg_votes(r) && now_ns >= r->other[v].init_ns && !r->writing &&
            !r->dirty)
            reg_send_init(r, v);
    /* A voting witness has nobody to look for. */
    if (now_ns >= r->peek_ns && (r->self != WITNESS || !r->state.voting))
        reg_peek(r);
}
