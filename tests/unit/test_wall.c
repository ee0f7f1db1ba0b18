/* What a wall clock may decide (health/wall.h; protocol 6, incident 27). */
#include <check.h>
#include <stdlib.h>

#include "health/wall.h"

#define SEC  UINT64_C(1000000000)
#define HOUR (3600 * SEC)

static const int64_t wall_ms = 1700000000000;

/* The other's clock was heard at second 5 of ours, when our wall clock said wall_ms. */
static struct pair_view heard(int64_t skew_ms)
{
    return (struct pair_view){.silent_ns = SEC, .peer_wall_base_ms = wall_ms + skew_ms - 5000};
}

/* Our wall clock goes on with the other one. */
static bool may_expire(const struct pair_view *v, uint64_t serving_ns, uint64_t now_ns)
{
    return wall_may_expire(v, serving_ns, now_ns, wall_ms + (int64_t)(now_ns / 1000000) - 5000);
}

START_TEST(test_clocks_that_agree_may_expire_at_once)
{
    struct pair_view v = heard(59000);
    ck_assert(may_expire(&v, 5 * SEC, 6 * SEC));
    v = heard(-59000);
    ck_assert(may_expire(&v, 5 * SEC, 6 * SEC));
}
END_TEST

/* b's clock is six days ahead; it takes over, and all queued mail looks expired. */
START_TEST(test_clocks_apart_wait_an_hour)
{
    struct pair_view v = heard(-6 * 86400000ll);
    ck_assert(!may_expire(&v, 5 * SEC, 6 * SEC));
    ck_assert(!may_expire(&v, 5 * SEC, 5 * SEC + HOUR));
    ck_assert(may_expire(&v, 5 * SEC, 6 * SEC + HOUR));
}
END_TEST

/* It took over, its process died and came back while the other node is still away: nothing is known
 * of the other clock in this life, nor that there was a takeover. */
START_TEST(test_a_restart_after_a_takeover_waits_as_well)
{
    struct pair_view v = {.silent_ns = UINT64_MAX};
    ck_assert(!may_expire(&v, 5 * SEC, 6 * SEC));
    ck_assert(may_expire(&v, 5 * SEC, 6 * SEC + HOUR));
}
END_TEST

/* The machine slept, its clock was set wrong meanwhile, and nothing was heard of the other since.
 */
START_TEST(test_a_jump_of_the_own_clock_is_seen_at_once)
{
    struct pair_view v = heard(0);
    ck_assert(may_expire(&v, 5 * SEC, 6 * SEC));
    ck_assert(!wall_may_expire(&v, 5 * SEC, 6 * SEC, wall_ms + 1000 + 7 * 3600000));
}
END_TEST

START_TEST(test_who_does_not_serve_expires_nothing)
{
    struct pair_view v = heard(0);
    ck_assert(!may_expire(&v, 0, 6 * HOUR));
}
END_TEST

int main(void)
{
    Suite *s = suite_create("wall");
    TCase *t = tcase_create("wall");
    tcase_add_test(t, test_clocks_that_agree_may_expire_at_once);
    tcase_add_test(t, test_clocks_apart_wait_an_hour);
    tcase_add_test(t, test_a_restart_after_a_takeover_waits_as_well);
    tcase_add_test(t, test_a_jump_of_the_own_clock_is_seen_at_once);
    tcase_add_test(t, test_who_does_not_serve_expires_nothing);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
