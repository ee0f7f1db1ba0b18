/* The pair core's usual life, and the incidents that concern roles, leases and changes of the
 * record; protocol 5, 6, 7. */
#include "pair_world.h"

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

/* A store is emptied for a full copy, or taken over with, and never both. */
START_TEST(emptied_or_taken_over_with)
{
    step(1, (struct pair_event){.type = PE_EMPTY, .op = 1, .flag = true});
    ck_assert_uint_eq(w.may_empty[1], 1);
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 6, .flag = true});
    ck_assert_uint_eq(w.node[1].op_failed, 1);
    ck_assert_ptr_nonnull(strstr(w.node[1].op_text, "emptied"));
    kill_node(0);
    w.changes[1] = 0;
    run(5000);
    ck_assert_uint_eq(w.changes[1], 0);
    /* Emptied once, and once more before it has got anything. */
    struct pair_event emptied = store_event(&w.node[1]);
    emptied.store.id.b[0] ^= 1;
    emptied.store.fit = false;
    step(1, emptied);
    step(1, (struct pair_event){.type = PE_EMPTY, .op = 2, .flag = true});
    ck_assert_uint_eq(w.may_empty[1], 2);
    step(1, store_event(&w.node[1]));
    /* The link is gone before anything was done: it stays, and serves. */
    step(1, (struct pair_event){.type = PE_EMPTY, .op = 3, .flag = true});
    step(1, (struct pair_event){.type = PE_EMPTY, .op = 3});
    run_until_serving(1, 3000);
    boot(0);
    run(8000);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
    /* The other way round: it is being taken over with when the question comes. */
    kill_node(1);
    w.changes[0] = 0;
    while (!w.changes[0])
        run(1);
    step(0, (struct pair_event){.type = PE_EMPTY, .op = 1, .flag = true});
    run_until_serving(0, 3000);
    ck_assert_uint_eq(w.may_empty[0], 0);
}
END_TEST

/* The arbiter was emptied while both were down. One of them has seen a later record of the same
 * epoch: that one was decided, and the primary has acted upon none that it hasn't seen. */
START_TEST(the_newest_record_of_an_epoch_is_given_back)
{
    for (unsigned newer = 0; newer < 2; newer++) {
        kill_node(0);
        kill_node(1);
        run(10);
        struct record both = w.reg, alone = w.reg;
        alone.version--;
        alone.tag++;
        alone.in_sync[1 - w.reg.primary] = false;
        w.seen[newer] = both;
        w.seen[1 - newer] = alone;
        w.lost = true;
        w.gave_back = 9;
        for (unsigned i = 0; i < 2; i++) {
            boot(i);
            step(i, (struct pair_event){.type = PE_SEEN, .record = w.seen[i]});
        }
        run(2000);
        ck_assert(!w.lost);
        ck_assert_uint_eq(w.gave_back, newer);
        run(8000);
        ck_assert_int_eq(view(w.reg.primary).mode, PAIR_PAIRED);
    }
}
END_TEST

