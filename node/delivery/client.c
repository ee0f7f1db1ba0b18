/* See client.h. */
#include "node/delivery/client.h"

#include <assert.h>
#include <stdio.h>

/* Time-outs of RFC 5321 4.5.3.2 and what is said when they strike. */
static const struct {
    uint64_t ms;
    const char *doing;
} waits[] = {
    [CLIENT_CONNECTING] = {60000, "connecting"}, /* the driver's own limit is shorter */
    [CLIENT_GREETING] = {300000, "waiting for the greeting"},
    [CLIENT_EHLO] = {300000, "waiting for the reply to EHLO"},
    [CLIENT_HELO] = {300000, "waiting for the reply to HELO"},
    [CLIENT_STARTTLS] = {300000, "waiting for the reply to STARTTLS"},
    [CLIENT_SECURING] = {60000, "negotiating TLS"},
    [CLIENT_READY] = {300000, "being idle"},
    [CLIENT_ENVELOPE] = {300000, "sending the envelope"},
    [CLIENT_BODY] = {180000, "sending the message"},
    /* For the previous outcome and the right to deliver; for the server only with no_room. */
    [CLIENT_DOT_WAIT] = {30000, "holding the final dot back"},
    [CLIENT_DOT_SENT] = {600000, "waiting for the reply to the final dot"},
    [CLIENT_QUITTING] = {5000, "waiting for the reply to QUIT"},
    [CLIENT_CLOSED] = {1000, "closing"},
};

/* Steps of an envelope. RSET is skipped unless something went wrong before. */
enum { STEP_RSET, STEP_MAIL, STEP_RCPT };

void smtp_client_init(struct smtp_client *c, const char *helo, bool tls_wanted)
{
    *c = (struct smtp_client){.state = CLIENT_CONNECTING, .helo = helo, .tls_wanted = tls_wanted};
    buf_init(&c->out, CLIENT_OUT_MAX);
    reply_reset(&c->parser);
}

void smtp_client_free(struct smtp_client *c)
{
    buf_free(&c->out);
}

uint64_t smtp_client_timeout_ms(const struct smtp_client *c)
{
    return waits[c->state].ms;
}

static bool in_transaction(const struct smtp_client *c)
{
    return c->state >= CLIENT_ENVELOPE && c->state <= CLIENT_DOT_SENT;
}

static void assert_state(const struct smtp_client *c)
{
    assert(in_transaction(c) == (c->tx != NULL));
    assert(c->got <= c->sent || !in_transaction(c));
    (void)c;
}

/* The session is of no use any more: whatever was under way ends with this. */
static unsigned fail(struct smtp_client *c, const struct reply *why)
{
    unsigned effects = CLIENT_CLOSE;
    c->failure = *why;
    c->tls_failed = c->state == CLIENT_SECURING;
    if (c->tx) {
        c->tx->end = c->state == CLIENT_DOT_SENT ? CLIENT_LOST_AFTER : CLIENT_LOST;
        c->tx->dot_withheld = c->state == CLIENT_DOT_WAIT && !c->no_room;
        if (c->state == CLIENT_DOT_WAIT)
            buf_clear(&c->out); /* a text without its dot counts for nothing */
        c->tx->last = *why;
        c->done = c->tx;
        c->tx = NULL;
        effects |= CLIENT_DONE;
    }
    c->state = CLIENT_CLOSED;
    return effects;
}

static unsigned fail_text(struct smtp_client *c, const char *enhanced, const char *what)
{
    char text[256];
    struct reply r;
    snprintf(text, sizeof text, "%s while %s", what, waits[c->state].doing);
    reply_set(&r, 0, enhanced, text);
    return fail(c, &r);
}

unsigned smtp_client_lost(struct smtp_client *c, const char *why)
{
    if (c->state == CLIENT_CLOSED)
        return 0;
    char text[160];
    snprintf(text, sizeof text,
             c->state == CLIENT_CONNECTING ? "%.100s" : "connection lost (%.100s)", why);
    return fail_text(c, c->state == CLIENT_CONNECTING ? "4.4.1" : "4.4.2", text);
}

unsigned smtp_client_opened(struct smtp_client *c)
{
    if (c->state == CLIENT_CONNECTING)
        c->state = CLIENT_GREETING;
    return 0;
}

