/* What a client sees of an SMTP session, and what becomes of its messages: transcripts against the
 * core, each fed in pieces of several sizes, with answers of the driver at once and later. */
#include <check.h>
#include <stdio.h>
#include <stdlib.h>

#include "node/smtp/session.h"

struct world {
    struct smtp_policy policy;
    struct smtp_client client;
    struct smtp_session *s;
    uint64_t now;
    bool sync; /* the driver answers from within emit */
    enum smtp_fate fate;
    bool hold; /* no verdict, no fate */
    bool verify_due, commit_due, tls_due, closed, lingers;
    char user[64], password[64];
    struct buf replies, body, messages; /* messages: what was committed, as text */
    unsigned writes, discards, completes, refusals;
    char prefix[2048];
    struct row_message last;
    uint64_t next_id;
};

static void answer(struct world *w);

static void take_message(struct world *w)
{
    struct smtp_message m;
    smtp_session_message(w->s, w->next_id++, 1700000000000, "Fri, 02 Jan 2026 03:04:05 +0000", &m);
    w->last = m.row;
    ck_assert_uint_eq(m.row.size, w->body.len);
    ck_assert_uint_lt(m.row.prefix.n, sizeof w->prefix);
    snprintf(w->prefix, sizeof w->prefix, "%.*s", (int)m.row.prefix.n, m.row.prefix.p);
    buf_printf(&w->messages, "from=<%.*s>", (int)m.row.sender.n, m.row.sender.p);
    if (m.row.envid.n)
        buf_printf(&w->messages, " envid=%.*s", (int)m.row.envid.n, m.row.envid.p);
    if (m.row.flags)
        buf_printf(&w->messages, " flags=%u", m.row.flags);
    if (m.row.campaign.n)
        buf_printf(&w->messages, " campaign=%.*s", (int)m.row.campaign.n, m.row.campaign.p);
    for (unsigned i = 0; i < m.n; i++) {
        const struct row_recipient *r = &m.rcpts[i];
        ck_assert(r->index == i && r->state == RCPT_QUEUED && r->id == m.row.id);
        buf_printf(&w->messages, " to=<%.*s>(%.*s)", (int)r->address.n, r->address.p,
                   (int)r->domain.n, r->domain.p);
        if (r->notify)
            buf_printf(&w->messages, "notify=%u", r->notify);
        if (r->orcpt.n)
            buf_printf(&w->messages, "orcpt=%.*s", (int)r->orcpt.n, r->orcpt.p);
    }
    buf_printf(&w->messages, "\n%.*s\n", (int)w->body.len, (char *)w->body.data);
    buf_clear(&w->body);
    smtp_message_free(&m);
}

static void on_effect(void *ctx, const struct smtp_effect *fx)
{
    struct world *w = ctx;
    switch (fx->type) {
    case SMTP_FX_WRITE:
        ck_assert(!w->closed);
        w->writes++;
        ck_assert(buf_append_slice(&w->replies, fx->bytes));
        return;
    case SMTP_FX_START_TLS:
        w->tls_due = true;
        return;
    case SMTP_FX_VERIFY:
        snprintf(w->user, sizeof w->user, "%.*s", (int)fx->user.n, fx->user.p);
        snprintf(w->password, sizeof w->password, "%.*s", (int)fx->password.n, fx->password.p);
        w->verify_due = true;
        break;
    case SMTP_FX_BODY:
        ck_assert(fx->bytes.n > 0);
        ck_assert(buf_append_slice(&w->body, fx->bytes));
        return;
    case SMTP_FX_DISCARD:
        w->discards++;
        buf_clear(&w->body);
        return;
    case SMTP_FX_COMPLETE:
        w->completes++;
        w->commit_due = true;
        break;
    case SMTP_FX_REFUSED:
        w->refusals++;
        return;
    case SMTP_FX_CLOSE:
        ck_assert(!w->closed);
        w->closed = true;
        w->lingers = fx->linger;
        return;
    }
    if (w->sync && !w->hold)
        answer(w);
}

static void answer(struct world *w)
{
    if (w->tls_due) {
        w->tls_due = false;
        smtp_session_tls(w->s, "TLSv1.3 SUITE", w->now);
    }
    if (w->hold)
        return;
    if (w->verify_due) {
        w->verify_due = false;
        bool right = strcmp(w->user, "joe") == 0 && strcmp(w->password, "secret") == 0;
        smtp_session_verified(w->s, right ? SMTP_VERIFIED : SMTP_WRONG, w->now);
    }
    if (w->commit_due) {
        w->commit_due = false;
        take_message(w);
        smtp_session_fate(w->s, w->fate, w->now);
    }
}

static void world_init(struct world *w)
{
    memset(w, 0, sizeof *w);
    w->policy = (struct smtp_policy){.hostname = "mx.test",
                                     .message_bytes = 100000,
                                     .recipients = 10,
                                     .hops = 5,
                                     .errors = 20,
                                     .greeting_ms = 30000,
                                     .command_ms = 300000,
                                     .data_ms = 300000,
                                     .gate = SMTP_OPEN};
    w->client = (struct smtp_client){
        .peer = "192.0.2.9", .may_relay = true, .starttls = true, .auth = true};
    w->now = 1000;
    w->next_id = 0x2a;
    buf_init(&w->replies, 1 << 20);
    buf_init(&w->body, 1 << 20);
    buf_init(&w->messages, 4 << 20);
}

static void connect_client(struct world *w)
{
    w->s = smtp_session_new(&w->policy, &w->client, on_effect, w, w->now);
    if (w->client.implicit)
        smtp_session_tls(w->s, "TLSv1.3 SUITE", w->now);
    smtp_session_greet(w->s, SMTP_ADMIT, w->now);
}

static void world_free(struct world *w)
{
    smtp_session_free(w->s);
    w->s = NULL;
    buf_free(&w->replies);
    buf_free(&w->body);
    buf_free(&w->messages);
}

