/* Who is primary, in which mode, and until when it may deliver (protocol 5, 6, 7). The core of
 * health: events in, effects out, time passed in. One table of roles (health/roles.c) serves the
 * code, the operator's log line and the diagram. */
#ifndef BATON_HEALTH_PAIR_H
#define BATON_HEALTH_PAIR_H

#include "health/record.h"

enum role {
    ROLE_STARTING,
    ROLE_STANDBY,
    ROLE_PROMOTING,
    ROLE_PRIMARY,
    ROLE_FENCED,
    ROLE_REJOINING
};
const char *role_name(enum role r);
enum pair_mode { PAIR_NONE, PAIR_PAIRED, PAIR_SOLO };

struct pair_config {
    unsigned self; /* NODE_A or NODE_B */
    bool single;   /* one node, arbiter none: serves alone, no voters, no peer */
    bool none;     /* two nodes, arbiter none: the third vote is a judgement (register_none.h) */
    bool manual;   /* none: takeover = "manual" */
    uint64_t heartbeat_ns, lease_ns, takeover_after_ns, standby_timeout_ns;
    uint64_t boot_random, boot_counter;
};

/* What the own store is; told at start and after each change of it. */
struct pair_store {
    bool open;   /* opened and checked */
    bool fit;    /* not copying, not unfit: may be promoted */
    bool virgin; /* never held a history */
    struct store_id id;
    struct pos end, committed;
    uint32_t epoch_seen; /* never follow or serve below */
    uint32_t forced;     /* the newest epoch in its history, if that was begun by force; else 0 */
};

struct heartbeat {
    uint64_t boot_counter, boot_random, seq;
    uint32_t epoch; /* of the record this node follows or serves in */
    uint8_t role;   /* enum role */
    uint8_t mode;   /* enum pair_mode */
    bool serving;   /* a primary that serves in `epoch` (not promoting, not fenced for good, not
                       relinquished) */
    bool fit;       /* store open, healthy, not a copy in progress: can take over */
    uint64_t own_lsn, committed_lsn;
    struct store_id store;
    uint64_t lease_ns; /* this node's setting */
    int64_t wall_ms;
    uint64_t echo_boot_random,
        echo_seq;       /* newest heard from the peer: proof of life for anti-replay */
    uint32_t ack_epoch; /* lease acknowledgement: this node follows that epoch, hasn't begun to
                           replace it, and heard echo_seq in it; 0: none */
    uint32_t relinquish_epoch; /* not 0: this node served in that epoch and never will again */
    uint64_t relinquish_boot;  /* boot_random of the relinquishing process */
    uint32_t paused_ms; /* with relinquish_epoch: how long delivery had been paused by then; 0: it
                           wasn't planned */
    uint64_t ask_handover; /* a standby's operator asks for a switchover: random token, 0: none */
    bool leaving;          /* clean stop of a standby: don't wait for its silence */
    bool virgin;           /* store open, and it never held a history */
    bool knows_seen;       /* seen_epoch and seen_version are known */
    uint32_t seen_epoch;   /* of the newest record that this node ever saw count; 0: none */
    uint64_t seen_version;
};
bool heartbeat_encode(struct buf *b, const struct heartbeat *h);
bool heartbeat_decode(struct wire_reader *r, struct heartbeat *out);

enum pair_event_type {
    PE_TICK,      /* every 10-20 ms and whenever something is due */
    PE_HEARTBEAT, /* an authenticated datagram of the peer. flag: proven fresh, the peer has echoed
                     this boot of ours; until then it only tells what to echo */
    PE_STORE,     /* pair_store below */
    PE_REGISTER,  /* outcome, record: of the operation asked for */
    PE_HINT,      /* record: accepted by one voter; flag: by the arbiter alone, so it counts */
    PE_SEEN,      /* record: the newest that this node has seen there (version 0: none), as it was
                     when it ended last and with each new one, before that is on the disk; from
                     an arbiter that can lose what it held */
    PE_BEHIND,    /* the arbiter holds less than `record`, which was seen there */
    PE_BOOTSTRAPPED, /* own voter votes now (first record, or recovered): read */
    PE_VIRGIN,       /* no voter ever held a record, nor the own store a history (protocol 5) */
    /* from replication, as primary */
    PE_PROMOTED, /* store is ours in `epoch`: first lsn and end in pos */
    PE_PROMOTE_FAILED,
    PE_ATTACHED,        /* a follower passed the handshake: store */
    PE_MERGED,          /* its tail is merged and durable here */
    PE_CAUGHT_UP,       /* it reads from the ring now: store */
    PE_DETACHED,        /* link lost or closed */
    PE_SLOW,            /* the oldest unacknowledged batch is older than standby_timeout */
    PE_TAKE_BACK_READY, /* history row "paired" durable on both: store */
    PE_TAKE_BACK_LOST,  /* the follower went away, or another store came, during take back */
    PE_SOLO_DURABLE,    /* history row "solo" durable: released */
    PE_DRAINED,         /* writer closed, standby holds everything (hand-over) */
    PE_CLOSED,          /* stepped down: no write of the old epoch can follow */
    /* from replication, as follower */
    PE_EMPTY, /* it wants to empty the store for a full copy; op names the question. flag false: not
                 any more */
    /* from the relay */
    PE_DELIVERY_IDLE, /* no final dot is open, and no mail waits for its 250 (after PX_QUIESCE) */
    PE_STORAGE_FAILED,
    PE_STALLED, /* flag: storage, replication or relay makes no progress (protocol 6) */
    /* operators */
    PE_OP_SWITCHOVER,
    PE_OP_FAILOVER,
    PE_OP_BOOTSTRAP,
    PE_OP_START_ALONE,
    PE_OP_STOP,
    PE_AUTO_TAKEOVER, /* flag: replicated operator state "takeover" */
    PE_JUDGED,        /* arbiter none; outcome: enum judgement about a silent primary */
};
struct pair_event {
    enum pair_event_type type;
    struct heartbeat heartbeat;
    struct pair_store store;
    struct store_id follower;
    uint32_t epoch;
    struct pos pos;
    uint32_t in_doubt; /* PROMOTED: recipients that the old primary may have sent */
    int outcome;       /* REGISTER: enum register_outcome; JUDGED: enum judgement */
    struct record record;
    bool flag; /* HEARTBEAT: proven; AUTO_TAKEOVER: on; STALLED: it does; OP_FAILOVER: --force */
    int64_t wall_ms; /* HEARTBEAT: own wall clock at receipt; 0: unknown */
    uint64_t op;     /* operator's token, answered by PX_OP_DONE; EMPTY: the question's */
};

