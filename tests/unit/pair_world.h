/* Two pair cores in virtual time, with a register that obeys or hangs as the test wants, and
 * replication, storage and relay reduced to their answers. For tests of roles, leases and changes
 * of the record (protocol 5, 6, 7). */
#ifndef BATON_TESTS_PAIR_WORLD_H
#define BATON_TESTS_PAIR_WORLD_H

#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "health/pair.h"
#include "health/register.h"
#include "health/register_none.h"
#include "health/roles.h"

#define MS 1000000ull

enum { EVENTS_MAX = 4096 };

struct due {
    uint64_t at;
    unsigned node;
    struct pair_event ev;
    enum { DUE_EVENT, DUE_CHANGE, DUE_READ } kind;
    struct pair_effect fx;
};

struct node {
    struct pair *pair;
    bool up, frozen;
    uint64_t next_beat, lease;
    uint32_t serving_epoch; /* PX_SERVE .. PX_STEP_DOWN */
    bool tail_released, stopped;
    uint64_t boots, op_ok, op_failed;
    char op_text[240];
    struct store_id store;
    uint32_t end_epoch, epoch_seen, forced; /* what its disk remembers */
};

static struct world {
    uint64_t now;
    struct node node[2];
    struct record reg; /* the register: what a majority holds */
    bool witness_up, witness_cut[2];
    bool udp[2][2], tcp; /* [from][to] */
    bool hold_ready;     /* the follower's disk hangs: a take-back never gets ready */
    bool hang_changes;   /* changes end UNKNOWN; they take effect at hang_until */
    struct due due[EVENTS_MAX];
    unsigned n_due;
    uint64_t overlap; /* both may deliver */
    unsigned follower_of[2];
    bool none;           /* arbiter = none, from the next boot() on */
    unsigned changes[2]; /* of the record, asked for */
    unsigned reads[2];
    unsigned unasked[2];
    uint64_t may_empty[2]; /* the newest PX_EMPTY */
    /* An arbiter that holds nothing until somebody writes back what it has seen. */
    bool lost;
    struct record seen[2];
    unsigned gave_back; /* who did */
} w;

static inline void push(uint64_t at, struct due d)
{
    ck_assert_uint_lt(w.n_due, EVENTS_MAX);
    d.at = at;
    w.due[w.n_due++] = d;
}

static inline void later(unsigned node, uint64_t ms, struct pair_event ev)
{
    push(w.now + ms * MS, (struct due){.node = node, .ev = ev, .kind = DUE_EVENT});
}

static inline void beat(unsigned i)
{
    struct heartbeat h;
    pair_heartbeat(w.node[i].pair, w.now, 0, &h);
    if (w.udp[i][!i] && w.node[!i].up)
        later(
            !i, 1,
            (struct pair_event){.type = PE_HEARTBEAT, .heartbeat = h, .flag = h.echo_boot_random});
}

static inline bool majority(unsigned i)
{
    bool peer = w.node[!i].up && !w.node[!i].frozen && w.udp[i][!i] && w.udp[!i][i];
    return peer || (w.witness_up && !w.witness_cut[i]);
}

static inline void try_attach(unsigned primary)
{
    unsigned f = !primary;
    if (!w.tcp || !w.node[f].up || !w.node[primary].serving_epoch)
        return;
    struct pair_event ev = {.type = PE_ATTACHED, .follower = w.node[f].store};
    later(primary, 10, ev);
    ev.type = PE_MERGED;
    later(primary, 20, ev);
    ev.type = PE_CAUGHT_UP;
    later(primary, 30, ev);
}

static inline struct pair_event store_event(const struct node *n)
{
    return (struct pair_event){.type = PE_STORE,
                               .store = {.open = true,
                                         .fit = true,
                                         .id = n->store,
                                         .end = {n->end_epoch, 10},
                                         .epoch_seen = n->epoch_seen,
                                         .forced = n->forced}};
}

