/* The SMTP client session against servers good, old, odd and hostile. */
#include <check.h>
#include <stdlib.h>

#include "node/delivery/client.h"

static struct smtp_client c;
static struct client_transaction tx;
static struct client_recipient rcpt[3];
static unsigned seen; /* effects of the last exchange */

static void begin(bool tls)
{
    smtp_client_init(&c, "relay.example", tls);
    smtp_client_opened(&c);
    memset(rcpt, 0, sizeof rcpt);
    static const char *const names[] = {"a@x.example", "b@x.example", "c@x.example"};
    for (int i = 0; i < 3; i++)
        rcpt[i].address = slice_str(names[i]);
    tx = (struct client_transaction){
        .sender = SLICE_LIT("s@y.example"), .size = 100, .n = 1, .rcpts = rcpt};
}

static void server(const char *text)
{
    seen = smtp_client_input(&c, slice_str(text));
}

/* What the client wrote since the last look. */
static void wrote(const char *text)
{
    char *got = slice_dup(buf_slice(&c.out));
    ck_assert_str_eq(got, text);
    free(got);
    buf_clear(&c.out);
}

static void to_ready(const char *ehlo)
{
    server("220 mx.example ESMTP\r\n");
    wrote("EHLO relay.example\r\n");
    server(ehlo);
    ck_assert(seen & CLIENT_CAN_SEND);
    ck_assert_int_eq(c.state, CLIENT_READY);
}

#define FULL                                                                                       \
    "250-mx.example\r\n250-PIPELINING\r\n250-SIZE 1000\r\n250-8BITMIME\r\n250-SMTPUTF8\r\n"        \
    "250-ENHANCEDSTATUSCODES\r\n250 DSN\r\n"

