/* Routes, MX order, pacing, schedule, notifications, and the set of recipients in hand. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

#include "node/delivery/bounce.h"
#include "node/delivery/destination.h"
#include "node/delivery/hand.h"
#include "node/delivery/mx.h"
#include "node/delivery/route.h"

#define S(text) slice_str(text)
#define T(text) ((char[]){text}) /* settings hold writable strings */

START_TEST(test_the_most_specific_route_wins)
{
    struct config_route r[] = {
        {.domain = T("*"), .kind = ROUTE_MX},
        {.domain = T(".example.net"), .kind = ROUTE_HOST, .host = T("wide"), .port = 25},
        {.domain = T(".a.example.net"), .kind = ROUTE_HOST, .host = T("narrow"), .port = 25},
        {.domain = T("example.net"), .kind = ROUTE_HOST, .host = T("exact"), .port = 2525},
    };
    ck_assert_ptr_eq(route_find(r, 4, S("example.net")), &r[3]);
    ck_assert_ptr_eq(route_find(r, 4, S("x.example.net")), &r[1]);
    ck_assert_ptr_eq(route_find(r, 4, S("x.a.example.net")), &r[2]);
    ck_assert_ptr_eq(route_find(r, 4, S("badexample.net")), &r[0]);
    ck_assert_ptr_eq(route_find(r, 4, S("other.org")), &r[0]);
    ck_assert_ptr_null(route_find(r + 1, 3, S("other.org")));
    char key[ROUTE_KEY_MAX];
    ck_assert(route_key(&r[3], S("example.net"), key));
    ck_assert_str_eq(key, "smtp://exact:2525");
    ck_assert(route_key(&r[0], S("other.org"), key));
    ck_assert_str_eq(key, "other.org");
    ck_assert(route_key(NULL, S("other.org"), key));
    char endless[400];
    memset(endless, 'x', sizeof endless);
    ck_assert(!route_key(NULL, slice_of(endless, sizeof endless), key));
}
END_TEST

START_TEST(test_limits_of_a_next_hop)
{
    struct config_destination list[] = {{.domain = T("*"), .connections = 1},
                                        {.domain = T("x.org"), .connections = 2},
                                        {.domain = T("relay"), .connections = 3}};
    struct config_destination none = {.connections = 9};
    struct config_route r = {.domain = T("*"), .kind = ROUTE_HOST, .host = T("relay")};
    ck_assert_uint_eq(route_limits(list, 3, NULL, S("x.org"), none).connections, 2);
    ck_assert_uint_eq(route_limits(list, 3, &r, S("y.org"), none).connections, 3);
    ck_assert_uint_eq(route_limits(list, 2, &r, S("y.org"), none).connections, 1);
    ck_assert_uint_eq(route_limits(list, 0, &r, S("y.org"), none).connections, 9);
}
END_TEST

static void mx(struct mx_record *r, unsigned pref, const char *name)
{
    r->preference = (uint16_t)pref;
    snprintf(r->name, sizeof r->name, "%s", name);
}

START_TEST(test_mx_order)
{
    struct mx_record r[MX_MAX];
    unsigned first_b = 0;
    for (unsigned seed = 0; seed < 200; seed++) {
        unsigned n = 4;
        mx(&r[0], 20, "late.x");
        mx(&r[1], 10, "a.x");
        mx(&r[2], 5, "best.x");
        mx(&r[3], 10, "b.x");
        ck_assert_int_eq(mx_order(r, &n, S("x"), "me", seed), MX_OK);
        ck_assert_uint_eq(n, 4);
        ck_assert_str_eq(r[0].name, "best.x");
        ck_assert_str_eq(r[3].name, "late.x");
        first_b += strcmp(r[1].name, "b.x") == 0;
    }
    ck_assert(first_b > 50 && first_b < 150); /* equal ones share the load */
}
END_TEST