/* Sends in pieces, as a driver does: nothing while the session doesn't want it. A wrong password's
 * delay passes by. */
static void send_bytes(struct world *w, struct slice in, size_t piece)
{
    while (in.n && !w->closed && smtp_session_wants_input(w->s)) {
        size_t n = piece < in.n ? piece : in.n;
        smtp_session_input(w->s, slice_of(in.p, n), w->now);
        in.p += n, in.n -= n;
        for (unsigned i = 0; i < 1000; i++) {
            answer(w);
            if (smtp_session_wants_input(w->s) || w->closed || w->hold)
                break;
            w->now += 1000;
            smtp_session_tick(w->s, w->now);
        }
    }
}

static void send_text(struct world *w, const char *text)
{
    send_bytes(w, slice_str(text), SIZE_MAX);
}

static const char *replies(struct world *w)
{
    ck_assert(buf_append(&w->replies, "", 1));
    w->replies.len--;
    return (const char *)w->replies.data;
}

static const char *messages(struct world *w)
{
    ck_assert(buf_append(&w->messages, "", 1));
    w->messages.len--;
    return (const char *)w->messages.data;
}

/* Only the codes, enhanced ones to their ninth byte: "220 250 2.1.0 354". */
static const char *codes(struct world *w)
{
    static char out[8192];
    size_t n = 0;
    out[0] = 0;
    for (const char *p = replies(w); *p && n < sizeof out - 16; p = strchr(p, '\n') + 1) {
        if (p[3] == '-')
            continue;
        bool enhanced = p[4] == p[0] && p[5] == '.';
        n += (size_t)snprintf(out + n, sizeof out - n, "%s%.*s", n ? " " : "", enhanced ? 9 : 3, p);
        if (enhanced && out[n - 1] == ' ')
            out[--n] = 0;
    }
    return out;
}

#define HELLO   "EHLO client.test\r\n"
#define START   HELLO "MAIL FROM:<a@b.test>\r\nRCPT TO:<c@D.test>\r\n"
#define GREETED "220 250"
#define STARTED GREETED " 250 2.1.0 250 2.1.5"

/* One script, fed in several ways, has one outcome. */
static void expect_with(const struct world *like, const char *script, size_t n,
                        const char *want_codes, const char *want_messages)
{
    static const size_t pieces[] = {SIZE_MAX, 1, 2, 3, 5, 17, 64};
    for (size_t i = 0; i < 2 * sizeof pieces / sizeof pieces[0]; i++) {
        struct world w;
        world_init(&w);
        if (like) {
            w.policy = like->policy;
            w.client = like->client;
        }
        w.sync = i % 2;
        connect_client(&w);
        send_bytes(&w, slice_of(script, n), pieces[i / 2]);
        ck_assert_msg(strcmp(codes(&w), want_codes) == 0, "piece %zu sync %d\n%s\ngot  %s\nwant %s",
                      pieces[i / 2], w.sync, script, codes(&w), want_codes);
        if (want_messages)
            ck_assert_str_eq(messages(&w), want_messages);
        ck_assert(smtp_session_closed(w.s) == w.closed);
        world_free(&w);
    }
}

static void expect(const char *script, const char *want_codes, const char *want_messages)
{
    expect_with(NULL, script, strlen(script), want_codes, want_messages);
}

START_TEST(test_plain_message)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    ck_assert_str_eq(replies(&w), "220 mx.test ESMTP Baton\r\n");
    send_text(&w, HELLO);
    ck_assert(strstr(replies(&w), "250-mx.test\r\n250-PIPELINING\r\n250-SIZE 100000\r\n"
                                  "250-8BITMIME\r\n250-SMTPUTF8\r\n250-CHUNKING\r\n250-DSN\r\n"
                                  "250-LIMITS RCPTMAX=10\r\n250-STARTTLS\r\n"
                                  "250 ENHANCEDSTATUSCODES\r\n"));
    ck_assert(!strstr(replies(&w), "AUTH")); /* not in the clear */
    ck_assert(!strstr(replies(&w), "BINARYMIME"));
    send_text(&w, "MAIL FROM:<a@b.test>\r\n");
    send_text(&w, "RCPT TO:<c@D.test>\r\n");
    send_text(&w, "DATA\r\n");
    send_text(&w, "Subject: x\r\nX-Campaign: spring\r\n\r\nhello\r\n..dot\r\n.\r\n");
    ck_assert(strstr(replies(&w), "\r\n250 2.0.0 Ok: queued as 000000000000002a\r\n"));
    ck_assert_str_eq(messages(&w), "from=<a@b.test> campaign=spring to=<c@D.test>(d.test)\n"
                                   "Subject: x\r\nX-Campaign: spring\r\n\r\nhello\r\n.dot\r\n\n");
    ck_assert_str_eq(w.prefix, "Received: from client.test ([192.0.2.9])\r\n"
                               "\tby mx.test (Baton) with ESMTP id 000000000000002a\r\n"
                               "\tfor <c@D.test>;\r\n\tFri, 02 Jan 2026 03:04:05 +0000\r\n"
                               "Date: Fri, 02 Jan 2026 03:04:05 +0000\r\n"
                               "Message-ID: <000000000000002a.18bcfe56800@mx.test>\r\n");
    send_text(&w, "QUIT\r\n");
    ck_assert(w.closed && !w.lingers && strstr(replies(&w), "221 2.0.0 Bye\r\n"));
    world_free(&w);
}
END_TEST

START_TEST(test_pipelined_groups_leave_in_one_write)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, HELLO);
    w.writes = 0;
    send_text(&w, "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nRCPT TO:<e@f>\r\nDATA\r\n");
    ck_assert_uint_eq(w.writes, 1);
    w.sync = true;
    send_text(&w, "x\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n");
    ck_assert_uint_eq(w.writes, 2);
    ck_assert_str_eq(codes(&w), STARTED " 250 2.1.5 354 250 2.0.0 250 2.1.0 250 2.1.5 354");
    world_free(&w);
}
END_TEST

