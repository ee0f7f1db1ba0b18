/* Bytes that come from a peer are read within their bounds, or refused. */
#include <check.h>
#include <stdlib.h>

#include "node/base/wire.h"

START_TEST(test_round_trip)
{
    struct buf b;
    buf_init(&b, 1000);
    ck_assert(wire_put_u8(&b, 7) && wire_put_u16(&b, 65535) && wire_put_u32(&b, 1u << 31) &&
              wire_put_u64(&b, UINT64_MAX - 1) && wire_put_bytes(&b, SLICE_LIT("hello")));
    struct wire_reader r = wire_read(buf_slice(&b));
    ck_assert_uint_eq(wire_get_u8(&r), 7);
    ck_assert_uint_eq(wire_get_u16(&r), 65535);
    ck_assert_uint_eq(wire_get_u32(&r), 1u << 31);
    ck_assert(wire_get_u64(&r) == UINT64_MAX - 1);
    ck_assert(slice_eq(wire_get_bytes(&r, 5), SLICE_LIT("hello")));
    ck_assert(wire_done(&r));
    buf_free(&b);
}
END_TEST

START_TEST(test_short_or_oversized_input_is_bad)
{
    struct wire_reader r = wire_read(slice_of("\0\0\0\5hell", 8));
    ck_assert_uint_eq(wire_get_bytes(&r, 100).n, 0);
    ck_assert(r.bad);
    r = wire_read(slice_of("\0\0\0\5hello", 9));
    wire_get_bytes(&r, 4);
    ck_assert(r.bad);
    r = wire_read(slice_of("\1", 1));
    ck_assert_uint_eq(wire_get_u64(&r), 0);
    ck_assert(r.bad && !wire_done(&r));
}
END_TEST

START_TEST(test_cap_holds)
{
    struct buf b;
    buf_init(&b, 8);
    ck_assert(!wire_put_bytes(&b, SLICE_LIT("hello")));
    ck_assert_uint_eq(b.len, 0);
    ck_assert(wire_put_u64(&b, 1));
    ck_assert(!wire_put_u8(&b, 1));
    buf_free(&b);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("wire");
    TCase *t = tcase_create("wire");
    tcase_add_test(t, test_round_trip);
    tcase_add_test(t, test_short_or_oversized_input_is_bad);
    tcase_add_test(t, test_cap_holds);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