/* What the other one has seen is worth something while it can't have taken over since. */
START_TEST(the_other_ones_word_grows_old)
{
    w.seen[0] = w.seen[1] = w.reg;
    w.lost = true;
    const struct pair *p = w.node[0].pair;
    for (unsigned i = 0; i < 2; i++)
        step(i, (struct pair_event){.type = PE_SEEN, .record = w.reg});
    step(0, (struct pair_event){.type = PE_BEHIND, .record = w.reg});
    for (unsigned ms = 0; !pair_may_give_back(p, w.now) && ms < 1000; ms++)
        run(1);
    ck_assert(w.lost);
    ck_assert(pair_may_give_back(p, w.now));
    ck_assert(!pair_may_give_back(p, w.now + 600 * MS)); /* it takes over after 1 s */
    run(1000);
    ck_assert(!w.lost);
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

/* It was about to be alone in the record. Without an arbiter nobody may vote for that any more: the
 * other has been told, and takes over. */
START_TEST(given_up_while_it_drops_the_standby)
{
    w.udp[1][0] = w.tcp = false; /* a hears nothing of b, and is heard */
    w.changes[0] = 0;
    while (!w.changes[0])
        run(1);
    ck_assert_uint_eq(w.unasked[0], 0);
    step(0, (struct pair_event){.type = PE_STORAGE_FAILED});
    ck_assert_uint_eq(w.unasked[0], 1);
    w.udp[1][0] = w.tcp = true;
    run(3000);
    ck_assert_uint_eq(w.unasked[0], 1);
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

static void b_starts_without_arbiter(void)
{
    w.none = true;
    kill_node(1);
    run(3000);
    boot(1);
    run(8000);
    ck_assert_int_eq(view(0).mode, PAIR_PAIRED);
    ck_assert(view(1).in_sync);
}

/* arbiter = none: a doesn't hear b any more, drops it and says so; b hears that, but nobody answers
 * when it reads. The judgement remembers nothing: it would have let b take over with what it had.
 */
static void b_is_left_behind(void)
{
    b_starts_without_arbiter();
    step(1, (struct pair_event){.type = PE_JUDGED, .outcome = JUDGED_GONE});
    w.witness_cut[1] = true; /* no vote for a read without grounds */
    w.udp[1][0] = w.tcp = false;
    step(0, (struct pair_event){.type = PE_DETACHED});
    run(2000);
    ck_assert_int_eq(view(0).mode, PAIR_SOLO);
    ck_assert_int_eq(view(1).record.in_sync[1], true); /* as far as it could be read */
}

START_TEST(none_left_behind_is_not_promoted)
{
    b_is_left_behind();
    kill_node(0);
    w.changes[1] = 0;
    run(5000);
    ck_assert_uint_eq(w.changes[1], 0);
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 5});
    ck_assert_uint_eq(w.node[1].op_failed, 1);
    ck_assert_ptr_nonnull(strstr(w.node[1].op_text, "--force"));
    run(1000);
    ck_assert_uint_eq(w.changes[1], 0);
}
END_TEST

/* A pair's record names the standby, perhaps, which may have taken over by it: an emptied arbiter
 * must not be given back the one before it. */
START_TEST(unknown_take_back_is_not_forgotten_with_the_arbiter)
{
    kill_node(1);
    run(1500);
    ck_assert_int_eq(view(0).mode, PAIR_SOLO);
    unsigned before = w.changes[0];
    w.hang_changes = true;
    boot(1);
    for (unsigned ms = 0; w.changes[0] == before && ms < 20000; ms++)
        run(1);
    ck_assert_uint_eq(w.changes[0], before + 1);
    run(15); /* its fate is unknown, and is being asked for */
    kill_node(1);
    w.seen[0] = w.reg;
    w.lost = true;
    w.gave_back = 9;
    run(5000);
    ck_assert_uint_eq(w.gave_back, 9);
    ck_assert(w.lost);
}
END_TEST

/* The judgement gives no vote against a node that is heard (register_none.h). */
START_TEST(none_ordered_against_a_node_that_is_heard)
{
    struct heartbeat h;
    b_starts_without_arbiter();
    pair_heartbeat(w.node[0].pair, w.now, 0, &h);
    h.boot_random = h.boot_counter = 99; /* started anew, and serving nobody */
    h.serving = false;
    kill_node(0);
    run(3000);
    w.witness_cut[1] = true; /* no third vote */
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 5});
    for (int i = 0; i < 25; i++) {
        h.seq++;
        step(1, (struct pair_event){.type = PE_HEARTBEAT, .heartbeat = h, .flag = true});
        run(100);
    }
    ck_assert_uint_eq(w.node[1].op_failed, 1);
    ck_assert_ptr_nonnull(strstr(w.node[1].op_text, "signs of life"));
    ck_assert_uint_eq(w.node[1].serving_epoch, 0);
}
END_TEST

