/* Two pair cores in virtual time, with a register that obeys or hangs as the test wants, and
 * replication and relay reduced to their answers. Tells the incidents that concern roles, leases
 * and changes of the record; protocol 5, 6, 7. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "health/pair.h"
#include "health/register.h"
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
};

static struct world {
    uint64_t now;
    struct node node[2];
    struct record reg; /* the register: what a majority holds */
    bool witness_up;
    bool udp[2][2], tcp; /* [from][to] */
    bool hold_ready;     /* the follower's disk hangs: a take-back never gets ready */
    bool hang_changes;   /* changes end UNKNOWN; they take effect at hang_until */
    struct due due[EVENTS_MAX];
    unsigned n_due;
    uint64_t overlap; /* both may deliver */
    unsigned follower_of[2];
} w;

static void push(uint64_t at, struct due d)
{
    ck_assert_uint_lt(w.n_due, EVENTS_MAX);
    d.at = at;
    w.due[w.n_due++] = d;
}

static void later(unsigned node, uint64_t ms, struct pair_event ev)
{
    push(w.now + ms * MS, (struct due){.node = node, .ev = ev, .kind = DUE_EVENT});
}

static void beat(unsigned i)
{
    struct heartbeat h;
    pair_heartbeat(w.node[i].pair, w.now, 0, &h);
    if (w.udp[i][!i] && w.node[!i].up)
        later(
            !i, 1,
            (struct pair_event){.type = PE_HEARTBEAT, .heartbeat = h, .flag = h.echo_boot_random});
}

static bool majority(unsigned i)
{
    bool peer = w.node[!i].up && !w.node[!i].frozen && w.udp[i][!i] && w.udp[!i][i];
    return peer || w.witness_up;
}

static void try_attach(unsigned primary)
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