START_TEST(test_transcripts)
{
    expect(START "DATA\r\nx\r\n.\r\n"
                 "MAIL FROM:<>\r\nRCPT TO:<e@f>\r\nDATA\r\n.\r\nQUIT\r\n",
           STARTED " 354 250 2.0.0 250 2.1.0 250 2.1.5 354 250 2.0.0 221 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test)\nx\r\n\nfrom=<> to=<e@f>(f)\n\n");
    /* lower case, odd spacing, trailing blanks */
    expect("helo x\r\nmail from: <a@b>  \r\nrcpt to:<c@d>\r\ndata\r\n..\r\n...\r\n.\r\n",
           "220 250 250 2.1.0 250 2.1.5 354 250 2.0.0", "from=<a@b> to=<c@d>(d)\n.\r\n..\r\n\n");
    /* DSN, SMTPUTF8, 8BITMIME */
    expect(HELLO "MAIL FROM:<j\xc3\xb6@b> SMTPUTF8 BODY=8BITMIME RET=FULL ENVID=q+3D\r\n"
                 "RCPT TO:<\xc3\xa9@d> NOTIFY=SUCCESS,FAILURE ORCPT=rfc822;x@y\r\n"
                 "DATA\r\n\xff\r\n.\r\n",
           "220 250 250 2.1.0 250 2.1.5 354 250 2.0.0",
           "from=<j\xc3\xb6@b> envid=q+3D flags=7 to=<\xc3\xa9@d>(d)notify=6orcpt=rfc822;x@y\n"
           "\xff\r\n\n");
    expect(HELLO "MAIL FROM:<j\xc3\xb6@b>\r\nMAIL FROM:<a@b>\r\nRCPT TO:<\xc3\xa9@d>\r\n",
           "220 250 553 5.6.7 250 2.1.0 553 5.6.7", "");
    /* a recipient named twice gets one copy; <postmaster> is ours */
    expect(START "RCPT TO:<c@d.TEST>\r\nRCPT TO:<C@d.test>\r\nRCPT TO:<postmaster>\r\n"
                 "DATA\r\n.\r\n",
           STARTED " 250 2.1.5 250 2.1.5 250 2.1.5 354 250 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test) to=<C@d.test>(d.test) "
           "to=<postmaster@mx.test>(mx.test)\n\n");
    expect(HELLO "VRFY x\r\nEXPN x\r\nETRN x\r\nHELP\r\nNOOP x\r\nRSET\r\nXYZZY\r\n\r\nBYE\r\n",
           "220 250 252 2.0.0 502 5.5.1 502 5.5.1 214 2.0.0 250 2.0.0 250 2.0.0 500 5.5.2 "
           "500 5.5.2 500 5.5.2",
           "");
    expect(START "RSET\r\nRCPT TO:<c@d>\r\n", STARTED " 250 2.0.0 503 5.5.1", "");
    expect(START HELLO "RCPT TO:<c@d>\r\n", STARTED " 250 503 5.5.1", "");
    expect("GET / HTTP/1.0\r\nMAIL FROM:<a@b>\r\n", "220 521 5.5.1", "");
    expect("POST / HTTP/1.0\r\n", "220 521 5.5.1", "");
    expect("CONNECT a:25 HTTP/1.0\r\n", "220 521 5.5.1", "");
}
END_TEST

START_TEST(test_wrong_sequences)
{
    expect("MAIL FROM:<a@b>\r\n", "220 503 5.5.1", "");
    expect("RCPT TO:<a@b>\r\n", "220 503 5.5.1", "");
    expect("DATA\r\n", "220 503 5.5.1", "");
    expect("STARTTLS\r\n", "220 503 5.5.1", "");
    expect("AUTH PLAIN AA==\r\n", "220 503 5.5.1", "");
    expect("EHLO\r\nEHLO a b\r\nHELO\r\n", "220 501 5.5.4 501 5.5.4 501 5.5.4", "");
    expect(HELLO "RCPT TO:<a@b>\r\nDATA\r\n", "220 250 503 5.5.1 503 5.5.1", "");
    expect(HELLO "MAIL FROM:<a@b>\r\nMAIL FROM:<a@b>\r\nDATA\r\nDATA x\r\n",
           "220 250 250 2.1.0 503 5.5.1 554 5.5.1 501 5.5.4", "");
    expect(START "STARTTLS\r\nAUTH PLAIN\r\n", STARTED " 503 5.5.1 503 5.5.1", "");
    expect(HELLO "MAIL\r\nMAIL <a@b>\r\nMAIL FROM:a@b\r\nMAIL FROM:<a@b> X=1\r\n"
                 "MAIL FROM:<a@b> BODY=BINARYMIME\r\nMAIL FROM:<a@b>x\r\n",
           "220 250 501 5.5.4 501 5.5.4 501 5.1.7 555 5.5.4 555 5.6.1 501 5.5.4", "");
    expect(START "RCPT TO:x\r\nRCPT TO:<>\r\nRCPT\r\nRCPT TO:<a@b> FOO\r\n",
           STARTED " 501 5.1.3 501 5.1.3 501 5.5.4 555 5.5.4", "");
    expect("HELO x\r\nSTARTTLS\r\nAUTH LOGIN\r\n", "220 250 503 5.5.1 503 5.5.1", "");
    expect(HELLO "QUIT now\r\nRSET x\r\n", "220 250 501 5.5.4 501 5.5.4", "");
}
END_TEST

/* Every way to write an end of data that isn't one. What follows is mail inside the mail: it must
 * stay text, whatever the pieces. */
