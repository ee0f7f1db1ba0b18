/* Comparing and mending two copies, on two cores with their link (replication/verify.h). */
#include <check.h>
#include <stdlib.h>

#include "replication/replica_state.h"
#include "support_replica.h"

static struct world w;

enum { A = 0, B = 1, MESSAGES = 20, RUN_MS = 60000 };

static uint64_t ids[MESSAGES];

/* A serves alone, B follows and has everything. */
static void set_up(void)
{
    world_init(&w, 7, 0);
    world_promote(&w, A, 2, false);
    world_run(&w, 40);
    for (unsigned i = 0; i < MESSAGES; i++)
        ids[i] = world_add(&w, A);
    world_follow(&w, B, 2);
    world_run(&w, 200);
    ck_assert_uint_eq(world_count(&w, A, PE_MERGED), 1);
    ck_assert(world_equal(&w));
}

static void tear_down(void)
{
    world_free(&w);
}

static struct verify_view view(unsigned node)
{
    struct replica_view v;
    replica_view(w.node[node].core, w.now, &v);
    return v.verify;
}

/* An operator's order, and how it ends. */
static struct verify_view compare(unsigned node)
{
    struct replica_event ev = {.type = RE_VERIFY, .op = 2};
    replica_step(w.node[node].core, &ev, w.now, 0);
    ck_assert(w.node[node].op_ok);
    world_run(&w, 20);
    for (unsigned ms = 0; view(A).running && ms < RUN_MS; ms += 100)
        world_run(&w, 100);
    ck_assert(!view(A).running);
    return view(A);
}

static void put(unsigned node, const struct row *r)
{
    struct store *s = w.node[node].store;
    ck_assert_int_eq(s->ops->begin(s), STORE_OK);
    ck_assert_int_eq(s->ops->put(s, r, UNMERGED_NONE), STORE_OK);
    ck_assert_int_eq(s->ops->commit(s), STORE_OK);
}

static void rot(unsigned node, uint64_t id)
{
    world_rot(&w, node, id);
}

static struct row_recipient recipient(unsigned node, uint64_t id, uint32_t index)
{
    return *store_memory_recipient(w.node[node].store, id, index);
}

static void change(unsigned node, struct row_recipient p)
{
    put(node, &(struct row){.type = ROW_RECIPIENT, .recipient = p});
}

START_TEST(test_copies_that_are_alike)
{
    struct verify_view v = compare(A);
    ck_assert_uint_eq(v.compared, MESSAGES);
    ck_assert_uint_eq(v.differing + v.repaired + v.unrepairable, 0);
    ck_assert(!*v.why);
    compare(B); /* the standby's operator asks the primary */
    ck_assert_uint_eq(view(A).run, 2);
    ck_assert_uint_eq(view(B).compared, MESSAGES);
}
END_TEST

START_TEST(test_a_rotten_body_is_put_back_from_the_other_copy)
{
    rot(A, ids[3]);
    rot(B, ids[5]);
    struct verify_view v = compare(A);
    ck_assert_uint_eq(v.differing, 2);
    ck_assert_uint_eq(v.repaired, 2);
    ck_assert_uint_eq(v.unrepairable, 0);
    ck_assert(world_equal(&w));
    ck_assert_uint_eq(compare(A).differing, 0);
}
END_TEST

START_TEST(test_rotten_on_both_is_told_to_the_relay)
{
    rot(A, ids[3]);
    rot(B, ids[3]);
    struct verify_view v = compare(A);
    ck_assert_uint_eq(v.unrepairable, 1);
    ck_assert_uint_eq(w.node[A].n_mended, 1);
    ck_assert(w.node[A].mended_id == ids[3] && w.node[A].mended == VERIFY_NO_COPY);
}
END_TEST

START_TEST(test_a_delivery_gets_its_body_back)
{
    rot(A, ids[4]);
    struct replica_event ev = {.type = RE_MEND, .id = ids[4]};
    replica_step(w.node[A].core, &ev, w.now, 0);
    world_run(&w, 200);
    ck_assert_uint_eq(w.node[A].n_mended, 1);
    ck_assert(w.node[A].mended_id == ids[4] && w.node[A].mended == VERIFY_MENDED);
    ck_assert(world_equal(&w));
    world_crash(&w, B);
    rot(A, ids[4]);
    replica_step(w.node[A].core, &ev, w.now, 0);
    ck_assert(w.node[A].n_mended == 2 && w.node[A].mended == VERIFY_AWAY);
}
END_TEST