unsigned smtp_client_timed_out(struct smtp_client *c)
{
    return c->state == CLIENT_CLOSED ? 0 : fail_text(c, "4.4.2", "timed out");
}

static unsigned say(struct smtp_client *c, enum client_state next, const char *verb,
                    const char *arg)
{
    c->state = next;
    return buf_printf(&c->out, "%s%s%s\r\n", verb, arg[0] ? " " : "", arg) ? CLIENT_WRITE
                                                                           : CLIENT_CLOSE;
}

static unsigned ready(struct smtp_client *c)
{
    c->state = CLIENT_READY;
    c->announced = true;
    return CLIENT_CAN_SEND;
}

static bool keyword(struct slice line, const char *name, struct slice *arg)
{
    size_t n = strlen(name);
    if (!slice_istarts(line, slice_of(name, n)) || (line.n > n && line.p[n] != ' '))
        return false;
    *arg = line.n > n ? slice_of(line.p + n + 1, line.n - n - 1) : slice_of(NULL, 0);
    return true;
}

static uint64_t parse_size(struct slice s)
{
    uint64_t v = 0;
    for (size_t i = 0; i < s.n && s.p[i] >= '0' && s.p[i] <= '9'; i++) {
        if (v > UINT64_MAX / 10 - 10)
            return 0;
        v = v * 10 + (uint64_t)(s.p[i] - '0');
    }
    return v;
}

static void learn_extensions(struct smtp_client *c)
{
    static const struct {
        const char *name;
        unsigned ext;
    } known[] = {{"PIPELINING", EXT_PIPELINING},
                 {"8BITMIME", EXT_8BITMIME},
                 {"SMTPUTF8", EXT_SMTPUTF8},
                 {"SIZE", EXT_SIZE},
                 {"DSN", EXT_DSN},
                 {"STARTTLS", EXT_STARTTLS},
                 {"ENHANCEDSTATUSCODES", EXT_ENHANCED}};
    c->extensions = 0; /* what was said before TLS doesn't count: RFC 3207 4.2 */
    c->size_limit = 0;
    const char *s = c->parser.raw, *end = s + c->parser.raw_n;
    for (bool first = true; s < end; first = false) {
        const char *eol = memchr(s, '\n', (size_t)(end - s));
        struct slice line = slice_of(s, (size_t)((eol ? eol : end) - s)), arg;
        for (unsigned i = 0; !first && i < sizeof known / sizeof *known; i++) {
            if (!keyword(line, known[i].name, &arg))
                continue;
            c->extensions |= known[i].ext;
            if (known[i].ext == EXT_SIZE)
                c->size_limit = parse_size(arg);
        }
        s = eol ? eol + 1 : end;
    }
}

static unsigned on_ehlo(struct smtp_client *c, const struct reply *r)
{
    if (r->code / 100 == 5 && !c->secured)
        return say(c, CLIENT_HELO, "HELO", c->helo);
    if (r->code / 100 != 2)
        return fail(c, r);
    learn_extensions(c);
    if (c->tls_wanted && !c->secured && (c->extensions & EXT_STARTTLS))
        return say(c, CLIENT_STARTTLS, "STARTTLS", "");
    return ready(c);
}

static unsigned put_mail(struct smtp_client *c)
{
    const struct client_transaction *tx = c->tx;
    struct buf *b = &c->out;
    bool ok = buf_append_str(b, "MAIL FROM:<") && buf_append_slice(b, tx->sender) &&
              buf_append_str(b, ">");
    if (c->extensions & EXT_SIZE)
        ok = ok && buf_printf(b, " SIZE=%llu", (unsigned long long)tx->size);
    if ((c->extensions & EXT_8BITMIME) && (tx->flags & MSG_8BIT))
        ok = ok && buf_append_str(b, " BODY=8BITMIME");
    if (tx->flags & MSG_UTF8)
        ok = ok && buf_append_str(b, " SMTPUTF8");
    if (c->extensions & EXT_DSN) {
        if (tx->flags & (MSG_RET_FULL | MSG_RET_HDRS))
            ok = ok && buf_append_str(b, tx->flags & MSG_RET_FULL ? " RET=FULL" : " RET=HDRS");
        if (tx->envid.n)
            ok = ok && buf_append_str(b, " ENVID=") && buf_append_slice(b, tx->envid);
    }
    return ok && buf_append_str(b, "\r\n") ? CLIENT_WRITE : CLIENT_CLOSE;
}