START_TEST(test_no_smuggling)
{
    static const struct {
        const char *text;
        size_t n;
    } ends[] = {
#define E(s) {s, sizeof(s) - 1}
        E("\n.\n"),        E("\n.\r\n"),        E("\r\n.\n"),     E("\r.\r"),
        E("\r\n.\r"),      E("\r.\r\n"),        E("\r.\n"),       E("\n.\r"),
        E("\r\n\0.\r\n"),  E("\r\n.\0\r\n"),    E("\r\0\n.\r\n"), E("\r\n.\r\0\n"),
        E("\n\r.\r\n"),    E("\r\r\n.\r.\r\n"), E("\n\n.\n\n"),   E("\r\n.\r\r"),
        E("\r\n.\r.\r\n"), E("\n\r\r\n.\n"),    E("\0"),          E("\r\n.\r\r\r"),
#undef E
    };
    for (size_t i = 0; i < sizeof ends / sizeof ends[0]; i++) {
        char script[600];
        size_t n = 0;
        n += (size_t)sprintf(script, "%s", START "DATA\r\nSubject: a\r\n\r\nfirst");
        memcpy(script + n, ends[i].text, ends[i].n);
        n += ends[i].n;
        n += (size_t)sprintf(script + n, "%s",
                             "MAIL FROM:<evil@b>\r\nRCPT TO:<v@d>\r\nDATA\r\nFrom: x\r\n\r\nbad\r\n"
                             ".\r\nNOOP\r\nQUIT\r\n");
        expect_with(NULL, script, n, STARTED " 354 550 5.6.0 250 2.0.0 221 2.0.0", "");
        for (size_t cut = 1; cut < n; cut++) {
            struct world w;
            world_init(&w);
            connect_client(&w);
            send_bytes(&w, slice_of(script, cut), SIZE_MAX);
            send_bytes(&w, slice_of(script + cut, n - cut), SIZE_MAX);
            ck_assert_str_eq(codes(&w), STARTED " 354 550 5.6.0 250 2.0.0 221 2.0.0");
            ck_assert_uint_eq(w.messages.len, 0);
            ck_assert_uint_eq(w.completes, 0);
            world_free(&w);
        }
    }
}
END_TEST

START_TEST(test_true_ends)
{
    /* A lone dot right after 354, a CR LF that itself follows a stray CR, dots that aren't alone.
     */
    expect(START "DATA\r\n.\r\nNOOP\r\n", STARTED " 354 250 2.0.0 250 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test)\n\n");
    expect(START "DATA\r\na\r\r\n.\r\nNOOP\r\n", STARTED " 354 550 5.6.0 250 2.0.0", "");
    expect(START "DATA\r\n.a\r\n..\r\n. \r\n\r\n.\r\n", STARTED " 354 250 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test)\na\r\n.\r\n \r\n\r\n\n");
}
END_TEST

START_TEST(test_broken_command_lines_end_the_session)
{
    expect("EHLO x\nMAIL FROM:<a@b>\r\n", "220 521 5.5.2", "");
    expect("\n", "220 521 5.5.2", "");
    expect("EHLO a\rb\r\nNOOP\r\n", "220 521 5.5.2", "");
    expect("EHLO a\r\r\nNOOP\r\n", "220 521 5.5.2", "");
    static const char nul[] = "EHLO a\0b\r\nNOOP\r\n";
    expect_with(NULL, nul, sizeof nul - 1, "220 521 5.5.2", "");
}
END_TEST

START_TEST(test_bdat)
{
    expect(START "BDAT 5\r\nab\r\ncBDAT 2 LAST\r\n\r\nNOOP\r\n",
           STARTED " 250 2.0.0 250 2.0.0 250 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test)\nab\r\nc\r\n\n");
    /* dots mean nothing; the last line is completed; CR LF may be split over chunks */
    expect(START "BDAT 8\r\n.\r\n..\r\n\rBDAT 4 last\r\n\n.\r\n", STARTED " 250 2.0.0 250 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test)\n.\r\n..\r\n\r\n.\r\n\n");
    expect(START "BDAT 3 LAST\r\nabc", STARTED " 250 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test)\nabc\r\n\n");
    expect(START "BDAT 3\r\nabcBDAT 0\r\nBDAT 0 LAST\r\n", STARTED " 250 2.0.0 250 2.0.0 250 2.0.0",
           "from=<a@b.test> to=<c@D.test>(d.test)\nabc\r\n\n");
    /* bare ones are refused here too, for the whole message */
    expect(START "BDAT 3\r\na\nbBDAT 1\r\ncBDAT 1 LAST\r\ncNOOP\r\n",
           STARTED " 550 5.6.0 550 5.6.0 550 5.6.0 250 2.0.0", "");
    expect(START "BDAT 2\r\na\rBDAT 1 LAST\r\ncNOOP\r\n", STARTED " 250 2.0.0 550 5.6.0 250 2.0.0",
           "");
    expect(START "BDAT 2 LAST\r\na\rNOOP\r\n", STARTED " 550 5.6.0 250 2.0.0", "");
    /* refused chunks are read over */
    expect(HELLO "BDAT 6\r\nQUIT\r\nNOOP\r\n", "220 250 503 5.5.1 250 2.0.0", "");
    expect(HELLO "MAIL FROM:<a@b>\r\nBDAT 6 LAST\r\nQUIT\r\nNOOP\r\n",
           "220 250 250 2.1.0 554 5.5.1 250 2.0.0", "");
    expect("BDAT 6\r\nQUIT\r\nNOOP\r\n", "220 503 5.5.1 250 2.0.0", "");
    /* the size isn't known: nothing after it can be trusted */
    expect(START "BDAT x\r\nNOOP\r\n", STARTED " 501 5.5.4", "");
    expect(START "BDAT\r\nNOOP\r\n", STARTED " 501 5.5.4", "");
    expect(START "BDAT 5 FIRST\r\nNOOP\r\n", STARTED " 501 5.5.4", "");
    expect(START "BDAT 99999999999999999999\r\nNOOP\r\n", STARTED " 501 5.5.4", "");
    expect(START "BDAT 999999999999999999\r\nNOOP\r\n", STARTED " 552 5.3.4", "");
    /* no mixing */
    expect(START "BDAT 1\r\naDATA\r\nRCPT TO:<x@y>\r\nMAIL FROM:<a@b>\r\nRSET\r\nBDAT 1\r\na",
           STARTED " 250 2.0.0 503 5.5.1 503 5.5.1 503 5.5.1 250 2.0.0 503 5.5.1", "");
}
END_TEST

