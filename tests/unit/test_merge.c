/* The merge rule: in whatever order, however often, both nodes come to the same content. */
#include <check.h>
#include <stdlib.h>

#include "replication/merge.h"

static unsigned seed = 1;
static unsigned rnd(unsigned n)
{
    seed = seed * 1103515245u + 12345u;
    return (seed >> 8) % n;
}

static struct row_recipient random_recipient(void)
{
    static const char *const replies[] = {"", "250 ok", "550 no"};
    struct row_recipient r = {.id = 1, .pos = {4 + rnd(2), 1 + rnd(4)}};
    r.state = (uint8_t)rnd(8);
    r.held = !rcpt_terminal(r.state) && rnd(2);
    r.in_doubt = (uint8_t)(rcpt_terminal(r.state) ? 0 : rnd(3));
    if (r.in_doubt == DOUBT_YES && rnd(2))
        r.held |= rnd(2) ? HELD_IN_DOUBT : HELD_DOUBT;
    r.attempts = rnd(2);
    r.next_ms = rnd(3);
    r.code = (uint16_t)(rnd(2) ? 250 : 0);
    r.reply = slice_str(replies[rnd(3)]);
    return r;
}

static bool same_recipient(struct row_recipient a, struct row_recipient b)
{
    return a.state == b.state && a.held == b.held && a.in_doubt == b.in_doubt &&
           a.attempts == b.attempts && a.next_ms == b.next_ms && a.code == b.code &&
           slice_eq(a.reply, b.reply) && pos_cmp(a.pos, b.pos) == 0;
}

static struct row_recipient merged(struct row_recipient a, struct row_recipient b)
{
    struct row_recipient out;
    merge_recipient(&a, &b, &out);
    return out;
}

START_TEST(test_recipients_commute)
{
    for (unsigned i = 0; i < 20000; i++) {
        struct row_recipient a = random_recipient(), b = random_recipient();
        ck_assert(same_recipient(merged(a, b), merged(b, a)));
        ck_assert(same_recipient(merged(a, a), a));
        ck_assert(same_recipient(merged(merged(a, b), b), merged(a, b)));
    }
}
END_TEST

START_TEST(test_recipients_associate)
{
    for (unsigned i = 0; i < 20000; i++) {
        struct row_recipient a = random_recipient(), b = random_recipient(), c = random_recipient();
        ck_assert(same_recipient(merged(merged(a, b), c), merged(a, merged(b, c))));
    }
}
END_TEST

START_TEST(test_terminal_never_goes_back)
{
    for (unsigned i = 0; i < 20000; i++) {
        struct row_recipient a = random_recipient(), b = random_recipient(), c = merged(a, b);
        if (rcpt_terminal(a.state) || rcpt_terminal(b.state))
            ck_assert(rcpt_terminal(c.state));
        if (a.state == RCPT_DELIVERED || b.state == RCPT_DELIVERED)
            ck_assert_int_eq(c.state, RCPT_DELIVERED);
        if (rcpt_terminal(c.state))
            continue;
        ck_assert_int_eq(c.held & HELD_OPERATOR, (a.held | b.held) & HELD_OPERATOR);
        ck_assert(!(c.held & HELD_IN_DOUBT) || c.in_doubt == DOUBT_YES);
    }
}
END_TEST

START_TEST(test_an_outcome_settles_what_is_in_doubt)
{
    struct row_recipient old = {.id = 1, .pos = {4, 70}, .state = RCPT_QUEUED, .attempts = 3};
    struct row_recipient doubt = {.id = 1,
                                  .pos = {5, 90},
                                  .state = RCPT_QUEUED,
                                  .held = HELD_IN_DOUBT,
                                  .in_doubt = DOUBT_YES,
                                  .attempts = 2};
    struct row_recipient c = merged(doubt, old); /* tried again, and deferred */
    ck_assert(c.in_doubt == DOUBT_NONE && !c.held && c.attempts == 3);
    old.attempts = 2; /* as it was before */
    c = merged(doubt, old);
    ck_assert(c.in_doubt == DOUBT_YES && c.held == HELD_IN_DOUBT);
    old.pos.epoch = 6; /* nor does a newer row that knows of no outcome */
    c = merged(old, doubt);
    ck_assert(c.in_doubt == DOUBT_YES && c.held == HELD_IN_DOUBT);
    /* An attempt of the one store; the other has made as many of its own, and knows those. */
    old.attempts = 3;
    doubt.held = HELD_DOUBT;
    c = merged(doubt, old);
    ck_assert(c.in_doubt == DOUBT_YES && c.held == HELD_DOUBT && c.attempts == 3);
    old.state = RCPT_DELIVERED;
    c = merged(doubt, old);
    ck_assert(c.state == RCPT_DELIVERED && !c.held);
}
END_TEST

START_TEST(test_opstate_commutes_and_associates)
{
    static const char *const values[] = {"", "y", "z"};
    for (unsigned i = 0; i < 20000; i++) {
        struct row_opstate x[3], ab, ba, abc, bc, abc2;
        for (unsigned k = 0; k < 3; k++)
            x[k] = (struct row_opstate){.key = SLICE_LIT("pause/campaign/x"),
                                        .value = slice_str(values[rnd(3)]),
                                        .pos = {4, 1 + rnd(3)}};
        merge_opstate(&x[0], &x[1], &ab);
        merge_opstate(&x[1], &x[0], &ba);
        ck_assert(slice_eq(ab.value, ba.value));
        ck_assert(ab.value.n > 0 || (!x[0].value.n && !x[1].value.n));
        merge_opstate(&ab, &x[2], &abc);
        merge_opstate(&x[1], &x[2], &bc);
        merge_opstate(&x[0], &bc, &abc2);
        ck_assert(slice_eq(abc.value, abc2.value));
    }
}
END_TEST

START_TEST(test_messages)
{
    struct row_message a = {.id = 1, .pos = {4, 9}, .born = {4, 9}, .size = 3};
    struct row_message done = a, other = a, out;
    bool same;
    done.state = MESSAGE_DONE;
    done.done_ms = 77;
    done.pos = (struct pos){4, 20};
    a.body = SLICE_LIT("abc");
    merge_message(&a, &done, &out, &same);
    ck_assert(same && out.state == MESSAGE_DONE && out.body.n == 0 && out.pos.lsn == 20);
    merge_message(&done, &a, &out, &same);
    ck_assert(same && out.state == MESSAGE_DONE && out.body.n == 0 && out.pos.lsn == 20);
    other.sha256[5] = 1;
    merge_message(&a, &other, &out, &same);
    ck_assert(!same);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("merge");
    TCase *t = tcase_create("merge");
    tcase_set_timeout(t, 60);
    tcase_add_test(t, test_recipients_commute);
    tcase_add_test(t, test_recipients_associate);
    tcase_add_test(t, test_terminal_never_goes_back);
    tcase_add_test(t, test_an_outcome_settles_what_is_in_doubt);
    tcase_add_test(t, test_opstate_commutes_and_associates);
    tcase_add_test(t, test_messages);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
