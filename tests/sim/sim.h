/* The simulator: both nodes, the witness, senders and receivers in one process under virtual time.
 * The cores are the real ones; threads, disks, sockets, SMTP and the queue are small models of what
 * the drivers do, in the order in which the drivers do it. One seed is one run. */
#ifndef BATON_SIM_H
#define BATON_SIM_H

#include <stdio.h>

#include "health/arbiter_none.h"
#include "health/heartbeat.h"
#include "health/pair.h"
#include "health/register.h"
#include "health/register_etcd.h"
#include "node/delivery/dot.h"
#include "node/queue/selector.h"
#include "replication/replica.h"
#include "sim/rng.h"
#include "sim/store_memory.h"

#define US  1000ull
#define MS  1000000ull
#define SEC 1000000000ull

struct sim;
struct task;
struct node;
typedef void (*task_fn)(struct sim *s, struct task *t);

enum { PROCESSES = 3, NOBODY = 3 }; /* a, b, witness; NOBODY: the world itself */

/* Something that happens at a time. Tasks of a process die with it and wait while it is paused. */
struct task {
    uint64_t at, order;
    task_fn fn;
    void (*drop)(struct task *t); /* frees what p holds when the task never runs; may be NULL */
    unsigned process;
    uint8_t thread; /* enum thread: of a thread that hangs, it waits */
    uint32_t life;
    uint64_t a, b;
    void *p;
    struct task *next_free;
};

enum thread { T_ANY, T_RELAY, T_REPLICATION, THREADS };

/* --- loop.c --- */
struct task *sim_at(struct sim *s, uint64_t at, unsigned process, task_fn fn);
struct task *sim_at_thread(struct sim *s, uint64_t at, unsigned process, enum thread thread,
                           task_fn fn);