START_TEST(test_size_limit)
{
    struct world w;
    world_init(&w);
    w.policy.message_bytes = 20;
    const char *s = HELLO "MAIL FROM:<a@b> SIZE=21\r\nMAIL FROM:<a@b> SIZE=20\r\nRCPT TO:<c@d>\r\n"
                          "DATA\r\n123456789012345678\r\n.\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\n"
                          "DATA\r\n1234567890123456789\r\n.\r\nNOOP\r\n";
    expect_with(&w, s, strlen(s),
                "220 250 552 5.3.4 250 2.1.0 250 2.1.5 354 250 2.0.0 250 2.1.0 250 2.1.5 354 "
                "552 5.3.4 250 2.0.0",
                "from=<a@b> to=<c@d>(d)\n123456789012345678\r\n\n");
    s = START "BDAT 10\r\n12345678\r\nBDAT 11\r\n12345678901BDAT 1 LAST\r\nxNOOP\r\n";
    expect_with(&w, s, strlen(s), STARTED " 250 2.0.0 552 5.3.4 552 5.3.4 250 2.0.0", "");
    world_free(&w);
}
END_TEST

START_TEST(test_endless_text_is_cut_off)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, START "DATA\r\n");
    char *much = xmalloc(65536);
    memset(much, 'x', 65536);
    unsigned n = 0;
    while (!w.closed && n < 100) {
        send_bytes(&w, slice_of(much, 65536), SIZE_MAX);
        n++;
    }
    ck_assert(w.closed && w.lingers && n < 25);
    ck_assert_str_eq(codes(&w), STARTED " 354 552 5.3.4");
    free(much);
    world_free(&w);
}
END_TEST

START_TEST(test_too_many_recipients)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, HELLO "MAIL FROM:<a@b>\r\n");
    for (unsigned i = 0; i < 40; i++) {
        char line[64];
        snprintf(line, sizeof line, "RCPT TO:<u%u@d>\r\n", i);
        buf_clear(&w.replies);
        send_text(&w, line);
        ck_assert_str_eq(codes(&w), i < 10 ? "250 2.1.5" : "452 4.5.3");
    }
    send_text(&w, "DATA\r\n.\r\n");
    ck_assert(!w.closed);
    ck_assert_uint_eq(w.last.recipients, 10);
    world_free(&w);
}
END_TEST

START_TEST(test_noisy_clients)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    for (unsigned i = 0; i < 21; i++)
        send_text(&w, "BOGUS\r\n");
    ck_assert(w.closed);
    ck_assert(strstr(replies(&w), "421 4.7.0 mx.test Too many errors\r\n"));
    world_free(&w);
    world_init(&w);
    connect_client(&w);
    send_text(&w, HELLO);
    for (unsigned i = 0; i < 200 && !w.closed; i++)
        send_text(&w, "NOOP\r\n");
    ck_assert(w.closed && strstr(replies(&w), "421 4.7.0"));
    world_free(&w);
}
END_TEST

START_TEST(test_long_lines)
{
    char script[20000];
    size_t n = (size_t)sprintf(script, "%s", HELLO "NOOP ");
    memset(script + n, 'x', 3000);
    n += 3000;
    n += (size_t)sprintf(script + n, "\r\nNOOP\r\n");
    expect_with(NULL, script, n, "220 250 500 5.5.2 250 2.0.0", "");
    struct world w;
    world_init(&w);
    w.client.implicit = true;
    n = (size_t)sprintf(script, "%s", HELLO "AUTH LOGIN\r\n");
    memset(script + n, 'A', 13000);
    n += 13000;
    n += (size_t)sprintf(script + n, "\r\nNOOP\r\n");
    expect_with(&w, script, n, "220 250 334 500 5.5.6 250 2.0.0", "");
    world_free(&w);
    /* a line of exactly the limit passes */
    n = (size_t)sprintf(script, "%s", HELLO "NOOP ");
    size_t start = strlen(HELLO);
    memset(script + n, 'x', 2048);
    n = start + 2046;
    n += (size_t)sprintf(script + n, "\r\nNOOP\r\n");
    expect_with(NULL, script, n, "220 250 250 2.0.0 250 2.0.0", "");
}
END_TEST

START_TEST(test_hops)
{
#define R "Received: x\r\n"
    expect(START "DATA\r\n" R R R R "\r\n" R R ".\r\n", STARTED " 354 250 2.0.0", NULL);
    expect(START "DATA\r\n" R R R R R "\r\n.\r\nNOOP\r\n", STARTED " 354 554 5.4.6 250 2.0.0", "");
#undef R
}
END_TEST

START_TEST(test_relaying)
{
    struct world w;
    world_init(&w);
    w.client.may_relay = false;
    const char *s = HELLO "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n";
    expect_with(&w, s, strlen(s), "220 250 250 2.1.0 550 5.7.1 554 5.5.1", "");
    w.client.auth_required = w.client.may_relay = true;
    s = HELLO "MAIL FROM:<a@b>\r\n";
    expect_with(&w, s, strlen(s), "220 250 530 5.7.0", "");
    world_free(&w);
}
END_TEST

/* joe / secret */
#define PLAIN_OK  "AGpvZQBzZWNyZXQ="
#define PLAIN_BAD "AGpvZQB3cm9uZw=="