START_TEST(test_pipelined_transaction)
{
    begin(false);
    to_ready(FULL);
    tx.n = 2;
    tx.flags = MSG_8BIT | MSG_RET_HDRS;
    tx.envid = SLICE_LIT("id+2B1");
    rcpt[0].notify = NOTIFY_SUCCESS | NOTIFY_DELAY;
    rcpt[1].orcpt = SLICE_LIT("rfc822;b@x.example");
    seen = smtp_client_send(&c, &tx);
    wrote("MAIL FROM:<s@y.example> SIZE=100 BODY=8BITMIME RET=HDRS ENVID=id+2B1\r\n"
          "RCPT TO:<a@x.example> NOTIFY=SUCCESS,DELAY\r\n"
          "RCPT TO:<b@x.example> ORCPT=rfc822;b@x.example\r\nDATA\r\n");
    server("250 2.1.0 Ok\r\n250 2.1.5 Ok\r\n550 5.1.1 no such user\r\n354 go on\r\n");
    ck_assert(seen & CLIENT_WANT_BODY);
    seen = smtp_client_body(&c, SLICE_LIT("Subject: x\r\n\r\n.dot\r\n..two\r\n"), true);
    ck_assert(seen & CLIENT_WANT_DOT);
    wrote("Subject: x\r\n\r\n..dot\r\n...two\r\n");
    seen = smtp_client_dot(&c);
    wrote(".\r\n");
    server("250 2.0.0 queued as 42\r\n");
    ck_assert(seen == (CLIENT_DONE | CLIENT_CAN_SEND));
    ck_assert_int_eq(tx.end, CLIENT_ANSWERED);
    ck_assert(rcpt[0].decided && rcpt[0].result.code == 250);
    ck_assert_str_eq(rcpt[0].result.enhanced, "2.0.0");
    ck_assert(rcpt[1].decided && rcpt[1].result.code == 550);
    ck_assert_str_eq(rcpt[1].result.enhanced, "5.1.1");
    ck_assert_int_eq(memcmp(rcpt[1].result.text, "no such user", 12), 0);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_one_command_at_a_time_without_pipelining)
{
    begin(false);
    to_ready("250 mx.example\r\n");
    tx.n = 2;
    smtp_client_send(&c, &tx);
    wrote("MAIL FROM:<s@y.example>\r\n");
    server("250 ok\r\n");
    wrote("RCPT TO:<a@x.example>\r\n");
    server("450 4.2.0 later\r\n");
    wrote("RCPT TO:<b@x.example>\r\n");
    server("550 no\r\n");
    ck_assert(seen & CLIENT_DONE); /* nobody left: no DATA */
    wrote("");
    ck_assert_int_eq(rcpt[0].result.code, 450);
    ck_assert_int_eq(rcpt[1].result.code, 550);
    /* After a failure the next one begins with RSET. */
    rcpt[0].decided = rcpt[0].accepted = false;
    tx.n = 1;
    smtp_client_send(&c, &tx);
    wrote("RSET\r\n");
    server("250 ok\r\n");
    wrote("MAIL FROM:<s@y.example>\r\n");
    server("550 5.7.1 not you\r\n");
    ck_assert(seen & CLIENT_DONE);
    ck_assert_int_eq(rcpt[0].result.code, 550);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_helo_when_ehlo_is_unknown)
{
    begin(false);
    server("220-old\r\n220 server\r\n");
    wrote("EHLO relay.example\r\n");
    server("500 what?\r\n");
    wrote("HELO relay.example\r\n");
    server("250 hello\r\n");
    ck_assert(seen & CLIENT_CAN_SEND);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_starttls)
{
    begin(true);
    server("220 mx\r\n");
    buf_clear(&c.out);
    server("250-mx\r\n250-SIZE 1000\r\n250 STARTTLS\r\n");
    wrote("STARTTLS\r\n");
    server("220 go\r\n");
    ck_assert(seen & CLIENT_START_TLS);
    seen = smtp_client_secured(&c);
    wrote("EHLO relay.example\r\n");
    server("250 mx\r\n");
    ck_assert(seen & CLIENT_CAN_SEND);
    ck_assert_uint_eq(c.extensions, 0); /* what was offered in the clear doesn't count */
    smtp_client_free(&c);
    /* Refused: in the clear. */
    begin(true);
    server("220 mx\r\n");
    server("250 STARTTLS\r\n"); /* the first line is the greeting, not a keyword */
    ck_assert(seen & CLIENT_CAN_SEND);
    smtp_client_free(&c);
    begin(true);
    server("220 mx\r\n");
    server("250-mx\r\n250 STARTTLS\r\n");
    server("454 4.7.0 not now\r\n");
    ck_assert(seen & CLIENT_CAN_SEND);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_plaintext_behind_starttls_is_refused)
{
    begin(true);
    server("220 mx\r\n");
    server("250-mx\r\n250 STARTTLS\r\n");
    server("220 go\r\n250 injected\r\n");
    ck_assert(seen & CLIENT_CLOSE);
    ck_assert(!(seen & CLIENT_START_TLS));
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_handshake_failure_is_told_apart)
{
    begin(true);
    server("220 mx\r\n");
    server("250-mx\r\n250 STARTTLS\r\n");
    server("220 go\r\n");
    seen = smtp_client_lost(&c, "handshake failure");
    ck_assert(seen & CLIENT_CLOSE);
    ck_assert(c.tls_failed);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_size_and_utf8_are_refused_without_asking)
{
    begin(false);
    to_ready(FULL);
    tx.size = 1001;
    seen = smtp_client_send(&c, &tx);
    wrote("");
    ck_assert(seen == (CLIENT_DONE | CLIENT_CAN_SEND));
    ck_assert_str_eq(rcpt[0].result.enhanced, "5.3.4");
    smtp_client_free(&c);
    begin(false);
    to_ready("250 mx\r\n");
    tx.flags = MSG_UTF8;
    seen = smtp_client_send(&c, &tx);
    ck_assert_str_eq(rcpt[0].result.enhanced, "5.6.7");
    smtp_client_free(&c);
}
END_TEST

static void to_dot(void)
{
    begin(false);
    to_ready(FULL);
    tx.n = 2;
    smtp_client_send(&c, &tx);
    server("250 ok\r\n250 ok\r\n550 no\r\n354 go\r\n");
    smtp_client_body(&c, SLICE_LIT("x\r\n"), true);
    ck_assert_int_eq(c.state, CLIENT_DOT_WAIT);
}