enum pair_effect_type {
    PX_HEARTBEAT, /* send pair_heartbeat() on every path now */
    /* The register: answered by PE_REGISTER, never from within the effect; refused because it is
     * busy or the own voter doesn't vote: REG_NOT_DONE. Given up at until_ns. One at a time. */
    PX_READ,   /* register_read */
    PX_CHANGE, /* register_change(from_tag, record) */
    PX_UNASK,  /* what the operation under way rests on is gone: nobody votes for it by judgement */
    PX_BOOTSTRAP, /* register_bootstrap(record); the driver answers op (PX_OP_DONE) where it isn't 0
                   */
    PX_VIEW,      /* pair_view() changed: publish it to the relay, status and log */
    PX_LEASE,   /* delivery is allowed until until_ns (0: not; UINT64_MAX: solo), in `epoch` and by
                   nobody who hasn't heard yet that another one is over; publish at once */
    PX_PROMOTE, /* replication: take the store into `epoch`, mode */
    PX_SERVE,   /* relay: accept and deliver from now on in `epoch` */
    PX_FOLLOW,  /* replication: follow `record`'s primary (dial) */
    PX_STEP_DOWN,    /* relay and replication: end the epoch; what is undecided stays undecided */
    PX_DROP,         /* replication: the record is solo now: write the history row, then release */
    PX_TAKE_BACK,    /* replication: begin waiting for `follower`; answer READY or LOST */
    PX_PAIRED,       /* replication: the record names `follower`: stay paired */
    PX_RELEASE_TAIL, /* relay: deliveries may start (restart: tail merged, or standby dropped) */
    PX_QUIESCE, /* relay: no new mail, no new deliveries; say PE_DELIVERY_IDLE when what is open has
                   ended */
    PX_DRAIN,   /* replication: close the writer, bring everything to the standby, say PE_DRAINED */
    PX_EPOCH_SEEN, /* store: remember `epoch` durably before any handshake */
    PX_EMPTY,      /* replication: it may (PE_EMPTY; op): this store isn't promoted any more */
    PX_HOOK,       /* name: "promoted", "demoted", "solo", "paired" */
    PX_OP_DONE,    /* op, ok, text */
    PX_LOG,        /* text, for the log: a change of role with its reason; ok = false: a warning */
    PX_STOPPED,    /* clean stop: nothing more to do */
};
struct pair_effect {
    enum pair_effect_type type;
    uint32_t epoch;
    enum pair_mode mode;
    uint64_t until_ns, from_tag, op;
    enum warrant warrant; /* READ, CHANGE */
    struct record record;
    struct store_id follower;
    const char *name;
    bool ok;
    char text[240];
};
typedef void (*pair_emit)(void *ctx, const struct pair_effect *fx);

enum { PAIR_REASON_BYTES = 120 };
struct pair_takeover {
    int64_t at_ms; /* filled in by the driver */
    char from, to;
    char reason[PAIR_REASON_BYTES];
    uint64_t duration_ns; /* last sign of life, or order, to serving */
    uint64_t in_doubt;
};
enum { PAIR_TAKEOVERS = 16 };

/* What everybody else may know. */
struct pair_view {
    enum role role;
    enum pair_mode mode; /* on a standby: the record's */
    bool serving;        /* accepts mail now (also while it drops the standby) */
    bool in_sync;        /* own store is named by the record and attached as standby */
    uint32_t epoch;
    struct record record; /* version 0: none known */
    char why[200];        /* one line for a person */
    bool auto_takeover;   /* not suspended, and not takeover = "manual" */
    bool peer_reachable;
    uint8_t peer_role;
    uint64_t peer_lsn;
    int64_t peer_wall_skew_ms; /* at its newest sign of life */
    int64_t peer_wall_base_ms; /* its wall clock then, less our clock that only goes on */
    uint64_t silent_ns; /* since the peer's last sign of life; UINT64_MAX: none since the start */
    struct pair_takeover takeovers[PAIR_TAKEOVERS]; /* newest first */
    unsigned n_takeovers;
};

struct pair;
struct pair *pair_new(const struct pair_config *c, pair_emit emit, void *ctx);
void pair_free(struct pair *p);
void pair_step(struct pair *p, const struct pair_event *ev, uint64_t now_ns);
/* The next heartbeat's content; seq and send time are noted for the lease. */
void pair_heartbeat(struct pair *p, uint64_t now_ns, int64_t wall_ms, struct heartbeat *out);
void pair_view(const struct pair *p, uint64_t now_ns, struct pair_view *out);
/* Is the newest record seen here the newest that anybody acted upon? Holds for now only. */
bool pair_may_give_back(const struct pair *p, uint64_t now_ns);
/* For heartbeats: own durable and committed lsn, told by replication at any time. */
void pair_set_lsn(struct pair *p, uint64_t own, uint64_t committed);
#endif
