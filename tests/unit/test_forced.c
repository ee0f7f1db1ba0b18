/* `failover --force` (protocol 5, "forced"): transcripts of what the simulator found, each on two
 * pair cores. */
#include "pair_world.h"

/* b is forced into service while it reaches neither a nor the witness. */
static uint32_t force_b_alone(void)
{
    w.witness_cut[1] = true;
    w.udp[0][1] = w.udp[1][0] = w.tcp = false;
    kill_node(0);
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 5, .flag = true});
    run_until_serving(1, 6000);
    run(50);
    ck_assert_uint_eq(w.node[1].op_ok, 1);
    ck_assert_uint_gt(w.node[1].serving_epoch, 1000);
    ck_assert_uint_lt(w.reg.epoch, 1000); /* stored locally: the voters don't know */
    return w.node[1].serving_epoch;
}

/* Its record was in memory alone: after a power loss the voters' older one was found, and nobody
 * served. */
START_TEST(a_forced_epoch_survives_a_restart)
{
    uint32_t forced = force_b_alone();
    kill_node(1);
    run(100);
    boot(1);
    run(1500);
    ck_assert_uint_eq(w.node[1].serving_epoch, 0); /* it takes a read */
    w.witness_cut[1] = false;
    run_until_serving(1, 3000);
    ck_assert_uint_gt(w.node[1].serving_epoch, forced);
    ck_assert_uint_eq(w.reg.epoch, w.node[1].serving_epoch);
    ck_assert(w.reg.forced);
    w.udp[0][1] = w.udp[1][0] = w.tcp = true;
    boot(0);
    run(6000);
    ck_assert_int_eq(view(0).role, ROLE_STANDBY);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
}
END_TEST

/* a comes back with a majority of its own, and hears b serve: b's mail is on b alone, so a claims
 * nothing over b's head. */
START_TEST(nothing_is_claimed_while_the_other_was_forced)
{
    uint32_t forced = force_b_alone();
    w.udp[1][0] = true;
    boot(0);
    run(4000);
    ck_assert_uint_eq(w.node[0].serving_epoch, 0);
    ck_assert_uint_eq(w.node[1].serving_epoch, forced);
    w.udp[0][1] = w.tcp = true;
    w.witness_cut[1] = false;
    run(8000);
    ck_assert_uint_eq(w.reg.epoch, forced); /* offered to the voters, over a lower one */
    ck_assert_int_eq(view(0).role, ROLE_STANDBY);
    ck_assert_int_eq(view(1).mode, PAIR_PAIRED);
}
END_TEST

/* A copy was on its way to b's store when the operator forced it: the store that is promoted is the
 * one that the record names. */
START_TEST(the_store_that_is_promoted_is_the_one_named)
{
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 5, .flag = true});
    run(30);
    ck_assert_uint_gt(w.reg.epoch, 1000);
    memset(w.node[1].store.b, 0xcc, STORE_ID_BYTES);
    step(1, store_event(&w.node[1]));
    run_until_serving(1, 6000);
    ck_assert(store_id_eq(&w.reg.store[1], &w.node[1].store));
    ck_assert_uint_eq(w.node[1].serving_epoch, w.reg.epoch);
}
END_TEST

START_TEST(a_store_without_a_history_is_not_forced)
{
    w.node[1].end_epoch = 0;
    kill_node(1);
    boot(1);
    step(1, (struct pair_event){.type = PE_OP_FAILOVER, .op = 5, .flag = true});
    ck_assert_uint_eq(w.node[1].op_failed, 1);
}
END_TEST

/* The lease's end is fixed when it is acknowledged: the peer was told then how long it is. */
START_TEST(a_later_setting_moves_no_lease)
{
    uint64_t end = w.node[0].lease;
    ck_assert(end > w.now && end != UINT64_MAX);
    struct heartbeat h;
    for (unsigned i = 0; i < 2; i++) {
        pair_heartbeat(w.node[1].pair, w.now, 0, &h);
        h.lease_ns = i ? 100 * MS : 5000 * MS;
        h.ack_epoch = 0; /* it acknowledges nothing */
        step(0, (struct pair_event){.type = PE_HEARTBEAT, .heartbeat = h, .flag = true});
        ck_assert_uint_eq(w.node[0].lease, end);
    }
}
END_TEST

int main(void)
{
    Suite *s = suite_create("forced");
    TCase *t = tcase_create("transcripts");
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, a_forced_epoch_survives_a_restart);
    tcase_add_test(t, nothing_is_claimed_while_the_other_was_forced);
    tcase_add_test(t, the_store_that_is_promoted_is_the_one_named);
    tcase_add_test(t, a_store_without_a_history_is_not_forced);
    tcase_add_test(t, a_later_setting_moves_no_lease);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
