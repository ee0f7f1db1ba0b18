/* What a voter knows of the others, by looking once a second; the first record ever (protocol 5).
 * Core. */
#include "health/register_core.h"
#include "node/base/mutant.h"

#include <assert.h>
#include <stdio.h>

static void heard(struct reg *r, unsigned from, const struct register_msg *m)
{
    struct other *o = &r->other[from];
    o->heard = true;
    o->heard_ns = r->now_ns;
    o->voting = m->voting;
    o->virgin = m->virgin;
    o->voter_id = m->voter_id;
    if (m->voting || m->voter_id != o->init_id)
        o->init_due = false;
}

/* Nothing has been accepted here since our own bootstrap. */
static bool only_initialised(const struct reg *r)
{
    const struct voter_state *s = &r->state;
    return s->voting && s->accepted.counter == INIT_COUNTER && s->accepted.node == r->self &&
           s->accepted.voter == s->voter_id;
}

static bool answers(const struct reg *r, unsigned v, uint64_t now_ns)
{
    const struct other *o = &r->other[v];
    return o->heard && now_ns - o->heard_ns < MS(REACHABLE_MS);
}

void reg_send_init(struct reg *r, unsigned v)
{
    struct other *o = &r->other[v];
    o->init_ns = r->now_ns + MS(RESEND_FIRST_MS);
    struct register_msg m = reg_row_msg(r, REG_INIT, reg_draw(r));
    m.ballot = r->state.accepted;
    m.voter_id = o->init_id;
    reg_send(r, v, m);
}

static void init_others(struct reg *r)
{
    for (unsigned v = 0; v < VOTERS; v++) {
        struct other *o = &r->other[v];
        if (!reg_other(r, v) || !answers(r, v, r->now_ns) || o->voting || o->init_due)
            continue;
        o->init_due = true;
        o->init_id = o->voter_id;
    }
}

void reg_on_peeked(struct reg *r, unsigned from, const struct register_msg *m)
{
    const struct other *o = &r->other[from];
    if (m->nonce == 0 || (m->nonce != o->peek_nonce[0] && m->nonce != o->peek_nonce[1]))
        return;
    reg_saw(r, m->ballot);
    heard(r, from, m);
    if (m->voting) {
        if (m->record.version > 0)
            reg_hint(r, from, &m->record, m->accepted);
        BATON_MUTANT(SEEN_IS_A_VOTE, reg_on_accepted(r, m), (void)0);
        return;
    }
    if (!reg_votes(r) || r->writing || r->dirty)
        return;
    struct register_msg share = reg_row_msg(r, REG_SHARE, m->nonce);
    share.voter_id = m->voter_id;
    reg_send(r, from, share);
    /* A bootstrap that crashed before its INITs were out, so no one else has ever voted. If either
     * of the others votes, there may be ballots that we know nothing of: then only shares count. */
    bool alone = only_initialised(r);
    for (unsigned v = 0; v < VOTERS; v++)
        alone &= !reg_other(r, v) ||
                 (answers(r, v, r->now_ns) && !r->other[v].voting && r->other[v].virgin);
    if (alone)
        init_others(r);
}

void reg_peek(struct reg *r)
{
    r->peek_ns = r->now_ns + (r->state.voting ? MS(PEEK_MS) : MS(PEEK_SILENT_MS));
    for (unsigned v = 0; v < VOTERS; v++) {
        if (!reg_other(r, v))
            continue;
        struct other *o = &r->other[v];
        o->peek_nonce[1] = o->peek_nonce[0];
        o->peek_nonce[0] = reg_draw(r) | 1;
        reg_send(r, v, (struct register_msg){.type = REG_PEEK, .nonce = o->peek_nonce[0]});
    }
}

bool register_bootstrap(struct reg *r, const struct record *first, char *why, size_t n,
                        uint64_t now_ns)
{
    assert(first->version > 0 && r->self != WITNESS);
    r->now_ns = now_ns;
    unsigned met = 0;
    bool again = only_initialised(r);
    for (unsigned v = 0; v < VOTERS; v++) {
        if (v == r->self ? r->state.voting && !again
                         : answers(r, v, now_ns) && r->other[v].voting) {
            snprintf(why, n, "the voter on %s holds a record already: nothing to bootstrap",
                     v == WITNESS  ? "the witness"
                     : v == NODE_A ? "node a"
                                   : "node b");
            return false;
        }
        met += v != r->self && answers(r, v, now_ns);
    }
    if (met == 0 && !r->none) {
        snprintf(why, n,
                 "neither the other node nor the witness answers: a first record needs two "
                 "voters; start one of them and repeat");
        return false;
    }
    if (r->writing) {
        snprintf(why, n, "the own voter is being written; repeat");
        return false;
    }
    init_others(r); /* sent once our own row is durable: register_tick() */
    if (again) {
        reg_began_to_vote(r);
        return true;
    }
    r->state.voting = true;
    r->state.promised = r->state.accepted =
        (struct ballot){INIT_COUNTER, (uint8_t)r->self, r->state.voter_id};
    r->state.record = *first;
    reg_write_vote(r);
    return true;
}

bool register_all_virgin(const struct reg *r, uint64_t now_ns)
{
    bool all = r->virgin && !r->state.voting; /* nor about to */
    for (unsigned v = 0; v < VOTERS; v++)
        all &= !reg_other(r, v) ||
               (answers(r, v, now_ns) && !r->other[v].voting && r->other[v].virgin);
    return all;
}

void register_view(const struct reg *r, uint64_t now_ns, bool reachable[VOTERS],
                   bool voting[VOTERS])
{
    for (unsigned v = 0; v < VOTERS; v++) {
        reachable[v] = v == r->self || answers(r, v, now_ns);
        voting[v] = v == r->self ? reg_votes(r) : reachable[v] && r->other[v].voting;
    }
}
