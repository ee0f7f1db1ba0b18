/* Two replica cores on real store transactions: what the pair promises (protocol 4, 5, 8, 10), and
 * the incidents that broke earlier drafts. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/base/protocol.h"
#include "replication/replica_state.h"
#include "support_replica.h"

static struct world w;

enum { A = 0, B = 1 };

static void order(unsigned node, enum pair_effect_type type)
{
    world_pair(&w, node,
               (struct pair_effect){.type = type,
                                    .epoch = w.node[node].epoch,
                                    .follower = world_store_id(&w, 1 - node)});
}

static uint64_t add(unsigned node)
{
    uint64_t id = world_add(&w, node);
    ck_assert(id);
    return id;
}

/* P serves alone in epoch 2, S follows and has caught up. */
static void solo_with_follower(uint64_t seed, size_t ring_bytes)
{
    world_init(&w, seed, ring_bytes);
    world_promote(&w, A, 2, false);
    world_run(&w, 40);
    for (unsigned i = 0; i < 5; i++)
        add(A);
    world_follow(&w, B, 2);
    world_run(&w, 100);
    ck_assert(world_report(&w, A, PE_CAUGHT_UP));
}

static void take_back(void)
{
    order(A, PX_TAKE_BACK);
    world_run(&w, 100);
    const struct pair_event *ready = world_report(&w, A, PE_TAKE_BACK_READY);
    ck_assert(ready);
    struct store_id b = world_store_id(&w, B);
    ck_assert(store_id_eq(&ready->follower, &b));
    w.node[A].serving_waits = true;
    order(A, PX_PAIRED);
    world_run(&w, 40);
}

struct lone {
    struct store_request promote;
    uint64_t committed, settled;
};

static void lone_emit(void *ctx, const struct replica_effect *fx)
{
    struct lone *l = ctx;
    if (fx->type == RX_STORE) {
        if (fx->request->type == SR_PROMOTE)
            l->promote = *fx->request;
        shared_unref(fx->request->bytes);
    }
    if (fx->type == RX_WATERMARK) {
        l->committed = fx->committed;
        l->settled = fx->settled;
    }
}

/* No batches are handed over; what is durable is committed. */
START_TEST(test_a_single_node_commits_what_is_durable)
{
    struct lone l = {.committed = 0};
    struct store_meta meta = {.end = {1, 5}};
    struct replica_config cfg = {.single = true};
    struct replica *r = replica_new(&cfg, "test", &meta, lone_emit, &l);
    struct pair_effect fx = {.type = PX_PROMOTE, .epoch = 2};
    replica_step(r, &(struct replica_event){.type = RE_PAIR, .fx = &fx}, 1, 1);
    ck_assert_int_eq(l.promote.type, SR_PROMOTE);
    meta.end = (struct pos){2, 6};
    struct store_reply reply = {
        .type = SR_PROMOTE, .cookie = l.promote.cookie, .first = 6, .meta = meta};
    replica_step(r, &(struct replica_event){.type = RE_STORE, .reply = &reply}, 2, 2);
    ck_assert_uint_eq(l.committed, 6);
    replica_step(r, &(struct replica_event){.type = RE_DURABLE, .pos = {2, 90}}, 3, 3);
    ck_assert_uint_eq(l.committed, 90);
    ck_assert_uint_eq(l.settled, 90);
    replica_step(r, &(struct replica_event){.type = RE_DURABLE, .pos = {1, 99}}, 4, 4);
    ck_assert_uint_eq(l.committed, 90);
    replica_free(r);
}
END_TEST

static void paired(uint64_t seed)
{
    solo_with_follower(seed, 0);
    take_back();
}

static void drop(void)
{
    w.node[A].serving_waits = false; /* the record says so */
    order(A, PX_DROP);
    world_run(&w, 60);
    ck_assert(world_report(&w, A, PE_SOLO_DURABLE));
}

static bool committed_has(unsigned node, uint64_t id)
{
    const struct row_message *m = store_memory_message(w.node[node].store, id);
    return m && m->pos.lsn <= w.node[node].committed;
}

