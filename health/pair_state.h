/* Inside of the pair core: the facts that events leave behind (pair.c), which the table of roles
 * (roles*.c) reads. Included by these only. Core. */
#ifndef BATON_HEALTH_PAIR_STATE_H
#define BATON_HEALTH_PAIR_STATE_H

#include "health/pair.h"
#include "health/register.h"
#include "health/register_none.h"

/* Finer than the roles that people see: one phase for each thing that is waited for. */
enum phase {
    PH_START,        /* waits for the store and for the record */
    PH_ORPHAN,       /* the record names this node primary, but not with the store that it has */
    PH_FOLLOW,       /* the other node is primary */
    PH_CLAIM,        /* a change of the record that makes this node primary is under way */
    PH_LEASE_WAIT,   /* the record is ours; the old primary's lease may still run */
    PH_PROMOTE,      /* the store is taken into the new epoch */
    PH_SOLO,         /* serves, the record says alone */
    PH_TAKE_BACK,    /* serves, waits for the follower as if paired, the record not yet changed */
    PH_PAIRED,       /* serves, waits for the standby, delivers under the lease */
    PH_DROP,         /* as paired, while the record is changed to solo */
    PH_RELEASE,      /* the record says alone; the history row "solo" isn't durable yet */
    PH_FENCED,       /* lease over and no majority: serves nobody, keeps trying */
    PH_QUIESCE,      /* hand-over: final dots end */
    PH_DRAIN,        /* hand-over: the standby gets everything */
    PH_RELINQUISHED, /* hand-over: the standby may take over at once */
    PH_FINISH,       /* clean stop without a hand-over: final dots end */
    PH_STEP,         /* another epoch: writes of the old one come to their end */
    PH_FAILED,       /* the store failed: nothing until restart */
    PH_LEAVING,      /* clean stop of a follower: the primary drops it first */
    PH_STOPPED,
    PHASES
};

enum reg_op { REG_OP_NONE, REG_OP_READ, REG_OP_CHANGE };
enum change_state { CH_NONE, CH_PENDING, CH_DONE, CH_REFUSED, CH_NOT_DONE, CH_UNKNOWN };
enum intent { FOR_NOTHING, FOR_TAKEOVER, FOR_RESTART, FOR_DROP, FOR_TAKE_BACK, FOR_FORCE };

enum { SENDS = 256 }; /* heartbeats whose send time is kept: more than a lease's worth */

struct pair {
    struct pair_config cfg;
    pair_emit emit;
    void *ctx;
    bool stepping; /* guards against a driver that steps from within an effect */
    uint64_t now, started;

    enum phase phase;
    uint64_t phase_since;
    bool view_changed;

    struct pair_store store; /* fit: and not about to be emptied */
    bool store_failed, stalled;
    bool fit_told;
    uint64_t empty_asked, empty_granted; /* the newest PE_EMPTY that stands, 0: none; PX_EMPTY */
    bool emptying;                       /* granted, and the store isn't another one yet */

    /* the record */
    struct record rec;      /* newest decided one known; version 0: none */
    struct record voters;   /* what the voters held last; differs from rec only while rec_local */
    struct record followed; /* for which PX_FOLLOW was said */
    uint64_t rec_since;     /* since when rec has its epoch */
    bool rec_read;          /* read since the start or since the last step down */
    bool rec_local;         /* forced here and not yet with the voters */
    bool heard_alone;       /* its primary was heard to go on alone since the record was read */
    uint32_t served_seen;   /* highest epoch in which the peer was heard to serve */
    /* an arbiter that can lose what it held (health/register_etcd.h) */
    bool knows_seen, behind; /* behind: it has, and no record is decided since */
    struct record seen;      /* newest record that was ever decided, as far as this node knows */
    uint64_t behind_seq;     /* first heartbeat after that was noticed */
    enum reg_op op;
    bool want_read;
    uint64_t read_at, retry_at, retry_ns;
    enum intent intent;
    enum change_state change;
    struct record want;
    enum warrant asked;   /* of the operation under way; gone with what it rests on */
    enum warrant warrant; /* of the change; a read that settles it has the same */
    enum judgement judged;
    uint64_t tags; /* counter behind the random tags */

