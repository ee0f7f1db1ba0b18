/* Voter and proposer of the record's register (protocol 5, CASPaxos; incidents 1, 9, 10, 11). Core:
 * messages, time and "persisted" in, effects out. See register.h for the happy path.
 *
 * Persistence: the row in memory runs ahead of the disk by at most one write. While that write is
 * out, requests wait in a queue, so every answer, also to oneself, tells of a row that is durable.
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
 * shares). */
#include "health/register.h"

#include <assert.h>
#include <stdio.h>
#include <stdlib.h>

#define MS(n) ((uint64_t)(n)*1000000u)

enum {
    QUEUE_MAX = 32,       /* requests that wait for a write; askers repeat what is dropped */
    RESEND_FIRST_MS = 50, /* first repetition; doubles up to the next */
    RESEND_MAX_MS = 200,  /* a change must get through soon after a cut ends */
    BACKOFF_MIN_MS = 10,  /* before a higher ballot: duelling proposers draw apart */
    BACKOFF_MAX_MS = 50,  /* longer than a prepare and accept on a local network */
    BACKOFF_DOUBLINGS = 3,
    PEEK_MS = 1000,       /* protocol 5: the primary looks once a second */
    PEEK_SILENT_MS = 200, /* a voter that can't vote yet asks more often */
    REACHABLE_MS = 3000,  /* three peeks lost: away */
    INIT_COUNTER = 1,     /* the bootstrap's ballot; proposers begin above it */
};

enum phase {
    PHASE_IDLE,
    PHASE_WANT_PROMISE, /* own promise is to be written */
    PHASE_OWN_PROMISE,  /* being written */
    PHASE_PREPARE,
    PHASE_WANT_ACCEPT,
    PHASE_OWN_ACCEPT,
    PHASE_ACCEPT,
};

struct op {
    enum phase phase;
    bool is_read;
    uint64_t from_tag;
    struct record to;
    struct ballot ballot;
    uint64_t nonce;
    struct record value; /* of the accept round */
    enum register_outcome outcome;
    bool cast; /* an accept of `to` (a read: of anything) may be on a disk, if only our own */
    uint64_t deadline_ns, resend_ns, resend_gap_ns;
    uint64_t retry_ns; /* refused: begin again in a higher ballot then; 0: no */
    unsigned attempts;
};

struct other { /* what we know of another voter */
    bool heard, voting, virgin;
    uint64_t heard_ns, voter_id, peek_nonce[2];
    bool shared;
    struct register_msg share; /* for our recovery */
    bool init_due;             /* INIT goes to init_id until it votes */
    uint64_t init_id, init_ns;
};

struct request {
    unsigned from;
    struct register_msg msg;
};

struct reg {
    unsigned self;
    bool virgin, recover;
    uint64_t random, now_ns, peek_ns;
    register_emit emit;
    void *ctx;
    struct voter_state state;
    bool vote_due; /* a voter from now on, once that is durable */
    uint64_t vote_ns;
    bool writing, dirty; /* dirty: a write failed, the disk may hold the row before */
    /* what to do when the write is done */
    enum { THEN_NOTHING, THEN_SEND, THEN_PROMISED, THEN_ACCEPTED, THEN_VOTE } then;
    struct request answer; /* THEN_SEND */
    bool then_hint;        /* the write accepted another proposer's record */
    struct ballot then_ballot;
    uint64_t seen_counter; /* highest in any ballot met */
    struct request queue[QUEUE_MAX];
    unsigned queue_head, queue_n;
    struct other other[VOTERS];
    struct op op;
};

static void pump(struct reg *r);