static inline void on_fx(void *ctx, const struct pair_effect *fx)
{
    unsigned i = (unsigned)(uintptr_t)ctx;
    struct node *n = &w.node[i];
    switch (fx->type) {
    case PX_HEARTBEAT:
        n->next_beat = w.now;
        break;
    case PX_READ:
    case PX_CHANGE:
        w.changes[i] += fx->type == PX_CHANGE;
        w.reads[i] += fx->type == PX_READ;
        push(w.now + 10 * MS, (struct due){.node = i,
                                           .kind = fx->type == PX_READ ? DUE_READ : DUE_CHANGE,
                                           .fx = *fx});
        break;
    case PX_UNASK:
        w.unasked[i]++;
        break;
    case PX_EMPTY:
        w.may_empty[i] = fx->op;
        break;
    case PX_LEASE:
        n->lease = fx->until_ns;
        break;
    case PX_PROMOTE:
        n->end_epoch = n->epoch_seen = fx->epoch;
        n->forced = fx->record.forced ? fx->epoch : 0;
        later(i, 4, store_event(n));
        later(i, 5, (struct pair_event){.type = PE_PROMOTED, .epoch = fx->epoch});
        break;
    case PX_SERVE:
        n->serving_epoch = fx->epoch;
        n->tail_released = false;
        try_attach(i);
        break;
    case PX_FOLLOW:
        if (fx->record.primary != i && fx->epoch > n->epoch_seen)
            n->epoch_seen = n->end_epoch = fx->epoch;
        later(i, 20, store_event(n)); /* caught up, say */
        try_attach(!i);
        break;
    case PX_STEP_DOWN:
        n->serving_epoch = 0;
        later(i, 5, (struct pair_event){.type = PE_CLOSED, .epoch = fx->epoch});
        break;
    case PX_DROP:
        later(i, 5, (struct pair_event){.type = PE_SOLO_DURABLE, .epoch = fx->epoch});
        break;
    case PX_TAKE_BACK:
        if (w.hold_ready)
            break;
        later(i, 5,
              (struct pair_event){
                  .type = PE_TAKE_BACK_READY, .epoch = fx->epoch, .follower = fx->follower});
        break;
    case PX_RELEASE_TAIL:
        n->tail_released = true;
        break;
    case PX_QUIESCE:
        later(i, 5, (struct pair_event){.type = PE_DELIVERY_IDLE});
        break;
    case PX_DRAIN:
        later(i, 5, (struct pair_event){.type = PE_DRAINED, .epoch = fx->epoch});
        break;
    case PX_OP_DONE:
        fx->ok ? n->op_ok++ : n->op_failed++;
        memcpy(n->op_text, fx->text, sizeof n->op_text);
        break;
    case PX_STOPPED:
        n->stopped = true;
        break;
    case PX_LOG:
        if (getenv("TRACE"))
            fprintf(stderr, "%8.3f %c %s\n", (double)w.now / 1e9, 'a' + (char)i, fx->text);
        break;
    default:
        break;
    }
}

static inline void step(unsigned i, struct pair_event ev)
{
    if (w.node[i].up && !w.node[i].frozen)
        pair_step(w.node[i].pair, &ev, w.now);
}

static inline void boot(unsigned i)
{
    struct node *n = &w.node[i];
    pair_free(n->pair);
    n->boots++;
    struct pair_config c = {.self = i,
                            .none = w.none,
                            .heartbeat_ns = 100 * MS,
                            .lease_ns = 1000 * MS,
                            .takeover_after_ns = 1000 * MS,
                            .standby_timeout_ns = 1000 * MS,
                            .boot_counter = n->boots,
                            .boot_random = 1000 * n->boots + i + 1};
    n->pair = pair_new(&c, on_fx, (void *)(uintptr_t)i);
    n->up = true;
    n->frozen = false;
    n->serving_epoch = 0;
    n->lease = 0;
    n->next_beat = w.now;
    step(i, store_event(n));
}

static inline void kill_node(unsigned i)
{
    struct node *n = &w.node[i];
    n->up = false;
    n->serving_epoch = 0;
    n->lease = 0;
    for (unsigned k = 0; k < w.n_due;) /* its timers and messages in flight to it are gone */
        if (w.due[k].node == i)
            w.due[k] = w.due[--w.n_due];
        else
            k++;
    later(!i, 1, (struct pair_event){.type = PE_DETACHED});
}