static unsigned put_rcpt(struct smtp_client *c, const struct client_recipient *r)
{
    static const char *const names[] = {"NEVER", "SUCCESS", "FAILURE", "DELAY"};
    struct buf *b = &c->out;
    bool ok =
        buf_append_str(b, "RCPT TO:<") && buf_append_slice(b, r->address) && buf_append_str(b, ">");
    if ((c->extensions & EXT_DSN) && r->notify) {
        const char *sep = " NOTIFY=";
        for (unsigned i = 0; i < 4; i++) {
            if (!(r->notify & (1u << i)))
                continue;
            ok = ok && buf_append_str(b, sep) && buf_append_str(b, names[i]);
            sep = ",";
        }
    }
    if ((c->extensions & EXT_DSN) && r->orcpt.n)
        ok = ok && buf_append_str(b, " ORCPT=") && buf_append_slice(b, r->orcpt);
    return ok && buf_append_str(b, "\r\n") ? CLIENT_WRITE : CLIENT_CLOSE;
}

static unsigned put_step(struct smtp_client *c, unsigned step)
{
    if (step == STEP_RSET)
        return buf_append_str(&c->out, "RSET\r\n") ? CLIENT_WRITE : CLIENT_CLOSE;
    if (step == STEP_MAIL)
        return put_mail(c);
    if (step < c->last_step)
        return put_rcpt(c, &c->tx->rcpts[step - STEP_RCPT]);
    return buf_append_str(&c->out, "DATA\r\n") ? CLIENT_WRITE : CLIENT_CLOSE;
}

/* All of the envelope in one flight where the server takes it, else one command at a time. */
static unsigned go_on(struct smtp_client *c)
{
    unsigned effects = 0;
    do {
        effects |= put_step(c, c->sent++);
    } while ((c->extensions & EXT_PIPELINING) && c->sent <= c->last_step);
    if (effects & CLIENT_CLOSE) {
        buf_clear(&c->out);
        struct reply r;
        reply_set(&r, 0, "5.5.2", "the envelope is too large to be sent");
        return fail(c, &r);
    }
    return effects;
}

static void decide(struct client_recipient *r, const struct reply *why)
{
    if (r->decided)
        return;
    r->decided = true;
    r->result = *why;
}

static void decide_all(struct client_transaction *tx, const struct reply *why)
{
    for (unsigned i = 0; i < tx->n; i++)
        decide(&tx->rcpts[i], why);
}

static unsigned answered(struct smtp_client *c)
{
    c->tx->end = CLIENT_ANSWERED;
    c->done = c->tx;
    c->tx = NULL;
    return CLIENT_DONE | ready(c);
}

unsigned smtp_client_send(struct smtp_client *c, struct client_transaction *tx)
{
    assert(c->state == CLIENT_READY && !c->tx);
    assert(tx->n >= 1 && tx->n <= CLIENT_RECIPIENTS_MAX);
    c->tx = tx;
    tx->end = CLIENT_ANSWERED;
    tx->dot_withheld = false;
    c->transactions++;
    c->state = CLIENT_ENVELOPE;
    struct reply r;
    if ((c->extensions & EXT_SIZE) && c->size_limit && tx->size > c->size_limit) {
        reply_set(&r, 552, "5.3.4", "the message is larger than the next hop takes");
        decide_all(tx, &r);
        return answered(c);
    }
    if ((tx->flags & MSG_UTF8) && !(c->extensions & EXT_SMTPUTF8)) {
        reply_set(&r, 550, "5.6.7", "the next hop does not take SMTPUTF8 mail");
        decide_all(tx, &r);
        return answered(c);
    }
    /* 8-bit content goes as it is to a server without 8BITMIME: practically all take it, and
     * converting would change what was signed. */
    c->last_step = STEP_RCPT + tx->n;
    c->sent = c->got = c->rset_due ? STEP_RSET : STEP_MAIL;
    c->accepted = 0;
    c->mail_ok = c->no_room = false;
    return go_on(c);
}