/* A cloned store gave its id to another message: there is no copy of this one. */
START_TEST(test_another_message_under_the_id_is_no_copy)
{
    struct row r = {.type = ROW_MESSAGE, .message = *store_memory_message(w.node[B].store, ids[4])};
    r.message.sha256[0] ^= 1;
    put(B, &r);
    rot(A, ids[4]);
    struct replica_event ev = {.type = RE_MEND, .id = ids[4]};
    replica_step(w.node[A].core, &ev, w.now, 0);
    world_run(&w, 200);
    ck_assert_uint_eq(w.node[A].n_mended, 1);
    ck_assert_int_eq(w.node[A].mended, VERIFY_NO_COPY);
}
END_TEST

/* The merge rule decides, page by page; then both have the same rows at the same places. */
START_TEST(test_rows_that_differ_are_merged)
{
    w.node[A].recipients = 5;
    uint64_t id = world_add(&w, A);
    world_run(&w, 100);
    for (uint32_t i = 1; i < 5; i += 3) { /* the first and the last page but one */
        struct row_recipient p = recipient(B, id, i);
        p.state = RCPT_DELIVERED;
        p.attempts = 1;
        change(B, p);
    }
    struct verify_view v = compare(A);
    ck_assert_uint_eq(v.differing, 1);
    ck_assert_uint_eq(v.repaired, 1);
    world_run(&w, 100);
    for (uint32_t i = 0; i < 5; i++)
        ck_assert_int_eq(recipient(A, id, i).state,
                         i == 1 || i == 4 ? RCPT_DELIVERED : RCPT_QUEUED);
    ck_assert(world_equal(&w));
}
END_TEST

/* Policy `hold`: a dot is open while its message is merged for another reason. Its note is this
 * primary's own and no orphan: nothing is held when the dot ends. */
START_TEST(test_an_open_dot_is_not_in_doubt)
{
    w.node[A].recipients = 2;
    uint64_t id = world_add(&w, A);
    world_run(&w, 100);
    for (unsigned node = A; node <= B; node++) {
        struct row_recipient p = recipient(node, id, 0);
        p.in_doubt = DOUBT_NOTED;
        change(node, p);
    }
    struct row_recipient p = recipient(B, id, 1);
    p.state = RCPT_DELIVERED;
    p.attempts = 1;
    change(B, p);
    ck_assert_uint_eq(compare(A).repaired, 1);
    world_run(&w, 100);
    p = recipient(A, id, 0);
    ck_assert(p.in_doubt == DOUBT_NOTED && !p.held);
    ck_assert_int_eq(recipient(A, id, 1).state, RCPT_DELIVERED);
    ck_assert(world_equal(&w));
}
END_TEST

/* The standby's disk hangs over a question. The comparison gives up, the next one is turned down,
 * and replication goes on all the while. */
START_TEST(test_a_question_that_hangs_costs_no_link)
{
    w.node[B].reads_stalled = true;
    ck_assert_ptr_nonnull(strstr(compare(A).why, "in time"));
    ck_assert_ptr_nonnull(strstr(compare(A).why, "earlier question"));
    uint64_t id = world_add(&w, A);
    world_run(&w, 100);
    ck_assert(world_has(&w, B, id));
    ck_assert_uint_eq(world_count(&w, A, PE_DETACHED), 0);
    w.node[B].reads_stalled = false;
    world_run(&w, 100);
    struct verify_view v = compare(A);
    ck_assert(!*v.why);
    ck_assert_uint_eq(v.compared, MESSAGES + 1);
    ck_assert_uint_eq(world_count(&w, A, PE_ATTACHED), 1);
}
END_TEST

/* The link goes in the middle of it: said so, nothing hangs, the next run is whole. */
START_TEST(test_the_standby_goes_away)
{
    w.node[B].reads_stalled = true;
    struct replica_event ev = {.type = RE_VERIFY, .op = 2};
    replica_step(w.node[A].core, &ev, w.now, 0);
    world_run(&w, 50);
    ck_assert(view(A).running);
    world_cut(&w);
    ck_assert(!view(A).running && *view(A).why);
    w.node[B].reads_stalled = false;
    world_run(&w, 2000);
    struct verify_view v = compare(A);
    ck_assert(!*v.why && v.compared == MESSAGES);
}
END_TEST