START_TEST(test_auth)
{
    struct world w;
    world_init(&w);
    w.client.implicit = w.client.auth_required = true;
    w.client.may_relay = false;
    const char *s = HELLO "AUTH PLAIN " PLAIN_OK "\r\nMAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n"
                          ".\r\nAUTH PLAIN " PLAIN_OK "\r\n";
    expect_with(&w, s, strlen(s), "220 250 235 2.7.0 250 2.1.0 250 2.1.5 354 250 2.0.0 503 5.5.1",
                "from=<a@b> to=<c@d>(d)\n\n");
    s = HELLO "AUTH PLAIN\r\n" PLAIN_OK "\r\nMAIL FROM:<a@b>\r\n";
    expect_with(&w, s, strlen(s), "220 250 334 235 2.7.0 250 2.1.0", "");
    s = HELLO "AUTH LOGIN\r\nam9l\r\nc2VjcmV0\r\nMAIL FROM:<a@b>\r\n";
    expect_with(&w, s, strlen(s), "220 250 334 334 235 2.7.0 250 2.1.0", "");
    s = HELLO "AUTH login am9l\r\nc2VjcmV0\r\n";
    expect_with(&w, s, strlen(s), "220 250 334 235 2.7.0", "");
    s = HELLO "AUTH PLAIN " PLAIN_BAD "\r\nMAIL FROM:<a@b>\r\n";
    expect_with(&w, s, strlen(s), "220 250 535 5.7.8 530 5.7.0", "");
    s = HELLO "AUTH PLAIN " PLAIN_BAD "\r\nAUTH LOGIN am9l\r\nd3Jvbmc=\r\nAUTH PLAIN " PLAIN_BAD
              "\r\nAUTH PLAIN " PLAIN_OK "\r\n";
    expect_with(&w, s, strlen(s), "220 250 535 5.7.8 334 535 5.7.8 421 4.7.0", "");
    s = HELLO "AUTH PLAIN\r\n*\r\nAUTH PLAIN =\r\nAUTH PLAIN ####\r\nAUTH PLAIN AA\r\n"
              "AUTH LOGIN =\r\nAUTH CRAM-MD5\r\nAUTH\r\nAUTH PLAIN AGpvZQA=\r\n"
              "AUTH PLAIN QUFBAGpvZQBzZWNyZXQ=\r\n";
    expect_with(&w, s, strlen(s),
                "220 250 334 501 5.7.0 501 5.5.2 501 5.5.2 501 5.5.2 501 5.5.2 504 5.5.4 501 5.5.4 "
                "501 5.5.2 501 5.5.2",
                "");
    w.client.implicit = false;
    s = HELLO "AUTH PLAIN " PLAIN_OK "\r\n";
    expect_with(&w, s, strlen(s), "220 250 538 5.7.1", "");
    w.client.auth = false;
    expect_with(&w, s, strlen(s), "220 250 502 5.5.1", "");
    world_free(&w);
}
END_TEST

START_TEST(test_wrong_password_waits)
{
    struct world w;
    world_init(&w);
    w.client.implicit = true;
    w.sync = true;
    connect_client(&w);
    send_text(&w, HELLO);
    ck_assert(strstr(replies(&w), "250-AUTH PLAIN LOGIN\r\n"));
    ck_assert(!strstr(replies(&w), "STARTTLS"));
    buf_clear(&w.replies);
    struct slice in = SLICE_LIT("AUTH PLAIN " PLAIN_BAD "\r\nNOOP\r\n");
    smtp_session_input(w.s, in, w.now);
    ck_assert_uint_eq(w.replies.len, 0);
    smtp_session_tick(w.s, w.now + 900);
    ck_assert_uint_eq(w.replies.len, 0);
    ck_assert(!smtp_session_wants_input(w.s));
    smtp_session_tick(w.s, w.now + 1000);
    ck_assert_str_eq(codes(&w), "535 5.7.8 250 2.0.0");
    world_free(&w);
}
END_TEST

START_TEST(test_starttls)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, HELLO);
    send_text(&w, "STARTTLS\r\n");
    send_text(&w, "MAIL FROM:<a@b>\r\n"); /* EHLO is due again */
    send_text(&w, HELLO);
    ck_assert(strstr(replies(&w), "250-AUTH PLAIN LOGIN"));
    send_text(&w, "STARTTLS\r\n");
    send_text(&w, "MAIL FROM:<a@b>\r\nRCPT TO:<c@d>\r\nDATA\r\n.\r\n");
    ck_assert_str_eq(codes(&w), "220 250 220 2.0.0 503 5.5.1 250 503 5.5.1 250 2.1.0 250 2.1.5 354 "
                                "250 2.0.0");
    ck_assert(strstr(w.prefix, "with ESMTPS id"));
    ck_assert(strstr(w.prefix, "(using TLSv1.3 SUITE)"));
    world_free(&w);
}
END_TEST

START_TEST(test_starttls_injection)
{
    for (size_t cut = 1; cut < 6; cut++) {
        struct world w;
        world_init(&w);
        w.hold = true;
        connect_client(&w);
        static const char in[] = HELLO "STARTTLS\r\nRSET\r\nMAIL FROM:<a@b>\r\n";
        smtp_session_input(w.s, slice_str(in), w.now);
        ck_assert(w.closed && !w.tls_due);
        ck_assert_str_eq(codes(&w), "220 250"); /* EHLO is answered, STARTTLS isn't */
        world_free(&w);
        /* in a second segment, before the handshake */
        world_init(&w);
        connect_client(&w);
        smtp_session_input(w.s, SLICE_LIT(HELLO "STARTTLS\r\n"), w.now);
        ck_assert(w.tls_due && !w.closed);
        smtp_session_input(w.s, slice_of("RSET\r\n", cut), w.now);
        ck_assert(w.closed);
        world_free(&w);
    }
}
END_TEST

