/* Hooks run beside the daemon, in order, with their time limit, and not for a daemon that died. */
#include <check.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include "node/base/clock_posix.h"
#include "node/hooks_posix.h"

static char dir[64], script[96], out[96];

static void put(const char *text)
{
    FILE *f = fopen(script, "w");
    ck_assert_ptr_nonnull(f);
    fprintf(f, "#!/bin/sh\nout=%s\n%s\n", out, text);
    fclose(f);
    ck_assert_int_eq(chmod(script, 0755), 0);
}

static void setup(void)
{
    snprintf(dir, sizeof dir, "/tmp/baton-hooks-XXXXXX");
    ck_assert_ptr_nonnull(mkdtemp(dir));
    snprintf(script, sizeof script, "%s/hook", dir);
    snprintf(out, sizeof out, "%s/out", dir);
}

static void teardown(void)
{
    unlink(script);
    unlink(out);
    rmdir(dir);
}

static const char *result(void)
{
    static char text[1000];
    FILE *f = fopen(out, "r");
    size_t n = f ? fread(text, 1, sizeof text - 1, f) : 0;
    text[n] = 0;
    if (f)
        fclose(f);
    return text;
}

static bool wait_for(const char *text, unsigned ms)
{
    uint64_t until = clock_boot_ns() + ms * 1000000ull;
    while (!strstr(result(), text)) {
        if (clock_boot_ns() > until)
            return false;
        poll(NULL, 0, 10);
    }
    return true;
}

static struct hooks *start(unsigned limit_ms)
{
    static char cluster[] = "mail-1";
    struct config c = {.cluster = cluster, .node = 'b'};
    c.hooks.promoted = c.hooks.solo = script;
    char err[200];
    struct hooks *h = hooks_start(&c, limit_ms, err, sizeof err);
    ck_assert_msg(h != NULL, "%s", err);
    return h;
}

START_TEST(test_environment_and_order)
{
    put("echo $1 $BATON_HOOK $BATON_NODE $BATON_CLUSTER $BATON_EPOCH $BATON_ROLE >>$out");
    struct hooks *h = start(10000);
    hooks_run(h, HOOK_PROMOTED, 7);
    hooks_run(h, HOOK_DEMOTED, 8); /* has no command */
    hooks_run(h, HOOK_SOLO, 9);
    hooks_stop(h, 10000);
    ck_assert_str_eq(result(),
                     "promoted promoted b mail-1 7 primary\nsolo solo b mail-1 9 primary\n");
}
END_TEST

START_TEST(test_time_limit_kills_the_whole_group)
{
    put("if [ $1 = promoted ]; then (sleep 60; echo late >>$out) & sleep 60; fi; echo $1 >>$out");
    struct hooks *h = start(300);
    uint64_t t = clock_boot_ns();
    hooks_run(h, HOOK_PROMOTED, 1);
    hooks_run(h, HOOK_SOLO, 1);
    ck_assert(clock_boot_ns() - t < 200000000ull); /* doesn't wait for the hook */
    hooks_stop(h, 10000);
    ck_assert(clock_boot_ns() - t >= 300000000ull);
    ck_assert_str_eq(result(), "solo\n");
}
END_TEST

START_TEST(test_a_command_is_killed_by_order)
{
    put("echo $1 >>$out; if [ $1 = promoted ]; then sleep 60; echo late >>$out; fi");
    struct hooks *h = start(60000);
    hooks_kill(h); /* nothing runs yet, and what comes later isn't meant */
    hooks_run(h, HOOK_PROMOTED, 1);
    ck_assert(wait_for("promoted", 5000));
    hooks_kill(h);
    hooks_run(h, HOOK_SOLO, 1);
    uint64_t t = clock_boot_ns();
    hooks_stop(h, 30000);
    ck_assert(clock_boot_ns() - t < 25000000000ull);
    ck_assert_str_eq(result(), "promoted\nsolo\n");
}
END_TEST

START_TEST(test_a_dead_daemon_ends_its_hooks)
{
    put("echo started $$ >>$out; sleep 5; echo ended >>$out");
    pid_t daemon = fork();
    if (daemon == 0) {
        struct hooks *h = start(10000);
        hooks_run(h, HOOK_PROMOTED, 1);
        hooks_run(h, HOOK_SOLO, 1);
        pause();
    }
    ck_assert(wait_for("started", 5000));
    int hook = atoi(result() + strlen("started"));
    ck_assert_int_gt(hook, 1);
    kill(daemon, SIGKILL);
    waitpid(daemon, NULL, 0);
    uint64_t until = clock_boot_ns() + 4000000000ull;
    while (kill(hook, 0) == 0 && clock_boot_ns() < until)
        poll(NULL, 0, 10);
    ck_assert_int_ne(kill(hook, 0), 0);
    ck_assert_ptr_null(strstr(result(), "ended"));
    ck_assert_ptr_null(strstr(strstr(result(), "started") + 1, "started"));
}
END_TEST

START_TEST(test_a_flood_does_not_block)
{
    put("sleep 0.01");
    struct hooks *h = start(10000);
    uint64_t t = clock_boot_ns();
    for (unsigned i = 0; i < 1000; i++)
        hooks_run(h, HOOK_SOLO, i);
    ck_assert(clock_boot_ns() - t < 2000000000ull);
    hooks_stop(h, 0);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("hooks");
    TCase *t = tcase_create("hooks");
    tcase_set_timeout(t, 60);
    tcase_add_checked_fixture(t, setup, teardown);
    tcase_add_test(t, test_environment_and_order);
    tcase_add_test(t, test_time_limit_kills_the_whole_group);
    tcase_add_test(t, test_a_command_is_killed_by_order);
    tcase_add_test(t, test_a_dead_daemon_ends_its_hooks);
    tcase_add_test(t, test_a_flood_does_not_block);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