static unsigned bad_reply(struct smtp_client *c, const struct reply *r)
{
    char text[256];
    struct reply why;
    snprintf(text, sizeof text, "unexpected reply %u %.*s while %s", r->code,
             (int)(r->text_n < 100 ? r->text_n : 100), r->text, waits[c->state].doing);
    reply_set(&why, 0, "4.5.0", text);
    return fail(c, &why);
}

static unsigned on_data_reply(struct smtp_client *c, const struct reply *r)
{
    if (r->code == 354) {
        /* Without a recipient an empty message would go out, or a server confused: leave it. */
        if (!c->accepted)
            return bad_reply(c, r);
        c->state = CLIENT_BODY;
        c->line_pos = 2;
        return CLIENT_WANT_BODY;
    }
    if (r->code < 400)
        return bad_reply(c, r);
    decide_all(c->tx, r);
    c->rset_due = true;
    return answered(c);
}

static unsigned on_envelope(struct smtp_client *c, const struct reply *r)
{
    unsigned step = c->got++;
    assert(c->got <= c->sent);
    if (step == STEP_RSET) {
        if (r->code / 100 != 2)
            return bad_reply(c, r);
        c->rset_due = false;
    } else if (step == STEP_MAIL) {
        if (r->code / 100 == 3)
            return bad_reply(c, r);
        c->mail_ok = r->code / 100 == 2;
        if (!c->mail_ok)
            decide_all(c->tx, r);
    } else if (step < c->last_step) {
        struct client_recipient *rcpt = &c->tx->rcpts[step - STEP_RCPT];
        if (r->code / 100 == 3)
            return bad_reply(c, r);
        if (r->code / 100 != 2) {
            decide(rcpt, r);
        } else if (c->mail_ok) {
            rcpt->accepted = true;
            c->accepted++;
        }
    } else {
        return on_data_reply(c, r);
    }
    if (c->sent > c->got)
        return 0;
    if (step >= STEP_MAIL && (!c->mail_ok || (c->got == c->last_step && !c->accepted))) {
        c->rset_due = true; /* nothing left to send to: no DATA */
        return answered(c);
    }
    return go_on(c);
}

static unsigned on_dot(struct smtp_client *c, const struct reply *r)
{
    if (r->code / 100 == 3)
        return bad_reply(c, r);
    for (unsigned i = 0; i < c->tx->n; i++)
        if (c->tx->rcpts[i].accepted)
            decide(&c->tx->rcpts[i], r);
    c->rset_due = r->code / 100 != 2;
    return answered(c);
}

static unsigned on_reply(struct smtp_client *c, const struct reply *r)
{
    /* 421 may come at any time and ends the session; after the final dot it is the answer. */
    if (r->code == 421 && c->state != CLIENT_DOT_SENT)
        return fail(c, r);
    switch (c->state) {
    case CLIENT_CONNECTING:
        assert(!"bytes before the connection");
        break;
    case CLIENT_GREETING:
        return r->code == 220   ? say(c, CLIENT_EHLO, "EHLO", c->helo)
               : r->code >= 400 ? fail(c, r)
                                : bad_reply(c, r);
    case CLIENT_EHLO:
        return on_ehlo(c, r);
    case CLIENT_HELO:
        c->extensions = 0;
        return r->code / 100 == 2 ? ready(c) : fail(c, r);
    case CLIENT_STARTTLS:
        if (r->code != 220)
            return ready(c); /* opportunistic: it won't, so in the clear */
        c->state = CLIENT_SECURING;
        return CLIENT_START_TLS;
    case CLIENT_ENVELOPE:
        return on_envelope(c, r);
    case CLIENT_DOT_SENT:
        return on_dot(c, r);
    case CLIENT_QUITTING:
        c->state = CLIENT_CLOSED;
        reply_set(&c->failure, 0, "", "closed");
        return CLIENT_CLOSE;
    case CLIENT_BODY: /* a reply before the final dot: it gave up, 421 or not */
    case CLIENT_DOT_WAIT:
    case CLIENT_READY:
    case CLIENT_SECURING:
        return bad_reply(c, r);
    case CLIENT_CLOSED:
        break;
    }
    return 0;
}