START_TEST(test_solo_then_copy_then_ring)
{
    solo_with_follower(1, 0);
    ck_assert(world_equal(&w));
    ck_assert(!world_meta(&w, B)->copying);
    ck_assert_uint_eq(world_meta(&w, B)->history.n, world_meta(&w, A)->history.n);
    uint64_t id = add(A);
    world_run(&w, 40);
    ck_assert(world_has(&w, B, id) && committed_has(A, id));
    world_deliver(&w, A, id);
    world_run(&w, 40);
    ck_assert_int_eq(world_state(&w, B, id), RCPT_DELIVERED);
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

START_TEST(test_paired_waits_for_the_standby)
{
    paired(2);
    uint64_t id = add(A);
    w.hold[A] = true; /* its acknowledgements don't arrive */
    world_run(&w, 100);
    ck_assert(world_has(&w, A, id) && world_has(&w, B, id));
    ck_assert(!committed_has(A, id));
    w.hold[A] = false;
    world_run(&w, 100);
    ck_assert(committed_has(A, id));
    ck_assert(pos_cmp(world_meta(&w, B)->committed, (struct pos){2, 1}) >= 0);
    world_free(&w);
}
END_TEST

/* Protocol 4.5: settled is durable here and received there, before it is durable there. */
START_TEST(test_settled_is_received)
{
    paired(3);
    w.node[B].stalled = true;
    uint64_t committed = w.node[A].committed;
    add(A);
    world_run(&w, 100);
    ck_assert_uint_eq(w.node[A].committed, committed);
    ck_assert_uint_gt(w.node[A].settled, committed);
    world_free(&w);
}
END_TEST

static bool in_doubt(unsigned node, uint64_t id)
{
    return store_memory_recipient(w.node[node].store, id, 0)->in_doubt == DOUBT_YES;
}

/* Protocol 9: a final dot waits for the standby's word that it has the note; at its takeover what
 * has no outcome is in doubt. */
START_TEST(test_notes_are_known_before_the_dot_and_listed_at_a_takeover)
{
    paired(21);
    uint64_t sent = add(A), done = add(A), withdrawn = add(A), other = add(A);
    world_run(&w, 100);
    w.hold[A] = true; /* the standby's answers don't come */
    world_note(&w, A, 1, 1, sent);
    world_run(&w, 40);
    ck_assert_uint_eq(w.node[A].noted, 0);
    w.hold[A] = false;
    world_run(&w, 40);
    ck_assert_uint_eq(w.node[A].noted, 1);
    world_note(&w, A, 2, 2, done);
    world_note(&w, A, 3, 3, withdrawn);
    world_note(&w, A, 4, 3, 0);
    world_deliver(&w, A, done);
    world_run(&w, 100);
    ck_assert_uint_eq(w.node[A].noted, 4);
    world_crash(&w, A);
    world_promote(&w, B, 3, false);
    world_run(&w, 100);
    const struct pair_event *promoted = world_report(&w, B, PE_PROMOTED);
    ck_assert(promoted && promoted->in_doubt == 1);
    ck_assert(in_doubt(B, sent) && !in_doubt(B, other) && !in_doubt(B, withdrawn));
    ck_assert_int_eq(world_state(&w, B, done), RCPT_DELIVERED);
    world_free(&w);
}
END_TEST

/* A primary that restarts has forgotten its open dots; its standby hasn't. */
START_TEST(test_a_restarted_primary_is_told_what_it_had_noted)
{
    paired(27);
    uint64_t sent = add(A), done = add(A), other = add(A);
    world_run(&w, 100);
    world_note(&w, A, 1, 1, sent);
    world_note(&w, A, 2, 2, done);
    world_run(&w, 40);
    world_deliver(&w, A, done);
    world_run(&w, 40);
    world_crash(&w, A);
    world_start(&w, A);
    w.node[A].serving_waits = true;
    world_promote(&w, A, 4, true);
    world_follow(&w, B, 4);
    world_run(&w, 200);
    ck_assert(world_report(&w, A, PE_MERGED));
    ck_assert(in_doubt(A, sent) && !in_doubt(A, other));
    ck_assert_int_eq(world_state(&w, A, done), RCPT_DELIVERED);
    ck_assert(world_equal(&w));
    /* A new link in the same epoch tells nothing of what is open now. */
    world_note(&w, A, 1, 1, other);
    world_run(&w, 40);
    world_cut(&w);
    world_run(&w, 2000);
    ck_assert(!in_doubt(A, other) && !in_doubt(B, other));
    world_free(&w);
}
END_TEST

START_TEST(test_notes_are_told_anew_at_each_attachment)
{
    paired(22);
    uint64_t early = add(A), late = add(A);
    world_run(&w, 100);
    world_note(&w, A, 1, 1, early);
    world_run(&w, 40);
    world_crash(&w, B); /* what it was told is gone */
    world_note(&w, A, 2, 2, late);
    world_run(&w, 40);
    ck_assert_uint_eq(w.node[A].noted, 1); /* nobody to hear it, and still waited for */
    world_start(&w, B);
    world_follow(&w, B, 2);
    world_run(&w, 200);
    ck_assert_uint_eq(w.node[A].noted, 2);
    world_crash(&w, A);
    world_promote(&w, B, 3, false);
    world_run(&w, 100);
    ck_assert(in_doubt(B, early) && in_doubt(B, late));
    world_free(&w);
}
END_TEST

START_TEST(test_a_standby_taken_back_knows_of_open_dots)
{
    solo_with_follower(23, 0);
    uint64_t id = add(A);
    world_run(&w, 40);
    w.hold[A] = true;
    world_note(&w, A, 1, 1, id);
    ck_assert_uint_eq(w.node[A].noted, 1); /* alone, no dot waits */
    order(A, PX_TAKE_BACK);
    w.hold[A] = false;
    world_run(&w, 100);
    ck_assert(world_report(&w, A, PE_TAKE_BACK_READY));
    world_crash(&w, A);
    world_promote(&w, B, 3, false);
    world_run(&w, 100);
    ck_assert(in_doubt(B, id));
    world_free(&w);
}
END_TEST

/* What the old primary tried counts here as soon as it is merged; a dot that is open meanwhile is
 * in doubt all the same. */
START_TEST(test_a_merged_attempt_leaves_open_dots_in_doubt)
{
    paired(24);
    uint64_t id = add(A), other = add(A);
    world_run(&w, 60);
    world_cut(&w);
    w.node[B].dialling = false;
    world_defer(&w, A, id);
    world_run(&w, 60);
    world_crash(&w, A);
    world_promote(&w, B, 3, false);
    world_run(&w, 60);
    world_note(&w, B, 1, 1, id);
    world_start(&w, A);
    world_follow(&w, A, 3);
    world_run(&w, 300);
    ck_assert(world_report(&w, B, PE_MERGED));
    ck_assert_uint_eq(store_memory_recipient(w.node[B].store, id, 0)->attempts, 1);
    world_crash(&w, B);
    world_promote(&w, A, 4, false);
    world_run(&w, 100);
    ck_assert(in_doubt(A, id) && !in_doubt(A, other));
    world_free(&w);
}
END_TEST

/* The same where the dot's note is made while the merge is under way. */
START_TEST(test_a_note_during_a_merge_is_of_the_next_attempt)
{
    paired(29);
    uint64_t id = add(A);
    world_run(&w, 60);
    world_cut(&w);
    w.node[B].dialling = false;
    world_defer(&w, A, id);
    world_run(&w, 60);
    world_crash(&w, A);
    world_promote(&w, B, 3, false);
    world_run(&w, 60);
    world_start(&w, A);
    w.hold[B] = true; /* its HELLO */
    world_follow(&w, A, 3);
    world_run(&w, 50);
    w.hold[B] = false;
    while (!(w.node[B].stalled && w.node[B].jobs) && world_step(&w))
        w.node[B].stalled = world_count(&w, B, PE_ATTACHED) > 0;
    ck_assert(w.node[B].jobs); /* the merge */
    ck_assert_uint_eq(store_memory_recipient(w.node[B].store, id, 0)->attempts, 0);
    world_note(&w, B, 1, 1, id);
    world_run(&w, 60); /* the follower hears of it */
    world_crash(&w, B);
    world_promote(&w, A, 4, false);
    world_run(&w, 100);
    ck_assert(in_doubt(A, id));
    world_free(&w);
}
END_TEST

START_TEST(test_slow_standby_is_reported_and_dropped)
{
    paired(4);
    w.node[B].stalled = true;
    uint64_t id = add(A);
    world_run(&w, 900);
    ck_assert_uint_eq(world_count(&w, A, PE_SLOW), 0);
    world_run(&w, 300);
    ck_assert_uint_eq(world_count(&w, A, PE_SLOW), 1);
    ck_assert(!committed_has(A, id));
    drop();
    ck_assert(committed_has(A, id));
    ck_assert_int_eq(history_mode_at(&world_meta(&w, A)->history,
                                     store_memory_message(w.node[A].store, id)->pos),
                     MODE_SOLO);
    w.node[B].stalled = false;
    world_run(&w, 200);
    ck_assert(world_equal(&w)); /* it went on following */
    world_free(&w);
}
END_TEST

/* Protocol 5, the order of a drop: the history row is durable, then the waiting 250s go. */
START_TEST(test_drop_releases_only_after_its_row)
{
    paired(23);
    w.node[A].serving_waits = false;
    world_crash(&w, B);
    uint64_t id = add(A);
    world_run(&w, 60);
    add(A);
    world_storage(&w, A);
    world_storage(&w, A); /* durable, and the core doesn't know yet */
    w.node[A].stalled = true;
    order(A, PX_DROP);
    world_run(&w, 100);
    ck_assert(!committed_has(A, id));
    ck_assert_uint_eq(world_count(&w, A, PE_SOLO_DURABLE), 0);
    w.node[A].stalled = false;
    world_run(&w, 60);
    ck_assert(committed_has(A, id));
    ck_assert_uint_eq(world_count(&w, A, PE_SOLO_DURABLE), 1);
    world_free(&w);
}
END_TEST

START_TEST(test_detached_while_waiting_is_slow)
{
    paired(5);
    world_crash(&w, B);
    world_run(&w, 900);
    ck_assert_uint_eq(world_count(&w, A, PE_DETACHED), 1);
    ck_assert_uint_eq(world_count(&w, A, PE_SLOW), 0);
    world_run(&w, 200);
    ck_assert_uint_eq(world_count(&w, A, PE_SLOW), 1);
    world_free(&w);
}
END_TEST

/* Incident 1: once the take-back has begun the primary stays strict until the history row of the
 * drop is durable, whatever becomes of the follower. */
START_TEST(test_incident_1_given_up_take_back_stays_strict)
{
    solo_with_follower(6, 0);
    order(A, PX_TAKE_BACK);
    world_run(&w, 100);
    ck_assert(world_report(&w, A, PE_TAKE_BACK_READY));
    world_crash(&w, B);
    uint64_t id = add(A);
    world_run(&w, 100);
    ck_assert(world_report(&w, A, PE_TAKE_BACK_LOST));
    ck_assert(!committed_has(A, id));
    drop();
    ck_assert(committed_has(A, id));
    world_free(&w);
}
END_TEST

/* Incident 2: rows move ahead of the reader while the ring is too short to hold on to. */
START_TEST(test_incident_2_changes_during_catch_up)
{
    for (uint64_t seed = 100; seed < 130; seed++) {
        world_init(&w, seed, 1500);
        world_promote(&w, A, 2, false);
        world_run(&w, 40);
        uint64_t ids[40];
        for (unsigned i = 0; i < 40; i++)
            ids[i] = add(A);
        world_run(&w, 40);
        world_follow(&w, B, 2);
        world_run(&w, 20);
        for (unsigned i = 0; i < 40; i++) {
            world_deliver(&w, A, ids[rng_below(&w.rng, 40)]);
            add(A);
            for (unsigned k = 0; k < 12; k++)
                world_step(&w);
        }
        world_run(&w, 200);
        ck_assert(world_report(&w, A, PE_CAUGHT_UP));
        ck_assert(world_equal(&w));
        world_free(&w);
    }
}
END_TEST

/* Incident 3: the standby holds more of the old epoch than the restarted primary; what it once
 * acknowledged says nothing about the new epoch's numbers. Its tail is merged first. */
START_TEST(test_incident_3_standby_ahead_of_a_restarted_primary)
{
    paired(7);
    uint64_t seen = add(A);
    world_storage(&w, A); /* handed over, never committed here */
    w.node[A].stalled = true;
    world_run(&w, 60);
    ck_assert(world_has(&w, B, seen));
    uint64_t b_end = world_meta(&w, B)->end.lsn;
    world_crash(&w, A);
    ck_assert_uint_lt(world_meta(&w, A)->end.lsn, b_end);
    world_start(&w, A);
    world_promote(&w, A, 4, true);
    w.hold[A] = w.hold[B] = true;
    world_run(&w, 40);
    uint64_t id = add(A);
    world_run(&w, 60);
    ck_assert(world_meta(&w, A)->end.lsn >= b_end);
    ck_assert(!committed_has(A, id));
    w.hold[A] = w.hold[B] = false;
    world_follow(&w, B, 4);
    world_run(&w, 300);
    ck_assert(world_report(&w, A, PE_ATTACHED));
    ck_assert(world_report(&w, A, PE_MERGED));
    ck_assert(committed_has(A, id));
    ck_assert(world_has(&w, A, seen)); /* quarantined or queued: nothing is thrown away */
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Incident 4 and 5: the mode of each lsn is in the history on both stores. */
START_TEST(test_incident_5_history_tells_the_modes_on_both)
{
    paired(8);
    add(A);
    world_run(&w, 40);
    uint64_t before = world_meta(&w, A)->end.lsn;
    drop();
    uint64_t solo = add(A);
    world_run(&w, 60);
    for (unsigned i = 0; i < 2; i++) {
        const struct history *h = &world_meta(&w, i)->history;
        ck_assert_int_eq(history_mode_at(h, (struct pos){2, before}), MODE_PAIRED);
        ck_assert_int_eq(history_mode_at(h, store_memory_message(w.node[i].store, solo)->pos),
                         MODE_SOLO);
    }
    world_free(&w);
}
END_TEST

/* Incident 6: a restarted, paired primary's committed lsn begins neither at 0 nor at its own end.
 */
START_TEST(test_incident_6_committed_at_a_restart)
{
    paired(9);
    uint64_t both = add(A);
    world_run(&w, 60);
    add(A);
    world_run(&w, 60); /* carries the committed lsn of the first */
    w.hold[B] = true;
    uint64_t only_here = add(A);
    world_run(&w, 60);
    world_crash(&w, A);
    world_start(&w, A);
    world_crash(&w, B);
    w.hold[B] = false;
    world_promote(&w, A, 4, true);
    world_run(&w, 60);
    ck_assert(world_report(&w, A, PE_PROMOTED));
    ck_assert(committed_has(A, both));
    ck_assert(!committed_has(A, only_here));
    world_start(&w, B);
    world_follow(&w, B, 4);
    w.node[A].serving_waits = true;
    world_run(&w, 200);
    ck_assert(committed_has(A, only_here));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Incident 7: the disk is exchanged during the take-back. */
START_TEST(test_incident_7_another_store_during_take_back)
{
    solo_with_follower(10, 0);
    struct store_id old = world_store_id(&w, B);
    w.node[B].stalled = true;
    add(A);
    world_run(&w, 20);
    order(A, PX_TAKE_BACK);
    world_run(&w, 40);
    world_crash(&w, B);
    world_new_disk(&w, B);
    world_start(&w, B);
    world_follow(&w, B, 2);
    world_run(&w, 200);
    ck_assert(world_report(&w, A, PE_TAKE_BACK_LOST));
    ck_assert_uint_eq(world_count(&w, A, PE_TAKE_BACK_READY), 0);
    struct store_id now = world_store_id(&w, B);
    ck_assert(!store_id_eq(&old, &now));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Incident 8: while the record names one store, another one's acknowledgements don't count. */
START_TEST(test_incident_8_foreign_store_does_not_count)
{
    paired(11);
    world_crash(&w, B);
    world_new_disk(&w, B);
    world_start(&w, B);
    w.node[A].serving_waits = false; /* the harness's check reads B's disk, which is another now */
    uint64_t id = add(A);
    world_follow(&w, B, 2);
    world_run(&w, 300);
    ck_assert(world_equal(&w));
    ck_assert(!committed_has(A, id));
    world_free(&w);
}
END_TEST

/* Incident 17: an outcome that reached only the standby is merged before the restarted primary
 * delivers again. */
START_TEST(test_incident_17_outcome_only_at_the_standby)
{
    paired(12);
    uint64_t id = add(A);
    world_run(&w, 60);
    world_deliver(&w, A, id);
    world_storage(&w, A);
    w.node[A].stalled = true;
    world_run(&w, 60);
    ck_assert_int_eq(world_state(&w, B, id), RCPT_DELIVERED);
    ck_assert_int_eq(world_state(&w, A, id), RCPT_QUEUED);
    world_crash(&w, A);
    world_start(&w, A);
    world_promote(&w, A, 4, true);
    world_follow(&w, B, 4);
    world_run(&w, 300);
    ck_assert(world_report(&w, A, PE_MERGED));
    ck_assert_int_eq(world_state(&w, A, id), RCPT_DELIVERED);
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Incident 20: a promoted store's unmerged rows get new numbers, and so reach the other. */
START_TEST(test_incident_20_promoted_with_unmerged_rows)
{
    solo_with_follower(13, 0);
    world_cut(&w);
    w.node[B].dialling = false;
    uint64_t alone = add(A); /* only here, solo: acknowledged */
    world_run(&w, 60);
    ck_assert(committed_has(A, alone));
    order(A, PX_STEP_DOWN);
    world_run(&w, 40);
    ck_assert(world_report(&w, A, PE_CLOSED));
    world_promote(&w, B, 1003, false); /* forced */
    world_run(&w, 40);
    uint64_t there = add(B);
    world_run(&w, 40);
    world_follow(&w, A, 1003);
    w.hold[B] = true; /* nothing of A's upload arrives */
    world_run(&w, 20);
    w.hold[B] = false;
    for (unsigned i = 0; i < 12; i++)
        world_step(&w);
    world_crash(&w, A);
    world_crash(&w, B);
    world_start(&w, A);
    world_start(&w, B);
    world_promote(&w, A, 2006, false); /* forced back */
    world_follow(&w, B, 2006);
    world_run(&w, 300);
    ck_assert(world_has(&w, B, alone) && world_has(&w, A, there));
    ck_assert_int_eq(world_state(&w, B, alone), RCPT_QUEUED);
    ck_assert_int_eq(world_state(&w, A, there), RCPT_QUEUED);
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Incident 32: the batch was shipped, its transaction fails here: the epoch is over and its numbers
 * are never given to anything else in it. */
START_TEST(test_incident_32_failed_transaction_after_shipping)
{
    paired(14);
    w.node[A].fail_commit = true;
    uint64_t shipped = add(A);
    world_run(&w, 60);
    ck_assert(world_report(&w, A, PE_STORAGE_FAILED));
    ck_assert(world_has(&w, B, shipped) && !world_has(&w, A, shipped));
    ck_assert(!committed_has(A, shipped));
    w.node[A].serving_waits = false;
    order(A, PX_STEP_DOWN);
    ck_assert_uint_eq(w.node[A].epoch_overs, 1);
    world_run(&w, 40);
    world_promote(&w, B, 3, false); /* in sync: takes over */
    world_run(&w, 40);
    world_follow(&w, A, 3);
    world_run(&w, 200);
    ck_assert(world_equal(&w));
    ck_assert(world_has(&w, A, shipped));
    world_free(&w);
}
END_TEST

START_TEST(test_switchover_drains_and_loses_nothing)
{
    paired(15);
    uint64_t ids[20];
    for (unsigned i = 0; i < 20; i++)
        ids[i] = add(A);
    order(A, PX_DRAIN);
    ck_assert(!world_report(&w, A, PE_DRAINED));
    world_run(&w, 100);
    ck_assert(world_report(&w, A, PE_DRAINED));
    ck_assert_uint_eq(world_add(&w, A), 0); /* the writer is closed */
    for (unsigned i = 0; i < 20; i++)
        ck_assert(world_has(&w, B, ids[i]) || !world_has(&w, A, ids[i]));
    order(A, PX_STEP_DOWN);
    world_promote(&w, B, 3, false);
    world_run(&w, 60);
    ck_assert(world_report(&w, A, PE_CLOSED));
    ck_assert(world_report(&w, B, PE_PROMOTED));
    ck_assert_uint_eq(w.node[B].committed, world_meta(&w, B)->end.lsn);
    world_follow(&w, A, 3);
    add(B);
    world_run(&w, 200);
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* A step down stops the counting at once: what is acknowledged later commits nothing. */
START_TEST(test_step_down_stops_counting)
{
    paired(16);
    w.hold[A] = true;
    add(A);
    world_run(&w, 60);
    uint64_t committed = w.node[A].committed;
    order(A, PX_STEP_DOWN);
    w.hold[A] = false;
    world_run(&w, 60);
    ck_assert_uint_eq(w.node[A].committed, committed);
    ck_assert(world_report(&w, A, PE_CLOSED));
    world_free(&w);
}
END_TEST

/* What was acknowledged is on the disk as that when the role is over, though no transaction came
 * after it: the next meeting judges by it. */
START_TEST(test_step_down_keeps_what_is_committed)
{
    paired(23);
    add(A);
    world_run(&w, 60);
    struct pos committed = {2, w.node[A].committed};
    ck_assert_uint_eq(committed.lsn, world_meta(&w, A)->end.lsn);
    ck_assert_int_lt(pos_cmp(world_meta(&w, A)->committed, committed), 0);
    order(A, PX_STEP_DOWN);
    world_run(&w, 60);
    ck_assert_int_eq(pos_cmp(world_meta(&w, A)->committed, committed), 0);
    world_free(&w);
}
END_TEST

/* An epoch that begins with mail of the one before that nobody was told of: what it keeps as
 * committed, below its own first lsn, makes none of that acknowledged. */
START_TEST(test_what_is_committed_later_commits_nothing_earlier)
{
    paired(24);
    w.hold[B] = true;
    uint64_t id = add(A);
    world_run(&w, 60);
    ck_assert(!committed_has(A, id));
    world_crash(&w, A);
    w.hold[B] = false;
    world_start(&w, A);
    world_promote(&w, A, 4, true);
    world_run(&w, 60);
    ck_assert(world_has(&w, A, id) && !committed_has(A, id));
    order(A, PX_STEP_DOWN);
    world_run(&w, 60);
    ck_assert_uint_eq(world_meta(&w, A)->committed.epoch, 4);
    w.node[A].serving_waits = false;
    world_promote(&w, B, 5, false);
    world_run(&w, 60);
    world_follow(&w, A, 5);
    world_run(&w, 400);
    ck_assert_int_eq(world_state(&w, B, id), RCPT_QUARANTINED);
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* A promoted follower acknowledges nothing more, and what it was writing gets in first. */
START_TEST(test_promotion_ends_acknowledging)
{
    paired(17);
    w.node[B].stalled = true;
    uint64_t id = add(A);
    world_run(&w, 60);
    world_promote(&w, B, 3, false);
    w.node[B].stalled = false;
    w.node[A].serving_waits = false;
    uint64_t before = w.node[A].committed;
    world_run(&w, 100);
    ck_assert_uint_eq(w.node[A].committed, before);
    ck_assert(world_has(&w, B, id));
    ck_assert(world_report(&w, B, PE_PROMOTED));
    ck_assert_uint_eq(world_meta(&w, B)->end.epoch, 3);
    world_free(&w);
}
END_TEST

START_TEST(test_lost_data_gets_a_full_copy)
{
    paired(18);
    store_memory_defer(w.node[B].store, true); /* a disk that lies about what is durable */
    for (unsigned i = 0; i < 5; i++)
        add(A);
    world_run(&w, 60);
    struct store_id old = world_store_id(&w, B);
    w.node[A].serving_waits = false; /* the support's own check doesn't know of such disks */
    world_crash(&w, B);
    store_memory_lose(w.node[B].store, 3);
    store_memory_defer(w.node[B].store, false);
    world_start(&w, B);
    world_follow(&w, B, 2);
    world_run(&w, 400);
    /* As long as the record names it, it may be promoted: emptied then, nobody could serve. */
    struct store_id now = world_store_id(&w, B);
    ck_assert(store_id_eq(&old, &now));
    drop();
    world_run(&w, 400);
    now = world_store_id(&w, B);
    ck_assert(!store_id_eq(&old, &now));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Rolled back to before a restart of the primary, with changes of that time that nobody kept: its
 * end is as high a number as the one that it acknowledged, and in another epoch. */
START_TEST(test_lost_data_is_told_by_what_is_shared)
{
    paired(22);
    struct store *snapshot = store_memory_copy(w.node[B].store);
    struct pos end = world_meta(&w, B)->end;
    world_crash(&w, B);
    world_crash(&w, A);
    world_start(&w, A);
    world_start(&w, B);
    world_promote(&w, A, 4, false); /* from the same end */
    world_follow(&w, B, 4);
    world_run(&w, 100);
    take_back();
    for (unsigned i = 0; i < 3; i++)
        add(A);
    world_run(&w, 60);
    drop();
    struct store_id old = world_store_id(&w, B);
    world_crash(&w, B);
    store_memory_free(w.node[B].store);
    w.node[B].store = snapshot;
    /* What the old epoch had beyond its end when the snapshot was taken. */
    struct store_meta m = *world_meta(&w, B);
    m.end.lsn = world_meta(&w, A)->end.lsn;
    ck_assert_uint_gt(m.end.lsn, end.lsn);
    ck_assert_int_eq(snapshot->ops->begin(snapshot), STORE_OK);
    ck_assert_int_eq(snapshot->ops->set_meta(snapshot, &m), STORE_OK);
    ck_assert_int_eq(snapshot->ops->commit(snapshot), STORE_OK);
    world_start(&w, B);
    world_follow(&w, B, 4);
    world_run(&w, 400);
    struct store_id now = world_store_id(&w, B);
    ck_assert(!store_id_eq(&old, &now)); /* a full copy, not a catch-up */
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* A's disk comes back from a snapshot, and the record still names it: what B has beyond was
 * acknowledged, as B knows, and isn't taken for mail whose sender tries again. */
START_TEST(test_a_primary_that_was_rolled_back_gets_all_back)
{
    uint64_t ids[6];
    paired(21);
    ids[0] = add(A);
    world_run(&w, 60);
    struct store *snapshot = store_memory_copy(w.node[A].store);
    for (unsigned i = 1; i < 6; i++) {
        ids[i] = add(A);
        world_run(&w, 60); /* committed, and B is told */
    }
    ck_assert(committed_has(A, ids[5]));
    world_crash(&w, A);
    store_memory_free(w.node[A].store);
    w.node[A].store = snapshot;
    world_start(&w, A);
    w.node[A].serving_waits = true;
    world_promote(&w, A, 4, true);
    world_follow(&w, B, 4);
    world_run(&w, 400);
    for (unsigned i = 0; i < 6; i++)
        ck_assert_int_eq(world_state(&w, A, ids[i]), RCPT_QUEUED);
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Section 10: it is reported, to be dropped from in_sync, before it is read to again. */
START_TEST(test_falls_out_of_the_ring)
{
    solo_with_follower(19, 3000);
    take_back();
    w.hold[B] = w.hold[A] = true;
    for (unsigned i = 0; i < 100; i++)
        add(A);
    world_run(&w, 100);
    ck_assert_uint_eq(world_count(&w, A, PE_SLOW), 1); /* long before standby_timeout */
    drop();
    w.hold[B] = w.hold[A] = false;
    world_run(&w, 400);
    ck_assert_uint_eq(world_count(&w, A, PE_DETACHED), 0); /* no gap was sent */
    ck_assert(world_equal(&w));
    ck_assert_uint_eq(world_count(&w, A, PE_CAUGHT_UP), 2);
    world_free(&w);
}
END_TEST

static void purge(unsigned node)
{
    bool more;
    struct store *s = w.node[node].store;
    ck_assert_int_eq(s->ops->begin(s), 0);
    ck_assert_int_eq(s->ops->purge(s, INT64_MAX, UINT64_MAX, 100, &more), 0);
    ck_assert_int_eq(s->ops->commit(s), 0);
}

static uint64_t both; /* have this one, still queued */

/* A comes back after eight days with a message of its own; B has gone on and delivered one that
 * both had. */
static uint64_t apart_for_eight_days(unsigned seed, uint64_t *finished)
{
    solo_with_follower(seed, 0);
    *finished = add(A);
    both = add(A);
    world_run(&w, 60);
    world_cut(&w);
    w.node[B].dialling = false;
    uint64_t alone = add(A);
    world_run(&w, 40);
    order(A, PX_STEP_DOWN);
    world_promote(&w, B, 1003, false);
    world_run(&w, 40);
    world_deliver(&w, B, *finished);
    world_run(&w, 40);
    w.now += 8ull * 86400 * 1000000000;
    return alone;
}

/* B has forgotten what it delivered. */
static uint64_t away_for_eight_days(unsigned seed, uint64_t *finished)
{
    uint64_t alone = apart_for_eight_days(seed, finished);
    purge(B);
    ck_assert(!world_has(&w, B, *finished));
    add(B);
    world_run(&w, 40);
    world_follow(&w, A, 1003);
    return alone;
}

static void rejoin(unsigned node, bool discard)
{
    struct replica_event ev = {.type = RE_REJOIN, .flag = discard, .op = 1};
    replica_step(w.node[node].core, &ev, w.now, 0);
}

START_TEST(test_away_for_longer_than_retention_waits_for_the_operator)
{
    uint64_t finished, alone = away_for_eight_days(20, &finished);
    unsigned logs = (unsigned)w.node[A].logs;
    world_run(&w, 3000);
    ck_assert_uint_gt(w.node[A].logs, logs);
    ck_assert_uint_eq(world_count(&w, B, PE_ATTACHED), 0);
    ck_assert(world_has(&w, A, alone) && !world_has(&w, B, alone));
    struct replica_view v;
    replica_view(w.node[A].core, w.now, &v);
    ck_assert(v.rejoin_waits && v.progress[0]);
    /* A restart forgets nothing: it waits again. */
    world_crash(&w, A);
    world_start(&w, A);
    rejoin(A, false);
    ck_assert(!w.node[A].op_ok); /* it doesn't know yet that it has to wait */
    world_follow(&w, A, 1003);
    world_run(&w, 1500);
    replica_view(w.node[A].core, w.now, &v);
    ck_assert(v.rejoin_waits);
    world_free(&w);
}
END_TEST

START_TEST(test_rejoin_merge_brings_what_only_it_has)
{
    uint64_t finished, alone = away_for_eight_days(30, &finished);
    struct store_id before = world_store_id(&w, A);
    world_run(&w, 200);
    rejoin(A, false);
    ck_assert(w.node[A].op_ok);
    world_run(&w, 2000);
    struct store_id after = world_store_id(&w, A);
    ck_assert(!store_id_eq(&before, &after));
    ck_assert(world_has(&w, B, alone));
    ck_assert(!world_has(&w, A, finished)); /* never again: it was delivered and forgotten */
    ck_assert(world_equal(&w));
    struct replica_view v;
    replica_view(w.node[A].core, w.now, &v);
    ck_assert(!v.rejoin_waits);
    world_free(&w);
}
END_TEST

START_TEST(test_rejoin_discard_merges_nothing)
{
    uint64_t finished, alone = away_for_eight_days(31, &finished);
    struct store_id before = world_store_id(&w, A);
    world_run(&w, 200);
    world_rot(&w, B, both);
    rejoin(A, true);
    world_run(&w, 2000);
    struct store_id after = world_store_id(&w, A);
    ck_assert(!store_id_eq(&before, &after));
    struct replica_view v;
    replica_view(w.node[B].core, w.now, &v);
    ck_assert_uint_eq(v.verify.repaired, 1); /* its body was whole only at A */
    ck_assert(!world_has(&w, B, alone) && !world_has(&w, A, alone));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* The operator's word is for the case that was told, not for the next one: here the primary's clock
 * is put right before it is carried out. */
START_TEST(test_an_order_that_was_not_needed_is_forgotten)
{
    uint64_t finished, alone = apart_for_eight_days(32, &finished);
    world_follow(&w, A, 1003);
    world_run(&w, 200);
    w.node[B].core->cfg.retention_ms = UINT64_MAX; /* not that old after all */
    rejoin(A, true);
    ck_assert(w.node[A].op_ok);
    world_run(&w, 2000);
    ck_assert(world_has(&w, B, alone)); /* an ordinary rejoin: it is merged */
    ck_assert_int_eq(w.node[A].core->order, REJOIN_NONE);
    world_free(&w);
}
END_TEST

/* A finished and forgot, alone, what B still has: no change would bring it back. */
START_TEST(test_who_forgot_gets_a_copy)
{
    solo_with_follower(35, 0);
    uint64_t id = add(A);
    world_run(&w, 60);
    world_cut(&w);
    w.node[B].dialling = false;
    uint64_t alone = add(A);
    world_deliver(&w, A, id);
    world_run(&w, 40);
    order(A, PX_STEP_DOWN);
    world_run(&w, 40);
    purge(A);
    ck_assert(!world_has(&w, A, id));
    world_promote(&w, B, 1003, false);
    world_run(&w, 40);
    world_follow(&w, A, 1003);
    world_run(&w, 3000);
    ck_assert(world_has(&w, B, alone));
    ck_assert(world_has(&w, A, id));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* Of a cluster that has been there for longer than `retention`: a copy takes longer than links
 * last, and goes on where it was cut off. Unless something was purged since. */
START_TEST(test_a_copy_goes_on_where_it_was_cut_off)
{
    world_init(&w, 36, 0);
    world_promote(&w, A, 2, false);
    world_run(&w, 40);
    uint64_t old = add(A), late = add(A);
    world_deliver(&w, A, old);
    world_run(&w, 40);
    purge(A);
    ck_assert(!world_has(&w, A, old));
    for (unsigned i = 0; i < 600; i++)
        add(A);
    world_run(&w, 400);
    world_follow(&w, B, 2);
    struct store_id copy = {{0}};
    uint64_t reached = 0;
    for (unsigned i = 0; i < 4; i++) {
        w.node[A].reads_stalled = true;
        world_run(&w, 100);
        w.node[A].reads_stalled = false;
        while (w.node[B].store->cursor <= reached + 40)
            ck_assert(world_step(&w));
        world_cut(&w);
        if (i == 0)
            copy = world_store_id(&w, B);
        struct store_id now = world_store_id(&w, B);
        ck_assert(store_id_eq(&copy, &now));
        reached = w.node[B].store->cursor;
    }
    ck_assert(world_meta(&w, B)->copying);
    w.node[B].dialling = false;
    world_deliver(&w, A, late);
    world_run(&w, 40);
    purge(A);
    w.node[B].dialling = true;
    world_run(&w, 6000);
    struct store_id now = world_store_id(&w, B);
    ck_assert(!store_id_eq(&copy, &now));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

/* A link that breaks in the middle of it doesn't turn the rest into an ordinary catch-up, which
 * would never hear of what was purged. */
START_TEST(test_rejoin_survives_a_broken_link)
{
    for (unsigned frames = 1; frames < 12; frames++) {
        uint64_t finished, alone = away_for_eight_days(40 + frames, &finished);
        world_run(&w, 200);
        rejoin(A, false);
        uint64_t before = w.frames[A] + w.frames[B];
        for (unsigned i = 0; i < 100000 && w.frames[A] + w.frames[B] < before + frames; i++)
            if (!world_step(&w))
                world_run(&w, 20);
        world_cut(&w);
        world_run(&w, 3000);
        ck_assert(world_has(&w, B, alone));
        ck_assert(!world_has(&w, A, finished));
        ck_assert(world_equal(&w));
        world_free(&w);
    }
}
END_TEST

/* Both nodes were started from one file: the follower's gets an id of its own. */
START_TEST(test_a_cloned_store_gets_its_own_id)
{
    paired(22);
    world_crash(&w, B);
    struct store *b = w.node[B].store;
    struct store_meta m = *world_meta(&w, B);
    m.id = world_store_id(&w, A);
    ck_assert_int_eq(b->ops->begin(b), 0);
    ck_assert_int_eq(b->ops->set_meta(b, &m), 0);
    ck_assert_int_eq(b->ops->commit(b), 0);
    drop();
    world_start(&w, B);
    world_follow(&w, B, 2);
    world_run(&w, 2000);
    struct store_id one = world_store_id(&w, A), other = world_store_id(&w, B);
    ck_assert(!store_id_eq(&one, &other));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

static bool verify(unsigned node)
{
    struct replica_event ev = {.type = RE_VERIFY, .op = 2};
    replica_step(w.node[node].core, &ev, w.now, 0);
    return w.node[node].op_ok;
}

/* What a returning node alone has may be nobody's: a comparison that met it before it was merged
 * as quarantined made it queued. */
START_TEST(test_nothing_is_compared_before_it_is_merged)
{
    paired(24);
    w.hold[B] = true;
    uint64_t id = add(A);
    world_run(&w, 100);
    ck_assert(world_has(&w, A, id) && !world_has(&w, B, id));
    world_crash(&w, A);
    w.hold[B] = false;
    world_promote(&w, B, 3, false);
    world_run(&w, 40);
    world_start(&w, A);
    w.node[A].serving_waits = false;
    w.hold[B] = true;
    world_follow(&w, A, 3);
    world_run(&w, 50);
    w.hold[B] = false;
    while (!world_count(&w, B, PE_ATTACHED) && world_step(&w)) {
    }
    ck_assert_uint_eq(world_count(&w, B, PE_ATTACHED), 1);
    ck_assert_uint_eq(world_count(&w, B, PE_MERGED), 0);
    ck_assert(!verify(B));
    world_run(&w, 200);
    ck_assert_uint_eq(world_count(&w, B, PE_MERGED), 1);
    ck_assert_int_eq(world_state(&w, B, id), RCPT_QUARANTINED);
    ck_assert(verify(B));
    world_free(&w);
}
END_TEST

static bool opstate_is(unsigned node, const char *value)
{
    const struct row_opstate *x =
        store_memory_opstate(w.node[node].store, SLICE_LIT("pause/campaign/c"));
    return x && slice_eq(x->value, slice_str(value));
}

/* B was away for eight days and has nothing of its own. */
static uint64_t away_without_changes(unsigned seed)
{
    solo_with_follower(seed, 0);
    uint64_t finished = add(A);
    world_run(&w, 60);
    world_crash(&w, B);
    world_deliver(&w, A, finished);
    world_run(&w, 40);
    w.now += 8ull * 86400 * 1000000000;
    return finished;
}

static void comes_back(void)
{
    add(A);
    world_follow(&w, B, 2);
    world_run(&w, 2000);
    ck_assert(world_equal(&w));
}

/* What was finished is forgotten here, and no change tells it: a copy, by itself. */
START_TEST(test_away_for_too_long_without_changes_gets_a_copy)
{
    uint64_t finished = away_without_changes(21);
    world_say(&w, A, "purge", "9999999999999");
    world_run(&w, 40);
    ck_assert(!world_has(&w, A, finished) && world_has(&w, B, finished));
    struct store_id before = world_store_id(&w, B);
    world_start(&w, B);
    comes_back();
    ck_assert(!world_has(&w, B, finished));
    struct store_id after = world_store_id(&w, B);
    ck_assert(!store_id_eq(&before, &after));
    world_free(&w);
}
END_TEST

/* Nothing was forgotten, whatever the clocks say: it catches up, and keeps what it has. */
START_TEST(test_away_for_long_but_nothing_was_purged)
{
    uint64_t finished = away_without_changes(24);
    struct store_id before = world_store_id(&w, B);
    world_start(&w, B);
    comes_back();
    ck_assert_int_eq(world_state(&w, B, finished), RCPT_DELIVERED);
    struct store_id after = world_store_id(&w, B);
    ck_assert(store_id_eq(&before, &after));
    world_free(&w);
}
END_TEST

/* It has begun to catch up when the purge comes, and hasn't heard of what was finished: a copy
 * after all, and not only because it was on that link. */
START_TEST(test_a_purge_ends_a_late_catch_up)
{
    uint64_t finished = away_without_changes(28);
    struct store_id before = world_store_id(&w, B);
    w.node[A].reads_stalled = true;
    world_start(&w, B);
    world_follow(&w, B, 2);
    world_run(&w, 200);
    ck_assert_uint_eq(world_count(&w, A, PE_ATTACHED), 2);
    world_say(&w, A, "purge", "9999999999999");
    world_run(&w, 40);
    w.node[A].reads_stalled = false;
    world_run(&w, 3000);
    ck_assert(!world_has(&w, A, finished) && !world_has(&w, B, finished));
    ck_assert(world_equal(&w));
    struct store_id after = world_store_id(&w, B);
    ck_assert(!store_id_eq(&before, &after));
    world_free(&w);
}
END_TEST

/* It may be taken over with at that moment: the store isn't emptied before the pair core says so,
 * nor when the link on which it was planned is gone. */
START_TEST(test_a_store_is_emptied_when_it_may_be)
{
    away_without_changes(25);
    world_say(&w, A, "purge", "9999999999999");
    world_start(&w, B);
    w.node[B].keeps_store = true;
    world_follow(&w, B, 2);
    world_run(&w, 300);
    ck_assert(w.node[B].wants_to_empty && !world_meta(&w, B)->copying);
    /* That of before, and one that ended when A looked at what it had forgotten. */
    ck_assert_uint_eq(world_count(&w, A, PE_ATTACHED), 2);
    w.node[B].dialling = false;
    world_cut(&w);
    ck_assert(!w.node[B].wants_to_empty);
    world_run(&w, 100);
    ck_assert(!world_meta(&w, B)->copying);
    /* Once storage has it to do, a link that breaks takes nothing back. */
    w.node[B].keeps_store = false;
    w.hold[A] = true; /* its HELLO */
    world_follow(&w, B, 2);
    world_run(&w, 50);
    w.hold[A] = false;
    while (!w.node[B].wants_to_empty && world_step(&w)) {
    }
    w.node[B].stalled = true;
    while (!w.node[B].jobs && world_step(&w)) {
    }
    ck_assert(w.node[B].jobs);
    world_cut(&w);
    ck_assert(w.node[B].wants_to_empty && !world_meta(&w, B)->copying);
    w.node[B].stalled = false;
    comes_back();
    world_free(&w);
}
END_TEST

/* A paused a campaign that B never heard of. B is primary now, gets that from A, and its operator
 * resumes before A was fed a row of it: all that A hears is the newer word, while its own is still
 * marked, since MERGED waits for A to have what was merged. */
START_TEST(test_a_newer_word_while_the_older_is_uploaded)
{
    solo_with_follower(26, 0);
    world_cut(&w);
    w.node[B].dialling = false;
    world_say(&w, A, "pause/campaign/c", "on");
    world_run(&w, 60);
    order(A, PX_STEP_DOWN);
    w.node[B].serving_waits = w.node[B].reads_stalled = true;
    world_promote(&w, B, 1003, true);
    world_run(&w, 60);
    world_follow(&w, A, 1003);
    world_run(&w, 200);
    ck_assert(opstate_is(B, "on"));
    world_say(&w, B, "pause/campaign/c", "");
    world_run(&w, 60);
    w.node[B].reads_stalled = false;
    world_run(&w, 500);
    ck_assert(world_report(&w, B, PE_MERGED));
    ck_assert(opstate_is(B, "") && opstate_is(A, ""));
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

static void refused_hello(struct frame_hello h, const char *about)
{
    struct replica_event up = {.type = RE_LINK_UP, .link = 900};
    replica_step(w.node[A].core, &up, w.now, 0);
    struct buf b;
    buf_init(&b, FRAME_SMALL_MAX);
    ck_assert(hello_encode(&b, &h));
    unsigned logs = (unsigned)w.node[A].logs;
    struct replica_event ev = {
        .type = RE_FRAME, .link = 900, .frame = FRAME_HELLO, .payload = buf_slice(&b)};
    replica_step(w.node[A].core, &ev, w.now, 0);
    struct replica_view v;
    replica_view(w.node[A].core, w.now, &v);
    ck_assert_msg(!v.attached && w.node[A].logs == logs + 1, "%s", about);
    buf_free(&b);
}

START_TEST(test_strangers_are_refused_with_a_line)
{
    world_init(&w, 21, 0);
    world_promote(&w, A, 2, false);
    world_run(&w, 40);
    struct frame_hello good = {.version = PROTOCOL_OLDEST,
                               .speaks = PROTOCOL,
                               .cluster = SLICE_LIT("test"),
                               .node = B,
                               .epoch = 2};
    struct frame_hello h = good;
    h.version = PROTOCOL + 1; /* a release two further writes its HELLO so */
    refused_hello(h, "version");
    h = good;
    h.speaks = PROTOCOL + 2; /* it reads nothing that this one writes */
    refused_hello(h, "speaks");
    h = good;
    h.cluster = SLICE_LIT("other");
    refused_hello(h, "cluster");
    h = good;
    h.node = A;
    refused_hello(h, "node");
    world_free(&w);
}
END_TEST

/* Bytes from the link are never trusted, even after the handshake. */
START_TEST(test_garbage_closes_the_link)
{
    paired(22);
    struct rng rng = {77};
    for (unsigned i = 0; i < 500; i++) {
        uint8_t junk[64];
        size_t n = rng_below(&rng, sizeof junk);
        for (size_t k = 0; k < n; k++)
            junk[k] = (uint8_t)rng_u64(&rng);
        unsigned to = (unsigned)rng_below(&rng, 2);
        struct replica_event ev = {.type = RE_FRAME,
                                   .link = w.id[to],
                                   .frame = (uint8_t)rng_below(&rng, 12),
                                   .payload = slice_of(junk, n)};
        replica_step(w.node[to].core, &ev, w.now, 0);
        world_run(&w, 20);
    }
    w.node[A].serving_waits = false;
    world_run(&w, 200);
    ck_assert(world_equal(&w));
    world_free(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("replica");
    TCase *t = tcase_create("transcripts");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_a_single_node_commits_what_is_durable);
    tcase_add_test(t, test_solo_then_copy_then_ring);
    tcase_add_test(t, test_paired_waits_for_the_standby);
    tcase_add_test(t, test_settled_is_received);
    tcase_add_test(t, test_notes_are_known_before_the_dot_and_listed_at_a_takeover);
    tcase_add_test(t, test_a_restarted_primary_is_told_what_it_had_noted);
    tcase_add_test(t, test_notes_are_told_anew_at_each_attachment);
    tcase_add_test(t, test_a_standby_taken_back_knows_of_open_dots);
    tcase_add_test(t, test_a_merged_attempt_leaves_open_dots_in_doubt);
    tcase_add_test(t, test_a_note_during_a_merge_is_of_the_next_attempt);
    tcase_add_test(t, test_slow_standby_is_reported_and_dropped);
    tcase_add_test(t, test_drop_releases_only_after_its_row);
    tcase_add_test(t, test_detached_while_waiting_is_slow);
    tcase_add_test(t, test_incident_1_given_up_take_back_stays_strict);
    tcase_add_test(t, test_incident_2_changes_during_catch_up);
    tcase_add_test(t, test_incident_3_standby_ahead_of_a_restarted_primary);
    tcase_add_test(t, test_incident_5_history_tells_the_modes_on_both);
    tcase_add_test(t, test_incident_6_committed_at_a_restart);
    tcase_add_test(t, test_incident_7_another_store_during_take_back);
    tcase_add_test(t, test_incident_8_foreign_store_does_not_count);
    tcase_add_test(t, test_incident_17_outcome_only_at_the_standby);
    tcase_add_test(t, test_incident_20_promoted_with_unmerged_rows);
    tcase_add_test(t, test_incident_32_failed_transaction_after_shipping);
    tcase_add_test(t, test_switchover_drains_and_loses_nothing);
    tcase_add_test(t, test_step_down_stops_counting);
    tcase_add_test(t, test_step_down_keeps_what_is_committed);
    tcase_add_test(t, test_what_is_committed_later_commits_nothing_earlier);
    tcase_add_test(t, test_promotion_ends_acknowledging);
    tcase_add_test(t, test_lost_data_gets_a_full_copy);
    tcase_add_test(t, test_lost_data_is_told_by_what_is_shared);
    tcase_add_test(t, test_a_primary_that_was_rolled_back_gets_all_back);
    tcase_add_test(t, test_falls_out_of_the_ring);
    tcase_add_test(t, test_away_for_longer_than_retention_waits_for_the_operator);
    tcase_add_test(t, test_rejoin_merge_brings_what_only_it_has);
    tcase_add_test(t, test_rejoin_discard_merges_nothing);
    tcase_add_test(t, test_an_order_that_was_not_needed_is_forgotten);
    tcase_add_test(t, test_who_forgot_gets_a_copy);
    tcase_add_test(t, test_a_copy_goes_on_where_it_was_cut_off);
    tcase_add_test(t, test_rejoin_survives_a_broken_link);
    tcase_add_test(t, test_away_for_too_long_without_changes_gets_a_copy);
    tcase_add_test(t, test_away_for_long_but_nothing_was_purged);
    tcase_add_test(t, test_a_purge_ends_a_late_catch_up);
    tcase_add_test(t, test_a_store_is_emptied_when_it_may_be);
    tcase_add_test(t, test_a_newer_word_while_the_older_is_uploaded);
    tcase_add_test(t, test_a_cloned_store_gets_its_own_id);
    tcase_add_test(t, test_nothing_is_compared_before_it_is_merged);
    tcase_add_test(t, test_strangers_are_refused_with_a_line);
    tcase_add_test(t, test_garbage_closes_the_link);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
