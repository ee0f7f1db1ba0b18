/* Addresses, parameters and header lines are read as the RFCs have them, and nothing else passes.
 */
#include <check.h>
#include <stdlib.h>

#include "node/smtp/address.h"
#include "node/smtp/header.h"
#include "node/smtp/params.h"
#include "replication/row.h"

static bool parse(const char *text, bool reverse, struct smtp_path *p)
{
    struct slice in = slice_str(text);
    return smtp_path_parse(&in, reverse, p) && in.n == 0;
}

START_TEST(test_good_paths)
{
    static const struct {
        const char *in, *address, *domain;
    } good[] = {
        {"<a@example.com>", "a@example.com", "example.com"},
        {"<A.b+tag@Example.COM>", "A.b+tag@Example.COM", "Example.COM"},
        {"<\"a b\"@x>", "\"a b\"@x", "x"},
        {"<\"a\\\"<>@b\"@x.org>", "\"a\\\"<>@b\"@x.org", "x.org"},
        {"<\"\"@x>", "\"\"@x", "x"},
        {"<@a.example,@b.example:c@d.example>", "c@d.example", "d.example"},
        {"<u@[192.0.2.1]>", "u@[192.0.2.1]", "[192.0.2.1]"},
        {"<u@[IPv6:2001:db8::1]>", "u@[IPv6:2001:db8::1]", "[IPv6:2001:db8::1]"},
        {"<u@[IPv6:::]>", "u@[IPv6:::]", "[IPv6:::]"},
        {"<u@[IPv6:::ffff:192.0.2.1]>", "u@[IPv6:::ffff:192.0.2.1]", "[IPv6:::ffff:192.0.2.1]"},
        {"<u@[IPv6:1:2:3:4:5:6:7:8]>", "u@[IPv6:1:2:3:4:5:6:7:8]", "[IPv6:1:2:3:4:5:6:7:8]"},
        {"<u@a_b.example>", "u@a_b.example", "a_b.example"},
        {"<j\xc3\xb6rg@b\xc3\xbc"
         "cher.example>",
         "j\xc3\xb6rg@b\xc3\xbc"
         "cher.example",
         "b\xc3\xbc"
         "cher.example"},
    };
    for (size_t i = 0; i < sizeof good / sizeof good[0]; i++) {
        struct smtp_path p;
        ck_assert_msg(parse(good[i].in, false, &p), "%s", good[i].in);
        ck_assert_msg(slice_eq(p.address, slice_str(good[i].address)), "%s", good[i].in);
        ck_assert_msg(slice_eq(p.domain, slice_str(good[i].domain)), "%s", good[i].in);
        ck_assert_msg(p.utf8 == (strchr(good[i].in, '\xc3') != NULL), "%s", good[i].in);
    }
}
END_TEST

START_TEST(test_bad_paths)
{
    static const char *const bad[] = {
        "",
        "<",
        ">",
        "a@b",
        "<a@b",
        "a@b>",
        "<@b>",
        "<a@>",
        "<a b@c>",
        "<a@b@c>",
        "<.a@b>",
        "<a.@b>",
        "<a..b@c>",
        "<a@b..c>",
        "<a@.b>",
        "<a@-b.c>",
        "<a@b-.c>",
        "<a@b.>",
        "<\"a@b>",
        "<\"a\"b@c>",
        "<a@[1.2.3]>",
        "<a@[1.2.3.256]>",
        "<a@[1.2.3.4.5]>",
        "<a@[IPv6:]>",
        "<a@[IPv6:1:2]>",
        "<a@[IPv6:1::2::3]>",
        "<a@[IPv6:12345::]>",
        "<a@[IPv6:1:2:3:4:5:6:7:8:9]>",
        "<a@[IPv6:1:2:3:4:5:6:7:]>",
        "<a@[x]>",
        "<a@[1.2.3.4>",
        "<@a:>",
        "<@a,b@c>",
        "<@a b@c>",
        "<a,b@c>",
        "<a@b\xc3>",
        "<\xff@b>",
        "<a@\xed\xa0\x80.b>",
        "<\xc0\xaf@b>",
        "<a@b c>",
        "<a\x01@b>",
        "<<a@b>>",
        "<nobody>",
        "<\"x\"\\@b>",
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        struct smtp_path p;
        ck_assert_msg(!parse(bad[i], false, &p), "%s", bad[i]);
        ck_assert_msg(!parse(bad[i], true, &p), "%s", bad[i]);
    }
}
END_TEST

