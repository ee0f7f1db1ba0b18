/* The judgement without an arbiter (protocol 5, "arbiter = none"), in virtual time: what it votes
 * for on which grounds, when it is silent, and what the fence command has to say in it. Then two
 * registers with a judgement each: what becomes of records that were accepted apart. */
#include <check.h>
#include <stdlib.h>

#include "health/register_none.h"

#define MS(n) ((uint64_t)(n)*1000000u)

static struct {
    struct judge *j;
    uint64_t now;
    bool probe_answers; /* what probes will find */
    bool probe_due;
    unsigned votes, give_ups, fences, fences_ended;
    enum judgement judged;
    struct register_msg vote;
} w;

static void on_judge(void *ctx, const struct judge_fx *fx)
{
    (void)ctx;
    switch (fx->type) {
    case JUDGE_FX_VOTE:
        w.votes++;
        w.vote = fx->msg;
        break;
    case JUDGE_FX_GIVE_UP:
        w.give_ups++;
        break;
    case JUDGE_FX_PROBE:
        w.probe_due = true;
        break;
    case JUDGE_FX_FENCE:
        w.fences++;
        break;
    case JUDGE_FX_FENCE_END:
        w.fences_ended++;
        break;
    case JUDGE_FX_JUDGED:
        w.judged = fx->judgement;
        break;
    case JUDGE_FX_LOG:
        break;
    }
}

static void begin(bool automatic, bool fence)
{
    struct judge_config c = {
        .automatic = automatic, .probes = automatic, .fence = fence, .takeover_after_ns = MS(1000)};
    memset(&w, 0, sizeof w);
    w.now = MS(100000);
    w.probe_answers = true;
    w.j = judge_new(&c, on_judge, NULL);
}

/* Time passes, probes are answered, the other node is heard, or not. */
static void run(uint64_t ms, bool heard)
{
    for (uint64_t end = w.now + MS(ms); w.now < end; w.now += MS(10)) {
        if (heard && w.now / MS(100) != (w.now - MS(10)) / MS(100))
            judge_heard(w.j, w.now);
        judge_tick(w.j, w.now);
        if (w.probe_due) {
            w.probe_due = false;
            judge_probed(w.j, 0, w.probe_answers, w.now, w.now + MS(5));
        }
    }
}

static void ask(enum warrant warrant)
{
    static uint64_t nonce = 1;
    judge_begin(w.j, warrant, w.now);
    judge_ask(w.j, &(struct register_msg){
                       .type = REG_PREPARE, .nonce = ++nonce, .ballot = {5, NODE_A, 7}});
    w.votes = 0;
}

static void teardown(void)
{
    judge_free(w.j);
    w.j = NULL;
}

START_TEST(test_manual)
{
    begin(false, false);
    run(2000, true);
    ask(WARRANT_SERVING);
    run(100, false);
    ck_assert_uint_eq(w.votes, 0); /* the other node's own answer comes first */
    run(200, false);
    ck_assert_uint_eq(w.votes, 1);
    ck_assert_int_eq(w.vote.type, REG_PROMISE);
    ck_assert_uint_eq(w.vote.record.epoch, 0); /* the node's own row is what counts */
    run(5000, false);
    ask(WARRANT_SILENT);
    run(60000, false);
    ck_assert_uint_eq(w.votes, 0);
    ck_assert_int_eq(w.judged, JUDGED_MANUAL);
    ask(WARRANT_NONE); /* incident 26: a start is no reason */
    run(60000, false);
    ck_assert_uint_eq(w.votes, 0);
    ask(WARRANT_ORDERED);
    run(20, false);
    ck_assert_uint_eq(w.votes, 1);
    ask(WARRANT_GIVEN_UP);
    run(20, false);
    ck_assert_uint_eq(w.votes, 1);
    ask(WARRANT_SERVING);
    judge_end(w.j); /* it has given up its role meanwhile */
    judge_ask(w.j, &w.vote);
    run(5000, false);
    ck_assert_uint_eq(w.votes, 0);
}
END_TEST