static inline void answer(const struct due *d)
{
    struct pair_event ev = {.type = PE_REGISTER};
    bool can = majority(d->node);
    if (w.lost && d->kind == DUE_READ && pair_may_give_back(w.node[d->node].pair, w.now)) {
        w.lost = false;
        w.gave_back = d->node;
        w.reg = w.seen[d->node];
    }
    if (w.lost) {
        ev.outcome = REG_BEHIND;
        ev.record = w.seen[d->node];
    } else if (d->kind == DUE_CHANGE && w.hang_changes) {
        ev.outcome = REG_UNKNOWN;
    } else if (!can) {
        ev.outcome = REG_NOT_DONE;
    } else if (d->kind == DUE_READ || d->fx.from_tag != w.reg.tag) {
        ev.outcome = d->kind == DUE_READ ? REG_DONE : REG_MISMATCH;
        ev.record = w.reg;
    } else {
        w.reg = d->fx.record;
        ev.outcome = REG_DONE;
        ev.record = w.reg;
    }
    step(d->node, ev);
}

static inline void run(uint64_t ms)
{
    for (uint64_t end = w.now + ms * MS; w.now < end; w.now += MS) {
        for (unsigned k = 0; k < w.n_due;) {
            if (w.due[k].at > w.now) {
                k++;
                continue;
            }
            struct due d = w.due[k];
            memmove(&w.due[k], &w.due[k + 1], (--w.n_due - k) * sizeof w.due[0]);
            if (d.kind == DUE_EVENT)
                step(d.node, d.ev);
            else if (w.node[d.node].up)
                answer(&d);
            k = 0;
        }
        for (unsigned i = 0; i < 2; i++) {
            if (!w.node[i].up || w.node[i].frozen)
                continue;
            if (w.now >= w.node[i].next_beat) {
                w.node[i].next_beat = w.now + 100 * MS;
                beat(i);
            }
            if (w.now / MS % 10 == i)
                step(i, (struct pair_event){.type = PE_TICK});
        }
        if (w.node[0].lease > w.now && w.node[1].lease > w.now)
            w.overlap++;
    }
}

static inline struct pair_view view(unsigned i)
{
    struct pair_view v;
    pair_view(w.node[i].pair, w.now, &v);
    return v;
}

/* Node a primary, b in sync. */
static inline void setup(void)
{
    memset(&w, 0, sizeof w);
    w.now = 1000 * MS;
    w.witness_up = w.tcp = true;
    w.udp[0][1] = w.udp[1][0] = true;
    memset(w.node[0].store.b, 0xaa, STORE_ID_BYTES);
    memset(w.node[1].store.b, 0xbb, STORE_ID_BYTES);
    w.reg = (struct record){.version = 1, .epoch = 2, .primary = NODE_A, .tag = 77};
    w.reg.in_sync[0] = true;
    w.reg.store[0] = w.node[0].store;
    boot(0);
    boot(1);
    run(4000);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
    ck_assert_int_eq(view(0).mode, PAIR_PAIRED);
    ck_assert_int_eq(view(1).role, ROLE_STANDBY);
    ck_assert(view(1).in_sync);
    ck_assert(w.node[0].tail_released);
    ck_assert_uint_eq(w.overlap, 0);
}

static inline void teardown(void)
{
    ck_assert_uint_eq(w.overlap, 0); /* invariant 8 */
    for (unsigned i = 0; i < 2; i++) {
        pair_free(w.node[i].pair);
        w.node[i].pair = NULL;
    }
}

static inline uint64_t run_until_serving(unsigned i, uint64_t limit_ms)
{
    uint64_t from = w.now;
    while (!w.node[i].serving_epoch && w.now < from + limit_ms * MS)
        run(1);
    ck_assert(w.node[i].serving_epoch);
    return (w.now - from) / MS;
}
#endif