static void on_fx(void *ctx, const struct pair_effect *fx)
{
    unsigned i = (unsigned)(uintptr_t)ctx;
    struct node *n = &w.node[i];
    switch (fx->type) {
    case PX_HEARTBEAT:
        n->next_beat = w.now;
        break;
    case PX_READ:
    case PX_CHANGE:
        push(w.now + 10 * MS, (struct due){.node = i,
                                           .kind = fx->type == PX_READ ? DUE_READ : DUE_CHANGE,
                                           .fx = *fx});
        break;
    case PX_LEASE:
        n->lease = fx->until_ns;
        break;
    case PX_PROMOTE:
        later(i, 5, (struct pair_event){.type = PE_PROMOTED, .epoch = fx->epoch});
        break;
    case PX_SERVE:
        n->serving_epoch = fx->epoch;
        n->tail_released = false;
        try_attach(i);
        break;
    case PX_FOLLOW:
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

static void step(unsigned i, struct pair_event ev)
{
    if (w.node[i].up && !w.node[i].frozen)
        pair_step(w.node[i].pair, &ev, w.now);
}

static void boot(unsigned i)
{
    struct node *n = &w.node[i];
    pair_free(n->pair);
    n->boots++;
    struct pair_config c = {.self = i,
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
    struct pair_event ev = {.type = PE_STORE, .store = {.open = true, .fit = true, .id = n->store}};
    step(i, ev);
}

static void kill_node(unsigned i)
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

static void answer(const struct due *d)
{
    struct pair_event ev = {.type = PE_REGISTER};
    bool can = majority(d->node);
    if (d->kind == DUE_CHANGE && w.hang_changes) {
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

static void run(uint64_t ms)
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

static struct pair_view view(unsigned i)
{
    struct pair_view v;
    pair_view(w.node[i].pair, w.now, &v);
    return v;
}

/* Node a primary, b in sync. */
static void setup(void)
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

static void teardown(void)
{
    ck_assert_uint_eq(w.overlap, 0); /* invariant 8 */
    for (unsigned i = 0; i < 2; i++) {
        pair_free(w.node[i].pair);
        w.node[i].pair = NULL;
    }
}

static uint64_t run_until_serving(unsigned i, uint64_t limit_ms)
{
    uint64_t from = w.now;
    while (!w.node[i].serving_epoch && w.now < from + limit_ms * MS)
        run(1);
    ck_assert(w.node[i].serving_epoch);
    return (w.now - from) / MS;
}

START_TEST(takes_over_in_time)
{
    kill_node(0);
    uint64_t ms = run_until_serving(1, 3000);
    ck_assert_uint_le(ms, 1030 + 200);
    ck_assert_uint_ge(ms, 900); /* never while the old lease may run */
    ck_assert_int_eq(view(1).mode, PAIR_SOLO);
    ck_assert(w.node[1].tail_released);
    ck_assert_uint_eq(view(1).n_takeovers, 1);
    ck_assert_int_eq(view(1).takeovers[0].from, 'a');
    boot(0);
    run(5000);
    ck_assert_int_eq(view(0).role, ROLE_STANDBY);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
}
END_TEST

START_TEST(frozen_primary_ends_its_service)
{
    uint32_t old = view(0).epoch;
    w.node[0].frozen = true;
    run_until_serving(1, 3000);
    w.node[0].frozen = false;
    run(100);
    ck_assert_uint_eq(w.node[0].serving_epoch, 0);
    ck_assert_uint_gt(view(1).epoch, old);
    run(5000);
    ck_assert_int_eq(view(0).role, ROLE_STANDBY);
}
END_TEST

/* Incident 24: a standby that was frozen takes its own silence for the primary's. */
START_TEST(frozen_standby_counts_anew)
{
    w.node[1].frozen = true;
    run(5000);
    w.node[1].frozen = false;
    for (int i = 0; i < 50; i++) {
        run(10);
        ck_assert_int_ne(view(1).role, ROLE_PROMOTING);
    }
    run(5000);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
    ck_assert_int_eq(view(1).role, ROLE_STANDBY);
}
END_TEST

START_TEST(standby_lost_goes_on_alone)
{
    kill_node(1);
    run(1300);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
    ck_assert_int_eq(view(0).mode, PAIR_SOLO);
    ck_assert(w.node[0].lease == UINT64_MAX);
    boot(1);
    run(6000);
    ck_assert_int_eq(view(0).mode, PAIR_PAIRED);
}
END_TEST

START_TEST(take_back_gives_way_to_a_slow_standby)
{
    /* Its heartbeats are fine and its disk hangs: the primary must not wait for it. */
    kill_node(1);
    run(1500);
    w.hold_ready = true;
    boot(1);
    for (unsigned ms = 0; w.node[0].lease == UINT64_MAX && ms < 20000; ms++)
        run(1);
    ck_assert(w.node[0].lease != UINT64_MAX); /* it waits for the standby */
    step(0, (struct pair_event){.type = PE_SLOW, .epoch = view(0).epoch});
    run(50);
    ck_assert(w.node[0].lease == UINT64_MAX);
    ck_assert_int_eq(view(0).mode, PAIR_SOLO);
    w.hold_ready = false;
    run(20000);
    ck_assert_int_eq(view(0).mode, PAIR_PAIRED);
}
END_TEST

START_TEST(standby_and_witness_lost_fences)
{
    w.witness_up = false;
    kill_node(1);
    run(3500);
    ck_assert_int_eq(view(0).role, ROLE_FENCED);
    ck_assert(w.node[0].lease <= w.now);
    w.witness_up = true;
    run(2500);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
    ck_assert_int_eq(view(0).mode, PAIR_SOLO);
    w.witness_up = false; /* solo before: goes on */
    run(5000);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
}
END_TEST

START_TEST(fresh_acknowledgement_ends_fencing)
{
    /* Else the standby may be quicker: a fenced primary serves nobody. */
    step(1, (struct pair_event){.type = PE_AUTO_TAKEOVER, .flag = false});
    w.witness_up = false;
    w.udp[0][1] = w.udp[1][0] = false;
    run(3500);
    ck_assert_int_eq(view(0).role, ROLE_FENCED);
    ck_assert_int_ne(view(1).role, ROLE_PRIMARY);
    uint32_t epoch = view(0).epoch;
    w.udp[0][1] = w.udp[1][0] = true;
    run(3000);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
    ck_assert_uint_eq(view(0).epoch, epoch);
}
END_TEST

START_TEST(switchover_from_either_node)
{
    step(0, (struct pair_event){.type = PE_OP_SWITCHOVER, .op = 9});
    uint64_t ms = run_until_serving(1, 1000);
    ck_assert_uint_le(ms, 100);
    run(4000);
    ck_assert_uint_eq(w.node[0].op_ok, 1);
    ck_assert_int_eq(view(0).role, ROLE_STANDBY);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
    step(0, (struct pair_event){.type = PE_OP_SWITCHOVER, .op = 10}); /* asked on the standby */
    run_until_serving(0, 1500);
    run(300);
    ck_assert_uint_eq(w.node[0].op_ok, 2);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
}
END_TEST

START_TEST(witness_down_changes_nothing)
{
    w.witness_up = false;
    step(0, (struct pair_event){.type = PE_OP_SWITCHOVER, .op = 9});
    run_until_serving(1, 1000);
    run(4000);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
    kill_node(1); /* restart of the primary: both nodes vote */
    run(50);
    boot(1);
    run_until_serving(1, 3000);
    run(3000);
    ck_assert_int_eq(view(1).role, ROLE_PRIMARY);
    ck_assert(w.node[1].tail_released);
}
END_TEST

START_TEST(relinquish_never_accepted)
{
    /* Incident 13: the standby dies before its change counts; the record still names the primary.
     */
    step(0, (struct pair_event){.type = PE_OP_SWITCHOVER, .op = 9});
    w.node[1].frozen = true;
    uint32_t old = view(0).epoch;
    run(8000);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
    ck_assert_uint_gt(view(0).epoch, old); /* never resumed in the epoch given up: incident 14 */
}
END_TEST

START_TEST(unknown_drop_stays_strict)
{
    /* Incident 1: a change whose fate is unknown must not be taken for refused, nor for done. */
    w.hang_changes = true;
    w.udp[1][0] = false; /* no acknowledgements, but the witness answers */
    w.tcp = false;
    step(0, (struct pair_event){.type = PE_DETACHED});
    run(900);
    ck_assert_int_eq(view(0).mode, PAIR_PAIRED);
    ck_assert(w.node[0].lease != UINT64_MAX);
    w.hang_changes = false;
    run(1500);
    ck_assert_int_eq(view(0).mode, PAIR_SOLO);
}
END_TEST

START_TEST(new_disk_does_not_block_the_standby)
{
    /* Incident 12: the primary comes back with another store and heartbeats; it isn't life. */
    kill_node(0);
    memset(w.node[0].store.b, 0xcc, STORE_ID_BYTES);
    boot(0);
    run_until_serving(1, 3000);
    run(5000);
    ck_assert_int_eq(view(0).role, ROLE_STANDBY);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
}
END_TEST

START_TEST(stale_store_is_not_promoted)
{
    kill_node(1);
    run(1500);
    ck_assert_int_eq(view(0).mode, PAIR_SOLO);
    w.tcp = false; /* b comes back but can't catch up */
    boot(1);
    run(500);
    kill_node(0);
    run(5000);
    ck_assert_int_eq(view(1).role, ROLE_REJOINING);
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 5});
    ck_assert_uint_eq(w.node[1].op_failed, 1);
    uint32_t seen = view(1).epoch;
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 6, .flag = true});
    run_until_serving(1, 4000);
    ck_assert_uint_ge(view(1).epoch, seen + 1000);
    ck_assert(view(1).record.forced);
}
END_TEST

START_TEST(one_way_block_does_not_flap)
{
    /* Incident 29: datagrams from b to a blocked, TCP works. */
    w.udp[1][0] = false;
    unsigned changes = 0;
    uint64_t version = w.reg.version;
    run(30000);
    changes = (unsigned)(w.reg.version - version);
    ck_assert_uint_le(changes, 2);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
}
END_TEST

START_TEST(takeover_off)
{
    step(1, (struct pair_event){.type = PE_AUTO_TAKEOVER, .flag = false});
    kill_node(0);
    run(5000);
    ck_assert_uint_eq(w.node[1].serving_epoch, 0);
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 3});
    run_until_serving(1, 2000);
    ck_assert_uint_eq(w.node[1].op_ok, 1);
}
END_TEST