START_TEST(test_lost_before_and_after_the_final_dot)
{
    to_dot();
    seen = smtp_client_lost(&c, "reset");
    ck_assert(seen == (CLIENT_DONE | CLIENT_CLOSE));
    ck_assert_int_eq(tx.end, CLIENT_LOST);
    ck_assert(!rcpt[0].decided); /* never sent: may be tried at once */
    ck_assert(rcpt[1].decided);  /* its refusal stands */
    smtp_client_free(&c);

    to_dot();
    smtp_client_dot(&c);
    seen = smtp_client_lost(&c, "reset");
    ck_assert_int_eq(tx.end, CLIENT_LOST_AFTER);
    ck_assert(!rcpt[0].decided);
    smtp_client_free(&c);

    to_dot();
    smtp_client_dot(&c);
    seen = smtp_client_timed_out(&c);
    ck_assert_int_eq(tx.end, CLIENT_LOST_AFTER);
    smtp_client_free(&c);

    to_dot(); /* time-out while we ourselves held the dot back */
    seen = smtp_client_timed_out(&c);
    ck_assert_int_eq(tx.end, CLIENT_LOST);
    ck_assert(tx.dot_withheld);
    smtp_client_free(&c);

    to_dot(); /* the text before it was too much for the network */
    c.no_room = true;
    seen = smtp_client_lost(&c, "reset");
    ck_assert_int_eq(tx.end, CLIENT_LOST);
    ck_assert(!tx.dot_withheld);
    ck_assert_uint_eq(c.out.len, 0);
    smtp_client_free(&c);

    to_dot(); /* so was the dot */
    smtp_client_dot(&c);
    seen = smtp_client_stuck(&c);
    ck_assert(seen == (CLIENT_DONE | CLIENT_CLOSE));
    ck_assert_int_eq(tx.end, CLIENT_LOST);
    ck_assert(!tx.dot_withheld && !rcpt[0].decided);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_421_ends_the_session)
{
    begin(false);
    to_ready(FULL);
    smtp_client_send(&c, &tx);
    server("421 4.7.0 slow down\r\n");
    ck_assert(seen == (CLIENT_DONE | CLIENT_CLOSE));
    ck_assert_int_eq(tx.end, CLIENT_LOST);
    ck_assert_int_eq(tx.last.code, 421);
    ck_assert(!rcpt[0].decided);
    smtp_client_free(&c);
    /* As the answer to the final dot it is an answer. */
    to_dot();
    smtp_client_dot(&c);
    server("421 4.3.0 no\r\n");
    ck_assert(seen & CLIENT_DONE);
    ck_assert_int_eq(tx.end, CLIENT_ANSWERED);
    ck_assert_int_eq(rcpt[0].result.code, 421);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_no_dot_when_nobody_was_accepted)
{
    begin(false);
    to_ready(FULL);
    smtp_client_send(&c, &tx);
    buf_clear(&c.out);
    server("250 ok\r\n550 no\r\n354 go on then\r\n");
    ck_assert(seen & CLIENT_CLOSE); /* rather than an empty message to nobody */
    wrote("");
    ck_assert(rcpt[0].decided && rcpt[0].result.code == 550);
    smtp_client_free(&c);
    /* MAIL refused, yet the server goes on: no message either. */
    begin(false);
    to_ready(FULL);
    smtp_client_send(&c, &tx);
    buf_clear(&c.out);
    server("550 no\r\n250 ok\r\n354 go on then\r\n");
    ck_assert(seen & CLIENT_CLOSE);
    wrote("");
    ck_assert(rcpt[0].decided && rcpt[0].result.code == 550);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_hostile_replies_end_the_session)
{
    static const char *const bad[] = {"hello\r\n",          "2\r\n", "999 x\r\n", "220x\r\n",
                                      "220-a\r\n221 b\r\n", "\r\n",  "100 x\r\n"};
    for (unsigned i = 0; i < sizeof bad / sizeof *bad; i++) {
        begin(false);
        server(bad[i]);
        ck_assert_msg(seen & CLIENT_CLOSE, "%s", bad[i]);
        ck_assert_int_eq(c.state, CLIENT_CLOSED);
        smtp_client_free(&c);
    }
    /* A line, and an answer, without end. */
    begin(false);
    char *flood = xmalloc(REPLY_LINE_MAX + 2);
    memset(flood, 'x', REPLY_LINE_MAX + 1);
    memcpy(flood, "220-", 4);
    flood[REPLY_LINE_MAX + 1] = 0;
    server(flood);
    ck_assert(seen & CLIENT_CLOSE);
    smtp_client_free(&c);
    free(flood);
    begin(false);
    for (int i = 0; i < 1000 && c.state == CLIENT_GREETING; i++)
        server("220-again\r\n");
    ck_assert_int_eq(c.state, CLIENT_CLOSED);
    smtp_client_free(&c);
    /* An answer to the next command before it was sent. */
    begin(false);
    server("220 a\r\n250 b\r\n250 c\r\n");
    ck_assert(seen & CLIENT_CLOSE);
    smtp_client_free(&c);
    to_dot(); /* 250 before the dot doesn't count as taken */
    server("250 queued already\r\n");
    ck_assert_int_eq(tx.end, CLIENT_LOST);
    ck_assert(!rcpt[0].decided);
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_byte_by_byte)
{
    begin(false);
    const char *greeting = "220-mx.example\r\n220 hi\r\n", *p;
    for (p = greeting; *p; p++)
        seen = smtp_client_input(&c, slice_of(p, 1));
    wrote("EHLO relay.example\r\n");
    for (p = FULL; *p; p++)
        seen = smtp_client_input(&c, slice_of(p, 1));
    ck_assert(seen & CLIENT_CAN_SEND);
    ck_assert(c.extensions & EXT_DSN);
    smtp_client_send(&c, &tx);
    buf_clear(&c.out);
    for (p = "250 ok\r\n250 ok\r\n354 go\r\n"; *p; p++)
        seen = smtp_client_input(&c, slice_of(p, 1));
    ck_assert(seen & CLIENT_WANT_BODY);
    const char *body = ".\r\n.a\r\n\r\n..\r\nno end.";
    for (p = body; *p; p++)
        smtp_client_body(&c, slice_of(p, 1), !p[1]);
    smtp_client_dot(&c);
    wrote("..\r\n..a\r\n\r\n...\r\nno end.\r\n.\r\n");
    smtp_client_free(&c);
}
END_TEST