/* The primary dies in the middle of one: its successor has none under way. */
START_TEST(test_a_comparison_ends_with_its_primary)
{
    w.node[B].reads_stalled = true;
    struct replica_event ev = {.type = RE_VERIFY, .op = 2};
    replica_step(w.node[A].core, &ev, w.now, 0);
    world_run(&w, 50);
    ck_assert(view(B).running);
    world_crash(&w, A);
    world_run(&w, 20);
    ck_assert(!view(B).running);
    world_promote(&w, B, 3, false);
    world_run(&w, 100);
    world_start(&w, A);
    world_follow(&w, A, 3);
    world_run(&w, 200);
    ck_assert_uint_eq(world_count(&w, B, PE_ATTACHED), 1);
    ck_assert(!view(B).running);
}
END_TEST

/* B's disk comes back from a snapshot: it lacks what it acknowledged, and has to be copied anew. A
 * body has rotted at A meanwhile. */
static struct store_id roll_back(void)
{
    struct store *snapshot = store_memory_copy(w.node[B].store);
    struct store_id was = world_store_id(&w, B);
    world_add(&w, A);
    world_run(&w, 100);
    rot(A, ids[3]);
    world_crash(&w, B);
    store_memory_free(w.node[B].store);
    w.node[B].store = snapshot;
    world_start(&w, B);
    return was;
}

static bool emptied(const struct store_id *was)
{
    struct store_id now = world_store_id(&w, B);
    return !store_id_eq(was, &now);
}

/* What has rotted here, unnoticed, is whole only in the store that a full copy replaces. */
START_TEST(test_no_good_body_goes_with_an_emptied_store)
{
    struct store_id was = roll_back();
    rot(A, ids[MESSAGES - 1]);
    rot(B, ids[5]); /* whole here */
    world_follow(&w, B, 2);
    world_run(&w, 1000);
    ck_assert(emptied(&was));
    struct verify_view v = view(A);
    ck_assert(v.compared == MESSAGES + 1 && v.differing == 2 && v.repaired == 2);
    ck_assert(world_equal(&w));
    ck_assert_uint_eq(compare(A).differing, 0);
}
END_TEST

/* Neither is right: said to the relay, and no reason to wait for ever. */
START_TEST(test_an_emptied_store_that_was_rotten_as_well)
{
    struct store_id was = roll_back();
    rot(B, ids[3]);
    world_follow(&w, B, 2);
    world_run(&w, 1000);
    ck_assert(emptied(&was));
    ck_assert(w.node[A].mended_id == ids[3] && w.node[A].mended == VERIFY_NO_COPY);
}
END_TEST

/* It can't be read just now: it is kept until it can. */
START_TEST(test_a_store_is_not_emptied_before_it_was_read)
{
    struct store_id was = roll_back();
    w.node[B].reads_stalled = true;
    world_follow(&w, B, 2);
    world_run(&w, 1000);
    struct replica_view a, b;
    replica_view(w.node[A].core, w.now, &a);
    replica_view(w.node[B].core, w.now, &b);
    ck_assert(a.verify.running && strstr(a.progress, "rotten"));
    ck_assert_ptr_nonnull(strstr(b.progress, "whole only here"));
    world_cut(&w); /* before it ends: the next link begins anew */
    ck_assert(!view(A).running && !view(B).running);
    world_run(&w, 40000); /* A gives up the question; B asks again */
    ck_assert(!emptied(&was));
    w.node[B].reads_stalled = false;
    world_run(&w, 40000);
    ck_assert(emptied(&was));
    ck_assert(world_equal(&w));
    ck_assert_uint_eq(compare(A).differing, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("verify");
    TCase *t = tcase_create("transcripts");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_copies_that_are_alike);
    tcase_add_test(t, test_a_rotten_body_is_put_back_from_the_other_copy);
    tcase_add_test(t, test_rotten_on_both_is_told_to_the_relay);
    tcase_add_test(t, test_a_delivery_gets_its_body_back);
    tcase_add_test(t, test_another_message_under_the_id_is_no_copy);
    tcase_add_test(t, test_rows_that_differ_are_merged);
    tcase_add_test(t, test_an_open_dot_is_not_in_doubt);
    tcase_add_test(t, test_a_question_that_hangs_costs_no_link);
    tcase_add_test(t, test_the_standby_goes_away);
    tcase_add_test(t, test_a_comparison_ends_with_its_primary);
    tcase_add_test(t, test_no_good_body_goes_with_an_emptied_store);
    tcase_add_test(t, test_an_emptied_store_that_was_rotten_as_well);
    tcase_add_test(t, test_a_store_is_not_emptied_before_it_was_read);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