static uint64_t draw(struct reg *r) /* splitmix64 */
{
    uint64_t z = r->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Only once the row that says so is durable. */
static bool votes(const struct reg *r)
{
    return r->state.voting && !r->vote_due;
}

static bool is_none(struct ballot b)
{
    return b.counter == 0;
}

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

static void send(struct reg *r, unsigned to, struct register_msg m)
{
    assert(to < VOTERS && to != r->self);
    struct register_fx fx = {.type = REG_FX_SEND, .to = to, .msg = m};
    /* SHARE and INIT name the voter they are for; all else its sender. */
    if (m.type != REG_SHARE && m.type != REG_INIT)
        fx.msg.voter_id = r->state.voter_id;
    fx.msg.voting = votes(r);
    fx.msg.virgin = r->virgin && !r->state.voting;
    r->emit(r->ctx, &fx);
}

static struct register_msg row_msg(const struct reg *r, enum register_msg_type type, uint64_t nonce)
{
    return (struct register_msg){.type = type,
                                 .nonce = nonce,
                                 .ballot = r->state.promised,
                                 .accepted = r->state.accepted,
                                 .record = r->state.record};
}

static void hint(struct reg *r, unsigned from, const struct record *rec, struct ballot b)
{
    struct register_fx fx = {.type = REG_FX_HINT, .from = from, .record = *rec, .ballot = b};
    r->emit(r->ctx, &fx);
}

static void write_row(struct reg *r)
{
    assert(!r->writing);
    assert(ballot_cmp(r->state.promised, r->state.accepted) >= 0);
    r->writing = true;
    struct register_fx fx = {.type = REG_FX_PERSIST, .state = r->state};
    r->emit(r->ctx, &fx);
}

/* Begins to vote; repeated until it succeeds, for whoever gave us the record may be gone by then.
 */
static void write_vote(struct reg *r)
{
    assert(r->state.voting);
    r->vote_due = true;
    r->vote_ns = r->now_ns + MS(PEEK_SILENT_MS);
    r->then = THEN_VOTE;
    write_row(r);
}

/* Sends m when the row is durable: at once if it is. */
static void answer(struct reg *r, unsigned to, struct register_msg m, bool changed)
{
    if (!changed && !r->dirty) {
        send(r, to, m);
        return;
    }
    r->then = THEN_SEND;
    r->answer = (struct request){to, m};
    write_row(r);
}

static void saw(struct reg *r, struct ballot b)
{
    if (b.counter > r->seen_counter)
        r->seen_counter = b.counter;
}

/* ---- the voter ---- */

static void refuse(struct reg *r, unsigned to, const struct register_msg *m)
{
    answer(r, to, row_msg(r, REG_REFUSED, m->nonce), false);
}

static void on_prepare(struct reg *r, unsigned from, const struct register_msg *m)
{
    int cmp = ballot_cmp(m->ballot, r->state.promised);
    if (cmp < 0) {
        refuse(r, from, m);
        return;
    }
    r->state.promised = m->ballot;
    answer(r, from, row_msg(r, REG_PROMISE, m->nonce), cmp > 0);
}

static void on_accept(struct reg *r, unsigned from, const struct register_msg *m)
{
    if (m->record.version == 0)
        return;
    if (ballot_cmp(m->ballot, r->state.promised) < 0) {
        refuse(r, from, m);
        return;
    }
    bool again = ballot_cmp(m->ballot, r->state.accepted) == 0;
    if (again && m->record.tag != r->state.record.tag)
        return; /* one ballot, two records: no proposer of ours does that */
    r->then_hint = m->record.tag != r->state.record.tag;
    r->state.promised = r->state.accepted = m->ballot;
    r->state.record = m->record;
    struct register_msg a = row_msg(r, REG_ACCEPTED, m->nonce);
    answer(r, from, a, !again);
}

static void on_peek(struct reg *r, unsigned from, const struct register_msg *m)
{
    send(r, from, row_msg(r, REG_PEEKED, m->nonce));
    if (m->voting || !votes(r))
        return;
    struct register_msg share = row_msg(r, REG_SHARE, m->nonce);
    share.voter_id = m->voter_id;
    answer(r, from, share, false);
}

static void on_init(struct reg *r, const struct register_msg *m)
{
    if (r->state.voting || m->voter_id != r->state.voter_id || m->record.version == 0 ||
        is_none(m->ballot))
        return;
    r->state.voting = true;
    r->state.promised = r->state.accepted = m->ballot;
    r->state.record = m->record;
    write_vote(r);
}

static void serve(struct reg *r, unsigned from, const struct register_msg *m)
{
    switch (m->type) {
    case REG_PREPARE:
        saw(r, m->ballot);
        if (votes(r)) /* an emptied voter is silent */
            on_prepare(r, from, m);
        break;
    case REG_ACCEPT:
        saw(r, m->ballot);
        if (votes(r))
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

static void on_share(struct reg *r, unsigned from, const struct register_msg *m)
{
    if (r->state.voting || m->voter_id != r->state.voter_id || !m->voting || is_none(m->accepted) ||
        m->record.version == 0)
        return;
    struct other *o = &r->other[from];
    o->shared = true;
    o->share = *m;
    r->recover = true;
    for (unsigned v = 0; v < VOTERS; v++)
        r->recover &= v == r->self || r->other[v].shared;
    pump(r);
}

static void recover(struct reg *r)
{
    r->recover = false;
    if (r->state.voting)
        return;
    for (unsigned v = 0; v < VOTERS; v++) {
        if (v == r->self)
            continue;
        const struct register_msg *s = &r->other[v].share;
        if (ballot_cmp(s->ballot, r->state.promised) > 0)
            r->state.promised = s->ballot;
        if (ballot_cmp(s->accepted, r->state.accepted) > 0) {
            r->state.accepted = s->accepted;
            r->state.record = s->record;
        }
    }
    r->state.voting = true;
    write_vote(r);
}

/* ---- the proposer ---- */

static void finish(struct reg *r, enum register_outcome outcome)
{
    struct register_fx fx = {
        .type = REG_FX_RESULT, .outcome = outcome, .record = r->op.value, .ballot = r->op.ballot};
    if (outcome == REG_NOT_DONE || outcome == REG_UNKNOWN)
        fx.record = r->state.record; /* for what it's worth: one voter's, our own */
    r->op.phase = PHASE_IDLE;
    r->emit(r->ctx, &fx); /* may begin the next operation */
}

static void ask(struct reg *r, uint64_t gap_ns)
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
            send(r, v, m);
}

/* The range grows with each attempt: on slow disks an attempt itself takes longer than the first.
 */
static void back_off(struct reg *r)
{
    unsigned doublings = r->op.attempts < BACKOFF_DOUBLINGS ? r->op.attempts : BACKOFF_DOUBLINGS;
    uint64_t range = MS(BACKOFF_MAX_MS - BACKOFF_MIN_MS) << doublings;
    if (r->op.retry_ns == 0)
        r->op.retry_ns = r->now_ns + MS(BACKOFF_MIN_MS) + draw(r) % range;
    r->op.attempts++;
}

static void attempt(struct reg *r)
{
    r->op.phase = PHASE_WANT_PROMISE;
    r->op.retry_ns = 0;
    pump(r);
}

static void promise_self(struct reg *r)
{
    saw(r, r->state.promised);
    r->op.ballot = (struct ballot){r->seen_counter + 1, (uint8_t)r->self, r->state.voter_id};
    assert(ballot_cmp(r->op.ballot, r->state.promised) > 0);
    r->op.nonce = draw(r);
    r->op.phase = PHASE_OWN_PROMISE;
    r->state.promised = r->op.ballot;
    r->then = THEN_PROMISED;
    r->then_ballot = r->op.ballot;
    write_row(r);
}

/* One other promise completes the quorum: ourselves and it. */
static void on_promise(struct reg *r, const struct register_msg *m)
{
    struct op *op = &r->op;
    if (op->phase != PHASE_PREPARE || m->nonce != op->nonce ||
        ballot_cmp(m->ballot, op->ballot) != 0 || m->record.version == 0)
        return;
    const struct record *found =
        ballot_cmp(m->accepted, r->state.accepted) > 0 ? &m->record : &r->state.record;
    op->outcome = REG_DONE;
    op->value = *found;
    if (!op->is_read && found->tag == op->from_tag)
        op->value = op->to;
    else if (!op->is_read && found->tag != op->to.tag)
        op->outcome = REG_MISMATCH; /* and write back what was found */
    op->phase = PHASE_WANT_ACCEPT;
    op->retry_ns = 0; /* one refusal doesn't matter: the voter that promised may accept as well */
    pump(r);
}

static void accept_self(struct reg *r)
{
    struct op *op = &r->op;
    if (ballot_cmp(r->state.promised, op->ballot) != 0) { /* promised to a rival meanwhile */
        op->phase = PHASE_PREPARE;
        op->nonce = draw(r); /* no late promise may complete this ballot */
        op->resend_ns = UINT64_MAX;
        back_off(r);
        return;
    }
    if (op->is_read || op->value.tag == op->to.tag)
        op->cast = true; /* before the write: it may reach the disk and fail to say so */
    op->phase = PHASE_OWN_ACCEPT;
    r->state.accepted = op->ballot;
    r->state.record = op->value;
    r->then = THEN_ACCEPTED;
    r->then_ballot = op->ballot;
    write_row(r);
}

static void on_accepted(struct reg *r, const struct register_msg *m)
{
    struct op *op = &r->op;
    if (op->phase == PHASE_ACCEPT && m->nonce == op->nonce &&
        ballot_cmp(m->accepted, op->ballot) == 0)
        finish(r, op->outcome);
}

static void on_refused(struct reg *r, const struct register_msg *m)
{
    saw(r, m->ballot);
    if ((r->op.phase == PHASE_PREPARE || r->op.phase == PHASE_ACCEPT) && m->nonce == r->op.nonce)
        back_off(r); /* the third voter may still complete this ballot before that */
}

static bool begin(struct reg *r, uint64_t timeout_ns, uint64_t now_ns)
{
    if (register_busy(r) || !votes(r) || r->self == WITNESS)
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

/* ---- one write at a time ---- */

static void pump(struct reg *r)
{
    while (!r->writing) {
        if (r->recover) {
            recover(r);
        } else if (r->op.phase == PHASE_WANT_PROMISE) {
            promise_self(r);
        } else if (r->op.phase == PHASE_WANT_ACCEPT) {
            accept_self(r);
        } else if (r->queue_n > 0) {
            struct request q = r->queue[r->queue_head];
            r->queue_head = (r->queue_head + 1) % QUEUE_MAX;
            r->queue_n--;
            serve(r, q.from, &q.msg);
        } else {
            return;
        }
    }
}

static void began_to_vote(struct reg *r)
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
        send(r, a.from, a.msg);
        if (told)
            hint(r, r->self, &accepted, ballot);
    } else if (then == THEN_PROMISED && own && r->op.phase == PHASE_OWN_PROMISE) {
        r->op.phase = PHASE_PREPARE;
        ask(r, MS(RESEND_FIRST_MS));
    } else if (then == THEN_ACCEPTED && own && r->op.phase == PHASE_OWN_ACCEPT) {
        r->op.phase = PHASE_ACCEPT;
        ask(r, MS(RESEND_FIRST_MS));
    } else if (then == THEN_VOTE) {
        began_to_vote(r);
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
            back_off(r);
    }
    pump(r);
}

/* ---- messages ---- */

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

static void send_init(struct reg *r, unsigned v)
{
    struct other *o = &r->other[v];
    o->init_ns = r->now_ns + MS(RESEND_FIRST_MS);
    struct register_msg m = row_msg(r, REG_INIT, draw(r));
    m.ballot = r->state.accepted;
    m.voter_id = o->init_id;
    send(r, v, m);
}

static void init_others(struct reg *r)
{
    for (unsigned v = 0; v < VOTERS; v++) {
        struct other *o = &r->other[v];
        if (v == r->self || !answers(r, v, r->now_ns) || o->voting || o->init_due)
            continue;
        o->init_due = true;
        o->init_id = o->voter_id;
    }
}

static void on_peeked(struct reg *r, unsigned from, const struct register_msg *m)
{
    const struct other *o = &r->other[from];
    if (m->nonce == 0 || (m->nonce != o->peek_nonce[0] && m->nonce != o->peek_nonce[1]))
        return;
    saw(r, m->ballot);
    heard(r, from, m);
    if (m->voting) {
        if (m->record.version > 0)
            hint(r, from, &m->record, m->accepted);
        return;
    }
    if (!votes(r) || r->writing || r->dirty)
        return;
    struct register_msg share = row_msg(r, REG_SHARE, m->nonce);
    share.voter_id = m->voter_id;
    send(r, from, share);
    /* A bootstrap that crashed before its INITs were out, so no one else has ever voted. If either
     * of the others votes, there may be ballots that we know nothing of: then only shares count. */
    bool alone = only_initialised(r);
    for (unsigned v = 0; v < VOTERS; v++)
        alone &=
            v == r->self || (answers(r, v, r->now_ns) && !r->other[v].voting && r->other[v].virgin);
    if (alone)
        init_others(r);
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
            pump(r);
        }
        break;
    case REG_PROMISE:
        on_promise(r, m);
        break;
    case REG_ACCEPTED:
        on_accepted(r, m);
        break;
    case REG_REFUSED:
        on_refused(r, m);
        break;
    case REG_PEEKED:
        on_peeked(r, from, m);
        break;
    case REG_SHARE:
        on_share(r, from, m);
        break;
    }
}