START_TEST(test_early_talkers)
{
    struct world w;
    world_init(&w);
    w.s = smtp_session_new(&w.policy, &w.client, on_effect, &w, w.now);
    smtp_session_input(w.s, SLICE_LIT(HELLO), w.now);
    smtp_session_greet(w.s, SMTP_ADMIT, w.now);
    ck_assert(w.closed && w.lingers);
    ck_assert_str_eq(codes(&w), "521 5.5.1");
    world_free(&w);
}
END_TEST

START_TEST(test_too_many_connections)
{
    for (int i = SMTP_TOO_MANY; i <= SMTP_TOO_MANY_FROM_ADDRESS; i++) {
        struct world w;
        world_init(&w);
        w.s = smtp_session_new(&w.policy, &w.client, on_effect, &w, w.now);
        smtp_session_greet(w.s, (enum smtp_admission)i, w.now);
        ck_assert(w.closed);
        ck_assert_str_eq(codes(&w), "421 4.7.0");
        world_free(&w);
    }
}
END_TEST

START_TEST(test_commit_comes_before_the_reply)
{
    struct world w;
    world_init(&w);
    w.hold = true;
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n.\r\nNOOP\r\nMAIL FROM:<z@b>\r\n");
    ck_assert_str_eq(codes(&w), STARTED " 354");
    ck_assert(smtp_session_committing(w.s) && !smtp_session_wants_input(w.s));
    take_message(&w);
    ck_assert_str_eq(codes(&w), STARTED " 354");
    smtp_session_fate(w.s, SMTP_COMMITTED, w.now);
    ck_assert_str_eq(codes(&w), STARTED " 354 250 2.0.0 250 2.0.0 250 2.1.0");
    world_free(&w);
}
END_TEST

START_TEST(test_other_fates)
{
    for (int sync = 0; sync < 2; sync++) {
        struct world w;
        world_init(&w);
        w.sync = sync;
        w.fate = SMTP_UNDECIDED;
        connect_client(&w);
        send_text(&w, START "DATA\r\nx\r\n.\r\nNOOP\r\n");
        ck_assert_str_eq(codes(&w), STARTED " 354"); /* not a word */
        ck_assert(w.closed);
        world_free(&w);
        world_init(&w);
        w.sync = sync;
        w.fate = SMTP_NEVER_NUMBERED;
        connect_client(&w);
        send_text(&w, START "DATA\r\nx\r\n.\r\nNOOP\r\n");
        ck_assert_str_eq(codes(&w), STARTED " 354 421 4.3.2");
        ck_assert(w.closed);
        world_free(&w);
    }
}
END_TEST

START_TEST(test_gate)
{
    struct world w;
    world_init(&w);
    w.policy.gate = SMTP_NOT_PRIMARY;
    connect_client(&w);
    ck_assert_str_eq(codes(&w), "421 4.3.2");
    ck_assert(w.closed);
    world_free(&w);

    world_init(&w);
    w.policy.gate = SMTP_ALONE;
    expect_with(&w, HELLO "MAIL FROM:<a@b>\r\n", strlen(HELLO "MAIL FROM:<a@b>\r\n"),
                "220 250 451 4.3.2", "");
    w.policy.gate = SMTP_FULL;
    expect_with(&w, HELLO "MAIL FROM:<a@b>\r\n", strlen(HELLO "MAIL FROM:<a@b>\r\n"),
                "220 250 452 4.3.1", "");
    world_free(&w);

    world_init(&w); /* idle: at once */
    connect_client(&w);
    send_text(&w, START);
    w.policy.gate = SMTP_NOT_PRIMARY;
    smtp_session_gate(w.s, w.now);
    ck_assert(w.closed);
    ck_assert_str_eq(codes(&w), STARTED " 421 4.3.2");
    world_free(&w);

    world_init(&w); /* within a command: when it has come */
    connect_client(&w);
    send_text(&w, HELLO "MAIL FR");
    w.policy.gate = SMTP_NOT_PRIMARY;
    smtp_session_gate(w.s, w.now);
    ck_assert(!w.closed);
    send_text(&w, "OM:<a@b>\r\n");
    ck_assert(w.closed);
    ck_assert_str_eq(codes(&w), GREETED " 421 4.3.2");
    world_free(&w);

    world_init(&w); /* with the queue: waits for its fate */
    w.hold = true;
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n.\r\n");
    w.policy.gate = SMTP_NOT_PRIMARY;
    smtp_session_gate(w.s, w.now);
    ck_assert(!w.closed);
    take_message(&w);
    smtp_session_fate(w.s, SMTP_COMMITTED, w.now);
    ck_assert_str_eq(codes(&w), STARTED " 354 250 2.0.0 421 4.3.2");
    ck_assert(w.closed);
    world_free(&w);

    world_init(&w); /* within the text: at its end, or soon */
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n");
    w.policy.gate = SMTP_NOT_PRIMARY;
    smtp_session_gate(w.s, w.now);
    ck_assert(!w.closed && w.discards == 1);
    w.policy.gate = SMTP_OPEN; /* even if it opens again meanwhile */
    smtp_session_gate(w.s, w.now);
    send_text(&w, "y\r\n.\r\n");
    ck_assert_str_eq(codes(&w), STARTED " 354 421 4.3.2");
    ck_assert(w.closed && w.completes == 0);
    world_free(&w);

    world_init(&w);
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n");
    w.policy.gate = SMTP_NOT_PRIMARY;
    smtp_session_gate(w.s, w.now);
    for (unsigned i = 0; i < 20 && !w.closed; i++) {
        w.now += 1000;
        send_text(&w, "more text\r\n");
        smtp_session_tick(w.s, w.now);
    }
    ck_assert(w.closed);
    ck_assert_str_eq(codes(&w), STARTED " 354 421 4.3.2");
    world_free(&w);
}
END_TEST

START_TEST(test_lost_chunk)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n");
    smtp_session_body_lost(w.s, w.now);
    ck_assert_uint_eq(w.discards, 1);
    send_text(&w, "y\r\n.\r\n");
    ck_assert_str_eq(codes(&w), STARTED " 354 421 4.3.2");
    ck_assert_uint_eq(w.completes, 0);
    world_free(&w);
}
END_TEST

