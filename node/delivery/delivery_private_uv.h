/* What the parts of delivery share. delivery_uv.c: life and timers; targets_uv.c: next hops;
 * intake_uv.c: from queue and disk into memory; link_uv.c: connections and transactions;
 * notes_uv.c: what must be known elsewhere before a final dot; outcome_uv.c: results back to the
 * queue. Only these include it. */
#ifndef BATON_DELIVERY_PRIVATE_UV_H
#define BATON_DELIVERY_PRIVATE_UV_H

#include "node/delivery/bounce.h"
#include "node/delivery/client_uv.h"
#include "node/delivery/delivery_uv.h"
#include "node/delivery/destination.h"
#include "node/delivery/dot.h"
#include "node/delivery/hand.h"
#include "node/delivery/hops_uv.h"
#include "node/delivery/route.h"
#include "node/queue/opstate.h"
#include "replication/notes.h"

enum {
    /* All that is in memory; the rest of the queue is on disk and found by scans. */
    IN_HAND_RECIPIENTS_MAX = 20000,
    IN_HAND_BYTES_MAX = 128 << 20,
    /* Of one next hop, so that a slow one doesn't crowd the others out. */
    TARGET_RECIPIENTS_MAX = 4000,
    TARGETS_MAX = 20000, /* next hops known at a time; others' mail stays on disk meanwhile */
    TARGET_LINGER_MS = 60000,
    RESOLVING_MAX = 500,  /* next hops asked about at a time; others wait */
    HOPS_LIFE_MS = 60000, /* then DNS is asked again (its own cache answers) */
    IDLE_MS = 5000,       /* an unused connection is kept that long */
    TRIES_MAX = 3,        /* connections lost under one job before that counts as its attempt */
    BODY_PIECE_BYTES = 131072,
    SCAN_ROWS = 500,
    SCAN_DOMAINS = 200,
    RESCAN_MS = 60000, /* longest time without a look at the disk */
    TICK_MS = 50,      /* grain of rate limits */
    DUE_GRACE_MS = 20, /* from the time that something is due to the scan for it */
    HOUSEKEEPING_MS = 1000,
    RATE_SECONDS = 10,
    MEND_MS = 60000, /* for the other node's copy of a body */
};

/* A message in memory; its jobs share it. */
struct letter {
    struct delivery *d;
    unsigned refs;
    size_t bytes; /* counted against IN_HAND_BYTES_MAX */
    struct row_message m;
    struct queued *fresh; /* owns the bytes of m, or */
    struct buf memory;    /* these do */
};

/* Recipients of one message for one next hop: one transaction. */
struct job {
    struct job *next;
    struct letter *letter;
    unsigned tries, n;
    struct row_recipient rcpts[]; /* their bytes belong to the letter */
};

/* A next hop with what waits for it. */
struct target {
    struct delivery *d;
    struct target *next_in_bucket, *next, *prev; /* table, ring of all */
    char key[ROUTE_KEY_MAX];
    enum route_kind kind;
    char host[MX_NAME_MAX]; /* smarthost; "" for MX, whose domain is the key */
    uint16_t port;
    struct destination core;
    struct job *head, *tail;
    unsigned n_jobs, n_rcpts; /* waiting */
    struct link *links;
    unsigned opening, idle; /* links that aren't ready yet; that are free */
    struct hop *hop;        /* where it can be reached, in order; n_hops of them */
    unsigned n_hops;
    uint64_t hops_until_ms;
    struct hops_query *resolving;
    uint64_t idle_since_ms;
    bool left;      /* the disk has more for it than fits */
    bool want_scan; /* is in d->scan.targets */
    bool waiting;   /* is in d->waiting: for its rate, or a free connection */
    struct target *next_scan, *next_waiting;
};

/* A connection to a target's next hop and what it does. */
struct link {
    struct delivery *d;
    struct target *t;
    struct link *next;
    struct conn *conn;
    unsigned hop;
    char remote[MX_NAME_MAX + 80]; /* "host [addr]:port" */
    bool ready, quitting;
    uint64_t idle_since_ms, generation;
    struct job *job;
    struct client_transaction tx;
    unsigned stage; /* of the body: 0 prefix, 1 body, 2 all given */
    bool body_wanted, dot_wanted, dot_out, damaged;
    bool checked;          /* piece is the whole body, and right */
    bool refused;          /* its rows have changed: they are read anew */
    struct noting *noting; /* of the job */
    uint64_t body_given, body_asked;
    struct buf piece; /* read ahead */
    struct link_read *read;
    struct sha256 *sha;
    char tls[80];
    struct outcome *outcomes; /* not yet settled */
};

/* Recipients whose message waits for its body to be mended; they stay in hand. */
struct mending {
    struct mending *next;
    struct job *job;
    uint64_t since_ms, generation;
    bool holding; /* the hold is on its way */
    char remote[MX_NAME_MAX + 80];
};

struct outcome;

struct scan {
    bool busy, want_all, in_pass, discard;
    bool left;                     /* memory was full: more is on disk */
    struct target *targets, *last; /* to be read each by itself */
    char **domains;                /* the pass's current batch */
    unsigned n_domains, at;
    int64_t began_ms; /* the pass, by the wall clock */
    bool more_domains;
    char *after;  /* last domain of the batch */
    char *domain; /* being read */
    struct {
        int64_t next_ms;
        uint64_t id;
        uint32_t index;
    } cursor;
    struct hand_key *leaving; /* settled while a read was under way */
    size_t n_leaving, cap_leaving;
};