START_TEST(test_reply_texts)
{
    struct reply_parser p;
    struct reply r;
    size_t used;
    const char *in = "550-5.7.1 one\r\n550 5.7.1 t\x01wo \xc3\xa9\r\n250 rest";
    reply_reset(&p);
    ck_assert_int_eq(reply_feed(&p, slice_str(in), &used, &r), REPLY_DONE);
    ck_assert_str_eq(in + used, "250 rest");
    ck_assert_str_eq(r.enhanced, "5.7.1");
    char *text = slice_dup(slice_of(r.text, r.text_n));
    ck_assert_str_eq(text, "one t wo ??");
    free(text);
    ck_assert_int_eq(reply_feed(&p, slice_str("250 4.1.1 mixed\n"), &used, &r), REPLY_DONE);
    ck_assert_str_eq(r.enhanced, ""); /* of another class: not a status of this reply */
}
END_TEST

int main(void)
{
    Suite *s = suite_create("client");
    TCase *t = tcase_create("client");
    tcase_add_test(t, test_pipelined_transaction);
    tcase_add_test(t, test_one_command_at_a_time_without_pipelining);
    tcase_add_test(t, test_helo_when_ehlo_is_unknown);
    tcase_add_test(t, test_starttls);
    tcase_add_test(t, test_plaintext_behind_starttls_is_refused);
    tcase_add_test(t, test_handshake_failure_is_told_apart);
    tcase_add_test(t, test_size_and_utf8_are_refused_without_asking);
    tcase_add_test(t, test_lost_before_and_after_the_final_dot);
    tcase_add_test(t, test_421_ends_the_session);
    tcase_add_test(t, test_no_dot_when_nobody_was_accepted);
    tcase_add_test(t, test_hostile_replies_end_the_session);
    tcase_add_test(t, test_byte_by_byte);
    tcase_add_test(t, test_reply_texts);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed != 0;
}