START_TEST(test_mx_special_cases)
{
    struct mx_record r[MX_MAX];
    unsigned n = 0;
    ck_assert_int_eq(mx_order(r, &n, S("plain.org"), "me", 1), MX_OK);
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(r[0].name, "plain.org"); /* implicit MX */
    n = 1;
    mx(&r[0], 0, "");
    ck_assert_int_eq(mx_order(r, &n, S("no.mail"), "me", 1), MX_NULL);
    /* Ourselves among them: only better ones remain, equals don't. */
    n = 3;
    mx(&r[0], 10, "Me.Org");
    mx(&r[1], 5, "better.x");
    mx(&r[2], 10, "equal.x");
    ck_assert_int_eq(mx_order(r, &n, S("x"), "me.org", 1), MX_OK);
    ck_assert_uint_eq(n, 1);
    ck_assert_str_eq(r[0].name, "better.x");
    n = 1;
    mx(&r[0], 10, "me.org");
    ck_assert_int_eq(mx_order(r, &n, S("x"), "me.org", 1), MX_LOOP);
    char out[64];
    ck_assert(mx_literal(S("[192.0.2.1]"), out, sizeof out));
    ck_assert_str_eq(out, "192.0.2.1");
    ck_assert(mx_literal(S("[IPv6:2001:db8::1]"), out, sizeof out));
    ck_assert_str_eq(out, "2001:db8::1");
    ck_assert(!mx_literal(S("x.org"), out, sizeof out));
    ck_assert(!mx_literal(S("[]"), out, sizeof out));
}
END_TEST

START_TEST(test_rate_is_kept)
{
    struct config_destination limits = {.connections = 10, .rate_per_s = 20};
    struct destination d;
    destination_init(&d, &limits, 1000);
    unsigned sent = 0;
    for (uint64_t t = 1000; t < 11000; t += 10) {
        unsigned burst = 0;
        while (destination_take(&d, t)) {
            sent++;
            burst++;
        }
        ck_assert_uint_le(burst, 5);
    }
    ck_assert(sent >= 198 && sent <= 205);
    /* A long silence doesn't pile up a burst. */
    unsigned burst = 0;
    while (destination_take(&d, 1000000))
        burst++;
    ck_assert_uint_le(burst, 5);
}
END_TEST

START_TEST(test_window_and_backoff)
{
    struct config_destination limits = {.connections = 8, .messages_per_connection = 3};
    struct destination d;
    destination_init(&d, &limits, 0);
    d.open = 5;
    ck_assert(!destination_may_open(&d, 0, 100, 0)); /* begins with five */
    destination_succeeded(&d);
    ck_assert(destination_may_open(&d, 0, 100, 0));
    ck_assert(!destination_may_open(&d, 0, 2, 2)); /* enough are free */
    for (int i = 0; i < 20; i++)
        destination_succeeded(&d);
    ck_assert_uint_eq(d.window, 8);
    destination_crowded(&d);
    ck_assert_uint_eq(d.window, 4);
    ck_assert(destination_worn(&d, 3) && !destination_worn(&d, 2));
    d.open = 0;
    uint64_t last = 0;
    for (int i = 0; i < 12; i++) {
        destination_failed(&d, 0, UINT32_MAX / 2, "refused");
        ck_assert(d.backoff_until_ms >= last);
        last = d.backoff_until_ms;
        ck_assert(!destination_may_open(&d, last - 1, 1, 0));
        ck_assert(destination_may_open(&d, last, 1, 0));
    }
    ck_assert_uint_le(last, DESTINATION_BACKOFF_MAX_MS * 5 / 4);
    destination_succeeded(&d);
    ck_assert(!destination_backing_off(&d, 0));
    ck_assert_str_eq(d.why, "");
}
END_TEST

static struct row_recipient queued(void)
{
    return (struct row_recipient){.id = 1, .state = RCPT_QUEUED, .address = S("r@x.org")};
}