START_TEST(failed_store_gives_up_its_role)
{
    step(0, (struct pair_event){.type = PE_STORAGE_FAILED});
    ck_assert_uint_eq(w.node[0].serving_epoch, 0);
    uint64_t ms = run_until_serving(1, 3000);
    ck_assert_uint_le(ms, 150); /* relinquished: no lease to wait for */
    ck_assert_int_eq(view(0).role, ROLE_FENCED);
}
END_TEST

START_TEST(stalled_primary_gives_up_its_role)
{
    step(0, (struct pair_event){.type = PE_STALLED, .flag = true});
    ck_assert(w.node[0].lease <= w.now);
    uint64_t ms = run_until_serving(1, 3000);
    ck_assert_uint_le(ms, 150);
    run(3000);
    step(0, (struct pair_event){.type = PE_STALLED, .flag = false});
    run(6000);
    ck_assert_int_eq(view(0).role, ROLE_STANDBY);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
}
END_TEST

START_TEST(both_stalled_keeps_its_role)
{
    /* Incident 28: what stalls both (a full disk, say) must not leave nobody in charge. */
    step(1, (struct pair_event){.type = PE_STALLED, .flag = true});
    run(300);
    step(0, (struct pair_event){.type = PE_STALLED, .flag = true});
    run(3000);
    ck_assert(w.node[0].serving_epoch);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
}
END_TEST

