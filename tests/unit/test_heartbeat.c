/* Heartbeats: what counts as a sign of life, and what only looks like one (protocol 6). */
#include <check.h>
#include <stdlib.h>

#include "health/heartbeat.h"

static const uint64_t second = 1000000000;

/* The two ends of one link, each with its guard. */
static struct end {
    struct heartbeat_guard guard;
    uint64_t counter, boot, seq;
} a, b;

static void boot(struct end *e, uint64_t counter, uint64_t random)
{
    *e = (struct end){.counter = counter, .boot = random};
    heartbeat_guard_init(&e->guard, random, second, second / 10);
}

static struct heartbeat send(struct end *e)
{
    struct heartbeat h = {
        .boot_counter = e->counter, .boot_random = e->boot, .seq = ++e->seq, .ack_epoch = 2};
    heartbeat_guard_send(&e->guard, &h);
    return h;
}

static enum heartbeat_verdict receive(struct end *e, struct heartbeat h)
{
    return heartbeat_guard_receive(&e->guard, &h);
}

static void setup(void)
{
    boot(&a, 10, 111);
    boot(&b, 20, 222);
}

static void meet(void)
{
    ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_CONTACT);
    ck_assert_int_eq(receive(&a, send(&b)), HEARTBEAT_ALIVE);
    ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_ALIVE);
}

START_TEST(test_every_field_survives_encoding)
{
    struct heartbeat h = {.boot_counter = 1,
                          .boot_random = 2,
                          .seq = 3,
                          .epoch = 4,
                          .role = ROLE_PRIMARY,
                          .mode = PAIR_SOLO,
                          .serving = true,
                          .fit = true,
                          .own_lsn = 5,
                          .committed_lsn = 6,
                          .lease_ns = 7,
                          .wall_ms = -8,
                          .echo_boot_random = 9,
                          .echo_seq = 10,
                          .ack_epoch = 11,
                          .relinquish_epoch = 12,
                          .relinquish_boot = 13,
                          .paused_ms = 14,
                          .ask_handover = 15,
                          .leaving = true},
                     out;
    memset(h.store.b, 0xab, STORE_ID_BYTES);
    struct buf buf, again;
    buf_init(&buf, 512);
    buf_init(&again, 512);
    ck_assert(heartbeat_encode(&buf, &h));
    struct wire_reader r = wire_read(buf_slice(&buf));
    ck_assert(heartbeat_decode(&r, &out) && wire_done(&r));
    ck_assert(out.wall_ms == -8 && out.ask_handover == 15 && out.leaving && out.serving && out.fit);
    ck_assert(heartbeat_encode(&again, &out));
    ck_assert(slice_eq(buf_slice(&buf), buf_slice(&again)));
    for (size_t n = 0; n < buf.len; n++) { /* cut short anywhere: refused */
        r = wire_read(slice_of(buf.data, n));
        ck_assert(!heartbeat_decode(&r, &out));
    }
    buf.data[29] = 0xff; /* role */
    r = wire_read(buf_slice(&buf));
    ck_assert(!heartbeat_decode(&r, &out));
    buf_free(&buf);
    buf_free(&again);
}
END_TEST

START_TEST(test_two_nodes_meet_in_three_heartbeats)
{
    meet();
    for (int i = 0; i < 100; i++) {
        ck_assert_int_eq(receive(&a, send(&b)), HEARTBEAT_ALIVE);
        ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_ALIVE);
    }
}
END_TEST

START_TEST(test_second_path_and_late_copies_count_once)
{
    meet();
    struct heartbeat first = send(&a), second_one = send(&a);
    ck_assert_int_eq(receive(&b, second_one), HEARTBEAT_ALIVE);
    ck_assert_int_eq(receive(&b, second_one), HEARTBEAT_OLD);
    ck_assert_int_eq(receive(&b, first), HEARTBEAT_OLD);
}
END_TEST

START_TEST(test_recorded_heartbeats_of_a_dead_peer_are_no_life)
{
    meet();
    struct heartbeat recorded = send(&a); /* cut on its way, replayed later */
    for (int i = 0; i < 40; i++)          /* four seconds without a */
        send(&b);
    ck_assert_int_ne(receive(&b, recorded), HEARTBEAT_ALIVE);
    /* Nor after a restart of the one that listens, whatever was heard then. */
    boot(&b, 21, 333);
    ck_assert_int_ne(receive(&b, recorded), HEARTBEAT_ALIVE);
    ck_assert_int_ne(receive(&b, recorded), HEARTBEAT_ALIVE);
}
END_TEST

START_TEST(test_an_earlier_boot_of_the_peer_is_ignored)
{
    meet();
    struct heartbeat old = send(&a);
    boot(&a, 11, 444);
    ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_CONTACT);
    ck_assert_int_eq(receive(&a, send(&b)), HEARTBEAT_ALIVE);
    ck_assert_int_eq(receive(&b, old), HEARTBEAT_OLD);
    ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_ALIVE);
}
END_TEST

START_TEST(test_what_waited_in_the_socket_of_a_frozen_node_counts)
{
    meet();
    struct heartbeat waiting[30]; /* three seconds of a's, which hears nothing from b */
    for (int i = 0; i < 30; i++)
        waiting[i] = send(&a);
    for (int i = 0; i < 30; i++)
        ck_assert_int_eq(receive(&b, waiting[i]), HEARTBEAT_ALIVE);
}
END_TEST

START_TEST(test_a_cut_both_ways_heals)
{
    meet();
    for (int i = 0; i < 100; i++) {
        send(&a);
        send(&b);
    }
    ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_CONTACT);
    ck_assert_int_eq(receive(&a, send(&b)), HEARTBEAT_ALIVE);
    ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_ALIVE);
}
END_TEST

START_TEST(test_no_lease_from_a_heartbeat_that_did_not_count)
{
    struct heartbeat h = send(&a);
    ck_assert_int_eq(receive(&b, h), HEARTBEAT_CONTACT);
    struct heartbeat answer = send(&b);
    ck_assert(answer.echo_boot_random == a.boot && answer.echo_seq == h.seq);
    ck_assert_uint_eq(answer.ack_epoch, 0);
    ck_assert_int_eq(receive(&a, answer), HEARTBEAT_ALIVE);
    ck_assert_int_eq(receive(&b, send(&a)), HEARTBEAT_ALIVE);
    ck_assert_uint_eq(send(&b).ack_epoch, 2);
}
END_TEST

static Suite *suite(void)
{
    Suite *s = suite_create("heartbeat");
    TCase *t = tcase_create("heartbeat");
    tcase_add_checked_fixture(t, setup, NULL);
    tcase_add_test(t, test_every_field_survives_encoding);
    tcase_add_test(t, test_two_nodes_meet_in_three_heartbeats);
    tcase_add_test(t, test_second_path_and_late_copies_count_once);
    tcase_add_test(t, test_recorded_heartbeats_of_a_dead_peer_are_no_life);
    tcase_add_test(t, test_an_earlier_boot_of_the_peer_is_ignored);
    tcase_add_test(t, test_what_waited_in_the_socket_of_a_frozen_node_counts);
    tcase_add_test(t, test_a_cut_both_ways_heals);
    tcase_add_test(t, test_no_lease_from_a_heartbeat_that_did_not_count);
    suite_add_tcase(s, t);
    return s;
}

int main(void)
{
    SRunner *r = srunner_create(suite());
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