    /* own epoch, from PROMOTE to STEP */
    uint32_t epoch;
    uint64_t epoch_since;
    bool promoted, promote_failed, tail_released, superseded, hooked_promoted;

    /* own heartbeats and the lease */
    uint64_t seq, epoch_first_seq;
    uint64_t sent_at[SENDS];
    uint64_t lease_end;  /* fixed by each acknowledgement: nothing later may lengthen it */
    uint64_t lease_base; /* send time of the newest heartbeat acknowledged in this epoch; 0: none */
    uint64_t acked_since; /* since when acknowledgements came without a gap; 0: no lease now */
    struct store_id lease_from; /* whose acknowledgements count */
    uint64_t lease_published;
    uint32_t lease_epoch; /* of what was published */

    /* the peer */
    bool heard;
    struct heartbeat peer;
    uint64_t peer_rx;    /* newest datagram that is a sign of life */
    uint64_t serving_rx; /* newest sign of life of the record's serving primary */
    uint64_t woke;       /* this process stood still until then */
    uint64_t acked_rx;   /* receipt of the newest heartbeat that we acknowledged in rec.epoch */
    int64_t peer_skew_ms, peer_wall_base_ms;
    uint32_t relinquished; /* epoch given up by the peer, as heard with its current boot */
    uint32_t relinquished_paused_ms;
    /* the takeover or restart under way */
    uint64_t order_at;  /* its cause: last sign of life, or the order */
    bool no_lease_wait; /* it replaces exactly the epoch that its primary gave up */
    char from, reason[PAIR_REASON_BYTES];

    /* replication, own epoch */
    bool attached, caught_up, merged, slow, ready, lost, solo_durable, drained, closed, idle;
    struct store_id follower;
    uint64_t detached_since;

    /* taking back: patience grows when it flaps */
    uint64_t hold_ns, paired_at;

    /* operators */
    bool auto_takeover, stopping, handover_wanted, failover_wanted, force_wanted, forcing,
        alone_wanted;
    uint64_t op_token, op_since, ask_token, ask_seen, handover_since, quiesced_at;
    uint32_t op_epoch;

    uint64_t lsn_own, lsn_committed;
    uint32_t in_doubt; /* after the newest promotion */
    struct pair_takeover takeovers[PAIR_TAKEOVERS];
    unsigned n_takeovers;
};

static inline unsigned pair_peer(const struct pair *p)
{
    return p->cfg.self == NODE_A ? NODE_B : NODE_A;
}
static inline char node_letter(unsigned node)
{
    return node == NODE_A ? 'a' : 'b';
}

/* roles.c */
/* Applies rules until none holds; afterwards the state satisfies assert_pair(). */
void roles_settle(struct pair *p);
enum role roles_role(const struct pair *p);
bool roles_serves(const struct pair *p); /* accepts mail */
/* A follower's acknowledgements begin to count anew. */
void roles_watch_follower(struct pair *p);
void roles_why(const struct pair *p, char *out, size_t n);

/* pair.c, for the actions of roles.c */
void pair_fx(struct pair *p, struct pair_effect fx);
void pair_log(struct pair *p, bool ok, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
void pair_hook(struct pair *p, const char *name);
void pair_change(struct pair *p, enum intent intent, enum warrant warrant, const struct record *to);
void pair_change_settled(struct pair *p);
void pair_op_done(struct pair *p, bool ok, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
uint64_t pair_lease_length(const struct pair *p); /* the shorter of both nodes' settings */
uint64_t pair_lease_end(const struct pair *p);    /* from acknowledgements; 0: none */
void pair_publish_lease(struct pair *p);

uint64_t pair_next_tag(struct pair *p); /* never twice */

/* pair_orders.c, for the events of pair.c */
void pair_on_operator(struct pair *p, const struct pair_event *ev);
void pair_bootstrap(struct pair *p, uint64_t op); /* op 0: nobody asked, all are empty */
void pair_operator_timeouts(struct pair *p);

/* pair_lease.c, for the events of pair.c */
void pair_on_heartbeat(struct pair *p, const struct pair_event *ev);
void pair_lease_gap(struct pair *p); /* the lease ran out: what holds it begins anew */
void pair_want_handover(struct pair *p);
#endif