START_TEST(claimed_but_never_served)
{
    /* b's takeover is decided, but b dies before it serves and is back at once: a, cut off, still
     * has the lease that b gave it. teardown() finds an overlap. */
    w.udp[0][1] = w.udp[1][0] = w.tcp = false;
    w.reg.version++;
    w.reg.tag = 4711;
    w.reg.epoch = epoch_next(w.reg.epoch, NODE_B);
    w.reg.primary = NODE_B;
    w.reg.in_sync[0] = false;
    kill_node(1);
    boot(1);
    uint64_t ms = run_until_serving(1, 4000);
    ck_assert_uint_ge(ms, 1000);
}
END_TEST

START_TEST(clean_stops)
{
    step(0, (struct pair_event){.type = PE_OP_STOP});
    uint64_t ms = run_until_serving(1, 2000);
    ck_assert_uint_le(ms, 100);
    run(200);
    ck_assert(w.node[0].stopped);
    kill_node(0);
    boot(0);
    run(5000);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
    step(0, (struct pair_event){.type = PE_OP_STOP}); /* the standby: dropped without a wait */
    run(300);
    ck_assert(w.node[0].stopped);
    ck_assert_int_eq(view(1).mode, PAIR_SOLO);
    step(1, (struct pair_event){.type = PE_OP_STOP});
    run(100);
    ck_assert(w.node[1].stopped);
}
END_TEST

START_TEST(a_single_node_serves)
{
    kill_node(0);
    struct node *n = &w.node[0];
    pair_free(n->pair);
    struct pair_config c = {
        .self = NODE_A, .single = true, .lease_ns = 1000 * MS, .boot_random = 5};
    n->pair = pair_new(&c, on_fx, NULL);
    n->up = true;
    kill_node(1);
    step(0, (struct pair_event){.type = PE_STORE,
                                .store = {.open = true, .fit = true, .id = n->store}});
    run(100);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
    ck_assert(n->lease == UINT64_MAX);
    run(10000);
    ck_assert_int_eq(view(0).role, ROLE_PRIMARY);
}
END_TEST

START_TEST(every_phase_can_be_left)
{
    for (unsigned ph = 0; ph < roles_last_phase(); ph++) {
        unsigned from, to;
        bool leaves = false, entered = ph == 0;
        for (unsigned i = 0; roles_rule(i, &from, &to); i++) {
            leaves |= from == ph && to != ph;
            entered |= to == ph && from != ph;
        }
        ck_assert_msg(leaves, "no way out of %s", roles_phase_name(ph));
        ck_assert_msg(entered, "no way into %s", roles_phase_name(ph));
    }
    struct buf b;
    buf_init(&b, 65536);
    ck_assert(roles_dot(&b));
    buf_free(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("pair");
    TCase *t = tcase_create("roles");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, takes_over_in_time);
    tcase_add_test(t, frozen_primary_ends_its_service);
    tcase_add_test(t, frozen_standby_counts_anew);
    tcase_add_test(t, standby_lost_goes_on_alone);
    tcase_add_test(t, take_back_gives_way_to_a_slow_standby);
    tcase_add_test(t, standby_and_witness_lost_fences);
    tcase_add_test(t, fresh_acknowledgement_ends_fencing);
    tcase_add_test(t, switchover_from_either_node);
    tcase_add_test(t, witness_down_changes_nothing);
    tcase_add_test(t, relinquish_never_accepted);
    tcase_add_test(t, unknown_drop_stays_strict);
    tcase_add_test(t, new_disk_does_not_block_the_standby);
    tcase_add_test(t, stale_store_is_not_promoted);
    tcase_add_test(t, one_way_block_does_not_flap);
    tcase_add_test(t, takeover_off);
    tcase_add_test(t, failed_store_gives_up_its_role);
    tcase_add_test(t, stalled_primary_gives_up_its_role);
    tcase_add_test(t, both_stalled_keeps_its_role);
    tcase_add_test(t, claimed_but_never_served);
    tcase_add_test(t, clean_stops);
    tcase_add_test(t, a_single_node_serves);
    suite_add_tcase(s, t);
    TCase *table = tcase_create("table");
    tcase_add_test(table, every_phase_can_be_left);
    suite_add_tcase(s, table);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