/* Somebody says that the other node is dead, and it is heard: starting anew, with a disk too slow
 * for a vote. It may hold what this one doesn't. */
START_TEST(test_no_order_against_a_node_that_is_heard)
{
    begin(false, false);
    ask(WARRANT_ORDERED); /* at once at the start: it couldn't be heard yet */
    run(300, false);
    ck_assert_uint_eq(w.votes, 0);
    run(2000, true);
    ask(WARRANT_ORDERED);
    run(5000, true);
    ck_assert_uint_eq(w.votes, 0);
    run(700, false); /* switched off at last: half of takeover_after, and the vote comes */
    ck_assert_uint_eq(w.votes, 1);
    run(2000, true);
    ask(WARRANT_FORCED);
    run(300, true);
    ck_assert_uint_eq(w.votes, 1);
}
END_TEST

/* It gave up its role, and comes back: what it asks for may have been promised to it. */
START_TEST(test_no_vote_against_a_node_that_asks_itself)
{
    begin(false, false);
    run(2000, true);
    ask(WARRANT_GIVEN_UP);
    judge_received(w.j, &(struct register_msg){.type = REG_PREPARE, .nonce = 1000}, w.now);
    run(900, true);
    ck_assert_uint_eq(w.votes, 0);
    run(300, true); /* nothing came of it */
    ck_assert_uint_eq(w.votes, 1);
}
END_TEST

START_TEST(test_the_other_nodes_answer_decides)
{
    begin(false, false);
    run(2000, true);
    ask(WARRANT_SERVING);
    struct register_msg m = {.type = REG_REFUSED, .nonce = 2};
    for (m.nonce = 0; m.nonce < 100; m.nonce++)
        judge_received(w.j, &m, w.now); /* among them the one that is asked */
    run(5000, false);
    ck_assert_uint_eq(w.votes, 0);
    judge_end(w.j);
    ask(WARRANT_SERVING); /* the next operation is another matter */
    run(300, false);
    ck_assert_uint_eq(w.votes, 1);
}
END_TEST

START_TEST(test_auto_needs_a_probe)
{
    begin(true, false);
    run(3000, true);
    w.probe_answers = false;
    run(1500, false);
    ck_assert_int_eq(w.judged, JUDGED_CUT_OFF);
    ask(WARRANT_SERVING);
    run(5000, false);
    ck_assert_uint_eq(w.votes, 0); /* it may be this node that is cut off */
    ask(WARRANT_SILENT);
    run(500, false);
    ck_assert_uint_eq(w.votes, 0);
    /* Reachable again: silence is counted from there, and the primary moves before the standby. */
    w.probe_answers = true;
    ask(WARRANT_SERVING);
    run(400, false);
    ck_assert_uint_eq(w.votes, 0);
    run(500, false);
    ck_assert_uint_eq(w.votes, 1);
    ck_assert_int_ne(w.judged, JUDGED_GONE);
    run(500, false);
    ck_assert_int_eq(w.judged, JUDGED_GONE);
}
END_TEST

START_TEST(test_auto_takes_over_in_time)
{
    begin(true, false);
    run(3000, true);
    run(1010, false);
    ck_assert_int_eq(w.judged, JUDGED_GONE);
    ask(WARRANT_SILENT);
    run(20, false);
    ck_assert_uint_eq(w.votes, 1);
}
END_TEST

START_TEST(test_auto_an_old_answer_is_none)
{
    begin(true, false);
    run(3000, true);
    /* Answered right before the last sign of life: the network was there then, not since. */
    judge_probed(w.j, 0, true, w.now, w.now + MS(1));
    w.now += MS(2);
    judge_heard(w.j, w.now);
    w.probe_answers = false;
    ask(WARRANT_SERVING);
    run(3000, false);
    ck_assert_uint_eq(w.votes, 0);
}
END_TEST