START_TEST(test_special_paths)
{
    struct smtp_path p;
    ck_assert(parse("<>", true, &p) && p.address.n == 0);
    ck_assert(!parse("<>", false, &p));
    ck_assert(parse("<PostMaster>", false, &p) && p.domain.n == 0);
    ck_assert(!parse("<postmaster>", true, &p));
}
END_TEST

START_TEST(test_path_lengths)
{
    char text[700];
    struct smtp_path p;
    memset(text, 'a', sizeof text);
    memcpy(text, "<", 1);
    memcpy(text + 1 + ADDRESS_LOCAL_MAX, "@b>", 4);
    ck_assert(parse(text, false, &p));
    memset(text + 1, 'a', ADDRESS_LOCAL_MAX + 1);
    memcpy(text + 2 + ADDRESS_LOCAL_MAX, "@b>", 4);
    ck_assert(!parse(text, false, &p));
    memcpy(text, "<a@", 3);
    memset(text + 3, 'b', 63);
    memcpy(text + 66, ">", 2);
    ck_assert(parse(text, false, &p));
    memcpy(text + 66, "b>", 3);
    ck_assert(!parse(text, false, &p));
    for (size_t i = 0; i < 256; i += 2)
        memcpy(text + 3 + i, "b.", 2);
    memcpy(text + 3 + 255, ">", 2);
    ck_assert(parse(text, false, &p));
    memcpy(text + 3 + 255, ".b>", 4);
    ck_assert(!parse(text, false, &p));
}
END_TEST

START_TEST(test_mail_params)
{
    struct mail_params p;
    ck_assert_ptr_null(mail_params_parse(
        SLICE_LIT(" SIZE=123 BODY=8bitmime SMTPUTF8 RET=HDRS ENVID=a+2Bb AUTH=<>"), &p));
    ck_assert(p.size == 123 && p.eightbit && p.utf8 && p.ret_hdrs && !p.ret_full);
    ck_assert(slice_eq(p.envid, SLICE_LIT("a+2Bb")));
    ck_assert_ptr_null(mail_params_parse(SLICE_LIT(""), &p));
    ck_assert_ptr_null(mail_params_parse(SLICE_LIT(" SIZE=99999999999999999999"), &p));
    ck_assert(p.size == UINT64_MAX);
    static const struct {
        const char *in, *code;
    } bad[] = {
        {" XYZZY=1", "555"},       {" XYZZY", "555"},       {" BODY=BINARYMIME", "555"},
        {" NOTIFY=NEVER", "555"},  {" SIZE=", "501"},       {" SIZE", "501"},
        {" SIZE=-1", "501"},       {" SIZE=1x", "501"},     {" BODY=9BIT", "501"},
        {" BODY", "501"},          {" RET=SOME", "501"},    {" RET", "501"},
        {" ENVID=a+2", "501"},     {" ENVID=a+zz", "501"},  {" SMTPUTF8=1", "501"},
        {" SIZE=1 SIZE=1", "501"}, {"SIZE=1", "501"},       {" =1", "501"},
        {" S\x01Z=1", "501"},      {" ENVID=a\xff", "501"},
    };
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *reply = mail_params_parse(slice_str(bad[i].in), &p);
        ck_assert_msg(reply && memcmp(reply, bad[i].code, 3) == 0, "%s: %s", bad[i].in,
                      reply ? reply : "accepted");
    }
}
END_TEST