START_TEST(test_schedule)
{
    uint64_t retry[] = {1000, 5000};
    struct schedule s = {retry, 2, 100000, true};
    struct reply ok, later, never;
    reply_set(&ok, 250, "2.0.0", "taken");
    reply_set(&later, 451, "4.3.0", "later");
    reply_set(&never, 550, "5.1.1", "no");
    struct row_recipient r = queued();
    ck_assert_int_eq(schedule_apply(&s, &r, &ok, S("h"), 0, 50, 0), VERDICT_DELIVERED);
    ck_assert(r.state == RCPT_DELIVERED && r.attempts == 1 && r.last_ms == 50 && r.code == 250);
    r = queued();
    ck_assert_int_eq(schedule_apply(&s, &r, &never, S("h"), 0, 50, 0), VERDICT_FAILED);
    ck_assert_int_eq(r.state, RCPT_FAILED);
    r = queued();
    ck_assert_int_eq(schedule_apply(&s, &r, &later, S("h"), 0, 50, 0), VERDICT_DEFERRED);
    ck_assert(r.state == RCPT_QUEUED && r.next_ms == 1050);
    schedule_apply(&s, &r, &later, S("h"), 0, 2000, UINT32_MAX);
    ck_assert(r.next_ms == 7500); /* 5 s and a tenth */
    schedule_apply(&s, &r, &later, S("h"), 0, 10000, 0);
    ck_assert(r.next_ms == 15000); /* the last wait repeats */
    s.may_expire = false;
    ck_assert_int_eq(schedule_apply(&s, &r, &later, S("h"), 0, 200000, 0), VERDICT_DEFERRED);
    s.may_expire = true;
    ck_assert_int_eq(schedule_apply(&s, &r, &later, S("h"), 0, 200000, 0), VERDICT_EXPIRED);
    ck_assert_int_eq(r.state, RCPT_EXPIRED);
    /* Never without an attempt, however old. */
    r = queued();
    ck_assert(!schedule_expired(&s, &r, 0, 1000000));
    /* Our own findings: by the class of the enhanced code. */
    reply_set(&never, 0, "5.1.10", "null MX");
    ck_assert_int_eq(schedule_apply(&s, &r, &never, S(""), 0, 50, 0), VERDICT_FAILED);
}
END_TEST

static bool python_agrees(const struct buf *b, const char *checks)
{
    char name[] = "/tmp/bounce-XXXXXX", command[4096];
    int fd = mkstemp(name);
    ck_assert(fd >= 0 && write(fd, b->data, b->len) == (ssize_t)b->len);
    close(fd);
    snprintf(command, sizeof command,
             "python3 - <<'END'\n"
             "import email, email.policy\n"
             "raw = open('%s','rb').read()\n"
             "assert b'\\n' not in raw.replace(b'\\r\\n', b''), 'bare LF'\n"
             "m = email.message_from_bytes(raw, policy=email.policy.SMTP)\n"
             "assert not m.defects, m.defects\n"
             "assert m.get_content_type() == 'multipart/report'\n"
             "assert m.get_param('report-type') == 'delivery-status'\n"
             "text, status, original = m.get_payload()\n"
             "assert text.get_content_type() == 'text/plain'\n"
             "assert status.get_content_type() == 'message/delivery-status'\n"
             "fields = status.get_payload()\n"
             "%s\nEND",
             name, checks);
    bool ok = system(command) == 0;
    unlink(name);
    return ok;
}

static const struct bounce_context context = {.hostname = "relay.example",
                                              .id = 0x2000001,
                                              .date = "Fri, 02 Jan 2026 03:04:05 +0000",
                                              .arrival = "Thu, 01 Jan 2026 03:04:05 +0000",
                                              .last_attempt = "Fri, 02 Jan 2026 03:04:05 +0000",
                                              .retry_until = "Sat, 03 Jan 2026 03:04:05 +0000"};