unsigned smtp_client_input(struct smtp_client *c, struct slice bytes)
{
    unsigned effects = 0;
    while (bytes.n && c->state != CLIENT_CLOSED) {
        struct reply r;
        size_t used = 0;
        assert_state(c);
        /* Plaintext behind the 220 of STARTTLS was put there by somebody else: RFC 3207 6. */
        if (c->state == CLIENT_SECURING)
            return (effects & ~(unsigned)CLIENT_START_TLS) |
                   fail_text(c, "4.7.0", "plaintext arrived");
        enum reply_status st = reply_feed(&c->parser, bytes, &used, &r);
        bytes.p += used;
        bytes.n -= used;
        if (st == REPLY_BAD)
            return effects | fail_text(c, "4.5.0", "the server sent what is no SMTP reply");
        if (st == REPLY_DONE)
            effects |= on_reply(c, &r);
        /* What the owner must do first comes before more input can be understood; the rest could
         * only be unsolicited. */
        if (bytes.n && (effects & (CLIENT_CAN_SEND | CLIENT_DONE)) && c->state == CLIENT_READY) {
            struct reply why;
            reply_set(&why, 0, "4.5.0", "the server sent a reply that nothing had asked for");
            return (effects & ~(unsigned)CLIENT_CAN_SEND) | fail(c, &why);
        }
    }
    if (c->state == CLIENT_CLOSED)
        effects &= ~(unsigned)(CLIENT_CAN_SEND | CLIENT_WANT_BODY | CLIENT_START_TLS);
    return effects;
}

unsigned smtp_client_secured(struct smtp_client *c)
{
    assert(c->state == CLIENT_SECURING);
    c->secured = true;
    reply_reset(&c->parser);
    return say(c, CLIENT_EHLO, "EHLO", c->helo);
}

/* Copies s, doubling each dot at the start of a line (RFC 5321 4.5.2). A line starts behind CRLF
 * only: a bare LF never is a line end here. */
static bool put_stuffed(struct smtp_client *c, struct slice s)
{
    const uint8_t *p = s.p, *end = s.p + s.n, *from = p;
    bool ok = true;
    while (ok && p < end) {
        if (c->line_pos == 2 && *p == '.') {
            ok = buf_append(&c->out, from, (size_t)(p - from)) && buf_append(&c->out, ".", 1);
            from = p;
        }
        if (c->line_pos == 1 && *p == '\n') {
            c->line_pos = 2;
            p++;
        } else if (*p == '\r') {
            c->line_pos = 1;
            p++;
        } else {
            c->line_pos = 0;
            const uint8_t *cr = memchr(p, '\r', (size_t)(end - p));
            p = cr ? cr : end;
        }
    }
    return ok && buf_append(&c->out, from, (size_t)(p - from));
}

unsigned smtp_client_body(struct smtp_client *c, struct slice piece, bool last)
{
    assert(c->state == CLIENT_BODY);
    bool ok = put_stuffed(c, piece);
    if (last && c->line_pos != 2)
        ok = ok && buf_append_str(&c->out, c->line_pos == 1 ? "\n" : "\r\n");
    if (!ok) {
        buf_clear(&c->out);
        return fail_text(c, "4.3.0", "a piece of the message exceeded its buffer");
    }
    if (!last)
        return CLIENT_WRITE | CLIENT_WANT_BODY;
    c->state = CLIENT_DOT_WAIT;
    return CLIENT_WRITE | CLIENT_WANT_DOT;
}

unsigned smtp_client_dot(struct smtp_client *c)
{
    assert(c->state == CLIENT_DOT_WAIT && c->tx);
    c->state = CLIENT_DOT_SENT;
    bool ok = buf_append_str(&c->out, ".\r\n");
    assert(ok);
    (void)ok;
    return CLIENT_WRITE;
}

unsigned smtp_client_stuck(struct smtp_client *c)
{
    assert((c->state == CLIENT_DOT_WAIT || c->state == CLIENT_DOT_SENT) && c->tx);
    c->state = CLIENT_BODY;
    return fail_text(c, "4.4.2", "the receiver took no more");
}

unsigned smtp_client_quit(struct smtp_client *c)
{
    if (c->state == CLIENT_READY)
        return say(c, CLIENT_QUITTING, "QUIT", "");
    if (c->state == CLIENT_CLOSED)
        return 0;
    struct reply r;
    reply_set(&r, 0, "4.3.2", "given up by ourselves");
    return fail(c, &r);
}