START_TEST(test_auto_while_it_is_heard)
{
    begin(true, false);
    run(3000, true);
    ask(WARRANT_SERVING); /* a cut in one direction: it may be about to take over */
    run(3000, true);
    ck_assert_uint_eq(w.votes, 0);
}
END_TEST

START_TEST(test_fence)
{
    begin(true, true);
    run(3000, true);
    run(1100, false);
    ask(WARRANT_SILENT);
    run(1500, false);
    ck_assert_uint_eq(w.fences, 0); /* the standby's waits 2 s more */
    run(1000, false);
    ck_assert_uint_eq(w.fences, 1);
    ck_assert_uint_eq(w.votes, 0);
    judge_fenced(w.j, true, w.now);
    run(20, false);
    ck_assert_uint_eq(w.votes, 1);
    ck_assert_uint_eq(w.fences, 1);
}
END_TEST

START_TEST(test_fence_fails)
{
    begin(true, true);
    run(3000, true);
    run(1100, false);
    ask(WARRANT_SILENT);
    run(2500, false);
    judge_fenced(w.j, false, w.now);
    run(50, false);
    ck_assert_uint_eq(w.votes, 0);
    ck_assert_int_eq(w.judged, JUDGED_FENCE_FAILED);
    ck_assert_uint_gt(w.give_ups, 0);
    run(11000, false); /* tried again, later */
    ck_assert_int_eq(w.judged, JUDGED_GONE);
    ask(WARRANT_SILENT);
    run(50, false);
    ck_assert_uint_eq(w.fences, 2);
    run(36000, false); /* nobody tells how it ended: not done */
    ck_assert_uint_eq(w.votes, 0);
}
END_TEST

START_TEST(test_fence_and_the_other_is_back)
{
    begin(true, true);
    run(3000, true);
    run(1100, false);
    ask(WARRANT_SILENT);
    run(2500, false);
    ck_assert_uint_eq(w.fences, 1);
    ck_assert_uint_eq(w.fences_ended, 0);
    run(500, true);
    ck_assert_uint_gt(w.fences_ended, 0); /* it is well: nobody is to shoot it any more */
    ck_assert_uint_gt(w.give_ups, 0);
    judge_fenced(w.j, true, w.now); /* it was not switched off, whatever the command says */
    run(1100, false);
    ask(WARRANT_SILENT);
    run(1000, false);
    ck_assert_uint_eq(w.votes, 0);
}
END_TEST

START_TEST(test_a_fence_command_that_was_ended_says_nothing_of_the_next_silence)
{
    struct judge_view v;
    begin(true, true);
    run(3000, true);
    run(1100, false);
    ask(WARRANT_SILENT);
    run(2500, false);
    run(100, true);
    ck_assert_uint_eq(w.fences_ended, 1);
    judge_fenced(w.j, false, w.now);
    judge_view(w.j, w.now, &v);
    ck_assert_int_eq(v.fence, FENCE_ENDED);
    run(1100, false);
    ck_assert_int_eq(w.judged, JUDGED_GONE);
    ask(WARRANT_SILENT);
    run(2500, false);
    ck_assert_uint_eq(w.fences, 2);
    ck_assert_uint_eq(w.fences_ended, 1);
    judge_fenced(w.j, true, w.now);
    run(20, false);
    ck_assert_uint_eq(w.votes, 1);
}
END_TEST

START_TEST(test_the_primary_shoots_first)
{
    begin(true, true);
    run(3000, true);
    run(700, false);
    ask(WARRANT_SERVING);
    run(20, false);
    ck_assert_uint_eq(w.fences, 1);
    run(500, false);
    ck_assert_uint_eq(w.votes, 0); /* alone only once that has ended */
    judge_fenced(w.j, false, w.now);
    run(20, false);
    ck_assert_uint_eq(w.votes, 1); /* it holds all the mail: by the probe, then */
}
END_TEST