START_TEST(test_failure_notification)
{
    struct row_message m = {.id = 7,
                            .sender = S("s@home.org"),
                            .envid = S("QQ314159+2B1"),
                            .prefix = S("Received: by us\r\n")};
    struct row_recipient a = queued(), b = queued();
    a.code = 550;
    a.enhanced = S("5.1.1");
    a.reply = S("no such\r\nSubject: forged");
    a.remote = S("mx.x.org [192.0.2.1]:25");
    a.orcpt = S("rfc822;r+2Btag@x.org");
    b.address = S("other@x.org");
    b.code = 451;
    b.enhanced = S("4.2.0");
    b.reply = S("full");
    struct bounce_rcpt told[] = {{&a, VERDICT_FAILED, false}, {&b, VERDICT_EXPIRED, false}};
    ck_assert(bounce_wanted(BOUNCE_FAILURE, &m, &told[0]));
    struct slice head = S("Subject: original\r\nX: y\r\n\r\nbody =_baton_2000001_0 text\r\n");
    struct buf out;
    buf_init(&out, 65536);
    ck_assert(bounce_build(&out, BOUNCE_FAILURE, &context, &m, head, true, told, 2));
    ck_assert(python_agrees(
        &out, "assert m['To'].addresses[0].addr_spec == 's@home.org' and m['Auto-Submitted'] == "
              "'auto-replied'\n"
              "assert len(fields) == 3\n"
              "assert fields[0]['Reporting-MTA'] == 'dns; relay.example'\n"
              "assert fields[0]['Original-Envelope-Id'] == 'QQ314159+1'\n"
              "assert fields[1]['Final-Recipient'] == 'rfc822; r@x.org'\n"
              "assert fields[1]['Original-Recipient'] == 'rfc822;r+tag@x.org'\n"
              "assert fields[1]['Action'] == 'failed' and fields[1]['Status'] == '5.1.1'\n"
              "assert fields[1]['Remote-MTA'] == 'dns; mx.x.org'\n"
              "assert fields[1]['Subject'] is None\n"
              "assert fields[2]['Action'] == 'failed' and fields[2]['Status'] == '4.4.7'\n"
              "assert original.get_content_type() == 'text/rfc822-headers'\n"
              "assert 'Subject: original' in original.get_payload()\n"
              "assert 'Received: by us' in original.get_payload()\n"
              "assert 'body' not in original.get_payload()"));
    buf_clear(&out);
    m.flags = MSG_RET_FULL;
    ck_assert(bounce_build(&out, BOUNCE_FAILURE, &context, &m, head, true, told, 2));
    ck_assert(python_agrees(&out, "assert original.get_content_type() == 'message/rfc822'\n"
                                  "inner = original.get_payload()[0]\n"
                                  "assert inner['Subject'] == 'original'\n"
                                  "assert '=_baton_2000001_0' in inner.get_payload()"));
    buf_clear(&out); /* not all of it is here: headers then */
    ck_assert(bounce_build(&out, BOUNCE_FAILURE, &context, &m, head, false, told, 1));
    ck_assert(python_agrees(&out, "assert original.get_content_type() == 'text/rfc822-headers'"));
    buf_free(&out);
}
END_TEST

START_TEST(test_delay_and_success_notifications)
{
    struct row_message m = {.id = 7, .sender = S("s@home.org")};
    struct row_recipient r = queued();
    r.enhanced = S("2.0.0");
    r.code = 250;
    struct bounce_rcpt told = {&r, VERDICT_DELIVERED, false};
    struct buf out;
    buf_init(&out, 65536);
    ck_assert(bounce_build(&out, BOUNCE_RELAYED, &context, &m, S("A: b\r\n\r\nx"), true, &told, 1));
    ck_assert(python_agrees(&out, "assert fields[1]['Action'] == 'relayed'\n"
                                  "assert fields[1]['Status'] == '2.0.0'"));
    buf_clear(&out);
    told.verdict = VERDICT_DEFERRED;
    ck_assert(bounce_build(&out, BOUNCE_DELAY, &context, &m, S(""), true, &told, 1));
    ck_assert(python_agrees(&out, "assert fields[1]['Action'] == 'delayed'\n"
                                  "assert fields[1]['Status'] == '4.0.0'\n"
                                  "assert fields[1]['Will-Retry-Until']"));
    buf_free(&out);
    /* Once: only the attempt that crosses the age. */
    int64_t warn = SCHEDULE_DELAY_WARN_MS;
    r.notify = NOTIFY_DELAY;
    ck_assert(!schedule_delay_due(&r, 0, 0, warn - 1));
    ck_assert(schedule_delay_due(&r, warn - 1, 0, warn));
    ck_assert(!schedule_delay_due(&r, warn, 0, warn + 1000));
}
END_TEST