/* It is heard meanwhile, and doesn't vote at once: that was no failover, and goes on. */
START_TEST(none_started_alone_while_the_other_comes_back)
{
    struct heartbeat h;
    w.none = true;
    kill_node(0);
    kill_node(1);
    w.witness_cut[0] = w.witness_cut[1] = true;
    boot(1);
    pair_heartbeat(w.node[1].pair, w.now, 0, &h);
    kill_node(1);
    boot(0);
    run(1500);
    ck_assert_int_eq(view(0).role, ROLE_STARTING);
    w.witness_cut[0] = false; /* the judgement's vote */
    step(0, (struct pair_event){.type = PE_OP_START_ALONE, .op = 5});
    for (unsigned ms = 0; view(0).role != ROLE_PROMOTING && ms < 3000; ms++)
        run(1);
    ck_assert_int_eq(view(0).role, ROLE_PROMOTING);
    w.witness_cut[0] = true;
    for (int i = 0; i < 8; i++) {
        h.seq++;
        step(0, (struct pair_event){.type = PE_HEARTBEAT, .heartbeat = h, .flag = true});
        run(100);
    }
    ck_assert_uint_eq(w.node[0].op_failed, 0);
    w.witness_cut[0] = false;
    boot(1);
    run_until_serving(0, 5000);
    run(100);
    ck_assert_uint_eq(w.node[0].op_ok + w.node[0].op_failed, 1);
    ck_assert_uint_eq(w.node[0].op_ok, 1);
}
END_TEST

/* The primary's heartbeats tell of the record that it knows, which may be older than what was read
 * here: once they tell the same, nobody was left behind. */
START_TEST(none_not_left_behind_after_all)
{
    struct heartbeat h;
    b_is_left_behind();
    pair_heartbeat(w.node[0].pair, w.now, 0, &h);
    h.mode = PAIR_PAIRED;
    step(1, (struct pair_event){.type = PE_HEARTBEAT, .heartbeat = h, .flag = true});
    kill_node(0);
    w.changes[1] = 0;
    run(5000);
    ck_assert_uint_gt(w.changes[1], 0);
}
END_TEST

/* A primary that serves nobody tells of an older record than the one read here: it is read again,
 * and with that nobody was left behind. */
START_TEST(none_what_is_heard_is_read)
{
    struct heartbeat h;
    b_starts_without_arbiter();
    pair_heartbeat(w.node[0].pair, w.now, 0, &h);
    h.mode = PAIR_SOLO;
    h.serving = false;
    w.reads[1] = 0;
    step(1, (struct pair_event){.type = PE_HEARTBEAT, .heartbeat = h, .flag = true});
    kill_node(0);
    step(1, (struct pair_event){.type = PE_JUDGED, .outcome = JUDGED_GONE});
    run_until_serving(1, 3000);
    ck_assert_uint_ge(w.reads[1], 1);
}
END_TEST

START_TEST(none_left_behind_comes_back)
{
    b_is_left_behind();
    w.witness_cut[1] = false;
    w.udp[1][0] = w.tcp = true;
    boot(1);
    run(8000);
    ck_assert_int_eq(view(0).mode, PAIR_PAIRED);
    step(1, (struct pair_event){.type = PE_JUDGED, .outcome = JUDGED_GONE});
    kill_node(0);
    run_until_serving(1, 3000);
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
    tcase_add_test(t, emptied_or_taken_over_with);
    tcase_add_test(t, the_newest_record_of_an_epoch_is_given_back);
    tcase_add_test(t, the_other_ones_word_grows_old);
    tcase_add_test(t, one_way_block_does_not_flap);
    tcase_add_test(t, takeover_off);
    tcase_add_test(t, failed_store_gives_up_its_role);
    tcase_add_test(t, given_up_while_it_drops_the_standby);
    tcase_add_test(t, stalled_primary_gives_up_its_role);
    tcase_add_test(t, both_stalled_keeps_its_role);
    tcase_add_test(t, claimed_but_never_served);
    tcase_add_test(t, clean_stops);
    tcase_add_test(t, a_single_node_serves);
    tcase_add_test(t, none_left_behind_is_not_promoted);
    tcase_add_test(t, none_left_behind_comes_back);
    tcase_add_test(t, none_started_alone_while_the_other_comes_back);
    tcase_add_test(t, unknown_take_back_is_not_forgotten_with_the_arbiter);
    tcase_add_test(t, none_ordered_against_a_node_that_is_heard);
    tcase_add_test(t, none_not_left_behind_after_all);
    tcase_add_test(t, none_what_is_heard_is_read);
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