/* ---- two registers ---- */

static struct pairing {
    struct reg *reg[2];
    bool link;
    bool judge_votes[2];
    struct voter_state row[2];
    enum register_outcome outcome[2];
    struct record result[2];
    unsigned results[2];
    struct {
        unsigned from, to;
        struct register_msg msg;
    } queue[256];
    unsigned n;
} p;

static void on_register(void *ctx, const struct register_fx *fx)
{
    unsigned i = (unsigned)(uintptr_t)ctx;
    if (fx->type == REG_FX_PERSIST) {
        p.row[i] = fx->state;
    } else if (fx->type == REG_FX_SEND) {
        ck_assert_uint_lt(p.n, 256);
        p.queue[p.n].from = i;
        p.queue[p.n].to = fx->to;
        p.queue[p.n++].msg = fx->msg;
    } else if (fx->type == REG_FX_RESULT) {
        p.outcome[i] = fx->outcome;
        p.result[i] = fx->record;
        p.results[i]++;
    }
}

static void deliver(uint64_t now)
{
    while (p.n > 0) {
        struct register_msg m = p.queue[0].msg;
        unsigned from = p.queue[0].from, to = p.queue[0].to;
        memmove(p.queue, p.queue + 1, --p.n * sizeof p.queue[0]);
        if (to == WITNESS && p.judge_votes[from]) {
            if (m.type != REG_PREPARE && m.type != REG_ACCEPT)
                continue;
            bool promise = m.type == REG_PREPARE;
            m.type = promise ? REG_PROMISE : REG_ACCEPTED;
            m.accepted = promise ? (struct ballot){0} : m.ballot;
            if (promise)
                m.record = (struct record){.version = 1};
            register_receive(p.reg[from], WITNESS, &m, now);
        } else if (to < NODES && p.link) {
            register_receive(p.reg[to], from, &m, now);
        }
    }
}

static void turn(uint64_t *now, unsigned ms)
{
    for (unsigned t = 0; t < ms; t += 10) {
        *now += MS(10);
        for (unsigned i = 0; i < 2; i++) {
            register_tick(p.reg[i], *now);
            for (unsigned k = 0; k < 3; k++) { /* a write at a time */
                struct voter_state none = {0};
                if (memcmp(&p.row[i], &none, sizeof none) != 0) {
                    p.row[i] = none;
                    register_persisted(p.reg[i], true, *now);
                }
                deliver(*now);
            }
        }
    }
}

static struct record record(uint64_t version, uint32_t epoch, bool a, bool b)
{
    return (struct record){.version = version,
                           .epoch = epoch,
                           .primary = (uint8_t)(epoch % 2),
                           .in_sync = {a, b},
                           .tag = epoch * 100 + version};
}

