/* One voter and one proposer of the single-register consensus (protocol 5, CASPaxos). Core: gets
 * messages, time and "persisted"; returns effects. The witness runs the voter alone; each node runs
 * both.
 *
 * Happy path of a change: own promise durable -> PREPARE to the others -> one promise -> compare by
 * tag -> own accept durable -> ACCEPT to the others -> one accepted in this ballot: done. Every
 * wait ends by time-out: "unknown" if an accept may have been cast, "not done" otherwise. A read is
 * the same with the record unchanged, always with its accept round. */
#ifndef BATON_HEALTH_REGISTER_H
#define BATON_HEALTH_REGISTER_H

#include "health/record.h"

/* What a voter keeps in one durable row. */
struct voter_state {
    uint64_t voter_id; /* random; new when the row was missing */
    bool voting;       /* false: emptied (or new): silent until it met both others */
    struct ballot promised, accepted;
    struct record record; /* accepted record; version 0: none */
};
bool voter_state_encode(struct buf *b, const struct voter_state *v);
bool voter_state_decode(struct slice s, struct voter_state *out);

enum register_msg_type {
    REG_PREPARE = 1,
    REG_PROMISE,
    REG_ACCEPT,
    REG_ACCEPTED,
    REG_REFUSED, /* promise above the ballot: carries it */
    REG_PEEK,
    REG_PEEKED, /* hint: what have you accepted; also tells whether the voter votes */
    REG_SHARE,  /* a voting voter's state for the emptied voter `voter_id` */
    REG_INIT,   /* first record ever, to voters that never voted */
};
struct register_msg {
    enum register_msg_type type;
    uint64_t nonce; /* chosen by the asker, echoed by the answer */
    uint64_t
        voter_id; /* of the sender of an answer; SHARE and INIT: of the emptied voter addressed */
    bool voting;
    bool virgin;          /* neither this voter nor this node's store has ever held a history */
    struct ballot ballot; /* the ballot asked about; REFUSED, PEEKED, SHARE: promised */
    struct ballot accepted;
    struct record record;
};
bool register_msg_encode(struct buf *b, const struct register_msg *m);
bool register_msg_decode(struct wire_reader *r, struct register_msg *out);

enum register_outcome {
    REG_DONE,
    REG_MISMATCH /* refused: *record is what is there */,
    REG_NOT_DONE,
    REG_UNKNOWN,
    REG_BEHIND /* not done: the arbiter has lost what was seen; *record is the newest seen */
};

struct register_fx {
    enum { REG_FX_SEND, REG_FX_PERSIST, REG_FX_RESULT, REG_FX_HINT, REG_FX_BOOTSTRAPPED } type;
    unsigned to;             /* SEND: NODE_A, NODE_B, WITNESS */
    struct register_msg msg; /* SEND */
    struct voter_state
        state; /* PERSIST: write durably, then register_persisted(); at most one at a time */
    enum register_outcome outcome; /* RESULT of the change or read under way */
    struct record
        record; /* RESULT: the record that is there now; HINT: one voter's accepted record */
    struct ballot ballot; /* HINT, RESULT: its ballot */
    unsigned from;        /* HINT */
};
typedef void (*register_emit)(void *ctx, const struct register_fx *fx);

struct reg; /* voter + proposer */
/* self: NODE_A, NODE_B or WITNESS. state: as read from disk, or fresh (voting = false). random:
 * seed for back-off and nonces. */
struct reg *register_new(unsigned self, const struct voter_state *state, bool virgin,
                         uint64_t random, register_emit emit, void *ctx);
void register_free(struct reg *r);
/* arbiter = none: the voters are the two nodes; what is sent to WITNESS goes to this node's own
 * judgement (register_none.h), which answers for it. To be called right after register_new(). */
void register_set_none(struct reg *r);
void register_set_virgin(struct reg *r, bool virgin);
void register_receive(struct reg *r, unsigned from, const struct register_msg *m, uint64_t now_ns);
void register_persisted(struct reg *r, bool ok, uint64_t now_ns);
void register_tick(
    struct reg *r,
    uint64_t now_ns); /* retransmission, time-outs, peeks once a second; call every 20 ms or so */
/* At most one operation at a time; false while one is under way or the own voter isn't voting. */
bool register_change(struct reg *r, uint64_t from_tag, const struct record *to, uint64_t timeout_ns,
                     uint64_t now_ns);
bool register_read(struct reg *r, uint64_t timeout_ns, uint64_t now_ns);
bool register_busy(const struct reg *r);
/* The operation under way ends with the next tick, as if its time were over. */
void register_give_up(struct reg *r);
/* Writes the first record to all voters that can be reached and never voted. False with a reason:
 * some voter has held a record, or neither of the others answers (without an arbiter the operator
 * may start one node alone). */
bool register_bootstrap(struct reg *r, const struct record *first, char *why, size_t n,
                        uint64_t now_ns);
/* All three voters answered within the last 3 s, none of them votes and all are virgin: the first
 * start of a new pair (protocol 5: the only bootstrap without an operator). */
bool register_all_virgin(const struct reg *r, uint64_t now_ns);
/* For status: which voters answered within the last 3 s, which of them vote, own state. */
void register_view(const struct reg *r, uint64_t now_ns, bool reachable[VOTERS],
                   bool voting[VOTERS]);
const struct voter_state *register_state(const struct reg *r);
#endif
