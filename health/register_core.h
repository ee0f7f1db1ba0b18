/* What the register's files share; private to them. register.c: one write at a time, messages and
 * time. register_voter.c: promises, accepts, recovery. register_propose.c: changes and reads.
 * register_peers.c: what is known of the others, bootstrap. Core. */
#ifndef BATON_HEALTH_REGISTER_CORE_H
#define BATON_HEALTH_REGISTER_CORE_H

#include "health/register.h"

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
    bool none; /* no arbiter: two voters, and a judgement in the witness's place */
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

static inline uint64_t reg_draw(struct reg *r) /* splitmix64 */
{
    uint64_t z = r->random += 0x9e3779b97f4a7c15u;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
    z = (z ^ z >> 27) * 0x94d049bb133111ebu;
    return z ^ z >> 31;
}

/* Another voter with a row of its own? */
static inline bool reg_other(const struct reg *r, unsigned v)
{
    return v != r->self && (v != WITNESS || !r->none);
}

/* Only once the row that says so is durable. */
static inline bool reg_votes(const struct reg *r)
{
    return r->state.voting && !r->vote_due;
}

static inline bool reg_no_ballot(struct ballot b)
{
    return b.counter == 0;
}

static inline void reg_saw(struct reg *r, struct ballot b)
{
    if (b.counter > r->seen_counter)
        r->seen_counter = b.counter;
}

/* Which of two accepted records goes on: that of the higher ballot. Without an arbiter both nodes
 * may have gone on alone, each in ballots that the other never saw: then it is the higher epoch's,
 * and the higher version's. */
static inline bool reg_newer(const struct reg *r, struct ballot a, const struct record *rec,
                             struct ballot b, const struct record *than)
{
    int cmp = r->none ? record_cmp(rec, than) : 0;
    return cmp != 0 ? cmp > 0 : ballot_cmp(a, b) > 0;
}

/* register.c */
void reg_send(struct reg *r, unsigned to, struct register_msg m);
struct register_msg reg_row_msg(const struct reg *r, enum register_msg_type type, uint64_t nonce);
void reg_hint(struct reg *r, unsigned from, const struct record *rec, struct ballot b);
void reg_write_row(struct reg *r);
void reg_write_vote(struct reg *r);
void reg_began_to_vote(struct reg *r);
/* Does what waits for the end of a write. */
void reg_pump(struct reg *r);

/* register_voter.c */
void reg_serve(struct reg *r, unsigned from, const struct register_msg *m);
void reg_on_share(struct reg *r, unsigned from, const struct register_msg *m);
void reg_recover(struct reg *r);

/* register_propose.c */
void reg_promise_self(struct reg *r);
void reg_accept_self(struct reg *r);
void reg_ask(struct reg *r, uint64_t gap_ns);
void reg_back_off(struct reg *r);
void reg_on_promise(struct reg *r, const struct register_msg *m);
void reg_on_accepted(struct reg *r, const struct register_msg *m);
void reg_on_refused(struct reg *r, const struct register_msg *m);
void reg_tick_op(struct reg *r);

/* register_peers.c */
void reg_on_peeked(struct reg *r, unsigned from, const struct register_msg *m);
void reg_peek(struct reg *r);
void reg_send_init(struct reg *r, unsigned v);
#endif