START_TEST(test_timeouts)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    smtp_session_tick(w.s, w.now + 299999);
    ck_assert(!w.closed);
    smtp_session_tick(w.s, w.now + 300000);
    ck_assert(w.closed);
    ck_assert_str_eq(codes(&w), "220 421 4.4.2");
    world_free(&w);

    world_init(&w); /* a letter a minute is no command */
    connect_client(&w);
    for (unsigned i = 0; i < 10 && !w.closed; i++) {
        w.now += 60000;
        send_text(&w, "N");
        smtp_session_tick(w.s, w.now);
    }
    ck_assert(w.closed);
    world_free(&w);

    world_init(&w); /* nor is a trickle of text a message; a slow but honest sender has time */
    connect_client(&w);
    send_text(&w, START "DATA\r\n");
    unsigned minutes = 0;
    while (!w.closed && minutes < 60) {
        w.now += 60000;
        smtp_session_tick(w.s, w.now);
        send_text(&w, "x\r\n");
        minutes++;
    }
    ck_assert_uint_lt(minutes, 7);
    ck_assert_str_eq(codes(&w), STARTED " 354 421 4.4.2");
    ck_assert_uint_eq(w.discards, 1);
    world_free(&w);

    world_init(&w);
    w.policy.message_bytes = 10 << 20;
    connect_client(&w);
    send_text(&w, START "DATA\r\n");
    char line[1001];
    memset(line, 'x', 998);
    memcpy(line + 998, "\r\n", 3);
    for (unsigned i = 0; i < 900; i++) { /* 1 KB/s */
        w.now += 1000;
        smtp_session_tick(w.s, w.now);
        send_text(&w, line);
    }
    ck_assert(!w.closed);
    world_free(&w);

    world_init(&w); /* a fate that never comes: no reply */
    w.hold = true;
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n.\r\n");
    smtp_session_tick(w.s, w.now + 599999);
    ck_assert(!w.closed);
    smtp_session_tick(w.s, w.now + 600000);
    ck_assert(w.closed);
    ck_assert_str_eq(codes(&w), STARTED " 354");
    world_free(&w);
}
END_TEST

START_TEST(test_client_that_goes_away)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n");
    smtp_session_eof(w.s, w.now);
    ck_assert(w.closed && w.discards == 1 && w.completes == 0);
    world_free(&w);

    world_init(&w); /* half-closed behind its last command: it still hears */
    w.hold = true;
    connect_client(&w);
    send_text(&w, START "DATA\r\nx\r\n.\r\nQUIT\r\n");
    smtp_session_eof(w.s, w.now);
    ck_assert(!w.closed);
    take_message(&w);
    smtp_session_fate(w.s, SMTP_COMMITTED, w.now);
    ck_assert_str_eq(codes(&w), STARTED " 354 250 2.0.0 221 2.0.0");
    ck_assert(w.closed);
    world_free(&w);
}
END_TEST

START_TEST(test_stop)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, START);
    smtp_session_stop(w.s, w.now);
    ck_assert_str_eq(codes(&w), STARTED " 421 4.3.2");
    ck_assert(w.closed);
    world_free(&w);
    world_init(&w);
    w.hold = true;
    connect_client(&w);
    send_text(&w, START "DATA\r\n.\r\n");
    smtp_session_stop(w.s, w.now);
    ck_assert_str_eq(codes(&w), STARTED " 354");
    ck_assert(w.closed);
    world_free(&w);
}
END_TEST

START_TEST(test_text_without_header)
{
    struct world w;
    world_init(&w);
    connect_client(&w);
    send_text(&w, START "DATA\r\nhello world\r\n.\r\n");
    size_t n = strlen(w.prefix);
    ck_assert(n > 4 && strcmp(w.prefix + n - 4, "\r\n\r\n") == 0);
    world_free(&w);
}
END_TEST

int main(void)
{
    Suite *s = suite_create("smtp_session");
    TCase *t = tcase_create("session");
    tcase_set_timeout(t, 120);
    tcase_add_test(t, test_plain_message);
    tcase_add_test(t, test_pipelined_groups_leave_in_one_write);
    tcase_add_test(t, test_transcripts);
    tcase_add_test(t, test_wrong_sequences);
    tcase_add_test(t, test_no_smuggling);
    tcase_add_test(t, test_true_ends);
    tcase_add_test(t, test_broken_command_lines_end_the_session);
    tcase_add_test(t, test_bdat);
    tcase_add_test(t, test_size_limit);
    tcase_add_test(t, test_endless_text_is_cut_off);
    tcase_add_test(t, test_too_many_recipients);
    tcase_add_test(t, test_noisy_clients);
    tcase_add_test(t, test_long_lines);
    tcase_add_test(t, test_hops);
    tcase_add_test(t, test_relaying);
    tcase_add_test(t, test_auth);
    tcase_add_test(t, test_wrong_password_waits);
    tcase_add_test(t, test_starttls);
    tcase_add_test(t, test_starttls_injection);
    tcase_add_test(t, test_early_talkers);
    tcase_add_test(t, test_too_many_connections);
    tcase_add_test(t, test_commit_comes_before_the_reply);
    tcase_add_test(t, test_other_fates);
    tcase_add_test(t, test_gate);
    tcase_add_test(t, test_lost_chunk);
    tcase_add_test(t, test_timeouts);
    tcase_add_test(t, test_client_that_goes_away);
    tcase_add_test(t, test_stop);
    tcase_add_test(t, test_text_without_header);
    suite_add_tcase(s, t);
    SRunner *r = srunner_create(s);
    srunner_run_all(r, CK_NORMAL);
    int failed = srunner_ntests_failed(r);
    srunner_free(r);
    return failed ? EXIT_FAILURE : EXIT_SUCCESS;
}
