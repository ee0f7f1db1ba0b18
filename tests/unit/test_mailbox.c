/* A mailbox: in order, from any thread; what is posted quietly comes with what isn't. */
#include <check.h>
#include <stdlib.h>

#include "node/base/buf.h"
#include "node/base/mailbox_uv.h"

static uv_loop_t loop;
static struct mailbox *mb;
static char seen[16];
static unsigned n;

static void on_mail(void *ctx, struct mail *m)
{
    (void)ctx;
    ck_assert_uint_lt(n, sizeof seen - 1);
    seen[n++] = (char)m->type;
    seen[n] = 0;
    free(m);
}

static struct mail *mail(char type)
{
    struct mail *m = xcalloc(1, sizeof *m);
    m->type = type;
    return m;
}

static void set_up(void)
{
    n = 0;
    seen[0] = 0;
    uv_loop_init(&loop);
    mb = mailbox_new(&loop, on_mail, NULL);
}

static void tear_down(void)
{
    mailbox_close(mb);
    uv_run(&loop, UV_RUN_DEFAULT);
    ck_assert_int_eq(uv_loop_close(&loop), 0);
}

static void turn(void)
{
    uv_run(&loop, UV_RUN_NOWAIT);
    uv_run(&loop, UV_RUN_NOWAIT);
}

START_TEST(test_quiet_mail_comes_with_the_next)
{
    mailbox_post_quietly(mb, mail('a'));
    mailbox_post_quietly(mb, mail('b'));
    turn();
    ck_assert_str_eq(seen, "");
    mailbox_post(mb, mail('c'));
    mailbox_post_quietly(mb, mail('d'));
    uv_run(&loop, UV_RUN_ONCE);
    ck_assert_str_eq(seen, "abcd");
    mailbox_post(mb, mail('e')); /* wakes anew */
    uv_run(&loop, UV_RUN_ONCE);
    ck_assert_str_eq(seen, "abcde");
}
END_TEST

START_TEST(test_drained)
{
    mailbox_post_quietly(mb, mail('a'));
    mailbox_drain(mb);
    ck_assert_str_eq(seen, "a");
    mailbox_post(mb, mail('b'));
    mailbox_drain(mb);
    turn();
    ck_assert_str_eq(seen, "ab"); /* once */
    mailbox_post(mb, mail('c'));
    uv_run(&loop, UV_RUN_ONCE);
    ck_assert_str_eq(seen, "abc");
}
END_TEST

START_TEST(test_what_is_not_read_is_freed) /* the sanitizers look */
{
    mailbox_post_quietly(mb, mail('a'));
    mailbox_post(mb, mail('b'));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("mailbox");
    TCase *t = tcase_create("mailbox");
    tcase_add_checked_fixture(t, set_up, tear_down);
    tcase_add_test(t, test_quiet_mail_comes_with_the_next);
    tcase_add_test(t, test_drained);
    tcase_add_test(t, test_what_is_not_read_is_freed);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