START_TEST(test_rcpt_params)
{
    struct rcpt_params p;
    ck_assert_ptr_null(
        rcpt_params_parse(SLICE_LIT(" NOTIFY=SUCCESS,delay ORCPT=rfc822;a+2B@b"), &p));
    ck_assert_uint_eq(p.notify, NOTIFY_SUCCESS | NOTIFY_DELAY);
    ck_assert(slice_eq(p.orcpt, SLICE_LIT("rfc822;a+2B@b")));
    static const char *const bad[] = {" NOTIFY=NEVER,SUCCESS",
                                      " NOTIFY=",
                                      " NOTIFY=SUCCESS,",
                                      " NOTIFY=SOON",
                                      " NOTIFY",
                                      " ORCPT=a@b",
                                      " ORCPT=;a",
                                      " ORCPT=rfc822;",
                                      " ORCPT=rfc822;a+b",
                                      " NOTIFY=NEVER NOTIFY=NEVER"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        const char *reply = rcpt_params_parse(slice_str(bad[i]), &p);
        ck_assert_msg(reply && memcmp(reply, "501", 3) == 0, "%s", bad[i]);
    }
    ck_assert(memcmp(rcpt_params_parse(SLICE_LIT(" SIZE=1"), &p), "555", 3) == 0);
}
END_TEST

static void scan(struct header_scan *h, const char *text, size_t piece)
{
    struct slice in = slice_str(text);
    header_begin(h);
    while (in.n) {
        size_t n = piece < in.n ? piece : in.n;
        header_feed(h, slice_of(in.p, n));
        in.p += n, in.n -= n;
    }
}

START_TEST(test_header_scan)
{
    for (size_t piece = 1; piece < 200; piece += 13) {
        struct header_scan h;
        scan(&h,
             "Received: a\r\n by b\r\nRECEIVED : c\r\nX-Campaign:  spring\r\n sale \r\nDate: x\r\n"
             "Subject: Message-ID: no\r\n\r\nMessage-ID: body\r\nReceived: body\r\n",
             piece);
        ck_assert_uint_eq(h.received, 2);
        ck_assert(h.date && !h.message_id && !h.none);
        ck_assert(slice_eq(slice_of(h.campaign, h.campaign_n), SLICE_LIT("spring")));
        scan(&h, "hello\r\nDate: no\r\n\r\n", piece);
        ck_assert(h.none && !h.date);
        scan(&h, "\r\nDate: no\r\n", piece);
        ck_assert(!h.none && !h.date);
        scan(&h, "message-id: <x@y>\r\n\r\n", piece);
        ck_assert(h.message_id);
    }
}
END_TEST

START_TEST(test_header_prefix)
{
    struct header_scan h;
    struct buf out;
    scan(&h, "Subject: x\r\n\r\n", 100);
    buf_init(&out, 4096);
    struct header_origin o = {.helo = SLICE_LIT("evil\r\nX: y (z)"),
                              .peer = "2001:db8::1",
                              .hostname = "mx.example",
                              .tls = "TLSv1.3 TLS_AES_256_GCM_SHA384",
                              .date = "Fri, 02 Jan 2026 03:04:05 +0000",
                              .esmtp = true,
                              .auth = true,
                              .id = 0x20000000001,
                              .wall_ms = 1000,
                              .only_rcpt = SLICE_LIT("a@b")};
    ck_assert(header_prefix(&out, &h, &o));
    ck_assert(buf_append(&out, "", 1));
    ck_assert_str_eq(
        (char *)out.data,
        "Received: from evil??X:?y??z? ([IPv6:2001:db8::1])\r\n"
        "\tby mx.example (Baton) with ESMTPSA id 0000020000000001\r\n"
        "\t(using TLSv1.3 TLS_AES_256_GCM_SHA384)\r\n\tfor <a@b>;\r\n"
        "\tFri, 02 Jan 2026 03:04:05 +0000\r\nDate: Fri, 02 Jan 2026 03:04:05 +0000\r\n"
        "Message-ID: <0000020000000001.3e8@mx.example>\r\n");
    buf_free(&out);
    ck_assert_str_eq(header_with(false, false, false, false), "SMTP");
    ck_assert_str_eq(header_with(true, true, false, false), "ESMTPS");
    ck_assert_str_eq(header_with(true, true, true, true), "UTF8SMTPSA");
}
END_TEST

int main(void)
{
    Suite *s = suite_create("smtp_address");
    TCase *t = tcase_create("address");
    tcase_add_test(t, test_good_paths);
    tcase_add_test(t, test_bad_paths);
    tcase_add_test(t, test_special_paths);
    tcase_add_test(t, test_path_lengths);
    tcase_add_test(t, test_mail_params);
    tcase_add_test(t, test_rcpt_params);
    tcase_add_test(t, test_header_scan);
    tcase_add_test(t, test_header_prefix);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