/* ---- time ---- */

static void peek(struct reg *r)
{
    r->peek_ns = r->now_ns + (r->state.voting ? MS(PEEK_MS) : MS(PEEK_SILENT_MS));
    for (unsigned v = 0; v < VOTERS; v++) {
        if (v == r->self)
            continue;
        struct other *o = &r->other[v];
        o->peek_nonce[1] = o->peek_nonce[0];
        o->peek_nonce[0] = draw(r) | 1;
        send(r, v, (struct register_msg){.type = REG_PEEK, .nonce = o->peek_nonce[0]});
    }
}

static void tick_op(struct reg *r)
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
        ask(r, gap < MS(RESEND_MAX_MS) ? gap : MS(RESEND_MAX_MS));
    }
}

void register_tick(struct reg *r, uint64_t now_ns)
{
    r->now_ns = now_ns;
    if (register_busy(r))
        tick_op(r);
    if (r->vote_due && !r->writing && now_ns >= r->vote_ns)
        write_vote(r);
    for (unsigned v = 0; v < VOTERS; v++)
        if (r->other[v].init_due && votes(r) && now_ns >= r->other[v].init_ns && !r->writing &&
            !r->dirty)
            send_init(r, v);
    /* A voting witness has nobody to look for. */
    if (now_ns >= r->peek_ns && (r->self != WITNESS || !r->state.voting))
        peek(r);
}

/* ---- bootstrap and views ---- */

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
    if (met == 0) {
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
        began_to_vote(r);
        return true;
    }
    r->state.voting = true;
    r->state.promised = r->state.accepted =
        (struct ballot){INIT_COUNTER, (uint8_t)r->self, r->state.voter_id};
    r->state.record = *first;
    write_vote(r);
    return true;
}

bool register_all_virgin(const struct reg *r, uint64_t now_ns)
{
    bool all = r->virgin && !r->state.voting; /* nor about to */
    for (unsigned v = 0; v < VOTERS; v++)
        all &= v == r->self || (answers(r, v, now_ns) && !r->other[v].voting && r->other[v].virgin);
    return all;
}

void register_view(const struct reg *r, uint64_t now_ns, bool reachable[VOTERS],
                   bool voting[VOTERS])
{
    for (unsigned v = 0; v < VOTERS; v++) {
        reachable[v] = v == r->self || answers(r, v, now_ns);
        voting[v] = v == r->self ? votes(r) : reachable[v] && r->other[v].voting;
    }
}