struct delivery {
    uv_loop_t *loop;
    const struct config *config;
    char *hostname;
    struct queue *queue;
    struct events *events;
    struct delivery_hooks hooks;
    struct tls_ctx *tls; /* NULL: policy none */
    struct dns *dns;
    uv_timer_t tick, housekeeping, due;
    uv_prepare_t round; /* before the loop waits: notes go out together */
    int64_t due_at_ms;
    unsigned handles;
    uint64_t refs; /* callbacks that the queue still owes us */
    bool running, quiescing, closing;
    void (*idle)(void *ctx);
    void *idle_ctx;
    void (*closed)(void *ctx);
    void *closed_ctx;
    uint64_t generation; /* grows at abort: what is older is ignored */
    uint64_t random;
    struct target **bucket;
    size_t n_buckets;
    struct target *targets; /* ring's first */
    unsigned n_targets;
    struct target *waiting, *waiting_last;
    struct hand hand;
    size_t bytes;
    struct scan scan;
    struct pauses pauses;
    struct mending *mending;
    unsigned n_links, dots, n_resolving;
    uint64_t n_outcomes;   /* and other changes that a hand-over waits for */
    struct buf note_frame; /* on its way with this round of the loop */
    uint32_t note_epoch;
    uint64_t note_key, note_number, noted;
    struct noting *notings, *notings_last; /* whose answer is due, by number */
    struct delivery_stats totals;
    unsigned second_at, per_second[RATE_SECONDS];
};

static inline uint64_t delivery_now(const struct delivery *d)
{
    return uv_now(d->loop);
}
uint32_t delivery_random(struct delivery *d);
bool delivery_active(const struct delivery *d); /* may start transactions */
void delivery_check_idle(struct delivery *d);
void delivery_link_gone(struct delivery *d); /* while closing; may free d */
void delivery_unref(struct delivery *d);
void delivery_due_at(struct delivery *d, int64_t wall_ms); /* something is due then */
void delivery_tick_soon(struct delivery *d);
void delivery_count(struct delivery *d, enum verdict v);

/* targets_uv.c */
struct target *target_get(struct delivery *d, struct slice domain); /* NULL: too many, or no name */
void target_free(struct target *t);
void target_unresolve(struct target *t);
void target_push(struct target *t, struct job *j, bool front);
struct job *target_pop(struct target *t);
void target_wait(struct target *t); /* look again at the next tick */
struct config_destination target_limits(struct delivery *d, const struct config_route *r,
                                        struct slice domain);
void letter_unref(struct letter *l);
void job_free(struct job *j); /* not its place in hand */

/* intake_uv.c */
void intake_fresh(void *ctx, struct queued *q);
void intake_scan_all(struct delivery *d);
void intake_scan_target(struct target *t);
void intake_room(struct delivery *d, struct target *t); /* memory became free: read on? */
void intake_leave(struct delivery *d, uint64_t id, uint32_t index);
void intake_leave_job(struct delivery *d, struct job *j); /* all of its recipients; frees it */
/* Is it paused, by its destination's name, its recipients' domain or its campaign? */
bool intake_paused(const struct target *t, const struct row_message *m,
                   const struct row_recipient *r);
void intake_forget_waiting(struct delivery *d); /* what has no transaction goes back to disk */
void intake_reset(struct delivery *d);

/* link_uv.c */
void target_pump(struct target *t);
void link_settled(struct link *l);
void link_try_dot(struct link *l);
void link_refuse(struct link *l);  /* no dot for this job: it goes back to disk */
void links_drop(struct target *t); /* all connections, at once */
void target_close_idle(struct target *t, uint64_t idle_for_ms);

/* notes_uv.c */
void noting_start(struct link *l); /* its job begins */
void noting_end(struct link *l);   /* its job is over; outcomes may still hold the note */
struct noting *noting_ref(struct noting *x);
void noting_unref(struct noting *x, bool settled); /* NULL: none */
struct dot noting_dot(const struct link *l);
/* Under `hold`: these wait again without an outcome; they weren't sent. */
void noting_take_back(struct delivery *d, const struct letter *letter,
                      const struct row_recipient *rows, unsigned n);
void noting_pause(struct delivery *d);
void noting_resume(struct delivery *d);
void noting_forget(struct delivery *d); /* the epoch is over */
void noting_flush(struct delivery *d);

/* mend_uv.c */
void mend_begin(struct link *l, struct job *j); /* takes j */
void mend_tick(struct delivery *d);
void mend_reset(struct delivery *d);

/* outcome_uv.c */
struct result { /* of one recipient */
    struct row_recipient *row;
    const struct reply *reply; /* NULL: expired without an attempt */
    bool in_doubt;             /* sent, not answered, and not to be sent twice */
    bool dsn_passed_on;
    bool suppressed; /* its address is never sent to */
};
/* Records the results of recipients of one letter; link may be NULL. Copies. */
void outcome_record(struct delivery *d, struct link *link, struct letter *letter,
                    struct result *results, unsigned n);
void outcome_unlink(struct link *l); /* l goes away */
/* Everything that waits for t ends with this reply. */
void outcome_fail_waiting(struct target *t, const struct reply *why);
#endif