START_TEST(test_who_is_told)
{
    struct row_message m = {.id = 7, .sender = S("s@home.org")};
    struct row_recipient r = queued();
    struct bounce_rcpt failed = {&r, VERDICT_FAILED, false};
    struct bounce_rcpt done = {&r, VERDICT_DELIVERED, false};
    ck_assert(bounce_wanted(BOUNCE_FAILURE, &m, &failed));
    ck_assert(!bounce_wanted(BOUNCE_FAILURE, &m, &done));
    ck_assert(!bounce_wanted(BOUNCE_RELAYED, &m, &done));
    r.notify = NOTIFY_SUCCESS;
    ck_assert(!bounce_wanted(BOUNCE_FAILURE, &m, &failed));
    ck_assert(bounce_wanted(BOUNCE_RELAYED, &m, &done));
    done.dsn_passed_on = true;
    ck_assert(!bounce_wanted(BOUNCE_RELAYED, &m, &done));
    r.notify = NOTIFY_NEVER;
    ck_assert(!bounce_wanted(BOUNCE_FAILURE, &m, &failed));
    r.notify = 0;
    m.flags = MSG_BOUNCE;
    ck_assert(!bounce_wanted(BOUNCE_FAILURE, &m, &failed));
    m.flags = 0;
    m.sender = S("");
    ck_assert(!bounce_wanted(BOUNCE_FAILURE, &m, &failed));
}
END_TEST

START_TEST(test_hand_against_a_plain_table)
{
    enum { IDS = 400, INDEXES = 3 };
    bool there[IDS][INDEXES] = {{false}};
    struct hand h;
    hand_init(&h);
    uint32_t x = 1;
    size_t n = 0;
    for (int i = 0; i < 200000; i++) {
        x = x * 1664525 + 1013904223;
        unsigned id = (x >> 8) % IDS, index = (x >> 20) % INDEXES;
        uint64_t key = MESSAGE_ID(2, id);
        bool *t = &there[id][index];
        ck_assert_int_eq(hand_has(&h, key, index), *t);
        if (x >> 31) {
            ck_assert_int_eq(hand_add(&h, key, index), !*t);
            n += !*t;
            *t = true;
        } else {
            ck_assert_int_eq(hand_remove(&h, key, index), *t);
            n -= *t;
            *t = false;
        }
        ck_assert_uint_eq(h.n, n);
    }
    hand_free(&h);
}
END_TEST

/* Thousands of recipients of few messages: each is found after a few looks, not after all others of
 * its message. */
START_TEST(test_hand_keeps_recipients_of_one_message_apart)
{
    enum { IDS = 16, INDEXES = 1000 };
    struct hand h;
    hand_init(&h);
    for (unsigned id = 1; id <= IDS; id++)
        for (uint32_t index = 0; index < INDEXES; index++)
            ck_assert(hand_add(&h, MESSAGE_ID(2, id), index));
    size_t run = 0, longest = 0;
    for (size_t i = 0; i < h.cap; i++) {
        run = h.slot[i].used ? run + 1 : 0;
        longest = run > longest ? run : longest;
    }
    ck_assert_uint_lt(longest, 100);
    hand_free(&h);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("delivery cores");
    TCase *t = tcase_create("cores");
    tcase_set_timeout(t, 30);
    tcase_add_test(t, test_the_most_specific_route_wins);
    tcase_add_test(t, test_limits_of_a_next_hop);
    tcase_add_test(t, test_mx_order);
    tcase_add_test(t, test_mx_special_cases);
    tcase_add_test(t, test_rate_is_kept);
    tcase_add_test(t, test_window_and_backoff);
    tcase_add_test(t, test_schedule);
    tcase_add_test(t, test_failure_notification);
    tcase_add_test(t, test_delay_and_success_notifications);
    tcase_add_test(t, test_who_is_told);
    tcase_add_test(t, test_hand_against_a_plain_table);
    tcase_add_test(t, test_hand_keeps_recipients_of_one_message_apart);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