START_TEST(test_records_that_were_accepted_apart)
{
    memset(&p, 0, sizeof p);
    uint64_t now = MS(1000);
    struct record both = record(3, 4, true, true);
    for (unsigned i = 0; i < 2; i++) {
        struct voter_state s = {.voter_id = 10 + i,
                                .voting = true,
                                .promised = {3, NODE_A, 10},
                                .accepted = {3, NODE_A, 10},
                                .record = both};
        p.reg[i] = register_new(i, &s, false, 99 + i, on_register, (void *)(uintptr_t)i);
        register_set_none(p.reg[i]);
        p.judge_votes[i] = true;
    }
    /* A cut: a drops b, and drops, takes back and drops for a while, so that its ballots lie high;
     * b takes over once. */
    struct record mine = both;
    for (unsigned k = 0; k < 6; k++) {
        struct record to = record(mine.version + 1, 4, true, false);
        ck_assert(register_change(p.reg[0], mine.tag, &to, MS(1000), now));
        turn(&now, 100);
        ck_assert_int_eq(p.outcome[0], REG_DONE);
        mine = to;
    }
    struct record taken = record(4, 5, false, true);
    ck_assert(register_change(p.reg[1], both.tag, &taken, MS(1000), now));
    turn(&now, 100);
    ck_assert_int_eq(p.outcome[1], REG_DONE);
    ck_assert_int_gt(
        ballot_cmp(register_state(p.reg[0])->accepted, register_state(p.reg[1])->accepted), 0);
    /* They meet: the higher epoch goes on, whoever asks first. */
    p.link = true;
    p.judge_votes[0] = p.judge_votes[1] = false;
    struct record stale = record(mine.version + 1, 6, true, false);
    ck_assert(register_change(p.reg[0], mine.tag, &stale, MS(3000), now));
    turn(&now, 1000);
    ck_assert_int_eq(p.outcome[0], REG_MISMATCH);
    ck_assert_uint_eq(p.result[0].tag, taken.tag);
    ck_assert_uint_eq(register_state(p.reg[0])->record.tag, taken.tag);
    ck_assert(register_read(p.reg[1], MS(1000), now));
    turn(&now, 500);
    ck_assert_int_eq(p.outcome[1], REG_DONE);
    ck_assert_uint_eq(p.result[1].tag, taken.tag);
    for (unsigned i = 0; i < 2; i++)
        register_free(p.reg[i]);
}
END_TEST

START_TEST(test_a_late_accept_doesnt_undo_a_takeover)
{
    memset(&p, 0, sizeof p);
    struct voter_state s = {.voter_id = 11,
                            .voting = true,
                            .promised = {6, NODE_B, 11},
                            .accepted = {6, NODE_B, 11},
                            .record = record(4, 5, false, true)};
    p.reg[1] = register_new(NODE_B, &s, false, 1, on_register, (void *)(uintptr_t)1);
    register_set_none(p.reg[1]);
    /* a's drop, in a ballot far above all that b knows, was under way when b took over. */
    struct register_msg m = {.type = REG_ACCEPT,
                             .nonce = 5,
                             .ballot = {40, NODE_A, 10},
                             .record = record(9, 4, true, false)};
    register_receive(p.reg[1], NODE_A, &m, MS(5));
    ck_assert_uint_eq(register_state(p.reg[1])->record.epoch, 5);
    ck_assert_uint_eq(p.n, 1);
    ck_assert_int_eq(p.queue[0].msg.type, REG_REFUSED);
    register_free(p.reg[1]);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("none");
    TCase *j = tcase_create("judgement");
    tcase_add_checked_fixture(j, NULL, teardown);
    tcase_add_test(j, test_manual);
    tcase_add_test(j, test_no_order_against_a_node_that_is_heard);
    tcase_add_test(j, test_no_vote_against_a_node_that_asks_itself);
    tcase_add_test(j, test_the_other_nodes_answer_decides);
    tcase_add_test(j, test_auto_needs_a_probe);
    tcase_add_test(j, test_auto_takes_over_in_time);
    tcase_add_test(j, test_auto_an_old_answer_is_none);
    tcase_add_test(j, test_auto_while_it_is_heard);
    tcase_add_test(j, test_fence);
    tcase_add_test(j, test_fence_fails);
    tcase_add_test(j, test_fence_and_the_other_is_back);
    tcase_add_test(j, test_a_fence_command_that_was_ended_says_nothing_of_the_next_silence);
    tcase_add_test(j, test_the_primary_shoots_first);
    suite_add_tcase(s, j);
    TCase *r = tcase_create("registers");
    tcase_add_test(r, test_records_that_were_accepted_apart);
    tcase_add_test(r, test_a_late_accept_doesnt_undo_a_takeover);
    suite_add_tcase(s, r);
    SRunner *sr = srunner_create(s);
    srunner_run_all(sr, CK_NORMAL);
    int failed = srunner_ntests_failed(sr);
    srunner_free(sr);
    return failed > 0;
}