bool sim_run_one(struct sim *s); /* false: nothing left */
void sim_loop_free(struct sim *s);
void sim_trace(struct sim *s, const char *who, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
/* An invariant does not hold: the run ends here. */
void sim_fail(struct sim *s, const char *invariant, const char *fmt, ...)
    __attribute__((format(printf, 3, 4)));
#define TRACE(s, ...) ((s)->trace ? sim_trace((s), __VA_ARGS__) : (void)0)

/* --- what goes on in one run, drawn from the seed --- */
struct weather {
    uint64_t delay_min, delay_max; /* one way */
    double loss, dup, late;        /* late: a datagram takes up to a second */
};
enum fault_kind {
    F_CRASH,      /* a node, as kill or as power loss; comes back */
    F_CRASH_STEP, /* a node right before or after one of its next durable steps */
    F_PAUSE,
    F_CUT,     /* one direction of one kind of traffic, or all of a node */
    F_WEATHER, /* loss, delay, reordering for a while */
    F_BREAK,   /* the replication link */
    F_MUTE,    /* the replication link stays open but carries nothing */
    F_DISK,    /* slow for a while */
    F_WITNESS, /* down for a while */
    F_EMPTY_VOTER,
    F_EMPTY_STORE,
    F_SWITCHOVER,
    F_FAILOVER,
    F_WRITE,          /* a transaction, or a write of the voter's row, fails */
    F_FSYNC,          /* a commit fails: it may be there after a restart */
    F_FULL,           /* below the reserve, sometimes really full; sometimes both disks */
    F_STALL,          /* a disk doesn't answer for a while */
    F_THREAD,         /* the relay's or replication's thread doesn't run for a while */
    F_SLOW_PEER,      /* a machine whose threads answer each other late */
    F_CLOCK,          /* a wall clock jumps */
    F_LATE_WITNESS,   /* it answers seconds late */
    F_STOP,           /* a clean stop */
    F_OPERATOR,       /* a campaign is paused or resumed, takeover turned off or on */
    F_ROLLBACK,       /* a store becomes what it was some time ago */
    F_CLONE,          /* the same, and it has been used elsewhere meanwhile */
    F_QUEUE,          /* an operator holds, releases, retries or cancels a message */
    F_ROT,            /* a byte of a stored body is another one */
    F_WITNESS_BACKUP, /* the witness gets an older state of its file */
    F_FORCE,          /* an operator takes the other for dead; few seeds know it */
    F_KINDS
};
struct plan {
    uint64_t duration; /* of the phase with faults */
    uint64_t fault_every;
    double burst; /* chance that a fault is followed by another at once */
    double weight[F_KINDS];
    struct weather weather;
    uint64_t heartbeat, lease[NODES], takeover_after, standby_timeout, stall_timeout;
    double rate[NODES]; /* of the clocks */
    uint64_t commit_min, commit_max;
    uint64_t quarantine_ms;
    unsigned messages, clients, connections;
    uint64_t in_doubt_wait_ms;
    double hold; /* of the messages: at most once */
    double reject, defer, reply_lost, client_impatient, client_gives_up, chunked;
    uint64_t mail_delay_max;  /* between threads */
    uint64_t think_max;       /* of a client, between messages */
    uint64_t transaction_max; /* of a delivery, from its start to its final dot */
    size_t ring_bytes, catch_up_bytes, window_bytes;
    uint64_t expire_ms, retention_ms;
    unsigned out; /* who stays down at first when the faults have ended; NOBODY: none */
};

/* --- net.c --- */
enum traffic { UDP, TCP };
struct frame {
    struct frame *next;
    uint64_t due;
    uint8_t type;
    bool fin;
    size_t n;
    uint8_t data[];
};
struct pipe { /* one direction of a connection */
    struct frame *head, *tail;
    uint64_t last_due;
    size_t bytes;
    bool pumping, full;
};
struct conn {
    uint64_t id;
    struct conn *next;
    unsigned end[2]; /* process at each end; [0] dialled */
    uint32_t life[2];
    bool open[2]; /* this end hasn't been told that it is over */
    bool mute;
    struct pipe pipe[2]; /* from end i to the other */
};
void net_datagram(struct sim *s, unsigned from, unsigned to, struct slice bytes);
void net_dial(struct sim *s, unsigned from, unsigned to);
void net_send(struct sim *s, unsigned from, uint64_t link, uint8_t type, struct slice payload,
              struct slice more);
void net_close(struct sim *s, unsigned from, uint64_t link);
void net_process_died(struct sim *s, unsigned process, bool silent);
void net_process_back(struct sim *s, unsigned process);
void net_break_links(struct sim *s);
void net_mute_links(struct sim *s, bool mute);
void net_heal(struct sim *s);
void net_free(struct sim *s);
/* A datagram from `from` lies in the socket of `to`, unread. */
bool net_waits(const struct sim *s, unsigned to, unsigned from);
bool net_whole(struct sim *s, uint64_t link); /* both ends live, and hold it */

/* --- storage.c: the storage thread and its reader --- */
enum op_kind { OP_ADD, OP_OUTCOME, OP_RELEASE_DUE, OP_NOTE, OP_STATE, OP_PURGE, OP_SELECT };
enum op_fate { OP_DURABLE, OP_NOT_PRIMARY, OP_FAILED /* unknown */ };
struct op {
    struct op *next;
    enum op_kind kind;
    uint32_t epoch;
    struct row row[12];
    unsigned n_rows;
    struct buf memory; /* backing bytes of the rows */
    uint64_t copy_id;  /* message concerned */
    uint32_t rcpt;
    unsigned session; /* who waits */
    enum op_fate fate;
    struct pos pos;
    enum select_action action; /* SELECT: of that message's recipients */
    uint64_t said;             /* SELECT: which word of the operator this is */
    bool noted;                /* NOTE: the row stands as it was wanted */
    bool written;
};
void op_free(struct op *op);
void storage_start(struct sim *s, struct node *n);
void storage_stop(struct sim *s, struct node *n); /* process gone: forgets what waits */
void storage_submit(struct sim *s, struct node *n, struct op *op);
void storage_request(struct sim *s, struct node *n, const struct store_request *r);

/* --- relay.c: SMTP server, queue, delivery --- */
struct waiting { /* an operation between its commit here and its release by the watermark */
    struct op *op;
    struct waiting *next;
};
enum { CONNECTIONS_MAX = 4 };
struct delivery_conn {
    uint64_t id; /* message in hand; 0: idle */
    uint32_t rcpt;
    uint64_t deadline; /* waiting for the lease since */
    uint64_t serial;   /* of this transaction */
    uint64_t since, note_key;
    struct dot dot; /* node/delivery/dot.h */
    bool dotted;
    bool mending; /* its body is damaged: fetched from the other node, until deadline */
};
struct relay {
    uint32_t epoch; /* served; 0: none */
    uint64_t next_seq;
    uint32_t mark_epoch;
    uint64_t committed, settled, noted;
    uint64_t note_number, note_key;
    struct waiting *head, *tail;
    bool delivering, quiescing, idle_told;
    uint64_t release_at; /* quarantine: looked at again then */
    struct delivery_conn conn[CONNECTIONS_MAX];
};
void relay_start(struct sim *s, struct node *n);
void relay_stop(struct sim *s, struct node *n);
void relay_effect(struct sim *s, struct node *n, const struct pair_effect *fx);
void relay_epoch_over(struct sim *s, struct node *n);
void relay_watermark(struct sim *s, struct node *n, uint32_t epoch, uint64_t committed,
                     uint64_t settled, uint64_t noted);
void relay_op_back(struct sim *s, struct node *n, struct op *op);
/* A client hands over message n; false: 421. session identifies who waits. */
bool relay_submit(struct sim *s, struct node *n, unsigned message, unsigned session);

void relay_add_bounce(struct sim *s, struct node *n, struct op *op, uint64_t parent,
                      uint32_t index);

/* --- deliver.c --- */
void deliver_tick(struct sim *s, struct node *n);
void deliver_settled(struct sim *s, struct node *n, struct op *op);
void deliver_noted(struct sim *s, struct node *n, struct op *op); /* a durable note is committed */
void deliver_abort(struct sim *s, struct node *n);
void deliver_idle_check(struct sim *s, struct node *n);
void deliver_mended(struct sim *s, struct node *n, uint64_t id,
                    uint8_t how); /* enum verify_mended */

/* --- health.c, replication.c: the two threads that run the cores --- */
void health_start(struct sim *s, struct node *n);
void health_stop(struct node *n);
void health_post(struct sim *s, struct node *n, const struct pair_event *ev);
void health_datagram(struct sim *s, unsigned process, unsigned from, struct slice bytes);
void replication_start(struct sim *s, struct node *n);
void replication_stop(struct node *n);
void replication_step(struct sim *s, struct node *n, struct replica_event *ev);
void replication_dial_again(struct sim *s, struct node *n, uint64_t after);

/* --- node.c --- */
/* Order of posting is kept between two threads, as their mailboxes do. */
enum channel {
    STORAGE_TO_REPLICATION,
    READER_TO_REPLICATION,
    REPLICATION_TO_STORAGE,
    HEALTH_TO_REPLICATION,
    REPLICATION_TO_HEALTH,
    TO_RELAY, /* health, replication and storage share the relay's one mailbox */
    STORAGE_TO_HEALTH,
    RELAY_TO_STORAGE,
    RELAY_TO_HEALTH,
    RELAY_TO_REPLICATION,
    HEALTH_SELF,
    CHANNELS
};
struct disk { /* what survives a crash */
    struct store *store;
    struct store *old;       /* a disk that was taken out; NULL: none */
    struct store *snapshot;  /* what the store was at some time; NULL: none */
    struct store *gone;      /* the one that was thrown away last, for the books; NULL: none */
    struct pos snapshot_end; /* where stores with its id ended that are thrown away since */
    bool lost;               /* it was rolled back, and doesn't hold again what it held */
    uint64_t lost_at;
    struct pos lost_end; /* where it ended before */
    struct voter_state voter;
    bool has_voter;
    uint64_t boot_counter;
};
enum disk_fault { DISK_OK, DISK_WRITE, DISK_FSYNC, DISK_FULL };
struct storage_model {
    struct item *head, *tail; /* operations and requests in order of arrival */
    struct item *under_way;
    bool busy, own_open;
    bool failed; /* nothing is written any more until a restart */
    uint64_t busy_since;
    struct own *own;
    uint32_t writer;                          /* epoch in which operations are taken; 0: closed */
    uint64_t purged_by;                       /* lsn of the order that was carried out */
    bool purging;                             /* pieces of it are left */
    uint64_t unread_from, read_at, merged_at; /* as in node/queue/internal_uv.h */
    struct pos committed;
};
struct node {
    unsigned self;
    struct disk disk;
    bool up, paused;
    uint32_t life;
    uint64_t pause_until, frozen_for, started_at, crashed_at, emptied_at;
    uint64_t linked_at; /* its newest connection to a primary */
    uint64_t notes_at;  /* the newest NOTE came */
    uint64_t clock_base, clock_from;
    double rate;
    int64_t wall_offset_ms;
    uint64_t last[CHANNELS]; /* newest delivery on the channel */
    /* health */
    struct pair *pair;
    struct reg *reg;
    struct arbiter_voters voters;
    struct arbiter_none without; /* arbiter none */
    uint64_t fence_run;          /* its fence command under way; 0: none */
    bool fence_works;
    uint64_t fence_began, heard_at;      /* heard_at: newest sign of life of the other node */
    struct register_etcd *register_etcd; /* arbiter etcd; else NULL */
    struct arbiter *arbiter;
    struct heartbeat_guard guard;
    uint32_t lease_epoch;
    uint64_t lease_until;
    bool gate; /* SMTP: pair_view.serving */
    bool stepping;
    enum role role;
    uint64_t lsn_own;
    /* replication */
    struct replica *replica;
    bool dialing;
    uint64_t link_out; /* the link that we dialled; 0: none */
    uint64_t dial_backoff;
    struct storage_model storage;
    struct relay relay;
    /* faults armed */
    unsigned crash_after_steps; /* 0: none */
    bool crash_before, crash_silent;
    uint64_t slow_until, slow_max;
    enum disk_fault disk_fault; /* of the next transaction */
    bool voter_fault;           /* of the next write of the voter's row */
    uint64_t stall_until, low_until, full_until;
    uint64_t thread_since[THREADS], thread_until[THREADS];
    uint64_t late_until, late_max; /* mail between its threads */
    bool stalled;                  /* as health was told */
    bool stopping, auto_told;
    uint64_t asked_at;     /* an operator looks again then */
    enum fault_kind order; /* of an operator, the newest */
    /* the wall clock, as books keep it */
    uint64_t serving_ns; /* since when it serves, on its clock */
    /* as the rules keep it (rules.c) */
    uint32_t heard_epoch; /* highest in which this process heard the other serve */
    uint32_t acked_epoch; /* as primary: what it heard that store acknowledge in this epoch */
    struct store_id acked_store;
    uint64_t heard_link; /* of the newest frame */
    uint64_t acked;
    struct pos numbers;  /* the last that it gave out */
    uint32_t note_epoch; /* as standby: what it was told of open dots */
    uint64_t note_number;
    int64_t heard_skew_ms; /* true difference at the peer's newest sign of life */
    bool heard_peer;
};
uint64_t node_now(const struct sim *s, const struct node *n);
int64_t node_wall(const struct sim *s, const struct node *n);
struct task *node_mail(struct sim *s, struct node *n, enum channel c, task_fn fn);
void node_start(struct sim *s, unsigned self);
void node_crash(struct sim *s, unsigned self, bool silent, const char *why);
void process_pause(struct sim *s, unsigned process, uint64_t until);
/* A durable step of that node is about to happen; true: the node died there instead (`done`:
 * whether the step still reached the disk). */
bool node_dies_here(struct sim *s, struct node *n, bool *done);
const char *process_name(unsigned process);

/* --- clients.c --- */
enum { MESSAGE_RCPTS = 3 };
struct message { /* what a sender wants to get rid of */
    unsigned rcpts;
    unsigned attempts;
    bool chunked, hold, acked, abandoned, started;
};
struct client {
    unsigned message; /* under way; UINT32_MAX: none */
    unsigned target;
    uint64_t session; /* serial of the attempt; 0: not waiting */
};
void clients_start(struct sim *s);
void clients_reply(struct sim *s, unsigned session, bool ok); /* 250, or closed without */
void clients_close_all(struct sim *s, unsigned node);
bool clients_done(const struct sim *s);

/* --- books.c: what the outside world knows --- */
enum dot_state { DOT_NONE, DOT_PENDING, DOT_SETTLED };
struct rcpt_book {
    unsigned dots, accepted, rejected;
    enum dot_state state;                  /* of the newest dot */
    bool newest_accepted, newest_rejected; /* by the receiver */
    bool reply_seen, reply_lost;
    bool listed;     /* since then, on some store, as in doubt */
    unsigned let_go; /* accepted before an operator released it from doubt: it may go out again */
    uint64_t noted_at;
    uint64_t known_at[NODES]; /* on that store since: its note, in doubt, or the end; 0: nothing */
    uint32_t epoch;
    unsigned node;
    uint64_t dot_at, taken_at, settled_at; /* taken_at: the newest dot that a receiver took */
    bool unaware[NODES]; /* that node had lost what it knew when its newest delivery began */
    bool on_both;        /* stores, when it was settled */
};
struct copy { /* one message id */
    uint64_t id;
    unsigned message; /* for a bounce: index of the recipient it is about */
    uint64_t parent;
    unsigned node, rcpts;
    bool acked, bounce, chunked, hold;
    bool away; /* a forced takeover left it behind, or a store lost it with its end: on some store
                  it must be all the same */
    bool was_away, purged;
    bool rotten;                          /* its body was damaged on some store */
    uint64_t rotten_at, looked_at[NODES]; /* and each store's body was read for a comparison */
    bool rot_excused; /* the good one went for a full copy, and this one rotted after the look */
    uint64_t said;    /* the newest order about this message */
    bool held;        /* by an order that was answered */
    bool cancelled, let_go; /* by some order, answered or not */
    uint64_t let_go_at;     /* the newest */
    struct rcpt_book rcpt[MESSAGE_RCPTS];
};
struct accept_log {
    struct ballot ballot;
    struct record record;
    unsigned voters; /* bit set */
    bool chosen;
};
struct operator_word { /* the newest one about a key */
    uint64_t said;
    bool restricts, answered;
};
struct books {
    struct operator_word word[4];
    struct copy *copy;
    unsigned n_copies, cap_copies;
    unsigned *table, n_table;
    struct accept_log *accepts;
    unsigned n_accepts, cap_accepts;
    int chosen;    /* index; -1: none yet */
    bool put_back; /* into an etcd that had lost what was decided last */
    struct {
        uint32_t epoch;
        unsigned node;
    } owner[4096];
    unsigned n_owners;
    uint32_t delivery_epoch;
    unsigned delivery_node, server; /* server: who served last; NOBODY: nobody yet */
    struct {
        uint32_t epoch;
        uint64_t committed;
    } mark[NODES];
    uint64_t took_over_at[NODES]; /* from the other node, the last time */
    bool apart[NODES];            /* wall clocks were more than a minute apart then */
    bool check_all;
    bool rejoined;   /* by an operator's word, with what is forgotten here */
    bool split;      /* arbiter none: a node went on without what the other held */
    uint32_t forced; /* highest epoch that was begun by force; 0: none */
    unsigned forced_node;
    struct {
        uint32_t epoch;
        unsigned node;
    } force[64];
    unsigned n_forces;
};
struct counters {
    uint64_t acked, delivered, bounced, doubled_in_doubt, doubled_reply_lost, doubled_two_crashes;
    uint64_t takeovers, crashes, faults, quarantined, superseded, emptied, epochs;
    uint64_t away_forced, away_lost; /* excused: on another store than the record names */
    uint64_t virtual_ns, events, drops, take_backs, forced, doubled_forced;
    uint64_t expired, doubled_lost_store, doubled_rejoin, purged, rejoined;
    uint64_t cancelled, backups_refused, mended, damaged_held, damaged_gone, compared;
    uint64_t rest_forced;         /* then nobody could serve without an operator's force */
    uint64_t rest[PROCESSES + 1]; /* who stayed down at first when the faults had ended */
    uint64_t injected[F_KINDS], effect[F_KINDS]; /* of each kind: how often, and what it did */
    uint64_t etcd_runs, etcd_losses, etcd_put_back;
    uint64_t none_runs, none_judged, none_splits, doubled_split, fence_killed;
    uint64_t doubled_restart, doubled_note_lost, in_doubt;
    uint64_t hold_forgotten; /* at most once: sent again by a node whose store had forgotten it */
};
struct copy *books_find(struct sim *s, uint64_t id);
struct copy *books_new(struct sim *s, uint64_t id, unsigned message, unsigned node, unsigned rcpts);
void books_number(struct sim *s, struct node *n, uint32_t epoch);
void books_ack(struct sim *s, struct node *n, uint64_t id);
void books_start(struct sim *s, struct node *n, uint32_t epoch);
void books_begin(struct sim *s, struct node *n, uint64_t id, uint32_t rcpt);
void books_dot(struct sim *s, struct node *n, uint32_t epoch, uint64_t id, uint32_t rcpt,
               bool accepted, bool rejected);
void books_settled(struct sim *s, struct node *n, uint64_t id, uint32_t rcpt);
void books_watermark(struct sim *s, struct node *n, uint32_t epoch, uint64_t committed);
void books_voter(struct sim *s, unsigned voter, const struct voter_state *before,
                 const struct voter_state *after);
void books_voter_emptied(struct sim *s, unsigned voter);
void books_accepted(struct sim *s, unsigned voter, struct ballot ballot, const struct record *r);
void books_serve(struct sim *s, struct node *n, uint32_t epoch);
void books_watch(struct sim *s, struct node *n); /* installs the row watcher on n's store */
void books_check(struct sim *s);                 /* invariants that a step may have touched */
bool books_settled_down(struct sim *s, char *why, size_t n); /* end: 7 and 9 */
/* Did the other node accept a higher record, which comes to count when both meet? */
bool books_overtaken(const struct sim *s, const struct record *r);
/* Whether every acknowledged message, and what became of it, survives if that node's store goes
 * away now. */
bool books_spare(struct sim *s, unsigned node);
/* Must that node's store, as it is now, hold every acknowledged message? */
bool books_required(const struct sim *s, unsigned node);
const struct record *books_record(const struct sim *s); /* NULL: none yet */
const struct record *books_record_of(const struct sim *s, uint32_t epoch);
void books_end(struct sim *s);
/* Does that store hold all of the message, or that it is done? */
bool books_holds(const struct store *st, const struct copy *c);
/* The record that counts, and those that may still come to count. */
void books_each_countable(struct sim *s, const struct copy *c,
                          void (*fn)(struct sim *s, const struct copy *c, const struct record *r));
void books_expire(struct sim *s, struct node *n, uint64_t id, uint32_t rcpt);
void books_forced(struct sim *s, struct node *n, uint32_t epoch);
void books_rolled_back(struct sim *s, struct node *n, struct pos end);
void books_free(struct sim *s);
void body_hash(uint64_t key, uint8_t out[32]);

/* --- rules.c: rules that an invariant rests on --- */
void rules_process_starts(struct node *n);
void rules_promote(struct sim *s, struct node *n, const struct record *r);
void rules_heard(struct node *n, const struct heartbeat *h);
void rules_serve(struct sim *s, const struct node *n, const struct pair_effect *fx);
void rules_delivers(struct sim *s, const struct node *n, uint32_t epoch);
void rules_register(struct sim *s, const struct node *n, const struct pair_event *ev);
void rules_claim(struct sim *s, const struct node *n, const struct pair_effect *fx);
void rules_noted(struct sim *s, const struct node *n, const struct delivery_conn *c);
void rules_numbers(struct sim *s, struct node *n, const struct own_batch *x);
/* apply_promote() and its rule. */
int rules_promotion(struct sim *s, struct node *n, const struct promotion *p,
                    struct promoted *done);
void rules_merged(struct sim *s, const struct node *n, unsigned before);
void rules_frame(struct node *n, uint64_t link, uint8_t type, struct slice payload);
void rules_attached(struct sim *s, const struct node *n, const struct store_id *store);
void rules_tail_released(struct sim *s, const struct node *n);
void rules_ack(struct sim *s, const struct node *n, const struct copy *c);

/* --- etcd.c: the same with etcd, in a share of the seeds --- */
enum { ETCD_MODEL_ENDPOINTS = 3, ETCD_MODEL_SENT = 32 };
struct etcd_key {
    uint64_t revision; /* 0: there is no key */
    struct etcd_value value;
    uint8_t bytes[ETCD_VALUE_BYTES_MAX];
    size_t n;
};
struct etcd_model {
    struct etcd_key key, backup;
    uint64_t clock; /* revision of the whole store */
    bool lost;      /* emptied or restored, and nobody has put anything since */
    struct record
        sent[ETCD_MODEL_SENT]; /* by puts compared with the key as it is: they may count */
    unsigned n_sent;
    unsigned n_endpoints, dead; /* bit set */
    bool black_hole;            /* the dead ones don't even refuse */
};
struct call { /* one request and its answer */
    uint64_t id, expect_revision;
    unsigned from;
    uint32_t life;
    enum etcd_request request;
    bool expect_any, put;
    int what;
    uint8_t expect[ETCD_VALUE_BYTES_MAX], value[ETCD_VALUE_BYTES_MAX];
    size_t n_expect, n_value;
    struct etcd_key found;
};
void etcd_draw(struct sim *s);
void etcd_start(struct sim *s, struct node *n, const struct arbiter_events *events);
void etcd_stop(struct node *n);
void etcd_persisted(struct sim *s, struct node *n, bool ok);
void etcd_loses(struct sim *s);
void etcd_back(struct sim *s, struct task *t);
bool etcd_spare(const struct sim *s);
/* The i-th change that may still come to count; NULL: no more. */
const struct record *etcd_pending(const struct sim *s, unsigned i);
void books_etcd(struct sim *s, struct ballot place, const struct record *r);
void health_persist(struct sim *s, struct node *n, const struct voter_state *row);

/* --- none.c: the same with arbiter = none, in a share of the seeds --- */
void none_draw(struct sim *s);
void none_start(struct sim *s, struct node *n, const struct arbiter_events *events);
/* A record that somebody accepted: does it follow the one that counts? Else the history forks. */
void none_accepted(struct sim *s, const struct record *r, bool late);
void none_operator(struct sim *s, struct node *n);
/* Somebody takes an emptied node for a new one (incident 31). */
void none_bootstrap(struct sim *s, struct task *t);
/* May that voter's row be lost, or is it the only one that knows the record? */
bool none_row_spare(const struct sim *s);

/* --- operator.c --- */
enum { OPERATOR_KEYS = 4 };
bool operator_holds(const struct sim *s, unsigned node); /* every word that was answered */
unsigned operator_restricts(const struct node *n);       /* a bit a key, as its store has it */
bool operator_paused(const struct node *n, unsigned message);
void operator_answered(struct sim *s, struct node *n, const struct op *op);
void operator_check(struct sim *s, const bool required[NODES]);
void operator_starts(struct sim *s, struct node *n, unsigned message);
void operator_tell(struct sim *s, struct node *n);
void operator_ends(struct sim *s);
bool operator_needed(const struct sim *s);           /* automatic takeover is off somewhere */
void operator_rejoin(struct sim *s, struct node *n); /* looks whether a word is waited for */
void storage_tells_takeover(struct sim *s, struct node *n, bool on); /* storage.c */

/* --- rot.c: damaged bodies, comparing and mending --- */
void rot_one(struct sim *s, struct node *n);
void rot_apart(struct sim *s, const struct node *n); /* that one awaits a full copy */
void rot_wiped(struct sim *s, const struct node *n); /* its store is emptied now */
/* Finished, forgotten, and back with a store that was rolled back, in no copy that is right. */
bool rot_was_done(struct sim *s, uint64_t id);
void rot_check(struct sim *s);                             /* a good copy is left of each */
bool rot_spare(const struct sim *s, unsigned node);        /* none is on that node's store alone */
void rot_mend(struct sim *s, struct node *n, uint64_t id); /* a delivery waits for it */
void rot_mended(struct sim *s, struct node *n, uint64_t id, uint8_t how); /* RX_MENDED */
void rot_verify(struct sim *s, struct node *n);                           /* batonctl verify */
void rot_end(struct sim *s, struct node *n); /* what is left of it is looked for */
struct store_reply rot_digests(struct sim *s, struct node *n, const struct store_request *req);
struct store_reply rot_rows(struct store *st, const struct store_request *req);
int rot_put_back(struct store *st, const struct store_request *req);

/* --- orders.c: an operator and single messages --- */
void orders_draw(struct sim *s);
void orders_answered(struct sim *s, struct node *n, const struct op *op);
bool orders_hold(const struct node *n, const struct copy *c); /* every row of it says so */
void orders_check(struct sim *s, const bool required[NODES]);
void orders_starts(struct sim *s, struct node *n, const struct copy *c);
void orders_end(struct sim *s, struct node *n); /* what is held is let go */

/* --- faults.c --- */
void plan_draw(struct sim *s);
void faults_start(struct sim *s);
void faults_end(struct sim *s);
void faults_restart_later(struct sim *s, unsigned self);
void faults_cut(struct sim *s, unsigned from, unsigned to, enum traffic kind, uint64_t until);
void faults_repair_later(struct sim *s, struct node *n); /* its store has failed */

struct witness {
    bool up, paused;
    uint32_t life;
    uint64_t pause_until;
    struct voter_state voter;
    bool has_voter;
    struct reg *reg;
    uint64_t last, late_until;
    struct voter_state backup;  /* version 0: none was made */
    struct ballot forgot;       /* what counted when that was put back */
    unsigned crash_after_steps; /* 0: none */
    bool crash_before;
};
void witness_start(struct sim *s);
void witness_crash(struct sim *s);

struct sim {
    uint64_t seed, now, order, serial;
    struct rng rng;
    struct plan plan;
    struct node node[NODES];
    struct witness witness;
    struct task **heap;
    size_t n_heap, cap_heap;
    struct task *free_tasks;
    struct task box[PROCESSES]; /* what the cores' callbacks get: who they are */
    struct weather weather;
    bool at_accept; /* the next voter that is asked to accept loses its file */
    bool cut[PROCESSES][PROCESSES][2];
    uint64_t cut_until[PROCESSES][PROCESSES][2];
    struct conn *conns;
    struct message *message;
    struct client client[8];
    struct books books;
    struct counters count;
    uint64_t still_at; /* a node stood still, when the faults had ended */
    bool quiet_forced; /* an operator had to force when the faults had ended */
    bool quiet;        /* faults have ended */
    bool with_force, with_purge, harsh;
    bool etcd;
    struct etcd_model etcd_model;
    bool none, manual; /* no arbiter; takeover = "manual" */
    bool fence;
    double fence_fails;
    bool failed;
    FILE *trace;
    char verdict[600];
};

/* --- run.c --- */
/* One seed from beginning to end; trace may be NULL. True: all invariants held. */
struct sim_options {
    bool with_purge; /* tombstones are kept for seconds: nodes are away for longer than that */
    bool with_force; /* some seeds know `failover --force`, by one operator or both */
    bool none;       /* every seed without an arbiter, rather than some */
    bool etcd;       /* every seed with etcd */
    bool harsh;      /* roll-backs before a force, an emptied node that is bootstrapped: the books
                        don't know all that this excuses */
};
bool sim_run(uint64_t seed, const struct sim_options *o, FILE *trace, struct counters *count,
             char *verdict, size_t n);
#endif
